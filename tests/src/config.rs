//! Bootstraps, written as the smallest differences from one plain proxy.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::net::Address;
use crate::tls;

/// An Envoy v3 bootstrap: admin interface, one listener with a connection manager, and clusters.
/// Every port is 0.
#[derive(Clone, Debug)]
pub struct Config {
    json: Value,
}

impl Config {
    /// Without routes and clusters.
    #[must_use]
    pub fn new() -> Config {
        Config {
            json: json!({
                "admin": {"address": Address::any().to_json()},
                "static_resources": {
                    "listeners": [{
                        "name": "main",
                        "address": Address::any().to_json(),
                        "filter_chains": [{"filters": [{
                            "name": "http",
                            "typed_config": {
                                "@type": HTTP_CONNECTION_MANAGER,
                                "stat_prefix": "main",
                                "route_config": {"name": "routes", "virtual_hosts": [
                                    {"name": "all", "domains": ["*"], "routes": []},
                                ]},
                                "http_filters": [{
                                    "name": "router",
                                    "typed_config": {"@type": ROUTER},
                                }],
                            },
                        }]}],
                    }],
                    "clusters": [],
                },
            }),
        }
    }

    /// Of what is there already.
    #[must_use]
    pub fn of(json: Value) -> Config {
        Config { json }
    }

    /// Every request goes to one origin, by the cluster `origin`.
    #[must_use]
    pub fn to(origin: &Address) -> Config {
        Config::new()
            .cluster("origin", &[origin])
            .route(json!({"match": {"prefix": "/"}, "route": {"cluster": "origin"}}))
    }

    /// Every request goes to one origin, by the cluster `origin` and HTTP/2.
    #[must_use]
    pub fn to_http2(origin: &Address) -> Config {
        Config::to(origin).tune_cluster(http2_upstream(&json!({})))
    }

    /// The listener has an RPC proxy of `bolt`, `dubbo` or `hsf`, with these routes.
    #[must_use]
    pub fn rpc(protocol: &str, routes: Value) -> Config {
        let mut proxy = json!({
            "@type": RPC_PROXY,
            "stat_prefix": "main",
            "route_config": {},
        });
        proxy["route_config"]["routes"] = routes;
        proxy[protocol] = json!({});
        Config::new().filters(json!([{"name": "rpc", "typed_config": proxy}]))
    }

    /// One more cluster, with these endpoints.
    #[must_use]
    pub fn cluster(self, name: &str, endpoints: &[&Address]) -> Config {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|address| json!({"endpoint": {"address": address.to_json()}}))
            .collect();
        self.raw_cluster(json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": endpoints}],
            },
        }))
    }

    /// One more cluster, as it is.
    #[must_use]
    pub fn raw_cluster(mut self, cluster: Value) -> Config {
        push(&mut self.json["static_resources"]["clusters"], cluster);
        self
    }

    /// Merges into the newest cluster.
    #[must_use]
    pub fn tune_cluster(mut self, patch: Value) -> Config {
        let clusters = self.json["static_resources"]["clusters"].as_array_mut().unwrap();
        merge(clusters.last_mut().unwrap(), patch);
        self
    }

    /// One more route, after the others.
    #[must_use]
    pub fn route(mut self, route: Value) -> Config {
        push(&mut self.terminal()["route_config"]["virtual_hosts"][0]["routes"], route);
        self
    }

    /// Merges into the newest route.
    #[must_use]
    pub fn tune_route(mut self, patch: Value) -> Config {
        let routes = &mut self.terminal()["route_config"]["virtual_hosts"][0]["routes"];
        merge(routes.as_array_mut().unwrap().last_mut().unwrap(), patch);
        self
    }

    /// Merges into the RPC proxy.
    #[must_use]
    pub fn rpc_proxy(mut self, patch: Value) -> Config {
        merge(self.terminal(), patch);
        self
    }

    /// Merges into the connection manager.
    #[must_use]
    pub fn http(mut self, patch: Value) -> Config {
        merge(self.terminal(), patch);
        self
    }

    /// Merges into the listener.
    #[must_use]
    pub fn listener(mut self, patch: Value) -> Config {
        merge(&mut self.json["static_resources"]["listeners"][0], patch);
        self
    }

    /// Merges into the filter chain.
    #[must_use]
    pub fn chain(mut self, patch: Value) -> Config {
        merge(&mut self.json["static_resources"]["listeners"][0]["filter_chains"][0], patch);
        self
    }

    /// The listener speaks TLS, in this context.
    #[must_use]
    pub fn downstream_tls(self, context: Value) -> Config {
        self.chain(json!({"transport_socket": transport_socket(tls::DOWNSTREAM, context)}))
    }

    /// The newest cluster speaks TLS, in this context.
    #[must_use]
    pub fn upstream_tls(self, context: Value) -> Config {
        self.tune_cluster(json!({"transport_socket": transport_socket(tls::UPSTREAM, context)}))
    }

    /// One more listener, as it is.
    #[must_use]
    pub fn raw_listener(mut self, listener: Value) -> Config {
        push(&mut self.json["static_resources"]["listeners"], listener);
        self
    }

    /// Replaces the filters of the only chain.
    #[must_use]
    pub fn filters(mut self, filters: Value) -> Config {
        self.json["static_resources"]["listeners"][0]["filter_chains"][0]["filters"] = filters;
        self
    }

    /// Merges into the whole.
    #[must_use]
    pub fn with(mut self, patch: Value) -> Config {
        merge(&mut self.json, patch);
        self
    }

    /// Merges into `engine`, which only Outrigger has.
    #[must_use]
    pub fn engine(self, patch: Value) -> Config {
        self.with(Value::Object(Map::from_iter([("engine".to_owned(), patch)])))
    }

    /// The bootstrap.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.json
    }

    fn terminal(&mut self) -> &mut Value {
        let listener = &mut self.json["static_resources"]["listeners"][0];
        &mut listener["filter_chains"][0]["filters"][0]["typed_config"]
    }
}

