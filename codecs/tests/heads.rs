//! What a well-formed head means: the examples of RFC 9110 and RFC 9112, and every rule and limit
//! that a head is read by, at the limit and one past it.

use outrigger_codecs::http::{
    BodyFraming, ConnectionOptions, FIELDS_MAX, FieldKind, FieldStorage, Method, RequestHead,
    ResponseHead, Target, Version,
};
use outrigger_codecs::http1::{CONNECTION_OPTIONS_MAX, HeadError, HeadLimits};

#[test]
fn rfc9112_2_1_example() {
    let message = b"GET /hello.txt HTTP/1.1\r\n\
        User-Agent: curl/7.64.1\r\n\
        Host: www.example.com\r\n\
        Accept-Language: en, mi\r\n\
        \r\n";
    request(message, |head| {
        assert_eq!((head.method, head.method_text), (Method::Get, "GET"));
        assert_eq!(head.target, Target::Origin("/hello.txt"));
        assert_eq!(head.version, Version::Http11);
        assert_eq!(head.authority, "www.example.com");
        assert_eq!(head.framing, BodyFraming::None);
        assert_eq!(head.len, message.len());
        assert!(head.keep_alive());
        let fields: Vec<_> = head.fields.iter().map(|f| (f.name, f.value, f.kind)).collect();
        assert_eq!(
            fields,
            [
                ("User-Agent", b"curl/7.64.1".as_slice(), FieldKind::UserAgent),
                ("Host", b"www.example.com", FieldKind::Host),
                ("Accept-Language", b"en, mi", FieldKind::Other),
            ]
        );
    });
}

#[test]
fn rfc9110_3_9_example() {
    let message = b"HTTP/1.1 200 OK\r\n\
        Date: Mon, 27 Jul 2009 12:28:53 GMT\r\n\
        Server: Apache\r\n\
        Last-Modified: Wed, 22 Jul 2009 19:15:56 GMT\r\n\
        ETag: \"34aa387-d-1568eb00\"\r\n\
        Accept-Ranges: bytes\r\n\
        Content-Length: 51\r\n\
        Vary: Accept-Encoding\r\n\
        Content-Type: text/plain\r\n\
        \r\n\
        Hello World! My content includes a trailing CRLF.\r\n";
    response(message, |head| {
        assert_eq!((head.status, head.reason, head.version), (200, "OK", Version::Http11));
        assert_eq!(head.framing(Method::Get), Ok(BodyFraming::Length(51)));
        assert_eq!(head.framing(Method::Head), Ok(BodyFraming::None));
        assert_eq!(head.len + 51, message.len());
        assert_eq!(head.field("etag").unwrap().value, b"\"34aa387-d-1568eb00\"");
        assert!(head.keep_alive());
    });
}

#[test]
fn target_forms_of_rfc9112_3_2() {
    request(b"GET /where?q=now HTTP/1.1\r\nHost: www.example.org\r\n\r\n", |head| {
        assert_eq!(head.target, Target::Origin("/where?q=now"));
        assert_eq!(head.authority, "www.example.org");
    });
    // The authority of the target overrules Host (section 3.2.2).
    let absolute =
        b"GET http://www.example.org/pub/WWW/TheProject.html HTTP/1.1\r\nHost: other\r\n\r\n";
    request(absolute, |head| {
        assert_eq!(
            head.target,
            Target::Absolute {
                scheme: "http",
                authority: "www.example.org",
                path: "/pub/WWW/TheProject.html"
            }
        );
        assert_eq!(head.authority, "www.example.org");
    });
    request(b"CONNECT www.example.com:80 HTTP/1.1\r\nHost: www.example.com\r\n\r\n", |head| {
        assert_eq!(head.target, Target::Authority("www.example.com:80"));
        assert_eq!(head.authority, "www.example.com:80");
    });
    request(b"OPTIONS * HTTP/1.1\r\nHost: www.example.org:8001\r\n\r\n", |head| {
        assert_eq!(head.target, Target::Asterisk);
        assert_eq!(head.authority, "www.example.org:8001");
    });
    // "OPTIONS http://www.example.org:8001 HTTP/1.1" becomes "OPTIONS * HTTP/1.1" (section 3.2.4).
    request(b"OPTIONS http://www.example.org:8001 HTTP/1.1\r\nHost: x\r\n\r\n", |head| {
        assert_eq!(
            head.target,
            Target::Absolute { scheme: "http", authority: "www.example.org:8001", path: "*" }
        );
    });
    request(b"GET HTTPS://[2001:db8::1] HTTP/1.1\r\nHost: x\r\n\r\n", |head| {
        assert_eq!(
            head.target,
            Target::Absolute { scheme: "HTTPS", authority: "[2001:db8::1]", path: "/" }
        );
    });
}

