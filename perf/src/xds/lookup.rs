//! What the number of virtual hosts costs a request.
//!
//! The same closed loop against the same proxy, once with few virtual hosts and once with all of them,
//! each request to another one; all lead to the same few clusters. The configuration is a file: where
//! it comes from makes no difference to a lookup. Everything shares one CPU, as in the comparison's
//! layout `shared`, and cases take turns.

use super::{
    Bench, Programs, XdsError,
    proxy::{Proxy, Setup, Source},
    report::LookupCase,
    updates::generate,
    world,
};
use crate::{
    compare::{CompareError, Meter, REQUEST_TIMEOUT, free_address, io_error, sample},
    load::{Pace, Plan},
    stats::{Sample, summarize},
};

/// Virtual hosts of the small case, and clusters of both.
pub const FEW: usize = 10;

/// Measures all targets.
pub(super) fn measure(bench: &Bench<'_>, programs: &Programs) -> Result<Vec<LookupCase>, XdsError> {
    let many = bench.options.size.virtual_hosts;
    let cells: Vec<_> =
        programs.iter().flat_map(|program| [FEW, many].map(|hosts| (program, hosts))).collect();
    let mut samples = vec![Vec::new(); cells.len()];
    bench.progress.inc_length((cells.len() * bench.options.repetitions) as u64);
    let cpu = bench.placement.proxy;
    for repetition in 0..bench.options.repetitions {
        for turn in 0..cells.len() {
            let which = (turn + repetition) % cells.len();
            let ((target, program), hosts) = cells[which];
            bench.progress.set_message(format!("lookup, {target}, {hosts} virtual hosts"));
            let setup = Setup { target: *target, program, cpus: &[cpu], pin: Some(cpu) };
            samples[which].push(window(bench, &setup, hosts)?);
            bench.progress.inc(1);
        }
    }
    let mut cases = Vec::new();
    for (((target, _), hosts), samples) in cells.iter().zip(&samples) {
        if let Some(summary) = summarize(samples) {
            cases.push(LookupCase {
                target: target.name().to_owned(),
                virtual_hosts: *hosts,
                connections: bench.options.connections,
                rps: summary.rate,
                p50_us: summary.latency.p50,
                p99_us: summary.latency.p99,
                cpu_us_per_request: summary.cpu_us_per_request,
                rss_bytes: summary.rss_bytes,
                errors: summary.errors + summary.errors_in_warmup,
                repetitions: samples.len(),
            });
        }
    }
    Ok(cases)
}

fn window(bench: &Bench<'_>, setup: &Setup<'_>, hosts: usize) -> Result<Sample, XdsError> {
    let options = bench.options;
    let listen = free_address()?;
    let origin = (std::net::Ipv4Addr::LOCALHOST, bench.origins.ports[0]).into();
    let resources = world::fixed(listen, origin, hosts, FEW);
    let mut proxy = Proxy::start(setup, Source::Fixed(&resources))?;
    let authorities: Vec<String> = (0..hosts).map(world::authority).collect();
    let question = (listen, authorities.last().cloned().unwrap_or_default());
    proxy.wait_until_ready(&[question], None, bench.stop)?;
    let plan = Plan {
        target: listen,
        sources: Vec::new(),
        connections: options.connections,
        tls: None,
        fresh: false,
        pace: Pace::Closed,
        warmup: options.warmup,
        duration: options.duration,
        parts: 0,
        request_timeout: REQUEST_TIMEOUT,
    };
    let mut meter =
        Meter::new(&proxy.server).map_err(io_error("finding the server's processes"))?;
    let mut observe = |edge| meter.read(edge);
    let load = generate(&plan, &authorities, setup.cpus[0], bench.stop, &mut observe);
    let load = load.map_err(|source| CompareError::Load {
        target: setup.target.name(),
        connections: options.connections,
        source,
    })?;
    Ok(sample(load, Some(&meter), None))
}
