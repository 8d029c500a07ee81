//! HTTP/2 on either side, and what passes from one version to the other.

use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use outrigger_tests::config::{access_log, http2_upstream};
use outrigger_tests::frames::{
    Representation, block, code, flag, get, kind, literal, post, setting,
};
use outrigger_tests::http::Fault;
use outrigger_tests::http2::Exchange;
use outrigger_tests::origin::OK;
use outrigger_tests::process::Scratch;
use outrigger_tests::{Config, Frame, Http2, Http2Client, Launch, Origin, Proxy, eventually};
use serde_json::json;

use crate::basics::pattern;
use crate::versions::{AnyClient, Body, COMBINATIONS, Version, config, origin};

#[test]
fn bodies_pass_both_ways_in_every_combination() {
    for (down, up) in COMBINATIONS {
        let origin = origin(up);
        let proxy = Proxy::start(&config(&origin, up));
        let mut client = AnyClient::connect(&proxy, down);
        for length in [0, 1, 16_384, 300_000] {
            let body = pattern(length);
            for (known, sent) in [(true, Body::Length(&body)), (false, Body::Unknown(&body, &[]))] {
                let name = format!("{down:?} to {up:?}, {length}, length known: {known}");
                let response = client.ask("POST", "/echo", &[], sent);
                assert_eq!(response.status, 200, "{name}");
                assert!(response.body == body, "{name}: the body changed");
                let request = origin.log().requests.pop().unwrap().request;
                assert!(request.body == body, "{name}: the body changed on its way up");
                let expected = known.then(|| length.to_string());
                let expected = expected.as_deref();
                assert_eq!(request.headers.get("content-length"), expected, "{name}");
                assert_eq!(response.header("content-length"), expected, "{name}");
                origin.forget();
            }
        }
        assert_eq!(origin.log().accepted, 1, "{down:?} to {up:?}");
        proxy.stop();
    }
}

#[test]
fn methods_pass_in_every_combination() {
    for (down, up) in COMBINATIONS {
        let origin = origin(up);
        let proxy = Proxy::start(&config(&origin, up));
        let mut client = AnyClient::connect(&proxy, down);
        for method in ["GET", "DELETE", "OPTIONS", "PUT", "PATCH", "REPORT"] {
            let response = client.ask(method, "/length?q=1", &[("x-a", "1")], Body::None);
            assert_eq!((response.status, response.text().as_str()), (200, ""), "{method}");
            let request = origin.log().requests.pop().unwrap().request;
            assert_eq!((request.method.as_str(), request.target.as_str()), (method, "/length?q=1"));
            assert_eq!(request.authority(), Some("test"), "{method}: {request:?}");
            assert_eq!(request.headers.get("x-a"), Some("1"));
            assert_eq!(request.headers.get("x-forwarded-proto"), Some("http"));
            assert!(request.body.is_empty());
        }
        proxy.stop();
    }
}

#[test]
fn responses_without_a_body_pass_in_every_combination() {
    for (down, up) in COMBINATIONS {
        let name = format!("{down:?} to {up:?}");
        let origin = origin(up);
        let proxy = Proxy::start(&config(&origin, up));
        let mut client = AnyClient::connect(&proxy, down);
        let head = client.ask("HEAD", "/length", &[], Body::None);
        assert_eq!((head.status, head.header("content-length")), (200, Some("7")), "{name}");
        let none = client.ask("GET", "/204", &[], Body::None);
        assert_eq!((none.status, none.header("x-status")), (204, Some("204")), "{name}");
        assert_eq!(none.header("content-length"), None, "{name}");
        let same = client.ask("GET", "/304", &[], Body::None);
        assert_eq!((same.status, same.header("etag")), (304, Some("\"e\"")), "{name}");
        assert_eq!(client.ask("GET", "/unknown", &[], Body::None).text(), "unknown", "{name}");
        assert_eq!(client.ask("GET", "/length", &[], Body::None).text(), "length", "{name}");
        proxy.stop();
    }
}

#[test]
fn interim_responses_end_no_exchange_in_any_combination() {
    for (down, up) in COMBINATIONS {
        let origin = origin(up);
        let proxy = Proxy::start(&config(&origin, up));
        let mut client = AnyClient::connect(&proxy, down);
        for _ in 0..2 {
            let response = client.ask("GET", "/hints", &[], Body::None);
            assert_eq!((response.status, response.text().as_str()), (200, "ok"), "{down:?} {up:?}");
        }
        proxy.stop();
    }
}

#[test]
fn trailers_pass_both_ways_in_every_combination() {
    for (down, up) in COMBINATIONS {
        let name = format!("{down:?} to {up:?}");
        let origin = origin(up);
        let proxy = Proxy::start(&config(&origin, up));
        let mut client = AnyClient::connect(&proxy, down);
        for body in [&b"body"[..], b""] {
            let trailers = [("x-sum", "1"), ("x-more", "2"), ("x-more", "3")];
            let response = client.ask("POST", "/echo", &[], Body::Unknown(body, &trailers));
            let request = origin.log().requests.pop().unwrap().request;
            assert_eq!((&request.body[..], &response.body[..]), (body, body), "{name}");
            for found in [&request.trailers, &response.trailers] {
                assert_eq!(found.get("x-sum"), Some("1"), "{name}: {found:?}");
                assert_eq!(found.all("x-more"), ["2", "3"], "{name}");
            }
        }
        proxy.stop();
    }
}

#[test]
fn an_expectation_is_answered_here() {
    let origin = Origin::http2_echo();
    let proxy = Proxy::start(&Config::to_http2(origin.address()));
    let client = proxy.http2();
    let mut call = client.open("POST", "/", &[("expect", "100-continue")], false);
    assert_eq!(call.interim().unwrap().map(|response| response.status), Some(100));
    call.send("hello");
    call.finish();
    let response = call.response().unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    assert!(!origin.only_request().headers.has("expect"));
    proxy.stop();
}

