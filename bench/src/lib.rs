//! Criterion micro-benchmarks, one file in `benches/` per stage of a request, so that a regression
//! has an address: `codec`, `hpack`, `route`, `edit`, `chunk`, and `request` for the stages of an
//! HTTP/1 request in a row.
//!
//! Run one with `cargo bench -p outrigger-bench --bench route`.
