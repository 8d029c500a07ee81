//! Configuration by xDS under measurement: how fast a big one is there and what it takes, how fast a
//! change of it is in effect, and what either costs the requests.
//!
//! Four scenarios, each with processes of its own. [`loading`]: from the start of a process to its
//! readiness, and memory then. [`change`]: from a push of one cluster's endpoints to the answer that
//! only the new ones can have given. [`updates`]: latencies of an open loop in alternating windows
//! without and with pushes. [`lookup`]: the same requests among few virtual hosts and among many. The
//! server is the harness's own ([`ads`]); Outrigger and Envoy meet the same bytes from it.

pub mod ads;
pub mod change;
pub mod check;
mod http;
pub mod loading;
pub mod lookup;
mod message;
mod proxy;
pub mod report;
mod session;
pub mod updates;
pub mod world;

use std::{
    collections::BTreeMap, ffi::OsString, fmt, net::SocketAddr, num::NonZeroU64, path::PathBuf,
    sync::atomic::AtomicBool, time::Duration,
};

use clap::ValueEnum;
use indicatif::ProgressBar;

use self::{
    ads::{Ads, Place},
    proxy::{Proxy, Setup, Source},
    report::XdsReport,
    world::{Size, World},
};
use crate::{
    compare::{
        CompareError, Layout, Placement, ensure_files, free_address, io_error, progress_bar,
        start_origin_with,
    },
    report::Machine,
    sys,
    target::{self, Locations, Target, server::Server},
};

pub use session::Variant;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Scenario {
    /// A big configuration at the start.
    Load,
    /// One change of endpoints at a time.
    Change,
    /// Changes at a rate, under load.
    Updates,
    /// Requests among few and among many virtual hosts.
    Lookup,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Outrigger, Envoy or both.
    pub targets: Vec<Target>,
    /// Forms of the protocol.
    pub variants: Vec<Variant>,
    /// Scenarios.
    pub scenarios: Vec<Scenario>,
    /// How much the server serves.
    pub size: Size,
    /// Workers in `load` and `change`, at most one per CPU; elsewhere there is one.
    pub shards: usize,
    /// Starts of each target in `load`, and windows of each case in `lookup`.
    pub repetitions: usize,
    /// Changes in `change`.
    pub changes: usize,
    /// Connections of the load.
    pub connections: usize,
    /// Requests per second in `updates`.
    pub rate: NonZeroU64,
    /// Pushes per second there.
    pub updates_per_second: u32,
    /// Windows there, of each of the two kinds.
    pub windows: u32,
    /// Length of those in `lookup`.
    pub duration: Duration,
    /// Load before each.
    pub warmup: Duration,
    /// Where generator, origin and server run in `updates`.
    pub layout: Layout,
    /// Where programs are.
    pub locations: Locations,
    /// The command line, for the record.
    pub command: String,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum XdsError {
    /// What every measurement can fail for.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// The kernel refused the management server something.
    #[error("management server: {0}")]
    Ads(std::io::Error),
    /// A proxy refused a resource, or sent what is no request.
    #[error("{target}: {words}")]
    Refused {
        /// Who.
        target: Target,
        /// Its words, or what was wrong with the request.
        words: String,
    },
    /// A proxy did not answer a push in time.
    #[error("{target}: no {what} within {} s", waited.as_secs())]
    Late {
        /// Who.
        target: Target,
        /// What was waited for.
        what: &'static str,
        /// How long.
        waited: Duration,
    },
    /// Asking a proxy whether a change has arrived failed.
    #[error("{target}: asking for a virtual host: {source}")]
    Probe {
        /// Who.
        target: Target,
        /// Why.
        source: std::io::Error,
    },
    /// Something other than a proxy that speaks xDS.
    #[error("{0} has no xDS: only outrigger and envoy have")]
    Target(Target),
}

/// Response bodies of the two origins, where a request asks for `/`.
const BODY_BYTES: [u64; 2] = [1, 2];
/// Descriptors besides those of connections.
const FILES_SPARE: u64 = 4096;
/// Longest life of an origin.
const LIFETIME: Duration = Duration::from_secs(7200);
/// Time for an answer to a push.
const ANSWER_TIME: Duration = Duration::from_secs(60);

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Measures; progress goes to standard error.
///
/// # Errors
///
/// [`XdsError`]. Requests that fail are in the report.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<XdsReport, XdsError> {
    for target in &options.targets {
        if !matches!(target, Target::Outrigger | Target::Envoy) {
            return Err(XdsError::Target(*target));
        }
    }
    let programs: Vec<(Target, PathBuf)> = options
        .targets
        .iter()
        .map(|target| Ok((*target, target::program(*target, &options.locations)?)))
        .collect::<Result<_, CompareError>>()?;
    let cpus = sys::allowed_cpus().map_err(io_error("reading the allowed CPUs"))?;
    ensure_files(options.connections as u64 + FILES_SPARE)?;
    let layout = if cpus.len() > 1 { options.layout } else { Layout::Shared };
    let placement = Placement::new(layout, &cpus)?;
    let shared = Placement::new(Layout::Shared, &cpus)?;
    let progress = progress_bar(0);
    let mut report = XdsReport {
        loads: Vec::new(),
        changes: Vec::new(),
        updates: Vec::new(),
        lookups: Vec::new(),
        size: options.size,
        layout: layout.name().to_owned(),
        machine: Machine::here(
            cpus.len(),
            versions(&programs),
            options.command.clone(),
            options.warmup.as_secs_f64(),
            options.duration.as_secs_f64(),
        ),
    };
    for scenario in &options.scenarios {
        let placement = if *scenario == Scenario::Lookup { shared } else { placement };
        let bench = Bench {
            options,
            placement,
            cpus: &cpus,
            origins: Origins::start(placement.others)?,
            stop,
            progress: progress.clone(),
        };
        match scenario {
            Scenario::Load => report.loads = loading::measure(&bench, &programs)?,
            Scenario::Change => report.changes = change::measure(&bench, &programs)?,
            Scenario::Updates => report.updates = updates::measure(&bench, &programs)?,
            Scenario::Lookup => report.lookups = lookup::measure(&bench, &programs)?,
        }
    }
    progress.finish_and_clear();
    Ok(report)
}