#[test]
fn an_expectation_goes_to_the_origin_where_configured() {
    let origin = Origin::http2(Http2::default(), |mut exchange| async move {
        exchange.request_head();
        exchange.interim(100, &[])?;
        let (body, _) = exchange.rest().await?;
        exchange.answer(200, &[], &body).await
    });
    let config = Config::to_http2(origin.address()).http(json!({"proxy_100_continue": true}));
    let proxy = Proxy::start(&config);
    let client = proxy.http2();
    let mut call = client.open("POST", "/", &[("expect", "100-continue")], false);
    assert_eq!(call.interim().unwrap().map(|response| response.status), Some(100));
    call.send("hello");
    call.finish();
    assert_eq!(call.response().unwrap().text(), "hello");
    assert_eq!(origin.only_request().headers.get("expect"), Some("100-continue"));
    proxy.stop();
}

#[test]
fn header_fields_are_those_of_the_version_they_go_to() {
    let origin = origin(Version::Http1);
    let proxy = Proxy::start(&config(&origin, Version::Http1));
    // Cookies come in crumbs (RFC 9113 section 8.2.3).
    let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("x-up", "Kept")];
    let response = proxy.http2().ask("GET", "/length", &fields, b"");
    for hop in ["connection", "keep-alive", "transfer-encoding", "proxy-connection", "upgrade"] {
        assert_eq!(response.header(hop), None);
    }
    let request = origin.only_request();
    assert_eq!(request.headers.get("cookie"), Some("a=1; b=2"));
    assert_eq!((request.version.as_str(), request.headers.get("host")), ("HTTP/1.1", Some("test")));
    assert_eq!(request.headers.get("x-up"), Some("Kept"));
    assert!(request.headers.iter().all(|(name, _)| !name.starts_with(':')), "{request:?}");
    proxy.stop();

    let origin = crate::versions::origin(Version::Http2);
    let proxy = Proxy::start(&config(&origin, Version::Http2));
    let mut client = proxy.client();
    client.send(
        "GET /length HTTP/1.1\r\nHost: Test:80\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\
         Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nX-UP: Kept\r\n\r\n",
    );
    assert_eq!(client.response().text(), "length");
    let request = origin.only_request();
    assert_eq!(request.headers.get(":authority"), Some("Test:80"));
    assert_eq!(request.headers.get(":scheme"), Some("http"));
    assert_eq!(request.headers.get("x-up"), Some("Kept"));
    for gone in ["host", "connection", "x-hop", "keep-alive", "proxy-connection"] {
        assert!(!request.headers.has(gone), "{gone}: {request:?}");
    }
    proxy.stop();
}

/// All requests wait for each other at the origin, so they must be there at once.
fn meeting(version: Version, count: usize) -> Origin {
    match version {
        Version::Http1 => {
            let barrier = Barrier::new(count);
            Origin::start(move |peer| {
                loop {
                    peer.request()?;
                    barrier.wait();
                    peer.send(OK)?;
                }
            })
        }
        Version::Http2 => {
            let barrier = Arc::new(tokio::sync::Barrier::new(count));
            Origin::http2(Http2::default(), move |mut exchange| {
                let barrier = Arc::clone(&barrier);
                async move {
                    exchange.request().await?;
                    barrier.wait().await;
                    exchange.answer(200, &[], b"ok").await
                }
            })
        }
    }
}

#[test]
fn a_hundred_streams_are_under_way_at_once() {
    const STREAMS: usize = 100;
    for up in [Version::Http2, Version::Http1] {
        let origin = meeting(up, STREAMS);
        let proxy = Proxy::start(&config(&origin, up));
        let client = proxy.http2();
        let mut calls: Vec<_> =
            (0..STREAMS).map(|n| client.open("GET", &format!("/{n}"), &[], true)).collect();
        // The last asked is read first.
        for call in calls.iter_mut().rev() {
            assert_eq!(call.response().unwrap().text(), "ok");
        }
        let connections = if up == Version::Http2 { 1 } else { STREAMS };
        assert_eq!(origin.log().accepted, connections);
        assert_eq!(proxy.stat("http.main.downstream_cx_total"), 1);
        assert_eq!(proxy.stat("http.main.downstream_rq_2xx"), STREAMS as u64);
        proxy.expect_no_active_requests();
        proxy.stop();
    }
}

#[test]
fn clients_share_upstream_connections() {
    let origin = Origin::http2_ok();
    let proxy = Proxy::start(&Config::to_http2(origin.address()));
    for _ in 0..5 {
        assert_eq!(proxy.http2().get("/").text(), "ok");
        assert_eq!(proxy.client().get("/").text(), "ok");
    }
    assert_eq!(origin.log().accepted, 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_http2_total"), 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_total"), 10);
    proxy.stop();
}

#[test]
fn large_bodies_pass_through_small_windows() {
    for up in [Version::Http2, Version::Http1] {
        let small = Http2 { window: 1000, connection_window: 65_535, ..Http2::default() };
        let origin = match up {
            Version::Http2 => Origin::http2(small.clone(), Exchange::echo),
            Version::Http1 => Origin::echo(),
        };
        let proxy = Proxy::start(&config(&origin, up));
        let client = Http2Client::connect_as(proxy.address(), &small);
        let body = pattern(1_000_000);
        thread::scope(|scope| {
            let mut call = client.open("POST", "/", &[("content-length", "1000000")], false);
            let other = scope.spawn(|| assert_eq!(client.post("/", "other").text(), "other"));
            match up {
                // An echo as it comes: sending waits for receiving.
                Version::Http2 => {
                    for piece in body.chunks(500) {
                        call.send(piece);
                        if piece.as_ptr() == body.as_ptr() {
                            assert_eq!(call.head().unwrap().status, 200);
                        }
                        assert!(call.exactly(piece.len()).unwrap() == piece, "the body changed");
                    }
                    call.finish();
                    assert_eq!(call.rest().unwrap().0, b"");
                }
                Version::Http1 => {
                    call.send(&body);
                    call.finish();
                    assert!(call.response().unwrap().body == body, "the body changed");
                }
            }
            other.join().unwrap();
        });
        proxy.stop();
    }
}

