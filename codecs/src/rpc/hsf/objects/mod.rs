//! Serialized objects in TB-Remoting: Hessian 1 and the early draft of Hessian 2 (hsf.md sections 7.3
//! and 7.4), read as far as fields of plain values are wanted.
//!
//! A [`Reader`] walks a value once, front to back, and makes nothing of it. Invariants: each step takes
//! at least a byte, values nest no deeper than [`DEPTH_MAX`], and no length is believed.

mod draft;

use arrayvec::ArrayVec;

use crate::http::Put;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grammar {
    /// Hessian 1.
    Hessian1,
    /// The early draft of Hessian 2, which shares few tags with the final one.
    Draft,
}

impl Grammar {
    /// The grammar of a TB-Remoting serialization.
    pub(super) fn of(serialization: u8) -> Option<Self> {
        match serialization {
            1 => Some(Grammar::Hessian1),
            4 => Some(Grammar::Draft),
            _ => None,
        }
    }
}

/// One value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// A string in one chunk.
    Text(&'a [u8]),
    /// An int or a long.
    Number(i64),
    /// A boolean.
    Flag(bool),
    /// Anything else, which was passed by.
    Other,
}

/// The bytes are not of the grammar, end too soon, or nest too deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Undecodable;

/// Walks a value.
pub(super) struct Reader<'a> {
    grammar: Grammar,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    definitions: ArrayVec<Definition, DEFINITIONS_MAX>,
}

/// The fields of an object or the entries of a map, where the reader is in one.
pub(super) enum Fields {
    /// Keys and values up to an end marker.
    Entries,
    /// Values of the fields that a definition names.
    Defined { names_at: usize, left: usize },
}

/// A class as the draft defines it.
#[derive(Clone, Copy)]
struct Definition {
    names_at: usize,
    fields: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(grammar: Grammar, bytes: &'a [u8]) -> Self {
        Self { grammar, bytes, at: 0, depth: 0, definitions: ArrayVec::new() }
    }

