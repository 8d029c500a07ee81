//! The HSF codec by the vectors of its reference, split everywhere, and by properties.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod vectors;

use outrigger_codecs::rpc::{
    Call, Detail, EditError, FRONT_BYTES_MAX, Failure, Frame, FrameError, FrameFault, HeaderEdit,
    Hsf, Kind, Outcome, Progress, RpcCodec, Splices, Tag,
};
use proptest::prelude::*;

use vectors::{H1, H2, H3, H4, H5, H6, H7, HM1, HM2, HM3, Request, TR1, TR2, TR3, TR4, bytes};

/// The frame that `bytes` begin with, told the same whichever way they are cut.
fn read(hsf: &Hsf, bytes: &[u8]) -> Result<Frame, FrameError> {
    let verdict = hsf.frame(bytes);
    for cut in 0..bytes.len() {
        match hsf.frame(&bytes[..cut]) {
            Ok(Progress::NeedMore(wanted)) => {
                assert!(wanted > cut && wanted <= FRONT_BYTES_MAX, "{wanted} at {cut}");
            }
            early => assert_eq!(early, verdict, "cut at {cut}"),
        }
    }
    match verdict? {
        Progress::Frame(frame) => {
            assert!(frame.id_end <= frame.head_len && frame.head_len <= frame.len);
            Ok(frame)
        }
        Progress::NeedMore(wanted) => panic!("{wanted} bytes wanted of {}", bytes.len()),
    }
}

fn frame(bytes: &[u8]) -> Frame {
    read(&Hsf::default(), bytes).unwrap()
}

fn call<'a>(frame: &Frame, bytes: &'a [u8]) -> Call<'a> {
    Hsf::default().call(frame, bytes, Detail::All).unwrap()
}

fn headers(frame: &Frame, bytes: &[u8]) -> Vec<(String, String)> {
    let mut out = Vec::new();
    Hsf::default().headers(frame, bytes, &mut |name, value| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        out.push((text(name), text(value)));
        true
    });
    out
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

// ---- HSF2 --------------------------------------------------------------------------------------

#[test]
fn h1_is_a_request_with_everything() {
    let bytes = bytes(H1);
    let frame = frame(&bytes);
    assert_eq!((frame.len, frame.kind, frame.id), (112, Kind::Request, 1));
    assert_eq!((frame.timeout_ms, frame.status), (Some(3000), 0));
    let call = call(&frame, &bytes);
    assert_eq!((call.service, call.method), (&b"com.foo.Hello:1.0.0"[..], &b"sayHello"[..]));
    assert_eq!((call.group, call.timeout_ms, call.complete), (&b""[..], Some(3000), true));
    assert_eq!(headers(&frame, &bytes), [("Consumer-AppName".to_owned(), "app".to_owned())]);
}

#[test]
fn names_need_only_the_front_of_a_request() {
    let bytes = bytes(H1);
    let frame = frame(&bytes);
    assert_eq!(frame.head_len, 43 + 19 + 8);
    for detail in [Detail::Names, Detail::All] {
        let call = Hsf::default().call(&frame, &bytes[..frame.head_len], detail).unwrap();
        assert_eq!((call.method, call.complete), (&b"sayHello"[..], false));
    }
    assert!(headers(&frame, &bytes[..frame.head_len]).is_empty());
    assert!(Hsf::default().call(&frame, &bytes[..frame.head_len - 1], Detail::Names).is_err());
}

#[test]
fn h2_h3_and_h6_are_responses() {
    for (hex, len, kind, status, outcome) in [
        (H2, 26, Kind::Response, 20, Outcome::Success),
        (H3, 37, Kind::Response, 60, Outcome::Failure),
        (H6, 21, Kind::Goodbye, 88, Outcome::Failure),
    ] {
        let bytes = bytes(hex);
        let frame = frame(&bytes);
        assert_eq!((frame.len, frame.kind, frame.status), (len, kind, status));
        assert_eq!(frame.id, if kind == Kind::Goodbye { u64::MAX } else { 1 });
        assert_eq!(Hsf::default().outcome(&frame, &bytes), outcome);
    }
    let mut busy = bytes(H3);
    busy[3] = 81;
    assert_eq!(Hsf::default().outcome(&frame(&busy), &busy), Outcome::Overload);
    let mut closing = bytes(H6);
    closing[15] = 7;
    assert_eq!(frame(&closing).kind, Kind::Response);
}

