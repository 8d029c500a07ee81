//! One request and its response, on their way between downstream and upstream.
//!
//! | upstream state | means | goes on with |
//! |---|---|---|
//! | `Idle` | nothing to send to: a reply of ours, or done | - |
//! | `Waiting` | the connection limit is reached | another request ends |
//! | `Connecting` | a connect is under way | connected, refused, timed out |
//! | `Active` | the request is being sent or its response awaited | the response ends |
//!
//! Bodies move as chunks, never collected: a chunk is taken from one socket only while the other
//! has less than its watermark unsent. Invariant: the upstream connection goes back to its pool
//! only after both messages ended cleanly on it; any doubt closes it.

use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use outrigger_codecs::http1::render::{self, Put};
use outrigger_codecs::http1::{
    BodyDecoder, BodyFraming, FieldKind, FieldStorage, HeadError, HeadLimits, LAST_CHUNK, Method,
    RequestHead, ResponseHead, Version,
};
use outrigger_xds::snapshot::{
    Forward, HeaderEdits, HeaderOp, RouteAction, RouteId, RouteTable, ServerHeaderMode, Target,
};

use crate::access_log::{
    self, Headers, LogType, Protocol, Record, ResponseFlags, StreamId,
};
use crate::buffers::Chunk;
use crate::cluster::{Admission, ClusterRuntime, Host, Place, Serving, UpstreamConnection};
use crate::ring::{Connecting, Received, Socket};
use crate::shard::Shard;
use crate::timer::Nanos;

use super::begin::{Arrival, Destination};
use super::facts::Facts;
use super::input::Input;
use super::origin::Peer;
use super::render::{FieldWriter, is_framing};
use super::reply::{Reply, ReplyFrame, UpstreamFailure};
use super::upgrade::Tunnel;
use super::{HttpRuntime, HttpScratch, NANOS_PER_MS, after, earliest};

/// One exchange. Kept for reuse with the memory of its buffers.
#[derive(Default)]
pub struct Exchange {
    pub(super) facts: Facts,
    pub(super) tunnel: Tunnel,
    pub(super) serving: Option<Rc<Serving>>,
    pub(super) response_edits: ResponseEdits,
    pub(super) request_id: Option<[u8; 36]>,
    client: Client,
    request: RequestSide,
    response: ResponseSide,
    upstream: Upstream,
    destination: Option<(Rc<ClusterRuntime>, Rc<Host>)>,
    deadlines: Deadlines,
    /// The rendered head, kept while the request may be sent a second time.
    replay: Option<Chunk>,
    /// The connection was used before, so it may have died unnoticed.
    reused: bool,
    replayed: bool,
}

/// Whose header edits the response gets.
#[derive(Clone, Copy, Default)]
pub(super) enum ResponseEdits {
    #[default]
    None,
    Route(RouteId),
    Weighted(RouteId, usize),
}

/// What the client is and wants.
#[derive(Clone, Copy)]
struct Client {
    method: Method,
    http10: bool,
    keep_alive: bool,
    expects_continue: bool,
}

impl Default for Client {
    fn default() -> Self {
        // Of a request that could not be read: answer as to anybody, then close.
        Self { method: Method::Other, http10: false, keep_alive: false, expects_continue: false }
    }
}

struct RequestSide {
    body: BodyDecoder,
    chunked: bool,
    complete: bool,
}

impl Default for RequestSide {
    fn default() -> Self {
        Self { body: BodyDecoder::None, chunked: false, complete: true }
    }
}

struct ResponseSide {
    phase: ResponsePhase,
    body: BodyDecoder,
    chunked: bool,
    /// A head that came in pieces.
    partial: Vec<u8>,
    /// The downstream connection ends with this response.
    closes: bool,
    /// The upstream connection can be used again after it.
    reusable: bool,
}

impl Default for ResponseSide {
    fn default() -> Self {
        Self {
            phase: ResponsePhase::Head,
            body: BodyDecoder::None,
            chunked: false,
            partial: Vec::new(),
            closes: false,
            reusable: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponsePhase {
    Head,
    Body,
    Complete,
}

#[derive(Default)]
enum Upstream {
    #[default]
    Idle,
    Waiting {
        _pending: Admission,
        _place: Place,
    },
    Connecting {
        connecting: Connecting,
        connection: Admission,
        _pending: Admission,
    },
    Active(UpstreamConnection),
}

/// Instants by which something must have happened; nothing where there is no limit.
#[derive(Default)]
struct Deadlines {
    /// Route timeout, which runs from the end of the request.
    timeout: Option<Duration>,
    response: Option<Nanos>,
    idle_timeout: Option<Duration>,
    idle: Option<Nanos>,
    stream: Option<Nanos>,
    request: Option<Nanos>,
    connect: Option<Nanos>,
}

/// The downstream side of an exchange, lent to it by its connection.
pub(super) struct Downstream<'a> {
    pub(super) shard: &'a Rc<Shard>,
    pub(super) http: &'a HttpRuntime,
    pub(super) socket: &'a Socket,
    pub(super) input: &'a mut Input,
    pub(super) waker: &'a Waker,
    pub(super) peer: Peer,
    pub(super) connection_id: u64,
    /// Unsent bytes at which the exchange stops, and at which it goes on.
    pub(super) marks: crate::ring::Watermarks,
}

/// What an exchange came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Waits for an event.
    Pending,
    /// Over; the connection can carry the next request.
    KeepAlive,
    /// Over; the connection is to be closed once everything is sent.
    Close,
    /// Failed in the middle of a response: the connection is to be reset.
    Reset,
    /// The client is gone.
    Gone,
}

/// Stops an exchange half-way.
type Stop = Progress;

impl Exchange {
    /// Takes an exchange from the shard's reserve.
    pub(super) fn take(shard: &Shard) -> Box<Self> {
        shard.scratch.borrow_mut().exchanges.pop().unwrap_or_default()
    }

