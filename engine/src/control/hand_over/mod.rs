//! Handing over to a successor, and taking over from a predecessor: the control thread's part in both
//! (`upgrade/` says what is said, this module has it done).
//!
//! Invariant: listening sockets are shared, never made again: from the moment that a successor has them until
//! one of the two ends, whoever waits in a backlog is accepted by one or the other.

mod heritage;
mod line;
mod moves;
pub mod operator;
mod predecessor;
mod reception;
mod start;
mod successor;
mod view;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use outrigger_upgrade::message::{Hello, ListenerRecord};
use outrigger_upgrade::{Rendezvous, RendezvousError, version};
use outrigger_xds::snapshot::Address;
use socket2::SockRef;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use crate::connection::moving::Departure;
use crate::shard::{self, Mail, Message};

pub use heritage::Heritage;
pub use start::Launch;
pub use successor::{Begun, TakeOver, begin};
pub use view::{Ties, View, to_json};

use self::line::Line;
use super::services::Services;
use super::state::ControlState;

/// What the server loop is to do for a hand-over.
#[derive(Debug)]
pub enum Order {
    /// Tell every listening socket.
    Lend(mpsc::UnboundedSender<Lent>),
    /// Accept no more, and let connections go: to the successor, where there is a way to it, or as their
    /// protocols allow; end with the last of them.
    StopAccepting {
        /// The way.
        outbox: Option<mpsc::UnboundedSender<Departure>>,
        /// Told when no shard accepts.
        stopped: Option<oneshot::Sender<()>>,
    },
    /// All as before.
    ResumeAccepting {
        /// A successor may live that has the listening sockets, and does not accept.
        successor_lives: bool,
    },
    /// The successor is gone, but another process accepts: connections go as their protocols allow.
    DrainAlone,
    /// A successor has no place for the listener of this name: accept what waits for it, then close it.
    Release(String),
    /// The other process has gone, and this one has accepted all the while.
    KeepAccepting,
    /// Listeners that waited for a predecessor begin to accept; told when every shard knows them.
    Accept(oneshot::Sender<()>),
    /// Another process serves, for this reason: end as soon as nothing is left.
    StandDown(String),
}

/// A listening socket, shared.
#[derive(Debug)]
pub struct Lent {
    /// Its listener's name.
    pub listener: Box<str>,
    /// The socket.
    pub socket: OwnedFd,
}

/// Why nothing can be taken over, and nothing is served. Whoever served before does so still.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// There is no way to another process, or for one to this.
    #[error("engine.upgrade.socket: {0}")]
    Rendezvous(#[from] RendezvousError),
    /// The running process does not hand over, or died before it had.
    #[error("the running process does not hand over: {0}")]
    Refused(String),
    /// It died before it had given everything.
    #[error("the running process died while it handed over")]
    Lost,
    /// The socket to it.
    #[error("the socket to the running process: {0}")]
    Io(#[from] std::io::Error),
}

/// What the control thread needs for it.
pub struct HandOver {
    /// Where processes find each other.
    pub path: PathBuf,
    /// Whether there was one before.
    pub begun: Begun,
    /// The server loop.
    pub orders: Sender<Order>,
    /// True as soon as everything could be served.
    pub ready: watch::Receiver<bool>,
    /// What keeps this process once it has handed over.
    pub ties: Arc<Ties>,
    /// How a successor is started.
    pub launch: Launch,
    /// Most processes at once.
    pub processes_max: u32,
    /// The shards, in their order.
    pub shards: Arc<[Mail]>,
    /// What goes on in the next process.
    pub heritage: Heritage,
}

/// Whose the interfaces for applications and the state file of services are. While it is not decided, their
/// callers wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// This process's.
    Ours,
    /// A successor's as soon as it accepts; until then nothing is changed.
    Yielding,
    /// Another process's.
    Theirs,
}

/// What of the control thread goes to a successor.
pub(super) struct Estate {
    /// Its listening sockets.
    pub(super) sockets: Vec<Lent>,
    /// Whether the admin interface's is this process's.
    pub(super) is_ours: watch::Sender<bool>,
    /// Whether the interfaces for applications are.
    pub(super) tenure: watch::Sender<Tenure>,
    /// The directory of services, if there is one.
    pub(super) services: Option<Arc<Services>>,
    /// SIGHUP.
    pub(super) hang_ups: mpsc::Receiver<()>,
    /// True once the shards have ended.
    pub(super) farewell: watch::Receiver<bool>,
}

/// What a process needs to hand over.
struct Duty {
    path: PathBuf,
    orders: Sender<Order>,
    hello: Hello,
    sockets: Vec<Lent>,
    is_ours: watch::Sender<bool>,
    tenure: watch::Sender<Tenure>,
    services: Option<Arc<Services>>,
    view: Arc<View>,
    ties: Arc<Ties>,
    launch: Launch,
    shards: Arc<[Mail]>,
    /// How long what is left may stay.
    drain_time: Duration,
    /// Who can have this process's own predecessor serve again.
    undo: mpsc::UnboundedSender<Undo>,
    heritage: Heritage,
    farewell: watch::Receiver<bool>,
}

/// An operator wants the predecessor to serve again.
struct Undo {
    /// Who is to be answered.
    tool: Line,
}

