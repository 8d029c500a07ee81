//! Dubbo frames and Hessian 2 values under mutation: a part of the `fuzz_smoke` program.
//!
//! Beside "never panics", the oracles are: a frame is the same however its bytes come; what is read of
//! a call does not depend on what follows the frame; an edited frame says what the edit wanted, and
//! otherwise what it said before; and a value ends at the same place whatever follows it.

use outrigger_codecs::rpc::hessian2::{Fault, Reader};
use outrigger_codecs::rpc::{
    Detail, Dubbo, EditError, Frame, HeaderEdit, Kind, Progress, RpcCodec, Splices,
};

use super::vectors::{VECTORS, bytes, vector};
use crate::support::mutate::fuzz;

const DUBBO: Dubbo = Dubbo { max_frame_bytes: 4096 };

const WORDS: &[&[u8]] = &[
    b"\xda\xbb\xc2\x00",
    b"\xda\xbb\xd7\x00",
    b"\xda\xbb\x02\x14",
    b"\xda\xbb\xe2\x00",
    b"\x00\x00\x00\x00",
    b"\x00\x00\x00\x40",
    b"\xff\xff\xff\xff",
    b"\x05group",
    b"\x02g1",
    b"\x07timeout",
    b"\x04\x33\x30\x30\x30",
    b"\x09interface",
    b"\x12sys_callback_arg-0",
    b"\x07$invoke",
    b"\x01I",
    b"\x10Ljava/lang/Long;",
    b"\x4e",
    b"\x5a",
    b"\x48",
    b"\x4d\x01a",
    b"\x43\x01A\x91\x01x",
    b"\x60",
    b"\x4f\x90",
    b"\x51\x90",
    b"\x51\x91",
    b"\x57",
    b"\x58\x92",
    b"\x71\x90",
    b"\x78",
    b"\x79",
    b"\x52\x00\x01a",
    b"\x53\x00\x02ab",
    b"\x41\x00\x01a",
    b"\x02\xed\xa0\xbd\xed\xb8\x80",
    b"\x01\xe4\xb8\xad",
    b"\x49\x00\x00\x00\x05",
    b"\x58\x49\x7f\xff\xff\xff",
    b"\x00\x00\x00\x01\xaf",
    b"\x4egroup",
    b"\x4bg1",
    b"\x50timeout",
    b"\xa6",
    b"\xa5",
    b"\x92\x4aa\x00",
    b"\x7f\x4aa\x00",
    b"\x94",
    b"\x96",
    b"\xa4\x48\x7f\xff\xff\xff",
    b"\x79\x38\x00",
    b"\x7a\x03abc",
    b"\x7c\x02-N",
    b"\x93\x4a$",
];

#[test]
fn dubbo_frames() {
    let mut seeds: Vec<Vec<u8>> = VECTORS.iter().map(|(_, hex)| bytes(hex)).collect();
    seeds.push(seeds.concat());
    let seeds: Vec<&[u8]> = seeds.iter().map(|seed| &seed[..]).collect();
    let (mut calls, mut edits) = (0_u64, 0_u64);
    fuzz("dubbo frames", &seeds, WORDS, |input, random| {
        let mut input = input.to_vec();
        if random.below(4) > 0 && input.len() >= 16 {
            // To reach what is behind the header.
            let body_len = input.len() as u32 - 16;
            input[..2].copy_from_slice(b"\xda\xbb");
            input[12..16].copy_from_slice(&body_len.to_be_bytes());
        }
        let input = &input[..];
        let told = DUBBO.frame(input);
        for _ in 0..4 {
            let cut = random.below(input.len() + 1);
            match DUBBO.frame(&input[..cut]) {
                Ok(Progress::NeedMore(more)) => assert!(more > cut && more <= 80),
                early => assert_eq!(early, told, "cut at {cut}"),
            }
        }
        let Ok(Progress::Frame(frame)) = told else { return };
        assert!(frame.id_end <= frame.head_len && frame.head_len <= frame.len);
        assert!(frame.len <= DUBBO.max_frame_bytes);
        if frame.len > input.len() {
            // It is never asked about before it is there; but it must not hurt.
            let _ = DUBBO.call(&frame, input, Detail::All);
            return;
        }
        let bytes = &input[..frame.len];
        let names = DUBBO.call(&frame, bytes, Detail::Names);
        let all = DUBBO.call(&frame, bytes, Detail::All);
        assert_eq!(DUBBO.call(&frame, input, Detail::All), all);
        assert!(all.is_err() || names.is_ok());
        calls += u64::from(all.is_ok() && matches!(frame.kind, Kind::Request | Kind::Oneway));
        assert_eq!(DUBBO.outcome(&frame, bytes), DUBBO.outcome(&frame, &bytes[..frame.head_len]));
        edits += u64::from(check_edit(&frame, bytes));
    });
    assert!(calls > 1_000, "mutations too wild: only {calls} calls");
    assert!(edits > 500, "mutations too wild: only {edits} edits");
}

