//! HTTP filters: faults on purpose, CORS, and what routes say of filters.

use outrigger_tests::config::{CORS, FAULT, FILTER_CONFIG};
use outrigger_tests::{Client, Config, Origin, Proxy};
use serde_json::{Value, json};

/// A filter before the router.
fn filters(filters: &[Value]) -> Value {
    let router = json!({"name": "router", "typed_config": {
        "@type": outrigger_tests::config::ROUTER}});
    let filters: Vec<Value> = filters.iter().cloned().chain([router]).collect();
    json!({"http_filters": filters})
}

fn typed(kind: &str, mut fields: Value) -> Value {
    fields["@type"] = kind.into();
    fields
}

fn filter(name: &str, kind: &str, fields: Value) -> Value {
    json!({"name": name, "typed_config": typed(kind, fields)})
}

fn always() -> Value {
    json!({"numerator": 100})
}

/// A proxy whose only route has this fault.
fn with_fault(origin: &Origin, fault: Value) -> Config {
    Config::to(origin.address())
        .http(filters(&[filter("fault", FAULT, json!({}))]))
        .tune_route(json!({"typed_per_filter_config": {"fault": typed(FAULT, fault)}}))
}

#[test]
fn section_19_an_abort_is_answered_without_the_origin() {
    let origin = Origin::ok();
    let abort = json!({"abort": {"http_status": 418, "percentage": always()}});
    let proxy = Proxy::start(&with_fault(&origin, abort));
    let mut client = proxy.client();
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!((response.status, &*response.text()), (418, "fault filter abort"));
    }
    assert_eq!(proxy.stat("http.main.fault.aborts_injected"), 3);
    proxy.expect_stat("http.main.fault.active_faults", 0);
    assert_eq!(origin.log().accepted, 0);
    drop(client);
    proxy.stop();
}

