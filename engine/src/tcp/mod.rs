//! The TCP proxy: bytes both ways, FIN forwarded for each direction by itself (contract section 4).
//!
//! Invariant: no byte is read from one side before the other can take it, and the connection ends
//! when both directions have.

mod metrics;
mod telemetry;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use outrigger_upgrade::record::{ProtocolRecord, TcpRecord};
use outrigger_xds::snapshot::TcpProxy;

use crate::access_log::{
    self, AccessLogs, ByteCounts, Capture, LogType, Record, ResponseFlags, Times,
};
use crate::cluster::{Admission, ClusterRuntime, ConnectError, Connector, Host, Wanted};
use crate::connection::moving::{Leave, proxied};
use crate::connection::{Admitted, ConnectionGuard, ConnectionInfo};
use crate::ring::{Received, Socket, Watermarks};
use crate::shard::Shard;
use crate::stats::TcpStats;
use crate::timer::{NANOS_PER_MS, Nanos, Timer, after};
use crate::transport::Transport;

use self::metrics::{ConnectionMetrics, Ends};

pub use self::telemetry::ChainTelemetry;

/// One TCP proxy on one shard.
pub struct TcpRuntime {
    config: Arc<TcpProxy>,
    stats: Arc<TcpStats>,
    /// Istio's metrics, where the chain has them.
    telemetry: Rc<ChainTelemetry>,
    logs: Arc<AccessLogs>,
}

impl TcpRuntime {
    /// Makes the runtime of `config`, which counts in `telemetry` as well.
    pub fn new(
        shard: &Shard,
        config: Arc<TcpProxy>,
        telemetry: Rc<ChainTelemetry>,
        logs: Arc<AccessLogs>,
    ) -> Self {
        let stats = shard.registry.tcp(shard.index, &config.stat_prefix);
        Self { config, stats, telemetry, logs }
    }
}

/// The task of one proxied connection.
pub struct TcpConnection {
    shard: Rc<Shard>,
    tcp: Rc<TcpRuntime>,
    info: ConnectionInfo,
    down: Transport,
    up: Upstream,
    cluster: Option<Rc<ClusterRuntime>>,
    host: Option<Rc<Host>>,
    timer: Timer,
    marks: Watermarks,
    attempts: u32,
    connect_by: Option<Nanos>,
    idle_by: Option<Nanos>,
    end_by: Option<Nanos>,
    /// FIN was passed on: from downstream to upstream, and back.
    ended: [bool; 2],
    /// Why no TLS with upstream could be had.
    transport_failure: String,
    times: Times,
    bytes: ByteCounts,
    /// Of these, what another process has counted.
    bytes_before: ByteCounts,
    flags: ResponseFlags,
    metrics: Option<ConnectionMetrics>,
    watched: bool,
    guard: ConnectionGuard,
}

enum Upstream {
    NotYet,
    Connecting {
        connector: Connector,
        admission: Admission,
    },
    Connected {
        transport: Transport,
        /// Nothing for one that came from a process with another limit.
        _admission: Option<Admission>,
    },
}

impl TcpConnection {
    /// Proxies a connection.
    pub fn new(shard: &Rc<Shard>, tcp: &Rc<TcpRuntime>, admitted: Admitted) -> Self {
        tcp.stats.downstream_cx_total.inc();
        let metrics = tcp.telemetry.current(shard).map(ConnectionMetrics::new);
        Self::begin(shard, tcp, admitted, metrics)
    }

    /// Goes on with a connection that a predecessor has connected.
    pub fn adopt(
        shard: &Rc<Shard>,
        tcp: &Rc<TcpRuntime>,
        admitted: Admitted,
        record: &TcpRecord,
        upstream: Socket,
        (cluster, host): (Rc<ClusterRuntime>, Option<Rc<Host>>),
    ) -> Self {
        let bytes = ByteCounts {
            received: record.received_bytes,
            sent: record.sent_bytes,
            ..ByteCounts::default()
        };
        let metrics = tcp.telemetry.current(shard);
        let metrics = metrics.map(|telemetry| ConnectionMetrics::adopted(telemetry, bytes));
        let mut new = Self::begin(shard, tcp, admitted, metrics);
        new.times.downstream_rx_begin = shard.clock.now().saturating_sub(new.guard.age());
        new.end_by = new.end_by.map(|at| at.saturating_sub(new.guard.age()));
        (new.bytes, new.bytes_before) = (bytes, bytes);
        new.attempts = record.attempts;
        cluster.stats.upstream_cx_active.inc();
        let admission = cluster.breakers.admit(|all| &all.connections, u32::MAX);
        (new.cluster, new.host) = (Some(cluster), host);
        upstream.start();
        new.down.start();
        new.ended = [record.downstream_ended, record.upstream_ended];
        if record.downstream_ended {
            upstream.finish();
        }
        if record.upstream_ended {
            new.down.finish();
        }
        let transport = Transport::Plain(upstream);
        new.up = Upstream::Connected { transport, _admission: admission };
        new
    }

