//! The fixed part that every Bolt frame begins with (bolt.md sections 3.1 to 3.3), read and written.
//!
//! This module knows the layout; what a length may be and what a command means is decided above it.
//! Invariant: a header that was read is written again as the same bytes.

use arrayvec::ArrayVec;

use crate::rpc::{FrameError, FrameFault, Tag};

/// The longest fixed part: a version 2 request's.
pub(super) const HEADER_LEN_MAX: usize = 24;

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) form: Form,
    pub(super) message: Message,
    /// Command code: heartbeat, request, response, or what an extension adds.
    pub(super) command: u16,
    /// Version of the command, which nobody interprets.
    pub(super) ver2: u8,
    pub(super) id: u32,
    /// Serialization of the content.
    pub(super) codec: u8,
    pub(super) class_len: u16,
    /// Bytes of the key/value block behind the class.
    pub(super) block_len: u16,
    pub(super) content_len: u32,
}

/// The protocol version and what comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    V1,
    V2 { ver1: u8, switch: u8 },
}

/// The type of a message and the field that depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Request {
        oneway: bool,
        /// Milliseconds; 0 and below are none.
        timeout: i32,
    },
    Response {
        status: u16,
    },
}

/// How much of a fixed part there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// So many bytes from the first are needed to tell more.
    NeedMore(usize),
    Whole(Header),
}

impl Header {
    pub(super) fn parse(front: &[u8]) -> Result<Parsed, FrameError> {
        // What version 2 has in front of the type, and so behind the places of version 1.
        let shift = match front {
            [] => return Ok(Parsed::NeedMore(1)),
            [PROTOCOL_V1, ..] => 0,
            [PROTOCOL_V2] => return Ok(Parsed::NeedMore(2)),
            [PROTOCOL_V2, VER1_PLAIN | VER1_CHECKED, ..] => 1,
            [PROTOCOL_V2, ..] => return Err(fault(FrameFault::Version, 1)),
            _ => return Err(fault(FrameFault::Protocol, 0)),
        };
        let type_at = 1 + shift;
        let len = match front.get(type_at) {
            None => return Ok(Parsed::NeedMore(type_at + 1)),
            Some(&TYPE_RESPONSE) => RESPONSE_LEN_V1 + 2 * shift,
            Some(&(TYPE_REQUEST | TYPE_ONEWAY)) => REQUEST_LEN_V1 + 2 * shift,
            Some(_) => return Err(fault(FrameFault::Type, type_at)),
        };
        let Some(header) = front.get(..len) else { return Ok(Parsed::NeedMore(len)) };
        let form = match shift {
            0 => Form::V1,
            _ => Form::V2 { ver1: header[1], switch: header[11] },
        };
        let special_at = form.special_at();
        let message = match header[type_at] {
            TYPE_RESPONSE => Message::Response { status: u16_at(header, special_at) },
            kind => {
                let timeout = u32_at(header, special_at).cast_signed();
                Message::Request { oneway: kind == TYPE_ONEWAY, timeout }
            }
        };
        Ok(Parsed::Whole(Header {
            form,
            message,
            command: u16_at(header, type_at + 1),
            ver2: header[type_at + 3],
            id: u32_at(header, form.id_at()),
            codec: header[form.id_at() + 4],
            class_len: u16_at(header, len - 8),
            block_len: u16_at(header, len - 6),
            content_len: u32_at(header, len - 4),
        }))
    }

    /// A header of an empty message.
    pub(super) fn empty(form: Form, message: Message, command: u16, codec: u8, id: u32) -> Header {
        let (class_len, block_len, content_len) = (0, 0, 0);
        Header { form, message, command, ver2: VER2, id, codec, class_len, block_len, content_len }
    }

    /// Bytes of the fixed part.
    pub(super) fn len(&self) -> usize {
        let len = match self.message {
            Message::Request { .. } => REQUEST_LEN_V1,
            Message::Response { .. } => RESPONSE_LEN_V1,
        };
        len + 2 * self.form.shift()
    }

    /// Offset of the class's length; the block's (2 bytes) and the content's (4) follow it.
    pub(super) fn lengths_at(&self) -> usize {
        self.len() - 8
    }

    /// Where the key/value block begins.
    pub(super) fn block_at(&self) -> usize {
        self.len() + usize::from(self.class_len)
    }

