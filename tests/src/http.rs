//! HTTP/1.1 as a strict reader sees it: what is not exactly right is a [`Fault`].
//!
//! Not a product parser: it takes only what a careful sender writes (CRLF, one colon and at most
//! one space, plain chunk sizes), so that a proxy that forwards or makes something odd is noticed.

use std::fmt;
use std::io::{self, ErrorKind, Read};

use crate::net::Stream;

/// Why a message could not be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The connection was closed in good order where a message could have begun.
    Closed,
    /// The connection was closed inside a message.
    Truncated,
    /// The connection was reset.
    Reset,
    /// Nothing came in time.
    Silent,
    /// What came is not HTTP/1.1, or not HTTP/2.
    Malformed(String),
    /// The stream was reset with that code, HTTP/2 only.
    Stream(u32),
    /// The connection was given up with that code, HTTP/2 only.
    GoAway(u32),
    /// The system said something else.
    Other(ErrorKind),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Fault::Reset,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Fault::Silent,
            // A TLS connection that is closed without saying so.
            ErrorKind::UnexpectedEof => Fault::Truncated,
            kind => Fault::Other(kind),
        }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> io::Error {
        io::Error::other(format!("{fault:?}"))
    }
}

/// Header fields in their order. Bytes above 127 are kept, as the characters of that number.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of the only field of that name.
    ///
    /// # Panics
    /// If there are several.
    #[must_use]
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is there {} times: {self:?}", all.len());
        all.first().copied()
    }

    /// The values of all fields of that name.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = self.0.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_str()).collect()
    }

    /// Whether a field of that name is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// Every field.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// From pairs.
    #[must_use]
    pub fn from_bytes(fields: Vec<(Vec<u8>, Vec<u8>)>) -> Headers {
        let fields = fields.into_iter();
        Headers(fields.map(|(name, value)| (latin1(&name), latin1(&value))).collect())
    }

    /// All but the fields of these names.
    #[must_use]
    pub fn without(&self, names: &[&str]) -> Headers {
        let kept = self.0.iter().filter(|(name, _)| !names.contains(&name.as_str()));
        Headers(kept.cloned().collect())
    }

    fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Headers, Fault> {
        lines.map(field).collect::<Result<_, _>>().map(Headers)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

fn field(line: &str) -> Result<(String, String), Fault> {
    let malformed = || Fault::Malformed(format!("field line {line:?}"));
    let (name, value) = line.split_once(':').ok_or_else(malformed)?;
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        return Err(malformed());
    }
    let value = value.trim_matches([' ', '\t']);
    if value.chars().any(|c| (c.is_ascii_control() && c != '\t') || c == '\u{7f}') {
        return Err(malformed());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// How a body is delimited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Everything until the connection is closed.
    UntilClose,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`
    pub method: String,
    /// As on the request line; `:path` in HTTP/2.
    pub target: String,
    /// `HTTP/1.1`, `HTTP/1.0` or `HTTP/2`
    pub version: String,
    /// The fields.
    pub headers: Headers,
    /// The body, if it was read.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Headers,
    /// The head, byte by byte, empty line included. Empty in HTTP/2.
    pub raw: Vec<u8>,
}

impl Request {
    /// `:authority` in HTTP/2, Host in HTTP/1.1.
    #[must_use]
    #[track_caller]
    pub fn authority(&self) -> Option<&str> {
        self.headers.get(if self.version == "HTTP/2" { ":authority" } else { "host" })
    }

    /// How its body is delimited.
    ///
    /// # Errors
    /// If that is not clear.
    pub fn framing(&self) -> Result<Framing, Fault> {
        Ok(declared(&self.headers)?.unwrap_or(Framing::None))
    }
}

/// A response as it arrived.
#[derive(Clone, Debug)]
pub struct Response {
    /// `HTTP/1.1`, `HTTP/1.0` or `HTTP/2`
    pub version: String,
    /// `200`
    pub status: u16,
    /// `OK`; empty in HTTP/2.
    pub reason: String,
    /// The fields.
    pub headers: Headers,
    /// The body, if it was read.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Headers,
}

impl Response {
    /// The value of the only field of that name.
    #[must_use]
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// How its body is delimited, given what was asked.
    ///
    /// # Errors
    /// If that is not clear.
    pub fn framing(&self, method: &str) -> Result<Framing, Fault> {
        let declared = declared(&self.headers)?;
        let bodiless = matches!(self.status, 100..=199 | 204);
        if bodiless && !matches!(declared, None | Some(Framing::Length(0))) {
            return Err(Fault::Malformed(format!("{} with {declared:?}", self.status)));
        }
        let opened = method == "CONNECT" && (200..300).contains(&self.status);
        if bodiless || self.status == 304 || method == "HEAD" || opened {
            return Ok(Framing::None);
        }
        Ok(declared.unwrap_or(Framing::UntilClose))
    }
}

/// What the framing fields say.
fn declared(headers: &Headers) -> Result<Option<Framing>, Fault> {
    let (lengths, codings) = (headers.all("content-length"), headers.all("transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(None),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length =
                length.parse().map_err(|_| Fault::Malformed(format!("length {length}")))?;
            Ok(Some(Framing::Length(length)))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Framing::Chunked)),
        _ => Err(Fault::Malformed(format!("framing: {lengths:?} and {codings:?}"))),
    }
}

/// The reading side of a connection.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
    /// What of `buffer` has been taken.
    taken: usize,
    received: u64,
}

impl Wire {
    /// Reads from `stream`.
    #[must_use]
    pub fn new(stream: Stream) -> Wire {
        Wire { stream, buffer: Vec::new(), taken: 0, received: 0 }
    }

    /// The connection, to write to.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Puts another connection in the place of this one.
    pub(crate) fn replace_stream(&mut self, stream: Stream) {
        self.stream = stream;
    }

    /// Bytes that came so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// A whole request.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn request(&mut self) -> Result<Request, Fault> {
        let mut request = self.request_head()?;
        (request.body, request.trailers) = self.body(request.framing()?)?;
        Ok(request)
    }

    /// A request up to the empty line.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn request_head(&mut self) -> Result<Request, Fault> {
        let raw = self.head()?;
        let text = latin1(&raw);
        let mut lines = lines(&text)?;
        let line = lines.next().unwrap_or_default();
        let malformed = || Fault::Malformed(format!("request line {line:?}"));
        let parts: Vec<&str> = line.split(' ').collect();
        let [method, target, version] = parts[..] else { return Err(malformed()) };
        if method.is_empty() || target.is_empty() || !is_version(version) {
            return Err(malformed());
        }
        Ok(Request {
            method: method.to_owned(),
            target: target.to_owned(),
            version: version.to_owned(),
            headers: Headers::parse(lines)?,
            body: Vec::new(),
            trailers: Headers::default(),
            raw,
        })
    }

    /// A whole response to a request of that method. Interim responses (1xx but 101) are
    /// responses, too.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn response(&mut self, method: &str) -> Result<Response, Fault> {
        let mut response = self.response_head()?;
        (response.body, response.trailers) = self.body(response.framing(method)?)?;
        Ok(response)
    }

    /// A response up to the empty line.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn response_head(&mut self) -> Result<Response, Fault> {
        let raw = self.head()?;
        let text = latin1(&raw);
        let mut lines = lines(&text)?;
        let line = lines.next().unwrap_or_default();
        let malformed = || Fault::Malformed(format!("status line {line:?}"));
        let (version, rest) = line.split_once(' ').ok_or_else(malformed)?;
        let (code, reason) = rest.split_once(' ').ok_or_else(malformed)?;
        if !is_version(version) || code.len() != 3 {
            return Err(malformed());
        }
        Ok(Response {
            version: version.to_owned(),
            status: code.parse().map_err(|_| malformed())?,
            reason: reason.to_owned(),
            headers: Headers::parse(lines)?,
            body: Vec::new(),
            trailers: Headers::default(),
        })
    }

    /// A body and its trailers.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn body(&mut self, framing: Framing) -> Result<(Vec<u8>, Headers), Fault> {
        match framing {
            Framing::None => Ok((Vec::new(), Headers::default())),
            Framing::Length(length) => {
                let length = usize::try_from(length).map_err(|_| Fault::Truncated)?;
                Ok((self.exactly(length)?, Headers::default()))
            }
            Framing::UntilClose => Ok((self.until_close()?, Headers::default())),
            Framing::Chunked => {
                let mut body = Vec::new();
                while let Some(chunk) = self.chunk()? {
                    body.extend_from_slice(&chunk);
                }
                Ok((body, self.trailers()?))
            }
        }
    }

    /// One chunk of a chunked body; `None` is the last one, of no bytes.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let line = self.line()?;
        let is_hex = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(&line, 16).ok().filter(|_| is_hex);
        match size {
            None => Err(Fault::Malformed(format!("chunk size {line:?}"))),
            Some(0) => Ok(None),
            Some(size) => {
                let chunk = self.exactly(size)?;
                match &self.exactly(2)?[..] {
                    b"\r\n" => Ok(Some(chunk)),
                    other => Err(Fault::Malformed(format!("after a chunk: {other:?}"))),
                }
            }
        }
    }

    /// The fields after the last chunk, and the empty line.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn trailers(&mut self) -> Result<Headers, Fault> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Headers(fields));
            }
            fields.push(field(&line)?);
        }
    }

    /// So many bytes.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Fault> {
        while self.pending().len() < count {
            self.more()?;
        }
        Ok(self.take(count))
    }

    /// So many bytes, or none.
    ///
    /// # Errors
    /// [`Fault::Closed`] if the other side has closed before the first of them, else see [`Fault`].
    pub(crate) fn exactly_or_closed(&mut self, count: usize) -> Result<Vec<u8>, Fault> {
        if self.pending().is_empty() && self.fill()? == 0 {
            return Err(Fault::Closed);
        }
        self.exactly(count)
    }

    /// Everything until the other side closes in good order.
    ///
    /// # Errors
    /// [`Fault::Reset`] and [`Fault::Silent`].
    pub fn until_close(&mut self) -> Result<Vec<u8>, Fault> {
        while self.fill()? > 0 {}
        Ok(self.take(self.pending().len()))
    }

    /// What comes next, at least one byte; nothing at the end.
    ///
    /// # Errors
    /// [`Fault::Reset`] and [`Fault::Silent`].
    pub fn some(&mut self) -> Result<Vec<u8>, Fault> {
        if self.pending().is_empty() {
            self.fill()?;
        }
        Ok(self.take(self.pending().len()))
    }

    /// Waits for the other side to close or to reset, and throws away what comes before that.
    /// Returns how much that was.
    ///
    /// # Errors
    /// [`Fault::Silent`] if it does neither in time.
    pub fn closed(&mut self) -> Result<u64, Fault> {
        let before = self.received - self.pending().len() as u64;
        loop {
            self.take(self.pending().len());
            match self.fill() {
                Ok(0) | Err(Fault::Reset) => return Ok(self.received - before),
                Ok(_) => {}
                Err(fault) => return Err(fault),
            }
        }
    }

    fn head(&mut self) -> Result<Vec<u8>, Fault> {
        let mut searched = 0;
        loop {
            let pending = self.pending();
            let end = pending[searched..].windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                return Ok(self.take(searched + end + 4));
            }
            searched = pending.len().saturating_sub(3);
            let began = !pending.is_empty();
            match self.fill() {
                Ok(0) if !began => return Err(Fault::Closed),
                Ok(0) => return Err(Fault::Truncated),
                Ok(_) => {}
                Err(fault) => return Err(fault),
            }
        }
    }

    fn line(&mut self) -> Result<String, Fault> {
        loop {
            if let Some(end) = self.pending().iter().position(|byte| *byte == b'\n') {
                let line = latin1(&self.take(end + 1));
                return match line.strip_suffix("\r\n") {
                    Some(line) => Ok(line.to_owned()),
                    None => Err(Fault::Malformed(format!("line ending of {line:?}"))),
                };
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<(), Fault> {
        match self.fill()? {
            0 => Err(Fault::Truncated),
            _ => Ok(()),
        }
    }

    fn fill(&mut self) -> Result<usize, Fault> {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        let old = self.buffer.len();
        self.buffer.resize(old + READ_BYTES, 0);
        let count = loop {
            match self.stream.read(&mut self.buffer[old..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(old + *count.as_ref().unwrap_or(&0));
        let count = count?;
        self.received += count as u64;
        Ok(count)
    }

    fn pending(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self.buffer[self.taken..self.taken + count].to_vec();
        self.taken += count;
        taken
    }
}

fn is_version(text: &str) -> bool {
    matches!(text, "HTTP/1.1" | "HTTP/1.0")
}

/// The lines of a head without the empty one at its end.
fn lines(head: &str) -> Result<std::str::Split<'_, &'static str>, Fault> {
    let text = head.strip_suffix("\r\n\r\n").unwrap_or(head);
    let bare = text.split("\r\n").any(|line| line.contains(['\r', '\n', '\0']));
    match bare {
        true => Err(Fault::Malformed(format!("bare CR, LF or NUL in {head:?}"))),
        false => Ok(text.split("\r\n")),
    }
}

/// Every byte as the character of its number: nothing is lost, nothing fails.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

const READ_BYTES: usize = 64 * 1024;
