//! Messages of every shape pass as HTTP/1.1 says (RFC 9112), over connections that are kept.

use std::fmt::Write;

use outrigger_tests::origin::OK;
use outrigger_tests::{Client, Config, Origin, Proxy};
use serde_json::json;

#[test]
fn every_method_passes() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    let methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "M-SEARCH"];
    for method in methods {
        client.send(format!("{method} /path?query HTTP/1.1\r\nHost: test\r\n\r\n"));
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "ok"), "{method}");
        assert_eq!(response.version, "HTTP/1.1");
        assert_eq!(response.reason, "OK");
    }
    let log = origin.log();
    let seen: Vec<_> = log.requests.iter().map(|seen| seen.request.method.as_str()).collect();
    assert_eq!(seen, methods);
    assert!(log.requests.iter().all(|seen| seen.request.target == "/path?query"));
    assert!(log.requests.iter().all(|seen| seen.request.version == "HTTP/1.1"));
    // Connections are kept on both sides.
    assert_eq!(log.accepted, 1);
    proxy.expect_stat("http.main.downstream_rq_2xx", methods.len() as u64);
    assert_eq!(proxy.stat("http.main.downstream_cx_total"), 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_total"), 1);
    drop(client);
    proxy.stop();
}

#[test]
fn options_asterisk_passes() {
    let origin = Origin::ok();
    let proxy =
        Proxy::start(&Config::to(origin.address()).route(
            json!({"match": {"safe_regex": {"regex": ".*"}}, "route": {"cluster": "origin"}}),
        ));
    let response = proxy.client().send("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n").response();
    assert_eq!(response.status, 200);
    assert_eq!(origin.only_request().target, "*");
    proxy.stop();
}

#[test]
fn head_has_headers_and_no_body() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n");
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    for _ in 0..2 {
        let response = client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").response_to("HEAD");
        assert_eq!((response.status, response.header("content-length")), (200, Some("1234")));
    }
    assert_eq!(origin.log().accepted, 1);
    proxy.stop();
}

#[test]
fn a_response_to_head_may_be_chunked() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    for _ in 0..2 {
        let response = client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").response_to("HEAD");
        assert_eq!((response.status, response.header("content-length")), (200, None));
    }
    assert_eq!(origin.log().accepted, 1);
    proxy.stop();
}