#[test]
fn section_19_an_abort_in_grpcs_terms() {
    let origin = Origin::ok();
    let abort = json!({"abort": {"grpc_status": 7, "percentage": always()}});
    let proxy = Proxy::start(&with_fault(&origin, abort));
    let mut client = proxy.client();
    client.send("POST /a/b HTTP/1.1\r\nHost: test\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.headers.get("grpc-status")), (200, Some("7")));
    // Who does not speak gRPC is told nothing of its statuses.
    let response = client.get("/");
    assert_eq!((response.status, response.headers.get("grpc-status")), (200, None));
    drop(client);
    proxy.stop();
}

#[test]
fn section_19_a_delay_holds_the_request_back_and_then_lets_it_go() {
    let origin = Origin::echo();
    let delay = json!({"delay": {"fixed_delay": "0.2s", "percentage": always()}});
    let proxy = Proxy::start(&with_fault(&origin, delay));
    let mut client = proxy.client();
    let begin = std::time::Instant::now();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
    let response = client.response();
    // What is to pass at least cannot pass too fast.
    assert!(begin.elapsed() >= std::time::Duration::from_millis(200));
    assert_eq!((response.status, &*response.text()), (200, "hello"));
    assert_eq!(proxy.stat("http.main.fault.delays_injected"), 1);
    assert_eq!(proxy.stat("http.main.fault.aborts_injected"), 0);
    proxy.expect_no_active_requests();
    drop(client);
    proxy.stop();
}

#[test]
fn section_19_a_client_that_leaves_during_a_delay_is_noticed() {
    let origin = Origin::ok();
    let delay = json!({"delay": {"fixed_delay": "600s", "percentage": always()}});
    let proxy = Proxy::start(&with_fault(&origin, delay));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    proxy.expect_stat("http.main.fault.active_faults", 1);
    drop(client);
    proxy.expect_stat("http.main.fault.active_faults", 0);
    proxy.expect_no_active_requests();
    assert_eq!(origin.log().accepted, 0);
    proxy.stop();
}

#[test]
fn section_19_requests_bring_their_own_faults_where_they_may() {
    let origin = Origin::ok();
    let fault = json!({
        "abort": {"header_abort": {}, "percentage": always()},
        "delay": {"header_delay": {}, "percentage": always()},
    });
    let proxy = Proxy::start(&with_fault(&origin, fault));
    let mut client = proxy.client();
    let mut get = |fields: &str| {
        client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
        client.response().status
    };
    assert_eq!(get(""), 200);
    assert_eq!(get("x-envoy-fault-abort-request: 503\r\n"), 503);
    assert_eq!(get("x-envoy-fault-abort-request: 99\r\n"), 200);
    let lowered = "x-envoy-fault-abort-request-percentage: 0\r\n";
    assert_eq!(get(&format!("x-envoy-fault-abort-request: 503\r\n{lowered}")), 200);
    assert_eq!(get("x-envoy-fault-delay-request: 1\r\n"), 200);
    assert_eq!(proxy.stat("http.main.fault.delays_injected"), 1);
    assert_eq!(proxy.stat("http.main.fault.aborts_injected"), 1);
    drop(client);
    proxy.stop();
}

#[test]
fn section_19_only_so_many_requests_are_faulty_at_once() {
    let origin = Origin::ok();
    let delay = json!({
        "delay": {"fixed_delay": "600s", "percentage": always()}, "max_active_faults": 1,
    });
    let proxy = Proxy::start(&with_fault(&origin, delay));
    let mut held = proxy.client();
    held.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    proxy.expect_stat("http.main.fault.active_faults", 1);
    assert_eq!(proxy.client().get("/").status, 200);
    assert_eq!(proxy.stat("http.main.fault.faults_overflow"), 1);
    drop(held);
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn section_19_faults_are_for_certain_requests() {
    let origin = Origin::ok();
    let fault = json!({
        "abort": {"http_status": 503, "percentage": always()},
        "headers": [{"name": "x-fault", "string_match": {"exact": "yes"}}],
        "downstream_nodes": ["node-1"],
        "upstream_cluster": "origin",
    });
    let proxy = Proxy::start(&with_fault(&origin, fault));
    let mut client = proxy.client();
    let mut get = |fields: &str| {
        client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
        client.response().status
    };
    let node = "x-envoy-downstream-service-node: node-1\r\n";
    assert_eq!(get(&format!("x-fault: yes\r\n{node}")), 503);
    assert_eq!(get("x-fault: yes\r\n"), 200);
    assert_eq!(get(node), 200);
    drop(client);
    proxy.stop();
}

/// Two virtual hosts' worth of CORS: one route with a policy.
fn with_cors(origin: &Origin, policy: Value) -> Config {
    Config::to(origin.address())
        .http(filters(&[filter("cors", CORS, json!({}))]))
        .tune_route(json!({"typed_per_filter_config": {
            "cors": typed("type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy", policy)}}))
}

fn preflight(client: &mut Client, origin: &str) -> outrigger_tests::http::Response {
    client.send(format!(
        "OPTIONS / HTTP/1.1\r\nHost: test\r\nOrigin: {origin}\r\n\
         Access-Control-Request-Method: GET\r\n\r\n"
    ));
    client.response()
}

fn get_from(client: &mut Client, origin: &str) -> outrigger_tests::http::Response {
    client.send(format!("GET / HTTP/1.1\r\nHost: test\r\nOrigin: {origin}\r\n\r\n"));
    client.response()
}

#[test]
fn section_19_cors_answers_preflights_and_marks_responses() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\naccess-control-allow-origin: nobody\r\ncontent-length: 2\r\n\r\nok",
    );
    let policy = json!({
        "allow_origin_string_match": [{"exact": "https://a.test"}],
        "allow_methods": "GET,POST", "allow_headers": "x-a", "expose_headers": "x-b",
        "max_age": "60", "allow_credentials": true,
    });
    let proxy = Proxy::start(&with_cors(&origin, policy));
    let mut client = proxy.client();
    let answer = preflight(&mut client, "https://a.test");
    let field = |name: &str| answer.headers.get(name);
    assert_eq!(answer.status, 200);
    assert_eq!(field("access-control-allow-origin"), Some("https://a.test"));
    assert_eq!(field("access-control-allow-methods"), Some("GET,POST"));
    assert_eq!(field("access-control-allow-headers"), Some("x-a"));
    assert_eq!(field("access-control-max-age"), Some("60"));
    assert_eq!(field("access-control-allow-credentials"), Some("true"));
    assert_eq!(origin.log().requests.len(), 0);
    let answer = get_from(&mut client, "https://a.test");
    let all: Vec<_> =
        answer.headers.iter().filter(|(name, _)| name.starts_with("access-")).collect();
    assert_eq!(
        all,
        [
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-b"),
            ("access-control-allow-origin", "https://a.test"),
        ]
    );
    // From elsewhere: upstream's business.
    assert_eq!(preflight(&mut client, "https://b.test").status, 200);
    assert_eq!(origin.log().requests.len(), 2);
    let answer = get_from(&mut client, "https://b.test");
    assert_eq!(answer.headers.get("access-control-allow-origin"), Some("nobody"));
    assert_eq!(proxy.stat("http.main.cors.origin_valid"), 2);
    assert_eq!(proxy.stat("http.main.cors.origin_invalid"), 2);
    drop(client);
    proxy.stop();
}

