//! The life of a chunk: filled, sliced, dropped, published again; and bytes written to the arena.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use outrigger_engine::buffers::{Arena, ReceiveBuffers, ReceiveConfig};

fn life(criterion: &mut Criterion) {
    let config = ReceiveConfig { buffer_bytes: 16_384, buffers: 64, buffers_max: 64 };
    let buffers = ReceiveBuffers::new(config).expect("memory for 64 buffers");
    let mut index = 0;
    criterion.bench_function("chunk: fill, slice, drop, publish", |bencher| {
        bencher.iter(|| {
            // SAFETY: the bench plays the kernel: each buffer is filled once before it comes back.
            let chunk = unsafe { buffers.filled(index % 64, 300) }.expect("published");
            index += 1;
            let body = chunk.slice(200..300);
            drop(chunk);
            black_box(body.len());
            drop(body);
            buffers.publish();
        });
    });
    let arena = Arena::new();
    let head = [b'h'; 300];
    criterion.bench_function("arena: write and drop a head of 300 bytes", |bencher| {
        bencher.iter(|| arena.copy(black_box(&head)).len());
    });
}

criterion_group!(benches, life);
criterion_main!(benches);
