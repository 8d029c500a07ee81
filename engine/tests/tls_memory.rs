//! What TLS costs in memory: per idle connection, and per message in the steady state.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outrigger_engine::buffers::{ReceiveConfig, RecordBuffers};
use outrigger_engine::ring::{Received, Ring, RingConfig, Wait, Watermarks, probe};
use outrigger_engine::tls::{ClientContext, Handshake, ServerContext, TlsContexts};
use outrigger_engine::transport::Transport;
use outrigger_xds::bootstrap::{LoadOptions, Source, load};
use outrigger_xds::source::Format;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// Counts what the testing thread allocates. Everything goes to the system's allocator, which is
/// also that of the C library that computes the cryptography, and knows how much is in use.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is System's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is System's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is System's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes in use, of Rust and C together.
fn in_use() -> usize {
    // SAFETY: a plain query of the allocator.
    unsafe { libc::mallinfo2() }.uordblks
}

/// One test at a time: memory in use is the process's.
static ALONE: Mutex<()> = Mutex::new(());

const MARKS: Watermarks = Watermarks { high: 64 * 1024 };
const LIMIT: Duration = Duration::from_secs(30);

struct Bench {
    ring: Ring,
    buffers: Rc<RecordBuffers>,
    server: Arc<ServerContext>,
    client: Arc<ClientContext>,
    root: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Bench {
    /// With certificates on both sides if `mutual`.
    fn new(mutual: bool) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let text = |pem: &str| pem.replace("\r\n", "\n").replace('\n', "\\n");
        let pair = format!(
            "tls_certificates: [ {{ certificate_chain: {{ inline_string: \"{}\" }}, \
             private_key: {{ inline_string: \"{}\" }} }} ]",
            text(&certificate.pem()),
            text(&key.serialize_pem())
        );
        let trust = format!(
            "validation_context: {{ trusted_ca: {{ inline_string: \"{}\" }} }}",
            text(&certificate.pem())
        );
        let both = format!("{{ {pair}, {trust} }}");
        let down = if mutual { both.clone() } else { format!("{{ {pair} }}") };
        let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
        let text = format!(
            "
static_resources:
  listeners:
  - name: l
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: t
          cluster: c
      transport_socket:
        name: tls
        typed_config:
          '@type': {kind}.DownstreamTlsContext
          require_client_certificate: {mutual}
          common_tls_context: {down}
  clusters:
  - name: c
    load_assignment: {{ cluster_name: c }}
    transport_socket:
      name: tls
      typed_config: {{ '@type': {kind}.UpstreamTlsContext, common_tls_context: {both} }}
"
        );
        let source = Source::text("test", text, Format::Yaml);
        let snapshot = load(&source, &LoadOptions::default()).unwrap().snapshot;
        let contexts = TlsContexts::build(&snapshot).unwrap();
        let chain = snapshot.listeners[0].filter_chains.iter().next().unwrap();
        let server = contexts.server(chain.tls.as_ref().unwrap()).unwrap().load().unwrap();
        let cluster = &snapshot.clusters.iter().next().unwrap().cluster;
        let client = contexts.client(cluster.tls.as_ref().unwrap()).unwrap().load().unwrap();
        let receive = ReceiveConfig { buffer_bytes: 16 * 1024, buffers: 8, buffers_max: 64 };
        let config = RingConfig { entries: 64, receive, features: probe().unwrap() };
        Self {
            ring: Ring::new(config).unwrap(),
            buffers: RecordBuffers::new(),
            server,
            client,
            root: certificate.der().clone(),
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    fn until<T>(&self, mut done: impl FnMut() -> Option<T>) -> T {
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

    fn finish(&self, handshake: Handshake) -> Transport {
        let mut handshake = Some(handshake);
        let established = self.until(|| match handshake.take().unwrap().ready().unwrap() {
            Ok(established) => Some(established),
            Err(still) => {
                handshake = Some(still);
                None
            }
        });
        established.transport
    }

    fn pair(&self) -> (outrigger_engine::ring::Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_read_timeout(Some(LIMIT)).unwrap();
        (self.ring.adopt(ours.into(), MARKS), theirs)
    }

    /// A connection that we serve, and the client's end of it.
    fn served(&self) -> (Transport, rustls::StreamOwned<ClientConnection, UnixStream>) {
        let (socket, peer) = self.pair();
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![self.root.clone()], self.key.clone_key())
            .unwrap();
        let peer = std::thread::spawn(move || {
            let name = ServerName::try_from("a.test").unwrap();
            let connection = ClientConnection::new(Arc::new(config), name).unwrap();
            let mut peer = rustls::StreamOwned::new(connection, peer);
            peer.write_all(b"ping").unwrap();
            peer.flush().unwrap();
            peer.read_exact(&mut [0; 4]).unwrap();
            peer
        });
        let transport = self.finish(Handshake::server(socket, &self.buffers, &self.server));
        self.pong(&transport);
        self.until(|| peer.is_finished().then_some(()));
        (transport, peer.join().unwrap())
    }

    /// A connection that we made, and the server's end of it.
    fn made(&self) -> (Transport, rustls::StreamOwned<ServerConnection, UnixStream>) {
        let (socket, peer) = self.pair();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.root.clone()], self.key.clone_key())
            .unwrap();
        let peer = std::thread::spawn(move || {
            let connection = ServerConnection::new(Arc::new(config)).unwrap();
            let mut peer = rustls::StreamOwned::new(connection, peer);
            peer.write_all(b"ping").unwrap();
            peer.flush().unwrap();
            peer.read_exact(&mut [0; 4]).unwrap();
            peer
        });
        let handshake =
            Handshake::client(socket, &self.buffers, &self.client, Some("a.test"), None);
        let transport = self.finish(handshake);
        self.pong(&transport);
        self.until(|| peer.is_finished().then_some(()));
        (transport, peer.join().unwrap())
    }

