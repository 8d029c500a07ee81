//! Which streams of a connection have something to do.
//!
//! Every stream has a waker of its own, which notes the stream and wakes the connection's task. The
//! invariant: a wake is never lost; it may be seen for a stream that has nothing to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Wake, Waker};

/// The set of streams that were woken, by their slot in the connection. Slots that are a multiple of
/// [`ReadySet::PLACES`] apart share a place.
pub struct ReadySet {
    words: [AtomicU64; WORDS],
    task: Waker,
}

struct StreamWaker {
    set: Arc<ReadySet>,
    place: usize,
}

impl ReadySet {
    /// Places in the set.
    pub const PLACES: usize = WORDS * 64;

    /// An empty set whose streams wake `task`.
    pub fn new(task: &Waker) -> Arc<Self> {
        Arc::new(Self { words: Default::default(), task: task.clone() })
    }

    /// The waker of the stream in `slot`.
    pub fn waker(self: &Arc<Self>, slot: usize) -> Waker {
        let place = slot % Self::PLACES;
        Arc::new(StreamWaker { set: Arc::clone(self), place }).into()
    }

    /// Notes the stream in `slot` without waking the task, which is at it already.
    pub fn note(&self, slot: usize) {
        let place = slot % Self::PLACES;
        self.words[place / 64].fetch_or(1 << (place % 64), Ordering::Relaxed);
    }

    /// Takes the places noted so far in one word of the set.
    pub fn take(&self, word: usize) -> u64 {
        // Nearly always nothing, which a plain load finds out without taking the cache line.
        let noted = &self.words[word];
        if noted.load(Ordering::Relaxed) == 0 { 0 } else { noted.swap(0, Ordering::Acquire) }
    }
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set.words[self.place / 64].fetch_or(1 << (self.place % 64), Ordering::Release);
        self.set.task.wake_by_ref();
    }
}

/// Room for the default limit of streams without sharing.
const WORDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_are_seen_once_and_places_are_shared() {
        let set = ReadySet::new(Waker::noop());
        set.waker(3).wake_by_ref();
        set.waker(ReadySet::PLACES + 65).wake();
        set.note(64);
        assert_eq!(set.take(0), 1 << 3);
        assert_eq!(set.take(1), 0b11);
        assert_eq!(set.take(0) | set.take(1), 0);
    }
}
