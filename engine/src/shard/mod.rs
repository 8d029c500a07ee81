//! A shard: one pinned executor with its own ring, buffers, pools, timers and counters.
//!
//! Other threads reach a shard through [`Mail::send`] only. Invariant: whatever a
//! connection does, it does on one shard, from accept (or adoption) to close.

mod accept;
mod clock;
mod demands;
mod driver;
mod guard;
mod mailbox;
mod placement;
mod pulse;
mod redirects;
mod wakers;
mod watchdog;

use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use outrigger_xds::bootstrap::Node;
use outrigger_xds::engine_config::EngineConfig;
use outrigger_xds::snapshot::{Demand, Listener as ListenerConfig, Snapshot};

use crate::access_log::{Queue, ShardLogger};
use crate::buffers::{Arena, ReceiveConfig, RecordBuffers};
use crate::cluster::{Breakers, Janitor, Serving, spawn_janitor};
use crate::connection::moving::{Adoption, Adoptions, Answer, Departure, Departures, LastCall};
use crate::connection::{DrainTimes, ListenerLogs};
use crate::control::hand_over::Lent;
use crate::http::{HttpScratch, WorkloadCache};
use crate::ring::{Features, Ring, RingConfig, Watermarks};
use crate::rpc::{ReadMemory, RpcShard};
use crate::stats::{Registry, ShardStats};
use crate::timer::{Nanos, Timers};
use crate::tls::TlsContexts;

use self::driver::DriverWaker;
use self::mailbox::{Mailbox, Sender};

pub use self::accept::Listeners;
pub use self::clock::Clock;
pub use self::demands::{DemandDesk, Demands, HELD_FOR, Ticket};
pub use self::guard::spawn_guarded;
pub use self::placement::place;
pub use self::pulse::{Pulse, PulseState, Pulses, all_quiet, none_accepts, pulses};
pub use self::redirects::Redirects;
pub use self::wakers::WakerRegistry;
pub use self::watchdog::{Watchdog, Watched};

/// What other threads may ask of a shard.
pub enum Message {
    /// Serve this configuration from now on; requests under way keep theirs.
    Snapshot {
        /// The configuration.
        snapshot: Arc<Snapshot>,
        /// The keys and certificates that it refers to.
        tls: Arc<TlsContexts>,
        /// Told when it is served.
        applied: Arc<dyn Fn() + Send + Sync>,
    },
    /// There is nothing to wait for any more in these; what came of them is served.
    Settled(Arc<[Demand]>),
    /// Serve this listener's connections, in place of the listener of its name if there is one. Every
    /// shard learns of every listener.
    Listen {
        /// The listener.
        config: Arc<ListenerConfig>,
        /// The open access logs of its filters that own connections.
        logs: ListenerLogs,
        /// It has other sockets than before, and so other connections: those it has are asked to go,
        /// whatever their filter chains.
        rebound: bool,
        /// Sockets to accept on from now on, bound, listening and non-blocking; empty where other
        /// shards accept for it. Nothing: those that are there go on.
        sockets: Option<Vec<OwnedFd>>,
    },
    /// Accept no more for this listener, and drain its connections.
    Unlisten {
        /// Its name.
        listener: Box<str>,
    },
    /// Serve a connection that another shard accepted.
    Adopt {
        /// Name of its listener.
        listener: Box<str>,
        /// Connected, non-blocking.
        socket: OwnedFd,
    },
    /// End all connections as their protocol allows.
    Drain,
    /// Take a drain back: connections may stay.
    Undrain,
    /// Ask connections of these listeners to go, while they go on accepting.
    AskToGo(Listeners),
    /// Accept no more for these listeners, and leave connections alone.
    Close(Listeners),
    /// Share the listening sockets with a successor.
    Lend(UnboundedSender<Lent>),
    /// Accept no more, and leave the listening sockets and what waits in their backlogs to a successor.
    PauseAccepting,
    /// A successor has no place for this listener: accept what waits in its backlogs, and close it.
    Release {
        /// Its name.
        listener: Box<str>,
    },
    /// Accept again.
    ResumeAccepting {
        /// A successor may live that has the sockets, and may not accept.
        successor_lives: bool,
    },
    /// Let connections go: those that can, to a successor, which is reached this way.
    Depart(UnboundedSender<Departure>),
    /// The process ends soon: let go what rests, too.
    LastCall(LastCall),
    /// What became of a connection that was offered to a successor.
    Departed(u64, Answer),
    /// Deal with a connection of a predecessor.
    Adoption(Adoption),
    /// The predecessor has ended: no answers come from it any more.
    PredecessorEnded,
    /// Close everything and end the shard.
    Stop,
}

