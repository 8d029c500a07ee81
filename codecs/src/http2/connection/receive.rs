//! From bytes to frames.
//!
//! A frame that lies whole in the input is read in place. Of one that the end of the input cuts, the
//! payload is collected, within the length that its type may have; DATA is passed on in the pieces
//! that come, and what is ignored is skipped. So what happens depends on the bytes only, never on how
//! they arrive, except that content comes in other pieces.

use super::super::error::{ConnectionCause, ConnectionError, Reason, StreamCause};
use super::super::event::{Event, Step};
use super::super::frame::{FrameHead, HEAD_LEN, STREAM_MASK, flag, kind, u32_at};
use super::super::settings::{SETTING_LEN, SETTINGS_PER_FRAME_MAX};
use super::{Connection, PREFACE};

/// Where in the bytes of the peer a connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reading {
    /// In the client's preface.
    Preface {
        /// Bytes of it that have come.
        matched: u8,
    },
    /// In a frame head.
    Head {
        /// Bytes of it that have come.
        have: u8,
        /// Those bytes.
        bytes: [u8; HEAD_LEN],
    },
    /// In a payload that is acted on as a whole.
    Payload {
        /// The head of its frame.
        head: FrameHead,
        /// Bytes of payload that are needed; any after them are skipped.
        needed: u32,
    },
    /// Before the padding length of a DATA frame.
    PadLength {
        /// The head of the frame.
        head: FrameHead,
    },
    /// In content.
    Data {
        /// The stream.
        stream: u32,
        /// Bytes of content left in the frame, at least one.
        left: u32,
        /// Bytes of padding after them.
        padding: u8,
        /// The content ends the stream.
        end_stream: bool,
    },
    /// In bytes that mean nothing.
    Skip {
        /// How many, at least one.
        left: u32,
    },
}

impl Reading {
    /// Before a frame.
    pub const START: Self = Self::Head { have: 0, bytes: [0; HEAD_LEN] };

    /// Before `left` bytes that mean nothing.
    pub(super) fn skip(left: u32) -> Self {
        if left == 0 { Self::START } else { Self::Skip { left } }
    }
}