#[test]
fn h4_and_h5_are_heartbeats() {
    let hsf = Hsf::default();
    let (request, reply) = (bytes(H4), bytes(H5));
    let heartbeat = frame(&request);
    assert_eq!((heartbeat.kind, heartbeat.len, heartbeat.id), (Kind::Heartbeat, 18, 1));
    assert_eq!(frame(&reply).kind, Kind::HeartbeatReply);
    assert_eq!(written(|out| hsf.put_heartbeat_reply(&heartbeat, &request, out)), reply);
    assert_eq!(written(|out| hsf.put_heartbeat(&heartbeat.tag, 1, out)), request);
    assert_eq!(written(|out| hsf.put_heartbeat(&frame(&bytes(H1)).tag, 1, out)), request);
}

#[test]
fn h7_has_neither_arguments_nor_properties() {
    let bytes = bytes(H7);
    let frame = frame(&bytes);
    assert_eq!((frame.len, frame.id, frame.timeout_ms), (58, 2, Some(1000)));
    let call = call(&frame, &bytes);
    assert_eq!((call.method, call.complete), (&b"ping"[..], true));
}

#[test]
fn malformed_frames_are_refused_as_soon_as_that_shows() {
    let hsf = Hsf::default();
    for (hex, reason, at) in
        [(HM1, FrameFault::Length, 27), (HM2, FrameFault::Length, 19), (HM3, FrameFault::Type, 2)]
    {
        let error = read(&hsf, &bytes(hex)).unwrap_err();
        assert_eq!((error.reason, error.at, error.answer), (reason, at, None));
    }
    let with = |hex: &str, at: usize, byte: u8| {
        let mut bytes = bytes(hex);
        bytes[at] = byte;
        read(&hsf, &bytes).unwrap_err().reason
    };
    assert_eq!(with(H1, 0, 0x0f), FrameFault::Protocol);
    assert_eq!(with(H1, 0, 0xda), FrameFault::Protocol);
    assert_eq!(with(H1, 1, 2), FrameFault::Version);
    assert_eq!(with(H1, 28, 1), FrameFault::Length);
    assert_eq!(with(H1, 21, 4), FrameFault::Length);
    assert_eq!(with(H1, 33, 5), FrameFault::Length);
    assert_eq!(with(H1, 35, 0x80), FrameFault::Length);
    assert_eq!(with(H1, 35, 0x40), FrameFault::TooLarge);
    assert_eq!(with(H2, 16, 0x80), FrameFault::Length);
    assert_eq!(with(H2, 16, 0x40), FrameFault::TooLarge);
    assert_eq!(with(H2, 3, 0), FrameFault::Type);
    assert_eq!(with(H4, 1, 2), FrameFault::Type);
    assert_eq!(with(TR1, 1, 2), FrameFault::Type);
    assert_eq!(with(TR1, 3, 3), FrameFault::Type);
    assert_eq!(with(TR1, 5, 0xff), FrameFault::TooLarge);
}

#[test]
fn the_limit_counts_the_whole_frame() {
    for hex in [H1, H2, TR1] {
        let bytes = bytes(hex);
        let limited = |max_frame_bytes| {
            let hsf = Hsf { max_frame_bytes, ..Hsf::default() };
            read(&hsf, &bytes).map_err(|error| (error.reason, error.answer.is_some()))
        };
        assert_eq!(limited(bytes.len()).unwrap().len, bytes.len());
        // A request of HSF2 can still be told so.
        assert_eq!(limited(bytes.len() - 1), Err((FrameFault::TooLarge, hex == H1)));
    }
}

#[test]
fn arguments_may_be_many() {
    let arguments = [("a", &b"\x01b"[..]); 255];
    let request = Request { arguments: &arguments, ..Request::default() };
    let bytes = request.bytes();
    assert_eq!(frame(&bytes).len, bytes.len());
    assert!(frame(&bytes).head_len < FRONT_BYTES_MAX);
    let many = [("a", &b"\x01b"[..]); 256];
    let request = Request { arguments: &many, ..Request::default() };
    assert_eq!(read(&Hsf::default(), &request.bytes()).unwrap_err().at, 27);
}

