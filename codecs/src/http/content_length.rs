//! Content-Length (RFC 9110 section 8.6), which every version of HTTP carries.

/// Reads `Content-Length = 1*DIGIT`, at most 2^63-1, and without leading zeros, which some parsers take
/// for octal. `None` for anything else.
pub(crate) fn parse_content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > LENGTH_DIGITS_MAX || (value[0] == b'0' && value.len() > 1)
    {
        return None;
    }
    let mut length = 0_u64;
    for &digit in value {
        if !digit.is_ascii_digit() {
            return None;
        }
        // 19 digits stay below 10^19, and so within u64.
        length = length * 10 + u64::from(digit - b'0');
    }
    (length <= i64::MAX.cast_unsigned()).then_some(length)
}

/// The decimal digits of 2^63-1.
const LENGTH_DIGITS_MAX: usize = 19;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_length_has_one_reading() {
        for (text, length) in [
            ("0", Some(0)),
            ("42", Some(42)),
            ("9223372036854775807", Some(i64::MAX.cast_unsigned())),
            ("9223372036854775808", None),
            ("18446744073709551616", None),
            ("", None),
            ("00", None),
            ("010", None),
            ("+1", None),
            ("-1", None),
            ("1 ", None),
            ("1,1", None),
            ("0x1", None),
            ("1_0", None),
            ("1.0", None),
            ("1e1", None),
            ("\u{661}", None),
        ] {
            assert_eq!(parse_content_length(text.as_bytes()), length, "{text:?}");
        }
    }
}
