//! What a mistake of the peer leads to, and which streams its frames may name.

use super::super::config::Role;
use super::super::error::{ConnectionCause, StreamCause};
use super::super::event::{Event, ResetBy, StreamId};
use super::super::message::MessageError;
use super::super::streams::Receiving;
use super::Connection;

impl Connection {
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
        self.count_control_frame()?;
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
    pub(super) fn count_reset(
        &mut self,
        now_ns: u64,
        cause: ConnectionCause,
    ) -> Result<(), ConnectionCause> {
        if self.role == Role::Server && !self.flood.reset(now_ns, &self.config.flood) {
            return Err(cause);
        }
        Ok(())
    }

    /// Counts an answer that was put in the output. While nobody takes that, a peer that makes us answer
    /// makes us keep the answers.
    pub(super) fn count_control_frame(&mut self) -> Result<(), ConnectionCause> {
        self.counters.control_frames_queued += 1;
        self.control_frames_waiting += 1;
        match self.control_frames_waiting > self.config.flood.control_frames_queued {
            true => Err(ConnectionCause::ControlFrameFlood),
            false => Ok(()),
        }
    }
}
