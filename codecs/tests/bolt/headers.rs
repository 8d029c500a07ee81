//! The header block: what requests are routed by, and edits.

use outrigger_codecs::rpc::{
    Bolt, Call, CallError, Detail, EditError, HeaderEdit, Outcome, RpcCodec, Splices,
};

use crate::builder::{Header, Message, block, edited, read_block};
use crate::vectors::vector;
use crate::{BOLT, frame, spliced};

/// A request with these headers.
fn request(headers: Vec<Header>) -> Message {
    Message {
        v2: None,
        kind: 1,
        command: 1,
        ver2: 1,
        id: 9,
        codec: 1,
        timeout: 3000,
        status: 0,
        class: b"com.alipay.sofa.rpc.core.request.SofaRequest".to_vec(),
        headers,
        content: b"\xde\xad\xbe\xef".to_vec(),
    }
}

fn header(key: &str, value: &str) -> Header {
    (Some(key.as_bytes().to_vec()), Some(value.as_bytes().to_vec()))
}

fn call(bytes: &[u8]) -> Result<Call<'_>, CallError> {
    let frame = frame(&BOLT, bytes);
    let names = BOLT.call(&frame, bytes, Detail::Names);
    assert_eq!(BOLT.call(&frame, &bytes[..frame.head_len], Detail::All), names);
    names
}

fn headers(bytes: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut seen = Vec::new();
    BOLT.headers(&frame(&BOLT, bytes), bytes, &mut |key, value| {
        seen.push((key, value));
        true
    });
    seen
}

#[test]
fn vectors_are_routed_by_service_and_method() {
    let hello = |method, timeout_ms| Call {
        service: b"com.foo.Hello:1.0",
        method,
        timeout_ms,
        complete: true,
        ..Call::default()
    };
    assert_eq!(call(vector("B3")), Ok(hello(b"sayHello", Some(3000))));
    assert_eq!(call(vector("B4")), Ok(hello(b"", None)));
    for name in ["B22", "B23", "B24"] {
        assert_eq!(call(vector(name)), Ok(hello(b"", Some(3000))), "{name}");
    }
    let nothing = Call { timeout_ms: Some(3000), complete: true, ..Call::default() };
    assert_eq!(call(vector("BM6")), Ok(nothing));
    let (service, method) = (&b"com.foo.Hello:1.0"[..], &b"sayHello"[..]);
    let expected: [(&[u8], &[u8]); 4] = [
        (b"service", service),
        (b"sofa_head_method_name", method),
        (b"sofa_head_target_service", service),
        (b"rpc_trace_context.sofaTraceId", b"0a0fe8f8"),
    ];
    assert_eq!(headers(vector("B3")), expected);
    let mut seen = 0;
    BOLT.headers(&frame(&BOLT, vector("B3")), vector("B3"), &mut |_, _| {
        seen += 1;
        seen < 2
    });
    assert_eq!(seen, 2);
    let mut key = Vec::new();
    BOLT.put_service_key(&hello(b"", None), &mut key);
    assert_eq!(key, service);
}

#[test]
fn nulls_are_dropped_and_the_walk_stays_in_step() {
    let null_key = (None, Some(b"x".to_vec()));
    let list = vec![
        header("a", "1"),
        header("b", ""),
        (Some(b"c".to_vec()), None),
        null_key,
        header("a", "2"),
    ];
    assert_eq!(block(&list), vector("B9"));
    assert_eq!(read_block(vector("B9")).as_ref(), Some(&list));
    let bytes = request(list).bytes(false);
    let expected: [(&[u8], &[u8]); 3] = [(b"a", b"1"), (b"b", b""), (b"a", b"2")];
    assert_eq!(headers(&bytes), expected);
    assert!(call(&bytes).is_ok());
}

