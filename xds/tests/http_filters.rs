//! HTTP filters, what routes say of them, and retries (contract sections 6, 9.1 and 19; xds.md B9).

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use std::time::Duration;

use common::*;
use outrigger_xds::bootstrap::{Loaded, Warning};
use outrigger_xds::snapshot::*;
use serde_json::{Value, json};

const FAULT: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";
const CORS: &str = "envoy.extensions.filters.http.cors.v3.Cors";
const CORS_POLICY: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";

fn percent(numerator: u32) -> Fraction {
    Fraction { numerator, denominator: 100 }
}

/// With these filters before the router.
fn with_filters(filters: &[Value]) -> Value {
    let router = json!({ "name": "router",
        "typed_config": any("envoy.extensions.filters.http.router.v3.Router") });
    let filters: Vec<Value> = filters.iter().cloned().chain([router]).collect();
    set(&http(), &format!("{HCM}/http_filters"), json!(filters))
}

fn filter(name: &str, kind: &str, fields: Value) -> Value {
    json!({ "name": name, "typed_config": any_with(kind, fields) })
}

fn typed_struct(name: &str, kind: &str, fields: Value) -> Value {
    let holder = json!({ "type_url": format!("type.googleapis.com/{kind}"), "value": fields });
    json!({ "name": name, "typed_config": any_with("udpa.type.v1.TypedStruct", holder) })
}

/// The only filter.
#[track_caller]
fn only(filters: &[Value]) -> HttpFilterKind {
    let loaded = loaded(&with_filters(filters));
    let [filter] = &*hcm(&loaded).filters else { panic!("{:?}", hcm(&loaded).filters) };
    filter.inline().unwrap().clone()
}

#[track_caller]
fn fault(fields: Value) -> Fault {
    match only(&[filter("fault", FAULT, fields)]) {
        HttpFilterKind::Fault(fault) => Fault::clone(&fault),
        other => panic!("{other:?}"),
    }
}

fn delay(fault: &Fault) -> Option<(FaultDelayBy, Fraction)> {
    fault.delay.as_ref().map(|delay| (delay.by, delay.fraction.get()))
}

fn abort(fault: &Fault) -> Option<(FaultAbortWith, Fraction)> {
    fault.abort.as_ref().map(|abort| (abort.with, abort.fraction.get()))
}

#[test]
fn section_19_fault() {
    let nothing = fault(json!({}));
    assert!(nothing.delay.is_none() && nothing.abort.is_none() && nothing.max_active.is_none());
    let whole = fault(json!({
        "delay": { "fixed_delay": "5s", "percentage": { "numerator": 10 } },
        "abort": { "http_status": 555, "percentage": { "numerator": 1, "denominator": "MILLION" } },
        "upstream_cluster": "app",
        "headers": [{ "name": "end-user", "string_match": { "exact": "jason" } }],
        "downstream_nodes": ["a", "b"],
        "max_active_faults": 3,
        "disable_downstream_cluster_stats": true,
    }));
    let by = FaultDelayBy::Fixed(Duration::from_secs(5));
    assert_eq!(delay(&whole), Some((by, percent(10))));
    let fraction = Fraction { numerator: 1, denominator: 1_000_000 };
    assert_eq!(abort(&whole), Some((FaultAbortWith::Http(555), fraction)));
    assert_eq!(whole.upstream_cluster.as_deref(), Some("app"));
    assert_eq!((whole.headers.len(), whole.downstream_nodes.len()), (1, 2));
    assert_eq!(whole.max_active, Some(3));
    // Without a percentage nothing is injected.
    let by_header = fault(json!({
        "delay": { "header_delay": {} },
        "abort": { "header_abort": {}, "percentage": { "numerator": 100 } },
    }));
    assert_eq!(delay(&by_header), Some((FaultDelayBy::Header, percent(0))));
    assert_eq!(by_header.abort.unwrap().with, FaultAbortWith::Header);
    let grpc = fault(json!({ "abort": { "grpc_status": 14, "percentage": { "numerator": 1 } } }));
    assert_eq!(grpc.abort.unwrap().with, FaultAbortWith::Grpc(14));
}

