//! TLS contexts (contract section 16), as the configuration says them.
//!
//! Nothing here is a key that is ready for use: the engine reads the sources, checks that they fit
//! together, and reads files again when they change. The invariant: what a context asks of a peer is
//! never weaker than what the configuration said.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::config_source::ConfigSource;
use super::matcher::StringMatcher;

/// Where bytes come from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum DataSource {
    /// In the configuration itself (`inline_bytes`, `inline_string`, an environment variable).
    Inline(Arc<[u8]>),
    /// A file, which is read again when it is replaced.
    File(Arc<Path>),
}

/// Without the bytes, which may be a private key.
impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataSource::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            DataSource::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// A certificate chain and its private key, PEM or DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSource {
    /// Leaf first.
    pub chain: DataSource,
    /// Its key.
    pub key: DataSource,
    /// A DER-encoded OCSP response to staple.
    pub ocsp_staple: Option<DataSource>,
    /// The directory whose changes announce new files, where the configuration names one.
    pub watched_directory: Option<Arc<Path>>,
    /// The file of secrets that all of this was read from; see [`secrets`](crate::secrets).
    pub file: Option<Arc<SecretFile>>,
    /// Path of the field in the configuration, for messages.
    pub at: Box<str>,
}

/// A file that holds secrets (SDS with `path_config_source`), to be read again when it is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretFile {
    /// The file.
    pub path: Arc<Path>,
    /// The directory whose changes announce a new file; `None`: the file's own.
    pub watched_directory: Option<Arc<Path>>,
    /// Which of its secrets is meant.
    pub name: Box<str>,
}

/// A secret that a management server sends (SDS).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sds {
    /// One for each source and name.
    pub key: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Whom to ask.
    pub source: ConfigSource,
}

/// What of a context management servers send. Until all of it is there nobody can shake hands by the
/// context; see [`secrets`](crate::secrets).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServedSecrets {
    /// Certificates beside those that are known.
    pub certificates: Vec<Arc<Sds>>,
    /// What is asked of the peer's certificate; the known validation, if there is one, is what the
    /// content is merged onto (`combined_validation_context`).
    pub validation: Option<Arc<Sds>>,
    /// Keys of session tickets.
    pub session_ticket_keys: Option<Arc<Sds>>,
}

impl ServedSecrets {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Sds>> {
        self.certificates.iter().chain(&self.validation).chain(&self.session_ticket_keys)
    }

    /// Whether nothing is to come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// A protocol version of TLS that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2
    Tls12,
    /// 1.3
    Tls13,
}

/// What both sides of TLS have in common (`CommonTlsContext`).
#[derive(Debug, Clone)]
pub struct TlsParameters {
    /// The lowest version.
    pub min_version: TlsVersion,
    /// The highest version.
    pub max_version: TlsVersion,
    /// TLS 1.2 suites by their OpenSSL names, in order; empty means the library's. Only names that the
    /// library has are here.
    pub cipher_suites: Vec<Box<str>>,
    /// Key exchange groups by their usual names (`X25519`, `P-256`, `P-384`, `X25519MLKEM768`), in
    /// order; empty means X25519 and P-256.
    pub ecdh_curves: Vec<Box<str>>,
    /// Signature algorithms by their TLS names (`ecdsa_secp256r1_sha256`), in order; empty means the
    /// library's. Only names that the library has are here.
    pub signature_algorithms: Vec<Box<str>>,
    /// Protocols to negotiate, in order of preference.
    pub alpn: Vec<Arc<[u8]>>,
    /// Certificates; a client has at most one.
    pub certificates: Vec<CertificateSource>,
    /// What is asked of the peer's certificate.
    pub validation: Option<Arc<Validation>>,
    /// What of this is to come from servers.
    pub served: ServedSecrets,
}

/// `CertificateValidationContext`.
#[derive(Debug, Clone)]
pub struct Validation {
    /// PEM bundle of trust anchors. Without it a chain is not verified.
    pub trusted_ca: Option<DataSource>,
    /// Trust what the system trusts.
    pub system_root_certs: bool,
    /// SHA-256 hashes of public keys (SPKI), one of which the leaf must have; empty accepts any.
    pub spki_hashes: Vec<[u8; 32]>,
    /// SHA-256 hashes of certificates, one of which the leaf must have; empty accepts any. A leaf that
    /// fits either list is accepted.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// One of which a name of the leaf must match; empty accepts any.
    pub subject_alt_names: Vec<SanMatcher>,
    /// PEM bundle of revocation lists.
    pub crl: Option<DataSource>,
    /// Look only the leaf up in revocation lists.
    pub only_verify_leaf_cert_crl: bool,
    /// Accept certificates whose time is over, or has not come.
    pub allow_expired_certificate: bool,
    /// ACCEPT_UNTRUSTED: a chain that does not verify is accepted, but the peer does not count as
    /// verified.
    pub accept_untrusted: bool,
    /// Intermediate certificates at most; `None` is the library's limit.
    pub max_verify_depth: Option<u32>,
    /// A server does not tell clients the names of the authorities that it trusts.
    pub suppress_client_ca_list: bool,
    /// The directory whose changes announce new files, where the configuration names one.
    pub watched_directory: Option<Arc<Path>>,
    /// The file of secrets that this, but for `base`, was read from; see [`secrets`](crate::secrets).
    pub file: Option<Arc<SecretFile>>,
    /// What the content of `file` was merged onto (`combined_validation_context`).
    pub base: Option<Arc<Validation>>,
    /// Path of the field in the configuration, for messages.
    pub at: Box<str>,
}

