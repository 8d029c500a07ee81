//! Apache Dubbo over Triple, which is gRPC with headers of its own.

use outrigger_tests::origin::refusing;
use outrigger_tests::peer::Questions;
use outrigger_tests::{Address, Config, Peer, Proxy};
use serde_json::json;

use super::dubbo::{calls, url};
use super::{peer, with_failing_clusters};

/// Each local error has a group of its own, and every other but `g1` and none no route.
fn config(server: &Address, refusing: &Address) -> Config {
    let group = |name: &str| {
        json!({"prefix": "/peer.Echo/", "grpc": {},
               "headers": [{"name": "tri-service-group", "string_match": {"exact": name},
                            "treat_missing_header_as_empty": true}]})
    };
    let config = Config::to_http2(server)
        .tune_route(json!({"match": group(""), "route": {"timeout": "0s"},
            "request_headers_to_add": [{"header": {"key": "seen-by", "value": "proxy"}}]}))
        .route(json!({"match": group("g1"), "route": {"cluster": "origin", "timeout": "0s"}}))
        // Only then is a timeout of the route DEADLINE_EXCEEDED, as Envoy has it.
        .route(json!({"match": group("slow"), "route": {
            "cluster": "origin", "timeout": "0s",
            "max_stream_duration": {"max_stream_duration": "0.2s"},
        }}))
        .route(json!({"match": group("empty"), "route": {"cluster": "empty"}}))
        .route(json!({"match": group("refusing"), "route": {"cluster": "refusing"}}))
        .route(json!({"match": group("full"), "route": {"cluster": "full"}}));
    with_failing_clusters(config, server, refusing)
}

/// What Java tells of a local error: who waits in place gets the status by name alone, who does not
/// gets Dubbo's code for it.
fn local_errors(questions: &mut Questions, client: &mut Peer, to: &str) {
    for (group, more, status, code) in [
        ("none", "", "UNIMPLEMENTED", "METHOD_NOT_FOUND"),
        ("empty", "", "UNAVAILABLE", "NETWORK_EXCEPTION"),
        ("slow", "method=slow text=20000", "DEADLINE_EXCEEDED", "TIMEOUT_EXCEPTION"),
        ("full", "", "UNAVAILABLE", "NETWORK_EXCEPTION"),
        ("refusing", "", "UNAVAILABLE", "NETWORK_EXCEPTION"),
    ] {
        let exception = "\"org.apache.dubbo.rpc.StatusRpcException\"";
        let command = format!("call {to} group={group} {more}");
        questions.error(client, &command, &[exception, status]);
        for kind in ["future", "callback"] {
            let command = format!("{command} kind={kind}");
            questions.error(client, &command, &[exception, status, code]);
        }
    }
}

#[test]
#[ignore = "needs Java with Dubbo, which .ci/run installs"]
fn triple_of_java_runs_through() {
    let (mut server, mut client) = (peer("dubbo-peer"), peer("dubbo-peer"));
    let direct = Address::port(server.serve("serve protocol=tri groups=g1,slow"));
    let (_socket, refusing) = refusing();
    let proxy = Proxy::start(&config(&direct, &refusing));
    let mut questions = Questions::default();
    for address in [&direct, proxy.address()] {
        let to = url("tri", address, "a=b");
        // With a thousand at once this server itself breaks its header blocks (3.3.6).
        calls(&mut questions, &mut client, &to, &mut server, 100);
    }
    let to = url("tri", proxy.address(), "a=b");
    let header = format!("call {to} method=header text=seen-by");
    questions.value(&mut client, &header, "proxy");
    local_errors(&mut questions, &mut client, &to);
    questions.value(&mut client, &format!("call {to} text=after"), "after");
    questions.all_right();
    proxy.expect_no_active_requests();
    proxy.stop();
}
