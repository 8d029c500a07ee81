//! The HPACK coders by their public interface: what is refused and what it does to the tables,
//! limits, sizes of the table, what is indexed, and the state as plain data.

use outrigger_codecs::http::{FieldBlock, FieldKind};
use outrigger_codecs::http2::hpack::{
    Decoder, DecoderState, Encoder, EncoderState, HpackError, ListLimits, Outcome, Resize,
    StateError, TableEntry, TableState,
};

const LIMITS: ListLimits = ListLimits::new(4096, 16);

/// `a: 1`, inserted in the table.
const INSERTS: &[u8] = b"\x40\x01a\x011";

#[test]
fn compression_errors() {
    use HpackError::*;
    let cases: &[(&[u8], HpackError)] = &[
        // Indexes: 0, just behind the static table, just behind the dynamic table, and far away; of
        // whole fields and of names.
        (b"\x80", IndexInvalid),
        (b"\xbe", IndexInvalid),
        (b"\x40\x01a\x011\xbf", IndexInvalid),
        (b"\xff\xff\xff\xff\x7f", IndexInvalid),
        (b"\x7e\x01a", IndexInvalid),
        (b"\x0f\x2f\x01a", IndexInvalid),
        (b"\x1f\x2f\x01a", IndexInvalid),
        (b"\x40\x01a\x011\x7f\x00\x01a", IndexInvalid),
        // Integers: too large, and padded without need; as index, length and size.
        (b"\xff\x80\x80\x80\x80\x01", IntegerTooLarge),
        (b"\xff\x80\x80\x80\x80\x00", IntegerTooLarge),
        (b"\x00\x7f\xff\xff\xff\xff\xff\xff\xff\xff\x7f", IntegerTooLarge),
        (b"\x3f\xff\xff\xff\xff\x7f", IntegerTooLarge),
        // Cut short everywhere.
        (b"\xff", Truncated),
        (b"\xff\x80", Truncated),
        (b"\x40", Truncated),
        (b"\x00\x01", Truncated),
        (b"\x00\x01a", Truncated),
        (b"\x00\x01a\x02b", Truncated),
        (b"\x00\x81", Truncated),
        (b"\x44", Truncated),
        (b"\x44\x84\xff", Truncated),
        (b"\x3f", Truncated),
        (b"\x00\x7f\x80\xff\xff\x7f", Truncated),
        // Huffman coding, in names and in values.
        (b"\x00\x84\xff\xff\xff\xff\x00", HuffmanEos),
        (b"\x44\x84\xff\xff\xff\xff", HuffmanEos),
        (b"\x44\x81\x00", HuffmanPadding),
        (b"\x44\x82\x07\xff", HuffmanPadding),
        (b"\x44\x81\xff", HuffmanPadding),
        // Sizes.
        (b"\x3f\xe2\x1f", SizeUpdateTooLarge),
        (b"\x20\x3f\xe2\x1f", SizeUpdateTooLarge),
        (b"\x82\x20", SizeUpdateMisplaced),
        (b"\x40\x01a\x011\x3f\xe1\x1f", SizeUpdateMisplaced),
        (b"\x20\x82\x20\x82", SizeUpdateMisplaced),
    ];
    for (block, error) in cases {
        let mut out = FieldBlock::default();
        out.push("left", b"over");
        let decoded = Decoder::new(4096).decode(block, LIMITS, &mut out);
        assert_eq!(decoded, Err(*error), "{block:x?}");
        assert!(out.is_empty() && out.text_len() == 0, "{block:x?}");
    }
}

