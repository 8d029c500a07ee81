//! Upstream HTTP/2 connections: few per endpoint and shard, each shared by many requests.
//!
//! A connection has a task of its own, which reads frames, hands them to streams and sends what
//! streams have queued. An exchange holds a [`ClientStream`] and is woken when something about it
//! changed. Invariants: no more streams are open than the peer allows; a stream that the peer did
//! not process (GOAWAY, REFUSED_STREAM) is reported as such, so that its request can be sent again.

mod moving;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use outrigger_codecs::http::{FieldBlock, Method};
use outrigger_codecs::http2::{Config, Connection, Event, Reason, Role, StreamId};
use outrigger_xds::snapshot::{ClusterHttp, UpstreamProtocol};

use crate::buffers::Chunk;
use crate::connection::moving::Leaving;
use crate::http2::{BodyQueue, Keepalive, Link, Outbox, Pumped, Verdict, codec_config};
use crate::ring::Received;
use crate::shard::{Shard, spawn_guarded};
use crate::timer::{NANOS_PER_MS, Nanos, Timer, after};
use crate::tls::TlsSession;
use crate::transport::Transport;

use super::breakers::Admission;
use super::connector::{ConnectError, Connector};
use super::meter::Meter;
use super::pool::{Made, UpstreamConnection};
use super::{ClusterRuntime, Host, Wanted};

/// One connection, shared by its task, its endpoint and its streams.
pub struct Http2Client {
    made: Made,
    shard: Rc<Shard>,
    cluster: Rc<ClusterRuntime>,
    host: RefCell<Weak<Host>>,
    leaving: Leaving,
    state: RefCell<State>,
}

struct State {
    stage: Stage,
    task: Option<Waker>,
    /// The task was woken and has not run since.
    awake: bool,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Requests that wait for the connection.
    waiting: Vec<Waker>,
    /// Slots with something to send.
    sending: VecDeque<u32>,
    /// No new streams; the connection closes when the last one has ended.
    draining: bool,
    idle_since: Nanos,
    keepalive: Option<Keepalive>,
}

#[expect(clippy::large_enum_variant, reason = "a connection is open for nearly all of its life")]
enum Stage {
    Connecting {
        connector: Option<Connector>,
        admission: Option<Admission>,
        began_at: Nanos,
    },
    Open {
        link: Link,
        meter: Meter,
    },
    Failed(Rc<ConnectError>),
    TimedOut,
    /// The endpoint chose HTTP/1.1: the connection rests in its pool.
    Http1,
    Closed,
}

/// One stream, as the connection sees it.
#[derive(Default)]
struct Slot {
    id: Option<StreamId>,
    waker: Option<Waker>,
    /// The response head that waits to be read, and whether it ends the stream.
    head: FieldBlock,
    head_ends: Option<bool>,
    /// Heads behind it: an interim response and the final one may come together.
    later_heads: VecDeque<(FieldBlock, bool)>,
    inbox: BodyQueue,
    ended: bool,
    trailers: Option<Box<FieldBlock>>,
    reset: Option<Reset>,
    outbox: Outbox,
}

/// Why a stream ended before its response did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The peer did not process the request: it may be sent again, whatever it is.
    Unprocessed,
    /// The peer ended the stream.
    Remote,
    /// The peer gave the stream up (CANCEL): gRPC servers do so at a call's deadline.
    Cancelled,
    /// What the peer sent breaks the protocol.
    Protocol,
    /// The connection was lost.
    ConnectionLost,
}

/// Where a connection stands, for a request that wants a stream on it.
pub enum Joined {
    /// Here is the stream.
    Stream(ClientStream),
    /// The connection is being made.
    NotYet,
    /// It can't take the request: look for another one.
    Elsewhere,
    /// It could not be made.
    Failed(Rc<ConnectError>),
    /// It could not be made in time.
    TimedOut,
}

/// What a stream has to tell.
pub enum StreamEvent {
    /// Body bytes.
    Data(Chunk),
    /// The response is complete.
    End(Option<Box<FieldBlock>>),
    /// It will not be.
    Reset(Reset),
    /// Nothing now; the waker will be called.
    None,
}

