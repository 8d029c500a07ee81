//! A downstream HTTP/1.1 connection: one exchange after the other, then a careful close.
//!
//! | phase | means | ends with |
//! |---|---|---|
//! | `Reading` | between requests, or in the middle of a head | a head, a timeout, the end |
//! | `Exchanging` | a request is under way | the exchange's verdict |
//! | `Flushing` | the last bytes are on their way, FIN behind them | sent, or a timeout |
//! | `Lingering` | FIN is sent; what still comes is discarded | the peer's FIN, or a timeout |
//! | `Leaving` | between requests or in a tunnel, on the way to a successor | given away, or as before |
//!
//! Lingering is why a client that is still sending gets to read our last answer instead of a
//! reset. Invariant: an idle connection holds no receive buffer and no exchange.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use outrigger_codecs::http::{FieldStorage, RequestHead};
use outrigger_codecs::http1::HeadError;
use outrigger_upgrade::record::{Http1Record, ProtocolRecord, TunnelRecord};

use crate::access_log::ResponseFlags;
use crate::buffers::Chunk;
use crate::cluster::{ClusterRuntime, Host};
use crate::connection::moving::Leave;
use crate::connection::{Admitted, ConnectionGuard, ConnectionInfo};
use crate::http::begin::{Arrival, begin};
use crate::http::downstream::{Downstream, Side};
use crate::http::exchange::{Exchange, Progress};
use crate::http::kept_head::HeadSource;
use crate::http::reply::Reply;
use crate::http::{ConnectionMeter, HttpRuntime, after, earliest, max_age};
use crate::ring::{Received, Watermarks};
use crate::shard::Shard;
use crate::timer::{Nanos, Timer};
use crate::transport::Transport;

use super::Input;

/// The task of one downstream connection.
pub struct Http1Connection {
    shard: Rc<Shard>,
    http: Rc<HttpRuntime>,
    info: ConnectionInfo,
    transport: Transport,
    timer: Timer,
    marks: Watermarks,
    requests: u32,
    phase: Phase,
    input: Input,
    /// A head that comes in pieces.
    partial: Option<Vec<u8>>,
    exchange: Option<Box<Exchange>>,
    /// Since when the present phase lasts; in the middle of a head, since its first byte.
    since: Nanos,
    max_age_at: Option<Nanos>,
    watched: bool,
    meter: ConnectionMeter,
    guard: ConnectionGuard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reading,
    Exchanging,
    Flushing,
    Lingering,
    Leaving,
    Closed,
}

impl Http1Connection {
    /// Serves a connection.
    pub fn new(
        shard: &Rc<Shard>,
        http: &Rc<HttpRuntime>,
        admitted: Admitted,
        meter: ConnectionMeter,
    ) -> Self {
        http.stats.downstream_cx_http1_total.inc();
        Self::adopt(shard, http, admitted, meter, Http1Record::default())
    }

    /// Goes on with a connection that a predecessor has begun with.
    pub fn adopt(
        shard: &Rc<Shard>,
        http: &Rc<HttpRuntime>,
        admitted: Admitted,
        meter: ConnectionMeter,
        record: Http1Record,
    ) -> Self {
        let Admitted { transport, info, marks, guard } = admitted;
        let now = shard.clock.now();
        info.leaving.set_able(matches!(transport, Transport::Plain(_)));
        http.stats.downstream_cx_http1_active.inc();
        transport.start();
        Self {
            shard: Rc::clone(shard),
            http: Rc::clone(http),
            info,
            transport,
            timer: shard.timers.timer(),
            marks,
            requests: record.requests,
            phase: Phase::Reading,
            input: Input::default(),
            partial: None,
            exchange: None,
            since: now,
            max_age_at: max_age(&http.config.timeouts, now, shard.random())
                .map(|at| at.saturating_sub(guard.age())),
            watched: false,
            meter,
            guard,
        }
    }

