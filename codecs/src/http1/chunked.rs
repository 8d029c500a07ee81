//! The chunked transfer coding (RFC 9112 section 7.1), decoded incrementally.
//!
//! The decoder may be given a body in any pieces and finds the same data, the same end and the same
//! error. It copies nothing but trailers. Chunk extensions are checked and dropped, as a recipient
//! must ignore those it does not know and none are known.
//!
//! ```text
//! Size -> [Extension] -> SizeLf -> Data -> DataLf -> Size ...
//!                          | size 0
//!                          v
//!                      TrailerLineStart -> TrailerLine -> TrailerLf -> TrailerLineStart ...
//!                          | CR
//!                          v
//!                        EndLf -> Done
//! ```
//!
//! Stricter than the grammar, where parsers are known to differ: no whitespace around the size or in
//! an extension (BWS), no lone LF, at most 16 hex digits and sizes below 2^63.

use super::body::BodyStep;
use crate::http::field::{Field, FieldKind, FieldStorage, trim_whitespace};

/// How much a chunked body may hold beside its data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkedLimits {
    /// The most bytes of extensions on one chunk-size line, from the semicolon on.
    pub extension_bytes_max: usize,
    /// The most bytes of trailer field lines, with their CRLFs.
    pub trailer_bytes_max: usize,
    /// The most trailer fields; above [`FIELDS_MAX`](crate::http::FIELDS_MAX) it has no further effect.
    pub trailer_fields_max: usize,
}

impl Default for ChunkedLimits {
    /// 256 bytes of extensions, which hardly anyone sends at all, so that a body can't be mostly
    /// extensions; 8 KiB and 100 fields of trailers.
    fn default() -> Self {
        Self { extension_bytes_max: 256, trailer_bytes_max: 8 * 1024, trailer_fields_max: 100 }
    }
}

/// Finds the data of a chunked body in the pieces in which it arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct ChunkedDecoder {
    limits: ChunkedLimits,
    state: State,
    /// Complete and partial trailer lines received so far, within `limits.trailer_bytes_max`.
    trailers: Vec<u8>,
}

impl ChunkedDecoder {
    /// A decoder at the start of a body.
    #[must_use]
    pub fn new(limits: ChunkedLimits) -> Self {
        Self { limits, state: State::SIZE_START, trailers: Vec::new() }
    }

