//! SOFARPC's own clients and servers, in Java and in Node, over Bolt.

use outrigger_tests::origin::refusing;
use outrigger_tests::peer::Questions;
use outrigger_tests::{Address, Config, Peer, Proxy};
use serde_json::json;

use super::{expect_heartbeats, node_peer, peer, with_failing_clusters};

/// How a caller may wait for its answer in Java.
const KINDS: [&str; 3] = ["sync", "future", "callback"];

/// Each local error has a service of its own, and every other but `peer.Echo:1.0` no route.
fn config(server: &Address, refusing: &Address) -> Config {
    let service = |name: &str| json!({"service": {"exact": name}});
    let config = Config::rpc(
        "bolt",
        json!([
            {"match": service("peer.Echo:1.0"), "route": {"cluster": "origin"},
             "request_headers_to_add": [{"header": {"key": "seen-by", "value": "proxy"}}]},
            {"match": service("peer.Echo:1.0:slow"),
             "route": {"cluster": "origin", "timeout": "0.2s"}},
            {"match": service("peer.Echo:1.0:empty"), "route": {"cluster": "empty"}},
            {"match": service("peer.Echo:1.0:refusing"), "route": {"cluster": "refusing"}},
            {"match": service("peer.Echo:1.0:full"), "route": {"cluster": "full"}},
        ]),
    )
    // All that is under way at once has to be on one connection.
    .rpc_proxy(json!({
        "upstream_connections": {"max": 1, "requests_each": 2000},
        "upstream_keepalive": {"interval": "1s", "timeout": "10s"},
    }))
    .cluster("origin", &[server]);
    with_failing_clusters(config, server, refusing)
}

/// What a call comes to, with a proxy and without.
fn calls(
    questions: &mut Questions,
    client: &mut Peer,
    to: &str,
    server: &mut Peer,
    kinds: &[&str],
) {
    for kind in kinds {
        questions.value(client, &format!("call {to} kind={kind} text={kind}"), *kind);
    }
    questions.value(client, &format!("call {to} unique=slow text=0 method=slow"), "0");
    questions.value(client, &format!("call {to} method=letters text=300000"), 300_000);
    questions.value(client, &format!("many {to} count=1000"), 1000);
    if kinds.len() > 1 {
        let note = format!("call {to} kind=oneway method=note text=noted");
        questions.value(client, &note, "sent");
        questions.value(server, "notes count=1", json!(["noted"]));
    }
}

/// What Java tells of a local error. In all ways to wait the same exception of Bolt is at the bottom;
/// SOFARPC's own code for it is told only to who waits in place.
fn local_errors(questions: &mut Questions, java: &mut Peer, to: &str) {
    let bolt = "com.alipay.remoting";
    for (unique, more, code, exception) in [
        ("none", "", "CLIENT_UNDECLARED_ERROR", "rpc.exception.InvokeException"),
        ("empty", "", "CLIENT_UNDECLARED_ERROR", "rpc.exception.InvokeException"),
        (
            "slow",
            "method=slow text=20000",
            "CLIENT_TIMEOUT",
            "rpc.exception.InvokeTimeoutException",
        ),
        ("full", "", "SERVER_BUSY", "rpc.exception.InvokeServerBusyException"),
        ("refusing", "", "CLIENT_NETWORK", "exception.ConnectionClosedException"),
    ] {
        let exception = format!("\"{bolt}.{exception}\"");
        for kind in KINDS {
            let command = format!("call {to} unique={unique} kind={kind} {more}");
            let code: &[&str] = if kind == "sync" { &[code] } else { &[] };
            questions.error(java, &command, &[code, &[&exception]].concat());
        }
    }
}

