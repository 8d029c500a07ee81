//! HTTP/1.1 with keep-alive (RFC 9112): one prepared request, an incremental response reader.
//!
//! The reader judges only what a measurement needs: status 200, the body's length, and whether the
//! connection persists. Bodies end by Content-Length, by chunked coding, or by close (RFC 9112
//! section 6.3); interim 1xx responses are passed over.

use super::{Fault, Progress, Protocol, Reply, Session};

/// Largest response head taken.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most header fields in a response.
const HEADERS_MAX: usize = 64;
/// Longest chunk-size line and trailer line.
const LINE_BYTES_MAX: usize = 4096;

/// HTTP/1.1 load: the same request again and again.
#[derive(Debug, Clone)]
pub struct Http1 {
    request: Vec<u8>,
    expected_body: Option<u64>,
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
}

impl Http1 {
    /// Prepares the request.
    #[must_use]
    pub fn new(options: &Http1Options) -> Self {
        let Http1Options { host, path, post_bytes, expected_body } = options;
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
        request.extend_from_slice(b"\r\n");
        request.resize(request.len() + post_bytes.unwrap_or(0), b'x');
        Self { request, expected_body: *expected_body }
    }
}

impl Protocol for Http1 {
    type Session = Http1Session;

    fn session(&self) -> Http1Session {
        Http1Session {
            request: self.request.clone(),
            expected_body: self.expected_body,
            held: Vec::new(),
            state: State::Head,
            body_bytes: 0,
            reusable: true,
        }
    }
}

