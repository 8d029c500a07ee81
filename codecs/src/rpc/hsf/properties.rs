//! The properties of an HSF2 request: a map in Hessian 2, as far as its keys and values are plain.
//!
//! | kind of value | |
//! |---|---|
//! | string in one chunk | shown, and edited |
//! | any other scalar | passed by |
//! | list, map, object | ends the reading: what comes behind is not seen |
//!
//! An object can't be told from what follows it without its class, and a map that holds one can't be
//! edited: what is removed must not be what a reference behind it means.

use std::ops::Range;

use crate::http::Put;
use crate::rpc::{EditError, HeaderEdit};

/// The entries of a map, in order.
pub(super) struct Properties<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the map's end marker is, once it was met.
    end: Option<usize>,
    failed: bool,
}

/// One entry.
pub(super) struct Property<'a> {
    /// Key and value.
    pub(super) range: Range<usize>,
    /// The value alone.
    pub(super) value_range: Range<usize>,
    /// Nothing where it is not text in one piece.
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
}

/// Something that is not read here, or is not Hessian 2.
#[derive(Debug)]
pub(super) struct Unreadable;

impl<'a> Properties<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        let mut map = Self { bytes, at: 0, end: None, failed: false };
        map.failed = map.open().is_err();
        map
    }

    fn open(&mut self) -> Result<(), Unreadable> {
        match self.byte()? {
            b'H' => Ok(()),
            // The type is a name, or the number of one that was there before.
            b'M' => self.scalar().map(|_| ()),
            _ => Err(Unreadable),
        }
    }

    fn entry(&mut self) -> Result<Option<Property<'a>>, Unreadable> {
        let start = self.at;
        if self.bytes.get(start) == Some(&b'Z') {
            self.end = Some(start);
            return Ok(None);
        }
        let key = self.scalar()?;
        let middle = self.at;
        let value = self.scalar()?;
        Ok(Some(Property { range: start..self.at, value_range: middle..self.at, key, value }))
    }

    /// Passes one value by; the text of one that is a string in one piece.
    fn scalar(&mut self) -> Result<Option<&'a [u8]>, Unreadable> {
        let mut tag = self.byte()?;
        if tag == b'Q' {
            // A back reference: the number of what it refers to follows.
            tag = self.byte()?;
            if !matches!(tag, b'I' | 0x80..=0xd7) {
                return Err(Unreadable);
            }
        }
        match tag {
            b'N' | b'T' | b'F' | 0x5b | 0x5c | 0x80..=0xbf | 0xd8..=0xef => {}
            0xc0..=0xcf | 0xf0..=0xff | 0x5d => self.skip(1)?,
            0xd0..=0xd7 | 0x38..=0x3f | 0x5e => self.skip(2)?,
            b'I' | b'Y' | b'K' | 0x5f => self.skip(4)?,
            b'L' | b'D' | b'J' => self.skip(8)?,
            0x20..=0x2f => self.skip(usize::from(tag - 0x20))?,
            0x34..=0x37 => {
                let len = usize::from(tag - 0x34) << 8 | usize::from(self.byte()?);
                self.skip(len)?;
            }
            b'A' | b'B' => self.chunks(tag, b'B', Self::skip)?,
            b'R' => self.chunks(tag, b'S', |map, len| map.text(len).map(|_| ()))?,
            0x00..=0x1f => return self.text(usize::from(tag)).map(Some),
            0x30..=0x33 => {
                let len = usize::from(tag - 0x30) << 8 | usize::from(self.byte()?);
                return self.text(len).map(Some);
            }
            b'S' => {
                let len = self.u16()?;
                return self.text(len).map(Some);
            }
            _ => return Err(Unreadable),
        }
        Ok(None)
    }

    /// Passes by the chunks of a value, of which the last has the tag `last`.
    fn chunks(
        &mut self,
        first: u8,
        last: u8,
        skip: impl Fn(&mut Self, usize) -> Result<(), Unreadable>,
    ) -> Result<(), Unreadable> {
        let mut tag = first;
        loop {
            let len = self.u16()?;
            skip(self, len)?;
            if tag == last {
                return Ok(());
            }
            tag = self.byte()?;
            if tag != first && tag != last {
                return Err(Unreadable);
            }
        }
    }

    /// Text of as many UTF-16 units.
    fn text(&mut self, units: usize) -> Result<&'a [u8], Unreadable> {
        let rest = self.bytes.get(self.at..).ok_or(Unreadable)?;
        let len = super::objects::text_len(rest, units).ok_or(Unreadable)?;
        self.at += len;
        Ok(&rest[..len])
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        let byte = *self.bytes.get(self.at).ok_or(Unreadable)?;
        self.at += 1;
        Ok(byte)
    }

    fn u16(&mut self) -> Result<usize, Unreadable> {
        Ok(usize::from(self.byte()?) << 8 | usize::from(self.byte()?))
    }

    fn skip(&mut self, len: usize) -> Result<(), Unreadable> {
        if len > self.bytes.len() - self.at {
            return Err(Unreadable);
        }
        self.at += len;
        Ok(())
    }
}

impl<'a> Iterator for Properties<'a> {
    type Item = Result<Property<'a>, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.end.is_some() {
            return None;
        }
        let entry = self.entry();
        self.failed = entry.is_err();
        entry.transpose()
    }
}

