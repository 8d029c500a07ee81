//! What a shard tells other threads about itself, and how many connections each shard has.
//!
//! Invariant: a shard writes its own pulse only; connection counts are written when a connection
//! begins, ends or moves, never per request.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// One shard's sign of life. Two cache lines, so that neighbours don't disturb each other.
#[repr(align(128))]
#[derive(Default)]
pub struct Pulse {
    turned_at: AtomicU64,
    state: AtomicU8,
    connections: AtomicU32,
    listening: AtomicU32,
}

/// What a shard is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PulseState {
    /// Not started, or ended.
    Off = 0,
    /// Working, or waiting in its ring for a bounded time.
    Turning = 1,
    /// Truly parked until something happens.
    Parked = 2,
}

impl Pulse {
    /// A turn began at `now` (nanoseconds of the process's monotonic clock).
    pub fn turn(&self, now: u64) {
        self.turned_at.store(now, Ordering::Relaxed);
        self.state.store(PulseState::Turning as u8, Ordering::Relaxed);
    }

    /// The shard parks, or ends.
    pub fn rest(&self, state: PulseState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// State and time of the last turn.
    pub fn read(&self) -> (PulseState, u64) {
        let state = match self.state.load(Ordering::Relaxed) {
            1 => PulseState::Turning,
            2 => PulseState::Parked,
            _ => PulseState::Off,
        };
        (state, self.turned_at.load(Ordering::Relaxed))
    }

    /// Connections this shard serves or was promised.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// A connection was given to this shard.
    pub fn connection_begins(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// This shard accepts on one more socket.
    pub fn listening_begins(&self) {
        self.listening.fetch_add(1, Ordering::Relaxed);
    }

    /// A socket was closed, after its backlog was taken.
    pub fn listening_ends(&self) {
        self.listening.fetch_sub(1, Ordering::Release);
    }

    /// A connection of this shard ended.
    pub fn connection_ends(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether nobody accepts. A shard that is still to hear of it, or has connections in a backlog, does.
pub fn none_accepts(pulses: &[Pulse]) -> bool {
    pulses.iter().all(|pulse| pulse.listening.load(Ordering::Acquire) == 0)
}

/// Whether nobody accepts and nobody is served: then a drain is over.
pub fn all_quiet(pulses: &[Pulse]) -> bool {
    // First the one, then the other: what was taken from a backlog is counted before it is closed.
    none_accepts(pulses) && pulses.iter().all(|pulse| pulse.connections() == 0)
}

/// The pulses of all shards.
pub type Pulses = std::sync::Arc<[Pulse]>;

/// Pulses for `shards` shards.
pub fn pulses(shards: usize) -> Pulses {
    (0..shards).map(|_| Pulse::default()).collect()
}

/// The shard that a new connection accepted by `own` should go to: `own` unless another has fewer.
pub(super) fn quietest(pulses: &[Pulse], own: usize) -> usize {
    let mut best = own;
    let mut fewest = pulses[own].connections();
    for (index, pulse) in pulses.iter().enumerate() {
        let connections = pulse.connections();
        if connections < fewest {
            (best, fewest) = (index, connections);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_goes_where_there_are_fewest_and_stays_when_even() {
        let pulses = pulses(3);
        for _ in 0..2 {
            pulses[1].connection_begins();
        }
        assert_eq!(quietest(&pulses, 1), 0);
        assert_eq!(quietest(&pulses, 2), 2);
        pulses[0].connection_begins();
        assert_eq!(quietest(&pulses, 0), 2);
    }

    #[test]
    fn greedy_placement_keeps_the_busiest_within_one_of_the_mean() {
        let pulses = pulses(4);
        for accepted in 1..=103u32 {
            let shard = quietest(&pulses, 0);
            pulses[shard].connection_begins();
            let busiest = pulses.iter().map(Pulse::connections).max().unwrap();
            assert!(f64::from(busiest) <= f64::from(accepted) / 4.0 + 1.0);
        }
    }
}