    fn begin(
        shard: &Rc<Shard>,
        tcp: &Rc<TcpRuntime>,
        admitted: Admitted,
        metrics: Option<ConnectionMetrics>,
    ) -> Self {
        let Admitted { transport: down, info, marks, guard } = admitted;
        let now = shard.clock.now();
        info.leaving.set_able(matches!(down, Transport::Plain(_)));
        Self {
            shard: Rc::clone(shard),
            tcp: Rc::clone(tcp),
            metrics,
            info,
            down,
            up: Upstream::NotYet,
            cluster: None,
            host: None,
            timer: shard.timers.timer(),
            marks,
            attempts: 0,
            connect_by: None,
            idle_by: after(now, tcp.config.idle_timeout),
            end_by: after(now, tcp.config.max_downstream_connection_duration),
            ended: [false; 2],
            transport_failure: String::new(),
            times: Times { downstream_rx_begin: now, ..Times::default() },
            bytes: ByteCounts::default(),
            bytes_before: ByteCounts::default(),
            flags: ResponseFlags::default(),
            watched: false,
            guard,
        }
    }

    /// Does what can be done; true when the connection is over.
    fn run(&mut self, waker: &Waker) -> bool {
        if self.info.leaving.is_under_way() {
            return self.leave(waker);
        }
        if self.timer.take_fired() && self.has_expired() {
            return true;
        }
        if matches!(self.up, Upstream::NotYet) && !self.connect(waker) {
            return true;
        }
        if !self.check_connect(waker) {
            return true;
        }
        let over = match &self.up {
            Upstream::Connected { .. } => self.relay(),
            // Until connected, downstream is not read (upstream_connect_mode IMMEDIATE).
            Upstream::NotYet | Upstream::Connecting { .. } => self.down.is_over(),
        };
        let report_by = self.metrics.as_ref().and_then(|metrics| metrics.due);
        let deadlines = [self.connect_by, self.idle_by, self.end_by, report_by];
        self.timer.set(deadlines.into_iter().flatten().min());
        over || self.leave(waker)
    }

    /// Goes on its way to a successor, where there is one: bytes have no boundary to be waited for. True
    /// when it is there.
    fn leave(&mut self, waker: &Waker) -> bool {
        let (Transport::Plain(down), Upstream::Connected { transport: Transport::Plain(up), .. }) =
            (&self.down, &self.up)
        else {
            return false;
        };
        let record = || {
            let record = TcpRecord {
                downstream_ended: self.ended[0],
                upstream_ended: self.ended[1],
                received_bytes: self.bytes.received,
                sent_bytes: self.bytes.sent,
                attempts: self.attempts,
                ..proxied(self.cluster.as_deref(), self.host.as_deref(), up)
            };
            self.info.outline(&self.guard, down, &[], ProtocolRecord::Tcp(record))
        };
        match self.info.leaving.advance(&self.shard, waker, &[down, up], record) {
            Leave::Stays | Leave::Waits => false,
            Leave::Left(_) => {
                self.guard.leaves();
                true
            }
        }
    }

