//! Deadlines of many things, of which the next is always known.

use std::collections::BTreeMap;
use std::time::Instant;

/// What to do when. As many entries as armed timers, no matter how often one is moved.
#[derive(Debug)]
pub(super) struct Timers<K> {
    queue: BTreeMap<TimerId, K>,
    next: u64,
}

/// An armed timer. The number tells apart those that are due at once.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct TimerId(Instant, u64);

impl<K> Timers<K> {
    pub(super) fn new() -> Timers<K> {
        Timers { queue: BTreeMap::new(), next: 0 }
    }

    pub(super) fn arm(&mut self, at: Instant, key: K) -> TimerId {
        let id = TimerId(at, self.next);
        self.next += 1;
        self.queue.insert(id, key);
        id
    }

    /// Does nothing to a timer that has gone off.
    pub(super) fn disarm(&mut self, id: TimerId) {
        self.queue.remove(&id);
    }

    /// When the first goes off.
    pub(super) fn first(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|(id, _)| id.0)
    }

    /// The first, if it is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<K> {
        self.first().filter(|at| *at <= now)?;
        self.queue.pop_first().map(|(_, key)| key)
    }
}
