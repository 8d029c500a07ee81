//! HSF2 responses (hsf.md section 4).

use super::{Hsf, ID_BYTES, RPC, TYPE_RESPONSE, VERSION, lost, tag_of, u32_at, u64_at};
use crate::http::Put;
use crate::rpc::{Failure, Frame, FrameError, FrameFault, Kind, Outcome, Progress};

/// Reads a response; the caller has seen what it is.
pub(super) fn frame(hsf: &Hsf, front: &[u8]) -> Result<Progress, FrameError> {
    if front.len() < HEAD_LEN {
        return Ok(Progress::NeedMore(HEAD_LEN));
    }
    let (status, codec) = status_and_codec(hsf, front[3], front[4])?;
    let body_len =
        i32::try_from(u32_at(front, LENGTH_AT)).map_err(|_| lost(FrameFault::Length, LENGTH_AT))?;
    let body_len = body_len as usize;
    if body_len > hsf.max_frame_bytes.saturating_sub(HEAD_LEN) {
        return Err(lost(FrameFault::TooLarge, LENGTH_AT));
    }
    let id = u64_at(front, ID_AT);
    let is_goodbye = status == STATUS_SERVER_CLOSING && id == ID_OF_NOBODY;
    Ok(Progress::Frame(Frame {
        len: HEAD_LEN + body_len,
        head_len: HEAD_LEN,
        id_end: ID_AT + ID_BYTES,
        kind: if is_goodbye { Kind::Goodbye } else { Kind::Response },
        id,
        timeout_ms: None,
        status: status.into(),
        tag: tag_of(RPC, codec),
    }))
}

/// Tells status and codec apart (hsf.md section 6): a status is 10 or above, and a codec that others
/// know is 6 or below. Only a codec of somebody's own leaves it to the configuration.
fn status_and_codec(hsf: &Hsf, first: u8, second: u8) -> Result<(u8, u8), FrameError> {
    if CODECS.contains(&first) && STATUSES.contains(&second) {
        return Ok((second, first));
    }
    let is_codec_first = hsf.response_codec_first && !CODECS.contains(&second);
    if is_codec_first && STATUSES.contains(&second) {
        return Ok((second, first));
    }
    if first >= STATUS_OK || STATUSES.contains(&first) {
        return Ok((first, second));
    }
    Err(lost(FrameFault::Type, 3))
}

/// How a call ended.
pub(super) fn outcome(status: u16) -> Outcome {
    // What the application threw comes with status 20, too: only its class would tell.
    match u8::try_from(status) {
        Ok(STATUS_OK) => Outcome::Success,
        Ok(STATUS_THREAD_POOL_BUSY) => Outcome::Overload,
        _ => Outcome::Failure,
    }
}

/// The status of an answer of ours (hsf.md section 9).
pub(super) fn status_of(failure: Failure) -> u8 {
    match failure {
        Failure::NoRoute | Failure::NoHealthyUpstream => STATUS_SERVICE_NOT_FOUND,
        Failure::Overflow | Failure::RateLimited => STATUS_THREAD_POOL_BUSY,
        Failure::UpstreamTimeout | Failure::ClientTimeout => STATUS_SERVER_TIMEOUT,
        Failure::ConnectionLost => STATUS_COMM_ERROR,
        Failure::Undecodable => STATUS_BAD_REQUEST,
        Failure::Denied | Failure::TooLarge | Failure::Internal => STATUS_SERVER_ERROR,
    }
}

/// Writes a response.
pub(super) fn put(hsf: &Hsf, codec: u8, status: u8, id: u64, body: &[u8], out: &mut dyn Put) {
    let body = &body[..body.len().min(BODY_WRITTEN_MAX)];
    let (first, second) = if hsf.response_codec_first { (codec, status) } else { (status, codec) };
    out.put(&[hsf.rpc_protocol_byte, VERSION, TYPE_RESPONSE, first, second, 0, 0, 0]);
    out.put(&id.to_be_bytes());
    out.put(&(body.len() as u32).to_be_bytes());
    out.put(body);
}

/// Writes what a stopping server tells its clients.
pub(super) fn put_closing(hsf: &Hsf, out: &mut dyn Put) {
    put(hsf, CODEC_HESSIAN2, STATUS_SERVER_CLOSING, ID_OF_NOBODY, &[0], out);
}

const HEAD_LEN: usize = 20;
const ID_AT: usize = 8;
const LENGTH_AT: usize = 16;
/// The id of a message that answers no request: -1.
const ID_OF_NOBODY: u64 = u64::MAX;

/// Codecs 1 to 6: Hessian, Java, TOP, Hessian 2, Kryo, JSON.
const CODECS: std::ops::RangeInclusive<u8> = 1..=6;
pub(super) const CODEC_HESSIAN2: u8 = 4;

/// Reasons are short; a longer one is cut.
const BODY_WRITTEN_MAX: usize = 1024;

const STATUS_OK: u8 = 20;
const STATUS_SERVER_TIMEOUT: u8 = 31;
const STATUS_BAD_REQUEST: u8 = 40;
const STATUS_SERVICE_NOT_FOUND: u8 = 60;
const STATUS_SERVER_ERROR: u8 = 80;
const STATUS_THREAD_POOL_BUSY: u8 = 81;
const STATUS_COMM_ERROR: u8 = 82;
const STATUS_SERVER_CLOSING: u8 = 88;
/// All that are known (hsf.md section 4).
const STATUSES: [u8; 15] =
    [10, STATUS_OK, 30, 31, 40, 50, 60, 70, 80, 81, 82, 83, STATUS_SERVER_CLOSING, 90, 91];