#[test]
fn blocks_that_cannot_be_read() {
    for (name, reason, at) in [
        ("BM4", "a header that is longer than its block", 33),
        ("BM5", "stray bytes behind the headers", 38),
    ] {
        assert_eq!(call(vector(name)), Err(CallError { reason, at }));
    }
    for (tail, reason) in [
        (&b"\0\0\0\x01k"[..], "a header without a value"),
        (b"\xff\xff\xff\xff", "a header without a value"),
        (b"\xff\xff\xff\xfe\0\0\0\0", "a negative length"),
        (b"\0\0\0\x01k\x80\0\0\0", "a negative length"),
        (b"\0\0\0\x05abcd", "a header that is longer than its block"),
        (b"\x7f\xff\xff\xff", "a header that is longer than its block"),
        (b"\0\0\0", "stray bytes behind the headers"),
        (b"\0\0\0\x01k\0\0", "stray bytes behind the headers"),
    ] {
        // What is before it can be read; the trick puts the tail in without the builder's help.
        let mut message = request(vec![header("service", "s")]);
        message.content = tail.to_vec();
        let mut bytes = message.bytes(false);
        let len = block(&message.headers).len() + tail.len();
        bytes[16..18].copy_from_slice(&(len as u16).to_be_bytes());
        bytes[18..22].fill(0);
        let error = call(&bytes).expect_err("malformed");
        assert_eq!(error.reason, reason, "{tail:?}");
        assert!(error.at >= bytes.len() - tail.len() && error.at <= bytes.len());
        assert_eq!(headers(&bytes), [(&b"service"[..], &b"s"[..])]);
        let (is, mut splices) = (frame(&BOLT, &bytes), Splices::default());
        let edits = [HeaderEdit::Remove(b"service")];
        let result = BOLT.edit(&is, &bytes, &edits, Some(1), &mut splices);
        assert_eq!((result, splices.is_empty()), (Err(EditError::Unreadable), true));
        assert_eq!(BOLT.edit(&is, &bytes, &[], Some(1), &mut splices), Ok(()));
        assert_eq!(splices.iter().count(), 1);
    }
}

#[test]
fn the_last_header_of_a_key_counts_and_the_other_key_stands_in() {
    let call_of = |headers: &[Header]| {
        let bytes = request(headers.to_vec()).bytes(false);
        let call = call(&bytes).expect("well-formed");
        (call.service.to_vec(), call.method.to_vec(), call.timeout_ms)
    };
    let (service, target) = ("service", "sofa_head_target_service");
    let bad = |key: &str| (Some(key.as_bytes().to_vec()), Some(b"\xff".to_vec()));
    for (headers, expected) in [
        (vec![header(service, "a"), header(target, "t"), header(service, "b")], "b"),
        (vec![header(target, "t"), header("Service", "a")], "t"),
        (vec![header(target, "t"), header(service, "")], "t"),
        (vec![header(service, "a"), (Some(service.into()), None)], "a"),
        (vec![header(target, "t"), bad(service)], "t"),
        (vec![header(service, "\u{670d}"), (None, None)], "\u{670d}"),
        (vec![header("app", "a")], ""),
    ] {
        assert_eq!(call_of(&headers).0, expected.as_bytes(), "{headers:?}");
    }
    let methods = [header("sofa_head_method_name", "a"), header("sofa_head_method_name", "b")];
    assert_eq!(call_of(&methods).1, b"b");
    for (left, expected) in [
        ("200", 200),
        ("4000", 3000),
        ("0", 3000),
        ("-5", 3000),
        ("+5", 3000),
        ("", 3000),
        ("1.5", 3000),
        ("99999999999999999999999", 3000),
    ] {
        let headers = [header("sofa_head_deadline_remain_time", left)];
        assert_eq!(call_of(&headers).2, Some(expected), "{left:?}");
    }
}

#[test]
fn text_that_is_not_utf8_is_not_shown() {
    let bad = || Some(b"\xc3\x28".to_vec());
    let message = request(vec![(bad(), Some(b"v".to_vec())), (Some(b"k".to_vec()), bad())]);
    assert_eq!(headers(&message.bytes(false)), []);
}

#[test]
fn outcomes() {
    let outcome = |bytes: &[u8]| BOLT.outcome(&frame(&BOLT, bytes), bytes);
    for (name, expected) in [
        ("B5", Outcome::Success),
        ("B6", Outcome::Failure),
        ("B7", Outcome::Failure),
        ("B10", Outcome::ApplicationError),
        ("B25", Outcome::Success),
        ("BM9", Outcome::Failure),
    ] {
        assert_eq!(outcome(vector(name)), expected, "{name}");
    }
    let mut busy = vector("B6").to_vec();
    busy[11] = 4;
    assert_eq!(outcome(&busy), Outcome::Overload);
    // Status counts before headers, and the last header of a key counts.
    let error = |value| header("sofa_head_response_error", value);
    let message = |status, headers| Message { kind: 0, command: 2, status, ..request(headers) };
    let failed = message(2, vec![error("true")]);
    assert_eq!(outcome(&failed.bytes(false)), Outcome::Failure);
    let fine = message(0, vec![error("true"), error("false")]);
    assert_eq!(outcome(&fine.bytes(false)), Outcome::Success);
}

