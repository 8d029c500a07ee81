//! HTTP/2 frame by frame: sends any bytes at all, and reads strictly.
//!
//! For what a well-behaved implementation never does: attacks, odd frames, and an origin that must
//! decide about every frame itself. Ordinary traffic goes through [`crate::http2`].

use std::borrow::BorrowMut;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use fluke_hpack::Decoder;

use crate::http::{Fault, Headers, Request, Response, Wire};

/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 section 6).
#[allow(missing_docs, reason = "the RFC's own names")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
#[allow(missing_docs, reason = "the RFC's own names")]
pub mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Settings (RFC 9113 section 6.5.2, RFC 8441).
#[allow(missing_docs, reason = "the RFC's own names")]
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Error codes (RFC 9113 section 7).
#[allow(missing_docs, reason = "the RFC's own names")]
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// One frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// The stream, 0 for the connection.
    pub stream: u32,
    /// What follows the nine bytes of the frame header.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Any frame.
    #[must_use]
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { kind, flags, stream, payload: payload.into() }
    }

    /// HEADERS with everything in one block.
    #[must_use]
    pub fn headers(stream: u32, fields: &[(&str, &str)], end: bool) -> Frame {
        let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
        Frame::new(kind::HEADERS, flags, stream, block(fields))
    }

    /// DATA.
    #[must_use]
    pub fn data(stream: u32, bytes: impl Into<Vec<u8>>, end: bool) -> Frame {
        Frame::new(kind::DATA, if end { flag::END_STREAM } else { 0 }, stream, bytes)
    }

    /// SETTINGS.
    #[must_use]
    pub fn settings(settings: &[(u16, u32)]) -> Frame {
        let pairs = settings.iter();
        let payload: Vec<u8> = pairs
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        Frame::new(kind::SETTINGS, 0, 0, payload)
    }

    /// SETTINGS with ACK.
    #[must_use]
    pub fn settings_ack() -> Frame {
        Frame::new(kind::SETTINGS, flag::ACK, 0, [])
    }

    /// PING.
    #[must_use]
    pub fn ping(opaque: u64) -> Frame {
        Frame::new(kind::PING, 0, 0, opaque.to_be_bytes())
    }

    /// RST_STREAM.
    #[must_use]
    pub fn reset(stream: u32, code: u32) -> Frame {
        Frame::new(kind::RST_STREAM, 0, stream, code.to_be_bytes())
    }

    /// GOAWAY.
    #[must_use]
    pub fn goaway(last: u32, code: u32) -> Frame {
        Frame::new(kind::GOAWAY, 0, 0, [last.to_be_bytes(), code.to_be_bytes()].concat())
    }

    /// WINDOW_UPDATE.
    #[must_use]
    pub fn window_update(stream: u32, increment: u32) -> Frame {
        Frame::new(kind::WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
    }

    /// Whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// On the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[self.kind, self.flags], &self.stream.to_be_bytes()].concat();
        [head, self.payload.clone()].concat()
    }

    /// The 32-bit number at an offset of the payload.
    ///
    /// # Panics
    /// If the payload is shorter.
    #[must_use]
    pub fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The value that a SETTINGS frame has for a setting.
    #[must_use]
    pub fn setting(&self, id: u16) -> Option<u32> {
        let mut pairs = self.payload.chunks_exact(6);
        let pair = pairs.find(|pair| pair[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes(pair[2..].try_into().unwrap()))
    }

    /// The payload of DATA or HEADERS without padding and priority.
    fn content(&self) -> Result<&[u8], Fault> {
        let malformed = || Fault::Malformed(format!("padding of {self:?}"));
        let mut content = &self.payload[..];
        if self.has(flag::PADDED) {
            let (length, rest) = content.split_first().ok_or_else(malformed)?;
            let kept = rest.len().checked_sub(usize::from(*length)).ok_or_else(malformed)?;
            content = &rest[..kept];
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            content = content.get(5..).ok_or_else(malformed)?;
        }
        Ok(content)
    }
}

/// Fields as HPACK literals without indexing and without Huffman coding: every byte as it is.
#[must_use]
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields.iter();
    fields.flat_map(|(name, value)| literal(0x00, name.as_bytes(), value.as_bytes())).collect()
}

/// One HPACK literal with a new name. `first` is 0x00 without indexing, 0x10 never indexed, 0x40
/// with indexing (RFC 7541 section 6.2).
#[must_use]
pub fn literal(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[first][..], &string(name), &string(value)].concat()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [integer(bytes.len(), 7), bytes.to_vec()].concat()
}

