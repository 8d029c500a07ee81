//! What idle connections cost: memory of the proxy for each, and CPU while nothing happens.
//!
//! Kinds of idle connection: one that has been served a request and was kept alive; one that was only
//! opened (TLS handshake done, HTTP/2 settings exchanged); and where there is nothing to open, a
//! silent one that never sent a byte. Each kind meets a fresh process. Memory per connection is the growth
//! of the proportional set size between "started, one request served" and "all connections open",
//! over their number; the kernel's own socket memory is in no process and not counted.

use std::{
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    client::Client,
    compare::{CompareError, ensure_files, free_address, io_error, progress_bar, start_origin},
    load::LoadError,
    report::Machine,
    sys::{self, CpuClock, Memory},
    target::{
        self, Locations, Profile, Target,
        config::{Setup, launch},
        server::{Scratch, Server},
    },
    tls::Identity,
    variant::{Negotiated, ProtocolName, Request, Traffic},
};

/// What to measure.
#[derive(Debug, Clone)]
pub struct IdleOptions {
    /// Targets; direct has nothing to measure.
    pub targets: Vec<Target>,
    /// Protocols; those with a connection for each request have no idle ones.
    pub protocols: Vec<ProtocolName>,
    /// Idle connections.
    pub connections: usize,
    /// Shards of Outrigger; the others have one worker.
    pub shards: usize,
    /// How long CPU use is watched, with and without connections.
    pub watch: Duration,
    /// Where programs are.
    pub locations: Locations,
    /// The command line, for the record.
    pub command: String,
}

/// What `idle` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdleReport {
    /// One entry per target and variant.
    pub cases: Vec<IdleCase>,
    /// Where and with what it was measured.
    pub machine: Machine,
}

/// What the idle connections did before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// One request each.
    Served,
    /// All that comes before a request.
    Opened,
    /// Nothing.
    Silent,
}

/// One target with one kind of idle connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdleCase {
    /// Which.
    pub target: String,
    /// Name of the protocol variant.
    #[serde(default = "http1")]
    pub protocol: String,
    /// What a first request came by; `null` in results from before it was written down.
    #[serde(default)]
    pub negotiated: Option<Negotiated>,
    /// Kind of connection.
    pub variant: Variant,
    /// Their number.
    pub connections: usize,
    /// Shards or workers.
    pub shards: usize,
    /// Resident memory without connections.
    pub empty_rss_bytes: u64,
    /// Proportional memory without connections.
    pub empty_pss_bytes: u64,
    /// Resident memory with all connections.
    pub full_rss_bytes: u64,
    /// Proportional memory with all connections.
    pub full_pss_bytes: u64,
    /// Growth of proportional memory over connections.
    pub bytes_per_connection: f64,
    /// CPU use without connections, percent of a core.
    pub empty_cpu_percent: f64,
    /// CPU use with all connections idle, percent of a core.
    pub full_cpu_percent: f64,
    /// Connections that the proxy had closed at the end.
    pub lost: usize,
}

fn http1() -> String {
    ProtocolName::Http1.name().to_owned()
}

/// Connections from one source address: fewer than the kernel has ports for.
const PER_SOURCE: usize = 20_000;
/// Response body of the connections that are served.
const BODY_BYTES: usize = 128;
/// Connections that are opened and served at a time: few, so that few upstream connections are made
/// and the growth is of idle ones.
const BATCH: usize = 32;
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Memory counts as settled when it did not grow for so long.
const SETTLED: Duration = Duration::from_millis(500);
/// Longest wait for that.
const SETTLE_MAX: Duration = Duration::from_secs(10);
const FILES_SPARE: u64 = 4096;
const LIFETIME: Duration = Duration::from_secs(1800);

impl Variant {
    /// Those that a protocol has.
    #[must_use]
    pub fn of(protocol: ProtocolName) -> [Self; 2] {
        match protocol {
            ProtocolName::Http1 | ProtocolName::Bolt | ProtocolName::Dubbo => {
                [Self::Served, Self::Silent]
            }
            _ => [Self::Served, Self::Opened],
        }
    }

    /// Name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Opened => "opened",
            Self::Silent => "silent",
        }
    }
}

