//! Requests that are sent again (contract section 9.1): after which outcomes, how often, to whom, and
//! with what.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use outrigger_tests::config::access_log;
use outrigger_tests::http2::{Exchange, Http2};
use outrigger_tests::origin::{OK, Peer, refusing};
use outrigger_tests::proxy::Launch;
use outrigger_tests::{Client, Config, Origin, Proxy, eventually};
use serde_json::{Value, json};

const POST: &str = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
    2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";

/// Waits that end before anybody would notice.
fn quick(mut policy: Value) -> Value {
    policy["retry_back_off"] = json!({"base_interval": "0.001s"});
    policy
}

fn with_policy(origin: &Origin, policy: Value) -> Config {
    Config::to(origin.address()).tune_route(json!({"route": {"retry_policy": quick(policy)}}))
}

/// Fails `failures` times in the way of `fail`, and then answers.
fn flaky(
    failures: usize,
    fail: impl Fn(&mut Peer) -> Result<(), outrigger_tests::http::Fault> + Send + Sync + 'static,
) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::start(move |peer| {
        loop {
            peer.request()?;
            if count.fetch_add(1, Ordering::SeqCst) < failures {
                fail(peer)?;
                return Ok(());
            }
            peer.send(OK)?;
        }
    })
}

fn answering(failures: usize, status: &'static str) -> Origin {
    flaky(failures, move |peer| {
        peer.send(format!("HTTP/1.1 {status}\r\ncontent-length: 3\r\n\r\nbad"))
    })
}

fn retried(proxy: &Proxy) -> (u64, u64) {
    let stats = proxy.stats();
    let of = |name: &str| stats[&format!("cluster.origin.{name}")];
    (of("upstream_rq_retry"), of("upstream_rq_retry_success"))
}

#[test]
fn section_9_1_a_try_that_breaks_off_is_followed_by_another_with_the_same_body() {
    for (request, reset) in [(POST, true), (POST, false), (CHUNKED, true), (CHUNKED, false)] {
        let origin = flaky(2, move |peer| if reset { peer.reset() } else { Ok(()) });
        let config = with_policy(&origin, json!({"retry_on": "reset", "num_retries": 2}));
        let proxy = Proxy::start(&counting(config));
        let mut client = proxy.client();
        client.send(request);
        let response = client.response();
        assert_eq!((response.status, response.header("x-envoy-attempt-count")), (200, Some("3")));
        let seen = origin.log().requests;
        let bodies: Vec<_> = seen.iter().map(|seen| seen.request.body.clone()).collect();
        assert_eq!(bodies, [b"hello"; 3], "{request}");
        let attempts: Vec<_> = seen
            .iter()
            .map(|seen| seen.request.headers.get("x-envoy-attempt-count").unwrap())
            .collect();
        assert_eq!(attempts, ["1", "2", "3"]);
        assert_eq!(retried(&proxy), (2, 1));
        assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry_backoff_exponential"), 2);
        proxy.expect_no_active_requests();
        drop(client);
        proxy.stop();
    }
}

/// Both sides are told of attempts.
fn counting(config: Config) -> Config {
    let mut json = config.json().clone();
    let host = json
        .pointer_mut(
            "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config\
             /virtual_hosts/0",
        )
        .unwrap();
    host["include_request_attempt_count"] = true.into();
    host["include_attempt_count_in_response"] = true.into();
    Config::new().with(json)
}

