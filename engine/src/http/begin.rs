//! The beginning of an exchange: what a request is, where it goes, and the head that goes there.
//!
//! Everything that needs the received head happens here, in one go, so that its buffer can go back
//! to the kernel at once. Invariant: what is routed is what is forwarded.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use outrigger_codecs::http::{
    BodyFraming, Field, FieldBlock, FieldKind, FieldStorage, Method, Put, RequestHead, Target,
    Version, decimal, tokens,
};
use outrigger_codecs::http1::render;
use outrigger_xds::snapshot::{
    ClusterRef, Demand, DestinationRules, DirectResponse, Forward, HeaderCase, HeaderEdits,
    HeaderName, HeaderOp, HostRewrite, PathMatcher, PathRewrite, Redirect, RedirectPath,
    RequestView, Route, RouteAction, RouteTable, SchemeRule, StripPort, Target as RouteTarget,
    UnderscoreHeaders, UpstreamProtocol, UpstreamSni, WeightedCluster,
};

use crate::access_log::{Headers, Record, ResponseFlags};
use crate::cluster::{ClusterRuntime, Host};
use crate::connection::ConnectionInfo;

use super::client_cert::{FORWARDED_CERT, ForwardedCert, is_forwarded_cert};
use super::edits::EditOutcome;
use super::exchange::{Exchange, HeadForm, ResponseEdits};
use super::filters::{Ask, Filtered, Filters, Wish, decide};
use super::head::{FieldWriter, HeadSink, Text, is_framing, uuid};
use super::kept_head::{HeadSource, KeptHead};
use super::origin::{Origin, is_believed};
use super::path::{Normalized, normalize, split};
use super::reply::{Body, DIRECT_RESPONSE, Reply};
use super::retry::Steer;
use super::soap::{SoapHeaders, soap_request};
use super::upgrade::{Asked, Tunnel, asked, websocket_key};
use super::{HttpRuntime, HttpScratch};

/// The connection that a request came on.
pub(super) struct Arrival<'a> {
    pub(super) shard: &'a Rc<crate::shard::Shard>,
    pub(super) http: &'a HttpRuntime,
    pub(super) info: &'a ConnectionInfo,
}

/// Where a request goes.
pub(super) struct Destination {
    pub(super) cluster: Rc<ClusterRuntime>,
    pub(super) host: Rc<Host>,
}

/// What a request's beginning came to.
pub(super) enum Begun {
    /// It goes there.
    To(Destination),
    /// It is answered here.
    Answered(Reply),
    /// Where it goes depends on its body: [`resume`] says it.
    Held,
    /// What it needs is asked for: [`resume_demanding`] says where it goes.
    Demanding,
}

impl From<Result<Destination, Reply>> for Begun {
    fn from(outcome: Result<Destination, Reply>) -> Self {
        match outcome {
            Ok(destination) => Self::To(destination),
            Err(reply) => Self::Answered(reply),
        }
    }
}

/// Fills in `exchange` from a request's head. `source` is where it was read; without one, the request
/// does not wait for its body.
pub(super) fn begin(
    arrival: &Arrival<'_>,
    head: &RequestHead<'_, '_>,
    source: Option<HeadSource<'_>>,
    exchange: &mut Exchange,
) -> Begun {
    exchange.accept(arrival, head);
    let filters = arrival.http.filters.current(arrival.shard);
    let soap = soap_request(&filters, head);
    exchange.soap.accept(soap.as_ref());
    if let Err(reply) = check(arrival.http, head) {
        capture_inbound(arrival, head, None, &reply, exchange);
        return Begun::Answered(reply);
    }
    if let Some(source) = source
        && exchange.soap.hold(&filters, head, soap.as_ref(), source)
    {
        return Begun::Held;
    }
    let soap = SoapHeaders::of(&filters, soap, None);
    find_route(arrival, &filters, head, soap, source, exchange)
}

