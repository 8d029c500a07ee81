//! The response's head: decided on when it has come, written downstream.

use outrigger_codecs::http::{
    BodyFraming, Field, FieldBlock, FieldKind, FieldStorage, Method, Put, ResponseHead, decimal,
};
use outrigger_codecs::http1::{BodyDecoder, render};
use outrigger_codecs::http2::response_head;
use outrigger_xds::snapshot::{
    HeaderEdits, HeaderOp, Route, RouteAction, RouteId, RouteTable, ServerHeaderMode, Target,
};

use crate::access_log::Headers;

use super::super::HttpScratch;
use super::super::NANOS_PER_MS;
use super::super::downstream::Side;
use super::super::edits::EditOutcome;
use super::super::filters::Filtered;
use super::super::head::{FieldWriter, HeadSink, Text, is_framing, status_text};
use super::super::upgrade::{Tunnel, websocket_accept};
use super::{Downstream, Exchange, ResponseEdits, ResponsePhase, Stop, Upstream};

impl Exchange {
    /// Whether upstream agrees to the tunnel with this status.
    pub(super) fn switches(&self, status: u16) -> bool {
        match (self.tunnel, &self.upstream) {
            (Tunnel::Upgrade, Upstream::Http1(_)) => status == 101,
            (Tunnel::Upgrade | Tunnel::Connect, _) => (200..300).contains(&status),
            (Tunnel::None | Tunnel::ConnectTerminated, _) => false,
        }
    }

    /// Deals with a head that upstream sent; its framing was checked.
    pub(super) fn take_response_head(
        &mut self,
        down: &mut Downstream<'_>,
        head: &ResponseHead<'_, '_>,
    ) -> Result<(), Stop> {
        let switches = self.switches(head.status);
        if (100..200).contains(&head.status) && !switches {
            self.relay_interim(down, head);
            return Ok(());
        }
        if !switches && self.retries_response(down, head) {
            return Ok(());
        }
        self.settle();
        let framing = head.framing(self.client.method).unwrap_or(BodyFraming::None);
        self.facts.times.upstream_rx_begin = down.shard.clock.now();
        self.facts.code = match (switches && self.tunnel == Tunnel::Upgrade, down.is_http2()) {
            (false, _) => head.status,
            (true, true) => 200,
            (true, false) => 101,
        };
        self.facts.details = "via_upstream";
        self.facts.bytes.upstream_header_received = head.len as u64;
        self.count_response(down, head.status);
        // An answer before the end of the request that refuses it, or is the connection's last: the
        // rest of the request will not be read, which only a close can end.
        self.response.closes |=
            !switches && !self.request.complete && (head.status >= 400 || !self.response.reusable);
        self.response.phase = ResponsePhase::Body;
        let over_http2 = matches!(self.upstream, Upstream::Http2(_));
        let complete = if switches {
            self.response.body = BodyDecoder::UntilClose;
            self.response.closes = true;
            over_http2 && head.ended
        } else {
            let unframed = matches!(framing, BodyFraming::Chunked | BodyFraming::UntilClose);
            self.response.chunked = !self.client.http10() && unframed;
            self.response.closes |= self.must_close(down, unframed);
            self.response.body = BodyDecoder::from(framing);
            if over_http2 { head.ended } else { self.response.body.is_done() }
        };
        if !switches && self.grpc.take_response_head(head, complete) {
            return Ok(());
        }
        // A body whose length changes on the way can only be ended by a close for such a client.
        self.response.closes |= self.client.http10() && self.grpc.rewrites_response();
        self.send_response_head(down, head, framing, switches, complete);
        if switches {
            self.open_tunnel();
        } else if self.tunnel != Tunnel::None {
            // No tunnel after all: what the client sent for it belongs to nobody.
            self.tunnel = Tunnel::None;
            down.http.stats.downstream_cx_upgrades_active.dec();
        }
        if complete {
            self.end_response(down, None);
        }
        Ok(())
    }

    fn must_close(&self, down: &Downstream<'_>, unframed: bool) -> bool {
        if down.is_http2() {
            return false;
        }
        let draining = down.info.is_draining(down.shard);
        if draining {
            down.http.stats.downstream_cx_drain_close.inc();
        }
        !self.client.keep_alive
            || (self.client.http10() && unframed)
            || draining
            || down.is_last
            || self.tunnel != Tunnel::None
    }

