//! The binary as supervisors and people call it.

use std::fs;
use std::process::{Command, Output};

use outrigger_tests::process::{Limits, Process, Scratch, run};
use outrigger_tests::{Address, Client, Config, Launch, Origin, Proxy, binary, eventually};
use serde_json::json;

fn outrigger(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary::outrigger());
    command.args(arguments);
    run(command)
}

/// Validates a configuration; returns success and what was said.
fn validate(text: &str, more: &[&str]) -> (bool, String) {
    let scratch = Scratch::new();
    let file = scratch.file("bootstrap.yaml");
    fs::write(&file, text).unwrap();
    let mut arguments = vec!["--mode", "validate", "-c", file.to_str().unwrap()];
    arguments.extend_from_slice(more);
    let output = outrigger(&arguments);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn refused(config: &Config) -> String {
    let (valid, said) = validate(&config.json().to_string(), &[]);
    assert!(!valid, "accepted: {said}");
    said
}

fn some_config() -> Config {
    Config::to(&Address::port(1))
}

#[test]
fn validate_accepts_what_can_be_served() {
    let (valid, said) = validate(&some_config().json().to_string(), &[]);
    assert!(valid && said.contains("OK"), "{said}");
}

#[test]
fn validate_names_the_path_of_what_is_not_supported() {
    let said = refused(&some_config().tune_route(json!({"route": {"hash_policy": [{}]}})));
    let path = "filter_chains[0].filters[0].typed_config(HttpConnectionManager).route_config.\
                virtual_hosts[0].routes[0].route.hash_policy";
    assert!(said.contains("Listener main") && said.contains(path), "{said}");
    assert!(said.contains("not supported"), "{said}");

    let said = refused(&some_config().tune_cluster(json!({"outlier_detection": {}})));
    assert!(said.contains("Cluster origin") && said.contains("outlier_detection"), "{said}");

    let said = refused(&some_config().http(json!({"http_filters": [{
        "name": "wasm",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"},
    }]})));
    assert!(said.contains("http_filters[0]") && said.contains("Wasm"), "{said}");
}

#[test]
fn validate_reports_everything_at_once() {
    let said = refused(
        &some_config()
            .tune_route(json!({"route": {"hash_policy": [{}]}}))
            .tune_cluster(json!({"outlier_detection": {}})),
    );
    assert!(said.contains("hash_policy") && said.contains("outlier_detection"), "{said}");
}

#[test]
fn validate_says_where_a_typing_error_is() {
    let text = some_config().json().to_string().replace("\"stat_prefix\"", "\"stat_prefx\"");
    let (valid, said) = validate(&text, &[]);
    assert!(!valid && said.contains("stat_prefx"), "{said}");
    assert!(said.contains("stat_prefix"), "no suggestion: {said}");

    let yaml = "admin:\n  address: { socket_address: { address: 127.0.0.1, port_value: 0 } }\nstatic_resourcs: {}\n";
    let (valid, said) = validate(yaml, &[]);
    assert!(!valid && said.contains("static_resourcs") && said.contains('3'), "{said}");
    let (valid, said) = validate(yaml, &["--allow-unknown-static-fields"]);
    assert!(valid && said.contains("static_resourcs"), "{said}");

    let (valid, said) = validate("admin: [\n", &[]);
    assert!(!valid && said.contains("bootstrap.yaml"), "{said}");
}

#[test]
fn validate_checks_what_fields_say_of_each_other() {
    let said = refused(&some_config().tune_route(json!({"route": {"cluster": "nowhere"}})));
    assert!(said.contains("nowhere"), "{said}");
    let said = refused(
        &some_config()
            .tune_route(json!({"match": {"prefix": null, "safe_regex": {"regex": "(?=a)"}}})),
    );
    assert!(said.contains("safe_regex"), "{said}");
    let said = refused(&some_config().engine(json!({"buffer_bytes": 5000})));
    assert!(said.contains("engine.buffer_bytes"), "{said}");
    let said = refused(&some_config().engine(json!({"bufer_bytes": 8192})));
    assert!(said.contains("bufer_bytes"), "{said}");
}

#[test]
fn a_bad_configuration_is_not_served() {
    let scratch = Scratch::new();
    let file = scratch.file("bootstrap.json");
    fs::write(
        &file,
        some_config().tune_cluster(json!({"eds_cluster_config": {}})).json().to_string(),
    )
    .unwrap();
    let output = outrigger(&["-c", file.to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("eds_cluster_config"));
    let output = outrigger(&["-c", "/nonexistent/bootstrap.yaml"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/bootstrap.yaml"));
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = Address::Tcp(taken.local_addr().unwrap());
    let config = some_config().listener(json!({"address": address.to_json()}));
    let scratch = Scratch::new();
    let file = scratch.file("bootstrap.json");
    fs::write(&file, config.json().to_string()).unwrap();
    let output = outrigger(&["-c", file.to_str().unwrap()]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&address.to_string()), "{said}");
}

#[test]
fn supervisors_options_are_accepted() {
    let origin = Origin::ok();
    let proxy = Launch::outrigger(&Config::to(origin.address()))
        .arguments(&[
            "--drain-time-s",
            "5",
            "--drain-strategy",
            "immediate",
            "--parent-shutdown-time-s",
            "6",
            "--local-address-ip-version",
            "v4",
            "--file-flush-interval-msec",
            "1000",
            "--disable-hot-restart",
            "--allow-unknown-static-fields",
            "--service-cluster",
            "cluster",
            "--service-node",
            "node",
            "--base-id",
            "7",
            "--log-level",
            "warning",
            "--component-log-level",
            "main:debug",
            "--restart-epoch",
            "0",
        ])
        .start();
    assert_eq!(proxy.client().get("/").status, 200);
    let info: serde_json::Value =
        serde_json::from_str(&proxy.admin_get("/server_info").text()).unwrap();
    assert_eq!(info["node"]["id"], "node");
    assert_eq!(info["node"]["cluster"], "cluster");
    assert_eq!(info["command_line_options"]["concurrency"], 1);
    assert_eq!(info["command_line_options"]["base_id"], "7");
    proxy.stop();
}

#[test]
fn config_yaml_is_merged_over_the_file() {
    let origin = Origin::ok();
    let config = Config::to(origin.address());
    let node = "{node: {id: from-the-argument}, engine: {shards: 1}}";
    let proxy = Launch::outrigger(&config).arguments(&["--config-yaml", node]).start();
    let info = proxy.admin_get("/server_info").text();
    assert!(info.contains("from-the-argument"), "{info}");
    assert_eq!(proxy.client().get("/").status, 200);
    proxy.stop();
    // And is enough by itself.
    let text = config.json().to_string();
    let proxy = Launch::bare().arguments(&["--config-yaml", &text]).shards(1).start();
    assert_eq!(proxy.client().get("/").status, 200);
    proxy.stop();
}

#[test]
fn listen_and_upstream_need_no_file() {
    let origin = Origin::ok();
    let proxy = Launch::bare()
        .arguments(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .arguments(&["--upstream", &origin.address().to_string()])
        .shards(1)
        .start();
    assert_eq!(proxy.client().get("/path").text(), "ok");
    assert_eq!(origin.only_request().target, "/path");
    proxy.stop();
}

#[test]
fn unix_sockets_serve_on_both_sides() {
    let scratch = Scratch::new();
    let (front, back) = (scratch.file("front"), scratch.file("back"));
    let origin = Origin::start_on(&Address::Unix(back), |peer| {
        peer.answer_all(outrigger_tests::origin::OK.as_bytes())
    });
    let front = Address::Unix(front);
    let proxy = Launch::bare()
        .arguments(&["--listen", &front.to_string(), "--upstream", &origin.address().to_string()])
        .arguments(&["--admin", "127.0.0.1:0"])
        .shards(2)
        .start();
    assert_eq!(proxy.address(), &front);
    let mut clients: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    for client in &mut clients {
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "ok");
        }
    }
    assert_eq!(origin.log().requests.len(), 24);
    drop(clients);
    proxy.stop();
}

#[test]
fn several_listeners_and_tcp_proxies_serve_side_by_side() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).raw_listener(json!({
        "name": "tcp",
        "address": Address::any().to_json(),
        "filter_chains": [{"filters": [{
            "name": "tcp",
            "typed_config": {
                "@type": outrigger_tests::config::TCP_PROXY,
                "stat_prefix": "tcp",
                "cluster": "origin",
            },
        }]}],
    }));
    let proxy = Proxy::start(&config);
    assert_eq!(proxy.client().get("/http").status, 200);
    let mut client = Client::connect(proxy.listener("tcp"));
    assert_eq!(client.get("/tcp").status, 200);
    // Nothing is added to what is no HTTP here.
    let request = origin.nth_request(2);
    assert_eq!(request.raw, b"GET /tcp HTTP/1.1\r\nHost: test\r\n\r\n");
    client.finish();
    client.expect_close();
    proxy.expect_stat("tcp.tcp.downstream_cx_total", 1);
    proxy.stop();
}

