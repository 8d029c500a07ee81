//! Accepting connections and giving each to the shard that should serve it.
//!
//! With few, long connections the kernel's choice among SO_REUSEPORT sockets is uneven. So each
//! new connection goes to the shard that has fewest, through its mailbox if that is another one.
//! Invariant: an accepted descriptor is either served by exactly one shard or closed and counted.

use std::cell::{Cell, Ref, RefCell};
use std::future::Future;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use outrigger_xds::snapshot::{Listener as ListenerConfig, TrafficDirection};
use tokio::sync::mpsc::UnboundedSender;

use crate::connection::{self, ListenerLogs, ListenerRuntime};
use crate::control::hand_over::Lent;
use crate::ring::{AcceptError, Accepted, Listener};
use crate::sockopt;
use crate::timer::{NANOS_PER_MS, Nanos, Timer};

use super::pulse::quietest;
use super::{Message, Shard, spawn_guarded};

/// The listeners that this shard serves.
#[derive(Default)]
pub(super) struct Acceptors {
    runtimes: RefCell<Vec<Rc<ListenerRuntime>>>,
    open: RefCell<Vec<Rc<OpenListener>>>,
    /// Whose connections are asked to go for as long as the process lives.
    asked: Cell<Option<Listeners>>,
    /// Another process has the sockets, too.
    is_shared: Cell<bool>,
    /// It accepts on them.
    is_paused: Cell<bool>,
}

/// Which listeners are meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listeners {
    /// Every one.
    All,
    /// Those whose traffic direction is inbound.
    Inbound,
}

impl Listeners {
    fn includes(self, config: &ListenerConfig) -> bool {
        self == Listeners::All || config.traffic_direction == TrafficDirection::Inbound
    }
}

/// One listening socket; shared with the task that accepts on it.
struct OpenListener {
    /// Of the listener's present version.
    runtime: RefCell<Rc<ListenerRuntime>>,
    listener: Listener,
    pause: Cell<Pause>,
    /// It closes once it is paused.
    ends: Cell<bool>,
    sweep: Cell<Option<Sweep>>,
}

/// When to look for connections that the kernel told somebody else of.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    at: Nanos,
    until: Nanos,
}

/// Whether a successor accepts on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// This process does.
    Not,
    /// A successor does, and this process what the kernel has begun to accept for it.
    Begun,
    /// Only a successor does.
    Done,
}

impl Acceptors {
    /// Serves a listener from now on, in place of the one of its name. New sockets replace those that
    /// it has; without, it goes on with them.
    pub(super) fn listen(
        &self,
        shard: &Rc<Shard>,
        config: &Arc<ListenerConfig>,
        logs: &ListenerLogs,
        rebound: bool,
        sockets: Option<Vec<OwnedFd>>,
    ) {
        let runtime = self.renew(shard, config, logs, rebound);
        let Some(sockets) = sockets else { return };
        let replaced = self.take_open(|open| open.runtime.borrow().config.name == config.name);
        for socket in sockets {
            self.open(shard, &runtime, socket);
        }
        replaced.into_iter().for_each(|open| open.close(self.is_shared.get()));
    }

    /// Ends a listener: takes what waits in its backlogs, and asks its connections to go.
    pub(super) fn unlisten(&self, shard: &Rc<Shard>, name: &str) {
        let gone = self.take_open(|open| *open.runtime.borrow().config.name == *name);
        gone.into_iter().for_each(|open| open.close(self.is_shared.get()));
        let mut runtimes = self.runtimes.borrow_mut();
        for runtime in runtimes.extract_if(.., |known| *known.config.name == *name) {
            shard.redirects.remove(&runtime);
            runtime.drain(shard, None);
        }
    }

    fn open(&self, shard: &Rc<Shard>, runtime: &Rc<ListenerRuntime>, socket: OwnedFd) {
        let listener = shard.ring.listen(socket);
        listener.resume();
        let open = Rc::new(OpenListener {
            runtime: RefCell::new(Rc::clone(runtime)),
            listener,
            pause: Cell::new(Pause::Not),
            ends: Cell::new(false),
            sweep: Cell::new(None),
        });
        self.open.borrow_mut().push(Rc::clone(&open));
        shard.pulse().listening_begins();
        if self.is_paused.get() {
            open.pause();
        }
        let timer = shard.timers.timer();
        spawn_guarded(shard, Accepting { shard: Rc::clone(shard), open, timer });
    }

