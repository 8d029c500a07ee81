//! gRPC through the proxy: calls of every shape, deadlines, errors in its own terms, statistics, and
//! the bridge from gRPC-Web.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use outrigger_tests::config::{GRPC_STATS, GRPC_WEB, ROUTER, access_log};
use outrigger_tests::frames::code;
use outrigger_tests::http::{Fault, Headers, Response};
use outrigger_tests::http2::{Call, Exchange};
use outrigger_tests::origin::refusing;
use outrigger_tests::process::Scratch;
use outrigger_tests::{Config, Frame, Http2, Http2Client, Launch, Origin, Proxy, eventually};
use serde_json::{Value, json};

use crate::basics::pattern;

/// A message with its five bytes in front.
fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// The messages of a body.
fn messages(mut body: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some((head, rest)) = body.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let (bytes, rest) = rest.split_at(length);
        found.push(bytes.to_vec());
        body = rest;
    }
    assert!(body.is_empty(), "half a message: {body:?}");
    found
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// Serves `test.Service`: `Echo` answers with every message that comes, as it comes; `Collect` with
/// their sum; `Fail` with status 5; `Refuse` with status 7 and nothing else; `Silent` never.
fn service() -> Origin {
    Origin::http2(Http2::default(), |mut exchange| async move {
        let head = exchange.request_head();
        match head.target.rsplit('/').next().unwrap_or_default() {
            "Echo" => echo(exchange).await,
            "Collect" => {
                let (body, _) = exchange.rest().await?;
                let sum = messages(&body).concat();
                exchange.head(200, &[GRPC], false)?;
                exchange.send(&message(&sum)).await?;
                exchange.finish_with(&[("grpc-status", "0"), ("x-count", "1")])
            }
            "Fail" => {
                exchange.rest().await?;
                exchange.head(200, &[GRPC], false)?;
                exchange.finish_with(&[("grpc-status", "5"), ("grpc-message", "not%20here")])
            }
            "Refuse" => {
                exchange.rest().await?;
                exchange.head(200, &[GRPC, ("grpc-status", "7"), ("grpc-message", "no")], true)
            }
            _ => exchange.reset_by_peer().await.map(drop),
        }
    })
}

async fn echo(mut exchange: Exchange) -> Result<(), Fault> {
    exchange.head(200, &[GRPC], false)?;
    while let Some(bytes) = exchange.chunk().await? {
        exchange.send(&bytes).await?;
    }
    exchange.finish_with(&[("grpc-status", "0")])
}

fn start(origin: &Origin) -> Proxy {
    Proxy::start(&Config::to_http2(origin.address()))
}

fn open(client: &Http2Client, method: &str, more: &[(&str, &str)]) -> Call {
    let fields = [&[GRPC, ("te", "trailers")], more].concat();
    client.open("POST", &format!("/test.Service/{method}"), &fields, false)
}

#[track_caller]
fn unary(client: &Http2Client, method: &str, more: &[(&str, &str)], bytes: &[u8]) -> Response {
    let mut call = open(client, method, more);
    call.send_whole(message(bytes));
    call.response().unwrap()
}

/// The status, from the trailers or from the head of a response that has nothing else.
fn status(response: &Response) -> Option<u32> {
    let field = |headers: &Headers| headers.get("grpc-status").and_then(|text| text.parse().ok());
    field(&response.trailers).or_else(|| field(&response.headers))
}

#[test]
fn calls_of_one_message() {
    let origin = service();
    let proxy = start(&origin);
    let client = proxy.http2();
    for length in [0, 1, 1000, 8 << 20] {
        // Read as a whole before it is answered, or sending would wait for receiving.
        let response = unary(&client, "Collect", &[("x-meta", "data")], &pattern(length));
        assert_eq!((response.status, status(&response)), (200, Some(0)));
        assert!(messages(&response.body) == [pattern(length)], "the message changed");
        assert_eq!(response.header("content-type"), Some("application/grpc"));
    }
    let request = origin.nth_request(1);
    assert_eq!(request.headers.get("te"), Some("trailers"));
    assert_eq!(request.headers.get("x-meta"), Some("data"));
    assert_eq!(request.headers.get("content-length"), None);
    proxy.stop();
}

