//! HSF2 requests (hsf.md section 3): a fixed part, a table of lengths, and everything in the order of
//! the table. There is no length of the whole.

use std::ops::Range;

use super::properties::{Properties, Unreadable, edit_properties};
use super::response::CODEC_HESSIAN2;
use super::{ID_BYTES, RPC, codec_of, lost, tag_of, u32_at, u64_at};
use crate::rpc::{
    Call, CallError, Detail, EditError, Failure, Frame, FrameError, FrameFault, HeaderEdit, Kind,
    Progress, Splices, Tag,
};

/// Reads a request; the caller has seen what it is.
pub(super) fn frame(front: &[u8], len_max: usize) -> Result<Progress, FrameError> {
    let table_end = table_end(front)?;
    if front.len() < table_end {
        return Ok(Progress::NeedMore(table_end));
    }
    let layout = Layout::read(front, len_max)?;
    Ok(Progress::Frame(Frame {
        len: layout.properties.end,
        head_len: layout.method.end,
        id_end: ID_AT + ID_BYTES,
        kind: Kind::Request,
        id: u64_at(front, ID_AT),
        timeout_ms: Some(u32_at(front, TIMEOUT_AT)).filter(|ms| (1..=i32::MAX as u32).contains(ms)),
        status: 0,
        tag: tag(front),
    }))
}

/// Reads what a request is routed by.
pub(super) fn call<'a>(
    frame: &Frame,
    bytes: &'a [u8],
    detail: Detail,
) -> Result<Call<'a>, CallError> {
    let short = CallError { reason: "the head of the frame is not all there", at: bytes.len() };
    let layout = Layout::of(frame, bytes).ok_or(short)?;
    let mut call = Call {
        service: bytes.get(layout.service.clone()).ok_or(short)?,
        method: bytes.get(layout.method.clone()).ok_or(short)?,
        timeout_ms: frame.timeout_ms,
        complete: !layout.has_properties(frame),
        ..Call::default()
    };
    if detail == Detail::All
        && !call.complete
        && let Some(properties) = bytes.get(layout.properties)
    {
        call.complete = true;
        for property in readable(properties) {
            if property.0 == GROUP_KEY {
                call.group = property.1;
            }
        }
    }
    Ok(call)
}

/// Shows the properties that are text.
pub(super) fn headers<'a>(
    frame: &Frame,
    bytes: &'a [u8],
    visit: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
) {
    let Some(layout) = Layout::of(frame, bytes) else { return };
    if layout.has_properties(frame)
        && let Some(properties) = bytes.get(layout.properties)
    {
        let _all = readable(properties).all(|(key, value)| visit(key, value));
    }
}

/// Changes of a request.
pub(super) struct Edit<'a> {
    pub(super) edits: &'a [HeaderEdit<'a>],
    pub(super) timeout_ms: Option<u32>,
    pub(super) len_max: usize,
}

impl Edit<'_> {
    /// Lists what they change: the timeout, the length of the properties, and the properties.
    pub(super) fn list(
        &self,
        frame: &Frame,
        bytes: &[u8],
        splices: &mut Splices,
    ) -> Result<(), EditError> {
        if let Some(timeout) = self.timeout_ms {
            let timeout = timeout.min(i32::MAX as u32).to_be_bytes();
            splices.replace(TIMEOUT_AT..TIMEOUT_AT + 4, |out| out.extend_from_slice(&timeout));
        }
        if self.edits.is_empty() {
            return Ok(());
        }
        if codec_of(&frame.tag) != CODEC_HESSIAN2 {
            return Err(EditError::Unsupported);
        }
        let layout = Layout::of(frame, bytes).ok_or(EditError::Unreadable)?;
        let properties = bytes.get(layout.properties.clone()).ok_or(EditError::Unreadable)?;
        // The length comes before what it is the length of: the first look only counts.
        let (mut removed, mut added) = (0, 0);
        edit_properties(properties, self.edits, &mut |range, piece| {
            removed += range.len();
            added += piece.len();
        })?;
        let len = properties.len() - removed + added;
        if len > self.len_max.saturating_sub(layout.properties.start) {
            return Err(EditError::TooLong);
        }
        let len = u32::try_from(len).map_err(|_| EditError::TooLong)?.to_be_bytes();
        if removed != 0 || added != 0 {
            let len_at = layout.properties_len_at;
            splices.replace(len_at..len_at + 4, |out| out.extend_from_slice(&len));
        }
        let start = layout.properties.start;
        edit_properties(properties, self.edits, &mut |range, piece| {
            splices.replace(start + range.start..start + range.end, |out| piece.write(out));
        })
    }
}