fn versions(programs: &[(Target, PathBuf)]) -> BTreeMap<String, String> {
    let version = |(target, program): &(Target, PathBuf)| {
        (target.name().to_owned(), target::version(*target, program))
    };
    programs.iter().map(version).collect()
}

/// What all scenarios share.
#[derive(Debug)]
pub struct Bench<'a> {
    options: &'a Options,
    placement: Placement,
    cpus: &'a [usize],
    origins: Origins,
    stop: &'a AtomicBool,
    progress: ProgressBar,
}

/// The programs of the targets.
pub type Programs = [(Target, PathBuf)];

/// The two servers that endpoints are at.
#[derive(Debug)]
struct Origins {
    ports: [u16; 2],
    /// They end with it.
    _servers: [Server; 2],
}

impl Origins {
    fn start(cpu: usize) -> Result<Self, CompareError> {
        let start = |body: u64| {
            let options = ["--all-loopback".into(), "--body".into(), body.to_string().into()];
            start_origin_with(cpu, LIFETIME, options.into_iter().collect::<Vec<OsString>>())
        };
        let [(first, to_first), (second, to_second)] =
            [start(BODY_BYTES[0])?, start(BODY_BYTES[1])?];
        Ok(Self { ports: [to_first.port(), to_second.port()], _servers: [first, second] })
    }
}

/// A proxy, its management server, and where it listens. The proxy ends first.
#[derive(Debug)]
struct Served {
    proxy: Proxy,
    ads: Ads,
    listen: Vec<SocketAddr>,
}

impl Bench<'_> {
    /// CPUs of several workers: the last ones, since the first tends to serve interrupts.
    fn workers(&self) -> &[usize] {
        let shards = self.options.shards.clamp(1, self.cpus.len());
        &self.cpus[self.cpus.len() - shards..]
    }

    /// Starts a management server with a world of its own, and a proxy that has it from there.
    fn serve(&self, setup: &Setup<'_>, variant: Variant, place: Place) -> Result<Served, XdsError> {
        let size = self.options.size;
        let mut listen = Vec::new();
        while listen.len() < size.listeners {
            let address = free_address()?;
            if !listen.contains(&address) {
                listen.push(address);
            }
        }
        let world = World::new(size, &listen, self.origins.ports);
        let ads = Ads::start(world, place).map_err(XdsError::Ads)?;
        let proxy = Proxy::start(setup, Source::Ads(ads.address(), variant))?;
        Ok(Served { proxy, ads, listen })
    }
}

impl Served {
    /// The last virtual host of each listener.
    fn questions(&self, size: Size) -> Vec<(SocketAddr, String)> {
        let listeners = self.listen.len();
        let question = |(at, address): (usize, &SocketAddr)| {
            let last = (at..size.virtual_hosts).step_by(listeners).next_back()?;
            Some((*address, world::authority(last)))
        };
        self.listen.iter().enumerate().filter_map(question).collect()
    }

    /// Where a virtual host is.
    fn listener(&self, virtual_host: usize) -> SocketAddr {
        self.listen[virtual_host % self.listen.len()]
    }

    /// Waits until every response has been answered.
    fn settle(&self) -> Result<(), XdsError> {
        let target = self.proxy.target;
        let settled = self.ads.wait(ANSWER_TIME, |log| log.complaint.is_some() || log.is_settled());
        if let Some(words) = self.ads.log().complaint.clone() {
            return Err(XdsError::Refused { target, words });
        }
        if settled {
            Ok(())
        } else {
            Err(XdsError::Late { target, what: "answer to every response", waited: ANSWER_TIME })
        }
    }
}

/// Which of `count` things comes at a turn: all of them, neighbours in time far apart.
fn scattered(turn: usize, count: usize) -> usize {
    /// A prime that does not divide round numbers.
    const STRIDE: usize = 7919;
    turn.wrapping_mul(STRIDE) % count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_turns_are_all_different() {
        for count in [1, 10, 200, 10_000] {
            let mut all: Vec<_> = (0..count).map(|turn| scattered(turn, count)).collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count);
        }
    }
}
