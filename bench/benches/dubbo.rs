//! Dubbo frames: finding one, reading what it is routed by, editing its attachments.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use outrigger_codecs::rpc::{Detail, Dubbo, HeaderEdit, Progress, RpcCodec, Splices};

/// A call of `sayHello(String)` with five attachments: D1 of the reference.
const SMALL: &[u8] =
    b"\xda\xbb\xc2\0\0\0\0\0\0\0\0\x01\0\0\0\x8a\x052.0.2\x0dcom.foo.Hello\x051.0.0\
\x08sayHello\x12Ljava/lang/String;\x02hiH\x04path\x0dcom.foo.Hello\x09interface\x0dcom.foo.Hello\
\x07version\x051.0.0\x05group\x02g1\x07timeout\x043000Z";

/// An object, an array, a number and a reference, and a typed map: D11 of the reference.
const REFERENCES: &[u8] = b"\xda\xbb\xc2\0\0\0\0\0\0\0\0\x02\0\0\0\xab\x052.0.2\x13com.foo.UserServiceN\
\x06update04Lcom/foo/User;[Ljava/lang/String;ILjava/lang/Object;C\x0ccom.foo.User\x92\x04name\x03age\
`\x03Tom\x9er\x07[string\x01a\x01b\xc80Q\x90M\x11java.util.HashMap\x05group\x02g2\x04userQ\x90Z";

const DUBBO: Dubbo = Dubbo { max_frame_bytes: 1 << 20 };

/// A list of a hundred objects of four fields before the attachments, one field of it text.
fn large() -> Vec<u8> {
    let mut body = b"\x052.0.2\x0dcom.foo.Hello\x051.0.0\x04save\x10Ljava/util/List;\x57".to_vec();
    body.extend_from_slice(b"C\x0dcom.foo.Order\x94\x02id\x04name\x05price\x02ok");
    for _ in 0..100 {
        body.extend_from_slice(
            b"`L\0\0\0\x01\x02\x03\x04\x050\x30a name of an order, of forty-eight characters...D",
        );
        body.extend_from_slice(b"\x40\x09\x21\xf9\xf0\x1b\x86\x6eT");
    }
    body.extend_from_slice(b"ZH\x05group\x02g1Z");
    let mut frame = SMALL[..12].to_vec();
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(&body);
    frame
}

fn messages(criterion: &mut Criterion) {
    let large = large();
    let mut group = criterion.benchmark_group("dubbo");
    for (name, bytes) in [("D1", SMALL), ("D11", REFERENCES), ("a list", &large)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        for (what, detail) in [("names", Detail::Names), ("everything", Detail::All)] {
            group.bench_function(format!("{name}: frame and {what}"), |bencher| {
                bencher.iter(|| {
                    let bytes = black_box(bytes);
                    let Ok(Progress::Frame(frame)) = DUBBO.frame(bytes) else { panic!("no frame") };
                    DUBBO.call(&frame, bytes, detail).expect("well-formed").service.len()
                });
            });
        }
        let edits = [HeaderEdit::Set(b"trace", b"4bf92f3577b34da6")];
        let mut splices = Splices::default();
        group.bench_function(format!("{name}: one more attachment"), |bencher| {
            bencher.iter(|| {
                let bytes = black_box(bytes);
                let Ok(Progress::Frame(frame)) = DUBBO.frame(bytes) else { panic!("no frame") };
                splices.clear();
                let done = DUBBO.edit(&frame, bytes, &edits, None, &mut splices);
                done.expect("edited");
                splices.new_len(frame.len)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, messages);
criterion_main!(benches);
