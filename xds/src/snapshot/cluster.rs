//! Clusters, their endpoints and what a load balancer may choose from (contract sections 10, 11, 14).

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::address::Address;
use super::cluster_names::{ClusterId, ClusterNames, ClusterRef};
use super::config_source::ConfigSource;
use super::endpoint_set::EndpointSet;
use super::headers::HeaderName;
use super::istio::IstioCluster;
use super::listener::SocketOption;
use super::tls::UpstreamTls;

/// All clusters of a snapshot with their present endpoints, each at the place that its name's number
/// says.
///
/// Places are kept in chunks that successive versions share: a change of one cluster copies one chunk
/// and the list of chunks, and to find what changed is to look at the chunks that are not the same.
#[derive(Debug, Clone, Default)]
pub struct Clusters {
    names: Arc<ClusterNames>,
    chunks: Vec<Arc<Chunk>>,
    by_name: Arc<HashSet<ClusterRef>>,
}

type Chunk = [Option<Member>; CHUNK];

/// A cluster that exists.
#[derive(Debug, Clone)]
pub struct Member {
    name: ClusterRef,
    /// Its configuration.
    pub cluster: Arc<Cluster>,
    /// Its present endpoints.
    pub endpoints: Arc<EndpointSet>,
    /// Who asked for it.
    pub origin: Origin,
}

/// Where a cluster comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The bootstrap.
    Static,
    /// CDS.
    Dynamic,
    /// A service that was published or subscribed at run time.
    Service,
}

impl Member {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> ClusterId {
        self.name.id()
    }

    fn is_same(&self, other: &Member) -> bool {
        Arc::ptr_eq(&self.cluster, &other.cluster) && Arc::ptr_eq(&self.endpoints, &other.endpoints)
    }
}

impl Clusters {
    /// No clusters yet; references to them are made by `names`.
    #[must_use]
    pub fn new(names: &Arc<ClusterNames>) -> Clusters {
        Clusters { names: Arc::clone(names), ..Clusters::default() }
    }

    /// Who makes references to these clusters.
    #[must_use]
    pub fn names(&self) -> &Arc<ClusterNames> {
        &self.names
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The cluster with this number, if it exists.
    #[must_use]
    pub fn member(&self, id: ClusterId) -> Option<&Member> {
        let (chunk, place) = place(id);
        self.chunks.get(chunk)?[place].as_ref()
    }

    /// Its configuration.
    #[must_use]
    pub fn get(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.member(id).map(|member| &member.cluster)
    }

    /// Its present endpoints.
    #[must_use]
    pub fn endpoints(&self, id: ClusterId) -> Option<&Arc<EndpointSet>> {
        self.member(id).map(|member| &member.endpoints)
    }

    /// Looks a name up, for `cluster_header` and admin.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<ClusterId> {
        self.by_name.get(name).map(ClusterRef::id)
    }