/// Goes on with a request that was held back, as far as its operation was found out.
pub(super) fn resume(arrival: &Arrival<'_>, exchange: &mut Exchange) -> Begun {
    let Some(held) = exchange.soap.release() else { return Begun::Answered(unreadable()) };
    let begun = read_again(arrival, held.head(), held.operation(), exchange);
    exchange.soap.give_back(held);
    begun
}

/// Goes on with a request for which something was asked for, by what there is now.
pub(super) fn resume_demanding(arrival: &Arrival<'_>, exchange: &mut Exchange) -> Begun {
    let Some(head) = exchange.demand.release() else { return Begun::Answered(unreadable()) };
    let held = exchange.soap.lend();
    let operation = held.as_ref().and_then(|held| held.operation());
    let begun = read_again(arrival, &head, operation, exchange);
    if let Some(held) = held {
        exchange.soap.give_back(held);
    }
    exchange.demand.give_back(head);
    begun
}

fn read_again(
    arrival: &Arrival<'_>,
    kept: &KeptHead,
    operation: Option<&[u8]>,
    exchange: &mut Exchange,
) -> Begun {
    let mut storage = FieldStorage::new();
    let Some(head) = kept.read(&arrival.http.limits, &mut storage) else {
        return Begun::Answered(unreadable());
    };
    let filters = arrival.http.filters.current(arrival.shard);
    let request = soap_request(&filters, &head);
    let soap = SoapHeaders::of(&filters, request, operation);
    find_route(arrival, &filters, &head, soap, Some(kept.source()), exchange)
}

/// A head that was read can be read again, so that nobody will see this.
fn unreadable() -> Reply {
    Reply::empty(400, "http1.codec_error").closing()
}

fn find_route(
    arrival: &Arrival<'_>,
    filters: &Filters,
    head: &RequestHead<'_, '_>,
    soap: Option<SoapHeaders<'_>>,
    source: Option<HeadSource<'_>>,
    exchange: &mut Exchange,
) -> Begun {
    let request = match Request::new(arrival, head, soap) {
        Ok(request) => request,
        Err(reply) => {
            capture_inbound(arrival, head, None, &reply, exchange);
            return Begun::Answered(reply);
        }
    };
    let random = arrival.shard.random();
    let routes = arrival.http.routes.of(&request);
    let route = routes.find(&request, random);
    let target = match route.map(|route| &route.action) {
        Some(RouteAction::Forward(forward)) => {
            Some(choose_cluster(arrival, forward, &request, random))
        }
        _ => None,
    };
    if filters.on_demand
        && let Some(source) = source
        && let Some(demand) = missing(filters, &routes, &request, route, target.as_ref())
        && exchange.demand.hold(arrival.shard, demand, head, source)
    {
        return Begun::Demanding;
    }
    exchange.routes = Some(Rc::clone(&routes));
    let outcome = self::route(arrival, filters, &request, route, target, random, exchange);
    if let Err(reply) = &outcome {
        capture_inbound(arrival, head, Some(&request.path), reply, exchange);
    }
    outcome.into()
}

/// What a request needs that is not there, and could be asked for.
fn missing(
    filters: &Filters,
    routes: &RouteTable,
    request: &Request<'_>,
    route: Option<&Route>,
    target: Option<&Chosen<'_>>,
) -> Option<Demand> {
    let Some(route) = route else { return routes.demand(request) };
    let RouteAction::Forward(forward) = &route.action else { return None };
    let target = target.filter(|target| target.cluster.is_none())?;
    let weighted = target.weighted.map(|(_, entry)| entry);
    let source = filters.clusters_on_demand(weighted.map_or(&route.filters, |it| &it.filters))?;
    let by_header = |name| std::str::from_utf8(request.header_values(name).next()?).ok();
    let name = match (&forward.target, weighted.map(|entry| &entry.target)) {
        (RouteTarget::Cluster(cluster), _) | (_, Some(Ok(cluster))) => Some(cluster.name()),
        (RouteTarget::Header(name), _) | (_, Some(Err(name))) => by_header(name),
        (RouteTarget::Weighted(_), None) => None,
    };
    Demand::cluster(source, name?)
}

