//! The state machine of one connection, without sockets, clocks or threads.
//!
//! ```text
//! preface -> SETTINGS -> frames ... -> [GOAWAY(max) -> GOAWAY(last)] -> streams end -> closed
//!                           |
//!                           +-> ConnectionError: GOAWAY(reason) -> closed
//! ```
//!
//! What the peer sends goes through [`Connection::receive`], which tells one [`Event`](super::Event)
//! at a time. What we send is put in [`Connection::output`] in the order in which it must leave;
//! content is not copied there, only its frame heads are, and the caller sends the bytes right behind.
//!
//! The invariants that matter: the field compression of both directions stays in step whatever
//! happens to a stream, every received byte of content is credited to the connection exactly once,
//! and everything that the peer can make us keep has a limit.
//!
//! | Module | What it does |
//! |---|---|
//! | `receive` | cuts bytes into frames and judges them by their heads |
//! | `headers` | header blocks: new requests, responses, trailers |
//! | `data` | content |
//! | `control` | every other frame |
//! | `faults` | what mistakes lead to |
//! | `send` | everything that the owner does |
//! | `state` | the whole state as plain data |

mod control;
mod data;
mod faults;
mod headers;
mod receive;
mod send;
mod state;

use self::headers::Heading;
use self::receive::Reading;
use super::abuse::FloodCounts;
use super::config::{Config, Role};
use super::counters::Counters;
use super::error::{ConnectionCause, ConnectionError, Reason};
use super::event::StreamId;
use super::flow::{ReceiveWindow, SendWindow, WINDOW_INITIAL, WINDOW_MAX};
use super::frame::{self, kind};
use super::hpack::{DECODER_TABLE_BYTES_MAX, Decoder, Encoder};
use super::settings::{self, FRAME_SIZE_MAX, FRAME_SIZE_MIN, PeerSettings};
use super::streams::{RecentResets, Streams};
use crate::http::FieldBlock;
use crate::http::field::FIELDS_MAX;

pub use headers::Heading as HeadingState;
pub use receive::Reading as ReadingState;
pub use send::HeadersWriter;
pub use state::{ConnectionState, ImportError};

/// One side of an HTTP/2 connection.
///
/// At rest it holds no buffers but those that [`Connection::shrink`] gives back, and what HPACK keeps
/// of fields that repeat.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Config,
    decoder: Decoder,
    encoder: Encoder,
    peer: PeerSettings,
    /// The peer's first SETTINGS have come.
    peer_settled: bool,
    /// SETTINGS of ours that the peer has not acknowledged.
    settings_unacknowledged: u32,

    reading: Reading,
    /// Payload of a frame that the end of the input cut.
    partial: Vec<u8>,
    /// The header block whose CONTINUATION is awaited, and its fragments so far.
    heading: Option<Heading>,
    fragments: Vec<u8>,
    /// The field section told last.
    block: FieldBlock,
    /// Room to put cookies together in, for who needs it.
    crumbs: Option<Box<Crumbs>>,

    output: Vec<u8>,
    /// The header block being encoded.
    encoded: Vec<u8>,
    /// Acknowledgements and RST_STREAM frames in `output`.
    control_frames_waiting: u32,

    streams: Streams,
    resets: RecentResets,
    send_window: SendWindow,
    receive_window: ReceiveWindow,
    /// The highest stream that the peer has opened.
    peer_last: u32,
    /// From here to `peer_last` the peer has used every id; below, it has skipped some.
    peer_unbroken_from: u32,
    /// The next stream that we open; above 2^31-1 there is none.
    local_next: u32,

    /// The last stream of our last GOAWAY.
    goaway_sent: Option<u32>,
    /// The last stream of the peer's last GOAWAY.
    goaway_received: Option<u32>,
    /// Streams above `goaway_received` are still to be told as reset.
    unprocessed: bool,
    failed: Option<ConnectionError>,

    flood: FloodCounts,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Crumbs {
    joined: FieldBlock,
    value: Vec<u8>,
}

