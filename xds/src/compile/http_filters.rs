//! The filters of a connection manager (contract section 5).
//!
//! Invariant: the router is the last, and what comes by name keeps to the rules of what does not.

use std::mem::replace;
use std::sync::Arc;
use std::time::Duration;

use crate::compile::{Context, cors, discovery, fault_filter, invalid, istio, on_demand};
use crate::fault::{Found, Problem};
use crate::mapping::Schema;
use crate::snapshot::{
    FilterPlace, FilterSource, GrpcMethods, GrpcStats, HttpFilter, HttpFilterKind, Router, Soap,
    SoapInspection,
};
use crate::view::{Unpacked, View};

/// Those of a connection manager. The router is the last.
pub(crate) fn compile(
    view: &View<'_>,
    context: &Context<'_>,
) -> Result<(Box<[HttpFilter]>, Router), Found> {
    let mut filters: Vec<HttpFilter> = Vec::new();
    let mut places = Vec::new();
    let mut router = None;
    let views = view.messages("http_filters");
    for filter in &views {
        let name = filter.required_text("name")?;
        // Routes can enable those that they can configure; any other disabled one only has to be valid.
        let disabled = filter.flag("disabled");
        let config = if filter.has("config_discovery") {
            let is_skippable = filter.flag("is_optional");
            match discovery::compile(filter, FilterPlace::Http, is_skippable, context)? {
                Some(discovery) => FilterSource::Discovered(Arc::new(discovery)),
                None => continue,
            }
        } else {
            let Some(unpacked) = filter.unpack("typed_config")? else { continue };
            match unpacked.kind().as_str() {
                _ if router.is_some() => return Err(fault(filter, NOT_LAST)),
                ROUTER if disabled => {
                    return Err(filter.invalid("disabled", "the router cannot be disabled"));
                }
                ROUTER => {
                    router = Some(self::router(&unpacked.view(view.schema())));
                    continue;
                }
                COMPRESSOR if serves_metrics(view) => {
                    let text = "metrics are not compressed, which HTTP allows";
                    context.notes.ignore(filter.at("typed_config"), text);
                    continue;
                }
                _ => FilterSource::Inline(kind(&unpacked, view.schema(), context)?),
            }
        };
        if router.is_some() {
            return Err(fault(filter, NOT_LAST));
        }
        filters.push(HttpFilter { name: name.into(), disabled, config });
        places.push(filter);
    }
    if let Some((index, text)) = misplaced(&filters, first) {
        return Err(fault(places[index], text));
    }
    match router {
        Some(router) => Ok((filters.into(), router)),
        None => Err(invalid(view.at("http_filters"), "must end in the router filter")),
    }
}

/// Any filter but the router.
pub(crate) fn kind(
    unpacked: &Unpacked,
    schema: &Schema,
    context: &Context<'_>,
) -> Result<HttpFilterKind, Found> {
    let config = unpacked.view(schema);
    Ok(match unpacked.kind().as_str() {
        GRPC_WEB => HttpFilterKind::GrpcWeb,
        GRPC_STATS => HttpFilterKind::GrpcStats(Arc::new(grpc_stats(&config)?)),
        SOAP => HttpFilterKind::Soap(soap(&config)?),
        on_demand::ON_DEMAND => HttpFilterKind::OnDemand(on_demand::compile(&config, context)?),
        fault_filter::HTTP_FAULT => {
            HttpFilterKind::Fault(Arc::new(fault_filter::compile(&config, context)?))
        }
        cors::CORS => HttpFilterKind::Cors,
        istio::PEER_METADATA => {
            HttpFilterKind::PeerMetadata(Arc::new(istio::peer_metadata(&config, context)?))
        }
        istio::ALPN => HttpFilterKind::Alpn(Arc::new(istio::alpn(&config)?)),
        istio::STATS => HttpFilterKind::IstioStats(Arc::new(istio::stats(&config)?)),
        _ => return Err(unpacked.refuse()),
    })
}

/// What a filter is before any server has said so.
fn first(filter: &HttpFilter) -> Option<&HttpFilterKind> {
    match &filter.config {
        FilterSource::Inline(kind) => Some(kind),
        FilterSource::Discovered(discovery) => discovery.http(None),
    }
}

