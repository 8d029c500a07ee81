//! One downstream stream, lent to its exchange.

use std::collections::VecDeque;

use outrigger_codecs::http::FieldBlock;
use outrigger_codecs::http2::{HeadersWriter, StreamId};

use crate::buffers::Chunk;
use crate::http::downstream::BodyEvent;
use crate::http2::{BodyQueue, Link, Outbox};
use crate::shard::Shard;
use crate::tls::RecordError;

/// What the connection keeps of a stream. Reused with its memory.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) id: Option<StreamId>,
    /// Bytes of the request that the exchange has not taken.
    pub(super) inbox: BodyQueue,
    /// The request is complete.
    pub(super) ended: bool,
    pub(super) trailers: Option<Box<FieldBlock>>,
    /// The stream is gone: by the client, by an error on it, or with its connection.
    pub(super) reset: bool,
    pub(super) outbox: Outbox,
}

/// The codec and the transport, and the streams that have something to send.
pub(super) struct Core {
    pub(super) link: Link,
    pub(super) sending: VecDeque<u32>,
}

/// A stream, lent to its exchange.
pub(in crate::http) struct Side<'a> {
    pub(super) core: &'a mut Core,
    pub(super) stream: &'a mut Stream,
    /// The stream's slot.
    pub(super) slot: u32,
}

impl Side<'_> {
    pub(in crate::http) fn is_reset(&self) -> bool {
        self.stream.reset
    }

    /// Why TLS with the client failed.
    pub(in crate::http) fn transport_failure(&self) -> Option<RecordError> {
        self.core.link.transport.failure()
    }

    /// Takes what comes next of the request's body, and lets the client send as much again.
    pub(in crate::http) fn take_body(&mut self) -> BodyEvent {
        if let Some(chunk) = self.stream.inbox.pop(usize::MAX) {
            if let Some(id) = self.stream.id {
                self.core.link.codec.release(id, chunk.len());
            }
            return BodyEvent::Data(chunk);
        }
        if self.stream.reset {
            return BodyEvent::Gone;
        }
        if self.stream.ended {
            return BodyEvent::End(self.stream.trailers.take());
        }
        BodyEvent::None
    }

    pub(in crate::http) fn has_room(&mut self) -> bool {
        let room = self.stream.outbox.has_room();
        self.stream.outbox.wants_room = !room;
        room
    }

    /// Sends a head that `write` writes. Returns its size as it goes out.
    pub(in crate::http) fn send_head(
        &mut self,
        ends: bool,
        write: impl FnOnce(&mut HeadersWriter<'_>),
    ) -> usize {
        let codec = &mut self.core.link.codec;
        let Some(id) = self.stream.id.filter(|id| codec.is_open(*id)) else { return 0 };
        let before = codec.output_len();
        write(&mut codec.encode_headers());
        codec.send_headers(id, ends);
        if ends {
            self.stream.outbox.ended_with_head();
        }
        codec.output_len() - before
    }

    pub(in crate::http) fn send_body(&mut self, shard: &Shard, data: Chunk) {
        if self.stream.reset {
            return;
        }
        self.stream.outbox.body.push(&shard.arena, data);
        self.list();
    }

    pub(in crate::http) fn end_body(&mut self, trailers: Option<Box<FieldBlock>>) {
        if !self.stream.reset && !self.stream.outbox.is_ended() {
            self.stream.outbox.end(trailers);
            self.list();
        }
    }

    fn list(&mut self) {
        if !self.stream.outbox.listed {
            self.stream.outbox.listed = true;
            self.core.sending.push_back(self.slot);
        }
    }
}
