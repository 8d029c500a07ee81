//! What the control thread, the server loop and the admin interface share.
//!
//! Locks here are held for a copy of a few pointers and never on the request path.

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use outrigger_xds::bootstrap::Node;
use outrigger_xds::process_config::RuntimeLayers;
use outrigger_xds::snapshot::{Address, Member, Snapshot};
use outrigger_xds::store::Store;
use thiserror::Error;
use tokio::sync::watch;

use super::hand_over::View;
use crate::access_log::Queue;
use crate::cli::Process;
use crate::memory::Reclaim;
use crate::stats::Registry;
use crate::tls::TlsContexts;

/// Something the server loop is asked to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Command {
    /// Stop accepting, as `POST /drain_listeners`.
    DrainListeners {
        /// Close listeners only after a graceful period, in which connections are being drained.
        graceful: bool,
        /// Only listeners whose traffic direction is inbound.
        inbound_only: bool,
        /// Drain connections, but leave the listeners open.
        skip_exit: bool,
    },
    /// The health check answer changed; failing health drains connections.
    HealthCheck {
        /// Whether health checks are to fail.
        failing: bool,
    },
    /// Exit, as `POST /quitquitquit`: without draining.
    Quit,
    /// A signal asked for the end.
    Terminate {
        /// Not the first time: exit at once. Otherwise drain, then exit.
        at_once: bool,
    },
}

/// Nobody takes commands, or too many wait.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the server is not taking commands")]
pub struct NotTaken;

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lifecycle {
    /// Serving.
    Live = 0,
    /// Serving what is there, and going away.
    Draining = 1,
    /// Not listening yet: clusters are not ready.
    PreInitializing = 2,
    /// Not listening yet: the first configuration from a control plane is not there.
    Initializing = 3,
}

impl Lifecycle {
    /// As Envoy names it.
    pub fn name(self) -> &'static str {
        match self {
            Lifecycle::Live => "LIVE",
            Lifecycle::Draining => "DRAINING",
            Lifecycle::PreInitializing => "PRE_INITIALIZING",
            Lifecycle::Initializing => "INITIALIZING",
        }
    }
}

impl Display for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A listener that accepts, and where it really does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BoundListener {
    /// Its configured name.
    pub name: String,
    /// Its addresses, with the ports the kernel chose.
    pub addresses: Vec<Address>,
}

/// What the control thread, the server loop and the admin interface share.
#[derive(Debug)]
pub struct ControlState {
    registry: Arc<Registry>,
    process: Process,
    commands: Sender<Command>,
    /// Logs that are reopened on request: the access log's first, and the application log's.
    logs: Vec<Queue>,
    started: Instant,
    lifecycle: watch::Sender<Lifecycle>,
    health_failing: AtomicBool,
    facts: Mutex<Facts>,
    store: OnceLock<Arc<Mutex<Store>>>,
    runtime: OnceLock<RuntimeLayers>,
    reclaim: Reclaim,
    hand_overs: OnceLock<Arc<View>>,
}

impl ControlState {
    /// The state of a process that has just started, and the commands it will be given.
    pub fn new(
        registry: Arc<Registry>,
        process: Process,
        logs: Vec<Queue>,
    ) -> (Arc<ControlState>, Receiver<Command>) {
        let (commands, receiver) = bounded(COMMANDS_MAX);
        let state = ControlState {
            registry,
            process,
            commands,
            logs,
            started: Instant::now(),
            lifecycle: watch::Sender::new(Lifecycle::PreInitializing),
            health_failing: AtomicBool::new(false),
            facts: Mutex::new(Facts::default()),
            store: OnceLock::new(),
            runtime: OnceLock::new(),
            reclaim: Reclaim::default(),
            hand_overs: OnceLock::new(),
        };
        (Arc::new(state), receiver)
    }

    /// All statistics.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Who is told when much memory of the control thread comes free.
    pub fn reclaim(&self) -> &Reclaim {
        &self.reclaim
    }

    /// The command line.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// When the process started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Where the process is in its life. Failing health checks count as draining.
    pub fn lifecycle(&self) -> Lifecycle {
        match *self.lifecycle.borrow() {
            Lifecycle::Live if self.health_failing() => Lifecycle::Draining,
            lifecycle => lifecycle,
        }
    }

    /// Says where the process is in its life. For the server loop.
    pub fn set_lifecycle(&self, lifecycle: Lifecycle) {
        self.lifecycle.send_replace(lifecycle);
    }

