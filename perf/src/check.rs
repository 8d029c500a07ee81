//! The acceptance ratios, judged on the results of `compare` and `idle`.
//!
//! A requirement compares two cases of one condition and one run, so both were measured interleaved on
//! the same machine. One whose cases are absent is "not measured", which is neither met nor missed; one whose
//! cases had failed requests is missed, because a proxy that fails requests can be fast at it. Also
//! judged is whether every target spoke what its case says. What `xds` measures is judged beside it, in
//! [`xds::check`](crate::xds::check).

use std::fmt;

use crate::{
    idle::{IdleReport, Variant},
    report::{Case, Condition, Report},
    target::Target,
    variant::{Negotiated, ProtocolName, Version},
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
/// Connections of most throughput requirements.
const MANY: usize = 64;
/// Connections, and streams or calls on each, of those for HTTP/2 and RPC.
const MULTIPLEXED: (usize, usize) = (16, 16);
/// Connections of those for handshakes.
const HANDSHAKES: usize = 16;

#[derive(Debug, Clone, Copy)]
enum Metric {
    Rate,
    Bytes,
    Cpu,
    Median,
    Tail,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A bound on a ratio of ours to somebody else's.
#[derive(Debug, Clone, Copy)]
struct Ratio {
    metric: Metric,
    other: &'static str,
    bound: Bound,
    protocol: ProtocolName,
    connections: usize,
    streams: usize,
    body_bytes: usize,
    /// In open loop at this share of the other's requests/s in closed loop.
    share: Option<f64>,
}

/// All ratios.
fn ratios() -> Vec<Ratio> {
    use Bound::{AtLeast, AtMost};
    use Metric::{Bytes, Cpu, Median, Rate, Tail};
    let http1 = |metric, other, bound, connections, body_bytes| Ratio {
        metric,
        other,
        bound,
        protocol: ProtocolName::Http1,
        connections,
        streams: 1,
        body_bytes,
        share: None,
    };
    let of = |protocol, (connections, streams), metric, other, bound| Ratio {
        protocol,
        streams,
        ..http1(metric, other, bound, connections, 128)
    };
    vec![
        http1(Rate, "nginx", AtLeast(1.3), MANY, 128),
        http1(Rate, "haproxy", AtLeast(1.6), MANY, 128),
        http1(Rate, "envoy", AtLeast(4.0), MANY, 128),
        http1(Cpu, "nginx", AtMost(0.7), MANY, 128),
        http1(Cpu, "haproxy", AtMost(0.5), MANY, 128),
        http1(Cpu, "envoy", AtMost(0.15), MANY, 128),
        http1(Cpu, "floor", AtMost(1.3), MANY, 128),
        http1(Median, "nginx", AtMost(1.0), 1, 128),
        http1(Rate, "nginx", AtLeast(1.0), MANY, KIB_16),
        http1(Bytes, "nginx", AtLeast(1.0), MANY, MIB),
        of(ProtocolName::H2, MULTIPLEXED, Rate, "envoy", AtLeast(2.0)),
        // The faster of the two is the one that decides.
        of(ProtocolName::H2, MULTIPLEXED, Rate, "nginx", AtLeast(1.5)),
        of(ProtocolName::H2, MULTIPLEXED, Rate, "haproxy", AtLeast(1.5)),
        of(ProtocolName::H2, MULTIPLEXED, Cpu, "envoy", AtMost(0.35)),
        of(ProtocolName::H2H1, MULTIPLEXED, Rate, "envoy", AtLeast(2.0)),
        of(ProtocolName::Https, (MANY, 1), Rate, "nginx", AtLeast(1.2)),
        of(ProtocolName::HttpsHandshake, (HANDSHAKES, 1), Rate, "nginx", AtLeast(1.0)),
        of(ProtocolName::Bolt, MULTIPLEXED, Rate, "mosn", AtLeast(5.0)),
        of(ProtocolName::Bolt, MULTIPLEXED, Cpu, "mosn", AtMost(0.2)),
        Ratio {
            share: Some(0.5),
            ..of(ProtocolName::Bolt, MULTIPLEXED, Tail, "mosn", AtMost(0.5))
        },
        of(ProtocolName::Dubbo, MULTIPLEXED, Rate, "mosn", AtLeast(4.0)),
        of(ProtocolName::Dubbo, MULTIPLEXED, Rate, "envoy", AtLeast(4.0)),
    ]
}

/// Most proxy memory per idle connection, by protocol.
const IDLE_BYTES_MAX: [(ProtocolName, f64); 5] = [
    (ProtocolName::Http1, 1024.0),
    (ProtocolName::Https, 16.0 * 1024.0),
    (ProtocolName::H2, 8.0 * 1024.0),
    (ProtocolName::Bolt, 1792.0),
    (ProtocolName::Dubbo, 1792.0),
];
/// Least part of the plain rate that must be left with access log and statistics on.
const OBSERVED_RATE_MIN: f64 = 0.9;
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
            Self::Tail => "p99 us",
        }
    }

    fn of(self, case: &Case) -> Option<f64> {
        match self {
            Self::Rate => Some(case.rps),
            Self::Bytes => Some(case.bytes_per_second),
            Self::Cpu => case.cpu_us_per_request,
            Self::Median => Some(case.latency_us.p50),
            Self::Tail => Some(case.latency_us.p99),
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

/// Judges comparisons. Where several hold a requirement's cases, the first of them counts.
#[must_use]
pub fn check(reports: &[Report]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = ratios()
        .iter()
        .map(|ratio| {
            let Ratio { metric, other, bound, protocol, connections, streams, body_bytes, share } =
                ratio;
            let verdicts = reports.iter().map(|report| {
                let condition = ratio.condition(report);
                compare(report, *metric, [(OURS, &condition), (other, &condition)], *bound)
            });
            let (metric_name, protocol) = (metric.name(), protocol.name());
            let mut load = match streams {
                1 => format!("{connections} connections"),
                _ => format!("{connections} connections x {streams} streams"),
            };
            if let Some(share) = share {
                load += &format!(" at {share} of its requests/s");
            }
            Finding {
                requirement: format!(
                    "{protocol}: {metric_name} {bound} {other}, {load}, {body_bytes}-byte body"
                ),
                verdict: first_measured(verdicts),
            }
        })
        .collect();
    let bound = Bound::AtLeast(OBSERVED_RATE_MIN);
    let plain = condition("plain", MANY, 128);
    let observed = condition("observed", MANY, 128);
    let sides = [(OURS, &observed), (OURS, &plain)];
    findings.push(Finding {
        requirement: format!("http1: requests/s with access log and stats {bound} those without"),
        verdict: first_measured(
            reports.iter().map(|report| compare(report, Metric::Rate, sides, bound)),
        ),
    });
    let cases = reports.iter().flat_map(|report| &report.cases);
    findings
        .push(spoken(cases.map(|case| (&*case.target, &*case.protocol, case.negotiated.as_ref()))));
    findings
}

impl Ratio {
    /// The condition of both sides in a report, which says what a share is of.
    fn condition(&self, report: &Report) -> Condition {
        let closed = Condition {
            protocol: self.protocol.name().to_owned(),
            streams: self.streams,
            ..condition("plain", self.connections, self.body_bytes)
        };
        let Some(share) = self.share else { return closed };
        let wanted = report.find(self.other, &closed).map_or(0, |case| case.share_of_rate(share));
        // A number may change in its last place when it is written and read.
        let found = report
            .cases
            .iter()
            .filter_map(|case| case.rate)
            .find(|rate| rate.abs_diff(wanted) <= 1);
        Condition { rate: Some(found.unwrap_or(wanted)), ..closed }
    }
}

/// Whether what was spoken is what each case says: target, protocol, and what was found.
fn spoken<'a>(cases: impl Iterator<Item = (&'a str, &'a str, Option<&'a Negotiated>)>) -> Finding {
    let mut right = 0;
    let mut wrong = Vec::new();
    for (target, protocol, negotiated) in cases {
        let Some(negotiated) = negotiated else { continue };
        if ProtocolName::named(protocol).is_some_and(|name| agrees(target, name, negotiated)) {
            right += 1;
        } else {
            let Negotiated { downstream, upstream, tls } = negotiated;
            let tls = tls.as_deref().unwrap_or("no TLS");
            wrong.push(format!("{target} in {protocol}: {downstream} ({tls}) to {upstream}"));
        }
    }
    Finding {
        requirement: "versions and TLS as the protocol's name says".to_owned(),
        verdict: match (right, wrong.is_empty()) {
            (0, true) => Verdict::NotMeasured("no case says what was spoken".to_owned()),
            (_, true) => Verdict::Met(format!("{right} cases")),
            (_, false) => Verdict::Missed(wrong.join("; ")),
        },
    }
}

