//! TB-Remoting, the protocol of HSF 1.x (hsf.md section 7): a fixed part, a connection object with the
//! request's id, and an application object with everything else.
//!
//! Ids are inside serialized objects and have no length of their own, so that requests are
//! [`Kind::Bound`]: frames go through unchanged.

use super::connection::{Connection, put_request, put_response};
use super::objects::{Grammar, Reader, Undecodable, Value};
use super::{codec_of, lost, tag_of, u32_at};
use crate::http::Put;
use crate::rpc::{
    Call, CallError, FRONT_BYTES_MAX, Frame, FrameError, FrameFault, Kind, Outcome, Progress, Tag,
};

/// Reads the fixed part and the connection object.
pub(super) fn frame(front: &[u8], len_max: usize) -> Result<Progress, FrameError> {
    let Some(head) = front.first_chunk::<HEAD_LEN>() else {
        return Ok(Progress::NeedMore(HEAD_LEN));
    };
    let head = Head::read(head, len_max)?;
    let mut frame = Frame {
        len: head.len,
        head_len: HEAD_LEN,
        id_end: HEAD_LEN,
        kind: Kind::Opaque,
        id: 0,
        timeout_ms: None,
        status: 0,
        tag: tag_of(PROTOCOL, head.serialization),
    };
    let Some(grammar) = Grammar::of(head.serialization) else { return Ok(Progress::Frame(frame)) };
    if head.class_end > FRONT_BYTES_MAX {
        return Ok(Progress::Frame(frame));
    }
    let Some(objects) = front.get(HEAD_LEN..head.class_end) else {
        return Ok(Progress::NeedMore(head.class_end));
    };
    let (connection, class) = objects.split_at(head.connection_end - HEAD_LEN);
    let Ok(connection) = Connection::read(grammar, connection) else {
        return Ok(Progress::Frame(frame));
    };
    let is_oneway = head.direction == DIRECTION_ONEWAY;
    frame.id = connection.id as u64;
    let wanted = match (head.is_request, class == HEARTBEAT_CLASS) {
        (true, true) => {
            frame.kind = if is_oneway { Kind::Opaque } else { Kind::Heartbeat };
            0
        }
        (true, false) => {
            frame.kind = Kind::Bound { oneway: is_oneway };
            ROUTED_BYTES_MAX
        }
        (false, true) => {
            frame.kind = Kind::HeartbeatReply;
            0
        }
        (false, false) => {
            frame.kind = Kind::Response;
            frame.status = u16::try_from(connection.result).unwrap_or(u16::MAX);
            JUDGED_BYTES_MAX
        }
    };
    frame.head_len = head.len.min(head.class_end + wanted);
    Ok(Progress::Frame(frame))
}

/// Reads what a request is routed by.
pub(super) fn call<'a>(frame: &Frame, bytes: &'a [u8]) -> Result<Call<'a>, CallError> {
    let Some((mut reader, start)) = application(frame, bytes) else {
        return Err(CallError { reason: "not serialized in a way that is read", at: 0 });
    };
    let mut call = Call { complete: true, ..Call::default() };
    match read_names(&mut reader, &mut call) {
        Ok(()) => Ok(call),
        Err(Undecodable) => {
            Err(CallError { reason: "the request object can't be read", at: start + reader.at() })
        }
    }
}

/// Stops as soon as both are known.
fn read_names<'a>(reader: &mut Reader<'a>, call: &mut Call<'a>) -> Result<(), Undecodable> {
    let Some(mut fields) = reader.enter()? else {
        // Not an object: nothing that says where it goes.
        return reader.value().map(drop);
    };
    let (mut has_service, mut has_method) = (false, false);
    while !(has_service && has_method)
        && let Some(name) = reader.field(&mut fields)?
    {
        match (name, reader.value()?) {
            (b"targetServiceUniqueName", Value::Text(text)) => {
                (call.service, has_service) = (text, true);
            }
            (b"methodName", Value::Text(text)) => (call.method, has_method) = (text, true),
            _ => {}
        }
    }
    Ok(())
}

/// Shows the request's properties that are text.
pub(super) fn headers<'a>(
    frame: &Frame,
    bytes: &'a [u8],
    visit: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
) {
    if let Some((mut reader, _)) = application(frame, bytes) {
        // What can't be read is left out.
        let _ = show_properties(&mut reader, visit);
    }
}

fn show_properties<'a>(
    reader: &mut Reader<'a>,
    visit: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
) -> Result<(), Undecodable> {
    let Some(mut fields) = reader.enter()? else { return Ok(()) };
    while let Some(name) = reader.field(&mut fields)? {
        if name != b"requestProps" {
            reader.value()?;
            continue;
        }
        let Some(mut properties) = reader.enter()? else { return Ok(()) };
        while let Some(key) = reader.field(&mut properties)? {
            if let Value::Text(value) = reader.value()?
                && !visit(key, value)
            {
                return Ok(());
            }
        }
        return Ok(());
    }
    Ok(())
}

/// How a call ended: its connection object tells of failures on the way, the response object of those
/// of the service. What the application threw is a result like others.
pub(super) fn outcome(frame: &Frame, bytes: &[u8]) -> Outcome {
    if frame.status != 0 {
        return Outcome::Failure;
    }
    match application(frame, bytes).map(|(mut reader, _)| is_error(&mut reader)) {
        Some(Ok(true)) => Outcome::Failure,
        _ => Outcome::Success,
    }
}

