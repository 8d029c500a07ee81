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
use outrigger_tests::{Address, Peer, eventually};

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

/// A certificate for `proxy.test` and localhost, and who signed it.
fn identity() -> (Authority, Identity) {
    let authority = Authority::new("Outrigger tests");
    let identity = authority.issue(Subject::dns(&["proxy.test", "localhost"]));
    (authority, identity)
}
