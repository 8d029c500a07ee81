//! What Outrigger must hold of what `xds` measures.
//!
//! Judged as in [`crate::check`]: what was not measured is neither met nor missed, and a case with failed
//! requests is missed. A requirement on a size counts only where that size was measured.

use std::time::Duration;

use super::{
    Variant,
    lookup::FEW,
    report::{LookupCase, XdsReport},
    updates::WINDOW,
    world::Size,
};
use crate::{
    check::{Finding, Verdict},
    target::Target,
};

/// The size that the limits are for.
const SIZE: Size = Size { clusters: 10_000, endpoints: 5, virtual_hosts: 10_000, listeners: 1 };
/// Longest start with it.
const READY_S_MAX: f64 = 3.0;
/// Most resident memory after that.
const RSS_BYTES_MAX: u64 = 300 << 20;
/// Longest median of a change's way to every shard.
const APPLIED_MS_MAX: f64 = 5.0;
/// Pushes per second that requests must bear.
const UPDATES_PER_SECOND: u32 = 100;
/// How long in all.
const UPDATES_MIN: Duration = Duration::from_secs(30);
/// Most that they may add to the 99 % point.
const TAIL_RATIO_MAX: f64 = 1.1;
/// Most that a request among all virtual hosts may cost of one among few.
const LOOKUP_RATIO_MAX: f64 = 2.0;

/// Judges reports. Where several hold a requirement's case, the first of them counts.
#[must_use]
pub fn check(reports: &[XdsReport]) -> Vec<Finding> {
    let variants = [Variant::Sotw, Variant::Delta].map(Variant::name);
    let mut findings = Vec::new();
    for variant in variants {
        findings.extend(starts(reports, variant));
        findings.push(applied(reports, variant));
        findings.push(tail(reports, variant));
    }
    findings.push(lookup(reports, "CPU us per request", |case| case.cpu_us_per_request));
    findings.push(lookup(reports, "p50 us", |case| Some(case.p50_us)));
    findings
}

fn starts(reports: &[XdsReport], variant: &str) -> [Finding; 2] {
    let case = sized(reports)
        .flat_map(|report| &report.loads)
        .find(|case| is_ours(&case.target) && case.variant == variant);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    [
        judge(
            format!("{variant}: {} ready within {READY_S_MAX} s", size()),
            case.map(|case| (case.ready_s, READY_S_MAX, "s", 0)),
        ),
        judge(
            format!("{variant}: {} in {} MiB resident", size(), RSS_BYTES_MAX >> 20),
            case.map(|case| (mib(case.rss_bytes), mib(RSS_BYTES_MAX), "MiB", 0)),
        ),
    ]
}

fn applied(reports: &[XdsReport], variant: &str) -> Finding {
    let case = sized(reports)
        .flat_map(|report| &report.changes)
        .find(|case| is_ours(&case.target) && case.variant == variant);
    judge(
        format!(
            "{variant}: a change of endpoints on every shard within {APPLIED_MS_MAX} ms (median)"
        ),
        case.map(|case| (case.applied_ms.p50, APPLIED_MS_MAX, "ms", case.failed)),
    )
}

fn tail(reports: &[XdsReport], variant: &str) -> Finding {
    let case = sized(reports).flat_map(|report| &report.updates).find(|case| {
        is_ours(&case.target)
            && case.variant == variant
            && case.updates_per_second >= UPDATES_PER_SECOND
            && WINDOW * case.windows >= UPDATES_MIN
    });
    let requirement = format!(
        "{variant}: p99 with {UPDATES_PER_SECOND} pushes/s for {} s at most \
         {TAIL_RATIO_MAX}x that without",
        UPDATES_MIN.as_secs()
    );
    /// Part of the pushes asked for that must have been made.
    const PUSHED_MIN: f64 = 0.95;
    if let Some(case) = case
        && case.pushed_per_second < PUSHED_MIN * f64::from(UPDATES_PER_SECOND)
    {
        let words = format!("only {:.1} pushes/s were made", case.pushed_per_second);
        return Finding { requirement, verdict: Verdict::Missed(words) };
    }
    judge(
        requirement,
        case.map(|case| {
            let ratio = case.updating.p99_us / case.quiet.p99_us;
            (ratio, TAIL_RATIO_MAX, "x", case.errors)
        }),
    )
}

