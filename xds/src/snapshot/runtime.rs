//! Fractions that the runtime may change while they are used (U-12).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::matcher::Fraction;

/// A share of requests: a default, or what the runtime says under a key.
#[derive(Debug, Clone)]
pub struct RuntimeFraction {
    default: Fraction,
    cell: Option<Arc<RuntimeCell>>,
}

impl RuntimeFraction {
    /// One that nothing changes.
    #[must_use]
    pub fn fixed(default: Fraction) -> RuntimeFraction {
        RuntimeFraction { default, cell: None }
    }

    pub(crate) fn following(default: Fraction, cell: Arc<RuntimeCell>) -> RuntimeFraction {
        RuntimeFraction { default, cell: Some(cell) }
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> Fraction {
        self.cell.as_ref().and_then(|cell| cell.get()).unwrap_or(self.default)
    }

    /// Whether the request that drew `random` (uniform over u64) is in the share.
    #[must_use]
    pub fn contains(&self, random: u64) -> bool {
        self.get().contains(random)
    }
}

/// What the runtime says under one key. Written by the control thread alone, and seldom: shards share
/// the line and read it.
#[derive(Debug)]
pub struct RuntimeCell {
    /// Numerator and denominator, 32 bits each; a denominator of 0 is nothing.
    value: AtomicU64,
}

impl RuntimeCell {
    pub(crate) fn new(value: Option<Fraction>) -> RuntimeCell {
        let cell = RuntimeCell { value: AtomicU64::new(0) };
        cell.set(value);
        cell
    }

    pub(crate) fn set(&self, value: Option<Fraction>) {
        let packed = value.map_or(0, |fraction| {
            u64::from(fraction.numerator) << 32 | u64::from(fraction.denominator)
        });
        self.value.store(packed, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Fraction> {
        let packed = self.value.load(Ordering::Relaxed);
        let fraction = Fraction { numerator: (packed >> 32) as u32, denominator: packed as u32 };
        (fraction.denominator > 0).then_some(fraction)
    }
}
