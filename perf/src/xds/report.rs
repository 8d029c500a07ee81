//! What `xds` writes: JSON for machines, Markdown tables for the terminal and the README.
//!
//! Units are in the names; what was not measured is `null`.

use std::{fmt::Write, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{updates::WINDOW, world::Size};
use crate::{load::latency_histogram, report::Machine, stats::median};

/// What `xds` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct XdsReport {
    /// Starts with everything.
    pub loads: Vec<LoadCase>,
    /// Changes one at a time.
    pub changes: Vec<ChangeCase>,
    /// Changes under load.
    pub updates: Vec<UpdatesCase>,
    /// Requests among few and among many virtual hosts.
    pub lookups: Vec<LookupCase>,
    /// How much was served, except in `lookups`.
    pub size: Size,
    /// Where generator and server ran in `updates`: shared or split.
    pub layout: String,
    /// Where and with what it was measured.
    pub machine: Machine,
}

/// Starts of one target in one variant: medians over the repetitions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadCase {
    /// Which target.
    pub target: String,
    /// sotw or delta.
    pub variant: String,
    /// Workers.
    pub shards: usize,
    /// From the start of the process until it said that it was ready and had answered a request by the
    /// last virtual host.
    pub ready_s: f64,
    /// The longest of all repetitions.
    pub ready_s_max: f64,
    /// The same from the management server's first response.
    pub since_response_s: f64,
    /// From the start to the answer to the last response.
    pub answered_s: f64,
    /// Resident memory once it did not grow any more.
    pub rss_bytes: u64,
    /// What the management server sent.
    pub response_bytes: u64,
    /// Repetitions.
    pub repetitions: usize,
}

/// Changes of one target in one variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeCase {
    /// Which target.
    pub target: String,
    /// sotw or delta.
    pub variant: String,
    /// Workers.
    pub shards: usize,
    /// Their number.
    pub changes: usize,
    /// Until the management server had the answer.
    pub answered_ms: Spread,
    /// Until requests on connections to all workers were answered by the new endpoints.
    pub applied_ms: Spread,
    /// What the proxy itself measured from receipt to service on every worker, the start included;
    /// `null` where it has no such histogram.
    pub own_apply_us: Option<Quantiles>,
    /// Requests meanwhile with an answer other than 200.
    pub failed: u64,
    /// Streams to the management server: more than one means that the proxy reconnected.
    pub streams: u64,
}

/// Load on one target in one variant, without changes and with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpdatesCase {
    /// Which target.
    pub target: String,
    /// sotw or delta.
    pub variant: String,
    /// Downstream connections.
    pub connections: usize,
    /// Requests per second asked for.
    pub rate: u64,
    /// Pushes per second asked for.
    pub updates_per_second: u32,
    /// All pushes.
    pub pushed: usize,
    /// Pushes per second made.
    pub pushed_per_second: f64,
    /// Pushes left out because too many had no answer.
    pub skipped: u64,
    /// Windows of each side, a second each.
    pub windows: u32,
    /// Without changes.
    pub quiet: Side,
    /// With changes.
    pub updating: Side,
    /// Failed requests, those of the warm-up included.
    pub errors: u64,
    /// Until the management server had the answer.
    pub answered_ms: Spread,
    /// As in [`ChangeCase::streams`].
    pub streams: u64,
}

/// One kind of window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Median of the windows' medians.
    pub p50_us: f64,
    /// Median of the windows' 99 % points.
    pub p99_us: f64,
    /// The 99 % point of all windows together.
    pub p99_all_us: f64,
    /// The largest.
    pub max_us: f64,
    /// Median of the proxy's CPU time over that of the window, in percent of a core.
    pub cpu_percent: f64,
    /// Requests that were due and answered.
    pub completed: u64,
}

/// One target with so many virtual hosts: medians over the repetitions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LookupCase {
    /// Which target.
    pub target: String,
    /// Their number.
    pub virtual_hosts: usize,
    /// Downstream connections.
    pub connections: usize,
    /// Completed requests per second.
    pub rps: f64,
    /// Median latency.
    pub p50_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// User and system time of the proxy over completed requests.
    pub cpu_us_per_request: Option<f64>,
    /// Resident memory of the proxy under this load.
    pub rss_bytes: Option<u64>,
    /// Failed requests, those of the warm-ups included.
    pub errors: u64,
    /// Repetitions.
    pub repetitions: usize,
}

/// Times of single events, in milliseconds; all 0 where there were none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Median.
    pub p50: f64,
    /// 99 %.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

/// Two points of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 99 %.
    pub p99: f64,
}

impl Spread {
    /// Of these times. A point is the smallest time that so many of them do not exceed.
    #[must_use]
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut ms: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let point = |percent: usize| {
            let rank = (ms.len() * percent).div_ceil(100);
            ms.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self { p50: point(50), p99: point(99), max: point(100) }
    }
}

