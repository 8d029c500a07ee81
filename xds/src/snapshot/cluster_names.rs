//! Numbers for clusters' names, so that a route can refer to a cluster that is not there yet, or no
//! longer, and find the next one of that name without being compiled again.
//!
//! Invariant: a name keeps its number for as long as anything refers to it; only then is the number
//! given to another. So a reference never leads to a cluster of another name.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

/// Number of a cluster's name: its place in [`Clusters`](super::Clusters).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub u32);

/// A cluster as configuration names it, whether or not it exists. A request that meets one that does
/// not is told so ("cluster not found").
#[derive(Debug, Clone)]
pub struct ClusterRef(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    id: ClusterId,
}

impl ClusterRef {
    /// The configured name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ClusterId {
        self.0.id
    }
}

impl PartialEq for ClusterRef {
    fn eq(&self, other: &ClusterRef) -> bool {
        self.name() == other.name()
    }
}

impl Eq for ClusterRef {}

impl Hash for ClusterRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl Borrow<str> for ClusterRef {
    fn borrow(&self) -> &str {
        self.name()
    }
}

/// All names that are referred to. Locked while a configuration is compiled; shards never ask.
#[derive(Debug, Default)]
pub struct ClusterNames {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    entries: HashSet<ClusterRef>,
    /// Numbers below `next` that no name has.
    free: Vec<u32>,
    next: u32,
    /// As many names are looked through for unused ones, when there are twice as many as were left.
    sweep_at: usize,
}

impl ClusterNames {
    /// The reference to `name`.
    #[must_use]
    pub fn refer(&self, name: &str) -> ClusterRef {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.entries.get(name) {
            return entry.clone();
        }
        if known.entries.len() >= known.sweep_at.max(SWEEP_MIN) {
            known.sweep();
        }
        let id = known.free.pop().unwrap_or_else(|| {
            known.next += 1;
            known.next - 1
        });
        let entry = ClusterRef(Arc::new(Entry { name: name.into(), id: ClusterId(id) }));
        known.entries.insert(entry.clone());
        entry
    }
}

impl Known {
    /// Forgets names that nothing refers to. Nobody can come to refer to one meanwhile: references are
    /// made of others, or under the lock.
    fn sweep(&mut self) {
        let Known { entries, free, .. } = self;
        entries.retain(|entry| {
            let used = Arc::strong_count(&entry.0) > 1;
            if !used {
                free.push(entry.id().0);
            }
            used
        });
        self.sweep_at = self.entries.len() * 2;
    }
}

/// Fewer names are not worth a look.
const SWEEP_MIN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_while_it_is_used() {
        let names = ClusterNames::default();
        let kept = names.refer("kept");
        for round in 0..10_000 {
            let _passing = names.refer(&format!("passing {round}"));
        }
        assert_eq!(names.refer("kept").id(), kept.id());
        let known = names.known.lock().unwrap();
        assert!(known.next as usize <= 2 * SWEEP_MIN, "numbers are given again");
        assert!(known.entries.len() <= 2 * SWEEP_MIN, "names are forgotten");
    }

    #[test]
    fn no_two_names_share_a_number() {
        let names = ClusterNames::default();
        let mut held: Vec<ClusterRef> = Vec::new();
        for round in 0..5_000usize {
            held.push(names.refer(&round.to_string()));
            if round % 3 == 0 {
                held.swap_remove(round / 7 % held.len());
            }
        }
        let numbers: HashSet<ClusterId> = held.iter().map(ClusterRef::id).collect();
        assert_eq!(numbers.len(), held.len());
    }
}
