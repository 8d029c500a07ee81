//! Virtual hosts, routes and what they do (contract sections 6 to 8).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::cluster_names::ClusterRef;
use super::format::Template;
use super::headers::{HeaderEdits, HeaderName};
use super::http::Upgrades;
use super::http_filters::FilterOverrides;
use super::matcher::{HeaderMatcher, QueryMatcher};
use super::pattern::{Pattern, RegexRewrite};
use super::retry::RetryPolicy;
use super::runtime::RuntimeFraction;

/// Where a route is in its [`RouteTable`](super::RouteTable): what a request keeps instead of a
/// borrowed route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId {
    /// The number of its virtual host.
    pub host: u32,
    /// Its place among the routes of that.
    pub route: u32,
}

/// Routes for a set of domains.
#[derive(Debug, Clone)]
pub struct VirtualHost {
    /// Label, unique within the table.
    pub name: Arc<str>,
    /// Lower case; `*`, `*.suffix`, `prefix.*` or a whole host. Never empty.
    pub domains: Vec<Box<str>>,
    /// Redirect plain requests to https.
    pub require_tls: RequireTls,
    /// First match wins.
    pub routes: Vec<Route>,
}

/// Which plain requests a virtual host redirects to https.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequireTls {
    /// None.
    None,
    /// Those from outside.
    ExternalOnly,
    /// All.
    All,
}

/// One route with everything of its virtual host and table that applies to it.
#[derive(Debug, Clone)]
pub struct Route {
    /// Where it is in its table.
    pub id: RouteId,
    /// Label; may be empty.
    pub name: Box<str>,
    /// Name of its virtual host.
    pub virtual_host: Arc<str>,
    /// When it applies.
    pub matcher: RouteMatcher,
    /// What it does.
    pub action: RouteAction,
    /// Edits of the request of all levels but the weighted cluster. For [`Target::Weighted`] use
    /// [`WeightedCluster::request_headers`] instead, which includes these.
    pub request_headers: HeaderEdits,
    /// Edits of the response, likewise.
    pub response_headers: HeaderEdits,
    /// Write `x-envoy-attempt-count` upstream.
    pub include_request_attempt_count: bool,
    /// Write `x-envoy-attempt-count` downstream.
    pub include_attempt_count_in_response: bool,
    /// Per-route statistics under this name.
    pub stat_prefix: Option<Box<str>>,
    /// What is said of filters, all levels but the weighted cluster's included. For
    /// [`Target::Weighted`] use [`WeightedCluster::filters`] instead.
    pub filters: FilterOverrides,
    /// What a body may have at most to be sent again or to another cluster too; `None`: what a connection
    /// may buffer.
    pub body_buffer_bytes: Option<u64>,
    /// Its name in traces.
    pub decorator: Option<Arc<Decorator>>,
    /// Filter name to struct, as configured.
    pub metadata: Option<Arc<Value>>,
}

/// What a route is called in traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decorator {
    /// Never empty.
    pub operation: Box<str>,
    /// Tell the other side in `x-envoy-decorator-operation`.
    pub propagate: bool,
}

/// When a route applies: all of it.
#[derive(Debug, Clone)]
pub struct RouteMatcher {
    /// Condition on the path without its query.
    pub path: PathMatcher,
    /// All must hold.
    pub headers: Box<[HeaderMatcher]>,
    /// All must hold.
    pub query: Box<[QueryMatcher]>,
    /// Content type `application/grpc` or `application/grpc+x`.
    pub grpc: bool,
    /// Condition on the client's certificate.
    pub client_certificate: ClientCertificateMatcher,
    /// Share of requests; `None` all of them.
    pub fraction: Option<RuntimeFraction>,
}

/// A condition on the certificate of the client, on its connection (`tls_context`). `None` says nothing;
/// a plain connection has presented none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCertificateMatcher {
    /// There is one.
    pub presented: Option<bool>,
    /// There is one, and it was verified.
    pub validated: Option<bool>,
}

/// A condition on the path without its query.
#[derive(Debug, Clone)]
pub enum PathMatcher {
    /// Starts with.
    Prefix {
        /// Text; may be empty, which matches everything.
        text: Box<[u8]>,
        /// ASCII case matters.
        case_sensitive: bool,
    },
    /// Equal.
    Exact {
        /// Text.
        text: Box<[u8]>,
        /// ASCII case matters.
        case_sensitive: bool,
    },
    /// Equal, or continued after a `/`.
    SeparatedPrefix {
        /// Text, not ending in `/`.
        text: Box<[u8]>,
        /// ASCII case matters.
        case_sensitive: bool,
    },
    /// A regular expression over the whole path.
    Regex(Pattern),
    /// The method is CONNECT.
    Connect,
}

/// What a route does.
#[derive(Debug, Clone)]
pub enum RouteAction {
    /// Send the request to a cluster.
    Forward(Box<Forward>),
    /// 3xx with a new location.
    Redirect(Box<Redirect>),
    /// An answer from the configuration.
    DirectResponse(Box<DirectResponse>),
    /// A route only for the side that makes requests: 404 at a proxy.
    NonForwarding,
}

