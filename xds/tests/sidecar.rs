//! What a sidecar's configuration holds below HTTP: listeners that others capture for, clusters that
//! go where the client meant, transports by endpoint, Istio's network filters (xds.md B8 to B11).

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "JSON is written where it is passed")]

mod common;

use std::time::Duration;

use common::*;
use outrigger_xds::snapshot::*;
use serde_json::{Value, json};

const ORIGINAL_DST: &str = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
const ORIGINAL_SRC: &str = "envoy.extensions.filters.listener.original_src.v3.OriginalSrc";
const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const PROXY_PROTOCOL: &str = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
const METADATA_EXCHANGE: &str = "envoy.tcp.metadataexchange.config.MetadataExchange";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const UPSTREAM_TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const DOWNSTREAM_TLS: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const RAW: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

fn filter(kind: &str, fields: Value) -> Value {
    json!({ "name": "f", "typed_config": any_with(kind, fields) })
}

/// The same in the form in which Istio sends types of its own.
fn typed_struct(package: &str, kind: &str, value: Value) -> Value {
    let kind = format!("type.googleapis.com/{kind}");
    let typed = any_with(package, json!({ "type_url": kind, "value": value }));
    json!({ "name": "istio.metadata_exchange", "typed_config": typed })
}

fn warnings(bootstrap: &Value) -> Vec<String> {
    loaded(bootstrap).warnings.iter().map(ToString::to_string).collect()
}

fn replaced(cluster: Value) -> Value {
    set(&http(), CLUSTER, cluster)
}

/// The PassthroughCluster that Istio sends.
fn passthrough() -> Value {
    let limits = json!({ "max_connections": u32::MAX, "max_pending_requests": u32::MAX,
        "max_requests": u32::MAX, "max_retries": u32::MAX, "track_remaining": true });
    let exchange = json!({ "protocol": "istio-peer-exchange", "enable_discovery": true });
    json!({
        "name": "app",
        "type": "ORIGINAL_DST",
        "connect_timeout": "10s",
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": { "thresholds": [limits] },
        "typed_extension_protocol_options": { HTTP_OPTIONS: any_with(HTTP_OPTIONS, json!({
            "common_http_protocol_options": { "idle_timeout": "300s" },
            "use_downstream_protocol_config": {
                "http_protocol_options": {}, "http2_protocol_options": {} },
        })) },
        "filters": [typed_struct("udpa.type.v1.TypedStruct", METADATA_EXCHANGE, exchange)],
    })
}

#[test]
fn l_01_and_l_02_the_fields_of_capturing_and_captured_listeners() {
    let bootstrap = set(&http(), &format!("{LISTENER}/use_original_dst"), json!(true));
    let bootstrap = set(&bootstrap, &format!("{LISTENER}/transparent"), json!(true));
    let mut captured = bootstrap["static_resources"]["listeners"][0].clone();
    captured["name"] = json!("0.0.0.0_80");
    captured["address"]["socket_address"] = json!({ "address": "0.0.0.0", "port_value": 80 });
    captured["use_original_dst"] = json!(false);
    captured["bind_to_port"] = json!(false);
    let bootstrap = set(&bootstrap, "/static_resources/listeners/-", captured);
    let loaded = loaded(&bootstrap);
    let [capturing, captured] = &*loaded.snapshot.listeners else { panic!() };
    assert!(
        capturing.use_original_dst && capturing.bind.bind_to_port && capturing.bind.transparent
    );
    // The filter comes with it.
    assert_eq!(capturing.inspection.original_dst, Some(OriginalDst { disabled: None }));
    assert!(!captured.use_original_dst && !captured.bind.bind_to_port);
    assert_eq!(captured.inspection.original_dst, None);

    // No two may be found by one address.
    let again = set(
        &bootstrap,
        "/static_resources/listeners/0/address",
        json!({ "socket_address": { "address": "0.0.0.0", "port_value": 80 } }),
    );
    assert_eq!(
        refusal(&again),
        "Listener 0.0.0.0_80: address: 0.0.0.0:80 is listener \"web\"'s already"
    );
}

