//! Messages that break a rule of RFC 9113 section 8, and what becomes of those that don't.

use outrigger_codecs::http::{
    BodyForbidden, BodyFraming, FieldBlock, FieldStorage, Method, Target, Version,
};
use outrigger_codecs::http2::{
    Config, ConnectionCause as Cause, MessageError, Reason, StreamCause, request_head,
    response_head, trailers,
};

use crate::fate::Fate::{Ignored, Stream as Resets};
use crate::fate::{fate, resilient};
use crate::frames::*;

#[test]
fn requests_that_break_a_rule() {
    use MessageError as E;
    let get = |more: &[(&str, &str)]| -> Vec<u8> {
        let fields = GET.iter().chain(more);
        fields.flat_map(|(name, value)| literal(name, value.as_bytes())).collect()
    };
    let only = |fields: &[(&str, &str)]| -> Vec<u8> {
        fields.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect()
    };
    let with = |name: &str, value: &str| -> Vec<u8> {
        let fields = GET.iter().map(|field| if field.0 == name { (name, value) } else { *field });
        only(&fields.collect::<Vec<_>>())
    };
    let without =
        |name: &str| only(&GET.iter().copied().filter(|f| f.0 != name).collect::<Vec<_>>());
    let cases: Vec<(Vec<u8>, Option<MessageError>)> = vec![
        (get(&[]), None),
        (get(&[("x", "a\tb")]), None),
        (get(&[("te", "trailers")]), None),
        (get(&[("te", "Trailers")]), None),
        (get(&[("host", "A.example")]), None),
        (get(&[("content-length", "0")]), None),
        (get(&[("expect", "the-unexpected")]), None),
        (get(&[("X", "a")]), Some(E::FieldInvalid)),
        (get(&[("x y", "a")]), Some(E::FieldInvalid)),
        (get(&[("", "a")]), Some(E::FieldInvalid)),
        (get(&[("x", " a")]), Some(E::FieldInvalid)),
        (get(&[("x", "a\t")]), Some(E::FieldInvalid)),
        (get(&[("x", "a\r\nb: c")]), Some(E::FieldInvalid)),
        (get(&[("x", "a\0b")]), Some(E::FieldInvalid)),
        (get(&[(":unknown", "x")]), Some(E::PseudoUnknown)),
        (get(&[(":status", "200")]), Some(E::PseudoUnknown)),
        (get(&[("x", "y"), (":path", "/")]), Some(E::PseudoMisplaced)),
        (get(&[(":path", "/")]), Some(E::PseudoRepeated)),
        (get(&[(":method", "GET")]), Some(E::PseudoRepeated)),
        (get(&[(":scheme", "http")]), Some(E::PseudoRepeated)),
        (get(&[(":authority", "a.example")]), Some(E::PseudoRepeated)),
        (without(":method"), Some(E::PseudoSet)),
        (without(":scheme"), Some(E::PseudoSet)),
        (without(":path"), Some(E::PseudoSet)),
        (without(":authority"), Some(E::AuthorityMissing)),
        (only(&[]), Some(E::PseudoSet)),
        (with(":method", ""), Some(E::MethodInvalid)),
        (with(":method", "GE T"), Some(E::MethodInvalid)),
        (with(":scheme", "ftp"), Some(E::SchemeInvalid)),
        (with(":scheme", ""), Some(E::SchemeInvalid)),
        (with(":scheme", "HTTPS"), None),
        (with(":path", ""), Some(E::PathInvalid)),
        (with(":path", "x"), Some(E::PathInvalid)),
        (with(":path", "*"), Some(E::PathInvalid)),
        (with(":path", "/a b"), Some(E::PathInvalid)),
        (with(":path", "/a#b"), Some(E::PathInvalid)),
        (with(":path", "/\u{e9}"), Some(E::PathInvalid)),
        (with(":path", "http://a/"), Some(E::PathInvalid)),
        (with(":authority", ""), Some(E::AuthorityInvalid)),
        (with(":authority", "user@a.example"), Some(E::AuthorityInvalid)),
        (with(":authority", "a.example:0"), Some(E::AuthorityInvalid)),
        (get(&[("host", "b.example")]), Some(E::AuthorityTwofold)),
        (get(&[("host", "a.example"), ("host", "a.example")]), Some(E::HostRepeated)),
        (get(&[("connection", "close")]), Some(E::ConnectionSpecific)),
        (get(&[("proxy-connection", "close")]), Some(E::ConnectionSpecific)),
        (get(&[("keep-alive", "1")]), Some(E::ConnectionSpecific)),
        (get(&[("transfer-encoding", "chunked")]), Some(E::ConnectionSpecific)),
        (get(&[("upgrade", "h2c")]), Some(E::ConnectionSpecific)),
        (get(&[("te", "trailers, deflate")]), Some(E::TeInvalid)),
        (get(&[("te", "")]), Some(E::TeInvalid)),
        (get(&[("content-length", "1")]), Some(E::ContentLengthWrong)),
        (get(&[("content-length", "+0")]), Some(E::ContentLengthInvalid)),
        (get(&[("content-length", "0, 0")]), Some(E::ContentLengthInvalid)),
        (get(&[("content-length", "0"), ("content-length", "0")]), Some(E::ContentLengthRepeated)),
        // OPTIONS may be for the server as a whole.
        (
            only(&[
                (":method", "OPTIONS"),
                (":scheme", "http"),
                (":path", "*"),
                (":authority", "a"),
            ]),
            None,
        ),
        // CONNECT, plain and extended.
        (only(&[(":method", "CONNECT"), (":authority", "a:443")]), None),
        (only(&[(":method", "CONNECT"), (":authority", "a:443"), ("content-length", "0")]), None),
        (only(&[(":method", "CONNECT"), (":authority", "a")]), Some(E::AuthorityInvalid)),
        (only(&[(":method", "CONNECT"), ("host", "a:443")]), Some(E::PseudoSet)),
        (
            only(&[(":method", "CONNECT"), (":path", "/"), (":authority", "a:443")]),
            Some(E::PseudoSet),
        ),
        (
            only(&[(":method", "CONNECT"), (":scheme", "http"), (":authority", "a:443")]),
            Some(E::PseudoSet),
        ),
        (
            only(&[(":method", "CONNECT"), (":authority", "a:443"), ("content-length", "1")]),
            Some(E::ConnectWithContent),
        ),
        (with_protocol("CONNECT", "websocket"), None),
        (with_protocol("CONNECT", ""), Some(E::ProtocolInvalid)),
        (with_protocol("CONNECT", "a/b"), Some(E::ProtocolInvalid)),
        (with_protocol("GET", "websocket"), Some(E::ProtocolInvalid)),
        (get(&[(":protocol", "x"), (":protocol", "x")]), Some(E::PseudoRepeated)),
    ];
    let strict = Config { enable_connect_protocol: true, ..Config::default() };
    let lenient = Config { enable_connect_protocol: true, ..resilient() };
    for (block, expected) in cases {
        let name = block.escape_ascii().to_string();
        let input = frame(HEADERS, WHOLE | END, 1, &block);
        let mut strict = server(strict);
        match (feed(&mut strict, &input), expected) {
            (Ok(told), None) => assert!(matches!(told[..], [Told::Headers { .. }]), "{name}"),
            (Err(error), Some(expected)) => {
                assert_eq!(error.cause, Cause::MessageInvalid(expected), "{name}");
            }
            (other, _) => panic!("{name}: {other:?}, not {expected:?}"),
        }
        let Some(_) = expected else { continue };
        let mut lenient = server(lenient);
        // The next stream is served, whatever became of this one.
        let told = feed(&mut lenient, &[input, headers(3, END, GET)].concat()).unwrap();
        assert_eq!(told, [request(3, true, GET)], "{name}");
        assert_eq!(lenient.counters().rx_messaging_error, 1);
        let resets: Vec<_> =
            sent(&mut lenient).into_iter().filter(|f| f.kind == RST_STREAM).collect();
        assert_eq!(resets.len(), 1, "{name}");
        assert_eq!(resets[0].payload, Reason::PROTOCOL_ERROR.0.to_be_bytes(), "{name}");
    }
}