#[test]
fn section_19_fault_runtime_keys() {
    let bootstrap = with_filters(&[filter(
        "fault",
        FAULT,
        json!({
            "delay": { "fixed_delay": "5s" },
            "abort": { "http_status": 500, "percentage": { "numerator": 1 } },
            "abort_http_status_runtime": "own.status",
        }),
    )]);
    let values = json!({
        "fault.http.delay.fixed_delay_percent": 20,
        "fault.http.delay.fixed_duration_ms": 70,
        "fault.http.abort.abort_percent": { "numerator": 5, "denominator": "TEN_THOUSAND" },
        "fault.http.abort.http_status": 501,
        "fault.http.max_active_faults": 9,
        "own": { "status": 418 },
    });
    let layer = json!({ "layers": [{ "name": "l", "static_layer": values }] });
    let loaded = loaded(&set(&bootstrap, "/layered_runtime", layer));
    let Some(HttpFilterKind::Fault(fault)) = hcm(&loaded).filters[0].inline() else { panic!() };
    let by = FaultDelayBy::Fixed(Duration::from_millis(70));
    assert_eq!(delay(fault), Some((by, percent(20))));
    let fraction = Fraction { numerator: 5, denominator: 10_000 };
    assert_eq!(abort(fault), Some((FaultAbortWith::Http(418), fraction)));
    assert_eq!(fault.max_active, Some(9));
}

#[test]
fn section_19_faults_that_are_refused() {
    let at = format!("Listener web: {HCM_PATH}.http_filters[0].typed_config(HTTPFault).");
    for (fields, expected) in [
        (json!({ "delay": {} }), "delay.fault_delay_secifier: is required"),
        (json!({ "delay": { "fixed_delay": "0s" } }), "delay.fixed_delay: must be above zero"),
        (json!({ "abort": {} }), "abort.error_type: is required"),
        (json!({ "abort": { "http_status": 600 } }), "abort.http_status: must be from 200 to 599"),
        (json!({ "abort": { "http_status": 199 } }), "abort.http_status: must be from 200 to 599"),
        (
            json!({ "response_rate_limit": { "fixed_limit": { "limit_kbps": 1 } } }),
            "response_rate_limit: not supported",
        ),
    ] {
        let text = refusal(&with_filters(&[filter("fault", FAULT, fields)]));
        assert_eq!(text, format!("{at}{expected}"));
    }
}

/// A CORS policy that tells itself apart by its methods.
fn policy(methods: &str) -> Value {
    any_with(CORS_POLICY, json!({ "allow_methods": methods }))
}

#[test]
fn section_19_cors_policy() {
    let whole = json!({
        "allow_origin_string_match": [{ "exact": "https://a" }, { "suffix": ".b" }],
        "allow_methods": "GET,PUT", "allow_headers": "x-a", "expose_headers": "x-b",
        "max_age": "60", "allow_credentials": true, "allow_private_network_access": true,
        "filter_enabled": { "default_value": { "numerator": 50 } },
        "shadow_enabled": { "default_value": { "numerator": 70 } },
        "forward_not_matching_preflights": false,
    });
    let bootstrap = with_filters(&[filter("cors", CORS, json!({}))]);
    let typed = json!({ "cors": any_with(CORS_POLICY, whole.clone()) });
    let old = set(&bootstrap, &format!("{ACTION}/cors"), whole);
    for (bootstrap, name) in [
        (set(&bootstrap, &format!("{ROUTE}/typed_per_filter_config"), typed), "cors"),
        (old, "envoy.filters.http.cors"),
    ] {
        let loaded = loaded(&bootstrap);
        let policy = cors_of(&route(&loaded).filters, name).unwrap();
        assert!(policy.allows(b"https://a") && policy.allows(b"https://x.b"));
        assert!(!policy.allows(b"https://c"));
        assert_eq!((&*policy.allow_methods, &*policy.max_age), ("GET,PUT", "60"));
        assert_eq!((&*policy.allow_headers, &*policy.expose_headers), ("x-a", "x-b"));
        assert!(policy.allow_credentials && policy.allow_private_network);
        assert_eq!((policy.enabled.get(), policy.shadow.get()), (percent(50), percent(70)));
        assert!(!policy.forward_not_matching_preflights);
    }
    let any_origin = json!({ "allow_origin_string_match": [{ "exact": "*" }] });
    let typed = json!({ "cors": any_with(CORS_POLICY, any_origin) });
    let loaded = loaded(&set(&bootstrap, &format!("{ROUTE}/typed_per_filter_config"), typed));
    let policy = cors_of(&route(&loaded).filters, "cors").unwrap();
    assert!(policy.allows(b"https://whoever") && policy.forward_not_matching_preflights);
    assert_eq!((policy.enabled.get(), policy.shadow.get()), (Fraction::ALL, percent(0)));
}

