//! From bytes to frames, and every frame but those of header blocks.
//!
//! A frame that lies whole in the input is read in place. Of one that the end of the input cuts, the
//! payload is collected, within the length that its type may have; DATA is passed on in the pieces
//! that come, and what is ignored is skipped. So what happens depends on the bytes only, never on how
//! they arrive, except that content comes in other pieces.

use super::super::config::Role;
use super::super::error::{ConnectionCause, ConnectionError, Reason, StreamCause};
use super::super::event::{Event, ResetBy, Step, StreamId};
use super::super::flow::WINDOW_MAX;
use super::super::frame::{self, FrameHead, HEAD_LEN, STREAM_MASK, flag, kind, u32_at};
use super::super::message::MessageError;
use super::super::settings::{SETTING_LEN, SETTINGS_PER_FRAME_MAX, id as setting_id, settings};
use super::super::streams::Receiving;
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
    pub(super) const START: Self = Self::Head { have: 0, bytes: [0; HEAD_LEN] };

    fn skip(left: u32) -> Self {
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
            kind::GOAWAY => {
                self.goaway(u32_at(payload) & STREAM_MASK, Reason(u32_at(&payload[4..])))
            }
            kind::WINDOW_UPDATE => {
                self.window_update(head.stream, u32_at(payload) & STREAM_MASK, now_ns)
            }
            _ => Ok(None),
        }
    }

    /// DATA: takes the whole frame out of the windows, and finds out whether anyone wants it.
    fn data(
        &mut self,
        head: FrameHead,
        at: usize,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        let FrameHead { len, stream: id, .. } = head;
        if self.is_unused(id) {
            return Err(ConnectionCause::StreamIdle);
        }
        if !self.receive_window.take(len) {
            return Err(ConnectionCause::DataBeyondWindow);
        }
        if head.has(flag::PADDED) && len == 0 {
            return Err(ConnectionCause::FrameTooShort);
        }
        let Some(stream) = self.streams.get_mut(id) else {
            return self.data_on_closed(head, now_ns);
        };
        let fault = if stream.is_ended() {
            Some(StreamCause::FrameOnClosedStream)
        } else {
            (!stream.receive.take(len)).then_some(StreamCause::DataBeyondWindow)
        };
        if let Some(cause) = fault {
            self.reading = Reading::skip(len);
            self.release_connection(len as usize);
            return self.stream_error(id, cause, now_ns);
        }
        if head.has(flag::PADDED) {
            self.reading = Reading::PadLength { head };
            return Ok(None);
        }
        self.content_start(head, None, at, now_ns)
    }

    fn data_on_closed(
        &mut self,
        head: FrameHead,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        let FrameHead { len, stream: id, .. } = head;
        let empty = len == 0 && !head.has(flag::END_STREAM);
        if !self.flood.message_frame(empty, &self.config.flood) {
            return Err(ConnectionCause::EmptyFrameFlood);
        }
        self.reading = Reading::skip(len);
        self.release_connection(len as usize);
        if self.is_refused_by_goaway(id) || self.resets.excuses(id) {
            if head.has(flag::END_STREAM) {
                self.resets.settle(id);
            }
            return Ok(None);
        }
        self.refuse_frame(id, StreamCause::FrameOnClosedStream, now_ns)?;
        Ok(None)
    }

    /// The content of a DATA frame begins, `padding` being known: credits the padding and checks the
    /// length. `at` is where it begins in the input.
    fn content_start(
        &mut self,
        head: FrameHead,
        pad_length: Option<u8>,
        at: usize,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        let FrameHead { stream: id, .. } = head;
        let end_stream = head.has(flag::END_STREAM);
        let padding = pad_length.unwrap_or(0);
        let overhead = pad_length.map_or(0, |padding| 1 + u32::from(padding));
        let len = head.len.checked_sub(overhead).ok_or(ConnectionCause::PaddingTooLong)?;
        if !self.flood.message_frame(len == 0 && !end_stream, &self.config.flood) {
            return Err(ConnectionCause::EmptyFrameFlood);
        }
        // None where the owner has reset the stream since the frame began.
        let stream = self.streams.get_mut(id);
        let fits = stream.map_or(Ok(()), |stream| stream.content(len, end_stream));
        if let Err(error) = fits {
            self.reading = Reading::skip(len + u32::from(padding));
            self.release_connection(head.len as usize);
            return self.message_error(id, error, now_ns);
        }
        if overhead > 0 {
            self.release(StreamId(id), overhead as usize);
        }
        if len > 0 {
            self.reading = Reading::Data { stream: id, left: len, padding, end_stream };
            return Ok(None);
        }
        self.reading = Reading::skip(u32::from(padding));
        Ok(if end_stream { self.content(id, at..at, true) } else { None })
    }

    /// Content has come; `end` says that it is the last.
    fn content(&mut self, id: u32, range: std::ops::Range<usize>, end: bool) -> Option<Event> {
        let Some(stream) = self.streams.get(id) else {
            // Reset by the owner while the frame was coming in.
            self.release_connection(range.len());
            if end {
                self.resets.settle(id);
            }
            return None;
        };
        let (slot, discard) = (stream.slot, stream.discard);
        if end {
            self.end_receiving(id);
        }
        if discard {
            self.release(StreamId(id), range.len());
            return None;
        }
        Some(Event::Data { id: StreamId(id), slot, range, end_stream: end })
    }

    /// The priority scheme of RFC 7540 is gone from RFC 9113: what it says is checked and ignored.
    fn priority(
        &mut self,
        id: u32,
        payload: &[u8],
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        if !self.flood.priority_frame(&self.config.flood) {
            return Err(ConnectionCause::PriorityFlood);
        }
        if u32_at(payload) & STREAM_MASK == id {
            return self.invalid_priority(id, StreamCause::SelfDependency, now_ns);
        }
        Ok(None)
    }

    /// An error of a stream that may not have been opened yet, and then can't be reset.
    fn invalid_priority(
        &mut self,
        id: u32,
        cause: StreamCause,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        if self.is_unused(id) {
            return Err(match cause {
                StreamCause::PriorityLength => ConnectionCause::PriorityLength,
                _ => ConnectionCause::PriorityInvalid,
            });
        }
        self.stream_error(id, cause, now_ns)
    }

    fn rst_stream(
        &mut self,
        id: u32,
        reason: Reason,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        if self.is_unused(id) {
            return Err(ConnectionCause::StreamIdle);
        }
        self.counters.rx_reset += 1;
        self.count_reset(now_ns, ConnectionCause::RapidReset)?;
        let Some(stream) = self.streams.remove(id) else {
            self.resets.settle(id);
            return Ok(None);
        };
        let (id, slot) = (StreamId(id), stream.slot);
        Ok(Some(Event::Reset { id, slot, reason, by: ResetBy::Peer }))
    }

    fn settings_ack(&mut self) -> Result<Option<Event>, ConnectionCause> {
        self.settings_unacknowledged = self
            .settings_unacknowledged
            .checked_sub(1)
            .ok_or(ConnectionCause::SettingsAckUnexpected)?;
        self.decoder.on_settings_acknowledged();
        Ok(None)
    }

    fn settings(&mut self, payload: &[u8], now_ns: u64) -> Result<Option<Event>, ConnectionCause> {
        if !self.flood.settings_frame(now_ns, &self.config.flood) {
            return Err(ConnectionCause::SettingsFlood);
        }
        let before = self.peer;
        let first = !std::mem::replace(&mut self.peer_settled, true);
        if first {
            // Not limited unless it says so.
            self.peer.max_concurrent_streams = u32::MAX;
        }
        for setting in settings(payload) {
            self.peer.apply(self.role, setting)?;
            if setting.id == setting_id::HEADER_TABLE_SIZE {
                self.encoder.set_peer_table_size(setting.value);
            }
        }
        let opened = self.change_initial_window(before.initial_window)?;
        frame::put(&mut self.output, kind::SETTINGS, flag::ACK, 0, &[]);
        self.count_control_frame()?;
        let more_streams = self.peer.max_concurrent_streams > before.max_concurrent_streams;
        let tell = opened || (self.role == Role::Client && (first || more_streams));
        Ok(tell.then_some(Event::Writable))
    }

    /// The windows of all streams follow the peer's initial window (RFC 9113 section 6.9.2). True if
    /// one was shut and is open now.
    fn change_initial_window(&self, before: u32) -> Result<bool, ConnectionCause> {
        let base = self.peer.initial_window;
        if base <= before {
            return Ok(false);
        }
        let mut opened = false;
        for stream in self.streams.iter() {
            let available = stream.send.available(base);
            if available > i64::from(WINDOW_MAX) {
                return Err(ConnectionCause::WindowOverflow);
            }
            opened |= available > 0 && stream.send.available(before) <= 0;
        }
        Ok(opened)
    }

    fn ping_received(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        if head.has(flag::ACK) {
            return Ok(payload.first_chunk().map(|payload| Event::Pong(*payload)));
        }
        if !self.flood.ping_frame(now_ns, &self.config.flood) {
            return Err(ConnectionCause::PingFlood);
        }
        frame::put(&mut self.output, kind::PING, flag::ACK, 0, payload);
        self.count_control_frame()?;
        Ok(None)
    }

    fn goaway(&mut self, last: u32, reason: Reason) -> Result<Option<Event>, ConnectionCause> {
        // Towards a server it speaks of pushed streams, of which there are none.
        if self.role == Role::Client {
            if self.goaway_received.is_some_and(|before| last > before) {
                return Err(ConnectionCause::GoAwayRaised);
            }
            self.unprocessed = true;
        }
        self.goaway_received = Some(last);
        Ok(Some(Event::GoAway { last: StreamId(last), reason }))
    }

    /// Ends the next stream that the peer's GOAWAY excludes: it did nothing with it.
    fn next_unprocessed(&mut self) -> Option<Event> {
        let last = self.goaway_received?;
        let above = self.streams.iter().filter(|stream| stream.id > last);
        // In order, so that whoever tries again does so in the order of the requests.
        let Some(id) = above.map(|stream| stream.id).min() else {
            self.unprocessed = false;
            return None;
        };
        let slot = self.streams.remove(id)?.slot;
        let (id, reason) = (StreamId(id), Reason::REFUSED_STREAM);
        Some(Event::Reset { id, slot, reason, by: ResetBy::Peer })
    }

    fn window_update(
        &mut self,
        id: u32,
        increment: u32,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        if !self.flood.window_update(&self.config.flood) {
            return Err(ConnectionCause::WindowUpdateFlood);
        }
        if id == 0 {
            return self.connection_window_update(increment);
        }
        if self.is_unused(id) {
            return Err(ConnectionCause::StreamIdle);
        }
        if increment == 0 {
            return self.stream_error(id, StreamCause::WindowIncrementZero, now_ns);
        }
        let base = self.peer.initial_window;
        let Some(stream) = self.streams.get_mut(id) else { return Ok(None) };
        let shut = stream.send.available(base) <= 0;
        if !stream.send.grow(increment, base) {
            return self.stream_error(id, StreamCause::WindowOverflow, now_ns);
        }
        let opened = shut && stream.send.available(base) > 0 && !stream.sending_ended;
        let (id, slot) = (StreamId(id), stream.slot);
        Ok(opened.then_some(Event::StreamWritable { id, slot }))
    }

    fn connection_window_update(
        &mut self,
        increment: u32,
    ) -> Result<Option<Event>, ConnectionCause> {
        if increment == 0 {
            return Err(ConnectionCause::WindowIncrementZero);
        }
        let shut = self.connection_capacity() <= 0;
        if !self.grow_connection_window(increment) {
            return Err(ConnectionCause::WindowOverflow);
        }
        Ok((shut && self.connection_capacity() > 0).then_some(Event::Writable))
    }

    /// Resets a stream for what the peer did with it, and tells its owner if it has one.
    pub(super) fn stream_error(
        &mut self,
        id: u32,
        cause: StreamCause,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        let stream = self.streams.remove(id);
        if stream.is_some_and(|stream| !stream.is_ended()) {
            self.resets.remember(id);
        }
        self.refuse_frame(id, cause, now_ns)?;
        Ok(stream.map(|stream| Event::Reset {
            id: StreamId(id),
            slot: stream.slot,
            reason: cause.reason(),
            by: ResetBy::Us(cause),
        }))
    }

    /// Answers a frame with RST_STREAM. Each counts as a reset, since a peer that provokes them makes
    /// us work like one that resets its streams itself.
    pub(super) fn refuse_frame(
        &mut self,
        id: u32,
        cause: StreamCause,
        now_ns: u64,
    ) -> Result<(), ConnectionCause> {
        self.put_reset(id, cause.reason());
        self.check_control_frames()?;
        self.count_reset(
            now_ns,
            match cause {
                StreamCause::Refused => ConnectionCause::StreamLimitAbuse,
                _ => ConnectionCause::RapidReset,
            },
        )
    }

    /// A malformed message: ends its stream, or the connection if it is set so.
    pub(super) fn message_error(
        &mut self,
        id: u32,
        error: MessageError,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        self.counters.rx_messaging_error += 1;
        if !self.config.stream_error_on_invalid {
            return Err(ConnectionCause::MessageInvalid(error));
        }
        self.stream_error(id, StreamCause::MessageInvalid(error), now_ns)
    }

    /// The peer has ended its side of a stream; if ours is ended too, the stream is gone.
    pub(super) fn end_receiving(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.receiving = Receiving::Ended;
        if stream.sending_ended {
            self.streams.remove(id);
        }
    }

    /// Whether nobody has opened the stream yet ("idle" in RFC 9113 section 5.1).
    pub(super) fn is_unused(&self, id: u32) -> bool {
        let by_client = id % 2 == 1;
        match (self.role, by_client) {
            (Role::Server, true) => id > self.peer_last,
            (Role::Client, true) => id >= self.local_next,
            // Nobody pushes.
            (_, false) => true,
        }
    }

    /// Whether a stream of the peer's came after the GOAWAY that said it wouldn't be served.
    pub(super) fn is_refused_by_goaway(&self, id: u32) -> bool {
        self.role == Role::Server && self.goaway_sent.is_some_and(|last| id > last)
    }

    /// A client that resets streams, or provokes resets, makes servers work for nothing. What servers
    /// reset is work of theirs.
    fn count_reset(&mut self, now_ns: u64, cause: ConnectionCause) -> Result<(), ConnectionCause> {
        if self.role == Role::Server && !self.flood.reset(now_ns, &self.config.flood) {
            return Err(cause);
        }
        Ok(())
    }

    fn count_control_frame(&mut self) -> Result<(), ConnectionCause> {
        self.note_control_frame();
        self.check_control_frames()
    }

    /// While nobody takes the output, a peer that makes us answer makes us keep the answers.
    fn check_control_frames(&self) -> Result<(), ConnectionCause> {
        match self.control_frames_waiting > self.config.flood.control_frames_queued {
            true => Err(ConnectionCause::ControlFrameFlood),
            false => Ok(()),
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
