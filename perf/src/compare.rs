//! Measures targets side by side.
//!
//! For each repetition and each condition, every target in turn gets a fresh process, a warm-up and a
//! window, and is stopped again. So all targets meet a condition within the same few seconds, memory
//! is of that condition alone, and nothing else of ours runs meanwhile; starting costs under a
//! second. The order of targets rotates from repetition to repetition, so none always follows
//! the same one. One origin process serves the whole comparison. A target that can't speak a protocol
//! (the floor knows HTTP/1.1 only) is left out of its cases. Direct means the origin itself, speaking
//! what the proxies speak downstream.
//!
//! Latency at a load that all can bear is measured in two rounds: the first in closed loop, the second
//! in open loop at a share of the rate that one target reached in the first ([`RateOf`]).
//!
//! Layouts: `shared` puts generator, proxy and origin on one CPU, so that requests per second tell
//! the total cost and no wake-up crosses cores; `split` gives the proxy a CPU of its own.
//!
//! CPU per request is what the kernel charges to the proxy's processes. Network work that it moves to
//! its own thread (ksoftirqd), which happens with long bodies, is charged to nobody; in layout
//! `shared` it still shows in the requests per second.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    thread,
    time::Duration,
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    client,
    load::{self, Edge, LoadError, Outcome, Pace, Plan},
    report::{Case, Condition, Machine, Report},
    stats::{Sample, summarize},
    sys::{self, CpuClock, Memory},
    target::{
        self, Locations, Missing, Profile, Target,
        config::{Launch, Setup, launch},
        server::{Scratch, Server, ServerError},
    },
    tls::Identity,
    variant::{Negotiated, ProtocolName, Request, Sides},
};

/// Where generator, proxy and origin run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// All on one CPU.
    Shared,
    /// The proxy on one, generator and origin on another.
    Split,
}

/// A share of the requests per second that a target does in closed loop under the same condition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateOf {
    /// Whose.
    pub target: Target,
    /// Above 0.
    pub share: f64,
}

/// What to compare.
#[derive(Debug, Clone)]
pub struct Options {
    /// Targets, in the order of the results.
    pub targets: Vec<Target>,
    /// Protocols.
    pub protocols: Vec<ProtocolName>,
    /// Numbers of connections.
    pub connections: Vec<usize>,
    /// Numbers of streams per connection, for protocols that have them.
    pub streams: Vec<usize>,
    /// Response body lengths.
    pub bodies: Vec<usize>,
    /// Layouts.
    pub layouts: Vec<Layout>,
    /// Profiles.
    pub profiles: Vec<Profile>,
    /// Fixed rate of an open loop; closed loop when `None`.
    pub rate: Option<NonZeroU64>,
    /// A second round in open loop.
    pub rate_of: Option<RateOf>,
    /// Jitter of the open loop.
    pub jitter: bool,
    /// GET when `None`, else POST with so many bytes; for gRPC and RPC the length of the call's body,
    /// that of the response when `None`.
    pub post_bytes: Option<usize>,
    /// Warm-up before each window.
    pub warmup: Duration,
    /// Length of each window.
    pub duration: Duration,
    /// Repetitions.
    pub repetitions: usize,
    /// Where programs are.
    pub locations: Locations,
    /// The command line, for the record.
    pub command: String,
}

