//! HSF2, its heartbeats, and TB-Remoting (HSF 1.x): they share ports and even connections, and the
//! first byte of each frame tells them apart (hsf.md section 2).
//!
//! ```text
//! request     HSF2 requests, and the edits of their properties
//! response    HSF2 responses
//! properties  the map of request properties, where it is Hessian 2
//! heartbeat   heartbeats of HSF
//! remoting    TB-Remoting frames
//! connection  the connection objects inside them
//! objects     serialized objects, as far as they are read
//! ```
//!
//! The layout of HSF2 is known from others that speak it only, and they do not agree on all of it:
//! what they disagree on is read either way and written as the switches of [`Hsf`] say.
//!
//! Invariant: the bounds of a frame come from its fixed part alone. Whatever is inside it, a frame of
//! known bounds never loses the framing of its connection.

mod connection;
mod heartbeat;
mod objects;
mod properties;
mod remoting;
mod request;
mod response;

use super::{
    Call, CallError, Detail, EditError, Failure, Frame, FrameError, FrameFault, HeaderEdit, Kind,
    Outcome, Progress, RpcCodec, Splices, Tag,
};
use crate::http::Put;

/// The codec.
///
/// Names and ids need the front of a frame only, so that is all that [`Frame::head_len`] asks for. The
/// properties of an HSF2 request, which hold the group and everything else that counts as a header,
/// stand at its end: they are read, and edited, when the whole frame is given; otherwise
/// [`Call::complete`] is false and there are no headers.
///
/// Frames of TB-Remoting whose connection object can't be read, or that are serialized in another way
/// than Hessian, are [`Kind::Opaque`]. So are responses whose id lies behind a connection object that
/// is too long to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hsf {
    /// A longer frame is refused.
    pub max_frame_bytes: usize,
    /// Bytes 1 and 2 of an HSF2 frame are type and version, not version and type. Known frames tell
    /// their order themselves, so that this only decides what is said of the others.
    pub rpc_type_first: bool,
    /// Bytes 3 and 4 of an HSF2 response are codec and status, not status and codec.
    pub response_codec_first: bool,
    /// Bytes 1 and 2 of a heartbeat are version and type, not type and version.
    pub heartbeat_version_first: bool,
    /// The first byte of an HSF2 frame. Where it is another protocol's of this port, that protocol is
    /// not spoken.
    pub rpc_protocol_byte: u8,
    /// Clients of HSF2 know status 88 with id -1; otherwise it is never sent.
    pub announce_closing: bool,
    /// Answer a TB-Remoting request that fails here. False leaves [`RpcCodec::put_failure`] without
    /// output for such a request: its connection is then to be closed, which clients surely
    /// understand.
    pub tb_local_errors: bool,
}

impl Default for Hsf {
    fn default() -> Self {
        Self {
            max_frame_bytes: 16 * 1024 * 1024,
            rpc_type_first: false,
            response_codec_first: false,
            heartbeat_version_first: false,
            rpc_protocol_byte: 0x0e,
            announce_closing: false,
            tb_local_errors: false,
        }
    }
}