#[test]
fn no_content_and_not_modified_end_with_their_head() {
    let origin = Origin::start(|peer| {
        loop {
            let response = match peer.request()?.target.as_str() {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 99\r\n\r\n",
                _ => OK,
            };
            peer.send(response)?;
        }
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    let response = client.get("/204");
    assert_eq!((response.status, response.reason.as_str()), (204, "No Content"));
    assert_eq!(response.header("transfer-encoding"), None);
    let response = client.get("/304");
    assert_eq!((response.status, response.header("etag")), (304, Some("\"a\"")));
    assert_eq!(response.header("transfer-encoding"), None);
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(origin.log().accepted, 1);
    proxy.stop();
}

#[test]
fn bodies_with_a_length_pass_both_ways() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    for length in [0, 1, 4095, 4096, 16_383, 16_384, 16_385, 100_000, 1_000_000] {
        let body = pattern(length);
        let response = client.post("/", &body);
        assert_eq!(response.header("content-length"), Some(length.to_string().as_str()));
        assert!(response.body == body, "a body of {length} changed");
        let request = origin.log().requests.pop().unwrap().request;
        assert_eq!(request.headers.get("content-length"), Some(length.to_string().as_str()));
        assert_eq!(request.headers.get("transfer-encoding"), None);
        origin.forget();
    }
    assert_eq!(origin.log().accepted, 1);
    proxy.stop();
}

#[test]
fn chunked_bodies_pass_both_ways() {
    let origin = Origin::start(|peer| {
        loop {
            let body = peer.request()?.body;
            peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            for chunk in body.chunks(7000) {
                peer.send(chunked(chunk))?;
            }
            peer.send("0\r\n\r\n")?;
        }
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    for length in [0, 1, 5000, 16_384, 200_000] {
        let body = pattern(length);
        client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in body.chunks(3001) {
            client.send(chunked(chunk));
        }
        let response = client.send("0\r\n\r\n").response();
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
        assert_eq!(response.header("content-length"), None);
        assert!(response.body == body, "a body of {length} changed");
        let request = origin.log().requests.pop().unwrap().request;
        assert_eq!(request.headers.get("transfer-encoding"), Some("chunked"));
        assert_eq!(request.headers.get("content-length"), None);
        assert!(request.body == body, "a body of {length} changed");
        origin.forget();
    }
    assert_eq!(origin.log().accepted, 1);
    proxy.stop();
}

#[test]
fn a_body_until_close_is_chunked_for_the_client() {
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.send("HTTP/1.1 200 OK\r\n\r\n")?;
        peer.send(pattern(50_000))
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
        assert!(response.body == pattern(50_000), "a body of {} changed", response.body.len());
    }
    assert_eq!(origin.log().accepted, 2);
    assert_eq!(proxy.stat("http.main.downstream_cx_total"), 1);
    proxy.stop();
}

const TRAILERS: &str = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
                        3\r\nabc\r\n0\r\nx-sum: 1\r\nx-more: 2\r\n\r\n";

fn origin_with_trailers() -> Origin {
    Origin::answering(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\nx-end: 3\r\n\r\n",
    )
}

#[test]
fn trailers_are_dropped_by_default() {
    let origin = origin_with_trailers();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    let response = client.send(TRAILERS).response();
    assert_eq!((response.text().as_str(), response.header("x-end")), ("xyz", None));
    assert!(!response.trailers.has("x-end"), "{:?}", response.trailers);
    let request = origin.only_request();
    assert_eq!(request.body, b"abc");
    assert!(!request.trailers.has("x-sum") && !request.headers.has("x-sum"), "{request:?}");
    assert_eq!(client.get("/").text(), "xyz");
    proxy.stop();
}

#[test]
fn trailers_pass_where_enabled() {
    let origin = origin_with_trailers();
    let config = Config::to(origin.address())
        .http(json!({"http_protocol_options": {"enable_trailers": true}}))
        .tune_cluster(json!({"http_protocol_options": {"enable_trailers": true}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    let response = client.send(TRAILERS).response();
    assert_eq!(response.text(), "xyz");
    assert_eq!(response.trailers.get("x-end"), Some("3"));
    let request = origin.only_request();
    assert_eq!(request.body, b"abc");
    assert_eq!(request.trailers.get("x-sum"), Some("1"));
    assert_eq!(request.trailers.get("x-more"), Some("2"));
    assert_eq!(client.get("/").text(), "xyz");
    proxy.stop();
}

#[test]
fn http_1_0_is_refused_by_default() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    let response = client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n").response();
    assert_eq!(response.status, 426);
    client.expect_close();
    assert_eq!(origin.log().accepted, 0);
    proxy.stop();
}

/// Accepts HTTP/1.0, also without a Host.
fn http_1_0(origin: &Origin) -> Config {
    Config::to(origin.address()).http(json!({"http_protocol_options": {
        "accept_http_10": true,
        "default_host_for_http_10": "default.example",
    }}))
}

#[test]
fn http_1_0_closes_after_one_response() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&http_1_0(&origin));
    let mut client = proxy.client();
    let response = client.send("GET / HTTP/1.0\r\n\r\n").response();
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    client.expect_close();
    let request = origin.only_request();
    assert_eq!(request.version, "HTTP/1.1");
    assert_eq!(request.headers.get("host"), Some("default.example"));
    proxy.stop();
}

#[test]
fn http_1_0_keeps_the_connection_if_asked() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&http_1_0(&origin));
    let mut client = proxy.client();
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
        assert_eq!(response.header("connection"), Some("keep-alive"));
    }
    assert_eq!(proxy.stat("http.main.downstream_cx_total"), 1);
    proxy.stop();
}

#[test]
fn http_1_0_gets_chunked_responses_until_the_close() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    );
    let proxy = Proxy::start(&http_1_0(&origin));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n");
    let response = client.response();
    assert_eq!(response.header("transfer-encoding"), None);
    assert_eq!(response.text(), "abcde");
    client.expect_close();
    proxy.stop();
}

#[test]
fn an_http_1_0_origin_is_understood() {
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.send("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!((response.version.as_str(), response.text().as_str()), ("HTTP/1.1", "ok"));
    }
    assert_eq!(origin.log().accepted, 3);
    proxy.stop();
}

const EXPECT: &str =
    "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn an_expectation_is_answered_here() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    for _ in 0..2 {
        // The body is sent only after this.
        assert_eq!(client.send(EXPECT).response_head().status, 100);
        let response = client.send("hello").response();
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    }
    assert!(!origin.nth_request(1).headers.has("expect"));
    proxy.stop();
}