/// Why a comparison gave no result.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A program is not there.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A server didn't start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The generator failed or was interrupted.
    #[error("{target}, {connections} connections: {source}")]
    Load {
        /// Under load then.
        target: &'static str,
        /// The case.
        connections: usize,
        /// Why.
        source: LoadError,
    },
    /// Asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A layout needs more CPUs than there are.
    #[error("layout split needs 2 CPUs, this process may use {0}")]
    Cpus(usize),
    /// The limit of open files can't be raised far enough.
    #[error("{wanted} open files are needed and only {allowed} allowed: raise `ulimit -Hn`")]
    Files {
        /// Needed.
        wanted: u64,
        /// Allowed.
        allowed: u64,
    },
    /// A rate is asked for where each request has its own connection.
    #[error("{0}: an open loop is not possible with a new connection for each request")]
    OpenLoop(&'static str),
    /// A share is asked for of what is not measured.
    #[error("a rate of {0} needs it among the targets")]
    RateOf(&'static str),
    /// Idle connections are asked for where no connection ever is.
    #[error("{0}: every connection ends with its request, so none is ever idle")]
    NeverIdle(&'static str),
    /// The origin doesn't answer as it should.
    #[error("origin, {protocol}: {source}")]
    Origin {
        /// Asked in this protocol.
        protocol: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The TLS library refused the generator's settings.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The kernel refused something else.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A request not answered for so long has failed.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time beyond the planned one after which our own servers end by themselves.
const LIFETIME_SPARE: Duration = Duration::from_secs(600);
/// Descriptors besides those of connections.
const FILES_SPARE: u64 = 256;

impl Layout {
    /// Name in options and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Split => "split",
        }
    }
}

/// CPUs of one layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Of the proxy.
    pub proxy: usize,
    /// Of generator and origin.
    pub others: usize,
}

impl Placement {
    /// Places a layout on the allowed CPUs. The proxy gets the last: the first tends to serve
    /// interrupts.
    ///
    /// # Errors
    ///
    /// [`CompareError::Cpus`] when there are too few.
    pub fn new(layout: Layout, allowed: &[usize]) -> Result<Self, CompareError> {
        match (layout, allowed) {
            (Layout::Shared, [.., last]) => Ok(Self { proxy: *last, others: *last }),
            (Layout::Split, [first, .., last]) => Ok(Self { proxy: *last, others: *first }),
            _ => Err(CompareError::Cpus(allowed.len())),
        }
    }
}

/// One case to measure, over and over.
#[derive(Debug, Clone, Copy)]
struct Cell {
    protocol: ProtocolName,
    layout: Layout,
    profile: Profile,
    connections: usize,
    streams: usize,
    body_bytes: usize,
    /// Open loop.
    rate: Option<NonZeroU64>,
}

/// Runs the comparison; progress goes to standard error.
///
/// # Errors
///
/// [`CompareError`]. Errors of requests are no errors of the comparison; they are in the report.
pub fn compare(options: &Options, stop: &AtomicBool) -> Result<Report, CompareError> {
    let options = &spoken_by(options);
    let programs = programs(options)?;
    let cpus = sys::allowed_cpus().map_err(io_error("reading the allowed CPUs"))?;
    for layout in &options.layouts {
        Placement::new(*layout, &cpus)?;
    }
    for protocol in options.protocols.iter().filter(|protocol| protocol.sides().fresh) {
        if options.rate.is_some() || options.rate_of.is_some() {
            return Err(CompareError::OpenLoop(protocol.name()));
        }
    }
    if let Some(RateOf { target, .. }) = options.rate_of
        && !options.targets.contains(&target)
    {
        return Err(CompareError::RateOf(target.name()));
    }
    let cells = cells(options);
    let most = cells.iter().map(|cell| cell.connections * (cell.streams + 1)).max().unwrap_or(0);
    // A proxy has a descriptor per connection downstream, and per request in flight upstream.
    ensure_files(most as u64 + FILES_SPARE)?;
    let rounds = if options.rate_of.is_some() { 2 } else { 1 };
    let runs = rounds * options.repetitions * cells.len() * options.targets.len();
    let each = options.warmup + options.duration + Duration::from_secs(2);
    let lifetime = each * u32::try_from(runs).unwrap_or(u32::MAX) + LIFETIME_SPARE;

    let scratch = Scratch::new().map_err(io_error("making a temporary directory"))?;
    let identity = Identity::create(scratch.path()).map_err(io_error("making a certificate"))?;
    let mut origins = Vec::new();
    for layout in &options.layouts {
        let placement = Placement::new(*layout, &cpus)?;
        let origin = start_origin(placement.others, lifetime, &identity)?;
        origins.push((*layout, placement, origin));
    }
    let comparison = Comparison {
        options,
        programs: &programs,
        origins: &origins,
        identity: &identity,
        lifetime,
        stop,
        progress: progress_bar(runs as u64),
    };
    let mut cases = comparison.round(&cells)?;
    if let Some(of) = options.rate_of {
        let cells: Vec<Cell> = cells.iter().filter_map(|cell| cell.paced(of, &cases)).collect();
        cases.extend(comparison.round(&cells)?);
    }
    comparison.progress.finish_and_clear();

    let versions: BTreeMap<String, String> = options
        .targets
        .iter()
        .zip(&programs)
        .map(|(target, program)| (target.name().to_owned(), target::version(*target, program)))
        .collect();
    let machine = Machine::here(
        cpus.len(),
        versions,
        options.command.clone(),
        options.warmup.as_secs_f64(),
        options.duration.as_secs_f64(),
    );
    Ok(Report { cases, machine })
}

/// What all measurements of a comparison share.
struct Comparison<'a> {
    options: &'a Options,
    programs: &'a [PathBuf],
    origins: &'a [(Layout, Placement, (Server, SocketAddr))],
    identity: &'a Identity,
    lifetime: Duration,
    stop: &'a AtomicBool,
    progress: ProgressBar,
}

