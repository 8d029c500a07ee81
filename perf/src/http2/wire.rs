//! One side of an HTTP/2 connection below its streams: frames, header blocks, settings, windows.
//!
//! [`Wire::on_frame`] answers what the connection itself must answer (SETTINGS, PING, its receive
//! window) and tells the rest as [`Event`]s. The receive windows are wide enough that they never
//! slow a measurement; the peer's are respected. Bodies are sent by [`Wire::send_body`], which says
//! when a window is exhausted; the owner of the stream calls again after an [`Event::Window`].

use super::{
    FRAME_BYTES_MAX, Malformed,
    hpack::{Decoder, Encoder, Fields},
};

/// Window of each of our streams and of the connection. No response is longer, so streams need no
/// updates.
const WINDOW_BYTES: u32 = 1 << 30;
/// Window of everything before anybody says otherwise (RFC 9113 section 6.9.2).
const WINDOW_BYTES_INITIAL: u32 = 65_535;
/// Received bytes after which the connection's window is opened again.
const WINDOW_UPDATE_BYTES: u32 = WINDOW_BYTES / 2;
/// Largest header block, over all its frames.
const BLOCK_BYTES_MAX: usize = 256 * 1024;
const FRAME_HEAD_BYTES: usize = 9;

/// Frame types (RFC 9113 section 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

/// Flags; ACK has the bit that END_STREAM has elsewhere.
mod flag {
    pub(super) const ACK: u8 = 0x1;
    pub(super) const END_STREAM: u8 = 0x1;
    pub(super) const END_HEADERS: u8 = 0x4;
    pub(super) const PADDED: u8 = 0x8;
    pub(super) const PRIORITY: u8 = 0x20;
}

/// Settings (RFC 9113 section 6.5.2).
mod setting {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
}

/// Code of RST_STREAM for a stream whose rest nobody wants (RFC 9113 section 7).
pub const CANCEL: u32 = 8;

/// A complete frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

/// Cuts received bytes into frames.
#[derive(Debug, Default)]
pub struct Frames {
    /// The beginning of a frame whose end is not here yet.
    held: Vec<u8>,
}

/// What a frame means to the owner of the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Nothing.
    Nothing,
    /// A header block is complete; its fields are in [`Wire::fields`].
    Headers {
        /// Of this stream.
        stream: u32,
        /// Nothing follows.
        end: bool,
    },
    /// A piece of body.
    Data {
        /// Of this stream.
        stream: u32,
        /// Without padding.
        data: &'a [u8],
        /// Nothing follows.
        end: bool,
    },
    /// The peer gave a stream up.
    Reset {
        /// This one.
        stream: u32,
    },
    /// The peer's settings came.
    Settings {
        /// What changed in the window of every stream.
        window_change: i64,
        /// Streams that the peer admits at a time, if it said.
        streams_max: Option<u32>,
    },
    /// The peer has taken our settings.
    Acknowledged,
    /// The peer takes more.
    Window {
        /// On this stream, or on the connection when 0.
        stream: u32,
        /// Bytes.
        more: i64,
    },
    /// The peer takes no new streams.
    GoAway {
        /// The last stream that it will serve.
        last: u32,
    },
}

/// A body on its way out: constant bytes, behind the prefix of a gRPC message if it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    /// All bytes, the prefix included.
    pub bytes: usize,
    /// A gRPC message.
    pub message: bool,
    sent: usize,
}

/// Bytes before each gRPC message: a compression flag and the length.
pub const MESSAGE_PREFIX_BYTES: usize = 5;

/// What goes before a gRPC message of so many bytes.
#[must_use]
pub fn message_prefix(bytes: usize) -> [u8; MESSAGE_PREFIX_BYTES] {
    let length = u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    [0, length[0], length[1], length[2], length[3]]
}

impl Body {
    /// So many bytes without a structure.
    #[must_use]
    pub fn plain(bytes: usize) -> Self {
        Self { bytes, message: false, sent: 0 }
    }

    /// One gRPC message of so many bytes.
    #[must_use]
    pub fn message(bytes: usize) -> Self {
        Self { bytes: bytes + MESSAGE_PREFIX_BYTES, message: true, sent: 0 }
    }

