//! The `rpc_proxy` network filter (outrigger.filters.network.rpc_proxy.v1, and Envoy's dubbo_proxy
//! compiled to the same), and the services that registries and applications tell us of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::access_log::AccessLog;
use super::cluster::Endpoint;
use super::cluster_names::{ClusterId, ClusterRef};
use super::extensions::{Extensions, FilterDiscovery};
use super::listener::Terminal;
use super::matcher::{HeaderPredicate, StringMatcher};
use super::runtime::RuntimeFraction;

/// Speaks an RPC framing protocol with downstream, and the same with upstream.
#[derive(Debug, Clone)]
pub struct RpcProxy {
    /// Stats root is `<protocol>.<stat_prefix>`.
    pub stat_prefix: Box<str>,
    /// What is spoken.
    pub protocol: RpcProtocol,
    /// How requests share upstream connections.
    pub sharing: Sharing,
    /// Where requests go.
    pub routes: Arc<RpcRouteTable>,
    /// A longer frame is refused. 64..=1 GiB.
    pub max_frame_bytes: u32,
    /// Requests under way of one downstream connection; above it reading stops until one has ended.
    pub max_requests_per_connection: u32,
    /// A frame must be whole this long after its first byte.
    pub frame_timeout: Duration,
    /// A downstream connection with no request under way and no byte (heartbeats count) for this long
    /// is closed; `None` never.
    pub idle_timeout: Option<Duration>,
    /// Heartbeats to idle downstream connections; `None` sends none.
    pub downstream_keepalive: Option<RpcKeepalive>,
    /// Heartbeats to idle upstream connections; `None` sends none.
    pub upstream_keepalive: Option<RpcKeepalive>,
    /// Upstream connections of each endpoint and shard that requests share, at most; a further one is
    /// made when those there are have this many requests under way each. Means nothing with
    /// [`Sharing::Bound`].
    pub upstream_connections: UpstreamConnections,
    /// A peer may send requests on a connection it accepted (SOFA registry pushes, Dubbo callbacks).
    /// Only with [`Sharing::Bound`].
    pub allow_reverse_requests: bool,
    /// Written once per request, at its end.
    pub access_log: Vec<Arc<AccessLog>>,
}

/// What is spoken, with the switches that peers make necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RpcProtocol {
    /// SOFABolt v1 and v2.
    Bolt {
        /// A v2 frame has a checksum whenever its switch says so, whatever ver1 is: Node and Go peers.
        crc_by_switch_only: bool,
        /// The peer knows command code 100; otherwise it is never sent.
        goaway: bool,
    },
    /// Dubbo 2.
    Dubbo,
    /// HSF2 and TB-Remoting (HSF 1.x), told apart by the first byte of each frame. The switches are
    /// those of hsf.md section 6.
    Hsf {
        /// `hsf.rpc_type_first`.
        rpc_type_first: bool,
        /// `hsf.response_codec_first`.
        response_codec_first: bool,
        /// `hsf.heartbeat_version_first`.
        heartbeat_version_first: bool,
        /// `hsf.rpc_protocol_byte`.
        rpc_protocol_byte: u8,
        /// Tell clients of a drain by status 88.
        announce_closing: bool,
        /// Answer a TB-Remoting request that fails here; false closes its connection.
        tb_local_errors: bool,
    },
}

impl RpcProtocol {
    /// Its name in configuration and statistics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            RpcProtocol::Bolt { .. } => "bolt",
            RpcProtocol::Dubbo => "dubbo",
            RpcProtocol::Hsf { .. } => "hsf",
        }
    }
}

/// How requests share upstream connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Many requests of many downstream connections on few upstream ones; ids are rewritten.
    Multiplex,
    /// One request at a time on each upstream connection.
    PingPong,
    /// Each downstream connection has one upstream connection for each cluster it uses.
    Bound,
}

/// How many upstream connections there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamConnections {
    /// For each endpoint, flavour and shard; at least 1.
    pub max: u32,
    /// Requests under way on one before another is made; at least 1.
    pub requests_each: u32,
}

/// Heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RpcKeepalive {
    /// Silence before one is sent; at least a second.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Unanswered ones in a row after which the connection is closed; at least 1.
    pub misses_max: u32,
}

/// Routes; the first that matches counts.
#[derive(Debug, Clone, Default)]
pub struct RpcRouteTable {
    /// Label; may be empty.
    pub name: Box<str>,
    /// In order.
    pub routes: Box<[RpcRoute]>,
    /// Some route looks at more than service, version and method (at the group or a header, or by
    /// looking the service up), so that everything must be read.
    pub needs_headers: bool,
}

