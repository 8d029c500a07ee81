//! A client's connection: its requests are routed and sent, their answers come back.
//!
//! | state | means | ends with |
//! |---|---|---|
//! | serving | frames are read and answered | the client's end, an error, idleness, a drain |
//! | closing | what is queued is sent, what comes is dropped | the client's end, a second |
//! | leaving | on the way to a successor | given away, or serving again |
//! | relaying | a successor's; answers that come here are sent after it | the last answer |
//!
//! Invariants: a two-way request is answered exactly once, whatever happens upstream; a client that
//! does not read its answers holds bounded memory, and stops nobody else.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::iter;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hashbrown::HashMap;
use outrigger_codecs::rpc::{
    self as frames, Call, Detail, Failure, Frame, FrameError, Kind, Outcome, Tag,
};
use outrigger_upgrade::record::{ConnectionRecord, PendingRecord, ProtocolRecord, RpcRecord};
use outrigger_xds::snapshot::{RpcRetry, RpcRoute, Sharing};

use crate::access_log::Capture;
use crate::cluster::{
    CallEnd, ClusterRuntime, Counted, Kept, NotSent, RestoredRpc, RpcCall, RpcCaller, RpcClient,
};
use crate::connection::moving::{Leave, Relayed, tag_of};
use crate::connection::{Admitted, ConnectionGuard, ConnectionInfo};
use crate::ring::{Received, Socket, Watermarks};
use crate::shard::Shard;
use crate::timer::{NANOS_PER_MS, Nanos, after, nanos};
use crate::transport::Transport;

use super::RpcRuntime;
use super::heartbeats::{Heartbeats, Verdict};
use super::ids::IdHasher;
use super::message::Message;
use super::reader::{FrameReader, Input, Read};
use super::report::Ending;
use super::route::{Request, header_edit};
use super::sweep::Swept;

/// A client's connection.
pub(super) struct Downstream {
    pub(super) shard: Rc<Shard>,
    pub(super) rpc: Rc<RpcRuntime>,
    pub(super) info: ConnectionInfo,
    transport: Transport,
    marks: Watermarks,
    me: Weak<Downstream>,
    gone: Cell<bool>,
    state: RefCell<State>,
}

struct State {
    task: Option<Waker>,
    reader: FrameReader,
    /// What was received and is not read, because too much is under way.
    input: Option<Input>,
    /// Two-way requests under way.
    in_flight: u32,
    /// Upstream connections that were given requests.
    used: Vec<Weak<RpcClient>>,
    /// Every request goes to an upstream connection of this one's own.
    pinned: bool,
    /// Upstream may send requests of its own.
    takes_reverse: bool,
    /// Made when first needed.
    rare: Option<Box<Rare>>,
    /// Of the last frame: what goodbyes and heartbeats agree with.
    tag: Tag,
    /// Ids of our own requests to the client.
    next_id: u64,
    heartbeats: Heartbeats,
    said_goodbye: bool,
    /// When the connection is closed at the latest.
    closing: Option<Nanos>,
    idle_since: Nanos,
}

/// What few connections have.
#[derive(Default)]
struct Rare {
    /// Upstream connections of this one's own.
    bound: Vec<(Rc<ClusterRuntime>, Rc<RpcClient>)>,
    /// Requests that upstream sent and the client has not answered.
    reverse: HashMap<u64, Weak<RpcClient>, IdHasher>,
    /// Requests whose answers come from a predecessor.
    relayed: Vec<(u64, Tag)>,
}

/// The task of a connection.
pub(super) struct Serving {
    connection: Rc<Downstream>,
    guard: ConnectionGuard,
    departure: Option<Box<Departure>>,
}

/// A connection that a successor is asked to take.
struct Departure {
    /// Unsent bytes that the successor was told of.
    told_unsent: usize,
    /// The connection's number, once it is the successor's.
    number: Option<u64>,
    /// The successor is told that it had the last answer.
    is_over: bool,
}

impl Serving {
    pub(super) fn new(shard: &Rc<Shard>, rpc: &Rc<RpcRuntime>, admitted: Admitted) -> Self {
        rpc.stats.cx_total.inc();
        Self::adopt(shard, rpc, admitted, &RpcRecord::default(), Vec::new())
    }

