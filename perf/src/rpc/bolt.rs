//! Frames of SOFABolt. Offsets are of v1; v2 has one byte more before the type and one more, the
//! switch, after the codec.

use std::ops::Range;

use super::{FILLING, Head, INTERFACE, Kind, Malformed, TIMEOUT_MS, asked, length};
use crate::protocol::Fault;

/// First byte of a frame of version 1.
pub(super) const V1: u8 = 1;
/// First byte of a frame of version 2.
pub(super) const V2: u8 = 2;
/// What is called: interface and version.
pub(super) const SERVICE: &str = "com.foo.Hello:1.0";

/// Type of an answer.
const RESPONSE: u8 = 0;
/// Type of a call to be answered.
const REQUEST: u8 = 1;
/// Type of a call without an answer.
const ONE_WAY: u8 = 2;
/// Command codes.
const HEARTBEAT: u16 = 0;
const CALL: u16 = 1;
const ANSWER: u16 = 2;
const GO_AWAY: u16 = 100;
const SUCCESS: u16 = 0;
/// SOFA hessian.
const CODEC: u8 = 1;
/// Where the id is.
const ID_AT: usize = 5;
/// The switch's bit for a checksum.
const CHECKED: u8 = 1;
/// Bytes of a checksum.
const CHECKSUM_BYTES: u64 = 4;

const REQUEST_CLASS: &str = "com.alipay.sofa.rpc.core.request.SofaRequest";
const RESPONSE_CLASS: &str = "com.alipay.sofa.rpc.core.response.SofaResponse";
const METHOD_NAME: &str = "sofa_head_method_name";

/// A call as SOFARPC makes them, in v1, except that its content is only filling.
pub(super) fn call(method: &str, content_bytes: usize) -> Vec<u8> {
    debug_assert!(SERVICE.starts_with(INTERFACE));
    let mut headers = Vec::new();
    for (key, value) in [
        ("service", SERVICE),
        (METHOD_NAME, method),
        ("sofa_head_target_service", SERVICE),
        ("rpc_trace_context.sofaTraceId", "0a0fe8f81763740000001000112233"),
    ] {
        for text in [key, value] {
            headers.extend_from_slice(&length(text.len()).to_be_bytes());
            headers.extend_from_slice(text.as_bytes());
        }
    }
    let mut out = vec![V1, REQUEST];
    out.extend_from_slice(&CALL.to_be_bytes());
    out.push(1);
    out.extend_from_slice(&[0; 4]);
    out.push(CODEC);
    out.extend_from_slice(&TIMEOUT_MS.to_be_bytes());
    out.extend_from_slice(&short(REQUEST_CLASS.len()));
    out.extend_from_slice(&short(headers.len()));
    out.extend_from_slice(&length(content_bytes).to_be_bytes());
    out.extend_from_slice(REQUEST_CLASS.as_bytes());
    out.extend_from_slice(&headers);
    out.resize(out.len() + content_bytes, FILLING[0]);
    out
}

pub(super) fn number(call: &mut [u8], id: u64) {
    call[ID_AT..ID_AT + 4].copy_from_slice(&(id as u32).to_be_bytes());
}