#[test]
fn large_bodies_pass_through_large_windows() {
    let large = Http2 { window: 32 << 20, connection_window: 64 << 20, ..Http2::default() };
    let body = pattern(5_000_000);
    for up in [Version::Http1, Version::Http2] {
        let origin = match up {
            Version::Http1 => Origin::echo(),
            Version::Http2 => Origin::http2(large.clone(), |mut exchange| async move {
                let body = exchange.request().await?.body;
                exchange.answer(200, &[], &body).await
            }),
        };
        let proxy = Proxy::start(&config(&origin, up));
        let client = Http2Client::connect_as(proxy.address(), &large);
        for _ in 0..3 {
            assert!(client.post("/", &body).body == body, "{up:?}: the body changed");
        }
        proxy.stop();
    }
}

/// Bytes of the response that nobody takes.
const FLOOD_BYTES: usize = 64 << 20;

fn flooding(version: Version) -> Origin {
    match version {
        Version::Http1 => Origin::start(|peer| {
            loop {
                if peer.request()?.target == "/flood" {
                    peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {FLOOD_BYTES}\r\n\r\n"))?;
                    for _ in 0..FLOOD_BYTES >> 16 {
                        peer.send(vec![b'x'; 1 << 16])?;
                    }
                } else {
                    peer.send(OK)?;
                }
            }
        }),
        Version::Http2 => Origin::http2(Http2::default(), |mut exchange| async move {
            if exchange.request().await?.target == "/flood" {
                exchange.head(200, &[], false)?;
                for _ in 0..FLOOD_BYTES >> 16 {
                    exchange.send(&vec![b'x'; 1 << 16]).await?;
                }
                exchange.finish()
            } else {
                exchange.answer(200, &[], b"ok").await
            }
        }),
    }
}

/// A proxy that holds little for each stream.
fn narrow(origin: &Origin, version: Version) -> Config {
    let options = json!({
        "initial_stream_window_size": 65_536, "initial_connection_window_size": 1 << 20,
    });
    let config = Config::to(origin.address())
        .http(json!({"http2_protocol_options": options}))
        .tune_cluster(json!({"per_connection_buffer_limit_bytes": 65_536}))
        .listener(json!({"per_connection_buffer_limit_bytes": 65_536}));
    match version {
        Version::Http1 => config,
        Version::Http2 => config.tune_cluster(http2_upstream(&options)),
    }
}

#[test]
fn who_does_not_read_holds_nobody_up_and_costs_no_memory() {
    for up in [Version::Http2, Version::Http1] {
        let origin = flooding(up);
        let mut proxy = Proxy::start(&narrow(&origin, up));
        let client = proxy.http2();
        assert_eq!(client.get("/").text(), "ok");
        let before = proxy.process().rss();
        let mut idle: Vec<_> = (0..8).map(|_| client.open("GET", "/flood", &[], true)).collect();
        for call in &mut idle {
            assert_eq!(call.head().unwrap().status, 200);
        }
        // The same connection, the same connection upstream, and others.
        for _ in 0..200 {
            assert_eq!(client.get("/").text(), "ok");
        }
        assert_eq!(proxy.http2().get("/").text(), "ok");
        assert_eq!(proxy.client().get("/").text(), "ok");
        let grown = proxy.process().rss().saturating_sub(before);
        assert!(grown < 24 << 20, "{up:?}: {grown} bytes more of memory");
        // Who begins to read gets all of it.
        let mut first = idle.remove(0);
        assert_eq!(first.rest().unwrap().0.len(), FLOOD_BYTES);
        for call in &mut idle {
            call.reset(code::CANCEL);
        }
        proxy.expect_no_active_requests();
        proxy.stop();
    }
}