/// Measures all targets with all kinds of connection that each protocol has.
///
/// # Errors
///
/// [`CompareError`], also when a proxy does not take the connections.
pub fn idle(options: &IdleOptions, stop: &AtomicBool) -> Result<IdleReport, CompareError> {
    if let Some(protocol) = options.protocols.iter().find(|protocol| protocol.sides().fresh) {
        return Err(CompareError::NeverIdle(protocol.name()));
    }
    let cpus = sys::allowed_cpus().map_err(io_error("reading the allowed CPUs"))?;
    ensure_files(options.connections as u64 + FILES_SPARE)?;
    let scratch = Scratch::new().map_err(io_error("making a temporary directory"))?;
    let identity = Identity::create(scratch.path()).map_err(io_error("making a certificate"))?;
    let (_server, origin) = start_origin(cpus[0], LIFETIME, &identity)?;
    let mut cases = Vec::new();
    for &protocol in &options.protocols {
        for &target in &options.targets {
            if target != Target::Direct && target.speaks(protocol) {
                cases.extend(Variant::of(protocol).map(|variant| (protocol, target, variant)));
            }
        }
    }
    let progress = progress_bar(cases.len() as u64);
    let mut report = IdleReport {
        cases: Vec::new(),
        machine: Machine::here(
            cpus.len(),
            std::collections::BTreeMap::new(),
            options.command.clone(),
            0.0,
            options.watch.as_secs_f64(),
        ),
    };
    for (protocol, target, variant) in cases {
        progress.set_message(format!("{target}, {}, {}", protocol.name(), variant.name()));
        let program = target::program(target, &options.locations)?;
        let version = target::version(target, &program);
        report.machine.versions.insert(target.name().to_owned(), version);
        let shards =
            if target == Target::Outrigger { options.shards.clamp(1, cpus.len()) } else { 1 };
        let directory = Scratch::new().map_err(io_error("making a temporary directory"))?;
        let listen = free_address()?;
        let sides = protocol.sides();
        let setup = Setup {
            listen,
            origin,
            directory: directory.path(),
            sides,
            identity: &identity,
            profile: Profile::Plain,
            cpus: &cpus[cpus.len() - shards..],
            connections: options.connections,
            streams: 1,
            lifetime_s: LIFETIME.as_secs(),
        };
        let Some(launch) = launch(target, &setup) else { continue };
        let name = target.name();
        let server = Server::start(name, &program, &launch, directory, None, listen, sides)?;
        let watched = Watched { server: &server, listen, options, stop };
        report.cases.push(watched.measure(target, protocol, variant, shards)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(report)
}

struct Watched<'a> {
    server: &'a Server,
    listen: SocketAddr,
    options: &'a IdleOptions,
    stop: &'a AtomicBool,
}

impl Watched<'_> {
    fn measure(
        &self,
        target: Target,
        protocol: ProtocolName,
        variant: Variant,
        shards: usize,
    ) -> Result<IdleCase, CompareError> {
        let connections = self.options.connections;
        let empty = settled_memory(self.server, self.stop)?;
        let empty_cpu_percent = self.cpu_percent()?;
        let name = target.name();
        let request = Request { body_bytes: BODY_BYTES, post_bytes: None, streams: 1 };
        let traffic = protocol.sides().traffic(&self.listen.to_string(), request)?;
        let open = self.open(&traffic, variant).map_err(|source| CompareError::Load {
            target: name,
            connections,
            source,
        })?;
        let full = settled_memory(self.server, self.stop)?;
        let full_cpu_percent = self.cpu_percent()?;
        let lost = open.iter().filter(|socket| closed_by_peer(socket)).count();
        let growth = full.pss_bytes as f64 - empty.pss_bytes as f64;
        Ok(IdleCase {
            target: name.to_owned(),
            protocol: protocol.name().to_owned(),
            negotiated: self.server.negotiated().cloned(),
            variant,
            connections,
            shards,
            empty_rss_bytes: empty.rss_bytes,
            empty_pss_bytes: empty.pss_bytes,
            full_rss_bytes: full.rss_bytes,
            full_pss_bytes: full.pss_bytes,
            bytes_per_connection: growth / connections.max(1) as f64,
            empty_cpu_percent,
            full_cpu_percent,
            lost,
        })
    }

    fn cpu_percent(&self) -> Result<f64, CompareError> {
        let read = || -> io::Result<Duration> {
            self.server.pids()?.into_iter().map(|pid| CpuClock::of(pid)?.now()).sum()
        };
        let failed = || io_error("reading the server's CPU time");
        let start = Instant::now();
        let before = read().map_err(failed())?;
        pause(self.options.watch, self.stop)?;
        let used = read().map_err(failed())?.saturating_sub(before);
        Ok(used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0)
    }

    fn open(&self, traffic: &Traffic, variant: Variant) -> Result<Vec<TcpStream>, LoadError> {
        let total = self.options.connections;
        let mut open: Vec<TcpStream> = Vec::with_capacity(total);
        while open.len() < total {
            if self.stop.load(Ordering::Relaxed) {
                return Err(LoadError::Interrupted);
            }
            let mut batch = (open.len()..total.min(open.len() + BATCH))
                .map(|index| Client::connect(self.listen, Some(source(index)), traffic, PATIENCE))
                .collect::<io::Result<Vec<_>>>()?;
            if variant != Variant::Silent {
                batch.iter_mut().try_for_each(Client::open)?;
            }
            if variant == Variant::Served {
                batch.iter_mut().try_for_each(Client::send)?;
                batch.iter_mut().try_for_each(Client::finish)?;
            }
            open.extend(batch.into_iter().map(Client::into_socket));
        }
        Ok(open)
    }
}

