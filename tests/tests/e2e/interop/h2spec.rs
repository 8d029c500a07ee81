//! h2spec: conformance to RFC 7540 and RFC 7541, case by case.

use std::process::Command;

use outrigger_tests::process::run;
use outrigger_tests::{Config, Origin, Proxy};
use serde_json::json;

use crate::versions::{Version, origin};

/// Runs every case, strict ones included; all must pass and none be skipped.
#[track_caller]
fn all_pass(proxy: &Proxy, more: &[&str]) {
    let address = proxy.address().tcp();
    let mut command = Command::new("h2spec");
    command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.args(["--path", "/length", "--strict", "--timeout", "5"]).args(more);
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout);
    let summary = text.lines().rev().find(|line| line.contains("passed")).unwrap_or_default();
    let passes = output.status.success() && summary.contains("0 skipped, 0 failed");
    let from = text.find("Failures").unwrap_or(0);
    assert!(passes, "{summary}\n{}\n{}", &text[from..], String::from_utf8_lossy(&output.stderr));
}

fn http2(origin: &Origin) -> Config {
    Config::to(origin.address()).http(json!({"delayed_close_timeout": "0.05s"}))
}

#[test]
#[ignore = "needs h2spec, which .ci/run installs"]
fn h2spec_passes_over_plaintext() {
    let origin = origin(Version::Http1);
    // Its case of a wrong preface is HTTP/1.1 to whoever speaks both.
    let proxy = Proxy::start(&http2(&origin).http(json!({"codec_type": "HTTP2"})));
    all_pass(&proxy, &[]);
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
#[ignore = "needs h2spec, which .ci/run installs"]
fn h2spec_passes_over_tls_and_to_http2() {
    let origin = origin(Version::Http2);
    let (_, identity) = super::identity();
    let config = http2(&origin)
        .tune_cluster(outrigger_tests::config::http2_upstream(&json!({})))
        .downstream_tls(json!({"common_tls_context": {
            "tls_certificates": [identity.to_json()], "alpn_protocols": ["h2", "http/1.1"],
        }}));
    let proxy = Proxy::start(&config);
    all_pass(&proxy, &["--tls", "--insecure"]);
    proxy.expect_no_active_requests();
    proxy.stop();
}
