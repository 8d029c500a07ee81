//! Programs that are not ours, as clients and as origins. Each needs something that a machine with
//! only Rust need not have, and is run by CI, which installs it.

mod autobahn;
mod bolt;
mod dubbo;
mod grpc;
mod h2spec;
mod registries;
mod sdk;
mod sofa;
mod testssl;
mod triple;

use std::path::{Path, PathBuf};
use std::process::Command;

use outrigger_tests::process::{Limits, Process};
use outrigger_tests::tls::{Authority, Identity, Subject};
use outrigger_tests::{Address, Config, Peer, Proxy, eventually};
use serde_json::json;

/// A script beside this file.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/interop").join(name)
}

/// A server in Python that prints its port when it listens.
struct PythonServer {
    address: Address,
    _process: Process,
}

impl PythonServer {
    fn start(name: &str) -> PythonServer {
        let mut command = Command::new("python3");
        command.arg(script(name));
        let mut process = Process::spawn(command, Limits::default()).unwrap();
        let port = eventually("the server's port", || {
            assert!(process.ended().is_none(), "{name}: {}", process.stderr());
            process.stdout().strip_suffix('\n')?.parse().ok()
        });
        PythonServer { address: Address::port(port), _process: process }
    }
}

/// A program that `.ci/run` built of the sources in `peers`.
fn peer(name: &str) -> Peer {
    Peer::start(Command::new(name))
}

/// The one in Node.
fn node_peer() -> Peer {
    let mut command = Command::new("node");
    command.arg(script("peers/sofa.js"));
    Peer::start(command)
}

/// Adds the clusters of local errors: `empty` has no endpoint, `refusing` one that refuses, and `full`
/// one too many with the first request.
fn with_failing_clusters(config: Config, server: &Address, refusing: &Address) -> Config {
    config
        .cluster("empty", &[])
        .cluster("refusing", &[refusing])
        .cluster("full", &[server])
        .tune_cluster(json!({"circuit_breakers": {"thresholds": [{"max_requests": 0}]}}))
}

/// Each side hears from the proxy while nothing goes on, and finds nothing wrong with it: after three
/// misses a connection would be closed.
fn expect_heartbeats(proxy: &Proxy, protocol: &str) {
    for counter in ["heartbeats_answered", "heartbeats_sent"] {
        proxy.await_stat(&format!("{protocol}.main.{counter}"), |count| count >= 4);
    }
    assert_eq!(proxy.stat(&format!("{protocol}.main.upstream_dead")), 0);
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_total"), 1);
}

/// A certificate for `proxy.test` and localhost, and who signed it.
fn identity() -> (Authority, Identity) {
    let authority = Authority::new("Outrigger tests");
    let identity = authority.issue(Subject::dns(&["proxy.test", "localhost"]));
    (authority, identity)
}