/// A server's memory once it has stopped growing.
///
/// # Errors
///
/// [`CompareError`]: an interrupt, or that the server is gone.
pub(crate) fn settled_memory(server: &Server, stop: &AtomicBool) -> Result<Memory, CompareError> {
    let read = || -> io::Result<Memory> { Memory::of(&server.pids()?) };
    let failed = || io_error("reading the server's memory");
    let start = Instant::now();
    let mut memory = read().map_err(failed())?;
    while start.elapsed() < SETTLE_MAX {
        pause(SETTLED, stop)?;
        let next = read().map_err(failed())?;
        let grown = next.pss_bytes > memory.pss_bytes;
        memory = next;
        if !grown {
            break;
        }
    }
    Ok(memory)
}

/// Waits, but not on after an interrupt.
///
/// # Errors
///
/// [`CompareError::Interrupted`].
pub(crate) fn pause(time: Duration, stop: &AtomicBool) -> Result<(), CompareError> {
    const STEP: Duration = Duration::from_millis(50);
    let start = Instant::now();
    while let Some(left) = time.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        if stop.load(Ordering::Relaxed) {
            return Err(CompareError::Interrupted);
        }
        thread::sleep(left.min(STEP));
    }
    Ok(())
}

/// Loopback address of a connection; the next one after every [`PER_SOURCE`].
fn source(index: usize) -> IpAddr {
    let last = u8::try_from(index / PER_SOURCE % 250).unwrap_or(0) + 1;
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// Whether the end of the stream is there, perhaps behind what the protocol says of itself (session
/// tickets, an update of a window).
fn closed_by_peer(mut socket: &TcpStream) -> bool {
    if socket.set_nonblocking(true).is_err() {
        return true;
    }
    loop {
        match socket.read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// The report as a table.
#[must_use]
pub fn render(report: &IdleReport) -> String {
    use std::fmt::Write;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut text = format!(
        "{:<10} {:<8} {:<8} {:>7} {:>6} {:>10} {:>10} {:>11} {:>10} {:>10} {:>5}\n",
        "target",
        "protocol",
        "variant",
        "conns",
        "shards",
        "empty MiB",
        "full MiB",
        "bytes/conn",
        "empty cpu%",
        "full cpu%",
        "lost"
    );
    for case in &report.cases {
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "{:<10} {:<8} {:<8} {:>7} {:>6} {:>10.1} {:>10.1} {:>11.0} {:>10.3} {:>10.3} {:>5}",
            case.target,
            case.protocol,
            case.variant.name(),
            case.connections,
            case.shards,
            mib(case.empty_rss_bytes),
            mib(case.full_rss_bytes),
            case.bytes_per_connection,
            case.empty_cpu_percent,
            case.full_cpu_percent,
            case.lost,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_change_before_ports_run_out() {
        assert_eq!(source(0), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(source(PER_SOURCE - 1), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(source(PER_SOURCE), IpAddr::from([127, 0, 0, 2]));
    }
}
