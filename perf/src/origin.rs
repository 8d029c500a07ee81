//! The built-in origin: an HTTP/1.1 keep-alive server that costs as little as possible.
//!
//! One thread, edge-triggered epoll, one `recv` and one `send` per request, answers prepared once
//! per size. `GET /b/N` answers with N bytes, every other path with the configured number; a POST
//! body (Content-Length only) is read and dropped. An optional delay holds each answer back. It is
//! a counterpart for measurements, not a web server: a request it can't frame is answered with 400
//! or 501 and the connection closed.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    rc::Rc,
    time::{Duration, Instant},
};

use crate::{
    epoll::{Epoll, Ready},
    sys,
};

/// How the origin answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Body length where the path names none.
    pub body_bytes: usize,
    /// Time between a request's arrival and its answer.
    pub delay: Duration,
}

/// Largest body served; a path that asks for more gets 404.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Sizes whose answers are kept prepared.
const PREPARED_MAX: usize = 64;
/// Largest request head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most header fields in a request.
const HEADERS_MAX: usize = 64;
/// Answers queued on a connection from which on it is not read until some have left.
const QUEUE_MAX: usize = 64;
/// Bytes taken by one read.
const READ_BYTES: usize = 64 * 1024;
/// Longest wait when nothing is due.
const WAIT_MAX: Duration = Duration::from_secs(3600);
const LISTENER: u64 = u64::MAX;

const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
const NOT_IMPLEMENTED: &[u8] =
    b"HTTP/1.1 501 Not Implemented\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

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
        answers: Answers {
            default_bytes: options.body_bytes,
            prepared: HashMap::new(),
            last: None,
        },
        delay: options.delay,
        delayed: VecDeque::new(),
        buffer: vec![0; READ_BYTES],
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
    answers: Answers,
    delay: Duration,
    /// Answers on their way, in the order in which they are due: the delay is the same for all.
    delayed: VecDeque<Delayed>,
    buffer: Vec<u8>,
    serial: u64,
}

struct Connection {
    socket: TcpStream,
    /// Tells this connection from an earlier one in the same place.
    serial: u64,
    requests: Requests,
    queue: VecDeque<Answer>,
    sent: usize,
    /// Not read because too much is queued.
    paused: bool,
    /// Close once the queue is empty.
    last: bool,
}

struct Delayed {
    due: Instant,
    index: usize,
    serial: u64,
    answer: Answer,
    last: bool,
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
                requests: Requests::default(),
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
        if ready.writable && !connection.queue.is_empty() {
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
            let mut input = &self.buffer[..count];
            while !input.is_empty() && !connection.last {
                let Some((request, taken)) = connection.requests.next(input) else { break };
                input = &input[taken..];
                let (answer, last) = self.answers.to(request);
                if self.delay.is_zero() {
                    connection.last = last;
                    if !connection.send(answer) {
                        return false;
                    }
                } else {
                    self.delayed.push_back(Delayed {
                        due: Instant::now() + self.delay,
                        index,
                        serial: connection.serial,
                        answer,
                        last,
                    });
                }
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
            let Some(Delayed { index, serial, answer, last, .. }) = self.delayed.pop_front() else {
                return;
            };
            let Some(connection) = &mut self.connections[index] else { continue };
            if connection.serial != serial {
                continue;
            }
            connection.last |= last;
            if !connection.send(answer) {
                self.connections[index] = None;
                self.vacant.push(index);
            }
        }
    }
}

impl Connection {
    fn send(&mut self, answer: Answer) -> bool {
        self.queue.push_back(answer);
        self.queue.len() > 1 || self.flush()
    }

    /// Writes what the socket takes; false when the connection is over.
    fn flush(&mut self) -> bool {
        while let Some(answer) = self.queue.front() {
            match self.socket.write(&answer.bytes()[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return false,
            }
            if self.sent == answer.bytes().len() {
                self.sent = 0;
                self.queue.pop_front();
            }
        }
        !self.last
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Prepared(Rc<[u8]>),
    Fixed(&'static [u8]),
}

impl Answer {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Prepared(bytes) => bytes,
            Self::Fixed(bytes) => bytes,
        }
    }
}

/// Prepared answers by body size.
struct Answers {
    default_bytes: usize,
    prepared: HashMap<usize, Rc<[u8]>>,
    /// The last one used: almost always the next one too.
    last: Option<(usize, Rc<[u8]>)>,
}

impl Answers {
    /// The answer, and whether the connection ends with it.
    fn to(&mut self, request: Request) -> (Answer, bool) {
        match request {
            Request::Body(None) => (self.sized(self.default_bytes), false),
            Request::Body(Some(bytes)) if bytes <= BODY_BYTES_MAX => (self.sized(bytes), false),
            Request::Body(Some(_)) | Request::Unknown => (Answer::Fixed(NOT_FOUND), false),
            Request::Unframed => (Answer::Fixed(NOT_IMPLEMENTED), true),
            Request::Malformed => (Answer::Fixed(BAD_REQUEST), true),
        }
    }

