//! What is asked for of one type, how much of that the server knows, and how long to wait for it.
//!
//! Invariant: what the last message on the stream said, and the differences kept here, add up to what
//! is asked for now; nothing is lost when a stream ends, because a first message says everything.
//!
//! In the state-of-the-world variant a server drops a request that crosses a response, with the change
//! of names that is in it (S-06). So a name that was given up and is asked for again may never have been
//! gone for the server, which then has no reason to send what was forgotten here. Such names are
//! suspects: they are left out of a message before they are in one, and again after every response,
//! until something comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ResourceType;
use super::message::Names;
use super::timers::{TimerId, Timers};
use super::type_state::Timer;
use crate::snapshot::Variant;

/// The subscription of one type. `*` stands for the wildcard.
#[derive(Debug)]
pub(super) struct Subscription {
    kind: ResourceType,
    variant: Variant,
    names: BTreeMap<Arc<str>, Want>,
    wildcard: Option<Want>,
    /// A request of this type went out on this stream.
    requested: bool,
    /// One that held a name or `*`: from then on an empty list means nothing (S-10).
    named: bool,
    /// To be asked for in the next message, maybe once more (W-05).
    subscribe: BTreeSet<Arc<str>>,
    /// To be taken back in the next message. No name is in both.
    unsubscribe: BTreeSet<Arc<str>>,
    /// Names that nobody asks for, and of which the server may think that we have them.
    lingering: BTreeSet<Arc<str>>,
    suspects: BTreeMap<Arc<str>, Suspect>,
    /// What the last message of everything said, while the next one has nothing else to say: an answer to
    /// a response of one resource does not cost what ten thousand names cost.
    written: Option<Names>,
}

/// A name that the server may not have seen go.
#[derive(Debug)]
struct Suspect {
    /// It is not in the next message, but in the one after that.
    omit: bool,
    rounds: u32,
}

/// Something that is asked for.
#[derive(Debug)]
struct Want {
    /// The server was told on this stream.
    sent: bool,
    /// Until an answer comes.
    wait: Option<Wait>,
}

/// Waiting for an answer, for a bounded time.
#[derive(Debug)]
struct Wait {
    since: Instant,
    /// `None`: for ever.
    patience: Option<Duration>,
    timer: Option<TimerId>,
    /// The request is written and its stream is up.
    asked: bool,
    /// It was already told that the server could not be asked.
    gave_up: bool,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RanOut {
    /// It was asked for, and no answer came.
    Silence,
    /// It could not be asked for.
    Unreachable,
}

impl Subscription {
    pub(super) fn new(kind: ResourceType, variant: Variant) -> Subscription {
        Subscription {
            kind,
            variant,
            names: BTreeMap::new(),
            wildcard: None,
            requested: false,
            named: false,
            subscribe: BTreeSet::new(),
            unsubscribe: BTreeSet::new(),
            lingering: BTreeSet::new(),
            suspects: BTreeMap::new(),
            written: None,
        }
    }

    /// Asks for `name`, or for everything if that is `*`. `present`: there is no need to wait for it.
    pub(super) fn add(
        &mut self,
        name: &Arc<str>,
        present: bool,
        patience: Option<Duration>,
        now: Instant,
        timers: &mut Timers<Timer>,
    ) {
        if self.want(name).is_some() {
            return;
        }
        self.written = None;
        let wait = (!present).then(|| Wait::begin(patience, now, self.timer(name), timers));
        // What was to be taken back is known to the server.
        let sent = self.unsubscribe.remove(name);
        let want = Want { sent, wait };
        if self.lingering.contains(name) && !present {
            self.suspects.insert(Arc::clone(name), Suspect { omit: true, rounds: 0 });
        }
        if is_wildcard(name) {
            self.wildcard = Some(want);
        } else {
            self.names.insert(Arc::clone(name), want);
        }
        if self.requested {
            self.subscribe.insert(Arc::clone(name));
        }
    }

    /// Asks for it again, to have it sent again (W-05, D-06).
    pub(super) fn again(
        &mut self,
        name: &Arc<str>,
        patience: Option<Duration>,
        now: Instant,
        timers: &mut Timers<Timer>,
    ) {
        self.written = None;
        let key = self.timer(name);
        let Some(want) = self.want_mut(name) else { return };
        want.satisfy(timers);
        want.wait = Some(Wait::begin(patience, now, key, timers));
        if self.requested {
            self.subscribe.insert(Arc::clone(name));
        }
    }

    /// No longer asks for `name`. Returns whether it did before.
    pub(super) fn remove(&mut self, name: &str, timers: &mut Timers<Timer>) -> bool {
        let removed = if is_wildcard(name) {
            self.wildcard.take().map(|want| (name.into(), want))
        } else {
            self.names.remove_entry(name)
        };
        let Some((name, mut want)) = removed else { return false };
        self.written = None;
        want.satisfy(timers);
        self.suspects.remove(&name);
        self.subscribe.remove(&name);
        if self.requested {
            self.lingers(Arc::clone(&name));
        }
        if want.sent {
            self.unsubscribe.insert(name);
        }
        if self.is_whole() && self.is_empty() && !self.named {
            // S-10: who knows the wildcard only by an empty list cannot be told by one that it is over.
            self.unsubscribe.clear();
        }
        true
    }

