//! What a certificate says about its owner, in the forms that logs and headers want.
//!
//! Nothing is verified here. Invariant: a certificate that can't be read has no facts at all, so
//! nothing is believed of a half-read one.

use std::fmt::Write;
use std::net::IpAddr;

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;
use x509_parser::asn1_rs::{Any, Oid, Tag, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Distinguished name of the owner (RFC 2253, as OpenSSL prints it).
    pub subject: Box<str>,
    /// Distinguished name of the issuer, likewise.
    pub issuer: Box<str>,
    /// Serial number in lower-case hexadecimal.
    pub serial: Box<str>,
    /// SHA-256 of the certificate in lower-case hexadecimal.
    pub sha256: Box<str>,
    /// SHA-1 of the certificate in lower-case hexadecimal.
    pub sha1: Box<str>,
    /// uniformResourceIdentifier names, in order.
    pub uri_sans: Vec<Box<str>>,
    /// dNSName names, in order.
    pub dns_sans: Vec<Box<str>>,
    /// iPAddress names, in order.
    pub ip_sans: Vec<IpAddr>,
    /// rfc822Name names, in order.
    pub email_sans: Vec<Box<str>>,
    /// First second of its validity, since the epoch.
    pub not_before_unix_s: i64,
    /// Last second of its validity, since the epoch.
    pub not_after_unix_s: i64,
}

impl CertificateFacts {
    /// Reads a certificate; nothing when it is not one.
    pub fn read(der: &[u8]) -> Option<Self> {
        let certificate = parse(der)?;
        let names = names(&certificate);
        Some(Self {
            subject: distinguished_name(certificate.subject()).into(),
            issuer: distinguished_name(certificate.issuer()).into(),
            serial: hex(strip_sign(certificate.raw_serial())).into(),
            sha256: hex(digest::digest(&digest::SHA256, der).as_ref()).into(),
            sha1: hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref()).into(),
            uri_sans: names.uri.into_iter().map(Box::from).collect(),
            dns_sans: names.dns.into_iter().map(Box::from).collect(),
            ip_sans: names.ip,
            email_sans: names.email.into_iter().map(Box::from).collect(),
            not_before_unix_s: certificate.validity().not_before.timestamp(),
            not_after_unix_s: certificate.validity().not_after.timestamp(),
        })
    }
}

/// The subject alternative names of a certificate by their kinds.
#[derive(Default)]
pub(super) struct Names<'a> {
    pub(super) uri: Vec<&'a str>,
    pub(super) dns: Vec<&'a str>,
    pub(super) ip: Vec<IpAddr>,
    pub(super) email: Vec<&'a str>,
}

/// Parses a certificate, which must end where the bytes do.
pub(super) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Some(certificate),
        _ => None,
    }
}

/// Sorts the alternative names of a certificate.
pub(super) fn names<'a>(certificate: &'a X509Certificate<'a>) -> Names<'a> {
    let mut names = Names::default();
    // An extension that is there twice, or can't be read, counts as none.
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return names };
    for name in &extension.value.general_names {
        match name {
            GeneralName::URI(uri) => names.uri.push(uri),
            GeneralName::DNSName(dns) => names.dns.push(dns),
            GeneralName::RFC822Name(email) => names.email.push(email),
            GeneralName::IPAddress(bytes) => names.ip.extend(ip_address(bytes)),
            _ => {}
        }
    }
    names
}

/// The common names of a certificate's owner.
pub(super) fn common_names<'a>(
    certificate: &'a X509Certificate<'a>,
) -> impl Iterator<Item = &'a str> {
    certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok())
}

