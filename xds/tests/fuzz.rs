//! Damaged configurations never panic: they load, or they are refused.
//!
//! Seeded, so that a failure repeats; `OUTRIGGER_FUZZ_ITERATIONS` sets how many mutants to try.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use std::panic::catch_unwind;

use common::*;
use outrigger_xds::bootstrap::{LoadOptions, Source, load};
use outrigger_xds::source::Format;

const ITERATIONS: u64 = 150;

#[test]
fn mutants_of_good_configurations_load_or_are_refused() {
    let iterations = std::env::var("OUTRIGGER_FUZZ_ITERATIONS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ITERATIONS);
    let seeds = [
        (http().to_string(), Format::Json),
        (tcp().to_string(), Format::Json),
        (serde_json::to_string_pretty(&http()).unwrap(), Format::Yaml),
        (include_str!("data/front-proxy.yaml").to_owned(), Format::Yaml),
        (include_str!("data/everything.yaml").to_owned(), Format::Yaml),
        (include_str!("data/rpc.yaml").to_owned(), Format::Yaml),
    ];
    for iteration in 0..iterations {
        let mut random = Random(iteration);
        let (text, format) = &seeds[random.below(seeds.len())];
        let mutant = mutate(text, &mut random);
        let allow_unknown_static_fields = random.below(2) == 0;
        let outcome = catch_unwind(|| {
            let options = LoadOptions { allow_unknown_static_fields, ..LoadOptions::default() };
            match load(&Source::text("mutant", mutant.as_str(), *format), &options) {
                Ok(loaded) => loaded.config_dump.len(),
                Err(error) => error.to_string().len(),
            }
        });
        assert!(outcome.is_ok(), "iteration {iteration} panicked on:\n{mutant}");
    }
}

fn mutate(text: &str, random: &mut Random) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = b"{}[]:,\"'%*&!-?\n 0aZ\\"[random.below(20)],
            1 => bytes[at] ^= 1 << random.below(7),
            2 => {
                let end = (at + 1 + random.below(30)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + random.below(60)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            4 => {
                let token = TOKENS[random.below(TOKENS.len())];
                bytes.splice(at..at, token.bytes());
            }
            _ => {
                // A whole word for another one, which keeps the shape and changes the meaning.
                let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
                let start = (0..at).rev().find(|i| !word(&bytes[*i])).map_or(0, |i| i + 1);
                let end = (at..bytes.len()).find(|i| !word(&bytes[*i])).unwrap_or(bytes.len());
                let token = TOKENS[random.below(TOKENS.len())];
                bytes.splice(start.min(end)..end, token.bytes());
            }
        }
        if bytes.is_empty() {
            bytes.push(b'a');
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const TOKENS: &[&str] = &[
    "0",
    "-1",
    "4294967296",
    "1e400",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "1s",
    "-1s",
    "*",
    "%",
    "%REQ(",
    "(?",
    "[",
    "\\",
    "\u{0}",
    "é",
    "&a",
    "*a",
    "<<",
    "prefix",
    "safe_regex",
    "typed_config",
    "@type",
    "value",
    "weight",
    "name",
    "clusters",
    "STRICT_DNS",
    "127.0.0.1",
    "::",
    "protocols",
    "BOLT",
    "BOUND",
    "*bolt",
    "google.protobuf.Any",
    "type.googleapis.com/xds.type.v3.TypedStruct",
];

/// xorshift: enough to be varied, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % limit.max(1) as u64) as usize
    }
}
