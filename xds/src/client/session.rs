//! The client's state machine: subscriptions in, requests out, responses in, updates out.
//!
//! Invariant: every response that is not ignored is answered exactly once on the stream it came by, and
//! what was accepted outlives the stream (C-03, C-04).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

use super::backoff::{self, Backoff};
use super::bucket::Bucket;
use super::incoming::Incoming;
use super::intake::{self, NameError, Resource, Sorted, check_name};
use super::message::{DeltaDiscoveryRequest, DiscoveryRequest, Request, Response, Status};
use super::stats::TypeStatus;
use super::subscription::{RanOut, WILDCARD};
use super::timers::Timers;
use super::type_state::{Answer, Pending, Saved, Timer, TypeState};
use super::verdict::{Refusal, Rejection};
use super::{Limits, ResourceType};
use crate::snapshot::{ApiConfigSource, RateLimit, Variant};

/// How a client behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Leave the node out of all but a stream's first message (C-01).
    pub set_node_on_first_message_only: bool,
    /// A bound on requests; `None` is none (C-13).
    pub rate_limit: Option<RateLimit>,
    /// First and longest wait between streams (F-02).
    pub backoff: (Duration, Duration),
    /// Let resources expire. To be set if, and only if, the node says so to the server (T-01).
    pub honour_ttl: bool,
    /// Bounds on what a server can make us keep.
    pub limits: Limits,
}

/// A client of one stream, aggregated or of one type.
#[derive(Debug)]
pub struct Client {
    variant: Variant,
    /// Encoded.
    node: Bytes,
    options: Options,
    types: [TypeState; ResourceType::ALL.len()],
    timers: Timers<Timer>,
    stream: Option<Stream>,
    backoff: Backoff,
    bucket: Option<Bucket>,
    next_id: u64,
    control_plane: String,
    ignored: u64,
}

#[derive(Debug, Default)]
struct Stream {
    node_sent: bool,
}

/// What becomes of a response.
#[derive(Debug)]
pub enum Received {
    /// The store has to look at it, and to [`answer`](Client::answer).
    Update(Update),
    /// Only signs of life: it answers itself (T-03).
    Heartbeat(ResourceType),
    /// It will be answered with a NACK; nothing of it can be used.
    Refused(Refusal),
    /// A type that was never asked for on this stream: there is no answer (C-10).
    Ignored {
        /// What it is about.
        type_url: String,
    },
}

/// Resources for the store.
#[derive(Debug)]
pub struct Update {
    /// Their type.
    pub kind: ResourceType,
    /// Of the response.
    pub version: Arc<str>,
    /// To be read, each for itself. Empty updates are answered, too.
    pub resources: Vec<Resource>,
    /// What is gone, and what was asked for and does not exist.
    pub removed: Vec<Arc<str>>,
    /// For [`Client::answer`]. A response whose token is lost blocks all later ones of its type.
    pub token: Token,
}

/// A response that has to be answered; whoever has it answers once.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "a response has to be answered"]
pub struct Token {
    kind: ResourceType,
    id: u64,
}

/// A name for which waiting, or living, is over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expired {
    /// The type.
    pub kind: ResourceType,
    /// The name; `None` is everything ([`Client::subscribe_all`]).
    pub name: Option<Arc<str>>,
    /// What is over.
    pub why: Why,
}

/// Why something is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// It was asked for, and nothing came in time: it does not exist (S-12).
    NeverCame,
    /// There was no stream to ask by in that time (W-08): whoever waits goes on without. It is still
    /// asked for, as soon as that is possible.
    Unreachable,
    /// Its time to live is over: as if it had been removed (T-04).
    Ttl,
}

/// The stream cannot go on; it has to be closed, and [`Client::disconnected`] called.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum StreamError {
    /// There is none.
    #[error("no stream is open")]
    Closed,
    /// A response of the other variant.
    #[error("a response of the other variant")]
    Variant,
    /// More than [`Limits::nonce_bytes`]: it would have to be sent back.
    #[error("a nonce of {0} bytes")]
    Nonce(usize),
    /// A response was given to a client that [could not take it](Client::can_receive).
    #[error("more than {0} responses without an answer")]
    Unanswered(usize),
}

