//! Runs the harness as a user does, with the targets that need no peer.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::fs;

use common::{Directory, harness, succeeds};
use outrigger_perf::report::Report;

/// All protocol variants.
const PROTOCOLS: &str = "h1,h2,h2-h1,grpc,https,https-handshake,h2-tls,h2-tls-handshake,bolt,dubbo";
/// Those whose connections can be idle, of those that peers have.
const IDLE_PROTOCOLS: &str = "http1,https,h2,h2-tls,bolt,dubbo";

#[test]
fn compares_direct_and_floor() {
    let directory = Directory::new("compare");
    let (json, html) = (directory.file("out.json"), directory.file("out.html"));
    let table = succeeds(&[
        "compare",
        "--targets",
        "direct,floor",
        "--peers",
        "",
        "--connections",
        "4",
        "--body",
        "128,300000",
        "--duration",
        "0.5",
        "--warmup",
        "0.1",
        "--repetitions",
        "2",
        "--json",
        &json,
        "--html",
        &html,
    ]);
    assert!(table.contains("floor / direct: req/s"), "{table}");
    let report: Report = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let named: Vec<_> =
        report.cases.iter().map(|case| (case.target.as_str(), case.body_bytes)).collect();
    assert_eq!(named, [("direct", 128), ("floor", 128), ("direct", 300_000), ("floor", 300_000)]);
    for case in &report.cases {
        assert_eq!((case.connections, case.repetitions), (4, 2));
        assert_eq!((case.errors, case.errors_in_warmup), (0, 0), "{case:?}");
        assert!(case.rps > 0.0 && case.rps_min <= case.rps && case.rps <= case.rps_max);
        assert!(case.latency_us.p50 > 0.0 && case.latency_us.p50 <= case.latency_us.max);
        let proxied = case.target == "floor";
        assert_eq!(case.cpu_us_per_request.is_some_and(|cpu| cpu > 0.0), proxied);
        assert_eq!(case.rss_bytes.is_some_and(|bytes| bytes > 0), proxied);
    }
    assert!(fs::read_to_string(&html).unwrap().contains("\"target\":\"floor\""));

    // Nothing of this is judged, so nothing is missed, unless completeness is asked for.
    assert!(succeeds(&["check", "--json", &json]).contains("not measured"));
    assert_eq!(harness(&["check", "--json", &json, "--complete"]).status.code(), Some(1));
}

#[test]
fn open_loop_with_posts_keeps_the_rate() {
    let directory = Directory::new("open");
    let json = directory.file("out.json");
    succeeds(&[
        "compare",
        "--targets",
        "floor",
        "--peers",
        "",
        "--connections",
        "8",
        "--body",
        "128",
        "--post",
        "100000",
        "--rate",
        "200",
        "--duration",
        "1",
        "--warmup",
        "0.2",
        "--repetitions",
        "1",
        "--json",
        &json,
    ]);
    let report: Report = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let case = &report.cases[0];
    assert_eq!((case.rate, case.errors), (Some(200), 0), "{case:?}");
    assert!((150.0..250.0).contains(&case.rps), "{case:?}");
}

#[test]
fn idle_connections_of_the_floor() {
    let directory = Directory::new("idle");
    let json = directory.file("out.json");
    let table = succeeds(&[
        "idle",
        "--targets",
        "floor",
        "--connections",
        "200",
        "--watch",
        "0.2",
        "--json",
        &json,
    ]);
    assert_eq!(table.matches("floor").count(), 2, "{table}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    for (case, variant) in report["cases"].as_array().unwrap().iter().zip(["served", "silent"]) {
        assert_eq!(case["variant"], variant);
        assert_eq!((&case["connections"], &case["lost"]), (&200.into(), &0.into()));
        assert!(case["full_rss_bytes"].as_u64() >= case["empty_rss_bytes"].as_u64());
    }
}

#[test]
fn compares_direct_in_every_protocol() {
    let directory = Directory::new("protocols");
    let json = directory.file("out.json");
    let table = succeeds(&[
        "compare",
        "--targets",
        "direct,floor",
        "--peers",
        "",
        "--protocol",
        PROTOCOLS,
        "--connections",
        "2",
        "--streams",
        "8",
        "--body",
        "128",
        "--duration",
        "0.1",
        "--warmup",
        "0.1",
        "--repetitions",
        "1",
        "--json",
        &json,
    ]);
    assert!(table.contains("grpc, 2 connections x 8 streams, 128-byte body"), "{table}");
    let report: Report = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let named: Vec<_> = report
        .cases
        .iter()
        .map(|case| (case.target.as_str(), case.protocol.as_str(), case.streams))
        .collect();
    let expected = [
        ("direct", "http1", 1),
        ("floor", "http1", 1),
        ("direct", "h2", 8),
        ("direct", "h2-h1", 8),
        ("direct", "grpc", 8),
        ("direct", "https", 1),
        ("direct", "https-handshake", 1),
        ("direct", "h2-tls", 8),
        ("direct", "h2-tls-handshake", 1),
        ("direct", "bolt", 8),
        ("direct", "dubbo", 8),
    ];
    assert_eq!(named, expected);
    for case in &report.cases {
        assert_eq!((case.errors, case.errors_in_warmup), (0, 0), "{case:?}");
        assert!(case.rps > 0.0, "{case:?}");
        let tls = case.protocol.contains("tls") || case.protocol.contains("https");
        let negotiated = case.negotiated.as_ref().unwrap();
        assert_eq!(negotiated.tls.is_some(), tls, "{negotiated:?}");
    }
    let findings = succeeds(&["check", "--json", &json]);
    let spoken = findings.lines().find(|line| line.contains("versions and TLS")).unwrap();
    assert!(spoken.starts_with("met ") && spoken.ends_with("11 cases"), "{spoken}");
}