fn cors_of<'a>(filters: &'a FilterOverrides, name: &str) -> Option<&'a CorsPolicy> {
    match &filters.get(name)?.config {
        Some(RouteFilterConfig::Cors(policy)) => Some(policy),
        _ => None,
    }
}

fn methods(filters: &FilterOverrides, name: &str) -> String {
    cors_of(filters, name).map_or("-", |policy| &policy.allow_methods).to_owned()
}

#[test]
fn section_6_the_most_specific_filter_configuration_wins() {
    let bootstrap = with_filters(&[filter("cors", CORS, json!({}))]);
    let per_filter = |level: &str| format!("{level}/typed_per_filter_config");
    let names = |entries: &[(&str, &str)]| -> Value {
        entries.iter().map(|(name, methods)| ((*name).to_owned(), policy(methods))).collect()
    };
    let bootstrap = set(
        &bootstrap,
        &per_filter(TABLE),
        names(&[("a", "table"), ("b", "table"), ("c", "table"), ("d", "table")]),
    );
    let bootstrap =
        set(&bootstrap, &per_filter(HOST), names(&[("b", "host"), ("c", "host"), ("d", "host")]));
    let bootstrap = set(&bootstrap, &per_filter(ROUTE), names(&[("c", "route"), ("d", "route")]));
    let weighted = json!({ "weighted_clusters": { "clusters": [
        { "name": "app", "weight": 1, "typed_per_filter_config": names(&[("d", "weight")]) },
    ] } });
    let loaded = loaded(&set(&bootstrap, ACTION, weighted));
    let of_route = &route(&loaded).filters;
    let found = ["a", "b", "c", "d", "e"].map(|name| methods(of_route, name));
    assert_eq!(found, ["table", "host", "route", "route", "-"]);
    let Target::Weighted(weighted) = &forward(&loaded).target else { panic!() };
    let of_weight = &weighted.all()[0].filters;
    let found = ["a", "b", "c", "d", "e"].map(|name| methods(of_weight, name));
    assert_eq!(found, ["table", "host", "route", "weight", "-"]);
}

#[test]
fn section_6_filter_config_wraps_disables_and_is_optional() {
    let unknown = "envoy.extensions.filters.http.lua.v3.LuaPerRoute";
    let bootstrap = set(
        &http(),
        &format!("{ROUTE}/typed_per_filter_config"),
        json!({
            "off": any_with(FILTER_CONFIG, json!({ "disabled": true })),
            "wrapped": any_with(FILTER_CONFIG, json!({ "config": policy("w") })),
            "unknown": any_with(FILTER_CONFIG, json!({
                "is_optional": true, "config": any(unknown),
            })),
        }),
    );
    let loaded = loaded(&bootstrap);
    let filters = &route(&loaded).filters;
    let off = filters.get("off").unwrap();
    assert!(off.disabled && off.config.is_none());
    assert_eq!(methods(filters, "wrapped"), "w");
    assert!(!filters.get("wrapped").unwrap().disabled);
    assert!(filters.get("unknown").is_none());
    assert!(loaded.warnings.iter().any(|warning| {
        matches!(warning, Warning::SkippedExtension { type_url, .. } if type_url.ends_with(unknown))
    }));
}

