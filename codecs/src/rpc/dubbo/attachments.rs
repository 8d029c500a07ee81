//! The map that a body ends with, entry by entry, in either serialization.

use std::ops::Range;

use super::super::CallError;
use super::super::hessian2::{Reader, Text};
use super::jsonb;

/// A place in the attachments.
#[derive(Clone, Debug)]
pub(super) struct Attachments<'a> {
    source: Source<'a>,
    state: State,
}

/// One attachment.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    /// Its key; `None` when that is no string, or one that is in no name's encoding.
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Value<'a>,
    /// Key and value, as offsets from the frame's first byte.
    pub(super) range: Range<usize>,
    /// It can be taken out without changing what others mean.
    pub(super) is_removable: bool,
}

/// The value of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    /// A string in one piece.
    Text(&'a [u8]),
    /// A string that has no one piece or no one reading.
    OddText,
    Integer(i64),
    Other,
}

/// Where entries can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Before the end marker, which is at this offset.
    End(usize),
    /// Instead of a null of one byte at this offset.
    Null(usize),
}

#[derive(Clone, Debug)]
enum Source<'a> {
    Hessian2(Reader<'a>),
    /// With where their value begins.
    Fastjson2(jsonb::Reader<'a>, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The map has not begun.
    Before,
    /// A key or the end comes next.
    Inside,
    /// There is no more.
    Over(Tail),
}

impl<'a> Attachments<'a> {
    /// Those that come next in a stream.
    pub(super) fn hessian2(reader: Reader<'a>) -> Self {
        Attachments { source: Source::Hessian2(reader), state: State::Before }
    }

    /// Those that are the next value.
    ///
    /// # Errors
    /// When there is no whole value.
    pub(super) fn fastjson2(mut values: jsonb::Values<'a>) -> Result<Self, CallError> {
        let reader = values.value()?;
        let start = reader.at();
        Ok(Attachments { source: Source::Fastjson2(reader, start), state: State::Before })
    }

    /// Reads the next entry.
    ///
    /// # Errors
    /// When what comes is not well-formed, or a key has no one reading.
    pub(super) fn next(&mut self) -> Result<Option<Entry<'a>>, CallError> {
        if self.state == State::Before {
            let start = self.source.at();
            let is_map = self.source.begin()?;
            self.state = if is_map { State::Inside } else { State::Over(Tail::Null(start)) };
        }
        if self.state == State::Inside && self.source.end()? {
            self.state = State::Over(Tail::End(self.source.at() - 1));
        }
        match (self.state, &mut self.source) {
            (State::Over(_), _) => Ok(None),
            (_, Source::Hessian2(reader)) => hessian2_entry(reader).map(Some),
            (_, Source::Fastjson2(reader, _)) => fastjson2_entry(reader).map(Some),
        }
    }

    /// Where entries can be added; `None` while there are more to read.
    pub(super) fn tail(&self) -> Option<Tail> {
        match self.state {
            State::Over(tail) => Some(tail),
            State::Before | State::Inside => None,
        }
    }

    /// Where they are, if they have their length before them.
    pub(super) fn value(&self) -> Option<Range<usize>> {
        match &self.source {
            Source::Hessian2(_) => None,
            Source::Fastjson2(reader, start) => Some(*start..reader.end_at()),
        }
    }

    /// Whether they may be passed over when they can't be read (dubbo.md section 5.3).
    pub(super) fn may_be_odd(&self) -> bool {
        matches!(self.source, Source::Fastjson2(..))
    }
}

impl Source<'_> {
    fn at(&self) -> usize {
        match self {
            Source::Hessian2(reader) => reader.at(),
            Source::Fastjson2(reader, _) => reader.at(),
        }
    }

    fn begin(&mut self) -> Result<bool, CallError> {
        match self {
            Source::Hessian2(reader) => Ok(reader.begin_map()?),
            Source::Fastjson2(reader, _) => {
                let is_map = reader.begin_object()?;
                if !is_map {
                    reader.finish()?;
                }
                Ok(is_map)
            }
        }
    }

    fn end(&mut self) -> Result<bool, CallError> {
        match self {
            Source::Hessian2(reader) => Ok(reader.end()),
            Source::Fastjson2(reader, _) => {
                let is_end = reader.end();
                if is_end {
                    reader.finish()?;
                }
                Ok(is_end)
            }
        }
    }
}

fn hessian2_entry<'a>(reader: &mut Reader<'a>) -> Result<Entry<'a>, CallError> {
    let (start, tables) = (reader.at(), reader.tables());
    reader.definitions()?;
    let key = if reader.is_string_next() {
        let at = reader.at();
        match reader.string()? {
            Text::Plain(key) => Some(key),
            Text::Null | Text::Other => return Err(CallError { reason: ODD_KEY, at }),
        }
    } else {
        reader.skip()?;
        None
    };
    reader.definitions()?;
    let value = if reader.is_string_next() || reader.is_null_next() {
        match reader.string()? {
            Text::Plain(text) => Value::Text(text),
            Text::Null => Value::Null,
            Text::Other => Value::OddText,
        }
    } else if let Some(integer) = reader.integer()? {
        Value::Integer(integer)
    } else {
        reader.skip()?;
        Value::Other
    };
    let is_removable = reader.tables() == tables;
    Ok(Entry { key, value, range: start..reader.at(), is_removable })
}

fn fastjson2_entry<'a>(reader: &mut jsonb::Reader<'a>) -> Result<Entry<'a>, CallError> {
    let start = reader.at();
    let is_string = reader.is_string_next();
    let key = if is_string {
        reader.string()?
    } else if reader.is_symbol_next() {
        // A name that stands elsewhere.
        return Err(CallError { reason: ODD_KEY, at: start });
    } else {
        reader.skip()?;
        None
    };
    let is_plain = is_string && reader.peek().is_some_and(jsonb::is_plain);
    let value = if reader.is_null_next() {
        reader.skip()?;
        Value::Null
    } else if reader.is_string_next() {
        reader.string()?.map_or(Value::OddText, Value::Text)
    } else if let Some(integer) = reader.integer()? {
        Value::Integer(integer)
    } else {
        reader.skip()?;
        Value::Other
    };
    Ok(Entry { key, value, range: start..reader.at(), is_removable: is_plain })
}

const ODD_KEY: &str = "a key in several pieces, or in an odd encoding";
