//! The generator against servers that behave, stall and misbehave.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    num::NonZeroU64,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use clap::ValueEnum;
use outrigger_perf::{
    client,
    load::{self, DRAIN_MAX, Edge, LoadError, Outcome, Pace, Plan},
    origin,
    protocol::{
        Fault,
        http1::{Http1, Http1Options},
    },
    sys,
    tls::{self, Identity},
    variant::{ProtocolName, Request, Traffic},
};

const LOCAL: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

fn plan(target: SocketAddr) -> Plan {
    Plan {
        target,
        sources: Vec::new(),
        connections: 2,
        tls: None,
        fresh: false,
        pace: Pace::Closed,
        warmup: Duration::from_millis(20),
        duration: Duration::from_millis(300),
        parts: 0,
        request_timeout: Duration::from_secs(5),
    }
}

fn open(rate: u64) -> Pace {
    Pace::Open { rate: NonZeroU64::new(rate).unwrap(), jitter: true }
}

fn http1(expected_body: u64) -> Http1 {
    Http1::new(&Http1Options {
        host: "test".to_owned(),
        path: format!("/b/{expected_body}"),
        post_bytes: None,
        expected_body: Some(expected_body),
        close: false,
    })
}

fn run(plan: &Plan, body: u64) -> Outcome {
    load::run(plan, &http1(body), &AtomicBool::new(false), &mut |_| Ok(())).unwrap()
}

/// Requests that were due in the window, which a busy machine may have made longer than planned.
fn due(outcome: &Outcome, rate: u32) -> u64 {
    (outcome.elapsed.as_secs_f64() * f64::from(rate)) as u64
}

/// The built-in origin, in a thread that ends with the test process.
fn origin(delay: Duration) -> SocketAddr {
    let listener = sys::listen(SocketAddr::from(LOCAL)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let options = origin::Options { body_bytes: 1, delay, tls: Some(server_tls()) };
        origin::serve(&listener, options)
    });
    address
}

/// TLS of the origin, with a certificate of its own.
fn server_tls() -> Arc<rustls::ServerConfig> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let name = format!("load-{}-{serial}", std::process::id());
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).unwrap();
    let identity = Identity::create(&directory).unwrap();
    let config = tls::server_config(&identity.certificate, &identity.key).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    config
}

/// Runs a protocol variant straight against an origin.
fn run_variant(protocol: ProtocolName, plan: &Plan, request: Request) -> Outcome {
    let sides = protocol.sides().direct();
    let Traffic { protocol, tls } = sides.traffic("test", request).unwrap();
    let plan = Plan { tls, fresh: sides.fresh, ..plan.clone() };
    load::run(&plan, &protocol, &AtomicBool::new(false), &mut |_| Ok(())).unwrap()
}

/// Answers the first read of every connection with fixed bytes, then closes it.
fn canned(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind(LOCAL).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // A client that is gone already is fine.
            let _ = stream.read(&mut [0; 1024]).and_then(|_| stream.write_all(answer));
        }
    });
    address
}

#[test]
fn closed_loop_counts_everything_in_the_window() {
    let mut edges = Vec::new();
    let target = origin(Duration::ZERO);
    for body in [0, 128, 1 << 20] {
        edges.clear();
        let mut observer = |edge| {
            edges.push(edge);
            Ok(())
        };
        let stop = AtomicBool::new(false);
        let outcome = load::run(&plan(target), &http1(body), &stop, &mut observer).unwrap();
        assert_eq!(edges, [Edge::Opens, Edge::Closes]);
        assert_eq!((outcome.errors(), outcome.faults_in_warmup, outcome.reconnects), (0, 0, 0));
        assert!(outcome.completed > 0);
        assert_eq!(outcome.latency.len(), outcome.completed);
        assert_eq!(outcome.body_bytes, outcome.completed * body);
        assert!(outcome.elapsed >= Duration::from_millis(300));
    }
}

