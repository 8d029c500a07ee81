//! Heartbeats of HSF: 18 bytes in either direction (hsf.md section 5).

use super::{ID_BYTES, TYPE_REQUEST, TYPE_RESPONSE, VERSION, lost, tag_of, u64_at};
use crate::http::Put;
use crate::rpc::{Frame, FrameError, FrameFault, Kind, Progress};

/// Reads a heartbeat; `front` begins with its first byte.
pub(super) fn frame(front: &[u8]) -> Result<Progress, FrameError> {
    let Some([_, first, second]) = front.first_chunk() else { return Ok(Progress::NeedMore(3)) };
    // Either order of type and version: the version is always 1.
    let kind = match (*first, *second) {
        (TYPE_REQUEST, VERSION) | (VERSION, TYPE_REQUEST) => Kind::Heartbeat,
        (TYPE_RESPONSE, VERSION) => Kind::HeartbeatReply,
        _ => return Err(lost(FrameFault::Type, 1)),
    };
    if front.len() < LEN {
        return Ok(Progress::NeedMore(LEN));
    }
    Ok(Progress::Frame(Frame {
        len: LEN,
        head_len: LEN,
        id_end: ID_AT + ID_BYTES,
        kind,
        id: u64_at(front, ID_AT),
        timeout_ms: None,
        status: 0,
        tag: tag_of(PROTOCOL, 0),
    }))
}

pub(super) fn put_request(version_first: bool, id: u64, out: &mut dyn Put) {
    put(version_first, TYPE_REQUEST, id, TIMEOUT_MS, out);
}

pub(super) fn put_reply(version_first: bool, id: u64, out: &mut dyn Put) {
    put(version_first, TYPE_RESPONSE, id, 0, out);
}

fn put(version_first: bool, kind: u8, id: u64, timeout_ms: u32, out: &mut dyn Put) {
    let (first, second) = if version_first { (VERSION, kind) } else { (kind, VERSION) };
    out.put(&[PROTOCOL, first, second, 0, 0, 0]);
    out.put(&id.to_be_bytes());
    out.put(&timeout_ms.to_be_bytes());
}

/// The first byte.
pub(super) const PROTOCOL: u8 = 0x0c;

const LEN: usize = 18;
const ID_AT: usize = 6;
/// What a sender waits for the answer; receivers have no use for it.
const TIMEOUT_MS: u32 = 3000;
