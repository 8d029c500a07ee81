//! What goes wrong on a connection or a stream: codes of the wire and causes of ours.
//!
//! A [`Reason`] is what the peer is told (RFC 9113 section 7). A [`ConnectionCause`] or a
//! [`StreamCause`] is which rule was broken, one variant per rule, for logs, counters and tests. The
//! invariant: the cause decides the reason, so one rule is always answered with one code.

use std::fmt;

use super::hpack::HpackError;
use super::message::MessageError;

/// An error code of RST_STREAM and GOAWAY (RFC 9113 section 7); codes that nobody registered keep
/// their number and mean what [`Reason::INTERNAL_ERROR`] means.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Reason(pub u32);

impl Reason {
    /// Not an error: graceful shutdown, or a stream that nobody needs any more.
    pub const NO_ERROR: Self = Self(0x0);
    /// A rule was broken that has no code of its own.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// The endpoint itself failed.
    pub const INTERNAL_ERROR: Self = Self(0x2);
    /// A window was overrun, or grew past 2^31-1.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    /// A frame came for a stream that its sender had ended.
    pub const STREAM_CLOSED: Self = Self(0x5);
    /// A frame has an impossible length.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// The stream was refused before anything was done with it: it may be tried again.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// The stream is no longer needed.
    pub const CANCEL: Self = Self(0x8);
    /// The field compression state can't be kept.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The connection behind a CONNECT was reset or closed abnormally.
    pub const CONNECT_ERROR: Self = Self(0xa);
    /// The peer causes too much load.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    /// The transport is not secure enough.
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
    /// The request must be sent by HTTP/1.1.
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);

    /// The name that RFC 9113 section 7 gives the code, if it gives one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        NAMES.get(self.0 as usize).copied()
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

const NAMES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// The connection can't go on. GOAWAY is in the output already: send it, then close.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[error("{reason}: {cause}")]
pub struct ConnectionError {
    /// What the peer was told.
    pub reason: Reason,
    /// The rule that was broken.
    pub cause: ConnectionCause,
}

impl From<ConnectionCause> for ConnectionError {
    fn from(cause: ConnectionCause) -> Self {
        Self { reason: cause.reason(), cause }
    }
}

