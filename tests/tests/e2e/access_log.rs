//! Lines of the access log: exact, complete, and never in the way of a request.

use std::fs;
use std::path::Path;

use outrigger_tests::config::FILE_ACCESS_LOG;
use outrigger_tests::origin::{OK, refusing};
use outrigger_tests::process::Scratch;
use outrigger_tests::{Config, Launch, Origin, Proxy, eventually};
use serde_json::{Value, json};

/// A log to `path` with that format.
fn log(path: &Path, format: Value) -> Value {
    let mut config = json!({"@type": FILE_ACCESS_LOG, "path": path});
    if !format.is_null() {
        config["log_format"] = format;
    }
    json!({"access_log": [{"name": "file", "typed_config": config}]})
}

fn text_format(format: &str) -> Value {
    json!({"text_format_source": {"inline_string": format}})
}

fn start(config: &Config) -> Proxy {
    Launch::outrigger(config).arguments(&["--file-flush-interval-msec", "20"]).start()
}

/// The lines of a file, once there are so many.
#[track_caller]
fn lines(path: &Path, count: usize) -> Vec<String> {
    let lines = eventually("lines of the log", || {
        let text = fs::read_to_string(path).ok()?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count && text.ends_with('\n')).then_some(lines)
    });
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

#[test]
fn every_end_of_a_request_has_its_line() {
    let scratch = Scratch::new();
    let path = scratch.file("access.log");
    let origin = Origin::start(|peer| {
        loop {
            match peer.request()?.target.as_str() {
                "/silent" => return peer.stall(),
                "/reset" => return peer.reset(),
                _ => peer.send(OK)?,
            }
        }
    });
    let (_socket, refusing) = refusing();
    let format = "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% \
                  %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER% %UPSTREAM_HOST% \
                  %RESPONSE_CODE_DETAILS% %ROUTE_NAME% %REQ(:AUTHORITY)% %REQ(X-NO?X-ID)%\n";
    let to = |cluster: &str| json!({"cluster": cluster, "timeout": "0.3s"});
    let config = Config::new()
        .http(log(&path, text_format(format)))
        .cluster("origin", &[origin.address()])
        .cluster("refused", &[&refusing])
        .cluster("empty", &[])
        .route(json!({"match": {"prefix": "/o"}, "route": to("origin"), "name": "named"}))
        .route(json!({"match": {"prefix": "/s"}, "route": to("origin")}))
        .route(json!({"match": {"prefix": "/re"}, "route": to("origin")}))
        .route(json!({"match": {"prefix": "/f"}, "route": to("refused")}))
        .route(json!({"match": {"prefix": "/e"}, "route": to("empty")}))
        .route(json!({"match": {"prefix": "/c"}, "route": {"cluster_header": "x-cluster"}}))
        .route(json!({"match": {"prefix": "/d"}, "direct_response": {
            "status": 200, "body": {"inline_string": "direct"},
        }}));
    let proxy = start(&config);
    let mut client = proxy.client();
    client.send("GET /ok?q HTTP/1.1\r\nHost: host\r\nX-Id: 7\r\n\r\n").response();
    client.post("/other", "hello");
    for target in ["/silent", "/reset", "/fail", "/empty", "/cluster", "/direct", "/none"] {
        client.get(target);
    }
    client.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").response();
    let at = origin.address();
    let expected = [
        format!("GET /ok?q HTTP/1.1 200 - 0 2 origin {at} via_upstream named host 7"),
        format!("POST /other HTTP/1.1 200 - 5 2 origin {at} via_upstream named test -"),
        format!("GET /silent HTTP/1.1 504 UT 0 24 origin {at} response_timeout - test -"),
        format!(
            "GET /reset HTTP/1.1 503 UC 0 95 origin {at} upstream_reset_before_response_started{{connection_termination}} - test -"
        ),
        "GET /fail".to_owned(),
        "GET /empty HTTP/1.1 503 UH 0 19 empty - no_healthy_upstream - test -".to_owned(),
        "GET /cluster HTTP/1.1 503 NC 0 0 - - cluster_not_found - test -".to_owned(),
        "GET /direct HTTP/1.1 200 - 0 6 - - direct_response - test -".to_owned(),
        "GET /none HTTP/1.1 404 NR 0 0 - - route_not_found - test -".to_owned(),
    ];
    // A message that is no request has a line too.
    let found = lines(&path, expected.len() + 1);
    for (expected, found) in expected.iter().zip(&found) {
        if expected == "GET /fail" {
            let start = "GET /fail HTTP/1.1 503 UF 0 ";
            assert!(found.starts_with(start), "{found}");
            assert!(found.contains("upstream_reset_before_response_started{"), "{found}");
        } else {
            assert_eq!(found, expected);
        }
    }
    assert!(found.last().unwrap().contains(" 400 DPE "), "{found:?}");
    proxy.stop();
}

