//! An established TLS connection on a socket of the ring, with the methods of a plain one.
//!
//! Handshakes are made by rustls; from then on records are sealed and opened here, on the ring's
//! own buffers, and the whole state is two keys, their sequence numbers and the secrets they came
//! from. Invariant: what is received is handed on only after its record was authenticated, and the
//! peer is told the truth about the end: close_notify only behind the last byte that was sent.

use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::Waker;

use crate::buffers::{Chunk, RecordBuffers};
use crate::ring::{Received, Socket};

use super::inbound::{End, Inbound};
use super::outbound::Outbound;
use super::record::RecordError;
use super::session::TlsSession;

/// An established connection. Dropping it closes it, with a close_notify when nothing is unsent.
pub struct TlsStream {
    socket: Socket,
    buffers: Rc<RecordBuffers>,
    session: Rc<TlsSession>,
    inbound: RefCell<Inbound>,
    outbound: RefCell<Outbound>,
    /// The close must look like a failure to the peer.
    resets: Cell<bool>,
}

impl TlsStream {
    pub(super) fn new(
        socket: Socket,
        buffers: Rc<RecordBuffers>,
        session: Rc<TlsSession>,
        inbound: Inbound,
        outbound: Outbound,
    ) -> Self {
        Self {
            socket,
            buffers,
            session,
            inbound: RefCell::new(inbound),
            outbound: RefCell::new(outbound),
            resets: Cell::new(false),
        }
    }

    /// What was agreed in the handshake.
    pub fn session(&self) -> &Rc<TlsSession> {
        &self.session
    }

    /// Takes the next received plaintext. The end is reported after the last of it: as
    /// [`Received::End`] whether or not a close_notify came (see [`TlsStream::is_truncated`]), as
    /// EPROTO when a record or a message was refused (see [`TlsStream::failure`]).
    pub fn receive(&self) -> Received {
        self.pump();
        let mut inbound = self.inbound.borrow_mut();
        if let Some(chunk) = inbound.take() {
            return Received::Chunk(chunk);
        }
        match inbound.end() {
            None => Received::None,
            Some(End::Closed | End::Truncated) => Received::End,
            Some(End::Failed(_)) => Received::Failed(libc::EPROTO),
            Some(End::Transport(code)) => Received::Failed(code),
        }
    }

