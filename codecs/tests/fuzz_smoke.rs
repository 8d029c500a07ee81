//! Mutation fuzzing of the parsers that meet bytes from the network, on the stable toolchain.
//!
//! Beside "never panics", every input is judged by oracles: the verdict may not depend on how the
//! bytes arrive, what is accepted must mean the same after it is rendered again, and a slow, plain
//! reading of the same bytes, written apart from the parser, must agree.

#[path = "bolt/fuzz.rs"]
mod bolt;
#[path = "dubbo/mod.rs"]
mod dubbo;
#[path = "hsf/fuzz.rs"]
mod hsf;
#[path = "http2/fuzz.rs"]
mod http2;
#[path = "soap/fuzz.rs"]
mod soap;
mod support;

use outrigger_codecs::http::{
    BodyFraming, Field, FieldBlock, FieldStorage, Method, Put, RequestHead, ResponseHead, Target,
    Version,
};
use outrigger_codecs::http1::{
    ChunkedDecoder, ChunkedError, ChunkedLimits, HeadError, HeadLimits, LAST_CHUNK, parse_trailers,
    render,
};
use outrigger_codecs::http2::hpack::{Decoder, Encoder, ListLimits, Outcome};
use outrigger_codecs::proxy_protocol::{self, Parsed, ProxyAddresses};
use support::mutate::{Random, fuzz};

const LIMITS: HeadLimits = HeadLimits { bytes_max: 1024, fields_max: 12 };
const HEADER_LIMITS: ListLimits = ListLimits::new(1 << 20, 10_000);
const CHUNKED_LIMITS: ChunkedLimits =
    ChunkedLimits { extension_bytes_max: 24, trailer_bytes_max: 96, trailer_fields_max: 4 };

const REQUESTS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b"\r\nGET /a?b=c HTTP/1.1\r\nHost: a.example:8080\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n0\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    b"GET http://b.example/x?y HTTP/1.1\r\nHost: a\r\nProxy-Connection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"OPTIONS https://b.example:443 HTTP/1.1\r\nHost: b\r\n\r\n",
    b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n1: 1\r\n2: 2\r\n3: 3\r\n4: 4\r\n5: 5\r\n6: 6\r\n7: 7\r\n\r\n",
];

const PROXY_HEADERS: &[&[u8]] = &[
    b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 80\r\nGET / HTTP/1.1\r\n",
    b"PROXY TCP6 fd00::1 ::ffff:10.0.0.2 0 65535\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\x30\x39\0\x50",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x14\x0a\0\0\x01\x0a\0\0\x02\x30\x39\0\x50\xea\0\x05\x01vpce",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\x0a\0\0\x01\x0a\0\0\x02\x30\x39\0\x50\x03\0\x04\0\0\0\0",
];

const PROXY_WORDS: &[&[u8]] =
    &[b"\r\n", b" ", b"PROXY ", b"TCP4", b"TCP6", b"UNKNOWN", b"::", b"0", b"\x21", b"\x11", b"\0"];

const RESPONSES: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: a\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: x\r\n\r\n",
    b"HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nContent-Type: text/plain\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /x\r\nConnection: close, X-Hop\r\nX-Hop: a\r\n\r\n",
];

const CHUNKED: &[&[u8]] = &[
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"1\r\na\r\n2;n=v\r\nbc\r\n00a;q=\"x;\\\"y\"\r\n0123456789\r\n0;last\r\n\r\n",
    b"3\r\nabc\r\n0\r\ngrpc-status: 0\r\ngrpc-message:\r\n\r\n",
    b"0000000000000002\r\n\r\n\r\n0000000000000000\r\nx: y\r\n\r\n",
];

const HEAD_WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\n\n",
    b": ",
    b" :",
    b"\r\n ",
    b"\r\n\t",
    b"\0",
    b"\x0b",
    b",",
    b"#",
    b"Host: b\r\n",
    b"Host:",
    b"Content-Length: 7\r\n",
    b"Content-Length",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding",
    b"chunked",
    b"gzip, ",
    b"identity",
    b"Connection: close\r\n",
    b"Connection: Host\r\n",
    b"upgrade",
    b"Upgrade: h2c\r\n",
    b"Te: trailers\r\n",
    b"Expect: 100-continue\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/",
    b"http://",
    b"CONNECT ",
    b"OPTIONS ",
    b"HEAD ",
    b" 204 ",
    b" 304 ",
    b" 100 ",
    b"@",
    b"[::1]",
    b":443",
    b"*",
    b"/",
    b"9223372036854775807",
    b"18446744073709551616",
    b"X: y\r\n",
];

