//! `x-forwarded-client-cert`: what upstream is told of the client's certificate (contract section 5).
//!
//! An element is `By=…;Hash=…;Cert="…";Chain="…";Subject="…";URI=…;DNS=…`, and the header is a list of
//! them, one for each proxy that said something. Invariant: what a client says of certificates goes
//! on only when the configuration says that anybody may, or when the client's own was verified.
//!
//! Values are written as Envoy writes them: Cert, Chain and Subject in quotes, names without. A name
//! that would end its element there is quoted too, as the header's grammar wants it; Envoy lets such a
//! name forge what follows.

use std::borrow::Cow;
use std::fmt::Write;

use outrigger_codecs::http::Field;
use outrigger_xds::snapshot::{ClientCertDetails, ForwardClientCert, HttpConnectionManager};

use crate::access_log::url_encoded_pem;
use crate::connection::ConnectionInfo;
use crate::tls::{CertificateFacts, PeerCertificate, TlsSession};

/// What becomes of the header on one request.
pub(super) struct ForwardedCert<'a> {
    /// What the client sent goes on as it came.
    pub(super) copied: bool,
    /// What is written.
    pub(super) written: Option<Cow<'a, [u8]>>,
}

impl<'a> ForwardedCert<'a> {
    /// Decides by the configuration and by who the client is.
    pub(super) fn of(
        config: &HttpConnectionManager,
        info: &'a ConnectionInfo,
        sent: &[Field<'_>],
    ) -> Self {
        let certificate = info.client_certificate();
        let verified = certificate.map(|certificate| certificate.verified);
        let Fate { keeps_sent, adds_own } = Fate::of(config.forward_client_cert, verified);
        let (Some(session), Some(certificate), true) = (info.tls.as_deref(), certificate, adds_own)
        else {
            return Self { copied: keeps_sent, written: None };
        };
        let own = certificate.forwarded.get_or_init(|| {
            own_element(session, certificate, config.client_cert_details).unwrap_or_default()
        });
        let values = sent.iter().filter(|field| is_forwarded_cert(field.name));
        let values = values.map(|field| field.value).filter(|value| !value.is_empty());
        Self { copied: false, written: written(values, keeps_sent, own.as_bytes()) }
    }
}

/// Whether a field is the header.
pub(super) fn is_forwarded_cert(name: &str) -> bool {
    name.eq_ignore_ascii_case(FORWARDED_CERT)
}

/// The header's name.
pub(super) const FORWARDED_CERT: &str = "x-forwarded-client-cert";

#[derive(Debug, PartialEq, Eq)]
struct Fate {
    keeps_sent: bool,
    adds_own: bool,
}

impl Fate {
    /// `verified` tells whether the client's certificate was; nothing where it has none.
    fn of(mode: ForwardClientCert, verified: Option<bool>) -> Self {
        let (keeps_sent, adds_own) = match mode {
            ForwardClientCert::AlwaysForward => (true, false),
            ForwardClientCert::Sanitize => (false, false),
            ForwardClientCert::ForwardOnly => (verified == Some(true), false),
            ForwardClientCert::AppendForward => (verified == Some(true), verified.is_some()),
            ForwardClientCert::SanitizeSet => (false, verified.is_some()),
        };
        Self { keeps_sent, adds_own }
    }
}

fn written<'a, 's>(
    sent: impl Iterator<Item = &'s [u8]>,
    keeps_sent: bool,
    own: &'a [u8],
) -> Option<Cow<'a, [u8]>> {
    let mut all = Vec::new();
    for value in sent.filter(|_| keeps_sent) {
        all.extend_from_slice(value);
        all.push(b',');
    }
    if all.is_empty() {
        return (!own.is_empty()).then_some(Cow::Borrowed(own));
    }
    if own.is_empty() {
        all.pop();
    }
    all.extend_from_slice(own);
    Some(Cow::Owned(all))
}

