//! Live connections that move to a successor: their clients notice nothing.

use std::io::Write;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use outrigger_tests::config::{TCP_PROXY, access_log};
use outrigger_tests::http2::Http2;
use outrigger_tests::process::Scratch;
use outrigger_tests::rpc::{Message, Reply};
use outrigger_tests::tls::{Authority, ClientOptions, Subject};
use outrigger_tests::{
    Address, Client, Config, Http2Client, Launch, Origin, PATIENCE, bolt, dubbo, eventually,
};
use serde_json::{Value, json};

use crate::basics::pattern;
use crate::hand_over::{begin_slow, config, expect_end, slow_origin, succeed, upgradable};
use crate::tunnels::{UPGRADE, echo_all, websocket};

/// The listener's connections.
const ACTIVE: &str = "listener.127.0.0.1_0.downstream_cx_active";

// ---- HTTP/1.1 ----

#[test]
fn http1_connections_that_rest_keep_their_sockets() {
    let scratch = Scratch::new();
    let origin = Origin::ok();
    let config = config(origin.address(), &scratch);
    let mut serving = Launch::outrigger(&config).shards(2).start();
    // On some nothing came yet, on some there were requests, and on some a request has begun.
    let (mut fresh, mut used, mut begun): (Vec<_>, Vec<_>, Vec<_>) = (0..8)
        .map(|_| (serving.client(), serving.client(), serving.client()))
        .fold(Default::default(), |(mut one, mut two, mut three), (a, b, c)| {
            one.push(a);
            two.push(b);
            three.push(c);
            (one, two, three)
        });
    for client in &mut used {
        assert_eq!(client.get("/").status, 200);
    }
    const HEAD: &[u8] = b"GET /begun HTTP/1.1\r\nHost: a\r\nX-Some: thing\r\n\r\n";
    for (at, client) in begun.iter_mut().enumerate() {
        client.send(&HEAD[..1 + at * 5]);
    }
    serving.expect_stat(ACTIVE, 24);
    for shards in [2, 1, 3] {
        let next = succeed(&config, shards);
        expect_end(std::mem::replace(&mut serving, next));
        serving.expect_stat(ACTIVE, 24);
        for client in &mut used {
            let response = client.get("/");
            assert_eq!((response.status, response.header("connection")), (200, None));
        }
    }
    for client in &mut fresh {
        assert_eq!(client.get("/").status, 200);
    }
    for (at, client) in begun.iter_mut().enumerate() {
        client.send(&HEAD[1 + at * 5..]);
        assert_eq!(client.response().status, 200);
    }
    serving.stop();
}

#[test]
fn an_http1_connection_moves_after_its_response_with_what_the_client_has_pipelined() {
    let scratch = Scratch::new();
    let (origin, release) = slow_origin();
    let config = config(origin.address(), &scratch);
    let first = Launch::outrigger(&config).start();
    let mut client = first.client();
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.wait_for("the slow request", |log| log.requests.len() == 1);
    let second = succeed(&config, 1);
    release.send(()).unwrap();
    for _ in 0..2 {
        let response = client.response();
        assert_eq!((response.status, response.header("connection")), (200, None));
    }
    expect_end(first);
    assert_eq!(client.get("/last").status, 200);
    let targets: Vec<_> =
        origin.log().requests.iter().map(|seen| seen.request.target.clone()).collect();
    assert_eq!(targets, ["/slow", "/next", "/last"]);
    second.stop();
}

#[test]
fn an_http1_connection_moves_after_a_body_in_either_direction() {
    let scratch = Scratch::new();
    let body = pattern(3_000_000);
    let origin = {
        let body = body.clone();
        Origin::start(move |exchange| {
            let request = exchange.request()?;
            assert!(request.body == body || request.body.is_empty());
            exchange.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()))?;
            exchange.send(&body)
        })
    };
    let config = config(origin.address(), &scratch);
    let first = Launch::outrigger(&config).start();
    let mut client = first.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body[..1_000_000]);
    let second = succeed(&config, 2);
    client.send(&body[1_000_000..]);
    let response = client.response();
    assert_eq!((response.status, response.header("connection")), (200, None));
    assert!(response.body == body);
    expect_end(first);
    assert!(client.get("/").body == body);
    second.stop();
}

