//! The state of one socket as the ring sees it.
//!
//! Invariant: `operations` counts what the kernel still holds for this socket; the slot is freed,
//! and the descriptor closed, only when it is zero.

use std::collections::VecDeque;
use std::num::NonZeroI32;
use std::os::fd::RawFd;
use std::task::Waker;

use super::queue::Queue;
use super::socket::Watermarks;

/// What the ring keeps for a socket or a listener.
pub(super) struct Slot {
    pub(super) fd: RawFd,
    pub(super) marks: Watermarks,
    pub(super) waker: Option<Waker>,
    /// Operations that have not seen their last completion.
    pub(super) operations: u8,
    /// The task let go; the slot stays until `operations` is zero.
    pub(super) closing: bool,
    /// Nothing is to be begun: what is queued stays queued.
    pub(super) held: bool,
    pub(super) receive: ReceiveSide,
    pub(super) send: SendSide,
    pub(super) connect: ConnectState,
    /// Of a listener, once it has accepted.
    pub(super) accepting: Option<Box<Accepting>>,
}

/// What only a listener has.
#[derive(Default)]
pub(super) struct Accepting {
    /// Descriptors that nobody has taken yet.
    pub(super) accepted: VecDeque<RawFd>,
    pub(super) error: Option<i32>,
}

/// The receiving half.
#[derive(Default)]
pub(super) struct ReceiveSide {
    pub(super) queue: Queue,
    pub(super) armed: bool,
    /// A cancel is under way because the queue passed its high watermark.
    pub(super) pausing: bool,
    /// The task wants to receive; false before the start.
    pub(super) wanted: bool,
    /// Waits for a receive buffer.
    pub(super) starved: bool,
    /// To be looked at when it has gone quiet, and whether bytes came since the last look.
    pub(super) listed: bool,
    pub(super) fresh: bool,
    pub(super) ended: bool,
    pub(super) error: Option<NonZeroI32>,
}

/// The sending half.
#[derive(Default)]
pub(super) struct SendSide {
    pub(super) queue: Queue,
    /// A send is with the kernel; the chunks at the front of the queue belong to it.
    pub(super) in_flight: bool,
    /// On the list of sockets to send for at the next turn.
    pub(super) listed: bool,
    /// Bytes of the send that is with the kernel.
    pub(super) offered_bytes: u32,
    /// Wake the task when this few bytes are left.
    pub(super) wake_at: Option<u32>,
    /// The socket's buffer was full: the next send waits for room inside the kernel.
    pub(super) congested: bool,
    /// Send FIN once the queue is empty.
    pub(super) finish: bool,
    pub(super) finished: bool,
    pub(super) error: Option<NonZeroI32>,
    /// Bytes the kernel took, over the life of the socket.
    pub(super) sent_bytes: u64,
}

/// Where a connect stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectState {
    /// Not by us, or done.
    Connected,
    Failed(i32),
    UnderWay,
}

impl Slot {
    pub(super) fn new(fd: RawFd, connect: ConnectState, marks: Watermarks) -> Self {
        Self {
            fd,
            marks,
            waker: None,
            operations: 0,
            closing: false,
            held: false,
            receive: ReceiveSide::default(),
            send: SendSide::default(),
            connect,
            accepting: None,
        }
    }

    /// True when the receive side should have an operation with the kernel but has none.
    pub(super) fn should_arm(&self) -> bool {
        let receive = &self.receive;
        receive.wanted
            && !receive.armed
            && !receive.starved
            && !receive.ended
            && receive.error.is_none()
            && !self.closing
            && !self.held
            && receive.queue.load() <= self.marks.low()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_fits_a_size_of_the_allocator() {
        // There is one for each connection; the next size is 160.
        assert!(size_of::<Slot>() <= 128, "{}", size_of::<Slot>());
    }
}
