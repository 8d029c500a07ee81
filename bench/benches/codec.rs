//! Parsing heads and decoding chunked bodies.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use outrigger_codecs::http::{BodyFraming, FieldStorage, RequestHead, ResponseHead};
use outrigger_codecs::http1::{BodyDecoder, HeadLimits};

const REQUEST: &[u8] = b"GET /api/v1/accounts/42?expand=all HTTP/1.1\r\n\
Host: accounts.bank.example:8080\r\n\
User-Agent: okhttp/4.12.0\r\n\
Accept: application/json\r\n\
Accept-Encoding: gzip\r\n\
X-Request-Id: 6f1c2d3e-4b5a-4978-8a6b-5c4d3e2f1a0b\r\n\
X-Forwarded-For: 10.1.2.3\r\n\
Connection: keep-alive\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Content-Type: application/json\r\n\
Content-Length: 128\r\n\
Date: Sat, 21 Nov 2026 10:00:00 GMT\r\n\
Cache-Control: no-store\r\n\r\n";

fn heads(criterion: &mut Criterion) {
    let limits = HeadLimits::default();
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Bytes(REQUEST.len() as u64));
    group.bench_function("request head", |bencher| {
        bencher.iter(|| {
            let mut storage = FieldStorage::new();
            let head = RequestHead::parse(black_box(REQUEST), &mut storage, &limits);
            head.is_ok_and(|head| head.is_some())
        });
    });
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("response head", |bencher| {
        bencher.iter(|| {
            let mut storage = FieldStorage::new();
            let head = ResponseHead::parse(black_box(RESPONSE), &mut storage, &limits);
            head.is_ok_and(|head| head.is_some())
        });
    });
    group.finish();
}

fn chunked(criterion: &mut Criterion) {
    let mut body = Vec::new();
    for _ in 0..16 {
        body.extend_from_slice(b"1000\r\n");
        body.extend_from_slice(&[b'x'; 4096]);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("chunked body of 64 KiB", |bencher| {
        bencher.iter(|| {
            let mut decoder = BodyDecoder::from(BodyFraming::Chunked);
            let mut rest = black_box(&body[..]);
            let mut data = 0;
            while let Ok(step) = decoder.decode(rest) {
                data += step.data.len();
                rest = &rest[step.consumed..];
                if step.done {
                    break;
                }
            }
            data
        });
    });
    group.finish();
}

criterion_group!(benches, heads, chunked);
criterion_main!(benches);