#[test]
fn what_a_successor_has_no_place_for_stays_and_is_asked_to_go() {
    let scratch = Scratch::new();
    let (origin, release) = slow_origin();
    let config = config(origin.address(), &scratch);
    let first = Launch::outrigger(&config).start();
    let mut client = begin_slow(&first, &origin);
    let mut other = config.json().clone();
    other["static_resources"]["listeners"][0]["name"] = json!("another");
    let second = succeed(&Config::of(other), 1);
    release.send(()).unwrap();
    assert_eq!(client.response().status, 200);
    // Its next one may be the last, as it is when nobody takes over.
    let response = client.get("/fast");
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    expect_end(first);
    second.stop();
}

#[test]
fn upstream_connections_that_rest_go_along() {
    let (http1, http2) = (Origin::ok(), Origin::http2_ok());
    for (config, origin) in
        [(Config::to(http1.address()), &http1), (Config::to_http2(http2.address()), &http2)]
    {
        let scratch = Scratch::new();
        let config = upgradable(config, &scratch);
        let mut serving = Launch::outrigger(&config).start();
        let mut client = serving.client();
        // Fields that repeat are in HTTP/2's tables by then.
        let ask = |client: &mut Client| {
            client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Repeated: a value worth a place\r\n\r\n");
            assert_eq!(client.response().status, 200);
        };
        ask(&mut client);
        for _ in 0..3 {
            let next = succeed(&config, 1);
            expect_end(std::mem::replace(&mut serving, next));
            serving.await_stat("cluster.origin.upstream_cx_active", |active| active == 1);
            ask(&mut client);
        }
        assert_eq!(origin.log().accepted, 1);
        assert_eq!(serving.stat("cluster.origin.upstream_cx_total"), 1);
        assert_eq!(serving.stat("cluster.origin.upstream_cx_destroy"), 0);
        serving.stop();
        origin.wait_released();
    }
}

#[test]
fn an_upstream_connection_with_streams_goes_along_after_them() {
    let scratch = Scratch::new();
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let origin = Origin::http2(Http2::default(), move |mut exchange| {
        let released = Arc::clone(&released);
        async move {
            if exchange.request().await?.target == "/slow" {
                let _ = released.lock().unwrap().recv_timeout(PATIENCE);
            }
            exchange.answer(200, &[], b"ok").await
        }
    });
    let config = upgradable(Config::to_http2(origin.address()), &scratch);
    let first = Launch::outrigger(&config).start();
    let mut client = begin_slow(&first, &origin);
    let second = succeed(&config, 1);
    // New requests need a connection of the new process meanwhile.
    assert_eq!(Client::connect(first.address()).get("/").status, 200);
    release.send(()).unwrap();
    assert_eq!(client.response().status, 200);
    expect_end(first);
    second.await_stat("cluster.origin.upstream_cx_active", |active| active == 2);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(origin.log().accepted, 2);
    second.stop();
    origin.wait_released();
}

// ---- HTTP/2 ----