fn lookup(
    reports: &[XdsReport],
    name: &str,
    value: impl Fn(&LookupCase) -> Option<f64>,
) -> Finding {
    let ratio = reports.iter().find_map(|report| {
        let case = |hosts| {
            report.lookups.iter().find(|case| is_ours(&case.target) && case.virtual_hosts == hosts)
        };
        let (few, many) = (case(FEW)?, case(SIZE.virtual_hosts)?);
        Some((value(many)? / value(few)?, LOOKUP_RATIO_MAX, "x", few.errors + many.errors))
    });
    let many = SIZE.virtual_hosts;
    judge(
        format!("{name} among {many} virtual hosts at most {LOOKUP_RATIO_MAX}x that among {FEW}"),
        ratio,
    )
}

/// Judges a value by its upper bound; with them the unit and the number of failed requests.
fn judge(requirement: String, found: Option<(f64, f64, &str, u64)>) -> Finding {
    let verdict = match found {
        None => Verdict::NotMeasured(format!("no such case of {}", Target::Outrigger)),
        Some((value, bound, unit, failed)) => {
            let mut detail = format!("{value:.2} {unit}");
            if failed > 0 {
                detail += &format!(", but {failed} requests failed");
            }
            if failed == 0 && value <= bound {
                Verdict::Met(detail)
            } else {
                Verdict::Missed(detail)
            }
        }
    };
    Finding { requirement, verdict }
}

fn sized(reports: &[XdsReport]) -> impl Iterator<Item = &XdsReport> {
    reports.iter().filter(|report| {
        let Size { clusters, endpoints, virtual_hosts, .. } = report.size;
        (clusters, endpoints, virtual_hosts) == (SIZE.clusters, SIZE.endpoints, SIZE.virtual_hosts)
    })
}

fn is_ours(target: &str) -> bool {
    target == Target::Outrigger.name()
}

fn size() -> String {
    let Size { clusters, endpoints, virtual_hosts, .. } = SIZE;
    format!("{clusters} clusters x {endpoints} endpoints and {virtual_hosts} routes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::report::tests::report;

    fn both() -> Vec<XdsReport> {
        let mut sotw = report();
        for variant in
            [&mut sotw.loads[0].variant, &mut sotw.changes[0].variant, &mut sotw.updates[0].variant]
        {
            "sotw".clone_into(variant);
        }
        vec![sotw, report()]
    }

    #[test]
    fn all_met() {
        let findings = check(&both());
        assert_eq!(findings.len(), 10);
        for finding in findings {
            assert!(matches!(finding.verdict, Verdict::Met(_)), "{finding}");
        }
    }

    /// Words of a requirement, and what makes it missed.
    type Miss = (&'static str, fn(&mut XdsReport));

    #[test]
    fn each_can_be_missed() {
        let misses: [Miss; 9] = [
            ("ready within", |report| report.loads[0].ready_s = 3.1),
            ("MiB resident", |report| report.loads[0].rss_bytes = 301 << 20),
            ("on every shard", |report| report.changes[0].applied_ms.p50 = 5.1),
            ("on every shard", |report| report.changes[0].failed = 1),
            ("pushes/s", |report| report.updates[0].updating.p99_us = 111.0),
            ("pushes/s", |report| report.updates[0].errors = 1),
            ("pushes/s", |report| report.updates[0].pushed_per_second = 90.0),
            ("CPU us per request", |report| report.lookups[1].cpu_us_per_request = Some(10.1)),
            ("p50 us", |report| report.lookups[1].p50_us = 1300.0),
        ];
        for (words, spoil) in misses {
            let mut one = report();
            spoil(&mut one);
            let missed: Vec<_> = check(&[one])
                .into_iter()
                .filter(|finding| matches!(finding.verdict, Verdict::Missed(_)))
                .collect();
            assert!(missed.len() == 1 && missed[0].requirement.contains(words), "{missed:?}");
        }
    }

    #[test]
    fn other_sizes_and_shorter_runs_say_nothing() {
        let mut small = both();
        for report in &mut small {
            report.size.clusters = 100;
            report.lookups[1].virtual_hosts = 100;
        }
        let findings = check(&small);
        assert!(findings.iter().all(|one| matches!(one.verdict, Verdict::NotMeasured(_))));
        let mut short = both();
        for report in &mut short {
            report.updates[0].windows = 119;
        }
        let unmeasured = check(&short)
            .into_iter()
            .filter(|finding| matches!(finding.verdict, Verdict::NotMeasured(_)));
        assert_eq!(unmeasured.count(), 2);
    }
}
