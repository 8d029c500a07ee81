//! What is counted of a downstream connection, from its chain's choice to its close.

use std::cell::Cell;
use std::rc::Rc;

use crate::connection::ConnectionGuard;
use crate::shard::Shard;
use crate::timer::{NANOS_PER_MS, Nanos};

use super::HttpRuntime;

/// Counts a connection for as long as it lives.
pub struct ConnectionMeter {
    shard: Rc<Shard>,
    http: Rc<HttpRuntime>,
    is_tls: bool,
    created_at: Nanos,
    /// How old the connection was by then.
    age_before: Nanos,
    /// The connection is another process's now.
    has_left: Cell<bool>,
    closed_by_us: Cell<bool>,
}

impl ConnectionMeter {
    /// Begins to count.
    pub fn new(
        shard: &Rc<Shard>,
        http: &Rc<HttpRuntime>,
        is_tls: bool,
        guard: &ConnectionGuard,
    ) -> Self {
        if !guard.is_adopted() {
            http.stats.downstream_cx_total.inc();
        }
        http.stats.downstream_cx_active.inc();
        if is_tls {
            http.stats.downstream_cx_ssl_total.inc();
            http.stats.downstream_cx_ssl_active.inc();
        }
        Self {
            shard: Rc::clone(shard),
            http: Rc::clone(http),
            is_tls,
            created_at: shard.clock.now(),
            age_before: guard.age(),
            has_left: Cell::new(false),
            closed_by_us: Cell::new(false),
        }
    }

    /// When the connection began.
    pub fn created_at(&self) -> Nanos {
        self.created_at
    }

    /// The connection's end is another process's to count.
    pub fn leaves(&self) {
        self.has_left.set(true);
    }

    /// The close is ours.
    pub fn close_is_ours(&self) {
        self.closed_by_us.set(true);
    }

    /// How much was sent on it, at its end.
    pub fn sent(&self, bytes: u64) {
        self.http.stats.downstream_cx_tx_bytes_total.add(bytes);
    }
}

impl Drop for ConnectionMeter {
    fn drop(&mut self) {
        let stats = &self.http.stats;
        stats.downstream_cx_active.dec();
        if self.is_tls {
            stats.downstream_cx_ssl_active.dec();
        }
        if self.has_left.get() {
            return;
        }
        stats.downstream_cx_destroy.inc();
        if self.closed_by_us.get() {
            stats.downstream_cx_destroy_local.inc();
        } else {
            stats.downstream_cx_destroy_remote.inc();
        }
        let age = self.shard.clock.now() - self.created_at + self.age_before;
        stats.downstream_cx_length_ms.record(age / NANOS_PER_MS);
    }
}
