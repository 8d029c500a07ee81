//! Apache Dubbo's own clients and servers, over Dubbo 2: Java with both serializations, and Go.

use outrigger_tests::origin::refusing;
use outrigger_tests::peer::Questions;
use outrigger_tests::{Address, Config, Peer, Proxy};
use serde_json::json;

use super::{expect_heartbeats, peer, with_failing_clusters};

/// How a caller may wait for its answer in Java.
const KINDS: [&str; 3] = ["sync", "future", "callback"];

/// Each local error has a group of its own, and every other but `g1` and none no route.
pub(super) fn config(server: &Address, refusing: &Address) -> Config {
    let group = |name: &str| {
        json!({"service": {"exact": "peer.Echo"}, "version": {"exact": "1.0.0"},
               "group": {"exact": name}})
    };
    let config = Config::rpc(
        "dubbo",
        json!([
            {"match": group(""), "route": {"cluster": "origin"},
             "request_headers_to_add": [{"header": {"key": "seen-by", "value": "proxy"}}]},
            {"match": group("g1"), "route": {"cluster": "origin"}},
            {"match": group("slow"), "route": {"cluster": "origin", "timeout": "0.2s"}},
            {"match": group("empty"), "route": {"cluster": "empty"}},
            {"match": group("refusing"), "route": {"cluster": "refusing"}},
            {"match": group("full"), "route": {"cluster": "full"}},
            {"match": {"service": {"exact": "dubbo.Watch"}}, "route": {"cluster": "origin"}},
        ]),
    )
    .rpc_proxy(json!({
        "upstream_connections": {"max": 1, "requests_each": 2000},
        "upstream_keepalive": {"interval": "1s", "timeout": "10s"},
    }))
    .cluster("origin", &[server]);
    with_failing_clusters(config, server, refusing)
}

/// A URL of Java's client. It takes 127.0.0.1 for a mistake, and uses another address of the host;
/// this is the same as a number.
pub(super) fn url(protocol: &str, address: &Address, parameters: &str) -> String {
    let address = address.tcp();
    let number = match address.ip() {
        std::net::IpAddr::V4(ip) => u32::from(ip),
        std::net::IpAddr::V6(_) => unreachable!("the tests use IPv4"),
    };
    format!("url={protocol}://{number}:{}?{parameters}", address.port())
}

/// What a call comes to, with a proxy and without.
pub(super) fn calls(
    questions: &mut Questions,
    client: &mut Peer,
    to: &str,
    server: &mut Peer,
    at_once: u32,
) {
    for kind in KINDS {
        questions.value(client, &format!("call {to} kind={kind} text={kind}"), kind);
        questions.value(client, &format!("call {to} kind={kind} group=g1 text={kind}"), kind);
        let fail = format!("call {to} method=fail kind={kind} text=no");
        questions.error(client, &fail, &["\"peer.Refusal\"", "\"no\""]);
    }
    questions.value(client, &format!("call {to} method=letters text=300000"), 300_000);
    questions.value(client, &format!("generic {to} text=generic"), "generic");
    questions.value(client, &format!("generic {to} group=g1 text=generic"), "generic");
    questions.value(client, &format!("attachment {to} text=carried"), "carried");
    let note = format!("call {to} kind=oneway method=note text=noted");
    questions.value(client, &note, "sent");
    questions.value(server, "notes count=1", json!(["noted"]));
    // The client's own time: who notices first, it or the proxy, has the word.
    let own = format!("call {to} method=slow text=20000 timeout=300");
    questions.error(client, &own, &["timeout"]);
    questions.value(client, &format!("many {to} count={at_once}"), at_once);
}

