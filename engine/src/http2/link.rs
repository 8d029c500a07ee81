//! The HTTP/2 codec on its transport.
//!
//! Everything the codec writes goes out in the order in which it wrote it, and a DATA frame's bytes
//! right behind its header. Invariant: nothing is sent while more than the watermark is unsent, so
//! what waits, waits in its stream.

use outrigger_codecs::http::FieldBlock;
use outrigger_codecs::http2::{Config, Connection, FloodLimits, ListLimits, StreamId};
use outrigger_xds::snapshot::Http2Options;

use crate::buffers::Arena;
use crate::ring::Watermarks;
use crate::transport::Transport;

use super::body::Outbox;

/// One connection's codec and transport.
pub struct Link {
    /// The protocol.
    pub codec: Connection,
    /// The bytes.
    pub transport: Transport,
    marks: Watermarks,
}

/// How far a stream's outbox was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// All of it.
    Done,
    /// Some; the other streams come first now.
    Turn,
    /// The peer's window is used up.
    NoWindow,
    /// The transport takes no more; it wakes its task when it does.
    Congested,
}

impl Link {
    /// Speaks `codec` on `transport`.
    pub fn new(codec: Connection, transport: Transport, marks: Watermarks) -> Self {
        Self { codec, transport, marks }
    }

    /// Sends what the codec wrote, unless the transport takes no more: then the codec goes on
    /// counting what waits.
    pub fn flush(&mut self, arena: &Arena) {
        if !self.is_congested() {
            self.flush_output(arena);
        }
    }

    /// Sends what the codec wrote, in any case.
    fn flush_output(&mut self, arena: &Arena) {
        let output = self.codec.output();
        if !output.is_empty() {
            self.transport.send(arena.copy(output));
            output.clear();
            output.shrink_to(OUTPUT_KEPT_BYTES);
        }
    }

    /// True when too much is unsent; the transport then wakes its task when it goes on.
    pub fn is_congested(&self) -> bool {
        let congested = self.transport.unsent() >= self.marks.high;
        if congested {
            self.transport.wake_at_unsent(self.marks.low());
        }
        congested
    }

    /// Sends what stream `id` has, as far as windows and fairness allow.
    pub fn pump(&mut self, arena: &Arena, id: StreamId, outbox: &mut Outbox) -> Pumped {
        for _ in 0..FRAMES_PER_TURN {
            if outbox.body.is_empty() {
                self.end(id, outbox);
                return Pumped::Done;
            }
            if self.is_congested() {
                return Pumped::Congested;
            }
            let capacity = self.codec.send_capacity(id);
            if capacity == 0 {
                return Pumped::NoWindow;
            }
            let Some(chunk) = outbox.body.pop(capacity) else { return Pumped::Done };
            let last = outbox.body.is_empty() && outbox.ends_with_body();
            self.codec.send_data(id, chunk.len(), last);
            self.flush_output(arena);
            self.transport.send(chunk);
            if last {
                outbox.mark_ended();
            }
        }
        if outbox.is_due() { Pumped::Turn } else { Pumped::Done }
    }

    /// Ends a stream whose body is sent, if its end is known.
    fn end(&mut self, id: StreamId, outbox: &mut Outbox) {
        if let Some(trailers) = outbox.take_trailers() {
            self.encode(&trailers);
            self.codec.send_headers(id, true);
        } else if outbox.ends_with_body() {
            self.codec.send_data(id, 0, true);
            outbox.mark_ended();
        }
    }

    /// Encodes the fields of `block` as the next block to send.
    pub fn encode(&mut self, block: &FieldBlock) {
        let mut writer = self.codec.encode_headers();
        for field in block.iter() {
            writer.field(field.name, field.value, field.kind, field.never_indexed);
        }
    }
}

/// The codec's configuration of a listener or a cluster; `fields_max` and `bytes_max` bound heads.
pub fn codec_config(
    options: &Http2Options,
    fields_max: u32,
    bytes_max: u32,
    stream_error_on_invalid: bool,
) -> Config {
    Config {
        hpack_table_size: options.hpack_table_size,
        max_concurrent_streams: options.max_concurrent_streams,
        initial_stream_window: options.initial_stream_window_size,
        initial_connection_window: options.initial_connection_window_size,
        max_frame_size: FRAME_BYTES,
        list: ListLimits {
            bytes_max: bytes_max as usize,
            fields_max: fields_max as usize,
            field_bytes_max: options.max_header_field_bytes as usize,
        },
        enable_connect_protocol: options.allow_connect,
        huffman: options.huffman,
        flood: FloodLimits {
            empty_frames_in_a_row: options.max_consecutive_inbound_frames_with_empty_payload,
            priority_frames_per_stream: options.max_inbound_priority_frames_per_stream,
            window_updates_per_data_frame: options
                .max_inbound_window_update_frames_per_data_frame_sent,
            reset_burst: options.stream_reset_burst,
            reset_rate_per_s: options.stream_reset_rate,
            control_frames_queued: options.max_outbound_control_frames,
            ..FloodLimits::default()
        },
        stream_error_on_invalid: options
            .stream_error_on_invalid_http_message
            .unwrap_or(stream_error_on_invalid),
    }
}

/// The smallest frame size there is (RFC 9113 section 4.2), and that of one receive buffer.
const FRAME_BYTES: u32 = 16 * 1024;

/// Frames of one stream before the next one has its turn.
const FRAMES_PER_TURN: usize = 4;

/// Room for written frames that is kept for the next ones.
const OUTPUT_KEPT_BYTES: usize = 4096;