/// An HPACK integer whose first byte has so many bits for it (RFC 7541 section 5.1).
fn integer(value: usize, bits: u32) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if value < most {
        return vec![u8::try_from(value).unwrap()];
    }
    let mut bytes = vec![u8::try_from(most).unwrap()];
    let mut rest = value - most;
    while rest >= 0x80 {
        bytes.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// How a field was represented in a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Representation {
    /// By its number.
    Indexed,
    /// Literal, and added to the table.
    Indexing,
    /// Literal.
    Literal,
    /// Literal that nobody on the way may add to a table.
    NeverIndexed,
}

/// The representations in a block, in the order of the fields.
///
/// # Errors
/// If the block ends in the middle of one.
pub fn representations(block: &[u8]) -> Result<Vec<Representation>, Fault> {
    let mut rest = block;
    let mut found = Vec::new();
    while let Some(first) = rest.first().copied() {
        let (kind, bits) = match first {
            0x80.. => (Some(Representation::Indexed), 7),
            0x40.. => (Some(Representation::Indexing), 6),
            // A change of the table's size is no field.
            0x20.. => (None, 5),
            0x10.. => (Some(Representation::NeverIndexed), 4),
            _ => (Some(Representation::Literal), 4),
        };
        let index = skip_integer(&mut rest, bits)?;
        if let Some(kind) = kind {
            found.push(kind);
            if kind != Representation::Indexed {
                let strings = if index == 0 { 2 } else { 1 };
                for _ in 0..strings {
                    let length = skip_integer(&mut rest, 7)?;
                    rest = rest.get(length..).ok_or(Fault::Truncated)?;
                }
            }
        }
    }
    Ok(found)
}

