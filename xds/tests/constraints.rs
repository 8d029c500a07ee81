//! What section 22 of the contract demands of values (rule U-11), and what fields exclude each other.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use common::*;
use serde_json::{Value, json};

fn check(cases: &[(&str, Value, &str)]) {
    for (pointer, value, expected) in cases {
        assert_eq!(
            &refusal(&set(&http(), pointer, value.clone())),
            expected,
            "{pointer} = {value}"
        );
    }
}

fn at_hcm(pointer: &str) -> String {
    format!("{HCM}/{pointer}")
}

#[test]
fn names_are_not_empty() {
    check(&[
        ("/static_resources/clusters/-", json!({}), "Cluster: name: is required"),
        (
            "/static_resources/clusters/0/load_assignment/cluster_name",
            json!(""),
            "Cluster app: load_assignment.cluster_name: is required",
        ),
        (
            &at_hcm("stat_prefix"),
            json!(""),
            &format!("Listener web: {HCM_PATH}.stat_prefix: is required"),
        ),
        (
            &at_hcm("route_config/virtual_hosts/0/name"),
            json!(""),
            &format!("Listener web: {HCM_PATH}.route_config.virtual_hosts[0].name: is required"),
        ),
        (
            &at_hcm("route_config/virtual_hosts/0/domains"),
            json!([]),
            &format!("Listener web: {HCM_PATH}.route_config.virtual_hosts[0].domains: is required"),
        ),
        (
            &at_hcm("http_filters/0/name"),
            json!(""),
            &format!("Listener web: {HCM_PATH}.http_filters[0].name: is required"),
        ),
    ]);
    let no_prefix = refusal(&set(&tcp(), &format!("{TCP}/stat_prefix"), json!("")));
    assert_eq!(
        no_prefix,
        "Listener web: filter_chains[0].filters[0].typed_config(TcpProxy).stat_prefix: is required"
    );
}

#[test]
fn names_are_used_once() {
    check(&[
        (
            "/static_resources/clusters/-",
            cluster("app"),
            "Cluster app: name: \"app\" is used twice",
        ),
        (
            &at_hcm("route_config/virtual_hosts/-"),
            json!({ "name": "all", "domains": ["x"] }),
            &format!(
                "Listener web: {HCM_PATH}.route_config.virtual_hosts[1].name: \"all\" is used twice"
            ),
        ),
    ]);
    let mut second = http().pointer(LISTENER).unwrap().clone();
    let two = set(&http(), "/static_resources/listeners/-", second.clone());
    assert_eq!(
        refusal(&two),
        "Listener web: name: \"web\" is used twice\n\
         Listener web: address: 127.0.0.1:8080 is listener \"web\"'s already"
    );
    second["name"] = json!("other");
    second["address"]["socket_address"]["port_value"] = json!(0);
    let ephemeral = set(&http(), &format!("{LISTENER}/address"), second["address"].clone());
    loaded(&set(&ephemeral, "/static_resources/listeners/-", second));
}

#[test]
fn durations() {
    let connect = "/static_resources/clusters/0/connect_timeout";
    check(&[
        (connect, json!("0s"), "Cluster app: connect_timeout: must be above zero"),
        (connect, json!("-1s"), "Cluster app: connect_timeout: must not be negative"),
        (
            "/static_resources/clusters/0/dns_refresh_rate",
            json!("-1s"),
            "Cluster app: dns_refresh_rate: must not be negative",
        ),
        (
            &at_hcm("stream_idle_timeout"),
            json!("-0.5s"),
            &format!("Listener web: {HCM_PATH}.stream_idle_timeout: must not be negative"),
        ),
        (
            "/static_resources/listeners/0/listener_filters_timeout",
            json!("-1s"),
            "Listener web: listener_filters_timeout: must not be negative",
        ),
    ]);
    let dns = |fields: Value| {
        let mut cluster = cluster("app");
        cluster["type"] = json!("STRICT_DNS");
        cluster.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        refusal(&set(&http(), CLUSTER, cluster))
    };
    assert_eq!(
        dns(json!({ "dns_refresh_rate": "0s" })),
        "Cluster app: dns_refresh_rate: must be above 1 ms"
    );
    assert_eq!(
        dns(json!({ "dns_failure_refresh_rate": { "base_interval": "2s", "max_interval": "1s" } })),
        "Cluster app: dns_failure_refresh_rate.max_interval: must not be below base_interval"
    );
    assert_eq!(
        dns(json!({ "dns_failure_refresh_rate": {} })),
        "Cluster app: dns_failure_refresh_rate.base_interval: is required"
    );
    for bad in ["400000000000s", "1", "nan", "1e3s", ""] {
        let text = refusal(&set(&http(), connect, json!(bad)));
        assert!(text.contains("connect_timeout: "), "{text}");
    }
}

