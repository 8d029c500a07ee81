//! A downstream HTTP/2 connection: many exchanges at a time, each on its stream.
//!
//! | phase | means | ends with |
//! |---|---|---|
//! | `Open` | streams come and go | an error, the client's end, or a drain that is done |
//! | `Flushing` | the last bytes are on their way, FIN behind them | sent, or a timeout |
//! | `Lingering` | FIN is sent; what still comes is discarded | the peer's FIN, or a timeout |
//! | `Leaving` | without a stream, on the way to a successor | given away, or `Open` again |
//!
//! The connection's task reads frames, lets every exchange go on for which something changed, and
//! sends what they queued, in turns. A drain has two steps (RFC 9113 section 6.8): a GOAWAY that
//! promises to take every stream on its way here, and, a while later, one that says where it ends.
//! Invariant: a stream that stops, stops neither the others nor the reading of frames.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use outrigger_codecs::http::{FieldStorage, RequestHead, Version};
use outrigger_codecs::http2::{
    Config, Connection, Event, Reason, Role, StreamId, UpgradeSettings, request_head,
};

use outrigger_upgrade::record::{Http2Record, ProtocolRecord};

use crate::access_log::ResponseFlags;
use crate::buffers::Chunk;
use crate::connection::moving::Leave;
use crate::connection::{Admitted, ConnectionGuard, ConnectionInfo};
use crate::http::begin::{Arrival, Begun, begin};
use crate::http::downstream::{Downstream, Side};
use crate::http::exchange::{Exchange, Progress};
use crate::http::kept_head::HeadSource;
use crate::http::reply::Reply;
use crate::http::{ConnectionMeter, HttpRuntime, NANOS_PER_MS, after, earliest, max_age};
use crate::http2::{Keepalive, Link, Pumped, ReadySet, Verdict, codec_config, moving};
use crate::ring::{Received, Watermarks};
use crate::shard::Shard;
use crate::timer::{Nanos, Timer};
use crate::transport::Transport;

use super::side::{Core, Stream};

/// The task of one downstream connection.
pub struct Http2Connection {
    shard: Rc<Shard>,
    http: Rc<HttpRuntime>,
    info: ConnectionInfo,
    core: Core,
    timer: Timer,
    marks: Watermarks,
    phase: Phase,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Streams in use.
    active: u32,
    ready: Option<Arc<ReadySet>>,
    requests: u32,
    /// Since when the present phase lasts; while open, since when there is no stream.
    since: Nanos,
    max_age_at: Option<Nanos>,
    drain: Drain,
    /// When it is asked to go, if it can't move until then because it is never without a stream.
    leave_by: Option<Nanos>,
    keepalive: Option<Keepalive>,
    /// The request that came with an upgrade from HTTP/1, until the task runs.
    first: Option<FirstRequest>,
    meter: ConnectionMeter,
    guard: ConnectionGuard,
}

/// A request that came on HTTP/1 and asked to go on in HTTP/2.
struct FirstRequest {
    exchange: Box<Exchange>,
    begun: Begun,
    id: StreamId,
}

/// One stream and its exchange.
struct Slot {
    stream: Stream,
    exchange: Option<Box<Exchange>>,
    /// The exchange is over, but the client has not sent all of the request.
    stops: bool,
    waker: Waker,
    timer: Timer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Flushing,
    Lingering,
    Leaving,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    /// The first GOAWAY is sent; the second is due at this time.
    Announced(Nanos),
    /// No new stream is taken.
    Final,
}

impl Http2Connection {
    /// Serves a connection.
    pub fn new(
        shard: &Rc<Shard>,
        http: &Rc<HttpRuntime>,
        admitted: Admitted,
        meter: ConnectionMeter,
    ) -> Self {
        http.stats.downstream_cx_http2_total.inc();
        let codec = Connection::new(Role::Server, server_config(http));
        Self::with_codec(shard, http, admitted, meter, codec, 0)
    }