#[test]
fn http2_connections_without_streams_move_and_busy_ones_are_asked_to_go() {
    let scratch = Scratch::new();
    let (origin, release) = slow_origin();
    let config = config(origin.address(), &scratch);
    let mut serving = Launch::outrigger(&config).shards(2).start();
    let address = serving.address().clone();
    let resting: Vec<_> = (0..8).map(|_| Http2Client::connect(&address)).collect();
    // Fields that repeat are in the tables of both directions by now.
    let fields = [("x-repeated", "a value that is worth a place in a table")];
    for client in &resting {
        for path in ["/one", "/two"] {
            assert_eq!(client.ask("GET", path, &fields, b"").status, 200);
        }
    }
    for shards in [1, 2, 1] {
        let next = succeed(&config, shards);
        expect_end(std::mem::replace(&mut serving, next));
        serving.expect_stat("http.main.downstream_cx_http2_active", 8);
        for client in &resting {
            for path in ["/one", "/three"] {
                assert_eq!(client.ask("GET", path, &fields, b"").status, 200);
            }
        }
    }
    let seen = origin.log().requests.last().unwrap().request.clone();
    assert_eq!(seen.headers.get("x-repeated"), Some(fields[0].1));
    let busy = Http2Client::connect(&address);
    let mut slow = busy.open("GET", "/slow", &[], true);
    origin.wait_for("the slow request", |log| {
        log.requests.last().is_some_and(|seen| seen.request.target == "/slow")
    });
    let next = succeed(&config, 1);
    // What is under way ends where it began, and the client hears that it is the last of it.
    eventually("a goodbye", || busy.try_open("GET", "/", &[], true).is_err().then_some(()));
    release.send(()).unwrap();
    assert_eq!(slow.response().unwrap().status, 200);
    expect_end(std::mem::replace(&mut serving, next));
    for client in &resting {
        assert_eq!(client.get("/last").status, 200);
    }
    serving.stop();
}

#[test]
fn an_http2_connection_that_was_told_other_settings_stays() {
    let scratch = Scratch::new();
    let origin = Origin::ok();
    let config = config(origin.address(), &scratch);
    let first = Launch::outrigger(&config).start();
    let client = Http2Client::connect(first.address());
    assert_eq!(client.get("/").status, 200);
    let other = config.clone().http(json!({"http2_protocol_options": {
        "max_concurrent_streams": 7,
    }}));
    let second = succeed(&other, 1);
    eventually("a goodbye", || client.try_open("GET", "/", &[], true).is_err().then_some(()));
    expect_end(first);
    second.stop();
}

// ---- TCP ----

fn tcp(origin: &Address) -> Config {
    let filter = json!({"name": "tcp", "typed_config": {
        "@type": TCP_PROXY, "stat_prefix": "main", "cluster": "origin",
    }});
    Config::to(origin).filters(json!([filter]))
}

/// Sends back what comes, and a last word at the end.
fn echo() -> Origin {
    Origin::start(echo_all)
}

#[test]
fn tcp_connections_keep_both_ends_and_every_byte() {
    let scratch = Scratch::new();
    let origin = echo();
    let config = upgradable(tcp(origin.address()), &scratch);
    let mut serving = Launch::outrigger(&config).shards(2).start();
    let mut clients: Vec<_> = (0..4).map(|_| serving.client()).collect();
    let bytes = pattern(4_000_000);
    // Bytes flow, as fast as they can, while one process follows on another.
    let senders: Vec<_> = clients
        .iter_mut()
        .map(|client| {
            let (mut stream, bytes) = (client.stream().try_clone().unwrap(), bytes.clone());
            thread::spawn(move || bytes.chunks(100_000).try_for_each(|some| stream.write_all(some)))
        })
        .collect();
    for client in &mut clients {
        assert!(client.wire().exactly(500_000).unwrap() == bytes[..500_000]);
    }
    for shards in [2, 1, 2] {
        // Nobody reads: what is under way is neither the kernel's nor the client's.
        let next = succeed(&config, shards);
        expect_end(std::mem::replace(&mut serving, next));
        serving.expect_stat(ACTIVE, 4);
    }
    for client in &mut clients {
        assert!(client.wire().exactly(3_500_000).unwrap() == bytes[500_000..], "bytes changed");
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap().unwrap());
    assert_eq!(origin.log().accepted, 4);
    let next = succeed(&config, 1);
    expect_end(std::mem::replace(&mut serving, next));
    for client in &mut clients {
        client.finish();
        assert_eq!(client.wire().until_close(), Ok(b"goodbye".to_vec()));
    }
    origin.wait_released();
    serving.stop();
}

