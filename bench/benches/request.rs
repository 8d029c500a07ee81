//! A whole request in memory: head parsed, route found, both heads written. What is left of a
//! proxied request is the kernel's.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use outrigger_codecs::http::Put;
use outrigger_codecs::http::{FieldStorage, RequestHead, ResponseHead};
use outrigger_codecs::http1::HeadLimits;
use outrigger_codecs::http1::render;
use outrigger_engine::buffers::Arena;
use outrigger_xds::bootstrap::{LoadOptions, load, simple};
use outrigger_xds::snapshot::{RequestView, Terminal};

const REQUEST: &[u8] = b"GET /b/128 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: perf\r\n\
Accept: */*\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 128\r\nContent-Type: text/plain\r\n\r\n";

struct View<'a>(&'a RequestHead<'a, 'a>);

impl RequestView for View<'_> {
    fn method(&self) -> &[u8] {
        self.0.method_text.as_bytes()
    }
    fn scheme(&self) -> &[u8] {
        b"http"
    }
    fn authority(&self) -> &[u8] {
        self.0.authority.as_bytes()
    }
    fn path_and_query(&self) -> &[u8] {
        b"/b/128"
    }
    fn is_internal(&self) -> bool {
        false
    }
    fn header_values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .fields
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
    }
}

fn whole(criterion: &mut Criterion) {
    let source = simple("127.0.0.1:0", "127.0.0.1:1").expect("addresses");
    let loaded = load(&source, &LoadOptions::default()).expect("a valid configuration");
    let chain = loaded.snapshot.listeners[0].filter_chains.iter().next().expect("one chain");
    let Terminal::Http(http) = &chain.terminal else { unreachable!("an HTTP filter") };
    let routes = http.routes.inline().expect("routes in the listener");
    let arena = Arena::new();
    let limits = HeadLimits::default();
    criterion.bench_function("request: in memory, both heads", |bencher| {
        bencher.iter(|| {
            let mut storage = FieldStorage::new();
            let Ok(Some(head)) = RequestHead::parse(black_box(REQUEST), &mut storage, &limits)
            else {
                unreachable!("a valid request")
            };
            let found = routes.find(&View(&head), 0).is_some();
            let up = arena.write(|out| {
                render::request_line(out, head.method_text, "/b/128");
                for field in head.fields.iter().filter(|field| !field.kind.is_hop_by_hop()) {
                    render::field(out, field.name, field.value);
                }
                out.put(b"\r\n");
            });
            let mut storage = FieldStorage::new();
            let Ok(Some(head)) = ResponseHead::parse(black_box(RESPONSE), &mut storage, &limits)
            else {
                unreachable!("a valid response")
            };
            let down = arena.write(|out| {
                render::status_line(out, head.status, "");
                for field in head.fields.iter().filter(|field| !field.kind.is_hop_by_hop()) {
                    render::field(out, field.name, field.value);
                }
                out.put(b"\r\n");
            });
            (found, up.len() + down.len())
        });
    });
}

criterion_group!(benches, whole);
criterion_main!(benches);
