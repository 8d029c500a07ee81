//! How long a proxy takes from its start until it serves a big configuration, and its memory then.
//!
//! Ready means both: its admin interface says so, and the last virtual host of each listener has
//! answered a request. Targets and variants take turns, every start is a fresh process, and the
//! management server has encoded everything before it starts.

use std::time::Duration;

use super::{
    Bench, Programs, Served, Variant, XdsError,
    ads::Place,
    proxy::{Readiness, Setup},
    report::LoadCase,
};
use crate::{idle::settled_memory, stats::median, target::Target};

/// One start.
#[derive(Debug, Clone, Copy)]
struct Sample {
    ready: Duration,
    /// Counted from the management server's first response.
    since_response: Duration,
    /// From the start to the answer to the last response.
    answered: Duration,
    rss_bytes: u64,
    response_bytes: u64,
}

/// Measures all targets in all variants.
pub(super) fn measure(bench: &Bench<'_>, programs: &Programs) -> Result<Vec<LoadCase>, XdsError> {
    let variants = &bench.options.variants;
    let cells: Vec<_> = variants
        .iter()
        .flat_map(|variant| programs.iter().map(move |program| (*variant, program)))
        .collect();
    let mut samples = vec![Vec::new(); cells.len()];
    bench.progress.inc_length((cells.len() * bench.options.repetitions) as u64);
    for repetition in 0..bench.options.repetitions {
        for turn in 0..cells.len() {
            let which = (turn + repetition) % cells.len();
            let (variant, (target, program)) = cells[which];
            bench.progress.set_message(format!("load, {target}, {variant}"));
            let setup = Setup { target: *target, program, cpus: bench.workers(), pin: None };
            samples[which].push(start(bench, &setup, variant)?);
            bench.progress.inc(1);
        }
    }
    let case = |((variant, (target, _)), samples): (&(Variant, &(Target, _)), &Vec<Sample>)| {
        let seconds = |value: fn(&Sample) -> Duration| {
            median(samples.iter().map(|sample| value(sample).as_secs_f64())).unwrap_or(0.0)
        };
        let bytes = |value: fn(&Sample) -> u64| {
            median(samples.iter().map(|sample| value(sample) as f64)).unwrap_or(0.0) as u64
        };
        let ready = samples.iter().map(|sample| sample.ready.as_secs_f64());
        LoadCase {
            target: target.name().to_owned(),
            variant: variant.name().to_owned(),
            shards: bench.workers().len(),
            ready_s: seconds(|sample| sample.ready),
            ready_s_max: ready.fold(0.0, f64::max),
            since_response_s: seconds(|sample| sample.since_response),
            answered_s: seconds(|sample| sample.answered),
            rss_bytes: bytes(|sample| sample.rss_bytes),
            response_bytes: bytes(|sample| sample.response_bytes),
            repetitions: samples.len(),
        }
    };
    Ok(cells.iter().zip(&samples).map(case).collect())
}

fn start(bench: &Bench<'_>, setup: &Setup<'_>, variant: Variant) -> Result<Sample, XdsError> {
    let mut served = bench.serve(setup, variant, Place::default())?;
    let questions = served.questions(bench.options.size);
    let Served { proxy, ads, .. } = &mut served;
    let Readiness { said, answered } = proxy.wait_until_ready(&questions, Some(ads), bench.stop)?;
    served.settle()?;
    let memory = settled_memory(&served.proxy.server, bench.stop)?;
    let begun = served.proxy.begun;
    let log = served.ads.log();
    let ready = said.max(answered);
    let first = log.exchanges.first().map_or(begun, |exchange| exchange.sent);
    let last = log.exchanges.iter().filter_map(|exchange| exchange.answered).max();
    Ok(Sample {
        ready,
        since_response: (begun + ready).saturating_duration_since(first),
        answered: last.map_or(Duration::ZERO, |last| last.saturating_duration_since(begun)),
        rss_bytes: memory.rss_bytes,
        response_bytes: log.exchanges.iter().map(|exchange| exchange.bytes as u64).sum(),
    })
}
