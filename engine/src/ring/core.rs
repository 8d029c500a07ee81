//! The ring itself: entries in, completions out.
//!
//! Completions are handled in two steps, as they must be when tasks may call back: here they only
//! change slots and wake wakers; the tasks run later, when the driver yields to them.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroI32;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::task::Waker;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::buffers::{Chunk, ReceiveBuffers};

use super::probe::Features;
use super::queue::{Queue, Queues};
use super::recheck::Recheck;
use super::slot::{ConnectState, Slot};
use super::token::{Op, pack, unpack};
use super::{RingConfig, RingCounters, Wait};

pub(super) struct Core {
    // Dropped before the buffers, so that the kernel lets go of them first.
    uring: IoUring,
    pub(super) buffers: ReceiveBuffers,
    pub(super) features: Features,
    pub(super) counters: RingCounters,
    slots: Vec<Option<Box<Slot>>>,
    free_slots: Vec<u32>,
    /// What is received and not read, and what is to be sent.
    queues: Queues,
    /// Slots with something to send at the next turn.
    to_send: Vec<u32>,
    /// Slots that wait for a receive buffer, in order.
    starved: VecDeque<u32>,
    pub(super) recheck: Recheck,
    /// Vectors of sends being submitted; the kernel copies them while it takes the entry.
    vectors: Box<[SendVector; SEND_VECTORS]>,
    vectors_used: usize,
    /// Delays and addresses of entries being submitted, likewise. Boxed, because the kernel has
    /// their places while the vector grows.
    #[expect(clippy::vec_box, reason = "entries must not move")]
    addresses: Vec<Box<socket2::SockAddr>>,
    delays: Box<[Timespec; DELAYS]>,
    delays_used: usize,
    /// Sends in this submission that complete while it is taken.
    inline_sends: usize,
    /// A task was woken since the flag was last cleared.
    woken: bool,
    bell: Option<Bell>,
    /// The number of the timeout that is armed; numbers tell it from those that it replaced, whose
    /// completions may still come.
    timeout: Option<u32>,
    timeouts: u32,
}

struct Bell {
    fd: OwnedFd,
    /// Where the kernel writes what was rung.
    strokes: Box<[u8; 16]>,
    rung: bool,
}

struct SendVector {
    header: libc::msghdr,
    parts: [libc::iovec; SEND_PARTS],
}

impl Core {
    pub(super) fn new(config: RingConfig) -> io::Result<Self> {
        let buffers = ReceiveBuffers::new(config.receive)?;
        let mut builder = IoUring::builder();
        builder
            .setup_clamp()
            .setup_submit_all()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(config.entries.saturating_mul(4));
        if config.features.defer_taskrun {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        let uring = builder.build(config.entries)?;
        let (address, entries) = buffers.ring();
        // SAFETY: the ring memory belongs to `buffers`, which is dropped after `uring`.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(address, entries, BUFFER_GROUP, 0)?;
        }
        let core = Self {
            uring,
            buffers,
            features: config.features,
            counters: RingCounters::default(),
            slots: Vec::new(),
            free_slots: Vec::new(),
            queues: Queues::default(),
            to_send: Vec::new(),
            starved: VecDeque::new(),
            recheck: Recheck::default(),
            vectors: Box::new([const { SendVector::EMPTY }; SEND_VECTORS]),
            vectors_used: 0,
            addresses: Vec::new(),
            delays: Box::new([Timespec::new(); DELAYS]),
            delays_used: 0,
            inline_sends: 0,
            woken: false,
            bell: None,
            timeout: None,
            timeouts: 0,
        };
        Ok(core)
    }

    pub(super) fn turn(&mut self, wait: Wait) -> io::Result<bool> {
        self.start_sends();
        self.feed_starved();
        self.buffers.publish();
        // A FIN that was sent just now has woken its task, and no completion will tell.
        let woken = self.woken;
        self.enter(if woken { Wait::No } else { wait })?;
        Ok(self.reap() | woken)
    }

    pub(super) fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    pub(super) fn note_wake(&mut self) {
        self.woken = true;
    }

    // ---- slots -------------------------------------------------------------------------------