#[test]
fn b9_the_listener_filters_of_a_sidecar() {
    let bootstrap = set(
        &http(),
        &format!("{LISTENER}/listener_filters"),
        json!([
            filter(ORIGINAL_DST, json!({})),
            filter(ORIGINAL_SRC, json!({ "mark": 1337 })),
            filter(TLS_INSPECTOR, json!({ "initial_read_buffer_size": 512 })),
        ]),
    );
    let bootstrap = set(
        &bootstrap,
        &format!("{LISTENER}/listener_filters/1/filter_disabled"),
        json!({ "destination_port_range": { "start": 22, "end": 23 } }),
    );
    let listener = listener(&loaded(&bootstrap)).clone();
    assert!(!listener.use_original_dst, "the filter alone hands nothing over");
    let inspection = &listener.inspection;
    assert_eq!(inspection.original_dst, Some(OriginalDst { disabled: None }));
    let disabled = Some(PortPredicate::Range(22, 23));
    assert_eq!(inspection.original_src, Some(OriginalSrc { mark: 1337, disabled }));
    assert!(inspection.tls.is_some());

    let bind_port = set(
        &bootstrap,
        &format!("{LISTENER}/listener_filters/1/typed_config/bind_port"),
        json!(true),
    );
    assert_eq!(
        refusal(&bind_port),
        "Listener web: listener_filters[1].typed_config(OriginalSrc).bind_port: not supported"
    );
    let twice =
        set(&bootstrap, &format!("{LISTENER}/listener_filters/-"), filter(ORIGINAL_DST, json!({})));
    assert_eq!(refusal(&twice), "Listener web: listener_filters[3]: is there twice");
}

#[test]
fn section_2_the_proxy_protocol_filter() {
    let with = |config: Value| {
        let filters = json!([filter(PROXY_PROTOCOL, config)]);
        set(&http(), &format!("{LISTENER}/listener_filters"), filters)
    };
    let compiled = |config| listener(&loaded(&with(config))).inspection.proxy_protocol.clone();
    let plain = ProxyProtocol { allow_absent: false, v1: true, v2: true, disabled: None };
    assert_eq!(compiled(json!({})), Some(plain.clone()));
    assert_eq!(
        compiled(json!({ "allow_requests_without_proxy_protocol": true,
            "disallowed_versions": ["V1"], "stat_prefix": "p" })),
        Some(ProxyProtocol { allow_absent: true, v1: false, ..plain })
    );
    let at = "Listener web: listener_filters[0].typed_config(ProxyProtocol)";
    for (config, expected) in [
        (json!({ "disallowed_versions": ["V1", "V2"] }), "disallowed_versions: must leave one"),
        (json!({ "rules": [{ "tlv_type": 1 }] }), "rules: not supported"),
        (json!({ "pass_through_tlvs": {} }), "pass_through_tlvs: not supported"),
        (json!({ "tlv_location": "FILTER_STATE" }), "tlv_location: not supported"),
    ] {
        assert_eq!(refusal(&with(config)), format!("{at}.{expected}"));
    }
}

#[test]
fn b11_the_passthrough_cluster() {
    let cluster = first_cluster(&loaded(&replaced(passthrough()))).clone();
    let expected =
        DestinationRules { header: None, port: None, cleanup_interval: Duration::from_secs(5) };
    assert_eq!(cluster.discovery, Discovery::OriginalDst(expected));
    assert_eq!(cluster.load_balancer, LoadBalancer::ClusterProvided);
    assert_eq!(cluster.http.protocol, UpstreamProtocol::Downstream);
    assert_eq!(cluster.http.idle_timeout, Some(Duration::from_secs(300)));
    assert_eq!(cluster.circuit_breakers.max_connections, u32::MAX);
    assert_eq!(
        warnings(&replaced(passthrough())),
        [
            "Cluster app: circuit_breakers.thresholds[0].track_remaining: ignored: statistics only",
            "Cluster app: filters[0].typed_config: ignored: no metadata is exchanged: its ALPN \
             protocol is never negotiated",
        ]
    );
}

