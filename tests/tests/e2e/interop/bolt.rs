//! SOFABolt's own client and server, in both versions of the protocol.

use outrigger_tests::origin::refusing;
use outrigger_tests::peer::Questions;
use outrigger_tests::{Address, Config, Peer, Proxy};
use serde_json::json;

use super::{peer, with_failing_clusters};

/// Version, ver1 and checksum.
const FLAVOURS: [&str; 5] = [
    "version=1",
    "version=2 ver1=1 crc=on",
    "version=2 ver1=1 crc=off",
    "version=2 ver1=2 crc=on",
    "version=2 ver1=2 crc=off",
];

/// Each local error has a service of its own; a call without a service is as good as one with.
fn config(server: &Address, refusing: &Address) -> Config {
    let service = |name: &str| json!({"service": {"exact": name}});
    let config = Config::rpc(
        "bolt",
        json!([
            {"match": service("slow"), "route": {"cluster": "origin", "timeout": "0.2s"}},
            {"match": service("empty"), "route": {"cluster": "empty"}},
            {"match": service("refusing"), "route": {"cluster": "refusing"}},
            {"match": service("full"), "route": {"cluster": "full"}},
            {"match": {"service": {"safe_regex": {"regex": "(a.Service)?"}}},
             "route": {"cluster": "origin"}},
        ]),
    )
    .rpc_proxy(json!({"upstream_connections": {"max": 1, "requests_each": 2000}}))
    .cluster("origin", &[server]);
    with_failing_clusters(config, server, refusing)
}

fn calls(questions: &mut Questions, client: &mut Peer, to: &str, server: &mut Peer) {
    for kind in ["sync", "future", "callback"] {
        for service in ["", "service=a.Service"] {
            let command = format!("bolt-call {to} kind={kind} {service} text={kind}");
            questions.value(client, &command, kind);
        }
        let fail = format!("bolt-call {to} kind={kind} method=fail");
        questions.error(
            client,
            &fail,
            &["com.alipay.remoting.rpc.exception.InvokeServerException"],
        );
    }
    let note = format!("bolt-call {to} kind=oneway method=note text=noted");
    questions.value(client, &note, "sent");
    questions.value(server, "notes count=1", json!(["noted"]));
    let own = format!("bolt-call {to} method=slow text=20000 timeout=300");
    questions.error(client, &own, &["InvokeTimeoutException"]);
    questions.value(client, &format!("bolt-many {to} count=1000"), 1000);
}

fn local_errors(questions: &mut Questions, client: &mut Peer, to: &str) {
    for (service, more, exception) in [
        ("none", "", "rpc.exception.InvokeException"),
        ("empty", "", "rpc.exception.InvokeException"),
        ("slow", "method=slow text=20000", "rpc.exception.InvokeTimeoutException"),
        ("full", "", "rpc.exception.InvokeServerBusyException"),
        ("refusing", "", "exception.ConnectionClosedException"),
    ] {
        let exception = format!("\"com.alipay.remoting.{exception}\"");
        for kind in ["sync", "future", "callback"] {
            let command = format!("bolt-call {to} service={service} kind={kind} {more}");
            questions.error(client, &command, &[&exception]);
        }
    }
}

#[test]
#[ignore = "needs Java and SOFABolt, which .ci/run installs"]
fn bolt_of_java_runs_through() {
    let (mut server, mut client) = (peer("sofa-peer"), peer("sofa-peer"));
    let port = server.serve("bolt-serve");
    let (_socket, refusing) = refusing();
    let proxy = Proxy::start(&config(&Address::port(port), &refusing));
    let mut questions = Questions::default();
    for flavour in FLAVOURS {
        for address in [Address::port(port), proxy.address().clone()] {
            let to = format!("to={address} {flavour}");
            calls(&mut questions, &mut client, &to, &mut server);
        }
        let to = format!("to={} {flavour}", proxy.address());
        local_errors(&mut questions, &mut client, &to);
        questions.value(&mut client, &format!("bolt-call {to} text=after"), "after");
    }
    questions.all_right();
    assert_eq!(proxy.stat("bolt.main.cx_protocol_error"), 0);
    proxy.stop();
}

/// The server asks the client on the connection that the client made.
#[test]
#[ignore = "needs Java and SOFABolt, which .ci/run installs"]
fn bolt_of_java_calls_back() {
    let (mut server, mut client) = (peer("sofa-peer"), peer("sofa-peer"));
    let port = server.serve("bolt-serve");
    let (_socket, refusing) = refusing();
    let config = config(&Address::port(port), &refusing).rpc_proxy(json!({
        "sharing": "BOUND", "allow_reverse_requests": true, "upstream_connections": null,
    }));
    let proxy = Proxy::start(&config);
    let mut questions = Questions::default();
    for flavour in FLAVOURS {
        for address in [Address::port(port), proxy.address().clone()] {
            let command = format!("bolt-call to={address} {flavour} method=back text=there");
            questions.value(&mut client, &command, "there");
        }
    }
    questions.all_right();
    proxy.stop();
}