/// A name that cannot be asked for.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum SubscribeError {
    /// It is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// More than [`Limits::names`] of its type.
    #[error("is one name too many")]
    TooMany,
    /// The state-of-the-world variant has no way to ask for a virtual host.
    #[error("needs the delta variant of xDS")]
    DeltaOnly,
}

impl Options {
    /// As a source of configuration says; the back-off is that of its first server.
    #[must_use]
    pub fn of(source: &ApiConfigSource, honour_ttl: bool) -> Options {
        let defaults = Options::default();
        Options {
            set_node_on_first_message_only: source.set_node_on_first_message_only,
            rate_limit: source.rate_limit,
            backoff: source.services.first().map_or(defaults.backoff, |service| service.backoff),
            honour_ttl,
            limits: defaults.limits,
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            set_node_on_first_message_only: false,
            rate_limit: None,
            backoff: (backoff::BASE, backoff::MAX),
            honour_ttl: true,
            limits: Limits::default(),
        }
    }
}

impl Client {
    /// A client that asks for nothing yet. `node` is an encoded `envoy.config.core.v3.Node`.
    #[must_use]
    pub fn new(variant: Variant, node: Bytes, options: Options) -> Client {
        Client {
            variant,
            node,
            types: ResourceType::ALL.map(|kind| TypeState::new(kind, variant)),
            timers: Timers::new(),
            stream: None,
            backoff: Backoff::new(options.backoff.0, options.backoff.1),
            bucket: options.rate_limit.map(Bucket::new),
            next_id: 0,
            control_plane: String::new(),
            ignored: 0,
            options,
        }
    }

    /// Takes what an earlier client held, so that the server sends only what is different. To be called
    /// before anything is asked for.
    pub fn restore(&mut self, kind: ResourceType, mut saved: Saved) {
        let Limits { resources, name_bytes, version_bytes, .. } = self.options.limits;
        saved.resources.truncate(resources);
        saved.resources.retain(|resource| {
            resource.name.len() <= name_bytes && resource.version.len() <= version_bytes
        });
        self.types[kind as usize].restore(saved, &mut self.timers);
    }

    /// Asks for a resource. `fetch_timeout` bounds the wait for it (W-08); `None` waits for ever.
    /// What is asked for already stays as it is.
    ///
    /// # Errors
    /// See [`SubscribeError`]; what refers to that name is at fault.
    pub fn subscribe(
        &mut self,
        kind: ResourceType,
        name: &str,
        fetch_timeout: Option<Duration>,
        now: Instant,
    ) -> Result<(), SubscribeError> {
        check_name(name, &self.options.limits)?;
        if kind.is_delta_only() && self.variant == Variant::StateOfTheWorld {
            return Err(SubscribeError::DeltaOnly);
        }
        let state = &self.types[kind as usize];
        let known = state.subscription.kept(name).is_some();
        if !known && state.subscription.len() >= self.options.limits.names {
            return Err(SubscribeError::TooMany);
        }
        let (name, present) = (state.intern(name), state.holds(name));
        self.add(kind, &name, present, fetch_timeout, now);
        Ok(())
    }

    /// Asks for every resource of a type. Waiting is for the first response.
    pub fn subscribe_all(
        &mut self,
        kind: ResourceType,
        fetch_timeout: Option<Duration>,
        now: Instant,
    ) {
        self.add(kind, &Arc::from(WILDCARD), false, fetch_timeout, now);
    }

    /// No longer asks for a resource, which is forgotten here at once (but see D-09).
    pub fn unsubscribe(&mut self, kind: ResourceType, name: &str) {
        self.types[kind as usize].unsubscribe(name, &mut self.timers);
    }

    /// No longer asks for everything; names that are asked for stay.
    pub fn unsubscribe_all(&mut self, kind: ResourceType) {
        self.unsubscribe(kind, WILDCARD);
    }

    /// Asks again for a resource that is asked for, and waits for it again: a cluster that warms once
    /// more needs its endpoints, changed or not (W-05). Not every server answers; if it is
    /// [`Why::NeverCame`], what is held is still good.
    pub fn resubscribe(
        &mut self,
        kind: ResourceType,
        name: &str,
        fetch_timeout: Option<Duration>,
        now: Instant,
    ) {
        let state = &mut self.types[kind as usize];
        let name = state.intern(name);
        state.subscription.again(&name, fetch_timeout, now, &mut self.timers);
    }

