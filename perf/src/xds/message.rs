//! The few Envoy v3 messages that the server of [`ads`](super::ads) speaks, with only the fields that
//! it sets or reads.
//!
//! Written by hand, so that the harness shares no types with what it measures; a test holds them
//! against Envoy's own descriptors. Names of resources in requests stay slices of the received
//! message: an ACK of 10,000 endpoints names them all, and comes a hundred times a second.

use bytes::Bytes;
use prost::{Enumeration, Message};

/// What every type URL begins with.
pub(super) const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

impl Any {
    /// Packs an encoded message of this type.
    pub(super) fn new(type_name: &str, value: Bytes) -> Self {
        Self { type_url: format!("{TYPE_URL_PREFIX}{type_name}"), value }
    }
}

/// `google.protobuf.Duration`, in whole seconds.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Seconds {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
}

/// `google.protobuf.BoolValue`: a field that is set, whatever it says.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Flag {
    #[prost(bool, tag = "1")]
    pub(super) value: bool,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// `envoy.service.discovery.v3.DiscoveryRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DiscoveryRequest {
    #[prost(string, tag = "1")]
    pub(super) version_info: String,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(super) resource_names: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) response_nonce: String,
    #[prost(message, optional, tag = "6")]
    pub(super) error_detail: Option<Status>,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DiscoveryResponse {
    #[prost(string, tag = "1")]
    pub(super) version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) resources: Vec<Any>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DeltaDiscoveryRequest {
    #[prost(string, tag = "2")]
    pub(super) type_url: String,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(super) resource_names_subscribe: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub(super) resource_names_unsubscribe: Vec<Bytes>,
    #[prost(message, repeated, tag = "5")]
    pub(super) initial_resource_versions: Vec<Held>,
    #[prost(string, tag = "6")]
    pub(super) response_nonce: String,
    #[prost(message, optional, tag = "7")]
    pub(super) error_detail: Option<Status>,
}

/// An entry of the map `DeltaDiscoveryRequest.initial_resource_versions`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Held {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) name: Bytes,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DeltaDiscoveryResponse {
    #[prost(string, tag = "1")]
    pub(super) system_version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) resources: Vec<Resource>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub(super) removed_resources: Vec<Bytes>,
}

/// `envoy.service.discovery.v3.Resource`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(message, optional, tag = "2")]
    pub(super) resource: Option<Any>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
}

/// `envoy.config.core.v3.ConfigSource`: the aggregated stream.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ConfigSource {
    #[prost(message, optional, tag = "3")]
    ads: Option<Empty>,
    #[prost(enumeration = "ApiVersion", tag = "6")]
    resource_api_version: i32,
}

impl ConfigSource {
    /// The aggregated stream, in version 3.
    pub(super) fn ads() -> Self {
        Self { ads: Some(Empty {}), resource_api_version: ApiVersion::V3.into() }
    }
}

/// A message without fields, or one of which none is set.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

/// `envoy.config.core.v3.ApiVersion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum ApiVersion {
    Auto = 0,
    V3 = 2,
}

/// `envoy.config.cluster.v3.Cluster`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Cluster {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(enumeration = "DiscoveryType", tag = "2")]
    pub(super) r#type: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) eds_cluster_config: Option<EdsClusterConfig>,
    #[prost(message, optional, tag = "4")]
    pub(super) connect_timeout: Option<Seconds>,
}

/// `envoy.config.cluster.v3.Cluster.DiscoveryType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum DiscoveryType {
    Static = 0,
    Eds = 3,
}

/// `envoy.config.cluster.v3.Cluster.EdsClusterConfig`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EdsClusterConfig {
    #[prost(message, optional, tag = "1")]
    pub(super) eds_config: Option<ConfigSource>,
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ClusterLoadAssignment {
    #[prost(string, tag = "1")]
    pub(super) cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) endpoints: Vec<LocalityLbEndpoints>,
}