/// Keeps the headers that the access log asks for, of a request that goes nowhere: as they came,
/// but for the path, which is the one that was routed, or that a redirect made of it.
fn capture_inbound(
    arrival: &Arrival<'_>,
    head: &RequestHead<'_, '_>,
    routed_path: Option<&str>,
    reply: &Reply,
    exchange: &mut Exchange,
) {
    let path = routed_path.or(match &head.target {
        Target::Origin(path) | Target::Absolute { path, .. } => Some(path),
        Target::Asterisk | Target::Authority(_) => None,
    });
    let rewritten = reply.rewritten_path.as_deref();
    for (slot, name) in arrival.http.logs.captures().request_headers() {
        let made = exchange.request_id.filter(|_| name == "x-request-id");
        let value = match name {
            ":method" => Some(head.method_text.as_bytes()),
            ":path" => rewritten.or(path).map(str::as_bytes),
            "x-envoy-original-path" if rewritten.is_some() => path.map(str::as_bytes),
            "content-type" if exchange.grpc.rewrites_request() => {
                exchange.grpc.request_content_type().map(str::as_bytes)
            }
            ":authority" | "host" => Some(head.authority.as_bytes()),
            ":scheme" => Some(arrival.info.scheme().as_bytes()),
            _ => made
                .as_ref()
                .map(|id| &id[..])
                .or_else(|| head.field(name).map(|field| field.value)),
        };
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            exchange.facts.capture.put(slot, value);
        }
    }
}

fn route(
    arrival: &Arrival<'_>,
    filters: &Filters,
    request: &Request<'_>,
    route: Option<&Route>,
    target: Option<Chosen<'_>>,
    random: u64,
    exchange: &mut Exchange,
) -> Result<Destination, Reply> {
    let (shard, head) = (arrival.shard, request.head);
    if !filters.grpc_web_is_off(route.map(|route| &route.filters)) {
        exchange.bridge_grpc(filters, head);
    }
    let request_id = request.request_id(exchange);
    let mut ask = Ask { shard, request, overrides: None, cluster: None };
    let Some(route) = route else {
        filters.apply(&ask, &mut exchange.filtered)?;
        arrival.http.stats.no_route.inc();
        let flags = ResponseFlags::NO_ROUTE_FOUND;
        return Err(Reply::text(404, "", flags, "route_not_found"));
    };
    exchange.response_edits = ResponseEdits::Route(route.id);
    exchange.filtered.name(arrival.http, route);
    if let RouteAction::Forward(forward) = &route.action {
        refuse_upgrade(arrival, forward, request, random, exchange)?;
    }
    let chosen = target.as_ref().and_then(|target| target.cluster.as_ref());
    let weighted = target.as_ref().and_then(|target| target.weighted);
    if let Some((index, _)) = weighted {
        exchange.response_edits = ResponseEdits::Weighted(route.id, index);
    }
    let overrides = weighted.map_or(&route.filters, |(_, entry)| &entry.filters);
    ask.overrides = Some(overrides);
    ask.cluster = chosen.map(|cluster| &**cluster);
    if let Err(reply) = filters.apply(&ask, &mut exchange.filtered) {
        exchange.hostless_cluster = chosen.cloned();
        return Err(reply);
    }
    let forward = match &route.action {
        RouteAction::Forward(forward) => forward,
        RouteAction::Redirect(redirect) => {
            arrival.http.stats.rq_redirect.inc();
            return Err(redirect_reply(request, route, redirect));
        }
        RouteAction::DirectResponse(direct) => {
            arrival.http.stats.rq_direct_response.inc();
            return Err(direct_reply(request, direct));
        }
        RouteAction::NonForwarding => {
            return Err(Reply::empty(404, "non_forwarding_action"));
        }
    };
    let Some(cluster) = target.and_then(|target| target.cluster) else {
        arrival.http.stats.no_cluster.inc();
        let flags = ResponseFlags::NO_CLUSTER_FOUND;
        let status = forward.cluster_not_found_status;
        return Err(Reply::text(status, "", flags, "cluster_not_found"));
    };
    if !filters.grpc_stats_are_off(Some(overrides)) {
        exchange.grpc.track(shard, filters, &cluster, &request.path);
    }
    let Some(host) = cluster.choose(shard, |rules| request.destination(rules, &cluster)) else {
        exchange.hostless_cluster = Some(cluster);
        let flags = ResponseFlags::NO_HEALTHY_UPSTREAM;
        return Err(Reply::text(503, "no healthy upstream", flags, "no_healthy_upstream"));
    };
    exchange.limit_by_route(arrival.http, forward);
    exchange.limit_by_grpc(request.head, forward);
    exchange.limit_by_request(request.head, request, route, forward);
    if exchange.tunnel != Tunnel::ConnectTerminated {
        let weighted = weighted.map(|(_, entry)| entry);
        let filtered = std::mem::take(&mut exchange.filtered);
        let mut outbound =
            Outbound::new(request, route, forward, weighted, &host, request_id, &filtered);
        outbound.timeout_ms = match exchange.tunnel {
            Tunnel::None => exchange.expected_timeout_ms(Duration::ZERO),
            // Told, as with Envoy, though it never begins.
            _ => forward.timeout.map_or(0, |timeout| timeout.as_millis() as u64),
        };
        outbound.grpc_content_type = exchange.grpc.request_content_type();
        outbound.render(arrival, exchange, &cluster, &host);
        exchange.filtered = filtered;
    }
    Ok(Destination { cluster, host })
}