    fn take_open(&self, goes: impl Fn(&OpenListener) -> bool) -> Vec<Rc<OpenListener>> {
        self.open.borrow_mut().extract_if(.., |open| goes(open)).collect()
    }

    /// Serves a connection that another shard accepted and counted for us.
    pub(super) fn adopt(&self, shard: &Rc<Shard>, listener: &str, socket: OwnedFd) {
        let runtime =
            self.runtimes.borrow().iter().find(|known| &*known.config.name == listener).cloned();
        match runtime {
            Some(runtime) => {
                shard.stats.taken_over.inc();
                connection::serve(shard, &runtime, socket);
            }
            // The listener is gone: so is the connection.
            None => shard.pulse().connection_ends(),
        }
    }

    /// The listeners that are served.
    pub(super) fn runtimes(&self) -> Ref<'_, [Rc<ListenerRuntime>]> {
        Ref::map(self.runtimes.borrow(), |runtimes| &**runtimes)
    }

    /// Asks connections to go, and goes on accepting.
    pub(super) fn ask_to_go(&self, shard: &Rc<Shard>, which: Listeners) {
        self.asked.set(Some(which));
        let runtimes = self.runtimes.borrow();
        for runtime in runtimes.iter().filter(|runtime| which.includes(&runtime.config)) {
            runtime.ask_to_go(shard);
        }
    }

    /// Shares the listening sockets.
    pub(super) fn lend(&self, sender: &UnboundedSender<Lent>) {
        self.is_shared.set(true);
        for open in &*self.open.borrow() {
            let Some(socket) = open.share() else { continue };
            let listener = open.runtime.borrow().config.name.clone();
            // Whoever asked may have gone.
            let _gone = sender.send(Lent { listener, socket });
        }
    }

    /// Accepts no more. What the kernel has accepted already is served.
    pub(super) fn pause(&self) {
        self.is_paused.set(true);
        self.open.borrow().iter().for_each(|open| open.pause());
    }

    /// Takes what waits for a listener that a successor has no place for, and closes its sockets, which
    /// nobody else has. Its connections stay.
    pub(super) fn release(&self, shard: &Rc<Shard>, name: &str) {
        let gone = self.take_open(|open| *open.runtime.borrow().config.name == *name);
        for open in gone {
            if open.pause.replace(Pause::Not) == Pause::Done {
                shard.pulse().listening_begins();
            }
            open.close(false);
        }
    }

    /// Accepts again.
    ///
    /// The kernel wakes one waiter for each connection. That may be a successor that hangs, or the ring of a
    /// dead process, which outlives it for a moment: so it is looked for connections from time to time,
    /// for good where the other lives.
    pub(super) fn resume(&self, shard: &Shard, successor_lives: bool) {
        self.is_shared.set(successor_lives);
        self.is_paused.set(false);
        let now = shard.clock.now();
        let until = if successor_lives { Nanos::MAX } else { now + SWEEPS_AFTER_DEATH };
        self.open.borrow().iter().for_each(|open| open.resume(shard, Sweep { at: now, until }));
    }

    /// Stops accepting: takes what waits in the backlogs, then closes the sockets.
    pub(super) fn close(&self, which: Listeners) {
        let closes = |open: &OpenListener| which.includes(&open.runtime.borrow().config);
        self.take_open(closes).into_iter().for_each(|open| open.close(self.is_shared.get()));
    }

    /// The runtime of a listener, which all its sockets share. Connections of chains that its next
    /// version does not have are asked to go; new ones meet the next version.
    fn renew(
        &self,
        shard: &Rc<Shard>,
        config: &Arc<ListenerConfig>,
        logs: &ListenerLogs,
        rebound: bool,
    ) -> Rc<ListenerRuntime> {
        let mut runtimes = self.runtimes.borrow_mut();
        let known = runtimes.iter_mut().find(|known| known.config.name == config.name);
        let Some(known) = known else {
            let runtime = Rc::new(ListenerRuntime::succeed(shard, config, logs, None));
            self.ask_newcomer(shard, &runtime);
            runtimes.push(Rc::clone(&runtime));
            shard.redirects.add(&runtime);
            return runtime;
        };
        if Arc::ptr_eq(&known.config, config) {
            return Rc::clone(known);
        }
        let before = Some(&**known).filter(|_| !rebound);
        let next = Rc::new(ListenerRuntime::succeed(shard, config, logs, before));
        self.ask_newcomer(shard, &next);
        let before = std::mem::replace(known, Rc::clone(&next));
        shard.redirects.remove(&before);
        shard.redirects.add(&next);
        for open in &*self.open.borrow() {
            if open.runtime.borrow().config.name == config.name {
                open.runtime.replace(Rc::clone(&next));
            }
        }
        before.drain(shard, Some(&next).filter(|_| !rebound).map(|next| &**next));
        next
    }

    fn ask_newcomer(&self, shard: &Rc<Shard>, runtime: &ListenerRuntime) {
        if self.asked.get().is_some_and(|which| which.includes(&runtime.config)) {
            runtime.ask_to_go(shard);
        }
    }
}