    /// Goes on with a connection that a predecessor has begun with.
    pub(super) fn adopt(
        shard: &Rc<Shard>,
        rpc: &Rc<RpcRuntime>,
        admitted: Admitted,
        record: &RpcRecord,
        bound: Vec<RestoredRpc>,
    ) -> Self {
        let Admitted { transport, info, marks, guard } = admitted;
        let now = shard.clock.now();
        info.leaving.set_able(matches!(transport, Transport::Plain(_)));
        rpc.stats.cx_active.inc();
        let tag = |one: &PendingRecord| tag_of(&one.tag).unwrap_or_default();
        let relayed: Vec<_> = record.pending.iter().map(|one| (one.id, tag(one))).collect();
        let connection = Rc::new_cyclic(|me| Downstream {
            shard: Rc::clone(shard),
            rpc: Rc::clone(rpc),
            info,
            transport,
            marks,
            me: Weak::clone(me),
            gone: Cell::new(false),
            state: RefCell::new(State {
                task: None,
                reader: FrameReader::default(),
                input: None,
                in_flight: 0,
                // Most connections use one.
                used: Vec::with_capacity(1),
                pinned: rpc.config.sharing == Sharing::Bound || !bound.is_empty(),
                takes_reverse: rpc.config.allow_reverse_requests || record.takes_reverse,
                rare: (!relayed.is_empty()).then(|| Box::new(Rare { relayed, ..Rare::default() })),
                tag: tag_of(&record.tag).unwrap_or_default(),
                next_id: record.last_id,
                heartbeats: Heartbeats::new(now),
                said_goodbye: false,
                closing: None,
                idle_since: now,
            }),
        });
        for restored in bound {
            let cluster = Rc::clone(&restored.cluster);
            let source = connection.info.ends.source();
            let client = RpcClient::adopt_bound(shard, restored, source, connection.caller());
            connection.state.borrow_mut().rare().bound.push((cluster, client));
        }
        let swept: Rc<dyn Swept> = Rc::clone(&connection) as Rc<dyn Swept>;
        shard.rpc.watch(shard, &swept);
        Self { connection, guard, departure: None }
    }

    /// What takes answers from a predecessor.
    pub(super) fn relayed(&self) -> Weak<dyn Relayed> {
        let connection: Rc<dyn Relayed> = Rc::clone(&self.connection) as Rc<dyn Relayed>;
        Rc::downgrade(&connection)
    }

    /// Goes on the way to a successor, where there is one. True when nobody here has anything to do with the
    /// connection any more.
    fn leave(&mut self, waker: &Waker) -> bool {
        let connection = &self.connection;
        let shard = &connection.shard;
        let leaving = &connection.info.leaving;
        let Transport::Plain(socket) = &connection.transport else { return false };
        let may_begin = || leaving.is_due(shard) && connection.can_leave();
        if !leaving.is_under_way() && !may_begin() {
            return false;
        }
        let bound = connection.bound();
        if !leaving.is_under_way() {
            bound.iter().for_each(|client| client.hold(waker));
        }
        let departure = &mut self.departure;
        let left = {
            let own: Vec<_> = bound.iter().filter_map(|client| client.socket()).collect();
            let sockets: Vec<_> = iter::once(socket).chain(own.iter().map(|own| &**own)).collect();
            leaving.advance(shard, waker, &sockets, || {
                let record = connection.outline(&self.guard, socket);
                let told_unsent = record.stream.unsent.len();
                *departure =
                    Some(Box::new(Departure { told_unsent, number: None, is_over: false }));
                record
            })
        };
        match left {
            Leave::Waits => false,
            Leave::Stays => {
                bound.iter().for_each(|client| client.go_on());
                false
            }
            Leave::Left(number) => {
                bound.iter().for_each(|client| client.has_left());
                connection.state.borrow_mut().take_bound();
                self.guard.leaves();
                if let Some(departure) = &mut self.departure {
                    socket.drop_unsent(departure.told_unsent);
                    departure.number = Some(number);
                }
                self.relay(waker)
            }
        }
    }

    /// Sends answers after the connection. True when the successor has the last one.
    fn relay(&mut self, waker: &Waker) -> bool {
        let (Some(departure), Transport::Plain(socket)) =
            (&mut self.departure, &self.connection.transport)
        else {
            return true;
        };
        let Some(number) = departure.number else { return true };
        let departures = &self.connection.shard.departures;
        if departure.is_over {
            return departures.take_answer(number).is_some();
        }
        let bytes = socket.copy_unsent();
        socket.drop_unsent(bytes.len());
        // With the successor its connections are gone.
        if !bytes.is_empty() && !departures.relay(number, bytes) {
            return true;
        }
        if self.connection.state.borrow().in_flight > 0 {
            return false;
        }
        departure.is_over = true;
        !departures.end_relay(number, waker)
    }
}

impl Downstream {
    /// Does what can be done. True when the connection is over.
    fn run(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        let over = if state.closing.is_some() { self.drop_input() } else { self.read(state) };
        if state.closing.is_none() {
            self.drain(state);
        }
        self.transport.flush();
        over || state.closing.is_some_and(|at| at <= self.shard.clock.now())
    }

