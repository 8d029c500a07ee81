//! The rules for what is not supported (contract section 0), one test per rule.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use common::*;
use outrigger_xds::bootstrap::{LoadError, LoadOptions, Source, Warning, load};
use outrigger_xds::source::Format;
use serde_json::json;

#[test]
fn u_01_and_u_03_a_field_we_do_not_implement_is_refused_with_its_path() {
    let cases = [
        ("/hds_config", json!({ "api_type": "GRPC" }), "Bootstrap: hds_config: not supported"),
        (
            "/dynamic_resources/lds_resources_locator",
            json!("xdstp://a/b"),
            "Bootstrap: dynamic_resources.lds_resources_locator: not supported",
        ),
        ("/stats_sinks", json!([{ "name": "s" }]), "Bootstrap: stats_sinks: not supported"),
        ("/header_prefix", json!("x-foo"), "Bootstrap: header_prefix: not supported"),
        (
            "/admin/socket_options",
            json!([{ "level": 1 }]),
            "Bootstrap: admin.socket_options: not supported",
        ),
        (
            "/static_resources/listeners/0/enable_mptcp",
            json!(true),
            "Listener web: enable_mptcp: not supported",
        ),
        (
            "/static_resources/listeners/0/listener_filters",
            json!([{ "name": "f", "config_discovery": {} }]),
            "Listener web: listener_filters[0].config_discovery: not supported",
        ),
        (
            "/static_resources/listeners/0/filter_chains/0/filter_chain_match/address_suffix",
            json!("a"),
            "Listener web: filter_chains[0].filter_chain_match.address_suffix: not supported",
        ),
        (
            "/static_resources/clusters/0/health_checks",
            json!([{ "timeout": "1s" }]),
            "Cluster app: health_checks: not supported",
        ),
        (
            "/static_resources/clusters/0/outlier_detection",
            json!({}),
            "Cluster app: outlier_detection: not supported",
        ),
        (
            "/static_resources/clusters/0/upstream_bind_config/local_address_selector",
            json!({ "name": "s" }),
            "Cluster app: upstream_bind_config.local_address_selector: not supported",
        ),
        (
            "/static_resources/clusters/0/original_dst_lb_config/metadata_key",
            json!({ "key": "k" }),
            "Cluster app: original_dst_lb_config.metadata_key: not supported",
        ),
        (
            "/static_resources/clusters/0/transport_socket_matcher",
            json!({}),
            "Cluster app: transport_socket_matcher: not supported",
        ),
    ];
    for (pointer, value, expected) in cases {
        assert_eq!(refusal(&set(&http(), pointer, value)), expected, "{pointer}");
    }
}

#[test]
fn u_02_the_path_runs_through_extensions_and_holds_indexes_and_map_keys() {
    let in_hcm = [
        ("tracing", json!({ "provider": { "name": "zipkin" } }), "tracing.provider"),
        (
            "scoped_routes",
            json!({ "name": "r", "scoped_rds": { "srds_resources_locator": "l" } }),
            "scoped_routes.scoped_rds.srds_resources_locator",
        ),
        ("local_reply_config", json!({}), "local_reply_config"),
        ("http3_protocol_options", json!({}), "http3_protocol_options"),
        (
            "http2_protocol_options",
            json!({ "allow_metadata": true }),
            "http2_protocol_options.allow_metadata",
        ),
        (
            "route_config/cluster_specifier_plugins",
            json!([{}]),
            "route_config.cluster_specifier_plugins",
        ),
        (
            "route_config/virtual_hosts/0/retry_policy",
            json!({ "refresh_cluster_on_retry": true }),
            "route_config.virtual_hosts[0].retry_policy.refresh_cluster_on_retry",
        ),
        (
            "route_config/virtual_hosts/0/routes/0/route/hash_policy",
            json!([{ "terminal": true }]),
            "route_config.virtual_hosts[0].routes[0].route.hash_policy",
        ),
        (
            "route_config/virtual_hosts/0/routes/0/route/internal_redirect_policy",
            json!({}),
            "route_config.virtual_hosts[0].routes[0].route.internal_redirect_policy",
        ),
        (
            "route_config/virtual_hosts/0/routes/0/typed_per_filter_config",
            json!({ "f": any_with(
                "envoy.extensions.filters.http.router.v3.Router",
                json!({ "strict_check_headers": ["x-envoy-max-retries"] }),
            ) }),
            "route_config.virtual_hosts[0].routes[0].typed_per_filter_config[\"f\"](Router)\
             .strict_check_headers",
        ),
        (
            "http_filters/0/typed_config/upstream_log",
            json!([{ "name": "a" }]),
            "http_filters[0].typed_config(Router).upstream_log",
        ),
        (
            "access_log",
            json!([{ "name": "a", "filter": { "extension_filter": { "name": "f" } } }]),
            "access_log[0].filter.extension_filter",
        ),
    ];
    for (pointer, value, path) in in_hcm {
        let bootstrap = if pointer == "scoped_routes" {
            let mut without = http();
            without.pointer_mut(HCM).unwrap().as_object_mut().unwrap().remove("route_config");
            without
        } else {
            http()
        };
        let bootstrap = set(&bootstrap, &format!("{HCM}/{pointer}"), value);
        let expected = format!("Listener web: {HCM_PATH}.{path}: not supported");
        assert_eq!(refusal(&bootstrap), expected);
    }
    let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let options =
        any_with(key, json!({ "explicit_http_config": { "http3_protocol_options": {} } }));
    let pointer = format!("{CLUSTER}/typed_extension_protocol_options");
    assert_eq!(
        refusal(&set(&http(), &pointer, json!({ key: options }))),
        format!(
            "Cluster app: typed_extension_protocol_options[{key:?}](HttpProtocolOptions)\
             .explicit_http_config.http3_protocol_options: not supported"
        ),
    );
}