#[test]
#[ignore = "needs Java and SOFARPC, which .ci/run installs"]
fn sofarpc_of_java_runs_through() {
    let (mut server, mut client) = (peer("sofa-peer"), peer("sofa-peer"));
    let port = server.serve("serve uniques=slow");
    let (_socket, refusing) = refusing();
    let proxy = Proxy::start(&config(&Address::port(port), &refusing));

    let mut questions = Questions::default();
    for address in [Address::port(port), proxy.address().clone()] {
        let to = format!("to={address}");
        calls(&mut questions, &mut client, &to, &mut server, &KINDS);
        for kind in KINDS {
            let fail = format!("call {to} method=fail kind={kind} text=no");
            questions.error(&mut client, &fail, &["\"peer.Refusal\"", "\"no\""]);
        }
        questions.value(&mut client, &format!("baggage {to} text=carried"), "carried");
        questions.value(&mut client, &format!("call {to} method=header text=app"), "peer");
        let own = format!("call {to} method=slow text=20000 timeout=300");
        questions.error(&mut client, &own, &["CLIENT_TIMEOUT"]);
    }
    let to = format!("to={}", proxy.address());
    questions.value(&mut client, &format!("call {to} method=header text=seen-by"), "proxy");
    local_errors(&mut questions, &mut client, &to);
    // The connection that saw them all still serves.
    questions.value(&mut client, &format!("call {to} text=after"), "after");
    questions.all_right();
    expect_heartbeats(&proxy, "bolt");
    assert_eq!(proxy.stat("bolt.main.cx_total"), 1);
    assert_eq!(proxy.stat("bolt.main.cx_protocol_error"), 0);
    proxy.stop();
}

#[test]
#[ignore = "needs Node with sofa-rpc-node and Java with SOFARPC, which .ci/run installs"]
fn sofarpc_of_node_runs_through() {
    let (mut java, mut java_client) = (peer("sofa-peer"), peer("sofa-peer"));
    let (mut node, mut node_client) = (node_peer(), node_peer());
    let ports = [java.serve("serve uniques=slow"), node.serve("serve uniques=slow")];
    let (_socket, refusing) = refusing();

    let mut questions = Questions::default();
    // Node's server keeps, for each connection, how the first request's class was written, and so
    // can't be sent requests of two kinds of clients on one.
    let sharing = [json!({}), json!({"sharing": "BOUND", "upstream_connections": null})];
    for ((port, server), sharing) in ports.into_iter().zip([&mut java, &mut node]).zip(sharing) {
        let config = config(&Address::port(port), &refusing).rpc_proxy(sharing);
        let proxy = Proxy::start(&config);
        for address in [Address::port(port), proxy.address().clone()] {
            let to = format!("to={address}");
            calls(&mut questions, &mut java_client, &to, server, &KINDS);
            calls(&mut questions, &mut node_client, &to, server, &["sync"]);
        }
        let to = format!("to={}", proxy.address());
        // It has one error for all, but tells it at once.
        for (unique, more) in [
            ("none", ""),
            ("empty", ""),
            ("slow", "method=slow text=20000"),
            ("full", ""),
            ("refusing", ""),
        ] {
            let command = format!("call {to} unique={unique} {more}");
            questions.error(&mut node_client, &command, &["Server exception"]);
        }
        local_errors(&mut questions, &mut java_client, &to);
        questions.value(&mut node_client, &format!("call {to} text=after"), "after");
        proxy.stop();
    }
    questions.all_right();
}

/// v2 as Node speaks it has a checksum whenever the switch says so.
#[test]
#[ignore = "needs Node with sofa-rpc-node, which .ci/run installs"]
fn version_2_of_node_runs_through() {
    let (mut server, mut client) = (node_peer(), node_peer());
    let port = server.serve("serve uniques=slow");
    let (_socket, refusing) = refusing();
    let config = config(&Address::port(port), &refusing)
        .rpc_proxy(json!({"bolt": {"crc_by_switch_only": true}}));
    let proxy = Proxy::start(&config);
    let mut questions = Questions::default();
    for address in [Address::port(port), proxy.address().clone()] {
        for (ver1, crc) in [(1, "off"), (1, "on"), (2, "off"), (2, "on")] {
            let to = format!("to={address} version=2 ver1={ver1} crc={crc}");
            calls(&mut questions, &mut client, &to, &mut server, &["sync"]);
            if address == *proxy.address() {
                let command = format!("call {to} unique=none");
                questions.error(&mut client, &command, &["Server exception"]);
            }
        }
    }
    questions.all_right();
    proxy.stop();
}
