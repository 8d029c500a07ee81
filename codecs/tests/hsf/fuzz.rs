//! HSF frames under mutation: a part of the `fuzz_smoke` program.
//!
//! Beside "never panics", the oracles are: the verdict doesn't depend on how much is there; a plain
//! reading of the fixed part agrees on bounds and names; a rewritten id is read back and nothing else
//! changes; edited frames are frames, with the headers that the edits ask for; and what is written is
//! read as what it was meant to be.

#[path = "vectors.rs"]
mod vectors;

use outrigger_codecs::rpc::{
    Detail, FRONT_BYTES_MAX, Failure, Frame, HeaderEdit, Hsf, Kind, Progress, RpcCodec, Splices,
};

use crate::support::mutate::fuzz;

use vectors::{H1, H2, H3, H4, H5, H6, H7, HM1, HM2, HM3, Request, TR1, TR2, TR3, TR4, bytes};

const FRAME_BYTES_MAX: usize = 4096;

const WORDS: &[&[u8]] = &[
    b"\x0e\x01\x00\x04",
    b"\x0e\x00\x01\x04",
    b"\x0e\x01\x01\x14\x04",
    b"\x0e\x01\x01\x04\x14",
    b"\x0c\x00\x01",
    b"\x0c\x01\x01",
    b"\x0d\x00\x01\x02",
    b"\x0d\x01\x04\x00",
    b"\x0f",
    b"\0\0\0\0",
    b"\0\0\0\x01",
    b"\0\0\0\xff",
    b"\0\0\x01\0",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x80\0\0\0",
    b"H",
    b"Z",
    b"Mt\0\x01a",
    b"z",
    b"Vt\0\x01al\0\0\0\x01",
    b"Vn\x01",
    b"S\0\x02id",
    b"L\0\0\0\0\0\0\0\x07",
    b"O\x91a\x91\x01k",
    b"o\x90",
    b"o\x91",
    b"J\0",
    b"R\0\0\0\0",
    b"s\0\x01a",
    b"w\xff\xff\xff\xff",
    b"N",
    b"\xc8\x40",
    b"\xf8\x01",
    b"\xe2",
    b"\x90",
    b"\xe4\xb8\xad",
    b"\xf0\x9f\x98\x80",
    b"\x0ctarget_group\x03HSF",
    b"ctx",
];

const EDITS: &[HeaderEdit<'_>] = &[
    HeaderEdit::Set(b"target_group", b"gray"),
    HeaderEdit::Remove(b"Consumer-AppName"),
    HeaderEdit::SetIfAbsent(b"unit_key", b"u"),
    HeaderEdit::Replace(b"x", b"replaced"),
];

#[test]
fn hsf_frames() {
    let properties = [("Consumer-AppName", "app"), ("target_group", "HSF"), ("x", "\u{4e2d}")];
    let rich = Request {
        arguments: &[("java.lang.String", b"\x02hi"), ("int", b"\x91")],
        properties: Some(&properties),
        ..Request::default()
    };
    let mut seeds: Vec<Vec<u8>> =
        [H1, H2, H3, H4, H5, H6, H7, TR1, TR2, TR3, TR4, HM1, HM2, HM3].map(bytes).into();
    seeds.push(rich.bytes());
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    let (mut frames, mut edited) = (0_u64, 0_u64);
    fuzz("hsf frames", &seeds, WORDS, |input, random| {
        let hsf = Hsf {
            max_frame_bytes: FRAME_BYTES_MAX,
            rpc_type_first: random.below(2) == 0,
            response_codec_first: random.below(2) == 0,
            heartbeat_version_first: random.below(2) == 0,
            rpc_protocol_byte: if random.below(20) == 0 { 0x0d } else { 0x0e },
            announce_closing: true,
            tb_local_errors: true,
        };
        let whole = hsf.frame(input);
        for cut in (0..6).map(|_| random.below(input.len() + 1)) {
            match hsf.frame(&input[..cut]) {
                Ok(Progress::NeedMore(wanted)) => {
                    assert!(wanted > cut && wanted <= FRONT_BYTES_MAX, "{wanted} at {cut}");
                }
                early => assert_eq!(early, whole, "cut at {cut}"),
            }
        }
        let Ok(Progress::Frame(frame)) = whole else { return };
        assert!(frame.id_end <= frame.head_len && frame.head_len <= frame.len);
        assert!(frame.len <= FRAME_BYTES_MAX);
        frames += 1;
        check_id(&hsf, &frame, input);
        check_answers(&hsf, &frame);
        let Some(bytes) = input.get(..frame.len) else { return };
        if frame.tag.0[0] == 0x0e && frame.kind == Kind::Request {
            check_names(&hsf, &frame, bytes);
        }
        let _ = hsf.call(&frame, bytes, Detail::All);
        let _ = hsf.outcome(&frame, bytes);
        edited += u64::from(check_edits(&hsf, &frame, bytes));
    });
    assert!(frames > 5_000, "mutations too wild: only {frames} inputs were frames");
    assert!(edited > 100, "mutations too wild: only {edited} frames could be edited");
}

