//! The header of the PROXY protocol, versions 1 and 2, with which a proxy in front says who the client
//! is (haproxy.org, `proxy-protocol.txt`).
//!
//! Everything behind it comes from whom the header names, so it is read to the letter. Invariant: the
//! answer depends on the bytes alone, never on how many more there are or on how they came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed to tell.
    NeedMore,
    /// They begin no header.
    Absent,
    /// They begin a header, which can't be read.
    Malformed(ProxyError),
    /// A header.
    Header(ProxyHeader),
}

/// A header that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Which form it has.
    pub version: ProxyVersion,
    /// How long it is; what is behind is the client's.
    pub len: usize,
    /// Who the connection is between. `None`: the header says nothing of that, as when the proxy in
    /// front speaks for itself.
    pub addresses: Option<ProxyAddresses>,
}

/// The form of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// The two ends of the connection that a header speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyAddresses {
    /// The client.
    pub source: SocketAddr,
    /// What the client connected to.
    pub destination: SocketAddr,
}

/// Why a header can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// More than [`HEADER_BYTES_MAX`], or of version 1 more than its 107 bytes.
    #[error("the header is too long")]
    TooLong,
    /// A line of version 1 that is not as it has to be.
    #[error("the line is not one of version 1")]
    Line,
    /// Neither version 2, nor LOCAL or PROXY.
    #[error("unknown version or command {0:#04x}")]
    Command(u8),
    /// Neither TCP nor unspecified.
    #[error("unknown family or transport {0:#04x}")]
    Family(u8),
    /// The addresses or the extensions do not fit into the header.
    #[error("the header is too short for what it holds")]
    TooShort,
    /// The checksum in the header is not the header's.
    #[error("the checksum is wrong")]
    Checksum,
}

/// The longest header that is read: that of version 2 may hold any number of extensions.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Reads a header at the beginning of `bytes`, which are all that has come so far.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let of = |signature: &[u8]| {
        let len = bytes.len().min(signature.len());
        bytes[..len] == signature[..len]
    };
    let outcome = if of(V2_SIGNATURE) {
        if bytes.len() < V2_SIGNATURE.len() {
            return Parsed::NeedMore;
        }
        version_2(bytes)
    } else if of(V1_SIGNATURE) {
        if bytes.len() < V1_SIGNATURE.len() {
            return Parsed::NeedMore;
        }
        version_1(bytes)
    } else {
        return Parsed::Absent;
    };
    match outcome {
        Ok(Some(header)) => Parsed::Header(header),
        Ok(None) => Parsed::NeedMore,
        Err(error) => Parsed::Malformed(error),
    }
}

/// Nothing while the line is not complete.
fn version_1(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let line = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if bytes.len() >= V1_BYTES_MAX { Err(ProxyError::TooLong) } else { Ok(None) };
    };
    let text = line[..end].strip_suffix(b"\r").ok_or(ProxyError::Line)?;
    let text = std::str::from_utf8(&text[V1_SIGNATURE.len()..]).map_err(|_| ProxyError::Line)?;
    let header = |addresses| ProxyHeader { version: ProxyVersion::V1, len: end + 1, addresses };
    let mut words = text.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        // Whatever follows is not to be looked at.
        return Ok(Some(header(None)));
    }
    let mut next = || words.next().ok_or(ProxyError::Line);
    let (source, destination) = (ip(family, next()?)?, ip(family, next()?)?);
    let (from, to) = (port(next()?)?, port(next()?)?);
    if words.next().is_some() {
        return Err(ProxyError::Line);
    }
    Ok(Some(header(Some(ProxyAddresses {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    }))))
}

fn ip(family: &str, text: &str) -> Result<IpAddr, ProxyError> {
    let ip = match family {
        "TCP4" => text.parse().map(IpAddr::V4),
        "TCP6" => text.parse().map(IpAddr::V6),
        _ => return Err(ProxyError::Line),
    };
    ip.map_err(|_| ProxyError::Line)
}

/// Decimal, without a sign or a zero in front, which might be read as octal.
fn port(text: &str) -> Result<u16, ProxyError> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(ProxyError::Line)
}

