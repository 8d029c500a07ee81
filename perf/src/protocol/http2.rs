//! HTTP/2 with several streams per connection (RFC 9113), plain requests or unary gRPC calls.
//!
//! Every slot of the session is one stream at a time; stream ids count up and a session ends long
//! before they run out. The judgement is that of HTTP/1: status 200 and the body's length, and for
//! gRPC one uncompressed message of the expected length and `grpc-status: 0` in the trailers. What
//! fails one stream ([`Fault::Status`], [`Fault::Refused`], ...) leaves the others alone.

use std::sync::Arc;

use super::{Ended, Fault, Protocol, Session};
use crate::http2::{
    Malformed,
    wire::{
        Body, CANCEL, Event, Frame, Frames, MESSAGE_PREFIX_BYTES, Wire, message_prefix,
        put_headers, put_reset,
    },
};

/// Most streams asked for: RFC 9113 section 6.5.2 wants every peer to admit 100, so requests can be
/// sent before its settings are known.
pub const STREAMS_MAX: usize = 100;
/// Stream id from which on the connection takes no more requests; the ids end at 2^31.
const STREAM_ID_LAST: u32 = 0x7fff_0000;

/// HTTP/2 load: the same request again and again.
#[derive(Debug, Clone)]
pub struct Http2 {
    options: Arc<Http2Options>,
}

/// What to send and what to expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http2Options {
    /// `https` instead of `http` as `:scheme`.
    pub secure: bool,
    /// Value of `:authority`.
    pub authority: String,
    /// Value of `:path`.
    pub path: String,
    /// Streams in flight at a time, up to [`STREAMS_MAX`].
    pub streams: usize,
    /// What a request is.
    pub call: Call,
    /// Length that every response body must have; any when `None`.
    pub expected_body: Option<u64>,
    /// One request, then the connection takes no more.
    pub close: bool,
}

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// GET.
    Get,
    /// POST with a body of so many bytes.
    Post(usize),
    /// A unary gRPC call with a message of so many bytes. The response must be one too: the expected
    /// body is its message and the 5 bytes before it.
    Grpc(usize),
}

impl Http2 {
    /// Prepares the request.
    #[must_use]
    pub fn new(options: Http2Options) -> Self {
        let streams = options.streams.clamp(1, STREAMS_MAX);
        Self { options: Arc::new(Http2Options { streams, ..options }) }
    }
}

impl Protocol for Http2 {
    type Session = Http2Session;

    fn session(&self) -> Http2Session {
        // What opens the connection is made here, because the session's state begins with it.
        let mut opening = Vec::new();
        let wire = Wire::open(true, None, &mut opening);
        let slots = self.options.streams;
        Http2Session {
            options: Arc::clone(&self.options),
            wire,
            opening,
            frames: Frames::default(),
            ids: vec![0; slots],
            streams: vec![Stream::default(); slots],
            next_id: 1,
            block: Vec::new(),
            block_repeats: false,
            settled: false,
            acknowledged: false,
            reusable: true,
        }
    }

    fn slots(&self) -> usize {
        self.options.streams
    }
}

/// One connection's streams.
#[derive(Debug)]
pub struct Http2Session {
    options: Arc<Http2Options>,
    wire: Wire,
    opening: Vec<u8>,
    frames: Frames,
    /// Stream id of each slot, 0 when free.
    ids: Vec<u32>,
    streams: Vec<Stream>,
    next_id: u32,
    /// The request's header block.
    block: Vec<u8>,
    /// Its encoding is the same next time.
    block_repeats: bool,
    /// The peer's settings came.
    settled: bool,
    /// The peer took ours.
    acknowledged: bool,
    reusable: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// Request body not sent yet because of the windows.
    unsent: Option<Body>,
    window: i64,
    /// The final response head came.
    answered: bool,
    body_bytes: u64,
    grpc_status: Option<u32>,
    /// What is wrong with the response; known before it ends.
    fault: Option<Fault>,
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Session for Http2Session {
    fn open(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.opening);
    }

    fn is_open(&self) -> bool {
        self.settled && self.acknowledged
    }

    fn request(&mut self, slot: usize, out: &mut Vec<u8>) {
        let id = self.next_id;
        self.next_id += 2;
        self.reusable &= self.next_id < STREAM_ID_LAST && !self.options.close;
        self.ids[slot] = id;
        self.streams[slot] = Stream { window: self.wire.stream_window(), ..Stream::default() };
        if !self.block_repeats {
            self.encode_head();
        }
        let body = match self.options.call {
            Call::Get => None,
            Call::Post(bytes) => (bytes > 0).then(|| Body::plain(bytes)),
            Call::Grpc(bytes) => Some(Body::message(bytes)),
        };
        put_headers(out, id, &self.block, body.is_none());
        self.streams[slot].unsent = body;
        self.send_body(slot, out);
    }

    fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        ended: &mut Vec<Ended>,
    ) -> Result<(), Fault> {
        let mut frames = std::mem::take(&mut self.frames);
        let fed = frames.feed(input, |frame| self.on_frame(frame, out, ended));
        self.frames = frames;
        fed
    }

    fn skippable(&self) -> u64 {
        0
    }

    fn skip(&mut self, _count: u64, _ended: &mut Vec<Ended>) -> Result<(), Fault> {
        Ok(())
    }

    fn finish(&mut self, _ended: &mut Vec<Ended>) -> Result<(), Fault> {
        if self.ids.iter().all(|id| *id == 0) { Ok(()) } else { Err(Fault::Closed) }
    }

    fn is_reusable(&self) -> bool {
        self.reusable
    }
}

impl Http2Session {
    /// Makes the request's header block; `:path` is the one field that usual clients don't index.
    fn encode_head(&mut self) {
        let Http2Options { secure, authority, path, call, .. } = &*self.options;
        let (encoder, block) = (&mut self.wire.encoder, &mut self.block);
        let method = if *call == Call::Get { "GET" } else { "POST" };
        let scheme = if *secure { "https" } else { "http" };
        block.clear();
        encoder.begin(block);
        let before = block.len();
        let mut repeats = encoder.repeated(":method", method, block);
        repeats &= encoder.repeated(":scheme", scheme, block);
        encoder.once(":path", path, block);
        repeats &= encoder.repeated(":authority", authority, block);
        repeats &= encoder.repeated("user-agent", "outrigger-perf", block);
        if let Call::Grpc(_) = call {
            repeats &= encoder.repeated("te", "trailers", block);
            repeats &= encoder.repeated("content-type", "application/grpc", block);
        } else {
            repeats &= encoder.repeated("accept", "*/*", block);
        }
        if let Call::Post(bytes) = call {
            repeats &= encoder.repeated("content-type", "application/octet-stream", block);
            encoder.once("content-length", &bytes.to_string(), block);
        }
        self.block_repeats = repeats && before == 0;
    }

    fn on_frame(
        &mut self,
        frame: Frame<'_>,
        out: &mut Vec<u8>,
        ended: &mut Vec<Ended>,
    ) -> Result<(), Fault> {
        match self.wire.on_frame(frame, out)? {
            Event::Nothing => {}
            Event::Acknowledged => self.acknowledged = true,
            Event::Settings { window_change, streams_max } => {
                self.settled = true;
                self.block_repeats = false;
                if streams_max.is_some_and(|most| (most as usize) < self.streams.len()) {
                    return Err(Fault::Refused);
                }
                for stream in &mut self.streams {
                    stream.window += window_change;
                }
                self.send_bodies(out);
            }
            Event::Window { stream: 0, .. } => self.send_bodies(out),
            Event::Window { stream, more } => {
                if let Some(slot) = self.slot(stream) {
                    self.streams[slot].window += more;
                    self.send_body(slot, out);
                }
            }
            Event::GoAway { last } => {
                self.reusable = false;
                for slot in 0..self.ids.len() {
                    if self.ids[slot] > last {
                        self.refused(slot, ended);
                    }
                }
            }
            Event::Reset { stream } => {
                // Of a stream that ended before it says nothing new.
                if let Some(slot) = self.slot(stream) {
                    self.refused(slot, ended);
                }
            }
            Event::Headers { stream, end } => {
                let slot = self.slot(stream).ok_or(Fault::Malformed)?;
                self.on_fields(slot, end)?;
                if end {
                    self.end(slot, out, ended);
                }
            }
            Event::Data { stream, data, end } => {
                let slot = self.slot(stream).ok_or(Fault::Malformed)?;
                self.on_data(slot, data)?;
                if end {
                    self.end(slot, out, ended);
                }
            }
        }
        Ok(())
    }

    fn slot(&self, stream: u32) -> Option<usize> {
        self.ids.iter().position(|id| *id == stream)
    }

    /// Reads a response head or trailers.
    fn on_fields(&mut self, slot: usize, end: bool) -> Result<(), Fault> {
        let stream = &mut self.streams[slot];
        let mut status = None;
        for (name, value) in self.wire.fields().iter() {
            match name {
                b":status" => status = Some(decimal(value).ok_or(Fault::Malformed)?),
                b"grpc-status" => {
                    stream.grpc_status = Some(decimal(value).ok_or(Fault::Malformed)?);
                }
                _ => {}
            }
        }
        match (stream.answered, status) {
            (false, Some(100..200)) if !end => {}
            (false, Some(status)) => {
                stream.answered = true;
                if status != 200 {
                    stream.fault = Some(Fault::Status);
                }
            }
            (true, None) if end => {}
            _ => return Err(Fault::Malformed),
        }
        Ok(())
    }

