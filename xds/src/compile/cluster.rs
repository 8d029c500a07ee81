//! Clusters and their endpoints (contract sections 10, 11, 13 and 14).

use std::sync::Arc;
use std::time::Duration;

use crate::compile::address;
use crate::compile::endpoints::{self, Target};
use crate::compile::tls::{self, FromAuthority};
use crate::compile::{
    Context, config_source, destination, http, http2, invalid, terminal, upstream_bind,
};
use crate::fault::{Found, Problem};
use crate::snapshot::{
    Address, CircuitBreakers, Cluster, ClusterHttp, Discovery, DnsConfig, DnsFamily, DnsTarget,
    Eds, Endpoint, HeaderCase, Http2Options, IstioCluster, LoadBalancer, PanicPolicy,
    TransportMatch, UpstreamProtocol,
};
use crate::view::View;

/// Compiles a cluster and the endpoints that are known without asking anybody.
pub(crate) fn compile(
    view: &View<'_>,
    context: &Context<'_>,
) -> Result<(Cluster, Vec<Endpoint>), Found> {
    let name = view.required_text("name")?;
    let (discovery, endpoints) = discovery(view, context)?;
    let (http, from_authority) = http_options(view, context)?;
    let tls = tls::upstream_socket(view, from_authority, context)?.map(Arc::new);
    let transports = transports(view, from_authority, context)?;
    let is_plain = tls.is_none() || transports.iter().any(|other| other.tls.is_none());
    if http.protocol == UpstreamProtocol::Alpn && is_plain {
        let text = "auto_config chooses by ALPN, and the transport socket has none";
        return Err(view.invalid("typed_extension_protocol_options", text));
    }
    let metadata = view.metadata();
    let load_balancer = load_balancer(view, context)?;
    let is_provided = load_balancer == LoadBalancer::ClusterProvided;
    if is_provided != matches!(discovery, Discovery::OriginalDst(_)) {
        let text =
            "CLUSTER_PROVIDED is the policy of clusters of type ORIGINAL_DST, and of no other";
        return Err(view.invalid("lb_policy", text));
    }
    passes_through(view, context)?;
    let cluster = Cluster {
        name: name.into(),
        stat_name: view.optional_text("alt_stat_name").unwrap_or(name).into(),
        discovery,
        load_balancer,
        panic: panic_policy(view)?,
        connect_timeout: view.positive_duration("connect_timeout")?.unwrap_or(CONNECT_TIMEOUT),
        per_connection_buffer_limit_bytes: view
            .positive("per_connection_buffer_limit_bytes")?
            .unwrap_or(BUFFER_LIMIT_BYTES),
        circuit_breakers: circuit_breakers(view)?,
        http,
        tls,
        transports,
        bind: match view.message("upstream_bind_config") {
            Some(bind) => Some(Arc::new(upstream_bind::compile(&bind)?)),
            None => None,
        },
        tcp_keepalive: view
            .message("upstream_connection_options")
            .and_then(|options| options.message("tcp_keepalive"))
            .map(|keepalive| address::keepalive(&keepalive)),
        wait_for_warm_on_init: view.wrapped_flag("wait_for_warm_on_init").unwrap_or(true),
        istio: IstioCluster::of(metadata.as_deref()),
        metadata,
    };
    Ok((cluster, endpoints))
}

/// A cluster of which nothing is configured.
pub(crate) fn plain() -> Cluster {
    Cluster {
        name: "".into(),
        stat_name: "".into(),
        discovery: Discovery::Static,
        load_balancer: LoadBalancer::RoundRobin,
        panic: PanicPolicy {
            threshold_percent: PANIC_THRESHOLD_PERCENT,
            fail_traffic: false,
            overprovisioning_factor: OVERPROVISIONING_FACTOR,
            locality_weighted: false,
        },
        connect_timeout: CONNECT_TIMEOUT,
        per_connection_buffer_limit_bytes: BUFFER_LIMIT_BYTES,
        circuit_breakers: BREAKERS,
        http: plain_http(),
        tls: None,
        transports: Vec::new(),
        bind: None,
        tcp_keepalive: None,
        wait_for_warm_on_init: true,
        metadata: None,
        istio: IstioCluster::default(),
    }
}

