//! Configurations with a listener and an origin for each protocol. What is off, and what is out of the
//! way, is as in [`crate::target::config`]: nothing that a proxy limits by default is met.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    report::Tongue,
    subject::{Setup, Side},
};
use crate::rpc::Rpc;

/// What is out of the way.
const HOUR: &str = "3600s";
const MANY: u32 = 1_000_000;

/// Outrigger's bootstrap: Envoy's with RPC, and the section that only it has.
pub(super) fn outrigger(setup: &Setup, socket: &Path) -> Value {
    let mut bootstrap = envoy(setup);
    bootstrap["engine"] = json!({"shards": setup.shards, "upgrade": {"socket": socket}});
    bootstrap
}

/// An Envoy v3 bootstrap, without an admin interface.
pub(super) fn envoy(setup: &Setup) -> Value {
    let sides = setup.sides.iter();
    let listeners: Vec<Value> =
        sides.clone().map(|(tongue, side)| listener(*tongue, *side)).collect();
    let clusters: Vec<Value> = sides.map(|(tongue, side)| cluster(*tongue, *side)).collect();
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

fn listener(tongue: Tongue, side: Side) -> Value {
    let name = tongue.name();
    json!({
        "name": name,
        "address": address(side.listen),
        "filter_chains": [{"filters": [{"name": name, "typed_config": filter(tongue)}]}],
    })
}

fn filter(tongue: Tongue) -> Value {
    let name = tongue.name();
    let http = |codec| {
        json!({
            "@type": format!("{FILTERS}.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": name,
            "codec_type": codec,
            "generate_request_id": false,
            "route_config": {"name": "all", "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{
                    "match": {"prefix": "/"},
                    "route": {"cluster": name, "timeout": "60s"},
                }],
            }]},
            "http_filters": [{
                "name": "router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    "dynamic_stats": false,
                },
            }],
        })
    };
    let rpc = |rpc: Rpc| {
        let mut filter = json!({
            "@type":
                "type.googleapis.com/outrigger.filters.network.rpc_proxy.v1.RpcProxy",
            "stat_prefix": name,
            "idle_timeout": HOUR,
            "route_config": {"name": "all", "routes": [{
                "match": {"service": {"exact": rpc.service()}},
                "route": {"cluster": name, "timeout": "60s"},
            }]},
        });
        filter[rpc.name()] = json!({});
        filter
    };
    match tongue {
        Tongue::Http1 => http("HTTP1"),
        Tongue::Http2 => http("HTTP2"),
        Tongue::Bolt => rpc(Rpc::Bolt),
        Tongue::Dubbo => rpc(Rpc::Dubbo),
        Tongue::Tcp => json!({
            "@type": format!("{FILTERS}.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": name,
            "cluster": name,
            "idle_timeout": HOUR,
        }),
    }
}

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.network";

fn cluster(tongue: Tongue, side: Side) -> Value {
    let name = tongue.name();
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": MANY,
            "max_pending_requests": MANY,
            "max_requests": MANY,
        }]},
        "load_assignment": {"cluster_name": name, "endpoints": [{
            "lb_endpoints": [{"endpoint": {"address": address(side.origin)}}],
        }]},
    });
    if tongue == Tongue::Http2 {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type":
                    "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    cluster
}

fn address(address: std::net::SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}