/// Nothing while the header is not complete.
fn version_2(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let Some(fixed) = bytes.get(..V2_FIXED_BYTES) else { return Ok(None) };
    let (command, family) = (fixed[12], fixed[13]);
    let len = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        other => return Err(ProxyError::Command(other)),
    };
    let address_bytes = match family {
        FAMILY_UNSPECIFIED => 0,
        FAMILY_TCP4 => 12,
        FAMILY_TCP6 => 36,
        // A proxy that speaks for itself may leave anything there.
        _ if is_local => 0,
        other => return Err(ProxyError::Family(other)),
    };
    if len > HEADER_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    if !is_local && len < V2_FIXED_BYTES + address_bytes {
        return Err(ProxyError::TooShort);
    }
    let Some(header) = bytes.get(..len) else { return Ok(None) };
    let mut addresses = None;
    if !is_local {
        let (own, extensions) = header[V2_FIXED_BYTES..].split_at(address_bytes);
        if family != FAMILY_UNSPECIFIED {
            addresses = two_addresses(own);
            check(header, extensions.len())?;
        }
    }
    Ok(Some(ProxyHeader { version: ProxyVersion::V2, len, addresses }))
}

/// Both addresses, then both ports; how long that is tells the family.
fn two_addresses(bytes: &[u8]) -> Option<ProxyAddresses> {
    let (ips, ports) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let (source, destination) = ips.split_at(ips.len() / 2);
    let ip = |bytes: &[u8]| match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|ip| IpAddr::V4(Ipv4Addr::from(ip))),
        _ => <[u8; 16]>::try_from(bytes).ok().map(|ip| IpAddr::V6(Ipv6Addr::from(ip))),
    };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some(ProxyAddresses {
        source: SocketAddr::new(ip(source)?, port(0)),
        destination: SocketAddr::new(ip(destination)?, port(2)),
    })
}

/// Looks at the extensions, which are the last `len` bytes of a header: they fill it, and a checksum
/// among them is right. There is one at the most: to look at hundreds would take its time.
fn check(header: &[u8], len: usize) -> Result<(), ProxyError> {
    let mut at = header.len() - len;
    let mut is_checked = false;
    while at < header.len() {
        let (kind, value) = extension(header, at).ok_or(ProxyError::TooShort)?;
        if kind == CHECKSUM {
            let sent = header[value.clone()].try_into().map_err(|_| ProxyError::TooShort)?;
            if is_checked || crc32c(header, &value) != u32::from_be_bytes(sent) {
                return Err(ProxyError::Checksum);
            }
            is_checked = true;
        }
        at = value.end;
    }
    Ok(())
}

/// The type of the extension that begins at `at`, and where its value is.
fn extension(header: &[u8], at: usize) -> Option<(u8, Range<usize>)> {
    let fixed = header.get(at..at + 3)?;
    let start = at + 3;
    let value = start..start + usize::from(u16::from_be_bytes([fixed[1], fixed[2]]));
    header.get(value.clone())?;
    Some((fixed[0], value))
}

