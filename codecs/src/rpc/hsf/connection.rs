//! TB-Remoting's connection objects: they come before the application's and hold the request's id
//! (hsf.md section 7.2).
//!
//! They are read by the names of their fields, and written byte for byte as Java writes them.

use super::objects::{Fields, Grammar, Reader, Undecodable, Value, put_units};
use crate::http::Put;

/// What a connection object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) id: i64,
    /// Of responses; 0 is success.
    pub(super) result: i64,
}

impl Connection {
    /// Reads one. Without an id it is none.
    pub(super) fn read(grammar: Grammar, bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut reader = Reader::new(grammar, bytes);
        let mut fields = reader.enter()?.ok_or(Undecodable)?;
        let (mut id, mut result) = (None, 0);
        while let Some(name) = reader.field(&mut fields)? {
            match name {
                b"ctx" => id = read_context(&mut reader)?,
                b"result" => result = number(reader.value()?).unwrap_or_default(),
                _ => drop(reader.value()?),
            }
        }
        id.map(|id| Self { id, result }).ok_or(Undecodable)
    }
}

fn read_context(reader: &mut Reader<'_>) -> Result<Option<i64>, Undecodable> {
    let mut fields: Fields = reader.enter()?.ok_or(Undecodable)?;
    let mut id = None;
    while let Some(name) = reader.field(&mut fields)? {
        let value = reader.value()?;
        if name == b"id" {
            id = number(value);
        }
    }
    Ok(id)
}

fn number(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Number(number) => Some(number),
        _ => None,
    }
}

/// Writes the connection object of a request.
pub(super) fn put_request(grammar: Grammar, id: i64, out: &mut dyn Put) {
    let mut writer = Writer { grammar, out, classes: 0 };
    writer.begin(REQUEST, &["ctx"]);
    writer.context(REQUEST_CONTEXT, id);
    writer.end();
}

/// Writes the connection object of a response.
pub(super) fn put_response(
    grammar: Grammar,
    id: i64,
    result: u8,
    text: Option<&str>,
    out: &mut dyn Put,
) {
    let mut writer = Writer { grammar, out, classes: 0 };
    writer.begin(RESPONSE, &["host", "result", "errorMsg", "errorStack", "ctx"]);
    writer.name("host");
    writer.null();
    writer.name("result");
    writer.int(result);
    writer.name("errorMsg");
    match text {
        Some(text) => writer.string(text),
        None => writer.null(),
    }
    writer.name("errorStack");
    writer.null();
    writer.context(RESPONSE_CONTEXT, id);
    writer.end();
}

/// Writes values in one grammar.
struct Writer<'a> {
    grammar: Grammar,
    out: &'a mut dyn Put,
    classes: u8,
}

impl Writer<'_> {
    /// Begins an object. Fields follow in this order, each with its name before it.
    fn begin(&mut self, class: &str, fields: &[&str]) {
        match self.grammar {
            Grammar::Hessian1 => {
                self.out.put(b"Mt");
                self.out.put(&(class.len() as u16).to_be_bytes());
                self.out.put(class.as_bytes());
            }
            Grammar::Draft => {
                self.out.put(b"O");
                self.compact_int(class.len() as u16);
                self.out.put(class.as_bytes());
                self.compact_int(fields.len() as u16);
                for field in fields {
                    self.string(field);
                }
                self.out.put(b"o");
                self.compact_int(self.classes.into());
            }
        }
        self.classes += 1;
    }

    fn end(&mut self) {
        if self.grammar == Grammar::Hessian1 {
            self.out.put(b"z");
        }
    }

    /// The draft has names in the class only.
    fn name(&mut self, name: &str) {
        if self.grammar == Grammar::Hessian1 {
            self.string(name);
        }
    }

    fn context(&mut self, class: &str, id: i64) {
        self.name("ctx");
        self.begin(class, &["id", "this$0"]);
        self.name("id");
        self.long(id);
        self.name("this$0");
        // The object that the context is in: the first of all.
        match self.grammar {
            Grammar::Hessian1 => self.out.put(b"R\0\0\0\0"),
            Grammar::Draft => self.out.put(b"J\0"),
        }
        self.end();
    }

    fn null(&mut self) {
        self.out.put(b"N");
    }

    fn int(&mut self, number: u8) {
        match self.grammar {
            Grammar::Hessian1 => self.out.put(&[b'I', 0, 0, 0, number]),
            Grammar::Draft => self.compact_int(number.into()),
        }
    }

    /// A draft int; those of more than two bytes are not needed.
    fn compact_int(&mut self, number: u16) {
        debug_assert!(number < 2048);
        match number {
            0..=47 => self.out.put(&[0x90 + number as u8]),
            _ => self.out.put(&[0xc8 + (number >> 8) as u8, number as u8]),
        }
    }

    fn long(&mut self, number: i64) {
        match (self.grammar, number) {
            (Grammar::Draft, -8..=15) => self.out.put(&[(0xe0 + number) as u8]),
            (Grammar::Draft, -0x800..=0x7ff) => {
                self.out.put(&[(0xf8 + (number >> 8)) as u8, number as u8]);
            }
            (Grammar::Draft, -0x4_0000..=0x3_ffff) => {
                let [.., low_1, low_0] = number.to_be_bytes();
                self.out.put(&[(0x3c + (number >> 16)) as u8, low_1, low_0]);
            }
            (Grammar::Draft, number) if i32::try_from(number).is_ok() => {
                self.out.put(b"w");
                self.out.put(&(number as i32).to_be_bytes());
            }
            (_, number) => {
                self.out.put(b"L");
                self.out.put(&number.to_be_bytes());
            }
        }
    }

    fn string(&mut self, text: &str) {
        let text = &text[..text.floor_char_boundary(TEXT_WRITTEN_MAX)];
        let units = text.encode_utf16().count() as u16;
        match (self.grammar, units) {
            (Grammar::Draft, 0..=0x1f) => self.out.put(&[units as u8]),
            _ => {
                self.out.put(b"S");
                self.out.put(&units.to_be_bytes());
            }
        }
        put_units(text, self.out);
    }
}

const REQUEST: &str = "com.taobao.remoting.impl.ConnectionRequest";
const REQUEST_CONTEXT: &str = "com.taobao.remoting.impl.ConnectionRequest$RequestContext";
const RESPONSE: &str = "com.taobao.remoting.impl.ConnectionResponse";
const RESPONSE_CONTEXT: &str = "com.taobao.remoting.impl.ConnectionResponse$ResponseContext";

/// Reasons are short; a longer one is cut.
const TEXT_WRITTEN_MAX: usize = 1024;
