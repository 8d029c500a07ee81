//! In the steady state a proxied request allocates nothing on its shard, and a connection that rests
//! holds little there.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outrigger_codecs::http::{FieldKind, Method};
use outrigger_codecs::http2::{Config, Connection, Event, Role};
use outrigger_engine::access_log::{AccessLogs, LogWriter};
use outrigger_engine::cluster::Breakers;
use outrigger_engine::connection::{ChainLogs, DrainTimes};
use outrigger_engine::control::hand_over::Inherited;
use outrigger_engine::shard::{self, Common, Message};
use outrigger_engine::stats::Registry;
use outrigger_engine::tls::TlsContexts;
use outrigger_engine::{listen, ring};
use outrigger_xds::bootstrap::{LoadOptions, Source, load};
use outrigger_xds::source::Format;
use serde_json::{Value, json};

/// Counts what threads named `shard-0` allocate.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Bytes that they hold.
static HELD: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static IS_SHARD: Cell<Option<bool>> = const { Cell::new(None) };
}

fn is_shard() -> bool {
    let is_shard = IS_SHARD.try_with(|known| {
        let is_shard = known.get().unwrap_or_else(|| {
            let mut name = [0u8; 16];
            // SAFETY: PR_GET_NAME writes at most sixteen bytes.
            unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
            name.starts_with(b"shard-0\0")
        });
        // A thread gets its name after its first allocations: ask again until it is a shard.
        known.set(is_shard.then_some(true));
        is_shard
    });
    is_shard == Ok(true)
}

fn count(allocations: u64, bytes: i64) {
    if is_shard() {
        ALLOCATIONS.fetch_add(allocations, Ordering::Relaxed);
        HELD.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller's contract is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: the caller's contract is System's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        // SAFETY: the caller's contract is System's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A connection that resumes what a signal interrupted.
struct Wire<S>(S);

impl<S: Read + Write> Wire<S> {
    fn receive(&mut self, buffer: &mut [u8]) -> usize {
        loop {
            match self.0.read(buffer) {
                Ok(count) => return count,
                // A read with a time limit is not resumed after a signal.
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "{error}");
                }
            }
        }
    }
}

/// What exchanges one request and its whole response.
trait Client {
    fn exchange(&mut self);
}

const BODY: [u8; 128] = [b'x'; 128];

// ---- HTTP/1 ----

const REQUEST: &[u8] = b"POST /api HTTP/1.1\r\nhost: bank.example\r\nuser-agent: test\r\n\
content-length: 5\r\nx-request-id: 1\r\n\r\nhello";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-length: 128\r\ncontent-type: text/plain\r\n\r\n";

impl<S: Read + Write> Client for Wire<S> {
    fn exchange(&mut self) {
        self.0.write_all(REQUEST).unwrap();
        let mut response = [0; 4096];
        let mut len = 0;
        while !response[..len].ends_with(&BODY) {
            let count = self.receive(&mut response[len..]);
            assert!(count > 0, "the proxy closed");
            len += count;
        }
        assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
}

/// Answers each request with a head and a body, until the client is gone.
fn answer_http1(mut connection: TcpStream) {
    let answer = [RESPONSE, &BODY].concat();
    let mut seen: Vec<u8> = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = connection.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..count]);
        if seen.ends_with(b"\r\n\r\nhello") {
            seen.clear();
            connection.write_all(&answer).unwrap();
        }
    }
}

// ---- HTTP/2 ----

struct Http2Client {
    wire: Wire<TcpStream>,
    codec: Connection,
}

impl Client for Http2Client {
    fn exchange(&mut self) {
        let id = self.codec.open_stream(Method::Post).unwrap();
        let mut writer = self.codec.encode_headers();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/api"),
            (":authority", "bank.example"),
            ("user-agent", "test"),
            ("x-request-id", "1"),
        ] {
            writer.field(name, value.as_bytes(), FieldKind::of(name.as_bytes()), false);
        }
        self.codec.send_headers(id, false);
        self.codec.send_data(id, 5, true);
        self.codec.output().extend_from_slice(b"hello");
        let mut received = 0;
        let mut buffer = [0; 4096];
        loop {
            self.wire.0.write_all(self.codec.output()).unwrap();
            self.codec.output().clear();
            let count = self.wire.receive(&mut buffer);
            assert!(count > 0, "the proxy closed");
            let mut rest = &buffer[..count];
            loop {
                let step = self.codec.receive(rest, 0).unwrap();
                let idle = step.consumed == 0 && step.event.is_none();
                rest = &rest[step.consumed..];
                if let Some(Event::Data { range, end_stream, .. }) = step.event {
                    received += range.len();
                    self.codec.release(id, range.len());
                    if end_stream {
                        assert_eq!(received, BODY.len());
                        return;
                    }
                }
                if idle {
                    break;
                }
            }
        }
    }
}

