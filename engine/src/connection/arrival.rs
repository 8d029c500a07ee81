//! A connection that has arrived and is not served yet: it is looked at, given a filter chain,
//! secured, and then handed to the task of its protocol.
//!
//! | stage | means | ends with |
//! |---|---|---|
//! | `Introducing` | a proxy in front says who the client is | its header, a timeout |
//! | `Inspecting` | listener filters look at the first bytes | findings, a timeout |
//! | `Handshaking` | TLS is being agreed | a session, a failure, a timeout |
//! | `Sniffing` | the first bytes decide on the protocol, and so the filter | bytes, a timeout |
//! | `Detecting` | the first bytes decide on the version of HTTP | bytes, a timeout |
//!
//! Invariant: whatever a stranger sends or leaves out, a connection leaves each stage in bounded
//! time, and only itself is disturbed.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arrayvec::ArrayVec;
use outrigger_codecs::http::{FieldKind, FieldStorage, RequestHead, tokens};
use outrigger_codecs::http2::{PREFACE, UpgradeSettings};
use outrigger_codecs::proxy_protocol::{self, Parsed, ProxyVersion};
use outrigger_upgrade::record::{ProtocolRecord, UnknownRecord};
use outrigger_xds::snapshot::{Codec, ConnectionFacts, FilterChain};

use crate::buffers::Chunk;
use crate::http::{ConnectionMeter, Http1Connection, Http2Connection, HttpRuntime};
use crate::ring::{Received, Socket, Watermarks};
use crate::shard::{Shard, spawn_guarded};
use crate::stats::ListenerStats;
use crate::tcp::TcpConnection;
use crate::timer::{NANOS_PER_MS, Nanos, Timer, after};
use crate::tls::{Handshake, HandshakeError};
use crate::transport::Transport;

use super::detect::{DETECTION_BYTES_MAX, Detected, detect};
use super::drain::WithinDrain;
use super::inspect::{Findings, Inspector, Progress, looks};
use super::moving::Leave;
use super::{
    Admitted, ChainRuntime, ConnectionGuard, ConnectionInfo, DetectionRuntime, Ends,
    ListenerRuntime, TerminalRuntime,
};

/// The task of a connection that is not served yet.
pub(super) struct Arrival {
    shard: Rc<Shard>,
    listener: Rc<ListenerRuntime>,
    /// The listener that goes on with it once this one's filters have looked.
    meant_for: Option<Rc<ListenerRuntime>>,
    ends: Ends,
    marks: Watermarks,
    timer: Timer,
    deadline: Option<Nanos>,
    /// Taken from stage to stage.
    stage: Option<Stage>,
    watched: bool,
}

enum Stage {
    Introducing(Introducing),
    Inspecting(Inspecting),
    Handshaking(Handshaking),
    Detecting(Detecting),
    Sniffing(Sniffing),
}

struct Introducing {
    socket: Socket,
    /// What came so far, and the same in one piece.
    seen: Vec<Chunk>,
    text: Vec<u8>,
    /// Of filters that looked before.
    findings: Findings,
    guard: ConnectionGuard,
    counted: PreConnection,
}

struct Inspecting {
    socket: Socket,
    inspector: Inspector,
    /// Of filters that looked before.
    findings: Findings,
    seen: Vec<Chunk>,
    guard: ConnectionGuard,
    counted: PreConnection,
}

struct Handshaking {
    handshake: Handshake,
    chain: Rc<ChainRuntime>,
    guard: ConnectionGuard,
    /// It has failed, and is kept until the client has read why.
    refused: bool,
}

struct Detecting {
    http: Rc<HttpRuntime>,
    admitted: Admitted,
    meter: ConnectionMeter,
    seen: Vec<Chunk>,
}

struct Sniffing {
    detection: Rc<DetectionRuntime>,
    admitted: Admitted,
    seen: Vec<Chunk>,
}

/// Counts a connection that listener filters look at, and how long they do.
struct PreConnection {
    shard: Rc<Shard>,
    stats: Arc<ListenerStats>,
    began_at: Nanos,
}

impl PreConnection {
    fn new(shard: &Rc<Shard>, stats: &Arc<ListenerStats>) -> Self {
        stats.downstream_pre_cx_active.inc();
        let (shard, stats) = (Rc::clone(shard), Arc::clone(stats));
        Self { began_at: shard.clock.now(), shard, stats }
    }

