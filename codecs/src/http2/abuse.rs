//! What a connection counts to tell a flood from use.
//!
//! Each rule is one function that says whether its limit still holds; the connection ends where one
//! says no. Everything here is a few numbers, whatever the peer does, and time comes in as an
//! argument.

use super::config::FloodLimits;

/// The counts of one connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FloodCounts {
    /// Frames in a row without payload and without END_STREAM.
    pub empty_in_a_row: u32,
    /// PRIORITY frames received.
    pub priority_frames: u64,
    /// WINDOW_UPDATE frames received.
    pub window_updates: u64,
    /// Streams opened, by either side.
    pub streams_opened: u64,
    /// DATA frames sent.
    pub data_frames_sent: u64,
    /// Resets and refusals.
    pub resets: Bucket,
    /// SETTINGS frames.
    pub settings: Bucket,
    /// PING frames.
    pub pings: Bucket,
}

impl FloodCounts {
    pub(super) fn new(limits: &FloodLimits) -> Self {
        Self {
            empty_in_a_row: 0,
            priority_frames: 0,
            window_updates: 0,
            streams_opened: 0,
            data_frames_sent: 0,
            resets: Bucket::full(limits.reset_burst),
            settings: Bucket::full(limits.settings_burst),
            pings: Bucket::full(limits.ping_burst),
        }
    }

    /// A HEADERS, CONTINUATION or DATA frame; `empty` without payload and without END_STREAM.
    #[must_use]
    pub(super) fn message_frame(&mut self, empty: bool, limits: &FloodLimits) -> bool {
        if !empty {
            self.empty_in_a_row = 0;
            return true;
        }
        self.empty_in_a_row = self.empty_in_a_row.saturating_add(1);
        self.empty_in_a_row <= limits.empty_frames_in_a_row
    }

    /// A PRIORITY frame.
    #[must_use]
    pub(super) fn priority_frame(&mut self, limits: &FloodLimits) -> bool {
        self.priority_frames += 1;
        let per_stream = u64::from(limits.priority_frames_per_stream);
        self.priority_frames <= per_stream.saturating_mul(1 + self.streams_opened)
    }

    /// A WINDOW_UPDATE frame.
    #[must_use]
    pub(super) fn window_update(&mut self, limits: &FloodLimits) -> bool {
        self.window_updates += 1;
        let per_frame = u64::from(limits.window_updates_per_data_frame);
        let earned = per_frame.saturating_mul(self.data_frames_sent);
        let allowed = earned.saturating_add(self.streams_opened).saturating_mul(2);
        self.window_updates <= allowed.saturating_add(5)
    }

    /// A stream was reset by the peer, refused, or reset for the peer's mistake.
    #[must_use]
    pub(super) fn reset(&mut self, now_ns: u64, limits: &FloodLimits) -> bool {
        self.resets.take(now_ns, limits.reset_burst, limits.reset_rate_per_s)
    }

    /// A SETTINGS frame.
    #[must_use]
    pub(super) fn settings_frame(&mut self, now_ns: u64, limits: &FloodLimits) -> bool {
        self.settings.take(now_ns, limits.settings_burst, limits.settings_rate_per_s)
    }

    /// A PING frame.
    #[must_use]
    pub(super) fn ping_frame(&mut self, now_ns: u64, limits: &FloodLimits) -> bool {
        self.pings.take(now_ns, limits.ping_burst, limits.ping_rate_per_s)
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bucket {
    /// Tokens left.
    pub tokens: u64,
    /// When the last whole token was added, in nanoseconds of the caller's clock.
    pub filled_ns: u64,
}

impl Bucket {
    fn full(burst: u64) -> Self {
        Self { tokens: burst, filled_ns: 0 }
    }

    /// Takes one token; false says that there is none.
    fn take(&mut self, now_ns: u64, burst: u64, rate_per_s: u64) -> bool {
        self.fill(now_ns, burst, rate_per_s);
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }

    fn fill(&mut self, now_ns: u64, burst: u64, rate_per_s: u64) {
        let elapsed_ns = u128::from(now_ns.saturating_sub(self.filled_ns));
        let grown = elapsed_ns * u128::from(rate_per_s) / NS_PER_S;
        if grown >= u128::from(burst.saturating_sub(self.tokens)) {
            (self.tokens, self.filled_ns) = (burst, self.filled_ns.max(now_ns));
            return;
        }
        // Below `burst`, so it fits; and something has grown only if the rate is not 0.
        self.tokens += grown as u64;
        if let Some(ns) = (grown * NS_PER_S).checked_div(u128::from(rate_per_s)) {
            self.filled_ns += ns as u64;
        }
    }
}

const NS_PER_S: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::full(3);
        let mut taken_at = |ms: u64| bucket.take(ms * 1_000_000, 3, 10);
        assert!(taken_at(5000) && taken_at(5000) && taken_at(5000));
        assert!(!taken_at(5000) && !taken_at(5099));
        assert!(taken_at(5100) && !taken_at(5199));
        assert!(taken_at(5200), "the part of a token that had grown is not lost");
        assert!(!taken_at(4000), "a clock that goes back gives nothing");
        assert!(taken_at(9000) && taken_at(9000) && taken_at(9000) && !taken_at(9000));
    }

    #[test]
    fn extreme_buckets_neither_overflow_nor_fill() {
        let mut none = Bucket::full(0);
        assert!(!none.take(u64::MAX, 0, u64::MAX));
        let mut frozen = Bucket::full(1);
        assert!(frozen.take(0, 1, 0) && !frozen.take(u64::MAX, 1, 0));
        let mut huge = Bucket { tokens: 0, filled_ns: 0 };
        assert!(huge.take(u64::MAX, u64::MAX, u64::MAX) && huge.tokens == u64::MAX - 1);
    }

    #[test]
    fn formulas_hold_at_the_limit_and_fail_past_it() {
        let limits = FloodLimits {
            empty_frames_in_a_row: 2,
            priority_frames_per_stream: 3,
            window_updates_per_data_frame: 4,
            ..FloodLimits::default()
        };
        let mut counts = FloodCounts::new(&limits);
        assert!(counts.message_frame(true, &limits) && counts.message_frame(true, &limits));
        assert!(counts.message_frame(false, &limits), "payload ends the row");
        assert!(counts.message_frame(true, &limits) && counts.message_frame(true, &limits));
        assert!(!counts.message_frame(true, &limits));

        counts.streams_opened = 1;
        assert_eq!((0..10).take_while(|_| counts.priority_frame(&limits)).count(), 3 * (1 + 1));
        counts.data_frames_sent = 2;
        let updates = (0..100).take_while(|_| counts.window_update(&limits)).count();
        assert_eq!(updates, 5 + 2 * (1 + 4 * 2));
    }
}