fn with_protocol(method: &str, protocol: &str) -> Vec<u8> {
    let fields = [
        (":method", method),
        (":protocol", protocol),
        (":scheme", "https"),
        (":path", "/chat"),
        (":authority", "a.example"),
    ];
    fields.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect()
}

#[test]
fn extended_connect_must_be_announced() {
    let request = frame(HEADERS, WHOLE, 1, &with_protocol("CONNECT", "websocket"));
    let refused = feed(&mut server(Config::default()), &request).unwrap_err();
    assert_eq!(refused.cause, Cause::MessageInvalid(MessageError::ProtocolInvalid));

    let mut client = client(Config::default());
    assert!(!client.peer_enables_connect_protocol());
    assert_eq!(feed(&mut client, &settings(8, 1)).unwrap(), []);
    assert!(client.peer_enables_connect_protocol());
}

#[test]
fn content_agrees_with_its_length() {
    let post =
        |length: &'static str| headers(1, 0, &[POST, &[("content-length", length)]].concat());
    let trailers = headers(1, END, &[("x", "y")]);
    let wrong = Resets(1, StreamCause::MessageInvalid(MessageError::ContentLengthWrong));
    for (name, input, expected) in [
        ("exact", vec![post("4"), data(1, END, b"abcd")], Ignored),
        ("exact, in two", vec![post("4"), data(1, 0, b"ab"), data(1, END, b"cd")], Ignored),
        ("exact, end apart", vec![post("4"), data(1, 0, b"abcd"), data(1, END, b"")], Ignored),
        ("exact, padded", vec![post("4"), data(1, END | PADDED, b"\x02abcd\0\0")], Ignored),
        ("exact, trailers", vec![post("4"), data(1, 0, b"abcd"), trailers.clone()], Ignored),
        ("none", vec![post("0"), data(1, END, b"")], Ignored),
        ("too long", vec![post("4"), data(1, 0, b"abcde")], wrong),
        ("too long by padding", vec![post("2"), data(1, PADDED, b"\x01abcd\0")], wrong),
        ("too long in two", vec![post("4"), data(1, 0, b"abcd"), data(1, 0, b"e")], wrong),
        ("too short", vec![post("4"), data(1, END, b"abc")], wrong),
        ("too short, padded", vec![post("4"), data(1, END | PADDED, b"\x01abc\0")], wrong),
        ("too short, end apart", vec![post("4"), data(1, 0, b"abc"), data(1, END, b"")], wrong),
        ("too short, trailers", vec![post("4"), data(1, 0, b"abc"), trailers], wrong),
        ("some for none", vec![post("0"), data(1, END, b"x")], wrong),
    ] {
        let (found, told) = fate(name, &|| server(resilient()), &input.concat());
        assert_eq!(found, expected, "{name}");
        let ended = told
            .iter()
            .any(|told| matches!(told, Told::Data { end: true, .. } | Told::Trailers { .. }));
        assert_eq!(ended, expected == Ignored, "{name}");
    }
}