/// Why shards can't start.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The affinity mask could not be read.
    #[error("the CPU affinity of this process can't be read: {0}")]
    Affinity(io::Error),
    /// engine.cores names a CPU outside the allowed set.
    #[error("engine.cores: CPU {core} is not allowed to this process; allowed are {allowed:?}")]
    CoreNotAllowed {
        /// The CPU asked for.
        core: usize,
        /// Those in the affinity mask.
        allowed: Vec<usize>,
    },
    /// More shards than CPUs.
    #[error(
        "{shards} shards were asked for, but only CPUs {allowed:?} are allowed to this process"
    )]
    TooManyShards {
        /// Shards asked for.
        shards: usize,
        /// Those in the affinity mask.
        allowed: Vec<usize>,
    },
    /// The executor or its ring could not be made.
    #[error("shard {index} can't start on CPU {cpu}: {reason}")]
    Start {
        /// Which shard.
        index: usize,
        /// Its CPU.
        cpu: usize,
        /// What the system said.
        reason: String,
    },
}

/// What all shards of a process have in common.
#[derive(Clone)]
pub struct Common {
    /// The `engine:` section.
    pub config: Arc<EngineConfig>,
    /// Connections of listeners that are not exempt, in the whole process.
    pub connections_max: u32,
    /// Who the process is.
    pub node: Arc<Node>,
    /// What the kernel can do.
    pub features: Features,
    /// Zero of every shard's clock.
    pub epoch: Instant,
    /// Statistics.
    pub registry: Arc<Registry>,
    /// The way to the access-log writer.
    pub log_queue: Queue,
    /// How long a line of an access log may wait for others, in nanoseconds.
    pub log_flush_interval_ns: u64,
    /// Bytes of access log lines that are written at once, at the least.
    pub log_batch_bytes: usize,
    /// Circuit breakers.
    pub breakers: Arc<Breakers>,
    /// Keys and certificates, as they are now.
    pub tls: Arc<TlsContexts>,
    /// How long connections of what was replaced may stay.
    pub drain_times: DrainTimes,
    /// Signs of life and connection counts.
    pub pulses: Pulses,
    /// Where what requests need is asked for.
    pub demands: Arc<DemandDesk>,
}

/// A running shard, as other threads see it.
pub struct ShardHandle {
    mail: Mail,
    driver: DriverWaker,
    stats: Arc<ShardStats>,
    index: usize,
    thread: std::thread::JoinHandle<()>,
}

/// The way to a shard for those that do not own it.
#[derive(Clone)]
pub struct Mail(Sender<Message>);

impl Mail {
    /// Sends a message.
    ///
    /// # Errors
    /// Gives it back when the mailbox is full.
    pub fn send(&self, message: Message) -> Result<(), Message> {
        self.0.send(message)
    }
}

/// Everything a shard's tasks use. One per shard, shared by `Rc`.
pub struct Shard {
    /// Number of this shard, from 0.
    pub index: usize,
    /// Sockets.
    pub ring: Ring,
    /// Bytes we insert.
    pub arena: Arena,
    /// Timeouts.
    pub timers: Timers,
    /// The turn's time.
    pub clock: Clock,
    /// The `engine:` section.
    pub config: Arc<EngineConfig>,
    /// Connections of listeners that are not exempt, in the whole process.
    pub connections_max: u32,
    /// Who the process is.
    pub node: Arc<Node>,
    /// This shard's own counters.
    pub stats: Arc<ShardStats>,
    /// Keys and certificates, as they are now.
    tls: RefCell<Arc<TlsContexts>>,
    /// How long connections of what was replaced may stay.
    pub drain_times: DrainTimes,
    /// Memory of TLS records.
    pub records: Rc<RecordBuffers>,
    /// Where sets of counters come from.
    pub registry: Arc<Registry>,
    /// This shard's access log batches.
    pub logger: RefCell<ShardLogger>,
    /// What is served now.
    pub serving: Serving,
    /// Which listeners redirected connections are for.
    pub redirects: Redirects,
    pulses: Pulses,
    peers: Vec<Sender<Message>>,
    random: Cell<u64>,
    connection_ids: Cell<u64>,
    stopped: Cell<bool>,
    /// Closes pooled connections that ended or expired.
    pub janitor: Janitor,
    /// Memory that HTTP exchanges use one after the other.
    pub scratch: RefCell<HttpScratch>,
    /// Chunks of bodies that are kept, to be sent again should that be needed.
    pub pinned_chunks: Rc<Cell<u32>>,
    /// Workloads that said who they are.
    pub workloads: RefCell<WorkloadCache>,
    /// What requests wait for.
    pub demands: Rc<Demands>,
    /// What RPC connections have in common.
    pub rpc: RpcShard,
    /// Wakes connections when a drain begins.
    pub drain_wakers: WakerRegistry,
    drain_began_at: Cell<Option<Nanos>>,
    /// Connections on their way to a successor.
    pub departures: Departures,
    /// Connections of a predecessor.
    adoptions: Adoptions,
}

