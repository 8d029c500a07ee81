//! The shape of results: JSON for machines, a table for the terminal, a page for people.
//!
//! Units are in the names; everything that was not measured is `null`, never 0. Fields may be added,
//! those that exist keep their meaning.

pub mod html;
pub mod table;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{protocol::Fault, stats::Summary, sys, variant::Negotiated};

/// What `compare` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// One entry per target and condition.
    pub cases: Vec<Case>,
    /// Where and with what it was measured.
    pub machine: Machine,
}

/// One target under one condition: medians over the repetitions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// direct, floor, outrigger or a peer.
    pub target: String,
    /// Name of the protocol variant.
    pub protocol: String,
    /// shared or split.
    pub layout: String,
    /// plain or observed.
    pub profile: String,
    /// Downstream connections.
    pub connections: usize,
    /// Requests in flight on each; 1 where the protocol has neither streams nor the like.
    #[serde(default = "one_stream")]
    pub streams: usize,
    /// What the first request of the last repetition came by; `null` in results from before it was
    /// written down.
    #[serde(default)]
    pub negotiated: Option<Negotiated>,
    /// Response body length.
    pub body_bytes: usize,
    /// Requests per second asked for in open loop; `null` in closed loop.
    pub rate: Option<u64>,
    /// Completed requests per second.
    pub rps: f64,
    /// Slowest repetition.
    pub rps_min: f64,
    /// Fastest repetition.
    pub rps_max: f64,
    /// Body bytes received per second.
    pub bytes_per_second: f64,
    /// Latencies in microseconds.
    pub latency_us: Percentiles,
    /// Percentile and microseconds, from all repetitions together.
    pub latency_curve: Vec<(f64, f64)>,
    /// User and system time of the proxy over completed requests; `null` for direct.
    pub cpu_us_per_request: Option<f64>,
    /// Resident memory of the proxy under this load; `null` for direct.
    pub rss_bytes: Option<u64>,
    /// Failed requests of all repetitions.
    pub errors: u64,
    /// The same by kind.
    pub error_kinds: BTreeMap<Fault, u64>,
    /// Failed requests of the warm-ups.
    pub errors_in_warmup: u64,
    /// Repetitions that the numbers are medians of.
    pub repetitions: usize,
}

fn one_stream() -> usize {
    1
}

/// Latencies; `max` is the largest of all repetitions, the others are medians over them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// Largest.
    pub max: f64,
}

/// The machine and the programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model name.
    pub cpu: String,
    /// CPUs that the harness may use.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// TCP congestion control: one that paces, like bbr, shows in the numbers even on loopback.
    pub congestion_control: String,
    /// When the run began, UTC.
    pub date: String,
    /// Version line of each program.
    pub versions: BTreeMap<String, String>,
    /// Arguments of the harness.
    pub command: String,
    /// Warm-up before each window, in seconds.
    pub warmup_s: f64,
    /// Length of each window, in seconds.
    pub duration_s: f64,
}

/// What a case is measured under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Condition {
    /// As [`Case::protocol`].
    pub protocol: String,
    /// As [`Case::layout`].
    pub layout: String,
    /// As [`Case::profile`].
    pub profile: String,
    /// As [`Case::body_bytes`].
    pub body_bytes: usize,
    /// As [`Case::connections`].
    pub connections: usize,
    /// As [`Case::streams`].
    pub streams: usize,
    /// As [`Case::rate`].
    pub rate: Option<u64>,
}

impl Percentiles {
    /// The percentiles of a histogram of nanoseconds.
    #[must_use]
    pub fn of(latency: &Histogram<u64>) -> Self {
        let micros = |percent| latency.value_at_percentile(percent) as f64 / 1000.0;
        Self {
            p50: micros(50.0),
            p90: micros(90.0),
            p99: micros(99.0),
            p999: micros(99.9),
            max: latency.max() as f64 / 1000.0,
        }
    }
}

impl Report {
    /// The case of a target under a condition.
    #[must_use]
    pub fn find(&self, target: &str, condition: &Condition) -> Option<&Case> {
        self.cases.iter().find(|case| case.target == target && case.condition() == *condition)
    }

    /// All conditions, in the order in which they first appear.
    #[must_use]
    pub fn conditions(&self) -> Vec<Condition> {
        let mut conditions: Vec<Condition> = Vec::new();
        for condition in self.cases.iter().map(Case::condition) {
            if !conditions.contains(&condition) {
                conditions.push(condition);
            }
        }
        conditions
    }
}

