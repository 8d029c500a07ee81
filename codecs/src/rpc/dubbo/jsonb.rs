//! fastjson2's binary JSON (JSONB), as far as attachments need it: dubbo.md section 5.3.
//!
//! A body is [`Values`], each with its length before it, so that arguments are never looked into. A
//! [`Reader`] walks over the inside of one. Symbols, which give names numbers, are gone over and not
//! kept: maps have none.

use std::ops::Range;

use arrayvec::ArrayVec;

use super::super::CallError;
use super::super::hessian2::DEPTH_MAX;
use super::body::UNREADABLE;
use crate::http::Put;

/// Values with their lengths, one after another.
#[derive(Clone, Debug)]
pub(super) struct Values<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A place inside a value.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    /// Up to the end of the value.
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Values<'a> {
    /// From offset `at` of `bytes` to their end.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Values { bytes, at }
    }

    /// The offset of the next value's length.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Goes over a value and tells where it is, without its length.
    pub(super) fn take(&mut self) -> Result<Range<usize>, CallError> {
        let truncated = CallError { reason: TRUNCATED, at: self.at };
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some((len, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
            return Err(truncated);
        };
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| truncated)?;
        if len > rest.len() {
            return Err(truncated);
        }
        let start = self.at + LENGTH_BYTES;
        self.at = start + len;
        Ok(start..self.at)
    }

    /// Reads a value that is a string; `None` is null.
    pub(super) fn string(&mut self) -> Result<Option<&'a [u8]>, CallError> {
        let mut reader = self.value()?;
        let start = reader.at;
        let text = if reader.is_null_next() {
            reader.skip()?;
            None
        } else if reader.is_string_next() {
            Some(reader.string()?.ok_or(CallError { reason: UNREADABLE, at: start })?)
        } else {
            return Err(CallError { reason: "no string where one must be", at: start });
        };
        reader.finish()?;
        Ok(text)
    }

    /// Reads a value that is an integer.
    pub(super) fn integer(&mut self) -> Option<i64> {
        let mut reader = self.value().ok()?;
        reader.integer().ok().flatten()
    }

    /// Goes over a value, and into it.
    pub(super) fn value(&mut self) -> Result<Reader<'a>, CallError> {
        let value = self.take()?;
        Ok(Reader { bytes: &self.bytes[..value.end], at: value.start })
    }
}

impl<'a> Reader<'a> {
    /// The offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The offset of the value's end.
    pub(super) fn end_at(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the value is over, as it must be.
    pub(super) fn finish(&self) -> Result<(), CallError> {
        if self.at == self.bytes.len() { Ok(()) } else { self.malformed("more than one value") }
    }

    /// The tag of what comes next.
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Whether null comes next.
    pub(super) fn is_null_next(&self) -> bool {
        self.peek() == Some(tag::NULL)
    }

    /// Whether a string comes next: no symbol.
    pub(super) fn is_string_next(&self) -> bool {
        matches!(self.peek(), Some(tag::ASCII_0..=tag::GB18030))
    }

    /// Whether a symbol comes next.
    pub(super) fn is_symbol_next(&self) -> bool {
        self.peek() == Some(tag::SYMBOL)
    }

    /// Goes into an object, behind its type; false when null was there instead.
    pub(super) fn begin_object(&mut self) -> Result<bool, CallError> {
        match self.byte()? {
            tag::NULL => return Ok(false),
            tag::OBJECT => return Ok(true),
            tag::TYPED => self.type_name()?,
            _ => {}
        }
        match self.byte()? {
            tag::OBJECT => Ok(true),
            _ => self.malformed("no object where one must be"),
        }
    }

    /// Goes over the end of an object, if it comes next.
    pub(super) fn end(&mut self) -> bool {
        let is_end = self.peek() == Some(tag::OBJECT_END);
        self.at += usize::from(is_end);
        is_end
    }

    /// Reads a string; `None` when it is in other encodings than ASCII and UTF-8.
    pub(super) fn string(&mut self) -> Result<Option<&'a [u8]>, CallError> {
        let tag = self.byte()?;
        let text = self.string_from(tag)?;
        Ok(match tag {
            tag::ASCII_0..=tag::ASCII if text.is_ascii() => Some(text),
            tag::UTF8 if std::str::from_utf8(text).is_ok() => Some(text),
            // Bytes above 0x7f behind an ASCII tag are Latin-1.
            _ => None,
        })
    }

