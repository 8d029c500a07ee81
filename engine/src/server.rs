//! The process from start to end: what is started in which order, and how it is taken down.
//!
//! Start: configuration, kernel probe, logs, shards, control thread, warm clusters, listeners.
//! Nothing is accepted before all of it worked. End: listeners close after their backlogs are
//! taken, connections end as HTTP allows, then shards, logs and control thread stop.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, at, never, select, unbounded};
use outrigger_xds::bootstrap::{AddressError, LoadError, LoadOptions, Loaded, Source, load};
use outrigger_xds::cache::CacheNode;
use outrigger_xds::snapshot::{Address, Listener, Snapshot};
use tokio::sync::{oneshot, watch};

use crate::access_log::logger::batches_in;
use crate::access_log::writer::StartError;
use crate::access_log::{LogWriter, Queue};
use crate::background::{self, Share};
use crate::cli::{ControlSocket, DrainStrategy, Process, Remark, UnknownFields};
use crate::cluster::Breakers;
use crate::connection::moving::LastCall;
use crate::connection::{DrainTimes, ListenerLogs};
use crate::control::configuration::{ListenerUpdate, PreparationError, Update};
use crate::control::hand_over::operator::{Operation, OperatorError, operate};
use crate::control::hand_over::{self, Begun, Heritage, Launch, Order, Ties};
use crate::control::{
    Beginning, BoundListener, Command, Configuration, Control, ControlError, ControlOptions,
    ControlState, Event, Events, HandOver, HandOverError, Lifecycle, Updates, signals,
};
use crate::listen::BoundSockets;
use crate::logging::{InitError, Logging, Pattern, PatternError};
use crate::memory;
use crate::ring::{self, Unsupported};
use crate::shard::{
    self, Common, DemandDesk, Listeners, Message, ShardError, ShardHandle, Watchdog,
};
use crate::stats::Registry;
use crate::tls::{TlsConfigError, TlsContexts};

