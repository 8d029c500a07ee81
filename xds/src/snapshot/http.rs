//! The `http_connection_manager` network filter (contract sections 5 and 13).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::access_log::AccessLog;
use super::config_source::ConfigSource;
use super::http_filters::HttpFilter;
use super::route_table::RouteTable;
use super::runtime::RuntimeFraction;
use super::scopes::ScopedRoutes;

/// How one listener speaks HTTP. Everything a connection needs, defaults filled in.
#[derive(Debug, Clone)]
pub struct HttpConnectionManager {
    /// Stats root is `http.<stat_prefix>`.
    pub stat_prefix: Box<str>,
    /// Routes.
    pub routes: RouteSource,
    /// Filters that act on requests by themselves, in their order.
    pub filters: Box<[HttpFilter]>,
    /// Options of the router filter, the last of the HTTP filters.
    pub router: Router,
    /// Written once per request, at its end.
    pub access_log: Vec<Arc<AccessLog>>,
    /// Every timeout.
    pub timeouts: HttpTimeouts,
    /// Every limit.
    pub limits: HttpLimits,
    /// Which requests are to be traced; `None`: nothing is said of that.
    pub tracing: Option<Tracing>,
    /// Which versions are spoken.
    pub codec: Codec,
    /// HTTP/1 particulars.
    pub http1: Http1Options,
    /// HTTP/2 particulars.
    pub http2: Http2Options,
    /// What to do with header names that hold `_`.
    pub underscore_headers: UnderscoreHeaders,
    /// The `server` response header.
    pub server: ServerHeader,
    /// Appended to `via` of requests and responses; `None` adds nothing.
    pub via: Option<Box<str>>,
    /// Value for `user-agent` of requests that have none (with `x-envoy-downstream-service-cluster`
    /// set to the same, and `-node` to the node id if one is configured); `None` adds nothing.
    pub add_user_agent: Option<Box<str>>,
    /// `x-envoy-downstream-service-node` when `add_user_agent` is on.
    pub service_node: Option<Box<str>>,
    /// Who a request is from, and what it may set.
    pub origin: OriginRules,
    /// `x-request-id`.
    pub request_id: RequestIdRules,
    /// Pass `Expect: 100-continue` on and relay the answer; false answers 100 here.
    pub proxy_100_continue: bool,
    /// Upgrades allowed where the route says nothing else.
    pub upgrades: Upgrades,
    /// Normalisation before routing.
    pub path: PathRules,
    /// Which port is cut off the authority before routing.
    pub strip_port: StripPort,
    /// Cut one trailing dot off the host before routing.
    pub strip_trailing_host_dot: bool,
    /// How `:scheme` / the upstream scheme is chosen.
    pub scheme: SchemeRule,
    /// What becomes of `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCert,
    /// What is written into it of the client's certificate.
    pub client_cert_details: ClientCertDetails,
    /// Invalid messages fail the stream only; false: the connection is closed.
    pub stream_error_on_invalid_http_message: bool,
}

/// Where the routes of a connection manager are.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// In the listener.
    Inline(Arc<RouteTable>),
    /// They come by name, and change without the listener.
    Rds(Rds),
    /// A table for each scope of requests.
    Scoped(Arc<ScopedRoutes>),
}

impl RouteSource {
    /// The routes, where the listener has them.
    #[must_use]
    pub fn inline(&self) -> Option<&Arc<RouteTable>> {
        match self {
            RouteSource::Inline(table) => Some(table),
            RouteSource::Rds(_) | RouteSource::Scoped(_) => None,
        }
    }
}

/// A route table that is asked for by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rds {
    /// The place of the table in [`Snapshot::route_tables`](super::Snapshot::route_tables): one for each
    /// source and name.
    pub key: Box<str>,
    /// `route_config_name`.
    pub name: Box<str>,
    /// Stats root is `http.<stat_prefix>.rds.<name>`.
    pub stat_prefix: Box<str>,
    /// Whom to ask.
    pub source: ConfigSource,
}