    /// Goes on with a tunnel that a predecessor's client has opened.
    pub fn adopt_tunnel(
        shard: &Rc<Shard>,
        http: &Rc<HttpRuntime>,
        admitted: Admitted,
        meter: ConnectionMeter,
        record: &TunnelRecord,
        destination: (Rc<ClusterRuntime>, Rc<Host>),
        upstream: Transport,
    ) -> Self {
        let requests = Http1Record { requests: record.requests };
        let mut new = Self::adopt(shard, http, admitted, meter, requests);
        let age = new.guard.age();
        let exchange = Exchange::adopt_tunnel(shard, http, record, destination, upstream, age);
        new.exchange = Some(exchange);
        new.phase = Phase::Exchanging;
        if record.proxied.upstream_ended {
            new.transport.finish();
        }
        new
    }

    /// Closes a connection on which nothing came.
    pub fn close_unused(&mut self) {
        self.close();
    }

    fn watch(&mut self, waker: &Waker) {
        self.watched = true;
        self.transport.register(waker);
        self.timer.register(waker);
        self.guard.wake_at_drain(waker);
        if let Some(exchange) = &self.exchange {
            exchange.watch_tunnel(waker);
        }
    }

    /// Does what can be done, and says whether the connection is over.
    fn run(&mut self, waker: &Waker) -> bool {
        let mut fired = self.timer.take_fired();
        loop {
            let moved_on = match self.phase {
                // Before the next request, which may be here already.
                Phase::Reading if self.info.leaving.is_due(&self.shard) => {
                    self.phase = Phase::Leaving;
                    continue;
                }
                Phase::Reading => self.read(waker, fired),
                Phase::Exchanging => self.exchange(waker, fired),
                Phase::Flushing => self.flush(fired),
                Phase::Lingering => self.linger(fired),
                Phase::Leaving => self.leave(waker),
                Phase::Closed => return true,
            };
            if !moved_on {
                if self.is_in_tunnel() && self.info.leaving.is_due(&self.shard) {
                    self.phase = Phase::Leaving;
                    continue;
                }
                self.timer.set(self.deadline());
                self.transport.flush();
                return false;
            }
            fired = false;
        }
    }

    // ---- reading a head --------------------------------------------------------------------------

    /// True when the phase changed.
    fn read(&mut self, waker: &Waker, timer_fired: bool) -> bool {
        if self.transport.send_error().is_some() {
            return self.enter(Phase::Closed);
        }
        if self.transport.unsent() >= self.marks.high {
            // A client that pipelines must also read.
            self.transport.wake_at_unsent(self.marks.low());
            return timer_fired && self.read_timed_out(waker);
        }
        loop {
            match self.input.next(&self.transport) {
                Received::Chunk(chunk) => {
                    if let Some(moved_on) = self.read_head(&chunk, waker) {
                        return moved_on;
                    }
                }
                // After a stall of ours what came in time is looked at with its deadline.
                Received::None => return timer_fired && self.read_timed_out(waker),
                Received::End if self.transport.unsent() > 0 => return self.close(),
                Received::End | Received::Failed(_) => {
                    if self.partial.is_some() {
                        self.http.stats.downstream_cx_destroy_remote_active_rq.inc();
                    }
                    return self.enter(Phase::Closed);
                }
            }
        }
    }

    /// Reads on in a head. Nothing when more of it must come.
    fn read_head(&mut self, chunk: &Chunk, waker: &Waker) -> Option<bool> {
        let Some(mut partial) = self.partial.take() else {
            let mut storage = FieldStorage::new();
            return match RequestHead::parse(chunk, &mut storage, &self.http.limits) {
                Ok(Some(head)) => {
                    let rest = chunk.slice(head.len..chunk.len());
                    Some(self.begin(&head, &chunk[..head.len], rest, waker))
                }
                Ok(None) => {
                    self.since = self.shard.clock.now();
                    self.partial = Some(chunk.to_vec());
                    None
                }
                Err(error) => Some(self.refuse(error, waker)),
            };
        };
        let before = partial.len();
        partial.extend_from_slice(chunk);
        if !may_be_complete(&partial, before) && partial.len() < self.http.limits.bytes_max {
            self.partial = Some(partial);
            return None;
        }
        let mut storage = FieldStorage::new();
        match RequestHead::parse(&partial, &mut storage, &self.http.limits) {
            Ok(Some(head)) => {
                let rest = chunk.slice(head.len - before..chunk.len());
                Some(self.begin(&head, &partial[..head.len], rest, waker))
            }
            Ok(None) => {
                drop(storage);
                self.partial = Some(partial);
                None
            }
            Err(error) => Some(self.refuse(error, waker)),
        }
    }

