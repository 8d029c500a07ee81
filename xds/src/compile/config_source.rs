//! ConfigSource and what it is made of (contract section 1; xds.md A1).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::compile::{header_text, headers, invalid};
use crate::fault::{Found, Resource};
use crate::snapshot::{
    ApiConfigSource, ConfigPlace, ConfigSource, DynamicResources, GrpcService, PathConfigSource,
    RateLimit, Variant,
};
use crate::view::View;

/// What a source may refer to: management servers have to be there before anything comes from them
/// (contract section 22).
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// Static clusters, and whether their endpoints are dynamic.
    clusters: HashMap<Box<str>, bool>,
    /// There is an aggregated stream.
    has_ads: bool,
    /// It is spoken by delta.
    is_ads_delta: bool,
}

impl Sources {
    /// Of a bootstrap and its clusters.
    pub(crate) fn new<'a>(
        bootstrap: &View<'_>,
        clusters: impl Iterator<Item = &'a (Resource, View<'a>)>,
    ) -> Sources {
        let is_eds = |view: &View<'_>| view.choice("type").is_ok_and(|kind| kind == "EDS");
        let clusters =
            clusters.map(|(resource, view)| (resource.name.clone(), is_eds(view))).collect();
        let dynamic = bootstrap.message("dynamic_resources");
        let ads = dynamic.and_then(|dynamic| dynamic.message("ads_config"));
        let kind = ads.as_ref().and_then(|ads| ads.choice("api_type").ok());
        let is_ads_delta = kind.is_some_and(|kind| kind.contains("DELTA"));
        Sources { clusters, has_ads: ads.is_some(), is_ads_delta }
    }

    /// Whether resources of a place come by delta.
    pub(crate) fn is_delta(&self, place: &ConfigPlace) -> bool {
        match place {
            ConfigPlace::Ads => self.is_ads_delta,
            ConfigPlace::Api(api) => api.variant == Variant::Delta,
            ConfigPlace::Path(_) => false,
        }
    }

    fn check(&self, name: &str, view: &View<'_>, field: &str) -> Result<(), Found> {
        match self.clusters.get(name) {
            Some(false) => Ok(()),
            Some(true) => {
                let text = format!("cluster {name:?} must not have its endpoints by EDS");
                Err(view.invalid(field, text))
            }
            None => Err(view.invalid(field, format!("there is no static cluster {name:?}"))),
        }
    }
}

/// Bootstrap.DynamicResources.
pub(crate) fn dynamic_resources(
    view: &View<'_>,
    sources: &Sources,
) -> Result<DynamicResources, Found> {
    let source = |field: &str| view.message(field).map(|view| compile(&view, sources)).transpose();
    let ads = view.message("ads_config").map(|view| api(&view, sources)).transpose()?;
    Ok(DynamicResources {
        lds: source("lds_config")?,
        cds: source("cds_config")?,
        ads: ads.map(Arc::new),
    })
}

/// ConfigSource.
pub(crate) fn compile(view: &View<'_>, sources: &Sources) -> Result<ConfigSource, Found> {
    match view.choice("resource_api_version")?.as_str() {
        "AUTO" | "V3" => {}
        other => return Err(view.unsupported("resource_api_version", other)),
    }
    let initial_fetch_timeout = view.timeout("initial_fetch_timeout", Some(FETCH_TIMEOUT))?;
    let specifiers = ["ads", "api_config_source", "path_config_source", "path"];
    let place = match view.required_which("config_source_specifier", &specifiers)? {
        "ads" if !sources.has_ads => {
            return Err(view.invalid("ads", "needs dynamic_resources.ads_config"));
        }
        "ads" => ConfigPlace::Ads,
        "path" => ConfigPlace::Path(Arc::new(PathConfigSource {
            path: Path::new(view.required_text("path")?).into(),
            watched_directory: None,
        })),
        field => match view.message(field) {
            Some(view) if field == "api_config_source" => {
                ConfigPlace::Api(Arc::new(api(&view, sources)?))
            }
            Some(view) => ConfigPlace::Path(Arc::new(path(&view)?)),
            None => return Err(view.required(field)),
        },
    };
    Ok(ConfigSource { place, initial_fetch_timeout })
}

fn path(view: &View<'_>) -> Result<PathConfigSource, Found> {
    let watched_directory = match view.message("watched_directory") {
        Some(directory) => Some(Path::new(directory.required_text("path")?).into()),
        None => None,
    };
    Ok(PathConfigSource { path: Path::new(view.required_text("path")?).into(), watched_directory })
}

