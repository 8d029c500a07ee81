//! HTTP/2: a stream for each request. What is asked for is in the path, as with HTTP/1.1.

use std::collections::BTreeMap;

use super::{Asked, Heard, carried, check_length};
use crate::{
    http2::{
        Malformed, PREFACE,
        wire::{Event, Frame, Frames, Wire, put_headers},
    },
    upgrade::content::Ask,
};

/// Streams that the origin admits at a time: no proxy of ours needs more.
const STREAMS_MAX: u32 = 1000;

impl From<Malformed> for String {
    fn from(_: Malformed) -> Self {
        "broken HTTP/2".to_owned()
    }
}

#[derive(Debug)]
pub(in crate::upgrade) struct Client {
    wire: Wire,
    frames: Frames,
    next: u32,
    open: BTreeMap<u32, Request>,
    asked_to_go: bool,
}

#[derive(Debug)]
struct Request {
    id: u64,
    window: i64,
    content: Vec<u8>,
    sent: usize,
    status: Option<u16>,
    received: Vec<u8>,
}

impl Client {
    pub(super) fn open(out: &mut Vec<u8>) -> Self {
        let wire = Wire::open(true, None, out);
        let frames = Frames::default();
        Self { wire, frames, next: 1, open: BTreeMap::new(), asked_to_go: false }
    }

    pub(super) fn request(&mut self, ask: Ask, bytes: usize, out: &mut Vec<u8>) {
        let content = if bytes == 0 { Vec::new() } else { ask.content(bytes) };
        let mut block = Vec::new();
        let encoder = &mut self.wire.encoder;
        encoder.begin(&mut block);
        encoder.once(":method", if bytes == 0 { "GET" } else { "POST" }, &mut block);
        encoder.once(":scheme", "http", &mut block);
        encoder.once(":authority", "upgrade", &mut block);
        encoder.once(":path", &format!("/{}", ask.head()), &mut block);
        if bytes > 0 {
            encoder.once("content-length", &content.len().to_string(), &mut block);
        }
        let stream = self.next;
        self.next += 2;
        put_headers(out, stream, &block, content.is_empty());
        let mut request = Request {
            id: ask.id,
            window: self.wire.stream_window(),
            content,
            sent: 0,
            status: None,
            received: Vec::new(),
        };
        request.send(stream, &mut self.wire, out);
        self.open.insert(stream, request);
    }

    pub(super) fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        heard: &mut Vec<Heard>,
    ) -> Result<(), String> {
        let mut frames = std::mem::take(&mut self.frames);
        let fed = frames.feed(input, |frame| self.on_frame(frame, out, heard));
        self.frames = frames;
        fed
    }

    fn on_frame(
        &mut self,
        frame: Frame<'_>,
        out: &mut Vec<u8>,
        heard: &mut Vec<Heard>,
    ) -> Result<(), String> {
        match self.wire.on_frame(frame, out)? {
            Event::Headers { stream, end } => {
                let status = status(&self.wire);
                if let Some(request) = self.open.get_mut(&stream) {
                    // Later blocks are trailers.
                    request.status = request.status.or(status.filter(|status| *status >= 200));
                    if end {
                        self.on_end(stream, heard);
                    }
                }
            }
            Event::Data { stream, data, end } => {
                if let Some(request) = self.open.get_mut(&stream) {
                    check_length(request.received.len() + data.len())?;
                    request.received.extend_from_slice(data);
                    if end {
                        self.on_end(stream, heard);
                    }
                }
            }
            Event::Reset { stream } => {
                if let Some(Request { id, .. }) = self.open.remove(&stream) {
                    let content = Err("the stream was reset".to_owned());
                    heard.push(Heard::Answer { to: Some(id), content });
                }
            }
            Event::Settings { window_change, .. } => {
                for request in self.open.values_mut() {
                    request.window += window_change;
                }
                self.send_all(out);
            }
            Event::Window { stream: 0, .. } => self.send_all(out),
            Event::Window { stream, more } => {
                if let Some(request) = self.open.get_mut(&stream) {
                    request.window += more;
                    request.send(stream, &mut self.wire, out);
                }
            }
            Event::GoAway { last } => {
                if !self.asked_to_go {
                    self.asked_to_go = true;
                    heard.push(Heard::AskedToGo);
                }
                let refused = self.open.split_off(&last.saturating_add(1));
                heard.extend(refused.into_values().map(|request| Heard::Refused(request.id)));
            }
            Event::Nothing | Event::Acknowledged => {}
        }
        Ok(())
    }

    fn on_end(&mut self, stream: u32, heard: &mut Vec<Heard>) {
        let Some(request) = self.open.remove(&stream) else { return };
        let content = match request.status {
            Some(200) => carried(&request.received),
            Some(status) => Err(format!("status {status}")),
            None => Err("no status".to_owned()),
        };
        heard.push(Heard::Answer { to: Some(request.id), content });
    }

    fn send_all(&mut self, out: &mut Vec<u8>) {
        for (stream, request) in &mut self.open {
            request.send(*stream, &mut self.wire, out);
        }
    }
}