#[test]
fn section_6_filter_configurations_that_are_refused() {
    let at = format!(
        "Listener web: {HCM_PATH}.route_config.virtual_hosts[0].routes[0].typed_per_filter_config[\"f\"]"
    );
    let lua = "envoy.extensions.filters.http.lua.v3.LuaPerRoute";
    for (config, expected) in [
        (any_with(FILTER_CONFIG, json!({})), "(FilterConfig).config: is required".to_owned()),
        (
            any("envoy.extensions.filters.http.router.v3.Router"),
            "(Router): routes cannot configure this filter".to_owned(),
        ),
        (any(lua), format!(": extension type \"type.googleapis.com/{lua}\" is not supported")),
        (
            any_with(CORS_POLICY, json!({ "allow_methods": "a\r\nb" })),
            "(CorsPolicy).allow_methods: must not hold CR, LF or NUL".to_owned(),
        ),
    ] {
        let pointer = format!("{ROUTE}/typed_per_filter_config");
        assert_eq!(
            refusal(&set(&http(), &pointer, json!({ "f": config }))),
            format!("{at}{expected}")
        );
    }
}

#[test]
fn section_5_filters_keep_their_order_and_may_be_disabled() {
    let disabled = set(&filter("off", FAULT, json!({})), "/disabled", json!(true));
    let loaded = loaded(&with_filters(&[disabled, filter("cors", CORS, json!({}))]));
    let filters = &hcm(&loaded).filters;
    let found: Vec<_> = filters.iter().map(|filter| (&*filter.name, filter.disabled)).collect();
    assert_eq!(found, [("off", true), ("cors", false)]);
}

#[test]
fn b_9_istio_metadata_exchange() {
    let kind = "io.istio.http.peer_metadata.Config";
    let compiled =
        |fields: Value| match only(&[typed_struct("istio.metadata_exchange", kind, fields)]) {
            HttpFilterKind::PeerMetadata(exchange) => PeerMetadata::clone(&exchange),
            other => panic!("{other:?}"),
        };
    assert_eq!(compiled(json!({})), PeerMetadata::default());
    let headers = json!({ "istio_headers": {} });
    let inbound = compiled(json!({
        "downstream_discovery": [headers, { "workload_discovery": {} }],
        "downstream_propagation": [headers],
    }));
    assert_eq!(
        inbound,
        PeerMetadata {
            downstream_discovery: true,
            downstream_propagation: Some(Propagation::default()),
            ..PeerMetadata::default()
        }
    );
    let outbound = compiled(json!({
        "upstream_discovery": [headers],
        "upstream_propagation": [{ "istio_headers": { "skip_external_clusters": true } }],
        "additional_labels": ["role"],
    }));
    assert_eq!(
        outbound,
        PeerMetadata {
            upstream_discovery: true,
            upstream_propagation: Some(Propagation { skip_external_clusters: true }),
            additional_labels: ["role".into()].into(),
            ..PeerMetadata::default()
        }
    );
    let baggage = json!({ "upstream_discovery": [{ "baggage": {} }] });
    assert!(
        refusal(&with_filters(&[typed_struct("mx", kind, baggage)]))
            .ends_with("(Config).upstream_discovery[0].baggage: not supported")
    );
}

#[test]
fn b_9_istio_alpn() {
    let kind = "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig";
    let overrides = json!({ "alpn_override": [
        { "alpn_override": ["istio-http/1.0", "istio", "http/1.0"] },
        { "upstream_protocol": "HTTP11", "alpn_override": ["istio-http/1.1"] },
        { "upstream_protocol": "HTTP2", "alpn_override": ["istio-h2", "h2"] },
    ] });
    let HttpFilterKind::Alpn(alpn) = only(&[filter("istio.alpn", kind, overrides)]) else {
        panic!()
    };
    let list = |list: &[Box<[u8]>]| list.iter().map(|one| one.to_vec()).collect::<Vec<_>>();
    assert_eq!(list(&alpn.http11), [b"istio-http/1.1"]);
    assert_eq!(list(&alpn.http2), [&b"istio-h2"[..], b"h2"]);
    let empty = json!({ "alpn_override": [{ "alpn_override": [""] }] });
    assert!(
        refusal(&with_filters(&[filter("istio.alpn", kind, empty)]))
            .ends_with("alpn_override[0].alpn_override[0]: must be 1 to 255 bytes long")
    );
}