    pub(super) fn count_response(&self, down: &Downstream<'_>, status: u16) {
        let Some((cluster, _)) = &self.destination else { return };
        cluster.stats.response(status);
        let sent = self.facts.times.upstream_tx_begin;
        let took = down.shard.clock.now() - sent;
        cluster.stats.upstream_rq_time.record(took / NANOS_PER_MS);
        if (self.replays > 0 || self.retries.done > 0) && !self.retries.gave_up {
            cluster.stats.upstream_rq_retry_success.inc();
        }
    }

    /// Passes a 1xx response on to a client that can read it (RFC 9110 section 15.2). A 100 that
    /// nobody waits for, because we have answered the expectation, is dropped; so is a 101 that
    /// nobody asked for.
    fn relay_interim(&self, down: &mut Downstream<'_>, head: &ResponseHead<'_, '_>) {
        let awaited = match head.status {
            100 => down.http.config.proxy_100_continue && self.client.expects_continue,
            101 => false,
            _ => true,
        };
        if self.client.http10() || !awaited {
            return;
        }
        let fields =
            head.fields.iter().filter(|field| !field.kind.is_hop_by_hop() && !is_framing(field));
        down.send_interim(head.status, fields);
    }

    /// Sends a head that waited for its body, which is told in it.
    pub(super) fn send_withheld(&mut self, down: &mut Downstream<'_>, block: &FieldBlock) {
        let mut storage = FieldStorage::new();
        match response_head(block, true, &mut storage) {
            Ok(head) => {
                self.response.chunked = false;
                self.send_response_head(down, &head, BodyFraming::Length(0), false, true);
            }
            Err(error) => self.refuse_response(down, &error),
        }
    }