/// The first of a manager's filters that may not stand where it does, and why, where `kind` says what
/// each is.
pub(crate) fn misplaced<'a>(
    filters: &'a [HttpFilter],
    kind: impl Fn(&'a HttpFilter) -> Option<&'a HttpFilterKind>,
) -> Option<(usize, &'static str)> {
    let (mut grpc_web, mut grpc_stats, mut soap) = (false, false, false);
    for (index, filter) in filters.iter().enumerate() {
        let kind = if filter.disabled { None } else { kind(filter) };
        let is_twice = match kind {
            // Behind the bridge, the statistics count calls of both kinds; here they could not tell a
            // call of gRPC-Web from any other request.
            Some(HttpFilterKind::GrpcWeb) if grpc_stats => {
                return Some((index, "must stand before grpc_stats"));
            }
            Some(HttpFilterKind::GrpcWeb) => replace(&mut grpc_web, true),
            Some(HttpFilterKind::GrpcStats(_)) => replace(&mut grpc_stats, true),
            Some(HttpFilterKind::Soap(_)) => replace(&mut soap, true),
            _ => false,
        };
        if is_twice {
            return Some((index, "is there twice"));
        }
    }
    None
}

fn fault(filter: &View<'_>, text: &str) -> Found {
    filter.fault(Problem::Invalid(text.to_owned()))
}

/// Whether all that a connection manager serves are metrics, as on Istio's port 15090.
fn serves_metrics(view: &View<'_>) -> bool {
    let hosts = view.message("route_config").map(|table| table.messages("virtual_hosts"));
    let routes: Vec<_> = hosts.iter().flatten().flat_map(|host| host.messages("routes")).collect();
    let is_metrics = |route: &View<'_>| {
        let path = route.message("match");
        path.is_some_and(|path| {
            [path.text("prefix"), path.text("path")].contains(&"/stats/prometheus")
        })
    };
    !routes.is_empty() && routes.iter().all(is_metrics)
}

fn router(view: &View<'_>) -> Router {
    Router {
        dynamic_stats: view.wrapped_flag("dynamic_stats").unwrap_or(true),
        suppress_envoy_headers: view.flag("suppress_envoy_headers"),
        respect_expected_rq_timeout: view.flag("respect_expected_rq_timeout"),
    }
}

fn grpc_stats(view: &View<'_>) -> Result<GrpcStats, Found> {
    let methods = match view.message("individual_method_stats_allowlist") {
        Some(list) => GrpcMethods::Listed(
            list.messages("services").iter().map(grpc_service).collect::<Result<_, Found>>()?,
        ),
        None if view.wrapped_flag("stats_for_all_methods") == Some(true) => GrpcMethods::All,
        None => GrpcMethods::None,
    };
    Ok(GrpcStats {
        methods,
        count_messages: true,
        upstream_time: view.flag("enable_upstream_stats"),
        replace_dots_in_service_name: view.flag("replace_dots_in_grpc_service_name"),
    })
}

fn grpc_service(view: &View<'_>) -> Result<(Box<str>, Vec<Box<str>>), Found> {
    let name = view.required_text("name")?;
    let methods = view.texts("method_names");
    if methods.is_empty() {
        return Err(view.required("method_names"));
    }
    Ok((name.into(), methods.into_iter().map(|(method, _)| method.into()).collect()))
}

fn soap(view: &View<'_>) -> Result<Soap, Found> {
    let bytes_max = view.positive("max_inspect_bytes")?.unwrap_or(INSPECTED_BYTES);
    if bytes_max > INSPECTED_BYTES_MAX {
        let text = format!("must be at most {INSPECTED_BYTES_MAX}");
        return Err(view.invalid("max_inspect_bytes", text));
    }
    let timeout = view.positive_duration("inspect_timeout")?.unwrap_or(INSPECTION_TIMEOUT);
    let inspection = SoapInspection { bytes_max, timeout };
    Ok(Soap { inspection: view.flag("match_body").then_some(inspection) })
}

const NOT_LAST: &str = "the router must be the last filter";
const COMPRESSOR: &str = "envoy.extensions.filters.http.compressor.v3.Compressor";
pub(crate) const SOAP: &str = "outrigger.filters.http.soap.v1.Soap";
pub(crate) const GRPC_WEB: &str = "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb";
pub(crate) const GRPC_STATS: &str = "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig";
pub(crate) const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

// Of the SOAP filter.
const INSPECTED_BYTES: u32 = 16 * 1024;
const INSPECTED_BYTES_MAX: u32 = 1024 * 1024;
const INSPECTION_TIMEOUT: Duration = Duration::from_secs(1);
