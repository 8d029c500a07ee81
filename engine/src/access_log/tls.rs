//! What logs say of a TLS connection and of the certificates that were shown on it.
//!
//! A record holds a reference to the session; nothing of it is read before a format asks. Invariant:
//! what is missing is missing, never empty: a plaintext connection, a peer without certificate, a
//! certificate without names of the kind.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write;

use outrigger_xds::snapshot::{CertificateField, TlsValue};
use rustls::NamedGroup;

use crate::tls::{CertificateFacts, PeerCertificate, TlsSession};

use super::render::url_encoded_pem;

/// Appends `value` of `session`; false, and nothing appended, when it has none.
pub(super) fn write(session: &TlsSession, value: TlsValue, out: &mut Vec<u8>) -> bool {
    match value {
        TlsValue::Version => joined(out, [session.version_name()]),
        TlsValue::Cipher => joined(out, [session.cipher_name()]),
        TlsValue::Group => joined(out, session.group.and_then(group_name)),
        TlsValue::Peer(field) => {
            session.peer.as_ref().is_some_and(|peer| of_peer(peer, field, out))
        }
        TlsValue::Local(field) => {
            let local = session.local.as_ref();
            local.is_some_and(|local| of_facts(&local.facts, field, out))
        }
    }
}

/// When the peer's certificate begins to be valid, or is over, in nanoseconds since the epoch.
pub(super) fn validity(session: &TlsSession, end: bool) -> Option<u64> {
    let facts = session.peer.as_ref()?.facts()?;
    let at = if end { facts.not_after_unix_s } else { facts.not_before_unix_s };
    // Times before 1970 are none that anybody means.
    Some(u64::try_from(at).unwrap_or(0).saturating_mul(1_000_000_000))
}

fn of_peer(peer: &PeerCertificate, field: CertificateField, out: &mut Vec<u8>) -> bool {
    let chain = || peer.chain().iter().filter_map(|der| CertificateFacts::read(der));
    match field {
        CertificateField::Pem => {
            url_encoded_pem(&peer.leaf_pem(), out);
            true
        }
        CertificateField::ChainFingerprints256 => joined(out, chain().map(|facts| facts.sha256)),
        CertificateField::ChainFingerprints1 => joined(out, chain().map(|facts| facts.sha1)),
        CertificateField::ChainSerials => joined(out, chain().map(|facts| facts.serial)),
        _ => peer.facts().is_some_and(|facts| of_facts(facts, field, out)),
    }
}

fn of_facts(facts: &CertificateFacts, field: CertificateField, out: &mut Vec<u8>) -> bool {
    match field {
        CertificateField::Subject => joined(out, [&facts.subject]),
        CertificateField::Issuer => joined(out, [&facts.issuer]),
        CertificateField::Serial => joined(out, [&facts.serial]),
        CertificateField::Fingerprint256 => joined(out, [&facts.sha256]),
        CertificateField::Fingerprint1 => joined(out, [&facts.sha1]),
        CertificateField::UriSans => joined(out, facts.uri_sans.iter().map(|name| visible(name))),
        CertificateField::DnsSans => joined(out, facts.dns_sans.iter().map(|name| visible(name))),
        CertificateField::IpSans => joined(out, &facts.ip_sans),
        CertificateField::EmailSans => {
            joined(out, facts.email_sans.iter().map(|name| visible(name)))
        }
        // Of our own certificate nothing of this is ever asked.
        CertificateField::Pem
        | CertificateField::ChainFingerprints256
        | CertificateField::ChainFingerprints1
        | CertificateField::ChainSerials => false,
    }
}

/// A name out of a certificate, which may hold anything: in headers and lines nothing may end early.
fn visible(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect())
}

/// Appends `values` with commas between them; false when all of them together are nothing.
fn joined<T: Display>(out: &mut Vec<u8>, values: impl IntoIterator<Item = T>) -> bool {
    let start = out.len();
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        // Writing to a Vec cannot fail.
        drop(write!(out, "{value}"));
    }
    out.len() > start
}

/// As Envoy calls it.
fn group_name(group: NamedGroup) -> Option<&'static str> {
    Some(match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "P-256",
        NamedGroup::secp384r1 => "P-384",
        NamedGroup::secp521r1 => "P-521",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_told_field_by_field() {
        let facts = CertificateFacts {
            subject: "CN=a".into(),
            issuer: "CN=b".into(),
            serial: "1f".into(),
            sha256: "ab".into(),
            sha1: "cd".into(),
            uri_sans: Vec::new(),
            dns_sans: Vec::new(),
            ip_sans: Vec::new(),
            email_sans: vec!["a@b".into(), "c@d".into()],
            not_before_unix_s: 0,
            not_after_unix_s: 1,
        };
        for (field, expected) in [
            (CertificateField::Subject, Some("CN=a")),
            (CertificateField::Issuer, Some("CN=b")),
            (CertificateField::Serial, Some("1f")),
            (CertificateField::Fingerprint256, Some("ab")),
            (CertificateField::Fingerprint1, Some("cd")),
            (CertificateField::EmailSans, Some("a@b,c@d")),
            (CertificateField::UriSans, None),
            (CertificateField::DnsSans, None),
            (CertificateField::IpSans, None),
        ] {
            let mut out = Vec::new();
            assert_eq!(of_facts(&facts, field, &mut out), expected.is_some(), "{field:?}");
            assert_eq!(out, expected.unwrap_or_default().as_bytes(), "{field:?}");
        }
    }

    #[test]
    fn pem_becomes_one_word() {
        let mut out = Vec::new();
        url_encoded_pem("-----BEGIN CERTIFICATE-----\nAa+/0=\n", &mut out);
        assert_eq!(out, b"-----BEGIN%20CERTIFICATE-----%0AAa%2B%2F0%3D%0A");
    }
}