    fn put(&mut self, count: usize, out: &mut Vec<u8>) {
        const FILLING: u8 = b'x';
        let end = out.len() + count;
        if self.message && self.sent < MESSAGE_PREFIX_BYTES {
            let prefix = message_prefix(self.bytes - MESSAGE_PREFIX_BYTES);
            let prefix = &prefix[self.sent..];
            out.extend_from_slice(&prefix[..prefix.len().min(count)]);
        }
        out.resize(end, FILLING);
        self.sent += count;
    }
}

impl Frames {
    /// Hands every frame that is complete with `input` to `each`.
    ///
    /// # Errors
    ///
    /// The first error of `each`, or that of a frame that is too long.
    pub fn feed<E: From<Malformed>>(
        &mut self,
        mut input: &[u8],
        mut each: impl FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !self.held.is_empty() {
            let wanted = match frame_bytes(&self.held)? {
                None => FRAME_HEAD_BYTES,
                Some(bytes) if bytes == self.held.len() => {
                    each(frame(&self.held))?;
                    self.held.clear();
                    break;
                }
                Some(bytes) => bytes,
            };
            let taken = (wanted - self.held.len()).min(input.len());
            self.held.extend_from_slice(&input[..taken]);
            input = &input[taken..];
            if self.held.len() < wanted {
                return Ok(());
            }
        }
        while let Some(bytes) = frame_bytes(input)? {
            let Some((whole, rest)) = input.split_at_checked(bytes) else { break };
            each(frame(whole))?;
            input = rest;
        }
        self.held.extend_from_slice(input);
        Ok(())
    }
}

/// Length of the frame that begins here; `None` when even its head is incomplete.
fn frame_bytes(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    if bytes.len() < FRAME_HEAD_BYTES {
        return Ok(None);
    }
    let payload = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
    if payload > FRAME_BYTES_MAX { Err(Malformed) } else { Ok(Some(FRAME_HEAD_BYTES + payload)) }
}

/// A frame out of all its bytes.
fn frame(bytes: &[u8]) -> Frame<'_> {
    let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]) & (u32::MAX >> 1);
    Frame { kind: bytes[3], flags: bytes[4], stream, payload: &bytes[FRAME_HEAD_BYTES..] }
}

/// One side of a connection.
#[derive(Debug)]
pub struct Wire {
    decoder: Decoder,
    /// For header blocks that we send.
    pub encoder: Encoder,
    fields: Fields,
    /// A header block that goes on in the next frame: its stream and whether that ends with it.
    unfinished: Option<(u32, bool)>,
    block: Vec<u8>,
    /// What the peer takes on the connection; never negative.
    window: i64,
    /// What it takes on a new stream.
    stream_window: i64,
    received: u32,
}

