//! Dubbo 2 through the proxy: what is of this protocol alone. What the stream manager does for all of
//! them is in `rpc`.

use outrigger_tests::dubbo::{Call, Client, Frame, Reply, Server, flag, serialization, status};
use outrigger_tests::{Config, Proxy};
use serde_json::{Value, json};

const PAY: &str = "com.bank.Pay";

fn to(cluster: &str) -> Value {
    json!([{"match": {}, "route": {"cluster": cluster}}])
}

fn config(server: &Server) -> Config {
    Config::rpc("dubbo", to("origin")).cluster("origin", &[server.address()])
}

fn client(proxy: &Proxy) -> Client {
    Client::connect(proxy.address())
}

fn call() -> Call {
    Call::new(PAY, "pay").argument("hello")
}

#[test]
fn ids_are_the_clients_own_on_its_side_and_wrap() {
    let server = Server::echo();
    let proxy = Proxy::start(&config(&server));
    let mut clients = [client(&proxy), client(&proxy)];
    for id in [0, 1, u64::from(u32::MAX), 1 << 63, u64::MAX] {
        for client in &mut clients {
            let response = client.call(&call().request(id));
            assert_eq!((response.id, response.answer().text.as_deref()), (id, Some("hello")));
        }
    }
    assert_eq!(server.log().accepted, 1);
}

#[test]
fn requests_are_routed_by_version_group_method_and_attachments() {
    let servers: Vec<_> = (0..5).map(|_| Server::echo()).collect();
    let routes = json!([
        {"match": {"service": {"exact": PAY}, "group": {"exact": "gold"}}, "route": {"cluster": "0"}},
        {"match": {"service": {"exact": PAY}, "version": {"exact": "2.0.0"}},
         "route": {"cluster": "1"}},
        {"match": {"method": {"exact": "refund"}}, "route": {"cluster": "2"}},
        {"match": {"headers": [{"name": "tenant", "string_match": {"exact": "a"}}]},
         "route": {"cluster": "3"}},
        {"match": {"service": {"exact": PAY}}, "route": {"cluster": "4"}},
    ]);
    let mut config = Config::rpc("dubbo", routes);
    for (number, server) in servers.iter().enumerate() {
        config = config.cluster(&number.to_string(), &[server.address()]);
    }
    let proxy = Proxy::start(&config);
    let mut client = client(&proxy);
    let generic = Call::new(PAY, "$invoke").argument("refund");
    for (number, call) in [
        (0, call().group("gold")),
        (1, call().version("2.0.0")),
        (2, Call::new(PAY, "refund")),
        (2, generic),
        (3, call().attachment("tenant", "a")),
        (4, call().attachment("tenant", "b")),
    ] {
        for call in [call.clone(), call.fastjson2()] {
            let before = servers[number].log().requests().count();
            assert_eq!(client.call(&call.request(7)).status, status::OK, "{call:?}");
            let log = servers[number].log();
            assert_eq!(log.requests().count(), before + 1, "{call:?}");
            assert_eq!(log.requests().last().unwrap().frame.call(), call, "nothing was changed");
        }
    }
}

#[test]
fn what_can_not_be_read_goes_by_the_default_route_alone() {
    let server = Server::echo();
    let routes = json!([
        {"match": {"service": {"exact": PAY}}, "route": {"cluster": "none"}},
        {"match": {}, "route": {"cluster": "origin"}},
    ]);
    let config =
        Config::rpc("dubbo", routes).cluster("none", &[]).cluster("origin", &[server.address()]);
    let proxy = Proxy::start(&config);
    let mut client = client(&proxy);
    let java = Frame {
        flags: flag::REQUEST | flag::TWO_WAY | serialization::JAVA,
        status: 0,
        id: 5,
        body: b"\xac\xed\0\x05 who knows".to_vec(),
    };
    client.send(&java);
    let seen = server.nth_request(1);
    assert_eq!((&seen.frame.body, seen.frame.flags), (&java.body, java.flags));
}

