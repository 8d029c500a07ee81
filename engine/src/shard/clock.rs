//! A shard's clock: read once a turn, so that everything within a turn happens at one instant.

use std::cell::Cell;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use outrigger_codecs::http::http_date;

use crate::timer::Nanos;

/// Monotonic time since a common start, the wall clock that goes with it, and the text of the
/// `date` header for the present second.
pub struct Clock {
    start: Instant,
    start_unix_ns: u64,
    now: Cell<Nanos>,
    date_second: Cell<u64>,
    date: Cell<[u8; 29]>,
}

impl Clock {
    /// A clock whose zero is `start`: the same for all shards of a process.
    pub fn new(start: Instant) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = Self {
            start,
            start_unix_ns: (unix.as_nanos() as u64).saturating_sub(elapsed_ns(start)),
            now: Cell::new(0),
            date_second: Cell::new(0),
            date: Cell::new([0; 29]),
        };
        clock.tick();
        clock
    }

    /// Reads the time for the turn that begins.
    pub fn tick(&self) {
        self.now.set(elapsed_ns(self.start));
        let second = self.unix_ns() / NANOS_PER_SECOND;
        if second != self.date_second.get() {
            self.date_second.set(second);
            self.date.set(http_date(second));
        }
    }

    /// The instant of this turn.
    pub fn now(&self) -> Nanos {
        self.now.get()
    }

    /// Wall-clock time of this turn, nanoseconds since the Unix epoch. Steps of the system's clock
    /// after the start are not followed within a run of the process.
    pub fn unix_ns(&self) -> u64 {
        self.start_unix_ns + self.now.get()
    }

    /// The present second as a `date` header has it (RFC 9110 section 5.6.7).
    pub fn date(&self) -> [u8; 29] {
        self.date.get()
    }
}

fn elapsed_ns(start: Instant) -> u64 {
    start.elapsed().as_nanos() as u64
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;
