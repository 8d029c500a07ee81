//! What happened on a connection, counted for statistics.

/// Counts since they were last taken, named after Envoy's `http2.*` statistics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// GOAWAY frames sent.
    pub goaway_sent: u32,
    /// Field sections over the limits.
    pub header_overflow: u32,
    /// Header blocks with too many CONTINUATION frames.
    pub continuation_flood: u32,
    /// Connections ended for empty frames.
    pub inbound_empty_frames_flood: u32,
    /// Connections ended for PING frames.
    pub inbound_ping_frames_flood: u32,
    /// Connections ended for PRIORITY frames.
    pub inbound_priority_frames_flood: u32,
    /// Connections ended for SETTINGS frames.
    pub inbound_settings_frames_flood: u32,
    /// Connections ended for WINDOW_UPDATE frames.
    pub inbound_window_update_frames_flood: u32,
    /// Connections ended for control frames waiting in the output.
    pub outbound_control_flood: u32,
    /// Connections ended for resetting streams too fast.
    pub rapid_reset: u32,
    /// Messages that break the rules.
    pub rx_messaging_error: u32,
    /// RST_STREAM frames received.
    pub rx_reset: u32,
    /// Streams refused because there were too many.
    pub stream_refused: u32,
    /// Trailer sections received.
    pub trailers: u32,
    /// RST_STREAM frames sent.
    pub tx_reset: u32,
    /// PING and SETTINGS acknowledgements, and RST_STREAM frames for the peer's mistakes, put in the
    /// output.
    pub control_frames_queued: u32,
}
