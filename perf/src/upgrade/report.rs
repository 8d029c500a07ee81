//! What a run through upgrades found, as data and as tables.

use std::fmt::Write;

use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::load::Tally;
use crate::report::Machine;

/// A protocol of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tongue {
    /// HTTP/1.1 with pipelining.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// SOFABolt v1.
    Bolt,
    /// Dubbo 2 with hessian2.
    Dubbo,
    /// Bytes.
    Tcp,
}

/// All that a run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpgradeReport {
    /// One for each target.
    pub cases: Vec<UpgradeCase>,
    /// Where and how.
    pub machine: Machine,
}

/// One target's upgrades.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpgradeCase {
    /// Whose.
    pub target: String,
    /// What became of the load.
    pub protocols: Vec<ProtocolCase>,
    /// Each upgrade.
    pub upgrades: Vec<UpgradeTimes>,
    /// Seconds after which the old process was to end at the latest.
    pub drain_s: u64,
    /// Memory (PSS) of the one process before the first upgrade, the most that was seen, in bytes.
    pub one_pss_bytes: u64,
    /// Memory (PSS) of all its processes during upgrades, the most that was seen, in bytes.
    pub both_pss_bytes: u64,
    /// Descriptors before the first upgrade, with the load on.
    pub files_first: u64,
    /// Descriptors after the last upgrade, with the load on.
    pub files_last: u64,
    /// Processes that were left besides those that serve.
    pub processes_left: u64,
}

/// What became of the load in one protocol. The fates are those of the generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProtocolCase {
    /// Which.
    pub protocol: Tongue,
    /// Sent.
    pub requests: u64,
    /// Answered as they should be.
    pub answered: u64,
    /// Answered by an error or with wrong bytes, or never sent.
    pub failed: u64,
    /// Not answered.
    pub lost: u64,
    /// Answered twice, or twice at the origin.
    pub doubled: u64,
    /// Answered in another's place.
    pub misordered: u64,
    /// Refused as unprocessed, and sent again.
    pub again: u64,
    /// Connections that were reset.
    pub resets: u64,
    /// Connections that were closed with requests under way.
    pub cut: u64,
    /// Connections that were asked to go, or closed while nothing was under way.
    pub asked_to_go: u64,
    /// Attempts to connect that failed.
    pub refused: u64,
    /// Clients.
    pub clients: u64,
    /// Clients that kept their socket, and so their port, from the first to the last moment.
    pub kept: u64,
    /// Times of requests outside hand-overs.
    pub quiet: Times,
    /// Times of requests during hand-overs.
    pub busy: Times,
    /// The first things that went wrong.
    pub notes: Vec<String>,
}

/// Percentiles, in milliseconds from when requests were due.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Requests.
    pub count: u64,
    /// Half of them.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// All.
    pub max_ms: f64,
}

/// Times of one upgrade, in seconds from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UpgradeTimes {
    /// Until the new process served.
    pub serves_s: f64,
    /// Until the old process was gone; `None` if it never went.
    pub gone_s: Option<f64>,
}

impl Tongue {
    /// Name in options and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Bolt => "bolt",
            Self::Dubbo => "dubbo",
            Self::Tcp => "tcp",
        }
    }
}

impl ProtocolCase {
    pub(super) fn new(protocol: Tongue, tally: &Tally, doubled: u64, damaged: u64) -> Self {
        Self {
            protocol,
            requests: tally.requests,
            answered: tally.answered,
            failed: tally.failed + damaged,
            lost: tally.lost,
            doubled: tally.doubled + doubled,
            misordered: tally.misordered,
            again: tally.again,
            resets: tally.resets,
            cut: tally.cut,
            asked_to_go: tally.asked_to_go,
            refused: tally.refused,
            clients: tally.clients,
            kept: tally.kept,
            quiet: Times::of(&tally.quiet),
            busy: Times::of(&tally.busy),
            notes: tally.notes.clone(),
        }
    }

    /// Connections that were made again, for whatever reason.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.resets + self.cut + self.asked_to_go
    }

    /// Whether each request was answered as it should be, once and in its place, and no connection broke.
    #[must_use]
    pub fn is_flawless(&self) -> bool {
        let Self { failed, lost, doubled, misordered, resets, cut, refused, .. } = self;
        failed + lost + doubled + misordered + resets + cut + refused == 0 && self.answered > 0
    }
}

impl UpgradeCase {
    /// Whether that is so of all protocols, and each old process went.
    #[must_use]
    pub fn is_flawless(&self) -> bool {
        self.protocols.iter().all(ProtocolCase::is_flawless)
            && self.upgrades.iter().all(|upgrade| upgrade.gone_s.is_some())
            && self.processes_left == 0
    }
}

impl Times {
    fn of(times: &Histogram<u64>) -> Self {
        let millis = |nanos: u64| nanos as f64 / 1e6;
        Self {
            count: times.len(),
            p50_ms: millis(times.value_at_quantile(0.5)),
            p99_ms: millis(times.value_at_quantile(0.99)),
            max_ms: millis(times.max()),
        }
    }
}

const COLUMNS: [&str; 17] = [
    "target", "protocol", "answered", "failed", "lost", "doubled", "misord.", "again", "reset",
    "cut", "asked", "refused", "kept", "p50 ms", "p99 ms", "p50 over", "p99 over",
];