impl RpcCodec for Hsf {
    fn name(&self) -> &'static str {
        "hsf"
    }

    fn frame(&self, front: &[u8]) -> Result<Progress, FrameError> {
        match front.first() {
            None => Ok(Progress::NeedMore(1)),
            Some(first) if *first == self.rpc_protocol_byte => self.rpc_frame(front),
            Some(&heartbeat::PROTOCOL) => heartbeat::frame(front),
            Some(&remoting::PROTOCOL) => remoting::frame(front, self.max_frame_bytes),
            // The handshake, 0x0f, too: nobody knows where it ends.
            Some(_) => Err(lost(FrameFault::Protocol, 0)),
        }
    }

    fn id_bits(&self) -> u32 {
        64
    }

    fn set_id(&self, frame: &Frame, head: &mut [u8], id: u64) {
        if Flavour::of(&frame.tag) == Flavour::Remoting {
            // Its place and its length depend on the serialization: such ids stay what they are.
            return;
        }
        let start = frame.id_end.saturating_sub(ID_BYTES);
        if let Some(place) = head.get_mut(start..frame.id_end) {
            place.copy_from_slice(&id.to_be_bytes());
        }
    }

    fn call<'a>(
        &self,
        frame: &Frame,
        bytes: &'a [u8],
        detail: Detail,
    ) -> Result<Call<'a>, CallError> {
        match Flavour::of(&frame.tag) {
            Flavour::Hsf => request::call(frame, bytes, detail),
            Flavour::Remoting => remoting::call(frame, bytes),
        }
    }

    fn headers<'a>(
        &self,
        frame: &Frame,
        bytes: &'a [u8],
        visit: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
    ) {
        match (Flavour::of(&frame.tag), frame.kind) {
            (Flavour::Hsf, Kind::Request) => request::headers(frame, bytes, visit),
            (Flavour::Remoting, Kind::Bound { .. }) => remoting::headers(frame, bytes, visit),
            _ => {}
        }
    }

    fn outcome(&self, frame: &Frame, bytes: &[u8]) -> Outcome {
        match Flavour::of(&frame.tag) {
            Flavour::Hsf => response::outcome(frame.status),
            Flavour::Remoting => remoting::outcome(frame, bytes),
        }
    }

    fn edit(
        &self,
        frame: &Frame,
        bytes: &[u8],
        edits: &[HeaderEdit<'_>],
        timeout_ms: Option<u32>,
        splices: &mut Splices,
    ) -> Result<(), EditError> {
        match (Flavour::of(&frame.tag), frame.kind) {
            (Flavour::Hsf, Kind::Request) => {
                let edit = request::Edit { edits, timeout_ms, len_max: self.max_frame_bytes };
                edit.list(frame, bytes, splices)
            }
            // There is no timeout in any other message.
            _ if edits.is_empty() => Ok(()),
            _ => Err(EditError::Unsupported),
        }
    }

    fn put_failure(&self, tag: &Tag, id: u64, failure: Failure, text: &str, out: &mut dyn Put) {
        match Flavour::of(tag) {
            Flavour::Hsf => {
                let status = response::status_of(failure);
                response::put(self, codec_of(tag), status, id, text.as_bytes(), out);
            }
            Flavour::Remoting if self.tb_local_errors => remoting::put_failure(tag, id, text, out),
            Flavour::Remoting => {}
        }
    }

    fn put_heartbeat_reply(&self, frame: &Frame, _bytes: &[u8], out: &mut dyn Put) {
        match Flavour::of(&frame.tag) {
            Flavour::Hsf => heartbeat::put_reply(self.heartbeat_version_first, frame.id, out),
            Flavour::Remoting => remoting::put_heartbeat_reply(&frame.tag, frame.id, out),
        }
    }

    fn put_heartbeat(&self, tag: &Tag, id: u64, out: &mut dyn Put) {
        match Flavour::of(tag) {
            Flavour::Hsf => heartbeat::put_request(self.heartbeat_version_first, id, out),
            Flavour::Remoting => remoting::put_heartbeat(tag, id, out),
        }
    }

    fn put_goodbye(&self, tag: &Tag, _id: u64, out: &mut dyn Put) -> bool {
        let known = self.announce_closing && Flavour::of(tag) == Flavour::Hsf;
        if known {
            response::put_closing(self, out);
        }
        known
    }

    /// `interface:version`, with `group/` before it where a group is known.
    fn put_service_key(&self, call: &Call<'_>, out: &mut dyn Put) {
        if !call.group.is_empty() {
            out.put(call.group);
            out.put(b"/");
        }
        out.put(call.service);
    }

    fn flavour(&self, tag: &Tag) -> u8 {
        Flavour::of(tag) as u8
    }
}

impl Hsf {
    fn rpc_frame(&self, front: &[u8]) -> Result<Progress, FrameError> {
        let Some([_, first, second]) = front.first_chunk() else {
            return Ok(Progress::NeedMore(3));
        };
        // The version is always 1, so that each pair has one meaning in either order.
        match (*first, *second) {
            (VERSION, TYPE_REQUEST) | (TYPE_REQUEST, VERSION) => {
                request::frame(front, self.max_frame_bytes)
            }
            (VERSION, TYPE_RESPONSE) => response::frame(self, front),
            pair => {
                let (version, version_at, type_at) =
                    if self.rpc_type_first { (pair.1, 2, 1) } else { (pair.0, 1, 2) };
                Err(if version == VERSION {
                    lost(FrameFault::Type, type_at)
                } else {
                    lost(FrameFault::Version, version_at)
                })
            }
        }
    }
}

/// Which of the two a frame belongs to; HSF's heartbeats are HSF2's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flavour {
    Hsf,
    Remoting,
}

impl Flavour {
    fn of(tag: &Tag) -> Self {
        if tag.0[0] == remoting::PROTOCOL { Flavour::Remoting } else { Flavour::Hsf }
    }
}

/// The layout of tags: the protocol by its usual first byte, then codec or serialization.
fn tag_of(protocol: u8, codec: u8) -> Tag {
    Tag([protocol, codec, 0, 0])
}

fn codec_of(tag: &Tag) -> u8 {
    tag.0[1]
}

/// Framing is lost, and nobody can be told.
fn lost(reason: FrameFault, at: usize) -> FrameError {
    FrameError { reason, at, answer: None }
}

/// The big-endian number at `at`, 0 where there are too few bytes.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let number = bytes.get(at..).and_then(<[u8]>::first_chunk);
    number.map_or(0, |four| u32::from_be_bytes(*four))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let number = bytes.get(at..).and_then(<[u8]>::first_chunk);
    number.map_or(0, |eight| u64::from_be_bytes(*eight))
}

const VERSION: u8 = 1;
const TYPE_REQUEST: u8 = 0;
const TYPE_RESPONSE: u8 = 1;
const ID_BYTES: usize = 8;

/// What HSF2's tags call it, whatever its first byte is on this port.
const RPC: u8 = 0x0e;