impl Comparison<'_> {
    /// Measures all targets in all cells.
    fn round(&self, cells: &[Cell]) -> Result<Vec<Case>, CompareError> {
        let Self { options, programs, origins, progress, .. } = self;
        let mut samples: Vec<Vec<Vec<Sample>>> =
            vec![vec![Vec::new(); options.targets.len()]; cells.len()];
        for repetition in 0..options.repetitions {
            for (cell, samples) in cells.iter().zip(&mut samples) {
                let Some((_, placement, (_, origin))) =
                    origins.iter().find(|(layout, ..)| *layout == cell.layout)
                else {
                    continue;
                };
                for turn in 0..options.targets.len() {
                    let which = (turn + repetition) % options.targets.len();
                    let target = options.targets[which];
                    progress.inc(1);
                    if !target.speaks(cell.protocol) {
                        continue;
                    }
                    progress.set_message(format!(
                        "{target}, {}, {} connections, {} bytes, {}, {}, repetition {}",
                        cell.protocol.name(),
                        cell.connections,
                        cell.body_bytes,
                        cell.layout.name(),
                        cell.profile.name(),
                        repetition + 1
                    ));
                    let measurement = Measurement {
                        options,
                        target,
                        cell,
                        origin: *origin,
                        identity: self.identity,
                        placement: *placement,
                        lifetime: self.lifetime,
                        stop: self.stop,
                    };
                    samples[which].push(measurement.run(&programs[which])?);
                }
            }
        }
        let mut cases = Vec::new();
        for (cell, samples) in cells.iter().zip(&samples) {
            for (target, samples) in options.targets.iter().zip(samples) {
                if let Some(summary) = summarize(samples) {
                    let condition = cell.condition();
                    cases.push(Case::new(target.name(), &condition, summary, samples.len()));
                }
            }
        }
        Ok(cases)
    }
}

/// The same without targets that speak none of the protocols: their programs need not be there.
fn spoken_by(options: &Options) -> Options {
    let Options { targets, protocols, .. } = options;
    let speaks = |target: &Target| protocols.iter().any(|protocol| target.speaks(*protocol));
    Options { targets: targets.iter().copied().filter(speaks).collect(), ..options.clone() }
}

fn programs(options: &Options) -> Result<Vec<PathBuf>, CompareError> {
    let programs =
        options.targets.iter().map(|target| target::program(*target, &options.locations));
    Ok(programs.collect::<Result<_, _>>()?)
}

fn cells(options: &Options) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &protocol in &options.protocols {
        let several: &[usize] =
            if protocol.sides().has_streams() { &options.streams } else { &[1] };
        for &layout in &options.layouts {
            for &profile in &options.profiles {
                for &body_bytes in &options.bodies {
                    for &connections in &options.connections {
                        for &streams in several {
                            cells.push(Cell {
                                protocol,
                                layout,
                                profile,
                                connections,
                                streams,
                                body_bytes,
                                rate: options.rate,
                            });
                        }
                    }
                }
            }
        }
    }
    cells
}

/// Makes sure that the harness and what it starts may open so many files.
///
/// # Errors
///
/// [`CompareError::Files`].
pub fn ensure_files(wanted: u64) -> Result<(), CompareError> {
    let allowed =
        sys::raise_open_files(wanted).map_err(io_error("raising the limit of open files"))?;
    if allowed < wanted { Err(CompareError::Files { wanted, allowed }) } else { Ok(()) }
}

