//! The ClientHello message (RFC 8446 section 4.1.2), as far as choosing a filter chain and a
//! certificate needs it.

/// A ClientHello, as views into its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClientHello<'a> {
    server_name: Option<&'a str>,
    alpn: &'a [u8],
    cipher_suites: &'a [u8],
    signature_schemes: &'a [u8],
    versions: Option<&'a [u8]>,
    wants_ocsp_staple: bool,
}

/// Why a ClientHello can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// It is longer than the limit.
    #[error("the ClientHello is longer than the limit")]
    TooLong,
    /// A record that is empty, too long, or no handshake record.
    #[error("a record of the ClientHello has a bad header")]
    Record,
    /// The first message is another one.
    #[error("the first message is no ClientHello")]
    NotClientHello,
    /// A length does not fit what is around it, or bytes are left over.
    #[error("a length inside the ClientHello is wrong")]
    Length,
    /// An extension that is read here is there twice (RFC 8446 section 4.2).
    #[error("an extension is there twice")]
    DuplicateExtension,
    /// The server name is not one host name in ASCII (RFC 6066 section 3).
    #[error("the server name is not a host name")]
    ServerName,
}

impl<'a> ClientHello<'a> {
    /// Reads the body of a ClientHello message.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, HelloError> {
        let mut body = Reader(body);
        body.take(VERSION_BYTES + RANDOM_BYTES)?;
        let _session_id = body.vector8()?;
        let cipher_suites = body.vector16()?;
        let _compression = body.vector8()?;
        let mut hello = Self {
            server_name: None,
            alpn: &[],
            cipher_suites: pairs(cipher_suites)?,
            signature_schemes: &[],
            versions: None,
            wants_ocsp_staple: false,
        };
        // A client of TLS 1.2 may have no extensions at all.
        if !body.is_empty() {
            let extensions = body.vector16()?;
            body.finish()?;
            hello.read_extensions(Reader(extensions))?;
        }
        Ok(hello)
    }

    fn read_extensions(&mut self, mut extensions: Reader<'a>) -> Result<(), HelloError> {
        let mut seen = 0u8;
        let mut once = |extension: u8| {
            let known = seen & extension != 0;
            seen |= extension;
            if known { Err(HelloError::DuplicateExtension) } else { Ok(()) }
        };
        while !extensions.is_empty() {
            let kind = extensions.u16()?;
            let mut data = Reader(extensions.vector16()?);
            match kind {
                EXTENSION_SERVER_NAME => {
                    once(1)?;
                    self.server_name = Some(read_server_name(data)?);
                }
                EXTENSION_STATUS_REQUEST => {
                    once(2)?;
                    self.wants_ocsp_staple = true;
                }
                EXTENSION_SIGNATURE_ALGORITHMS => {
                    once(4)?;
                    self.signature_schemes = pairs(data.vector16()?)?;
                    data.finish()?;
                }
                EXTENSION_ALPN => {
                    once(8)?;
                    self.alpn = read_alpn(data)?;
                }
                EXTENSION_SUPPORTED_VERSIONS => {
                    once(16)?;
                    self.versions = Some(pairs(data.vector8()?)?);
                    data.finish()?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The host name that the client asks for, as it wrote it; 1 to 255 characters of ASCII.
    #[must_use]
    pub fn server_name(&self) -> Option<&'a str> {
        self.server_name
    }

    /// The application protocols offered, most wanted first; empty without the extension.
    pub fn alpn(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        // Every name fits: `read_alpn` has been there.
        let mut rest = Reader(self.alpn);
        std::iter::from_fn(move || rest.vector8().ok())
    }

    /// Cipher suites offered, by their registered numbers.
    pub fn cipher_suites(&self) -> impl Iterator<Item = u16> + Clone + use<'a> {
        numbers(self.cipher_suites)
    }

    /// Signature schemes that the client verifies; empty without the extension.
    pub fn signature_schemes(&self) -> impl Iterator<Item = u16> + Clone + use<'a> {
        numbers(self.signature_schemes)
    }

    /// Whether TLS 1.3 is offered.
    #[must_use]
    pub fn offers_tls13(&self) -> bool {
        self.versions.is_some_and(|versions| numbers(versions).any(|version| version == TLS13))
    }

    /// Whether the client would verify a stapled OCSP response (RFC 6066 section 8).
    #[must_use]
    pub fn wants_ocsp_staple(&self) -> bool {
        self.wants_ocsp_staple
    }
}

