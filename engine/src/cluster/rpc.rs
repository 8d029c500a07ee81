//! Upstream connections of RPC protocols: few per endpoint and shard, each shared by many callers.
//!
//! A connection has a task of its own, which reads frames and hands answers to those who wait for
//! them. Requests are queued on the socket by whoever has one. Invariants: an id is never given out
//! while it is in flight; a call ends exactly once, by its answer, its deadline, or the connection's
//! end; a request that was not sent is given back, so that it can be sent elsewhere.

mod moving;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use outrigger_codecs::rpc::{Failure, Frame, Kind, Outcome, Tag};

use crate::connection::moving::Leaving;
use crate::ring::Received;
use crate::rpc::{
    FrameReader, Heartbeats, IdHasher, Input, Message, Read, RpcRuntime, Swept, Verdict,
};
use crate::shard::{Shard, spawn_guarded};
use crate::timer::{NANOS_PER_MS, Nanos, Timer, after};
use crate::transport::Transport;

use super::breakers::Admission;
use super::connector::Connector;
use super::meter::Meter;
use super::{ClusterRuntime, Host, Source, Wanted};

pub use self::moving::RestoredRpc;

/// One connection, shared by its task, its endpoint and those who wait for answers.
pub struct RpcClient {
    shard: Rc<Shard>,
    cluster: Rc<ClusterRuntime>,
    host: RefCell<Weak<Host>>,
    rpc: Rc<RpcRuntime>,
    flavour: u8,
    /// The client whose address it comes from.
    source: Option<Source>,
    /// The downstream connection that has this one for itself.
    bound_to: RefCell<Option<Rc<dyn RpcCaller>>>,
    timer: Timer,
    leaving: Leaving,
    state: RefCell<State>,
    /// Calls that wait for an answer or for the connection.
    in_flight: Cell<u32>,
}

struct State {
    stage: Stage,
    task: Option<Waker>,
    /// It is left alone for this task, which takes it elsewhere.
    held_for: Option<Waker>,
    reader: FrameReader,
    calls: HashMap<u64, RpcCall, IdHasher>,
    /// Requests that wait for the connection.
    waiting: VecDeque<(Message, RpcCall)>,
    next_id: u64,
    /// What the timer is set for.
    timer_at: Option<Nanos>,
    /// The peer wants no new requests, for now.
    closed_to_requests: bool,
    /// No new requests; the connection closes when the last one has ended.
    draining: bool,
    /// It is to be given up.
    dead: bool,
    idle_since: Nanos,
    heartbeats: Heartbeats,
    tag: Tag,
}

enum Stage {
    Connecting { connector: Option<Connector>, admission: Option<Admission>, began_at: Nanos },
    Open { transport: Transport, meter: Meter },
    Closed,
}

/// A call on its way.
pub struct RpcCall {
    /// Who waits for the answer.
    pub caller: Rc<dyn RpcCaller>,
    /// The caller's own id of it.
    pub id: u64,
    /// What an answer must agree with.
    pub tag: Tag,
    /// Never answered.
    pub oneway: bool,
    /// Its answer can be told by its id; else it is sent, and what comes is the caller's to read.
    pub tracked: bool,
    /// Index of its route.
    pub route: u32,
    /// How often it was sent or tried.
    pub attempts: u32,
    /// When the request was whole.
    pub began_at: Nanos,
    /// When it was given to the connection.
    pub sent_at: Nanos,
    /// When waiting ends.
    pub deadline: Option<Nanos>,
    /// Where it goes.
    pub cluster: Rc<ClusterRuntime>,
    /// Which endpoint.
    pub host: Rc<Host>,
    /// It counts under the cluster's limit of requests.
    pub counted: Option<Counted>,
    /// The upstream connection's number in logs.
    pub connection_id: u64,
    /// The request's bytes.
    pub request_bytes: u32,
    /// What is needed to send it again, or to log it.
    pub kept: Option<Box<Kept>>,
}

/// A request's place under its cluster's limit; given back when dropped.
pub struct Counted {
    cluster: Rc<ClusterRuntime>,
    shard: usize,
}

