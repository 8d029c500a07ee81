//! The frames that carry no message: SETTINGS, PING, GOAWAY, WINDOW_UPDATE, RST_STREAM and PRIORITY.
//!
//! Each costs us more than the peer, so each has its limit in [`FloodCounts`](super::FloodCounts) or
//! in the answers that may wait.

use super::super::config::Role;
use super::super::error::{ConnectionCause, Reason, StreamCause};
use super::super::event::{Event, ResetBy, StreamId};
use super::super::flow::WINDOW_MAX;
use super::super::frame::{self, FrameHead, STREAM_MASK, flag, kind, u32_at};
use super::super::settings::{id as setting_id, settings};
use super::Connection;

impl Connection {
    /// The priority scheme of RFC 7540 is gone from RFC 9113: what it says is checked and ignored.
    pub(super) fn priority(
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
    pub(super) fn invalid_priority(
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

    pub(super) fn rst_stream(
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

    pub(super) fn settings_ack(&mut self) -> Result<Option<Event>, ConnectionCause> {
        self.settings_unacknowledged = self
            .settings_unacknowledged
            .checked_sub(1)
            .ok_or(ConnectionCause::SettingsAckUnexpected)?;
        self.decoder.on_settings_acknowledged();
        Ok(None)
    }

    pub(super) fn settings(
        &mut self,
        payload: &[u8],
        now_ns: u64,
    ) -> Result<Option<Event>, ConnectionCause> {
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
    pub(super) fn change_initial_window(&self, before: u32) -> Result<bool, ConnectionCause> {
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

    pub(super) fn ping_received(
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

    pub(super) fn goaway(
        &mut self,
        last: u32,
        reason: Reason,
    ) -> Result<Option<Event>, ConnectionCause> {
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
    pub(super) fn next_unprocessed(&mut self) -> Option<Event> {
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

    pub(super) fn window_update(
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

    pub(super) fn connection_window_update(
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
}