#[test]
fn http10_may_come_without_host() {
    request(b"GET / HTTP/1.0\r\n\r\n", |head| {
        assert_eq!((head.version, head.authority), (Version::Http10, ""));
        assert!(!head.keep_alive());
    });
}

#[test]
fn methods_are_case_sensitive() {
    for (text, method) in [
        ("CONNECT", Method::Connect),
        ("DELETE", Method::Delete),
        ("GET", Method::Get),
        ("HEAD", Method::Head),
        ("OPTIONS", Method::Options),
        ("PATCH", Method::Patch),
        ("POST", Method::Post),
        ("PUT", Method::Put),
        ("TRACE", Method::Trace),
        ("get", Method::Other),
        ("PROPFIND", Method::Other),
        ("M-SEARCH", Method::Other),
    ] {
        let target = if method == Method::Connect { "a:1" } else { "/" };
        let message = format!("{text} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        request(message.as_bytes(), |head| {
            assert_eq!((head.method, head.method_text), (method, text));
        });
    }
}

#[test]
fn persistence_of_rfc9112_9_3() {
    for (version, connection, persists) in [
        ("HTTP/1.1", "", true),
        ("HTTP/1.1", "Connection: close\r\n", false),
        ("HTTP/1.1", "Connection: CLOSE\r\n", false),
        ("HTTP/1.1", "Connection: keep-alive, close\r\n", false),
        ("HTTP/1.1", "Connection: x\r\nConnection: ,close ,\r\n", false),
        ("HTTP/1.1", "Connection: closed\r\n", true),
        ("HTTP/1.1", "Proxy-Connection: close\r\n", true),
        ("HTTP/1.0", "", false),
        ("HTTP/1.0", "Connection: Keep-Alive\r\n", true),
        ("HTTP/1.0", "Connection: keep-alive, close\r\n", false),
        ("HTTP/1.0", "Proxy-Connection: keep-alive\r\n", false),
        ("HTTP/1.0", "Keep-Alive: timeout=5\r\n", false),
    ] {
        let message = format!("GET / {version}\r\nHost: a\r\n{connection}\r\n");
        request(message.as_bytes(), |head| assert_eq!(head.keep_alive(), persists, "{message}"));
        let message = format!("{version} 200 OK\r\n{connection}\r\n");
        response(message.as_bytes(), |head| assert_eq!(head.keep_alive(), persists, "{message}"));
    }
}

#[test]
fn hop_by_hop_fields_are_those_of_rfc9110_7_6_1_and_those_named() {
    let message = b"GET / HTTP/1.1\r\n\
        Host: a\r\n\
        x-hop: before\r\n\
        Connection: close, X-Hop, TE\r\n\
        Connection: upgrade, http2-settings, keep-alive, not-there\r\n\
        X-Hop: after\r\n\
        Keep-Alive: timeout=5\r\n\
        Proxy-Connection: close\r\n\
        TE: gzip, Trailers\r\n\
        Trailer: x\r\n\
        Upgrade: websocket\r\n\
        HTTP2-Settings: AAMAAABkAAQAAP__\r\n\
        Proxy-Authenticate: Basic\r\n\
        X-Stay: 1\r\n\
        \r\n";
    request(message, |head| {
        let stay = head.fields.iter().filter(|field| !head.is_hop_by_hop(field));
        let stay: Vec<_> = stay.map(|field| field.name).collect();
        assert_eq!(stay, ["Host", "Trailer", "Proxy-Authenticate", "X-Stay"]);
        assert_eq!(head.field("X-HOP").unwrap().kind, FieldKind::Nominated);
        assert_eq!(
            head.connection,
            ConnectionOptions { close: true, keep_alive: true, upgrade: true, names_others: true }
        );
        assert!(head.te_trailers);
        assert_eq!(head.upgrade, Some(b"websocket".as_slice()));
    });
    let message = b"HTTP/1.1 200 OK\r\nConnection: x-hop, trailer\r\nX-Hop: 1\r\nTrailer: a\r\n\
        Transfer-Encoding: chunked\r\nX-Stay: 1\r\n\r\n";
    response(message, |head| {
        let stay = head.fields.iter().filter(|field| !head.is_hop_by_hop(field));
        assert_eq!(stay.map(|field| field.name).collect::<Vec<_>>(), ["X-Stay"]);
    });
}