    pub(super) fn to_bytes(self) -> ArrayVec<u8, HEADER_LEN_MAX> {
        let mut out = ArrayVec::new();
        match self.form {
            Form::V1 => out.extend([PROTOCOL_V1]),
            Form::V2 { ver1, .. } => out.extend([PROTOCOL_V2, ver1]),
        }
        out.push(match self.message {
            Message::Response { .. } => TYPE_RESPONSE,
            Message::Request { oneway: false, .. } => TYPE_REQUEST,
            Message::Request { oneway: true, .. } => TYPE_ONEWAY,
        });
        out.extend(self.command.to_be_bytes());
        out.push(self.ver2);
        out.extend(self.id.to_be_bytes());
        out.push(self.codec);
        if let Form::V2 { switch, .. } = self.form {
            out.push(switch);
        }
        match self.message {
            Message::Response { status } => out.extend(status.to_be_bytes()),
            Message::Request { timeout, .. } => out.extend(timeout.to_be_bytes()),
        }
        out.extend(self.class_len.to_be_bytes());
        out.extend(self.block_len.to_be_bytes());
        out.extend(self.content_len.to_be_bytes());
        out
    }
}

impl Form {
    pub(super) fn of(tag: &Tag) -> Form {
        match tag.0 {
            // The highest bit of a switch must never be sent, whatever came.
            [PROTOCOL_V2, ver1, switch, _] => Form::V2 { ver1, switch: switch & SWITCH_MASK },
            _ => Form::V1,
        }
    }

    /// What an answer must agree with: protocol, ver1, switch, codec.
    pub(super) fn tag(self, codec: u8) -> Tag {
        match self {
            Form::V1 => Tag([PROTOCOL_V1, 0, 0, codec]),
            Form::V2 { ver1, switch } => Tag([PROTOCOL_V2, ver1, switch, codec]),
        }
    }

    /// Offset of the request id.
    pub(super) fn id_at(self) -> usize {
        5 + self.shift()
    }

    /// Offset of a request's timeout and of a response's status.
    pub(super) fn special_at(self) -> usize {
        10 + 2 * self.shift()
    }

    /// Whether both are of the same protocol version and ver1, by which peers choose how they answer.
    pub(super) fn agrees(self, other: Form) -> bool {
        match (self, other) {
            (Form::V1, Form::V1) => true,
            (Form::V2 { ver1, .. }, Form::V2 { ver1: other, .. }) => ver1 == other,
            _ => false,
        }
    }

    /// Whether a checksum follows the content (bolt.md section 3.4).
    pub(super) fn is_checked(self, by_switch_only: bool) -> bool {
        match self {
            Form::V1 => false,
            Form::V2 { ver1, switch } => {
                switch & SWITCH_CRC != 0 && (ver1 == VER1_CHECKED || by_switch_only)
            }
        }
    }

    fn shift(self) -> usize {
        match self {
            Form::V1 => 0,
            Form::V2 { .. } => 1,
        }
    }
}

/// A fault that leaves nothing to answer.
pub(super) fn fault(reason: FrameFault, at: usize) -> FrameError {
    FrameError { reason, at, answer: None }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Command codes.
pub(super) mod command {
    pub(in super::super) const HEARTBEAT: u16 = 0;
    pub(in super::super) const RESPONSE: u16 = 2;
    /// MOSN's extension; others don't know it.
    pub(in super::super) const GOODBYE: u16 = 100;
}

/// The default serialization, which heartbeats carry.
pub(super) const CODEC_HESSIAN: u8 = 1;

const PROTOCOL_V1: u8 = 1;
const PROTOCOL_V2: u8 = 2;
const VER1_PLAIN: u8 = 1;
/// Checksums follow where the switch says so.
const VER1_CHECKED: u8 = 2;
const VER2: u8 = 1;
const TYPE_RESPONSE: u8 = 0;
const TYPE_REQUEST: u8 = 1;
const TYPE_ONEWAY: u8 = 2;
const SWITCH_CRC: u8 = 1;
const SWITCH_MASK: u8 = 0x7f;
const REQUEST_LEN_V1: usize = 22;
const RESPONSE_LEN_V1: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        let forms = [Form::V1, Form::V2 { ver1: 1, switch: 1 }, Form::V2 { ver1: 2, switch: 0x7e }];
        let messages = [
            Message::Request { oneway: false, timeout: -1 },
            Message::Request { oneway: true, timeout: 0x0102_0304 },
            Message::Response { status: 0xfe0a },
        ];
        for form in forms {
            for message in messages {
                let mut header = Header::empty(form, message, 0x0506, 11, 0xfedc_ba98);
                (header.ver2, header.class_len, header.block_len) = (7, 0x1112, 0x1314);
                header.content_len = 0x2122_2324;
                let bytes = header.to_bytes();
                assert_eq!(bytes.len(), header.len());
                assert_eq!(Header::parse(&bytes), Ok(Parsed::Whole(header)));
                let early = Header::parse(&bytes[..bytes.len() - 1]);
                assert_eq!(early, Ok(Parsed::NeedMore(bytes.len())));
                assert_eq!(Form::of(&form.tag(11)), form);
            }
        }
    }
}
