//! Every honoured field has its effect in the snapshot, and without it Envoy's default.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use std::time::Duration;

use common::*;
use outrigger_xds::bootstrap::{LoadOptions, Source, demo, load, simple};
use outrigger_xds::engine_config::EngineConfig;
use outrigger_xds::snapshot::access_log::{Body, Sink};
use outrigger_xds::snapshot::*;
use outrigger_xds::source::Format;
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

fn with(pointer: &str, value: Value) -> outrigger_xds::bootstrap::Loaded {
    loaded(&set(&http(), pointer, value))
}

fn with_hcm(field: &str, value: Value) -> HttpConnectionManager {
    hcm(&with(&format!("{HCM}/{field}"), value)).clone()
}

fn with_listener(field: &str, value: Value) -> Listener {
    listener(&with(&format!("{LISTENER}/{field}"), value)).clone()
}

fn with_cluster(field: &str, value: Value) -> Cluster {
    first_cluster(&with(&format!("{CLUSTER}/{field}"), value)).clone()
}

fn with_action(value: Value) -> Forward {
    forward(&with(ACTION, value)).clone()
}

fn endpoints(loaded: &outrigger_xds::bootstrap::Loaded) -> &EndpointSet {
    &loaded.snapshot.clusters.iter().next().unwrap().endpoints
}

#[test]
fn section_1_an_empty_bootstrap_is_a_configuration() {
    let loaded = load_yaml("").unwrap();
    assert!(loaded.snapshot.listeners.is_empty() && loaded.snapshot.clusters.is_empty());
    assert!(loaded.admin.is_none());
    assert_eq!(loaded.engine, EngineConfig::default());
}

#[test]
fn section_1_node_admin_and_their_overrides() {
    let bootstrap = set(
        &http(),
        "/node",
        json!({ "id": "n1", "cluster": "shop", "locality": { "zone": "z" }, "metadata": { "a": "b" } }),
    );
    let bootstrap = set(&bootstrap, "/admin/address", json!({ "pipe": { "path": "/tmp/admin" } }));
    let plain = loaded(&bootstrap);
    assert_eq!((plain.node.id.as_str(), plain.node.cluster.as_str()), ("n1", "shop"));
    assert_eq!(
        (plain.node.locality.zone.as_str(), &plain.node.metadata),
        ("z", &json!({ "a": "b" }))
    );
    assert_eq!(plain.admin.unwrap().address.to_string(), "/tmp/admin");
    let options = LoadOptions {
        service_cluster: Some("c2".to_owned()),
        service_node: Some("n2".to_owned()),
        service_zone: Some("z2".to_owned()),
        concurrency: Some(3),
        ..LoadOptions::default()
    };
    let changed = load_with(&bootstrap, &options).unwrap();
    assert_eq!((changed.node.id.as_str(), changed.node.cluster.as_str()), ("n2", "c2"));
    assert_eq!(changed.node.locality.zone, "z2");
    assert_eq!(changed.engine.shards, 3);
    let from_nothing = load_with(&http(), &options).unwrap();
    assert_eq!(from_nothing.node.id, "n2");
}

#[test]
fn section_1_default_regex_engine_google_re2() {
    let engine = any("envoy.extensions.regex_engines.v3.GoogleRE2");
    with("/default_regex_engine", json!({ "name": "re2", "typed_config": engine }));
    let other = any("envoy.extensions.regex_engines.v3.Other");
    let bootstrap =
        set(&http(), "/default_regex_engine", json!({ "name": "x", "typed_config": other }));
    assert!(refusal(&bootstrap).contains("default_regex_engine.typed_config: extension type"));
}

#[test]
fn the_engine_section() {
    let yaml = "engine: { shards: 2, cores: [1, 3], linger_us: 0, buffer_bytes: 4096 }\n";
    let engine = load_yaml(yaml).unwrap().engine;
    assert_eq!(
        engine,
        EngineConfig {
            shards: 2,
            cores: vec![1, 3],
            linger_us: 0,
            buffer_bytes: 4096,
            ..EngineConfig::default()
        }
    );
    for (yaml, expected) in [
        (
            "engine:\n  shard: 2\n",
            "test.yaml:2:3: Bootstrap: engine.shard: no such field; did you mean \"shards\"?",
        ),
        (
            "engine:\n  shards: many\n",
            "test.yaml:2:3: Bootstrap: engine.shards: invalid type: string \"many\", expected u32",
        ),
        (
            "engine:\n  cores: [0, -1]\n",
            "test.yaml:2:14: Bootstrap: engine.cores[1]: invalid value: integer `-1`, expected u32",
        ),
        (
            "engine:\n  buffer_bytes: 5000\n",
            "test.yaml:2:3: Bootstrap: engine.buffer_bytes: 5000 is not a power of two from 4096 to 65536",
        ),
        (
            "engine: { cores: [2, 2] }\n",
            "test.yaml:1:22: Bootstrap: engine.cores[1]: 2 is not a CPU named once",
        ),
        ("engine: 7\n", "test.yaml:1:1: Bootstrap: engine: expected an object"),
    ] {
        assert_eq!(load_yaml(yaml).unwrap_err().to_string(), expected);
    }
}

#[test]
fn engine_limits_hold_at_their_edges() {
    let with = |change: &dyn Fn(&mut EngineConfig)| {
        let mut engine = EngineConfig::default();
        change(&mut engine);
        engine.validate().is_ok()
    };
    assert!(with(&|_| {}));
    assert!(with(&|e| e.shards = 1024) && !with(&|e| e.shards = 1025));
    assert!(with(&|e| e.cores = vec![1023]) && !with(&|e| e.cores = vec![1024]));
    assert!(!with(&|e| (e.shards, e.cores) = (2, vec![1])));
    assert!(with(&|e| e.spin_us = 1_000_000) && !with(&|e| e.spin_us = 1_000_001));
    assert!(with(&|e| e.linger_us = 1_000_000) && !with(&|e| e.linger_us = 1_000_001));
    assert!(with(&|e| e.buffer_bytes = 65_536) && !with(&|e| e.buffer_bytes = 131_072));
    assert!(with(&|e| e.buffer_bytes = 4096) && !with(&|e| e.buffer_bytes = 2048));
    assert!(with(&|e| e.buffers = 1024) && !with(&|e| e.buffers = 1025));
    assert!(with(&|e| e.buffers = 8) && !with(&|e| e.buffers = 7));
    assert!(with(&|e| e.buffers_max = 32_768) && !with(&|e| e.buffers_max = 32_769));
    assert!(with(&|e| e.ring_entries = 64) && !with(&|e| e.ring_entries = 100));
    assert!(with(&|e| e.connections_max = 1) && !with(&|e| e.connections_max = 0));
    assert!(
        with(&|e| e.access_log_queue_bytes = 65_536)
            && !with(&|e| e.access_log_queue_bytes = 65_535)
    );
    assert!(with(&|e| e.stall_ms = 10) && !with(&|e| e.stall_ms = 9));
}

#[test]
fn config_yaml_is_merged_onto_the_file() {
    let base = "node: { id: a, cluster: c }\nstatic_resources: { clusters: [{ name: x }] }\n";
    let over =
        "node: { id: b }\nengine: { shards: 2 }\nstatic_resources: { clusters: [{ name: y }] }\n";
    let source = Source::text("base", base, Format::Yaml).with_yaml("--config-yaml", over);
    let loaded = load(&source, &LoadOptions::default()).unwrap();
    assert_eq!((loaded.node.id.as_str(), loaded.node.cluster.as_str()), ("b", "c"));
    assert_eq!(loaded.engine.shards, 2);
    let names: Vec<&str> =
        loaded.snapshot.clusters.iter().map(|member| &*member.cluster.name).collect();
    assert_eq!(names, ["x", "y"]);

    // The older spellings of booleans are read where a boolean is wanted, and are names elsewhere.
    let yaml = "static_resources: { clusters: [{ name: on, wait_for_warm_on_init: off }] }";
    let spelled = load_yaml(yaml).unwrap();
    assert_eq!(&*first_cluster(&spelled).name, "on");
    assert!(!first_cluster(&spelled).wait_for_warm_on_init);

    let source = Source::text("base", base, Format::Yaml).with_yaml("--config-yaml", "nod: 1");
    assert_eq!(
        load(&source, &LoadOptions::default()).unwrap_err().to_string(),
        "--config-yaml:1:1: Bootstrap: nod: no such field; did you mean \"node\"?"
    );
}