/// What most calls have no need of.
#[derive(Default)]
pub struct Kept {
    /// The request, unchanged.
    pub request: Option<Message>,
    /// What its log line is to show.
    pub capture: crate::access_log::Capture,
}

/// How a call ended.
pub enum CallEnd {
    /// With this answer.
    Answer(Message, Outcome),
    /// By being sent: no answer comes, or none that can be told from others.
    Sent,
    /// Without an answer.
    Failed(Failure),
    /// It was not sent: here is the request. The reason is for the case that it is sent nowhere else.
    Unsent(Message, Failure),
}

impl Counted {
    /// Counts a request. Nothing when there is no limit.
    ///
    /// # Errors
    /// When the limit is reached.
    pub fn admit(cluster: &Rc<ClusterRuntime>, shard: &Shard) -> Result<Option<Self>, Failure> {
        let limit = cluster.config.circuit_breakers.max_requests;
        if limit == u32::MAX {
            return Ok(None);
        }
        if !cluster.breakers.requests.admit(shard.index, limit) {
            cluster.stats.upstream_rq_pending_overflow.inc();
            return Err(Failure::Overflow);
        }
        Ok(Some(Self { cluster: Rc::clone(cluster), shard: shard.index }))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.cluster.breakers.requests.release(self.shard);
    }
}

/// Who makes calls.
pub trait RpcCaller {
    /// A call ended.
    fn ended(self: Rc<Self>, call: RpcCall, end: CallEnd);
    /// Upstream sent something that answers no call, on a connection that is the caller's own.
    fn received(&self, client: &Rc<RpcClient>, message: Message);
    /// The connection that was the caller's own is closed.
    fn upstream_closed(&self);
    /// No longer there: answers have nobody to go to.
    fn is_gone(&self) -> bool;
}

/// Why a request was not taken. It is given back.
pub struct NotSent(pub Message, pub RpcCall, pub Failure);