    /// True when all that is known of the connection can be told: requests that went out on shared
    /// connections, whose answers can be sent after it. Connections of its own go along, without any.
    fn can_leave(&self) -> bool {
        let state = self.state.borrow();
        let can_bound = |(_, client): &(_, Rc<RpcClient>)| client.is_at_rest();
        state.closing.is_none()
            && (!state.pinned || state.in_flight == 0)
            && state.bound().iter().all(can_bound)
            && state.awaits_only_in_flight()
            && !self.gone.get()
            && state.reader.seen().is_some()
    }

    /// Upstream connections of this one's own.
    fn bound(&self) -> Vec<Rc<RpcClient>> {
        self.state.borrow().bound().iter().map(|(_, client)| Rc::clone(client)).collect()
    }

    /// What a successor must know.
    fn outline(&self, guard: &ConnectionGuard, socket: &Socket) -> ConnectionRecord {
        let state = self.state.borrow();
        let input: &[u8] = state.input.as_deref().unwrap_or_default();
        let seen = [state.reader.seen().unwrap_or_default(), input];
        let mut pending = Vec::with_capacity(state.in_flight as usize);
        for client in state.used.iter().filter_map(Weak::upgrade) {
            client.visit_calls_of(self, |call| {
                pending.push(PendingRecord { id: call.id, tag: call.tag.0.to_vec() });
            });
        }
        let record = RpcRecord {
            protocol: self.rpc.config.protocol.name().to_owned(),
            pending,
            last_id: state.next_id,
            tag: state.tag.0.to_vec(),
            bound: state.bound().iter().filter_map(|(_, client)| client.outline()).collect(),
            takes_reverse: state.takes_reverse,
        };
        self.info.outline(guard, socket, &seen, ProtocolRecord::Rpc(record))
    }

    /// Reads and serves what came. True when the connection is over.
    fn read(&self, state: &mut State) -> bool {
        let now = self.shard.clock.now();
        while state.closing.is_none() {
            if self.is_full(state) {
                break;
            }
            let mut input = match state.input.take() {
                Some(input) => input,
                None => match self.transport.receive() {
                    Received::Chunk(chunk) => {
                        self.rpc.stats.cx_rx_bytes_total.add(chunk.len() as u64);
                        state.heartbeats.heard(now);
                        Input::new(chunk)
                    }
                    Received::None => break,
                    Received::End | Received::Failed(_) => {
                        self.rpc.stats.cx_destroy_remote.inc();
                        return true;
                    }
                },
            };
            let codec = &*self.rpc.codec;
            match state.reader.next(codec, &mut input, self.shard.read_memory(), now) {
                Ok(Read::Message(message)) => {
                    if let Err(error) =
                        codec.verify(&message.frame, &mut std::iter::once(message.bytes()))
                    {
                        self.framing_lost(state, &error);
                        break;
                    }
                    state.input = (!input.is_empty()).then_some(input);
                    self.take(state, message);
                }
                Ok(Read::Refused(frame)) => {
                    state.input = (!input.is_empty()).then_some(input);
                    self.rpc.stats.request_overflow.inc();
                    self.fail_frame(&frame, Failure::Overflow, "no memory for the frame");
                }
                Ok(Read::NeedMore) => {}
                Err(error) => self.framing_lost(state, &error),
            }
        }
        false
    }

    /// True while nothing more is to be read; what ends that wakes the task.
    fn is_full(&self, state: &State) -> bool {
        let unread = self.transport.unsent() >= self.marks.high;
        if unread {
            self.transport.wake_at_unsent(self.marks.low());
        }
        unread || state.in_flight >= self.rpc.config.max_requests_per_connection
    }

    fn take(&self, state: &mut State, message: Message) {
        let stats = &self.rpc.stats;
        let frame = message.frame;
        state.tag = frame.tag;
        match frame.kind {
            Kind::Request | Kind::Oneway | Kind::Bound { .. } => {
                state.idle_since = self.shard.clock.now();
                self.request(state, message);
            }
            Kind::Heartbeat => {
                stats.heartbeats_answered.inc();
                self.transport.send(self.shard.arena.write(|mut out| {
                    self.rpc.codec.put_heartbeat_reply(&frame, message.bytes(), &mut out);
                }));
            }
            Kind::HeartbeatReply | Kind::Welcome | Kind::Goodbye => {}
            Kind::Response => {
                let asked = state.rare.as_mut().and_then(|rare| rare.reverse.remove(&frame.id));
                match asked.and_then(|one| one.upgrade()) {
                    Some(client) if client.pass(message) => {}
                    _ => stats.downstream_unexpected.inc(),
                }
            }
            Kind::Opaque => {
                stats.opaque.inc();
                self.request(state, message);
            }
        }
    }

