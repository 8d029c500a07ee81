//! What encoders say and decoders understand: ours of ours, and ours with an implementation of
//! other hands, the PyPI package hpack.
//!
//! A story is what one direction of a connection carries. Stories of the package lie in
//! `data/hpack_stories.txt` and are decoded in every run. Where the package is installed, new ones
//! are told in both directions; `data/hpack_stories.py` describes how they are written.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use outrigger_codecs::http::{FieldBlock, FieldKind};
use outrigger_codecs::http2::hpack::{Decoder, Encoder, ListLimits, Outcome};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// A header block to come.
#[derive(Clone, Debug)]
struct Message {
    /// Table sizes that the decoding side sets before it.
    sizes: Vec<u32>,
    fields: Vec<Sent>,
    /// Both sides are moved to another process behind it.
    moves: bool,
}

#[derive(Clone, Debug)]
struct Sent {
    name: String,
    value: Vec<u8>,
    never_indexed: bool,
}

impl Sent {
    /// The field as it should come out.
    fn expected(&self) -> (String, Vec<u8>, bool) {
        let name = self.name.to_ascii_lowercase();
        let is_secret = match &*name {
            "authorization" | "proxy-authorization" | "set-cookie" => true,
            "cookie" => self.value.len() < 20,
            _ => false,
        };
        (name, self.value.clone(), self.never_indexed || is_secret)
    }
}

fn message() -> impl Strategy<Value = Message> {
    let size = prop_oneof![Just(0), Just(4096), Just(TABLE_BYTES_MAX), 0_u32..400, 0_u32..5000];
    let sizes = prop_oneof![4 => Just(Vec::new()), 1 => vec(size, 1..4)];
    let moves = prop::bool::weighted(0.1);
    (sizes, vec(sent(), 0..12), moves).prop_map(|(sizes, fields, moves)| Message {
        sizes,
        fields,
        moves,
    })
}

/// A field that often repeats, sometimes with a new value, sometimes one never seen.
fn sent() -> impl Strategy<Value = Sent> {
    let name = prop_oneof![
        7 => prop::sample::select(NAMES).prop_map(str::to_owned),
        1 => "[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,40}",
    ];
    let value = prop_oneof![
        6 => prop::sample::select(VALUES).prop_map(<[u8]>::to_vec),
        1 => vec(octet(), 0..60).prop_map(|value| trimmed(&value)),
        1 => (0_usize..3000).prop_map(|len| vec![b'v'; len]),
    ];
    (name, value, prop::bool::weighted(0.1)).prop_map(|(name, value, never_indexed)| Sent {
        name,
        value,
        never_indexed,
    })
}

/// Any octet of a value.
fn octet() -> impl Strategy<Value = u8> {
    prop_oneof![4 => b' '..=b'~', 1 => 0x80_u8.., 1 => Just(b'\t')]
}

fn trimmed(value: &[u8]) -> Vec<u8> {
    let is_blank = |octet: &u8| matches!(octet, b' ' | b'\t');
    let Some(start) = value.iter().position(|octet| !is_blank(octet)) else { return Vec::new() };
    let end = value.iter().rposition(|octet| !is_blank(octet)).unwrap_or(start);
    value[start..=end].to_vec()
}