    fn begin(
        &mut self,
        head: &RequestHead<'_, '_>,
        text: &[u8],
        rest: Chunk,
        waker: &Waker,
    ) -> bool {
        self.input.put_back(rest);
        self.requests += 1;
        let mut exchange = Exchange::take(&self.shard);
        let arrival = Arrival { shard: &self.shard, http: &self.http, info: &self.info };
        let begun = begin(&arrival, head, Some(HeadSource::Text(text)), &mut exchange);
        let mut down = self.downstream(waker);
        exchange.start(&mut down, begun);
        self.exchange = Some(exchange);
        self.enter(Phase::Exchanging)
    }

    /// Answers a head that can't be read, or not in one way only, and closes.
    fn refuse(&mut self, error: HeadError, waker: &Waker) -> bool {
        let stats = &self.http.stats;
        stats.downstream_cx_protocol_error.inc();
        if matches!(error, HeadError::TooLarge | HeadError::FieldsTooMany) {
            stats.downstream_rq_too_large.inc();
        }
        log::debug!(target: "http", "connection {}: request refused: {error}", self.info.id);
        let flags = ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
        let text = if error.status() == 400 { "Bad Request" } else { "" };
        let reply = Reply::text(error.status(), text, flags, "http1.codec_error").closing();
        self.answer(&reply, waker)
    }

    fn read_timed_out(&mut self, waker: &Waker) -> bool {
        let now = self.shard.clock.now();
        if self.read_deadline().is_none_or(|at| at > now) {
            return false;
        }
        if self.partial.is_some() {
            self.http.stats.downstream_rq_header_timeout.inc();
            let flags = ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
            let reply = Reply::text(408, "", flags, "request_header_timeout").closing();
            return self.answer(&reply, waker);
        }
        let stats = &self.http.stats;
        if self.info.is_draining(&self.shard) {
            stats.downstream_cx_drain_close.inc();
        } else if self.max_age_at.is_some_and(|at| at <= now) {
            stats.downstream_cx_max_duration_reached.inc();
        } else {
            stats.downstream_cx_idle_timeout.inc();
        }
        self.close()
    }

    /// Replies to what is not a request we could begin.
    fn answer(&mut self, reply: &Reply, waker: &Waker) -> bool {
        let mut exchange = Exchange::take(&self.shard);
        exchange.begin_unread(&self.shard);
        self.partial = None;
        let mut down = self.downstream(waker);
        down.http.stats.downstream_rq_active.inc();
        exchange.reply(&mut down, reply);
        exchange.finish(&down, Progress::Close);
        self.close()
    }

    fn read_deadline(&self) -> Option<Nanos> {
        let timeouts = &self.http.config.timeouts;
        if self.partial.is_some() {
            let limits = [timeouts.request_headers, timeouts.request, timeouts.stream_idle];
            return earliest(&limits.map(|limit| after(self.since, limit)));
        }
        // Draining: an idle client gets the drain timeout's chance to send one more request, which
        // is then answered with `connection: close`.
        let drain = self.info.drain_deadline(&self.shard, self.since, timeouts.drain);
        earliest(&[after(self.since, timeouts.idle), self.max_age_at, drain])
    }

    /// True in a tunnel that can go on elsewhere.
    fn is_in_tunnel(&self) -> bool {
        let exchange = self.exchange.as_ref().filter(|_| self.phase == Phase::Exchanging);
        exchange.is_some_and(|exchange| exchange.tunnel_socket().is_some())
    }

