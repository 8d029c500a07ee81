//! The RPC stream manager, spoken to in Bolt: sharing of connections, routing, errors, retries,
//! liveness, and what one peer's trouble may do to others.

use std::collections::BTreeSet;

use outrigger_tests::bolt::{Client, Frame, Reply, Server, command, kind, status};
use outrigger_tests::config::access_log;
use outrigger_tests::origin::refusing;
use outrigger_tests::process::Scratch;
use outrigger_tests::{Config, Origin, Proxy};
use serde_json::{Value, json};

const PAY: &str = "com.bank.Pay:1.0";

fn to(cluster: &str) -> Value {
    json!([{"match": {}, "route": {"cluster": cluster}}])
}

/// Every request goes to one server.
fn config(server: &Server) -> Config {
    Config::rpc("bolt", to("origin")).cluster("origin", &[server.address()])
}

fn client(proxy: &Proxy) -> Client {
    Client::connect(proxy.address())
}

fn request(id: u32) -> Frame {
    Frame::request(id, PAY, "pay", format!("content of {id}"))
}

// ---- sharing ----

#[test]
fn clients_share_a_connection_and_get_their_own_answers_in_any_order() {
    let server = Server::holding();
    let proxy = Proxy::start(&config(&server));
    let mut clients: Vec<_> = (0..3).map(|_| client(&proxy)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        // The same ids on all of them.
        let requests = [7, u32::MAX, 0]
            .map(|id| Frame::request(id, PAY, "pay", format!("{number}-{id}")).header("n", "1"));
        client.send_all(&requests);
    }
    let log = server.wait_for("all requests", |log| log.requests().count() == 9);
    assert_eq!(log.accepted, 1, "one connection for all");
    let ids: BTreeSet<u32> = log.requests().map(|seen| seen.frame.id).collect();
    assert_eq!(ids.len(), 9, "no id twice");
    let mut seen: Vec<_> = log.requests().cloned().collect();
    seen.reverse();
    for seen in &seen {
        assert_eq!(seen.frame.get("n"), Some("1"));
        server.answer(seen, Reply::Echo);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        for (id, response) in client.responses(3) {
            assert_eq!(response.content, format!("{number}-{id}").as_bytes());
        }
    }
    proxy.expect_stat("bolt.main.request_active", 0);
    proxy.expect_stat("cluster.origin.upstream_rq_active", 0);
}

#[test]
fn frames_may_come_in_any_pieces() {
    let server = Server::echo();
    let proxy = Proxy::start(&config(&server));
    let mut client = client(&proxy);
    client.send_bytewise(request(1).bytes());
    assert_eq!(client.receive(), request(1).response("content of 1"));
    let pipelined: Vec<_> = (2..200).map(request).collect();
    client.send_all(&pipelined);
    let responses = client.responses(198);
    for (id, response) in responses {
        assert_eq!(response, request(id).response(format!("content of {id}")));
    }
}

#[test]
fn large_frames_go_through_whole() {
    let server = Server::echo();
    let proxy = Proxy::start(&config(&server));
    let mut client = client(&proxy);
    for size in [15_000, 16_384, 16_500, 100_000, 3_000_000] {
        let content: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
        let response = client.call(&Frame::request(size, PAY, "pay", content.clone()));
        assert!(response.content == content, "{size} bytes came back changed");
    }
    assert_eq!(server.log().accepted, 1);
}

#[test]
fn versions_mix_on_a_connection_and_each_request_is_answered_in_its_own() {
    // A Java server answers in the version of a connection's first frame, whatever comes later.
    let server = Server::start(|frame| match frame.is_heartbeat() {
        true => Reply::Heartbeat,
        false => {
            Reply::Frames(vec![Frame::request(frame.id, "", "", "").response(&*frame.content)])
        }
    });
    let proxy = Proxy::start(&config(&server));
    let mut client = client(&proxy);
    let requests = [
        request(1),
        request(2).v2(1, 0),
        request(3).v2(1, 1),
        request(4).v2(2, 0),
        request(5).v2(2, 1),
    ];
    client.send_all(&requests);
    let responses = client.responses(5);
    for request in &requests {
        let response = &responses[&request.id];
        assert_eq!(response.version, request.version);
        assert_eq!(response.content, request.content);
    }
    // Each version has a connection of its own.
    let log = server.log();
    let connection =
        |id: u32| log.requests().find(|seen| seen.frame.content == request(id).content);
    assert_ne!(connection(1).unwrap().connection, connection(2).unwrap().connection);
    assert_ne!(connection(2).unwrap().connection, connection(5).unwrap().connection);
}