#[test]
fn a_tcp_connection_of_which_one_side_has_finished_moves_too() {
    let scratch = Scratch::new();
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let origin = Origin::start(move |peer| {
        while !peer.wire().some()?.is_empty() {}
        let _ = released.lock().unwrap().recv_timeout(PATIENCE);
        peer.send("the last word")
    });
    let config = upgradable(tcp(origin.address()), &scratch);
    let first = Launch::outrigger(&config).start();
    let mut client = first.client();
    client.send("all that I have");
    client.stream().shutdown(Shutdown::Write).unwrap();
    first.await_stat("tcp.main.downstream_cx_total", |total| total == 1);
    let second = succeed(&config, 1);
    expect_end(first);
    release.send(()).unwrap();
    assert_eq!(client.wire().until_close(), Ok(b"the last word".to_vec()));
    origin.wait_released();
    second.stop();
}

// ---- WebSocket ----

#[test]
fn a_websocket_goes_on_and_is_logged_once() {
    let scratch = Scratch::new();
    let origin = websocket();
    let log = scratch.file("access.log");
    let format = "%REQ(:PATH)% %RESPONSE_CODE% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER%\n";
    let config = Config::to(origin.address()).http(json!({
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "access_log": access_log(&log, format),
    }));
    let config = upgradable(config, &scratch);
    let mut serving = Launch::outrigger(&config).shards(2).start();
    let mut client = serving.client();
    assert_eq!(client.send(UPGRADE).response_head().status, 101);
    assert_eq!(client.wire().exactly(5).unwrap(), b"hello");
    let bytes = pattern(1_000_000);
    for shards in [1, 2, 1] {
        // On their way in both directions while the tunnel moves.
        let (mut stream, sent) = (client.stream().try_clone().unwrap(), bytes.clone());
        let sender = thread::spawn(move || stream.write_all(&sent));
        assert!(client.wire().exactly(100_000).unwrap() == bytes[..100_000]);
        let next = succeed(&config, shards);
        expect_end(std::mem::replace(&mut serving, next));
        serving.expect_stat("http.main.downstream_cx_upgrades_active", 1);
        assert!(client.wire().exactly(900_000).unwrap() == bytes[100_000..], "bytes changed");
        sender.join().unwrap().unwrap();
    }
    assert_eq!(origin.log().accepted, 1);
    client.finish();
    assert_eq!(client.wire().until_close(), Ok(b"goodbye".to_vec()));
    origin.wait_released();
    serving.expect_stat("http.main.downstream_cx_upgrades_active", 0);
    assert_eq!(serving.stat("http.main.downstream_cx_upgrades_total"), 1);
    serving.expect_no_active_requests();
    serving.stop();
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(said, "/chat 101 3000000 3000012 origin\n");
}

// ---- RPC ----

fn to(cluster: &str) -> Value {
    json!([{"match": {}, "route": {"cluster": cluster}}])
}

fn request(id: u32) -> bolt::Frame {
    bolt::Frame::request(id, "com.bank.Pay:1.0", "pay", format!("content of {id}"))
}

