//! The filters of a connection manager (contract section 5), in the listener and by ECDS.
//!
//! Invariant: whatever a listener may hold but the router can come by name, and means the same there.

use std::sync::Arc;
use std::time::Duration;

use crate::compile::{Context, config_source, cors, fault_filter, invalid, istio, on_demand};
use crate::fault::{Found, Problem};
use crate::mapping::Schema;
use crate::snapshot::{
    FilterDiscovery, FilterSource, GrpcMethods, GrpcStats, HttpFilter, HttpFilterKind, Router,
    Soap, SoapInspection,
};
use crate::view::{Unpacked, View};

/// Those of a connection manager. The router is the last.
pub(crate) fn compile(
    view: &View<'_>,
    context: &Context<'_>,
) -> Result<(Box<[HttpFilter]>, Router), Found> {
    let mut filters: Vec<HttpFilter> = Vec::new();
    let mut router = None;
    for filter in &view.messages("http_filters") {
        let name = filter.required_text("name")?;
        // Routes can enable those that they can configure; any other disabled one only has to be valid.
        let disabled = filter.flag("disabled");
        let config = if filter.has("config_discovery") {
            match discovery(filter, name, context)? {
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
        if let FilterSource::Inline(kind) = &config
            && !disabled
        {
            check_place(filter, kind, &filters)?;
        }
        filters.push(HttpFilter { name: name.into(), disabled, config });
    }
    match router {
        Some(router) => Ok((filters.into(), router)),
        None => Err(invalid(view.at("http_filters"), "must end in the router filter")),
    }
}

/// A configuration that came by name (TypedExtensionConfig), and the full name of its type.
pub(crate) fn extension(
    view: &View<'_>,
    context: &Context<'_>,
) -> Result<(HttpFilterKind, String), Found> {
    view.required_text("name")?;
    let unpacked = view.unpack("typed_config")?.ok_or_else(|| view.required("typed_config"))?;
    Ok((kind(&unpacked, view.schema(), context)?, unpacked.kind()))
}

/// Any filter but the router.
fn kind(
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

/// What a filter behind those `before` it, which are in the listener as it is, may not be.
fn check_place(
    filter: &View<'_>,
    kind: &HttpFilterKind,
    before: &[HttpFilter],
) -> Result<(), Found> {
    use HttpFilterKind::{GrpcStats, GrpcWeb, Soap};
    let acting = || before.iter().filter(|known| !known.disabled).filter_map(HttpFilter::inline);
    let is_twice = match kind {
        GrpcWeb => acting().any(|known| matches!(known, GrpcWeb)),
        GrpcStats(_) => acting().any(|known| matches!(known, GrpcStats(_))),
        Soap(_) => acting().any(|known| matches!(known, Soap(_))),
        _ => false,
    };
    if is_twice {
        return Err(fault(filter, "is there twice"));
    }
    // Behind the bridge, the statistics count calls of both kinds; here they could not tell a call of
    // gRPC-Web from any other request.
    if matches!(kind, GrpcWeb) && acting().any(|known| matches!(known, GrpcStats(_))) {
        return Err(fault(filter, "must stand before grpc_stats"));
    }
    Ok(())
}

fn fault(filter: &View<'_>, text: &str) -> Found {
    filter.fault(Problem::Invalid(text.to_owned()))
}

/// ExtensionConfigSource. Nothing where the filter is optional and can be of no type that is known (U-06).
fn discovery(
    filter: &View<'_>,
    name: &str,
    context: &Context<'_>,
) -> Result<Option<FilterDiscovery>, Found> {
    let Some(view) = filter.message("config_discovery") else {
        return Err(filter.required("config_discovery"));
    };
    let Some(source) = view.message("config_source") else {
        return Err(view.required("config_source"));
    };
    let source = config_source::compile(&source, context.sources)?;
    let Some(types) = types(filter, &view, context)? else { return Ok(None) };
    let default = match view.has("default_config") {
        true => view.unpack("default_config")?,
        false => None,
    };
    if let Some(default) = &default
        && !types.iter().any(|known| **known == *default.kind())
    {
        let text = format!("is of type {}, which type_urls does not list", default.kind());
        return Err(view.invalid("default_config", text));
    }
    let default = default.map(|found| kind(&found, view.schema(), context)).transpose()?;
    let is_optional = view.flag("apply_default_config_without_warming");
    if is_optional && default.is_none() {
        return Err(view.invalid("apply_default_config_without_warming", "needs default_config"));
    }
    Ok(Some(FilterDiscovery {
        key: source.place.key(name),
        name: name.into(),
        source,
        default,
        is_optional,
        types,
    }))
}

fn types(
    filter: &View<'_>,
    view: &View<'_>,
    context: &Context<'_>,
) -> Result<Option<Box<[Box<str>]>>, Found> {
    let mut types: Vec<Box<str>> = Vec::new();
    let urls = view.texts("type_urls");
    if urls.is_empty() {
        return Err(view.required("type_urls"));
    }
    for (url, at) in urls {
        let name = url.rsplit('/').next().unwrap_or(url);
        if DISCOVERED.contains(&name) {
            types.push(name.into());
        } else if name == ROUTER {
            return Err(invalid(at, "the router cannot come by name"));
        } else if filter.flag("is_optional") {
            context.notes.ignore(at, "optional, and not supported");
        } else {
            return Err(Found::new(at, Problem::UnknownExtension(name.to_owned())));
        }
    }
    Ok((!types.is_empty()).then(|| types.into()))
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
const SOAP: &str = "outrigger.filters.http.soap.v1.Soap";
const GRPC_WEB: &str = "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb";
const GRPC_STATS: &str = "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// What can come by name.
const DISCOVERED: [&str; 9] = [
    fault_filter::HTTP_FAULT,
    cors::CORS,
    istio::PEER_METADATA,
    istio::ALPN,
    istio::STATS,
    GRPC_WEB,
    GRPC_STATS,
    SOAP,
    on_demand::ON_DEMAND,
];

// Of the SOAP filter.
const INSPECTED_BYTES: u32 = 16 * 1024;
const INSPECTED_BYTES_MAX: u32 = 1024 * 1024;
const INSPECTION_TIMEOUT: Duration = Duration::from_secs(1);
