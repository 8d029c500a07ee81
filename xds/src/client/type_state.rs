//! Everything that is known of one type: what is asked for, what is held, and what is to be answered.
//!
//! Invariant: responses of a type take effect in the order in which they came, whatever the order of
//! verdicts on them, and each is answered once (C-04). What they leave behind outlives the stream.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ResourceType;
use super::stats::{Stats, TypeStatus, UpdateError};
use super::subscription::{RanOut, Subscription, WILDCARD};
use super::timers::{TimerId, Timers};
use super::verdict::{self, Refusal, Rejection};
use crate::snapshot::Variant;

/// What a timer is for.
#[derive(Clone, Debug)]
pub(super) enum Timer {
    /// The wait for a name, or for `*`.
    Fetch(ResourceType, Arc<str>),
    /// The life of a resource.
    Ttl(ResourceType, Arc<str>),
}

/// One type.
#[derive(Debug)]
pub(super) struct TypeState {
    pub(super) kind: ResourceType,
    pub(super) subscription: Subscription,
    held: BTreeMap<Arc<str>, Held>,
    /// Aliases of what is held, with the names.
    known_as: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    /// Of the last response that was taken whole.
    version: Arc<str>,
    /// Of the last response that was answered on this stream.
    nonce: String,
    pending: VecDeque<Pending>,
    answers: VecDeque<Answer>,
    refusals: Refusals,
    pub(super) stats: Stats,
    updated_at: Option<Instant>,
    error: Option<UpdateError>,
}

/// A resource that was taken.
#[derive(Debug)]
struct Held {
    version: Arc<str>,
    aliases: Box<[Arc<str>]>,
    expiry: Option<TimerId>,
}

/// A response that has come and has not taken effect.
#[derive(Debug)]
pub(super) struct Pending {
    /// Counts over all types, in the order of receipt.
    pub(super) id: u64,
    /// `None` once its stream is gone: there is nobody left to answer.
    pub(super) nonce: Option<String>,
    pub(super) version: Arc<str>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) heartbeats: Vec<Candidate>,
    pub(super) removed: Vec<Arc<str>>,
    /// What is wrong with it; on receipt, and once it is judged.
    pub(super) rejections: Vec<Rejection>,
    /// It holds nothing but heartbeats.
    pub(super) alive_only: bool,
    pub(super) judged: Option<Judged>,
}

/// A verdict.
#[derive(Debug)]
pub(super) struct Judged {
    at: Instant,
    error: Option<String>,
}

/// A resource of a response, without its body.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) name: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) aliases: Box<[Arc<str>]>,
    pub(super) expires_at: Option<Instant>,
}

/// What is to be said of a response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) id: u64,
    pub(super) nonce: String,
    /// For the state-of-the-world variant: of the last response taken whole (S-03, S-04).
    pub(super) version: Arc<str>,
    /// Makes it a NACK.
    pub(super) error: Option<String>,
    /// How often this version was refused before.
    repeats: u32,
}

/// On what the pace of refusals depends.
#[derive(Debug, Default)]
struct Refusals {
    version: Option<Arc<str>>,
    repeats: u32,
    last_written: Option<Instant>,
}

/// A resource of a saved state.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SavedResource {
    /// Its name.
    pub name: Arc<str>,
    /// Its own version; empty in the state-of-the-world variant, unless it was wrapped.
    pub version: Arc<str>,
    /// Other names by which it was asked for.
    pub aliases: Box<[Arc<str>]>,
}

/// What is held of one type, for the next process or the next start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Saved {
    /// Of the last response that was taken whole.
    pub version: Arc<str>,
    /// Every resource that is held.
    pub resources: Vec<SavedResource>,
}

impl TypeState {
    pub(super) fn new(kind: ResourceType, variant: Variant) -> TypeState {
        TypeState {
            kind,
            subscription: Subscription::new(kind, variant),
            held: BTreeMap::new(),
            known_as: BTreeMap::new(),
            version: "".into(),
            nonce: String::new(),
            pending: VecDeque::new(),
            answers: VecDeque::new(),
            refusals: Refusals::default(),
            stats: Stats::default(),
            updated_at: None,
            error: None,
        }
    }

    pub(super) fn restore(&mut self, saved: Saved, timers: &mut Timers<Timer>) {
        self.version = saved.version;
        for SavedResource { name, version, aliases } in saved.resources {
            for name in aliases.iter().chain([&name]) {
                self.subscription.answered(name, timers);
            }
            self.hold(Candidate { name, version, aliases, expires_at: None }, timers);
        }
    }