impl RpcClient {
    /// Starts a connection to `host` and its task. With `bound_to` it is that caller's own: ids are not
    /// changed, and what answers no call is the caller's too.
    ///
    /// # Errors
    /// When no connect can be started.
    pub fn start(
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        host: &Rc<Host>,
        rpc: &Rc<RpcRuntime>,
        tag: Tag,
        source: Option<Source>,
        bound_to: Option<Rc<dyn RpcCaller>>,
    ) -> Result<Rc<Self>, Failure> {
        let limit = cluster.config.circuit_breakers.max_connections;
        let Some(admission) = cluster.breakers.admit(|all| &all.connections, limit) else {
            cluster.stats.upstream_cx_overflow.inc();
            return Err(Failure::Overflow);
        };
        let wanted = Wanted { source, ..Wanted::default() };
        let connector = Connector::start(shard, cluster, host, wanted, &[]).map_err(|error| {
            cluster.stats.upstream_cx_connect_fail.inc();
            log::warn!(
                target: "upstream",
                "{}: no connection to {} can be made: {error}",
                cluster.config.name, host.address_text
            );
            Failure::ConnectionLost
        })?;
        let now = shard.clock.now();
        let stage = Stage::Connecting {
            connector: Some(connector),
            admission: Some(admission),
            began_at: now,
        };
        let client = Self::spawn(shard, cluster, host, rpc, tag, stage, source, bound_to);
        client.set_timer(
            &mut client.state.borrow_mut(),
            after(now, Some(cluster.config.connect_timeout)),
        );
        Ok(client)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a connection")]
    fn spawn(
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        host: &Rc<Host>,
        rpc: &Rc<RpcRuntime>,
        tag: Tag,
        stage: Stage,
        source: Option<Source>,
        bound_to: Option<Rc<dyn RpcCaller>>,
    ) -> Rc<Self> {
        let now = shard.clock.now();
        let client = Rc::new(Self {
            shard: Rc::clone(shard),
            cluster: Rc::clone(cluster),
            host: RefCell::new(Rc::downgrade(host)),
            flavour: rpc.codec.flavour(&tag),
            source,
            rpc: Rc::clone(rpc),
            bound_to: RefCell::new(bound_to),
            timer: shard.timers.timer(),
            leaving: Leaving::default(),
            state: RefCell::new(State {
                stage,
                task: None,
                held_for: None,
                reader: FrameReader::default(),
                calls: HashMap::default(),
                waiting: VecDeque::new(),
                // Peers log ids: connections should not all count from the same one.
                next_id: shard.random() >> 34,
                timer_at: None,
                closed_to_requests: false,
                draining: false,
                dead: false,
                idle_since: now,
                heartbeats: Heartbeats::new(now),
                tag,
            }),
            in_flight: Cell::new(0),
        });
        spawn_guarded(shard, Driving { client: Rc::clone(&client), watched: false });
        let swept: Rc<dyn Swept> = Rc::clone(&client) as Rc<dyn Swept>;
        shard.rpc.watch(shard, &swept);
        client
    }

    /// Calls under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// True when it may take requests of `rpc` and `flavour`, and is not one caller's own.
    pub fn is_for(&self, rpc: &RpcRuntime, flavour: u8, source: Option<Source>) -> bool {
        let state = self.state.borrow();
        self.flavour == flavour
            && self.source == source
            && self.rpc.shares_upstream_with(rpc)
            && !state.draining
            && !state.closed_to_requests
            && !self.leaving.is_under_way()
            && !matches!(state.stage, Stage::Closed)
    }

    /// True once it is connected.
    pub fn is_open(&self) -> bool {
        matches!(self.state.borrow().stage, Stage::Open { .. })
    }

    /// Its endpoint was replaced by `host`.
    pub fn moves_to(&self, host: &Rc<Host>) {
        self.host.replace(Rc::downgrade(host));
    }

    /// Lets calls end and takes no new ones.
    pub fn drain(&self) {
        self.state.borrow_mut().draining = true;
        self.wake();
    }

    /// Sends a request, at once or as soon as the connection is made. Gives back a call that is over
    /// by having been sent.
    ///
    /// # Errors
    /// Gives the request back when too much waits already.
    pub fn send(
        &self,
        mut message: Message,
        mut call: RpcCall,
    ) -> Result<Option<RpcCall>, Box<NotSent>> {
        let state = &mut *self.state.borrow_mut();
        let Stage::Open { transport, meter } = &mut state.stage else {
            return self.wait(state, message, call);
        };
        let limit = self.cluster.config.per_connection_buffer_limit_bytes as usize;
        // Callers share a connection of their own for all services, so one that reads slowly must not
        // stop them: what it does not read waits, up to a limit.
        if transport.unsent_bytes() >= limit.max(UNSENT_BYTES_MAX) {
            self.cluster.stats.upstream_rq_pending_overflow.inc();
            return Err(Box::new(NotSent(message, call, Failure::Overflow)));
        }
        if transport.unsent() >= self.cluster.watermarks(&self.shard).high {
            message.leave_receive_buffers(&self.shard.arena);
        }
        call.sent_at = self.shard.clock.now();
        call.connection_id = meter.id;
        meter.begin_request();
        if !meter.may_serve_more() {
            state.draining = true;
        }
        let codec = &*self.rpc.codec;
        let own_ids = self.bound_to.borrow().is_some();
        if !own_ids {
            state.next_id =
                free_id(codec.id_bits(), state.next_id, |id| state.calls.contains_key(&id));
            message.set_id(codec, state.next_id);
        }
        let id = if own_ids { message.frame.id } else { state.next_id };
        message.seal(codec, &self.shard.arena);
        message.send(transport);
        if let Transport::Tls(_) = transport {
            // Sealed once for everything that is queued in this turn.
            wake(state.task.as_ref(), &self.shard);
        }
        self.begin(&call);
        if !call.tracked {
            self.end(&call, 200);
            return Ok(Some(call));
        }
        if let Some(deadline) = call.deadline {
            self.set_timer_earlier(state, deadline);
        }
        match state.calls.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(call);
            }
            // A client that uses an id twice gets one answer: the other call is nobody's any more.
            Entry::Occupied(mut entry) => {
                let other = entry.insert(call);
                self.end(&other, 0);
            }
        }
        Ok(None)
    }

    /// Sends a message that is no call, on a connection that is one caller's own. False when it is
    /// not open.
    pub fn pass(&self, message: Message) -> bool {
        let state = &mut *self.state.borrow_mut();
        let Stage::Open { transport, .. } = &mut state.stage else { return false };
        message.send(transport);
        if let Transport::Tls(_) = transport {
            wake(state.task.as_ref(), &self.shard);
        }
        true
    }

    /// The caller whose own connection this is has gone.
    pub fn release(&self) {
        self.bound_to.replace(None);
        self.drain();
    }

    /// Visits the calls of a caller that wait for answers.
    pub fn visit_calls_of(&self, caller: &dyn RpcCaller, mut visit: impl FnMut(&RpcCall)) {
        let state = self.state.borrow();
        let waiting = state.waiting.iter().map(|(_, call)| call);
        let theirs = |call: &&RpcCall| {
            call.tracked && std::ptr::addr_eq(Rc::as_ptr(&call.caller), std::ptr::from_ref(caller))
        };
        state.calls.values().chain(waiting).filter(theirs).for_each(&mut visit);
    }

    /// Forgets the calls of callers that have gone.
    pub fn forget_gone(&self) {
        let state = &mut *self.state.borrow_mut();
        state.calls.retain(|_, call| {
            let stays = !call.caller.is_gone();
            if !stays {
                self.cluster.stats.upstream_rq_cancelled.inc();
                self.end(call, 0);
            }
            stays
        });
        state.waiting.retain(|(_, call)| {
            let stays = !call.caller.is_gone();
            if !stays {
                self.cluster.stats.upstream_rq_cancelled.inc();
                self.in_flight.set(self.in_flight.get() - 1);
            }
            stays
        });
    }

    fn wait(
        &self,
        state: &mut State,
        message: Message,
        call: RpcCall,
    ) -> Result<Option<RpcCall>, Box<NotSent>> {
        let limit = self.cluster.config.circuit_breakers.max_pending_requests as usize;
        let closed = matches!(state.stage, Stage::Closed);
        if closed || state.waiting.len() >= limit {
            self.cluster.stats.upstream_rq_pending_overflow.inc();
            let failure = if closed { Failure::ConnectionLost } else { Failure::Overflow };
            return Err(Box::new(NotSent(message, call, failure)));
        }
        self.cluster.stats.upstream_rq_pending_total.inc();
        self.in_flight.set(self.in_flight.get() + 1);
        if let Some(deadline) = call.deadline {
            self.set_timer_earlier(state, deadline);
        }
        state.waiting.push_back((message, call));
        Ok(None)
    }

    fn begin(&self, call: &RpcCall) {
        call.host.request_begins();
        self.cluster.stats.upstream_rq_total.inc();
        self.cluster.stats.upstream_rq_active.inc();
        self.in_flight.set(self.in_flight.get() + 1);
    }

    fn end(&self, call: &RpcCall, code: u16) {
        call.host.request_ends(code);
        self.cluster.stats.upstream_rq_active.dec();
        self.in_flight.set(self.in_flight.get() - 1);
        if code > 0 {
            self.cluster.stats.response(code);
            let took = self.shard.clock.now() - call.sent_at;
            self.cluster.stats.upstream_rq_time.record(took / NANOS_PER_MS);
        }
    }

    fn set_timer_earlier(&self, state: &mut State, at: Nanos) {
        if state.timer_at.is_none_or(|set| at < set) {
            self.set_timer(state, Some(at));
        }
    }

    fn set_timer(&self, state: &mut State, at: Option<Nanos>) {
        state.timer_at = at;
        self.timer.set(at);
    }

    fn wake(&self) {
        wake(self.state.borrow().task.as_ref(), &self.shard);
    }
}