/// Sending to a cluster.
#[derive(Debug, Clone)]
pub struct Forward {
    /// Which cluster.
    pub target: Target,
    /// Status when the cluster does not exist: 404, 500 or 503.
    pub cluster_not_found_status: u16,
    /// Path change; `x-envoy-original-path` is written with it.
    pub path_rewrite: Option<PathRewrite>,
    /// Authority change.
    pub host_rewrite: Option<HostRewrite>,
    /// Write `x-forwarded-host` when the authority is changed.
    pub append_x_forwarded_host: bool,
    /// End of request to end of response; `None` unlimited.
    pub timeout: Option<Duration>,
    /// Replaces the connection manager's stream idle timeout: `Some(None)` disables it.
    pub idle_timeout: Option<Option<Duration>>,
    /// Replaces the connection manager's longest life of a request: `Some(None)` disables it.
    pub max_stream_duration: Option<Option<Duration>>,
    /// Whether and how far a request's `grpc-timeout` counts.
    pub grpc_timeout: GrpcTimeout,
    /// Sending it again; `None`: it is sent once.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Overrides the connection manager's upgrades type by type.
    pub upgrades: Upgrades,
    /// CONNECT requests end here and their bytes go to the cluster as TCP.
    pub terminate_connect: bool,
}

/// What `grpc-timeout` may do (contract section 8, `max_stream_duration` and `max_grpc_timeout`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcTimeout {
    /// The header is passed on and changes nothing here.
    Ignored,
    /// It replaces the longest life of the request (`max_stream_duration.grpc_timeout_header_max`).
    Stream {
        /// At most this; `None` as it is.
        max: Option<Duration>,
        /// Taken off first. Where nothing is left the request times out at once.
        offset: Duration,
    },
    /// It replaces the route's timeout (deprecated `max_grpc_timeout`); without the header `max` does,
    /// and without that there is no timeout.
    Route {
        /// At most this; `None` as it is.
        max: Option<Duration>,
        /// Taken off, unless nothing would be left.
        offset: Duration,
    },
}

/// The cluster of a request.
#[derive(Debug, Clone)]
pub enum Target {
    /// Always this one.
    Cluster(ClusterRef),
    /// The one the request header names.
    Header(HeaderName),
    /// Drawn by weight.
    Weighted(WeightedClusters),
}

/// A weighted choice.
#[derive(Debug, Clone)]
pub struct WeightedClusters {
    /// At least one entry, of which one has a weight above 0.
    pub(crate) clusters: Box<[WeightedCluster]>,
    /// Running sums of the weights, parallel to `clusters`; the last is 1..=u32::MAX.
    pub(crate) sums: Box<[u32]>,
    /// A header whose unsigned decimal value is used instead of the random number when it parses.
    pub random_header: Option<HeaderName>,
}

/// One entry of a weighted choice.
#[derive(Debug, Clone)]
pub struct WeightedCluster {
    /// Cluster by name, or by request header.
    pub target: Result<ClusterRef, HeaderName>,
    /// Its share of the total.
    pub weight: u32,
    /// Replaces the route's host rewrite.
    pub host_rewrite: Option<Box<str>>,
    /// All edits of the request, of this entry and the levels above.
    pub request_headers: HeaderEdits,
    /// All edits of the response, likewise.
    pub response_headers: HeaderEdits,
    /// What is said of filters, likewise.
    pub filters: FilterOverrides,
}

impl WeightedClusters {
    /// The entry that `random` (uniform over u64) falls on.
    #[must_use]
    pub fn pick(&self, random: u64) -> &WeightedCluster {
        let total = self.sums.last().copied().unwrap_or(1).max(1);
        let point = random % u64::from(total);
        let index = self.sums.partition_point(|sum| u64::from(*sum) <= point);
        // `point` lies below the last sum, so the index is in range; `min` spares the panic.
        &self.clusters[index.min(self.clusters.len() - 1)]
    }

    /// Every entry.
    #[must_use]
    pub fn all(&self) -> &[WeightedCluster] {
        &self.clusters
    }
}

/// A change of the path; the query is kept.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// What the path matcher matched is replaced by this.
    Prefix(Box<str>),
    /// The path is rewritten by an expression.
    Regex(RegexRewrite),
    /// The whole path is this text, operators filled in.
    Template(Template),
}

/// A change of the authority.
#[derive(Debug, Clone)]
pub enum HostRewrite {
    /// To this.
    Literal(Box<str>),
    /// To the chosen endpoint's host name.
    Auto,
    /// To the value of this request header, when it is there.
    Header(HeaderName),
    /// To what the expression makes of the path without its query.
    PathRegex(RegexRewrite),
    /// To this text, operators filled in.
    Template(Template),
}

/// A redirect. Parts that are `None` are taken from the request.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`. A port that is the old scheme's default is dropped with the change.
    pub scheme: Option<Box<str>>,
    /// New host; its own port included, if it has one.
    pub host: Option<Box<str>>,
    /// New port.
    pub port: Option<u16>,
    /// New path.
    pub path: Option<RedirectPath>,
    /// Drop the query.
    pub strip_query: bool,
}

/// The path of a redirect.
#[derive(Debug, Clone)]
pub enum RedirectPath {
    /// The whole path; may hold its own query, which then replaces the request's.
    Whole(Box<str>),
    /// What the path matcher matched is replaced by this.
    Prefix(Box<str>),
    /// Rewritten by an expression.
    Regex(RegexRewrite),
}

/// An answer from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// 200..=599.
    pub status: u16,
    /// Body, at most the table's `max_direct_response_body_size_bytes`.
    pub body: Bytes,
}