    /// Finds the next run of data in `input`, the bytes that follow those consumed so far. Call again
    /// with `input[consumed..]` until a step is done or consumes nothing.
    ///
    /// Framing around the data is consumed along with it, so one call per chunk is enough. Bytes after
    /// the end of the body are never consumed.
    ///
    /// # Errors
    ///
    /// Why the first byte of `input` can't continue a well-formed body within the limits. What comes
    /// before such a byte is consumed by a step of its own, so all data is given out first, and the
    /// error is lasting.
    pub fn decode(&mut self, input: &[u8]) -> Result<BodyStep, ChunkedError> {
        let mut data = 0..0;
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Data { remaining } if remaining > 0 => {
                    if !data.is_empty() {
                        break;
                    }
                    // Where usize is narrower than u64, a saturated value is more than input holds.
                    let wanted = usize::try_from(remaining).unwrap_or(usize::MAX);
                    let taken = wanted.min(input.len() - at);
                    self.state = State::Data { remaining: remaining - taken as u64 };
                    data = at..at + taken;
                    at = data.end;
                }
                State::Done => break,
                _ => match self.advance(byte) {
                    Ok(()) => at += 1,
                    Err(error) if at == 0 => return Err(error),
                    Err(_) => break,
                },
            }
        }
        Ok(BodyStep { consumed: at, data, done: self.is_done() })
    }

    /// Takes the trailer section of a complete body: its field lines, each with its CRLF, without the
    /// empty line that ends it. `None` if there were none, or before the end.
    ///
    /// Read it with [`parse_trailers`], which can't fail on it.
    pub fn take_trailers(&mut self) -> Option<Box<[u8]>> {
        if !self.is_done() || self.trailers.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut self.trailers).into_boxed_slice())
    }

    /// Whether the whole body has been decoded.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes one byte of framing. On an error the state is as before.
    fn advance(&mut self, byte: u8) -> Result<(), ChunkedError> {
        self.state = match self.state {
            State::Size { digits, size } => self.advance_size(byte, digits, size)?,
            State::Extension { part, bytes, size } => {
                self.advance_extension(byte, part, bytes, size)?
            }
            State::SizeLf { size: 0 } if byte == b'\n' => State::TrailerLineStart,
            State::SizeLf { size } if byte == b'\n' => State::Data { remaining: size },
            State::SizeLf { .. } => return Err(ChunkedError::LineEndingInvalid),
            State::Data { .. } if byte == b'\r' => State::DataLf,
            State::DataLf if byte == b'\n' => State::SIZE_START,
            State::Data { .. } | State::DataLf => return Err(ChunkedError::DataEndInvalid),
            State::TrailerLineStart if byte == b'\r' => State::EndLf,
            State::TrailerLineStart | State::TrailerLine => self.advance_trailer_line(byte)?,
            State::TrailerLf if byte == b'\n' => {
                self.push_trailer_byte(byte)?;
                State::TrailerLineStart
            }
            State::EndLf if byte == b'\n' => {
                self.check_trailers()?;
                State::Done
            }
            State::TrailerLf | State::EndLf => return Err(ChunkedError::LineEndingInvalid),
            State::Done => State::Done,
        };
        Ok(())
    }

    /// `chunk-size = 1*HEXDIG`, then an extension or the end of the line.
    fn advance_size(&self, byte: u8, digits: u8, size: u64) -> Result<State, ChunkedError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if digits > 0 => return Ok(State::SizeLf { size }),
            b';' if digits > 0 && self.limits.extension_bytes_max > 0 => {
                return Ok(State::Extension { part: ExtensionPart::NameStart, bytes: 1, size });
            }
            b';' if digits > 0 => return Err(ChunkedError::ExtensionTooLarge),
            b'\n' => return Err(ChunkedError::LineEndingInvalid),
            _ => return Err(ChunkedError::SizeInvalid),
        };
        // Within 15 digits a size is below 2^60, so that one more digit can't lose bits.
        let size = (size << 4) | u64::from(digit);
        if digits == SIZE_DIGITS_MAX || size > i64::MAX.cast_unsigned() {
            return Err(ChunkedError::SizeTooLarge);
        }
        Ok(State::Size { digits: digits + 1, size })
    }

    /// `chunk-ext = *( ";" token [ "=" ( token / quoted-string ) ] )`, without the whitespace that the
    /// grammar tolerates (RFC 9112 section 7.1.1).
    fn advance_extension(
        &self,
        byte: u8,
        part: ExtensionPart,
        bytes: usize,
        size: u64,
    ) -> Result<State, ChunkedError> {
        use ExtensionPart::{Name, NameStart, Quoted, QuotedEnd, QuotedEscape, Value, ValueStart};
        let part = match (part, byte) {
            (Name | QuotedEnd | Value, b'\r') => return Ok(State::SizeLf { size }),
            (_, b'\n') => return Err(ChunkedError::LineEndingInvalid),
            (Name | QuotedEnd | Value, b';') => NameStart,
            (Name, b'=') => ValueStart,
            (ValueStart, b'"') => Quoted,
            (Quoted, b'"') => QuotedEnd,
            (Quoted, b'\\') => QuotedEscape,
            (Quoted | QuotedEscape, b'\t' | b' '..=b'~' | 0x80..) => Quoted,
            (Name | NameStart, _) if is_token_byte(byte) => Name,
            (Value | ValueStart, _) if is_token_byte(byte) => Value,
            _ => return Err(ChunkedError::ExtensionInvalid),
        };
        if bytes >= self.limits.extension_bytes_max {
            return Err(ChunkedError::ExtensionTooLarge);
        }
        Ok(State::Extension { part, bytes: bytes + 1, size })
    }

    fn advance_trailer_line(&mut self, byte: u8) -> Result<State, ChunkedError> {
        if byte == b'\n' {
            return Err(ChunkedError::LineEndingInvalid);
        }
        self.push_trailer_byte(byte)?;
        Ok(if byte == b'\r' { State::TrailerLf } else { State::TrailerLine })
    }

    fn push_trailer_byte(&mut self, byte: u8) -> Result<(), ChunkedError> {
        if self.trailers.len() >= self.limits.trailer_bytes_max {
            return Err(ChunkedError::TrailersTooLarge);
        }
        self.trailers.push(byte);
        Ok(())
    }

    fn check_trailers(&self) -> Result<(), ChunkedError> {
        if self.trailers.is_empty() {
            return Ok(());
        }
        let mut storage = FieldStorage::new();
        let fields = parse_trailers(&self.trailers, &mut storage)?;
        if fields.len() > self.limits.trailer_fields_max {
            return Err(ChunkedError::TrailersTooMany);
        }
        Ok(())
    }
}