    /// Every cluster, in the order of numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().flatten())
    }

    /// The numbers whose clusters or endpoints are not those of `before`: new, changed and gone ones.
    pub fn changes_since<'a>(
        &'a self,
        before: &'a Clusters,
    ) -> impl Iterator<Item = ClusterId> + 'a {
        let all = 0..self.chunks.len().max(before.chunks.len());
        let changed = all.filter(|at| match (self.chunks.get(*at), before.chunks.get(*at)) {
            (Some(now), Some(then)) => !Arc::ptr_eq(now, then),
            _ => true,
        });
        let numbers = changed.flat_map(|at| (at * CHUNK) as u32..((at + 1) * CHUNK) as u32);
        numbers.map(ClusterId).filter(|id| match (self.member(*id), before.member(*id)) {
            (Some(now), Some(then)) => !now.is_same(then),
            (None, None) => false,
            _ => true,
        })
    }

    /// Adds a cluster, or replaces the one of its name.
    pub fn put(
        &mut self,
        cluster: Arc<Cluster>,
        endpoints: Arc<EndpointSet>,
        origin: Origin,
    ) -> ClusterId {
        let name = self.names.refer(&cluster.name);
        let id = name.id();
        if !self.by_name.contains(&*cluster.name) {
            Arc::make_mut(&mut self.by_name).insert(name.clone());
        }
        *self.slot(id) = Some(Member { name, cluster, endpoints, origin });
        id
    }

    /// Gives a cluster other endpoints; nothing happens to one that does not exist.
    pub fn set_endpoints(&mut self, id: ClusterId, endpoints: Arc<EndpointSet>) {
        if self.member(id).is_some()
            && let Some(member) = self.slot(id)
        {
            member.endpoints = endpoints;
        }
    }

    /// Takes a cluster away.
    pub fn remove(&mut self, id: ClusterId) {
        if let Some(member) = self.member(id) {
            let name = member.name.clone();
            Arc::make_mut(&mut self.by_name).remove(name.name());
            *self.slot(id) = None;
        }
    }

    fn slot(&mut self, id: ClusterId) -> &mut Option<Member> {
        let (chunk, place) = place(id);
        while self.chunks.len() <= chunk {
            self.chunks.push(Arc::new([const { None }; CHUNK]));
        }
        &mut Arc::make_mut(&mut self.chunks[chunk])[place]
    }

    /// Has the clusters `wanted` beside those of the configuration, and no others. What did not change
    /// stays the same, so that shards see that it did not. A name that a configured cluster has is that
    /// cluster's.
    pub(super) fn set_services(
        &mut self,
        template: &Cluster,
        wanted: impl Iterator<Item = (Box<str>, Vec<Endpoint>)>,
    ) {
        let is_service = |member: &&Member| member.origin == Origin::Service;
        let mut gone: HashSet<ClusterId> = self.iter().filter(is_service).map(Member::id).collect();
        for (name, members) in wanted {
            let known = self.id(&name).and_then(|id| self.member(id));
            let (cluster, endpoints) = match known {
                Some(member) if !is_service(&member) => continue,
                Some(member) => {
                    gone.remove(&member.id());
                    if *member.endpoints.all() == *members {
                        continue;
                    }
                    let cluster = Arc::clone(&member.cluster);
                    let endpoints = EndpointSet::new(members, cluster.panic);
                    (cluster, endpoints)
                }
                None => {
                    let cluster = template.of_service(name);
                    let endpoints = EndpointSet::new(members, cluster.panic);
                    (Arc::new(cluster), endpoints)
                }
            };
            self.put(cluster, Arc::new(endpoints), Origin::Service);
        }
        gone.into_iter().for_each(|id| self.remove(id));
    }
}

fn place(id: ClusterId) -> (usize, usize) {
    (id.0 as usize / CHUNK, id.0 as usize % CHUNK)
}

/// Near the square root of ten thousand: a change copies this many places, and as many chunks.
const CHUNK: usize = 64;

/// One upstream service, without its endpoints.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Unique, never empty.
    pub name: Box<str>,
    /// Stats root is `cluster.<stat_name>`, and what logs call it: `alt_stat_name`, else the name.
    pub stat_name: Box<str>,
    /// Where endpoints come from.
    pub discovery: Discovery,
    /// How one is chosen.
    pub load_balancer: LoadBalancer,
    /// What happens when few endpoints are healthy.
    pub panic: PanicPolicy,
    /// Bound on `connect`; above zero.
    pub connect_timeout: Duration,
    /// High watermark of buffered bytes, each way, of an upstream connection; at least 1.
    pub per_connection_buffer_limit_bytes: u32,
    /// Limits of default priority.
    pub circuit_breakers: CircuitBreakers,
    /// HTTP behaviour of upstream connections.
    pub http: ClusterHttp,
    /// TLS towards upstream; `None` is plain text. See [`Cluster::transport_of`].
    pub tls: Option<Arc<UpstreamTls>>,
    /// Other transports, for the endpoints that they are meant for.
    pub transports: Vec<TransportMatch>,
    /// What upstream sockets are bound to; `None`: what the kernel chooses.
    pub bind: Option<Arc<UpstreamBind>>,
    /// Keepalive probing of upstream connections; `None` as the kernel does by default.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Listeners wait for this cluster's first endpoints before they accept.
    pub wait_for_warm_on_init: bool,
    /// Filter name to struct, as configured; for logs and matching.
    pub metadata: Option<Arc<Value>>,
    /// What it says under `istio`.
    pub istio: IstioCluster,
}

/// TLS for endpoints with certain metadata (`transport_socket_matches`).
#[derive(Debug, Clone)]
pub struct TransportMatch {
    /// Label.
    pub name: Box<str>,
    /// What the metadata has to contain.
    pub labels: serde_json::Map<String, Value>,
    /// `None` is plain text.
    pub tls: Option<Arc<UpstreamTls>>,
}

impl TransportMatch {
    fn matches(&self, metadata: Option<&Value>) -> bool {
        let labels = metadata.and_then(|metadata| metadata.get(TRANSPORT_LABELS));
        self.labels.iter().all(|(key, value)| {
            labels.and_then(|labels| labels.get(key)).is_some_and(|known| known == value)
        })
    }
}

/// Where metadata has what [`TransportMatch`] looks at.
const TRANSPORT_LABELS: &str = "envoy.transport_socket_match";

