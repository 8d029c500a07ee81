//! What is asked of a peer's certificate (contract section 16, validation contexts).
//!
//! A chain is verified by webpki; hashes and names are compared here. Invariant: a certificate is
//! reported as verified only when everything that the configuration asks was found to be so.

use std::sync::Arc;

use outrigger_xds::snapshot::{SanKind, SanMatcher, StringMatcher, Validation};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::certificate::X509Certificate;

use super::error::{CertificateFault, TlsConfigError, TlsConfigProblem};
use super::provider::Schemes;
use super::source::{Reader, read_certificates, revocation_lists, system_roots};
use super::x509;

/// A validation context that is ready for use.
#[derive(Debug)]
pub(super) struct Verifier {
    config: Option<Arc<Validation>>,
    /// What is trusted, by name and key, and as whole certificates.
    anchors: Vec<TrustAnchor<'static>>,
    trusted: Vec<CertificateDer<'static>>,
    crls: Vec<CertRevocationList<'static>>,
    crls_digest: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
    /// What a handshake may be signed with; nothing where all algorithms are allowed.
    schemes: Option<Schemes>,
}

/// Whether a certificate that was accepted is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// It fits what was asked.
    Verified,
    /// Nothing was asked, or it was accepted although it does not fit.
    Unverified,
}

impl Verifier {
    /// Reads what `config` names.
    ///
    /// # Errors
    /// When a source can't be read or holds no certificates.
    pub(super) fn new(
        config: Option<&Arc<Validation>>,
        algorithms: WebPkiSupportedAlgorithms,
        schemes: Option<Schemes>,
        files: &mut Reader,
    ) -> Result<Self, TlsConfigError> {
        let mut verifier = Self {
            config: config.cloned(),
            anchors: Vec::new(),
            trusted: Vec::new(),
            crls: Vec::new(),
            crls_digest: [0; 32],
            algorithms,
            schemes,
        };
        let Some(config) = config else { return Ok(verifier) };
        if let Some(source) = &config.trusted_ca {
            let at = format!("{}.trusted_ca", config.at);
            verifier.trusted =
                read_certificates(source, files).map_err(|problem| problem.at(&at))?;
            for (index, certificate) in verifier.trusted.iter().enumerate() {
                let anchor = webpki::anchor_from_trusted_cert(certificate)
                    .map_err(|_| TlsConfigProblem::BadCertificate { index }.at(&at))?;
                verifier.anchors.push(anchor.to_owned());
            }
        }
        if config.system_root_certs {
            let at = format!("{}.system_root_certs", config.at);
            for certificate in system_roots().map_err(|problem| problem.at(&at))? {
                // Bundles hold certificates that cannot be used; a system is not refused for one.
                if let Ok(anchor) = webpki::anchor_from_trusted_cert(&certificate) {
                    verifier.anchors.push(anchor.to_owned());
                }
            }
        }
        if let Some(source) = &config.crl {
            let at = format!("{}.crl", config.at);
            let bytes = files.read(source).map_err(|problem| problem.at(&at))?;
            verifier.crls_digest = x509::sha256(&bytes);
            verifier.crls = revocation_lists(&bytes).map_err(|problem| problem.at(&at))?;
        }
        Ok(verifier)
    }

    /// Whether a server asks clients for a certificate.
    pub(super) fn asks(&self) -> bool {
        self.examines() || self.may_accept_untrusted()
    }

    /// Whether a certificate can be found wanting.
    pub(super) fn examines(&self) -> bool {
        self.verifies_chain() || self.config.as_ref().is_some_and(|config| config.pins())
    }

    /// Whether a chain to an authority is asked for. Without it a name proves nothing.
    pub(super) fn verifies_chain(&self) -> bool {
        !self.anchors.is_empty()
    }

