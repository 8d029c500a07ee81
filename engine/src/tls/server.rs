//! The server's side of TLS: a `DownstreamTlsContext` that is ready for use.
//!
//! rustls gets one configuration per certificate and circumstance, and which one is chosen from the
//! ClientHello before rustls sees it: so it is known on a connection which certificate was shown,
//! and a client without a common application protocol is served as Envoy does it. Invariant: all
//! configurations of a context ask the same of a client.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_codecs::tls::ClientHello;
use outrigger_xds::snapshot::{DownstreamTls, OcspStaplePolicy};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SignatureAlgorithm, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;

use super::certificate::{Certificate, Identity};
use super::error::{HandshakeError, TlsConfigError, TlsConfigProblem};
use super::keylog::Capture;
use super::provider::{Schemes, provider, schemes, versions};
use super::session::StapleUse;
use super::sessions::ServerSessions;
use super::source::Reader;
use super::tickets::{TicketKeyring, Tickets};
use super::verify::{Accepted, ClientVerifier, Verifier};
use super::x509;

/// A server's context, shared by all shards.
pub struct ServerContext {
    offers: Vec<Offer>,
    /// Which certificates are for a host name; those for `*.a.b` are found by `a.b`.
    exact: HashMap<Box<str>, Vec<usize>>,
    wildcard: HashMap<Box<str>, Vec<usize>>,
    verifier: Arc<Verifier>,
    provider: Arc<CryptoProvider>,
    alpn: Vec<Arc<[u8]>>,
    allows_tls13: bool,
    staple_policy: OcspStaplePolicy,
    scans_all: bool,
}

/// A certificate and the configurations that show it.
struct Offer {
    certificate: Certificate,
    plain: Configurations,
    /// With its OCSP staple.
    stapled: Option<Configurations>,
}

struct Configurations {
    /// Negotiates an application protocol.
    alpn: Arc<ServerConfig>,
    /// Leaves it out, for clients with which there is nothing in common.
    no_alpn: Arc<ServerConfig>,
}

/// How to answer a client.
pub(super) struct Answer {
    pub(super) config: Arc<ServerConfig>,
    pub(super) identity: Arc<Identity>,
    /// What became of the OCSP staple.
    pub(super) staple: StapleUse,
}

impl ServerContext {
    /// Builds the context of `config`. `at` names it in messages.
    ///
    /// # Errors
    /// When a certificate, a key or a bundle can't be read, or they don't belong together.
    pub fn build(
        config: &DownstreamTls,
        at: &str,
        keyring: &Arc<TicketKeyring>,
    ) -> Result<Arc<Self>, TlsConfigError> {
        Self::build_from(config, at, keyring, &mut Reader::default())
    }

    pub(super) fn build_from(
        config: &DownstreamTls,
        at: &str,
        keyring: &Arc<TicketKeyring>,
        files: &mut Reader,
    ) -> Result<Arc<Self>, TlsConfigError> {
        let provider = provider(&config.common, at)?;
        let versions = versions(&config.common, at)?;
        let algorithms = provider.signature_verification_algorithms;
        let validation = config.common.validation.as_ref();
        let schemes = schemes(&config.common, at)?;
        let verifier = Verifier::new(validation, algorithms, schemes.clone(), files)?;
        let verifier = Arc::new(verifier);
        let certificates = load_certificates(config, at, &provider, schemes.as_ref(), files)?;
        let context = fingerprint(config, &verifier, &certificates);
        let common = Common {
            config,
            at,
            provider: &provider,
            versions: &versions,
            verifier: &verifier,
            resumption: Resumption::new(config, at, keyring, context, files)?,
        };
        let offers: Result<Vec<_>, _> =
            certificates.into_iter().map(|certificate| common.offer(certificate)).collect();
        let offers = offers?;
        let (exact, wildcard) = index(&offers);
        Ok(Arc::new(Self {
            offers,
            exact,
            wildcard,
            verifier,
            provider,
            alpn: config.common.alpn.clone(),
            allows_tls13: versions.contains(&&rustls::version::TLS13),
            staple_policy: config.ocsp_staple_policy,
            scans_all: config.full_scan_certs_on_sni_mismatch,
        }))
    }

    /// Chooses how to answer `hello`.
    ///
    /// # Errors
    /// When the policy wants an OCSP staple that there is not.
    pub(super) fn answer(&self, hello: &ClientHello<'_>) -> Result<Answer, HandshakeError> {
        let now = UnixTime::now();
        let offer = self.choose(hello, now);
        let asked = hello.wants_ocsp_staple();
        let staple = offer.certificate.staple.as_ref();
        let usable = staple.is_some_and(|staple| !staple.is_over(now));
        if !self.may_be_shown(offer, now) {
            return Err(HandshakeError::OcspStaple);
        }
        let stapled = asked && usable;
        let configurations = match &offer.stapled {
            Some(configurations) if stapled => configurations,
            _ => &offer.plain,
        };
        let common_protocol = hello.alpn().any(|theirs| self.alpn.iter().any(|o| **o == *theirs));
        let config = if common_protocol { &configurations.alpn } else { &configurations.no_alpn };
        Ok(Answer {
            config: Arc::clone(config),
            identity: Arc::clone(&offer.certificate.identity),
            staple: StapleUse { asked, stapled, omitted: asked && staple.is_some() && !usable },
        })
    }

