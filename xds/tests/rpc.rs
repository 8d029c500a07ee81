//! The RPC family: RpcProxy, Envoy's DubboProxy, and ProtocolDetection.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use outrigger_xds::bootstrap::Loaded;
use outrigger_xds::snapshot::*;
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const RPC: &str = "outrigger.filters.network.rpc_proxy.v1.RpcProxy";
const DUBBO: &str = "envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy";
const DETECTION: &str = "outrigger.filters.network.protocol_detection.v1.ProtocolDetection";
const FILTER: &str = "filter_chains[0].filters[0].typed_config";
/// The route of [`rpc`] and its action.
const RPC_ROUTE: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/routes/0";
const BOLT: RpcProtocol = RpcProtocol::Bolt { crc_by_switch_only: false, goaway: false };

/// One listener with this filter, to which what it needs is added where it does not say it.
fn with_filter(kind: &str, needed: Value, fields: Value) -> Value {
    let mut all = needed;
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    set(&http(), HCM, any_with(kind, all))
}

/// An RpcProxy that sends everything to the cluster `app`.
fn rpc(fields: Value) -> Value {
    let mut needed = json!({
        "stat_prefix": "r",
        "route_config": { "routes": [{ "match": {}, "route": { "cluster": "app" } }] },
    });
    let has_protocol = ["bolt", "dubbo", "hsf"].iter().any(|name| fields.get(name).is_some());
    if !has_protocol {
        needed["bolt"] = json!({});
    }
    with_filter(RPC, needed, fields)
}

/// As [`rpc`], with a value in the route.
fn route(pointer: &str, value: Value) -> Value {
    set(&rpc(json!({})), &format!("{RPC_ROUTE}/{pointer}"), value)
}

fn dubbo(fields: Value) -> Value {
    with_filter(DUBBO, json!({ "stat_prefix": "d" }), fields)
}

/// One table of one route to the cluster `app`, to which `fields` are added.
fn dubbo_table(fields: Value) -> Value {
    let mut table = json!({
        "interface": "com.foo.Hello",
        "routes": [{ "match": {}, "route": { "cluster": "app" } }],
    });
    table.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    dubbo(json!({ "multiple_route_config": { "route_config": [table] } }))
}

fn filter(kind: &str, fields: Value) -> Value {
    json!({ "name": "f", "typed_config": any_with(kind, fields) })
}

fn tcp_filter() -> Value {
    let fields = json!({ "stat_prefix": "t", "cluster": "app" });
    filter("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", fields)
}

fn detection(fields: Value) -> Value {
    with_filter(DETECTION, json!({}), fields)
}

fn choice(protocols: Value, filter: Value) -> Value {
    json!({ "protocols": protocols, "filter": filter })
}

fn terminal(loaded: &Loaded) -> &Terminal {
    &listener(loaded).filter_chains.iter().next().unwrap().terminal
}