/// A request's stream. Dropping it before its end resets the stream.
pub struct ClientStream {
    client: Rc<Http2Client>,
    slot: u32,
}

impl Http2Client {
    /// Starts a connection to `host` and its task.
    ///
    /// # Errors
    /// When no connect can be started.
    pub fn start(
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        host: &Rc<Host>,
        wanted: Wanted<'_>,
        admission: Admission,
    ) -> Result<Rc<Self>, ConnectError> {
        let alpn: &[&[u8]] = match cluster.config.http.protocol {
            UpstreamProtocol::Alpn => &[b"h2", b"http/1.1"],
            _ => &[b"h2"],
        };
        let connector = Connector::start(shard, cluster, host, wanted, alpn)?;
        let stage = Stage::Connecting {
            connector: Some(connector),
            admission: Some(admission),
            began_at: shard.clock.now(),
        };
        Ok(Self::spawn(shard, cluster, host, wanted.into(), stage))
    }

    fn spawn(
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        host: &Rc<Host>,
        made: Made,
        stage: Stage,
    ) -> Rc<Self> {
        let client = Rc::new(Self {
            made,
            shard: Rc::clone(shard),
            cluster: Rc::clone(cluster),
            host: RefCell::new(Rc::downgrade(host)),
            leaving: Leaving::default(),
            state: RefCell::new(State {
                stage,
                task: None,
                awake: true,
                slots: Vec::new(),
                free: Vec::new(),
                waiting: Vec::new(),
                sending: VecDeque::new(),
                draining: false,
                idle_since: shard.clock.now(),
                keepalive: None,
            }),
        });
        let timer = shard.timers.timer();
        spawn_guarded(shard, Driving { client: Rc::clone(&client), timer, watched: false });
        client
    }

    /// True when it is what is wanted.
    pub fn is_for(&self, wanted: Wanted<'_>) -> bool {
        self.made.suits(wanted)
    }

    /// Asks for a stream. While the connection is being made, `waker` is woken when that is over.
    pub fn join(self: &Rc<Self>, waker: &Waker) -> Joined {
        let mut state = self.state.borrow_mut();
        match &state.stage {
            Stage::Connecting { .. } => {
                let limit = self.cluster.config.http.http2.max_concurrent_streams as usize;
                if state.waiting.len() >= limit {
                    return Joined::Elsewhere;
                }
                state.waiting.push(waker.clone());
                Joined::NotYet
            }
            Stage::Failed(error) => Joined::Failed(Rc::clone(error)),
            Stage::TimedOut => Joined::TimedOut,
            Stage::Http1 | Stage::Closed => Joined::Elsewhere,
            Stage::Open { .. } if self.leaving.is_under_way() => Joined::Elsewhere,
            Stage::Open { .. } => match state.open(waker, &self.cluster, self.shard.clock.now()) {
                Some(slot) => Joined::Stream(ClientStream { client: Rc::clone(self), slot }),
                None => Joined::Elsewhere,
            },
        }
    }

    /// Its endpoint was replaced by `host`.
    pub fn moves_to(&self, host: &Rc<Host>) {
        self.host.replace(Rc::downgrade(host));
    }

    /// Lets streams end and takes no new ones.
    pub fn drain(&self) {
        let mut state = self.state.borrow_mut();
        state.draining = true;
        state.wake(&self.shard);
    }

    /// Wakes the task so that it sends what was queued.
    fn wake(&self, state: &mut State) {
        state.wake(&self.shard);
    }
}

impl State {
    fn wake(&mut self, shard: &Shard) {
        if !self.awake {
            self.awake = true;
            if let Some(task) = &self.task {
                task.wake_by_ref();
                shard.ring.note_wake();
            }
        }
    }