    /// Nothing came in time from a client that meant this port.
    fn timed_out(&self, port: Option<u16>) {
        self.stats.downstream_pre_cx_timeout.inc();
        self.stats.downstream_pre_cx_timeout_port.inc(port.unwrap_or(0));
    }
}

impl Drop for PreConnection {
    fn drop(&mut self) {
        self.stats.downstream_pre_cx_active.dec();
        let took = self.shard.clock.now() - self.began_at;
        self.stats.downstream_pre_cx_length_ms.record(took / NANOS_PER_MS);
    }
}

/// What became of a stage.
enum Next {
    Stage(Stage),
    /// Nothing yet.
    Wait(Stage),
    /// Served by another task, or closed.
    Over,
}

impl Arrival {
    /// Begins. Nothing when the connection could be handed on, or had to be closed, at once.
    pub(super) fn begin(
        shard: &Rc<Shard>,
        listener: &Rc<ListenerRuntime>,
        meant_for: Option<Rc<ListenerRuntime>>,
        socket: Socket,
        ends: Ends,
        marks: Watermarks,
        guard: ConnectionGuard,
    ) -> Option<Self> {
        let timer = shard.timers.timer();
        let mut arrival = Self {
            shard: Rc::clone(shard),
            listener: Rc::clone(listener),
            meant_for,
            ends,
            marks,
            timer,
            deadline: None,
            stage: None,
            watched: false,
        };
        match arrival.look(socket, Findings::default(), guard) {
            Next::Stage(stage) | Next::Wait(stage) => {
                arrival.stage = Some(stage);
                Some(arrival)
            }
            Next::Over => None,
        }
    }

    /// Goes on with a connection of which a predecessor did not know yet what is spoken.
    pub(super) fn resume(
        shard: &Rc<Shard>,
        listener: &Rc<ListenerRuntime>,
        terminal: &TerminalRuntime,
        admitted: Admitted,
    ) {
        let mut arrival = Self {
            shard: Rc::clone(shard),
            listener: Rc::clone(listener),
            meant_for: None,
            ends: admitted.info.ends.clone(),
            marks: admitted.marks,
            timer: shard.timers.timer(),
            deadline: None,
            stage: None,
            watched: false,
        };
        admitted.info.leaving.set_able(true);
        if let Next::Stage(stage) | Next::Wait(stage) = arrival.hand_over(terminal, admitted) {
            arrival.stage = Some(stage);
            spawn_guarded(shard, arrival);
            shard.ring.note_wake();
        }
    }

    /// Has the listener's filters look at the connection, and then those of the listener that it was
    /// meant for. `findings` are of those before.
    fn look(&mut self, socket: Socket, findings: Findings, guard: ConnectionGuard) -> Next {
        let inspection = &self.listener.config.inspection;
        let filter = inspection.proxy_protocol.as_ref();
        if filter.is_some_and(|filter| looks(&filter.disabled, self.ends.port())) {
            socket.start();
            self.deadline = after(self.shard.clock.now(), inspection.timeout);
            self.watched = false;
            return Next::Stage(Stage::Introducing(Introducing {
                socket,
                seen: Vec::new(),
                text: Vec::new(),
                findings,
                guard,
                counted: PreConnection::new(&self.shard, &self.listener.stats),
            }));
        }
        self.look_inside(socket, findings, guard)
    }

    /// The same for those filters that look at what the client itself sends.
    fn look_inside(&mut self, socket: Socket, findings: Findings, guard: ConnectionGuard) -> Next {
        let inspection = &self.listener.config.inspection;
        if let Some(inspector) = Inspector::new(inspection, self.ends.port()) {
            socket.start();
            self.deadline = after(self.shard.clock.now(), inspection.timeout);
            self.watched = false;
            return Next::Stage(Stage::Inspecting(Inspecting {
                socket,
                inspector,
                findings,
                seen: Vec::new(),
                guard,
                counted: PreConnection::new(&self.shard, &self.listener.stats),
            }));
        }
        self.looked(socket, findings, guard)
    }

    fn looked(&mut self, socket: Socket, findings: Findings, guard: ConnectionGuard) -> Next {
        match self.meant_for.take() {
            Some(listener) => {
                self.listener = listener;
                self.look(socket, findings, guard)
            }
            None => self.choose(socket, findings, guard),
        }
    }