fn skip_integer(rest: &mut &[u8], bits: u32) -> Result<usize, Fault> {
    let most = (1 << bits) - 1;
    let (first, mut tail) = rest.split_first().ok_or(Fault::Truncated)?;
    let mut value = usize::from(*first) & most;
    if value == most {
        for shift in (0..28).step_by(7) {
            let (byte, more) = tail.split_first().ok_or(Fault::Truncated)?;
            tail = more;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = tail;
    Ok(value)
}

/// A field section as it arrived.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its stream.
    pub stream: u32,
    /// Its fields, pseudo-header fields included.
    pub headers: Headers,
    /// How each of them was represented.
    pub representations: Vec<Representation>,
    /// Whether the stream ends with it.
    pub end: bool,
}

/// A connection that is read and written frame by frame, either side of it.
pub struct Frames<W> {
    wire: W,
    decoder: Decoder<'static>,
    /// Requests that are not whole.
    begun: BTreeMap<u32, Request>,
    /// The other side's first SETTINGS, once it was read.
    pub settings: Option<Frame>,
    /// Whether SETTINGS and PING of the other side are acknowledged as they are read.
    pub acknowledges: bool,
}

impl<W: BorrowMut<Wire>> Frames<W> {
    /// A client's side: sends the preface and these settings.
    ///
    /// # Errors
    /// If the other side does not take them.
    pub fn connect(wire: W, settings: &[(u16, u32)]) -> Result<Frames<W>, Fault> {
        let mut frames = Frames::new(wire);
        frames.send_bytes(&[PREFACE, &Frame::settings(settings).bytes()].concat())?;
        Ok(frames)
    }

    /// A server's side: waits for the preface, then sends these settings.
    ///
    /// # Errors
    /// [`Fault::Closed`] if nothing came, [`Fault::Malformed`] if something else came.
    pub fn accept(wire: W, settings: &[(u16, u32)]) -> Result<Frames<W>, Fault> {
        let mut frames = Frames::new(wire);
        let preface = frames.wire.borrow_mut().exactly_or_closed(PREFACE.len())?;
        if preface != PREFACE {
            return Err(Fault::Malformed(format!("preface {}", preface.escape_ascii())));
        }
        frames.send(&Frame::settings(settings))?;
        Ok(frames)
    }

    fn new(wire: W) -> Frames<W> {
        let begun = BTreeMap::new();
        Frames { wire, decoder: Decoder::new(), begun, settings: None, acknowledges: true }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// If the other side does not take it.
    pub fn send(&mut self, frame: &Frame) -> Result<(), Fault> {
        self.send_bytes(&frame.bytes())
    }

    /// Sends frames in one write.
    ///
    /// # Errors
    /// If the other side does not take them.
    pub fn send_all(&mut self, frames: &[Frame]) -> Result<(), Fault> {
        self.send_bytes(&frames.iter().flat_map(Frame::bytes).collect::<Vec<u8>>())
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// If the other side does not take them.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        Ok(self.wire.borrow_mut().stream().write_all(bytes)?)
    }

    /// The connection below.
    pub fn wire(&mut self) -> &mut Wire {
        self.wire.borrow_mut()
    }

    /// The next frame, whatever it is.
    ///
    /// # Errors
    /// [`Fault::Closed`] where a frame could have begun, else what is wrong.
    #[expect(clippy::should_implement_trait, reason = "it fails, and so is no iterator")]
    pub fn next(&mut self) -> Result<Frame, Fault> {
        let wire = self.wire.borrow_mut();
        let head = wire.exactly_or_closed(9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let frame = Frame { kind: head[3], flags: head[4], stream, payload: wire.exactly(length)? };
        if self.acknowledges && !frame.has(flag::ACK) {
            // What it does not take, it does not want any more.
            match frame.kind {
                kind::SETTINGS => drop(self.send(&Frame::settings_ack())),
                kind::PING => {
                    let pong = Frame { flags: flag::ACK, ..frame.clone() };
                    drop(self.send(&pong));
                }
                _ => {}
            }
        }
        if frame.kind == kind::SETTINGS && !frame.has(flag::ACK) && self.settings.is_none() {
            self.settings = Some(frame.clone());
        }
        Ok(frame)
    }

    /// The next frame of that kind; others are skipped. Field sections among them are decoded, or
    /// the decoder would lose its table.
    ///
    /// # Errors
    /// As [`next`](Frames::next).
    pub fn next_of(&mut self, kind: u8) -> Result<Frame, Fault> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind {
                return Ok(frame);
            }
            if frame.kind == kind::HEADERS {
                self.section(&frame)?;
            }
        }
    }

    /// The next field section of any stream; other frames are skipped.
    ///
    /// # Errors
    /// As [`next`](Frames::next).
    pub fn next_section(&mut self) -> Result<Section, Fault> {
        let frame = self.next_of(kind::HEADERS)?;
        self.section(&frame)
    }

    /// Sends a PING and reads until it is answered: all that was sent before has been seen then.
    /// Returns the frames in between.
    ///
    /// # Errors
    /// As [`next`](Frames::next).
    pub fn round_trip(&mut self) -> Result<Vec<Frame>, Fault> {
        self.send(&Frame::ping(ROUND_TRIP))?;
        let mut between = Vec::new();
        loop {
            let frame = self.next()?;
            if frame.kind == kind::PING && frame.payload == ROUND_TRIP.to_be_bytes() {
                return Ok(between);
            }
            between.push(frame);
        }
    }

    /// Reads until a request is whole, the first of those that are under way, and gives back what
    /// they take of the windows. What is reset before it is whole never was.
    ///
    /// # Errors
    /// [`Fault::Closed`] if there is none, else what is wrong.
    pub fn request(&mut self) -> Result<(u32, Request), Fault> {
        loop {
            let frame = self.next()?;
            match frame.kind {
                kind::HEADERS => {
                    let section = self.section(&frame)?;
                    match self.begun.get_mut(&frame.stream) {
                        Some(begun) => begun.trailers = section.headers,
                        None => drop(self.begun.insert(frame.stream, request(&section.headers))),
                    }
                }
                kind::DATA => {
                    self.give_back(&frame)?;
                    if let Some(begun) = self.begun.get_mut(&frame.stream) {
                        begun.body.extend_from_slice(frame.content()?);
                    }
                }
                kind::RST_STREAM => drop(self.begun.remove(&frame.stream)),
                _ => {}
            }
            if matches!(frame.kind, kind::HEADERS | kind::DATA)
                && frame.has(flag::END_STREAM)
                && let Some(whole) = self.begun.remove(&frame.stream)
            {
                return Ok((frame.stream, whole));
            }
        }
    }

    /// Reads the final response of a stream, its body and its trailers; frames of other streams
    /// are skipped.
    ///
    /// # Errors
    /// [`Fault::Stream`] if it is reset, [`Fault::GoAway`] if the connection is given up with an
    /// error.
    pub fn response(&mut self, stream: u32) -> Result<Response, Fault> {
        loop {
            let section = self.section_of(stream)?;
            let mut response = response(&section.headers)?;
            if response.status >= 200 {
                if !section.end {
                    (response.body, response.trailers) = self.body(stream)?;
                }
                return Ok(response);
            }
        }
    }

    /// Sends a GET and reads its response.
    ///
    /// # Errors
    /// As [`response`](Frames::response).
    pub fn get(&mut self, stream: u32, path: &str) -> Result<Response, Fault> {
        self.send(&Frame::headers(stream, &get(path), true))?;
        self.response(stream)
    }

    /// Reads until the other side gives the connection up; returns the code and the last stream of
    /// its last GOAWAY, if there was one.
    ///
    /// # Errors
    /// [`Fault::Silent`] if it does not.
    pub fn until_close(&mut self) -> Result<Option<(u32, u32)>, Fault> {
        let mut goaway = None;
        loop {
            match self.next() {
                Ok(frame) if frame.kind == kind::GOAWAY => {
                    goaway = Some((frame.number(4), frame.number(0)));
                }
                Ok(_) => {}
                Err(Fault::Silent) => return Err(Fault::Silent),
                Err(_) => return Ok(goaway),
            }
        }
    }

    fn section_of(&mut self, stream: u32) -> Result<Section, Fault> {
        loop {
            let frame = self.next()?;
            self.check_end(&frame, stream)?;
            if frame.kind == kind::HEADERS {
                let section = self.section(&frame)?;
                if section.stream == stream {
                    return Ok(section);
                }
            }
        }
    }

    /// The fields that begin with a HEADERS frame; reads its CONTINUATION frames.
    ///
    /// # Errors
    /// If something else comes between them, or they cannot be decoded.
    pub fn section(&mut self, first: &Frame) -> Result<Section, Fault> {
        let mut block = first.content()?.to_vec();
        let mut complete = first.has(flag::END_HEADERS);
        while !complete {
            let more = self.next()?;
            if more.kind != kind::CONTINUATION || more.stream != first.stream {
                return Err(Fault::Malformed(format!("{more:?} within a field section")));
            }
            block.extend_from_slice(&more.payload);
            complete = more.has(flag::END_HEADERS);
        }
        let fields = self.decoder.decode(&block);
        let fields = fields.map_err(|error| Fault::Malformed(format!("HPACK: {error:?}")))?;
        Ok(Section {
            stream: first.stream,
            headers: Headers::from_bytes(fields),
            representations: representations(&block)?,
            end: first.has(flag::END_STREAM),
        })
    }

    /// DATA of a stream and its trailers, giving back what they take of the windows.
    fn body(&mut self, stream: u32) -> Result<(Vec<u8>, Headers), Fault> {
        let mut body = Vec::new();
        loop {
            let frame = self.next()?;
            self.check_end(&frame, stream)?;
            match frame.kind {
                kind::DATA => {
                    self.give_back(&frame)?;
                    if frame.stream == stream {
                        body.extend_from_slice(frame.content()?);
                        if frame.has(flag::END_STREAM) {
                            return Ok((body, Headers::default()));
                        }
                    }
                }
                kind::HEADERS => {
                    let section = self.section(&frame)?;
                    if section.stream == stream {
                        return match section.end {
                            true => Ok((body, section.headers)),
                            false => Err(Fault::Malformed("trailers that end nothing".to_owned())),
                        };
                    }
                }
                _ => {}
            }
        }
    }

    fn give_back(&mut self, data: &Frame) -> Result<(), Fault> {
        let Ok(length @ 1..) = u32::try_from(data.payload.len()) else { return Ok(()) };
        let mut updates = vec![Frame::window_update(0, length)];
        if !data.has(flag::END_STREAM) {
            updates.push(Frame::window_update(data.stream, length));
        }
        self.send_all(&updates)
    }

    fn check_end(&self, frame: &Frame, stream: u32) -> Result<(), Fault> {
        match frame.kind {
            kind::RST_STREAM if frame.stream == stream => Err(Fault::Stream(frame.number(0))),
            kind::GOAWAY if frame.number(4) != code::NO_ERROR || frame.number(0) < stream => {
                Err(Fault::GoAway(frame.number(4)))
            }
            _ => Ok(()),
        }
    }
}

impl<W> fmt::Debug for Frames<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The pseudo-header fields of a GET.
#[must_use]
pub fn get(path: &str) -> [(&str, &str); 4] {
    [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", path)]
}

/// The pseudo-header fields of a POST.
#[must_use]
pub fn post(path: &str) -> [(&str, &str); 4] {
    [(":method", "POST"), (":scheme", "http"), (":authority", "test"), (":path", path)]
}

/// A request from its pseudo-header fields, which stay among the others but for method and path.
pub(crate) fn request(fields: &Headers) -> Request {
    let pseudo = |name| fields.get(name).unwrap_or_default().to_owned();
    Request {
        method: pseudo(":method"),
        target: pseudo(":path"),
        version: "HTTP/2".to_owned(),
        headers: fields.without(&[":method", ":path"]),
        body: Vec::new(),
        trailers: Headers::default(),
        raw: Vec::new(),
    }
}

fn response(fields: &Headers) -> Result<Response, Fault> {
    let status = fields.get(":status").and_then(|status| status.parse().ok());
    Ok(Response {
        version: "HTTP/2".to_owned(),
        status: status.ok_or_else(|| Fault::Malformed(format!("no status in {fields:?}")))?,
        reason: String::new(),
        headers: fields.without(&[":status"]),
        body: Vec::new(),
        trailers: Headers::default(),
    })
}

/// The opaque bytes of our own PINGs.
const ROUND_TRIP: u64 = 0x6f75_7472_6967_6772;