    /// Goes on with a connection of a predecessor, whose codec was restored.
    pub fn adopt(
        shard: &Rc<Shard>,
        http: &Rc<HttpRuntime>,
        admitted: Admitted,
        meter: ConnectionMeter,
        Restored { codec, requests }: Restored,
    ) -> Self {
        Self::with_codec(shard, http, admitted, meter, *codec, requests)
    }

    fn with_codec(
        shard: &Rc<Shard>,
        http: &Rc<HttpRuntime>,
        admitted: Admitted,
        meter: ConnectionMeter,
        codec: Connection,
        requests: u32,
    ) -> Self {
        let Admitted { transport, info, marks, guard } = admitted;
        info.leaving.set_able(matches!(transport, Transport::Plain(_)));
        let now = shard.clock.now();
        let config = &http.config;
        http.stats.downstream_cx_http2_active.inc();
        transport.start();
        Self {
            core: Core { link: Link::new(codec, transport, marks), sending: VecDeque::new() },
            timer: shard.timers.timer(),
            marks,
            phase: Phase::Open,
            slots: Vec::new(),
            free: Vec::new(),
            active: 0,
            ready: None,
            requests,
            since: now,
            max_age_at: max_age(&config.timeouts, now, shard.random())
                .map(|at| at.saturating_sub(guard.age())),
            drain: Drain::No,
            leave_by: None,
            keepalive: config
                .http2
                .keepalive
                .map(|keepalive| Keepalive::new(keepalive, now, shard.random())),
            first: None,
            meter,
            shard: Rc::clone(shard),
            http: Rc::clone(http),
            info,
            guard,
        }
    }

    /// Goes on with a request that came on HTTP/1 and asked for HTTP/2 (RFC 7540 section 3.2): its
    /// answer goes out on stream 1.
    pub fn accept_upgrade(&mut self, settings: &UpgradeSettings, head: &RequestHead<'_, '_>) {
        let id = self.core.link.codec.accept_upgrade(settings);
        let head = RequestHead {
            version: Version::Http2,
            upgrade: None,
            connection: outrigger_codecs::http::ConnectionOptions::default(),
            ..head.clone()
        };
        let mut exchange = Exchange::take(&self.shard);
        let begun = self.begin(&head, None, &mut exchange);
        self.first = Some(FirstRequest { exchange, begun, id });
    }

    fn watch(&mut self, waker: &Waker) {
        self.ready = Some(ReadySet::new(waker));
        self.core.link.transport.register(waker);
        self.timer.register(waker);
        self.guard.wake_at_drain(waker);
        if let Some(FirstRequest { exchange, begun, id }) = self.first.take() {
            self.start(id, true, exchange, begun);
        }
    }

    /// Does what can be done, and says whether the connection is over.
    fn run(&mut self, waker: &Waker) -> bool {
        let mut fired = self.timer.take_fired();
        loop {
            let moved_on = match self.phase {
                Phase::Open => self.serve(fired),
                Phase::Flushing => self.flush(fired),
                Phase::Lingering => self.linger(fired),
                Phase::Leaving => self.leave(waker),
                Phase::Closed => return true,
            };
            if !moved_on {
                if self.phase == Phase::Open && self.may_leave() {
                    self.phase = Phase::Leaving;
                    continue;
                }
                self.timer.set(self.deadline());
                return false;
            }
            fired = false;
        }
    }

    // ---- open --------------------------------------------------------------------------------------

    /// True when the phase changed.
    fn serve(&mut self, timer_fired: bool) -> bool {
        if self.core.link.transport.send_error().is_some() {
            self.abandon();
            return self.enter(Phase::Closed);
        }
        let received = self.receive();
        self.advance_ready();
        self.count();
        if received.is_err() {
            self.abandon();
            return match received {
                Err(Lost::ByUs) => self.close(),
                _ => self.enter(Phase::Closed),
            };
        }
        if timer_fired && !self.check_timers() {
            return true;
        }
        self.check_drain();
        // What was sent may let exchanges go on, until the transport or a window is full.
        while self.send() {
            self.advance_ready();
        }
        if self.drain == Drain::Final && self.active == 0 {
            return self.close();
        }
        false
    }

