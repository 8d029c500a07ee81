//! What changes of endpoints cost the requests that go on meanwhile.
//!
//! One worker, everything of the proxy on one CPU and everything of the harness on another (layout
//! `split`). Windows without and with pushes alternate under the same open loop, so that what drifts
//! meets both alike. Requests go to as many virtual hosts as there are connections, far apart; every
//! tenth push is for one of them and replaces one of its endpoints, the others are for the rest in
//! turn. The management server runs only when the generator leaves the CPU to it.

use std::{sync::atomic::AtomicBool, thread};

use super::{
    Bench, Programs, Served, Variant, XdsError,
    ads::{Place, Updates},
    proxy::Setup,
    report::{Side, Spread, UpdatesCase},
    world,
};
use crate::{
    compare::{CompareError, Meter, REQUEST_TIMEOUT, io_error, sample},
    load::{self, LoadError, Outcome, Pace, Plan},
    protocol::http1::{Http1, Http1Options},
    stats::Sample,
    sys,
};

/// Response body length.
const BODY_BYTES: u64 = 128;

/// Measures all targets in all variants.
pub(super) fn measure(
    bench: &Bench<'_>,
    programs: &Programs,
) -> Result<Vec<UpdatesCase>, XdsError> {
    let mut cases = Vec::new();
    let cells = bench.options.variants.len() * programs.len();
    bench.progress.inc_length((cells * bench.options.windows * 2) as u64);
    for variant in &bench.options.variants {
        for (target, program) in programs {
            bench.progress.set_message(format!("updates, {target}, {variant}"));
            let proxy = bench.placement.proxy;
            let setup = Setup { target: *target, program, cpus: &[proxy], pin: Some(proxy) };
            cases.push(windows(bench, &setup, *variant)?);
        }
    }
    Ok(cases)
}

fn windows(
    bench: &Bench<'_>,
    setup: &Setup<'_>,
    variant: Variant,
) -> Result<UpdatesCase, XdsError> {
    let options = bench.options;
    let place = Place { cpu: Some(bench.placement.others), background: true };
    let mut served = bench.serve(setup, variant, place)?;
    let questions = served.questions(options.size);
    served.proxy.wait_until_ready(&questions, Some(&served.ads), bench.stop)?;
    served.settle()?;
    let hosts = busy_hosts(bench, &served);
    let busy = hosts.iter().map(|host| host % options.size.clusters.max(1)).collect();
    let updates = Updates { per_second: options.updates_per_second, busy };
    let authorities: Vec<String> = hosts.iter().map(|host| world::authority(*host)).collect();
    let first_push = served.ads.log().exchanges.len();
    let mut sides = [Vec::new(), Vec::new()];
    for window in 0..options.windows * 2 {
        // Which of the two comes first alternates too.
        let updating = (window % 4 == 1) || (window % 4 == 2);
        served.ads.update(updating.then(|| updates.clone()));
        let sample = load_window(bench, &served, &authorities)?;
        served.ads.update(None);
        served.settle()?;
        sides[usize::from(updating)].push(sample);
        bench.progress.inc(1);
    }
    let log = served.ads.log();
    let pushes = &log.exchanges[first_push..];
    let answered = pushes.iter().filter_map(|push| Some(push.answered? - push.sent));
    let [quiet, updating] = &sides;
    let seconds = (options.duration + options.warmup).as_secs_f64() * options.windows as f64;
    Ok(UpdatesCase {
        target: setup.target.name().to_owned(),
        variant: variant.name().to_owned(),
        connections: options.connections,
        rate: options.rate.get(),
        updates_per_second: options.updates_per_second,
        pushed: pushes.len(),
        pushed_per_second: pushes.len() as f64 / seconds.max(f64::MIN_POSITIVE),
        skipped: log.skipped,
        windows: options.windows,
        quiet: Side::of(quiet),
        updating: Side::of(updating),
        answered_ms: Spread::of(answered),
        streams: log.streams,
    })
}

/// As many virtual hosts as there are connections, far apart, all of the first listener.
fn busy_hosts(bench: &Bench<'_>, served: &Served) -> Vec<usize> {
    let listeners = served.listen.len();
    let there = bench.options.size.virtual_hosts.div_ceil(listeners);
    let count = bench.options.connections.clamp(1, there.max(1));
    (0..count).map(|at| at * there / count * listeners).collect()
}

fn load_window(
    bench: &Bench<'_>,
    served: &Served,
    authorities: &[String],
) -> Result<Sample, XdsError> {
    let options = bench.options;
    let plan = Plan {
        target: served.listener(0),
        sources: Vec::new(),
        connections: options.connections,
        tls: None,
        fresh: false,
        pace: Pace::Open { rate: options.rate, jitter: true },
        warmup: options.warmup,
        duration: options.duration,
        request_timeout: REQUEST_TIMEOUT,
    };
    let mut meter =
        Meter::new(&served.proxy.server).map_err(io_error("finding the server's processes"))?;
    let load = generate(&plan, authorities, bench.placement.others, bench.stop, &mut meter);
    let load = load.map_err(|source| CompareError::Load {
        target: served.proxy.target.name(),
        connections: options.connections,
        source,
    })?;
    Ok(sample(load, Some(&meter), None))
}

/// Runs the generator in a thread of its own, so that pinning it leaves this one where it is.
pub(super) fn generate(
    plan: &Plan,
    authorities: &[String],
    cpu: usize,
    stop: &AtomicBool,
    meter: &mut Meter,
) -> Result<Outcome, LoadError> {
    let protocol = Http1::to_hosts(
        &Http1Options {
            host: String::new(),
            path: format!("/h1/{BODY_BYTES}"),
            post_bytes: None,
            expected_body: Some(BODY_BYTES),
            close: false,
        },
        authorities,
    );
    let generate = || -> Result<Outcome, LoadError> {
        sys::pin(cpu)?;
        sys::precise_timers();
        load::run(plan, &protocol, stop, &mut |edge| meter.read(edge))
    };
    let result = thread::scope(|scope| scope.spawn(generate).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
