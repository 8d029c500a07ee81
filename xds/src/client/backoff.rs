//! How long to wait before the next stream: exponential, with full jitter (F-02).

use std::time::Duration;

/// First and longest wait; the first is above zero and not above the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits of up to `base`, doubling up to `max`.
    pub(super) fn new(base: Duration, max: Duration) -> Backoff {
        Backoff { base, max: max.max(base), failures: 0 }
    }

    /// The next wait: anywhere below the present bound, where `random` says.
    pub(super) fn next(&mut self, random: u64) -> Duration {
        let doublings = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let bound = self.base.saturating_mul(doublings).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(random % nanos)
    }

    /// Begins anew, as after a success.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Bound of the first wait.
pub(super) const BASE: Duration = Duration::from_millis(500);
/// Bound of all waits.
pub(super) const MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_02_bounds_double_from_500_ms_to_30_s_and_begin_anew_after_a_reset() {
        let mut backoff = Backoff::new(BASE, MAX);
        // The largest number below each bound gives the bound itself.
        let mut bound = |millis: u64| {
            let wait = backoff.next(millis * 1_000_000 - 1);
            assert_eq!(wait, Duration::from_millis(millis) - Duration::from_nanos(1));
            assert!(backoff.next(0).is_zero(), "full jitter goes down to nothing");
            backoff.failures -= 1;
        };
        for millis in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            bound(millis);
        }
        for _ in 0..100 {
            assert!(backoff.next(u64::MAX) < MAX);
        }
        backoff.reset();
        assert!(backoff.next(u64::MAX) < BASE);
    }
}