    /// Reads frames.
    fn receive(&mut self) -> Result<(), Lost> {
        let now = self.shard.clock.now();
        loop {
            if self.core.link.is_congested() {
                // A client that sends must also read.
                return Ok(());
            }
            let mut chunk = match self.core.link.transport.receive() {
                Received::Chunk(chunk) => chunk,
                Received::None => return Ok(()),
                Received::End | Received::Failed(_) => return Err(Lost::ByPeer),
            };
            if let Some(keepalive) = &mut self.keepalive {
                keepalive.heard();
            }
            loop {
                let step = match self.core.link.codec.receive(&chunk, now) {
                    Ok(step) => step,
                    Err(error) => {
                        self.http.stats.downstream_cx_protocol_error.inc();
                        log::debug!(
                            target: "http", "connection {}: {error}", self.info.id
                        );
                        return Err(Lost::ByUs);
                    }
                };
                let idle = step.consumed == 0 && step.event.is_none();
                if let Some(event) = step.event {
                    self.handle(event, &chunk);
                }
                chunk.advance(step.consumed);
                if idle {
                    break;
                }
            }
        }
    }

    fn handle(&mut self, event: Event, chunk: &Chunk) {
        match event {
            Event::Headers { id, end_stream, .. } => self.take_request(id, end_stream),
            Event::Malformed { id, status } => self.refuse(id, status),
            Event::Trailers { id, slot } => {
                let mut trailers = Box::default();
                self.core.link.codec.swap_block(&mut trailers);
                if let Some(stream) = self.stream(id, slot) {
                    stream.trailers = Some(trailers);
                    stream.ended = true;
                    self.note(slot);
                }
            }
            Event::Data { id, slot, range, end_stream } => {
                let data = chunk.slice(range);
                let len = data.len();
                let shard = Rc::clone(&self.shard);
                match self.stream(id, slot) {
                    Some(stream) if !stream.reset => {
                        stream.inbox.push(&shard.arena, data);
                        stream.ended |= end_stream;
                        self.note(slot);
                    }
                    _ => self.core.link.codec.release(id, len),
                }
            }
            Event::Reset { id, slot, .. } => {
                if let Some(stream) = self.stream(id, slot) {
                    stream.reset = true;
                    self.note(slot);
                }
            }
            Event::Writable => {
                for slot in 0..self.slots.len() as u32 {
                    self.list(slot);
                }
            }
            Event::StreamWritable { id, slot } => {
                if self.stream(id, slot).is_some() {
                    self.list(slot);
                }
            }
            Event::GoAway { .. } | Event::Pong(_) => {}
        }
    }

    fn take_request(&mut self, id: StreamId, end_stream: bool) {
        self.requests += 1;
        let mut exchange = Exchange::take(&self.shard);
        let mut storage = FieldStorage::new();
        let block = self.core.link.codec.block();
        let begun = match request_head(block, end_stream, &mut storage) {
            Ok(head) => self.begin(&head, Some(HeadSource::Block(block)), &mut exchange),
            Err(error) => {
                exchange.begin_unread(&self.shard);
                let flags = ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
                let reply = Reply::text(error.status(), "", flags, "http2.invalid.header.field");
                Begun::Answered(reply)
            }
        };
        drop(storage);
        self.start(id, end_stream, exchange, begun);
    }

    fn begin(
        &self,
        head: &RequestHead<'_, '_>,
        source: Option<HeadSource<'_>>,
        exchange: &mut Exchange,
    ) -> Begun {
        let arrival = Arrival { shard: &self.shard, http: &self.http, info: &self.info };
        begin(&arrival, head, source, exchange)
    }