#[test]
fn b_9_istio_stats() {
    let kind = "stats.PluginConfig";
    let compiled = |fields: Value| match only(&[typed_struct("istio.stats", kind, fields)]) {
        HttpFilterKind::IstioStats(stats) => IstioStats::clone(&stats),
        other => panic!("{other:?}"),
    };
    let plain = IstioStats { tcp_reporting: Some(Duration::from_secs(5)), ..IstioStats::default() };
    assert_eq!(compiled(json!({})), plain);
    assert_eq!(
        compiled(json!({
            "disable_host_header_fallback": true,
            "tcp_reporting_duration": "0s",
            "metrics": [{ "name": "requests_total", "tags_to_remove": ["source_principal"] },
                        { "name": "request_bytes", "drop": true }],
        })),
        IstioStats {
            disable_host_header_fallback: true,
            tcp_reporting: None,
            overrides: [
                MetricOverride {
                    metric: Some("requests_total".into()),
                    drop: false,
                    tags_to_remove: ["source_principal".into()].into(),
                },
                MetricOverride {
                    metric: Some("request_bytes".into()),
                    drop: true,
                    tags_to_remove: Box::default(),
                },
            ]
            .into(),
        }
    );
    let gateway = json!({ "reporter": "SERVER_GATEWAY" });
    assert!(
        refusal(&with_filters(&[typed_struct("s", kind, gateway)]))
            .ends_with("(PluginConfig).reporter: SERVER_GATEWAY is not supported")
    );
    let expression = json!({ "metrics": [{ "dimensions": { "a": "request.host" } }] });
    assert!(
        refusal(&with_filters(&[typed_struct("s", kind, expression)]))
            .ends_with("(PluginConfig).metrics[0].dimensions: not supported")
    );
}

#[test]
fn b_11_what_cluster_metadata_says() {
    let of = |istio: Value| {
        let metadata = json!({ "filter_metadata": { "istio": istio } });
        let loaded = loaded(&set(&http(), &format!("{CLUSTER}/metadata"), metadata));
        first_cluster(&loaded).istio.clone()
    };
    assert_eq!(of(json!({})), IstioCluster::default());
    assert_eq!(
        of(json!({ "external": true, "disable_mx": true, "alpn_override": "false" })),
        IstioCluster {
            external: true,
            disable_metadata_exchange: true,
            keep_alpn: true,
            service: None,
        }
    );
    let service = |name: &str, namespace: &str| {
        let service = IstioService {
            host: "reviews.shop.svc".into(),
            name: name.into(),
            namespace: namespace.into(),
        };
        IstioCluster { service: Some(service), ..IstioCluster::default() }
    };
    assert_eq!(of(json!({ "services": [{ "host": "reviews.shop.svc" }] })), service("reviews", ""));
    assert_eq!(
        of(json!({ "services": [
            { "host": "reviews.shop.svc", "name": "r", "namespace": "shop" }, { "host": "other" },
        ] })),
        service("r", "shop")
    );
    // Nothing of the expected type: nothing is said.
    let odd = json!({ "external": "yes", "alpn_override": false, "services": 1 });
    assert_eq!(of(odd), IstioCluster::default());
}

#[track_caller]
fn retry(policy: Value) -> RetryPolicy {
    let loaded = loaded(&with_retry(policy));
    RetryPolicy::clone(forward(&loaded).retry.as_ref().unwrap())
}

fn with_retry(policy: Value) -> Value {
    set(&http(), &format!("{ACTION}/retry_policy"), policy)
}