#[test]
fn the_default_format_is_envoys() {
    let scratch = Scratch::new();
    let path = scratch.file("access.log");
    let origin = Origin::ok();
    let proxy = start(&Config::to(origin.address()).http(log(&path, Value::Null)));
    let request = "GET /p HTTP/1.1\r\nHost: host\r\nUser-Agent: me\r\nX-Request-Id: id\r\n\r\n";
    proxy.client().send(request).response();
    let line = lines(&path, 1).remove(0);
    // [2026-11-21T01:16:59.134Z] "GET /p HTTP/1.1" 200 - 0 2 1 0 "-" "me" "id" "host" "127.0.0.1:1"
    let (time, rest) = line.split_once("] ").unwrap();
    assert_eq!((time.len(), &time[..3], &time[24..]), (25, "[20", "Z"), "{line}");
    let (head, tail) = rest.split_once(" 200 - 0 2 ").unwrap();
    assert_eq!(head, "\"GET /p HTTP/1.1\"");
    let (times, tail) = tail.split_once(" \"").unwrap();
    assert!(times.split(' ').all(|time| time.parse::<u64>().is_ok()), "{line}");
    assert_eq!(tail, format!("-\" \"me\" \"id\" \"host\" \"{}\"", origin.address()));
    proxy.stop();
}

#[test]
fn json_keeps_types() {
    let scratch = Scratch::new();
    let path = scratch.file("access.log");
    let origin = Origin::ok();
    let format = json!({"json_format": {
        "code": "%RESPONSE_CODE%",
        "method": "%REQ(:METHOD)%",
        "missing": "%REQ(X-MISSING)%",
        "quoted": "%REQ(X-QUOTED)%",
        "both": "%REQ(:METHOD)% %RESPONSE_CODE% %REQ(X-MISSING)%",
        "constant": "text",
        "nested": {"bytes": "%BYTES_SENT%", "list": ["%PROTOCOL%", "%BYTES_RECEIVED%"]},
    }});
    let proxy = start(&Config::to(origin.address()).http(log(&path, format)));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nX-Quoted: a \"b\" \\ \tc\r\n\r\n").response();
    let line = lines(&path, 1).remove(0);
    let found: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        found,
        json!({
            "code": 200,
            "method": "GET",
            "missing": null,
            "quoted": "a \"b\" \\ \tc",
            "both": "GET 200 -",
            "constant": "text",
            "nested": {"bytes": 2, "list": ["HTTP/1.1", 0]},
        })
    );
    drop(client);
    proxy.stop();
}

#[test]
fn lines_can_go_to_standard_output() {
    let origin = Origin::ok();
    let mut proxy = start(&Config::to(origin.address()).http(json!({"access_log": [{
        "name": "stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": text_format("line %RESPONSE_CODE%\n"),
        },
    }]})));
    assert_eq!(proxy.client().get("/").status, 200);
    eventually("the line", || (proxy.process().stdout() == "line 200\n").then_some(()));
    proxy.stop();
}

#[test]
fn a_renamed_file_is_left_on_sigusr1() {
    let scratch = Scratch::new();
    let (path, old) = (scratch.file("access.log"), scratch.file("access.log.1"));
    let origin = Origin::ok();
    let config = Config::to(origin.address()).http(log(&path, text_format("%REQ(:PATH)%\n")));
    let mut proxy = start(&config);
    let mut client = proxy.client();
    client.get("/before");
    assert_eq!(lines(&path, 1), ["/before"]);
    fs::rename(&path, &old).unwrap();
    client.get("/between");
    assert_eq!(lines(&old, 2), ["/before", "/between"]);
    proxy.process().signal(libc::SIGUSR1);
    eventually("a new file", || path.exists().then_some(()));
    client.get("/after");
    assert_eq!(lines(&path, 1), ["/after"]);
    assert_eq!(lines(&old, 2).len(), 2);
    proxy.expect_stat("access_log.reopened", 1);
    drop(client);
    proxy.stop();
}

#[test]
fn a_full_disk_loses_lines_and_no_requests() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).http(log(Path::new("/dev/full"), Value::Null));
    let proxy = start(&config);
    let mut client = proxy.client();
    for _ in 0..200 {
        assert_eq!(client.get("/").status, 200);
    }
    proxy.await_stat("access_log.dropped", |count| count >= 200);
    assert!(proxy.stat("filesystem.write_failed") > 0);
    assert_eq!(client.get("/").status, 200);
    drop(client);
    proxy.stop();
}

#[test]
fn a_pipe_that_nobody_reads_loses_lines_and_no_requests() {
    let scratch = Scratch::new();
    let path = scratch.file("pipe");
    let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(status.success());
    // Held open and never read: it takes 64 KiB and then nothing more.
    let _reader = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let origin = outrigger_tests::load::FastOrigin::start();
    let long = "x".repeat(1000);
    let config = Config::to(origin.address())
        .http(log(&path, text_format(&format!("{long}\n"))))
        .engine(json!({"access_log_queue_bytes": 65536}));
    let proxy = start(&config);
    let load = outrigger_tests::load::Load { connections: 8, requests: Some(2000) };
    let outcome = load.start(proxy.address()).finish();
    assert!(outcome.is_only(200, 2000), "{outcome:?}");
    proxy.await_stat("access_log.dropped", |count| count > 0);
    proxy.stop();
}

#[test]
fn no_line_is_lost_when_the_process_ends() {
    let scratch = Scratch::new();
    let path = scratch.file("access.log");
    let origin = outrigger_tests::load::FastOrigin::start();
    let config = Config::to(origin.address()).http(log(&path, text_format("%RESPONSE_CODE%\n")));
    // Nothing is flushed by time within this test.
    let proxy = Launch::outrigger(&config).shards(2).start();
    let load = outrigger_tests::load::Load { connections: 8, requests: Some(1000) };
    assert!(load.start(proxy.address()).finish().is_only(200, 1000));
    proxy.stop();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 1000);
    assert_eq!(text, "200\n".repeat(1000));
}