fn readable(properties: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    Properties::of(properties)
        .map_while(Result::<_, Unreadable>::ok)
        .filter_map(|property| Some((property.key?, property.value?)))
}

/// Where the parts of a request are.
struct Layout {
    properties_len_at: usize,
    service: Range<usize>,
    method: Range<usize>,
    properties: Range<usize>,
}

impl Layout {
    /// The layout of a request that was found to be one.
    fn of(frame: &Frame, bytes: &[u8]) -> Option<Self> {
        let table_end = table_end(bytes).ok().filter(|end| *end <= bytes.len())?;
        Self::read(&bytes[..table_end], frame.len).ok()
    }

    /// Reads fixed part and table, which must be there whole.
    fn read(front: &[u8], len_max: usize) -> Result<Self, FrameError> {
        let service_len = length(front, SERVICE_LEN_AT, NAME_BYTES_MAX)?;
        let method_len = length(front, METHOD_LEN_AT, NAME_BYTES_MAX)?;
        let table_end = table_end(front)?;
        let properties_len_at = table_end - 4;
        let middle = COUNT_AT + 4 + (properties_len_at - COUNT_AT - 4) / 2;
        let too_large = |at| FrameError {
            reason: FrameFault::TooLarge,
            at,
            answer: Some((tag(front), u64_at(front, ID_AT), Failure::TooLarge)),
        };
        let service = table_end..table_end + service_len;
        let method = service.end..service.end + method_len;
        // Every addend is below 2^31 and there are at most 513.
        let mut end = method.end as u64;
        for at in (COUNT_AT + 4..properties_len_at).step_by(4) {
            let cap = if at < middle { NAME_BYTES_MAX } else { i32::MAX as usize };
            end += length(front, at, cap)? as u64;
        }
        let start = end;
        end += length(front, properties_len_at, i32::MAX as usize)? as u64;
        match (usize::try_from(start), usize::try_from(end)) {
            (Ok(start), Ok(end)) if end <= len_max => {
                Ok(Self { properties_len_at, service, method, properties: start..end })
            }
            _ => Err(too_large(COUNT_AT)),
        }
    }

    /// There are properties, and they can be read.
    fn has_properties(&self, frame: &Frame) -> bool {
        codec_of(&frame.tag) == CODEC_HESSIAN2 && !self.properties.is_empty()
    }
}

/// Where the table ends, or how much it takes to tell.
fn table_end(front: &[u8]) -> Result<usize, FrameError> {
    if front.len() < COUNT_AT + 4 {
        return Ok(COUNT_AT + 4);
    }
    let count =
        length(front, COUNT_AT, ARGUMENTS_MAX).map_err(|_| lost(FrameFault::Length, COUNT_AT))?;
    Ok(COUNT_AT + 4 + 2 * 4 * count + 4)
}

/// A length or count, which is an i32 on the wire.
fn length(front: &[u8], at: usize, max: usize) -> Result<usize, FrameError> {
    let length = u32_at(front, at) as usize;
    if length > max { Err(lost(FrameFault::Length, at)) } else { Ok(length) }
}

fn tag(front: &[u8]) -> Tag {
    tag_of(RPC, front.get(CODEC_AT).copied().unwrap_or_default())
}

const CODEC_AT: usize = 3;
const ID_AT: usize = 7;
const TIMEOUT_AT: usize = 15;
const SERVICE_LEN_AT: usize = 19;
const METHOD_LEN_AT: usize = 23;
const COUNT_AT: usize = 27;

/// Limits of hsf.md section 10.
const NAME_BYTES_MAX: usize = 1024;
const ARGUMENTS_MAX: usize = 255;

/// The property that names the group.
const GROUP_KEY: &[u8] = b"target_group";
