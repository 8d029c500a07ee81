//! The origin's HTTP/1.1: an incremental reader of requests, and answers prepared by size.

use std::{collections::HashMap, rc::Rc};

use super::{Bytes, Request};
use crate::variant::Version;

/// Sizes whose answers are kept prepared.
const PREPARED_MAX: usize = 64;
/// Largest request head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most header fields in a request.
const HEADERS_MAX: usize = 64;

const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
const NOT_IMPLEMENTED: &[u8] =
    b"HTTP/1.1 501 Not Implemented\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Prepared answers by body size.
#[derive(Debug, Default)]
pub(super) struct Answers {
    prepared: HashMap<usize, Rc<[u8]>>,
    /// The last one used: almost always the next one too.
    last: Option<(usize, Rc<[u8]>)>,
}

impl Answers {
    /// The answer to a request.
    pub(super) fn to(&mut self, request: Request, default_bytes: usize) -> Bytes {
        match request {
            Request::Body(bytes) => self.sized(bytes.unwrap_or(default_bytes)),
            // gRPC needs HTTP/2.
            Request::Message(_) | Request::Unknown => Bytes::Fixed(NOT_FOUND),
            Request::Unframed => Bytes::Fixed(NOT_IMPLEMENTED),
            Request::Malformed => Bytes::Fixed(BAD_REQUEST),
        }
    }

    fn sized(&mut self, bytes: usize) -> Bytes {
        if let Some((last, answer)) = &self.last
            && *last == bytes
        {
            return Bytes::Shared(Rc::clone(answer));
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
        Bytes::Shared(Rc::clone(answer))
    }
}

/// Incremental reader of one connection's requests.
#[derive(Debug, Default)]
pub(super) struct Requests {
    held: Vec<u8>,
    /// Bytes of the current request's body still to come; its answer is in `pending`.
    body_left: u64,
    pending: Option<Request>,
}

impl Requests {
    /// The next complete request and the bytes of `input` up to its end; `None` when all of `input`
    /// was taken without reaching one. After one that can't be framed there is none.
    pub(super) fn next(&mut self, input: &[u8]) -> Option<(Request, usize)> {
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
    let request = Request::to(request.path.unwrap_or("/"), Version::Http1);
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
        let mut answers = Answers::default();
        let answer = answers.to(Request::Body(None), 3);
        assert!(answer.get().ends_with(b"content-length: 3\r\n\r\nooo"));
        let answer = answers.to(Request::Body(Some(0)), 3);
        assert!(answer.get().ends_with(b"content-length: 0\r\n\r\n"));
        assert_eq!(answers.to(Request::Unknown, 3), Bytes::Fixed(NOT_FOUND));
    }
}
