//! The same bootstrap, run by Envoy and by us: the same requests get the same answers, and the
//! origins see the same, whichever version of HTTP either side speaks.
//!
//! What is compared: status, body and headers of each response; method, target, headers and body
//! of each request as an origin received it, and which origin; and the lines of the access log. What
//! is not: dates, request ids and times, which no two runs share, reason phrases, and the framing
//! fields of responses to HEAD.

use std::fmt::Write;
use std::fs;

use outrigger_tests::http::{Fault, Headers, Response};
use outrigger_tests::http2::Exchange;
use outrigger_tests::origin::{OK, refusing};
use outrigger_tests::proxy::Launch;
use outrigger_tests::{Client, Http2, Origin, Proxy, eventually};

use crate::versions::Version;

/// A name, a request line without its version, more field lines (Host first, if not `test`), and a
/// body.
type Case = (&'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Domains.
    ("domain exact", "GET /", "Host: exact.example\r\n", ""),
    ("domain exact, other case", "GET /", "Host: EXACT.Example\r\n", ""),
    ("domain exact with port", "GET /", "Host: exact.example:8080\r\n", ""),
    ("domain exact with another port", "GET /", "Host: exact.example:81\r\n", ""),
    ("domain suffix", "GET /", "Host: any.example\r\n", ""),
    ("domain suffix, deep", "GET /", "Host: a.b.c.example\r\n", ""),
    ("domain suffix, nothing before it", "GET /exact", "Host: .example\r\n", ""),
    ("domain suffix, longest", "GET /", "Host: any.long.example\r\n", ""),
    ("domain suffix beats prefix", "GET /", "Host: prefix.example\r\n", ""),
    ("domain prefix", "GET /", "Host: prefix.org\r\n", ""),
    ("domain prefix, longest", "GET /", "Host: prefix.long.org\r\n", ""),
    ("domain any", "GET /exact", "Host: elsewhere\r\n", ""),
    ("domain without routes", "GET /", "Host: empty.test\r\n", ""),
    ("domain that requires TLS", "GET /path?q", "Host: secure.test\r\n", ""),
    ("domain that requires TLS, port", "GET /path?q", "Host: secure.test:80\r\n", ""),
    ("domain of the absolute form", "GET http://exact.example/x", "Host: other\r\n", ""),
    ("attempts counted", "GET /", "Host: counted.test\r\n", ""),
    // Paths.
    ("path", "GET /exact", "", ""),
    ("path with query", "GET /exact?query", "", ""),
    ("path, longer", "GET /exact/", "", ""),
    ("path, other case", "GET /EXACT", "", ""),
    ("path insensitive", "GET /inSENSITIVE", "", ""),
    ("prefix insensitive", "GET /PRE/fix/more", "", ""),
    ("regex", "GET /regex/abc.png", "", ""),
    ("regex with query", "GET /regex/abc.jpg?x=.gif", "", ""),
    ("regex, whole path", "GET /regex/abc.png/more", "", ""),
    ("regex, other case", "GET /regex/ABC.png", "", ""),
    ("separated prefix", "GET /separated", "", ""),
    ("separated prefix, deeper", "GET /separated/more", "", ""),
    ("separated prefix, query", "GET /separated?q", "", ""),
    ("separated prefix, no separator", "GET /separatedmore", "", ""),
    ("path with dots", "GET /x/../exact", "", ""),
    ("path with escaped dots", "GET /x/%2e%2E/exact", "", ""),
    ("path above the root", "GET /../exact", "", ""),
    ("path with a dot", "GET /./exact", "", ""),
    ("path with escapes", "GET /a/%7Ename/%41?%7E", "", ""),
    ("no route", "GET /none", "", ""),
    ("no route, HEAD", "HEAD /none", "", ""),
    // Headers.
    ("header exact", "GET /header", "x-kind: exact\r\n", ""),
    ("header exact, other case", "GET /header", "x-kind: EXACT\r\n", ""),
    ("header prefix", "GET /header", "x-kind: preXX\r\n", ""),
    ("header suffix", "GET /header", "x-kind: XXfix\r\n", ""),
    ("header contains", "GET /header", "x-kind: XmidX\r\n", ""),
    ("header regex", "GET /header", "x-kind: r123\r\n", ""),
    ("header regex, not whole", "GET /header", "x-kind: r123x\r\n", ""),
    ("header range, first", "GET /header", "x-number: 10\r\n", ""),
    ("header range, last", "GET /header", "x-number: 20\r\n", ""),
    ("header range, no number", "GET /header", "x-number: ten\r\n", ""),
    ("header present", "GET /header", "x-there: \r\n", ""),
    ("header inverted, differs", "GET /header", "x-not: yes\r\n", ""),
    ("header inverted, equal", "GET /header", "x-not: no\r\n", ""),
    ("header absent", "PUT /header", "", ""),
    ("header absent, but is there", "PUT /header", "x-absent: 1\r\n", ""),
    ("header none", "GET /header", "", ""),
    ("header missing as empty", "GET /empty", "", ""),
    ("header not missing", "GET /empty", "x-gone: 1\r\n", ""),
    // Queries.
    ("query both", "GET /query?a=1&b=2", "", ""),
    ("query both, other order", "GET /query?b&a=1", "", ""),
    ("query regex", "GET /query?a=22", "", ""),
    ("query first of two", "GET /query?a=x&a=1", "", ""),
    ("query none", "GET /query", "", ""),
    ("query escaped", "GET /query?a=%31", "", ""),
    ("gRPC", "POST /grpc/x", "content-type: application/grpc+proto\r\n", ""),
    ("gRPC, not", "POST /grpc/x", "content-type: application/grpcx\r\n", ""),
    // Redirects.
    ("redirect path", "GET /redirect/path", "", ""),
    ("redirect path with query", "GET /redirect/path?a=b", "", ""),
    ("redirect path, own query", "GET /redirect/path-query?a=b", "", ""),
    ("redirect host", "GET /redirect/host?a=b", "", ""),
    ("redirect host, port", "GET /redirect/host", "Host: test:8080\r\n", ""),
    ("redirect https", "GET /redirect/https", "", ""),
    ("redirect https, default port", "GET /redirect/https", "Host: test:80\r\n", ""),
    ("redirect https, other port", "GET /redirect/https", "Host: test:8080\r\n", ""),
    ("redirect scheme", "GET /redirect/scheme", "", ""),
    ("redirect port", "GET /redirect/port", "Host: test:80\r\n", ""),
    ("redirect 308", "GET /redirect/code", "", ""),
    ("redirect 303", "POST /redirect/see-other", "Content-Length: 5\r\n", "hello"),
    ("redirect strips the query", "GET /redirect/strip?a=b", "", ""),
    ("redirect prefix", "GET /redirect/prefix/more?a=b", "", ""),
    ("redirect regex", "GET /redirect/regex/1/2?a=b", "", ""),
    ("redirect HEAD", "HEAD /redirect/path", "", ""),
    ("redirect, forwarded https", "GET /redirect/path", "x-forwarded-proto: https\r\n", ""),
    // Direct responses.
    ("direct empty", "GET /direct/empty", "", ""),
    ("direct teapot", "GET /direct/teapot", "", ""),
    ("direct teapot, HEAD", "HEAD /direct/teapot", "", ""),
    ("direct bytes", "GET /direct/bytes", "", ""),
    ("direct, body not needed", "POST /direct/teapot", "Content-Length: 5\r\n", "hello"),
    // Rewrites.
    ("rewrite prefix", "GET /rewrite/prefix/rest?q", "", ""),
    ("rewrite prefix, nothing left", "GET /rewrite/prefix/", "", ""),
    ("rewrite swap", "GET /rewrite/swap/rest", "", ""),
    ("rewrite swap, no separator", "GET /rewrite/swapper", "", ""),
    ("rewrite path", "GET /rewrite/path?q", "", ""),
    ("rewrite regex", "GET /rewrite/regex/12/x/34?q=/56", "", ""),
    ("rewrite regex, no match", "GET /rewrite/regex", "", ""),
    ("host literal", "GET /host/literal", "", ""),
    ("host forwarded", "GET /host/forwarded", "", ""),
    ("host forwarded, again", "GET /host/forwarded", "x-forwarded-host: first\r\n", ""),
    ("host header", "GET /host/header", "x-new-host: new.test\r\n", ""),
    ("host header, missing", "GET /host/header", "", ""),
    ("host regex", "GET /host/regex/name?q", "", ""),
    ("host auto", "GET /host/auto", "", ""),
    // Edits.
    ("edit", "GET /edit", "", ""),
    ("edit, all there", "GET /edit", "x-append: 1\r\nx-absent: 1\r\nx-overwrite: 1\r\nx-only: 1\r\nx-level: 1\r\nx-table: 1\r\nx-drop-table: 1\r\nx-drop-host: 1\r\nx-drop-route: 1\r\nuser-agent: me\r\n", ""),
    ("edit, twice there", "GET /edit", "x-append: 1\r\nx-append: 2\r\nx-overwrite: 1\r\nx-overwrite: 2\r\n", ""),
    ("weighted", "GET /weighted", "x-drop-weight: 1\r\nx-level: 1\r\n", ""),
    ("cluster header", "GET /cluster/header", "x-cluster: b\r\n", ""),
    ("cluster header, missing", "GET /cluster/header", "", ""),
    ("cluster header, unknown", "GET /cluster/header", "x-cluster: unknown\r\n", ""),
    ("cluster header, unknown is 404", "GET /cluster/header-404", "x-cluster: unknown\r\n", ""),
    // Failures.
    ("refused", "GET /fail/refused", "", ""),
    ("refused, HEAD", "HEAD /fail/refused", "", ""),
    ("refused, gRPC", "POST /fail/refused", "content-type: application/grpc\r\n", ""),
    ("nobody, gRPC", "POST /fail/nobody", "content-type: application/grpc\r\n", ""),
    ("timeout, gRPC", "POST /fail/timeout", "content-type: application/grpc\r\n", ""),
    ("no route, gRPC", "POST /none", "content-type: application/grpc\r\n", ""),
    ("redirect, gRPC", "POST /redirect/path", "content-type: application/grpc\r\n", ""),
    ("direct, gRPC", "POST /direct/teapot", "content-type: application/grpc\r\n", ""),
    ("unknown cluster, gRPC", "POST /cluster/header", "content-type: application/grpc\r\nx-cluster: unknown\r\n", ""),
    ("gRPC with a timeout", "POST /a", "content-type: application/grpc\r\ngrpc-timeout: 5S\r\nte: trailers\r\nconnection: te\r\n", ""),
    ("nobody", "GET /fail/nobody", "", ""),
    ("nobody, POST", "POST /fail/nobody", "Content-Length: 5\r\n", "hello"),
    ("reset", "GET /fail/reset", "", ""),
    ("garbage", "GET /fail/garbage", "", ""),
    ("timeout", "GET /fail/timeout", "", ""),
    ("upgrade not allowed", "GET /a", "Connection: upgrade\r\nUpgrade: other\r\n", ""),
    // Forwarding.
    ("GET", "GET /a", "", ""),
    ("GET with a body", "GET /a", "Content-Length: 5\r\n", "hello"),
    ("POST", "POST /a", "Content-Length: 5\r\ncontent-type: text/plain\r\n", "hello"),
    ("POST, by method", "POST /b", "Content-Length: 0\r\n", ""),
    ("POST chunked", "POST /a", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ("POST without length", "POST /a", "", ""),
    ("PUT", "PUT /a", "Content-Length: 5\r\n", "hello"),
    ("DELETE", "DELETE /a", "", ""),
    ("OPTIONS", "OPTIONS /a", "", ""),
    ("PATCH", "PATCH /a", "Content-Length: 5\r\n", "hello"),
    ("HEAD", "HEAD /a", "", ""),
    ("timeout none", "GET /timeout/none", "", ""),
    ("timeout long", "GET /timeout/long", "", ""),
    ("origin 404", "GET /a/404", "", ""),
    ("origin 500", "GET /a/500", "", ""),
    ("origin 204", "GET /a/204", "", ""),
    ("origin 304", "GET /a/304", "", ""),
    ("origin chunked", "GET /a/chunked", "", ""),
    ("origin until close", "GET /a/close", "", ""),
    ("origin many headers", "GET /a/headers", "", ""),
    ("hop-by-hop", "GET /a", "Connection: keep-alive, x-hop\r\nx-hop: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\nProxy-Connection: keep-alive\r\n", ""),
    ("TE trailers", "GET /a", "TE: trailers\r\nConnection: TE\r\n", ""),
    ("forwarded for", "GET /a", "x-forwarded-for: 1.2.3.4, 5.6.7.8\r\n", ""),
    ("forwarded proto", "GET /a", "x-forwarded-proto: https\r\n", ""),
    ("request id", "GET /a", "x-request-id: mine\r\n", ""),
    ("cookies", "GET /a", "cookie: a=1\r\ncookie: b=2\r\n", ""),
    ("repeated header", "GET /a", "x-many: 1\r\nx-many: 2\r\n", ""),
    ("control headers", "GET /a", "x-envoy-upstream-rq-timeout-ms: 5\r\nx-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 5\r\nx-envoy-internal: true\r\nx-envoy-other: 1\r\n", ""),
    ("long target", "GET /a?aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "", ""),
];

/// Answers as the target asks for, with headers that the configuration changes.
fn origin(name: &'static str, version: Version) -> Origin {
    if version == Version::Http2 {
        return Origin::http2(Http2::default(), move |exchange| answer(exchange, name));
    }
    Origin::start(move |peer| {
        loop {
            let request = peer.request()?;
            let common = format!("x-origin: {name}\r\nx-origin-extra: 1\r\nx-origin-secret: 1\r\n");
            let tail = request.target.rsplit('/').next().unwrap_or_default();
            let response = match tail {
                "404" => format!("HTTP/1.1 404 Not Found\r\n{common}content-length: 4\r\n\r\ngone"),
                "500" => format!("HTTP/1.1 500 Oops\r\n{common}content-length: 0\r\n\r\n"),
                "204" => format!("HTTP/1.1 204 No Content\r\n{common}\r\n"),
                "304" => format!("HTTP/1.1 304 Not Modified\r\n{common}etag: \"e\"\r\n\r\n"),
                "chunked" => format!(
                    "HTTP/1.1 200 OK\r\n{common}transfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
                ),
                "close" => {
                    return peer.send(format!("HTTP/1.1 200 OK\r\n{common}\r\nuntil the end"));
                }
                "headers" => format!(
                    "HTTP/1.1 200 OK\r\n{common}set-cookie: a=1\r\nset-cookie: b=2\r\n\
                 server: theirs\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nconnection: keep-alive\r\n\
                 keep-alive: timeout=5\r\ncontent-length: 2\r\n\r\nok"
                ),
                _ if request.method == "HEAD" => {
                    format!("HTTP/1.1 200 OK\r\n{common}content-length: 2\r\n\r\n")
                }
                _ => OK.replace("\r\n\r\n", &format!("\r\n{common}\r\n")),
            };
            peer.send(response)?;
        }
    })
}

/// The same over HTTP/2, which has no closes and no fields of a connection.
async fn answer(mut exchange: Exchange, name: &'static str) -> Result<(), Fault> {
    let request = exchange.request().await?;
    let common = [("x-origin", name), ("x-origin-extra", "1"), ("x-origin-secret", "1")];
    let with = |more: &[(&'static str, &'static str)]| [&common[..], more].concat();
    match request.target.rsplit('/').next().unwrap_or_default() {
        "404" => exchange.answer(404, &with(&[("content-length", "4")]), b"gone").await,
        "500" => exchange.answer(500, &with(&[("content-length", "0")]), b"").await,
        "204" => exchange.answer(204, &common, b"").await,
        "304" => exchange.answer(304, &with(&[("etag", "\"e\"")]), b"").await,
        "chunked" => exchange.answer(200, &common, b"abc").await,
        "close" => exchange.answer(200, &common, b"until the end").await,
        "headers" => {
            let fields = with(&[
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
                ("server", "theirs"),
                ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("content-length", "2"),
            ]);
            exchange.answer(200, &fields, b"ok").await
        }
        _ if request.method == "HEAD" => {
            exchange.head(200, &with(&[("content-length", "2")]), true)
        }
        _ => exchange.answer(200, &with(&[("content-length", "2")]), b"ok").await,
    }
}

#[test]
#[ignore = "needs envoy, which .ci/run installs"]
fn envoys_own_bootstrap_gives_envoys_answers() {
    compare(Version::Http1, Version::Http1);
}

#[test]
#[ignore = "needs envoy, which .ci/run installs"]
fn envoys_answers_are_the_same_from_http2_to_http1() {
    compare(Version::Http2, Version::Http1);
}

#[test]
#[ignore = "needs envoy, which .ci/run installs"]
fn envoys_answers_are_the_same_from_http1_to_http2() {
    compare(Version::Http1, Version::Http2);
}

#[test]
#[ignore = "needs envoy, which .ci/run installs"]
fn envoys_answers_are_the_same_from_http2_to_http2() {
    compare(Version::Http2, Version::Http2);
}

/// Runs every case that the client's version has.
fn compare(down: Version, up: Version) {
    let origins = [
        ("$A", origin("a", up)),
        ("$B", origin("b", up)),
        (
            "$RESETTING",
            Origin::start(|peer| {
                peer.request()?;
                peer.reset()
            }),
        ),
        (
            "$GARBAGE",
            Origin::start(|peer| {
                peer.request()?;
                peer.send("no http\r\n\r\n")?;
                peer.stall()
            }),
        ),
        (
            "$SILENT",
            Origin::start(|peer| {
                peer.request()?;
                peer.stall()
            }),
        ),
    ];
    let (_socket, refusing) = refusing();
    let mut bootstrap =
        include_str!("differential.yaml").replace("$REFUSED", &refusing.tcp().port().to_string());
    for (placeholder, origin) in &origins {
        bootstrap = bootstrap.replace(placeholder, &origin.address().tcp().port().to_string());
    }
    for cluster in ["a", "b", "named"] {
        let place = format!("    load_assignment: {{ cluster_name: {cluster},");
        assert!(bootstrap.contains(&place));
        if up == Version::Http2 {
            bootstrap = bootstrap.replace(&place, &format!("{HTTP2_OPTIONS}{place}"));
        }
    }
    let theirs = Side::start(Launch::envoy_text(&bootstrap), down);
    let ours = Side::start(Launch::outrigger_text(&bootstrap), down);
    let cases: Vec<&Case> =
        CASES.iter().filter(|case| down == Version::Http1 || in_http2(case).is_some()).collect();

    let mut differences = String::new();
    for case in &cases {
        let (expected, found) = (theirs.outcome(case, &origins), ours.outcome(case, &origins));
        if expected != found {
            let _ = writeln!(differences, "{}: {}", case.0, difference(&expected, &found));
        }
    }
    // Every request has its line by then.
    let (their_lines, our_lines) = (theirs.log(cases.len()), ours.log(cases.len()));
    for (case, (expected, found)) in cases.iter().zip(their_lines.iter().zip(&our_lines)) {
        if expected != found {
            let _ = writeln!(differences, "{}: log:\n  - {expected}\n  + {found}", case.0);
        }
    }
    assert!(cases.len() >= 80);
    assert!(differences.is_empty(), "- is Envoy, + is us:\n{differences}");
    ours.proxy.stop();
}

/// What makes a cluster speak HTTP/2.
const HTTP2_OPTIONS: &str = "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
";

/// Method, path, fields and body of a case in HTTP/2; `None` where HTTP/2 cannot say it.
#[expect(clippy::type_complexity, reason = "method, path, fields and body, taken apart at once")]
fn in_http2(case: &Case) -> Option<(&str, &str, Vec<(&str, &str)>, &str)> {
    let (_, line, lines, body) = *case;
    let (method, path) = line.split_once(' ')?;
    let mut fields: Vec<(&str, &str)> =
        lines.lines().filter_map(|line| line.split_once(':')).collect();
    for (name, value) in &mut fields {
        *value = value.trim();
        if *name == "Host" {
            *name = ":authority";
        }
    }
    let of_a_connection = |(name, _): &(&str, &str)| {
        ["connection", "upgrade", "transfer-encoding"].contains(&name.to_lowercase().as_str())
    };
    let speaks = path.starts_with('/') && !fields.iter().any(of_a_connection);
    speaks.then_some((method, path, fields, body))
}

/// One of the two.
struct Side {
    proxy: Proxy,
    version: Version,
    log: std::path::PathBuf,
}

impl Side {
    fn start(launch: Launch, version: Version) -> Side {
        let log = launch.directory().join("access.log");
        let proxy = launch.arguments(&["--file-flush-interval-msec", "50"]).start();
        Side { proxy, version, log }
    }

    /// The response to a case.
    fn ask(&self, case: &Case) -> Result<Response, Fault> {
        let (_, line, fields, body) = case;
        if self.version == Version::Http2 {
            let (method, path, fields, body) = in_http2(case).ok_or(Fault::Closed)?;
            let lower: Vec<(String, &str)> =
                fields.iter().map(|(name, value)| (name.to_lowercase(), *value)).collect();
            let fields: Vec<(&str, &str)> =
                lower.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            let client = self.proxy.http2();
            let mut call = client.try_open(method, path, &fields, body.is_empty())?;
            if !body.is_empty() {
                call.send_whole(body);
            }
            return call.response();
        }
        let host = if fields.starts_with("Host:") { "" } else { "Host: test\r\n" };
        let mut client = Client::connect(self.proxy.address());
        client.send(format!("{line} HTTP/1.1\r\n{host}{fields}\r\n{body}"));
        client.wire().response(line.split(' ').next().unwrap_or_default())
    }

    /// Everything that is to be the same, a fact a line.
    fn outcome(&self, case: &Case, origins: &[(&str, Origin)]) -> Vec<String> {
        for (_, origin) in origins {
            origin.forget();
        }
        let method = case.1.split(' ').next().unwrap_or_default();
        let mut facts = Vec::new();
        match self.ask(case) {
            Ok(response) => {
                facts.push(format!("status {}", response.status));
                facts.push(format!("body {}", response.text()));
                let mut fields = fields_of("response", &response.headers);
                if method == "HEAD" {
                    // Nothing is framed by them.
                    fields.retain(|field| {
                        !field.contains(" content-length:")
                            && !field.contains(" transfer-encoding:")
                    });
                }
                facts.extend(fields);
            }
            Err(fault) => {
                assert_ne!(fault, Fault::Silent, "{}", case.0);
                facts.push(format!("no response: {fault:?}"));
            }
        }
        for (name, origin) in origins {
            for seen in origin.log().requests {
                let request = seen.request;
                facts.push(format!("{name} got {} {}", request.method, request.target));
                facts.push(format!("{name} got body {}", request.body.escape_ascii()));
                facts.extend(fields_of(&format!("{name} got"), &request.headers));
            }
        }
        facts
    }

    /// The lines of the access log, once there are so many.
    fn log(&self, count: usize) -> Vec<String> {
        eventually("the access log", || {
            let text = fs::read_to_string(&self.log).ok()?;
            let lines: Vec<String> = text.lines().map(without_cause).collect();
            (lines.len() >= count).then_some(lines)
        })
    }
}

/// Envoy adds the system's own words to the details of a failure, after a bar.
fn without_cause(line: &str) -> String {
    match (line.find('|'), line.find('}')) {
        (Some(bar), Some(end)) if bar < end => format!("{}{}", &line[..bar], &line[end..]),
        _ => line.to_owned(),
    }
}

/// Sorted, with what no two runs share replaced by its name.
pub(crate) fn fields_of(whose: &str, headers: &Headers) -> Vec<String> {
    let mut fields: Vec<String> = headers
        .iter()
        .map(|(name, value)| {
            let value = match name {
                "date" => "(a date)",
                "x-request-id" if value.len() == 36 => "(an id)",
                "x-envoy-upstream-service-time" => "(a time)",
                _ => value,
            };
            format!("{whose} {name}: {value}")
        })
        .collect();
    fields.sort();
    fields
}

/// The facts that only one side has.
pub(crate) fn difference(expected: &[String], found: &[String]) -> String {
    let mut text = String::new();
    for fact in expected.iter().filter(|fact| !found.contains(fact)) {
        let _ = write!(text, "\n  - {fact}");
    }
    for fact in found.iter().filter(|fact| !expected.contains(fact)) {
        let _ = write!(text, "\n  + {fact}");
    }
    text
}