#[test]
fn upgrade_counts_only_where_connection_lists_it() {
    for (message, upgrade) in [
        (
            &b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: a, b/1\r\n\r\n"[..],
            Some("a, b/1"),
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: a\r\nUpgrade: b\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade:\r\n\r\n", None),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", None),
    ] {
        request(message, |head| assert_eq!(head.upgrade, upgrade.map(str::as_bytes)));
    }
    let switching =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    response(switching, |head| {
        assert_eq!(head.upgrade, Some(b"websocket".as_slice()));
        assert_eq!(head.framing(Method::Get), Ok(BodyFraming::None));
    });
}

#[test]
fn expectation_counts_only_with_a_body_in_http11() {
    for (message, expects) in [
        (&b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n"[..], true),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n", true),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", false),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", false),
        (b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", false),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", false),
    ] {
        request(message, |head| assert_eq!(head.expect_continue, expects));
    }
}

#[test]
fn response_framing_of_rfc9112_6_3() {
    const LENGTH: &str = "Content-Length: 5\r\n";
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    for (status, fields, method, framing) in [
        (200, "", Method::Get, BodyFraming::UntilClose),
        (200, LENGTH, Method::Get, BodyFraming::Length(5)),
        (200, CHUNKED, Method::Get, BodyFraming::Chunked),
        (200, "Content-Length: 0\r\n", Method::Get, BodyFraming::Length(0)),
        (200, LENGTH, Method::Head, BodyFraming::None),
        (200, CHUNKED, Method::Head, BodyFraming::None),
        (404, "", Method::Head, BodyFraming::None),
        (304, LENGTH, Method::Get, BodyFraming::None),
        (304, CHUNKED, Method::Get, BodyFraming::None),
        (100, "", Method::Post, BodyFraming::None),
        (103, "", Method::Get, BodyFraming::None),
        (204, "", Method::Get, BodyFraming::None),
        (205, "", Method::Get, BodyFraming::UntilClose),
        (200, "", Method::Connect, BodyFraming::None),
        (299, LENGTH, Method::Connect, BodyFraming::None),
        (200, CHUNKED, Method::Connect, BodyFraming::None),
        (407, LENGTH, Method::Connect, BodyFraming::Length(5)),
        (502, "", Method::Connect, BodyFraming::UntilClose),
        (999, LENGTH, Method::Get, BodyFraming::Length(5)),
    ] {
        let message = format!("HTTP/1.1 {status} \r\n{fields}\r\n");
        response(message.as_bytes(), |head| {
            assert_eq!(head.framing(method), Ok(framing), "{method:?} {message}");
        });
    }
}

#[test]
fn reason_phrase_may_be_absent_or_foreign() {
    response(b"HTTP/1.1 200\r\n\r\n", |head| assert_eq!(head.reason, ""));
    response(b"HTTP/1.1 200 \r\n\r\n", |head| assert_eq!(head.reason, ""));
    response(b"HTTP/1.1 200 D\xe9j\xe0\r\n\r\n", |head| assert_eq!(head.reason, ""));
    response(b"HTTP/1.1 404 Not  Found\r\n\r\n", |head| assert_eq!(head.reason, "Not  Found"));
}