#[test]
fn an_origin_that_does_not_read_holds_nobody_up_and_costs_no_memory() {
    let origin = Origin::http2(Http2::default(), |mut exchange| async move {
        if exchange.request_head().target == "/deaf" {
            exchange.reset_by_peer().await.map(drop)
        } else {
            exchange.answer(200, &[], b"ok").await
        }
    });
    let mut proxy = Proxy::start(&narrow(&origin, Version::Http2));
    let client = proxy.http2();
    assert_eq!(client.get("/").text(), "ok");
    let before = proxy.process().rss();
    let mut call = client.open("POST", "/deaf", &[], false);
    let mut sent = 0;
    loop {
        let piece = call.allowance(FLOOD_BYTES);
        if piece > 0 {
            call.send(vec![b'x'; piece]);
            sent += piece;
        }
        for _ in 0..50 {
            assert_eq!(client.get("/").text(), "ok");
        }
        // Fifty round trips without a byte more: it has come to a stop.
        if piece == 0 && call.allowance(FLOOD_BYTES) == 0 {
            break;
        }
        assert!(sent < 16 << 20, "{sent} bytes were taken");
    }
    let grown = proxy.process().rss().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more of memory");
    call.reset(code::CANCEL);
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn a_reset_of_the_client_cancels_the_request_upstream() {
    let (told, cancelled) = mpsc::channel();
    let origin = Origin::http2(Http2::default(), move |mut exchange| {
        let told = told.clone();
        async move {
            exchange.request_head();
            exchange.head(200, &[], false)?;
            let _ = told.send(exchange.reset_by_peer().await);
            Ok(())
        }
    });
    let proxy = Proxy::start(&Config::to_http2(origin.address()));
    let client = proxy.http2();
    let mut call = client.open("POST", "/", &[], false);
    assert_eq!(call.head().unwrap().status, 200);
    call.reset(code::CANCEL);
    let reason = cancelled.recv_timeout(outrigger_tests::PATIENCE).unwrap();
    assert_eq!(reason, Ok(code::CANCEL));
    proxy.expect_no_active_requests();
    // Before the response, and by the end of the whole connection.
    let origin = Origin::start(|peer| {
        peer.request_head()?;
        peer.stall()
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let client = proxy.http2();
    let mut call = client.open("GET", "/", &[], true);
    origin.nth_request(1);
    call.reset(code::CANCEL);
    origin.wait_released();
    let call = client.open("GET", "/", &[], true);
    origin.nth_request(2);
    drop((call, client));
    origin.wait_released();
    proxy.expect_no_active_requests();
    assert!(proxy.stat("http.main.downstream_rq_rx_reset") >= 1);
    proxy.stop();
}

#[test]
fn a_reset_upstream_is_told_to_the_client() {
    for up in [Version::Http2, Version::Http1] {
        // A reset overtakes what was sent just before it, so that is waited for.
        let arrived = Arc::new(tokio::sync::Semaphore::new(0));
        let gate = Arc::clone(&arrived);
        let origin = match up {
            Version::Http1 => Origin::start(move |peer| {
                if peer.request()?.target == "/late" {
                    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")?;
                    eventually("it arrived", || gate.try_acquire().ok()).forget();
                }
                peer.reset()
            }),
            Version::Http2 => Origin::http2(Http2::default(), move |mut exchange| {
                let gate = Arc::clone(&gate);
                async move {
                    if exchange.request().await?.target == "/late" {
                        exchange.head(200, &[("content-length", "10")], false)?;
                        exchange.send(b"hello").await?;
                        gate.acquire().await.unwrap().forget();
                    }
                    exchange.reset(code::INTERNAL_ERROR);
                    Ok(())
                }
            }),
        };
        let proxy = Proxy::start(&config(&origin, up));
        let client = proxy.http2();
        let early = client.get("/early");
        assert_eq!(early.status, 503, "{up:?}: {}", early.text());
        let mut late = client.open("GET", "/late", &[], true);
        assert_eq!(late.head().unwrap().status, 200);
        assert_eq!(late.exactly(5).unwrap(), b"hello");
        arrived.add_permits(1);
        let ended = late.rest();
        assert!(matches!(ended, Err(Fault::Stream(reason)) if reason != 0), "{up:?}: {ended:?}");
        // Only the stream has ended.
        assert_eq!(client.get("/early").status, 503);
        assert_eq!(proxy.stat("http.main.downstream_cx_total"), 1);
        if up == Version::Http2 {
            assert_eq!(origin.log().accepted, 1);
        }
        // HTTP/1.1 has no other way to say it than the end of the connection.
        let mut old = proxy.client();
        old.send("GET /late HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(old.response_head().status, 200);
        assert_eq!(old.wire().exactly(5).unwrap(), b"hello");
        arrived.add_permits(1);
        assert_eq!(old.wire().closed(), Ok(0));
        proxy.expect_no_active_requests();
        proxy.stop();
    }
}

#[test]
fn an_early_response_is_whole_and_ends_the_upload() {
    let origin = Origin::http2(Http2::default(), |mut exchange| async move {
        exchange.request_head();
        exchange.answer(413, &[], b"too much").await
    });
    let proxy = Proxy::start(&Config::to_http2(origin.address()));
    let client = proxy.http2();
    let mut call = client.open("POST", "/", &[], false);
    call.send("the first of many");
    let response = call.response().unwrap();
    assert_eq!((response.status, response.text().as_str()), (413, "too much"));
    // Asked to stop, if anything, without an error (RFC 9113 section 8.1).
    assert_eq!(call.reset_by_peer(), Ok(code::NO_ERROR));
    assert_eq!(client.get("/").status, 413);
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn requests_that_a_goaway_leaves_out_go_to_another_connection() {
    // Of five requests on the first connection, the first two are processed.
    let origin = Origin::start(|peer| {
        let number = peer.number();
        let (mut frames, notes) = peer.frames(&[])?;
        if number > 0 {
            loop {
                let (stream, request) = frames.request()?;
                notes.note(&request);
                frames.send(&Frame::headers(
                    stream,
                    &[(":status", "200"), ("x-on", "second")],
                    true,
                ))?;
            }
        }
        let mut streams = Vec::new();
        for _ in 0..5 {
            let (stream, request) = frames.request()?;
            notes.note(&request);
            streams.push(stream);
        }
        frames.send(&Frame::goaway(streams[1], code::NO_ERROR))?;
        for stream in &streams[..2] {
            frames.send(&Frame::headers(
                *stream,
                &[(":status", "200"), ("x-on", "first")],
                true,
            ))?;
        }
        frames.until_close().map(drop)
    });
    let proxy = Proxy::start(&Config::to_http2(origin.address()));
    let client = proxy.http2();
    let mut calls: Vec<_> = (0..5)
        .map(|n| client.open("POST", &format!("/{n}"), &[("content-length", "0")], true))
        .collect();
    let responses: Vec<_> = calls.iter_mut().map(|call| call.response().unwrap()).collect();
    assert!(responses.iter().all(|response| response.status == 200), "{responses:?}");
    let on: Vec<_> = responses.iter().filter_map(|response| response.header("x-on")).collect();
    let first = on.iter().filter(|place| **place == "first").count();
    assert_eq!((first, on.len()), (2, 5), "{on:?}");
    // New ones, too, and the first connection is closed.
    assert_eq!(client.get("/new").header("x-on"), Some("second"));
    origin.wait_for("the first connection closed", |log| log.accepted == 2 && log.open == 1);
    assert_eq!(proxy.stat("http.main.downstream_rq_5xx"), 0);
    proxy.stop();
}

#[test]
fn graceful_ends_of_upstream_connections_fail_no_request() {
    // Every connection is ended in two steps after its tenth request.
    let origin = Origin::start(|peer| {
        let (mut frames, notes) = peer.frames(&[])?;
        let mut last = 0;
        for count in 0.. {
            let (stream, request) = match frames.request() {
                Ok(request) => request,
                Err(fault) => return Err(fault),
            };
            last = last.max(stream);
            notes.note(&request);
            frames.send(&Frame::headers(stream, &[(":status", "200")], true))?;
            if count == 10 {
                frames.send(&Frame::goaway(0x7fff_ffff, code::NO_ERROR))?;
            } else if count >= 11 {
                break;
            }
        }
        frames.send(&Frame::goaway(last, code::NO_ERROR))?;
        frames.until_close().map(drop)
    });
    let proxy = Proxy::start(&Config::to_http2(origin.address()));
    let client = proxy.http2();
    for _ in 0..100 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(origin.log().requests.len(), 100);
    assert!(origin.log().accepted >= 8, "{}", origin.log().accepted);
    proxy.stop();
}

#[test]
fn the_origins_limit_of_streams_is_kept() {
    let answers = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&answers);
    let settings = Http2 { max_concurrent_streams: Some(2), ..Http2::default() };
    let origin = Origin::http2(settings, move |mut exchange| {
        let gate = Arc::clone(&gate);
        async move {
            exchange.request().await?;
            gate.acquire().await.unwrap().forget();
            exchange.answer(200, &[], b"ok").await
        }
    });
    let proxy = Proxy::start(&Config::to_http2(origin.address()));
    let client = proxy.http2();
    let mut calls = Vec::new();
    for count in 1..=6 {
        calls.push(client.open("GET", "/", &[], true));
        // By then the limit of a new connection is known.
        origin.nth_request(count);
    }
    assert_eq!(origin.log().accepted, 3);
    answers.add_permits(100);
    for call in &mut calls {
        assert_eq!(call.response().unwrap().text(), "ok");
    }
    // None was refused.
    assert_eq!(proxy.stat("cluster.origin.http2.rx_reset"), 0);
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert_eq!(origin.log().accepted, 3);
    proxy.stop();
}

#[test]
fn our_limit_of_streams_is_announced_and_kept() {
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.stall()
    });
    let config = Config::to(origin.address())
        .http(json!({"http2_protocol_options": {"max_concurrent_streams": 3}}));
    let proxy = Proxy::start(&config);
    let mut frames = proxy.frames(&[]);
    frames.round_trip().unwrap();
    let settings = frames.settings.clone().unwrap();
    assert_eq!(settings.setting(setting::MAX_CONCURRENT_STREAMS), Some(3));
    let requests: Vec<Frame> = (0..4).map(|n| Frame::headers(2 * n + 1, &get("/"), true)).collect();
    frames.send_all(&requests).unwrap();
    let refused = frames.next_of(kind::RST_STREAM).unwrap();
    assert_eq!((refused.stream, refused.number(0)), (7, code::REFUSED_STREAM));
    origin.wait_for("three requests", |log| log.requests.len() == 3);
    frames.round_trip().unwrap();
    assert_eq!(origin.log().requests.len(), 3);
    proxy.stop();
}

/// An origin that answers `/held` when it is told to, and everything else at once.
fn gated() -> (Origin, mpsc::Sender<()>) {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let origin = Origin::start(move |peer| {
        loop {
            if peer.request()?.target == "/held" {
                let _ = gate.lock().unwrap().recv();
            }
            peer.send(OK)?;
        }
    });
    (origin, go)
}

#[test]
fn a_connection_that_is_to_end_says_so_twice() {
    let (origin, go) = gated();
    let config = Config::to(origin.address()).http(json!({
        "common_http_protocol_options": {"max_connection_duration": "0.3s"},
        "drain_timeout": "0.5s",
    }));
    let proxy = Proxy::start(&config);
    let mut frames = proxy.frames(&[]);
    frames.send(&Frame::headers(1, &get("/held"), true)).unwrap();
    let first = frames.next_of(kind::GOAWAY).unwrap();
    assert_eq!((first.number(0), first.number(4)), (0x7fff_ffff, code::NO_ERROR));
    // What was under way when it was said is still served.
    assert_eq!(frames.get(3, "/").unwrap().status, 200);
    let second = frames.next_of(kind::GOAWAY).unwrap();
    assert_eq!((second.number(0), second.number(4)), (3, code::NO_ERROR));
    go.send(()).unwrap();
    assert_eq!(frames.response(1).unwrap().text(), "ok");
    assert_eq!(frames.until_close(), Ok(None));
    proxy.expect_stat("http.main.downstream_cx_active", 0);
    proxy.stop();
}

#[test]
fn sigterm_ends_connections_in_two_steps_and_finishes_streams() {
    let (origin, go) = gated();
    let mut proxy = Launch::outrigger(&Config::to(origin.address()))
        .arguments(&["--drain-time-s", "20", "--drain-strategy", "immediate"])
        .start();
    let mut frames = proxy.frames(&[]);
    frames.send(&Frame::headers(1, &get("/held"), true)).unwrap();
    origin.nth_request(1);
    let mut idle = proxy.frames(&[]);
    idle.round_trip().unwrap();
    proxy.process().signal(libc::SIGTERM);
    let first = frames.next_of(kind::GOAWAY).unwrap();
    assert_eq!((first.number(0), first.number(4)), (0x7fff_ffff, code::NO_ERROR));
    assert_eq!(frames.get(3, "/").unwrap().status, 200);
    go.send(()).unwrap();
    assert_eq!(frames.response(1).unwrap().text(), "ok");
    let last = frames.until_close().unwrap();
    assert_eq!(last, Some((code::NO_ERROR, 3)));
    assert!(matches!(idle.until_close(), Ok(Some((code::NO_ERROR, _)))));
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn idle_connections_are_ended_in_good_order() {
    let origin = Origin::http2_ok();
    let config = Config::to_http2(origin.address())
        .http(json!({
            "common_http_protocol_options": {"idle_timeout": "0.3s"}, "drain_timeout": "0.1s",
        }))
        .tune_cluster(json!({"typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "common_http_protocol_options": {"idle_timeout": "0.3s"},
            },
        }}));
    let proxy = Proxy::start(&config);
    let mut frames = proxy.frames(&[]);
    assert_eq!(frames.get(1, "/").unwrap().status, 200);
    let end = frames.until_close().unwrap();
    assert!(matches!(end, Some((code::NO_ERROR, _))), "{end:?}");
    proxy.expect_stat("http.main.downstream_cx_idle_timeout", 1);
    origin.wait_released();
    proxy.expect_stat("cluster.origin.upstream_cx_idle_timeout", 1);
    proxy.stop();
}

#[test]
fn keepalive_pings_are_sent_and_must_be_answered() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).http(json!({"http2_protocol_options": {
        "connection_keepalive": {"interval": "0.1s", "timeout": "0.4s"},
    }}));
    let proxy = Proxy::start(&config);
    let mut frames = proxy.frames(&[]);
    for _ in 0..3 {
        assert!(!frames.next_of(kind::PING).unwrap().has(1));
    }
    assert_eq!(frames.get(1, "/").unwrap().status, 200);
    frames.acknowledges = false;
    frames.until_close().unwrap();
    proxy.expect_stat("http2.keepalive_timeout", 1);
    proxy.stop();
}