    /// What to answer a client with that can't be understood: rustls will find out why.
    pub(super) fn any_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.offers[0].plain.alpn)
    }

    /// Whether a chain that a client showed is one that was verified.
    pub(super) fn is_verified(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        if !self.verifier.may_accept_untrusted() {
            // The handshake would have failed.
            return self.verifier.examines();
        }
        let now = UnixTime::now();
        let usage = KeyUsage::client_auth();
        let accepted = self.verifier.check(leaf, intermediates, usage, None, now);
        accepted == Ok(Accepted::Verified)
    }

    /// The certificate for a client: by its server name, then by what it can verify.
    fn choose(&self, hello: &ClientHello<'_>, now: UnixTime) -> &Offer {
        let client = Client::new(hello);
        let named = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            let parent = name.split_once('.').map(|(_, parent)| parent);
            let exact = self.exact.get(&*name);
            let wildcard = || parent.and_then(|parent| self.wildcard.get(parent));
            let fit = |list: &Vec<usize>| self.best(list.iter().copied(), &client, now);
            exact.and_then(fit).or_else(|| wildcard().and_then(fit))
        });
        let scan = || {
            let scans = self.scans_all || hello.server_name().is_none();
            scans.then(|| self.best(0..self.offers.len(), &client, now)).flatten()
        };
        // A context without certificates is not built.
        &self.offers[named.or_else(scan).unwrap_or(0)]
    }

    /// The best of some certificates that the client can verify: ECDSA costs both sides less.
    fn best(
        &self,
        candidates: impl Iterator<Item = usize>,
        client: &Client<'_>,
        now: UnixTime,
    ) -> Option<usize> {
        let mut first = None;
        for index in candidates {
            let offer = &self.offers[index];
            if !self.can_verify(client, offer) || !self.may_be_shown(offer, now) {
                continue;
            }
            if offer.certificate.algorithm() != SignatureAlgorithm::RSA {
                return Some(index);
            }
            first = first.or(Some(index));
        }
        first
    }

    fn can_verify(&self, client: &Client<'_>, offer: &Offer) -> bool {
        let key = &offer.certificate.key.key;
        if key.choose_scheme(&client.schemes).is_none() {
            return false;
        }
        if self.allows_tls13 && client.hello.offers_tls13() {
            return true;
        }
        // In TLS 1.2 suites are for a kind of key.
        let algorithm = key.algorithm();
        self.provider.cipher_suites.iter().any(|suite| {
            suite.tls13().is_none()
                && suite.usable_for_signature_algorithm(algorithm)
                && client.hello.cipher_suites().any(|offered| offered == u16::from(suite.suite()))
        })
    }

    /// Whether the policy on OCSP staples lets a certificate be shown now.
    fn may_be_shown(&self, offer: &Offer, now: UnixTime) -> bool {
        let staple = offer.certificate.staple.as_ref();
        match (self.staple_policy, staple) {
            (OcspStaplePolicy::Lenient, _) | (OcspStaplePolicy::Strict, None) => true,
            (OcspStaplePolicy::Must, None) => false,
            (OcspStaplePolicy::Strict | OcspStaplePolicy::Must, Some(staple)) => {
                !staple.is_over(now)
            }
        }
    }
}

/// What a client can do.
struct Client<'a> {
    hello: &'a ClientHello<'a>,
    schemes: Vec<SignatureScheme>,
}

impl<'a> Client<'a> {
    fn new(hello: &'a ClientHello<'a>) -> Self {
        Self { hello, schemes: hello.signature_schemes().map(SignatureScheme::from).collect() }
    }
}

/// What the configurations of a context share.
struct Common<'a> {
    config: &'a DownstreamTls,
    at: &'a str,
    provider: &'a Arc<CryptoProvider>,
    versions: &'a [&'static SupportedProtocolVersion],
    verifier: &'a Arc<Verifier>,
    resumption: Resumption,
}

