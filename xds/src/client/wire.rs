//! A walk over the top level of a protobuf message, without decoding what is in it.

/// One field as it stands in a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    /// The content, if the field has a length of its own.
    pub(super) bytes: Option<&'a [u8]>,
}

/// The bytes are no message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The fields of a message, in the order in which they stand; ends after the first error.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Malformed>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        (!rest.is_empty()).then(|| {
            let field = field(&mut rest);
            if field.is_err() {
                rest = &[];
            }
            field
        })
    })
}

/// The string in field 1: for every type of resource that is its name. As in protobuf, the last one
/// counts.
pub(super) fn name(message: &[u8]) -> Result<&str, Malformed> {
    let mut name: &[u8] = &[];
    for field in fields(message) {
        if let Field { number: 1, bytes: Some(bytes) } = field? {
            name = bytes;
        }
    }
    std::str::from_utf8(name).map_err(|_| Malformed)
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>, Malformed> {
    let key = varint(rest)?;
    let bytes = match key & 7 {
        0 => {
            varint(rest)?;
            None
        }
        1 => take(rest, 8).map(|_| None)?,
        2 => {
            let length = varint(rest)?;
            Some(take(rest, usize::try_from(length).map_err(|_| Malformed)?)?)
        }
        5 => take(rest, 4).map(|_| None)?,
        // Groups, which no message of ours has.
        _ => return Err(Malformed),
    };
    Ok(Field { number: key >> 3, bytes })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, after) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = after;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(Malformed)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_last_field_1() {
        assert_eq!(name(b"\x0a\x01a\x12\x03xyz\x0a\x02bc"), Ok("bc"));
        assert_eq!(name(b"\x18\x96\x01\x21ABCDEFGH\x2dABCD\x0a\x01a"), Ok("a"));
        assert_eq!(name(b""), Ok(""));
    }

    #[test]
    fn what_is_no_message_has_no_name() {
        for bytes in [
            &b"\x0a\x05abc"[..],
            b"\x0a",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x0a\x01\xff",
            b"\x0b",
            b"\x21ABC",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert_eq!(name(bytes), Err(Malformed), "{bytes:?}");
        }
    }
}
