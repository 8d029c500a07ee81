//! The two scalar cells. Both have one writing thread and any number of reading threads.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

/// A number that only grows. Written by one thread, read by any.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`, wrapping after 2^64.
    #[inline]
    pub fn add(&self, n: u64) {
        // One writer, so a plain add cannot lose an update and needs no locked instruction.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes over a number that is counted elsewhere.
    pub fn follow(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The present value.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down, below 2^63. Written by one thread, read by any.
///
/// It knows whether it was ever written, because a zero that was is worth showing.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// In a gauge that was written.
const WRITTEN: u64 = 1 << 63;

impl Gauge {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away; a gauge at zero stays there.
    #[inline]
    pub fn dec(&self) {
        self.sub(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.set(self.value().saturating_add(n));
    }

    /// Takes `n` away, stopping at zero.
    #[inline]
    pub fn sub(&self, n: u64) {
        let value = self.value();
        debug_assert!(value >= n, "a gauge went below zero: one decrement too many");
        self.set(value.saturating_sub(n));
    }

    /// Replaces the value.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value | WRITTEN, Relaxed);
    }

    /// The present value.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed) & !WRITTEN
    }

    /// Whether it was ever written.
    pub fn is_used(&self) -> bool {
        self.0.load(Relaxed) & WRITTEN != 0
    }
}

/// One counter per HTTP status code, 100 to 599.
///
/// Memory is taken per hundred codes, when the first of them is counted: a cluster that only ever
/// answers 200 and 503 holds two blocks of 800 bytes.
#[derive(Debug, Default)]
pub struct CodeCounters {
    classes: [OnceLock<Box<[Counter; 100]>>; 5],
}

impl CodeCounters {
    /// Counts `code`; anything outside 100..=599 is not counted.
    #[inline]
    pub fn inc(&self, code: u16) {
        let Some(class) = class_index(code) else { return };
        let block = self.classes[class]
            .get_or_init(|| Box::new(std::array::from_fn(|_| Counter::default())));
        block[usize::from(code % 100)].inc();
    }

    /// Calls `visit` with each code counted at least once, ascending.
    pub fn for_each(&self, mut visit: impl FnMut(u16, u64)) {
        for (base, block) in (100..).step_by(100).zip(&self.classes) {
            let Some(block) = block.get() else { continue };
            for (code, counter) in (base..).zip(block.iter()) {
                if counter.value() > 0 {
                    visit(code, counter.value());
                }
            }
        }
    }
}

/// One counter per port, for the first [`PORTS`] that are counted. Clients choose ports, so all others
/// share one, which is shown as port 0.
///
/// Memory is taken when the first is counted.
#[derive(Debug, Default)]
pub struct PortCounters {
    ports: OnceLock<Box<[PortCounter; PORTS]>>,
    others: Counter,
}

#[derive(Debug, Default)]
struct PortCounter {
    /// 0 while the place is free.
    port: AtomicU16,
    counter: Counter,
}

/// More than any host offers services that speak first.
pub const PORTS: usize = 64;

impl PortCounters {
    /// Counts `port`.
    pub fn inc(&self, port: u16) {
        let ports =
            self.ports.get_or_init(|| Box::new(std::array::from_fn(|_| PortCounter::default())));
        let place = ports.iter().find(|place| [0, port].contains(&place.port.load(Relaxed)));
        match place.filter(|_| port != 0) {
            Some(place) => {
                place.counter.inc();
                place.port.store(port, Relaxed);
            }
            None => self.others.inc(),
        }
    }

    /// Calls `visit` with each port that was counted.
    pub fn for_each(&self, mut visit: impl FnMut(u16, u64)) {
        for place in self.ports.get().into_iter().flat_map(|ports| ports.iter()) {
            let port = place.port.load(Relaxed);
            if port != 0 {
                visit(port, place.counter.value());
            }
        }
        if self.others.value() > 0 {
            visit(0, self.others.value());
        }
    }
}

/// 0 for 1xx up to 4 for 5xx.
#[inline]
pub(super) fn class_index(code: u16) -> Option<usize> {
    match code {
        100..=599 => Some(usize::from(code / 100) - 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_adds_and_wraps() {
        let counter = Counter::default();
        counter.inc();
        counter.add(41);
        assert_eq!(counter.value(), 42);
        counter.add(u64::MAX);
        assert_eq!(counter.value(), 41);
    }

    #[test]
    fn gauge_goes_both_ways() {
        let gauge = Gauge::default();
        gauge.inc();
        gauge.add(3);
        gauge.dec();
        assert_eq!(gauge.value(), 3);
        gauge.set(9);
        gauge.sub(9);
        assert_eq!(gauge.value(), 0);
    }

    #[test]
    fn gauge_knows_whether_it_was_written() {
        let gauge = Gauge::default();
        assert!(!gauge.is_used());
        gauge.set(0);
        assert!(gauge.is_used());
        assert_eq!(gauge.value(), 0);
    }

    #[test]
    fn ports_are_counted_singly_and_bounded() {
        let ports = PortCounters::default();
        for port in [3306, 1, 3306, 0] {
            ports.inc(port);
        }
        let seen = || {
            let mut seen = Vec::new();
            ports.for_each(|port, n| seen.push((port, n)));
            seen
        };
        assert_eq!(seen(), [(3306, 2), (1, 1), (0, 1)]);
        (100..1000).for_each(|port| ports.inc(port));
        assert_eq!(seen().len(), PORTS + 1);
        assert_eq!(seen().iter().map(|(_, count)| count).sum::<u64>(), 904);
    }

    #[test]
    fn codes_are_counted_singly_and_bounded() {
        let codes = CodeCounters::default();
        for code in [200, 200, 599, 100, 99, 600, 0, u16::MAX] {
            codes.inc(code);
        }
        let mut seen = Vec::new();
        codes.for_each(|code, n| seen.push((code, n)));
        assert_eq!(seen, [(100, 1), (200, 2), (599, 1)]);
    }
}