impl RpcClient {
    /// Does what can be done. True when the connection is over.
    fn run(self: &Rc<Self>, waker: &Waker) -> bool {
        if let Some(holder) = &self.state.borrow().held_for {
            wake(Some(holder), &self.shard);
            return false;
        }
        if self.leaving.is_under_way()
            && let Some(is_over) = self.leave_process(waker)
        {
            return is_over;
        }
        let timed_out = self.timer.take_fired();
        if timed_out {
            self.state.borrow_mut().timer_at = None;
        }
        if self.connect(timed_out, waker) {
            self.set_off();
        }
        if self.is_open() {
            let dead = self.state.borrow().dead;
            let received = if dead { Err(Failure::ConnectionLost) } else { self.receive() };
            if let Err(failure) = received {
                self.lose(failure);
            }
        }
        if timed_out {
            self.expire();
        }
        self.finish() || self.leave_process(waker).unwrap_or(false)
    }

    /// Sends what was queued. True when the connection is over.
    fn finish(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        let Stage::Open { transport, .. } = &state.stage else {
            return matches!(state.stage, Stage::Closed);
        };
        transport.flush();
        if state.draining && state.calls.is_empty() && transport.unsent() == 0 {
            self.cluster.stats.upstream_cx_tx_bytes_total.add(transport.sent_bytes());
            self.cluster.stats.upstream_cx_destroy_local.inc();
            state.stage = Stage::Closed;
            return true;
        }
        false
    }