    /// Where the process is in its life, health checks apart, and when that changes.
    pub fn lifecycles(&self) -> watch::Receiver<Lifecycle> {
        self.lifecycle.subscribe()
    }

    /// Whether `/healthcheck/fail` was asked for.
    pub fn health_failing(&self) -> bool {
        self.health_failing.load(Ordering::Acquire)
    }

    /// The configuration being served.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.facts().snapshot.clone()
    }

    /// Says which configuration is being served, and counts its clusters' members.
    pub fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        let slot = self.registry.control();
        let before = self.facts().snapshot.clone().unwrap_or_default();
        let changed = snapshot.clusters.changes_since(&before.clusters);
        for Member { cluster, endpoints, .. } in
            changed.filter_map(|id| snapshot.clusters.member(id))
        {
            let stats = self.registry.cluster(slot, &cluster.stat_name);
            stats.membership_total.set(endpoints.all().len() as u64);
            stats.membership_healthy.set(endpoints.healthy().into());
            stats.membership_degraded.set(endpoints.degraded().into());
        }
        self.facts().snapshot = Some(snapshot);
    }

    /// The resources of management servers, once there is a store of them.
    pub fn store(&self) -> Option<MutexGuard<'_, Store>> {
        let store = self.store.get()?;
        Some(store.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says where they are kept.
    pub fn set_store(&self, store: Arc<Mutex<Store>>) {
        // There is one, from the start of the configuration to the end of the process.
        let _again = self.store.set(store);
    }

    /// The runtime, once there is a configuration.
    pub fn runtime(&self) -> Option<&RuntimeLayers> {
        self.runtime.get()
    }

    /// Says which it is.
    pub fn set_runtime(&self, runtime: RuntimeLayers) {
        // There is one, from the start of the configuration to the end of the process.
        let _again = self.runtime.set(runtime);
    }

    /// What is known of hand-overs, where there can be any.
    pub fn hand_overs(&self) -> Option<&View> {
        self.hand_overs.get().map(|view| &**view)
    }

    /// Says who knows.
    pub(super) fn set_hand_overs(&self, view: Arc<View>) {
        // There is one, from the start of the control thread to its end.
        let _again = self.hand_overs.set(view);
    }

    /// Keys and certificates that are in use.
    pub fn tls(&self) -> Option<Arc<TlsContexts>> {
        self.facts().tls.clone()
    }

    /// Says which they are.
    pub fn set_tls(&self, tls: Arc<TlsContexts>) {
        self.facts().tls = Some(tls);
    }

    /// Where access logs go.
    pub fn access_log_queue(&self) -> Option<&Queue> {
        self.logs.first()
    }

    /// The bootstrap as JSON, and when it was loaded.
    pub fn bootstrap(&self) -> Option<(Arc<str>, SystemTime)> {
        self.facts().bootstrap.clone()
    }

    /// Says what was loaded, for `/config_dump`: the bootstrap in protobuf's JSON mapping.
    pub fn set_bootstrap(&self, json: &str) {
        self.facts().bootstrap = Some((json.into(), SystemTime::now()));
    }

    /// The listeners that accept.
    pub fn listeners(&self) -> Vec<BoundListener> {
        self.facts().listeners.clone()
    }

    /// Says which listeners accept.
    pub fn set_listeners(&self, listeners: Vec<BoundListener>) {
        self.facts().listeners = listeners;
    }

    /// Who the process is.
    pub fn node(&self) -> Node {
        self.facts().node.clone()
    }

    /// Says who the process is.
    pub fn set_node(&self, node: Node) {
        self.facts().node = node;
    }

    /// Asks the server loop for something.
    pub fn command(&self, command: Command) -> Result<(), NotTaken> {
        self.commands.try_send(command).map_err(|_| NotTaken)
    }

    /// Makes health checks fail, or pass again.
    pub fn fail_health_checks(&self, failing: bool) -> Result<(), NotTaken> {
        self.health_failing.store(failing, Ordering::Release);
        self.command(Command::HealthCheck { failing })
    }

    /// Has every log file opened again.
    pub fn reopen_logs(&self) {
        self.logs.iter().for_each(Queue::reopen);
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // Each field is replaced whole, so a panic elsewhere leaves nothing half done.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commands that may wait for the server loop. It takes them at once or is stuck for good.
const COMMANDS_MAX: usize = 64;

#[derive(Debug, Default)]
struct Facts {
    snapshot: Option<Arc<Snapshot>>,
    bootstrap: Option<(Arc<str>, SystemTime)>,
    listeners: Vec<BoundListener>,
    node: Node,
    tls: Option<Arc<TlsContexts>>,
}
