//! HTTP filters that act on requests by themselves, and what routes say of filters (contract section 6,
//! `typed_per_filter_config`).
//!
//! Routes name filters by the names that connection managers give them. Of all levels that say something
//! of a filter (table, virtual host, route, weighted cluster) only the most specific one counts.

use std::sync::Arc;

use super::config_source::ConfigSource;
use super::cors::CorsPolicy;
use super::extensions::FilterDiscovery;
use super::fault::Fault;
use super::http::{GrpcStats, Soap};
use super::istio::{AlpnOverrides, IstioStats, PeerMetadata};

/// A filter before the router.
#[derive(Debug, Clone)]
pub struct HttpFilter {
    /// What routes call it; unique only by convention.
    pub name: Box<str>,
    /// It does nothing, unless a route enables it.
    pub disabled: bool,
    /// What it is, and where it comes from.
    pub config: FilterSource,
}

/// Where a filter's configuration is.
#[derive(Debug, Clone)]
pub enum FilterSource {
    /// In the listener.
    Inline(HttpFilterKind),
    /// It comes by name, and changes without the listener.
    Discovered(Arc<FilterDiscovery>),
}

impl HttpFilter {
    /// What it is, where the listener itself says so.
    #[must_use]
    pub fn inline(&self) -> Option<&HttpFilterKind> {
        match &self.config {
            FilterSource::Inline(kind) => Some(kind),
            FilterSource::Discovered(_) => None,
        }
    }

    /// Where to ask for it, where that is needed.
    #[must_use]
    pub fn discovery(&self) -> Option<&Arc<FilterDiscovery>> {
        match &self.config {
            FilterSource::Inline(_) => None,
            FilterSource::Discovered(discovery) => Some(discovery),
        }
    }
}

/// What a filter is.
#[derive(Debug, Clone)]
pub enum HttpFilterKind {
    /// Delays and aborts requests.
    Fault(Arc<Fault>),
    /// Says which other sites may use responses; the policy is the routes'.
    Cors,
    /// Tells peers who we are, and learns who they are.
    PeerMetadata(Arc<PeerMetadata>),
    /// Chooses the ALPN offered upstream.
    Alpn(Arc<AlpnOverrides>),
    /// Counts requests by who asked whom.
    IstioStats(Arc<IstioStats>),
    /// Translates gRPC-Web to gRPC (`envoy.filters.http.grpc_web`).
    GrpcWeb,
    /// Statistics of gRPC requests (`envoy.filters.http.grpc_stats`).
    GrpcStats(Arc<GrpcStats>),
    /// Finds out what SOAP requests ask for (`outrigger.filters.http.soap.v1.Soap`).
    Soap(Soap),
    /// Holds requests while what they need is asked for (`envoy.filters.http.on_demand`).
    OnDemand(OnDemand),
}

/// What is asked for on demand, beside virtual hosts and tables of scopes.
#[derive(Debug, Clone, Default)]
pub struct OnDemand {
    /// Whom to ask for clusters that routes name and that are not there, and how long to wait for them;
    /// nothing: they are not asked for.
    pub clusters: Option<Arc<ConfigSource>>,
}

/// What a route says of filters, all levels above it included.
#[derive(Debug, Clone, Default)]
pub struct FilterOverrides(Option<Arc<[FilterOverride]>>);

/// What a route says of one filter.
#[derive(Debug, Clone)]
pub struct FilterOverride {
    /// The filter's name.
    pub name: Box<str>,
    /// It does nothing for this route; false: it acts, even where it is disabled by itself.
    pub disabled: bool,
    /// In place of its own configuration.
    pub config: Option<RouteFilterConfig>,
}

/// A filter's configuration for a route.
#[derive(Debug, Clone)]
pub enum RouteFilterConfig {
    /// Of a fault filter.
    Fault(Arc<Fault>),
    /// Of a CORS filter.
    Cors(Arc<CorsPolicy>),
    /// Of a filter that asks on demand.
    OnDemand(OnDemand),
}

impl FilterOverrides {
    /// `own` before what `self`, a less specific level, says.
    pub(crate) fn under(&self, own: Vec<FilterOverride>) -> FilterOverrides {
        if own.is_empty() {
            return self.clone();
        }
        let is_own = |name: &str| own.iter().any(|own| *own.name == *name);
        let above = self.0.iter().flat_map(|all| all.iter()).filter(|known| !is_own(&known.name));
        let mut all: Vec<_> = above.cloned().collect();
        all.extend(own);
        FilterOverrides(Some(all.into()))
    }

    /// What is said of the filter called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&FilterOverride> {
        self.0.as_deref()?.iter().find(|known| *known.name == *name)
    }

    /// Whether nothing is said of any filter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}