#[test]
fn keepalive_pings_find_dead_origins() {
    let origin = Origin::start(|peer| {
        let (mut frames, notes) = peer.frames(&[])?;
        let (stream, request) = frames.request()?;
        notes.note(&request);
        if request.target == "/alive" {
            frames.send(&Frame::headers(stream, &[(":status", "200")], true))?;
            frames.next_of(kind::PING)?;
            let (stream, request) = frames.request()?;
            notes.note(&request);
            return frames.send(&Frame::headers(stream, &[(":status", "200")], true));
        }
        frames.acknowledges = false;
        frames.until_close().map(drop)
    });
    let config = Config::to(origin.address()).tune_cluster(http2_upstream(&json!({
        "connection_keepalive": {"interval": "0.1s", "timeout": "0.4s"},
    })));
    let proxy = Proxy::start(&config);
    assert_eq!(proxy.client().get("/dead").status, 503);
    proxy.expect_stat("cluster.origin.http2.keepalive_timeout", 1);
    origin.wait_released();
    assert_eq!(proxy.client().get("/alive").status, 200);
    proxy.stop();
}

#[test]
fn an_upgrade_to_http2_is_accepted() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    let ask = "GET /first HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\n\
               Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
    client.send(ask);
    let switch = client.response_head();
    assert_eq!(switch.status, 101);
    assert_eq!(switch.header("upgrade"), Some("h2c"));
    let mut frames = outrigger_tests::Frames::connect(client.into_wire(), &[]).unwrap();
    // The request that asked for it is stream 1.
    let response = frames.response(1).unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, ""));
    assert_eq!(frames.get(3, "/second").unwrap().status, 200);
    let log = origin.log();
    let targets: Vec<_> = log.requests.iter().map(|seen| seen.request.target.as_str()).collect();
    assert_eq!(targets, ["/first", "/second"]);
    for gone in ["upgrade", "http2-settings", "connection"] {
        assert!(!log.requests[0].request.headers.has(gone), "{gone}");
    }
    assert_eq!(proxy.stat("http.main.downstream_cx_http2_total"), 1);
    // Half an offer is none, and any may be ignored (RFC 9110 section 7.8).
    for ask in [
        ask.replace("HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n", ""),
        ask.replace("AAMAAABkAAQAoAAAAAIAAAAA", "!"),
        ask.replace("h2c", "h2"),
    ] {
        let response = proxy.client().send(&ask).response();
        assert!(matches!(response.status, 200 | 400 | 403), "{ask}: {}", response.status);
    }
    proxy.stop();
}

