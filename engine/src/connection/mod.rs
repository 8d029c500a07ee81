//! From an accepted socket to the task that serves it.

mod arrival;
mod detect;
mod drain;
mod ends;
mod inspect;
pub mod moving;

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use outrigger_xds::snapshot::{
    DetectedProtocol, FilterChain, Listener, ProtocolDetection, Terminal, TrafficDirection,
};

use crate::access_log::{self, AccessLogs, Record};
use crate::http::{HttpRuntime, Peer};
use crate::ring::Watermarks;
use crate::rpc::RpcRuntime;
use crate::shard::{Shard, spawn_guarded};
use crate::stats::{ListenerStats, TlsStats};
use crate::tcp::{ChainTelemetry, TcpRuntime};
use crate::timer::{NANOS_PER_MS, Nanos, nanos};
use crate::tls::{PeerCertificate, TlsSession};
use crate::transport::Transport;

use self::arrival::Arrival;
use self::moving::Leaving;

pub use self::drain::{Drain, DrainTimes, DrainingListener, WithinDrain};
pub use self::ends::Ends;

/// One listener on one shard.
pub struct ListenerRuntime {
    /// Its configuration.
    pub config: Arc<Listener>,
    /// Its counters.
    pub stats: Arc<ListenerStats>,
    /// Those of its TLS handshakes.
    tls_stats: Arc<TlsStats>,
    /// One for each of its filter chains.
    chains: Vec<Rc<ChainRuntime>>,
}

/// The open access logs of a chain's filters that own connections, in their order.
pub type ChainLogs = Arc<[Arc<AccessLogs>]>;

/// Those of each filter chain of a listener, in their order.
pub type ListenerLogs = Arc<[ChainLogs]>;

/// One filter chain on one shard.
struct ChainRuntime {
    config: Arc<FilterChain>,
    terminal: TerminalRuntime,
    drain: Rc<Drain>,
}

/// What a filter chain does.
enum TerminalRuntime {
    Http(Rc<HttpRuntime>),
    Tcp(Rc<TcpRuntime>),
    Rpc(Rc<RpcRuntime>),
    Detect(Rc<DetectionRuntime>),
    /// It is to come by name, and is not there.
    Missing,
}

/// Filters of which the first bytes choose one.
struct DetectionRuntime {
    config: Arc<ProtocolDetection>,
    choices: Vec<(DetectedProtocol, TerminalRuntime)>,
    fallback: Option<TerminalRuntime>,
}

impl TerminalRuntime {
    fn new<'a>(
        shard: &Shard,
        config: &Terminal,
        telemetry: &Rc<ChainTelemetry>,
        direction: TrafficDirection,
        logs: &mut impl Iterator<Item = &'a Arc<AccessLogs>>,
    ) -> Self {
        match config {
            Terminal::Http(http) => {
                let (http, logs) = (Arc::clone(http), logs_of_next(logs));
                Self::Http(Rc::new(HttpRuntime::new(shard, http, direction, logs)))
            }
            Terminal::Tcp(tcp) => {
                let (tcp, telemetry) = (Arc::clone(tcp), Rc::clone(telemetry));
                Self::Tcp(Rc::new(TcpRuntime::new(shard, tcp, telemetry, logs_of_next(logs))))
            }
            Terminal::Rpc(rpc) => {
                Self::Rpc(Rc::new(RpcRuntime::new(shard, Arc::clone(rpc), logs_of_next(logs))))
            }
            Terminal::Detect(detection) => {
                let mut choice = |terminal| Self::new(shard, terminal, telemetry, direction, logs);
                let choices = detection.choices.iter();
                Self::Detect(Rc::new(DetectionRuntime {
                    choices: choices.map(|(protocol, it)| (*protocol, choice(it))).collect(),
                    fallback: detection.fallback.as_deref().map(choice),
                    config: Arc::clone(detection),
                }))
            }
            Terminal::Missing => Self::Missing,
        }
    }
}

