//! Bolt frames under mutation: a part of the `fuzz_smoke` program.
//!
//! Beside "never panics", the oracles are: the verdict doesn't depend on how the bytes arrive; a frame's
//! bounds, its headers and what edits make of them agree with a plain reading; what is sealed verifies;
//! and a response that was brought into another form and back is the one that it was.

#[path = "builder.rs"]
mod builder;
#[path = "vectors.rs"]
mod vectors;

use outrigger_codecs::rpc::{
    Bolt, Detail, EditError, FRONT_BYTES_MAX, Frame, HeaderEdit, Kind, Progress, RpcCodec, Splices,
    Tag,
};

use self::builder::{Message, edited, read_block};
use self::vectors::{VECTORS, vector};
use crate::support::mutate::{Random, fuzz};

const MAX_FRAME_BYTES: usize = 2048;

const WORDS: &[&[u8]] = &[
    b"\x01\x01\x00\x01",
    b"\x01\x00\x00\x02",
    b"\x02\x01\x01\x00\x01",
    b"\x02\x02\x01\x00\x01",
    b"\x02\x02\x00\x00\x02",
    b"\0\0\0\0",
    b"\0\0\0\x01",
    b"\0\0\0\x01a",
    b"\0\0\0\x07service",
    b"\0\0\0\x18sofa_head_target_service",
    b"\0\0\0\x18sofa_head_response_error\0\0\0\x04true",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xfe",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\x7f\xff",
    b"\x80\0",
    b"\xc3\x28",
];

#[test]
fn bolt_frames() {
    // A request whose headers repeat and have nulls.
    let nulls = Message {
        v2: Some((2, 1)),
        kind: 1,
        command: 1,
        ver2: 1,
        id: 7,
        codec: 1,
        timeout: 3000,
        status: 0,
        class: b"C".to_vec(),
        headers: read_block(vector("B9")).expect("well-formed"),
        content: b"content".to_vec(),
    };
    let nulls = nulls.bytes(false);
    let mut seeds: Vec<&[u8]> = VECTORS.iter().map(|(_, bytes)| &bytes[..]).collect();
    seeds.push(&nulls);
    let (mut whole, mut readable, mut converted) = (0_u64, 0_u64, 0_u64);
    fuzz("bolt frames", &seeds, WORDS, |input, random| {
        let crc_by_switch_only = random.below(2) == 0;
        let codec = Bolt { crc_by_switch_only, goaway: true, max_frame_bytes: MAX_FRAME_BYTES };
        let verdict = codec.frame(input);
        for cut in (0..4).map(|_| random.below(input.len() + 1)) {
            match codec.frame(&input[..cut]) {
                Ok(Progress::NeedMore(more)) => assert!(cut < more && more <= FRONT_BYTES_MAX),
                early => assert_eq!(early, verdict, "cut at {cut}"),
            }
        }
        let Ok(Progress::Frame(frame)) = verdict else { return };
        assert!(frame.id_end <= frame.head_len && frame.head_len <= frame.len);
        assert!(frame.len <= MAX_FRAME_BYTES);
        assert_eq!(plain_bounds(input, crc_by_switch_only), (frame.head_len, frame.len));
        let Some(head) = input.get(..frame.head_len) else { return };
        readable += u64::from(read(&codec, &frame, head));
        let Some(bytes) = input.get(..frame.len) else { return };
        whole += 1;
        // Ids and checksums.
        let bytes = sealed(&codec, &frame, bytes.to_vec());
        assert_eq!(codec.verify(&frame, &mut [&bytes[..]].into_iter()), Ok(()));
        edit(&codec, &frame, &bytes, random);
        converted += u64::from(convert(&codec, &frame, &bytes, random));
    });
    assert!(whole > 5000, "mutations too wild: only {whole} frames were whole");
    assert!(readable > 5000, "mutations too wild: only {readable} blocks could be read");
    assert!(converted > 500, "mutations too wild: only {converted} responses were converted");
}

/// `head_len` and `len`, from the lengths at the end of the fixed part.
fn plain_bounds(input: &[u8], by_switch_only: bool) -> (usize, usize) {
    let is_v2 = input[0] == 2;
    let (kind, fixed_len) = match is_v2 {
        true => (input[2], 22),
        false => (input[1], 20),
    };
    let fixed_len = if kind == 0 { fixed_len } else { fixed_len + 2 };
    let lengths: [u8; 8] = input[fixed_len - 8..fixed_len].try_into().expect("8 bytes");
    let lengths = u64::from_be_bytes(lengths);
    let (class, block) = ((lengths >> 48) as usize, (lengths >> 32) as usize & 0xffff);
    let is_checked = is_v2 && input[11] & 1 == 1 && (input[1] == 2 || by_switch_only);
    let head_len = fixed_len + class + block;
    let content_len = lengths as u32 as usize;
    (head_len, head_len + content_len + if is_checked { 4 } else { 0 })
}

fn block<'a>(frame: &Frame, head: &'a [u8]) -> &'a [u8] {
    let fixed_len = match (frame.tag.0[0], frame.kind) {
        (1, Kind::Response | Kind::HeartbeatReply | Kind::Opaque) => 20,
        (1, _) | (_, Kind::Response | Kind::HeartbeatReply | Kind::Opaque) => 22,
        (..) => 24,
    };
    let len = usize::from(u16::from_be_bytes([head[fixed_len - 6], head[fixed_len - 5]]));
    &head[frame.head_len - len..frame.head_len]
}