    /// Gets on with the connect, if there is one under way. True when it is over, well or not.
    fn connect(self: &Rc<Self>, timed_out: bool, waker: &Waker) -> bool {
        let state = &mut *self.state.borrow_mut();
        let Stage::Connecting { connector, admission, began_at } = &mut state.stage else {
            return false;
        };
        let (now, began_at) = (self.shard.clock.now(), *began_at);
        let Some(current) = connector.take() else { return false };
        let stats = &self.cluster.stats;
        match current.ready(waker) {
            Ok(Ok(transport)) => {
                stats.upstream_cx_connect_ms.record((now - began_at) / NANOS_PER_MS);
                let (Some(host), Some(admission)) =
                    (self.host.borrow().upgrade(), admission.take())
                else {
                    state.stage = Stage::Closed;
                    return true;
                };
                transport.register(waker);
                transport.start();
                let meter = Meter::new(&self.shard, &self.cluster, &host, admission);
                state.stage = Stage::Open { transport, meter };
                state.heartbeats.heard(now);
                state.idle_since = now;
            }
            Ok(Err(still)) => {
                let limit = after(began_at, Some(self.cluster.config.connect_timeout));
                if limit.is_some_and(|at| at <= now) {
                    stats.upstream_cx_connect_timeout.inc();
                    stats.upstream_cx_connect_fail.inc();
                    state.stage = Stage::Closed;
                } else {
                    *connector = Some(still);
                    if timed_out && let Some(at) = limit {
                        self.set_timer_earlier(state, at);
                    }
                    return false;
                }
            }
            Err(error) => {
                stats.upstream_cx_connect_fail.inc();
                log::debug!(
                    target: "upstream",
                    "{}: no connection: {error}", self.cluster.config.name
                );
                state.stage = Stage::Closed;
            }
        }
        true
    }

    /// Sends what waited for the connection, or gives it back when there is none.
    fn set_off(&self) {
        let waiting = std::mem::take(&mut self.state.borrow_mut().waiting);
        let open = self.is_open();
        for (message, call) in waiting {
            self.in_flight.set(self.in_flight.get() - 1);
            let sent = if open {
                self.send(message, call)
            } else {
                Err(Box::new(NotSent(message, call, Failure::ConnectionLost)))
            };
            match sent {
                Ok(None) => {}
                Ok(Some(call)) => Rc::clone(&call.caller).ended(call, CallEnd::Sent),
                Err(unsent) => {
                    let NotSent(message, call, failure) = *unsent;
                    Rc::clone(&call.caller).ended(call, CallEnd::Unsent(message, failure));
                }
            }
        }
    }

    /// Reads what came.
    fn receive(self: &Rc<Self>) -> Result<(), Failure> {
        let now = self.shard.clock.now();
        loop {
            let received = match &self.state.borrow().stage {
                Stage::Open { transport, .. } => transport.receive(),
                _ => return Ok(()),
            };
            let mut input = match received {
                Received::Chunk(chunk) => Input::new(chunk),
                Received::None => return Ok(()),
                Received::End | Received::Failed(_) => return Err(Failure::ConnectionLost),
            };
            self.cluster.stats.upstream_cx_rx_bytes_total.add(input.len() as u64);
            self.state.borrow_mut().heartbeats.heard(now);
            loop {
                let read = self.read(&mut input, now)?;
                match read {
                    Read::Message(message) => self.take(message, now)?,
                    Read::Refused(frame) => self.refuse(&frame),
                    Read::NeedMore => break,
                }
            }
        }
    }

