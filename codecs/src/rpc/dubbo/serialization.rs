//! How the values of a body are written (dubbo.md sections 2.1 and 5).

use super::super::{Tag, hessian2};
use super::jsonb;
use crate::http::Put;

/// A serialization whose values are read and written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serialization {
    /// Hessian 2, one stream for the whole body.
    Hessian2,
    /// JSONB, each value with its length before it.
    Fastjson2,
}

impl Serialization {
    /// The one of a frame's tag; `None` for those that are not read.
    pub(super) fn of(tag: Tag) -> Option<Self> {
        match tag.0[0] {
            HESSIAN2 => Some(Serialization::Hessian2),
            FASTJSON2 => Some(Serialization::Fastjson2),
            _ => None,
        }
    }

    /// The one for frames of our own that must agree with `tag`: receivers go by the frame's own flag,
    /// so Hessian 2 will do for those that can't be written (dubbo.md section 9).
    pub(super) fn for_answer(tag: Tag) -> Self {
        Self::of(tag).unwrap_or(Serialization::Hessian2)
    }

    pub(super) fn id(self) -> u8 {
        match self {
            Serialization::Hessian2 => HESSIAN2,
            Serialization::Fastjson2 => FASTJSON2,
        }
    }

    /// The body of a heartbeat (dubbo.md section 8).
    pub(super) fn null(self) -> &'static [u8] {
        match self {
            Serialization::Hessian2 => b"\x4e",
            Serialization::Fastjson2 => b"\x00\x00\x00\x01\xaf",
        }
    }

    /// The first and the last byte of a map without a type.
    pub(super) fn map_marks(self) -> (u8, u8) {
        match self {
            Serialization::Hessian2 => (0x48, 0x5a),
            Serialization::Fastjson2 => (jsonb::OBJECT, jsonb::OBJECT_END),
        }
    }

    /// Writes a string, without a length before it.
    pub(super) fn put_string(self, text: &str, out: &mut dyn Put) {
        match self {
            Serialization::Hessian2 => hessian2::put_string(text, out),
            Serialization::Fastjson2 => jsonb::put_string(text, out),
        }
    }

    /// Writes a body of one string.
    pub(super) fn put_body(self, text: &str, out: &mut dyn Put) {
        if self == Serialization::Fastjson2 {
            let len = self.body_len(text) - jsonb::LENGTH_BYTES;
            // Our own texts are short.
            out.put(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        }
        self.put_string(text, out);
    }

    /// Bytes of a body of one string.
    pub(super) fn body_len(self, text: &str) -> usize {
        let mut len = Count(0);
        self.put_string(text, &mut len);
        match self {
            Serialization::Hessian2 => len.0,
            Serialization::Fastjson2 => jsonb::LENGTH_BYTES + len.0,
        }
    }
}

/// Counts what is written.
struct Count(usize);

impl Put for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

const HESSIAN2: u8 = 2;
const FASTJSON2: u8 = 23;
