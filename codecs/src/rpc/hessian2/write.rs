//! Strings, as Java writes them.

use crate::http::Put;

/// Writes `text` as a string: in chunks when it is long, with surrogates for characters beyond the
/// basic plane.
pub fn put_string(text: &str, out: &mut dyn Put) {
    let mut rest = text;
    loop {
        let (chunk, units) = first_chunk(rest);
        rest = &rest[chunk.len()..];
        let count = units.to_be_bytes();
        match (rest.is_empty(), units) {
            (true, 0..=SHORT_MAX) => out.put(&count[1..]),
            (true, ..=MEDIUM_MAX) => out.put(&[MEDIUM + count[0], count[1]]),
            (true, _) => out.put(&[FINAL, count[0], count[1]]),
            (false, _) => out.put(&[NOT_FINAL, count[0], count[1]]),
        }
        put_characters(chunk, out);
        if rest.is_empty() {
            return;
        }
    }
}

/// As many characters as a chunk may have, and how many UTF-16 units they are.
fn first_chunk(text: &str) -> (&str, u16) {
    let mut units = 0;
    for (at, character) in text.char_indices() {
        let more = character.len_utf16() as u16;
        if units + more > CHUNK_UNITS_MAX {
            return (&text[..at], units);
        }
        units += more;
    }
    (text, units)
}

fn put_characters(text: &str, out: &mut dyn Put) {
    let mut written = 0;
    for (at, character) in text.char_indices().filter(|(_, c)| c.len_utf16() == 2) {
        out.put(&text.as_bytes()[written..at]);
        for unit in character.encode_utf16(&mut [0; 2]) {
            let [high, low] = unit.to_be_bytes();
            out.put(&[0xe0 | high >> 4, 0x80 | (high & 0xf) << 2 | low >> 6, 0x80 | low & 0x3f]);
        }
        written = at + character.len_utf8();
    }
    out.put(&text.as_bytes()[written..]);
}

/// Units of a chunk (dubbo.md section 5.2).
const CHUNK_UNITS_MAX: u16 = 0x8000;

/// Units that the tag itself counts.
const SHORT_MAX: u16 = 31;

/// Units that tag and one byte count.
const MEDIUM_MAX: u16 = 1023;
const MEDIUM: u8 = 0x30;

const NOT_FINAL: u8 = b'R';
const FINAL: u8 = b'S';

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(text, &mut out);
        out
    }

    #[test]
    fn short_and_long_strings() {
        assert_eq!(written(""), b"\x00");
        assert_eq!(written("é中"), b"\x02\xc3\xa9\xe4\xb8\xad");
        assert_eq!(written(&"a".repeat(31))[..2], *b"\x1fa");
        assert_eq!(written(&"a".repeat(32))[..3], *b"\x30\x20a");
        assert_eq!(written(&"a".repeat(1023))[..3], *b"\x33\xffa");
        assert_eq!(written(&"a".repeat(1024))[..4], *b"\x53\x04\x00a");
        assert_eq!(written("a\u{1f600}b"), b"\x04a\xed\xa0\xbd\xed\xb8\x80b");
    }

    #[test]
    fn no_chunk_ends_between_surrogates() {
        let text = format!("{}\u{1f600}x", "a".repeat(0x7fff));
        let out = written(&text);
        assert_eq!(out[..3], *b"\x52\x7f\xff");
        assert_eq!(out[3 + 0x7fff..], *b"\x03\xed\xa0\xbd\xed\xb8\x80x");
        let exact = written(&"a".repeat(0x8000));
        assert_eq!((&exact[..3], exact.len()), (&b"\x53\x80\x00"[..], 3 + 0x8000));
        assert_eq!(written(&"a".repeat(0x8001))[3 + 0x8000..], *b"\x01a");
    }
}
