//! The process from start to end: what is started in which order, and how it is taken down.
//!
//! Start: configuration, kernel probe, logs, shards, control thread, warm clusters, listeners.
//! Nothing is accepted before all of it worked. End: listeners close after their backlogs are
//! taken, connections end as HTTP allows, then shards, logs and control thread stop.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use outrigger_xds::bootstrap::{AddressError, LoadError, LoadOptions, Loaded, Source, load};
use outrigger_xds::snapshot::{Address, Cluster, Endpoint, Listener, Service, Snapshot};
use tokio::sync::oneshot;

use crate::access_log::logger::batches_in;
use crate::access_log::writer::StartError;
use crate::access_log::{AccessLogs, LogWriter, OpenError, Queue};
use crate::cli::{Process, UnknownFields};
use crate::cluster::Breakers;
use crate::control::{
    BoundListener, Command, Control, ControlError, ControlOptions, ControlState, Lifecycle,
    Publish, PublishServices, ServicesOptions, signals,
};
use crate::listen::{self, BoundSockets, ListenError};
use crate::logging::{InitError, Logging};
use crate::memory;
use crate::ring::{self, Unsupported};
use crate::shard::{self, Common, Message, ShardError, ShardHandle, Watchdog};
use crate::stats::Registry;
use crate::tls::{TlsConfigError, TlsContexts};