#[test]
fn streams_of_messages() {
    let origin = service();
    let proxy = start(&origin);
    let client = proxy.http2();
    // From the client.
    let mut call = open(&client, "Collect", &[]);
    for n in 0..100 {
        call.send(message(format!("{n} ").as_bytes()));
    }
    call.finish();
    let response = call.response().unwrap();
    let expected: String = (0..100).map(|n| format!("{n} ")).collect();
    assert_eq!(messages(&response.body), [expected.into_bytes()]);
    assert_eq!(response.trailers.get("x-count"), Some("1"));
    // Both ways, each message after the answer to the one before: nothing waits in the proxy.
    let mut call = open(&client, "Echo", &[]);
    assert_eq!(call.head().unwrap().status, 200);
    for n in 0..100 {
        let sent = message(&pattern(n * 37));
        call.send(&sent);
        assert!(call.exactly(sent.len()).unwrap() == sent, "message {n} changed");
    }
    call.finish();
    let (rest, trailers) = call.rest().unwrap();
    assert!(rest.is_empty());
    assert_eq!(trailers.get("grpc-status"), Some("0"));
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn errors_of_the_service_pass_as_they_are() {
    let origin = service();
    let proxy = start(&origin);
    let client = proxy.http2();
    let response = unary(&client, "Fail", &[], b"x");
    assert_eq!((response.status, response.header("grpc-status")), (200, None));
    assert_eq!(response.trailers.get("grpc-status"), Some("5"));
    assert_eq!(response.trailers.get("grpc-message"), Some("not%20here"));
    let response = unary(&client, "Refuse", &[], b"x");
    assert_eq!(response.header("grpc-status"), Some("7"));
    assert_eq!(response.header("grpc-message"), Some("no"));
    assert_eq!(response.trailers.iter().count(), 0);
    proxy.stop();
}

#[test]
fn a_cancelled_call_is_cancelled_at_the_service() {
    let cancelled = Arc::new(tokio::sync::Semaphore::new(0));
    let told = Arc::clone(&cancelled);
    let origin = Origin::http2(Http2::default(), move |mut exchange| {
        let told = Arc::clone(&told);
        async move {
            exchange.request_head();
            exchange.head(200, &[GRPC], false)?;
            exchange.send(&message(b"first")).await?;
            if exchange.reset_by_peer().await? == code::CANCEL {
                told.add_permits(1);
            }
            Ok(())
        }
    });
    let proxy = start(&origin);
    let client = proxy.http2();
    let mut call = open(&client, "Watch", &[]);
    assert_eq!(call.head().unwrap().status, 200);
    assert_eq!(call.exactly(10).unwrap(), message(b"first"));
    call.reset(code::CANCEL);
    eventually("the service hears of it", || cancelled.try_acquire().ok().map(drop));
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn local_errors_are_statuses() {
    let (_socket, refused) = refusing();
    let silent = service();
    let mut config = Config::new()
        .cluster("refused", &[&refused])
        .cluster("empty", &[])
        .cluster("origin", &[silent.address()])
        .tune_cluster(outrigger_tests::config::http2_upstream(&json!({})));
    for (code, _) in MAPPING {
        config = config.route(json!({
            "match": {"path": format!("/test.Service/{code}")},
            "direct_response": {"status": code, "body": {"inline_string": "some words"}},
        }));
    }
    let config = config
        .route(json!({"match": {"path": "/test.Service/Refused"}, "route": {"cluster": "refused"}}))
        .route(json!({"match": {"path": "/test.Service/Empty"}, "route": {"cluster": "empty"}}))
        .route(json!({
            "match": {"path": "/test.Service/Silent"},
            "route": {"cluster": "origin", "timeout": "0.3s"},
        }));
    let proxy = Proxy::start(&config);
    let client = proxy.http2();
    #[rustfmt::skip]
    let cases = [("Refused", 14), ("Empty", 14), ("Silent", 14), ("NoRoute", 12)];
    let mapped = MAPPING.iter().map(|(code, expected)| (code.to_string(), *expected));
    let named = cases.iter().map(|(name, expected)| ((*name).to_owned(), *expected));
    for (method, expected) in named.chain(mapped) {
        let response = unary(&client, &method, &[], b"x");
        assert_eq!(response.status, 200, "{method}");
        assert_eq!(response.header("content-type"), Some("application/grpc"), "{method}");
        // Everything in one field section (gRPC over HTTP/2, trailers-only).
        let found = response.header("grpc-status");
        assert_eq!(found, Some(expected.to_string().as_str()), "{method}: {response:?}");
        assert!(response.body.is_empty(), "{method}");
        if method == "503" {
            assert_eq!(response.header("grpc-message"), Some("some words"));
        }
    }
    // The same, asked over HTTP/1.1, where there is no other way to say it either.
    let mut old = proxy.client();
    old.send(
        "POST /test.Service/NoRoute HTTP/1.1\r\nHost: test\r\ncontent-type: application/grpc+proto\r\n\
         content-length: 0\r\n\r\n",
    );
    let response = old.response();
    assert_eq!((response.status, response.header("grpc-status")), (200, Some("12")));
    // What is not gRPC gets what it always gets.
    assert_eq!(client.ask("POST", "/test.Service/NoRoute", &[], b"x").status, 404);
    proxy.stop();
}

/// HTTP statuses and what they are to a client of gRPC (contract section 15.1).
#[rustfmt::skip]
const MAPPING: &[(u16, u32)] = &[
    (400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (502, 14), (503, 14), (504, 14), (500, 2),
    (418, 2),
];

/// A route whose deadlines are the calls' own, up to a limit.
fn with_deadlines(origin: &Origin, duration: Value) -> Config {
    Config::to_http2(origin.address())
        .tune_route(json!({"route": {"max_stream_duration": duration}}))
}

#[track_caller]
fn expires(proxy: &Proxy, timeout: &str, at_least_ms: u64, expected: u32) {
    let client = proxy.http2();
    let start = Instant::now();
    let response = unary(&client, "Silent", &[("grpc-timeout", timeout)], b"x");
    assert_eq!(status(&response), Some(expected), "{timeout}: {response:?}");
    let elapsed = start.elapsed();
    // Nobody is early, and nobody very late.
    assert!(elapsed >= Duration::from_millis(at_least_ms), "{timeout}: {elapsed:?}");
    assert!(elapsed < Duration::from_secs(10), "{timeout}: {elapsed:?}");
}

#[test]
fn deadlines_of_calls_are_kept() {
    let origin = service();
    let proxy = Proxy::start(&with_deadlines(&origin, json!({"grpc_timeout_header_max": "10s"})));
    for (timeout, at_least_ms) in [("300m", 300), ("250000u", 250), ("90000000n", 90)] {
        expires(&proxy, timeout, at_least_ms, 4);
    }
    assert_eq!(unary(&proxy.http2(), "Echo", &[("grpc-timeout", "20S")], b"x").status, 200);
    // The service knows its deadline as well.
    let request = origin.log().requests.pop().unwrap().request;
    assert!(request.headers.has("grpc-timeout"), "{request:?}");
    proxy.expect_no_active_requests();
    proxy.stop();
    // A longer one is cut.
    let proxy = Proxy::start(&with_deadlines(&origin, json!({"grpc_timeout_header_max": "0.3s"})));
    expires(&proxy, "1H", 300, 4);
    proxy.stop();
    // Without the setting, the route's own timeout is what counts.
    let config =
        Config::to_http2(origin.address()).tune_route(json!({"route": {"timeout": "0.4s"}}));
    let proxy = Proxy::start(&config);
    expires(&proxy, "100m", 400, 14);
    proxy.stop();
}

#[test]
fn a_deadline_within_a_stream_is_a_deadline() {
    let origin = Origin::http2(Http2::default(), |mut exchange| async move {
        exchange.request_head();
        exchange.head(200, &[GRPC], false)?;
        exchange.send(&message(b"first")).await?;
        exchange.reset_by_peer().await.map(drop)
    });
    let proxy = Proxy::start(&with_deadlines(&origin, json!({"grpc_timeout_header_max": "10s"})));
    let client = proxy.http2();
    let start = Instant::now();
    let mut call = open(&client, "Watch", &[("grpc-timeout", "300m")]);
    call.head().unwrap();
    assert_eq!(call.exactly(10).unwrap(), message(b"first"));
    // Said in trailers, or by the code that says the same (gRPC over HTTP/2, errors).
    match call.rest() {
        Ok((_, trailers)) => assert_eq!(trailers.get("grpc-status"), Some("4")),
        Err(fault) => assert_eq!(fault, Fault::Stream(code::CANCEL)),
    }
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(300), "{elapsed:?}");
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn a_long_stream_outlives_no_timeout_that_is_not_set() {
    let origin = service();
    let config = Config::to_http2(origin.address()).tune_route(json!({"route": {"timeout": "0s"}}));
    let proxy = Proxy::start(&config);
    let client = proxy.http2();
    let mut call = open(&client, "Echo", &[]);
    call.head().unwrap();
    let end = Instant::now() + Duration::from_millis(600);
    while Instant::now() < end {
        call.send(message(b"beat"));
        assert_eq!(call.exactly(9).unwrap(), message(b"beat"));
    }
    call.finish();
    assert_eq!(call.rest().unwrap().1.get("grpc-status"), Some("0"));
    proxy.stop();
}

fn with_filter(origin: &Origin, name: &str, filter: Value) -> Config {
    Config::to_http2(origin.address()).http(json!({"http_filters": [
        {"name": name, "typed_config": filter},
        {"name": "router", "typed_config": {"@type": ROUTER}},
    ]}))
}

#[test]
fn calls_are_counted_by_service_and_method() {
    let origin = service();
    let filter = json!({"@type": GRPC_STATS, "stats_for_all_methods": true});
    let proxy = Proxy::start(&with_filter(&origin, "envoy.filters.http.grpc_stats", filter));
    let client = proxy.http2();
    for _ in 0..3 {
        unary(&client, "Echo", &[], b"x");
    }
    let mut call = open(&client, "Echo", &[]);
    for _ in 0..5 {
        call.send(message(b"more"));
    }
    call.finish();
    call.response().unwrap();
    unary(&client, "Fail", &[], b"x");
    unary(&client, "Refuse", &[], b"x");
    let root = "cluster.origin.grpc.test.Service";
    for (name, value) in [
        ("Echo.total", 4),
        ("Echo.success", 4),
        ("Echo.0", 4),
        ("Echo.request_message_count", 8),
        ("Echo.response_message_count", 8),
        ("Fail.total", 1),
        ("Fail.failure", 1),
        ("Fail.5", 1),
        ("Refuse.7", 1),
        ("Refuse.failure", 1),
    ] {
        proxy.expect_stat(&format!("{root}.{name}"), value);
    }
    proxy.stop();
    // Only those that are named, where some are.
    let filter = json!({"@type": GRPC_STATS, "individual_method_stats_allowlist": {
        "services": [{"name": "test.Service", "method_names": ["Fail"]}],
    }});
    let proxy = Proxy::start(&with_filter(&origin, "envoy.filters.http.grpc_stats", filter));
    let client = proxy.http2();
    unary(&client, "Echo", &[], b"x");
    unary(&client, "Fail", &[], b"x");
    proxy.expect_stat(&format!("{root}.Fail.total"), 1);
    proxy.expect_stat("cluster.origin.grpc.total", 1);
    assert!(!proxy.stats().contains_key(&format!("{root}.Echo.total")));
    proxy.stop();
}

#[test]
fn access_logs_have_the_status_of_calls() {
    let scratch = Scratch::new();
    let path = scratch.file("access.log");
    let origin = service();
    let format = "%REQ(:PATH)% %RESPONSE_CODE% %GRPC_STATUS% %GRPC_STATUS_NUMBER% \
                  %TRAILER(grpc-message)%\n";
    let config =
        Config::to_http2(origin.address()).http(json!({"access_log": access_log(&path, format)}));
    let proxy = Launch::outrigger(&config).arguments(&["--file-flush-interval-msec", "20"]).start();
    let client = proxy.http2();
    for method in ["Echo", "Fail", "Refuse"] {
        unary(&client, method, &[], b"x");
    }
    let lines = eventually("the log", || {
        let text = std::fs::read_to_string(&path).ok()?;
        (text.lines().count() == 3).then_some(text)
    });
    assert_eq!(
        lines.lines().collect::<Vec<_>>(),
        [
            "/test.Service/Echo 200 OK 0 -",
            "/test.Service/Fail 200 NotFound 5 not%20here",
            "/test.Service/Refuse 200 PermissionDenied 7 -",
        ]
    );
    proxy.stop();
}

/// Text mode.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) & 63;
            let known = place <= three.len();
            text.push(if known { char::from(DIGITS[digit as usize]) } else { '=' });
        }
    }
    text
}