#[test]
fn b11_the_inbound_passthrough_cluster_is_bound_to_a_source() {
    let bind = json!({
        "source_address": { "address": "127.0.0.6", "port_value": 0 },
        "extra_source_addresses": [{ "address": { "address": "::6", "port_value": 0 } }],
    });
    let bootstrap = set(&replaced(passthrough()), &format!("{CLUSTER}/upstream_bind_config"), bind);
    let cluster = first_cluster(&loaded(&bootstrap)).clone();
    let bind = cluster.bind.unwrap();
    let source = |towards: &str| bind.source(towards.parse().unwrap()).unwrap().address.to_string();
    assert_eq!((source("10.0.0.1"), source("fd00::1")), ("127.0.0.6:0".into(), "[::6]:0".into()));
    assert!(!bind.freebind);
}

#[test]
fn b11_the_black_hole_cluster() {
    let bootstrap = replaced(json!({ "name": "app", "type": "STATIC", "connect_timeout": "10s" }));
    let loaded = loaded(&bootstrap);
    let member = loaded.snapshot.clusters.iter().next().unwrap();
    assert_eq!(member.cluster.discovery, Discovery::Static);
    assert!(member.endpoints.all().is_empty());
}

#[test]
fn section_10_original_dst_lb_config() {
    let rules = |bootstrap: &Value| match &first_cluster(&loaded(bootstrap)).discovery {
        Discovery::OriginalDst(rules) => rules.clone(),
        other => panic!("{other:?}"),
    };
    let with = |config: Value| {
        set(&replaced(passthrough()), &format!("{CLUSTER}/original_dst_lb_config"), config)
    };
    let header = |rules: DestinationRules| rules.header.map(|name| name.to_string());
    assert_eq!(
        header(rules(&with(json!({ "use_http_header": true })))).as_deref(),
        Some("x-envoy-original-dst-host")
    );
    let named = json!({ "use_http_header": true, "http_header_name": "X-Where",
        "upstream_port_override": 8443 });
    let named_rules = rules(&with(named.clone()));
    assert_eq!(named_rules.port, Some(8443));
    assert_eq!(header(named_rules).as_deref(), Some("x-where"));

    // The same as an extension.
    let mut typed = passthrough();
    typed.as_object_mut().unwrap().remove("type");
    typed["cluster_type"] = json!({ "name": "envoy.cluster.original_dst",
        "typed_config": any_with("envoy.extensions.clusters.original_dst.v3.OriginalDstCluster", named) });
    typed["cleanup_interval"] = json!("60s");
    let typed_rules = rules(&replaced(typed));
    assert_eq!(typed_rules.cleanup_interval, Duration::from_secs(60));
    assert_eq!(typed_rules.port, Some(8443));

    for (config, expected) in [
        (
            json!({ "http_header_name": "x-where" }),
            "http_header_name: has no effect without use_http_header",
        ),
        (
            json!({ "use_http_header": true, "http_header_name": "a b" }),
            "http_header_name: \"a b\" is not a header name",
        ),
        (
            json!({ "upstream_port_override": 65536 }),
            "upstream_port_override: must be from 1 to 65535",
        ),
    ] {
        let expected = format!("Cluster app: original_dst_lb_config.{expected}");
        assert_eq!(refusal(&with(config)), expected);
    }
}

