//! `/stats` and `/stats/prometheus`.

use std::fs;

use hyper::StatusCode;

use super::page::{Answer, Ask};
use crate::control::state::ControlState;
use crate::stats::Sample;
use crate::stats::render::{Kind, Selection, json, prometheus, text};

pub(super) fn stats(ask: &Ask<'_>) -> Answer {
    let render: Render = match ask.parameter("format") {
        None | Some("text") => {
            |_, texts, samples| Answer::text(StatusCode::OK, texts + &text(samples))
        }
        Some("json") => |_, _, samples| Answer::new("application/json", json(samples).to_string()),
        Some("prometheus") => prometheus_answer,
        Some(_) => return Answer::bad_request("usage: /stats?format=(json|prometheus|text)\n"),
    };
    let kind = match ask.parameter("type") {
        None | Some("All") => None,
        Some("Counters") => Some(Kind::Counters),
        Some("Gauges") => Some(Kind::Gauges),
        Some("Histograms") => Some(Kind::Histograms),
        Some("TextReadouts") => Some(Kind::TextReadouts),
        Some(_) => return Answer::bad_request("invalid &type= param"),
    };
    render_selected(ask, kind, render)
}

pub(super) fn prometheus_stats(ask: &Ask<'_>) -> Answer {
    render_selected(ask, None, prometheus_answer)
}

/// Makes an answer of text readouts, as lines, and of everything else.
type Render = fn(&Ask<'_>, String, &[Sample]) -> Answer;

fn render_selected(ask: &Ask<'_>, kind: Option<Kind>, render: Render) -> Answer {
    if let Some(mode) = ask.parameter("histogram_buckets")
        && mode != "none"
    {
        return Answer::bad_request("histogram_buckets: not supported\n");
    }
    let filter = match ask.filter() {
        Ok(filter) => filter,
        Err(answer) => return answer,
    };
    let invert_filter = ask.flag("invert_filter");
    let selection = Selection { filter, invert_filter, used_only: ask.flag("usedonly"), kind };
    update_server_stats(ask.state);
    let texts = selection.texts(ask.state.registry().texts());
    render(ask, texts, &selection.apply(ask.state.registry().collect()))
}

fn prometheus_answer(ask: &Ask<'_>, _: String, samples: &[Sample]) -> Answer {
    let tags = ask.state.process().stats_tags.iter();
    let tags: Vec<_> = tags.map(|tag| (tag.name.as_str(), tag.value.as_str())).collect();
    Answer::new("text/plain; version=0.0.4; charset=utf-8", prometheus(samples, &tags))
}

/// Brings the `server.` set up to date, which changes only when someone looks.
pub(super) fn update_server_stats(state: &ControlState) {
    let registry = state.registry();
    let server = registry.server();
    let lifecycle = state.lifecycle();
    let memory = Memory::now();
    server.uptime.set(state.started().elapsed().as_secs());
    server.state.set(lifecycle as u64);
    server.live.set(u64::from(lifecycle == crate::control::Lifecycle::Live));
    server.concurrency.set(registry.shards() as u64);
    server.hot_restart_epoch.set(state.process().restart_epoch.into());
    server.memory_allocated.set(memory.anonymous);
    server.memory_heap_size.set(memory.anonymous);
    server.memory_physical_size.set(memory.resident);
    let connections = (0..registry.shards()).map(|n| registry.shard(n).connections.value()).sum();
    server.total_connections.set(connections);
}

/// The process's memory as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Memory {
    /// Everything resident.
    pub(super) resident: u64,
    /// What is resident and not a file's: heap, stacks, buffers.
    pub(super) anonymous: u64,
}

impl Memory {
    pub(super) fn now() -> Memory {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Memory::parse(&status)
    }

    fn parse(status: &str) -> Memory {
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            kibibytes.map_or(0, |kibibytes: u64| kibibytes * 1024)
        };
        Memory { resident: bytes("VmRSS"), anonymous: bytes("RssAnon") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status_file() {
        let status = "VmPeak:\t  10 kB\nVmRSS:\t    20480 kB\nRssAnon:\t     4096 kB\n";
        let memory = Memory { resident: 20 << 20, anonymous: 4 << 20 };
        assert_eq!(Memory::parse(status), memory);
        assert_eq!(Memory::parse(""), Memory::default());
        assert!(Memory::now().resident > 0);
    }
}
