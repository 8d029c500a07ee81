//! Working out and applying a route's header edits.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use outrigger_engine::http::EditOutcome;
use outrigger_xds::snapshot::{AppendAction, HeaderName, HeaderOp, Op, Template};

fn edits(criterion: &mut Criterion) {
    let set = |name: &str, action| HeaderOp::Set {
        name: HeaderName::new(name),
        value: Template { ops: Box::new([Op::Literal("value".into())]) },
        action,
        keep_empty_value: false,
    };
    let ops = [
        HeaderOp::Remove(HeaderName::new("x-internal-token")),
        set("x-zone", AppendAction::OverwriteIfExistsOrAdd),
        set("x-added", AppendAction::AppendIfExistsOrAdd),
        set("x-default", AppendAction::AddIfAbsent),
    ];
    let headers = ["host", "user-agent", "accept", "x-internal-token", "x-zone", "x-request-id"];
    let mut outcome = EditOutcome::default();
    criterion.bench_function("edit: four edits over six headers", |bencher| {
        bencher.iter(|| {
            outcome.work_out(
                black_box(&ops),
                |name| headers.contains(&name),
                |op, out| {
                    if let HeaderOp::Set { value, .. } = op {
                        out.extend_from_slice(value.as_literal().unwrap_or_default().as_bytes());
                    }
                },
            );
            let kept = headers.iter().filter(|name| !outcome.drops(&ops, name)).count();
            kept + outcome.additions(&ops).count()
        });
    });
}

criterion_group!(benches, edits);
criterion_main!(benches);
