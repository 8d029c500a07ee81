//! Autobahn's fuzzing client: WebSocket frames of every kind, right and wrong. A proxy is no
//! endpoint, so what counts is that every case ends as it does without one.

use std::fs;
use std::process::Command;

use outrigger_tests::config::http2_upstream;
use outrigger_tests::process::{Scratch, run};
use outrigger_tests::{Address, Config, Proxy};
use serde_json::{Value, json};

use super::PythonServer;

/// WebSockets, by either version on either side.
fn config(origin: &Address) -> Config {
    Config::to(origin)
        .http(json!({
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http2_protocol_options": {"allow_connect": true},
        }))
        .tune_route(json!({"route": {"timeout": "0s"}}))
}

#[test]
#[ignore = "needs autobahntestsuite and websockets, which .ci/run installs"]
fn autobahn_sees_no_difference() {
    let server = PythonServer::start("websocket_echo.py");
    let proxy = Proxy::start(&config(&server.address));
    // Two of them with HTTP/2 in between: an upgrade becomes an extended CONNECT and an upgrade again.
    let inner = Proxy::start(&config(&server.address));
    let bridge =
        config(inner.address()).tune_cluster(http2_upstream(&json!({"allow_connect": true})));
    let outer = Proxy::start(&bridge);

    let scratch = Scratch::new();
    let agents =
        [("direct", &server.address), ("proxied", proxy.address()), ("bridged", outer.address())];
    let servers: Vec<Value> = agents
        .iter()
        .map(|(agent, address)| json!({"agent": agent, "url": format!("ws://{address}")}))
        .collect();
    let spec = json!({
        "outdir": scratch.file("reports"),
        "servers": servers,
        "cases": ["*"],
        // Performance, and extensions that the server does not have.
        "exclude-cases": ["9.*", "12.*", "13.*"],
        "exclude-agent-cases": {},
    });
    let spec_file = scratch.file("spec.json");
    fs::write(&spec_file, spec.to_string()).unwrap();
    let mut command = Command::new("wstest");
    command.current_dir(scratch.path()).args(["-m", "fuzzingclient", "-s"]).arg(&spec_file);
    let output = run(command);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {words}", output.status);

    let index = fs::read_to_string(scratch.file("reports/index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    let direct = index["direct"].as_object().unwrap();
    assert!(direct.len() > 200, "{} cases", direct.len());
    let mut differences = Vec::new();
    for agent in ["proxied", "bridged"] {
        for (case, expected) in direct {
            for fact in ["behavior", "behaviorClose", "remoteCloseCode"] {
                let verdict = |outcome: &Value| match outcome[fact].as_str() {
                    // What a server sends before it sees an error may still arrive, or not: both are
                    // right, and neither says anything of a proxy.
                    Some("NON-STRICT") => json!("OK"),
                    _ => outcome[fact].clone(),
                };
                let (expected, found) = (verdict(expected), verdict(&index[agent][case]));
                if found != expected {
                    differences.push(format!("{agent}, {case}, {fact}: {expected} is {found}"));
                }
            }
        }
    }
    let count = differences.len();
    differences.truncate(20);
    assert!(differences.is_empty(), "{count} differences, among them {differences:#?}");
    for proxy in [proxy, outer, inner] {
        proxy.expect_stat("http.main.downstream_cx_upgrades_active", 0);
        proxy.stop();
    }
}