    /// Whether a certificate may be accepted that does not fit what is asked.
    pub(super) fn may_accept_untrusted(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.accept_untrusted)
    }

    /// A digest of all that is asked.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let Some(config) = &self.config else { return [0; 32] };
        // Of the configuration, what is no path; of files, what is in them.
        let mut terms = format!(
            "{:?}{:?}{:?}{:?}",
            config.spki_hashes,
            config.certificate_hashes,
            config.subject_alt_names,
            (
                config.system_root_certs,
                config.only_verify_leaf_cert_crl,
                config.allow_expired_certificate,
                config.accept_untrusted,
                config.max_verify_depth,
            ),
        )
        .into_bytes();
        for certificate in &self.trusted {
            terms.extend_from_slice(&x509::sha256(certificate));
        }
        terms.extend_from_slice(&self.crls_digest);
        x509::sha256(&terms)
    }

    /// Names of the authorities, to tell clients.
    pub(super) fn authorities(&self) -> Vec<DistinguishedName> {
        let told = self.config.as_ref().is_some_and(|config| {
            // Nobody wants to be told all authorities of the world.
            !config.suppress_client_ca_list && !config.system_root_certs
        });
        if !told {
            return Vec::new();
        }
        self.anchors.iter().map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect()
    }

    /// Judges a certificate. `name` is the host that it must be for, if that is asked.
    ///
    /// # Errors
    /// When it is refused.
    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        name: Option<&ServerName<'_>>,
        now: UnixTime,
    ) -> Result<Accepted, CertificateFault> {
        match self.judge(leaf, intermediates, usage, name, now) {
            Ok(()) if self.examines() || name.is_some() => Ok(Accepted::Verified),
            Ok(()) => Ok(Accepted::Unverified),
            Err(fault) => {
                if self.may_accept_untrusted() {
                    Ok(Accepted::Unverified)
                } else {
                    Err(fault)
                }
            }
        }
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        name: Option<&ServerName<'_>>,
        now: UnixTime,
    ) -> Result<(), CertificateFault> {
        if self.verifies_chain() {
            self.judge_chain(leaf, intermediates, usage, now)?;
        }
        if let Some(name) = name {
            let entity = EndEntityCert::try_from(leaf).map_err(CertificateFault::Chain)?;
            entity.verify_is_valid_for_subject_name(name).map_err(|_| CertificateFault::Name)?;
        }
        let Some(config) = &self.config else { return Ok(()) };
        if config.subject_alt_names.is_empty() && !has_hashes(config) {
            return Ok(());
        }
        let certificate = x509::parse(leaf).ok_or(CertificateFault::Unreadable)?;
        let names = &config.subject_alt_names;
        if !names.is_empty() && !names.iter().any(|matcher| matches_name(matcher, &certificate)) {
            return Err(CertificateFault::Name);
        }
        let hashes = has_hashes(config);
        let known = config.certificate_hashes.contains(&x509::sha256(leaf))
            || config.spki_hashes.contains(&x509::spki_sha256(&certificate));
        if hashes && !known { Err(CertificateFault::Hash) } else { Ok(()) }
    }

    fn judge_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), CertificateFault> {
        let lenient = self.config.as_ref().is_some_and(|config| config.allow_expired_certificate);
        // A leaf that is itself among the trusted ones needs no chain. A self-signed certificate is
        // often made as an authority, which webpki would not take for a leaf.
        if self.trusted.iter().any(|trusted| **trusted == **leaf) {
            let certificate = x509::parse(leaf).ok_or(CertificateFault::Unreadable)?;
            return if lenient { Ok(()) } else { judge_validity(&certificate, now) };
        }
        let entity = EndEntityCert::try_from(leaf).map_err(CertificateFault::Chain)?;
        let mut time = now;
        let mut tries = 0;
        loop {
            match self.verify_path(&entity, intermediates, usage, time) {
                Ok(()) => return Ok(()),
                // webpki can't be told to leave time alone, but it can be told another time: one
                // at which the certificate that it complained about was valid.
                Err(error) if lenient && tries < OTHER_TIMES_MAX => {
                    time = match error {
                        webpki::Error::CertExpired { not_after, .. } => not_after,
                        webpki::Error::CertNotValidYet { not_before, .. } => not_before,
                        error => return Err(CertificateFault::Chain(error)),
                    };
                    tries += 1;
                }
                Err(error) => return Err(CertificateFault::Chain(error)),
            }
        }
    }

    fn verify_path(
        &self,
        entity: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        time: UnixTime,
    ) -> Result<(), webpki::Error> {
        let config = self.config.as_ref();
        let depth_max = config.and_then(|config| config.max_verify_depth);
        let check_depth = |path: &webpki::VerifiedPath<'_>| match depth_max {
            Some(max) if path.intermediate_certificates().count() > max as usize => {
                Err(webpki::Error::MaximumPathDepthExceeded)
            }
            _ => Ok(()),
        };
        let crls: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        let leaf_only = config.is_some_and(|config| config.only_verify_leaf_cert_crl);
        let lenient = config.is_some_and(|config| config.allow_expired_certificate);
        // Nothing without lists; with lists, every certificate that is looked at must be in the
        // realm of one of them, and the list must not be over.
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            let depth = if leaf_only {
                RevocationCheckDepth::EndEntity
            } else {
                RevocationCheckDepth::Chain
            };
            let expiration =
                if lenient { ExpirationPolicy::Ignore } else { ExpirationPolicy::Enforce };
            options
                .with_depth(depth)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(expiration)
                .build()
        });
        entity
            .verify_for_usage(
                self.algorithms.all,
                &self.anchors,
                intermediates,
                time,
                usage,
                revocation,
                Some(&check_depth),
            )
            .map(|_| ())
    }
}