#[test]
fn content_of_responses_depends_on_method_and_status() {
    let answer = |fields: &Fields| headers(1, 0, fields);
    let ok_4 = &[(":status", "200"), ("content-length", "4")][..];
    let wrong = Some(MessageError::ContentLengthWrong);
    for (name, method, input, expected) in [
        ("get", Method::Get, vec![answer(ok_4), data(1, END, b"abcd")], None),
        ("get, short", Method::Get, vec![answer(ok_4), data(1, END, b"abc")], wrong),
        ("get, none", Method::Get, vec![headers(1, END, ok_4)], wrong),
        ("head", Method::Head, vec![headers(1, END, ok_4)], None),
        ("head, end apart", Method::Head, vec![answer(ok_4), data(1, END, b"")], None),
        ("head with content", Method::Head, vec![answer(ok_4), data(1, END, b"abcd")], wrong),
        (
            "not modified",
            Method::Get,
            vec![headers(1, END, &[(":status", "304"), ("content-length", "4")])],
            None,
        ),
        ("no content", Method::Get, vec![answer(&[(":status", "204")]), data(1, END, b"")], None),
        (
            "no content but some",
            Method::Get,
            vec![answer(&[(":status", "204")]), data(1, 0, b"x")],
            wrong,
        ),
        ("tunnel", Method::Connect, vec![answer(ok_4), data(1, END, b"abcdefgh")], None),
        (
            "no tunnel",
            Method::Connect,
            vec![answer(&[(":status", "400"), ("content-length", "4")]), data(1, END, b"abc")],
            wrong,
        ),
        (
            "interim heads",
            Method::Post,
            vec![
                answer(&[(":status", "100")]),
                answer(&[(":status", "103"), ("link", "x")]),
                answer(ok_4),
                data(1, 0, b"abcd"),
                headers(1, END, &[("grpc-status", "0")]),
            ],
            None,
        ),
    ] {
        let make = || {
            let mut client = client(resilient());
            let id = client.open_stream(method).unwrap();
            send_headers(&mut client, id, true, GET);
            client.output().clear();
            client
        };
        let expected = match expected {
            Some(error) => Resets(1, StreamCause::MessageInvalid(error)),
            None => Ignored,
        };
        assert_eq!(fate(name, &make, &input.concat()).0, expected, "{name}");
    }
}