/// What we say of the client's certificate; nothing of one that can't be read.
fn own_element(
    session: &TlsSession,
    peer: &PeerCertificate,
    details: ClientCertDetails,
) -> Option<Box<str>> {
    let facts = peer.facts()?;
    let encoded = |pem: String| {
        let mut out = Vec::new();
        url_encoded_pem(&pem, &mut out);
        String::from_utf8(out).unwrap_or_default()
    };
    Some(element(&Told {
        by: session.local.as_ref().map(|local| &*local.facts.uri_sans).unwrap_or_default(),
        facts,
        cert: details.cert.then(|| encoded(peer.leaf_pem())),
        chain: details.chain.then(|| encoded(peer.chain_pem())),
        details,
    }))
}

/// What an element is made of.
struct Told<'a> {
    /// The URIs of our own certificate.
    by: &'a [Box<str>],
    facts: &'a CertificateFacts,
    cert: Option<String>,
    chain: Option<String>,
    details: ClientCertDetails,
}

fn element(told: &Told<'_>) -> Box<str> {
    let mut element = Element::default();
    for uri in told.by {
        element.name("By", uri);
    }
    element.plain("Hash", &told.facts.sha256);
    if let Some(cert) = &told.cert {
        element.quoted("Cert", cert);
    }
    if let Some(chain) = &told.chain {
        element.quoted("Chain", chain);
    }
    if told.details.subject {
        // Quotes and line breaks of a distinguished name are escaped in it.
        element.quoted("Subject", &told.facts.subject);
    }
    if told.details.uri {
        if told.facts.uri_sans.is_empty() {
            element.plain("URI", "");
        }
        for uri in &told.facts.uri_sans {
            element.name("URI", uri);
        }
    }
    if told.details.dns {
        for name in &told.facts.dns_sans {
            element.name("DNS", name);
        }
    }
    element.text.into()
}

/// An element that is being put together.
#[derive(Default)]
struct Element {
    text: String,
}

impl Element {
    fn plain(&mut self, key: &str, value: &str) {
        self.key(key);
        self.text.push_str(value);
    }

    fn quoted(&mut self, key: &str, value: &str) {
        self.key(key);
        self.text.push('"');
        self.text.push_str(value);
        self.text.push('"');
    }

    /// A name out of a certificate, which may hold anything.
    fn name(&mut self, key: &str, value: &str) {
        let ends_early = |byte| matches!(byte, b';' | b',' | b'"') || !is_printable(byte);
        if !value.bytes().any(ends_early) {
            return self.plain(key, value);
        }
        self.key(key);
        self.text.push('"');
        for byte in value.bytes() {
            match byte {
                b'"' => self.text.push_str("\\\""),
                byte if is_printable(byte) => self.text.push(char::from(byte)),
                // Writing to a string does not fail.
                byte => drop(write!(self.text, "%{byte:02X}")),
            }
        }
        self.text.push('"');
    }

