//! The compiled configuration a shard serves from: plain Rust data, no protobuf, no strings left to
//! interpret on the request path.
//!
//! One `Snapshot` is immutable. What an update leaves alone is shared with its predecessor through
//! `Arc`, so that a new endpoint list costs a copy of a few dozen pointers. A route refers to its
//! cluster by number ([`ClusterRef`]), which stays the same from snapshot to snapshot for as long as
//! anything refers to that name: so a table of routes outlives its clusters and waits for others.

use std::collections::HashMap;
use std::sync::Arc;

pub mod access_log;
mod address;
mod cluster;
mod cluster_names;
mod config_source;
mod cors;
mod demand;
mod endpoint_set;
mod extensions;
mod fault;
mod filter_chains;
mod format;
mod headers;
mod http;
mod http_filters;
mod istio;
mod listener;
pub mod log_filter;
mod matcher;
mod pattern;
mod re2;
mod retry;
mod route;
mod route_table;
mod rpc;
mod runtime;
mod scopes;
mod shared_map;
mod tcp;
mod tls;

pub use self::address::Address;
pub(crate) use self::address::network;
pub use self::cluster::{
    BindSource, CircuitBreakers, Cluster, ClusterHttp, Clusters, DestinationRules, Discovery,
    DnsConfig, DnsFamily, DnsTarget, Eds, Endpoint, Health, LoadBalancer, Locality, Member, Origin,
    PanicPolicy, TcpKeepalive, TransportMatch, UpstreamBind, UpstreamProtocol,
};
pub use self::cluster_names::{ClusterId, ClusterNames, ClusterRef};
pub use self::config_source::{
    ApiConfigSource, ConfigPlace, ConfigSource, DynamicResources, GrpcService, PathConfigSource,
    RateLimit, Variant,
};
pub use self::cors::CorsPolicy;
pub use self::demand::Demand;
pub use self::endpoint_set::{Candidates, EndpointSet, PRIORITY_MAX};
pub use self::extensions::{Extensions, FilterConfig, FilterDiscovery, FilterPlace, NetworkFilter};
pub use self::fault::{Fault, FaultAbort, FaultAbortWith, FaultDelay, FaultDelayBy};
pub use self::filter_chains::{
    COMBINATIONS_MAX, ConnectionFacts, FilterChainMatch, FilterChains, FilterChainsError,
    SourceType,
};
pub use self::format::{
    AddressPart, CertificateField, CloseSide, DurationKind, DurationUnit, GrpcStatusForm,
    HostSource, JsonNode, Op, PathForm, PathSource, StartTime, Template, TimePart, TimePoint,
    TlsValue, WireBytes,
};
pub use self::headers::{AppendAction, HeaderEdits, HeaderName, HeaderOp};
pub use self::http::{
    ClientCertDetails, Codec, EscapedSlashes, ForwardClientCert, GrpcMethods, GrpcStats,
    HeaderCase, Http1Options, Http2Keepalive, Http2Options, HttpConnectionManager, HttpLimits,
    HttpTimeouts, InternalAddresses, OriginRules, PathRules, Rds, RequestIdRules, RouteSource,
    Router, SchemeRule, ServerHeader, ServerHeaderMode, Soap, SoapInspection, StripPort, Tracing,
    UnderscoreHeaders, Upgrades,
};
pub use self::http_filters::{
    FilterOverride, FilterOverrides, FilterSource, HttpFilter, HttpFilterKind, OnDemand,
    RouteFilterConfig,
};
pub use self::istio::{
    AlpnOverrides, IstioCluster, IstioService, IstioStats, MetricOverride, PeerMetadata,
    Propagation,
};
pub use self::listener::{
    Bind, FilterChain, HttpInspector, Inspection, ListenAddress, Listener, OriginalDst,
    OriginalSrc, PortPredicate, ProxyProtocol, SocketOption, SocketOptionState, SocketOptionValue,
    Terminal, TlsInspector, TrafficDirection,
};
pub use self::matcher::{
    Fraction, HeaderMatcher, HeaderPredicate, QueryMatcher, QueryPredicate, RequestView,
    StringMatcher,
};
pub use self::pattern::{Finder, Pattern, PatternError, RegexRewrite};
pub use self::retry::{AvoidHosts, BackOff, RateLimitedBackOff, ResetFormat, RetryOn, RetryPolicy};
pub use self::route::{
    ClientCertificateMatcher, Decorator, DirectResponse, Forward, GrpcTimeout, HostRewrite,
    PathMatcher, PathRewrite, Redirect, RedirectPath, RequireTls, Route, RouteAction, RouteId,
    RouteMatcher, Target, VirtualHost, WeightedCluster, WeightedClusters,
};
pub use self::route_table::{HostId, RouteTable, RouteTableError};
pub use self::rpc::{
    DetectedProtocol, ProtocolDetection, RpcHeaderEdits, RpcHeaderMatcher, RpcHeaderOp,
    RpcKeepalive, RpcMatcher, RpcProtocol, RpcProxy, RpcRetry, RpcRoute, RpcRouteTable, RpcTarget,
    RpcWeightedClusters, Service, ServiceMatcher, ServiceSide, Services, Sharing,
    UpstreamConnections,
};
pub use self::runtime::{RuntimeCell, RuntimeFraction};
pub use self::scopes::{
    FRAGMENTS_MAX, HeaderValueExtractor, Scope, ScopeElement, ScopeKey, ScopeKeyBuilder, ScopeMap,
    ScopeRoutes, ScopeSource, ScopedRoutes,
};
pub use self::tcp::{TcpProxy, TcpTarget, TcpWeightedCluster};
pub use self::tls::{
    CertificateSource, DataSource, DownstreamTls, OcspStaplePolicy, SanKind, SanMatcher, Sds,
    SecretFile, ServedSecrets, TlsParameters, TlsVersion, UpstreamSni, UpstreamTls, Validation,
};
pub use crate::fingerprint::Fingerprint;

