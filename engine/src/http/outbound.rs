//! The head of a request as it goes upstream.
//!
//! Invariant: a field that ends at this hop, or that this client may not say, is not copied.

use std::borrow::Cow;
use std::net::IpAddr;

use outrigger_codecs::http::{
    BodyFraming, FieldBlock, FieldKind, Method, Put, Target, Version, decimal, tokens,
};
use outrigger_codecs::http1::render;
use outrigger_xds::snapshot::{
    Forward, HeaderCase, HeaderEdits, HeaderOp, Route, SchemeRule, UnderscoreHeaders,
    UpstreamProtocol, UpstreamSni, WeightedCluster,
};

use crate::access_log::Headers;
use crate::cluster::{ClusterRuntime, Host};

use super::HttpScratch;
use super::begin::Arrival;
use super::client_cert::{FORWARDED_CERT, ForwardedCert, is_forwarded_cert};
use super::edits::EditOutcome;
use super::exchange::{Exchange, HeadForm};
use super::filters::Filtered;
use super::head::{FieldWriter, HeadSink, Text, is_framing};
use super::origin::is_believed;
use super::request::{Request, RequestId, split_port};
use super::retry::Steer;
use super::rewrite::{rewrite_host, rewrite_path};
use super::upgrade::{Tunnel, websocket_key};

/// The request as it goes upstream.
pub(super) struct Outbound<'a> {
    request: &'a Request<'a>,
    edits: &'a HeaderEdits,
    authority: Cow<'a, str>,
    path: Cow<'a, str>,
    original_path: Option<&'a str>,
    original_host: Option<&'a str>,
    append_host: bool,
    request_id: Option<RequestId<'a>>,
    pub(super) timeout_ms: u64,
    attempt_count: bool,
    /// In place of the client's, where the body is translated.
    pub(super) grpc_content_type: Option<&'static str>,
    forwarded_cert: ForwardedCert<'a>,
    /// What filters made of the request.
    filtered: &'a Filtered,
}

impl<'a> Outbound<'a> {
    pub(super) fn new(
        request: &'a Request<'a>,
        route: &'a Route,
        forward: &'a Forward,
        weighted: Option<&'a WeightedCluster>,
        host: &'a Host,
        request_id: Option<RequestId<'a>>,
        filtered: &'a Filtered,
    ) -> Self {
        let rewritten = forward
            .path_rewrite
            .as_ref()
            .map(|rewrite| rewrite_path(request, &route.matcher.path, rewrite));
        let rewritten_by_weight = weighted.is_some_and(|entry| entry.host_rewrite.is_some());
        let authority = weighted
            .and_then(|entry| entry.host_rewrite.as_deref().map(Cow::Borrowed))
            .or_else(|| rewrite_host(request, forward.host_rewrite.as_ref()?, host));
        Self {
            request,
            edits: weighted.map_or(&route.request_headers, |entry| &entry.request_headers),
            original_path: rewritten.is_some().then_some(&*request.path),
            path: rewritten.unwrap_or(Cow::Borrowed(&request.path)),
            // As Envoy: not for the rewrite of a weighted cluster.
            original_host: (authority.is_some() && !rewritten_by_weight)
                .then_some(request.authority),
            append_host: forward.append_x_forwarded_host,
            authority: authority.unwrap_or(Cow::Borrowed(request.authority)),
            request_id,
            timeout_ms: 0,
            attempt_count: route.include_request_attempt_count,
            grpc_content_type: None,
            filtered,
            forwarded_cert: ForwardedCert::of(
                &request.arrival.http.config,
                request.arrival.info,
                request.head.fields,
            ),
        }
    }