/// ApiConfigSource.
fn api(view: &View<'_>, sources: &Sources) -> Result<ApiConfigSource, Found> {
    let variant = match view.choice("api_type")?.as_str() {
        "GRPC" => Variant::StateOfTheWorld,
        "DELTA_GRPC" => Variant::Delta,
        other => return Err(view.unsupported("api_type", other)),
    };
    match view.choice("transport_api_version")?.as_str() {
        "V3" => {}
        other => return Err(view.unsupported("transport_api_version", other)),
    }
    let services = view.messages("grpc_services");
    if services.is_empty() {
        return Err(view.required("grpc_services"));
    }
    Ok(ApiConfigSource {
        variant,
        services: services.iter().map(|view| service(view, sources)).collect::<Result<_, _>>()?,
        set_node_on_first_message_only: view.flag("set_node_on_first_message_only"),
        rate_limit: view
            .message("rate_limit_settings")
            .map(|view| rate_limit(&view))
            .transpose()?,
    })
}

/// RateLimitSettings (C-13).
fn rate_limit(view: &View<'_>) -> Result<RateLimit, Found> {
    let max_tokens = view.positive("max_tokens")?.unwrap_or(REQUESTS_AT_ONCE);
    let per_second =
        view.message("fill_rate").map_or(REQUESTS_PER_SECOND, |rate| rate.f64("value"));
    // The lower bound keeps every deadline within reach; it is one request in a day.
    if !(per_second >= 1.0 / SECONDS_PER_DAY && per_second.is_finite()) {
        return Err(view.invalid("fill_rate", "must be at least one request in a day"));
    }
    let refill = Duration::try_from_secs_f64(1.0 / per_second)
        .map_err(|error| view.invalid("fill_rate", error.to_string()))?;
    Ok(RateLimit { max_tokens, refill })
}

/// GrpcService, by a cluster.
fn service(view: &View<'_>, sources: &Sources) -> Result<GrpcService, Found> {
    view.required_which("target_specifier", &["envoy_grpc"])?;
    let Some(grpc) = view.message("envoy_grpc") else { return Err(view.required("envoy_grpc")) };
    let cluster = grpc.required_text("cluster_name")?;
    sources.check(cluster, &grpc, "cluster_name")?;
    let retry = grpc.message("retry_policy").or_else(|| view.message("retry_policy"));
    Ok(GrpcService {
        cluster: cluster.into(),
        authority: header_text(&grpc, "authority")?.unwrap_or_else(|| cluster.into()),
        initial_metadata: view
            .messages("initial_metadata")
            .iter()
            .map(metadata)
            .collect::<Result<_, _>>()?,
        timeout: view.timeout("timeout", None)?,
        message_bytes_max: grpc
            .positive("max_receive_message_length")?
            .unwrap_or(MESSAGE_BYTES_MAX),
        backoff: match retry.and_then(|retry| retry.message("retry_back_off")) {
            Some(view) => backoff(&view)?,
            None => BACKOFF,
        },
    })
}

/// A HeaderValue of a call: plain text, since there is no request to take anything from.
fn metadata(view: &View<'_>) -> Result<(Box<str>, Box<str>), Found> {
    let (key, at) = (view.required_text("key")?, view.at("key"));
    if key.starts_with([':', '-']) || key.starts_with("grpc-") {
        return Err(invalid(at, format!("{key:?} is not metadata of a call")));
    }
    headers::header_name(key, at)?;
    match headers::value(view)?.as_literal() {
        Some(value) => Ok((key.to_ascii_lowercase().into(), value.into())),
        None => Err(view.invalid("value", "must be plain text")),
    }
}

/// BackoffStrategy (F-02).
fn backoff(view: &View<'_>) -> Result<(Duration, Duration), Found> {
    let base = match view.duration("base_interval")? {
        Some(base) if base >= BACKOFF_MIN => base,
        Some(_) => return Err(view.invalid("base_interval", "must be at least 1 ms")),
        None => return Err(view.required("base_interval")),
    };
    let max = view.duration("max_interval")?.unwrap_or(base.saturating_mul(10));
    if max < base {
        return Err(view.invalid("max_interval", "must be at least base_interval"));
    }
    Ok((base, max))
}

/// Envoy's default (W-08).
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);
/// Envoy's default (F-02).
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Envoy's bound.
const BACKOFF_MIN: Duration = Duration::from_millis(1);
/// Envoy's defaults (C-13).
const REQUESTS_AT_ONCE: u32 = 100;
const REQUESTS_PER_SECOND: f64 = 10.0;
const SECONDS_PER_DAY: f64 = 86_400.0;
/// C-11: full pushes to large meshes are some ten MiB.
const MESSAGE_BYTES_MAX: u32 = 256 << 20;
