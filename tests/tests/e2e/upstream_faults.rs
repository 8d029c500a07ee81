//! Origins that fail in every way, and what the client gets to see: an error in HTTP's terms, or a
//! response that is visibly incomplete, and never a wait without end.

use std::sync::atomic::{AtomicUsize, Ordering};

use outrigger_tests::http::Fault;
use outrigger_tests::load::Load;
use outrigger_tests::origin::{OK, refusing};
use outrigger_tests::{Client, Config, Origin, Proxy};
use serde_json::json;

const POST: &str = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn a_refused_connection_is_503() {
    let (_socket, address) = refusing();
    let proxy = Proxy::start(&Config::to(&address));
    let mut client = proxy.client();
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!(response.status, 503);
        assert!(
            response.text().contains("connection_failure")
                || response.text().contains("upstream connect error"),
            "{response:?}"
        );
    }
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_connect_fail"), 3);
    assert_eq!(proxy.stat("http.main.downstream_cx_total"), 1);
    proxy.expect_no_active_requests();
    drop(client);
    proxy.stop();
}

#[test]
fn an_origin_that_comes_back_is_used_again() {
    let (socket, address) = refusing();
    let proxy = Proxy::start(&Config::to(&address));
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 503);
    drop(socket);
    let origin = Origin::start_on(&address, |peer| peer.answer_all(OK.as_bytes()));
    assert_eq!(client.get("/").status, 200);
    assert_eq!(origin.log().requests.len(), 1);
    drop(client);
    proxy.stop();
}