    /// Routes a request and sends it.
    fn request(&self, state: &mut State, mut message: Message) {
        let (rpc, stats) = (&*self.rpc, &self.rpc.stats);
        let (codec, frame) = (&*rpc.codec, message.frame);
        let oneway = !matches!(frame.kind, Kind::Request | Kind::Bound { oneway: false });
        stats.request.inc();
        let kind = if oneway { &stats.request_oneway } else { &stats.request_twoway };
        kind.inc();
        let now = self.shard.clock.now();
        let random = self.shard.random();
        let call = match frame.kind {
            Kind::Opaque => Ok(Call::default()),
            // What stands in front of the arguments may do where the rest can't be read.
            _ => codec.call(&frame, message.bytes(), Detail::All).or_else(|error| {
                let names = codec.call(&frame, message.bytes(), Detail::Names).ok();
                names.filter(|_| !rpc.config.routes.needs_headers).ok_or(error)
            }),
        };
        let call = match call {
            Ok(call) => call,
            Err(error) => {
                stats.request_decoding_error.inc();
                log::debug!(
                    target: "rpc",
                    "{}: a request can't be routed: {error}, which begins before byte {} of \
                     connection {}",
                    rpc.config.stat_prefix, state.reader.offset(), self.info.id
                );
                let ending = Ending::failed(Failure::Undecodable, "request_undecodable");
                return self.refuse(&frame, oneway, now, &ending, None);
            }
        };
        let request = Request { call, frame: &frame, bytes: message.bytes(), codec };
        let kept = self.capture(&request);
        let Some((index, route)) = request.route(&rpc.config.routes, random) else {
            stats.no_route.inc();
            let ending = Ending::failed(Failure::NoRoute, "route_not_found");
            return self.refuse(&frame, oneway, now, &ending, kept.as_deref());
        };
        let Some(cluster) = request.cluster(rpc, &route.target, &self.shard.serving, random) else {
            stats.no_cluster.inc();
            let ending = Ending::failed(Failure::NoRoute, "cluster_not_found");
            return self.refuse(&frame, oneway, now, &ending, kept.as_deref());
        };
        let own = call.timeout_ms.map(|ms| Duration::from_millis(ms.into()));
        let timeout = own.into_iter().chain(route.timeout).min();
        let call_binds = call.binds;
        let binds = call_binds || matches!(frame.kind, Kind::Bound { .. } | Kind::Opaque);
        let shortened = timeout.filter(|_| route.forward_remaining_timeout && timeout != own);
        if let Err(reason) = self.edit(&mut message, route, shortened) {
            log::debug!(target: "rpc", "{}: a request can't be edited: {reason}", rpc.config.stat_prefix);
            stats.request_edit_error.inc();
            let ending = Ending::failed(Failure::Undecodable, "request_not_editable");
            return self.refuse(&frame, oneway, now, &ending, kept.as_deref());
        }
        let Some(host) = cluster.choose(&self.shard, |_| self.info.ends.original) else {
            let ending = Ending::failed(Failure::NoHealthyUpstream, "no_healthy_upstream");
            return self.refuse(&frame, oneway, now, &ending, kept.as_deref());
        };
        let counted = match Counted::admit(&cluster, &self.shard) {
            Ok(counted) => counted,
            Err(failure) => {
                let ending = Ending::failed(failure, "upstream_overflow");
                return self.refuse(&frame, oneway, now, &ending, kept.as_deref());
            }
        };
        let mut call = RpcCall {
            caller: self.caller(),
            id: frame.id,
            tag: frame.tag,
            oneway,
            tracked: frame.kind == Kind::Request,
            route: index,
            attempts: 0,
            began_at: now,
            sent_at: now,
            deadline: after(now, timeout).filter(|_| frame.kind == Kind::Request),
            cluster,
            host,
            counted,
            connection_id: 0,
            request_bytes: u32::try_from(message.byte_len()).unwrap_or(u32::MAX),
            kept,
        };
        if route.retry.overload && route.retry.max > 0 && !oneway {
            let kept = call.kept.get_or_insert_default();
            kept.request = Some(message.duplicate(&self.shard.arena));
        }
        if call.tracked {
            state.in_flight += 1;
            stats.request_active.inc();
        }
        state.pinned |= binds;
        state.takes_reverse |= call_binds;
        self.send(state, message, call);
    }