#[test]
fn ports_addresses_and_paths() {
    let socket = |address: &str, port: u64| json!({ "socket_address": { "address": address, "port_value": port } });
    let endpoint =
        "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address";
    let in_cluster = "Cluster app: load_assignment.endpoints[0].lb_endpoints[0].endpoint.address";
    let address = "/static_resources/listeners/0/address";
    check(&[
        (
            address,
            socket("127.0.0.1", 65536),
            "Listener web: address.socket_address.port_value: must be at most 65535",
        ),
        (
            address,
            socket("localhost", 1),
            "Listener web: address.socket_address.address: \"localhost\" is not an IP address",
        ),
        (address, socket("", 1), "Listener web: address.socket_address.address: is required"),
        (address, json!({}), "Listener web: address.address: is required"),
        (
            address,
            json!({ "socket_address": { "address": "::1", "port_value": 1, "protocol": "UDP" } }),
            "Listener web: address.socket_address.protocol: UDP is not supported",
        ),
        (
            address,
            json!({ "socket_address": { "address": "::1", "named_port": "http" } }),
            "Listener web: address.socket_address.named_port: not supported",
        ),
        (
            address,
            json!({ "pipe": { "path": "/".repeat(108) } }),
            "Listener web: address.pipe.path: is longer than 107 bytes",
        ),
        (
            address,
            json!({ "pipe": { "path": "@" } }),
            "Listener web: address.pipe.path: is not the name of a socket",
        ),
        (
            address,
            json!({ "pipe": { "path": "/s", "mode": 0o1000 } }),
            "Listener web: address.pipe.mode: must be at most 0777",
        ),
        (
            address,
            json!({ "envoy_internal_address": { "server_listener_name": "x" } }),
            "Listener web: address.envoy_internal_address: not supported",
        ),
        (
            endpoint,
            socket("1.2.3.4", 0),
            &format!("{in_cluster}.socket_address.port_value: must not be 0"),
        ),
        (
            "/static_resources/listeners/0/additional_addresses",
            json!([{ "address": { "pipe": { "path": "/s" } } }]),
            "Listener web: additional_addresses: must be of the same kind as address",
        ),
        (
            "/static_resources/listeners/0/socket_options",
            json!([{ "level": 1, "name": 4294967296i64, "int_value": 1 }]),
            "Listener web: socket_options[0].name: does not fit a C int",
        ),
        (
            "/static_resources/listeners/0/tcp_backlog_size",
            json!(0),
            "Listener web: tcp_backlog_size: must be at least 1",
        ),
        (
            "/static_resources/listeners/0/per_connection_buffer_limit_bytes",
            json!(0),
            "Listener web: per_connection_buffer_limit_bytes: must be at least 1",
        ),
    ]);
    loaded(&set(&http(), address, socket("127.0.0.1", 65535)));
    loaded(&set(&http(), address, json!({ "pipe": { "path": "/".repeat(107) } })));
}

#[test]
fn percentages_and_fractions() {
    let fraction = |numerator: u32, denominator: &str| {
        let share =
            json!({ "default_value": { "numerator": numerator, "denominator": denominator } });
        set(&http(), &format!("{ROUTE}/match/runtime_fraction"), share)
    };
    for (limit, denominator) in [(100, "HUNDRED"), (10_000, "TEN_THOUSAND"), (1_000_000, "MILLION")]
    {
        loaded(&fraction(limit, denominator));
        let text = refusal(&fraction(limit + 1, denominator));
        assert!(
            text.ends_with(&format!("default_value.numerator: must be at most {limit}")),
            "{text}"
        );
    }
    let missing =
        set(&http(), &format!("{ROUTE}/match/runtime_fraction"), json!({ "runtime_key": "k" }));
    assert!(refusal(&missing).ends_with("runtime_fraction.default_value: is required"));
    for (value, fits) in [(0.0, true), (100.0, true), (100.1, false), (-0.1, false)] {
        let pointer = format!("{CLUSTER}/common_lb_config/healthy_panic_threshold/value");
        let result = load_json(&set(&http(), &pointer, json!(value)));
        assert_eq!(result.is_ok(), fits, "{value}");
    }
}