#[test]
fn section_9_1_each_condition_has_its_statuses() {
    for (retry_on, status, again) in [
        ("5xx", "500 X", true),
        ("5xx", "503 X", true),
        ("5xx", "404 X", false),
        ("gateway-error", "502 X", true),
        ("gateway-error", "504 X", true),
        ("gateway-error", "500 X", false),
        ("retriable-4xx", "409 X", true),
        ("retriable-4xx", "404 X", false),
        ("retriable-status-codes", "418 X", true),
        ("retriable-status-codes", "503 X", false),
        ("connect-failure,refused-stream,reset", "503 X", false),
        ("envoy-ratelimited", "503 X\r\nx-envoy-ratelimited: true", true),
        ("5xx", "503 X\r\nx-envoy-ratelimited: true", false),
        ("retriable-headers", "200 X\r\nx-again: 1", true),
        ("retriable-headers", "503 X", false),
        ("unavailable", "200 X\r\ngrpc-status: 14", true),
        ("cancelled", "200 X\r\ngrpc-status: 1", true),
        ("deadline-exceeded", "200 X\r\ngrpc-status: 4", true),
        ("internal", "200 X\r\ngrpc-status: 13", true),
        ("resource-exhausted", "200 X\r\ngrpc-status: 8", true),
        ("unavailable", "200 X\r\ngrpc-status: 13", false),
    ] {
        let origin = answering(1, status);
        let config = with_policy(
            &origin,
            json!({
                "retry_on": retry_on, "retriable_status_codes": [418],
                "retriable_headers": [{"name": "x-again", "present_match": true}],
            }),
        );
        let proxy = Proxy::start(&config);
        let mut client = proxy.client();
        let text = client.get("/").text();
        assert_eq!(text, if again { "ok" } else { "bad" }, "{retry_on}: {status}");
        assert_eq!(origin.log().requests.len(), if again { 2 } else { 1 });
        assert_eq!(retried(&proxy), if again { (1, 1) } else { (0, 0) });
        drop(client);
        proxy.stop();
    }
}

#[test]
fn section_9_1_without_a_policy_nothing_is_retried() {
    let origin = answering(1, "503 X");
    let proxy = Proxy::start(&Config::to(origin.address()));
    assert_eq!(proxy.client().get("/").status, 503);
    assert_eq!(retried(&proxy), (0, 0));
    proxy.stop();
}

#[test]
fn section_9_1_the_last_try_is_passed_on_and_said_to_be_the_last() {
    let origin = answering(usize::MAX, "503 X");
    let config = with_policy(&origin, json!({"retry_on": "5xx", "num_retries": 3}));
    let config = config.http(json!({
        "access_log": access_log("access.log".as_ref(), "%RESPONSE_FLAGS% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\n"),
    }));
    let launch = Launch::outrigger(&config);
    let log = launch.directory().join("access.log");
    let proxy = launch.arguments(&["--file-flush-interval-msec", "10"]).start();
    let response = proxy.client().get("/");
    assert_eq!((response.status, &*response.text()), (503, "bad"));
    assert_eq!(origin.log().requests.len(), 4);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry"), 3);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry_limit_exceeded"), 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry_success"), 0);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_503"), 4);
    let line = eventually("the access log", || {
        std::fs::read_to_string(&log).ok().filter(|text| !text.is_empty())
    });
    assert_eq!(line, "URX 4\n");
    proxy.stop();
}

#[test]
fn section_9_1_a_connect_failure_goes_to_another_endpoint() {
    let (_socket, refused) = refusing();
    let origin = Origin::ok();
    let policy = quick(json!({
        "retry_on": "connect-failure", "num_retries": 2,
        "host_selection_retry_max_attempts": 20,
        "retry_host_predicate": [previous_hosts()],
    }));
    let config = Config::new().cluster("origin", &[&refused, origin.address()]).route(
        json!({"match": {"prefix": "/"}, "route": {"cluster": "origin", "retry_policy": policy}}),
    );
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    for _ in 0..10 {
        client.send(POST);
        assert_eq!(client.response().status, 200);
    }
    let failed = proxy.stat("cluster.origin.upstream_cx_connect_fail");
    assert!(failed > 0);
    assert_eq!(retried(&proxy), (failed, failed));
    drop(client);
    proxy.stop();
}