fn plain_http() -> ClusterHttp {
    ClusterHttp {
        protocol: UpstreamProtocol::Http1,
        http2: Http2Options::default(),
        max_stream_duration: None,
        idle_timeout: Some(IDLE_TIMEOUT),
        max_connection_duration: None,
        max_requests_per_connection: None,
        max_response_headers_bytes: RESPONSE_HEADERS_KB * 1024,
        max_headers_count: HEADERS_COUNT,
        enable_trailers: false,
        header_case: HeaderCase::Lower,
    }
}

/// `transport_socket_matches`.
fn transports(
    view: &View<'_>,
    from_authority: FromAuthority,
    context: &Context<'_>,
) -> Result<Vec<TransportMatch>, Found> {
    let transport = |entry: &View<'_>| {
        if !entry.has("transport_socket") {
            return Err(entry.required("transport_socket"));
        }
        let labels = match entry.json("match") {
            Some(serde_json::Value::Object(labels)) => labels,
            _ => serde_json::Map::new(),
        };
        Ok(TransportMatch {
            name: entry.required_text("name")?.into(),
            labels,
            tls: tls::upstream_socket(entry, from_authority, context)?.map(Arc::new),
        })
    };
    view.messages("transport_socket_matches").iter().map(transport).collect()
}

/// The upstream network filters, all of which let everything pass.
fn passes_through(view: &View<'_>, context: &Context<'_>) -> Result<(), Found> {
    for filter in view.messages("filters") {
        filter.required_text("name")?;
        let Some(unpacked) = filter.unpack("typed_config")? else {
            return Err(filter.required("typed_config"));
        };
        match unpacked.kind().as_str() {
            terminal::METADATA_EXCHANGE => {
                terminal::note_metadata_exchange(filter.at("typed_config"), context);
            }
            _ => return Err(unpacked.refuse()),
        }
    }
    Ok(())
}

fn discovery(view: &View<'_>, context: &Context<'_>) -> Result<(Discovery, Vec<Endpoint>), Found> {
    if let Some(rules) = destination::compile(view)? {
        return Ok((Discovery::OriginalDst(rules), Vec::new()));
    }
    let kind = view.choice("type")?;
    if !matches!(kind.as_str(), "STATIC" | "STRICT_DNS" | "LOGICAL_DNS" | "EDS") {
        return Err(view.unsupported("type", &kind));
    }
    let targets = match view.message("load_assignment") {
        Some(assignment) => endpoints::targets(&assignment)?,
        None => Vec::new(),
    };
    // Read for every kind, so that a bad value is found whether or not it has an effect.
    let mut config = dns(view)?;
    if kind != "EDS" && view.has("eds_cluster_config") {
        return Err(view.invalid("eds_cluster_config", format!("a {kind} cluster has none")));
    }
    if kind == "EDS" {
        return Ok((Discovery::Eds(eds(view, context)?), Vec::new()));
    }
    if kind == "STATIC" {
        let mut endpoints = Vec::with_capacity(targets.len());
        for (target, at) in targets {
            match target {
                Target::Endpoint(endpoint) => endpoints.push(endpoint),
                Target::Dns(target) => {
                    let text = format!("{:?} is not an IP address", target.host);
                    return Err(invalid(at, text));
                }
            }
        }
        return Ok((Discovery::Static, endpoints));
    }
    let mut names = Vec::with_capacity(targets.len());
    for (target, at) in targets {
        match target {
            Target::Dns(target) => names.push(target),
            Target::Endpoint(endpoint) => match endpoint.address {
                Address::Ip(address) => names.push(DnsTarget {
                    host: address.ip().to_string().into(),
                    port: address.port(),
                    template: endpoint,
                }),
                _ => {
                    return Err(invalid(at, format!("a {kind} cluster needs host names")));
                }
            },
        }
    }
    if kind == "LOGICAL_DNS" && names.len() != 1 {
        return Err(
            view.invalid("load_assignment", "a LOGICAL_DNS cluster has exactly one endpoint")
        );
    }
    config.targets = names;
    let discovery = if kind == "STRICT_DNS" {
        Discovery::StrictDns(config)
    } else {
        Discovery::LogicalDns(config)
    };
    Ok((discovery, Vec::new()))
}

fn eds(view: &View<'_>, context: &Context<'_>) -> Result<Eds, Found> {
    if view.has("load_assignment") {
        return Err(view.invalid("load_assignment", "an EDS cluster has none of its own"));
    }
    let Some(config) = view.message("eds_cluster_config") else {
        return Err(view.required("eds_cluster_config"));
    };
    let Some(source) = config.message("eds_config") else {
        return Err(config.required("eds_config"));
    };
    let source = config_source::compile(&source, context.sources)?;
    let name = config.optional_text("service_name").unwrap_or(view.text("name"));
    Ok(Eds { key: source.place.key(name), name: name.into(), source })
}