    pub(super) fn saved(&self) -> Saved {
        let resources = self.held.iter().map(|(name, held)| SavedResource {
            name: Arc::clone(name),
            version: Arc::clone(&held.version),
            aliases: held.aliases.clone(),
        });
        Saved { version: Arc::clone(&self.version), resources: resources.collect() }
    }

    pub(super) fn status(&self) -> TypeStatus<'_> {
        TypeStatus {
            stats: &self.stats,
            version: &self.version,
            updated_at: self.updated_at,
            error: self.error.as_ref(),
            names: self.subscription.len(),
            wildcard: self.subscription.has_wildcard(),
            held: self.held.len(),
        }
    }

    /// Whether something of this name is held.
    pub(super) fn holds(&self, name: &str) -> bool {
        let is_alias = self.kind == ResourceType::VirtualHost && self.known_as.contains_key(name);
        self.held.contains_key(name) || is_alias
    }

    /// No longer asks for `name`. What is held for nothing else is forgotten, unless a wildcard is
    /// there: then the server says what becomes of it (D-09).
    pub(super) fn unsubscribe(&mut self, name: &str, timers: &mut Timers<Timer>) {
        if !self.subscription.remove(name, timers) || self.subscription.has_wildcard() {
            return;
        }
        let doubtful = match self.kind {
            _ if name == WILDCARD => self.held.keys().map(Arc::clone).collect(),
            ResourceType::VirtualHost => self.named_by(name),
            _ => vec![Arc::from(name)],
        };
        for name in doubtful {
            let wanted = |held: &Held| self.subscription.covers(&name, &held.aliases);
            if !self.held.get(&name).is_some_and(wanted) {
                self.release(&name, timers);
            }
        }
    }

    /// What is held by this name or alias, or by those before whose last slash it stands.
    fn named_by(&self, name: &str) -> Vec<Arc<str>> {
        let whole = format!("{name}/");
        let parts = (Bound::Included(&*whole), Bound::Unbounded);
        let held = self.held.range::<str, _>(parts).map(|(name, _)| name);
        let held = held.take_while(|name| name.starts_with(&whole));
        let known_as = self.known_as.range::<str, _>(parts);
        let known_as = known_as.take_while(|(alias, _)| alias.starts_with(&whole));
        let own = self.held.get_key_value(name).map(|(name, _)| name);
        let own = own.into_iter().chain(self.known_as.get(name).into_iter().flatten());
        held.chain(known_as.flat_map(|(_, names)| names)).chain(own).map(Arc::clone).collect()
    }

    /// The wait for a name has run out.
    pub(super) fn fetch_ran_out(&mut self, name: &str) -> Option<RanOut> {
        let why = self.subscription.ran_out(name)?;
        self.stats.update_attempt += 1;
        self.stats.init_fetch_timeout += 1;
        Some(why)
    }

    /// A name in the form in which it is kept already, if it is.
    pub(super) fn intern(&self, name: &str) -> Arc<str> {
        let held = || self.held.get_key_value(name).map(|(name, _)| name);
        self.subscription.kept(name).or_else(held).map_or_else(|| name.into(), Arc::clone)
    }

    /// How many more resources may come, and be new.
    pub(super) fn room(&self, max: usize) -> usize {
        let pending: usize = self.pending.iter().map(|pending| pending.candidates.len()).sum();
        max.saturating_sub(self.held.len()).saturating_sub(pending)
    }

    /// Whether a response waits for its verdict.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The version of a resource that is held.
    pub(super) fn held_version(&self, name: &str) -> Option<&Arc<str>> {
        self.held.get(name).map(|held| &held.version)
    }

    /// Names of what will be held when all verdicts are in and good.
    pub(super) fn names_to_be(&self) -> HashSet<&Arc<str>> {
        let mut names: HashSet<_> = self.held.keys().collect();
        for pending in &self.pending {
            names.extend(pending.candidates.iter().map(|candidate| &candidate.name));
            for name in &pending.removed {
                names.remove(name);
            }
        }
        names
    }

    /// Versions as they will be when all verdicts are in and good.
    pub(super) fn versions_to_be(&self) -> HashMap<&str, &Arc<str>> {
        let held = self.held.iter().map(|(name, held)| (&**name, &held.version));
        let mut versions: HashMap<_, _> = held.collect();
        for pending in &self.pending {
            for name in &pending.removed {
                versions.remove(&**name);
            }
            for candidate in &pending.candidates {
                versions.insert(&candidate.name, &candidate.version);
            }
        }
        versions
    }

    pub(super) fn version_to_be(&self) -> &Arc<str> {
        let sound = |pending: &&Pending| pending.rejections.is_empty();
        self.pending.iter().rev().find(sound).map_or(&self.version, |pending| &pending.version)
    }

    /// Keeps a response until there is a verdict on it.
    pub(super) fn push(&mut self, pending: Pending) {
        self.pending.push_back(pending);
    }

    /// The verdict on a response; `rejections` are added to those found on receipt. Returns what the
    /// server will be told, if it is not all well.
    pub(super) fn judge(
        &mut self,
        id: u64,
        rejections: Vec<Rejection>,
        now: Instant,
        timers: &mut Timers<Timer>,
    ) -> Option<Refusal> {
        let pending = self.pending.iter_mut().find(|pending| pending.id == id)?;
        pending.rejections.extend(rejections);
        let refusal = (!pending.rejections.is_empty()).then(|| {
            let text = verdict::text(self.kind, &pending.rejections);
            let version = Arc::clone(&pending.version);
            let before = self.error.as_ref();
            let repeated =
                before.is_some_and(|before| before.version == version && before.text == text);
            Refusal { kind: self.kind, version, text, repeated }
        });
        pending.judged =
            Some(Judged { at: now, error: refusal.as_ref().map(|refusal| refusal.text.clone()) });
        while self.pending.front().is_some_and(|pending| pending.judged.is_some())
            && let Some(pending) = self.pending.pop_front()
        {
            self.commit(pending, timers);
        }
        refusal
    }

    /// The life of `name` is over. Returns whether it was held.
    pub(super) fn expire(&mut self, name: &str, timers: &mut Timers<Timer>) -> bool {
        let expired = self.release(name, timers);
        self.stats.expired += u64::from(expired);
        expired
    }

    /// The stream is gone, and all nonces with it (C-03).
    pub(super) fn stream_ended(&mut self, timers: &mut Timers<Timer>) {
        self.subscription.stream_ended(timers);
        self.nonce.clear();
        self.answers.clear();
        self.refusals = Refusals::default();
        for pending in &mut self.pending {
            pending.nonce = None;
        }
    }

    /// A stream ended, or could not be had.
    pub(super) fn count_failure(&mut self) {
        if !self.subscription.is_empty() {
            self.stats.update_attempt += 1;
            self.stats.update_failure += 1;
        }
    }

    /// The next answer in order, if there is one: when its response came, and from when on it may go
    /// out if not at once.
    pub(super) fn next_answer(&self) -> Option<(u64, Option<Instant>)> {
        let answer = self.answers.front()?;
        let urgent = answer.repeats == 0
            || self.answers.len() > 1
            || self.has_unanswered()
            || (self.subscription.is_whole() && self.subscription.has_news());
        let due = self.refusals.last_written.filter(|_| !urgent);
        Some((answer.id, due.map(|last| last + repeat_delay(answer.repeats))))
    }

    /// Takes that answer, to be written now.
    pub(super) fn take_answer(&mut self, now: Instant) -> Option<Answer> {
        let answer = self.answers.pop_front()?;
        if answer.error.is_some() {
            self.refusals.last_written = Some(now);
        }
        self.nonce.clone_from(&answer.nonce);
        Some(answer)
    }

    /// Whether a request of its own is due.
    pub(super) fn has_news(&self) -> bool {
        let wait = if !self.subscription.is_requested() {
            // A first request says what is held. That must not change by verdicts that are still to
            // come on responses of a stream before: the server would never know.
            self.is_pending()
        } else {
            // In the state-of-the-world variant, changes ride on an answer if one will be sent (S-06):
            // of two requests the server would drop one.
            self.subscription.is_whole() && self.owes_answers()
        };
        self.subscription.has_news() && !wait
    }

    /// Whether a response of this stream has no answer yet.
    pub(super) fn owes_answers(&self) -> bool {
        !self.answers.is_empty() || self.has_unanswered()
    }

    /// Of the last answered response on this stream; empty before the first.
    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }

    /// Of the last response that was taken whole, on any stream.
    pub(super) fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// Names and versions of what is held and asked for (D-01).
    pub(super) fn versions(&self) -> impl Iterator<Item = (&str, &str)> {
        let wanted = self
            .held
            .iter()
            .filter(move |(name, held)| self.subscription.covers(name, &held.aliases));
        wanted.map(|(name, held)| (&**name, &*held.version))
    }

    /// Responses that wait for a verdict or for their answer to be written.
    pub(super) fn unfinished(&self) -> usize {
        self.pending.len() + self.answers.len()
    }

    fn has_unanswered(&self) -> bool {
        self.pending.iter().any(|pending| pending.nonce.is_some())
    }

    /// A judged response takes effect.
    fn commit(&mut self, pending: Pending, timers: &mut Timers<Timer>) {
        for name in &pending.removed {
            self.release(name, timers);
        }
        for heartbeat in pending.heartbeats {
            let held = self.held.get(&heartbeat.name);
            if held.is_some_and(|held| held.version == heartbeat.version) {
                self.set_expiry(&heartbeat.name, heartbeat.expires_at, timers);
            }
        }
        let rejected: HashSet<_> = pending.rejections.iter().map(|found| &*found.name).collect();
        for candidate in pending.candidates {
            if rejected.contains(&*candidate.name) {
                // V-03: the version before it lives on, and the server knows of it.
                self.set_expiry(&candidate.name, candidate.expires_at, timers);
            } else if self.subscription.covers(&candidate.name, &candidate.aliases) {
                self.hold(candidate, timers);
            }
        }
        let Some(Judged { at, error }) = pending.judged else { return };
        self.account(&pending.version, pending.alive_only, at, error.as_deref());
        if let Some(nonce) = pending.nonce {
            let (version, repeats) = (Arc::clone(&self.version), self.refusals.repeats);
            self.answers.push_back(Answer { id: pending.id, nonce, version, error, repeats });
        }
    }

    fn account(&mut self, version: &Arc<str>, alive_only: bool, at: Instant, error: Option<&str>) {
        let Some(error) = error else {
            self.version = Arc::clone(version);
            self.error = None;
            self.refusals = Refusals::default();
            if alive_only {
                self.stats.heartbeat += 1;
            } else {
                self.stats.update_attempt += 1;
                self.stats.update_success += 1;
                self.updated_at = Some(at);
            }
            return;
        };
        self.stats.update_attempt += 1;
        self.stats.update_rejected += 1;
        let again = self.refusals.version.as_ref() == Some(version);
        self.refusals.repeats = if again { self.refusals.repeats.saturating_add(1) } else { 0 };
        self.refusals.version = Some(Arc::clone(version));
        self.error = Some(UpdateError { version: Arc::clone(version), text: error.to_owned(), at });
    }

    fn hold(&mut self, candidate: Candidate, timers: &mut Timers<Timer>) {
        let Candidate { name, version, aliases, expires_at } = candidate;
        self.release(&name, timers);
        for alias in &aliases {
            self.known_as.entry(Arc::clone(alias)).or_default().push(Arc::clone(&name));
        }
        self.held.insert(Arc::clone(&name), Held { version, aliases, expiry: None });
        self.set_expiry(&name, expires_at, timers);
    }

    /// Returns whether it was held.
    fn release(&mut self, name: &str, timers: &mut Timers<Timer>) -> bool {
        let Some(Held { aliases, expiry, .. }) = self.held.remove(name) else { return false };
        if let Some(timer) = expiry {
            timers.disarm(timer);
        }
        for alias in &aliases {
            if let Some(names) = self.known_as.get_mut(alias) {
                names.retain(|known| **known != *name);
                if names.is_empty() {
                    self.known_as.remove(alias);
                }
            }
        }
        true
    }

    /// T-02: a copy with a time to live restarts the timer, one without cancels it.
    fn set_expiry(&mut self, name: &Arc<str>, at: Option<Instant>, timers: &mut Timers<Timer>) {
        let Some(held) = self.held.get_mut(name) else { return };
        if let Some(timer) = held.expiry.take() {
            timers.disarm(timer);
        }
        held.expiry = at.map(|at| timers.arm(at, Timer::Ttl(self.kind, Arc::clone(name))));
    }
}

/// How long a NACK of a version waits that was refused `repeats` times before.
fn repeat_delay(repeats: u32) -> Duration {
    let doublings = 1u32.checked_shl(repeats.saturating_sub(1)).unwrap_or(u32::MAX);
    REPEATED_NACK_DELAY.saturating_mul(doublings).min(REPEATED_NACK_DELAY_MAX)
}

/// A server that answers every NACK with the same version again (go-control-plane's snapshot cache does)
/// would be refused as fast as the machine allows. The first NACK of a version goes out at once, the
/// second waits this long, and so on, doubling.
const REPEATED_NACK_DELAY: Duration = Duration::from_millis(500);
/// Such a server tells of a correction only when the NACK is in.
const REPEATED_NACK_DELAY_MAX: Duration = Duration::from_secs(5);
