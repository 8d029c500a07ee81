//! Collects a ClientHello from records that come in pieces.

use super::hello::{ClientHello, HelloError};

/// What is known of a connection's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inspected<'a> {
    /// The ClientHello is not complete.
    NeedMore,
    /// This is no TLS: the first bytes do not begin a handshake record.
    NotTls,
    /// It begins like TLS, but it is no ClientHello that can be read.
    Malformed(HelloError),
    /// The ClientHello.
    Hello(ClientHello<'a>),
}

/// Reads the beginning of a TLS connection (RFC 8446 sections 4.1.2 and 5.1).
///
/// The message may be split over any number of records, and the records over any number of pieces.
#[derive(Debug, Clone)]
pub struct HelloInspector {
    limit_bytes: usize,
    /// The handshake message so far, its header included.
    message: Vec<u8>,
    header: [u8; RECORD_HEADER_BYTES],
    header_bytes: usize,
    /// Bytes of the present record that are still to come.
    record_left: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Collecting,
    Complete,
    NotTls,
    Malformed(HelloError),
}

impl HelloInspector {
    /// An inspector that takes a ClientHello of `limit_bytes` at the most, its header of 4 bytes
    /// included.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            message: Vec::new(),
            header: [0; RECORD_HEADER_BYTES],
            header_bytes: 0,
            record_left: 0,
            state: State::Collecting,
        }
    }

    /// Takes the next bytes of the connection, and says what is known now.
    ///
    /// What comes after the ClientHello, or after an error, is not looked at.
    pub fn push(&mut self, bytes: &[u8]) -> Inspected<'_> {
        if self.state == State::Collecting {
            self.state = self.collect(bytes);
            // A message that can't be read is known as such from now on.
            if self.state == State::Complete
                && let Err(error) = ClientHello::parse(self.body())
            {
                self.state = State::Malformed(error);
            }
        }
        self.inspected()
    }

    /// What is known now.
    #[must_use]
    pub fn inspected(&self) -> Inspected<'_> {
        match self.state {
            State::Collecting => Inspected::NeedMore,
            State::NotTls => Inspected::NotTls,
            State::Malformed(error) => Inspected::Malformed(error),
            State::Complete => match ClientHello::parse(self.body()) {
                Ok(hello) => Inspected::Hello(hello),
                Err(error) => Inspected::Malformed(error),
            },
        }
    }

    fn collect(&mut self, mut bytes: &[u8]) -> State {
        while let [first, rest @ ..] = bytes {
            if self.record_left == 0 {
                self.header[self.header_bytes] = *first;
                self.header_bytes += 1;
                bytes = rest;
                if let Some(verdict) = self.check_header() {
                    return verdict;
                }
                continue;
            }
            let count = self.record_left.min(bytes.len());
            // Beyond the message the record must end, so no more than that is kept.
            let wanted = self.wanted().saturating_sub(self.message.len());
            let (piece, rest) = bytes.split_at(count.min(wanted));
            self.message.extend_from_slice(piece);
            self.record_left -= piece.len();
            bytes = rest;
            if let Some(verdict) = self.check_message() {
                return verdict;
            }
        }
        State::Collecting
    }

    /// Judges a record's header as soon as each byte of it is there.
    fn check_header(&mut self) -> Option<State> {
        let first_record = self.message.is_empty();
        let refused = |error| if first_record { State::NotTls } else { State::Malformed(error) };
        match self.header_bytes {
            1 if self.header[0] != CONTENT_HANDSHAKE => Some(refused(HelloError::Record)),
            // TLS 1.0 to 1.3 say 3.0 to 3.4 here; the minor version is to be ignored.
            2 if self.header[1] != VERSION_MAJOR => Some(refused(HelloError::Record)),
            RECORD_HEADER_BYTES => {
                let len = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.header_bytes = 0;
                self.record_left = len;
                // Handshake messages must not be empty fragments (RFC 8446 section 5.1).
                let fits = (1..=PLAINTEXT_BYTES_MAX).contains(&len);
                (!fits).then_some(State::Malformed(HelloError::Record))
            }
            _ => None,
        }
    }

    /// Judges the message as soon as its type and its length are known.
    fn check_message(&self) -> Option<State> {
        if self.message[0] != MESSAGE_CLIENT_HELLO {
            return Some(State::Malformed(HelloError::NotClientHello));
        }
        if self.message.len() < MESSAGE_HEADER_BYTES {
            return None;
        }
        if self.wanted() > self.limit_bytes {
            return Some(State::Malformed(HelloError::TooLong));
        }
        (self.message.len() == self.wanted()).then_some(State::Complete)
    }

    /// Length of the message, as far as it is known: at first its header's.
    fn wanted(&self) -> usize {
        match self.message[..] {
            [_, a, b, c, ..] => MESSAGE_HEADER_BYTES + u32::from_be_bytes([0, a, b, c]) as usize,
            _ => MESSAGE_HEADER_BYTES,
        }
    }

    fn body(&self) -> &[u8] {
        self.message.get(MESSAGE_HEADER_BYTES..).unwrap_or_default()
    }
}