    /// Notes what a request is.
    pub(super) fn accept(&mut self, arrival: &Arrival<'_>, head: &RequestHead<'_, '_>) {
        let now = arrival.shard.clock.now();
        let config = &arrival.http.config;
        self.client = Client {
            method: head.method,
            http10: head.version == Version::Http10,
            keep_alive: head.keep_alive(),
            expects_continue: head.expect_continue,
        };
        self.request = RequestSide {
            body: BodyDecoder::from(head.framing),
            chunked: head.framing == BodyFraming::Chunked,
            complete: head.framing.is_empty(),
        };
        self.facts.bytes.request_headers = head.len as u64;
        self.facts.times.downstream_rx_begin = now;
        if self.request.complete {
            self.facts.times.downstream_rx_end = now;
        } else {
            self.deadlines.request = after(now, config.timeouts.request);
        }
        self.deadlines.idle_timeout = config.timeouts.stream_idle;
        self.deadlines.stream = after(now, config.timeouts.max_stream_duration);
        arrival.http.stats.downstream_rq_total.inc();
        arrival.http.stats.downstream_rq_http1_total.inc();
    }

    /// Applies the route's own limits.
    pub(super) fn limit_by_route(&mut self, http: &HttpRuntime, forward: &Forward) {
        let begin = self.facts.times.downstream_rx_begin;
        self.deadlines.timeout = forward.timeout;
        if let Some(idle) = forward.idle_timeout {
            self.deadlines.idle_timeout = idle;
        }
        if let Some(limit) = forward.max_stream_duration {
            self.deadlines.stream = after(begin, limit);
        }
        if self.tunnel != Tunnel::None {
            // A tunnel lives as long as its ends want it to.
            self.deadlines.timeout = None;
            self.deadlines.stream = after(begin, http.config.timeouts.max_stream_duration);
        }
    }

    // ---- life ------------------------------------------------------------------------------------

    /// Starts towards `destination`, or answers with `reply`.
    pub(super) fn start(
        &mut self,
        down: &mut Downstream<'_>,
        outcome: Result<Destination, Reply>,
    ) {
        down.http.stats.downstream_rq_active.inc();
        self.touch(down.shard);
        match outcome {
            Ok(destination) => {
                let Destination { cluster, host, head } = destination;
                self.destination = Some((cluster, host));
                if self.tunnel != Tunnel::None {
                    // What follows is the other protocol's, once upstream agreed.
                    self.request.complete = false;
                    down.http.stats.downstream_cx_upgrades_total.inc();
                    down.http.stats.downstream_cx_upgrades_active.inc();
                }
                self.replay = head;
                self.begin_response_deadline(down.shard);
                if self.client.expects_continue && !down.http.config.proxy_100_continue {
                    down.socket.send(down.shard.arena.copy(CONTINUE));
                }
                self.acquire(down);
            }
            Err(reply) => self.reply(down, &reply),
        }
    }

    /// An exchange for a request whose head could not be read.
    pub(super) fn begin_unread(&mut self, shard: &Shard) {
        self.facts.times.downstream_rx_begin = shard.clock.now();
    }

    /// Moves whatever can be moved.
    pub(super) fn advance(&mut self, down: &mut Downstream<'_>, timer_fired: bool) -> Progress {
        match self.try_advance(down, timer_fired) {
            Ok(()) => Progress::Pending,
            Err(stop) => stop,
        }
    }

    /// When the exchange wants to be looked at, whatever happens.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        let deadlines = &self.deadlines;
        earliest([
            deadlines.response,
            deadlines.idle,
            deadlines.stream,
            deadlines.request,
            deadlines.connect,
        ])
    }