#[test]
fn the_engine_section_is_obeyed() {
    let origin = Origin::echo();
    let config = Config::to(origin.address()).engine(json!({
        "shards": 2, "linger_us": 0, "spin_us": 10, "buffer_bytes": 4096, "buffers": 8,
        "buffers_max": 16, "ring_entries": 64,
    }));
    let scratch = Scratch::new();
    let file = scratch.file("bootstrap.json");
    fs::write(&file, config.json().to_string()).unwrap();
    let proxy = Launch::bare().arguments(&["-c", file.to_str().unwrap()]).start();
    assert_eq!(proxy.stat("server.concurrency"), 2);
    // Few and small buffers make it slower, nothing else.
    let body = crate::basics::pattern(3_000_000);
    let mut clients: Vec<Client> = (0..40).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
    }
    let body = &body;
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(move || {
                // Sent and read at once: an echo that nobody reads holds the sender back.
                let mut stream = client.stream().try_clone().unwrap();
                let sender = scope.spawn(move || std::io::Write::write_all(&mut stream, body));
                assert!(client.response().body == *body, "the body changed");
                sender.join().unwrap().unwrap();
            });
        }
    });
    drop(clients);
    proxy.stop();
}

#[test]
fn help_and_version_are_printed() {
    let output = outrigger(&["--version"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("outrigger "));
    let output = outrigger(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for option in
        ["--config-path", "--config-yaml", "--mode", "--listen", "--upstream", "--drain-time-s"]
    {
        assert!(text.contains(option), "{option}: {text}");
    }
    assert!(!outrigger(&["--no-such-option"]).status.success());
}

/// How to run a program that wants fixed ports: in a network of its own, if the system lets us.
fn isolation() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] = [&["-n"], &["-rn"]];
    ways.into_iter().find(|way| {
        let mut probe = Command::new("unshare");
        probe.args(*way).args(["ip", "link", "set", "lo", "up"]);
        run_quietly(probe)
    })
}

