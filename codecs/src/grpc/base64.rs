//! Base64 (RFC 4648 section 4) of a stream, in which padding may also stand in the middle: senders
//! encode each message by itself and put the texts together.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::http::Put;

/// Decodes a text that comes in pieces.
///
/// Strict: the standard alphabet, no white space, padding as it has to be, and no bits set where
/// padding cuts a byte off. Who finds an error must stop there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Base64Decoder {
    /// The beginning of a group of four characters.
    group: [u8; GROUP_CHARS],
    len: usize,
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Base64Error {
    /// It is not base64.
    #[error("not base64")]
    Invalid,
    /// It ends in the middle of a group of four characters.
    #[error("base64 that is cut off")]
    Truncated,
}

impl Base64Decoder {
    /// Decodes the next piece as far as it makes whole groups of four characters.
    ///
    /// # Errors
    ///
    /// [`Base64Error::Invalid`].
    pub fn decode<P: Put>(&mut self, mut text: &[u8], out: &mut P) -> Result<(), Base64Error> {
        if self.len > 0 {
            let taken = (GROUP_CHARS - self.len).min(text.len());
            self.group[self.len..self.len + taken].copy_from_slice(&text[..taken]);
            self.len += taken;
            text = &text[taken..];
            if self.len < GROUP_CHARS {
                return Ok(());
            }
            self.len = 0;
            decode_groups(&self.group, out)?;
        }
        while text.len() >= GROUP_CHARS {
            let whole = (text.len() - text.len() % GROUP_CHARS).min(BLOCK_CHARS);
            // Padding ends what can be decoded at once.
            let end = match memchr::memchr(b'=', &text[..whole]) {
                Some(at) => at - at % GROUP_CHARS + GROUP_CHARS,
                None => whole,
            };
            decode_groups(&text[..end], out)?;
            text = &text[end..];
        }
        self.group[..text.len()].copy_from_slice(text);
        self.len = text.len();
        Ok(())
    }

    /// The text is over.
    ///
    /// # Errors
    ///
    /// [`Base64Error::Truncated`].
    pub fn finish(&self) -> Result<(), Base64Error> {
        if self.len == 0 { Ok(()) } else { Err(Base64Error::Truncated) }
    }
}

/// Encodes bytes that come in pieces.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Base64Encoder {
    /// The beginning of a group of three bytes.
    group: [u8; GROUP_BYTES],
    len: usize,
}

impl Base64Encoder {
    /// Encodes the next piece as far as it makes whole groups of three bytes.
    pub(super) fn encode<P: Put>(&mut self, mut bytes: &[u8], out: &mut P) {
        if self.len > 0 {
            let taken = (GROUP_BYTES - self.len).min(bytes.len());
            self.group[self.len..self.len + taken].copy_from_slice(&bytes[..taken]);
            self.len += taken;
            bytes = &bytes[taken..];
            if self.len < GROUP_BYTES {
                return;
            }
            self.len = 0;
            encode_block(&self.group, out);
        }
        let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % GROUP_BYTES);
        for block in whole.chunks(BLOCK_BYTES) {
            encode_block(block, out);
        }
        self.group[..rest.len()].copy_from_slice(rest);
        self.len = rest.len();
    }

    /// Encodes what is left, with padding.
    pub(super) fn pad<P: Put>(&mut self, out: &mut P) {
        encode_block(&self.group[..self.len], out);
        self.len = 0;
    }
}

/// Groups of which only the last may be padded, [`BLOCK_CHARS`] at most.
fn decode_groups<P: Put>(text: &[u8], out: &mut P) -> Result<(), Base64Error> {
    let mut bytes = [0; BLOCK_BYTES];
    let len = STANDARD.decode_slice(text, &mut bytes).map_err(|_| Base64Error::Invalid)?;
    out.put(&bytes[..len]);
    Ok(())
}

/// [`BLOCK_BYTES`] at most.
fn encode_block<P: Put>(bytes: &[u8], out: &mut P) {
    let mut text = [0; BLOCK_CHARS];
    // The text of a block fits.
    if let Ok(len) = STANDARD.encode_slice(bytes, &mut text) {
        out.put(&text[..len]);
    }
}

const GROUP_CHARS: usize = 4;
const GROUP_BYTES: usize = 3;

/// What is translated at once, on the stack.
const BLOCK_CHARS: usize = 1024;
const BLOCK_BYTES: usize = BLOCK_CHARS / GROUP_CHARS * GROUP_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Result<Vec<u8>, Base64Error> {
        let mut decoder = Base64Decoder::default();
        let mut out = Vec::new();
        decoder.decode(text.as_bytes(), &mut out)?;
        decoder.finish().map(|()| out)
    }

    #[test]
    fn padding_may_stand_in_the_middle() {
        assert_eq!(decoded("QQ==QUI=QUJD").unwrap(), b"AABABC");
        assert_eq!(decoded("").unwrap(), b"");
        let long = format!("{}QQ=={}", "QUJD".repeat(400), "QUJD".repeat(300));
        assert_eq!(
            decoded(&long).unwrap(),
            ["ABC".repeat(400), "ABC".repeat(300)].join("A").into_bytes()
        );
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        use Base64Error::{Invalid, Truncated};
        for (text, error) in [
            ("QUI", Truncated),
            ("Q", Truncated),
            ("QUJDQ", Truncated),
            ("####", Invalid),
            ("QUJD\r\nQU", Invalid),
            // The URL alphabet is another one.
            ("-_-_", Invalid),
            // Bits that belong to no byte.
            ("QR==", Invalid),
            ("QUJ=", Invalid),
            ("Q===", Invalid),
            ("====", Invalid),
            ("QQ=A", Invalid),
            ("=QQQ", Invalid),
            ("QQ==Q===", Invalid),
        ] {
            assert_eq!(decoded(text), Err(error), "{text:?}");
        }
    }
}