/// Starts one shard per CPU of `cpus` and waits until each is ready.
///
/// # Errors
/// When one of them can't start; those that did are stopped again.
pub fn start(
    cpus: &[usize],
    common: &Common,
    snapshot: &Arc<Snapshot>,
) -> Result<Vec<ShardHandle>, ShardError> {
    let mut boxes = Vec::with_capacity(cpus.len());
    for (index, cpu) in cpus.iter().enumerate() {
        boxes.push(mailbox::mailbox(MAILBOX_MESSAGES).map_err(|error| ShardError::Start {
            index,
            cpu: *cpu,
            reason: format!("no mailbox: {error}"),
        })?);
    }
    let peers: Vec<_> = boxes.iter().map(|(sender, ..)| sender.clone()).collect();
    let mut handles = Vec::with_capacity(cpus.len());
    for ((index, cpu), (sender, mailbox, bell)) in cpus.iter().enumerate().zip(boxes) {
        let (common, peers) = (common.clone(), peers.clone());
        let seat = Seat { index, cpu: *cpu, common, peers, mailbox, bell };
        match start_one(seat, sender, Arc::clone(snapshot)) {
            Ok(handle) => handles.push(handle),
            Err(error) => {
                stop(handles);
                return Err(error);
            }
        }
    }
    Ok(handles)
}

/// Stops shards and waits for their threads.
pub fn stop(handles: Vec<ShardHandle>) {
    for handle in &handles {
        // A mailbox that is full is emptied by the shard; it can't stay full while it turns.
        while handle.mail.send(Message::Stop).is_err() {
            std::thread::yield_now();
        }
    }
    for handle in handles {
        // A shard that panicked has said so.
        drop(handle.thread.join());
    }
}

/// One shard's place and company.
struct Seat {
    index: usize,
    cpu: usize,
    common: Common,
    peers: Vec<Sender<Message>>,
    mailbox: Mailbox<Message>,
    bell: OwnedFd,
}

fn start_one(
    seat: Seat,
    sender: Sender<Message>,
    snapshot: Arc<Snapshot>,
) -> Result<ShardHandle, ShardError> {
    let (index, cpu) = (seat.index, seat.cpu);
    let failed = |reason: String| ShardError::Start { index, cpu, reason };
    let driver = DriverWaker::default();
    let stats = seat.common.registry.shard(index);
    let (ready, is_ready) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(format!("shard-{index}"))
        .spawn({
            let driver = Arc::clone(&driver);
            move || run(seat, &driver, &snapshot, &ready)
        })
        .map_err(|error| failed(error.to_string()))?;
    match is_ready.recv_timeout(START_TIMEOUT) {
        Ok(Ok(())) => Ok(ShardHandle { mail: Mail(sender), driver, stats, index, thread }),
        Ok(Err(reason)) => Err(failed(reason)),
        Err(_) => Err(failed(format!("it was not ready after {} s", START_TIMEOUT.as_secs()))),
    }
}

