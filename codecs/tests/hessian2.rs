//! The Hessian 2 skipper: the reference's scalars, limits, and random values of every form.

#[path = "support/hessian2.rs"]
mod hessian2;
#[path = "support/mutate.rs"]
#[allow(dead_code, reason = "only its random numbers")]
mod mutate;

use hessian2::{Decoder, Encoder, Value, any_value};
use outrigger_codecs::rpc::hessian2::{
    CLASSES_MAX, DEPTH_MAX, FIELDS_MAX, Fault, Malformed, Reader, Text, put_string,
};
use proptest::prelude::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16).expect("a hex digit")).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn skip(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut reader = Reader::new(bytes, 0);
    reader.skip().map(|()| reader.at())
}

fn fault(bytes: &[u8]) -> Fault {
    skip(bytes).expect_err("malformed").fault
}

/// dubbo.md section 11.
const SCALARS: &[(&str, &str, Value)] = &[
    ("HD1", "5b", Value::Double(0)),
    ("HD2", "5c", Value::Double(0x3ff0_0000_0000_0000)),
    ("HD3", "5dff", Value::Double(0xbff0_0000_0000_0000)),
    ("HD4", "5e8000", Value::Double(0xc0e0_0000_0000_0000)),
    ("HD5", "5f00003039", Value::Double(0x4028_b0a3_d70a_3d71)),
    ("HD6", "44400921f9f01b866e", Value::Double(0x4009_21f9_f01b_866e)),
    ("HT1", "4a000000d04b9284b8", Value::Date(894_621_091_000)),
    ("HT2", "4b00e3838f", Value::Date(894_621_060_000)),
];

const BINARIES: &[(&str, &str, &[u8])] = &[
    ("HB1", "23616263", b"abc"),
    ("HB2", "341000000000000000000000000000000000", &[0; 16]),
    ("HB3", "410002010242000103", &[1, 2, 3]),
];

const INTEGERS: &[(&str, &str, i64)] = &[
    ("HI1", "90", 0),
    ("HI2", "80", -16),
    ("HI3", "bf", 47),
    ("HI4", "c830", 48),
    ("HI5", "c7ef", -17),
    ("HI6", "c000", -2048),
    ("HI7", "cfff", 2047),
    ("HI8", "d40800", 2048),
    ("HI9", "d00000", -262_144),
    ("HI10", "d7ffff", 262_143),
    ("HI11", "4900040000", 262_144),
    ("HL1", "e0", 0),
    ("HL2", "d8", -8),
    ("HL3", "ef", 15),
    ("HL4", "f810", 16),
    ("HL5", "ffff", 2047),
    ("HL6", "f000", -2048),
    ("HL7", "3c0800", 2048),
    ("HL8", "3fffff", 262_143),
    ("HL9", "5900040000", 262_144),
    ("HL10", "4c0000000080000000", 2_147_483_648),
];

const TEXTS: &[(&str, &str, &str)] = &[
    ("HS1", "00", ""),
    ("HS4", "01c3a9", "é"),
    ("HS5", "01e4b8ad", "中"),
    ("HS6", "02eda0bdedb880", "\u{1f600}"),
    ("HS9", "520002616253000163", "abc"),
];

#[test]
fn scalars_are_gone_over_and_no_part_of_them_is() {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, hex, value) in SCALARS {
        assert_eq!(Decoder::new(&bytes(hex)).value(), *value, "{name}");
        all.push(((*name).to_owned(), bytes(hex)));
    }
    for (name, hex, value) in BINARIES {
        assert_eq!(Decoder::new(&bytes(hex)).value(), Value::Binary(value.to_vec()), "{name}");
        all.push(((*name).to_owned(), bytes(hex)));
    }
    for (name, hex, value) in INTEGERS {
        let bytes = bytes(hex);
        let mut reader = Reader::new(&bytes, 0);
        assert_eq!(reader.integer(), Ok(Some(*value)), "{name}");
        assert_eq!(reader.at(), bytes.len(), "{name}");
        all.push(((*name).to_owned(), bytes));
    }
    for (name, hex, value) in TEXTS {
        assert_eq!(Decoder::new(&bytes(hex)).value(), Value::text(value), "{name}");
        all.push(((*name).to_owned(), bytes(hex)));
    }
    for len in [31, 32, 1023, 1024] {
        let mut out = Vec::new();
        put_string(&"a".repeat(len), &mut out);
        all.push((format!("a string of {len}"), out));
    }
    for tag in [b'N', b'T', b'F'] {
        all.push((format!("{tag:#x}"), vec![tag]));
    }
    for (name, bytes) in all {
        assert_eq!(skip(&bytes), Ok(bytes.len()), "{name}");
        let behind = [&bytes[..], b"\x5a"].concat();
        assert_eq!(skip(&behind), Ok(bytes.len()), "{name}, with something behind it");
        for cut in 0..bytes.len() {
            assert_eq!(fault(&bytes[..cut]), Fault::Truncated, "{name} cut at {cut}");
        }
    }
}