fn logs_of_next<'a>(logs: &mut impl Iterator<Item = &'a Arc<AccessLogs>>) -> Arc<AccessLogs> {
    logs.next().map(Arc::clone).expect("the server opens logs for each owner, in order")
}

impl ListenerRuntime {
    /// Makes the runtime of `config`, which follows on `before`: chains that did not change are the
    /// same, and those with another last filter by name go where the one before goes.
    pub fn succeed(
        shard: &Shard,
        config: &Arc<Listener>,
        logs: &ListenerLogs,
        before: Option<&ListenerRuntime>,
    ) -> Self {
        let known = |chain| before.and_then(|before| before.chain(chain).cloned());
        let followed = |chain: &FilterChain| {
            let mut chains = before?.chains.iter();
            let before = chains.find(|before| chain.follows(&before.config))?;
            Some(Rc::clone(&before.drain))
        };
        let direction = config.traffic_direction;
        let make = |(chain, logs): (&Arc<FilterChain>, &ChainLogs)| {
            let telemetry = Rc::new(ChainTelemetry::new(shard, chain, direction));
            Rc::new(ChainRuntime {
                config: Arc::clone(chain),
                terminal: TerminalRuntime::new(
                    shard,
                    &chain.terminal,
                    &telemetry,
                    direction,
                    &mut logs.iter(),
                ),
                drain: followed(chain).unwrap_or_default(),
            })
        };
        let chains = config
            .filter_chains
            .iter()
            .zip(&**logs)
            .map(|(chain, logs)| known(chain).unwrap_or_else(|| make((chain, logs))))
            .collect();
        let stats = shard.registry.listener(shard.index, &config.stat_prefix);
        // Listed only for listeners that may need them.
        let tls_stats = if config.filter_chains.iter().any(|chain| chain.tls.is_some()) {
            shard.registry.listener_tls(shard.index, &config.stat_prefix)
        } else {
            Arc::default()
        };
        Self { config: Arc::clone(config), stats, tls_stats, chains }
    }

    /// Asks the connections of chains that `next` does not have to go; all, if there is no next.
    pub fn drain(&self, shard: &Rc<Shard>, next: Option<&ListenerRuntime>) {
        let listener = next.is_none().then(|| DrainingListener::new(shard));
        let stays = |chain: &Rc<ChainRuntime>| {
            let mut others = next.into_iter().flat_map(|next| &next.chains);
            others.any(|other| Rc::ptr_eq(&other.drain, &chain.drain))
        };
        for chain in self.chains.iter().filter(|chain| !stays(chain)) {
            chain.drain.begin(shard, shard.drain_times, listener.as_ref());
        }
    }

    /// Asks the connections to go, those to come as well; they may stay until they are done.
    pub fn ask_to_go(&self, shard: &Rc<Shard>) {
        let times = DrainTimes { closes: false, ..shard.drain_times };
        self.chains.iter().for_each(|chain| chain.drain.begin(shard, times, None));
    }

    /// The runtime of a chain of this listener.
    fn chain(&self, chain: &Arc<FilterChain>) -> Option<&Rc<ChainRuntime>> {
        self.chains.iter().find(|runtime| Arc::ptr_eq(&runtime.config, chain))
    }
}

/// What is known of a connection for as long as it lives.
pub struct ConnectionInfo {
    /// Its number in logs.
    pub id: u64,
    /// Who it is between.
    pub ends: Ends,
    /// What was agreed with the client, where the connection is TLS.
    pub tls: Option<Rc<TlsSession>>,
    /// The server name that the client asked for, where TLS is passed through.
    pub server_name: Option<Box<str>>,
    /// The filter chain that serves it.
    pub chain: Arc<FilterChain>,
    /// Whether it is asked to go.
    pub drain: Rc<Drain>,
    /// Whether it goes to a successor.
    pub leaving: Leaving,
}

/// A connection as the task of its protocol takes it over.
pub struct Admitted {
    /// Its bytes.
    pub transport: Transport,
    /// What is known of it.
    pub info: ConnectionInfo,
    /// How much it may hold unsent and unread.
    pub marks: Watermarks,
    /// What counts it.
    pub guard: ConnectionGuard,
}