/// Reads a trailer section as [`ChunkedDecoder::take_trailers`] gives it out.
///
/// A field that frames, routes or authenticates a message, or that a proxy acts on in any other way,
/// comes too late in a trailer and must not be sent there (RFC 9110 section 6.5.1). So a trailer
/// section may hold only fields whose kind is [`FieldKind::Other`]; any other is refused.
///
/// # Errors
///
/// A field line that is malformed, a field that is not allowed, or more than [`FIELDS_MAX`](crate::http::FIELDS_MAX).
pub fn parse_trailers<'s, 'b>(
    section: &'b [u8],
    storage: &'s mut FieldStorage<'b>,
) -> Result<&'s [Field<'b>], ChunkedError> {
    storage.fields.clear();
    let mut rest = section;
    while !rest.is_empty() {
        let line_len = match memchr::memchr(b'\n', rest) {
            Some(end) if end > 0 && rest[end - 1] == b'\r' => end + 1,
            _ => return Err(ChunkedError::LineEndingInvalid),
        };
        let field = parse_trailer_line(&rest[..line_len])?;
        storage.fields.try_push(field).map_err(|_| ChunkedError::TrailersTooMany)?;
        rest = &rest[line_len..];
    }
    Ok(&storage.fields)
}

/// `field-line = token ":" OWS field-value OWS CRLF`.
fn parse_trailer_line(line: &[u8]) -> Result<Field<'_>, ChunkedError> {
    let colon = memchr::memchr(b':', line).ok_or(ChunkedError::TrailerInvalid)?;
    let (name, value) = (&line[..colon], &line[colon + 1..line.len() - 2]);
    if name.is_empty() || !name.iter().copied().all(is_token_byte) {
        return Err(ChunkedError::TrailerInvalid);
    }
    if !value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..)) {
        return Err(ChunkedError::TrailerInvalid);
    }
    let name = str::from_utf8(name).map_err(|_| ChunkedError::TrailerInvalid)?;
    let field = Field::new(name, trim_whitespace(value));
    if field.kind != FieldKind::Other {
        return Err(ChunkedError::TrailerForbidden);
    }
    Ok(field)
}

/// tchar (RFC 9110 section 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+')
        || matches!(byte, b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// Where in a chunked body the decoder is. A chunk size of 0 means the last chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// In the data of a chunk, or before the CR after it when nothing remains.
    Data { remaining: u64 },
    /// After the CR behind a chunk's data.
    DataLf,
    /// At the end of the body.
    Done,
    /// After the CR of the empty line that ends the body.
    EndLf,
    /// In the extensions of a chunk-size line, of which `bytes` have been seen.
    Extension { part: ExtensionPart, bytes: usize, size: u64 },
    /// In a chunk size, of which `digits` have been seen.
    Size { digits: u8, size: u64 },
    /// After the CR of a chunk-size line.
    SizeLf { size: u64 },
    /// After the CR of a trailer line.
    TrailerLf,
    /// In a trailer line.
    TrailerLine,
    /// Before a trailer line or the empty line that ends the body.
    TrailerLineStart,
}

impl State {
    const SIZE_START: Self = Self::Size { digits: 0, size: 0 };
}

/// Where in `";" name [ "=" value ]` the decoder is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ExtensionPart {
    Name,
    NameStart,
    Quoted,
    QuotedEnd,
    QuotedEscape,
    Value,
    ValueStart,
}

/// Why a chunked body is refused. Its end is unknown then, so the connection must be closed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkedError {
    /// A chunk's data is not followed by CRLF.
    #[error("chunk data does not end in crlf")]
    DataEndInvalid,
    /// An extension is not `";" token [ "=" ( token / quoted-string ) ]`.
    #[error("invalid chunk extension")]
    ExtensionInvalid,
    /// The extensions of one chunk are longer than the limit.
    #[error("chunk extension too large")]
    ExtensionTooLarge,
    /// A chunk-size line or a trailer line does not end in CRLF.
    #[error("a line of the chunked framing does not end in crlf")]
    LineEndingInvalid,
    /// A chunk size is empty or holds something else than hex digits.
    #[error("invalid chunk size")]
    SizeInvalid,
    /// A chunk size has more than 16 digits or is not below 2^63.
    #[error("chunk size too large")]
    SizeTooLarge,
    /// A trailer field that must not come in a trailer section.
    #[error("field not allowed in a trailer section")]
    TrailerForbidden,
    /// A trailer line is not a well-formed field line.
    #[error("invalid trailer field")]
    TrailerInvalid,
    /// The trailer section is longer than the limit.
    #[error("trailer section too large")]
    TrailersTooLarge,
    /// More trailer fields than the limit.
    #[error("too many trailer fields")]
    TrailersTooMany,
}