#[test]
fn the_config_dump_is_the_bootstrap_as_json() {
    let loaded = with("/node", json!({ "id": "n" }));
    let dump: Value = serde_json::from_str(&loaded.config_dump).unwrap();
    assert_eq!(dump["node"]["id"], "n");
    assert_eq!(dump["static_resources"]["listeners"][0]["name"], "web");
    let filter = &dump["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
    assert_eq!(filter["typed_config"]["stat_prefix"], "web");
}

#[test]
fn the_command_line_shorthand_and_the_demo_are_configurations() {
    let options = LoadOptions::default();
    let loaded = load(&simple("127.0.0.1:8080", "unix:/run/app").unwrap(), &options).unwrap();
    assert_eq!(listener(&loaded).addresses[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(endpoints(&loaded).all()[0].address.to_string(), "/run/app");
    assert_eq!(hcm(&loaded).upgrades.allows(b"WebSocket"), Some(true));
    let loaded = load(&simple(":80", "app.local:81").unwrap(), &options).unwrap();
    assert_eq!(listener(&loaded).addresses[0].address.to_string(), "0.0.0.0:80");
    let Discovery::StrictDns(dns) = &first_cluster(&loaded).discovery else { panic!() };
    assert_eq!((&*dns.targets[0].host, dns.targets[0].port), ("app.local", 81));
    let loaded = load(&simple("[::1]:80", "[::1]:81").unwrap(), &options).unwrap();
    assert_eq!(endpoints(&loaded).all()[0].address.to_string(), "[::1]:81");
    for bad in ["", "a", "a:b", "a:70000", "unix:", "a b:80", "::1:80"] {
        assert_eq!(simple("127.0.0.1:1", bad).unwrap_err().0, bad);
    }
    let loaded = load(&demo("127.0.0.1:7777".parse().unwrap()), &options).unwrap();
    assert_eq!(listener(&loaded).addresses[0].address.to_string(), "127.0.0.1:10000");
    assert_eq!(loaded.admin.unwrap().address.to_string(), "127.0.0.1:9901");
}

#[test]
fn section_2_listener_defaults() {
    let loaded = loaded(&http());
    let listener = listener(&loaded);
    assert_eq!((&*listener.name, &*listener.stat_prefix), ("web", "127.0.0.1_8080"));
    assert_eq!(listener.per_connection_buffer_limit_bytes, 1 << 20);
    let bind = &listener.bind;
    assert!(bind.bind_to_port && bind.reuse_port && !bind.exact_balance && !bind.transparent);
    assert_eq!((bind.backlog, bind.tcp_fast_open_queue_length), (None, None));
    assert_eq!(listener.traffic_direction, TrafficDirection::Unspecified);
    assert_eq!(listener.max_connections_to_accept_per_socket_event, None);
}

#[test]
fn section_2_listener_fields() {
    assert_eq!(&*with_listener("stat_prefix", json!("s")).stat_prefix, "s");
    assert_eq!(&*with_listener("name", json!("")).name, "127.0.0.1:8080");
    let limit = with_listener("per_connection_buffer_limit_bytes", json!(5000));
    assert_eq!(limit.per_connection_buffer_limit_bytes, 5000);
    assert!(!with_listener("bind_to_port", json!(false)).bind.bind_to_port);
    assert!(!with_listener("deprecated_v1", json!({ "bind_to_port": false })).bind.bind_to_port);
    assert!(!with_listener("enable_reuse_port", json!(false)).bind.reuse_port);
    assert!(with_listener("transparent", json!(true)).bind.transparent);
    assert!(with_listener("freebind", json!(true)).bind.freebind);
    assert_eq!(with_listener("tcp_backlog_size", json!(9)).bind.backlog, Some(9));
    let fast_open = with_listener("tcp_fast_open_queue_length", json!(4));
    assert_eq!(fast_open.bind.tcp_fast_open_queue_length, Some(4));
    let direction = with_listener("traffic_direction", json!("OUTBOUND")).traffic_direction;
    assert_eq!(direction, TrafficDirection::Outbound);
    let per_event = with_listener("max_connections_to_accept_per_socket_event", json!(3));
    assert_eq!(per_event.max_connections_to_accept_per_socket_event, Some(3));
    let balance = json!({ "exact_balance": {} });
    assert!(with_listener("connection_balance_config", balance).bind.exact_balance);
    let keepalive = with_listener("tcp_keepalive", json!({ "keepalive_time": 7 }));
    assert_eq!(keepalive.addresses[0].tcp_keepalive.unwrap().time_s, Some(7));
    with_listener("listener_filters_timeout", json!("3s"));
    let options = with_listener(
        "socket_options",
        json!([
            { "level": 1, "name": 9, "int_value": 1, "state": "STATE_BOUND" },
            { "level": 6, "name": 13, "buf_value": "AQI=", "state": "STATE_LISTENING" },
        ]),
    );
    let options = &options.addresses[0].socket_options;
    assert_eq!(options[0].value, SocketOptionValue::Int(1));
    assert_eq!(options[0].state, SocketOptionState::Bound);
    assert_eq!(options[1].value, SocketOptionValue::Bytes([1, 2].into()));
    assert_eq!((options[1].level, options[1].name), (6, 13));
}

#[test]
fn section_2_addresses_of_both_kinds() {
    let pipe = |path: &str, mode: u32| json!({ "pipe": { "path": path, "mode": mode } });
    let unix = with_listener("address", pipe("/tmp/s", 0o660));
    assert_eq!(
        (unix.addresses[0].address.to_string(), unix.addresses[0].mode),
        ("/tmp/s".into(), Some(0o660))
    );
    let hidden = with_listener("address", pipe("@name", 0));
    assert_eq!(hidden.addresses[0].address, Address::UnixAbstract(b"name"[..].into()));
    let more = with_listener(
        "additional_addresses",
        json!([
            { "address": { "socket_address": { "address": "::", "port_value": 0, "ipv4_compat": true } } },
            {
                "address": { "socket_address": { "address": "127.0.0.2", "port_value": 1 } },
                "tcp_keepalive": { "keepalive_probes": 2 },
            },
        ]),
    );
    assert_eq!(more.addresses.len(), 3);
    assert_eq!(more.addresses[1].address.to_string(), "[::]:0");
    assert!(more.addresses[1].ipv4_compat);
    assert_eq!(more.addresses[2].tcp_keepalive.unwrap().probes, Some(2));
    // YAML's octal, as Envoy's reader takes it.
    let mut yaml =
        "static_resources: { listeners: [{ address: { pipe: { path: /s, mode: 0600 } }, "
            .to_owned();
    yaml.push_str("filter_chains: [{ filters: [{ name: t, typed_config: { '@type': ");
    yaml.push_str("type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, ");
    yaml.push_str("stat_prefix: t, cluster: none } }] }] }] }\n");
    let loaded = load_yaml(&yaml).unwrap();
    assert_eq!(listener(&loaded).addresses[0].mode, Some(0o600));
}

#[test]
fn section_3_filter_chains() {
    let chain = http().pointer(CHAIN).unwrap().clone();
    let mut bootstrap = set(&http(), &format!("{LISTENER}/default_filter_chain"), chain.clone());
    bootstrap = set(&bootstrap, &format!("{CHAIN}/name"), json!("first"));
    bootstrap = set(&bootstrap, &format!("{CHAIN}/filter_chain_match"), json!({}));
    let raw = any("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer");
    bootstrap = set(
        &bootstrap,
        &format!("{CHAIN}/transport_socket"),
        json!({ "name": "raw", "typed_config": raw }),
    );
    let loaded = loaded(&bootstrap);
    let names: Vec<&str> =
        listener(&loaded).filter_chains.iter().map(|chain| &*chain.name).collect();
    assert_eq!(names, ["first", ""]);

    let only_default = set(&bootstrap, &format!("{LISTENER}/filter_chains"), json!([]));
    assert_eq!(listener(&self::loaded(&only_default)).filter_chains.iter().count(), 1);
    let two = set(&http(), &format!("{LISTENER}/filter_chains/-"), chain);
    assert_eq!(
        refusal(&two),
        "Listener web: filter_chains[1]: matches the same connections as filter_chains[0]"
    );
}

#[test]
fn section_4_tcp_proxy() {
    let plain = loaded(&tcp());
    let proxy = tcp_proxy(&plain);
    assert_eq!((&*proxy.stat_prefix, proxy.max_connect_attempts), ("tcp", 1));
    assert_eq!(
        (proxy.idle_timeout, proxy.max_downstream_connection_duration),
        (Some(3600 * SECOND), None)
    );
    assert!(matches!(&proxy.target, TcpTarget::Cluster(cluster) if cluster.id() == ClusterId(0)));
    let fields = json!({
        "stat_prefix": "t",
        "weighted_clusters": { "clusters": [{ "name": "app", "weight": 1 }, { "name": "nowhere", "weight": 2 }] },
        "idle_timeout": "0s",
        "max_connect_attempts": 3,
        "max_downstream_connection_duration": "60s",
        "access_log": [{ "name": "out", "typed_config": any("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog") }],
    });
    let fields = any_with("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", fields);
    let loaded = loaded(&set(&tcp(), TCP, fields));
    let proxy = tcp_proxy(&loaded);
    assert_eq!((proxy.idle_timeout, proxy.max_connect_attempts), (None, 3));
    assert_eq!(proxy.max_downstream_connection_duration, Some(60 * SECOND));
    assert_eq!(proxy.access_log[0].sink, Sink::Stdout);
    let names: Vec<_> = (0..3).map(|random| proxy.target.pick(random).name()).collect();
    assert_eq!(names, ["app", "nowhere", "nowhere"]);
    assert!(loaded.snapshot.clusters.get(proxy.target.pick(1).id()).is_none());
}

#[test]
fn section_5_connection_manager_defaults() {
    let loaded = loaded(&http());
    let hcm = hcm(&loaded);
    assert_eq!(&*hcm.stat_prefix, "web");
    assert_eq!(
        hcm.timeouts,
        HttpTimeouts {
            idle: Some(3600 * SECOND),
            max_connection_duration: None,
            max_connection_duration_jitter_percent: 0.0,
            safe_max_connection_duration: false,
            max_stream_duration: None,
            stream_idle: Some(300 * SECOND),
            stream_flush: Some(300 * SECOND),
            request: None,
            request_headers: None,
            drain: 5 * SECOND,
            delayed_close: Some(SECOND),
        }
    );
    assert_eq!(
        hcm.limits,
        HttpLimits {
            max_requests_per_connection: None,
            max_headers_count: 100,
            max_request_headers_bytes: 60 * 1024,
        }
    );
    assert_eq!((&*hcm.server.name, hcm.server.mode), ("envoy", ServerHeaderMode::Overwrite));
    assert_eq!((hcm.via.as_deref(), hcm.add_user_agent.as_deref()), (None, None));
    assert_eq!(hcm.origin.internal, InternalAddresses::default());
    assert!(!hcm.origin.use_remote_address && !hcm.origin.skip_xff_append);
    assert!(hcm.request_id.generate && hcm.request_id.pack_trace_reason);
    assert!(!hcm.request_id.preserve_external && !hcm.request_id.always_set_in_response);
    assert!(hcm.upgrades.types.is_empty() && !hcm.proxy_100_continue);
    assert!(
        hcm.http1.allow_absolute_url && !hcm.http1.accept_http_10 && !hcm.http1.enable_trailers
    );
    assert_eq!(hcm.http1.header_case, HeaderCase::Lower);
    assert_eq!(hcm.path.escaped_slashes, EscapedSlashes::KeepUnchanged);
    assert!(!hcm.path.normalize && !hcm.path.merge_slashes);
    assert_eq!((hcm.strip_port, hcm.strip_trailing_host_dot), (StripPort::Never, false));
    assert_eq!(
        (&hcm.scheme, hcm.forward_client_cert),
        (&SchemeRule::FromRequest, ForwardClientCert::Sanitize)
    );
    assert!(hcm.router.dynamic_stats && !hcm.router.suppress_envoy_headers);
}

fn hcm_defaults() -> HttpConnectionManager {
    hcm(&loaded(&http())).clone()
}

#[test]
fn section_5_connection_manager_fields() {
    let hcm = with_hcm(
        "common_http_protocol_options",
        json!({
            "idle_timeout": "0s", "max_connection_duration": "10s",
            "max_connection_duration_jitter": { "value": 20 }, "max_stream_duration": "2s",
            "max_requests_per_connection": 7, "max_headers_count": 12,
            "headers_with_underscores_action": "DROP_HEADER",
        }),
    );
    assert_eq!(
        (hcm.timeouts.idle, hcm.timeouts.max_connection_duration),
        (None, Some(10 * SECOND))
    );
    assert_eq!(hcm.timeouts.max_connection_duration_jitter_percent, 20.0);
    assert_eq!(hcm.timeouts.max_stream_duration, Some(2 * SECOND));
    assert_eq!(
        (hcm.limits.max_requests_per_connection, hcm.limits.max_headers_count),
        (Some(7), 12)
    );
    assert_eq!(hcm.underscore_headers, UnderscoreHeaders::DropHeader);

    assert_eq!(with_hcm("stream_idle_timeout", json!("0s")).timeouts.stream_idle, None);
    assert_eq!(
        with_hcm("stream_idle_timeout", json!("9s")).timeouts.stream_flush,
        Some(9 * SECOND)
    );
    assert_eq!(
        with_hcm("stream_flush_timeout", json!("8s")).timeouts.stream_flush,
        Some(8 * SECOND)
    );
    assert_eq!(with_hcm("request_timeout", json!("3s")).timeouts.request, Some(3 * SECOND));
    assert_eq!(
        with_hcm("request_headers_timeout", json!("0.5s")).timeouts.request_headers,
        Some(SECOND / 2)
    );
    assert_eq!(with_hcm("drain_timeout", json!("0s")).timeouts.drain, Duration::ZERO);
    assert_eq!(with_hcm("delayed_close_timeout", json!("0s")).timeouts.delayed_close, None);
    assert!(
        with_hcm("http1_safe_max_connection_duration", json!(true))
            .timeouts
            .safe_max_connection_duration
    );
    assert_eq!(
        with_hcm("max_request_headers_kb", json!(8192)).limits.max_request_headers_bytes,
        8192 * 1024
    );
    assert_eq!(&*with_hcm("server_name", json!("s")).server.name, "s");
    let mode = with_hcm("server_header_transformation", json!("PASS_THROUGH")).server.mode;
    assert_eq!(mode, ServerHeaderMode::PassThrough);
    assert_eq!(with_hcm("via", json!("1.1 me")).via.as_deref(), Some("1.1 me"));
    let scheme =
        with_hcm("scheme_header_transformation", json!({ "scheme_to_overwrite": "https" })).scheme;
    assert_eq!(scheme, SchemeRule::Overwrite("https".into()));
    assert_eq!(
        with_hcm("scheme_header_transformation", json!({ "match_upstream": true })).scheme,
        SchemeRule::MatchUpstream
    );
    assert!(with_hcm("use_remote_address", json!(true)).origin.use_remote_address);
    assert_eq!(with_hcm("xff_num_trusted_hops", json!(2)).origin.xff_num_trusted_hops, 2);
    assert!(with_hcm("skip_xff_append", json!(true)).origin.skip_xff_append);
    assert!(with_hcm("append_x_forwarded_port", json!(true)).origin.append_x_forwarded_port);
    let mapped = "represent_ipv4_remote_address_as_ipv4_mapped_ipv6";
    assert!(with_hcm(mapped, json!(true)).origin.ipv4_as_mapped_ipv6);
    assert!(!with_hcm("generate_request_id", json!(false)).request_id.generate);
    assert!(with_hcm("preserve_external_request_id", json!(true)).request_id.preserve_external);
    assert!(
        with_hcm("always_set_request_id_in_response", json!(true))
            .request_id
            .always_set_in_response
    );
    let uuid = any_with(
        "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
        json!({ "pack_trace_reason": false }),
    );
    assert!(
        !with_hcm("request_id_extension", json!({ "typed_config": uuid }))
            .request_id
            .pack_trace_reason
    );
    let client_cert = with_hcm("forward_client_cert_details", json!("ALWAYS_FORWARD_ONLY"));
    assert_eq!(client_cert.forward_client_cert, ForwardClientCert::AlwaysForward);
    assert!(with_hcm("proxy_100_continue", json!(true)).proxy_100_continue);
    assert!(with_hcm("normalize_path", json!(true)).path.normalize);
    assert!(with_hcm("merge_slashes", json!(true)).path.merge_slashes);
    let slashes = with_hcm("path_with_escaped_slashes_action", json!("UNESCAPE_AND_REDIRECT"));
    assert_eq!(slashes.path.escaped_slashes, EscapedSlashes::UnescapeAndRedirect);
    assert_eq!(with_hcm("strip_matching_host_port", json!(true)).strip_port, StripPort::Matching);
    assert_eq!(with_hcm("strip_any_host_port", json!(true)).strip_port, StripPort::Any);
    assert!(with_hcm("strip_trailing_host_dot", json!(true)).strip_trailing_host_dot);
    assert!(
        with_hcm("stream_error_on_invalid_http_message", json!(true))
            .stream_error_on_invalid_http_message
    );
    for (name, codec) in [("AUTO", Codec::Auto), ("HTTP1", Codec::Http1), ("HTTP2", Codec::Http2)] {
        assert_eq!(with_hcm("codec_type", json!(name)).codec, codec);
    }
    assert_eq!(hcm_defaults().client_cert_details, ClientCertDetails::default());
    let details = with_hcm(
        "set_current_client_cert_details",
        json!({ "subject": true, "cert": true, "chain": true, "dns": true, "uri": true }),
    );
    assert_eq!(
        details.client_cert_details,
        ClientCertDetails { subject: true, cert: true, chain: true, dns: true, uri: true }
    );
    for (name, mode) in [
        ("FORWARD_ONLY", ForwardClientCert::ForwardOnly),
        ("APPEND_FORWARD", ForwardClientCert::AppendForward),
        ("SANITIZE_SET", ForwardClientCert::SanitizeSet),
    ] {
        let hcm = with_hcm("forward_client_cert_details", json!(name));
        assert_eq!(hcm.forward_client_cert, mode);
    }
    let upgrades =
        json!([{ "upgrade_type": "WebSocket" }, { "upgrade_type": "CONNECT", "enabled": false }]);
    let upgrades = with_hcm("upgrade_configs", upgrades).upgrades;
    assert_eq!(upgrades.allows(b"websocket"), Some(true));
    assert_eq!((upgrades.allows(b"connect"), upgrades.allows(b"h2c")), (Some(false), None));
    let internal = json!({ "unix_sockets": true, "cidr_ranges": [
        { "address_prefix": "10.1.2.3", "prefix_len": 8 }, { "address_prefix": "fd00::", "prefix_len": 8 },
    ]});
    let internal = with_hcm("internal_address_config", internal).origin.internal;
    assert!(internal.unix_sockets);
    for (address, expected) in [
        ("10.9.9.9", true),
        ("11.0.0.1", false),
        ("::ffff:10.0.0.1", true),
        ("fdff::1", true),
        ("fe00::1", false),
    ] {
        assert_eq!(internal.contains(address.parse().unwrap()), expected, "{address}");
    }
    let named = set(&http(), "/node", json!({ "id": "n", "cluster": "c" }));
    let named = loaded(&set(&named, &format!("{HCM}/add_user_agent"), json!(true)));
    let named = common::hcm(&named);
    assert_eq!(
        (named.add_user_agent.as_deref(), named.service_node.as_deref()),
        (Some("c"), Some("n"))
    );
    let router = any_with(
        "envoy.extensions.filters.http.router.v3.Router",
        json!({
            "dynamic_stats": false, "suppress_envoy_headers": true,
            "respect_expected_rq_timeout": true, "start_child_span": true,
        }),
    );
    let router = with_hcm("http_filters/0/typed_config", router).router;
    assert!(
        !router.dynamic_stats
            && router.suppress_envoy_headers
            && router.respect_expected_rq_timeout
    );
}

#[test]
fn section_13_http1_options() {
    let http1 = with_hcm(
        "http_protocol_options",
        json!({
            "allow_absolute_url": false, "accept_http_10": true, "default_host_for_http_10": "h",
            "enable_trailers": true, "header_key_format": { "proper_case_words": {} },
            "override_stream_error_on_invalid_http_message": true,
        }),
    )
    .http1;
    assert_eq!(
        http1,
        Http1Options {
            allow_absolute_url: false,
            accept_http_10: true,
            default_host_for_http_10: Some("h".into()),
            enable_trailers: true,
            header_case: HeaderCase::ProperCaseWords,
            stream_error_on_invalid_http_message: Some(true),
        }
    );
    let preserve =
        any("envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig");
    let format = json!({ "header_key_format": { "stateful_formatter": { "name": "p", "typed_config": preserve } } });
    assert_eq!(with_hcm("http_protocol_options", format).http1.header_case, HeaderCase::Preserve);
    let pointer = format!("{HCM}/http_protocol_options");
    let chunked = set(&http(), &pointer, json!({ "allow_chunked_length": true }));
    assert!(
        refusal(&chunked).ends_with("http_protocol_options.allow_chunked_length: not supported")
    );
}

/// Every option of HTTP/2 away from its default.
fn http2_options() -> (Value, Http2Options) {
    let json = json!({
        "hpack_table_size": 0, "max_concurrent_streams": 7, "initial_stream_window_size": 65535,
        "initial_connection_window_size": 2147483647, "allow_connect": true,
        "max_outbound_frames": 11, "max_outbound_control_frames": 12,
        "max_consecutive_inbound_frames_with_empty_payload": 13,
        "max_inbound_priority_frames_per_stream": 14,
        "max_inbound_window_update_frames_per_data_frame_sent": 15,
        "stream_reset_burst": 16, "stream_reset_rate": 17, "enable_huffman_encoding": false,
        "override_stream_error_on_invalid_http_message": false,
        "stream_error_on_invalid_http_messaging": true,
        "connection_keepalive": { "interval": "3s", "timeout": "2s",
            "interval_jitter": { "value": 5 }, "connection_idle_interval": "1s" },
    });
    let options = Http2Options {
        hpack_table_size: 0,
        max_concurrent_streams: 7,
        initial_stream_window_size: 65_535,
        initial_connection_window_size: (1 << 31) - 1,
        allow_connect: true,
        max_outbound_frames: 11,
        max_outbound_control_frames: 12,
        max_consecutive_inbound_frames_with_empty_payload: 13,
        max_inbound_priority_frames_per_stream: 14,
        max_inbound_window_update_frames_per_data_frame_sent: 15,
        stream_reset_burst: 16,
        stream_reset_rate: 17,
        max_header_field_bytes: 64 * 1024,
        huffman: false,
        stream_error_on_invalid_http_message: Some(false),
        keepalive: Some(Http2Keepalive {
            interval: Some(3 * SECOND),
            timeout: 2 * SECOND,
            interval_jitter_percent: 5.0,
            connection_idle_interval: Some(SECOND),
        }),
    };
    (json, options)
}

#[test]
fn section_13_http2_options() {
    assert_eq!(
        hcm_defaults().http2,
        Http2Options {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window_size: 256 * 1024,
            initial_connection_window_size: 1024 * 1024,
            allow_connect: false,
            max_outbound_frames: 10_000,
            max_outbound_control_frames: 1000,
            max_consecutive_inbound_frames_with_empty_payload: 1,
            max_inbound_priority_frames_per_stream: 100,
            max_inbound_window_update_frames_per_data_frame_sent: 10,
            stream_reset_burst: 1000,
            stream_reset_rate: 33,
            max_header_field_bytes: 64 * 1024,
            huffman: true,
            stream_error_on_invalid_http_message: None,
            keepalive: None,
        }
    );
    let (json, options) = http2_options();
    assert_eq!(with_hcm("http2_protocol_options", json).http2, options);
    let http2 = |fields: Value| with_hcm("http2_protocol_options", fields).http2;
    assert_eq!(http2(json!({})), Http2Options::default());
    let deprecated = http2(json!({ "stream_error_on_invalid_http_messaging": true }));
    assert_eq!(deprecated.stream_error_on_invalid_http_message, Some(true));
    let keepalive = http2(json!({ "connection_keepalive": { "timeout": "1s" } })).keepalive;
    assert_eq!(
        keepalive,
        Some(Http2Keepalive {
            interval: None,
            timeout: SECOND,
            interval_jitter_percent: 15.0,
            connection_idle_interval: None,
        })
    );
    let larger = set(&http(), &format!("{HCM}/max_request_headers_kb"), json!(96));
    let pointer = format!("{HCM}/http2_protocol_options/max_header_field_size_kb");
    let larger = loaded(&set(&larger, &pointer, json!(96)));
    assert_eq!(hcm(&larger).http2.max_header_field_bytes, 96 * 1024);
    let ignored = json!({ "use_oghttp2_codec": true, "disallow_obs_text": false });
    let ignored = with(&format!("{HCM}/http2_protocol_options"), ignored);
    let ignored: Vec<String> = ignored.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        ignored,
        [
            format!(
                "Listener web: {HCM_PATH}.http2_protocol_options.use_oghttp2_codec: ignored: there \
                 is one codec"
            ),
            format!(
                "Listener web: {HCM_PATH}.http2_protocol_options.disallow_obs_text: ignored: it is \
                 what we do"
            ),
        ]
    );
}

/// The filters that are not disabled.
fn acting(hcm: &HttpConnectionManager) -> impl Iterator<Item = &HttpFilterKind> {
    hcm.filters.iter().filter(|filter| !filter.disabled).filter_map(HttpFilter::inline)
}

/// Whether gRPC-Web is translated, and what is counted of gRPC.
fn grpc(hcm: &HttpConnectionManager) -> (bool, Option<GrpcStats>) {
    let stats = acting(hcm).find_map(|kind| match kind {
        HttpFilterKind::GrpcStats(stats) => Some(GrpcStats::clone(stats)),
        _ => None,
    });
    (acting(hcm).any(|kind| matches!(kind, HttpFilterKind::GrpcWeb)), stats)
}

#[test]
fn section_19_grpc_filters() {
    let filters = |filters: &[Value]| {
        let router = json!({ "name": "router",
            "typed_config": any("envoy.extensions.filters.http.router.v3.Router") });
        let filters: Vec<Value> = filters.iter().cloned().chain([router]).collect();
        set(&http(), &format!("{HCM}/http_filters"), json!(filters))
    };
    let web = json!({ "name": "web",
        "typed_config": any("envoy.extensions.filters.http.grpc_web.v3.GrpcWeb") });
    let stats = |fields: Value| {
        let kind = "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig";
        json!({ "name": "stats", "typed_config": any_with(kind, fields) })
    };
    let off = |filter: &Value| set(filter, "/disabled", json!(true));
    let hcm = |list: &[Value]| hcm(&loaded(&filters(list))).clone();
    assert_eq!(grpc(&hcm(&[])), (false, None));
    let plain = GrpcStats {
        methods: GrpcMethods::None,
        count_messages: true,
        upstream_time: false,
        replace_dots_in_service_name: false,
    };
    let both = hcm(&[web.clone(), stats(json!({}))]);
    assert_eq!(grpc(&both), (true, Some(plain.clone())));
    let none = hcm(&[off(&stats(json!({}))), off(&web)]);
    assert_eq!(grpc(&none), (false, None));
    let all = json!({ "stats_for_all_methods": true, "enable_upstream_stats": true,
        "replace_dots_in_grpc_service_name": true });
    assert_eq!(
        grpc(&hcm(&[stats(all)])).1,
        Some(GrpcStats {
            methods: GrpcMethods::All,
            upstream_time: true,
            replace_dots_in_service_name: true,
            ..plain.clone()
        })
    );
    let allow = |services: Value| {
        stats(json!({ "individual_method_stats_allowlist": { "services": services } }))
    };
    assert_eq!(
        grpc(&hcm(&[allow(json!([{ "name": "a.B", "method_names": ["C", "D"] }]))])).1,
        Some(GrpcStats {
            methods: GrpcMethods::Listed(vec![("a.B".into(), vec!["C".into(), "D".into()])]),
            ..plain
        })
    );
    let at = format!("Listener web: {HCM_PATH}.http_filters");
    for (list, expected) in [
        (vec![web.clone(), web.clone()], "[1]: is there twice"),
        (vec![stats(json!({})), stats(json!({}))], "[1]: is there twice"),
        (vec![stats(json!({})), web], "[1]: must stand before grpc_stats"),
        (
            vec![allow(json!([{ "name": "a.B" }]))],
            "[0].typed_config(FilterConfig).individual_method_stats_allowlist.services[0]\
             .method_names: is required",
        ),
    ] {
        assert_eq!(refusal(&filters(&list)), format!("{at}{expected}"));
    }
}

#[test]
fn the_soap_filter() {
    let filters = |filters: &[Value]| {
        let router = json!({ "name": "router",
            "typed_config": any("envoy.extensions.filters.http.router.v3.Router") });
        let filters: Vec<Value> = filters.iter().cloned().chain([router]).collect();
        set(&http(), &format!("{HCM}/http_filters"), json!(filters))
    };
    let soap = |fields: Value| {
        json!({ "name": "soap",
            "typed_config": any_with("outrigger.filters.http.soap.v1.Soap", fields) })
    };
    let found = |list: &[Value]| {
        let loaded = loaded(&filters(list));
        acting(hcm(&loaded)).find_map(|kind| match kind {
            HttpFilterKind::Soap(soap) => Some(*soap),
            _ => None,
        })
    };
    assert_eq!(found(&[]), None);
    assert_eq!(found(&[set(&soap(json!({})), "/disabled", json!(true))]), None);
    assert_eq!(found(&[soap(json!({}))]), Some(Soap { inspection: None }));
    assert_eq!(
        found(&[soap(json!({ "match_body": true }))]),
        Some(Soap {
            inspection: Some(SoapInspection {
                bytes_max: 16 * 1024,
                timeout: Duration::from_secs(1),
            }),
        })
    );
    let given =
        json!({ "match_body": true, "max_inspect_bytes": 1 << 20, "inspect_timeout": "0.25s" });
    assert_eq!(
        found(&[soap(given)]),
        Some(Soap {
            inspection: Some(SoapInspection {
                bytes_max: 1 << 20,
                timeout: Duration::from_millis(250),
            }),
        })
    );
    let at = format!("Listener web: {HCM_PATH}.http_filters");
    for (list, expected) in [
        (vec![soap(json!({})), soap(json!({}))], "[1]: is there twice"),
        (
            vec![soap(json!({ "max_inspect_bytes": 0 }))],
            "[0].typed_config(Soap).max_inspect_bytes: must be at least 1",
        ),
        (
            vec![soap(json!({ "max_inspect_bytes": (1 << 20) + 1 }))],
            "[0].typed_config(Soap).max_inspect_bytes: must be at most 1048576",
        ),
        (
            vec![soap(json!({ "inspect_timeout": "0s" }))],
            "[0].typed_config(Soap).inspect_timeout: must be above zero",
        ),
    ] {
        assert_eq!(refusal(&filters(&list)), format!("{at}{expected}"));
    }
}

#[test]
fn section_6_header_edits_of_all_levels_apply_from_the_most_specific_outwards() {
    let edits = |name: &str| json!([{ "header": { "key": "x-level", "value": name }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" }]);
    let mut bootstrap = http();
    let weighted = json!({ "clusters": [{
        "name": "app", "weight": 1,
        "request_headers_to_remove": ["X-Gone"], "request_headers_to_add": edits("weight"),
    }]});
    bootstrap = set(&bootstrap, ACTION, json!({ "weighted_clusters": weighted }));
    bootstrap = set(&bootstrap, &format!("{ROUTE}/request_headers_to_add"), edits("route"));
    bootstrap = set(&bootstrap, &format!("{HOST}/request_headers_to_add"), edits("host"));
    bootstrap = set(&bootstrap, &format!("{HOST}/request_headers_to_remove"), json!(["x-host"]));
    bootstrap = set(&bootstrap, &format!("{TABLE}/request_headers_to_add"), edits("table"));
    let show = |edits: &HeaderEdits| -> Vec<String> {
        let show = |op: &HeaderOp| match op {
            HeaderOp::Remove(name) => format!("-{name}"),
            HeaderOp::Set { value, .. } => value.as_literal().unwrap().to_owned(),
        };
        edits.ops.iter().map(show).collect()
    };
    let edits_of = |bootstrap: &Value| {
        let loaded = loaded(bootstrap);
        let Target::Weighted(weighted) = &forward(&loaded).target else { panic!() };
        (show(&weighted.all()[0].request_headers), show(&route(&loaded).request_headers))
    };
    let (whole, without_weight) = edits_of(&bootstrap);
    assert_eq!(whole, ["-x-gone", "weight", "route", "-x-host", "host", "table"]);
    assert_eq!(without_weight, ["route", "-x-host", "host", "table"]);
    let pointer = format!("{TABLE}/most_specific_header_mutations_wins");
    let (whole, _) = edits_of(&set(&bootstrap, &pointer, json!(true)));
    assert_eq!(whole, ["-x-gone", "weight", "table", "-x-host", "host", "route"]);
}

#[test]
fn section_6_header_value_options() {
    let op = |option: Value| {
        let loaded = with(&format!("{ROUTE}/response_headers_to_add"), json!([option]));
        route(&loaded).response_headers.ops[0].clone()
    };
    let action = |option: Value| match op(option) {
        HeaderOp::Set { action, .. } => action,
        HeaderOp::Remove(_) => panic!(),
    };
    let header = json!({ "key": "X-A", "value": "b" });
    assert_eq!(action(json!({ "header": header })), AppendAction::AppendIfExistsOrAdd);
    assert_eq!(
        action(json!({ "header": header, "append": true })),
        AppendAction::AppendIfExistsOrAdd
    );
    assert_eq!(
        action(json!({ "header": header, "append": false })),
        AppendAction::OverwriteIfExistsOrAdd
    );
    for (name, expected) in [
        ("ADD_IF_ABSENT", AppendAction::AddIfAbsent),
        ("OVERWRITE_IF_EXISTS", AppendAction::OverwriteIfExists),
        ("OVERWRITE_IF_EXISTS_OR_ADD", AppendAction::OverwriteIfExistsOrAdd),
    ] {
        assert_eq!(action(json!({ "header": header, "append_action": name })), expected);
    }
    let value = json!({ "key": "x", "value": "a%%-%PROTOCOL%-%REQ(X-B)%" });
    let HeaderOp::Set { name, value, keep_empty_value, .. } =
        op(json!({ "header": value, "keep_empty_value": true }))
    else {
        panic!()
    };
    assert_eq!((name.as_str(), keep_empty_value), ("x", true));
    assert_eq!(value.ops[0], Op::Literal("a%-".into()));
    assert_eq!(value.ops[1], Op::Protocol);
}

#[test]
fn section_6_table_and_host_fields() {
    let loaded = with(&format!("{HOST}/include_request_attempt_count"), json!(true));
    assert!(route(&loaded).include_request_attempt_count);
    let loaded = with(&format!("{HOST}/include_attempt_count_in_response"), json!(true));
    assert!(route(&loaded).include_attempt_count_in_response);
    assert_eq!((table(hcm(&loaded)).name(), &*route(&loaded).virtual_host), ("r", "all"));
    let hosts: Vec<_> = table(hcm(&loaded)).virtual_hosts().collect();
    assert_eq!((&**hosts[0].0, &*hosts[0].1[0]), ("all", "*"));

    let absent = set(&http(), ACTION, json!({ "cluster": "nowhere" }));
    assert!(refusal(&absent).ends_with("routes[0].route.cluster: there is no cluster \"nowhere\""));
    let lenient = loaded_without_validation(&absent);
    assert!(
        matches!(&forward(&lenient).target, Target::Cluster(cluster) if lenient.snapshot.clusters.get(cluster.id()).is_none())
    );

    let body = |limit: Value, length: usize| {
        let answer = json!({
            "match": { "prefix": "/" },
            "direct_response": { "status": 200, "body": { "inline_string": "x".repeat(length) } },
        });
        let bootstrap = set(&http(), ROUTE, answer);
        set(&bootstrap, &format!("{TABLE}/max_direct_response_body_size_bytes"), limit)
    };
    self::loaded(&body(json!(null), 4096));
    assert!(
        refusal(&body(json!(null), 4097))
            .ends_with("body.inline_string: is longer than 4096 bytes")
    );
    self::loaded(&body(json!(5000), 5000));
}

fn loaded_without_validation(bootstrap: &Value) -> outrigger_xds::bootstrap::Loaded {
    loaded(&set(bootstrap, &format!("{TABLE}/validate_clusters"), json!(false)))
}

#[test]
fn section_8_route_action() {
    let plain = with_action(json!({ "cluster": "app" }));
    assert!(matches!(&plain.target, Target::Cluster(cluster) if cluster.id() == ClusterId(0)));
    assert_eq!((plain.timeout, plain.idle_timeout), (Some(15 * SECOND), None));
    assert_eq!((plain.cluster_not_found_status, plain.max_stream_duration), (503, None));
    assert!(plain.path_rewrite.is_none() && plain.host_rewrite.is_none());

    let with = |mut fields: Value| {
        fields["cluster"] = json!("app");
        with_action(fields)
    };
    let header = with_action(json!({ "cluster_header": "X-Cluster" })).target;
    assert!(matches!(header, Target::Header(name) if name.as_str() == "x-cluster"));
    assert_eq!(with(json!({ "timeout": "0s" })).timeout, None);
    assert_eq!(with(json!({ "timeout": "2.5s" })).timeout, Some(SECOND * 5 / 2));
    assert_eq!(with(json!({ "idle_timeout": "0s" })).idle_timeout, Some(None));
    assert_eq!(with(json!({ "idle_timeout": "4s" })).idle_timeout, Some(Some(4 * SECOND)));
    let stream = with(json!({ "max_stream_duration": { "max_stream_duration": "4s" } }));
    assert_eq!(stream.max_stream_duration, Some(Some(4 * SECOND)));
    let grpc = |fields: Value| with(fields).grpc_timeout;
    assert_eq!(plain.grpc_timeout, GrpcTimeout::Ignored);
    let stream = |fields: Value| grpc(json!({ "max_stream_duration": fields }));
    assert_eq!(
        stream(json!({ "grpc_timeout_header_max": "0s", "grpc_timeout_header_offset": "1s" })),
        GrpcTimeout::Stream { max: None, offset: SECOND }
    );
    assert_eq!(
        stream(json!({ "grpc_timeout_header_max": "3s" })),
        GrpcTimeout::Stream { max: Some(3 * SECOND), offset: Duration::ZERO }
    );
    assert_eq!(stream(json!({ "max_stream_duration": "3s" })), GrpcTimeout::Ignored);
    assert_eq!(
        grpc(json!({ "max_grpc_timeout": "3s", "grpc_timeout_offset": "1s" })),
        GrpcTimeout::Route { max: Some(3 * SECOND), offset: SECOND }
    );
    assert_eq!(
        grpc(json!({ "max_grpc_timeout": "0s" })),
        GrpcTimeout::Route { max: None, offset: Duration::ZERO }
    );
    let both = json!({ "max_grpc_timeout": "3s", "max_stream_duration": {} });
    assert_eq!(grpc(both), GrpcTimeout::Ignored);
    for (name, status) in [("NOT_FOUND", 404), ("INTERNAL_SERVER_ERROR", 500)] {
        assert_eq!(
            with(json!({ "cluster_not_found_response_code": name })).cluster_not_found_status,
            status
        );
    }
    let rewrite = with(json!({ "prefix_rewrite": "/p" })).path_rewrite;
    assert!(matches!(rewrite, Some(PathRewrite::Prefix(text)) if &*text == "/p"));
    let regex = json!({ "pattern": { "regex": "/a/(.*)" }, "substitution": "/b/\\1\\\\" });
    let Some(PathRewrite::Regex(rewrite)) = with(json!({ "regex_rewrite": regex })).path_rewrite
    else {
        panic!()
    };
    let mut path = Vec::new();
    rewrite.rewrite_into(b"/a/x", &mut path);
    assert_eq!(path, b"/b/x\\");
    let rewrite = with(json!({ "path_rewrite": "/%REQ(x)%" })).path_rewrite;
    assert!(matches!(rewrite, Some(PathRewrite::Template(template)) if template.ops.len() == 2));

    let host = |fields: Value| with(fields).host_rewrite;
    assert!(
        matches!(host(json!({ "host_rewrite_literal": "h" })), Some(HostRewrite::Literal(h)) if &*h == "h")
    );
    assert!(matches!(host(json!({ "auto_host_rewrite": true })), Some(HostRewrite::Auto)));
    assert!(host(json!({ "auto_host_rewrite": false })).is_none());
    assert!(
        matches!(host(json!({ "host_rewrite_header": "X-H" })), Some(HostRewrite::Header(h)) if h.as_str() == "x-h")
    );
    let regex = json!({ "pattern": { "regex": "^/(.+)/.+$" }, "substitution": "\\1" });
    assert!(matches!(
        host(json!({ "host_rewrite_path_regex": regex })),
        Some(HostRewrite::PathRegex(_))
    ));
    assert!(matches!(
        host(json!({ "host_rewrite": "a-%REQ(b)%" })),
        Some(HostRewrite::Template(_))
    ));
    assert!(with(json!({ "append_x_forwarded_host": true })).append_x_forwarded_host);
    let upgrades = json!([{ "upgrade_type": "CONNECT", "connect_config": {} }]);
    let connect = with(json!({ "upgrade_configs": upgrades }));
    assert!(connect.terminate_connect && connect.upgrades.allows(b"CONNECT") == Some(true));
    let route = self::with(&format!("{ROUTE}/stat_prefix"), json!("s"));
    assert_eq!(common::route(&route).stat_prefix.as_deref(), Some("s"));
}

#[test]
fn section_8_weighted_clusters() {
    let base = set(&http(), "/static_resources/clusters/-", cluster("b"));
    let weighted = |fields: Value| set(&base, ACTION, json!({ "weighted_clusters": fields }));
    let loaded = loaded(&weighted(json!({
        "clusters": [
            { "name": "app", "weight": 2, "host_rewrite_literal": "h" },
            { "cluster_header": "x-c", "weight": 3 },
        ],
        "total_weight": 5,
        "header_name": "X-Random",
    })));
    let Target::Weighted(clusters) = &forward(&loaded).target else { panic!() };
    assert_eq!(clusters.random_header.as_ref().unwrap().as_str(), "x-random");
    assert_eq!(clusters.all()[0].host_rewrite.as_deref(), Some("h"));
    assert_eq!(clusters.all()[1].target.as_ref().unwrap_err().as_str(), "x-c");
    let entries = json!([{ "name": "app", "weight": 2 }, { "name": "b", "weight": 3 }]);
    let wrong = weighted(json!({ "clusters": entries, "total_weight": 100 }));
    assert!(refusal(&wrong).ends_with("weighted_clusters.total_weight: the weights add up to 5"));
    let runtime = weighted(json!({ "clusters": entries, "runtime_key_prefix": "w" }));
    let layers = json!([{ "name": "s", "static_layer": { "w": { "b": 0 } } }]);
    let loaded = self::loaded(&set(&runtime, "/layered_runtime/layers", layers));
    let Target::Weighted(clusters) = &forward(&loaded).target else { panic!() };
    assert_eq!(clusters.all()[1].weight, 0);
}

#[test]
fn section_8_redirect_and_direct_response() {
    let action = |value: Value| {
        let mut route = value;
        route["match"] = json!({ "prefix": "/" });
        common::route(&with(ROUTE, route)).action.clone()
    };
    let redirect = |fields: Value| match action(json!({ "redirect": fields })) {
        RouteAction::Redirect(redirect) => *redirect,
        other => panic!("{other:?}"),
    };
    let plain = redirect(json!({ "https_redirect": true }));
    assert_eq!(
        (plain.status, plain.scheme.as_deref(), plain.strip_query),
        (301, Some("https"), false)
    );
    assert!(plain.host.is_none() && plain.port.is_none() && plain.path.is_none());
    let full = redirect(json!({
        "scheme_redirect": "http", "host_redirect": "h", "port_redirect": 81, "path_redirect": "/p?q",
        "response_code": "PERMANENT_REDIRECT", "strip_query": true,
    }));
    assert_eq!((full.status, full.scheme.as_deref(), full.port), (308, Some("http"), Some(81)));
    assert_eq!((full.host.as_deref(), full.strip_query), (Some("h"), true));
    assert!(matches!(full.path, Some(RedirectPath::Whole(path)) if &*path == "/p?q"));
    let prefix = redirect(json!({ "prefix_rewrite": "/n" })).path;
    assert!(matches!(prefix, Some(RedirectPath::Prefix(path)) if &*path == "/n"));
    let regex = json!({ "pattern": { "regex": "a" }, "substitution": "b" });
    assert!(matches!(
        redirect(json!({ "regex_rewrite": regex })).path,
        Some(RedirectPath::Regex(_))
    ));
    for (name, status) in [("FOUND", 302), ("SEE_OTHER", 303), ("TEMPORARY_REDIRECT", 307)] {
        assert_eq!(redirect(json!({ "response_code": name })).status, status);
    }

    let direct = |fields: Value| match action(json!({ "direct_response": fields })) {
        RouteAction::DirectResponse(direct) => *direct,
        other => panic!("{other:?}"),
    };
    assert_eq!(direct(json!({ "status": 204 })), DirectResponse { status: 204, body: "".into() });
    assert_eq!(direct(json!({ "status": 200, "body": { "inline_string": "ok" } })).body, "ok");
    assert_eq!(direct(json!({ "status": 200, "body": { "inline_bytes": "b2s=" } })).body, "ok");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let from_file = direct(json!({ "status": 599, "body": { "filename": manifest } }));
    assert_eq!(from_file.body, std::fs::read(manifest).unwrap());
    let from_environment =
        json!({ "status": 200, "body": { "environment_variable": "CARGO_PKG_NAME" } });
    assert_eq!(direct(from_environment).body, "outrigger-xds");
    assert!(matches!(action(json!({ "non_forwarding_action": {} })), RouteAction::NonForwarding));
}

#[test]
fn section_10_cluster_defaults() {
    let loaded = loaded(&http());
    let cluster = first_cluster(&loaded);
    assert_eq!((&*cluster.name, &*cluster.stat_name), ("app", "app"));
    assert_eq!(
        (&cluster.discovery, cluster.load_balancer),
        (&Discovery::Static, LoadBalancer::RoundRobin)
    );
    assert_eq!(
        (cluster.connect_timeout, cluster.per_connection_buffer_limit_bytes),
        (5 * SECOND, 1 << 20)
    );
    assert!(cluster.wait_for_warm_on_init && cluster.tcp_keepalive.is_none());
    assert_eq!(
        cluster.circuit_breakers,
        CircuitBreakers {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
        }
    );
    assert_eq!(
        cluster.http,
        ClusterHttp {
            protocol: UpstreamProtocol::Http1,
            http2: Http2Options::default(),
            max_stream_duration: None,
            idle_timeout: Some(3600 * SECOND),
            max_connection_duration: None,
            max_requests_per_connection: None,
            max_response_headers_bytes: 80 * 1024,
            max_headers_count: 100,
            enable_trailers: false,
            header_case: HeaderCase::Lower,
        }
    );
    assert_eq!(loaded.snapshot.clusters.id("app"), Some(ClusterId(0)));
    assert_eq!(loaded.snapshot.clusters.id("none"), None);
}

#[test]
fn section_10_cluster_fields() {
    assert_eq!(&*with_cluster("alt_stat_name", json!("s")).stat_name, "s");
    assert_eq!(with_cluster("connect_timeout", json!("0.25s")).connect_timeout, SECOND / 4);
    let limit = with_cluster("per_connection_buffer_limit_bytes", json!(9))
        .per_connection_buffer_limit_bytes;
    assert_eq!(limit, 9);
    assert!(!with_cluster("wait_for_warm_on_init", json!(false)).wait_for_warm_on_init);
    let keepalive = json!({ "tcp_keepalive": { "keepalive_interval": 3 } });
    let keepalive = with_cluster("upstream_connection_options", keepalive).tcp_keepalive;
    assert_eq!(keepalive.unwrap().interval_s, Some(3));
    let common = json!({
        "healthy_panic_threshold": { "value": 0 }, "zone_aware_lb_config": { "fail_traffic_on_panic": true },
    });
    let panic = with_cluster("common_lb_config", common).panic;
    assert_eq!((panic.threshold_percent, panic.fail_traffic), (0.0, true));
    let breakers = json!({ "thresholds": [
        { "max_connections": 1, "max_pending_requests": 2, "max_requests": 3, "max_retries": 0 },
    ]});
    let breakers = with_cluster("circuit_breakers", breakers).circuit_breakers;
    assert_eq!((breakers.max_connections, breakers.max_pending_requests), (1, 2));
    assert_eq!((breakers.max_requests, breakers.max_retries), (3, 0));
    let high = json!({ "thresholds": [{ "priority": "HIGH", "max_connections": 1 }] });
    assert_eq!(with_cluster("circuit_breakers", high).circuit_breakers.max_connections, 1024);
}

#[test]
fn section_10_1_load_balancing() {
    let legacy = |policy: &str| with_cluster("lb_policy", json!(policy)).load_balancer;
    assert_eq!(legacy("RANDOM"), LoadBalancer::Random);
    let least = |choice_count, active_request_bias, full_scan| LoadBalancer::LeastRequest {
        choice_count,
        active_request_bias,
        full_scan,
    };
    assert_eq!(legacy("LEAST_REQUEST"), least(2, 1.0, false));
    let config = set(&http(), &format!("{CLUSTER}/lb_policy"), json!("LEAST_REQUEST"));
    let config = set(
        &config,
        &format!("{CLUSTER}/least_request_lb_config"),
        json!({ "choice_count": 4, "active_request_bias": { "default_value": 0.5, "runtime_key": "k" } }),
    );
    assert_eq!(first_cluster(&loaded(&config)).load_balancer, least(4, 0.5, false));

    let policies = |list: &[(&str, Value)]| {
        let list: Vec<Value> = list
            .iter()
            .map(|(kind, fields)| {
                let kind = format!("envoy.extensions.load_balancing_policies.{kind}");
                json!({ "typed_extension_config": { "name": "x", "typed_config": any_with(&kind, fields.clone()) } })
            })
            .collect();
        set(&http(), &format!("{CLUSTER}/load_balancing_policy/policies"), json!(list))
    };
    let balancer = |list: &[(&str, Value)]| first_cluster(&loaded(&policies(list))).load_balancer;
    assert_eq!(balancer(&[("random.v3.Random", json!({}))]), LoadBalancer::Random);
    assert_eq!(balancer(&[("round_robin.v3.RoundRobin", json!({}))]), LoadBalancer::RoundRobin);
    let fields = json!({ "choice_count": 3, "selection_method": "FULL_SCAN" });
    assert_eq!(balancer(&[("least_request.v3.LeastRequest", fields)]), least(3, 1.0, true));
    // The first entry that we have counts.
    let skipping = [("maglev.v3.Maglev", json!({ "x": 1 })), ("random.v3.Random", json!({}))];
    assert_eq!(balancer(&skipping), LoadBalancer::Random);
    assert_eq!(
        refusal(&policies(&[("maglev.v3.Maglev", json!({}))])),
        "Cluster app: load_balancing_policy: none of the policies is supported"
    );
    let slow = json!({ "slow_start_config": { "slow_start_window": "1s" } });
    assert!(
        refusal(&policies(&[("round_robin.v3.RoundRobin", slow)]))
            .ends_with("typed_config(RoundRobin).slow_start_config: not supported")
    );
}

#[test]
fn section_10_http_protocol_options() {
    let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let typed = |fields: Value| {
        let pointer = format!("{CLUSTER}/typed_extension_protocol_options");
        set(&http(), &pointer, json!({ key: any_with(key, fields) }))
    };
    let cluster = loaded(&typed(json!({
        "common_http_protocol_options": {
            "idle_timeout": "30s", "max_connection_duration": "60s", "max_requests_per_connection": 5,
            "max_headers_count": 9, "max_response_headers_kb": 2,
        },
        "explicit_http_config": { "http_protocol_options": {
            "enable_trailers": true, "header_key_format": { "proper_case_words": {} },
        }},
    })));
    assert_eq!(
        first_cluster(&cluster).http,
        ClusterHttp {
            protocol: UpstreamProtocol::Http1,
            http2: Http2Options::default(),
            max_stream_duration: None,
            idle_timeout: Some(30 * SECOND),
            max_connection_duration: Some(60 * SECOND),
            max_requests_per_connection: Some(5),
            max_response_headers_bytes: 2048,
            max_headers_count: 9,
            enable_trailers: true,
            header_case: HeaderCase::ProperCaseWords,
        }
    );
    loaded(&typed(json!({ "use_downstream_protocol_config": { "http_protocol_options": {} } })));
    let at = format!("Cluster app: typed_extension_protocol_options[{key:?}](HttpProtocolOptions)");
    assert_eq!(refusal(&typed(json!({}))), format!("{at}.upstream_protocol_options: is required"));
    assert_eq!(
        refusal(&typed(json!({ "explicit_http_config": {} }))),
        format!("{at}.explicit_http_config.protocol_config: is required")
    );
    let pointer = format!("{CLUSTER}/typed_extension_protocol_options");
    let misplaced =
        json!({ "other": any_with(key, json!({ "use_downstream_protocol_config": {} })) });
    assert!(refusal(&set(&http(), &pointer, misplaced)).contains("the key of these options is"));

    let protocol = |fields: Value| {
        let http = first_cluster(&loaded(&typed(fields))).http.clone();
        (http.protocol, http.http2)
    };
    let default = Http2Options::default();
    let (options, expected) = http2_options();
    assert_eq!(
        protocol(json!({ "explicit_http_config": { "http2_protocol_options": options } })),
        (UpstreamProtocol::Http2, expected.clone())
    );
    assert_eq!(
        protocol(
            json!({ "use_downstream_protocol_config": { "http2_protocol_options": options } })
        ),
        (UpstreamProtocol::Downstream, expected.clone())
    );
    assert_eq!(
        protocol(json!({ "use_downstream_protocol_config": {} })),
        (UpstreamProtocol::Downstream, default)
    );
    assert_eq!(
        refusal(&typed(json!({ "auto_config": {} }))),
        "Cluster app: typed_extension_protocol_options: auto_config chooses by ALPN, and the \
         transport socket has none"
    );

    // The deprecated forms, and not both.
    let old = with_cluster("http2_protocol_options", options).http;
    assert_eq!((old.protocol, old.http2), (UpstreamProtocol::Http2, expected));
    let old = with_cluster("protocol_selection", json!("USE_DOWNSTREAM_PROTOCOL")).http;
    assert_eq!(old.protocol, UpstreamProtocol::Downstream);
    let old = with_cluster("common_http_protocol_options", json!({ "idle_timeout": "0s" })).http;
    assert_eq!(old.idle_timeout, None);
    assert!(
        with_cluster("http_protocol_options", json!({ "enable_trailers": true }))
            .http
            .enable_trailers
    );
    assert_eq!(
        with_cluster("max_requests_per_connection", json!(3)).http.max_requests_per_connection,
        Some(3)
    );
    let both = set(
        &typed(json!({ "use_downstream_protocol_config": {} })),
        &format!("{CLUSTER}/max_requests_per_connection"),
        json!(3),
    );
    assert!(
        refusal(&both).starts_with("Cluster app: max_requests_per_connection: set together with")
    );
    let stream = json!({ "max_stream_duration": "4s" });
    let stream = with_cluster("common_http_protocol_options", stream).http;
    assert_eq!(stream.max_stream_duration, Some(4 * SECOND));
    let jitter = json!({ "max_connection_duration_jitter": { "value": 1 } });
    assert_eq!(
        refusal(&set(&http(), &format!("{CLUSTER}/common_http_protocol_options"), jitter)),
        "Cluster app: common_http_protocol_options.max_connection_duration_jitter: not supported"
    );
}

#[test]
fn section_10_dns() {
    let dns = |kind: &str, fields: Value| {
        let mut cluster = cluster("app");
        cluster["type"] = json!(kind);
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
            ["address"] = json!("app.local");
        cluster.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        set(&http(), CLUSTER, cluster)
    };
    let loaded = loaded(&dns("STRICT_DNS", json!({})));
    assert!(endpoints(&loaded).all().is_empty());
    let Discovery::StrictDns(config) = &first_cluster(&loaded).discovery else { panic!() };
    assert_eq!((&*config.targets[0].host, config.targets[0].port), ("app.local", 9000));
    assert_eq!(&*config.targets[0].template.hostname, "app.local");
    assert_eq!((config.refresh_rate, config.failure_refresh_rate), (5 * SECOND, None));
    assert_eq!(
        (config.jitter, config.respect_ttl, config.family),
        (Duration::ZERO, false, DnsFamily::Auto)
    );
    let fields = json!({
        "dns_refresh_rate": "1s", "dns_jitter": "0.1s", "respect_dns_ttl": true, "dns_lookup_family": "V4_ONLY",
        "dns_failure_refresh_rate": { "base_interval": "2s", "max_interval": "9s" },
    });
    let loaded = self::loaded(&dns("LOGICAL_DNS", fields));
    let Discovery::LogicalDns(config) = &first_cluster(&loaded).discovery else { panic!() };
    assert_eq!((config.refresh_rate, config.jitter), (SECOND, SECOND / 10));
    assert_eq!(config.failure_refresh_rate, Some((2 * SECOND, 9 * SECOND)));
    assert_eq!((config.respect_ttl, config.family), (true, DnsFamily::V4Only));
    assert_eq!(
        refusal(&dns("STATIC", json!({}))),
        "Cluster app: load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address\
         .address: \"app.local\" is not an IP address"
    );
    let two = set(
        &dns("LOGICAL_DNS", json!({})),
        &format!("{CLUSTER}/load_assignment/endpoints/-"),
        json!({ "lb_endpoints": [{ "endpoint": { "address": {
            "socket_address": { "address": "b", "port_value": 1 } } } }] }),
    );
    assert_eq!(
        refusal(&two),
        "Cluster app: load_assignment: a LOGICAL_DNS cluster has exactly one endpoint"
    );

    // An answer is a new snapshot that shares everything else.
    let endpoint = Endpoint {
        address: Address::Ip("10.0.0.1:9000".parse().unwrap()),
        ..config.targets[0].template.clone()
    };
    let snapshot = loaded.snapshot.with_endpoints(ClusterId(0), vec![endpoint]);
    assert_eq!(snapshot.clusters.endpoints(ClusterId(0)).unwrap().all().len(), 1);
    assert!(endpoints(&loaded).all().is_empty());
    assert!(std::sync::Arc::ptr_eq(&snapshot.listeners[0], &loaded.snapshot.listeners[0]));
    let cluster = |snapshot: &Snapshot| snapshot.clusters.get(ClusterId(0)).unwrap().clone();
    assert!(std::sync::Arc::ptr_eq(&cluster(&snapshot), &cluster(&loaded.snapshot)));
    assert_eq!(snapshot.with_endpoints(ClusterId(9), Vec::new()).clusters.len(), 1);
}

#[test]
fn section_11_endpoints() {
    let member = |address: Value, fields: Value| {
        let mut member = json!({ "endpoint": { "address": address, "hostname": "h" } });
        member.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        member
    };
    let socket =
        |port: u16| json!({ "socket_address": { "address": "10.0.0.1", "port_value": port } });
    let members = json!([
        member(socket(1), json!({ "load_balancing_weight": 3 })),
        member(json!({ "pipe": { "path": "/s" } }), json!({ "health_status": "UNHEALTHY" })),
        member(socket(3), json!({ "health_status": "DEGRADED" })),
        member(socket(4), json!({ "health_status": "DRAINING" })),
    ]);
    let bootstrap =
        set(&http(), &format!("{CLUSTER}/load_assignment/endpoints/0/lb_endpoints"), members);
    let loaded = loaded(&bootstrap);
    let set = endpoints(&loaded);
    assert_eq!(set.all().len(), 4);
    assert_eq!((set.all()[0].weight, &*set.all()[0].hostname), (3, "h"));
    assert_eq!(set.all()[1].address.to_string(), "/s");
    assert_eq!((set.healthy(), set.degraded()), (1, 1));
}

#[test]
fn section_15_access_log_sinks() {
    let logs = |config: Value| {
        with_hcm("access_log", json!([{ "name": "l", "typed_config": config }])).access_log
    };
    let file =
        |fields: Value| any_with("envoy.extensions.access_loggers.file.v3.FileAccessLog", fields);
    let plain = logs(file(json!({ "path": "/var/log/a" })));
    assert_eq!(plain[0].sink, Sink::File(std::path::Path::new("/var/log/a").into()));
    let Body::Text(template) = &plain[0].format.body else { panic!() };
    assert_eq!(template.ops.len(), 31);
    assert_eq!(
        plain[0].format.request_headers(),
        [
            ":authority",
            ":method",
            ":path",
            "user-agent",
            "x-envoy-original-path",
            "x-forwarded-for",
            "x-request-id"
        ]
    );
    assert_eq!(plain[0].format.response_headers(), ["x-envoy-upstream-service-time"]);
    for (kind, sink) in [("Stdout", Sink::Stdout), ("Stderr", Sink::Stderr)] {
        let kind = format!("envoy.extensions.access_loggers.stream.v3.{kind}AccessLog");
        assert_eq!(logs(any(&kind))[0].sink, sink);
    }
    let format = |fields: Value| logs(file(fields))[0].format.clone();
    for fields in [
        json!({ "path": "/p", "format": "%PROTOCOL%\n" }),
        json!({ "path": "/p", "log_format": { "text_format": "%PROTOCOL%\n" } }),
        json!({ "path": "/p", "log_format": { "text_format_source": { "inline_string": "%PROTOCOL%\n" } } }),
    ] {
        let Body::Text(template) = format(fields).body else { panic!() };
        assert_eq!(*template.ops, [Op::Protocol, Op::Literal("\n".into())]);
    }
    let typed = json!({ "a": "%RESPONSE_CODE%", "b": ["x", "%PROTOCOL%/", 2, true, null] });
    let node = |fields: Value| match format(fields).body {
        Body::Json(node) => node,
        Body::Text(_) => panic!(),
    };
    let expected = |code| {
        JsonNode::Object(Box::new([
            ("\"a\"".into(), code),
            (
                "\"b\"".into(),
                JsonNode::List(Box::new([
                    JsonNode::Literal("\"x\"".into()),
                    JsonNode::Text(Template {
                        ops: Box::new([Op::Protocol, Op::Literal("/".into())]),
                    }),
                    JsonNode::Literal("2".into()),
                    JsonNode::Literal("true".into()),
                    JsonNode::Literal("null".into()),
                ])),
            ),
        ]))
    };
    let value = JsonNode::Value(Op::ResponseCode);
    assert_eq!(node(json!({ "path": "/p", "typed_json_format": typed })), expected(value.clone()));
    assert_eq!(
        node(json!({ "path": "/p", "log_format": { "json_format": typed } })),
        expected(value)
    );
    let text = JsonNode::Text(Template { ops: Box::new([Op::ResponseCode]) });
    assert_eq!(node(json!({ "path": "/p", "json_format": typed })), expected(text));
    let omit = json!({ "path": "/p", "log_format": {
        "json_format": typed, "omit_empty_values": true, "json_format_options": { "sort_properties": true },
    }});
    assert!(format(omit).omit_empty_values);
    let formatter = any("envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery");
    let formatter = json!({ "path": "/p", "log_format": {
        "text_format": "%REQ_WITHOUT_QUERY(:PATH)%", "formatters": [{ "name": "f", "typed_config": formatter }],
    }});
    assert_eq!(format(formatter).request_headers(), [":path"]);
}

#[test]
fn an_operators_front_proxy_loads() {
    let loaded =
        load_yaml(include_str!("data/front-proxy.yaml")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((loaded.snapshot.listeners.len(), loaded.snapshot.clusters.len()), (1, 2));
    assert_eq!(loaded.warnings, []);
    let routes = table(hcm(&loaded));
    assert_eq!(routes.routes().len(), 7);
    assert_eq!(
        routes.routes()[0].matcher.fraction.as_ref().map(RuntimeFraction::get),
        Some(Fraction { numerator: 10, denominator: 100 })
    );
    let loaded =
        load_yaml(include_str!("data/everything.yaml")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.warnings.len(), 2);
}

#[test]
fn files_are_read_by_their_ending_and_named_in_errors() {
    let directory = std::env::temp_dir().join(format!("outrigger-xds-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let read = |path: &std::path::Path| {
        Source::file(path).and_then(|source| load(&source, &LoadOptions::default()))
    };
    read(&write("a.json", http().to_string().as_bytes())).unwrap();
    read(&write("a.yaml", b"node: { id: \"x\" }\n")).unwrap();
    // Tabs and escapes of JSON that YAML reads otherwise.
    let escaped = read(&write("b.json", br#"{	"node": { "id": "\ud83d\ude00\/" } }"#)).unwrap();
    assert_eq!(escaped.node.id, "\u{1f600}/");
    let broken = write("c.json", b"{\n \"node\": }");
    let expected = format!("{}:2:10: expected value", broken.display());
    assert_eq!(read(&broken).unwrap_err().to_string(), expected);
    let text = read(&directory.join("none.yaml")).unwrap_err().to_string();
    assert!(text.contains("none.yaml: No such file or directory"), "{text}");
    let text = read(&write("d.yaml", &[0xff, 0xfe, 0xfd])).unwrap_err().to_string();
    assert!(text.contains("d.yaml: stream did not contain valid UTF-8"), "{text}");
    std::fs::remove_dir_all(&directory).unwrap();
}
