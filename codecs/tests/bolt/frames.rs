//! Bounds, kinds and ids: what the fixed part of a frame says.

use outrigger_codecs::rpc::{
    Bolt, FRONT_BYTES_MAX, Failure, Frame, FrameError, FrameFault, Kind, Progress, RpcCodec, Tag,
};

use crate::vectors::{VECTORS, vector};
use crate::{BOLT, frame, sealed};

#[test]
fn vectors_say_what_they_are() {
    let v1 = |codec| Tag([1, 0, 0, codec]);
    let frame_of = |len, head_len, kind, id, timeout_ms, tag: Tag| {
        let id_end = if tag.0[0] == 1 { 9 } else { 10 };
        Frame { len, head_len, id_end, kind, id, timeout_ms, status: 0, tag }
    };
    for (name, expected) in [
        ("B1", frame_of(22, 22, Kind::Heartbeat, 1, None, v1(1))),
        ("B2", frame_of(20, 20, Kind::HeartbeatReply, 1, None, v1(1))),
        ("B3", frame_of(420, 229, Kind::Request, 42, Some(3000), v1(1))),
        ("B4", frame_of(102, 98, Kind::Oneway, 43, None, v1(12))),
        ("B5", frame_of(169, 66, Kind::Response, 42, None, v1(1))),
        ("B6", Frame { status: 6, ..frame_of(20, 20, Kind::Response, 42, None, v1(1)) }),
        ("B7", Frame { status: 7, ..frame_of(20, 20, Kind::Response, 42, None, v1(1)) }),
        ("B8", frame_of(22, 22, Kind::Goodbye, 44, None, v1(1))),
        ("B10", frame_of(106, 102, Kind::Response, 43, None, v1(12))),
        ("B20", frame_of(24, 24, Kind::Heartbeat, 5, None, Tag([2, 1, 0, 1]))),
        ("B21", frame_of(22, 22, Kind::HeartbeatReply, 5, None, Tag([2, 1, 0, 1]))),
        ("B22", frame_of(291, 100, Kind::Request, 42, Some(3000), Tag([2, 1, 1, 1]))),
        ("B23", frame_of(295, 100, Kind::Request, 42, Some(3000), Tag([2, 2, 1, 1]))),
        ("B24", frame_of(291, 100, Kind::Request, 42, Some(3000), Tag([2, 2, 0, 1]))),
        ("B25", frame_of(175, 68, Kind::Response, 42, None, Tag([2, 2, 1, 1]))),
        (
            "B26",
            Frame { status: 6, ..frame_of(26, 22, Kind::Response, 42, None, Tag([2, 2, 1, 1])) },
        ),
        ("BM4", frame_of(37, 37, Kind::Request, 1, Some(3000), v1(1))),
        ("BM5", frame_of(40, 40, Kind::Request, 1, Some(3000), v1(1))),
        ("BM6", frame_of(28, 24, Kind::Request, 1, Some(3000), Tag([2, 2, 1, 1]))),
        ("BM9", Frame { status: 10, ..frame_of(20, 20, Kind::Response, 1, None, v1(1)) }),
    ] {
        assert_eq!(frame(&BOLT, vector(name)), expected, "{name}");
    }
}

#[test]
fn what_is_no_frame_is_refused() {
    let request = Some((Tag([1, 0, 0, 1]), 1, Failure::Undecodable));
    for (name, reason, at, answer) in [
        ("BM1", FrameFault::Type, 1, None),
        ("BM2", FrameFault::Length, 14, None),
        ("BM3", FrameFault::Length, 18, request),
        ("BM7", FrameFault::Version, 1, None),
        ("BM8", FrameFault::Protocol, 0, None),
    ] {
        let expected = Err(FrameError { reason, at, answer });
        assert_eq!(BOLT.frame(vector(name)), expected, "{name}");
    }
    let mut type_of_v2 = vector("B20").to_vec();
    type_of_v2[2] = 3;
    let error = BOLT.frame(&type_of_v2).expect_err("type 3");
    assert_eq!((error.reason, error.at), (FrameFault::Type, 2));
}