#[test]
fn ping_pong_has_one_request_on_a_connection_at_a_time() {
    let server = Server::holding();
    let proxy = Proxy::start(&config(&server).rpc_proxy(json!({"sharing": "PING_PONG"})));
    let mut client = client(&proxy);
    client.send_all(&[request(1), request(2), request(3)]);
    let log = server.wait_for("three requests", |log| log.requests().count() == 3);
    assert_eq!(log.accepted, 3);
    log.requests().for_each(|seen| server.answer(seen, Reply::Echo));
    client.responses(3);
    client.send(&request(4));
    let seen = server.nth_request(4);
    assert!(seen.connection < 3, "a connection is used again");
}

#[test]
fn a_bound_connection_keeps_ids_and_carries_requests_both_ways() {
    let server = Server::start(|frame| match (frame.is_heartbeat(), frame.kind) {
        (true, _) => Reply::Heartbeat,
        (_, kind::REQUEST) => {
            let push = Frame::request(9000 + frame.id, "push", "notify", "push");
            Reply::Frames(vec![push, frame.response("ok")])
        }
        _ => Reply::Nothing,
    });
    let patch = json!({"sharing": "BOUND", "allow_reverse_requests": true});
    let proxy = Proxy::start(&config(&server).rpc_proxy(patch));
    let mut clients = [client(&proxy), client(&proxy)];
    for client in &mut clients {
        client.send(&request(77));
        let push = client.receive();
        assert_eq!((push.id, push.kind, &*push.content), (9077, kind::REQUEST, &b"push"[..]));
        assert_eq!(client.receive(), request(77).response("ok"));
        client.send(&push.response("got it"));
    }
    let log = server.wait_for("answers to both pushes", |log| {
        log.frames.iter().filter(|seen| seen.frame.kind == kind::RESPONSE).count() == 2
    });
    assert_eq!(log.accepted, 2);
    assert!(log.requests().all(|seen| seen.frame.id == 77), "ids are the clients' own");
    drop(clients);
    server.wait_released();
}

// ---- routing ----

#[test]
fn requests_are_routed_by_service_method_and_headers() {
    let (one, two, three) = (Server::echo(), Server::echo(), Server::echo());
    let routes = json!([
        {"match": {"service": {"exact": PAY}, "method": {"prefix": "slow"}},
         "route": {"cluster": "two"}},
        {"match": {"headers": [{"name": "Zone", "string_match": {"safe_regex": {"regex": "GZ.*"}}}]},
         "route": {"cluster": "three"}},
        {"match": {"headers": [{"name": "amount", "range_match": {"start": 100, "end": 200}}]},
         "route": {"cluster": "three"}},
        {"match": {"service": {"safe_regex": {"regex": "com\\.bank\\..*"}}},
         "route": {"cluster": "one"}},
        {"match": {"service": {"exact": "by-header"}}, "route": {"cluster_header": "to"}},
    ]);
    let config = Config::rpc("bolt", routes)
        .cluster("one", &[one.address()])
        .cluster("two", &[two.address()])
        .cluster("three", &[three.address()]);
    let proxy = Proxy::start(&config);
    let mut client = client(&proxy);
    let request = |id, service: &str, method: &str| Frame::request(id, service, method, "");
    for (frame, server) in [
        (request(1, PAY, "pay"), &one),
        (request(2, PAY, "slowPay"), &two),
        (request(3, PAY, "pay").header("Zone", "GZ00A"), &three),
        (request(4, PAY, "pay").header("zone", "GZ00A"), &one),
        (request(5, PAY, "pay").header("amount", "199"), &three),
        (request(6, PAY, "pay").header("amount", "200"), &one),
        (request(7, "by-header", "").header("to", "two"), &two),
    ] {
        let before = server.log().requests().count();
        assert_eq!(client.call(&frame).status, status::SUCCESS, "{}", frame.id);
        assert_eq!(server.log().requests().count(), before + 1, "request {}", frame.id);
    }
    for frame in
        [request(8, "org.other:1.0", "pay"), request(9, "by-header", "x").header("to", "?")]
    {
        assert_eq!(client.call(&frame), frame.failure(status::NO_PROCESSOR));
    }
    proxy.expect_stat("bolt.main.no_route", 1);
    proxy.expect_stat("bolt.main.no_cluster", 1);
}

