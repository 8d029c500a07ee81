//! The built-in origin: a server of HTTP/1.1, HTTP/2, Bolt and Dubbo that costs as little as possible.
//!
//! One thread, edge-triggered epoll, one `recv` and one `send` per batch of requests, answers
//! prepared once per size. `/b/N` answers with N bytes, `/h1/N` and `/h2/N` do the same but only in
//! that version of HTTP (else 404), every other path answers with the configured number; a request's
//! body is read and dropped. An optional delay holds each answer back.
//!
//! Calls of RPC are for the method `bodyN`, whose answer has N bytes; every other method's has the
//! configured number. Heartbeats are answered at once, and one-way calls not at all.
//!
//! The first bytes of a connection say what it speaks: TLS if a certificate is configured, and
//! within or without it Bolt or Dubbo by the first byte, HTTP/2 by its preface, else HTTP/1.1. It is a counterpart for measurements,
//! not a web server: an HTTP/1.1 request it can't frame (chunked ones too) is answered with 400 or
//! 501 and the connection closed.

mod http1;
mod http2;

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ServerConfig, ServerConnection};

use self::{http1::Requests, http2::Streams};
use crate::{
    epoll::{Epoll, Ready},
    http2::PREFACE,
    rpc::{Frames, Head, Kind, Malformed, Rpc},
    sys, tls,
    variant::Version,
};

/// How the origin answers.
#[derive(Debug, Clone)]
pub struct Options {
    /// Body length where the path names none.
    pub body_bytes: usize,
    /// Time between a request's arrival and its answer.
    pub delay: Duration,
    /// For connections that begin with a TLS record; such are closed when `None`.
    pub tls: Option<Arc<ServerConfig>>,
}

/// Largest body served; a path that asks for more gets 404.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Answers queued on a connection from which on it is not read until some have left.
const QUEUE_MAX: usize = 64;
/// Bytes taken by one read.
const READ_BYTES: usize = 64 * 1024;
/// Longest wait when nothing is due.
const WAIT_MAX: Duration = Duration::from_secs(3600);
const LISTENER: u64 = u64::MAX;
/// First byte of a TLS handshake record (RFC 8446 section 5.1); no method begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// Serves on `listener` until the process ends.
///
/// # Errors
///
/// What the kernel refuses that the origin can't do without. Clients' errors end their connections.
pub fn serve(listener: &TcpListener, options: Options) -> io::Result<()> {
    sys::precise_timers();
    let epoll = Epoll::new()?;
    epoll.add_listener(listener, LISTENER)?;
    let mut origin = Origin {
        epoll,
        connections: Vec::new(),
        vacant: Vec::new(),
        answers: http1::Answers::default(),
        options,
        delayed: VecDeque::new(),
        buffer: vec![0; READ_BYTES],
        plain: Vec::new(),
        asked: Vec::new(),
        serial: 0,
    };
    loop {
        let pause = origin
            .delayed
            .front()
            .map_or(WAIT_MAX, |first| first.due.saturating_duration_since(Instant::now()));
        origin.epoll.wait(pause)?;
        for event in 0..origin.epoll.count() {
            let ready = origin.epoll.ready(event);
            if ready.token == LISTENER {
                origin.accept(listener);
            } else if let Ok(index) = usize::try_from(ready.token) {
                origin.on_ready(index, ready);
            }
        }
        origin.release_delayed();
    }
}

struct Origin {
    epoll: Epoll,
    connections: Vec<Option<Connection>>,
    vacant: Vec<usize>,
    answers: http1::Answers,
    options: Options,
    /// Requests to answer, in the order in which that is due: the delay is the same for all.
    delayed: VecDeque<Delayed>,
    buffer: Vec<u8>,
    /// What `buffer` decrypts to.
    plain: Vec<u8>,
    /// Requests of the last read.
    asked: Vec<Asked>,
    serial: u64,
}

struct Connection {
    socket: TcpStream,
    /// Tells this connection from an earlier one in the same place.
    serial: u64,
    tls: Option<Box<ServerConnection>>,
    speech: Speech,
    queue: VecDeque<Bytes>,
    sent: usize,
    /// Not read because too much is queued.
    paused: bool,
    /// Close once the queue is empty.
    last: bool,
}

/// What a connection speaks.
enum Speech {
    /// Not known yet, with what has come.
    Unknown(Vec<u8>),
    Http1(Requests),
    Http2(Box<Streams>),
    Rpc(Rpc, Frames),
}

struct Delayed {
    due: Instant,
    index: usize,
    serial: u64,
    asked: Asked,
}

/// A request, and where its answer belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    place: Place,
    request: Request,
}