    /// Gives the connection its filter chain.
    fn choose(&mut self, socket: Socket, findings: Findings, guard: ConnectionGuard) -> Next {
        let chain = self.find_chain(&findings);
        let Some(runtime) = chain.and_then(|chain| self.listener.chain(&chain).cloned()) else {
            self.listener.stats.no_filter_chain_match.inc();
            return Next::Over;
        };
        if runtime.config.lacks_filter(&self.shard.serving.snapshot().extensions) {
            self.listener.stats.network_extension_config_missing.inc();
            return Next::Over;
        }
        let mut guard = guard;
        guard.join(&runtime.drain);
        let Some(tls) = &runtime.config.tls else {
            let transport = Transport::Plain(socket);
            return self.secured(&runtime, transport, findings.server_name, guard);
        };
        let slot = self.shard.tls().server(tls);
        let Some(context) = slot.and_then(|slot| slot.load()) else {
            self.listener.tls_stats.no_context.inc();
            log::debug!(
                target: "listener",
                "{}: a connection is closed: its certificates are not there yet",
                self.listener.config.name
            );
            return Next::Over;
        };
        let limit = tls.handshake_timeout.unwrap_or(HANDSHAKE_TIMEOUT);
        self.deadline = after(self.shard.clock.now(), Some(limit));
        let handshake = Handshake::server(socket, &self.shard.records, &context);
        self.watched = false;
        Next::Stage(Stage::Handshaking(Handshaking {
            handshake,
            chain: runtime,
            guard,
            refused: false,
        }))
    }

    fn find_chain(&self, findings: &Findings) -> Option<Arc<FilterChain>> {
        let protocols: Vec<&[u8]> = findings.protocols.iter().map(|protocol| &**protocol).collect();
        let facts = ConnectionFacts {
            destination: self.ends.destination(),
            source: self.ends.peer.socket(),
            direct_source: self.ends.direct().socket(),
            server_name: findings.server_name.as_deref().unwrap_or(""),
            transport_protocol: if findings.is_tls { "tls" } else { "raw_buffer" },
            application_protocols: &protocols,
        };
        self.listener.config.filter_chains.find(&facts).cloned()
    }

    /// Goes on with bytes that are plain text to us.
    fn secured(
        &mut self,
        chain: &ChainRuntime,
        transport: Transport,
        server_name: Option<Box<str>>,
        guard: ConnectionGuard,
    ) -> Next {
        let tls = transport.session().cloned();
        let info = ConnectionInfo::new(&self.shard, chain, self.ends.clone(), tls, server_name);
        // Until more is known of it, and then as long as the protocol sees to it.
        info.leaving.set_able(info.tls.is_none());
        let admitted = Admitted { transport, info, marks: self.marks, guard };
        self.hand_over(&chain.terminal, admitted)
    }

    /// Gives the connection to the filter that owns it.
    fn hand_over(&mut self, terminal: &TerminalRuntime, admitted: Admitted) -> Next {
        match terminal {
            TerminalRuntime::Http(http) => self.begin_http(Rc::clone(http), admitted),
            TerminalRuntime::Tcp(tcp) => {
                let drain = Rc::clone(&admitted.info.drain);
                let connection = TcpConnection::new(&self.shard, tcp, admitted);
                spawn_guarded(&self.shard, WithinDrain::new(connection, &drain));
                self.shard.ring.note_wake();
                Next::Over
            }
            TerminalRuntime::Rpc(rpc) => {
                rpc.serve(&self.shard, admitted);
                Next::Over
            }
            // A detection has chosen what is not there.
            TerminalRuntime::Missing => {
                self.listener.stats.network_extension_config_missing.inc();
                Next::Over
            }
            TerminalRuntime::Detect(detection) => {
                admitted.transport.start();
                self.deadline = after(self.shard.clock.now(), Some(detection.config.timeout));
                self.watched = false;
                let detection = Rc::clone(detection);
                Next::Stage(Stage::Sniffing(Sniffing { detection, admitted, seen: Vec::new() }))
            }
        }
    }