fn run_quietly(mut command: Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

#[test]
#[ignore = "needs curl, which .ci/run installs"]
fn without_arguments_it_demonstrates_itself() {
    let isolation = isolation();
    let command = match isolation {
        Some(way) => {
            let mut command = Command::new("unshare");
            command.args(way).args(["sh", "-c", "ip link set lo up && exec \"$0\""]);
            command.arg(binary::outrigger());
            command
        }
        None => Command::new(binary::outrigger()),
    };
    let mut demo = Process::spawn(command, Limits::default()).unwrap();
    let pid = demo.pid().to_string();
    let curl = |url: &str| {
        let mut command = match isolation {
            Some(way) => {
                let mut command = Command::new("nsenter");
                command.args(["--target", &pid, "--net"]);
                if way.contains(&"-rn") {
                    command.args(["--user", "--preserve-credentials"]);
                }
                command.arg("curl");
                command
            }
            None => Command::new("curl"),
        };
        command.args(["--silent", "--fail", "--max-time", "10", url]);
        let output = command.output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let hello = eventually("the demonstration", || {
        assert!(demo.ended().is_none(), "{}", demo.stderr());
        curl("http://127.0.0.1:10000/")
    });
    assert!(hello.contains("Outrigger"), "{hello}");
    let seen = curl("http://127.0.0.1:10000/headers").unwrap();
    assert!(seen.to_lowercase().contains("x-request-id"), "{seen}");
    assert!(curl("http://127.0.0.1:10000/status/503").is_none());
    assert_eq!(curl("http://127.0.0.1:9901/ready").as_deref().map(str::trim), Some("LIVE"));
    let said = demo.stdout();
    for hint in ["curl", "127.0.0.1:10000", "127.0.0.1:9901"] {
        assert!(said.contains(hint), "{hint}: {said}");
    }
    demo.signal(libc::SIGTERM);
    let status = demo.wait(outrigger_tests::PATIENCE).expect("the demonstration does not end");
    assert_eq!(status.code(), Some(0), "{}", demo.stderr());
}
