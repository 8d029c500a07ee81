//! Two sidecars as Istio makes them: they tell each other who they are, and count by that.

use std::sync::{Arc, Mutex};

use outrigger_tests::config::TCP_PROXY;
use outrigger_tests::origin::OK;
use outrigger_tests::tls::{self, Authority, Subject};
use outrigger_tests::{Address, Config, Launch, Origin, Proxy, eventually};
use serde_json::{Value, json};

/// Istio writes its own messages as structures.
fn istio_filter(name: &str, kind: &str, fields: &Value) -> Value {
    json!({"name": name, "typed_config": {
        "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
        "type_url": format!("type.googleapis.com/{kind}"),
        "value": fields,
    }})
}

fn router() -> Value {
    json!({"name": "router", "typed_config": {"@type": outrigger_tests::config::ROUTER}})
}

fn metadata_exchange(side: &str, headers: &Value) -> Value {
    let mut fields = json!({});
    fields[format!("{side}_discovery")] =
        json!([{"istio_headers": {}}, {"workload_discovery": {}}]);
    fields[format!("{side}_propagation")] = json!([{"istio_headers": headers}]);
    istio_filter("istio.metadata_exchange", "io.istio.http.peer_metadata.Config", &fields)
}

fn stats(fields: &Value) -> Value {
    istio_filter("istio.stats", "stats.PluginConfig", fields)
}

fn node(workload: &str) -> Value {
    json!({"node": {
        "id": format!("sidecar~10.0.0.1~{workload}-1.shop~shop.svc.cluster.local"),
        "metadata": {
            "NAME": format!("{workload}-1"), "NAMESPACE": "shop", "WORKLOAD_NAME": workload,
            "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.30.0",
            "LABELS": {"app": workload, "version": "v1",
                "service.istio.io/canonical-name": workload,
                "service.istio.io/canonical-revision": "v1"},
        },
    }})
}

/// Before the server: it asks who calls, and tells who answers.
fn inbound(origin: &Origin) -> Config {
    Config::to(origin.address())
        .listener(json!({"traffic_direction": "INBOUND"}))
        .http(json!({"http_filters": [
            metadata_exchange("downstream", &json!({})),
            stats(&json!({"disable_host_header_fallback": true})),
            router(),
        ]}))
        .tune_cluster(json!({"metadata": {"filter_metadata": {"istio": {"services": [
            {"host": "app.shop.svc.cluster.local", "name": "app", "namespace": "shop"}]}}}}))
        .with(node("app"))
}

/// Before the client: it tells who calls, and hears who answers.
fn outbound(next: &Address) -> Config {
    Config::to(next)
        .listener(json!({"traffic_direction": "OUTBOUND"}))
        .http(json!({"http_filters": [
            metadata_exchange("upstream", &json!({"skip_external_clusters": true})),
            stats(&json!({})),
            router(),
        ]}))
        .tune_cluster(json!({"metadata": {"filter_metadata": {"istio": {"services": [
            {"host": "app.shop.svc.cluster.local", "name": "app", "namespace": "shop"}]}}}}))
        .with(node("web"))
}

/// The metric with all of these labels.
fn metric(proxy: &Proxy, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
    let text = proxy.admin_get("/stats/prometheus").text();
    let mut lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    let has = |line: &str| {
        labels.iter().all(|(label, value)| {
            [',', '{'].iter().any(|before| line.contains(&format!("{before}{label}=\"{value}\"")))
        })
    };
    let line = lines.find(|line| has(line))?;
    line.rsplit(' ').next().unwrap().parse().ok()
}

#[track_caller]
fn expect_metric(proxy: &Proxy, name: &str, labels: &[(&str, &str)], value: u64) {
    eventually(name, || (metric(proxy, name, labels) == Some(value)).then_some(()));
}

const ENDS: &[(&str, &str)] = &[
    ("source_workload", "web"),
    ("source_workload_namespace", "shop"),
    ("source_app", "web"),
    ("source_version", "v1"),
    ("source_canonical_service", "web"),
    ("source_cluster", "Kubernetes"),
    ("destination_workload", "app"),
    ("destination_workload_namespace", "shop"),
    ("destination_service", "app.shop.svc.cluster.local"),
    ("destination_service_name", "app"),
    ("destination_canonical_service", "app"),
    ("request_protocol", "http"),
    ("response_code", "200"),
    ("response_flags", "-"),
];