const CHUNKED_WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"0\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b";",
    b"=",
    b"\"",
    b"\\",
    b"0x",
    b"-",
    b"+",
    b" ",
    b"\t",
    b"7fffffffffffffff",
    b"8000000000000000",
    b"ffffffffffffffff",
    b"00000000000000000",
    b"a: b\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b": ",
    b"\0",
    b"\x80",
    b"f\r\n",
];

const HEADER_BLOCKS: &[&[u8]] = &[
    b"\x82\x86\x84\x41\x0fwww.example.com\xbe\x58\x08no-cache",
    b"\x82\x87\x85\xbf\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf",
    b"\x40\x0acustom-key\x0ccustom-value\x7e\x01b\xbe\xbf\x0f\x2f\x01c\x1f\x30\x01d",
    b"\x20\x3f\xe1\x1f\x48\x03302\x58\x07private\x88\xbf\xbe",
    b"\x3f\x13\x40\x01a\x01b\x40\x01c\x01d\xbe\xbf\xc0",
    b"\x48\x82\x64\x02\x58\x85\xae\xc3\x77\x1a\x4b\x10\x08password\x06secret\xc0\xbf\xbe",
    b"\x00\x01X\x01y\x40\x01a\x02 b\x40\x02\xc3\xa9\x01\n\xbe\xbf",
    b"\x5a\x83\x9b\xd9\xab\x77\x88\xad\x94\xe7\x82\x1d\xd7\xf2\xe6",
];

const HEADER_BLOCK_WORDS: &[&[u8]] = &[
    b"\x80",
    b"\xbd",
    b"\xbe",
    b"\xbf",
    b"\xff\x00",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\x80\x80\x80\x80\x80\x00",
    b"\x40\x01a\x01b",
    b"\x40\x01A\x01b",
    b"\x00\x01a\x01b",
    b"\x10\x01a\x01b",
    b"\x7e\x01c",
    b"\x20",
    b"\x3f\x01",
    b"\x3f\xe1\x1f",
    b"\x3f\xe2\x1f",
    b"\x84\xff\xff\xff\xff",
    b"\x84\xff\xff\xff\xf3",
    b"\x81\x07",
    b"\x82\xff\xc7",
    b"\x7f\x00",
    b"\x00",
];

#[test]
fn request_heads() {
    let mut accepted = 0_u64;
    fuzz("request heads", REQUESTS, HEAD_WORDS, |input, random| {
        let mut storage = FieldStorage::new();
        let whole = RequestHead::parse(input, &mut storage, &LIMITS);
        for cut in cuts(input, random) {
            let mut storage = FieldStorage::new();
            let early = RequestHead::parse(&input[..cut], &mut storage, &LIMITS);
            assert!(early == Ok(None) || early == whole, "cut at {cut}: {early:?}, not {whole:?}");
        }
        let Ok(Some(head)) = whole else { return };
        accepted += 1;
        let mut storage = FieldStorage::new();
        let shorter = RequestHead::parse(&input[..head.len - 1], &mut storage, &LIMITS);
        assert_eq!(shorter, Ok(None), "complete without its last byte");

        let plain = PlainHead::read(&input[..head.len]);
        assert_eq!(plain.fields, pairs(head.fields));
        let connect = head.method == Method::Connect;
        let framing = plain.framing(BodyFraming::None);
        assert_eq!(if connect { BodyFraming::None } else { framing }, head.framing);
        assert!(!connect || framing.is_empty());
        assert_eq!(plain.values("host").len(), usize::from(head.field("host").is_some()));

        let rendered = render_request(&head);
        let mut storage = FieldStorage::new();
        let again = RequestHead::parse(&rendered, &mut storage, &LIMITS);
        let again = again.expect("a rendered head is well-formed").expect("and complete");
        assert_eq!(again.len, rendered.len());
        assert_eq!(RequestHead { len: head.len, ..again }, head);
    });

    assert!(accepted > 100, "mutations too wild: only {accepted} inputs were well-formed");
}

