//! In the steady state a proxied request allocates nothing on its shard.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outrigger_engine::access_log::{AccessLogs, LogWriter};
use outrigger_engine::cluster::Breakers;
use outrigger_engine::shard::{self, Common, Message};
use outrigger_engine::stats::Registry;
use outrigger_engine::tls::TlsContexts;
use outrigger_engine::{listen, ring};
use outrigger_xds::bootstrap::{LoadOptions, load, simple};

/// Counts what threads named `shard-0` allocate.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_SHARD: Cell<Option<bool>> = const { Cell::new(None) };
}

fn count() {
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
    if is_shard == Ok(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is System's.
        unsafe { System.alloc(layout) }
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

const REQUEST: &[u8] = b"POST /api HTTP/1.1\r\nhost: bank.example\r\nuser-agent: test\r\n\
content-length: 5\r\nx-request-id: 1\r\n\r\nhello";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-length: 128\r\ncontent-type: text/plain\r\n\r\n";

/// Answers each request with a head and 128 bytes, until the client is gone.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            std::thread::spawn(move || {
                let answer = [RESPONSE, &[b'x'; 128]].concat();
                let mut seen: Vec<u8> = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = connection.read(&mut buffer) {
                    seen.extend_from_slice(&buffer[..count]);
                    if seen.ends_with(b"\r\n\r\nhello") {
                        seen.clear();
                        connection.write_all(&answer).unwrap();
                    }
                }
            });
        }
    });
    address
}

/// One request and its whole response.
fn exchange(client: &mut TcpStream) {
    client.write_all(REQUEST).unwrap();
    let mut response = [0; 4096];
    let mut len = 0;
    while !response[..len].ends_with(&[b'x'; 128]) {
        match client.read(&mut response[len..]) {
            Ok(count) => {
                assert!(count > 0, "the proxy closed");
                len += count;
            }
            // A read with a time limit is not resumed after a signal.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}"),
        }
    }
    assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[test]
fn a_request_in_the_steady_state_allocates_nothing() {
    let source = simple("127.0.0.1:0", &origin().to_string()).unwrap();
    let loaded = load(&source, &LoadOptions::default()).unwrap();
    let snapshot = Arc::new(loaded.snapshot);
    let registry = Arc::new(Registry::new(1));
    let writer = LogWriter::start("log", 1, Arc::default(), Arc::default()).unwrap();
    let common = Common {
        config: Arc::new(loaded.engine),
        features: ring::probe().unwrap(),
        epoch: Instant::now(),
        registry: Arc::clone(&registry),
        log_queue: writer.queue(),
        log_flush_interval_ns: 1_000_000_000,
        breakers: Arc::new(Breakers::new(1)),
        tls: Arc::new(TlsContexts::build(&snapshot).unwrap()),
        pulses: shard::pulses(1),
    };
    let cpus = shard::place(1, &[]).unwrap();
    let shards = shard::start(&cpus, &common, &snapshot).unwrap();
    let config = &snapshot.listeners[0];
    let bound = listen::bind(config, 1).unwrap();
    let address = bound.addresses[0].ip().unwrap();
    for socket in bound.sockets.into_iter().flatten() {
        let message = Message::Listen {
            config: Arc::clone(config),
            logs: Arc::from([Arc::new(AccessLogs::open(&writer.queue(), &[]).unwrap())]),
            socket: Some(socket),
        };
        assert!(shards[0].send(message).is_ok());
    }
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // Long enough for every buffer, queue and histogram to have reached its size.
    for _ in 0..2000 {
        exchange(&mut client);
    }
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 0, "the shard's allocations are counted");
    // The executor allocates a little each time its own reactor runs, ten times a second, whatever
    // the requests do. So: most rounds of a hundred requests must see no allocation at all, which
    // no round would if even one request in fifty allocated.
    let mut rounds = [0; 50];
    for round in &mut rounds {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..100 {
            exchange(&mut client);
        }
        *round = ALLOCATIONS.load(Ordering::Relaxed) - before;
    }
    drop(client);
    shard::stop(shards);
    let clean = rounds.iter().filter(|allocations| **allocations == 0).count();
    assert!(clean >= 25, "allocations per hundred requests: {rounds:?}");
}
