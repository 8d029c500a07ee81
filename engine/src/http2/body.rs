//! Body bytes that wait: for an exchange to take them, or for the peer's window.
//!
//! Invariant: bytes leave in the order in which they came, and what waits for long pins about as
//! much memory as it has bytes.

use std::collections::VecDeque;

use outrigger_codecs::http::FieldBlock;

use crate::buffers::{Arena, Chunk};

/// Chunks of one body, in order.
#[derive(Default)]
pub struct BodyQueue {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

impl BodyQueue {
    /// Appends a chunk. Small ones that have to wait behind others are copied together, so that a
    /// peer that sends bytes one by one can't hold a receive buffer with each.
    pub fn push(&mut self, arena: &Arena, chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        self.bytes += chunk.len();
        let waits = !self.chunks.is_empty();
        self.chunks.push_back(if waits && chunk.len() < COPIED_BELOW_BYTES {
            arena.copy(&chunk)
        } else {
            chunk
        });
    }

    /// Takes the next chunk, or its first `limit` bytes.
    pub fn pop(&mut self, limit: usize) -> Option<Chunk> {
        let front = self.chunks.front_mut()?;
        if front.len() > limit {
            let first = front.slice(0..limit);
            front.advance(limit);
            self.bytes -= limit;
            return Some(first);
        }
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.len();
        Some(chunk)
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Drops what waits, and gives back memory above that of a usual stream. Returns the bytes.
    pub fn clear(&mut self) -> usize {
        self.chunks.clear();
        self.chunks.shrink_to(CHUNKS_KEPT);
        std::mem::take(&mut self.bytes)
    }
}

/// What one stream still has to send.
#[derive(Default)]
pub struct Outbox {
    /// Bytes of the body.
    pub body: BodyQueue,
    end: End,
    /// On its connection's list of streams with something to send.
    pub listed: bool,
    /// The exchange stopped because too much waits, and wants to be woken.
    pub wants_room: bool,
}

#[derive(Default)]
enum End {
    /// More may come.
    #[default]
    Open,
    /// The stream ends after the body.
    Due,
    /// Trailers follow the body and end the stream.
    DueWith(Box<FieldBlock>),
    /// END_STREAM was written.
    Sent,
}

impl Outbox {
    /// The body is complete.
    pub fn end(&mut self, trailers: Option<Box<FieldBlock>>) {
        self.end = match trailers {
            Some(trailers) => End::DueWith(trailers),
            None => End::Due,
        };
    }

    /// END_STREAM went out with the head.
    pub fn ended_with_head(&mut self) {
        self.end = End::Sent;
    }

    /// True when END_STREAM goes on the last frame of the body.
    pub(super) fn ends_with_body(&self) -> bool {
        matches!(self.end, End::Due)
    }

    pub(super) fn take_trailers(&mut self) -> Option<Box<FieldBlock>> {
        match std::mem::replace(&mut self.end, End::Sent) {
            End::DueWith(trailers) => Some(trailers),
            other => {
                self.end = other;
                None
            }
        }
    }

    pub(super) fn mark_ended(&mut self) {
        self.end = End::Sent;
    }

    /// True once END_STREAM was written.
    pub fn is_ended(&self) -> bool {
        matches!(self.end, End::Sent)
    }

    /// True when something waits to be sent.
    pub fn is_due(&self) -> bool {
        !self.body.is_empty() || matches!(self.end, End::Due | End::DueWith(_))
    }

    /// True while the exchange may add to it.
    pub fn has_room(&self) -> bool {
        self.body.bytes() < HIGH_BYTES
    }

    /// True once, when the exchange wants to be woken and may go on.
    pub fn takes_more(&mut self) -> bool {
        self.wants_room && self.body.bytes() <= LOW_BYTES && {
            self.wants_room = false;
            true
        }
    }

    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.body.clear();
        *self = Self { body: std::mem::take(&mut self.body), ..Self::default() };
    }
}

/// A stream's share of what waits to be sent: a few round trips' worth on a local network, and for a
/// thousand stalled streams still tolerable.
const HIGH_BYTES: usize = 64 * 1024;

/// Where an exchange that stopped goes on.
const LOW_BYTES: usize = 16 * 1024;

/// Below this, copying costs less than the receive buffer that would be pinned.
const COPIED_BELOW_BYTES: usize = 2048;

/// Places kept for the next body.
const CHUNKS_KEPT: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_and_in_pieces() {
        let arena = Arena::new();
        let mut queue = BodyQueue::default();
        for text in ["abc", "", "defg"] {
            queue.push(&arena, arena.copy(text.as_bytes()));
        }
        assert_eq!(queue.bytes(), 7);
        let mut seen = Vec::new();
        while let Some(chunk) = queue.pop(2) {
            assert!(chunk.len() <= 2);
            seen.extend_from_slice(&chunk);
        }
        assert_eq!(seen, b"abcdefg");
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn an_outbox_ends_once() {
        let mut outbox = Outbox::default();
        assert!(!outbox.is_due());
        outbox.end(Some(Box::default()));
        assert!(outbox.is_due() && !outbox.ends_with_body());
        assert!(outbox.take_trailers().is_some());
        assert!(outbox.is_ended() && !outbox.is_due());
        outbox.clear();
        outbox.end(None);
        assert!(outbox.ends_with_body() && !outbox.is_ended());
    }
}
