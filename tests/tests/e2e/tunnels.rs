//! Upgrade and CONNECT: after the answer, bytes of any kind, both ways.

use std::io::Write;
use std::thread;

use outrigger_tests::http::Fault;
use outrigger_tests::origin::Peer;
use outrigger_tests::{Client, Config, Origin, Proxy};
use serde_json::{Value, json};

use crate::basics::pattern;

pub(crate) const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Version: 13\r\n\r\n";

/// Switches protocols, and then sends back what comes until the other side has finished.
pub(crate) fn websocket() -> Origin {
    Origin::start(|peer| {
        let request = peer.request_head()?;
        if request.target == "/no" {
            peer.send("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno")?;
            return peer.stall();
        }
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello",
        )?;
        echo_all(peer)
    })
}

/// Sends back what comes until the other side has finished; the last word is the origin's.
pub(crate) fn echo_all(peer: &mut Peer) -> Result<(), Fault> {
    loop {
        let bytes = peer.wire().some()?;
        if bytes.is_empty() {
            return peer.send("goodbye");
        }
        peer.send(bytes)?;
    }
}

fn websocket_config(origin: &Origin) -> Config {
    Config::to(origin.address()).http(json!({"upgrade_configs": [{"upgrade_type": "websocket"}]}))
}

#[test]
fn a_websocket_carries_bytes_both_ways_and_closes_by_halves() {
    let origin = websocket();
    let proxy = Proxy::start(&websocket_config(&origin));
    let mut client = proxy.client();
    let response = client.send(UPGRADE).response_head();
    assert_eq!(response.status, 101);
    assert_eq!(response.header("upgrade"), Some("websocket"));
    assert!(response.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert_eq!(response.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.wire().exactly(5).unwrap(), b"hello");
    let request = origin.only_request();
    assert_eq!(request.headers.get("upgrade"), Some("websocket"));
    assert!(request.headers.get("connection").unwrap().to_lowercase().contains("upgrade"));
    assert_eq!(request.headers.get("sec-websocket-version"), Some("13"));

    let bytes = pattern(3_000_000);
    let mut stream = client.stream().try_clone().unwrap();
    let sent = bytes.clone();
    let sender = thread::spawn(move || stream.write_all(&sent));
    assert!(client.wire().exactly(bytes.len()).unwrap() == bytes, "the bytes changed");
    sender.join().unwrap().unwrap();
    // What looks like HTTP is none.
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.wire().exactly(18).unwrap(), b"GET / HTTP/1.1\r\n\r\n");
    proxy.expect_stat("http.main.downstream_cx_upgrades_active", 1);

    client.finish();
    assert_eq!(client.wire().until_close(), Ok(b"goodbye".to_vec()));
    origin.wait_released();
    proxy.expect_stat("http.main.downstream_cx_upgrades_active", 0);
    assert_eq!(proxy.stat("http.main.downstream_cx_upgrades_total"), 1);
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn bytes_that_follow_the_request_at_once_are_part_of_the_tunnel() {
    let origin = websocket();
    let proxy = Proxy::start(&websocket_config(&origin));
    let mut client = proxy.client();
    client.send(format!("{UPGRADE}early"));
    assert_eq!(client.response_head().status, 101);
    assert_eq!(client.wire().exactly(10).unwrap(), b"helloearly");
    drop(client);
    origin.wait_released();
    proxy.stop();
}

#[test]
fn an_origin_that_does_not_switch_is_an_ordinary_origin() {
    let origin = websocket();
    let proxy = Proxy::start(&websocket_config(&origin));
    let mut client = proxy.client();
    let response = client.send(UPGRADE.replace("/chat", "/no")).response();
    assert_eq!((response.status, response.text().as_str()), (426, "no"));
    drop(client);
    origin.wait_released();
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn an_upgrade_that_is_not_configured_is_refused() {
    let origin = websocket();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let response = proxy.client().send(UPGRADE).response();
    assert_eq!(response.status, 403);
    assert_eq!(origin.log().accepted, 0);
    proxy.stop();
}

#[test]
fn a_reset_ends_a_tunnel_on_the_other_side() {
    let origin = websocket();
    let proxy = Proxy::start(&websocket_config(&origin));
    let mut client = proxy.client();
    client.send(UPGRADE).response_head();
    client.reset();
    origin.wait_released();
    proxy.expect_stat("http.main.downstream_cx_upgrades_active", 0);
    proxy.stop();

    let origin = Origin::start(|peer| {
        peer.request_head()?;
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )?;
        peer.wire().exactly(1)?;
        peer.reset()
    });
    let proxy = Proxy::start(&websocket_config(&origin));
    let mut client = proxy.client();
    client.send(UPGRADE).response_head();
    client.send("x");
    assert_eq!(client.wire().closed(), Ok(0));
    proxy.expect_stat("http.main.downstream_cx_upgrades_active", 0);
    proxy.stop();
}

/// CONNECT is accepted, and ends here or goes on.
fn connect_config(origin: &Origin, connect_config: &Value) -> Config {
    Config::new()
        .cluster("origin", &[origin.address()])
        .http(json!({"upgrade_configs": [{"upgrade_type": "CONNECT"}]}))
        .route(json!({
            "match": {"connect_matcher": {}},
            "route": {
                "cluster": "origin",
                "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": connect_config}],
            },
        }))
}

fn echo_after(greeting: &'static str) -> Origin {
    Origin::start(move |peer| {
        if !greeting.is_empty() {
            peer.request_head()?;
            peer.send(greeting)?;
        }
        loop {
            let bytes = peer.wire().some()?;
            if bytes.is_empty() {
                return peer.send("goodbye");
            }
            peer.send(bytes)?;
        }
    })
}

fn through_a_tunnel(client: &mut Client) {
    client.send("CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\n\r\n");
    let response = client.response_to("CONNECT");
    assert_eq!(response.status, 200);
    assert_eq!(
        (response.header("content-length"), response.header("transfer-encoding")),
        (None, None)
    );
    let bytes = pattern(100_000);
    client.send(&bytes);
    assert!(client.wire().exactly(bytes.len()).unwrap() == bytes, "the bytes changed");
    client.finish();
    assert_eq!(client.wire().until_close(), Ok(b"goodbye".to_vec()));
}

#[test]
fn connect_ends_here_and_becomes_a_plain_connection() {
    let origin = echo_after("");
    let proxy = Proxy::start(&connect_config(&origin, &json!({})));
    through_a_tunnel(&mut proxy.client());
    origin.wait_released();
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn connect_goes_on_to_another_proxy() {
    let origin = echo_after("HTTP/1.1 200 OK\r\n\r\n");
    let proxy = Proxy::start(&connect_config(&origin, &Value::Null));
    through_a_tunnel(&mut proxy.client());
    let request = origin.only_request();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("CONNECT", "far.example:443"));
    origin.wait_released();
    proxy.stop();
}

#[test]
fn connect_without_configuration_is_refused() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    client.send("CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\n\r\n");
    let status = client.try_response().map(|response| response.status);
    assert!(matches!(status, Ok(403 | 404) | Err(Fault::Closed)), "{status:?}");
    assert_eq!(origin.log().accepted, 0);
    proxy.stop();
}
