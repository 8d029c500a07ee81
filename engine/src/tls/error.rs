//! What can be wrong with a configuration of TLS, and with a handshake.

use std::io;

use outrigger_xds::bootstrap::LoadError;
use outrigger_xds::secrets::UnfitSecret;

use super::record::alert_name;

/// Why a context can't be built. The path of the field in the configuration comes first.
#[derive(Debug, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct TlsConfigError {
    /// Path of the field in the configuration, or the name of what it belongs to.
    pub at: Box<str>,
    /// What is wrong there.
    pub problem: TlsConfigProblem,
}

/// What is wrong with a part of a TLS context.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigProblem {
    /// A file can't be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: Box<str>,
        /// What the system said.
        error: io::Error,
    },
    /// A file of secrets can't be used.
    #[error("{0}")]
    Secrets(LoadError),
    /// A secret of a server can't be used here.
    #[error("{0}")]
    UnfitSecret(UnfitSecret),
    /// A file is longer than anything of its kind.
    #[error("{path}: longer than {limit_bytes} bytes")]
    FileTooLong {
        /// The file.
        path: Box<str>,
        /// The limit.
        limit_bytes: u64,
    },
    /// Broken PEM.
    #[error("not valid PEM: {0}")]
    Pem(String),
    /// No certificate where there should be one.
    #[error("holds no certificate")]
    NoCertificate,
    /// No private key where there should be one.
    #[error("holds no private key that can be used (PKCS #8, PKCS #1 or SEC 1, not encrypted)")]
    NoKey,
    /// A certificate that can't be read.
    #[error("certificate {index} can't be read")]
    BadCertificate {
        /// Which, from 0.
        index: usize,
    },
    /// The key is not the certificate's.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// No key of a kind that is supported.
    #[error("the private key can't be used: {0}")]
    BadKey(rustls::Error),
    /// A revocation list that can't be read.
    #[error("revocation list {index} can't be read: {reason}")]
    BadCrl {
        /// Which, from 0.
        index: usize,
        /// What is wrong.
        reason: webpki::Error,
    },
    /// No revocation list where there should be one.
    #[error("holds no revocation list")]
    NoCrl,
    /// The system's trust bundle can't be read or is empty.
    #[error("the system has no certificates to trust")]
    NoSystemRoots,
    /// A session ticket key of the wrong length.
    #[error("a session ticket key has {0} bytes instead of 80")]
    TicketKeyLength(usize),
    /// A staple that is no OCSP response, or not for this certificate.
    #[error("the OCSP staple {0}")]
    OcspStaple(&'static str),
    /// A certificate without staple where the policy wants one.
    #[error("MUST_STAPLE, but the certificate has no OCSP staple")]
    OcspStapleMissing,
    /// Versions, suites or groups of which none is supported.
    #[error("no supported {0} is left")]
    NothingSupported(&'static str),
    /// A server without certificate.
    #[error("a server needs a certificate")]
    ServerWithoutCertificate,
    /// What the library refused.
    #[error("refused: {0}")]
    Refused(rustls::Error),
}

impl TlsConfigProblem {
    /// Adds where it is.
    pub(super) fn at(self, at: &str) -> TlsConfigError {
        TlsConfigError { at: at.into(), problem: self }
    }
}

/// Why a handshake failed, by whose fault it was.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum HandshakeError {
    /// The peer closed the connection before the end.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The connection failed with this errno.
    #[error("the connection failed: {}", io::Error::from_raw_os_error(*.0))]
    Transport(i32),
    /// The peer gave up.
    #[error("the peer sent the alert {}", alert_name(*.0))]
    Alert(u8),
    /// The peer's certificate was refused, or it had none.
    #[error("{0}")]
    Certificate(CertificateFault),
    /// Nothing both sides can do: version, suite, group or signature.
    #[error("nothing in common: {0}")]
    Incompatible(rustls::Error),
    /// The peer broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(rustls::Error),
    /// The certificate's OCSP staple is missing or over, and the policy refuses to go without.
    #[error("no usable OCSP staple")]
    OcspStaple,
    /// The server name to ask for is no host name.
    #[error("the server name to ask for is no host name")]
    ServerName,
    /// A fault of our own.
    #[error("internal error: {0}")]
    Internal(rustls::Error),
}

/// What is wrong with a peer's certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// There is none, but there must be.
    #[error("the peer has no certificate")]
    Missing,
    /// No chain to what is trusted; or revoked, over, or not made for this.
    #[error("certificate verify failed: {0}")]
    Chain(webpki::Error),
    /// None of its names is one that is asked for.
    #[error("certificate verify failed: no subject alternative name matches")]
    Name,
    /// It has none of the hashes that are asked for.
    #[error("certificate verify failed: neither certificate nor key has a hash that is asked for")]
    Hash,
    /// It can't be read.
    #[error("certificate verify failed: it can't be read")]
    Unreadable,
    /// The peer does not have its key.
    #[error("certificate verify failed: the handshake was not signed by its key")]
    Signature,
}
