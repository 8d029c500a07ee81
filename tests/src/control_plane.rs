//! Management servers of xDS that are not ours, what they serve, and bootstraps that ask them.
//!
//! There are two, programs that `.ci/run` installs: one on go-control-plane, which keeps to the
//! protocol, and one on gRPC's Python stubs, which also breaks it when told to. Both note all that
//! goes over a stream as [`Event`]s, so a test waits for what the proxy says and does not guess.

#![allow(clippy::needless_pass_by_value, reason = "JSON is written where it is passed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::config::{Config, HTTP_CONNECTION_MANAGER, ROUTER, http2_upstream};
use crate::net::Address;
use crate::{PATIENCE, Peer};

/// Type of clusters.
pub const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// Type of load assignments.
pub const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// Type of listeners.
pub const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// Type of route tables.
pub const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// Type of scopes of routes.
pub const SRDS: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";

/// Type of virtual hosts that come by themselves.
pub const VHDS: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";

/// Type of secrets.
pub const SDS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Type of runtime layers.
pub const RTDS: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";

/// Type of extensions that come by themselves.
pub const ECDS: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";

/// Type of the wrapper that gives a resource a name, a version and a lifetime.
pub const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// The two ways of telling what there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Variant {
    /// Each response has all that there is of a type.
    Sotw,
    /// Each response has what is new.
    Delta,
}

impl Variant {
    /// As the `api_type` of an `ApiConfigSource`.
    #[must_use]
    pub fn api_type(self) -> &'static str {
        match self {
            Variant::Sotw => "GRPC",
            Variant::Delta => "DELTA_GRPC",
        }
    }
}

/// Something that happened on a stream.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// `open`, `request`, `response` or `close`.
    pub kind: String,
    /// The number of the stream, from 1.
    pub stream: u64,
    /// The node id of the client, once it has said it.
    pub client: String,
    /// Method of a stream that opened.
    pub method: String,
    /// Metadata of a stream that opened, Python only.
    pub metadata: BTreeMap<String, String>,
    /// Type URL.
    pub type_url: String,
    /// `version_info`, `system_version_info` of a delta response.
    pub version: String,
    /// `nonce` or `response_nonce`.
    pub nonce: String,
    /// What a state-of-the-world request asks for, or what a response holds.
    pub names: Vec<String>,
    /// `resource_names_subscribe`.
    pub subscribe: Vec<String>,
    /// `resource_names_unsubscribe`.
    pub unsubscribe: Vec<String>,
    /// `removed_resources`.
    pub removed: Vec<String>,
    /// `initial_resource_versions`.
    pub initial: BTreeMap<String, String>,
    /// Code and message of `error_detail`.
    pub error: Option<(i64, String)>,
    /// The node, if the request has one; without its extensions.
    pub node: Option<Value>,
    /// A digest of the whole node.
    pub node_hash: String,
}

impl Event {
    /// Whether it is a request of that type.
    #[must_use]
    pub fn is_request(&self, type_url: &str) -> bool {
        self.kind == "request" && self.type_url == type_url
    }

    /// Whether it is a response of that type.
    #[must_use]
    pub fn is_response(&self, type_url: &str) -> bool {
        self.kind == "response" && self.type_url == type_url
    }

    /// Whether it answers a response of that type, and finds nothing wrong with it.
    #[must_use]
    pub fn is_ack(&self, type_url: &str) -> bool {
        self.is_request(type_url) && !self.nonce.is_empty() && self.error.is_none()
    }

    /// Whether it refuses a response of that type.
    #[must_use]
    pub fn is_nack(&self, type_url: &str) -> bool {
        self.is_request(type_url) && self.error.is_some()
    }