    fn send_response_head(
        &mut self,
        down: &mut Downstream<'_>,
        head: &ResponseHead<'_, '_>,
        framing: BodyFraming,
        switches: bool,
        complete: bool,
    ) {
        let (shard, http) = (down.shard, down.http);
        let config = &http.config;
        self.filtered.take_response(shard, head.fields);
        let none = HeaderEdits::default();
        let routes = self.routes.clone();
        let edits = routes.as_deref().and_then(|routes| self.response_edits.of(routes));
        let ops = &edits.unwrap_or(&none).ops;
        let mut scratch = shard.scratch.borrow_mut();
        let HttpScratch { edits, .. } = &mut *scratch;
        let service_time = (shard.clock.now() - self.facts.times.upstream_tx_begin) / NANOS_PER_MS;
        let mut digits = [0; 20];
        let outbound = OutboundResponse {
            head,
            server: match config.server.mode {
                ServerHeaderMode::Overwrite => Some(&*config.server.name),
                ServerHeaderMode::AppendIfAbsent
                    if !head.fields.iter().any(|field| field.kind == FieldKind::Server) =>
                {
                    Some(&*config.server.name)
                }
                ServerHeaderMode::AppendIfAbsent | ServerHeaderMode::PassThrough => None,
            },
            service_time: (!config.router.suppress_envoy_headers)
                .then(|| decimal(service_time, &mut digits)),
            request_id: self
                .request_id
                .as_ref()
                .filter(|_| config.request_id.always_set_in_response)
                .map(|id| &id[..]),
            content_type: self.grpc.response_content_type(),
            date: shard.clock.date(),
            via: config.via.as_deref(),
            attempts: self.counted_attempts(),
            filtered: &self.filtered,
            // HTTP/2 has no such key and no answer to it (RFC 8441 section 5): where it ends, the
            // answer ends, and where it begins, the answer is ours.
            drops_accept: switches && (down.is_http2() || self.outbound.websocket_key.is_some()),
        };
        if !ops.is_empty() {
            let record = self.record_of(down);
            let mut logger = shard.logger.borrow_mut();
            edits.work_out(
                ops,
                |name| outbound.response(name).is_some(),
                |op, out| {
                    if let HeaderOp::Set { value, .. } = op {
                        match value.as_literal() {
                            Some(literal) => out.extend_from_slice(literal.as_bytes()),
                            None => {
                                logger.renderer().template(value, &record, &outbound, b"", out);
                            }
                        }
                    }
                },
            );
        }
        // A body whose length changes on the way has none to announce.
        let length = announced_length(head, framing, self.client.method)
            .filter(|_| !self.grpc.rewrites_response());
        let chunked =
            self.response.chunked || (self.grpc.rewrites_response() && !self.client.http10());
        let sent = match &mut down.side {
            Side::Http1(side) => {
                let accept = self.outbound.websocket_key.as_deref().map(websocket_accept);
                let chunk = shard.arena.write(|out| {
                    let upgrades = switches && self.tunnel == Tunnel::Upgrade;
                    render::status_line(out, if upgrades { 101 } else { head.status }, "");
                    let mut sink = Text { out: &mut *out, case: config.http1.header_case };
                    outbound.write(&mut sink, ops, edits);
                    if upgrades {
                        let protocol = self.upgraded_to(head);
                        sink.put_field("connection", b"upgrade", FieldKind::Connection, false);
                        sink.put_field("upgrade", protocol, FieldKind::Upgrade, false);
                        if let Some(accept) = &accept {
                            let kind = FieldKind::Other;
                            sink.put_field("sec-websocket-accept", accept, kind, false);
                        }
                    } else if switches {
                        // A 2xx to CONNECT has neither framing nor an end.
                    } else {
                        if chunked {
                            sink.put_framing(BodyFraming::Chunked);
                        } else if let Some(length) = length {
                            sink.put_framing(BodyFraming::Length(length));
                        }
                        let kind = FieldKind::Connection;
                        if self.response.closes {
                            sink.put_field("connection", b"close", kind, false);
                        } else if self.client.http10() {
                            sink.put_field("connection", b"keep-alive", kind, false);
                        }
                    }
                    out.put(b"\r\n");
                });
                self.response.chunked = chunked && !switches;
                let len = chunk.len();
                side.transport.send(chunk);
                len
            }
            Side::Http2(side) => {
                // Extended CONNECT says yes with 200 (RFC 8441 section 5).
                let status = if switches { 200 } else { head.status };
                side.send_head(complete, |sink| {
                    sink.put_field(":status", &status_text(status), FieldKind::Other, false);
                    outbound.write(sink, ops, edits);
                    // On HTTP/2 a length is told only where upstream told one.
                    if let (Some(length), false, true) =
                        (length, switches, head.content_length.is_some())
                    {
                        sink.put_framing(BodyFraming::Length(length));
                    }
                })
            }
        };
        self.facts.bytes.response_headers = sent as u64;
        self.facts.times.downstream_tx_begin = shard.clock.now();
        for (slot, name) in http.logs.captures().response_headers() {
            let added = edits.additions(ops).find(|(known, _)| !ops.is_empty() && *known == name);
            let dropped = !ops.is_empty() && edits.drops(ops, name);
            let value = match added {
                Some((_, value)) => Some(value),
                None if dropped => None,
                None => outbound.response(name),
            };
            if let Some(value) = value {
                self.facts.capture.put(slot, value);
            }
        }
    }

    /// The protocol that an HTTP/1 client is told it now speaks.
    fn upgraded_to<'a>(&'a self, head: &ResponseHead<'_, 'a>) -> &'a [u8] {
        head.upgrade.or_else(|| self.outbound.fields.get(":protocol")).unwrap_or_default()
    }

    /// How often the request was sent, where the response is to tell.
    fn counted_attempts(&self) -> Option<u32> {
        let counts = self.route()?.include_attempt_count_in_response;
        counts.then_some(self.facts.attempts)
    }

    /// The route of the request, once it has one.
    pub(super) fn route(&self) -> Option<&Route> {
        self.routes.as_ref()?.route(self.response_edits.route()?)
    }

    /// What the route changes in the head of the response.
    pub(super) fn response_header_edits(&self) -> Option<&HeaderEdits> {
        self.response_edits.of(self.routes.as_ref()?)
    }
}

impl ResponseEdits {
    fn route(self) -> Option<RouteId> {
        match self {
            Self::None => None,
            Self::Route(id) | Self::Weighted(id, _) => Some(id),
        }
    }

    fn of(self, routes: &RouteTable) -> Option<&HeaderEdits> {
        let route = routes.route(self.route()?)?;
        let Self::Weighted(_, index) = self else { return Some(&route.response_headers) };
        match &route.action {
            RouteAction::Forward(forward) => match &forward.target {
                Target::Weighted(clusters) => {
                    clusters.all().get(index).map(|entry| &entry.response_headers)
                }
                Target::Cluster(_) | Target::Header(_) => None,
            },
            _ => None,
        }
    }
}