    fn begin_http(&mut self, http: Rc<HttpRuntime>, admitted: Admitted) -> Next {
        let is_tls = admitted.info.tls.is_some();
        let meter = ConnectionMeter::new(&self.shard, &http, is_tls, &admitted.guard);
        let negotiated = admitted.info.tls.as_ref().and_then(|session| session.alpn.as_deref());
        let is_http2 = match (http.config.codec, negotiated) {
            (Codec::Http1, _) | (Codec::Auto, Some(b"http/1.1" | b"http/1.0")) => Some(false),
            (Codec::Http2, _) | (Codec::Auto, Some(b"h2")) => Some(true),
            (Codec::Auto, _) => None,
        };
        match is_http2 {
            Some(is_http2) => self.serve_http(&http, is_http2, admitted, meter),
            None => {
                admitted.transport.start();
                self.deadline = after(self.shard.clock.now(), http.config.timeouts.idle);
                self.watched = false;
                Next::Stage(Stage::Detecting(Detecting { http, admitted, meter, seen: Vec::new() }))
            }
        }
    }

    fn serve_http(
        &self,
        http: &Rc<HttpRuntime>,
        is_http2: bool,
        admitted: Admitted,
        meter: ConnectionMeter,
    ) -> Next {
        let drain = Rc::clone(&admitted.info.drain);
        if is_http2 {
            let connection = Http2Connection::new(&self.shard, http, admitted, meter);
            spawn_guarded(&self.shard, WithinDrain::new(connection, &drain));
        } else {
            let connection = Http1Connection::new(&self.shard, http, admitted, meter);
            spawn_guarded(&self.shard, WithinDrain::new(connection, &drain));
        }
        self.shard.ring.note_wake();
        Next::Over
    }

    /// Has a connection go on its way to a successor, where there is one. Gives back one that stays.
    ///
    /// # Errors
    /// What the task's poll comes to.
    fn leave(&mut self, mut stage: Stage, waker: &Waker) -> Result<Stage, Poll<()>> {
        match stage.leave(&self.shard, waker) {
            Leave::Stays => Ok(stage),
            Leave::Waits => {
                self.stage = Some(stage);
                Err(Poll::Pending)
            }
            Leave::Left(_) => Err(Poll::Ready(())),
        }
    }

    fn step(&mut self, stage: Stage, timed_out: bool) -> Next {
        match stage {
            Stage::Introducing(introducing) => self.introduce(introducing, timed_out),
            Stage::Inspecting(inspecting) => self.inspect(inspecting, timed_out),
            Stage::Handshaking(handshaking) => self.handshake(handshaking, timed_out),
            Stage::Detecting(detecting) => self.detect(detecting, timed_out),
            Stage::Sniffing(sniffing) => self.sniff(sniffing, timed_out),
        }
    }

    fn introduce(&mut self, mut stage: Introducing, timed_out: bool) -> Next {
        let stats = Arc::clone(&self.listener.stats);
        let inspection = &self.listener.config.inspection;
        let filter = inspection.proxy_protocol.as_ref();
        let allow_absent = filter.is_none_or(|filter| filter.allow_absent);
        let allows = |version| {
            filter.is_none_or(|filter| match version {
                ProxyVersion::V1 => filter.v1,
                ProxyVersion::V2 => filter.v2,
            })
        };
        let header = loop {
            match stage.socket.receive() {
                Received::Chunk(chunk) => {
                    stage.text.extend_from_slice(&chunk);
                    stage.seen.push(chunk);
                    match proxy_protocol::parse(&stage.text) {
                        Parsed::NeedMore => {}
                        Parsed::Header(header) if allows(header.version) => break Some(header),
                        Parsed::Header(_) | Parsed::Absent if allow_absent => break None,
                        Parsed::Header(_) | Parsed::Absent | Parsed::Malformed(_) => {
                            stats.downstream_listener_filter_error.inc();
                            return Next::Over;
                        }
                    }
                }
                Received::None if timed_out => {
                    stage.counted.timed_out(self.ends.port());
                    if !(inspection.continue_on_timeout && allow_absent) {
                        return Next::Over;
                    }
                    break None;
                }
                Received::None => return Next::Wait(Stage::Introducing(stage)),
                Received::End | Received::Failed(_) => {
                    stats.downstream_listener_filter_remote_close.inc();
                    return Next::Over;
                }
            }
        };
        let Introducing { socket, seen, findings, guard, .. } = stage;
        let mut end = stage.text.len();
        let of_header = header.map_or(0, |header| header.len);
        for chunk in seen.into_iter().rev() {
            let begin = end - chunk.len();
            // What is the header's is for nobody else.
            let from = of_header.clamp(begin, end) - begin;
            socket.put_back(chunk.slice(from..chunk.len()));
            end = begin;
        }
        if let Some(addresses) = header.and_then(|header| header.addresses) {
            self.ends.introduce(addresses);
        }
        self.look_inside(socket, findings, guard)
    }