#[test]
fn weights() {
    let member = |weight: u64| {
        json!({
            "endpoint": { "address": { "socket_address": { "address": "1.1.1.1", "port_value": 1 } } },
            "load_balancing_weight": weight,
        })
    };
    let members = |list: Value| {
        set(&http(), &format!("{CLUSTER}/load_assignment/endpoints/0/lb_endpoints"), list)
    };
    assert_eq!(
        refusal(&members(json!([member(0)]))),
        "Cluster app: load_assignment.endpoints[0].lb_endpoints[0].load_balancing_weight: must be at least 1"
    );
    loaded(&members(json!([member(u64::from(u32::MAX) - 1), member(1)])));
    assert_eq!(
        refusal(&members(json!([member(u64::from(u32::MAX)), member(1)]))),
        "Cluster app: load_assignment.endpoints: endpoint weights must add up to at most 4294967295"
    );
    let weighted = |weights: &[u64]| {
        let clusters: Vec<Value> =
            weights.iter().map(|weight| json!({ "name": "app", "weight": weight })).collect();
        set(&http(), ACTION, json!({ "weighted_clusters": { "clusters": clusters } }))
    };
    let max = u64::from(u32::MAX);
    loaded(&weighted(&[max - 1, 1]));
    assert!(
        refusal(&weighted(&[max, 1]))
            .ends_with("clusters: weights must add up to at most 4294967295")
    );
    assert!(refusal(&weighted(&[0, 0])).ends_with("clusters: weights must add up to at least 1"));
    assert!(refusal(&weighted(&[])).ends_with("clusters: weights must add up to at least 1"));
    let no_weight = json!({ "weighted_clusters": { "clusters": [{ "name": "app" }] } });
    assert!(refusal(&set(&http(), ACTION, no_weight)).ends_with("clusters[0].weight: is required"));
    let locality = set(
        &http(),
        &format!("{CLUSTER}/load_assignment/endpoints/0/load_balancing_weight"),
        json!(0),
    );
    assert!(refusal(&locality).ends_with("endpoints[0].load_balancing_weight: must be at least 1"));
    let alike = json!([{ "locality": { "zone": "a" } }, { "locality": { "zone": "a" } }]);
    let alike = set(&http(), &format!("{CLUSTER}/load_assignment/endpoints"), alike);
    assert_eq!(
        refusal(&alike),
        "Cluster app: load_assignment.endpoints[1].locality: is used twice"
    );
}

#[test]
fn limits() {
    let kb = |value: u32| set(&http(), &at_hcm("max_request_headers_kb"), json!(value));
    loaded(&kb(1));
    loaded(&kb(8192));
    assert!(refusal(&kb(0)).ends_with("max_request_headers_kb: must be at least 1"));
    assert!(refusal(&kb(8193)).ends_with("max_request_headers_kb: must be at most 8192"));
    let count = set(&http(), &at_hcm("common_http_protocol_options/max_headers_count"), json!(0));
    assert!(refusal(&count).ends_with("max_headers_count: must be at least 1"));
    let choices = set(&http(), &format!("{CLUSTER}/lb_policy"), json!("LEAST_REQUEST"));
    let choices =
        set(&choices, &format!("{CLUSTER}/least_request_lb_config/choice_count"), json!(1));
    assert_eq!(
        refusal(&choices),
        "Cluster app: least_request_lb_config.choice_count: must be at least 2"
    );
    let attempts = set(&tcp(), &format!("{TCP}/max_connect_attempts"), json!(0));
    assert!(refusal(&attempts).ends_with("max_connect_attempts: must be at least 1"));
}