/// Text mode back again; it may be made of several padded parts.
fn from_base64(text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("no base64: {}", text.escape_ascii()),
    };
    let mut bytes = Vec::new();
    assert_eq!(text.len() % 4, 0, "{}", text.escape_ascii());
    for four in text.chunks(4) {
        let length = four.iter().take_while(|byte| **byte != b'=').count();
        let known = four[..length].iter();
        let bits = known.fold(0, |bits, byte| bits << 6 | digit(*byte)) << (6 * (4 - length));
        bytes.extend_from_slice(&u32::to_be_bytes(bits)[1..length]);
    }
    bytes
}

/// The message frames of a body of gRPC-Web, and the trailers behind them.
fn web_parts(body: &[u8]) -> (Vec<Vec<u8>>, String) {
    let mut at = 0;
    while body[at] & 0x80 == 0 {
        at += 5 + u32::from_be_bytes(body[at + 1..at + 5].try_into().unwrap()) as usize;
    }
    let length = u32::from_be_bytes(body[at + 1..at + 5].try_into().unwrap()) as usize;
    assert_eq!(body.len(), at + 5 + length, "bytes after the trailers");
    let trailers = String::from_utf8(body[at + 5..].to_vec()).unwrap();
    (messages(&body[..at]), trailers)
}

