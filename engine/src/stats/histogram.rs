//! A log-linear histogram of whole numbers: exact below 64, then 32 buckets an octave.
//!
//! Relative error of a quantile is at most 1/32 (3.1 %). Values above [`VALUE_MAX`] count as
//! [`VALUE_MAX`]. Memory is fixed ([`BUCKETS`] counters, 7 KiB) and taken at the first record, so a
//! histogram that is never used costs two words. One writer, like every cell.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The largest value told apart: as milliseconds, 49 days.
pub const VALUE_MAX: u64 = u32::MAX as u64;

/// The quantiles that Envoy's `/stats` prints, as percentages.
pub const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// Upper bounds of the cumulative buckets in Prometheus output: Envoy's default list.
pub const PROMETHEUS_BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    30000.0,
    60000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A distribution of values, usually milliseconds. Written by one thread, read by any.
#[derive(Debug, Default)]
pub struct Histogram {
    cells: OnceLock<Box<Cells>>,
}

impl Histogram {
    /// Adds one value.
    #[inline]
    pub fn record(&self, value: u64) {
        let value = value.min(VALUE_MAX);
        let cells = self.cells.get_or_init(Cells::boxed);
        add(&cells.buckets[bucket_of(value)], 1);
        add(&cells.sum, value);
    }

    /// Whether anything was ever recorded.
    pub fn is_used(&self) -> bool {
        self.cells.get().is_some()
    }

    /// Adds this histogram's present content to `snapshot`.
    pub fn merge_into(&self, snapshot: &mut HistogramSnapshot) {
        let Some(cells) = self.cells.get() else { return };
        snapshot.buckets.resize(BUCKETS, 0);
        for (into, from) in snapshot.buckets.iter_mut().zip(&cells.buckets) {
            *into += from.load(Relaxed);
        }
        snapshot.sum = snapshot.sum.wrapping_add(cells.sum.load(Relaxed));
    }
}

/// The merged content of one histogram over its shards, as the reader sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSnapshot {
    /// One count per bucket; empty as long as nothing was recorded.
    buckets: Vec<u64>,
    sum: u64,
}

impl HistogramSnapshot {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// With so many values in these buckets. What has no place among them is left out.
    pub(super) fn of_filled(filled: impl Iterator<Item = (usize, u64)>, sum: u64) -> Self {
        let mut buckets = vec![0_u64; BUCKETS];
        for (at, count) in filled {
            if let Some(bucket) = buckets.get_mut(at) {
                *bucket = bucket.wrapping_add(count);
            }
        }
        Self { buckets, sum }
    }

