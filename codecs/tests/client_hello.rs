//! The ClientHello of any client, in any pieces, and mutations of it.
//!
//! Oracles: the verdict may not depend on how the bytes were cut into records or pieces, and a slow,
//! plain reading of an accepted message, written apart from the parser, must agree.

mod support;

use outrigger_codecs::tls::{ClientHello, HelloError, HelloInspector, Inspected};
use proptest::collection::vec;
use proptest::prelude::*;
use support::mutate::{Random, fuzz};

const LIMIT: usize = 16 * 1024;

/// What a test knows of a ClientHello.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Facts {
    name: Option<String>,
    alpn: Vec<Vec<u8>>,
    suites: Vec<u16>,
    schemes: Vec<u16>,
    versions: Vec<u16>,
    staple: bool,
}

impl Facts {
    fn of(hello: &ClientHello<'_>) -> Self {
        Self {
            name: hello.server_name().map(str::to_owned),
            alpn: hello.alpn().map(<[u8]>::to_vec).collect(),
            suites: hello.cipher_suites().collect(),
            schemes: hello.signature_schemes().collect(),
            versions: if hello.offers_tls13() { vec![0x0304] } else { vec![] },
            staple: hello.wants_ocsp_staple(),
        }
    }

    /// The message as a client would write it.
    fn message(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut extension = |kind: u16, data: Vec<u8>| {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(behind_length(2, &data));
        };
        extension(0x0a0a, vec![]);
        if let Some(name) = &self.name {
            let entry = [&[0][..], &behind_length(2, name.as_bytes())].concat();
            extension(0, behind_length(2, &entry));
        }
        if self.staple {
            extension(5, vec![1, 0, 0, 0, 0]);
        }
        if !self.schemes.is_empty() {
            extension(13, behind_length(2, &numbers(&self.schemes)));
        }
        if !self.alpn.is_empty() {
            let list: Vec<u8> = self.alpn.iter().flat_map(|name| behind_length(1, name)).collect();
            extension(16, behind_length(2, &list));
        }
        if !self.versions.is_empty() {
            extension(43, behind_length(1, &numbers(&self.versions)));
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(behind_length(1, &[9; 32]));
        body.extend(behind_length(2, &numbers(&self.suites)));
        body.extend(behind_length(1, &[0]));
        body.extend(behind_length(2, &extensions));
        [&[1][..], &behind_length(3, &body)].concat()
    }

    /// A plain reading of a message that was accepted.
    fn read(message: &[u8]) -> Self {
        let mut facts = Self::default();
        let body = &message[4..];
        let mut at = 34;
        at += 1 + usize::from(body[at]);
        let suites = usize::from(number(&body[at..]));
        facts.suites = pairs(&body[at + 2..at + 2 + suites]);
        at += 2 + suites;
        at += 1 + usize::from(body[at]);
        if at == body.len() {
            return facts;
        }
        at += 2;
        while at < body.len() {
            let (kind, len) = (number(&body[at..]), usize::from(number(&body[at + 2..])));
            let data = &body[at + 4..at + 4 + len];
            match kind {
                0 => facts.name = Some(String::from_utf8_lossy(&data[5..]).into_owned()),
                5 => facts.staple = true,
                13 => facts.schemes = pairs(&data[2..]),
                16 => {
                    let mut rest = &data[2..];
                    while let [len, more @ ..] = rest {
                        facts.alpn.push(more[..usize::from(*len)].to_vec());
                        rest = &more[usize::from(*len)..];
                    }
                }
                43 => {
                    facts.versions = pairs(&data[1..]);
                    facts.versions.retain(|version| *version == 0x0304);
                    facts.versions.dedup();
                }
                _ => {}
            }
            at += 4 + len;
        }
        facts
    }
}

fn number(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn pairs(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks(2).map(number).collect()
}

fn numbers(list: &[u16]) -> Vec<u8> {
    list.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn behind_length(bytes: usize, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    [&length[4 - bytes..], data].concat()
}

/// Cuts a message into records of the given sizes, which repeat.
fn records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = message;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            return out;
        }
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        out.extend([22, 3, 1]);
        out.extend(behind_length(2, piece));
        rest = after;
    }
    out
}