impl OpenListener {
    /// Takes what waits in the backlog, then closes the socket. What comes later to a shared one is its other
    /// owner's.
    fn close(&self, is_shared: bool) {
        if !is_shared {
            refuse_newcomers(&self.listener);
        }
        self.ends.set(true);
        self.pause();
    }

    /// The socket, for another process.
    fn share(&self) -> Option<OwnedFd> {
        // SAFETY: the descriptor is open for as long as `listener` lives, which outlives this use.
        let socket = unsafe { BorrowedFd::borrow_raw(self.listener.as_raw_fd()) };
        socket
            .try_clone_to_owned()
            .inspect_err(
                |error| log::error!(target: "upgrade", "a listener can't be shared: {error}"),
            )
            .ok()
    }

    fn pause(&self) {
        if self.pause.get() == Pause::Not {
            self.pause.set(Pause::Begun);
            self.listener.pause();
        }
        self.sweep.set(None);
        self.listener.wake();
    }

    fn resume(&self, shard: &Shard, sweep: Sweep) {
        if self.pause.replace(Pause::Not) == Pause::Done {
            shard.pulse().listening_begins();
        }
        self.listener.resume();
        self.sweep.set(Some(sweep));
        self.listener.wake();
    }

    /// The last of what the kernel had accepted is taken.
    fn accepts_no_more(&self, shard: &Shard) {
        if self.pause.replace(Pause::Done) != Pause::Done {
            shard.pulse().listening_ends();
        }
    }
}

/// The task that accepts on one socket.
struct Accepting {
    shard: Rc<Shard>,
    open: Rc<OpenListener>,
    timer: Timer,
}