    fn inspect(&mut self, mut stage: Inspecting, timed_out: bool) -> Next {
        let stats = Arc::clone(&self.listener.stats);
        let findings = loop {
            match stage.socket.receive() {
                Received::Chunk(chunk) => {
                    let progress = stage.inspector.look_at(&chunk);
                    stage.seen.push(chunk);
                    match progress {
                        Progress::NeedMore => {}
                        Progress::Done(findings) => break findings.or(stage.findings),
                        Progress::Refused => {
                            stats.downstream_listener_filter_error.inc();
                            return Next::Over;
                        }
                    }
                }
                Received::None if timed_out => {
                    stage.counted.timed_out(self.ends.port());
                    if !self.listener.config.inspection.continue_on_timeout {
                        return Next::Over;
                    }
                    break stage.findings;
                }
                Received::None => return Next::Wait(Stage::Inspecting(stage)),
                Received::End | Received::Failed(_) => {
                    stats.downstream_listener_filter_remote_close.inc();
                    return Next::Over;
                }
            }
        };
        let Inspecting { socket, seen, guard, .. } = stage;
        for chunk in seen.into_iter().rev() {
            socket.put_back(chunk);
        }
        self.looked(socket, findings, guard)
    }

    fn handshake(&mut self, stage: Handshaking, timed_out: bool) -> Next {
        if timed_out {
            if !stage.refused {
                self.listener.stats.downstream_cx_transport_socket_connect_timeout.inc();
            }
            return Next::Over;
        }
        let Handshaking { handshake, chain, guard, mut refused } = stage;
        match handshake.ready() {
            Ok(Ok(established)) => {
                self.listener.tls_stats.handshake(&established.session);
                self.secured(&chain, established.transport, None, guard)
            }
            Ok(Err(handshake)) => {
                if let (Some(error), false) = (handshake.failure(), refused) {
                    self.handshake_failed(error);
                    refused = true;
                }
                Next::Wait(Stage::Handshaking(Handshaking { handshake, chain, guard, refused }))
            }
            Err(error) => {
                if !refused {
                    self.handshake_failed(&error);
                }
                Next::Over
            }
        }
    }

    fn handshake_failed(&self, error: &HandshakeError) {
        self.listener.tls_stats.failed(error);
        log::debug!(
            target: "listener",
            "{}: a TLS handshake failed: {error}", self.listener.config.name
        );
    }

    /// Looks for a protocol in the first bytes.
    fn sniff(&mut self, mut stage: Sniffing, timed_out: bool) -> Next {
        let offered = || stage.detection.choices.iter().map(|(protocol, _)| *protocol);
        let found = loop {
            match stage.admitted.transport.receive() {
                Received::Chunk(chunk) => {
                    stage.seen.push(chunk);
                    let mut first: ArrayVec<u8, DETECTION_BYTES_MAX> = ArrayVec::new();
                    first.extend(
                        stage
                            .seen
                            .iter()
                            .flat_map(|chunk| chunk.iter().copied())
                            .take(DETECTION_BYTES_MAX),
                    );
                    match detect(&first, offered()) {
                        Detected::NeedMore => {}
                        found => break found,
                    }
                }
                Received::None if timed_out => {
                    self.listener.stats.downstream_pre_cx_timeout.inc();
                    break Detected::Unknown;
                }
                Received::None => return Next::Wait(Stage::Sniffing(stage)),
                Received::End | Received::Failed(_) => {
                    self.listener.stats.downstream_listener_filter_remote_close.inc();
                    return Next::Over;
                }
            }
        };
        let Sniffing { detection, admitted, seen } = stage;
        admitted.transport.put_back(seen.into_iter());
        let choice = match found {
            Detected::Protocol(found) => {
                detection.choices.iter().find(|(protocol, _)| *protocol == found)
            }
            Detected::NeedMore | Detected::Unknown => None,
        };
        let terminal = choice.map(|(_, terminal)| terminal).or(detection.fallback.as_ref());
        let Some(terminal) = terminal else {
            self.listener.stats.no_filter_chain_match.inc();
            return Next::Over;
        };
        self.deadline = None;
        self.hand_over(terminal, admitted)
    }

