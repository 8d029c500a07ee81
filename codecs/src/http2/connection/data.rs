//! DATA frames: windows, padding, Content-Length, and content passed on as it comes.
//!
//! A frame is taken out of the windows as a whole when its head comes. From then on every byte of it
//! is credited to the connection once: padding and what nobody wants by the codec, the rest by the
//! owner.

use std::ops::Range;

use super::super::error::{ConnectionCause, StreamCause};
use super::super::event::{Event, StreamId};
use super::super::frame::{FrameHead, flag};
use super::{Connection, Reading};

impl Connection {
    /// DATA: takes the whole frame out of the windows, and finds out whether anyone wants it.
    pub(super) fn data(
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

    /// The content of a DATA frame begins, now that the length of its padding is known if it has any:
    /// checks it against Content-Length and credits the padding. `at` is where it begins in the input.
    pub(super) fn content_start(
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
    pub(super) fn content(&mut self, id: u32, range: Range<usize>, end: bool) -> Option<Event> {
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
}