#[test]
fn grpc_web_becomes_grpc_and_back() {
    let origin = service();
    let config = with_filter(&origin, "envoy.filters.http.grpc_web", json!({"@type": GRPC_WEB}));
    let proxy = Proxy::start(&config);
    let new = proxy.http2();
    for is_text in [false, true] {
        let kind = if is_text { "application/grpc-web-text" } else { "application/grpc-web" };
        for suffix in ["", "+proto"] {
            for length in [0, 1, 2, 3, 1000, 200_000] {
                let sent = message(&pattern(length));
                let sent = if is_text { base64(&sent).into_bytes() } else { sent };
                let kind = format!("{kind}{suffix}");
                let fields = [
                    ("content-type", kind.as_str()),
                    ("accept", kind.as_str()),
                    ("x-grpc-web", "1"),
                ];
                let by_new = new.ask("POST", "/test.Service/Echo", &fields, &sent);
                let mut old = proxy.client();
                old.send(format!(
                    "POST /test.Service/Echo HTTP/1.1\r\nHost: test\r\ncontent-type: {kind}\r\n\
                     accept: {kind}\r\nx-grpc-web: 1\r\ncontent-length: {}\r\n\r\n",
                    sent.len()
                ));
                let by_old = old.send(&sent).response();
                for response in [by_new, by_old] {
                    let name = format!("{kind}, {length}, {}", response.version);
                    assert_eq!(response.status, 200, "{name}");
                    let expected = if is_text {
                        "application/grpc-web-text+proto"
                    } else {
                        "application/grpc-web+proto"
                    };
                    assert_eq!(response.header("content-type"), Some(expected), "{name}");
                    let body = match is_text {
                        true => from_base64(&response.body),
                        false => response.body.clone(),
                    };
                    let (messages, trailers) = web_parts(&body);
                    assert!(messages == [pattern(length)], "{name}: the message changed");
                    assert!(
                        trailers.to_lowercase().contains("grpc-status:0"),
                        "{name}: {trailers}"
                    );
                    assert_eq!(response.trailers.iter().count(), 0, "{name}");
                }
            }
        }
    }
    let request = origin.log().requests.pop().unwrap().request;
    assert_eq!(request.headers.get("content-type"), Some("application/grpc"));
    assert_eq!(request.headers.get("te"), Some("trailers"));
    assert!(!request.headers.has("content-length"), "{request:?}");
    // Real gRPC passes beside it.
    assert_eq!(status(&unary(&new, "Echo", &[], b"x")), Some(0));
    proxy.stop();
}

