//! A connected stream socket on the ring, as a connection task sees it.
//!
//! Receiving is by chunks that the kernel has already filled; sending is write-behind: `send` only
//! queues, and the next turn gives everything queued to the kernel in one vectored operation.
//! Back-pressure: above the high watermark of unread bytes the receive is cancelled, at the low
//! one it is armed again. The task bounds its own sends by [`Socket::unsent`].

use std::cell::RefCell;
use std::io;
use std::num::NonZeroI32;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::Waker;

use crate::buffers::Chunk;

use super::core::Core;
use super::set_nodelay;
use super::slot::{ConnectState, Slot};

/// Bytes a socket may hold unread before it stops receiving, and where it starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Stop above this.
    pub high: usize,
}

impl Watermarks {
    /// Start at or below this.
    pub fn low(self) -> usize {
        self.high / 2
    }
}

/// What [`Socket::receive`] found.
#[derive(Debug)]
pub enum Received {
    /// Bytes, never empty.
    Chunk(Chunk),
    /// The peer finished sending.
    End,
    /// The connection failed with this errno.
    Failed(i32),
    /// Nothing now; the waker will be called.
    None,
}

/// A connected socket. Dropping it cancels what is under way and closes it; unsent bytes are lost.
pub struct Socket {
    core: Rc<RefCell<Core>>,
    slot: u32,
}

impl Socket {
    pub(super) fn adopt(core: &Rc<RefCell<Core>>, fd: OwnedFd, marks: Watermarks) -> Self {
        let slot = Slot::new(fd.into_raw_fd(), ConnectState::Connected, marks);
        Self { core: Rc::clone(core), slot: core.borrow_mut().insert(slot) }
    }

    /// Starts to receive.
    pub fn start(&self) {
        let mut core = self.core.borrow_mut();
        core.slot_mut(self.slot).receive.wanted = true;
        core.arm_receive_if_due(self.slot);
    }

    /// Takes the next received bytes.
    pub fn receive(&self) -> Received {
        let mut core = self.core.borrow_mut();
        let (slot, queues) = core.slot_and_queues(self.slot);
        let receive = &mut slot.receive;
        if let Some(chunk) = queues.pop_front(&mut receive.queue) {
            core.arm_receive_if_due(self.slot);
            return Received::Chunk(chunk);
        }
        if let Some(code) = receive.error {
            return Received::Failed(code.get());
        }
        if receive.ended { Received::End } else { Received::None }
    }

    /// Puts received bytes back in front of what is still to be received. Empty chunks are ignored.
    pub fn put_back(&self, chunk: Chunk) {
        if !chunk.is_empty() {
            let mut core = self.core.borrow_mut();
            let (slot, queues) = core.slot_and_queues(self.slot);
            queues.push_front(&mut slot.receive.queue, chunk);
        }
    }

    /// True while nothing is unread and the peer has neither finished nor failed: what a pooled
    /// connection must be to be used again.
    pub fn is_quiet(&self) -> bool {
        let core = self.core.borrow();
        let slot = core.slot(self.slot);
        slot.receive.queue.is_empty()
            && !slot.receive.ended
            && slot.receive.error.is_none()
            && slot.send.error.is_none()
    }

    /// True when the peer has finished or the connection failed, read or not.
    pub fn is_over(&self) -> bool {
        let core = self.core.borrow();
        let slot = core.slot(self.slot);
        slot.receive.ended || slot.receive.error.is_some() || slot.send.error.is_some()
    }