#[test]
fn fields_that_no_message_may_have_keep_the_tables_in_step() {
    let cases: &[&[u8]] = &[
        // Names: empty, upper-case, not tokens, pseudo-headers in a wrong form, not text.
        b"\x40\x00\x011",
        b"\x40\x01A\x011",
        b"\x40\x02a \x011",
        b"\x40\x01:\x011",
        b"\x40\x02a:\x011",
        b"\x40\x03::a\x011",
        b"\x40\x02\xc3\xa9\x011",
        b"\x40\x02a\x00\x011",
        // Values: NUL, CR, LF, other controls, whitespace at an end.
        b"\x40\x01a\x03b\x00b",
        b"\x40\x01a\x03b\rb",
        b"\x40\x01a\x03b\nb",
        b"\x40\x01a\x01\x7f",
        b"\x40\x01a\x02 b",
        b"\x40\x01a\x02b ",
        b"\x40\x01a\x02\tb",
        b"\x40\x01a\x02b\t",
        // In Huffman code: `A`, and a value of LF.
        b"\x40\x81\x87\x011",
        b"\x40\x01a\x84\xff\xff\xff\xf3",
    ];
    for case in cases {
        let mut decoder = Decoder::new(4096);
        let mut out = FieldBlock::default();
        // What precedes is stored, what follows is not, but is inserted.
        let block = [b"\x40\x01x\x01y", *case, INSERTS].concat();
        assert_eq!(decoder.decode(&block, LIMITS, &mut out), Ok(Outcome::Malformed), "{case:x?}");
        assert_eq!(fields(&out), [("x", "y")], "{case:x?}");
        // The entry with the fault is malformed each time; its neighbours are where they should be.
        assert_eq!(decoder.decode(b"\x82\xbf", LIMITS, &mut out), Ok(Outcome::Malformed));
        assert_eq!(fields(&out), [(":method", "GET")]);
        assert_eq!(decoder.decode(b"\xbe\xc0", LIMITS, &mut out), Ok(Outcome::Complete));
        assert_eq!(fields(&out), [("a", "1"), ("x", "y")]);
        // And so it is after a hand-over.
        let mut moved = Decoder::import(decoder.export()).unwrap();
        assert_eq!(moved.export(), decoder.export());
        assert_eq!(moved.decode(b"\xbf", LIMITS, &mut out), Ok(Outcome::Malformed));
        // Without indexing, the field is as malformed.
        let literal = [b"\x00", &case[1..]].concat();
        let decoded = Decoder::new(4096).decode(&literal, LIMITS, &mut out);
        assert_eq!(decoded, Ok(Outcome::Malformed));
    }
}

#[test]
fn a_malformed_name_is_malformed_with_every_value_and_a_malformed_value_is_not() {
    let mut out = FieldBlock::default();
    let mut decoder = Decoder::new(4096);
    decoder.decode(b"\x40\x01A\x011", LIMITS, &mut out).unwrap();
    assert_eq!(decoder.decode(b"\x7e\x012", LIMITS, &mut out), Ok(Outcome::Malformed));
    assert_eq!(decoder.decode(b"\x0f\x2f\x012", LIMITS, &mut out), Ok(Outcome::Malformed));

    decoder.decode(b"\x40\x01a\x01\n", LIMITS, &mut out).unwrap();
    assert_eq!(decoder.decode(b"\x7e\x012", LIMITS, &mut out), Ok(Outcome::Complete));
    assert_eq!(fields(&out), [("a", "2")]);
}

#[test]
fn limits_hold_at_the_byte_and_the_field() {
    let mut out = FieldBlock::default();
    // Two fields of 34 bytes.
    let block = b"\x00\x01a\x011\x00\x01b\x012";
    for (bytes_max, fields_max, outcome, stored) in [
        (68, 2, Outcome::Complete, 2),
        (67, 2, Outcome::TooLarge, 1),
        (68, 1, Outcome::TooLarge, 1),
        (33, 2, Outcome::TooLarge, 0),
        (0, 2, Outcome::TooLarge, 0),
        (usize::MAX, 0, Outcome::TooLarge, 0),
    ] {
        let limits = ListLimits::new(bytes_max, fields_max);
        assert_eq!(Decoder::new(4096).decode(block, limits, &mut out), Ok(outcome));
        assert_eq!(out.len(), stored);
    }
    let limits = ListLimits { field_bytes_max: 1, ..ListLimits::new(68, 2) };
    assert_eq!(Decoder::new(4096).decode(block, limits, &mut out), Ok(Outcome::TooLarge));
    let limits = ListLimits::new(0, 0);
    assert_eq!(Decoder::new(4096).decode(b"", limits, &mut out), Ok(Outcome::Complete));
    // What comes first in the block is told.
    let limits = ListLimits::new(40, 2);
    for (block, outcome) in [
        (&b"\x00\x01a\x011\x00\x01b\x012\x00\x01C\x013"[..], Outcome::TooLarge),
        (b"\x00\x01a\x011\x00\x01C\x013\x00\x01b\x012", Outcome::Malformed),
    ] {
        assert_eq!(Decoder::new(4096).decode(block, limits, &mut out), Ok(outcome));
        assert_eq!(fields(&out), [("a", "1")]);
    }
}