    fn on_data(&mut self, slot: usize, data: &[u8]) -> Result<(), Fault> {
        let stream = &mut self.streams[slot];
        if !stream.answered {
            return Err(Fault::Malformed);
        }
        let at = stream.body_bytes;
        stream.body_bytes += data.len() as u64;
        if let (Call::Grpc(_), Some(expected)) = (self.options.call, self.options.expected_body)
            && at < MESSAGE_PREFIX_BYTES as u64
        {
            let message =
                usize::try_from(expected).unwrap_or(0).saturating_sub(MESSAGE_PREFIX_BYTES);
            let prefix = &message_prefix(message)[at as usize..];
            if prefix.iter().zip(data).any(|(expected, found)| expected != found) {
                stream.fault = stream.fault.or(Some(Fault::Length));
            }
        }
        Ok(())
    }

    /// The peer will not answer.
    fn refused(&mut self, slot: usize, ended: &mut Vec<Ended>) {
        self.ids[slot] = 0;
        self.streams[slot].unsent = None;
        ended.push(Ended { slot, outcome: Err(Fault::Refused) });
    }

    /// The response is complete.
    fn end(&mut self, slot: usize, out: &mut Vec<u8>, ended: &mut Vec<Ended>) {
        let stream = &mut self.streams[slot];
        if stream.unsent.take().is_some() {
            // Nobody wants the rest of the request.
            put_reset(out, self.ids[slot], CANCEL);
        }
        self.ids[slot] = 0;
        let grpc = matches!(self.options.call, Call::Grpc(_));
        let wrong = self.options.expected_body.is_some_and(|bytes| bytes != stream.body_bytes);
        let fault = match stream.fault {
            None if grpc && stream.grpc_status != Some(0) => Some(Fault::Grpc),
            None if wrong => Some(Fault::Length),
            fault => fault,
        };
        ended.push(Ended { slot, outcome: fault.map_or(Ok(stream.body_bytes), Err) });
    }

    fn send_bodies(&mut self, out: &mut Vec<u8>) {
        for slot in 0..self.streams.len() {
            self.send_body(slot, out);
        }
    }

    fn send_body(&mut self, slot: usize, out: &mut Vec<u8>) {
        let Stream { unsent, window, .. } = &mut self.streams[slot];
        if let Some(body) = unsent
            && self.wire.send_body(self.ids[slot], window, body, true, out)
        {
            *unsent = None;
        }
    }
}

