//! Frames of our own, and what responses say (dubbo.md sections 4, 8 and 9).

use arrayvec::ArrayString;

use super::super::{Failure, Frame, Outcome, Tag};
use super::body::Body;
use super::call::{EXCEPTION, EXCEPTION_WITH_ATTACHMENTS, OK};
use super::frame::{EVENT, HEADER_BYTES, READ_ONLY, REQUEST, TWO_WAY, put_header};
use super::serialization::Serialization;
use crate::http::Put;

/// How the call of a response ended. Results of unknown kinds, and in serializations that are not
/// read, are results.
pub(super) fn outcome(frame: &Frame, bytes: &[u8]) -> Outcome {
    if frame.status == u16::from(THREADS_EXHAUSTED) {
        return Outcome::Overload;
    }
    if frame.status != u16::from(OK) {
        return Outcome::Failure;
    }
    match Body::of(frame, bytes).and_then(|mut body| body.integer()) {
        Some(EXCEPTION | EXCEPTION_WITH_ATTACHMENTS) => Outcome::ApplicationError,
        _ => Outcome::Success,
    }
}

/// Writes the answer to a request that fails here: its text is `code|reason`, as MOSN has it.
pub(super) fn put_failure(tag: Tag, id: u64, failure: Failure, text: &str, out: &mut dyn Put) {
    let (status, code, usual) = match failure {
        Failure::NoRoute => (SERVICE_NOT_FOUND, "404|", "no route"),
        Failure::NoHealthyUpstream => (SERVICE_NOT_FOUND, "502|", "no healthy upstream"),
        Failure::ConnectionLost => (SERVER_ERROR, "502|", "upstream connection lost"),
        Failure::Overflow => (THREADS_EXHAUSTED, "503|", "overflow"),
        Failure::RateLimited => (THREADS_EXHAUSTED, "509|", "limit"),
        Failure::UpstreamTimeout => (SERVER_TIMEOUT, "504|", "upstream timeout"),
        Failure::ClientTimeout => (CLIENT_TIMEOUT, "504|", "client timeout"),
        Failure::Denied => (SERVER_ERROR, "403|", "denied"),
        Failure::Undecodable => (BAD_REQUEST, "0|", "codec"),
        Failure::TooLarge => (BAD_REQUEST, "413|", "too large"),
        Failure::Internal => (SERVICE_ERROR, "500|", "internal"),
    };
    let mut message = ArrayString::<TEXT_BYTES_MAX>::new();
    let reason = if text.is_empty() { usual } else { text };
    for character in code.chars().chain(reason.chars()) {
        if message.try_push(character).is_err() {
            break;
        }
    }
    let serialization = Serialization::for_answer(tag);
    put_header(serialization.id(), status, id, serialization.body_len(&message), out);
    serialization.put_body(&message, out);
}

/// Writes the answer to the heartbeat that `bytes` begin with: in its serialization, with its body.
pub(super) fn put_heartbeat_reply(frame: &Frame, bytes: &[u8], out: &mut dyn Put) {
    let [serialization, ..] = frame.tag.0;
    let body = bytes.get(HEADER_BYTES..frame.len).unwrap_or_default();
    put_header(EVENT | serialization, OK, frame.id, body.len(), out);
    out.put(body);
}

/// Writes a heartbeat.
pub(super) fn put_heartbeat(tag: Tag, id: u64, out: &mut dyn Put) {
    let serialization = Serialization::for_answer(tag);
    let body = serialization.null();
    put_header(REQUEST | TWO_WAY | EVENT | serialization.id(), 0, id, body.len(), out);
    out.put(body);
}

/// Writes the event that says that no new requests are taken.
pub(super) fn put_goodbye(tag: Tag, id: u64, out: &mut dyn Put) {
    let serialization = Serialization::for_answer(tag);
    put_header(REQUEST | EVENT | serialization.id(), 0, id, serialization.body_len(READ_ONLY), out);
    serialization.put_body(READ_ONLY, out);
}

/// Statuses (dubbo.md section 2.2).
const CLIENT_TIMEOUT: u8 = 30;
const SERVER_TIMEOUT: u8 = 31;
const BAD_REQUEST: u8 = 40;
const SERVICE_NOT_FOUND: u8 = 60;
const SERVICE_ERROR: u8 = 70;
const SERVER_ERROR: u8 = 80;
const THREADS_EXHAUSTED: u8 = 100;

/// The rest of a longer reason is left out.
const TEXT_BYTES_MAX: usize = 512;