#[test]
fn proxy_headers() {
    let mut accepted = 0_u64;
    fuzz("proxy headers", PROXY_HEADERS, PROXY_WORDS, |input, random| {
        let whole = proxy_protocol::parse(input);
        for cut in cuts(input, random) {
            let early = proxy_protocol::parse(&input[..cut]);
            assert!(early == Parsed::NeedMore || early == whole, "cut at {cut}: {early:?}");
        }
        let Parsed::Header(header) = whole else { return };
        accepted += 1;
        assert_eq!(proxy_protocol::parse(&input[..header.len]), whole, "depends on what follows");
        let shorter = proxy_protocol::parse(&input[..header.len - 1]);
        assert_eq!(shorter, Parsed::NeedMore, "complete without its last byte");
        let Some(ProxyAddresses { source, destination }) = header.addresses else { return };
        // The same in the other proxy's words.
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let line = format!(
            "PROXY {family} {} {} {} {}\r\n",
            source.ip(),
            destination.ip(),
            source.port(),
            destination.port()
        );
        let again = proxy_protocol::parse(line.as_bytes());
        assert!(matches!(again, Parsed::Header(again) if again.addresses == header.addresses));
    });
    assert!(accepted > 100, "mutations too wild: only {accepted} inputs were well-formed");
}

#[test]
fn response_heads() {
    let mut accepted = 0_u64;
    fuzz("response heads", RESPONSES, HEAD_WORDS, |input, random| {
        let mut storage = FieldStorage::new();
        let whole = ResponseHead::parse(input, &mut storage, &LIMITS);
        for cut in cuts(input, random) {
            let mut storage = FieldStorage::new();
            let early = ResponseHead::parse(&input[..cut], &mut storage, &LIMITS);
            assert!(early == Ok(None) || early == whole, "cut at {cut}: {early:?}, not {whole:?}");
        }
        let Ok(Some(head)) = whole else { return };
        accepted += 1;
        let mut storage = FieldStorage::new();
        let shorter = ResponseHead::parse(&input[..head.len - 1], &mut storage, &LIMITS);
        assert_eq!(shorter, Ok(None), "complete without its last byte");

        let plain = PlainHead::read(&input[..head.len]);
        assert_eq!(plain.fields, pairs(head.fields));
        let framing = plain.framing(BodyFraming::UntilClose);
        let bodiless = matches!(head.status, 100..200 | 204);
        let forbidden = !matches!(framing, BodyFraming::UntilClose | BodyFraming::Length(0));
        for (method, tunnel) in
            [(Method::Get, false), (Method::Connect, true), (Method::Head, false)]
        {
            let expected = match head.status {
                _ if bodiless && forbidden => Err(HeadError::BodyForbidden),
                100..200 | 204 | 304 => Ok(BodyFraming::None),
                200..300 if tunnel => Ok(BodyFraming::None),
                _ if method == Method::Head => Ok(BodyFraming::None),
                _ => Ok(framing),
            };
            assert_eq!(head.framing(method).map_err(HeadError::from), expected, "to {method:?}");
        }

        let mut rendered = Vec::new();
        render::status_line(&mut rendered, head.status, head.reason);
        render_fields(&mut rendered, head.version, head.fields);
        let mut storage = FieldStorage::new();
        let again = ResponseHead::parse(&rendered, &mut storage, &LIMITS);
        let mut again = again.expect("a rendered head is well-formed").expect("and complete");
        assert_eq!(again.len, rendered.len());
        // An absent reason phrase is rendered as the registered one.
        (again.len, again.reason) = (head.len, head.reason);
        assert_eq!(again, head);
    });

    assert!(accepted > 100, "mutations too wild: only {accepted} inputs were well-formed");
}

#[test]
fn chunked_bodies() {
    let mut accepted = 0_u64;
    fuzz("chunked bodies", CHUNKED, CHUNKED_WORDS, |input, random| {
        let whole = decode(input, || input.len());
        assert_eq!(decode(input, || 1), whole, "byte by byte");
        assert_eq!(decode(input, || 1 + random.below(9)), whole, "in random pieces");
        let Ok(body) = whole else { return };
        let plain = plain_chunked(input);
        if !body.done {
            assert_eq!(plain, None);
            return;
        }
        accepted += 1;
        assert_eq!(plain, Some((body.data.clone(), body.consumed)));

        let mut rendered = Vec::new();
        for chunk in body.data.chunks(1 + random.below(7)) {
            render::chunk_size_line(&mut rendered, chunk.len());
            rendered.put(chunk);
            rendered.put(b"\r\n");
        }
        match &body.trailers {
            None => rendered.put(LAST_CHUNK),
            Some(trailers) => {
                let mut storage = FieldStorage::new();
                assert!(!parse_trailers(trailers, &mut storage).expect("checked").is_empty());
                rendered.put(b"0\r\n");
                rendered.put(trailers);
                rendered.put(b"\r\n");
            }
        }
        let again = decode(&rendered, || 1 + random.below(9)).expect("a rendered body decodes");
        assert_eq!(again, Body { consumed: rendered.len(), ..body });
    });

    assert!(accepted > 100, "mutations too wild: only {accepted} inputs were well-formed");
}