/// `envoy.config.endpoint.v3.LocalityLbEndpoints`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LocalityLbEndpoints {
    #[prost(message, repeated, tag = "2")]
    pub(super) lb_endpoints: Vec<LbEndpoint>,
}

/// `envoy.config.endpoint.v3.LbEndpoint`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LbEndpoint {
    #[prost(message, optional, tag = "1")]
    pub(super) endpoint: Option<Endpoint>,
}

/// `envoy.config.endpoint.v3.Endpoint`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Endpoint {
    #[prost(message, optional, tag = "1")]
    pub(super) address: Option<Address>,
}

/// `envoy.config.core.v3.Address`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Address {
    #[prost(message, optional, tag = "1")]
    pub(super) socket_address: Option<SocketAddress>,
}

impl From<std::net::SocketAddr> for Address {
    fn from(address: std::net::SocketAddr) -> Self {
        let socket_address =
            SocketAddress { address: address.ip().to_string(), port_value: address.port().into() };
        Self { socket_address: Some(socket_address) }
    }
}

/// `envoy.config.core.v3.SocketAddress`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SocketAddress {
    #[prost(string, tag = "2")]
    pub(super) address: String,
    #[prost(uint32, tag = "3")]
    pub(super) port_value: u32,
}

/// `envoy.config.listener.v3.Listener`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Listener {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) address: Option<Address>,
    #[prost(message, repeated, tag = "3")]
    pub(super) filter_chains: Vec<FilterChain>,
}

/// `envoy.config.listener.v3.FilterChain`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FilterChain {
    #[prost(message, repeated, tag = "3")]
    pub(super) filters: Vec<Filter>,
}

/// `envoy.config.listener.v3.Filter`, and
/// `envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter`, which has the same
/// fields in the same places.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Filter {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "4")]
    pub(super) typed_config: Option<Any>,
}

/// `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HttpConnectionManager {
    #[prost(enumeration = "CodecType", tag = "1")]
    pub(super) codec_type: i32,
    #[prost(string, tag = "2")]
    pub(super) stat_prefix: String,
    #[prost(message, optional, tag = "3")]
    pub(super) rds: Option<Rds>,
    #[prost(message, repeated, tag = "5")]
    pub(super) http_filters: Vec<Filter>,
    #[prost(message, optional, tag = "15")]
    pub(super) generate_request_id: Option<Flag>,
}

/// `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.CodecType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum CodecType {
    Auto = 0,
    Http1 = 1,
}

/// `envoy.extensions.filters.network.http_connection_manager.v3.Rds`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Rds {
    #[prost(message, optional, tag = "1")]
    pub(super) config_source: Option<ConfigSource>,
    #[prost(string, tag = "2")]
    pub(super) route_config_name: String,
}

/// `envoy.extensions.filters.http.router.v3.Router`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Router {
    #[prost(message, optional, tag = "1")]
    pub(super) dynamic_stats: Option<Flag>,
}

/// `envoy.config.route.v3.RouteConfiguration`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RouteConfiguration {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) virtual_hosts: Vec<VirtualHost>,
}

/// `envoy.config.route.v3.VirtualHost`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct VirtualHost {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) domains: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    pub(super) routes: Vec<Route>,
}

/// `envoy.config.route.v3.Route`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Route {
    #[prost(message, optional, tag = "1")]
    pub(super) r#match: Option<RouteMatch>,
    #[prost(message, optional, tag = "2")]
    pub(super) route: Option<RouteAction>,
}

/// `envoy.config.route.v3.RouteMatch`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RouteMatch {
    #[prost(string, tag = "1")]
    pub(super) prefix: String,
}

/// `envoy.config.route.v3.RouteAction`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RouteAction {
    #[prost(string, tag = "1")]
    pub(super) cluster: String,
    #[prost(message, optional, tag = "8")]
    pub(super) timeout: Option<Seconds>,
}
