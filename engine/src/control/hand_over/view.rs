//! What is known of hand-overs, for whoever looks: operators' tools, the admin interface, statistics.
//!
//! Invariant: everything here is written by the control thread alone, and shown as it was last heard; but of
//! an end and a recall, the server loop and the control thread each say one, and the first holds ([`Ties`]).

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use outrigger_upgrade::message::{Progress, Status};
use serde_json::{Value, json};

use crate::control::state::ControlState;
use crate::stats::UpgradeStats;

/// What is known of hand-overs.
#[derive(Debug)]
pub struct View {
    /// Who owns this in turn.
    state: Weak<ControlState>,
    stats: Arc<UpgradeStats>,
    generation: u32,
    processes_max: u32,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    /// The successor that is getting ready; 0 when its process can't be seen from here.
    successor: Option<u32>,
    /// The predecessor that drains.
    predecessor: Option<Progress>,
    /// Connections that were moved to the successor, and those that it did not take.
    moved: u64,
    declined: u64,
    /// When what is left is closed.
    ends_at: Option<Instant>,
}

/// What keeps a process that has handed over, beside its connections.
#[derive(Debug, Default)]
pub struct Ties {
    /// Its successor has not registered yet what it has registered.
    pub(super) needs_registration: AtomicBool,
    /// Its own predecessor drains, and would take an end of this one for its successor's death.
    pub(super) has_predecessor: AtomicBool,
    /// One of [`OPEN`], [`LEFT`] and [`RECALLED`].
    fate: AtomicU8,
}

/// Nothing is decided.
const OPEN: u8 = 0;
/// The process ends: what it had is its successor's alone.
const LEFT: u8 = 1;
/// The successor has died first: the process does not end.
const RECALLED: u8 = 2;

impl Ties {
    /// Whether there is any.
    pub fn hold(&self) -> bool {
        self.needs_registration.load(Ordering::Acquire)
            || self.has_predecessor.load(Ordering::Acquire)
    }

    /// The server loop wants to end the process for its successor. `false`: an order to resume is on its way.
    pub fn leave(&self) -> bool {
        self.decide(LEFT)
    }

    /// The successor has died. `false`: too late, the process ends.
    pub(super) fn recall(&self) -> bool {
        self.decide(RECALLED)
    }

    /// Whether this process serves on after its successor's death.
    pub(super) fn is_recalled(&self) -> bool {
        self.fate.load(Ordering::Acquire) == RECALLED
    }

    /// Another process accepts: which of the two comes first is open.
    pub fn open(&self) {
        self.fate.store(OPEN, Ordering::Release);
    }

    /// Whether it is, or has been, decided like this.
    fn decide(&self, fate: u8) -> bool {
        let decided = self.fate.compare_exchange(OPEN, fate, Ordering::AcqRel, Ordering::Acquire);
        decided.is_ok() || decided == Err(fate)
    }
}

impl View {
    pub(super) fn new(state: &Arc<ControlState>, generation: u32, processes_max: u32) -> Self {
        let stats = state.registry().upgrade();
        stats.generation.set(generation.into());
        Self {
            state: Arc::downgrade(state),
            stats,
            generation,
            processes_max,
            facts: Mutex::default(),
        }
    }

    /// For an operator.
    pub fn status(&self) -> Status {
        let state = self.state.upgrade();
        let state = state.as_deref();
        let facts = self.facts();
        Status {
            pid: std::process::id(),
            generation: self.generation,
            build: BUILD.to_owned(),
            uptime_seconds: state.map_or(0, |state| state.started().elapsed().as_secs()),
            state: state.map_or("", |state| state.lifecycle().name()).to_owned(),
            connections: self.connections(),
            successor_pid: facts.successor.unwrap_or(0),
            predecessor: facts.predecessor.clone(),
            processes_max: self.processes_max,
        }
    }

