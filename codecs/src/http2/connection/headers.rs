//! Header blocks: HEADERS and CONTINUATION, and what they start, answer or end.
//!
//! Every block is decoded, also those of streams that are refused, closed or unknown: the decoder
//! must see what the peer's encoder has seen (RFC 9113 section 4.3). Only a connection error stops
//! that.

use super::super::config::Role;
use super::super::error::{ConnectionCause, StreamCause};
use super::super::event::{Event, StreamId};
use super::super::frame::{FrameHead, STREAM_MASK, flag, u32_at};
use super::super::hpack::Outcome;
use super::super::message::{self, MessageError, check_request, check_response, check_trailers};
use super::super::streams::{LENGTH_UNKNOWN, Receiving, Stream};
use super::Connection;

/// A header block under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Heading {
    /// The stream.
    pub stream: u32,
    /// The block ends the stream.
    pub end_stream: bool,
    /// It says that the stream depends on itself.
    pub self_dependent: bool,
    /// CONTINUATION frames so far.
    pub continuations: u32,
}

impl Connection {
    pub(super) fn headers(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        // Before anything is decoded: an id that can't be used at all. Servers may not open streams,
        // and clients open odd ones only.
        if head.stream.is_multiple_of(2) {
            return Err(ConnectionCause::StreamIdInvalid);
        }
        if self.role == Role::Client && self.is_unused(head.stream) {
            return Err(ConnectionCause::StreamIdle);
        }
        let (fragment, dependency) = fragment(head, payload)?;
        let end_stream = head.has(flag::END_STREAM);
        self.check_message_frame(fragment.is_empty() && !end_stream)?;
        let heading = Heading {
            stream: head.stream,
            end_stream,
            self_dependent: dependency == Some(head.stream),
            continuations: 0,
        };
        if head.has(flag::END_HEADERS) {
            return self.block_complete(heading, fragment, now_ns);
        }
        self.fragments.extend_from_slice(fragment);
        self.heading = Some(heading);
        Ok(None)
    }

    pub(super) fn continuation(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        self.check_message_frame(payload.is_empty())?;
        self.fragments.extend_from_slice(payload);
        let Some(heading) = &mut self.heading else {
            return Err(ConnectionCause::ContinuationUnexpected);
        };
        heading.continuations += 1;
        if !head.has(flag::END_HEADERS) {
            return Ok(None);
        }
        let heading = *heading;
        self.heading = None;
        // Blocks in pieces are rare and may be large: their room is not kept.
        let block = std::mem::take(&mut self.fragments);
        self.block_complete(heading, &block, now_ns)
    }

    /// Refuses a CONTINUATION that comes out of place or is one too many, by its head.
    pub(super) fn check_continuation(&self, head: FrameHead) -> Result<(), ConnectionCause> {
        let heading = self.heading.as_ref().ok_or(ConnectionCause::ContinuationUnexpected)?;
        if heading.continuations >= self.continuations_max() {
            return Err(ConnectionCause::ContinuationFlood);
        }
        self.check_block_size(head.len)
    }

    /// Bounds what a header block in pieces may make us keep.
    pub(super) fn check_block_size(&self, more: u32) -> Result<(), ConnectionCause> {
        if self.fragments.len() + more as usize > self.block_bytes_max() {
            return Err(ConnectionCause::HeaderBlockTooLarge);
        }
        Ok(())
    }

    /// Twice what the field section may be, and one frame: a section that is too large, but not
    /// absurdly so, is decoded and gets an answer.
    fn block_bytes_max(&self) -> usize {
        self.config.list.bytes_max.saturating_mul(2).saturating_add(1 << 14)
    }

    /// Room for a block of that size in frames of 4 KiB, and a few for a small one in small pieces.
    fn continuations_max(&self) -> u32 {
        u32::try_from(self.block_bytes_max() / (1 << 12)).unwrap_or(u32::MAX).saturating_add(8)
    }

    fn check_message_frame(&mut self, empty: bool) -> Result<(), ConnectionCause> {
        match self.flood.message_frame(empty, &self.config.flood) {
            true => Ok(()),
            false => Err(ConnectionCause::EmptyFrameFlood),
        }
    }

    fn block_complete(
        &mut self,
        heading: Heading,
        block: &[u8],
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        let id = heading.stream;
        let outcome = self
            .decoder
            .decode(block, self.config.list, &mut self.block)
            .map_err(ConnectionCause::Compression)?;
        if self.role == Role::Server && id > self.peer_last {
            return self.request(heading, outcome, now_ns);
        }
        let Some(&stream) = self.streams.get(id) else {
            return self.headers_on_closed(heading).map(|()| None);
        };
        if stream.is_ended() {
            return self.stream_error(id, StreamCause::FrameOnClosedStream, now_ns);
        }
        if heading.self_dependent {
            return self.stream_error(id, StreamCause::SelfDependency, now_ns);
        }
        match stream.receiving {
            Receiving::Head => self.response(heading, outcome, &stream, now_ns),
            _ => self.trailers(heading, outcome, &stream, now_ns),
        }
    }