/// Which requests are to be traced. There is no tracer: the decision is passed on in the request id.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// Of those that ask for it by `x-client-trace-id`.
    pub client: RuntimeFraction,
    /// Of all others.
    pub random: RuntimeFraction,
    /// Of those that were chosen.
    pub overall: RuntimeFraction,
}

/// How SOAP requests are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Soap {
    /// How their bodies are; `None`: only their heads are.
    pub inspection: Option<SoapInspection>,
}

/// How far a body is read before its request is routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoapInspection {
    /// 1..=1 MiB.
    pub bytes_max: u32,
    /// From the head's arrival on; above zero.
    pub timeout: Duration,
}

/// Options of the router filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Router {
    /// Keep per-cluster request statistics.
    pub dynamic_stats: bool,
    /// Do not write `x-envoy-*` headers of the router's own.
    pub suppress_envoy_headers: bool,
    /// Honour `x-envoy-expected-rq-timeout-ms` of requests.
    pub respect_expected_rq_timeout: bool,
}

/// Timeouts of downstream connections and requests; `None` is disabled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HttpTimeouts {
    /// A connection without a request for this long is closed.
    pub idle: Option<Duration>,
    /// Longest life of a connection; then drain.
    pub max_connection_duration: Option<Duration>,
    /// Share of `max_connection_duration` (0..=100) that is added at random.
    pub max_connection_duration_jitter_percent: f64,
    /// After `max_connection_duration` close with the next response instead of by timer.
    pub safe_max_connection_duration: bool,
    /// Longest life of a request: 504 or reset.
    pub max_stream_duration: Option<Duration>,
    /// No header or data event for this long: 408 before response headers, else reset.
    pub stream_idle: Option<Duration>,
    /// Bound on flushing the last bytes of a response.
    pub stream_flush: Option<Duration>,
    /// From first byte to end of request: 408.
    pub request: Option<Duration>,
    /// From first byte to end of request headers: 408.
    pub request_headers: Option<Duration>,
    /// How long a draining connection may go on.
    pub drain: Duration,
    /// Half-close, read and discard for this long, then close; `None` closes at once.
    pub delayed_close: Option<Duration>,
}

/// Limits of downstream connections and requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Requests after which a connection is closed; `None` unlimited.
    pub max_requests_per_connection: Option<u32>,
    /// Header lines of a request; over it 431.
    pub max_headers_count: u32,
    /// Bytes of a request head; over it 431.
    pub max_request_headers_bytes: u32,
}

/// HTTP/1 particulars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http1Options {
    /// Accept absolute-form; the URL's authority wins over `host`.
    pub allow_absolute_url: bool,
    /// Accept HTTP/1.0.
    pub accept_http_10: bool,
    /// Host of HTTP/1.0 requests without one; `None`: such a request is refused.
    pub default_host_for_http_10: Option<Box<str>>,
    /// Forward request trailers; false drops them.
    pub enable_trailers: bool,
    /// How header names are written downstream.
    pub header_case: HeaderCase,
    /// Overrides [`HttpConnectionManager::stream_error_on_invalid_http_message`] when set.
    pub stream_error_on_invalid_http_message: Option<bool>,
}

/// Which versions of HTTP a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// What ALPN says, else what the first bytes say.
    Auto,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// HTTP/2 particulars (contract section 13), of a listener or a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2Options {
    /// Bytes of dynamic table that the peer's encoder may use.
    pub hpack_table_size: u32,
    /// Streams that the peer may have open; upstream, those that we open on one connection.
    pub max_concurrent_streams: u32,
    /// Receive window of a stream, 65,535 to 2^31-1.
    pub initial_stream_window_size: u32,
    /// Receive window of a connection, 65,535 to 2^31-1.
    pub initial_connection_window_size: u32,
    /// Extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// Frames that may wait to be sent.
    pub max_outbound_frames: u32,
    /// Frames of control (PING and SETTINGS acknowledgements, RST_STREAM) that may wait to be sent.
    pub max_outbound_control_frames: u32,
    /// DATA and HEADERS frames without payload and without END_STREAM in a row.
    pub max_consecutive_inbound_frames_with_empty_payload: u32,
    /// PRIORITY frames: this many times (1 + streams opened).
    pub max_inbound_priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames: 5 + 2 x (streams opened + this many times DATA frames sent).
    pub max_inbound_window_update_frames_per_data_frame_sent: u32,
    /// RST_STREAM frames that may come at once, and how fast the allowance grows again, per second.
    pub stream_reset_burst: u64,
    /// See `stream_reset_burst`.
    pub stream_reset_rate: u64,
    /// Bytes of one header name or value as it is on the wire.
    pub max_header_field_bytes: u32,
    /// Encode header strings with Huffman coding.
    pub huffman: bool,
    /// Overrides `stream_error_on_invalid_http_message` when set.
    pub stream_error_on_invalid_http_message: Option<bool>,
    /// Pings of our own.
    pub keepalive: Option<Http2Keepalive>,
}