#[test]
fn section_9_1_retry_policy() {
    assert!(forward(&loaded(&http())).retry.is_none());
    let plain = retry(json!({}));
    assert!(plain.on.is_empty() && plain.per_try_timeout.is_none() && plain.avoid.is_empty());
    assert_eq!((plain.num_retries, plain.host_attempts), (1, 1));
    let ms = Duration::from_millis;
    assert_eq!(plain.back_off, BackOff { base: ms(25), max: ms(250) });
    let predicate = |kind: &str, fields: Value| {
        json!({ "name": "p", "typed_config":
            any_with(&format!("envoy.extensions.retry.host.{kind}"), fields) })
    };
    let whole = retry(json!({
        "retry_on": "5xx,gateway-error,reset,reset-before-request,connect-failure,\
            envoy-ratelimited,retriable-4xx,refused-stream,retriable-status-codes,\
            retriable-headers,cancelled,deadline-exceeded,internal,resource-exhausted,unavailable",
        "num_retries": 7,
        "per_try_timeout": "0.2s",
        "per_try_idle_timeout": "0.1s",
        "retriable_status_codes": [503, 404],
        "retriable_headers": [{ "name": "x-again", "present_match": true }],
        "retriable_request_headers": [{ "name": "x-may", "present_match": true }],
        "retry_back_off": { "base_interval": "0.05s" },
        "rate_limited_retry_back_off": {
            "reset_headers": [{ "name": "Retry-After" },
                { "name": "x-reset", "format": "UNIX_TIMESTAMP" }],
        },
        "host_selection_retry_max_attempts": "5",
        "retry_host_predicate": [
            predicate("previous_hosts.v3.PreviousHostsPredicate", json!({})),
            predicate("omit_canary_hosts.v3.OmitCanaryHostsPredicate", json!({})),
            predicate("omit_host_metadata.v3.OmitHostMetadataConfig", json!({
                "metadata_match": { "filter_metadata": { "envoy.lb": { "zone": "far" } } },
            })),
        ],
    }));
    let names = [
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "envoy-ratelimited",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    ];
    for name in names {
        assert!(whole.on.any(RetryOn::named(name).unwrap()), "{name}");
    }
    assert_eq!((whole.num_retries, whole.host_attempts), (7, 5));
    assert_eq!(whole.per_try_timeout, Some(ms(200)));
    assert_eq!(whole.per_try_idle_timeout, Some(ms(100)));
    assert_eq!(*whole.status_codes, [503, 404]);
    assert_eq!((whole.headers.len(), whole.request_headers.len()), (1, 1));
    assert_eq!(whole.back_off, BackOff { base: ms(50), max: ms(500) });
    let limited = whole.rate_limited.unwrap();
    assert_eq!(limited.max, Duration::from_secs(300));
    let headers: Vec<_> =
        limited.reset_headers.iter().map(|(name, format)| (name.as_str(), *format)).collect();
    assert_eq!(
        headers,
        [("retry-after", ResetFormat::Seconds), ("x-reset", ResetFormat::UnixTimestamp)]
    );
    assert!(whole.avoid.previous && whole.avoid.canary);
    assert_eq!(Value::Object(whole.avoid.metadata.unwrap()), json!({ "zone": "far" }));
}

#[test]
fn section_9_1_a_route_replaces_its_virtual_hosts_policy() {
    let bootstrap = set(
        &http(),
        &format!("{HOST}/retry_policy"),
        json!({ "retry_on": "5xx", "num_retries": 4 }),
    );
    assert_eq!(forward(&loaded(&bootstrap)).retry.as_ref().unwrap().num_retries, 4);
    let own = set(&bootstrap, &format!("{ACTION}/retry_policy"), json!({ "retry_on": "reset" }));
    let loaded = loaded(&own);
    let policy = forward(&loaded).retry.as_ref().unwrap();
    assert_eq!((policy.on, policy.num_retries), (RetryOn::RESET, 1));
}

fn advice(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(Warning::to_string).collect()
}

#[test]
fn section_9_1_unknown_conditions_are_told_and_priorities_passed_over() {
    let loaded = loaded(&with_retry(json!({
        "retry_on": "5xx,sometimes",
        "retry_priority": { "name": "p", "typed_config": any_with(
            "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            json!({ "update_frequency": 2 }),
        ) },
    })));
    let step = forward(&loaded).retry.as_ref().unwrap().previous_priorities;
    assert_eq!(step.map(std::num::NonZeroU32::get), Some(2));
    let told = advice(&loaded);
    assert!(told.iter().any(|text| text.ends_with("retry_on: holds conditions that do not exist")));
    assert!(!told.iter().any(|text| text.contains("retry_priority")));
}

