//! Clients that mean harm: slow, endless, random or too many. Memory and time stay bounded, and
//! everyone else is served.

use std::io::Write;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use outrigger_tests::http::Fault;
use outrigger_tests::process::{Scratch, run};
use outrigger_tests::{Client, Config, Launch, Origin, Proxy};
use serde_json::json;

#[test]
fn a_head_that_does_not_end_is_cut() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).http(json!({"request_headers_timeout": "0.3s"}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: te");
    assert_eq!(client.response().status, 408);
    client.expect_close();
    proxy.expect_stat("http.main.downstream_rq_header_timeout", 1);
    // Bytes now and then are no excuse: the time is that of the whole head.
    let mut client = proxy.client();
    let start = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nX: ");
    client.stream().set_timeout(Duration::from_millis(20)).unwrap();
    let outcome = loop {
        match client.try_response() {
            Err(Fault::Silent) => {}
            other => break other,
        }
        if client.try_send("x").is_err() {
            break Err(Fault::Reset);
        }
        assert!(start.elapsed() < Duration::from_secs(10), "the head is still waited for");
    };
    match outcome {
        Ok(response) => assert_eq!(response.status, 408),
        Err(fault) => assert_eq!(fault, Fault::Reset),
    }
    assert_eq!(origin.log().accepted, 0);
    drop(client);
    proxy.stop();
}

#[test]
fn a_body_that_does_not_come_is_cut() {
    for head in ["Content-Length: 100\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n5\r\nx"] {
        let origin = Origin::start(|peer| {
            peer.request_head()?;
            peer.stall()
        });
        let config = Config::to(origin.address()).http(json!({"request_timeout": "0.3s"}));
        let proxy = Proxy::start(&config);
        let mut client = proxy.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{head}"));
        assert_eq!(client.response().status, 408);
        client.expect_close();
        origin.wait_released();
        proxy.expect_stat("http.main.downstream_rq_timeout", 1);
        proxy.expect_no_active_requests();
        proxy.stop();
    }
}

#[test]
fn a_stream_without_progress_is_cut() {
    let origin = Origin::start(|peer| {
        peer.request_head()?;
        peer.stall()
    });
    let config = Config::to(origin.address()).http(json!({"stream_idle_timeout": "0.3s"}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nx");
    assert_eq!(client.response().status, 408);
    origin.wait_released();
    proxy.expect_stat("http.main.downstream_rq_idle_timeout", 1);
    proxy.expect_no_active_requests();
    drop(client);
    proxy.stop();
}

/// Runs slowhttptest in one of its modes, until it gives up, and returns what it prints.
fn slowhttptest(mode: &[&str], proxy: &Proxy) -> String {
    let scratch = Scratch::new();
    let mut command = Command::new("slowhttptest");
    command.current_dir(scratch.path());
    command.args(mode).args([
        "-c",
        "300",
        "-r",
        "300",
        "-l",
        "5",
        "-p",
        "3",
        "-u",
        &proxy.url("/"),
    ]);
    let output = run(command);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "needs slowhttptest, which .ci/run installs"]
fn slow_headers_and_slow_bodies_are_cut_by_timeouts() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).http(json!({
        "request_headers_timeout": "1s",
        "request_timeout": "2s",
    }));
    for mode in [&["-H", "-i", "1"][..], &["-B", "-i", "1", "-s", "8192"]] {
        let mut proxy = Proxy::start(&config);
        let before = proxy.process().rss();
        let attack = thread::scope(|scope| {
            let attack = scope.spawn(|| slowhttptest(mode, &proxy));
            proxy.await_stat("http.main.downstream_cx_total", |count| count >= 250);
            // Meanwhile others are served.
            let start = Instant::now();
            assert_eq!(proxy.client().get("/").status, 200);
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
            attack.join().unwrap()
        });
        let grown = proxy.process().rss().saturating_sub(before);
        assert!(grown < 24 << 20, "{mode:?}: {grown} bytes more of memory");
        let timeouts = proxy.stat("http.main.downstream_rq_header_timeout")
            + proxy.stat("http.main.downstream_rq_timeout");
        assert!(timeouts >= 250, "{mode:?}: {timeouts} timeouts: {attack}");
        proxy.expect_stat("http.main.downstream_cx_active", 0);
        proxy.stop();
    }
}

#[test]
#[ignore = "needs slowhttptest, which .ci/run installs"]
fn slow_readers_hold_nothing_up() {
    let body = "x".repeat(100_000);
    let origin = Origin::answering(
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes(),
    );
    let config = Config::to(origin.address()).tune_cluster(json!({"circuit_breakers": {
        "thresholds": [{"max_connections": 10_000, "max_requests": 10_000}],
    }}));
    let mut proxy = Proxy::start(&config);
    let before = proxy.process().rss();
    let mode = ["-X", "-n", "1", "-z", "32", "-w", "256", "-y", "512", "-k", "3"];
    thread::scope(|scope| {
        let attack = scope.spawn(|| slowhttptest(&mode, &proxy));
        proxy.await_stat("http.main.downstream_cx_total", |count| count >= 250);
        let start = Instant::now();
        assert_eq!(proxy.client().get("/").body.len(), body.len());
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        attack.join().unwrap();
    });
    let grown = proxy.process().rss().saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes more of memory");
    proxy.expect_stat("http.main.downstream_cx_active", 0);
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn a_head_of_ten_megabytes_is_refused() {
    for shape in ["one line", "many lines", "target"] {
        let origin = Origin::ok();
        let mut proxy = Proxy::start(&Config::to(origin.address()));
        let before = proxy.process().rss();
        let mut client = proxy.client();
        let mut stream = client.stream().try_clone().unwrap();
        // The proxy may stop reading at any time: what can't be sent needn't be.
        let sender = thread::spawn(move || {
            let (head, piece) = match shape {
                "one line" => ("GET / HTTP/1.1\r\nHost: test\r\nX: ", "a".repeat(1000)),
                "target" => ("GET /", "a".repeat(1000)),
                _ => ("GET / HTTP/1.1\r\nHost: test\r\n", format!("X: {}\r\n", "a".repeat(90))),
            };
            let mut sent = stream.write_all(head.as_bytes());
            for _ in 0..(10 << 20) / piece.len() {
                sent = sent.and_then(|()| stream.write_all(piece.as_bytes()));
            }
        });
        let response = client.response();
        assert_eq!(response.status, 431, "{shape}");
        client.wire().closed().unwrap();
        sender.join().unwrap();
        let grown = proxy.process().rss().saturating_sub(before);
        assert!(grown < 8 << 20, "{shape}: {grown} bytes more of memory");
        assert_eq!(origin.log().accepted, 0);
        proxy.stop();
    }
}

#[test]
fn limits_of_heads_are_the_configured_ones() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).http(json!({
        "max_request_headers_kb": 8,
        "common_http_protocol_options": {"max_headers_count": 20},
    }));
    let proxy = Proxy::start(&config);
    let get = |fields: String| {
        proxy
            .client()
            .send(format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n"))
            .response()
            .status
    };
    assert_eq!(get(format!("X: {}\r\n", "a".repeat(7000))), 200);
    assert_eq!(get(format!("X: {}\r\n", "a".repeat(9000))), 431);
    assert_eq!(get("X: a\r\n".repeat(10)), 200);
    assert_eq!(get("X: a\r\n".repeat(30)), 431);
    assert_eq!(origin.log().requests.len(), 2);
    proxy.stop();
}

#[test]
fn random_bytes_do_no_harm() {
    const CONNECTIONS: u64 = 10_000;
    let origin = Origin::ok();
    let mut proxy = Launch::outrigger(&Config::to(origin.address())).shards(2).start();
    let mut random = Random(0x0123_4567_89ab_cdef);
    let starts: [&[u8]; 5] = [
        b"",
        b"GET / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\n",
        b"\x16\x03\x01",
        b"PRI * HTTP/2.0\r\n\r\n",
    ];
    for _ in 0..CONNECTIONS {
        let mut bytes = starts[random.next() as usize % starts.len()].to_vec();
        for _ in 0..random.next() % 64 {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        let mut client = proxy.client();
        // It may be refused before all of it is sent.
        let _ = client.try_send(&bytes);
        client.reset();
    }
    assert_eq!(proxy.client().get("/").status, 200);
    proxy.await_stat("http.main.downstream_cx_total", |count| count >= CONNECTIONS);
    proxy.expect_stat("http.main.downstream_cx_active", 0);
    proxy.expect_no_active_requests();
    assert_eq!(proxy.stat("shard.0.panics") + proxy.stat("shard.1.panics"), 0);
    let rss = proxy.process().rss();
    assert!(rss < 96 << 20, "{rss} bytes of memory");
    proxy.stop();
}

#[test]
fn without_file_descriptors_accepting_pauses_and_recovers() {
    let origin = Origin::ok();
    let mut proxy = Launch::outrigger(&Config::to(origin.address())).files(64).start();
    let mut first = proxy.client();
    assert_eq!(first.get("/").status, 200);
    // More than there is room for. The kernel takes them all; the proxy can't.
    let crowd: Vec<Client> = (0..100).map(|_| proxy.client()).collect();
    let full = |files: usize| (files >= 60).then_some(());
    outrigger_tests::eventually("descriptors run out", || full(proxy.process().files()));
    // Who was there before is served all the same.
    for _ in 0..10 {
        assert_eq!(first.get("/").status, 200);
    }
    // The last in the queue is served as soon as there is room.
    let mut last = proxy.client();
    last.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    drop(crowd);
    assert_eq!(last.response().status, 200);
    assert!(
        proxy.stats().iter().any(|(name, value)| name.ends_with("accept_paused") && *value > 0)
    );
    proxy.expect_stat("http.main.downstream_cx_active", 2);
    drop((first, last));
    proxy.stop();
}

#[test]
fn connections_above_the_limit_are_closed_and_the_others_go_on() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).engine(json!({"connections_max": 4}));
    let proxy = Proxy::start(&config);
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    let mut fifth = proxy.client();
    fifth.expect_close();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(proxy.stat("http.main.downstream_cx_active"), 4);
    clients.pop();
    proxy.await_stat("http.main.downstream_cx_active", |active| active == 3);
    assert_eq!(proxy.client().get("/").status, 200);
    drop((clients, fifth));
    proxy.stop();
}

/// xorshift64: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