/// Where an answer belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind those before it: HTTP/1.1.
    Next,
    /// On a stream of HTTP/2.
    Stream(u32),
    /// To a call.
    Call(Head),
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    /// A body of so many bytes, or of the default length.
    Body(Option<usize>),
    /// The same as a gRPC message.
    Message(Option<usize>),
    /// What is not there: too long a body, no number, or for another version of HTTP.
    Unknown,
    /// A body that is not delimited by Content-Length.
    Unframed,
    Malformed,
}

impl Request {
    /// Whether an HTTP/1.1 connection can't go on after it.
    fn is_last(self) -> bool {
        matches!(self, Self::Unframed | Self::Malformed)
    }

    /// What a path asks for in a version of HTTP.
    fn to(path: &str, version: Version) -> Self {
        let segments = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let Some((first, size)) = segments else { return Self::Body(None) };
        let any = first == "b";
        if !any && ![Version::Http1, Version::Http2].iter().any(|known| known.segment() == first) {
            return Self::Body(None);
        }
        match size.parse() {
            Ok(bytes) if bytes <= BODY_BYTES_MAX && (any || first == version.segment()) => {
                Self::Body(Some(bytes))
            }
            _ => Self::Unknown,
        }
    }
}

/// Bytes to send.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Bytes {
    Shared(Rc<[u8]>),
    Owned(Vec<u8>),
    Fixed(&'static [u8]),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Fixed(bytes) => bytes,
        }
    }
}

impl Origin {
    fn accept(&mut self, listener: &TcpListener) {
        // Any error ends the round; a level-triggered listener comes up again.
        while let Ok((socket, _)) = listener.accept() {
            if socket.set_nonblocking(true).is_err() {
                continue;
            }
            let index = self.vacant.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            if self.epoll.add(&socket, index as u64).is_err() {
                self.vacant.push(index);
                continue;
            }
            self.serial += 1;
            self.connections[index] = Some(Connection {
                socket,
                serial: self.serial,
                tls: None,
                speech: Speech::Unknown(Vec::new()),
                queue: VecDeque::new(),
                sent: 0,
                paused: false,
                last: false,
            });
        }
    }

    fn on_ready(&mut self, index: usize, ready: Ready) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let mut alive = true;
        let mut readable = ready.readable;
        if ready.writable && connection.has_unsent() {
            alive = connection.flush();
            if connection.paused && connection.queue.len() < QUEUE_MAX {
                connection.paused = false;
                readable = true;
            }
        }
        if !alive || (readable && !self.read(index, ready.closing)) {
            self.connections[index] = None;
            self.vacant.push(index);
        }
    }

    /// Reads and answers; false when the connection is over.
    fn read(&mut self, index: usize, to_end: bool) -> bool {
        let Some(connection) = &mut self.connections[index] else { return true };
        loop {
            if connection.queue.len() >= QUEUE_MAX {
                connection.paused = true;
                return true;
            }
            let count = match connection.socket.read(&mut self.buffer) {
                Ok(0) => return false,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            let received = &self.buffer[..count];
            let Some(input) = connection.decrypt(received, &mut self.plain, &self.options) else {
                return false;
            };
            let mut out = Vec::new();
            if !connection.take(input, &mut out, &mut self.asked) {
                return false;
            }
            for asked in self.asked.drain(..) {
                if self.options.delay.is_zero() {
                    connection.answer(asked, &mut self.answers, self.options.body_bytes, &mut out);
                } else {
                    self.delayed.push_back(Delayed {
                        due: Instant::now() + self.options.delay,
                        index,
                        serial: connection.serial,
                        asked,
                    });
                }
            }
            if !connection.send(out) {
                return false;
            }
            if count < READ_BYTES && !to_end {
                return true;
            }
        }
    }

    fn release_delayed(&mut self) {
        if self.delayed.is_empty() {
            return;
        }
        let now = Instant::now();
        while self.delayed.front().is_some_and(|first| first.due <= now) {
            let Some(Delayed { index, serial, asked, .. }) = self.delayed.pop_front() else {
                return;
            };
            let Some(connection) = &mut self.connections[index] else { continue };
            if connection.serial != serial {
                continue;
            }
            let mut out = Vec::new();
            connection.answer(asked, &mut self.answers, self.options.body_bytes, &mut out);
            if !connection.send(out) {
                self.connections[index] = None;
                self.vacant.push(index);
            }
        }
    }
}