#[test]
fn a_bomb_of_indexes_takes_no_memory_and_no_step() {
    let mut decoder = Decoder::new(4096);
    let mut out = FieldBlock::default();
    // An entry that fills the table, and 16,000 references to it: 64 MiB of fields.
    let mut bomb = b"\x40\x01a\x7f\xe0\x1e".to_vec();
    bomb.resize(bomb.len() + 127 + 0xf60, b'x');
    let value_len = bomb.len() - 6;
    bomb.resize(bomb.len() + 16_000, 0xbe);
    let limits = ListLimits::new(60 * 1024, 100);
    for _ in 0..2 {
        assert_eq!(decoder.decode(&bomb, limits, &mut out), Ok(Outcome::TooLarge));
        assert_eq!(out.len(), limits.bytes_max / (1 + value_len + 32));
        assert!(out.text_len() <= limits.bytes_max);
    }
    // Entries inserted behind the limit are in the table.
    let mut inserting = [&bomb[..], INSERTS].concat();
    assert_eq!(decoder.decode(&inserting, limits, &mut out), Ok(Outcome::TooLarge));
    assert_eq!(decoder.decode(b"\xbe", limits, &mut out), Ok(Outcome::Complete));
    assert_eq!(fields(&out), [("a", "1")]);
    // Errors are errors behind it, too.
    inserting.push(0xbf);
    let decoded = decoder.decode(&inserting, limits, &mut out);
    assert_eq!(decoded, Err(HpackError::IndexInvalid));
}

#[test]
fn a_bomb_of_names_is_cut_short() {
    // A name of 4,000 octets, and literals of two or three octets that copy it: into the list, and
    // into the table.
    let mut bomb = b"\x40\x7f\xa1\x1e".to_vec();
    bomb.resize(bomb.len() + 4000, b'x');
    bomb.push(0);
    for literal in [&b"\x7e\x00"[..], b"\x0f\x2f\x00"] {
        let limits = ListLimits::new(60 * 1024, 100);
        let mut out = FieldBlock::default();
        let bomb_of = |count| [&bomb[..], &literal.repeat(count)].concat();
        // Fifteen are stored, 262 more make a mebibyte.
        let decoded = Decoder::new(4096).decode(&bomb_of(270), limits, &mut out);
        assert_eq!(decoded, Ok(Outcome::TooLarge));
        assert!(out.text_len() <= limits.bytes_max);
        let decoded = Decoder::new(4096).decode(&bomb_of(290), limits, &mut out);
        assert_eq!(decoded, Err(HpackError::Excessive));
    }
}

#[test]
fn sizes_that_the_peer_may_choose() {
    let mut out = FieldBlock::default();
    // Up to what was announced, any number of times at the start of a block.
    let mut decoder = Decoder::new(4097);
    assert_eq!(decoder.decode(b"\x3f\xe2\x1f", LIMITS, &mut out), Ok(Outcome::Complete));
    assert_eq!(decoder.export().table.bytes_max, 4097);
    let decoded = decoder.decode(&[INSERTS, b"\xbe"].concat(), LIMITS, &mut out);
    assert_eq!((decoded, out.len()), (Ok(Outcome::Complete), 2));
    // Through nothing, which empties the table.
    assert_eq!(decoder.decode(b"\x20\x3f\xe1\x1f\x82", LIMITS, &mut out), Ok(Outcome::Complete));
    assert_eq!(decoder.export().table, TableState { entries: Vec::new(), bytes_max: 4096 });
    // A table of nothing stays empty.
    assert_eq!(decoder.decode(b"\x20\x40\x01a\x011", LIMITS, &mut out), Ok(Outcome::Complete));
    assert_eq!(fields(&out), [("a", "1")]);
    assert_eq!(decoder.decode(b"\xbe", LIMITS, &mut out), Err(HpackError::IndexInvalid));
}

