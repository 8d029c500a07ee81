//! SOAP under mutation: a part of the `fuzz_smoke` program.
//!
//! Beside "never panics", the oracles are: what a scanner comes to doesn't depend on how the bytes
//! arrive; and a strict parser of other hands that accepts the document finds the same operation, or
//! none where the scanner says so for a reason that is not its own limit.

#[path = "documents.rs"]
mod documents;

use std::borrow::Cow;

use outrigger_codecs::soap::{
    FaultSide, NoOperation, OperationScanner, Scan, SoapRequest, SoapVersion, put_fault,
};

use crate::support::mutate::fuzz;

use documents::{FOUND, NOTHING};

const BYTES_MAX: usize = 2048;
const DEPTH_MAX: u32 = 8;

const WORDS: &[&[u8]] = &[
    b"<Envelope>",
    b"</Envelope>",
    b"<Body>",
    b"</Body>",
    b"<Body/>",
    b"<Header>",
    b"</Header>",
    b"<s:Envelope xmlns:s='urn:s'>",
    b"<s:Body>",
    b"<op/>",
    b"<",
    b">",
    b"/>",
    b"</",
    b"<!--",
    b"-->",
    b"--",
    b"<![CDATA[",
    b"]]>",
    b"]]",
    b"<?pi ",
    b"?>",
    b"<!DOCTYPE a>",
    b"&lt;",
    b"='",
    b"\"",
    b" a='1'",
    b" a=\"<\"",
    b"\xef\xbb\xbf",
    b"\xfe\xff",
    b"\0",
    b":",
    b" ",
    b"<?xml version='1.0' encoding='utf-8'?>",
    b" xmlns='urn:s'",
    b"\xe4\xb8\xad",
];

#[test]
fn soap_bodies() {
    let seeds: Vec<&[u8]> = FOUND
        .iter()
        .map(|(document, _)| document.as_bytes())
        .chain(NOTHING.iter().map(|document| document.as_bytes()))
        .collect();
    let (mut found, mut agreed) = (0_u64, 0_u64);
    fuzz("soap bodies", &seeds, WORDS, |input, random| {
        let whole = outcome(input, || input.len());
        assert_eq!(outcome(input, || 1), whole, "byte by byte");
        assert_eq!(outcome(input, || 1 + random.below(9)), whole, "in random pieces");
        found += u64::from(whole.is_ok());
        let Some(expected) = strict(input) else { return };
        match (&whole, expected) {
            (Ok(operation), expected) => {
                agreed += 1;
                assert_eq!(Some(&**operation), expected.as_deref(), "another operation");
            }
            (Err(NoOperation::Limit | NoOperation::Depth | NoOperation::Encoding), _) => {}
            (Err(why), expected) => {
                // Long names are refused as malformed, and so are some things that the other parser
                // lets pass: names that begin with a colon, and marks inside of declarations.
                let is_long = expected.as_ref().is_some_and(|name| name.len() > 60);
                let is_odd = input.windows(2).any(|two| two == b"<:")
                    || input.windows(5).any(|five| five == b"<?xml");
                assert!(expected.is_none() || is_long || is_odd, "{why}, not {expected:?}");
            }
        }
    });
    assert!(found > 1_000, "mutations too wild: only {found} documents had an operation");
    assert!(agreed > 100, "mutations too wild: only {agreed} documents were well-formed");
}

fn outcome(input: &[u8], mut piece_len: impl FnMut() -> usize) -> Result<Vec<u8>, NoOperation> {
    let mut scanner = OperationScanner::new(BYTES_MAX, DEPTH_MAX);
    let mut rest = input;
    let mut scan = scanner.push(b"");
    while scan == Scan::More && !rest.is_empty() {
        let (piece, behind) = rest.split_at(piece_len().clamp(1, rest.len()));
        scan = scanner.push(piece);
        rest = behind;
    }
    match scanner.end() {
        Scan::Found => Ok(scanner.operation().expect("found").to_vec()),
        Scan::Nothing(why) => Err(why),
        Scan::More => panic!("the end is the end"),
    }
}

/// The operation of a document that a strict parser accepts. Nothing when it does not.
fn strict(input: &[u8]) -> Option<Option<Cow<'_, [u8]>>> {
    let text = std::str::from_utf8(input).ok()?;
    let document = roxmltree::Document::parse(text).ok()?;
    let root = document.root_element();
    if root.tag_name().name() != "Envelope" {
        return Some(None);
    }
    // As the scanner: nothing but headers may come before the body, and all are of the envelope's
    // prefix.
    let prefix = |node: roxmltree::Node<'_, '_>| {
        let name = &text[node.range().start + 1..];
        let end = name.find(|c: char| c.is_ascii_whitespace() || "/>".contains(c));
        let name = &name[..end.unwrap_or(name.len())];
        name.rsplit_once(':').map_or("", |(prefix, _)| prefix).to_owned()
    };
    for child in root.children().filter(roxmltree::Node::is_element) {
        if prefix(child) != prefix(root) {
            return Some(None);
        }
        match child.tag_name().name() {
            "Header" => {}
            "Body" => {
                let operation = child.first_element_child();
                return Some(
                    operation.map(|it| Cow::Owned(it.tag_name().name().as_bytes().to_vec())),
                );
            }
            _ => return Some(None),
        }
    }
    Some(None)
}

const HEADERS: &[&[u8]] = &[
    b"text/xml; charset=utf-8",
    b"application/soap+xml; charset=\"utf-8\"; action=\"urn:a\"",
    b"application/soap+xml;action=a;boundary=\"a;b\\\"c\"",
    b"\"urn:action#x\"",
];

const HEADER_WORDS: &[&[u8]] = &[
    b"; action=",
    b"\"",
    b"\\",
    b";",
    b"=",
    b" ",
    b"charset=",
    b"utf-16",
    b"text/xml",
    b"application/soap+xml",
    b"action=\"a\\\"b\"",
];

#[test]
fn soap_headers() {
    let mut actions = 0_u64;
    fuzz("soap headers", HEADERS, HEADER_WORDS, |input, random| {
        let cut = random.below(input.len() + 1);
        let (content_type, action) = input.split_at(cut);
        for content_type in [content_type, input, b"text/xml"] {
            let Some(request) = SoapRequest::of(content_type, [action].into_iter()) else {
                continue;
            };
            if let Some(action) = &request.action {
                actions += 1;
                assert!(!action.is_empty() && action.len() <= input.len());
            }
            let mut out = Vec::new();
            put_fault(request.version, FaultSide::Sender, input, &mut out);
            let text = std::str::from_utf8(&out).expect("UTF-8");
            assert!(roxmltree::Document::parse(text).is_ok(), "{text}");
            assert_ne!(
                request.version == SoapVersion::V12,
                text.contains("=\"http://schemas.xmlsoap")
            );
        }
    });
    assert!(actions > 100, "mutations too wild: only {actions} had an action");
}
