//! Circuit breakers: limits of a cluster that hold over all shards (contract section 14).
//!
//! Invariant: a unit that was admitted is given back exactly once, by dropping its [`Admission`].
//! None of these cells is written in the steady state, when pooled connections are reused.

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

/// The counts of one cluster.
#[derive(Debug, Default)]
pub struct ClusterBreakers {
    /// Connections, being made or made.
    pub connections: Breaker,
    /// Requests that wait for a connection.
    pub pending: Breaker,
    /// Requests under way; counted only where the limit is below that of connections, which
    /// otherwise implies it for HTTP/1.1.
    pub requests: Breaker,
    /// Retries under way.
    pub retries: Breaker,
}

/// The counts of all clusters, by name.
#[derive(Debug, Default)]
pub struct Breakers {
    clusters: Mutex<HashMap<Box<str>, Arc<ClusterBreakers>>>,
}

impl Breakers {
    /// The counts of `cluster`, the same for every shard.
    pub fn cluster(&self, cluster: &str) -> Arc<ClusterBreakers> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = clusters.get(cluster) {
            return Arc::clone(known);
        }
        let new = Arc::<ClusterBreakers>::default();
        clusters.insert(cluster.into(), Arc::clone(&new));
        new
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
        let breakers = Breakers::default();
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
        let breakers = Breakers::default();
        assert!(breakers.cluster("a").admit(|all| &all.pending, 0).is_none());
    }
}