#[test]
fn an_expectation_goes_to_the_origin_where_configured() {
    let origin = Origin::start(|peer| {
        loop {
            let request = peer.request_head()?;
            if request.target == "/no" {
                peer.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")?;
                return Ok(());
            }
            peer.send("HTTP/1.1 100 Continue\r\n\r\n")?;
            let body = peer.wire().exactly(5)?;
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")?;
            peer.send(body)?;
        }
    });
    let config = Config::to(origin.address()).http(json!({"proxy_100_continue": true}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    assert_eq!(client.send(EXPECT).response_head().status, 100);
    let response = client.send("hello").response();
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    assert_eq!(origin.only_request().headers.get("expect"), Some("100-continue"));
    // The origin may refuse, too, and then there is no 100.
    let response = client.send(EXPECT.replace("POST / ", "POST /no ")).response();
    assert_eq!(response.status, 413);
    proxy.stop();
}

#[test]
fn interim_responses_do_not_end_the_exchange() {
    let origin = Origin::answering(
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    );
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    for _ in 0..2 {
        let mut response = client.get("/");
        while response.status == 103 {
            response = client.response();
        }
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    }
    proxy.stop();
}

/// Answers with the target that was asked for.
fn mirror() -> Origin {
    Origin::start(|peer| {
        loop {
            let target = peer.request()?.target;
            let length = target.len();
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{target}"))?;
        }
    })
}

#[test]
fn a_hundred_pipelined_requests_are_answered_in_order() {
    let origin = mirror();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    let mut all = String::new();
    for n in 0..100 {
        let _ = match n % 3 {
            0 => write!(all, "GET /{n} HTTP/1.1\r\nHost: test\r\n\r\n"),
            1 => write!(all, "POST /{n} HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nGET /"),
            _ => write!(
                all,
                "PUT /{n} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
                 4\r\nGET \r\n0\r\n\r\n"
            ),
        };
    }
    client.send(all);
    for n in 0..100 {
        assert_eq!(client.response().text(), format!("/{n}"));
    }
    let log = origin.log();
    assert_eq!(log.requests.len(), 100);
    proxy.stop();
}

#[test]
fn pipelined_requests_end_with_the_one_that_closes() {
    let origin = mirror();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    client.send(
        "GET /1 HTTP/1.1\r\nHost: test\r\n\r\n\
         GET /2 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n\
         GET /3 HTTP/1.1\r\nHost: test\r\n\r\n",
    );
    assert_eq!(client.response().header("connection"), None);
    let response = client.response();
    assert_eq!((response.text().as_str(), response.header("connection")), ("/2", Some("close")));
    assert_eq!(client.wire().closed(), Ok(0));
    assert_eq!(origin.log().requests.len(), 2);
    proxy.stop();
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    client.send_bytewise(
        "POST /a HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    );
    assert_eq!(client.response().text(), "hello world");
    client.send_bytewise("POST /b HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().text(), "hello");
    proxy.stop();
}

#[test]
fn a_response_may_come_one_byte_at_a_time() {
    let origin = Origin::start(|peer| {
        loop {
            peer.request()?;
            let response = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                        3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
            for byte in response.bytes() {
                peer.send([byte])?;
            }
        }
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "abcde");
    }
    assert_eq!(origin.log().accepted, 1);
    proxy.stop();
}

#[test]
fn upstream_connections_are_shared_by_downstream_connections() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    for _ in 0..10 {
        let mut client = Client::connect(proxy.address());
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(origin.log().accepted, 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_total"), 10);
    proxy.stop();
}

#[test]
fn upstream_connections_end_after_so_many_requests() {
    let origin = Origin::ok();
    let config = Config::to(origin.address()).tune_cluster(json!({
        "common_http_protocol_options": {"max_requests_per_connection": 3},
    }));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    for _ in 0..9 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(origin.log().accepted, 3);
    proxy.expect_stat("cluster.origin.upstream_cx_max_requests", 3);
    proxy.stop();
}

#[test]
fn downstream_connections_end_after_so_many_requests() {
    let origin = Origin::ok();
    let config = Config::to(origin.address())
        .http(json!({"common_http_protocol_options": {"max_requests_per_connection": 2}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    assert_eq!(client.get("/").header("connection"), None);
    assert_eq!(client.get("/").header("connection"), Some("close"));
    client.expect_close();
    proxy.stop();
}

#[test]
fn an_origin_that_closes_gets_a_new_connection_for_each_request() {
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    for _ in 0..5 {
        let response = client.get("/");
        assert_eq!((response.status, response.header("connection")), (200, None));
    }
    assert_eq!(origin.log().accepted, 5);
    proxy.stop();
}

/// Bytes in which a shift, a gap or a repeat shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0_u32..).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(length).collect()
}

/// One chunk.
pub(crate) fn chunked(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}
