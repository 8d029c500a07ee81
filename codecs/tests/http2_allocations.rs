//! What HTTP/2 costs the heap: nothing per exchange once its buffers have grown, and little at rest.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use outrigger_codecs::http::{FieldKind, FieldStorage, Method};
use outrigger_codecs::http2::{
    Config, Connection, Event, Role, StreamId, request_head, response_head, trailers,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

/// Counts the allocations of each thread and the bytes that it holds.
struct Counting;

// SAFETY: every call is passed on to the system allocator with the arguments unchanged, and counting
// in const-initialised thread-locals of types without destructor neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        BYTES.set(BYTES.get() + layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get() - layout.size().cast_signed());
        // SAFETY: `memory` came from `System` with this layout, by `alloc` above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Two connections and the wires between them, all of which keep their memory.
struct Pair {
    client: Connection,
    server: Connection,
    wire: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            client: Connection::new(Role::Client, Config::default()),
            server: Connection::new(Role::Server, Config::default()),
            wire: Vec::new(),
        };
        pair.deliver(Role::Client);
        pair.deliver(Role::Server);
        pair.deliver(Role::Client);
        pair
    }

    /// Hands over what one side has sent and acts on what it means.
    fn deliver(&mut self, from: Role) {
        let (from, to) = match from {
            Role::Client => (&mut self.client, &mut self.server),
            Role::Server => (&mut self.server, &mut self.client),
        };
        self.wire.clear();
        self.wire.append(from.output());
        let mut rest = &self.wire[..];
        loop {
            let step = to.receive(rest, 0).expect("well-formed");
            let Some(event) = step.event else { break };
            rest = &rest[step.consumed..];
            act(to, event);
        }
    }

    /// A request with content, and a response with content and trailers.
    fn exchange(&mut self) {
        let id = self.client.open_stream(Method::Post).expect("below the limit");
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/orders.Orders/Place"),
            (":authority", "orders.example:8080"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("content-length", "600"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ];
        send(&mut self.client, id, false, &fields);
        send_content(&mut self.client, id, 600, true);
        self.deliver(Role::Client);
        let id = self.server.stream_ids().next().expect("the request has come");
        let fields = [(":status", "200"), ("content-type", "application/grpc"), ("server", "x")];
        send(&mut self.server, id, false, &fields);
        send_content(&mut self.server, id, 2000, false);
        send(&mut self.server, id, true, &[("grpc-status", "0")]);
        self.deliver(Role::Server);
        assert!(self.client.is_idle() && self.server.is_idle());
    }
}

fn act(connection: &mut Connection, event: Event) {
    match event {
        Event::Headers { id, end_stream, .. } => {
            connection.set_slot(id, 1);
            let mut storage = FieldStorage::new();
            match connection.role() {
                Role::Server => {
                    let head = request_head(connection.block(), end_stream, &mut storage);
                    assert_eq!(head.expect("checked").fields.len(), 4);
                }
                Role::Client => {
                    let head = response_head(connection.block(), end_stream, &mut storage);
                    assert_eq!(head.expect("checked").status, 200);
                }
            }
        }
        Event::Trailers { .. } => {
            let mut storage = FieldStorage::new();
            let fields = trailers(connection.block(), &mut storage).expect("checked");
            assert_eq!(fields.len(), 1);
        }
        Event::Data { id, range, .. } => connection.release(id, range.len()),
        _ => {}
    }
}

fn send(connection: &mut Connection, id: StreamId, end: bool, fields: &[(&str, &str)]) {
    let mut writer = connection.encode_headers();
    for (name, value) in fields {
        writer.field(name, value.as_bytes(), FieldKind::of(name.as_bytes()), false);
    }
    connection.send_headers(id, end);
}

fn send_content(connection: &mut Connection, id: StreamId, len: usize, end: bool) {
    assert!(connection.send_capacity(id) >= len);
    connection.send_data(id, len, end);
    connection.output().extend_from_slice(&[b'x'; 2000][..len]);
}

#[test]
fn exchanges_allocate_nothing_once_the_buffers_have_grown() {
    let mut pair = Pair::new();
    for _ in 0..200 {
        pair.exchange();
    }
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        pair.exchange();
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    // The counter does count.
    drop(std::hint::black_box(vec![1_u8]));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}

#[test]
fn a_connection_at_rest_is_small() {
    let before = BYTES.get();
    let mut fresh = Box::new(Connection::new(Role::Server, Config::default()));
    fresh.output().clear();
    fresh.shrink();
    let fresh_bytes = BYTES.get() - before;
    assert!(fresh_bytes <= FRESH_BYTES_MAX, "{fresh_bytes} bytes, fresh");

    let mut pair = Pair::new();
    for _ in 0..100 {
        pair.exchange();
    }
    // Held back by a cut in the middle of a frame, and then let go.
    for _ in 0..50 {
        let id = pair.client.open_stream(Method::Get).expect("below the limit");
        let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
        send(&mut pair.client, id, true, &fields);
        let sent = std::mem::take(pair.client.output());
        let (start, end) = sent.split_at(10);
        assert_eq!(pair.server.receive(start, 0).expect("well-formed").event, None);
        assert!(pair.server.receive(end, 0).expect("well-formed").event.is_some());
    }
    for id in pair.server.stream_ids().collect::<Vec<_>>() {
        send(&mut pair.server, id, true, &[(":status", "200")]);
    }
    pair.server.output().clear();
    pair.server.shrink();
    let with_server = BYTES.get();
    drop(pair.server);
    let heap = with_server - BYTES.get();
    assert!(heap <= USED_BYTES_MAX, "{heap} bytes of heap");
}

/// A connection that was never used, its box included; 448 bytes of it are the HPACK coders.
const FRESH_BYTES_MAX: isize = 1088;
/// What one that was used keeps on the heap, the fields of this conversation in its HPACK tables
/// included.
const USED_BYTES_MAX: isize = 1024;