#[test]
fn header_blocks() {
    let mut accepted = 0_u64;
    fuzz("header blocks", HEADER_BLOCKS, HEADER_BLOCK_WORDS, |input, random| {
        let mut decoder = Decoder::new(4096);
        let mut out = FieldBlock::default();
        let decoded = decoder.decode(input, HEADER_LIMITS, &mut out);
        let limits = ListLimits::new(random.below(200), random.below(5));
        let mut limited = Decoder::new(4096);
        let mut limited_out = FieldBlock::default();
        let limited_decoded = limited.decode(input, limits, &mut limited_out);
        assert_eq!(limited_decoded.err(), decoded.err());
        assert!(limited_out.text_len() + 32 * limited_out.len() <= limits.bytes_max);
        let Ok(outcome) = decoded else { return };
        accepted += 1;
        assert_eq!(limited.export(), decoder.export());
        let imported = Decoder::import(limited.export()).expect("exported");
        assert_eq!(imported.export(), decoder.export());

        let mut other = fluke_hpack::Decoder::new();
        other.set_max_allowed_table_size(4096);
        let fields = match other.decode(input) {
            // A block without fields is harmless.
            Err(fluke_hpack::decoder::DecoderError::SizeUpdateAtEnd) => return,
            fields => fields.expect("we accept no more than others"),
        };
        let stored: Vec<_> = out.iter().map(|field| (field.name, field.value)).collect();
        assert!(stored.len() <= fields.len());
        assert!(outcome != Outcome::Complete || stored.len() == fields.len());
        for ((name, value), field) in stored.iter().zip(&fields) {
            assert_eq!((name.as_bytes(), *value), (&*field.0, &*field.1));
        }
        let entries = decoder.export().table.entries;
        for (place, entry) in entries.iter().rev().enumerate() {
            let fields = other.decode(&[0xbe + place as u8]).expect("it has the entry, too");
            assert_eq!(entry.value, fields[0].1);
            assert_eq!(entry.name.len(), fields[0].0.len());
        }
        let behind = other.decode(&[0xbe + entries.len() as u8]);
        assert!(behind.is_err(), "it has entries that we evicted");

        let mut again = Vec::new();
        let mut encoder = Encoder::new(random.below(2) == 0);
        encoder.begin(&mut again);
        for field in out.iter() {
            encoder.field(field.name, field.value, field.kind, field.never_indexed, &mut again);
        }
        let decoded = Decoder::new(4096).decode(&again, HEADER_LIMITS, &mut limited_out);
        assert_eq!(decoded, Ok(Outcome::Complete));
        let stored_again: Vec<_> =
            limited_out.iter().map(|field| (field.name, field.value)).collect();
        assert_eq!(stored_again, stored);
    });

    assert!(accepted > 100, "mutations too wild: only {accepted} inputs were well-formed");
}

/// A few places to cut an input at, the last byte among them.
fn cuts(input: &[u8], random: &mut Random) -> Vec<usize> {
    let mut cuts: Vec<usize> = (0..4).map(|_| random.below(input.len())).collect();
    cuts.push(input.len().saturating_sub(1));
    cuts
}

fn pairs<'b>(fields: &[Field<'b>]) -> Vec<(&'b [u8], &'b [u8])> {
    fields.iter().map(|field| (field.name.as_bytes(), field.value)).collect()
}

fn render_request(head: &RequestHead<'_, '_>) -> Vec<u8> {
    let target = match head.target {
        Target::Absolute { scheme, authority, path: "*" } => format!("{scheme}://{authority}"),
        Target::Absolute { scheme, authority, path } => format!("{scheme}://{authority}{path}"),
        Target::Asterisk => "*".to_owned(),
        Target::Authority(authority) => authority.to_owned(),
        Target::Origin(path) => path.to_owned(),
    };
    let mut rendered = Vec::new();
    render::request_line(&mut rendered, head.method_text, &target);
    if head.version == Version::Http10 {
        let minor = rendered.len() - b"1\r\n".len();
        rendered[minor] = b'0';
    }
    for field in head.fields {
        render::field_verbatim(&mut rendered, field.name, field.value);
    }
    rendered.put(b"\r\n");
    rendered
}

/// Fields and the empty line, after a status line that is changed to the version.
fn render_fields(rendered: &mut Vec<u8>, version: Version, fields: &[Field<'_>]) {
    if version == Version::Http10 {
        rendered[b"HTTP/1.".len()] = b'0';
    }
    for field in fields {
        render::field_verbatim(rendered, field.name, field.value);
    }
    rendered.put(b"\r\n");
}

/// A head read in the plainest way: lines cut at CRLF, names cut at the colon.
struct PlainHead<'b> {
    fields: Vec<(&'b [u8], &'b [u8])>,
}

