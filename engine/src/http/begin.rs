//! The beginning of an exchange: where a request goes, or how it is answered here.
//!
//! Everything that needs the received head happens here, in one go, so that its buffer can go back
//! to the kernel at once. Invariant: what is routed is what is forwarded.

use std::rc::Rc;
use std::time::Duration;

use outrigger_codecs::http::{FieldStorage, Method, RequestHead, Target, Version};
use outrigger_xds::snapshot::{
    ClusterRef, Demand, Forward, HeaderName, RequestView, Route, RouteAction, RouteTable,
    Target as RouteTarget, UnderscoreHeaders, WeightedCluster,
};

use crate::access_log::ResponseFlags;
use crate::cluster::{ClusterRuntime, Host};
use crate::connection::ConnectionInfo;

use super::HttpRuntime;
use super::exchange::{Exchange, ResponseEdits};
use super::filters::{Ask, Filters};
use super::kept_head::{HeadSource, KeptHead};
use super::outbound::Outbound;
use super::redirect::{direct_reply, redirect_reply};
use super::reply::Reply;
use super::request::Request;
use super::soap::{SoapHeaders, soap_request};
use super::upgrade::{Asked, Tunnel, asked};

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