    fn read(&self, input: &mut Input, now: Nanos) -> Result<Read, Failure> {
        let codec = &*self.rpc.codec;
        let reader = &mut self.state.borrow_mut().reader;
        let read = reader.next(codec, input, self.shard.read_memory(), now);
        let read = read.and_then(|read| {
            if let Read::Message(message) = &read {
                codec.verify(&message.frame, &mut std::iter::once(message.bytes()))?;
            }
            Ok(read)
        });
        read.map_err(|error| {
            self.cluster.stats.upstream_cx_protocol_error.inc();
            log::warn!(
                target: "upstream",
                "{}: a {} connection is given up: {error}, which begins at byte {} of the connection",
                self.cluster.config.name, codec.name(), reader.offset()
            );
            Failure::ConnectionLost
        })
    }

    fn take(self: &Rc<Self>, message: Message, now: Nanos) -> Result<(), Failure> {
        let frame = message.frame;
        match frame.kind {
            Kind::Response => match self.take_call(frame.id) {
                Some(call) => {
                    let outcome = self.rpc.codec.outcome(&frame, message.bytes());
                    self.end(&call, code(outcome));
                    Rc::clone(&call.caller).ended(call, CallEnd::Answer(message, outcome));
                }
                None => self.pass_on(message),
            },
            Kind::Heartbeat => {
                let state = self.state.borrow();
                if let Stage::Open { transport, .. } = &state.stage {
                    // A peer that asks more than it listens is no use.
                    if transport.unsent() >= self.cluster.watermarks(&self.shard).high {
                        return Err(Failure::ConnectionLost);
                    }
                    transport.send(self.shard.arena.write(|mut out| {
                        self.rpc.codec.put_heartbeat_reply(&frame, message.bytes(), &mut out);
                    }));
                }
            }
            Kind::HeartbeatReply => {}
            Kind::Goodbye => {
                self.cluster.stats.upstream_cx_close_notify.inc();
                self.state.borrow_mut().closed_to_requests = true;
            }
            Kind::Welcome => self.state.borrow_mut().closed_to_requests = false,
            Kind::Request | Kind::Oneway | Kind::Opaque | Kind::Bound { .. } => {
                self.pass_on(message);
            }
        }
        self.state.borrow_mut().idle_since = now;
        Ok(())
    }

    /// A response for whose frame there was no memory.
    fn refuse(&self, frame: &Frame) {
        if frame.kind == Kind::Response
            && let Some(call) = self.take_call(frame.id)
        {
            self.end(&call, 503);
            Rc::clone(&call.caller).ended(call, CallEnd::Failed(Failure::Overflow));
        }
    }

    fn take_call(&self, id: u64) -> Option<RpcCall> {
        self.state.borrow_mut().calls.remove(&id)
    }

    /// Gives what answers no call to the one whose connection this is.
    fn pass_on(self: &Rc<Self>, message: Message) {
        let caller = self.bound_to.borrow().clone();
        match caller {
            Some(caller) => caller.received(self, message),
            None => self.rpc.stats.upstream_unexpected.inc(),
        }
    }

