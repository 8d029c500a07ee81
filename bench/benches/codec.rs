//! Parsing heads, decoding chunked bodies, and what a proxied RPC call takes of its codec.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use outrigger_codecs::http::{BodyFraming, FieldStorage, RequestHead, ResponseHead};
use outrigger_codecs::http1::{BodyDecoder, HeadLimits};
use outrigger_codecs::rpc::{Bolt, Detail, HeaderEdit, Progress, RpcCodec, Splices, Tag};

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

/// A SOFARPC request of 420 bytes with four headers, and a response with a checksum.
fn bolt(criterion: &mut Criterion) {
    let codec = Bolt::default();
    let mut request = bolt_vector("B3");
    let response = bolt_vector("B25");
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Bytes(request.len() as u64));
    group.bench_function("Bolt request: frame, call, id", |bencher| {
        let mut id = 0;
        bencher.iter(|| {
            let bytes = black_box(&mut request[..]);
            let Ok(Progress::Frame(frame)) = codec.frame(bytes) else { return 0 };
            let call = codec.call(&frame, bytes, Detail::Names);
            let routed = call.map_or(0, |call| call.service.len() + call.method.len());
            id += 1;
            codec.set_id(&frame, bytes, id);
            routed
        });
    });
    let mut splices = Splices::default();
    group.bench_function("Bolt request: a header set, the timeout changed", |bencher| {
        let Ok(Progress::Frame(frame)) = codec.frame(&request) else { return };
        let edits = [HeaderEdit::Set(b"x-caller", b"accounts")];
        bencher.iter(|| {
            splices.clear();
            let bytes = black_box(&request[..frame.head_len]);
            codec.edit(&frame, bytes, &edits, Some(2999), &mut splices).is_ok()
        });
    });
    group.throughput(Throughput::Bytes(response.len() as u64));
    group.bench_function("Bolt response: frame, checksum, outcome, to version 1", |bencher| {
        bencher.iter(|| {
            let bytes = black_box(&response[..]);
            let Ok(Progress::Frame(frame)) = codec.frame(bytes) else { return false };
            splices.clear();
            black_box(codec.outcome(&frame, bytes));
            codec.verify(&frame, &mut [bytes].into_iter()).is_ok()
                && codec.convert(&frame, bytes, &Tag([1, 0, 0, 1]), &mut splices)
        });
    });
    group.finish();
}

/// A frame of the codec's tests.
fn bolt_vector(name: &str) -> Vec<u8> {
    let mut lines = include_str!("../../codecs/tests/data/bolt_vectors.txt").lines();
    let hex = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let digits = hex.unwrap_or_default().chars().filter_map(|digit| digit.to_digit(16));
    let digits: Vec<u8> = digits.map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

criterion_group!(benches, heads, chunked, bolt);
criterion_main!(benches);
