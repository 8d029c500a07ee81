//! The sending half of an established connection: plaintext chunks in, records out.
//!
//! What is queued between two flushes shares records, each as full as it can be. Invariant: after
//! close_notify nothing is sealed any more.

use std::collections::VecDeque;

use crate::buffers::{Chunk, RecordBuffers};

use super::protect::{Protection, TrafficSecret};
use super::record::{ContentType, PLAINTEXT_BYTES_MAX, RecordError};

/// The sending half.
pub(super) struct Outbound {
    sealer: Protection,
    /// For TLS 1.3: where the next key comes from.
    secret: Option<TrafficSecret>,
    queue: VecDeque<Chunk>,
    queued_bytes: usize,
    sealed_bytes: u64,
    /// A KeyUpdate of the peer is still to be answered.
    owes_key_update: bool,
    closed: bool,
}

impl Outbound {
    pub(super) fn new(sealer: Protection, secret: Option<TrafficSecret>) -> Self {
        Self {
            sealer,
            secret,
            queue: VecDeque::new(),
            queued_bytes: 0,
            sealed_bytes: 0,
            owes_key_update: false,
            closed: false,
        }
    }

    /// Queues plaintext. After the close it is dropped.
    pub(super) fn queue(&mut self, chunk: Chunk) {
        if !self.closed {
            self.queued_bytes += chunk.len();
            self.queue.push_back(chunk);
        }
    }

    /// Plaintext that is queued.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Plaintext that was sealed so far.
    pub(super) fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes
    }

    /// True when a record is full: it gains nothing by waiting.
    pub(super) fn has_full_record(&self) -> bool {
        self.queued_bytes >= PLAINTEXT_BYTES_MAX
    }

    /// The next record of what is queued; nothing when the queue is empty. A KeyUpdate that is due
    /// comes first.
    ///
    /// # Errors
    /// When a key of TLS 1.2 is used up: the connection must end.
    pub(super) fn next_record(
        &mut self,
        buffers: &RecordBuffers,
    ) -> Result<Option<Chunk>, RecordError> {
        if self.queued_bytes == 0 {
            return Ok(None);
        }
        if self.owes_key_update || self.sealer.is_worn() {
            return self.key_update(buffers).map(Some);
        }
        let len = self.queued_bytes.min(PLAINTEXT_BYTES_MAX);
        let parts = Parts { chunks: self.queue.iter(), left: len };
        let record = seal(&mut self.sealer, buffers, ContentType::ApplicationData, parts, len)?;
        self.drop_front(len);
        self.sealed_bytes += len as u64;
        Ok(Some(record))
    }

    /// Notes that the peer asked for a KeyUpdate; many such wishes get one answer.
    pub(super) fn owe_key_update(&mut self) {
        self.owes_key_update = true;
    }

    /// True when a KeyUpdate should go out although nothing else does.
    pub(super) fn owes_key_update(&self) -> bool {
        self.owes_key_update && !self.closed
    }

    /// Replaces the key, and returns the message that tells the peer, sealed with the old one
    /// (RFC 8446 section 4.6.3).
    ///
    /// # Errors
    /// When the connection is of TLS 1.2, where keys can't be replaced.
    pub(super) fn key_update(&mut self, buffers: &RecordBuffers) -> Result<Chunk, RecordError> {
        self.owes_key_update = false;
        let Some(secret) = &mut self.secret else { return Err(RecordError::Exhausted) };
        let next = secret.update()?;
        let message = self.message(buffers, ContentType::Handshake, &KEY_UPDATE_NOT_REQUESTED)?;
        self.sealer = next;
        Ok(message)
    }

    /// The close_notify alert; nothing when it was sent. Drops what is queued.
    pub(super) fn close(&mut self, buffers: &RecordBuffers) -> Option<Chunk> {
        self.alert(buffers, [ALERT_WARNING, ALERT_CLOSE_NOTIFY])
    }

    /// A fatal alert, if there is one to send; nothing after the close. Drops what is queued.
    pub(super) fn fail(&mut self, buffers: &RecordBuffers, code: Option<u8>) -> Option<Chunk> {
        match code {
            Some(code) => self.alert(buffers, [ALERT_FATAL, code]),
            None => {
                self.shut();
                None
            }
        }
    }

    /// Uses the key up.
    #[cfg(test)]
    pub(super) fn wear_out(&mut self) {
        super::protect::samples::wear(&mut self.sealer);
    }

    fn alert(&mut self, buffers: &RecordBuffers, alert: [u8; 2]) -> Option<Chunk> {
        if self.closed {
            return None;
        }
        self.shut();
        self.message(buffers, ContentType::Alert, &alert).ok()
    }

    fn shut(&mut self) {
        self.closed = true;
        self.queue = VecDeque::new();
        self.queued_bytes = 0;
    }

    fn message(
        &mut self,
        buffers: &RecordBuffers,
        kind: ContentType,
        bytes: &[u8],
    ) -> Result<Chunk, RecordError> {
        seal(&mut self.sealer, buffers, kind, std::iter::once(bytes), bytes.len())
    }

    fn drop_front(&mut self, mut count: usize) {
        self.queued_bytes -= count;
        while count > 0 {
            let Some(front) = self.queue.front_mut() else { return };
            if front.len() > count {
                return front.advance(count);
            }
            count -= front.len();
            self.queue.pop_front();
        }
    }
}

fn seal<'p>(
    sealer: &mut Protection,
    buffers: &RecordBuffers,
    kind: ContentType,
    parts: impl Iterator<Item = &'p [u8]>,
    len: usize,
) -> Result<Chunk, RecordError> {
    let sealed_len = sealer.sealed_len(len);
    let mut result = Ok(());
    let record = buffers.write(|out| {
        result = sealer.seal(kind, parts, len, out.extend(sealed_len));
    });
    result.map(|()| record)
}

/// The first bytes of a queue, piece by piece.
struct Parts<'a> {
    chunks: std::collections::vec_deque::Iter<'a, Chunk>,
    left: usize,
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        let chunk = self.chunks.next()?;
        let part = &chunk[..chunk.len().min(self.left)];
        self.left -= part.len();
        Some(part)
    }
}

const KEY_UPDATE_NOT_REQUESTED: [u8; 5] = [24, 0, 0, 1, 0];
const ALERT_WARNING: u8 = 1;
const ALERT_FATAL: u8 = 2;
const ALERT_CLOSE_NOTIFY: u8 = 0;