#[test]
fn section_19_cors_marks_answers_of_ours_too() {
    let (_socket, refused) = outrigger_tests::origin::refusing();
    let origin = Origin::ok();
    let policy = json!({"allow_origin_string_match": [{"exact": "*"}]});
    let config = with_cors(&origin, policy).cluster("nobody", &[&refused]);
    let proxy = Proxy::start(&config.tune_route(json!({"route": {"cluster": "nobody"}})));
    let answer = get_from(&mut proxy.client(), "https://x.test");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers.get("access-control-allow-origin"), Some("https://x.test"));
    proxy.stop();
}

#[test]
fn section_19_preflights_from_elsewhere_may_be_answered_here() {
    let origin = Origin::ok();
    let policy = json!({
        "allow_origin_string_match": [{"exact": "https://a.test"}],
        "forward_not_matching_preflights": false,
    });
    let proxy = Proxy::start(&with_cors(&origin, policy));
    let mut client = proxy.client();
    let answer = preflight(&mut client, "https://b.test");
    assert_eq!(answer.status, 200);
    assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("access-")), "{answer:?}");
    assert_eq!(origin.log().requests.len(), 0);
    drop(client);
    proxy.stop();
}

#[test]
fn section_6_routes_disable_and_enable_filters() {
    let origin = Origin::ok();
    let fault = json!({"abort": {"http_status": 500, "percentage": always()}});
    let mut asleep = filter("asleep", FAULT, fault.clone());
    asleep["disabled"] = true.into();
    let config = Config::new()
        .cluster("origin", &[origin.address()])
        .http(filters(&[filter("awake", FAULT, fault.clone()), asleep]))
        .route(json!({
            "match": {"prefix": "/off"}, "route": {"cluster": "origin"},
            "typed_per_filter_config": {"awake": typed(FILTER_CONFIG, json!({"disabled": true}))},
        }))
        .route(json!({
            "match": {"prefix": "/on"}, "route": {"cluster": "origin"},
            "typed_per_filter_config": {
                "awake": typed(FILTER_CONFIG, json!({"disabled": true})),
                "asleep": typed(FILTER_CONFIG, json!({"config": typed(FAULT, json!({
                    "abort": {"http_status": 501, "percentage": always()}}))})),
            },
        }))
        .route(json!({"match": {"prefix": "/"}, "route": {"cluster": "origin"}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    assert_eq!(client.get("/off").status, 200);
    assert_eq!(client.get("/on").status, 501);
    assert_eq!(client.get("/").status, 500);
    drop(client);
    proxy.stop();
}
