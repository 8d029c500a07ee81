//! What a connection tells its owner.

use std::fmt;
use std::ops::Range;

use super::error::{Reason, StreamCause};

/// The id of a stream on the wire, 1 to 2^31-1; 0 occurs only as the last stream of a GOAWAY that
/// processed none.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StreamId(pub(super) u32);

impl StreamId {
    /// The highest id there is.
    pub const MAX: Self = Self(0x7fff_ffff);

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The slot of a stream whose owner has not set one with
/// [`Connection::set_slot`](super::Connection::set_slot).
pub const NO_SLOT: u32 = u32::MAX;

/// One step through received bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// What they said, if it concerns the owner.
    pub event: Option<Event>,
}

/// What happened on a connection. `slot` is what the owner has set for the stream, else [`NO_SLOT`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A field section that starts a message: server, a new request; client, a response head, interim
    /// responses included. The fields are in [`Connection::block`](super::Connection::block).
    Headers {
        /// The stream.
        id: StreamId,
        /// The owner's slot; of a new request none.
        slot: u32,
        /// Nothing follows.
        end_stream: bool,
    },
    /// Server: a request that is refused before its fields are told, but that may be answered with
    /// `status`. What follows of its body is dropped by the codec. The stream stays open until the
    /// owner has sent END_STREAM and, unless [`Connection::is_ended`](super::Connection::is_ended),
    /// called [`Connection::reset`](super::Connection::reset).
    Malformed {
        /// The stream.
        id: StreamId,
        /// The status to answer with: 431.
        status: u16,
    },
    /// The trailer section, which ends the message. Its fields are in
    /// [`Connection::block`](super::Connection::block).
    Trailers {
        /// The stream.
        id: StreamId,
        /// The owner's slot.
        slot: u32,
    },
    /// Content, without padding. Give its length to
    /// [`Connection::release`](super::Connection::release) once it is consumed.
    Data {
        /// The stream.
        id: StreamId,
        /// The owner's slot.
        slot: u32,
        /// Where in the input of this call; may be empty if `end_stream`.
        range: Range<usize>,
        /// The message ends here.
        end_stream: bool,
    },
    /// The stream is gone: forget it. Nothing more is told of it.
    Reset {
        /// The stream.
        id: StreamId,
        /// The owner's slot.
        slot: u32,
        /// Why. [`Reason::REFUSED_STREAM`] says that the peer did nothing with it.
        reason: Reason,
        /// Who did it.
        by: ResetBy,
    },
    /// The peer shuts the connection down. Client: the streams above `last` are told as
    /// [`Event::Reset`] with [`Reason::REFUSED_STREAM`] by the following calls.
    GoAway {
        /// The last stream that the peer did or may do something with.
        last: StreamId,
        /// Why.
        reason: Reason,
    },
    /// The connection's window, the streams' initial window or the number of streams that the peer
    /// allows has grown: whatever waits may try again.
    Writable,
    /// The window of one stream opened, after it was shut.
    StreamWritable {
        /// The stream.
        id: StreamId,
        /// The owner's slot.
        slot: u32,
    },
    /// The answer to a [`Connection::ping`](super::Connection::ping).
    Pong([u8; 8]),
}

/// Who reset a stream.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ResetBy {
    /// The peer, by RST_STREAM or by GOAWAY.
    Peer,
    /// We, for what the peer did.
    Us(StreamCause),
}