impl ConnectionInfo {
    fn new(
        shard: &Shard,
        chain: &ChainRuntime,
        ends: Ends,
        tls: Option<Rc<TlsSession>>,
        server_name: Option<Box<str>>,
    ) -> Self {
        Self {
            id: shard.next_connection_id(),
            ends,
            tls,
            server_name,
            chain: Arc::clone(&chain.config),
            drain: Rc::clone(&chain.drain),
            leaving: Leaving::default(),
        }
    }

    /// True once the connection should end as its protocol allows.
    pub fn is_draining(&self, shard: &Shard) -> bool {
        self.asked_at(shard).is_some()
    }

    /// When the connection, idle since `idle_since`, is closed because of a drain: it is given
    /// `patience` from the drain's begin or its own, whichever was later.
    pub fn drain_deadline(
        &self,
        shard: &Shard,
        idle_since: Nanos,
        patience: Duration,
    ) -> Option<Nanos> {
        let began_at = self.asked_at(shard)?;
        let patience = nanos(patience.min(DRAIN_IDLE_PATIENCE));
        Some(began_at.max(idle_since).saturating_add(patience))
    }

    /// When it was asked to go. What moves to a successor is not.
    fn asked_at(&self, shard: &Shard) -> Option<Nanos> {
        let own = self.drain.since(shard, self.id);
        let of_shard = shard.drain_began_at().filter(|_| !self.leaving.is_due(shard));
        of_shard.into_iter().chain(own).min()
    }

    /// The scheme of what comes on it.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The certificate that the client showed.
    pub fn client_certificate(&self) -> Option<&PeerCertificate> {
        self.tls.as_ref()?.peer.as_ref()
    }

    /// The name that the client asked for in TLS.
    pub fn requested_server_name(&self) -> Option<&str> {
        let session = self.tls.as_ref().and_then(|session| session.server_name.as_deref());
        session.or(self.server_name.as_deref())
    }

    /// What logs say of the connection.
    pub fn record(&self) -> Record<'_> {
        let address = |peer| match peer {
            Peer::Ip(address) => access_log::Address::Ip(address),
            Peer::Unix => access_log::Address::Pipe(""),
        };
        Record {
            downstream_remote: Some(address(self.ends.peer)),
            downstream_direct_remote: Some(address(self.ends.direct())),
            downstream_local: self.ends.destination().map(access_log::Address::Ip),
            downstream_direct_local: self.ends.accepted.map(access_log::Address::Ip),
            connection_id: self.id,
            filter_chain_name: Some(&*self.chain.name).filter(|name| !name.is_empty()),
            requested_server_name: self.requested_server_name(),
            downstream_tls: self.tls.as_deref(),
            ..Record::default()
        }
    }
}

/// Counts a connection as this shard's for as long as it lives.
pub struct ConnectionGuard {
    shard: Rc<Shard>,
    listener: Rc<ListenerRuntime>,
    /// By the shard's clock, which wraps around for a connection that is older than this process.
    began_at: Nanos,
    /// It was another process's, and its beginning is counted there.
    is_adopted: bool,
    /// It is another process's now.
    has_left: bool,
    /// Its chain's, once it has one.
    drain: Option<Rc<Drain>>,
    /// Its numbers with the shard's and the chain's wakers.
    drain_waker: Option<u32>,
    chain_waker: Option<u32>,
}

impl ConnectionGuard {
    fn new(shard: &Rc<Shard>, listener: &Rc<ListenerRuntime>) -> Self {
        listener.stats.downstream_cx_total.inc();
        Self::begin(shard, listener, None)
    }

    /// For a connection that was counted by another process for as long.
    fn adopted(shard: &Rc<Shard>, listener: &Rc<ListenerRuntime>, age: Nanos) -> Self {
        Self::begin(shard, listener, Some(age))
    }