/// Everything but the targets.
fn dns(view: &View<'_>) -> Result<DnsConfig, Found> {
    let refresh_rate = view.duration("dns_refresh_rate")?.unwrap_or(DNS_REFRESH_RATE);
    if refresh_rate < DNS_REFRESH_RATE_MIN {
        return Err(view.invalid("dns_refresh_rate", "must be above 1 ms"));
    }
    let failure_refresh_rate = match view.message("dns_failure_refresh_rate") {
        None => None,
        Some(rate) => {
            let base = rate.positive_duration("base_interval")?;
            let base = base.ok_or_else(|| rate.required("base_interval"))?;
            let max = rate.positive_duration("max_interval")?.unwrap_or(base * 10);
            if max < base {
                return Err(rate.invalid("max_interval", "must not be below base_interval"));
            }
            Some((base, max))
        }
    };
    Ok(DnsConfig {
        targets: Vec::new(),
        refresh_rate,
        failure_refresh_rate,
        jitter: view.duration("dns_jitter")?.unwrap_or_default(),
        respect_ttl: view.flag("respect_dns_ttl"),
        family: match view.choice("dns_lookup_family")?.as_str() {
            "AUTO" => DnsFamily::Auto,
            "V4_ONLY" => DnsFamily::V4Only,
            "V6_ONLY" => DnsFamily::V6Only,
            "V4_PREFERRED" => DnsFamily::V4Preferred,
            "ALL" => DnsFamily::All,
            other => return Err(view.unsupported("dns_lookup_family", other)),
        },
    })
}

fn load_balancer(view: &View<'_>, context: &Context<'_>) -> Result<LoadBalancer, Found> {
    if let Some(policy) = view.message("load_balancing_policy") {
        return first_known_policy(&policy, context);
    }
    match view.choice("lb_policy")?.as_str() {
        "ROUND_ROBIN" => Ok(LoadBalancer::RoundRobin),
        "RANDOM" => Ok(LoadBalancer::Random),
        "LEAST_REQUEST" => match view.message("least_request_lb_config") {
            Some(config) => least_request(&config, false, context),
            None => Ok(LEAST_REQUEST),
        },
        "CLUSTER_PROVIDED" => Ok(LoadBalancer::ClusterProvided),
        other => Err(view.unsupported("lb_policy", other)),
    }
}

fn first_known_policy(list: &View<'_>, context: &Context<'_>) -> Result<LoadBalancer, Found> {
    for policy in list.messages("policies") {
        let Some(extension) = policy.message("typed_extension_config") else {
            return Err(policy.required("typed_extension_config"));
        };
        let Some(unpacked) = extension.unpack("typed_config")? else { continue };
        let config = unpacked.view(list.schema());
        return match unpacked.kind().as_str() {
            "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin" => {
                Ok(LoadBalancer::RoundRobin)
            }
            "envoy.extensions.load_balancing_policies.random.v3.Random" => Ok(LoadBalancer::Random),
            "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided" => {
                Ok(LoadBalancer::ClusterProvided)
            }
            "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest" => {
                let full_scan = match config.choice("selection_method")?.as_str() {
                    "FULL_SCAN" => true,
                    _ => config.wrapped_flag("enable_full_scan").unwrap_or(false),
                };
                least_request(&config, full_scan, context)
            }
            _ => Err(unpacked.refuse()),
        };
    }
    Err(list.fault(Problem::Invalid("none of the policies is supported".to_owned())))
}

fn least_request(
    view: &View<'_>,
    full_scan: bool,
    context: &Context<'_>,
) -> Result<LoadBalancer, Found> {
    let choice_count = view.wrapped_u32("choice_count").unwrap_or(CHOICE_COUNT);
    if choice_count < CHOICE_COUNT {
        return Err(view.invalid("choice_count", "must be at least 2"));
    }
    let active_request_bias = match view.message("active_request_bias") {
        None => 1.0,
        Some(bias) => context
            .runtime
            .get(bias.text("runtime_key"))
            .and_then(|value| value.as_f64())
            .unwrap_or_else(|| bias.f64("default_value")),
    };
    if !active_request_bias.is_finite() || active_request_bias < 0.0 {
        return Err(view.invalid("active_request_bias", "must not be negative"));
    }
    Ok(LoadBalancer::LeastRequest { choice_count, active_request_bias, full_scan })
}

