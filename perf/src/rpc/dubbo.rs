//! Frames of Dubbo 2, with hessian2 where something is written.

use std::ops::Range;

use super::{FILLING, Head, INTERFACE, Kind, Malformed, TIMEOUT_MS, asked, length};
use crate::protocol::Fault;

/// What every frame begins with.
pub(super) const MAGIC: [u8; 2] = [0xda, 0xbb];

/// Bytes before a body.
const HEADER_BYTES: usize = 16;
/// Where the id is.
const ID_AT: usize = 4;
/// Bits of the flag.
const REQUEST: u8 = 0x80;
const TWO_WAY: u8 = 0x40;
const EVENT: u8 = 0x20;
const SERIALIZATION: u8 = 0x1f;
/// Serializations.
const HESSIAN2: u8 = 2;
const FASTJSON2: u8 = 23;
const OK: u8 = 20;
/// First byte of a result: a value, and one with attachments behind it.
const VALUE: u8 = 0x91;
const VALUE_ATTACHED: u8 = 0x94;
/// The event by which a server announces its end.
const READ_ONLY: &[u8] = b"\x01R";
/// Null, as heartbeats have it.
const NULL: &[u8] = b"N";
const NULL_FASTJSON2: &[u8] = b"\x00\x00\x00\x01\xaf";
/// Attachments of answers: the protocol's version.
const ATTACHMENTS: &[u8] = b"H\x05dubbo\x052.0.2Z";
/// Longest chunk of a string.
const CHUNK_BYTES: usize = 0x8000;
/// Bytes of a call's body among which its method must be.
const NAMES_BYTES_MAX: usize = 4096;

/// A call of a method with one string, as Java clients make them.
pub(super) fn call(method: &str, argument_bytes: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for text in ["2.0.2", INTERFACE, "1.0.0", method, "Ljava/lang/String;"] {
        put_text(text, &mut body);
    }
    put_filling(argument_bytes, FILLING[0], &mut body);
    body.push(b'H');
    for (key, value) in [
        ("path", INTERFACE),
        ("interface", INTERFACE),
        ("version", "1.0.0"),
        ("group", "g1"),
        ("timeout", &TIMEOUT_MS.to_string()),
    ] {
        put_text(key, &mut body);
        put_text(value, &mut body);
    }
    body.push(b'Z');
    let mut out = Vec::new();
    put_header(REQUEST | TWO_WAY | HESSIAN2, 0, 0, body.len(), &mut out);
    out.append(&mut body);
    out
}

pub(super) fn number(call: &mut [u8], id: u64) {
    call[ID_AT..ID_AT + 8].copy_from_slice(&id.to_be_bytes());
}

pub(super) fn head(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(Malformed);
    }
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else { return Ok(None) };
    let (flag, status) = (header[2], header[3]);
    let body_bytes = super::number(&header[12..]);
    if body_bytes > i32::MAX as u64 {
        return Err(Malformed);
    }
    let body_bytes = body_bytes as usize;
    let body = &body[..body.len().min(body_bytes)];
    // Whether so many bytes of the body are there, if it has so many.
    let is_there = |bytes: usize| body.len() >= bytes.min(body_bytes);
    let is = |bit| flag & bit != 0;
    let kind = match (is(EVENT), is(REQUEST)) {
        (true, true) if is(TWO_WAY) => Kind::Heartbeat,
        (true, true) if !is_there(READ_ONLY.len()) => return Ok(None),
        (true, true) if body == READ_ONLY => Kind::GoAway,
        (true, true) => Kind::Other,
        (true, false) => Kind::HeartbeatAnswer,
        (false, true) => {
            let method = method(body);
            if method.is_none() && !is_there(NAMES_BYTES_MAX) {
                return Ok(None);
            }
            Kind::Call { two_way: is(TWO_WAY), asked: method.and_then(asked) }
        }
        (false, false) if status != OK => Kind::Answer(Err(Fault::Status)),
        (false, false) if !is_there(4) => return Ok(None),
        (false, false) => Kind::Answer(result(body, body_bytes)),
    };
    Ok(Some(Head {
        kind,
        id: super::number(&header[ID_AT..ID_AT + 8]),
        bytes: (HEADER_BYTES + body_bytes) as u64,
        manner: [flag & SERIALIZATION, 0, 0, 0],
    }))
}