/// Edits a message, if that can be done, and looks at what has become of it.
fn check_edit(frame: &Frame, bytes: &[u8]) -> bool {
    let edits = [HeaderEdit::Set(b"trace", b"abc"), HeaderEdit::Remove(b"group")];
    let mut splices = Splices::default();
    match DUBBO.edit(frame, bytes, &edits, Some(5), &mut splices) {
        Ok(()) => {}
        Err(EditError::Unreadable | EditError::Unsupported | EditError::TooLong) => {
            assert!(splices.is_empty());
            return false;
        }
    }
    let out = splices.apply(bytes);
    let Ok(Progress::Frame(after)) = DUBBO.frame(&out) else { panic!("no frame any more") };
    assert_eq!(after.len, out.len());
    assert_eq!(Frame { len: frame.len, head_len: frame.head_len, ..after }, *frame);

    let (before_headers, after_headers) = (headers(frame, bytes), headers(&after, &out));
    let edited = |name: &[u8]| matches!(name, b"trace" | b"group" | b"timeout");
    let kept = |headers: &[(Vec<u8>, Vec<u8>)]| {
        headers.iter().filter(|(name, _)| !edited(name)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(kept(&after_headers), kept(&before_headers));
    let with_name = |name: &[u8]| after_headers.iter().filter(|(known, _)| known == name).count();
    assert_eq!((with_name(b"trace"), with_name(b"group")), (1, 0));

    if frame.kind == Kind::Response {
        return true;
    }
    let before = DUBBO.call(frame, bytes, Detail::All);
    let Ok(call) = DUBBO.call(&after, &out, Detail::All) else {
        // A name that is odd still is.
        assert!(before.is_err());
        return true;
    };
    if let Ok(before) = before {
        assert_eq!((call.service, call.method), (before.service, before.method));
        assert_eq!((call.version, call.binds), (before.version, before.binds));
        assert!(call.group.is_empty());
        assert!(before.timeout_ms.is_none() || call.timeout_ms == Some(5));
    }
    true
}

fn headers(frame: &Frame, bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    DUBBO.headers(frame, bytes, &mut |name, value| {
        all.push((name.to_vec(), value.to_vec()));
        true
    });
    all
}

#[test]
fn hessian2_values() {
    // Bodies from their first byte.
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for name in ["D1", "D2", "D7", "D11", "D12"] {
        seeds.push(vector(name).split_off(16));
    }
    seeds.push(b"\x57\x43\x01A\x92\x01x\x01y\x60\x90\x91\x4f\x90\x51\x90\x51\x91\x5a".to_vec());
    seeds.push(b"\x4d\x01a\x01k\x71\x90\x5b\x57\x4e\x5a\x55\x01b\x53\x00\x01a\x5a\x5a".to_vec());
    seeds.push(b"\x48\x48\x48\x5a\x78\x5a\x79\x79\x79\x90\x5a".to_vec());
    let seeds: Vec<&[u8]> = seeds.iter().map(|seed| &seed[..]).collect();
    let mut values = 0_u64;
    fuzz("hessian2 values", &seeds, WORDS, |input, random| {
        let mut reader = Reader::new(input, 0);
        while reader.at() < input.len() {
            let before = reader.clone();
            let (start, skipped) = (reader.at(), reader.skip());
            match skipped {
                Ok(()) => {
                    values += 1;
                    let end = reader.at();
                    assert!(start < end && end <= input.len());
                    // Nothing behind it matters, and all of it does.
                    let mut exact = before_with(&before, &input[..end]);
                    assert_eq!(exact.skip(), Ok(()));
                    assert_eq!(exact.at(), end);
                    let cut = start + random.below(end - start);
                    let mut short = before_with(&before, &input[..cut]);
                    let error = short.skip().expect_err("cut");
                    assert_eq!(error.fault, Fault::Truncated, "cut at {cut}");
                }
                Err(error) => {
                    assert!(error.at <= input.len());
                    return;
                }
            }
            // The other readers agree about what they read.
            let mut other = before.clone();
            if other.is_string_next() {
                assert!(other.string().is_ok());
                assert_eq!(other.at(), reader.at());
            } else if let Ok(Some(_)) = other.integer() {
                assert_eq!(other.at(), reader.at());
            }
        }
    });
    assert!(values > 50_000, "mutations too wild: only {values} values");
}

/// A reader at the same place of the same stream, which ends elsewhere.
fn before_with<'a>(before: &Reader<'_>, bytes: &'a [u8]) -> Reader<'a> {
    let mut reader = Reader::new(bytes, 0);
    while reader.at() < before.at() {
        reader.skip().expect("gone over before");
    }
    reader
}