#[test]
fn head_bytes_are_limited() {
    let message = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let limits = |bytes_max| HeadLimits { bytes_max, fields_max: 8 };
    let parse = |buf: &[u8], bytes_max| {
        let mut storage = FieldStorage::new();
        let head = RequestHead::parse(buf, &mut storage, &limits(bytes_max));
        head.map(|head| head.map(|head| head.len))
    };
    assert_eq!(parse(message, message.len()), Ok(Some(message.len())));
    assert_eq!(parse(message, message.len() - 1), Err(HeadError::TooLarge));
    // An incomplete head is refused as soon as it can't fit any more, and not before.
    assert_eq!(parse(&message[..10], 11), Ok(None));
    assert_eq!(parse(&message[..11], 11), Err(HeadError::TooLarge));
    assert_eq!(parse(b"", 0), Err(HeadError::TooLarge));
    // What follows the head does not count.
    let pipelined = [&message[..], message].concat();
    assert_eq!(parse(&pipelined, message.len()), Ok(Some(message.len())));

    let message = b"HTTP/1.1 200 OK\r\n\r\n";
    let parse = |bytes_max| {
        let mut storage = FieldStorage::new();
        let head = ResponseHead::parse(message, &mut storage, &limits(bytes_max));
        head.map(|head| head.map(|head| head.len))
    };
    assert_eq!(parse(message.len()), Ok(Some(message.len())));
    assert_eq!(parse(message.len() - 1), Err(HeadError::TooLarge));
}

#[test]
fn fields_are_limited() {
    for (fields_max, count, fits) in [
        (3, 3, true),
        (3, 4, false),
        (0, 0, true),
        (0, 1, false),
        (FIELDS_MAX, FIELDS_MAX, true),
        (FIELDS_MAX, FIELDS_MAX + 1, false),
        (usize::MAX, FIELDS_MAX, true),
        (usize::MAX, FIELDS_MAX + 1, false),
    ] {
        let limits = HeadLimits { bytes_max: 64 * 1024, fields_max };
        let message = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(count));
        let mut storage = FieldStorage::new();
        let head = ResponseHead::parse(message.as_bytes(), &mut storage, &limits);
        let expected = if fits { Ok(count) } else { Err(HeadError::FieldsTooMany) };
        let fields = head.map(|head| head.unwrap().fields.len());
        assert_eq!(fields, expected, "{count} of at most {fields_max}");
    }
}

#[test]
fn connection_options_are_limited() {
    let parse = |count: usize| {
        let options: Vec<_> = (0..count).map(|number| format!("x-{number}")).collect();
        let message = format!("HTTP/1.1 200 OK\r\nConnection: {}\r\n\r\n", options.join(","));
        let mut storage = FieldStorage::new();
        let head = ResponseHead::parse(message.as_bytes(), &mut storage, &HeadLimits::default());
        head.map(|head| head.is_some())
    };
    assert_eq!(parse(CONNECTION_OPTIONS_MAX), Ok(true));
    assert_eq!(parse(CONNECTION_OPTIONS_MAX + 1), Err(HeadError::ConnectionOptionsTooMany));
}

#[test]
fn storage_can_be_used_again_for_the_same_bytes() {
    let buf = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\nX: y\r\n\r\n";
    let mut storage = FieldStorage::new();
    let limits = HeadLimits::default();
    let len = RequestHead::parse(buf, &mut storage, &limits).unwrap().unwrap().len;
    let second = RequestHead::parse(&buf[len..], &mut storage, &limits).unwrap().unwrap();
    assert_eq!((second.authority, second.fields.len()), ("b", 2));
}

#[test]
fn every_prefix_is_incomplete() {
    let message =
        b"\r\nPOST http://a/b?c HTTP/1.1\r\nHost: a:80\r\nX:  y \r\nContent-Length: 5\r\n\r\n";
    for len in 0..message.len() {
        let mut storage = FieldStorage::new();
        let head = RequestHead::parse(&message[..len], &mut storage, &HeadLimits::default());
        assert_eq!(head, Ok(None), "{len} bytes");
    }
}

fn request(message: &[u8], check: impl FnOnce(RequestHead<'_, '_>)) {
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(message, &mut storage, &HeadLimits::default());
    check(head.expect("well-formed").expect("complete"));
}

fn response(message: &[u8], check: impl FnOnce(ResponseHead<'_, '_>)) {
    let mut storage = FieldStorage::new();
    let head = ResponseHead::parse(message, &mut storage, &HeadLimits::default());
    check(head.expect("well-formed").expect("complete"));
}