/// Answers each request when it is complete, until the client is gone.
fn answer_http2(mut connection: TcpStream) {
    let mut codec = Connection::new(Role::Server, Config::default());
    let mut buffer = [0; 4096];
    loop {
        connection.write_all(codec.output()).unwrap();
        codec.output().clear();
        let Ok(count @ 1..) = connection.read(&mut buffer) else { return };
        let mut rest = &buffer[..count];
        loop {
            let step = codec.receive(rest, 0).unwrap();
            let idle = step.consumed == 0 && step.event.is_none();
            rest = &rest[step.consumed..];
            if let Some(Event::Data { id, range, end_stream, .. }) = step.event {
                codec.release(id, range.len());
                if end_stream {
                    let mut writer = codec.encode_headers();
                    writer.field(":status", b"200", FieldKind::Other, false);
                    writer.field("content-type", b"text/plain", FieldKind::ContentType, false);
                    codec.send_headers(id, false);
                    codec.send_data(id, BODY.len(), true);
                    codec.output().extend_from_slice(&BODY);
                }
            }
            if idle {
                break;
            }
        }
    }
}

// ---- RPC ----

/// A Bolt or Dubbo request and the bytes that tell its answer; ids count up.
struct RpcClient {
    wire: Wire<TcpStream>,
    request: Vec<u8>,
    id_at: usize,
    answer: Vec<u8>,
    id: u32,
}

impl RpcClient {
    fn bolt(address: SocketAddr) -> Self {
        let mut map = Vec::new();
        for (key, value) in [
            ("service", "com.bank.Pay:1.0"),
            ("sofa_head_method_name", "pay"),
            ("rpc_trace_context.sofaTraceId", "0a0fe8f8"),
        ] {
            for text in [key, value] {
                map.extend_from_slice(&(text.len() as u32).to_be_bytes());
                map.extend_from_slice(text.as_bytes());
            }
        }
        let mut request = vec![1, 1, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0x0b, 0xb8, 0, 0, 0];
        request.push(map.len() as u8);
        request.extend_from_slice(&(BODY.len() as u32).to_be_bytes());
        request.extend_from_slice(&map);
        request.extend_from_slice(&BODY);
        Self { wire: Wire(stream(address)), request, id_at: 5, answer: bolt_answer(), id: 0 }
    }

    fn dubbo(address: SocketAddr) -> Self {
        let mut body = b"\x052.0.2\x0ccom.bank.Pay\x051.0.0\x03pay\x12Ljava/lang/String;".to_vec();
        // Hessian 2: text of up to 1023 units, then attachments.
        body.extend_from_slice(&[0x30, BODY.len() as u8]);
        body.extend_from_slice(&BODY);
        body.extend_from_slice(b"H\x04path\x0ccom.bank.Pay\x05group\x02g1Z");
        let mut request = vec![0xda, 0xbb, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        request.extend_from_slice(&(body.len() as u32).to_be_bytes());
        request.extend_from_slice(&body);
        Self { wire: Wire(stream(address)), request, id_at: 8, answer: dubbo_answer(), id: 0 }
    }
}

impl Client for RpcClient {
    fn exchange(&mut self) {
        self.id += 1;
        let id = self.id_at..self.id_at + 4;
        self.request[id.clone()].copy_from_slice(&self.id.to_be_bytes());
        self.answer[id].copy_from_slice(&self.id.to_be_bytes());
        self.wire.0.write_all(&self.request).unwrap();
        let mut answer = [0; 4096];
        let mut len = 0;
        while len < self.answer.len() {
            let count = self.wire.receive(&mut answer[len..]);
            assert!(count > 0, "the proxy closed");
            len += count;
        }
        assert_eq!(answer[..len], self.answer);
    }
}

fn bolt_answer() -> Vec<u8> {
    let mut answer = vec![1, 0, 0, 2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    answer.extend_from_slice(&(BODY.len() as u32).to_be_bytes());
    answer.extend_from_slice(&BODY);
    answer
}

fn dubbo_answer() -> Vec<u8> {
    let mut answer = vec![0xda, 0xbb, 0x02, 20, 0, 0, 0, 0, 0, 0, 0, 0];
    answer.extend_from_slice(&(BODY.len() as u32 + 3).to_be_bytes());
    answer.extend_from_slice(&[0x91, 0x30, BODY.len() as u8]);
    answer.extend_from_slice(&BODY);
    answer
}

/// Answers every request whose last bytes came: clients here send one at a time.
fn answer_bolt(connection: TcpStream) {
    answer_rpc(connection, bolt_answer(), 5..9, &BODY);
}

fn answer_dubbo(connection: TcpStream) {
    answer_rpc(connection, dubbo_answer(), 4..12, b"g1Z");
}

fn answer_rpc(mut connection: TcpStream, mut answer: Vec<u8>, id: Range<usize>, ends: &[u8]) {
    let mut seen: Vec<u8> = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = connection.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..count]);
        if seen.ends_with(ends) {
            answer[id.clone()].copy_from_slice(&seen[id.clone()]);
            seen.clear();
            connection.write_all(&answer).unwrap();
        }
    }
}