    /// An answer for `name` has come.
    pub(super) fn answered(&mut self, name: &str, timers: &mut Timers<Timer>) {
        self.suspects.remove(name);
        self.lingering.remove(name);
        if let Some(want) = self.want_mut(name) {
            want.satisfy(timers);
        }
    }

    /// The server has sent this, or may have, and nobody asks for it: it will not come by being asked for.
    pub(super) fn lingers(&mut self, name: Arc<str>) {
        if self.is_whole() && self.lingering.len() < LINGERING_MAX {
            self.lingering.insert(name);
        }
    }

    /// A response has come, and what it answers has been [`answered`](Subscription::answered). The
    /// last requests may have crossed it.
    pub(super) fn response_came(&mut self) {
        self.suspects.retain(|name, suspect| {
            suspect.omit = true;
            suspect.rounds += 1;
            let doubtful = suspect.rounds < ROUNDS_MAX;
            if doubtful {
                self.subscribe.insert(Arc::clone(name));
            }
            doubtful
        });
    }

    /// The wait for `name` has run out.
    pub(super) fn ran_out(&mut self, name: &str) -> Option<RanOut> {
        let want = self.want_mut(name)?;
        let wait = want.wait.as_mut()?;
        wait.timer = None;
        if !wait.asked {
            wait.gave_up = true;
            return Some(RanOut::Unreachable);
        }
        want.wait = None;
        Some(RanOut::Silence)
    }

    /// Forgets what the server knew. Waits go on, until the server can be asked again.
    pub(super) fn stream_ended(&mut self, timers: &mut Timers<Timer>) {
        self.requested = false;
        self.named = false;
        self.subscribe.clear();
        self.unsubscribe.clear();
        self.lingering.clear();
        self.suspects.clear();
        self.written = None;
        let (kind, star) = (self.kind, Arc::from(WILDCARD));
        let all = self.names.iter_mut().chain(self.wildcard.as_mut().map(|want| (&star, want)));
        for (name, want) in all {
            want.sent = false;
            if let Some(wait) = want.wait.as_mut().filter(|wait| wait.asked) {
                wait.unasked(Timer::Fetch(kind, Arc::clone(name)), timers);
            }
        }
    }

    /// The whole of it, as in every state-of-the-world message (S-06) and in a stream's first delta
    /// message (D-01, D-07); but for suspects, which wait for the message after this. `latest`: there
    /// is no later response that the message could have crossed, as far as is known.
    pub(super) fn write_all(
        &mut self,
        latest: bool,
        now: Instant,
        timers: &mut Timers<Timer>,
    ) -> Names {
        if let Some(written) = &self.written {
            return written.clone();
        }
        self.unsubscribe.clear();
        let omitted = |name: &str| self.suspects.get(name).is_some_and(|suspect| suspect.omit);
        let mut list = Vec::with_capacity(self.names.len() + 1);
        if let Some(want) = self.wildcard.as_mut().filter(|_| !omitted(WILDCARD)) {
            want.written(self.kind, &WILDCARD.into(), now, timers);
            if !self.names.is_empty() || self.named || !self.kind.has_implied_wildcard() {
                list.push(WILDCARD);
            }
        }
        for (name, want) in self.names.iter_mut().filter(|(name, _)| !omitted(name)) {
            want.written(self.kind, name, now, timers);
            list.push(&**name);
        }
        let list: Names = list.into_iter().collect();
        self.subscribe.clear();
        for (name, suspect) in self.suspects.iter_mut().filter(|(_, suspect)| suspect.omit) {
            suspect.omit = !latest;
            self.subscribe.insert(Arc::clone(name));
        }
        self.requested = true;
        self.named |= !list.is_empty();
        // Suspects come and go from one message to the next.
        self.written = self.suspects.is_empty().then(|| list.clone());
        list
    }

    /// What later delta messages ask for, and what they take back (D-05).
    pub(super) fn write_changes(
        &mut self,
        now: Instant,
        timers: &mut Timers<Timer>,
    ) -> (Vec<String>, Vec<String>) {
        let subscribe = std::mem::take(&mut self.subscribe);
        let unsubscribe = std::mem::take(&mut self.unsubscribe);
        let kind = self.kind;
        for name in &subscribe {
            if let Some(want) = self.want_mut(name) {
                want.written(kind, name, now, timers);
            }
        }
        let text = |names: BTreeSet<Arc<str>>| names.iter().map(|name| (**name).into()).collect();
        (text(subscribe), text(unsubscribe))
    }

