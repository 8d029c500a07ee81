//! Request ids as keys: numbers that count up, or that a client chose.

use std::hash::{BuildHasher, Hasher};

/// Hashes a `u64` by one multiplication. Whoever can choose ids can make them collide, but only those of
/// calls of its own connection, of which there are few.
#[derive(Clone, Copy, Default)]
pub struct IdHasher;

/// The hash of one id.
#[derive(Default)]
pub struct IdHash(u64);

impl BuildHasher for IdHasher {
    type Hasher = IdHash;

    fn build_hasher(&self) -> IdHash {
        IdHash(0)
    }
}

impl Hasher for IdHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        // The high bits of the product depend on all of the id's, and tables use both ends.
        let product = u128::from(id) * u128::from(MULTIPLIER);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

/// 2^64 divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
