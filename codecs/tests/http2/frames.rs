//! HTTP/2 by hand: frames written and read in the plainest way, and a log of what a connection tells.

use outrigger_codecs::http::FieldKind;
use outrigger_codecs::http2::hpack::Encoder;
use outrigger_codecs::http2::{
    Config, Connection, ConnectionError, Event, Reason, ResetBy, Role, StreamId,
};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// END_STREAM, or ACK.
pub(crate) const END: u8 = 1;
/// END_HEADERS.
pub(crate) const WHOLE: u8 = 4;
pub(crate) const PADDED: u8 = 8;
/// HEADERS with priority fields.
pub(crate) const WEIGHED: u8 = 0x20;

pub(crate) type Fields = [(&'static str, &'static str)];

pub(crate) const GET: &Fields =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")];
pub(crate) const POST: &Fields =
    &[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")];
pub(crate) const OK: &Fields = &[(":status", "200")];

/// A frame with a payload as it is.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block that can be decoded whatever was decoded before.
pub(crate) fn block(fields: &Fields) -> Vec<u8> {
    let mut encoder = Encoder::new(false);
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value) in fields {
        let kind = FieldKind::of(name.as_bytes());
        encoder.field(name, value.as_bytes(), kind, false, &mut out);
    }
    out
}

/// A literal without indexing, whose name may be one that no encoder would write.
pub(crate) fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    assert!(name.len() < 127 && value.len() < 127, "one byte of length");
    let mut out = vec![0, name.len() as u8];
    out.extend(name.as_bytes());
    out.push(value.len() as u8);
    out.extend(value);
    out
}

/// HEADERS with the whole block in it; `flags` besides END_HEADERS.
pub(crate) fn headers(stream: u32, flags: u8, fields: &Fields) -> Vec<u8> {
    frame(HEADERS, WHOLE | flags, stream, &block(fields))
}

pub(crate) fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, payload)
}

pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub(crate) fn rst_stream(stream: u32, reason: Reason) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &reason.0.to_be_bytes())
}

pub(crate) fn goaway(last: u32, reason: Reason) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), reason.0.to_be_bytes()].concat())
}

/// A frame as it was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// Cuts bytes into frames, of which they must be a whole number.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    bytes = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let len = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        frames.push(Frame {
            kind: bytes[3],
            flags: bytes[4],
            stream: u32::from_be_bytes(bytes[5..9].try_into().expect("four bytes")),
            payload: bytes[9..9 + len].to_vec(),
        });
        bytes = &bytes[9 + len..];
    }
    frames
}

/// What a connection told, with everything that it refers to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Told {
    Headers { id: u32, end: bool, fields: Vec<(String, String)> },
    Trailers { id: u32, fields: Vec<(String, String)> },
    Data { id: u32, end: bool, bytes: Vec<u8> },
    Malformed { id: u32, status: u16 },
    Reset { id: u32, reason: Reason, by: ResetBy },
    GoAway { last: u32, reason: Reason },
    Writable,
    StreamWritable { id: u32 },
    Pong([u8; 8]),
}

/// Feeds `input` in pieces of the given lengths and logs what is told; adjacent content is put
/// together. Releases nothing.
pub(crate) fn feed_pieces(
    connection: &mut Connection,
    input: &[u8],
    now_ns: u64,
    mut piece_len: impl FnMut() -> usize,
    told: &mut Vec<Told>,
) -> Result<(), ConnectionError> {
    let mut at = 0;
    loop {
        let end = input.len().min(at + piece_len().max(1));
        let mut piece = &input[at..end];
        loop {
            let step = connection.receive(piece, now_ns)?;
            assert!(step.consumed <= piece.len());
            let quiet = step.event.is_none();
            if let Some(event) = step.event {
                log(connection, piece, event, told);
            }
            piece = &piece[step.consumed..];
            if quiet && (step.consumed == 0 || piece.is_empty()) {
                break;
            }
        }
        assert!(piece.is_empty(), "bytes were left alone");
        at = end;
        if at == input.len() {
            return Ok(());
        }
    }
}

/// Feeds `input` as a whole.
pub(crate) fn feed(
    connection: &mut Connection,
    input: &[u8],
) -> Result<Vec<Told>, ConnectionError> {
    let mut told = Vec::new();
    feed_pieces(connection, input, 0, || usize::MAX / 2, &mut told)?;
    Ok(told)
}

fn log(connection: &Connection, piece: &[u8], event: Event, told: &mut Vec<Told>) {
    let fields = || {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let fields = connection.block().iter();
        fields.map(|field| (field.name.to_owned(), text(field.value))).collect()
    };
    let entry = match event {
        Event::Headers { id, end_stream: end, .. } => {
            Told::Headers { id: id.get(), end, fields: fields() }
        }
        Event::Trailers { id, .. } => Told::Trailers { id: id.get(), fields: fields() },
        Event::Data { id, range, end_stream, .. } => {
            let bytes = &piece[range];
            if let Some(Told::Data { id: before, end: end @ false, bytes: collected }) =
                told.last_mut()
                && *before == id.get()
            {
                collected.extend(bytes);
                *end = end_stream;
                return;
            }
            Told::Data { id: id.get(), end: end_stream, bytes: bytes.to_vec() }
        }
        Event::Malformed { id, status } => Told::Malformed { id: id.get(), status },
        Event::Reset { id, reason, by, .. } => Told::Reset { id: id.get(), reason, by },
        Event::GoAway { last, reason } => Told::GoAway { last: last.get(), reason },
        Event::Writable => Told::Writable,
        Event::StreamWritable { id, .. } => Told::StreamWritable { id: id.get() },
        Event::Pong(payload) => Told::Pong(payload),
    };
    told.push(entry);
}

pub(crate) fn request(id: u32, end: bool, fields: &Fields) -> Told {
    Told::Headers { id, end, fields: owned(fields) }
}

pub(crate) fn owned(fields: &Fields) -> Vec<(String, String)> {
    fields.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A server that has seen the preface and SETTINGS of its client, with nothing in its output.
pub(crate) fn server(config: Config) -> Connection {
    let mut server = Connection::new(Role::Server, config);
    feed(&mut server, PREFACE).expect("a preface");
    settle(&mut server);
    server
}

/// A client that has seen the SETTINGS of its server, with nothing in its output.
pub(crate) fn client(config: Config) -> Connection {
    let mut client = Connection::new(Role::Client, config);
    settle(&mut client);
    client
}

fn settle(connection: &mut Connection) {
    feed(connection, &frame(SETTINGS, 0, 0, &[])).expect("settings");
    feed(connection, &frame(SETTINGS, END, 0, &[])).expect("an acknowledgement");
    connection.output().clear();
}

/// Writes a header block with `fields` and sends it.
pub(crate) fn send_headers(
    connection: &mut Connection,
    id: StreamId,
    end: bool,
    fields: &[(&str, &str)],
) {
    let mut writer = connection.encode_headers();
    for (name, value) in fields {
        let kind = FieldKind::of(name.as_bytes());
        writer.field(name, value.as_bytes(), kind, false);
    }
    connection.send_headers(id, end);
}

/// Takes the output, as frames.
pub(crate) fn sent(connection: &mut Connection) -> Vec<Frame> {
    frames(&std::mem::take(connection.output()))
}

/// A request of [`GET`] on a stream.
pub(crate) fn request_of(id: u32) -> Told {
    request(id, true, GET)
}

/// A SETTINGS frame with one setting.
pub(crate) fn settings(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &setting(id, value))
}