#[test]
fn responses_and_trailers_that_break_a_rule() {
    use MessageError as E;
    let head = |fields: &[(&str, &str)]| {
        let block: Vec<u8> =
            fields.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect();
        vec![frame(HEADERS, WHOLE, 1, &block)]
    };
    let trailers = |fields: &[(&str, &str)]| {
        let block: Vec<u8> =
            fields.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect();
        vec![headers(1, 0, OK), frame(HEADERS, WHOLE | END, 1, &block)]
    };
    for (input, expected) in [
        (head(&[]), E::PseudoSet),
        (head(&[("x", "y")]), E::PseudoSet),
        (head(&[(":status", "")]), E::StatusInvalid),
        (head(&[(":status", "20")]), E::StatusInvalid),
        (head(&[(":status", "0200")]), E::StatusInvalid),
        (head(&[(":status", "099")]), E::StatusInvalid),
        (head(&[(":status", "+20")]), E::StatusInvalid),
        (head(&[(":status", "200"), (":status", "200")]), E::PseudoRepeated),
        (head(&[("x", "y"), (":status", "200")]), E::PseudoMisplaced),
        (head(&[(":status", "200"), (":path", "/")]), E::PseudoUnknown),
        (head(&[(":status", "200"), ("connection", "close")]), E::ConnectionSpecific),
        (head(&[(":status", "200"), ("X", "y")]), E::FieldInvalid),
        (head(&[(":status", "200"), ("content-length", "-1")]), E::ContentLengthInvalid),
        (trailers(&[(":path", "/")]), E::PseudoMisplaced),
        (trailers(&[("x", "y"), (":status", "200")]), E::PseudoMisplaced),
        (trailers(&[("transfer-encoding", "chunked")]), E::ConnectionSpecific),
        (trailers(&[("content-length", "0")]), E::TrailerForbidden),
        (trailers(&[("host", "a")]), E::TrailerForbidden),
        (trailers(&[("te", "trailers")]), E::TrailerForbidden),
        (trailers(&[("X", "y")]), E::FieldInvalid),
    ] {
        let make = || {
            let mut client = client(resilient());
            let id = client.open_stream(Method::Get).unwrap();
            send_headers(&mut client, id, true, GET);
            client.output().clear();
            client
        };
        let name = input.concat().escape_ascii().to_string();
        let expected = Resets(1, StreamCause::MessageInvalid(expected));
        assert_eq!(fate(&name, &make, &input.concat()).0, expected, "{name}");
    }
}

#[test]
fn cookies_in_crumbs_become_one() {
    let mut server = server(Config::default());
    let crumbs = [
        block(GET),
        literal("cookie", b"a=1"),
        literal("x", b"y"),
        // A never-indexed literal (RFC 7541 section 6.2.3).
        [&[0x10][..], &literal("cookie", b"b=2")[1..]].concat(),
        literal("cookie", b"c=3"),
    ];
    for id in [1, 3] {
        let told = feed(&mut server, &frame(HEADERS, WHOLE | END, id, &crumbs.concat())).unwrap();
        let expected = [GET, &[("cookie", "a=1; b=2; c=3"), ("x", "y")]].concat();
        assert_eq!(told, [request(id, true, &expected)]);
        let never_indexed: Vec<bool> = server.block().iter().map(|f| f.never_indexed).collect();
        assert_eq!(never_indexed, [false, false, false, false, true, false]);
    }
}

#[test]
fn trailers_are_told_and_counted() {
    let mut server = server(Config::default());
    let input = [headers(1, 0, POST), data(1, 0, b"x"), headers(1, END, &[("grpc-status", "0")])];
    let told = feed(&mut server, &input.concat()).unwrap();
    assert_eq!(told[2], Told::Trailers { id: 1, fields: owned(&[("grpc-status", "0")]) });
    assert_eq!(server.counters().trailers, 1);
    assert_eq!(server.counters(), Default::default(), "counters are taken");
}