    /// Writes the head in the form that the upstream connection wants.
    pub(super) fn render(
        &self,
        arrival: &Arrival<'_>,
        exchange: &mut Exchange,
        cluster: &ClusterRuntime,
        host: &Host,
    ) {
        let shard = arrival.shard;
        let mut scratch = shard.scratch.borrow_mut();
        let HttpScratch { edits, text, .. } = &mut *scratch;
        let ops = &self.edits.ops;
        if !ops.is_empty() {
            let record = exchange.record(arrival, cluster);
            let mut logger = shard.logger.borrow_mut();
            edits.work_out(
                ops,
                |name| self.value(name).is_some(),
                |op, out| {
                    if let HeaderOp::Set { value, .. } = op {
                        match value.as_literal() {
                            Some(literal) => out.extend_from_slice(literal.as_bytes()),
                            None => logger.renderer().template(value, &record, self, b"", out),
                        }
                    }
                },
            );
        }
        let framing = self.framing(exchange);
        if self.goes_as_text(cluster, host) {
            let case = cluster.config.http.header_case;
            let tunnel = exchange.tunnel;
            exchange.outbound.form = HeadForm::Text(shard.arena.write(|out| {
                self.write_text(out, case, tunnel, framing, ops, edits, text);
            }));
        } else {
            let mut fields = std::mem::take(&mut exchange.outbound.fields);
            self.write_fields(&mut fields, exchange, host, framing, ops, edits, text);
            exchange.outbound.fields = fields;
            exchange.outbound.form = HeadForm::Fields;
        }
        if let Some(tls) = &host.tls
            && tls.sni == UpstreamSni::RequestAuthority
        {
            exchange.outbound.server_name = Some(split_port(&self.authority).0.into());
        }
        let dropped = |name: &str| !ops.is_empty() && edits.drops(ops, name);
        for (slot, name) in arrival.http.logs.captures().request_headers() {
            let added = edits.additions(ops).find(|(known, _)| !ops.is_empty() && *known == name);
            let value = match added {
                Some((_, value)) => Some(value),
                None if dropped(name) => None,
                None => self.value(name),
            };
            if let Some(value) = value {
                exchange.facts.capture.put(slot, value);
            }
        }
    }