#[track_caller]
fn proxy(bootstrap: &Value) -> Arc<RpcProxy> {
    match terminal(&loaded(bootstrap)) {
        Terminal::Rpc(rpc) => Arc::clone(rpc),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn detected(bootstrap: &Value) -> Arc<ProtocolDetection> {
    match terminal(&loaded(bootstrap)) {
        Terminal::Detect(detection) => Arc::clone(detection),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn first_route(bootstrap: &Value) -> RpcRoute {
    proxy(bootstrap).routes.routes[0].clone()
}

#[track_caller]
fn refused(bootstrap: Value, expected: &str) {
    assert_eq!(refusal(&bootstrap), format!("Listener web: {FILTER}{expected}"));
}

/// As [`refused`], of what is found when the file is read, before there are resources.
#[track_caller]
fn unreadable(bootstrap: Value, expected: &str) {
    let expected = format!("Bootstrap: static_resources.listeners[0].{FILTER}{expected}");
    assert_eq!(refusal(&bootstrap), expected);
}

fn keepalive(interval: u32, timeout: u32, misses_max: u32) -> Option<RpcKeepalive> {
    Some(RpcKeepalive { interval: interval * SECOND, timeout: timeout * SECOND, misses_max })
}

#[test]
fn a_proxy_of_which_nothing_is_said_has_its_protocols_defaults() {
    let hsf = RpcProtocol::Hsf {
        rpc_type_first: false,
        response_codec_first: false,
        heartbeat_version_first: false,
        rpc_protocol_byte: 14,
        announce_closing: false,
        tb_local_errors: false,
    };
    for (name, protocol, max_frame_bytes, idle, beat) in [
        ("bolt", BOLT, 64 << 20, 90, keepalive(15, 1, 3)),
        ("dubbo", RpcProtocol::Dubbo, 8 << 20, 180, keepalive(60, 3, 3)),
        ("hsf", hsf, 16 << 20, 90, keepalive(27, 3, 3)),
    ] {
        let proxy = proxy(&rpc(json!({ name: {} })));
        assert_eq!(proxy.protocol, protocol);
        assert_eq!(proxy.protocol.name(), name);
        assert_eq!(&*proxy.stat_prefix, "r");
        assert_eq!(proxy.sharing, Sharing::Multiplex);
        assert_eq!(proxy.max_frame_bytes, max_frame_bytes, "{name}");
        assert_eq!(proxy.max_requests_per_connection, 1024);
        assert_eq!(proxy.frame_timeout, 30 * SECOND);
        assert_eq!(proxy.idle_timeout, Some(idle * SECOND), "{name}");
        assert_eq!(proxy.downstream_keepalive, None);
        assert_eq!(proxy.upstream_keepalive, beat, "{name}");
        let shared = UpstreamConnections { max: 2, requests_each: 512 };
        assert_eq!(proxy.upstream_connections, shared);
        assert!(!proxy.allow_reverse_requests);
        assert!(proxy.access_log.is_empty());
    }
}

#[test]
fn a_proxy_is_as_its_fields_say() {
    let log = filter(
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        json!({ "path": "/dev/null" }),
    );
    let proxy = proxy(&rpc(json!({
        "bolt": { "crc_by_switch_only": true, "goaway": true },
        "max_frame_bytes": 64, "max_requests_per_connection": 1, "frame_timeout": "0.5s",
        "idle_timeout": "7s",
        "downstream_keepalive": { "interval": "1s", "timeout": "4s", "max_misses": 1 },
        "upstream_keepalive": { "timeout": "2s" },
        "upstream_connections": { "max": 5, "requests_each": 6 },
        "access_log": [log],
    })));
    assert_eq!(proxy.protocol, RpcProtocol::Bolt { crc_by_switch_only: true, goaway: true });
    assert_eq!((proxy.max_frame_bytes, proxy.max_requests_per_connection), (64, 1));
    assert_eq!(proxy.frame_timeout, SECOND / 2);
    assert_eq!(proxy.idle_timeout, Some(7 * SECOND));
    assert_eq!(proxy.downstream_keepalive, keepalive(1, 4, 1));
    assert_eq!(proxy.upstream_keepalive, keepalive(15, 2, 3));
    assert_eq!(proxy.upstream_connections, UpstreamConnections { max: 5, requests_each: 6 });
    assert_eq!(proxy.access_log.len(), 1);
}

#[test]
fn every_hsf_switch_is_read() {
    let switches = [
        "rpc_type_first",
        "response_codec_first",
        "heartbeat_version_first",
        "announce_closing",
        "tb_local_errors",
    ];
    for switch in switches {
        let proxy = proxy(&rpc(json!({ "hsf": { switch: true } })));
        let RpcProtocol::Hsf {
            rpc_type_first,
            response_codec_first,
            heartbeat_version_first,
            rpc_protocol_byte,
            announce_closing,
            tb_local_errors,
        } = proxy.protocol
        else {
            panic!("{proxy:?}")
        };
        assert_eq!(rpc_protocol_byte, 14);
        let on = [
            rpc_type_first,
            response_codec_first,
            heartbeat_version_first,
            announce_closing,
            tb_local_errors,
        ];
        assert_eq!(on, switches.map(|other| other == switch), "{switch}");
    }
    let byte = |byte: u32| rpc(json!({ "hsf": { "rpc_protocol_byte": byte } }));
    for good in [1, 13, 255] {
        let protocol = proxy(&byte(good)).protocol;
        assert!(matches!(protocol, RpcProtocol::Hsf { rpc_protocol_byte, .. }
            if u32::from(rpc_protocol_byte) == good));
    }
    for bad in [0, 12, 256] {
        let expected = "(RpcProxy).hsf.rpc_protocol_byte: must be from 1 to 255 and not 12, which is \
                        heartbeats'";
        refused(byte(bad), expected);
    }
}

#[test]
fn zero_disables_timeouts_and_heartbeats() {
    assert_eq!(proxy(&rpc(json!({ "idle_timeout": "0s" }))).idle_timeout, None);
    let off = json!({ "upstream_keepalive": { "interval": "0s" },
                      "downstream_keepalive": { "interval": "0s", "max_misses": 9 } });
    let proxy = proxy(&rpc(off));
    assert_eq!((proxy.upstream_keepalive, proxy.downstream_keepalive), (None, None));
    let downstream = json!({ "dubbo": {}, "downstream_keepalive": {} });
    assert_eq!(self::proxy(&rpc(downstream)).downstream_keepalive, keepalive(60, 3, 3));
    let timeout = |value: &str| first_route(&route("route/timeout", json!(value))).timeout;
    assert_eq!((timeout("0s"), timeout("0.3s")), (None, Some(Duration::from_millis(300))));
}

#[test]
fn sharing_decides_what_upstream_connections_mean() {
    let ping_pong = |fields: Value| {
        let mut all = json!({ "sharing": "PING_PONG" });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        rpc(all)
    };
    let proxy = proxy(&ping_pong(json!({})));
    assert_eq!(proxy.sharing, Sharing::PingPong);
    assert_eq!(proxy.upstream_connections, UpstreamConnections { max: 1024, requests_each: 1 });
    let proxy = self::proxy(&ping_pong(json!({ "upstream_connections": { "max": 3 } })));
    assert_eq!(proxy.upstream_connections, UpstreamConnections { max: 3, requests_each: 1 });
    refused(
        ping_pong(json!({ "upstream_connections": { "requests_each": 1 } })),
        "(RpcProxy).upstream_connections.requests_each: is always 1 with sharing PING_PONG",
    );
    let bound = json!({ "sharing": "BOUND", "allow_reverse_requests": true });
    let proxy = self::proxy(&rpc(bound));
    assert_eq!((proxy.sharing, proxy.allow_reverse_requests), (Sharing::Bound, true));
    refused(
        rpc(json!({ "sharing": "BOUND", "upstream_connections": {} })),
        "(RpcProxy).upstream_connections: has no meaning with sharing BOUND",
    );
    for sharing in ["MULTIPLEX", "PING_PONG"] {
        refused(
            rpc(json!({ "sharing": sharing, "allow_reverse_requests": true })),
            "(RpcProxy).allow_reverse_requests: needs sharing BOUND",
        );
    }
}

#[test]
fn bad_values_of_a_proxy_are_refused() {
    for (fields, expected) in [
        (json!({ "stat_prefix": "" }), "stat_prefix: is required"),
        (json!({ "route_config": null }), "route_config: is required"),
        (json!({ "max_frame_bytes": 63 }), "max_frame_bytes: must be from 64 to 1073741824"),
        (
            json!({ "max_frame_bytes": 1_073_741_825 }),
            "max_frame_bytes: must be from 64 to 1073741824",
        ),
        (
            json!({ "max_requests_per_connection": 0 }),
            "max_requests_per_connection: must be at least 1",
        ),
        (json!({ "frame_timeout": "0s" }), "frame_timeout: must be above zero"),
        (json!({ "idle_timeout": "-1s" }), "idle_timeout: must not be negative"),
        (
            json!({ "upstream_keepalive": { "interval": "0.9s" } }),
            "upstream_keepalive.interval: must be at least 1 s, or 0 for no heartbeats",
        ),
        (
            json!({ "downstream_keepalive": { "timeout": "0s" } }),
            "downstream_keepalive.timeout: must be above zero",
        ),
        (
            json!({ "upstream_keepalive": { "max_misses": 0 } }),
            "upstream_keepalive.max_misses: must be at least 1",
        ),
        (
            json!({ "upstream_connections": { "max": 0 } }),
            "upstream_connections.max: must be at least 1",
        ),
        (
            json!({ "upstream_connections": { "requests_each": 0 } }),
            "upstream_connections.requests_each: must be at least 1",
        ),
        (
            json!({ "access_log": [{ "name": "a", "filter": {} }] }),
            "access_log[0].filter: not supported",
        ),
    ] {
        refused(rpc(fields), &format!("(RpcProxy).{expected}"));
    }
    let no_protocol = with_filter(RPC, json!({ "stat_prefix": "r" }), json!({}));
    refused(no_protocol, "(RpcProxy).protocol: is required");
    unreadable(rpc(json!({ "bolt": {}, "dubbo": {} })), "(RpcProxy).dubbo: set together with bolt");
    let unknown = refusal(&rpc(json!({ "sharing": "POOLED" })));
    assert!(unknown.contains("sharing: "), "{unknown}");
    unreadable(
        rpc(json!({ "sharng": "BOUND" })),
        "(RpcProxy).sharng: no such field; did you mean \"sharing\"?",
    );
}

#[test]
fn a_route_matches_names_as_text() {
    let plain = first_route(&rpc(json!({})));
    let RpcMatcher { service, method, version, group, headers, fraction } = plain.matcher;
    assert!(service.is_none() && method.is_none() && version.is_none() && group.is_none());
    assert!(headers.is_empty() && fraction.is_none());
    assert_eq!(&*plain.name, "");

    let matcher = first_route(&route(
        "match",
        json!({
            "service": { "exact": "com.foo.Hello:1.0" },
            "method": { "prefix": "Say", "ignore_case": true },
            "version": { "safe_regex": { "regex": "1\\..*" } },
            "group": { "suffix": "-eu" },
        }),
    ))
    .matcher;
    let service = matcher.service.unwrap();
    assert!(service.matches(b"com.foo.Hello:1.0") && !service.matches(b"com.foo.Hello:1.00"));
    let method = matcher.method.unwrap();
    assert!(method.matches(b"sayHello") && !method.matches(b"get"));
    let version = matcher.version.unwrap();
    assert!(version.matches(b"1.2") && !version.matches(b"12"));
    let group = matcher.group.unwrap();
    assert!(group.matches(b"g-eu") && !group.matches(b"g-us"));
}

#[test]
fn a_route_matches_headers_whose_names_have_case() {
    let header = |fields: Value| {
        let mut header = json!({ "name": "sofa_Head" });
        header.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        first_route(&route("match", json!({ "headers": [header] }))).matcher.headers[0].clone()
    };
    let present = header(json!({}));
    assert_eq!(&*present.name, "sofa_Head");
    assert!(present.is_about(b"sofa_Head") && !present.is_about(b"sofa_head"));
    // A condition, a value that satisfies it and one that does not.
    for (condition, good, bad) in [
        (json!({ "present_match": true }), Some("x"), None),
        (json!({ "present_match": false }), None, Some("x")),
        (json!({ "exact_match": "x" }), Some("x"), Some("xx")),
        (json!({ "prefix_match": "x" }), Some("xy"), Some("yx")),
        (json!({ "suffix_match": "x" }), Some("yx"), Some("xy")),
        (json!({ "contains_match": "x" }), Some("yxy"), Some("yy")),
        (json!({ "safe_regex_match": { "regex": "x+" } }), Some("xx"), Some("xy")),
        (json!({ "string_match": { "exact": "X", "ignore_case": true } }), Some("x"), Some("y")),
        (json!({ "range_match": { "start": -1, "end": 10 } }), Some("-1"), Some("10")),
        (json!({ "exact_match": "x", "invert_match": true }), Some("y"), Some("x")),
        (json!({ "exact_match": "x", "invert_match": true }), Some("y"), None),
        (
            json!({ "exact_match": "x", "invert_match": true, "treat_missing_header_as_empty": true }),
            None,
            Some("x"),
        ),
    ] {
        let matcher = header(condition.clone());
        assert!(matcher.holds(good.map(str::as_bytes)), "{condition}");
        assert!(!matcher.holds(bad.map(str::as_bytes)), "{condition}");
    }
}

#[test]
fn bad_matches_are_refused() {
    for (value, expected) in [
        (json!({ "service": {} }), "service.match_pattern: is required"),
        (json!({ "method": { "prefix": "" } }), "method.prefix: is required"),
        (
            json!({ "group": { "safe_regex": { "regex": "x" }, "ignore_case": true } }),
            "group.ignore_case: has no effect on safe_regex; write (?i) there",
        ),
        (json!({ "headers": [{ "exact_match": "x" }] }), "headers[0].name: is required"),
        (
            json!({ "headers": [{ "name": "a", "range_match": { "start": 1, "end": 1 } }] }),
            "headers[0].range_match: start must be below end",
        ),
        (json!({ "runtime_fraction": {} }), "runtime_fraction.default_value: is required"),
        (
            json!({ "runtime_fraction": { "default_value": { "numerator": 101 } } }),
            "runtime_fraction.default_value.numerator: must be at most 100",
        ),
    ] {
        let expected = format!("(RpcProxy).route_config.routes[0].match.{expected}");
        refused(route("match", value), &expected);
    }
    let regex = refusal(&route("match", json!({ "version": { "safe_regex": { "regex": "(" } } })));
    assert!(regex.contains("routes[0].match.version.safe_regex.regex: "), "{regex}");
    let none =
        json!({ "match": { "version": { "exact": "0.0.0" } }, "route": { "cluster": "app" } });
    let table = json!({ "routes": [none] });
    refused(
        rpc(json!({ "dubbo": {}, "route_config": table })),
        "(RpcProxy).route_config.routes[0].match.version.exact: is how Dubbo says that there is none: \
         must be empty",
    );
    proxy(&rpc(json!({ "hsf": {}, "route_config": table })));
}

#[test]
fn a_share_of_requests_comes_from_the_runtime() {
    let share = json!({ "runtime_fraction": {
        "default_value": { "numerator": 5, "denominator": "TEN_THOUSAND" }, "runtime_key": "share" } });
    let bootstrap = route("match", share);
    let fraction = first_route(&bootstrap).matcher.fraction.map(|fraction| fraction.get());
    assert_eq!(fraction, Some(Fraction { numerator: 5, denominator: 10_000 }));
    let layers = json!([{ "name": "l", "static_layer": { "share": 40 } }]);
    let with_layer = set(&bootstrap, "/layered_runtime", json!({ "layers": layers }));
    let fraction = first_route(&with_layer).matcher.fraction.map(|fraction| fraction.get());
    assert_eq!(fraction, Some(Fraction { numerator: 40, denominator: 100 }));
}

#[test]
fn a_route_has_one_of_four_targets() {
    let target = |action: Value| first_route(&route("route", action)).target;
    match target(json!({ "cluster": "app" })) {
        RpcTarget::Cluster(cluster) => assert_eq!(cluster.name(), "app"),
        other => panic!("{other:?}"),
    }
    let header = target(json!({ "cluster_header": "X-Cluster" }));
    assert!(matches!(header, RpcTarget::Header(name) if &*name == "X-Cluster"));
    for (name, side) in
        [("PUBLISHED", ServiceSide::Published), ("SUBSCRIBED", ServiceSide::Subscribed)]
    {
        let target = target(json!({ "service": name }));
        assert!(matches!(target, RpcTarget::Service(is) if is == side), "{name}");
    }
    for (action, expected) in [
        (json!({}), "cluster_specifier: is required"),
        (json!({ "cluster": "" }), "cluster: is required"),
        (json!({ "cluster_header": "" }), "cluster_header: is required"),
        (json!({ "cluster": "no" }), "cluster: there is no cluster \"no\""),
        (json!({ "cluster": "app", "timeout": "-1s" }), "timeout: must not be negative"),
    ] {
        let expected = format!("(RpcProxy).route_config.routes[0].route.{expected}");
        refused(route("route", action), &expected);
    }
    unreadable(
        route("route", json!({ "cluster": "app", "service": "PUBLISHED" })),
        "(RpcProxy).route_config.routes[0].route.service: set together with cluster",
    );
    let without = |field: &str| {
        let mut route = json!({ "match": {}, "route": { "cluster": "app" } });
        route.as_object_mut().unwrap().remove(field);
        rpc(json!({ "route_config": { "routes": [route] } }))
    };
    for field in ["match", "route"] {
        let expected = format!("(RpcProxy).route_config.routes[0].{field}: is required");
        refused(without(field), &expected);
    }
}

#[test]
fn a_cluster_may_be_missing_where_the_table_allows_it() {
    let routes = json!([{ "match": {}, "route": { "cluster": "later" } }]);
    let table = json!({ "routes": routes, "validate_clusters": false });
    let route = first_route(&rpc(json!({ "route_config": table })));
    let RpcTarget::Cluster(cluster) = route.target else { panic!("{route:?}") };
    assert_eq!(cluster.name(), "later");
}

#[test]
fn weighted_clusters_are_drawn_by_their_weights() {
    let weighted = |fields: Value| {
        let two = set(&rpc(json!({})), "/static_resources/clusters/-", cluster("canary"));
        set(&two, &format!("{RPC_ROUTE}/route"), json!({ "weighted_clusters": fields }))
    };
    let entries = json!([{ "name": "app", "weight": 3 }, { "name": "canary", "weight": 1 }]);
    let of = |bootstrap: &Value| match first_route(bootstrap).target {
        RpcTarget::Weighted(weighted) => weighted,
        other => panic!("{other:?}"),
    };
    let clusters = of(&weighted(json!({ "clusters": entries, "total_weight": 4 })));
    let drawn: Vec<_> = (0..8).map(|random| clusters.pick(random).name()).collect();
    assert_eq!(drawn, ["app", "app", "app", "canary", "app", "app", "app", "canary"]);

    let by_runtime = weighted(json!({ "clusters": entries, "runtime_key_prefix": "w" }));
    let layers = json!([{ "name": "l", "static_layer": { "w": { "app": 0 } } }]);
    let by_runtime = set(&by_runtime, "/layered_runtime", json!({ "layers": layers }));
    assert_eq!(of(&by_runtime).pick(0).name(), "canary");

    for (fields, expected) in [
        (json!({}), "clusters: weights must add up to at least 1"),
        (
            json!({ "clusters": [{ "name": "app", "weight": u32::MAX }, { "name": "app", "weight": 1 }] }),
            "clusters: weights must add up to at most 4294967295",
        ),
        (json!({ "clusters": [{ "name": "app" }] }), "clusters[0].weight: is required"),
        (json!({ "clusters": [{ "weight": 1 }] }), "clusters[0].name: is required"),
        (
            json!({ "clusters": [{ "name": "no", "weight": 1 }] }),
            "clusters[0].name: there is no cluster \"no\"",
        ),
        (
            json!({ "clusters": entries, "total_weight": 5 }),
            "total_weight: the weights add up to 4",
        ),
        (json!({ "clusters": entries, "header_name": "h" }), "header_name: not supported"),
        (
            json!({ "clusters": [{ "cluster_header": "h", "weight": 1 }] }),
            "clusters[0].cluster_header: not supported",
        ),
        (
            json!({ "clusters": [{ "name": "app", "weight": 1, "host_rewrite_literal": "h" }] }),
            "clusters[0].host_rewrite_literal: not supported",
        ),
        (
            json!({ "clusters": [{ "name": "app", "weight": 1, "response_headers_to_remove": ["h"] }] }),
            "clusters[0].response_headers_to_remove: not supported",
        ),
    ] {
        let expected =
            format!("(RpcProxy).route_config.routes[0].route.weighted_clusters.{expected}");
        refused(weighted(fields), &expected);
    }
}

#[test]
fn requests_are_sent_again_when_the_route_says_so() {
    assert_eq!(first_route(&rpc(json!({}))).retry, RpcRetry::default());
    let retry = |policy: Value| first_route(&route("route/retry_policy", policy)).retry;
    assert_eq!(
        retry(json!({ "retry_on": "connect-failure" })),
        RpcRetry { max: 1, connect_failure: true, overload: false }
    );
    assert_eq!(
        retry(json!({ "retry_on": "overload, connect-failure", "num_retries": 3 })),
        RpcRetry { max: 3, connect_failure: true, overload: true }
    );
    for (policy, expected) in [
        (json!({}), "retry_on: is required"),
        (json!({ "retry_on": "5xx" }), "retry_on: 5xx is not supported"),
        (json!({ "retry_on": "overload," }), "retry_on:  is not supported"),
    ] {
        let expected = format!("(RpcProxy).route_config.routes[0].route.retry_policy.{expected}");
        refused(route("route/retry_policy", policy), &expected);
    }
    let forward = first_route(&route("route/forward_remaining_timeout", json!(true)));
    assert!(forward.forward_remaining_timeout);
    assert!(!first_route(&rpc(json!({}))).forward_remaining_timeout);
}

#[test]
fn the_routes_header_edits_come_before_the_tables() {
    let add = |key: &str, value: &str, action: &str| json!({ "header": { "key": key, "value": value }, "append_action": action });
    let table = json!({
        "request_headers_to_add": [add("T", "100%%", "ADD_IF_ABSENT")],
        "request_headers_to_remove": ["Gone"],
        "routes": [{
            "match": {}, "route": { "cluster": "app" },
            "request_headers_to_add": [
                add("Over", "o", "OVERWRITE_IF_EXISTS_OR_ADD"),
                add("Append", "a", "APPEND_IF_EXISTS_OR_ADD"),
                add("Change", "c", "OVERWRITE_IF_EXISTS"),
                { "header": { "key": "Plain", "value": "p" } },
                { "header": { "key": "Old", "value": "o" }, "append": false },
                { "header": { "key": "Dropped" } },
                { "header": { "key": "Empty" }, "keep_empty_value": true },
            ],
            "request_headers_to_remove": ["x-A", "x-B"],
        }],
    });
    let bootstrap = rpc(json!({ "route_config": table }));
    let set = |name: &str, value: &str| RpcHeaderOp::Set(name.into(), value.into());
    assert_eq!(
        &*first_route(&bootstrap).request_headers.ops,
        [
            RpcHeaderOp::Remove("x-A".into()),
            RpcHeaderOp::Remove("x-B".into()),
            set("Over", "o"),
            set("Append", "a"),
            RpcHeaderOp::Replace("Change".into(), "c".into()),
            set("Plain", "p"),
            set("Old", "o"),
            set("Empty", ""),
            RpcHeaderOp::Remove("Gone".into()),
            RpcHeaderOp::SetIfAbsent("T".into(), "100%".into()),
        ]
    );
    let known = json!([{ "header": { "key": "Host", "value": "on %HOSTNAME%" } }]);
    let ops = first_route(&route("request_headers_to_add", known)).request_headers.ops;
    assert!(matches!(&*ops, [RpcHeaderOp::Set(_, value)] if !value.contains('%')), "{ops:?}");
    let warnings: Vec<_> = loaded(&bootstrap).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("request_headers_to_add[5].header.value"), "{warnings:?}");
}

#[test]
fn bad_header_edits_are_refused() {
    let header = |key: &str, value: &str| json!([{ "header": { "key": key, "value": value } }]);
    for (value, expected) in [
        (json!([{}]), "[0].header: is required"),
        (header("", "x"), "[0].header.key: \"\" is not a header name"),
        (header("a\nb", "x"), "[0].header.key: \"a\\nb\" is not a header name"),
        (header("a", "x\r"), "[0].header.value: must not hold CR, LF or NUL"),
        (
            header("a", "%REQ(b)%"),
            "[0].header.value: must be literal: format operators are for HTTP",
        ),
        (header("a", "%NO%"), "[0].header.value: there is no operator %NO%"),
        (header("a", "5%"), "[0].header.value: \"\" is not an operator; a percent sign is %%"),
        (
            json!([{ "header": { "key": "a", "raw_value": "eA==" } }]),
            "[0].header.raw_value: not supported",
        ),
        (
            json!([{ "header": { "key": "a" }, "append": true, "append_action": "ADD_IF_ABSENT" }]),
            "[0].append: must not be set together with append_action",
        ),
    ] {
        let expected =
            format!("(RpcProxy).route_config.routes[0].request_headers_to_add{expected}");
        refused(route("request_headers_to_add", value), &expected);
    }
    refused(
        route("request_headers_to_remove", json!(["a", ""])),
        "(RpcProxy).route_config.routes[0].request_headers_to_remove[1]: \"\" is not a header name",
    );
}

#[test]
fn a_table_knows_whether_names_are_enough() {
    let needs = |bootstrap: Value| proxy(&bootstrap).routes.needs_headers;
    let names = json!({ "service": { "exact": "s" }, "method": { "exact": "m" },
                        "version": { "exact": "1" } });
    assert!(!needs(rpc(json!({ "route_config": {} }))));
    assert!(!needs(route("match", names)));
    assert!(needs(route("match", json!({ "group": { "exact": "g" } }))));
    assert!(needs(route("match", json!({ "headers": [{ "name": "h" }] }))));
    assert!(needs(route("route", json!({ "cluster_header": "h" }))));
    assert!(needs(route("route", json!({ "service": "SUBSCRIBED" }))));
}

#[test]
fn dubbo_proxy_is_an_rpc_proxy() {
    let tables = json!([
        {
            "name": "foo", "interface": "com.foo.Hello", "group": "g1", "version": "1.0.0",
            "routes": [
                {
                    "match": { "method": { "name": { "prefix": "say" } },
                               "headers": [{ "name": "Region", "exact_match": "eu" }] },
                    "route": { "cluster": "app" },
                },
                { "match": { "method": {} }, "route": { "cluster": "not-there" } },
            ],
        },
        { "interface": "*", "version": "0.0.0", "routes": [
            { "match": {}, "route": { "weighted_clusters": { "clusters": [
                { "name": "app", "weight": 1 }, { "name": "not-there", "weight": 1 } ] } } },
        ] },
    ]);
    let table = json!({ "name": "all", "route_config": tables });
    let new = proxy(&dubbo(json!({ "multiple_route_config": table })));
    let plain = proxy(&rpc(json!({ "dubbo": {}, "stat_prefix": "d" })));
    let alike = |proxy: &RpcProxy| {
        let routes = Arc::new(RpcRouteTable::default());
        format!("{:?}", RpcProxy { routes, ..proxy.clone() })
    };
    assert_eq!(alike(&new), alike(&plain));

    assert_eq!(&*new.routes.name, "all");
    assert!(new.routes.needs_headers);
    let [first, second, third] = &*new.routes.routes else { panic!("{new:?}") };
    for route in [first, second] {
        assert_eq!(&*route.name, "foo");
        let matcher = &route.matcher;
        assert!(matcher.service.as_ref().unwrap().matches(b"com.foo.Hello"));
        assert!(!matcher.service.as_ref().unwrap().matches(b"com.foo.Hello2"));
        assert!(matcher.group.as_ref().unwrap().matches(b"g1"));
        assert!(!matcher.group.as_ref().unwrap().matches(b""));
        assert!(matcher.version.as_ref().unwrap().matches(b"1.0.0"));
        assert_eq!((route.timeout, route.retry), (None, RpcRetry::default()));
        assert!(route.request_headers.ops.is_empty() && !route.forward_remaining_timeout);
    }
    assert!(first.matcher.method.as_ref().unwrap().matches(b"sayHello"));
    let header = &first.matcher.headers[0];
    assert!(header.is_about(b"region") && header.is_about(b"REGION") && !header.is_about(b"r"));
    assert!(header.holds(Some(b"eu")) && !header.holds(Some(b"EU")));
    assert!(second.matcher.method.is_none() && second.matcher.headers.is_empty());
    assert!(matches!(&second.target, RpcTarget::Cluster(_)));
    // What Dubbo calls no version.
    assert!(third.matcher.version.as_ref().unwrap().matches(b""));
    assert!(third.matcher.group.is_none());
    assert!(matches!(&third.target, RpcTarget::Weighted(_)));

    let old = proxy(&dubbo(json!({ "route_config": tables, "protocol_type": "Dubbo",
                                   "serialization_type": "Hessian2" })));
    assert_eq!((&*old.routes.name, old.routes.routes.len()), ("", 3));
}

#[test]
fn dubbo_proxy_has_wildcards_of_interfaces() {
    let matches = |interface: &str, service: &str| {
        let matcher = first_route(&dubbo_table(json!({ "interface": interface }))).matcher;
        matcher.service.unwrap().matches(service.as_bytes())
    };
    for (interface, good, bad) in [
        ("*", "a", ""),
        ("*.add", "com.add", ".add"),
        ("*.add", "a.b.add", "a.b.adds"),
        ("com.*", "com.a.b", "com."),
        ("com.*", "com.c", "org.c"),
        ("*a*", "ba*", "bac"),
        ("a*b", "a*b", "acb"),
    ] {
        assert!(matches(interface, good), "{interface} {good}");
        assert!(!matches(interface, bad), "{interface} {bad}");
    }
}

#[test]
fn dubbo_proxy_takes_the_router_and_no_other_filter() {
    let with =
        |filters: Value| set(&dubbo_table(json!({})), &format!("{HCM}/dubbo_filters"), filters);
    let router = "envoy.extensions.filters.network.dubbo_proxy.router.v3.Router";
    let named = json!({ "name": "envoy.filters.dubbo.router" });
    let whole = json!({ "name": "envoy.filters.dubbo.router", "config": any(router) });
    for good in [json!([]), json!([named]), json!([whole])] {
        proxy(&with(good));
    }
    let other = any("envoy.extensions.filters.http.router.v3.Router");
    for (filters, expected) in [
        (json!([{}]), "[0].name: is required"),
        (json!([{ "name": "a.b" }]), "[0].name: a.b is not supported"),
        (json!([named, whole]), "[1]: is there twice"),
        (
            json!([{ "name": "envoy.filters.dubbo.router", "config": other }]),
            "[0].config(Router): extension type \"envoy.extensions.filters.http.router.v3.Router\" is \
             not supported",
        ),
        (
            json!([{ "name": "envoy.filters.dubbo.router", "config": any("a.b.C") }]),
            "[0].config: extension type \"type.googleapis.com/a.b.C\" is not supported",
        ),
    ] {
        refused(with(filters), &format!("(DubboProxy).dubbo_filters{expected}"));
    }
}

#[test]
fn what_dubbo_proxy_cannot_do_is_refused() {
    let table = json!({ "interface": "a", "routes": [] });
    for (fields, expected) in [
        (json!({ "stat_prefix": "" }), "stat_prefix: is required"),
        (json!({}), "multiple_route_config: is required"),
        (json!({ "drds": { "route_config_name": "r" } }), "drds: not supported"),
        (
            json!({ "route_config": [table], "multiple_route_config": {} }),
            "multiple_route_config: set together with route_config",
        ),
        (
            json!({ "protocol_type": 7, "multiple_route_config": {} }),
            "protocol_type: enum value 7 is not supported",
        ),
        (
            json!({ "serialization_type": 7, "multiple_route_config": {} }),
            "serialization_type: enum value 7 is not supported",
        ),
    ] {
        refused(dubbo(fields), &format!("(DubboProxy).{expected}"));
    }
    let at = "(DubboProxy).multiple_route_config.route_config[0]";
    refused(dubbo_table(json!({ "interface": "" })), &format!("{at}.interface: is required"));
    let app = json!({ "cluster": "app" });
    for (route, expected) in [
        (json!({ "route": app }), "match: is required"),
        (json!({ "match": {} }), "route: is required"),
        (json!({ "match": {}, "route": {} }), "route.cluster_specifier: is required"),
        (json!({ "match": {}, "route": { "cluster": "" } }), "route.cluster: is required"),
        (
            json!({ "match": {}, "route": { "cluster": "app", "metadata_match": {} } }),
            "route.metadata_match: not supported",
        ),
        (
            json!({ "match": {}, "route": { "weighted_clusters": { "clusters": [{ "weight": 1 }] } } }),
            "route.weighted_clusters.clusters[0].name: is required",
        ),
        (
            json!({ "match": { "method": { "name": { "exact": "m" },
                    "params_match": { "0": { "exact_match": "x" } } } }, "route": app }),
            "match.method.params_match: not supported",
        ),
        (
            json!({ "match": { "method": { "name": {} } }, "route": app }),
            "match.method.name.match_pattern: is required",
        ),
        (
            json!({ "match": { "headers": [{}] }, "route": app }),
            "match.headers[0].name: is required",
        ),
    ] {
        let expected = format!("{at}.routes[0].{expected}");
        refused(dubbo_table(json!({ "routes": [route] })), &expected);
    }
}

#[test]
fn a_detection_has_one_entry_for_each_protocol() {
    let hcm = http().pointer(&format!("{CHAIN}/filters/0")).unwrap().clone();
    let of_protocol = |name: &str| {
        let table = json!({ "routes": [{ "match": {}, "route": { "cluster": "app" } }] });
        filter(RPC, json!({ "stat_prefix": name, name: {}, "route_config": table }))
    };
    let detection = detected(&detection(json!({
        "choices": [
            choice(json!(["HTTP1", "HTTP2"]), hcm),
            choice(json!(["DUBBO"]), of_protocol("dubbo")),
            choice(json!(["HSF"]), of_protocol("hsf")),
            choice(json!(["BOLT"]), of_protocol("bolt")),
        ],
        "fallback": tcp_filter(),
        "timeout": "0.2s",
    })));
    let protocols: Vec<_> = detection.choices.iter().map(|(protocol, _)| *protocol).collect();
    use DetectedProtocol as P;
    assert_eq!(protocols, [P::Http1, P::Http2, P::Dubbo, P::Hsf, P::Bolt]);
    match (&detection.choices[0].1, &detection.choices[1].1) {
        (Terminal::Http(first), Terminal::Http(second)) => assert!(Arc::ptr_eq(first, second)),
        other => panic!("{other:?}"),
    }
    for (_, terminal) in &detection.choices[2..] {
        assert!(matches!(terminal, Terminal::Rpc(rpc) if &*rpc.stat_prefix == rpc.protocol.name()));
    }
    assert!(matches!(detection.fallback.as_deref(), Some(Terminal::Tcp(_))));
    assert_eq!(detection.timeout, Duration::from_millis(200));
}

#[test]
fn a_detection_has_defaults() {
    let detection =
        detected(&detection(json!({ "choices": [choice(json!(["BOLT"]), tcp_filter())] })));
    assert!(detection.fallback.is_none());
    assert_eq!(detection.timeout, SECOND);
}

#[test]
fn bad_detections_are_refused() {
    let inner = || filter(DETECTION, json!({ "choices": [choice(json!(["BOLT"]), tcp_filter())] }));
    let one = |choice: Value| json!({ "choices": [choice] });
    let good = || choice(json!(["BOLT"]), tcp_filter());
    for (fields, expected) in [
        (json!({}), "choices: is required"),
        (one(choice(json!([]), tcp_filter())), "choices[0].protocols: is required"),
        (one(json!({ "protocols": ["BOLT"] })), "choices[0].filter: is required"),
        (
            one(choice(json!(["BOLT"]), json!({ "name": "f" }))),
            "choices[0].filter.typed_config: is required",
        ),
        (
            one(choice(json!(["BOLT"]), json!({ "typed_config": tcp_filter()["typed_config"] }))),
            "choices[0].filter.name: is required",
        ),
        (
            one(choice(json!(["BOLT"]), json!({ "name": "f", "typed_config": any("a.b.C") }))),
            "choices[0].filter.typed_config: extension type \"type.googleapis.com/a.b.C\" is not \
             supported",
        ),
        (
            one(choice(json!(["BOLT", 9]), tcp_filter())),
            "choices[0].protocols[1]: enum value 9 is not supported",
        ),
        (
            json!({ "choices": [good(), choice(json!(["HSF", "BOLT"]), tcp_filter())] }),
            "choices[1].protocols[1]: is there twice",
        ),
        (
            one(choice(json!(["BOLT"]), inner())),
            "choices[0].filter.typed_config: a detection cannot hold another",
        ),
        (
            json!({ "choices": [good()], "fallback": inner() }),
            "fallback.typed_config: a detection cannot hold another",
        ),
        (
            json!({ "choices": [good()], "fallback": { "name": "f" } }),
            "fallback.typed_config: is required",
        ),
        (json!({ "choices": [good()], "timeout": "0s" }), "timeout: must be above zero"),
    ] {
        refused(detection(fields), &format!("(ProtocolDetection).{expected}"));
    }
}

#[test]
fn a_choice_is_of_what_its_filter_speaks() {
    let hcm = |codec: &str| {
        let hcm = set(&http(), &format!("{HCM}/codec_type"), json!(codec));
        hcm.pointer(&format!("{CHAIN}/filters/0")).unwrap().clone()
    };
    let rpc = |name: &str| filter(RPC, json!({ "stat_prefix": "r", name: {}, "route_config": {} }));
    let dubbo = || filter(DUBBO, json!({ "stat_prefix": "d", "multiple_route_config": {} }));
    let all = ["HTTP1", "HTTP2", "BOLT", "DUBBO", "HSF"];
    for (filter, spoken) in [
        (tcp_filter(), &all[..]),
        (hcm("AUTO"), &["HTTP1", "HTTP2"]),
        (hcm("HTTP1"), &["HTTP1"]),
        (hcm("HTTP2"), &["HTTP2"]),
        (rpc("bolt"), &["BOLT"]),
        (rpc("dubbo"), &["DUBBO"]),
        (rpc("hsf"), &["HSF"]),
        (dubbo(), &["DUBBO"]),
    ] {
        for protocol in all {
            let choices = json!([choice(json!([protocol]), filter.clone())]);
            let bootstrap = detection(json!({ "choices": choices }));
            if spoken.contains(&protocol) {
                detected(&bootstrap);
            } else {
                let expected =
                    "(ProtocolDetection).choices[0].protocols[0]: is not what the filter speaks";
                refused(bootstrap, expected);
            }
        }
    }
}

#[test]
fn a_complaint_about_a_filter_inside_a_detection_has_its_whole_path() {
    let bad = filter(
        RPC,
        json!({ "stat_prefix": "r", "bolt": {}, "route_config": {
        "routes": [{ "match": {}, "route": { "cluster": "no" } }] } }),
    );
    refused(
        detection(json!({ "choices": [choice(json!(["BOLT"]), bad)] })),
        "(ProtocolDetection).choices[0].filter.typed_config(RpcProxy).route_config.routes[0].route\
         .cluster: there is no cluster \"no\"",
    );
}

#[test]
fn detections_inside_each_other_end_before_the_stack_does() {
    let mut inner = tcp_filter();
    for _ in 0..200 {
        inner = filter(DETECTION, json!({ "choices": [choice(json!(["BOLT"]), inner)] }));
    }
    let text = refusal(&set(&http(), &format!("{CHAIN}/filters/0"), inner));
    assert!(!text.is_empty());
}

#[test]
fn every_field_of_the_family_loads_in_one_file() {
    let loaded = load_yaml(include_str!("data/rpc.yaml")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.warnings, []);
    let mut owners = 0;
    for listener in loaded.snapshot.listeners.iter() {
        for chain in listener.filter_chains.iter() {
            chain.terminal.visit_owners(&mut |_| owners += 1);
        }
    }
    // One each of two, and of the third bolt, dubbo, hsf, HTTP twice, and the fallback.
    assert_eq!(owners, 2 + 6);
    for name in ["RpcProxy", "DubboProxy", "ProtocolDetection"] {
        assert!(loaded.config_dump.contains(name), "{name}");
    }
}