#[test]
fn b_13_both_ends_are_known_and_counted() {
    let origin = Origin::ok();
    let app = Proxy::start(&inbound(&origin));
    let web = Proxy::start(&outbound(app.address()));
    let mut client = web.client();
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!(response.status, 200);
        // Neither end is told to those who are none of the mesh.
        for name in ["x-envoy-peer-metadata", "x-envoy-peer-metadata-id"] {
            assert_eq!(response.header(name), None);
        }
    }
    for seen in origin.log().requests {
        for name in ["x-envoy-peer-metadata", "x-envoy-peer-metadata-id"] {
            assert_eq!(seen.request.headers.get(name), None);
        }
    }
    for (proxy, reporter, security) in [(&web, "source", "unknown"), (&app, "destination", "none")]
    {
        let own = [("reporter", reporter), ("connection_security_policy", security)];
        let labels: Vec<_> = ENDS.iter().copied().chain(own).collect();
        expect_metric(proxy, "istio_requests_total", &labels, 3);
        expect_metric(proxy, "istio_request_duration_milliseconds_count", &labels, 3);
        expect_metric(proxy, "istio_request_bytes_count", &labels, 3);
        expect_metric(proxy, "istio_response_bytes_count", &labels, 3);
        expect_metric(proxy, "istio_build", &[("component", "proxy"), ("tag", "1.30.0")], 1);
    }
    drop(client);
    web.stop();
    app.stop();
}

#[test]
fn b_9_what_is_told_goes_to_the_mesh_only() {
    for (external, expected) in
        [(false, Some("sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local")), (true, None)]
    {
        let origin = Origin::ok();
        let metadata = json!({"istio": {"external": external}});
        let config = outbound(origin.address())
            .tune_cluster(json!({"metadata": {"filter_metadata": metadata}}));
        let proxy = Proxy::start(&config);
        assert_eq!(proxy.client().get("/").status, 200);
        let request = origin.only_request();
        assert_eq!(request.headers.get("x-envoy-peer-metadata-id"), expected);
        let metadata = request.headers.get("x-envoy-peer-metadata");
        assert_eq!(metadata.is_some(), expected.is_some());
        proxy.stop();
    }
}

#[test]
fn b_9_a_client_that_tells_who_it_is_hears_who_answers() {
    let origin = Origin::ok();
    // Requests without a route are answered by the proxy itself, which tells who it is too.
    let app = Proxy::start(&inbound(&origin).tune_route(json!({"match": {"prefix": "/app"}})));
    let mut client = app.client();
    let metadata = "Ch0KDVdPUktMT0FEX05BTUUSDBoKd2ViLWNsaWVudA==";
    for (path, status) in [("/app", 200), ("/other", 404)] {
        client.send(format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nx-envoy-peer-metadata-id: client-1\r\n\
             x-envoy-peer-metadata: {metadata}\r\n\r\n"
        ));
        let response = client.response();
        assert_eq!(response.status, status);
        let id = response.header("x-envoy-peer-metadata-id");
        assert_eq!(id, Some("sidecar~10.0.0.1~app-1.shop~shop.svc.cluster.local"));
        assert!(response.header("x-envoy-peer-metadata").is_some());
        let labels = [("source_workload", "web-client"), ("response_code", &status.to_string())];
        expect_metric(&app, "istio_requests_total", &labels, 1);
    }
    assert_eq!(origin.only_request().headers.get("x-envoy-peer-metadata"), None);
    drop(client);
    app.stop();
}

