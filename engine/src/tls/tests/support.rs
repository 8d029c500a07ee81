//! Certificates, configurations and peers.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use outrigger_xds::snapshot::{
    CertificateSource, DataSource, DownstreamTls, OcspStaplePolicy, ServedSecrets, TlsParameters,
    TlsVersion, UpstreamSni, UpstreamTls, Validation,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use crate::buffers::{Chunk, ReceiveConfig, RecordBuffers};
use crate::ring::{Received, Ring, RingConfig, Wait, Watermarks, probe};
use crate::tls::{
    ClientContext, Established, Handshake, HandshakeError, ServerContext, TicketKeyring,
};
use crate::transport::Transport;

pub(super) const MARKS: Watermarks = Watermarks { high: 64 * 1024 };
const LIMIT: Duration = Duration::from_secs(20);

// ---- certificates ------------------------------------------------------------------------------

pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its chain and key.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
    pub(super) leaf: CertificateDer<'static>,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    /// An authority that this one vouches for.
    pub(super) fn intermediate(&self, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::signed_by(params, key, &self.issuer).unwrap() }
    }

    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(super) fn issuer(&self) -> &rcgen::Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// A certificate for host names, with an ECDSA key.
    pub(super) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |_| {})
    }

    pub(super) fn issue_with(
        &self,
        names: &[&str],
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        self.issue_key(names, &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), edit)
    }

    pub(super) fn issue_rsa(&self, names: &[&str]) -> Issued {
        self.issue_key(names, &KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(), |_| {})
    }

    fn issue_key(
        &self,
        names: &[&str],
        key: &KeyPair,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Outrigger, Inc");
        params.distinguished_name.push(DnType::CommonName, "leaf");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        edit(&mut params);
        let leaf = params.signed_by(key, &self.issuer).unwrap();
        Issued { chain: leaf.pem(), key: key.serialize_pem(), leaf: leaf.der().clone() }
    }
}

impl Issued {
    pub(super) fn source(&self) -> CertificateSource {
        CertificateSource {
            chain: inline(&self.chain),
            key: inline(&self.key),
            ocsp_staple: None,
            watched_directory: None,
            file: None,
            at: "tls_certificates[0]".into(),
        }
    }

    fn for_rustls(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        (chain.map(Result::unwrap).collect(), key)
    }
}

// ---- configurations ----------------------------------------------------------------------------

pub(super) fn inline(text: &str) -> DataSource {
    DataSource::Inline(text.as_bytes().into())
}

pub(super) fn parameters(certificates: &[&Issued]) -> TlsParameters {
    TlsParameters {
        min_version: TlsVersion::Tls12,
        max_version: TlsVersion::Tls13,
        cipher_suites: Vec::new(),
        ecdh_curves: Vec::new(),
        signature_algorithms: Vec::new(),
        alpn: Vec::new(),
        certificates: certificates.iter().map(|issued| issued.source()).collect(),
        validation: None,
        served: ServedSecrets::default(),
    }
}

pub(super) fn validation(authority: Option<&Authority>) -> Validation {
    Validation {
        trusted_ca: authority.map(|authority| inline(&authority.pem())),
        system_root_certs: false,
        spki_hashes: Vec::new(),
        certificate_hashes: Vec::new(),
        subject_alt_names: Vec::new(),
        crl: None,
        only_verify_leaf_cert_crl: false,
        allow_expired_certificate: false,
        accept_untrusted: false,
        max_verify_depth: None,
        suppress_client_ca_list: false,
        watched_directory: None,
        file: None,
        base: None,
        at: "validation_context".into(),
    }
}

pub(super) fn downstream(certificates: &[&Issued]) -> DownstreamTls {
    DownstreamTls {
        common: parameters(certificates),
        require_client_certificate: false,
        session_ticket_keys: Vec::new(),
        session_ticket_keys_file: None,
        disable_stateless_resumption: false,
        disable_stateful_resumption: false,
        session_timeout: None,
        ocsp_staple_policy: OcspStaplePolicy::Lenient,
        full_scan_certs_on_sni_mismatch: false,
        handshake_timeout: None,
    }
}

pub(super) fn upstream(authority: &Authority) -> UpstreamTls {
    UpstreamTls {
        common: TlsParameters {
            validation: Some(Arc::new(validation(Some(authority)))),
            ..parameters(&[])
        },
        sni: UpstreamSni::None,
        auto_san_validation: true,
        max_session_keys: 4,
    }
}

pub(super) fn server(config: &DownstreamTls) -> Arc<ServerContext> {
    ServerContext::build(config, "listener", &TicketKeyring::new().unwrap()).unwrap()
}

pub(super) fn client(config: &UpstreamTls) -> Arc<ClientContext> {
    ClientContext::build(config, "cluster").unwrap()
}

pub(super) fn names(list: &[&str]) -> Vec<Arc<[u8]>> {
    list.iter().map(|name| name.as_bytes().into()).collect()
}

// ---- rustls as the peer ------------------------------------------------------------------------

/// A client configuration of rustls, with some suites only.
pub(super) fn rustls_client(
    authority: &Authority,
    suites: &[rustls::SupportedCipherSuite],
    identity: Option<&Issued>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider(suites))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.for_rustls();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

/// A server configuration of rustls, which asks for certificates of `clients` if that is given.
pub(super) fn rustls_server(
    identity: &Issued,
    suites: &[rustls::SupportedCipherSuite],
    clients: Option<&Authority>,
) -> ServerConfig {
    let provider = provider(suites);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            let pem = authority.pem();
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let (chain, key) = identity.for_rustls();
    builder.with_single_cert(chain, key).unwrap()
}