/// Why the process ends with a failure.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address on the command line.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Threads.
    #[error(transparent)]
    AccessLogWriter(#[from] StartError),
    /// A process that was to be taken over from.
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    /// What an operator wanted of another process.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The configuration.
    #[error("{0}")]
    Config(#[from] LoadError),
    /// The control thread.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A listener.
    #[error("{0}")]
    Preparation(#[from] PreparationError),
    /// The application log.
    #[error(transparent)]
    Logging(#[from] InitError),
    /// The shape of its lines.
    #[error("application_log_config: {0}")]
    LogFormat(#[from] PatternError),
    /// The shape of its lines, twice.
    #[error("application_log_config.log_format and --log-format: there may be only one of them")]
    TwoLogFormats,
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
        service_zone: process.node.zone.clone(),
    };
    load(source, &options)
}

/// Has the running process do something, and says what there is to be shown.
///
/// # Errors
/// When there is none, or it does not do it; the message says why.
pub fn operate_on(
    operation: &Operation,
    socket: &ControlSocket,
    process: &Process,
) -> Result<String, ServerError> {
    let path = match socket {
        ControlSocket::At(path) => path.clone(),
        ControlSocket::In(config) => {
            let loaded = load_config(&config.read()?, process)?;
            loaded.engine.upgrade.ok_or(OperatorError::NotConfigured)?.socket
        }
    };
    Ok(operate(&path, operation)?)
}

/// The shape of log lines that the configuration asks for.
///
/// # Errors
/// When it has a flag that is not supported, or the command line asks for one too.
pub fn log_pattern(loaded: &Loaded, process: &Process) -> Result<Option<Pattern>, ServerError> {
    match &loaded.process.log_format {
        None => Ok(None),
        Some(_) if process.logging.pattern.is_some() => Err(ServerError::TwoLogFormats),
        Some(format) => Ok(Some(format.parse()?)),
    }
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
    if let Some(pattern) = log_pattern(&loaded, process)? {
        Logging::set_pattern(pattern);
    }
    for Remark { text, is_warning } in &process.remarks {
        let level = if *is_warning { log::Level::Warn } else { log::Level::Info };
        log::log!(target: "main", level, "{text}");
    }
    for warning in &loaded.warnings {
        log::warn!(target: "config", "{warning}");
    }
    if process.core_dump {
        allow_core_files();
    }
    raise_open_files();
    let features = ring::probe()?;
    log::info!(target: "main", "kernel features: {features:?}");
    let cpus = match shard::place(loaded.engine.shards, &loaded.engine.cores) {
        Err(ShardError::TooManyShards { shards, allowed }) if process.concurrency.is_some() => {
            log::warn!(
                target: "main",
                "--concurrency {shards}: there is one shard for each of the {} CPUs allowed",
                allowed.len()
            );
            allowed
        }
        placed => placed?,
    };
    let registry = Arc::new(Registry::showing(cpus.len(), loaded.process.stats));
    let slot = registry.control();
    let log_writer = LogWriter::start(
        "access-log",
        batches_in(loaded.engine.access_log_queue_bytes as usize),
        registry.access_log(slot),
        registry.filesystem(slot),
    )?;
    let snapshot = Arc::new(loaded.snapshot);
    let tls = Arc::new(TlsContexts::build(&snapshot)?);
    let (state, commands) = ControlState::new(
        Arc::clone(&registry),
        process.clone(),
        vec![log_writer.queue(), app_log.clone()],
    );
    state.set_bootstrap(&loaded.config_dump);
    let begun = loaded.engine.upgrade.as_ref().map(|upgrade| hand_over::begin(&upgrade.socket));
    let mut begun = begun.transpose()?;
    let heritage =
        Heritage { registry: Arc::clone(&registry), tickets: Arc::clone(tls.ticket_keyring()) };
    if let Some(Begun::Successor(take_over)) = &mut begun {
        take_over.state.drain(..).for_each(|part| heritage.take(&part));
    }
    let inherited = match &begun {
        Some(Begun::Successor(take_over)) => Arc::clone(&take_over.sockets),
        _ => Arc::default(),
    };
    // Listeners of a successor wait until its predecessor says so.
    let held = matches!(begun, Some(Begun::Successor(_))).then(Vec::new);
    let cache = loaded.engine.config_cache.clone().map(|config| {
        let (id, cluster) = (loaded.node.id.clone(), loaded.node.cluster.clone());
        (config, CacheNode { id, cluster })
    });
    state.set_node(loaded.node);
    state.set_tls(Arc::clone(&tls));
    state.set_runtime(loaded.ground.runtime_layers());
    let updates = Updates::default();
    let (demand_desk, demands) = DemandDesk::new();
    let beginning = Beginning {
        snapshot: Arc::clone(&snapshot),
        ground: loaded.ground,
        tls: Arc::clone(&tls),
        service_template: loaded.service_template,
        log_queue: log_writer.queue(),
        ignore_unknown_fields: process.unknown_fields.in_dynamic == UnknownFields::Warn,
        cache,
        inherited: Arc::clone(&inherited),
        demands,
    };
    let (configuration, events) = Configuration::new(&state, beginning, updates.clone())?;
    let common = Common {
        config: Arc::new(loaded.engine),
        node: Arc::new(state.node()),
        features,
        epoch: started,
        registry,
        log_queue: log_writer.queue(),
        log_flush_interval_ns: process.file_flush_interval.as_nanos() as u64,
        log_batch_bytes: process.file_flush_min_bytes,
        connections_max: loaded.process.connections_max.unwrap_or(u32::MAX),
        breakers: Arc::new(Breakers::new(cpus.len())),
        tls,
        drain_times: DrainTimes {
            limit: process.drain.time,
            gradual: process.drain.strategy == DrainStrategy::Gradual,
            closes: true,
        },
        pulses: shard::pulses(cpus.len()),
        demands: demand_desk,
    };
    let shards = shard::start(&cpus, &common, &snapshot)?;
    log::info!(target: "main", "{} shards on CPUs {cpus:?}", shards.len());
    let watchdog = Watchdog::start(
        shards.iter().map(ShardHandle::watched).collect(),
        Arc::clone(&common.pulses),
        started,
        Duration::from_millis(common.config.stall_ms.into()),
    )?;
    drop(loaded.config_dump);
    drop(loaded.warnings);
    drop(snapshot);
    memory::give_back();
    let (give_orders, orders) = unbounded();
    let (ready, is_ready) = watch::channel(false);
    let ties = Arc::<Ties>::default();
    let hand_over = match begun.zip(common.config.upgrade.as_ref()) {
        Some((begun, upgrade)) => Some(HandOver {
            path: upgrade.socket.clone(),
            begun,
            orders: give_orders,
            ready: is_ready,
            ties: Arc::clone(&ties),
            launch: Launch::of_process()?,
            processes_max: upgrade.max_processes,
            shards: shards.iter().map(ShardHandle::mail).cloned().collect(),
            heritage,
        }),
        None => None,
    };
    let control = Control::start(
        Arc::clone(&state),
        ControlOptions {
            admin: loaded.admin,
            signals: true,
            configuration,
            events: events.clone(),
            services: common.config.services.clone(),
            demo_origin: extras.demo_origin,
            hand_over,
            inherited,
        },
    )?;
    let mut server = Server {
        state,
        shards,
        common,
        snapshot: Arc::default(),
        listeners: Vec::new(),
        drain: None,
        banner: extras.banner,
        updates,
        events,
        commands,
        orders,
        ready,
        held,
        leaving: None,
        stopped: None,
        last_call: None,
        ties,
    };
    let outcome = server.serve(process.drain.time);
    shard::stop(server.shards);
    // Watches to the end: a shard must also be awake to hear that it is to stop.
    drop(watchdog);
    log_writer.shutdown(FLUSH_PATIENCE);
    if !control.stop(FLUSH_PATIENCE) {
        log::warn!(target: "main", "the control thread did not end in time");
    }
    log::info!(target: "main", "exiting");
    outcome
}

/// The loop that owns the shards.
struct Server {
    state: Arc<ControlState>,
    shards: Vec<ShardHandle>,
    common: Common,
    snapshot: Arc<Snapshot>,
    /// Those that accept, and where they really do.
    listeners: Vec<BoundListener>,
    /// What was asked for of connections, while the process goes on.
    drain: Option<GracefulDrain>,
    /// Printed once everything is served.
    banner: Option<String>,
    updates: Updates,
    events: Events,
    commands: Receiver<Command>,
    orders: Receiver<Order>,
    /// Told when everything could be served.
    ready: watch::Sender<bool>,
    /// Listeners that wait until another process lets this one accept; nothing when it accepts.
    held: Option<Vec<ListenerUpdate>>,
    /// Set once it accepts no more; what comes of listeners meanwhile waits.
    leaving: Option<Leaving>,
    /// Waits for the last shard to accept no more.
    stopped: Option<oneshot::Sender<()>>,
    /// Set when the last connection from a client has gone to a successor.
    last_call: Option<(LastCall, Instant)>,
    /// What keeps the process then, beside connections.
    ties: Arc<Ties>,
}

/// Connections go as they can, and the process with the last of them.
#[derive(Clone, Copy)]
struct Leaving {
    /// When what is left is closed.
    until: Instant,
    /// Somebody wants its end: nothing brings it back, and nothing but connections keeps it. Else a
    /// successor serves.
    is_final: bool,
}

/// Connections are asked to go, and come all the same.
#[derive(Clone, Copy)]
struct GracefulDrain {
    which: Listeners,
    /// When the listeners close; nothing if they are to stay.
    closes_at: Option<Instant>,
}

impl Server {
    /// Does what commands and updates ask until the process is to end.
    fn serve(&mut self, drain_time: Duration) -> Result<(), ServerError> {
        background::give_way(Share::Tenth);
        loop {
            let closes_at = self.drain.and_then(|drain| drain.closes_at);
            let over = closes_at.map_or_else(never, at);
            let look = self.leaving.map_or_else(never, |_| after(DRAIN_POLL));
            select! {
                recv(over) -> _ => self.close_drained(),
                recv(look) -> _ => {
                    self.tell_when_stopped();
                    if self.has_left() {
                        return Ok(());
                    }
                }
                recv(self.orders) -> order => match order {
                    Ok(Order::StandDown(reason)) if self.has_never_accepted() => {
                        return Err(HandOverError::Refused(reason).into());
                    }
                    Ok(order) => self.obey(order, drain_time),
                    // Without a control socket nobody gives any.
                    Err(_) => self.orders = never(),
                },
                recv(self.updates.bell) -> _ => self.apply_update(),
                recv(self.commands) -> command => match command {
                    Ok(Command::DrainListeners { graceful, inbound_only, skip_exit }) => {
                        let which = if inbound_only { Listeners::Inbound } else { Listeners::All };
                        let limit = graceful.then_some(drain_time);
                        self.drain_listeners(which, limit, skip_exit);
                    }
                    Ok(Command::HealthCheck { failing: true }) => self.tell(|| Message::Drain),
                    // Whoever leaves does so.
                    Ok(Command::HealthCheck { failing: false }) if self.leaving.is_some() => {}
                    Ok(Command::HealthCheck { failing: false }) => self.tell(|| Message::Undrain),
                    Ok(Command::Terminate { at_once: false }) => self.drain_to_the_end(drain_time),
                    Ok(Command::Quit | Command::Terminate { at_once: true }) | Err(_) => {
                        if self.leaving.is_some() {
                            let left = self.connections();
                            log::warn!(target: "main", "closing {left} connections: told to exit at once");
                        }
                        return Ok(());
                    }
                },
            }
        }
    }

    /// What a hand-over asks for.
    fn obey(&mut self, order: Order, drain_time: Duration) {
        match order {
            Order::Lend(sender) => self.tell(|| Message::Lend(sender.clone())),
            Order::StopAccepting { outbox, stopped } => {
                self.leave(drain_time);
                self.stopped = stopped;
                match outbox {
                    Some(outbox) => self.tell(|| Message::Depart(outbox.clone())),
                    None => self.tell(|| Message::Drain),
                }
                self.tell(|| Message::PauseAccepting);
            }
            Order::ResumeAccepting { .. } if self.is_ending() => self.drain_alone(),
            Order::ResumeAccepting { successor_lives } => {
                self.leaving = None;
                self.tell(|| Message::Undrain);
                self.tell(|| Message::ResumeAccepting { successor_lives });
                self.state.set_lifecycle(Lifecycle::Live);
                self.serve_held();
            }
            Order::DrainAlone => self.drain_alone(),
            Order::Release(listener) => {
                log::info!(target: "listener", "{listener}: closes, as the successor has none");
                self.listeners.retain(|known| known.name != listener);
                self.state.set_listeners(self.listeners.clone());
                self.tell(|| Message::Release { listener: listener.as_str().into() });
            }
            // A successor accepts where this process does no more.
            Order::KeepAccepting if self.leaving.is_some() => {}
            Order::KeepAccepting => {
                self.tell(|| Message::ResumeAccepting { successor_lives: false });
            }
            // Its predecessor goes on when it ends.
            Order::Accept(_) if self.is_ending() => {}
            Order::Accept(told) => {
                self.serve_held();
                let known = self.cluster_stat_names();
                self.common.registry.show_inherited_clusters(|name| known.contains(name));
                self.go_live();
                // Whoever waits for it may have gone.
                let _gone = told.send(());
            }
            Order::StandDown(reason) => {
                log::warn!(target: "upgrade", "another process serves, this one ends: {reason}");
                self.ties.open();
                self.leave(drain_time);
                self.tell(|| Message::Drain);
                self.tell(|| Message::PauseAccepting);
            }
        }
    }

    fn has_never_accepted(&self) -> bool {
        self.held.is_some() && self.leaving.is_none()
    }

    /// Whether somebody wants its end.
    fn is_ending(&self) -> bool {
        self.leaving.is_some_and(|leaving| leaving.is_final)
    }

    /// There is no successor to which connections could go.
    fn drain_alone(&self) {
        self.tell(|| Message::Undrain);
        self.tell(|| Message::Drain);
    }

    /// Lets connections go as they can. What is under way may still need endpoints: only what comes of
    /// listeners waits.
    fn leave(&mut self, drain_time: Duration) {
        let is_final = self.is_ending();
        self.leaving = Some(Leaving { until: Instant::now() + drain_time, is_final });
        self.last_call = None;
        self.held.get_or_insert_default();
        self.state.set_lifecycle(Lifecycle::Draining);
    }

    fn tell_when_stopped(&mut self) {
        if shard::none_accepts(&self.common.pulses)
            && let Some(stopped) = self.stopped.take()
        {
            // Whoever waits for it may have gone.
            let _gone = stopped.send(());
        }
    }

    /// Whether the last connection has gone, or the time is over.
    fn has_left(&mut self) -> bool {
        let Some(Leaving { until, is_final }) = self.leaving else { return false };
        let is_kept = !is_final && self.ties.hold();
        let is_over = until <= Instant::now();
        let is_quiet = shard::all_quiet(&self.common.pulses) && !is_kept;
        let is_done = is_quiet && (is_over || is_final || self.pools_have_left());
        if !(is_done || is_over) || !(is_final || self.ties.leave()) {
            return false;
        }
        if is_done {
            log::info!(target: "main", "{}", if is_final { "drained" } else { "handed over" });
        } else {
            let left = self.connections();
            log::warn!(target: "main", "closing {left} connections at the end of the drain time");
        }
        true
    }

    /// Whether all that rested to the end is the successor's, or stays for good.
    fn pools_have_left(&mut self) -> bool {
        if let Some((call, until)) = &self.last_call {
            return Arc::strong_count(call) == 1 || *until <= Instant::now();
        }
        let call = LastCall::default();
        self.tell(|| Message::LastCall(LastCall::clone(&call)));
        self.last_call = Some((call, Instant::now() + LAST_CALL_PATIENCE));
        false
    }

    fn serve_held(&mut self) {
        for listener in self.held.take().unwrap_or_default() {
            self.serve_listener(listener);
        }
        self.state.set_listeners(self.listeners.clone());
    }

    fn serve_listener(&mut self, listener: ListenerUpdate) {
        match listener {
            ListenerUpdate::Serve { config, logs, sockets } => self.listen(&config, &logs, sockets),
            ListenerUpdate::Remove(name) => self.unlisten(&name),
        }
    }

    fn go_live(&mut self) {
        self.state.set_lifecycle(Lifecycle::Live);
        log::info!(target: "main", "serving");
        if let Some(banner) = self.banner.take() {
            println!("{banner}");
        }
    }

    /// `/drain_listeners`, with its time if it is graceful.
    fn drain_listeners(&mut self, which: Listeners, limit: Option<Duration>, stays: bool) {
        self.state.set_lifecycle(Lifecycle::Draining);
        match limit {
            // One that runs goes on as it is (SH-03).
            Some(_) if self.drain.is_some() => {}
            Some(limit) => {
                let closes_at = (!stays).then(|| Instant::now() + limit);
                self.drain = Some(GracefulDrain { which, closes_at });
                self.tell(|| Message::AskToGo(which));
            }
            None => {
                if which == Listeners::All {
                    self.tell(|| Message::Drain);
                }
                self.tell(|| Message::Close(which));
            }
        }
    }

    fn close_drained(&mut self) {
        if let Some(drain) = &mut self.drain
            && drain.closes_at.take().is_some()
        {
            let which = drain.which;
            log::info!(target: "main", "the drain time is over: listeners close");
            self.tell(|| Message::Close(which));
        }
    }

    fn tell(&self, message: impl Fn() -> Message) {
        self.shards.iter().for_each(|shard| send(shard, message()));
    }

    /// Ends with the last connection, when the time is over, or when a second signal comes.
    fn drain_to_the_end(&mut self, limit: Duration) {
        self.leave(limit);
        self.leaving = self.leaving.map(|leaving| Leaving { is_final: true, ..leaving });
        self.tell(|| Message::Drain);
        self.tell(|| Message::Close(Listeners::All));
    }

    fn connections(&self) -> u32 {
        self.common.pulses.iter().map(shard::Pulse::connections).sum()
    }

    /// Has the shards serve what is new.
    fn apply_update(&mut self) {
        let Update { serve, listeners, since, told, settled, is_live } = self.updates.take();
        if let Some((snapshot, tls)) = serve {
            let gone = self.snapshot.clusters.changes_since(&snapshot.clusters);
            let any_gone = gone.into_iter().any(|id| snapshot.clusters.get(id).is_none());
            self.snapshot = snapshot;
            self.state.set_snapshot(Arc::clone(&self.snapshot));
            self.state.set_tls(Arc::clone(&tls));
            let applied = self.applied(since.unwrap_or_else(Instant::now));
            for shard in &self.shards {
                let (snapshot, tls) = (Arc::clone(&self.snapshot), Arc::clone(&tls));
                send(shard, Message::Snapshot { snapshot, tls, applied: Arc::clone(&applied) });
            }
            if any_gone {
                self.forget_gone_clusters();
            }
        }
        if !settled.is_empty() {
            // A shard serves the snapshot by then, as messages keep their order.
            let settled: Arc<[_]> = settled.into();
            self.tell(|| Message::Settled(Arc::clone(&settled)));
        }
        let any_listener = !listeners.is_empty();
        match &mut self.held {
            Some(held) => held.extend(listeners),
            None => listeners.into_iter().for_each(|listener| self.serve_listener(listener)),
        }
        if any_listener && self.held.is_none() {
            self.state.set_listeners(self.listeners.clone());
        }
        if is_live {
            self.ready.send_replace(true);
        }
        if is_live && self.held.is_none() && self.state.lifecycle() != Lifecycle::Draining {
            self.go_live();
        }
        // A shard reads its messages before it runs what came over the network after them, so that
        // whoever is told now finds the change in effect. Some no longer wait to be told.
        for tell in told {
            let _ = tell.send(());
        }
    }

    /// What each shard calls when it serves an update made at `since`: the last of them tells.
    fn applied(&self, since: Instant) -> Arc<dyn Fn() + Send + Sync> {
        let left = AtomicUsize::new(self.shards.len());
        let events = self.events.clone();
        Arc::new(move || {
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                let _ended = events.send(Event::Applied(since));
            }
        })
    }

    fn listen(
        &mut self,
        config: &Arc<Listener>,
        logs: &ListenerLogs,
        sockets: Option<BoundSockets>,
    ) {
        // All shards know the listener before any connection can be handed to them.
        let rebound = sockets.is_some();
        let message = |sockets| {
            let (config, logs) = (Arc::clone(config), Arc::clone(logs));
            Message::Listen { config, logs, rebound, sockets }
        };
        self.shards.iter().for_each(|shard| send(shard, message(None)));
        let Some(bound) = sockets else {
            log::info!(target: "listener", "{}: changed", config.name);
            return;
        };
        if let Err(error) = bound.listen(config) {
            // The address was ours to bind, so that this is a matter of the system's resources.
            log::error!(target: "listener", "{error}");
        }
        let addresses: Vec<_> = bound.addresses.iter().map(Address::to_string).collect();
        let does =
            if config.bind.bind_to_port { "listening on" } else { "for what is redirected from" };
        log::info!(target: "listener", "{}: {does} {}", config.name, addresses.join(", "));
        let entry = BoundListener { name: config.name.to_string(), addresses: bound.addresses };
        match self.listeners.iter_mut().find(|known| *known.name == *config.name) {
            Some(known) => *known = entry,
            None => self.listeners.push(entry),
        }
        let mut shares: Vec<Vec<OwnedFd>> = self.shards.iter().map(|_| Vec::new()).collect();
        for sockets in bound.sockets {
            let count = shares.len();
            for (at, socket) in sockets.into_iter().enumerate() {
                shares[at % count].push(socket);
            }
        }
        for (shard, share) in self.shards.iter().zip(shares) {
            send(shard, message(Some(share)));
        }
    }

    fn unlisten(&mut self, name: &str) {
        log::info!(target: "listener", "{name}: removed");
        self.listeners.retain(|known| known.name != name);
        for shard in &self.shards {
            send(shard, Message::Unlisten { listener: name.into() });
        }
    }

    /// What counts for clusters that are gone would add up for ever. A shard that is behind may bring
    /// one back, until the next time.
    fn forget_gone_clusters(&self) {
        let clusters = &self.snapshot.clusters;
        self.common.breakers.retain(|name| clusters.id(name).is_some());
        let known = self.cluster_stat_names();
        self.common.registry.retain_clusters(|name| known.contains(name));
    }

    fn cluster_stat_names(&self) -> HashSet<&str> {
        self.snapshot.clusters.iter().map(|member| &*member.cluster.stat_name).collect()
    }
}

/// A shard empties its mailbox each time it is rung; a full one only means that it is behind.
fn send(handle: &ShardHandle, message: Message) {
    let mut message = message;
    while let Err(back) = handle.mail().send(message) {
        message = back;
        std::thread::sleep(shard::MAILBOX_RETRY);
    }
}

/// Core files are as large as they are, and this process may have one.
fn allow_core_files() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: prctl and setrlimit read what they are given; the structure outlives the call.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) != 0
            || libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) != 0
    };
    if refused {
        let error = io::Error::last_os_error();
        log::warn!(target: "main", "--enable-core-dump: {error}");
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

/// How long upstream connections that rest may keep a process: they are no reason to stay, and go within a
/// few turns of a successor that lives.
const LAST_CALL_PATIENCE: Duration = Duration::from_millis(250);