/// A response as it goes downstream.
struct OutboundResponse<'a> {
    head: &'a ResponseHead<'a, 'a>,
    server: Option<&'a str>,
    service_time: Option<&'a [u8]>,
    request_id: Option<&'a [u8]>,
    /// In place of upstream's, where the body is translated.
    content_type: Option<&'a str>,
    date: [u8; 29],
    via: Option<&'a str>,
    attempts: Option<u32>,
    filtered: &'a Filtered,
    drops_accept: bool,
}

impl OutboundResponse<'_> {
    /// Writes everything but status and framing.
    fn write<S: HeadSink>(&self, sink: &mut S, ops: &[HeaderOp], edits: &EditOutcome) {
        let mut writer = FieldWriter { sink, ops, edits };
        self.write_fields(&mut writer);
        if let Some(via) = self.via {
            writer.field("via", via.as_bytes());
        }
        if let Some(attempts) = self.attempts {
            let mut digits = [0; 20];
            writer.field("x-envoy-attempt-count", decimal(attempts.into(), &mut digits));
        }
        writer.additions_but(|name| self.filtered.overwrites(name));
        self.filtered.write_response(&mut writer);
    }

    fn write_fields<S: HeadSink>(&self, writer: &mut FieldWriter<'_, S>) {
        let mut dated = false;
        for field in self.head.fields {
            dated |= field.kind == FieldKind::Date;
            if !self.is_written_anew(field) {
                writer.copy(field);
            }
        }
        if let Some(content_type) = self.content_type {
            writer.field("content-type", content_type.as_bytes());
        }
        if !dated {
            writer.field("date", &self.date);
        }
        if let Some(server) = self.server {
            writer.field("server", server.as_bytes());
        }
        if let Some(time) = self.service_time {
            writer.field("x-envoy-upstream-service-time", time);
        }
        if let Some(id) = self.request_id {
            writer.field("x-request-id", id);
        }
    }

    fn is_written_anew(&self, field: &Field<'_>) -> bool {
        field.kind.is_hop_by_hop()
            || is_framing(field)
            || self.filtered.drops_from_response(field)
            || match field.kind {
                FieldKind::Server => self.server.is_some(),
                FieldKind::XRequestId => self.request_id.is_some(),
                FieldKind::ContentType => self.content_type.is_some(),
                FieldKind::Other => {
                    self.drops_accept && field.name.eq_ignore_ascii_case("sec-websocket-accept")
                }
                FieldKind::XEnvoy => {
                    self.service_time.is_some()
                        && field.name.eq_ignore_ascii_case("x-envoy-upstream-service-time")
                }
                _ => false,
            }
    }
}

impl Headers for OutboundResponse<'_> {
    fn request(&self, _name: &str) -> Option<&[u8]> {
        None
    }

    fn response(&self, name: &str) -> Option<&[u8]> {
        match (name, self.server, self.service_time, self.request_id) {
            ("server", Some(server), _, _) => Some(server.as_bytes()),
            ("x-envoy-upstream-service-time", _, Some(time), _) => Some(time),
            ("x-request-id", _, _, Some(id)) => Some(id),
            ("content-type", ..) if self.content_type.is_some() => {
                self.content_type.map(str::as_bytes)
            }
            _ => match self.head.field(name) {
                Some(field) if !field.kind.is_hop_by_hop() => Some(field.value),
                None if name == "date" => Some(&self.date),
                _ => None,
            },
        }
    }

    fn trailer(&self, _name: &str) -> Option<&[u8]> {
        None
    }
}
/// The length to announce: the framing's, or for a body that is not sent what upstream said of it.
fn announced_length(
    head: &ResponseHead<'_, '_>,
    framing: BodyFraming,
    method: Method,
) -> Option<u64> {
    match framing {
        BodyFraming::Length(length) => Some(length),
        BodyFraming::None if method == Method::Head || head.status == 304 => {
            let field = head.fields.iter().find(|field| field.kind == FieldKind::ContentLength)?;
            std::str::from_utf8(field.value).ok()?.parse().ok()
        }
        BodyFraming::None | BodyFraming::Chunked | BodyFraming::UntilClose => None,
    }
}
