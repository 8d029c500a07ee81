//! Clients that go away at every stage of a request: nothing of it stays behind.

use outrigger_tests::{Client, Config, Origin, Proxy};
use serde_json::json;

/// How a client goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leave {
    Close,
    Reset,
}

const BOTH: [Leave; 2] = [Leave::Close, Leave::Reset];

impl Leave {
    fn carry_out(self, client: Client) {
        match self {
            Leave::Close => drop(client),
            Leave::Reset => client.reset(),
        }
    }
}

/// Nothing is counted as going on, and the proxy still serves.
fn assert_clean(proxy: Proxy, origin: &Origin) {
    proxy.expect_stat("http.main.downstream_cx_active", 0);
    proxy.expect_stat("http.main.downstream_rq_active", 0);
    proxy.expect_stat("cluster.origin.upstream_rq_active", 0);
    let open = origin.log().open as u64;
    proxy.expect_stat("cluster.origin.upstream_cx_active", open);
    proxy.stop();
}

#[test]
fn before_or_inside_the_head() {
    for leave in BOTH {
        let origin = Origin::ok();
        let proxy = Proxy::start(&Config::to(origin.address()));
        for sent in [
            "",
            "G",
            "GET / HTTP/1.1",
            "GET / HTTP/1.1\r\nHost: te",
            "GET / HTTP/1.1\r\nHost: test\r\n",
        ] {
            let mut client = proxy.client();
            client.send(sent);
            leave.carry_out(client);
        }
        proxy.await_stat("http.main.downstream_cx_total", |count| count == 5);
        assert_eq!(origin.log().accepted, 0);
        assert_clean(proxy, &origin);
    }
}

#[test]
fn inside_the_request_body() {
    for leave in BOTH {
        for head in [
            "Content-Length: 100000\r\n\r\nbeginning",
            "Transfer-Encoding: chunked\r\n\r\n9\r\nbeginning",
        ] {
            let origin = Origin::start(|peer| {
                peer.request_head()?;
                peer.stall()
            });
            let proxy = Proxy::start(&Config::to(origin.address()));
            let mut client = proxy.client();
            client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{head}"));
            origin.nth_request(1);
            leave.carry_out(client);
            // An incomplete request can't be finished: its connection is closed.
            origin.wait_released();
            assert_clean(proxy, &origin);
        }
    }
}

#[test]
fn while_waiting_for_the_response() {
    for leave in BOTH {
        let origin = Origin::start(|peer| {
            peer.request()?;
            peer.stall()
        });
        let proxy = Proxy::start(&Config::to(origin.address()));
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        origin.nth_request(1);
        leave.carry_out(client);
        origin.wait_released();
        assert_clean(proxy, &origin);
    }
}

#[test]
fn inside_the_response() {
    for leave in BOTH {
        let origin = Origin::start(|peer| {
            peer.request()?;
            peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            loop {
                peer.send("5\r\nhello\r\n")?;
            }
        });
        let proxy = Proxy::start(&Config::to(origin.address()));
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.response_head().status, 200);
        client.wire().exactly(50_000).unwrap();
        leave.carry_out(client);
        origin.wait_released();
        assert_clean(proxy, &origin);
    }
}

#[test]
fn after_the_response_the_upstream_connection_stays() {
    for leave in BOTH {
        let origin = Origin::ok();
        let proxy = Proxy::start(&Config::to(origin.address()));
        for _ in 0..5 {
            let mut client = proxy.client();
            assert_eq!(client.get("/").status, 200);
            leave.carry_out(client);
        }
        assert_eq!(origin.log().accepted, 1);
        assert_clean(proxy, &origin);
    }
}

#[test]
fn inside_a_pipeline() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    for _ in 0..20 {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n".repeat(50));
        assert_eq!(client.response().status, 200);
        client.reset();
    }
    assert_clean(proxy, &origin);
}

#[test]
fn a_client_that_finishes_sending_is_gone() {
    // On TCP that looks the same as a close, and whoever waits for nobody wastes the origin's time.
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.stall()
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
    origin.nth_request(1);
    client.finish();
    client.expect_close();
    origin.wait_released();
    assert_clean(proxy, &origin);
}

#[test]
fn an_idle_client_is_closed_in_time() {
    let origin = Origin::ok();
    let config = Config::to(origin.address())
        .http(json!({"common_http_protocol_options": {"idle_timeout": "0.3s"}}));
    let proxy = Proxy::start(&config);
    let mut fresh = proxy.client();
    let mut used = proxy.client();
    assert_eq!(used.get("/").status, 200);
    fresh.expect_close();
    used.expect_close();
    proxy.expect_stat("http.main.downstream_cx_idle_timeout", 2);
    assert_clean(proxy, &origin);
}

#[test]
fn a_connection_has_a_longest_life() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).http(json!({
        "common_http_protocol_options": {"max_connection_duration": "0.3s"},
        "drain_timeout": "0.1s",
    }));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 200);
    client.expect_close();
    proxy.expect_stat("http.main.downstream_cx_max_duration_reached", 1);
    assert_clean(proxy, &origin);
}
