//! Criterion micro-benchmarks, one file in `benches/` per stage of a request, so that a regression
//! has an address: `codec`, `route`, `edit`, `chunk`, and `request` for all of them in a row.
//!
//! Run one with `cargo bench -p outrigger-bench --bench route`.
