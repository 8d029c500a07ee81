//! What the owner of a connection does: opens streams, sends messages, gives credit, and ends things.
//!
//! Nothing here fails for what the peer did. A call for a stream that is gone does nothing, except
//! that a header block which was encoded is sent in any case, since the peer's decoder must see it.

use super::super::config::Role;
use super::super::error::{ConnectionCause, Reason};
use super::super::event::StreamId;
use super::super::flow::WINDOW_INITIAL;
use super::super::frame::{self, FrameHead, STREAM_MASK, flag, kind};
use super::super::hpack::Encoder;
use super::super::settings::UpgradeSettings;
use super::super::streams::{Receiving, Stream};
use super::Connection;
use crate::http::{FieldKind, Method};

/// Writes the fields of one header block, which
/// [`Connection::send_headers`] then sends. Pseudo-header fields come first.
#[derive(Debug)]
pub struct HeadersWriter<'c> {
    encoder: &'c mut Encoder,
    out: &'c mut Vec<u8>,
}

impl HeadersWriter<'_> {
    /// Adds a field. The name is written in lower case, whatever its case. A field that came
    /// `never_indexed` must go on so (RFC 7541 section 7.1.3).
    #[inline]
    pub fn field(&mut self, name: &str, value: &[u8], kind: FieldKind, never_indexed: bool) {
        self.encoder.field(name, value, kind, never_indexed, self.out);
    }
}

