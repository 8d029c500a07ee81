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

pub(super) fn address(address: std::net::SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// haproxy.cfg, for a master with workers.
pub(super) fn haproxy(setup: &Setup) -> String {
    let Setup { sides, drain, shards, connections, scratch, .. } = setup;
    let limit = connections * 2 + 1024;
    let mut text = format!(
        "global
    nbthread {shards}
    maxconn {limit}
    no strict-limits
    hard-stop-after {}s
    stats socket {}/stats mode 600 level admin expose-fd listeners

defaults
    no log
    timeout connect 5s
    timeout client {HOUR}
    timeout server {HOUR}
    timeout http-request {HOUR}
    timeout http-keep-alive {HOUR}
    http-reuse always
",
        drain.as_secs(),
        scratch.path().display()
    );
    for (tongue, Side { listen, origin }) in sides {
        let name = tongue.name();
        let (mode, version) = match tongue {
            Tongue::Tcp => ("tcp", ""),
            Tongue::Http2 => ("http", " proto h2"),
            _ => ("http", ""),
        };
        text += &format!(
            "
frontend {name}
    mode {mode}
    bind {listen} backlog 4096{version}
    maxconn {limit}
    default_backend {name}

backend {name}
    mode {mode}
    server origin {origin}{version}
"
        );
    }
    text
}

/// nginx.conf. HTTP/2 becomes HTTP/1.1, its only upstream besides gRPC.
pub(super) fn nginx(setup: &Setup, stream: &str) -> String {
    let Setup { sides, drain, shards, connections, scratch, .. } = setup;
    let directory = scratch.path().display();
    let limit = connections * 4 + 1024;
    // Started by root, workers would become another user who can't reach the directory.
    // SAFETY: takes and touches nothing.
    let user = if unsafe { libc::geteuid() } == 0 { "user root;\n" } else { "" };
    let mut http = String::new();
    let mut tcp = String::new();
    for (tongue, Side { listen, origin }) in sides {
        let name = tongue.name();
        if *tongue == Tongue::Tcp {
            tcp = format!(
                "stream {{
    server {{
        listen {listen} backlog=4096;
        proxy_timeout {HOUR};
        proxy_pass {origin};
    }}
}}
"
            );
            continue;
        }
        let version = if *tongue == Tongue::Http2 { " http2" } else { "" };
        http += &format!(
            r#"    upstream {name} {{
        server {origin};
        keepalive {connections};
        keepalive_requests {MANY};
        keepalive_timeout {HOUR};
    }}
    server {{
        listen {listen}{version} backlog=4096;
        location / {{
            proxy_pass http://{name};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_max_temp_file_size 0;
            proxy_buffers 16 32k;
        }}
    }}
"#
        );
    }
    let module = if tcp.is_empty() { String::new() } else { format!("load_module {stream};\n") };
    format!(
        r#"{module}{user}worker_processes {shards};
worker_rlimit_nofile {limit};
worker_shutdown_timeout {drain_s}s;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log error;
events {{
    worker_connections {limit};
}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    client_body_buffer_size 512k;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests {MANY};
    keepalive_timeout {HOUR};
    client_header_timeout {HOUR};
    client_max_body_size 0;
{http}}}
{tcp}"#,
        drain_s = drain.as_secs()
    )
}

/// MOSN's configuration file.
pub(super) fn mosn(setup: &Setup) -> Value {
    let directory = setup.scratch.path().display();
    let mut routers = Vec::new();
    let mut listeners = Vec::new();
    let mut clusters = Vec::new();
    for (tongue, Side { listen, origin }) in &setup.sides {
        let name = tongue.name();
        let rpc = |rpc: Rpc| {
            let service = json!([{"name": "service", "value": rpc.service()}]);
            (rpc.name(), json!({"headers": service}))
        };
        let all = json!({"prefix": "/"});
        let (protocol, matches) = match tongue {
            Tongue::Http1 => ("Http1", all),
            Tongue::Http2 => ("Http2", all),
            Tongue::Bolt => rpc(Rpc::Bolt),
            Tongue::Dubbo => rpc(Rpc::Dubbo),
            Tongue::Tcp => ("", all),
        };
        routers.push(json!({
            "router_config_name": name,
            "virtual_hosts": [{"name": name, "domains": ["*"], "routers": [{
                "match": matches,
                "route": {"cluster_name": name, "timeout": "60s"},
            }]}],
        }));
        let filter = if *tongue == Tongue::Tcp {
            json!({"type": "tcp_proxy", "config": {"cluster": name}})
        } else {
            json!({"type": "proxy", "config": {
                "downstream_protocol": protocol,
                "upstream_protocol": protocol,
                "router_config_name": name,
            }})
        };
        listeners.push(json!({
            "name": name,
            "address": listen.to_string(),
            "bind_port": true,
            "connection_idle_timeout": HOUR,
            "filter_chains": [{"filters": [filter]}],
        }));
        clusters.push(json!({
            "name": name,
            "type": "SIMPLE",
            "lb_type": "LB_ROUNDROBIN",
            "hosts": [{"address": origin.to_string()}],
        }));
    }
    json!({
        "pid": format!("{directory}/mosn.pid"),
        "servers": [{
            "default_log_path": "stdout",
            "default_log_level": "ERROR",
            "processor": setup.shards,
            "graceful_timeout": format!("{}s", setup.drain.as_secs()),
            "routers": routers,
            "listeners": listeners,
        }],
        "cluster_manager": {"clusters": clusters},
    })
}