    /// Reads an integer of any width; `None` and no step forward when something else comes.
    pub(super) fn integer(&mut self) -> Result<Option<i64>, CallError> {
        let start = self.at;
        let tag = self.byte()?;
        Ok(Some(match tag {
            0x00..=0x48 | 0xf0..=0xff => i64::from(self.int_from(tag)?),
            tag::INT8 => i64::from(self.byte()?.cast_signed()),
            tag::INT16 => i64::from(i16::from_be_bytes(self.array()?)),
            tag::LONG_INT => i64::from(i32::from_be_bytes(self.array()?)),
            tag::LONG => i64::from_be_bytes(self.array()?),
            0xd8..=0xef => i64::from(tag) - 0xe0,
            0xc8..=0xd7 => (i64::from(tag) - 0xd0) << 8 | i64::from(self.byte()?),
            0xc0..=0xc7 => {
                (i64::from(tag) - 0xc4) << 16 | i64::from(u16::from_be_bytes(self.array()?))
            }
            _ => {
                self.at = start;
                return Ok(None);
            }
        }))
    }

    /// Goes over one value, with all that is in it.
    pub(super) fn skip(&mut self) -> Result<(), CallError> {
        let mut open = ArrayVec::<Open, DEPTH_MAX>::new();
        loop {
            if let Some(begun) = self.begin()?
                && open.try_push(begun).is_err()
            {
                return self.malformed("values too deep in each other");
            }
            loop {
                let Some(innermost) = open.last_mut() else { return Ok(()) };
                let over = match innermost {
                    Open::Values(left) => match left.checked_sub(1) {
                        Some(fewer) => {
                            *left = fewer;
                            false
                        }
                        None => true,
                    },
                    Open::Key if self.end() => true,
                    Open::Key => {
                        *innermost = Open::Value;
                        false
                    }
                    Open::Value => {
                        *innermost = Open::Key;
                        false
                    }
                };
                if !over {
                    break;
                }
                open.pop();
            }
        }
    }

    /// Goes over a whole value, or over the beginning of one that has others in it.
    fn begin(&mut self) -> Result<Option<Open>, CallError> {
        let mut tag = self.byte()?;
        while tag == tag::TYPED {
            self.type_name()?;
            tag = self.byte()?;
        }
        match tag {
            0x00..=0x48 | 0xf0..=0xff => self.int_from(tag).map(drop)?,
            tag::ASCII_0..=tag::GB18030 => self.string_from(tag).map(drop)?,
            tag::SYMBOL => self.named_number()?,
            tag::CHAR | tag::FLOAT_INT => self.int().map(drop)?,
            tag::BINARY | tag::BIG_INTEGER => {
                let len = self.len()?;
                self.take(len)?;
            }
            tag::REFERENCE => self.skip_text()?,
            tag::ARRAY_0..=tag::ARRAY_15 => {
                return Ok(Some(Open::Values(usize::from(tag - tag::ARRAY_0))));
            }
            tag::ARRAY => return Ok(Some(Open::Values(self.len()?))),
            tag::OBJECT => return Ok(Some(Open::Key)),
            tag::LOCAL_TIME => self.skip_time(3)?,
            tag::LOCAL_DATE_TIME => self.skip_time(7)?,
            tag::ZONED_TIME => {
                self.skip_time(7)?;
                self.skip_text()?;
            }
            tag::INSTANT => {
                self.number()?;
                self.int()?;
            }
            tag::DECIMAL => {
                self.int()?;
                // Of the number below the point's place, big or not.
                match self.peek() {
                    Some(tag::BIG_INTEGER_LONG | tag::BIG_INTEGER) => {
                        self.begin()?;
                    }
                    _ => self.number()?,
                }
            }
            tag::DOUBLE_LONG | tag::DECIMAL_LONG | tag::BIG_INTEGER_LONG => self.number()?,
            tag::NULL | tag::FALSE | tag::TRUE | tag::DOUBLE_0 | tag::DOUBLE_1 => {}
            0xd8..=0xef => {}
            0xc8..=0xd7 | tag::INT8 => self.take(1).map(drop)?,
            0xc0..=0xc7 | tag::INT16 => self.take(2).map(drop)?,
            tag::LOCAL_DATE | tag::SECONDS | tag::MINUTES | tag::FLOAT | tag::LONG_INT => {
                self.take(4)?;
            }
            tag::MILLIS | tag::DOUBLE | tag::LONG => self.take(8).map(drop)?,
            0x80..=0x8f | tag::OBJECT_END | tag::TYPED => {
                self.at -= 1;
                return self.malformed("a tag that can't stand here");
            }
        }
        Ok(None)
    }