#[test]
fn section_10_an_original_dst_cluster_has_its_own_policy_and_no_endpoints() {
    let with = |field: &str, value: Value| {
        refusal(&set(&replaced(passthrough()), &format!("{CLUSTER}/{field}"), value))
    };
    let policy = "Cluster app: lb_policy: CLUSTER_PROVIDED is the policy of clusters of type \
                  ORIGINAL_DST, and of no other";
    assert_eq!(with("lb_policy", json!("ROUND_ROBIN")), policy);
    assert_eq!(with("type", json!("STATIC")), policy);
    assert_eq!(
        with("load_assignment", json!({ "cluster_name": "app" })),
        "Cluster app: load_assignment: a cluster of type ORIGINAL_DST has no endpoints of its own"
    );
    assert_eq!(
        with("cleanup_interval", json!("0s")),
        "Cluster app: cleanup_interval: must be above zero"
    );
    assert_eq!(
        refusal(&set(&http(), &format!("{CLUSTER}/original_dst_lb_config"), json!({}))),
        "Cluster app: original_dst_lb_config: is for clusters of type ORIGINAL_DST"
    );
}

#[test]
fn section_10_upstream_bind_config() {
    let option = |state: &str| json!({ "level": 1, "name": 36, "int_value": 7, "state": state });
    let with = |bind: Value| set(&http(), &format!("{CLUSTER}/upstream_bind_config"), bind);
    let bootstrap = with(json!({
        "source_address": { "address": "10.0.0.9", "port_value": 0 },
        "freebind": true,
        "socket_options": [option("STATE_PREBIND")],
        "extra_source_addresses": [{ "address": { "address": "fd00::9", "port_value": 0 },
            "socket_options": { "socket_options": [option("STATE_BOUND")] } }],
    }));
    let bind = first_cluster(&loaded(&bootstrap)).bind.clone().unwrap();
    assert!(bind.freebind);
    let state = |towards: &str| {
        let source = bind.source(towards.parse().unwrap()).unwrap();
        source.socket_options.iter().map(|option| option.state).collect::<Vec<_>>()
    };
    assert_eq!(state("10.0.0.1"), [SocketOptionState::PreBind]);
    assert_eq!(state("fd00::1"), [SocketOptionState::Bound]);

    // Options alone bind to nothing.
    let options = with(json!({ "socket_options": [option("STATE_PREBIND")] }));
    let bind = first_cluster(&loaded(&options)).bind.clone().unwrap();
    assert!(bind.source("10.0.0.1".parse().unwrap()).is_none());
    assert_eq!(bind.socket_options.len(), 1);

    for (bind, expected) in [
        (
            json!({ "source_address": { "address": "host", "port_value": 0 } }),
            "source_address.address: \"host\" is not an IP address",
        ),
        (json!({ "extra_source_addresses": [{}] }), "source_address: is required"),
        (
            json!({ "source_address": { "address": "10.0.0.9", "port_value": 0 },
                "extra_source_addresses": [
                    { "address": { "address": "10.0.0.8", "port_value": 0 } }] }),
            "extra_source_addresses[0].address.address: there is one of this family already",
        ),
        (
            json!({ "socket_options": [option("STATE_LISTENING")] }),
            "socket_options[0].state: upstream sockets do not listen",
        ),
    ] {
        let expected = format!("Cluster app: upstream_bind_config.{expected}");
        assert_eq!(refusal(&with(bind)), expected);
    }
}

/// A cluster as Istio sends it: TLS for those endpoints that say so.
fn by_endpoint() -> Value {
    let tls = json!({ "name": "tls", "typed_config":
        any_with(UPSTREAM_TLS, json!({ "sni": "by-match" })) });
    let raw = json!({ "name": "raw", "typed_config": any(RAW) });
    set(
        &http(),
        &format!("{CLUSTER}/transport_socket_matches"),
        json!([
            { "name": "tlsMode-istio", "match": { "tlsMode": "istio" }, "transport_socket": tls },
            { "name": "tlsMode-disabled", "match": {}, "transport_socket": raw },
        ]),
    )
}

fn labelled(labels: Value) -> Option<std::sync::Arc<Value>> {
    Some(std::sync::Arc::new(json!({ "envoy.transport_socket_match": labels })))
}