impl<'b> PlainHead<'b> {
    /// Panics if a head that was accepted is not made of clean lines.
    fn read(head: &'b [u8]) -> Self {
        let head = head.strip_prefix(b"\r\n").unwrap_or(head);
        let text = head.strip_suffix(b"\r\n\r\n").expect("ends in an empty line");
        let mut fields = Vec::new();
        for (number, line) in split_lines(text).into_iter().enumerate() {
            assert!(!line.is_empty());
            assert!(line.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)));
            if number == 0 {
                continue;
            }
            let colon = line.iter().position(|&byte| byte == b':').expect("a colon");
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            assert!(!name.is_empty() && name.iter().all(u8::is_ascii_graphic));
            assert!(!name.iter().any(|byte| b"\"(),/:;<=>?@[\\]{}".contains(byte)));
            fields.push((name, value.trim_ascii()));
        }
        Self { fields }
    }

    fn values(&self, name: &str) -> Vec<&'b [u8]> {
        let named = self.fields.iter().filter(|f| f.0.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|field| field.1).collect()
    }

    /// The framing, with `otherwise` where no field gives one. Panics if there is more than one.
    fn framing(&self, otherwise: BodyFraming) -> BodyFraming {
        let (lengths, codings) = (self.values("content-length"), self.values("transfer-encoding"));
        match (&lengths[..], &codings[..]) {
            ([], []) => otherwise,
            ([], [coding]) => {
                assert!(coding.eq_ignore_ascii_case(b"chunked"));
                BodyFraming::Chunked
            }
            ([length], []) => {
                let text = str::from_utf8(length).expect("digits");
                let length: u64 = text.parse().expect("a number");
                assert_eq!(length.to_string(), text);
                BodyFraming::Length(length)
            }
            _ => panic!("two framings"),
        }
    }
}

fn split_lines(mut text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(at) = text.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(&text[..at]);
        text = &text[at + 2..];
    }
    lines.push(text);
    lines
}

#[derive(Debug, PartialEq)]
struct Body {
    data: Vec<u8>,
    trailers: Option<Box<[u8]>>,
    consumed: usize,
    done: bool,
}

/// Decodes `input` in pieces of the given lengths and checks what must hold for every step.
fn decode(input: &[u8], mut piece_len: impl FnMut() -> usize) -> Result<Body, ChunkedError> {
    let mut decoder = ChunkedDecoder::new(CHUNKED_LIMITS);
    let mut data = Vec::new();
    let mut consumed = 0;
    while consumed < input.len() && !decoder.is_done() {
        let end = input.len().min(consumed + piece_len().max(1));
        let piece = &input[consumed..end];
        let before = decoder.clone();
        let step = match decoder.decode(piece) {
            Ok(step) => step,
            Err(error) => {
                assert_eq!(decoder.decode(piece), Err(error), "an error lasts");
                return Err(error);
            }
        };
        assert!(step.consumed > 0, "no progress");
        assert!(step.consumed <= piece.len());
        assert!(step.data.end <= step.consumed && step.data.start <= step.data.end);
        assert_eq!(step.done, decoder.is_done());
        assert!(before != decoder || !step.data.is_empty());
        data.extend_from_slice(&piece[step.data]);
        consumed += step.consumed;
    }
    let done = decoder.is_done();
    Ok(Body { data, trailers: decoder.take_trailers(), consumed, done })
}

/// The data and the length of a complete chunked body, read in the plainest way; `None` if it is
/// incomplete. Says nothing of extensions and trailers but where they end.
fn plain_chunked(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut data = Vec::new();
    let mut at = 0;
    loop {
        let line_len = input[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let line = str::from_utf8(&input[at..at + line_len]);
        let size = match line {
            Ok(line) => line.split(';').next()?.to_owned(),
            // Only an extension may hold such bytes.
            Err(_) => {
                input[at..].iter().map(|&b| char::from(b)).take_while(|&c| c != ';').collect()
            }
        };
        let size = usize::from_str_radix(&size, 16).ok()?;
        at += line_len + 2;
        if size == 0 {
            break;
        }
        data.extend_from_slice(input.get(at..at.checked_add(size)?)?);
        at += size;
        assert_eq!(input.get(at..at + 2)?, b"\r\n");
        at += 2;
    }
    let rest = &input[at..];
    if rest.starts_with(b"\r\n") {
        return Some((data, at + 2));
    }
    let section_len = rest.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((data, at + section_len + 4))
}
