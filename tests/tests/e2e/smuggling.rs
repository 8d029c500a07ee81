//! Messages that two parsers may read in two ways, over a real socket: each is refused, the
//! connection is closed, and the origin gets nothing.
//!
//! Each case is sent whole, and followed by a request for `/smuggled` that a proxy which
//! misjudges the end of the first message would take for the next one.

use outrigger_tests::http::Fault;
use outrigger_tests::{Client, Config, Origin, Proxy};

/// A name and the field lines of a POST, Host aside, with its body.
const POSTS: &[(&str, &str)] = &[
    ("CL.TE", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX"),
    ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"),
    ("CL.TE, zero length", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("CL.CL, different", "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    ("CL.CL, the same", "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("CL list", "Content-Length: 5, 5\r\n\r\nhello"),
    ("CL empty", "Content-Length:\r\n\r\n"),
    ("CL plus", "Content-Length: +5\r\n\r\nhello"),
    ("CL minus", "Content-Length: -5\r\n\r\nhello"),
    ("CL hex", "Content-Length: 0x5\r\n\r\nhello"),
    ("CL fraction", "Content-Length: 5.0\r\n\r\nhello"),
    ("CL exponent", "Content-Length: 5e0\r\n\r\nhello"),
    ("CL underscore", "Content-Length: 0_5\r\n\r\nhello"),
    ("CL inner space", "Content-Length: 1 0\r\n\r\nhello"),
    ("CL 2^64+5", "Content-Length: 18446744073709551621\r\n\r\nhello"),
    ("CL vertical tab", "Content-Length: \x0b5\r\n\r\nhello"),
    ("CL NUL", "Content-Length: 5\0\r\n\r\nhello"),
    ("CL space before colon", "Content-Length : 5\r\n\r\nhello"),
    ("TE xchunked", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("TE chunkedx", "Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n"),
    ("TE empty", "Transfer-Encoding:\r\n\r\n0\r\n\r\n"),
    ("TE identity", "Transfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    ("TE quoted", "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("TE parameter", "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    ("TE trailing comma", "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n"),
    ("TE leading comma", "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n"),
    ("TE chunked twice", "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("TE not final", "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("TE chunked, identity", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("TE gzip only", "Transfer-Encoding: gzip\r\n\r\nhello"),
    ("TE.TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n"),
    (
        "TE.TE, the same",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("TE space before colon", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("TE tab before colon", "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
    ("TE vertical tab", "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("TE form feed", "Transfer-Encoding: \x0cchunked\r\n\r\n0\r\n\r\n"),
    ("TE folded", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("TE hidden in a fold", "X: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE after LF", "X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE after CR", "X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE after CR CR LF", "X: a\r\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("space before a name", " Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("no name", ": chunked\r\n\r\n"),
    ("no colon", "Transfer-Encoding chunked\r\n\r\n0\r\n\r\n"),
    ("NUL in a name", "Transfer\0Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("NUL in a value", "X: a\0b\r\n\r\n"),
    ("LF as the last line", "X: a\r\n\n"),
    ("second Host", "Host: evil.example\r\n\r\n"),
    ("Connection names Host", "Connection: close, Host\r\n\r\n"),
    (
        "Connection names Content-Length",
        "Connection: content-length\r\nContent-Length: 5\r\n\r\nhello",
    ),
];

/// A name and a whole head.
const HEADS: &[(&str, &str)] = &[
    ("LF only", "GET / HTTP/1.1\nHost: test\n\n"),
    ("LF after the request line", "GET / HTTP/1.1\nHost: test\r\n\r\n"),
    ("CR as a line ending", "GET / HTTP/1.1\rHost: test\r\n\r\n"),
    ("no Host", "GET / HTTP/1.1\r\nX: a\r\n\r\n"),
    ("empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    ("Host with a user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
    ("Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ("Host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    ("two spaces in the request line", "GET  / HTTP/1.1\r\nHost: test\r\n\r\n"),
    ("tab in the request line", "GET\t/ HTTP/1.1\r\nHost: test\r\n\r\n"),
    ("space in the target", "GET /a b HTTP/1.1\r\nHost: test\r\n\r\n"),
    ("NUL in the target", "GET /\0 HTTP/1.1\r\nHost: test\r\n\r\n"),
    ("fragment in the target", "GET /a#b HTTP/1.1\r\nHost: test\r\n\r\n"),
    ("target without slash", "GET a HTTP/1.1\r\nHost: test\r\n\r\n"),
    ("user in the absolute form", "GET http://a@b/ HTTP/1.1\r\nHost: test\r\n\r\n"),
    ("two requests in one line", "GET / HTTP/1.1 GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"),
    ("HTTP/0.9", "GET /\r\n\r\n"),
    ("lower-case version", "GET / http/1.1\r\nHost: test\r\n\r\n"),
    ("HTTP/1.10", "GET / HTTP/1.10\r\nHost: test\r\n\r\n"),
    ("CONNECT with a body", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\nhello"),
    ("TE in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
];

/// A name and a chunked body. The head is fine, so the origin may have got that.
const CHUNKED: &[(&str, &str)] = &[
    ("size 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("size plus", "+5\r\nhello\r\n0\r\n\r\n"),
    ("size minus", "-0\r\n\r\n"),
    ("size with a space", "5 \r\nhello\r\n0\r\n\r\n"),
    ("size underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
    ("size empty", "\r\nhello\r\n0\r\n\r\n"),
    ("size 2^64+5", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("size LF", "5\nhello\r\n0\r\n\r\n"),
    ("size CR", "5\rhello\r\n0\r\n\r\n"),
    ("extension with LF", "5;a\nhello\r\n0\r\n\r\n"),
    ("extension that hides a chunk", "2;\nxx\r\n4c\r\n0\r\n\r\n"),
    ("extension with quoted CR LF", "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n"),
    ("no CR LF after data", "5\r\nhelloXX0\r\n\r\n"),
    ("LF after data", "5\r\nhello\n0\r\n\r\n"),
    ("data longer than its size", "4\r\nhello\r\n0\r\n\r\n"),
    ("last chunk with LF", "0\n\r\n"),
    ("last line LF", "0\r\n\n"),
    ("trailer Content-Length", "0\r\nContent-Length: 5\r\n\r\n"),
    ("trailer Transfer-Encoding", "0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("trailer that is a request", "0\r\nGET /smuggled HTTP/1.1\r\n\r\n"),
];

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";

/// Statuses for what is no ambiguity but not supported (RFC 9112 section 6.1, RFC 9110 section 15).
fn is_refusal(status: u16) -> bool {
    matches!(status, 400 | 426 | 501 | 505)
}

/// Sends, and returns how the one response that there may be reads. Closed it must be.
#[track_caller]
fn refused(proxy: &Proxy, name: &str, bytes: &[u8]) -> Option<u16> {
    let mut client = Client::connect(proxy.address());
    client.send(bytes);
    let status = match client.try_response() {
        Ok(response) => {
            assert_eq!(response.header("connection"), Some("close"), "{name}");
            Some(response.status)
        }
        Err(Fault::Closed | Fault::Reset) => None,
        Err(fault) => panic!("{name}: {fault:?}"),
    };
    let rest = client.wire().closed();
    assert_eq!(rest, Ok(0), "{name}: after the refusal");
    status
}

#[test]
fn ambiguous_heads_are_refused_and_the_origin_gets_nothing() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let posts = POSTS
        .iter()
        .map(|(name, text)| (*name, format!("POST / HTTP/1.1\r\nHost: test\r\n{text}")));
    let heads = HEADS.iter().map(|(name, text)| (*name, (*text).to_owned()));
    for (name, message) in posts.chain(heads) {
        let status = refused(&proxy, name, format!("{message}{SMUGGLED}").as_bytes());
        let status = status.unwrap_or_else(|| panic!("{name}: closed without a response"));
        assert!(is_refusal(status), "{name}: {status}");
        assert_eq!(origin.log().accepted, 0, "{name}: something reached the origin");
    }
    proxy.expect_stat("http.main.downstream_cx_active", 0);
    proxy.stop();
}

#[test]
fn ambiguous_chunks_are_refused_and_nothing_is_smuggled() {
    let origin = Origin::start(|peer| {
        loop {
            peer.request()?;
            peer.send(outrigger_tests::origin::OK)?;
        }
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    for (name, body) in CHUNKED {
        let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let status = refused(&proxy, name, format!("{head}{body}{SMUGGLED}").as_bytes());
        assert!(status.is_none_or(is_refusal), "{name}: {status:?}");
        // Whatever of it was sent on, it was never a whole request.
        origin.wait_released();
        assert_eq!(origin.log().requests.len(), 0, "{name}: a request reached the origin");
    }
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn the_verdict_does_not_depend_on_how_bytes_arrive() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    for (name, text) in POSTS.iter().step_by(7) {
        let mut client = proxy.client();
        for byte in format!("POST / HTTP/1.1\r\nHost: test\r\n{text}").bytes() {
            // It may be refused before the end.
            if client.try_send([byte]).is_err() {
                break;
            }
        }
        match client.try_response() {
            Ok(response) => assert!(is_refusal(response.status), "{name}: {}", response.status),
            Err(fault) => assert_eq!(fault, Fault::Reset, "{name}"),
        }
        assert_eq!(origin.log().accepted, 0, "{name}: something reached the origin");
    }
    proxy.stop();
}

#[test]
fn a_body_is_never_read_as_a_request() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    let length = SMUGGLED.len();
    for method in ["GET", "POST", "DELETE", "OPTIONS"] {
        client.send(format!(
            "{method} /outer HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
        ));
        assert_eq!(client.response().status, 200);
    }
    client.send(format!(
        "HEAD /outer HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
    ));
    let head = client.response_head();
    assert_eq!(head.status, 200);
    drop(client);
    origin.wait_for("five requests", |log| log.requests.len() >= 5);
    let targets: Vec<_> =
        origin.log().requests.iter().map(|seen| seen.request.target.clone()).collect();
    assert_eq!(targets, ["/outer"; 5]);
    proxy.stop();
}