    fn detect(&mut self, mut stage: Detecting, timed_out: bool) -> Next {
        if timed_out {
            let stats = &stage.http.stats;
            if stage.admitted.info.is_draining(&self.shard) {
                stats.downstream_cx_drain_close.inc();
            } else {
                stats.downstream_cx_idle_timeout.inc();
            }
            // Closed with care: a request may be crossing.
            let Detecting { http, admitted, meter, .. } = stage;
            let mut connection = Http1Connection::new(&self.shard, &http, admitted, meter);
            connection.close_unused();
            spawn_guarded(&self.shard, connection);
            self.shard.ring.note_wake();
            return Next::Over;
        }
        let is_http2 = loop {
            match stage.admitted.transport.receive() {
                Received::Chunk(chunk) => {
                    stage.seen.push(chunk);
                    if let Some(is_http2) = begins_http2(&stage.seen) {
                        break is_http2;
                    }
                }
                Received::None => return Next::Wait(Stage::Detecting(stage)),
                // Whatever came is for the HTTP/1 connection to judge.
                Received::End | Received::Failed(_) if !stage.seen.is_empty() => break false,
                Received::End | Received::Failed(_) => return Next::Over,
            }
        };
        let Detecting { http, admitted, meter, seen } = stage;
        if let ([first], None, false) = (&seen[..], &admitted.info.tls, is_http2) {
            let mut storage = FieldStorage::new();
            if let Some((head, settings)) = wants_upgrade(first, &http, &mut storage) {
                return self.upgrade(&http, admitted, meter, &head, &settings, first);
            }
        }
        admitted.transport.put_back(seen.into_iter());
        self.serve_http(&http, is_http2, admitted, meter)
    }

    /// Serves a client whose first request asks to go on in HTTP/2 (RFC 7540 section 3.2).
    fn upgrade(
        &self,
        http: &Rc<HttpRuntime>,
        admitted: Admitted,
        meter: ConnectionMeter,
        head: &RequestHead<'_, '_>,
        settings: &UpgradeSettings,
        seen: &Chunk,
    ) -> Next {
        let transport = &admitted.transport;
        transport.send(self.shard.arena.copy(SWITCHING));
        transport.put_back(std::iter::once(seen.slice(head.len..seen.len())));
        let drain = Rc::clone(&admitted.info.drain);
        let mut connection = Http2Connection::new(&self.shard, http, admitted, meter);
        connection.accept_upgrade(settings, head);
        spawn_guarded(&self.shard, WithinDrain::new(connection, &drain));
        self.shard.ring.note_wake();
        Next::Over
    }
}

/// Whether what was seen begins HTTP/2; nothing while that can't be told.
fn begins_http2(seen: &[Chunk]) -> Option<bool> {
    let mut expected = &PREFACE[..];
    for chunk in seen {
        let len = chunk.len().min(expected.len());
        if chunk[..len] != expected[..len] {
            return Some(false);
        }
        expected = &expected[len..];
    }
    expected.is_empty().then_some(true)
}

/// A first request without body that asks for HTTP/2 as it must, and the settings that come with it.
/// Any other is none of this: an upgrade may always be ignored.
fn wants_upgrade<'s, 'b>(
    seen: &'b [u8],
    http: &HttpRuntime,
    storage: &'s mut FieldStorage<'b>,
) -> Option<(RequestHead<'s, 'b>, UpgradeSettings)> {
    memchr::memmem::find(seen, b"h2c")?;
    let head = RequestHead::parse(seen, storage, &http.limits).ok()??;
    let asks = tokens(head.upgrade?).any(|protocol| protocol == b"h2c")
        && head.fields.iter().filter(|field| field.kind == FieldKind::Connection).any(|field| {
            tokens(field.value).any(|option| option.eq_ignore_ascii_case(b"http2-settings"))
        });
    let mut settings = head.fields.iter().filter(|field| field.kind == FieldKind::Http2Settings);
    let (first, another) = (settings.next()?, settings.next());
    if !asks || another.is_some() || !head.framing.is_empty() {
        return None;
    }
    let settings = UpgradeSettings::parse(first.value).ok()?;
    Some((head, settings))
}

