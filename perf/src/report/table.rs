//! Results as text: a table per condition, and how the measured proxies stand to each other.

use std::fmt::Write;

use super::{Case, Condition, Report};

const COLUMNS: [&str; 12] = [
    "target",
    "req/s",
    "min",
    "max",
    "MiB/s",
    "p50 us",
    "p90 us",
    "p99 us",
    "p99.9 us",
    "max us",
    "cpu us/req",
    "rss MiB",
];

/// The whole report as text.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    for condition in report.conditions() {
        let cases: Vec<&Case> =
            report.cases.iter().filter(|case| case.condition() == condition).collect();
        // Writing to a String can't fail.
        let _ = writeln!(text, "{}", title(&condition));
        rows(&mut text, &cases);
        ratios(&mut text, &cases);
        for case in cases.iter().filter(|case| case.errors + case.errors_in_warmup > 0) {
            let _ = write!(text, "  ! {}: {} errors in the window", case.target, case.errors);
            for (kind, count) in &case.error_kinds {
                let _ = write!(text, ", {} {count}", kind.name());
            }
            let _ = writeln!(text, "; {} in warm-up", case.errors_in_warmup);
        }
        text.push('\n');
    }
    text
}

fn title(condition: &Condition) -> String {
    let Condition { protocol, layout, profile, body_bytes, connections, streams, rate } = condition;
    let streams = if *streams > 1 { format!(" x {streams} streams") } else { String::new() };
    let pace =
        rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{rate} req/s open loop"));
    format!(
        "{protocol}, {connections} connections{streams}, {body_bytes}-byte body, layout {layout}, profile {profile}, {pace}"
    )
}

fn rows(text: &mut String, cases: &[&Case]) {
    let mut lines = vec![COLUMNS.map(str::to_owned)];
    for case in cases {
        let latency = case.latency_us;
        lines.push([
            case.target.clone(),
            format!("{:.0}", case.rps),
            format!("{:.0}", case.rps_min),
            format!("{:.0}", case.rps_max),
            format!("{:.1}", case.bytes_per_second / f64::from(1 << 20)),
            micros(latency.p50),
            micros(latency.p90),
            micros(latency.p99),
            micros(latency.p999),
            micros(latency.max),
            case.cpu_us_per_request.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.2}")),
            case.rss_bytes.map_or_else(
                || "-".to_owned(),
                |rss| format!("{:.1}", rss as f64 / f64::from(1 << 20)),
            ),
        ]);
    }
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0))
        .collect();
    for line in &lines {
        text.push_str("  ");
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
}

/// Every target against the first proxy of interest: Outrigger, or the floor in its absence.
fn ratios(text: &mut String, cases: &[&Case]) {
    let Some(subject) = ["outrigger", "floor"]
        .iter()
        .find_map(|name| cases.iter().find(|case| case.target == *name))
    else {
        return;
    };
    for other in cases.iter().filter(|case| case.target != subject.target) {
        let _ = write!(
            text,
            "  {} / {}: req/s {}, p50 {}, p99 {}",
            subject.target,
            other.target,
            times(Some(subject.rps), Some(other.rps)),
            times(Some(subject.latency_us.p50), Some(other.latency_us.p50)),
            times(Some(subject.latency_us.p99), Some(other.latency_us.p99)),
        );
        if other.cpu_us_per_request.is_some() {
            let cpu = times(subject.cpu_us_per_request, other.cpu_us_per_request);
            let _ = write!(text, ", cpu {cpu}");
        }
        text.push('\n');
    }
}

fn times(ours: Option<f64>, theirs: Option<f64>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2}x", ours / theirs),
        _ => "-".to_owned(),
    }
}

fn micros(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{case, report};

    #[test]
    fn shows_cases_ratios_and_errors() {
        let mut nginx = case("nginx", 64, 128, 40_000.0, Some(10.0), 1500.0);
        nginx.errors = 3;
        let text =
            render(&report(vec![case("outrigger", 64, 128, 60_000.0, Some(5.0), 1000.0), nginx]));
        assert!(text.contains("http1, 64 connections, 128-byte body"), "{text}");
        assert!(
            text.contains("outrigger / nginx: req/s 1.50x, p50 0.67x, p99 0.67x, cpu 0.50x"),
            "{text}"
        );
        assert!(text.contains("! nginx: 3 errors"), "{text}");
        let mut h2 = case("outrigger", 16, 128, 60_000.0, Some(5.0), 1000.0);
        (h2.protocol, h2.streams) = ("h2".to_owned(), 16);
        let text = render(&report(vec![h2]));
        assert!(text.contains("h2, 16 connections x 16 streams, 128-byte body"), "{text}");
    }
}
