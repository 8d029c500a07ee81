//! Filters of Istio's own (xds.md B9), and what its metadata says of clusters (B11).

use std::time::Duration;

use serde_json::Value;

/// `io.istio.http.peer_metadata.Config`: who the two ends of a request are, in the headers
/// `x-envoy-peer-metadata-id` and `x-envoy-peer-metadata`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerMetadata {
    /// Learn from requests who sent them; the headers end here.
    pub downstream_discovery: bool,
    /// Learn from responses who sent them; the headers end here.
    pub upstream_discovery: bool,
    /// Tell clients that told us.
    pub downstream_propagation: Option<Propagation>,
    /// Tell upstreams.
    pub upstream_propagation: Option<Propagation>,
    /// Labels that are told beside the four that always are.
    pub additional_labels: Box<[Box<str>]>,
}

/// To whom we say who we are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Propagation {
    /// Not beyond the mesh.
    pub skip_external_clusters: bool,
}

/// `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig`: what is offered upstream in TLS in place
/// of the context's own list, by the version of HTTP that is spoken there. An empty list changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlpnOverrides {
    /// For HTTP/1.1.
    pub http11: Box<[Box<[u8]>]>,
    /// For HTTP/2.
    pub http2: Box<[Box<[u8]>]>,
}

impl AlpnOverrides {
    /// What is offered in place of this list, which begins with what is spoken at best.
    #[must_use]
    pub fn instead_of(&self, offered: &[&[u8]]) -> Option<&[Box<[u8]>]> {
        let list = match offered.first() {
            Some(&b"h2") => &self.http2,
            Some(&b"http/1.1") => &self.http11,
            _ => return None,
        };
        Some(&**list).filter(|list| !list.is_empty())
    }
}

/// `stats.PluginConfig`: the standard metrics (B13), for requests or for connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IstioStats {
    /// A destination that is not known otherwise is not named by the request's authority.
    pub disable_host_header_fallback: bool,
    /// Between two reports of a connection's bytes; `None`: only at its end.
    pub tcp_reporting: Option<Duration>,
    /// Changes to metrics, in order.
    pub overrides: Box<[MetricOverride]>,
}

/// A change to one standard metric or to all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricOverride {
    /// The metric's name without `istio_`; `None`: all.
    pub metric: Option<Box<str>>,
    /// It is not reported.
    pub drop: bool,
    /// Labels that it does not have.
    pub tags_to_remove: Box<[Box<str>]>,
}

/// What a cluster's metadata says under `istio`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IstioCluster {
    /// Outside the mesh.
    pub external: bool,
    /// Its endpoints are not told who we are.
    pub disable_metadata_exchange: bool,
    /// Its own ALPN stays.
    pub keep_alpn: bool,
    /// The first service that it stands for.
    pub service: Option<IstioService>,
}

/// A service as metrics call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IstioService {
    /// Whole name.
    pub host: Box<str>,
    /// Short name.
    pub name: Box<str>,
    /// May be empty.
    pub namespace: Box<str>,
}

impl IstioCluster {
    /// Reads a cluster's metadata: filter name to struct. What is not of the expected type says nothing.
    #[must_use]
    pub fn of(metadata: Option<&Value>) -> IstioCluster {
        let Some(istio) = metadata.and_then(|metadata| metadata.get("istio")) else {
            return IstioCluster::default();
        };
        let flag = |name: &str| istio.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |value: &Value, name: &str| -> Option<Box<str>> {
            value.get(name).and_then(Value::as_str).map(Box::from)
        };
        let service = istio.get("services").and_then(|services| services.get(0)).map(|service| {
            let host = text(service, "host").unwrap_or_default();
            let short = || host.split('.').next().unwrap_or_default().into();
            IstioService {
                name: text(service, "name").unwrap_or_else(short),
                namespace: text(service, "namespace").unwrap_or_default(),
                host,
            }
        });
        IstioCluster {
            external: flag("external"),
            disable_metadata_exchange: flag("disable_mx"),
            keep_alpn: text(istio, "alpn_override").as_deref() == Some("false"),
            service,
        }
    }
}
