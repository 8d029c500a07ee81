//! A token bucket on requests (C-13): what it holds back is late, never lost.

use std::time::{Duration, Instant};

use crate::snapshot::RateLimit;

/// Kept as the time at which the bucket will be full again, so that nothing has to be counted.
#[derive(Debug)]
pub(super) struct Bucket {
    refill: Duration,
    /// How far ahead of now the bucket may be full again and still give a token.
    burst: Duration,
    full_at: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(limit: RateLimit) -> Bucket {
        let burst = limit.refill.saturating_mul(limit.max_tokens.saturating_sub(1));
        Bucket { refill: limit.refill, burst, full_at: None }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.unwrap_or(now).max(now);
        if full_at.saturating_duration_since(now) > self.burst {
            return false;
        }
        self.full_at = Some(full_at.checked_add(self.refill).unwrap_or(full_at));
        true
    }

    /// When there is a token: maybe long ago.
    pub(super) fn ready_at(&self) -> Option<Instant> {
        self.full_at.map(|full_at| full_at.checked_sub(self.burst).unwrap_or(full_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_13_a_bucket_gives_its_tokens_at_once_and_then_one_per_refill() {
        let start = Instant::now();
        let mut bucket =
            Bucket::new(RateLimit { max_tokens: 3, refill: Duration::from_millis(100) });
        assert_eq!(bucket.ready_at(), None);
        assert!((0..3).all(|_| bucket.take(start)));
        assert!(!bucket.take(start));
        let next = bucket.ready_at().unwrap();
        assert_eq!(next, start + Duration::from_millis(100));
        assert!(bucket.take(next) && !bucket.take(next));
        let later = start + Duration::from_secs(10);
        assert!((0..3).all(|_| bucket.take(later)));
        assert!(!bucket.take(later));
    }
}