    fn read(json: &Value) -> Event {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let list = |key: &str| {
            let items = json[key].as_array().into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let error = json.get("error").filter(|error| error.is_object());
        let map = |key: &str| {
            let entries = json[key].as_object().into_iter().flatten();
            entries
                .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
                .collect()
        };
        Event {
            kind: text("event"),
            stream: json["stream"].as_u64().unwrap(),
            client: text("client"),
            method: text("method"),
            metadata: map("metadata"),
            type_url: text("type"),
            version: text("version"),
            nonce: text("nonce"),
            names: list("names"),
            subscribe: list("subscribe"),
            unsubscribe: list("unsubscribe"),
            removed: list("removed"),
            initial: map("initial"),
            error: error.map(|error| {
                (error["code"].as_i64().unwrap(), error["message"].as_str().unwrap().to_owned())
            }),
            node: json.get("node").cloned(),
            node_hash: text("node_hash"),
        }
    }
}

/// A management server.
#[derive(Debug)]
pub struct ControlPlane {
    peer: Peer,
    address: Address,
    options: Value,
    events: Vec<Event>,
}

impl ControlPlane {
    /// The one on go-control-plane, serving nothing yet.
    #[must_use]
    #[track_caller]
    pub fn go() -> ControlPlane {
        ControlPlane::start(Command::new("controlplane-peer"))
    }

    /// The one on gRPC's Python stubs, serving nothing yet.
    #[must_use]
    #[track_caller]
    pub fn python() -> ControlPlane {
        let script = "tests/e2e/interop/peers/controlplane.py";
        let mut command = Command::new("xds-python");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script));
        ControlPlane::start(command)
    }

    #[track_caller]
    fn start(command: Command) -> ControlPlane {
        ControlPlane {
            peer: Peer::start(command),
            address: Address::any(),
            options: json!({}),
            events: Vec::new(),
        }
    }

    /// Listens on a free port, with these options of its `start` command.
    #[must_use]
    #[track_caller]
    pub fn listening(self, options: Value) -> ControlPlane {
        self.listening_on(&Address::any(), options)
    }

    /// Listens on that address, with these options of its `start` command.
    #[must_use]
    #[track_caller]
    pub fn listening_on(mut self, address: &Address, options: Value) -> ControlPlane {
        self.address = address.clone();
        self.options = options;
        self.restart();
        self
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Ends every connection and listens no more. What it serves it keeps.
    #[track_caller]
    pub fn stop(&mut self) {
        self.peer.value("stop");
    }

    /// Listens again, where it did before.
    #[track_caller]
    pub fn restart(&mut self) {
        let mut options = self.options.clone();
        options["address"] = self.address.to_string().into();
        let port = self.command("start", &options);
        if matches!(self.address, Address::Tcp(_)) {
            self.address = Address::port(u16::try_from(port.as_u64().unwrap()).unwrap());
        }
    }

    /// The value of a command with its words.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn command(&mut self, word: &str, words: &Value) -> Value {
        self.peer.value(&format!("{word} {words}"))
    }

    /// Says nothing of these types by itself from now on.
    #[track_caller]
    pub fn hold(&mut self, types: &[&str]) {
        self.command("hold", &json!({"types": types}));
    }

    /// Says nothing of any type by itself from now on. Python only.
    #[track_caller]
    pub fn hold_all(&mut self) {
        self.command("hold", &json!({}));
    }

    /// Says what it has of these types, and what becomes of them.
    #[track_caller]
    pub fn release(&mut self, types: &[&str]) {
        self.command("release", &json!({"types": types}));
    }

    /// Sends a response of a type, on the newest stream that asked for it. Python only. Returns its
    /// nonce.
    ///
    /// # Panics
    /// If there is no such stream.
    #[track_caller]
    pub fn send(&mut self, type_url: &str, response: Value) -> String {
        let nonces = self.command("send", &json!({"type": type_url, "response": response}));
        nonces[0].as_str().unwrap().to_owned()
    }

    /// How many events there are until now.
    #[track_caller]
    pub fn mark(&mut self) -> usize {
        self.listen(0);
        self.events.len()
    }

    /// All events until now.
    #[track_caller]
    pub fn events(&mut self) -> &[Event] {
        self.listen(0);
        &self.events
    }

    /// Waits for an event, the first of which that is true. Those before `from` do not count.
    ///
    /// # Panics
    /// If there is none in time; `what` says for what was waited.
    #[track_caller]
    pub fn await_event(
        &mut self,
        what: &str,
        from: usize,
        condition: impl Fn(&Event) -> bool,
    ) -> Event {
        let start = Instant::now();
        let mut looked = from;
        loop {
            self.listen(if self.events.len() > looked { 0 } else { WAIT_MS });
            let new = self.events.get(looked..).unwrap_or_default();
            if let Some(found) = new.iter().find(|event| condition(event)) {
                return found.clone();
            }
            looked = looked.max(self.events.len());
            if start.elapsed() > PATIENCE {
                for event in &self.events[from.min(self.events.len())..] {
                    eprintln!("{event:?}");
                }
                panic!("not within {PATIENCE:?}: {what}");
            }
        }
    }

    /// Waits for the request that answers a response, good or bad.
    #[track_caller]
    pub fn await_answer(&mut self, type_url: &str, nonce: &str) -> Event {
        self.await_event(&format!("an answer to {nonce}"), 0, |event| {
            event.is_request(type_url) && event.nonce == nonce
        })
    }

    /// Responses since `from` without an answer yet, as client and type.
    #[track_caller]
    pub fn unanswered(&mut self, from: usize) -> Vec<(String, String)> {
        self.listen(0);
        let events = &self.events[from.min(self.events.len())..];
        let responses = events.iter().filter(|event| event.kind == "response");
        let open = responses.filter(|response| {
            !events.iter().any(|event| {
                let is_end = event.kind == "close";
                let is_answer =
                    event.is_request(&response.type_url) && event.nonce == response.nonce;
                event.stream == response.stream && (is_end || is_answer)
            })
        });
        open.map(|event| (event.client.clone(), event.type_url.clone())).collect()
    }

    #[track_caller]
    fn listen(&mut self, wait_ms: u64) {
        let words = json!({"from": self.events.len(), "wait_ms": wait_ms});
        let new = self.command("events", &words);
        self.events.extend(new.as_array().unwrap().iter().map(Event::read));
    }
}