impl Connection {
    /// What the peer meant by the bytes of the socket; `None` when the connection is over.
    fn decrypt<'a>(
        &mut self,
        received: &'a [u8],
        plain: &'a mut Vec<u8>,
        options: &Options,
    ) -> Option<&'a [u8]> {
        if self.tls.is_none() {
            let fresh = matches!(&self.speech, Speech::Unknown(held) if held.is_empty());
            if !fresh || received[0] != TLS_HANDSHAKE {
                return Some(received);
            }
            let mut session = ServerConnection::new(Arc::clone(options.tls.as_ref()?)).ok()?;
            session.set_buffer_limit(None);
            self.tls = Some(Box::new(session));
        }
        let tls = self.tls.as_mut()?;
        // A refused handshake ends with an alert, which is for people and not for measurements.
        tls::receive(&mut **tls, received, plain).ok()?;
        Some(plain)
    }

    /// Takes received bytes and appends the requests among them; false when the connection is over.
    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, asked: &mut Vec<Asked>) -> bool {
        let held;
        let mut input = input;
        if let Speech::Unknown(before) = &mut self.speech {
            before.extend_from_slice(input);
            let length = before.len().min(PREFACE.len());
            if before[..length] == PREFACE[..length] && length < PREFACE.len() {
                return true;
            }
            held = std::mem::take(before);
            input = &held;
            let rpc = [Rpc::Bolt, Rpc::Dubbo].into_iter().find(|rpc| rpc.begins_with(held[0]));
            self.speech = if let Some(rpc) = rpc {
                Speech::Rpc(rpc, Frames::new(rpc))
            } else if let Some(rest) = held.strip_prefix(PREFACE) {
                input = rest;
                Speech::Http2(Box::new(Streams::open(out)))
            } else {
                Speech::Http1(Requests::default())
            };
        }
        match &mut self.speech {
            Speech::Unknown(_) => true,
            Speech::Http1(requests) => {
                while !input.is_empty() {
                    let Some((request, taken)) = requests.next(input) else { break };
                    input = &input[taken..];
                    asked.push(Asked { place: Place::Next, request });
                    if request.is_last() {
                        break;
                    }
                }
                true
            }
            Speech::Http2(streams) => streams.feed(input, out, asked).is_ok(),
            Speech::Rpc(rpc, frames) => frames
                .feed(input, |head| {
                    match head.kind {
                        Kind::Call { two_way: true, asked: bytes } => asked.push(Asked {
                            place: Place::Call(head),
                            request: Request::Body(bytes),
                        }),
                        Kind::Heartbeat => rpc.put_heartbeat_answer(head, out),
                        _ => {}
                    }
                    Ok::<(), Malformed>(())
                })
                .is_ok(),
        }
    }

    /// Queues an answer, or appends it to `out`.
    fn answer(
        &mut self,
        asked: Asked,
        answers: &mut http1::Answers,
        default_bytes: usize,
        out: &mut Vec<u8>,
    ) {
        let Asked { place, request } = asked;
        match (&mut self.speech, place) {
            (Speech::Http2(streams), Place::Stream(stream)) => {
                streams.answer(stream, request, default_bytes, out);
            }
            (Speech::Rpc(rpc, _), Place::Call(call)) => {
                let Request::Body(bytes) = request else { return };
                rpc.put_answer(call, bytes.unwrap_or(default_bytes), out);
            }
            _ => {
                self.last |= request.is_last();
                self.queue.push_back(answers.to(request, default_bytes));
            }
        }
    }

    fn has_unsent(&self) -> bool {
        !self.queue.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Sends `out` behind what is queued; false when the connection is over.
    fn send(&mut self, out: Vec<u8>) -> bool {
        if !out.is_empty() {
            self.queue.push_back(Bytes::Owned(out));
        }
        self.flush()
    }

    /// Writes what the socket takes; false when the connection is over.
    fn flush(&mut self) -> bool {
        while let Some(bytes) = self.queue.front() {
            let result = match &mut self.tls {
                None => self.socket.write(&bytes.get()[self.sent..]),
                Some(tls) => tls.writer().write(&bytes.get()[self.sent..]),
            };
            match result {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return false,
            }
            if self.sent == bytes.get().len() {
                self.sent = 0;
                self.queue.pop_front();
            }
        }
        match &mut self.tls {
            None => !self.last,
            Some(tls) => {
                tls::send(&mut **tls, &mut self.socket).is_ok() && (!self.last || tls.wants_write())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        use Version::{Http1, Http2};
        for (path, version, request) in [
            ("/", Http1, Request::Body(None)),
            ("/x/16", Http1, Request::Body(None)),
            ("/b/16", Http1, Request::Body(Some(16))),
            ("/b/16", Http2, Request::Body(Some(16))),
            ("/h1/0", Http1, Request::Body(Some(0))),
            ("/h2/7", Http2, Request::Body(Some(7))),
            ("/h1/7", Http2, Request::Unknown),
            ("/h2/7", Http1, Request::Unknown),
            ("/b/x", Http1, Request::Unknown),
            ("/b/67108865", Http1, Request::Unknown),
        ] {
            assert_eq!(Request::to(path, version), request, "{path} {version:?}");
        }
    }
}
