//! HTTP/1.1 with keep-alive (RFC 9112): prepared requests, an incremental response reader.
//!
//! The reader judges only what a measurement needs: status 200, the body's length, and whether the
//! connection persists. Bodies end by Content-Length, by chunked coding, or by close (RFC 9112
//! section 6.3); interim 1xx responses are passed over.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{Ended, Fault, Protocol, Session};

/// Largest response head taken.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most header fields in a response.
const HEADERS_MAX: usize = 64;
/// Longest chunk-size line and trailer line.
const LINE_BYTES_MAX: usize = 4096;

/// HTTP/1.1 load: the same request again and again, or the same to several hosts in turn.
#[derive(Debug, Clone)]
pub struct Http1 {
    requests: Arc<[Vec<u8>]>,
    /// Sessions so far.
    sessions: Arc<AtomicUsize>,
    expected_body: Option<u64>,
    close: bool,
}

/// What to send and what to expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http1Options {
    /// Value of the Host field.
    pub host: String,
    /// Request target in origin form.
    pub path: String,
    /// GET when `None`, else POST with a body of so many bytes.
    pub post_bytes: Option<usize>,
    /// Length that every response body must have; any when `None`.
    pub expected_body: Option<u64>,
    /// Ask for the end of the connection with each request.
    pub close: bool,
}

impl Http1 {
    /// Prepares the request.
    #[must_use]
    pub fn new(options: &Http1Options) -> Self {
        Self::to_hosts(options, std::slice::from_ref(&options.host))
    }

    /// Prepares requests to these hosts instead of the one in the options. Each session takes them in
    /// turn, but begins somewhere else, so that together they are everywhere at any time.
    #[must_use]
    pub fn to_hosts(options: &Http1Options, hosts: &[String]) -> Self {
        Self {
            requests: hosts.iter().map(|host| Self::request(options, host)).collect(),
            sessions: Arc::default(),
            expected_body: options.expected_body,
            close: options.close,
        }
    }