/// Why the process ends with a failure.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address on the command line.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A log file or its writer.
    #[error("access log: {0}")]
    AccessLog(#[from] OpenError),
    /// Threads.
    #[error(transparent)]
    AccessLogWriter(#[from] StartError),
    /// The configuration.
    #[error("{0}")]
    Config(#[from] LoadError),
    /// The control thread.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The application log.
    #[error(transparent)]
    Logging(#[from] InitError),
    /// A shard.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// Keys and certificates.
    #[error("TLS: {0}")]
    Tls(#[from] TlsConfigError),
    /// A system call that should always work.
    #[error("{0}")]
    System(#[from] io::Error),
    /// The kernel.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

/// What is served besides the configuration.
#[derive(Default)]
pub struct Extras {
    /// The demonstration's origin.
    pub demo_origin: Option<std::net::TcpListener>,
    /// Printed once everything is served.
    pub banner: Option<String>,
}

/// Loads a configuration as the command line asks.
///
/// # Errors
/// When it can't be read or is refused; the message holds every path.
pub fn load_config(source: &Source, process: &Process) -> Result<Loaded, LoadError> {
    let options = LoadOptions {
        allow_unknown_static_fields: process.unknown_fields.in_static == UnknownFields::Warn,
        concurrency: process.concurrency,
        service_cluster: process.node.cluster.clone(),
        service_node: process.node.id.clone(),
    };
    load(source, &options)
}

/// Serves `source` until told to end.
///
/// # Errors
/// When something can't be started. Once everything is served, only an end is left.
pub fn serve(source: &Source, process: &Process, extras: Extras) -> Result<(), ServerError> {
    let started = Instant::now();
    signals::block()?;
    let logging = Logging::start(process.logging.clone())?;
    let outcome = run(source, process, extras, &logging.queue(), started);
    if let Err(error) = &outcome {
        log::error!(target: "main", "{error}");
    }
    logging.shutdown(FLUSH_PATIENCE);
    outcome
}

fn run(
    source: &Source,
    process: &Process,
    extras: Extras,
    app_log: &Queue,
    started: Instant,
) -> Result<(), ServerError> {
    let loaded = load_config(source, process)?;
    for warning in &loaded.warnings {
        log::warn!(target: "config", "{warning}");
    }
    raise_open_files();
    let features = ring::probe()?;
    log::info!(target: "main", "kernel features: {features:?}");
    let cpus = shard::place(loaded.engine.shards, &loaded.engine.cores)?;
    let registry = Arc::new(Registry::new(cpus.len()));
    let slot = registry.control();
    let log_writer = LogWriter::start(
        "access-log",
        batches_in(loaded.engine.access_log_queue_bytes as usize),
        registry.access_log(slot),
        registry.filesystem(slot),
    )?;
    let snapshot = Arc::new(loaded.snapshot);
    let tls = Arc::new(TlsContexts::build(&snapshot)?);
    let served = prepare_listeners(&snapshot, &log_writer.queue(), cpus.len())?;
    let common = Common {
        config: Arc::new(loaded.engine),
        features,
        epoch: started,
        registry: Arc::clone(&registry),
        log_queue: log_writer.queue(),
        log_flush_interval_ns: process.file_flush_interval.as_nanos() as u64,
        breakers: Arc::new(Breakers::new(cpus.len())),
        tls: Arc::clone(&tls),
        pulses: shard::pulses(cpus.len()),
    };
    let shards = shard::start(&cpus, &common, &snapshot)?;
    log::info!(target: "main", "{} shards on CPUs {cpus:?}", shards.len());
    let watchdog = Watchdog::start(
        shards.iter().map(ShardHandle::watched).collect(),
        Arc::clone(&common.pulses),
        started,
        Duration::from_millis(common.config.stall_ms.into()),
    )?;
    let (state, commands) =
        ControlState::new(registry, process.clone(), vec![log_writer.queue(), app_log.clone()]);
    state.set_bootstrap(&loaded.config_dump);
    state.set_node(loaded.node);
    state.set_snapshot(Arc::clone(&snapshot));
    drop(loaded.config_dump);
    drop(loaded.warnings);
    memory::give_back();
    let (updates, publish, publish_services) = Updates::new();
    let control = Control::start(
        Arc::clone(&state),
        ControlOptions {
            admin: loaded.admin,
            signals: true,
            publish,
            services: Some(ServicesOptions {
                config: common.config.services.clone(),
                publish: publish_services,
            }),
            tls,
            demo_origin: extras.demo_origin,
        },
    )?;
    let service_template = loaded.service_template;
    let mut server =
        Server { state, shards, common, snapshot, service_template, updates, commands };
    control.resolve(Arc::clone(&server.snapshot));
    // Services of an earlier run are there before the first connection.
    server.apply_updates();
    let ended_early = server.warm_up();
    if !ended_early {
        server.listen(served);
        if let Some(banner) = extras.banner {
            println!("{banner}");
        }
        server.serve(process.drain.time);
    }
    shard::stop(server.shards);
    // Watches to the end: a shard must also be awake to hear that it is to stop.
    drop(watchdog);
    log_writer.shutdown(FLUSH_PATIENCE);
    if !control.stop(FLUSH_PATIENCE) {
        log::warn!(target: "main", "the control thread did not end in time");
    }
    log::info!(target: "main", "exiting");
    Ok(())
}

/// A listener with everything that can fail done.
struct PreparedListener {
    config: Arc<Listener>,
    /// Those of its filters that own connections, in their order.
    logs: Arc<[Arc<AccessLogs>]>,
    bound: BoundSockets,
}

fn prepare_listeners(
    snapshot: &Snapshot,
    log_queue: &Queue,
    shards: usize,
) -> Result<Vec<PreparedListener>, ServerError> {
    let mut prepared = Vec::new();
    for config in snapshot.listeners.iter() {
        let mut logs = Vec::new();
        for chain in config.filter_chains.iter() {
            chain.terminal.visit_owners(&mut |owner| {
                logs.push(AccessLogs::open(log_queue, owner.access_log()).map(Arc::new));
            });
        }
        let logs = logs.into_iter().collect::<Result<_, _>>()?;
        let bound = listen::bind(config, shards)?;
        prepared.push(PreparedListener { config: Arc::clone(config), logs, bound });
    }
    Ok(prepared)
}

/// The loop that owns the shards.
struct Server {
    state: Arc<ControlState>,
    shards: Vec<ShardHandle>,
    common: Common,
    snapshot: Arc<Snapshot>,
    /// The settings of service clusters.
    service_template: Arc<Cluster>,
    updates: Updates,
    commands: Receiver<Command>,
}

impl Server {
    /// Waits until every cluster that wants it has its first endpoints. True when the process was
    /// told to end meanwhile.
    fn warm_up(&mut self) -> bool {
        let mut cold: Vec<Box<str>> = self
            .snapshot
            .clusters
            .iter()
            .map(|member| &member.cluster)
            .filter(|cluster| cluster.wait_for_warm_on_init && cluster.discovery.is_dns())
            .map(|cluster| cluster.name.clone())
            .collect();
        while !cold.is_empty() {
            select! {
                recv(self.updates.bell) -> _ => {
                    let named = self.apply_updates();
                    cold.retain(|name| !named.contains(name));
                }
                recv(self.commands) -> command => {
                    if let Ok(Command::Quit | Command::Terminate { .. }) | Err(_) = command {
                        return true;
                    }
                }
            }
        }
        false
    }

    fn listen(&mut self, prepared: Vec<PreparedListener>) {
        let mut bound_listeners = Vec::new();
        for PreparedListener { config, logs, bound } in prepared {
            log::info!(
                target: "listener",
                "{}: listening on {}",
                config.name,
                bound.addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(", ")
            );
            bound_listeners
                .push(BoundListener { name: config.name.to_string(), addresses: bound.addresses });
            let message = |socket| Message::Listen {
                config: Arc::clone(&config),
                logs: Arc::clone(&logs),
                socket,
            };
            // All shards know the listener before any connection can be handed to them.
            self.shards.iter().for_each(|shard| send(shard, message(None)));
            for sockets in bound.sockets {
                for (shard, socket) in self.shards.iter().zip(sockets) {
                    send(shard, message(Some(socket)));
                }
            }
        }
        self.state.set_listeners(bound_listeners);
        self.state.set_lifecycle(Lifecycle::Live);
        log::info!(target: "main", "serving");
    }

    /// Does what commands and updates ask until the process is to end.
    fn serve(&mut self, drain_time: Duration) {
        loop {
            select! {
                recv(self.updates.bell) -> _ => {
                    self.apply_updates();
                }
                recv(self.commands) -> command => match command {
                    Ok(Command::DrainListeners { inbound_only, skip_exit, .. }) => {
                        self.state.set_lifecycle(Lifecycle::Draining);
                        self.drain(skip_exit, inbound_only);
                    }
                    Ok(Command::HealthCheck { failing: true }) => self.drain(true, false),
                    Ok(Command::HealthCheck { failing: false }) => {
                        self.shards.iter().for_each(|shard| send(shard, Message::Undrain));
                    }
                    Ok(Command::Terminate { at_once: false }) => {
                        return self.drain_to_the_end(drain_time);
                    }
                    Ok(Command::Quit | Command::Terminate { at_once: true }) | Err(_) => return,
                },
            }
        }
    }

    fn drain(&self, keep_accepting: bool, inbound_only: bool) {
        for shard in &self.shards {
            send(shard, Message::Drain { keep_accepting, inbound_only });
        }
    }

    /// Drains until no connection is left, the time is over, or a second signal comes.
    fn drain_to_the_end(&mut self, limit: Duration) {
        self.state.set_lifecycle(Lifecycle::Draining);
        self.drain(false, false);
        let deadline = Instant::now() + limit;
        loop {
            if shard::all_quiet(&self.common.pulses) {
                log::info!(target: "main", "drained");
                return;
            }
            let left = self.connections();
            if Instant::now() >= deadline {
                log::warn!(target: "main", "closing {left} connections at the end of the drain time");
                return;
            }
            // What is under way may still need endpoints, and someone may wait for an answer.
            if self.updates.bell.try_recv().is_ok() {
                self.apply_updates();
            }
            if let Ok(Command::Quit | Command::Terminate { at_once: true }) =
                self.commands.recv_timeout(DRAIN_POLL)
            {
                log::warn!(target: "main", "closing {left} connections: told to exit at once");
                return;
            }
        }
    }

    fn connections(&self) -> u32 {
        self.common.pulses.iter().map(shard::Pulse::connections).sum()
    }

    /// Serves new endpoints and services. Returns the clusters whose endpoints are new.
    fn apply_updates(&mut self) -> Vec<Box<str>> {
        let Waiting { endpoints, services, told } = self.updates.take();
        if endpoints.is_empty() && services.is_none() {
            return Vec::new();
        }
        let mut snapshot = Snapshot::clone(&self.snapshot);
        let mut names = Vec::with_capacity(endpoints.len());
        for (name, endpoints) in endpoints {
            if let Some(id) = snapshot.clusters.id(&name) {
                snapshot = snapshot.with_endpoints(id, endpoints);
            }
            names.push(name);
        }
        let is_services = services.is_some();
        if let Some(services) = services {
            snapshot = snapshot.with_services(&self.service_template, services);
        }
        self.snapshot = Arc::new(snapshot);
        self.state.set_snapshot(Arc::clone(&self.snapshot));
        for shard in &self.shards {
            send(shard, Message::Snapshot(Arc::clone(&self.snapshot)));
        }
        if is_services {
            self.forget_gone_clusters();
        }
        // A shard reads its messages before it runs what came over the network after them, so that
        // whoever is told now finds the change in effect. Some no longer wait to be told.
        for tell in told {
            let _ = tell.send(());
        }
        names
    }

    /// What counts for clusters that are gone would add up for ever. A shard that is behind may bring
    /// one back, until the next time.
    fn forget_gone_clusters(&self) {
        let clusters = &self.snapshot.clusters;
        self.common.breakers.retain(|name| clusters.id(name).is_some());
        let known: HashSet<&str> =
            clusters.iter().map(|member| &*member.cluster.stat_name).collect();
        self.common.registry.retain_clusters(|name| known.contains(name));
    }
}

/// A shard empties its mailbox each time it is rung; a full one only means that it is behind.
fn send(shard: &ShardHandle, message: Message) {
    let mut message = message;
    while let Err(back) = shard.send(message) {
        message = back;
        std::thread::sleep(MAILBOX_RETRY);
    }
}

/// News on their way from the control thread. Later ones replace earlier ones of the same kind, so
/// they can't pile up.
struct Updates {
    waiting: Arc<Mutex<Waiting>>,
    bell: Receiver<()>,
}

#[derive(Default)]
struct Waiting {
    /// New endpoints, by cluster.
    endpoints: HashMap<Box<str>, Vec<Endpoint>>,
    /// All services there are.
    services: Option<Vec<Service>>,
    /// Those who wait until the services are in effect.
    told: Vec<oneshot::Sender<()>>,
}

impl Updates {
    fn new() -> (Self, Publish, PublishServices) {
        let waiting: Arc<Mutex<Waiting>> = Arc::default();
        let (ring, bell): (Sender<()>, _) = bounded(1);
        let publish: Publish = {
            let (waiting, ring) = (Arc::clone(&waiting), ring.clone());
            Arc::new(move |name: &str, endpoints: Vec<Endpoint>| {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.endpoints.insert(name.into(), endpoints);
                // A bell that is ringing already is as good.
                let _rung = ring.try_send(());
            })
        };
        let publish_services: PublishServices = {
            let waiting = Arc::clone(&waiting);
            Arc::new(move |services: Vec<Service>| {
                let (told, tell) = oneshot::channel();
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.services = Some(services);
                waiting.told.push(told);
                let _rung = ring.try_send(());
                tell
            })
        };
        (Self { waiting, bell }, publish, publish_services)
    }

    fn take(&self) -> Waiting {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A proxy needs two descriptors a connection; the soft limit is for programs that use select.
fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes, and setrlimit reads, the structure it is given.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// How long an end waits for log lines to be written.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// How often a drain looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// How often a full mailbox is tried again.
const MAILBOX_RETRY: Duration = Duration::from_millis(1);
