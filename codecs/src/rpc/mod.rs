//! RPC framing protocols: one contract for Bolt, Dubbo, HSF and what comes after them.
//!
//! A codec is told the front of a connection's bytes and answers with the frame that begins there:
//! how long it is, what it is for, which request it belongs to. The engine's stream manager does the
//! rest. A codec has no state of its own but its options, so one value serves every connection.
//!
//! Invariants: every length, count and reference is checked before it is used; what a frame means
//! depends on its bytes alone; nothing is allocated for a length that a peer merely claims.

mod bolt;
mod dubbo;
mod edit;
pub mod hessian2;
mod hsf;

pub use self::bolt::Bolt;
pub use self::dubbo::Dubbo;
pub use self::edit::{HeaderEdit, Splices};
pub use self::hsf::Hsf;

use crate::http::Put;

/// An RPC framing protocol.
pub trait RpcCodec {
    /// Its name in configuration, statistics and logs: lower case, for example `bolt`.
    fn name(&self) -> &'static str;

    /// Reads the fixed part of the frame that begins with `front`.
    ///
    /// # Errors
    /// When no frame can begin so, or one that may not be taken in. Framing is then lost.
    fn frame(&self, front: &[u8]) -> Result<Progress, FrameError>;

    /// Bits of a request id on the wire: 32 or 64. 0 when ids can't be rewritten: frames then go
    /// through unchanged on an upstream connection of the downstream connection's own.
    fn id_bits(&self) -> u32;

    /// Writes `id` where the frame has its own; `head` begins with the frame and holds at least
    /// [`Frame::id_end`] bytes. Ids of 32 bits use the low half.
    fn set_id(&self, frame: &Frame, head: &mut [u8], id: u64);

    /// Reads what a request is routed by. `bytes` is the frame's first [`Frame::head_len`] bytes or
    /// more.
    ///
    /// # Errors
    /// When the routing part can't be read although the frame is intact.
    fn call<'a>(
        &self,
        frame: &Frame,
        bytes: &'a [u8],
        detail: Detail,
    ) -> Result<Call<'a>, CallError>;

    /// Shows every header of a request or response (Bolt's header map, Dubbo's attachments) in order,
    /// under the names that routes match; until `visit` returns false. What can't be read is left out.
    fn headers<'a>(
        &self,
        frame: &Frame,
        bytes: &'a [u8],
        visit: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
    );

    /// Tells how a call ended, by its response.
    fn outcome(&self, frame: &Frame, bytes: &[u8]) -> Outcome;

    /// Lists the changes that make `edits` of a message's headers (and its timeout, where `timeout_ms`
    /// is given and the message has one) in `splices`, which comes in empty. `bytes` as for
    /// [`RpcCodec::call`]. A checksum is not this function's business: see [`RpcCodec::seal`].
    ///
    /// # Errors
    /// When the message can't hold them.
    fn edit(
        &self,
        frame: &Frame,
        bytes: &[u8],
        edits: &[HeaderEdit<'_>],
        timeout_ms: Option<u32>,
        splices: &mut Splices,
    ) -> Result<(), EditError>;

    /// Lists the changes that bring a response into the form its request had in `splices`, which comes
    /// in empty. False when none are needed. `bytes` as for [`RpcCodec::call`].
    ///
    /// The id in `bytes` is carried over, to where the new form has it: [`RpcCodec::set_id`] comes
    /// first. Where the new form ends with a checksum, the changes leave room for it, for
    /// [`RpcCodec::seal`] to tell what goes there.
    fn convert(
        &self,
        response: &Frame,
        bytes: &[u8],
        request: &Tag,
        splices: &mut Splices,
    ) -> bool {
        let _ = (response, bytes, request, splices);
        false
    }

    /// Checks the checksum that a frame ends with, if it has one. `parts` are all of its bytes.
    ///
    /// # Errors
    /// When it does not agree.
    fn verify(
        &self,
        frame: &Frame,
        parts: &mut dyn Iterator<Item = &[u8]>,
    ) -> Result<(), FrameError> {
        let _ = (frame, parts);
        Ok(())
    }

    /// The checksum for a frame whose bytes were changed (its id among them); nothing when it has none.
    /// It replaces the frame's last bytes.
    ///
    /// `frame` is what the frame has become: its `len` after the splices, and the request's `tag` when
    /// it was converted. `parts` are all of its bytes; those in the checksum's place do not count.
    fn seal(&self, frame: &Frame, parts: &mut dyn Iterator<Item = &[u8]>) -> Option<[u8; 4]> {
        let _ = (frame, parts);
        None
    }

    /// Writes the answer to a two-way request that fails here: `tag` and `id` are the request's.
    /// `text` is a short reason for people; a protocol without room for one leaves it out. Nothing is
    /// written where there is no answer that clients are known to understand: the connection of such
    /// a request is then to be closed.
    fn put_failure(&self, tag: &Tag, id: u64, failure: Failure, text: &str, out: &mut dyn Put);

    /// Writes the answer to a heartbeat; `bytes` is the whole frame.
    fn put_heartbeat_reply(&self, frame: &Frame, bytes: &[u8], out: &mut dyn Put);

    /// Writes a heartbeat of our own, in the form of `tag`.
    fn put_heartbeat(&self, tag: &Tag, id: u64, out: &mut dyn Put);

    /// Writes what asks the peer to send no new requests here. False when the protocol has no such
    /// frame or its configuration does not allow it: nothing is written then.
    fn put_goodbye(&self, tag: &Tag, id: u64, out: &mut dyn Put) -> bool;

    /// Writes the key of a call in a registry's terms, for example `interface:version` or
    /// `group/interface:version`.
    fn put_service_key(&self, call: &Call<'_>, out: &mut dyn Put);

    /// Upstream connections are not shared between requests of different flavours: peers fix some
    /// choice (a version) by the first frame of a connection.
    fn flavour(&self, tag: &Tag) -> u8 {
        let _ = tag;
        0
    }
}

/// How far the front of a frame was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// At least this many bytes, counted from the frame's first, are needed to tell more. Always more
    /// than there are, and never more than [`FRONT_BYTES_MAX`].
    NeedMore(usize),
    /// A frame begins here.
    Frame(Frame),
}