impl Connection {
    /// Starts a header block. It must be sent with [`Connection::send_headers`], so look first
    /// whether the stream [is open](Connection::is_open).
    pub fn encode_headers(&mut self) -> HeadersWriter<'_> {
        self.encoded.clear();
        self.encoder.begin(&mut self.encoded);
        HeadersWriter { encoder: &mut self.encoder, out: &mut self.encoded }
    }

    /// Sends the header block just written: a request, a response head or trailers.
    pub fn send_headers(&mut self, id: StreamId, end_stream: bool) {
        let len_max = self.peer.max_frame_size as usize;
        let mut rest = &self.encoded[..];
        let mut kind = kind::HEADERS;
        let mut flags = if end_stream { flag::END_STREAM } else { 0 };
        loop {
            let (piece, after) = rest.split_at(rest.len().min(len_max));
            if after.is_empty() {
                flags |= flag::END_HEADERS;
            }
            frame::put(&mut self.output, kind, flags, id.0, piece);
            if after.is_empty() {
                break;
            }
            (rest, kind, flags) = (after, kind::CONTINUATION, 0);
        }
        if end_stream {
            self.end_sending(id.0);
        }
    }

    /// How many bytes of content may be sent on `id` now, in one frame: as much as its window, the
    /// connection's window and the peer's frame size allow, 0 if it is closed or ended by us.
    #[must_use]
    pub fn send_capacity(&self, id: StreamId) -> usize {
        let Some(stream) = self.streams.get(id.0) else { return 0 };
        if stream.sending_ended {
            return 0;
        }
        let window = stream.send.available(self.peer.initial_window);
        let capacity =
            window.min(self.connection_capacity()).clamp(0, self.peer.max_frame_size.into());
        // Not negative, and not above the frame size.
        capacity as usize
    }

    /// Sends the head of a DATA frame; the caller sends `len` bytes of content right behind it.
    /// `len` is at most [`Connection::send_capacity`], and only 0 if `end_stream`.
    pub fn send_data(&mut self, id: StreamId, len: usize, end_stream: bool) {
        debug_assert!(len <= self.send_capacity(id), "more than the windows allow");
        let stream = self.streams.get_mut(id.0).filter(|stream| !stream.sending_ended);
        let Some(stream) = stream else { return };
        let flags = if end_stream { flag::END_STREAM } else { 0 };
        let head = FrameHead { len: len as u32, kind: kind::DATA, flags, stream: id.0 };
        self.output.extend_from_slice(&head.to_bytes());
        stream.send.spend(head.len, self.peer.initial_window);
        self.send_window.spend(head.len, WINDOW_INITIAL);
        self.flood.data_frames_sent += 1;
        if end_stream {
            self.end_sending(id.0);
        }
    }

    /// Says that `len` received bytes of content are consumed, so that the peer may send as many
    /// more. Every byte that was told must come here once, also those of streams that are gone, which
    /// are credited to the connection alone.
    pub fn release(&mut self, id: StreamId, len: usize) {
        self.release_connection(len);
        let window = self.config.initial_stream_window;
        let Some(stream) = self.streams.get_mut(id.0) else { return };
        // What has ended needs no window.
        if stream.is_ended() {
            return;
        }
        if let Some(increment) = stream.receive.release(len, window) {
            let increment = increment.to_be_bytes();
            frame::put(&mut self.output, kind::WINDOW_UPDATE, 0, id.0, &increment);
        }
    }

    /// Resets a stream and forgets it. What the peer had sent before it learns of that is ignored.
    pub fn reset(&mut self, id: StreamId, reason: Reason) {
        let Some(stream) = self.streams.remove(id.0) else { return };
        if !stream.is_ended() {
            self.resets.remember(id.0);
        }
        self.put_reset(id.0, reason);
    }

    /// Client: opens a stream for a `method` request, whose headers must be sent before the next one
    /// is opened. `None` where [`Connection::can_open`] says no.
    pub fn open_stream(&mut self, method: Method) -> Option<StreamId> {
        if !self.can_open() {
            return None;
        }
        let id = self.local_next;
        self.local_next += 2;
        self.flood.streams_opened += 1;
        let window = self.config.initial_stream_window;
        self.streams.insert(Stream { method, ..Stream::new(id, Receiving::Head, window) });
        Some(StreamId(id))
    }

    /// Client: whether a stream can be opened now: the peer's limit and ours are not reached, and the
    /// connection is not [spent](Connection::is_spent).
    #[must_use]
    pub fn can_open(&self) -> bool {
        let limit = self.peer.max_concurrent_streams.min(self.config.max_concurrent_streams);
        self.role == Role::Client && !self.is_spent() && self.streams.len() < limit as usize
    }

    /// Client: no stream can be opened any more: GOAWAY was sent or received, the connection failed,
    /// or the ids have run out. A new connection is needed.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.is_draining() || self.failed.is_some() || self.local_next > STREAM_MASK
    }

    /// Server: goes on in HTTP/2 with a request that came by HTTP/1.1 and asked for it (RFC 7540
    /// section 3.2). It has been read to its end, and is stream 1. Must be called before anything is
    /// received; what the client sends next is its preface.
    pub fn accept_upgrade(&mut self, settings: &UpgradeSettings) -> StreamId {
        self.peer = settings.settings;
        self.encoder.set_peer_table_size(self.peer.header_table_size);
        self.peer_last = 1;
        self.flood.streams_opened += 1;
        let window = self.config.initial_stream_window;
        self.streams.insert(Stream::new(1, Receiving::Ended, window));
        StreamId(1)
    }

    /// Sends PING; its answer is [`Event::Pong`](super::super::Event::Pong).
    pub fn ping(&mut self, payload: [u8; 8]) {
        frame::put(&mut self.output, kind::PING, 0, 0, &payload);
    }

    /// Announces that the connection will be shut down, without refusing anything yet: the first step
    /// of a graceful end (RFC 9113 section 6.8). A ping's answer tells when the peer knows.
    pub fn announce_shutdown(&mut self) {
        if self.goaway_sent.is_none() {
            self.put_goaway(STREAM_MASK, Reason::NO_ERROR);
        }
    }

    /// Refuses all streams that are not here yet: the second step. The connection ends when it
    /// [is idle](Connection::is_idle).
    pub fn shutdown(&mut self) {
        if self.goaway_sent.is_none_or(|last| last > self.peer_last) {
            self.put_goaway(self.peer_last, Reason::NO_ERROR);
        }
    }

    /// Ends the connection now, with GOAWAY. Nothing more is received.
    pub fn fail(&mut self, reason: Reason) {
        self.end(ConnectionCause::Failed(reason));
    }

    pub(super) fn put_reset(&mut self, id: u32, reason: Reason) {
        frame::put(&mut self.output, kind::RST_STREAM, 0, id, &reason.0.to_be_bytes());
        self.counters.tx_reset += 1;
    }

    pub(super) fn release_connection(&mut self, len: usize) {
        let window = self.config.initial_connection_window;
        if let Some(increment) = self.receive_window.release(len, window) {
            frame::put(&mut self.output, kind::WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
        }
    }

    pub(super) fn connection_capacity(&self) -> i64 {
        self.send_window.available(WINDOW_INITIAL)
    }

    pub(super) fn grow_connection_window(&mut self, increment: u32) -> bool {
        self.send_window.grow(increment, WINDOW_INITIAL)
    }

    fn end_sending(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.sending_ended = true;
        if stream.is_ended() {
            self.streams.remove(id);
        }
    }
}