#[test]
fn bolt_connections_move_with_their_requests_under_way() {
    let scratch = Scratch::new();
    let server = bolt::Server::holding();
    let config = upgradable(
        Config::rpc("bolt", to("origin")).cluster("origin", &[server.address()]),
        &scratch,
    );
    let first = Launch::outrigger(&config).shards(2).start();
    let mut clients: Vec<_> = (0..4).map(|_| bolt::Client::connect(first.address())).collect();
    for client in &mut clients {
        client.send_all(&[request(1), request(2)]);
        // And the beginning of another one.
        client.send_bytes(&request(3).bytes()[..30]);
    }
    server.wait_for("all requests", |log| log.requests().count() == 8);
    let second = succeed(&config, 1);
    second.await_stat(ACTIVE, |active| active == 4);
    // New requests go through the new process, while the old one waits for its answers.
    for client in &mut clients {
        client.send_bytes(&request(3).bytes()[30..]);
    }
    let log = server.wait_for("the next requests", |log| log.requests().count() == 12);
    assert_eq!(second.stat("bolt.main.request_active"), 4);
    let of = |id: u32| {
        let content = format!("content of {id}").into_bytes();
        log.requests().filter(move |seen| seen.frame.content == content)
    };
    // A large one comes as whole as a small one.
    let large = pattern(300_000);
    for (at, seen) in of(3).chain(of(2)).chain(of(1)).enumerate() {
        let reply = match at % 2 {
            0 => Reply::Echo,
            _ => Reply::Frames(vec![seen.frame.response(large.clone())]),
        };
        server.answer(seen, reply);
    }
    for client in &mut clients {
        for (id, response) in client.responses(3) {
            let echoed = response.content == format!("content of {id}").as_bytes();
            assert!(echoed || response.content == large);
        }
    }
    expect_end(first);
    for client in &mut clients {
        client.send(&request(4));
    }
    for at in 13..=16 {
        server.answer(&server.nth_request(at), Reply::Echo);
    }
    for client in &mut clients {
        assert_eq!(client.receive(), request(4).response("content of 4"));
    }
    second.stop();
}

#[test]
fn dubbo_connections_move_however_often() {
    let scratch = Scratch::new();
    let server = dubbo::Server::echo();
    let config = upgradable(
        Config::rpc("dubbo", to("origin")).cluster("origin", &[server.address()]),
        &scratch,
    );
    let mut serving = Launch::outrigger(&config).start();
    let mut client = dubbo::Client::connect(serving.address());
    for (id, shards) in (1..).zip([2, 1, 2]) {
        let request = dubbo::Call::new("com.bank.Pay", "pay").request(id);
        assert_eq!(client.call(&request), request.echo());
        let next = succeed(&config, shards);
        expect_end(std::mem::replace(&mut serving, next));
    }
    let request = dubbo::Call::new("com.bank.Pay", "pay").request(9);
    assert_eq!(client.call(&request), request.echo());
    serving.stop();
}

#[test]
fn upstream_connections_of_rpc_go_along_when_no_request_is_on_them() {
    let scratch = Scratch::new();
    let server = bolt::Server::holding();
    let config = upgradable(
        Config::rpc("bolt", to("origin")).cluster("origin", &[server.address()]),
        &scratch,
    );
    let mut serving = Launch::outrigger(&config).start();
    let mut client = bolt::Client::connect(serving.address());
    for at in 1..=3 {
        let request = request(at);
        client.send(&request);
        // The first rests when the next process comes, the others wait for their answers.
        let seen = server.nth_request(at as usize);
        if at == 1 {
            server.answer(&seen, Reply::Echo);
            assert_eq!(client.receive(), request.echo());
        }
        let next = succeed(&config, 1);
        if at > 1 {
            next.await_stat(ACTIVE, |active| active == 1);
            server.answer(&seen, Reply::Echo);
            assert_eq!(client.receive(), request.echo());
        }
        expect_end(std::mem::replace(&mut serving, next));
        serving.await_stat("cluster.origin.upstream_cx_active", |active| active == 1);
    }
    client.send(&request(4));
    server.answer(&server.nth_request(4), Reply::Echo);
    assert_eq!(client.receive(), request(4).echo());
    let log = server.log();
    assert_eq!(log.accepted, 1);
    // Numbers go on, whoever counts: a late answer is nobody else's.
    let ids: Vec<_> = log.requests().map(|seen| seen.frame.id()).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    assert_eq!(serving.stat("cluster.origin.upstream_cx_destroy"), 0);
    serving.stop();
    server.wait_released();
}