    /// Sends a request to the endpoint that was chosen for it, or to another one.
    fn send(&self, state: &mut State, mut message: Message, mut call: RpcCall) {
        loop {
            call.attempts += 1;
            let unsent = match self.client(state, &call) {
                Ok(client) => match client.send(message, call) {
                    Ok(ended) => {
                        if let Some(call) = ended {
                            self.finish(state, &call, &Ending::sent());
                        }
                        return state.note_use(&client);
                    }
                    Err(unsent) => *unsent,
                },
                Err(failure) => NotSent(message, call, failure),
            };
            let failure;
            NotSent(message, call, failure) = unsent;
            if !self.elsewhere(&mut call, |retry| connect_failed(retry, failure)) {
                return self.finish(state, &call, &Ending::upstream(failure));
            }
        }
    }

    /// The connection that a call goes out on.
    fn client(&self, state: &mut State, call: &RpcCall) -> Result<Rc<RpcClient>, Failure> {
        if !state.pinned {
            let source = self.info.ends.source();
            return call.host.rpc_client(&self.shard, &call.cluster, &self.rpc, call.tag, source);
        }
        let name = &call.cluster.config.name;
        let known = state.bound().iter().find(|(cluster, _)| cluster.config.name == *name);
        if let Some((_, client)) = known {
            return Ok(Rc::clone(client));
        }
        let client = RpcClient::start(
            &self.shard,
            &call.cluster,
            &call.host,
            &self.rpc,
            call.tag,
            self.info.ends.source(),
            Some(self.caller()),
        )?;
        state.rare().bound.push((Rc::clone(&call.cluster), Rc::clone(&client)));
        Ok(client)
    }

    /// Chooses another endpoint for a call that may be tried again. False when it may not.
    fn elsewhere(&self, call: &mut RpcCall, may: impl Fn(&RpcRetry) -> bool) -> bool {
        let retry = self.route(call.route).map(|route| route.retry).unwrap_or_default();
        let late = call.deadline.is_some_and(|at| at <= self.shard.clock.now());
        if call.oneway || late || call.attempts > retry.max || !may(&retry) {
            return false;
        }
        // The cluster may have other endpoints by now.
        let cluster = self.shard.serving.cluster_by_name(&call.cluster.config.name);
        let original = self.info.ends.original;
        let host = cluster.and_then(|cluster| cluster.choose(&self.shard, |_| original));
        let Some(host) = host else {
            return false;
        };
        call.cluster.stats.upstream_rq_retry.inc();
        call.host = host;
        true
    }