#[test]
fn section_9_1_policies_that_are_refused() {
    let at = format!(
        "Listener web: {HCM_PATH}.route_config.virtual_hosts[0].routes[0].route.retry_policy."
    );
    for (policy, expected) in [
        (json!({ "retry_back_off": {} }), "retry_back_off.base_interval: is required".to_owned()),
        (
            json!({ "retry_back_off": { "base_interval": "1s", "max_interval": "0.5s" } }),
            "retry_back_off.max_interval: must not be below base_interval".to_owned(),
        ),
        (
            json!({ "rate_limited_retry_back_off": {} }),
            "rate_limited_retry_back_off.reset_headers: is required".to_owned(),
        ),
        (
            json!({ "retriable_status_codes": [503, 1000] }),
            "retriable_status_codes[1]: must be from 100 to 599".to_owned(),
        ),
        (
            json!({ "host_selection_retry_max_attempts": "-1" }),
            "host_selection_retry_max_attempts: must not be negative".to_owned(),
        ),
        (json!({ "per_try_timeout": "-1s" }), "per_try_timeout: must not be negative".to_owned()),
        (
            json!({ "retry_options_predicates": [{ "name": "x" }] }),
            "retry_options_predicates: not supported".to_owned(),
        ),
    ] {
        assert_eq!(refusal(&with_retry(policy)), format!("{at}{expected}"));
    }
}

#[test]
fn section_9_2_hedging_is_refused_except_for_what_is_no_hedging() {
    let hedge = |policy: Value| set(&http(), &format!("{ACTION}/hedge_policy"), policy);
    loaded(&hedge(json!({})));
    loaded(&hedge(json!({ "initial_requests": 1, "additional_request_chance": {} })));
    for (policy, field) in [
        (json!({ "initial_requests": 2 }), "initial_requests: 2"),
        (
            json!({ "additional_request_chance": { "numerator": 1 } }),
            "additional_request_chance: above zero",
        ),
        (json!({ "hedge_on_per_try_timeout": true }), "hedge_on_per_try_timeout: true"),
    ] {
        let text = refusal(&hedge(policy));
        assert!(text.ends_with(&format!("hedge_policy.{field} is not supported")), "{text}");
    }
}

#[test]
fn section_6_body_buffer_limits_of_routes() {
    let at = |bootstrap: &Value| route(&loaded(bootstrap)).body_buffer_bytes;
    assert_eq!(at(&http()), None);
    let host = set(&http(), &format!("{HOST}/per_request_buffer_limit_bytes"), json!(7));
    assert_eq!(at(&host), Some(7));
    let own = set(&host, &format!("{ROUTE}/request_body_buffer_limit"), json!("9"));
    assert_eq!(at(&own), Some(9));
}

#[test]
fn section_8_decorator() {
    let with = |decorator: Value| set(&http(), &format!("{ROUTE}/decorator"), decorator);
    let of = |decorator: Value| route(&loaded(&with(decorator))).decorator.clone().unwrap();
    assert_eq!(
        *of(json!({ "operation": "op" })),
        Decorator { operation: "op".into(), propagate: true }
    );
    assert!(!of(json!({ "operation": "op", "propagate": false })).propagate);
    assert!(refusal(&with(json!({}))).ends_with("decorator.operation: is required"));
}

#[test]
fn section_19_sampling_is_kept_and_spans_are_not_made() {
    let with = |tracing: Value| set(&http(), &format!("{HCM}/tracing"), tracing);
    assert!(hcm(&loaded(&http())).tracing.is_none());
    let share = |numerator| Fraction { numerator, denominator: 10_000 };
    // Of those that ask for it, of all others, and of all that were chosen.
    let shares = |loaded: &Loaded| {
        let tracing = hcm(loaded).tracing.clone().unwrap();
        [tracing.client.get(), tracing.random.get(), tracing.overall.get()]
    };
    assert_eq!(shares(&loaded(&with(json!({})))), [share(10_000); 3]);
    let tracing = json!({
        "client_sampling": { "value": 50 }, "random_sampling": { "value": 0.25 },
        "overall_sampling": { "value": 100 }, "verbose": true, "max_path_tag_length": 64,
        "custom_tags": [{ "tag": "a", "literal": { "value": "b" } }],
    });
    let kept = loaded(&with(tracing));
    assert_eq!(shares(&kept), [share(5000), share(25), share(10_000)]);
    assert!(advice(&kept).iter().any(|text| text.contains("tracing.custom_tags: ignored")));
    let runtime = json!({ "layers": [{ "name": "l", "static_layer": {
        "tracing": { "random_sampling": 1234, "global_enabled": 10 } } }] });
    let tuned = loaded(&set(&with(json!({})), "/layered_runtime", runtime));
    assert_eq!(shares(&tuned), [share(10_000), share(1234), percent(10)]);
    assert!(
        refusal(&with(json!({ "random_sampling": { "value": 101 } }))).ends_with("from 0 to 100")
    );
}