#[test]
fn a_second_round_goes_at_a_share_of_the_first() {
    let directory = Directory::new("share");
    let json = directory.file("out.json");
    let arguments = ["compare", "--targets", "direct", "--protocol", "bolt,dubbo", "--peers", ""];
    let load = ["--connections", "2", "--streams", "4", "--body", "128", "--repetitions", "1"];
    let pace = ["--rate-of", "direct:0.02", "--duration", "0.5", "--warmup", "0.1"];
    succeeds(&[&arguments[..], &load, &pace, &["--json", &json]].concat());
    let report: Report = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let [bolt, dubbo, bolt_open, dubbo_open] = &report.cases[..] else {
        panic!("{:?}", report.cases);
    };
    for (closed, open, protocol) in [(bolt, bolt_open, "bolt"), (dubbo, dubbo_open, "dubbo")] {
        assert_eq!((&*closed.protocol, &*open.protocol), (protocol, protocol));
        assert_eq!((closed.errors, closed.rate), (0, None), "{closed:?}");
        assert_eq!((open.errors, open.rate), (0, Some(closed.share_of_rate(0.02))), "{open:?}");
        assert!(open.rps < closed.rps / 10.0, "{closed:?}, {open:?}");
    }
}

#[test]
#[ignore = "needs nginx, haproxy, envoy and mosn"]
fn peers_speak_every_protocol() {
    let directory = Directory::new("peers");
    let json = directory.file("out.json");
    let compare = ["compare", "--targets", "direct", "--protocol", PROTOCOLS, "--connections", "4"];
    let brief = ["--duration", "0.2", "--warmup", "0.1", "--repetitions", "1", "--json", &json];
    succeeds(&[&compare[..], &["--streams", "8", "--body", "128"], &brief].concat());
    let report: Report = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    // Of RPC, Envoy has Dubbo and MOSN both; MOSN has nothing else here.
    let rpc = ["direct", "mosn", "direct", "envoy", "mosn"];
    assert_eq!(report.cases.len(), 4 * 8 + rpc.len());
    let targets: Vec<_> = report.cases[4 * 8..].iter().map(|case| &*case.target).collect();
    assert_eq!(targets, rpc);
    for case in &report.cases {
        assert_eq!((case.errors, case.errors_in_warmup), (0, 0), "{case:?}");
        assert!(case.rps > 0.0, "{case:?}");
    }
    let findings = succeeds(&["check", "--json", &json]);
    let spoken = findings.lines().find(|line| line.contains("versions and TLS")).unwrap();
    assert!(spoken.starts_with("met ") && spoken.ends_with("37 cases"), "{spoken}");
}

#[test]
#[ignore = "needs nginx, haproxy, envoy and mosn"]
fn idle_connections_of_peers_stay_open() {
    let directory = Directory::new("idle-peers");
    let json = directory.file("out.json");
    let idle = ["idle", "--targets", "nginx,haproxy,envoy,mosn", "--protocol", IDLE_PROTOCOLS];
    succeeds(&[&idle[..], &["--connections", "50", "--watch", "0.1", "--json", &json]].concat());
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let cases = report["cases"].as_array().unwrap();
    // Three in HTTP; of RPC, MOSN has both and Envoy has Dubbo.
    assert_eq!(cases.len(), (3 * 4 + 3) * 2);
    for case in cases {
        assert_eq!((&case["connections"], &case["lost"]), (&50.into(), &0.into()), "{case}");
    }
    assert!(succeeds(&["check", "--idle", &json]).contains("30 cases"));
}

#[test]
fn what_is_impossible_is_refused() {
    let directory = Directory::new("impossible");
    let json = directory.file("out.json");
    let compare = ["compare", "--targets", "direct", "--peers", "", "--json", &json];
    let cases: [(&[&str], &str); 6] = [
        (&["--protocol", "https-handshake", "--rate", "10"], "open loop"),
        (&["--protocol", "https-handshake", "--rate-of", "direct:0.5"], "open loop"),
        (&["--protocol", "bolt", "--rate-of", "mosn:0.5"], "needs it among the targets"),
        (&["--rate", "10", "--rate-of", "direct:0.5"], "cannot be used with"),
        (&["--protocol", "h2", "--streams", "101"], "from 1 to 100"),
        (&["--protocol", "h3"], "possible values"),
    ];
    for (more, words) in cases {
        let output = harness(&[&compare[..], more].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(words), "{more:?}: {error}");
    }
    let output = harness(&["idle", "--targets", "floor", "--protocol", "h2-tls-handshake"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("none is ever idle"), "{error}");
}

#[test]
fn a_missing_program_is_an_error_with_a_remedy() {
    let directory = Directory::new("missing");
    let output = harness(&[
        "compare",
        "--targets",
        "outrigger",
        "--peers",
        "",
        "--outrigger",
        "/nonexistent",
        "--json",
        &directory.file("out.json"),
    ]);
    assert_eq!(output.status.code(), Some(2));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("cargo build --release"), "{words}");
}
