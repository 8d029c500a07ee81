//! Walks over the values of one stream.

use arrayvec::ArrayVec;

use super::text::{is_well_formed, skip_units};
use super::{CLASSES_MAX, DEPTH_MAX, FIELDS_MAX, Fault, Malformed};

/// A place in a stream, with what the values before it have put into the stream's tables
/// (dubbo.md section 5.2).
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Maps, lists and objects that have begun.
    references: u32,
    /// Types that have been named.
    types: u32,
    /// The field counts of the classes that have been defined: the first ones, and the others.
    classes: ArrayVec<u16, FEW_CLASSES>,
    more_classes: Vec<u16>,
}

/// A string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// Null, which may stand where a string may.
    Null,
    /// In one piece, as it is on the wire (CESU-8).
    Plain(&'a [u8]),
    /// A string that has no one piece to show: in several chunks, or with characters that are not
    /// written in the one way there is for each, which receivers may read as others.
    Other,
}

/// How many entries the tables of a stream have. What lies between two places with the same counts can
/// be cut out without changing what later values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    references: u32,
    types: u32,
    classes: usize,
}

impl<'a> Reader<'a> {
    /// Begins at offset `at` of `bytes`; a stream begins there.
    #[must_use]
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Reader {
            bytes,
            at,
            references: 0,
            types: 0,
            classes: ArrayVec::new(),
            more_classes: Vec::new(),
        }
    }

    /// Where it is: the offset of the next byte.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// How full the tables are.
    #[must_use]
    pub fn tables(&self) -> Tables {
        let classes = self.classes.len() + self.more_classes.len();
        Tables { references: self.references, types: self.types, classes }
    }

    /// Goes over one value, with all that is in it and class definitions before it.
    ///
    /// # Errors
    /// When there is none, or it is more than we take.
    pub fn skip(&mut self) -> Result<(), Malformed> {
        let mut open = ArrayVec::<Open, DEPTH_MAX>::new();
        loop {
            let start = self.at;
            if let Some(begun) = self.begin()?
                && open.try_push(begun).is_err()
            {
                return Err(Malformed { fault: Fault::Depth, at: start });
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
                    Open::List => self.end(),
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

    /// Reads a string or null. A long one has several chunks, which are gone over.
    ///
    /// # Errors
    /// [`Fault::NotString`], or when it is not well-formed.
    #[inline]
    pub fn string(&mut self) -> Result<Text<'a>, Malformed> {
        match self.short_ascii() {
            Some(text) => Ok(Text::Plain(text)),
            None => self.any_string(),
        }
    }

    /// Reads an int or a long; `None` and no step forward when something else comes.
    ///
    /// # Errors
    /// When it is cut off.
    pub fn integer(&mut self) -> Result<Option<i64>, Malformed> {
        let start = self.at;
        let tag = self.byte()?;
        let number = match tag {
            0xd8..=0xef => i64::from(tag) - 0xe0,
            0xf0..=0xff => (i64::from(tag) - 0xf8) << 8 | i64::from(self.byte()?),
            0x38..=0x3f => (i64::from(tag) - 0x3c) << 16 | i64::from(self.u16()?),
            tag::LONG_INT => i64::from(i32::from_be_bytes(self.take()?)),
            tag::LONG => i64::from_be_bytes(self.take()?),
            _ => match self.int_of(tag)? {
                Some(int) => i64::from(int),
                None => {
                    self.at = start;
                    return Ok(None);
                }
            },
        };
        Ok(Some(number))
    }

    /// Goes into a map, after class definitions; false when null was there instead.
    /// [`Reader::end`] tells whether a key follows.
    ///
    /// # Errors
    /// [`Fault::NotMap`] for anything else.
    pub fn begin_map(&mut self) -> Result<bool, Malformed> {
        self.definitions()?;
        let start = self.at;
        match self.begin()? {
            Some(Open::Key) => Ok(true),
            None if self.bytes[start] == tag::NULL => Ok(false),
            _ => Err(Malformed { fault: Fault::NotMap, at: start }),
        }
    }

    /// Goes over an end marker, if one comes next.
    pub fn end(&mut self) -> bool {
        let is_end = self.bytes.get(self.at) == Some(&tag::END);
        self.at += usize::from(is_end);
        is_end
    }

    /// Goes over class definitions, if any come next.
    ///
    /// # Errors
    /// When one is not well-formed, or they are too many.
    pub fn definitions(&mut self) -> Result<(), Malformed> {
        while self.bytes.get(self.at) == Some(&tag::CLASS) {
            self.at += 1;
            self.definition()?;
        }
        Ok(())
    }

    /// Whether null comes next.
    #[must_use]
    pub fn is_null_next(&self) -> bool {
        self.bytes.get(self.at) == Some(&tag::NULL)
    }

    /// Whether a string comes next: not null.
    #[must_use]
    pub fn is_string_next(&self) -> bool {
        matches!(
            self.bytes.get(self.at).copied(),
            Some(0x00..=0x1f | 0x30..=0x33 | tag::STRING | tag::STRING_CHUNK)
        )
    }

    /// Goes over a whole value, or over the beginning of one that has others in it.
    fn begin(&mut self) -> Result<Option<Open>, Malformed> {
        if self.short_ascii().is_some() {
            return Ok(None);
        }
        loop {
            let start = self.at;
            let tag = self.byte()?;
            match tag {
                0x00..=0x1f | 0x30..=0x33 | tag::STRING | tag::STRING_CHUNK => {
                    self.string_from(tag)?;
                }
                0x20..=0x2f | 0x34..=0x37 | tag::BINARY | tag::BINARY_CHUNK => {
                    self.binary_from(tag)?;
                }
                0x80..=0xbf | 0xd8..=0xef => {}
                tag::NULL | tag::TRUE | tag::FALSE | tag::DOUBLE_0 | tag::DOUBLE_1 => {}
                0xc0..=0xcf | 0xf0..=0xff | tag::DOUBLE_BYTE => self.advance(1)?,
                0x38..=0x3f | 0xd0..=0xd7 | tag::DOUBLE_SHORT => self.advance(2)?,
                tag::INT | tag::LONG_INT | tag::DATE_MINUTES | tag::DOUBLE_MILLI => {
                    self.advance(4)?;
                }
                tag::LONG | tag::DOUBLE | tag::DATE => self.advance(8)?,
                tag::CLASS => {
                    self.definition()?;
                    continue;
                }
                tag::OBJECT => {
                    let class = self.int()?;
                    return self.object(class, start).map(Some);
                }
                0x60..=0x6f => return self.object(i32::from(tag) - 0x60, start).map(Some),
                tag::REFERENCE => {
                    let index = self.int()?;
                    if !u32::try_from(index).is_ok_and(|index| index < self.references) {
                        return Err(Malformed { fault: Fault::Reference, at: start });
                    }
                }
                tag::MAP => return Ok(Some(self.opened(Open::Key))),
                tag::MAP_TYPED => {
                    self.type_name()?;
                    return Ok(Some(self.opened(Open::Key)));
                }
                tag::LIST => return Ok(Some(self.opened(Open::List))),
                tag::LIST_TYPED => {
                    self.type_name()?;
                    return Ok(Some(self.opened(Open::List)));
                }
                tag::ARRAY => {
                    let count = self.count()?;
                    return Ok(Some(self.opened(Open::Values(count))));
                }
                tag::ARRAY_TYPED => {
                    self.type_name()?;
                    let count = self.count()?;
                    return Ok(Some(self.opened(Open::Values(count))));
                }
                0x70..=0x77 => {
                    self.type_name()?;
                    return Ok(Some(self.opened(Open::Values(u32::from(tag) - 0x70))));
                }
                0x78..=0x7f => {
                    return Ok(Some(self.opened(Open::Values(u32::from(tag) - 0x78))));
                }
                tag::END | 0x40 | 0x45 | 0x47 | 0x50 => {
                    return Err(Malformed { fault: Fault::Tag, at: start });
                }
            }
            return Ok(None);
        }
    }

    /// Goes over a short string of ASCII, which most are; `None` and no step forward otherwise.
    #[inline]
    fn short_ascii(&mut self) -> Option<&'a [u8]> {
        let (tag, rest) = self.bytes.get(self.at..)?.split_first()?;
        if *tag > 0x1f {
            return None;
        }
        let text = rest.get(..usize::from(*tag))?;
        if !text.is_ascii() {
            return None;
        }
        self.at += 1 + text.len();
        Some(text)
    }

    fn any_string(&mut self) -> Result<Text<'a>, Malformed> {
        let start = self.at;
        let tag = self.byte()?;
        if tag == tag::NULL {
            return Ok(Text::Null);
        }
        let Some(chunk) = self.chunk(tag)? else {
            return Err(Malformed { fault: Fault::NotString, at: start });
        };
        if !chunk.last {
            self.skip_chunks()?;
            return Ok(Text::Other);
        }
        let text = &self.bytes[chunk.start..self.at];
        // As many bytes as units are ASCII.
        let is_plain = text.len() == chunk.units || is_well_formed(text);
        Ok(if is_plain { Text::Plain(text) } else { Text::Other })
    }

    fn opened(&mut self, open: Open) -> Open {
        // A reference is at least a byte, and no body has 2^32 of them.
        self.references = self.references.saturating_add(1);
        open
    }

    fn object(&mut self, class: i32, start: usize) -> Result<Open, Malformed> {
        let index = usize::try_from(class).unwrap_or(usize::MAX);
        let fields = match index.checked_sub(FEW_CLASSES) {
            None => self.classes.get(index),
            Some(index) => self.more_classes.get(index),
        };
        match fields {
            Some(&fields) => Ok(self.opened(Open::Values(u32::from(fields)))),
            None => Err(Malformed { fault: Fault::Class, at: start }),
        }
    }

    /// What follows the tag of a class definition.
    fn definition(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        self.name()?;
        let fields = self.count()?;
        if fields as usize > FIELDS_MAX {
            return Err(Malformed { fault: Fault::Fields, at: start });
        }
        for _ in 0..fields {
            self.name()?;
        }
        if self.tables().classes >= CLASSES_MAX {
            return Err(Malformed { fault: Fault::Classes, at: start });
        }
        if let Err(full) = self.classes.try_push(fields as u16) {
            self.more_classes.push(full.element());
        }
        Ok(())
    }

    /// A type: by name or by its index.
    fn type_name(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        if self.is_string_next() {
            self.types = self.types.saturating_add(1);
            return self.name();
        }
        let index = self.int()?;
        if u32::try_from(index).is_ok_and(|index| index < self.types) {
            return Ok(());
        }
        Err(Malformed { fault: Fault::Type, at: start })
    }

    fn name(&mut self) -> Result<(), Malformed> {
        if !self.is_string_next() {
            let fault =
                if self.at < self.bytes.len() { Fault::NotString } else { Fault::Truncated };
            return Err(Malformed { fault, at: self.at });
        }
        let tag = self.byte()?;
        self.string_from(tag)
    }

    fn count(&mut self) -> Result<u32, Malformed> {
        let start = self.at;
        u32::try_from(self.int()?).map_err(|_| Malformed { fault: Fault::Length, at: start })
    }

    fn int(&mut self) -> Result<i32, Malformed> {
        let start = self.at;
        let tag = self.byte()?;
        self.int_of(tag)?.ok_or(Malformed { fault: Fault::NotInt, at: start })
    }

    /// The rest of an int that begins with `tag`; `None` when no int does.
    fn int_of(&mut self, tag: u8) -> Result<Option<i32>, Malformed> {
        Ok(Some(match tag {
            0x80..=0xbf => i32::from(tag) - 0x90,
            0xc0..=0xcf => (i32::from(tag) - 0xc8) << 8 | i32::from(self.byte()?),
            0xd0..=0xd7 => (i32::from(tag) - 0xd4) << 16 | i32::from(self.u16()?),
            tag::INT => i32::from_be_bytes(self.take()?),
            _ => return Ok(None),
        }))
    }

    /// The rest of a string, whatever its characters.
    fn string_from(&mut self, tag: u8) -> Result<(), Malformed> {
        match self.chunk(tag)? {
            Some(Chunk { last: true, .. }) => Ok(()),
            _ => self.skip_chunks(),
        }
    }

    /// The chunks behind one that was not the last.
    fn skip_chunks(&mut self) -> Result<(), Malformed> {
        loop {
            let start = self.at;
            let tag = self.byte()?;
            match self.chunk(tag)? {
                Some(Chunk { last: true, .. }) => return Ok(()),
                Some(_) => {}
                None => return Err(Malformed { fault: Fault::Tag, at: start }),
            }
        }
    }

    /// The rest of a chunk of a string that begins with `tag`; `None` when none does.
    fn chunk(&mut self, tag: u8) -> Result<Option<Chunk>, Malformed> {
        let units = match tag {
            0x00..=0x1f => usize::from(tag),
            0x30..=0x33 => usize::from(tag - 0x30) << 8 | usize::from(self.byte()?),
            tag::STRING | tag::STRING_CHUNK => usize::from(self.u16()?),
            _ => return Ok(None),
        };
        let start = self.at;
        self.at =
            skip_units(self.bytes, start, units).map_err(|fault| Malformed { fault, at: start })?;
        Ok(Some(Chunk { start, units, last: tag != tag::STRING_CHUNK }))
    }

    fn binary_from(&mut self, tag: u8) -> Result<(), Malformed> {
        let (mut start, mut tag) = (self.at, tag);
        loop {
            let len = match tag {
                0x20..=0x2f => usize::from(tag - 0x20),
                0x34..=0x37 => usize::from(tag - 0x34) << 8 | usize::from(self.byte()?),
                tag::BINARY | tag::BINARY_CHUNK => usize::from(self.u16()?),
                _ => return Err(Malformed { fault: Fault::Tag, at: start }),
            };
            self.advance(len)?;
            if tag != tag::BINARY_CHUNK {
                return Ok(());
            }
            start = self.at;
            tag = self.byte()?;
        }
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let [byte] = self.take()?;
        Ok(byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    fn take<const LEN: usize>(&mut self) -> Result<[u8; LEN], Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.first_chunk().copied().ok_or_else(|| self.truncated())?;
        self.at += LEN;
        Ok(taken)
    }

    fn advance(&mut self, len: usize) -> Result<(), Malformed> {
        if self.bytes.len().saturating_sub(self.at) < len {
            return Err(self.truncated());
        }
        self.at += len;
        Ok(())
    }

    fn truncated(&self) -> Malformed {
        Malformed { fault: Fault::Truncated, at: self.at.min(self.bytes.len()) }
    }
}