/// Starts the origin as a process of its own, and says where it listens. It takes plaintext and TLS.
///
/// # Errors
///
/// [`CompareError::Server`], or that this program's path is unknown.
pub fn start_origin(
    cpu: usize,
    lifetime: Duration,
    identity: &Identity,
) -> Result<(Server, SocketAddr), CompareError> {
    let certificate = ["--certificate".into(), identity.certificate.clone().into()];
    let key = ["--key".into(), identity.key.clone().into()];
    start_origin_with(cpu, lifetime, certificate.into_iter().chain(key))
}

/// The same with other options than where to listen and for how long, and thus without TLS unless
/// they ask for it.
///
/// # Errors
///
/// As [`start_origin`].
pub(crate) fn start_origin_with(
    cpu: usize,
    lifetime: Duration,
    options: impl IntoIterator<Item = OsString>,
) -> Result<(Server, SocketAddr), CompareError> {
    let program = target::program(Target::Direct, &Locations::default())?;
    let address = free_address()?;
    let mut arguments: Vec<OsString> = vec!["origin".into()];
    arguments.extend(["--listen".into(), address.to_string().into()]);
    arguments.extend(["--lifetime-s".into(), lifetime.as_secs().to_string().into()]);
    arguments.extend(options);
    let launch = Launch { arguments, files: Vec::new() };
    let directory = Scratch::new().map_err(io_error("making a temporary directory"))?;
    let sides = ProtocolName::Http1.sides();
    let server = Server::start("origin", &program, &launch, directory, Some(cpu), address, sides)?;
    Ok((server, address))
}

/// A loopback address to listen on.
///
/// # Errors
///
/// When no port is free.
pub fn free_address() -> Result<SocketAddr, CompareError> {
    let port = sys::free_port().map_err(io_error("finding a free port"))?;
    Ok((Ipv4Addr::LOCALHOST, port).into())
}

/// Names what was tried when the kernel refused it.
pub(crate) fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> CompareError {
    move |source| CompareError::Io { what, source }
}

/// A progress bar on standard error; invisible when that is no terminal.
pub(crate) fn progress_bar(length: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{elapsed_precise} [{bar:32}] {pos}/{len} {msg} (eta {eta})")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
    let progress = ProgressBar::new(length).with_style(style);
    progress.enable_steady_tick(Duration::from_secs(1));
    progress
}

/// One window of one target.
struct Measurement<'a> {
    options: &'a Options,
    target: Target,
    cell: &'a Cell,
    origin: SocketAddr,
    identity: &'a Identity,
    placement: Placement,
    lifetime: Duration,
    stop: &'a AtomicBool,
}

impl Measurement<'_> {
    fn run(&self, program: &Path) -> Result<Sample, CompareError> {
        let directory = Scratch::new().map_err(io_error("making a temporary directory"))?;
        let listen = free_address()?;
        let cpus = [self.placement.proxy];
        let sides = self.cell.protocol.sides();
        let launch = launch(
            self.target,
            &Setup {
                listen,
                origin: self.origin,
                directory: directory.path(),
                sides,
                identity: self.identity,
                profile: self.cell.profile,
                cpus: &cpus,
                connections: self.cell.connections,
                streams: self.cell.streams,
                lifetime_s: self.lifetime.as_secs(),
            },
        );
        let Some(launch) = launch else {
            let sides = sides.direct();
            let protocol = self.cell.protocol.name();
            let negotiated = client::probe(self.origin, sides)
                .map_err(|source| CompareError::Origin { protocol, source })?;
            let load = self.load(self.origin, sides, &mut |_| Ok(()))?;
            return Ok(sample(load, None, Some(&negotiated)));
        };
        let name = self.target.name();
        let cpu = Some(self.placement.proxy);
        let server = Server::start(name, program, &launch, directory, cpu, listen, sides)?;
        let mut meter = Meter::new(&server).map_err(io_error("finding the server's processes"))?;
        let load = self.load(listen, sides, &mut |edge| meter.read(edge))?;
        Ok(sample(load, Some(&meter), server.negotiated()))
    }

    /// Runs the generator in a thread of its own, so that pinning it leaves this one where it is.
    fn load(
        &self,
        target: SocketAddr,
        sides: Sides,
        observer: &mut (dyn FnMut(Edge) -> io::Result<()> + Send),
    ) -> Result<Outcome, CompareError> {
        let Cell { connections, streams, body_bytes, .. } = *self.cell;
        let request = Request { body_bytes, post_bytes: self.options.post_bytes, streams };
        let traffic = sides.traffic(&target.to_string(), request)?;
        let plan = Plan {
            target,
            sources: Vec::new(),
            connections,
            tls: traffic.tls.clone(),
            fresh: sides.fresh,
            pace: match self.cell.rate {
                None => Pace::Closed,
                Some(rate) => Pace::Open { rate, jitter: self.options.jitter },
            },
            warmup: self.options.warmup,
            duration: self.options.duration,
            parts: 0,
            request_timeout: REQUEST_TIMEOUT,
        };
        let cpu = self.placement.others;
        let generate = || -> Result<Outcome, LoadError> {
            sys::pin(cpu)?;
            sys::precise_timers();
            load::run(&plan, &traffic.protocol, self.stop, observer)
        };
        let result = thread::scope(|scope| scope.spawn(generate).join());
        let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.map_err(|source| CompareError::Load {
            target: self.target.name(),
            connections,
            source,
        })
    }
}