#[test]
fn either_order_of_the_disputed_bytes_is_read() {
    let swapped = |hex: &str, at: usize| {
        let mut bytes = bytes(hex);
        bytes.swap(at, at + 1);
        bytes
    };
    assert_eq!(frame(&swapped(H1, 1)), frame(&bytes(H1)));
    assert_eq!(frame(&swapped(H2, 1)), frame(&bytes(H2)));
    assert_eq!(frame(&swapped(H2, 3)), frame(&bytes(H2)));
    assert_eq!(frame(&swapped(H3, 3)).status, 60);
    assert_eq!(frame(&swapped(H6, 3)).kind, Kind::Goodbye);
    assert_eq!(frame(&swapped(H4, 1)), frame(&bytes(H4)));
    let type_first = Hsf { rpc_type_first: true, ..Hsf::default() };
    let error = read(&type_first, &bytes(HM3)).unwrap_err();
    assert_eq!((error.reason, error.at), (FrameFault::Version, 2));
}

#[test]
fn a_codec_of_somebodys_own_is_where_the_switch_says() {
    // Either byte may be a status: 60 or 20.
    let mut bytes = bytes(H2);
    bytes[4] = 60;
    assert_eq!(frame(&bytes).status, 20);
    let codec_first = Hsf { response_codec_first: true, ..Hsf::default() };
    assert_eq!(read(&codec_first, &bytes).unwrap().status, 60);
    // Here only one can.
    bytes[3] = 9;
    assert_eq!(read(&codec_first, &bytes).unwrap().status, 60);
    assert!(read(&Hsf::default(), &bytes).is_err());
}

#[test]
fn switches_decide_what_is_written() {
    let hsf = Hsf {
        response_codec_first: true,
        heartbeat_version_first: true,
        rpc_protocol_byte: 0x0d,
        announce_closing: true,
        ..Hsf::default()
    };
    let mut request = bytes(H1);
    request[0] = 0x0d;
    let tag = read(&hsf, &request).unwrap().tag;
    let failure =
        written(|out| hsf.put_failure(&tag, 1, Failure::NoRoute, "service not found", out));
    let mut expected = bytes(H3);
    (expected[0], expected[3], expected[4]) = (0x0d, 4, 60);
    assert_eq!(failure, expected);
    assert_eq!(written(|out| hsf.put_heartbeat(&tag, 1, out))[..3], [0x0c, 1, 0]);
}

#[test]
fn failures_and_goodbyes_are_those_of_the_vectors() {
    let hsf = Hsf::default();
    let tag = frame(&bytes(H1)).tag;
    let failure =
        written(|out| hsf.put_failure(&tag, 1, Failure::NoRoute, "service not found", out));
    assert_eq!(failure, bytes(H3));
    for (failure, status) in [
        (Failure::NoHealthyUpstream, 60),
        (Failure::Overflow, 81),
        (Failure::RateLimited, 81),
        (Failure::Denied, 80),
        (Failure::UpstreamTimeout, 31),
        (Failure::ClientTimeout, 31),
        (Failure::ConnectionLost, 82),
        (Failure::Undecodable, 40),
        (Failure::TooLarge, 80),
        (Failure::Internal, 80),
    ] {
        let bytes = written(|out| hsf.put_failure(&tag, u64::MAX >> 1, failure, "x", out));
        let frame = frame(&bytes);
        assert_eq!((frame.kind, frame.status, frame.id), (Kind::Response, status, u64::MAX >> 1));
    }
    assert!(!hsf.put_goodbye(&tag, 0, &mut Vec::new()));
    let announcing = Hsf { announce_closing: true, ..hsf };
    assert_eq!(written(|out| assert!(announcing.put_goodbye(&tag, 0, out))), bytes(H6));
    let remoting = frame(&bytes(TR1)).tag;
    assert!(!announcing.put_goodbye(&remoting, 0, &mut Vec::new()));
}

#[test]
fn ids_are_rewritten_in_place() {
    for hex in [H1, H2, H4, H5] {
        let mut bytes = bytes(hex);
        let before = frame(&bytes);
        for id in [0, 1 << 31, 1 << 32, u64::MAX - 1] {
            Hsf::default().set_id(&before, &mut bytes, id);
            assert_eq!(frame(&bytes), Frame { id, ..before });
        }
    }
    let mut bytes = bytes(TR1);
    Hsf::default().set_id(&frame(&bytes), &mut bytes, 5);
    assert_eq!(bytes, vectors::bytes(TR1));
}

