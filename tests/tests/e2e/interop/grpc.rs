//! Real gRPC clients, through the proxy to a real gRPC server.

use std::fs;
use std::path::Path;
use std::process::Command;

use outrigger_tests::process::{Scratch, run};
use outrigger_tests::{Config, Launch, Proxy};
use serde_json::json;

use super::{PythonServer, identity, script};

fn config(server: &PythonServer) -> Config {
    Config::to_http2(&server.address).tune_route(json!({"route": {
        "timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"},
    }}))
}

#[track_caller]
fn client(mut command: Command, script_name: &str, proxy: &Proxy, ca: Option<&Path>) {
    command.arg(script(script_name)).arg(proxy.address().to_string()).args(ca);
    let output = run(command);
    let words = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.ends_with("ok\n"), "{}: {said}{words}", output.status);
}

/// Over plaintext, and over TLS with two shards.
#[track_caller]
fn both(program: &str, script_name: &str) {
    let server = PythonServer::start("grpc_server.py");
    let proxy = Proxy::start(&config(&server));
    client(Command::new(program), script_name, &proxy, None);
    proxy.expect_no_active_requests();
    proxy.stop();

    let scratch = Scratch::new();
    let (authority, identity) = identity();
    let ca = scratch.file("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let config = config(&server).downstream_tls(json!({"common_tls_context": {
        "tls_certificates": [identity.to_json()], "alpn_protocols": ["h2"],
    }}));
    let proxy = Launch::outrigger(&config).shards(2).start();
    client(Command::new(program), script_name, &proxy, Some(&ca));
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
#[ignore = "needs Python with grpcio, which .ci/run installs"]
fn grpc_of_python_runs_through() {
    both("python3", "grpc_client.py");
}

#[test]
#[ignore = "needs Node with @grpc/grpc-js and Python with grpcio, which .ci/run installs"]
fn grpc_of_node_runs_through() {
    both("node", "grpc_client.js");
}
