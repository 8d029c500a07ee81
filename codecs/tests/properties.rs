//! Properties of heads and bodies, over generated messages and over any bytes at all.

use outrigger_codecs::http::{
    BodyFraming, FieldKind, FieldStorage, Method, Put, RequestHead, ResponseHead, Version, decimal,
};
use outrigger_codecs::http1::{
    BodyDecoder, ChunkedDecoder, ChunkedLimits, HeadLimits, LAST_CHUNK, parse_trailers, render,
};
use proptest::collection::vec;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { bytes_max: 64 * 1024, fields_max: 64 };

/// Names that no rule of the head looks at.
fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,40}"
        .prop_filter("ordinary", |name| FieldKind::of(name.as_bytes()) == FieldKind::Other)
}

/// Values as a parser gives them out: no control characters but HTAB, no whitespace at the ends.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![20 => 0x21_u8..=0x7e, 2 => Just(b' '), 1 => Just(b'\t'), 3 => 0x80_u8..];
    vec(byte, 0..60).prop_map(|mut value| {
        while value.last().is_some_and(|&byte| byte == b' ' || byte == b'\t') {
            value.pop();
        }
        let start = value.iter().position(|&byte| byte != b' ' && byte != b'\t');
        value.split_off(start.unwrap_or(0))
    })
}

fn fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    vec((name(), value()), 0..20)
}

fn framing() -> impl Strategy<Value = Option<BodyFraming>> {
    prop_oneof![
        Just(None),
        Just(Some(BodyFraming::Chunked)),
        (0..=i64::MAX as u64).prop_map(|length| Some(BodyFraming::Length(length))),
    ]
}

fn put_framing(out: &mut Vec<u8>, framing: Option<BodyFraming>) {
    match framing {
        Some(BodyFraming::Chunked) => render::field(out, "Transfer-Encoding", b"chunked"),
        Some(BodyFraming::Length(length)) => render::content_length(out, length),
        _ => {}
    }
}