/// What applies where nothing is configured: Envoy's defaults, except for the receive windows. Ours are
/// smaller (256 KiB and 1 MiB, not 16 MiB and 24 MiB) because what a window allows has to fit into a
/// bounded pool of buffers.
impl Default for Http2Options {
    fn default() -> Http2Options {
        Http2Options {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window_size: 256 * 1024,
            initial_connection_window_size: 1024 * 1024,
            allow_connect: false,
            max_outbound_frames: 10_000,
            max_outbound_control_frames: 1000,
            max_consecutive_inbound_frames_with_empty_payload: 1,
            max_inbound_priority_frames_per_stream: 100,
            max_inbound_window_update_frames_per_data_frame_sent: 10,
            stream_reset_burst: 1000,
            stream_reset_rate: 33,
            max_header_field_bytes: 64 * 1024,
            huffman: true,
            stream_error_on_invalid_http_message: None,
            keepalive: None,
        }
    }
}

/// `connection_keepalive`: pings, and what happens without an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Http2Keepalive {
    /// Between pings; `None` sends none but those of `connection_idle_interval`.
    pub interval: Option<Duration>,
    /// Without any frame for so long after a ping, the connection is closed.
    pub timeout: Duration,
    /// Share of `interval` (0..=100) that is added at random.
    pub interval_jitter_percent: f64,
    /// A connection that was idle for so long is asked before a new stream is put on it.
    pub connection_idle_interval: Option<Duration>,
}

/// `envoy.filters.http.grpc_stats`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcStats {
    /// Whose methods are counted by name.
    pub methods: GrpcMethods,
    /// Also count messages.
    pub count_messages: bool,
    /// Record upstream time.
    pub upstream_time: bool,
    /// Replace dots of service names by underscores.
    pub replace_dots_in_service_name: bool,
}

/// Which gRPC methods have statistics of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrpcMethods {
    /// None: one set for all.
    None,
    /// Every one that occurs, up to a bound.
    All,
    /// These: service and method; a service without methods means all of its methods.
    Listed(Vec<(Box<str>, Vec<Box<str>>)>),
}

/// How HTTP/1 header names are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderCase {
    /// `content-type`.
    Lower,
    /// `Content-Type`.
    ProperCaseWords,
    /// As they were received.
    Preserve,
}

/// What happens to a request header whose name holds `_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnderscoreHeaders {
    /// Forwarded.
    Allow,
    /// 400.
    RejectRequest,
    /// Dropped.
    DropHeader,
}

/// The `server` response header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHeader {
    /// Our name.
    pub name: Box<str>,
    /// When it is written.
    pub mode: ServerHeaderMode,
}

/// When the `server` header is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerHeaderMode {
    /// Always.
    Overwrite,
    /// If upstream set none.
    AppendIfAbsent,
    /// Never.
    PassThrough,
}

