//! Getting an upstream connection, sending the head on it, and letting go of it.

use outrigger_codecs::http::Method;
use outrigger_codecs::http1::BodyDecoder;

use crate::cluster::{Admission, UpstreamConnection};
use crate::ring::Socket;
use crate::shard::Shard;

use super::super::reply::{Reply, UpstreamFailure};
use super::super::upgrade::Tunnel;
use super::super::{NANOS_PER_MS, after};
use super::{Downstream, Exchange, ResponsePhase, Upstream};

impl Exchange {
    /// Gets a connection: one at rest, a new one, or a place in the queue.
    pub(super) fn acquire(&mut self, down: &mut Downstream<'_>) {
        let Some((cluster, host)) = self.destination.clone() else { return };
        let limits = cluster.config.circuit_breakers;
        let stats = &cluster.stats;
        // On HTTP/1.1 every request has a connection of its own, so the limit of connections bounds
        // requests too, unless theirs is the lower one. Only then is it counted by itself.
        if limits.max_requests < limits.max_connections && self.admission.is_none() {
            self.admission = cluster.breakers.admit(|all| &all.requests, limits.max_requests);
            if self.admission.is_none() {
                stats.upstream_rq_pending_overflow.inc();
                return self.reply(down, &Reply::upstream_failure(UpstreamFailure::Overflow));
            }
        }
        if self.tunnel != Tunnel::ConnectTerminated
            && !self.replayed
            && let Some(connection) = host.take_idle()
        {
            return self.activate(down, connection);
        }
        let pending = cluster.breakers.admit(|all| &all.pending, limits.max_pending_requests);
        let Some(pending) = pending else {
            stats.upstream_rq_pending_overflow.inc();
            return self.reply(down, &Reply::upstream_failure(UpstreamFailure::Overflow));
        };
        let Some(admission) =
            cluster.breakers.admit(|all| &all.connections, limits.max_connections)
        else {
            stats.upstream_cx_overflow.inc();
            let place = cluster.wait(down.waker);
            self.upstream = Upstream::Waiting { _pending: pending, _place: place };
            return;
        };
        stats.upstream_rq_pending_total.inc();
        let marks = cluster.watermarks(down.shard);
        match host.connect(down.shard, marks, cluster.config.tcp_keepalive) {
            Ok(connecting) => {
                let now = down.shard.clock.now();
                connecting.register(down.waker);
                self.facts.times.upstream_connect_begin = now;
                self.deadlines.connect = after(now, Some(cluster.config.connect_timeout));
                self.upstream =
                    Upstream::Connecting { connecting, connection: admission, _pending: pending };
            }
            Err(error) => {
                stats.upstream_cx_connect_fail.inc();
                log::warn!(
                    target: "upstream",
                    "{}: no socket for a connection to {}: {error}",
                    cluster.config.name, host.address_text
                );
                self.reply(down, &Reply::upstream_failure(UpstreamFailure::Local));
            }
        }
    }

    pub(super) fn poll_upstream(&mut self, down: &mut Downstream<'_>) {
        match std::mem::take(&mut self.upstream) {
            waiting @ Upstream::Waiting { .. } => {
                drop(waiting);
                self.acquire(down);
            }
            Upstream::Connecting { connecting, connection, _pending } => match connecting.ready() {
                Ok(Err(connecting)) => {
                    self.upstream = Upstream::Connecting { connecting, connection, _pending };
                }
                Ok(Ok(socket)) => self.connected(down, socket, connection),
                Err(code) => self.refused(down, code),
            },
            other => self.upstream = other,
        }
    }

    pub(super) fn connected(
        &mut self,
        down: &mut Downstream<'_>,
        socket: Socket,
        admission: Admission,
    ) {
        let Some((cluster, host)) = self.destination.clone() else { return };
        let now = down.shard.clock.now();
        self.deadlines.connect = None;
        self.facts.times.upstream_connect_end = now;
        let took = now - self.facts.times.upstream_connect_begin;
        cluster.stats.upstream_cx_connect_ms.record(took / NANOS_PER_MS);
        let connection = UpstreamConnection::new(down.shard, &cluster, &host, socket, admission);
        self.activate(down, connection);
    }

    pub(super) fn refused(&mut self, down: &mut Downstream<'_>, code: i32) {
        let Some((cluster, host)) = &self.destination else { return };
        cluster.stats.upstream_cx_connect_fail.inc();
        cluster.stats.upstream_rq_pending_failure_eject.inc();
        log::debug!(
            target: "upstream",
            "{}: {} can't be reached: {}",
            cluster.config.name, host.address_text, std::io::Error::from_raw_os_error(code)
        );
        self.deadlines.connect = None;
        self.reply(down, &Reply::upstream_failure(UpstreamFailure::Connect));
    }

    /// Sends the head on `connection`.
    pub(super) fn activate(
        &mut self,
        down: &mut Downstream<'_>,
        mut connection: UpstreamConnection,
    ) {
        let Some((cluster, host)) = &self.destination else { return };
        let now = down.shard.clock.now();
        self.reused = !connection.begin_request();
        self.facts.attempts += 1;
        self.facts.upstream_connection_id = connection.id;
        self.facts.times.upstream_tx_begin = now;
        host.request_begins();
        cluster.stats.upstream_rq_total.inc();
        cluster.stats.upstream_rq_active.inc();
        connection.socket.register(down.waker);
        if self.tunnel == Tunnel::ConnectTerminated {
            down.socket.send(down.shard.arena.copy(CONNECTION_ESTABLISHED));
            self.facts.code = 200;
            self.response.phase = ResponsePhase::Body;
            self.response.body = BodyDecoder::UntilClose;
            self.open_tunnel();
        } else if let Some(head) = &self.replay {
            self.facts.bytes.upstream_header_sent += head.len() as u64;
            let again =
                self.reused && !self.replayed && self.request.complete && self.is_idempotent();
            if again {
                connection.socket.send(head.clone());
            } else if let Some(head) = self.replay.take() {
                connection.socket.send(head);
            }
        }
        self.upstream = Upstream::Active(connection);
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
        let Upstream::Active(connection) = std::mem::take(&mut self.upstream) else { return };
        let Some((cluster, host)) = &self.destination else { return };
        host.request_ends(self.facts.code);
        cluster.stats.upstream_rq_active.dec();
        let clean = self.request.complete && self.response.phase == ResponsePhase::Complete;
        if clean && self.response.reusable {
            host.give_back(shard, connection);
        } else if !clean {
            cluster.stats.upstream_cx_destroy_with_active_rq.inc();
        }
    }
}

const CONNECTION_ESTABLISHED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