    /// Opens a stream, if another one may be.
    fn open(&mut self, waker: &Waker, cluster: &ClusterRuntime, now: Nanos) -> Option<u32> {
        let is_idle = !self.has_streams();
        let Stage::Open { link, meter } = &mut self.stage else { return None };
        // Out of stream numbers, for one: its streams end, and others go to a new connection.
        self.draining |= link.codec.is_spent();
        let limit = cluster.config.http.http2.max_concurrent_streams as usize;
        if self.draining || link.codec.open_streams() >= limit || !link.codec.can_open() {
            return None;
        }
        if !meter.may_serve_more() {
            self.draining = true;
            return None;
        }
        if is_idle
            && let Some(keepalive) = &mut self.keepalive
            && keepalive.ask_idle(self.idle_since, now)
        {
            link.codec.ping(now.to_be_bytes());
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        self.slots[slot as usize].waker = Some(waker.clone());
        Some(slot)
    }

    /// The slot of stream `id`, unless its exchange has let go of it.
    fn slot(&mut self, id: StreamId, slot: u32) -> Option<&mut Slot> {
        self.slots.get_mut(slot as usize).filter(|slot| slot.id == Some(id))
    }

    fn link(&mut self) -> Option<&mut Link> {
        match &mut self.stage {
            Stage::Open { link, .. } => Some(link),
            _ => None,
        }
    }

    fn list(&mut self, slot: u32) {
        let outbox = &mut self.slots[slot as usize].outbox;
        if !outbox.listed {
            outbox.listed = true;
            self.sending.push_back(slot);
        }
    }

    fn wake_waiting(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn has_streams(&self) -> bool {
        self.slots.len() > self.free.len()
    }
}

impl ClientStream {
    /// The connection's number in logs.
    pub fn connection_id(&self) -> u64 {
        match &self.client.state.borrow().stage {
            Stage::Open { meter, .. } => meter.id,
            _ => 0,
        }
    }

    /// What was agreed with the endpoint in TLS.
    pub fn tls(&self) -> Option<Rc<TlsSession>> {
        match &self.client.state.borrow().stage {
            Stage::Open { link, .. } => link.transport.session().cloned(),
            _ => None,
        }
    }

    /// Sends the request's head. True when it is the connection's first; nothing when the connection
    /// can't take it any more.
    pub fn send_head(&self, head: &FieldBlock, ends: bool, method: Method) -> Option<bool> {
        let mut state = self.client.state.borrow_mut();
        let state = &mut *state;
        let Stage::Open { link, meter } = &mut state.stage else { return None };
        let id = link.codec.open_stream(method)?;
        link.encode(head);
        link.codec.send_headers(id, ends);
        link.codec.set_slot(id, self.slot);
        let first = meter.begin_request();
        let slot = &mut state.slots[self.slot as usize];
        slot.id = Some(id);
        if ends {
            slot.outbox.ended_with_head();
        }
        self.client.wake(state);
        Some(first)
    }

    /// True while body bytes may be queued; else the waker is called when they may.
    pub fn has_room(&self) -> bool {
        let mut state = self.client.state.borrow_mut();
        let outbox = &mut state.slots[self.slot as usize].outbox;
        let room = outbox.has_room();
        outbox.wants_room = !room;
        room
    }

    /// Queues body bytes.
    pub fn send(&self, chunk: Chunk) {
        let mut state = self.client.state.borrow_mut();
        state.slots[self.slot as usize].outbox.body.push(&self.client.shard.arena, chunk);
        state.list(self.slot);
        self.client.wake(&mut state);
    }

    /// Ends the request.
    pub fn end(&self, trailers: Option<Box<FieldBlock>>) {
        let mut state = self.client.state.borrow_mut();
        state.slots[self.slot as usize].outbox.end(trailers);
        state.list(self.slot);
        self.client.wake(&mut state);
    }

    /// Takes the next response head into `head`. Tells whether the stream ends with it.
    pub fn take_head(&self, head: &mut FieldBlock) -> Option<bool> {
        let mut state = self.client.state.borrow_mut();
        let slot = &mut state.slots[self.slot as usize];
        let ends = slot.head_ends.take()?;
        std::mem::swap(head, &mut slot.head);
        if let Some((block, ends)) = slot.later_heads.pop_front() {
            slot.head = block;
            slot.head_ends = Some(ends);
        }
        Some(ends)
    }

    /// What comes after the head.
    pub fn next(&self) -> StreamEvent {
        let mut state = self.client.state.borrow_mut();
        let state = &mut *state;
        let slot = &mut state.slots[self.slot as usize];
        if let Some(chunk) = slot.inbox.pop(usize::MAX) {
            if let (Stage::Open { link, .. }, Some(id)) = (&mut state.stage, slot.id) {
                link.codec.release(id, chunk.len());
                if link.codec.has_output() {
                    self.client.wake(state);
                }
            }
            return StreamEvent::Data(chunk);
        }
        if slot.ended {
            return StreamEvent::End(slot.trailers.take());
        }
        match slot.reset {
            // Heads that came before the end are read first.
            Some(reset) if slot.head_ends.is_none() => StreamEvent::Reset(reset),
            _ => StreamEvent::None,
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let mut state = self.client.state.borrow_mut();
        let state = &mut *state;
        let now = self.client.shard.clock.now();
        let slot = &mut state.slots[self.slot as usize];
        let unread = slot.inbox.clear();
        let complete = slot.ended && slot.outbox.is_ended();
        if let (Some(id), Stage::Open { link, .. }) = (slot.id.take(), &mut state.stage) {
            if !complete && slot.reset.is_none() {
                link.codec.reset(id, Reason::CANCEL);
                self.client.cluster.stats.upstream_rq_tx_reset.inc();
            }
            if unread > 0 {
                link.codec.release(id, unread);
            }
        }
        let mut outbox = std::mem::take(&mut slot.outbox);
        let listed = outbox.listed;
        outbox.clear();
        let mut head = std::mem::take(&mut slot.head);
        head.clear();
        head.shrink_to(HEAD_KEPT_BYTES);
        *slot = Slot { outbox, head, inbox: std::mem::take(&mut slot.inbox), ..Slot::default() };
        if listed {
            state.sending.retain(|listed| *listed != self.slot);
        }
        state.free.push(self.slot);
        if !state.has_streams() {
            state.idle_since = now;
            // The task sets its timer, or closes a connection that drains.
            self.client.wake(state);
        } else if state.link().is_some_and(|link| link.codec.has_output()) {
            self.client.wake(state);
        }
        self.client.cluster.wake_next(&self.client.shard);
    }
}

/// The task of one connection.
struct Driving {
    client: Rc<Http2Client>,
    timer: Timer,
    watched: bool,
}

impl Future for Driving {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let client = &this.client;
        let mut state = client.state.borrow_mut();
        if !this.watched {
            this.watched = true;
            this.timer.register(context.waker());
            state.task = Some(context.waker().clone());
            match &state.stage {
                Stage::Connecting { connector: Some(connector), .. } => {
                    connector.register(context.waker());
                }
                Stage::Open { link, .. } => link.transport.register(context.waker()),
                _ => {}
            }
        }
        state.awake = false;
        let fired = this.timer.take_fired();
        let over = client.run(&mut state, fired, context.waker());
        if over {
            drop(state);
            client.leave();
            return Poll::Ready(());
        }
        this.timer.set(client.deadline(&state));
        Poll::Pending
    }
}

impl Http2Client {
    /// Does what can be done. True when the connection is over.
    fn run(self: &Rc<Self>, state: &mut State, timer_fired: bool, waker: &Waker) -> bool {
        if matches!(state.stage, Stage::Connecting { .. })
            && !self.connect(state, timer_fired, waker)
        {
            return !matches!(state.stage, Stage::Connecting { .. });
        }
        if !matches!(state.stage, Stage::Open { .. }) {
            return true;
        }
        if self.leaving.is_under_way()
            && let Some(is_over) = self.leave_process(state, waker)
        {
            return is_over;
        }
        if let Err(reset) = self.receive(state) {
            self.lose(state, reset);
            return true;
        }
        if timer_fired && !self.check_timers(state) {
            return true;
        }
        self.send(state);
        if state.draining && !state.has_streams() {
            self.close(state);
            return true;
        }
        self.leave_process(state, waker).unwrap_or(false)
    }

    /// Gets on with the connect. True when the connection is open.
    fn connect(self: &Rc<Self>, state: &mut State, timer_fired: bool, waker: &Waker) -> bool {
        let Stage::Connecting { connector, admission, began_at } = &mut state.stage else {
            return true;
        };
        let now = self.shard.clock.now();
        let stats = &self.cluster.stats;
        let began_at = *began_at;
        let Some(current) = connector.take() else { return false };
        match current.ready(waker) {
            Ok(Ok(transport)) => {
                stats.upstream_cx_connect_ms.record((now - began_at) / NANOS_PER_MS);
                let (Some(host), Some(admission)) =
                    (self.host.borrow().upgrade(), admission.take())
                else {
                    state.stage = Stage::Closed;
                    state.wake_waiting();
                    return false;
                };
                self.opened(state, &host, transport, admission);
                matches!(state.stage, Stage::Open { .. })
            }
            Ok(Err(still)) => {
                let limit = after(began_at, Some(self.cluster.config.connect_timeout));
                if timer_fired && limit.is_some_and(|at| at <= now) {
                    stats.upstream_cx_connect_timeout.inc();
                    stats.upstream_cx_connect_fail.inc();
                    state.stage = Stage::TimedOut;
                    state.wake_waiting();
                    self.shard.ring.note_wake();
                } else {
                    *connector = Some(still);
                }
                false
            }
            Err(error) => {
                stats.upstream_cx_connect_fail.inc();
                state.stage = Stage::Failed(Rc::new(error));
                state.wake_waiting();
                self.shard.ring.note_wake();
                false
            }
        }
    }

    fn opened(
        self: &Rc<Self>,
        state: &mut State,
        host: &Rc<Host>,
        transport: Transport,
        admission: Admission,
    ) {
        let config = &self.cluster.config.http;
        let negotiated = transport.session().and_then(|session| session.alpn.as_deref());
        let http1 = config.protocol == UpstreamProtocol::Alpn && negotiated != Some(&b"h2"[..]);
        host.speaks_http1.set(http1);
        if http1 {
            let connection = UpstreamConnection::new(
                &self.shard,
                &self.cluster,
                host,
                transport,
                self.made.wanted(),
                admission,
            );
            state.stage = Stage::Http1;
            host.give_back(&self.shard, connection);
        } else {
            self.cluster.stats.upstream_cx_http2_total.inc();
            transport.start();
            let codec = Connection::new(Role::Client, client_config(config));
            let meter = Meter::new(&self.shard, &self.cluster, host, admission);
            let marks = self.cluster.watermarks(&self.shard);
            state.stage = Stage::Open { link: Link::new(codec, transport, marks), meter };
            state.idle_since = self.shard.clock.now();
            state.keepalive = self.keepalive();
        }
        state.wake_waiting();
        self.shard.ring.note_wake();
    }

    fn keepalive(&self) -> Option<Keepalive> {
        let keepalive = self.cluster.config.http.http2.keepalive?;
        Some(Keepalive::new(keepalive, self.shard.clock.now(), self.shard.random()))
    }

    /// Reads what came.
    fn receive(&self, state: &mut State) -> Result<(), Reset> {
        let now = self.shard.clock.now();
        loop {
            let Stage::Open { link, .. } = &mut state.stage else { return Ok(()) };
            let mut chunk = match link.transport.receive() {
                Received::Chunk(chunk) => chunk,
                Received::None => return Ok(()),
                Received::End | Received::Failed(_) => return Err(Reset::ConnectionLost),
            };
            if let Some(keepalive) = &mut state.keepalive {
                keepalive.heard();
            }
            loop {
                let Stage::Open { link, .. } = &mut state.stage else { return Ok(()) };
                let step = match link.codec.receive(&chunk, now) {
                    Ok(step) => step,
                    Err(error) => {
                        log::warn!(
                            target: "upstream",
                            "{}: an HTTP/2 connection is given up: {error}",
                            self.cluster.config.name
                        );
                        self.cluster.stats.upstream_cx_protocol_error.inc();
                        return Err(Reset::Protocol);
                    }
                };
                let idle = step.consumed == 0 && step.event.is_none();
                if let Some(event) = step.event {
                    self.handle(state, event, &chunk);
                }
                chunk.advance(step.consumed);
                if idle {
                    break;
                }
            }
        }
    }

    fn handle(&self, state: &mut State, event: Event, chunk: &Chunk) {
        match event {
            Event::Headers { id, slot, end_stream } => {
                self.take_head(state, id, slot, end_stream);
            }
            Event::Data { id, slot, range, end_stream } => {
                let data = chunk.slice(range);
                let Some(slot) = state.slot(id, slot) else {
                    if let Some(link) = state.link() {
                        link.codec.release(id, data.len());
                    }
                    return;
                };
                slot.inbox.push(&self.shard.arena, data);
                slot.ended |= end_stream;
                self.wake_stream(slot);
            }
            Event::Trailers { id, slot } => {
                let mut trailers = Box::<FieldBlock>::default();
                if let Some(link) = state.link() {
                    link.codec.swap_block(&mut trailers);
                }
                let Some(slot) = state.slot(id, slot) else { return };
                slot.trailers = Some(trailers);
                slot.ended = true;
                self.wake_stream(slot);
            }
            Event::Reset { id, slot, reason, .. } => {
                let Some(slot) = state.slot(id, slot) else { return };
                slot.reset = Some(match reason {
                    Reason::REFUSED_STREAM => Reset::Unprocessed,
                    Reason::CANCEL => Reset::Cancelled,
                    Reason::PROTOCOL_ERROR | Reason::FLOW_CONTROL_ERROR => Reset::Protocol,
                    _ => Reset::Remote,
                });
                self.cluster.stats.upstream_rq_rx_reset.inc();
                self.wake_stream(slot);
            }
            Event::GoAway { .. } => {
                state.draining = true;
                self.cluster.stats.upstream_cx_close_notify.inc();
            }
            Event::Writable => {
                for slot in 0..state.slots.len() as u32 {
                    let outbox = &mut state.slots[slot as usize].outbox;
                    if outbox.is_due() && state.slots[slot as usize].id.is_some() {
                        state.list(slot);
                    }
                }
                self.cluster.wake_next(&self.shard);
            }
            Event::StreamWritable { id, slot } => {
                if state.slot(id, slot).is_some_and(|slot| slot.outbox.is_due()) {
                    state.list(slot);
                }
            }
            Event::Malformed { .. } | Event::Pong(_) => {}
        }
    }

    fn take_head(&self, state: &mut State, id: StreamId, slot: u32, end_stream: bool) {
        let Stage::Open { link, .. } = &mut state.stage else { return };
        let Some(slot) = state.slots.get_mut(slot as usize).filter(|slot| slot.id == Some(id))
        else {
            return;
        };
        if slot.head_ends.is_none() {
            link.codec.swap_block(&mut slot.head);
            slot.head_ends = Some(end_stream);
        } else if slot.later_heads.len() < HEADS_WAITING_MAX {
            let mut block = FieldBlock::default();
            link.codec.swap_block(&mut block);
            slot.later_heads.push_back((block, end_stream));
        } else {
            link.codec.reset(id, Reason::ENHANCE_YOUR_CALM);
            slot.reset = Some(Reset::Protocol);
        }
        slot.ended |= end_stream;
        self.wake_stream(slot);
    }

    fn wake_stream(&self, slot: &Slot) {
        if let Some(waker) = &slot.waker {
            waker.wake_by_ref();
            self.shard.ring.note_wake();
        }
    }

    /// Sends what streams have queued, in turns.
    fn send(&self, state: &mut State) {
        let arena = &self.shard.arena;
        let Stage::Open { link, .. } = &mut state.stage else { return };
        self.cluster.http2_stats.take(&link.codec.counters());
        link.flush(arena);
        while let Some(index) = state.sending.pop_front() {
            let slot = &mut state.slots[index as usize];
            let Some(id) = slot.id else {
                slot.outbox.listed = false;
                continue;
            };
            let pumped = link.pump(arena, id, &mut slot.outbox);
            if slot.outbox.takes_more() {
                self.wake_stream(slot);
            }
            match pumped {
                Pumped::Done | Pumped::NoWindow => slot.outbox.listed = false,
                Pumped::Turn => state.sending.push_back(index),
                Pumped::Congested => {
                    state.sending.push_front(index);
                    break;
                }
            }
        }
        link.flush(arena);
        link.transport.flush();
    }

    /// False when the connection is over.
    fn check_timers(&self, state: &mut State) -> bool {
        let now = self.shard.clock.now();
        let stats = &self.cluster.stats;
        if let (Some(keepalive), Stage::Open { link, .. }) =
            (&mut state.keepalive, &mut state.stage)
        {
            match keepalive.check(now, self.shard.random()) {
                Verdict::Fine => {}
                Verdict::Ping => link.codec.ping(now.to_be_bytes()),
                Verdict::Dead => {
                    self.cluster.http2_stats.keepalive_timeout.inc();
                    self.lose(state, Reset::ConnectionLost);
                    return false;
                }
            }
        }
        let idle = after(state.idle_since, self.cluster.config.http.idle_timeout);
        if !state.has_streams() && idle.is_some_and(|at| at <= now) {
            stats.upstream_cx_idle_timeout.inc();
            self.close(state);
            return false;
        }
        true
    }

    /// Closes a connection without streams. There is nothing that the peer would have to be told.
    fn close(&self, state: &mut State) {
        if let Stage::Open { link, .. } = &state.stage {
            self.count_bytes(link);
        }
        state.stage = Stage::Closed;
        state.wake_waiting();
    }

    /// The connection is lost, and with it every stream on it.
    fn lose(&self, state: &mut State, reset: Reset) {
        let stats = &self.cluster.stats;
        if let Some(link) = state.link() {
            self.cluster.http2_stats.take(&link.codec.counters());
        }
        if state.has_streams() {
            stats.upstream_cx_destroy_with_active_rq.inc();
            stats.upstream_cx_destroy_remote_with_active_rq.inc();
        } else {
            stats.upstream_cx_destroy_remote.inc();
        }
        if let Stage::Open { link, .. } = &mut state.stage {
            self.count_bytes(link);
            link.flush(&self.shard.arena);
            link.transport.flush();
        }
        state.stage = Stage::Closed;
        for slot in state.slots.iter_mut().filter(|slot| slot.waker.is_some()) {
            if !slot.ended {
                slot.reset.get_or_insert(reset);
            }
            self.wake_stream(slot);
        }
        state.wake_waiting();
        self.shard.ring.note_wake();
    }

    fn count_bytes(&self, link: &Link) {
        self.cluster.stats.upstream_cx_tx_bytes_total.add(link.transport.sent_bytes());
    }

    /// Takes the connection off its endpoint's list.
    fn leave(self: &Rc<Self>) {
        let host = self.host.borrow().upgrade();
        if let Some(host) = host {
            host.multiplexed.borrow_mut().retain(|known| !Rc::ptr_eq(known, self));
        }
        self.cluster.wake_next(&self.shard);
    }

    fn deadline(&self, state: &State) -> Option<Nanos> {
        if let Stage::Connecting { began_at, .. } = &state.stage {
            return after(*began_at, Some(self.cluster.config.connect_timeout));
        }
        if self.leaving.is_under_way() {
            return None;
        }
        let idle = if state.has_streams() {
            None
        } else {
            after(state.idle_since, self.cluster.config.http.idle_timeout)
        };
        let keepalive = state.keepalive.as_ref().and_then(Keepalive::deadline);
        idle.into_iter().chain(keepalive).min()
    }
}

fn client_config(config: &ClusterHttp) -> Config {
    codec_config(&config.http2, config.max_headers_count, config.max_response_headers_bytes, true)
}

/// Interim responses that may wait to be read.
const HEADS_WAITING_MAX: usize = 16;

/// Room for a response head that is kept for the next one.
const HEAD_KEPT_BYTES: usize = 1024;