impl Verifier {
    fn schemes(&self) -> Vec<SignatureScheme> {
        let supported = self.algorithms.supported_schemes();
        match &self.schemes {
            None => supported,
            Some(schemes) => {
                schemes.iter().copied().filter(|scheme| supported.contains(scheme)).collect()
            }
        }
    }

    fn check_signature(
        &self,
        check: fn(
            &[u8],
            &CertificateDer<'_>,
            &DigitallySignedStruct,
            &WebPkiSupportedAlgorithms,
        ) -> Result<HandshakeSignatureValid, rustls::Error>,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.schemes.as_ref().is_some_and(|schemes| !schemes.contains(&signature.scheme)) {
            return Err(refusal(CertificateFault::Signature));
        }
        check(message, leaf, signature, &self.algorithms)
            .map_err(|_| refusal(CertificateFault::Signature))
    }
}

fn has_hashes(config: &Validation) -> bool {
    !config.spki_hashes.is_empty() || !config.certificate_hashes.is_empty()
}

fn judge_validity(
    certificate: &X509Certificate<'_>,
    now: UnixTime,
) -> Result<(), CertificateFault> {
    let validity = certificate.validity();
    let unix = |seconds: i64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.max(0) as u64))
    };
    let not_before = unix(validity.not_before.timestamp());
    let not_after = unix(validity.not_after.timestamp());
    if now < not_before {
        return Err(CertificateFault::Chain(webpki::Error::CertNotValidYet {
            time: now,
            not_before,
        }));
    }
    if now > not_after {
        return Err(CertificateFault::Chain(webpki::Error::CertExpired { time: now, not_after }));
    }
    Ok(())
}

/// Whether one of the names that `matcher` looks at is what it wants.
fn matches_name(matcher: &SanMatcher, certificate: &X509Certificate<'_>) -> bool {
    let names = x509::names(certificate);
    let text = |name: &&str| matcher.matcher.matches(name.as_bytes());
    let dns = |name: &&str| matches_dns(&matcher.matcher, name);
    let ip = |ip: &std::net::IpAddr| matcher.matcher.matches(ip.to_string().as_bytes());
    match matcher.kind {
        SanKind::Uri => names.uri.iter().any(text),
        SanKind::Email => names.email.iter().any(text),
        SanKind::Dns => names.dns.iter().any(dns),
        SanKind::Ip => names.ip.iter().any(ip),
        SanKind::Any => {
            names.uri.iter().any(text)
                || names.email.iter().any(text)
                || names.dns.iter().any(dns)
                || names.ip.iter().any(ip)
        }
    }
}

