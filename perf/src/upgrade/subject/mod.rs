//! What is upgraded, and how each program does that.
//!
//! | | How an upgrade begins | When the new one serves | When the old one ends |
//! |---|---|---|---|
//! | Outrigger | a new process with the same `engine.upgrade.socket` | it says so | by itself, after `--drain-time-s` at the latest |
//! | Envoy | a new process with the next `--restart-epoch` and the same `--base-id` | its admin interface says that epoch is live | after `--parent-shutdown-time-s`, always |
//! | HAProxy | SIGUSR2 to the master | the master has another worker | when it is idle, or after `hard-stop-after` |
//! | nginx | SIGUSR2 to the master | another master has workers; the old one gets SIGWINCH and SIGQUIT then | when it is idle, or after `worker_shutdown_timeout` |
//! | MOSN | a new process with the same configuration directory | it has the listening sockets | a fixed time after that |

mod envoy;
mod generations;
mod haproxy;
mod mosn;
mod nginx;
mod outrigger;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{GLANCE, Options, SERVE_TIME, UpgradeError, io_error, origin::Origin, report::Tongue};
use crate::{
    sys,
    target::{Target, server::Scratch},
};

/// A running proxy that can be upgraded. Dropping it ends all its processes.
pub(super) trait Subject {
    /// Begins an upgrade. There is none under way.
    fn begin(&mut self) -> Result<(), UpgradeError>;

    /// Whether the new process serves.
    fn serves(&mut self) -> Result<bool, UpgradeError>;

    /// Old processes that are still there.
    fn left(&mut self) -> usize;

    /// All processes.
    fn pids(&self) -> Vec<u32>;

    /// What the newest one said, as far as it may explain a failure.
    fn words(&self) -> String;

    /// How long an old process may take if it is told so.
    fn longest_drain(&self, told: Duration) -> Duration {
        told
    }
}

/// Whether a target can be loaded in a protocol.
#[must_use]
pub fn speaks(target: Target, tongue: Tongue) -> bool {
    match target {
        Target::Direct | Target::Floor => false,
        Target::Outrigger | Target::Mosn => true,
        Target::Nginx | Target::Haproxy | Target::Envoy => {
            matches!(tongue, Tongue::Http1 | Tongue::Http2 | Tongue::Tcp)
        }
    }
}

/// How a subject is to run.
pub(super) struct Setup {
    pub(super) program: PathBuf,
    /// A second one, for every other process.
    pub(super) next: Option<PathBuf>,
    pub(super) sides: BTreeMap<Tongue, Side>,
    pub(super) drain: Duration,
    pub(super) shards: u32,
    pub(super) connections: usize,
    pub(super) scratch: Scratch,
}

/// Both ends of a protocol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    pub(super) listen: SocketAddr,
    pub(super) origin: SocketAddr,
}

impl Setup {
    pub(super) fn new(
        options: &Options,
        program: &Path,
        tongues: &[Tongue],
        origin: &Origin,
    ) -> Result<Self, UpgradeError> {
        let mut sides = BTreeMap::new();
        for tongue in tongues {
            let Some(origin) = origin.address(*tongue) else { continue };
            sides.insert(*tongue, Side { listen: free_address()?, origin });
        }
        Ok(Self {
            program: program.to_owned(),
            next: options.next.clone(),
            sides,
            drain: options.drain,
            shards: options.shards,
            connections: options.connections * tongues.len(),
            scratch: Scratch::new().map_err(io_error("making a temporary directory"))?,
        })
    }

    /// Where each protocol is spoken.
    pub(super) fn listeners(&self) -> Vec<(Tongue, SocketAddr)> {
        self.sides.iter().map(|(tongue, side)| (*tongue, side.listen)).collect()
    }
}

/// Starts a target, which serves then.
pub(super) fn start(target: Target, setup: Setup) -> Result<Box<dyn Subject>, UpgradeError> {
    Ok(match target {
        Target::Direct | Target::Floor => return Err(UpgradeError::Never(target)),
        Target::Outrigger => Box::new(outrigger::Outrigger::start(setup)?),
        Target::Envoy => Box::new(envoy::Envoy::start(setup)?),
        Target::Haproxy => Box::new(haproxy::Haproxy::start(setup)?),
        Target::Nginx => Box::new(nginx::Nginx::start(setup)?),
        Target::Mosn => Box::new(mosn::Mosn::start(setup)?),
    })
}

/// The first process has none to wait for it.
fn wait_until_serving(target: Target, subject: &mut dyn Subject) -> Result<(), UpgradeError> {
    let begun = Instant::now();
    while !subject.serves()? {
        if begun.elapsed() > SERVE_TIME {
            let (waited, words) = (SERVE_TIME, subject.words());
            return Err(UpgradeError::Hangs { target, number: 0, waited, words });
        }
        thread::sleep(GLANCE);
    }
    Ok(())
}

/// Whether a process has listening sockets on all these ports.
fn listens(pid: u32, ports: &BTreeSet<u16>) -> bool {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let own: BTreeSet<String> = links.map(|link| link.display().to_string()).collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let listening = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = u16::from_str_radix(words.get(1)?.rsplit(':').next()?, 16).ok()?;
        let is_own = own.contains(&format!("socket:[{}]", words.get(9)?));
        (*words.get(3)? == "0A" && is_own).then_some(port)
    });
    listening.collect::<BTreeSet<u16>>().is_superset(ports)
}

fn free_address() -> Result<SocketAddr, UpgradeError> {
    let port = sys::free_port().map_err(io_error("looking for a free port"))?;
    Ok((Ipv4Addr::LOCALHOST, port).into())
}

/// Whether a process is there, and has not ended.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let state = stat.ok().and_then(|stat| stat.rsplit_once(')')?.1.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Sends a signal to a process that was started here or by what was.
fn signal(pid: u32, signal: i32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: takes two integers.
        unsafe { libc::kill(pid, signal) };
    }
}