impl Common<'_> {
    fn offer(&self, certificate: Certificate) -> Result<Offer, TlsConfigError> {
        let plain = self.configurations(&certificate.key)?;
        let staple = certificate.staple.as_ref();
        let stapled = staple.map(|staple| self.configurations(&staple.key)).transpose()?;
        Ok(Offer { certificate, plain, stapled })
    }

    fn configurations(&self, key: &Arc<CertifiedKey>) -> Result<Configurations, TlsConfigError> {
        let refused = |error| TlsConfigProblem::Refused(error).at(self.at);
        let builder = ServerConfig::builder_with_provider(Arc::clone(self.provider))
            .with_protocol_versions(self.versions)
            .map_err(refused)?;
        let mandatory = self.config.require_client_certificate;
        let builder = if mandatory || self.verifier.asks() {
            builder.with_client_cert_verifier(Arc::new(ClientVerifier {
                authorities: self.verifier.authorities(),
                verifier: Arc::clone(self.verifier),
                mandatory,
            }))
        } else {
            builder.with_client_cert_verifier(WebPkiClientVerifier::no_client_auth())
        };
        let certificate = SingleCertAndKey::from(CertifiedKey::clone(key));
        let mut config = builder.with_cert_resolver(Arc::new(certificate));
        config.ignore_client_order = true;
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(Capture);
        self.resumption.apply(&mut config);
        let no_alpn = Arc::new(config.clone());
        config.alpn_protocols = self.config.common.alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Configurations { alpn: Arc::new(config), no_alpn })
    }
}

/// How sessions are resumed.
struct Resumption {
    tickets: Option<Arc<Tickets>>,
    sessions: Option<Arc<ServerSessions>>,
}

impl Resumption {
    fn new(
        config: &DownstreamTls,
        at: &str,
        keyring: &Arc<TicketKeyring>,
        context: [u8; 32],
        files: &mut Reader,
    ) -> Result<Self, TlsConfigError> {
        let lifetime = config.session_timeout.unwrap_or(SESSION_LIFETIME);
        let tickets = if config.disable_stateless_resumption {
            None
        } else {
            let at = format!("{at}.session_ticket_keys");
            let keys: Result<Vec<_>, _> =
                config.session_ticket_keys.iter().map(|source| files.read(source)).collect();
            let keys = keys.map_err(|problem| problem.at(&at))?;
            let tickets = Tickets::new(&keys, keyring, context, lifetime);
            Some(Arc::new(tickets.map_err(|problem| problem.at(&at))?))
        };
        let stateful = !config.disable_stateful_resumption;
        let sessions = stateful.then(|| Arc::new(ServerSessions::new(lifetime)));
        Ok(Self { tickets, sessions })
    }

    fn apply(&self, config: &mut ServerConfig) {
        match &self.tickets {
            Some(tickets) => {
                config.ticketer = Arc::clone(tickets) as Arc<dyn ProducesTickets>;
                config.send_tls13_tickets = TLS13_TICKETS;
            }
            // TLS 1.3 knows no other sessions.
            None => config.send_tls13_tickets = 0,
        }
        config.session_storage = match &self.sessions {
            Some(sessions) => Arc::clone(sessions) as _,
            None => Arc::new(NoServerSessionStorage {}),
        };
    }
}

fn load_certificates(
    config: &DownstreamTls,
    at: &str,
    provider: &CryptoProvider,
    schemes: Option<&Schemes>,
    files: &mut Reader,
) -> Result<Vec<Certificate>, TlsConfigError> {
    let mut certificates = Vec::with_capacity(config.common.certificates.len());
    for source in &config.common.certificates {
        let certificate = Certificate::load(source, provider, schemes, files)?;
        if config.ocsp_staple_policy == OcspStaplePolicy::Must && certificate.staple.is_none() {
            return Err(TlsConfigProblem::OcspStapleMissing.at(&source.at));
        }
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(TlsConfigProblem::ServerWithoutCertificate.at(at));
    }
    Ok(certificates)
}

/// What tickets are bound to: who the server is, and what it asks of a client. A session that was
/// made under other terms must not be resumed here, but one may be after a certificate was renewed.
fn fingerprint(
    config: &DownstreamTls,
    verifier: &Verifier,
    certificates: &[Certificate],
) -> [u8; 32] {
    let names: Vec<_> = certificates
        .iter()
        .map(|certificate| {
            let facts = &certificate.identity.facts;
            (&facts.subject, &facts.issuer, &facts.dns_sans, &facts.uri_sans, &facts.ip_sans)
        })
        .collect();
    let mandatory = config.require_client_certificate;
    let terms = format!("{names:?} {mandatory} {}", x509::hex(&verifier.fingerprint()));
    x509::sha256(terms.as_bytes())
}

type Index = HashMap<Box<str>, Vec<usize>>;

fn index(offers: &[Offer]) -> (Index, Index) {
    let (mut exact, mut wildcard) = (Index::new(), Index::new());
    for (at, offer) in offers.iter().enumerate() {
        for name in &offer.certificate.names {
            let (index, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut wildcard, parent),
                None => (&mut exact, &**name),
            };
            index.entry(name.into()).or_default().push(at);
        }
    }
    (exact, wildcard)
}

/// BoringSSL's default, and so Envoy's.
const SESSION_LIFETIME: std::time::Duration = std::time::Duration::from_secs(2 * 3600);

/// As many as other servers send: clients use each but once.
const TLS13_TICKETS: usize = 2;