impl Case {
    /// Puts a summary under its name.
    #[must_use]
    pub fn new(target: &str, condition: &Condition, summary: Summary, repetitions: usize) -> Self {
        Self {
            target: target.to_owned(),
            protocol: condition.protocol.clone(),
            layout: condition.layout.clone(),
            profile: condition.profile.clone(),
            connections: condition.connections,
            streams: condition.streams,
            negotiated: summary.negotiated,
            body_bytes: condition.body_bytes,
            rate: condition.rate,
            rps: summary.rate,
            rps_min: summary.rate_min,
            rps_max: summary.rate_max,
            bytes_per_second: summary.bytes_per_second,
            latency_us: summary.latency,
            latency_curve: summary.curve,
            cpu_us_per_request: summary.cpu_us_per_request,
            rss_bytes: summary.rss_bytes,
            errors: summary.errors,
            error_kinds: summary.error_kinds,
            errors_in_warmup: summary.errors_in_warmup,
            repetitions,
        }
    }

    /// A rate for an open loop: a share of the one found here.
    #[must_use]
    pub fn share_of_rate(&self, share: f64) -> u64 {
        (self.rps * share).round() as u64
    }

    /// What the case was measured under.
    #[must_use]
    pub fn condition(&self) -> Condition {
        Condition {
            protocol: self.protocol.clone(),
            layout: self.layout.clone(),
            profile: self.profile.clone(),
            body_bytes: self.body_bytes,
            connections: self.connections,
            streams: self.streams,
            rate: self.rate,
        }
    }
}

impl Machine {
    /// This machine, now.
    #[must_use]
    pub fn here(
        cores: usize,
        versions: BTreeMap<String, String>,
        command: String,
        warmup_s: f64,
        duration_s: f64,
    ) -> Self {
        Self {
            cpu: sys::cpu_model(),
            cores,
            kernel: sys::kernel(),
            congestion_control: sys::congestion_control(),
            date: sys::utc_now(),
            versions,
            command,
            warmup_s,
            duration_s,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::variant::ProtocolName;

    /// A case with everything settable that the checks look at.
    pub(crate) fn case(
        target: &str,
        connections: usize,
        body_bytes: usize,
        rps: f64,
        cpu: Option<f64>,
        p50: f64,
    ) -> Case {
        Case {
            target: target.to_owned(),
            protocol: "http1".to_owned(),
            layout: "shared".to_owned(),
            profile: "plain".to_owned(),
            connections,
            streams: 1,
            negotiated: Some(ProtocolName::Http1.sides().negotiated(None)),
            body_bytes,
            rate: None,
            rps,
            rps_min: rps,
            rps_max: rps,
            bytes_per_second: rps * body_bytes as f64,
            latency_us: Percentiles { p50, p90: p50, p99: p50, p999: p50, max: p50 },
            latency_curve: vec![(50.0, p50)],
            cpu_us_per_request: cpu,
            rss_bytes: cpu.map(|_| 1 << 20),
            errors: 0,
            error_kinds: BTreeMap::new(),
            errors_in_warmup: 0,
            repetitions: 5,
        }
    }

    pub(crate) fn report(cases: Vec<Case>) -> Report {
        let versions = BTreeMap::from([("nginx".to_owned(), "nginx/1".to_owned())]);
        Report { cases, machine: Machine::here(2, versions, "compare".to_owned(), 1.0, 3.0) }
    }

    #[test]
    fn json_has_the_agreed_fields() {
        let report = report(vec![case("direct", 4, 128, 10.0, None, 5.0)]);
        let json = serde_json::to_value(&report).unwrap();
        let case = &json["cases"][0];
        for field in [
            "target",
            "protocol",
            "layout",
            "profile",
            "connections",
            "body_bytes",
            "rps",
            "cpu_us_per_request",
            "rss_bytes",
            "errors",
            "repetitions",
        ] {
            assert!(case.get(field).is_some(), "{field}");
        }
        for field in ["p50", "p90", "p99", "p999", "max"] {
            assert!(case["latency_us"][field].is_number(), "{field}");
        }
        assert!(case["cpu_us_per_request"].is_null());
        assert_eq!(json["machine"]["versions"]["nginx"], "nginx/1");
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }

    #[test]
    fn older_results_are_read() {
        let mut json = serde_json::to_value(case("direct", 4, 128, 10.0, None, 5.0)).unwrap();
        for field in ["streams", "negotiated"] {
            json.as_object_mut().unwrap().remove(field);
        }
        let case: Case = serde_json::from_value(json).unwrap();
        assert_eq!((case.streams, case.negotiated), (1, None));
    }

    #[test]
    fn finds_cases_by_condition() {
        let all = report(vec![
            case("direct", 4, 128, 1.0, None, 1.0),
            case("floor", 4, 128, 2.0, None, 1.0),
            case("floor", 8, 128, 3.0, None, 1.0),
        ]);
        let conditions = all.conditions();
        assert_eq!(conditions.len(), 2);
        assert_eq!(all.find("floor", &conditions[1]).unwrap().rps, 3.0);
        assert_eq!(all.find("direct", &conditions[1]), None);
    }
}