#[test]
fn b_13_metrics_may_be_changed_and_left_out() {
    let origin = Origin::ok();
    let overrides = json!({"metrics": [
        {"tags_to_remove": ["source_app"]},
        {"name": "requests_total", "tags_to_remove": ["response_code"]},
        {"name": "request_bytes", "drop": true},
    ]});
    let config = Config::to(origin.address())
        .http(json!({"http_filters": [stats(&overrides), router()]}))
        .with(node("web"));
    let proxy = Proxy::start(&config);
    assert_eq!(proxy.client().get("/").status, 200);
    expect_metric(&proxy, "istio_requests_total", &[("source_workload", "web")], 1);
    let text = proxy.admin_get("/stats/prometheus").text();
    let line = |name: &str| text.lines().find(|line| line.starts_with(name));
    let total = line("istio_requests_total{").unwrap();
    assert!(!total.contains("source_app=") && !total.contains("response_code="), "{total}");
    let bytes = line("istio_response_bytes_count{").unwrap();
    assert!(!bytes.contains("source_app=") && bytes.contains("response_code=\"200\""), "{bytes}");
    assert_eq!(line("istio_request_bytes"), None);
    proxy.stop();
}

/// A TCP proxy that counts, with these fields of its metrics.
fn tcp(config: Config, fields: &Value) -> Config {
    config.filters(json!([stats(fields), {"name": "tcp", "typed_config": {
        "@type": TCP_PROXY, "stat_prefix": "tcp", "cluster": "origin"}}]))
}

const TCP_ENDS: &[(&str, &str)] = &[
    ("source_workload", "web"),
    ("source_workload_namespace", "shop"),
    ("source_canonical_service", "web"),
    ("destination_workload", "app-v1"),
    ("destination_workload_namespace", "shop"),
    ("destination_canonical_service", "app"),
    ("destination_canonical_revision", "v1"),
    ("destination_cluster", "Kubernetes"),
    ("destination_service", "app.shop.svc.cluster.local"),
    ("destination_service_name", "app"),
    ("request_protocol", "tcp"),
    ("response_flags", "-"),
    ("connection_security_policy", "unknown"),
    ("reporter", "source"),
];

#[test]
fn b_13_connections_are_counted_while_they_last_and_at_their_end() {
    let origin = Origin::ok();
    let config = tcp(outbound(origin.address()), &json!({"tcp_reporting_duration": "0.01s"}))
        .tune_cluster(json!({"load_assignment": {"endpoints": [{"lb_endpoints": [{
            "endpoint": {"address": origin.address().to_json()},
            "metadata": {"filter_metadata": {"istio": {
                "workload": "app-v1;shop;app;v1;Kubernetes"}}},
        }]}]}}));
    let proxy = Proxy::start(&config);
    let request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut client = proxy.client();
    for count in 1..=2 {
        client.send(request);
        assert_eq!(client.response().status, 200);
        let (received, sent) = ((request.len() * count) as u64, (OK.len() * count) as u64);
        expect_metric(&proxy, "istio_tcp_received_bytes_total", TCP_ENDS, received);
        expect_metric(&proxy, "istio_tcp_sent_bytes_total", TCP_ENDS, sent);
        assert_eq!(metric(&proxy, "istio_tcp_connections_opened_total", TCP_ENDS), Some(1));
        assert_eq!(metric(&proxy, "istio_tcp_connections_closed_total", TCP_ENDS), None);
    }
    drop(client);
    expect_metric(&proxy, "istio_tcp_connections_closed_total", TCP_ENDS, 1);
    // A connection has no status.
    let text = proxy.admin_get("/stats/prometheus").text();
    let mut lines = text.lines().filter(|line| line.starts_with("istio_tcp_"));
    assert!(lines.all(|line| !line.contains("response_code") && !line.contains("grpc_response")));
    proxy.stop();
}

