//! Medians, and what repetitions of one case come to.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::{
    load::{Outcome, latency_histogram},
    protocol::Fault,
    report::Percentiles,
    variant::Negotiated,
};

/// One measured run of a target.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What the generator found.
    pub load: Outcome,
    /// CPU time of the proxy in the window, in microseconds; `None` when there is no proxy.
    pub cpu_us: Option<f64>,
    /// Resident memory of the proxy at the end of the window.
    pub rss_bytes: Option<u64>,
    /// What its first request came by.
    pub negotiated: Option<Negotiated>,
}

/// Repetitions of one case, summed up.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Median of requests per second, with the least and the most.
    pub rate: f64,
    /// Slowest repetition.
    pub rate_min: f64,
    /// Fastest repetition.
    pub rate_max: f64,
    /// Median of body bytes per second.
    pub bytes_per_second: f64,
    /// Medians of the percentiles; `max` is the largest of all repetitions.
    pub latency: Percentiles,
    /// Points of the merged distribution: percentile and microseconds.
    pub curve: Vec<(f64, f64)>,
    /// Median of the proxy's CPU time per completed request, in microseconds.
    pub cpu_us_per_request: Option<f64>,
    /// Median of the proxy's resident memory.
    pub rss_bytes: Option<u64>,
    /// Failures of all repetitions.
    pub errors: u64,
    /// The same by kind; kinds that did not occur are left out.
    pub error_kinds: BTreeMap<Fault, u64>,
    /// Failures during warm-up.
    pub errors_in_warmup: u64,
    /// What the first request of the last repetition came by.
    pub negotiated: Option<Negotiated>,
}

/// Percentiles of the curve, dense where tails are.
const CURVE: [f64; 22] = [
    0.0, 10.0, 25.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 92.5, 95.0, 97.0, 98.0, 99.0, 99.5,
    99.8, 99.9, 99.95, 99.98, 99.99, 99.999,
];

/// The middle value, or the mean of the two in the middle; `None` of nothing.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// Sums up the repetitions of one case; `None` of nothing.
#[must_use]
pub fn summarize(samples: &[Sample]) -> Option<Summary> {
    let rates: Vec<f64> = samples.iter().map(|sample| sample.load.rate()).collect();
    let rate = median(rates.iter().copied())?;
    let percentile = |percent: f64| {
        let values = samples.iter().map(|sample| percentile_us(&sample.load.latency, percent));
        median(values).unwrap_or(0.0)
    };
    let mut merged = latency_histogram();
    let mut error_kinds = BTreeMap::new();
    for sample in samples {
        // All histograms have the same bounds.
        let _ = merged.add(&sample.load.latency);
        for fault in Fault::ALL {
            let count = sample.load.faults[fault.index()];
            if count > 0 {
                *error_kinds.entry(fault).or_default() += count;
            }
        }
    }
    let bytes = samples
        .iter()
        .map(|sample| sample.load.body_bytes as f64 / sample.load.elapsed.as_secs_f64().max(1e-9));
    let cpu = samples
        .iter()
        .filter(|sample| sample.load.completed > 0)
        .filter_map(|sample| sample.cpu_us.map(|cpu_us| cpu_us / sample.load.completed as f64));
    let memory = samples.iter().filter_map(|sample| sample.rss_bytes.map(|bytes| bytes as f64));
    Some(Summary {
        rate,
        rate_min: rates.iter().copied().fold(f64::INFINITY, f64::min),
        rate_max: rates.iter().copied().fold(0.0, f64::max),
        bytes_per_second: median(bytes).unwrap_or(0.0),
        latency: Percentiles {
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            p999: percentile(99.9),
            max: merged.max() as f64 / 1000.0,
        },
        curve: CURVE.iter().map(|&percent| (percent, percentile_us(&merged, percent))).collect(),
        cpu_us_per_request: median(cpu),
        rss_bytes: median(memory).map(|bytes| bytes as u64),
        errors: samples.iter().map(|sample| sample.load.errors()).sum(),
        error_kinds,
        errors_in_warmup: samples.iter().map(|sample| sample.load.faults_in_warmup).sum(),
        negotiated: samples.last().and_then(|sample| sample.negotiated.clone()),
    })
}

fn percentile_us(latency: &Histogram<u64>, percent: f64) -> f64 {
    latency.value_at_percentile(percent) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(completed: u64, latency_us: u64, cpu_us: f64) -> Sample {
        let mut latency = latency_histogram();
        latency.record_n(latency_us * 1000, completed).unwrap();
        let mut faults = [0; Fault::ALL.len()];
        faults[Fault::Timeout.index()] = 1;
        Sample {
            load: Outcome {
                completed,
                body_bytes: completed * 10,
                elapsed: Duration::from_secs(2),
                latency,
                parts: Vec::new(),
                lateness: latency_histogram(),
                faults,
                faults_in_warmup: 2,
                reconnects: 0,
            },
            cpu_us: Some(cpu_us),
            rss_bytes: Some(completed),
            negotiated: None,
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median([4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn sums_up_repetitions() {
        let summary =
            summarize(&[sample(100, 10, 500.0), sample(400, 30, 800.0), sample(200, 20, 800.0)])
                .unwrap();
        assert_eq!((summary.rate_min, summary.rate, summary.rate_max), (50.0, 100.0, 200.0));
        assert!((summary.latency.p50 - 20.0).abs() < 0.1, "{:?}", summary.latency);
        assert!((summary.latency.max - 30.0).abs() < 0.1);
        assert_eq!(summary.cpu_us_per_request, Some(4.0));
        assert_eq!(summary.bytes_per_second, 1000.0);
        assert_eq!(summary.rss_bytes, Some(200));
        assert_eq!((summary.errors, summary.errors_in_warmup), (3, 6));
        assert_eq!(summary.error_kinds, BTreeMap::from([(Fault::Timeout, 3)]));
        assert_eq!(summarize(&[]), None);
    }

    #[test]
    fn a_run_without_completions_has_no_cpu_per_request() {
        assert_eq!(summarize(&[sample(0, 1, 5.0)]).unwrap().cpu_us_per_request, None);
    }
}