/// What stands in the place of removed bytes.
pub(super) enum Piece<'a> {
    Nothing,
    Mark(u8),
    Text(&'a str),
    Entry(&'a str, &'a str),
}

impl Piece<'_> {
    pub(super) fn len(&self) -> usize {
        let mut count = Count(0);
        self.put(&mut count);
        count.0
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        self.put(out);
    }

    fn put(&self, out: &mut dyn Put) {
        match self {
            Piece::Nothing => {}
            Piece::Mark(byte) => out.put(&[*byte]),
            Piece::Text(text) => put_text(text, out),
            Piece::Entry(key, value) => {
                put_text(key, out);
                put_text(value, out);
            }
        }
    }
}

/// Tells what `edits` change in a map, in ascending order. Without properties there is no map, and the
/// first that is added makes one.
pub(super) fn edit_properties<'e>(
    bytes: &[u8],
    edits: &'e [HeaderEdit<'e>],
    change: &mut dyn FnMut(Range<usize>, Piece<'e>),
) -> Result<(), EditError> {
    let is_map = !matches!(bytes, [] | [b'N']);
    let mut end = bytes.len();
    if is_map {
        let mut map = Properties::of(bytes);
        for property in map.by_ref() {
            let property = property.map_err(|_| EditError::Unreadable)?;
            match property.key.map_or(Ok(Fate::Stays), |key| Fate::of(key, edits))? {
                Fate::Stays => {}
                Fate::Goes => change(property.range, Piece::Nothing),
                Fate::Becomes(value) => change(property.value_range, Piece::Text(value)),
            }
        }
        end = map.end.ok_or(EditError::Unreadable)?;
    }
    let has = |key: &[u8]| {
        is_map && Properties::of(bytes).flatten().any(|property| property.key == Some(key))
    };
    let mut is_open = is_map;
    for (index, edit) in edits.iter().enumerate() {
        let key = key_of(edit);
        if edits[..index].iter().any(|earlier| key_of(earlier) == key) {
            continue;
        }
        let Some(value) = added(key, edits, has(key))? else { continue };
        if !is_open {
            is_open = true;
            change(0..end, Piece::Mark(b'H'));
        }
        change(end..end, Piece::Entry(text_of(key)?, value));
    }
    if is_open && !is_map {
        change(end..end, Piece::Mark(b'Z'));
    }
    Ok(())
}

/// What becomes of an entry that is there.
enum Fate<'e> {
    Stays,
    Goes,
    Becomes(&'e str),
}

impl<'e> Fate<'e> {
    fn of(key: &[u8], edits: &'e [HeaderEdit<'e>]) -> Result<Self, EditError> {
        let mut fate = Fate::Stays;
        for edit in edits.iter().filter(|edit| key_of(edit) == key) {
            match edit {
                HeaderEdit::Remove(_) | HeaderEdit::Set(..) => return Ok(Fate::Goes),
                HeaderEdit::Replace(_, value) => fate = Fate::Becomes(text_of(value)?),
                HeaderEdit::SetIfAbsent(..) => {}
            }
        }
        Ok(fate)
    }
}

/// The value of an entry that `edits` append, if they do.
fn added<'e>(
    key: &[u8],
    edits: &'e [HeaderEdit<'e>],
    mut exists: bool,
) -> Result<Option<&'e str>, EditError> {
    let mut added = None;
    for edit in edits.iter().filter(|edit| key_of(edit) == key) {
        match edit {
            HeaderEdit::Remove(_) => (exists, added) = (false, None),
            HeaderEdit::Set(_, value) => (exists, added) = (false, Some(text_of(value)?)),
            HeaderEdit::SetIfAbsent(_, value) if !exists && added.is_none() => {
                added = Some(text_of(value)?);
            }
            HeaderEdit::Replace(_, value) if added.is_some() => added = Some(text_of(value)?),
            HeaderEdit::SetIfAbsent(..) | HeaderEdit::Replace(..) => {}
        }
    }
    Ok(added)
}

fn key_of<'e>(edit: &HeaderEdit<'e>) -> &'e [u8] {
    match *edit {
        HeaderEdit::Remove(key)
        | HeaderEdit::Set(key, _)
        | HeaderEdit::SetIfAbsent(key, _)
        | HeaderEdit::Replace(key, _) => key,
    }
}

/// Text that one chunk can hold.
fn text_of(bytes: &[u8]) -> Result<&str, EditError> {
    let text = std::str::from_utf8(bytes).map_err(|_| EditError::Unsupported)?;
    if bytes.len() > TEXT_BYTES_MAX { Err(EditError::TooLong) } else { Ok(text) }
}

/// Writes a string: its length in UTF-16 units, and each unit by itself in one to three bytes, as Java
/// reads them.
fn put_text(text: &str, out: &mut dyn Put) {
    let units = text.encode_utf16().count();
    match units {
        0..=31 => out.put(&[units as u8]),
        32..=1023 => out.put(&[0x30 | (units >> 8) as u8, units as u8]),
        _ => out.put(&[b'S', (units >> 8) as u8, units as u8]),
    }
    super::objects::put_units(text, out);
}

/// Counts what is written.
struct Count(usize);

impl Put for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Java's writer begins another chunk at 0x8000 units; all readers take that much in one.
const TEXT_BYTES_MAX: usize = 0x7fff;