    /// Gives a new stream its slot and its exchange a start.
    fn start(&mut self, id: StreamId, ended: bool, mut exchange: Box<Exchange>, begun: Begun) {
        let Some(index) = self.take_slot() else { return };
        self.core.link.codec.set_slot(id, index);
        let slot = &mut self.slots[index as usize];
        slot.stream.id = Some(id);
        slot.stream.ended = ended;
        slot.stops = false;
        self.active += 1;
        let mut down = lend(
            &self.shard,
            &self.http,
            &self.info,
            self.marks,
            &mut self.core,
            &mut slot.stream,
            &slot.waker,
            index,
        );
        exchange.start(&mut down, begun);
        slot.exchange = Some(exchange);
        self.note(index);
    }

    /// A slot for a stream: a free one, or a new one.
    fn take_slot(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = self.slots.len();
        let waker = self.ready.as_ref()?.waker(index);
        let timer = self.shard.timers.timer();
        timer.register(&waker);
        self.slots.push(Slot {
            stream: Stream::default(),
            exchange: None,
            stops: false,
            waker,
            timer,
        });
        Some(index as u32)
    }

    /// Answers a request that can't be read.
    fn refuse(&mut self, id: StreamId, status: u16) {
        if status == 431 {
            self.http.stats.downstream_rq_too_large.inc();
        }
        let mut exchange = Exchange::take(&self.shard);
        exchange.begin_unread(&self.shard);
        let flags = ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
        let reply = Reply::text(status, "", flags, "http2.invalid.header.field");
        self.start(id, true, exchange, Begun::Answered(reply));
        if let Some(slot) = self.core.link.codec.slot(id) {
            self.slots[slot as usize].stops = true;
        }
    }

    /// The stream in `slot`, if it still is stream `id`.
    fn stream(&mut self, id: StreamId, slot: u32) -> Option<&mut Stream> {
        let slot = self.slots.get_mut(slot as usize)?;
        (slot.stream.id == Some(id)).then_some(&mut slot.stream)
    }

    fn note(&self, slot: u32) {
        if let Some(ready) = &self.ready {
            ready.note(slot as usize);
        }
    }

    /// Puts a stream that has something to send on the list.
    fn list(&mut self, slot: u32) {
        let outbox = &mut self.slots[slot as usize].stream.outbox;
        if outbox.is_due() && !outbox.listed {
            outbox.listed = true;
            self.core.sending.push_back(slot);
        }
    }

    /// Lets every exchange go on for which something changed.
    fn advance_ready(&mut self) {
        let Some(ready) = self.ready.clone() else { return };
        for word in 0..ReadySet::PLACES / 64 {
            let mut noted = ready.take(word);
            while noted != 0 {
                let place = word * 64 + noted.trailing_zeros() as usize;
                noted &= noted - 1;
                for index in (place..self.slots.len()).step_by(ReadySet::PLACES) {
                    self.advance(index as u32);
                }
            }
        }
    }

    fn advance(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(mut exchange) = slot.exchange.take() else {
            self.check_flush(index);
            return;
        };
        let fired = slot.timer.take_fired();
        let mut down = lend(
            &self.shard,
            &self.http,
            &self.info,
            self.marks,
            &mut self.core,
            &mut slot.stream,
            &slot.waker,
            index,
        );
        let progress = exchange.advance(&mut down, fired);
        if progress == Progress::Pending {
            slot.timer.set(exchange.deadline());
            slot.exchange = Some(exchange);
            return;
        }
        let reason = if exchange.was_cancelled() { Reason::CANCEL } else { Reason::INTERNAL_ERROR };
        exchange.finish(&down, progress);
        slot.timer.set(None);
        match progress {
            Progress::KeepAlive => {}
            Progress::Close => slot.stops = !slot.stream.ended,
            Progress::Reset => {
                if let Some(id) = slot.stream.id
                    && !slot.stream.reset
                {
                    self.core.link.codec.reset(id, reason);
                }
                slot.stream.reset = true;
            }
            Progress::Gone | Progress::Pending => slot.stream.reset = true,
        }
        if slot.stream.reset || slot.stream.outbox.is_ended() {
            self.release(index);
        } else {
            // The rest waits for the client, but not for ever.
            let timeouts = &self.http.config.timeouts;
            let limit = timeouts.stream_flush.or(timeouts.stream_idle);
            slot.timer.set(after(self.shard.clock.now(), limit));
        }
    }