#[test]
fn http2() {
    let held = |field: &str, value: u64| {
        let pointer = at_hcm(&format!("http2_protocol_options/{field}"));
        let hcm = load_json(&set(&http(), &pointer, json!(value)));
        let pointer = format!("{CLUSTER}/http2_protocol_options/{field}");
        let cluster = load_json(&set(&http(), &pointer, json!(value)));
        assert_eq!(hcm.is_ok(), cluster.is_ok(), "{field} = {value}");
        hcm.is_ok()
    };
    let (bits_31, bits_32) = ((1 << 31) - 1, (1 << 32) - 1);
    for (field, min, max) in [
        ("hpack_table_size", 0, bits_32),
        ("max_concurrent_streams", 1, bits_31),
        ("initial_stream_window_size", 65_535, bits_31),
        ("initial_connection_window_size", 65_535, bits_31),
        ("max_outbound_frames", 1, bits_32),
        ("max_outbound_control_frames", 1, bits_32),
        ("max_consecutive_inbound_frames_with_empty_payload", 0, bits_32),
        ("max_inbound_priority_frames_per_stream", 0, bits_32),
        ("max_inbound_window_update_frames_per_data_frame_sent", 1, bits_32),
    ] {
        assert!(held(field, min) && held(field, max), "{field}");
        assert!(min == 0 || !held(field, min - 1), "{field}");
        assert!(!held(field, max + 1), "{field}");
    }
    let in_hcm = |fields: Value| refusal(&set(&http(), &at_hcm("http2_protocol_options"), fields));
    let at = format!("Listener web: {HCM_PATH}.http2_protocol_options");
    for (fields, expected) in [
        (
            json!({ "initial_stream_window_size": 65534 }),
            "initial_stream_window_size: must be from 65535 to 2147483647",
        ),
        (
            json!({ "max_header_field_size_kb": 63 }),
            "max_header_field_size_kb: must be from 64 to 256",
        ),
        (
            json!({ "max_header_field_size_kb": 64 }),
            "max_header_field_size_kb: must not be above the 60 kB of all headers together",
        ),
        (json!({ "disallow_obs_text": true }), "disallow_obs_text: not supported"),
        (json!({ "connection_keepalive": {} }), "connection_keepalive.timeout: is required"),
        (
            json!({ "connection_keepalive": { "timeout": "0.0001s" } }),
            "connection_keepalive.timeout: must be at least 1 ms",
        ),
        (
            json!({ "connection_keepalive": { "timeout": "1s", "interval": "0s" } }),
            "connection_keepalive.interval: must be at least 1 ms",
        ),
        (
            json!({ "connection_keepalive": { "timeout": "1s", "interval_jitter": { "value": 101 } } }),
            "connection_keepalive.interval_jitter: must be from 0 to 100",
        ),
        (
            json!({ "custom_settings_parameters": [{ "identifier": 9, "value": 1 }] }),
            "custom_settings_parameters: not supported",
        ),
    ] {
        assert_eq!(in_hcm(fields), format!("{at}.{expected}"));
    }
}

#[test]
fn status_codes() {
    for (status, fits) in [(199, false), (200, true), (599, true), (600, false), (70_000, false)] {
        let route = json!({ "match": { "prefix": "/" }, "direct_response": { "status": status } });
        let result = load_json(&set(&http(), ROUTE, route));
        assert_eq!(result.is_ok(), fits, "{status}");
    }
}

#[test]
fn strings() {
    let in_route = format!("Listener web: {HCM_PATH}.route_config.virtual_hosts[0].routes[0]");
    let header = |key: &str, value: &str| {
        let option = json!([{ "header": { "key": key, "value": value } }]);
        refusal(&set(&http(), &format!("{ROUTE}/request_headers_to_add"), option))
    };
    let key = format!("{in_route}.request_headers_to_add[0].header.key");
    for name in [":path", "Host", "host", ":authority"] {
        assert_eq!(header(name, "x"), format!("{key}: {name:?} may not be changed here"));
    }
    assert_eq!(header("", "x"), format!("{key}: is required"));
    assert_eq!(header("a b", "x"), format!("{key}: \"a b\" is not a header name"));
    for value in ["a\r", "\n", "\0"] {
        let text = header("x", value);
        assert!(text.ends_with("header.value: must not hold CR, LF or NUL"), "{text}");
    }
    let removal =
        set(&http(), &format!("{ROUTE}/response_headers_to_remove"), json!(["x", ":status"]));
    assert_eq!(
        refusal(&removal),
        format!("{in_route}.response_headers_to_remove[1]: \":status\" may not be changed here")
    );
    for operator in ["prefix", "suffix", "contains"] {
        let headers = json!([{ "name": "x", "string_match": { operator: "" } }]);
        let bootstrap = set(&http(), &format!("{ROUTE}/match/headers"), headers);
        assert_eq!(
            refusal(&bootstrap),
            format!("{in_route}.match.headers[0].string_match.{operator}: is required")
        );
    }
    for prefix in ["/a/", "/a?b", "/a#b"] {
        let criteria = json!({ "path_separated_prefix": prefix });
        let text = refusal(&set(&http(), &format!("{ROUTE}/match"), criteria));
        assert!(text.ends_with("path_separated_prefix: must not end in '/' nor hold '?' or '#'"));
    }
    for via in ["server_name", "via"] {
        let text = refusal(&set(&http(), &at_hcm(via), json!("a\nb")));
        assert!(text.ends_with(&format!("{via}: must not hold CR, LF or NUL")), "{text}");
    }
}