    /// A type, behind its tag.
    fn type_name(&mut self) -> Result<(), CallError> {
        self.at += usize::from(self.is_symbol_next());
        self.named_number()
    }

    /// A name and the number that it gets from now on, or a number alone.
    fn named_number(&mut self) -> Result<(), CallError> {
        if self.is_string_next() {
            self.skip_text()?;
        }
        self.int().map(drop)
    }

    /// A string or a symbol.
    fn skip_text(&mut self) -> Result<(), CallError> {
        match self.byte()? {
            tag::SYMBOL => self.named_number(),
            tag => self.string_from(tag).map(drop),
        }
    }

    /// A time of day, with so many bytes before the nanoseconds.
    fn skip_time(&mut self, len: usize) -> Result<(), CallError> {
        self.take(len)?;
        self.int().map(drop)
    }

    fn number(&mut self) -> Result<(), CallError> {
        match self.integer()? {
            Some(_) => Ok(()),
            None => self.malformed("no number where one must be"),
        }
    }

    /// The bytes of a string, behind its tag.
    fn string_from(&mut self, tag: u8) -> Result<&'a [u8], CallError> {
        let len = match tag {
            tag::ASCII_0..=tag::ASCII_47 => usize::from(tag - tag::ASCII_0),
            tag::ASCII..=tag::GB18030 => self.len()?,
            _ => return self.malformed("no string where one must be"),
        };
        self.take(len)
    }

    fn len(&mut self) -> Result<usize, CallError> {
        match usize::try_from(self.int()?) {
            Ok(len) => Ok(len),
            Err(_) => self.malformed("a length below zero"),
        }
    }

    fn int(&mut self) -> Result<i32, CallError> {
        let tag = self.byte()?;
        self.int_from(tag)
    }

    fn int_from(&mut self, tag: u8) -> Result<i32, CallError> {
        Ok(match tag {
            0x00..=0x2f | 0xf0..=0xff => i32::from(tag.cast_signed()),
            0x30..=0x3f => (i32::from(tag) - 0x38) << 8 | i32::from(self.byte()?),
            0x40..=0x47 => {
                (i32::from(tag) - 0x44) << 16 | i32::from(u16::from_be_bytes(self.array()?))
            }
            0x48 => i32::from_be_bytes(self.array()?),
            _ => return self.malformed("no int where one must be"),
        })
    }

    fn byte(&mut self) -> Result<u8, CallError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], CallError> {
        match self.take(LEN)?.first_chunk() {
            Some(array) => Ok(*array),
            None => self.malformed(TRUNCATED),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], CallError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest.get(..len) {
            Some(taken) => {
                self.at += len;
                Ok(taken)
            }
            None => self.malformed(TRUNCATED),
        }
    }

    fn malformed<T>(&self, reason: &'static str) -> Result<T, CallError> {
        Err(CallError { reason, at: self.at })
    }
}