    fn sized(&mut self, bytes: usize) -> Answer {
        if let Some((last, answer)) = &self.last
            && *last == bytes
        {
            return Answer::Prepared(Rc::clone(answer));
        }
        if self.prepared.len() >= PREPARED_MAX {
            self.prepared.clear();
        }
        let answer = self.prepared.entry(bytes).or_insert_with(|| {
            let mut answer = format!(
                "HTTP/1.1 200 OK\r\nserver: origin\r\ncontent-type: text/plain\r\ncontent-length: {bytes}\r\n\r\n"
            )
            .into_bytes();
            answer.resize(answer.len() + bytes, b'o');
            answer.into()
        });
        self.last = Some((bytes, Rc::clone(answer)));
        Answer::Prepared(Rc::clone(answer))
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    /// A body of so many bytes, or of the default length.
    Body(Option<usize>),
    /// A path under `/b/` that is no number.
    Unknown,
    /// A body that is not delimited by Content-Length.
    Unframed,
    Malformed,
}

/// Incremental reader of one connection's requests.
#[derive(Debug, Default)]
struct Requests {
    held: Vec<u8>,
    /// Bytes of the current request's body still to come; its answer is in `pending`.
    body_left: u64,
    pending: Option<Request>,
}

impl Requests {
    /// The next complete request and the bytes of `input` up to its end; `None` when all of `input`
    /// was taken without reaching one.
    fn next(&mut self, input: &[u8]) -> Option<(Request, usize)> {
        let mut taken = 0;
        if self.pending.is_none() {
            let before = self.held.len();
            let parsed = if before == 0 {
                parse(input)
            } else {
                self.held.extend_from_slice(input);
                parse(&self.held)
            };
            let Some((request, head_bytes, body_bytes)) = parsed else {
                if before == 0 {
                    self.held.extend_from_slice(input);
                }
                let too_long = self.held.len() > HEAD_BYTES_MAX;
                return too_long.then_some((Request::Malformed, input.len()));
            };
            self.held.clear();
            taken = head_bytes.saturating_sub(before).min(input.len());
            self.body_left = body_bytes;
            self.pending = Some(request);
        }
        let rest = (input.len() - taken) as u64;
        let body = self.body_left.min(rest);
        self.body_left -= body;
        taken += usize::try_from(body).unwrap_or(0);
        if self.body_left > 0 {
            return None;
        }
        self.pending.take().map(|request| (request, taken))
    }
}

/// Request, length of its head and of its body; `None` when the head is incomplete.
fn parse(bytes: &[u8]) -> Option<(Request, usize, u64)> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let head_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return None,
        Err(_) => return Some((Request::Malformed, bytes.len(), 0)),
    };
    let mut body_bytes = 0;
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok());
            let Some(length) = length else {
                return Some((Request::Malformed, head_bytes, 0));
            };
            body_bytes = length;
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Some((Request::Unframed, head_bytes, 0));
        }
    }
    let request = match request.path.unwrap_or("/").strip_prefix("/b/") {
        None => Request::Body(None),
        Some(size) => size.parse().map_or(Request::Unknown, |size| Request::Body(Some(size))),
    };
    Some((request, head_bytes, body_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET /b/16 HTTP/1.1\r\nhost: x\r\n\r\n";
    const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: x\r\nContent-Length: 4\r\n\r\nbody";

    #[test]
    fn reads_pipelined_and_split_requests() {
        let input = [GET, POST, GET].concat();
        for cut in 0..input.len() {
            let mut reader = Requests::default();
            let mut found = Vec::new();
            for mut part in [&input[..cut], &input[cut..]] {
                while !part.is_empty() {
                    let Some((request, taken)) = reader.next(part) else { break };
                    found.push(request);
                    part = &part[taken..];
                }
            }
            let sized = Request::Body(Some(16));
            assert_eq!(found, [sized, Request::Body(None), sized], "cut at {cut}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_frame() {
        let cases: &[(&[u8], Request)] = &[
            (b"GET /b/x HTTP/1.1\r\n\r\n", Request::Unknown),
            (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", Request::Unframed),
            (b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n", Request::Malformed),
            (b"\x16\x03\x01\r\n\r\n", Request::Malformed),
        ];
        for (input, expected) in cases {
            assert_eq!(Requests::default().next(input), Some((*expected, input.len())));
        }
        let long = vec![b'G'; HEAD_BYTES_MAX + 1];
        assert_eq!(Requests::default().next(&long).map(|found| found.0), Some(Request::Malformed));
    }

    #[test]
    fn answers_have_the_asked_length() {
        let mut answers = Answers { default_bytes: 3, prepared: HashMap::new(), last: None };
        let (answer, last) = answers.to(Request::Body(None));
        assert!(!last && answer.bytes().ends_with(b"content-length: 3\r\n\r\nooo"));
        let (answer, _) = answers.to(Request::Body(Some(0)));
        assert!(answer.bytes().ends_with(b"content-length: 0\r\n\r\n"));
        assert_eq!(answers.to(Request::Body(Some(BODY_BYTES_MAX + 1))).0, Answer::Fixed(NOT_FOUND));
        assert!(answers.to(Request::Malformed).1);
    }
}