/// Who a request is from, and what it may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginRules {
    /// The socket's peer is the client (edge); false: trust `x-forwarded-for`.
    pub use_remote_address: bool,
    /// Trusted proxies in front of us.
    pub xff_num_trusted_hops: u32,
    /// Do not append the peer to `x-forwarded-for`.
    pub skip_xff_append: bool,
    /// Write `x-forwarded-port`.
    pub append_x_forwarded_port: bool,
    /// Write IPv4 peers as `::ffff:a.b.c.d` in `x-forwarded-for`.
    pub ipv4_as_mapped_ipv6: bool,
    /// Whose `x-envoy-*` control headers are believed.
    pub internal: InternalAddresses,
}

/// Addresses that count as internal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InternalAddresses {
    /// Peers on Unix sockets are internal.
    pub unix_sockets: bool,
    /// Network address and prefix length, host bits zero.
    pub ranges: Box<[(IpAddr, u8)]>,
}

impl InternalAddresses {
    /// Whether `address` lies in one of the ranges. An IPv4-mapped IPv6 address counts as its IPv4 one.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.ranges.iter().any(|(network, length)| in_range(address, *network, *length))
    }
}

fn in_range(address: IpAddr, network: IpAddr, length: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let difference = u32::from(address) ^ u32::from(network);
            difference.leading_zeros() >= u32::from(length)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let difference = u128::from(address) ^ u128::from(network);
            difference.leading_zeros() >= u32::from(length)
        }
        _ => false,
    }
}

/// How `x-request-id` is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestIdRules {
    /// Make one where there is none (or where an external one is not to be kept).
    pub generate: bool,
    /// Keep the one that an external client sent.
    pub preserve_external: bool,
    /// Write it to responses too.
    pub always_set_in_response: bool,
    /// Write the trace decision into the id's version nibble.
    pub pack_trace_reason: bool,
    /// Draw the trace decision from the id, so that all proxies on the way decide alike.
    pub use_for_trace_sampling: bool,
}

/// Upgrades (`Upgrade:` tokens in lower case, and `connect` for CONNECT) and whether each is allowed.
/// Types that are not named are refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Upgrades {
    /// Type in lower case, allowed or not.
    pub types: Box<[(Box<str>, bool)]>,
}

impl Upgrades {
    /// What is said of `upgrade`, compared without case: allowed, refused, or nothing.
    #[must_use]
    pub fn allows(&self, upgrade: &[u8]) -> Option<bool> {
        self.types
            .iter()
            .find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(upgrade))
            .map(|(_, allowed)| *allowed)
    }
}

/// Path normalisation, in this order, before routing and every filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathRules {
    /// `%2F`, `%5C` and their lower-case forms.
    pub escaped_slashes: EscapedSlashes,
    /// RFC 3986 normalisation.
    pub normalize: bool,
    /// `//` to `/`.
    pub merge_slashes: bool,
}

/// What is done with `%2F` and `%5C` in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Nothing.
    KeepUnchanged,
    /// 400.
    RejectRequest,
    /// 307 to the unescaped path.
    UnescapeAndRedirect,
    /// Unescape and go on.
    UnescapeAndForward,
}

/// Which port is cut off the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StripPort {
    /// None.
    Never,
    /// The listener's own.
    Matching,
    /// Any.
    Any,
}

/// How the scheme of a request is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemeRule {
    /// From `x-forwarded-proto` or the transport.
    FromRequest,
    /// Always this: `http` or `https`.
    Overwrite(Box<str>),
    /// That of the upstream transport.
    MatchUpstream,
}

/// What is done with `x-forwarded-client-cert`. Without mutual TLS downstream only
/// Only a client whose certificate was verified can have its own forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// Remove.
    Sanitize,
    /// Keep what a mutual TLS client sent.
    ForwardOnly,
    /// Keep and add.
    AppendForward,
    /// Replace.
    SanitizeSet,
    /// Keep, whoever sent it.
    AlwaysForward,
}

/// Which parts of the client's certificate `x-forwarded-client-cert` tells, beside its hash and our
/// own URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCertDetails {
    /// Subject.
    pub subject: bool,
    /// The certificate, URL-encoded PEM.
    pub cert: bool,
    /// The chain, URL-encoded PEM.
    pub chain: bool,
    /// DNS names.
    pub dns: bool,
    /// URI names.
    pub uri: bool,
}
