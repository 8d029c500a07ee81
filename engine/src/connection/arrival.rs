//! A connection that has arrived and is not served yet: it is looked at, given a filter chain,
//! secured, and then handed to the task of its protocol.
//!
//! | stage | means | ends with |
//! |---|---|---|
//! | `Inspecting` | listener filters look at the first bytes | findings, a timeout |
//! | `Handshaking` | TLS is being agreed | a session, a failure, a timeout |
//! | `Detecting` | the first bytes decide on the version of HTTP | bytes, a timeout |
//!
//! Invariant: whatever a stranger sends or leaves out, a connection leaves each stage in bounded
//! time, and only itself is disturbed.

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use outrigger_codecs::http::{FieldKind, FieldStorage, RequestHead, tokens};
use outrigger_codecs::http2::UpgradeSettings;
use outrigger_xds::snapshot::{Codec, ConnectionFacts, FilterChain};

use crate::buffers::Chunk;
use crate::http::{Http1Connection, Http2Connection, HttpRuntime, Peer};
use crate::ring::{Received, Socket, Watermarks};
use crate::shard::{Shard, spawn_guarded};
use crate::tcp::TcpConnection;
use crate::timer::{Nanos, Timer, after};
use crate::tls::Handshake;
use crate::transport::Transport;

use super::inspect::{Findings, HTTP2_PREFACE, Inspector, Progress};
use super::{
    ChainRuntime, ConnectionGuard, ConnectionInfo, ListenerRuntime, TerminalRuntime, local_address,
};

/// The task of a connection that is not served yet.
pub(super) struct Arrival {
    shard: Rc<Shard>,
    listener: Rc<ListenerRuntime>,
    peer: Peer,
    marks: Watermarks,
    timer: Timer,
    deadline: Option<Nanos>,
    /// Taken from stage to stage.
    state: Option<State>,
    watched: bool,
}

struct State {
    stage: Stage,
    guard: ConnectionGuard,
}

enum Stage {
    Inspecting {
        socket: Socket,
        inspector: Inspector,
        seen: Vec<Chunk>,
    },
    Handshaking {
        handshake: Box<Handshake>,
        chain: Rc<ChainRuntime>,
    },
    Detecting {
        transport: Transport,
        chain: Rc<ChainRuntime>,
        info: ConnectionInfo,
        seen: Vec<Chunk>,
    },
}

/// What became of a stage.
enum Next {
    Stage(Stage, ConnectionGuard),
    /// Nothing yet.
    Wait(Stage, ConnectionGuard),
    /// Served by another task, or closed.
    Over,
}

impl Arrival {
    /// Begins. Nothing when the connection could be handed on, or had to be closed, at once.
    pub(super) fn begin(
        shard: &Rc<Shard>,
        listener: &Rc<ListenerRuntime>,
        socket: Socket,
        peer: Peer,
        marks: Watermarks,
        guard: ConnectionGuard,
    ) -> Option<Self> {
        let timer = shard.timers.timer();
        let mut arrival = Self {
            shard: Rc::clone(shard),
            listener: Rc::clone(listener),
            peer,
            marks,
            timer,
            deadline: None,
            state: None,
            watched: false,
        };
        let inspection = &listener.config.inspection;
        let port = || local_address(socket.as_raw_fd()).map(|address| address.port());
        let looks = inspection.tls.is_some() || inspection.http.is_some();
        let next = match looks.then(|| Inspector::new(inspection, port())).flatten() {
            Some(inspector) => {
                socket.start();
                listener.stats.downstream_pre_cx_active.inc();
                arrival.deadline = after(shard.clock.now(), inspection.timeout);
                Next::Wait(Stage::Inspecting { socket, inspector, seen: Vec::new() }, guard)
            }
            None => arrival.choose(socket, Findings::default(), guard),
        };
        match next {
            Next::Stage(stage, guard) | Next::Wait(stage, guard) => {
                arrival.state = Some(State { stage, guard });
                Some(arrival)
            }
            Next::Over => None,
        }
    }