    fn edit(
        &self,
        message: &mut Message,
        route: &RpcRoute,
        timeout: Option<Duration>,
    ) -> Result<(), outrigger_codecs::rpc::EditError> {
        let ops = &route.request_headers.ops;
        if ops.is_empty() && timeout.is_none() {
            return Ok(());
        }
        let codec = &*self.rpc.codec;
        let edits: Vec<_> = ops.iter().map(header_edit).collect();
        let timeout =
            timeout.map(|left| u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1));
        let splices = &mut *self.rpc.splices.borrow_mut();
        splices.clear();
        codec.edit(&message.frame, message.bytes(), &edits, timeout, splices)?;
        message.splice(codec, splices, &self.shard.arena);
        Ok(())
    }

    /// What a log line is to show of a request.
    fn capture(&self, request: &Request<'_>) -> Option<Box<Kept>> {
        if self.rpc.logs.is_empty() {
            return None;
        }
        let mut capture = Capture::default();
        for (slot, name) in self.rpc.logs.captures().request_headers() {
            let value = match name {
                "service" => Some(request.call.service),
                "method" => Some(request.call.method),
                "version" => Some(request.call.version),
                "group" => Some(request.call.group),
                _ => request.header_ignoring_case(name),
            };
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                capture.put(slot, value);
            }
        }
        Some(Box::new(Kept { request: None, capture }))
    }

    /// Answers a request that goes nowhere.
    fn refuse(
        &self,
        frame: &Frame,
        oneway: bool,
        began_at: Nanos,
        ending: &Ending,
        kept: Option<&Kept>,
    ) {
        if !oneway {
            self.fail_frame(frame, ending.failure.unwrap_or(Failure::Internal), ending.details);
        }
        self.log_refused(frame, began_at, ending, kept);
    }

    fn fail_frame(&self, frame: &Frame, failure: Failure, text: &str) {
        if matches!(frame.kind, Kind::Request | Kind::Bound { oneway: false }) {
            self.answer(&frame.tag, frame.id, failure, text);
        }
    }

    /// Writes an error of our own.
    fn answer(&self, tag: &Tag, id: u64, failure: Failure, text: &str) {
        self.rpc.stats.local_response_error.inc();
        let reply = self.shard.arena.write(|mut out| {
            self.rpc.codec.put_failure(tag, id, failure, text, &mut out);
        });
        // A protocol that has no words for it ends the connection instead (hsf.md section 9).
        if reply.is_empty() {
            self.wake_to_close();
        }
        self.transport.send(reply);
    }

    /// Ends a call.
    fn finish(&self, state: &mut State, call: &RpcCall, ending: &Ending) {
        if call.tracked {
            state.in_flight -= 1;
            self.rpc.stats.request_active.dec();
        }
        if let Some(failure) = ending.failure.filter(|_| !call.oneway) {
            self.answer(&call.tag, call.id, failure, ending.details);
        }
        self.log(call, ending);
        state.idle_since = self.shard.clock.now();
    }

    /// Passes an answer on.
    fn reply(&self, state: &mut State, call: &RpcCall, mut message: Message, outcome: Outcome) {
        let (codec, stats) = (&*self.rpc.codec, &self.rpc.stats);
        stats.response.inc();
        match outcome {
            Outcome::Success => stats.response_success.inc(),
            Outcome::ApplicationError => stats.response_business_exception.inc(),
            Outcome::Overload | Outcome::Failure => stats.response_error.inc(),
        }
        let ending = Ending::answered(&message);
        if codec.flavour(&call.tag) != codec.flavour(&message.frame.tag) {
            let splices = &mut *self.rpc.splices.borrow_mut();
            splices.clear();
            if codec.convert(&message.frame, message.bytes(), &call.tag, splices) {
                message.splice(codec, splices, &self.shard.arena);
            }
        }
        if message.frame.id != call.id {
            message.set_id(codec, call.id);
        }
        message.seal(codec, &self.shard.arena);
        self.deliver(message);
        state.in_flight -= 1;
        stats.request_active.dec();
        let took = self.shard.clock.now() - call.began_at;
        stats.request_time_ms.record(took / NANOS_PER_MS);
        self.log(call, &ending);
        state.idle_since = self.shard.clock.now();
    }

    /// Queues a message for the client, who may not be reading.
    fn deliver(&self, mut message: Message) {
        if self.transport.unsent() >= self.marks.high {
            let unread = self.transport.unsent_bytes();
            if unread >= UNREAD_BYTES_MAX.max(self.rpc.config.max_frame_bytes as usize) {
                self.rpc.stats.cx_slow_reader.inc();
                self.wake_to_close();
                return;
            }
            message.leave_receive_buffers(&self.shard.arena);
        }
        message.send(&self.transport);
    }

    fn framing_lost(&self, state: &mut State, error: &FrameError) {
        self.rpc.stats.cx_protocol_error.inc();
        log::info!(
            target: "rpc",
            "{}: connection {} is closed: {error}, which begins at byte {} of the connection",
            self.rpc.config.stat_prefix, self.info.id, state.reader.offset()
        );
        if let Some((tag, id, failure)) = error.answer {
            self.answer(&tag, id, failure, "frame refused");
        }
        self.close(state);
    }

    /// Begins to close: what is queued is sent, and what is under way is nobody's any more.
    fn close(&self, state: &mut State) {
        if state.closing.is_none() {
            self.transport.finish();
            state.closing = Some(self.shard.clock.now() + nanos(CLOSING_PATIENCE));
            state.input = None;
        }
    }

    fn drop_input(&self) -> bool {
        loop {
            match self.transport.receive() {
                Received::Chunk(_) => {}
                Received::None => return false,
                Received::End | Received::Failed(_) => return true,
            }
        }
    }

    /// Ends the connection as the protocol allows once the shard drains.
    fn drain(&self, state: &mut State) {
        if !self.info.is_draining(&self.shard) {
            return;
        }
        if !state.said_goodbye {
            state.said_goodbye = true;
            state.next_id += 1;
            let goodbye = self.shard.arena.write(|mut out| {
                self.rpc.codec.put_goodbye(&state.tag, state.next_id, &mut out);
            });
            self.transport.send(goodbye);
        }
        let at = self.info.drain_deadline(&self.shard, state.idle_since, DRAIN_PATIENCE);
        if state.in_flight == 0 && at.is_some_and(|at| at <= self.shard.clock.now()) {
            self.rpc.stats.cx_drain_close.inc();
            self.close(state);
        }
    }

    fn wake_to_close(&self) {
        self.gone.set(true);
        // Whoever holds the state is at it; the task finds the mark.
        self.transport.wake_at_unsent(usize::MAX);
    }

    fn wake(&self, state: &State) {
        if let Some(task) = &state.task {
            task.wake_by_ref();
            self.shard.ring.note_wake();
        }
    }

    fn caller(&self) -> Rc<dyn RpcCaller> {
        // A method of a connection runs only while somebody holds it.
        self.me.upgrade().expect("the connection is held by whoever calls this")
    }

    pub(super) fn route(&self, index: u32) -> Option<&RpcRoute> {
        self.rpc.config.routes.routes.get(index as usize)
    }

    /// Lets go of everything.
    fn end(&self) {
        self.gone.set(true);
        let (used, bound, in_flight) = {
            let state = &mut *self.state.borrow_mut();
            (std::mem::take(&mut state.used), state.take_bound(), state.in_flight)
        };
        for (_, client) in bound {
            client.release();
        }
        if in_flight > 0 {
            self.rpc.stats.cx_destroy_with_active_rq.inc();
            self.rpc.stats.request_active.sub(u64::from(in_flight));
            used.iter().filter_map(Weak::upgrade).for_each(|client| client.forget_gone());
        }
        self.rpc.stats.cx_tx_bytes_total.add(self.transport.sent_bytes());
        self.rpc.stats.cx_active.dec();
    }
}

