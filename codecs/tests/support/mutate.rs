//! A small deterministic mutation fuzzer for the stable toolchain.
//!
//! A target is a closure that checks one input and panics when an oracle disagrees. Inputs are seeds,
//! mutated by [`Mutator`]. The same seed number gives the same inputs on every machine, so a failure
//! repeats; the input that caused it is printed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `target` on every seed as it is, and then on mutations of the seeds: as many as the
/// environment variable `OUTRIGGER_FUZZ_ITERATIONS` says, [`ITERATIONS`] if it is not set.
pub(crate) fn fuzz(
    name: &str,
    seeds: &[&[u8]],
    dictionary: &[&[u8]],
    mut target: impl FnMut(&[u8], &mut Random),
) {
    let mut random =
        Random::new(name.bytes().fold(1_u64, |sum, byte| sum.rotate_left(7) ^ u64::from(byte)));
    let mutator = Mutator { seeds, dictionary };
    let mut check = |input: &[u8], random: &mut Random| {
        let verdict = catch_unwind(AssertUnwindSafe(|| target(input, random)));
        if let Err(panic) = verdict {
            eprintln!("{name} fails on b\"{}\"", input.escape_ascii());
            resume_unwind(panic);
        }
    };
    for seed in seeds {
        check(seed, &mut random);
    }
    for _ in 0..iterations() {
        let input = mutator.next(&mut random);
        check(&input, &mut random);
    }
}

fn iterations() -> u64 {
    match std::env::var("OUTRIGGER_FUZZ_ITERATIONS") {
        Ok(text) => text.parse().expect("OUTRIGGER_FUZZ_ITERATIONS is a number"),
        Err(_) => ITERATIONS,
    }
}

/// Makes inputs from seeds.
pub(crate) struct Mutator<'a> {
    /// Well-formed and nearly well-formed inputs to start from.
    pub(crate) seeds: &'a [&'a [u8]],
    /// Pieces that mean something to the parser under test.
    pub(crate) dictionary: &'a [&'a [u8]],
}

impl Mutator<'_> {
    /// The next input: a seed with one to eight mutations.
    pub(crate) fn next(&self, random: &mut Random) -> Vec<u8> {
        let mut input = random.pick(self.seeds).to_vec();
        for _ in 0..=random.below(8) {
            self.mutate(&mut input, random);
        }
        input.truncate(INPUT_LEN_MAX);
        input
    }

    fn mutate(&self, input: &mut Vec<u8>, random: &mut Random) {
        let at = random.below(input.len() + 1);
        let end = at + random.below((input.len() - at).min(PIECE_LEN_MAX) + 1);
        match random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.byte(),
            2 => input.insert(at, random.byte()),
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].to_vec();
                splice(input, at, &piece);
            }
            5 => {
                let other = random.pick(self.seeds);
                let from = random.below(other.len() + 1);
                let to = from + random.below(other.len() - from + 1);
                splice(input, at, &other[from..to]);
            }
            6 => input.truncate(at),
            7 => {
                let token = random.pick(self.dictionary);
                let replaced = (at + token.len()).min(input.len());
                input.splice(at..replaced, token.iter().copied());
            }
            _ => splice(input, at, random.pick(self.dictionary)),
        }
    }
}

/// A xorshift generator: not for secrets, the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    /// A generator that starts from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `bound`, or 0 if that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) as usize).checked_rem(bound).unwrap_or(0)
    }

    /// Any byte, those that parsers care about more often than others.
    pub(crate) fn byte(&mut self) -> u8 {
        match self.below(2) {
            0 => self.pick(b"\r\n\0 \t:;,/0159afF\"\\#@\x0b\x7f\x80\xff"),
            _ => self.below(256) as u8,
        }
    }

    /// One of `items`, of which there must be some.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

fn splice(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    input.splice(at..at, piece.iter().copied());
}

/// Inputs for each target, enough to meet every branch and short enough for every test run.
pub(crate) const ITERATIONS: u64 = 50_000;
const INPUT_LEN_MAX: usize = 8 * 1024;
const PIECE_LEN_MAX: usize = 32;
