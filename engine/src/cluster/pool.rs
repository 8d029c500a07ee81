//! Upstream HTTP/1.1 connections and the pools they rest in, one pool per endpoint and shard.
//!
//! Invariant: a pooled connection is quiet. One on which the peer sent, finished or failed while
//! it rested is never given to a request; the janitor closes it as soon as that is known.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::ring::Socket;
use crate::shard::{Shard, spawn_guarded};
use crate::stats::HostStats;
use crate::timer::{NANOS_PER_MS, Nanos, Timer, nanos};

use super::breakers::Admission;
use super::{ClusterRuntime, Host};

/// A connection to an endpoint. Dropping it closes it.
pub struct UpstreamConnection {
    /// The socket; receiving has started.
    pub socket: Socket,
    /// Its number in logs.
    pub id: u64,
    cluster: Rc<ClusterRuntime>,
    host: Arc<HostStats>,
    shard: Rc<Shard>,
    created_at: Nanos,
    idle_since: Nanos,
    requests: u32,
    _admission: Admission,
}

impl UpstreamConnection {
    /// Takes charge of a fresh connection.
    pub fn new(
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        host: &Host,
        socket: Socket,
        admission: Admission,
    ) -> Self {
        socket.start();
        cluster.stats.upstream_cx_total.inc();
        cluster.stats.upstream_cx_active.inc();
        cluster.stats.upstream_cx_http1_total.inc();
        host.stats.cx_total.inc();
        host.stats.cx_active.inc();
        let now = shard.clock.now();
        Self {
            socket,
            host: Arc::clone(&host.stats),
            id: shard.next_connection_id(),
            cluster: Rc::clone(cluster),
            shard: Rc::clone(shard),
            created_at: now,
            idle_since: now,
            requests: 0,
            _admission: admission,
        }
    }

    /// Counts a request about to be sent. True when it is the connection's first.
    pub fn begin_request(&mut self) -> bool {
        self.requests += 1;
        self.requests == 1
    }

    /// True when the configuration's limits let it serve another request.
    fn may_serve_more(&self) -> bool {
        let limits = &self.cluster.config.http;
        if limits.max_requests_per_connection.is_some_and(|limit| self.requests >= limit) {
            self.cluster.stats.upstream_cx_max_requests.inc();
            return false;
        }
        let age = self.shard.clock.now() - self.created_at;
        limits.max_connection_duration.is_none_or(|limit| age < nanos(limit))
    }

    fn expires_at(&self) -> Option<Nanos> {
        self.cluster.config.http.idle_timeout.map(|timeout| self.idle_since + nanos(timeout))
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        let stats = &self.cluster.stats;
        self.host.cx_active.dec();
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        stats
            .upstream_cx_length_ms
            .record((self.shard.clock.now() - self.created_at) / NANOS_PER_MS);
        stats.upstream_cx_tx_bytes_total.add(self.socket.sent_bytes());
        self.cluster.wake_next(&self.shard);
    }
}

impl Host {
    /// The connection that rested least: the likeliest to be alive, and the others can expire.
    pub fn take_idle(&self) -> Option<UpstreamConnection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(connection) = idle.pop() {
            if connection.socket.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Puts a connection to rest after a clean exchange, or closes it when it may not serve more.
    pub fn give_back(&self, shard: &Shard, mut connection: UpstreamConnection) {
        let rests = !self.retired.get()
            && connection.socket.is_quiet()
            && connection.socket.unsent() == 0
            && connection.may_serve_more();
        if !rests {
            return;
        }
        connection.idle_since = shard.clock.now();
        let cluster = Rc::clone(&connection.cluster);
        shard.janitor.watch(&connection);
        self.idle.borrow_mut().push(connection);
        cluster.wake_next(shard);
    }

    /// Closes what is no longer quiet or has rested too long. Returns when the next one expires.
    fn sweep(&self, cluster: &ClusterRuntime, now: Nanos) -> Option<Nanos> {
        let mut idle = self.idle.borrow_mut();
        let mut next = None;
        let mut closed = Vec::new();
        let mut index = 0;
        while index < idle.len() {
            let expired = idle[index].expires_at().is_some_and(|at| at <= now);
            if expired {
                cluster.stats.upstream_cx_idle_timeout.inc();
            } else if !idle[index].socket.is_quiet() {
                cluster.stats.upstream_cx_destroy_remote.inc();
            } else {
                next = earliest(next, idle[index].expires_at());
                index += 1;
                continue;
            }
            closed.push(idle.remove(index));
        }
        // Closing wakes requests that wait, which must not find the pool borrowed.
        drop(idle);
        drop(closed);
        next
    }
}

/// Wakes the janitor's task: resting connections report to it instead of to a request.
pub struct Janitor {
    waker: std::cell::RefCell<Option<Waker>>,
    timer: Timer,
    /// The earliest expiry the timer is set for.
    due: std::cell::Cell<Option<Nanos>>,
}

impl Janitor {
    /// A janitor whose task is not running yet.
    pub fn new(timer: Timer) -> Self {
        Self { waker: std::cell::RefCell::new(None), timer, due: std::cell::Cell::new(None) }
    }

    fn watch(&self, connection: &UpstreamConnection) {
        if let Some(waker) = &*self.waker.borrow() {
            connection.socket.register(waker);
        }
        // Only the first of a quiet pool moves the timer; later expiries are found by the sweep.
        if let Some(at) = connection.expires_at()
            && self.due.get().is_none_or(|due| at < due)
        {
            self.schedule(Some(at));
        }
    }

    fn schedule(&self, at: Option<Nanos>) {
        self.due.set(at);
        self.timer.set(at);
    }
}

/// Runs the janitor of `shard`: closes resting connections that ended or expired.
pub fn spawn_janitor(shard: &Rc<Shard>) {
    spawn_guarded(shard, Sweeping { shard: Rc::clone(shard) });
}

struct Sweeping {
    shard: Rc<Shard>,
}

impl Future for Sweeping {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let janitor = &self.shard.janitor;
        janitor.waker.replace(Some(context.waker().clone()));
        janitor.timer.register(context.waker());
        let _fired = janitor.timer.take_fired();
        let now = self.shard.clock.now();
        let serving = self.shard.serving();
        let next =
            serving.hosts().map(|(cluster, host)| host.sweep(cluster, now)).fold(None, earliest);
        janitor.schedule(next);
        Poll::Pending
    }
}

fn earliest(one: Option<Nanos>, other: Option<Nanos>) -> Option<Nanos> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
