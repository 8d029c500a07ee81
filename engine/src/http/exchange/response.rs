//! The response's head: read from upstream, written downstream.

use outrigger_codecs::http::{BodyFraming, FieldKind, FieldStorage, Method, ResponseHead};
use outrigger_codecs::http::{Put, decimal};
use outrigger_codecs::http1::render;
use outrigger_codecs::http1::{BodyDecoder, HeadError, HeadLimits};
use outrigger_xds::snapshot::{
    HeaderEdits, HeaderOp, RouteAction, RouteId, RouteTable, ServerHeaderMode, Target,
};

use crate::access_log::Headers;

use super::super::render::{FieldWriter, is_framing};
use super::super::reply::{Reply, UpstreamFailure};
use super::super::upgrade::Tunnel;
use super::super::{HttpScratch, NANOS_PER_MS};
use super::{Downstream, Exchange, ResponseEdits, ResponsePhase, Stop};

impl Exchange {
    /// Reads a response head from what is there. Returns how much of `bytes` it took; nothing when
    /// the head is not complete.
    pub(super) fn read_response_head(
        &mut self,
        down: &mut Downstream<'_>,
        bytes: &[u8],
    ) -> Result<Option<usize>, Stop> {
        let limits = self.response_limits();
        if self.response.partial.is_empty() {
            let mut storage = FieldStorage::new();
            return match ResponseHead::parse(bytes, &mut storage, &limits) {
                Ok(Some(head)) => self.take_response_head(down, &head).map(|()| Some(head.len)),
                Ok(None) => {
                    self.response.partial.extend_from_slice(bytes);
                    Ok(None)
                }
                Err(error) => self.refuse_response(down, error).map(|()| None),
            };
        }
        let mut partial = std::mem::take(&mut self.response.partial);
        let before = partial.len();
        partial.extend_from_slice(bytes);
        let mut storage = FieldStorage::new();
        match ResponseHead::parse(&partial, &mut storage, &limits) {
            Ok(Some(head)) => {
                let taken = self.take_response_head(down, &head).map(|()| Some(head.len - before));
                drop(storage);
                partial.clear();
                self.response.partial = partial;
                taken
            }
            Ok(None) => {
                drop(storage);
                self.response.partial = partial;
                Ok(None)
            }
            Err(error) => self.refuse_response(down, error).map(|()| None),
        }
    }

    pub(super) fn response_limits(&self) -> HeadLimits {
        self.destination.as_ref().map_or_else(HeadLimits::default, |(cluster, _)| HeadLimits {
            bytes_max: cluster.config.http.max_response_headers_bytes as usize,
            fields_max: cluster.config.http.max_headers_count as usize,
        })
    }

    /// Upstream's answer can't be understood, or not in one way only.
    pub(super) fn refuse_response(
        &mut self,
        down: &mut Downstream<'_>,
        error: HeadError,
    ) -> Result<(), Stop> {
        self.count_protocol_error();
        if let Some((cluster, host)) = &self.destination {
            log::warn!(
                target: "upstream",
                "{}: the response of {} is refused: {error}",
                cluster.config.name, host.address_text
            );
        }
        self.release_upstream(down.shard);
        self.reply(down, &Reply::upstream_failure(UpstreamFailure::Protocol));
        Ok(())
    }

    pub(super) fn take_response_head(
        &mut self,
        down: &mut Downstream<'_>,
        head: &ResponseHead<'_, '_>,
    ) -> Result<(), Stop> {
        if (100..200).contains(&head.status) && head.status != 101 {
            self.relay_interim(down, head);
            return Ok(());
        }
        let switches = match self.tunnel {
            Tunnel::Upgrade => head.status == 101,
            Tunnel::Connect => (200..300).contains(&head.status),
            Tunnel::None | Tunnel::ConnectTerminated => false,
        };
        let framing = match head.framing(self.client.method) {
            Ok(framing) if head.status != 101 || switches => framing,
            Ok(_) => return self.refuse_response(down, HeadError::StatusLineInvalid),
            Err(error) => return self.refuse_response(down, error.into()),
        };
        self.facts.times.upstream_rx_begin = down.shard.clock.now();
        self.facts.code = head.status;
        self.facts.details = "via_upstream";
        self.facts.bytes.upstream_header_received = head.len as u64;
        self.count_response(down, head.status);
        self.response.reusable = head.keep_alive() && framing != BodyFraming::UntilClose;
        // An answer before the end of the request that refuses it, or is the connection's last: the
        // rest of the request will not be read, which only a close can end.
        self.response.closes |=
            !switches && !self.request.complete && (head.status >= 400 || !self.response.reusable);
        self.response.phase = ResponsePhase::Body;
        if switches {
            self.response.body = BodyDecoder::UntilClose;
            self.response.closes = true;
        } else {
            self.response.chunked = !self.client.http10
                && matches!(framing, BodyFraming::Chunked | BodyFraming::UntilClose);
            self.response.closes |= self.must_close(down, framing);
            self.response.body = BodyDecoder::from(framing);
        }
        self.send_response_head(down, head, framing, switches);
        if switches {
            self.open_tunnel();
        } else {
            if self.tunnel != Tunnel::None {
                // No tunnel after all: what the client sent for it belongs to nobody.
                self.tunnel = Tunnel::None;
                down.http.stats.downstream_cx_upgrades_active.dec();
            }
            if self.response.body.is_done() {
                self.end_response(down);
            }
        }
        Ok(())
    }

