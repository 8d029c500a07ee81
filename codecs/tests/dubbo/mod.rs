//! What the `fuzz_smoke` program has of Dubbo.

mod fuzz;
mod vectors;