    /// The buckets that are not empty, and how many values are in them.
    pub(super) fn filled(&self) -> impl Iterator<Item = (usize, u64)> {
        self.buckets.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// What came since `before`, which this was once.
    pub(super) fn since(&self, before: &Self) -> Self {
        let before_of = |at: usize| before.buckets.get(at).copied().unwrap_or(0);
        let buckets = self.buckets.iter().enumerate();
        Self {
            buckets: buckets.map(|(at, count)| count.wrapping_sub(before_of(at))).collect(),
            sum: self.sum.wrapping_sub(before.sum),
        }
    }

    /// Adds what another one has.
    pub(super) fn add(&mut self, other: &Self) {
        self.buckets.resize(BUCKETS, 0);
        for (into, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *into = into.wrapping_add(*from);
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Their sum, each capped at [`VALUE_MAX`].
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The values at [`QUANTILES`], or `None` when nothing was recorded.
    pub fn quantiles(&self) -> Option<[f64; QUANTILES.len()]> {
        let total = self.count();
        (total > 0).then(|| QUANTILES.map(|percent| self.quantile(percent, total)))
    }

    /// How many values were at most as large, for each of these ascending bounds.
    ///
    /// A bucket that straddles a bound counts for the next one, so the figures never overstate.
    pub fn cumulative<'a>(&'a self, bounds: &'a [f64]) -> impl Iterator<Item = u64> + 'a {
        let mut buckets = self.buckets.iter().enumerate().peekable();
        let mut total = 0;
        bounds.iter().map(move |&bound| {
            while let Some((_, n)) = buckets.next_if(|&(index, _)| last_of(index) as f64 <= bound) {
                total += n;
            }
            total
        })
    }

    fn quantile(&self, percent: f64, total: u64) -> f64 {
        // The rank of the wanted value among `total`, counted from one.
        let rank = (percent / 100.0 * total as f64).max(1.0);
        let mut below = 0.0;
        for (index, &n) in self.buckets.iter().enumerate() {
            let n = n as f64;
            if n > 0.0 && below + n >= rank {
                let (first, last) = (first_of(index) as f64, last_of(index) as f64);
                return first + (last - first) * (rank - below) / n;
            }
            below += n;
        }
        VALUE_MAX as f64
    }
}

#[derive(Debug)]
struct Cells {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Cells {
    fn boxed() -> Box<Cells> {
        Box::new(Cells {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum: AtomicU64::new(0),
        })
    }
}

#[inline]
fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}

#[inline]
fn bucket_of(value: u64) -> usize {
    debug_assert!(value <= VALUE_MAX);
    if value < PER_OCTAVE {
        return value as usize;
    }
    let octave = value.ilog2() - PER_OCTAVE.ilog2();
    (u64::from(octave) * PER_OCTAVE + (value >> octave)) as usize
}

/// The smallest value that falls into bucket `index`.
fn first_of(index: usize) -> u64 {
    let index = index as u64;
    if index < PER_OCTAVE {
        return index;
    }
    let octave = index / PER_OCTAVE - 1;
    (PER_OCTAVE + index % PER_OCTAVE) << octave
}

/// The largest value that falls into bucket `index`.
fn last_of(index: usize) -> u64 {
    first_of(index + 1) - 1
}

/// Buckets for each doubling: the relative width of a bucket is 1/32 at most.
const PER_OCTAVE: u64 = 32;

/// One linear run up to 31, then one run of 32 per octave up to [`VALUE_MAX`].
pub const BUCKETS: usize = (PER_OCTAVE * ((u32::BITS - PER_OCTAVE.ilog2()) as u64 + 1)) as usize;

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(values: impl IntoIterator<Item = u64>) -> HistogramSnapshot {
        let histogram = Histogram::default();
        values.into_iter().for_each(|value| histogram.record(value));
        let mut snapshot = HistogramSnapshot::default();
        histogram.merge_into(&mut snapshot);
        snapshot
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        let edges = (0..=32).flat_map(|bit: u32| {
            let power = 1u64.checked_shl(bit).unwrap_or(0);
            [power.saturating_sub(1), power, power + 1]
        });
        for value in edges.chain(0..5000).filter(|&value| value <= VALUE_MAX) {
            let bucket = bucket_of(value);
            assert!(bucket < BUCKETS);
            assert!(first_of(bucket) <= value && value <= last_of(bucket), "{value}");
        }
        assert_eq!(bucket_of(VALUE_MAX), BUCKETS - 1);
        assert_eq!(last_of(BUCKETS - 1), VALUE_MAX);
    }

    #[test]
    fn empty_has_no_quantiles_and_no_memory() {
        let histogram = Histogram::default();
        assert!(histogram.cells.get().is_none());
        let snapshot = snapshot([]);
        assert_eq!(snapshot.quantiles(), None);
        assert!(snapshot.cumulative(&PROMETHEUS_BOUNDS).eq([0; 19]));
    }

    #[test]
    fn small_values_are_exact() {
        let quantiles = snapshot(0..=63).quantiles().unwrap();
        assert_eq!(quantiles[0], 0.0);
        assert_eq!(quantiles[2], 31.0);
        assert_eq!(quantiles[9], 63.0);
    }

    #[test]
    fn large_values_are_within_three_percent() {
        let snapshot = snapshot(1..=100_000);
        let quantiles = snapshot.quantiles().unwrap();
        for (percent, got) in QUANTILES.iter().zip(quantiles).skip(1) {
            let want = percent * 1000.0;
            assert!((got - want).abs() / want <= 1.0 / 32.0, "P{percent}: {got}");
        }
        assert_eq!(snapshot.count(), 100_000);
        assert_eq!(snapshot.sum(), 5_000_050_000);
    }

    #[test]
    fn values_above_the_limit_are_capped() {
        let snapshot = snapshot([u64::MAX, VALUE_MAX + 1]);
        assert_eq!(snapshot.quantiles().unwrap()[9], VALUE_MAX as f64);
        assert_eq!(snapshot.sum(), 2 * VALUE_MAX);
    }

    #[test]
    fn cumulative_counts_at_envoys_bounds() {
        let snapshot = snapshot([0, 1, 1, 5, 6, 250, 7_200_000]);
        let cumulative: Vec<u64> = snapshot.cumulative(&PROMETHEUS_BOUNDS).collect();
        assert_eq!(cumulative[..4], [1, 3, 4, 5]);
        assert_eq!(cumulative[18], 6);
        assert!(cumulative.is_sorted());
    }

    #[test]
    fn merging_adds() {
        let (a, b) = (Histogram::default(), Histogram::default());
        a.record(3);
        b.record(300);
        let mut merged = HistogramSnapshot::default();
        a.merge_into(&mut merged);
        b.merge_into(&mut merged);
        assert_eq!((merged.count(), merged.sum()), (2, 303));
    }
}
