//! Dubbo 2 (dubbo.md Part A): frames that begin with `da bb`.
//!
//! A fixed header of 16 bytes says where a frame ends, which request it belongs to and what it is
//! for. What a request is routed by stands in its body, in one of many serializations, of which
//! Hessian 2 and fastjson2 are read here; requests in others have no names and are routed without.
//!
//! Invariants: arguments are gone over and never built; an edit changes string entries of the
//! attachments and the lengths around them and nothing else, so that references stay right.

mod attachments;
mod body;
mod call;
mod edit;
mod frame;
mod jsonb;
mod reply;
mod serialization;

use super::{
    Call, CallError, Detail, EditError, Failure, Frame, FrameError, HeaderEdit, Outcome, Progress,
    RpcCodec, Splices, Tag,
};
use crate::http::Put;

/// The Dubbo 2 protocol.
///
/// [`Frame::head_len`] is the whole frame for requests in serializations that are read, because the
/// attachments are at their end; of a response it is as much as tells its outcome, and whoever wants
/// to see or edit a response's attachments must have all of it in one piece.
///
/// A [`Tag`] begins with the serialization id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dubbo {
    /// A longer frame, header included, is refused.
    pub max_frame_bytes: usize,
}

impl Default for Dubbo {
    /// With Dubbo's own limit: 8 MiB of body.
    fn default() -> Self {
        Dubbo { max_frame_bytes: frame::HEADER_BYTES + PAYLOAD_BYTES_MAX }
    }
}

impl RpcCodec for Dubbo {
    fn name(&self) -> &'static str {
        "dubbo"
    }

    /// Heartbeats and other events are told apart by their bodies, which are awaited: 64 bytes at most.
    /// An event that is none and wants no answer is [`Kind::Opaque`](super::Kind::Opaque).
    fn frame(&self, front: &[u8]) -> Result<Progress, FrameError> {
        frame::read(front, self.max_frame_bytes)
    }

    fn id_bits(&self) -> u32 {
        u64::BITS
    }

    fn set_id(&self, _frame: &Frame, head: &mut [u8], id: u64) {
        frame::set_id(head, id);
    }

    /// Attachments override what stands before the arguments: `interface`, else `path`, the service;
    /// `version` the version. Version `0.0.0` is none. Of a generic call (`$invoke`, `$invokeAsync`)
    /// the method is the one that is meant, its first argument, where that can be read.
    ///
    /// fastjson2 attachments that can't be read are passed over (dubbo.md section 5.3).
    fn call<'a>(
        &self,
        frame: &Frame,
        bytes: &'a [u8],
        detail: Detail,
    ) -> Result<Call<'a>, CallError> {
        call::read(frame, bytes, detail)
    }

    /// String attachments under their own keys, then, of a request, `dubbo`, `service`, `version`,
    /// `method` and `group` (dubbo.md section 6): last, so that they count where an attachment has the
    /// same key. `method` is as the frame has it, `$invoke` too. Text in several chunks, or in
    /// encodings other than ASCII and UTF-8, is left out.
    fn headers<'a>(
        &self,
        frame: &Frame,
        bytes: &'a [u8],
        visit: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
    ) {
        call::headers(frame, bytes, visit);
    }

    fn outcome(&self, frame: &Frame, bytes: &[u8]) -> Outcome {
        reply::outcome(frame, bytes)
    }

    /// Edits are made to the attachments. One whose value is no string, and not as simple as one, can't
    /// be taken out ([`EditError::Unsupported`]); a response without attachments can't get any. The
    /// timeout is the attachment `timeout`.
    fn edit(
        &self,
        frame: &Frame,
        bytes: &[u8],
        edits: &[HeaderEdit<'_>],
        timeout_ms: Option<u32>,
        splices: &mut Splices,
    ) -> Result<(), EditError> {
        edit::list(frame, bytes, edits, timeout_ms, self.max_frame_bytes, splices)
    }

    fn put_failure(&self, tag: &Tag, id: u64, failure: Failure, text: &str, out: &mut dyn Put) {
        reply::put_failure(*tag, id, failure, text, out);
    }

    fn put_heartbeat_reply(&self, frame: &Frame, bytes: &[u8], out: &mut dyn Put) {
        reply::put_heartbeat_reply(frame, bytes, out);
    }

    fn put_heartbeat(&self, tag: &Tag, id: u64, out: &mut dyn Put) {
        reply::put_heartbeat(*tag, id, out);
    }

    fn put_goodbye(&self, tag: &Tag, id: u64, out: &mut dyn Put) -> bool {
        reply::put_goodbye(*tag, id, out);
        true
    }

    fn put_service_key(&self, call: &Call<'_>, out: &mut dyn Put) {
        call::put_service_key(call, out);
    }
}

/// Dubbo's own limit of a body (`payload`).
const PAYLOAD_BYTES_MAX: usize = 8 << 20;
