//! Our own certificates with their keys and OCSP staples.
//!
//! Invariant: a certificate that is here fits its key, and a staple that is here is for it.

use std::sync::Arc;

use outrigger_xds::snapshot::CertificateSource;
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{SubjectPublicKeyInfoDer, UnixTime};

use super::error::{TlsConfigError, TlsConfigProblem};
use super::ocsp;
use super::provider::Schemes;
use super::source::{Reader, read_certificates, read_key};
use super::x509::{self, CertificateFacts};

/// Who we say we are on a connection.
#[derive(Debug)]
pub struct Identity {
    /// What the certificate says.
    pub facts: CertificateFacts,
}

/// A certificate that is ready for use.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) staple: Option<Staple>,
    pub(super) identity: Arc<Identity>,
    /// Host names it is for, in lower case: its DNS names, or else its common names.
    pub(super) names: Vec<Box<str>>,
}

/// An OCSP response about a certificate.
#[derive(Debug)]
pub(super) struct Staple {
    /// The certificate with the response.
    pub(super) key: Arc<CertifiedKey>,
    /// When there is a newer one.
    pub(super) expires_at: Option<UnixTime>,
}

impl Certificate {
    /// Reads a certificate and checks that its parts belong together.
    ///
    /// # Errors
    /// When a part is missing or broken, or the key is another one's.
    pub(super) fn load(
        source: &CertificateSource,
        provider: &CryptoProvider,
        schemes: Option<&Schemes>,
        files: &mut Reader,
    ) -> Result<Self, TlsConfigError> {
        let chain_at = format!("{}.certificate_chain", source.at);
        let key_at = format!("{}.private_key", source.at);
        let chain =
            read_certificates(&source.chain, files).map_err(|problem| problem.at(&chain_at))?;
        for (index, certificate) in chain.iter().enumerate() {
            if x509::parse(certificate).is_none() {
                return Err(TlsConfigProblem::BadCertificate { index }.at(&chain_at));
            }
        }
        let key = read_key(&source.key, files).map_err(|problem| problem.at(&key_at))?;
        let leaf = chain.first().cloned().ok_or(TlsConfigProblem::NoCertificate.at(&chain_at))?;
        let mut key =
            CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => TlsConfigProblem::KeyMismatch.at(&source.at),
                error => TlsConfigProblem::BadKey(error).at(&key_at),
            })?;
        if let Some(schemes) = schemes {
            let schemes = Arc::clone(schemes);
            key.key = Arc::new(LimitedKey { key: key.key, schemes });
        }
        let staple = match &source.ocsp_staple {
            None => None,
            Some(staple) => {
                let at = format!("{}.ocsp_staple", source.at);
                let response = files.read(staple).map_err(|problem| problem.at(&at))?;
                let expires_at = ocsp::check(&response, &leaf)
                    .map_err(|problem| TlsConfigProblem::OcspStaple(problem).at(&at))?;
                let key = CertifiedKey { ocsp: Some(response.to_vec()), ..key.clone() };
                Some(Staple { key: Arc::new(key), expires_at })
            }
        };
        let facts = CertificateFacts::read(&leaf)
            .ok_or_else(|| TlsConfigProblem::BadCertificate { index: 0 }.at(&chain_at))?;
        let names = names(&leaf, &facts);
        Ok(Self { key: Arc::new(key), staple, identity: Arc::new(Identity { facts }), names })
    }

    /// The kind of its key.
    pub(super) fn algorithm(&self) -> SignatureAlgorithm {
        self.key.key.algorithm()
    }
}

/// A key that signs with some schemes only.
#[derive(Debug)]
struct LimitedKey {
    key: Arc<dyn SigningKey>,
    schemes: Schemes,
}

impl SigningKey for LimitedKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let wanted = self.schemes.iter().filter(|scheme| offered.contains(scheme));
        wanted.filter_map(|scheme| self.key.choose_scheme(&[*scheme])).next()
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.key.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl Staple {
    /// Whether it is over.
    pub(super) fn is_over(&self, now: UnixTime) -> bool {
        self.expires_at.is_some_and(|at| at < now)
    }
}

fn names(leaf: &[u8], facts: &CertificateFacts) -> Vec<Box<str>> {
    let lower = |name: &str| name.to_ascii_lowercase().into_boxed_str();
    if !facts.dns_sans.is_empty() {
        return facts.dns_sans.iter().map(|name| lower(name)).collect();
    }
    let Some(certificate) = x509::parse(leaf) else { return Vec::new() };
    x509::common_names(&certificate).map(lower).collect()
}
