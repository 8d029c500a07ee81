//! Circuit breakers: limits of a cluster that hold over all shards (contract section 14).
//!
//! Invariant: a unit that was admitted is given back exactly once, by dropping its [`Admission`].
//! No cell that shards share is written in the steady state: connections are reused, and requests
//! are counted by each shard for itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One count with a limit that the caller brings, since configuration may change it.
#[derive(Debug, Default)]
pub struct Breaker {
    count: AtomicU32,
}

/// One admitted unit.
#[derive(Debug)]
pub struct Admission {
    cluster: Arc<ClusterBreakers>,
    which: fn(&ClusterBreakers) -> &Breaker,
}

/// Requests under way: a count for each shard, of which only that shard writes.
///
/// Shards that admit at the same instant may each go past the limit by one (contract section 14).
#[derive(Debug)]
pub struct RequestCount {
    shards: Box<[ShardCount]>,
}

/// On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct ShardCount(AtomicU32);

impl RequestCount {
    fn new(shards: usize) -> Self {
        Self { shards: (0..shards).map(|_| ShardCount::default()).collect() }
    }

    /// Admits one request on `shard` below `limit`. It is to be given back by
    /// [`RequestCount::release`].
    pub fn admit(&self, shard: usize, limit: u32) -> bool {
        if self.count() >= limit {
            return false;
        }
        let own = &self.shards[shard].0;
        own.store(own.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        true
    }

    /// A request that was admitted on `shard` has ended.
    pub fn release(&self, shard: usize) {
        let own = &self.shards[shard].0;
        own.store(own.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }

    /// Requests admitted now, on all shards.
    pub fn count(&self) -> u32 {
        self.shards.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

/// The counts of one cluster.
#[derive(Debug)]
pub struct ClusterBreakers {
    /// Connections, being made or made.
    pub connections: Breaker,
    /// Requests that wait for a connection.
    pub pending: Breaker,
    /// Requests under way; counted only where the limit of connections does not imply theirs, as it
    /// does for HTTP/1.1.
    pub requests: RequestCount,
    /// Retries under way.
    pub retries: Breaker,
}

/// The counts of all clusters, by name.
#[derive(Debug)]
pub struct Breakers {
    shards: usize,
    clusters: Mutex<HashMap<Box<str>, Arc<ClusterBreakers>>>,
    faults: Mutex<HashMap<Box<str>, Arc<AtomicU32>>>,
}

impl Breakers {
    /// Counts for a process with so many shards.
    pub fn new(shards: usize) -> Self {
        Self { shards, clusters: Mutex::default(), faults: Mutex::default() }
    }

    /// The counts of `cluster`, the same for every shard.
    pub fn cluster(&self, cluster: &str) -> Arc<ClusterBreakers> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = clusters.get(cluster) {
            return Arc::clone(known);
        }
        let new = Arc::new(ClusterBreakers {
            connections: Breaker::default(),
            pending: Breaker::default(),
            requests: RequestCount::new(self.shards),
            retries: Breaker::default(),
        });
        clusters.insert(cluster.into(), Arc::clone(&new));
        new
    }

    /// Requests into which the connection managers called `stat_prefix` have injected faults.
    pub fn active_faults(&self, stat_prefix: &str) -> Arc<AtomicU32> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(faults.entry(stat_prefix.into()).or_default())
    }

    /// Forgets the clusters that `keeps` says are gone; what was admitted is still given back.
    pub fn retain(&self, keeps: impl Fn(&str) -> bool) {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.retain(|name, _| keeps(name));
    }
}

impl ClusterBreakers {
    /// Admits one unit below `limit`. Shards that ask at the same instant never go past it.
    pub fn admit(self: &Arc<Self>, which: fn(&Self) -> &Breaker, limit: u32) -> Option<Admission> {
        let count = &which(self).count;
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < limit).then_some(count + 1)
            })
            .ok()?;
        Some(Admission { cluster: Arc::clone(self), which })
    }
}

impl Breaker {
    /// Units admitted now.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        (self.which)(&self.cluster).count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_reached_but_not_passed_and_units_come_back() {
        let breakers = Breakers::new(1);
        let (one, same) = (breakers.cluster("a"), breakers.cluster("a"));
        let first = one.admit(|all| &all.connections, 2);
        let second = same.admit(|all| &all.connections, 2);
        assert!(first.is_some() && second.is_some());
        assert!(one.admit(|all| &all.connections, 2).is_none());
        assert!(one.admit(|all| &all.pending, 1).is_some());
        drop(first);
        assert!(same.admit(|all| &all.connections, 2).is_some());
        assert_eq!(one.connections.count(), 1);
    }

    #[test]
    fn a_limit_of_zero_admits_nothing() {
        let breakers = Breakers::new(1).cluster("a");
        assert!(breakers.admit(|all| &all.pending, 0).is_none());
        assert!(!breakers.requests.admit(0, 0));
    }

    #[test]
    fn requests_are_limited_over_all_shards() {
        let breakers = Breakers::new(2).cluster("a");
        assert!(breakers.requests.admit(0, 2) && breakers.requests.admit(1, 2));
        assert!(!breakers.requests.admit(0, 2));
        breakers.requests.release(1);
        assert_eq!(breakers.requests.count(), 1);
        assert!(breakers.requests.admit(0, 2));
    }
}
