//! Listeners and their filter chains (contract sections 2 and 3).

use std::sync::Arc;
use std::time::Duration;

use crate::fingerprint::Fingerprint;

use super::access_log::AccessLog;
use super::address::Address;
use super::cluster::TcpKeepalive;
use super::extensions::{Extensions, FilterDiscovery, NetworkFilter};
use super::filter_chains::FilterChains;
use super::http::HttpConnectionManager;
use super::istio::IstioStats;
use super::rpc::{ProtocolDetection, RpcProxy};
use super::tcp::TcpProxy;
use super::tls::DownstreamTls;

/// One listener: where it accepts and what it does with a connection.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Unique within the snapshot.
    pub name: Box<str>,
    /// Stats root is `listener.<stat_prefix>`; by default the first address with `:` as `_`.
    pub stat_prefix: Box<str>,
    /// `address` first, then `additional_addresses`; never empty.
    pub addresses: Vec<ListenAddress>,
    /// What is found out about a connection before its chain is chosen.
    pub inspection: Inspection,
    /// A connection that was meant for another listener's address is that listener's (L-01).
    pub use_original_dst: bool,
    /// Chains to choose from.
    pub filter_chains: FilterChains,
    /// Written once per connection, at its end.
    pub access_log: Vec<Arc<AccessLog>>,
    /// Its connections are taken however many there are in the process.
    pub ignores_connections_max: bool,
    /// High watermark of buffered bytes, each way; at least 1.
    pub per_connection_buffer_limit_bytes: u32,
    /// How the sockets are made.
    pub bind: Bind,
    /// Which side of the application the listener is on.
    pub traffic_direction: TrafficDirection,
    /// Accepts per turn of a shard; `None` as many as are pending.
    pub max_connections_to_accept_per_socket_event: Option<u32>,
}

impl Listener {
    /// Its connection managers.
    #[must_use]
    pub fn managers(&self) -> Vec<&Arc<HttpConnectionManager>> {
        let mut managers = Vec::new();
        for chain in self.filter_chains.iter() {
            chain.terminal.visit_owners(&mut |owner| {
                if let Terminal::Http(http) = owner {
                    managers.push(http);
                }
            });
        }
        managers
    }

    /// The same listener with the last filters that names stand for now; nothing if it has those.
    pub(crate) fn renewed(&self, extensions: &Extensions) -> Option<Listener> {
        let filter_chains = self.filter_chains.renewed(|chain| chain.renewed(extensions))?;
        Some(Listener { filter_chains, ..self.clone() })
    }
}

/// The listener filters (contract section 2), which find out about a connection's ends and look at its
/// first bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// `envoy.filters.listener.original_dst`.
    pub original_dst: Option<OriginalDst>,
    /// `envoy.filters.listener.original_src`.
    pub original_src: Option<OriginalSrc>,
    /// `envoy.filters.listener.proxy_protocol`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `envoy.filters.listener.tls_inspector`.
    pub tls: Option<TlsInspector>,
    /// `envoy.filters.listener.http_inspector`.
    pub http: Option<HttpInspector>,
    /// Bounds the wait for bytes; `None` waits for ever.
    pub timeout: Option<Duration>,
    /// After the timeout go on with what is known, instead of closing.
    pub continue_on_timeout: bool,
}

/// Finds out where the client connected to, before the kernel redirected it to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalDst {
    /// Connections it does not look at, by the port that accepted them.
    pub disabled: Option<PortPredicate>,
}

/// Has upstream connections come from the client's address (L-07).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalSrc {
    /// SO_MARK of the upstream sockets; 0: none.
    pub mark: u32,
    /// Connections that it is not for.
    pub disabled: Option<PortPredicate>,
}

/// Takes who the client is from the header of a proxy in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// A connection that begins with no such header is its client's own; false: it is closed.
    pub allow_absent: bool,
    /// Version 1 is read.
    pub v1: bool,
    /// Version 2 is read. Headers of a version that is not are as none.
    pub v2: bool,
    /// Connections it does not look at.
    pub disabled: Option<PortPredicate>,
}

/// Finds TLS, server name and ALPN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInspector {
    /// A longer ClientHello is an error.
    pub max_client_hello_bytes: u32,
    /// A ClientHello that can't be read closes the connection; false: it counts as plain text.
    pub close_on_parse_error: bool,
    /// Connections it does not look at.
    pub disabled: Option<PortPredicate>,
}

/// Tells HTTP/1.0, HTTP/1.1 and HTTP/2 in plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpInspector {
    /// Connections it does not look at.
    pub disabled: Option<PortPredicate>,
}

