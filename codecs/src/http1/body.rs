//! Bodies in any framing, decoded in whatever pieces they arrive.

use std::ops::Range;

use crate::http::BodyFraming;

use super::chunked::{ChunkedDecoder, ChunkedError, ChunkedLimits};

/// Finds the data bytes of one message body.
#[derive(Clone, Debug, PartialEq)]
pub enum BodyDecoder {
    /// Chunked body.
    Chunked(ChunkedDecoder),
    /// Body of known length.
    Length {
        /// The bytes still to come.
        remaining: u64,
    },
    /// No body.
    None,
    /// Everything until the connection closes.
    UntilClose,
}

impl BodyDecoder {
    /// The decoder for a body with this framing.
    #[must_use]
    pub fn new(framing: BodyFraming, limits: ChunkedLimits) -> Self {
        match framing {
            BodyFraming::Chunked => Self::Chunked(ChunkedDecoder::new(limits)),
            BodyFraming::Length(remaining) => Self::Length { remaining },
            BodyFraming::None => Self::None,
            BodyFraming::UntilClose => Self::UntilClose,
        }
    }

    /// Finds the next run of data in `input`, the bytes that follow those consumed so far. Call again
    /// with `input[consumed..]` until a step is done or consumes nothing.
    ///
    /// Bytes after the end of the body are never consumed.
    ///
    /// # Errors
    ///
    /// As [`ChunkedDecoder::decode`]; other framings can't fail.
    pub fn decode(&mut self, input: &[u8]) -> Result<BodyStep, ChunkedError> {
        let taken = match self {
            Self::Chunked(decoder) => return decoder.decode(input),
            Self::Length { remaining } => {
                // Where usize is narrower than u64, a saturated value is more than any input holds.
                let taken = input.len().min(usize::try_from(*remaining).unwrap_or(usize::MAX));
                *remaining -= taken as u64;
                taken
            }
            Self::None => 0,
            Self::UntilClose => input.len(),
        };
        Ok(BodyStep { consumed: taken, data: 0..taken, done: self.is_done() })
    }

    /// Whether the whole body has been decoded. Never true for a body that ends with the connection.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Chunked(decoder) => decoder.is_done(),
            Self::Length { remaining } => *remaining == 0,
            Self::None => true,
            Self::UntilClose => false,
        }
    }

    /// To be called when the connection has ended.
    ///
    /// # Errors
    ///
    /// [`Truncated`] if the body is not complete (RFC 9112 section 8).
    pub fn on_eof(&self) -> Result<(), Truncated> {
        match self {
            Self::UntilClose => Ok(()),
            _ if self.is_done() => Ok(()),
            _ => Err(Truncated),
        }
    }
}

impl From<BodyFraming> for BodyDecoder {
    /// With the default [`ChunkedLimits`].
    fn from(framing: BodyFraming) -> Self {
        Self::new(framing, ChunkedLimits::default())
    }
}

/// What one call of a decoder found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BodyStep {
    /// The bytes of the input that are dealt with, data and framing.
    pub consumed: usize,
    /// The data among them, relative to the input; empty if there is none.
    pub data: Range<usize>,
    /// Whether the body is complete.
    pub done: bool,
}

/// The connection ended before the body did.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("connection ended before the body did")]
pub struct Truncated;

#[cfg(test)]
mod tests {
    use super::*;

    fn step(consumed: usize, data: Range<usize>, done: bool) -> Result<BodyStep, ChunkedError> {
        Ok(BodyStep { consumed, data, done })
    }

    #[test]
    fn length_takes_its_bytes_and_no_more() {
        let mut body = BodyDecoder::from(BodyFraming::Length(5));
        assert_eq!(body.on_eof(), Err(Truncated));
        assert_eq!(body.decode(b"abc"), step(3, 0..3, false));
        assert_eq!(body.decode(b""), step(0, 0..0, false));
        assert_eq!(body.on_eof(), Err(Truncated));
        assert_eq!(body.decode(b"deGET /"), step(2, 0..2, true));
        assert_eq!(body.decode(b"GET /"), step(0, 0..0, true));
        assert_eq!(body.on_eof(), Ok(()));
    }

    #[test]
    fn empty_bodies_are_done_at_once() {
        for framing in [BodyFraming::None, BodyFraming::Length(0)] {
            let mut body = BodyDecoder::from(framing);
            assert!(framing.is_empty());
            assert!(body.is_done());
            assert_eq!(body.decode(b"GET /"), step(0, 0..0, true));
            assert_eq!(body.on_eof(), Ok(()));
        }
    }

    #[test]
    fn until_close_takes_all_and_ends_with_the_connection() {
        let mut body = BodyDecoder::from(BodyFraming::UntilClose);
        assert_eq!(body.decode(b"abc"), step(3, 0..3, false));
        assert!(!body.is_done());
        assert_eq!(body.on_eof(), Ok(()));
    }

    #[test]
    fn chunked_must_be_complete_at_the_end() {
        let mut body = BodyDecoder::from(BodyFraming::Chunked);
        assert_eq!(body.decode(b"1\r\na\r\n0\r\n"), step(9, 3..4, false));
        assert_eq!(body.on_eof(), Err(Truncated));
        assert_eq!(body.decode(b"\r\n"), step(2, 0..0, true));
        assert_eq!(body.on_eof(), Ok(()));
    }
}
