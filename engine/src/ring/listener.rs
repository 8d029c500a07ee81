//! A listening socket on the ring.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::Waker;

use super::core::Core;
use super::set_nodelay;
use super::slot::{ConnectState, Slot};
use super::socket::Watermarks;

/// A listening socket that does not block. Dropping it cancels the accept and closes it.
pub struct Listener {
    core: Rc<RefCell<Core>>,
    slot: u32,
}

/// What [`Listener::take`] found.
#[derive(Debug)]
pub enum Accepted {
    /// A connected, non-blocking, close-on-exec socket with Nagle's delay off.
    Connection(OwnedFd),
    /// Nothing now; the waker will be called.
    None,
    /// The kernel could not accept. Accepting stops until [`Listener::resume`].
    Failed(AcceptError),
}

/// Why accepting stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// Out of file descriptors or memory: wait, then resume.
    #[error("out of descriptors or memory (errno {0})")]
    Exhausted(i32),
    /// The listening socket is unusable.
    #[error("the listening socket failed (errno {0})")]
    Fatal(i32),
}

impl Listener {
    pub(super) fn new(core: &Rc<RefCell<Core>>, fd: OwnedFd) -> Self {
        let marks = Watermarks { high: 0 };
        let slot = Slot::new(fd.into_raw_fd(), ConnectState::Connected, marks);
        Self { core: Rc::clone(core), slot: core.borrow_mut().insert(slot) }
    }

    /// Starts, or starts again, to accept.
    pub fn resume(&self) {
        self.core.borrow_mut().arm_accept(self.slot);
    }

    /// Stops accepting; connections that come later stay in the backlog, or are those of others who have the
    /// socket. Accepted ones can still be taken, once [`Listener::is_armed`] says no more, the last of them.
    pub fn pause(&self) {
        self.core.borrow_mut().cancel_accept(self.slot);
    }

    /// Whether the kernel may still accept for us.
    pub fn is_armed(&self) -> bool {
        self.core.borrow().slot(self.slot).receive.armed
    }

    /// Accepts what waits in the backlog, of which the kernel may have told another who has the socket.
    pub fn accept_waiting(&self) {
        self.core.borrow_mut().accept_waiting(self.slot);
    }

    /// Takes the next accepted connection.
    pub fn take(&self) -> Accepted {
        let mut core = self.core.borrow_mut();
        let Some(accepting) = &mut core.slot_mut(self.slot).accepting else {
            return Accepted::None;
        };
        if let Some(fd) = accepting.accepted.pop_front() {
            // SAFETY: the kernel just made this descriptor for us; nobody else has it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            set_nodelay(&fd);
            return Accepted::Connection(fd);
        }
        match accepting.error.take() {
            None => Accepted::None,
            Some(code @ (libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) => {
                Accepted::Failed(AcceptError::Exhausted(code))
            }
            Some(code) => Accepted::Failed(AcceptError::Fatal(code)),
        }
    }

    /// Has its task look again.
    pub fn wake(&self) {
        self.core.borrow_mut().wake(self.slot);
    }

    /// Whom to wake when there is something to take.
    pub fn register(&self, waker: &Waker) {
        self.core.borrow_mut().register(self.slot, waker);
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.core.borrow().slot(self.slot).fd
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.core.borrow_mut().close(self.slot);
    }
}