proptest! {
    #[test]
    fn what_we_say_we_understand(huffman: bool, messages in vec(message(), 1..40)) {
        let mut encoder = Encoder::new(huffman);
        let mut decoder = Decoder::new(TABLE_BYTES_MAX);
        let mut block = Vec::new();
        let mut out = FieldBlock::default();
        for message in messages {
            block.clear();
            encode(&mut encoder, &message, &mut block);
            prop_assert_eq!(decoder.decode(&block, LIMITS, &mut out), Ok(Outcome::Complete));
            let expected: Vec<_> = message.fields.iter().map(Sent::expected).collect();
            prop_assert_eq!(received(&out), expected);
            prop_assert!(out.iter().all(|it| it.kind == FieldKind::of(it.name.as_bytes())));
            prop_assert_eq!(encoder.export().table, decoder.export().table);
            if message.moves {
                encoder = Encoder::import(encoder.export()).expect("exported");
                decoder = Decoder::import(decoder.export()).expect("exported");
            }
        }
    }

    /// Limits change what is stored, and nothing else.
    #[test]
    fn limits_leave_the_tables_alone(
        messages in vec(message(), 1..20),
        bytes_max in 0_usize..4000,
        fields_max in 0_usize..12,
    ) {
        let limits = ListLimits::new(bytes_max, fields_max);
        let mut encoder = Encoder::new(true);
        let mut decoders = [Decoder::new(TABLE_BYTES_MAX), Decoder::new(TABLE_BYTES_MAX)];
        let mut outs = [FieldBlock::default(), FieldBlock::default()];
        for message in messages {
            let mut block = Vec::new();
            encode(&mut encoder, &message, &mut block);
            let whole = decoders[0].decode(&block, LIMITS, &mut outs[0]);
            let limited = decoders[1].decode(&block, limits, &mut outs[1]);
            prop_assert_eq!(whole, Ok(Outcome::Complete));
            let (whole, limited_fields) = (received(&outs[0]), received(&outs[1]));
            prop_assert!(whole.starts_with(&limited_fields));
            let complete = whole.len() == limited_fields.len();
            let expected = if complete { Outcome::Complete } else { Outcome::TooLarge };
            prop_assert_eq!(limited, Ok(expected));
            prop_assert!(outs[1].len() <= fields_max);
            prop_assert!(outs[1].text_len() + 32 * outs[1].len() <= bytes_max);
            prop_assert_eq!(decoders[0].export(), decoders[1].export());
        }
    }

    /// Of any octets at all, memory stays bounded, and what was imported goes on as what was
    /// exported.
    #[test]
    fn any_octets_are_taken(blocks in vec(vec(any::<u8>(), 0..60), 1..20)) {
        let mut decoder = Decoder::new(200);
        let limits = ListLimits::new(300, 5);
        for block in blocks {
            let mut moved = Decoder::import(decoder.export()).expect("exported");
            let (mut out, mut moved_out) = (FieldBlock::default(), FieldBlock::default());
            let decoded = decoder.decode(&block, limits, &mut out);
            prop_assert_eq!(moved.decode(&block, limits, &mut moved_out), decoded);
            prop_assert_eq!(received(&out), received(&moved_out));
            prop_assert!(out.text_len() + 32 * out.len() <= 300 && out.len() <= 5);
            if decoded.is_err() {
                break;
            }
            prop_assert_eq!(moved.export(), decoder.export());
        }
    }
}

#[test]
fn their_stories_are_understood() {
    assert_eq!(understand(include_str!("data/hpack_stories.txt")), 72);
}

#[test]
#[ignore = "needs python3 with hpack, which .ci/run installs"]
fn their_new_stories_are_understood() {
    for seed in 2..7 {
        let stories = python(&["generate", &seed.to_string()], "");
        assert_eq!(understand(&stories), 72, "seed {seed}");
    }
}

#[test]
#[ignore = "needs python3 with hpack, which .ci/run installs"]
fn our_stories_are_understood() {
    let mut runner = TestRunner::deterministic();
    let strategy = vec(vec(message(), 8), 100);
    let stories = strategy.new_tree(&mut runner).expect("a strategy without filters").current();
    let told: String = stories.iter().enumerate().map(|(at, story)| tell(at, story)).collect();
    assert_eq!(python(&["check"], &told), "800 blocks agree\n");
}

fn encode(encoder: &mut Encoder, message: &Message, block: &mut Vec<u8>) {
    for &size in &message.sizes {
        encoder.set_peer_table_size(size);
    }
    encoder.begin(block);
    for Sent { name, value, never_indexed } in &message.fields {
        let kind = FieldKind::of(name.as_bytes());
        encoder.field(name, value, kind, *never_indexed, block);
    }
}