    /// A client opens a stream (RFC 9113 section 5.1.1).
    fn request(
        &mut self,
        heading: Heading,
        outcome: Outcome,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        let Heading { stream: id, end_stream, .. } = heading;
        if id != self.peer_last + 2 && (id, self.peer_last) != (1, 0) {
            self.peer_unbroken_from = id;
        }
        self.peer_last = id;
        self.flood.streams_opened += 1;
        if self.is_refused_by_goaway(id) {
            return Ok(None);
        }
        if heading.self_dependent {
            return self.refuse_request(heading, StreamCause::SelfDependency, now_ns);
        }
        if self.streams.len() >= self.config.max_concurrent_streams as usize {
            self.counters.stream_refused += 1;
            return self.refuse_request(heading, StreamCause::Refused, now_ns);
        }
        let receiving = if end_stream { Receiving::Ended } else { Receiving::Content };
        let mut stream = Stream::new(id, receiving, self.config.initial_stream_window);
        let checked = match outcome {
            Outcome::TooLarge => {
                self.counters.header_overflow += 1;
                stream.discard = true;
                self.streams.insert(stream);
                return Ok(Some(Event::Malformed { id: StreamId(id), status: 431 }));
            }
            Outcome::Malformed => Err(MessageError::FieldInvalid),
            Outcome::Complete => {
                check_request(&self.block, end_stream, self.config.enable_connect_protocol)
            }
        };
        let facts = match checked {
            Ok(facts) => facts,
            Err(error) => {
                if !end_stream && self.config.stream_error_on_invalid {
                    self.resets.remember(id);
                }
                return self.message_error(id, error, now_ns);
            }
        };
        if facts.cookies > 1 {
            let crumbs = self.crumbs.get_or_insert_default();
            message::join_cookies(&mut self.block, &mut crumbs.joined, &mut crumbs.value);
        }
        stream.content_left = facts.content_length.unwrap_or(LENGTH_UNKNOWN);
        let slot = self.streams.insert(stream).slot;
        Ok(Some(Event::Headers { id: StreamId(id), slot, end_stream }))
    }

    /// Refuses a stream that nobody has heard of.
    fn refuse_request(
        &mut self,
        heading: Heading,
        cause: StreamCause,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        if !heading.end_stream {
            self.resets.remember(heading.stream);
        }
        self.refuse_frame(heading.stream, cause, now_ns)?;
        Ok(None)
    }

    /// A server answers, for now or for good (RFC 9113 section 8.1).
    fn response(
        &mut self,
        heading: Heading,
        outcome: Outcome,
        stream: &Stream,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        let Heading { stream: id, end_stream, .. } = heading;
        let checked = match outcome {
            Outcome::TooLarge => return self.section_too_large(id, now_ns),
            Outcome::Malformed => Err(MessageError::FieldInvalid),
            Outcome::Complete => check_response(&self.block, end_stream, stream.method),
        };
        let facts = match checked {
            Ok(facts) => facts,
            Err(error) => return self.message_error(id, error, now_ns),
        };
        if end_stream {
            self.end_receiving(id);
        } else if !facts.interim
            && let Some(stream) = self.streams.get_mut(id)
        {
            stream.receiving = Receiving::Content;
            stream.content_left = facts.content_length.unwrap_or(LENGTH_UNKNOWN);
        }
        Ok(Some(Event::Headers { id: StreamId(id), slot: stream.slot, end_stream }))
    }

    /// A second field section ends the message.
    fn trailers(
        &mut self,
        heading: Heading,
        outcome: Outcome,
        stream: &Stream,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        let id = heading.stream;
        if stream.discard && heading.end_stream {
            self.end_receiving(id);
            return Ok(None);
        }
        let mut rest = *stream;
        let checked = match outcome {
            _ if !heading.end_stream => Err(MessageError::EndMissing),
            Outcome::TooLarge => return self.section_too_large(id, now_ns),
            Outcome::Malformed => Err(MessageError::FieldInvalid),
            Outcome::Complete => rest.content(0, true).and_then(|()| check_trailers(&self.block)),
        };
        if let Err(error) = checked {
            return self.message_error(id, error, now_ns);
        }
        self.counters.trailers += 1;
        self.end_receiving(id);
        Ok(Some(Event::Trailers { id: StreamId(id), slot: stream.slot }))
    }

    fn section_too_large(
        &mut self,
        id: u32,
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
        self.counters.header_overflow += 1;
        self.stream_error(id, StreamCause::HeaderListTooLarge, now_ns)
    }

    /// HEADERS for a stream that is closed: under way when we reset it, or an error.
    fn headers_on_closed(&mut self, heading: Heading) -> Result<(), ConnectionCause> {
        let id = heading.stream;
        if self.is_refused_by_goaway(id) || self.resets.excuses(id) {
            if heading.end_stream {
                self.resets.settle(id);
            }
            return Ok(());
        }
        // Ids that were skipped can't be used any more (RFC 9113 section 5.1.1); ids that were used
        // have been ended or reset by the peer itself, which knows that nothing may follow.
        match self.role == Role::Server && id < self.peer_unbroken_from {
            true => Err(ConnectionCause::StreamIdInvalid),
            false => Err(ConnectionCause::HeadersOnClosedStream),
        }
    }
}

/// Takes padding and priority off the payload of HEADERS; what remains is a piece of the header block,
/// and the stream that it depends on, if it says so.
fn fragment(head: FrameHead, payload: &[u8]) -> Result<(&[u8], Option<u32>), ConnectionCause> {
    let mut rest = payload;
    let mut padding = 0;
    if head.has(flag::PADDED) {
        let (&len, after) = rest.split_first().ok_or(ConnectionCause::FrameTooShort)?;
        (padding, rest) = (usize::from(len), after);
    }
    let mut dependency = None;
    if head.has(flag::PRIORITY) {
        let (fields, after) =
            rest.split_at_checked(PRIORITY_FIELDS_LEN).ok_or(ConnectionCause::FrameTooShort)?;
        (dependency, rest) = (Some(u32_at(fields) & STREAM_MASK), after);
    }
    let len = rest.len().checked_sub(padding).ok_or(ConnectionCause::PaddingTooLong)?;
    Ok((&rest[..len], dependency))
}

/// The dependency and the weight.
const PRIORITY_FIELDS_LEN: usize = 5;
