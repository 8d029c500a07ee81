//! Finds where HTTP/1.1 messages end, and nothing else.
//!
//! The relay forwards bytes as they come, so this looks at them only to learn the length: the end of
//! the head, then Content-Length. It is deliberately the least a proxy can do; it judges nothing and
//! must not face untrusted peers.

use memchr::memmem;

/// Largest head; longer ones end the connection.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Reader of one direction of one connection.
#[derive(Debug, Default)]
pub(super) struct Framer {
    /// Start of an incomplete head.
    held: Vec<u8>,
    /// Body bytes to come; `None` while in the head.
    body_left: Option<u64>,
}

/// What a piece of input was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Advance {
    /// Bytes that belong to the current message.
    pub(super) taken: usize,
    /// The message ends with them.
    pub(super) complete: bool,
}

/// The message's length can't be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unframed;

/// Whether a message without Content-Length has no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It has none.
    Request,
    /// It is delimited in a way the relay doesn't do.
    Response,
}

impl Framer {
    pub(super) fn advance(&mut self, kind: Kind, input: &[u8]) -> Result<Advance, Unframed> {
        let (head_bytes, body_left) = match self.body_left {
            Some(left) => (0, left),
            None => match self.head(kind, input)? {
                Some(found) => found,
                None => return Ok(Advance { taken: input.len(), complete: false }),
            },
        };
        let rest = input.len() - head_bytes;
        let body = usize::try_from(body_left).map_or(rest, |left| left.min(rest));
        let left = body_left - body as u64;
        let complete = left == 0;
        self.body_left = if complete { None } else { Some(left) };
        Ok(Advance { taken: head_bytes + body, complete })
    }

    /// Bytes of `input` in the head, and the length of the body.
    fn head(&mut self, kind: Kind, input: &[u8]) -> Result<Option<(usize, u64)>, Unframed> {
        if self.held.is_empty() {
            if let Some(end) = memmem::find(input, b"\r\n\r\n") {
                return Ok(Some((end + 4, body_length(kind, &input[..end + 2])?)));
            }
            self.held.extend_from_slice(input);
        } else {
            let before = self.held.len();
            self.held.extend_from_slice(input);
            // The delimiter may straddle the seam.
            let from = before.saturating_sub(3);
            if let Some(end) = memmem::find(&self.held[from..], b"\r\n\r\n") {
                let end = from + end;
                let length = body_length(kind, &self.held[..end + 2])?;
                self.held.clear();
                return Ok(Some((end + 4 - before, length)));
            }
        }
        if self.held.len() > HEAD_BYTES_MAX { Err(Unframed) } else { Ok(None) }
    }
}

/// The Content-Length in a head whose lines all end in CRLF.
fn body_length(kind: Kind, head: &[u8]) -> Result<u64, Unframed> {
    const NAME: &[u8] = b"content-length:";
    let mut rest = head;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.len() > NAME.len()
            && line[0] | 0x20 == b'c'
            && line[..NAME.len()].eq_ignore_ascii_case(NAME)
        {
            let digits = line[NAME.len()..].trim_ascii();
            let number = digits.iter().try_fold(0_u64, |number, &digit| {
                let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
                number.checked_mul(10)?.checked_add(digit)
            });
            return if digits.is_empty() { Err(Unframed) } else { number.ok_or(Unframed) };
        }
    }
    if kind == Kind::Request { Ok(0) } else { Err(Unframed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length:  4\r\nx: y\r\n\r\nbody";

    #[test]
    fn ends_messages_at_every_split() {
        for (kind, message) in [(Kind::Request, GET), (Kind::Response, RESPONSE)] {
            for cut in 1..message.len() {
                let mut framer = Framer::default();
                let first = framer.advance(kind, &message[..cut]).unwrap();
                assert_eq!(first, Advance { taken: cut, complete: false });
                let rest = framer.advance(kind, &message[cut..]).unwrap();
                assert_eq!(rest, Advance { taken: message.len() - cut, complete: true });
            }
        }
    }

    #[test]
    fn stops_at_the_end_of_a_message() {
        let two = [RESPONSE, RESPONSE].concat();
        let mut framer = Framer::default();
        let end = Advance { taken: RESPONSE.len(), complete: true };
        assert_eq!(framer.advance(Kind::Response, &two), Ok(end));
        assert_eq!(framer.advance(Kind::Response, RESPONSE), Ok(end));
    }

    #[test]
    fn refuses_what_has_no_length() {
        for input in [
            b"HTTP/1.1 200 OK\r\n\r\n".as_slice(),
            b"HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        ] {
            assert_eq!(Framer::default().advance(Kind::Response, input), Err(Unframed));
        }
        let long = vec![b'a'; HEAD_BYTES_MAX + 1];
        assert_eq!(Framer::default().advance(Kind::Request, &long), Err(Unframed));
    }
}