fn agrees(target: &str, protocol: ProtocolName, found: &Negotiated) -> bool {
    /// All that the generator offers, see [`crate::tls`].
    const TLS: &str = "TLSv1_3, TLS13_AES_128_GCM_SHA256, X25519";
    let sides = protocol.sides();
    let sides = if target == Target::Direct.name() { sides.direct() } else { sides };
    let Negotiated { downstream, upstream, tls } = found;
    let tls = match tls {
        None => !sides.tls,
        Some(tls) => {
            sides.tls
                && tls.strip_prefix(TLS).is_some_and(|alpn| {
                    alpn == format!(", ALPN {}", sides.downstream.name())
                        || (alpn.is_empty() && sides.downstream == Version::Http1)
                })
        }
    };
    tls && downstream == sides.downstream.name() && upstream == sides.upstream.name()
}

/// Judges memory and CPU at idle. Where several reports hold a requirement's case, the first counts.
#[must_use]
pub fn check_idle(reports: &[IdleReport]) -> Vec<Finding> {
    let all = || reports.iter().flat_map(|report| &report.cases);
    let ours: Vec<_> = all().filter(|case| case.target == OURS).collect();
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
    let mut findings = Vec::new();
    for (protocol, most) in IDLE_BYTES_MAX {
        for variant in Variant::of(protocol) {
            let (name, kind) = (protocol.name(), variant.name());
            let case = ours.iter().find(|case| case.variant == variant && case.protocol == name);
            let lost = case.map_or(0, |case| case.lost);
            let mut finding = judge(
                format!("{name}: at most {most} bytes per idle connection ({kind})"),
                case.map(|case| (case.bytes_per_connection, most, "bytes")),
            );
            if lost > 0 {
                let detail = format!("{lost} connections did not stay open");
                finding.verdict = Verdict::Missed(detail);
            }
            findings.push(finding);
        }
    }
    let http1 = ProtocolName::Http1.name();
    let two_shards = ours.iter().find(|case| case.shards == 2 && case.protocol == http1);
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
        .push(spoken(all().map(|case| (&*case.target, &*case.protocol, case.negotiated.as_ref()))));
    findings
}