/// Notes what the connection is to become, if the route lets it become that.
fn refuse_upgrade(
    arrival: &Arrival<'_>,
    forward: &Forward,
    request: &Request<'_>,
    random: u64,
    exchange: &mut Exchange,
) -> Result<(), Reply> {
    let head = request.head;
    match asked(head, &arrival.http.config.upgrades, &forward.upgrades) {
        Asked::Nothing => Ok(()),
        Asked::Refused => {
            arrival.http.stats.downstream_rq_ws_on_non_ws_route.inc();
            exchange.hostless_cluster = choose_cluster(arrival, forward, request, random).cluster;
            Err(Reply::empty(403, "upgrade_failed").closing())
        }
        Asked::Allowed => {
            // A CONNECT that names a protocol is HTTP/2's upgrade.
            exchange.tunnel = match (head.method, head.upgrade) {
                (Method::Connect, None) if forward.terminate_connect => Tunnel::ConnectTerminated,
                (Method::Connect, None) => Tunnel::Connect,
                _ => Tunnel::Upgrade,
            };
            Ok(())
        }
    }
}

/// What the connection manager refuses whatever the route.
fn check(http: &HttpRuntime, head: &RequestHead<'_, '_>) -> Result<(), Reply> {
    let options = &http.config.http1;
    if head.version == Version::Http10 && !options.accept_http_10 {
        return Err(Reply::empty(426, "low_version").closing());
    }
    if head.authority.is_empty() && options.default_host_for_http_10.is_none() {
        return Err(Reply::empty(400, "missing_host_header").closing());
    }
    if matches!(head.target, Target::Absolute { .. }) && !options.allow_absolute_url {
        http.stats.downstream_rq_non_relative_path.inc();
        return Err(Reply::empty(404, "absolute_path_rejected").closing());
    }
    let underscores = http.config.underscore_headers;
    if underscores == UnderscoreHeaders::RejectRequest
        && head.fields.iter().any(|field| field.name.contains('_'))
    {
        return Err(Reply::empty(400, "unexpected_underscore").closing());
    }
    Ok(())
}

