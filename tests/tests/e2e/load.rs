//! Many requests over many connections, and nothing goes wrong.

use std::process::Command;

use outrigger_tests::load::{FastOrigin, Load};
use outrigger_tests::process::run;
use outrigger_tests::tls::{Authority, Subject};
use outrigger_tests::{Config, Launch, Proxy};
use serde_json::json;

/// A cluster that does not limit what these tests send.
fn unlimited(origin: &FastOrigin) -> Config {
    Config::to(origin.address()).tune_cluster(json!({"circuit_breakers": {"thresholds": [{
        "max_connections": 10_000, "max_pending_requests": 10_000, "max_requests": 10_000,
    }]}}))
}

#[test]
fn a_hundred_thousand_requests_over_a_thousand_connections() {
    const REQUESTS: u64 = 100_000;
    let origin = FastOrigin::start();
    let proxy = Launch::outrigger(&unlimited(&origin)).shards(2).start();
    let load = Load { connections: 1000, requests: Some(REQUESTS) };
    let outcome = load.start(proxy.address()).finish();
    assert!(outcome.is_only(200, REQUESTS), "{outcome:?}");
    assert_eq!((outcome.connected, outcome.refused), (1000, 0));
    // None was lost, none was sent twice.
    assert_eq!(origin.requests(), REQUESTS);
    assert!(origin.accepted() <= 1000, "{} upstream connections", origin.accepted());
    assert_eq!(proxy.stat("http.main.downstream_rq_2xx"), REQUESTS);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_total"), REQUESTS);
    proxy.expect_stat("http.main.downstream_cx_active", 0);
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
#[ignore = "needs wrk, which .ci/run installs"]
fn wrk_sees_no_errors() {
    let origin = FastOrigin::start();
    let proxy = Launch::outrigger(&unlimited(&origin)).shards(2).start();
    let mut command = Command::new("wrk");
    command.args(["--threads", "2", "--connections", "64", "--duration", "1s", &proxy.url("/")]);
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("requests in"), "{text}");
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    proxy.stop();
}

#[test]
#[ignore = "needs h2load, which .ci/run installs"]
fn h2load_in_pipelines_sees_no_errors() {
    let origin = FastOrigin::start();
    let proxy = Launch::outrigger(&unlimited(&origin)).shards(2).start();
    let mut command = Command::new("h2load");
    command.args(["--h1", "-n", "20000", "-c", "20", "-m", "8", &proxy.url("/")]);
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("20000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert_eq!(origin.requests(), 20_000);
    proxy.stop();
}

#[test]
#[ignore = "needs h2load, which .ci/run installs"]
fn h2load_of_every_kind_sees_no_errors() {
    const REQUESTS: u64 = 30_000;
    let identity = Authority::new("ours").issue(Subject::dns(&["proxy.test"]));
    let secure = json!({"common_tls_context": {
        "tls_certificates": [identity.to_json()], "alpn_protocols": ["h2", "http/1.1"],
    }});
    let origin = FastOrigin::start();
    for (scheme, more) in [
        ("http", &["-c", "16", "-m", "16"][..]),
        ("https", &["-c", "16", "-m", "16"]),
        ("https", &["--h1", "-c", "32"]),
        // A window of 64 KiB in all.
        ("http", &["-c", "4", "-m", "64", "-w", "12", "-W", "16"]),
    ] {
        let mut config = unlimited(&origin);
        if scheme == "https" {
            config = config.downstream_tls(secure.clone());
        }
        let proxy = Launch::outrigger(&config).shards(2).start();
        let mut command = Command::new("h2load");
        command.args(["-n", &REQUESTS.to_string()]).args(more);
        command.arg(format!("{scheme}://{}/", proxy.address()));
        let output = run(command);
        let text = String::from_utf8_lossy(&output.stdout);
        let expected = format!("{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout");
        assert!(output.status.success() && text.contains(&expected), "{scheme} {more:?}: {text}");
        assert!(text.contains(&format!("status codes: {REQUESTS} 2xx")), "{text}");
        assert_eq!(proxy.stat("http.main.downstream_rq_2xx"), REQUESTS);
        proxy.expect_stat("http.main.downstream_cx_active", 0);
        proxy.expect_no_active_requests();
        proxy.stop();
    }
}

#[test]
fn long_lived_connections_are_spread_evenly() {
    let origin = FastOrigin::start();
    let proxy = Launch::outrigger(&Config::to(origin.address())).shards(2).start();
    let mut clients: Vec<_> = (0..16).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    let held = [proxy.stat("shard.0.connections"), proxy.stat("shard.1.connections")];
    assert_eq!(held[0] + held[1], 16, "{held:?}");
    assert!(held[0].abs_diff(8) <= 1, "{held:?}");
    drop(clients);
    proxy.expect_stat("shard.0.connections", 0);
    proxy.expect_stat("shard.1.connections", 0);
    proxy.stop();
}

#[test]
fn connections_come_and_go() {
    const ROUNDS: usize = 3000;
    let origin = FastOrigin::start();
    let mut proxy = Proxy::start(&Config::to(origin.address()));
    let files = proxy.process().files();
    for _ in 0..ROUNDS {
        assert_eq!(proxy.client().get("/").status, 200);
    }
    proxy.expect_stat("http.main.downstream_cx_active", 0);
    assert_eq!(proxy.stat("http.main.downstream_cx_total"), ROUNDS as u64);
    let more = proxy.process().files().saturating_sub(files);
    assert!(more <= 4, "{more} more descriptors");
    proxy.stop();
}