/// `filter_disabled`: a predicate on the destination port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortPredicate {
    /// Every connection.
    Any,
    /// Ports from the first up to, not including, the second.
    Range(u32, u32),
    /// One of these.
    Or(Vec<PortPredicate>),
    /// All of these.
    And(Vec<PortPredicate>),
    /// Not this.
    Not(Box<PortPredicate>),
}

impl PortPredicate {
    /// Whether it holds for a connection to `port`; a Unix socket has none, and is in every range.
    #[must_use]
    pub fn holds(&self, port: Option<u16>) -> bool {
        match self {
            PortPredicate::Any => true,
            PortPredicate::Range(start, end) => {
                port.is_none_or(|port| (*start..*end).contains(&port.into()))
            }
            PortPredicate::Or(rules) => rules.iter().any(|rule| rule.holds(port)),
            PortPredicate::And(rules) => rules.iter().all(|rule| rule.holds(port)),
            PortPredicate::Not(rule) => !rule.holds(port),
        }
    }
}

/// One socket address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// Port 0 asks the kernel for a free one.
    pub address: Address,
    /// Permission bits for a Unix socket's path (`0o777` at most); `None` leaves the umask's.
    pub mode: Option<u32>,
    /// Accept IPv4 on an IPv6 wildcard address.
    pub ipv4_compat: bool,
    /// Set on this address's sockets.
    pub socket_options: Vec<SocketOption>,
    /// Keepalive probing of accepted connections; `None` as the kernel does by default.
    pub tcp_keepalive: Option<TcpKeepalive>,
}

/// Options of the listening sockets. A `setsockopt` that fails refuses the listener, with its errno.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// False: the listener has no socket of its own.
    pub bind_to_port: bool,
    /// One SO_REUSEPORT socket per shard; false: one socket whose connections are shared out.
    pub reuse_port: bool,
    /// `listen` backlog; `None` is the kernel's maximum (somaxconn).
    pub backlog: Option<u32>,
    /// IP_TRANSPARENT.
    pub transparent: bool,
    /// IP_FREEBIND.
    pub freebind: bool,
    /// TCP_FASTOPEN queue length; `None` leaves it off.
    pub tcp_fast_open_queue_length: Option<u32>,
    /// New connections go to the shard that has fewest, instead of the one the kernel chose.
    pub exact_balance: bool,
}

/// A raw socket option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    /// Why the operator sets it; for error messages.
    pub description: Box<str>,
    /// First argument after the descriptor of `setsockopt`.
    pub level: i32,
    /// Option name as a number.
    pub name: i32,
    /// Its value.
    pub value: SocketOptionValue,
    /// When to set it.
    pub state: SocketOptionState,
}

/// The value of a raw socket option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketOptionValue {
    /// A C `int`.
    Int(i32),
    /// Bytes as they are.
    Bytes(Box<[u8]>),
}

/// When in a socket's life a raw option is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOptionState {
    /// Before `bind`.
    PreBind,
    /// After `bind`, before `listen`.
    Bound,
    /// After `listen`.
    Listening,
}

/// Which way a listener's traffic runs, seen from the application beside us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficDirection {
    /// Not said.
    Unspecified,
    /// Towards the application.
    Inbound,
    /// From the application.
    Outbound,
}

/// What is done with a connection's bytes.
#[derive(Debug, Clone)]
pub struct FilterChain {
    /// Label, for logs and stats; may be empty.
    pub name: Box<str>,
    /// What it says, so that a listener's next version can keep it; `None`: it is not from a server.
    pub fingerprint: Option<Fingerprint>,
    /// TLS towards downstream; `None` is plain text.
    pub tls: Option<Arc<DownstreamTls>>,
    /// The metrics that connections of TCP proxies are counted in.
    pub istio_stats: Option<Arc<IstioStats>>,
    /// The filters in front of the last that come by name.
    pub discovered: Box<[Arc<FilterDiscovery>]>,
    /// The last network filter, which owns the connection.
    pub terminal: Terminal,
    /// Where that comes from, if by name. The chain is another one with each configuration of it, and its
    /// connections stay: see [`FilterChain::follows`].
    pub discovered_terminal: Option<Arc<FilterDiscovery>>,
}

impl FilterChain {
    /// The metrics that a connection which begins now is counted in.
    #[must_use]
    pub fn istio_stats<'a>(&'a self, extensions: &'a Extensions) -> Option<&'a Arc<IstioStats>> {
        self.all_stats(|wanted| wanted.network(wanted.known(extensions))).next()
    }