#[test]
fn b_13_connections_that_report_at_their_end_only() {
    let origin = Origin::ok();
    let config = tcp(inbound(&origin), &json!({"tcp_reporting_duration": "0s"}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    let request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    client.send(request);
    assert_eq!(client.response().status, 200);
    let labels = [
        ("reporter", "destination"),
        ("source_workload", "unknown"),
        ("destination_workload", "app"),
        ("connection_security_policy", "none"),
        ("response_flags", "-"),
    ];
    expect_metric(&proxy, "istio_tcp_connections_opened_total", &labels, 1);
    assert_eq!(metric(&proxy, "istio_tcp_received_bytes_total", &labels), None);
    drop(client);
    expect_metric(&proxy, "istio_tcp_connections_closed_total", &labels, 1);
    expect_metric(&proxy, "istio_tcp_received_bytes_total", &labels, request.len() as u64);
    expect_metric(&proxy, "istio_tcp_sent_bytes_total", &labels, OK.len() as u64);
    proxy.stop();
}

#[test]
fn b_13_connections_that_lead_nowhere_say_why() {
    let config = Config::new().cluster("origin", &[]).with(node("web"));
    let proxy = Proxy::start(&tcp(config, &json!({})));
    proxy.client().expect_close();
    let labels = [("reporter", "source"), ("response_flags", "UH"), ("source_workload", "web")];
    expect_metric(&proxy, "istio_tcp_connections_opened_total", &labels, 1);
    expect_metric(&proxy, "istio_tcp_connections_closed_total", &labels, 1);
    proxy.stop();
}

#[test]
fn b_13_what_the_client_asked_for_names_the_destination_at_last() {
    let origin = Origin::ok();
    let with = |fields: Value| {
        let config = Config::to(origin.address());
        Proxy::start(&config.http(json!({"http_filters": [stats(&fields), router()]})))
    };
    let proxy = with(json!({}));
    assert_eq!(proxy.client().get("/").status, 200);
    let named = [("destination_service", "test"), ("destination_service_name", "test")];
    expect_metric(&proxy, "istio_requests_total", &named, 1);
    proxy.stop();
    let proxy = with(json!({"disable_host_header_fallback": true}));
    assert_eq!(proxy.client().get("/").status, 200);
    expect_metric(&proxy, "istio_requests_total", &[("destination_service", "unknown")], 1);
    proxy.stop();
}

#[test]
fn tl_03_what_is_offered_upstream_goes_by_what_is_spoken_there() {
    let authority = Authority::new("ours");
    let identity = authority.issue(Subject::dns(&["origin.test"]));
    let server = tls::server(&identity, None, &["istio-http/1.1", "istio"]);
    let agreed = Arc::new(Mutex::new(Vec::new()));
    let learned = Arc::clone(&agreed);
    let origin = Origin::start(move |peer| {
        peer.secure(&server)?;
        learned.lock().unwrap().push(peer.wire().stream().agreed().alpn.unwrap());
        peer.answer_all(OK.as_bytes())
    });
    let alpn = istio_filter(
        "istio.alpn",
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
        &json!({"alpn_override": [
            {"upstream_protocol": "HTTP11",
                "alpn_override": ["istio-http/1.1", "istio", "http/1.1"]},
            {"upstream_protocol": "HTTP2", "alpn_override": ["istio-h2", "istio", "h2"]},
        ]}),
    );
    for kept in [false, true] {
        let config = Config::to(origin.address())
            .http(json!({"http_filters": [alpn, router()]}))
            .tune_cluster(json!({"metadata": {"filter_metadata": {"istio": {
                "alpn_override": if kept { "false" } else { "true" }}}}}))
            .upstream_tls(json!({
                "sni": "origin.test",
                "common_tls_context": {
                    "validation_context": {"trusted_ca": {"inline_string": authority.pem()}},
                    "alpn_protocols": ["istio"],
                },
            }));
        let proxy = Proxy::start(&config);
        let mut client = proxy.client();
        for _ in 0..3 {
            assert_eq!(client.get("/").status, 200);
        }
        // One connection served all of them.
        let agreed = std::mem::take(&mut *agreed.lock().unwrap());
        assert_eq!(agreed, [if kept { "istio" } else { "istio-http/1.1" }]);
        drop(client);
        proxy.stop();
    }
}

#[test]
fn section_19_without_a_tracer_the_others_are_told_what_to_trace() {
    const OPERATION: &str = "x-envoy-decorator-operation";
    let origin = Origin::ok();
    for (share, reason) in [(100, "9"), (0, "4")] {
        for (direction, told) in [("OUTBOUND", true), ("INBOUND", false)] {
            let config = Config::to(origin.address())
                .listener(json!({"traffic_direction": direction}))
                .http(json!({
                    "tracing": {"random_sampling": {"value": share}},
                    "always_set_request_id_in_response": true,
                }))
                .tune_route(json!({"decorator": {"operation": "app:80/*"}}));
            let proxy = Proxy::start(&config);
            let response = proxy.client().get("/");
            let request = origin.log().requests.pop().unwrap().request;
            let id = request.headers.get("x-request-id").unwrap();
            assert_eq!(&id[14..15], reason);
            assert_eq!(response.header("x-request-id"), Some(id));
            // Of the two sides, the one that is another proxy.
            let (to_server, to_client) =
                (request.headers.get(OPERATION), response.header(OPERATION));
            let expected = (Some("app:80/*").filter(|_| told), Some("app:80/*").filter(|_| !told));
            assert_eq!((to_server, to_client), expected);
            proxy.stop();
        }
    }
}

/// B3: what Istio's bootstrap says of statistics.
#[test]
fn section_1_statistics_are_those_and_under_the_names_that_are_configured() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address())
        .tune_cluster(json!({"alt_stat_name": "outbound|80||web.shop;"}))
        .with(json!({"stats_config": {
            "use_all_default_tags": false,
            "stats_tags": [{"tag_name": "cluster_name", "regex": "^cluster\\.((.*?);\\.?)"}],
            "stats_matcher": {"inclusion_list": {"patterns": [
                {"prefix": "cluster.outbound"}, {"prefix": "server"}]}},
            "histogram_bucket_settings": [{"match": {"prefix": "cluster"}, "buckets": [7, 0.5]}],
        }})));
    assert_eq!(proxy.client().get("/").status, 200);
    let text = proxy.admin_get("/stats").text();
    assert!(text.contains("cluster.outbound|80||web.shop;.upstream_rq_total: 1"), "{text}");
    assert!(
        text.lines()
            .all(|line| { line.starts_with("cluster.outbound") || line.starts_with("server") }),
        "{text}"
    );
    let text = proxy.admin_get("/stats/prometheus").text();
    for line in [
        "envoy_cluster_upstream_rq_total{cluster_name=\"outbound|80||web.shop\"} 1",
        "envoy_cluster_upstream_cx_connect_ms_bucket{cluster_name=\"outbound|80||web.shop\",\
         le=\"+Inf\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    let bounds = text.lines().filter(|line| line.contains("connect_ms_bucket")).count();
    assert_eq!(bounds, 3, "{text}");
    proxy.stop();
}