    fn begin(shard: &Rc<Shard>, listener: &Rc<ListenerRuntime>, age: Option<Nanos>) -> Self {
        listener.stats.downstream_cx_active.inc();
        shard.stats.connections.inc();
        Self {
            shard: Rc::clone(shard),
            listener: Rc::clone(listener),
            began_at: shard.clock.now().wrapping_sub(age.unwrap_or(0)),
            is_adopted: age.is_some(),
            has_left: false,
            drain: None,
            drain_waker: None,
            chain_waker: None,
        }
    }

    /// For how long the connection has been there.
    pub fn age(&self) -> Nanos {
        self.shard.clock.now().wrapping_sub(self.began_at)
    }

    /// True when its beginning was another process's to count.
    pub fn is_adopted(&self) -> bool {
        self.is_adopted
    }

    /// Its end is another process's to count.
    pub fn leaves(&mut self) {
        self.has_left = true;
    }

    /// True when its end is another process's to count.
    pub fn has_left(&self) -> bool {
        self.has_left
    }

    fn listener_name(&self) -> &str {
        &self.listener.config.name
    }

    /// The connection goes with this chain.
    fn join(&mut self, drain: &Rc<Drain>) {
        self.sleep();
        self.drain = Some(Rc::clone(drain));
    }

    /// Wakes `waker`, and no longer another one, when the shard or the chain begins to drain.
    pub fn wake_at_drain(&mut self, waker: &Waker) {
        self.sleep();
        self.drain_waker = Some(self.shard.drain_wakers.insert(waker));
        self.chain_waker = self.drain.as_ref().map(|drain| drain.wakers().insert(waker));
    }

    fn sleep(&mut self) {
        if let Some(waker) = self.drain_waker.take() {
            self.shard.drain_wakers.remove(waker);
        }
        if let (Some(drain), Some(waker)) = (&self.drain, self.chain_waker.take()) {
            drain.wakers().remove(waker);
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.sleep();
        let stats = &self.listener.stats;
        stats.downstream_cx_active.dec();
        if !self.has_left {
            stats.downstream_cx_destroy.inc();
            stats.downstream_cx_length_ms.record(self.age() / NANOS_PER_MS);
        }
        self.shard.stats.connections.dec();
        self.shard.connection_ends();
    }
}

/// Serves an accepted connection on this shard, which has counted it.
pub fn serve(shard: &Rc<Shard>, listener: &Rc<ListenerRuntime>, socket: OwnedFd) {
    let address = listener.config.addresses.first();
    if let Some(keepalive) = address.and_then(|address| address.tcp_keepalive) {
        let socket = socket.as_fd();
        let socket = socket2::SockRef::from(&socket);
        if let Err(error) = crate::cluster::set_keepalive(&socket, keepalive) {
            log::debug!(target: "listener", "{}: keepalive: {error}", listener.config.name);
        }
    }
    let mut ends = Ends::of(&socket);
    ends.restore(&socket, &listener.config);
    let meant_for = meant_for(shard, listener, &ends);
    if let Some(other) = &meant_for {
        ends.restore(&socket, &other.config);
    }
    let server = meant_for.as_ref().unwrap_or(listener);
    let guard = ConnectionGuard::new(shard, server);
    let marks = shard.watermarks(server.config.per_connection_buffer_limit_bytes);
    let socket = shard.ring.adopt(socket, marks);
    if let Some(arrival) = Arrival::begin(shard, listener, meant_for, socket, ends, marks, guard) {
        spawn_guarded(shard, arrival);
    }
}

/// The listener that a connection was redirected away from, if it is to go there (L-01).
fn meant_for(
    shard: &Shard,
    listener: &Rc<ListenerRuntime>,
    ends: &Ends,
) -> Option<Rc<ListenerRuntime>> {
    let destination = ends.original.filter(|_| listener.config.use_original_dst)?;
    shard.redirects.find(destination).filter(|other| !Rc::ptr_eq(other, listener))
}

/// How long a draining connection lets an idle client send one more request at the most. Whenever an
/// idle connection is closed a request may be crossing on the wire; waiting longer does not change that.
const DRAIN_IDLE_PATIENCE: Duration = Duration::from_secs(1);