#[test]
fn local_errors_are_texts_in_the_serialization_of_the_request() {
    let server = Server::holding();
    let (_socket, refusing) = outrigger_tests::origin::refusing();
    let service = |name: &str| json!({"service": {"exact": name}});
    let routes = json!([
        {"match": service("empty"), "route": {"cluster": "empty"}},
        {"match": service("refusing"), "route": {"cluster": "refusing"}},
        {"match": service("full"), "route": {"cluster": "full"}},
        {"match": service("slow"), "route": {"cluster": "origin"}},
    ]);
    let config = Config::rpc("dubbo", routes)
        .cluster("empty", &[])
        .cluster("refusing", &[&refusing])
        .cluster("full", &[server.address()])
        .tune_cluster(json!({"circuit_breakers": {"thresholds": [{"max_requests": 0}]}}))
        .cluster("origin", &[server.address()]);
    let proxy = Proxy::start(&config);
    let mut client = client(&proxy);
    for (service, wanted) in [
        ("nowhere", status::SERVICE_NOT_FOUND),
        ("empty", status::SERVICE_NOT_FOUND),
        ("refusing", status::SERVER_ERROR),
        ("full", status::THREADPOOL_EXHAUSTED),
        ("slow", status::SERVER_TIMEOUT),
    ] {
        let call = Call::new(service, "pay").timeout(100);
        for call in [call.clone(), call.fastjson2()] {
            let response = client.call(&call.request(3));
            assert_eq!(response.serialization(), call.serialization);
            let answer = response.answer();
            assert_eq!(answer.status, wanted, "{service}");
            assert!(answer.text.is_some_and(|text| text.contains('|')), "{service}");
        }
        client.send(&Call::new(service, "pay").oneway(4));
        assert_eq!(client.round_trip(9), []);
    }
}

#[test]
fn an_undecodable_body_is_a_bad_request_and_the_connection_goes_on() {
    let server = Server::echo();
    let routes = json!([{"match": {"service": {"exact": PAY}}, "route": {"cluster": "origin"}}]);
    let proxy = Proxy::start(&Config::rpc("dubbo", routes).cluster("origin", &[server.address()]));
    let mut client = client(&proxy);
    let mut broken = call().request(1);
    broken.body.truncate(9);
    assert_eq!(client.call(&broken).answer().status, status::BAD_REQUEST);
    assert_eq!(client.call(&call().request(2)).status, status::OK);
    proxy.expect_stat("dubbo.main.request_decoding_error", 1);
}

#[test]
fn attachments_are_edited() {
    let server = Server::echo();
    let routes = json!([{
        "match": {},
        "route": {"cluster": "origin"},
        "request_headers_to_add": [{"header": {"key": "trace", "value": "t-1"}}],
        "request_headers_to_remove": ["secret"],
    }]);
    let proxy = Proxy::start(&Config::rpc("dubbo", routes).cluster("origin", &[server.address()]));
    let mut client = client(&proxy);
    let long = "x".repeat(40_000);
    for (number, call) in [call(), call().fastjson2(), call().argument(&long)].iter().enumerate() {
        let call = call.clone().attachment("secret", "s").attachment("kept", "k");
        assert_eq!(client.call(&call.request(1)).status, status::OK);
        let seen = server.nth_request(number + 1).frame.call();
        assert_eq!(seen.arguments, call.arguments);
        assert_eq!(seen.get("trace"), Some("t-1"));
        assert_eq!((seen.get("secret"), seen.get("kept")), (None, Some("k")));
    }
}

#[test]
fn heartbeats_have_the_bytes_java_expects() {
    let server = Server::echo();
    let proxy = Proxy::start(&config(&server));
    let mut client = client(&proxy);
    for (asked, answered) in [
        (
            &b"\xda\xbb\xe2\0\0\0\0\0\0\0\0\x07\0\0\0\x01N"[..],
            &b"\xda\xbb\x22\x14\0\0\0\0\0\0\0\x07\0\0\0\x01N"[..],
        ),
        (
            b"\xda\xbb\xf7\0\0\0\0\0\0\0\0\x08\0\0\0\x05\0\0\0\x01\xaf",
            b"\xda\xbb\x37\x14\0\0\0\0\0\0\0\x08\0\0\0\x05\0\0\0\x01\xaf",
        ),
    ] {
        client.send_bytes(asked);
        assert_eq!(client.wire().exactly(answered.len()).unwrap(), answered);
    }
    assert_eq!(server.log().frames.len(), 0, "none is passed on");
}