fn previous_hosts() -> Value {
    json!({"name": "previous_hosts", "typed_config": {"@type":
        "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}})
}

#[test]
fn section_9_1_previous_hosts_are_passed_over() {
    let bad = answering(usize::MAX, "503 X");
    let good = Origin::ok();
    let policy = quick(json!({
        "retry_on": "5xx", "num_retries": 1, "host_selection_retry_max_attempts": 50,
        "retry_host_predicate": [previous_hosts()],
    }));
    let config = Config::new()
        .cluster("origin", &[bad.address(), good.address()])
        .tune_cluster(json!({"lb_policy": "RANDOM"}))
        .route(json!({"match": {"prefix": "/"}, "route": {"cluster": "origin", "retry_policy": policy}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    for _ in 0..30 {
        assert_eq!(client.get("/").status, 200);
    }
    assert!(!bad.log().requests.is_empty());
    drop(client);
    proxy.stop();
}

#[test]
fn section_9_1_nobody_left_to_try_is_503() {
    let (_socket, refused) = refusing();
    let config = Config::to(&refused)
        .tune_route(json!({"route": {"retry_policy": quick(json!({"retry_on": "connect-failure", "num_retries": 3}))}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    let response = client.get("/");
    assert_eq!(response.status, 503);
    assert!(response.text().contains("upstream connect error"), "{response:?}");
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_connect_fail"), 4);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry"), 3);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry_limit_exceeded"), 1);
    proxy.expect_no_active_requests();
    drop(client);
    proxy.stop();
}

#[test]
fn section_9_1_a_try_that_takes_too_long_is_followed_by_another() {
    let origin = flaky(1, Peer::stall);
    let config = with_policy(
        &origin,
        json!({"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.2s"}),
    );
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    client.send(POST);
    assert_eq!(client.response().status, 200);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_per_try_timeout"), 1);
    assert_eq!(retried(&proxy), (1, 1));
    assert_eq!(origin.nth_request(2).body, b"hello");
    let expected = origin.nth_request(1);
    assert_eq!(expected.headers.get("x-envoy-expected-rq-timeout-ms"), Some("200"));
    drop(client);
    proxy.stop();
}

#[test]
fn section_9_1_when_every_try_takes_too_long_the_answer_is_504() {
    for (limit, details, counter) in [
        ("per_try_timeout", "upstream_per_try_timeout", "upstream_rq_per_try_timeout"),
        (
            "per_try_idle_timeout",
            "upstream_per_try_idle_timeout",
            "upstream_rq_per_try_idle_timeout",
        ),
    ] {
        let origin = flaky(usize::MAX, Peer::stall);
        let config = with_policy(
            &origin,
            json!({"retry_on": "gateway-error", "num_retries": 1, limit: "0.1s"}),
        );
        let config = config.tune_route(json!({"response_headers_to_add": [
                {"header": {"key": "x-details", "value": "%RESPONSE_CODE_DETAILS%"}}]}));
        let proxy = Proxy::start(&config);
        let mut client = proxy.client();
        let response = client.get("/");
        assert_eq!((response.status, &*response.text()), (504, "upstream request timeout"));
        assert_eq!(response.header("x-details"), Some(details));
        assert_eq!(proxy.stat(&format!("cluster.origin.{counter}")), 2);
        proxy.expect_no_active_requests();
        drop(client);
        proxy.stop();
    }
}

#[test]
fn section_9_1_the_routes_timeout_ends_waiting_and_trying() {
    let origin = answering(usize::MAX, "503 X");
    let config = Config::to(origin.address()).tune_route(json!({"route": {
        "timeout": "0.3s",
        "retry_policy": {"retry_on": "5xx", "num_retries": 100,
            "retry_back_off": {"base_interval": "600s"}},
    }}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(client.get("/").status);
    }
    // The wait is drawn from ten minutes: three times less than 0.3 s has never been seen.
    assert!(statuses.contains(&504), "{statuses:?}");
    assert!(proxy.stat("cluster.origin.upstream_rq_timeout") > 0);
    proxy.expect_no_active_requests();
    drop(client);
    proxy.stop();
}

#[test]
fn section_9_1_a_client_that_leaves_between_two_tries_is_noticed() {
    let origin = answering(usize::MAX, "503 X");
    let config = Config::to(origin.address()).tune_route(json!({"route": {
        "timeout": "0s",
        "retry_policy": {"retry_on": "5xx", "retry_back_off": {"base_interval": "600s"}},
    }}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    proxy.expect_stat("cluster.origin.upstream_rq_retry", 1);
    drop(client);
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn section_9_1_a_response_says_how_long_to_wait() {
    let origin = answering(1, "429 X\r\nretry-after: 0");
    let config = Config::to(origin.address()).tune_route(json!({"route": {
        "retry_policy": {
            "retry_on": "retriable-status-codes", "retriable_status_codes": [429],
            "retry_back_off": {"base_interval": "600s"},
            "rate_limited_retry_back_off": {"reset_headers": [{"name": "retry-after"}]},
        },
    }}));
    let proxy = Proxy::start(&config);
    assert_eq!(proxy.client().get("/").status, 200);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry_backoff_ratelimited"), 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry_backoff_exponential"), 0);
    proxy.stop();
}

#[test]
fn section_9_1_a_body_above_the_limit_is_not_sent_again_but_flows() {
    let origin = flaky(1, Peer::reset);
    let config = with_policy(&origin, json!({"retry_on": "reset", "num_retries": 5}))
        .tune_route(json!({"request_body_buffer_limit": "1000"}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    let big = "x".repeat(1001);
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1001\r\n\r\n{big}"));
    assert_eq!(client.response().status, 503);
    assert_eq!(proxy.stat("cluster.origin.retry_or_shadow_abandoned"), 1);
    assert_eq!(origin.log().requests.len(), 1);
    assert_eq!(origin.only_request().body.len(), 1001);
    drop(client);
    proxy.stop();
    let origin = flaky(1, Peer::reset);
    let config = with_policy(&origin, json!({"retry_on": "reset", "num_retries": 5}))
        .tune_route(json!({"request_body_buffer_limit": "1000"}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    let fits = "x".repeat(1000);
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n{fits}"));
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.nth_request(2).body, fits.as_bytes());
    drop(client);
    proxy.stop();
}

#[test]
fn section_9_1_retries_under_way_are_limited() {
    let origin = answering(usize::MAX, "503 X");
    let config = with_policy(&origin, json!({"retry_on": "5xx"})).tune_cluster(json!({
        "circuit_breakers": {"thresholds": [{"max_retries": 0}]},
    }));
    let proxy = Proxy::start(&config);
    let response = proxy.client().get("/");
    assert_eq!((response.status, &*response.text()), (503, "bad"));
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry_overflow"), 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry"), 0);
    assert_eq!(origin.log().requests.len(), 1);
    proxy.stop();
}

#[test]
fn section_9_1_only_certain_requests_are_retried() {
    let origin = answering(usize::MAX, "503 X");
    let policy = json!({
        "retry_on": "5xx",
        "retriable_request_headers": [{"name": "x-may", "string_match": {"exact": "yes"}}],
    });
    let proxy = Proxy::start(&with_policy(&origin, policy));
    let mut client = proxy.client();
    let mut get = |fields: &str| {
        client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).response().status
    };
    assert_eq!(get(""), 503);
    assert_eq!(origin.log().requests.len(), 1);
    assert_eq!(get("x-may: yes\r\n"), 503);
    assert_eq!(origin.log().requests.len(), 3);
    drop(client);
    proxy.stop();
}

fn steering(client: &mut Client) -> u16 {
    client.send(
        "GET / HTTP/1.1\r\nHost: test\r\nx-forwarded-for: 10.1.2.3\r\nx-envoy-retry-on: \
         retriable-status-codes\r\nx-envoy-max-retries: 3\r\nx-envoy-retriable-status-codes: \
         418,503\r\nx-envoy-upstream-rq-timeout-ms: 9000\r\n\
         x-envoy-upstream-rq-per-try-timeout-ms: 8000\r\n\r\n",
    );
    client.response().status
}

#[test]
fn section_8_1_internal_callers_steer_retries_and_others_do_not() {
    let origin = answering(3, "503 X");
    let config = Config::to(origin.address()).http(json!({"internal_address_config": {
        "cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    assert_eq!(steering(&mut client), 200);
    let seen = origin.nth_request(4);
    assert_eq!(seen.headers.get("x-envoy-expected-rq-timeout-ms"), Some("8000"));
    let steers = |name: &str| {
        name.starts_with("x-envoy-re") || name.contains("-max-") || name.contains("upstream-rq")
    };
    assert!(seen.headers.iter().all(|(name, _)| !steers(name)), "{seen:?}");
    drop(client);
    proxy.stop();

    let origin = answering(3, "503 X");
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    assert_eq!(steering(&mut client), 503);
    let seen = origin.only_request();
    assert_eq!(seen.headers.get("x-envoy-expected-rq-timeout-ms"), Some("15000"));
    drop(client);
    proxy.stop();
}

#[test]
fn section_8_1_a_timeout_may_be_answered_with_204() {
    let origin = flaky(usize::MAX, Peer::stall);
    let config = Config::to(origin.address()).http(json!({"internal_address_config": {
        "cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: test\r\nx-forwarded-for: 10.1.2.3\r\n\
         x-envoy-upstream-rq-timeout-ms: 100\r\nx-envoy-upstream-rq-timeout-alt-response: 1\r\n\r\n",
    );
    assert_eq!(client.response().status, 204);
    drop(client);
    proxy.stop();
}

/// An HTTP/2 origin that fails `failures` streams in the way of `fail`, and then answers.
fn http2_flaky(failures: usize, fail: fn(&mut Exchange)) -> Origin {
    let count = Arc::new(AtomicUsize::new(0));
    Origin::http2(Http2::default(), move |mut exchange: Exchange| {
        let count = Arc::clone(&count);
        async move {
            exchange.request().await?;
            if count.fetch_add(1, Ordering::SeqCst) < failures {
                fail(&mut exchange);
                return Ok(());
            }
            exchange.answer(200, &[], b"ok").await
        }
    })
}

#[test]
fn section_9_1_streams_of_http2_are_retried_too() {
    const REFUSED_STREAM: u32 = 7;
    const INTERNAL_ERROR: u32 = 2;
    type Case = (&'static str, fn(&mut Exchange));
    let cases: [Case; 3] = [
        ("refused-stream", |exchange| exchange.reset(REFUSED_STREAM)),
        ("reset", |exchange| exchange.reset(INTERNAL_ERROR)),
        ("unavailable", |exchange| {
            let fields = [("content-type", "application/grpc"), ("grpc-status", "14")];
            let _ = exchange.head(200, &fields, true);
        }),
    ];
    for (retry_on, fail) in cases {
        let origin = http2_flaky(2, fail);
        let policy = quick(json!({"retry_on": retry_on, "num_retries": 2}));
        let config = Config::to_http2(origin.address())
            .tune_route(json!({"route": {"retry_policy": policy}}));
        let proxy = Proxy::start(&counting(config));
        let mut client = proxy.client();
        client.send(POST);
        assert_eq!(client.response().status, 200, "{retry_on}");
        let seen = origin.log().requests;
        assert!(seen.iter().all(|seen| seen.request.body == b"hello"), "{seen:?}");
        assert_eq!(seen[2].request.headers.get("x-envoy-attempt-count"), Some("3"));
        assert_eq!(retried(&proxy), (2, 1), "{retry_on}");
        drop(client);
        proxy.stop();
    }
}

#[test]
fn section_9_1_a_response_that_began_is_never_retried() {
    let origin = flaky(usize::MAX, |peer| {
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegin")?;
        peer.wire().exactly(0)?;
        Ok(())
    });
    let proxy = Proxy::start(&with_policy(&origin, json!({"retry_on": "5xx,reset"})));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(client.try_response().is_err());
    assert_eq!(origin.log().requests.len(), 1);
    drop(client);
    proxy.stop();
}

#[test]
fn section_9_1_priorities_that_had_the_request_are_passed_over() {
    let failing = Origin::answering("HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n");
    let spare = Origin::ok();
    let group = |priority: u32, origin: &Origin| {
        json!({"priority": priority, "lb_endpoints": [
            {"endpoint": {"address": origin.address().to_json()}}]})
    };
    let with = |priority: Value| {
        let mut policy = json!({"retry_on": "5xx", "num_retries": 1});
        policy["retry_priority"] = priority;
        let groups = json!([group(0, &failing), group(1, &spare)]);
        let config = with_policy(&failing, policy)
            .tune_cluster(json!({"load_assignment": {"endpoints": groups}}));
        let proxy = Proxy::start(&config);
        let mut client = proxy.client();
        let statuses: Vec<u16> = (0..5).map(|_| client.get("/").status).collect();
        drop(client);
        proxy.stop();
        statuses
    };
    // Nothing is wrong with the first priority but its answers.
    assert_eq!(with(Value::Null), [503; 5]);
    let kind = "type.googleapis.com/\
        envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig";
    let previous = json!({"name": "envoy.retry_priorities.previous_priorities",
        "typed_config": {"@type": kind, "update_frequency": 1}});
    assert_eq!(with(previous), [200; 5]);
}