#[test]
fn u_02_messages_about_files_hold_line_and_column() {
    let yaml = "\
static_resources:
  clusters:
  - name: app
    connect_timeout: 1s
    health_checks:
    - timeout: 1s
";
    let error = load_yaml(yaml).unwrap_err();
    assert_eq!(error.to_string(), "test.yaml:5:5: Cluster app: health_checks: not supported");
    let LoadError::Faults(faults) = error else { panic!() };
    assert_eq!(faults[0].resource.kind, "Cluster");
    assert_eq!(faults[0].position.as_ref().unwrap().line, 5);

    let error =
        load_yaml("static_resources:\n  clusters:\n  - name: a\n    connect_timeout: soon\n");
    let text = error.unwrap_err().to_string();
    assert!(
        text.starts_with(
            "test.yaml:4:5: Bootstrap: static_resources.clusters[0].connect_timeout: "
        ),
        "{text}"
    );

    let error = load_yaml("admin: [\n").unwrap_err();
    assert!(matches!(&error, LoadError::Syntax(_)), "{error}");
    assert_eq!(error.to_string(), "test.yaml:1:8: unclosed bracket '['");
}

#[test]
fn all_refused_fields_are_reported_at_once() {
    let bootstrap = set(&http(), "/stats_sinks", json!([{ "name": "s" }]));
    let bootstrap = set(&bootstrap, &format!("{CLUSTER}/health_checks"), json!([{}]));
    let bootstrap = set(&bootstrap, &format!("{LISTENER}/enable_mptcp"), json!(true));
    let refusal = refusal(&bootstrap);
    assert_eq!(refusal.lines().count(), 3, "{refusal}");
}

#[test]
fn u_05_an_unknown_key_is_refused_with_its_line_and_the_nearest_name() {
    let yaml = "static_resources:\n  clusters:\n  - name: app\n    conect_timeout: 1s\n";
    assert_eq!(
        load_yaml(yaml).unwrap_err().to_string(),
        "test.yaml:4:5: Bootstrap: static_resources.clusters[0].conect_timeout: no such field; \
         did you mean \"connect_timeout\"?"
    );
    let yaml = "frobnicate: 1\n";
    assert_eq!(
        load_yaml(yaml).unwrap_err().to_string(),
        "test.yaml:1:1: Bootstrap: frobnicate: no such field"
    );
}

#[test]
fn u_05_unknown_keys_can_be_allowed_and_are_then_reported() {
    let options = LoadOptions { allow_unknown_static_fields: true, ..LoadOptions::default() };
    let yaml = "static_resources:\n  clusters:\n  - name: app\n    conect_timeout: 1s\n";
    let loaded = load(&Source::text("f.yaml", yaml, Format::Yaml), &options).unwrap();
    assert_eq!(loaded.snapshot.clusters.len(), 1);
    assert_eq!(
        loaded.warnings.iter().map(Warning::to_string).collect::<Vec<_>>(),
        ["f.yaml:4:5: Bootstrap: static_resources.clusters[0].conect_timeout: no such field; did \
          you mean \"connect_timeout\"?; ignored"]
    );
    // Fields that exist and are not supported stay refused.
    let yaml = "stats_sinks: [{name: s}]\n";
    load(&Source::text("f.yaml", yaml, Format::Yaml), &options).unwrap_err();
}