impl UpdatesCase {
    /// CPU time of the proxy that a push costs: what it used more with them, over their number.
    #[must_use]
    pub fn cpu_ms_per_push(&self) -> f64 {
        const MS_PER_PERCENT: f64 = 10.0;
        let more = (self.updating.cpu_percent - self.quiet.cpu_percent) * MS_PER_PERCENT;
        more / self.pushed_per_second.max(f64::MIN_POSITIVE)
    }
}

impl Side {
    /// Sums up windows: the latencies in each, and the proxy's CPU time.
    pub(super) fn of<'a>(
        windows: impl Iterator<Item = (&'a Histogram<u64>, &'a Duration)>,
    ) -> Self {
        let micros = |ns: u64| ns as f64 / 1000.0;
        let mut all = latency_histogram();
        let (mut p50, mut p99, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for (latency, used) in windows {
            // All histograms have the same bounds.
            let _ = all.add(latency);
            p50.push(micros(latency.value_at_percentile(50.0)));
            p99.push(micros(latency.value_at_percentile(99.0)));
            cpu.push(100.0 * used.as_secs_f64() / WINDOW.as_secs_f64());
        }
        Self {
            p50_us: median(p50).unwrap_or(0.0),
            p99_us: median(p99).unwrap_or(0.0),
            p99_all_us: micros(all.value_at_percentile(99.0)),
            max_us: micros(all.max()),
            cpu_percent: median(cpu).unwrap_or(0.0),
            completed: all.len(),
        }
    }
}

/// The whole report as Markdown; what was not measured is left out.
#[must_use]
pub fn render(report: &XdsReport) -> String {
    let Size { clusters, endpoints, virtual_hosts, .. } = report.size;
    let size =
        format!("{clusters} clusters x {endpoints} endpoints, {virtual_hosts} virtual hosts");
    let mut text = String::new();
    let loads = report.loads.iter().map(|case| {
        vec![
            format!("{}, {}", case.target, case.variant),
            format!("{:.2}", case.ready_s),
            format!("{:.2}", case.ready_s_max),
            format!("{:.2}", case.since_response_s),
            format!("{:.2}", case.answered_s),
            mib(case.rss_bytes),
            mib(case.response_bytes),
        ]
    });
    let title = format!("start with {size}");
    let columns = ["ready s", "max", "since 1st response s", "all ACKed s", "RSS MiB", "sent MiB"];
    table(&mut text, &title, &columns, loads.collect());
    let changes = report.changes.iter().map(|case| {
        let own = case.own_apply_us;
        vec![
            format!("{}, {}", case.target, case.variant),
            millis(case.applied_ms.p50),
            millis(case.applied_ms.p99),
            millis(case.applied_ms.max),
            millis(case.answered_ms.p50),
            millis(case.answered_ms.p99),
            own.map_or_else(
                || "-".to_owned(),
                |own| format!("{} / {}", millis(own.p50 / 1000.0), millis(own.p99 / 1000.0)),
            ),
            case.failed.to_string(),
        ]
    });
    let number = report.changes.first().map_or(0, |case| case.changes);
    let title = format!("{number} changes of endpoints among {size}");
    let columns =
        ["applied ms p50", "p99", "max", "ACK ms p50", "p99", "own apply ms p50 / p99", "failed"];
    table(&mut text, &title, &columns, changes.collect());
    let updates = report.updates.iter().map(|case| {
        let UpdatesCase { quiet, updating, .. } = case;
        vec![
            format!("{}, {}", case.target, case.variant),
            format!("{:.0}", quiet.p99_us),
            format!("{:.0}", updating.p99_us),
            times(updating.p99_us, quiet.p99_us),
            format!("{:.0} / {:.0}", quiet.p50_us, updating.p50_us),
            format!("{:.0} / {:.0}", quiet.cpu_percent, updating.cpu_percent),
            format!("{:.2}", case.cpu_ms_per_push()),
            format!("{:.0}", case.pushed_per_second),
            millis(case.answered_ms.p99),
            case.errors.to_string(),
        ]
    });
    let title = report.updates.first().map_or_else(String::new, |case| {
        let UpdatesCase { rate, connections, updates_per_second, .. } = case;
        format!("{rate} requests/s on {connections} connections, {updates_per_second} pushes/s")
    });
    let columns = [
        "p99 us without",
        "with",
        "ratio",
        "p50 us",
        "CPU %",
        "CPU ms/push",
        "pushes/s",
        "ACK ms p99",
        "failed",
    ];
    table(&mut text, &title, &columns, updates.collect());
    let lookups = report.lookups.iter().map(|case| {
        let cpu = case.cpu_us_per_request;
        vec![
            format!("{}, {}", case.target, case.virtual_hosts),
            format!("{:.0}", case.rps),
            cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.2}")),
            format!("{:.0}", case.p50_us),
            format!("{:.0}", case.p99_us),
            case.rss_bytes.map_or_else(|| "-".to_owned(), mib),
            case.errors.to_string(),
        ]
    });
    let columns = ["req/s", "CPU us/request", "p50 us", "p99 us", "RSS MiB", "failed"];
    table(&mut text, "virtual hosts", &columns, lookups.collect());
    text
}

