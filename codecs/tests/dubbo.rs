//! The Dubbo 2 codec against the reference's vectors (dubbo.md section 11), and what edits leave.

#[path = "dubbo/edits.rs"]
mod edits;
#[path = "support/hessian2.rs"]
mod hessian2;
#[path = "support/mutate.rs"]
#[allow(dead_code, reason = "only its random numbers")]
mod mutate;
#[path = "dubbo/vectors.rs"]
mod vectors;

use hessian2::{Encoder, Value};
use outrigger_codecs::rpc::{
    Call, CallError, Detail, Dubbo, Failure, Frame, FrameError, FrameFault, Kind, Outcome,
    Progress, RpcCodec, Tag,
};
use vectors::{VECTORS, bytes, vector};

const DUBBO: Dubbo = Dubbo { max_frame_bytes: 16 + (8 << 20) };

/// The whole frame that `bytes` are.
fn frame(bytes: &[u8]) -> Frame {
    match DUBBO.frame(bytes) {
        Ok(Progress::Frame(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

fn call(bytes: &[u8], detail: Detail) -> Result<Call<'_>, CallError> {
    DUBBO.call(&frame(bytes), bytes, detail)
}

fn headers(bytes: &[u8]) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    DUBBO.headers(&frame(bytes), bytes, &mut |name, value| {
        all.push((text(name), text(value)));
        true
    });
    all
}

/// A frame with the length of its body set.
fn framed(flags: u8, status: u8, id: u64, body: &[u8]) -> Vec<u8> {
    let len = body.len() as u32;
    let head = [&[0xda, 0xbb, flags, status][..], &id.to_be_bytes(), &len.to_be_bytes()].concat();
    [&head, body].concat()
}

/// A two-way request of one service, in Hessian 2.
fn request(method: &str, descriptor: &str, arguments: &[Value], attachments: &Value) -> Vec<u8> {
    let mut encoder = Encoder::new(1);
    for name in ["2.0.2", "com.foo.Hello", "1.0.0", method, descriptor] {
        encoder.name(name);
    }
    for value in arguments {
        encoder.put(value);
    }
    if let Value::Map(name, entries) = attachments {
        let entries: Vec<(String, Value)> = entries
            .iter()
            .map(|(key, value)| {
                let Value::Text(key) = key else { panic!("a name") };
                (String::from_utf16(key).expect("a name"), value.clone())
            })
            .collect();
        encoder.attachments(name.as_deref(), &entries);
    } else {
        encoder.put(attachments);
    }
    framed(0xc2, 0, 1, &encoder.out)
}

/// A request in fastjson2: values without their lengths.
fn fastjson2(values: &[&[u8]]) -> Vec<u8> {
    let values = values.iter();
    let body = values.flat_map(|value| [&(value.len() as u32).to_be_bytes(), *value].concat());
    framed(0xd7, 0, 1, &body.collect::<Vec<u8>>())
}

/// A request for method `q` of `a.B`, without arguments.
fn fastjson2_with(attachments: &[u8]) -> Vec<u8> {
    fastjson2(&[b"\x4e2.0.2", b"\x4ca.B", b"\x49", b"\x4aq", b"\x49", attachments])
}

#[test]
fn frames_are_told_by_their_headers() {
    for (name, kind, id, len) in [
        ("D1", Kind::Request, 1, 154),
        ("D2", Kind::Response, 1, 37),
        ("D3", Kind::Response, 1, 28),
        ("D4", Kind::Heartbeat, 7, 17),
        ("D5", Kind::HeartbeatReply, 7, 17),
        ("D6", Kind::Goodbye, 9, 18),
        ("D7", Kind::Response, 1, 23),
        ("D8", Kind::Oneway, u64::MAX - 1, 154),
        ("D9", Kind::Response, u64::MAX - 1, 33),
        ("D10", Kind::Response, 3, 25),
        ("D11", Kind::Request, 2, 187),
        ("D12", Kind::Request, 4, 49),
        ("D13", Kind::Request, 5, 112),
        ("D14", Kind::Heartbeat, 8, 21),
        ("D15", Kind::HeartbeatReply, 8, 21),
        ("D16", Kind::Goodbye, 9, 22),
    ] {
        let frame = frame(&vector(name));
        assert_eq!((frame.kind, frame.id, frame.len), (kind, id, len), "{name}");
        assert_eq!((frame.id_end, frame.timeout_ms), (12, None), "{name}");
        let status = match name {
            "D3" => 60,
            "D9" => 31,
            "D10" => 100,
            "D2" | "D5" | "D7" | "D15" => 20,
            _ => 0,
        };
        assert_eq!(frame.status, status, "{name}");
        let head_len = if kind == Kind::Response { len.min(32) } else { len };
        assert_eq!(frame.head_len, head_len, "{name}");
        let serialization = if matches!(name, "D13" | "D14" | "D15" | "D16") { 23 } else { 2 };
        assert_eq!(frame.tag, Tag([serialization, 0, 0, 0]), "{name}");
    }
}

#[test]
fn a_frame_is_the_same_however_it_comes() {
    for (name, hex) in VECTORS {
        let whole = [&bytes(hex)[..], b"\xda\xbb\xc2"].concat();
        let told = DUBBO.frame(&whole);
        for cut in 0..whole.len() {
            match DUBBO.frame(&whole[..cut]) {
                Ok(Progress::NeedMore(more)) => {
                    assert!(more > cut && more <= 80, "{name} cut at {cut}: {more}");
                    assert!(more <= whole.len(), "{name} cut at {cut}: {more}");
                }
                early => assert_eq!(early, told, "{name} cut at {cut}"),
            }
        }
    }
}

#[test]
fn bad_frames_are_refused() {
    let fault = |bytes: &[u8]| DUBBO.frame(bytes).expect_err("malformed");
    let closed = |reason, at| FrameError { reason, at, answer: None };
    assert_eq!(fault(&vector("DM1")), closed(FrameFault::Length, 12));
    assert_eq!(fault(&vector("DM2")), closed(FrameFault::Protocol, 1));
    assert_eq!(fault(b"x"), closed(FrameFault::Protocol, 0));

    let mut long = vector("DM3");
    let answer = Some((Tag([2, 0, 0, 0]), 1, Failure::TooLarge));
    let too_large = FrameError { reason: FrameFault::TooLarge, at: 12, answer };
    assert_eq!(fault(&long), too_large);
    for flags in [0x82, 0x02, 0x42] {
        long[2] = flags;
        assert_eq!(fault(&long), closed(FrameFault::TooLarge, 12), "{flags:#x}");
    }
    (long[2], long[15]) = (0xc2, 0);
    assert_eq!(frame(&long).len, DUBBO.max_frame_bytes);
    assert_eq!(Dubbo::default(), DUBBO);

    // Events are short.
    let mut event = framed(0xe2, 0, 1, &[0; 64]);
    assert_eq!(frame(&event).kind, Kind::Heartbeat);
    event[15] = 65;
    assert_eq!(fault(&event), closed(FrameFault::TooLarge, 12));
    event[2] = 0x22;
    assert_eq!(fault(&event), closed(FrameFault::TooLarge, 12));
}

#[test]
fn events_are_told_by_their_bodies() {
    let kind = |flags, body| frame(&framed(flags, 0, 1, body)).kind;
    assert_eq!(kind(0xa2, b"\x01R"), Kind::Goodbye);
    assert_eq!(kind(0xa2, b"\x53\x00\x01R"), Kind::Goodbye);
    assert_eq!(kind(0xa2, b"\x01W"), Kind::Welcome);
    assert_eq!(kind(0xb7, b"\x00\x00\x00\x02\x4aW"), Kind::Welcome);
    assert_eq!(kind(0xe2, b"\x01R"), Kind::Goodbye);
    // What wants an answer gets one.
    assert_eq!(kind(0xe2, b""), Kind::Heartbeat);
    assert_eq!(kind(0xe2, b"\x4e\x4e"), Kind::Heartbeat);
    assert_eq!(kind(0xe3, b"\xac\xed\x00\x05\x70"), Kind::Heartbeat);
    assert_eq!(kind(0xa2, b"\x4e"), Kind::HeartbeatReply);
    assert_eq!(kind(0xa2, b"\x01X"), Kind::Opaque);
    assert_eq!(kind(0xa3, b"\x01R"), Kind::Opaque);
    assert_eq!(kind(0x22, b"\x01R"), Kind::HeartbeatReply);
}

#[test]
fn ids_are_written_in_place() {
    let mut d1 = vector("D1");
    let frame_before = frame(&d1);
    for id in [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1_0000_0000, u64::MAX] {
        DUBBO.set_id(&frame_before, &mut d1, id);
        assert_eq!(frame(&d1), Frame { id, ..frame_before });
    }
    DUBBO.set_id(&frame_before, &mut d1, u64::MAX - 1);
    d1[2] = 0x82;
    assert_eq!(d1, vector("D8"));
    assert_eq!((DUBBO.id_bits(), DUBBO.name()), (64, "dubbo"));
    DUBBO.set_id(&frame_before, &mut d1[..11], 1);
    assert_eq!(d1, vector("D8"));
}

#[test]
fn names_come_first_and_attachments_last() {
    let expected = Call {
        service: b"com.foo.Hello",
        method: b"sayHello",
        version: b"1.0.0",
        group: b"",
        timeout_ms: None,
        binds: false,
        complete: false,
    };
    let all = Call { group: b"g1", complete: true, ..expected };
    for (name, timeout_ms) in [("D1", Some(3000)), ("D8", Some(3000)), ("D13", None)] {
        let bytes = vector(name);
        assert_eq!(call(&bytes, Detail::Names), Ok(expected), "{name}");
        assert_eq!(call(&bytes, Detail::All), Ok(Call { timeout_ms, ..all }), "{name}");
    }
    let d11 = vector("D11");
    let update = Call {
        service: b"com.foo.UserService",
        method: b"update",
        version: b"",
        group: b"g2",
        complete: true,
        ..all
    };
    assert_eq!(call(&d11, Detail::All), Ok(update));
    assert_eq!(call(&d11, Detail::Names), Ok(Call { group: b"", complete: false, ..update }));
    let d12 = vector("D12");
    let ping = Call { method: b"ping", version: b"", group: b"", ..all };
    assert_eq!(call(&d12, Detail::All), Ok(ping));
}

#[test]
fn bodies_cut_short_are_errors_and_nothing_else() {
    for name in ["D1", "D11", "D12", "D13"] {
        let whole = vector(name);
        for cut in 16..whole.len() {
            let mut short = framed(whole[2], 0, 1, &whole[16..cut]);
            let error = call(&short, Detail::All).expect_err("cut");
            assert!(error.at <= short.len(), "{name} cut at {cut}: {error}");
            // With a following frame behind it.
            let len = short.len();
            short.extend_from_slice(&whole[cut..]);
            assert_eq!(call(&short, Detail::All), Err(error), "{name} cut at {cut}");
            let names = call(&short[..len], Detail::Names);
            let names_end = match name {
                "D11" => 50,
                "D12" => 47,
                "D13" => 67,
                _ => 51,
            };
            assert!(names.is_ok() || cut < names_end, "{name} cut at {cut}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_an_error() {
    assert!(call(&vector("DM4"), Detail::Names).is_err());
    assert!(call(&vector("DM5"), Detail::Names).is_ok());
    let error = call(&vector("DM5"), Detail::All).expect_err("malformed");
    assert_eq!(error.reason, "a malformed parameter descriptor");
    assert_eq!(error.at, 44);

    // Attachments that are no map, or whose keys are no names.
    for attachments in [Value::Int(1), Value::List(None, Vec::new())] {
        assert!(call(&request("m", "", &[], &attachments), Detail::All).is_err());
    }
    let mut chunked = request("m", "", &[], &Value::Null);
    chunked.truncate(chunked.len() - 1);
    chunked.extend_from_slice(b"\x48\x52\x00\x03gro\x02up\x02g1\x5a");
    let len = chunked.len() as u8 - 16;
    chunked[15] = len;
    let error = call(&chunked, Detail::All).expect_err("a key in two chunks");
    assert_eq!(error.reason, "a key in several pieces, or in an odd encoding");
    // A group that is no string.
    let attachments = Value::Map(None, vec![(Value::text("group"), Value::Int(1))]);
    assert!(call(&request("m", "", &[], &attachments), Detail::All).is_err());
}

#[test]
fn attachments_override_names() {
    let with = |attachments: &[(&str, &str)]| request("m", "", &[], &Value::map(attachments));
    let all = |bytes: &[u8]| {
        let call = call(bytes, Detail::All).expect("well-formed");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (text(call.service), text(call.version), text(call.group))
    };
    let told = |service: &str, version: &str, group: &str| {
        (service.to_owned(), version.to_owned(), group.to_owned())
    };
    let hello = "com.foo.Hello";
    assert_eq!(all(&with(&[])), told(hello, "1.0.0", ""));
    assert_eq!(all(&with(&[("interface", "a.B")])), told("a.B", "1.0.0", ""));
    assert_eq!(all(&with(&[("interface", "")])), told(hello, "1.0.0", ""));
    assert_eq!(all(&with(&[("path", "p")])), told("p", "1.0.0", ""));
    assert_eq!(all(&with(&[("interface", "a.B"), ("path", "p")])), told("a.B", "1.0.0", ""));
    assert_eq!(all(&with(&[("version", "2")])), told(hello, "2", ""));
    assert_eq!(all(&with(&[("version", "0.0.0")])), told(hello, "", ""));
    assert_eq!(all(&with(&[("group", "a"), ("group", "b")])), told(hello, "1.0.0", "b"));
}

#[test]
fn timeouts_are_decimal_or_numbers() {
    let timeout = |value: Value| {
        let attachments = Value::Map(None, vec![(Value::text("timeout"), value)]);
        let bytes = request("m", "", &[], &attachments);
        call(&bytes, Detail::All).expect("well-formed").timeout_ms
    };
    assert_eq!(timeout(Value::text("3000")), Some(3000));
    assert_eq!(timeout(Value::Int(500)), Some(500));
    assert_eq!(timeout(Value::Long(500)), Some(500));
    assert_eq!(timeout(Value::Long(1 << 40)), Some(u32::MAX));
    let none = [Value::Int(0), Value::Int(-1), Value::Null, Value::Bool(true)];
    let texts = ["", "0", "-5", "abc", "1.5", "99999999999999999999"].map(Value::text);
    for value in none.into_iter().chain(texts) {
        assert_eq!(timeout(value.clone()), None, "{value:?}");
    }
}

#[test]
fn callbacks_bind() {
    let with = |key| request("m", "", &[], &Value::map(&[(key, "123")]));
    let binds = |bytes: &[u8]| call(bytes, Detail::All).expect("well-formed").binds;
    assert!(binds(&with("sys_callback_arg-0")));
    assert!(binds(&with("sys_callback_arg-11")));
    assert!(!binds(&with("sys_callback")));
}

#[test]
fn generic_calls_have_the_method_that_is_meant() {
    let descriptor = "Ljava/lang/String;[Ljava/lang/String;[Ljava/lang/Object;";
    let types = Value::List(Some("[string".to_owned()), vec![Value::text("java.lang.String")]);
    let values = Value::List(Some("[object".to_owned()), vec![Value::text("x")]);
    let attachments = Value::map(&[("generic", "true"), ("group", "g")]);
    let arguments = [Value::text("sayHello"), types.clone(), values.clone()];
    for method in ["$invoke", "$invokeAsync"] {
        let bytes = request(method, descriptor, &arguments, &attachments);
        for detail in [Detail::Names, Detail::All] {
            let call = call(&bytes, detail).expect("well-formed");
            assert_eq!(call.method, b"sayHello", "{detail:?}");
        }
        assert_eq!(call(&bytes, Detail::All).expect("well-formed").group, b"g");
        let method = method.to_owned();
        assert!(headers(&bytes).contains(&("method".to_owned(), method)));
    }
    // Where it can't be read, the method is as the frame has it.
    let odd = [Value::Null, types, values];
    for (descriptor, arguments) in [(descriptor, &odd[..]), ("", &[])] {
        let bytes = request("$invoke", descriptor, arguments, &attachments);
        for detail in [Detail::Names, Detail::All] {
            assert_eq!(call(&bytes, detail).expect("well-formed").method, b"$invoke");
        }
    }
}

#[test]
fn other_serializations_have_no_names() {
    let body = b"\xac\xed\x00\x05 what Java writes";
    let bytes = framed(0xc3, 0, 9, body);
    let frame = frame(&bytes);
    assert_eq!((frame.kind, frame.head_len, frame.len), (Kind::Request, 16, 16 + body.len()));
    for detail in [Detail::Names, Detail::All] {
        let empty = Call { complete: true, ..Call::default() };
        assert_eq!(DUBBO.call(&frame, &bytes[..16], detail), Ok(empty));
    }
    assert!(headers(&bytes).is_empty());
    assert_eq!(DUBBO.outcome(&frame_of_response(3, b"\x90"), b""), Outcome::Success);
}

fn frame_of_response(serialization: u8, body: &[u8]) -> Frame {
    frame(&framed(serialization, 20, 1, body))
}

#[test]
fn headers_are_attachments_and_then_names() {
    let pairs = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        pairs.collect::<Vec<_>>()
    };
    assert_eq!(
        headers(&vector("D1")),
        pairs(&[
            ("path", "com.foo.Hello"),
            ("interface", "com.foo.Hello"),
            ("version", "1.0.0"),
            ("group", "g1"),
            ("timeout", "3000"),
            ("dubbo", "2.0.2"),
            ("service", "com.foo.Hello"),
            ("version", "1.0.0"),
            ("method", "sayHello"),
            ("group", "g1"),
        ])
    );
    // The user is no text, and there is no version.
    assert_eq!(
        headers(&vector("D11")),
        pairs(&[
            ("group", "g2"),
            ("dubbo", "2.0.2"),
            ("service", "com.foo.UserService"),
            ("method", "update"),
            ("group", "g2"),
        ])
    );
    assert_eq!(
        headers(&vector("D13")),
        pairs(&[
            ("group", "g1"),
            ("dubbo", "2.0.2"),
            ("service", "com.foo.Hello"),
            ("version", "1.0.0"),
            ("method", "sayHello"),
            ("group", "g1"),
        ])
    );
    assert_eq!(headers(&vector("D2")), pairs(&[("dubbo", "2.0.2")]));
    for name in ["D3", "D4", "D6", "D7"] {
        assert!(headers(&vector(name)).is_empty(), "{name}");
    }

    // An attachment takes no name's place.
    let spoof = Value::map(&[("service", "x"), ("method", "y"), ("interface", "a.B")]);
    let spoofed = headers(&request("m", "", &[], &spoof));
    let last = |name: &str| spoofed.iter().rev().find(|(known, _)| known == name).cloned();
    assert_eq!(last("service"), Some(("service".to_owned(), "a.B".to_owned())));
    assert_eq!(last("method"), Some(("method".to_owned(), "m".to_owned())));

    // Where the arguments can't be read, there are names at least.
    let names = [("dubbo", "2.0.2"), ("service", "com.foo.Hello"), ("version", "1.0.0")];
    let names = [&names[..], &[("method", "m")]].concat();
    assert_eq!(headers(&vector("DM5")), pairs(&names));
}

#[test]
fn headers_are_shown_until_enough_are_seen() {
    for enough in 1..=10 {
        let d1 = vector("D1");
        let mut seen = 0;
        DUBBO.headers(&frame(&d1), &d1, &mut |_, _| {
            seen += 1;
            seen < enough
        });
        assert_eq!(seen, enough);
    }
}

#[test]
fn outcomes_are_told_by_status_and_flag() {
    let outcome = |bytes: &[u8]| {
        let frame = frame(bytes);
        DUBBO.outcome(&frame, &bytes[..frame.head_len])
    };
    for (name, expected) in [
        ("D2", Outcome::Success),
        ("D3", Outcome::Failure),
        ("D7", Outcome::Success),
        ("D9", Outcome::Failure),
        ("D10", Outcome::Overload),
        ("DM6", Outcome::Success),
    ] {
        assert_eq!(outcome(&vector(name)), expected, "{name}");
    }
    for (flag, expected) in [
        (0, Outcome::ApplicationError),
        (1, Outcome::Success),
        (2, Outcome::Success),
        (3, Outcome::ApplicationError),
        (4, Outcome::Success),
        (5, Outcome::Success),
    ] {
        let throwable = [0x4e; 40];
        let hessian2 = [&[0x90 + flag][..], &throwable].concat();
        assert_eq!(outcome(&framed(0x02, 20, 1, &hessian2)), expected, "{flag}");
        // As a byte, which is what fastjson2 is given, and as an int.
        let byte = [&[0, 0, 0, 2, 0xbd, flag][..], &throwable].concat();
        assert_eq!(outcome(&framed(0x17, 20, 1, &byte)), expected, "{flag}");
        let int = [&[0, 0, 0, 1, flag][..], &throwable].concat();
        assert_eq!(outcome(&framed(0x17, 20, 1, &int)), expected, "{flag}");
    }
    assert_eq!(outcome(&framed(0x02, 20, 1, b"")), Outcome::Success);
}

#[test]
fn frames_of_our_own() {
    let put = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    for (request, reply) in [("D4", "D5"), ("D14", "D15")] {
        let request = vector(request);
        let frame = frame(&request);
        let out = put(&|out| DUBBO.put_heartbeat_reply(&frame, &request, out));
        assert_eq!(out, vector(reply));
        assert_eq!(put(&|out| DUBBO.put_heartbeat(&frame.tag, frame.id, out)), request);
    }
    // Any serialization is answered with its own words.
    let odd = framed(0xe3, 0, 5, b"\xac\xed\x00\x05\x70");
    let out = put(&|out| DUBBO.put_heartbeat_reply(&frame(&odd), &odd, out));
    assert_eq!(out, framed(0x23, 20, 5, b"\xac\xed\x00\x05\x70"));
    assert_eq!(put(&|out| DUBBO.put_heartbeat(&Tag::default(), 7, out)), vector("D4"));

    for (serialization, event) in [(2, "D6"), (23, "D16"), (0, "D6")] {
        let tag = Tag([serialization, 0, 0, 0]);
        let out = put(&|out| assert!(DUBBO.put_goodbye(&tag, 9, out)));
        assert_eq!(out, vector(event));
    }
}

#[test]
fn failures_in_the_protocols_terms() {
    let put = |serialization, failure, text: &str| {
        let mut out = Vec::new();
        DUBBO.put_failure(&Tag([serialization, 0, 0, 0]), 7, failure, text, &mut out);
        out
    };
    for (failure, status, text) in [
        (Failure::NoRoute, 60, "404|no route"),
        (Failure::NoHealthyUpstream, 60, "502|no healthy upstream"),
        (Failure::ConnectionLost, 80, "502|upstream connection lost"),
        (Failure::Overflow, 100, "503|overflow"),
        (Failure::RateLimited, 100, "509|limit"),
        (Failure::UpstreamTimeout, 31, "504|upstream timeout"),
        (Failure::ClientTimeout, 30, "504|client timeout"),
        (Failure::Denied, 80, "403|denied"),
        (Failure::Undecodable, 40, "0|codec"),
        (Failure::TooLarge, 40, "413|too large"),
        (Failure::Internal, 70, "500|internal"),
    ] {
        let body = [&[text.len() as u8][..], text.as_bytes()].concat();
        assert_eq!(put(2, failure, ""), framed(0x02, status, 7, &body), "{failure:?}");
        assert_eq!(put(3, failure, ""), framed(0x02, status, 7, &body), "{failure:?}");
        let len = text.len() as u8;
        let body = [&[0, 0, 0, 1 + len, 0x49 + len][..], text.as_bytes()].concat();
        assert_eq!(put(23, failure, ""), framed(0x17, status, 7, &body), "{failure:?}");
    }
    let body = [&b"\x0a"[..], "504|ab-mö+".as_bytes()].concat();
    assert_eq!(put(2, Failure::UpstreamTimeout, "ab-mö+"), framed(0x02, 31, 7, &body));
    let body = [&b"\x00\x00\x00\x0d\x7a\x0b"[..], "504|ab-mö+".as_bytes()].concat();
    assert_eq!(put(23, Failure::UpstreamTimeout, "ab-mö+"), framed(0x17, 31, 7, &body));
    // A long reason is cut between characters.
    let long = put(2, Failure::Internal, &"ö".repeat(4000));
    assert_eq!((frame(&long).len, long.len()), (long.len(), 16 + 2 + 512));
    assert_eq!(put(23, Failure::Internal, &"x".repeat(4000)).len(), 16 + 4 + 3 + 512);
}

#[test]
fn service_keys_are_as_registries_have_them() {
    let key = |group: &'static str, version: &'static str| {
        let mut out = Vec::new();
        let call = Call {
            service: b"com.foo.Hello",
            group: group.as_bytes(),
            version: version.as_bytes(),
            ..Call::default()
        };
        DUBBO.put_service_key(&call, &mut out);
        String::from_utf8(out).expect("text")
    };
    assert_eq!(key("g1", "1.0.0"), "g1/com.foo.Hello:1.0.0");
    assert_eq!(key("", "1.0.0"), "com.foo.Hello:1.0.0");
    assert_eq!(key("g1", ""), "g1/com.foo.Hello");
    assert_eq!(key("", ""), "com.foo.Hello");
}

#[test]
fn fastjson2_attachments_have_many_forms() {
    let group = |attachments: &str| {
        let bytes = fastjson2_with(&bytes(attachments));
        let call = call(&bytes, Detail::All).expect("well-formed");
        assert!(call.complete);
        String::from_utf8(call.group.to_vec()).expect("text")
    };
    assert_eq!(group("af"), "");
    assert_eq!(group("a6a5"), "");
    assert_eq!(group("a64e67726f75704b6731a5"), "g1");
    // As fastjson2 writes a TreeMap, and a LinkedHashMap with values of every kind before the group.
    assert_eq!(group("9250547265654d617000a64e67726f75704b6731a5"), "g1");
    assert_eq!(group(&format!("{EVERY_KIND}4e67726f75704b6731a5")), "g1");
    // What can't be read is passed over: a tag that is none, a key that only counts on a table, no end,
    // something behind it, a group in UTF-16.
    for odd in [
        "a64e67726f75704b67314a6180a5",
        "a64e67726f75704b67317f014a61a5",
        "a64e67726f75704b6731",
        "a64e67726f75704b6731a500",
        "a64e67726f75704b67314e67726f75707c022d4ea5",
        "a64e67726f75704b67314a61794a62a5",
        "96",
        "00",
        "",
    ] {
        assert_eq!(group(odd), "", "{odd}");
    }
    // But values must be whole, and names must be names.
    assert!(call(&fastjson2(&[b"\x4e2.0.2", b"\x4aq"]), Detail::Names).is_err());
    let odd_name = fastjson2(&[b"\x49", b"\x7c\x02-N", b"\x49", b"\x4aq", b"\x49", b"\xaf"]);
    assert!(call(&odd_name, Detail::Names).is_err());
    let two_names = fastjson2(&[b"\x49", b"\x4aq\x4aq", b"\x49", b"\x4aq", b"\x49", b"\xaf"]);
    assert!(call(&two_names, Detail::Names).is_err());
}

/// The beginning of a map that fastjson2 2.0.56 wrote: an int, a long, a boolean, a double, a float, a
/// short, bytes, a list, an array, a date, a decimal, a big integer, a date and time, a character, text
/// in UTF-16 as value and as key, null, a UUID, an enum, a class.
const EVERY_KIND: &str = "\
    924b4c4d00a65074696d656f7574440bb84a6cc40bb84a62b14a64b53ff80000000000004a66b7402000004a73bc00\
    034b6279924b5b4201910201024d6c697374926e6a6176612e7574696c2e496d6d757461626c65436f6c6c65637469\
    6f6e73244c697374313202964a614a624c61727292505b537472696e6703954a614d64617465ac000000004b6264b9\
    02387d4b6269bb0d018ee90ff6c373e0ee4e3f0ad24c6c6474a807e40101010101004a639038634b636e7c022d4e7c\
    022d4e4a784c6e756caf4d757569649110000000000000000100000000000000024a65925f6a6176612e6c616e672e\
    546872656164245374617465044c4e45574c636c7392586a6176612e6c616e672e436c61737305596a6176612e6c61\
    6e672e537472696e67";