/// One route.
#[derive(Debug, Clone)]
pub struct RpcRoute {
    /// Label; may be empty.
    pub name: Box<str>,
    /// When it applies.
    pub matcher: RpcMatcher,
    /// Where requests go.
    pub target: RpcTarget,
    /// From the whole request to its response; the smaller of this and the request's own counts.
    /// `None` leaves it to the request's own.
    pub timeout: Option<Duration>,
    /// When a request is sent again.
    pub retry: RpcRetry,
    /// Edits of requests, of the route and the table.
    pub request_headers: RpcHeaderEdits,
    /// Write what is left of the timeout into the request, where the protocol has a field for it.
    pub forward_remaining_timeout: bool,
}

/// When a route applies: all of it. `None` is any.
#[derive(Debug, Clone, Default)]
pub struct RpcMatcher {
    /// Condition on the service.
    pub service: Option<ServiceMatcher>,
    /// Condition on the method.
    pub method: Option<StringMatcher>,
    /// Condition on the version; missing is empty (Dubbo: `0.0.0` counts as empty).
    pub version: Option<StringMatcher>,
    /// Condition on the group; missing is empty.
    pub group: Option<StringMatcher>,
    /// All must hold. Names are case-sensitive, as RPC header names are.
    pub headers: Box<[RpcHeaderMatcher]>,
    /// Share of requests; `None` all.
    pub fraction: Option<RuntimeFraction>,
}

/// A condition on the service's name.
#[derive(Debug, Clone)]
pub enum ServiceMatcher {
    /// Text.
    Text(StringMatcher),
    /// Begins and ends so, with at least one byte between: `com.foo.*`, `*.Hello`, `*`.
    Wildcard {
        /// In front of the star; may be empty.
        prefix: Box<[u8]>,
        /// Behind the star; may be empty.
        suffix: Box<[u8]>,
    },
}

impl ServiceMatcher {
    /// Whether `service` matches.
    #[must_use]
    pub fn matches(&self, service: &[u8]) -> bool {
        match self {
            ServiceMatcher::Text(matcher) => matcher.matches(service),
            ServiceMatcher::Wildcard { prefix, suffix } => service
                .strip_prefix(&**prefix)
                .and_then(|rest| rest.strip_suffix(&**suffix))
                .is_some_and(|star| !star.is_empty()),
        }
    }
}

/// A condition on one header.
#[derive(Debug, Clone)]
pub struct RpcHeaderMatcher {
    /// Case-sensitive, but for `ignore_name_case`.
    pub name: Box<str>,
    /// Envoy's dubbo_proxy compares names so.
    pub ignore_name_case: bool,
    /// The condition. Of a repeated key the last counts.
    pub predicate: HeaderPredicate,
    /// Inverts the result for a header that is there.
    pub invert: bool,
    /// A missing header is matched as the empty string.
    pub missing_is_empty: bool,
}

impl RpcHeaderMatcher {
    /// Whether the header called `name` is the one it is about.
    #[must_use]
    pub fn is_about(&self, name: &[u8]) -> bool {
        let own = self.name.as_bytes();
        if self.ignore_name_case { own.eq_ignore_ascii_case(name) } else { own == name }
    }

    /// Whether the condition holds for the header's last `value`; `None` if there is none.
    #[must_use]
    pub fn holds(&self, value: Option<&[u8]>) -> bool {
        self.predicate.decide(value, self.invert, self.missing_is_empty)
    }
}

/// Where requests go.
#[derive(Debug, Clone)]
pub enum RpcTarget {
    /// To this cluster.
    Cluster(ClusterRef),
    /// To the one a header names.
    Header(Box<str>),
    /// Drawn by weight.
    Weighted(RpcWeightedClusters),
    /// To the cluster of the service, as [`Services`] has it.
    Service(ServiceSide),
}

/// A weighted choice.
#[derive(Debug, Clone)]
pub struct RpcWeightedClusters {
    /// At least one, with the running sum of the weights; the last sum is 1..=u32::MAX.
    pub clusters: Box<[(ClusterRef, u32)]>,
}

impl RpcWeightedClusters {
    /// The cluster that `random` (uniform over u64) falls on.
    #[must_use]
    pub fn pick(&self, random: u64) -> &ClusterRef {
        let total = self.clusters.last().map_or(1, |(_, sum)| (*sum).max(1));
        let point = random % u64::from(total);
        let index = self.clusters.partition_point(|(_, sum)| u64::from(*sum) <= point);
        // `point` lies below the last sum, so the index is in range; `min` spares the panic.
        &self.clusters[index.min(self.clusters.len() - 1)].0
    }
}

/// When a request is sent again. One-way requests never are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RpcRetry {
    /// Attempts after the first; 0 none.
    pub max: u32,
    /// When the connect failed: the request was never sent.
    pub connect_failure: bool,
    /// When the peer said that it is overloaded and did not begin.
    pub overload: bool,
}

/// Edits of headers, in order.
#[derive(Debug, Clone, Default)]
pub struct RpcHeaderEdits {
    /// Applied from first to last.
    pub ops: Box<[RpcHeaderOp]>,
}