#[test]
fn a_smaller_table_holds_from_its_acknowledgement() {
    let mut out = FieldBlock::default();
    let fresh = || {
        let mut decoder = Decoder::new(100);
        let mut out = FieldBlock::default();
        // Before it has seen our settings, the peer uses what it may.
        decoder.decode(b"\x3f\xe1\x1f\x82", LIMITS, &mut out).unwrap();
        decoder.decode(b"\x82", LIMITS, &mut out).unwrap();
        decoder.on_settings_acknowledged();
        decoder
    };
    for (block, decoded) in [
        (&b"\x3f\x45\x82"[..], Ok(Outcome::Complete)),
        (b"\x20\x3f\x45\x82", Ok(Outcome::Complete)),
        (b"\x82", Err(HpackError::SizeUpdateMissing)),
        (b"", Err(HpackError::SizeUpdateMissing)),
        (b"\x3f\x46\x82", Err(HpackError::SizeUpdateTooLarge)),
    ] {
        assert_eq!(fresh().decode(block, LIMITS, &mut out), decoded, "{block:x?}");
        let mut moved = Decoder::import(fresh().export()).unwrap();
        assert_eq!(moved.decode(block, LIMITS, &mut out), decoded, "{block:x?}");
    }
}

#[test]
fn the_encoder_tells_its_peer_of_sizes() {
    for (sizes, updates) in [
        (&[4096][..], &b""[..]),
        (&[65_536], b""),
        (&[100, 65_536], b"\x3f\x45\x3f\xe1\x1f"),
        (&[0], b"\x20"),
        (&[100], b"\x3f\x45"),
        (&[0, 4096], b"\x20\x3f\xe1\x1f"),
        (&[100, 50, 70], b"\x3f\x13\x3f\x27"),
    ] {
        let mut encoder = Encoder::new(true);
        let mut block = Vec::new();
        for &size in sizes {
            encoder.set_peer_table_size(size);
        }
        // A hand-over in between forgets nothing.
        let mut encoder = Encoder::import(encoder.export()).unwrap();
        encoder.begin(&mut block);
        assert_eq!(block, updates, "{sizes:?}");
        block.clear();
        encoder.begin(&mut block);
        assert_eq!(block, b"", "{sizes:?}");
    }
    // From a small size to larger ones: none of those passed on the way was smaller.
    let mut encoder = Encoder::new(true);
    let mut block = Vec::new();
    encoder.set_peer_table_size(100);
    encoder.begin(&mut block);
    block.clear();
    encoder.set_peer_table_size(200);
    encoder.set_peer_table_size(300);
    encoder.begin(&mut block);
    assert_eq!(block, b"\x3f\x8d\x02");
}

#[test]
fn what_repeats_is_indexed() {
    for (name, value) in [
        ("content-type", "application/grpc"),
        (":path", "/bank.Accounts/Get"),
        (":authority", "accounts.bank.example"),
        ("x-own", "same"),
        ("date", "Sat, 21 Nov 2026 10:00:00 GMT"),
        ("cookie", "session=0123456789abcdef"),
    ] {
        let mut encoder = Encoder::new(true);
        let encoded: Vec<_> =
            (0..4).map(|_| one(&mut encoder, name, value, FieldKind::Other, false)).collect();
        assert_eq!(encoded[0][0] & 0xf0, 0x00, "{name}: without indexing at first");
        assert_eq!(encoded[1][0] & 0xc0, 0x40, "{name}: inserted when it comes again");
        assert_eq!(encoded[2..], [[0xbe], [0xbe]], "{name}: one octet from then on");
    }
    let mut encoder = Encoder::new(true);
    assert_eq!(one(&mut encoder, ":status", "200", FieldKind::Other, false), [0x88]);
    assert_eq!(one(&mut encoder, ":Method", "POST", FieldKind::Other, false), [0x83]);
}