#[test]
fn edits_touch_nothing_but_the_headers_and_their_length() {
    let before = request(vec![
        header("service", "com.foo.Hello:1.0"),
        header("a", "1"),
        (None, Some(b"x".to_vec())),
        header("b", "2"),
        header("a", "3"),
    ]);
    for edits in [
        &[HeaderEdit::Set(b"service", b"com.foo.Hello:2.0")][..],
        &[HeaderEdit::Remove(b"a")],
        &[HeaderEdit::SetIfAbsent(b"a", b"9"), HeaderEdit::SetIfAbsent(b"c", b"9")],
        &[HeaderEdit::Replace(b"a", b"99"), HeaderEdit::Replace(b"d", b"9")],
        &[HeaderEdit::Set(b"n", b"1"), HeaderEdit::Replace(b"n", b"2")],
        &[HeaderEdit::Set(b"n", b"1"), HeaderEdit::Remove(b"n")],
        &[HeaderEdit::Remove(b"a"), HeaderEdit::SetIfAbsent(b"a", b"4")],
        &[HeaderEdit::Remove(b"missing")],
    ] {
        for v2 in [None, Some((1, 1)), Some((2, 1))] {
            let before = Message { v2, ..before.clone() };
            let after =
                Message { headers: edited(before.headers.clone(), edits), ..before.clone() };
            let bytes = before.bytes(false);
            let (is, mut splices) = (frame(&BOLT, &bytes), Splices::default());
            assert_eq!(BOLT.edit(&is, &bytes, edits, None, &mut splices), Ok(()));
            assert_eq!(spliced(&BOLT, &is, &bytes, &splices).1, after.bytes(false), "{edits:?}");
            // Class and content are not copied, nor is what is before the first change.
            let copied: usize = splices.iter().map(|(_, new)| new.len()).sum();
            assert!(copied <= 2 + block(&after.headers).len());
            assert_eq!(splices.is_empty(), before == after);
        }
    }
    let bytes = before.bytes(false);
    let (is, mut splices) = (frame(&BOLT, &bytes), Splices::default());
    let edits = [HeaderEdit::Set(b"n", b"1")];
    BOLT.edit(&is, &bytes, &edits, None, &mut splices).expect("room");
    let inserted = splices.iter().last().expect("an insertion");
    assert_eq!(inserted, (is.head_len..is.head_len, &b"\0\0\0\x01n\0\0\0\x011"[..]));
}

#[test]
fn timeouts_are_rewritten_where_there_are_some() {
    let edit = |name: &str, timeout_ms| {
        let (is, mut splices) = (frame(&BOLT, vector(name)), Splices::default());
        BOLT.edit(&is, vector(name), &[], timeout_ms, &mut splices).expect("no headers change");
        let (_, bytes) = spliced(&BOLT, &is, vector(name), &splices);
        let new = frame(&BOLT, &bytes);
        assert_eq!(BOLT.verify(&new, &mut [&bytes[..]].into_iter()), Ok(()));
        (splices.is_empty(), new.timeout_ms)
    };
    for name in ["B3", "B22", "B23", "B24"] {
        assert_eq!(edit(name, None), (true, Some(3000)), "{name}");
        assert_eq!(edit(name, Some(3000)), (true, Some(3000)), "{name}");
        assert_eq!(edit(name, Some(250)), (false, Some(250)), "{name}");
        // 0 would mean that there is none.
        assert_eq!(edit(name, Some(0)), (false, Some(1)), "{name}");
        assert_eq!(edit(name, Some(u32::MAX)), (false, Some(0x7fff_ffff)), "{name}");
    }
    assert_eq!(edit("B4", Some(250)), (true, None));
    assert_eq!(edit("B5", Some(250)), (true, None));
}

#[test]
fn headers_end_at_32767_bytes() {
    let edit = |codec: &Bolt, bytes: &[u8], value: &[u8]| {
        let (is, mut splices) = (frame(codec, bytes), Splices::default());
        let edits = [HeaderEdit::Set(b"big", value)];
        let result = codec.edit(&is, bytes, &edits, Some(5), &mut splices);
        assert_eq!(result.is_err(), splices.is_empty());
        result.map(|()| splices.apply(bytes))
    };
    let bytes = request(vec![header("service", "s")]).bytes(false);
    let room = 32_767 - block(&[header("service", "s"), header("big", "")]).len();
    let value = vec![b'x'; room + 1];
    let longest = edit(&BOLT, &bytes, &value[..room]).expect("room");
    assert_eq!(longest[16..18], [0x7f, 0xff]);
    assert_eq!(frame(&BOLT, &longest).timeout_ms, Some(5));
    assert_eq!(edit(&BOLT, &bytes, &value), Err(EditError::TooLong));
    assert_eq!(edit(&BOLT, &longest, &value[..room]).as_ref(), Ok(&longest));
}