const CONTENT_HANDSHAKE: u8 = 22;
const VERSION_MAJOR: u8 = 3;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const RECORD_HEADER_BYTES: usize = 5;
const MESSAGE_HEADER_BYTES: usize = 4;
/// RFC 8446 section 5.1.
const PLAINTEXT_BYTES_MAX: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::hello::samples::hello;

    const LIMIT: usize = 64 * 1024;

    fn records(message: &[u8], record_bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in message.chunks(record_bytes) {
            out.extend_from_slice(&[22, 3, 1]);
            out.extend_from_slice(&(piece.len() as u16).to_be_bytes());
            out.extend_from_slice(piece);
        }
        out
    }

    fn inspect(bytes: &[u8]) -> String {
        format!("{:?}", HelloInspector::new(LIMIT).push(bytes))
    }

    #[test]
    fn a_hello_is_found_however_it_is_cut() {
        let message = hello("www.example.org", &[b"h2", b"http/1.1"]);
        let whole = inspect(&records(&message, 1 << 14));
        assert!(whole.contains("www.example.org"), "{whole}");
        for record_bytes in [1, 2, 3, 4, 5, 50, 100] {
            let bytes = records(&message, record_bytes);
            assert_eq!(inspect(&bytes), whole);
            let mut inspector = HelloInspector::new(LIMIT);
            for (at, byte) in bytes.iter().enumerate() {
                let last = at + 1 == bytes.len();
                let found = inspector.push(&[*byte]);
                assert_eq!(found == Inspected::NeedMore, !last, "at byte {at}");
            }
            assert_eq!(format!("{:?}", inspector.inspected()), whole);
        }
    }

    #[test]
    fn other_protocols_are_told_by_their_first_bytes() {
        for bytes in [&b"G"[..], b"PRI * HTTP/2.0", b"\x80\x2e\x01", b"\x16\x02", b"\x17\x03"] {
            assert_eq!(HelloInspector::new(LIMIT).push(bytes), Inspected::NotTls, "{bytes:?}");
        }
        for bytes in [&b""[..], b"\x16", b"\x16\x03", b"\x16\x03\x01\x00"] {
            assert_eq!(HelloInspector::new(LIMIT).push(bytes), Inspected::NeedMore, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_hello_is_malformed() {
        let malformed = |bytes: &[u8]| match HelloInspector::new(100).push(bytes) {
            Inspected::Malformed(error) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(malformed(b"\x16\x03\x01\x00\x00"), HelloError::Record);
        assert_eq!(malformed(b"\x16\x03\x01\x40\x01"), HelloError::Record);
        assert_eq!(malformed(b"\x16\x03\x01\x00\x04\x02"), HelloError::NotClientHello);
        assert_eq!(malformed(b"\x16\x03\x01\x00\x01\x01\x15"), HelloError::Record);
        // 96 bytes of body fit a limit of 100, and 97 do not.
        assert_eq!(malformed(b"\x16\x03\x01\x00\x04\x01\x00\x00\x61"), HelloError::TooLong);
        let fits = HelloInspector::new(100).push(b"\x16\x03\x01\x00\x04\x01\x00\x00\x60")
            == Inspected::NeedMore;
        assert!(fits);
    }

    #[test]
    fn what_follows_is_not_kept() {
        let mut bytes = records(&hello("a", &[]), 1 << 14);
        let len = bytes.len();
        bytes.extend_from_slice(&[0; 1000]);
        let mut inspector = HelloInspector::new(LIMIT);
        assert!(matches!(inspector.push(&bytes), Inspected::Hello(_)));
        assert_eq!(inspector.message.len(), len - RECORD_HEADER_BYTES);
        assert!(matches!(inspector.push(b"more"), Inspected::Hello(_)));
    }
}
