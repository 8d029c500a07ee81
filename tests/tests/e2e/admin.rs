//! The admin interface, with Envoy's names and shapes.

use outrigger_tests::{Config, Origin, Proxy, eventually};
use serde_json::{Value, json};

fn json_of(proxy: &Proxy, path: &str) -> Value {
    let response = proxy.admin_get(path);
    assert_eq!(response.status, 200, "{path}");
    assert_eq!(response.header("content-type"), Some("application/json"), "{path}");
    serde_json::from_str(&response.text()).unwrap()
}

fn used() -> (Proxy, Origin) {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()).with(json!({"node": {"id": "node-1"}})));
    assert_eq!(proxy.client().get("/").status, 200);
    (proxy, origin)
}

#[test]
fn ready_and_server_info() {
    let (proxy, _origin) = used();
    let ready = proxy.admin_get("/ready");
    assert_eq!((ready.status, ready.text().trim()), (200, "LIVE"));
    let info = json_of(&proxy, "/server_info");
    assert_eq!(info["state"], "LIVE");
    assert_eq!(info["node"]["id"], "node-1");
    assert_eq!(info["command_line_options"]["mode"], "Serve");
    assert!(info["version"].as_str().unwrap().starts_with("outrigger/"), "{info}");
    assert!(info["uptime_current_epoch"].as_str().unwrap().ends_with('s'), "{info}");
    proxy.stop();
}

#[test]
fn stats_in_three_formats_and_filtered() {
    let (proxy, _origin) = used();
    let text = proxy.admin_get("/stats").text();
    assert!(text.lines().any(|line| line == "http.main.downstream_rq_2xx: 1"), "{text}");
    assert!(text.lines().any(|line| line == "cluster.origin.upstream_rq_200: 1"), "{text}");
    assert!(text.lines().any(|line| line == "server.live: 1"), "{text}");
    // Histograms come last.
    let is_number = |line: &&str| line.rsplit(' ').next().unwrap().parse::<u64>().is_ok();
    let numbers: Vec<&str> = text.lines().take_while(is_number).collect();
    assert!(numbers.len() > 100 && numbers.is_sorted(), "{text}");

    let some = proxy.admin_get("/stats?filter=%5Ehttp.main.downstream_rq_%5B0-9%5Dxx").text();
    assert_eq!(some.lines().count(), 5, "{some}");
    let used = proxy.admin_get("/stats?usedonly&filter=downstream_rq_%5B0-9%5Dxx").text();
    assert!(used.contains("_2xx: 1") && !used.contains("_5xx"), "{used}");
    assert_eq!(proxy.admin_get("/stats?filter=%28").status, 400);

    let all = json_of(&proxy, "/stats?format=json");
    let one = all["stats"].as_array().unwrap().iter();
    let one = one.filter(|stat| stat["name"] == "http.main.downstream_rq_total");
    assert_eq!(one.map(|stat| &stat["value"]).collect::<Vec<_>>(), [1]);
    proxy.stop();
}

/// What Istio's agent asks, to know whether the proxy is ready and whether it may end.
#[test]
fn b_14_the_questions_of_the_agent() {
    let (proxy, _origin) = used();
    let ask = |filter: &str| {
        let filter: String = filter.bytes().map(|byte| format!("%{byte:02x}")).collect();
        proxy.admin_get(&format!("/stats?usedonly&filter={filter}")).text()
    };
    let ready = ask("^(server\\.state|listener_manager\\.workers_started)");
    assert_eq!(ready, "listener_manager.workers_started: 1\nserver.state: 0\n");
    // Nothing is received without a control plane; the names are there.
    let received =
        ask("^(cluster_manager\\.cds|listener_manager\\.lds)\\.(update_success|update_rejected)$");
    assert_eq!(received, "");
    for name in ["cluster_manager.cds", "listener_manager.lds"] {
        assert_eq!(proxy.stat(&format!("{name}.update_success")), 0);
        assert_eq!(proxy.stat(&format!("{name}.update_rejected")), 0);
    }
    let client = proxy.client();
    let active = |expected: &str| {
        let line = format!("listener.127.0.0.1_0.downstream_cx_active: {expected}");
        eventually(&line, || {
            ask("downstream_cx_active$").lines().any(|known| known == line).then_some(())
        });
    };
    active("1");
    drop(client);
    // A zero that was reached is told.
    active("0");
    // Each line is split at its first colon.
    for line in proxy.admin_get("/stats").text().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        assert!(!name.contains(':') && !value.is_empty(), "{line}");
    }
    proxy.stop();
}

#[test]
fn prometheus_format_is_well_formed() {
    let (proxy, _origin) = used();
    let response = proxy.admin_get("/stats/prometheus");
    assert!(response.header("content-type").unwrap().starts_with("text/plain"));
    let text = response.text();
    let total = "envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"main\"} 1";
    assert!(text.lines().any(|line| line == total), "{text}");
    let cluster = "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"origin\"} 1";
    assert!(text.lines().any(|line| line == cluster), "{text}");
    let mut types = std::collections::HashSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(matches!(kind, "counter" | "gauge" | "histogram" | "summary"), "{line}");
            assert!(types.insert(name.to_owned()), "{name} has its type twice");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.split('{').next().unwrap();
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            assert!(name.chars().all(is_name), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(
                types.contains(name) || base.is_some_and(|base| types.contains(base)),
                "{line}"
            );
        }
    }
    proxy.stop();
}