#[test]
fn b10_a_transport_socket_is_chosen_by_endpoint() {
    let cluster = first_cluster(&loaded(&by_endpoint())).clone();
    let endpoint = || Endpoint::at(Address::Ip("10.0.0.1:80".parse().unwrap()));
    let in_locality = |labels| Endpoint {
        locality: Some(std::sync::Arc::new(Locality {
            metadata: labelled(labels),
            ..Locality::default()
        })),
        ..endpoint()
    };
    let with = |labels| Endpoint { metadata: labelled(labels), ..endpoint() };
    let is_tls = |endpoint: &Endpoint| cluster.transport_of(endpoint).is_some();
    assert!(is_tls(&with(json!({ "tlsMode": "istio" }))));
    assert!(is_tls(&with(json!({ "tlsMode": "istio", "more": 1 }))), "contained is enough");
    assert!(!is_tls(&with(json!({ "tlsMode": "disabled" }))));
    assert!(!is_tls(&endpoint()), "the empty match is for all");
    // Whatever matches the endpoint goes before what would match its locality.
    assert!(!is_tls(&in_locality(json!({ "tlsMode": "istio" }))));

    // Without the empty match: the locality's, then the cluster's own, then plain text.
    let first = by_endpoint();
    let first = set(
        &first,
        &format!("{CLUSTER}/transport_socket_matches"),
        json!([first["static_resources"]["clusters"][0]["transport_socket_matches"][0]]),
    );
    let cluster = first_cluster(&loaded(&first)).clone();
    assert!(cluster.transport_of(&in_locality(json!({ "tlsMode": "istio" }))).is_some());
    assert!(cluster.transport_of(&endpoint()).is_none());
    let own = set(
        &first,
        &format!("{CLUSTER}/transport_socket"),
        json!({ "name": "tls",
        "typed_config": any_with(UPSTREAM_TLS, json!({ "sni": "own" })) }),
    );
    let cluster = first_cluster(&loaded(&own)).clone();
    let sni = |endpoint: &Endpoint| match &cluster.transport_of(endpoint).unwrap().sni {
        UpstreamSni::Literal(name) => name.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(sni(&endpoint()), "own");
    assert_eq!(sni(&with(json!({ "tlsMode": "istio" }))), "by-match");
    assert_eq!(cluster.tls_configs().count(), 2);
}

#[test]
fn b10_constraints_of_transport_socket_matches() {
    let nameless =
        set(&by_endpoint(), &format!("{CLUSTER}/transport_socket_matches/0/name"), json!(""));
    assert_eq!(refusal(&nameless), "Cluster app: transport_socket_matches[0].name: is required");
    let bare =
        set(&http(), &format!("{CLUSTER}/transport_socket_matches"), json!([{ "name": "m" }]));
    assert_eq!(
        refusal(&bare),
        "Cluster app: transport_socket_matches[0].transport_socket: is required"
    );
    // Where the version of HTTP is negotiated, every endpoint must be able to.
    let auto = set(
        &by_endpoint(),
        &format!("{CLUSTER}/typed_extension_protocol_options"),
        json!({ HTTP_OPTIONS: any_with(HTTP_OPTIONS, json!({ "auto_config": {} })) }),
    );
    assert!(refusal(&auto).contains("auto_config chooses by ALPN"));
}

#[test]
fn tl_02_the_alpn_protocol_of_metadata_exchange_is_never_offered() {
    let upstream = set(
        &http(),
        &format!("{CLUSTER}/transport_socket"),
        json!({ "name": "tls", "typed_config": any_with(UPSTREAM_TLS, json!({
            "common_tls_context": { "alpn_protocols": ["istio-peer-exchange", "istio"] } })) }),
    );
    let cluster = first_cluster(&loaded(&upstream)).clone();
    let offered = &cluster.tls.unwrap().common.alpn;
    assert_eq!(offered.iter().map(|name| &**name).collect::<Vec<_>>(), [b"istio"]);
    let context = "transport_socket.typed_config(UpstreamTlsContext).common_tls_context";
    assert_eq!(
        warnings(&upstream)[0],
        format!(
            "Cluster app: {context}.alpn_protocols[0]: ignored: the exchange of metadata is not \
             implemented, so it is never offered"
        )
    );

    let certificate = json!({ "certificate_chain": { "inline_string": "c" },
        "private_key": { "inline_string": "k" } });
    let downstream = set(
        &tcp(),
        &format!("{CHAIN}/transport_socket"),
        json!({ "name": "tls", "typed_config": any_with(DOWNSTREAM_TLS, json!({
            "common_tls_context": { "tls_certificates": [certificate],
                "alpn_protocols": ["istio-peer-exchange", "h2", "http/1.1"] } })) }),
    );
    let listener = listener(&loaded(&downstream)).clone();
    let chain = listener.filter_chains.iter().next().unwrap();
    let selected = &chain.tls.as_ref().unwrap().common.alpn;
    assert_eq!(selected.iter().map(|name| &**name).collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
}

#[test]
fn b9_metadata_exchange_in_front_of_a_terminal_filter_has_no_effect() {
    let terminal =
        tcp()["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0].clone();
    let value = json!({ "protocol": "istio-peer-exchange", "enable_discovery": true,
        "additional_labels": ["role"] });
    for exchange in [
        filter(METADATA_EXCHANGE, value.clone()),
        typed_struct("udpa.type.v1.TypedStruct", METADATA_EXCHANGE, value.clone()),
        typed_struct("xds.type.v3.TypedStruct", METADATA_EXCHANGE, value.clone()),
    ] {
        let bootstrap = set(&tcp(), &format!("{CHAIN}/filters"), json!([exchange, terminal]));
        assert_eq!(&*tcp_proxy(&loaded(&bootstrap)).stat_prefix, "tcp");
        let warning = "Listener tcp: filter_chains[0].filters[0].typed_config: ignored: no metadata \
                       is exchanged: its ALPN protocol is never negotiated";
        assert_eq!(warnings(&bootstrap), [warning.replace("tcp:", "web:")]);
        // It is not the end of a chain.
        let alone = set(&tcp(), &format!("{CHAIN}/filters"), json!([exchange]));
        assert!(
            refusal(&alone).contains("MetadataExchange\" is not supported"),
            "{}",
            refusal(&alone)
        );
    }
    let unknown = typed_struct("udpa.type.v1.TypedStruct", "some.Filter", json!({}));
    let bootstrap = set(&tcp(), &format!("{CHAIN}/filters"), json!([unknown, terminal]));
    assert!(refusal(&bootstrap).contains("some.Filter\" is not supported"));
    let two = set(&tcp(), &format!("{CHAIN}/filters"), json!([terminal, terminal]));
    assert_eq!(
        refusal(&two),
        "Listener web: filter_chains[0].filters[0]: is a terminal filter and must be the last"
    );
}

#[test]
fn b9_metrics_in_front_of_a_tcp_proxy() {
    const STATS: &str = "stats.PluginConfig";
    let terminal =
        tcp()["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0].clone();
    let stats = |fields| typed_struct("udpa.type.v1.TypedStruct", STATS, fields);
    let with = |filters| set(&tcp(), &format!("{CHAIN}/filters"), filters);
    let bootstrap = with(json!([stats(json!({ "tcp_reporting_duration": "7s" })), terminal]));
    let chain = loaded(&bootstrap);
    let chain = listener(&chain).filter_chains.iter().next().unwrap();
    let compiled = chain.istio_stats.as_ref().unwrap();
    assert_eq!(compiled.tcp_reporting, Some(Duration::from_secs(7)));
    assert!(warnings(&bootstrap).is_empty(), "{:?}", warnings(&bootstrap));
    assert_eq!(
        refusal(&with(json!([stats(json!({})), stats(json!({})), terminal]))),
        "Listener web: filter_chains[0].filters[1]: is there twice"
    );
    // Requests are counted by the HTTP filter.
    let http = http()["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0].clone();
    let bootstrap =
        set(&self::http(), &format!("{CHAIN}/filters"), json!([stats(json!({})), http]));
    let told = warnings(&bootstrap);
    assert!(told[0].ends_with("istio.stats counts connections of tcp_proxy only"), "{told:?}");
}