    /// All the metrics that a connection would be counted in, where `network` says what filters are that
    /// come by name.
    pub(crate) fn all_stats<'a>(
        &'a self,
        network: impl Fn(&'a FilterDiscovery) -> Option<&'a NetworkFilter>,
    ) -> impl Iterator<Item = &'a Arc<IstioStats>> {
        let discovered = self.discovered.iter().filter_map(move |wanted| match network(wanted)? {
            NetworkFilter::IstioStats(stats) => Some(stats),
            NetworkFilter::MetadataExchange => None,
        });
        self.istio_stats.iter().chain(discovered)
    }

    /// Whether a filter is to come by name, and there is none: what it was to guard is not served.
    #[must_use]
    pub fn lacks_filter(&self, extensions: &Extensions) -> bool {
        let is_missing =
            |wanted: &Arc<FilterDiscovery>| wanted.network(wanted.known(extensions)).is_none();
        matches!(self.terminal, Terminal::Missing) || self.discovered.iter().any(is_missing)
    }

    /// Whether it is `before` but for what came by name as the last filter, or for that to choose from.
    #[must_use]
    pub fn follows(&self, before: &FilterChain) -> bool {
        match (&self.discovered_terminal, &before.discovered_terminal) {
            (Some(wanted), Some(other)) => Arc::ptr_eq(wanted, other),
            (None, None) => match (&self.terminal, &before.terminal) {
                (Terminal::Detect(one), Terminal::Detect(other)) => {
                    Arc::ptr_eq(&one.discovered, &other.discovered)
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// The same chain with what the names of its last filter, or of what that chooses from, stand for now;
    /// nothing if that is what it has.
    pub(crate) fn renewed(&self, extensions: &Extensions) -> Option<FilterChain> {
        let wanted = self.discovered_terminal.as_ref();
        let mut terminal = wanted.map_or(&self.terminal, |wanted| wanted.last(extensions)).clone();
        if let Terminal::Detect(detection) = &terminal
            && !detection.discovered.is_empty()
        {
            terminal = Terminal::Detect(Arc::new(detection.renewed(extensions)));
        }
        (!terminal.is(&self.terminal)).then(|| FilterChain { terminal, ..self.clone() })
    }
}

/// A terminal network filter.
#[derive(Debug, Clone)]
pub enum Terminal {
    /// HTTP.
    Http(Arc<HttpConnectionManager>),
    /// Bytes.
    Tcp(Arc<TcpProxy>),
    /// An RPC framing protocol.
    Rpc(Arc<RpcProxy>),
    /// What the first bytes show.
    Detect(Arc<ProtocolDetection>),
    /// One that is to come by name, and is not there: connections are closed.
    Missing,
}

impl Terminal {
    /// The filters that own connections: this one, or those that a detection chooses from, in the
    /// order of its choices and then its fallback.
    pub fn visit_owners<'a>(&'a self, visit: &mut impl FnMut(&'a Terminal)) {
        let detection = match self {
            Terminal::Detect(detection) => detection,
            Terminal::Missing => return,
            _ => return visit(self),
        };
        detection.choices.iter().for_each(|(_, terminal)| terminal.visit_owners(visit));
        if let Some(fallback) = &detection.fallback {
            fallback.visit_owners(visit);
        }
    }

    /// Those that a detection chooses from and that come by name.
    pub(crate) fn discovered(&self) -> impl Iterator<Item = &Arc<FilterDiscovery>> {
        let detection = match self {
            Terminal::Detect(detection) => Some(detection),
            _ => None,
        };
        detection.into_iter().flat_map(|it| it.discovered.iter().map(|(_, wanted)| wanted))
    }

    /// Whether it is the very same.
    pub(super) fn is(&self, other: &Terminal) -> bool {
        match (self, other) {
            (Terminal::Http(one), Terminal::Http(other)) => Arc::ptr_eq(one, other),
            (Terminal::Tcp(one), Terminal::Tcp(other)) => Arc::ptr_eq(one, other),
            (Terminal::Rpc(one), Terminal::Rpc(other)) => Arc::ptr_eq(one, other),
            (Terminal::Detect(one), Terminal::Detect(other)) => {
                Arc::ptr_eq(one, other) || one.is(other)
            }
            (Terminal::Missing, Terminal::Missing) => true,
            _ => false,
        }
    }

    /// The access logs it writes; a detection writes none of its own.
    #[must_use]
    pub fn access_log(&self) -> &[Arc<AccessLog>] {
        match self {
            Terminal::Http(http) => &http.access_log,
            Terminal::Tcp(tcp) => &tcp.access_log,
            Terminal::Rpc(rpc) => &rpc.access_log,
            Terminal::Detect(_) | Terminal::Missing => &[],
        }
    }
}