#[test]
fn clusters_and_listeners() {
    let (proxy, origin) = used();
    let host = format!("origin::{}", origin.address());
    let text = proxy.admin_get("/clusters").text();
    for line in [
        "::rq_total::1",
        "::rq_success::1",
        "::health_flags::healthy",
        "::weight::1",
        "::cx_active::1",
    ] {
        let line = format!("{host}{line}");
        assert!(text.lines().any(|known| known == line), "{line}: {text}");
    }
    assert!(text.contains("origin::default_priority::max_connections::1024"), "{text}");
    let clusters = json_of(&proxy, "/clusters?format=json");
    assert_eq!(clusters["cluster_statuses"][0]["name"], "origin");
    let hosts = &clusters["cluster_statuses"][0]["host_statuses"];
    assert_eq!(hosts[0]["address"], origin.address().to_json());

    let text = proxy.admin_get("/listeners").text();
    assert_eq!(text.trim(), format!("main::{}", proxy.address()));
    let listeners = json_of(&proxy, "/listeners?format=json");
    assert_eq!(listeners["listener_statuses"][0]["local_address"], proxy.address().to_json());
    proxy.stop();
}

#[test]
fn config_dump_shows_what_is_served() {
    let (proxy, _origin) = used();
    let dump = json_of(&proxy, "/config_dump");
    let configs = dump["configs"].as_array().unwrap();
    let of = |kind: &str| {
        let kind = format!("type.googleapis.com/envoy.admin.v3.{kind}");
        configs.iter().find(|config| config["@type"] == kind.as_str()).unwrap()
    };
    assert_eq!(of("BootstrapConfigDump")["bootstrap"]["node"]["id"], "node-1");
    assert_eq!(of("ClustersConfigDump")["static_clusters"][0]["cluster"]["name"], "origin");
    assert_eq!(of("ListenersConfigDump")["static_listeners"][0]["listener"]["name"], "main");
    assert_eq!(of("RoutesConfigDump")["static_route_configs"][0]["route_config"]["name"], "routes");
    proxy.stop();
}

#[test]
fn log_levels_are_shown_and_changed() {
    let (proxy, _origin) = used();
    let levels = proxy.admin_get("/logging").text();
    assert!(levels.contains("admin: info"), "{levels}");
    let levels = proxy.admin_post("/logging?level=debug").text();
    assert!(levels.contains("admin: debug") && levels.contains("main: debug"), "{levels}");
    let levels = proxy.admin_post("/logging?admin=error").text();
    assert!(levels.contains("admin: error") && levels.contains("main: debug"), "{levels}");
    assert_eq!(proxy.admin_post("/logging?level=loud").status, 400);
    proxy.stop();
}

#[test]
fn memory_is_in_bytes() {
    let (proxy, _origin) = used();
    let memory = json_of(&proxy, "/memory");
    let allocated: u64 = memory["allocated"].as_str().unwrap().parse().unwrap();
    assert!((1 << 20..1 << 30).contains(&allocated), "{memory}");
    proxy.stop();
}

#[test]
fn other_pages_and_methods_are_refused() {
    let (proxy, _origin) = used();
    assert_eq!(proxy.admin_get("/nothing").status, 404);
    // What changes something is not done by reading.
    for page in ["/quitquitquit", "/drain_listeners", "/reset_counters", "/healthcheck/fail"] {
        assert_eq!(proxy.admin_get(page).status, 405, "{page}");
    }
    assert_eq!(proxy.client().get("/").status, 200);
    assert_eq!(proxy.admin_post("/reset_counters").status, 200);
    assert_eq!(proxy.stat("http.main.downstream_rq_total"), 0);
    let help = proxy.admin_get("/help").text();
    for page in ["/stats", "/clusters", "/config_dump", "/logging", "/quitquitquit"] {
        assert!(help.contains(page), "{page}: {help}");
    }
    proxy.stop();
}

#[test]
fn failing_health_checks_drain() {
    let (proxy, _origin) = used();
    assert_eq!(proxy.admin_post("/healthcheck/fail").status, 200);
    assert_eq!(proxy.admin_get("/ready").status, 503);
    assert_eq!(proxy.admin_post("/healthcheck/ok").status, 200);
    assert_eq!(proxy.admin_get("/ready").status, 200);
    assert_eq!(proxy.client().get("/").status, 200);
    proxy.stop();
}

#[test]
fn reading_statistics_disturbs_no_request() {
    let origin = outrigger_tests::load::FastOrigin::start();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let load =
        outrigger_tests::load::Load { connections: 8, requests: None }.start(proxy.address());
    load.wait_for_more(500);
    for _ in 0..50 {
        assert!(proxy.stat("http.main.downstream_rq_total") > 0);
    }
    let outcome = load.stop();
    let total = outcome.statuses.values().sum();
    assert!(outcome.is_only(200, total), "{outcome:?}");
    assert_eq!(proxy.stat("http.main.downstream_rq_2xx"), total);
    proxy.stop();
}