#[test]
fn latency_counts_from_the_due_time() {
    // One connection can do 50 requests a second; 500 are due. A generator that measured from the
    // sending would report 20 ms for each.
    let delay = Duration::from_millis(20);
    let outcome = run(
        &Plan {
            connections: 1,
            pace: open(500),
            duration: Duration::from_secs(1),
            ..plan(origin(delay))
        },
        1,
    );
    let due = due(&outcome, 500);
    let settled = outcome.latency.len();
    assert!(settled.abs_diff(due) <= 2, "all {due} requests have a latency: {settled}");
    assert!(outcome.completed <= due / 10 + 2, "{}", outcome.completed);
    let unfinished = outcome.faults[Fault::Unfinished.index()];
    assert!(unfinished >= due / 2 && unfinished < due, "{unfinished}");
    assert!(Duration::from_nanos(outcome.latency.value_at_quantile(0.5)) > Duration::from_secs(1));
    assert!(Duration::from_nanos(outcome.latency.max()) >= DRAIN_MAX);
}

#[test]
fn open_loop_keeps_its_rate_when_the_target_does() {
    let outcome = run(&Plan { pace: open(500), connections: 4, ..plan(origin(Duration::ZERO)) }, 1);
    assert_eq!(outcome.errors(), 0);
    assert!(outcome.latency.len().abs_diff(due(&outcome, 500)) <= 2, "{}", outcome.latency.len());
    assert_eq!(outcome.lateness.len(), outcome.latency.len());
}