pub(super) fn head(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    // Where the parts begin that all types have, and those that not all have.
    let (common, rest) = match bytes.first() {
        None => return Ok(None),
        Some(&V1) => (1, 10),
        Some(&V2) => (2, 12),
        Some(_) => return Err(Malformed),
    };
    if bytes.len() < rest {
        return Ok(None);
    }
    let number = |at: usize, bytes_of_it: usize| super::number(&bytes[at..at + bytes_of_it]);
    let kind = bytes[common];
    // A timeout or a status.
    let first = match kind {
        RESPONSE => 2,
        REQUEST | ONE_WAY => 4,
        _ => return Err(Malformed),
    };
    let lengths = rest + first;
    let fixed = lengths + 8;
    if bytes.len() < fixed {
        return Ok(None);
    }
    let v2 = bytes[0] == V2;
    let (ver1, switch) = if v2 { (bytes[1], bytes[rest - 1]) } else { (0, 0) };
    let manner = [bytes[0], ver1, bytes[common + 8], switch];
    let (class, headers) = (number(lengths, 2), number(lengths + 2, 2));
    let content = number(lengths + 4, 4);
    let command = number(common + 1, 2) as u16;
    let kind = match (kind, command) {
        (RESPONSE, ANSWER) if number(rest, 2) as u16 == SUCCESS => Kind::Answer(Ok(content)),
        (RESPONSE, ANSWER) => Kind::Answer(Err(Fault::Status)),
        (RESPONSE, HEARTBEAT) => Kind::HeartbeatAnswer,
        (RESPONSE, _) => return Err(Malformed),
        (REQUEST, HEARTBEAT) => Kind::Heartbeat,
        (_, GO_AWAY) => Kind::GoAway,
        (two_way, CALL) => {
            let at = fixed + class as usize;
            let Some(headers) = bytes.get(at..at + headers as usize) else { return Ok(None) };
            let asked = value(headers, METHOD_NAME.as_bytes()).and_then(asked);
            Kind::Call { two_way: two_way == REQUEST, asked }
        }
        _ => Kind::Other,
    };
    let checksum = if is_checked(manner) { CHECKSUM_BYTES } else { 0 };
    Ok(Some(Head {
        kind,
        id: number(common + 4, 4),
        bytes: fixed as u64 + class + headers + content + checksum,
        manner,
    }))
}

/// The content of a whole frame of v1.
pub(super) fn content(frame: &[u8]) -> Option<Vec<Range<usize>>> {
    let lengths = match frame.get(..2)? {
        [V1, RESPONSE] => 12,
        [V1, _] => 14,
        _ => return None,
    };
    let bytes = super::number(frame.get(lengths + 4..lengths + 8)?) as usize;
    let start = frame.len().checked_sub(bytes)?;
    Some(std::iter::once(start..frame.len()).collect())
}

/// The value of a key in a block of headers.
fn value<'a>(mut block: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let mut text = || {
        let (bytes, rest) = block.split_at_checked(4)?;
        let (text, rest) = rest.split_at_checked(usize::try_from(super::number(bytes)).ok()?)?;
        block = rest;
        Some(text)
    };
    loop {
        let (key, value) = (text()?, text()?);
        if key == wanted {
            return Some(value);
        }
    }
}

pub(super) fn put_answer(to: Head, content_bytes: usize, out: &mut Vec<u8>) {
    put_response(to, ANSWER, RESPONSE_CLASS, content_bytes, out);
}

pub(super) fn put_heartbeat_answer(to: Head, out: &mut Vec<u8>) {
    put_response(to, HEARTBEAT, "", 0, out);
}

/// Appends a successful response without headers, in the version of what it answers.
fn put_response(to: Head, command: u16, class: &str, content_bytes: usize, out: &mut Vec<u8>) {
    let start = out.len();
    let [protocol, ver1, codec, switch] = to.manner;
    let v2 = protocol == V2;
    out.push(protocol);
    if v2 {
        out.push(ver1);
    }
    out.push(RESPONSE);
    out.extend_from_slice(&command.to_be_bytes());
    out.push(1);
    out.extend_from_slice(&(to.id as u32).to_be_bytes());
    out.push(codec);
    if v2 {
        out.push(switch);
    }
    out.extend_from_slice(&SUCCESS.to_be_bytes());
    out.extend_from_slice(&short(class.len()));
    out.extend_from_slice(&short(0));
    out.extend_from_slice(&length(content_bytes).to_be_bytes());
    out.extend_from_slice(class.as_bytes());
    out.resize(out.len() + content_bytes, FILLING[1]);
    if is_checked(to.manner) {
        let checksum = crc32(&out[start..]);
        out.extend_from_slice(&checksum.to_be_bytes());
    }
}

/// Whether frames of this manner end with a checksum, by the rule of Java peers.
fn is_checked([protocol, ver1, _, switch]: [u8; 4]) -> bool {
    protocol == V2 && ver1 == 2 && switch & CHECKED != 0
}

fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// CRC-32/ISO-HDLC. A bit at a time: no load that is measured has checksums.
fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let step = |crc: u32, _| (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1));
    !bytes.iter().fold(!0, |crc: u32, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::bytes, *};

    /// What SOFARPC sends: a call of `sayHello`, number 42.
    const B3: &str = "01010001010000002a0100000bb8002c00a3000000bf636f6d2e616c69706179
        2e736f66612e7270632e636f72652e726571756573742e536f66615265717565
        7374000000077365727669636500000011636f6d2e666f6f2e48656c6c6f3a31
        2e3000000015736f66615f686561645f6d6574686f645f6e616d650000000873
        617948656c6c6f00000018736f66615f686561645f7461726765745f73657276
        69636500000011636f6d2e666f6f2e48656c6c6f3a312e300000001d7270635f
        74726163655f636f6e746578742e736f66615472616365496400000008306130
        66653866384fbc";

    fn head_of(hex: &str) -> Head {
        head(&bytes(hex)).unwrap().unwrap()
    }

    #[test]
    fn reads_what_others_send() {
        let call = Kind::Call { two_way: true, asked: None };
        for (hex, kind, id, length) in [
            (B3, call, 42, 420),
            // A heartbeat, its answer, an answer, two errors and a go-away, all of v1.
            ("01010000010000000101ffffffff0000000000000000", Kind::Heartbeat, 1, 22),
            ("0100000001000000010100000000000000000000", Kind::HeartbeatAnswer, 1, 20),
            ("01000002010000002a010000002e000000000067", Kind::Answer(Ok(103)), 42, 169),
            ("01000002010000002a0100060000000000000000", Kind::Answer(Err(Fault::Status)), 42, 20),
            ("01010064010000002c01000000000000000000000000", Kind::GoAway, 44, 22),
            // v2: a heartbeat and its answer, answers with a checksum and without.
            ("020101000001000000050100ffffffff0000000000000000", Kind::Heartbeat, 5, 24),
            ("02010000000100000005010000000000000000000000", Kind::HeartbeatAnswer, 5, 22),
            ("0202000002010000002a01010000002e000000000067", Kind::Answer(Ok(103)), 42, 175),
            ("0201000002010000002a01010000002e000000000067", Kind::Answer(Ok(103)), 42, 171),
        ] {
            let found = head_of(hex);
            assert_eq!((found.kind, found.id, found.bytes), (kind, id, length), "{hex}");
        }
    }

    #[test]
    fn calls_differ_from_those_of_sofarpc_in_values_alone() {
        let (theirs, ours) = (bytes(B3), call("sayHello", 191));
        assert_eq!(ours[..5], theirs[..5]);
        assert_eq!(ours[9..16], theirs[9..16]);
        assert_eq!(ours[18..22 + 44 + 28], theirs[18..22 + 44 + 28]);
        assert_eq!(ours.len(), 420 + 22);
    }

    #[test]
    fn answers_are_in_the_version_of_the_call() {
        let v1 = Head { manner: [V1, 0, 12, 0], ..head_of(B3) };
        let mut out = Vec::new();
        put_answer(v1, 2, &mut out);
        assert_eq!(out[..20], bytes("01000002010000002a0c0000002e000000000002"));
        assert_eq!(out[20..], [RESPONSE_CLASS.as_bytes(), b"oo"].concat());

        // The heartbeats of the same versions, by their answers.
        for (request, answer) in [
            (
                "01010000010000000101ffffffff0000000000000000",
                "0100000001000000010100000000000000000000",
            ),
            (
                "020101000001000000050100ffffffff0000000000000000",
                "02010000000100000005010000000000000000000000",
            ),
        ] {
            out.clear();
            put_heartbeat_answer(head_of(request), &mut out);
            assert_eq!(out, bytes(answer));
        }

        // The local error of a v2 frame has a known checksum; this one differs in the status.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(&bytes("0202000002010000002a010100060000000000000000")), 0x40df_1e2b);
        let v2 = Head { manner: [V2, 2, 1, 1], ..v1 };
        out.clear();
        put_answer(v2, 5, &mut out);
        let found = head(&out).unwrap().unwrap();
        assert_eq!((found.kind, found.bytes), (Kind::Answer(Ok(5)), out.len() as u64));
        assert_eq!(crc32(&out[..out.len() - 4]).to_be_bytes(), out[out.len() - 4..]);
    }

    #[test]
    fn refuses_what_is_not_bolt() {
        for hex in [
            "0301000101000000010100000bb80000000000000000",
            "0103000101000000010100000bb80000000000000000",
            "0100000301000000010100000000000000000000",
        ] {
            assert_eq!(head(&bytes(hex)), Err(Malformed), "{hex}");
        }
    }
}
