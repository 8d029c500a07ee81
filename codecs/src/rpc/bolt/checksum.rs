//! The checksum behind a version 2 frame: CRC-32/ISO-HDLC of everything before it, big-endian
//! (bolt.md section 3.4).

use crc32fast::Hasher;

/// Bytes of a checksum.
pub(super) const LEN: usize = 4;

/// The checksum of `bytes`.
pub(super) fn of(bytes: &[u8]) -> [u8; LEN] {
    crc32fast::hash(bytes).to_be_bytes()
}

/// The checksum of the first `covered` bytes of `parts`, and the one that stands behind them; `None`
/// when it isn't all there.
pub(super) fn compare(
    parts: &mut dyn Iterator<Item = &[u8]>,
    covered: usize,
) -> ([u8; LEN], Option<[u8; LEN]>) {
    let mut hasher = Hasher::new();
    let mut left = covered;
    let mut stored = [0; LEN];
    let mut stored_len = 0;
    for part in parts {
        let (covered, rest) = part.split_at(part.len().min(left));
        hasher.update(covered);
        left -= covered.len();
        for &byte in rest.iter().take(LEN - stored_len) {
            stored[stored_len] = byte;
            stored_len += 1;
        }
    }
    (hasher.finalize().to_be_bytes(), (stored_len == LEN).then_some(stored))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_the_same_in_any_pieces() {
        // The algorithm's check value.
        let sum = 0xcbf4_3926_u32.to_be_bytes();
        let bytes = [&b"123456789"[..], &sum].concat();
        assert_eq!(of(b"123456789"), sum);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(compare(&mut parts.into_iter(), 9), (sum, Some(sum)));
            }
        }
        let short = compare(&mut [&bytes[..12]].into_iter(), 9);
        assert_eq!(short, (sum, None));
    }
}
