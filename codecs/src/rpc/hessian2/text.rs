//! Characters: strings count UTF-16 units and write each as UTF-8 would write a character, so that one
//! beyond the basic plane is two surrogates of three bytes (CESU-8).

use super::Fault;

/// The offset behind `units` UTF-16 units that begin at `at`.
///
/// Only first bytes are looked at, as peers do, so that everyone finds the same end. Four-byte
/// sequences are refused, as Java does.
pub(super) fn skip_units(bytes: &[u8], mut at: usize, units: usize) -> Result<usize, Fault> {
    let mut left = units;
    while left > 0 {
        let rest = bytes.get(at..).unwrap_or_default();
        let step = match rest.first() {
            None => return Err(Fault::Truncated),
            Some(0x00..=0x7f) => {
                let run = &rest[..left.min(rest.len()).min(RUN)];
                let ascii = if run.is_ascii() { None } else { run.iter().position(|b| *b > 0x7f) };
                let ascii = ascii.unwrap_or(run.len());
                at += ascii;
                left -= ascii;
                continue;
            }
            Some(0xc0..=0xdf) => 2,
            Some(0xe0..=0xef) => 3,
            Some(_) => return Err(Fault::Character),
        };
        at += step;
        left -= 1;
    }
    if at <= bytes.len() { Ok(at) } else { Err(Fault::Truncated) }
}

/// Whether characters are written in the one way that there is for each: a name could otherwise be
/// written so that we and the receiver read different ones.
pub(super) fn is_well_formed(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok() || is_cesu8(text)
}

fn is_cesu8(mut text: &[u8]) -> bool {
    loop {
        text = match text {
            [] => return true,
            [0x00..=0x7f, rest @ ..]
            | [0xc2..=0xdf, 0x80..=0xbf, rest @ ..]
            | [0xe0, 0xa0..=0xbf, 0x80..=0xbf, rest @ ..]
            | [0xe1..=0xef, 0x80..=0xbf, 0x80..=0xbf, rest @ ..] => rest,
            _ => return false,
        };
    }
}

/// Looked at in one go, in the hope that it is all ASCII.
const RUN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_counted_not_bytes() {
        let text = "é中aaaaaaaaaaaaaaaaaaaaé".as_bytes();
        assert_eq!(skip_units(text, 0, 1), Ok(2));
        assert_eq!(skip_units(text, 0, 2), Ok(5));
        assert_eq!(skip_units(text, 0, 22), Ok(25));
        assert_eq!(skip_units(text, 0, 23), Ok(27));
        assert_eq!(skip_units(text, 0, 24), Err(Fault::Truncated));
        assert_eq!(skip_units(&text[..26], 0, 23), Err(Fault::Truncated));
        assert_eq!(skip_units(b"\xf0\x9f\x98\x80", 0, 2), Err(Fault::Character));
        assert_eq!(skip_units(b"\x80", 0, 1), Err(Fault::Character));
        assert_eq!(skip_units(b"", 0, 0), Ok(0));
        assert_eq!(skip_units(b"", 9, 1), Err(Fault::Truncated));
    }

    #[test]
    fn each_character_has_one_form() {
        for text in ["", "abc", "é", "中", "\u{ffff}"] {
            assert!(is_well_formed(text.as_bytes()));
        }
        assert!(is_well_formed(b"a\xed\xa0\xbd\xed\xb8\x80\xc3\xa9"));
        for text in [&b"\xc1\xa1"[..], b"\xe0\x81\xa1", b"\xc3", b"\xc3a", b"\xed\xa0\xbda\x80"] {
            assert!(!is_well_formed(text), "{}", text.escape_ascii());
        }
    }
}