/// Reader of one connection's responses.
#[derive(Debug)]
pub struct Http1Session {
    request: Vec<u8>,
    expected_body: Option<u64>,
    /// An incomplete head or line from earlier input.
    held: Vec<u8>,
    state: State,
    body_bytes: u64,
    reusable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
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
    fn request(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request);
    }

    fn feed(&mut self, input: &[u8]) -> Result<Progress, Fault> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            if rest.is_empty() {
                return Ok(Progress::More);
            }
            match self.state {
                State::Head => {
                    let Some(taken) = self.head(rest)? else { return Ok(Progress::More) };
                    at += taken;
                    if self.state == State::Sized(0) {
                        return self.done(at);
                    }
                }
                State::Sized(left) => {
                    let taken = self.body(rest, left);
                    at += taken;
                    let left = left - taken as u64;
                    self.state = State::Sized(left);
                    if left == 0 {
                        return self.done(at);
                    }
                }
                State::UntilClose => at += self.body(rest, u64::MAX),
                State::ChunkSize => {
                    let Some(taken) = self.line(rest)? else { return Ok(Progress::More) };
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
                    let Some(taken) = self.line(rest)? else { return Ok(Progress::More) };
                    at += taken;
                    if self.held != b"\r\n" {
                        return Err(Fault::Malformed);
                    }
                    self.held.clear();
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    let Some(taken) = self.line(rest)? else { return Ok(Progress::More) };
                    at += taken;
                    let last = self.held == b"\r\n";
                    self.held.clear();
                    if last {
                        return self.done(at);
                    }
                }
            }
        }
    }

    fn skippable(&self) -> u64 {
        match self.state {
            State::Sized(left) | State::ChunkData(left) => left,
            _ => 0,
        }
    }

    fn skip(&mut self, count: u64) -> Result<Progress, Fault> {
        self.body_bytes += count;
        match self.state {
            State::Sized(left) if left <= count => return self.done(0),
            State::Sized(left) => self.state = State::Sized(left - count),
            State::ChunkData(left) if left <= count => self.state = State::ChunkEnd,
            State::ChunkData(left) => self.state = State::ChunkData(left - count),
            _ => {}
        }
        Ok(Progress::More)
    }

    fn finish(&mut self) -> Result<Progress, Fault> {
        if self.state == State::UntilClose { self.done(0) } else { Err(Fault::Closed) }
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
        self.reusable = head.reusable && head.framing != Framing::UntilClose;
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

    fn done(&mut self, consumed: usize) -> Result<Progress, Fault> {
        self.state = State::Head;
        let body_bytes = self.body_bytes;
        if self.expected_body.is_some_and(|expected| expected != body_bytes) {
            return Err(Fault::Length);
        }
        Ok(Progress::Done(Reply { consumed, body_bytes, reusable: self.reusable }))
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
        Http1::new(&Http1Options {
            host: "h".to_owned(),
            path: "/".to_owned(),
            post_bytes: None,
            expected_body,
        })
        .session()
    }

    fn done(consumed: usize, body_bytes: u64) -> Result<Progress, Fault> {
        Ok(Progress::Done(Reply { consumed, body_bytes, reusable: true }))
    }

    #[test]
    fn encodes_get_and_post() {
        let mut options = Http1Options {
            host: "a:1".to_owned(),
            path: "/b/3".to_owned(),
            post_bytes: None,
            expected_body: None,
        };
        let mut out = Vec::new();
        Http1::new(&options).session().request(&mut out);
        assert!(out.starts_with(b"GET /b/3 HTTP/1.1\r\nhost: a:1\r\n"));
        assert!(out.ends_with(b"\r\n\r\n"));
        options.post_bytes = Some(2);
        out.clear();
        Http1::new(&options).session().request(&mut out);
        assert!(out.starts_with(b"POST "));
        assert!(out.ends_with(b"content-length: 2\r\n\r\nxx"));
    }

    #[test]
    fn reads_responses_one_after_the_other() {
        let mut reader = session(Some(5));
        assert_eq!(reader.feed(SIZED), done(SIZED.len(), 5));
        let two = [SIZED, SIZED].concat();
        assert_eq!(reader.feed(&two), done(SIZED.len(), 5));
        let empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(session(Some(0)).feed(empty), done(empty.len(), 0));
    }

    #[test]
    fn reads_chunked_and_until_close() {
        assert_eq!(session(Some(5)).feed(CHUNKED), done(CHUNKED.len(), 5));
        let mut reader = session(None);
        assert_eq!(reader.feed(b"HTTP/1.0 200 OK\r\n\r\nabc"), Ok(Progress::More));
        assert_eq!(
            reader.finish(),
            Ok(Progress::Done(Reply { consumed: 0, body_bytes: 3, reusable: false }))
        );
    }

    #[test]
    fn passes_over_interim_responses() {
        let all = [b"HTTP/1.1 103 Early Hints\r\n\r\n", SIZED].concat();
        assert_eq!(session(Some(5)).feed(&all), done(all.len(), 5));
    }

    #[test]
    fn skips_without_reading() {
        let mut reader = session(Some(5));
        assert_eq!(reader.feed(&SIZED[..SIZED.len() - 4]), Ok(Progress::More));
        assert_eq!(reader.skippable(), 4);
        assert_eq!(reader.skip(3), Ok(Progress::More));
        assert_eq!(reader.skip(1), done(0, 5));
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
            assert_eq!(session(Some(5)).feed(input), Err(*fault), "{}", input.escape_ascii());
        }
        assert_eq!(session(Some(5)).finish(), Err(Fault::Closed));
        assert_eq!(session(None).feed(&vec![b'H'; HEAD_BYTES_MAX + 1]), Err(Fault::Malformed));
    }

    #[test]
    fn notices_connection_close() {
        let input = b"HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n";
        let Ok(Progress::Done(reply)) = session(Some(0)).feed(input) else { panic!("incomplete") };
        assert!(!reply.reusable);
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
            let mut last = Ok(Progress::More);
            for to in cuts {
                if to > from {
                    last = reader.feed(&input[from..to]);
                    prop_assert!(last == Ok(Progress::More) || to == input.len());
                    if to == input.len() {
                        prop_assert_eq!(last, done(to - from, 5));
                    }
                    from = to;
                }
            }
            prop_assert!(last.is_ok());
        }
    }
}