impl Duty {
    fn order(&self, order: Order) {
        // Nobody takes orders at the end of the process.
        let _ended = self.orders.send(order);
    }

    /// The control thread's interfaces are this process's.
    fn take_interfaces(&self) {
        self.is_ours.send_replace(true);
        self.tenure.send_replace(Tenure::Ours);
    }

    /// They are another's.
    fn leave_interfaces(&self) {
        self.is_ours.send_replace(false);
        self.tenure.send_replace(Tenure::Theirs);
    }
}

/// Sockets that a predecessor has shared and that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Mutex<Vec<Lent>>);

impl Inherited {
    fn new(sockets: Vec<Lent>) -> Self {
        Self(Mutex::new(sockets))
    }

    /// Those that listen on `address`. A port that the kernel is to choose is the one that it chose for the
    /// listener of the same name.
    pub fn take(&self, listener: &str, address: &Address) -> Vec<OwnedFd> {
        let fits = |lent: &mut Lent| listens_on(lent, listener, address);
        self.lock().extract_if(.., fits).map(|lent| lent.socket).collect()
    }

    /// Closes those that nobody took, and tells their names.
    fn close_rest(&self) -> Vec<Box<str>> {
        let rest = std::mem::take(&mut *self.lock());
        rest.into_iter().map(|lent| lent.listener).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Lent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listens_on(lent: &Lent, listener: &str, address: &Address) -> bool {
    let Ok(actual) = SockRef::from(&lent.socket).local_addr() else { return false };
    match address {
        Address::Ip(wanted) => actual.as_socket().is_some_and(|actual| {
            let is_chosen = wanted.port() == 0 && *lent.listener == *listener;
            actual.ip() == wanted.ip() && (actual.port() == wanted.port() || is_chosen)
        }),
        Address::Unix(path) => actual.as_pathname() == Some(Path::new(&**path)),
        Address::UnixAbstract(name) => actual.as_abstract_namespace() == Some(name),
    }
}

impl HandOver {
    /// Runs until the process ends, of which the estate tells after the shards have.
    pub(super) async fn run(self, state: Arc<ControlState>, estate: Estate) {
        let HandOver { path, begun, orders, ready, shards, ties, launch, processes_max, heritage } =
            self;
        let Estate { sockets, is_ours, tenure, services, hang_ups, farewell } = estate;
        let generation = match &begun {
            Begun::First(_) => 0,
            Begun::Successor(take_over) => take_over.generation(),
        };
        let view = Arc::new(View::new(&state, generation, processes_max));
        state.set_hand_overs(Arc::clone(&view));
        let (undo, undone) = mpsc::unbounded_channel();
        let drain_time = state.process().drain.time;
        let hello = hello(generation);
        let duty = Arc::new(Duty {
            path,
            orders,
            hello,
            sockets,
            is_ours,
            tenure,
            services,
            view,
            ties,
            launch,
            shards,
            drain_time,
            undo,
            heritage,
            farewell,
        });
        match begun {
            Begun::First(rendezvous) => {
                drop(undone);
                duty.take_interfaces();
                reception::run(rendezvous, duty, hang_ups).await;
            }
            Begun::Successor(take_over) => {
                successor::run(take_over, ready, duty, undone, hang_ups).await;
            }
        }
    }
}

/// Who this process is.
fn hello(generation: u32) -> Hello {
    Hello {
        major: version::MAJOR,
        minor: version::MINOR,
        build: view::BUILD.to_owned(),
        generation,
        pid: std::process::id(),
        features: version::MOVES_CONNECTIONS,
    }
}

/// Waits for the end of the process, or of whoever tells of it.
pub(super) async fn end_of_process(farewell: &watch::Receiver<bool>) {
    let mut farewell = farewell.clone();
    // Whoever could tell has gone: that is the end as well.
    let _told = farewell.wait_for(|ends| *ends).await;
}

/// Tells a shard. Its mailbox is full only for moments.
async fn post(shard: &Mail, message: Message) {
    let mut message = message;
    while let Err(back) = shard.send(message) {
        message = back;
        sleep(shard::MAILBOX_RETRY).await;
    }
}

/// The shard that knows a connection by its number, which the shards give out in turn.
fn shard_of(shards: &[Mail], connection: u64) -> &Mail {
    &shards[(connection % shards.len() as u64) as usize]
}

/// Listens where a successor looks.
fn listen_again(path: &Path) -> Option<Rendezvous> {
    Rendezvous::succeed(path)
        .inspect_err(
            |error| log::error!(target: "upgrade", "no successor can find this process: {error}"),
        )
        .ok()
}

fn record(lent: &Lent) -> ListenerRecord {
    let address = SockRef::from(&lent.socket).local_addr().ok();
    let address = address.and_then(|address| address.as_socket());
    ListenerRecord {
        name: lent.listener.to_string(),
        address: address.map(|address| address.to_string()).unwrap_or_default(),
        shard: 0,
    }
}

/// The kind of state that is the directory of services, as its state file has it.
const SERVICES_KIND: &str = "services";

/// Its version.
const SERVICES_VERSION: u32 = 1;

/// The name of the admin interface among listeners.
pub(super) const ADMIN: &str = "admin interface";
