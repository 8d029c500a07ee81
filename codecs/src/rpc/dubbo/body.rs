//! The values of a body, one after another, in either serialization.

use super::super::hessian2::{Malformed, Reader, Text};
use super::super::{CallError, Frame, Tag};
use super::attachments::Attachments;
use super::frame::HEADER_BYTES;
use super::jsonb;
use super::serialization::Serialization;

/// A place in a body.
#[derive(Clone, Debug)]
pub(super) enum Body<'a> {
    /// In one stream.
    Hessian2(Reader<'a>),
    /// Each with its length.
    Fastjson2(jsonb::Values<'a>),
}

impl<'a> Body<'a> {
    /// The body of the frame that `frame` is all of; `None` for serializations that are not read.
    pub(super) fn new(frame: &'a [u8], tag: Tag) -> Option<Self> {
        Some(match Serialization::of(tag)? {
            Serialization::Hessian2 => Body::Hessian2(Reader::new(frame, HEADER_BYTES)),
            Serialization::Fastjson2 => Body::Fastjson2(jsonb::Values::new(frame, HEADER_BYTES)),
        })
    }

    /// The body of `frame`, of which `bytes` are the first bytes, and perhaps those of later frames.
    pub(super) fn of(frame: &Frame, bytes: &'a [u8]) -> Option<Self> {
        Body::new(bytes.get(..frame.len).unwrap_or(bytes), frame.tag)
    }

    /// The offset of the next value from the frame's first byte.
    pub(super) fn at(&self) -> usize {
        match self {
            Body::Hessian2(reader) => reader.at(),
            Body::Fastjson2(values) => values.at(),
        }
    }

    /// Reads a string; `None` is null.
    pub(super) fn string(&mut self) -> Result<Option<&'a [u8]>, CallError> {
        match self {
            Body::Hessian2(reader) => {
                let at = reader.at();
                match reader.string()? {
                    Text::Plain(text) => Ok(Some(text)),
                    Text::Null => Ok(None),
                    Text::Other => Err(CallError { reason: UNREADABLE, at }),
                }
            }
            Body::Fastjson2(values) => values.string(),
        }
    }

    /// Goes over a value.
    pub(super) fn skip(&mut self) -> Result<(), CallError> {
        match self {
            Body::Hessian2(reader) => Ok(reader.skip()?),
            Body::Fastjson2(values) => values.take().map(drop),
        }
    }

    /// Reads a value that is an integer; `None` for others, and when not all of it is there.
    pub(super) fn integer(&mut self) -> Option<i64> {
        match self {
            Body::Hessian2(reader) => reader.integer().ok().flatten(),
            Body::Fastjson2(values) => values.integer(),
        }
    }

    /// Goes to the attachments, which come next.
    pub(super) fn attachments(self) -> Result<Attachments<'a>, CallError> {
        match self {
            Body::Hessian2(reader) => Ok(Attachments::hessian2(reader)),
            Body::Fastjson2(values) => Attachments::fastjson2(values),
        }
    }
}

impl From<Malformed> for CallError {
    fn from(malformed: Malformed) -> Self {
        CallError { reason: malformed.fault.text(), at: malformed.at }
    }
}

/// A name must have one reading, and one piece to show.
pub(super) const UNREADABLE: &str = "a name in several pieces, or in an odd encoding";