fn condition(profile: &str, connections: usize, body_bytes: usize) -> Condition {
    Condition {
        protocol: ProtocolName::Http1.name().to_owned(),
        layout: "shared".to_owned(),
        profile: profile.to_owned(),
        body_bytes,
        connections,
        streams: 1,
        rate: None,
    }
}

/// The first judgement of what was measured.
fn first_measured(mut verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let measured = |verdict: &Verdict| !matches!(verdict, Verdict::NotMeasured(_));
    let Some(first) = verdicts.next() else {
        return Verdict::NotMeasured("no results".to_owned());
    };
    if measured(&first) { first } else { verdicts.find(measured).unwrap_or(first) }
}

fn compare(
    report: &Report,
    metric: Metric,
    [(ours, our_condition), (other, other_condition)]: [(&str, &Condition); 2],
    bound: Bound,
) -> Verdict {
    let ours = (report.find(ours, our_condition), ours, our_condition);
    let other = (report.find(other, other_condition), other, other_condition);
    let (mut cases, mut absent) = (Vec::new(), Vec::new());
    for (case, name, condition) in [ours, other] {
        match case.and_then(|case| Some((case, metric.of(case)?))) {
            Some(found) => cases.push(found),
            None => absent.push(format!(
                "{name} ({}, {}, {} connections, {} bytes, layout {}{})",
                condition.protocol,
                condition.profile,
                condition.connections,
                condition.body_bytes,
                condition.layout,
                if condition.rate.is_some() { ", open loop" } else { "" }
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

    /// A second run, of the other protocols.
    fn passing_secure_and_multiplexed() -> Vec<Case> {
        let of = |protocol: ProtocolName, target, (connections, streams), rps, cpu| {
            let mut case = case(target, connections, 128, rps, Some(cpu), 100.0);
            let sides = protocol.sides();
            let alpn = sides.downstream.name();
            let tls = format!("TLSv1_3, TLS13_AES_128_GCM_SHA256, X25519, ALPN {alpn}");
            case.negotiated = Some(sides.negotiated(sides.tls.then_some(tls)));
            (case.protocol, case.streams) = (protocol.name().to_owned(), streams);
            case
        };
        use ProtocolName::{H2, H2H1, Https, HttpsHandshake};
        vec![
            of(H2, "outrigger", MULTIPLEXED, 60_000.0, 7.0),
            of(H2, "nginx", MULTIPLEXED, 40_000.0, 12.0),
            of(H2, "haproxy", MULTIPLEXED, 39_000.0, 12.0),
            of(H2, "envoy", MULTIPLEXED, 20_000.0, 30.0),
            of(H2H1, "outrigger", MULTIPLEXED, 60_000.0, 7.0),
            of(H2H1, "envoy", MULTIPLEXED, 20_000.0, 30.0),
            of(Https, "outrigger", (MANY, 1), 60_000.0, 7.0),
            of(Https, "nginx", (MANY, 1), 50_000.0, 7.0),
            of(HttpsHandshake, "outrigger", (HANDSHAKES, 1), 2_000.0, 7.0),
            of(HttpsHandshake, "nginx", (HANDSHAKES, 1), 2_000.0, 7.0),
        ]
    }

    /// A third one, of RPC, with a second round at half of what MOSN did in the first.
    fn passing_rpc() -> Vec<Case> {
        let of = |protocol: ProtocolName, target, rps, cpu| {
            let mut case = case(target, MULTIPLEXED.0, 128, rps, Some(cpu), 100.0);
            case.negotiated = Some(protocol.sides().negotiated(None));
            (case.protocol, case.streams) = (protocol.name().to_owned(), MULTIPLEXED.1);
            case
        };
        let half = |target, p99| {
            let mut case = of(ProtocolName::Bolt, target, 10_000.0, 30.0);
            (case.rate, case.latency_us.p99) = (Some(10_001), p99);
            case
        };
        use ProtocolName::{Bolt, Dubbo};
        vec![
            of(Bolt, "outrigger", 150_000.0, 5.0),
            of(Bolt, "mosn", 20_001.0, 50.0),
            of(Dubbo, "outrigger", 150_000.0, 5.0),
            of(Dubbo, "mosn", 20_000.0, 50.0),
            of(Dubbo, "envoy", 30_000.0, 30.0),
            half("outrigger", 200.0),
            half("mosn", 1000.0),
        ]
    }

    #[test]
    fn all_met_over_three_runs() {
        let runs = [passing(), passing_secure_and_multiplexed(), passing_rpc()].map(report);
        let findings = check(&runs);
        assert_eq!(findings.len(), ratios().len() + 2);
        for finding in findings {
            assert!(matches!(finding.verdict, Verdict::Met(_)), "{finding}");
        }
    }

    #[test]
    fn tails_count_at_a_share_of_the_rate_alone() {
        let tail = |cases| {
            let findings = check(&[report(cases)]);
            let found = findings.into_iter().find(|one| one.requirement.contains("p99")).unwrap();
            assert_eq!(
                found.requirement,
                "bolt: p99 us at most 0.5x mosn, 16 connections x 16 streams at 0.5 of its \
                 requests/s, 128-byte body"
            );
            found.verdict
        };
        assert_eq!(tail(passing_rpc()), Verdict::Met("0.20x (200.00 against 1000.00)".to_owned()));
        let mut cases = passing_rpc();
        for case in &mut cases {
            case.rate = case.rate.map(|rate| rate + 1000);
        }
        let Verdict::NotMeasured(why) = tail(cases) else { panic!("at another rate") };
        assert!(why.contains("open loop"), "{why}");
    }

    #[test]
    fn cases_of_different_runs_are_not_compared() {
        let mut cases = passing_secure_and_multiplexed();
        let ours = cases.remove(0);
        let findings = check(&[report(vec![ours]), report(cases)]);
        let finding = findings.iter().find(|one| one.requirement.starts_with("h2: ")).unwrap();
        assert!(matches!(finding.verdict, Verdict::NotMeasured(_)), "{finding}");
    }

    #[test]
    fn misses_are_named_with_numbers() {
        let mut cases = passing();
        cases[2].rps = 60_000.0;
        let findings = check(&[report(cases)]);
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
        assert!(matches!(check(&[report(cases)])[0].verdict, Verdict::Missed(_)));
    }

    #[test]
    fn absent_cases_are_not_measured() {
        let mut alone = case("outrigger", 64, 128, 1.0, Some(1.0), 1.0);
        alone.negotiated = None;
        let findings = check(&[report(vec![alone])]);
        for finding in &findings {
            assert!(matches!(finding.verdict, Verdict::NotMeasured(_)), "{finding}");
        }
        assert!(findings[0].to_string().contains("no case of nginx"), "{}", findings[0]);
    }

    #[test]
    fn what_was_spoken_must_be_what_was_meant() {
        use ProtocolName::{H2, H2H1, H2Tls, Https};
        let tls = |more: &str| Some(format!("TLSv1_3, TLS13_AES_128_GCM_SHA256, X25519{more}"));
        let cases = [
            ("envoy", H2, H2.sides().negotiated(None), true),
            ("envoy", H2, H2H1.sides().negotiated(None), false),
            ("envoy", H2H1, H2H1.sides().negotiated(None), true),
            ("direct", H2H1, H2.sides().negotiated(None), true),
            ("nginx", Https, Https.sides().negotiated(tls(", ALPN http/1.1")), true),
            ("nginx", Https, Https.sides().negotiated(tls("")), true),
            ("nginx", Https, Https.sides().negotiated(None), false),
            ("nginx", H2Tls, H2Tls.sides().negotiated(tls(", ALPN h2")), true),
            ("nginx", H2Tls, H2Tls.sides().negotiated(tls("")), false),
            ("nginx", H2, H2.sides().negotiated(tls(", ALPN h2")), false),
            ("nginx", Https, Https.sides().negotiated(Some("TLSv1_2".to_owned())), false),
        ];
        for (target, protocol, found, right) in cases {
            assert_eq!(agrees(target, protocol, &found), right, "{target} {protocol:?} {found:?}");
        }
        let wrong = H2.sides().negotiated(None);
        let finding = spoken([("envoy", "h2-h1", Some(&wrong))].into_iter());
        let words = Verdict::Missed("envoy in h2-h1: h2 (no TLS) to h2".to_owned());
        assert_eq!(finding.verdict, words);
    }
}