    /// Bytes that were read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Steps into the object or map that comes next; nothing, and no step, when it is another value.
    pub(super) fn enter(&mut self) -> Result<Option<Fields>, Undecodable> {
        self.definitions()?;
        let fields = match self.peek()? {
            MAP => {
                self.at += 1;
                self.type_name()?;
                Fields::Entries
            }
            draft::OBJECT if self.grammar == Grammar::Draft => {
                self.at += 1;
                draft::object(self)?
            }
            _ => return Ok(None),
        };
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(Undecodable) } else { Ok(Some(fields)) }
    }

    /// The next field's name, whose value must then be read; empty for a key that is not text. Nothing
    /// at the end of the object, out of which the reader has then stepped.
    pub(super) fn field(&mut self, fields: &mut Fields) -> Result<Option<&'a [u8]>, Undecodable> {
        let name = match fields {
            Fields::Entries if self.peek()? == END => {
                self.at += 1;
                None
            }
            Fields::Entries => Some(match self.value()? {
                Value::Text(name) => name,
                _ => b"",
            }),
            Fields::Defined { left: 0, .. } => None,
            Fields::Defined { names_at, left } => {
                let here = std::mem::replace(&mut self.at, *names_at);
                let name = self.value();
                *names_at = std::mem::replace(&mut self.at, here);
                *left -= 1;
                match name? {
                    Value::Text(name) => Some(name),
                    _ => return Err(Undecodable),
                }
            }
        };
        if name.is_none() {
            self.depth -= 1;
        }
        Ok(name)
    }

    /// Reads a value, whole.
    pub(super) fn value(&mut self) -> Result<Value<'a>, Undecodable> {
        if let Some(fields) = self.enter()? {
            return self.pass(fields).map(|()| Value::Other);
        }
        match self.byte()? {
            LIST => self.list(),
            b'T' => Ok(Value::Flag(true)),
            b'F' => Ok(Value::Flag(false)),
            b'N' => Ok(Value::Other),
            b'I' => self.u32().map(|number| Value::Number(i64::from(number as i32))),
            b'L' => self.u64().map(|number| Value::Number(number as i64)),
            b'D' | b'd' => self.u64().map(|_| Value::Other),
            b'R' => self.u32().map(|_| Value::Other),
            tag @ (STRING | STRING_CHUNK) => self.string(tag),
            tag @ (BINARY | BINARY_CHUNK) => self.binary(tag),
            tag => match self.grammar {
                Grammar::Hessian1 => Err(Undecodable),
                Grammar::Draft => draft::value(self, tag),
            },
        }
    }

    /// Passes by what is left of an object, without a look at the names that its class has: many
    /// objects may share a long one.
    fn pass(&mut self, mut fields: Fields) -> Result<(), Undecodable> {
        if let Fields::Defined { left, .. } = &mut fields {
            while *left > 0 {
                *left -= 1;
                self.value()?;
            }
        }
        while self.field(&mut fields)?.is_some() {
            self.value()?;
        }
        Ok(())
    }

    /// Takes in class definitions, of which any number may stand before a value.
    fn definitions(&mut self) -> Result<(), Undecodable> {
        while self.grammar == Grammar::Draft && self.peek()? == draft::DEFINITION {
            self.at += 1;
            draft::define(self)?;
        }
        Ok(())
    }

    fn list(&mut self) -> Result<Value<'a>, Undecodable> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Undecodable);
        }
        self.type_name()?;
        // How many there are is told by their end, too.
        match self.peek()? {
            LIST_LENGTH => self.skip(1 + 4)?,
            draft::LIST_LENGTH_SHORT if self.grammar == Grammar::Draft => self.skip(1 + 1)?,
            _ => {}
        }
        while self.peek()? != END {
            self.value()?;
        }
        self.at += 1;
        self.depth -= 1;
        Ok(Value::Other)
    }

    fn type_name(&mut self) -> Result<(), Undecodable> {
        if self.peek()? == TYPE {
            self.at += 1;
            let len = self.u16()?;
            self.take(len)?;
        }
        Ok(())
    }

    /// A string whose first tag was read.
    fn string(&mut self, mut tag: u8) -> Result<Value<'a>, Undecodable> {
        let is_whole = tag == STRING;
        loop {
            let units = self.u16()?;
            let text = self.text(units)?;
            match tag {
                STRING if is_whole => return Ok(Value::Text(text)),
                STRING => return Ok(Value::Other),
                STRING_CHUNK => {}
                // The draft may end with a short one.
                _ => return Err(Undecodable),
            }
            tag = self.byte()?;
            if self.grammar == Grammar::Draft && tag <= draft::SHORT_STRING_MAX {
                self.text(tag.into())?;
                return Ok(Value::Other);
            }
        }
    }

    /// Bytes whose first tag was read.
    fn binary(&mut self, mut tag: u8) -> Result<Value<'a>, Undecodable> {
        loop {
            let len = self.u16()?;
            self.skip(len)?;
            match tag {
                BINARY => return Ok(Value::Other),
                BINARY_CHUNK => tag = self.byte()?,
                _ => return Err(Undecodable),
            }
            if self.grammar == Grammar::Draft && draft::SHORT_BINARY.contains(&tag) {
                self.skip(usize::from(tag - draft::SHORT_BINARY.start()))?;
                return Ok(Value::Other);
            }
        }
    }

    /// Text of as many UTF-16 units.
    fn text(&mut self, units: usize) -> Result<&'a [u8], Undecodable> {
        let len = text_len(&self.bytes[self.at..], units).ok_or(Undecodable)?;
        self.take(len)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Undecodable> {
        let (taken, _) = self.bytes[self.at..].split_at_checked(len).ok_or(Undecodable)?;
        self.at += len;
        Ok(taken)
    }

    fn skip(&mut self, len: usize) -> Result<(), Undecodable> {
        self.take(len).map(|_| ())
    }

    fn peek(&self) -> Result<u8, Undecodable> {
        self.bytes.get(self.at).copied().ok_or(Undecodable)
    }

    fn byte(&mut self) -> Result<u8, Undecodable> {
        self.take(1).map(|one| one[0])
    }

    fn u16(&mut self) -> Result<usize, Undecodable> {
        let bytes = self.take(2)?;
        Ok(usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
    }

    fn u32(&mut self) -> Result<u32, Undecodable> {
        self.take(4).map(|bytes| super::u32_at(bytes, 0))
    }

    fn u64(&mut self) -> Result<u64, Undecodable> {
        self.take(8).map(|bytes| super::u64_at(bytes, 0))
    }
}

/// Bytes of the first `units` UTF-16 units of text, in which each has one to three bytes. Four bytes
/// for two units, as UTF-8 has them, are read too, though Java does not write them.
pub(super) fn text_len(bytes: &[u8], units: usize) -> Option<usize> {
    // Nearly all text here is ASCII.
    if bytes.get(..units)?.is_ascii() {
        return Some(units);
    }
    let (mut at, mut left) = (0, units);
    while left > 0 {
        let (len, counts) = match bytes.get(at)? {
            0x00..=0x7f => (1, 1),
            0xc0..=0xdf => (2, 1),
            0xe0..=0xef => (3, 1),
            0xf0..=0xf7 => (4, 2),
            _ => return None,
        };
        at += len;
        left = left.checked_sub(counts)?;
    }
    (at <= bytes.len()).then_some(at)
}

/// Writes text unit by unit, as Java reads it: what takes two units is two times three bytes.
pub(super) fn put_units(text: &str, out: &mut dyn Put) {
    let mut buffer = [0; 4];
    for c in text.chars() {
        if c.len_utf16() == 1 {
            out.put(c.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.put(&[
                0xe0 | (*unit >> 12) as u8,
                0x80 | (*unit >> 6 & 0x3f) as u8,
                0x80 | (*unit & 0x3f) as u8,
            ]);
        }
    }
}

/// Values nest no deeper. Requests of real clients have four levels.
const DEPTH_MAX: usize = 32;
/// Classes of one value: a connection object has two, a request as many as its properties do.
const DEFINITIONS_MAX: usize = 16;

const MAP: u8 = b'M';
const LIST: u8 = b'V';
const TYPE: u8 = b't';
const LIST_LENGTH: u8 = b'l';
const END: u8 = b'z';
const STRING: u8 = b'S';
const STRING_CHUNK: u8 = b's';
const BINARY: u8 = b'B';
const BINARY_CHUNK: u8 = b'b';