impl Connection {
    /// A connection that has just been made. Its preface and SETTINGS are in the output.
    #[must_use]
    pub fn new(role: Role, config: Config) -> Self {
        let config = within_protocol(config);
        let mut connection = Self {
            role,
            config,
            decoder: Decoder::new(config.hpack_table_size),
            encoder: Encoder::new(config.huffman),
            peer: PeerSettings::default(),
            peer_settled: false,
            settings_unacknowledged: 1,
            reading: match role {
                Role::Client => Reading::START,
                Role::Server => Reading::Preface { matched: 0 },
            },
            partial: Vec::new(),
            heading: None,
            fragments: Vec::new(),
            block: FieldBlock::default(),
            crumbs: None,
            output: Vec::new(),
            encoded: Vec::new(),
            control_frames_waiting: 0,
            streams: Streams::default(),
            resets: RecentResets::default(),
            send_window: SendWindow::default(),
            receive_window: ReceiveWindow::new(config.initial_connection_window),
            peer_last: 0,
            peer_unbroken_from: 1,
            local_next: 1,
            goaway_sent: None,
            goaway_received: None,
            unprocessed: false,
            failed: None,
            flood: FloodCounts::new(&config.flood),
            counters: Counters::default(),
        };
        if role == Role::Client {
            connection.output.extend_from_slice(PREFACE);
        }
        settings::announce(role, &config, &mut connection.output);
        let raise = config.initial_connection_window - WINDOW_INITIAL;
        if raise > 0 {
            frame::put(&mut connection.output, kind::WINDOW_UPDATE, 0, 0, &raise.to_be_bytes());
        }
        connection
    }

    /// The fields of the last [`Event::Headers`](super::Event::Headers) or
    /// [`Event::Trailers`](super::Event::Trailers), pseudo-header fields included, until the next
    /// call of [`Connection::receive`]. Cookies of a request are whole.
    #[must_use]
    pub fn block(&self) -> &FieldBlock {
        &self.block
    }

    /// Takes the block of the event just told, and leaves `other` to decode the next one into, so that
    /// neither has to be copied.
    pub fn swap_block(&mut self, other: &mut FieldBlock) {
        std::mem::swap(&mut self.block, other);
    }

