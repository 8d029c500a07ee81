//! Which protocol a connection's first bytes show (bolt.md section 2).
//!
//! Only protocols that the configuration offers are looked for, so that a byte which two of them begin
//! with is no trouble where one is served. Invariant: no more than [`DETECTION_BYTES_MAX`] bytes are
//! waited for.

use outrigger_codecs::http2::PREFACE;
use outrigger_xds::snapshot::DetectedProtocol;

/// What the first bytes show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detected {
    /// More bytes are needed.
    NeedMore,
    /// This one.
    Protocol(DetectedProtocol),
    /// None of those that were asked for.
    Unknown,
}

/// Looks for one of `offered` in the first bytes of a connection.
pub(super) fn detect(seen: &[u8], offered: impl Iterator<Item = DetectedProtocol>) -> Detected {
    let mut any_possible = false;
    for protocol in offered {
        match begins(protocol, seen) {
            Some(true) => return Detected::Protocol(protocol),
            Some(false) => {}
            None => any_possible = true,
        }
    }
    if any_possible { Detected::NeedMore } else { Detected::Unknown }
}

/// Whether `seen` begins a protocol; nothing while that can't be told.
fn begins(protocol: DetectedProtocol, seen: &[u8]) -> Option<bool> {
    let byte = |at: usize, fits: &dyn Fn(u8) -> bool| seen.get(at).map(|byte| fits(*byte));
    match protocol {
        DetectedProtocol::Http2 => {
            let len = seen.len().min(HTTP2_BYTES);
            if seen[..len] != PREFACE[..len] {
                return Some(false);
            }
            (len == HTTP2_BYTES).then_some(true)
        }
        DetectedProtocol::Http1 => {
            // A method and a space (RFC 9112 section 3); HTTP/2's preface looks the same so far.
            if !byte(0, &|byte| byte.is_ascii_uppercase())? {
                return Some(false);
            }
            let rest = &seen[..seen.len().min(METHOD_BYTES_MAX)];
            if PREFACE.starts_with(seen) || seen.starts_with(&PREFACE[..HTTP2_BYTES]) {
                return if seen.len() < HTTP2_BYTES { None } else { Some(false) };
            }
            match rest.iter().position(|byte| !byte.is_ascii_alphabetic() && *byte != b'-') {
                Some(end) => Some(rest[end] == b' '),
                None => (seen.len() >= METHOD_BYTES_MAX).then_some(false),
            }
        }
        DetectedProtocol::Bolt => match *seen.first()? {
            1 => byte(1, &|kind| kind <= 2),
            2 => {
                if !byte(1, &|version| (1..=2).contains(&version))? {
                    return Some(false);
                }
                byte(2, &|kind| kind <= 2)
            }
            _ => Some(false),
        },
        DetectedProtocol::Dubbo => {
            if !byte(0, &|byte| byte == 0xda)? {
                return Some(false);
            }
            byte(1, &|byte| byte == 0xbb)
        }
        DetectedProtocol::Hsf => match *seen.first()? {
            0x0c | 0x0e => {
                if !byte(1, &|byte| byte <= 1)? {
                    return Some(false);
                }
                byte(2, &|byte| byte <= 1)
            }
            0x0d => byte(1, &|kind| matches!(kind, 0 | 1 | 13 | 14)),
            _ => Some(false),
        },
    }
}

/// `PRI * HTTP/2.0`: no request of HTTP/1.1 begins so.
const HTTP2_BYTES: usize = 14;

/// The longest registered methods have 17 characters.
const METHOD_BYTES_MAX: usize = 20;

/// What is looked at.
pub(super) const DETECTION_BYTES_MAX: usize = 24;

#[cfg(test)]
mod tests {
    use super::DetectedProtocol::{Bolt, Dubbo, Hsf, Http1, Http2};
    use super::*;

    const ALL: [DetectedProtocol; 5] = [Http1, Http2, Bolt, Dubbo, Hsf];

    #[test]
    fn each_protocol_is_told_by_its_first_bytes_and_not_before() {
        let cases: [(&[u8], DetectedProtocol, usize); 12] = [
            (b"GET / HTTP/1.1\r\n", Http1, 4),
            (b"POST /x HTTP/1.1\r\n", Http1, 5),
            (b"PRINT / HTTP/1.1\r\n", Http1, 6),
            (b"VERSION-CONTROL / HTTP/1.1", Http1, 16),
            (PREFACE, Http2, 14),
            (&[1, 1, 0, 1], Bolt, 2),
            (&[2, 1, 1, 0], Bolt, 3),
            (&[2, 2, 2, 0], Bolt, 3),
            (&[0xda, 0xbb, 0xc2], Dubbo, 2),
            (&[0x0e, 1, 0, 4], Hsf, 3),
            (&[0x0c, 0, 1, 0], Hsf, 3),
            (&[0x0d, 0, 1, 2], Hsf, 2),
        ];
        for (bytes, protocol, needed) in cases {
            for len in 1..bytes.len() {
                let wanted =
                    if len < needed { Detected::NeedMore } else { Detected::Protocol(protocol) };
                assert_eq!(detect(&bytes[..len], ALL.into_iter()), wanted, "{bytes:?} {len}");
            }
        }
    }

    #[test]
    fn what_is_not_offered_or_not_known_is_unknown() {
        assert_eq!(detect(&[1, 1], [Dubbo, Http1].into_iter()), Detected::Unknown);
        assert_eq!(detect(&[1, 9], ALL.into_iter()), Detected::Unknown);
        assert_eq!(detect(&[0x16, 3, 1], ALL.into_iter()), Detected::Unknown);
        assert_eq!(detect(&[b'A'; METHOD_BYTES_MAX], ALL.into_iter()), Detected::Unknown);
        assert_eq!(detect(b"get / HTTP/1.1", ALL.into_iter()), Detected::Unknown);
        assert_eq!(detect(&[], ALL.into_iter()), Detected::NeedMore);
    }
}