    /// Looks at a stream whose exchange is over: it is gone, or its client did not read the rest of
    /// the response in time.
    fn check_flush(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(id) = slot.stream.id else { return };
        if slot.timer.take_fired() && !slot.stream.reset && !slot.stream.outbox.is_ended() {
            self.http.http2_stats.tx_flush_timeout.inc();
            self.core.link.codec.reset(id, Reason::CANCEL);
            slot.stream.reset = true;
        }
        if slot.stream.reset {
            self.release(index);
        }
    }

    /// Frees the slot of a stream that is over.
    fn release(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(id) = slot.stream.id.take() else { return };
        let unread = slot.stream.inbox.clear();
        if unread > 0 {
            self.core.link.codec.release(id, unread);
        }
        if slot.stops && !slot.stream.reset {
            // The answer is out; the rest of the request is not wanted (RFC 9113 section 8.1).
            self.core.link.codec.reset(id, Reason::NO_ERROR);
        }
        if slot.stream.outbox.listed {
            self.core.sending.retain(|listed| *listed != index);
        }
        slot.stream.outbox.clear();
        slot.stream.ended = false;
        slot.stream.reset = false;
        slot.stream.trailers = None;
        slot.timer.set(None);
        self.free.push(index);
        self.active -= 1;
        if self.active == 0 {
            self.since = self.shard.clock.now();
        }
    }

    /// Sends what streams have queued, in turns. True when that made room that an exchange waits for.
    fn send(&mut self) -> bool {
        let mut made_room = false;
        let shard = Rc::clone(&self.shard);
        let arena = &shard.arena;
        while let Some(index) = self.core.sending.pop_front() {
            let slot = &mut self.slots[index as usize];
            let Some(id) = slot.stream.id else {
                slot.stream.outbox.listed = false;
                continue;
            };
            let pumped = self.core.link.pump(arena, id, &mut slot.stream.outbox);
            if slot.stream.outbox.takes_more() {
                made_room = true;
                self.note(index);
            }
            let slot = &mut self.slots[index as usize];
            match pumped {
                Pumped::Done | Pumped::NoWindow => slot.stream.outbox.listed = false,
                Pumped::Turn => self.core.sending.push_back(index),
                Pumped::Congested => {
                    self.core.sending.push_front(index);
                    break;
                }
            }
            if slot.exchange.is_none() && slot.stream.outbox.is_ended() {
                self.release(index);
            }
        }
        self.core.link.flush(arena);
        self.core.link.transport.flush();
        made_room
    }

    // ---- timers and drain ----------------------------------------------------------------------------

    /// False when the phase changed.
    fn check_timers(&mut self) -> bool {
        let now = self.shard.clock.now();
        let random = self.shard.random();
        match self.keepalive.as_mut().map_or(Verdict::Fine, |alive| alive.check(now, random)) {
            Verdict::Fine => {}
            Verdict::Ping => self.core.link.codec.ping(now.to_be_bytes()),
            Verdict::Dead => {
                self.http.http2_stats.keepalive_timeout.inc();
                self.abandon();
                self.enter(Phase::Closed);
                return false;
            }
        }
        let idle_at = after(self.since, self.http.config.timeouts.idle);
        if self.active == 0 {
            if self.since + SHRINK_AFTER <= now {
                self.shrink();
            }
            if self.drain == Drain::No && idle_at.is_some_and(|at| at <= now) {
                self.http.stats.downstream_cx_idle_timeout.inc();
                self.begin_drain();
            }
        }
        if self.drain == Drain::No && self.max_age_at.is_some_and(|at| at <= now) {
            self.http.stats.downstream_cx_max_duration_reached.inc();
            self.begin_drain();
        }
        if matches!(self.drain, Drain::Announced(at) if at <= now) {
            self.core.link.codec.shutdown();
            self.drain = Drain::Final;
        }
        true
    }