fn is_error(reader: &mut Reader<'_>) -> Result<bool, Undecodable> {
    let Some(mut fields) = reader.enter()? else { return Ok(false) };
    while let Some(name) = reader.field(&mut fields)? {
        let value = reader.value()?;
        if name == b"isError" {
            return Ok(value == Value::Flag(true));
        }
    }
    Ok(false)
}

/// A reader of the application object, as far as it is there, and where it begins.
fn application<'a>(frame: &Frame, bytes: &'a [u8]) -> Option<(Reader<'a>, usize)> {
    let head = Head::read(bytes.first_chunk()?, frame.len).ok()?;
    let object = bytes.get(head.class_end..head.len.min(bytes.len()))?;
    Some((Reader::new(Grammar::of(head.serialization)?, object), head.class_end))
}

/// Writes the answer to a request that fails here. A serialization that is not written has none.
pub(super) fn put_failure(tag: &Tag, id: u64, text: &str, out: &mut dyn Put) {
    put(tag, KIND_RESPONSE, 0, b"", b"", out, |grammar, out| {
        put_response(grammar, id as i64, RESULT_FAILED, Some(text), out);
    });
}

/// Writes a heartbeat of our own.
pub(super) fn put_heartbeat(tag: &Tag, id: u64, out: &mut dyn Put) {
    put(tag, KIND_REQUEST, DIRECTION_TWOWAY, HEARTBEAT_CLASS, b"N", out, |grammar, out| {
        put_request(grammar, id as i64, out);
    });
}

/// Writes the answer to a heartbeat.
pub(super) fn put_heartbeat_reply(tag: &Tag, id: u64, out: &mut dyn Put) {
    put(tag, KIND_RESPONSE, 0, HEARTBEAT_CLASS, b"N", out, |grammar, out| {
        put_response(grammar, id as i64, 0, None, out);
    });
}

fn put(
    tag: &Tag,
    kind: u8,
    direction: u8,
    class: &[u8],
    application: &[u8],
    out: &mut dyn Put,
    connection: impl Fn(Grammar, &mut dyn Put),
) {
    let Some(grammar) = Grammar::of(codec_of(tag)) else { return };
    // Its length comes before it.
    let mut connection_len = Count(0);
    connection(grammar, &mut connection_len);
    out.put(&[PROTOCOL, kind, codec_of(tag), direction, 0]);
    out.put(&(connection_len.0 as u32).to_be_bytes());
    out.put(&[class.len() as u8]);
    out.put(&(application.len() as u32).to_be_bytes());
    connection(grammar, out);
    out.put(class);
    out.put(application);
}

/// The fixed part.
struct Head {
    is_request: bool,
    serialization: u8,
    direction: u8,
    connection_end: usize,
    class_end: usize,
    len: usize,
}

impl Head {
    fn read(bytes: &[u8; HEAD_LEN], len_max: usize) -> Result<Self, FrameError> {
        let is_request = match bytes[1] {
            KIND_REQUEST | KIND_REQUEST_COMMAND => true,
            KIND_RESPONSE | KIND_RESPONSE_COMMAND => false,
            _ => return Err(lost(FrameFault::Type, 1)),
        };
        let direction = bytes[3];
        if direction > DIRECTION_TWOWAY {
            return Err(lost(FrameFault::Type, 3));
        }
        let connection_end = HEAD_LEN as u64 + u64::from(u32_at(bytes, CONNECTION_LEN_AT));
        let class_end = connection_end + u64::from(bytes[CLASS_LEN_AT]);
        let len = class_end + u64::from(u32_at(bytes, APPLICATION_LEN_AT));
        match usize::try_from(len) {
            Ok(len) if len <= len_max => Ok(Self {
                is_request,
                serialization: bytes[2],
                direction,
                connection_end: connection_end as usize,
                class_end: class_end as usize,
                len,
            }),
            _ => Err(lost(FrameFault::TooLarge, CONNECTION_LEN_AT)),
        }
    }
}

/// Counts what is written.
struct Count(usize);

impl Put for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// The first byte.
pub(super) const PROTOCOL: u8 = 0x0d;

const HEAD_LEN: usize = 14;
const CONNECTION_LEN_AT: usize = 5;
const CLASS_LEN_AT: usize = 9;
const APPLICATION_LEN_AT: usize = 10;

const KIND_REQUEST: u8 = 0;
const KIND_RESPONSE: u8 = 1;
/// What one of the libraries puts there instead.
const KIND_REQUEST_COMMAND: u8 = 13;
const KIND_RESPONSE_COMMAND: u8 = 14;
const DIRECTION_ONEWAY: u8 = 1;
const DIRECTION_TWOWAY: u8 = 2;
const HEARTBEAT_CLASS: &[u8] = b"com.taobao.remoting.impl.ConnectionHeartBeat";
/// Any result but 0 is a failure; which means what, nobody knows.
const RESULT_FAILED: u8 = 1;

/// Bytes of a request object in which service and method are looked for. They are among the first
/// fields, before the properties and the arguments.
const ROUTED_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a response object in which the mark of an error is looked for, its first field.
const JUDGED_BYTES_MAX: usize = 512;
