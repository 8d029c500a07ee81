//! Upstream HTTP/1.1 connections and the pools they rest in, one pool per endpoint and shard.
//!
//! Invariant: a pooled connection is quiet. One on which the peer sent, finished or failed while
//! it rested is never given to a request; the janitor closes it as soon as that is known.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use outrigger_xds::snapshot::AlpnOverrides;

use crate::shard::{Shard, spawn_guarded};
use crate::timer::{Nanos, Timer, nanos};
use crate::transport::Transport;

use super::bind::Source;
use super::breakers::Admission;
use super::meter::Meter;
use super::{ClusterRuntime, Host};

/// What a connection must have been made with to serve a request (TL-03).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The server name to ask for, where that depends on the request.
    pub server_name: Option<&'a str>,
    /// What to offer in place of what the configuration has.
    pub alpn: Option<&'a Arc<AlpnOverrides>>,
    /// The client whose address it must come from.
    pub source: Option<Source>,
}

/// What a connection was made with.
#[derive(Debug)]
pub(super) struct Made {
    server_name: Option<Box<str>>,
    alpn: Option<Arc<AlpnOverrides>>,
    source: Option<Source>,
}

impl Made {
    /// Whether that is what is wanted.
    pub(super) fn suits(&self, wanted: Wanted<'_>) -> bool {
        self.wanted() == wanted
    }

    /// The same, as what is wanted.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted {
            server_name: self.server_name.as_deref(),
            alpn: self.alpn.as_ref(),
            source: self.source,
        }
    }
}

impl From<Wanted<'_>> for Made {
    fn from(wanted: Wanted<'_>) -> Self {
        let Wanted { server_name, alpn, source } = wanted;
        Self { server_name: server_name.map(Box::from), alpn: alpn.cloned(), source }
    }
}

/// A connection to an endpoint. Dropping it closes it. Boxed, as it goes from pool to request and back.
pub struct UpstreamConnection {
    /// The bytes; receiving has started.
    pub transport: Transport,
    /// What is counted of it.
    pub meter: Meter,
    made: Made,
    idle_since: Nanos,
}

impl UpstreamConnection {
    /// Takes charge of a fresh connection.
    pub fn new(
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        host: &Host,
        transport: Transport,
        wanted: Wanted<'_>,
        admission: Admission,
    ) -> Box<Self> {
        transport.start();
        cluster.stats.upstream_cx_http1_total.inc();
        let meter = Meter::new(shard, cluster, host, admission);
        Box::new(Self { transport, made: wanted.into(), idle_since: meter.created_at, meter })
    }

    /// Goes on with a connection that another process has made.
    pub fn adopt(
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        host: &Host,
        transport: Transport,
        requests: u32,
    ) -> Box<Self> {
        transport.start();
        let meter = Meter::adopted(shard, cluster, host, requests);
        let made = Wanted::default().into();
        Box::new(Self { transport, made, idle_since: meter.created_at, meter })
    }

    fn expires_at(&self) -> Option<Nanos> {
        let timeout = self.meter.cluster.config.http.idle_timeout;
        timeout.map(|timeout| self.idle_since + nanos(timeout))
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        let stats = &self.meter.cluster.stats;
        stats.upstream_cx_tx_bytes_total.add(self.transport.sent_bytes());
    }
}

impl Host {
    /// The connection that rested least: the likeliest to be alive, and the others can expire.
    pub fn take_idle(&self, wanted: Wanted<'_>) -> Option<Box<UpstreamConnection>> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let at = idle.iter().rposition(|connection| connection.made.suits(wanted))?;
            let connection = idle.remove(at);
            if connection.transport.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Takes all connections that rest and could be anybody's: in plain text, and from our own address.
    pub fn take_plain_idle(&self) -> Vec<Box<UpstreamConnection>> {
        let is_plain = |connection: &mut Box<UpstreamConnection>| {
            matches!(connection.transport, Transport::Plain(_))
                && connection.made.suits(Wanted::default())
        };
        self.idle.borrow_mut().extract_if(.., is_plain).collect()
    }

    /// Puts a connection to rest after a clean exchange, or closes it when it may not serve more.
    pub fn give_back(&self, shard: &Shard, mut connection: Box<UpstreamConnection>) {
        let rests = !self.retired.get()
            && connection.transport.is_quiet()
            && connection.transport.unsent() == 0
            && connection.meter.may_serve_more();
        if !rests {
            return;
        }
        connection.idle_since = shard.clock.now();
        let cluster = Rc::clone(&connection.meter.cluster);
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
            } else if !idle[index].transport.is_quiet() {
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
            connection.transport.register(waker);
        }
        // Only the first of a quiet pool moves the timer; later expiries are found by the sweep.
        if let Some(at) = connection.expires_at() {
            self.look_by(at);
        }
    }

    /// Has the sweep run at this time at the latest.
    pub(super) fn look_by(&self, at: Nanos) {
        if self.due.get().is_none_or(|due| at < due) {
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
        let mut next = None;
        self.shard.serving.visit_hosts(|cluster, host| {
            next = earliest(next, host.sweep(cluster, now));
        });
        next = earliest(next, self.shard.serving.sweep(now));
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