    pub(super) fn insert(&mut self, slot: Slot) -> u32 {
        let slot = Box::new(slot);
        if let Some(index) = self.free_slots.pop() {
            self.slots[index as usize] = Some(slot);
            return index;
        }
        self.slots.push(Some(slot));
        (self.slots.len() - 1) as u32
    }

    pub(super) fn slot(&self, index: u32) -> &Slot {
        self.slots[index as usize].as_ref().expect("a handle keeps its slot")
    }

    pub(super) fn slot_mut(&mut self, index: u32) -> &mut Slot {
        self.slot_and_queues(index).0
    }

    pub(super) fn slot_and_queues(&mut self, index: u32) -> (&mut Slot, &mut Queues) {
        let slot = self.slots[index as usize].as_mut().expect("a handle keeps its slot");
        (slot, &mut self.queues)
    }

    pub(super) fn copy_of(&self, queue: &Queue) -> Vec<u8> {
        self.queues.iter(queue).flat_map(|chunk| chunk.iter().copied()).collect()
    }

    pub(super) fn slot_if_any(&mut self, index: u32) -> Option<&mut Slot> {
        self.slots[index as usize].as_deref_mut()
    }

    pub(super) fn register(&mut self, index: u32, waker: &Waker) {
        let slot = self.slot_mut(index);
        if !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            slot.waker = Some(waker.clone());
        }
    }

    /// The handle is gone: cancel what is under way, and close when the kernel has let go.
    pub(super) fn close(&mut self, index: u32) {
        let (slot, queues) = self.slot_and_queues(index);
        slot.closing = true;
        slot.waker = None;
        queues.clear(&mut slot.receive.queue);
        if !slot.send.in_flight {
            queues.clear(&mut slot.send.queue);
        }
        for fd in slot.accepting.iter_mut().flat_map(|accepting| accepting.accepted.drain(..)) {
            // SAFETY: accepted by the kernel for us and handed to nobody.
            unsafe { libc::close(fd) };
        }
        let (fd, operations) = (slot.fd, slot.operations);
        if operations == 0 {
            self.release(index);
        } else {
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(fd)).all()).build();
            self.push(&cancel.user_data(pack(Op::Aside, 0)));
        }
    }

    fn release(&mut self, index: u32) {
        let Some(slot) = self.slots[index as usize].take() else { return };
        self.free_slots.push(index);
        self.push(&opcode::Close::new(Fd(slot.fd)).build().user_data(pack(Op::Aside, 0)));
    }

    /// An operation on `index` saw its last completion.
    fn settle(&mut self, index: u32) {
        let slot = self.slot_mut(index);
        slot.operations -= 1;
        if slot.operations > 0 {
            return;
        }
        if slot.closing {
            self.release(index);
        } else if slot.held {
            self.wake(index);
        }
    }

    pub(super) fn wake(&mut self, index: u32) {
        self.woken = true;
        if let Some(waker) = &self.slot(index).waker {
            waker.wake_by_ref();
        }
    }

    /// Begins nothing on this socket any more, and cancels what is under way.
    pub(super) fn hold(&mut self, index: u32) {
        let slot = self.slot_mut(index);
        slot.held = true;
        if slot.operations > 0 {
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(slot.fd)).all()).build();
            self.push(&cancel.user_data(pack(Op::Aside, 0)));
        }
    }

    /// Goes on with a socket that was held.
    pub(super) fn go_on(&mut self, index: u32) {
        self.slot_mut(index).held = false;
        self.arm_receive_if_due(index);
        self.list_send(index);
    }

    // ---- receiving ---------------------------------------------------------------------------

    pub(super) fn arm_receive_if_due(&mut self, index: u32) {
        let multishot = self.features.multishot;
        let slot = self.slot_mut(index);
        if !slot.should_arm() {
            return;
        }
        slot.receive.armed = true;
        slot.operations += 1;
        let fd = Fd(slot.fd);
        let entry = if multishot {
            opcode::RecvMulti::new(fd, BUFFER_GROUP).build()
        } else {
            opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(BUFFER_GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        };
        self.push(&entry.user_data(pack(Op::Receive, index)));
    }

    fn on_receive(&mut self, index: u32, result: i32, flags: u32) {
        let chunk = cqueue::buffer_select(flags).and_then(|buffer| {
            // SAFETY: straight from a receive completion on our buffer group, taken once.
            unsafe { self.buffers.filled(buffer, result.max(0) as u32) }
        });
        let more = cqueue::more(flags);
        let slot = self.slot_mut(index);
        if !more {
            slot.receive.armed = false;
            slot.receive.pausing = false;
        }
        if !slot.closing {
            self.take_received(index, result, chunk);
        }
        if !more {
            self.settle(index);
            if self.slots[index as usize].is_some() {
                self.arm_receive_if_due(index);
            }
        }
    }

    fn take_received(&mut self, index: u32, result: i32, chunk: Option<Chunk>) {
        let (slot, queues) = self.slot_and_queues(index);
        match result {
            1.. => {
                let Some(chunk) = chunk else { return };
                queues.push_back(&mut slot.receive.queue, chunk);
                if slot.receive.queue.load() > slot.marks.high
                    && slot.receive.armed
                    && !slot.receive.pausing
                {
                    slot.receive.pausing = true;
                    self.cancel_receive(index);
                }
                self.list_recheck(index);
            }
            0 => slot.receive.ended = true,
            code => match -code {
                libc::ENOBUFS => {
                    slot.receive.starved = true;
                    self.starved.push_back(index);
                    self.counters.buffer_waits += 1;
                    return;
                }
                // Our own pause, or a signal: armed again when due.
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => return,
                code => slot.receive.error = NonZeroI32::new(code),
            },
        }
        self.wake(index);
    }

    pub(super) fn cancel_receive(&mut self, index: u32) {
        let cancel = opcode::AsyncCancel::new(pack(Op::Receive, index)).build();
        self.push(&cancel.user_data(pack(Op::Aside, 0)));
    }

    /// Arms sockets that found no buffer, as far as there are buffers again.
    fn feed_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        if self.buffers.available() == 0 && !self.buffers.grow_twofold() {
            return;
        }
        for _ in 0..self.buffers.available() {
            let Some(index) = self.starved.pop_front() else { break };
            // The slot may be gone or be another's by now; arming is by its own state.
            if let Some(slot) = &mut self.slots[index as usize]
                && slot.receive.starved
            {
                slot.receive.starved = false;
                self.arm_receive_if_due(index);
            }
        }
    }

    // ---- sending -----------------------------------------------------------------------------

    pub(super) fn queue_send(&mut self, index: u32, chunk: Chunk) {
        let (slot, queues) = self.slot_and_queues(index);
        if slot.send.error.is_some() {
            return;
        }
        // Bytes that lie one behind the other go as one part. A send under way has been given its
        // lengths, and tells how many bytes it took.
        queues.append(&mut slot.send.queue, chunk);
        if slot.held {
            // Whoever holds it says where this goes.
            self.wake(index);
        }
        self.list_send(index);
    }

    pub(super) fn wake_at_unsent(&mut self, index: u32, mark: usize) {
        let send = &mut self.slot_mut(index).send;
        if send.queue.load() <= mark {
            self.wake(index);
        } else {
            send.wake_at = Some(u32::try_from(mark).unwrap_or(u32::MAX));
        }
    }

    pub(super) fn finish(&mut self, index: u32) {
        self.slot_mut(index).send.finish = true;
        self.list_send(index);
    }

    fn list_send(&mut self, index: u32) {
        let slot = self.slot_mut(index);
        if !slot.held && !slot.send.in_flight && !slot.send.listed {
            slot.send.listed = true;
            self.to_send.push(index);
        }
    }

    fn start_sends(&mut self) {
        let mut list = std::mem::take(&mut self.to_send);
        for index in list.drain(..) {
            self.start_send(index);
        }
        self.to_send = list;
    }

    fn start_send(&mut self, index: u32) {
        let Some(slot) = &mut self.slots[index as usize] else { return };
        slot.send.listed = false;
        if slot.closing || slot.held || slot.send.in_flight {
            return;
        }
        if slot.send.queue.is_empty() {
            self.finish_if_due(index);
            return;
        }
        if self.vectors_used == SEND_VECTORS {
            self.submit();
        }
        let Some(slot) = &mut self.slots[index as usize] else { return };
        let send = &mut slot.send;
        // The first attempt completes while the kernel takes the entry; when the socket's buffer
        // is full, the next one waits in the kernel for room.
        let flags = if send.congested { 0 } else { libc::MSG_DONTWAIT };
        if !send.congested {
            self.inline_sends += 1;
        }
        send.in_flight = true;
        slot.operations += 1;
        let fd = Fd(slot.fd);
        let entry = if let Some(only) = self.queues.only(&send.queue) {
            send.offered_bytes = only.len() as u32;
            opcode::Send::new(fd, only.as_ptr(), only.len() as u32)
                .flags(flags | libc::MSG_NOSIGNAL)
                .build()
        } else {
            let vector = &mut self.vectors[self.vectors_used];
            self.vectors_used += 1;
            send.offered_bytes = vector.fill(self.queues.iter(&send.queue));
            opcode::SendMsg::new(fd, &raw const vector.header)
                .flags((flags | libc::MSG_NOSIGNAL) as u32)
                .build()
        };
        self.push(&entry.user_data(pack(Op::Send, index)));
    }

    fn on_send(&mut self, index: u32, result: i32) {
        let (slot, queues) = self.slot_and_queues(index);
        slot.send.in_flight = false;
        if slot.closing {
            queues.clear(&mut slot.send.queue);
            return self.settle(index);
        }
        match result {
            0.. => {
                let sent = result as usize;
                slot.send.congested = sent < slot.send.offered_bytes as usize;
                slot.send.sent_bytes += sent as u64;
                queues.advance(&mut slot.send.queue, sent);
            }
            code => match -code {
                libc::EAGAIN => slot.send.congested = true,
                libc::EINTR => {}
                libc::ECANCELED if slot.held => {}
                code => {
                    slot.send.error = NonZeroI32::new(code);
                    queues.clear(&mut slot.send.queue);
                    slot.send.wake_at = Some(0);
                }
            },
        }
        let due = slot.send.wake_at.is_some_and(|mark| slot.send.queue.load() <= mark as usize);
        if slot.send.queue.is_empty() {
            slot.send.congested = false;
            self.finish_if_due(index);
        } else {
            self.list_send(index);
        }
        if due {
            self.slot_mut(index).send.wake_at = None;
            self.wake(index);
        }
        self.settle(index);
    }

    fn finish_if_due(&mut self, index: u32) {
        let slot = self.slot_mut(index);
        if slot.send.finish && !slot.send.finished {
            slot.send.finished = true;
            // SAFETY: shutdown on a descriptor the slot keeps open; an error means the connection
            // is gone, which the receive side reports.
            unsafe { libc::shutdown(slot.fd, libc::SHUT_WR) };
            self.wake(index);
        }
    }

    // ---- connecting and accepting --------------------------------------------------------------

    pub(super) fn connect(&mut self, index: u32, address: &socket2::SockAddr) {
        let address = Box::new(address.clone());
        let slot = self.slot_mut(index);
        slot.operations += 1;
        let entry = opcode::Connect::new(Fd(slot.fd), address.as_ptr().cast(), address.len());
        let entry = entry.build().user_data(pack(Op::Connect, index));
        self.addresses.push(address);
        self.push(&entry);
    }

    fn on_connect(&mut self, index: u32, result: i32) {
        let slot = self.slot_mut(index);
        slot.connect =
            if result == 0 { ConnectState::Connected } else { ConnectState::Failed(-result) };
        if !slot.closing {
            self.wake(index);
        }
        self.settle(index);
    }

    pub(super) fn arm_accept(&mut self, index: u32) {
        let multishot = self.features.multishot;
        let slot = self.slot_mut(index);
        if slot.receive.armed || slot.closing {
            slot.receive.wanted = true;
            return;
        }
        slot.receive.wanted = true;
        slot.receive.armed = true;
        slot.operations += 1;
        let fd = Fd(slot.fd);
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let entry = if multishot {
            opcode::AcceptMulti::new(fd).flags(flags).build()
        } else {
            opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).flags(flags).build()
        };
        self.push(&entry.user_data(pack(Op::Accept, index)));
    }

    pub(super) fn cancel_accept(&mut self, index: u32) {
        let slot = self.slot_mut(index);
        slot.receive.wanted = false;
        if slot.receive.armed {
            let cancel = opcode::AsyncCancel::new(pack(Op::Accept, index)).build();
            self.push(&cancel.user_data(pack(Op::Aside, 0)));
        } else {
            self.accept_waiting(index);
            self.wake(index);
        }
    }

    fn on_accept(&mut self, index: u32, result: i32, flags: u32) {
        let more = cqueue::more(flags);
        let slot = self.slot_mut(index);
        if !more {
            slot.receive.armed = false;
        }
        let accepting = slot.accepting.get_or_insert_default();
        match result {
            0.. if slot.closing => {
                // SAFETY: made by the kernel for us and handed to nobody.
                unsafe { libc::close(result) };
            }
            0.. => {
                accepting.accepted.push_back(result);
                self.wake(index);
            }
            code => match -code {
                // Our own pause. The kernel tells one of those who share a socket of a connection, and
                // nobody else when that one lets go.
                libc::ECANCELED if !slot.closing => {
                    self.accept_waiting(index);
                    self.wake(index);
                }
                // The peer gave up while in the backlog.
                libc::ECONNABORTED | libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
                code => {
                    slot.receive.wanted = false;
                    accepting.error = Some(code);
                    self.wake(index);
                }
            },
        }
        if !more {
            self.settle(index);
            match &self.slots[index as usize] {
                Some(slot) if slot.receive.wanted => self.arm_accept(index),
                // Whoever paused it is to know that nothing more comes.
                Some(slot) if !slot.closing => self.wake(index),
                _ => {}
            }
        }
    }

    /// Accepts what waits in the backlog, whomever the kernel told of it.
    pub(super) fn accept_waiting(&mut self, index: u32) {
        let slot = self.slot_mut(index);
        let accepting = slot.accepting.get_or_insert_default();
        loop {
            // SAFETY: a plain accept on a descriptor that the slot keeps open; no address is asked for.
            let result = unsafe {
                let none = std::ptr::null_mut();
                let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
                libc::accept4(slot.fd, none, none.cast(), flags)
            };
            if result >= 0 {
                accepting.accepted.push_back(result);
                continue;
            }
            match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL) {
                libc::ECONNABORTED | libc::EINTR => {}
                libc::EAGAIN => return,
                code => return accepting.error = Some(code),
            }
        }
    }

    // ---- bell and timeout ---------------------------------------------------------------------

    pub(super) fn register_eventfd(&self, event: RawFd) -> io::Result<()> {
        self.uring.submitter().register_eventfd(event)
    }

    pub(super) fn signal_completions(&mut self, on: bool) {
        let completion = self.uring.completion();
        if on {
            completion.enable_eventfd();
        } else {
            completion.disable_eventfd();
        }
    }

    pub(super) fn listen_to(&mut self, fd: OwnedFd) {
        self.bell = Some(Bell { fd, strokes: Box::new([0; 16]), rung: false });
        self.arm_bell();
    }

    pub(super) fn take_rung(&mut self) -> bool {
        self.bell.as_mut().is_some_and(|bell| std::mem::take(&mut bell.rung))
    }

    fn arm_bell(&mut self) {
        let Some(bell) = &mut self.bell else { return };
        let (strokes, len) = (bell.strokes.as_mut_ptr(), bell.strokes.len() as u32);
        let entry = opcode::Recv::new(Fd(bell.fd.as_raw_fd()), strokes, len).build();
        self.push(&entry.user_data(pack(Op::Bell, 0)));
    }

    fn on_bell(&mut self, result: i32) {
        let Some(bell) = &mut self.bell else { return };
        bell.rung = true;
        // It may be reaped between two turns, when a full ring is emptied.
        self.woken = true;
        // At its end nobody is left who could ring.
        if result > 0 || matches!(-result, libc::EINTR | libc::EAGAIN) {
            self.arm_bell();
        }
    }

    pub(super) fn wake_after(&mut self, delay: Duration) {
        if let Some(replaced) = self.timeout {
            let remove = opcode::TimeoutRemove::new(pack(Op::Timeout, replaced)).build();
            self.push(&remove.user_data(pack(Op::Aside, 0)));
        }
        if self.delays_used == DELAYS {
            self.submit();
        }
        let place = &mut self.delays[self.delays_used];
        self.delays_used += 1;
        *place = Timespec::from(delay);
        let entry = opcode::Timeout::new(place).build();
        self.timeouts = self.timeouts.wrapping_add(1);
        self.timeout = Some(self.timeouts);
        self.push(&entry.user_data(pack(Op::Timeout, self.timeouts)));
    }

    fn on_timeout(&mut self, number: u32) {
        if self.timeout == Some(number) {
            self.timeout = None;
        }
    }

    pub(super) fn is_timeout_armed(&self) -> bool {
        self.timeout.is_some()
    }

    // ---- the ring --------------------------------------------------------------------------------

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: every entry points only to memory that lives until the kernel has taken it
            // (vectors, addresses) or until its completion (chunks in slots, the bell's strokes).
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
            self.submit();
        }
    }

    /// Gives the kernel what is queued without waiting.
    fn submit(&mut self) {
        self.counters.enters += 1;
        // EBUSY and EAGAIN mean that completions must be reaped first; EINTR that nothing
        // happened. All of them leave the entries queued, and reaping is what helps.
        if self.uring.submit().is_err() {
            self.inline_sends = 0;
            self.reap();
        }
        self.submitted();
    }

    fn submitted(&mut self) {
        if self.uring.submission().is_empty() {
            self.vectors_used = 0;
            self.addresses.clear();
            self.delays_used = 0;
        }
    }

    pub(super) fn is_behind(&mut self) -> bool {
        self.uring.submission().taskrun()
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.counters.enters += 1;
        let inline = std::mem::take(&mut self.inline_sends);
        let entered = match wait {
            // The completions of sends come at once; wait for one more than those.
            Wait::ForOne => self.uring.submitter().submit_and_wait(1 + inline),
            Wait::No => {
                let queued = self.uring.submission().len() as u32;
                // SAFETY: no argument structure is passed.
                unsafe {
                    self.uring.submitter().enter::<libc::sigset_t>(queued, 0, GETEVENTS, None)
                }
            }
        };
        self.submitted();
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn reap(&mut self) -> bool {
        let mut any = false;
        loop {
            let Some(entry) = self.uring.completion().next() else { return any };
            self.counters.completions += 1;
            let (result, flags) = (entry.result(), entry.flags());
            let token = unpack(entry.user_data());
            any |= !matches!(token, Some((Op::Timeout | Op::Aside, _)) | None);
            match token {
                Some((Op::Receive, index)) => self.on_receive(index, result, flags),
                Some((Op::Send, index)) => self.on_send(index, result),
                Some((Op::Accept, index)) => self.on_accept(index, result, flags),
                Some((Op::Connect, index)) => self.on_connect(index, result),
                Some((Op::Bell, _)) => self.on_bell(result),
                Some((Op::Timeout, number)) => self.on_timeout(number),
                Some((Op::Aside, _)) | None => {}
            }
        }
    }
}