#[test]
fn only_two_way_requests_are_answered_when_their_content_is_too_long() {
    for (kind, command, expected) in [
        (1, 1, Some((Tag([1, 0, 0, 1]), 1, Failure::Undecodable))),
        (2, 1, None),
        (1, 0, None),
        (1, 100, None),
    ] {
        let mut bytes = vector("BM3").to_vec();
        (bytes[1], bytes[3]) = (kind, command);
        let error = BOLT.frame(&bytes).expect_err("content of 4 GiB");
        assert_eq!(error.answer, expected, "type {kind}, command {command}");
    }
    let mut response = vector("B2").to_vec();
    response[16] = 0x80;
    let error = BOLT.frame(&response).expect_err("content of 2 GiB");
    assert_eq!((error.reason, error.at, error.answer), (FrameFault::Length, 16, None));
}

#[test]
fn a_frame_may_be_as_long_as_the_limit() {
    for (name, len, answer) in [
        ("B3", 420, Some((Tag([1, 0, 0, 1]), 42, Failure::TooLarge))),
        ("B4", 102, None),
        ("B23", 295, Some((Tag([2, 2, 1, 1]), 42, Failure::TooLarge))),
        ("B25", 175, None),
    ] {
        assert_eq!(frame(&Bolt { max_frame_bytes: len, ..BOLT }, vector(name)).len, len);
        let tight = Bolt { max_frame_bytes: len - 1, ..BOLT };
        let error = tight.frame(vector(name)).expect_err("above the limit");
        assert_eq!((error.reason, error.answer), (FrameFault::TooLarge, answer), "{name}");
    }
    // Whatever the limit, class and headers have theirs.
    let loose = Bolt { max_frame_bytes: usize::MAX, ..BOLT };
    let mut bytes = vector("B1").to_vec();
    bytes[14..].copy_from_slice(&[0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    let Ok(Progress::Frame(longest)) = loose.frame(&bytes) else { panic!("within the limits") };
    assert_eq!((longest.head_len, longest.len), (22 + 65_534, 22 + 65_534 + 0x7fff_ffff));
    bytes[16] = 0x80;
    let error = loose.frame(&bytes).expect_err("headers of 32769 bytes");
    assert_eq!((error.reason, error.at, error.answer), (FrameFault::Length, 16, None));
}

#[test]
fn a_verdict_does_not_depend_on_how_bytes_arrive() {
    for (name, bytes) in VECTORS.iter().filter(|(name, _)| name != "B9") {
        let whole = BOLT.frame(bytes);
        for cut in 0..bytes.len() {
            match BOLT.frame(&bytes[..cut]) {
                Ok(Progress::NeedMore(more)) => {
                    assert!(cut < more && more <= FRONT_BYTES_MAX.min(bytes.len()), "{name} {cut}");
                }
                early => assert_eq!(early, whole, "{name} cut at {cut}"),
            }
        }
        // The fixed part tells all, and what follows nothing.
        let fixed_len = 24.min(bytes.len());
        assert_eq!(BOLT.frame(&bytes[..fixed_len]), whole, "{name}");
        assert_eq!(BOLT.frame(&[bytes, &b"\xff\xff"[..]].concat()), whole, "{name}");
    }
}

#[test]
fn frames_of_both_versions_stand_behind_each_other() {
    let names = ["B1", "B22", "B3", "B23", "B5", "B26", "B8", "B20", "B4", "B25", "B6"];
    let stream = names.map(vector).concat();
    let mut rest = &stream[..];
    for name in names {
        let Ok(Progress::Frame(frame)) = BOLT.frame(rest) else { panic!("{name}") };
        assert_eq!(rest[..frame.len], *vector(name));
        rest = &rest[frame.len..];
    }
    assert!(rest.is_empty());
}

#[test]
fn commands_that_nobody_knows() {
    for (kind, command, expected) in [
        (1, 2, Kind::Request),
        (1, 7, Kind::Request),
        (2, 0x164, Kind::Oneway),
        (2, 0, Kind::Heartbeat),
        (2, 100, Kind::Goodbye),
        (0, 1, Kind::Opaque),
        (0, 100, Kind::Opaque),
    ] {
        let mut bytes = vector(if kind == 0 { "B2" } else { "B1" }).to_vec();
        bytes[1] = kind;
        bytes[2..4].copy_from_slice(&u16::to_be_bytes(command));
        assert_eq!(frame(&BOLT, &bytes).kind, expected, "type {kind}, command {command}");
    }
    // The go-away of version 2, which nobody sends.
    let mut bytes = vector("B20").to_vec();
    bytes[4] = 100;
    assert_eq!(frame(&BOLT, &bytes).kind, Kind::Goodbye);
}

#[test]
fn a_timeout_below_one_is_none() {
    for (timeout, expected) in
        [(i32::MIN, None), (-1, None), (0, None), (1, Some(1)), (i32::MAX, Some(0x7fff_ffff))]
    {
        let mut bytes = vector("B3").to_vec();
        bytes[10..14].copy_from_slice(&timeout.to_be_bytes());
        assert_eq!(frame(&BOLT, &bytes).timeout_ms, expected);
        let mut bytes = vector("B24").to_vec();
        bytes[12..16].copy_from_slice(&timeout.to_be_bytes());
        assert_eq!(frame(&BOLT, &bytes).timeout_ms, expected);
    }
}

#[test]
fn ids_of_all_32_bits_are_rewritten_in_place() {
    assert_eq!(BOLT.id_bits(), 32);
    for name in ["B1", "B3", "B5", "B20", "B23", "B25"] {
        for id in [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff_u64] {
            let mut bytes = vector(name).to_vec();
            let old = frame(&BOLT, &bytes);
            BOLT.set_id(&old, &mut bytes[..old.id_end], id);
            assert_eq!(frame(&BOLT, &bytes), Frame { id, ..old }, "{name}");
            BOLT.set_id(&old, &mut bytes, old.id);
            assert_eq!(bytes, vector(name), "{name}");
        }
    }
    // The low half of a wider number.
    let mut bytes = vector("B1").to_vec();
    let old = frame(&BOLT, &bytes);
    BOLT.set_id(&old, &mut bytes, 0x1_0000_0007);
    assert_eq!(frame(&BOLT, &bytes).id, 7);
}

#[test]
fn a_checksum_is_there_by_javas_rule_or_by_the_switch_alone() {
    let by_switch = Bolt { crc_by_switch_only: true, ..BOLT };
    for (name, java, switch) in [
        ("B3", None, None),
        // Node waits for four bytes more than Java sends.
        ("B22", None, Some(295)),
        ("B23", Some(0xfaf0_40d7_u32), Some(295)),
        ("B24", None, None),
        ("B25", Some(0x9fea_ed61), Some(175)),
        ("B26", Some(0x40df_1e2b), Some(26)),
    ] {
        let bytes = vector(name);
        let is = frame(&BOLT, bytes);
        assert_eq!(BOLT.verify(&is, &mut [bytes].into_iter()), Ok(()), "{name}");
        let sum = BOLT.seal(&is, &mut [bytes].into_iter());
        assert_eq!(sum, java.map(u32::to_be_bytes), "{name}");
        let Ok(Progress::Frame(is)) = by_switch.frame(bytes) else { panic!("{name}") };
        assert_eq!(is.len, switch.unwrap_or(bytes.len()), "{name}");
    }
    let mut bytes = [vector("B22"), &[0; 4]].concat();
    let is = frame(&by_switch, &bytes);
    assert!(by_switch.verify(&is, &mut [&bytes[..]].into_iter()).is_err());
    bytes = sealed(&by_switch, &is, bytes);
    assert_eq!(by_switch.verify(&is, &mut [&bytes[..]].into_iter()), Ok(()));
}

#[test]
fn a_wrong_checksum_is_found() {
    let expected = |at| Err(FrameError { reason: FrameFault::Checksum, at, answer: None });
    let bytes = vector("BM6");
    assert_eq!(BOLT.verify(&frame(&BOLT, bytes), &mut [bytes].into_iter()), expected(24));
    // Any bit of any byte counts, and so does an end that is missing.
    let is = frame(&BOLT, vector("B25"));
    for at in 0..is.len {
        let mut bytes = vector("B25").to_vec();
        bytes[at] ^= 0x10;
        let mut parts = bytes.chunks(at + 1);
        assert_eq!(BOLT.verify(&is, &mut parts), expected(171), "byte {at}");
        assert_eq!(BOLT.verify(&is, &mut [&vector("B25")[..at]].into_iter()), expected(171));
    }
    // A new id takes a new checksum.
    let mut bytes = vector("B23").to_vec();
    let is = frame(&BOLT, &bytes);
    BOLT.set_id(&is, &mut bytes, 77);
    assert_eq!(BOLT.verify(&is, &mut [&bytes[..]].into_iter()), expected(291));
    let bytes = sealed(&BOLT, &is, bytes);
    assert_eq!(BOLT.verify(&is, &mut [&bytes[..]].into_iter()), Ok(()));
}