/// What a management server serves: resources by type and name, of which only what has changed is
/// published, with a version of its own.
#[derive(Clone, Debug, Default)]
pub struct World {
    resources: BTreeMap<String, BTreeMap<String, Value>>,
    published: BTreeMap<String, BTreeMap<String, Value>>,
    count: u32,
}

impl World {
    /// Adds or replaces a resource.
    pub fn put(&mut self, type_url: &str, resource: Value) -> &mut World {
        let name = name_of(&resource).to_owned();
        self.resources.entry(type_url.to_owned()).or_default().insert(name, resource);
        self
    }

    /// Removes a resource.
    ///
    /// # Panics
    /// If there is none of that name.
    #[track_caller]
    pub fn remove(&mut self, type_url: &str, name: &str) -> &mut World {
        let removed = self.resources.entry(type_url.to_owned()).or_default().remove(name);
        assert!(removed.is_some(), "no {name} of {type_url}");
        self
    }

    /// A resource, to be changed.
    ///
    /// # Panics
    /// If there is none of that name.
    #[track_caller]
    pub fn get(&mut self, type_url: &str, name: &str) -> &mut Value {
        let found = self.resources.get_mut(type_url).and_then(|named| named.get_mut(name));
        found.unwrap_or_else(|| panic!("no {name} of {type_url}"))
    }

    /// Has the resources of another state, to be published as a new one.
    pub fn become_again(&mut self, before: &World) {
        self.resources.clone_from(&before.resources);
    }

    /// All of a type.
    #[must_use]
    pub fn all(&self, type_url: &str) -> Vec<Value> {
        self.resources.get(type_url).into_iter().flat_map(|named| named.values().cloned()).collect()
    }

    /// Tells the server what has changed since the last time, in one command. Returns the new
    /// version.
    #[track_caller]
    pub fn publish(&mut self, server: &mut ControlPlane) -> String {
        self.count += 1;
        let version = format!("v{}", self.count);
        let (mut versions, mut resources) = (Map::new(), Map::new());
        for (type_url, named) in &self.resources {
            if self.published.get(type_url) != Some(named) {
                versions.insert(type_url.clone(), version.clone().into());
                resources.insert(type_url.clone(), named.values().cloned().collect());
            }
        }
        self.published.clone_from(&self.resources);
        server.command("set", &json!({"versions": versions, "resources": resources}));
        version
    }
}

/// The name by which a resource is asked for.
///
/// # Panics
/// If it has none.
#[must_use]
#[track_caller]
pub fn name_of(resource: &Value) -> &str {
    resource["cluster_name"].as_str().or(resource["name"].as_str()).unwrap()
}

