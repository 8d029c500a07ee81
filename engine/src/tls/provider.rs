//! Versions, suites and groups of a context, as rustls wants them.

use std::sync::Arc;

use outrigger_xds::snapshot::{TlsParameters, TlsVersion};
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{
    CipherSuite, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion, version,
};

use super::error::{TlsConfigError, TlsConfigProblem};
use super::session::cipher_name;

/// The cryptography that `parameters` allow.
///
/// # Errors
/// When none of the suites or groups that are named is supported.
pub(super) fn provider(
    parameters: &TlsParameters,
    at: &str,
) -> Result<Arc<CryptoProvider>, TlsConfigError> {
    let mut suites = supported(&SUITES_TLS13);
    if parameters.cipher_suites.is_empty() {
        suites.extend(supported(&SUITES_TLS12));
    } else {
        let named = parameters.cipher_suites.iter().filter_map(|name| {
            SUITES_TLS12.iter().copied().find(|suite| cipher_name(*suite) == &**name)
        });
        let named: Vec<_> = named.collect();
        if named.is_empty() {
            return Err(TlsConfigProblem::NothingSupported("cipher suite").at(at));
        }
        suites.extend(supported(&named));
    }
    let kx_groups = groups(&parameters.ecdh_curves);
    if kx_groups.is_empty() {
        return Err(TlsConfigProblem::NothingSupported("key exchange group").at(at));
    }
    Ok(Arc::new(CryptoProvider { cipher_suites: suites, kx_groups, ..default_provider() }))
}

/// The versions that `parameters` allow.
///
/// # Errors
/// When the lowest is above the highest.
pub(super) fn versions(
    parameters: &TlsParameters,
    at: &str,
) -> Result<Vec<&'static SupportedProtocolVersion>, TlsConfigError> {
    let range = parameters.min_version..=parameters.max_version;
    let all = [(TlsVersion::Tls13, &version::TLS13), (TlsVersion::Tls12, &version::TLS12)];
    let versions: Vec<_> =
        all.iter().filter(|(name, _)| range.contains(name)).map(|(_, version)| *version).collect();
    if versions.is_empty() {
        return Err(TlsConfigProblem::NothingSupported("protocol version").at(at));
    }
    Ok(versions)
}

/// The signature schemes that `parameters` name, in order; nothing where all are allowed.
///
/// # Errors
/// When none of those that are named is supported.
pub(super) fn schemes(
    parameters: &TlsParameters,
    at: &str,
) -> Result<Option<Schemes>, TlsConfigError> {
    let names = &parameters.signature_algorithms;
    if names.is_empty() {
        return Ok(None);
    }
    let known =
        |name: &str| SCHEMES.iter().find(|(_, known)| *known == name).map(|(scheme, _)| *scheme);
    let schemes: Schemes = names.iter().filter_map(|name| known(name)).collect();
    if schemes.is_empty() {
        return Err(TlsConfigProblem::NothingSupported("signature algorithm").at(at));
    }
    Ok(Some(schemes))
}

/// Signature schemes, the most wanted first.
pub(super) type Schemes = Arc<[SignatureScheme]>;

fn groups(names: &[Box<str>]) -> Vec<&'static dyn SupportedKxGroup> {
    if names.is_empty() {
        return vec![kx_group::X25519, kx_group::SECP256R1];
    }
    names
        .iter()
        .filter_map(|name| -> Option<&'static dyn SupportedKxGroup> {
            match &**name {
                "X25519" => Some(kx_group::X25519),
                "P-256" => Some(kx_group::SECP256R1),
                "P-384" => Some(kx_group::SECP384R1),
                "X25519MLKEM768" => Some(kx_group::X25519MLKEM768),
                _ => None,
            }
        })
        .collect()
}

fn supported(suites: &[CipherSuite]) -> Vec<SupportedCipherSuite> {
    suites
        .iter()
        .filter_map(|suite| ALL_CIPHER_SUITES.iter().find(|known| known.suite() == *suite))
        .copied()
        .collect()
}

/// AES with 128 bits first, as BoringSSL does on machines that have it in hardware.
const SUITES_TLS13: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// Envoy's default order.
const SUITES_TLS12: [CipherSuite; 6] = [
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

const SCHEMES: [(SignatureScheme, &str); 10] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, "ecdsa_secp256r1_sha256"),
    (SignatureScheme::ECDSA_NISTP384_SHA384, "ecdsa_secp384r1_sha384"),
    (SignatureScheme::ECDSA_NISTP521_SHA512, "ecdsa_secp521r1_sha512"),
    (SignatureScheme::ED25519, "ed25519"),
    (SignatureScheme::RSA_PSS_SHA256, "rsa_pss_rsae_sha256"),
    (SignatureScheme::RSA_PSS_SHA384, "rsa_pss_rsae_sha384"),
    (SignatureScheme::RSA_PSS_SHA512, "rsa_pss_rsae_sha512"),
    (SignatureScheme::RSA_PKCS1_SHA256, "rsa_pkcs1_sha256"),
    (SignatureScheme::RSA_PKCS1_SHA384, "rsa_pkcs1_sha384"),
    (SignatureScheme::RSA_PKCS1_SHA512, "rsa_pkcs1_sha512"),
];
