//! What is counted of an upstream connection, from its first byte to its close.

use std::rc::Rc;
use std::sync::Arc;

use crate::shard::Shard;
use crate::stats::HostStats;
use crate::timer::{NANOS_PER_MS, Nanos};

use super::breakers::Admission;
use super::{ClusterRuntime, Host};

/// Counts a connection for as long as it lives, and holds its place under the limit.
pub struct Meter {
    /// The connection's number in logs.
    pub id: u64,
    /// Where it leads.
    pub cluster: Rc<ClusterRuntime>,
    pub(super) shard: Rc<Shard>,
    host: Arc<HostStats>,
    pub(super) created_at: Nanos,
    requests: u32,
    /// Its end is another process's to count.
    has_left: bool,
    /// Nothing for one that came from a process with another limit.
    _admission: Option<Admission>,
}

impl Meter {
    /// Begins to count.
    pub fn new(
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        host: &Host,
        admission: Admission,
    ) -> Self {
        cluster.stats.upstream_cx_total.inc();
        host.stats.cx_total.inc();
        Self::begin(shard, cluster, host, Some(admission), 0)
    }

    /// The same for a connection that another process has made.
    pub(super) fn adopted(
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        host: &Host,
        requests: u32,
    ) -> Self {
        // It is there already: limits are for those that are made.
        let admission = cluster.breakers.admit(|all| &all.connections, u32::MAX);
        Self::begin(shard, cluster, host, admission, requests)
    }

    fn begin(
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        host: &Host,
        admission: Option<Admission>,
        requests: u32,
    ) -> Self {
        cluster.stats.upstream_cx_active.inc();
        host.stats.cx_active.inc();
        Self {
            id: shard.next_connection_id(),
            host: Arc::clone(&host.stats),
            cluster: Rc::clone(cluster),
            shard: Rc::clone(shard),
            created_at: shard.clock.now(),
            requests,
            has_left: false,
            _admission: admission,
        }
    }

    /// Requests that were sent.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// Its end is another process's to count.
    pub fn leaves(&mut self) {
        self.has_left = true;
    }

    /// Counts a request about to be sent. True when it is the connection's first.
    pub fn begin_request(&mut self) -> bool {
        self.requests += 1;
        self.requests == 1
    }

    /// True when the configuration's limits let the connection serve another request.
    pub fn may_serve_more(&self) -> bool {
        let limits = &self.cluster.config.http;
        if limits.max_requests_per_connection.is_some_and(|limit| self.requests >= limit) {
            self.cluster.stats.upstream_cx_max_requests.inc();
            return false;
        }
        let age = self.shard.clock.now() - self.created_at;
        limits.max_connection_duration.is_none_or(|limit| age < crate::timer::nanos(limit))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let stats = &self.cluster.stats;
        self.host.cx_active.dec();
        stats.upstream_cx_active.dec();
        if !self.has_left {
            stats.upstream_cx_destroy.inc();
            let age = self.shard.clock.now() - self.created_at;
            stats.upstream_cx_length_ms.record(age / NANOS_PER_MS);
        }
        self.cluster.wake_next(&self.shard);
    }
}
