//! The origin's HTTP/2: the streams of one connection, and answers as the peer's windows allow.
//!
//! Requests without a body, which are most, are answered as soon as their head is read, and a stream
//! is remembered only as long as one side of it is open. gRPC calls (by content type) get one message
//! and `grpc-status: 0`.

use super::{Asked, Place, Request};
use crate::{
    http2::{
        Malformed,
        wire::{Body, Event, Frame, Frames, Wire, put_headers},
    },
    variant::Version,
};

/// Streams that a client may have open at a time.
const STREAMS_MAX: u32 = 256;

/// One connection.
#[derive(Debug)]
pub(super) struct Streams {
    wire: Wire,
    frames: Frames,
    /// By id, ascending.
    open: Vec<Stream>,
    /// Header block of the last answer, to be used again for an equal one.
    head: Option<(Answer, Vec<u8>)>,
    /// The same of trailers, once they repeat.
    trailers: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Stream {
    id: u32,
    request: Request,
    window: i64,
    /// The answer's body, as far as it has not been sent.
    unsent: Option<Body>,
}

/// What answers look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Body(usize),
    Message,
    NotFound,
}

impl Streams {
    /// A connection whose preface was read; says our settings.
    pub(super) fn open(out: &mut Vec<u8>) -> Self {
        Self {
            wire: Wire::open(false, Some(STREAMS_MAX), out),
            frames: Frames::default(),
            open: Vec::new(),
            head: None,
            trailers: None,
        }
    }