#[test]
fn request_heads_say_what_was_sent() {
    let field_block = |fields: &[(&str, &str)]| {
        let mut block = FieldBlock::default();
        fields.iter().for_each(|(name, value)| block.push(name, value.as_bytes()));
        block
    };
    let block = field_block(&[
        (":method", "POST"),
        (":scheme", "HTTPS"),
        (":authority", "a.example:8443"),
        (":path", "/a?b=c"),
        ("te", "trailers"),
        ("expect", "100-Continue"),
        ("content-length", "3"),
    ]);
    let mut storage = FieldStorage::new();
    let head = request_head(&block, false, &mut storage).unwrap();
    assert_eq!(
        (head.method, head.method_text, head.version),
        (Method::Post, "POST", Version::Http2)
    );
    assert_eq!((head.target, head.authority), (Target::Origin("/a?b=c"), "a.example:8443"));
    assert_eq!((head.scheme, head.upgrade), (Some("https"), None));
    assert_eq!((head.framing, head.len), (BodyFraming::Length(3), block.text_len()));
    assert!(head.te_trailers && head.expect_continue && head.keep_alive());
    let names: Vec<_> = head.fields.iter().map(|field| field.name).collect();
    assert_eq!(names, ["te", "expect", "content-length"]);

    for (end_stream, framing) in [(true, BodyFraming::None), (false, BodyFraming::Chunked)] {
        let block =
            field_block(&[&GET[..3], &[("host", "b"), ("expect", "100-continue")]].concat());
        let mut storage = FieldStorage::new();
        let head = request_head(&block, end_stream, &mut storage).unwrap();
        assert_eq!(
            (head.authority, head.framing, head.expect_continue),
            ("b", framing, !end_stream)
        );
        assert!(!head.te_trailers);
    }
    let options =
        [(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), (":authority", "a")];
    let tunnel = [(":method", "CONNECT"), (":authority", "a:443")];
    let websocket = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/chat"),
        (":authority", "a"),
    ];
    for (fields, target, upgrade, framing) in [
        (&options[..], Target::Asterisk, None, BodyFraming::Chunked),
        (&tunnel[..], Target::Authority("a:443"), None, BodyFraming::None),
        (&websocket[..], Target::Origin("/chat"), Some(&b"websocket"[..]), BodyFraming::None),
    ] {
        let block = field_block(fields);
        let mut storage = FieldStorage::new();
        let head = request_head(&block, false, &mut storage).unwrap();
        assert_eq!((head.target, head.upgrade, head.framing), (target, upgrade, framing));
    }
}

#[test]
fn response_heads_say_how_their_content_ends() {
    for (status, length, end_stream, framing) in [
        ("200", None, false, Ok(BodyFraming::Chunked)),
        ("200", None, true, Ok(BodyFraming::Length(0))),
        ("200", Some("5"), false, Ok(BodyFraming::Length(5))),
        ("103", None, false, Ok(BodyFraming::None)),
        ("204", None, false, Ok(BodyFraming::None)),
        ("204", Some("5"), false, Err(BodyForbidden)),
        ("304", Some("5"), true, Ok(BodyFraming::None)),
        ("999", None, false, Ok(BodyFraming::Chunked)),
    ] {
        let mut block = FieldBlock::default();
        block.push(":status", status.as_bytes());
        block.push("server", b"x");
        if let Some(length) = length {
            block.push("content-length", length.as_bytes());
        }
        let mut storage = FieldStorage::new();
        let head = response_head(&block, end_stream, &mut storage).unwrap();
        assert_eq!((head.status.to_string(), head.ended), (status.to_owned(), end_stream));
        assert_eq!(head.framing(Method::Get), framing, "{status} {length:?} {end_stream}");
        assert_eq!((head.fields[0].name, head.version), ("server", Version::Http2));
    }
}

#[test]
fn trailers_keep_what_they_may_carry() {
    let mut block = FieldBlock::default();
    block.push("grpc-status", b"0");
    block.push("x-request-id", b"1");
    let mut storage = FieldStorage::new();
    let fields = trailers(&block, &mut storage).unwrap();
    assert_eq!(
        fields.iter().map(|field| field.name).collect::<Vec<_>>(),
        ["grpc-status", "x-request-id"]
    );
}

#[test]
fn told_fields_can_be_taken() {
    let mut server = server(Config::default());
    feed(&mut server, &headers(1, END, GET)).unwrap();
    let mut taken = FieldBlock::default();
    server.swap_block(&mut taken);
    assert_eq!((taken.len(), server.block().is_empty()), (4, true));
    assert_eq!(feed(&mut server, &headers(3, END, GET)).unwrap(), [request_of(3)]);
}