    /// Goes on its way to a successor. True when the phase changed.
    fn leave(&mut self, waker: &Waker) -> bool {
        let Transport::Plain(socket) = &self.transport else { return self.enter(Phase::Reading) };
        if let Some(exchange) = &self.exchange
            && let Some(upstream) = exchange.tunnel_socket()
        {
            let record = || {
                let (shard, http) = (&self.shard, &self.http);
                let record = exchange.tunnel_record(shard, http, upstream, self.requests);
                let seen = [self.input.rest()];
                self.info.outline(&self.guard, socket, &seen, ProtocolRecord::Tunnel(record))
            };
            return match self.info.leaving.advance(&self.shard, waker, &[socket, upstream], record)
            {
                Leave::Stays => self.enter(Phase::Exchanging),
                Leave::Waits => false,
                Leave::Left(_) => {
                    if let Some(exchange) = self.exchange.take() {
                        exchange.leave_tunnel(&self.shard, &self.http);
                    }
                    self.left()
                }
            };
        }
        let record = || {
            let partial = self.partial.as_deref().unwrap_or_default();
            let seen = [partial, self.input.rest()];
            let record = Http1Record { requests: self.requests };
            self.info.outline(&self.guard, socket, &seen, ProtocolRecord::Http1(record))
        };
        match self.info.leaving.advance(&self.shard, waker, &[socket], record) {
            Leave::Stays => self.enter(Phase::Reading),
            Leave::Waits => false,
            Leave::Left(_) => self.left(),
        }
    }

    fn left(&mut self) -> bool {
        self.guard.leaves();
        self.meter.leaves();
        self.enter(Phase::Closed)
    }

    // ---- the other phases --------------------------------------------------------------------------

    fn exchange(&mut self, waker: &Waker, timer_fired: bool) -> bool {
        let Some(mut exchange) = self.exchange.take() else { return self.enter(Phase::Closed) };
        let mut down = self.downstream(waker);
        let progress = exchange.advance(&mut down, timer_fired);
        if progress == Progress::Pending {
            self.exchange = Some(exchange);
            return false;
        }
        if down.is_last {
            down.http.stats.downstream_cx_max_requests_reached.inc();
        }
        exchange.finish(&down, progress);
        match progress {
            Progress::KeepAlive => self.enter(Phase::Reading),
            Progress::Close => self.close(),
            Progress::Reset => {
                self.meter.close_is_ours();
                self.transport.reset_on_close();
                self.enter(Phase::Closed)
            }
            Progress::Gone | Progress::Pending => self.enter(Phase::Closed),
        }
    }

    /// Whether the request under way is the last one the configuration allows on this connection.
    fn is_last_request(&self) -> bool {
        let limit = self.http.config.limits.max_requests_per_connection;
        let is_last = limit.is_some_and(|limit| self.requests >= limit);
        is_last || self.max_age_at.is_some_and(|at| at <= self.shard.clock.now())
    }

    /// Sends what is queued, then FIN.
    fn close(&mut self) -> bool {
        self.meter.close_is_ours();
        self.transport.finish();
        self.transport.flush();
        self.enter(Phase::Flushing)
    }

    fn flush(&mut self, timer_fired: bool) -> bool {
        if timer_fired || self.transport.send_error().is_some() {
            return self.enter(Phase::Closed);
        }
        if !self.transport.is_finished() {
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
            match self.input.next(&self.transport) {
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
            Phase::Reading => self.read_deadline(),
            Phase::Exchanging => self.exchange.as_ref().and_then(|exchange| exchange.deadline()),
            Phase::Flushing => after(self.since, timeouts.stream_flush.or(timeouts.stream_idle)),
            Phase::Lingering => after(self.since, timeouts.delayed_close),
            // The successor's silence is noticed by who asks it.
            Phase::Leaving | Phase::Closed => None,
        }
    }

    fn downstream<'a>(&'a mut self, waker: &'a Waker) -> Downstream<'a> {
        let is_last = self.is_last_request();
        Downstream {
            is_last,
            shard: &self.shard,
            http: &self.http,
            info: &self.info,
            waker,
            marks: self.marks,
            side: Side::Http1(super::Side { transport: &self.transport, input: &mut self.input }),
        }
    }
}

impl Future for Http1Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.watched {
            this.watch(context.waker());
        }
        if this.run(context.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Http1Connection {
    fn drop(&mut self) {
        self.http.stats.downstream_cx_http1_active.dec();
        self.meter.sent(self.transport.sent_bytes());
    }
}

/// True when the bytes from `before` on hold the end of a head, or of a line that is malformed
/// enough to be one: until then there is no need to parse a slow head again and again.
fn may_be_complete(bytes: &[u8], before: usize) -> bool {
    let tail = &bytes[before.saturating_sub(3)..];
    memchr::memmem::find(tail, b"\n\r\n").is_some() || memchr::memmem::find(tail, b"\n\n").is_some()
}