#[test]
fn section_1_connections_are_limited_except_for_some_listeners() {
    let origin = Origin::ok();
    let config = Config::to(origin.address());
    let mut exempt = config.json()["static_resources"]["listeners"][0].clone();
    exempt["name"] = "exempt".into();
    exempt["ignore_global_conn_limit"] = true.into();
    let monitor = json!({"name": "limit", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.\
                  DownstreamConnectionsConfig",
        "max_active_downstream_connections": "2",
    }});
    let config = config
        .raw_listener(exempt)
        .with(json!({"overload_manager": {"resource_monitors": [monitor]}}));
    let proxy = Launch::outrigger(&config).shards(1).start();
    let mut kept: Vec<_> = (0..2).map(|_| proxy.client()).collect();
    for client in &mut kept {
        assert_eq!(client.get("/").status, 200);
    }
    proxy.client().expect_close();
    proxy.expect_stat("listener.127.0.0.1_0.downstream_global_cx_overflow", 1);
    let mut exempt = outrigger_tests::Client::connect(proxy.listener("exempt"));
    assert_eq!(exempt.get("/").status, 200);
    proxy.stop();
}

#[test]
fn section_1_the_application_log_has_the_shape_that_is_configured() {
    let origin = Origin::ok();
    let format = json!({"json_format": {"level": "%l", "text": "%j"}});
    let config = Config::to(origin.address())
        .with(json!({"application_log_config": {"log_format": format}}));
    let mut proxy = Proxy::start(&config);
    proxy.process().signal(libc::SIGTERM);
    proxy.wait_exit();
    let text = proxy.process().stderr();
    let line = text.lines().find(|line| line.contains("SIGTERM")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["level"], "warning");
}
