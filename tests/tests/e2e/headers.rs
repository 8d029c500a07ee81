//! What happens to headers on their way: removed, added, believed or not.

use outrigger_tests::http::{Request, Response};
use outrigger_tests::{Config, Launch, Origin, Proxy};
use serde_json::{Value, json};

/// Sends one request with these field lines; returns what the origin and the client saw.
fn exchange(config: &Config, origin: &Origin, fields: &str) -> (Request, Response) {
    let proxy = Proxy::start(config);
    let mut client = proxy.client();
    let response = client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).response();
    drop(client);
    proxy.stop();
    (origin.only_request(), response)
}

#[test]
fn hop_by_hop_headers_of_requests_are_removed() {
    let origin = Origin::ok();
    let (request, _) = exchange(
        &Config::to(origin.address()),
        &origin,
        "Connection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
         TE: gzip\r\nX-Hop: 1\r\nX-End: 2\r\n",
    );
    for name in ["connection", "keep-alive", "proxy-connection", "te", "x-hop", "upgrade"] {
        assert!(!request.headers.has(name), "{name}: {:?}", request.headers);
    }
    assert_eq!(request.headers.get("x-end"), Some("2"));
}

#[test]
fn hop_by_hop_headers_of_responses_are_removed() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\
         keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nx-end: 2\r\n\r\nok",
    );
    let (_, response) = exchange(&Config::to(origin.address()), &origin, "");
    for name in ["connection", "keep-alive", "proxy-connection"] {
        assert_eq!(response.header(name), None);
    }
    assert_eq!(response.header("x-end"), Some("2"));
}

#[test]
fn other_headers_pass_in_their_order_with_their_values() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nx-b: 1\r\nset-cookie: b=2\r\n\
         content-length: 2\r\n\r\nok",
    );
    let (request, response) = exchange(
        &Config::to(origin.address()),
        &origin,
        "X-Many: 1\r\nX-Other: \t spaced  out \t \r\nX-Many: 2\r\nX-Empty:\r\nX-High: \u{e9}\r\n",
    );
    assert_eq!(request.headers.all("x-many"), ["1", "2"]);
    assert_eq!(request.headers.get("x-other"), Some("spaced  out"));
    assert_eq!(request.headers.get("x-empty"), Some(""));
    // Two bytes of UTF-8, as they came.
    assert_eq!(request.headers.get("x-high"), Some("\u{c3}\u{a9}"));
    assert_eq!(response.headers.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(response.header("x-b"), Some("1"));
}

#[test]
fn a_missing_host_is_refused() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    assert_eq!(client.send("GET / HTTP/1.1\r\n\r\n").response().status, 400);
    client.expect_close();
    assert_eq!(origin.log().accepted, 0);
    proxy.stop();
}