impl State {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn bound(&self) -> &[(Rc<ClusterRuntime>, Rc<RpcClient>)] {
        self.rare.as_ref().map(|rare| &*rare.bound).unwrap_or_default()
    }

    fn take_bound(&mut self) -> Vec<(Rc<ClusterRuntime>, Rc<RpcClient>)> {
        self.rare.as_mut().map(|rare| std::mem::take(&mut rare.bound)).unwrap_or_default()
    }

    /// True while each answer that is awaited is to one of the requests `in_flight`.
    fn awaits_only_in_flight(&self) -> bool {
        self.rare.as_ref().is_none_or(|rare| rare.reverse.is_empty() && rare.relayed.is_empty())
    }

    fn note_use(&mut self, client: &Rc<RpcClient>) {
        let known = |weak: &Weak<RpcClient>| std::ptr::eq(weak.as_ptr(), Rc::as_ptr(client));
        if !self.used.iter().any(known) {
            if self.used.len() == self.used.capacity() {
                self.used.retain(|client| client.strong_count() > 0);
            }
            self.used.push(Rc::downgrade(client));
        }
    }
}

impl Relayed for Downstream {
    fn relay(&self, bytes: &[u8]) {
        let state = &mut *self.state.borrow_mut();
        let mut rest = bytes;
        while let Ok(frames::Progress::Frame(frame)) = self.rpc.codec.frame(rest)
            && frame.len <= rest.len()
        {
            if frame.kind == Kind::Response
                && let Some(rare) = &mut state.rare
            {
                rare.relayed.retain(|(id, _)| *id != frame.id);
            }
            rest = &rest[frame.len..];
        }
        self.transport.send(self.shard.arena.copy(bytes));
    }

    fn relay_ends(&self) {
        let state = &mut *self.state.borrow_mut();
        // Those that a predecessor did not live to answer.
        let relayed = state.rare.as_mut().map(|rare| std::mem::take(&mut rare.relayed));
        for (id, tag) in relayed.unwrap_or_default() {
            self.answer(&tag, id, Failure::ConnectionLost, "the process that had it has ended");
        }
        state.idle_since = self.shard.clock.now();
        // It may be this one's turn to go.
        self.wake(state);
    }
}

impl RpcCaller for Downstream {
    fn ended(self: Rc<Self>, mut call: RpcCall, end: CallEnd) {
        if self.gone.get() {
            return;
        }
        let state = &mut *self.state.borrow_mut();
        let was_full = state.in_flight >= self.rpc.config.max_requests_per_connection;
        match end {
            CallEnd::Answer(message, Outcome::Overload) => {
                // Kept where the route lets such a request be sent again.
                let request = call.kept.as_mut().and_then(|kept| kept.request.take());
                match request {
                    Some(request) if self.elsewhere(&mut call, |retry| retry.overload) => {
                        let again = request.duplicate(&self.shard.arena);
                        call.kept.get_or_insert_default().request = Some(again);
                        self.send(state, request, call);
                    }
                    _ => self.reply(state, &call, message, Outcome::Overload),
                }
            }
            CallEnd::Answer(message, outcome) => self.reply(state, &call, message, outcome),
            CallEnd::Sent => self.finish(state, &call, &Ending::sent()),
            CallEnd::Failed(failure) => self.finish(state, &call, &Ending::upstream(failure)),
            CallEnd::Unsent(message, failure) => {
                if self.elsewhere(&mut call, |retry| connect_failed(retry, failure)) {
                    self.send(state, message, call);
                } else {
                    self.finish(state, &call, &Ending::upstream(failure));
                }
            }
        }
        let is_tls = matches!(self.transport, Transport::Tls(_));
        let goes = self.info.is_draining(&self.shard) || self.info.leaving.is_due(&self.shard);
        if is_tls || was_full || goes {
            self.wake(state);
        }
    }

