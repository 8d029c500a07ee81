//! Looks again at sockets that went quiet after bytes, because a kernel may have lost what came next.
//!
//! A multishot receive takes the bytes of several wake-ups at once, and Linux before 7.0 then forgets an
//! end or a reset that was among them (liburing issue 1549; a backport was seen to lose resets still).
//! Nothing more happens on such a socket, so its connection would stay until a timeout.
//! Invariant: a socket that has received is looked at once, one to two periods after its last bytes.

use std::os::fd::RawFd;

use crate::timer::{NANOS_PER_MS, Nanos};

use super::core::Core;

/// Which sockets to look at, and when.
#[derive(Default)]
pub(super) struct Recheck {
    listed: Vec<u32>,
    due: Option<Nanos>,
}

impl Recheck {
    /// The next time to look; nothing while there is nothing to look at.
    pub(super) fn due(&self) -> Option<Nanos> {
        self.due
    }
}

impl Core {
    /// Bytes came for this socket.
    pub(super) fn list_recheck(&mut self, index: u32) {
        if !self.features.multishot {
            return;
        }
        let receive = &mut self.slot_mut(index).receive;
        receive.fresh = true;
        if !receive.listed {
            receive.listed = true;
            self.recheck.listed.push(index);
        }
    }

    /// Looks at what is due.
    pub(super) fn recheck(&mut self, now: Nanos) {
        if self.recheck.listed.is_empty() || now < *self.recheck.due.get_or_insert(now + PERIOD) {
            return;
        }
        let mut listed = std::mem::take(&mut self.recheck.listed);
        listed.retain(|index| self.stays_listed(*index));
        self.recheck.due = (!listed.is_empty()).then_some(now + PERIOD);
        self.recheck.listed = listed;
    }

    fn stays_listed(&mut self, index: u32) -> bool {
        let Some(slot) = self.slot_if_any(index) else { return false };
        let receive = &mut slot.receive;
        // Not listed: the place is another's by now, who has received nothing yet.
        if !receive.listed || std::mem::take(&mut receive.fresh) {
            return receive.listed;
        }
        receive.listed = false;
        if receive.armed && !receive.pausing && is_over(slot.fd) {
            // Armed anew, it is told at once.
            self.counters.rechecks += 1;
            self.cancel_receive(index);
        }
        false
    }
}

/// Whether the peer has finished or the connection has failed.
fn is_over(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one entry, which outlives the call; it does not wait.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1
}

/// Long enough that connections in use are rarely looked at, short enough for who waits for an end.
const PERIOD: Nanos = 250 * NANOS_PER_MS;