#[test]
fn only_one_version_is_spoken_where_that_is_configured() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()).http(json!({"codec_type": "HTTP2"})));
    assert_eq!(proxy.http2().get("/").text(), "ok");
    let mut old = proxy.client();
    old.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(old.try_response().is_err());
    old.wire().closed().unwrap();
    proxy.stop();
    let proxy = Proxy::start(&Config::to(origin.address()).http(json!({"codec_type": "HTTP1"})));
    assert_eq!(proxy.client().get("/").text(), "ok");
    let mut new = proxy.frames(&[]);
    assert!(new.next_of(kind::SETTINGS).is_err());
    proxy.stop();
}

/// The origin's side of a WebSocket over HTTP/1.1: greets, and sends back what comes.
fn websocket_http1() -> Origin {
    Origin::start(|peer| {
        let request = peer.request_head()?;
        if request.target == "/no" {
            return peer.send(
                "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno",
            );
        }
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: the proxys own key\r\n\r\nhello",
        )?;
        loop {
            let bytes = peer.wire().some()?;
            if bytes.is_empty() {
                return peer.send("goodbye");
            }
            peer.send(bytes)?;
        }
    })
}

/// The same over HTTP/2.
fn websocket_http2() -> Origin {
    let settings = Http2 { connect_protocol: true, ..Http2::default() };
    Origin::http2(settings, |mut exchange| async move {
        let request = exchange.request_head();
        if request.target == "/no" {
            return exchange.answer(403, &[], b"no").await;
        }
        exchange.head(200, &[("sec-websocket-accept", "another proxys key")], false)?;
        exchange.send(b"hello").await?;
        while let Some(bytes) = exchange.chunk().await? {
            exchange.send(&bytes).await?;
        }
        exchange.send(b"goodbye").await?;
        exchange.finish()
    })
}

fn websocket_config(origin: &Origin, up: Version) -> Config {
    let config = Config::to(origin.address()).http(json!({
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http2_protocol_options": {"allow_connect": true},
    }));
    match up {
        Version::Http1 => config,
        Version::Http2 => config.tune_cluster(http2_upstream(&json!({"allow_connect": true}))),
    }
}

#[test]
fn websockets_pass_from_http2_to_either_version() {
    for up in [Version::Http1, Version::Http2] {
        let origin = if up == Version::Http1 { websocket_http1() } else { websocket_http2() };
        let proxy = Proxy::start(&websocket_config(&origin, up));
        let client = proxy.http2();
        // A server must allow it first (RFC 8441 section 3).
        assert_eq!(client.get("/no").status, 403);
        assert!(client.takes_extended_connect());
        origin.forget();
        let fields = [(":protocol", "websocket"), ("sec-websocket-version", "13")];
        let mut call = client.open("CONNECT", "/chat", &fields, false);
        let head = call.head().unwrap();
        assert_eq!(head.status, 200, "{up:?}");
        assert_eq!((head.header("upgrade"), head.header("connection")), (None, None));
        if up == Version::Http1 {
            // It answers a key that the client has never seen.
            assert_eq!(head.header("sec-websocket-accept"), None);
        }
        assert_eq!(call.exactly(5).unwrap(), b"hello");
        let body = pattern(100_000);
        for piece in body.chunks(10_000) {
            call.send(piece);
            assert!(call.exactly(piece.len()).unwrap() == piece, "the bytes changed");
        }
        call.finish();
        assert_eq!(call.rest().unwrap().0, b"goodbye", "{up:?}");
        let request = origin.log().requests.pop().unwrap().request;
        assert_eq!(request.target, "/chat");
        assert_eq!(request.headers.get("sec-websocket-version"), Some("13"));
        match up {
            Version::Http1 => {
                assert_eq!(request.method, "GET");
                assert_eq!(request.headers.get("upgrade"), Some("websocket"));
                // Which HTTP/2 has no use for (RFC 8441 section 5).
                assert!(request.headers.has("sec-websocket-key"), "{request:?}");
            }
            Version::Http2 => {
                assert_eq!(request.method, "CONNECT");
                assert_eq!(request.headers.get(":protocol"), Some("websocket"));
            }
        }
        proxy.expect_stat("http.main.downstream_cx_upgrades_active", 0);
        proxy.expect_no_active_requests();
        proxy.stop();
    }
}

