//! One request and its response, on their way between downstream and upstream.
//!
//! | upstream state | means | goes on with |
//! |---|---|---|
//! | `Idle` | nothing to send to: a reply of ours, done, or no route yet | - |
//! | `Waiting` | the connection limit is reached | another request ends |
//! | `Connecting` | a connect is under way | connected, refused, timed out |
//! | `Http1`, `Http2` | the request is being sent or its response awaited | the response ends |
//! | `Joining` | an HTTP/2 connection is being made | it is open, or has failed |
//!
//! Either side may speak either version of HTTP: downstream's differences are behind
//! [`Downstream`], upstream's in `http1` and `http2`. Bodies move as chunks, never collected: a chunk
//! is taken from one side only while the other has room for it. Invariant: the upstream connection
//! goes back to its pool only after both messages ended cleanly on it; any doubt closes it.

mod deadlines;
mod demand;
mod head;
mod http1;
mod http2;
mod inspection;
mod report;
mod response;
mod retry;
mod transfer;
mod tunnel;
mod upstream;

use std::rc::Rc;
use std::time::Duration;

use outrigger_codecs::http::{BodyFraming, FieldBlock, Method, RequestHead, Version};
use outrigger_codecs::http1::BodyDecoder;
use outrigger_xds::snapshot::{Forward, GrpcTimeout, RouteId};

use crate::access_log::ResponseFlags;
use crate::cluster::{
    Admission, ClientStream, ClusterRuntime, Connector, HeldRoutes, Host, Http2Client, Place,
    UpstreamConnection,
};
use crate::shard::Shard;
use crate::timer::Nanos;

use super::begin::{Arrival, Begun, Destination};
use super::demand::DemandCall;
use super::downstream::Downstream;
use super::facts::Facts;
use super::filters::{Filtered, Filters};
use super::grpc::{self, GrpcCall};
use super::reply::Reply;
use super::retry::Retries;
use super::soap::SoapCall;
use super::upgrade::Tunnel;
use super::{HttpRuntime, NANOS_PER_MS, after, earliest};

pub(super) use self::head::{HeadForm, OutboundHead};

/// One exchange. Kept for reuse with the memory of its buffers.
#[derive(Default)]
pub struct Exchange {
    pub(super) facts: Facts,
    pub(super) tunnel: Tunnel,
    /// What it was routed by; responses are edited by the same table, whatever comes meanwhile.
    pub(super) routes: Option<Rc<HeldRoutes>>,
    pub(super) response_edits: ResponseEdits,
    pub(super) request_id: Option<[u8; 36]>,
    client: Client,
    request: RequestSide,
    response: ResponseSide,
    upstream: Upstream,
    destination: Option<(Rc<ClusterRuntime>, Rc<Host>)>,
    /// The cluster of a request for which there was no host.
    pub(super) hostless_cluster: Option<Rc<ClusterRuntime>>,
    /// The request is counted in its cluster's limit of requests.
    counted: bool,
    deadlines: Deadlines,
    /// The request's head as it goes upstream, and what may be sent again with it.
    pub(super) outbound: OutboundHead,
    /// What gRPC adds to the exchange.
    pub(super) grpc: GrpcCall,
    /// What SOAP adds to it.
    pub(super) soap: SoapCall,
    /// What it waits for before it can be routed.
    pub(super) demand: DemandCall,
    /// What filters made of it.
    pub(super) filtered: Filtered,
    /// What the request's beginning came to, while a fault holds the request back.
    delayed: Option<Box<Result<Destination, Reply>>>,
    /// How it is sent again.
    retries: Retries,
    /// It may be sent once more, should its connection turn out to be dead.
    may_replay: bool,
    /// Something of it went out in this try.
    sent: bool,
    /// A timeout is answered with 204, because the request wants that.
    mute_timeout: bool,
    /// The connection was used before, so it may have died unnoticed.
    reused: bool,
    /// The request went out on HTTP/2.
    over_http2: bool,
    /// The response was given up, by upstream or at a deadline, and did not fail.
    cancelled: bool,
    replays: u8,
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
    version: Version,
    keep_alive: bool,
    expects_continue: bool,
}

impl Client {
    fn http10(self) -> bool {
        self.version == Version::Http10
    }
}

impl Default for Client {
    fn default() -> Self {
        // Of a request that could not be read: answer as to anybody, then close.
        Self {
            method: Method::Other,
            version: Version::Http11,
            keep_alive: false,
            expects_continue: false,
        }
    }
}

struct RequestSide {
    /// Its framing on HTTP/1.
    body: BodyDecoder,
    /// Its length is not known before its end.
    chunked: bool,
    complete: bool,
    /// Downstream is not read because upstream takes no more.
    paused: bool,
}