    /// Starts to connect. False when there is nowhere to connect to.
    fn connect(&mut self, waker: &Waker) -> bool {
        let target = self.tcp.config.target.pick(self.shard.random());
        let Some(cluster) = self.shard.serving.cluster(target.id()) else {
            self.tcp.stats.downstream_cx_no_route.inc();
            self.flags.insert(ResponseFlags::NO_CLUSTER_FOUND);
            return false;
        };
        self.cluster = Some(Rc::clone(&cluster));
        while self.attempts < self.tcp.config.max_connect_attempts {
            self.attempts += 1;
            let Some(host) = cluster.choose(&self.shard, |_| self.info.ends.original) else {
                self.flags.insert(ResponseFlags::NO_HEALTHY_UPSTREAM);
                return false;
            };
            let limit = cluster.config.circuit_breakers.max_connections;
            let Some(admission) = cluster.breakers.admit(|all| &all.connections, limit) else {
                cluster.stats.upstream_cx_overflow.inc();
                self.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
                return false;
            };
            let now = self.shard.clock.now();
            self.times.upstream_connect_begin = now;
            let wanted = Wanted { source: self.info.ends.source(), ..Wanted::default() };
            let connector = Connector::start(&self.shard, &cluster, &host, wanted, &[]);
            self.host = Some(host);
            match connector {
                Ok(connector) => {
                    connector.register(waker);
                    self.connect_by = after(now, Some(cluster.config.connect_timeout));
                    self.up = Upstream::Connecting { connector, admission };
                    return true;
                }
                Err(_) => cluster.stats.upstream_cx_connect_fail.inc(),
            }
        }
        cluster.stats.upstream_cx_connect_attempts_exceeded.inc();
        self.flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        false
    }

    /// Looks at a connect under way. False when it failed for the last time.
    fn check_connect(&mut self, waker: &Waker) -> bool {
        let (connector, admission) = match std::mem::replace(&mut self.up, Upstream::NotYet) {
            Upstream::Connecting { connector, admission } => (connector, admission),
            other => {
                self.up = other;
                return true;
            }
        };
        match connector.ready(waker) {
            Ok(Err(connector)) => {
                self.up = Upstream::Connecting { connector, admission };
                true
            }
            Ok(Ok(transport)) => {
                self.connected(transport, admission, waker);
                true
            }
            Err(error) => {
                if let ConnectError::Tls(error) = &error {
                    self.transport_failure = format!("TLS_error: {error}");
                }
                if let Some(cluster) = &self.cluster {
                    cluster.stats.upstream_cx_connect_fail.inc();
                }
                drop(admission);
                self.connect(waker)
            }
        }
    }

    fn connected(&mut self, transport: Transport, admission: Admission, waker: &Waker) {
        let now = self.shard.clock.now();
        self.times.upstream_connect_end = now;
        self.connect_by = None;
        if let Some(cluster) = &self.cluster {
            cluster.stats.upstream_cx_total.inc();
            cluster.stats.upstream_cx_active.inc();
            let took = now - self.times.upstream_connect_begin;
            cluster.stats.upstream_cx_connect_ms.record(took / NANOS_PER_MS);
        }
        transport.register(waker);
        transport.start();
        self.down.start();
        if let Transport::Tls(_) = transport {
            self.info.leaving.set_able(false);
        }
        self.up = Upstream::Connected { transport, _admission: Some(admission) };
        self.report(false);
    }

    /// Moves bytes both ways. True when the connection is over.
    fn relay(&mut self) -> bool {
        let Upstream::Connected { transport: up, .. } = &self.up else { return false };
        let mut moved = 0;
        let (received, up_alive) = pump(&self.down, up, self.marks, &mut self.ended[0], &mut moved);
        let (sent, down_alive) = pump(up, &self.down, self.marks, &mut self.ended[1], &mut moved);
        self.down.flush();
        up.flush();
        self.bytes.received += received;
        self.bytes.sent += sent;
        if moved > 0 {
            let now = self.shard.clock.now();
            self.idle_by = after(now, self.tcp.config.idle_timeout);
            if let Some(metrics) = &mut self.metrics {
                metrics.moved(now);
            }
        }
        if !up_alive || !down_alive {
            // One side failed: nobody must take what was cut off for the whole.
            self.down.reset_on_close();
            up.reset_on_close();
            return true;
        }
        let both_ended = self.ended == [true; 2];
        both_ended && up.is_finished() && self.down.is_finished()
    }

