//! Which names and values a message may carry (RFC 9113 section 8.2.1).
//!
//! HPACK itself carries any octets. What passes here can be written to a message of any version of
//! HTTP as it is, which is what [`Field`](crate::http::Field) promises.

/// `name` as text, if it is a token (RFC 9110 section 5.6.2) without upper-case letters, or a colon
/// and such a token, as pseudo-header fields are named.
#[inline]
pub(super) fn name(name: &[u8]) -> Option<&str> {
    let token = name.strip_prefix(b":").unwrap_or(name);
    let invalid = token.iter().fold(false, |invalid, &byte| invalid | !NAME_BYTES[byte as usize]);
    if invalid || token.is_empty() { None } else { str::from_utf8(name).ok() }
}

/// Whether `value` holds HTAB, SP, visible ASCII and obs-text only, with neither SP nor HTAB at an
/// end.
///
/// RFC 9113 section 8.2.1 asks for NUL, CR, LF and the whitespace; RFC 9110 section 5.5 calls the
/// other control characters invalid too, and HTTP/1 refuses them here as well.
#[inline]
pub(super) fn value(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let controls = value.iter().fold(false, |controls, &byte| {
        controls | ((byte < b' ') & (byte != b'\t')) | (byte == 0x7f)
    });
    !controls && !blank(value.first()) && !blank(value.last())
}

/// Token characters but for upper-case letters.
const NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = matches!(byte,
            b'a'..=b'z' | b'0'..=b'9'
            | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.'
            | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_tokens_with_one_colon_in_front_at_most() {
        for good in ["a", "x-request-id", ":path", ":unknown", "!#$%&'*+-.^_`|~09az"] {
            assert_eq!(name(good.as_bytes()), Some(good));
        }
        for bad in
            ["", ":", "::a", "a:", "a:b", "A", "x-Id", ":Path", "a b", "a\t", "\u{e9}", "a\0"]
        {
            assert_eq!(name(bad.as_bytes()), None, "{bad:?}");
        }
        for byte in [b'(', b')', b',', b'/', b';', b'<', b'@', b'[', b'{', b'"', b'\\', 0x7f, 0xff]
        {
            assert_eq!(name(&[b'a', byte]), None, "{byte:#x}");
        }
    }

    #[test]
    fn values_hold_no_controls_and_no_whitespace_at_their_ends() {
        for good in [&b""[..], b"a", b"a b\tc", b"\x21\x7e\x80\xff"] {
            assert!(value(good), "{}", good.escape_ascii());
        }
        for bad in [" ", "\t", " a", "a ", "\ta", "a\t"] {
            assert!(!value(bad.as_bytes()), "{bad:?}");
        }
        for byte in (0..b' ').filter(|&byte| byte != b'\t').chain([0x7f]) {
            assert!(!value(&[b'a', byte, b'a']), "{byte:#x}");
        }
    }
}