#[test]
fn u_06_an_unknown_extension_is_refused_unless_it_is_optional() {
    let lua = "envoy.extensions.filters.http.lua.v3.Lua";
    let filters = |optional: bool| {
        let filter = json!({
            "name": "lua", "is_optional": optional, "typed_config": any_with(lua, json!({ "x": 1 })),
        });
        let router = json!({
            "name": "router", "typed_config": any("envoy.extensions.filters.http.router.v3.Router"),
        });
        set(&http(), &format!("{HCM}/http_filters"), json!([filter, router]))
    };
    assert_eq!(
        refusal(&filters(false)),
        format!(
            "Listener web: {HCM_PATH}.http_filters[0].typed_config: extension type \
             \"type.googleapis.com/{lua}\" is not supported"
        )
    );
    let loaded = loaded(&filters(true));
    assert_eq!(
        loaded.warnings.iter().map(Warning::to_string).collect::<Vec<_>>(),
        [format!(
            "Listener web: {HCM_PATH}.http_filters[0].typed_config: optional extension \
             \"type.googleapis.com/{lua}\" is left out"
        )]
    );
}

#[test]
fn u_07_a_typed_struct_is_the_type_it_names() {
    for holder in ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"] {
        let with = |value| {
            let inner = json!({
                "type_url": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                "value": value,
            });
            set(&http(), &format!("{HCM}/http_filters/0/typed_config"), any_with(holder, inner))
        };
        let loaded = loaded(&with(json!({ "suppress_envoy_headers": true })));
        assert!(hcm(&loaded).router.suppress_envoy_headers);
        assert_eq!(
            refusal(&with(json!({ "upstream_log": [{ "name": "a" }] }))),
            format!(
                "Listener web: {HCM_PATH}.http_filters[0].typed_config(Router).upstream_log: not \
                 supported"
            )
        );
        let unknown = with(json!({ "no_such": 1 }));
        assert!(refusal(&unknown).ends_with("typed_config(Router).no_such: no such field"));
    }
    let unknown = json!({ "type_url": "type.googleapis.com/a.B", "value": {} });
    let unknown = any_with("xds.type.v3.TypedStruct", unknown);
    let bootstrap = set(&http(), &format!("{HCM}/http_filters/0/typed_config"), unknown);
    assert!(refusal(&bootstrap).ends_with(
        "http_filters[0].typed_config: extension type \"type.googleapis.com/a.B\" is not supported"
    ));
}

#[test]
fn u_07_places_are_found_inside_a_typed_struct() {
    let yaml = "\
static_resources:
  listeners:
  - name: web
    address: { socket_address: { address: 127.0.0.1, port_value: 80 } }
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          \"@type\": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          value:
            stat_prefix: tcp
            cluster: app
            tunneling_config: { hostname: a }
";
    assert_eq!(
        load_yaml(yaml).unwrap_err().to_string(),
        "test.yaml:14:13: Listener web: \
         filter_chains[0].filters[0].typed_config(TcpProxy).tunneling_config: not supported"
    );
}

#[test]
fn u_08_extensions_are_found_by_type_not_by_name() {
    let bootstrap = set(&http(), &format!("{HCM}/http_filters/0/name"), json!("anything"));
    loaded(&bootstrap);
}

#[test]
fn u_09_enum_values_are_refused_by_name_or_number() {
    let codec = |value| refusal(&set(&http(), &format!("{HCM}/codec_type"), value));
    assert_eq!(
        codec(json!("HTTP3")),
        format!("Listener web: {HCM_PATH}.codec_type: HTTP3 is not supported")
    );
    assert_eq!(
        codec(json!(77)),
        format!("Listener web: {HCM_PATH}.codec_type: enum value 77 is not supported")
    );
    let policy = |value| refusal(&set(&http(), &format!("{CLUSTER}/lb_policy"), value));
    assert_eq!(policy(json!("MAGLEV")), "Cluster app: lb_policy: MAGLEV is not supported");
}