/// The rule whose breach ends the connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionCause {
    /// A header block is not valid HPACK (RFC 9113 section 4.3).
    #[error("header block: {0}")]
    Compression(HpackError),
    /// Something else than CONTINUATION of the same stream came within a header block (section 6.10).
    #[error("header block interrupted")]
    ContinuationExpected,
    /// More CONTINUATION frames than any honest header block needs.
    #[error("continuation flood")]
    ContinuationFlood,
    /// CONTINUATION outside of a header block (section 6.10).
    #[error("continuation without headers")]
    ContinuationUnexpected,
    /// More answers to control frames wait to be sent than the limit.
    #[error("too many control frames waiting to be sent")]
    ControlFrameFlood,
    /// DATA overran the window of the connection (section 6.9.1).
    #[error("connection window overrun")]
    DataBeyondWindow,
    /// More frames in a row without payload and without END_STREAM than the limit.
    #[error("empty frame flood")]
    EmptyFrameFlood,
    /// [`Connection::fail`](super::Connection::fail) was called.
    #[error("ended by the caller: {0}")]
    Failed(Reason),
    /// A frame longer than our SETTINGS_MAX_FRAME_SIZE (section 4.2).
    #[error("frame too large")]
    FrameTooLarge,
    /// A frame too short for the fields that its flags announce (section 4.2).
    #[error("frame too short")]
    FrameTooShort,
    /// A GOAWAY frame shorter than its fixed part (section 6.8).
    #[error("goaway of impossible length")]
    GoAwayLength,
    /// A GOAWAY frame allows more streams than the one before (section 6.8).
    #[error("goaway raises its last stream id")]
    GoAwayRaised,
    /// A header block larger than any that the limits could accept.
    #[error("header block too large")]
    HeaderBlockTooLarge,
    /// HEADERS on a stream that its sender had ended (section 5.1).
    #[error("headers on a closed stream")]
    HeadersOnClosedStream,
    /// A message breaks the rules of RFC 9113 section 8, and such messages end the connection.
    #[error("malformed message: {0}")]
    MessageInvalid(MessageError),
    /// The padding is as long as the payload that holds it, or longer (section 6.1).
    #[error("padding too long")]
    PaddingTooLong,
    /// More PING frames than the limit.
    #[error("ping flood")]
    PingFlood,
    /// A PING frame without exactly eight bytes (section 6.7).
    #[error("ping of impossible length")]
    PingLength,
    /// The first bytes are not the connection preface (section 3.4).
    #[error("invalid connection preface")]
    PrefaceInvalid,
    /// More PRIORITY frames than the limit.
    #[error("priority flood")]
    PriorityFlood,
    /// An idle stream, which can't be reset, depends on itself (RFC 7540 section 5.3.1).
    #[error("idle stream depends on itself")]
    PriorityInvalid,
    /// A PRIORITY frame without exactly five bytes, on an idle stream, which can't be reset.
    #[error("priority of impossible length")]
    PriorityLength,
    /// PUSH_PROMISE, which a client may not send and which we don't allow servers (section 8.4).
    #[error("push promise")]
    PushPromise,
    /// Streams were reset faster than the limit: by the peer, or by us for the peer's mistakes.
    #[error("rapid reset")]
    RapidReset,
    /// An RST_STREAM frame without exactly four bytes (section 6.4).
    #[error("rst_stream of impossible length")]
    ResetLength,
    /// SETTINGS_ENABLE_CONNECT_PROTOCOL is neither 0 nor 1, or was taken back (RFC 8441 section 3).
    #[error("invalid enable_connect_protocol")]
    SettingConnectProtocol,
    /// SETTINGS_ENABLE_PUSH is neither 0 nor 1, or 1 from a server (section 6.5.2).
    #[error("invalid enable_push")]
    SettingEnablePush,
    /// SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1 (section 6.5.2).
    #[error("invalid initial_window_size")]
    SettingInitialWindow,
    /// SETTINGS_MAX_FRAME_SIZE outside of 2^14 to 2^24-1 (section 6.5.2).
    #[error("invalid max_frame_size")]
    SettingMaxFrameSize,
    /// A SETTINGS acknowledgement for nothing (section 6.5.3).
    #[error("settings acknowledgement for nothing")]
    SettingsAckUnexpected,
    /// More SETTINGS frames than the limit.
    #[error("settings flood")]
    SettingsFlood,
    /// A SETTINGS frame that isn't a whole number of settings, or an acknowledgement with payload
    /// (section 6.5).
    #[error("settings of impossible length")]
    SettingsLength,
    /// The peer's first frame is not SETTINGS (section 3.4).
    #[error("first frame is not settings")]
    SettingsMissing,
    /// The HTTP2-Settings field of an upgrade can't be read (RFC 7540 section 3.2.1).
    #[error("invalid http2-settings")]
    SettingsUpgrade,
    /// A stream id that the peer may not use: even from a client, or lower than one before it
    /// (section 5.1.1).
    #[error("stream id not allowed")]
    StreamIdInvalid,
    /// A frame of the connection carries a stream id, or a frame of a stream carries none.
    #[error("frame on the wrong kind of stream")]
    StreamIdMisplaced,
    /// A frame that can't open a stream came for an idle one (section 5.1).
    #[error("frame on an idle stream")]
    StreamIdle,
    /// The peer goes on to open more streams than it was allowed.
    #[error("stream limit ignored")]
    StreamLimitAbuse,
    /// WINDOW_UPDATE of zero for the connection (section 6.9).
    #[error("window update of zero")]
    WindowIncrementZero,
    /// A window grew past 2^31-1 (section 6.9.1), by WINDOW_UPDATE for the connection or by SETTINGS.
    #[error("window overflow")]
    WindowOverflow,
    /// More WINDOW_UPDATE frames than the limit.
    #[error("window update flood")]
    WindowUpdateFlood,
    /// A WINDOW_UPDATE frame without exactly four bytes (section 6.9).
    #[error("window_update of impossible length")]
    WindowUpdateLength,
}