    /// Counts and logs the exchange and puts its memory back.
    pub(super) fn finish(mut self: Box<Self>, down: &Downstream<'_>, progress: Progress) {
        let now = down.shard.clock.now();
        let stats = &down.http.stats;
        if self.tunnel != Tunnel::None && self.destination.is_some() {
            stats.downstream_cx_upgrades_active.dec();
        }
        stats.downstream_rq_active.dec();
        if self.facts.code != 0 {
            stats.response(self.facts.code);
        }
        let begin = self.facts.times.downstream_rx_begin;
        stats.downstream_rq_time.record((now - begin) / NANOS_PER_MS);
        if progress == Progress::Gone {
            self.facts.flags.insert(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
            stats.downstream_rq_rx_reset.inc();
        }
        if progress == Progress::Reset {
            stats.downstream_rq_tx_reset.inc();
        }
        self.release_upstream(down.shard);
        self.facts.times.end = now;
        if !down.http.logs.is_empty() {
            self.log(down);
        }
        self.clear();
        let mut scratch = down.shard.scratch.borrow_mut();
        if scratch.exchanges.len() < super::EXCHANGES_KEPT {
            scratch.exchanges.push(self);
        }
    }

    fn clear(&mut self) {
        let mut facts = std::mem::take(&mut self.facts);
        facts.clear();
        let mut partial = std::mem::take(&mut self.response.partial);
        partial.clear();
        partial.shrink_to(PARTIAL_KEPT_BYTES);
        *self = Self {
            facts,
            response: ResponseSide { partial, ..ResponseSide::default() },
            ..Self::default()
        };
    }

    // ---- the upstream connection -----------------------------------------------------------------

    /// Gets a connection: one at rest, a new one, or a place in the queue.
    fn acquire(&mut self, down: &mut Downstream<'_>) {
        let Some((cluster, host)) = self.destination.clone() else { return };
        if self.tunnel != Tunnel::ConnectTerminated && !self.replayed {
            if let Some(connection) = host.take_idle() {
                return self.activate(down, connection);
            }
        }
        let limits = cluster.config.circuit_breakers;
        let stats = &cluster.stats;
        let pending = cluster.breakers.admit(|all| &all.pending, limits.max_pending_requests);
        let Some(pending) = pending else {
            stats.upstream_rq_pending_overflow.inc();
            return self.reply(down, &Reply::upstream_failure(UpstreamFailure::Overflow));
        };
        let Some(admission) =
            cluster.breakers.admit(|all| &all.connections, limits.max_connections)
        else {
            stats.upstream_cx_overflow.inc();
            let place = cluster.wait(down.waker);
            self.upstream = Upstream::Waiting { _pending: pending, _place: place };
            return;
        };
        stats.upstream_rq_pending_total.inc();
        let marks = cluster.watermarks(down.shard);
        match host.connect(down.shard, marks, cluster.config.tcp_keepalive) {
            Ok(connecting) => {
                let now = down.shard.clock.now();
                connecting.register(down.waker);
                self.facts.times.upstream_connect_begin = now;
                self.deadlines.connect = after(now, Some(cluster.config.connect_timeout));
                self.upstream =
                    Upstream::Connecting { connecting, connection: admission, _pending: pending };
            }
            Err(error) => {
                stats.upstream_cx_connect_fail.inc();
                log::warn!(
                    target: "upstream",
                    "{}: no socket for a connection to {}: {error}",
                    cluster.config.name, host.address_text
                );
                self.reply(down, &Reply::upstream_failure(UpstreamFailure::Local));
            }
        }
    }

    fn poll_upstream(&mut self, down: &mut Downstream<'_>) {
        match std::mem::take(&mut self.upstream) {
            waiting @ Upstream::Waiting { .. } => {
                drop(waiting);
                self.acquire(down);
            }
            Upstream::Connecting { connecting, connection, _pending } => {
                match connecting.ready() {
                    Ok(Err(connecting)) => {
                        self.upstream = Upstream::Connecting { connecting, connection, _pending };
                    }
                    Ok(Ok(socket)) => self.connected(down, socket, connection),
                    Err(code) => self.refused(down, code),
                }
            }
            other => self.upstream = other,
        }
    }

    fn connected(&mut self, down: &mut Downstream<'_>, socket: Socket, admission: Admission) {
        let Some((cluster, _)) = self.destination.clone() else { return };
        let now = down.shard.clock.now();
        self.deadlines.connect = None;
        self.facts.times.upstream_connect_end = now;
        let took = now - self.facts.times.upstream_connect_begin;
        cluster.stats.upstream_cx_connect_ms.record(took / NANOS_PER_MS);
        let connection = UpstreamConnection::new(down.shard, &cluster, socket, admission);
        self.activate(down, connection);
    }

    fn refused(&mut self, down: &mut Downstream<'_>, code: i32) {
        let Some((cluster, host)) = &self.destination else { return };
        cluster.stats.upstream_cx_connect_fail.inc();
        cluster.stats.upstream_rq_pending_failure_eject.inc();
        log::debug!(
            target: "upstream",
            "{}: {} can't be reached: {}",
            cluster.config.name, host.address_text, std::io::Error::from_raw_os_error(code)
        );
        self.deadlines.connect = None;
        self.reply(down, &Reply::upstream_failure(UpstreamFailure::Connect));
    }

    /// Sends the head on `connection`.
    fn activate(&mut self, down: &mut Downstream<'_>, mut connection: UpstreamConnection) {
        let Some((cluster, host)) = &self.destination else { return };
        let now = down.shard.clock.now();
        self.reused = !connection.begin_request();
        self.facts.attempts += 1;
        self.facts.upstream_connection_id = connection.id;
        self.facts.times.upstream_tx_begin = now;
        host.request_begins();
        cluster.stats.upstream_rq_total.inc();
        cluster.stats.upstream_rq_active.inc();
        connection.socket.register(down.waker);
        if self.tunnel == Tunnel::ConnectTerminated {
            down.socket.send(down.shard.arena.copy(CONNECTION_ESTABLISHED));
            self.facts.code = 200;
            self.response.phase = ResponsePhase::Body;
            self.response.body = BodyDecoder::UntilClose;
            self.open_tunnel();
        } else if let Some(head) = &self.replay {
            self.facts.bytes.upstream_header_sent += head.len() as u64;
            let again = self.reused && !self.replayed && self.request.complete && self.is_idempotent();
            if again {
                connection.socket.send(head.clone());
            } else if let Some(head) = self.replay.take() {
                connection.socket.send(head);
            }
        }
        self.upstream = Upstream::Active(connection);
    }

    /// RFC 9110 section 9.2.2: sending it twice does what sending it once does.
    fn is_idempotent(&self) -> bool {
        use Method::{Delete, Get, Head, Options, Put, Trace};
        self.tunnel == Tunnel::None
            && matches!(self.client.method, Get | Head | Put | Delete | Options | Trace)
    }

    fn open_tunnel(&mut self) {
        self.request.body = BodyDecoder::UntilClose;
        self.request.chunked = false;
        self.deadlines.response = None;
    }

    /// Lets go of upstream: back to its pool when both messages ended cleanly on it.
    fn release_upstream(&mut self, shard: &Shard) {
        let Upstream::Active(connection) = std::mem::take(&mut self.upstream) else { return };
        let Some((cluster, host)) = &self.destination else { return };
        host.request_ends();
        cluster.stats.upstream_rq_active.dec();
        let clean = self.request.complete && self.response.phase == ResponsePhase::Complete;
        if clean && self.response.reusable {
            host.give_back(shard, connection);
        } else if !clean {
            cluster.stats.upstream_cx_destroy_with_active_rq.inc();
        }
    }

    // ---- moving bytes --------------------------------------------------------------------------

    fn try_advance(&mut self, down: &mut Downstream<'_>, timer_fired: bool) -> Result<(), Stop> {
        if down.socket.send_error().is_some() {
            return Err(Progress::Gone);
        }
        self.poll_upstream(down);
        if timer_fired {
            self.check_deadlines(down)?;
        }
        self.pump_request(down)?;
        self.pump_response(down)?;
        self.conclude(down)?;
        self.notice_departure(down)
    }

    fn pump_request(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        while !self.request.complete {
            let room = match &self.upstream {
                Upstream::Active(connection) => {
                    let full = connection.socket.unsent() >= down.marks.high;
                    if full {
                        connection.socket.wake_at_unsent(down.marks.low);
                    }
                    // Before upstream agreed to a tunnel, its bytes stay where they are.
                    !full && (self.tunnel == Tunnel::None || self.is_tunnelling())
                }
                // A reply of ours went out: take what is there, so that the close that follows
                // resets nobody.
                Upstream::Idle => self.response.phase == ResponsePhase::Complete,
                Upstream::Waiting { .. } | Upstream::Connecting { .. } => false,
            };
            if !room {
                return Ok(());
            }
            match down.input.next(down.socket) {
                Received::Chunk(chunk) => self.forward_request(down, chunk)?,
                Received::None => return Ok(()),
                Received::End if self.is_tunnelling() => {
                    self.request.complete = true;
                    if let Upstream::Active(connection) = &self.upstream {
                        connection.socket.finish();
                    }
                }
                Received::End | Received::Failed(_) => return Err(Progress::Gone),
            }
        }
        Ok(())
    }

    fn forward_request(&mut self, down: &mut Downstream<'_>, chunk: Chunk) -> Result<(), Stop> {
        self.touch(down.shard);
        let mut rest = chunk;
        loop {
            let Ok(step) = self.request.body.decode(&rest) else {
                down.http.stats.downstream_cx_protocol_error.inc();
                return self.bad_request_body(down);
            };
            let data = rest.slice(step.data);
            self.facts.bytes.received += data.len() as u64;
            if let Upstream::Active(connection) = &self.upstream
                && !data.is_empty()
            {
                send_body(down.shard, &connection.socket, data, self.request.chunked);
            }
            rest.advance(step.consumed);
            if step.done {
                self.end_request(down);
                down.input.put_back(rest);
                return Ok(());
            }
            if step.consumed == 0 || rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// The request's framing is lost: upstream must not take what came for a whole request.
    fn bad_request_body(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        self.release_upstream(down.shard);
        self.facts.flags.insert(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
        if self.response.phase != ResponsePhase::Head {
            return Err(Progress::Reset);
        }
        let reply = Reply::empty(400, "http1.codec_error").closing();
        self.reply(down, &reply);
        Err(Progress::Close)
    }

    fn end_request(&mut self, down: &mut Downstream<'_>) {
        let now = down.shard.clock.now();
        self.request.complete = true;
        self.deadlines.request = None;
        self.facts.times.downstream_rx_end = now;
        self.facts.times.upstream_tx_end = now;
        self.begin_response_deadline(down.shard);
        let Upstream::Active(connection) = &self.upstream else { return };
        if self.request.chunked {
            let enabled = down.http.config.http1.enable_trailers;
            send_last_chunk(down.shard, &connection.socket, &mut self.request.body, enabled);
        }
    }

    fn pump_response(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        while self.response.phase != ResponsePhase::Complete {
            let Upstream::Active(connection) = &self.upstream else { return Ok(()) };
            if down.socket.unsent() >= down.marks.high {
                down.socket.wake_at_unsent(down.marks.low);
                return Ok(());
            }
            match connection.socket.receive() {
                Received::Chunk(chunk) => self.forward_response(down, chunk)?,
                Received::None => return Ok(()),
                Received::End => self.upstream_ended(down, true)?,
                Received::Failed(_) => self.upstream_ended(down, false)?,
            }
        }
        Ok(())
    }

    fn forward_response(&mut self, down: &mut Downstream<'_>, chunk: Chunk) -> Result<(), Stop> {
        self.touch(down.shard);
        self.replay = None;
        self.facts.bytes.upstream_wire_received += chunk.len() as u64;
        let mut rest = chunk;
        while self.response.phase == ResponsePhase::Head {
            match self.read_response_head(down, &rest)? {
                Some(len) => rest.advance(len),
                None => return Ok(()),
            }
            if rest.is_empty() && self.response.phase == ResponsePhase::Head {
                return Ok(());
            }
        }
        self.forward_response_body(down, rest)
    }

    fn forward_response_body(
        &mut self,
        down: &mut Downstream<'_>,
        mut rest: Chunk,
    ) -> Result<(), Stop> {
        while self.response.phase == ResponsePhase::Body {
            let Ok(step) = self.response.body.decode(&rest) else {
                self.facts.flags.insert(ResponseFlags::UPSTREAM_PROTOCOL_ERROR);
                self.count_protocol_error();
                return Err(Progress::Reset);
            };
            let data = rest.slice(step.data);
            self.facts.bytes.sent += data.len() as u64;
            if !data.is_empty() {
                send_body(down.shard, down.socket, data, self.response.chunked);
            }
            rest.advance(step.consumed);
            if step.done {
                self.end_response(down);
            } else if step.consumed == 0 || rest.is_empty() {
                return Ok(());
            }
        }
        if !rest.is_empty() {
            // More than the response: whoever would be given this connection would get it.
            self.response.reusable = false;
            self.count_protocol_error();
        }
        Ok(())
    }

    fn end_response(&mut self, down: &mut Downstream<'_>) {
        self.response.phase = ResponsePhase::Complete;
        self.facts.times.upstream_rx_end = down.shard.clock.now();
        if self.response.chunked {
            let enabled = self
                .destination
                .as_ref()
                .is_some_and(|(cluster, _)| cluster.config.http.enable_trailers);
            let body = &mut self.response.body;
            send_last_chunk(down.shard, down.socket, body, enabled);
        }
    }

    /// Upstream finished sending (`cleanly`), or its connection failed.
    fn upstream_ended(&mut self, down: &mut Downstream<'_>, cleanly: bool) -> Result<(), Stop> {
        self.response.reusable = false;
        if self.response.phase == ResponsePhase::Body {
            if cleanly && self.response.body.on_eof().is_ok() {
                self.end_response(down);
                if self.is_tunnelling() {
                    down.socket.finish();
                }
                return Ok(());
            }
            if let Some((cluster, _)) = &self.destination {
                cluster.stats.upstream_cx_destroy_remote_with_active_rq.inc();
                cluster.stats.upstream_rq_rx_reset.inc();
            }
            self.facts.flags.insert(ResponseFlags::UPSTREAM_CONNECTION_TERMINATION);
            self.facts.details = "upstream_reset_after_response_started{connection_termination}";
            down.http.stats.rq_reset_after_downstream_response_started.inc();
            return Err(Progress::Reset);
        }
        self.upstream_died_early(down);
        Ok(())
    }

    /// Upstream closed before it answered: send the request again where that is safe, else say so.
    fn upstream_died_early(&mut self, down: &mut Downstream<'_>) {
        let unanswered = self.response.partial.is_empty();
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.upstream_cx_destroy_remote_with_active_rq.inc();
        }
        self.release_upstream(down.shard);
        if unanswered && self.replay.is_some() && !self.replayed {
            self.replayed = true;
            if let Some((cluster, _)) = &self.destination {
                cluster.stats.upstream_rq_retry.inc();
            }
            return self.acquire(down);
        }
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.upstream_rq_rx_reset.inc();
        }
        self.reply(down, &Reply::upstream_failure(UpstreamFailure::Closed));
    }

    fn count_protocol_error(&self) {
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.upstream_cx_protocol_error.inc();
        }
    }

    /// Ends the exchange when both messages are dealt with.
    fn conclude(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        if self.response.phase != ResponsePhase::Complete {
            return Ok(());
        }
        if self.is_tunnelling() && !self.request.complete {
            // The other direction may go on: FIN is forwarded for each by itself.
            return Ok(());
        }
        if !self.request.complete {
            // The answer came before the end of the request. On HTTP/1 there is no other way to
            // be rid of the rest than to close.
            down.http.stats.downstream_rq_response_before_rq_complete.inc();
            return Err(Progress::Close);
        }
        Err(if self.response.closes { Progress::Close } else { Progress::KeepAlive })
    }

    /// A client that closes while it waits for its response gives the request up.
    fn notice_departure(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        let waits = self.request.complete && self.response.phase != ResponsePhase::Complete;
        if waits && !self.is_tunnelling() && down.socket.is_over() {
            if let Some((cluster, _)) = &self.destination {
                cluster.stats.upstream_rq_cancelled.inc();
            }
            return Err(Progress::Gone);
        }
        Ok(())
    }

    fn is_tunnelling(&self) -> bool {
        self.tunnel != Tunnel::None && self.response.phase != ResponsePhase::Head
    }

    // ---- deadlines -------------------------------------------------------------------------------

    /// Something moved: the idle timeout starts again.
    fn touch(&mut self, shard: &Shard) {
        self.deadlines.idle = after(shard.clock.now(), self.deadlines.idle_timeout);
    }

    fn begin_response_deadline(&mut self, shard: &Shard) {
        if self.request.complete {
            self.deadlines.response = after(shard.clock.now(), self.deadlines.timeout);
        }
    }

    fn check_deadlines(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        let now = down.shard.clock.now();
        let passed = |deadline: Option<Nanos>| deadline.is_some_and(|at| at <= now);
        if passed(self.deadlines.connect) {
            self.deadlines.connect = None;
            if let Some((cluster, _)) = &self.destination {
                cluster.stats.upstream_cx_connect_timeout.inc();
                cluster.stats.upstream_cx_connect_fail.inc();
            }
            self.upstream = Upstream::Idle;
            self.reply(down, &Reply::upstream_failure(UpstreamFailure::ConnectTimeout));
            return Ok(());
        }
        let expired = if passed(self.deadlines.request) {
            down.http.stats.downstream_rq_timeout.inc();
            let flags = ResponseFlags::default();
            Reply::text(408, "request timeout", flags, "request_overall_timeout").closing()
        } else if passed(self.deadlines.response) {
            if let Some((cluster, _)) = &self.destination {
                cluster.stats.upstream_rq_timeout.inc();
            }
            let flags = ResponseFlags::UPSTREAM_REQUEST_TIMEOUT;
            Reply::text(504, "upstream request timeout", flags, "response_timeout")
        } else if passed(self.deadlines.stream) {
            down.http.stats.downstream_rq_max_duration_reached.inc();
            let flags = ResponseFlags::DURATION_TIMEOUT;
            Reply::text(504, "stream timeout", flags, "max_duration_timeout").closing()
        } else if passed(self.deadlines.idle) {
            down.http.stats.downstream_rq_idle_timeout.inc();
            let flags = ResponseFlags::STREAM_IDLE_TIMEOUT;
            Reply::text(408, "stream timeout", flags, "stream_idle_timeout").closing()
        } else {
            return Ok(());
        };
        self.release_upstream(down.shard);
        if self.response.phase == ResponsePhase::Head {
            self.reply(down, &expired);
            return Ok(());
        }
        self.facts.flags.insert(expired.flags);
        self.facts.details = expired.details;
        if self.is_tunnelling() { Err(Progress::Close) } else { Err(Progress::Reset) }
    }

    // ---- the response's head -----------------------------------------------------------------------

    /// Reads a response head from what is there. Returns how much of `bytes` it took; nothing when
    /// the head is not complete.
    fn read_response_head(
        &mut self,
        down: &mut Downstream<'_>,
        bytes: &[u8],
    ) -> Result<Option<usize>, Stop> {
        let limits = self.response_limits();
        if self.response.partial.is_empty() {
            let mut storage = FieldStorage::new();
            return match ResponseHead::parse(bytes, &mut storage, &limits) {
                Ok(Some(head)) => self.take_response_head(down, &head).map(|()| Some(head.len)),
                Ok(None) => {
                    self.response.partial.extend_from_slice(bytes);
                    Ok(None)
                }
                Err(error) => self.refuse_response(down, error).map(|()| None),
            };
        }
        let mut partial = std::mem::take(&mut self.response.partial);
        let before = partial.len();
        partial.extend_from_slice(bytes);
        let mut storage = FieldStorage::new();
        match ResponseHead::parse(&partial, &mut storage, &limits) {
            Ok(Some(head)) => {
                let taken = self.take_response_head(down, &head).map(|()| Some(head.len - before));
                drop(storage);
                partial.clear();
                self.response.partial = partial;
                taken
            }
            Ok(None) => {
                drop(storage);
                self.response.partial = partial;
                Ok(None)
            }
            Err(error) => self.refuse_response(down, error).map(|()| None),
        }
    }

    fn response_limits(&self) -> HeadLimits {
        self.destination.as_ref().map_or_else(HeadLimits::default, |(cluster, _)| HeadLimits {
            bytes_max: cluster.config.http.max_response_headers_bytes as usize,
            fields_max: cluster.config.http.max_headers_count as usize,
        })
    }

    /// Upstream's answer can't be understood, or not in one way only.
    fn refuse_response(&mut self, down: &mut Downstream<'_>, error: HeadError) -> Result<(), Stop> {
        self.count_protocol_error();
        if let Some((cluster, host)) = &self.destination {
            log::warn!(
                target: "upstream",
                "{}: the response of {} is refused: {error}",
                cluster.config.name, host.address_text
            );
        }
        self.release_upstream(down.shard);
        self.reply(down, &Reply::upstream_failure(UpstreamFailure::Protocol));
        Ok(())
    }

    fn take_response_head(
        &mut self,
        down: &mut Downstream<'_>,
        head: &ResponseHead<'_, '_>,
    ) -> Result<(), Stop> {
        if (100..200).contains(&head.status) && head.status != 101 {
            self.relay_interim(down, head);
            return Ok(());
        }
        let switches = match self.tunnel {
            Tunnel::Upgrade => head.status == 101,
            Tunnel::Connect => (200..300).contains(&head.status),
            Tunnel::None | Tunnel::ConnectTerminated => false,
        };
        let framing = match head.framing(self.client.method) {
            Ok(framing) if head.status != 101 || switches => framing,
            Ok(_) => return self.refuse_response(down, HeadError::StatusLineInvalid),
            Err(error) => return self.refuse_response(down, error),
        };
        self.facts.times.upstream_rx_begin = down.shard.clock.now();
        self.facts.code = head.status;
        self.facts.details = "via_upstream";
        self.facts.bytes.upstream_header_received = head.len as u64;
        self.count_response(down, head.status);
        self.response.reusable = head.keep_alive() && framing != BodyFraming::UntilClose;
        self.response.phase = ResponsePhase::Body;
        if switches {
            self.response.body = BodyDecoder::UntilClose;
            self.response.closes = true;
        } else {
            self.response.chunked = !self.client.http10
                && matches!(framing, BodyFraming::Chunked | BodyFraming::UntilClose);
            self.response.closes |= self.must_close(down, framing);
            self.response.body = BodyDecoder::from(framing);
        }
        self.send_response_head(down, head, framing, switches);
        if switches {
            self.open_tunnel();
        } else {
            if self.tunnel != Tunnel::None {
                // No tunnel after all: what the client sent for it belongs to nobody.
                self.tunnel = Tunnel::None;
                down.http.stats.downstream_cx_upgrades_active.dec();
            }
            if self.response.body.is_done() {
                self.end_response(down);
            }
        }
        Ok(())
    }

    fn must_close(&self, down: &Downstream<'_>, framing: BodyFraming) -> bool {
        let unframed = self.client.http10
            && matches!(framing, BodyFraming::Chunked | BodyFraming::UntilClose);
        let draining = down.shard.is_draining();
        if draining {
            down.http.stats.downstream_cx_drain_close.inc();
        }
        !self.client.keep_alive || unframed || draining || self.tunnel != Tunnel::None
    }

    fn count_response(&self, down: &Downstream<'_>, status: u16) {
        let Some((cluster, _)) = &self.destination else { return };
        cluster.stats.response(status);
        let sent = self.facts.times.upstream_tx_begin;
        let took = down.shard.clock.now() - sent;
        cluster.stats.upstream_rq_time.record(took / NANOS_PER_MS);
        if self.replayed {
            cluster.stats.upstream_rq_retry_success.inc();
        }
    }

    /// Passes a 1xx response on to a client that can read it (RFC 9110 section 15.2). A 100 that
    /// nobody waits for, because we have answered the expectation, is dropped.
    fn relay_interim(&self, down: &Downstream<'_>, head: &ResponseHead<'_, '_>) {
        let awaited = head.status != 100
            || (down.http.config.proxy_100_continue && self.client.expects_continue);
        if self.client.http10 || !awaited {
            return;
        }
        down.socket.send(down.shard.arena.write(|out| {
            render::status_line(out, head.status, "");
            for field in head.fields {
                if !field.kind.is_hop_by_hop() && !is_framing(field) {
                    render::field(out, field.name, field.value);
                }
            }
            out.put(b"\r\n");
        }));
    }

    fn send_response_head(
        &mut self,
        down: &Downstream<'_>,
        head: &ResponseHead<'_, '_>,
        framing: BodyFraming,
        switches: bool,
    ) {
        let (shard, http) = (down.shard, down.http);
        let config = &http.config;
        let none = HeaderEdits::default();
        let ops = &self.response_edits.of(&config.routes).unwrap_or(&none).ops;
        let mut scratch = shard.scratch.borrow_mut();
        let HttpScratch { edits, .. } = &mut *scratch;
        let service_time = (shard.clock.now() - self.facts.times.upstream_tx_begin) / NANOS_PER_MS;
        let mut digits = [0; 20];
        let outbound = OutboundResponse {
            head,
            server: match config.server.mode {
                ServerHeaderMode::Overwrite => Some(&*config.server.name),
                ServerHeaderMode::AppendIfAbsent
                    if !head.fields.iter().any(|field| field.kind == FieldKind::Server) =>
                {
                    Some(&*config.server.name)
                }
                ServerHeaderMode::AppendIfAbsent | ServerHeaderMode::PassThrough => None,
            },
            service_time: (!config.router.suppress_envoy_headers)
                .then(|| render::decimal(service_time, &mut digits)),
            request_id: self
                .request_id
                .as_ref()
                .filter(|_| config.request_id.always_set_in_response)
                .map(|id| &id[..]),
            date: shard.clock.date(),
        };
        if !ops.is_empty() {
            let record = self.record_of(down);
            let mut logger = shard.logger.borrow_mut();
            edits.work_out(
                ops,
                |name| outbound.response(name).is_some(),
                |op, out| {
                    if let HeaderOp::Set { value, .. } = op {
                        match value.as_literal() {
                            Some(literal) => out.extend_from_slice(literal.as_bytes()),
                            None => {
                                logger.renderer().template(value, &record, &outbound, b"", out);
                            }
                        }
                    }
                },
            );
        }
        let closes = self.response.closes;
        let chunked = self.response.chunked;
        let chunk = shard.arena.write(|out| {
            render::status_line(out, head.status, "");
            let case = config.http1.header_case;
            let mut writer = FieldWriter { out, case, ops, edits };
            outbound.write_fields(&mut writer);
            if let Some(via) = &config.via {
                writer.field("via", via.as_bytes());
            }
            writer.additions();
            if switches && head.status == 101 {
                writer.verbatim("connection", b"upgrade");
                writer.verbatim("upgrade", head.upgrade.unwrap_or_default());
            } else if switches {
                // A 2xx to CONNECT has neither framing nor an end.
            } else {
                if chunked {
                    writer.framing(BodyFraming::Chunked);
                } else if let Some(length) = announced_length(head, framing, self.client.method) {
                    writer.framing(BodyFraming::Length(length));
                }
                if closes {
                    writer.verbatim("connection", b"close");
                } else if self.client.http10 {
                    writer.verbatim("connection", b"keep-alive");
                }
            }
            writer.end();
        });
        self.facts.bytes.response_headers = chunk.len() as u64;
        self.facts.times.downstream_tx_begin = shard.clock.now();
        for (slot, name) in down.http.logs.captures().response_headers() {
            let added = edits.additions(ops).find(|(known, _)| !ops.is_empty() && *known == name);
            let dropped = !ops.is_empty() && edits.drops(ops, name);
            let value = match added {
                Some((_, value)) => Some(value),
                None if dropped => None,
                None => outbound.response(name),
            };
            if let Some(value) = value {
                self.facts.capture.put(slot, value);
            }
        }
        down.socket.send(chunk);
    }

    // ---- replies of ours ---------------------------------------------------------------------------

    /// Answers in place of upstream.
    pub(super) fn reply(&mut self, down: &mut Downstream<'_>, reply: &Reply) {
        self.release_upstream(down.shard);
        self.upstream = Upstream::Idle;
        self.deadlines = Deadlines::default();
        self.replay = None;
        self.tunnel_refused(down);
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.response(reply.status);
        }
        self.facts.code = reply.status;
        self.facts.details = reply.details;
        self.facts.flags.insert(reply.flags);
        self.facts.times.downstream_tx_begin = down.shard.clock.now();
        self.response.phase = ResponsePhase::Complete;
        // What the request still has to say is read as far as it is here already.
        let unread = !self.request.complete;
        self.response.closes =
            reply.close || unread || !self.client.keep_alive || down.shard.is_draining();
        let server = &down.http.config.server;
        let frame = ReplyFrame {
            date: down.shard.clock.date(),
            server: (server.mode != ServerHeaderMode::PassThrough).then_some(&*server.name),
            request_id: self
                .request_id
                .as_ref()
                .filter(|_| down.http.config.request_id.always_set_in_response)
                .map(|id| &id[..]),
            close: self.response.closes,
            http10: self.client.http10,
            head_only: self.client.method == Method::Head,
        };
        let (chunk, head_len) = reply.render(&down.shard.arena, &frame);
        self.facts.bytes.response_headers = head_len as u64;
        self.facts.bytes.sent = (chunk.len() - head_len) as u64;
        down.socket.send(chunk);
    }

