//! What is counted and kept of each type, under Envoy's names (V-07).

use std::sync::Arc;
use std::time::Instant;

/// Counters of one type. They only grow.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// The start of a subscription, and every outcome below down to `init_fetch_timeout`.
    pub update_attempt: u64,
    /// Responses taken whole.
    pub update_success: u64,
    /// Streams that ended.
    pub update_failure: u64,
    /// Responses of which something was not taken.
    pub update_rejected: u64,
    /// Waits for a first answer that ran out (S-12, W-08).
    pub init_fetch_timeout: u64,
    /// Responses that only kept resources alive (T-03).
    pub heartbeat: u64,
    /// Resources that nobody had asked for (C-07).
    pub unsolicited: u64,
    /// Resources whose time to live ran out (T-04).
    pub expired: u64,
}

impl Stats {
    /// Adds what another client counted.
    pub fn add(&mut self, other: &Stats) {
        self.update_attempt += other.update_attempt;
        self.update_success += other.update_success;
        self.update_failure += other.update_failure;
        self.update_rejected += other.update_rejected;
        self.init_fetch_timeout += other.init_fetch_timeout;
        self.heartbeat += other.heartbeat;
        self.unsolicited += other.unsolicited;
        self.expired += other.expired;
    }
}

/// What is to be seen of one type from outside.
#[derive(Clone, Copy, Debug)]
pub struct TypeStatus<'a> {
    /// Counters.
    pub stats: &'a Stats,
    /// The last version that was taken whole: `version_text`. In the delta variant that is
    /// `system_version_info`.
    pub version: &'a str,
    /// When that was.
    pub updated_at: Option<Instant>,
    /// What was wrong with the last response, if it was refused.
    pub error: Option<&'a UpdateError>,
    /// Names that are asked for.
    pub names: usize,
    /// Whether everything is asked for.
    pub wildcard: bool,
    /// Resources that were taken and are still there.
    pub held: usize,
}

impl TypeStatus<'_> {
    /// Envoy's statistic `version`: xxHash64 of the version's text; 0 before the first.
    #[must_use]
    pub fn version_hash(&self) -> u64 {
        match self.updated_at {
            Some(_) => twox_hash::XxHash64::oneshot(0, self.version.as_bytes()),
            None => 0,
        }
    }
}

/// What was wrong with a response.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpdateError {
    /// Of the response.
    pub version: Arc<str>,
    /// As in the NACK.
    pub text: String,
    /// When it was found.
    pub at: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v_07_the_version_statistic_is_a_hash_of_the_text() {
        let stats = Stats::default();
        let status = |version, updated_at| TypeStatus {
            stats: &stats,
            version,
            updated_at,
            error: None,
            names: 0,
            wildcard: false,
            held: 0,
        };
        // xxHash64 with seed 0 of nothing, and of "a".
        let now = Some(Instant::now());
        assert_eq!(status("", now).version_hash(), 0xef46_db37_51d8_e999);
        assert_eq!(status("a", now).version_hash(), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(status("", None).version_hash(), 0);
    }
}