/// The shard's thread.
fn run(
    seat: Seat,
    driver: &DriverWaker,
    snapshot: &Arc<Snapshot>,
    ready: &mpsc::Sender<Result<(), String>>,
) {
    let executor = LocalExecutorBuilder::new(Placement::Fixed(seat.cpu))
        .name("shard")
        // Rule 10 of glommio: sockets, timers and messages are on our own ring, so none of the
        // executor's memory or helper threads is used.
        .io_memory(0)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make();
    let executor = match executor {
        Ok(executor) => executor,
        Err(error) => return drop(ready.send(Err(error.to_string()))),
    };
    executor.run(async {
        let Seat { index, common, peers, mailbox, bell, .. } = seat;
        let shard = match Shard::new(index, common, peers, snapshot) {
            Ok(shard) => Rc::new(shard),
            Err(error) => return drop(ready.send(Err(error.to_string()))),
        };
        spawn_janitor(&shard);
        drop(ready.send(Ok(())));
        let acceptors = accept::Acceptors::default();
        let handle = |message| shard.handle(&acceptors, message);
        if let Err(error) = driver::drive(&shard, &mailbox, bell, driver, handle).await {
            // Without its ring the shard can serve nobody, and its connections can't be moved:
            // better a restart by the supervisor than a process that half works.
            log::error!(target: "shard", "shard {index}: the ring failed: {error}");
            std::process::exit(RING_FAILED_EXIT_CODE);
        }
    });
}

impl ShardHandle {
    /// The way to the shard.
    pub fn mail(&self) -> &Mail {
        &self.mail
    }

    /// What the watchdog needs.
    pub fn watched(&self) -> Watched {
        let sender = self.mail.0.clone();
        Watched {
            index: self.index,
            driver: Arc::clone(&self.driver),
            bell: Box::new(move || sender.ring()),
            stats: Arc::clone(&self.stats),
        }
    }
}

impl Shard {
    fn new(
        index: usize,
        common: Common,
        peers: Vec<Sender<Message>>,
        snapshot: &Arc<Snapshot>,
    ) -> io::Result<Self> {
        let config = &common.config;
        let ring = Ring::new(RingConfig {
            entries: config.ring_entries,
            receive: ReceiveConfig {
                buffer_bytes: config.buffer_bytes,
                buffers: config.buffers as u16,
                buffers_max: config.buffers_max as u16,
            },
            features: common.features,
        })?;
        let serving = Serving::new(snapshot, index, &common.registry, &common.breakers);
        let timers = Timers::default();
        let janitor = Janitor::new(timers.timer());
        let demands = Demands::new(common.demands, common.registry.demand(index));
        Ok(Self {
            index,
            ring,
            arena: Arena::new(),
            timers,
            clock: Clock::new(common.epoch),
            config: Arc::clone(config),
            connections_max: common.connections_max,
            node: common.node,
            stats: common.registry.shard(index),
            logger: RefCell::new(
                ShardLogger::new(
                    common.log_queue,
                    &common.registry,
                    index,
                    common.log_flush_interval_ns,
                )
                .with_batches_of(common.log_batch_bytes),
            ),
            registry: common.registry,
            tls: RefCell::new(common.tls),
            drain_times: common.drain_times,
            records: RecordBuffers::new(),
            serving,
            redirects: Redirects::default(),
            pulses: common.pulses,
            peers,
            random: Cell::new(seed(index)),
            connection_ids: Cell::new(0),
            stopped: Cell::new(false),
            janitor,
            scratch: RefCell::default(),
            pinned_chunks: Rc::default(),
            workloads: RefCell::default(),
            demands,
            rpc: RpcShard::default(),
            drain_wakers: WakerRegistry::default(),
            drain_began_at: Cell::new(None),
            departures: Departures::default(),
            adoptions: Adoptions::default(),
        })
    }

    fn handle(self: &Rc<Self>, acceptors: &accept::Acceptors, message: Message) {
        match message {
            Message::Snapshot { snapshot, tls, applied } => {
                self.tls.replace(tls);
                self.serving.advance(&snapshot);
                applied();
            }
            Message::Settled(settled) => {
                if self.demands.settle(&settled) {
                    self.ring.note_wake();
                }
            }
            Message::Listen { config, logs, rebound, sockets } => {
                acceptors.listen(self, &config, &logs, rebound, sockets);
            }
            Message::Unlisten { listener } => acceptors.unlisten(self, &listener),
            Message::Adopt { listener, socket } => acceptors.adopt(self, &listener, socket),
            Message::Undrain => {
                self.drain_began_at.set(None);
                self.departures.close();
            }
            Message::Depart(outbox) => {
                self.drain_began_at.set(Some(self.clock.now()));
                self.departures.open(self, outbox);
            }
            Message::LastCall(call) => self.departures.last_call(self, &call),
            Message::Departed(connection, answer) => {
                self.departures.answer(self, connection, answer);
            }
            Message::Adoption(adoption) => {
                self.adoptions.take(self, &acceptors.runtimes(), adoption);
            }
            Message::PredecessorEnded => self.adoptions.end(),
            Message::AskToGo(which) => acceptors.ask_to_go(self, which),
            Message::Close(which) => acceptors.close(which),
            Message::Lend(sender) => acceptors.lend(&sender),
            Message::PauseAccepting => acceptors.pause(),
            Message::Release { listener } => acceptors.release(self, &listener),
            Message::ResumeAccepting { successor_lives } => acceptors.resume(self, successor_lives),
            Message::Drain => {
                self.drain_began_at.set(Some(self.clock.now()));
                self.drain_wakers.wake_all();
                self.ring.note_wake();
            }
            Message::Stop => self.stopped.set(true),
        }
    }