    fn tunnel_refused(&mut self, down: &Downstream<'_>) {
        if self.tunnel != Tunnel::None && self.destination.is_some() {
            down.http.stats.downstream_cx_upgrades_active.dec();
        }
        self.tunnel = Tunnel::None;
    }

    // ---- the access log ------------------------------------------------------------------------------

    /// What is known when the request's head is rendered.
    pub(super) fn record<'a>(
        &'a self,
        arrival: &Arrival<'_>,
        cluster: &'a ClusterRuntime,
    ) -> Record<'a> {
        let mut record = self.common_record(arrival.shard, arrival.peer, arrival.connection_id);
        record.upstream_cluster = Some(&cluster.config.stat_name);
        record.upstream_cluster_raw = Some(&cluster.config.name);
        record
    }

    fn record_of(&self, down: &Downstream<'_>) -> Record<'_> {
        let mut record = self.common_record(down.shard, down.peer, down.connection_id);
        if let Some((cluster, host)) = &self.destination {
            record.upstream_cluster = Some(&cluster.config.stat_name);
            record.upstream_cluster_raw = Some(&cluster.config.name);
            record.upstream_remote = Some(match host.endpoint.address.ip() {
                Some(address) => access_log::Address::Ip(address),
                None => access_log::Address::Pipe(&host.address_text),
            });
            record.upstream_host_name = Some(&*host.endpoint.hostname).filter(|name| !name.is_empty());
            record.upstream_protocol = Some(Protocol::Http11);
        }
        record
    }

    fn common_record(&self, shard: &Shard, peer: Peer, connection_id: u64) -> Record<'_> {
        let now = shard.clock.now();
        let facts = &self.facts;
        let age = now.saturating_sub(facts.times.downstream_rx_begin);
        let address = match peer {
            Peer::Ip(address) => access_log::Address::Ip(address),
            Peer::Unix => access_log::Address::Pipe(""),
        };
        Record {
            start_wall_ns: shard.clock.unix_ns() - age,
            emit_wall_ns: shard.clock.unix_ns(),
            times: facts.times,
            protocol: Some(if self.client.http10 { Protocol::Http10 } else { Protocol::Http11 }),
            response_code: facts.code,
            flags: facts.flags,
            response_code_details: Some(facts.details).filter(|details| !details.is_empty()),
            bytes: facts.bytes,
            downstream_remote: Some(address),
            downstream_direct_remote: Some(address),
            upstream_connection_id: facts.upstream_connection_id,
            upstream_attempts: facts.attempts,
            upstream_transport_failure: Some(facts.upstream_failure)
                .filter(|failure| !failure.is_empty()),
            connection_id,
            stream_id: (facts.stream_id != 0).then_some(StreamId(facts.stream_id)),
            log_type: LogType::DownstreamEnd,
            ..Record::default()
        }
    }

    fn log(&self, down: &Downstream<'_>) {
        let mut record = self.record_of(down);
        let routes = &down.http.config.routes;
        record.route_name = self
            .response_edits
            .route()
            .and_then(|id| routes.route(id))
            .map(|route| &*route.name)
            .filter(|name| !name.is_empty());
        let mut logger = down.shard.logger.borrow_mut();
        logger.log(&down.http.logs, &record, &self.facts.capture);
    }
}