impl ConnectionCause {
    /// The code that the peer is told.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Compression(_) => Reason::COMPRESSION_ERROR,
            Self::Failed(reason) => reason,
            Self::ContinuationFlood
            | Self::ControlFrameFlood
            | Self::EmptyFrameFlood
            | Self::HeaderBlockTooLarge
            | Self::PingFlood
            | Self::PriorityFlood
            | Self::RapidReset
            | Self::SettingsFlood
            | Self::StreamLimitAbuse
            | Self::WindowUpdateFlood => Reason::ENHANCE_YOUR_CALM,
            Self::DataBeyondWindow | Self::SettingInitialWindow | Self::WindowOverflow => {
                Reason::FLOW_CONTROL_ERROR
            }
            Self::FrameTooLarge
            | Self::FrameTooShort
            | Self::GoAwayLength
            | Self::PingLength
            | Self::PriorityLength
            | Self::ResetLength
            | Self::SettingsLength
            | Self::WindowUpdateLength => Reason::FRAME_SIZE_ERROR,
            Self::HeadersOnClosedStream => Reason::STREAM_CLOSED,
            Self::ContinuationExpected
            | Self::ContinuationUnexpected
            | Self::GoAwayRaised
            | Self::MessageInvalid(_)
            | Self::PaddingTooLong
            | Self::PrefaceInvalid
            | Self::PriorityInvalid
            | Self::PushPromise
            | Self::SettingConnectProtocol
            | Self::SettingEnablePush
            | Self::SettingMaxFrameSize
            | Self::SettingsAckUnexpected
            | Self::SettingsMissing
            | Self::SettingsUpgrade
            | Self::StreamIdInvalid
            | Self::StreamIdMisplaced
            | Self::StreamIdle
            | Self::WindowIncrementZero => Reason::PROTOCOL_ERROR,
        }
    }
}

/// The rule whose breach made us reset a stream.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamCause {
    /// DATA overran the window of the stream (RFC 9113 section 6.9.1).
    #[error("stream window overrun")]
    DataBeyondWindow,
    /// DATA or HEADERS after END_STREAM, or after RST_STREAM (section 5.1).
    #[error("frame on a closed stream")]
    FrameOnClosedStream,
    /// The fields of a response or of trailers exceed the limits.
    #[error("header list too large")]
    HeaderListTooLarge,
    /// A message breaks the rules of section 8.
    #[error("malformed message: {0}")]
    MessageInvalid(MessageError),
    /// A PRIORITY frame without exactly five bytes (section 6.3).
    #[error("priority of impossible length")]
    PriorityLength,
    /// More streams than our SETTINGS_MAX_CONCURRENT_STREAMS allows (section 5.1.2).
    #[error("too many streams")]
    Refused,
    /// A stream that depends on itself (RFC 7540 section 5.3.1).
    #[error("stream depends on itself")]
    SelfDependency,
    /// WINDOW_UPDATE of zero (section 6.9).
    #[error("window update of zero")]
    WindowIncrementZero,
    /// WINDOW_UPDATE past 2^31-1 (section 6.9.1).
    #[error("window overflow")]
    WindowOverflow,
}

impl StreamCause {
    /// The code that the peer is told.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::DataBeyondWindow | Self::WindowOverflow => Reason::FLOW_CONTROL_ERROR,
            Self::FrameOnClosedStream => Reason::STREAM_CLOSED,
            Self::HeaderListTooLarge => Reason::ENHANCE_YOUR_CALM,
            Self::PriorityLength => Reason::FRAME_SIZE_ERROR,
            Self::Refused => Reason::REFUSED_STREAM,
            Self::MessageInvalid(_) | Self::SelfDependency | Self::WindowIncrementZero => {
                Reason::PROTOCOL_ERROR
            }
        }
    }
}
