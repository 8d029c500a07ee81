//! A blocking client of HTTP/1.1 for first requests, for the admin interface, and for asking whether a
//! change has arrived.
//!
//! Unlike that of the load generator it chooses the authority of each request, takes any status and
//! keeps bodies. Nothing waits longer than it is told to.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::sys;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
}

/// A response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Longest response.
const BYTES_MAX: usize = 64 * 1024 * 1024;
const HEADERS_MAX: usize = 64;

/// One request on a connection of its own. Each step of it takes no longer than `patience`.
pub(super) fn get(
    target: SocketAddr,
    authority: &str,
    path: &str,
    patience: Duration,
) -> io::Result<Answer> {
    let mut connection = Connection::open(target, patience)?;
    connection.send(authority, path)?;
    connection.receive()
}

impl Connection {
    pub(super) fn open(target: SocketAddr, patience: Duration) -> io::Result<Self> {
        let socket = sys::client_socket(target, None)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        socket.connect_timeout(&target.into(), patience)?;
        Ok(Self { socket: socket.into(), received: Vec::new() })
    }

    pub(super) fn send(&mut self, authority: &str, path: &str) -> io::Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
        self.socket.write_all(request.as_bytes())
    }

    pub(super) fn receive(&mut self) -> io::Result<Answer> {
        loop {
            if let Some((answer, length)) = parse(&self.received)? {
                self.received.drain(..length);
                return Ok(answer);
            }
            let mut chunk = [0; 16 * 1024];
            match self.socket.read(&mut chunk)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                _ if self.received.len() > BYTES_MAX => return Err(malformed()),
                count => self.received.extend_from_slice(&chunk[..count]),
            }
        }
    }
}

/// A response at the beginning of `bytes`, and its length; `None` when more is to come.
fn parse(bytes: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let Ok(parsed) = head.parse(bytes) else { return Err(malformed()) };
    let httparse::Status::Complete(start) = parsed else { return Ok(None) };
    let status = head.code.unwrap_or(0);
    let field = |name: &str| {
        let field = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        field.and_then(|field| std::str::from_utf8(field.value).ok())
    };
    if field("transfer-encoding").is_some() {
        return Ok(chunks(bytes, start)?.map(|(body, end)| (Answer { status, body }, end)));
    }
    let length: usize = field("content-length").unwrap_or("0").parse().map_err(|_| malformed())?;
    if length > BYTES_MAX {
        return Err(malformed());
    }
    let body = bytes.get(start..start + length);
    Ok(body.map(|body| (Answer { status, body: body.to_vec() }, start + length)))
}

/// The chunks that begin at `at`, put together, and where they end.
fn chunks(bytes: &[u8], mut at: usize) -> io::Result<Option<(Vec<u8>, usize)>> {
    const END_OF_LINE: usize = 2;
    let mut body = Vec::new();
    loop {
        let Ok(parsed) = httparse::parse_chunk_size(&bytes[at..]) else { return Err(malformed()) };
        let httparse::Status::Complete((line, size)) = parsed else { return Ok(None) };
        let size = usize::try_from(size).ok().filter(|size| *size <= BYTES_MAX);
        let (start, size) = (at + line, size.ok_or_else(malformed)?);
        let end = start + size + END_OF_LINE;
        if bytes.len() < end {
            return Ok(None);
        }
        body.extend_from_slice(&bytes[start..start + size]);
        at = end;
        // Trailers are nobody's here, so the last chunk's end is that of the body.
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "not an HTTP/1.1 response")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
        parse(bytes).unwrap().map(|(answer, length)| (answer.body, length))
    }

    #[test]
    fn bodies_by_length_and_in_chunks() {
        let sized = b"HTTP/1.1 503 no\r\ncontent-length: 3\r\n\r\nabcHTTP";
        assert_eq!(parse(sized).unwrap().unwrap().0.status, 503);
        assert_eq!(body(sized), Some((b"abc".to_vec(), sized.len() - 4)));
        let chunked =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(body(chunked), Some((b"abc".to_vec(), chunked.len())));
        for length in 0..chunked.len() {
            assert_eq!(body(&chunked[..length]), None, "{length}");
        }
        for length in 0..sized.len() - 4 {
            assert_eq!(body(&sized[..length]), None, "{length}");
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(parse(b"SSH-2.0\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n").is_err());
    }
}