    /// Gives the connection its filter chain.
    fn choose(&mut self, socket: Socket, findings: Findings, guard: ConnectionGuard) -> Next {
        let chain = self.find_chain(&socket, &findings);
        let Some(runtime) = chain.and_then(|chain| self.listener.chain(&chain).cloned()) else {
            self.listener.stats.no_filter_chain_match.inc();
            return Next::Over;
        };
        let Some(tls) = &runtime.config.tls else {
            let transport = Transport::Plain(socket);
            return self.secured(runtime, transport, findings.server_name, guard);
        };
        let Some(context) = self.shard.tls.server(tls) else {
            self.listener.tls_stats.no_context.inc();
            log::debug!(
                target: "listener",
                "{}: a connection is closed: its certificates could not be read",
                self.listener.config.name
            );
            return Next::Over;
        };
        let limit = tls.handshake_timeout.unwrap_or(HANDSHAKE_TIMEOUT);
        self.deadline = after(self.shard.clock.now(), Some(limit));
        let handshake = Box::new(Handshake::server(socket, &self.shard.records, &context.load()));
        self.watched = false;
        Next::Stage(Stage::Handshaking { handshake, chain: runtime }, guard)
    }

    fn find_chain(&self, socket: &Socket, findings: &Findings) -> Option<Arc<FilterChain>> {
        let source: Option<SocketAddr> = match self.peer {
            Peer::Ip(address) => Some(address),
            Peer::Unix => None,
        };
        let protocols: Vec<&[u8]> = findings.protocols.iter().map(|protocol| &**protocol).collect();
        let facts = ConnectionFacts {
            destination: local_address(socket.as_raw_fd()),
            source,
            direct_source: source,
            server_name: findings.server_name.as_deref().unwrap_or(""),
            transport_protocol: if findings.is_tls { "tls" } else { "raw_buffer" },
            application_protocols: &protocols,
        };
        self.listener.config.filter_chains.find(&facts).cloned()
    }

    /// Goes on with bytes that are plain text to us.
    fn secured(
        &mut self,
        chain: Rc<ChainRuntime>,
        transport: Transport,
        server_name: Option<Box<str>>,
        guard: ConnectionGuard,
    ) -> Next {
        let info = ConnectionInfo {
            id: self.shard.next_connection_id(),
            peer: self.peer,
            tls: transport.session().cloned(),
            server_name,
            chain: Arc::clone(&chain.config),
        };
        let http = match &chain.terminal {
            TerminalRuntime::Tcp(tcp) => {
                let connection =
                    TcpConnection::new(&self.shard, tcp, transport, info, self.marks, guard);
                spawn_guarded(&self.shard, connection);
                return Next::Over;
            }
            TerminalRuntime::Http(http) => Rc::clone(http),
        };
        let negotiated = info.tls.as_ref().and_then(|session| session.alpn.as_deref());
        let is_http2 = match (http.config.codec, negotiated) {
            (Codec::Http1, _) | (Codec::Auto, Some(b"http/1.1" | b"http/1.0")) => Some(false),
            (Codec::Http2, _) | (Codec::Auto, Some(b"h2")) => Some(true),
            (Codec::Auto, _) => None,
        };
        match is_http2 {
            Some(is_http2) => self.serve_http(&http, is_http2, transport, info, guard),
            None => {
                transport.start();
                self.deadline = after(self.shard.clock.now(), http.config.timeouts.idle);
                self.watched = false;
                Next::Stage(Stage::Detecting { transport, chain, info, seen: Vec::new() }, guard)
            }
        }
    }

    fn serve_http(
        &self,
        http: &Rc<HttpRuntime>,
        is_http2: bool,
        transport: Transport,
        info: ConnectionInfo,
        guard: ConnectionGuard,
    ) -> Next {
        if is_http2 {
            let connection =
                Http2Connection::new(&self.shard, http, transport, info, self.marks, guard);
            spawn_guarded(&self.shard, connection);
        } else {
            let connection =
                Http1Connection::new(&self.shard, http, transport, info, self.marks, guard);
            spawn_guarded(&self.shard, connection);
        }
        self.shard.ring.note_wake();
        Next::Over
    }

