//! Parsing and rendering must not touch the heap: every message of the proxy passes here.

#[path = "bolt/vectors.rs"]
mod vectors;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use outrigger_codecs::http::{
    BodyFraming, FieldBlock, FieldKind, FieldStorage, Method, Put, RequestHead, ResponseHead,
    http_date,
};
use outrigger_codecs::http1::{BodyDecoder, HeadLimits, render};
use outrigger_codecs::http2::hpack::{Decoder, Encoder, ListLimits, Outcome};
use outrigger_codecs::rpc::{
    Bolt, Detail, Failure, HeaderEdit, Hsf, Progress, RpcCodec, Splices, Tag,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the allocations of each thread; the test harness has threads of its own.
struct Counting;

// SAFETY: every call is passed on to the system allocator with the arguments unchanged, and counting
// in a const-initialised thread-local of a type without destructor neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: `memory` came from `System` with this layout, by `alloc` above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Discard;

impl Put for Discard {
    fn put(&mut self, bytes: &[u8]) {
        black_box(bytes);
    }
}

#[test]
fn an_exchange_allocates_nothing() {
    let request = b"POST /p HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\nConnection: x-hop\r\n\
        X-Hop: 1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n";
    let response = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello";
    let before = ALLOCATIONS.get();

    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(request, &mut storage, &HeadLimits::default());
    let head = head.expect("well-formed").expect("complete");
    render::request_line(&mut Discard, head.method_text, "/p");
    for field in head.fields.iter().filter(|field| !head.is_hop_by_hop(field)) {
        render::field(&mut Discard, field.name, field.value);
        render::field_proper_case(&mut Discard, field.name, field.value);
    }
    let mut body = BodyDecoder::from(head.framing);
    assert!(body.decode(&request[head.len..]).expect("well-formed").done);

    let mut storage = FieldStorage::new();
    let head = ResponseHead::parse(response, &mut storage, &HeadLimits::default());
    let head = head.expect("well-formed").expect("complete");
    assert_eq!(head.framing(Method::Post), Ok(BodyFraming::Length(5)));
    render::status_line(&mut Discard, head.status, "");
    render::content_length(&mut Discard, 5);
    render::chunk_size_line(&mut Discard, 5);
    render::field(&mut Discard, "date", &http_date(784_111_777));

    assert_eq!(ALLOCATIONS.get() - before, 0);
    // The counter does count.
    drop(black_box(vec![1_u8]));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}

/// Tables, index and blocks get their memory while the first blocks fill them, and keep it.
#[test]
fn header_blocks_allocate_nothing_once_the_tables_are_full() {
    let (mut encoder, mut decoder) = (Encoder::new(true), Decoder::new(4096));
    let (mut block, mut out) = (Vec::new(), FieldBlock::default());
    let limits = ListLimits::new(60 * 1024, 100);
    let mut before = 0;
    for round in 0_u64..4000 {
        if round == 2000 {
            before = ALLOCATIONS.get();
        }
        block.clear();
        encoder.begin(&mut block);
        // Values that never repeat, values that repeat soon and are inserted, and values that stay.
        let unique =
            round.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().map(|it| it & 0x0f | 0x40);
        let repeating = &b"abcdefghijklmnopqrstuvwxyz"[(round / 3 % 20) as usize..];
        let kind = FieldKind::Other;
        encoder.field(":status", b"200", kind, false, &mut block);
        encoder.field(
            "Content-Type",
            b"application/grpc",
            FieldKind::ContentType,
            false,
            &mut block,
        );
        encoder.field("x-request-id", &unique, FieldKind::XRequestId, false, &mut block);
        for name in ["x-a", "x-b", "x-c", "x-d"] {
            encoder.field(name, repeating, kind, false, &mut block);
        }
        encoder.field("authorization", &unique, FieldKind::Authorization, true, &mut block);
        assert_eq!(decoder.decode(&block, limits, &mut out), Ok(Outcome::Complete));
        assert_eq!(out.len(), 8);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    let table = encoder.export().table;
    assert!(table.entries.len() > 40, "the tables did not fill: {} entries", table.entries.len());
}

/// Nor does an RPC message, once the list of splices has grown.
#[test]
fn a_bolt_call_allocates_nothing() {
    let codec = Bolt::default();
    let (mut request, response) = (vectors::vector("B3").to_vec(), vectors::vector("B25"));
    let mut splices = Splices::default();
    let mut before = 0;
    for round in 0..3_u32 {
        if round == 1 {
            before = ALLOCATIONS.get();
        }
        let Ok(Progress::Frame(frame)) = codec.frame(&request) else { panic!("a frame") };
        let call = codec.call(&frame, &request, Detail::All).expect("well-formed");
        assert_eq!(call.method, b"sayHello");
        splices.clear();
        let edits = [HeaderEdit::Set(b"service", b"a"), HeaderEdit::SetIfAbsent(b"b", b"c")];
        codec.edit(&frame, &request, &edits, Some(100), &mut splices).expect("room");
        assert_eq!(splices.iter().count(), 3);
        codec.set_id(&frame, &mut request, u64::from(round));
        codec.put_failure(&frame.tag, frame.id, Failure::Overflow, "", &mut Discard);

        let Ok(Progress::Frame(frame)) = codec.frame(response) else { panic!("a frame") };
        assert_eq!(codec.verify(&frame, &mut [response].into_iter()), Ok(()));
        splices.clear();
        assert!(codec.convert(&frame, response, &Tag([1, 0, 0, 1]), &mut splices));
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

#[test]
fn an_hsf_call_allocates_nothing() {
    let mut request = *b"\x0e\x01\0\x04\0\0\0\0\0\0\0\0\0\0\x01\0\0\x0b\xb8\0\0\0\x13\0\0\0\x08\
        \0\0\0\x01\0\0\0\x10\0\0\0\x03\0\0\0\x17com.foo.Hello:1.0.0sayHellojava.lang.String\
        \x02hiH\x10Consumer-AppName\x03appZ";
    let response = b"\x0e\x01\x01\x14\x04\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x06\x05hello";
    let hsf = Hsf::default();
    let before = ALLOCATIONS.get();

    let Ok(Progress::Frame(frame)) = hsf.frame(&request) else { panic!("not a frame") };
    let call = hsf.call(&frame, &request, Detail::All).expect("well-formed");
    assert_eq!(call.service, b"com.foo.Hello:1.0.0");
    hsf.headers(&frame, &request, &mut |name, value| !black_box((name, value)).0.is_empty());
    hsf.put_service_key(&call, &mut Discard);
    hsf.set_id(&frame, &mut request, 7);
    let Ok(Progress::Frame(answer)) = hsf.frame(response) else { panic!("not a frame") };
    black_box(hsf.outcome(&answer, response));
    hsf.put_heartbeat(&frame.tag, 9, &mut Discard);

    assert_eq!(ALLOCATIONS.get() - before, 0);
}