#[test]
fn grpc_web_has_errors_too() {
    let origin = service();
    let config = with_filter(&origin, "envoy.filters.http.grpc_web", json!({"@type": GRPC_WEB}))
        .http(json!({"route_config": {"virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/test.Service"}, "route": {"cluster": "origin"}}],
        }]}}));
    let proxy = Proxy::start(&config);
    let client = proxy.http2();
    let fields = [("content-type", "application/grpc-web+proto"), ("x-grpc-web", "1")];
    let ask = |path: &str| client.ask("POST", path, &fields, &message(b"x"));
    let failed = ask("/test.Service/Fail");
    let (messages, trailers) = web_parts(&failed.body);
    assert!(messages.is_empty());
    assert!(trailers.contains("grpc-status:5\r\n"), "{trailers}");
    assert!(trailers.contains("grpc-message:not%20here\r\n"), "{trailers}");
    let refused = ask("/test.Service/Refuse");
    assert_eq!(refused.header("grpc-status"), Some("7"), "{refused:?}");
    let missing = ask("/nowhere/Echo");
    let is_refusal = missing.status == 404 || missing.header("grpc-status") == Some("12");
    assert!(is_refusal, "{missing:?}");
    // A body that is no base64, for an origin that has not answered yet.
    let fields = [("content-type", "application/grpc-web-text"), ("x-grpc-web", "1")];
    let bad = client.ask("POST", "/test.Service/Collect", &fields, b"!!!!");
    assert!(bad.status == 400 || bad.header("grpc-status").is_some(), "{bad:?}");
    proxy.stop();
}