fn origin(answer: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let connection = connection.unwrap();
            std::thread::spawn(move || answer(connection));
        }
    });
    address
}

// ---- the proxy ----

fn configuration(origin: SocketAddr, upstream: &Value, transport_socket: Option<&Value>) -> Source {
    let mut chain = json!({ "filters": [{
        "name": "http",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network\
                      .http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "route_config": { "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "origin" } }]
            }]},
            "http_filters": [{ "name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }]
        }
    }]});
    if let Some(socket) = transport_socket {
        chain["transport_socket"] = socket.clone();
    }
    bootstrap(origin, upstream, &chain)
}

fn rpc_configuration(origin: SocketAddr, protocol: &str) -> Source {
    let chain = json!({ "filters": [{
        "name": "rpc",
        "typed_config": {
            "@type": "type.googleapis.com/outrigger.filters.network.rpc_proxy.v1.RpcProxy",
            "stat_prefix": "in",
            (protocol): {},
            "route_config": { "routes": [
                { "match": { "service": { "exact": "another" } }, "route": { "cluster": "origin" } },
                { "match": { "service": { "prefix": "com.bank." }, "method": { "exact": "pay" } },
                  "route": { "cluster": "origin", "timeout": "5s" } }
            ]}
        }
    }]});
    bootstrap(origin, &json!({ "http_protocol_options": {} }), &chain)
}

fn bootstrap(origin: SocketAddr, upstream: &Value, chain: &Value) -> Source {
    let http2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let address = |address: SocketAddr| {
        json!({ "socket_address": {
            "address": address.ip().to_string(), "port_value": address.port() } })
    };
    let bootstrap = json!({ "static_resources": {
        "listeners": [{
            "name": "main",
            "address": address("127.0.0.1:0".parse().unwrap()),
            "filter_chains": [chain]
        }],
        "clusters": [{
            "name": "origin",
            "load_assignment": { "cluster_name": "origin", "endpoints": [{ "lb_endpoints": [
                { "endpoint": { "address": address(origin) } }] }] },
            "typed_extension_protocol_options": { (http2): {
                "@type": format!("type.googleapis.com/{http2}"),
                "explicit_http_config": upstream } }
        }]
    }});
    Source::text("test", bootstrap.to_string(), Format::Json)
}

/// Allocations of the shard in each of many rounds of twenty requests, when all is warm.
fn rounds(source: &Source, connect: impl FnOnce(SocketAddr) -> Box<dyn Client>) -> [u64; 250] {
    proxying(source, |address| {
        let mut client = connect(address);
        // Long enough for every buffer, queue and histogram to have reached its size.
        for _ in 0..2000 {
            client.exchange();
        }
        assert!(ALLOCATIONS.load(Ordering::Relaxed) > 0, "the shard's allocations are counted");
        let mut rounds = [0; 250];
        for round in &mut rounds {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            for _ in 0..20 {
                client.exchange();
            }
            *round = ALLOCATIONS.load(Ordering::Relaxed) - before;
        }
        rounds
    })
}

/// Bytes that the shard holds for each connection that rests after a request.
fn held(source: &Source, connect: impl Fn(SocketAddr) -> Box<dyn Client>) -> i64 {
    proxying(source, |address| {
        let served = |count| {
            let mut clients: Vec<_> = (0..count).map(|_| connect(address)).collect();
            clients.iter_mut().for_each(|client| client.exchange());
            clients
        };
        // The shard's tables double, so that what they grow by is what the connections take.
        let _first = served(CONNECTIONS / 2);
        let before = HELD.load(Ordering::Relaxed);
        let _more = served(CONNECTIONS);
        (HELD.load(Ordering::Relaxed) - before) / CONNECTIONS as i64
    })
}

const CONNECTIONS: usize = 128;