fn decimal(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::PREFACE;

    fn session(call: Call, expected_body: Option<u64>) -> Http2Session {
        Http2::new(Http2Options {
            secure: false,
            authority: "h".to_owned(),
            path: "/".to_owned(),
            streams: 3,
            call,
            expected_body,
            close: false,
        })
        .session()
    }

    /// A session with its preface and three requests sent.
    fn busy(call: Call, expected_body: Option<u64>) -> Http2Session {
        let mut session = session(call, expected_body);
        let mut out = Vec::new();
        session.open(&mut out);
        assert!(out.starts_with(PREFACE));
        for slot in 0..3 {
            session.request(slot, &mut out);
        }
        session
    }

    fn bytes(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
    }

    fn feed(session: &mut Http2Session, frames: &[Vec<u8>]) -> (Result<(), Fault>, Vec<Ended>) {
        let mut ended = Vec::new();
        let fed = session.feed(&frames.concat(), &mut Vec::new(), &mut ended);
        (fed, ended)
    }

    fn over(slot: usize, outcome: Result<u64, Fault>) -> Ended {
        Ended { slot, outcome }
    }

    const HEADERS: u8 = 1;
    const DATA: u8 = 0;
    const GRPC_OK: &[u8] = b"\x00\x0bgrpc-status\x010";
    const GRPC_BAD: &[u8] = b"\x00\x0bgrpc-status\x0213";

    #[test]
    fn responses_in_any_order() {
        let mut session = busy(Call::Get, Some(2));
        let frames = [
            bytes(HEADERS, 4, 5, b"\x88"),
            bytes(HEADERS, 4, 1, b"\x88"),
            bytes(DATA, 0, 5, b"a"),
            bytes(DATA, 1, 1, b"bb"),
            bytes(DATA, 0, 5, b"c"),
            bytes(DATA, 1, 5, b""),
        ];
        assert_eq!(feed(&mut session, &frames), (Ok(()), vec![over(0, Ok(2)), over(2, Ok(2))]));
        assert_eq!(session.finish(&mut Vec::new()), Err(Fault::Closed));
        // The next request in a slot is a new stream.
        session.request(0, &mut Vec::new());
        assert_eq!(session.ids, [7, 3, 0]);
    }

    #[test]
    fn a_bad_response_fails_its_stream_only() {
        let frames = [
            bytes(HEADERS, 5, 1, b"\x8d"),
            bytes(3, 0, 3, b"\0\0\0\x07"),
            bytes(HEADERS, 4, 5, b"\x88"),
            bytes(DATA, 1, 5, b"abc"),
        ];
        let faults = [Fault::Status, Fault::Refused, Fault::Length];
        let ended = (0..3).map(|slot| over(slot, Err(faults[slot]))).collect();
        let mut session = busy(Call::Get, Some(2));
        assert_eq!(feed(&mut session, &frames), (Ok(()), ended));
        assert!(session.is_reusable());
    }

    #[test]
    fn interim_responses_are_passed_over() {
        let interim = bytes(HEADERS, 4, 1, b"\x08\x03100");
        let frames = [interim, bytes(HEADERS, 5, 1, b"\x88")];
        let ended = vec![over(0, Ok(0))];
        assert_eq!(feed(&mut busy(Call::Get, Some(0)), &frames), (Ok(()), ended));
    }

    #[test]
    fn calls_need_their_message_and_status() {
        let head = |stream| bytes(HEADERS, 4, stream, b"\x88");
        let message = |stream, prefix: &[u8]| bytes(DATA, 0, stream, &[prefix, b"ab"].concat());
        let frames = [
            head(1),
            message(1, b"\0\0\0\0\x02"),
            bytes(HEADERS, 5, 1, GRPC_OK),
            head(3),
            message(3, b"\0\0\0\0\x03"),
            bytes(HEADERS, 5, 3, GRPC_OK),
            bytes(HEADERS, 5, 5, &[b"\x88", GRPC_BAD].concat()),
        ];
        let ended = vec![over(0, Ok(7)), over(1, Err(Fault::Length)), over(2, Err(Fault::Grpc))];
        assert_eq!(feed(&mut busy(Call::Grpc(2), Some(7)), &frames), (Ok(()), ended));
        // Without trailers there is no status.
        let frames = [head(1), bytes(DATA, 1, 1, b"\0\0\0\0\x02ab")];
        let ended = vec![over(0, Err(Fault::Grpc))];
        assert_eq!(feed(&mut busy(Call::Grpc(2), Some(7)), &frames), (Ok(()), ended));
    }

    #[test]
    fn settings_windows_and_goaway() {
        let mut session = session(Call::Post(10), None);
        session.open(&mut Vec::new());
        assert!(!session.is_open());
        let settings = bytes(4, 0, 0, b"\0\x04\0\0\0\x04");
        assert_eq!(feed(&mut session, &[settings, bytes(4, 1, 0, b"")]).0, Ok(()));
        assert!(session.is_open());
        let mut out = Vec::new();
        session.request(1, &mut out);
        assert!(out.ends_with(&bytes(DATA, 0, 1, b"xxxx")));
        out.clear();
        let more = bytes(8, 0, 1, b"\0\0\0\x20");
        assert_eq!(session.feed(&more, &mut out, &mut Vec::new()), Ok(()));
        assert_eq!(out, bytes(DATA, 1, 1, b"xxxxxx"));
        session.request(0, &mut out);
        let goaway = bytes(7, 0, 0, b"\0\0\0\x01\0\0\0\0");
        let ended = vec![over(0, Err(Fault::Refused))];
        assert_eq!(feed(&mut session, &[goaway]), (Ok(()), ended));
        assert!(!session.is_reusable());
    }

    #[test]
    fn connection_faults() {
        let cases = [
            (bytes(HEADERS, 5, 7, b"\x88"), Fault::Malformed),
            (bytes(DATA, 1, 1, b""), Fault::Malformed),
            (bytes(HEADERS, 4, 1, b"\x82"), Fault::Malformed),
            (bytes(4, 0, 0, b"\0\x03\0\0\0\x02"), Fault::Refused),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Fault::Malformed),
        ];
        for (frames, fault) in cases {
            assert_eq!(feed(&mut busy(Call::Get, None), &[frames]).0, Err(fault));
        }
    }

    #[test]
    fn one_request_when_the_connection_is_to_close() {
        let mut session = Http2::new(Http2Options {
            secure: true,
            authority: "h".to_owned(),
            path: "/".to_owned(),
            streams: 1,
            call: Call::Get,
            expected_body: None,
            close: true,
        })
        .session();
        assert!(session.is_reusable());
        session.request(0, &mut Vec::new());
        assert!(!session.is_reusable());
    }
}