    /// Whether there is something that a message has to say.
    pub(super) fn has_news(&self) -> bool {
        if self.requested {
            !self.subscribe.is_empty() || !self.unsubscribe.is_empty()
        } else {
            !self.is_empty()
        }
    }

    /// Whether a request of this type went out on this stream.
    pub(super) fn is_requested(&self) -> bool {
        self.requested
    }

    /// Whether every message says everything: the state-of-the-world variant.
    pub(super) fn is_whole(&self) -> bool {
        self.variant == Variant::StateOfTheWorld
    }

    /// Whether nothing is asked for.
    pub(super) fn is_empty(&self) -> bool {
        self.wildcard.is_none() && self.names.is_empty()
    }

    /// Whether everything is asked for.
    pub(super) fn has_wildcard(&self) -> bool {
        self.wildcard.is_some()
    }

    /// Whether a resource of these names is asked for (D-13).
    pub(super) fn covers(&self, name: &str, aliases: &[Arc<str>]) -> bool {
        self.wildcard.is_some() || self.names_any(name, aliases)
    }

    /// As [`Subscription::covers`], the wildcard apart.
    pub(super) fn names_any(&self, name: &str, aliases: &[Arc<str>]) -> bool {
        let is_asked = |name: &str| self.names.contains_key(name) || self.whole(name).is_some();
        is_asked(name) || aliases.iter().any(|alias| is_asked(alias))
    }

    /// The name, as it is kept, by which this and all others before whose last slash it stands were
    /// asked for: virtual hosts, by the name of their route configuration.
    pub(super) fn whole(&self, name: &str) -> Option<&Arc<str>> {
        let (whole, _) =
            name.rsplit_once('/').filter(|_| self.kind == ResourceType::VirtualHost)?;
        self.kept(whole)
    }

    /// The name as it is kept, if it is asked for.
    pub(super) fn kept(&self, name: &str) -> Option<&Arc<str>> {
        self.names.get_key_value(name).map(|(name, _)| name)
    }

    /// Names that no answer has come for.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.iter().filter(|(_, want)| want.wait.is_some()).map(|(name, _)| name)
    }

    /// How many names are asked for.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    fn timer(&self, name: &Arc<str>) -> Timer {
        Timer::Fetch(self.kind, Arc::clone(name))
    }

    fn want(&self, name: &str) -> Option<&Want> {
        if is_wildcard(name) { self.wildcard.as_ref() } else { self.names.get(name) }
    }

    fn want_mut(&mut self, name: &str) -> Option<&mut Want> {
        if is_wildcard(name) { self.wildcard.as_mut() } else { self.names.get_mut(name) }
    }
}

impl Want {
    fn written(
        &mut self,
        kind: ResourceType,
        name: &Arc<str>,
        now: Instant,
        timers: &mut Timers<Timer>,
    ) {
        self.sent = true;
        if let Some(wait) = self.wait.as_mut().filter(|wait| !wait.asked) {
            wait.asked(now, Timer::Fetch(kind, Arc::clone(name)), timers);
        }
    }

    fn satisfy(&mut self, timers: &mut Timers<Timer>) {
        if let Some(timer) = self.wait.take().and_then(|wait| wait.timer) {
            timers.disarm(timer);
        }
    }
}

impl Wait {
    fn begin(
        patience: Option<Duration>,
        now: Instant,
        key: Timer,
        timers: &mut Timers<Timer>,
    ) -> Wait {
        let mut wait = Wait { since: now, patience, timer: None, asked: false, gave_up: false };
        wait.arm(now, key, timers);
        wait
    }

    /// S-12: from now on the server has had the chance to answer.
    fn asked(&mut self, now: Instant, key: Timer, timers: &mut Timers<Timer>) {
        self.asked = true;
        self.arm(now, key, timers);
    }

    /// W-08: the bound holds from the beginning, if the server cannot be asked.
    fn unasked(&mut self, key: Timer, timers: &mut Timers<Timer>) {
        self.asked = false;
        self.arm(self.since, key, timers);
    }

    fn arm(&mut self, from: Instant, key: Timer, timers: &mut Timers<Timer>) {
        if let Some(timer) = self.timer.take() {
            timers.disarm(timer);
        }
        let at = self.patience.and_then(|patience| from.checked_add(patience));
        if let Some(at) = at.filter(|_| self.asked || !self.gave_up) {
            self.timer = Some(timers.arm(at, key));
        }
    }
}

fn is_wildcard(name: &str) -> bool {
    name == WILDCARD
}

/// Names given up on one stream that are remembered. Past that, a name that is asked for again during a
/// crossing may have to wait for its next change.
const LINGERING_MAX: usize = 1 << 16;
/// Responses after which a suspect is believed not to exist.
const ROUNDS_MAX: u32 = 8;

/// How the wildcard is written.
pub(super) const WILDCARD: &str = "*";