fn provider(suites: &[rustls::SupportedCipherSuite]) -> Arc<CryptoProvider> {
    let mut provider = default_provider();
    if !suites.is_empty() {
        provider.cipher_suites = suites.to_vec();
    }
    Arc::new(provider)
}

pub(super) type RustlsClient = StreamOwned<ClientConnection, UnixStream>;
pub(super) type RustlsServer = StreamOwned<ServerConnection, UnixStream>;

/// Runs a client of rustls that asks for `name`.
pub(super) fn spawn_client<T: Send + 'static>(
    socket: UnixStream,
    config: ClientConfig,
    name: &'static str,
    work: impl FnOnce(&mut RustlsClient) -> T + Send + 'static,
) -> JoinHandle<T> {
    std::thread::spawn(move || {
        let name = ServerName::try_from(name).unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        work(&mut StreamOwned::new(connection, socket))
    })
}

/// Runs a server of rustls.
pub(super) fn spawn_server<T: Send + 'static>(
    socket: UnixStream,
    config: ServerConfig,
    work: impl FnOnce(&mut RustlsServer) -> T + Send + 'static,
) -> JoinHandle<T> {
    std::thread::spawn(move || {
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        work(&mut StreamOwned::new(connection, socket))
    })
}

/// Sends `ping` and waits for `pong`.
pub(super) fn ping(peer: &mut (impl Read + Write)) {
    peer.write_all(b"ping").unwrap();
    peer.flush().unwrap();
    expect(peer, b"pong");
}

pub(super) fn expect(peer: &mut impl Read, wanted: &[u8]) {
    let mut bytes = vec![0; wanted.len()];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, wanted);
}

// ---- our side ----------------------------------------------------------------------------------

/// A ring with what connections need.
pub(super) struct Shard {
    pub(super) ring: Ring,
    pub(super) buffers: Rc<RecordBuffers>,
}

impl Shard {
    pub(super) fn new() -> Self {
        Self::with_buffers(16 * 1024)
    }

    /// With receive buffers of `buffer_bytes`.
    pub(super) fn with_buffers(buffer_bytes: u32) -> Self {
        let receive = ReceiveConfig { buffer_bytes, buffers: 8, buffers_max: 256 };
        let features = probe().unwrap();
        let ring = Ring::new(RingConfig { entries: 64, receive, features }).unwrap();
        Self { ring, buffers: RecordBuffers::new() }
    }

    /// A socket of the ring and the other end of it.
    pub(super) fn pair(&self) -> (crate::ring::Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_read_timeout(Some(LIMIT)).unwrap();
        theirs.set_write_timeout(Some(LIMIT)).unwrap();
        (self.ring.adopt(OwnedFd::from(ours), MARKS), theirs)
    }

    pub(super) fn server(&self, context: &Arc<ServerContext>) -> (Handshake, UnixStream) {
        let (socket, peer) = self.pair();
        (Handshake::server(socket, &self.buffers, context), peer)
    }

    pub(super) fn client(
        &self,
        context: &Arc<ClientContext>,
        sni: Option<&str>,
    ) -> (Handshake, UnixStream) {
        let (socket, peer) = self.pair();
        (Handshake::client(socket, &self.buffers, context, sni, None), peer)
    }

    /// Turns the ring until `done` gives something.
    pub(super) fn until<T>(&self, mut done: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(result) = done() {
                return result;
            }
            assert!(Instant::now() < deadline, "nothing happened in {LIMIT:?}");
            self.ring.wake_after(Duration::from_millis(20));
            self.ring.turn(Wait::ForOne).unwrap();
        }
    }

    pub(super) fn finish(&self, handshake: Handshake) -> Result<Established, HandshakeError> {
        let mut handshake = Some(handshake);
        self.until(|| match handshake.take().unwrap().ready() {
            Ok(Ok(established)) => Some(Ok(established)),
            Ok(Err(still)) => {
                handshake = Some(still);
                None
            }
            Err(error) => Some(Err(error)),
        })
    }

    pub(super) fn chunk(&self, bytes: &[u8]) -> Chunk {
        self.buffers.write(|out| out.extend(bytes.len()).copy_from_slice(bytes))
    }

    pub(super) fn send(&self, transport: &Transport, bytes: &[u8]) {
        transport.send(self.chunk(bytes));
        transport.flush();
    }

    /// The next `count` bytes.
    pub(super) fn receive(&self, transport: &Transport, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.until(|| {
            while bytes.len() < count {
                match transport.receive() {
                    Received::Chunk(chunk) => bytes.extend_from_slice(&chunk),
                    Received::None => return None,
                    other => {
                        panic!("{other:?} after {} bytes: {:?}", bytes.len(), transport.failure())
                    }
                }
            }
            Some(())
        });
        bytes
    }

    /// Answers a `ping`.
    pub(super) fn pong(&self, transport: &Transport) {
        assert_eq!(self.receive(transport, 4), b"ping");
        self.send(transport, b"pong");
        self.until(|| (transport.unsent() == 0).then_some(()));
    }

    /// How receiving ends: true for an end, false for a failure.
    pub(super) fn end(&self, transport: &Transport) -> bool {
        self.until(|| match transport.receive() {
            Received::Chunk(chunk) => panic!("unexpected bytes: {:?}", &chunk[..]),
            Received::None => None,
            Received::End => Some(true),
            Received::Failed(_) => Some(false),
        })
    }

    /// Turns the ring until the peer's thread is done.
    pub(super) fn join<T>(&self, peer: JoinHandle<T>) -> T {
        self.until(|| peer.is_finished().then_some(()));
        match peer.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