proptest! {
    #[test]
    fn a_rendered_request_reads_as_it_was(
        method in "[A-Z]{1,12}".prop_filter("no tunnel", |method| method != "CONNECT"),
        target in "/[!-\"$-~]{0,80}",
        fields in fields(),
        framing in framing(),
        rest in vec(any::<u8>(), 0..20),
    ) {
        let mut message = Vec::new();
        render::request_line(&mut message, &method, &target);
        render::field(&mut message, "Host", b"a.example:80");
        for (name, value) in &fields {
            render::field_verbatim(&mut message, name, value);
        }
        put_framing(&mut message, framing);
        message.put(b"\r\n");
        let len = message.len();
        message.put(&rest);

        let mut storage = FieldStorage::new();
        let head = RequestHead::parse(&message, &mut storage, &LIMITS).unwrap().unwrap();
        prop_assert_eq!(head.len, len);
        prop_assert_eq!((head.method_text, head.method), (&*method, Method::of(&method)));
        prop_assert_eq!(head.target, outrigger_codecs::http::Target::Origin(&target));
        prop_assert_eq!((head.authority, head.version), ("a.example:80", Version::Http11));
        prop_assert_eq!(head.framing, framing.unwrap_or(BodyFraming::None));
        for ((name, value), field) in fields.iter().zip(&head.fields[1..]) {
            prop_assert_eq!((&**name, &**value), (field.name, field.value));
        }
        prop_assert_eq!(head.fields.len(), 1 + fields.len() + usize::from(framing.is_some()));
    }

    #[test]
    fn a_rendered_response_reads_as_it_was(
        status in 200_u16..1000,
        reason in "[!-~][ -~]{0,20}",
        fields in fields(),
        framing in framing(),
    ) {
        prop_assume!(status != 204 && status != 304);
        let mut message = Vec::new();
        render::status_line(&mut message, status, &reason);
        for (name, value) in &fields {
            render::field_verbatim(&mut message, name, value);
        }
        put_framing(&mut message, framing);
        message.put(b"\r\n");

        let mut storage = FieldStorage::new();
        let head = ResponseHead::parse(&message, &mut storage, &LIMITS).unwrap().unwrap();
        prop_assert_eq!((head.len, head.status, head.reason), (message.len(), status, &*reason));
        prop_assert_eq!(head.framing(Method::Get), Ok(framing.unwrap_or(BodyFraming::UntilClose)));
        for ((name, value), field) in fields.iter().zip(head.fields) {
            prop_assert_eq!((&**name, &**value), (field.name, field.value));
        }
    }

    #[test]
    fn no_strict_prefix_of_a_head_is_complete(fields in fields(), framing in framing()) {
        let mut message = Vec::new();
        render::request_line(&mut message, "POST", "/");
        render::field(&mut message, "host", b"a");
        for (name, value) in &fields {
            render::field_verbatim(&mut message, name, value);
        }
        put_framing(&mut message, framing);
        message.put(b"\r\n");
        for len in 0..message.len() {
            let mut storage = FieldStorage::new();
            prop_assert_eq!(RequestHead::parse(&message[..len], &mut storage, &LIMITS), Ok(None));
        }
    }

    #[test]
    fn names_survive_every_case(name in name(), value in value()) {
        let mut lower = Vec::new();
        let mut proper = Vec::new();
        render::field(&mut lower, &name, &value);
        render::field_proper_case(&mut proper, &name, &value);
        prop_assert!(lower[..name.len()].eq_ignore_ascii_case(name.as_bytes()));
        prop_assert!(proper[..name.len()].eq_ignore_ascii_case(name.as_bytes()));
        prop_assert!(!lower[..name.len()].iter().any(u8::is_ascii_uppercase));
        prop_assert_eq!(&lower[name.len()..], &proper[name.len()..]);
    }

    #[test]
    fn a_chunked_body_decodes_alike_at_every_split(
        chunks in vec(vec(any::<u8>(), 1..40), 0..5),
        trailers in vec((name(), value()), 0..4),
        extension in "(;[a-z]{1,5}(=([a-z]{1,5}|\"[ -!#-\\[\\]-~]{0,5}\"))?){0,2}",
        rest in vec(any::<u8>(), 0..20),
    ) {
        let mut body = Vec::new();
        for chunk in &chunks {
            render::chunk_size_line(&mut body, chunk.len());
            body.truncate(body.len() - 2);
            body.put(extension.as_bytes());
            body.put(b"\r\n");
            body.put(chunk);
            body.put(b"\r\n");
        }
        if trailers.is_empty() {
            body.put(LAST_CHUNK);
        } else {
            body.put(b"0\r\n");
            for (name, value) in &trailers {
                render::field_verbatim(&mut body, name, value);
            }
            body.put(b"\r\n");
        }
        let len = body.len();
        body.put(&rest);
        let data = chunks.concat();
        for split in 0..=body.len() {
            let mut decoder = BodyDecoder::from(BodyFraming::Chunked);
            let mut found = Vec::new();
            let (first, second) = body.split_at(split);
            let in_first = drain(&mut decoder, first, &mut found);
            // Nothing of the body is left over at the split.
            prop_assert_eq!(in_first, split.min(len));
            let in_second = drain(&mut decoder, second, &mut found);
            prop_assert_eq!(in_first + in_second, len);
            prop_assert!(decoder.is_done());
            prop_assert_eq!(&found, &data);
            let BodyDecoder::Chunked(mut decoder) = decoder else { unreachable!() };
            let section = decoder.take_trailers().unwrap_or_default();
            prop_assert_eq!(decoder.take_trailers(), None);
            let mut storage = FieldStorage::new();
            let fields = parse_trailers(&section, &mut storage).unwrap();
            let fields: Vec<_> = fields.iter().map(|f| (f.name, f.value)).collect();
            let expected: Vec<_> = trailers.iter().map(|(n, v)| (&**n, &**v)).collect();
            prop_assert_eq!(fields, expected);
        }
    }

    #[test]
    fn no_bytes_make_anything_panic(bytes in vec(any::<u8>(), 0..300)) {
        let mut storage = FieldStorage::new();
        let _ = RequestHead::parse(&bytes, &mut storage, &LIMITS);
        let mut storage = FieldStorage::new();
        let _ = ResponseHead::parse(&bytes, &mut storage, &LIMITS);
        let mut storage = FieldStorage::new();
        let _ = parse_trailers(&bytes, &mut storage);
        let mut decoder = ChunkedDecoder::new(ChunkedLimits::default());
        if let Ok(step) = decoder.decode(&bytes) {
            prop_assert!(step.consumed <= bytes.len() && step.data.end <= step.consumed);
        }
    }

    #[test]
    fn decimals_are_those_of_the_standard_library(number in any::<u64>()) {
        let text = number.to_string();
        let mut buffer = [0; 20];
        prop_assert_eq!(decimal(number, &mut buffer), text.as_bytes());
    }

    #[test]
    fn chunk_sizes_are_those_of_the_standard_library(data_len in 1_usize..) {
        let mut line = Vec::new();
        render::chunk_size_line(&mut line, data_len);
        prop_assert_eq!(line, format!("{data_len:x}\r\n").into_bytes());
    }
}

/// Decodes all of `input` that belongs to the body, and says how much that was.
fn drain(decoder: &mut BodyDecoder, input: &[u8], found: &mut Vec<u8>) -> usize {
    let mut at = 0;
    loop {
        let step = decoder.decode(&input[at..]).expect("well-formed");
        found.extend_from_slice(&input[at..][step.data]);
        at += step.consumed;
        if step.done || step.consumed == 0 {
            return at;
        }
    }
}