    /// Bytes to send before anything else. Ask for it when they can be sent, and clear it; while the
    /// socket takes nothing, leave them where they are, so that what the peer makes us queue is
    /// bounded by [`FloodLimits::control_frames_queued`](super::FloodLimits::control_frames_queued).
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.control_frames_waiting = 0;
        &mut self.output
    }

    /// Whether there is anything to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Which side this is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// How many streams are open: not yet ended by both sides, nor reset by one.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// No frame and no header block has begun, and nothing went wrong.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        let between = matches!(self.reading, Reading::Head { have: 0, .. });
        between && self.heading.is_none() && self.failed.is_none()
    }

    /// No stream is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// GOAWAY was sent or received: the connection ends with the streams that it has.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.goaway_sent.is_some() || self.goaway_received.is_some()
    }

    /// Whether `id` is open.
    #[must_use]
    pub fn is_open(&self, id: StreamId) -> bool {
        self.streams.get(id.0).is_some()
    }

    /// Whether nothing more can come on `id`: the peer has ended it, or it is gone.
    #[must_use]
    pub fn is_ended(&self, id: StreamId) -> bool {
        self.streams.get(id.0).is_none_or(super::streams::Stream::is_ended)
    }

    /// Whether we have sent END_STREAM on `id`, or it is gone.
    #[must_use]
    pub fn is_finished(&self, id: StreamId) -> bool {
        self.streams.get(id.0).is_none_or(|stream| stream.sending_ended)
    }

    /// The ids of the open streams, in no order.
    pub fn stream_ids(&self) -> impl Iterator<Item = StreamId> {
        self.streams.iter().map(|stream| StreamId(stream.id))
    }

    /// The last stream that the peer's GOAWAY leaves to us, if it has sent one.
    #[must_use]
    pub fn goaway_received(&self) -> Option<StreamId> {
        self.goaway_received.map(StreamId)
    }

    /// Client: how many streams the peer lets us have open.
    #[must_use]
    pub fn peer_max_concurrent(&self) -> u32 {
        self.peer.max_concurrent_streams
    }

    /// The peer's first SETTINGS have come, so that what it allows is known.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.peer_settled
    }

    /// Client: the peer accepts extended CONNECT (RFC 8441).
    #[must_use]
    pub fn peer_enables_connect_protocol(&self) -> bool {
        self.peer.enable_connect_protocol
    }

    /// Keeps a number of the owner's with a stream, to be told with its events.
    pub fn set_slot(&mut self, id: StreamId, slot: u32) {
        if let Some(stream) = self.streams.get_mut(id.0) {
            stream.slot = slot;
        }
    }

    /// The owner's number for an open stream.
    #[must_use]
    pub fn slot(&self, id: StreamId) -> Option<u32> {
        self.streams.get(id.0).map(|stream| stream.slot)
    }

    /// What happened since the last call.
    pub fn counters(&mut self) -> Counters {
        std::mem::take(&mut self.counters)
    }

    /// Gives back memory that an idle connection doesn't need. Meant for a connection that has been
    /// idle for a moment; after each request it would only be allocated again.
    pub fn shrink(&mut self) {
        self.output.shrink_to_fit();
        self.fragments.shrink_to_fit();
        self.partial.shrink_to_fit();
        self.encoded = Vec::new();
        self.block = FieldBlock::default();
        self.crumbs = None;
        self.streams.shrink();
        self.resets.shrink();
    }

    /// Ends the connection: puts GOAWAY in the output, once.
    fn end(&mut self, cause: ConnectionCause) -> ConnectionError {
        if let Some(error) = self.failed {
            return error;
        }
        let error = ConnectionError::from(cause);
        self.failed = Some(error);
        self.heading = None;
        self.fragments = Vec::new();
        self.partial = Vec::new();
        let last = self.goaway_sent.unwrap_or(WINDOW_MAX).min(self.peer_last);
        self.put_goaway(last, error.reason);
        self.count_end(cause);
        error
    }

    fn count_end(&mut self, cause: ConnectionCause) {
        let counters = &mut self.counters;
        match cause {
            ConnectionCause::ContinuationFlood => counters.continuation_flood += 1,
            ConnectionCause::ControlFrameFlood => counters.outbound_control_flood += 1,
            ConnectionCause::EmptyFrameFlood => counters.inbound_empty_frames_flood += 1,
            ConnectionCause::HeaderBlockTooLarge => counters.header_overflow += 1,
            ConnectionCause::PingFlood => counters.inbound_ping_frames_flood += 1,
            ConnectionCause::PriorityFlood => counters.inbound_priority_frames_flood += 1,
            ConnectionCause::RapidReset | ConnectionCause::StreamLimitAbuse => {
                counters.rapid_reset += 1;
            }
            ConnectionCause::SettingsFlood => counters.inbound_settings_frames_flood += 1,
            ConnectionCause::WindowUpdateFlood => {
                counters.inbound_window_update_frames_flood += 1;
            }
            _ => {}
        }
    }

    fn put_goaway(&mut self, last: u32, reason: Reason) {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&last.to_be_bytes());
        payload[4..].copy_from_slice(&reason.0.to_be_bytes());
        frame::put(&mut self.output, kind::GOAWAY, 0, 0, &payload);
        self.goaway_sent = Some(last);
        self.counters.goaway_sent += 1;
    }
}

/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Brings what is configured inside of what the protocol can say, and of what decoders and
/// [`FIELDS_MAX`] can hold.
fn within_protocol(config: Config) -> Config {
    let mut list = config.list;
    list.fields_max = list.fields_max.min(FIELDS_MAX);
    Config {
        hpack_table_size: config.hpack_table_size.min(DECODER_TABLE_BYTES_MAX),
        initial_stream_window: config.initial_stream_window.clamp(WINDOW_INITIAL, WINDOW_MAX),
        initial_connection_window: config
            .initial_connection_window
            .clamp(WINDOW_INITIAL, WINDOW_MAX),
        max_frame_size: config.max_frame_size.clamp(FRAME_SIZE_MIN, FRAME_SIZE_MAX),
        list,
        ..config
    }
}