    /// Puts plaintext that was received before in front of what is still to be received.
    pub fn put_back(&self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.inbound.borrow_mut().put_back(chunk);
        }
    }

    /// True while nothing is unread, not even a part of a record, and the peer has neither finished
    /// nor failed. Session tickets and key updates are taken in on the way.
    pub fn is_quiet(&self) -> bool {
        self.pump();
        self.inbound.borrow().is_at_rest() && self.send_error().is_none()
    }

    /// True when the peer has finished or the connection failed, read or not.
    pub fn is_over(&self) -> bool {
        self.pump();
        self.inbound.borrow().end().is_some()
            || self.socket.is_over()
            || self.send_error().is_some()
    }

    /// True when the peer's end came without a close_notify: unless the protocol above knows its own
    /// end, what was received may not be all that was sent.
    pub fn is_truncated(&self) -> bool {
        self.inbound.borrow().end() == Some(End::Truncated)
    }

    /// Why the connection failed, when it was not the transport.
    pub fn failure(&self) -> Option<RecordError> {
        match self.inbound.borrow().end() {
            Some(End::Failed(error)) => Some(error),
            _ => None,
        }
    }

    /// Queues plaintext; [`TlsStream::flush`] seals it, unless it fills a record before.
    pub fn send(&self, chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        let full = {
            let mut outbound = self.outbound.borrow_mut();
            outbound.queue(chunk);
            outbound.has_full_record()
        };
        if full {
            self.seal(Outbound::has_full_record);
        }
    }

    /// Seals what was queued since the last flush.
    pub fn flush(&self) {
        self.seal(|outbound| outbound.queued_bytes() > 0);
    }

    /// Bytes that the kernel has not taken, sealed or not.
    pub fn unsent(&self) -> usize {
        self.outbound.borrow().queued_bytes() + self.socket.unsent()
    }

    /// Asks for one wake when at most `mark` bytes are unsent; at once if that is so already.
    pub fn wake_at_unsent(&self, mark: usize) {
        self.flush();
        self.socket.wake_at_unsent(mark);
    }

    /// Plaintext that was sealed so far.
    pub fn sent_bytes(&self) -> u64 {
        self.outbound.borrow().sealed_bytes()
    }

    /// The errno of a failed send; EPROTO after a failure of TLS itself.
    pub fn send_error(&self) -> Option<i32> {
        let failed = self.failure().map(|_| libc::EPROTO);
        self.socket.send_error().or(failed)
    }

    /// Sends close_notify and FIN once everything queued is sent.
    pub fn finish(&self) {
        self.flush();
        let notice = self.outbound.borrow_mut().close(&self.buffers);
        if let Some(notice) = notice {
            self.socket.send(notice);
        }
        self.socket.finish();
    }

    /// True once FIN was sent.
    pub fn is_finished(&self) -> bool {
        self.socket.is_finished()
    }

    /// Makes the close that follows a reset, without a close_notify.
    pub fn reset_on_close(&self) {
        self.resets.set(true);
        self.socket.reset_on_close();
    }

    /// Whom to wake when anything about this connection changes.
    pub fn register(&self, waker: &Waker) {
        self.socket.register(waker);
    }

    /// Uses the sending key up.
    #[cfg(test)]
    pub(super) fn wear_out(&self) {
        self.outbound.borrow_mut().wear_out();
    }

    /// Opens received records until there is plaintext, or nothing more to open.
    fn pump(&self) {
        let mut inbound = self.inbound.borrow_mut();
        if !inbound.wants_more() {
            return;
        }
        while inbound.wants_more() {
            match self.socket.receive() {
                Received::Chunk(chunk) => inbound.push(chunk, &self.buffers),
                Received::End => inbound.transport_ended(),
                Received::Failed(code) => inbound.transport_failed(code),
                Received::None => break,
            }
        }
        let wants_key_update = inbound.take_key_update_wanted();
        let end = inbound.end();
        drop(inbound);
        if wants_key_update {
            self.outbound.borrow_mut().owe_key_update();
        }
        if let Some(End::Failed(error)) = end {
            self.fail(error);
        }
        self.answer_key_update();
    }

    /// Seals records while `more` says so.
    fn seal(&self, more: impl Fn(&Outbound) -> bool) {
        self.answer_key_update();
        let mut outbound = self.outbound.borrow_mut();
        while more(&outbound) {
            match outbound.next_record(&self.buffers) {
                Ok(Some(record)) => self.socket.send(record),
                Ok(None) => return,
                Err(_) => {
                    // Sending with this key is over; what the peer still sends is received.
                    if let Some(notice) = outbound.close(&self.buffers) {
                        self.socket.send(notice);
                    }
                    self.socket.finish();
                    return;
                }
            }
        }
    }

    /// Answers a KeyUpdate even when there is nothing else to send, but not while a peer that reads
    /// nothing would make such answers pile up.
    fn answer_key_update(&self) {
        if self.socket.unsent() > 0 {
            return;
        }
        let mut outbound = self.outbound.borrow_mut();
        if outbound.owes_key_update()
            && let Ok(message) = outbound.key_update(&self.buffers)
        {
            self.socket.send(message);
        }
    }

    /// Tells the peer about a failure, and sends nothing else any more.
    fn fail(&self, error: RecordError) {
        let alert = self.outbound.borrow_mut().fail(&self.buffers, error.alert());
        if let Some(alert) = alert {
            send_last(&self.socket, alert);
        }
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        // Only when everything was sent is the end an end.
        if self.resets.get() || self.unsent() > 0 || self.socket.is_over() {
            return;
        }
        let notice = self.outbound.borrow_mut().close(&self.buffers);
        if let Some(notice) = notice {
            send_now(&self.socket, &notice);
        }
    }
}

/// Sends the last bytes of a connection that may be dropped before the ring turns again.
pub(super) fn send_last(socket: &Socket, bytes: Chunk) {
    if socket.unsent() == 0 {
        send_now(socket, &bytes);
    } else {
        socket.send(bytes);
    }
}

/// Gives a few bytes to the kernel at once, behind which nothing is queued. When the kernel has no
/// room the peer does not read, and would not read them later.
fn send_now(socket: &Socket, bytes: &[u8]) {
    // SAFETY: a plain send on a descriptor that the socket keeps open, of bytes that live until it
    // returns.
    unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        );
    }
}