/// A request as it is routed.
pub(super) struct Request<'a> {
    arrival: &'a Arrival<'a>,
    head: &'a RequestHead<'a, 'a>,
    authority: &'a str,
    path: Cow<'a, str>,
    scheme: &'a str,
    forwarded_proto: &'a [u8],
    origin: Origin,
    soap: Option<SoapHeaders<'a>>,
}

impl<'a> Request<'a> {
    fn new(
        arrival: &'a Arrival<'a>,
        head: &'a RequestHead<'a, 'a>,
        soap: Option<SoapHeaders<'a>>,
    ) -> Result<Self, Reply> {
        let http = arrival.http;
        let origin = Origin::of(&http.config.origin, arrival.info.ends.peer, head.fields);
        let raw_path = match &head.target {
            Target::Origin(path) | Target::Absolute { path, .. } => path,
            Target::Asterisk => "*",
            Target::Authority(_) => "",
        };
        let path = match normalize(&http.config.path, raw_path) {
            Normalized::Path(path) => path,
            Normalized::Rejected => {
                http.stats.downstream_rq_failed_path_normalization.inc();
                return Err(Reply::empty(400, "path_normalization_failed").closing());
            }
            Normalized::Redirect(path) => {
                http.stats.downstream_rq_redirected_with_normalized_path.inc();
                let mut reply = Reply::empty(307, "redirected_with_normalized_path");
                reply.location = Some(path);
                return Err(reply);
            }
        };
        let trusted =
            !http.config.origin.use_remote_address || http.config.origin.xff_num_trusted_hops > 0;
        let sent = head.fields.iter().find(|field| field.kind == FieldKind::XForwardedProto);
        let forwarded_proto = match sent {
            Some(field) if trusted && !field.value.is_empty() => field.value,
            _ => arrival.info.scheme().as_bytes(),
        };
        let scheme = match (&http.config.scheme, head.scheme) {
            (SchemeRule::Overwrite(scheme), _) => scheme,
            (_, Some(scheme)) => scheme,
            (_, None) if forwarded_proto.eq_ignore_ascii_case(b"https") => "https",
            (_, None) => "http",
        };
        let authority = match (head.authority, &http.config.http1.default_host_for_http_10) {
            ("", Some(host)) => host,
            (authority, _) => authority,
        };
        let authority = strip_authority(arrival, authority);
        Ok(Self { arrival, head, authority, path, scheme, forwarded_proto, origin, soap })
    }

    /// Its header fields, as they came.
    pub(super) fn fields(&self) -> &[Field<'a>] {
        self.head.fields
    }

    /// A header field, as it came.
    pub(super) fn field(&self, name: &str) -> Option<&Field<'a>> {
        self.head.field(name)
    }

    /// Where the client means to go: what it says, where that is believed, else where it connected to.
    fn destination(
        &self,
        rules: &DestinationRules,
        cluster: &ClusterRuntime,
    ) -> Option<SocketAddr> {
        let said = rules.header.as_ref().and_then(|name| self.header_values(name).next());
        let Some(said) = said else { return self.arrival.info.ends.original };
        let address = std::str::from_utf8(said).ok().and_then(|text| text.trim().parse().ok());
        let address = address.filter(|address: &SocketAddr| address.port() != 0);
        if address.is_none() {
            cluster.stats.original_dst_host_invalid.inc();
        }
        address.or(self.arrival.info.ends.original)
    }

    /// The request id that goes upstream, with whether the request is to be traced.
    fn request_id(&self, exchange: &mut Exchange) -> Option<RequestId<'a>> {
        let id = self.own_or_sent_id(exchange)?;
        let config = &self.arrival.http.config;
        let Some(tracing) = &config.tracing else { return Some(id) };
        let has = |name| self.head.field(name).is_some_and(|it| is_believed(self.origin, it));
        let wish = Wish {
            client: has("x-client-trace-id"),
            force: has("x-envoy-force-trace"),
            is_trusted: !self.origin.edge,
        };
        let random = self.arrival.shard.random();
        let decided = decide(tracing, config.request_id, wish, random, id.as_bytes());
        let Some((is_traced, text)) = decided else { return Some(id) };
        exchange.facts.is_traced = is_traced;
        exchange.request_id = exchange.request_id.map(|_| text);
        Some(RequestId::Made(text))
    }

    /// The request id, and whether it is the client's.
    fn own_or_sent_id(&self, exchange: &mut Exchange) -> Option<RequestId<'a>> {
        let rules = &self.arrival.http.config.request_id;
        let sent = self.head.fields.iter().find(|field| field.kind == FieldKind::XRequestId);
        let replace = self.origin.edge && !rules.preserve_external;
        if let Some(sent) = sent
            && !(rules.generate && replace)
        {
            return Some(RequestId::Sent(sent.value));
        }
        if !rules.generate {
            return None;
        }
        let shard = self.arrival.shard;
        let (bits, text) = uuid(shard.random(), shard.random());
        exchange.facts.stream_id = bits;
        exchange.request_id = Some(text);
        Some(RequestId::Made(text))
    }
}

