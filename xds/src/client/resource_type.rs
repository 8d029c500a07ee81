//! The types of resources that are asked for, and by which calls (xds.md A1, B6).

use std::fmt;

use crate::snapshot::Variant;

/// A type of resource. The order is that in which first requests are sent (W-01).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ResourceType {
    /// CDS.
    Cluster,
    /// EDS.
    ClusterLoadAssignment,
    /// LDS.
    Listener,
    /// RDS.
    RouteConfiguration,
    /// SRDS.
    ScopedRouteConfiguration,
    /// VHDS.
    VirtualHost,
    /// SDS.
    Secret,
    /// ECDS.
    ExtensionConfig,
    /// RTDS.
    Runtime,
}

impl ResourceType {
    /// Every one, in order.
    pub const ALL: [ResourceType; 9] = [
        ResourceType::Cluster,
        ResourceType::ClusterLoadAssignment,
        ResourceType::Listener,
        ResourceType::RouteConfiguration,
        ResourceType::ScopedRouteConfiguration,
        ResourceType::VirtualHost,
        ResourceType::Secret,
        ResourceType::ExtensionConfig,
        ResourceType::Runtime,
    ];

    /// The type that a URL names, whatever stands before its last `/`.
    #[must_use]
    pub fn of_url(url: &str) -> Option<ResourceType> {
        ResourceType::ALL.into_iter().find(|kind| kind.is_named_by(url))
    }

    /// Whether a URL names this type.
    #[must_use]
    pub fn is_named_by(self, url: &str) -> bool {
        url.rsplit('/').next() == self.type_url().rsplit('/').next()
    }

    /// As in `type_url` of requests and responses.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            ResourceType::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            ResourceType::ClusterLoadAssignment => {
                "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
            }
            ResourceType::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            ResourceType::RouteConfiguration => {
                "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
            }
            ResourceType::ScopedRouteConfiguration => {
                "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
            }
            ResourceType::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            ResourceType::Secret => {
                "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
            }
            ResourceType::ExtensionConfig => {
                "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
            }
            ResourceType::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
        }
    }

    /// Full name of the message.
    #[must_use]
    pub fn message(self) -> &'static str {
        let url = self.type_url();
        url.rsplit_once('/').map_or(url, |(_, name)| name)
    }

    /// Short name of the message, as in the text of a NACK (V-01).
    #[must_use]
    pub fn word(self) -> &'static str {
        let name = self.message();
        name.rsplit_once('.').map_or(name, |(_, word)| word)
    }

    /// Name of the discovery service, for logs.
    #[must_use]
    pub fn service(self) -> &'static str {
        match self {
            ResourceType::Cluster => "CDS",
            ResourceType::ClusterLoadAssignment => "EDS",
            ResourceType::Listener => "LDS",
            ResourceType::RouteConfiguration => "RDS",
            ResourceType::ScopedRouteConfiguration => "SRDS",
            ResourceType::VirtualHost => "VHDS",
            ResourceType::Secret => "SDS",
            ResourceType::ExtensionConfig => "ECDS",
            ResourceType::Runtime => "RTDS",
        }
    }

    /// Path of the streaming call of the type's own service; there is none for VirtualHost in the
    /// state-of-the-world variant.
    #[must_use]
    pub fn method(self, variant: Variant) -> Option<&'static str> {
        let (sotw, delta) = match self {
            ResourceType::Cluster => (
                "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
                "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
            ),
            ResourceType::ClusterLoadAssignment => (
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
            ),
            ResourceType::Listener => (
                "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
                "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
            ),
            ResourceType::RouteConfiguration => (
                "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
                "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
            ),
            ResourceType::ScopedRouteConfiguration => (
                "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes",
                "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes",
            ),
            ResourceType::VirtualHost => {
                ("", "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts")
            }
            ResourceType::Secret => (
                "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
                "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
            ),
            ResourceType::ExtensionConfig => (
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
            ),
            ResourceType::Runtime => (
                "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
                "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
            ),
        };
        let method = match variant {
            Variant::StateOfTheWorld => sotw,
            Variant::Delta => delta,
        };
        Some(method).filter(|method| !method.is_empty())
    }

    /// Whether a first request without names asks for everything (S-10, S-11, D-07). For every other
    /// type, `*` has to be said. Envoy asks for scopes like this, too, and servers that were made for it
    /// know them by no other way.
    #[must_use]
    pub fn has_implied_wildcard(self) -> bool {
        matches!(
            self,
            ResourceType::Cluster | ResourceType::Listener | ResourceType::ScopedRouteConfiguration
        )
    }

    /// Whether a state-of-the-world response holds everything there is, so that absence is removal
    /// (S-08, S-09). Scopes are that to Envoy, too: they have no other way to go.
    #[must_use]
    pub fn comes_in_full_sets(self) -> bool {
        self.has_implied_wildcard()
    }

    /// Whether it can only be asked for by the delta variant.
    #[must_use]
    pub fn is_delta_only(self) -> bool {
        self == ResourceType::VirtualHost
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.service())
    }
}

/// Path of the aggregated call.
#[must_use]
pub fn aggregated_method(variant: Variant) -> &'static str {
    match variant {
        Variant::StateOfTheWorld => {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
        }
        Variant::Delta => {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a1_every_type_by_its_url_and_every_method_there_is() {
        for (at, kind) in ResourceType::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
            assert_eq!(ResourceType::of_url(kind.type_url()), Some(kind));
            assert_eq!(ResourceType::of_url(kind.message()), Some(kind));
            let own = |variant| kind.method(variant);
            assert_eq!(own(Variant::StateOfTheWorld).is_none(), kind.is_delta_only());
            let method = own(Variant::Delta).unwrap();
            assert!(method.starts_with("/envoy.service.") && method.contains("/Delta"), "{method}");
        }
        assert_eq!(ResourceType::of_url("type.googleapis.com/istio.workload.Workload"), None);
        assert_eq!(ResourceType::of_url(""), None);
        assert_eq!(ResourceType::ExtensionConfig.word(), "TypedExtensionConfig");
    }
}