impl Cluster {
    /// How an endpoint is spoken to: as the first match says that its own metadata contains, else the
    /// first that its locality's does, else as the cluster does (contract section 10).
    #[must_use]
    pub fn transport_of(&self, endpoint: &Endpoint) -> Option<&Arc<UpstreamTls>> {
        let locality = || endpoint.locality.as_ref()?.metadata.as_deref();
        let find = |metadata: Option<&Value>| {
            self.transports.iter().find(|transport| transport.matches(metadata))
        };
        let found = find(endpoint.metadata.as_deref()).or_else(|| find(locality()));
        found.map_or(self.tls.as_ref(), |transport| transport.tls.as_ref())
    }

    /// Every TLS configuration that an endpoint may be spoken to with.
    pub fn tls_configs(&self) -> impl Iterator<Item = &Arc<UpstreamTls>> {
        self.tls.iter().chain(self.transports.iter().filter_map(|transport| transport.tls.as_ref()))
    }

    /// A cluster with these settings for a service: its endpoints are told at run time.
    fn of_service(&self, name: Box<str>) -> Cluster {
        Cluster {
            stat_name: name.clone(),
            name,
            discovery: Discovery::Static,
            wait_for_warm_on_init: false,
            metadata: None,
            istio: IstioCluster::default(),
            ..self.clone()
        }
    }
}

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Discovery {
    /// The file.
    Static,
    /// DNS: every address of every name is an endpoint.
    StrictDns(DnsConfig),
    /// DNS: the first address of the one name, for new connections; old ones stay.
    LogicalDns(DnsConfig),
    /// Wherever the client meant to connect: shards make endpoints as they are asked for.
    OriginalDst(DestinationRules),
    /// A management server.
    Eds(Eds),
}

impl Discovery {
    /// Whether names are resolved for it.
    #[must_use]
    pub fn is_dns(&self) -> bool {
        matches!(self, Discovery::StrictDns(_) | Discovery::LogicalDns(_))
    }
}

/// Endpoints that come by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eds {
    /// One for each source and name.
    pub key: Box<str>,
    /// `service_name`, else the cluster's name (W-06).
    pub name: Box<str>,
    /// Whom to ask.
    pub source: ConfigSource,
}

/// Where requests to a cluster of type ORIGINAL_DST go.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationRules {
    /// The request header whose value, an IP address and port, goes before the connection's
    /// destination.
    pub header: Option<HeaderName>,
    /// Replaces the port, wherever it is from.
    pub port: Option<u16>,
    /// An endpoint that nobody uses for this long is dropped; above zero.
    pub cleanup_interval: Duration,
}

/// What upstream sockets are bound to before they connect (`upstream_bind_config`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamBind {
    /// At most one of each family; connections of the other family are not bound.
    pub sources: Vec<BindSource>,
    /// IP_FREEBIND.
    pub freebind: bool,
    /// Set on sockets that no source is for.
    pub socket_options: Vec<SocketOption>,
}

/// An address to connect from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindSource {
    /// Port 0: one that the kernel chooses.
    pub address: SocketAddr,
    /// Set on sockets with this address.
    pub socket_options: Vec<SocketOption>,
}

impl UpstreamBind {
    /// What a connection to `destination` is bound to.
    #[must_use]
    pub fn source(&self, destination: IpAddr) -> Option<&BindSource> {
        self.sources.iter().find(|source| source.address.is_ipv4() == destination.is_ipv4())
    }
}

/// How names of a cluster are resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsConfig {
    /// What to resolve; exactly one for [`Discovery::LogicalDns`].
    pub targets: Vec<DnsTarget>,
    /// Time between answers and the next question.
    pub refresh_rate: Duration,
    /// First and longest wait after a failed question; `None` uses `refresh_rate`. A failed question
    /// keeps the last result, an empty answer empties the cluster.
    pub failure_refresh_rate: Option<(Duration, Duration)>,
    /// A random addition of up to this much to each wait.
    pub jitter: Duration,
    /// Use the records' TTL instead of `refresh_rate`.
    pub respect_ttl: bool,
    /// Which records to ask for.
    pub family: DnsFamily,
}

/// One configured endpoint whose address is a name (or, in a STRICT_DNS cluster, may be a literal).
#[derive(Debug, Clone, PartialEq)]
pub struct DnsTarget {
    /// Name to resolve, or an IP literal.
    pub host: Box<str>,
    /// Port of every resulting endpoint.
    pub port: u16,
    /// The endpoint to copy for each address: its `address` is to be replaced.
    pub template: Endpoint,
}