/// A wildcard name fits an exact matcher that it covers; other matchers see it as it is written.
fn matches_dns(matcher: &StringMatcher, name: &str) -> bool {
    let wanted = match matcher {
        StringMatcher::Exact { text, .. } => text,
        other => return other.matches(name.as_bytes()),
    };
    if wanted.eq_ignore_ascii_case(name.as_bytes()) {
        return true;
    }
    name.strip_prefix("*.").is_some_and(|parent| {
        wanted
            .iter()
            .position(|byte| *byte == b'.')
            .is_some_and(|dot| dot > 0 && wanted[dot + 1..].eq_ignore_ascii_case(parent.as_bytes()))
    })
}

/// Verifies clients, as rustls asks for it.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) verifier: Arc<Verifier>,
    pub(super) mandatory: bool,
    pub(super) authorities: Vec<DistinguishedName>,
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.mandatory || self.verifier.asks()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.authorities
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verifier
            .check(leaf, intermediates, KeyUsage::client_auth(), None, now)
            .map(|_| ClientCertVerified::assertion())
            .map_err(refusal)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.check_signature(verify_tls12_signature, message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.check_signature(verify_tls13_signature, message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.schemes()
    }
}

/// Verifies servers, as rustls asks for it.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) verifier: Arc<Verifier>,
    /// The certificate must be for the name that is asked for.
    pub(super) checks_name: bool,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = self.checks_name.then_some(name);
        self.verifier
            .check(leaf, intermediates, KeyUsage::server_auth(), name, now)
            .map(|_| ServerCertVerified::assertion())
            .map_err(refusal)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.check_signature(verify_tls12_signature, message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.check_signature(verify_tls13_signature, message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.schemes()
    }
}

/// Hands a fault through rustls, which chooses the alert by the kind of its own error: kinds that
/// have an alert of their own are kept, and others say the certificate is unknown.
fn refusal(fault: CertificateFault) -> rustls::Error {
    use webpki::Error as Chain;
    let kind = match fault {
        CertificateFault::Chain(Chain::CertExpired { time, not_after }) => {
            CertificateError::ExpiredContext { time, not_after }
        }
        CertificateFault::Chain(Chain::CertNotValidYet { time, not_before }) => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        CertificateFault::Chain(Chain::CertRevoked) => CertificateError::Revoked,
        CertificateFault::Chain(Chain::UnknownIssuer) => CertificateError::UnknownIssuer,
        CertificateFault::Signature => CertificateError::BadSignature,
        CertificateFault::Unreadable => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    kind.into()
}

/// The fault that [`refusal`] handed through rustls.
pub(super) fn fault(error: &CertificateError) -> CertificateFault {
    use webpki::Error as Chain;
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            let (time, not_after) = (*time, *not_after);
            CertificateFault::Chain(Chain::CertExpired { time, not_after })
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let (time, not_before) = (*time, *not_before);
            CertificateFault::Chain(Chain::CertNotValidYet { time, not_before })
        }
        CertificateError::Revoked => CertificateFault::Chain(Chain::CertRevoked),
        CertificateError::UnknownIssuer => CertificateFault::Chain(Chain::UnknownIssuer),
        CertificateError::BadSignature => CertificateFault::Signature,
        CertificateError::Other(other) => {
            let known = other.0.downcast_ref::<CertificateFault>();
            known.cloned().unwrap_or(CertificateFault::Unreadable)
        }
        _ => CertificateFault::Unreadable,
    }
}

/// Attempts at a time when expired certificates were valid: each member of a chain may need one.
const OTHER_TIMES_MAX: u32 = 16;
