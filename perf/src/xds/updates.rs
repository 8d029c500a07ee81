//! What changes of endpoints cost the requests that go on meanwhile.
//!
//! One worker, everything of the proxy on one CPU and everything of the harness on another (layout
//! `split`). Under one open loop, short windows without and with pushes alternate, so that what drifts
//! meets both alike, and what disturbs the machine now and then is in few of either. Requests go to as
//! many virtual hosts as there are connections, far apart; every tenth push is for one of them and replaces
//! one of its endpoints, the others are for the rest in turn. The management server runs only when the
//! generator leaves the CPU to it.

use std::{io, sync::atomic::AtomicBool, thread, time::Duration};

use super::{
    Bench, Programs, Served, Variant, XdsError,
    ads::{Place, Updates},
    proxy::Setup,
    report::{Side, Spread, UpdatesCase},
    world,
};
use crate::{
    compare::{CompareError, Meter, REQUEST_TIMEOUT, io_error},
    load::{self, Edge, LoadError, Outcome, Pace, Plan},
    protocol::http1::{Http1, Http1Options},
    sys,
};

/// Long enough for a 99 % point of its own at 2,000 requests a second, and short enough that most pass
/// between two bursts of what else a machine does: of windows four times as long each had some.
pub(super) const WINDOW: Duration = Duration::from_millis(250);
/// Response body length.
const BODY_BYTES: u64 = 128;

/// Measures all targets in all variants.
pub(super) fn measure(
    bench: &Bench<'_>,
    programs: &Programs,
) -> Result<Vec<UpdatesCase>, XdsError> {
    let mut cases = Vec::new();
    let cells = bench.options.variants.len() * programs.len();
    bench.progress.inc_length(cells as u64);
    for variant in &bench.options.variants {
        for (target, program) in programs {
            bench.progress.set_message(format!("updates, {target}, {variant}"));
            let proxy = bench.placement.proxy;
            let setup = Setup { target: *target, program, cpus: &[proxy], pin: Some(proxy) };
            cases.push(measure_one(bench, &setup, *variant)?);
            bench.progress.inc(1);
        }
    }
    Ok(cases)
}

fn measure_one(
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
    let authorities: Vec<String> = hosts.iter().map(|host| world::authority(*host)).collect();
    let busy = hosts.iter().map(|host| host % options.size.clusters.max(1)).collect();
    let first_push = served.ads.log().exchanges.len();
    let (load, cpu) = load(bench, &served, &authorities, busy)?;
    served.settle()?;
    let log = served.ads.log();
    let pushes = &log.exchanges[first_push..];
    let answered = pushes.iter().filter_map(|push| Some(push.answered? - push.sent));
    let side = |updating: bool| {
        let windows = load.parts.iter().zip(&cpu).enumerate();
        Side::of(windows.filter(|(at, _)| updates_in(*at) == updating).map(|(_, both)| both))
    };
    Ok(UpdatesCase {
        target: setup.target.name().to_owned(),
        variant: variant.name().to_owned(),
        connections: options.connections,
        rate: options.rate.get(),
        updates_per_second: options.updates_per_second,
        pushed: pushes.len(),
        pushed_per_second: pushes.len() as f64 / (WINDOW * options.windows).as_secs_f64(),
        skipped: log.skipped,
        windows: options.windows,
        quiet: side(false),
        updating: side(true),
        errors: load.errors() + load.faults_in_warmup,
        answered_ms: Spread::of(answered),
        streams: log.streams,
    })
}

/// Whether there are pushes in a window. Which of two comes first alternates too.
fn updates_in(window: usize) -> bool {
    matches!(window % 4, 1 | 2)
}

/// As many virtual hosts as there are connections, far apart, all of the first listener.
fn busy_hosts(bench: &Bench<'_>, served: &Served) -> Vec<usize> {
    let listeners = served.listen.len();
    let there = bench.options.size.virtual_hosts.div_ceil(listeners);
    let count = bench.options.connections.clamp(1, there.max(1));
    (0..count).map(|at| at * there / count * listeners).collect()
}

/// Loads the proxy in all windows; tells the CPU time that it took in each, too.
fn load(
    bench: &Bench<'_>,
    served: &Served,
    authorities: &[String],
    busy: Vec<usize>,
) -> Result<(Outcome, Vec<Duration>), XdsError> {
    let options = bench.options;
    let windows = 2 * options.windows;
    let plan = Plan {
        target: served.listener(0),
        sources: Vec::new(),
        connections: options.connections,
        tls: None,
        fresh: false,
        pace: Pace::Open { rate: options.rate, jitter: true },
        warmup: options.warmup,
        duration: WINDOW * windows,
        parts: windows,
        request_timeout: REQUEST_TIMEOUT,
    };
    let meter =
        Meter::new(&served.proxy.server).map_err(io_error("finding the server's processes"))?;
    let mut used = Vec::with_capacity(windows as usize + 1);
    let in_a_window =
        (f64::from(options.updates_per_second) * WINDOW.as_secs_f64()).ceil() as usize;
    let mut updates = Updates { per_second: options.updates_per_second, busy, first: 0 };
    let mut observe = |edge| {
        let window = match edge {
            Edge::Opens => return Ok(()),
            Edge::Part(window) => Some(window as usize),
            Edge::Closes => None,
        };
        used.push(meter.used()?);
        if window.is_some_and(updates_in) {
            served.ads.update(Some(updates.clone()));
            updates.first += in_a_window;
        } else {
            served.ads.update(None);
        }
        Ok(())
    };
    let load = generate(&plan, authorities, bench.placement.others, bench.stop, &mut observe);
    let load = load.map_err(|source| CompareError::Load {
        target: served.proxy.target.name(),
        connections: options.connections,
        source,
    })?;
    Ok((load, used.windows(2).map(|edges| edges[1].saturating_sub(edges[0])).collect()))
}

/// Runs the generator in a thread of its own, so that pinning it leaves this one where it is.
pub(super) fn generate(
    plan: &Plan,
    authorities: &[String],
    cpu: usize,
    stop: &AtomicBool,
    observer: &mut (dyn FnMut(Edge) -> io::Result<()> + Send),
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
        load::run(plan, &protocol, stop, observer)
    };
    let result = thread::scope(|scope| scope.spawn(generate).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