fn received(out: &FieldBlock) -> Vec<(String, Vec<u8>, bool)> {
    out.iter()
        .map(|field| (field.name.to_owned(), field.value.to_vec(), field.never_indexed))
        .collect()
}

/// The messages as our encoder tells them.
fn tell(number: usize, messages: &[Message]) -> String {
    let mut encoder = Encoder::new(number.is_multiple_of(2));
    let mut story = format!("story {number}\n");
    let mut block = Vec::new();
    for message in messages {
        for size in &message.sizes {
            writeln!(story, "table {size}").expect("strings take everything");
        }
        for (name, value, never_indexed) in message.fields.iter().map(Sent::expected) {
            let mark = if never_indexed { '!' } else { '+' };
            writeln!(story, "{mark} {name} \"{}\"", escape(&value)).expect("the same");
        }
        block.clear();
        encode(&mut encoder, message, &mut block);
        let digits: String = block.iter().map(|octet| format!("{octet:02x}")).collect();
        writeln!(story, "= {digits}").expect("the same");
    }
    story
}

/// Decodes stories and returns how many blocks they have.
fn understand(stories: &str) -> usize {
    let mut decoder = Decoder::new(TABLE_BYTES_MAX);
    let mut out = FieldBlock::default();
    let mut expected = Vec::new();
    let mut blocks = 0;
    for line in stories.lines() {
        let (kind, rest) = line.split_once(' ').expect("a kind and more");
        match kind {
            "story" => decoder = Decoder::new(TABLE_BYTES_MAX),
            // Our decoder has one size for good; smaller ones are their encoder's choice to it.
            "table" => {}
            "+" | "!" => {
                let (name, value) = rest.split_once(" \"").expect("a name and a value");
                let value = unescape(value.strip_suffix('"').expect("a quoted value"));
                expected.push((name.to_owned(), value, kind == "!"));
            }
            "=" => {
                assert_eq!(decoder.decode(&hex(rest), LIMITS, &mut out), Ok(Outcome::Complete));
                assert_eq!(received(&out), expected, "{line}");
                expected.clear();
                blocks += 1;
            }
            _ => panic!("unknown line: {line}"),
        }
    }
    blocks
}

/// What the script answers to `input`.
fn python(arguments: &[&str], input: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/hpack_stories.py");
    // The script ends itself when it takes too long.
    let mut child = Command::new("python3")
        .arg(script)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let mut stdin = child.stdin.take().expect("piped");
    // It answers nothing before it has read everything, so neither waits for the other.
    stdin.write_all(input.as_bytes()).expect("the script reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("the script ends");
    assert!(output.status.success(), "{arguments:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// Octets other than visible ASCII and SP, and the backslash, as `\xNN`.
fn escape(value: &[u8]) -> String {
    let mut text = String::new();
    for &octet in value {
        match octet {
            b'\\' | ..b' ' | 0x7f.. => write!(text, "\\x{octet:02x}").expect("the same"),
            _ => text.push(octet.into()),
        }
    }
    text
}

/// `\xNN` as the octet, everything else as it is.
fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut value = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        value.extend(hex(digits));
        value.extend(rest.as_bytes());
    }
    value
}

fn hex(digits: &str) -> Vec<u8> {
    let octet = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(octet).collect()
}

const TABLE_BYTES_MAX: u32 = 65_536;
const LIMITS: ListLimits = ListLimits::new(1 << 20, 1000);

const NAMES: &[&str] = &[
    ":method",
    ":status",
    ":path",
    ":authority",
    "Content-Type",
    "content-length",
    "accept-encoding",
    "Cookie",
    "Authorization",
    "set-cookie",
    "x-request-id",
    "grpc-timeout",
    "X-Own",
    "x-other",
];
const VALUES: &[&[u8]] = &[
    b"",
    b"200",
    b"GET",
    b"/",
    b"/a?b",
    b"application/grpc",
    b"a: b\\c\"d'",
    b"twenty octets or more",
];