/// The digest by which `verify_certificate_spki` knows a key.
pub(super) fn spki_sha256(certificate: &X509Certificate<'_>) -> [u8; 32] {
    sha256(certificate.public_key().raw)
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Certificates in PEM, one after the other.
pub fn pem<'a>(chain: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    let mut out = String::new();
    for certificate in chain {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        base64_lines(certificate, &mut out);
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}

/// RFC 7468: lines of 64 characters.
fn base64_lines(bytes: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for line in bytes.chunks(48) {
        for group in line.chunks(3) {
            let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
            let bits = at(0) << 16 | at(1) << 8 | at(2);
            for place in 0..4 {
                if place <= group.len() {
                    let index = (bits >> (18 - 6 * place)) & 63;
                    out.push(char::from(ALPHABET[index as usize]));
                } else {
                    out.push('=');
                }
            }
        }
        out.push('\n');
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// A positive number of DER has a zero in front when its first bit is set.
fn strip_sign(serial: &[u8]) -> &[u8] {
    match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        other => other,
    }
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// Prints a name as OpenSSL does with XN_FLAG_RFC2253: the last part first, short names of
/// attributes, everything beyond printable ASCII escaped.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (index, part) in parts.iter().rev().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let attributes: Vec<_> = part.iter().collect();
        // Those of one part are turned around as well.
        for (index, attribute) in attributes.iter().rev().enumerate() {
            if index > 0 {
                out.push('+');
            }
            let known = short_name(attribute.attr_type());
            match known {
                Some(name) => out.push_str(name),
                None => out.push_str(&attribute.attr_type().to_id_string()),
            }
            out.push('=');
            write_value(attribute.attr_value(), known.is_some(), &mut out);
        }
    }
    out
}

fn short_name(oid: &Oid<'_>) -> Option<&'static str> {
    let names = [
        (oid!(2.5.4.3), "CN"),
        (oid!(2.5.4.4), "SN"),
        (oid!(2.5.4.5), "serialNumber"),
        (oid!(2.5.4.6), "C"),
        (oid!(2.5.4.7), "L"),
        (oid!(2.5.4.8), "ST"),
        (oid!(2.5.4.9), "street"),
        (oid!(2.5.4.10), "O"),
        (oid!(2.5.4.11), "OU"),
        (oid!(2.5.4.12), "title"),
        (oid!(2.5.4.13), "description"),
        (oid!(2.5.4.15), "businessCategory"),
        (oid!(2.5.4.17), "postalCode"),
        (oid!(2.5.4.41), "name"),
        (oid!(2.5.4.42), "GN"),
        (oid!(2.5.4.43), "initials"),
        (oid!(2.5.4.46), "dnQualifier"),
        (oid!(2.5.4.44), "generationQualifier"),
        (oid!(2.5.4.65), "pseudonym"),
        (oid!(2.5.4.97), "organizationIdentifier"),
        (oid!(1.3.6.1.4.1.311.60.2.1.1), "jurisdictionL"),
        (oid!(1.3.6.1.4.1.311.60.2.1.2), "jurisdictionST"),
        (oid!(1.3.6.1.4.1.311.60.2.1.3), "jurisdictionC"),
        (oid!(0.9.2342.19200300.100.1.1), "UID"),
        (oid!(0.9.2342.19200300.100.1.25), "DC"),
        (oid!(1.2.840.113549.1.9.1), "emailAddress"),
        (oid!(1.2.840.113549.1.9.2), "unstructuredName"),
    ];
    names.iter().find(|(known, _)| known == oid).map(|(_, name)| *name)
}

fn write_value(value: &Any<'_>, known: bool, out: &mut String) {
    let text = match value.tag() {
        Tag::BmpString => utf16(value.data),
        Tag::UniversalString => utf32(value.data),
        Tag::T61String => Some(value.data.iter().copied().map(char::from).collect()),
        Tag::Utf8String
        | Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString => str::from_utf8(value.data).ok().map(str::to_owned),
        _ => None,
    };
    match text {
        Some(text) if known => escape(&text, out),
        _ => dump(value, out),
    }
}

/// `#` and the encoded value in hexadecimal (RFC 2253 section 2.4).
fn dump(value: &Any<'_>, out: &mut String) {
    out.push('#');
    let header = &value.header;
    let mut encoded = vec![header.tag().0 as u8 | u8::from(header.constructed()) << 5];
    match value.data.len() {
        len @ ..128 => encoded.push(len as u8),
        len @ ..256 => encoded.extend([0x81, len as u8]),
        len => encoded.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    encoded.extend_from_slice(value.data);
    out.push_str(&hex(&encoded).to_uppercase());
}

fn escape(text: &str, out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (index, byte) in text.bytes().enumerate() {
        let special = matches!(byte, b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';')
            || (byte == b' ' && (index == 0 || index == last))
            || (byte == b'#' && index == 0);
        if special {
            out.push('\\');
            out.push(char::from(byte));
        } else if (b' '..=b'~').contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "\\{byte:02X}");
        }
    }
}

fn utf16(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> =
        bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    bytes.len().is_multiple_of(2).then(|| String::from_utf16(&units).ok()).flatten()
}

fn utf32(bytes: &[u8]) -> Option<String> {
    let text = bytes.chunks(4).map(|unit| {
        let unit = <[u8; 4]>::try_from(unit).ok()?;
        char::from_u32(u32::from_be_bytes(unit))
    });
    text.collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn subject(parts: &[(DnType, DnValue)]) -> Box<str> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        CertificateFacts::read(certificate.der()).unwrap().subject
    }

    /// What `openssl x509 -noout -subject -nameopt RFC2253` says.
    #[test]
    fn names_are_printed_as_openssl_prints_them() {
        let text = |text: &str| DnValue::Utf8String(text.to_owned());
        assert_eq!(
            &*subject(&[
                (DnType::CountryName, text("DE")),
                (DnType::OrganizationName, text(" #a,b+c\"d\\e<f>g;h= ")),
                (DnType::CommonName, text("#J\u{fc}rgen\t")),
            ]),
            r#"CN=\#J\C3\BCrgen\09,O=\ #a\,b\+c\"d\\e\<f\>g\;h=\ ,C=DE"#
        );
        let unknown = DnType::CustomDnType(vec![1, 2, 3, 4]);
        assert_eq!(&*subject(&[(unknown, text("hi"))]), "1.2.3.4=#0C026869");
        let bmp = DnValue::BmpString("ab".try_into().unwrap());
        assert_eq!(&*subject(&[(DnType::OrganizationalUnitName, bmp)]), "OU=ab");
        assert_eq!(&*subject(&[]), "");
    }

    #[test]
    fn pem_is_what_others_write() {
        let key = KeyPair::generate().unwrap();
        for name in ["a", "ab", "abc"] {
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            assert_eq!(pem([certificate.der()]), certificate.pem().replace("\r\n", "\n"));
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_facts() {
        let certificate =
            CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
        let der = certificate.der();
        assert!(CertificateFacts::read(der).is_some());
        assert_eq!(CertificateFacts::read(&der[1..]), None);
        assert_eq!(CertificateFacts::read(&[&der[..], b"x"].concat()), None);
        assert_eq!(CertificateFacts::read(b""), None);
    }
}