#[test]
fn the_absolute_form_decides_over_host() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    client.send("GET http://right.example:81/path?q HTTP/1.1\r\nHost: wrong.example\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let request = origin.only_request();
    assert_eq!(request.target, "/path?q");
    assert_eq!(request.headers.get("host"), Some("right.example:81"));
    // Without a path.
    client.send("GET http://right.example HTTP/1.1\r\nHost: right.example\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.nth_request(2).target, "/");
    proxy.stop();
}

#[test]
fn ports_and_final_dots_of_hosts_are_stripped_where_configured() {
    let origin = Origin::ok();
    let base = Config::to(origin.address());
    let any = base.clone().http(json!({"strip_any_host_port": true}));
    let proxy = Proxy::start(&any);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test.example:1234\r\n\r\n").response();
    assert_eq!(origin.nth_request(1).headers.get("host"), Some("test.example"));
    drop(client);
    proxy.stop();

    origin.forget();
    let dot = base.http(json!({"strip_trailing_host_dot": true, "strip_matching_host_port": true}));
    let proxy = Proxy::start(&dot);
    let mut client = proxy.client();
    let port = proxy.address().tcp().port();
    client.send(format!("GET / HTTP/1.1\r\nHost: test.example.:{port}\r\n\r\n")).response();
    assert_eq!(origin.nth_request(1).headers.get("host"), Some("test.example"));
    client.send("GET / HTTP/1.1\r\nHost: test.example:1\r\n\r\n").response();
    assert_eq!(origin.nth_request(2).headers.get("host"), Some("test.example:1"));
    drop(client);
    proxy.stop();
}

#[test]
fn defaults_are_envoys() {
    let origin = Origin::ok();
    let (request, response) = exchange(&Config::to(origin.address()), &origin, "");
    assert_eq!(request.headers.get("x-forwarded-proto"), Some("http"));
    assert_eq!(request.headers.get("x-envoy-expected-rq-timeout-ms"), Some("15000"));
    assert!(is_uuid(request.headers.get("x-request-id").unwrap()), "{:?}", request.headers);
    assert_eq!(request.headers.get("x-forwarded-for"), None);
    assert_eq!(request.headers.get("via"), None);
    assert_eq!(request.headers.get("host"), Some("test"));
    assert_eq!(response.header("server"), Some("envoy"));
    assert!(is_date(response.header("date").unwrap()), "{:?}", response.headers);
    assert!(response.header("x-envoy-upstream-service-time").unwrap().parse::<u64>().is_ok());
    assert_eq!(response.header("x-request-id"), None);
    assert_eq!(response.header("via"), None);
}

#[test]
fn an_edge_proxy_says_who_the_client_is() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).http(json!({"use_remote_address": true}));
    let (request, _) = exchange(
        &config,
        &origin,
        "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine\r\n\
         x-envoy-retry-on: 5xx\r\nx-envoy-internal: true\r\n",
    );
    assert_eq!(request.headers.get("x-forwarded-for"), Some("9.9.9.9,127.0.0.1"));
    assert_eq!(request.headers.get("x-forwarded-proto"), Some("http"));
    assert_eq!(request.headers.get("x-envoy-external-address"), Some("127.0.0.1"));
    assert!(is_uuid(request.headers.get("x-request-id").unwrap()), "{:?}", request.headers);
    assert!(!request.headers.has("x-envoy-retry-on") && !request.headers.has("x-envoy-internal"));
}

#[test]
fn a_request_id_is_kept_made_or_left_out_as_configured() {
    let id = |http: Value, sent: &str| {
        let origin = Origin::ok();
        let config = Config::to(origin.address()).http(http);
        let (request, response) = exchange(&config, &origin, sent);
        let (up, down) = (request.headers.get("x-request-id"), response.header("x-request-id"));
        (up.map(str::to_owned), down.map(str::to_owned))
    };
    let mine = || Some("mine".to_owned());
    let sent = "x-request-id: mine\r\n";
    assert_eq!(id(json!({}), sent), (mine(), None));
    assert_eq!(id(json!({"generate_request_id": false}), ""), (None, None));
    let preserving = json!({"use_remote_address": true, "preserve_external_request_id": true});
    assert_eq!(id(preserving, sent), (mine(), None));
    let (up, down) = id(json!({"always_set_request_id_in_response": true}), "");
    assert!(is_uuid(up.as_ref().unwrap()));
    assert_eq!(up, down);
}

#[test]
fn via_server_and_agent_are_set_where_configured() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nserver: theirs\r\nvia: 1.0 before\r\ncontent-length: 2\r\n\r\nok",
    );
    let config = Config::to(origin.address()).http(json!({
        "via": "1.1 outrigger",
        "server_name": "mine",
        "add_user_agent": true,
    }));
    let proxy = Launch::outrigger(&config).arguments(&["--service-cluster", "service"]).start();
    let mut client = proxy.client();
    let response = client.send("GET / HTTP/1.1\r\nHost: test\r\nVia: 1.0 first\r\n\r\n").response();
    let request = origin.only_request();
    let via = |values: Vec<&str>| values.join(", ").replace(',', ", ").replace(",  ", ", ");
    assert_eq!(via(request.headers.all("via")), "1.0 first, 1.1 outrigger");
    assert_eq!(via(response.headers.all("via")), "1.0 before, 1.1 outrigger");
    assert_eq!(response.header("server"), Some("mine"));
    assert_eq!(request.headers.get("user-agent"), Some("service"));
    assert_eq!(request.headers.get("x-envoy-downstream-service-cluster"), Some("service"));
    drop(client);
    proxy.stop();
}

