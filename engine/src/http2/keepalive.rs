//! Pings that tell whether a connection is alive (contract section 13, `connection_keepalive`).
//!
//! Any frame counts as life, so a busy connection is never closed for a late answer.

use outrigger_xds::snapshot::Http2Keepalive;

use crate::timer::{Nanos, nanos};

/// The keepalive of one connection.
pub struct Keepalive {
    config: Http2Keepalive,
    next_ping: Option<Nanos>,
    answer_by: Option<Nanos>,
}

/// What the keepalive wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// Send a ping now.
    Ping,
    /// The peer is dead.
    Dead,
}

impl Keepalive {
    /// Starts it. `random` is uniform and spreads the pings of many connections.
    pub fn new(config: Http2Keepalive, now: Nanos, random: u64) -> Self {
        let mut keepalive = Self { config, next_ping: None, answer_by: None };
        keepalive.schedule(now, random);
        keepalive
    }

    /// A frame came.
    pub fn heard(&mut self) {
        self.answer_by = None;
    }

    /// Looks at the clock.
    pub fn check(&mut self, now: Nanos, random: u64) -> Verdict {
        if self.answer_by.is_some_and(|at| at <= now) {
            return Verdict::Dead;
        }
        if self.next_ping.is_none_or(|at| at > now) {
            return Verdict::Fine;
        }
        self.schedule(now, random);
        self.answer_by.get_or_insert(now + nanos(self.config.timeout));
        Verdict::Ping
    }

    /// A stream is about to be put on a connection that was idle since `idle_since`: true when the
    /// peer is to be asked whether it is still there.
    pub fn ask_idle(&mut self, idle_since: Nanos, now: Nanos) -> bool {
        let asks = self
            .config
            .connection_idle_interval
            .is_some_and(|interval| now.saturating_sub(idle_since) >= nanos(interval));
        if asks {
            self.answer_by.get_or_insert(now + nanos(self.config.timeout));
        }
        asks
    }

    /// When it wants to look again.
    pub fn deadline(&self) -> Option<Nanos> {
        self.next_ping.into_iter().chain(self.answer_by).min()
    }

    fn schedule(&mut self, now: Nanos, random: u64) {
        self.next_ping = self.config.interval.map(|interval| {
            let share = (random % 1_000_001) as f64 / 1e6;
            let jitter = interval.mul_f64(self.config.interval_jitter_percent / 100.0 * share);
            now + nanos(interval + jitter)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn silence_after_a_ping_is_death_and_any_frame_is_life() {
        let config = Http2Keepalive {
            interval: Some(Duration::from_secs(10)),
            timeout: Duration::from_secs(1),
            interval_jitter_percent: 0.0,
            connection_idle_interval: Some(Duration::from_secs(5)),
        };
        let second = 1_000_000_000;
        let mut keepalive = Keepalive::new(config, 0, 0);
        assert_eq!(keepalive.deadline(), Some(10 * second));
        assert_eq!(keepalive.check(9 * second, 0), Verdict::Fine);
        assert_eq!(keepalive.check(10 * second, 0), Verdict::Ping);
        assert_eq!(keepalive.deadline(), Some(11 * second));
        keepalive.heard();
        assert_eq!(keepalive.check(11 * second, 0), Verdict::Fine);
        assert_eq!(keepalive.check(20 * second, 0), Verdict::Ping);
        assert_eq!(keepalive.check(21 * second, 0), Verdict::Dead);
        keepalive.heard();
        assert!(!keepalive.ask_idle(20 * second, 24 * second));
        assert!(keepalive.ask_idle(20 * second, 25 * second));
        assert_eq!(keepalive.check(26 * second, 0), Verdict::Dead);
    }
}
