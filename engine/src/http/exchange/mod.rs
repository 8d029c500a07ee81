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

mod deadlines;
mod report;
mod response;
mod transfer;
mod upstream;

use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use outrigger_codecs::http::{BodyFraming, FieldKind, Method, RequestHead, Version};
use outrigger_codecs::http1::BodyDecoder;
use outrigger_xds::snapshot::{Forward, RouteId};

use crate::access_log::ResponseFlags;
use crate::buffers::Chunk;
use crate::cluster::{Admission, ClusterRuntime, Host, Place, Serving, UpstreamConnection};
use crate::ring::{Connecting, Socket};
use crate::shard::Shard;
use crate::timer::Nanos;

use super::begin::{Arrival, Destination};
use super::facts::Facts;
use super::input::Input;
use super::origin::Peer;
use super::reply::Reply;
use super::upgrade::Tunnel;
use super::{HttpRuntime, NANOS_PER_MS, after, earliest};

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
    /// The cluster of a request for which there was no host.
    pub(super) hostless_cluster: Option<Rc<ClusterRuntime>>,
    /// Held while the request is under way, where the configuration limits requests by themselves.
    admission: Option<Admission>,
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
    grpc: bool,
}

impl Default for Client {
    fn default() -> Self {
        // Of a request that could not be read: answer as to anybody, then close.
        Self {
            method: Method::Other,
            http10: false,
            keep_alive: false,
            expects_continue: false,
            grpc: false,
        }
    }
}

struct RequestSide {
    body: BodyDecoder,
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
    /// A head that came in pieces.
    partial: Vec<u8>,
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
            closes: false,
            reusable: false,
            paused: false,
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
    /// The connection may not carry another request.
    pub(super) is_last: bool,
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
            grpc: head
                .fields
                .iter()
                .any(|field| field.kind == FieldKind::ContentType && is_grpc(field.value)),
        };
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

    /// Starts towards `destination`, or answers with `reply`.
    pub(super) fn start(&mut self, down: &mut Downstream<'_>, outcome: Result<Destination, Reply>) {
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
}

/// `application/grpc`, alone or with a suffix such as `+proto`.
fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Room for a head that came in pieces that is kept for the next exchange.
const PARTIAL_KEPT_BYTES: usize = 4096;