/// One whole configuration. Cheap to clone: every part that can be large is shared.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Listeners that accept, in the order in which they came.
    pub listeners: Arc<[Arc<Listener>]>,
    /// Tables of routes that listeners refer to by name (RDS). A name that is not there answers
    /// nothing: `route_not_found`.
    pub route_tables: Arc<HashMap<Box<str>, Arc<RouteTable>>>,
    /// Configurations of filters that connection managers refer to by name (ECDS).
    pub extensions: Arc<Extensions>,
    /// Scopes that listeners refer to, with the tables that they have now.
    pub scopes: Arc<HashMap<Box<str>, Arc<ScopeMap>>>,
    /// Every cluster and its present endpoints.
    pub clusters: Clusters,
    /// The clusters of services that are published and subscribed at run time.
    pub services: Arc<Services>,
}

impl Snapshot {
    /// A copy in which `cluster` has `endpoints`; everything else is shared with `self`.
    ///
    /// This is how DNS answers come in. A cluster that does not exist leaves the copy equal to `self`.
    #[must_use]
    pub fn with_endpoints(&self, cluster: ClusterId, endpoints: Vec<Endpoint>) -> Snapshot {
        let mut copy = self.clone();
        if let Some(member) = self.clusters.member(cluster) {
            let endpoints = EndpointSet::new(endpoints, member.cluster.panic);
            copy.clusters.set_endpoints(cluster, Arc::new(endpoints));
        }
        copy
    }

    /// A copy with the clusters of these services beside the configured ones, and of no others.
    /// `template` has their settings, and must be the same for all successors of a snapshot. Clusters
    /// and endpoints that stay as they were are shared with `self`.
    #[must_use]
    pub fn with_services(&self, template: &Cluster, mut wanted: Vec<Service>) -> Snapshot {
        let lists = wanted
            .iter_mut()
            .map(|service| (service.cluster_name(), std::mem::take(&mut service.endpoints)));
        let mut copy = self.clone();
        copy.clusters.set_services(template, lists);
        let mut services = Services::default();
        for service in &wanted {
            if let Some(id) = copy.clusters.id(&service.cluster_name()) {
                services.insert(service, id);
            }
        }
        copy.services = Arc::new(services);
        copy
    }

    /// Whether a listener has its routes from the table with this key.
    #[must_use]
    pub fn names_table(&self, key: &str) -> bool {
        self.route_sources().any(|it| matches!(it, RouteSource::Rds(rds) if *rds.key == *key))
    }

    /// Whether a listener has its routes from the scopes with this key.
    #[must_use]
    pub fn names_scopes(&self, key: &str) -> bool {
        let is_named =
            |it: &RouteSource| matches!(it, RouteSource::Scoped(scoped) if *scoped.key == *key);
        self.route_sources().any(is_named)
    }

    fn route_sources(&self) -> impl Iterator<Item = &RouteSource> {
        let managers = self.listeners.iter().flat_map(|listener| listener.managers());
        managers.map(|manager| &manager.routes)
    }

    /// The listener called `name`.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| &*listener.name == name)
    }
}