#[test]
fn websockets_pass_from_http1_to_http2() {
    let origin = websocket_http2();
    let proxy = Proxy::start(&websocket_config(&origin, Version::Http2));
    let upgrade = "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut client = proxy.client();
    let head = client.send(upgrade).response_head();
    assert_eq!((head.status, head.header("upgrade")), (101, Some("websocket")));
    // What the client's key asks for (RFC 6455 section 4.2.2), which the origin has never seen.
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.wire().exactly(5).unwrap(), b"hello");
    for piece in pattern(100_000).chunks(10_000) {
        client.send(piece);
        assert!(client.wire().exactly(piece.len()).unwrap() == piece, "the bytes changed");
    }
    client.finish();
    assert_eq!(client.wire().until_close(), Ok(b"goodbye".to_vec()));
    let request = origin.only_request();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("CONNECT", "/chat"));
    assert_eq!(request.headers.get(":protocol"), Some("websocket"));
    assert!(!request.headers.has("upgrade") && !request.headers.has("connection"), "{request:?}");
    // Who says no is an ordinary origin.
    let response = proxy.client().send(upgrade.replace("/chat", "/no")).response();
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
    proxy.expect_stat("http.main.downstream_cx_upgrades_active", 0);
    proxy.stop();
}

#[test]
fn extended_connect_that_is_not_allowed_is_refused() {
    let origin = websocket_http1();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut frames = proxy.frames(&[]);
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", "/chat"),
    ];
    frames.send(&Frame::headers(1, &fields, false)).unwrap();
    match frames.response(1) {
        Ok(response) => assert_eq!(response.status, 403),
        Err(fault) => assert!(matches!(fault, Fault::Stream(_) | Fault::GoAway(_) | Fault::Closed)),
    }
    assert_eq!(origin.log().accepted, 0);
    proxy.stop();
}

#[test]
fn what_is_never_indexed_stays_so() {
    let (told, seen) = mpsc::channel();
    let origin = Origin::start(move |peer| {
        let (mut frames, _) = peer.frames(&[])?;
        loop {
            let section = frames.next_section()?;
            let secret = [literal(0, b":status", b"200"), literal(0x10, b"set-cookie", b"s=1")];
            let flags = flag::END_HEADERS | flag::END_STREAM;
            frames.send(&Frame::new(kind::HEADERS, flags, section.stream, secret.concat()))?;
            let _ = told.send(section);
        }
    });
    let proxy = Proxy::start(&Config::to_http2(origin.address()));
    let mut frames = proxy.frames(&[]);
    for stream in [1, 3] {
        let mut fields = block(&get("/"));
        fields.extend(literal(0x10, b"x-secret", b"hush"));
        fields.extend(literal(0x40, b"x-open", b"loud"));
        let end = flag::END_HEADERS | flag::END_STREAM;
        frames.send(&Frame::new(kind::HEADERS, end, stream, fields)).unwrap();
        let response = frames.next_section().unwrap();
        let request = seen.recv_timeout(outrigger_tests::PATIENCE).unwrap();
        for (section, name) in [(&request, "x-secret"), (&response, "set-cookie")] {
            let at = section.headers.iter().position(|(known, _)| known == name).unwrap();
            assert_eq!(section.representations[at], Representation::NeverIndexed, "{name}");
        }
        let at = request.headers.iter().position(|(name, _)| name == "x-open").unwrap();
        assert_ne!(request.representations[at], Representation::NeverIndexed);
    }
    proxy.stop();
}

#[test]
fn fields_that_repeat_are_compressed() {
    let (told, seen) = mpsc::channel();
    let origin = Origin::start(move |peer| {
        let (mut frames, _) = peer.frames(&[])?;
        loop {
            let frame = frames.next_of(kind::HEADERS)?;
            let length = frame.payload.len();
            let section = frames.section(&frame)?;
            frames.send(&Frame::headers(section.stream, &[(":status", "200")], true))?;
            let _ = told.send(length);
        }
    });
    let proxy = Proxy::start(&Config::to_http2(origin.address()));
    let client = proxy.http2();
    let long = "v".repeat(500);
    let mut lengths = Vec::new();
    for _ in 0..3 {
        client.ask("GET", "/same", &[("x-long", &long)], b"");
        lengths.push(seen.recv_timeout(outrigger_tests::PATIENCE).unwrap());
    }
    // Request ids differ from one request to the next.
    assert!(lengths[0] > 400 && lengths[2] < 100, "{lengths:?}");
    proxy.stop();
}

#[test]
fn heads_above_the_limits_are_refused_and_the_connection_goes_on() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).http(json!({
        "max_request_headers_kb": 8,
        "common_http_protocol_options": {"max_headers_count": 20},
    }));
    let proxy = Proxy::start(&config);
    let client = proxy.http2();
    let fits = "a".repeat(7000);
    assert_eq!(client.ask("GET", "/", &[("x", &fits)], b"").status, 200);
    assert_eq!(client.ask("GET", "/", &[("x", "a"); 10], b"").status, 200);
    // Field sections of HTTP/2 may be refused in either way (contract section 5).
    let too_long = "a".repeat(9000);
    for fields in [&[("x", too_long.as_str())][..], &[("x", "a"); 30]] {
        let refused = client.open("GET", "/", fields, true).response();
        let is_refusal = match &refused {
            Ok(response) => response.status == 431,
            Err(fault) => matches!(fault, Fault::Stream(_)),
        };
        assert!(is_refusal, "{refused:?}");
    }
    assert_eq!(client.get("/").status, 200);
    assert_eq!(origin.log().requests.len(), 3);
    proxy.stop();
}

