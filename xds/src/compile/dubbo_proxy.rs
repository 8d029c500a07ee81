//! Envoy's DubboProxy, as the RpcProxy that does the same.
//!
//! What it cannot say has RpcProxy's defaults: requests are multiplexed, and the time they have is
//! their own.

use crate::compile::{Context, matcher, rpc, rpc_route};
use crate::fault::{Found, Problem};
use crate::snapshot::{
    RpcHeaderEdits, RpcMatcher, RpcProtocol, RpcProxy, RpcRetry, RpcRoute, RpcRouteTable,
    RpcTarget, ServiceMatcher, StringMatcher,
};
use crate::view::View;

pub(crate) fn compile(view: &View<'_>, context: &Context<'_>) -> Result<RpcProxy, Found> {
    let stat_prefix = view.required_text("stat_prefix")?;
    // Each has one value, which says that it is Dubbo with hessian2.
    view.choice("protocol_type")?;
    view.choice("serialization_type")?;
    filters(view)?;
    let routes = routes(view, context)?;
    Ok(rpc::with_defaults(stat_prefix, RpcProtocol::Dubbo, routes))
}

/// Without any, Envoy takes the router.
fn filters(view: &View<'_>) -> Result<(), Found> {
    for (index, filter) in view.messages("dubbo_filters").iter().enumerate() {
        let name = filter.required_text("name")?;
        if name != ROUTER {
            return Err(filter.unsupported("name", name));
        }
        if index > 0 {
            return Err(filter.fault(Problem::Invalid("is there twice".to_owned())));
        }
        if filter.has("config")
            && let Some(config) = filter.unpack("config")?
            && config.kind() != ROUTER_CONFIG
        {
            return Err(config.refuse());
        }
    }
    Ok(())
}

/// The tables one after the other: the first route that matches counts, whatever table it is in.
fn routes(view: &View<'_>, context: &Context<'_>) -> Result<RpcRouteTable, Found> {
    let (name, tables) = match view.message("multiple_route_config") {
        Some(_) if view.has("route_config") => {
            let text = "set together with route_config";
            return Err(view.invalid("multiple_route_config", text));
        }
        Some(multiple) => (multiple.text("name"), multiple.messages("route_config")),
        None if view.has("route_config") => ("", view.messages("route_config")),
        None => return Err(view.required("multiple_route_config")),
    };
    let mut routes = Vec::new();
    for table in &tables {
        let service = interface(table)?;
        let version = match table.optional_text("version") {
            Some(rpc_route::DUBBO_NO_VERSION) => Some(exactly("")),
            version => version.map(exactly),
        };
        let group = table.optional_text("group").map(exactly);
        for route in table.messages("routes") {
            let Some(criteria) = route.message("match") else {
                return Err(route.required("match"));
            };
            let Some(action) = route.message("route") else { return Err(route.required("route")) };
            let headers = criteria.messages("headers");
            let method = criteria.message("method").and_then(|method| method.message("name"));
            routes.push(RpcRoute {
                name: table.text("name").into(),
                matcher: RpcMatcher {
                    service: Some(service.clone()),
                    method: method.map(|name| matcher::string(&name)).transpose()?,
                    version: version.clone(),
                    group: group.clone(),
                    // Attachments are headers to Envoy, whose names have no case.
                    headers: headers
                        .iter()
                        .map(|header| rpc_route::header(header, true))
                        .collect::<Result<_, Found>>()?,
                    fraction: None,
                },
                target: target(&action, context)?,
                timeout: None,
                retry: RpcRetry::default(),
                request_headers: RpcHeaderEdits::default(),
                forward_remaining_timeout: false,
            });
        }
    }
    Ok(rpc_route::table(name, routes))
}

/// A star alone, in front or at the end stands for at least one byte; anywhere else it is a star.
fn interface(view: &View<'_>) -> Result<ServiceMatcher, Found> {
    let name = view.required_text("interface")?;
    let wildcard = |prefix: &str, suffix: &str| ServiceMatcher::Wildcard {
        prefix: prefix.as_bytes().into(),
        suffix: suffix.as_bytes().into(),
    };
    Ok(match (name.strip_prefix('*'), name.strip_suffix('*')) {
        (Some(suffix), _) => wildcard("", suffix),
        (None, Some(prefix)) => wildcard(prefix, ""),
        (None, None) => ServiceMatcher::Text(exactly(name)),
    })
}

fn exactly(text: &str) -> StringMatcher {
    StringMatcher::Exact { text: text.as_bytes().into(), ignore_case: false }
}

/// As with TcpProxy, and with Envoy, a cluster need not exist.
fn target(view: &View<'_>, context: &Context<'_>) -> Result<RpcTarget, Found> {
    view.required_which("cluster_specifier", &["cluster", "weighted_clusters"])?;
    let Some(weighted) = view.message("weighted_clusters") else {
        return Ok(RpcTarget::Cluster(context.names.refer(view.required_text("cluster")?)));
    };
    let by_name = |entry: &View<'_>| Ok(context.names.refer(entry.required_text("name")?));
    Ok(RpcTarget::Weighted(rpc_route::weighted_clusters(&weighted, context, by_name)?))
}

const ROUTER: &str = "envoy.filters.dubbo.router";
const ROUTER_CONFIG: &str = "envoy.extensions.filters.network.dubbo_proxy.router.v3.Router";
