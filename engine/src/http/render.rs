//! Writing the heads of forwarded messages into the arena, header edits applied on the way.
//!
//! Invariant: framing fields are never copied. Whatever a peer sent, the one framing that was
//! parsed is the one that is written.

use outrigger_codecs::http::{BodyFraming, Field, FieldKind};
use outrigger_codecs::http::{Put, decimal};
use outrigger_codecs::http1::render;
use outrigger_xds::snapshot::{HeaderCase, HeaderOp};

use super::edits::EditOutcome;

/// Writes header fields, leaving out what edits drop.
pub(super) struct FieldWriter<'a, P> {
    pub(super) out: &'a mut P,
    pub(super) case: HeaderCase,
    pub(super) ops: &'a [HeaderOp],
    pub(super) edits: &'a EditOutcome,
}

impl<P: Put> FieldWriter<'_, P> {
    /// Writes a field unless edits drop it.
    #[inline]
    pub(super) fn field(&mut self, name: &str, value: &[u8]) {
        if self.ops.is_empty() || !self.edits.drops(self.ops, name) {
            self.verbatim(name, value);
        }
    }

    /// Writes a field that edits have no say in.
    #[inline]
    pub(super) fn verbatim(&mut self, name: &str, value: &[u8]) {
        match self.case {
            HeaderCase::Lower => render::field(self.out, name, value),
            HeaderCase::Preserve => render::field_verbatim(self.out, name, value),
            HeaderCase::ProperCaseWords => render::field_proper_case(self.out, name, value),
        }
    }

    /// Writes what edits add.
    pub(super) fn additions(&mut self) {
        if self.ops.is_empty() {
            return;
        }
        let (edits, ops) = (self.edits, self.ops);
        for (name, value) in edits.additions(ops) {
            self.verbatim(name, value);
        }
    }

    /// Writes the framing of the body that follows.
    pub(super) fn framing(&mut self, framing: BodyFraming) {
        match framing {
            BodyFraming::Chunked => self.verbatim("transfer-encoding", b"chunked"),
            BodyFraming::Length(length) => {
                let mut digits = [0; 20];
                self.verbatim("content-length", decimal(length, &mut digits));
            }
            BodyFraming::None | BodyFraming::UntilClose => {}
        }
    }

    /// Ends the head.
    pub(super) fn end(self) {
        self.out.put(b"\r\n");
    }
}

/// True for fields that describe the framing, which are written anew.
pub(super) fn is_framing(field: &Field<'_>) -> bool {
    matches!(field.kind, FieldKind::ContentLength | FieldKind::TransferEncoding)
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