    /// How far this process is, for its successor.
    pub(super) fn progress(&self) -> Progress {
        let left = self.connections();
        let facts = self.facts();
        let ends_in = facts.ends_at.map_or(Duration::ZERO, |at| at.duration_since(Instant::now()));
        Progress {
            moved: facts.moved,
            declined: facts.declined,
            left,
            seconds_left: u32::try_from(ends_in.as_secs()).unwrap_or(u32::MAX),
            pid: std::process::id(),
            generation: self.generation,
            build: BUILD.to_owned(),
            phase: match (left, &facts.predecessor) {
                (1.., _) => "draining",
                (0, Some(_)) => "waiting for its predecessor",
                (0, None) => "ending",
            }
            .to_owned(),
            older: facts.predecessor.iter().cloned().collect(),
        }
    }

    /// How many processes there are, with this one and without a successor.
    pub(super) fn processes(&self) -> usize {
        1 + self.facts().predecessor.as_ref().map_or(0, Progress::processes)
    }

    pub(super) fn processes_max(&self) -> usize {
        self.processes_max as usize
    }

    pub(super) fn stats(&self) -> &UpgradeStats {
        &self.stats
    }

    /// A successor is getting ready, or no more.
    pub(super) fn set_successor(&self, pid: Option<u32>) {
        self.stats.preparing.set(pid.is_some().into());
        self.facts().successor = pid;
    }

    /// A predecessor drains, or no more.
    pub(super) fn set_predecessor(&self, predecessor: Option<Progress>) {
        let all = predecessor.as_ref().map(flat).unwrap_or_default();
        let sum = |count: fn(&Progress) -> u64| all.iter().map(|one| count(one)).sum();
        self.stats.predecessors.set(all.len() as u64);
        self.stats.predecessor_moved.set(sum(|one| one.moved));
        self.stats.predecessor_declined.set(sum(|one| one.declined));
        self.stats.predecessor_left.set(sum(|one| one.left));
        let seconds = all.iter().map(|one| one.seconds_left).max();
        self.stats.predecessor_seconds_left.set(seconds.unwrap_or(0).into());
        drop(all);
        self.facts().predecessor = predecessor;
    }

    /// The successor accepts, and what is left here is closed at that time; or it serves no more.
    pub(super) fn set_end(&self, ends_at: Option<Instant>) {
        self.facts().ends_at = ends_at;
    }

    /// A connection has moved to the successor.
    pub(super) fn count_moved(&self) {
        self.facts().moved += 1;
    }

    /// The successor did not take a connection.
    pub(super) fn count_declined(&self) {
        self.facts().declined += 1;
    }

    fn connections(&self) -> u64 {
        let Some(state) = self.state.upgrade() else { return 0 };
        let registry = state.registry();
        (0..registry.shards()).map(|shard| registry.shard(shard).connections.value()).sum()
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // Each field is replaced whole.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A predecessor and its own, the newest first.
pub(super) fn flat(progress: &Progress) -> Vec<&Progress> {
    let mut all = vec![progress];
    all.extend(progress.older.iter().flat_map(flat));
    all
}

/// A status as JSON.
pub fn to_json(status: &Status) -> Value {
    let predecessors = status.predecessor.as_ref().map(flat).unwrap_or_default();
    let predecessors: Vec<_> = predecessors
        .into_iter()
        .map(|one| {
            json!({
                "pid": one.pid,
                "generation": one.generation,
                "build": one.build,
                "phase": one.phase,
                "moved": one.moved,
                "declined": one.declined,
                "left": one.left,
                "seconds_left": one.seconds_left,
            })
        })
        .collect();
    json!({
        "pid": status.pid,
        "generation": status.generation,
        "build": status.build,
        "uptime_seconds": status.uptime_seconds,
        "state": status.state,
        "connections": status.connections,
        "successor_pid": (status.successor_pid != 0).then_some(status.successor_pid),
        "predecessors": predecessors,
        "max_processes": status.processes_max,
    })
}

/// What this process was built from.
pub(super) const BUILD: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_leaves_or_is_recalled() {
        let ties = Ties::default();
        assert!(ties.leave() && ties.leave() && !ties.recall());
        ties.open();
        assert!(ties.recall() && !ties.leave());
        ties.open();
        assert!(ties.leave());
    }
}
