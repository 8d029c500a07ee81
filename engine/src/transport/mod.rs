//! A connection's bytes, in plain text or through TLS.
//!
//! The protocols above see one kind of connection: the methods are those of [`Socket`], and mean
//! the same. Invariant: bytes taken from a transport are authentic as far as its configuration
//! asks, and what is given to it leaves in order.

use std::rc::Rc;
use std::task::Waker;

use crate::buffers::Chunk;
use crate::ring::{Received, Socket};
use crate::tls::{RecordError, TlsSession, TlsStream};

/// An established connection. Dropping it closes it; unsent bytes are lost.
pub enum Transport {
    /// As the socket has them.
    Plain(Socket),
    /// Through TLS.
    Tls(Box<TlsStream>),
}

impl Transport {
    /// Starts to receive.
    pub fn start(&self) {
        match self {
            Transport::Plain(socket) => socket.start(),
            // The handshake has started it.
            Transport::Tls(_) => {}
        }
    }

    /// Takes the next received bytes.
    pub fn receive(&self) -> Received {
        match self {
            Transport::Plain(socket) => socket.receive(),
            Transport::Tls(stream) => stream.receive(),
        }
    }

    /// Puts bytes that were received before, in their order, in front of what is still to come.
    pub fn put_back(&self, chunks: impl DoubleEndedIterator<Item = Chunk>) {
        for chunk in chunks.rev() {
            match self {
                Transport::Plain(socket) => socket.put_back(chunk),
                Transport::Tls(stream) => stream.put_back(chunk),
            }
        }
    }

    /// True while nothing is unread and the peer has neither finished nor failed: what a pooled
    /// connection must be to be used again.
    pub fn is_quiet(&self) -> bool {
        match self {
            Transport::Plain(socket) => socket.is_quiet(),
            Transport::Tls(stream) => stream.is_quiet(),
        }
    }

    /// True when the peer has finished or the connection failed, read or not.
    pub fn is_over(&self) -> bool {
        match self {
            Transport::Plain(socket) => socket.is_over(),
            Transport::Tls(stream) => stream.is_over(),
        }
    }

    /// True when the peer's end is not vouched for: TLS without close_notify. What was received may
    /// then have been cut off, unless the protocol above knows its own end.
    pub fn is_truncated(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(stream) => stream.is_truncated(),
        }
    }

    /// Why TLS failed; nothing while it did not, or when it was the socket that failed.
    pub fn failure(&self) -> Option<RecordError> {
        match self {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => stream.failure(),
        }
    }

    /// Queues bytes. Empty chunks are ignored. With TLS they wait for [`Transport::flush`].
    pub fn send(&self, chunk: Chunk) {
        match self {
            Transport::Plain(socket) => socket.send(chunk),
            Transport::Tls(stream) => stream.send(chunk),
        }
    }

    /// Lets what was queued go; every task calls it at the end of each poll in which it sent.
    pub fn flush(&self) {
        match self {
            Transport::Plain(_) => {}
            Transport::Tls(stream) => stream.flush(),
        }
    }

    /// Bytes queued that the kernel has not taken.
    pub fn unsent(&self) -> usize {
        match self {
            Transport::Plain(socket) => socket.unsent(),
            Transport::Tls(stream) => stream.unsent(),
        }
    }

    /// The same in bytes alone, where [`Transport::unsent`] has a weight for each chunk.
    pub fn unsent_bytes(&self) -> usize {
        match self {
            Transport::Plain(socket) => socket.unsent_bytes(),
            Transport::Tls(stream) => stream.unsent(),
        }
    }

    /// Asks for one wake when at most `mark` bytes are unsent; at once if that is so already.
    pub fn wake_at_unsent(&self, mark: usize) {
        match self {
            Transport::Plain(socket) => socket.wake_at_unsent(mark),
            Transport::Tls(stream) => stream.wake_at_unsent(mark),
        }
    }

    /// Bytes of the protocol above that were sent so far: taken by the kernel, or sealed.
    pub fn sent_bytes(&self) -> u64 {
        match self {
            Transport::Plain(socket) => socket.sent_bytes(),
            Transport::Tls(stream) => stream.sent_bytes(),
        }
    }

    /// The errno of a failed send.
    pub fn send_error(&self) -> Option<i32> {
        match self {
            Transport::Plain(socket) => socket.send_error(),
            Transport::Tls(stream) => stream.send_error(),
        }
    }

    /// Ends the sending direction once everything queued is sent.
    pub fn finish(&self) {
        match self {
            Transport::Plain(socket) => socket.finish(),
            Transport::Tls(stream) => stream.finish(),
        }
    }

    /// True once FIN was sent.
    pub fn is_finished(&self) -> bool {
        match self {
            Transport::Plain(socket) => socket.is_finished(),
            Transport::Tls(stream) => stream.is_finished(),
        }
    }

    /// Makes the close that follows a reset, so that the peer can't take a cut-off message for a
    /// whole one.
    pub fn reset_on_close(&self) {
        match self {
            Transport::Plain(socket) => socket.reset_on_close(),
            Transport::Tls(stream) => stream.reset_on_close(),
        }
    }

    /// Whom to wake when anything about this connection changes.
    pub fn register(&self, waker: &Waker) {
        match self {
            Transport::Plain(socket) => socket.register(waker),
            Transport::Tls(stream) => stream.register(waker),
        }
    }

    /// What was agreed in the handshake; nothing in plain text.
    pub fn session(&self) -> Option<&Rc<TlsSession>> {
        match self {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => Some(stream.session()),
        }
    }
}