#[test]
fn weights_share_requests_out() {
    let (one, two) = (Server::echo(), Server::echo());
    let routes = json!([{"match": {}, "route": {"weighted_clusters": {"clusters": [
        {"name": "one", "weight": 75}, {"name": "two", "weight": 25},
    ]}}}]);
    let config = Config::rpc("bolt", routes)
        .cluster("one", &[one.address()])
        .cluster("two", &[two.address()]);
    let proxy = Proxy::start(&config);
    let mut client = client(&proxy);
    client.send_all(&(0..400).map(request).collect::<Vec<_>>());
    client.responses(400);
    let share = one.log().requests().count();
    assert!((240..360).contains(&share), "{share} of 400");
    assert_eq!(share + two.log().requests().count(), 400);
}

#[test]
fn headers_are_edited_and_checksums_follow() {
    let server = Server::echo();
    let routes = json!([{
        "match": {},
        "route": {"cluster": "origin"},
        "request_headers_to_add": [
            {"header": {"key": "added", "value": "yes"}},
            {"header": {"key": "echo-changed", "value": "new"},
             "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"},
        ],
        "request_headers_to_remove": ["secret"],
    }]);
    let proxy = Proxy::start(&Config::rpc("bolt", routes).cluster("origin", &[server.address()]));
    let mut client = client(&proxy);
    for request in [request(1), request(2).v2(2, 1)] {
        let request = request.header("secret", "x").header("echo-changed", "old");
        let response = client.call(&request);
        assert_eq!(response.get("echo-changed"), Some("new"), "{response:?}");
        let seen = server.nth_request(request.id as usize).frame;
        assert_eq!((seen.get("added"), seen.get("secret")), (Some("yes"), None));
        assert_eq!((seen.version, &seen.content), (request.version, &request.content));
    }
}

// ---- errors ----

#[test]
fn local_errors_have_the_protocols_own_numbers() {
    let server = Server::holding();
    let (_socket, refusing) = refusing();
    let service = |name: &str| json!({"service": {"exact": name}});
    let routes = json!([
        {"match": service("empty"), "route": {"cluster": "empty"}},
        {"match": service("refusing"), "route": {"cluster": "refusing"}},
        {"match": service("full"), "route": {"cluster": "full"}},
        {"match": service("slow"), "route": {"cluster": "origin", "timeout": "0.1s"}},
    ]);
    let config = Config::rpc("bolt", routes)
        .cluster("empty", &[])
        .cluster("refusing", &[&refusing])
        .cluster("full", &[server.address()])
        .tune_cluster(json!({"circuit_breakers": {"thresholds": [{"max_requests": 0}]}}))
        .cluster("origin", &[server.address()]);
    let proxy = Proxy::start(&config);
    let mut client = client(&proxy);
    let request = |id, service: &str| Frame::request(id, service, "pay", "");
    for (id, service, wanted) in [
        (1, "nowhere", status::NO_PROCESSOR),
        (2, "empty", status::NO_PROCESSOR),
        (3, "refusing", status::CONNECTION_CLOSED),
        (4, "full", status::SERVER_THREADPOOL_BUSY),
        (5, "slow", status::TIMEOUT),
    ] {
        for frame in [request(id, service), request(id, service).v2(2, 1)] {
            assert_eq!(client.call(&frame), frame.failure(wanted), "{service}");
        }
        // Nobody is told of a one-way request.
        client.send(&Frame::oneway(100 + id, service, "pay", ""));
        assert_eq!(client.round_trip(200 + id), []);
    }
    proxy.expect_stat("bolt.main.local_response_error", 10);
    proxy.expect_stat("bolt.main.request_active", 0);
}