fn check_id(hsf: &Hsf, frame: &Frame, input: &[u8]) {
    let mut bytes = input.to_vec();
    hsf.set_id(frame, &mut bytes, 0x0102_0304_0506_0708);
    let Ok(Progress::Frame(after)) = hsf.frame(&bytes) else { panic!("no frame any more") };
    if frame.tag.0[0] == 0x0d {
        assert_eq!((after, &bytes[..]), (*frame, input));
        return;
    }
    let kind = if frame.kind == Kind::Goodbye { Kind::Response } else { frame.kind };
    assert_eq!(after, Frame { id: 0x0102_0304_0506_0708, kind, ..*frame });
    let differ = |at: &usize| bytes[*at] != input[*at];
    assert!(
        (0..bytes.len()).filter(differ).all(|at| (frame.id_end - 8..frame.id_end).contains(&at))
    );
}

fn check_answers(hsf: &Hsf, frame: &Frame) {
    let read = |bytes: &[u8]| match hsf.frame(bytes) {
        Ok(Progress::Frame(answer)) if answer.len == bytes.len() => answer,
        other => panic!("written, but not a frame: {other:?}"),
    };
    let mut out = Vec::new();
    hsf.put_failure(&frame.tag, 7, Failure::Internal, "text", &mut out);
    if !out.is_empty() {
        let answer = read(&out);
        assert_eq!((answer.kind, answer.id), (Kind::Response, 7));
    }
    out.clear();
    hsf.put_heartbeat(&frame.tag, 7, &mut out);
    // Where 0x0d is HSF2's, a heartbeat is HSF's.
    if !out.is_empty() {
        let heartbeat = read(&out);
        assert_eq!((heartbeat.kind, heartbeat.id), (Kind::Heartbeat, 7));
        out.clear();
        hsf.put_heartbeat_reply(&heartbeat, &[], &mut out);
        let reply = read(&out);
        assert_eq!((reply.kind, reply.id), (Kind::HeartbeatReply, 7));
    }
}

/// The names where the table of lengths has them, read in the plainest way.
fn check_names(hsf: &Hsf, frame: &Frame, bytes: &[u8]) {
    let number =
        |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let count = number(27);
    let start = 35 + 8 * count;
    let (service_len, method_len) = (number(19), number(23));
    let sum: usize = (0..=2 * count).map(|place| number(31 + 4 * place)).sum();
    assert_eq!(frame.len, start + service_len + method_len + sum);
    let call = hsf.call(frame, &bytes[..frame.head_len], Detail::Names).expect("names are there");
    assert_eq!(call.service, &bytes[start..start + service_len]);
    assert_eq!(call.method, &bytes[start + service_len..start + service_len + method_len]);
    let all = hsf.call(frame, bytes, Detail::All).expect("all is there");
    assert!(all.complete);
    assert_eq!((all.service, all.method), (call.service, call.method));
}

/// True when the frame could be edited.
fn check_edits(hsf: &Hsf, frame: &Frame, bytes: &[u8]) -> bool {
    let mut splices = Splices::default();
    if hsf.edit(frame, bytes, EDITS, Some(5), &mut splices).is_err() {
        return false;
    }
    let edited = splices.apply(bytes);
    assert_eq!(edited.len(), splices.new_len(bytes.len()));
    let Ok(Progress::Frame(after)) = hsf.frame(&edited) else { panic!("no frame any more") };
    assert_eq!(after, Frame { len: edited.len(), timeout_ms: Some(5), ..*frame });
    let before = headers(hsf, frame, bytes);
    let after = headers(hsf, &after, &edited);
    let kept = |name: &[u8]| name != b"target_group" && name != b"Consumer-AppName";
    let has_unit = before.iter().any(|(name, _)| name == b"unit_key");
    let mut expected: Vec<_> = before
        .into_iter()
        .filter(|(name, _)| kept(name))
        .map(
            |(name, value)| if name == b"x" { (name, b"replaced".to_vec()) } else { (name, value) },
        )
        .collect();
    expected.push((b"target_group".to_vec(), b"gray".to_vec()));
    if !has_unit {
        expected.push((b"unit_key".to_vec(), b"u".to_vec()));
    }
    // A value that was no text may have been what was there, or replaced by one.
    let shown: Vec<_> = expected.iter().filter(|entry| after.contains(entry)).collect();
    assert!(shown.len() + 1 >= expected.len(), "{expected:?} became {after:?}");
    true
}

fn headers(hsf: &Hsf, frame: &Frame, bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut out = Vec::new();
    hsf.headers(frame, bytes, &mut |name, value| {
        out.push((name.to_vec(), value.to_vec()));
        true
    });
    out
}