#[derive(Clone, Copy)]
enum RequestId<'a> {
    Made([u8; 36]),
    Sent(&'a [u8]),
}

impl RequestId<'_> {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Made(text) => text,
            Self::Sent(value) => value,
        }
    }
}

impl RequestView for Request<'_> {
    fn method(&self) -> &[u8] {
        self.head.method_text.as_bytes()
    }

    fn scheme(&self) -> &[u8] {
        self.scheme.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }

    fn path_and_query(&self) -> &[u8] {
        self.path.as_bytes()
    }

    fn is_internal(&self) -> bool {
        self.origin.internal
    }

    fn client_certificate_presented(&self) -> bool {
        self.arrival.info.client_certificate().is_some()
    }

    fn client_certificate_validated(&self) -> bool {
        self.arrival.info.client_certificate().is_some_and(|certificate| certificate.verified)
    }

    fn header_values<'v>(&'v self, name: &str) -> impl Iterator<Item = &'v [u8]> {
        let own = match &self.soap {
            _ if name == "x-forwarded-proto" => Some(Some(self.forwarded_proto)),
            Some(soap) => soap.value(name),
            None => None,
        };
        let sent = self
            .head
            .fields
            .iter()
            .filter(move |field| own.is_none() && field.name.eq_ignore_ascii_case(name));
        own.flatten().into_iter().chain(sent.map(|field| field.value))
    }
}

/// Cuts the port or the last dot off, as configured.
fn strip_authority<'a>(arrival: &Arrival<'_>, authority: &'a str) -> &'a str {
    let config = &arrival.http.config;
    let (host, port) = split_port(authority);
    let keep_port = match (config.strip_port, port) {
        (_, None) | (StripPort::Never, _) => true,
        (StripPort::Any, Some(_)) => false,
        (StripPort::Matching, Some(port)) => arrival.info.ends.port() != port.parse().ok(),
    };
    let authority = if keep_port { authority } else { host };
    match authority.strip_suffix('.') {
        Some(stripped) if config.strip_trailing_host_dot => stripped,
        _ => authority,
    }
}

/// Host and port of an authority. Brackets keep the colons of IPv6 together.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Where a route leads.
struct Chosen<'a> {
    /// Which entry of a weighted choice it was.
    weighted: Option<(usize, &'a WeightedCluster)>,
    /// Nothing when there is no cluster of that name.
    cluster: Option<Rc<ClusterRuntime>>,
}