#[test]
fn strings_are_read_in_place() {
    for (hex, expected) in [
        ("4e", Text::Null),
        ("00", Text::Plain(b"")),
        ("0268694e", Text::Plain(b"hi")),
        ("3002686900", Text::Plain(b"hi")),
        ("53000268695a", Text::Plain(b"hi")),
        ("02eda0bdedb880", Text::Plain(b"\xed\xa0\xbd\xed\xb8\x80")),
        ("520002616253000163", Text::Other),
        ("520003616263004e", Text::Other),
        // "a" in two bytes, and a character that has lost its second one.
        ("01c1a1", Text::Other),
        ("01c361", Text::Other),
    ] {
        let bytes = bytes(hex);
        assert_eq!(Reader::new(&bytes, 0).string(), Ok(expected), "{hex}");
    }
    for (hex, fault) in [
        ("", Fault::Truncated),
        ("0268", Fault::Truncated),
        ("5200026162", Fault::Truncated),
        ("90", Fault::NotString),
        ("54", Fault::NotString),
        ("2161", Fault::NotString),
        ("520001614e", Fault::Tag),
        ("01f09f9880", Fault::Character),
        ("0180", Fault::Character),
    ] {
        let bytes = bytes(hex);
        assert_eq!(Reader::new(&bytes, 0).string().map_err(|e| e.fault), Err(fault), "{hex}");
    }
}

#[test]
fn what_is_no_integer_is_left_where_it_is() {
    for hex in ["4e", "5b", "016a", "48"] {
        let bytes = bytes(hex);
        let mut reader = Reader::new(&bytes, 0);
        assert_eq!((reader.integer(), reader.at()), (Ok(None), 0), "{hex}");
    }
}

#[test]
fn tags_that_cannot_stand_there_are_refused() {
    for tag in [0x40, 0x45, 0x47, 0x50, 0x5a] {
        assert_eq!(fault(&[tag]), Fault::Tag, "{tag:#x}");
    }
    // A map that ends behind a key, a list that ends twice.
    assert_eq!(fault(b"\x48\x01a\x5a"), Fault::Tag);
    assert_eq!(skip(b"\x57\x5a\x5a"), Ok(2));
    // A list of two that ends after one.
    assert_eq!(fault(b"\x7a\x90\x5a"), Fault::Tag);
    // A chunk of a string behind one of bytes.
    assert_eq!(fault(b"\x41\x00\x01a\x53\x00\x01a"), Fault::Tag);
    assert_eq!(fault(b"\x52\x00\x01a\x42\x00\x01a"), Fault::Tag);
    // Lengths, types and class names that are none.
    assert_eq!(fault(b"\x58\x8f"), Fault::Length);
    assert_eq!(fault(b"\x58\x49\xff\xff\xff\xff"), Fault::Length);
    assert_eq!(fault(b"\x58\xe0"), Fault::NotInt);
    assert_eq!(fault(b"\x55\x4e"), Fault::NotInt);
    assert_eq!(fault(b"\x43\x4e\x90"), Fault::NotString);
    assert_eq!(fault(b"\x43\x01A\x91\x91"), Fault::NotString);
    assert_eq!(fault(b"\x43\x01A\x8f"), Fault::Length);
    // A definition is no value.
    assert_eq!(fault(b"\x43\x01A\x90"), Fault::Truncated);
}

#[test]
fn indexes_must_have_been_defined() {
    assert_eq!(fault(b"\x60"), Fault::Class);
    assert_eq!(fault(b"\x4f\x90"), Fault::Class);
    assert_eq!(fault(b"\x4f\x8f"), Fault::Class);
    assert_eq!(skip(b"\x43\x01A\x90\x60"), Ok(5));
    assert_eq!(skip(b"\x43\x01A\x90\x4f\x90"), Ok(6));
    assert_eq!(fault(b"\x43\x01A\x90\x61"), Fault::Class);
    assert_eq!(skip(b"\x43\x01A\x90\x43\x01B\x91\x01x\x61\x60"), Ok(12));

    assert_eq!(fault(b"\x51\x90"), Fault::Reference);
    assert_eq!(skip(b"\x79\x51\x90"), Ok(3), "to the list it is in");
    assert_eq!(fault(b"\x79\x51\x91"), Fault::Reference);
    assert_eq!(fault(b"\x79\x51\x8f"), Fault::Reference);
    assert_eq!(skip(b"\x7a\x48\x5a\x51\x91"), Ok(5));

    assert_eq!(fault(b"\x70\x90"), Fault::Type);
    assert_eq!(skip(b"\x79\x70\x01a"), Ok(4));
    assert_eq!(skip(b"\x7a\x70\x01a\x4d\x90\x5a"), Ok(7));
    assert_eq!(fault(b"\x7a\x70\x01a\x4d\x91\x5a"), Fault::Type);
    assert_eq!(fault(b"\x7a\x70\x01a\x4d\x8f\x5a"), Fault::Type);
}

