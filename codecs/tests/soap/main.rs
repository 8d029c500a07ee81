//! The SOAP scanner on documents, split everywhere, and on documents made at random.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod documents;

use outrigger_codecs::soap::{
    FaultSide, NoOperation, OperationScanner, Scan, SoapVersion, put_fault,
};
use proptest::prelude::*;

use documents::{FOUND, NOTHING};

const BYTES_MAX: usize = 4096;
const DEPTH_MAX: u32 = 16;

/// What a scanner says of a document, told the same whichever way it is cut.
fn scan(document: &[u8]) -> Result<String, NoOperation> {
    let whole = outcome([document]);
    assert_eq!(outcome(document.chunks(1)), whole, "byte by byte");
    for cut in 0..=document.len() {
        let (front, back) = document.split_at(cut);
        assert_eq!(outcome([front, back]), whole, "cut at {cut}");
    }
    whole
}

fn outcome<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<String, NoOperation> {
    let mut scanner = OperationScanner::new(BYTES_MAX, DEPTH_MAX);
    for piece in pieces {
        if scanner.push(piece) != Scan::More {
            break;
        }
    }
    match scanner.end() {
        Scan::Found => {
            Ok(String::from_utf8_lossy(scanner.operation().expect("found")).into_owned())
        }
        Scan::Nothing(why) => {
            assert_eq!(scanner.operation(), None);
            Err(why)
        }
        Scan::More => panic!("the end is the end"),
    }
}

#[test]
fn operations_are_found() {
    for (document, operation) in FOUND {
        assert_eq!(scan(document.as_bytes()), Ok((*operation).to_owned()), "{document}");
    }
}

#[test]
fn what_names_no_operation_has_none() {
    for document in NOTHING {
        assert!(scan(document.as_bytes()).is_err(), "{document}");
    }
    for (document, why) in [
        ("<!DOCTYPE a>", NoOperation::Doctype),
        ("<a/>", NoOperation::NotSoap),
        ("<Envelope/>", NoOperation::Empty),
        ("<?xml encoding=\"utf-16\"?>", NoOperation::Encoding),
        ("a", NoOperation::Malformed),
        ("<Envelope>", NoOperation::Malformed),
    ] {
        assert_eq!(scan(document.as_bytes()), Err(why), "{document}");
    }
}

#[test]
fn the_operation_is_known_with_its_name() {
    let mut scanner = OperationScanner::new(BYTES_MAX, DEPTH_MAX);
    assert_eq!(scanner.push(b"<s:Envelope a='>'><s:Body><m:op"), Scan::More);
    assert_eq!(scanner.operation(), None);
    assert_eq!(scanner.push(b" "), Scan::Found);
    assert_eq!(scanner.push(b"<<<"), Scan::Found);
    assert_eq!(scanner.operation(), Some(&b"op"[..]));
}

#[test]
fn characters_of_two_bytes_are_not_read() {
    let document = FOUND[0].0;
    for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
        let plain: Vec<u8> = document.encode_utf16().flat_map(to_bytes).collect();
        assert_eq!(scan(&plain), Err(NoOperation::Encoding));
        let marked: Vec<u8> =
            std::iter::once(0xfeff).chain(document.encode_utf16()).flat_map(to_bytes).collect();
        assert_eq!(scan(&marked), Err(NoOperation::Encoding));
    }
}

#[test]
fn bytes_are_bounded() {
    let operation = "<Envelope><Body><op/>";
    let padded = |len: usize| format!("{}{operation}", " ".repeat(len - operation.len() + 1));
    // Its end need not be seen.
    assert_eq!(scan(padded(BYTES_MAX).as_bytes()), Ok("op".to_owned()));
    assert_eq!(scan(padded(BYTES_MAX + 1).as_bytes()), Err(NoOperation::Limit));
    let mut none = OperationScanner::new(0, DEPTH_MAX);
    assert_eq!(none.push(b"<"), Scan::Nothing(NoOperation::Limit));
    let named = |len: usize| format!("<Envelope><Body><{}/>", "n".repeat(len));
    assert!(scan(named(256).as_bytes()).is_ok());
    assert_eq!(scan(named(257).as_bytes()), Err(NoOperation::Malformed));
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| {
        let (open, close) = ("<a>".repeat(depth), "</a>".repeat(depth));
        format!("<Envelope><Header>{open}{close}</Header><Body><op/></Body></Envelope>")
    };
    assert_eq!(scan(nested(14).as_bytes()), Ok("op".to_owned()));
    assert_eq!(scan(nested(15).as_bytes()), Err(NoOperation::Depth));
}

#[test]
fn faults_are_xml() {
    let nasty: Vec<u8> = (0..=255).collect();
    for version in [SoapVersion::V11, SoapVersion::V12] {
        for side in [FaultSide::Sender, FaultSide::Receiver] {
            let mut out = Vec::new();
            put_fault(version, side, &nasty, &mut out);
            let text = String::from_utf8(out).unwrap();
            let document = roxmltree::Document::parse(&text).unwrap();
            let reason = match version {
                SoapVersion::V11 => "faultstring",
                SoapVersion::V12 => "Text",
            };
            let reason = document
                .descendants()
                .find(|it| it.has_tag_name(reason))
                .or_else(|| document.descendants().find(|it| it.tag_name().name() == reason));
            assert!(reason.unwrap().text().unwrap().contains(" !\"#$%&'()*+,-./0123456789:;<=>?@"));
            assert_eq!(outcome([text.as_bytes()]), Ok("Fault".to_owned()));
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z_][a-zA-Z0-9_.-]{0,8}"
}

/// What may stand between tags, none of it an element.
fn filler() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[ \t\r\n]{0,3}",
        "[ab ]{0,5}".prop_map(|text| format!("<!--{text}-->")),
        "[a-z? ]{0,5}".prop_map(|text| format!("<?pi {text}?>")),
    ]
}

fn element() -> impl Strategy<Value = String> {
    let leaf = (name(), "[ab<>/]{0,4}").prop_map(|(name, text)| {
        format!("<{name} a=\"{}\"><![CDATA[{text}]]></{name}>", text.replace('<', "&lt;"))
    });
    leaf.prop_recursive(4, 16, 3, |inner| {
        (name(), prop::collection::vec(inner, 0..3))
            .prop_map(|(name, children)| format!("<{name}>{}</{name}>", children.concat()))
    })
}

proptest! {
    #[test]
    fn operations_of_any_envelope_are_found(
        prefix in prop_oneof![Just(String::new()), name().prop_map(|name| name + ":")],
        header in prop::option::of(prop::collection::vec(element(), 0..3)),
        fillers in prop::collection::vec(filler(), 6),
        operation in name(),
    ) {
        let filler = |place: usize| fillers[place].replace(":", "");
        let header = header
            .map(|elements| format!("<{prefix}Header>{}</{prefix}Header>", elements.concat()))
            .unwrap_or_default();
        let document = format!(
            "{}<{prefix}Envelope xmlns:{}='urn:e'>{}{header}{}<{prefix}Body>{}<{operation}/>{}\
             </{prefix}Body></{prefix}Envelope>",
            filler(0),
            prefix.strip_suffix(':').unwrap_or("unused"),
            filler(1),
            filler(2),
            filler(3),
            filler(4),
        );
        prop_assert_eq!(scan(document.as_bytes()), Ok(operation), "{}", document);
    }
}