const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n";

impl Future for Arrival {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let fired = this.timer.take_fired();
        let now = this.shard.clock.now();
        let timed_out = fired && this.deadline.is_some_and(|at| at <= now);
        let Some(mut stage) = this.stage.take() else { return Poll::Ready(()) };
        let mut timed_out = timed_out;
        if stage.is_leaving() {
            stage = match this.leave(stage, context.waker()) {
                Ok(stays) => stays,
                Err(goes) => return goes,
            };
        }
        loop {
            if !this.watched {
                this.watched = true;
                this.timer.register(context.waker());
                stage.watch(context.waker());
            }
            match this.step(stage, timed_out) {
                Next::Stage(next) => {
                    stage = next;
                    timed_out = false;
                }
                Next::Wait(stage) => {
                    let stage = match this.leave(stage, context.waker()) {
                        Ok(stays) => stays,
                        Err(goes) => return goes,
                    };
                    let drain = match &stage {
                        // An idle client is given the drain's patience, as one that was served.
                        Stage::Detecting(detecting) => drain_deadline(&this.shard, detecting, now),
                        Stage::Introducing(_)
                        | Stage::Inspecting(_)
                        | Stage::Handshaking(_)
                        | Stage::Sniffing(_) => None,
                    };
                    this.deadline = this.deadline.into_iter().chain(drain).min();
                    this.timer.set(this.deadline);
                    this.stage = Some(stage);
                    return Poll::Pending;
                }
                Next::Over => return Poll::Ready(()),
            }
        }
    }
}

impl Stage {
    /// True while nothing else is to be done with the connection.
    fn is_leaving(&self) -> bool {
        match self {
            Self::Detecting(Detecting { admitted, .. })
            | Self::Sniffing(Sniffing { admitted, .. }) => admitted.info.leaving.is_under_way(),
            Self::Introducing(_) | Self::Inspecting(_) | Self::Handshaking(_) => false,
        }
    }

    /// Goes on its way to a successor, where there is one. Until it is known what is spoken on it, all that
    /// was received goes along.
    fn leave(&mut self, shard: &Shard, waker: &Waker) -> Leave {
        let (admitted, seen, meter) = match self {
            Self::Detecting(stage) => (&mut stage.admitted, &stage.seen, Some(&stage.meter)),
            Self::Sniffing(stage) => (&mut stage.admitted, &stage.seen, None),
            Self::Introducing(_) | Self::Inspecting(_) | Self::Handshaking(_) => {
                return Leave::Stays;
            }
        };
        let Admitted { transport: Transport::Plain(socket), info, guard, .. } = admitted else {
            return Leave::Stays;
        };
        let leave = info.leaving.advance(shard, waker, &[socket], || {
            let seen: Vec<&[u8]> = seen.iter().map(|chunk| &**chunk).collect();
            let protocol = ProtocolRecord::Unknown(UnknownRecord {});
            info.outline(guard, socket, &seen, protocol)
        });
        if let Leave::Left(_) = leave {
            guard.leaves();
            if let Some(meter) = meter {
                meter.leaves();
            }
        }
        leave
    }

    fn watch(&mut self, waker: &Waker) {
        let guard = match self {
            Self::Introducing(introducing) => {
                introducing.socket.register(waker);
                &mut introducing.guard
            }
            Self::Inspecting(inspecting) => {
                inspecting.socket.register(waker);
                &mut inspecting.guard
            }
            Self::Handshaking(handshaking) => {
                handshaking.handshake.register(waker);
                &mut handshaking.guard
            }
            Self::Detecting(detecting) => {
                detecting.admitted.transport.register(waker);
                &mut detecting.admitted.guard
            }
            Self::Sniffing(sniffing) => {
                sniffing.admitted.transport.register(waker);
                &mut sniffing.admitted.guard
            }
        };
        guard.wake_at_drain(waker);
    }
}

fn drain_deadline(shard: &Shard, detecting: &Detecting, now: Nanos) -> Option<Nanos> {
    let began_at = detecting.meter.created_at().min(now);
    let patience = detecting.http.config.timeouts.drain;
    detecting.admitted.info.drain_deadline(shard, began_at, patience)
}

/// A client that does not get on with its handshake is let go after this long where the
/// configuration says nothing: the listener's sockets are not for keeping.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