fn panic_policy(view: &View<'_>) -> Result<PanicPolicy, Found> {
    let common = view.message("common_lb_config");
    let threshold = match &common {
        Some(common) => common.percent("healthy_panic_threshold")?,
        None => None,
    };
    let locality_weighted =
        common.as_ref().is_some_and(|common| common.has("locality_weighted_lb_config"));
    let zones = common.and_then(|common| common.message("zone_aware_lb_config"));
    let factor = match view.message("load_assignment").and_then(|view| view.message("policy")) {
        Some(policy) => policy.positive("overprovisioning_factor")?,
        None => None,
    };
    Ok(PanicPolicy {
        threshold_percent: threshold.unwrap_or(PANIC_THRESHOLD_PERCENT),
        fail_traffic: zones.is_some_and(|zones| zones.flag("fail_traffic_on_panic")),
        overprovisioning_factor: factor.unwrap_or(OVERPROVISIONING_FACTOR),
        locality_weighted,
    })
}

fn circuit_breakers(view: &View<'_>) -> Result<CircuitBreakers, Found> {
    let mut breakers = BREAKERS;
    let Some(configured) = view.message("circuit_breakers") else { return Ok(breakers) };
    // The first entry counts.
    let mut found = false;
    for threshold in configured.messages("thresholds") {
        match threshold.choice("priority")?.as_str() {
            "DEFAULT" if !found => {
                found = true;
                let set = |field: &str, limit: &mut u32| {
                    *limit = threshold.wrapped_u32(field).unwrap_or(*limit);
                };
                set("max_connections", &mut breakers.max_connections);
                set("max_pending_requests", &mut breakers.max_pending_requests);
                set("max_requests", &mut breakers.max_requests);
                set("max_retries", &mut breakers.max_retries);
            }
            // Routes of high priority are refused, so that nothing can exceed such a limit.
            _ => {}
        }
    }
    Ok(breakers)
}

fn http_options(
    view: &View<'_>,
    context: &Context<'_>,
) -> Result<(ClusterHttp, FromAuthority), Found> {
    let mut http = ClusterHttp {
        max_requests_per_connection: view
            .wrapped_u32("max_requests_per_connection")
            .filter(|limit| *limit > 0),
        ..plain_http()
    };
    let mut typed = None;
    for (key, extension) in view.entries("typed_extension_protocol_options") {
        match extension.unpack_self()? {
            Some(inner) if inner.kind() == HTTP_PROTOCOL_OPTIONS && key == HTTP_OPTIONS_KEY => {
                typed = Some(inner);
            }
            Some(inner) if inner.kind() == HTTP_PROTOCOL_OPTIONS => {
                let text = format!("the key of these options is {HTTP_OPTIONS_KEY:?}");
                return Err(extension.fault(Problem::Invalid(text)));
            }
            Some(inner) => return Err(inner.refuse()),
            None => return Err(extension.fault(Problem::NotSupported)),
        }
    }
    let Some(typed) = typed else {
        let from_authority = deprecated_http_options(view, &mut http, context)?;
        return Ok((http, from_authority));
    };
    // The typed options replace the deprecated fields, which Envoy refuses beside them.
    if let Some(field) = view.which(DEPRECATED_HTTP_OPTIONS) {
        return Err(view.invalid(field, format!("set together with {HTTP_OPTIONS_KEY}")));
    }
    let typed = typed.view(view.schema());
    if let Some(common) = typed.message("common_http_protocol_options") {
        apply_common(&common, &mut http)?;
    }
    let choice = typed.required_which(
        "upstream_protocol_options",
        &["explicit_http_config", "use_downstream_protocol_config", "auto_config"],
    )?;
    let Some(protocol) = typed.message(choice) else { return Err(typed.required(choice)) };
    http.protocol = match choice {
        "use_downstream_protocol_config" => UpstreamProtocol::Downstream,
        "auto_config" => UpstreamProtocol::Alpn,
        _ => {
            let versions = ["http_protocol_options", "http2_protocol_options"];
            match protocol.required_which("protocol_config", &versions)? {
                "http2_protocol_options" => UpstreamProtocol::Http2,
                _ => UpstreamProtocol::Http1,
            }
        }
    };
    apply_versions(&protocol, &mut http, context)?;
    Ok((http, from_authority(&typed)))
}