#[test]
fn what_changes_takes_no_place_in_the_table_but_for_its_name() {
    for (name, kind) in [
        ("content-length", FieldKind::ContentLength),
        ("etag", FieldKind::Other),
        ("last-modified", FieldKind::Other),
        ("age", FieldKind::Other),
        ("location", FieldKind::Location),
        (":path", FieldKind::Other),
    ] {
        let mut encoder = Encoder::new(true);
        for _ in 0..4 {
            one(&mut encoder, name, "/a?b=c", kind, false);
        }
        assert_eq!(encoder.export().table.entries, [], "{name}");
    }
    for (name, kind) in [
        ("x-request-id", FieldKind::XRequestId),
        ("traceparent", FieldKind::Other),
        ("grpc-timeout", FieldKind::Other),
        ("x-envoy-upstream-service-time", FieldKind::XEnvoy),
        ("x-envoy-expected-rq-timeout-ms", FieldKind::XEnvoyExpectedRqTimeoutMs),
        ("x-unique", FieldKind::Other),
    ] {
        let mut encoder = Encoder::new(true);
        for round in 0..200 {
            one(&mut encoder, name, &format!("value {round}"), kind, false);
        }
        // One in five hundred unclassified values may be taken for one seen before.
        let entries = encoder.export().table.entries;
        let unclassified = kind == FieldKind::Other && name == "x-unique";
        assert!(entries.len() == 1 || unclassified && entries.len() <= 5, "{name}: {entries:?}");
        // Index 62 or so as the name, which takes one octet more than the prefix.
        let block = one(&mut encoder, name, "-", kind, false);
        assert_eq!(block.len(), 4, "{name}: {block:x?}");
    }
}

#[test]
fn credentials_and_marked_fields_are_never_indexed() {
    for (name, value, marked) in [
        ("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", false),
        ("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", false),
        ("proxy-authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", false),
        ("set-cookie", "session=0123456789abcdef", false),
        ("cookie", "pin=0123456789abcde", false),
        ("x-own", "marked", true),
        (":status", "200", true),
    ] {
        let mut encoder = Encoder::new(true);
        let mut decoder = Decoder::new(4096);
        for _ in 0..4 {
            let block = one(&mut encoder, name, value, FieldKind::Other, marked);
            let mut out = FieldBlock::default();
            assert_eq!(decoder.decode(&block, LIMITS, &mut out), Ok(Outcome::Complete));
            let field = out.iter().next().unwrap();
            assert_eq!((field.name, field.value), (&*name.to_lowercase(), value.as_bytes()));
            assert!(field.never_indexed, "{name}");
        }
        assert_eq!(encoder.export().table.entries, []);
        assert_eq!(decoder.export().table.entries, []);
    }
}

#[test]
fn a_field_larger_than_half_of_the_table_drives_nothing_out() {
    let mut encoder = Encoder::new(false);
    for _ in 0..2 {
        one(&mut encoder, "x-own", "same", FieldKind::Other, false);
    }
    for len in [2048 - 32 - 6, 2048 - 32 - 5] {
        for _ in 0..3 {
            one(&mut encoder, "x-long", &"v".repeat(len), FieldKind::Other, false);
        }
    }
    let entries = encoder.export().table.entries;
    assert_eq!(entries.len(), 2);
    assert_eq!((&*entries[0].name, entries[1].value.len()), ("x-own", 2048 - 32 - 6));
}

#[test]
fn strings_are_coded_where_that_is_shorter() {
    for (huffman, value, expected) in [
        (true, "0000", &b"\x0f\x0d\x83\x00\x00\x0f"[..]),
        (false, "0000", b"\x0f\x0d\x040000"),
        (true, "~~", b"\x0f\x0d\x02~~"),
        (true, "", b"\x0f\x0d\x00"),
    ] {
        let mut encoder = Encoder::new(huffman);
        let block = one(&mut encoder, "Content-Length", value, FieldKind::ContentLength, false);
        assert_eq!(block, expected, "{value}");
    }
    let mut encoder = Encoder::new(true);
    // A name in any case goes out in lower case, coded or not.
    let block = one(&mut encoder, "AAAA", "", FieldKind::Other, false);
    assert_eq!(block, b"\x00\x83\x18\xc6\x3f\x00");
    assert_eq!(one(&mut encoder, "~A", "", FieldKind::Other, false), b"\x00\x02~a\x00");
}