/// One edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RpcHeaderOp {
    /// Remove every occurrence.
    Remove(Box<str>),
    /// Remove every occurrence, then append.
    Set(Box<str>, Box<str>),
    /// Append unless there is one.
    SetIfAbsent(Box<str>, Box<str>),
    /// Change the value if there is one.
    Replace(Box<str>, Box<str>),
}

/// Which services a route looks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceSide {
    /// Those that applications on this host publish: to the application.
    Published,
    /// Those that applications on this host subscribe to: to their providers.
    Subscribed,
}

impl ServiceSide {
    /// Its name in the names of clusters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ServiceSide::Published => "published",
            ServiceSide::Subscribed => "subscribed",
        }
    }
}

/// A service that was published or subscribed, and where its requests go.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Which way its requests go.
    pub side: ServiceSide,
    /// As [`RpcProtocol::name`] has it.
    pub protocol: &'static str,
    /// As codecs write it (`RpcCodec::put_service_key`); unique for its side and protocol.
    pub key: Box<str>,
    /// May be none.
    pub endpoints: Vec<Endpoint>,
}

impl Service {
    /// The name of its cluster, for example `subscribed|bolt|com.foo.Hello:1.0`.
    #[must_use]
    pub fn cluster_name(&self) -> Box<str> {
        format!("{}|{}|{}", self.side.name(), self.protocol, self.key).into()
    }
}

/// The clusters of services that are published and subscribed at run time.
#[derive(Debug, Clone, Default)]
pub struct Services {
    /// One for each side and protocol that has services: few, so a walk finds it.
    tables: Vec<ServiceTable>,
}

#[derive(Debug, Clone)]
struct ServiceTable {
    side: ServiceSide,
    protocol: &'static str,
    by_key: HashMap<Box<[u8]>, ClusterId>,
}

impl ServiceTable {
    fn is_of(&self, side: ServiceSide, protocol: &str) -> bool {
        self.side == side && self.protocol == protocol
    }
}

impl Services {
    pub(super) fn insert(&mut self, service: &Service, cluster: ClusterId) {
        let (side, protocol) = (service.side, service.protocol);
        let known = self.tables.iter().position(|table| table.is_of(side, protocol));
        let at = known.unwrap_or_else(|| {
            self.tables.push(ServiceTable { side, protocol, by_key: HashMap::new() });
            self.tables.len() - 1
        });
        self.tables[at].by_key.insert(service.key.as_bytes().into(), cluster);
    }

    /// The cluster of a service. `key` is in the registry's terms, as the codecs write it
    /// (`RpcCodec::put_service_key`).
    #[must_use]
    pub fn find(&self, side: ServiceSide, protocol: &RpcProtocol, key: &[u8]) -> Option<ClusterId> {
        let table = self.tables.iter().find(|table| table.is_of(side, protocol.name()))?;
        table.by_key.get(key).copied()
    }
}

/// What is spoken on a connection decides which filter serves it
/// (outrigger.filters.network.protocol_detection.v1).
#[derive(Debug, Clone)]
pub struct ProtocolDetection {
    /// In order; the first whose protocol was found counts.
    pub choices: Box<[(DetectedProtocol, Terminal)]>,
    /// For a connection of which nothing else is known in time; `None` closes it.
    pub fallback: Option<Box<Terminal>>,
    /// Which of them come by name: the number of the choice, or the next for the fallback. One for all
    /// that this has been while names stood for something else.
    pub discovered: Arc<[(usize, Arc<FilterDiscovery>)]>,
    /// How long to wait for enough bytes.
    pub timeout: Duration,
}

impl ProtocolDetection {
    /// The same with the filters that names stand for now.
    pub(super) fn renewed(&self, extensions: &Extensions) -> ProtocolDetection {
        let mut next = self.clone();
        for (at, wanted) in self.discovered.iter() {
            let terminal = wanted.last(extensions).clone();
            match next.choices.get_mut(*at) {
                Some((_, choice)) => *choice = terminal,
                None => next.fallback = Some(Box::new(terminal)),
            }
        }
        next
    }

    /// Whether it is the very same, and names stand for the same.
    pub(super) fn is(&self, other: &ProtocolDetection) -> bool {
        let mut choices = self.choices.iter().zip(&other.choices);
        Arc::ptr_eq(&self.discovered, &other.discovered)
            && choices.all(|((_, one), (_, other))| one.is(other))
            && match (&self.fallback, &other.fallback) {
                (Some(one), Some(other)) => one.is(other),
                (one, other) => one.is_none() && other.is_none(),
            }
    }
}

/// A protocol that the first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DetectedProtocol {
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// SOFABolt v1 or v2.
    Bolt,
    /// Dubbo 2.
    Dubbo,
    /// HSF2 and TB-Remoting.
    Hsf,
}