    /// Whether upstream is known to speak HTTP/1.
    fn goes_as_text(&self, cluster: &ClusterRuntime, host: &Host) -> bool {
        match cluster.config.http.protocol {
            UpstreamProtocol::Http1 => true,
            UpstreamProtocol::Http2 => false,
            UpstreamProtocol::Downstream => self.request.head.version != Version::Http2,
            UpstreamProtocol::Alpn => host.speaks_http1(),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one head, written in one go")]
    fn write_text<P: Put>(
        &self,
        out: &mut P,
        case: HeaderCase,
        tunnel: Tunnel,
        framing: BodyFraming,
        ops: &[HeaderOp],
        edits: &EditOutcome,
        text: &mut Vec<u8>,
    ) {
        let head = self.request.head;
        let target = match head.target {
            Target::Authority(authority) => authority,
            _ => &self.path,
        };
        // An extended CONNECT of HTTP/2 is HTTP/1's upgrade.
        let translated = tunnel == Tunnel::Upgrade && head.method == Method::Connect;
        let method = if translated { "GET" } else { head.method_text };
        render::request_line(out, method, target);
        let mut sink = Text { out: &mut *out, case };
        let mut writer = FieldWriter { sink: &mut sink, ops, edits };
        writer.verbatim("host", self.authority.as_bytes());
        self.copy_fields(&mut writer, false);
        self.add_fields(&mut writer, text);
        writer.additions();
        if tunnel == Tunnel::Upgrade {
            let protocol = head.upgrade.unwrap_or_default();
            writer.verbatim("connection", b"upgrade");
            writer.verbatim("upgrade", protocol);
            if translated && protocol.eq_ignore_ascii_case(b"websocket") {
                let shard = self.request.arrival.shard;
                let key = websocket_key([shard.random(), shard.random()]);
                writer.verbatim("sec-websocket-key", &key);
            }
        }
        sink.put_framing(framing);
        out.put(b"\r\n");
    }

    #[expect(clippy::too_many_arguments, reason = "one head, written in one go")]
    fn write_fields(
        &self,
        fields: &mut FieldBlock,
        exchange: &mut Exchange,
        upstream: &Host,
        framing: BodyFraming,
        ops: &[HeaderOp],
        edits: &EditOutcome,
        text: &mut Vec<u8>,
    ) {
        let head = self.request.head;
        let upgrades = exchange.tunnel == Tunnel::Upgrade;
        fields.clear();
        fields.push(":method", if upgrades { b"CONNECT" } else { head.method_text.as_bytes() });
        if upgrades {
            let protocol = head.upgrade.and_then(|value| tokens(value).next());
            fields.push(":protocol", protocol.unwrap_or_default());
        }
        if upgrades || head.method != Method::Connect {
            let scheme = match self.request.arrival.http.config.scheme {
                SchemeRule::MatchUpstream if upstream.tls.is_some() => "https",
                SchemeRule::MatchUpstream => "http",
                _ => self.request.scheme,
            };
            fields.push(":scheme", scheme.as_bytes());
            fields.push(":path", self.path.as_bytes());
        }
        let authority = match head.target {
            Target::Authority(authority) => authority,
            _ => &self.authority,
        };
        fields.push(":authority", authority.as_bytes());
        if upgrades && head.version != Version::Http2 {
            // Its answer is ours to give: HTTP/2 has no such key.
            exchange.outbound.websocket_key =
                head.field("sec-websocket-key").map(|field| field.value.into());
        }
        let mut writer = FieldWriter { sink: &mut *fields, ops, edits };
        self.copy_fields(&mut writer, upgrades);
        self.add_fields(&mut writer, text);
        writer.additions();
        // The end of the stream says that there is no body.
        if head.framing != BodyFraming::None {
            fields.put_framing(framing);
        }
    }

    fn framing(&self, exchange: &Exchange) -> BodyFraming {
        if exchange.grpc.rewrites_request() && !self.request.head.framing.is_empty() {
            return BodyFraming::Chunked;
        }
        match (self.request.head.framing, exchange.tunnel) {
            (_, Tunnel::Upgrade) if self.request.head.version == Version::Http2 => {
                BodyFraming::None
            }
            (BodyFraming::UntilClose, _) | (_, Tunnel::Connect) => BodyFraming::None,
            // Some origins want to be told that a request which may have a body has none.
            (BodyFraming::None, Tunnel::None) if self.may_have_body() => BodyFraming::Length(0),
            (framing, _) => framing,
        }
    }

    fn may_have_body(&self) -> bool {
        use Method::{Connect, Delete, Get, Head, Trace};
        !matches!(self.request.head.method, Get | Head | Delete | Trace | Connect)
    }

    /// The client's own fields, but for those that end here or are written anew.
    fn copy_fields<S: HeadSink>(&self, writer: &mut FieldWriter<'_, S>, without_key: bool) {
        let config = &self.request.arrival.http.config;
        let drop_underscores = config.underscore_headers == UnderscoreHeaders::DropHeader;
        let append_forwarded = self.forwarded_for_peer().is_some();
        for field in self.request.head.fields {
            let ends_here = field.kind.is_hop_by_hop()
                || is_framing(field)
                || self.filtered.drops_from_request(field)
                || match field.kind {
                    FieldKind::Host | FieldKind::XForwardedProto | FieldKind::XRequestId => true,
                    FieldKind::Expect => !config.proxy_100_continue,
                    FieldKind::XForwardedFor => append_forwarded,
                    FieldKind::XForwardedHost => self.forwarded_host().is_some(),
                    FieldKind::XEnvoyExpectedRqTimeoutMs => self.writes_timeout(),
                    FieldKind::XEnvoyOriginalPath => self.original_path.is_some(),
                    FieldKind::UserAgent => {
                        config.add_user_agent.is_some() && field.value.is_empty()
                    }
                    FieldKind::ContentType => self.grpc_content_type.is_some(),
                    FieldKind::XEnvoyUpstreamRqTimeoutMs => true,
                    FieldKind::XEnvoy => Steer::of(field.name).is_some(),
                    FieldKind::Other => {
                        (drop_underscores && field.name.contains('_'))
                            || (!self.forwarded_cert.copied && is_forwarded_cert(field.name))
                            || (without_key && field.name.eq_ignore_ascii_case("sec-websocket-key"))
                    }
                    _ => false,
                };
            if !ends_here && is_believed(self.request.origin, field) {
                writer.copy(field);
            }
        }
    }

    /// What the proxy says about the request.
    fn add_fields<S: HeadSink>(&self, writer: &mut FieldWriter<'_, S>, text: &mut Vec<u8>) {
        let request = self.request;
        let config = &request.arrival.http.config;
        if let Some(peer) = self.forwarded_for_peer() {
            text.clear();
            let sent = request.head.fields.iter();
            for field in sent.filter(|field| field.kind == FieldKind::XForwardedFor) {
                text.extend_from_slice(field.value);
                text.push(b',');
            }
            write_ip(text, peer, config.origin.ipv4_as_mapped_ipv6);
            writer.field("x-forwarded-for", text);
        }
        writer.field("x-forwarded-proto", request.forwarded_proto);
        if request.head.te_trailers || self.grpc_content_type.is_some() {
            writer.field("te", b"trailers");
        }
        if let Some(content_type) = self.grpc_content_type {
            writer.field("content-type", content_type.as_bytes());
            if request.head.field("grpc-accept-encoding").is_none() {
                writer.field("grpc-accept-encoding", b"identity");
            }
        }
        if let Some(certificates) = &self.forwarded_cert.written {
            writer.field(FORWARDED_CERT, certificates);
        }
        if let Some(id) = &self.request_id {
            writer.field("x-request-id", id.as_bytes());
        }
        if let Some(path) = self.original_path {
            writer.field("x-envoy-original-path", path.as_bytes());
        }
        if let Some(host) = self.original_host {
            writer.field("x-envoy-original-host", host.as_bytes());
        }
        if let Some(host) = self.forwarded_host() {
            text.clear();
            let sent = request.head.fields.iter();
            for field in sent.filter(|field| field.kind == FieldKind::XForwardedHost) {
                text.extend_from_slice(field.value);
                text.push(b',');
            }
            text.extend_from_slice(host.as_bytes());
            writer.field("x-forwarded-host", text);
        }
        if self.writes_timeout() {
            let mut digits = [0; 20];
            let timeout = decimal(self.timeout_ms, &mut digits);
            writer.field("x-envoy-expected-rq-timeout-ms", timeout);
        }
        if self.attempt_count {
            writer.field("x-envoy-attempt-count", b"1");
        }
        if request.origin.internal {
            writer.field("x-envoy-internal", b"true");
        }
        if let (true, Some(client)) = (request.origin.edge, request.origin.client) {
            text.clear();
            write_ip(text, client, false);
            writer.field("x-envoy-external-address", text);
        }
        if self.appends_port()
            && let Some(port) = request.arrival.info.ends.port()
        {
            let mut digits = [0; 20];
            writer.field("x-forwarded-port", decimal(port.into(), &mut digits));
        }
        if let Some(agent) = &config.add_user_agent {
            let sent = request
                .head
                .fields
                .iter()
                .any(|field| field.kind == FieldKind::UserAgent && !field.value.is_empty());
            if !sent {
                writer.field("user-agent", agent.as_bytes());
            }
            writer.field("x-envoy-downstream-service-cluster", agent.as_bytes());
            if let Some(node) = &config.service_node {
                writer.field("x-envoy-downstream-service-node", node.as_bytes());
            }
        }
        if let Some(via) = &config.via {
            writer.field("via", via.as_bytes());
        }
        self.filtered.write_request(writer);
    }

    /// The authority before its rewrite, where it is to be appended to `x-forwarded-host`.
    fn forwarded_host(&self) -> Option<&str> {
        self.original_host.filter(|_| self.append_host)
    }

    fn writes_timeout(&self) -> bool {
        self.timeout_ms > 0 && !self.request.arrival.http.config.router.suppress_envoy_headers
    }

    fn appends_port(&self) -> bool {
        let rules = &self.request.arrival.http.config.origin;
        rules.append_x_forwarded_port
            && !self.request.head.fields.iter().any(|field| field.kind == FieldKind::XForwardedPort)
    }

    /// The peer's address, where it is to be appended to `x-forwarded-for`.
    fn forwarded_for_peer(&self) -> Option<IpAddr> {
        let rules = &self.request.arrival.http.config.origin;
        let appends = rules.use_remote_address && !rules.skip_xff_append;
        self.request.arrival.info.ends.peer.ip().filter(|_| appends)
    }

    /// A header as it goes upstream, before edits.
    fn value(&self, name: &str) -> Option<&[u8]> {
        let config = &self.request.arrival.http.config;
        match name {
            ":method" => Some(self.request.head.method_text.as_bytes()),
            ":path" => Some(self.path.as_bytes()).filter(|path| !path.is_empty()),
            ":authority" | "host" => Some(self.authority.as_bytes()),
            ":scheme" => Some(self.request.scheme.as_bytes()),
            "x-forwarded-proto" => Some(self.request.forwarded_proto),
            "x-request-id" => self.request_id.as_ref().map(RequestId::as_bytes),
            "x-envoy-original-path" if self.original_path.is_some() => {
                self.original_path.map(str::as_bytes)
            }
            "content-type" if self.grpc_content_type.is_some() => {
                self.grpc_content_type.map(str::as_bytes)
            }
            FORWARDED_CERT if !self.forwarded_cert.copied => self.forwarded_cert.written.as_deref(),
            "via" if config.via.is_some() => config.via.as_deref().map(str::as_bytes),
            _ => {
                if let Some(value) = self.filtered.request_value(name) {
                    return Some(value);
                }
                let field = self.request.head.field(name)?;
                let goes_on = !field.kind.is_hop_by_hop()
                    && is_believed(self.request.origin, field)
                    && !self.filtered.drops_from_request(field);
                goes_on.then_some(field.value)
            }
        }
    }
}

impl Headers for Outbound<'_> {
    fn request(&self, name: &str) -> Option<&[u8]> {
        self.value(name)
    }

    fn response(&self, _name: &str) -> Option<&[u8]> {
        None
    }

    fn trailer(&self, _name: &str) -> Option<&[u8]> {
        None
    }
}

fn write_ip(text: &mut Vec<u8>, address: IpAddr, mapped: bool) {
    use std::io::Write;
    let address = match address {
        IpAddr::V4(address) if mapped => IpAddr::V6(address.to_ipv6_mapped()),
        address => address,
    };
    // Writing to a vector can't fail.
    let _infallible = write!(text, "{address}");
}