#[test]
fn the_server_header_passes_where_configured() {
    let server = |rule: &str, sent: &str| {
        let origin = Origin::answering(
            format!("HTTP/1.1 200 OK\r\n{sent}content-length: 2\r\n\r\nok").into_bytes(),
        );
        let config =
            Config::to(origin.address()).http(json!({"server_header_transformation": rule}));
        exchange(&config, &origin, "").1.header("server").map(str::to_owned)
    };
    assert_eq!(server("PASS_THROUGH", "server: theirs\r\n").as_deref(), Some("theirs"));
    assert_eq!(server("PASS_THROUGH", "").as_deref(), None);
    assert_eq!(server("APPEND_IF_ABSENT", "server: theirs\r\n").as_deref(), Some("theirs"));
    assert_eq!(server("APPEND_IF_ABSENT", "").as_deref(), Some("envoy"));
}

#[test]
fn envoys_headers_can_be_left_out() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).http(json!({"http_filters": [{
        "name": "router",
        "typed_config": {
            "@type": outrigger_tests::config::ROUTER,
            "suppress_envoy_headers": true,
        },
    }]}));
    let (request, response) = exchange(&config, &origin, "");
    assert!(!request.headers.has("x-envoy-expected-rq-timeout-ms"), "{:?}", request.headers);
    assert!(!response.headers.has("x-envoy-upstream-service-time"), "{:?}", response.headers);
}

#[test]
fn underscores_in_names_pass_or_are_dropped_or_refused() {
    let outcome = |action: &str| {
        let origin = Origin::ok();
        let config = Config::to(origin.address()).http(json!({
            "common_http_protocol_options": {"headers_with_underscores_action": action},
        }));
        let proxy = Proxy::start(&config);
        let mut client = proxy.client();
        let response = client.send("GET / HTTP/1.1\r\nHost: test\r\nX_Y: 1\r\n\r\n").response();
        let requests = origin.log().requests;
        (response.status, requests.first().map(|seen| seen.request.headers.has("x_y")))
    };
    assert_eq!(outcome("ALLOW"), (200, Some(true)));
    assert_eq!(outcome("DROP_HEADER"), (200, Some(false)));
    assert_eq!(outcome("REJECT_REQUEST"), (400, None));
}

#[test]
fn names_are_lower_case_or_as_configured() {
    let raw = |options: Value| {
        let origin = Origin::ok();
        let config = Config::to(origin.address()).tune_cluster(options);
        let (request, _) = exchange(&config, &origin, "X-CamelCase-name: 1\r\n");
        String::from_utf8(request.raw).unwrap()
    };
    let plain = raw(json!({}));
    assert!(plain.contains("\r\nx-camelcase-name: 1\r\n"), "{plain}");
    let proper = raw(json!({"http_protocol_options": {
        "header_key_format": {"proper_case_words": {}},
    }}));
    assert!(proper.contains("\r\nX-Camelcase-Name: 1\r\n"), "{proper}");
    assert!(proper.contains("\r\nHost: test\r\n"), "{proper}");
}

#[test]
fn paths_are_normalised_where_configured() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).http(json!({
        "normalize_path": true,
        "merge_slashes": true,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
    }));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    for (sent, seen) in [
        ("/a/../b/./c?d=/../e", "/b/c?d=/../e"),
        ("/a//b///c", "/a/b/c"),
        ("/%61%2e%2E/x", "/a../x"),
        ("/../../x", "/x"),
    ] {
        assert_eq!(client.get(sent).status, 200, "{sent}");
        assert_eq!(origin.log().requests.pop().unwrap().request.target, seen, "{sent}");
    }
    let count = origin.log().requests.len();
    assert_eq!(client.get("/a%2Fb").status, 400);
    assert_eq!(origin.log().requests.len(), count);
    proxy.stop();
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn is_date(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_digit() {
                '0'
            } else if c.is_ascii_alphabetic() {
                'a'
            } else {
                c
            }
        })
        .collect();
    shape == "aaa, 00 aaa 0000 00:00:00 aaa" && text.ends_with(" GMT")
}
