//! testssl.sh: what a scanner finds in the default configuration.

use std::fs;
use std::process::Command;

use outrigger_tests::process::{Scratch, run};
use outrigger_tests::{Config, Origin, Proxy};
use serde_json::{Value, json};

#[test]
#[ignore = "needs testssl.sh, which .ci/run installs"]
fn testssl_finds_no_weakness() {
    let origin = Origin::ok();
    let scratch = Scratch::new();
    let (authority, identity) = super::identity();
    let config = Config::to(origin.address()).downstream_tls(json!({"common_tls_context": {
        "tls_certificates": [identity.to_json()], "alpn_protocols": ["h2", "http/1.1"],
    }}));
    let proxy = Proxy::start(&config);
    let ca = scratch.file("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let report = scratch.file("report.json");
    let mut command = Command::new("testssl");
    command
        .args(["--protocols", "--std", "--fs", "--server-preference", "--vulnerable"])
        .args(["--warnings", "off", "--color", "0", "--quiet", "--ip", "one"])
        .arg("--add-ca")
        .arg(&ca)
        .arg("--jsonfile")
        .arg(&report)
        .arg(format!("localhost:{}", proxy.address().tcp().port()));
    let output = run(command);
    let words = String::from_utf8_lossy(&output.stdout);
    let text = fs::read_to_string(&report).unwrap_or_else(|error| panic!("{error}: {words}"));
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap();
    let severity = |finding: &Value| finding["severity"].as_str().unwrap_or_default().to_owned();
    let weak: Vec<&Value> = findings
        .iter()
        .filter(|finding| !["OK", "INFO", "DEBUG"].contains(&severity(finding).as_str()))
        // Of the scanner's own machine.
        .filter(|finding| finding["id"] != "engine_problem")
        .collect();
    assert!(weak.is_empty(), "{weak:#?}");
    // It looked at something.
    let found = |id: &str, severity_of_it: &str| {
        findings.iter().any(|finding| finding["id"] == id && severity(finding) == severity_of_it)
    };
    for (id, severity) in
        [("TLS1_2", "OK"), ("TLS1_3", "OK"), ("heartbleed", "OK"), ("PFS", "OK"), ("ROBOT", "OK")]
    {
        assert!(found(id, severity), "{id} is not {severity}: {text}");
    }
    proxy.stop();
}