impl Default for RequestSide {
    fn default() -> Self {
        Self { body: BodyDecoder::None, chunked: false, complete: true, paused: false }
    }
}

struct ResponseSide {
    phase: ResponsePhase,
    body: BodyDecoder,
    chunked: bool,
    /// An HTTP/1 head that came in pieces.
    partial: Vec<u8>,
    /// An HTTP/2 head that is being read.
    block: FieldBlock,
    /// The downstream connection ends with this response.
    closes: bool,
    /// The upstream connection can be used again after it.
    reusable: bool,
    /// Upstream is not read because downstream takes no more.
    paused: bool,
}

impl Default for ResponseSide {
    fn default() -> Self {
        Self {
            phase: ResponsePhase::Head,
            body: BodyDecoder::None,
            chunked: false,
            partial: Vec::new(),
            block: FieldBlock::default(),
            closes: false,
            reusable: false,
            paused: false,
        }
    }
}

impl ResponseSide {
    fn clear(&mut self) {
        let Self { phase, body, chunked, partial, block, closes, reusable, paused } = self;
        partial.clear();
        partial.shrink_to(PARTIAL_KEPT_BYTES);
        block.clear();
        block.shrink_to(PARTIAL_KEPT_BYTES);
        *phase = ResponsePhase::Head;
        *body = BodyDecoder::None;
        (*chunked, *closes, *reusable, *paused) = (false, false, false, false);
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
        connector: Connector,
        connection: Admission,
        _pending: Admission,
    },
    Joining {
        client: Rc<Http2Client>,
        _pending: Admission,
    },
    Http1(Box<UpstreamConnection>),
    Http2(ClientStream),
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
    /// The request's body is looked at for its operation.
    inspection: Option<Nanos>,
    /// What the request needs is asked for.
    demand: Option<Nanos>,
    /// A fault has held the request back for long enough.
    delay: Option<Nanos>,
    /// The next try is due.
    retry: Option<Nanos>,
    /// This try, as a whole and without a sign of life.
    one_try: Option<Nanos>,
    try_idle: Option<Nanos>,
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
            version: head.version,
            keep_alive: head.keep_alive(),
            expects_continue: head.expect_continue,
        };
        self.grpc.accept(head);
        self.request = RequestSide {
            body: BodyDecoder::from(head.framing),
            chunked: head.framing == BodyFraming::Chunked,
            complete: head.framing.is_empty(),
            paused: false,
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
        if head.version == Version::Http2 {
            arrival.http.stats.downstream_rq_http2_total.inc();
        } else {
            arrival.http.stats.downstream_rq_http1_total.inc();
        }
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

    /// Bridges the request if it is gRPC-Web and that is wanted.
    pub(super) fn bridge_grpc(&mut self, filters: &Filters, head: &RequestHead<'_, '_>) {
        self.grpc.bridge(filters, head);
        self.request.chunked |= self.grpc.rewrites_request() && !self.request.complete;
    }

    /// Applies the request's own `grpc-timeout`, as far as the route lets it.
    pub(super) fn limit_by_grpc(&mut self, head: &RequestHead<'_, '_>, forward: &Forward) {
        if !self.grpc.is_grpc() || forward.grpc_timeout == GrpcTimeout::Ignored {
            return;
        }
        let asked = head.field("grpc-timeout").and_then(|field| grpc::grpc_timeout(field.value));
        match (forward.grpc_timeout, asked) {
            (GrpcTimeout::Ignored, _) | (GrpcTimeout::Stream { .. }, None) => {}
            (GrpcTimeout::Stream { max, offset }, Some(asked)) => {
                let limit = max.map_or(asked, |max| asked.min(max)).saturating_sub(offset);
                self.deadlines.stream = after(self.facts.times.downstream_rx_begin, Some(limit));
            }
            (GrpcTimeout::Route { max, .. }, None) => self.deadlines.timeout = max,
            (GrpcTimeout::Route { max, offset }, Some(asked)) => {
                let limit = max.map_or(asked, |max| asked.min(max));
                let shorter = limit.saturating_sub(offset);
                self.deadlines.timeout = Some(if shorter.is_zero() { limit } else { shorter });
            }
        }
    }

    /// Starts with what the request's beginning came to.
    pub(super) fn start(&mut self, down: &mut Downstream<'_>, begun: Begun) {
        down.http.stats.downstream_rq_active.inc();
        self.touch(down.shard);
        self.proceed(down, begun);
    }

    /// Goes on with a request that had to wait for what it is routed by.
    fn route_again(
        &mut self,
        down: &mut Downstream<'_>,
        resume: fn(&Arrival<'_>, &mut Self) -> Begun,
    ) {
        let arrival = Arrival { shard: down.shard, http: down.http, info: down.info };
        let begun = resume(&arrival, self);
        self.proceed(down, begun);
    }

    fn proceed(&mut self, down: &mut Downstream<'_>, begun: Begun) {
        match begun {
            Begun::To(destination) => self.go(down, Ok(destination)),
            Begun::Answered(reply) => self.go(down, Err(reply)),
            Begun::Held => self.begin_inspection(down),
            Begun::Demanding => self.begin_demand(down),
        }
    }

    /// Sends the request on its way, or answers it; later, where a fault holds it back.
    fn go(&mut self, down: &mut Downstream<'_>, outcome: Result<Destination, Reply>) {
        match self.filtered.delay() {
            Some(delay) => {
                self.facts.flags.insert(ResponseFlags::DELAY_INJECTED);
                self.deadlines.delay = after(down.shard.clock.now(), Some(delay));
                self.delayed = Some(Box::new(outcome));
            }
            None => self.go_now(down, outcome),
        }
    }

    /// A fault has held the request back for long enough.
    fn end_delay(&mut self, down: &mut Downstream<'_>) {
        self.deadlines.delay = None;
        self.touch(down.shard);
        if let Some(outcome) = self.delayed.take() {
            self.go_now(down, *outcome);
        }
    }

    fn go_now(&mut self, down: &mut Downstream<'_>, outcome: Result<Destination, Reply>) {
        match outcome {
            Ok(destination) => {
                let Destination { cluster, host } = destination;
                self.destination = Some((cluster, host));
                if self.tunnel != Tunnel::None {
                    // What follows is the other protocol's, once upstream agreed.
                    self.request.complete = false;
                    down.http.stats.downstream_cx_upgrades_total.inc();
                    down.http.stats.downstream_cx_upgrades_active.inc();
                }
                self.begin_response_deadline(down.shard);
                if self.client.expects_continue && !down.http.config.proxy_100_continue {
                    down.send_continue();
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
        earliest(&[
            deadlines.response,
            deadlines.idle,
            deadlines.stream,
            deadlines.request,
            deadlines.connect,
            deadlines.inspection,
            deadlines.demand,
            deadlines.delay,
            deadlines.retry,
            deadlines.one_try,
            deadlines.try_idle,
        ])
    }

    /// Whether a response that breaks off was given up, which the client is to be told.
    pub(super) fn was_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Counts and logs the exchange and puts its memory back.
    pub(super) fn finish(mut self: Box<Self>, down: &Downstream<'_>, progress: Progress) {
        let now = down.shard.clock.now();
        let stats = &down.http.stats;
        if self.tunnel != Tunnel::None && self.destination.is_some() {
            stats.downstream_cx_upgrades_active.dec();
        }
        if self.counted
            && let Some((cluster, _)) = &self.destination
        {
            cluster.breakers.requests.release(down.shard.index);
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
        if let Some(telemetry) = self.filtered.metrics.telemetry.take() {
            self.count(down, &telemetry);
        }
        if !down.http.logs.is_empty() {
            self.log(down);
        }
        self.clear();
        let mut scratch = down.shard.scratch.borrow_mut();
        if scratch.exchanges.len() < super::EXCHANGES_KEPT {
            scratch.exchanges.push(self);
        }
    }

    /// Forgets everything but the memory. In place, because an exchange is large; whoever adds a field is
    /// asked for it here.
    fn clear(&mut self) {
        let Self {
            facts,
            tunnel,
            routes,
            response_edits,
            request_id,
            client,
            request,
            response,
            upstream,
            destination,
            hostless_cluster,
            counted,
            deadlines,
            outbound,
            grpc,
            soap,
            demand,
            filtered,
            delayed,
            retries,
            may_replay,
            sent,
            mute_timeout,
            reused,
            over_http2,
            cancelled,
            replays,
        } = self;
        facts.clear();
        response.clear();
        outbound.clear();
        soap.clear();
        demand.clear();
        filtered.clear();
        retries.clear();
        *tunnel = Tunnel::default();
        *response_edits = ResponseEdits::default();
        *client = Client::default();
        *request = RequestSide::default();
        *upstream = Upstream::default();
        *deadlines = Deadlines::default();
        *grpc = GrpcCall::default();
        (*routes, *destination, *hostless_cluster) = (None, None, None);
        (*request_id, *delayed) = (None, None);
        (*counted, *may_replay, *sent, *mute_timeout) = (false, false, false, false);
        (*reused, *over_http2, *cancelled, *replays) = (false, false, false, 0);
    }
}

/// Room for a head that came in pieces that is kept for the next exchange.
const PARTIAL_KEPT_BYTES: usize = 4096;