#[test]
fn the_group_is_a_property() {
    let properties = [("Consumer-AppName", "app"), ("target_group", "HSF"), ("x", "ä€😀")];
    let request = Request { properties: Some(&properties), ..Request::default() };
    let bytes = request.bytes();
    let frame = frame(&bytes);
    let call = call(&frame, &bytes);
    assert_eq!((call.group, call.complete), (&b"HSF"[..], true));
    assert_eq!(headers(&frame, &bytes).len(), 3);
    let key = written(|out| Hsf::default().put_service_key(&call, out));
    assert_eq!(key, b"HSF/com.foo.Hello:1.0.0");
    // What is serialized in another way is not looked at.
    let bytes = Request { codec: 1, ..request }.bytes();
    let frame = read(&Hsf::default(), &bytes).unwrap();
    let call = Hsf::default().call(&frame, &bytes, Detail::All).unwrap();
    assert_eq!((call.group, call.complete), (&b""[..], true));
    let key = written(|out| Hsf::default().put_service_key(&call, out));
    assert_eq!(key, b"com.foo.Hello:1.0.0");
}

#[test]
fn properties_that_are_not_text_are_passed_by() {
    let mut map = b"M\x01t\x01aI\0\0\0\x01\x01b\x90\x90\x90\x01c\x01d".to_vec();
    // A long, a date, a double, a binary, text and bytes in chunks, a back reference.
    map.extend_from_slice(b"\x01eL\0\0\0\0\0\0\0\x01\x01fJ\0\0\0\0\0\0\0\x01\x01g\x5e\0\x01");
    map.extend_from_slice(b"\x01h\x22ab\x01iR\0\x01aS\0\x01b\x01jA\0\x01aB\0\x01b\x01k\x51\x90");
    map.extend_from_slice(b"\x01l\x30\x03xyzZ");
    let bytes = Request::default().with_properties(&map);
    let frame = frame(&bytes);
    let shown = headers(&frame, &bytes);
    assert_eq!(shown, [("c", "d"), ("l", "xyz")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    let mut splices = Splices::default();
    let edits = [HeaderEdit::Remove(b"c"), HeaderEdit::Replace(b"i", b"whole")];
    Hsf::default().edit(&frame, &bytes, &edits, None, &mut splices).unwrap();
    let edited = splices.apply(&bytes);
    let frame = read(&Hsf::default(), &edited).unwrap();
    let shown = headers(&frame, &edited);
    assert_eq!(shown, [("i", "whole"), ("l", "xyz")].map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn properties_behind_an_object_are_not_seen() {
    let map = b"H\x01a\x01b\x01cC\x01X\x90\x60\x01d\x01eZ";
    let bytes = Request::default().with_properties(map);
    let frame = frame(&bytes);
    assert_eq!(headers(&frame, &bytes), [("a".to_owned(), "b".to_owned())]);
    let edits = [HeaderEdit::Set(b"a", b"c")];
    let outcome = Hsf::default().edit(&frame, &bytes, &edits, None, &mut Splices::default());
    assert_eq!(outcome, Err(EditError::Unreadable));
}

#[test]
fn edits_change_lengths_and_nothing_else() {
    let bytes = bytes(H1);
    let before = frame(&bytes);
    let hsf = Hsf::default();
    let mut splices = Splices::default();
    let edits = [HeaderEdit::Set(b"k", b"v"), HeaderEdit::Replace(b"none", b"x")];
    hsf.edit(&before, &bytes, &edits, Some(17), &mut splices).unwrap();
    let edited = splices.apply(&bytes);
    assert_eq!(edited.len(), splices.new_len(bytes.len()));
    let after = frame(&edited);
    assert_eq!((after.len, after.timeout_ms), (edited.len(), Some(17)));
    assert_eq!(headers(&after, &edited).len(), 2);
    assert_eq!(call(&after, &edited).method, b"sayHello");

    splices.clear();
    hsf.edit(&before, &bytes, &[HeaderEdit::Remove(b"none")], None, &mut splices).unwrap();
    assert!(splices.is_empty());
    let tight = Hsf { max_frame_bytes: bytes.len() + 3, ..hsf };
    let outcome = tight.edit(&before, &bytes, &edits, None, &mut splices);
    assert_eq!(outcome, Err(EditError::TooLong));
    splices.clear();
    let response = frame(&vectors::bytes(H2));
    let outcome = hsf.edit(&response, &vectors::bytes(H2), &edits, None, &mut splices);
    assert_eq!(outcome, Err(EditError::Unsupported));
}

#[test]
fn a_request_without_properties_gets_some() {
    for (properties, codec) in [(&b""[..], 4), (b"N", 4), (b"", 1)] {
        let request = Request { codec, ..Request::default() };
        let bytes = request.with_properties(properties);
        let before = frame(&bytes);
        let mut splices = Splices::default();
        let edits = [HeaderEdit::SetIfAbsent(b"k", b"v"), HeaderEdit::Set(b"l", b"w")];
        let outcome = Hsf::default().edit(&before, &bytes, &edits, None, &mut splices);
        if codec == 1 {
            assert_eq!(outcome, Err(EditError::Unsupported));
            continue;
        }
        outcome.unwrap();
        let edited = splices.apply(&bytes);
        assert_eq!(edited, request.with_properties(b"H\x01k\x01v\x01l\x01wZ"));
    }
}

// ---- TB-Remoting -------------------------------------------------------------------------------

#[test]
fn tr1_and_tr2_are_bound_requests() {
    for (hex, len, id) in [(TR1, 455, 7), (TR2, 406, 2)] {
        let bytes = bytes(hex);
        let frame = frame(&bytes);
        assert_eq!((frame.len, frame.id), (len, id));
        assert_eq!(frame.kind, Kind::Bound { oneway: false });
        let call = call(&frame, &bytes[..frame.head_len]);
        assert_eq!((call.service, call.method), (&b"com.foo.Hello:1.0"[..], &b"sayHello"[..]));
        assert!(call.complete);
        let mut oneway = bytes.clone();
        oneway[3] = 1;
        assert_eq!(self::frame(&oneway).kind, Kind::Bound { oneway: true });
        let mut command = bytes.clone();
        command[1] = 13;
        assert_eq!(self::frame(&command).kind, Kind::Bound { oneway: false });
    }
}

#[test]
fn properties_of_remoting_requests_are_headers() {
    let mut bytes = bytes(TR1);
    let place = bytes.windows(4).rposition(|four| four == b"0zzS").unwrap() + 2;
    bytes.splice(place..place, *b"S\0\x01kS\0\x01v");
    let len = (bytes.len() - (14 + 143 + 44)) as u32;
    bytes[10..14].copy_from_slice(&len.to_be_bytes());
    let frame = frame(&bytes);
    // The map inside is no header.
    assert_eq!(headers(&frame, &bytes), [("k".to_owned(), "v".to_owned())]);
}

#[test]
fn tr3_is_a_response() {
    let bytes = bytes(TR3);
    let frame = frame(&bytes);
    assert_eq!((frame.len, frame.kind, frame.id), (384, Kind::Response, 7));
    assert_eq!(Hsf::default().outcome(&frame, &bytes), Outcome::Success);
    let flag = bytes.windows(8).position(|eight| eight == b"isErrorF").unwrap() + 7;
    let mut failed = bytes.clone();
    failed[flag] = b'T';
    assert_eq!(Hsf::default().outcome(&frame, &failed), Outcome::Failure);
    let result = bytes.windows(7).position(|seven| seven == b"resultI").unwrap() + 10;
    let mut failed = bytes;
    failed[result] = 3;
    let frame = self::frame(&failed);
    assert_eq!(frame.status, 3);
    assert_eq!(Hsf::default().outcome(&frame, &failed), Outcome::Failure);
}

#[test]
fn tr4_is_a_heartbeat() {
    let hsf = Hsf::default();
    let bytes = bytes(TR4);
    let frame = frame(&bytes);
    assert_eq!((frame.len, frame.kind, frame.id), (202, Kind::Heartbeat, 8));
    assert_eq!(written(|out| hsf.put_heartbeat(&frame.tag, 8, out)), bytes);
    let reply = written(|out| hsf.put_heartbeat_reply(&frame, &bytes, out));
    let reply = self::frame(&reply);
    assert_eq!((reply.kind, reply.id), (Kind::HeartbeatReply, 8));
}

#[test]
fn connection_objects_are_those_of_the_vectors() {
    let hsf = Hsf { tb_local_errors: true, ..Hsf::default() };
    for (hex, id) in [(TR1, 7), (TR2, 2)] {
        let request = bytes(hex);
        let tag = frame(&request).tag;
        let ours = written(|out| hsf.put_heartbeat(&tag, id, out));
        let object_end = 14 + usize::from(request[8]);
        assert_eq!(ours[14..object_end], request[14..object_end]);
        let failure = written(|out| hsf.put_failure(&tag, id, Failure::NoRoute, "no ä😀", out));
        let frame = frame(&failure);
        assert_eq!((frame.kind, frame.id, frame.status), (Kind::Response, id, 1));
        assert_eq!(frame.len, failure.len());
    }
}

#[test]
fn remoting_requests_are_answered_only_when_that_is_wanted() {
    let tag = frame(&bytes(TR1)).tag;
    let quiet = Hsf::default();
    assert!(written(|out| quiet.put_failure(&tag, 7, Failure::NoRoute, "x", out)).is_empty());
    let answering = Hsf { tb_local_errors: true, ..quiet };
    assert!(!written(|out| answering.put_failure(&tag, 7, Failure::NoRoute, "x", out)).is_empty());
    // Java's serialization is not ours to write.
    let java = Tag([0x0d, 2, 0, 0]);
    assert!(written(|out| answering.put_failure(&java, 7, Failure::NoRoute, "x", out)).is_empty());
    assert_ne!(quiet.flavour(&tag), quiet.flavour(&frame(&bytes(H1)).tag));
}

#[test]
fn frames_that_cannot_be_read_go_through() {
    // Another serialization; a connection object without id, or none at all.
    let mut java = bytes(TR1);
    java[2] = 2;
    let mut nameless = bytes(TR1);
    let id = nameless.windows(2).position(|two| two == b"id").unwrap();
    nameless[id] = b'j';
    let mut broken = bytes(TR3);
    broken[14] = b'?';
    for bytes in [java, nameless, broken] {
        let frame = frame(&bytes);
        assert_eq!((frame.kind, frame.len), (Kind::Opaque, bytes.len()));
    }
    let mut object = bytes(TR1);
    object[14 + 143 + 44] = b'?';
    let frame = frame(&object);
    assert_eq!(frame.kind, Kind::Bound { oneway: false });
    let error = Hsf::default().call(&frame, &object, Detail::Names).unwrap_err();
    assert_eq!(error.at, 14 + 143 + 44 + 1);
}

#[test]
fn long_connection_objects_are_not_waited_for() {
    let mut bytes = bytes(TR3);
    let stack = bytes.windows(13).position(|some| some == b"S\0\nerrorStackN"[..13].as_ref());
    let place = stack.unwrap() + 13;
    let text = [b"S\x20\0".to_vec(), vec![b'x'; 0x2000]].concat();
    bytes.splice(place..=place, text);
    bytes[7] = 0x20;
    bytes[8] = 0xd3 + 2;
    let verdict = Hsf::default().frame(&bytes[..14]).unwrap();
    let Progress::Frame(frame) = verdict else { panic!("{verdict:?}") };
    assert_eq!((frame.kind, frame.len), (Kind::Opaque, bytes.len()));
}

#[test]
fn nesting_is_bounded() {
    let prefix_len = 14 + 143 + 44;
    for (open, ours) in [(&b"Mt\0\0S\0\x01k"[..], TR1), (b"V", TR1), (b"M\x01k", TR2), (b"V", TR2)]
    {
        let prefix_len = if ours == TR1 { prefix_len } else { 14 + 127 + 44 };
        let mut bytes = bytes(ours)[..prefix_len].to_vec();
        for _ in 0..1000 {
            bytes.extend_from_slice(open);
        }
        let app_len = (bytes.len() - prefix_len) as u32;
        bytes[10..14].copy_from_slice(&app_len.to_be_bytes());
        let frame = frame(&bytes);
        assert!(Hsf::default().call(&frame, &bytes, Detail::All).is_err());
    }
}

// ---- properties ----------------------------------------------------------------------------------

proptest! {
    #[test]
    fn requests_are_read_as_they_are_built(
        id in any::<u64>(),
        timeout in any::<i32>(),
        service in "[a-zA-Z.:0-9]{0,40}",
        method in "\\PC{0,12}",
        arguments in prop::collection::vec(("[a-z.]{0,12}", prop::collection::vec(any::<u8>(), 0..20)), 0..4),
        properties in prop::option::of(prop::collection::vec(("\\PC{0,6}", "\\PC{0,40}"), 0..5)),
    ) {
        let arguments: Vec<_> = arguments.iter().map(|(t, a)| (t.as_str(), a.as_slice())).collect();
        let properties: Option<Vec<_>> = properties
            .as_ref()
            .map(|list| list.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect());
        let request = Request {
            codec: 4,
            id,
            timeout,
            service: &service,
            method: &method,
            arguments: &arguments,
            properties: properties.as_deref(),
        };
        let bytes = request.bytes();
        let frame = frame(&bytes);
        prop_assert_eq!((frame.len, frame.id), (bytes.len(), id));
        prop_assert_eq!(frame.timeout_ms, u32::try_from(timeout).ok().filter(|ms| *ms > 0));
        let call = call(&frame, &bytes);
        prop_assert_eq!((call.service, call.method), (service.as_bytes(), method.as_bytes()));
        let shown = headers(&frame, &bytes);
        let shown: Vec<_> = shown.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        prop_assert_eq!(shown, properties.unwrap_or_default());
    }

    #[test]
    fn edits_agree_with_a_list(
        properties in prop::option::of(prop::collection::vec(("[abc]", "[xyz]{0,3}"), 0..5)),
        edits in prop::collection::vec((0..4_u8, "[abcd]", "[uvw€]{0,40}"), 0..6),
        timeout in prop::option::of(0..i32::MAX as u32),
    ) {
        let list: Option<Vec<_>> = properties
            .as_ref()
            .map(|list| list.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect());
        let bytes = Request { properties: list.as_deref(), ..Request::default() }.bytes();
        let mut expected = properties.unwrap_or_default();
        let edits: Vec<_> = edits
            .iter()
            .map(|(kind, key, value)| {
                edit_list(&mut expected, *kind, key, value);
                let (name, text) = (key.as_bytes(), value.as_bytes());
                match kind {
                    0 => HeaderEdit::Remove(name),
                    1 => HeaderEdit::Set(name, text),
                    2 => HeaderEdit::SetIfAbsent(name, text),
                    _ => HeaderEdit::Replace(name, text),
                }
            })
            .collect();
        let mut splices = Splices::default();
        Hsf::default().edit(&frame(&bytes), &bytes, &edits, timeout, &mut splices).unwrap();
        let edited = splices.apply(&bytes);
        let frame = frame(&edited);
        prop_assert_eq!(frame.len, edited.len());
        let mut shown = headers(&frame, &edited);
        // The order of different keys is of no meaning.
        shown.sort_by(|one, other| one.0.cmp(&other.0));
        expected.sort_by(|one, other| one.0.cmp(&other.0));
        prop_assert_eq!(shown, expected);
    }

    #[test]
    fn remoting_ids_survive(id in any::<i64>(), small in -0x5_0000..0x5_0000_i64, text in "\\PC{0,40}") {
        let hsf = Hsf { tb_local_errors: true, ..Hsf::default() };
        for serialization in [1, 4] {
            let tag = Tag([0x0d, serialization, 0, 0]);
            for id in [id, small].map(|id| id as u64) {
                let heartbeat = written(|out| hsf.put_heartbeat(&tag, id, out));
                let frame = frame(&heartbeat);
                prop_assert_eq!((frame.kind, frame.id), (Kind::Heartbeat, id));
                let failure =
                    written(|out| hsf.put_failure(&tag, id, Failure::Internal, &text, out));
                let frame = self::frame(&failure);
                prop_assert_eq!((frame.kind, frame.id), (Kind::Response, id));
            }
        }
    }
}

/// The definition of an edit: a list, changed one edit after the other.
fn edit_list(list: &mut Vec<(String, String)>, kind: u8, key: &str, value: &str) {
    let exists = list.iter().any(|(known, _)| known == key);
    if kind <= 1 {
        list.retain(|(known, _)| known != key);
    }
    match kind {
        1 => list.push((key.to_owned(), value.to_owned())),
        2 if !exists => list.push((key.to_owned(), value.to_owned())),
        3 => {
            for (_, old) in list.iter_mut().filter(|(known, _)| known == key) {
                value.clone_into(old);
            }
        }
        _ => {}
    }
}