#[test]
fn faults_are_counted_by_kind() {
    let refused = {
        let listener = TcpListener::bind(LOCAL).unwrap();
        listener.local_addr().unwrap()
    };
    let cases = [
        (refused, Fault::Connect),
        (canned(b""), Fault::Closed),
        (canned(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n"), Fault::Closed),
        (canned(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"), Fault::Status),
        (canned(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nxx"), Fault::Length),
        (canned(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxx"), Fault::Malformed),
    ];
    for (target, fault) in cases {
        let outcome = run(&plan(target), 1);
        assert_eq!(outcome.completed, 0, "{fault:?}");
        assert!(outcome.faults[fault.index()] > 0, "{fault:?}: {:?}", outcome.faults);
        assert!(outcome.faults_in_warmup > 0, "{fault:?}");
    }
}

#[test]
fn connections_that_end_after_an_answer_are_made_again() {
    let target = canned(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx");
    let outcome = run(&plan(target), 1);
    assert_eq!(outcome.errors(), 0);
    assert!(outcome.completed > 2 && outcome.reconnects >= outcome.completed);
}

#[test]
fn unanswered_requests_time_out() {
    // Accepted by the kernel, never by a server.
    let listener = TcpListener::bind(LOCAL).unwrap();
    let outcome = run(
        &Plan {
            request_timeout: Duration::from_millis(60),
            ..plan(listener.local_addr().unwrap())
        },
        1,
    );
    assert_eq!(outcome.completed, 0);
    assert!(outcome.faults[Fault::Timeout.index()] > 0, "{:?}", outcome.faults);
}

#[test]
fn stops_when_told() {
    let plan = Plan { duration: Duration::from_secs(3600), ..plan(origin(Duration::ZERO)) };
    let result = load::run(&plan, &http1(1), &AtomicBool::new(true), &mut |_| Ok(()));
    assert!(matches!(result, Err(LoadError::Interrupted)));
}

#[test]
fn every_variant_completes_without_a_fault() {
    let target = origin(Duration::ZERO);
    for &protocol in ProtocolName::value_variants() {
        for (body_bytes, post_bytes) in [(0, None), (128, None), (200_000, Some(100_000))] {
            let request = Request { body_bytes, post_bytes, streams: 4 };
            let outcome = run_variant(protocol, &plan(target), request);
            let name = protocol.name();
            assert_eq!((outcome.errors(), outcome.faults_in_warmup), (0, 0), "{name}: {outcome:?}");
            assert!(outcome.completed > 0, "{name}, {body_bytes} bytes");
            assert_eq!(outcome.latency.len(), outcome.completed);
            let each = (body_bytes + if protocol == ProtocolName::Grpc { 5 } else { 0 }) as u64;
            assert_eq!(outcome.body_bytes, outcome.completed * each, "{name}");
            let fresh = protocol.sides().fresh;
            assert_eq!(outcome.reconnects >= outcome.completed, fresh, "{name}: {outcome:?}");
        }
    }
}

#[test]
fn streams_of_a_connection_are_in_flight_together() {
    // One at a time would be 50 requests a second.
    let target = origin(Duration::from_millis(20));
    let plan = Plan { connections: 1, pace: open(500), ..plan(target) };
    for protocol in [
        ProtocolName::H2,
        ProtocolName::Grpc,
        ProtocolName::H2Tls,
        ProtocolName::Bolt,
        ProtocolName::Dubbo,
    ] {
        let request = Request { body_bytes: 128, post_bytes: None, streams: 50 };
        let outcome = run_variant(protocol, &plan, request);
        assert_eq!(outcome.errors(), 0, "{outcome:?}");
        let due = due(&outcome, 500);
        assert!(outcome.latency.len().abs_diff(due) <= 2, "{} of {due}", outcome.latency.len());
        let least = Duration::from_nanos(outcome.latency.min());
        assert!(least >= Duration::from_millis(19), "{least:?}");
    }
}

#[test]
fn fresh_connections_are_charged_for_their_handshake() {
    // The delay of the origin is part of each latency, and the connect is before it.
    let target = origin(Duration::from_millis(20));
    let request = Request { body_bytes: 1, post_bytes: None, streams: 1 };
    let outcome = run_variant(ProtocolName::HttpsHandshake, &plan(target), request);
    assert_eq!(outcome.errors(), 0, "{outcome:?}");
    assert!(outcome.completed > 0 && outcome.reconnects >= outcome.completed);
    assert!(Duration::from_nanos(outcome.latency.min()) >= Duration::from_millis(20));
}

#[test]
fn the_origin_answers_only_in_the_version_asked_for() {
    let target = origin(Duration::ZERO);
    for &protocol in ProtocolName::value_variants() {
        let sides = protocol.sides();
        let straight = client::probe(target, sides.direct()).unwrap();
        assert_eq!(straight.tls.is_some(), sides.tls, "{straight:?}");
        // Upstream of nobody, a client that speaks one version can't be answered in the other.
        let answered = client::probe(target, sides).is_ok();
        assert_eq!(answered, sides == sides.direct(), "{protocol:?}");
    }
}

#[test]
fn the_origin_answers_other_versions_heartbeats_and_only_two_way_calls() {
    let target = origin(Duration::ZERO);
    let bolt_heartbeats: [(&[u8], &[u8]); 2] = [
        (
            b"\x01\x01\0\0\x01\0\0\0\x07\x01\xff\xff\xff\xff\0\0\0\0\0\0\0\0",
            b"\x01\0\0\0\x01\0\0\0\x07\x01\0\0\0\0\0\0\0\0\0\0",
        ),
        (
            b"\x02\x01\x01\0\0\x01\0\0\0\x05\x01\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0",
            b"\x02\x01\0\0\0\x01\0\0\0\x05\x01\0\0\0\0\0\0\0\0\0\0\0",
        ),
    ];
    let dubbo_heartbeat: (&[u8], &[u8]) = (
        b"\xda\xbb\xe2\0\0\0\0\0\0\0\0\x07\0\0\0\x01N",
        b"\xda\xbb\x22\x14\0\0\0\0\0\0\0\x07\0\0\0\x01N",
    );
    // One-way calls, of which only the heartbeats behind them are answered.
    let bolt = [b"\x01\x02\0\x01".as_slice(), &[0; 18], bolt_heartbeats[0].0].concat();
    let dubbo = [b"\xda\xbb\x82\0".as_slice(), &[0; 12], dubbo_heartbeat.0].concat();
    // A call of v2 with a checksum, at which the origin does not look: one byte, then the checksum.
    let v2: (&[u8], &[u8]) = (
        b"\x02\x02\x01\0\x01\x01\0\0\0\x2a\x01\x01\0\0\x0b\xb8\0\0\0\0\0\0\0\0crc!",
        b"\x02\x02\0\0\x02\x01\0\0\0\x2a\x01\x01\0\0\0\x2e\0\0\0\0\0\x01\
          com.alipay.sofa.rpc.core.response.SofaResponseo\x3c\x03\xed\x03",
    );
    for (input, answer) in [
        bolt_heartbeats[0],
        bolt_heartbeats[1],
        dubbo_heartbeat,
        (&bolt, bolt_heartbeats[0].1),
        (&dubbo, dubbo_heartbeat.1),
        v2,
    ] {
        let mut stream = TcpStream::connect(target).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(input).unwrap();
        let mut received = vec![0; answer.len()];
        stream.read_exact(&mut received).unwrap();
        assert_eq!(received, answer);
    }
}

#[test]
fn faults_of_every_protocol_are_counted_by_kind() {
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    let cases: [(ProtocolName, &'static [u8], Fault); 13] = [
        (ProtocolName::H2, b"HTTP/1.1 400 Bad Request\r\n\r\n", Fault::Malformed),
        (ProtocolName::H2, SETTINGS, Fault::Closed),
        // It admits a single stream.
        (ProtocolName::H2, b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x01", Fault::Refused),
        // A trailers-only answer with status 14.
        (
            ProtocolName::Grpc,
            b"\0\0\x11\x01\x05\0\0\0\x01\x88\x00\x0bgrpc-status\x0214",
            Fault::Grpc,
        ),
        (ProtocolName::Https, b"HTTP/1.1 400 Bad Request\r\n\r\n", Fault::Tls),
        (ProtocolName::Https, b"", Fault::Closed),
        (ProtocolName::Bolt, b"HTTP/1.1 400 Bad Request\r\n\r\n", Fault::Malformed),
        // Status 6, a content of 2 bytes, and an answer to a call that nobody made.
        (
            ProtocolName::Bolt,
            b"\x01\0\0\x02\x01\0\0\0\x01\x01\0\x06\0\0\0\0\0\0\0\0",
            Fault::Status,
        ),
        (
            ProtocolName::Bolt,
            b"\x01\0\0\x02\x01\0\0\0\x01\x01\0\0\0\0\0\0\0\0\0\x02xx",
            Fault::Length,
        ),
        (
            ProtocolName::Bolt,
            b"\x01\0\0\x02\x01\0\0\0\x07\x01\0\0\0\0\0\0\0\0\0\x01x",
            Fault::Malformed,
        ),
        // Status 60, an exception, and a part of an answer.
        (ProtocolName::Dubbo, b"\xda\xbb\x02\x3c\0\0\0\0\0\0\0\x01\0\0\0\x02\x01x", Fault::Status),
        (
            ProtocolName::Dubbo,
            b"\xda\xbb\x02\x14\0\0\0\0\0\0\0\x01\0\0\0\x03\x90\x01x",
            Fault::Status,
        ),
        (ProtocolName::Dubbo, b"\xda\xbb\x02\x14\0\0\0\0\0\0\0\x01\0\0\0\x03\x91", Fault::Closed),
    ];
    for (protocol, answer, fault) in cases {
        let request = Request { body_bytes: 1, post_bytes: None, streams: 2 };
        let outcome = run_variant(protocol, &plan(canned(answer)), request);
        assert_eq!(outcome.completed, 0, "{fault:?}");
        assert!(outcome.faults[fault.index()] > 0, "{protocol:?}, {fault:?}: {:?}", outcome.faults);
    }
}