/// The verdict on some bytes that come in pieces, in a form that can be kept.
fn verdict(pieces: &[&[u8]]) -> Result<Option<Facts>, Option<HelloError>> {
    let mut inspector = HelloInspector::new(LIMIT);
    for piece in pieces {
        inspector.push(piece);
    }
    match inspector.inspected() {
        Inspected::NeedMore => Ok(None),
        Inspected::Hello(hello) => Ok(Some(Facts::of(&hello))),
        Inspected::NotTls => Err(None),
        Inspected::Malformed(error) => Err(Some(error)),
    }
}

fn facts() -> impl Strategy<Value = Facts> {
    let list = || vec(any::<u16>(), 0..20);
    (
        proptest::option::of("[a-z0-9.-]{1,255}"),
        vec(vec(any::<u8>(), 1..30), 0..5),
        vec(any::<u16>(), 1..100),
        list(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(name, alpn, suites, schemes, tls13, staple)| Facts {
            name,
            alpn,
            suites,
            schemes,
            versions: if tls13 { vec![0x0304] } else { vec![] },
            staple,
        })
}

proptest! {
    #[test]
    fn any_split_gives_the_same_answer(
        facts in facts(),
        sizes in vec(1usize..400, 1..5),
        pieces in vec(1usize..300, 1..5),
        after in vec(any::<u8>(), 0..20),
    ) {
        let mut bytes = records(&facts.message(), &sizes);
        let len = bytes.len();
        prop_assert_eq!(verdict(&[&bytes]), Ok(Some(facts.clone())));
        prop_assert_eq!(verdict(&[&bytes[..len - 1]]), Ok(None));
        bytes.extend(after);
        let mut parts = Vec::new();
        let mut rest = &bytes[..];
        for size in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, later) = rest.split_at((*size).min(rest.len()));
            parts.push(part);
            rest = later;
        }
        prop_assert_eq!(verdict(&parts), Ok(Some(facts)));
    }
}

#[test]
fn mutations() {
    let sample = Facts {
        name: Some("www.example.org".to_owned()),
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        suites: vec![0x1301, 0xc02b],
        schemes: vec![0x0403, 0x0804],
        versions: vec![0x0304],
        staple: true,
    };
    let bare = Facts { suites: vec![0xc02f], ..Facts::default() };
    let seeds = [
        records(&sample.message(), &[1 << 14]),
        records(&sample.message(), &[30, 1]),
        records(&bare.message(), &[1 << 14]),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    let words: &[&[u8]] = &[
        b"\x16\x03\x01\x00\x01",
        b"\x16\x03\x01\x00\x00",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x00\x00\x00\x05\x00\x03\x00\x00\x00",
        b"\x00\x10\x00\x03\x00\x01\x00",
        b"\x00\x2b\x00\x03\x02\x03\x04",
        b"\x00\x0d\x00\x02\x00\x00",
        b"\xff\xff",
        b"\x00\x00",
        b"\x01",
    ];
    let mut accepted = 0_u64;
    fuzz("client hello", &seeds, words, |input, random: &mut Random| {
        let whole = verdict(&[input]);
        let cut = random.below(input.len() + 1);
        let (front, back) = input.split_at(cut);
        let again = random.below(back.len() + 1);
        assert_eq!(verdict(&[front, &back[..again], &back[again..]]), whole);
        // What is known early stays so.
        let early = verdict(&[front]);
        assert!(early == Ok(None) || early == whole, "at {cut}: {early:?}, then {whole:?}");
        let Ok(Some(facts)) = whole else { return };
        accepted += 1;
        assert_eq!(Facts::read(&message(input)), facts);
    });
    assert!(accepted > 100, "mutations too wild: only {accepted} inputs were well-formed");
}

/// The handshake message that records of an accepted input begin with.
fn message(mut records: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while message.len() < 4
        || message.len() < 4 + u32::from_be_bytes([0, message[1], message[2], message[3]]) as usize
    {
        let len = usize::from(number(&records[3..]));
        let end = (5 + len).min(records.len());
        message.extend_from_slice(&records[5..end]);
        records = &records[end..];
    }
    let len = 4 + u32::from_be_bytes([0, message[1], message[2], message[3]]) as usize;
    message.truncate(len);
    message
}