impl ResponseEdits {
    fn route(self) -> Option<RouteId> {
        match self {
            Self::None => None,
            Self::Route(id) | Self::Weighted(id, _) => Some(id),
        }
    }

    fn of(self, routes: &RouteTable) -> Option<&HeaderEdits> {
        let route = routes.route(self.route()?)?;
        let Self::Weighted(_, index) = self else { return Some(&route.response_headers) };
        match &route.action {
            RouteAction::Forward(forward) => match &forward.target {
                Target::Weighted(clusters) => {
                    clusters.all().get(index).map(|entry| &entry.response_headers)
                }
                Target::Cluster(_) | Target::Header(_) => None,
            },
            _ => None,
        }
    }
}

/// A response as it goes downstream.
struct OutboundResponse<'a> {
    head: &'a ResponseHead<'a, 'a>,
    server: Option<&'a str>,
    service_time: Option<&'a [u8]>,
    request_id: Option<&'a [u8]>,
    date: [u8; 29],
}

impl OutboundResponse<'_> {
    fn write_fields<P: Put>(&self, writer: &mut FieldWriter<'_, P>) {
        let mut dated = false;
        for field in self.head.fields {
            let written_anew = field.kind.is_hop_by_hop()
                || is_framing(field)
                || match field.kind {
                    FieldKind::Server => self.server.is_some(),
                    FieldKind::XRequestId => self.request_id.is_some(),
                    FieldKind::XEnvoy => {
                        self.service_time.is_some()
                            && field.name.eq_ignore_ascii_case("x-envoy-upstream-service-time")
                    }
                    _ => false,
                };
            dated |= field.kind == FieldKind::Date;
            if !written_anew {
                writer.field(field.name, field.value);
            }
        }
        if !dated {
            writer.field("date", &self.date);
        }
        if let Some(server) = self.server {
            writer.field("server", server.as_bytes());
        }
        if let Some(time) = self.service_time {
            writer.field("x-envoy-upstream-service-time", time);
        }
        if let Some(id) = self.request_id {
            writer.field("x-request-id", id);
        }
    }
}