/// The fourth value of a call's body, after the protocol's version, the interface and its version.
fn method(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body;
    let mut text = || {
        let (&tag, after) = rest.split_first()?;
        let (bytes, after) = match tag {
            0x00..=0x1f => (usize::from(tag), after),
            0x30..=0x33 => {
                let (&low, after) = after.split_first()?;
                (usize::from(tag - 0x30) << 8 | usize::from(low), after)
            }
            b'N' => (0, after),
            _ => return None,
        };
        let (text, after) = after.split_at_checked(bytes)?;
        rest = after;
        Some(text)
    };
    for _ in 0..3 {
        text()?;
    }
    text()
}

/// The argument of a whole call, or the value of a whole answer.
pub(super) fn content(frame: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut at = HEADER_BYTES;
    if frame.get(2)? & REQUEST != 0 {
        for _ in 0..5 {
            string(frame, &mut at)?;
        }
    } else {
        at += 1;
    }
    string(frame, &mut at)
}

/// The pieces of the string at a place, which moves behind it.
fn string(frame: &[u8], at: &mut usize) -> Option<Vec<Range<usize>>> {
    let mut pieces = Vec::new();
    loop {
        let tag = *frame.get(*at)?;
        let octet = |behind: usize| frame.get(*at + behind).map(|byte| usize::from(*byte));
        let (bytes, overhead) = match tag {
            0x00..=0x1f => (usize::from(tag), 1),
            0x30..=0x33 => (usize::from(tag - 0x30) << 8 | octet(1)?, 2),
            b'R' | b'S' => (octet(1)? << 8 | octet(2)?, 3),
            _ => return None,
        };
        let start = *at + overhead;
        *at = start + bytes;
        frame.get(start..*at)?;
        pieces.push(start..*at);
        if tag != b'R' {
            return Some(pieces);
        }
    }
}

/// Length of the string in a result of so many bytes, by its beginning. It must end where our
/// attachments or the frame begin to be.
fn result(beginning: &[u8], bytes: usize) -> Result<u64, Fault> {
    let &[flag, tag, ..] = beginning else { return Err(Fault::Length) };
    let attachments = match flag {
        VALUE => 0,
        VALUE_ATTACHED => ATTACHMENTS.len(),
        _ => return Err(Fault::Status),
    };
    let coded = bytes.checked_sub(1 + attachments).ok_or(Fault::Length)?;
    let low = |at: usize| beginning.get(at).map_or(0, |byte| usize::from(*byte));
    let (text, overhead) = match tag {
        0x00..=0x1f => (usize::from(tag), 1),
        0x30..=0x33 => (usize::from(tag - 0x30) << 8 | low(2), 2),
        b'S' => (low(2) << 8 | low(3), 3),
        b'R' => {
            let overhead = 3 * coded.div_ceil(CHUNK_BYTES + 3);
            (coded - overhead, overhead)
        }
        _ => return Err(Fault::Length),
    };
    if text + overhead == coded { Ok(text as u64) } else { Err(Fault::Length) }
}

pub(super) fn put_answer(to: Head, text_bytes: usize, out: &mut Vec<u8>) {
    let start = out.len();
    put_header(HESSIAN2, OK, to.id, 0, out);
    out.push(VALUE_ATTACHED);
    put_filling(text_bytes, FILLING[1], out);
    out.extend_from_slice(ATTACHMENTS);
    let body_bytes = length(out.len() - start - HEADER_BYTES);
    out[start + 12..start + HEADER_BYTES].copy_from_slice(&body_bytes.to_be_bytes());
}

pub(super) fn put_heartbeat_answer(to: Head, out: &mut Vec<u8>) {
    let serialization = to.manner[0];
    let body = if serialization == FASTJSON2 { NULL_FASTJSON2 } else { NULL };
    put_header(EVENT | serialization, OK, to.id, body.len(), out);
    out.extend_from_slice(body);
}

fn put_header(flag: u8, status: u8, id: u64, body_bytes: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[flag, status]);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&length(body_bytes).to_be_bytes());
}