/// What `work` finds out of a proxy of one shard.
fn proxying<R>(source: &Source, work: impl FnOnce(SocketAddr) -> R) -> R {
    // One at a time: the shards of all of them are counted as one.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    let loaded = load(source, &LoadOptions::default()).unwrap();
    let snapshot = Arc::new(loaded.snapshot);
    let registry = Arc::new(Registry::new(1));
    let writer = LogWriter::start("log", 1, Arc::default(), Arc::default()).unwrap();
    let common = Common {
        node: Arc::default(),
        config: Arc::new(loaded.engine),
        features: ring::probe().unwrap(),
        epoch: Instant::now(),
        registry: Arc::clone(&registry),
        log_queue: writer.queue(),
        log_flush_interval_ns: 1_000_000_000,
        log_batch_bytes: 64 << 10,
        connections_max: u32::MAX,
        breakers: Arc::new(Breakers::new(1)),
        tls: Arc::new(TlsContexts::build(&snapshot).unwrap()),
        drain_times: DrainTimes { limit: Duration::from_secs(1), gradual: false, closes: true },
        pulses: shard::pulses(1),
        demands: Arc::default(),
    };
    let cpus = shard::place(1, &[]).unwrap();
    let shards = shard::start(&cpus, &common, &snapshot).unwrap();
    let config = &snapshot.listeners[0];
    let bound = listen::bind(config, 1, &Inherited::default()).unwrap();
    let address = bound.addresses[0].ip().unwrap();
    bound.listen(config).unwrap();
    let logs: ChainLogs = Arc::from([Arc::new(AccessLogs::open(&writer.queue(), &[]).unwrap())]);
    let message = Message::Listen {
        config: Arc::clone(config),
        logs: Arc::from([logs]),
        rebound: true,
        sockets: Some(bound.sockets.into_iter().flatten().collect()),
    };
    assert!(shards[0].mail().send(message).is_ok());
    let found = work(address);
    shard::stop(shards);
    writer.shutdown(Duration::from_secs(5));
    found
}

fn stream(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// A listener's TLS context with a certificate of its own, and a client that trusts it.
fn tls() -> (Value, rustls::ClientConfig) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let socket = json!({ "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": { "tls_certificates": [{
            "certificate_chain": { "inline_string": made.cert.pem() },
            "private_key": { "inline_string": made.signing_key.serialize_pem() }
        }] }
    }});
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (socket, client)
}

#[test]
fn a_request_in_the_steady_state_allocates_nothing() {
    let (http1, http2) =
        (json!({ "http_protocol_options": {} }), json!({ "http2_protocol_options": {} }));
    let (socket, client) = tls();
    let client = Arc::new(client);
    let found = [
        (
            "HTTP/1 to HTTP/1",
            rounds(&configuration(origin(answer_http1), &http1, None), |address| {
                Box::new(Wire(stream(address)))
            }),
        ),
        (
            "HTTP/2 to HTTP/2",
            rounds(&configuration(origin(answer_http2), &http2, None), |address| {
                let codec = Connection::new(Role::Client, Config::default());
                Box::new(Http2Client { wire: Wire(stream(address)), codec })
            }),
        ),
        (
            "HTTP/1 over TLS to HTTP/1",
            rounds(&configuration(origin(answer_http1), &http1, Some(&socket)), |address| {
                let name = "localhost".try_into().unwrap();
                let session = rustls::ClientConnection::new(client, name).unwrap();
                Box::new(Wire(rustls::StreamOwned::new(session, stream(address))))
            }),
        ),
        (
            "Bolt",
            rounds(&rpc_configuration(origin(answer_bolt), "bolt"), |address| {
                Box::new(RpcClient::bolt(address))
            }),
        ),
        (
            "Dubbo",
            rounds(&rpc_configuration(origin(answer_dubbo), "dubbo"), |address| {
                Box::new(RpcClient::dubbo(address))
            }),
        ),
    ];
    // The executor allocates a little each time its own reactor runs, ten times a second, whatever
    // the requests do. So: most rounds of twenty requests must see no allocation at all, which no
    // round would if even one request in ten allocated.
    for (scenario, rounds) in found {
        let clean = rounds.iter().filter(|allocations| **allocations == 0).count();
        assert!(clean >= 125, "{scenario}: allocations per twenty requests: {rounds:?}");
    }
}

#[test]
fn a_connection_that_rests_holds_little() {
    let http1 = json!({ "http_protocol_options": {} });
    let found = [
        (
            "HTTP/1",
            HTTP1_BYTES_MAX,
            held(&configuration(origin(answer_http1), &http1, None), |address| {
                Box::new(Wire(stream(address)))
            }),
        ),
        (
            "Bolt",
            RPC_BYTES_MAX,
            held(&rpc_configuration(origin(answer_bolt), "bolt"), |address| {
                Box::new(RpcClient::bolt(address))
            }),
        ),
        (
            "Dubbo",
            RPC_BYTES_MAX,
            held(&rpc_configuration(origin(answer_dubbo), "dubbo"), |address| {
                Box::new(RpcClient::dubbo(address))
            }),
        ),
    ];
    for (protocol, most, held) in found {
        assert!((most / 2..=most).contains(&held), "{protocol}: {held} bytes");
    }
}

/// The task is 480, the socket's slot 128; the rest is entries in tables of timers, wakers and sockets.
const HTTP1_BYTES_MAX: i64 = 768;
/// The state is 512, the task 128, the slot 128.
const RPC_BYTES_MAX: i64 = 864;
