//! Getting an upstream connection, sending the head on it, and letting go of it.

use outrigger_codecs::http::Method;
use outrigger_codecs::http1::BodyDecoder;
use outrigger_xds::snapshot::CircuitBreakers;

use crate::cluster::{
    Admission, ClientStream, ClusterRuntime, ConnectError, Connector, Host, Http2Client, Joined,
    UpstreamConnection, Wanted,
};
use crate::shard::Shard;
use crate::transport::Transport;

use super::super::NANOS_PER_MS;
use super::super::after;
use super::super::http1;
use super::super::reply::{Reply, UpstreamFailure};
use super::super::upgrade::Tunnel;
use super::head::HeadForm;
use super::{Downstream, Exchange, ResponsePhase, Upstream};

use std::rc::Rc;

impl Exchange {
    /// Gets a connection: one at rest, a stream on one that is shared, a new one, or a place in the
    /// queue.
    pub(super) fn acquire(&mut self, down: &mut Downstream<'_>) {
        let Some((cluster, host)) = self.destination.clone() else { return };
        self.sent = false;
        let multiplexed = matches!(self.outbound.form, HeadForm::Fields) && !host.speaks_http1();
        let limits = cluster.config.circuit_breakers;
        if !self.admit(down.shard, &cluster, limits, multiplexed) {
            cluster.stats.upstream_rq_pending_overflow.inc();
            return self.reply(down, &Reply::upstream_failure(UpstreamFailure::Overflow));
        }
        if multiplexed {
            self.acquire_http2(down, &cluster, &host);
        } else {
            self.acquire_http1(down, &cluster, &host);
        }
    }

    /// Counts the request where its cluster limits requests by themselves. False above the limit.
    ///
    /// On HTTP/1.1 every request has a connection of its own, so the limit of connections bounds
    /// requests too, unless theirs is the lower one.
    fn admit(
        &mut self,
        shard: &Shard,
        cluster: &ClusterRuntime,
        limits: CircuitBreakers,
        multiplexed: bool,
    ) -> bool {
        let implied = !multiplexed && limits.max_requests >= limits.max_connections;
        if self.counted || implied || limits.max_requests == u32::MAX {
            return true;
        }
        self.counted = cluster.breakers.requests.admit(shard.index, limits.max_requests);
        self.counted
    }

    fn acquire_http1(
        &mut self,
        down: &mut Downstream<'_>,
        cluster: &Rc<ClusterRuntime>,
        host: &Rc<Host>,
    ) {
        if self.tunnel != Tunnel::ConnectTerminated
            && self.replays == 0
            && let Some(connection) = host.take_idle(self.wanted(down))
        {
            return self.activate(down, connection);
        }
        let Some((pending, connection)) = self.admit_connection(down, cluster) else { return };
        let wanted = self.wanted(down);
        let alpn: &[&[u8]] =
            if self.tunnel == Tunnel::ConnectTerminated { &[] } else { &[b"http/1.1"] };
        match Connector::start(down.shard, cluster, host, wanted, alpn) {
            Ok(connector) => {
                let now = down.shard.clock.now();
                connector.register(down.waker);
                self.facts.times.upstream_connect_begin = now;
                self.deadlines.connect = after(now, Some(cluster.config.connect_timeout));
                self.upstream = Upstream::Connecting { connector, connection, _pending: pending };
            }
            Err(error) => {
                cluster.stats.upstream_cx_connect_fail.inc();
                self.not_connected(down, &error);
            }
        }
    }

    fn acquire_http2(
        &mut self,
        down: &mut Downstream<'_>,
        cluster: &Rc<ClusterRuntime>,
        host: &Rc<Host>,
    ) {
        match host.join(self.wanted(down), down.waker) {
            Some((_, Joined::Stream(stream))) => return self.activate_http2(down, stream),
            Some((client, _)) => {
                let Some(pending) = self.admit_pending(down, cluster) else { return };
                self.upstream = Upstream::Joining { client, _pending: pending };
                return;
            }
            None => {}
        }
        let Some((pending, connection)) = self.admit_connection(down, cluster) else { return };
        self.facts.times.upstream_connect_begin = down.shard.clock.now();
        match host.connect_http2(down.shard, cluster, self.wanted(down), connection) {
            Ok(client) => self.join(down, client, pending),
            Err(error) => {
                cluster.stats.upstream_cx_connect_fail.inc();
                self.not_connected(down, &error);
            }
        }
    }

