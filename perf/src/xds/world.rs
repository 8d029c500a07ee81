//! What a management server tells a proxy in these measurements: clusters with their endpoints, and
//! virtual hosts that lead to them.
//!
//! Virtual host `i` answers to `service-i.example` and leads to cluster `i` modulo their number.
//! Each endpoint has a loopback address of its own and is on one of two ports, which are those of two
//! origins that answer `/` in different lengths; so an answer tells which state of its cluster it
//! came by. A change moves endpoints to the other port. The invariant: of everything but endpoints
//! there is one version, and each cluster's endpoints have their own, which rises with every change.

use std::{
    fmt::Write,
    net::{Ipv4Addr, SocketAddr},
};

use bytes::Bytes;
use prost::Message;

use super::message::{
    Any, Cluster, ClusterLoadAssignment, CodecType, ConfigSource, DiscoveryType, EdsClusterConfig,
    Endpoint, Filter, FilterChain, Flag, HttpConnectionManager, LbEndpoint, Listener,
    LocalityLbEndpoints, Rds, Route, RouteAction, RouteConfiguration, RouteMatch, Router, Seconds,
    TYPE_URL_PREFIX, VirtualHost,
};

/// Kinds of resource, in the order in which a server sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// RDS.
    Routes,
}

impl Kind {
    /// All of them; a kind's place here is its number.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Routes];

    /// The message's full name.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::Routes => "envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The kind that a type URL names.
    pub(super) fn of(type_url: &str) -> Option<Self> {
        let name = type_url.strip_prefix(TYPE_URL_PREFIX)?;
        Self::ALL.into_iter().find(|kind| kind.type_name() == name)
    }

    /// Whether a subscription without names is one to everything.
    pub(super) fn has_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// The name of a resource. A cluster's endpoints have its name.
    pub(super) fn name(self, place: usize) -> String {
        format!("{}{place}", self.stem())
    }

    /// What names begin with.
    fn stem(self) -> &'static str {
        match self {
            Self::Cluster | Self::Endpoints => "service-",
            Self::Listener => "listener-",
            Self::Routes => "routes-",
        }
    }
}

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Size {
    /// Clusters, discovered through CDS and EDS.
    pub clusters: usize,
    /// Endpoints of each; at most [`ENDPOINTS_MAX`].
    pub endpoints: usize,
    /// Virtual hosts with one route each.
    pub virtual_hosts: usize,
    /// Listeners, each with a route configuration of its own that has its share of the virtual hosts.
    pub listeners: usize,
}

/// Most endpoints of a cluster.
pub const ENDPOINTS_MAX: usize = 32;
/// Most clusters, virtual hosts and listeners.
pub const COUNT_MAX: usize = 100_000;

/// How far a change goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All endpoints of the cluster move.
    All,
    /// One of them moves, each time the next.
    One,
}

/// Everything that is served.
#[derive(Debug, Clone)]
pub struct World {
    size: Size,
    ports: [u16; 2],
    clusters: Vec<Bytes>,
    assignments: Vec<Assignment>,
    listeners: Vec<Bytes>,
    routes: Vec<Bytes>,
    changes: u64,
}

/// The endpoints of one cluster.
#[derive(Debug, Clone)]
struct Assignment {
    /// Changes so far.
    changes: u32,
    /// A bit for each endpoint: set, it is on the second port.
    moved: u32,
    body: Bytes,
}

impl World {
    /// Makes everything. Requests come in on `listen`, one address for each listener; endpoints are
    /// on the first of `ports`.
    #[must_use]
    pub fn new(size: Size, listen: &[SocketAddr], ports: [u16; 2]) -> Self {
        let Size { clusters, endpoints, virtual_hosts, listeners } = size;
        let assignments = (0..clusters).map(|index| {
            let body = assignment(index, endpoints, ports, 0);
            Assignment { changes: 0, moved: 0, body }
        });
        let hosts = |listener| (listener..virtual_hosts).step_by(listeners.max(1));
        Self {
            size,
            ports,
            clusters: (0..clusters).map(cluster).collect(),
            assignments: assignments.collect(),
            listeners: listen.iter().enumerate().map(|(at, to)| listener(at, *to)).collect(),
            routes: (0..listeners).map(|at| routes(at, hosts(at), clusters)).collect(),
            changes: 0,
        }
    }