#[test]
fn goaways_fail_no_call() {
    const CLIENTS: usize = 4;
    const CALLS: usize = 50;
    // Each connection processes ten calls, then says so and leaves the others out.
    let origin = Origin::start(|peer| {
        let (mut frames, notes) = peer.frames(&[])?;
        let mut answered = BTreeSet::new();
        for count in 1.. {
            let (stream, request) = frames.request()?;
            notes.note(&request);
            answered.insert(stream);
            frames.send_all(&[
                Frame::headers(stream, &[(":status", "200"), GRPC], false),
                Frame::data(stream, message(b"ok"), false),
                Frame::headers(stream, &[("grpc-status", "0")], true),
            ])?;
            if count == 10 {
                // Requests are complete in another order than they were begun: everything up to the
                // last one that is named must have been answered.
                let last = (1..).step_by(2).take_while(|id| answered.contains(id)).last();
                frames.send(&Frame::goaway(last.unwrap_or(0), code::NO_ERROR))?;
                break;
            }
        }
        frames.until_close().map(drop)
    });
    let proxy = start(&origin);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let client = proxy.http2();
                for _ in 0..CALLS {
                    let response = unary(&client, "Any", &[], b"x");
                    assert_eq!(status(&response), Some(0), "{response:?}");
                }
            });
        }
    });
    // None was processed twice.
    assert_eq!(origin.log().requests.len(), CLIENTS * CALLS);
    proxy.stop();
}
