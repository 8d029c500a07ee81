//! TLS of the harness: a certificate for one run, and the two ends' settings.
//!
//! The generator offers exactly one version, suite and group (TLS 1.3, AES-128-GCM, X25519), so that
//! every proxy does the same arithmetic, and checks no certificate, because what is measured is the
//! other side. It never resumes a session. The certificate is ECDSA P-256.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    ops::DerefMut,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, DigitallySignedStruct, Error, ServerConfig,
    SideData, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

/// Name in the certificate, and the server name that the generator sends.
pub const HOST: &str = "localhost";

/// A self-signed certificate with its key, in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// Both in one PEM file, as HAProxy wants it.
    pub both: PathBuf,
}

/// What a client asks for by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// `http/1.1`; a server that ignores ALPN speaks that too.
    Http1,
    /// `h2`.
    Http2,
}

/// A client's side of TLS, for any number of connections.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    alpn: Alpn,
}

impl Identity {
    /// Makes a certificate and writes it into `directory`.
    ///
    /// # Errors
    ///
    /// When the files can't be written.
    pub fn create(directory: &Path) -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned(), "127.0.0.1".to_owned()])
            .map_err(io::Error::other)?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let file = |name: &str, text: &str| -> io::Result<PathBuf> {
            let path = directory.join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        Ok(Self {
            both: file("both.pem", &format!("{certificate}{key}"))?,
            certificate: file("certificate.pem", &certificate)?,
            key: file("key.pem", &key)?,
        })
    }
}

/// The origin's side: both versions of HTTP by ALPN.
///
/// # Errors
///
/// When the files can't be read or hold something else.
pub fn server_config(certificate: &Path, key: &Path) -> io::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(io::Error::other)?;
    config.alpn_protocols = [Alpn::Http2, Alpn::Http1].map(|alpn| alpn.id().to_vec()).to_vec();
    Ok(Arc::new(config))
}

impl Alpn {
    /// As it is sent.
    #[must_use]
    pub fn id(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

impl TlsClient {
    /// Prepares connections that ask for `alpn`.
    ///
    /// # Errors
    ///
    /// When the library refuses the settings, which are constant.
    pub fn new(alpn: Alpn) -> Result<Self, Error> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        });
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.id().to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), alpn })
    }

    /// A new connection's state.
    ///
    /// # Errors
    ///
    /// When the library refuses, for example for lack of random numbers.
    pub fn connect(&self) -> Result<ClientConnection, Error> {
        let name = ServerName::try_from(HOST).map_err(|_| Error::UnsupportedNameType)?;
        let mut session = ClientConnection::new(Arc::clone(&self.config), name)?;
        // Requests are few and short, and waiting for room would be a state of its own.
        session.set_buffer_limit(None);
        Ok(session)
    }

    /// Whether a finished handshake agreed on what was asked for.
    #[must_use]
    pub fn accepts(&self, session: &ClientConnection) -> bool {
        match (self.alpn, session.alpn_protocol()) {
            (Alpn::Http1, None) => true,
            (alpn, found) => found == Some(alpn.id()),
        }
    }
}

/// Version, suite, group and ALPN of a finished handshake.
#[must_use]
pub fn describe(session: &ClientConnection) -> String {
    let version = session.protocol_version().map(|version| format!("{version:?}"));
    let suite = session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    let group = session.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
    let alpn = session.alpn_protocol().map(|alpn| format!("ALPN {}", alpn.escape_ascii()));
    [version, suite, group, alpn].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Decrypts received bytes into `plain`, in place of what was there. May leave an answer to be
/// [sent](send).
///
/// # Errors
///
/// What the library refuses.
pub(crate) fn receive<S, D>(
    session: &mut S,
    mut received: &[u8],
    plain: &mut Vec<u8>,
) -> Result<(), Error>
where
    S: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData,
{
    plain.clear();
    // Nothing more is taken after the peer's end of the session.
    while session.read_tls(&mut received).map_err(|error| Error::General(error.to_string()))? > 0 {
        let state = session.process_new_packets()?;
        let start = plain.len();
        plain.resize(start + state.plaintext_bytes_to_read(), 0);
        session
            .reader()
            .read_exact(&mut plain[start..])
            .map_err(|error| Error::General(error.to_string()))?;
    }
    Ok(())
}

/// Sends encrypted bytes as far as the socket takes them.
///
/// # Errors
///
/// What the socket says, except that it is full.
pub(crate) fn send<S, D>(session: &mut S, socket: &mut impl Write) -> io::Result<()>
where
    S: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData,
{
    while session.wants_write() {
        match session.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Accepts every certificate and signature.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 was not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