impl Request {
    fn send(&mut self, stream: u32, wire: &mut Wire, out: &mut Vec<u8>) {
        let Self { window, content, sent, .. } = self;
        wire.send_bytes(stream, window, content, sent, out);
    }
}

fn status(wire: &Wire) -> Option<u16> {
    let (_, value) = wire.fields().iter().find(|(name, _)| *name == b":status")?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[derive(Debug)]
pub(in crate::upgrade) struct Server {
    wire: Wire,
    frames: Frames,
    /// Bytes of the preface still to come.
    preface: usize,
    open: BTreeMap<u32, Stream>,
}

#[derive(Debug)]
struct Stream {
    ask: Option<Ask>,
    received: Vec<u8>,
    window: i64,
    answer: Vec<u8>,
    sent: usize,
}

impl Server {
    pub(super) fn open(out: &mut Vec<u8>) -> Self {
        Self {
            wire: Wire::open(false, Some(STREAMS_MAX), out),
            frames: Frames::default(),
            preface: PREFACE.len(),
            open: BTreeMap::new(),
        }
    }

    pub(super) fn feed(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
        asked: &mut Vec<Asked>,
    ) -> Result<(), String> {
        let preface = self.preface.min(input.len());
        let at = PREFACE.len() - self.preface;
        if input[..preface] != PREFACE[at..at + preface] {
            return Err("no preface".to_owned());
        }
        self.preface -= preface;
        input = &input[preface..];
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
    ) -> Result<(), String> {
        match self.wire.on_frame(frame, out)? {
            Event::Headers { stream, end } => {
                let window = self.wire.stream_window();
                let ask = self.ask();
                self.open.entry(stream).or_insert_with(|| Stream {
                    ask,
                    received: Vec::new(),
                    window,
                    answer: Vec::new(),
                    sent: 0,
                });
                if end {
                    self.on_end(stream, asked);
                }
            }
            Event::Data { stream, data, end } => {
                if let Some(open) = self.open.get_mut(&stream) {
                    check_length(open.received.len() + data.len())?;
                    open.received.extend_from_slice(data);
                    if end {
                        self.on_end(stream, asked);
                    }
                }
            }
            Event::Reset { stream } => {
                self.open.remove(&stream);
            }
            Event::Settings { window_change, .. } => {
                for stream in self.open.values_mut() {
                    stream.window += window_change;
                }
                self.send_all(out);
            }
            Event::Window { stream: 0, .. } => self.send_all(out),
            Event::Window { stream, more } => {
                if let Some(open) = self.open.get_mut(&stream) {
                    open.window += more;
                    self.send(stream, out);
                }
            }
            Event::Nothing | Event::Acknowledged | Event::GoAway { .. } => {}
        }
        Ok(())
    }

    /// What the last header block asks for.
    fn ask(&self) -> Option<Ask> {
        let (_, path) = self.wire.fields().iter().find(|(name, _)| *name == b":path")?;
        Ask::parse(path.strip_prefix(b"/")?)
    }

    fn on_end(&mut self, stream: u32, asked: &mut Vec<Asked>) {
        let Some(open) = self.open.get_mut(&stream) else { return };
        let is_whole = open.received.is_empty() || Ask::read(&open.received) == open.ask;
        asked.push(Asked { ticket: stream.into(), ask: open.ask.filter(|_| is_whole) });
        open.received = Vec::new();
    }

    pub(super) fn answer(&mut self, ticket: u64, ask: Ask, out: &mut Vec<u8>) {
        let Ok(stream) = u32::try_from(ticket) else { return };
        let Some(open) = self.open.get_mut(&stream) else { return };
        open.answer = ask.content(ask.reply_bytes as usize);
        let mut block = Vec::new();
        let encoder = &mut self.wire.encoder;
        encoder.begin(&mut block);
        encoder.once(":status", "200", &mut block);
        encoder.once("content-length", &open.answer.len().to_string(), &mut block);
        put_headers(out, stream, &block, false);
        self.send(stream, out);
    }

    fn send_all(&mut self, out: &mut Vec<u8>) {
        let streams: Vec<u32> = self.open.keys().copied().collect();
        for stream in streams {
            self.send(stream, out);
        }
    }

    fn send(&mut self, stream: u32, out: &mut Vec<u8>) {
        let Some(Stream { window, answer, sent, .. }) = self.open.get_mut(&stream) else { return };
        if !answer.is_empty() && self.wire.send_bytes(stream, window, answer, sent, out) {
            self.open.remove(&stream);
        }
    }
}