impl Default for Config {
    fn default() -> Config {
        Config::new()
    }
}

/// A cluster's part that makes it speak HTTP/2, with these options.
#[must_use]
pub fn http2_upstream(options: &Value) -> Value {
    json!({"typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": options},
        },
    }})
}

/// A transport socket of TLS, in that context.
#[must_use]
pub fn transport_socket(kind: &str, mut context: Value) -> Value {
    context["@type"] = kind.into();
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

/// One file access log with a text format.
#[must_use]
pub fn access_log(path: &Path, format: &str) -> Value {
    json!([{"name": "file", "typed_config": {
        "@type": FILE_ACCESS_LOG,
        "path": path,
        "log_format": {"text_format_source": {"inline_string": format}},
    }}])
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().unwrap().push(item);
}

/// JSON merge patch (RFC 7396): objects are merged, `null` removes, all else replaces.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Type of the HTTP connection manager.
pub const HTTP_CONNECTION_MANAGER: &str = "type.googleapis.com/\
    envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Type of the router filter.
pub const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// Type of the TCP proxy.
pub const TCP_PROXY: &str =
    "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// Type of the RPC proxy.
pub const RPC_PROXY: &str = "type.googleapis.com/outrigger.filters.network.rpc_proxy.v1.RpcProxy";

/// Type of the file access log.
pub const FILE_ACCESS_LOG: &str =
    "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";

/// Type of the listener filter that looks for TLS.
pub const TLS_INSPECTOR: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";

/// Type of the listener filter that looks for HTTP.
pub const HTTP_INSPECTOR: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";

/// Type of the listener filter that finds out where a redirected connection was meant to go.
pub const ORIGINAL_DST: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst";

/// Type of the listener filter that keeps the client's address towards upstream.
pub const ORIGINAL_SRC: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc";

/// Type of the listener filter that is told who the client is.
pub const PROXY_PROTOCOL: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";

/// Type of the gRPC-Web filter.
pub const GRPC_WEB: &str = "type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb";

/// Type of the filter that looks at SOAP requests.
pub const SOAP: &str = "type.googleapis.com/outrigger.filters.http.soap.v1.Soap";

/// Type of the filter that counts gRPC calls.
pub const GRPC_STATS: &str =
    "type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig";

/// Type of the fault filter.
pub const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";

/// Type of the CORS filter.
pub const CORS: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";

/// Type of what routes wrap a filter's configuration in.
pub const FILTER_CONFIG: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";