    fn request(options: &Http1Options, host: &str) -> Vec<u8> {
        let Http1Options { path, post_bytes, close, .. } = options;
        let method = if post_bytes.is_some() { "POST" } else { "GET" };
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: outrigger-perf\r\naccept: */*\r\n"
        )
        .into_bytes();
        if let Some(length) = post_bytes {
            request.extend_from_slice(
                format!("content-type: application/octet-stream\r\ncontent-length: {length}\r\n")
                    .as_bytes(),
            );
        }
        if *close {
            request.extend_from_slice(b"connection: close\r\n");
        }
        request.extend_from_slice(b"\r\n");
        request.resize(request.len() + post_bytes.unwrap_or(0), b'x');
        request
    }
}

impl Protocol for Http1 {
    type Session = Http1Session;

    fn session(&self) -> Http1Session {
        /// The golden ratio's share of the whole: its multiples lie far apart.
        const STEP: u32 = 0x9E37_79B9;
        let session = self.sessions.fetch_add(1, Ordering::Relaxed) as u32;
        let share = u64::from(session.wrapping_mul(STEP));
        Http1Session {
            requests: Arc::clone(&self.requests),
            next: ((share * self.requests.len() as u64) >> u32::BITS) as usize,
            expected_body: self.expected_body,
            close: self.close,
            held: Vec::new(),
            state: State::Idle,
            body_bytes: 0,
            reusable: true,
        }
    }

    fn slots(&self) -> usize {
        1
    }
}

/// Reader of one connection's responses.
#[derive(Debug)]
pub struct Http1Session {
    requests: Arc<[Vec<u8>]>,
    /// The one to send.
    next: usize,
    expected_body: Option<u64>,
    close: bool,
    /// An incomplete head or line from earlier input.
    held: Vec<u8>,
    state: State,
    body_bytes: u64,
    reusable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No request in flight.
    Idle,
    Head,
    /// Content-Length body; bytes left.
    Sized(u64),
    /// Body up to the end of the connection.
    UntilClose,
    ChunkSize,
    /// Chunk data; bytes left, without the CRLF.
    ChunkData(u64),
    ChunkEnd,
    Trailers,
}

/// How a response's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Sized(u64),
    Chunked,
    UntilClose,
}

struct Head {
    bytes: usize,
    interim: bool,
    framing: Framing,
    reusable: bool,
}

impl Session for Http1Session {
    fn open(&mut self, _out: &mut Vec<u8>) {}

    fn is_open(&self) -> bool {
        true
    }

    fn request(&mut self, _slot: usize, out: &mut Vec<u8>) {
        self.state = State::Head;
        if let Some(request) = self.requests.get(self.next) {
            out.extend_from_slice(request);
        }
        self.next += 1;
        if self.next >= self.requests.len() {
            self.next = 0;
        }
    }

    fn feed(
        &mut self,
        input: &[u8],
        _out: &mut Vec<u8>,
        ended: &mut Vec<Ended>,
    ) -> Result<(), Fault> {
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            match self.state {
                // An answer to nothing.
                State::Idle => return Err(Fault::Malformed),
                State::Head => {
                    let Some(taken) = self.head(rest)? else { return Ok(()) };
                    at += taken;
                    if self.state == State::Sized(0) {
                        self.done(at == input.len(), ended)?;
                    }
                }
                State::Sized(left) => {
                    let taken = self.body(rest, left);
                    at += taken;
                    let left = left - taken as u64;
                    self.state = State::Sized(left);
                    if left == 0 {
                        self.done(at == input.len(), ended)?;
                    }
                }
                State::UntilClose => at += self.body(rest, u64::MAX),
                State::ChunkSize => {
                    let Some(taken) = self.line(rest)? else { return Ok(()) };
                    at += taken;
                    let size = chunk_size(&self.held).ok_or(Fault::Malformed)?;
                    self.held.clear();
                    self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                }
                State::ChunkData(left) => {
                    let taken = self.body(rest, left);
                    at += taken;
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                }
                State::ChunkEnd => {
                    let Some(taken) = self.line(rest)? else { return Ok(()) };
                    at += taken;
                    if self.held != b"\r\n" {
                        return Err(Fault::Malformed);
                    }
                    self.held.clear();
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    let Some(taken) = self.line(rest)? else { return Ok(()) };
                    at += taken;
                    let last = self.held == b"\r\n";
                    self.held.clear();
                    if last {
                        self.done(at == input.len(), ended)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn skippable(&self) -> u64 {
        match self.state {
            State::Sized(left) | State::ChunkData(left) => left,
            _ => 0,
        }
    }

    fn skip(&mut self, count: u64, ended: &mut Vec<Ended>) -> Result<(), Fault> {
        self.body_bytes += count;
        match self.state {
            State::Sized(left) if left <= count => return self.done(true, ended),
            State::Sized(left) => self.state = State::Sized(left - count),
            State::ChunkData(left) if left <= count => self.state = State::ChunkEnd,
            State::ChunkData(left) => self.state = State::ChunkData(left - count),
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, ended: &mut Vec<Ended>) -> Result<(), Fault> {
        match self.state {
            State::Idle => Ok(()),
            State::UntilClose => self.done(true, ended),
            _ => Err(Fault::Closed),
        }
    }

    fn is_reusable(&self) -> bool {
        self.reusable
    }
}

impl Http1Session {
    /// Reads a head out of `rest`, or holds it when incomplete; returns what it took of `rest`.
    fn head(&mut self, rest: &[u8]) -> Result<Option<usize>, Fault> {
        let before = self.held.len();
        let parsed = if before == 0 {
            parse_head(rest)?
        } else {
            self.held.extend_from_slice(rest);
            parse_head(&self.held)?
        };
        let Some(head) = parsed else {
            if before == 0 {
                self.held.extend_from_slice(rest);
            }
            return if self.held.len() > HEAD_BYTES_MAX { Err(Fault::Malformed) } else { Ok(None) };
        };
        self.held.clear();
        // A head that was complete in the held bytes alone would have been taken then.
        let taken = head.bytes.saturating_sub(before);
        if head.interim {
            return Ok(Some(taken));
        }
        if let (Framing::Sized(length), Some(expected)) = (head.framing, self.expected_body)
            && length != expected
        {
            return Err(Fault::Length);
        }
        self.body_bytes = 0;
        self.reusable = head.reusable && !self.close && head.framing != Framing::UntilClose;
        self.state = match head.framing {
            Framing::Sized(length) => State::Sized(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Ok(Some(taken))
    }

    fn body(&mut self, rest: &[u8], left: u64) -> usize {
        let taken = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        self.body_bytes += taken as u64;
        taken
    }

    /// Appends to `held` up to and with the next LF; `None` when the line goes on.
    fn line(&mut self, rest: &[u8]) -> Result<Option<usize>, Fault> {
        let end = memchr::memchr(b'\n', rest);
        let taken = end.map_or(rest.len(), |end| end + 1);
        if self.held.len() + taken > LINE_BYTES_MAX {
            return Err(Fault::Malformed);
        }
        self.held.extend_from_slice(&rest[..taken]);
        Ok(end.map(|_| taken))
    }

    /// Ends the response; `last` when the input ends with it. More would be an answer to nothing.
    fn done(&mut self, last: bool, ended: &mut Vec<Ended>) -> Result<(), Fault> {
        self.state = State::Idle;
        if !last {
            return Err(Fault::Malformed);
        }
        if self.expected_body.is_some_and(|expected| expected != self.body_bytes) {
            return Err(Fault::Length);
        }
        ended.push(Ended { slot: 0, outcome: Ok(self.body_bytes) });
        Ok(())
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Fault::Malformed),
    };
    let status = response.code.unwrap_or(0);
    let interim = (100..200).contains(&status) && status != 101;
    if status != 200 && !interim {
        return Err(Fault::Status);
    }
    let mut framing = Framing::UntilClose;
    let mut reusable = response.version == Some(1);
    for field in response.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = decimal(field.value).ok_or(Fault::Malformed)?;
            if framing != Framing::UntilClose {
                return Err(Fault::Malformed);
            }
            framing = Framing::Sized(length);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if !field.value.eq_ignore_ascii_case(b"chunked") || framing != Framing::UntilClose {
                return Err(Fault::Malformed);
            }
            framing = Framing::Chunked;
        } else if field.name.eq_ignore_ascii_case("connection") {
            if field.value.eq_ignore_ascii_case(b"close") {
                reusable = false;
            } else if field.value.eq_ignore_ascii_case(b"keep-alive") {
                reusable = true;
            }
        }
    }
    Ok(Some(Head { bytes: length, interim, framing, reusable }))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Size of a chunk from its line; an extension is passed over (RFC 9112 section 7.1).
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    if size.is_empty() || !(extension.is_empty() || matches!(extension[0], b';' | b' ' | b'\t')) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    const CHUNKED: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nt: v\r\n\r\n";

    fn session(expected_body: Option<u64>) -> Http1Session {
        let mut session = Http1::new(&Http1Options {
            host: "h".to_owned(),
            path: "/".to_owned(),
            post_bytes: None,
            expected_body,
            close: false,
        })
        .session();
        session.request(0, &mut Vec::new());
        session
    }

    /// Body bytes of the response if it is complete.
    fn feed(session: &mut Http1Session, input: &[u8]) -> Result<Option<u64>, Fault> {
        let mut ended = Vec::new();
        session.feed(input, &mut Vec::new(), &mut ended)?;
        ended.first().map(|one| one.outcome).transpose()
    }

    #[test]
    fn encodes_get_and_post() {
        let mut options = Http1Options {
            host: "a:1".to_owned(),
            path: "/b/3".to_owned(),
            post_bytes: None,
            expected_body: None,
            close: false,
        };
        let mut out = Vec::new();
        Http1::new(&options).session().request(0, &mut out);
        assert!(out.starts_with(b"GET /b/3 HTTP/1.1\r\nhost: a:1\r\n"));
        assert!(out.ends_with(b"\r\n\r\n"));
        options.post_bytes = Some(2);
        options.close = true;
        out.clear();
        Http1::new(&options).session().request(0, &mut out);
        assert!(out.starts_with(b"POST "));
        assert!(out.ends_with(b"content-length: 2\r\nconnection: close\r\n\r\nxx"));
    }

    #[test]
    fn reads_responses_one_after_the_other() {
        let mut reader = session(Some(5));
        assert_eq!(feed(&mut reader, SIZED), Ok(Some(5)));
        assert!(reader.is_reusable());
        reader.request(0, &mut Vec::new());
        assert_eq!(feed(&mut reader, SIZED), Ok(Some(5)));
        let empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(feed(&mut session(Some(0)), empty), Ok(Some(0)));
    }

    #[test]
    fn refuses_answers_to_nothing() {
        assert_eq!(feed(&mut session(Some(5)), &[SIZED, SIZED].concat()), Err(Fault::Malformed));
        let mut reader = session(Some(5));
        assert_eq!(feed(&mut reader, SIZED), Ok(Some(5)));
        assert_eq!(feed(&mut reader, SIZED), Err(Fault::Malformed));
    }

    #[test]
    fn reads_chunked_and_until_close() {
        assert_eq!(feed(&mut session(Some(5)), CHUNKED), Ok(Some(5)));
        let mut reader = session(None);
        assert_eq!(feed(&mut reader, b"HTTP/1.0 200 OK\r\n\r\nabc"), Ok(None));
        let mut ended = Vec::new();
        assert_eq!(reader.finish(&mut ended), Ok(()));
        assert_eq!(ended, [Ended { slot: 0, outcome: Ok(3) }]);
        assert!(!reader.is_reusable());
    }

    #[test]
    fn passes_over_interim_responses() {
        let all = [b"HTTP/1.1 103 Early Hints\r\n\r\n", SIZED].concat();
        assert_eq!(feed(&mut session(Some(5)), &all), Ok(Some(5)));
    }

    #[test]
    fn skips_without_reading() {
        let mut reader = session(Some(5));
        assert_eq!(feed(&mut reader, &SIZED[..SIZED.len() - 4]), Ok(None));
        assert_eq!(reader.skippable(), 4);
        let mut ended = Vec::new();
        assert_eq!(reader.skip(3, &mut ended), Ok(()));
        assert_eq!(ended, []);
        assert_eq!(reader.skip(1, &mut ended), Ok(()));
        assert_eq!(ended, [Ended { slot: 0, outcome: Ok(5) }]);
        assert_eq!(reader.skippable(), 0);
    }

    #[test]
    fn says_what_is_wrong() {
        let cases: &[(&[u8], Fault)] = &[
            (b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", Fault::Status),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello!", Fault::Length),
            (b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello", Fault::Malformed),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
                Fault::Malformed,
            ),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", Fault::Malformed),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nz\r\n", Fault::Malformed),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
                Fault::Malformed,
            ),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Fault::Length),
            (b"SSH-2.0\r\n\r\n", Fault::Malformed),
        ];
        for (input, fault) in cases {
            assert_eq!(feed(&mut session(Some(5)), input), Err(*fault), "{}", input.escape_ascii());
        }
        assert_eq!(session(Some(5)).finish(&mut Vec::new()), Err(Fault::Closed));
        let long = vec![b'H'; HEAD_BYTES_MAX + 1];
        assert_eq!(feed(&mut session(None), &long), Err(Fault::Malformed));
    }

    #[test]
    fn notices_connection_close() {
        let input = b"HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n";
        let mut reader = session(Some(0));
        assert_eq!(feed(&mut reader, input), Ok(Some(0)));
        assert!(!reader.is_reusable());
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(cuts in proptest::collection::vec(0_usize..100, 0..6), chunked: bool) {
            let input = if chunked { CHUNKED } else { SIZED };
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % input.len()).collect();
            cuts.push(input.len());
            cuts.sort_unstable();
            let mut reader = session(Some(5));
            let mut from = 0;
            for to in cuts {
                if to > from {
                    let expected = (to == input.len()).then_some(5);
                    prop_assert_eq!(feed(&mut reader, &input[from..to]), Ok(expected));
                    from = to;
                }
            }
        }
    }
}
