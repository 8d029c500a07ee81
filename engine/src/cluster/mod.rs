//! Upstream clusters as one shard uses them: endpoints, load balancing, connection pools, limits.
//!
//! Invariant: what belongs to an endpoint (its pooled connections, its active requests) survives
//! every change of configuration that keeps the endpoint's address.

mod balancer;
mod bind;
mod breakers;
mod connector;
mod destinations;
mod http2;
mod meter;
mod pool;
mod rpc;
mod scopes;
mod serving;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use outrigger_codecs::peer_metadata::Workload;
use outrigger_xds::snapshot::{
    Address, Cluster, DestinationRules, Discovery, Endpoint, EndpointSet, Member, TcpKeepalive,
    UpstreamProtocol, UpstreamTls,
};

use crate::connection::moving::LastCall;
use crate::ring::{Connecting, Watermarks};
use crate::shard::Shard;
use crate::stats::registry::HostAddress;
use crate::stats::{ClusterStats, HostStats, Http2Stats, Registry, TlsStats};
use crate::timer::{Nanos, nanos};

use self::balancer::Balancer;
use self::destinations::Destinations;

pub use self::bind::{Source, bind};
pub use self::breakers::{Admission, Breaker, Breakers, ClusterBreakers};
pub use self::connector::{ConnectError, Connector};
pub use self::destinations::DESTINATIONS_MAX;
pub use self::http2::{ClientStream, Http2Client, Joined, Reset, StreamEvent};
pub use self::pool::{Janitor, UpstreamConnection, Wanted, spawn_janitor};
pub use self::rpc::{CallEnd, Counted, Kept, NotSent, RestoredRpc, RpcCall, RpcCaller, RpcClient};
pub use self::scopes::Routes;
pub use self::serving::{HeldRoutes, LiveRoutes, Serving};

/// One cluster on one shard.
pub struct ClusterRuntime {
    /// Its configuration.
    pub config: Arc<Cluster>,
    /// Its counters on this shard.
    pub stats: Arc<ClusterStats>,
    /// Those of its HTTP/2 codecs.
    pub http2_stats: Arc<Http2Stats>,
    /// Those of its TLS handshakes.
    pub tls_stats: Arc<TlsStats>,
    /// Its limits, which hold for the whole process.
    pub breakers: Arc<ClusterBreakers>,
    endpoints: Arc<EndpointSet>,
    hosts: Vec<Rc<Host>>,
    /// Endpoints that clients named, where the cluster has no others.
    destinations: Destinations,
    balancer: RefCell<Balancer>,
    /// Requests that wait for a connection to come free, first come first served.
    waiting: Rc<RefCell<VecDeque<Waiter>>>,
}

struct Waiter {
    waker: Waker,
    waits: Rc<Cell<bool>>,
}

/// A place in the line for a connection; given up when dropped.
pub struct Place {
    waits: Rc<Cell<bool>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waits.set(false);
    }
}

/// One endpoint on one shard.
pub struct Host {
    /// Its configuration.
    pub endpoint: Endpoint,
    /// Its address as text, for logs.
    pub address_text: Box<str>,
    /// How it is spoken to; nothing is plain text.
    pub tls: Option<Arc<UpstreamTls>>,
    stats: Arc<HostStats>,
    sockaddr: socket2::SockAddr,
    active_requests: Cell<u32>,
    #[expect(clippy::vec_box, reason = "they are moved out and in with every request")]
    idle: RefCell<Vec<Box<UpstreamConnection>>>,
    /// Its HTTP/2 connections.
    multiplexed: RefCell<Vec<Rc<Http2Client>>>,
    /// Its connections of RPC protocols that requests share.
    rpc: RefCell<Vec<Rc<RpcClient>>>,
    /// It chose HTTP/1.1 when it was last asked.
    speaks_http1: Cell<bool>,
    /// No longer in the configuration: connections that come back are closed.
    retired: Cell<bool>,
    /// Who it is, as its metadata says; read when it is first asked for.
    workload: OnceCell<Option<Rc<Workload>>>,
}

