//! What only the early draft of Hessian 2 has (hsf.md section 7.4): compact numbers, short strings and
//! binaries, and objects of defined classes.

use std::ops::RangeInclusive;

use super::{Definition, Fields, Reader, Undecodable, Value};

/// A value whose tag was read, and that Hessian 1 does not have.
pub(super) fn value<'a>(reader: &mut Reader<'a>, tag: u8) -> Result<Value<'a>, Undecodable> {
    match tag {
        0..=SHORT_STRING_MAX => reader.text(tag.into()).map(Value::Text),
        0x20..=0x2f => reader.take(usize::from(tag - 0x20)).map(|_| Value::Other),
        0x80..=0xd7 => int(reader, tag).map(Value::Number),
        0xd8..=0xff | 0x38..=0x3f | b'w' => long(reader, tag).map(Value::Number),
        // Back references, and doubles of less than eight bytes.
        b'J' | 0x69 => reader.take(1).map(|_| Value::Other),
        b'K' | 0x6a => reader.take(2).map(|_| Value::Other),
        0x67 | 0x68 => Ok(Value::Other),
        _ => Err(Undecodable),
    }
}

/// Takes in a class definition, behind its tag.
pub(super) fn define(reader: &mut Reader<'_>) -> Result<(), Undecodable> {
    let name_len = count(reader)?;
    reader.take(name_len)?;
    let fields = count(reader)?;
    let names_at = reader.at;
    for _ in 0..fields {
        let tag = reader.byte()?;
        let name = match tag {
            0..=SHORT_STRING_MAX => reader.text(tag.into()).map(Value::Text)?,
            super::STRING => reader.string(tag)?,
            _ => return Err(Undecodable),
        };
        debug_assert!(matches!(name, Value::Text(_)));
    }
    reader.definitions.try_push(Definition { names_at, fields }).map_err(|_| Undecodable)
}

/// The fields of an object, behind its tag.
pub(super) fn object(reader: &mut Reader<'_>) -> Result<Fields, Undecodable> {
    let index = count(reader)?;
    let Definition { names_at, fields } = *reader.definitions.get(index).ok_or(Undecodable)?;
    Ok(Fields::Defined { names_at, left: fields })
}

/// A length, a count or an index: an int that is not negative.
fn count(reader: &mut Reader<'_>) -> Result<usize, Undecodable> {
    let tag = reader.byte()?;
    let number = match tag {
        b'I' => i64::from(reader.u32()? as i32),
        _ => int(reader, tag)?,
    };
    usize::try_from(number).map_err(|_| Undecodable)
}

/// A compact int whose tag was read.
fn int(reader: &mut Reader<'_>, tag: u8) -> Result<i64, Undecodable> {
    let tag_number = i64::from(tag);
    match tag {
        0x80..=0xbf => Ok(tag_number - 0x90),
        0xc0..=0xcf => Ok((tag_number - 0xc8) << 8 | i64::from(reader.byte()?)),
        0xd0..=0xd7 => Ok((tag_number - 0xd4) << 16 | reader.u16()? as i64),
        _ => Err(Undecodable),
    }
}

/// A compact long whose tag was read.
fn long(reader: &mut Reader<'_>, tag: u8) -> Result<i64, Undecodable> {
    let tag_number = i64::from(tag);
    match tag {
        0xd8..=0xef => Ok(tag_number - 0xe0),
        0xf0..=0xff => Ok((tag_number - 0xf8) << 8 | i64::from(reader.byte()?)),
        0x38..=0x3f => Ok((tag_number - 0x3c) << 16 | reader.u16()? as i64),
        b'w' => Ok(i64::from(reader.u32()? as i32)),
        _ => Err(Undecodable),
    }
}

pub(super) const DEFINITION: u8 = b'O';
pub(super) const OBJECT: u8 = b'o';
pub(super) const LIST_LENGTH_SHORT: u8 = b'n';
pub(super) const SHORT_STRING_MAX: u8 = 0x1f;
pub(super) const SHORT_BINARY: RangeInclusive<u8> = 0x20..=0x2f;