    /// Keys and certificates, as they are now.
    pub fn tls(&self) -> Ref<'_, TlsContexts> {
        Ref::map(self.tls.borrow(), |tls| &**tls)
    }

    /// A random number: fast, good enough to balance load and to name requests, never a secret.
    pub fn random(&self) -> u64 {
        // SplitMix64.
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number for a connection, unique in the process.
    pub fn next_connection_id(&self) -> u64 {
        let count = self.connection_ids.get();
        self.connection_ids.set(count + 1);
        count * self.pulses.len() as u64 + self.index as u64
    }

    /// How many shards there are.
    pub fn count(&self) -> usize {
        self.pulses.len()
    }

    /// A connection that another process served is this shard's.
    pub fn connection_is_taken_over(&self) {
        self.pulse().connection_begins();
    }

    /// When the drain of this shard began.
    pub fn drain_began_at(&self) -> Option<Nanos> {
        self.drain_began_at.get()
    }

    /// Memory for reading frames.
    pub fn read_memory(&self) -> ReadMemory<'_> {
        ReadMemory { arena: &self.arena, records: &self.records, budget: &self.rpc.budget }
    }

    /// A connection that was counted for this shard is over.
    pub fn connection_ends(&self) {
        self.pulse().connection_ends();
    }

    /// Watermarks for a connection that may buffer `limit` bytes: what the configuration says, but
    /// no more than a share of this shard's receive buffers, and less when they run low.
    pub fn watermarks(&self, limit: u32) -> Watermarks {
        let share = self.config.buffer_bytes as usize * BUFFERS_PER_CONNECTION;
        Watermarks { high: (limit as usize).min(share) }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    fn pulse(&self) -> &Pulse {
        &self.pulses[self.index]
    }

    /// Time until a timer, or a batch of the access log, is due.
    fn next_deadline(&self) -> Option<Duration> {
        let now = self.clock.now();
        let flush =
            self.logger.borrow().flush_at().map(|at| Duration::from_nanos(at.saturating_sub(now)));
        let timer = self.timers.next(now);
        let recheck = self.ring.recheck_at().map(|at| Duration::from_nanos(at.saturating_sub(now)));
        flush.into_iter().chain(timer).chain(recheck).min()
    }

    /// Sends batches of the access log that have waited long enough.
    fn flush_logs(&self) {
        let mut logger = self.logger.borrow_mut();
        if logger.flush_at().is_some_and(|at| at <= self.clock.now()) {
            logger.flush(self.clock.now());
        }
    }

    fn publish_counters(&self) {
        let (held, grown) = self.ring.buffers();
        self.stats.buffers_in_use.set(u64::from(held));
        self.stats.buffers_published.set(u64::from(grown));
        let counters = self.ring.take_counters();
        self.stats.buffer_waits.add(counters.buffer_waits);
        self.stats.rechecks.add(counters.rechecks);
        self.stats.completions.add(counters.completions);
        self.stats.enters.add(counters.enters);
    }
}

fn seed(index: usize) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(index)
}

/// Messages a shard may be behind with: connections handed over in a burst, and configuration.
const MAILBOX_MESSAGES: usize = 4096;

/// How often whoever may wait tries a full mailbox again.
pub const MAILBOX_RETRY: Duration = Duration::from_millis(1);

/// A shard makes a few rings and maps its buffers: milliseconds, unless the host is in trouble.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The executor's own rings only carry the park; its default depth would waste memory.
const EXECUTOR_RING_DEPTH: usize = 16;

/// Unread or unsent receive buffers a connection may hold, whatever its byte limit: 256 KiB with
/// the default buffer size keeps a stream busy, and leaves buffers for the others.
const BUFFERS_PER_CONNECTION: usize = 16;

/// EX_OSERR.
const RING_FAILED_EXIT_CODE: i32 = 71;
