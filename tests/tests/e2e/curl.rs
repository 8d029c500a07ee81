//! A real client: what curl makes of the proxy.

use std::fs;
use std::process::Command;

use outrigger_tests::process::{Scratch, run};
use outrigger_tests::tls::{Authority, Subject};
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

#[test]
#[ignore = "needs curl, which .ci/run installs"]
fn curl_speaks_http2_by_knowledge_and_by_upgrade() {
    let origin = Origin::http2_echo();
    let proxy = Proxy::start(&Config::to_http2(origin.address()));
    let url = proxy.url("/");
    let version = ["--write-out", " %{http_version}"];
    let with = |more: &[&str]| curl(&[&version[..], more, &[&url]].concat());
    assert_eq!(with(&["--http2-prior-knowledge", "--data", "hello"]), "hello 2");
    assert_eq!(with(&["--http1.1", "--data", "hello"]), "hello 1.1");
    let head = curl(&["--http2-prior-knowledge", "--head", &url]);
    assert!(head.starts_with("HTTP/2 200"), "{head}");
    if !outrigger_tests::binary::is_envoy_tested() {
        assert_eq!(with(&["--http2"]), " 2");
        // An upgrade may be ignored, and is where a body would have to be waited for.
        assert_eq!(with(&["--http2", "--data", "hello"]), "hello 1.1");
    }
    proxy.stop();
}

#[test]
#[ignore = "needs curl, which .ci/run installs"]
fn curl_speaks_every_version_over_tls() {
    let authority = Authority::new("ours");
    let identity = authority.issue(Subject::dns(&["proxy.test"]));
    let scratch = Scratch::new();
    let ca = scratch.file("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let origin = Origin::echo();
    let config = Config::to(origin.address()).downstream_tls(json!({"common_tls_context": {
        "tls_certificates": [identity.to_json()],
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
    }}));
    let proxy = Proxy::start(&config);
    let (sent, came) = (scratch.file("sent"), scratch.file("came"));
    fs::write(&sent, pattern(5_000_000)).unwrap();
    let port = proxy.address().tcp().port();
    let (url, at) = (format!("https://proxy.test:{port}/"), format!("proxy.test:{port}:127.0.0.1"));
    for (how, expected) in [
        (&["--http1.1"][..], "1.1"),
        (&["--http2"], "2"),
        (&["--http2", "--tls-max", "1.2"], "2"),
        (&["--http1.1", "--tlsv1.3"], "1.1"),
        (&["--no-alpn"], "1.1"),
    ] {
        let version = curl(
            &[
                &["--cacert", ca.to_str().unwrap(), "--resolve", &at][..],
                &["--upload-file", sent.to_str().unwrap(), "--output", came.to_str().unwrap()],
                &["--write-out", "%{http_version}"],
                how,
                &[&url],
            ]
            .concat(),
        );
        assert_eq!(version, expected, "{how:?}");
        assert!(fs::read(&came).unwrap() == pattern(5_000_000), "{how:?}: the bytes changed");
    }
    proxy.stop();
}
