//! Writing the heads of forwarded messages, header edits applied on the way.
//!
//! A head is written once, by the same code for every version of HTTP, into a [`HeadSink`]: text for
//! HTTP/1, a header block for HTTP/2, or a list of fields for a connection that is not there yet.
//! Invariant: framing fields are never copied. Whatever a peer sent, the one framing that was parsed
//! is the one that is written.

use outrigger_codecs::http::{BodyFraming, Field, FieldBlock, FieldKind, Put, decimal};
use outrigger_codecs::http1::render;
use outrigger_codecs::http2::HeadersWriter;
use outrigger_xds::snapshot::{HeaderCase, HeaderOp};

use super::edits::EditOutcome;

/// Where the fields of a head go.
pub(super) trait HeadSink {
    /// Writes a field. The name may be in any case.
    fn put_field(&mut self, name: &str, value: &[u8], kind: FieldKind, never_indexed: bool);

    /// Writes a field of our own, whose kind is told by its name.
    #[inline]
    fn put_own(&mut self, name: &str, value: &[u8]) {
        self.put_field(name, value, FieldKind::of(name.as_bytes()), false);
    }

    /// Writes the fields that frame the body that follows.
    fn put_framing(&mut self, framing: BodyFraming) {
        if let BodyFraming::Length(length) = framing {
            let mut digits = [0; 20];
            let length = decimal(length, &mut digits);
            self.put_field("content-length", length, FieldKind::ContentLength, false);
        }
    }
}

/// HTTP/1 text.
pub(super) struct Text<'a, P> {
    pub(super) out: &'a mut P,
    pub(super) case: HeaderCase,
}

impl<P: Put> HeadSink for Text<'_, P> {
    #[inline]
    fn put_field(&mut self, name: &str, value: &[u8], _kind: FieldKind, _never_indexed: bool) {
        match self.case {
            HeaderCase::Lower => render::field(self.out, name, value),
            HeaderCase::Preserve => render::field_verbatim(self.out, name, value),
            HeaderCase::ProperCaseWords => render::field_proper_case(self.out, name, value),
        }
    }

    #[inline]
    fn put_own(&mut self, name: &str, value: &[u8]) {
        // Text does not care for kinds.
        self.put_field(name, value, FieldKind::Other, false);
    }

    fn put_framing(&mut self, framing: BodyFraming) {
        match framing {
            BodyFraming::Chunked => {
                let kind = FieldKind::TransferEncoding;
                self.put_field("transfer-encoding", b"chunked", kind, false);
            }
            BodyFraming::Length(length) => {
                let mut digits = [0; 20];
                let length = decimal(length, &mut digits);
                self.put_field("content-length", length, FieldKind::ContentLength, false);
            }
            BodyFraming::None | BodyFraming::UntilClose => {}
        }
    }
}

impl HeadSink for FieldBlock {
    fn put_field(&mut self, name: &str, value: &[u8], kind: FieldKind, never_indexed: bool) {
        self.push_as(name, value, kind, never_indexed);
    }
}

impl HeadSink for HeadersWriter<'_> {
    #[inline]
    fn put_field(&mut self, name: &str, value: &[u8], kind: FieldKind, never_indexed: bool) {
        self.field(name, value, kind, never_indexed);
    }
}

/// Writes header fields, leaving out what edits drop.
pub(super) struct FieldWriter<'a, S> {
    pub(super) sink: &'a mut S,
    pub(super) ops: &'a [HeaderOp],
    pub(super) edits: &'a EditOutcome,
}

impl<S: HeadSink> FieldWriter<'_, S> {
    /// Copies a field of the message unless edits drop it.
    #[inline]
    pub(super) fn copy(&mut self, field: &Field<'_>) {
        if self.ops.is_empty() || !self.edits.drops(self.ops, field.name) {
            self.sink.put_field(field.name, field.value, field.kind, field.never_indexed);
        }
    }

    /// Writes a field of our own unless edits drop it.
    #[inline]
    pub(super) fn field(&mut self, name: &str, value: &[u8]) {
        if self.ops.is_empty() || !self.edits.drops(self.ops, name) {
            self.verbatim(name, value);
        }
    }

    /// Writes a field that edits have no say in.
    #[inline]
    pub(super) fn verbatim(&mut self, name: &str, value: &[u8]) {
        self.sink.put_own(name, value);
    }

    /// Writes what edits add.
    pub(super) fn additions(&mut self) {
        self.additions_but(|_| false);
    }

    /// Writes what edits add, but for fields whose names are excepted.
    pub(super) fn additions_but(&mut self, except: impl Fn(&str) -> bool) {
        if self.ops.is_empty() {
            return;
        }
        let (edits, ops) = (self.edits, self.ops);
        for (name, value) in edits.additions(ops).filter(|(name, _)| !except(name)) {
            self.verbatim(name, value);
        }
    }
}

/// True for fields that describe the framing, which are written anew.
pub(super) fn is_framing(field: &Field<'_>) -> bool {
    matches!(field.kind, FieldKind::ContentLength | FieldKind::TransferEncoding)
}

/// The decimal digits of a status.
pub(super) fn status_text(status: u16) -> [u8; 3] {
    let digit = |at: u16| b'0' + (status / at % 10) as u8;
    [digit(100), digit(10), digit(1)]
}

/// A random UUID (RFC 9562 version 4) as text.
pub(super) fn uuid(high: u64, low: u64) -> (u128, [u8; 36]) {
    let bits = (u128::from(high) << 64 | u128::from(low)) & !(0xf000 << 64) | 0x4000 << 64;
    let bits = bits & !(0b11 << 62) | 0b10 << 62;
    let mut text = *b"00000000-0000-4000-8000-000000000000";
    let mut nibble = 32;
    for byte in &mut text {
        if *byte != b'-' {
            nibble -= 1;
            *byte = HEX[(bits >> (nibble * 4)) as usize & 0xf];
        }
    }
    (bits, text)
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_version_4() {
        let (bits, text) = uuid(u64::MAX, 0);
        assert_eq!(&text, b"ffffffff-ffff-4fff-8000-000000000000");
        assert_eq!(bits >> 76 & 0xf, 4);
        assert_eq!(
            &uuid(0x0123_4567_89ab_cdef, u64::MAX).1,
            b"01234567-89ab-4def-bfff-ffffffffffff"
        );
    }
}