fn choose_cluster<'a>(
    arrival: &Arrival<'_>,
    forward: &'a Forward,
    request: &Request<'_>,
    random: u64,
) -> Chosen<'a> {
    let serving = &arrival.shard.serving;
    let by_ref = |cluster: &ClusterRef| serving.cluster(cluster.id());
    let by_header = |name: &HeaderName| {
        let value = request.header_values(name).next()?;
        serving.cluster_by_name(std::str::from_utf8(value).ok()?)
    };
    match &forward.target {
        RouteTarget::Cluster(cluster) => Chosen { weighted: None, cluster: by_ref(cluster) },
        RouteTarget::Header(name) => Chosen { weighted: None, cluster: by_header(name) },
        RouteTarget::Weighted(clusters) => {
            let given = clusters.random_header.as_ref().and_then(|name| {
                let value = request.header_values(name).next()?;
                std::str::from_utf8(value).ok()?.parse().ok()
            });
            let entry = clusters.pick(given.unwrap_or(random));
            let index = clusters.all().iter().position(|known| std::ptr::eq(known, entry));
            let cluster = match &entry.target {
                Ok(cluster) => by_ref(cluster),
                Err(name) => by_header(name),
            };
            Chosen { weighted: index.map(|index| (index, entry)), cluster }
        }
    }
}

/// The request as it goes upstream.
struct Outbound<'a> {
    request: &'a Request<'a>,
    edits: &'a HeaderEdits,
    authority: Cow<'a, str>,
    path: Cow<'a, str>,
    original_path: Option<&'a str>,
    original_host: Option<&'a str>,
    append_host: bool,
    request_id: Option<RequestId<'a>>,
    timeout_ms: u64,
    attempt_count: bool,
    /// In place of the client's, where the body is translated.
    grpc_content_type: Option<&'static str>,
    forwarded_cert: ForwardedCert<'a>,
    /// What filters made of the request.
    filtered: &'a Filtered,
}

impl<'a> Outbound<'a> {
    fn new(
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
    fn render(
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

/// The path with its query after a rewrite.
fn rewrite_path<'a>(
    request: &'a Request<'a>,
    matcher: &PathMatcher,
    rewrite: &PathRewrite,
) -> Cow<'a, str> {
    let (path, query) = split(&request.path);
    match rewrite {
        PathRewrite::Prefix(new) => Cow::Owned(replace_prefix(matcher, path, new) + query),
        PathRewrite::Regex(regex) => {
            let mut out = Vec::new();
            regex.rewrite_into(path.as_bytes(), &mut out);
            out.extend_from_slice(query.as_bytes());
            into_text(out, &request.path)
        }
        PathRewrite::Template(template) => {
            let out = request.template(template);
            into_text([out, query.as_bytes().to_vec()].concat(), &request.path)
        }
    }
}

/// What the matcher matched at the start of `path`, replaced by `new`.
fn replace_prefix(matcher: &PathMatcher, path: &str, new: &str) -> String {
    let matched = match matcher {
        PathMatcher::Prefix { text, .. } | PathMatcher::SeparatedPrefix { text, .. } => text.len(),
        PathMatcher::Exact { .. } | PathMatcher::Regex(_) | PathMatcher::Connect => path.len(),
    };
    let rest = path.get(matched..).unwrap_or("");
    format!("{new}{rest}")
}

/// Rewrites are made of text and of pieces of text, but expressions work on bytes; should one cut
/// a character in two, the path stays as it was.
fn into_text(bytes: Vec<u8>, otherwise: &str) -> Cow<'_, str> {
    String::from_utf8(bytes).map_or(Cow::Borrowed(otherwise), Cow::Owned)
}

fn rewrite_host<'a>(
    request: &'a Request<'a>,
    rewrite: &'a HostRewrite,
    host: &'a Host,
) -> Option<Cow<'a, str>> {
    match rewrite {
        HostRewrite::Literal(text) => Some(Cow::Borrowed(text)),
        HostRewrite::Auto => {
            let name = &*host.endpoint.hostname;
            (!name.is_empty()).then_some(Cow::Borrowed(name))
        }
        HostRewrite::Header(name) => {
            let value = request.header_values(name).next()?;
            std::str::from_utf8(value).ok().filter(|text| !text.is_empty()).map(Cow::Borrowed)
        }
        HostRewrite::PathRegex(regex) => {
            let (path, _) = split(&request.path);
            let mut out = Vec::new();
            regex.rewrite_into(path.as_bytes(), &mut out);
            String::from_utf8(out).ok().filter(|text| !text.is_empty()).map(Cow::Owned)
        }
        HostRewrite::Template(template) => {
            String::from_utf8(request.template(template)).ok().map(Cow::Owned)
        }
    }
}

