//! What one side of a connection is set to.

use super::hpack::ListLimits;

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// It opens streams and sends requests.
    Client,
    /// It accepts streams and sends responses.
    Server,
}

/// Settings and limits of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Config {
    /// Bytes of dynamic table that the peer's encoder may use: SETTINGS_HEADER_TABLE_SIZE.
    pub hpack_table_size: u32,
    /// Server: the streams that the peer may have open, announced. Client: the streams that we open at
    /// most, whatever the peer allows.
    pub max_concurrent_streams: u32,
    /// Bytes that a stream may receive ahead: 65,535 to 2^31-1. Values outside are brought inside.
    pub initial_stream_window: u32,
    /// Bytes that the connection may receive ahead: 65,535 to 2^31-1. Values outside are brought
    /// inside.
    pub initial_connection_window: u32,
    /// The largest frame that the peer may send: 16,384 to 2^24-1. Values outside are brought inside.
    pub max_frame_size: u32,
    /// The largest field section that the peer may send.
    pub list: ListLimits,
    /// Server: announce extended CONNECT (RFC 8441). Clients follow what the server announces.
    pub enable_connect_protocol: bool,
    /// Encode strings with Huffman coding where that is shorter.
    pub huffman: bool,
    /// What counts as a flood.
    pub flood: FloodLimits,
    /// A message that breaks RFC 9113 section 8 resets its stream; otherwise it ends the connection.
    pub stream_error_on_invalid: bool,
}

impl Default for Config {
    /// The protocol's initial values where it has some, else Envoy's defaults.
    fn default() -> Self {
        Self {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window: 65_535,
            initial_connection_window: 65_535,
            max_frame_size: 16_384,
            list: ListLimits::new(60 * 1024, 100),
            enable_connect_protocol: false,
            huffman: true,
            flood: FloodLimits::default(),
            stream_error_on_invalid: false,
        }
    }
}

/// How much of what costs us more than the peer a connection bears.
///
/// The first three are Envoy's rules and formulas, over the life of the connection. The buckets hold
/// `burst` tokens and grow back at `rate` tokens per second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FloodLimits {
    /// HEADERS, CONTINUATION and DATA frames in a row without payload and without END_STREAM.
    pub empty_frames_in_a_row: u32,
    /// PRIORITY frames: this many times (1 + streams opened).
    pub priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames: 5 + 2 x (streams opened + this many times DATA frames sent).
    pub window_updates_per_data_frame: u32,
    /// Server: RST_STREAM frames received, streams refused, and streams that we reset for the peer's
    /// mistakes, that may come at once. The last kind is what "MadeYouReset" attacks use.
    pub reset_burst: u64,
    /// How many of them a second, on average.
    pub reset_rate_per_s: u64,
    /// SETTINGS frames that may come at once.
    pub settings_burst: u64,
    /// How many of them a second, on average.
    pub settings_rate_per_s: u64,
    /// PING frames that may come at once.
    pub ping_burst: u64,
    /// How many of them a second, on average. gRPC clients measure the bandwidth with a ping per
    /// round trip, which on one host are thousands a second.
    pub ping_rate_per_s: u64,
    /// Answers that the peer has provoked and that may wait in the output: PING and SETTINGS
    /// acknowledgements, and RST_STREAM frames for its mistakes.
    pub control_frames_queued: u32,
}

impl Default for FloodLimits {
    /// Envoy's defaults, and bounds that no honest peer reaches for what Envoy doesn't bound.
    fn default() -> Self {
        Self {
            empty_frames_in_a_row: 1,
            priority_frames_per_stream: 100,
            window_updates_per_data_frame: 10,
            reset_burst: 1000,
            reset_rate_per_s: 33,
            settings_burst: 100,
            settings_rate_per_s: 50,
            ping_burst: 10_000,
            ping_rate_per_s: 20_000,
            control_frames_queued: 1000,
        }
    }
}
