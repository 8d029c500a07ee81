//! The admin interface over real sockets, beside what Envoy 1.40 answers to the same requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use outrigger_xds::bootstrap::{Admin, LoadOptions, Loaded, Source, load};
use outrigger_xds::snapshot::{Address, StringMatcher};
use outrigger_xds::source::Format;
use serde_json::{Value, json};

use crate::access_log::LogWriter;
use crate::cli::Invocation;
use crate::control::{BoundListener, Command, Control, ControlOptions, ControlState, Lifecycle};
use crate::stats::Registry;
use crate::stats::registry::HostAddress;

const BOOTSTRAP: &str = r#"
node: {id: n1, cluster: c1}
layered_runtime:
  layers:
  - {name: base, static_layer: {a.share: 10, b: {c: text}}}
  - {name: admin, admin_layer: {}}
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: 19000}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          route_config:
            name: table
            virtual_hosts:
            - {name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: app}}]}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: app
    type: STATIC
    load_assignment:
      cluster_name: app
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 19002}}}}]}]
"#;

/// A control thread with an admin interface, and what the server loop would hold.
struct Rig {
    state: Arc<ControlState>,
    commands: Receiver<Command>,
    control: Option<Control>,
    address: Address,
    // Outlives the control thread, which may ask it to reopen logs.
    _writer: LogWriter,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(&["outrigger"], Address::Ip("127.0.0.1:0".parse().unwrap()))
    }

    fn with(arguments: &[&str], admin: Address) -> Rig {
        Rig::of(arguments, Admin::at(admin))
    }

    fn of(arguments: &[&str], admin: Admin) -> Rig {
        let registry = Arc::new(Registry::new(2));
        // Room for more than a test writes: what does not fit is dropped.
        let writer = LogWriter::start("test", 16, Arc::default(), Arc::default()).unwrap();
        let process = Invocation::parse_from(arguments).unwrap().process().clone();
        let (state, commands) = ControlState::new(registry, process, vec![writer.queue()]);
        let options =
            ControlOptions { admin: Some(admin), signals: false, ..ControlOptions::idle(&state) };
        let control = Control::start(Arc::clone(&state), options).unwrap();
        let address = control.admin_address().unwrap().clone();
        Rig { state, commands, control: Some(control), address, _writer: writer }
    }

    fn load(&self) -> Loaded {
        let source = Source::text("test", BOOTSTRAP, Format::Yaml);
        let loaded = load(&source, &LoadOptions::default()).unwrap();
        self.state.set_bootstrap(&loaded.config_dump);
        self.state.set_node(loaded.node.clone());
        self.state.set_snapshot(Arc::new(loaded.snapshot.clone()));
        self.state.set_runtime(loaded.ground.runtime_layers());
        loaded
    }

    fn port(&self) -> SocketAddr {
        self.address.ip().unwrap()
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path)
    }

    fn post(&self, path: &str) -> Answer {
        self.ask("POST", path)
    }

    fn ask(&self, method: &str, path: &str) -> Answer {
        let stream = TcpStream::connect(self.port()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        exchange(stream, method, path)
    }

    fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        serde_json::from_str(&answer.body).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let stopped = self.control.take().unwrap().stop(TIMEOUT);
        assert!(stopped || std::thread::panicking(), "the control thread ends when told to");
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str) -> Answer {
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

#[test]
fn ready_follows_the_life_of_the_process() {
    let rig = Rig::new();
    for (lifecycle, status, body) in [
        (Lifecycle::PreInitializing, 503, "PRE_INITIALIZING\n"),
        (Lifecycle::Initializing, 503, "INITIALIZING\n"),
        (Lifecycle::Live, 200, "LIVE\n"),
        (Lifecycle::Draining, 503, "DRAINING\n"),
    ] {
        rig.state.set_lifecycle(lifecycle);
        let answer = rig.get("/ready");
        assert_eq!((answer.status, answer.body.as_str()), (status, body));
        assert_eq!(answer.header("content-type"), "text/plain; charset=UTF-8");
        assert_eq!(answer.header("cache-control"), "no-cache, max-age=0");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

#[test]
fn failing_health_checks_is_draining() {
    let rig = Rig::new();
    rig.state.set_lifecycle(Lifecycle::Live);
    assert_eq!(rig.post("/healthcheck/fail").body, "OK\n");
    assert_eq!(rig.commands.try_recv(), Ok(Command::HealthCheck { failing: true }));
    assert_eq!(rig.get("/ready").body, "DRAINING\n");
    assert_eq!(rig.json("/server_info")["state"], "DRAINING");
    assert_eq!(rig.post("/healthcheck/ok").body, "OK\n");
    assert_eq!(rig.commands.try_recv(), Ok(Command::HealthCheck { failing: false }));
    assert_eq!(rig.get("/ready").body, "LIVE\n");
}

#[test]
fn what_changes_something_needs_post() {
    let rig = Rig::new();
    for path in [
        "/drain_listeners",
        "/healthcheck/fail",
        "/healthcheck/ok",
        "/logging?level=info",
        "/quitquitquit",
        "/reopen_logs",
        "/reset_counters",
        "/runtime_modify?a=1",
    ] {
        let answer = rig.get(path);
        assert_eq!(answer.status, 405, "{path}");
        assert_eq!(answer.body, "Method GET not allowed, POST required.");
    }
    assert!(rig.commands.is_empty());
}

#[test]
fn commands_reach_the_server_loop() {
    let rig = Rig::new();
    assert_eq!(rig.post("/drain_listeners").body, "OK\n");
    assert_eq!(rig.post("/drain_listeners?graceful&inboundonly").body, "OK\n");
    assert_eq!(rig.post("/drain_listeners?graceful&skip_exit").body, "OK\n");
    assert_eq!(rig.post("/drain_listeners?skip_exit").status, 400);
    assert_eq!(rig.post("/quitquitquit").body, "OK\n");
    assert_eq!(rig.post("/reopen_logs").body, "OK\n");
    let commands: Vec<_> = rig.commands.try_iter().collect();
    let drain = |graceful, inbound_only, skip_exit| Command::DrainListeners {
        graceful,
        inbound_only,
        skip_exit,
    };
    assert_eq!(
        commands,
        [
            drain(false, false, false),
            drain(true, true, false),
            drain(true, false, true),
            Command::Quit
        ]
    );
}

#[test]
fn a_server_that_takes_no_commands_is_told_of() {
    let rig = Rig::new();
    while rig.state.command(Command::Quit).is_ok() {}
    let answer = rig.post("/quitquitquit");
    assert_eq!((answer.status, answer.body.as_str()), (503, "the server is not taking commands\n"));
}

#[test]
fn stats_in_all_formats() {
    let rig = Rig::new();
    let registry = rig.state.registry();
    for shard in 0..2 {
        let cluster = registry.cluster(shard, "app");
        cluster.upstream_rq_total.add(2);
        cluster.response(200);
        cluster.upstream_rq_time.record(3);
    }
    registry.http(0, "ingress").downstream_cx_active.inc();
    rig.state.set_lifecycle(Lifecycle::Live);

    let text = rig.get("/stats");
    assert_eq!(text.header("content-type"), "text/plain; charset=UTF-8");
    for line in [
        "cluster.app.upstream_rq_200: 2",
        "cluster.app.upstream_rq_total: 4",
        "http.ingress.downstream_cx_active: 1",
        "server.concurrency: 2",
        "server.live: 1",
        "server.state: 0",
        "cluster.app.upstream_rq_time: P0(nan,3) P25(nan,3) P50(nan,3) P75(nan,3) P90(nan,3) \
         P95(nan,3) P99(nan,3) P99.5(nan,3) P99.9(nan,3) P100(nan,3)",
        "cluster.app.upstream_cx_connect_ms: No recorded values",
    ] {
        assert!(text.body.lines().any(|known| known == line), "{line}");
    }
    let used = rig.get("/stats?usedonly&filter=%5Ecluster&type=Counters").body;
    assert!(used.lines().all(|line| line.starts_with("cluster.app.") && !line.ends_with(": 0")));
    assert_eq!(used.lines().count(), 4, "{used}");

    let json = rig.json("/stats?format=json&filter=upstream_rq_t");
    assert_eq!(json["stats"][1], json!({"name": "cluster.app.upstream_rq_total", "value": 4}));

    for path in ["/stats/prometheus", "/stats?format=prometheus"] {
        let prometheus = rig.get(path);
        assert_eq!(prometheus.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        let line = "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"app\"} 4";
        assert!(prometheus.body.lines().any(|known| known == line));
    }

    assert_eq!(rig.post("/reset_counters").body, "OK\n");
    let after = rig.get("/stats?filter=upstream_rq_total").body;
    assert_eq!(after, "cluster.app.upstream_rq_total: 0\n");
}

#[test]
fn stats_parameters_are_checked() {
    let rig = Rig::new();
    for path in [
        "/stats?filter=((",
        "/stats?format=xml",
        "/stats?type=Text",
        "/stats?histogram_buckets=cumulative",
        "/stats/prometheus?filter=%5B",
        "/clusters?format=xml",
        "/clusters?filter=(",
        "/listeners?format=xml",
    ] {
        assert_eq!(rig.get(path).status, 400, "{path}");
    }
}

#[test]
fn stats_tags_of_the_command_line_are_labels() {
    let arguments = ["outrigger", "--stats-tag", "zone:a b"];
    let rig = Rig::with(&arguments, Address::Ip("127.0.0.1:0".parse().unwrap()));
    let body = rig.get("/stats/prometheus?filter=server.live").body;
    assert_eq!(body, "# TYPE envoy_server_live gauge\nenvoy_server_live{zone=\"a b\"} 0\n");
}

#[test]
fn clusters_as_envoy_prints_them() {
    let rig = Rig::new();
    rig.load();
    let address = HostAddress::Ip("127.0.0.1:19002".parse().unwrap());
    let hosts = [0, 1].map(|shard| rig.state.registry().host(shard, "app", &address));
    hosts[0].cx_total.add(3);
    hosts[1].cx_total.add(1);
    hosts[1].cx_active.inc();
    let expected = "\
app::observability_name::app
app::default_priority::max_connections::1024
app::default_priority::max_pending_requests::1024
app::default_priority::max_requests::1024
app::default_priority::max_retries::3
app::added_via_api::false
app::127.0.0.1:19002::cx_active::1
app::127.0.0.1:19002::cx_connect_fail::0
app::127.0.0.1:19002::cx_total::4
app::127.0.0.1:19002::rq_active::0
app::127.0.0.1:19002::rq_error::0
app::127.0.0.1:19002::rq_pending_active::0
app::127.0.0.1:19002::rq_success::0
app::127.0.0.1:19002::rq_timeout::0
app::127.0.0.1:19002::rq_total::0
app::127.0.0.1:19002::hostname::
app::127.0.0.1:19002::health_flags::healthy
app::127.0.0.1:19002::weight::1
app::127.0.0.1:19002::region::
app::127.0.0.1:19002::zone::
app::127.0.0.1:19002::sub_zone::
app::127.0.0.1:19002::canary::false
app::127.0.0.1:19002::priority::0
app::127.0.0.1:19002::success_rate::-1
app::127.0.0.1:19002::local_origin_success_rate::-1
";
    assert_eq!(rig.get("/clusters").body, expected);
    assert_eq!(rig.get("/clusters?filter=other").body, "");
    let json = rig.json("/clusters?format=json");
    let status = &json["cluster_statuses"][0];
    assert_eq!(status["name"], "app");
    assert_eq!(status["circuit_breakers"]["thresholds"][0]["max_retries"], 3);
    let host = &status["host_statuses"][0];
    assert_eq!(
        host["address"]["socket_address"],
        json!({"address": "127.0.0.1", "port_value": 19002})
    );
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    let stats = host["stats"].as_array().unwrap();
    assert!(stats.contains(&json!({"value": "4", "name": "cx_total"})));
    assert!(stats.contains(&json!({"name": "cx_connect_fail"})));
    assert!(stats.contains(&json!({"type": "GAUGE", "value": "1", "name": "cx_active"})));
    let membership = rig.get("/stats?filter=membership_(total|healthy)").body;
    assert_eq!(membership, "cluster.app.membership_healthy: 1\ncluster.app.membership_total: 1\n");
}

#[test]
fn listeners_as_envoy_prints_them() {
    let rig = Rig::new();
    assert_eq!(rig.get("/listeners").body, "");
    rig.state.set_listeners(vec![
        BoundListener {
            name: "web".to_owned(),
            addresses: vec![Address::Ip("127.0.0.1:19000".parse().unwrap())],
        },
        BoundListener {
            name: "local".to_owned(),
            addresses: vec![Address::Unix(std::path::Path::new("/run/in.sock").into())],
        },
    ]);
    assert_eq!(rig.get("/listeners").body, "web::127.0.0.1:19000\nlocal::/run/in.sock\n");
    let web = json!({"name": "web", "local_address": {"socket_address": {
        "address": "127.0.0.1", "port_value": 19000,
    }}});
    let local = json!({"name": "local", "local_address": {"pipe": {"path": "/run/in.sock"}}});
    assert_eq!(rig.json("/listeners?format=json"), json!({"listener_statuses": [web, local]}));
}

#[test]
fn server_info_has_envoys_fields() {
    let arguments =
        ["outrigger", "-c", "e.yaml", "--concurrency", "9", "--file-flush-interval-msec", "500"];
    let rig = Rig::with(&arguments, Address::Ip("127.0.0.1:0".parse().unwrap()));
    rig.load();
    rig.state.set_lifecycle(Lifecycle::Live);
    let info = rig.json("/server_info");
    assert_eq!(info["state"], "LIVE");
    assert_eq!(info["hot_restart_version"], "disabled");
    assert_eq!(info["version"].as_str().unwrap().split('/').count(), 5);
    assert!(info["uptime_current_epoch"].as_str().unwrap().ends_with('s'));
    assert!(info["uptime_all_epochs"].is_string());
    let options = &info["command_line_options"];
    assert_eq!(options["config_path"], "e.yaml");
    assert_eq!(options["concurrency"], 2, "the shards that run");
    assert_eq!(options["file_flush_interval"], "0.500s");
    assert_eq!(options["drain_time"], "600s");
    assert_eq!(options["mode"], "Serve");
    assert_eq!((&info["node"]["id"], &info["node"]["cluster"]), (&json!("n1"), &json!("c1")));
}

#[test]
fn config_dump_has_envoys_sections() {
    let rig = Rig::new();
    assert_eq!(rig.json("/config_dump"), json!({"configs": []}));
    rig.load();
    let dump = rig.json("/config_dump");
    let types: Vec<_> =
        dump["configs"].as_array().unwrap().iter().map(|config| &config["@type"]).collect();
    let expected = ["Bootstrap", "Clusters", "Listeners", "Routes", "ScopedRoutes", "Secrets"]
        .map(|kind| format!("type.googleapis.com/envoy.admin.v3.{kind}ConfigDump"));
    assert_eq!(types, expected.iter().collect::<Vec<_>>());
    assert_eq!(dump["configs"][0]["bootstrap"]["node"]["id"], "n1");
    let cluster = &dump["configs"][1]["static_clusters"][0]["cluster"];
    assert_eq!(cluster["@type"], "type.googleapis.com/envoy.config.cluster.v3.Cluster");
    assert_eq!(cluster["name"], "app");
    assert_eq!(dump["configs"][2]["static_listeners"][0]["listener"]["name"], "web");
    assert_eq!(dump["configs"][3]["static_route_configs"][0]["route_config"]["name"], "table");
}

#[test]
fn config_dump_may_be_narrowed() {
    let rig = Rig::new();
    rig.load();
    let dump = rig.json("/config_dump?resource=static_clusters&mask=cluster.name,cluster.type");
    let expected = json!({"cluster": {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": "app", "type": "STATIC"}});
    assert_eq!(dump, json!({"configs": [expected]}));
    assert_eq!(rig.get("/config_dump?resource=nothing").status, 400);
    let none = rig.json("/config_dump?resource=static_clusters&name_regex=other");
    assert_eq!(none, json!({"configs": []}));
}

#[test]
fn runtime_values_are_shown_and_changed() {
    let rig = Rig::new();
    assert_eq!(rig.post("/runtime_modify?a=1").status, 503);
    rig.load();
    let share =
        |layers: [&str; 2], last: &str| json!({"layer_values": layers, "final_value": last});
    let text = share(["text", ""], "text");
    let runtime = rig.json("/runtime");
    assert_eq!(runtime["layers"], json!(["base", "admin"]));
    assert_eq!(runtime["entries"], json!({"a.share": share(["10", ""], "10"), "b.c": text}));
    assert_eq!(rig.post("/runtime_modify?a.share=20&new=x").body, "OK\n");
    let changed = &rig.json("/runtime")["entries"];
    assert_eq!(changed["a.share"], share(["10", "20"], "20"));
    assert_eq!(changed["new"], share(["", "x"], "x"));
    assert_eq!(rig.post("/runtime_modify?a.share=&new=").status, 200);
    assert_eq!(rig.json("/runtime")["entries"], runtime["entries"]);
    assert_eq!(rig.post("/runtime_modify").status, 400);
}

#[test]
fn section_1_paths_may_be_allowed() {
    let exact = |text: &[u8]| StringMatcher::Exact { text: text.into(), ignore_case: false };
    let mut admin = Admin::at(Address::Ip("127.0.0.1:0".parse().unwrap()));
    admin.allow_paths = Box::new([exact(b"/memory"), exact(b"/stats?usedonly")]);
    let rig = Rig::of(&["outrigger"], admin);
    for (path, status) in
        [("/memory", 200), ("/stats?usedonly", 200), ("/stats", 403), ("/", 403), ("/nope", 403)]
    {
        assert_eq!(rig.get(path).status, status, "{path}");
    }
    assert_eq!(rig.post("/quitquitquit").body, "request to path /quitquitquit not allowed");
    assert!(rig.commands.is_empty());
}

#[test]
fn section_1_requests_are_logged() {
    let path = std::env::temp_dir().join(format!("outrigger-admin-{}.log", std::process::id()));
    let text = format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, \
         access_log: [{{name: file, typed_config: {{'@type': type.googleapis.com/\
         envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: \
         {{text_format: \"%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %BYTES_SENT%\\n\"}}}}}}]}}",
        path.display()
    );
    let loaded = load(&Source::text("test", text, Format::Yaml), &LoadOptions::default()).unwrap();
    let rig = Rig::of(&["outrigger"], loaded.admin.unwrap());
    assert_eq!(rig.get("/hot_restart_version?x=1").status, 200);
    assert_eq!(rig.get("/nope").status, 404);
    let deadline = std::time::Instant::now() + TIMEOUT;
    let lines = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if text.lines().count() == 2 {
            break text;
        }
        assert!(std::time::Instant::now() < deadline, "{text}");
        std::thread::yield_now();
    };
    assert!(lines.starts_with("GET /hot_restart_version?x=1 200 8\nGET /nope 404 "), "{lines}");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn small_pages() {
    let rig = Rig::new();
    assert_eq!(rig.json("/certs"), json!({"certificates": []}));
    assert_eq!(rig.json("/runtime"), json!({"layers": [], "entries": {}}));
    assert_eq!(rig.get("/hot_restart_version").body, "disabled");
    let memory = rig.json("/memory");
    for field in [
        "allocated",
        "heap_size",
        "pageheap_unmapped",
        "pageheap_free",
        "total_thread_cache",
        "total_physical_bytes",
    ] {
        assert!(memory[field].as_str().unwrap().parse::<u64>().is_ok(), "{field}");
    }
    let help = rig.get("/help").body;
    assert!(help.starts_with("admin commands are:\n  /: Admin home page\n"));
    assert!(help.contains("  /quitquitquit (POST): exit the server\n"));
    let home = rig.get("/");
    assert_eq!(home.header("content-type"), "text/html; charset=UTF-8");
    assert!(home.body.contains("<a href='stats/prometheus'>"));
    assert!(home.body.contains("<form action='drain_listeners' method='post'>"));
    let nowhere = rig.get("/nope");
    assert_eq!(nowhere.status, 404);
    assert!(nowhere.body.starts_with("invalid path. admin commands are:\n"));
    let head = rig.ask("HEAD", "/ready");
    assert_eq!((head.status, head.body.as_str()), (503, ""));
}

#[test]
fn logging_levels_are_listed_and_wrong_ones_change_nothing() {
    let rig = Rig::new();
    let listed = rig.get("/logging").body;
    assert!(listed.starts_with("active loggers:\n  access_log: "));
    for query in ["nope=info", "dns=loud", "level=loud", "paths=dns:debug,nope:info", "paths=dns"] {
        let answer = rig.post(&format!("/logging?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.body.starts_with("error: "), "{}", answer.body);
    }
}

#[test]
fn unix_sockets_of_both_kinds() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr as UnixAddr;

    let path = std::env::temp_dir().join(format!("outrigger-admin-{}.sock", std::process::id()));
    // What a process that was killed leaves behind is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let rig = Rig::with(&["outrigger"], Address::Unix(path.as_path().into()));
    let answer = exchange(UnixStream::connect(&path).unwrap(), "GET", "/ready");
    assert_eq!(answer.status, 503);
    drop(rig);
    std::fs::remove_file(&path).unwrap();

    let name = format!("outrigger-admin-{}", std::process::id()).into_bytes();
    let rig = Rig::with(&["outrigger"], Address::UnixAbstract(name.clone().into()));
    let address = UnixAddr::from_abstract_name(&name).unwrap();
    let answer = exchange(UnixStream::connect_addr(&address).unwrap(), "GET", "/ready");
    assert_eq!(answer.status, 503);
    drop(rig);
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Ip(taken.local_addr().unwrap());
    let registry = Arc::new(Registry::new(1));
    let process = Invocation::parse_from(["outrigger"]).unwrap().process().clone();
    let (state, _commands) = ControlState::new(registry, process, Vec::new());
    let options = ControlOptions {
        admin: Some(Admin::at(address.clone())),
        signals: false,
        ..ControlOptions::idle(&state)
    };
    let error = Control::start(state, options).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot bind the admin interface to {address}: ")),
        "{error}"
    );
}

#[test]
fn the_admin_address_is_written_where_it_is_wanted() {
    let path = std::env::temp_dir().join(format!("outrigger-address-{}", std::process::id()));
    let arguments = ["outrigger", "--admin-address-path", path.to_str().unwrap()];
    let rig = Rig::with(&arguments, Address::Ip("127.0.0.1:0".parse().unwrap()));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), rig.address.to_string());
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let rig = Rig::new();
    let mut stream = TcpStream::connect(rig.port()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let long = "a".repeat(super::HEAD_BYTES_MAX);
    // The server may close before all of it is written.
    let _ = write!(stream, "GET /{long} HTTP/1.1\r\n");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
    assert_eq!(rig.get("/ready").status, 503, "others are served");
}

#[test]
fn more_connections_than_the_bound_wait_and_are_served() {
    let rig = Rig::new();
    let idle: Vec<_> =
        (0..super::CONNECTIONS_MAX).map(|_| TcpStream::connect(rig.port()).unwrap()).collect();
    let mut waiting = TcpStream::connect(rig.port()).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    write!(waiting, "GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut byte = [0];
    assert!(waiting.read(&mut byte).is_err(), "nobody has been accepted beyond the bound");
    drop(idle);
    waiting.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"));
}