    fn step(&mut self, stage: Stage, guard: ConnectionGuard, timed_out: bool) -> Next {
        match stage {
            Stage::Inspecting { socket, inspector, seen } => {
                self.inspect(socket, inspector, seen, guard, timed_out)
            }
            Stage::Handshaking { handshake, chain } => {
                self.handshake(handshake, chain, guard, timed_out)
            }
            Stage::Detecting { transport, chain, info, seen } => {
                self.detect(transport, chain, info, seen, guard, timed_out)
            }
        }
    }

    fn inspect(
        &mut self,
        socket: Socket,
        mut inspector: Inspector,
        mut seen: Vec<Chunk>,
        guard: ConnectionGuard,
        timed_out: bool,
    ) -> Next {
        let stats = &self.listener.stats;
        let findings = loop {
            match socket.receive() {
                Received::Chunk(chunk) => {
                    let progress = inspector.look_at(&chunk);
                    seen.push(chunk);
                    match progress {
                        Progress::NeedMore => {}
                        Progress::Done(findings) => break findings,
                        Progress::Refused => {
                            stats.downstream_listener_filter_error.inc();
                            stats.downstream_pre_cx_active.dec();
                            return Next::Over;
                        }
                    }
                }
                Received::None if timed_out => {
                    stats.downstream_pre_cx_timeout.inc();
                    if !self.listener.config.inspection.continue_on_timeout {
                        stats.downstream_pre_cx_active.dec();
                        return Next::Over;
                    }
                    break Findings::default();
                }
                Received::None => {
                    return Next::Wait(Stage::Inspecting { socket, inspector, seen }, guard);
                }
                Received::End | Received::Failed(_) => {
                    stats.downstream_listener_filter_remote_close.inc();
                    stats.downstream_pre_cx_active.dec();
                    return Next::Over;
                }
            }
        };
        stats.downstream_pre_cx_active.dec();
        for chunk in seen.drain(..).rev() {
            socket.put_back(chunk);
        }
        self.choose(socket, findings, guard)
    }

    fn handshake(
        &mut self,
        handshake: Box<Handshake>,
        chain: Rc<ChainRuntime>,
        guard: ConnectionGuard,
        timed_out: bool,
    ) -> Next {
        if timed_out {
            self.listener.stats.downstream_cx_transport_socket_connect_timeout.inc();
            return Next::Over;
        }
        match handshake.ready() {
            Ok(Ok(established)) => {
                self.listener.tls_stats.handshake(&established.session);
                self.secured(chain, established.transport, None, guard)
            }
            Ok(Err(handshake)) => {
                Next::Wait(Stage::Handshaking { handshake: Box::new(handshake), chain }, guard)
            }
            Err(error) => {
                self.listener.tls_stats.failed(&error);
                log::debug!(
                    target: "listener",
                    "{}: a TLS handshake failed: {error}", self.listener.config.name
                );
                Next::Over
            }
        }
    }

    fn detect(
        &mut self,
        mut transport: Transport,
        chain: Rc<ChainRuntime>,
        mut info: ConnectionInfo,
        mut seen: Vec<Chunk>,
        mut guard: ConnectionGuard,
        timed_out: bool,
    ) -> Next {
        let TerminalRuntime::Http(http) = &chain.terminal else { return Next::Over };
        let http = Rc::clone(http);
        let drains = self.shard.is_draining() && seen.is_empty();
        if timed_out || drains && transport.unsent() == 0 && self.deadline.is_none() {
            http.stats.downstream_cx_idle_timeout.inc();
            return Next::Over;
        }
        let is_http2 = loop {
            match transport.receive() {
                Received::Chunk(chunk) => {
                    seen.push(chunk);
                    if let Some(is_http2) = begins_http2(&seen) {
                        break is_http2;
                    }
                }
                Received::None => {
                    let stage = Stage::Detecting { transport, chain, info, seen };
                    return Next::Wait(stage, guard);
                }
                // Whatever came is for the HTTP/1 connection to judge.
                Received::End | Received::Failed(_) if !seen.is_empty() => break false,
                Received::End | Received::Failed(_) => return Next::Over,
            }
        };
        if !is_http2 && info.tls.is_none() && seen.len() == 1 {
            match self.upgrade(&http, transport, info, &seen[0], guard) {
                Ok(()) => return Next::Over,
                Err(back) => (transport, info, guard) = back,
            }
        }
        transport.put_back(seen.into_iter());
        self.serve_http(&http, is_http2, transport, info, guard)
    }