impl Wire {
    /// A side that has said its settings (and a client's preface before them) into `out`.
    #[must_use]
    pub fn open(client: bool, streams_max: Option<u32>, out: &mut Vec<u8>) -> Self {
        if client {
            out.extend_from_slice(super::PREFACE);
        }
        let mut settings = Vec::new();
        let mut set = |setting: u16, value: u32| {
            settings.extend_from_slice(&setting.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        };
        if client {
            set(setting::ENABLE_PUSH, 0);
        }
        if let Some(streams_max) = streams_max {
            set(setting::MAX_CONCURRENT_STREAMS, streams_max);
        }
        set(setting::INITIAL_WINDOW_SIZE, WINDOW_BYTES);
        put_frame(out, kind::SETTINGS, 0, 0, &settings);
        put_window_update(out, WINDOW_BYTES - WINDOW_BYTES_INITIAL);
        Self {
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            fields: Fields::default(),
            unfinished: None,
            block: Vec::new(),
            window: WINDOW_BYTES_INITIAL.into(),
            stream_window: WINDOW_BYTES_INITIAL.into(),
            received: 0,
        }
    }

    /// What the peer takes on a new stream.
    #[must_use]
    pub fn stream_window(&self) -> i64 {
        self.stream_window
    }

    /// Fields of the last [`Event::Headers`].
    #[must_use]
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Takes a frame, and appends what the connection answers to it.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when the frame breaks the protocol.
    pub fn on_frame<'a>(
        &mut self,
        frame: Frame<'a>,
        out: &mut Vec<u8>,
    ) -> Result<Event<'a>, Malformed> {
        let Frame { kind, flags, stream, payload } = frame;
        let flagged = |flag: u8| flags & flag != 0;
        if self.unfinished.is_some() != (kind == kind::CONTINUATION) {
            return Err(Malformed);
        }
        let of_stream =
            matches!(kind, kind::DATA | kind::HEADERS | kind::RST_STREAM | kind::CONTINUATION);
        let of_connection = matches!(kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        if (of_stream && stream == 0) || (of_connection && stream != 0) {
            return Err(Malformed);
        }
        Ok(match kind {
            kind::DATA => {
                let data = if flagged(flag::PADDED) { unpadded(payload)? } else { payload };
                self.on_received(payload.len(), out);
                Event::Data { stream, data, end: flagged(flag::END_STREAM) }
            }
            kind::HEADERS => {
                let mut block = if flagged(flag::PADDED) { unpadded(payload)? } else { payload };
                if flagged(flag::PRIORITY) {
                    block = block.get(5..).ok_or(Malformed)?;
                }
                let end = flagged(flag::END_STREAM);
                if flagged(flag::END_HEADERS) {
                    self.decoder.decode(block, &mut self.fields)?;
                    return Ok(Event::Headers { stream, end });
                }
                self.unfinished = Some((stream, end));
                self.block.clear();
                self.block.extend_from_slice(block);
                Event::Nothing
            }
            kind::CONTINUATION => {
                let Some((first, end)) = self.unfinished.filter(|(first, _)| *first == stream)
                else {
                    return Err(Malformed);
                };
                self.block.extend_from_slice(payload);
                if self.block.len() > BLOCK_BYTES_MAX {
                    return Err(Malformed);
                }
                if !flagged(flag::END_HEADERS) {
                    return Ok(Event::Nothing);
                }
                self.unfinished = None;
                self.decoder.decode(&self.block, &mut self.fields)?;
                Event::Headers { stream: first, end }
            }
            kind::RST_STREAM => {
                word(payload)?;
                Event::Reset { stream }
            }
            kind::SETTINGS if flagged(flag::ACK) => Event::Acknowledged,
            kind::SETTINGS => {
                let event = self.on_settings(payload)?;
                put_frame(out, kind::SETTINGS, flag::ACK, 0, &[]);
                event
            }
            // We forbid it, and a client must not.
            kind::PUSH_PROMISE => return Err(Malformed),
            kind::PING => {
                if payload.len() != 8 {
                    return Err(Malformed);
                }
                if !flagged(flag::ACK) {
                    put_frame(out, kind::PING, flag::ACK, 0, payload);
                }
                Event::Nothing
            }
            kind::GOAWAY => Event::GoAway { last: word(payload.get(..4).ok_or(Malformed)?)? },
            kind::WINDOW_UPDATE => {
                let more = i64::from(word(payload)?);
                if stream == 0 {
                    self.window += more;
                }
                if more == 0 || self.window > i64::from(u32::MAX >> 1) {
                    return Err(Malformed);
                }
                Event::Window { stream, more }
            }
            // PRIORITY, and what is to be passed over because it is unknown.
            _ => Event::Nothing,
        })
    }

    fn on_settings(&mut self, payload: &[u8]) -> Result<Event<'static>, Malformed> {
        let (settings, []) = payload.as_chunks::<6>() else { return Err(Malformed) };
        let before = self.stream_window;
        let mut streams_max = None;
        for &[id_high, id_low, value @ ..] in settings {
            let value = u32::from_be_bytes(value);
            match u16::from_be_bytes([id_high, id_low]) {
                setting::HEADER_TABLE_SIZE => self.encoder.limit_table(value),
                setting::MAX_CONCURRENT_STREAMS => streams_max = Some(value),
                setting::INITIAL_WINDOW_SIZE if value > u32::MAX >> 1 => return Err(Malformed),
                setting::INITIAL_WINDOW_SIZE => self.stream_window = value.into(),
                _ => {}
            }
        }
        Ok(Event::Settings { window_change: self.stream_window - before, streams_max })
    }

    /// Opens the connection's window again before it gets narrow.
    fn on_received(&mut self, bytes: usize, out: &mut Vec<u8>) {
        self.received += bytes as u32;
        if self.received >= WINDOW_UPDATE_BYTES {
            put_window_update(out, self.received);
            self.received = 0;
        }
    }

    /// Sends as much of a body as the windows let, END_STREAM with its last byte if `end`; whether
    /// that was all.
    pub fn send_body(
        &mut self,
        stream: u32,
        window: &mut i64,
        body: &mut Body,
        end: bool,
        out: &mut Vec<u8>,
    ) -> bool {
        while body.sent < body.bytes {
            let room = usize::try_from(self.window.min(*window)).unwrap_or(0);
            let count = (body.bytes - body.sent).min(FRAME_BYTES_MAX).min(room);
            if count == 0 {
                return false;
            }
            self.window -= count as i64;
            *window -= count as i64;
            let last = end && body.sent + count == body.bytes;
            put_head(out, count, kind::DATA, if last { flag::END_STREAM } else { 0 }, stream);
            body.put(count, out);
        }
        true
    }
}