/// CRC-32C (Castagnoli) of `bytes`, those in `blank` taken as zeroes.
fn crc32c(bytes: &[u8], blank: &Range<usize>) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in bytes.iter().enumerate() {
        crc ^= if blank.contains(&at) { 0 } else { u32::from(*byte) };
        for _ in 0..8 {
            crc = (crc >> 1) ^ (CASTAGNOLI & 0u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, its end included.
const V1_BYTES_MAX: usize = 107;

/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;

const FAMILY_UNSPECIFIED: u8 = 0x00;
const FAMILY_TCP4: u8 = 0x11;
const FAMILY_TCP6: u8 = 0x21;

/// PP2_TYPE_CRC32C.
const CHECKSUM: u8 = 0x03;

/// The polynomial, its bits reversed.
const CASTAGNOLI: u32 = 0x82f6_3b78;

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(source: &str, destination: &str) -> Option<ProxyAddresses> {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Some(ProxyAddresses { source, destination })
    }

    fn header(version: ProxyVersion, len: usize, addresses: Option<ProxyAddresses>) -> Parsed {
        Parsed::Header(ProxyHeader { version, len, addresses })
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let len = (payload.len() as u16).to_be_bytes();
        [V2_SIGNATURE, &[command, family], &len, payload].concat()
    }

    const TCP4: &[u8] = &[10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0, 80];

    #[test]
    fn a_line_of_version_1() {
        let line = b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 80\r\nGET";
        let expected = addresses("10.0.0.1:12345", "10.0.0.2:80");
        assert_eq!(parse(line), header(ProxyVersion::V1, line.len() - 3, expected));
        let line = b"PROXY TCP6 fd00::1 fd00::2 65535 0\r\n";
        let expected = addresses("[fd00::1]:65535", "[fd00::2]:0");
        assert_eq!(parse(line), header(ProxyVersion::V1, line.len(), expected));
        for line in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN ff:: any 1 2 3\r\n"] {
            assert_eq!(parse(line), header(ProxyVersion::V1, line.len(), None));
        }
    }

    #[test]
    fn a_line_that_could_be_read_in_two_ways_is_refused() {
        for line in [
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n",
            "PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 65536 2\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
            "PROXY TCP4 10.0.0.01 10.0.0.2 1 2\r\n",
            "PROXY TCP4 fd00::1 10.0.0.2 1 2\r\n",
            "PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n",
            "PROXY TCP5 10.0.0.1 10.0.0.2 1 2\r\n",
            "PROXY unknown\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Parsed::Malformed(ProxyError::Line), "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(107));
        assert_eq!(parse(long.as_bytes()), Parsed::Malformed(ProxyError::TooLong));
    }

    #[test]
    fn a_header_of_version_2() {
        let bytes = v2(0x21, 0x11, TCP4);
        let expected = addresses("10.0.0.1:12345", "10.0.0.2:80");
        assert_eq!(parse(&[&bytes[..], b"GET"].concat()), header(ProxyVersion::V2, 28, expected));
        let mut v6 = [0; 36];
        (v6[0], v6[15], v6[16], v6[31], v6[33], v6[35]) = (0xfd, 1, 0xfd, 2, 7, 8);
        let expected = addresses("[fd00::1]:7", "[fd00::2]:8");
        assert_eq!(parse(&v2(0x21, 0x21, &v6)), header(ProxyVersion::V2, 52, expected));
        // LOCAL: whatever is in it is skipped.
        assert_eq!(parse(&v2(0x20, 0x00, b"")), header(ProxyVersion::V2, 16, None));
        assert_eq!(parse(&v2(0x20, 0x31, b"anything")), header(ProxyVersion::V2, 24, None));
        assert_eq!(parse(&v2(0x21, 0x00, b"anything")), header(ProxyVersion::V2, 24, None));
    }

    #[test]
    fn extensions_of_version_2_are_skipped_and_a_checksum_is_checked() {
        let extended = [TCP4, &[0xea, 0, 2, 1, 2], &[0x04, 0, 0]].concat();
        let expected = addresses("10.0.0.1:12345", "10.0.0.2:80");
        assert_eq!(parse(&v2(0x21, 0x11, &extended)), header(ProxyVersion::V2, 36, expected));
        for cut in [&[0xea][..], &[0xea, 0, 2, 1], &[0x03, 0, 3, 0, 0, 0]] {
            let bytes = v2(0x21, 0x11, &[TCP4, cut].concat());
            assert_eq!(parse(&bytes), Parsed::Malformed(ProxyError::TooShort), "{cut:?}");
        }
        let mut checked = v2(0x21, 0x11, &[TCP4, &[0x03, 0, 4, 0, 0, 0, 0]].concat());
        assert_eq!(parse(&checked), Parsed::Malformed(ProxyError::Checksum));
        let crc = crc32c(&checked, &(31..35));
        checked[31..].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(parse(&checked), header(ProxyVersion::V2, 35, expected));
        // RFC 3720 section B.4: 32 bytes of zeroes.
        assert_eq!(crc32c(&[0; 32], &(0..0)), 0x8a91_36aa);
    }

    #[test]
    fn faults_of_version_2() {
        let fault = |bytes: &[u8]| match parse(bytes) {
            Parsed::Malformed(error) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(fault(&v2(0x11, 0x11, TCP4)), ProxyError::Command(0x11));
        assert_eq!(fault(&v2(0x22, 0x11, TCP4)), ProxyError::Command(0x22));
        for family in [0x12, 0x22, 0x31, 0x01, 0xff] {
            assert_eq!(fault(&v2(0x21, family, &[0; 216])), ProxyError::Family(family));
        }
        assert_eq!(fault(&v2(0x21, 0x11, &TCP4[1..])), ProxyError::TooShort);
        let long = [V2_SIGNATURE, &[0x21, 0x11], &u16::MAX.to_be_bytes()].concat();
        assert_eq!(fault(&long), ProxyError::TooLong);
    }

    #[test]
    fn whatever_is_cut_off_needs_more_and_whatever_else_is_absent() {
        let whole = [
            b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 80\r\n".to_vec(),
            v2(0x21, 0x11, &[TCP4, &[0xea, 0, 2, 1, 2]].concat()),
        ];
        for header in whole {
            for len in 0..header.len() {
                assert_eq!(parse(&header[..len]), Parsed::NeedMore, "{len}");
            }
        }
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PROXY\r\n", b"\r\n\r\nGET"] {
            assert_eq!(parse(other), Parsed::Absent, "{other:?}");
        }
    }
}