/// Reads the headers in all ways; true if they can be read.
fn read(codec: &Bolt, frame: &Frame, head: &[u8]) -> bool {
    let mut seen = Vec::new();
    codec.headers(frame, head, &mut |key, value| {
        assert!(str::from_utf8(key).is_ok() && str::from_utf8(value).is_ok());
        seen.push((key.to_vec(), value.to_vec()));
        true
    });
    codec.outcome(frame, head);
    let call = codec.call(frame, head, Detail::All);
    let Some(headers) = read_block(block(frame, head)) else {
        let error = call.expect_err("it can't be read plainly");
        assert!(
            error.at <= frame.head_len && error.at >= frame.head_len - block(frame, head).len()
        );
        return false;
    };
    let shown: Vec<_> = headers
        .into_iter()
        .filter_map(|(key, value)| Some((key?, value?)))
        .filter(|(key, value)| str::from_utf8(key).is_ok() && str::from_utf8(value).is_ok())
        .collect();
    assert_eq!(seen, shown);
    let call = call.expect("it can be read plainly");
    let last = |name: &[u8]| shown.iter().rev().find(|(key, _)| key == name).map(|it| &it.1[..]);
    let service = last(b"service").filter(|service| !service.is_empty());
    let service = service.or(last(b"sofa_head_target_service"));
    assert_eq!(call.service, service.unwrap_or_default());
    true
}

fn edit(codec: &Bolt, frame: &Frame, bytes: &[u8], random: &mut Random) {
    let keys: [&[u8]; 4] = [b"a", b"b", b"c", b"service"];
    let edits: Vec<_> = (0..random.below(4))
        .map(|_| match (random.below(4), random.pick(&keys)) {
            (0, key) => HeaderEdit::Remove(key),
            (1, key) => HeaderEdit::Set(key, b"new"),
            (2, key) => HeaderEdit::SetIfAbsent(key, b"new"),
            (_, key) => HeaderEdit::Replace(key, b"new"),
        })
        .collect();
    let mut splices = Splices::default();
    let old = read_block(block(frame, bytes));
    let done = codec.edit(frame, &bytes[..frame.head_len], &edits, None, &mut splices);
    let Some(old) = old.filter(|_| !edits.is_empty()) else {
        let expected = if edits.is_empty() { Ok(()) } else { Err(EditError::Unreadable) };
        assert_eq!(done, expected);
        return;
    };
    assert_eq!(done, Ok(()));
    let new = Frame { len: splices.new_len(frame.len), ..*frame };
    let new_bytes = sealed(codec, &new, splices.apply(bytes));
    let large = Bolt { max_frame_bytes: 1 << 20, ..*codec };
    let Ok(Progress::Frame(again)) = large.frame(&new_bytes) else { panic!("an edited frame") };
    let head_len = frame.head_len + new.len - frame.len;
    assert_eq!(again, Frame { head_len, ..new });
    assert_eq!(read_block(block(&again, &new_bytes)), Some(edited(old, &edits)));
    assert_eq!(new_bytes[head_len..].len(), bytes[frame.head_len..].len());
    assert_eq!(codec.verify(&again, &mut [&new_bytes[..]].into_iter()), Ok(()));
}

/// True if the frame was brought into another form and back.
fn convert(codec: &Bolt, frame: &Frame, bytes: &[u8], random: &mut Random) -> bool {
    let request = match random.below(3) {
        0 => Tag([1, 0, 0, 1]),
        ver1 => Tag([2, ver1 as u8, random.below(2) as u8, 1]),
    };
    let mut splices = Splices::default();
    if !codec.convert(frame, &bytes[..frame.head_len], &request, &mut splices) {
        return false;
    }
    let there = Frame { len: splices.new_len(frame.len), tag: request, ..*frame };
    let there_bytes = sealed(codec, &there, splices.apply(bytes));
    let large = Bolt { max_frame_bytes: 1 << 20, ..*codec };
    let Ok(Progress::Frame(there)) = large.frame(&there_bytes) else { panic!("a converted frame") };
    assert_eq!((there.kind, there.id, there.status), (frame.kind, frame.id, frame.status));
    assert_eq!(there.tag.0[..3], request.0[..3]);
    splices.clear();
    let head = &there_bytes[..there.head_len];
    assert!(codec.convert(&there, head, &frame.tag, &mut splices));
    let back = Frame { len: splices.new_len(there.len), tag: frame.tag, ..there };
    let back_bytes = sealed(codec, &back, splices.apply(&there_bytes));
    // The highest bit of a switch isn't sent.
    if frame.tag.0[2] < 0x80 {
        assert_eq!(back_bytes, bytes);
    }
    true
}

fn sealed(codec: &Bolt, frame: &Frame, mut bytes: Vec<u8>) -> Vec<u8> {
    assert_eq!(bytes.len(), frame.len);
    let sum = codec.seal(frame, &mut [&bytes[..]].into_iter());
    if let Some(sum) = sum {
        let at = bytes.len() - sum.len();
        bytes[at..].copy_from_slice(&sum);
    }
    bytes
}
