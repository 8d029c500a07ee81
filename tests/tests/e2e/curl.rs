//! A real client: what curl makes of the proxy.

use std::fs;
use std::process::Command;

use outrigger_tests::process::{Scratch, run};
use outrigger_tests::{Config, Origin, Proxy};
use serde_json::json;

use crate::basics::pattern;

/// Runs curl, which must succeed, and returns what it prints.
#[track_caller]
fn curl(arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30", "--noproxy", ""]);
    command.args(arguments);
    let output = run(command);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {arguments:?}: {}: {words}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "needs curl, which .ci/run installs"]
fn curl_gets_posts_and_puts() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let url = proxy.url("/path");
    assert_eq!(curl(&["--data", "hello", &url]), "hello");
    assert_eq!(curl(&["--request", "PUT", "--data", "hello", &url]), "hello");
    assert_eq!(curl(&["--request", "DELETE", &url]), "");
    let head = curl(&["--head", &url]);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    // Two URLs, one connection.
    let used = curl(&["--data", "a", "--write-out", " %{num_connects} ", &url, &url]);
    assert_eq!(used, "a 1 a 0 ");
    proxy.stop();
}

#[test]
#[ignore = "needs curl, which .ci/run installs"]
fn curl_uploads_files_with_expectations_and_chunks() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let scratch = Scratch::new();
    let (sent, came) = (scratch.file("sent"), scratch.file("came"));
    fs::write(&sent, pattern(5_000_000)).unwrap();
    let (sent_path, came_path) = (sent.display().to_string(), came.display().to_string());
    let url = proxy.url("/");
    for how in [
        &["--header", "Expect: 100-continue"][..],
        &["--header", "Transfer-Encoding: chunked"],
        &["--header", "Expect:"],
    ] {
        let mut arguments = vec!["--upload-file", &sent_path, "--output", &came_path];
        arguments.extend_from_slice(how);
        arguments.push(&url);
        curl(&arguments);
        assert!(fs::read(&came).unwrap() == pattern(5_000_000), "{how:?}: the bytes changed");
        fs::remove_file(&came).unwrap();
    }
    proxy.stop();
}

#[test]
#[ignore = "needs curl, which .ci/run installs"]
fn curl_speaks_http_1_0_and_unix_sockets() {
    let origin = Origin::ok();
    let scratch = Scratch::new();
    let socket = scratch.file("listen").display().to_string();
    let config = Config::to(origin.address())
        .http(json!({"http_protocol_options": {"accept_http_10": true}}))
        .listener(json!({"address": {"socket_address": null, "pipe": {"path": socket}}}));
    let proxy = Proxy::start(&config);
    assert_eq!(curl(&["--unix-socket", &socket, "http://test/"]), "ok");
    assert_eq!(curl(&["--http1.0", "--unix-socket", &socket, "http://test/"]), "ok");
    proxy.stop();
}

#[test]
#[ignore = "needs curl, which .ci/run installs"]
fn curl_tunnels_through_connect() {
    // The tunnel ends here; what curl then asks in it is answered by the origin behind it.
    let origin = Origin::ok();
    let config = Config::new()
        .cluster("origin", &[origin.address()])
        .http(json!({"upgrade_configs": [{"upgrade_type": "CONNECT"}]}))
        .route(json!({
            "match": {"connect_matcher": {}},
            "route": {
                "cluster": "origin",
                "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
            },
        }));
    let proxy = Proxy::start(&config);
    let address = format!("http://{}", proxy.address());
    let text = curl(&["--proxytunnel", "--proxy", &address, "http://far.example:80/in"]);
    assert_eq!(text, "ok");
    let request = origin.only_request();
    assert_eq!(request.headers.get("host"), Some("far.example"));
    proxy.stop();
}