impl ClusterRuntime {
    /// The runtime of a cluster that follows on `before`: hosts that are still there keep their
    /// connections, the others close theirs.
    fn succeed(
        member: &Member,
        before: Option<&ClusterRuntime>,
        shard: usize,
        registry: &Registry,
        breakers: &Breakers,
    ) -> ClusterRuntime {
        let (config, endpoints) = (&member.cluster, &member.endpoints);
        // Connections that were made for another protocol, or from elsewhere, are of no use.
        let alike = before.is_none_or(|before| {
            before.config.http.protocol == config.http.protocol && before.config.bind == config.bind
        });
        if let Some(before) = before.filter(|_| !alike) {
            before.retire();
        }
        let before = before.filter(|_| alike);
        let mut known: HashMap<&Address, &Rc<Host>> = before
            .map(|before| before.hosts.iter().map(|host| (&host.endpoint.address, host)).collect())
            .unwrap_or_default();
        let hosts: Vec<_> = endpoints
            .all()
            .iter()
            .map(|endpoint| {
                let tls = config.transport_of(endpoint);
                // Those that were made with other keys are of no use either.
                let same = known.remove(&endpoint.address).filter(|host| {
                    let same = is_same(host.tls.as_ref(), tls);
                    if !same {
                        host.retire();
                    }
                    same
                });
                match same {
                    Some(host) if host.endpoint == *endpoint => Rc::clone(host),
                    Some(host) => host.changed(endpoint),
                    None => {
                        let address = HostAddress::from(&endpoint.address);
                        let stats = registry.host(shard, &config.stat_name, &address);
                        Rc::new(Host::new(endpoint, tls, stats))
                    }
                }
            })
            .collect();
        for host in known.values() {
            host.retire();
        }
        let destinations = Destinations::default();
        if let Some(before) = before {
            // Nothing is known of any of them but the address.
            let any = Endpoint::at(Address::Ip(([0; 4], 0).into()));
            let same = is_same(before.config.transport_of(&any), config.transport_of(&any));
            match &config.discovery {
                Discovery::OriginalDst(_) if same => destinations.succeed(&before.destinations),
                _ => before.destinations.visit(|host| host.retire()),
            }
        }
        let stats = registry.cluster(shard, &config.stat_name);
        // Listed only for clusters that may need them.
        let http2_stats = match config.http.protocol {
            UpstreamProtocol::Http1 => Arc::default(),
            _ => registry.cluster_http2(shard, &config.stat_name),
        };
        let tls_stats = match config.tls_configs().next() {
            None => Arc::default(),
            Some(_) => registry.cluster_tls(shard, &config.stat_name),
        };
        ClusterRuntime {
            config: Arc::clone(config),
            stats,
            http2_stats,
            tls_stats,
            breakers: breakers.cluster(&config.name),
            balancer: RefCell::new(Balancer::new(config.load_balancer, endpoints, shard)),
            endpoints: Arc::clone(endpoints),
            hosts,
            destinations,
            waiting: before.map(|before| Rc::clone(&before.waiting)).unwrap_or_default(),
        }
    }

    /// The cluster is gone: its connections are closed, when they are idle.
    fn retire(&self) {
        self.visit_hosts(|host| host.retire());
    }

    /// Hands every endpoint to `visit`.
    fn visit_hosts(&self, mut visit: impl FnMut(&Rc<Host>)) {
        self.hosts.iter().for_each(&mut visit);
        self.destinations.visit(visit);
    }

    /// Chooses an endpoint for one request. Nothing when none may be used. `destination` says what the
    /// client meant, and is asked only where that counts.
    pub fn choose(
        &self,
        shard: &Shard,
        destination: impl FnOnce(&DestinationRules) -> Option<SocketAddr>,
    ) -> Option<Rc<Host>> {
        let chosen = match &self.config.discovery {
            Discovery::OriginalDst(rules) => {
                destination(rules).and_then(|meant| self.destination(shard, rules, meant))
            }
            _ => self.balance(shard),
        };
        if chosen.is_none() {
            self.stats.upstream_cx_none_healthy.inc();
        }
        chosen
    }

    /// Chooses an endpoint of a priority that none of those in `tried` is of, where there is one that a
    /// request may go to; for what `step` is, see `RetryPolicy::previous_priorities`.
    pub fn choose_beyond(
        &self,
        shard: &Shard,
        tried: &[Rc<Host>],
        step: NonZeroU32,
    ) -> Option<Rc<Host>> {
        let priorities = tried.iter().map(|host| host.endpoint.priority);
        let members = self.endpoints.beyond(priorities, step, shard.random())?;
        let position = balancer::below(shard.random(), members.len());
        self.hosts.get(*members.get(position)? as usize).cloned()
    }

    /// The endpoint that a client meant, made if need be.
    fn destination(
        &self,
        shard: &Shard,
        rules: &DestinationRules,
        mut meant: SocketAddr,
    ) -> Option<Rc<Host>> {
        meant.set_port(rules.port.unwrap_or(meant.port()));
        let now = shard.clock.now();
        if let Some(known) = self.destinations.find(meant, now) {
            return Some(known);
        }
        if !self.destinations.has_room() {
            self.stats.original_dst_hosts_overflow.inc();
            return None;
        }
        let endpoint = Endpoint::at(Address::Ip(meant));
        let name = &self.config.stat_name;
        let stats = shard.registry.host(shard.index, name, &HostAddress::Ip(meant));
        let host = Rc::new(Host::new(&endpoint, self.config.transport_of(&endpoint), stats));
        let due = self.destinations.add(meant, &host, now, nanos(rules.cleanup_interval));
        if let Some(due) = due {
            shard.janitor.look_by(due);
        }
        Some(host)
    }