#[test]
fn a_server_that_is_read_only_gets_nothing_until_it_is_writeable() {
    let server = Server::holding();
    let proxy = Proxy::start(&config(&server));
    let mut client = client(&proxy);
    client.send(&call().request(1));
    let first = server.nth_request(1);
    server.send(first.connection, &Frame::read_only(1));
    proxy.await_stat("cluster.origin.upstream_cx_close_notify", |count| count == 1);
    client.send(&call().request(2));
    let second = server.nth_request(2);
    assert_ne!(second.connection, first.connection);
    server.answer(&first, Reply::Echo);
    server.answer(&second, Reply::Echo);
    client.responses(2);
}

#[test]
fn a_drain_tells_clients_that_it_is_read_only() {
    let server = Server::echo();
    let mut proxy = Proxy::start(&config(&server));
    let mut client = client(&proxy);
    client.call(&call().request(1));
    proxy.process().signal(libc::SIGTERM);
    let event = client.receive();
    assert_eq!((event.flags, &*event.body), (0xa2, &b"\x01R"[..]));
    client.expect_close();
    assert!(proxy.wait_exit().success());
}

#[test]
fn a_callback_binds_its_connection() {
    // The server calls back with an id of its own, and answers when the client has.
    let server = Server::start(|frame| match frame.has(flag::REQUEST) {
        true if frame.has(flag::EVENT) => Reply::Heartbeat,
        true => Reply::Frames(vec![Call::new(PAY, "callback").request(4711), frame.response("ok")]),
        false => Reply::Nothing,
    });
    let proxy = Proxy::start(&config(&server));
    let mut clients = [client(&proxy), client(&proxy)];
    let asks = call().attachment("sys_callback_arg-0", "7");
    for client in &mut clients {
        client.send(&asks.request(1));
        let callback = client.receive();
        assert_eq!((callback.id, callback.call().method.as_str()), (4711, "callback"));
        assert_eq!(client.receive().answer().text.as_deref(), Some("ok"));
        client.send(&callback.response("called"));
    }
    let log = server.wait_for("answers to both callbacks", |log| {
        log.frames.iter().filter(|seen| !seen.frame.has(flag::REQUEST)).count() == 2
    });
    assert_eq!(log.accepted, 2);
    assert!(log.requests().all(|seen| seen.frame.id == 1));
}

#[test]
fn envoys_dubbo_proxy_runs_as_it_is() {
    let (one, two) = (Server::echo(), Server::echo());
    let filter = json!([{"name": "envoy.filters.network.dubbo_proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy",
        "stat_prefix": "main",
        "route_config": [{
            "name": "local",
            "interface": PAY,
            "routes": [
                {"match": {"method": {"name": {"exact": "refund"}}}, "route": {"cluster": "two"}},
                {"match": {"method": {"name": {"prefix": "p"}}}, "route": {"cluster": "one"}},
            ],
        }],
    }}]);
    let config = Config::new()
        .filters(filter)
        .cluster("one", &[one.address()])
        .cluster("two", &[two.address()]);
    let proxy = Proxy::start(&config);
    let mut client = client(&proxy);
    assert_eq!(client.call(&call().request(1)).status, status::OK);
    assert_eq!(client.call(&Call::new(PAY, "refund").request(2)).status, status::OK);
    let other = client.call(&Call::new("com.bank.Other", "pay").request(3));
    assert_eq!(other.status, status::SERVICE_NOT_FOUND);
    assert_eq!((one.log().requests().count(), two.log().requests().count()), (1, 1));
}
