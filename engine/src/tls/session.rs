//! What a handshake agreed on, for routing, logs and headers.

use std::cell::OnceCell;
use std::sync::Arc;

use outrigger_xds::snapshot::TlsVersion;
use rustls::{CipherSuite, NamedGroup};
use rustls_pki_types::CertificateDer;

use super::certificate::Identity;
use super::x509::{CertificateFacts, pem};

/// An established session.
pub struct TlsSession {
    /// The version.
    pub version: TlsVersion,
    /// The suite.
    pub cipher: CipherSuite,
    /// The key exchange; nothing for a resumed session of TLS 1.2, which has none.
    pub group: Option<NamedGroup>,
    /// The application protocol that was agreed.
    pub alpn: Option<Box<[u8]>>,
    /// The server name that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// Keys come from an earlier session.
    pub resumed: bool,
    /// The peer's certificate, if it showed one.
    pub peer: Option<PeerCertificate>,
    /// The certificate we show: a server has shown it, a client does when it is asked.
    pub local: Option<Arc<Identity>>,
    /// What became of our OCSP staple; on a client's side there is none.
    pub staple: StapleUse,
}

/// What became of a certificate's OCSP staple.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StapleUse {
    /// The client asked for one.
    pub asked: bool,
    /// It got one.
    pub stapled: bool,
    /// It would have got one, but it is over.
    pub omitted: bool,
}

impl TlsSession {
    /// The suite as OpenSSL calls it, which is what Envoy logs and counts.
    pub fn cipher_name(&self) -> &'static str {
        cipher_name(self.cipher)
    }

    /// `TLSv1.2` or `TLSv1.3`.
    pub fn version_name(&self) -> &'static str {
        match self.version {
            TlsVersion::Tls12 => "TLSv1.2",
            TlsVersion::Tls13 => "TLSv1.3",
        }
    }
}

/// The certificate that a peer showed. What it says is read when it is first asked for.
pub struct PeerCertificate {
    /// Whether it was found to be trusted; false when nothing was asked of it, or when an untrusted
    /// one is accepted.
    pub verified: bool,
    chain: Box<[CertificateDer<'static>]>,
    facts: OnceCell<Option<Box<CertificateFacts>>>,
    /// What upstreams are told of it, once that was asked for.
    pub forwarded: OnceCell<Box<str>>,
}

impl PeerCertificate {
    pub(super) fn new(chain: &[CertificateDer<'static>], verified: bool) -> Option<Self> {
        let shown = !chain.is_empty();
        shown.then(|| Self {
            verified,
            chain: chain.into(),
            facts: OnceCell::new(),
            forwarded: OnceCell::new(),
        })
    }

    /// The chain as it was sent, leaf first, never empty.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// What the leaf says; nothing when it can't be read, which a verified one always can.
    pub fn facts(&self) -> Option<&CertificateFacts> {
        let leaf = self.chain.first()?;
        self.facts.get_or_init(|| CertificateFacts::read(leaf).map(Box::new)).as_deref()
    }

    /// The leaf in PEM.
    pub fn leaf_pem(&self) -> String {
        pem(self.chain.first())
    }

    /// The chain in PEM.
    pub fn chain_pem(&self) -> String {
        pem(&self.chain)
    }
}

/// OpenSSL's name of a suite.
pub(super) fn cipher_name(suite: CipherSuite) -> &'static str {
    CIPHER_NAMES.iter().find(|(known, _)| *known == suite).map_or("unknown", |(_, name)| name)
}

/// Every suite that can be agreed on.
pub(super) const CIPHER_NAMES: [(CipherSuite, &str); 9] = [
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305"),
];