/// A value that has others in it, and has not ended.
#[derive(Clone, Copy, Debug)]
enum Open {
    /// So many more.
    Values(u32),
    /// More, up to an end marker.
    List,
    /// A map in which a key or the end marker comes next.
    Key,
    /// A map in which the value of a key comes next.
    Value,
}

/// A chunk of a string, which the reader has gone over.
struct Chunk {
    /// Where its characters begin.
    start: usize,
    /// Its UTF-16 units.
    units: usize,
    /// No other follows.
    last: bool,
}

/// Definitions for which nothing is allocated.
const FEW_CLASSES: usize = 32;

/// First bytes that stand for one thing each (dubbo.md section 5.1).
mod tag {
    pub(super) const BINARY_CHUNK: u8 = 0x41;
    pub(super) const BINARY: u8 = 0x42;
    pub(super) const CLASS: u8 = 0x43;
    pub(super) const DOUBLE: u8 = 0x44;
    pub(super) const FALSE: u8 = 0x46;
    pub(super) const MAP: u8 = 0x48;
    pub(super) const INT: u8 = 0x49;
    pub(super) const DATE: u8 = 0x4a;
    pub(super) const DATE_MINUTES: u8 = 0x4b;
    pub(super) const LONG: u8 = 0x4c;
    pub(super) const MAP_TYPED: u8 = 0x4d;
    pub(super) const NULL: u8 = 0x4e;
    pub(super) const OBJECT: u8 = 0x4f;
    pub(super) const REFERENCE: u8 = 0x51;
    pub(super) const STRING_CHUNK: u8 = 0x52;
    pub(super) const STRING: u8 = 0x53;
    pub(super) const TRUE: u8 = 0x54;
    pub(super) const LIST_TYPED: u8 = 0x55;
    pub(super) const ARRAY_TYPED: u8 = 0x56;
    pub(super) const LIST: u8 = 0x57;
    pub(super) const ARRAY: u8 = 0x58;
    pub(super) const LONG_INT: u8 = 0x59;
    pub(super) const END: u8 = 0x5a;
    pub(super) const DOUBLE_0: u8 = 0x5b;
    pub(super) const DOUBLE_1: u8 = 0x5c;
    pub(super) const DOUBLE_BYTE: u8 = 0x5d;
    pub(super) const DOUBLE_SHORT: u8 = 0x5e;
    pub(super) const DOUBLE_MILLI: u8 = 0x5f;
}