    /// A stream is open, and nothing was sent by it.
    pub fn connected(&mut self) {
        self.end_stream();
        self.stream = Some(Stream::default());
    }

    /// The stream is over, or there was none to be had. Returns how long to wait before the next try;
    /// `random` spreads that (F-02).
    pub fn disconnected(&mut self, random: u64) -> Duration {
        self.end_stream();
        for state in &mut self.types {
            state.count_failure();
        }
        self.backoff.next(random)
    }

    /// Whether another response may be read. If not, the driver leaves the stream alone, so that the
    /// server's sending stops too, until answers are given and written.
    #[must_use]
    pub fn can_receive(&self) -> bool {
        self.unfinished() < self.options.limits.unanswered
    }

    /// Takes a response.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub fn receive(&mut self, response: Response, now: Instant) -> Result<Received, StreamError> {
        if self.stream.is_none() {
            return Err(StreamError::Closed);
        }
        if !matches!(
            (&response, self.variant),
            (Response::Sotw(_), Variant::StateOfTheWorld) | (Response::Delta(_), Variant::Delta)
        ) {
            return Err(StreamError::Variant);
        }
        if !self.can_receive() {
            return Err(StreamError::Unanswered(self.options.limits.unanswered));
        }
        let mut incoming = Incoming::read(response);
        if incoming.nonce.len() > self.options.limits.nonce_bytes {
            return Err(StreamError::Nonce(incoming.nonce.len()));
        }
        self.backoff.reset();
        if let Some(identifier) = incoming.control_plane.take() {
            self.control_plane = identifier;
            let end = self.control_plane.floor_char_boundary(CONTROL_PLANE_BYTES_MAX);
            self.control_plane.truncate(end);
        }
        match self.asked_type(&incoming.type_url) {
            Some(kind) => Ok(self.take(kind, incoming, now)),
            None => {
                self.ignored += 1;
                Ok(Received::Ignored { type_url: incoming.type_url })
            }
        }
    }

    /// The verdict on an update. What is not among `rejected` is accepted, and must be in use or on its
    /// way to be (F-06); of a resource that is rejected, the version before stays (V-02, V-03).
    /// Returns what the server will be told, if it is not all well.
    #[expect(clippy::needless_pass_by_value, reason = "a token is spent")]
    pub fn answer(
        &mut self,
        token: Token,
        rejected: Vec<Rejection>,
        now: Instant,
    ) -> Option<Refusal> {
        self.types[token.kind as usize].judge(token.id, rejected, now, &mut self.timers)
    }

    /// The next message to write, if there is one that may be written now. To be called until there is
    /// none, after everything that changes something.
    pub fn next_request(&mut self, now: Instant) -> Option<Request> {
        let first = self.stream.as_ref().map(|stream| !stream.node_sent)?;
        let next = self.next(now)?;
        if self.bucket.as_mut().is_some_and(|bucket| !bucket.take(now)) {
            return None;
        }
        let with_node = first || !self.options.set_node_on_first_message_only;
        let node = if with_node { self.node.clone() } else { Bytes::new() };
        self.stream = Some(Stream { node_sent: true });
        let (Next::Answer(kind) | Next::News(kind)) = next;
        let (state, timers) = (&mut self.types[kind as usize], &mut self.timers);
        let answer = match next {
            Next::Answer(_) => state.take_answer(now),
            Next::News(_) => None,
        };
        Some(match self.variant {
            Variant::StateOfTheWorld => {
                let latest = !state.owes_answers();
                let names = state.subscription.write_all(latest, now, timers);
                Request::Sotw(sotw(state, answer, node), names)
            }
            Variant::Delta => Request::Delta(delta(state, answer, node, now, timers)),
        })
    }

    /// When to call [`next_request`](Client::next_request) and [`expire`](Client::expire) again if
    /// nothing happens until then; it may be past. To be asked when there is no next request.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let (mut ready, mut held_back) = (false, None::<Instant>);
        for state in self.types.iter().filter(|_| self.stream.is_some()) {
            match state.next_answer() {
                Some((_, Some(due))) => {
                    held_back = Some(held_back.map_or(due, |other| other.min(due)));
                }
                Some((_, None)) => ready = true,
                None => {}
            }
            ready |= state.has_news();
        }
        let token = self.bucket.as_ref().filter(|_| ready).and_then(Bucket::ready_at);
        [token, held_back, self.timers.first()].into_iter().flatten().min()
    }

    /// What is over by now.
    pub fn expire(&mut self, now: Instant) -> Vec<Expired> {
        let mut expired = Vec::new();
        while let Some(timer) = self.timers.pop_due(now) {
            let (Timer::Fetch(kind, _) | Timer::Ttl(kind, _)) = timer;
            let state = &mut self.types[kind as usize];
            let (name, why) = match timer {
                Timer::Fetch(_, name) => match state.fetch_ran_out(&name) {
                    Some(RanOut::Silence) => (name, Why::NeverCame),
                    Some(RanOut::Unreachable) => (name, Why::Unreachable),
                    None => continue,
                },
                Timer::Ttl(_, name) if state.expire(&name, &mut self.timers) => (name, Why::Ttl),
                Timer::Ttl(..) => continue,
            };
            let name = Some(name).filter(|name| **name != *WILDCARD);
            expired.push(Expired { kind, name, why });
        }
        expired
    }

    /// What is held of a type, to be [restored](Client::restore) elsewhere.
    #[must_use]
    pub fn saved(&self, kind: ResourceType) -> Saved {
        self.types[kind as usize].saved()
    }

    /// What is to be seen of a type.
    #[must_use]
    pub fn status(&self, kind: ResourceType) -> TypeStatus<'_> {
        self.types[kind as usize].status()
    }

    /// Names of a type that no answer has come for: what a warm-up waits for.
    pub fn waiting(&self, kind: ResourceType) -> impl Iterator<Item = &str> {
        self.types[kind as usize].subscription.waiting().map(|name| &**name)
    }

    /// Who the last response came from (C-14); empty if it did not say.
    #[must_use]
    pub fn control_plane(&self) -> &str {
        &self.control_plane
    }

    /// Which variant is spoken.
    #[must_use]
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Whether a stream is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Responses of types that were never asked for on their stream (C-10).
    #[must_use]
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn add(
        &mut self,
        kind: ResourceType,
        name: &Arc<str>,
        present: bool,
        fetch_timeout: Option<Duration>,
        now: Instant,
    ) {
        let state = &mut self.types[kind as usize];
        if state.subscription.is_empty() {
            state.stats.update_attempt += 1;
        }
        state.subscription.add(name, present, fetch_timeout, now, &mut self.timers);
    }

    fn end_stream(&mut self) {
        self.stream = None;
        for state in &mut self.types {
            state.stream_ended(&mut self.timers);
        }
    }

    fn asked_type(&self, type_url: &str) -> Option<ResourceType> {
        let kind = ResourceType::of_url(type_url)?;
        self.types[kind as usize].subscription.is_requested().then_some(kind)
    }

    /// Takes a response of a type that was asked for.
    fn take(&mut self, kind: ResourceType, mut incoming: Incoming, now: Instant) -> Received {
        let id = self.next_id;
        self.next_id += 1;
        let Limits { version_bytes, .. } = self.options.limits;
        if incoming.version.len() > version_bytes {
            return self.refuse(id, kind, incoming, "version_info: is too long".to_owned(), now);
        }
        if let Some((at, stray)) = incoming.stray(kind) {
            // C-08.
            let stray = &stray[..stray.floor_char_boundary(version_bytes)];
            let reason = format!("resources[{at}]: is a {stray:?}");
            return self.refuse(id, kind, incoming, reason, now);
        }
        let nonce = Some(std::mem::take(&mut incoming.nonce));
        let version: Arc<str> = incoming.version.as_str().into();
        let state = &mut self.types[kind as usize];
        let sorted = intake::sort(incoming, state, self.variant, &self.options, now);
        let alive_only = sorted.is_alive_only();
        state.subscription.answered(WILDCARD, &mut self.timers);
        for name in &sorted.answered {
            state.subscription.answered(name, &mut self.timers);
        }
        state.stats.unsolicited += sorted.unsolicited.len() as u64;
        for name in sorted.unsolicited {
            state.subscription.lingers(name);
        }
        state.subscription.response_came();
        let Sorted { resources, candidates, heartbeats, removed, rejections, .. } = sorted;
        state.push(Pending {
            id,
            nonce,
            version: Arc::clone(&version),
            candidates,
            heartbeats,
            removed: removed.clone(),
            rejections,
            alive_only,
            judged: None,
        });
        if alive_only {
            state.judge(id, Vec::new(), now, &mut self.timers);
            return Received::Heartbeat(kind);
        }
        Received::Update(Update { kind, version, resources, removed, token: Token { kind, id } })
    }

    /// Answers a response of which nothing can be used.
    fn refuse(
        &mut self,
        id: u64,
        kind: ResourceType,
        incoming: Incoming,
        reason: String,
        now: Instant,
    ) -> Received {
        let Incoming { type_url, version, nonce, .. } = incoming;
        let version = &version[..version.floor_char_boundary(self.options.limits.version_bytes)];
        let state = &mut self.types[kind as usize];
        state.push(Pending {
            id,
            nonce: Some(nonce),
            version: version.into(),
            candidates: Vec::new(),
            heartbeats: Vec::new(),
            removed: Vec::new(),
            rejections: vec![Rejection::new("", reason)],
            alive_only: false,
            judged: None,
        });
        match state.judge(id, Vec::new(), now, &mut self.timers) {
            Some(refusal) => Received::Refused(refusal),
            // Cannot be: what was just put there is judged.
            None => Received::Ignored { type_url },
        }
    }

    /// What is to be said next: answers before anything else, in the order of their responses.
    fn next(&self, now: Instant) -> Option<Next> {
        let answers = self.types.iter().filter_map(|state| {
            let (id, due) = state.next_answer()?;
            due.is_none_or(|due| due <= now).then_some((id, state.kind))
        });
        if let Some((_, kind)) = answers.min() {
            return Some(Next::Answer(kind));
        }
        let news = self.types.iter().find(|state| state.has_news());
        news.map(|state| Next::News(state.kind))
    }

    fn unfinished(&self) -> usize {
        self.types.iter().map(TypeState::unfinished).sum()
    }
}

