//! Frame heads (RFC 9113 section 4.1): nine bytes that say what follows and for which stream.
//!
//! This module knows the layout and nothing of its meaning; whether a frame is allowed where it
//! comes is decided by the connection. The reserved bit is dropped when read and zero when written.

/// Bytes of a frame head.
pub(super) const HEAD_LEN: usize = 9;

/// The head of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameHead {
    /// Bytes of payload, below 2^24.
    pub len: u32,
    /// The type.
    pub kind: u8,
    /// The flags, whose meaning depends on the type.
    pub flags: u8,
    /// The stream, 0 for the connection.
    pub stream: u32,
}

impl FrameHead {
    pub(super) fn parse(bytes: &[u8; HEAD_LEN]) -> Self {
        let [len_0, len_1, len_2, kind, flags, stream @ ..] = *bytes;
        Self {
            len: u32::from_be_bytes([0, len_0, len_1, len_2]),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & STREAM_MASK,
        }
    }

    pub(super) fn to_bytes(self) -> [u8; HEAD_LEN] {
        let [_, len_0, len_1, len_2] = self.len.to_be_bytes();
        let [id_0, id_1, id_2, id_3] = self.stream.to_be_bytes();
        [len_0, len_1, len_2, self.kind, self.flags, id_0, id_1, id_2, id_3]
    }

    /// Whether all bits of `flag` are set.
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag == flag
    }
}

/// Appends a whole frame of a short payload.
pub(super) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let head = FrameHead { len: payload.len() as u32, kind, flags, stream };
    out.extend_from_slice(&head.to_bytes());
    out.extend_from_slice(payload);
}

/// The big-endian number that `bytes` starts with, 0 if it is shorter.
pub(super) fn u32_at(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |four| u32::from_be_bytes(*four))
}

/// All bits of a stream id or a window increment; the one above is reserved.
pub(super) const STREAM_MASK: u32 = 0x7fff_ffff;

/// Frame types (RFC 9113 section 6).
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0x0;
    pub(in super::super) const HEADERS: u8 = 0x1;
    pub(in super::super) const PRIORITY: u8 = 0x2;
    pub(in super::super) const RST_STREAM: u8 = 0x3;
    pub(in super::super) const SETTINGS: u8 = 0x4;
    pub(in super::super) const PUSH_PROMISE: u8 = 0x5;
    pub(in super::super) const PING: u8 = 0x6;
    pub(in super::super) const GOAWAY: u8 = 0x7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 0x8;
    pub(in super::super) const CONTINUATION: u8 = 0x9;
}

/// Frame flags (RFC 9113 section 6).
pub(super) mod flag {
    /// SETTINGS and PING.
    pub(in super::super) const ACK: u8 = 0x1;
    /// DATA and HEADERS.
    pub(in super::super) const END_STREAM: u8 = 0x1;
    /// HEADERS and CONTINUATION.
    pub(in super::super) const END_HEADERS: u8 = 0x4;
    /// DATA and HEADERS.
    pub(in super::super) const PADDED: u8 = 0x8;
    /// HEADERS.
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_written() {
        let head = FrameHead { len: 0x01_02_03, kind: 9, flags: 0x25, stream: 0x7fff_fffe };
        let bytes = head.to_bytes();
        assert_eq!(bytes, [1, 2, 3, 9, 0x25, 0x7f, 0xff, 0xff, 0xfe]);
        assert_eq!(FrameHead::parse(&bytes), head);
        let mut reserved = bytes;
        reserved[5] |= 0x80;
        assert_eq!(FrameHead::parse(&reserved), head);
    }

    #[test]
    fn a_flag_is_set_only_with_all_its_bits() {
        let head = FrameHead { len: 0, kind: kind::HEADERS, flags: 0x24, stream: 1 };
        assert!(head.has(flag::PRIORITY) && head.has(flag::END_HEADERS));
        assert!(!head.has(flag::END_STREAM) && !head.has(flag::PADDED));
    }
}