    fn received(&self, client: &Rc<RpcClient>, message: Message) {
        let state = &mut *self.state.borrow_mut();
        match message.frame.kind {
            Kind::Request | Kind::Oneway if !state.takes_reverse => {
                return self.rpc.stats.upstream_unexpected.inc();
            }
            Kind::Request => {
                let limit = self.rpc.config.max_requests_per_connection as usize;
                let reverse = &mut state.rare().reverse;
                if reverse.len() >= limit {
                    return self.rpc.stats.upstream_unexpected.inc();
                }
                reverse.insert(message.frame.id, Rc::downgrade(client));
                self.rpc.stats.reverse_requests.inc();
            }
            Kind::Oneway => self.rpc.stats.reverse_requests.inc(),
            _ => {}
        }
        self.deliver(message);
        self.wake(state);
    }

    fn upstream_closed(&self) {
        if let Ok(mut state) = self.state.try_borrow_mut() {
            self.close(&mut state);
            self.wake(&state);
        }
    }

    fn is_gone(&self) -> bool {
        self.gone.get()
    }
}

impl Swept for Downstream {
    fn sweep(&self, now: Nanos) -> bool {
        if self.gone.get() {
            return false;
        }
        if self.info.leaving.is_under_way() {
            return true;
        }
        let state = &mut *self.state.borrow_mut();
        let config = &self.rpc.config;
        let passed = |since, limit| after(since, limit).is_some_and(|at| at <= now);
        let quiet = state.in_flight == 0 && state.awaits_only_in_flight();
        let stalled =
            state.reader.partial_since().is_some_and(|at| passed(at, Some(config.frame_timeout)));
        if state.closing.is_some() || self.info.is_draining(&self.shard) {
            self.wake(state);
        } else if stalled {
            self.rpc.stats.cx_frame_timeout.inc();
            self.close(state);
            self.wake(state);
        } else if quiet
            && passed(state.idle_since.max(state.heartbeats.heard_at()), config.idle_timeout)
        {
            self.rpc.stats.cx_idle_timeout.inc();
            self.close(state);
            self.wake(state);
        } else {
            match state.heartbeats.check(config.downstream_keepalive, now) {
                Verdict::Fine => {}
                Verdict::Ask => {
                    state.next_id += 1;
                    self.rpc.stats.heartbeats_sent.inc();
                    self.transport.send(self.shard.arena.write(|mut out| {
                        self.rpc.codec.put_heartbeat(&state.tag, state.next_id, &mut out);
                    }));
                    self.wake(state);
                }
                Verdict::Dead => {
                    self.rpc.stats.downstream_dead.inc();
                    self.close(state);
                    self.wake(state);
                }
            }
        }
        true
    }
}

impl Future for Serving {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let connection = &this.connection;
        if connection.state.borrow().task.is_none() {
            connection.transport.register(context.waker());
            connection.transport.start();
            this.guard.wake_at_drain(context.waker());
            connection.state.borrow_mut().task = Some(context.waker().clone());
        }
        let is_over = if this.guard.has_left() {
            this.relay(context.waker())
        } else if connection.gone.get() {
            true
        } else if connection.info.leaving.is_under_way() {
            this.leave(context.waker())
        } else {
            connection.run() || this.leave(context.waker())
        };
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.guard.has_left() {
            self.connection.rpc.stats.cx_destroy.inc();
        }
        self.connection.end();
    }
}

/// The request was not sent, because no connection was to be had.
fn connect_failed(retry: &RpcRetry, failure: Failure) -> bool {
    retry.connect_failure && failure == Failure::ConnectionLost
}

/// How long a client is given to read the last answers.
const CLOSING_PATIENCE: Duration = Duration::from_secs(1);

/// How long an idle client of a draining shard is left alone.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// Answers that may wait for a client that does not read, unless frames may be longer.
const UNREAD_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::WithinDrain;

    #[test]
    fn a_connection_and_its_task_fit_sizes_of_the_allocator() {
        // With the counts of an `Rc`; the next size is 640.
        assert!(size_of::<Downstream>() + 16 <= 512, "{}", size_of::<Downstream>());
        // With the executor's 40 bytes and the guard's 8; the next size is 160.
        let task = size_of::<WithinDrain<Serving>>();
        assert!(task + 48 <= 128, "{task}");
    }
}