    fn pong(&self, transport: &Transport) {
        let mut count = 0;
        self.until(|| {
            while let Received::Chunk(chunk) = transport.receive() {
                count += chunk.len();
            }
            (count >= 4).then_some(())
        });
        transport.send(self.buffers.write(|out| out.extend(4).copy_from_slice(b"pong")));
        transport.flush();
        self.until(|| (transport.unsent() == 0).then_some(()));
    }
}

/// Bytes that each of some idle connections takes, made by `connect`, which keeps the peer's socket.
fn idle_bytes(connect: impl Fn() -> (Transport, UnixStream)) -> usize {
    const CONNECTIONS: usize = 64;
    // What is made once, and what the first connections leave behind for the others.
    let warm: Vec<_> = (0..CONNECTIONS).map(|_| connect()).collect();
    drop(warm);
    let before = in_use();
    let connections: Vec<_> = (0..CONNECTIONS).map(|_| connect()).collect();
    let after = in_use();
    drop(connections);
    after.saturating_sub(before) / CONNECTIONS
}

#[test]
fn an_idle_connection_is_small() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for mutual in [false, true] {
        let bench = Bench::new(mutual);
        let served = idle_bytes(|| {
            let (transport, peer) = bench.served();
            (transport, peer.into_parts().1)
        });
        let made = idle_bytes(|| {
            let (transport, peer) = bench.made();
            (transport, peer.into_parts().1)
        });
        println!("idle connection, mutual {mutual}: served {served} bytes, made {made} bytes");
        assert!(served <= IDLE_BYTES_MAX, "a served one takes {served} bytes");
        assert!(made <= IDLE_BYTES_MAX, "a made one takes {made} bytes");
    }
}

#[test]
fn small_messages_allocate_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const MESSAGES: usize = 300;
    let bench = Bench::new(false);
    let (transport, mut peer) = bench.served();
    let peer = std::thread::spawn(move || {
        for _ in 0..MESSAGES {
            peer.write_all(b"ping").unwrap();
            peer.flush().unwrap();
            peer.read_exact(&mut [0; 4]).unwrap();
        }
        peer
    });
    let mut before = 0;
    for message in 0..MESSAGES {
        if message == 100 {
            before = ALLOCATIONS.get();
        }
        bench.pong(&transport);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    drop(peer.join().unwrap());
}

#[test]
fn bulk_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const ROUNDS: usize = 40;
    const BLOCK: usize = 100_000;
    let bench = Bench::new(false);
    let (transport, mut peer) = bench.served();
    let peer = std::thread::spawn(move || {
        let mut block = vec![7; BLOCK];
        for _ in 0..ROUNDS {
            peer.write_all(&block).unwrap();
            peer.flush().unwrap();
            peer.read_exact(&mut block).unwrap();
        }
        peer
    });
    let mut before = 0;
    for round in 0..ROUNDS {
        if round == ROUNDS / 2 {
            before = ALLOCATIONS.get();
        }
        // What comes is sent back as it comes.
        let mut left = BLOCK;
        bench.until(|| {
            while let Received::Chunk(chunk) = transport.receive() {
                left -= chunk.len();
                transport.send(chunk);
            }
            transport.flush();
            (left == 0 && transport.unsent() == 0).then_some(())
        });
    }
    // The queues of the ring may still have found a new largest size.
    let allocations = ALLOCATIONS.get() - before;
    assert!(
        allocations <= 4,
        "{allocations} allocations for {} records",
        ROUNDS / 2 * BLOCK / 16384
    );
    drop(peer.join().unwrap());
}

/// A quarter of what an idle TLS connection may take altogether.
const IDLE_BYTES_MAX: usize = 4096;