    fn check_drain(&mut self) {
        if self.drain != Drain::No {
            return;
        }
        let limit = self.http.config.limits.max_requests_per_connection;
        if limit.is_some_and(|limit| self.requests >= limit) {
            self.http.stats.downstream_cx_max_requests_reached.inc();
            self.begin_drain();
        } else if self.info.is_draining(&self.shard) {
            self.http.stats.downstream_cx_drain_close.inc();
            self.begin_drain();
        }
    }

    /// Says that the connection ends, and that streams on their way are still taken.
    fn begin_drain(&mut self) {
        self.core.link.codec.announce_shutdown();
        let patience = self.http.config.timeouts.drain.min(DRAIN_PATIENCE);
        let at = after(self.shard.clock.now(), Some(patience)).unwrap_or(Nanos::MAX);
        self.drain = Drain::Announced(at);
    }

    /// Gives back memory that only a burst needed.
    fn shrink(&mut self) {
        if self.slots.len() > SLOTS_KEPT {
            self.slots.truncate(SLOTS_KEPT);
            self.slots.shrink_to_fit();
            self.free.clear();
            self.free.extend((0..SLOTS_KEPT as u32).rev());
            self.free.shrink_to_fit();
        }
        self.core.sending.shrink_to_fit();
        self.core.link.codec.shrink();
    }

    /// The connection is lost: so is every exchange on it.
    fn abandon(&mut self) {
        for index in 0..self.slots.len() as u32 {
            if self.slots[index as usize].stream.id.is_some() {
                self.slots[index as usize].stream.reset = true;
                self.advance(index);
                self.release(index);
            }
        }
    }

    /// Publishes what the codec counted.
    fn count(&mut self) {
        self.http.http2_stats.take(&self.core.link.codec.counters());
    }

    // ---- leaving -------------------------------------------------------------------------------------

    /// True when it is to go to a successor and can. When it can't for too long it is asked to go instead.
    fn may_leave(&mut self) -> bool {
        if !self.info.leaving.is_due(&self.shard) || self.drain != Drain::No {
            self.leave_by = None;
            return false;
        }
        if self.active == 0 && moving::is_at_rest(&self.core.link.codec) {
            return true;
        }
        let now = self.shard.clock.now();
        let by = *self.leave_by.get_or_insert(now + LEAVE_PATIENCE);
        if by <= now {
            self.info.leaving.set_able(false);
            self.leave_by = None;
            self.check_drain();
            self.send();
        }
        false
    }

    /// Goes on its way to a successor. True when the phase changed.
    fn leave(&mut self, waker: &Waker) -> bool {
        let Transport::Plain(socket) = &self.core.link.transport else {
            return self.enter(Phase::Open);
        };
        let record = || {
            let record = moving::record(&self.core.link.codec, self.requests);
            self.info.outline(&self.guard, socket, &[], ProtocolRecord::Http2(record))
        };
        match self.info.leaving.advance(&self.shard, waker, &[socket], record) {
            Leave::Stays => self.enter(Phase::Open),
            Leave::Waits => false,
            Leave::Left(_) => {
                self.guard.leaves();
                self.meter.leaves();
                self.enter(Phase::Closed)
            }
        }
    }

    // ---- the end -------------------------------------------------------------------------------------

    /// Sends what is queued, then FIN.
    fn close(&mut self) -> bool {
        self.meter.close_is_ours();
        self.core.link.flush(&self.shard.arena);
        self.core.link.transport.flush();
        self.core.link.transport.finish();
        self.enter(Phase::Flushing)
    }

    fn flush(&mut self, timer_fired: bool) -> bool {
        let transport = &self.core.link.transport;
        if timer_fired || transport.send_error().is_some() {
            return self.enter(Phase::Closed);
        }
        if !transport.is_finished() {
            self.discard();
            return false;
        }
        match self.http.config.timeouts.delayed_close {
            Some(_) => self.enter(Phase::Lingering),
            None => self.enter(Phase::Closed),
        }
    }