    /// Drops endpoints that clients named and that are no longer used. Returns when to look again.
    fn sweep(&self, now: Nanos) -> Option<Nanos> {
        match &self.config.discovery {
            Discovery::OriginalDst(rules) => {
                self.destinations.sweep(now, nanos(rules.cleanup_interval))
            }
            _ => None,
        }
    }

    fn balance(&self, shard: &Shard) -> Option<Rc<Host>> {
        let candidates = self.endpoints.candidates(shard.random());
        if candidates.panic {
            self.stats.lb_healthy_panic.inc();
        }
        let chosen = self.balancer.borrow_mut().choose(
            candidates,
            || shard.random(),
            |index| self.hosts[index as usize].active_requests.get(),
        );
        chosen.map(|index| Rc::clone(&self.hosts[index as usize]))
    }

    /// The endpoint with this address.
    pub fn host_at(&self, address: &str) -> Option<Rc<Host>> {
        self.hosts.iter().find(|host| &*host.address_text == address).cloned()
    }

    /// Watermarks of this cluster's connections.
    pub fn watermarks(&self, shard: &Shard) -> Watermarks {
        shard.watermarks(self.config.per_connection_buffer_limit_bytes)
    }

    /// Waits in line for a connection to come free. The circuit breaker for pending requests
    /// bounds the line.
    pub fn wait(&self, waker: &Waker) -> Place {
        let waits = Rc::new(Cell::new(true));
        let waiter = Waiter { waker: waker.clone(), waits: Rc::clone(&waits) };
        self.waiting.borrow_mut().push_back(waiter);
        Place { waits }
    }

    /// A connection came free or may be made: the first in line tries again.
    pub(crate) fn wake_next(&self, shard: &Shard) {
        while let Some(waiter) = self.waiting.borrow_mut().pop_front() {
            if waiter.waits.get() {
                waiter.waker.wake();
                shard.ring.note_wake();
                return;
            }
        }
    }
}

impl Host {
    fn new(endpoint: &Endpoint, tls: Option<&Arc<UpstreamTls>>, stats: Arc<HostStats>) -> Self {
        Self {
            stats,
            tls: tls.cloned(),
            endpoint: endpoint.clone(),
            address_text: endpoint.address.to_string().into(),
            sockaddr: sockaddr(&endpoint.address),
            active_requests: Cell::new(0),
            idle: RefCell::new(Vec::new()),
            multiplexed: RefCell::new(Vec::new()),
            rpc: RefCell::new(Vec::new()),
            speaks_http1: Cell::new(false),
            retired: Cell::new(false),
            workload: OnceCell::new(),
        }
    }

    /// This host with another configuration (weight, health, metadata) and its old connections.
    fn changed(&self, endpoint: &Endpoint) -> Rc<Self> {
        let host = Rc::new(Self::new(endpoint, self.tls.as_ref(), Arc::clone(&self.stats)));
        host.active_requests.set(self.active_requests.get());
        host.idle.replace(self.idle.take());
        host.speaks_http1.set(self.speaks_http1.get());
        host.multiplexed.replace(self.multiplexed.take());
        for client in &*host.multiplexed.borrow() {
            client.moves_to(&host);
        }
        host.rpc.replace(self.rpc.take());
        for client in &*host.rpc.borrow() {
            client.moves_to(&host);
        }
        self.retired.set(true);
        host
    }

    fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.multiplexed.borrow().iter().for_each(|client| client.drain());
        self.rpc.borrow().iter().for_each(|client| client.drain());
    }

    /// Lets the connections that requests share go to the present successor, each as soon as it rests.
    pub fn let_shared_go(&self, last_call: Option<&LastCall>) {
        self.multiplexed.borrow().iter().for_each(|client| client.let_go(last_call));
        self.rpc.borrow().iter().for_each(|client| client.let_go(last_call));
    }

    /// Who it is, as its metadata says (xds.md B11).
    pub fn workload(&self) -> Option<&Rc<Workload>> {
        let read = || {
            let metadata = self.endpoint.metadata.as_ref()?;
            let text = metadata.get("istio")?.get("workload")?.as_str()?;
            Workload::from_endpoint(text).map(Rc::new)
        };
        self.workload.get_or_init(read).as_ref()
    }

    /// Whether anybody holds it or has a connection to it.
    fn is_used(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1
            || !self.idle.borrow().is_empty()
            || !self.multiplexed.borrow().is_empty()
            || !self.rpc.borrow().is_empty()
    }

    /// Whether requests that may use either version are to use HTTP/1.1 here.
    pub fn speaks_http1(&self) -> bool {
        self.speaks_http1.get()
    }

    /// Asks for a stream on one of the HTTP/2 connections, or a place in line for one that is being
    /// made; `waker` is then woken. Nothing when another connection is needed.
    pub fn join(&self, wanted: Wanted<'_>, waker: &Waker) -> Option<(Rc<Http2Client>, Joined)> {
        // The newest is the likeliest to have room.
        let clients = self.multiplexed.borrow();
        clients.iter().rev().filter(|client| client.is_for(wanted)).find_map(|client| match client
            .join(waker)
        {
            Joined::Elsewhere | Joined::Failed(_) | Joined::TimedOut => None,
            joined => Some((Rc::clone(client), joined)),
        })
    }

    /// Starts another HTTP/2 connection.
    ///
    /// # Errors
    /// When no connect can be started.
    pub fn connect_http2(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        wanted: Wanted<'_>,
        admission: Admission,
    ) -> Result<Rc<Http2Client>, ConnectError> {
        let client = Http2Client::start(shard, cluster, self, wanted, admission)?;
        self.multiplexed.borrow_mut().push(Rc::clone(&client));
        Ok(client)
    }

    /// A request was sent here.
    pub fn request_begins(&self) {
        self.active_requests.set(self.active_requests.get() + 1);
        self.stats.rq_total.inc();
        self.stats.rq_active.inc();
    }

    /// A request ended here with this status; 0 without one.
    pub fn request_ends(&self, status: u16) {
        self.active_requests.set(self.active_requests.get().saturating_sub(1));
        self.stats.rq_active.dec();
        if (200..500).contains(&status) {
            self.stats.rq_success.inc();
        } else {
            self.stats.rq_error.inc();
        }
    }

    /// Starts to connect, from `source` if that is given.
    ///
    /// # Errors
    /// When no socket can be made, or it can't be bound.
    fn connect(
        &self,
        shard: &Shard,
        cluster: &ClusterRuntime,
        source: Option<Source>,
    ) -> io::Result<Connecting> {
        let config = &cluster.config;
        let options = |socket: &socket2::Socket| {
            if let Some(keepalive) = config.tcp_keepalive {
                set_keepalive(socket, keepalive)?;
            }
            match self.endpoint.address.ip() {
                Some(address) if source.is_some() || config.bind.is_some() => {
                    bind(socket, address.ip(), config.bind.as_deref(), source)
                        .inspect_err(|_| cluster.stats.bind_errors.inc())
                }
                _ => Ok(()),
            }
        };
        shard.ring.connect(&self.sockaddr, &options, cluster.watermarks(shard))
    }
}

/// Sets SO_KEEPALIVE and the numbers that are given.
///
/// # Errors
/// When the kernel refuses one of them.
pub fn set_keepalive(socket: &socket2::Socket, keepalive: TcpKeepalive) -> io::Result<()> {
    use std::time::Duration;
    let mut numbers = socket2::TcpKeepalive::new();
    if let Some(seconds) = keepalive.time_s {
        numbers = numbers.with_time(Duration::from_secs(seconds.into()));
    }
    if let Some(seconds) = keepalive.interval_s {
        numbers = numbers.with_interval(Duration::from_secs(seconds.into()));
    }
    if let Some(probes) = keepalive.probes {
        numbers = numbers.with_retries(probes);
    }
    socket.set_tcp_keepalive(&numbers)
}

/// Whether two endpoints are spoken to in the same way.
fn is_same(one: Option<&Arc<UpstreamTls>>, other: Option<&Arc<UpstreamTls>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

fn sockaddr(address: &Address) -> socket2::SockAddr {
    match address {
        Address::Ip(address) => (*address).into(),
        Address::Unix(path) => unix_sockaddr(path.as_os_str().as_bytes()),
        Address::UnixAbstract(name) => {
            let mut bytes = vec![0];
            bytes.extend_from_slice(name);
            unix_sockaddr(&bytes)
        }
    }
}

/// The address of a Unix socket. Paths were checked to fit when the configuration was compiled.
fn unix_sockaddr(path: &[u8]) -> socket2::SockAddr {
    socket2::SockAddr::unix(std::ffi::OsStr::from_bytes(path))
        .expect("the configuration holds only paths that fit a socket address")
}
