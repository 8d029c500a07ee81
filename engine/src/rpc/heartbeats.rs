//! Heartbeats to a silent peer (bolt.md section 6, dubbo.md section 8, hsf.md section 5).
//!
//! Whatever a peer sends is a sign of life. Invariant: a dead peer is found out after the interval and
//! as many timeouts as there may be misses, give or take the steps in which connections are swept.

use outrigger_xds::snapshot::RpcKeepalive;

use crate::timer::{Nanos, nanos};

/// The heartbeats of one connection.
pub struct Heartbeats {
    heard_at: Nanos,
    asked_at: Option<Nanos>,
    misses: u32,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// Send a heartbeat now.
    Ask,
    /// The peer is dead.
    Dead,
}

impl Heartbeats {
    /// Heartbeats of a connection that was made `now`.
    pub fn new(now: Nanos) -> Self {
        Self { heard_at: now, asked_at: None, misses: 0 }
    }

    /// Something came.
    pub fn heard(&mut self, now: Nanos) {
        self.heard_at = now;
        self.asked_at = None;
        self.misses = 0;
    }

    /// When something last came.
    pub fn heard_at(&self) -> Nanos {
        self.heard_at
    }

    /// Looks at the clock; there are none without a configuration.
    pub fn check(&mut self, config: Option<RpcKeepalive>, now: Nanos) -> Verdict {
        let Some(config) = config else { return Verdict::Fine };
        let passed = |since: Nanos, limit| now.saturating_sub(since) >= nanos(limit);
        match self.asked_at {
            None if !passed(self.heard_at, config.interval) => Verdict::Fine,
            Some(asked_at) if !passed(asked_at, config.timeout) => Verdict::Fine,
            None => {
                self.asked_at = Some(now);
                Verdict::Ask
            }
            Some(_) => {
                self.misses += 1;
                self.asked_at = Some(now);
                if self.misses >= config.misses_max { Verdict::Dead } else { Verdict::Ask }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_silent_peer_is_asked_and_then_given_up() {
        let config = Some(RpcKeepalive {
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(1),
            misses_max: 3,
        });
        let at = |seconds: u64| seconds * 1_000_000_000;
        let mut heartbeats = Heartbeats::new(0);
        assert_eq!(heartbeats.check(config, at(14)), Verdict::Fine);
        assert_eq!(heartbeats.check(config, at(15)), Verdict::Ask);
        assert_eq!(heartbeats.check(config, at(15)), Verdict::Fine);
        assert_eq!(heartbeats.check(config, at(16)), Verdict::Ask);
        heartbeats.heard(at(17));
        assert_eq!(heartbeats.check(config, at(31)), Verdict::Fine);
        assert_eq!(heartbeats.check(config, at(32)), Verdict::Ask);
        assert_eq!(heartbeats.check(config, at(33)), Verdict::Ask);
        assert_eq!(heartbeats.check(config, at(34)), Verdict::Ask);
        assert_eq!(heartbeats.check(config, at(35)), Verdict::Dead);
        assert_eq!(Heartbeats::new(0).check(None, at(1000)), Verdict::Fine);
    }
}
