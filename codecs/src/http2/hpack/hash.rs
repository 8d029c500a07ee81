//! Hashes of names and fields, for the encoder's indexes.
//!
//! They needn't withstand chosen collisions: the longest chain that a peer could build is the
//! dynamic table itself, which [`TABLE_BYTES_USED_MAX`](super::TABLE_BYTES_USED_MAX) keeps short.

/// The hash of a field name, without regard to case.
#[inline]
pub(super) const fn name(name: &[u8]) -> u64 {
    words(SEED, name, CASE_BITS)
}

/// The hash of a field, from that of its name.
#[inline]
pub(super) const fn field(name_hash: u64, value: &[u8]) -> u64 {
    words(name_hash, value, 0)
}

/// Mixes `text` into `hash` by eight octets at a time, each or-ed with `fold`.
#[inline]
const fn words(hash: u64, text: &[u8], fold: u64) -> u64 {
    let mut hash = mix(hash, text.len() as u64);
    let mut rest = text;
    while let Some((word, after)) = rest.split_first_chunk() {
        hash = mix(hash, u64::from_le_bytes(*word) | fold);
        rest = after;
    }
    if rest.is_empty() { hash } else { mix(hash, tail(text) | fold) }
}

/// The last octets of `text`, up to eight.
#[inline]
const fn tail(text: &[u8]) -> u64 {
    if let Some(word) = text.last_chunk() {
        return u64::from_le_bytes(*word);
    }
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        return u32::from_le_bytes(*first) as u64 | (u32::from_le_bytes(*last) as u64) << u32::BITS;
    }
    match text {
        [] => 0,
        [first, .., last] => {
            *first as u64 | (text[text.len() / 2] as u64) << 8 | (*last as u64) << 16
        }
        [only] => *only as u64,
    }
}

/// Both halves of the product together: every bit of the word reaches every part of the hash.
#[inline]
const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word) as u128 * MULTIPLIER as u128;
    product as u64 ^ (product >> u64::BITS) as u64
}

/// Makes letters equal to their lower-case forms.
const CASE_BITS: u64 = 0x2020_2020_2020_2020;
/// The golden ratio in 64 bits: odd, and without pattern.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const SEED: u64 = 0x243f_6a88_85a3_08d3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_matters_to_values_only() {
        for text in ["a", "ab", "abc", "abcd", "Content-Type", "X-Forwarded-Proto", "12345678"] {
            let other = text.to_ascii_uppercase();
            assert_eq!(name(text.as_bytes()), name(other.as_bytes()), "{text}");
            let same = text == other;
            assert_eq!(field(1, text.as_bytes()) == field(1, other.as_bytes()), same, "{text}");
        }
    }

    #[test]
    fn every_octet_counts() {
        for len in 1..40 {
            let text = vec![b'a'; len];
            for at in 0..len {
                let mut other = text.clone();
                other[at] = b'b';
                assert_ne!(field(0, &text), field(0, &other), "octet {at} of {len}");
            }
            assert_ne!(field(0, &text), field(0, &text[1..]));
        }
    }
    #[test]
    fn the_parts_in_use_are_spread() {
        // For the index, for what is recent, and for the static table.
        for shift in [48, 24, 40] {
            for pattern in ["#", "value #", "value-# of many", "/accounts/#", "#-4b5a-4978"] {
                let mut parts: Vec<u64> = (0..1000)
                    .map(|number: u32| pattern.replace('#', &number.to_string()))
                    .map(|value| field(name(b"x-name"), value.as_bytes()) >> shift & 0xffff)
                    .collect();
                parts.sort_unstable();
                parts.dedup();
                // Of 1000 random numbers below 2^16, about eight meet another.
                assert!(parts.len() > 970, "bits from {shift} of {pattern}: {}", parts.len());
            }
        }
    }
}