impl Cell {
    /// The same in open loop, by the rate found in closed loop; `None` where there was none.
    fn paced(&self, of: RateOf, cases: &[Case]) -> Option<Self> {
        let condition = self.condition();
        let name = of.target.name();
        let found =
            cases.iter().find(|case| case.target == name && case.condition() == condition)?;
        Some(Self { rate: NonZeroU64::new(found.share_of_rate(of.share)), ..*self })
    }

    fn condition(&self) -> Condition {
        Condition {
            protocol: self.protocol.name().to_owned(),
            layout: self.layout.name().to_owned(),
            profile: self.profile.name().to_owned(),
            body_bytes: self.body_bytes,
            connections: self.connections,
            streams: self.streams,
            rate: self.rate.map(NonZeroU64::get),
        }
    }
}

pub(crate) fn sample(
    load: Outcome,
    meter: Option<&Meter>,
    negotiated: Option<&Negotiated>,
) -> Sample {
    Sample {
        load,
        cpu_us: meter.map(Meter::cpu_us),
        rss_bytes: meter.map(|meter| meter.memory.rss_bytes),
        negotiated: negotiated.cloned(),
    }
}

/// Reads a server's CPU time and memory at the edges of the window.
pub(crate) struct Meter {
    pids: Vec<u32>,
    clocks: Vec<CpuClock>,
    opened: Duration,
    closed: Duration,
    memory: Memory,
}

impl Meter {
    pub(crate) fn new(server: &Server) -> io::Result<Self> {
        let pids = server.pids()?;
        let clocks = pids.iter().map(|pid| CpuClock::of(*pid)).collect::<io::Result<_>>()?;
        let zero = Duration::ZERO;
        Ok(Self { pids, clocks, opened: zero, closed: zero, memory: Memory::default() })
    }

    pub(crate) fn read(&mut self, edge: Edge) -> io::Result<()> {
        match edge {
            Edge::Opens => self.opened = self.used()?,
            Edge::Part(_) => {}
            Edge::Closes => {
                self.closed = self.used()?;
                self.memory = Memory::of(&self.pids)?;
            }
        }
        Ok(())
    }

    /// CPU time up to now.
    pub(crate) fn used(&self) -> io::Result<Duration> {
        let mut sum = Duration::ZERO;
        for clock in &self.clocks {
            sum += clock.now()?;
        }
        Ok(sum)
    }

    pub(crate) fn cpu_us(&self) -> f64 {
        self.closed.saturating_sub(self.opened).as_secs_f64() * 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_on_cpus() {
        let placed = |layout, cpus: &[usize]| Placement::new(layout, cpus).ok();
        assert_eq!(placed(Layout::Shared, &[2, 5]), Some(Placement { proxy: 5, others: 5 }));
        assert_eq!(placed(Layout::Shared, &[2]), Some(Placement { proxy: 2, others: 2 }));
        assert_eq!(placed(Layout::Split, &[2, 3, 5]), Some(Placement { proxy: 5, others: 2 }));
        assert_eq!(placed(Layout::Split, &[2]), None);
    }
}