#[test]
fn limits_hold() {
    let nested = |depth: usize| [vec![0x79; depth - 1], vec![0x78]].concat();
    assert_eq!(skip(&nested(DEPTH_MAX)), Ok(DEPTH_MAX));
    assert_eq!(fault(&nested(DEPTH_MAX + 1)), Fault::Depth);
    assert_eq!(fault(&vec![0x48; 1 << 20]), Fault::Depth);

    let class = |fields: usize| {
        let mut encoder = Encoder::new(1);
        let fields = (0..fields).map(|_| ("f".to_owned(), Value::Null)).collect();
        encoder.put(&Value::Object("A".to_owned(), fields));
        encoder.out
    };
    assert!(skip(&class(FIELDS_MAX)).is_ok());
    assert_eq!(fault(&class(FIELDS_MAX + 1)), Fault::Fields);

    let classes = |count| [b"\x43\x01A\x90".repeat(count), vec![0x4e]].concat();
    assert!(skip(&classes(CLASSES_MAX)).is_ok());
    assert_eq!(fault(&classes(CLASSES_MAX + 1)), Fault::Classes);

    // What is only claimed costs nothing.
    assert_eq!(fault(b"\x58\x49\x7f\xff\xff\xff\x90\x90"), Fault::Truncated);
    assert_eq!(fault(b"\x53\xff\xffabc"), Fault::Truncated);
    assert_eq!(fault(b"\x42\xff\xffabc"), Fault::Truncated);
}

#[test]
fn every_class_keeps_its_own_number_of_fields() {
    let object = |class: usize| {
        let fields = (0..class % 3).map(|field| (format!("f{field}"), Value::Int(field as i32)));
        Value::Object(format!("C{class}"), fields.collect())
    };
    let mut encoder = Encoder::new(7);
    let objects: Vec<Value> = (0..100).map(object).collect();
    let all = Value::List(None, [objects.clone(), objects].concat());
    encoder.put(&all);
    assert_eq!(skip(&encoder.out), Ok(encoder.out.len()));
    assert_eq!(Decoder::new(&encoder.out).value(), all);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn values_are_gone_over_one_by_one(
        values in prop::collection::vec(any_value(), 1..5),
        seed: u64,
    ) {
        let mut encoder = Encoder::new(seed);
        let mut ends = Vec::new();
        let values: Vec<Value> = values
            .iter()
            .map(|value| {
                let value = encoder.put(value);
                ends.push(encoder.out.len());
                value
            })
            .collect();
        let bytes = encoder.out;
        // The test's own decoder agrees with its encoder.
        let mut decoder = Decoder::new(&bytes);
        for value in &values {
            prop_assert_eq!(&decoder.value(), value);
        }
        let mut reader = Reader::new(&bytes, 0);
        for end in &ends {
            prop_assert_eq!(reader.skip(), Ok(()));
            prop_assert_eq!(reader.at(), *end);
        }
        for cut in 0..bytes.len() {
            let mut reader = Reader::new(&bytes[..cut], 0);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            for _ in 0..whole {
                prop_assert_eq!(reader.skip(), Ok(()));
            }
            prop_assert_eq!(reader.skip().map_err(|error| error.fault), Err(Fault::Truncated));
        }
    }

    #[test]
    fn strings_are_read_as_they_were_written(text in "[a-zé中\u{ffff}\u{1f600}]{0,80}") {
        let mut out = Vec::new();
        put_string(&text, &mut out);
        let mut decoder = Decoder::new(&out);
        prop_assert_eq!(decoder.value(), Value::text(&text));
        prop_assert!(decoder.rest.is_empty());
        let mut reader = Reader::new(&out, 0);
        prop_assert!(matches!(reader.string(), Ok(Text::Plain(_))));
        prop_assert_eq!(reader.at(), out.len());
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes: Vec<u8>) {
        let _ = skip(&bytes);
        let mut reader = Reader::new(&bytes, 3);
        let _ = reader.string();
        let _ = reader.integer();
        let _ = reader.begin_map();
        prop_assert!(reader.skip().is_err() || reader.at() <= bytes.len());
    }
}