    /// Ends the calls whose time is over.
    fn expire(&self) {
        let now = self.shard.clock.now();
        let (late, unsent) = {
            let state = &mut *self.state.borrow_mut();
            let is_late = |call: &RpcCall| call.deadline.is_some_and(|at| at <= now);
            let late: Vec<RpcCall> =
                state.calls.extract_if(|_, call| is_late(call)).map(|(_, call)| call).collect();
            let mut unsent = Vec::new();
            for (message, call) in std::mem::take(&mut state.waiting) {
                if is_late(&call) {
                    unsent.push(call);
                } else {
                    state.waiting.push_back((message, call));
                }
            }
            let calls = state.calls.values().chain(state.waiting.iter().map(|(_, call)| call));
            let connect = match &state.stage {
                Stage::Connecting { began_at, .. } => {
                    after(*began_at, Some(self.cluster.config.connect_timeout))
                }
                _ => None,
            };
            let next = calls.filter_map(|call| call.deadline).chain(connect).min();
            if next.is_some_and(|at| state.timer_at.is_none_or(|set| at < set)) {
                self.set_timer(state, next);
            }
            (late, unsent)
        };
        for call in late {
            self.cluster.stats.upstream_rq_timeout.inc();
            self.end(&call, 504);
            Rc::clone(&call.caller).ended(call, CallEnd::Failed(Failure::UpstreamTimeout));
        }
        for call in unsent {
            self.in_flight.set(self.in_flight.get() - 1);
            self.cluster.stats.upstream_rq_timeout.inc();
            Rc::clone(&call.caller).ended(call, CallEnd::Failed(Failure::ClientTimeout));
        }
    }

    /// The connection is lost, and with it every call on it.
    fn lose(&self, failure: Failure) {
        let calls = {
            let state = &mut *self.state.borrow_mut();
            if let Stage::Open { transport, .. } = &state.stage {
                self.cluster.stats.upstream_cx_tx_bytes_total.add(transport.sent_bytes());
            }
            state.stage = Stage::Closed;
            std::mem::take(&mut state.calls)
        };
        let stats = &self.cluster.stats;
        stats.upstream_cx_destroy_remote.inc();
        if !calls.is_empty() {
            stats.upstream_cx_destroy_with_active_rq.inc();
            stats.upstream_cx_destroy_remote_with_active_rq.inc();
        }
        for call in calls.into_values() {
            self.end(&call, 502);
            Rc::clone(&call.caller).ended(call, CallEnd::Failed(failure));
        }
        self.set_off();
    }

    /// Takes the connection off its endpoint's list, and tells the one whose own it was.
    fn leave(self: &Rc<Self>) {
        let host = self.host.borrow().upgrade();
        if let Some(host) = host {
            host.rpc.borrow_mut().retain(|known| !Rc::ptr_eq(known, self));
        }
        self.set_off();
        if let Some(caller) = self.bound_to.take() {
            caller.upstream_closed();
        }
        self.cluster.wake_next(&self.shard);
    }
}

impl Swept for RpcClient {
    fn sweep(&self, now: Nanos) -> bool {
        let state = &mut *self.state.borrow_mut();
        let Stage::Open { transport, .. } = &state.stage else {
            return matches!(state.stage, Stage::Connecting { .. });
        };
        if self.leaving.is_under_way() || state.held_for.is_some() {
            return true;
        }
        let stats = &self.cluster.stats;
        let idle = after(state.idle_since, self.cluster.config.http.idle_timeout);
        let idle = state.calls.is_empty() && idle.is_some_and(|at| at <= now);
        let stalled = state.reader.partial_since().is_some_and(|since| {
            after(since, Some(self.rpc.config.frame_timeout)).is_some_and(|at| at <= now)
        });
        let verdict = state.heartbeats.check(self.rpc.config.upstream_keepalive, now);
        if idle && self.bound_to.borrow().is_none() {
            stats.upstream_cx_idle_timeout.inc();
            state.draining = true;
        } else if stalled || verdict == Verdict::Dead {
            self.rpc.stats.upstream_dead.inc();
            log::info!(
                target: "upstream",
                "{}: a connection is given up: {}",
                self.cluster.config.name,
                if stalled { "a frame was not completed in time" } else { "no heartbeat was answered" }
            );
            state.dead = true;
        } else if verdict == Verdict::Ask {
            state.next_id = free_id(self.rpc.codec.id_bits(), state.next_id, |id| {
                state.calls.contains_key(&id)
            });
            self.rpc.stats.heartbeats_sent.inc();
            transport.send(self.shard.arena.write(|mut out| {
                self.rpc.codec.put_heartbeat(&state.tag, state.next_id, &mut out);
            }));
        } else {
            return true;
        }
        wake(state.task.as_ref(), &self.shard);
        true
    }
}