    /// Serves a client whose first request asks to go on in HTTP/2 (RFC 7540 section 3.2). Gives
    /// everything back when it does not, or not as it must: an upgrade may always be ignored.
    fn upgrade(
        &self,
        http: &Rc<HttpRuntime>,
        transport: Transport,
        info: ConnectionInfo,
        seen: &Chunk,
        guard: ConnectionGuard,
    ) -> Result<(), (Transport, ConnectionInfo, ConnectionGuard)> {
        let mut storage = FieldStorage::new();
        let mentions = memchr::memmem::find(seen, b"h2c").is_some();
        let head = match RequestHead::parse(seen, &mut storage, &http.limits) {
            Ok(Some(head)) if mentions => head,
            _ => return Err((transport, info, guard)),
        };
        let Some(settings) = wanted_settings(&head) else { return Err((transport, info, guard)) };
        transport.send(self.shard.arena.copy(SWITCHING));
        transport.put_back(std::iter::once(seen.slice(head.len..seen.len())));
        let mut connection =
            Http2Connection::new(&self.shard, http, transport, info, self.marks, guard);
        connection.accept_upgrade(&settings, &head);
        spawn_guarded(&self.shard, connection);
        self.shard.ring.note_wake();
        Ok(())
    }
}

/// Whether what was seen begins HTTP/2; nothing while that can't be told.
fn begins_http2(seen: &[Chunk]) -> Option<bool> {
    let mut expected = HTTP2_PREFACE;
    for chunk in seen {
        let len = chunk.len().min(expected.len());
        if chunk[..len] != expected[..len] {
            return Some(false);
        }
        expected = &expected[len..];
    }
    expected.is_empty().then_some(true)
}

/// The settings of a client that asks for HTTP/2 in a request without body.
fn wanted_settings(head: &RequestHead<'_, '_>) -> Option<UpgradeSettings> {
    let asks = tokens(head.upgrade?).any(|protocol| protocol == b"h2c");
    let mut settings = head.fields.iter().filter(|field| field.kind == FieldKind::Http2Settings);
    let (first, another) = (settings.next()?, settings.next());
    if !asks || another.is_some() || !head.framing.is_empty() {
        return None;
    }
    UpgradeSettings::parse(first.value).ok()
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
        let Some(State { mut stage, mut guard }) = this.state.take() else {
            return Poll::Ready(());
        };
        let mut timed_out = timed_out;
        loop {
            if !this.watched {
                this.watched = true;
                this.timer.register(context.waker());
                guard.wake_at_drain(context.waker());
                match &stage {
                    Stage::Inspecting { socket, .. } => socket.register(context.waker()),
                    Stage::Handshaking { handshake, .. } => handshake.register(context.waker()),
                    Stage::Detecting { transport, .. } => transport.register(context.waker()),
                }
            }
            match this.step(stage, guard, timed_out) {
                Next::Stage(next, next_guard) => {
                    (stage, guard) = (next, next_guard);
                    timed_out = false;
                }
                Next::Wait(stage, guard) => {
                    let drain = match &stage {
                        // An idle client is given the drain's patience, as one that has been served.
                        Stage::Detecting { chain, .. } => drain_deadline(&this.shard, chain, now),
                        Stage::Inspecting { .. } | Stage::Handshaking { .. } => None,
                    };
                    this.deadline = this.deadline.into_iter().chain(drain).min();
                    this.timer.set(this.deadline);
                    this.state = Some(State { stage, guard });
                    return Poll::Pending;
                }
                Next::Over => return Poll::Ready(()),
            }
        }
    }
}

fn drain_deadline(shard: &Shard, chain: &ChainRuntime, now: Nanos) -> Option<Nanos> {
    let TerminalRuntime::Http(http) = &chain.terminal else { return None };
    shard.drain_deadline(now.saturating_sub(1), http.config.timeouts.drain)
}

/// A client that does not get on with its handshake is let go after this long where the
/// configuration says nothing: the listener's sockets are not for keeping.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
