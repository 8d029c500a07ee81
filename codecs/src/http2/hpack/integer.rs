//! Integers with a prefix of one to eight bits (RFC 7541 section 5.1).
//!
//! Four continuation octets hold every index, length and size that could be valid; longer integers
//! are refused, also where they are long by padding with zeros. Others draw the line at the same
//! place.

use super::HpackError;

/// Takes an integer off the front of `rest`; the bits above the prefix of `prefix_bits` belong to
/// something else and are ignored.
#[inline]
pub(super) fn take(rest: &mut &[u8], prefix_bits: u32) -> Result<u32, HpackError> {
    let (&first, after) = rest.split_first().ok_or(HpackError::Truncated)?;
    let prefix_max = prefix_max(prefix_bits);
    let prefix = first & prefix_max;
    *rest = after;
    if prefix < prefix_max { Ok(prefix.into()) } else { take_continued(rest, prefix) }
}

/// Appends `value`, with `pattern` in the bits above the prefix.
#[inline]
pub(super) fn put(out: &mut Vec<u8>, pattern: u8, prefix_bits: u32, value: usize) {
    let prefix_max = prefix_max(prefix_bits);
    if value < usize::from(prefix_max) {
        out.push(pattern | value as u8);
    } else {
        out.push(pattern | prefix_max);
        put_continued(out, value - usize::from(prefix_max));
    }
}

fn take_continued(rest: &mut &[u8], prefix: u8) -> Result<u32, HpackError> {
    let mut value = u32::from(prefix);
    for group in 0..CONTINUATION_MAX {
        let (&byte, after) = rest.split_first().ok_or(HpackError::Truncated)?;
        *rest = after;
        value += u32::from(byte & !CONTINUES) << (group * GROUP_BITS);
        if byte & CONTINUES == 0 {
            return Ok(value);
        }
    }
    Err(HpackError::IntegerTooLarge)
}

fn put_continued(out: &mut Vec<u8>, mut value: usize) {
    while value >= usize::from(CONTINUES) {
        out.push(value as u8 | CONTINUES);
        value >>= GROUP_BITS;
    }
    out.push(value as u8);
}

const fn prefix_max(prefix_bits: u32) -> u8 {
    (0xff_u16 >> (u8::BITS - prefix_bits)) as u8
}

const CONTINUES: u8 = 0x80;
const GROUP_BITS: u32 = 7;
const CONTINUATION_MAX: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7541 appendix C.1.
    #[test]
    fn the_examples_of_the_rfc() {
        for (pattern, bits, value, bytes) in [
            (0, 5, 10, &[0b01010][..]),
            (0b1010_0000, 5, 1337, &[0b1011_1111, 0b1001_1010, 0b0000_1010]),
            (0, 8, 42, &[0b0010_1010]),
        ] {
            let mut out = Vec::new();
            put(&mut out, pattern, bits, value);
            assert_eq!(out, bytes);
            let mut rest = bytes;
            assert_eq!(take(&mut rest, bits), Ok(value as u32));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn every_prefix_and_size_comes_back() {
        for bits in 1..=8 {
            for value in (0..28).flat_map(|shift| {
                let power = 1_usize << shift;
                [power - 1, power, power + 127, 2 * power - 1]
            }) {
                let mut out = Vec::new();
                put(&mut out, 0, bits, value);
                out.push(0xaa);
                let mut rest = &out[..];
                assert_eq!(take(&mut rest, bits), Ok(value as u32), "{value} in {bits} bits");
                assert_eq!(rest, [0xaa]);
            }
        }
    }

    #[test]
    fn large_padded_and_cut_integers_are_refused() {
        for bits in 1..=8 {
            let largest = usize::from(prefix_max(bits)) + (1 << 28) - 1;
            let mut out = Vec::new();
            put(&mut out, 0, bits, largest + 1);
            assert_eq!(take(&mut &out[..], bits), Err(HpackError::IntegerTooLarge));
            out.clear();
            put(&mut out, 0, bits, largest);
            assert_eq!(take(&mut &out[..], bits), Ok(largest as u32));
            for len in 0..out.len() {
                assert_eq!(take(&mut &out[..len], bits), Err(HpackError::Truncated));
            }
        }
        // Zeros behind the number are padding: a little is a long way of saying the same.
        assert_eq!(take(&mut &[0x1f, 0x80, 0x80, 0x80, 0x00][..], 5), Ok(31));
        let padded = [0x1f, 0x80, 0x80, 0x80, 0x80, 0x00];
        assert_eq!(take(&mut &padded[..], 5), Err(HpackError::IntegerTooLarge));
    }
}