/// The tables.
#[must_use]
pub fn render(report: &UpgradeReport) -> String {
    let mut lines = vec![COLUMNS.map(str::to_owned)];
    for case in &report.cases {
        for one in &case.protocols {
            lines.push([
                case.target.clone(),
                one.protocol.name().to_owned(),
                one.answered.to_string(),
                one.failed.to_string(),
                one.lost.to_string(),
                one.doubled.to_string(),
                one.misordered.to_string(),
                one.again.to_string(),
                one.resets.to_string(),
                one.cut.to_string(),
                one.asked_to_go.to_string(),
                one.refused.to_string(),
                format!("{}/{}", one.kept, one.clients),
                format!("{:.2}", one.quiet.p50_ms),
                format!("{:.2}", one.quiet.p99_ms),
                format!("{:.2}", one.busy.p50_ms),
                format!("{:.2}", one.busy.p99_ms),
            ]);
        }
    }
    let mut text = table(&lines);
    text.push('\n');
    let header = [
        "target",
        "upgrades",
        "serves s",
        "max",
        "old gone s",
        "max",
        "drain s",
        "one MiB",
        "both MiB",
        "ratio",
        "files first",
        "last",
        "left",
    ];
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(report.cases.iter().map(processes));
    text += &table(&lines);
    for case in &report.cases {
        for one in &case.protocols {
            for note in &one.notes {
                // Writing to a String can't fail.
                let _ = writeln!(text, "  ! {}, {}: {note}", case.target, one.protocol.name());
            }
        }
    }
    text.push_str(LEGEND);
    text
}

fn processes(case: &UpgradeCase) -> [String; 13] {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mean_and_most = |times: Vec<f64>| {
        if times.is_empty() {
            return ["-".to_owned(), "-".to_owned()];
        }
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let most = times.iter().copied().fold(0.0, f64::max);
        [format!("{mean:.2}"), format!("{most:.2}")]
    };
    let [serves, serves_max] =
        mean_and_most(case.upgrades.iter().map(|upgrade| upgrade.serves_s).collect());
    let gone: Vec<f64> = case.upgrades.iter().filter_map(|upgrade| upgrade.gone_s).collect();
    let never = case.upgrades.len() - gone.len();
    let [gone, gone_max] = mean_and_most(gone);
    [
        case.target.clone(),
        case.upgrades.len().to_string(),
        serves,
        serves_max,
        gone,
        if never > 0 { format!("{gone_max}, {never} never") } else { gone_max },
        case.drain_s.to_string(),
        format!("{:.1}", mib(case.one_pss_bytes)),
        format!("{:.1}", mib(case.both_pss_bytes)),
        format!("{:.2}", case.both_pss_bytes as f64 / (case.one_pss_bytes as f64).max(1.0)),
        case.files_first.to_string(),
        case.files_last.to_string(),
        case.processes_left.to_string(),
    ]
}

fn table<const N: usize>(lines: &[[String; N]]) -> String {
    let widths: Vec<usize> = (0..N)
        .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let width = *width;
            // Writing to a String can't fail.
            let _ = if column == 0 {
                write!(text, "{cell:<width$}")
            } else {
                write!(text, "  {cell:>width$}")
            };
        }
        text.push('\n');
    }
    text
}

const LEGEND: &str = "
again: refused as unprocessed, and sent once more. cut: closed with requests under way. asked: asked to go, or
closed with none under way. kept: clients with one socket all the time. over: during hand-overs, which
is from an upgrade's beginning until two seconds after the new process serves, or the old one is gone.
Memory is PSS; `one` before the first upgrade, `both` the most during them.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn case(lost: u64) -> UpgradeCase {
        let times = Times { count: 9, p50_ms: 0.5, p99_ms: 1.25, max_ms: 2.0 };
        UpgradeCase {
            target: "outrigger".to_owned(),
            protocols: vec![ProtocolCase {
                protocol: Tongue::Http1,
                requests: 10,
                answered: 10 - lost,
                failed: 0,
                lost,
                doubled: 0,
                misordered: 0,
                again: 3,
                resets: 0,
                cut: 0,
                asked_to_go: 4,
                refused: 0,
                clients: 4,
                kept: 0,
                quiet: times,
                busy: times,
                notes: vec!["at 1 s: something".to_owned()],
            }],
            upgrades: vec![UpgradeTimes { serves_s: 0.1, gone_s: Some(0.25) }],
            drain_s: 5,
            one_pss_bytes: 10 << 20,
            both_pss_bytes: 15 << 20,
            files_first: 20,
            files_last: 21,
            processes_left: 0,
        }
    }

    #[test]
    fn to_be_asked_to_go_is_no_flaw() {
        assert!(case(0).is_flawless());
        assert!(!case(1).is_flawless());
        let mut never = case(0);
        never.upgrades[0].gone_s = None;
        assert!(!never.is_flawless());
        assert_eq!(case(0).protocols[0].reconnects(), 4);
    }

    #[test]
    fn tables_name_what_went_wrong() {
        let machine = Machine::here(1, std::collections::BTreeMap::new(), String::new(), 0.0, 0.0);
        let text = render(&UpgradeReport { cases: vec![case(1)], machine });
        for words in ["0/4", "1.25", "15.0", "1.50", "! outrigger, http1: at 1 s: something"] {
            assert!(text.contains(words), "{words} in {text}");
        }
    }
}
