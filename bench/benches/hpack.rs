//! Encoding and decoding header blocks: on a connection that has carried the like before, and with
//! values that are new every time.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use outrigger_codecs::http::{FieldBlock, FieldKind};
use outrigger_codecs::http2::hpack::{Decoder, Encoder, ListLimits};

const LIMITS: ListLimits = ListLimits::new(60 * 1024, 100);

const GRPC_REQUEST: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/bank.Accounts/Get"),
    (":authority", "accounts.bank.example:8080"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", "grpc-go/1.64.0"),
];

const GRPC_RESPONSE: &[(&str, &str)] = &[
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-encoding", "identity"),
    ("grpc-accept-encoding", "gzip, deflate"),
    ("date", "Sat, 21 Nov 2026 10:00:00 GMT"),
    ("server", "envoy"),
];

/// What identifies one message; these fields are literals in every block.
const FRESH: &[(&str, &str)] = &[
    (":path", "/api/v1/accounts/42?expand=all&fields=balance,owner"),
    ("content-length", "128"),
    ("x-request-id", "6f1c2d3e-4b5a-4978-8a6b-5c4d3e2f1a0b"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("authorization", "Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.MEQCIF9"),
];

type Fields = Vec<(&'static str, &'static [u8], FieldKind)>;

fn blocks(criterion: &mut Criterion) {
    for (name, fields, huffman) in [
        ("gRPC request", GRPC_REQUEST, true),
        ("gRPC response", GRPC_RESPONSE, true),
        ("fresh fields", FRESH, true),
        ("fresh fields, not Huffman-coded", FRESH, false),
    ] {
        let fields = classified(fields);
        let (mut encoder, mut decoder) = (Encoder::new(huffman), Decoder::new(4096));
        let (mut block, mut out) = (Vec::new(), FieldBlock::default());
        // The third time everything that repeats is in the tables.
        for _ in 0..3 {
            encode(&mut encoder, &fields, &mut block);
            decoder.decode(&block, LIMITS, &mut out).expect("our own block");
        }
        let mut group = criterion.benchmark_group("hpack");
        group.throughput(Throughput::Elements(fields.len() as u64));
        group.bench_function(format!("encode {name}"), |bencher| {
            bencher.iter(|| {
                encode(&mut encoder, black_box(&fields), &mut block);
                block.len()
            });
        });
        group.bench_function(format!("decode {name}"), |bencher| {
            bencher.iter(|| decoder.decode(black_box(&block), LIMITS, &mut out).is_ok());
        });
        group.finish();
    }
}

fn encode(encoder: &mut Encoder, fields: &Fields, block: &mut Vec<u8>) {
    block.clear();
    encoder.begin(block);
    for &(name, value, kind) in fields {
        encoder.field(name, value, kind, false, block);
    }
}

fn classified(fields: &[(&'static str, &'static str)]) -> Fields {
    fields
        .iter()
        .map(|&(name, value)| (name, value.as_bytes(), FieldKind::of(name.as_bytes())))
        .collect()
}

criterion_group!(benches, blocks);
criterion_main!(benches);