impl std::fmt::Debug for ClientHello<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientHello")
            .field("server_name", &self.server_name)
            .field("alpn", &self.alpn().map(<[u8]>::escape_ascii).collect::<Vec<_>>())
            .field("cipher_suites", &self.cipher_suites().collect::<Vec<_>>())
            .field("signature_schemes", &self.signature_schemes().collect::<Vec<_>>())
            .field("offers_tls13", &self.offers_tls13())
            .field("wants_ocsp_staple", &self.wants_ocsp_staple)
            .finish()
    }
}

/// RFC 6066 section 3: a list of names, of which there is but one kind and one of each.
fn read_server_name(mut data: Reader<'_>) -> Result<&str, HelloError> {
    let mut list = Reader(data.vector16()?);
    data.finish()?;
    let kind = list.take(1)?;
    let name = list.vector16()?;
    if kind != [NAME_HOST] || !list.is_empty() {
        return Err(HelloError::ServerName);
    }
    let fits = (1..=SERVER_NAME_BYTES_MAX).contains(&name.len());
    let printable = name.iter().all(u8::is_ascii_graphic);
    match str::from_utf8(name) {
        Ok(name) if fits && printable => Ok(name),
        _ => Err(HelloError::ServerName),
    }
}

/// RFC 7301 section 3.1: a list of names, none of them empty.
fn read_alpn(mut data: Reader<'_>) -> Result<&[u8], HelloError> {
    let list = data.vector16()?;
    data.finish()?;
    let mut names = Reader(list);
    if list.is_empty() {
        return Err(HelloError::Length);
    }
    while !names.is_empty() {
        if names.vector8()?.is_empty() {
            return Err(HelloError::Length);
        }
    }
    Ok(list)
}

/// A vector of numbers of two bytes, of which there must be one.
fn pairs(bytes: &[u8]) -> Result<&[u8], HelloError> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(2) {
        return Err(HelloError::Length);
    }
    Ok(bytes)
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u16> + Clone + use<'_> {
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// Takes fields from the front.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], HelloError> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(HelloError::Length)?;
        self.0 = rest;
        Ok(front)
    }

    fn u16(&mut self) -> Result<u16, HelloError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes behind a length of one byte.
    fn vector8(&mut self) -> Result<&'a [u8], HelloError> {
        let len = self.take(1)?[0];
        self.take(usize::from(len))
    }

    /// Bytes behind a length of two bytes.
    fn vector16(&mut self) -> Result<&'a [u8], HelloError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may be left over.
    fn finish(self) -> Result<(), HelloError> {
        if self.is_empty() { Ok(()) } else { Err(HelloError::Length) }
    }
}

const VERSION_BYTES: usize = 2;
const RANDOM_BYTES: usize = 32;
const NAME_HOST: u8 = 0;
/// The longest host name of the DNS.
const SERVER_NAME_BYTES_MAX: usize = 255;
const TLS13: u16 = 0x0304;

const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_STATUS_REQUEST: u16 = 5;
const EXTENSION_SIGNATURE_ALGORITHMS: u16 = 13;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;