    pub(super) fn must_close(&self, down: &Downstream<'_>, framing: BodyFraming) -> bool {
        let unframed =
            self.client.http10 && matches!(framing, BodyFraming::Chunked | BodyFraming::UntilClose);
        let draining = down.shard.is_draining();
        if draining {
            down.http.stats.downstream_cx_drain_close.inc();
        }
        !self.client.keep_alive
            || unframed
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
        if self.replayed {
            cluster.stats.upstream_rq_retry_success.inc();
        }
    }

    /// Passes a 1xx response on to a client that can read it (RFC 9110 section 15.2). A 100 that
    /// nobody waits for, because we have answered the expectation, is dropped.
    pub(super) fn relay_interim(&self, down: &Downstream<'_>, head: &ResponseHead<'_, '_>) {
        let awaited = head.status != 100
            || (down.http.config.proxy_100_continue && self.client.expects_continue);
        if self.client.http10 || !awaited {
            return;
        }
        down.socket.send(down.shard.arena.write(|out| {
            render::status_line(out, head.status, "");
            for field in head.fields {
                if !field.kind.is_hop_by_hop() && !is_framing(field) {
                    render::field(out, field.name, field.value);
                }
            }
            out.put(b"\r\n");
        }));
    }

    pub(super) fn send_response_head(
        &mut self,
        down: &Downstream<'_>,
        head: &ResponseHead<'_, '_>,
        framing: BodyFraming,
        switches: bool,
    ) {
        let (shard, http) = (down.shard, down.http);
        let config = &http.config;
        let none = HeaderEdits::default();
        let ops = &self.response_edits.of(&config.routes).unwrap_or(&none).ops;
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
            date: shard.clock.date(),
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
        let route = self.response_edits.route().and_then(|id| config.routes.route(id));
        let counts_attempts = route.is_some_and(|route| route.include_attempt_count_in_response);
        let closes = self.response.closes;
        let chunked = self.response.chunked;
        let chunk = shard.arena.write(|out| {
            render::status_line(out, head.status, "");
            let case = config.http1.header_case;
            let mut writer = FieldWriter { out, case, ops, edits };
            outbound.write_fields(&mut writer);
            if let Some(via) = &config.via {
                writer.field("via", via.as_bytes());
            }
            if counts_attempts {
                let mut digits = [0; 20];
                let attempts = decimal(self.facts.attempts.into(), &mut digits);
                writer.field("x-envoy-attempt-count", attempts);
            }
            writer.additions();
            if switches && head.status == 101 {
                writer.verbatim("connection", b"upgrade");
                writer.verbatim("upgrade", head.upgrade.unwrap_or_default());
            } else if switches {
                // A 2xx to CONNECT has neither framing nor an end.
            } else {
                if chunked {
                    writer.framing(BodyFraming::Chunked);
                } else if let Some(length) = announced_length(head, framing, self.client.method) {
                    writer.framing(BodyFraming::Length(length));
                }
                if closes {
                    writer.verbatim("connection", b"close");
                } else if self.client.http10 {
                    writer.verbatim("connection", b"keep-alive");
                }
            }
            writer.end();
        });
        self.facts.bytes.response_headers = chunk.len() as u64;
        self.facts.times.downstream_tx_begin = shard.clock.now();
        for (slot, name) in down.http.logs.captures().response_headers() {
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
        down.socket.send(chunk);
    }
}

impl ResponseEdits {
    pub(super) fn route(self) -> Option<RouteId> {
        match self {
            Self::None => None,
            Self::Route(id) | Self::Weighted(id, _) => Some(id),
        }
    }

    pub(super) fn of(self, routes: &RouteTable) -> Option<&HeaderEdits> {
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
    date: [u8; 29],
}

impl OutboundResponse<'_> {
    fn write_fields<P: Put>(&self, writer: &mut FieldWriter<'_, P>) {
        let mut dated = false;
        for field in self.head.fields {
            let written_anew = field.kind.is_hop_by_hop()
                || is_framing(field)
                || match field.kind {
                    FieldKind::Server => self.server.is_some(),
                    FieldKind::XRequestId => self.request_id.is_some(),
                    FieldKind::XEnvoy => {
                        self.service_time.is_some()
                            && field.name.eq_ignore_ascii_case("x-envoy-upstream-service-time")
                    }
                    _ => false,
                };
            dated |= field.kind == FieldKind::Date;
            if !written_anew {
                writer.field(field.name, field.value);
            }
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