/// The same, as fields of the cluster itself.
fn deprecated_http_options(
    view: &View<'_>,
    http: &mut ClusterHttp,
    context: &Context<'_>,
) -> Result<FromAuthority, Found> {
    if let Some(common) = view.message("common_http_protocol_options") {
        apply_common(&common, http)?;
    }
    http.protocol = match view.choice("protocol_selection")?.as_str() {
        "USE_CONFIGURED_PROTOCOL" if view.has("http2_protocol_options") => UpstreamProtocol::Http2,
        "USE_CONFIGURED_PROTOCOL" => UpstreamProtocol::Http1,
        "USE_DOWNSTREAM_PROTOCOL" => UpstreamProtocol::Downstream,
        other => return Err(view.unsupported("protocol_selection", other)),
    };
    apply_versions(view, http, context)?;
    Ok(from_authority(view))
}

/// What is said of each version, in whatever message it is said.
fn apply_versions(
    view: &View<'_>,
    http: &mut ClusterHttp,
    context: &Context<'_>,
) -> Result<(), Found> {
    if let Some(http1) = view.message("http_protocol_options") {
        apply_http1(&http1, http)?;
    }
    http.http2 = http2::options(view, http.max_response_headers_bytes / 1024, context)?;
    Ok(())
}

fn from_authority(view: &View<'_>) -> FromAuthority {
    let Some(options) = view.message("upstream_http_protocol_options") else {
        return FromAuthority::default();
    };
    FromAuthority {
        server_name: options.flag("auto_sni"),
        validation: options.flag("auto_san_validation"),
    }
}

fn apply_common(view: &View<'_>, http: &mut ClusterHttp) -> Result<(), Found> {
    view.refuse(&["max_connection_duration_jitter", "headers_with_underscores_action"])?;
    http.idle_timeout = view.timeout("idle_timeout", Some(IDLE_TIMEOUT))?;
    http.max_connection_duration = view.timeout("max_connection_duration", None)?;
    http.max_stream_duration = view.timeout("max_stream_duration", None)?;
    http.max_requests_per_connection = view
        .wrapped_u32("max_requests_per_connection")
        .filter(|limit| *limit > 0)
        .or(http.max_requests_per_connection);
    if let Some(count) = view.positive("max_headers_count")? {
        http.max_headers_count = count;
    }
    match view.positive("max_response_headers_kb")? {
        Some(kb) if kb > http::HEADERS_KB_MAX => {
            let text = format!("must be at most {}", http::HEADERS_KB_MAX);
            return Err(view.invalid("max_response_headers_kb", text));
        }
        Some(kb) => http.max_response_headers_bytes = kb * 1024,
        None => {}
    }
    Ok(())
}

/// The fields that say how requests are accepted have no meaning upstream, here as in Envoy.
fn apply_http1(view: &View<'_>, http: &mut ClusterHttp) -> Result<(), Found> {
    view.refuse(&["override_stream_error_on_invalid_http_message"])?;
    http.enable_trailers = view.flag("enable_trailers");
    http.header_case = http::header_case(view)?;
    Ok(())
}

const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Fields of the cluster that say what the typed options say.
const DEPRECATED_HTTP_OPTIONS: &[&str] = &[
    "common_http_protocol_options",
    "http_protocol_options",
    "http2_protocol_options",
    "upstream_http_protocol_options",
    "max_requests_per_connection",
    "protocol_selection",
];
/// The key under which the map of typed options holds them.
const HTTP_OPTIONS_KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

// Envoy's defaults.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const BUFFER_LIMIT_BYTES: u32 = 1 << 20;
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const DNS_REFRESH_RATE: Duration = Duration::from_secs(5);
const DNS_REFRESH_RATE_MIN: Duration = Duration::from_millis(1);
const PANIC_THRESHOLD_PERCENT: f64 = 50.0;
const OVERPROVISIONING_FACTOR: u32 = 140;
const BREAKER_LIMIT: u32 = 1024;
const BREAKERS: CircuitBreakers = CircuitBreakers {
    max_connections: BREAKER_LIMIT,
    max_pending_requests: BREAKER_LIMIT,
    max_requests: BREAKER_LIMIT,
    max_retries: 3,
};
const RESPONSE_HEADERS_KB: u32 = 80;
const HEADERS_COUNT: u32 = 100;
const CHOICE_COUNT: u32 = 2;
const LEAST_REQUEST: LoadBalancer = LoadBalancer::LeastRequest {
    choice_count: CHOICE_COUNT,
    active_request_bias: 1.0,
    full_scan: false,
};