/// The hex digits of the largest u64.
const SIZE_DIGITS_MAX: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ChunkedLimits =
        ChunkedLimits { extension_bytes_max: 4, trailer_bytes_max: 12, trailer_fields_max: 2 };

    #[test]
    fn rfc9112_7_1_grammar_in_one_body() {
        let body =
            b"4\r\nWiki\r\n5;a=b\r\npedia\r\nE\r\n in\r\n\r\nchunks.\r\n0\r\na: b\r\n\r\nnext";
        let mut decoder = ChunkedDecoder::new(LIMITS);
        let mut data = Vec::new();
        let mut at = 0;
        while !decoder.is_done() {
            let step = decoder.decode(&body[at..]).unwrap();
            data.extend_from_slice(&body[at..][step.data]);
            at += step.consumed;
        }
        assert_eq!(data, b"Wikipedia in\r\n\r\nchunks.");
        assert_eq!(&body[at..], b"next");
        assert_eq!(decoder.take_trailers().as_deref(), Some(&b"a: b\r\n"[..]));
        assert_eq!(decoder.take_trailers(), None);
    }

    #[test]
    fn one_call_takes_a_chunk_with_the_framing_around_it() {
        let mut decoder = ChunkedDecoder::new(LIMITS);
        let input = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let step = decoder.decode(input).unwrap();
        assert_eq!(step, BodyStep { consumed: 11, data: 3..6, done: false });
        let step = decoder.decode(&input[11..]).unwrap();
        assert_eq!(step, BodyStep { consumed: 9, data: 0..2, done: true });
        assert_eq!(decoder.decode(b"x"), Ok(BodyStep { consumed: 0, data: 0..0, done: true }));
    }

    #[test]
    fn data_before_an_error_is_given_out_and_the_error_lasts() {
        let mut decoder = ChunkedDecoder::new(LIMITS);
        let step = decoder.decode(b"3\r\nabcX").unwrap();
        assert_eq!(step, BodyStep { consumed: 6, data: 3..6, done: false });
        for _ in 0..2 {
            assert_eq!(decoder.decode(b"X"), Err(ChunkedError::DataEndInvalid));
        }
    }

    #[test]
    fn extensions_are_limited_per_line() {
        assert_eq!(verdict(LIMITS, b"1;abc\r\na\r\n1;abc\r\na\r\n0;abc\r\n\r\n"), Ok(()));
        assert_eq!(verdict(LIMITS, b"1;abcd\r\n"), Err(ChunkedError::ExtensionTooLarge));
        let none = ChunkedLimits { extension_bytes_max: 0, ..LIMITS };
        assert_eq!(verdict(none, b"1\r\na\r\n0\r\n\r\n"), Ok(()));
        assert_eq!(verdict(none, b"1;a\r\n"), Err(ChunkedError::ExtensionTooLarge));
    }

    #[test]
    fn trailers_are_limited_in_bytes_and_number() {
        assert_eq!(verdict(LIMITS, b"0\r\na: b\r\nc: d\r\n\r\n"), Ok(()));
        assert_eq!(verdict(LIMITS, b"0\r\na: b\r\nc: de\r\n"), Err(ChunkedError::TrailersTooLarge));
        assert_eq!(
            verdict(LIMITS, b"0\r\na:\r\nb:\r\nc:\r\n\r\n"),
            Err(ChunkedError::TrailersTooMany)
        );
    }

    #[test]
    fn trailers_are_kept_until_the_end() {
        let mut decoder = ChunkedDecoder::new(LIMITS);
        decoder.decode(b"0\r\na: b\r\n").unwrap();
        assert_eq!(decoder.take_trailers(), None);
        decoder.decode(b"\r\n").unwrap();
        assert!(decoder.take_trailers().is_some());
    }

    #[test]
    fn largest_size_is_below_2_63() {
        let mut decoder = ChunkedDecoder::new(LIMITS);
        let step = decoder.decode(b"7fffffffffffffff\r\nabc").unwrap();
        assert_eq!(step, BodyStep { consumed: 21, data: 18..21, done: false });
    }

    fn verdict(limits: ChunkedLimits, body: &[u8]) -> Result<(), ChunkedError> {
        let mut decoder = ChunkedDecoder::new(limits);
        let mut at = 0;
        while !decoder.is_done() {
            at += decoder.decode(&body[at..])?.consumed;
        }
        Ok(())
    }
}