/// Appends a string of ASCII that is shorter than 32 bytes.
fn put_text(text: &str, out: &mut Vec<u8>) {
    debug_assert!(text.len() < 32);
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

/// Appends a string of so many equal characters.
fn put_filling(bytes: usize, filling: u8, out: &mut Vec<u8>) {
    let mut left = bytes;
    let put_chunk = |tag, bytes: usize, out: &mut Vec<u8>| {
        let length = u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
        out.extend_from_slice(&[tag, length[0], length[1]]);
        out.resize(out.len() + bytes, filling);
    };
    while left > CHUNK_BYTES {
        put_chunk(b'R', CHUNK_BYTES, out);
        left -= CHUNK_BYTES;
    }
    if bytes > 1023 {
        return put_chunk(b'S', left, out);
    }
    if bytes > 31 {
        out.push(0x30 + (bytes >> 8) as u8);
    }
    out.push(bytes as u8);
    out.resize(out.len() + bytes, filling);
}

#[cfg(test)]
mod tests {
    use super::{super::tests::bytes, *};

    /// A call of `sayHello` with "hi", number 1.
    const D1: &str = "dabbc20000000000000000010000008a05322e302e320d636f6d2e666f6f2e48
        656c6c6f05312e302e300873617948656c6c6f124c6a6176612f6c616e672f53
        7472696e673b0268694804706174680d636f6d2e666f6f2e48656c6c6f09696e
        746572666163650d636f6d2e666f6f2e48656c6c6f0776657273696f6e05312e
        302e300567726f75700267310774696d656f757404333030305a";
    /// Its answer "hello".
    const D2: &str = "dabb0214000000000000000100000015940568656c6c6f4805647562626f05322e302e325a";

    fn head_of(hex: &str) -> Head {
        head(&bytes(hex)).unwrap().unwrap()
    }

    #[test]
    fn calls_are_those_of_java() {
        let mut ours = call("sayHello", 2);
        number(&mut ours, 1);
        let text = ours.windows(2).position(|two| two == b"xx").unwrap();
        ours[text..text + 2].copy_from_slice(b"hi");
        assert_eq!(ours, bytes(D1));
    }

    #[test]
    fn answers_are_those_of_java() {
        let mut out = Vec::new();
        put_answer(head_of(D1), 5, &mut out);
        let text = out.windows(5).position(|five| five == b"ooooo").unwrap();
        out[text..text + 5].copy_from_slice(b"hello");
        assert_eq!(out, bytes(D2));
        for (request, answer) in [
            ("dabbe2000000000000000007000000014e", "dabb22140000000000000007000000014e"),
            (
                "dabbf70000000000000000080000000500000001af",
                "dabb371400000000000000080000000500000001af",
            ),
        ] {
            let (request, mut out) = (head_of(request), Vec::new());
            assert_eq!(request.kind, Kind::Heartbeat);
            put_heartbeat_answer(request, &mut out);
            assert_eq!(out, bytes(answer));
        }
    }

    #[test]
    fn reads_what_others_send() {
        let call = |two_way| Kind::Call { two_way, asked: None };
        let failed = |fault| Kind::Answer(Err(fault));
        for (hex, kind, id) in [
            (D1, call(true), 1),
            (&D1.replacen("dabbc2", "dabb82", 1), call(false), 1),
            (D2, Kind::Answer(Ok(5)), 1),
            // An error's text, a value alone, an exception, an empty result.
            ("dabb023c00000000000000010000000c0b6e6f2070726f7669646572", failed(Fault::Status), 1),
            ("dabb0214000000000000000100000007910568656c6c6f", Kind::Answer(Ok(5)), 1),
            ("dabb0214000000000000000100000007900568656c6c6f", failed(Fault::Status), 1),
            ("dabb02140000000000000001000000019a", failed(Fault::Length), 1),
            // A string that ends before the frame does.
            ("dabb0214000000000000000100000008910568656c6c6f00", failed(Fault::Length), 1),
            ("dabb22140000000000000007000000014e", Kind::HeartbeatAnswer, 7),
            ("dabba2000000000000000009000000020152", Kind::GoAway, 9),
            ("dabba2000000000000000009000000020157", Kind::Other, 9),
        ] {
            let found = head_of(hex);
            let whole = bytes(hex).len() as u64;
            assert_eq!((found.kind, found.id, found.bytes), (kind, id, whole), "{hex}");
        }
    }

    #[test]
    fn refuses_what_is_not_dubbo() {
        for hex in ["dabce2", "db", "dabbc2000000000000000001ffffffff"] {
            assert_eq!(head(&bytes(hex)), Err(Malformed), "{hex}");
        }
    }
}
