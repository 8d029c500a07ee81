//! The examples of RFC 7541 appendix C: what blocks decode to, and the tables that they leave
//! behind.

use outrigger_codecs::http::{FieldBlock, FieldKind};
use outrigger_codecs::http2::hpack::{
    Decoder, DecoderState, Encoder, ListLimits, Outcome, TableState,
};

/// A header block, its fields, and the dynamic table after it, newest entry first, with its size.
struct Step {
    block: &'static str,
    fields: &'static [(&'static str, &'static str)],
    table: &'static [(&'static str, &'static str)],
    table_bytes: usize,
}

const REQUEST_FIELDS: [&[(&str, &str)]; 3] = [
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ],
];

const REQUEST_TABLES: [&[(&str, &str)]; 3] = [
    &[(":authority", "www.example.com")],
    &[("cache-control", "no-cache"), (":authority", "www.example.com")],
    &[
        ("custom-key", "custom-value"),
        ("cache-control", "no-cache"),
        (":authority", "www.example.com"),
    ],
];

const RESPONSE_FIELDS: [&[(&str, &str)]; 3] = [
    &[
        (":status", "302"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ],
    &[
        (":status", "307"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ],
    &[
        (":status", "200"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
        ("location", "https://www.example.com"),
        ("content-encoding", "gzip"),
        ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
    ],
];

const RESPONSE_TABLES: [&[(&str, &str)]; 3] = [
    &[
        ("location", "https://www.example.com"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("cache-control", "private"),
        (":status", "302"),
    ],
    &[
        (":status", "307"),
        ("location", "https://www.example.com"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("cache-control", "private"),
    ],
    &[
        ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ("content-encoding", "gzip"),
        ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
    ],
];

const REQUEST_TABLE_BYTES: [usize; 3] = [57, 110, 164];
const RESPONSE_TABLE_BYTES: [usize; 3] = [222, 222, 215];

/// Appendix C.2.
#[test]
fn representations() {
    let custom: &[(&str, &str)] = &[("custom-key", "custom-header")];
    let password: &[(&str, &str)] = &[("password", "secret")];
    for (block, fields, table, table_bytes, never_indexed) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            custom,
            custom,
            55,
            false,
        ),
        ("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], &[], 0, false),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", password, &[], 0, true),
        ("82", &[(":method", "GET")], &[], 0, false),
    ] {
        let mut decoder = Decoder::new(4096);
        check(&mut decoder, &Step { block, fields, table, table_bytes });
        let mut out = FieldBlock::default();
        Decoder::new(4096).decode(&hex(block), LIMITS, &mut out).expect("decodes");
        assert!(out.iter().all(|field| field.never_indexed == never_indexed));
    }
}

/// Appendices C.3 and C.4.
#[test]
fn requests() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let huffman = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::new(4096);
        for (at, block) in blocks.into_iter().enumerate() {
            let (fields, table) = (REQUEST_FIELDS[at], REQUEST_TABLES[at]);
            let table_bytes = REQUEST_TABLE_BYTES[at];
            check(&mut decoder, &Step { block, fields, table, table_bytes });
        }
    }
}

/// Appendices C.5 and C.6: the table has 256 bytes, so entries are evicted.
#[test]
fn responses() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
         2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70
         6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d
         54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049
         5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e
         3d31",
    ];
    let huffman = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
         2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab
         77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f
         9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for blocks in [plain, huffman] {
        let mut decoder = small_decoder();
        for (at, block) in blocks.into_iter().enumerate() {
            let (fields, table) = (RESPONSE_FIELDS[at], RESPONSE_TABLES[at]);
            let table_bytes = RESPONSE_TABLE_BYTES[at];
            check(&mut decoder, &Step { block, fields, table, table_bytes });
        }
    }
}

/// The same messages, by our encoder: what it indexes is its own choice, what it says is not.
#[test]
fn our_blocks_say_the_same() {
    for huffman in [false, true] {
        for messages in [REQUEST_FIELDS, RESPONSE_FIELDS] {
            let mut encoder = Encoder::new(huffman);
            encoder.set_peer_table_size(256);
            let mut decoder = Decoder::new(4096);
            for fields in messages.into_iter().cycle().take(12) {
                let mut block = Vec::new();
                encoder.begin(&mut block);
                for (name, value) in fields {
                    let kind = FieldKind::of(name.as_bytes());
                    encoder.field(name, value.as_bytes(), kind, false, &mut block);
                }
                assert_eq!(decode(&mut decoder, &block), owned(fields));
                assert_eq!(decoder.export().table, encoder.export().table);
            }
        }
    }
}

fn check(decoder: &mut Decoder, step: &Step) {
    assert_eq!(decode(decoder, &hex(step.block)), owned(step.fields));
    let TableState { entries, .. } = decoder.export().table;
    let bytes: usize = entries.iter().map(|it| it.name.len() + it.value.len() + 32).sum();
    let entries = entries.into_iter().rev();
    let table: Vec<_> =
        entries.map(|it| (it.name, String::from_utf8(it.value).expect("text"))).collect();
    assert_eq!((table, bytes), (owned(step.table), step.table_bytes));
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
    let mut out = FieldBlock::default();
    assert_eq!(decoder.decode(block, LIMITS, &mut out), Ok(Outcome::Complete));
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("text");
    out.iter().map(|field| (field.name.to_owned(), text(field.value))).collect()
}

/// A decoder whose peer has chosen a table of 256 bytes.
fn small_decoder() -> Decoder {
    Decoder::import(DecoderState {
        table: TableState { entries: Vec::new(), bytes_max: 256 },
        announced_bytes_max: 4096,
        acknowledged: true,
    })
    .expect("a state that decoders have")
}

fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let octet = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(|pair| octet(pair).expect("hexadecimal digits")).collect()
}

const LIMITS: ListLimits = ListLimits::new(4096, 16);