#[test]
fn coders_go_on_from_their_exported_state() {
    let mut encoder = Encoder::new(true);
    let mut decoder = Decoder::new(4096);
    for round in 0..300 {
        let value = format!("value-{}", round % 7);
        let mut block = Vec::new();
        encoder.begin(&mut block);
        for name in ["x-a", "X-B", "x-c"] {
            encoder.field(name, value.as_bytes(), FieldKind::Other, false, &mut block);
        }
        let mut out = FieldBlock::default();
        assert_eq!(decoder.decode(&block, LIMITS, &mut out), Ok(Outcome::Complete));
        assert_eq!(fields(&out), [("x-a", &*value), ("x-b", &value), ("x-c", &value)]);
        if round % 11 == 0 {
            let (exported_encoder, exported_decoder) = (encoder.export(), decoder.export());
            encoder = Encoder::import(exported_encoder.clone()).unwrap();
            decoder = Decoder::import(exported_decoder.clone()).unwrap();
            assert_eq!(encoder.export(), exported_encoder);
            assert_eq!(decoder.export(), exported_decoder);
        }
    }
    assert_eq!(encoder.export().table, decoder.export().table);
    // Nothing was inserted twice: the index found what was there.
    let mut entries = encoder.export().table.entries;
    let len = entries.len();
    entries.sort_by(|a, b| (&a.name, &a.value).cmp(&(&b.name, &b.value)));
    entries.dedup();
    assert_eq!(entries.len(), len);
}

#[test]
fn states_that_no_coder_has_are_refused() {
    let entry = TableEntry { name: "a".to_owned(), value: b"1".to_vec() };
    let table = |bytes_max| TableState { entries: vec![entry.clone(), entry.clone()], bytes_max };
    let decoder = |bytes_max, announced_bytes_max| {
        let table = table(bytes_max);
        Decoder::import(DecoderState { table, announced_bytes_max, acknowledged: true })
            .map(|decoder| decoder.export().table)
    };
    assert_eq!(decoder(68, 68), Ok(table(68)));
    assert_eq!(decoder(4096, 68), Ok(table(4096)));
    assert_eq!(decoder(67, 68), Err(StateError::TableOverfull));
    assert_eq!(decoder(4097, 4096), Err(StateError::TableTooLarge));
    assert_eq!(decoder(4097, u32::MAX), Err(StateError::TableTooLarge));

    let encoder = |bytes_max, resize| {
        let table = table(bytes_max);
        Encoder::import(EncoderState { table, resize, huffman: true })
            .map(|encoder| encoder.export().table)
    };
    assert_eq!(encoder(68, Some(Resize { lowest: 0, last: 4096 })), Ok(table(68)));
    assert_eq!(encoder(67, None), Err(StateError::TableOverfull));
    assert_eq!(encoder(4097, None), Err(StateError::TableTooLarge));
    let resize = Some(Resize { lowest: 2, last: 1 });
    assert_eq!(encoder(68, resize), Err(StateError::ResizeInvalid));
    let resize = Some(Resize { lowest: 2, last: 4097 });
    assert_eq!(encoder(68, resize), Err(StateError::ResizeInvalid));
}

/// A block of one field.
fn one(encoder: &mut Encoder, name: &str, value: &str, kind: FieldKind, never: bool) -> Vec<u8> {
    let mut block = Vec::new();
    encoder.begin(&mut block);
    encoder.field(name, value.as_bytes(), kind, never, &mut block);
    block
}

fn fields(block: &FieldBlock) -> Vec<(&str, &str)> {
    block
        .iter()
        .map(|field| (field.name, str::from_utf8(field.value).expect("text in these tests")))
        .collect()
}
