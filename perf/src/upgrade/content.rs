//! What requests and answers say: who they are, in every byte.
//!
//! A content is text: the request's number, the wait and the length that it asks for, and from there on
//! letters that follow from the number alone. So whoever reads a content knows whose it is, and that
//! nothing in it was lost, doubled or mixed with another's. Invariant: [`Ask::read`] takes exactly what
//! [`Ask::put`] has written, byte for byte.

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Number of the request, unique in a run: its client above, its place among the client's below.
    pub id: u64,
    /// How long the origin is to wait, in milliseconds.
    pub delay_ms: u32,
    /// Length of the answer's content, at least [`HEAD_BYTES`].
    pub reply_bytes: u32,
}

/// Bytes that say what is asked for. No content is shorter.
pub const HEAD_BYTES: usize = 32;
/// Longest content.
pub const CONTENT_BYTES_MAX: usize = 4 << 20;

impl Ask {
    /// Number of a client's request.
    #[must_use]
    pub fn id(client: u32, sequence: u32) -> u64 {
        u64::from(client) << u32::BITS | u64::from(sequence)
    }

    /// Appends a content of so many bytes, or of [`HEAD_BYTES`] if that is more.
    pub fn put(self, bytes: usize, out: &mut Vec<u8>) {
        let end = out.len() + bytes.max(HEAD_BYTES);
        out.extend_from_slice(self.head().as_bytes());
        let mut letters = Letters(self.id);
        while out.len() < end {
            let more = letters.next();
            let room = (end - out.len()).min(more.len());
            out.extend_from_slice(&more[..room]);
        }
    }

    /// The same as a whole.
    #[must_use]
    pub fn content(self, bytes: usize) -> Vec<u8> {
        let mut content = Vec::with_capacity(bytes.max(HEAD_BYTES));
        self.put(bytes, &mut content);
        content
    }

    /// Reads a whole content; `None` if a byte is wrong.
    #[must_use]
    pub fn read(content: &[u8]) -> Option<Self> {
        let (head, rest) = content.split_at_checked(HEAD_BYTES)?;
        let ask = Self::parse(head)?;
        let mut letters = Letters(ask.id);
        let is_right = rest.chunks(LETTERS).all(|piece| letters.next().starts_with(piece));
        is_right.then_some(ask)
    }

    /// The head alone, for where a request has no content.
    #[must_use]
    pub fn head(self) -> String {
        format!("{:016x}{:08x}{:08x}", self.id, self.delay_ms, self.reply_bytes)
    }

    /// Reads a head.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let number = |from: usize, to: usize| {
            let digits = std::str::from_utf8(head.get(from..to)?).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        if head.len() != HEAD_BYTES {
            return None;
        }
        let short = |from, to| number(from, to).and_then(|value| u32::try_from(value).ok());
        let ask =
            Self { id: number(0, 16)?, delay_ms: short(16, 24)?, reply_bytes: short(24, 32)? };
        (ask.reply_bytes as usize <= CONTENT_BYTES_MAX).then_some(ask)
    }
}

/// Letters that come at a time.
const LETTERS: usize = 8;

/// An endless text.
struct Letters(u64);

impl Letters {
    fn next(&mut self) -> [u8; LETTERS] {
        // The step and the mixing of SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word.to_le_bytes().map(|byte| b'a' + (byte & 15))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: Ask = Ask { id: 0x0003_0000_0007, delay_ms: 250, reply_bytes: 1000 };

    #[test]
    fn what_was_put_is_read() {
        for bytes in [0, 32, 33, 39, 40, 41, 100_000] {
            let content = ASK.content(bytes);
            assert_eq!(content.len(), bytes.max(HEAD_BYTES));
            assert_eq!(Ask::read(&content), Some(ASK), "{bytes}");
        }
    }

    #[test]
    fn every_wrong_byte_is_found() {
        let content = ASK.content(100);
        for at in 0..content.len() {
            let mut wrong = content.clone();
            wrong[at] ^= 1;
            assert_ne!(Ask::read(&wrong), Some(ASK), "{at}");
        }
        for length in 0..HEAD_BYTES {
            assert_eq!(Ask::read(&content[..length]), None);
        }
        let other = Ask { id: 8, ..ASK }.content(100);
        let mixed = [&content[..64], &other[64..]].concat();
        assert_eq!(Ask::read(&mixed), None);
    }
}
