//! The client's side of TLS: an `UpstreamTlsContext` that is ready for use.
//!
//! Invariant: a server is trusted exactly as far as the configuration says; without authorities to
//! trust, that is not at all, and said so when the context is built.

use std::sync::Arc;

use outrigger_xds::snapshot::UpstreamTls;
use rustls::ClientConfig;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::KeyUsage;

use super::certificate::{Certificate, Identity};
use super::error::{TlsConfigError, TlsConfigProblem};
use super::keylog::Capture;
use super::provider::{provider, schemes, versions};
use super::sessions::ClientSessions;
use super::source::Reader;
use super::verify::{Accepted, ServerVerifier, Verifier};

/// A client's context, shared by all shards.
pub struct ClientContext {
    /// Asks for a server name, which the server's certificate must be for if that is configured.
    named: Arc<ClientConfig>,
    /// Asks for none.
    nameless: Arc<ClientConfig>,
    verifier: Arc<Verifier>,
    identity: Option<Arc<Identity>>,
    alpn: Vec<Arc<[u8]>>,
    checks_name: bool,
    sessions_max: u32,
}

impl ClientContext {
    /// Builds the context of `config`. `at` names it in messages.
    ///
    /// # Errors
    /// When a certificate, a key or a bundle can't be read, or they don't belong together.
    pub fn build(config: &UpstreamTls, at: &str) -> Result<Arc<Self>, TlsConfigError> {
        Self::build_from(config, at, &mut Reader::default())
    }

    pub(super) fn build_from(
        config: &UpstreamTls,
        at: &str,
        files: &mut Reader,
    ) -> Result<Arc<Self>, TlsConfigError> {
        let provider = provider(&config.common, at)?;
        let versions = versions(&config.common, at)?;
        let algorithms = provider.signature_verification_algorithms;
        let validation = config.common.validation.as_ref();
        let schemes = schemes(&config.common, at)?;
        let verifier = Verifier::new(validation, algorithms, schemes.clone(), files)?;
        let verifier = Arc::new(verifier);
        if !verifier.verifies_chain() {
            log::warn!(
                target: "tls",
                "{at}: no trusted_ca, so the server's certificate is not verified"
            );
        }
        let certificate = config.common.certificates.first();
        let load = |source| Certificate::load(source, &provider, schemes.as_ref(), files);
        let certificate = certificate.map(load).transpose()?;
        let refused = |error| TlsConfigProblem::Refused(error).at(at);
        let make = |checks_name: bool, names: bool| -> Result<ClientConfig, TlsConfigError> {
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&versions)
                .map_err(refused)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(ServerVerifier {
                    verifier: Arc::clone(&verifier),
                    checks_name,
                }));
            let mut config = match &certificate {
                None => builder.with_no_client_auth(),
                Some(certificate) => builder.with_client_cert_resolver(resolver(certificate)),
            };
            config.enable_sni = names;
            config.enable_secret_extraction = true;
            config.key_log = Arc::new(Capture);
            Ok(config)
        };
        let sessions = (config.max_session_keys > 0)
            .then(|| Arc::new(ClientSessions::new(config.max_session_keys)));
        let resumption = || match &sessions {
            Some(sessions) => Resumption::store(Arc::clone(sessions) as _),
            None => Resumption::disabled(),
        };
        let mut named = make(config.auto_san_validation, true)?;
        let mut nameless = make(false, false)?;
        named.resumption = resumption();
        nameless.resumption = resumption();
        Ok(Arc::new(Self {
            named: Arc::new(named),
            nameless: Arc::new(nameless),
            verifier,
            identity: certificate.map(|certificate| certificate.identity),
            alpn: config.common.alpn.clone(),
            checks_name: config.auto_san_validation,
            sessions_max: config.max_session_keys,
        }))
    }

    pub(super) fn config(&self, asks_name: bool) -> &Arc<ClientConfig> {
        if asks_name { &self.named } else { &self.nameless }
    }

    /// The configuration of a connection that is not a shard's, and speaks HTTP/2.
    pub fn for_http2(&self, asks_name: bool) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(self.config(asks_name));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// What is offered where nobody says otherwise.
    pub fn alpn(&self) -> &[Arc<[u8]>] {
        &self.alpn
    }

    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// Tickets that a connection may take in.
    pub(super) fn tickets_max(&self) -> u32 {
        self.sessions_max.min(TICKETS_MAX)
    }

    /// Whether a chain that a server showed is one that was verified.
    pub(super) fn is_verified(
        &self,
        chain: &[CertificateDer<'_>],
        name: Option<&ServerName<'_>>,
    ) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        let name = name.filter(|_| self.checks_name);
        if !self.verifier.may_accept_untrusted() {
            // The handshake would have failed.
            return self.verifier.examines() || name.is_some();
        }
        let usage = KeyUsage::server_auth();
        let accepted = self.verifier.check(leaf, intermediates, usage, name, UnixTime::now());
        accepted == Ok(Accepted::Verified)
    }
}

fn resolver(certificate: &Certificate) -> Arc<dyn ResolvesClientCert> {
    Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&certificate.key)))
}

/// Of one connection: servers send two as a rule, and while more may come their connection keeps
/// what rustls needs to take them in.
const TICKETS_MAX: u32 = 2;