    /// How much there is.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// Moves endpoints of a cluster to the other port.
    pub fn change(&mut self, cluster: usize, extent: Extent) {
        let Size { endpoints, .. } = self.size;
        let Some(assignment) = self.assignments.get_mut(cluster) else { return };
        let every = u32::MAX >> (ENDPOINTS_MAX - endpoints.clamp(1, ENDPOINTS_MAX));
        assignment.moved ^= match extent {
            Extent::All => every,
            Extent::One => 1 << (assignment.changes as usize % endpoints.max(1)),
        };
        assignment.changes += 1;
        assignment.body = self::assignment(cluster, endpoints, self.ports, assignment.moved);
        self.changes += 1;
    }

    /// Number of resources of a kind.
    pub(super) fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Cluster | Kind::Endpoints => self.clusters.len(),
            Kind::Listener => self.listeners.len(),
            Kind::Routes => self.routes.len(),
        }
    }

    /// The place of a resource among those of its kind.
    pub(super) fn find(&self, kind: Kind, name: &[u8]) -> Option<usize> {
        let digits = name.strip_prefix(kind.stem().as_bytes())?;
        let index: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
        (index < self.count(kind)).then_some(index)
    }

    /// The version of all of a kind.
    pub(super) fn version(&self, kind: Kind) -> String {
        match kind {
            Kind::Endpoints => self.changes.to_string(),
            _ => FIXED.to_owned(),
        }
    }

    /// The version of one resource.
    pub(super) fn resource_version(&self, kind: Kind, place: usize) -> String {
        match kind {
            Kind::Endpoints => self.assignments[place].changes.to_string(),
            _ => FIXED.to_owned(),
        }
    }

    /// The encoded message of a resource; `None` where there is none.
    pub(super) fn body(&self, kind: Kind, place: usize) -> Option<Bytes> {
        let body = match kind {
            Kind::Cluster => self.clusters.get(place),
            Kind::Endpoints => self.assignments.get(place).map(|assignment| &assignment.body),
            Kind::Listener => self.listeners.get(place),
            Kind::Routes => self.routes.get(place),
        };
        body.cloned()
    }
}

/// The version of what never changes.
const FIXED: &str = "1";
/// First address of endpoints; the second endpoint has the next one.
const ENDPOINT_FIRST: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);

/// The authority to which a virtual host answers.
#[must_use]
pub fn authority(virtual_host: usize) -> String {
    format!("{}.example", Kind::Cluster.name(virtual_host))
}