#[test]
fn a_connect_that_takes_too_long_is_503() {
    // A full backlog: connects are neither accepted nor refused.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _first = std::net::TcpStream::connect(address).unwrap();
    let config = Config::to(&outrigger_tests::Address::Tcp(address))
        .tune_cluster(json!({"connect_timeout": "0.2s"}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 503);
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_connect_timeout"), 1);
    proxy.expect_no_active_requests();
    drop(client);
    proxy.stop();
}

#[test]
fn a_reset_or_close_before_the_response_is_503() {
    for reset in [true, false] {
        let origin = Origin::start(move |peer| {
            peer.request()?;
            if reset { peer.reset() } else { Ok(()) }
        });
        let proxy = Proxy::start(&Config::to(origin.address()));
        let mut client = proxy.client();
        for n in 1..=3 {
            client.send(POST);
            assert_eq!(client.response().status, 503, "reset: {reset}");
            // Never sent a second time.
            assert_eq!(origin.log().requests.len(), n);
        }
        proxy.expect_no_active_requests();
        drop(client);
        proxy.stop();
    }
}

#[test]
fn a_response_that_breaks_off_is_never_complete() {
    for (name, head) in [
        ("length", "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"),
        ("chunked", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5000\r\n"),
        ("between chunks", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"),
    ] {
        for reset in [true, false] {
            let origin = Origin::start(move |peer| {
                peer.request()?;
                peer.send(head)?;
                if name != "between chunks" {
                    peer.send([b'x'; 1000])?;
                }
                // The other end has seen the beginning when it says so.
                peer.wire().exactly(0)?;
                if reset { peer.reset() } else { Ok(()) }
            });
            let proxy = Proxy::start(&Config::to(origin.address()));
            let mut client = proxy.client();
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            let outcome = client.try_response();
            // A reset may overtake the beginning, which then has not been sent.
            let honest = match &outcome {
                Err(Fault::Truncated | Fault::Reset | Fault::Closed) => true,
                Ok(response) => reset && response.status == 503,
                Err(_) => false,
            };
            assert!(honest, "{name}, reset: {reset}: {outcome:?}");
            origin.wait_released();
            proxy.expect_no_active_requests();
            drop(client);
            proxy.stop();
        }
    }
}

#[test]
fn a_body_until_close_that_is_reset_is_not_complete() {
    let (reset, when) = std::sync::mpsc::channel::<()>();
    let when = std::sync::Mutex::new(when);
    let origin = Origin::start(move |peer| {
        peer.request()?;
        peer.send("HTTP/1.1 200 OK\r\n\r\nbeginning")?;
        let _ = when.lock().unwrap().recv();
        peer.reset()
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.response_head().status, 200);
    assert_eq!(client.wire().chunk(), Ok(Some(b"beginning".to_vec())));
    reset.send(()).unwrap();
    let end = client.wire().chunk();
    assert!(matches!(end, Err(Fault::Truncated | Fault::Reset)), "{end:?}");
    origin.wait_released();
    proxy.expect_no_active_requests();
    drop(client);
    proxy.stop();
}

#[test]
fn a_silent_origin_is_504_by_the_routes_timeout() {
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.stall()
    });
    let config = Config::to(origin.address()).tune_route(json!({"route": {"timeout": "0.3s"}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    let response = client.get("/");
    assert_eq!((response.status, response.text().as_str()), (504, "upstream request timeout"));
    assert_eq!(origin.nth_request(1).headers.get("x-envoy-expected-rq-timeout-ms"), Some("300"));
    // The connection on which a response may still come is not used again.
    origin.wait_released();
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_timeout"), 1);
    // The client's is.
    assert_eq!(client.get("/").status, 504);
    proxy.expect_no_active_requests();
    drop(client);
    proxy.stop();
}

#[test]
fn an_origin_that_stops_halfway_is_cut_by_the_routes_timeout() {
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")?;
        peer.stall()
    });
    let config = Config::to(origin.address()).tune_route(json!({"route": {"timeout": "0.3s"}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.response_head().status, 200);
    assert_eq!(client.wire().exactly(4), Ok(b"half".to_vec()));
    assert_eq!(client.wire().closed(), Ok(0));
    origin.wait_released();
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn a_connection_that_closes_while_idle_costs_no_request() {
    // One response for each connection, and then a close that nothing announces.
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.send(OK)
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    for n in 1..=20 {
        assert_eq!(client.get("/").status, 200);
        // Half of the time the close has been seen by then, half of the time perhaps not.
        if n % 2 == 0 {
            origin.wait_released();
        }
    }
    assert_eq!(origin.log().requests.len(), 20);
    drop(client);
    proxy.stop();
}

/// The first connection answers once, and resets as soon as a second request begins to arrive: a
/// close that crossed with the request. Later connections answer. Tells how often a request began.
fn stale() -> (Origin, std::sync::Arc<AtomicUsize>) {
    let begun = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&begun);
    let origin = Origin::start(move |peer| {
        if peer.number() > 0 {
            counter.fetch_add(1, Ordering::SeqCst);
            return peer.answer_all(OK.as_bytes());
        }
        peer.request()?;
        peer.send(OK)?;
        peer.wire().exactly(1)?;
        counter.fetch_add(1, Ordering::SeqCst);
        peer.reset()
    });
    (origin, begun)
}

#[test]
fn a_get_that_meets_a_dying_connection_is_sent_again() {
    let (origin, begun) = stale();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    assert_eq!(client.get("/1").status, 200);
    assert_eq!(client.get("/2").status, 200);
    assert_eq!(begun.load(Ordering::SeqCst), 2);
    let log = origin.log();
    assert_eq!((log.accepted, log.requests.last().unwrap().request.target.as_str()), (2, "/2"));
    drop(client);
    proxy.stop();
}

#[test]
fn a_post_that_meets_a_dying_connection_is_not_sent_again() {
    let (origin, begun) = stale();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    assert_eq!(client.get("/1").status, 200);
    assert_eq!(client.send(POST).response().status, 503);
    assert_eq!((begun.load(Ordering::SeqCst), origin.log().accepted), (1, 1));
    // The next one is fine.
    assert_eq!(client.send(POST).response().status, 200);
    drop(client);
    proxy.stop();
}

#[test]
fn a_get_is_sent_again_only_once() {
    // Every connection serves one request and breaks at the next.
    let origin = Origin::start(|peer| {
        if peer.number() == 0 {
            peer.request()?;
            peer.send(OK)?;
        }
        peer.wire().exactly(1)?;
        peer.reset()
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.get("/").status, 503);
    assert_eq!(origin.log().accepted, 2);
    drop(client);
    proxy.stop();
}

#[test]
fn what_is_no_http_is_502() {
    for garbage in [
        "\x16\x03\x01\x02\x00\x01",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 2xx OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad name: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\nx: a\n\n",
    ] {
        let origin = Origin::start(move |peer| {
            peer.request()?;
            peer.send(garbage)?;
            peer.stall()
        });
        let proxy = Proxy::start(&Config::to(origin.address()));
        let mut client = proxy.client();
        assert_eq!(client.get("/").status, 502, "{garbage:?}");
        origin.wait_released();
        assert_eq!(proxy.stat("cluster.origin.upstream_cx_protocol_error"), 1, "{garbage:?}");
        proxy.expect_no_active_requests();
        drop(client);
        proxy.stop();
    }
}

#[test]
fn bytes_after_a_response_do_not_become_the_next_one() {
    // The origin sends twice what was asked for.
    let origin = Origin::start(|peer| {
        loop {
            let target = peer.request()?.target;
            let length = target.len();
            let response =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{target}").into_bytes();
            peer.send(
                [response, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil".to_vec()].concat(),
            )?;
        }
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    for n in 0..10 {
        let target = format!("/{n}");
        assert_eq!(client.get(&target).text(), target);
    }
    drop(client);
    proxy.stop();
}

#[test]
fn a_broken_chunk_cuts_the_response() {
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")?;
        peer.send("zz\r\nabc\r\n0\r\n\r\n")?;
        peer.stall()
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let outcome = client.try_response();
    let honest = match &outcome {
        Err(Fault::Truncated | Fault::Reset | Fault::Closed) => true,
        Ok(response) => response.status == 502,
        Err(_) => false,
    };
    assert!(honest, "{outcome:?}");
    origin.wait_released();
    proxy.expect_no_active_requests();
    drop(client);
    proxy.stop();
}

#[test]
fn response_headers_without_bound_are_refused() {
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.send("HTTP/1.1 200 OK\r\n")?;
        let line = format!("x-long: {}\r\n", "a".repeat(1000));
        for _ in 0..10_000 {
            peer.send(&line)?;
        }
        peer.send("content-length: 0\r\n\r\n")
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    let status = client.get("/").status;
    assert!(matches!(status, 502 | 503), "{status}");
    origin.wait_released();
    proxy.expect_no_active_requests();
    drop(client);
    proxy.stop();
}

#[test]
fn an_early_response_with_a_close_reaches_a_client_that_still_sends() {
    let origin = Origin::start(|peer| {
        peer.request_head()?;
        peer.send(
            "HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig",
        )?;
        peer.finish()?;
        peer.stall()
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n");
    client.send([b'x'; 10_000]);
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (413, "big"));
    // The body was not sent, so the connection cannot go on.
    assert_eq!(response.header("connection"), Some("close"));
    drop(client);
    origin.wait_released();
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn an_idle_upstream_connection_is_closed_in_time() {
    let origin = Origin::ok();
    let config = Config::to(origin.address())
        .tune_cluster(json!({"common_http_protocol_options": {"idle_timeout": "0.2s"}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 200);
    origin.wait_released();
    proxy.expect_stat("cluster.origin.upstream_cx_idle_timeout", 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_active"), 0);
    assert_eq!(client.get("/").status, 200);
    drop(client);
    proxy.stop();
}

#[test]
fn circuit_breakers_answer_at_once() {
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.stall()
    });
    let config = Config::to(origin.address())
        .tune_cluster(json!({"circuit_breakers": {"thresholds": [{"max_requests": 1}]}}));
    let proxy = Proxy::start(&config);
    let mut first = proxy.client();
    first.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    origin.nth_request(1);
    let response = proxy.client().get("/");
    assert_eq!((response.status, response.header("x-envoy-overloaded")), (503, Some("true")));
    assert_eq!(origin.log().requests.len(), 1);
    drop(first);
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
#[ignore = "needs nginx, which .ci/run installs"]
fn a_killed_origin_under_load_gives_errors_and_no_hangs() {
    // A real process, to be killed for real.
    let mut nginx = crate::lifecycle::Program::nginx();
    let proxy = Proxy::start(&Config::to(&nginx.address));
    let load = Load { connections: 32, requests: None }.start(proxy.address());
    load.wait_for_more(500);
    nginx.kill();
    let before = load.so_far().statuses.get(&503).copied().unwrap_or(0);
    load.wait_for_more(500);
    let outcome = load.stop();
    assert!(outcome.statuses[&503] > before, "{outcome:?}");
    assert!(outcome.faults.is_empty(), "{outcome:?}");
    assert!(outcome.statuses.keys().all(|status| matches!(status, 200 | 503)), "{outcome:?}");
    proxy.expect_no_active_requests();
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_active"), 0);
    assert_eq!(Client::connect(proxy.address()).get("/").status, 503);
    proxy.stop();
}
