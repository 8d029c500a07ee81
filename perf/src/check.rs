//! The acceptance ratios, judged on the results of `compare` and `idle`.
//!
//! A requirement compares two cases of one condition, so both were measured interleaved on the same
//! machine. One whose cases are absent is "not measured", which is neither met nor missed; one whose
//! cases had failed requests is missed, because a proxy that fails requests can be fast at it.

use std::fmt;

use crate::{
    idle::{IdleReport, Variant},
    report::{Case, Condition, Report},
};

/// A requirement and how it came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What is required.
    pub requirement: String,
    /// How it came out.
    pub verdict: Verdict,
}

/// How a requirement came out.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Holds; the numbers.
    Met(String),
    /// Does not hold; the numbers.
    Missed(String),
    /// The results lack a case; which.
    NotMeasured(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, detail) = match &self.verdict {
            Verdict::Met(detail) => ("met", detail),
            Verdict::Missed(detail) => ("MISSED", detail),
            Verdict::NotMeasured(detail) => ("not measured", detail),
        };
        write!(f, "{word:<12}  {}: {detail}", self.requirement)
    }
}

const OURS: &str = "outrigger";
const KIB_16: usize = 16 * 1024;
const MIB: usize = 1024 * 1024;
/// Connections of all throughput requirements.
const MANY: usize = 64;

#[derive(Debug, Clone, Copy)]
enum Metric {
    Rate,
    Bytes,
    Cpu,
    Median,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// Metric, whom we are compared with, bound of the ratio, connections, body.
const RATIOS: [(Metric, &str, Bound, usize, usize); 10] = [
    (Metric::Rate, "nginx", Bound::AtLeast(1.3), MANY, 128),
    (Metric::Rate, "haproxy", Bound::AtLeast(1.6), MANY, 128),
    (Metric::Rate, "envoy", Bound::AtLeast(4.0), MANY, 128),
    (Metric::Cpu, "nginx", Bound::AtMost(0.7), MANY, 128),
    (Metric::Cpu, "haproxy", Bound::AtMost(0.5), MANY, 128),
    (Metric::Cpu, "envoy", Bound::AtMost(0.15), MANY, 128),
    (Metric::Cpu, "floor", Bound::AtMost(1.3), MANY, 128),
    (Metric::Median, "nginx", Bound::AtMost(1.0), 1, 128),
    (Metric::Rate, "nginx", Bound::AtLeast(1.0), MANY, KIB_16),
    (Metric::Bytes, "nginx", Bound::AtLeast(1.0), MANY, MIB),
];

/// Least part of the plain rate that must be left with access log and statistics on.
const OBSERVED_RATE_MIN: f64 = 0.9;
/// Most proxy memory per idle connection.
const IDLE_BYTES_PER_CONNECTION_MAX: f64 = 2048.0;
/// Most resident memory without connections, with two shards.
const EMPTY_RSS_BYTES_MAX: u64 = 24 * 1024 * 1024;
/// Most CPU of an idle process, in percent of a core.
const IDLE_CPU_PERCENT_MAX: f64 = 0.2;

impl Metric {
    fn name(self) -> &'static str {
        match self {
            Self::Rate => "requests/s",
            Self::Bytes => "bytes/s",
            Self::Cpu => "CPU us per request",
            Self::Median => "p50 us",
        }
    }

    fn of(self, case: &Case) -> Option<f64> {
        match self {
            Self::Rate => Some(case.rps),
            Self::Bytes => Some(case.bytes_per_second),
            Self::Cpu => case.cpu_us_per_request,
            Self::Median => Some(case.latency_us.p50),
        }
    }
}

impl Bound {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "at least {bound}x"),
            Self::AtMost(bound) => write!(f, "at most {bound}x"),
        }
    }
}

/// Judges a comparison.
#[must_use]
pub fn check(report: &Report) -> Vec<Finding> {
    let mut findings: Vec<Finding> = RATIOS
        .iter()
        .map(|&(metric, other, bound, connections, body_bytes)| {
            let condition = condition("plain", connections, body_bytes);
            let verdict = compare(report, metric, (OURS, &condition), (other, &condition), bound);
            let requirement = format!(
                "{} {bound} {other}, {connections} connections, {body_bytes}-byte body",
                metric.name()
            );
            Finding { requirement, verdict }
        })
        .collect();
    let bound = Bound::AtLeast(OBSERVED_RATE_MIN);
    findings.push(Finding {
        requirement: format!("requests/s with access log and stats {bound} those without"),
        verdict: compare(
            report,
            Metric::Rate,
            (OURS, &condition("observed", MANY, 128)),
            (OURS, &condition("plain", MANY, 128)),
            bound,
        ),
    });
    findings
}