impl Host {
    /// A connection for one request: one that is shared and has room, or a new one.
    ///
    /// # Errors
    /// Why there is none.
    pub fn rpc_client(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        rpc: &Rc<RpcRuntime>,
        tag: Tag,
        source: Option<Source>,
    ) -> Result<Rc<RpcClient>, Failure> {
        let flavour = rpc.codec.flavour(&tag);
        let limits = rpc.upstream_limits();
        let mut least: Option<Rc<RpcClient>> = None;
        let mut count = 0;
        let suits = |client: &&Rc<RpcClient>| client.is_for(rpc, flavour, source);
        for client in self.rpc.borrow().iter().filter(suits) {
            let open = client.is_open();
            // The first with room: requests of one turn leave together.
            if open && client.in_flight() < limits.requests_each {
                return Ok(Rc::clone(client));
            }
            count += 1;
            let rank = |client: &RpcClient| (!client.is_open(), client.in_flight());
            if least.as_ref().is_none_or(|least| rank(client) < rank(least)) {
                least = Some(Rc::clone(client));
            }
        }
        let has_room = |client: &Rc<RpcClient>| client.in_flight() < limits.requests_each;
        if count < limits.max && !least.as_ref().is_some_and(has_room) {
            match RpcClient::start(shard, cluster, self, rpc, tag, source, None) {
                Ok(client) => {
                    self.rpc.borrow_mut().push(Rc::clone(&client));
                    // Until it is there, one that is serves better.
                    if !limits.exclusive && least.as_ref().is_some_and(|least| least.is_open()) {
                        return least.ok_or(Failure::Internal);
                    }
                    return Ok(client);
                }
                Err(failure) if limits.exclusive => return Err(failure),
                Err(failure) => return least.ok_or(failure),
            }
        }
        least.filter(|least| !limits.exclusive || has_room(least)).ok_or(Failure::Overflow)
    }
}

/// The task of a connection.
struct Driving {
    client: Rc<RpcClient>,
    watched: bool,
}

impl Future for Driving {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.watched {
            this.watched = true;
            let client = &this.client;
            client.timer.register(context.waker());
            let mut state = client.state.borrow_mut();
            state.task = Some(context.waker().clone());
            match &state.stage {
                Stage::Connecting { connector: Some(connector), .. } => {
                    connector.register(context.waker());
                }
                Stage::Open { transport, .. } => transport.register(context.waker()),
                _ => {}
            }
        }
        if this.client.run(context.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        // After a panic too: nobody waits for an answer that can't come.
        if self.client.is_open() {
            self.client.lose(Failure::ConnectionLost);
        }
        self.client.state.borrow_mut().task = None;
        self.client.leave();
    }
}

/// Requests that may wait for an endpoint that does not read, on one connection, unless its cluster
/// allows for more.
const UNSENT_BYTES_MAX: usize = 64 << 20;

/// The next id behind `last` that is not in flight.
fn free_id(bits: u32, last: u64, in_flight: impl Fn(u64) -> bool) -> u64 {
    let mask = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
    let mut id = last.wrapping_add(1) & mask;
    while in_flight(id) {
        id = id.wrapping_add(1) & mask;
    }
    id
}

/// The class of HTTP status that an outcome counts as (bolt.md section 8).
fn code(outcome: Outcome) -> u16 {
    match outcome {
        Outcome::Success | Outcome::ApplicationError => 200,
        Outcome::Overload => 503,
        Outcome::Failure => 500,
    }
}

fn wake(task: Option<&Waker>, shard: &Shard) {
    if let Some(task) = task {
        task.wake_by_ref();
        shard.ring.note_wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_wrap_and_are_never_given_out_twice() {
        for (bits, last) in [(32, u64::from(u32::MAX)), (64, u64::MAX)] {
            assert_eq!(free_id(bits, last, |_| false), 0);
            assert_eq!(free_id(bits, last - 1, |id| id == last || id < 3), 3);
        }
        let half = 1 << 31;
        assert_eq!(free_id(32, half - 1, |_| false), half);
        assert_eq!(free_id(64, u64::from(u32::MAX), |_| false), 1 << 32);
    }
}