impl Headers for OutboundResponse<'_> {
    fn request(&self, _name: &str) -> Option<&[u8]> {
        None
    }

    fn response(&self, name: &str) -> Option<&[u8]> {
        match (name, self.server, self.service_time, self.request_id) {
            ("server", Some(server), _, _) => Some(server.as_bytes()),
            ("x-envoy-upstream-service-time", _, Some(time), _) => Some(time),
            ("x-request-id", _, _, Some(id)) => Some(id),
            _ => match self.head.field(name) {
                Some(field) if !field.kind.is_hop_by_hop() => Some(field.value),
                None if name == "date" => Some(&self.date),
                _ => None,
            },
        }
    }

    fn trailer(&self, _name: &str) -> Option<&[u8]> {
        None
    }
}

/// The length to announce: the framing's, or for a body that is not sent what upstream said of it.
fn announced_length(
    head: &ResponseHead<'_, '_>,
    framing: BodyFraming,
    method: Method,
) -> Option<u64> {
    match framing {
        BodyFraming::Length(length) => Some(length),
        BodyFraming::None if method == Method::Head || head.status == 304 => {
            let field = head.fields.iter().find(|field| field.kind == FieldKind::ContentLength)?;
            std::str::from_utf8(field.value).ok()?.parse().ok()
        }
        BodyFraming::None | BodyFraming::Chunked | BodyFraming::UntilClose => None,
    }
}

/// Sends body bytes, as a chunk where the body goes out chunked (RFC 9112 section 7.1).
fn send_body(shard: &Shard, socket: &Socket, data: Chunk, chunked: bool) {
    if !chunked {
        return socket.send(data);
    }
    socket.send(shard.arena.write(|out| render::chunk_size_line(out, data.len())));
    socket.send(data);
    // Sent at once, for clients that act on a chunk only when they have seen its end.
    socket.send(shard.arena.copy(b"\r\n"));
}

/// Ends a chunked body, with the trailers that came if they are to go on.
fn send_last_chunk(shard: &Shard, socket: &Socket, body: &mut BodyDecoder, trailers: bool) {
    let section = match body {
        BodyDecoder::Chunked(decoder) if trailers => decoder.take_trailers(),
        _ => None,
    };
    socket.send(shard.arena.write(|out| match section {
        Some(section) => {
            out.put(b"0\r\n");
            out.put(&section);
            out.put(b"\r\n");
        }
        None => out.put(LAST_CHUNK),
    }));
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

const CONNECTION_ESTABLISHED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// Room for a head that came in pieces that is kept for the next exchange.
const PARTIAL_KEPT_BYTES: usize = 4096;
