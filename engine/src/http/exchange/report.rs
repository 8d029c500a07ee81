//! Replies of ours, and the record of an exchange for the access log.

use outrigger_codecs::http::{BodyFraming, FieldKind, Method, Version};
use outrigger_xds::snapshot::{HeaderEdits, HeaderOp, ServerHeaderMode};

use crate::access_log::{self, Captured, LogType, Protocol, Record, StreamId};
use crate::cluster::ClusterRuntime;
use crate::connection::ConnectionInfo;
use crate::istio::{self, Metric, Subject, Telemetry};
use crate::shard::Shard;

use super::super::HttpScratch;
use super::super::NANOS_PER_MS;
use super::super::begin::Arrival;
use super::super::downstream::Side;
use super::super::head::{HeadSink, status_text};
use super::super::reply::{Reply, ReplyForm, ReplyFrame};
use super::super::upgrade::Tunnel;
use super::{Deadlines, Downstream, Exchange, ResponsePhase, Upstream};

impl Exchange {
    /// Answers in place of upstream.
    pub(in crate::http) fn reply(&mut self, down: &mut Downstream<'_>, reply: &Reply) {
        self.release_upstream(down.shard);
        self.upstream = Upstream::Idle;
        self.deadlines = Deadlines::default();
        self.retries.disarm();
        self.outbound.spend();
        self.tunnel_refused(down);
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.response(reply.status);
        }
        self.soap.abandon();
        self.demand.abandon();
        let fault;
        let (form, reply) = match (self.grpc.reply_form(), self.soap.version()) {
            (ReplyForm::Http, Some(version)) if reply.can_be_fault() => {
                fault = reply.to_fault(version);
                (ReplyForm::Soap(version), &fault)
            }
            (form, _) => (form, reply),
        };
        self.facts.code = reply.status_for(form);
        self.facts.details = reply.details;
        self.facts.flags.insert(reply.flags);
        self.facts.times.downstream_tx_begin = down.shard.clock.now();
        self.response.phase = ResponsePhase::Complete;
        // What the request still has to say is read as far as it is here already.
        let unread = !self.request.complete && !self.soap.has_end();
        self.response.closes = reply.close
            || unread
            || !self.client.keep_alive
            || down.is_last
            || down.info.is_draining(down.shard);
        self.grpc.take_reply(reply.grpc_status_sent(form));
        let server = &down.http.config.server;
        let frame = ReplyFrame {
            date: down.shard.clock.date(),
            server: (server.mode != ServerHeaderMode::PassThrough).then_some(&*server.name),
            request_id: self
                .request_id
                .as_ref()
                .filter(|_| down.http.config.request_id.always_set_in_response)
                .map(|id| &id[..]),
            close: self.response.closes,
            http10: self.client.http10(),
            head_only: self.client.method == Method::Head,
            form,
            filtered: &self.filtered,
        };
        let (head_len, body_len) = self.send_reply(down, reply, &frame);
        self.facts.bytes.response_headers = head_len as u64;
        self.facts.bytes.sent = body_len as u64;
    }

    /// Writes a reply, with the header edits of the route if one was found. Returns the bytes of its
    /// head and of its body.
    fn send_reply(
        &self,
        down: &mut Downstream<'_>,
        reply: &Reply,
        frame: &ReplyFrame<'_>,
    ) -> (usize, usize) {
        let (shard, http) = (down.shard, down.http);
        let none = HeaderEdits::default();
        let edits = self.response_header_edits().filter(|_| !reply.unedited);
        let ops = &edits.unwrap_or(&none).ops;
        let mut scratch = shard.scratch.borrow_mut();
        let HttpScratch { edits, .. } = &mut *scratch;
        if !ops.is_empty() {
            let record = self.record_of(down);
            let mut logger = shard.logger.borrow_mut();
            let headers = Captured { set: http.logs.captures(), values: &self.facts.capture };
            edits.work_out(
                ops,
                |name| reply.has(name, frame),
                |op, out| {
                    if let HeaderOp::Set { value, .. } = op {
                        logger.renderer().template(value, &record, &headers, b"", out);
                    }
                },
            );
        }
        match &mut down.side {
            Side::Http1(side) => {
                let case = http.config.http1.header_case;
                let (chunk, head_len) = reply.render(&shard.arena, case, frame, ops, edits);
                let body_len = chunk.len() - head_len;
                side.transport.send(chunk);
                (head_len, body_len)
            }
            Side::Http2(side) => {
                let body = reply.body_sent(frame);
                let head_len = side.send_head(body.is_empty(), |sink| {
                    let status = status_text(reply.status_for(frame.form));
                    sink.put_field(":status", &status, FieldKind::Other, false);
                    reply.write_fields(sink, frame, ops, edits);
                    // The end of the stream says that there is no body.
                    if let Some(length @ 1..) = reply.length(frame) {
                        sink.put_framing(BodyFraming::Length(length));
                    }
                });
                if !body.is_empty() {
                    side.send_body(shard, shard.arena.copy(body));
                    side.end_body(None);
                }
                (head_len, body.len())
            }
        }
    }

    pub(super) fn tunnel_refused(&mut self, down: &Downstream<'_>) {
        if self.tunnel != Tunnel::None && self.destination.is_some() {
            down.http.stats.downstream_cx_upgrades_active.dec();
        }
        self.tunnel = Tunnel::None;
    }

    /// What is known when the request's head is rendered.
    pub(in crate::http) fn record<'a>(
        &'a self,
        arrival: &Arrival<'a>,
        cluster: &'a ClusterRuntime,
    ) -> Record<'a> {
        let mut record = self.common_record(arrival.shard, arrival.info);
        record.upstream_cluster = Some(&cluster.config.stat_name);
        record.upstream_cluster_raw = Some(&cluster.config.name);
        record
    }

    pub(super) fn record_of<'a>(&'a self, down: &Downstream<'a>) -> Record<'a> {
        let mut record = self.common_record(down.shard, down.info);
        record.downstream_transport_failure = down.transport_failure();
        if let Some((cluster, host)) = &self.destination {
            record.upstream_cluster = Some(&cluster.config.stat_name);
            record.upstream_cluster_raw = Some(&cluster.config.name);
            record.upstream_remote = Some(match host.endpoint.address.ip() {
                Some(address) => access_log::Address::Ip(address),
                None => access_log::Address::Pipe(&host.address_text),
            });
            record.upstream_host_name =
                Some(&*host.endpoint.hostname).filter(|name| !name.is_empty());
            record.upstream_protocol =
                Some(if self.over_http2 { Protocol::Http2 } else { Protocol::Http11 });
        } else if let Some(cluster) = &self.hostless_cluster {
            record.upstream_cluster = Some(&cluster.config.stat_name);
            record.upstream_cluster_raw = Some(&cluster.config.name);
        }
        record
    }

    fn common_record<'a>(&'a self, shard: &Shard, info: &'a ConnectionInfo) -> Record<'a> {
        let now = shard.clock.now();
        let facts = &self.facts;
        let age = now.saturating_sub(facts.times.downstream_rx_begin);
        let failure = &*facts.upstream_transport_failure;
        Record {
            start_wall_ns: shard.clock.unix_ns() - age,
            emit_wall_ns: shard.clock.unix_ns(),
            times: facts.times,
            protocol: Some(match self.client.version {
                Version::Http10 => Protocol::Http10,
                Version::Http11 => Protocol::Http11,
                Version::Http2 => Protocol::Http2,
            }),
            response_code: facts.code,
            flags: facts.flags,
            response_code_details: Some(facts.details).filter(|details| !details.is_empty()),
            bytes: facts.bytes,
            upstream_connection_id: facts.upstream_connection_id,
            upstream_attempts: facts.attempts,
            upstream_tls: facts.upstream_tls.as_deref(),
            upstream_transport_failure: Some(failure).filter(|failure| !failure.is_empty()),
            stream_id: (facts.stream_id != 0).then_some(StreamId(facts.stream_id)),
            grpc_status: self.grpc.status(facts.code),
            is_traced: facts.is_traced,
            log_type: LogType::DownstreamEnd,
            ..info.record()
        }
    }

    /// Counts the exchange in Istio's metrics.
    pub(super) fn count(&self, down: &Downstream<'_>, telemetry: &Telemetry) {
        let is_grpc = self.grpc.is_grpc();
        let upstream = self.destination.as_ref();
        let cluster = upstream.map(|(cluster, _)| cluster).or(self.hostless_cluster.as_ref());
        let peers = &self.filtered.peers;
        let (peer, tls) = if telemetry.is_source() {
            let said = peers.upstream.as_ref();
            let known = || upstream.and_then(|(_, host)| host.workload());
            (said.or_else(known), self.facts.upstream_tls.as_deref())
        } else {
            (peers.client.as_ref(), down.info.tls.as_deref())
        };
        let counted = telemetry.find(
            down.shard,
            &Subject {
                peer,
                cluster: cluster.map(|cluster| &cluster.config),
                route: self.route().map_or("", |route| &route.name),
                authority: &self.filtered.metrics.authority,
                tls,
                protocol: if is_grpc { istio::Protocol::Grpc } else { istio::Protocol::Http },
                code: self.facts.code,
                grpc_status: self
                    .grpc
                    .status(self.facts.code)
                    .and_then(crate::access_log::record::GrpcStatus::code),
                flags: self.facts.flags,
            },
        );
        let Some(counted) = counted else { return };
        let (times, bytes) = (&self.facts.times, &self.facts.bytes);
        let took = (times.end - times.downstream_rx_begin) / NANOS_PER_MS;
        let (asked, answered) = self.grpc.messages();
        for counted in &*counted {
            counted.add(Metric::Requests, 1);
            counted.add(Metric::Duration, took);
            counted.add(Metric::RequestBytes, bytes.request_headers + bytes.received);
            counted.add(Metric::ResponseBytes, bytes.response_headers + bytes.sent);
            if is_grpc {
                counted.add(Metric::RequestMessages, asked);
                counted.add(Metric::ResponseMessages, answered);
            }
        }
    }

    pub(super) fn log(&self, down: &Downstream<'_>) {
        let mut record = self.record_of(down);
        record.route_name = self.route().map(|route| &*route.name).filter(|name| !name.is_empty());
        let mut logger = down.shard.logger.borrow_mut();
        logger.log(&down.http.logs, &record, &self.facts.capture);
    }
}