/// Which DNS records make endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv6, and IPv4 if there is none.
    Auto,
    /// A only.
    V4Only,
    /// AAAA only.
    V6Only,
    /// IPv4, and IPv6 if there is none.
    V4Preferred,
    /// Both.
    All,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LoadBalancer {
    /// In turn, by weight.
    RoundRobin,
    /// The one with fewest active requests among `choice_count` random ones; with unequal weights an
    /// earliest-deadline schedule by weight / (active + 1)^bias.
    LeastRequest {
        /// At least 2.
        choice_count: u32,
        /// Strength of the influence of active requests when weights differ; not negative.
        active_request_bias: f64,
        /// Look at all endpoints instead of `choice_count` random ones.
        full_scan: bool,
    },
    /// Uniform; weights are not looked at.
    Random,
    /// Nothing is to be chosen: [`Discovery::OriginalDst`].
    ClusterProvided,
}

/// What happens when few endpoints are healthy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PanicPolicy {
    /// Below this share of usable endpoints (0..=100) health is not looked at; 0 never.
    pub threshold_percent: f64,
    /// Then serve nobody, instead of everybody.
    pub fail_traffic: bool,
    /// 140 means that 72 healthy endpoints of 100 can carry all the load.
    pub overprovisioning_factor: u32,
    /// A locality is chosen by its weight and health, before an endpoint is.
    pub locality_weighted: bool,
}

/// Limits of a cluster, counted over all shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreakers {
    /// Upstream connections; over it requests wait.
    pub max_connections: u32,
    /// Requests that wait for a connection; over it 503.
    pub max_pending_requests: u32,
    /// Active requests.
    pub max_requests: u32,
    /// Active retries.
    pub max_retries: u32,
}

/// The version of HTTP that a cluster's endpoints are spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge or by ALPN.
    Http2,
    /// The version of the downstream request (`use_downstream_protocol_config`).
    Downstream,
    /// What ALPN negotiates (`auto_config`).
    Alpn,
}

/// HTTP behaviour of a cluster's connections.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterHttp {
    /// Which version is spoken.
    pub protocol: UpstreamProtocol,
    /// HTTP/2 particulars.
    pub http2: super::http::Http2Options,
    /// Longest life of a request's response (`max_stream_duration`); `None` unlimited.
    pub max_stream_duration: Option<Duration>,
    /// A pooled connection without a request for this long is closed; `None` never.
    pub idle_timeout: Option<Duration>,
    /// Longest life of a connection; `None` unlimited.
    pub max_connection_duration: Option<Duration>,
    /// Requests after which a connection is closed; `None` unlimited.
    pub max_requests_per_connection: Option<u32>,
    /// Response head, bytes; over it 503.
    pub max_response_headers_bytes: u32,
    /// Response header lines; over it 503.
    pub max_headers_count: u32,
    /// Forward response trailers of HTTP/1.1.
    pub enable_trailers: bool,
    /// How request header names are written upstream.
    pub header_case: super::http::HeaderCase,
}

/// SO_KEEPALIVE and its numbers; `None` leaves the kernel's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    /// Probes without an answer after which the connection is dead (TCP_KEEPCNT).
    pub probes: Option<u32>,
    /// Seconds without traffic before the first probe (TCP_KEEPIDLE).
    pub time_s: Option<u32>,
    /// Seconds between probes (TCP_KEEPINTVL).
    pub interval_s: Option<u32>,
}

/// One place to send requests to.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: Address,
    /// Configured host name, or the DNS name; empty when there is neither. For `auto_host_rewrite`.
    pub hostname: Arc<str>,
    /// At least 1.
    pub weight: u32,
    /// As configured.
    pub health: Health,
    /// 0 is used first.
    pub priority: u32,
    /// Filter name to struct, as configured.
    pub metadata: Option<Arc<Value>>,
    /// Where it is; `None`: nowhere in particular.
    pub locality: Option<Arc<Locality>>,
}

impl Endpoint {
    /// An endpoint of which nothing is known but its address.
    #[must_use]
    pub fn at(address: Address) -> Endpoint {
        Endpoint {
            address,
            hostname: Arc::default(),
            weight: 1,
            health: Health::Healthy,
            priority: 0,
            metadata: None,
            locality: None,
        }
    }
}

/// A place that endpoints are in, and what is said of all of them there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Locality {
    /// Region, zone and sub-zone; any may be empty.
    pub name: [Box<str>; 3],
    /// Share of the traffic where localities are weighted; `None`: no traffic then.
    pub weight: Option<u32>,
    /// Filter name to struct, as configured.
    pub metadata: Option<Arc<Value>>,
}

/// Configured health of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// HEALTHY or UNKNOWN: used.
    Healthy,
    /// Used for what healthy ones cannot carry.
    Degraded,
    /// UNHEALTHY or TIMEOUT: not used.
    Unhealthy,
    /// Not used for new connections; old ones stay.
    Draining,
}