/// Judges memory and CPU at idle.
#[must_use]
pub fn check_idle(report: &IdleReport) -> Vec<Finding> {
    let ours: Vec<_> = report.cases.iter().filter(|case| case.target == OURS).collect();
    let judge = |requirement: String, found: Option<(f64, f64, &str)>| Finding {
        requirement,
        verdict: match found {
            None => Verdict::NotMeasured(format!("no such case of {OURS}")),
            Some((value, bound, unit)) => {
                let detail = format!("{value:.2} {unit}");
                if value <= bound { Verdict::Met(detail) } else { Verdict::Missed(detail) }
            }
        },
    };
    let mut findings: Vec<Finding> = [Variant::Served, Variant::Silent]
        .into_iter()
        .map(|variant| {
            let case = ours.iter().find(|case| case.variant == variant);
            judge(
                format!(
                    "at most {IDLE_BYTES_PER_CONNECTION_MAX} bytes per idle connection ({})",
                    variant.name()
                ),
                case.map(|case| {
                    (case.bytes_per_connection, IDLE_BYTES_PER_CONNECTION_MAX, "bytes")
                }),
            )
        })
        .collect();
    let two_shards = ours.iter().find(|case| case.shards == 2);
    findings.push(judge(
        format!(
            "at most {} MiB resident with 2 shards and no connections",
            EMPTY_RSS_BYTES_MAX >> 20
        ),
        two_shards.map(|case| {
            let mib = f64::from(1 << 20);
            (case.empty_rss_bytes as f64 / mib, EMPTY_RSS_BYTES_MAX as f64 / mib, "MiB")
        }),
    ));
    let cpu = ours.iter().map(|case| case.empty_cpu_percent).reduce(f64::max);
    findings.push(judge(
        format!("under {IDLE_CPU_PERCENT_MAX} % of a core when idle"),
        cpu.map(|cpu| (cpu, IDLE_CPU_PERCENT_MAX, "%")),
    ));
    findings
}

fn condition(profile: &str, connections: usize, body_bytes: usize) -> Condition {
    Condition {
        protocol: "http1".to_owned(),
        layout: "shared".to_owned(),
        profile: profile.to_owned(),
        body_bytes,
        connections,
        rate: None,
    }
}

fn compare(
    report: &Report,
    metric: Metric,
    (ours, our_condition): (&str, &Condition),
    (other, other_condition): (&str, &Condition),
    bound: Bound,
) -> Verdict {
    let ours = (report.find(ours, our_condition), ours, our_condition);
    let other = (report.find(other, other_condition), other, other_condition);
    let (mut cases, mut absent) = (Vec::new(), Vec::new());
    for (case, name, condition) in [ours, other] {
        match case.and_then(|case| Some((case, metric.of(case)?))) {
            Some(found) => cases.push(found),
            None => absent.push(format!(
                "{name} ({}, {} connections, {} bytes, layout {})",
                condition.profile, condition.connections, condition.body_bytes, condition.layout
            )),
        }
    }
    let [(our_case, our_value), (other_case, other_value)] = cases[..] else {
        return Verdict::NotMeasured(format!("no case of {}", absent.join(" nor of ")));
    };
    let ratio = our_value / other_value;
    let errors = our_case.errors + other_case.errors;
    let mut detail = format!("{ratio:.2}x ({our_value:.2} against {other_value:.2})");
    if errors > 0 {
        detail += &format!(", but {errors} requests failed");
    }
    if errors == 0 && bound.holds(ratio) { Verdict::Met(detail) } else { Verdict::Missed(detail) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{case, report};

    fn passing() -> Vec<Case> {
        let mut observed = case("outrigger", 64, 128, 59_000.0, Some(5.5), 900.0);
        observed.profile = "observed".to_owned();
        vec![
            case("outrigger", 64, 128, 65_000.0, Some(5.0), 900.0),
            case("floor", 64, 128, 70_000.0, Some(4.5), 850.0),
            case("nginx", 64, 128, 40_000.0, Some(10.0), 1500.0),
            case("haproxy", 64, 128, 38_000.0, Some(12.0), 1600.0),
            case("envoy", 64, 128, 13_000.0, Some(60.0), 5000.0),
            case("outrigger", 1, 128, 40_000.0, Some(9.0), 19.0),
            case("nginx", 1, 128, 38_000.0, Some(12.0), 20.0),
            case("outrigger", 64, KIB_16, 30_000.0, Some(9.0), 19.0),
            case("nginx", 64, KIB_16, 28_000.0, Some(12.0), 20.0),
            case("outrigger", 64, MIB, 1_000.0, Some(9.0), 19.0),
            case("nginx", 64, MIB, 1_000.0, Some(12.0), 20.0),
            observed,
        ]
    }

    #[test]
    fn all_met() {
        let findings = check(&report(passing()));
        assert_eq!(findings.len(), RATIOS.len() + 1);
        for finding in findings {
            assert!(matches!(finding.verdict, Verdict::Met(_)), "{finding}");
        }
    }

    #[test]
    fn misses_are_named_with_numbers() {
        let mut cases = passing();
        cases[2].rps = 60_000.0;
        let findings = check(&report(cases));
        assert_eq!(
            findings[0].verdict,
            Verdict::Missed("1.08x (65000.00 against 60000.00)".to_owned())
        );
        assert!(findings[0].to_string().starts_with("MISSED"));
    }

    #[test]
    fn failed_requests_spoil_a_ratio() {
        let mut cases = passing();
        cases[0].errors = 1;
        assert!(matches!(check(&report(cases))[0].verdict, Verdict::Missed(_)));
    }

    #[test]
    fn absent_cases_are_not_measured() {
        let findings = check(&report(vec![case("outrigger", 64, 128, 1.0, Some(1.0), 1.0)]));
        for finding in &findings {
            assert!(matches!(finding.verdict, Verdict::NotMeasured(_)), "{finding}");
        }
        assert!(findings[0].to_string().contains("no case of nginx"), "{}", findings[0]);
    }
}