impl Validation {
    /// Whether there is anything that a chain could be verified by.
    #[must_use]
    pub fn has_trust_anchors(&self) -> bool {
        self.trusted_ca.is_some() || self.system_root_certs
    }

    /// Whether a certificate can be found wanting at all.
    #[must_use]
    pub fn verifies(&self) -> bool {
        self.has_trust_anchors()
            || !self.spki_hashes.is_empty()
            || !self.certificate_hashes.is_empty()
    }

    /// Whether it asks for a certificate of a particular peer, and so for a certificate.
    #[must_use]
    pub fn pins(&self) -> bool {
        !self.spki_hashes.is_empty()
            || !self.certificate_hashes.is_empty()
            || !self.subject_alt_names.is_empty()
    }

    /// `self` merged onto `base`, as protobuf merges: lists are joined, of single values ours count
    /// where they are set.
    pub(crate) fn onto(mut self, base: Arc<Validation>) -> Validation {
        fn join<T: Clone>(mine: &mut Vec<T>, base: &[T]) {
            mine.splice(0..0, base.iter().cloned());
        }
        self.trusted_ca = self.trusted_ca.or_else(|| base.trusted_ca.clone());
        self.crl = self.crl.or_else(|| base.crl.clone());
        self.watched_directory = self.watched_directory.or_else(|| base.watched_directory.clone());
        self.max_verify_depth = self.max_verify_depth.or(base.max_verify_depth);
        self.system_root_certs |= base.system_root_certs;
        self.only_verify_leaf_cert_crl |= base.only_verify_leaf_cert_crl;
        self.allow_expired_certificate |= base.allow_expired_certificate;
        self.accept_untrusted |= base.accept_untrusted;
        self.suppress_client_ca_list |= base.suppress_client_ca_list;
        join(&mut self.spki_hashes, &base.spki_hashes);
        join(&mut self.certificate_hashes, &base.certificate_hashes);
        join(&mut self.subject_alt_names, &base.subject_alt_names);
        // Typed matchers make untyped ones unread, also across the two.
        if self.subject_alt_names.iter().any(|san| san.kind != SanKind::Any) {
            self.subject_alt_names.retain(|san| san.kind != SanKind::Any);
        }
        self.base = Some(base);
        self
    }
}

/// A condition on one kind of subject alternative name.
#[derive(Debug, Clone)]
pub struct SanMatcher {
    /// Which names are looked at.
    pub kind: SanKind,
    /// What one of them must be.
    pub matcher: StringMatcher,
}

/// Kinds of subject alternative names (RFC 5280 section 4.2.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// Any of them (the deprecated, untyped matcher).
    Any,
    /// rfc822Name.
    Email,
    /// dNSName. An exact matcher accepts a wildcard name that covers it, as Envoy does.
    Dns,
    /// uniformResourceIdentifier, which SPIFFE uses.
    Uri,
    /// iPAddress.
    Ip,
}

/// `DownstreamTlsContext`.
#[derive(Debug, Clone)]
pub struct DownstreamTls {
    /// What both sides have in common.
    pub common: TlsParameters,
    /// A client without certificate is refused. Without this, a certificate that is presented is
    /// still verified when there is a validation context.
    pub require_client_certificate: bool,
    /// Keys of session tickets, 80 bytes each: the first encrypts, all decrypt. Empty: keys of our own.
    pub session_ticket_keys: Vec<DataSource>,
    /// The file of secrets that they were read from; see [`secrets`](crate::secrets).
    pub session_ticket_keys_file: Option<Arc<SecretFile>>,
    /// No session tickets.
    pub disable_stateless_resumption: bool,
    /// No session cache (TLS 1.2 session ids).
    pub disable_stateful_resumption: bool,
    /// How long a session can be resumed; `None` is the library's default.
    pub session_timeout: Option<Duration>,
    /// What is asked of a certificate's OCSP staple.
    pub ocsp_staple_policy: OcspStaplePolicy,
    /// Look at all certificates for one that fits the client when none has its server name.
    pub full_scan_certs_on_sni_mismatch: bool,
    /// Bounds the handshake (`transport_socket_connect_timeout`); `None` leaves it to other timeouts.
    pub handshake_timeout: Option<Duration>,
}

/// What is asked of a certificate's OCSP staple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OcspStaplePolicy {
    /// Stapled when there is one.
    Lenient,
    /// A staple that was configured must be usable.
    Strict,
    /// Every certificate must have one.
    Must,
}

/// `UpstreamTlsContext`.
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    /// What both sides have in common; `alpn` may be empty where the cluster's protocol says enough.
    pub common: TlsParameters,
    /// The server name to ask for.
    pub sni: UpstreamSni,
    /// The leaf must have the server name that was asked for (`auto_sni_san_validation`,
    /// `auto_san_validation`).
    pub auto_san_validation: bool,
    /// Sessions kept for resumption; 0 is none.
    pub max_session_keys: u32,
}

/// Which server name an upstream connection asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamSni {
    /// None.
    None,
    /// Always this one.
    Literal(Box<str>),
    /// The endpoint's host name (`auto_host_sni`), or else this one.
    EndpointHostname(Option<Box<str>>),
    /// The host of the request that the connection is made for (`auto_sni`): connections with
    /// different names are different pools.
    RequestAuthority,
}