/// A bootstrap that asks a server for clusters and listeners by one aggregated stream, as the node
/// `test`. Reconnects are quick.
#[must_use]
pub fn aggregated(server: &Address, variant: Variant) -> Config {
    let mut source = api_source(variant);
    source["set_node_on_first_message_only"] = true.into();
    dynamic(server, json!({"ads_config": source, "cds_config": ads(), "lds_config": ads()}))
}

/// The same with streams of their own, one for each type or each resource.
#[must_use]
pub fn separate(server: &Address, variant: Variant) -> Config {
    dynamic(server, json!({"cds_config": own_stream(variant), "lds_config": own_stream(variant)}))
}

/// A bootstrap with these `dynamic_resources`, and a server as the cluster `xds`.
#[must_use]
pub fn dynamic(server: &Address, resources: Value) -> Config {
    let config = Config::of(json!({
        "node": {"id": "test", "cluster": "tests"},
        "admin": {"address": Address::any().to_json()},
        "dynamic_resources": resources,
        "static_resources": {"clusters": []},
    }));
    config.raw_cluster(server_cluster("xds", server))
}

/// A static cluster in which a management server is.
#[must_use]
pub fn server_cluster(name: &str, server: &Address) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": assignment(name, &[server]),
    });
    cluster["typed_extension_protocol_options"] =
        http2_upstream(&json!({}))["typed_extension_protocol_options"].take();
    cluster
}

/// An `ApiConfigSource` by way of the cluster `xds`.
#[must_use]
pub fn api_source(variant: Variant) -> Value {
    json!({
        "api_type": variant.api_type(),
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {
            "cluster_name": "xds",
            "retry_policy": {"retry_back_off": {"base_interval": "0.05s", "max_interval": "0.2s"}},
        }}],
    })
}

/// A `ConfigSource` by a stream of its own.
#[must_use]
pub fn own_stream(variant: Variant) -> Value {
    json!({"resource_api_version": "V3", "api_config_source": api_source(variant)})
}

/// A `ConfigSource` by the aggregated stream.
#[must_use]
pub fn ads() -> Value {
    json!({"resource_api_version": "V3", "ads": {}})
}

/// A cluster whose endpoints come from that source.
#[must_use]
pub fn eds_cluster(name: &str, source: Value) -> Value {
    json!({
        "name": name,
        "type": "EDS",
        "connect_timeout": "5s",
        "eds_cluster_config": {"eds_config": source},
    })
}

/// A cluster with these endpoints.
#[must_use]
pub fn static_cluster(name: &str, endpoints: &[&Address]) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": assignment(name, endpoints),
    })
}

/// A load assignment with these endpoints in one locality.
#[must_use]
pub fn assignment(name: &str, endpoints: &[&Address]) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().map(|address| endpoint(address)).collect();
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]})
}

/// One endpoint of a load assignment.
#[must_use]
pub fn endpoint(address: &Address) -> Value {
    json!({"endpoint": {"address": address.to_json()}})
}

/// A listener on a free port with HTTP and that part of a connection manager, which says where routes
/// are.
#[must_use]
pub fn http_listener(name: &str, routes: &Value) -> Value {
    json!({
        "name": name,
        "address": Address::any().to_json(),
        "filter_chains": [{"filters": [http_manager(name, routes)]}],
    })
}

/// A connection manager that counts under a name, as a filter.
#[must_use]
pub fn http_manager(name: &str, routes: &Value) -> Value {
    let mut manager = json!({
        "@type": HTTP_CONNECTION_MANAGER,
        "stat_prefix": name,
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
    });
    let routes = routes.as_object().unwrap().clone();
    manager.as_object_mut().unwrap().extend(routes);
    json!({"name": "http", "typed_config": manager})
}

/// The part of a connection manager that gets a route table from that source.
#[must_use]
pub fn rds(name: &str, source: Value) -> Value {
    json!({"rds": {"route_config_name": name, "config_source": source}})
}

/// A route table with one virtual host for all, and these routes.
#[must_use]
pub fn route_table(name: &str, routes: Value) -> Value {
    json!({"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]})
}

/// A route of everything to a cluster.
#[must_use]
pub fn to_cluster(name: &str) -> Value {
    json!({"match": {"prefix": "/"}, "route": {"cluster": name}})
}

/// How long one look at the events may wait for new ones.
const WAIT_MS: u64 = 500;