#[test]
fn regular_expressions_are_re2_and_bounded() {
    let regex = |text: &str| {
        let criteria = json!({ "safe_regex": { "regex": text } });
        refusal(&set(&http(), &format!("{ROUTE}/match"), criteria))
    };
    for (source, expected) in [
        ("(?=a)", "look-around is not supported"),
        ("(?<!a)", "look-around is not supported"),
        (r"(a)\1", r"\1: back-references are not supported"),
        ("a(", "unclosed group"),
        ("[a", "a [ has no ]"),
        (r"a\", "the expression ends in a backslash"),
        (r"\q", r"\q is not an escape of RE2"),
        ("a{1,2000}", "{1,2000} repeats more than 1000 times"),
        ("(?x)a", "(?x is not a group of RE2"),
        ("((a{100}){100}){100}", "regular expression is too large"),
    ] {
        let text = regex(source);
        assert!(
            text.contains("match.safe_regex.regex: ") && text.contains(expected),
            "{source}: {text}"
        );
    }
    let rewrite = |pattern: &str, substitution: &str| {
        let fields = json!({ "cluster": "app", "regex_rewrite": {
            "pattern": { "regex": pattern }, "substitution": substitution } });
        refusal(&set(&http(), ACTION, fields))
    };
    assert!(rewrite("(a)", r"\2").ends_with(
        r"regex_rewrite.substitution: substitution: \2 is used, but the expression has 1 groups"
    ));
    assert!(
        rewrite("(a)", r"\x").contains("a backslash must be followed by a digit or a backslash")
    );
    assert!(rewrite("(", "").contains("regex_rewrite.pattern.regex: "));
}

#[test]
fn one_of_several_is_required() {
    let in_route = format!("Listener web: {HCM_PATH}.route_config.virtual_hosts[0].routes[0]");
    check(&[
        (
            "/static_resources/listeners/0/address",
            json!(null),
            "Listener web: address: is required",
        ),
        (
            "/static_resources/listeners/0/filter_chains",
            json!([]),
            "Listener web: filter_chains: is required",
        ),
        (
            "/static_resources/listeners/0/filter_chains/0/filters",
            json!([]),
            "Listener web: filter_chains[0].filters: must end in a terminal filter",
        ),
        (
            &at_hcm("http_filters"),
            json!([]),
            &format!("Listener web: {HCM_PATH}.http_filters: must end in the router filter"),
        ),
        (
            &at_hcm("route_config"),
            json!(null),
            &format!("Listener web: {HCM_PATH}.route_specifier: is required"),
        ),
        (ROUTE, json!({ "match": { "prefix": "/" } }), &format!("{in_route}.action: is required")),
        (
            ROUTE,
            json!({ "route": { "cluster": "app" } }),
            &format!("{in_route}.match: is required"),
        ),
        (
            &format!("{ROUTE}/match"),
            json!({}),
            &format!("{in_route}.match.path_specifier: is required"),
        ),
        (ACTION, json!({}), &format!("{in_route}.route.cluster_specifier: is required")),
    ]);
}

#[test]
fn only_one_of_several_may_be_set() {
    for (fields, expected) in [
        (json!({ "cluster": "app", "cluster_header": "x" }), "set together with cluster"),
        (
            json!({ "cluster": "app", "prefix_rewrite": "/", "path_rewrite": "/" }),
            "path_rewrite: set together with prefix_rewrite",
        ),
        (
            json!({ "cluster": "app", "host_rewrite_literal": "a", "host_rewrite_header": "b" }),
            "set together with",
        ),
    ] {
        let text = refusal(&set(&http(), ACTION, fields));
        assert!(text.contains(expected), "{text}");
    }
    let both = set(&http(), &at_hcm("strip_any_host_port"), json!(true));
    let both = set(&both, &at_hcm("strip_matching_host_port"), json!(true));
    assert!(
        refusal(&both).ends_with("strip_any_host_port: set together with strip_matching_host_port")
    );
    let twice = set(&http(), &at_hcm("statPrefix"), json!("x"));
    assert!(refusal(&twice).contains(": is set twice"));
    let upgrades = json!([{ "upgrade_type": "a" }, { "upgrade_type": "A" }]);
    let upgrades = set(&http(), &at_hcm("upgrade_configs"), upgrades);
    assert!(refusal(&upgrades).ends_with("upgrade_configs[1].upgrade_type: \"a\" is used twice"));
    let connect = json!({ "cluster": "app", "upgrade_configs": [{ "upgrade_type": "websocket", "connect_config": {} }] });
    let text = refusal(&set(&http(), ACTION, connect));
    assert!(text.ends_with("connect_config: is for upgrade type CONNECT only"), "{text}");
}

#[test]
fn terminal_filters_are_last_and_alone() {
    let hcm =
        http().pointer("/static_resources/listeners/0/filter_chains/0/filters/0").unwrap().clone();
    let two = set(&http(), &format!("{CHAIN}/filters/-"), hcm);
    assert_eq!(
        refusal(&two),
        "Listener web: filter_chains[0].filters[0]: is a terminal filter and must be the last"
    );
    let router = http().pointer(&at_hcm("http_filters/0")).unwrap().clone();
    let two = set(&http(), &at_hcm("http_filters/-"), router);
    assert!(refusal(&two).ends_with("http_filters[1]: the router must be the last filter"));
    let disabled = set(&http(), &at_hcm("http_filters/0/disabled"), json!(true));
    assert!(
        refusal(&disabled).ends_with("http_filters[0].disabled: the router cannot be disabled")
    );
}

#[test]
fn values_of_the_wrong_type_are_refused_with_their_path() {
    for (pointer, value, expected) in [
        (
            "/static_resources",
            json!([]),
            "Bootstrap: static_resources: expected an object, found a list",
        ),
        (
            "/static_resources/clusters",
            json!({}),
            "Bootstrap: static_resources.clusters: expected a list, found an object",
        ),
        (
            "/static_resources/clusters/0",
            json!("x"),
            "Bootstrap: static_resources.clusters[0]: expected an object, found text",
        ),
        ("/node/id", json!(7), "Bootstrap: node.id: "),
        (
            "/static_resources/clusters/0/type",
            json!("NOPE"),
            "Bootstrap: static_resources.clusters[0].type: ",
        ),
        (
            "/static_resources/clusters/0/typed_extension_protocol_options",
            json!([]),
            "Bootstrap: static_resources.clusters[0].typed_extension_protocol_options: expected a map, found a list",
        ),
        (
            "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config",
            json!({}),
            "Bootstrap: static_resources.listeners[0].filter_chains[0].filters[0].typed_config: has no \"@type\"",
        ),
        (
            "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config",
            json!({ "@type": 7 }),
            "Bootstrap: static_resources.listeners[0].filter_chains[0].filters[0].typed_config: \"@type\" must be a type URL",
        ),
    ] {
        let text = refusal(&set(&http(), pointer, value));
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn nesting_ends_before_the_stack_does() {
    let mut deep = json!({});
    for _ in 0..60 {
        deep = json!({ "@type": "type.googleapis.com/google.protobuf.Any", "value": deep });
    }
    let text = refusal(&set(&http(), &format!("{CHAIN}/filters/0/typed_config"), deep));
    assert!(!text.is_empty());
    let yaml = "[".repeat(100_000);
    load_yaml(&yaml).unwrap_err();
    let yaml = format!("a: {}", "{b: ".repeat(100_000));
    load_yaml(&yaml).unwrap_err();
}