#[test]
fn the_shorter_timeout_counts_and_a_late_answer_is_nobodys() {
    let server = Server::holding();
    let routes = json!([{"match": {}, "route": {"cluster": "origin", "timeout": "60s"}}]);
    let proxy = Proxy::start(&Config::rpc("bolt", routes).cluster("origin", &[server.address()]));
    let mut client = client(&proxy);
    let short = request(1).timeout(80);
    assert_eq!(client.call(&short), short.failure(status::TIMEOUT));
    server.answer(&server.nth_request(1), Reply::Echo);
    client.send(&request(2));
    server.answer(&server.nth_request(2), Reply::Echo);
    assert_eq!(client.receive(), request(2).response("content of 2"));
    proxy.expect_stat("bolt.main.upstream_unexpected", 1);
    proxy.expect_stat("cluster.origin.upstream_rq_timeout", 1);
}

#[test]
fn an_undecodable_request_is_answered_and_the_connection_goes_on() {
    let server = Server::echo();
    let proxy = Proxy::start(&config(&server));
    let mut client = client(&proxy);
    let broken = b"\x01\x01\0\x01\x01\0\0\0\x05\x01\0\0\x0b\xb8\0\0\0\x03\0\0\0\0abc";
    client.send_bytes(broken);
    let answer = client.receive();
    assert_eq!((answer.id, answer.status), (5, status::CODEC_EXCEPTION));
    assert_eq!(client.call(&request(6)).status, status::SUCCESS);
    proxy.expect_stat("bolt.main.request_decoding_error", 1);
}

#[test]
fn lost_framing_ends_one_connection_and_no_other() {
    let server = Server::holding();
    let proxy = Proxy::start(&config(&server).rpc_proxy(json!({"max_frame_bytes": 100_000})));
    let mut bystander = client(&proxy);
    bystander.send(&request(1));
    let held = server.nth_request(1);
    let too_long = b"\x01\x01\0\x01\x01\0\0\0\x09\x01\0\0\x0b\xb8\0\0\0\0\0\x10\0\0";
    for (bytes, answer) in [
        (&b"\x03\x01\0\x01"[..], None),
        (b"\x01\x03\0\x01\x01\0\0\0\0\x01\0\0\x0b\xb8\0\0\0\0\0\0\0\0", None),
        (b"\x02\x03\x01\0\x01\x01\0\0\0\0\x01\x01\0\0\x0b\xb8\0\0\0\0\0\0\0\0", None),
        (too_long, Some(status::CODEC_EXCEPTION)),
    ] {
        let mut client = client(&proxy);
        client.send_bytes(bytes);
        if let Some(wanted) = answer {
            let answer = client.receive();
            assert_eq!((answer.id, answer.status), (9, wanted));
        }
        client.expect_close();
    }
    proxy.expect_stat("bolt.main.cx_protocol_error", 4);
    server.answer(&held, Reply::Echo);
    assert_eq!(bystander.receive(), request(1).response("content of 1"));
    assert_eq!(server.log().accepted, 1);
}