impl Connection {
    /// Reads on in the bytes that the peer sends and says what they mean. `input` starts with the
    /// first byte that was not consumed; call again until nothing is consumed and nothing is told,
    /// also with empty input. `now_ns` is any clock that doesn't go back, in nanoseconds.
    ///
    /// # Errors
    ///
    /// The peer broke a rule of the connection. GOAWAY is in the output then, and every further call
    /// answers the same.
    pub fn receive(&mut self, input: &[u8], now_ns: u64) -> Result<Step, ConnectionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.unprocessed
            && let Some(event) = self.next_unprocessed()
        {
            return Ok(Step { consumed: 0, event: Some(event) });
        }
        self.read(input, now_ns).map_err(|cause| self.end(cause))
    }

    fn read(&mut self, input: &[u8], now_ns: u64) -> Result<Step, ConnectionCause> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let event = match self.reading {
                Reading::Head { have: 0, .. } if rest.len() >= HEAD_LEN => {
                    at += HEAD_LEN;
                    match rest.first_chunk() {
                        Some(bytes) => self.start_frame(FrameHead::parse(bytes), at, now_ns)?,
                        None => None,
                    }
                }
                Reading::Payload { head, needed } => {
                    let have = self.partial.len();
                    let wanted = needed as usize - have;
                    if rest.len() < wanted {
                        self.partial.extend_from_slice(rest);
                        at = input.len();
                        break;
                    }
                    at += wanted;
                    self.reading = Reading::skip(head.len - needed);
                    if have == 0 {
                        self.frame(head, &rest[..wanted], now_ns)?
                    } else {
                        let mut payload = std::mem::take(&mut self.partial);
                        payload.extend_from_slice(&rest[..wanted]);
                        let event = self.frame(head, &payload, now_ns)?;
                        self.keep_partial(payload);
                        event
                    }
                }
                _ if rest.is_empty() => break,
                Reading::Data { stream, left, padding, end_stream } => {
                    let taken = rest.len().min(left as usize);
                    let range = at..at + taken;
                    at += taken;
                    let left = left - taken as u32;
                    let last = left == 0;
                    self.reading = match last {
                        true => Reading::skip(u32::from(padding)),
                        false => Reading::Data { stream, left, padding, end_stream },
                    };
                    self.content(stream, range, last && end_stream)
                }
                Reading::Skip { left } => {
                    let taken = rest.len().min(left as usize);
                    at += taken;
                    self.reading = Reading::skip(left - taken as u32);
                    None
                }
                Reading::PadLength { head } => {
                    at += 1;
                    self.content_start(head, Some(rest[0]), at, now_ns)?
                }
                Reading::Head { have, mut bytes } => {
                    let have = usize::from(have);
                    let taken = rest.len().min(HEAD_LEN - have);
                    bytes[have..have + taken].copy_from_slice(&rest[..taken]);
                    at += taken;
                    if have + taken == HEAD_LEN {
                        self.start_frame(FrameHead::parse(&bytes), at, now_ns)?
                    } else {
                        self.reading = Reading::Head { have: (have + taken) as u8, bytes };
                        None
                    }
                }
                Reading::Preface { matched } => {
                    let expected = &PREFACE[usize::from(matched)..];
                    let taken = rest.len().min(expected.len());
                    if rest[..taken] != expected[..taken] {
                        return Err(ConnectionCause::PrefaceInvalid);
                    }
                    at += taken;
                    self.reading = match taken == expected.len() {
                        true => Reading::START,
                        false => Reading::Preface { matched: matched + taken as u8 },
                    };
                    None
                }
            };
            if event.is_some() {
                return Ok(Step { consumed: at, event });
            }
        }
        Ok(Step { consumed: at, event: None })
    }

    /// Keeps the room of a frame that was cut for the next one, unless it is large or the connection
    /// is idle.
    fn keep_partial(&mut self, mut payload: Vec<u8>) {
        if payload.capacity() <= PARTIAL_KEPT && !self.streams.is_empty() {
            payload.clear();
            self.partial = payload;
        }
    }

    /// Judges a frame by its head and decides how its payload is read. `at` is where it starts in the
    /// input, for DATA that has none.
    fn start_frame(
        &mut self,
        head: FrameHead,
        at: usize,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        if head.len > self.config.max_frame_size {
            return Err(ConnectionCause::FrameTooLarge);
        }
        if !self.peer_settled && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(ConnectionCause::SettingsMissing);
        }
        if let Some(heading) = &self.heading
            && (head.kind != kind::CONTINUATION || head.stream != heading.stream)
        {
            return Err(ConnectionCause::ContinuationExpected);
        }
        if wrong_kind_of_stream(head) {
            return Err(ConnectionCause::StreamIdMisplaced);
        }
        let needed = match head.kind {
            kind::DATA => return self.data(head, at, now_ns),
            kind::HEADERS => {
                self.check_block_size(head.len)?;
                head.len
            }
            kind::CONTINUATION => {
                self.check_continuation(head)?;
                head.len
            }
            kind::PRIORITY if head.len == PRIORITY_LEN => head.len,
            kind::PRIORITY => {
                self.reading = Reading::skip(head.len);
                return self.invalid_priority(head.stream, StreamCause::PriorityLength, now_ns);
            }
            kind::SETTINGS => {
                let len = head.len as usize;
                if !len.is_multiple_of(SETTING_LEN) || (head.has(flag::ACK) && len > 0) {
                    return Err(ConnectionCause::SettingsLength);
                }
                if len > SETTING_LEN * SETTINGS_PER_FRAME_MAX {
                    return Err(ConnectionCause::SettingsFlood);
                }
                head.len
            }
            kind::RST_STREAM => exactly(head.len, 4, ConnectionCause::ResetLength)?,
            kind::PING => exactly(head.len, 8, ConnectionCause::PingLength)?,
            kind::WINDOW_UPDATE => exactly(head.len, 4, ConnectionCause::WindowUpdateLength)?,
            kind::GOAWAY if head.len < GOAWAY_LEN_MIN => return Err(ConnectionCause::GoAwayLength),
            // What follows is text for people.
            kind::GOAWAY => GOAWAY_LEN_MIN,
            kind::PUSH_PROMISE => return Err(ConnectionCause::PushPromise),
            // Extensions that nobody agreed on are ignored (RFC 9113 section 5.5).
            _ => {
                self.reading = Reading::skip(head.len);
                return Ok(None);
            }
        };
        self.reading = Reading::Payload { head, needed };
        Ok(None)
    }

    /// Acts on a frame whose payload is there.
    fn frame(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        match head.kind {
            kind::HEADERS => self.headers(head, payload, now_ns),
            kind::CONTINUATION => self.continuation(head, payload, now_ns),
            kind::PRIORITY => self.priority(head.stream, payload, now_ns),
            kind::RST_STREAM => self.rst_stream(head.stream, Reason(u32_at(payload)), now_ns),
            kind::SETTINGS if head.has(flag::ACK) => self.settings_ack(),
            kind::SETTINGS => self.settings(payload, now_ns),
            kind::PING => self.ping_received(head, payload, now_ns),
            kind::GOAWAY => self.goaway(
                u32_at(payload) & STREAM_MASK,
                Reason(u32_at(payload.get(4..).unwrap_or_default())),
            ),
            kind::WINDOW_UPDATE => {
                self.window_update(head.stream, u32_at(payload) & STREAM_MASK, now_ns)
            }
            _ => Ok(None),
        }
    }
}

/// Whether a frame of a stream has none, or a frame of the connection has one.
fn wrong_kind_of_stream(head: FrameHead) -> bool {
    match head.kind {
        kind::SETTINGS | kind::PING | kind::GOAWAY => head.stream != 0,
        kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION => {
            head.stream == 0
        }
        _ => false,
    }
}

fn exactly(len: u32, wanted: u32, cause: ConnectionCause) -> Result<u32, ConnectionCause> {
    if len == wanted { Ok(len) } else { Err(cause) }
}

/// More than a cut frame of control or a usual header block needs.
const PARTIAL_KEPT: usize = 1024;
const PRIORITY_LEN: u32 = 5;
/// The last stream id and the error code.
const GOAWAY_LEN_MIN: u32 = 8;