impl Future for Accepting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let listener = &self.open.listener;
        listener.register(context.waker());
        self.timer.register(context.waker());
        if self.timer.take_fired() {
            match self.open.pause.get() {
                Pause::Not => listener.resume(),
                // What it could not take before waits for nobody else.
                Pause::Begun | Pause::Done => listener.accept_waiting(),
            }
        }
        if let Some(Sweep { at, until }) = self.open.sweep.get() {
            let now = self.shard.clock.now();
            if at <= now {
                listener.accept_waiting();
                let next = Sweep { at: now + SWEEP_INTERVAL, until };
                self.open.sweep.set(Some(next).filter(|_| now < until));
            }
            if let Some(next) = self.open.sweep.get() {
                self.timer.set(Some(next.at));
            }
        }
        loop {
            match listener.take() {
                Accepted::Connection(socket) => {
                    let runtime = Rc::clone(&self.open.runtime.borrow());
                    if self.open.ends.get() {
                        keep(&self.shard, &runtime, socket);
                    } else {
                        place(&self.shard, &runtime, socket);
                    }
                }
                Accepted::None => {
                    if listener.is_armed() || self.open.pause.get() == Pause::Not {
                        return Poll::Pending;
                    }
                    self.open.accepts_no_more(&self.shard);
                    return if self.open.ends.get() { Poll::Ready(()) } else { Poll::Pending };
                }
                Accepted::Failed(error @ AcceptError::Exhausted(_)) => {
                    let runtime = self.open.runtime.borrow();
                    runtime.stats.accept_paused.inc();
                    log::warn!(
                        target: "listener",
                        "{}: accepting pauses for {} ms: {error}; raise the limit of open files \
                         (ulimit -n, LimitNOFILE=)",
                        runtime.config.name, ACCEPT_PAUSE / NANOS_PER_MS,
                    );
                    self.timer.set(Some(self.shard.clock.now() + ACCEPT_PAUSE));
                }
                Accepted::Failed(error @ AcceptError::Fatal(_)) => {
                    let name = &self.open.runtime.borrow().config.name;
                    log::error!(target: "listener", "{name}: {error}");
                    self.open.accepts_no_more(&self.shard);
                    return Poll::Ready(());
                }
            }
        }
    }
}

/// Gives a new connection to the shard that should have it.
fn place(shard: &Rc<Shard>, runtime: &Rc<ListenerRuntime>, socket: OwnedFd) {
    let target = quietest(&shard.pulses, shard.index);
    if target == shard.index {
        return keep(shard, runtime, socket);
    }
    if !has_room(shard, runtime) {
        return;
    }
    // Counted for the other shard before it knows, so that the next decision sees it.
    shard.pulses[target].connection_begins();
    let message = Message::Adopt { listener: runtime.config.name.clone(), socket };
    match shard.peers[target].send(message) {
        Ok(()) => shard.stats.handed_over.inc(),
        Err(back) => {
            shard.pulses[target].connection_ends();
            shard.stats.mailbox_full.inc();
            if let Message::Adopt { socket, .. } = back {
                shard.pulse().connection_begins();
                connection::serve(shard, runtime, socket);
            }
        }
    }
}

/// Serves a new connection here: others may not have its listener any more.
fn keep(shard: &Rc<Shard>, runtime: &Rc<ListenerRuntime>, socket: OwnedFd) {
    if has_room(shard, runtime) {
        shard.pulse().connection_begins();
        connection::serve(shard, runtime, socket);
    }
}

/// Counts a new connection, and whether it is one too many.
fn has_room(shard: &Shard, runtime: &ListenerRuntime) -> bool {
    shard.stats.accepts.inc();
    let total: u32 = shard.pulses.iter().map(super::Pulse::connections).sum();
    let is_limited = !runtime.config.ignores_connections_max;
    let is_full =
        total >= shard.config.connections_max || (is_limited && total >= shard.connections_max);
    if is_full {
        runtime.stats.downstream_global_cx_overflow.inc();
    }
    !is_full
}

/// Whoever comes between the last look at a backlog and the end of the socket would be reset. So nobody comes;
/// a handshake that has begun has until the accept is cancelled. Where there is no way to see to that (a
/// Unix socket), it is one at the most, with a backlog of nothing; which is no good for TCP, whose handshakes
/// that have begun find no room then.
fn refuse_newcomers(listener: &Listener) {
    if sockopt::ignore_new_connections(listener).is_err() {
        // SAFETY: a plain call on a descriptor that `listener` keeps open.
        unsafe { libc::listen(listener.as_raw_fd(), 0) };
    }
}

/// Short enough not to be noticed, long enough to cost nothing.
const SWEEP_INTERVAL: Nanos = 20 * NANOS_PER_MS;

/// The kernel takes a dead process's ring down in milliseconds, behind its end.
const SWEEPS_AFTER_DEATH: Nanos = 10_000 * NANOS_PER_MS;

/// Long enough for other connections to end, short enough not to be noticed as an outage.
const ACCEPT_PAUSE: Nanos = 100 * NANOS_PER_MS;