    fn linger(&mut self, timer_fired: bool) -> bool {
        if timer_fired {
            self.http.stats.downstream_cx_delayed_close_timeout.inc();
        }
        if timer_fired || self.discard() {
            return self.enter(Phase::Closed);
        }
        false
    }

    /// Drops what still comes. True when nothing more will.
    fn discard(&mut self) -> bool {
        loop {
            match self.core.link.transport.receive() {
                Received::Chunk(_) => {}
                Received::None => return false,
                Received::End | Received::Failed(_) => return true,
            }
        }
    }

    fn enter(&mut self, phase: Phase) -> bool {
        self.phase = phase;
        self.since = self.shard.clock.now();
        true
    }

    fn deadline(&self) -> Option<Nanos> {
        let timeouts = &self.http.config.timeouts;
        match self.phase {
            Phase::Open => {
                let idle = self.active == 0 && self.drain == Drain::No;
                earliest(&[
                    after(self.since, timeouts.idle).filter(|_| idle),
                    (self.active == 0 && self.slots.len() > SLOTS_KEPT)
                        .then_some(self.since + SHRINK_AFTER),
                    self.max_age_at.filter(|_| self.drain == Drain::No),
                    match self.drain {
                        Drain::Announced(at) => Some(at),
                        Drain::No | Drain::Final => None,
                    },
                    self.keepalive.as_ref().and_then(Keepalive::deadline),
                    self.leave_by,
                ])
            }
            Phase::Flushing => after(self.since, timeouts.stream_flush.or(timeouts.stream_idle)),
            Phase::Lingering => after(self.since, timeouts.delayed_close),
            // The successor's silence is noticed by who asks it.
            Phase::Leaving | Phase::Closed => None,
        }
    }
}

/// A predecessor's connection, as far as it is the codec's.
pub struct Restored {
    codec: Box<Connection>,
    requests: u32,
}

impl Restored {
    /// From what the predecessor says.
    ///
    /// # Errors
    /// Why it can't be gone on with.
    pub fn of_record(http: &HttpRuntime, record: &Http2Record) -> Result<Self, String> {
        let codec = Box::new(moving::restore(record.clone(), Role::Server, server_config(http))?);
        Ok(Self { codec, requests: record.requests })
    }
}

fn server_config(http: &HttpRuntime) -> Config {
    let config = &http.config;
    codec_config(
        &config.http2,
        config.limits.max_headers_count,
        config.limits.max_request_headers_bytes,
        config.stream_error_on_invalid_http_message,
    )
}

/// How a connection was lost.
enum Lost {
    ByPeer,
    /// We give it up, and say so.
    ByUs,
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a connection, which are borrowed apart"
)]
fn lend<'a>(
    shard: &'a Rc<Shard>,
    http: &'a HttpRuntime,
    info: &'a ConnectionInfo,
    marks: Watermarks,
    core: &'a mut Core,
    stream: &'a mut Stream,
    waker: &'a Waker,
    slot: u32,
) -> Downstream<'a> {
    Downstream {
        shard,
        http,
        info,
        waker,
        is_last: false,
        marks,
        side: Side::Http2(super::Side { core, stream, slot }),
    }
}

impl Future for Http2Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.ready.is_none() {
            this.watch(context.waker());
        }
        if this.run(context.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Http2Connection {
    fn drop(&mut self) {
        self.http.stats.downstream_cx_http2_active.dec();
        self.meter.sent(self.core.link.transport.sent_bytes());
    }
}

/// How long a connection may be busy all the time before it is asked to go rather than moved.
const LEAVE_PATIENCE: Nanos = 500 * NANOS_PER_MS;

/// Slots an idle connection keeps.
const SLOTS_KEPT: usize = 4;

/// How long a connection is idle before it gives memory back.
const SHRINK_AFTER: Nanos = 1000 * NANOS_PER_MS;

/// How long a draining connection takes new streams at the most: long enough for those on their way.
const DRAIN_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
