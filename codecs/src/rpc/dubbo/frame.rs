//! The fixed header, and what it says a frame is (dubbo.md sections 2, 8 and 10).

use super::super::{Failure, Frame, FrameError, FrameFault, Kind, Progress, Tag};
use super::body::Body;
use super::serialization::Serialization;
use crate::http::Put;

/// Reads the frame that begins with `front`.
pub(super) fn read(front: &[u8], max_frame_bytes: usize) -> Result<Progress, FrameError> {
    check_magic(front)?;
    let Some(header) = front.first_chunk::<HEADER_BYTES>() else {
        return Ok(Progress::NeedMore(HEADER_BYTES));
    };
    let [_, _, flags, status, id @ .., _, _, _, _] = *header;
    let [.., len_0, len_1, len_2, len_3] = *header;
    let (id, tag) = (u64::from_be_bytes(id), Tag([flags & SERIALIZATION, 0, 0, 0]));
    let (is_request, is_two_way) = (flags & REQUEST != 0, flags & TWO_WAY != 0);
    let is_event = flags & EVENT != 0;

    let refused = |reason, answer| Err(FrameError { reason, at: LENGTH_AT, answer });
    let Ok(body_len) = usize::try_from(i32::from_be_bytes([len_0, len_1, len_2, len_3])) else {
        return refused(FrameFault::Length, None);
    };
    let len = HEADER_BYTES + body_len;
    if is_event && body_len > EVENT_BYTES_MAX {
        return refused(FrameFault::TooLarge, None);
    }
    if len > max_frame_bytes {
        let is_answered = is_request && is_two_way && !is_event;
        return refused(FrameFault::TooLarge, is_answered.then_some((tag, id, Failure::TooLarge)));
    }

    let (kind, head_len) = match (is_event, is_request) {
        (true, true) => {
            let Some(event) = front.get(..len) else { return Ok(Progress::NeedMore(len)) };
            (event_kind(event, tag, is_two_way), len)
        }
        (true, false) => (Kind::HeartbeatReply, len),
        (false, true) => {
            let kind = if is_two_way { Kind::Request } else { Kind::Oneway };
            let is_read = Serialization::of(tag).is_some();
            (kind, if is_read { len } else { HEADER_BYTES })
        }
        (false, false) => (Kind::Response, len.min(RESPONSE_HEAD_BYTES)),
    };
    Ok(Progress::Frame(Frame {
        len,
        head_len,
        id_end: ID_AT + size_of::<u64>(),
        kind,
        id,
        timeout_ms: None,
        status: if is_request { 0 } else { u16::from(status) },
        tag,
    }))
}

/// Writes `id` into the frame that `head` begins with; nothing when that is too short.
pub(super) fn set_id(head: &mut [u8], id: u64) {
    if let Some(place) = head.get_mut(ID_AT..).and_then(|rest| rest.first_chunk_mut()) {
        *place = id.to_be_bytes();
    }
}

/// Writes a header.
pub(super) fn put_header(flags: u8, status: u8, id: u64, body_len: usize, out: &mut dyn Put) {
    // Our own bodies are short.
    let len = u32::try_from(body_len).unwrap_or(u32::MAX);
    out.put(&[MAGIC[0], MAGIC[1], flags, status]);
    out.put(&id.to_be_bytes());
    out.put(&len.to_be_bytes());
}

fn check_magic(front: &[u8]) -> Result<(), FrameError> {
    match front.iter().zip(&MAGIC).position(|(byte, magic)| byte != magic) {
        Some(at) => Err(FrameError { reason: FrameFault::Protocol, at, answer: None }),
        None => Ok(()),
    }
}

/// What the request of an event is, whole. One that wants an answer gets it, whatever is in it: the
/// null of a serialization that is not read here looks like anything.
fn event_kind(event: &[u8], tag: Tag, is_two_way: bool) -> Kind {
    let text = Body::new(event, tag).and_then(|mut body| body.string().ok()).flatten();
    let is = |event: &str| text == Some(event.as_bytes());
    let is_null =
        Serialization::of(tag).is_some_and(|known| event[HEADER_BYTES..] == *known.null());
    if is(READ_ONLY) {
        Kind::Goodbye
    } else if is(WRITEABLE) {
        Kind::Welcome
    } else if is_two_way {
        Kind::Heartbeat
    } else if is_null {
        // It only shows that the peer is there, as an answer to a heartbeat does.
        Kind::HeartbeatReply
    } else {
        Kind::Opaque
    }
}

/// The server is about to stop.
pub(super) const READ_ONLY: &str = "R";

/// It is not, after all.
const WRITEABLE: &str = "W";

/// Bytes of the fixed header.
pub(super) const HEADER_BYTES: usize = 16;

/// Where the body's length stands, up to the end of the header.
pub(super) const LENGTH_AT: usize = 12;

/// Bits of the flags: a request, one that is answered, an event; and the serialization id.
pub(super) const REQUEST: u8 = 0x80;
pub(super) const TWO_WAY: u8 = 0x40;
pub(super) const EVENT: u8 = 0x20;
const SERIALIZATION: u8 = 0x1f;

const MAGIC: [u8; 2] = [0xda, 0xbb];
const ID_AT: usize = 4;

/// A longer event is no event (dubbo.md section 10).
const EVENT_BYTES_MAX: usize = 64;

/// What of a response tells its outcome: the header and the body's first value.
const RESPONSE_HEAD_BYTES: usize = HEADER_BYTES + 16;