/// Writes a string.
pub(super) fn put_string(text: &str, out: &mut dyn Put) {
    let len = text.len();
    match (text.is_ascii(), u8::try_from(len)) {
        (true, Ok(short)) if short <= tag::ASCII_47 - tag::ASCII_0 => {
            out.put(&[tag::ASCII_0 + short]);
        }
        (is_ascii, _) => {
            out.put(&[if is_ascii { tag::ASCII } else { tag::UTF8 }]);
            // A frame has no room for more.
            let len = i32::try_from(len).unwrap_or(i32::MAX);
            let [_, high, mid, low] = len.to_be_bytes();
            match len {
                0..=0x2f => out.put(&[low]),
                0x30..=0x7ff => out.put(&[0x38 + mid, low]),
                0x800..=0x3_ffff => out.put(&[0x44 + high, mid, low]),
                _ => {
                    out.put(&[0x48]);
                    out.put(&len.to_be_bytes());
                }
            }
        }
    }
    out.put(text.as_bytes());
}

/// Bytes of the length before a value.
pub(super) const LENGTH_BYTES: usize = 4;

/// The first and the last byte of an object.
pub(super) const OBJECT: u8 = tag::OBJECT;
pub(super) const OBJECT_END: u8 = tag::OBJECT_END;

/// Whether a value with this tag has nothing in it that others may refer to, by number or by path.
pub(super) fn is_plain(tag: u8) -> bool {
    !matches!(
        tag,
        tag::SYMBOL | tag::TYPED | tag::ARRAY_0..=tag::ARRAY_15 | tag::ARRAY | tag::OBJECT
    )
}

/// A value that has others in it, and has not ended.
#[derive(Clone, Copy, Debug)]
enum Open {
    /// So many more.
    Values(usize),
    /// An object in which a key or the end comes next.
    Key,
    /// An object in which the value of a key comes next.
    Value,
}

const TRUNCATED: &str = "the body ends inside a value";

/// First bytes that stand for one thing each.
mod tag {
    pub(super) const ASCII_0: u8 = 0x49;
    pub(super) const ASCII_47: u8 = 0x78;
    pub(super) const ASCII: u8 = 0x79;
    pub(super) const UTF8: u8 = 0x7a;
    pub(super) const GB18030: u8 = 0x7e;
    pub(super) const SYMBOL: u8 = 0x7f;
    pub(super) const CHAR: u8 = 0x90;
    pub(super) const BINARY: u8 = 0x91;
    pub(super) const TYPED: u8 = 0x92;
    pub(super) const REFERENCE: u8 = 0x93;
    pub(super) const ARRAY_0: u8 = 0x94;
    pub(super) const ARRAY_15: u8 = 0xa3;
    pub(super) const ARRAY: u8 = 0xa4;
    pub(super) const OBJECT_END: u8 = 0xa5;
    pub(super) const OBJECT: u8 = 0xa6;
    pub(super) const LOCAL_TIME: u8 = 0xa7;
    pub(super) const LOCAL_DATE_TIME: u8 = 0xa8;
    pub(super) const LOCAL_DATE: u8 = 0xa9;
    pub(super) const ZONED_TIME: u8 = 0xaa;
    pub(super) const MILLIS: u8 = 0xab;
    pub(super) const SECONDS: u8 = 0xac;
    pub(super) const MINUTES: u8 = 0xad;
    pub(super) const INSTANT: u8 = 0xae;
    pub(super) const NULL: u8 = 0xaf;
    pub(super) const FALSE: u8 = 0xb0;
    pub(super) const TRUE: u8 = 0xb1;
    pub(super) const DOUBLE_0: u8 = 0xb2;
    pub(super) const DOUBLE_1: u8 = 0xb3;
    pub(super) const DOUBLE_LONG: u8 = 0xb4;
    pub(super) const DOUBLE: u8 = 0xb5;
    pub(super) const FLOAT_INT: u8 = 0xb6;
    pub(super) const FLOAT: u8 = 0xb7;
    pub(super) const DECIMAL_LONG: u8 = 0xb8;
    pub(super) const DECIMAL: u8 = 0xb9;
    pub(super) const BIG_INTEGER_LONG: u8 = 0xba;
    pub(super) const BIG_INTEGER: u8 = 0xbb;
    pub(super) const INT16: u8 = 0xbc;
    pub(super) const INT8: u8 = 0xbd;
    pub(super) const LONG: u8 = 0xbe;
    pub(super) const LONG_INT: u8 = 0xbf;
}