/// What Java tells of a local error: an exception of remoting, of which who waits in place gets
/// Dubbo's own code.
fn local_errors(questions: &mut Questions, client: &mut Peer, to: &str) {
    for (group, more, code, exception, text) in [
        ("none", "", "NETWORK_EXCEPTION", "RemotingException", "404|route_not_found"),
        ("empty", "", "NETWORK_EXCEPTION", "RemotingException", "502|no_healthy_upstream"),
        (
            "slow",
            "method=slow text=20000",
            "TIMEOUT_EXCEPTION",
            "TimeoutException",
            "504|upstream_response_timeout",
        ),
        ("full", "", "NETWORK_EXCEPTION", "RemotingException", "503|upstream_overflow"),
        ("refusing", "", "NETWORK_EXCEPTION", "RemotingException", "502|upstream_connection_lost"),
    ] {
        let exception = format!("\"org.apache.dubbo.remoting.{exception}\"");
        for kind in KINDS {
            let command = format!("call {to} group={group} kind={kind} {more}");
            let code: &[&str] = if kind == "sync" { &[code] } else { &[] };
            questions.error(client, &command, &[code, &[&exception, text]].concat());
        }
    }
    let version = format!("call {to} version=2.0.0");
    questions.error(client, &version, &["NETWORK_EXCEPTION", "404|route_not_found"]);
}

/// Go has one error for all of them, with the text that came.
fn local_errors_of_go(questions: &mut Questions, client: &mut Peer, to: &str) {
    for (group, more, text) in [
        ("none", "", "404|route_not_found"),
        ("empty", "", "502|no_healthy_upstream"),
        ("slow", "method=slow text=20000", "504|upstream_response_timeout"),
        ("full", "", "503|upstream_overflow"),
        ("refusing", "", "502|upstream_connection_lost"),
    ] {
        let command = format!("call {to} group={group} {more}");
        questions.error(client, &command, &["java exception:", text]);
    }
}

#[test]
#[ignore = "needs Java with Dubbo and Go with dubbo-go, which .ci/run installs"]
fn dubbo_runs_through() {
    let (mut server, mut client) = (peer("dubbo-peer"), peer("dubbo-peer"));
    let mut go = peer("dubbogo-peer");
    let (_socket, refusing) = refusing();
    let mut questions = Questions::default();
    for serialization in ["hessian2", "fastjson2"] {
        let serve = format!("serve serialization={serialization} groups=g1,slow");
        let direct = Address::port(server.serve(&serve));
        let proxy = Proxy::start(&config(&direct, &refusing));
        let parameters = format!("serialization={serialization}&heartbeat=1000");
        for address in [&direct, proxy.address()] {
            let to = url("dubbo", address, &parameters);
            calls(&mut questions, &mut client, &to, &mut server, 1000);
        }
        let to = url("dubbo", proxy.address(), &parameters);
        let header = format!("call {to} method=header text=seen-by");
        questions.value(&mut client, &header, "proxy");
        local_errors(&mut questions, &mut client, &to);
        if serialization == "hessian2" {
            for address in [&direct, proxy.address()] {
                let to = format!("to={address}");
                questions.value(&mut go, &format!("call {to} text=go"), "go");
                questions.value(&mut go, &format!("call {to} group=g1 text=go"), "go");
                questions.value(&mut go, &format!("call {to} method=letters text=300000"), 300_000);
                let attached = format!("call {to} method=header text=tag attach=carried");
                questions.value(&mut go, &attached, "carried");
                questions.error(&mut go, &format!("call {to} method=fail text=no"), &["no"]);
                questions.value(&mut go, &format!("many {to} count=1000"), 1000);
            }
            local_errors_of_go(&mut questions, &mut go, &format!("to={}", proxy.address()));
        }
        questions.value(&mut client, &format!("call {to} text=after"), "after");
        expect_heartbeats(&proxy, "dubbo");
        assert_eq!(proxy.stat("dubbo.main.cx_protocol_error"), 0);
        proxy.stop();
    }
    questions.all_right();
}

/// An argument is called back on the connection that brought it.
#[test]
#[ignore = "needs Java with Dubbo, which .ci/run installs"]
fn dubbo_of_java_calls_back() {
    let (mut server, mut client) = (peer("dubbo-peer"), peer("dubbo-peer"));
    let direct = Address::port(server.serve("serve"));
    let (_socket, refusing) = refusing();
    let config = config(&direct, &refusing).rpc_proxy(json!({
        "sharing": "BOUND", "allow_reverse_requests": true, "upstream_connections": null,
    }));
    let proxy = Proxy::start(&config);
    let mut questions = Questions::default();
    for address in [&direct, proxy.address()] {
        let to = url("dubbo", address, "serialization=hessian2");
        questions.value(&mut client, &format!("watch {to} text=there"), "heard there");
        questions.value(&mut client, &format!("watch {to} text=again"), "heard again");
    }
    questions.all_right();
    proxy.stop();
}