/// What a request is for.
#[derive(Clone, Copy)]
enum Next {
    Answer(ResourceType),
    /// Something else is asked for.
    News(ResourceType),
}

/// S-01 to S-06.
fn sotw(state: &TypeState, answer: Option<Answer>, node: Bytes) -> DiscoveryRequest {
    let (version, nonce, error) = match answer {
        Some(answer) => (answer.version, answer.nonce, answer.error),
        None => (Arc::clone(state.version()), state.nonce().to_owned(), None),
    };
    DiscoveryRequest {
        version_info: version.as_ref().into(),
        node,
        resource_names: Vec::new(),
        type_url: state.kind.type_url().to_owned(),
        response_nonce: nonce,
        error_detail: error.map(invalid_argument),
    }
}

/// D-01 to D-05.
fn delta(
    state: &mut TypeState,
    answer: Option<Answer>,
    node: Bytes,
    now: Instant,
    timers: &mut Timers<Timer>,
) -> DeltaDiscoveryRequest {
    let mut request = DeltaDiscoveryRequest {
        node,
        type_url: state.kind.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    if let Some(answer) = answer {
        request.response_nonce = answer.nonce;
        request.error_detail = answer.error.map(invalid_argument);
    } else if state.subscription.is_requested() {
        (request.resource_names_subscribe, request.resource_names_unsubscribe) =
            state.subscription.write_changes(now, timers);
    } else {
        let versions = state.versions().map(|(name, version)| (name.into(), version.into()));
        request.initial_resource_versions = versions.collect();
        let names = state.subscription.write_all(true, now, timers);
        request.resource_names_subscribe = names.iter().map(str::to_owned).collect();
    }
    request
}

/// V-01.
fn invalid_argument(message: String) -> Status {
    Status { code: INVALID_ARGUMENT, message }
}

const INVALID_ARGUMENT: i32 = 3;

/// Of what a control plane calls itself.
const CONTROL_PLANE_BYTES_MAX: usize = 1024;