#[test]
fn u_12_the_static_runtime_layers_replace_defaults_and_later_ones_win() {
    let route = json!({
        "match": {
            "prefix": "/",
            "runtime_fraction": {
                "runtime_key": "routing.share",
                "default_value": { "numerator": 10, "denominator": "HUNDRED" },
            },
        },
        "route": { "cluster": "app" },
    });
    let base = set(&http(), ROUTE, route);
    let fraction = |layers| {
        let loaded = loaded(&set(&base, "/layered_runtime/layers", layers));
        let fraction = common::route(&loaded).matcher.fraction.as_ref().unwrap().get();
        (fraction.numerator, fraction.denominator)
    };
    let layer = |name: &str, values| json!({ "name": name, "static_layer": values });
    assert_eq!(fraction(json!([layer("a", json!({ "other": 3 }))])), (10, 100));
    assert_eq!(fraction(json!([layer("a", json!({ "routing.share": 30 }))])), (30, 100));
    assert_eq!(
        fraction(json!([
            layer("a", json!({ "routing.share": 30 })),
            layer("b", json!({ "routing": { "share": { "numerator": 5, "denominator": "MILLION" } } })),
            { "name": "admin", "admin_layer": {} },
        ])),
        (5, 1_000_000)
    );
    // A directory that is not there has no values.
    assert_eq!(
        fraction(json!([
            layer("a", json!({ "routing.share": 30 })),
            { "name": "d", "disk_layer": { "symlink_root": "/no/such/link" } },
        ])),
        (30, 100)
    );
}

#[test]
fn u_13_metadata_is_stored_whatever_it_holds() {
    let metadata = json!({ "filter_metadata": { "anything": { "a": [1, { "b": null }] } } });
    let mut bootstrap = http();
    for pointer in [
        format!("{LISTENER}/metadata"),
        format!("{CHAIN}/metadata"),
        format!("{TABLE}/metadata"),
        format!("{HOST}/metadata"),
        format!("{ROUTE}/metadata"),
        format!("{CLUSTER}/metadata"),
        format!("{CLUSTER}/load_assignment/endpoints/0/metadata"),
        format!("{CLUSTER}/load_assignment/endpoints/0/lb_endpoints/0/metadata"),
    ] {
        bootstrap = set(&bootstrap, &pointer, metadata.clone());
    }
    let loaded = loaded(&bootstrap);
    let stored = json!({ "anything": { "a": [1.0, { "b": null }] } });
    assert_eq!(**route(&loaded).metadata.as_ref().unwrap(), stored);
    assert_eq!(**first_cluster(&loaded).metadata.as_ref().unwrap(), stored);
    let endpoints = &loaded.snapshot.clusters.iter().next().unwrap().endpoints;
    assert_eq!(**endpoints.all()[0].metadata.as_ref().unwrap(), stored);
}

#[test]
fn u_14_ignorable_fields_are_accepted_and_reported() {
    let mut bootstrap = http();
    for (pointer, value) in [
        ("/watchdog", json!({ "kill_timeout": "5s" })),
        ("/flags_path", json!("/tmp")),
        ("/enable_dispatcher_stats", json!(true)),
        ("/stats_eviction_interval", json!("5s")),
        ("/admin/profile_path", json!("/tmp/p")),
        ("/static_resources/listeners/0/stats_matcher", json!({ "reject_all": true })),
        ("/static_resources/clusters/0/preconnect_policy", json!({})),
    ] {
        bootstrap = set(&bootstrap, pointer, value);
    }
    let loaded = loaded(&bootstrap);
    let mut ignored: Vec<String> = loaded.warnings.iter().map(Warning::to_string).collect();
    ignored.sort();
    assert_eq!(
        ignored,
        [
            "Bootstrap: admin.profile_path: ignored: there is no profiler that writes that file",
            "Bootstrap: enable_dispatcher_stats: ignored: statistics only",
            "Bootstrap: flags_path: ignored: process internals of Envoy",
            "Bootstrap: stats_eviction_interval: ignored: statistics only",
            "Bootstrap: watchdog: ignored: process internals of Envoy",
            "Cluster app: preconnect_policy: ignored: changes only how warm the pool is",
            "Listener web: stats_matcher: ignored: statistics only",
        ]
    );
}