    fn has_expired(&mut self) -> bool {
        let now = self.shard.clock.now();
        let passed = |deadline: Option<Nanos>| deadline.is_some_and(|at| at <= now);
        if passed(self.connect_by) {
            self.connect_by = None;
            self.up = Upstream::NotYet;
            if let Some(cluster) = &self.cluster {
                cluster.stats.upstream_cx_connect_timeout.inc();
                cluster.stats.upstream_cx_connect_fail.inc();
            }
            return false;
        }
        if passed(self.metrics.as_ref().and_then(|metrics| metrics.due)) {
            self.report(false);
        }
        if passed(self.end_by) {
            self.tcp.stats.max_downstream_connection_duration.inc();
            self.flags.insert(ResponseFlags::DURATION_TIMEOUT);
            return true;
        }
        if passed(self.idle_by) {
            self.tcp.stats.idle_timeout.inc();
            return true;
        }
        false
    }

    /// Counts the connection in Istio's metrics.
    fn report(&mut self, is_over: bool) {
        let Some(metrics) = &mut self.metrics else { return };
        let upstream = match &self.up {
            Upstream::Connected { transport, .. } => transport.session().map(|session| &**session),
            Upstream::NotYet | Upstream::Connecting { .. } => None,
        };
        let ends = Ends {
            cluster: self.cluster.as_ref().map(|cluster| &cluster.config),
            host: self.host.as_deref(),
            downstream: self.info.tls.as_deref(),
            upstream,
            flags: self.flags,
        };
        metrics.report(&self.shard, &ends, self.bytes, is_over);
    }

    fn log(&mut self) {
        let now = self.shard.clock.now();
        self.times.end = now;
        let age = self.guard.age();
        let mut record = Record {
            start_wall_ns: self.shard.clock.unix_ns() - age,
            emit_wall_ns: self.shard.clock.unix_ns(),
            times: self.times,
            flags: self.flags,
            bytes: self.bytes,
            upstream_attempts: self.attempts,
            upstream_transport_failure: Some(&*self.transport_failure)
                .filter(|reason| !reason.is_empty()),
            log_type: LogType::TcpConnectionEnd,
            ..self.info.record()
        };
        if let (Some(cluster), Some(host)) = (&self.cluster, &self.host) {
            record.upstream_cluster = Some(&cluster.config.stat_name);
            record.upstream_cluster_raw = Some(&cluster.config.name);
            record.upstream_remote = host.endpoint.address.ip().map(access_log::Address::Ip);
        }
        record.downstream_transport_failure = self.down.failure();
        if let Upstream::Connected { transport, .. } = &self.up {
            record.upstream_tls = transport.session().map(|session| &**session);
        }
        self.shard.logger.borrow_mut().log(&self.tcp.logs, &record, &Capture::default());
    }
}

/// Moves what `from` has to `to` until `to` is full. Returns the bytes moved, and false when `from`
/// failed.
fn pump(
    from: &Transport,
    to: &Transport,
    marks: Watermarks,
    ended: &mut bool,
    moved: &mut u64,
) -> (u64, bool) {
    let mut bytes = 0;
    while !*ended {
        if to.unsent() >= marks.high {
            to.wake_at_unsent(marks.low());
            break;
        }
        match from.receive() {
            Received::Chunk(chunk) => {
                bytes += chunk.len() as u64;
                to.send(chunk);
            }
            Received::None => break,
            Received::End => {
                *ended = true;
                to.finish();
            }
            Received::Failed(_) => return (bytes, false),
        }
    }
    *moved += bytes;
    (bytes, to.send_error().is_none())
}

impl Future for TcpConnection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.watched {
            this.watched = true;
            this.down.register(context.waker());
            if let Upstream::Connected { transport, .. } = &this.up {
                transport.register(context.waker());
            }
            this.timer.register(context.waker());
            this.guard.wake_at_drain(context.waker());
        }
        if this.run(context.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        let has_left = self.guard.has_left();
        let received = self.bytes.received - self.bytes_before.received;
        let sent = self.bytes.sent - self.bytes_before.sent;
        self.tcp.stats.downstream_cx_rx_bytes_total.add(received);
        self.tcp.stats.downstream_cx_tx_bytes_total.add(sent);
        if let (Upstream::Connected { .. }, Some(cluster)) = (&self.up, &self.cluster) {
            cluster.stats.upstream_cx_active.dec();
            if !has_left {
                cluster.stats.upstream_cx_destroy.inc();
            }
            cluster.stats.upstream_cx_tx_bytes_total.add(received);
            cluster.stats.upstream_cx_rx_bytes_total.add(sent);
        }
        self.report(!has_left);
        if !self.tcp.logs.is_empty() && !has_left {
            self.log();
        }
    }
}