impl Request<'_> {
    /// A template filled in from the request.
    fn template(&self, template: &outrigger_xds::snapshot::Template) -> Vec<u8> {
        let mut out = Vec::new();
        let record = Record::default();
        let mut logger = self.arrival.shard.logger.borrow_mut();
        logger.renderer().template(template, &record, &InboundHeaders(self), b"", &mut out);
        out
    }
}

/// The headers of a request as it came.
struct InboundHeaders<'a>(&'a Request<'a>);

impl Headers for InboundHeaders<'_> {
    fn request(&self, name: &str) -> Option<&[u8]> {
        match name {
            ":method" => Some(self.0.method()),
            ":path" => Some(self.0.path_and_query()),
            ":authority" | "host" => Some(self.0.authority()),
            ":scheme" => Some(self.0.scheme()),
            _ => self.0.head.field(name).map(|field| field.value),
        }
    }

    fn response(&self, _name: &str) -> Option<&[u8]> {
        None
    }

    fn trailer(&self, _name: &str) -> Option<&[u8]> {
        None
    }
}

fn direct_reply(request: &Request<'_>, direct: &DirectResponse) -> Reply {
    let mut reply = Reply::empty(direct.status, DIRECT_RESPONSE);
    reply.body = Body::Configured(direct.body.clone());
    // As Envoy: what was created, or is to be looked at, is what was asked for.
    if direct.status == 201 || (300..400).contains(&direct.status) {
        let Request { scheme, authority, path, .. } = request;
        reply.location = Some(format!("{scheme}://{authority}{path}"));
    }
    reply
}

fn redirect_reply(request: &Request<'_>, route: &Route, redirect: &Redirect) -> Reply {
    let mut reply = Reply::empty(redirect.status, DIRECT_RESPONSE);
    let path = redirected_path(request, route, redirect);
    reply.location = Some(location(request, redirect, &path));
    if let Some(RedirectPath::Prefix(_) | RedirectPath::Regex(_)) = redirect.path {
        reply.rewritten_path = Some(path);
    }
    reply
}

/// The location of a redirect (contract section 8, `redirect`).
fn location(request: &Request<'_>, redirect: &Redirect, path: &str) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(request.scheme);
    let (host, port) = split_port(request.authority);
    let host = redirect.host.as_deref().unwrap_or(host);
    let port = match (redirect.port, &redirect.host, port) {
        (Some(port), _, _) => format!(":{port}"),
        // The old scheme's default port goes with the old scheme.
        (None, None, Some(port))
            if redirect.scheme.is_none() || !is_default(request.scheme, port) =>
        {
            format!(":{port}")
        }
        _ => String::new(),
    };
    format!("{scheme}://{host}{port}{path}")
}

fn redirected_path(request: &Request<'_>, route: &Route, redirect: &Redirect) -> String {
    let (path, query) = split(&request.path);
    let query = if redirect.strip_query { "" } else { query };
    match &redirect.path {
        None => format!("{path}{query}"),
        Some(RedirectPath::Whole(new)) if new.contains('?') => new.to_string(),
        Some(RedirectPath::Whole(new)) => format!("{new}{query}"),
        Some(RedirectPath::Prefix(new)) => replace_prefix(&route.matcher.path, path, new) + query,
        Some(RedirectPath::Regex(regex)) => {
            let mut out = Vec::new();
            regex.rewrite_into(path.as_bytes(), &mut out);
            format!("{}{query}", into_text(out, path))
        }
    }
}

fn is_default(scheme: &str, port: &str) -> bool {
    matches!((scheme, port), ("http", "80") | ("https", "443"))
}
