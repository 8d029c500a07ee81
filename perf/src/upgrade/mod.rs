//! Upgrades under load: what they cost clients.
//!
//! A proxy serves all protocols at once, and is replaced again and again while the generator
//! ([`mod@self`]'s `load`) keeps to its rate. Every request and every answer is checked to the last byte, and
//! every connection's end is counted by who ended it and how, so that a proxy which drains shows
//! reconnects, one that drops shows losses, and one that moves connections shows neither.
//!
//! Peers do the same by their own means, in the protocols they have; see [`subject`].

mod config;
pub mod content;
mod load;
mod origin;
pub mod report;
mod speech;
pub mod subject;

use std::{
    collections::BTreeMap,
    fs, io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use self::{
    load::{Plan, Running},
    origin::Origin,
    report::{ProtocolCase, Tongue, UpgradeCase, UpgradeReport, UpgradeTimes},
    subject::{Setup, Subject},
};
use crate::{
    compare::{CompareError, ensure_files},
    report::Machine,
    sys::{self, Memory},
    target::{self, Locations, Missing, Target, server::ServerError},
};

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Outrigger and its peers.
    pub targets: Vec<Target>,
    /// Protocols of the load.
    pub protocols: Vec<Tongue>,
    /// Clients of each protocol.
    pub connections: usize,
    /// Upgrades of each target, one after the other.
    pub upgrades: u32,
    /// Timed requests per second of each protocol.
    pub rate: u32,
    /// Longest time that an origin takes to answer.
    pub slow: Duration,
    /// Length of long contents.
    pub large_bytes: u32,
    /// Time before the first upgrade, and after the last.
    pub calm: Duration,
    /// Time between the end of an old process and the next upgrade.
    pub pause: Duration,
    /// Longest time that an old process has.
    pub drain: Duration,
    /// Begin the next upgrade even if the old process still drains.
    pub overlap: bool,
    /// Workers of each proxy.
    pub shards: u32,
    /// Where programs are.
    pub locations: Locations,
    /// A second outrigger: processes are of the one and of the other in turn.
    pub next: Option<std::path::PathBuf>,
    /// The command line, for the record.
    pub command: String,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// A program is not there.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A process did not start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// What other commands also meet.
    #[error(transparent)]
    Other(#[from] CompareError),
    /// A target has no way to be upgraded.
    #[error("{0} is nothing that could be upgraded")]
    Never(Target),
    /// None of the protocols is one that the target has.
    #[error("{0} speaks none of these protocols")]
    Speechless(Target),
    /// The new process did not serve in time.
    #[error("{target}, upgrade {number}: does not serve within {} s: {words}", waited.as_secs())]
    Hangs {
        /// Whose.
        target: Target,
        /// Which, from 1.
        number: u32,
        /// How long.
        waited: Duration,
        /// What it said.
        words: String,
    },
    /// No answer came, so that there is nothing to watch.
    #[error("{0}: no request is answered")]
    Silent(Target),
    /// The kernel refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Time for a new process to serve.
const SERVE_TIME: Duration = Duration::from_secs(60);
/// Beyond its time to drain, an old process is given so long until it counts as left for ever.
const GONE_SPARE: Duration = Duration::from_secs(10);
/// A hand-over's effects are looked for so long after the new process serves.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Pause between looks at processes.
const GLANCE: Duration = Duration::from_millis(5);
/// Pause between looks at their memory, which cost more.
const MEMORY_GLANCE: Duration = Duration::from_millis(100);
/// Descriptors besides those of connections.
const FILES_SPARE: u64 = 256;

/// Runs all targets, one after the other; progress goes to standard error.
///
/// # Errors
///
/// [`UpgradeError`]. What becomes of requests is in the report.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<UpgradeReport, UpgradeError> {
    let mut programs = BTreeMap::new();
    for target in &options.targets {
        programs.insert(*target, target::program(*target, &options.locations)?);
    }
    let clients = options.connections * options.protocols.len();
    // Both ends of the load are in this process, and a proxy has a descriptor for either side.
    ensure_files(clients as u64 * 8 + FILES_SPARE)?;
    let mut cases = Vec::new();
    for (target, program) in &programs {
        cases.push(Run { options, target: *target, stop }.case(program)?);
    }
    let versions = programs
        .iter()
        .map(|(target, program)| (target.name().to_owned(), target::version(*target, program)))
        .collect();
    let cpus = sys::allowed_cpus().map_err(io_error("reading the allowed CPUs"))?;
    let machine = Machine::here(
        cpus.len(),
        versions,
        options.command.clone(),
        options.calm.as_secs_f64(),
        options.pause.as_secs_f64(),
    );
    Ok(UpgradeReport { cases, machine })
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> UpgradeError {
    move |source| UpgradeError::Io { what, source }
}

/// One target's upgrades.
struct Run<'a> {
    options: &'a Options,
    target: Target,
    stop: &'a AtomicBool,
}

/// What is watched meanwhile.
#[derive(Debug, Default)]
struct Watched {
    both_pss_bytes: u64,
    looked: Option<Instant>,
}

impl Run<'_> {
    fn case(&self, program: &std::path::Path) -> Result<UpgradeCase, UpgradeError> {
        let Self { options, target, .. } = self;
        let tongues: Vec<Tongue> = options
            .protocols
            .iter()
            .copied()
            .filter(|one| subject::speaks(*target, *one))
            .collect();
        if tongues.is_empty() {
            return Err(UpgradeError::Speechless(*target));
        }
        let origin = Origin::start(&tongues).map_err(io_error("starting the origin"))?;
        let setup = Setup::new(options, program, &tongues, &origin)?;
        let targets = setup.listeners();
        let mut subject = subject::start(*target, setup)?;
        let plan = Plan {
            targets,
            connections: options.connections,
            rate: options.rate,
            slow: options.slow,
            large_bytes: options.large_bytes,
        };
        let load = Running::start(plan).map_err(io_error("starting the load"))?;
        self.rest(options.calm)?;
        if load.answered() == 0 {
            return Err(UpgradeError::Silent(*target));
        }
        let one_pss_bytes = pss(&subject.pids());
        let files_first = files(&subject.pids());
        let mut watched = Watched::default();
        let mut upgrades = Vec::new();
        for number in 1..=options.upgrades {
            upgrades.push(self.upgrade(number, subject.as_mut(), &load, &mut watched)?);
            self.rest(options.pause)?;
        }
        self.rest(options.calm)?;
        let processes_left = subject.left() as u64;
        let files_last = files(&subject.pids());
        let tallies = load.finish().map_err(io_error("the load"))?;
        drop(subject);
        let seen = origin.finish().map_err(io_error("the origin"))?;
        let protocols = tallies
            .iter()
            .map(|(tongue, tally)| {
                let seen = seen.get(tongue).copied().unwrap_or_default();
                ProtocolCase::new(*tongue, tally, seen.doubled, seen.damaged)
            })
            .collect();
        Ok(UpgradeCase {
            target: target.name().to_owned(),
            protocols,
            upgrades,
            drain_s: options.drain.as_secs(),
            one_pss_bytes,
            both_pss_bytes: watched.both_pss_bytes,
            files_first,
            files_last,
            processes_left,
        })
    }

    /// One upgrade, until the old process is gone, unless they are to overlap.
    fn upgrade(
        &self,
        number: u32,
        subject: &mut dyn Subject,
        load: &Running,
        watched: &mut Watched,
    ) -> Result<UpgradeTimes, UpgradeError> {
        let Self { options, target, .. } = self;
        load.handing_over(true);
        let begun = Instant::now();
        subject.begin()?;
        while !subject.serves()? {
            if begun.elapsed() > SERVE_TIME {
                let words = subject.words();
                let target = *target;
                return Err(UpgradeError::Hangs { target, number, waited: SERVE_TIME, words });
            }
            watched.look(subject);
            self.pause(GLANCE)?;
        }
        let serves = begun.elapsed();
        let patience = serves + subject.longest_drain(options.drain) + GONE_SPARE;
        let mut gone = None;
        while gone.is_none() {
            let now = begun.elapsed();
            if subject.left() == 0 {
                gone = Some(now);
            }
            if gone.is_some() || now > serves + AFTERMATH {
                load.handing_over(false);
                if options.overlap {
                    break;
                }
            }
            if now > patience {
                break;
            }
            watched.look(subject);
            self.pause(GLANCE)?;
        }
        load.handing_over(false);
        let times = UpgradeTimes {
            serves_s: serves.as_secs_f64(),
            gone_s: gone.map(|at| at.as_secs_f64()),
        };
        let gone = times.gone_s.map_or("stays".to_owned(), |at| format!("gone after {at:.2} s"));
        eprintln!("{target}, upgrade {number}: serves after {:.2} s, old {gone}", times.serves_s);
        Ok(times)
    }

    fn rest(&self, time: Duration) -> Result<(), UpgradeError> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.pause(GLANCE.min(time))?;
        }
        Ok(())
    }

    fn pause(&self, time: Duration) -> Result<(), UpgradeError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(CompareError::Interrupted.into());
        }
        thread::sleep(time);
        Ok(())
    }
}

impl Watched {
    fn look(&mut self, subject: &dyn Subject) {
        if self.looked.is_some_and(|at| at.elapsed() < MEMORY_GLANCE) {
            return;
        }
        self.looked = Some(Instant::now());
        self.both_pss_bytes = self.both_pss_bytes.max(pss(&subject.pids()));
    }
}

/// Memory of those that are still there.
fn pss(pids: &[u32]) -> u64 {
    let each = pids.iter().filter_map(|pid| Memory::of(&[*pid]).ok());
    each.map(|memory| memory.pss_bytes).sum()
}

fn files(pids: &[u32]) -> u64 {
    let each = pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok());
    each.map(|listing| listing.count() as u64).sum()
}
