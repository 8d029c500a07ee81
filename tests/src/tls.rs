//! Certificates made for one test, and both ends of TLS by an implementation that is not ours to
//! change (rustls with its own defaults).

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber, date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use serde_json::{Value, json};

/// Type of the downstream context.
pub const DOWNSTREAM: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

/// Type of the upstream context.
pub const UPSTREAM: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate chain and its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The chain, PEM.
    pub chain: String,
    /// The key, PEM.
    pub key: String,
    /// The leaf, DER.
    pub leaf: Vec<u8>,
    /// The leaf's public key (SPKI), DER.
    pub public_key: Vec<u8>,
    serial: Vec<u8>,
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct Subject {
    params: CertificateParams,
}

impl Subject {
    /// With a common name and DNS names, for both sides of a connection, until the year 2100.
    ///
    /// # Panics
    /// If that is no DNS name.
    #[must_use]
    pub fn dns(names: &[&str]) -> Subject {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        let common_name = names.first().map_or("nobody", String::as_str);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2100, 1, 1);
        Subject { params }
    }

    /// With a URI, as SPIFFE identities have.
    ///
    /// # Panics
    /// If that is no URI.
    #[must_use]
    pub fn uri(mut self, uri: &str) -> Subject {
        self.params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        self
    }

    /// With an organisation.
    #[must_use]
    pub fn organisation(mut self, name: &str) -> Subject {
        self.params.distinguished_name.push(DnType::OrganizationName, name);
        self
    }

    /// That ended in the year 2021.
    #[must_use]
    pub fn expired(mut self) -> Subject {
        self.params.not_after = date_time_ymd(2021, 1, 1);
        self
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// If there is no randomness.
    #[must_use]
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2100, 1, 1);
        let key = KeyPair::generate().unwrap();
        Authority { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    /// A certificate of ECDSA P-256.
    ///
    /// # Panics
    /// If the subject cannot be written down.
    #[must_use]
    pub fn issue(&self, subject: Subject) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = subject.params;
        let serial = key.public_key_raw()[1..17].to_vec();
        // Positive and of full length.
        let serial = [vec![0x40], serial].concat();
        params.serial_number = Some(SerialNumber::from(serial.clone()));
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: certificate.pem(),
            key: key.serialize_pem(),
            leaf: certificate.der().to_vec(),
            public_key: rcgen::PublicKeyData::subject_public_key_info(&key),
            serial,
        }
    }

    /// Its own certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A list that revokes these.
    ///
    /// # Panics
    /// If it cannot be signed.
    #[must_use]
    pub fn revoke(&self, revoked: &[&Identity]) -> String {
        let revoked_certs = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: SerialNumber::from(identity.serial.clone()),
            revocation_time: date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }
}

impl Identity {
    /// As an `envoy.extensions.transport_sockets.tls.v3.TlsCertificate` with everything inline.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "certificate_chain": {"inline_string": self.chain},
            "private_key": {"inline_string": self.key},
        })
    }

    /// Writes `name.pem` and `name.key` into a directory, each by a rename; returns the
    /// `TlsCertificate` that names them.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn write(&self, directory: &Path, name: &str) -> Value {
        let chain = directory.join(format!("{name}.pem"));
        let key = directory.join(format!("{name}.key"));
        for (path, text) in [(&key, &self.key), (&chain, &self.chain)] {
            let new = path.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, path).unwrap();
        }
        json!({"certificate_chain": {"filename": chain}, "private_key": {"filename": key}})
    }

    fn chain_and_key(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes());
        let chain = chain.collect::<Result<_, _>>().unwrap();
        (chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap())
    }
}

/// How a client is to speak TLS.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions<'a> {
    /// Whom to trust; `None` trusts everybody.
    pub roots: Option<&'a Authority>,
    /// What to show when asked.
    pub identity: Option<&'a Identity>,
    /// Protocols to offer.
    pub alpn: &'a [&'a str],
    /// The only version, or all.
    pub version: Option<&'static SupportedProtocolVersion>,
}

impl ClientOptions<'_> {
    /// The client. Sessions are kept in it: use the same again to resume.
    ///
    /// # Panics
    /// If the identity is unusable.
    #[must_use]
    pub fn build(&self) -> Arc<ClientConfig> {
        let both = [&rustls::version::TLS13, &rustls::version::TLS12];
        let versions = self.version.as_ref().map_or(&both[..], std::slice::from_ref);
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(versions).unwrap();
        let builder = match self.roots {
            Some(authority) => builder.with_root_certificates(authority.roots()),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)),
        };
        let mut config = match self.identity {
            Some(identity) => {
                let (chain, key) = identity.chain_and_key();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn(self.alpn);
        Arc::new(config)
    }
}

/// A client that trusts everybody and offers these protocols.
#[must_use]
pub fn client(alpn: &[&str]) -> Arc<ClientConfig> {
    ClientOptions { alpn, ..ClientOptions::default() }.build()
}

/// A server with that certificate, which asks clients for theirs if it is to trust somebody.
///
/// # Panics
/// If the identity is unusable.
#[must_use]
pub fn server(
    identity: &Identity,
    trusts: Option<&Authority>,
    protocols: &[&str],
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match trusts {
        Some(authority) => {
            let roots = Arc::new(authority.roots());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = identity.chain_and_key();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn(protocols);
    Arc::new(config)
}

/// A connection that has not begun. An empty name asks for none.
pub(crate) fn client_connection(config: &Arc<ClientConfig>, server_name: &str) -> ClientConnection {
    // An address is never asked for by name.
    let name = if server_name.is_empty() { "127.0.0.1" } else { server_name };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn alpn(protocols: &[&str]) -> Vec<Vec<u8>> {
    protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
}

/// Trusts every certificate whose key has signed the handshake.
#[derive(Debug)]
struct Anybody;

impl Anybody {
    fn algorithms() -> WebPkiSupportedAlgorithms {
        aws_lc_rs::default_provider().signature_verification_algorithms
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &Anybody::algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &Anybody::algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Anybody::algorithms().supported_schemes()
    }
}