#[cfg(test)]
pub(super) mod samples {
    /// A ClientHello message with its header.
    pub(in crate::tls) fn hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut extension = |kind: u16, data: &[u8]| {
            extensions.extend_from_slice(&kind.to_be_bytes());
            extensions.extend_from_slice(&(data.len() as u16).to_be_bytes());
            extensions.extend_from_slice(data);
        };
        if !name.is_empty() {
            let mut data = ((name.len() + 3) as u16).to_be_bytes().to_vec();
            data.push(0);
            data.extend_from_slice(&(name.len() as u16).to_be_bytes());
            data.extend_from_slice(name.as_bytes());
            extension(0, &data);
        }
        extension(0x1234, b"unknown");
        extension(13, &[0, 4, 4, 3, 8, 4]);
        if !alpn.is_empty() {
            let list: Vec<u8> = alpn
                .iter()
                .flat_map(|name| std::iter::once(name.len() as u8).chain(name.iter().copied()))
                .collect();
            let mut data = (list.len() as u16).to_be_bytes().to_vec();
            data.extend_from_slice(&list);
            extension(16, &data);
        }
        extension(43, &[4, 3, 4, 3, 3]);
        let mut body = vec![3, 3];
        body.extend_from_slice(&[7; 32]);
        body.push(0);
        body.extend_from_slice(&[0, 4, 0x13, 0x01, 0xc0, 0x2b]);
        body.extend_from_slice(&[1, 0]);
        body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
        body.extend_from_slice(&extensions);
        let mut message = (body.len() as u32 | 1 << 24).to_be_bytes().to_vec();
        message.extend_from_slice(&body);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::samples::hello;
    use super::*;

    #[test]
    fn fields_are_found() {
        let message = hello("Www.example.org", &[b"h2", b"http/1.1"]);
        let hello = ClientHello::parse(&message[4..]).unwrap();
        assert_eq!(hello.server_name(), Some("Www.example.org"));
        assert_eq!(hello.alpn().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
        assert_eq!(hello.cipher_suites().collect::<Vec<_>>(), [0x1301, 0xc02b]);
        assert_eq!(hello.signature_schemes().collect::<Vec<_>>(), [0x0403, 0x0804]);
        assert!(hello.offers_tls13());
        assert!(!hello.wants_ocsp_staple());
    }

    #[test]
    fn a_hello_may_have_no_extensions() {
        let mut body = vec![3, 3];
        body.extend_from_slice(&[7; 32]);
        body.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0]);
        let hello = ClientHello::parse(&body).unwrap();
        assert_eq!((hello.server_name(), hello.alpn().count()), (None, 0));
        assert!(!hello.offers_tls13());
    }

    #[test]
    fn every_cut_is_an_error() {
        let message = hello("a.b", &[b"h2"]);
        let body = &message[4..];
        // Without extensions it would be whole.
        let without = 2 + 32 + 1 + 2 + 4 + 2;
        for len in (0..body.len()).filter(|len| *len != without) {
            assert_eq!(ClientHello::parse(&body[..len]), Err(HelloError::Length), "at {len}");
        }
        let mut longer = body.to_vec();
        longer.push(0);
        assert_eq!(ClientHello::parse(&longer), Err(HelloError::Length));
    }

    #[test]
    fn names_and_lists_are_checked() {
        let long = "a".repeat(256);
        for name in ["a\0b", "a b", long.as_str()] {
            let message = hello(name, &[]);
            assert_eq!(ClientHello::parse(&message[4..]), Err(HelloError::ServerName), "{name:?}");
        }
        assert!(ClientHello::parse(&hello(&long[1..], &[])[4..]).is_ok());
        assert_eq!(ClientHello::parse(&hello("a", &[b""])[4..]), Err(HelloError::Length));
    }

    #[test]
    fn an_extension_that_counts_must_not_be_there_twice() {
        let once = hello("a.b", &[]);
        let mut twice = once.clone();
        twice.extend_from_slice(&[0, 43, 0, 3, 2, 3, 4]);
        let extensions_at = 4 + 2 + 32 + 1 + 6 + 2;
        let len = u16::from_be_bytes([once[extensions_at], once[extensions_at + 1]]) + 7;
        twice[extensions_at..extensions_at + 2].copy_from_slice(&len.to_be_bytes());
        assert_eq!(ClientHello::parse(&twice[4..]), Err(HelloError::DuplicateExtension));
    }
}