    /// What its connection must have been made with.
    fn wanted(&self, down: &Downstream<'_>) -> Wanted<'_> {
        Wanted {
            server_name: self.outbound.server_name.as_deref(),
            alpn: self.filtered.alpn.as_ref(),
            source: down.info.ends.source(),
        }
    }

    /// Admits another connection, and the request that waits for it. Nothing when the request was
    /// answered, or has to wait for another one to end.
    fn admit_connection(
        &mut self,
        down: &mut Downstream<'_>,
        cluster: &Rc<ClusterRuntime>,
    ) -> Option<(Admission, Admission)> {
        let pending = self.admit_pending(down, cluster)?;
        let limit = cluster.config.circuit_breakers.max_connections;
        let Some(connection) = cluster.breakers.admit(|all| &all.connections, limit) else {
            self.wait(down, cluster, pending);
            return None;
        };
        cluster.stats.upstream_rq_pending_total.inc();
        Some((pending, connection))
    }

    fn admit_pending(
        &mut self,
        down: &mut Downstream<'_>,
        cluster: &Rc<ClusterRuntime>,
    ) -> Option<Admission> {
        let limit = cluster.config.circuit_breakers.max_pending_requests;
        let pending = cluster.breakers.admit(|all| &all.pending, limit);
        if pending.is_none() {
            cluster.stats.upstream_rq_pending_overflow.inc();
            self.reply(down, &Reply::upstream_failure(UpstreamFailure::Overflow));
        }
        pending
    }

    /// Waits for another request to end.
    fn wait(&mut self, down: &Downstream<'_>, cluster: &ClusterRuntime, pending: Admission) {
        cluster.stats.upstream_cx_overflow.inc();
        let place = cluster.wait(down.waker);
        self.upstream = Upstream::Waiting { _pending: pending, _place: place };
    }

    /// Gets a stream on `client`, now or when it is connected.
    fn join(&mut self, down: &mut Downstream<'_>, client: Rc<Http2Client>, pending: Admission) {
        match client.join(down.waker) {
            Joined::Stream(stream) => {
                self.facts.times.upstream_connect_end = down.shard.clock.now();
                self.activate_http2(down, stream);
            }
            Joined::NotYet => self.upstream = Upstream::Joining { client, _pending: pending },
            Joined::Failed(error) => self.not_connected(down, &error),
            Joined::TimedOut => self.failed(down, UpstreamFailure::ConnectTimeout),
            Joined::Elsewhere => {
                drop(pending);
                self.acquire(down);
            }
        }
    }

    pub(super) fn poll_upstream(&mut self, down: &mut Downstream<'_>) {
        if matches!(self.upstream, Upstream::Idle | Upstream::Http1(_) | Upstream::Http2(_)) {
            return;
        }
        match std::mem::take(&mut self.upstream) {
            waiting @ Upstream::Waiting { .. } => {
                drop(waiting);
                self.acquire(down);
            }
            Upstream::Connecting { connector, connection, _pending } => {
                match connector.ready(down.waker) {
                    Ok(Err(connector)) => {
                        self.upstream = Upstream::Connecting { connector, connection, _pending };
                    }
                    Ok(Ok(transport)) => self.connected(down, transport, connection),
                    Err(error) => {
                        if let Some((cluster, _)) = &self.destination {
                            cluster.stats.upstream_cx_connect_fail.inc();
                            cluster.stats.upstream_rq_pending_failure_eject.inc();
                        }
                        self.not_connected(down, &error);
                    }
                }
            }
            Upstream::Joining { client, _pending } => self.join(down, client, _pending),
            other => self.upstream = other,
        }
    }

    fn connected(&mut self, down: &mut Downstream<'_>, transport: Transport, admission: Admission) {
        let Some((cluster, host)) = self.destination.clone() else { return };
        let now = down.shard.clock.now();
        self.deadlines.connect = None;
        self.facts.times.upstream_connect_end = now;
        let took = now - self.facts.times.upstream_connect_begin;
        cluster.stats.upstream_cx_connect_ms.record(took / NANOS_PER_MS);
        let wanted = self.wanted(down);
        let connection =
            UpstreamConnection::new(down.shard, &cluster, &host, transport, wanted, admission);
        self.activate(down, connection);
    }

    fn not_connected(&mut self, down: &mut Downstream<'_>, error: &ConnectError) {
        let Some((cluster, host)) = &self.destination else { return };
        self.deadlines.connect = None;
        let failure = match error {
            ConnectError::Local(_) | ConnectError::NoContext => UpstreamFailure::Local,
            ConnectError::Refused(_) | ConnectError::Tls(_) => UpstreamFailure::Connect,
        };
        if failure == UpstreamFailure::Local {
            log::warn!(
                target: "upstream",
                "{}: no connection to {} can be made: {error}",
                cluster.config.name, host.address_text
            );
        } else {
            log::debug!(
                target: "upstream",
                "{}: {} can't be reached: {error}",
                cluster.config.name, host.address_text
            );
        }
        if self.retries_failure(down, failure) {
            return;
        }
        let mut reply = Reply::upstream_failure(failure);
        if let ConnectError::Tls(error) = error {
            let reason = format!("TLS_error: {error}");
            reply.add_transport_failure(&reason);
            self.facts.upstream_transport_failure = reason;
        }
        self.reply(down, &reply);
    }

    /// Sends the head on an HTTP/1 connection.
    fn activate(&mut self, down: &mut Downstream<'_>, mut connection: Box<UpstreamConnection>) {
        self.reused = !connection.meter.begin_request();
        self.facts.upstream_connection_id = connection.meter.id;
        self.facts.upstream_tls = connection.transport.session().cloned();
        self.begin_attempt(down);
        connection.transport.register(down.waker);
        let again = self.reused && self.replays == 0 && self.request.complete;
        let again = again && self.is_idempotent();
        match &self.outbound.form {
            HeadForm::None => {
                down.send_established();
                self.facts.code = 200;
                self.response.phase = ResponsePhase::Body;
                self.response.body = BodyDecoder::UntilClose;
                self.open_tunnel();
            }
            HeadForm::Text(head) => {
                self.facts.bytes.upstream_header_sent += head.len() as u64;
                connection.transport.send(head.clone());
            }
            HeadForm::Fields => {
                let case = connection.meter.cluster.config.http.header_case;
                let head = self.outbound.text(&down.shard.arena, case, self.request.chunked);
                self.facts.bytes.upstream_header_sent += head.len() as u64;
                connection.transport.send(head);
            }
        }
        for chunk in self.outbound.kept() {
            let chunk = chunk.clone();
            http1::send_body(down.shard, &connection.transport, chunk, self.request.chunked);
        }
        if self.request.complete && self.request.chunked {
            http1::send_last_chunk(down.shard, &connection.transport, None);
        }
        self.may_replay = again;
        if !again && !self.retries.is_armed() {
            self.outbound.spend();
        }
        self.over_http2 = false;
        self.upstream = Upstream::Http1(connection);
    }

    /// Sends the head, and what is kept of the body, on a stream.
    fn activate_http2(&mut self, down: &mut Downstream<'_>, stream: ClientStream) {
        let ends = self.request.complete && self.outbound.kept().is_empty();
        let Some(first) = stream.send_head(&self.outbound.fields, ends, self.client.method) else {
            drop(stream);
            return self.acquire(down);
        };
        self.reused = !first;
        self.facts.upstream_connection_id = stream.connection_id();
        self.facts.upstream_tls = stream.tls();
        self.facts.bytes.upstream_header_sent += self.outbound.fields.text_len() as u64;
        self.begin_attempt(down);
        for chunk in self.outbound.kept() {
            stream.send(chunk.clone());
        }
        if self.request.complete && !ends {
            stream.end(None);
        }
        self.over_http2 = true;
        self.upstream = Upstream::Http2(stream);
    }

    fn begin_attempt(&mut self, down: &Downstream<'_>) {
        let Some((cluster, host)) = &self.destination else { return };
        self.facts.attempts += 1;
        let now = down.shard.clock.now();
        self.facts.times.upstream_tx_begin = now;
        if self.request.complete {
            self.facts.times.upstream_tx_end = now;
        }
        host.request_begins();
        cluster.stats.upstream_rq_total.inc();
        cluster.stats.upstream_rq_active.inc();
        self.sent = true;
        self.begin_try_deadlines(down.shard);
    }

    /// RFC 9110 section 9.2.2: sending it twice does what sending it once does.
    pub(super) fn is_idempotent(&self) -> bool {
        use Method::{Delete, Get, Head, Options, Put, Trace};
        self.tunnel == Tunnel::None
            && matches!(self.client.method, Get | Head | Put | Delete | Options | Trace)
    }

    pub(super) fn open_tunnel(&mut self) {
        self.request.body = BodyDecoder::UntilClose;
        self.request.chunked = false;
        self.deadlines.response = None;
    }

    /// Lets go of upstream: back to its pool when both messages ended cleanly on it.
    pub(super) fn release_upstream(&mut self, shard: &Shard) {
        let upstream = std::mem::take(&mut self.upstream);
        if !matches!(upstream, Upstream::Http1(_) | Upstream::Http2(_)) {
            return;
        }
        let Some((cluster, host)) = &self.destination else { return };
        host.request_ends(self.facts.code);
        cluster.stats.upstream_rq_active.dec();
        let clean = self.request.complete && self.response.phase == ResponsePhase::Complete;
        let Upstream::Http1(connection) = upstream else { return };
        if clean && self.response.reusable {
            host.give_back(shard, connection);
        } else if !clean {
            cluster.stats.upstream_cx_destroy_with_active_rq.inc();
        }
    }
}