#[test]
fn a_server_that_breaks_the_protocol_or_leaves_fails_its_own_calls_only() {
    let broken = Server::start(|frame| match frame.get("sofa_head_method_name") {
        Some("close") => Reply::Close,
        Some("garbage") => Reply::Bytes(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        Some("reset") => Reply::Reset,
        _ if frame.is_heartbeat() => Reply::Heartbeat,
        _ => Reply::Nothing,
    });
    let sound = Server::holding();
    let routes = json!([
        {"match": {"service": {"exact": "sound"}}, "route": {"cluster": "sound"}},
        {"match": {}, "route": {"cluster": "broken"}},
    ]);
    let config = Config::rpc("bolt", routes)
        .cluster("broken", &[broken.address()])
        .cluster("sound", &[sound.address()]);
    let proxy = Proxy::start(&config);
    let mut client = client(&proxy);
    client.send(&Frame::request(1, "sound", "pay", ""));
    let held = sound.nth_request(1);
    for (id, method) in [(10, "close"), (20, "garbage"), (30, "reset")] {
        let waiting = Frame::request(id, PAY, "wait", "");
        let last = Frame::request(id + 1, PAY, method, "");
        client.send_all(&[waiting.clone(), last.clone()]);
        let responses = client.responses(2);
        assert_eq!(responses[&id], waiting.failure(status::CONNECTION_CLOSED), "{method}");
        assert_eq!(responses[&(id + 1)], last.failure(status::CONNECTION_CLOSED), "{method}");
    }
    sound.answer(&held, Reply::Echo);
    assert_eq!(client.receive().id, 1);
    proxy.expect_stat("cluster.broken.upstream_cx_protocol_error", 1);
    proxy.expect_stat("cluster.broken.upstream_cx_active", 0);
}

#[test]
fn a_client_that_leaves_is_forgotten() {
    let server = Server::holding();
    let proxy = Proxy::start(&config(&server));
    let mut leaver = client(&proxy);
    leaver.send_all(&[request(1), request(2)]);
    server.nth_request(2);
    drop(leaver);
    proxy.await_stat("bolt.main.request_active", |active| active == 0);
    proxy.await_stat("cluster.origin.upstream_rq_active", |active| active == 0);
    let mut next = client(&proxy);
    server.answer(&server.nth_request(1), Reply::Echo);
    next.send(&request(3));
    server.answer(&server.nth_request(3), Reply::Echo);
    assert_eq!(next.receive(), request(3).response("content of 3"));
    assert_eq!(server.log().accepted, 1);
}

// ---- limits ----

#[test]
fn a_connection_with_enough_under_way_is_not_read() {
    let server = Server::holding();
    let config = config(&server).rpc_proxy(json!({"max_requests_per_connection": 2}));
    let proxy = Proxy::start(&config);
    let (mut busy, mut other) = (client(&proxy), client(&proxy));
    busy.send_all(&(1..=5).map(request).collect::<Vec<_>>());
    server.nth_request(2);
    // Another client's request comes behind whatever the first one could send.
    other.send(&request(100));
    let seen = server.nth_request(3);
    assert_eq!(seen.frame.content, b"content of 100");
    for count in 1..=6 {
        server.answer(&server.nth_request(count), Reply::Echo);
    }
    assert_eq!(busy.responses(5).len(), 5);
    assert_eq!(other.receive().id, 100);
}

#[test]
fn a_client_that_does_not_read_stops_nobody() {
    let server = Server::start(|frame| match frame.get("sofa_head_method_name") {
        Some("much") => Reply::Frames(vec![frame.response(vec![7; 1 << 20])]),
        _ => Reply::usual(frame),
    });
    let config = config(&server).rpc_proxy(json!({"max_frame_bytes": 2 << 20}));
    let proxy = Proxy::start(&config);
    let mut lazy = client(&proxy);
    let requests: Vec<_> = (0..60).map(|id| Frame::request(id, PAY, "much", "")).collect();
    lazy.send_all(&requests);
    server.nth_request(60);
    let mut other = client(&proxy);
    for id in 0..50 {
        assert_eq!(other.call(&request(id)).status, status::SUCCESS);
    }
    // Above what may wait for a client it is let go.
    proxy.await_stat("bolt.main.cx_slow_reader", |count| count == 1);
    assert_eq!(other.call(&request(51)).status, status::SUCCESS);
}

// ---- retries ----

#[test]
fn a_request_that_was_not_sent_goes_to_another_endpoint() {
    let server = Server::echo();
    let (_socket, refusing) = refusing();
    let retry = json!({"retry_on": "connect-failure", "num_retries": 2});
    let routes = json!([
        {"match": {"service": {"exact": "once"}}, "route": {"cluster": "origin"}},
        {"match": {}, "route": {"cluster": "origin", "retry_policy": retry}},
    ]);
    let config = Config::rpc("bolt", routes).cluster("origin", &[&refusing, server.address()]);
    let proxy = Proxy::start(&config);
    let mut client = client(&proxy);
    for id in 0..20 {
        assert_eq!(client.call(&request(id)).status, status::SUCCESS);
    }
    let statuses: BTreeSet<u16> =
        (20..40).map(|id| client.call(&Frame::request(id, "once", "pay", "")).status).collect();
    assert_eq!(statuses, BTreeSet::from([status::SUCCESS, status::CONNECTION_CLOSED]));
    assert!(proxy.stat("cluster.origin.upstream_rq_retry") > 0);
}

#[test]
fn an_overloaded_server_is_asked_again_only_where_the_route_says_so() {
    let calls = std::sync::atomic::AtomicU32::new(0);
    let server = Server::start(move |frame| match frame.kind {
        kind::REQUEST if frame.command == command::REQUEST => {
            let count = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            if count.is_multiple_of(2) {
                Reply::Status(status::SERVER_THREADPOOL_BUSY)
            } else {
                Reply::Echo
            }
        }
        _ => Reply::usual(frame),
    });
    let retry = json!({"retry_on": "overload", "num_retries": 1});
    let routes = json!([
        {"match": {"service": {"exact": "once"}}, "route": {"cluster": "origin"}},
        {"match": {}, "route": {"cluster": "origin", "retry_policy": retry}},
    ]);
    let proxy = Proxy::start(&Config::rpc("bolt", routes).cluster("origin", &[server.address()]));
    let mut client = client(&proxy);
    assert_eq!(client.call(&request(1)), request(1).response("content of 1"));
    let once = Frame::request(2, "once", "pay", "");
    assert_eq!(client.call(&once), once.failure(status::SERVER_THREADPOOL_BUSY));
    assert_eq!(server.log().requests().count(), 3);
}

// ---- liveness ----

#[test]
fn heartbeats_are_answered_here_and_sent_to_silent_servers() {
    let server = Server::start(|frame| match frame.get("sofa_head_method_name") {
        Some("die") => Reply::Nothing,
        _ => Reply::usual(frame),
    });
    let keepalive = json!({"interval": "1s", "timeout": "0.5s", "max_misses": 2});
    let proxy = Proxy::start(&config(&server).rpc_proxy(json!({"upstream_keepalive": keepalive})));
    let mut client = client(&proxy);
    for heartbeat in
        [Frame::heartbeat(3), Frame::heartbeat(4).v2(1, 0), Frame::heartbeat(5).v2(2, 1)]
    {
        client.send(&heartbeat);
        assert_eq!(client.receive(), heartbeat.heartbeat_reply());
    }
    assert_eq!(server.log().frames.len(), 0, "none is passed on");
    client.call(&request(1));
    let log = server.wait_for("a heartbeat", |log| log.heartbeats().count() > 0);
    assert_eq!((log.accepted, log.open), (1, 1));
}

#[test]
fn a_server_that_answers_no_heartbeat_is_given_up_in_bounded_time() {
    let server = Server::start(|_| Reply::Nothing);
    let keepalive = json!({"interval": "1s", "timeout": "0.5s", "max_misses": 2});
    let proxy = Proxy::start(&config(&server).rpc_proxy(json!({"upstream_keepalive": keepalive})));
    let mut client = client(&proxy);
    let answer = client.call(&request(1));
    assert_eq!(answer, request(1).failure(status::CONNECTION_CLOSED));
    server.wait_released();
    proxy.expect_stat("bolt.main.upstream_dead", 1);
}

#[test]
fn a_server_that_says_goodbye_gets_nothing_new() {
    let server = Server::holding();
    let proxy = Proxy::start(&config(&server));
    let mut client = client(&proxy);
    client.send(&request(1));
    let first = server.nth_request(1);
    server.send(first.connection, &Frame::goodbye(1));
    proxy.await_stat("cluster.origin.upstream_cx_close_notify", |count| count == 1);
    client.send(&request(2));
    let second = server.nth_request(2);
    assert_ne!(second.connection, first.connection);
    server.answer(&first, Reply::Echo);
    server.answer(&second, Reply::Echo);
    client.responses(2);
}

#[test]
fn silent_and_stalled_clients_are_let_go() {
    let server = Server::echo();
    let patch = json!({"idle_timeout": "1s", "frame_timeout": "1s"});
    let proxy = Proxy::start(&config(&server).rpc_proxy(patch));
    let (mut silent, mut stalled) = (client(&proxy), client(&proxy));
    silent.call(&request(1));
    stalled.send_bytes(&request(2).bytes()[..50]);
    silent.expect_close();
    stalled.expect_close();
    proxy.expect_stat("bolt.main.cx_frame_timeout", 1);
}

#[test]
fn a_drain_says_goodbye_and_lets_calls_end() {
    let server = Server::holding();
    let config = config(&server).rpc_proxy(json!({"bolt": {"goaway": true}}));
    let mut proxy = Proxy::start(&config);
    let mut client = client(&proxy);
    client.send(&request(1));
    let held = server.nth_request(1);
    proxy.process().signal(libc::SIGTERM);
    let goodbye = client.receive();
    assert_eq!((goodbye.kind, goodbye.command), (kind::REQUEST, command::GOODBYE));
    server.answer(&held, Reply::Echo);
    assert_eq!(client.receive(), request(1).response("content of 1"));
    client.expect_close();
    assert!(proxy.wait_exit().success());
}

// ---- detection ----

#[test]
fn one_port_serves_what_the_first_bytes_show() {
    let bolt = Server::echo();
    let web = Origin::start(|peer| {
        peer.request()?;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    });
    let raw = Origin::start(|peer| {
        let bytes = peer.wire().exactly(4)?;
        peer.send([&b"raw "[..], &bytes].concat())
    });
    let filter = |name: &str, kind: &str, mut config: Value| {
        config["@type"] = json!(format!("type.googleapis.com/{kind}"));
        config["stat_prefix"] = json!(name);
        json!({"name": name, "typed_config": config})
    };
    let rpc = filter(
        "rpc",
        "outrigger.filters.network.rpc_proxy.v1.RpcProxy",
        json!({"bolt": {}, "route_config": {"routes": to("bolt")}}),
    );
    let router = json!({"name": "router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
    let http = filter(
        "http",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": "web"}}]}]},
            "http_filters": [router],
        }),
    );
    let tcp = filter(
        "tcp",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({"cluster": "raw"}),
    );
    let detection = json!([{"name": "detection", "typed_config": {
        "@type": "type.googleapis.com/outrigger.filters.network.protocol_detection.v1.ProtocolDetection",
        "choices": [
            {"protocols": ["BOLT"], "filter": rpc},
            {"protocols": ["HTTP1", "HTTP2"], "filter": http},
        ],
        "fallback": tcp,
        "timeout": "0.2s",
    }}]);
    let config = Config::new()
        .filters(detection)
        .cluster("bolt", &[bolt.address()])
        .cluster("web", &[web.address()])
        .cluster("raw", &[raw.address()]);
    let proxy = Proxy::start(&config);
    assert_eq!(client(&proxy).call(&request(1)).status, status::SUCCESS);
    let mut split = client(&proxy);
    split.send_bytewise(request(2).bytes());
    assert_eq!(split.receive().id, 2);
    assert_eq!(proxy.client().get("/").status, 200);
    for bytes in [&b"\x00\x01\x02\x03"[..], b"hello"] {
        let mut client = client(&proxy);
        client.send_bytes(bytes);
        let answer = client.wire().exactly(8).unwrap();
        assert_eq!(answer, [&b"raw "[..], &bytes[..4]].concat());
    }
    // A client that waits to be spoken to is given to the fallback in time.
    let mut waiting = client(&proxy);
    proxy.await_stat("tcp.tcp.downstream_cx_total", |count| count == 3);
    waiting.send_bytes(b"late");
    assert_eq!(waiting.wire().exactly(8).unwrap(), b"raw late");
}

// ---- reports ----

#[test]
fn every_request_has_a_line_in_the_access_log() {
    let server = Server::echo();
    let scratch = Scratch::new();
    let path = scratch.file("rpc.log");
    let format = "%REQ(service)% %REQ(method)% %REQ(zone)% %RESPONSE_CODE% %RESPONSE_FLAGS% \
                  %RESPONSE_CODE_DETAILS% %UPSTREAM_CLUSTER% %BYTES_RECEIVED%\n";
    let log = access_log(&path, format);
    let routes = json!([{"match": {"service": {"exact": PAY}}, "route": {"cluster": "origin"}}]);
    let config = Config::rpc("bolt", routes)
        .rpc_proxy(json!({"access_log": log}))
        .cluster("origin", &[server.address()]);
    let proxy = Proxy::start(&config);
    let mut client = client(&proxy);
    let good = request(1).header("zone", "GZ");
    client.call(&good);
    client.call(&Frame::request(2, "nowhere", "pay", ""));
    client.send(&Frame::oneway(3, PAY, "notify", ""));
    server.nth_request(2);
    proxy.stop();
    let lines = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    let len = good.bytes().len();
    assert_eq!(lines[0], format!("{PAY} pay GZ 0 - via_upstream origin {len}"));
    assert!(lines[1].starts_with("nowhere pay - 0 NR route_not_found - "), "{}", lines[1]);
    assert!(lines[2].starts_with(&format!("{PAY} notify - 0 - ")), "{}", lines[2]);
}