#[test]
fn large_heads_arrive_in_several_frames() {
    let origin = Origin::http2(Http2::default(), |mut exchange| async move {
        let request = exchange.request().await?;
        let long = request.headers.get("x-long").unwrap_or_default().to_owned();
        exchange.answer(200, &[("x-long", &long)], b"").await
    });
    let proxy = Proxy::start(&Config::to_http2(origin.address()));
    let long = "l".repeat(40_000);
    let response = proxy.http2().ask("GET", "/", &[("x-long", &long)], b"");
    assert_eq!(response.header("x-long").map(str::len), Some(40_000));
    proxy.stop();
}

#[test]
fn padding_and_priorities_change_nothing() {
    use flag::{END_HEADERS, END_STREAM, PADDED, PRIORITY};
    let origin = Origin::echo();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut frames = proxy.frames(&[]);
    let fields = block(&post("/"));
    let head = [&[7][..], &0u32.to_be_bytes(), &[200], &fields, &[0; 7]].concat();
    frames
        .send_all(&[
            Frame::new(kind::PRIORITY, 0, 9, [0, 0, 0, 1, 16]),
            Frame::new(kind::HEADERS, END_HEADERS | PADDED | PRIORITY, 1, head),
            Frame::new(kind::DATA, PADDED, 1, [&[5][..], b"hello", &[0; 5]].concat()),
            Frame::new(kind::PRIORITY, 0, 1, [0, 0, 0, 0, 16]),
            // A frame type that nobody knows.
            Frame::new(0xfe, 0xff, 0, *b"whatever"),
            Frame::new(kind::DATA, PADDED | END_STREAM, 1, [&[0][..], b" world"].concat()),
        ])
        .unwrap();
    assert_eq!(frames.response(1).unwrap().text(), "hello world");
    proxy.stop();
}

#[test]
fn connections_and_streams_are_counted_and_logged() {
    let scratch = Scratch::new();
    let path = scratch.file("access.log");
    let origin = Origin::http2_ok();
    let format = "%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %PROTOCOL% %UPSTREAM_PROTOCOL% \
                  %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT%\n";
    let config =
        Config::to_http2(origin.address()).http(json!({"access_log": access_log(&path, format)}));
    let proxy = Launch::outrigger(&config).arguments(&["--file-flush-interval-msec", "20"]).start();
    let client = proxy.http2();
    client.get("/a?q");
    client.post("/b", "hello");
    proxy.client().get("/c");
    let text = eventually("the log", || {
        let text = std::fs::read_to_string(&path).ok()?;
        (text.lines().count() >= 3).then_some(text)
    });
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "GET /a?q test HTTP/2 HTTP/2 200 - 0 2",
            "POST /b test HTTP/2 HTTP/2 200 - 5 2",
            "GET /c test HTTP/1.1 HTTP/2 200 - 0 2",
        ]
    );
    assert_eq!(proxy.stat("http.main.downstream_cx_http2_total"), 1);
    assert_eq!(proxy.stat("http.main.downstream_cx_http2_active"), 1);
    assert_eq!(proxy.stat("http.main.downstream_cx_http1_total"), 1);
    assert_eq!(proxy.stat("http.main.downstream_rq_http2_total"), 2);
    assert_eq!(proxy.stat("http.main.downstream_rq_http1_total"), 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_http2_total"), 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_total"), 3);
    proxy.expect_no_active_requests();
    drop(client);
    proxy.expect_stat("http.main.downstream_cx_http2_active", 0);
    proxy.stop();
}

#[test]
fn many_clients_and_streams_lose_nothing() {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 500;
    for up in [Version::Http2, Version::Http1] {
        let origin = origin(up);
        let proxy = Launch::outrigger(&config(&origin, up)).shards(2).start();
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let proxy = &proxy;
                scope.spawn(move || {
                    let connection = proxy.http2();
                    for round in 0..REQUESTS / 20 {
                        let bodies: Vec<String> =
                            (0..20).map(|n| format!("{client} {round} {n}")).collect();
                        let mut calls = Vec::new();
                        for body in &bodies {
                            let mut call = connection.open("POST", "/echo", &[], false);
                            call.send(body);
                            call.finish();
                            calls.push(call);
                        }
                        for (call, body) in calls.iter_mut().zip(&bodies) {
                            assert_eq!(call.response().unwrap().text(), *body);
                        }
                    }
                });
            }
        });
        let total = (CLIENTS * REQUESTS) as u64;
        assert_eq!(proxy.stat("http.main.downstream_rq_2xx"), total);
        assert_eq!(origin.log().requests.len() as u64, total);
        proxy.expect_no_active_requests();
        proxy.stop();
    }
}

#[test]
fn streams_are_bounded_in_time() {
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.stall()
    });
    let config = Config::to(origin.address()).tune_route(json!({"route": {"timeout": "0.3s"}}));
    let proxy = Proxy::start(&config);
    let client = proxy.http2();
    let start = Instant::now();
    assert_eq!(client.get("/").status, 504);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    // A body that does not come.
    let config = Config::to(origin.address()).http(json!({"stream_idle_timeout": "0.3s"}));
    let proxy_idle = Proxy::start(&config);
    let client = proxy_idle.http2();
    let mut call = client.open("POST", "/", &[], false);
    match call.response() {
        Ok(response) => assert_eq!(response.status, 408),
        Err(fault) => assert!(matches!(fault, Fault::Stream(_)), "{fault:?}"),
    }
    proxy_idle.expect_stat("http.main.downstream_rq_idle_timeout", 1);
    proxy_idle.expect_no_active_requests();
    proxy_idle.stop();
    proxy.stop();
}
