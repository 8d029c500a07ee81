//! `host [":" port]` as Host, absolute-form and authority-form carry it (RFC 9110 section 7.2).
//!
//! Stricter than RFC 3986, because routing and access decisions rest on it: no user information, no
//! comma, no empty host, no empty port, no IPvFuture and no zone identifier.

use std::net::Ipv6Addr;

/// A checked authority.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Authority<'b> {
    /// The whole text, host and port.
    pub(crate) text: &'b str,
    /// The port, where one is given: 1 to 65535.
    pub(crate) port: Option<u16>,
}

impl<'b> Authority<'b> {
    /// Checks `text`; `None` says that it is not a valid authority.
    pub(crate) fn parse(text: &'b [u8]) -> Option<Self> {
        let host_len = match text.first()? {
            b'[' => ip_literal_len(text)?,
            _ => registered_name_len(text)?,
        };
        let port = match &text[host_len..] {
            [] => None,
            [b':', digits @ ..] => Some(parse_port(digits)?),
            _ => return None,
        };
        Some(Self { text: str::from_utf8(text).ok()?, port })
    }
}

/// The length of a leading `"[" IPv6address "]"`.
fn ip_literal_len(text: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b']', text)?;
    let address = str::from_utf8(&text[1..end]).ok()?;
    address.parse::<Ipv6Addr>().ok()?;
    Some(end + 1)
}

/// The length of a leading, non-empty `reg-name` or IPv4 address.
fn registered_name_len(text: &[u8]) -> Option<usize> {
    let len = memchr::memchr(b':', text).unwrap_or(text.len());
    let name = &text[..len];
    let classes = name.iter().fold(0, |classes, &byte| classes | CLASSES[usize::from(byte)]);
    let valid = match classes {
        PLAIN => len > 0,
        ESCAPE => escapes_are_whole(name),
        _ => false,
    };
    valid.then_some(len)
}

/// Whether two hex digits follow every percent sign (RFC 3986 section 2.1).
fn escapes_are_whole(name: &[u8]) -> bool {
    memchr::memchr_iter(b'%', name)
        .all(|at| name.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)))
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > PORT_DIGITS_MAX {
        return None;
    }
    let mut port = 0_u32;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        port = port * 10 + u32::from(digit - b'0');
    }
    u16::try_from(port).ok().filter(|&port| port > 0)
}

const PORT_DIGITS_MAX: usize = 5;

/// A byte of a name that stands for itself: unreserved, or sub-delims without the comma (RFC 3986
/// section 3.2.2).
const PLAIN: u8 = 0;
/// The start of a percent-encoded byte.
const ESCAPE: u8 = 1;
/// A byte that no name holds.
const INVALID: u8 = 2;

/// The class of each byte, so that one pass without branches finds the classes in a name.
const CLASSES: [u8; 256] = {
    let mut table = [INVALID; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => PLAIN,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=' => PLAIN,
            b'%' => ESCAPE,
            _ => INVALID,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_hosts_with_and_without_port() {
        for (text, port) in [
            ("example.org", None),
            ("example.org:8080", Some(8080)),
            ("EXAMPLE.org.:1", Some(1)),
            ("127.0.0.1:65535", Some(65535)),
            ("[::1]", None),
            ("[2001:db8::1]:443", Some(443)),
            ("under_score", None),
            ("a%2Db", None),
        ] {
            let authority = Authority::parse(text.as_bytes());
            assert_eq!(authority, Some(Authority { text, port }), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            ":",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:000080",
            "a:8o",
            "a:80:80",
            "a:+80",
            "a b",
            "a,b",
            "a/b",
            "user@a",
            "a?",
            "a#",
            "a\\b",
            "a\"",
            "[::1",
            "[]",
            "[::1]x",
            "[::1%25eth0]",
            "[v1.a]",
            "::1",
            "a%",
            "a%2",
            "a%zz",
            "b\u{fc}cher",
            "a\tb",
            "a\0",
            "<a>",
        ] {
            assert_eq!(Authority::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