/// What the fixed part of a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes of the whole frame, checksum included.
    pub len: usize,
    /// Bytes of its front that [`RpcCodec::call`] and the other readers want in one piece; at most
    /// `len`.
    pub head_len: usize,
    /// Bytes of its front that reach to the end of the id; at most `head_len`.
    pub id_end: usize,
    /// What it is.
    pub kind: Kind,
    /// Which request it is, or belongs to. 32-bit ids are zero-extended.
    pub id: u64,
    /// The time that a request's sender gives it, in milliseconds, where the fixed part says so.
    pub timeout_ms: Option<u32>,
    /// A response's status as the protocol numbers it; 0 otherwise.
    pub status: u16,
    /// What an answer to it must agree with.
    pub tag: Tag,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request that is answered.
    Request,
    /// A request that is never answered, not even with an error.
    Oneway,
    /// The answer to a request.
    Response,
    /// A heartbeat to be answered.
    Heartbeat,
    /// The answer to a heartbeat.
    HeartbeatReply,
    /// The peer wants no new requests on this connection.
    Goodbye,
    /// It wants them again.
    Welcome,
    /// A frame of no known kind, whose bounds are known: it may go through on a connection that is
    /// bound to one downstream.
    Opaque,
    /// A request of a protocol, or with a property, that binds its downstream connection to one
    /// upstream connection, with ids unchanged. Answered when `oneway` is false.
    Bound {
        /// Never answered.
        oneway: bool,
    },
}

/// What an answer must agree with: the protocol version, the codec or serialization, flags. Each codec
/// has its own layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag(pub [u8; 4]);

/// How much of a call is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Service, version and method, where they can be had at once.
    Names,
    /// Everything: group and timeout too, even where that takes reading past the arguments.
    All,
}

/// What a request is routed by. What a protocol or a request does not say is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call<'a> {
    /// Service name as the protocol writes it: Bolt `interface:version[:uniqueId]`, Dubbo the
    /// interface.
    pub service: &'a [u8],
    /// Method.
    pub method: &'a [u8],
    /// Service version, where it is apart from the name.
    pub version: &'a [u8],
    /// Service group.
    pub group: &'a [u8],
    /// The time that the sender gives it, in milliseconds; `None` when it says nothing.
    pub timeout_ms: Option<u32>,
    /// It binds its downstream connection to one upstream connection, with ids unchanged, as
    /// [`Kind::Bound`] does, but by something that [`Detail::All`] alone can see: Dubbo's callbacks.
    pub binds: bool,
    /// False when only [`Detail::Names`] were read and there may be more.
    pub complete: bool,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a result.
    Success,
    /// With an error of the application's: the service works.
    ApplicationError,
    /// The peer is overloaded and did not begin: the call may go elsewhere.
    Overload,
    /// With an error of the service or what carries it.
    Failure,
}

/// Why a call fails here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No route, or the service is not known.
    NoRoute,
    /// No endpoint to use.
    NoHealthyUpstream,
    /// A limit: circuit breaker, queue, memory.
    Overflow,
    /// A rate limit.
    RateLimited,
    /// Not allowed.
    Denied,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The client's own time was over before the request was sent.
    ClientTimeout,
    /// The connect failed, or the connection was lost before the answer.
    ConnectionLost,
    /// The request can't be read although its frame is intact.
    Undecodable,
    /// It is longer than the limit.
    TooLarge,
    /// Anything else.
    Internal,
}

/// Why framing is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {at} of the frame")]
pub struct FrameError {
    /// What is wrong.
    pub reason: FrameFault,
    /// Offset from the frame's first byte.
    pub at: usize,
    /// The two-way request that can still be answered, before the connection is closed.
    pub answer: Option<(Tag, u64, Failure)>,
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// Not this protocol.
    #[error("not a protocol byte")]
    Protocol,
    /// A version that there is not.
    #[error("unknown version")]
    Version,
    /// A kind of message that there is not.
    #[error("unknown message type")]
    Type,
    /// A length or count below zero, or that its field does not allow.
    #[error("impossible length")]
    Length,
    /// Above the configured limit.
    #[error("frame above the limit")]
    TooLarge,
    /// The checksum does not agree.
    #[error("checksum mismatch")]
    Checksum,
}

/// Why a request whose frame is intact can't be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("undecodable at byte {at}: {reason}")]
pub struct CallError {
    /// What is wrong.
    pub reason: &'static str,
    /// Offset from the frame's first byte.
    pub at: usize,
}

/// Why headers can't be edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The headers can't be read.
    #[error("the headers can't be read")]
    Unreadable,
    /// They would be longer than the protocol allows.
    #[error("the headers would be too long")]
    TooLong,
    /// The protocol, or this serialization, has no headers that can be edited.
    #[error("the headers of this message can't be edited")]
    Unsupported,
}

/// No codec asks for more in one piece to find a frame's bounds: HSF2's argument table is the longest.
pub const FRONT_BYTES_MAX: usize = 4096;