/// Appends a table whose columns line up in plain text too; nothing without rows.
fn table(text: &mut String, title: &str, columns: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let mut lines = vec![[title].iter().chain(columns).map(ToString::to_string).collect()];
    lines.extend(rows);
    let widths: Vec<usize> = (0..=columns.len())
        .map(|column| lines.iter().map(|line: &Vec<String>| line[column].len()).max().unwrap_or(0))
        .collect();
    for (number, line) in lines.iter().enumerate() {
        // Writing to a String can't fail.
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(text, "| {cell:<width$} |"),
                _ => write!(text, " {cell:>width$} |"),
            };
        }
        text.push('\n');
        if number == 0 {
            for width in &widths {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text.push_str("|\n");
        }
    }
    text.push('\n');
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn millis(value: f64) -> String {
    format!("{value:.2}")
}

fn times(ours: f64, theirs: f64) -> String {
    if theirs > 0.0 { format!("{:.2}x", ours / theirs) } else { "-".to_owned() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::xds) fn report() -> XdsReport {
        let size = Size { clusters: 10_000, endpoints: 5, virtual_hosts: 10_000, listeners: 1 };
        let spread = Spread { p50: 1.0, p99: 2.0, max: 3.0 };
        let (target, variant) = ("outrigger".to_owned(), "delta".to_owned());
        let side = |p99_us| Side {
            p50_us: 50.0,
            p99_us,
            p99_all_us: p99_us,
            max_us: 500.0,
            cpu_percent: 10.0,
            completed: 1000,
        };
        let lookup = |virtual_hosts, cpu| LookupCase {
            target: target.clone(),
            virtual_hosts,
            connections: 64,
            rps: 90_000.0,
            p50_us: 600.0,
            p99_us: 900.0,
            cpu_us_per_request: Some(cpu),
            rss_bytes: Some(1 << 24),
            errors: 0,
            repetitions: 3,
        };
        XdsReport {
            loads: vec![LoadCase {
                target: target.clone(),
                variant: variant.clone(),
                shards: 2,
                ready_s: 1.5,
                ready_s_max: 2.0,
                since_response_s: 1.4,
                answered_s: 1.4,
                rss_bytes: 200 << 20,
                response_bytes: 5 << 20,
                repetitions: 3,
            }],
            changes: vec![ChangeCase {
                target: target.clone(),
                variant: variant.clone(),
                shards: 2,
                changes: 200,
                answered_ms: spread,
                applied_ms: spread,
                own_apply_us: None,
                failed: 0,
                streams: 1,
            }],
            updates: vec![UpdatesCase {
                target: target.clone(),
                variant,
                connections: 64,
                rate: 4000,
                updates_per_second: 100,
                pushed: 3000,
                pushed_per_second: 100.0,
                skipped: 0,
                windows: 120,
                quiet: side(100.0),
                updating: side(105.0),
                errors: 0,
                answered_ms: spread,
                streams: 1,
            }],
            lookups: vec![lookup(10, 5.0), lookup(10_000, 6.0)],
            size,
            layout: "split".to_owned(),
            machine: Machine::here(
                2,
                std::collections::BTreeMap::new(),
                "xds".to_owned(),
                1.0,
                5.0,
            ),
        }
    }

    #[test]
    fn spreads_are_times_that_occurred() {
        let ms = |list: &[u64]| Spread::of(list.iter().copied().map(Duration::from_millis));
        assert_eq!(ms(&[]), Spread { p50: 0.0, p99: 0.0, max: 0.0 });
        assert_eq!(ms(&[7]), Spread { p50: 7.0, p99: 7.0, max: 7.0 });
        let hundred: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(ms(&hundred), Spread { p50: 100.0, p99: 198.0, max: 200.0 });
    }

    #[test]
    fn tables_of_what_was_measured() {
        let mut report = report();
        let text = render(&report);
        for part in [
            "| start with 10000 clusters x 5 endpoints, 10000 virtual hosts | ready s |",
            "| 200 changes of endpoints among",
            "| 4000 requests/s on 64 connections, 100 pushes/s |",
            "| 1.05x |",
            "| outrigger, 10000 |",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let widths: Vec<_> = text.lines().take(3).map(str::len).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
        report.loads.clear();
        assert!(!render(&report).contains("start with"));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<XdsReport>(&json).unwrap(), report);
    }
}