/// A bootstrap's listener, virtual hosts and clusters like those of a [`World`], without xDS: YAML of
/// `static_resources`. Each cluster has one endpoint.
#[must_use]
pub fn fixed(
    listen: SocketAddr,
    origin: SocketAddr,
    virtual_hosts: usize,
    clusters: usize,
) -> String {
    let mut yaml = format!(
        r#"static_resources:
  listeners:
  - name: downstream
    address: {{ socket_address: {{ address: {}, port_value: {} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: downstream
          codec_type: HTTP1
          generate_request_id: false
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              dynamic_stats: false
          route_config:
            name: all
            virtual_hosts:
"#,
        listen.ip(),
        listen.port()
    );
    // Writing to a String can't fail.
    for host in 0..virtual_hosts {
        let _ = writeln!(
            yaml,
            "            - {{ name: {}, domains: [{}], routes: [{{ match: {{ prefix: / }}, \
             route: {{ cluster: {}, timeout: 60s }} }}] }}",
            Kind::Cluster.name(host),
            authority(host),
            Kind::Cluster.name(host % clusters.max(1))
        );
    }
    yaml += "  clusters:\n";
    for cluster in 0..clusters {
        let name = Kind::Cluster.name(cluster);
        let _ = writeln!(
            yaml,
            "  - {{ name: {name}, type: STATIC, connect_timeout: 5s, load_assignment: \
             {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: \
             {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}] }}] }} }}",
            origin.ip(),
            origin.port()
        );
    }
    yaml
}

fn cluster(index: usize) -> Bytes {
    let cluster = Cluster {
        name: Kind::Cluster.name(index),
        r#type: DiscoveryType::Eds.into(),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ConfigSource::ads()) }),
        connect_timeout: Some(Seconds { seconds: 5 }),
    };
    encoded(&cluster)
}

fn assignment(index: usize, endpoints: usize, ports: [u16; 2], moved: u32) -> Bytes {
    let endpoint = |at: usize| {
        let number = u32::try_from(index * endpoints + at).unwrap_or(0);
        let ip = Ipv4Addr::from(u32::from(ENDPOINT_FIRST) + number);
        let port = ports[usize::from(moved >> at & 1 == 1)];
        let address = SocketAddr::from((ip, port)).into();
        LbEndpoint { endpoint: Some(Endpoint { address: Some(address) }) }
    };
    let lb_endpoints = (0..endpoints).map(endpoint).collect();
    encoded(&ClusterLoadAssignment {
        cluster_name: Kind::Endpoints.name(index),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints }],
    })
}

fn listener(index: usize, address: SocketAddr) -> Bytes {
    const MANAGER: &str =
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
    let off = || Some(Flag { value: false });
    let filter = |name: &str, config| Filter { name: name.to_owned(), typed_config: Some(config) };
    let router = Any::new(ROUTER, encoded(&Router { dynamic_stats: off() }));
    let manager = HttpConnectionManager {
        codec_type: CodecType::Http1.into(),
        stat_prefix: "downstream".to_owned(),
        rds: Some(Rds {
            config_source: Some(ConfigSource::ads()),
            route_config_name: Kind::Routes.name(index),
        }),
        http_filters: vec![filter("envoy.filters.http.router", router)],
        generate_request_id: off(),
    };
    let manager = Any::new(MANAGER, encoded(&manager));
    let filters = vec![filter("envoy.filters.network.http_connection_manager", manager)];
    encoded(&Listener {
        name: Kind::Listener.name(index),
        address: Some(address.into()),
        filter_chains: vec![FilterChain { filters }],
    })
}

fn routes(index: usize, hosts: impl Iterator<Item = usize>, clusters: usize) -> Bytes {
    let virtual_host = |host: usize| VirtualHost {
        name: Kind::Cluster.name(host),
        domains: vec![authority(host)],
        routes: vec![Route {
            r#match: Some(RouteMatch { prefix: "/".to_owned() }),
            route: Some(RouteAction {
                cluster: Kind::Cluster.name(host % clusters.max(1)),
                timeout: Some(Seconds { seconds: 60 }),
            }),
        }],
    };
    encoded(&RouteConfiguration {
        name: Kind::Routes.name(index),
        virtual_hosts: hosts.map(virtual_host).collect(),
    })
}

fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};
    use serde_json::json;

    use super::*;

    const SIZE: Size = Size { clusters: 3, endpoints: 2, virtual_hosts: 5, listeners: 2 };
    const PORTS: [u16; 2] = [1000, 2000];

    fn world() -> World {
        World::new(SIZE, &[1, 2].map(|port| ([127, 0, 0, 1], port).into()), PORTS)
    }

    /// A resource as Envoy's descriptors read it.
    fn read(world: &World, kind: Kind, place: usize) -> serde_json::Value {
        let descriptors = include_bytes!("../../../xds/descriptors/envoy.bin");
        let pool = DescriptorPool::decode(&descriptors[..]).unwrap();
        let descriptor = pool.get_message_by_name(kind.type_name()).unwrap();
        let body = world.body(kind, place).unwrap();
        let message = DynamicMessage::decode(descriptor, body).unwrap();
        refuse_unknown(&message);
        serde_json::to_value(&message).unwrap()
    }

    fn refuse_unknown(message: &DynamicMessage) {
        assert_eq!(message.unknown_fields().count(), 0, "{}", message.descriptor().full_name());
        for (_, value) in message.fields() {
            match value {
                Value::Message(inner) => refuse_unknown(inner),
                Value::List(list) => {
                    list.iter().filter_map(Value::as_message).for_each(refuse_unknown);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn resources_are_what_envoy_means_by_them() {
        let world = world();
        let ads = json!({"ads": {}, "resourceApiVersion": "V3"});
        assert_eq!(
            read(&world, Kind::Cluster, 1),
            json!({
                "name": "service-1",
                "type": "EDS",
                "edsClusterConfig": {"edsConfig": ads},
                "connectTimeout": "5s",
            })
        );
        let host = |host: usize| {
            json!({
                "name": format!("service-{host}"),
                "domains": [format!("service-{host}.example")],
                "routes": [{
                    "match": {"prefix": "/"},
                    "route": {"cluster": format!("service-{}", host % 3), "timeout": "60s"},
                }],
            })
        };
        let routes = json!({"name": "routes-1", "virtualHosts": [host(1), host(3)]});
        assert_eq!(read(&world, Kind::Routes, 1), routes);
        let listener = read(&world, Kind::Listener, 1);
        let address = json!({"socketAddress": {"address": "127.0.0.1", "portValue": 2}});
        assert_eq!((&listener["name"], &listener["address"]), (&json!("listener-1"), &address));
        let filter = &listener["filterChains"][0]["filters"][0];
        assert_eq!(
            filter["typedConfig"],
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.\
                          http_connection_manager.v3.HttpConnectionManager",
                "codecType": "HTTP1",
                "statPrefix": "downstream",
                "rds": {"configSource": ads, "routeConfigName": "routes-1"},
                "generateRequestId": false,
                "httpFilters": [{
                    "name": "envoy.filters.http.router",
                    "typedConfig": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                        "dynamicStats": false,
                    },
                }],
            })
        );
    }

    #[test]
    fn changes_move_endpoints_and_raise_versions() {
        let mut world = world();
        let endpoints = |world: &World, cluster| {
            let all = read(world, Kind::Endpoints, cluster);
            assert_eq!(all["clusterName"], format!("service-{cluster}"));
            let list = all["endpoints"][0]["lbEndpoints"].as_array().unwrap().clone();
            let part = |one: &serde_json::Value| {
                let address = &one["endpoint"]["address"]["socketAddress"];
                format!("{}:{}", address["address"].as_str().unwrap(), address["portValue"])
            };
            list.iter().map(part).collect::<Vec<_>>()
        };
        assert_eq!(endpoints(&world, 1), ["127.1.0.2:1000", "127.1.0.3:1000"]);
        world.change(1, Extent::All);
        assert_eq!(endpoints(&world, 1), ["127.1.0.2:2000", "127.1.0.3:2000"]);
        world.change(1, Extent::One);
        assert_eq!(endpoints(&world, 1), ["127.1.0.2:2000", "127.1.0.3:1000"]);
        assert_eq!(endpoints(&world, 0), ["127.1.0.0:1000", "127.1.0.1:1000"]);
        let version = |kind, place| world.resource_version(kind, place);
        assert_eq!([version(Kind::Endpoints, 0), version(Kind::Endpoints, 1)], ["0", "2"]);
        assert_eq!([world.version(Kind::Endpoints), version(Kind::Cluster, 1)], ["2", "1"]);
        world.change(99, Extent::All);
        assert_eq!(world.version(Kind::Endpoints), "2");
    }

    #[test]
    fn names_are_found_again() {
        let world = world();
        for kind in Kind::ALL {
            for place in 0..world.count(kind) {
                assert_eq!(world.find(kind, kind.name(place).as_bytes()), Some(place));
            }
            assert_eq!(world.find(kind, kind.name(world.count(kind)).as_bytes()), None);
            assert_eq!(Kind::of(&format!("{TYPE_URL_PREFIX}{}", kind.type_name())), Some(kind));
        }
        assert_eq!(world.find(Kind::Cluster, b"routes-0"), None);
        assert_eq!(Kind::of("type.googleapis.com/other"), None);
    }
}