#[test]
fn section_20_metrics_may_go_uncompressed_and_nothing_else() {
    let compressor = filter(
        "compressor",
        "envoy.extensions.filters.http.compressor.v3.Compressor",
        json!({ "compressor_library": { "name": "gzip", "typed_config":
            any("envoy.extensions.compression.gzip.compressor.v3.Gzip") } }),
    );
    let elsewhere = with_filters(&[compressor]);
    let text = refusal(&elsewhere);
    assert!(text.contains("compressor.v3.Compressor\" is not supported"), "{text}");
    let metrics =
        set(&elsewhere, &format!("{ROUTE}/match"), json!({ "prefix": "/stats/prometheus" }));
    let loaded = loaded(&metrics);
    assert!(advice(&loaded).iter().any(|text| text.contains("metrics are not compressed")));
}

const ON_DEMAND: &str = "envoy.extensions.filters.http.on_demand.v3.OnDemand";

/// With an aggregated stream that is spoken so.
fn on_demand(api_type: &str, fields: Value) -> Value {
    let mut bootstrap = with_filters(&[filter("on-demand", ON_DEMAND, fields)]);
    bootstrap["dynamic_resources"] = json!({ "ads_config": {
        "api_type": api_type, "transport_api_version": "V3",
        "grpc_services": [{ "envoy_grpc": { "cluster_name": "app" } }],
    }});
    bootstrap
}

fn clusters_of(on_demand: &OnDemand) -> Option<(ConfigPlace, Duration)> {
    let source = on_demand.clusters.as_ref()?;
    Some((source.place.clone(), source.initial_fetch_timeout.unwrap()))
}

#[test]
fn section_19_on_demand_says_whom_to_ask_for_clusters_and_so_do_routes() {
    let ads = json!({ "ads": {}, "resource_api_version": "V3" });
    let told = |fields| {
        let loaded = loaded(&on_demand("DELTA_GRPC", fields));
        match hcm(&loaded).filters[0].inline() {
            Some(HttpFilterKind::OnDemand(on_demand)) => clusters_of(on_demand),
            other => panic!("{other:?}"),
        }
    };
    let secs = |secs| Some((ConfigPlace::Ads, Duration::from_secs(secs)));
    assert_eq!(told(json!({})), None);
    assert_eq!(told(json!({ "odcds": { "source": ads } })), secs(5));
    assert_eq!(told(json!({ "odcds": { "source": ads, "timeout": "3s" } })), secs(3));
    let own = "envoy.extensions.filters.http.on_demand.v3.PerRouteConfig";
    let own = any_with(own, json!({ "odcds": { "source": ads, "timeout": "2s" } }));
    let at = format!("{TABLE}/typed_per_filter_config");
    let loaded =
        loaded(&set(&on_demand("DELTA_GRPC", json!({})), &at, json!({ "on-demand": own })));
    let RouteSource::Inline(table) = &hcm(&loaded).routes else { panic!() };
    match &table.routes()[0].filters.get("on-demand").unwrap().config {
        Some(RouteFilterConfig::OnDemand(on_demand)) => {
            assert_eq!(clusters_of(on_demand), secs(2));
        }
        other => panic!("{other:?}"),
    }
    let cases = [
        ("DELTA_GRPC", json!({ "timeout": "1s" }), "source: is required"),
        ("GRPC", json!({ "source": ads }), "source: clusters on demand come by DELTA_GRPC only"),
        (
            "DELTA_GRPC",
            json!({ "source": ads, "resources_locator": "xdstp://x" }),
            "resources_locator: not supported",
        ),
    ];
    for (api_type, odcds, text) in cases {
        let found = refusal(&on_demand(api_type, json!({ "odcds": odcds })));
        assert!(found.contains(&format!("typed_config(OnDemand).odcds.{text}")), "{found}");
    }
}