    fn key(&mut self, key: &str) {
        if !self.text.is_empty() {
            self.text.push(';');
        }
        self.text.push_str(key);
        self.text.push('=');
    }
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_decide_by_the_clients_certificate() {
        use ForwardClientCert::{AlwaysForward, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
        // Mode; what is kept and added without a certificate, with an unverified, with a verified one.
        for (mode, fates) in [
            (Sanitize, [(false, false), (false, false), (false, false)]),
            (ForwardOnly, [(false, false), (false, false), (true, false)]),
            (AppendForward, [(false, false), (false, true), (true, true)]),
            (SanitizeSet, [(false, false), (false, true), (false, true)]),
            (AlwaysForward, [(true, false), (true, false), (true, false)]),
        ] {
            for (verified, (keeps_sent, adds_own)) in
                [None, Some(false), Some(true)].into_iter().zip(fates)
            {
                let expected = Fate { keeps_sent, adds_own };
                assert_eq!(Fate::of(mode, verified), expected, "{mode:?} {verified:?}");
            }
        }
    }

    #[test]
    fn our_element_comes_after_what_was_sent() {
        let sent: [&[u8]; 2] = [b"By=q;Hash=1", b"two"];
        let of = |sent: &[&'static [u8]], keeps, own: &'static str| {
            written(sent.iter().copied(), keeps, own.as_bytes())
                .map(|value| String::from_utf8(value.into_owned()).unwrap())
        };
        assert_eq!(of(&sent, true, "Hash=2").unwrap(), "By=q;Hash=1,two,Hash=2");
        assert_eq!(of(&sent, false, "Hash=2").unwrap(), "Hash=2");
        assert_eq!(of(&[], true, "Hash=2").unwrap(), "Hash=2");
        assert_eq!(of(&sent, true, "").unwrap(), "By=q;Hash=1,two");
        assert_eq!(of(&[], true, ""), None);
    }

    fn facts() -> CertificateFacts {
        CertificateFacts {
            subject: r#"OU=a\\b,O=Acme\, \"Inc\"\;x=1,C=CN"#.into(),
            issuer: "CN=ca".into(),
            serial: "1".into(),
            sha256: "ab12".into(),
            sha1: "cd".into(),
            uri_sans: vec!["spiffe://td/ns/a/sa/client".into(), "spiffe://td/c2?x=1".into()],
            dns_sans: vec!["a.client".into(), "b.client".into()],
            ip_sans: Vec::new(),
            email_sans: Vec::new(),
            not_before_unix_s: 0,
            not_after_unix_s: 0,
        }
    }

    /// The expectations were taken down from Envoy 1.40.
    #[test]
    fn elements_are_envoys() {
        let none = ClientCertDetails::default();
        let names = ClientCertDetails { subject: true, uri: true, dns: true, ..none };
        let by = ["spiffe://td/ns/a/sa/server".into(), "spiffe://td/second".into()];
        let nameless = CertificateFacts {
            subject: "CN=plain".into(),
            uri_sans: Vec::new(),
            dns_sans: Vec::new(),
            ..facts()
        };
        for (by, facts, pem, details, expected) in [
            (&by[..0], facts(), None, none, "Hash=ab12"),
            (
                &by[..],
                facts(),
                None,
                none,
                "By=spiffe://td/ns/a/sa/server;By=spiffe://td/second;Hash=ab12",
            ),
            (
                &by[..1],
                facts(),
                None,
                names,
                r#"By=spiffe://td/ns/a/sa/server;Hash=ab12;Subject="OU=a\\b,O=Acme\, \"Inc\"\;x=1,C=CN";URI=spiffe://td/ns/a/sa/client;URI=spiffe://td/c2?x=1;DNS=a.client;DNS=b.client"#,
            ),
            (&by[..0], nameless, None, names, r#"Hash=ab12;Subject="CN=plain";URI="#),
            (
                &by[..0],
                facts(),
                Some("pem"),
                ClientCertDetails { cert: true, chain: true, ..none },
                r#"Hash=ab12;Cert="pem";Chain="pem""#,
            ),
        ] {
            let pem = pem.map(str::to_owned);
            let told = Told { by, facts: &facts, cert: pem.clone(), chain: pem, details };
            assert_eq!(&*element(&told), expected);
        }
    }

    #[test]
    fn no_name_can_forge_what_follows() {
        let facts = CertificateFacts {
            uri_sans: vec!["spiffe://a;Subject=\"root\",By=x".into(), "b\r\nx: y\u{e9}".into()],
            ..facts()
        };
        let details = ClientCertDetails { uri: true, ..ClientCertDetails::default() };
        let told = Told { by: &[], facts: &facts, cert: None, chain: None, details };
        assert_eq!(
            &*element(&told),
            r#"Hash=ab12;URI="spiffe://a;Subject=\"root\",By=x";URI="b%0D%0Ax: y%C3%A9""#
        );
    }
}
