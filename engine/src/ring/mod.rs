//! A shard's own io_uring: sockets, listeners, one bell and one timeout.
//!
//! Connection tasks never see an entry or a completion. They hold a [`Socket`], take chunks from
//! it, queue chunks to it, and are woken when something about it changed. The driver calls
//! [`Ring::turn`], which submits everything queued since the last turn and hands out completions.
//!
//! Invariant: the kernel's view of memory and descriptors is respected. A socket's slot, its
//! unsent chunks and its descriptor live until the last operation on it has completed, whatever
//! happened to the task.

mod core;
mod listener;
mod probe;
mod queue;
mod recheck;
mod slot;
mod socket;
mod token;

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use crate::buffers::ReceiveConfig;
use crate::timer::Nanos;

use self::core::Core;

pub use listener::{AcceptError, Accepted, Listener};
pub use probe::{Features, KERNEL_MIN, Unsupported, probe};
pub use socket::{Connecting, Received, Socket, Watermarks};

/// Sizes and features of one ring.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Submission entries; completions get four times as many.
    pub entries: u32,
    /// The receive buffers.
    pub receive: ReceiveConfig,
    /// What the kernel can do, from [`probe`].
    pub features: Features,
}

/// One shard's ring. Clones share it. Not `Send`: it belongs to the thread that made it.
#[derive(Clone)]
pub struct Ring {
    core: Rc<RefCell<Core>>,
}

/// How long a turn may wait for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Reap what is there.
    No,
    /// Block for the first completion. [`Ring::wake_after`] bounds it.
    ForOne,
}

/// What the ring counts. Read by the driver, which publishes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// Times a socket found no receive buffer and had to wait for one.
    pub buffer_waits: u64,
    /// Ends and resets that the kernel had not told, found by [`Ring::recheck`].
    pub rechecks: u64,
    /// Completions handed out.
    pub completions: u64,
    /// System calls made by turns.
    pub enters: u64,
}

impl Ring {
    /// Makes the ring on the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses the ring or its buffers; [`probe`] explains such refusals.
    pub fn new(config: RingConfig) -> io::Result<Self> {
        Ok(Self { core: Rc::new(RefCell::new(Core::new(config)?)) })
    }

    /// Submits what was queued, waits if asked to and no task was woken since the last
    /// [`Ring::take_woken`], and hands out completions. False when there was nothing for a task: no
    /// completion but the timeout of [`Ring::wake_after`], and nobody woken.
    ///
    /// # Errors
    /// Only for faults of the ring itself, which the shard can't survive.
    pub fn turn(&self, wait: Wait) -> io::Result<bool> {
        self.core.borrow_mut().turn(wait)
    }

    /// Whether the kernel may have put work off to the next turn. It does 20 pieces of it in one that does
    /// not wait (6.13), and not all of them complete something: after a FIN it only looks at the socket
    /// again. What is done behind such work signals no eventfd.
    pub fn is_behind(&self) -> bool {
        self.core.borrow_mut().is_behind()
    }

    /// Looks at sockets that went quiet, when that is due: kernels lose ends and resets. To be called every
    /// turn.
    pub fn recheck(&self, now: Nanos) {
        self.core.borrow_mut().recheck(now);
    }

    /// When [`Ring::recheck`] is due.
    pub fn recheck_at(&self) -> Option<Nanos> {
        self.core.borrow().recheck.due()
    }

    /// True when a task was woken since the last call. Entries that tasks queued don't count:
    /// the next turn submits them, waiting or not.
    pub fn take_woken(&self) -> bool {
        self.core.borrow_mut().take_woken()
    }

    /// Notes that a task was woken by something other than the ring, so that the driver lets it
    /// run before it sleeps.
    pub fn note_wake(&self) {
        self.core.borrow_mut().note_wake();
    }

    /// Registers the eventfd that the kernel signals at completions while signalling is on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn register_eventfd(&self, event: RawFd) -> io::Result<()> {
        self.core.borrow().register_eventfd(event)
    }

    /// Switches completion signals on the registered eventfd on or off.
    pub fn signal_completions(&self, on: bool) {
        self.core.borrow_mut().signal_completions(on);
    }

    /// Makes the ring complete something (and so end a wait or a park) after `delay`. A later call
    /// replaces an earlier one.
    pub fn wake_after(&self, delay: Duration) {
        self.core.borrow_mut().wake_after(delay);
    }

    /// True from [`Ring::wake_after`] until its delay was over and a turn saw that.
    pub fn is_timeout_armed(&self) -> bool {
        self.core.borrow().is_timeout_armed()
    }

    /// Listens to a bell: a byte on this stream socket ends a wait or a park. One per ring.
    pub fn listen_to(&self, bell: OwnedFd) {
        self.core.borrow_mut().listen_to(bell);
    }

    /// True when the bell was rung since the last call.
    pub fn take_rung(&self) -> bool {
        self.core.borrow_mut().take_rung()
    }

    /// Adopts a connected, non-blocking socket.
    pub fn adopt(&self, fd: OwnedFd, marks: Watermarks) -> Socket {
        Socket::adopt(&self.core, fd, marks)
    }

    /// Starts to connect. The socket is ready when [`Connecting`] says so.
    ///
    /// # Errors
    /// When no socket can be made (out of descriptors) or its options are refused.
    pub fn connect(
        &self,
        address: &socket2::SockAddr,
        options: &dyn Fn(&socket2::Socket) -> io::Result<()>,
        marks: Watermarks,
    ) -> io::Result<Connecting> {
        Connecting::start(&self.core, address, options, marks)
    }

    /// Accepts connections on a listening socket that does not block.
    pub fn listen(&self, listener: OwnedFd) -> Listener {
        Listener::new(&self.core, listener)
    }

    /// What was counted since the last call.
    pub fn take_counters(&self) -> RingCounters {
        std::mem::take(&mut self.core.borrow_mut().counters)
    }

    /// Receive buffers held by chunks, and published or held.
    pub fn buffers(&self) -> (u16, u16) {
        let core = self.core.borrow();
        (core.buffers.held(), core.buffers.grown())
    }
}

fn set_nodelay(fd: &impl AsRawFd) {
    let one: libc::c_int = 1;
    // SAFETY: a plain setsockopt on a descriptor we hold. It fails for Unix sockets, which have no
    // such delay.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

#[cfg(test)]
mod tests;