impl SendVector {
    const EMPTY: Self = Self {
        // SAFETY: all-zero is a valid msghdr: no name, no parts, no control data.
        header: unsafe { std::mem::zeroed() },
        parts: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SEND_PARTS],
    };

    /// Points at chunks, as many as there is room for. Their bytes.
    fn fill<'c>(&mut self, chunks: impl Iterator<Item = &'c Chunk>) -> u32 {
        let (mut count, mut bytes) = (0, 0);
        for (part, chunk) in self.parts.iter_mut().zip(chunks) {
            part.iov_base = chunk.as_ptr().cast_mut().cast();
            part.iov_len = chunk.len();
            count += 1;
            bytes += chunk.len() as u32;
        }
        self.header.msg_iov = self.parts.as_mut_ptr();
        self.header.msg_iovlen = count;
        bytes
    }
}

/// The only buffer group of a ring.
const BUFFER_GROUP: u16 = 0;

/// Parts of one vectored send: 32 full buffers are 512 KiB, more than a socket takes at once.
const SEND_PARTS: usize = 32;

/// Vectored sends between two submissions; more than that submits early.
const SEND_VECTORS: usize = 128;

/// Delays between two submissions; one is the rule.
const DELAYS: usize = 4;

/// IORING_ENTER_GETEVENTS: with DEFER_TASKRUN completions appear only on such a call.
const GETEVENTS: u32 = 1;