    /// Queues bytes. Empty chunks are ignored.
    pub fn send(&self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.core.borrow_mut().queue_send(self.slot, chunk);
        }
    }

    /// Bytes queued that the kernel has not taken. Small chunks count for more than they hold, as
    /// they keep whole buffers.
    pub fn unsent(&self) -> usize {
        self.core.borrow().slot(self.slot).send.queue.load()
    }

    /// The same without that weight: bytes alone.
    pub fn unsent_bytes(&self) -> usize {
        self.core.borrow().slot(self.slot).send.queue.bytes()
    }

    /// Asks for one wake when at most `mark` bytes are unsent; at once if that is so already.
    pub fn wake_at_unsent(&self, mark: usize) {
        self.core.borrow_mut().wake_at_unsent(self.slot, mark);
    }

    /// Bytes the kernel has taken so far.
    pub fn sent_bytes(&self) -> u64 {
        self.core.borrow().slot(self.slot).send.sent_bytes
    }

    /// The errno of a failed send.
    pub fn send_error(&self) -> Option<i32> {
        self.core.borrow().slot(self.slot).send.error.map(NonZeroI32::get)
    }

    /// Sends FIN once everything queued is sent.
    pub fn finish(&self) {
        self.core.borrow_mut().finish(self.slot);
    }

    /// True once FIN was sent.
    pub fn is_finished(&self) -> bool {
        self.core.borrow().slot(self.slot).send.finished
    }

    /// Makes the close that follows a reset, so that the peer can't take a cut-off message for a
    /// whole one.
    pub fn reset_on_close(&self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: a plain setsockopt on a descriptor this handle keeps open. It can only fail for
        // sockets without the option, where the close is then an ordinary one.
        unsafe {
            libc::setsockopt(
                self.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            );
        }
    }

    /// Whom to wake when anything about this socket changes.
    pub fn register(&self, waker: &Waker) {
        self.core.borrow_mut().register(self.slot, waker);
    }

    /// Begins nothing any more, neither receiving nor sending: what is sent stays here. The waker is called
    /// when the kernel has let go of the socket, and when something is sent.
    pub fn hold(&self) {
        self.core.borrow_mut().hold(self.slot);
    }

    /// Goes on after [`Socket::hold`].
    pub fn go_on(&self) {
        self.core.borrow_mut().go_on(self.slot);
    }

    /// True when the kernel has nothing to do for this socket: what was received until then is here, and
    /// what it did not take is unsent.
    pub fn is_still(&self) -> bool {
        self.core.borrow().slot(self.slot).operations == 0
    }

    /// A copy of what was received and is not read.
    pub fn copy_unread(&self) -> Vec<u8> {
        let core = self.core.borrow();
        core.copy_of(&core.slot(self.slot).receive.queue)
    }

    /// A copy of what was sent and the kernel has not taken.
    pub fn copy_unsent(&self) -> Vec<u8> {
        let core = self.core.borrow();
        core.copy_of(&core.slot(self.slot).send.queue)
    }

    /// Forgets the first `count` unsent bytes of a held socket: somebody else sends them.
    pub fn drop_unsent(&self, count: usize) {
        let mut core = self.core.borrow_mut();
        let (slot, queues) = core.slot_and_queues(self.slot);
        queues.advance(&mut slot.send.queue, count);
    }

    /// The socket, for another owner.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: the slot keeps the descriptor open for longer than this use.
        unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) }.try_clone_to_owned()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.core.borrow().slot(self.slot).fd
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.core.borrow_mut().close(self.slot);
    }
}

/// A socket whose connect is under way.
pub struct Connecting {
    socket: Socket,
}

impl Connecting {
    pub(super) fn start(
        core: &Rc<RefCell<Core>>,
        address: &socket2::SockAddr,
        options: &dyn Fn(&socket2::Socket) -> io::Result<()>,
        marks: Watermarks,
    ) -> io::Result<Self> {
        let socket = socket2::Socket::new(address.domain(), socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        set_nodelay(&socket);
        options(&socket)?;
        let slot = Slot::new(socket.into_raw_fd(), ConnectState::UnderWay, marks);
        let slot = core.borrow_mut().insert(slot);
        core.borrow_mut().connect(slot, address);
        Ok(Self { socket: Socket { core: Rc::clone(core), slot } })
    }

    /// Whom to wake when the connect is done.
    pub fn register(&self, waker: &Waker) {
        self.socket.register(waker);
    }

    /// The connected socket, its errno, or this again while it is under way.
    ///
    /// # Errors
    /// The errno of the failed connect.
    pub fn ready(self) -> Result<Result<Socket, Self>, i32> {
        let state = self.socket.core.borrow().slot(self.socket.slot).connect;
        match state {
            ConnectState::Connected => Ok(Ok(self.socket)),
            ConnectState::Failed(code) => Err(code),
            ConnectState::UnderWay => Ok(Err(self)),
        }
    }
}
