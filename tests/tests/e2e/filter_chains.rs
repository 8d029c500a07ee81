//! Which filter chain a connection gets, over real sockets: addresses of the loopback network stand
//! for near and far.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use outrigger_tests::config::{HTTP_CONNECTION_MANAGER, ROUTER};
use outrigger_tests::{Client, Config, PATIENCE, Proxy};
use serde_json::{Value, json};

/// A chain that answers with its name.
fn chain(name: &str, matching: Value) -> Value {
    json!({
        "name": name,
        "filter_chain_match": matching,
        "filters": [{
            "name": "http",
            "typed_config": {
                "@type": HTTP_CONNECTION_MANAGER,
                "stat_prefix": "main",
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
                    "match": {"prefix": "/"},
                    "direct_response": {"status": 200, "body": {"inline_string": name}},
                }]}]},
                "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
            },
        }],
    })
}

/// A proxy on every address of the loopback network.
fn start(chains: &[Value], default: bool) -> Proxy {
    let any = json!({"socket_address": {"address": "0.0.0.0", "port_value": 0}});
    let mut listener = json!({"address": any, "filter_chains": chains});
    if default {
        listener["default_filter_chain"] = chain("default", Value::Null);
        listener["default_filter_chain"].as_object_mut().unwrap().remove("filter_chain_match");
    }
    Proxy::start(&Config::new().listener(listener))
}

fn loopback(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))
}

/// The name of the chain that a connection from one address to another gets, if there is one.
#[track_caller]
fn chosen(proxy: &Proxy, from: SocketAddr, to: u8) -> Option<String> {
    let to = SocketAddr::new(loopback(to), proxy.address().tcp().port());
    let stream = outrigger_tests::Address::Tcp(to).connect_from(from, PATIENCE).unwrap();
    let mut client = Client::over(stream);
    let _ = client.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    match client.try_response() {
        Ok(response) => Some(response.text()),
        Err(_) => None,
    }
}

#[track_caller]
fn from(proxy: &Proxy, source: u8) -> Option<String> {
    chosen(proxy, SocketAddr::new(loopback(source), 0), 1)
}

fn range(prefix: &str, length: u32) -> Value {
    json!([{"address_prefix": prefix, "prefix_len": length}])
}

#[test]
fn the_longest_source_prefix_wins() {
    let proxy = start(
        &[
            chain("wide", json!({"source_prefix_ranges": range("127.0.0.0", 8)})),
            chain("narrow", json!({"source_prefix_ranges": range("127.0.0.64", 26)})),
            chain("one", json!({"source_prefix_ranges": range("127.0.0.77", 32)})),
        ],
        false,
    );
    assert_eq!(from(&proxy, 1).as_deref(), Some("wide"));
    assert_eq!(from(&proxy, 65).as_deref(), Some("narrow"));
    assert_eq!(from(&proxy, 77).as_deref(), Some("one"));
    assert_eq!(from(&proxy, 128).as_deref(), Some("wide"));
    proxy.stop();
}

#[test]
fn the_destination_is_looked_at_before_the_source() {
    let proxy = start(
        &[
            chain("destination", json!({"prefix_ranges": range("127.0.0.2", 32)})),
            chain("source", json!({"source_prefix_ranges": range("127.0.0.5", 32)})),
            chain(
                "both",
                json!({
                    "prefix_ranges": range("127.0.0.3", 32),
                    "source_prefix_ranges": range("127.0.0.5", 32),
                }),
            ),
        ],
        true,
    );
    let at = |source: u8, destination: u8| {
        chosen(&proxy, SocketAddr::new(loopback(source), 0), destination)
    };
    assert_eq!(at(5, 2).as_deref(), Some("destination"));
    assert_eq!(at(6, 2).as_deref(), Some("destination"));
    assert_eq!(at(5, 3).as_deref(), Some("both"));
    assert_eq!(at(5, 4).as_deref(), Some("source"));
    assert_eq!(at(6, 4).as_deref(), Some("default"));
    // The most specific destination has no chain for this source, and there is no way back.
    assert_eq!(at(6, 3).as_deref(), Some("default"));
    proxy.stop();
}

#[test]
fn the_destination_port_is_looked_at_first() {
    // Which port that will be, only the kernel knows: one chain for another port never matches.
    let proxy = start(
        &[
            chain(
                "port",
                json!({
                    "destination_port": 1, "source_prefix_ranges": range("127.0.0.5", 32),
                }),
            ),
            chain("any", json!({"source_prefix_ranges": range("127.0.0.0", 8)})),
        ],
        true,
    );
    assert_eq!(from(&proxy, 5).as_deref(), Some("any"));
    assert_eq!(from(&proxy, 6).as_deref(), Some("any"));
    proxy.stop();
}

#[test]
fn source_types_and_ports() {
    let port = {
        let socket = std::net::TcpListener::bind((loopback(9), 0)).unwrap();
        socket.local_addr().unwrap().port()
    };
    let proxy = start(
        &[
            chain("loopback", json!({"source_type": "SAME_IP_OR_LOOPBACK"})),
            chain("external", json!({"source_type": "EXTERNAL"})),
            chain(
                "port",
                json!({
                    "source_type": "SAME_IP_OR_LOOPBACK", "source_ports": [port],
                }),
            ),
        ],
        false,
    );
    // Only one address is loopback, as Envoy has it; the others are near to themselves.
    assert_eq!(from(&proxy, 1).as_deref(), Some("loopback"));
    assert_eq!(from(&proxy, 9).as_deref(), Some("external"));
    let at = |port| chosen(&proxy, SocketAddr::new(loopback(9), port), 9);
    assert_eq!(at(0).as_deref(), Some("loopback"));
    assert_eq!(at(port).as_deref(), Some("port"));
    proxy.stop();
}

#[test]
fn without_a_match_the_default_serves_or_nobody() {
    let chains = [chain("one", json!({"source_prefix_ranges": range("127.0.0.5", 32)}))];
    let proxy = start(&chains, true);
    assert_eq!(from(&proxy, 5).as_deref(), Some("one"));
    assert_eq!(from(&proxy, 6).as_deref(), Some("default"));
    proxy.stop();
    let proxy = start(&chains, false);
    assert_eq!(from(&proxy, 5).as_deref(), Some("one"));
    assert_eq!(from(&proxy, 6), None);
    let stats = proxy.stats();
    let unmatched = stats.iter().find(|(name, _)| name.ends_with("no_filter_chain_match"));
    assert_eq!(unmatched.map(|(_, count)| *count), Some(1));
    proxy.stop();
}

#[test]
fn two_chains_with_the_same_match_are_refused() {
    let same = || json!({"source_prefix_ranges": range("127.0.0.5", 32)});
    let config = Config::new()
        .listener(json!({"filter_chains": [chain("first", same()), chain("second", same())]}));
    let mut started = outrigger_tests::Launch::outrigger(&config).spawn();
    let status = started.process.wait(PATIENCE);
    assert!(status.is_some_and(|status| !status.success()));
    let words = started.process.stderr();
    assert!(words.contains("first") || words.contains("second"), "{words}");
}