#[test]
fn a_successor_that_dies_takes_only_its_own_connections_with_it() {
    let scratch = Scratch::new();
    let (origin, release) = slow_origin();
    let config = config(origin.address(), &scratch);
    let first = Launch::outrigger(&config).start();
    let mut moved = first.client();
    assert_eq!(moved.get("/").status, 200);
    let mut stays = first.client();
    stays.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.wait_for("the slow request", |log| log.requests.len() == 2);
    let mut second = succeed(&config, 1);
    second.expect_stat(ACTIVE, 1);
    second.process().signal(libc::SIGKILL);
    second.process().wait(PATIENCE).unwrap();
    assert!(moved.try_response().is_err());
    assert_eq!(Client::connect(first.address()).get("/").status, 200);
    release.send(()).unwrap();
    let response = stays.response();
    assert_eq!((response.status, response.header("connection")), (200, None));
    // With the next one it goes.
    let third = succeed(&config, 1);
    expect_end(first);
    assert_eq!(stays.get("/").status, 200);
    third.stop();
}

// ---- state ----

#[test]
fn counters_and_histograms_go_on_and_gauges_are_counted_once() {
    let scratch = Scratch::new();
    let (origin, release) = slow_origin();
    let config = config(origin.address(), &scratch);
    let mut serving = Launch::outrigger(&config).shards(2).start();
    let address = serving.address().clone();
    let mut client = serving.client();
    let mut slow = serving.client();
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    for requests in 1..=3 {
        assert_eq!(client.get("/").status, 200);
        assert_eq!(Client::connect(&address).get("/").status, 200);
        serving.await_stat("http.main.downstream_cx_active", |active| active <= 2);
        let next = succeed(&config, 1);
        let previous = std::mem::replace(&mut serving, next);
        if requests == 1 {
            // What its predecessor does after the hand-over counts, too.
            serving.await_stat("http.main.downstream_cx_active", |active| active == 1);
            release.send(()).unwrap();
            assert_eq!(slow.response().status, 200);
        }
        expect_end(previous);
        let all = 2 * requests + 1;
        serving.await_stat("http.main.downstream_rq_total", |total| total == all);
        serving.expect_stat("http.main.downstream_rq_2xx", all);
        serving.expect_stat("http.main.downstream_cx_total", requests + 2);
        serving.expect_stat("http.main.downstream_cx_active", 2);
        serving.expect_stat("http.main.downstream_rq_active", 0);
        serving.expect_stat("cluster.origin.upstream_rq_total", all);
        let text = serving.admin_get("/stats/prometheus").text();
        let line = text.lines().find(|line| {
            line.starts_with("envoy_http_downstream_rq_time_count{") && line.contains("\"main\"")
        });
        assert_eq!(line.and_then(|line| line.rsplit(' ').next()), Some(&*all.to_string()));
    }
    serving.stop();
}

#[test]
fn a_tls_session_is_resumed_with_the_next_process() {
    let scratch = Scratch::new();
    let origin = Origin::ok();
    let identity = Authority::new("ours").issue(Subject::dns(&["proxy.test"]));
    let certificates = json!({"tls_certificates": [identity.to_json()]});
    let config =
        Config::to(origin.address()).downstream_tls(json!({"common_tls_context": certificates}));
    let config = upgradable(config, &scratch);
    let mut serving = Launch::outrigger(&config).start();
    let address = serving.address().clone();
    let tls = ClientOptions::default().build();
    for resumed in 0..3 {
        let mut client = Client::secure(&address, &tls, "proxy.test");
        assert_eq!(client.get("/").status, 200);
        assert_eq!(client.stream().agreed().resumed, resumed > 0);
        drop(client);
        let next = succeed(&config, 1);
        expect_end(std::mem::replace(&mut serving, next));
    }
    serving.stop();
}
