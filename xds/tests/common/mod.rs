//! A bootstrap to start from, and changes to it by JSON pointer.

#![allow(dead_code, reason = "every test binary uses a part")]

use std::sync::Arc;

use outrigger_xds::bootstrap::{LoadError, LoadOptions, Loaded, Source, load};
use outrigger_xds::secrets::ServedSecret;
use outrigger_xds::snapshot::{
    Cluster, Forward, HttpConnectionManager, Listener, Route, RouteAction, RouteSource, RouteTable,
    TcpProxy, Terminal,
};
use outrigger_xds::source::Format;
use outrigger_xds::store::Host;
use serde_json::{Value, json};

pub(crate) const LISTENER: &str = "/static_resources/listeners/0";
pub(crate) const CHAIN: &str = "/static_resources/listeners/0/filter_chains/0";
pub(crate) const HCM: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
pub(crate) const TCP: &str = HCM;
pub(crate) const TABLE: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config";
pub(crate) const HOST: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0";
pub(crate) const ROUTE: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/0";
pub(crate) const ACTION: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/0/route";
pub(crate) const CLUSTER: &str = "/static_resources/clusters/0";

/// Where things are, as messages name them.
pub(crate) const HCM_PATH: &str = "filter_chains[0].filters[0].typed_config(HttpConnectionManager)";

pub(crate) fn any(kind: &str) -> Value {
    json!({ "@type": format!("type.googleapis.com/{kind}") })
}

pub(crate) fn any_with(kind: &str, fields: Value) -> Value {
    let mut any = any(kind);
    let Value::Object(fields) = fields else { panic!("{fields}") };
    any.as_object_mut().unwrap().extend(fields);
    any
}

/// One HTTP listener called `web`, one route to the one cluster `app`.
pub(crate) fn http() -> Value {
    json!({ "static_resources": {
        "listeners": [{
            "name": "web",
            "address": { "socket_address": { "address": "127.0.0.1", "port_value": 8080 } },
            "filter_chains": [{ "filters": [{
                "name": "http",
                "typed_config": any_with("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", json!({
                    "stat_prefix": "web",
                    "route_config": { "name": "r", "virtual_hosts": [{
                        "name": "all", "domains": ["*"],
                        "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "app" } }],
                    }]},
                    "http_filters": [{
                        "name": "router",
                        "typed_config": any("envoy.extensions.filters.http.router.v3.Router"),
                    }],
                })),
            }]}],
        }],
        "clusters": [cluster("app")],
    }})
}

/// The listener `web` with the routes `t` from the aggregated stream, which is spoken so.
pub(crate) fn with_rds(api_type: &str) -> Value {
    let mut bootstrap = http();
    bootstrap["dynamic_resources"] = json!({"ads_config": {
        "api_type": api_type, "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "app"}}],
    }});
    let manager = bootstrap.pointer_mut(HCM).unwrap().as_object_mut().unwrap();
    manager.remove("route_config");
    manager.insert("rds".to_owned(), json!({"route_config_name": "t", "config_source": ads()}));
    bootstrap
}

/// The aggregated stream, as a source of configuration.
pub(crate) fn ads() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}

/// One TCP listener called `tcp` to the cluster `app`.
pub(crate) fn tcp() -> Value {
    set(
        &http(),
        HCM,
        any_with(
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            json!({ "stat_prefix": "tcp", "cluster": "app" }),
        ),
    )
}

pub(crate) fn cluster(name: &str) -> Value {
    json!({
        "name": name,
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": {
                "socket_address": { "address": "127.0.0.1", "port_value": 9000 } } } },
        ]}]},
    })
}

/// A copy with `value` at `pointer`; objects on the way are made, `-` appends to a list.
pub(crate) fn set(base: &Value, pointer: &str, value: Value) -> Value {
    let mut copy = base.clone();
    let mut at = &mut copy;
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/");
        at = match at {
            Value::Array(items) => {
                if part == "-" {
                    items.push(Value::Null);
                }
                let index = part.parse().unwrap_or(items.len() - 1);
                &mut items[index]
            }
            Value::Object(members) => members.entry(part).or_insert(json!({})),
            _ => panic!("{pointer}: {part} is in no object"),
        };
    }
    *at = value;
    copy
}

pub(crate) fn load_json(bootstrap: &Value) -> Result<Loaded, LoadError> {
    load_with(bootstrap, &LoadOptions::default())
}

pub(crate) fn load_with(bootstrap: &Value, options: &LoadOptions) -> Result<Loaded, LoadError> {
    load(&Source::text("test", bootstrap.to_string(), Format::Json), options)
}

pub(crate) fn load_yaml(text: &str) -> Result<Loaded, LoadError> {
    load(&Source::text("test.yaml", text, Format::Yaml), &LoadOptions::default())
}

#[track_caller]
pub(crate) fn loaded(bootstrap: &Value) -> Loaded {
    load_json(bootstrap).unwrap_or_else(|error| panic!("{error}"))
}

/// The complaint without its place in the text.
#[track_caller]
pub(crate) fn refusal(bootstrap: &Value) -> String {
    match load_json(bootstrap) {
        Err(error) => without_places(&error),
        Ok(_) => panic!("was not refused"),
    }
}

pub(crate) fn without_places(error: &LoadError) -> String {
    match error {
        LoadError::Faults(faults) => {
            let faults = faults.iter().cloned().map(|mut fault| {
                fault.position = None;
                fault.to_string()
            });
            faults.collect::<Vec<_>>().join("\n")
        }
        error => error.to_string(),
    }
}

pub(crate) fn listener(loaded: &Loaded) -> &Listener {
    &loaded.snapshot.listeners[0]
}

#[track_caller]
pub(crate) fn hcm(loaded: &Loaded) -> &HttpConnectionManager {
    match &listener(loaded).filter_chains.iter().next().unwrap().terminal {
        Terminal::Http(hcm) => hcm,
        _ => panic!("not HTTP"),
    }
}

#[track_caller]
pub(crate) fn tcp_proxy(loaded: &Loaded) -> &TcpProxy {
    match &listener(loaded).filter_chains.iter().next().unwrap().terminal {
        Terminal::Tcp(tcp) => tcp,
        _ => panic!("not TCP"),
    }
}

#[track_caller]
pub(crate) fn table(hcm: &HttpConnectionManager) -> &Arc<RouteTable> {
    match &hcm.routes {
        RouteSource::Inline(table) => table,
        RouteSource::Rds(rds) => panic!("routes come by RDS: {rds:?}"),
        RouteSource::Scoped(scoped) => panic!("routes are scoped: {scoped:?}"),
    }
}

#[track_caller]
pub(crate) fn route(loaded: &Loaded) -> &Route {
    table(hcm(loaded)).routes()[0]
}

#[track_caller]
pub(crate) fn forward(loaded: &Loaded) -> &Forward {
    match &route(loaded).action {
        RouteAction::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn first_cluster(loaded: &Loaded) -> &Cluster {
    &loaded.snapshot.clusters.iter().next().unwrap().cluster
}

/// What the process has, and nothing is wrong with.
pub(crate) struct Nothing;

impl Host for Nothing {
    fn prepare_listener(&mut self, _: &Arc<Listener>) -> Result<(), String> {
        Ok(())
    }

    fn prepare_cluster(&mut self, _: &Arc<Cluster>) -> Result<(), String> {
        Ok(())
    }

    fn prepare_secret(&mut self, _: &str, _: &Arc<ServedSecret>) -> Result<(), String> {
        Ok(())
    }
}