impl Wire {
    /// The same of given bytes, of which so many were sent before.
    pub fn send_bytes(
        &mut self,
        stream: u32,
        window: &mut i64,
        body: &[u8],
        sent: &mut usize,
        out: &mut Vec<u8>,
    ) -> bool {
        while *sent < body.len() {
            let room = usize::try_from(self.window.min(*window)).unwrap_or(0);
            let count = (body.len() - *sent).min(FRAME_BYTES_MAX).min(room);
            if count == 0 {
                return false;
            }
            self.window -= count as i64;
            *window -= count as i64;
            let last = *sent + count == body.len();
            put_head(out, count, kind::DATA, if last { flag::END_STREAM } else { 0 }, stream);
            out.extend_from_slice(&body[*sent..*sent + count]);
            *sent += count;
        }
        true
    }
}

/// Appends a whole header block in one frame.
pub fn put_headers(out: &mut Vec<u8>, stream: u32, block: &[u8], end: bool) {
    let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
    put_frame(out, kind::HEADERS, flags, stream, block);
}

/// Gives a stream up.
pub fn put_reset(out: &mut Vec<u8>, stream: u32, code: u32) {
    put_frame(out, kind::RST_STREAM, 0, stream, &code.to_be_bytes());
}

fn put_window_update(out: &mut Vec<u8>, bytes: u32) {
    put_frame(out, kind::WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes());
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    put_head(out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
}

fn put_head(out: &mut Vec<u8>, bytes: usize, kind: u8, flags: u8, stream: u32) {
    let [_, high, middle, low] = (bytes as u32).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    out.extend_from_slice(&[high, middle, low, kind, flags, a, b, c, d]);
}

fn unpadded(payload: &[u8]) -> Result<&[u8], Malformed> {
    let (padding, rest) = payload.split_first().ok_or(Malformed)?;
    let end = rest.len().checked_sub(usize::from(*padding)).ok_or(Malformed)?;
    Ok(&rest[..end])
}

fn word(payload: &[u8]) -> Result<u32, Malformed> {
    let bytes: [u8; 4] = payload.try_into().map_err(|_| Malformed)?;
    Ok(u32::from_be_bytes(bytes) & (u32::MAX >> 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wire() -> (Wire, Vec<u8>) {
        let mut out = Vec::new();
        let wire = Wire::open(true, None, &mut out);
        out.clear();
        (wire, out)
    }

    fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, kind, flags, stream, payload);
        out
    }

    #[test]
    fn answers_for_the_connection() {
        let (mut wire, mut out) = wire();
        let settings =
            [&[0, 4][..], &70_000_u32.to_be_bytes(), &[0, 3], &5_u32.to_be_bytes()].concat();
        let settings = bytes(kind::SETTINGS, 0, 0, &settings);
        let event = wire.on_frame(frame(&settings), &mut out);
        assert_eq!(event, Ok(Event::Settings { window_change: 4465, streams_max: Some(5) }));
        let ping = b"12345678";
        assert_eq!(
            wire.on_frame(frame(&bytes(kind::PING, 0, 0, ping)), &mut out),
            Ok(Event::Nothing)
        );
        let answers = [bytes(kind::SETTINGS, 1, 0, b""), bytes(kind::PING, 1, 0, ping)].concat();
        assert_eq!(out, answers);
    }

    #[test]
    fn takes_padding_priority_and_continuation() {
        let (mut wire, mut out) = wire();
        let padded = bytes(kind::DATA, 0x9, 1, b"\x02abc..");
        assert_eq!(
            wire.on_frame(frame(&padded), &mut out),
            Ok(Event::Data { stream: 1, data: b"abc", end: true })
        );
        let first = bytes(kind::HEADERS, 0x1 | 0x8 | 0x20, 3, b"\x01\0\0\0\0\x10\x88.");
        assert_eq!(wire.on_frame(frame(&first), &mut out), Ok(Event::Nothing));
        let second = bytes(kind::CONTINUATION, 0x4, 3, b"\x8d");
        assert_eq!(
            wire.on_frame(frame(&second), &mut out),
            Ok(Event::Headers { stream: 3, end: true })
        );
        let values: Vec<_> = wire.fields().iter().map(|(_, value)| value.to_vec()).collect();
        assert_eq!(values, [b"200", b"404"]);
    }

    #[test]
    fn refuses_broken_frames() {
        let cases = [
            bytes(kind::DATA, 0, 0, b"x"),
            bytes(kind::DATA, 0x8, 1, b"\x02a"),
            bytes(kind::HEADERS, 0x4, 1, b"\x80"),
            bytes(kind::CONTINUATION, 0x4, 1, b""),
            bytes(kind::SETTINGS, 0, 0, b"12345"),
            bytes(kind::SETTINGS, 0, 1, b""),
            bytes(kind::PING, 0, 0, b"1"),
            bytes(kind::PUSH_PROMISE, 0x4, 1, b"\0\0\0\x02\x82"),
            bytes(kind::WINDOW_UPDATE, 0, 0, b"\0\0\0\0"),
            bytes(kind::WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
            bytes(kind::RST_STREAM, 0, 1, b""),
        ];
        for case in cases {
            let (mut wire, mut out) = wire();
            assert_eq!(wire.on_frame(frame(&case), &mut out), Err(Malformed), "{case:x?}");
        }
        let (mut wire, mut out) = wire();
        let open = bytes(kind::HEADERS, 0, 1, b"\x88");
        assert_eq!(wire.on_frame(frame(&open), &mut out), Ok(Event::Nothing));
        let other = bytes(kind::DATA, 0, 1, b"");
        assert_eq!(wire.on_frame(frame(&other), &mut out), Err(Malformed));
    }

    #[test]
    fn bodies_respect_both_windows() {
        let (mut wire, mut out) = wire();
        let mut body = Body::plain(100_000);
        let mut window = 40_000;
        assert!(!wire.send_body(1, &mut window, &mut body, true, &mut out));
        assert_eq!((window, body.sent), (0, 40_000));
        window += 60_000;
        assert!(!wire.send_body(1, &mut window, &mut body, true, &mut out));
        assert_eq!(body.sent, 65_535);
        let more = bytes(kind::WINDOW_UPDATE, 0, 0, &50_000_u32.to_be_bytes());
        assert_eq!(
            wire.on_frame(frame(&more), &mut Vec::new()),
            Ok(Event::Window { stream: 0, more: 50_000 })
        );
        assert!(wire.send_body(1, &mut window, &mut body, true, &mut out));
        let (mut count, mut frames) = (0, Frames::default());
        let mut ends = Vec::new();
        frames
            .feed::<Malformed>(&out, |frame| {
                count += frame.payload.len();
                ends.push(frame.flags & flag::END_STREAM != 0);
                Ok(())
            })
            .unwrap();
        assert_eq!(count, 100_000);
        assert_eq!(ends.iter().filter(|end| **end).count(), 1);
        assert!(ends[ends.len() - 1]);
    }

    #[test]
    fn messages_have_their_length_before_them() {
        let (mut wire, mut out) = wire();
        let mut body = Body::message(258);
        let mut window = 3;
        assert!(!wire.send_body(1, &mut window, &mut body, false, &mut out));
        window = 1000;
        assert!(wire.send_body(1, &mut window, &mut body, false, &mut out));
        let mut all = Vec::new();
        let mut keep = |frame: Frame<'_>| -> Result<(), Malformed> {
            assert_eq!(frame.flags, 0);
            all.extend_from_slice(frame.payload);
            Ok(())
        };
        Frames::default().feed(&out, &mut keep).unwrap();
        assert_eq!(all.len(), 263);
        assert_eq!(all[..6], [0, 0, 0, 1, 2, b'x']);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 1..6),
            cuts in proptest::collection::vec(0_usize..400, 0..8),
        ) {
            let input: Vec<u8> = payloads.iter().flat_map(|payload| bytes(99, 7, 5, payload)).collect();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % input.len()).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for pair in cuts.windows(2) {
                let fed = frames.feed::<Malformed>(&input[pair[0]..pair[1]], |frame| {
                    found.push(frame.payload.to_vec());
                    Ok(())
                });
                prop_assert_eq!(fed, Ok(()));
            }
            prop_assert_eq!(found, payloads);
        }
    }
}
