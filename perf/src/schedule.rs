//! When an open-loop generator means to send: a constant rate, each request somewhere in its slot.
//!
//! Request `i` of a run at rate `r` belongs to the slot from `i/r` to `(i+1)/r` seconds. Without
//! jitter it is due at the slot's start; with jitter at a random moment of the slot, so that the
//! generator doesn't beat in phase with timers of the proxy, while the rate over any longer time
//! stays exact. Due times never decrease. Latencies are measured from them, not from the moment at
//! which a connection was free, so a stalled proxy is charged for every request it kept waiting.

use std::num::NonZeroU64;

use rand::{Rng, SeedableRng, rngs::StdRng};

/// An endless sequence of due times.
#[derive(Debug)]
pub struct Schedule {
    rate: NonZeroU64,
    index: u64,
    random: Option<StdRng>,
    due_ns: u64,
}

impl Schedule {
    /// A schedule of `rate` requests per second; `jitter` spreads each within its slot.
    #[must_use]
    pub fn new(rate: NonZeroU64, jitter: bool, seed: u64) -> Self {
        let random = jitter.then(|| StdRng::seed_from_u64(seed));
        let mut schedule = Self { rate, index: 0, random, due_ns: 0 };
        schedule.due_ns = schedule.draw();
        schedule
    }

    /// When the next request is due, in nanoseconds from the start of the run.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Takes the next request and returns when it was due.
    pub fn take(&mut self) -> u64 {
        let due = self.due_ns;
        self.index += 1;
        self.due_ns = self.draw();
        due
    }

    fn draw(&mut self) -> u64 {
        let start = slot_start(self.index, self.rate);
        match &mut self.random {
            None => start,
            Some(random) => {
                random.random_range(start..slot_start(self.index + 1, self.rate).max(start + 1))
            }
        }
    }
}

fn slot_start(index: u64, rate: NonZeroU64) -> u64 {
    let ns = u128::from(index) * 1_000_000_000 / u128::from(rate.get());
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: u64, jitter: bool) -> Schedule {
        Schedule::new(NonZeroU64::new(rate).unwrap(), jitter, 1)
    }

    #[test]
    fn even_without_jitter() {
        let mut plan = schedule(4, false);
        let due: Vec<_> = (0..5).map(|_| plan.take()).collect();
        assert_eq!(due, [0, 250_000_000, 500_000_000, 750_000_000, 1_000_000_000]);
    }

    #[test]
    fn no_drift_at_odd_rates() {
        let mut plan = schedule(3, false);
        let last = (0..=3_000_000).map(|_| plan.take()).last().unwrap();
        assert_eq!(last, 1_000_000 * 1_000_000_000);
    }

    #[test]
    fn jitter_stays_in_its_slot() {
        let mut plan = schedule(1000, true);
        let mut moved = 0;
        for index in 0..10_000_u64 {
            assert_eq!(plan.due_ns(), plan.due_ns());
            let due = plan.take();
            assert!((index * 1_000_000..(index + 1) * 1_000_000).contains(&due));
            moved += u32::from(due % 1_000_000 > 100_000);
        }
        assert!(moved > 5000);
    }
}