    /// Takes received bytes; appends what is to be said at once, and the requests that are complete.
    pub(super) fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        asked: &mut Vec<Asked>,
    ) -> Result<(), Malformed> {
        let mut frames = std::mem::take(&mut self.frames);
        let fed = frames.feed(input, |frame| self.on_frame(frame, out, asked));
        self.frames = frames;
        fed
    }

    fn on_frame(
        &mut self,
        frame: Frame<'_>,
        out: &mut Vec<u8>,
        asked: &mut Vec<Asked>,
    ) -> Result<(), Malformed> {
        match self.wire.on_frame(frame, out)? {
            Event::Headers { stream: id, end } => {
                match self.place(id) {
                    // Trailers of a request.
                    Ok(_) if end => {}
                    Ok(_) => return Err(Malformed),
                    Err(place) => {
                        let (request, window) = (self.request(), self.wire.stream_window());
                        self.open.insert(place, Stream { id, request, window, unsent: None });
                    }
                }
                self.on_part(id, end, asked);
            }
            Event::Data { stream, end, .. } => self.on_part(stream, end, asked),
            Event::Reset { stream } => {
                if let Ok(place) = self.place(stream) {
                    self.open.remove(place);
                }
            }
            Event::Settings { window_change, .. } => {
                self.head = None;
                self.trailers = None;
                for stream in &mut self.open {
                    stream.window += window_change;
                }
                self.send_bodies(out);
            }
            Event::Window { stream: 0, .. } => self.send_bodies(out),
            Event::Window { stream, more } => {
                if let Ok(place) = self.place(stream) {
                    self.open[place].window += more;
                    self.send_body(place, out);
                }
            }
            Event::Nothing | Event::Acknowledged | Event::GoAway { .. } => {}
        }
        Ok(())
    }

    fn place(&self, id: u32) -> Result<usize, usize> {
        self.open.binary_search_by_key(&id, |stream| stream.id)
    }

    /// A part of a request came, perhaps its last.
    fn on_part(&self, id: u32, end: bool, asked: &mut Vec<Asked>) {
        if end && let Ok(place) = self.place(id) {
            let request = self.open[place].request;
            asked.push(Asked { place: Place::Stream(id), request });
        }
    }

    /// What the last header block asks for.
    fn request(&self) -> Request {
        let (mut path, mut grpc) = ("", false);
        for (name, value) in self.wire.fields().iter() {
            match name {
                b":path" => path = std::str::from_utf8(value).unwrap_or(""),
                b"content-type" => grpc = value.starts_with(b"application/grpc"),
                _ => {}
            }
        }
        match Request::to(path, Version::Http2) {
            Request::Body(bytes) if grpc => Request::Message(bytes),
            request => request,
        }
    }

    /// Answers a request, unless its stream is gone.
    pub(super) fn answer(
        &mut self,
        stream: u32,
        request: Request,
        default_bytes: usize,
        out: &mut Vec<u8>,
    ) {
        let Ok(place) = self.place(stream) else { return };
        let (answer, body) = match request {
            Request::Body(bytes) => {
                let bytes = bytes.unwrap_or(default_bytes);
                (Answer::Body(bytes), (bytes > 0).then(|| Body::plain(bytes)))
            }
            Request::Message(bytes) => {
                (Answer::Message, Some(Body::message(bytes.unwrap_or(default_bytes))))
            }
            Request::Unknown | Request::Unframed | Request::Malformed => (Answer::NotFound, None),
        };
        self.put_head(stream, answer, body.is_none(), out);
        if body.is_none() {
            self.open.remove(place);
            return;
        }
        self.open[place].unsent = body;
        self.send_body(place, out);
    }

    fn put_head(&mut self, stream: u32, answer: Answer, end: bool, out: &mut Vec<u8>) {
        if let Some((_, block)) = self.head.as_ref().filter(|(last, _)| *last == answer) {
            return put_headers(out, stream, block, end);
        }
        let encoder = &mut self.wire.encoder;
        let mut block = Vec::new();
        encoder.begin(&mut block);
        let mut repeats = block.is_empty();
        let status = if answer == Answer::NotFound { "404" } else { "200" };
        repeats &= encoder.repeated(":status", status, &mut block);
        repeats &= encoder.repeated("server", "origin", &mut block);
        match answer {
            Answer::Body(bytes) => {
                repeats &= encoder.repeated("content-type", "text/plain", &mut block);
                encoder.once("content-length", &bytes.to_string(), &mut block);
            }
            Answer::Message => {
                repeats &= encoder.repeated("content-type", "application/grpc", &mut block);
            }
            Answer::NotFound => {}
        }
        put_headers(out, stream, &block, end);
        if repeats {
            self.head = Some((answer, block));
        }
    }

    fn put_trailers(&mut self, stream: u32, out: &mut Vec<u8>) {
        if let Some(block) = &self.trailers {
            return put_headers(out, stream, block, true);
        }
        let mut block = Vec::new();
        self.wire.encoder.begin(&mut block);
        let announced = !block.is_empty();
        let repeats = self.wire.encoder.repeated("grpc-status", "0", &mut block);
        put_headers(out, stream, &block, true);
        if repeats && !announced {
            self.trailers = Some(block);
        }
    }

    fn send_bodies(&mut self, out: &mut Vec<u8>) {
        for place in (0..self.open.len()).rev() {
            self.send_body(place, out);
        }
    }

    /// Sends what the windows let of an answer's body, and forgets the stream when that was all.
    fn send_body(&mut self, place: usize, out: &mut Vec<u8>) {
        let Stream { id, window, unsent, .. } = &mut self.open[place];
        let Some(body) = unsent else { return };
        let (id, message) = (*id, body.message);
        if self.wire.send_body(id, window, body, !message, out) {
            self.open.remove(place);
            if message {
                self.put_trailers(id, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        Ended, Fault, Protocol, Session,
        http2::{Call, Http2, Http2Options, Http2Session},
    };

    fn client(path: &str, call: Call, expected: u64) -> Http2Session {
        Http2::new(Http2Options {
            secure: false,
            authority: "h".to_owned(),
            path: path.to_owned(),
            streams: 4,
            call,
            expected_body: Some(expected),
            close: false,
        })
        .session()
    }

    /// Passes bytes to and fro until nobody has anything to say.
    fn converse(client: &mut Http2Session, rounds: usize) -> Vec<Ended> {
        let (mut up, mut down, mut ended, mut asked) = (vec![], vec![], vec![], vec![]);
        client.open(&mut up);
        let mut streams = Streams::open(&mut down);
        let mut from = crate::http2::PREFACE.len();
        for _ in 0..rounds {
            for slot in 0..4 {
                client.request(slot, &mut up);
            }
            while !up.is_empty() || !down.is_empty() {
                streams.feed(&up[from..], &mut down, &mut asked).unwrap();
                from = 0;
                up.clear();
                for Asked { place, request } in asked.drain(..) {
                    let Place::Stream(stream) = place else { panic!("{place:?}") };
                    streams.answer(stream, request, 3, &mut down);
                }
                client.feed(&down, &mut up, &mut ended).unwrap();
                down.clear();
            }
        }
        assert!(streams.open.is_empty());
        ended
    }

    #[test]
    fn answers_gets_posts_and_calls() {
        for (path, call, expected) in [
            ("/", Call::Get, 3),
            ("/h2/0", Call::Get, 0),
            ("/b/100000", Call::Get, 100_000),
            ("/b/7", Call::Post(200_000), 7),
            ("/h2/128", Call::Grpc(128), 133),
            ("/h2/0", Call::Grpc(0), 5),
            ("/h2/100000", Call::Grpc(70_000), 100_005),
        ] {
            let ended = converse(&mut client(path, call, expected), 3);
            assert_eq!(ended.len(), 12, "{path}");
            assert!(ended.iter().all(|one| one.outcome == Ok(expected)), "{path}: {ended:?}");
        }
        let ended = converse(&mut client("/h1/3", Call::Get, 3), 1);
        assert!(ended.iter().all(|one| one.outcome == Err(Fault::Status)), "{ended:?}");
    }
}
