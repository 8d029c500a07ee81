//! `/config_dump`, `/listeners` and `/server_info`: what is being served, and by whom.

use std::time::SystemTime;

use hyper::StatusCode;
use outrigger_xds::snapshot::{Cluster, EndpointSet, Origin, TimePart};
use serde_json::{Map, Value, json};

use super::clusters::{address_json, eds_health_status};
use super::page::{Answer, Ask};
use crate::access_log::clock::Clock;

pub(super) fn config_dump(ask: &Ask<'_>) -> Answer {
    for parameter in ["resource", "mask", "name_regex"] {
        if ask.flag(parameter) {
            return Answer::bad_request(format!("{parameter}: not supported\n"));
        }
    }
    let Some((bootstrap, loaded)) = ask.state.bootstrap() else {
        return Answer::json(&json!({"configs": []}));
    };
    // Kept as text, which is a fraction of the tree's size; nobody dumps often.
    let bootstrap: Value = match serde_json::from_str(&bootstrap) {
        Ok(bootstrap) => bootstrap,
        Err(error) => {
            return Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
        }
    };
    let updated = timestamp(loaded);
    let resources = field(&bootstrap, "static_resources");
    let list = |name: &str| resources.and_then(|all| field(all, name)?.as_array());
    let clusters = list("clusters").into_iter().flatten();
    let clusters: Vec<Value> = clusters
        .map(|cluster| dumped("cluster", "envoy.config.cluster.v3.Cluster", cluster, &updated))
        .collect();
    let services: Vec<Value> = ask
        .state
        .snapshot()
        .iter()
        .flat_map(|snapshot| {
            let services =
                snapshot.clusters.iter().filter(|member| member.origin == Origin::Service);
            services
                .map(|member| service_cluster(&member.cluster, &member.endpoints))
                .collect::<Vec<_>>()
        })
        .collect();
    let listeners: Vec<Value> = list("listeners")
        .into_iter()
        .flatten()
        .map(|listener| dumped("listener", "envoy.config.listener.v3.Listener", listener, &updated))
        .collect();
    let routes: Vec<Value> = list("listeners")
        .into_iter()
        .flatten()
        .flat_map(route_configs)
        .map(|routes| {
            dumped("route_config", "envoy.config.route.v3.RouteConfiguration", routes, &updated)
        })
        .collect();
    Answer::json(&json!({"configs": [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
            "bootstrap": bootstrap,
            "last_updated": updated,
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "static_clusters": clusters,
            "dynamic_active_clusters": services,
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "static_listeners": listeners,
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
            "static_route_configs": routes,
        },
    ]}))
}

pub(super) fn listeners(ask: &Ask<'_>) -> Answer {
    let listeners = ask.state.listeners();
    match ask.parameter("format") {
        None | Some("text") => {
            let lines = listeners.iter().flat_map(|listener| {
                let name = &listener.name;
                listener.addresses.iter().map(move |address| format!("{name}::{address}\n"))
            });
            Answer::text(StatusCode::OK, lines.collect::<String>())
        }
        Some("json") => {
            let statuses: Vec<Value> = listeners
                .iter()
                .map(|listener| {
                    let mut status = Map::new();
                    status.insert("name".to_owned(), listener.name.as_str().into());
                    if let Some((first, more)) = listener.addresses.split_first() {
                        status.insert("local_address".to_owned(), address_json(first));
                        if !more.is_empty() {
                            let more = more.iter().map(address_json).collect();
                            status.insert("additional_local_addresses".to_owned(), more);
                        }
                    }
                    Value::Object(status)
                })
                .collect();
            Answer::json(&json!({ "listener_statuses": statuses }))
        }
        Some(_) => Answer::bad_request("usage: /listeners?format=(json|text)\n"),
    }
}

pub(super) fn server_info(ask: &Ask<'_>) -> Answer {
    let state = ask.state;
    let node = state.node();
    let uptime = format!("{}s", state.started().elapsed().as_secs());
    let mut options = state.process().echo.clone();
    // What runs, rather than what was asked for.
    options["concurrency"] = state.registry().shards().into();
    Answer::json(&json!({
        "version": version(),
        "state": state.lifecycle().name(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": options,
        "node": {
            "id": node.id,
            "cluster": node.cluster,
            "locality": {
                "region": node.locality.region,
                "zone": node.locality.zone,
                "sub_zone": node.locality.sub_zone,
            },
            "metadata": node.metadata,
            "user_agent_name": "outrigger",
            "user_agent_version": env!("CARGO_PKG_VERSION"),
        },
    }))
}

/// In Envoy's five parts: revision, version, status, build, TLS library.
fn version() -> String {
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    format!("outrigger/{}/Clean/{build}/none", env!("CARGO_PKG_VERSION"))
}

/// One entry of a `ConfigDump` list: the resource as an `Any`.
fn dumped(key: &str, type_name: &str, resource: &Value, updated: &str) -> Value {
    let mut any = Map::new();
    any.insert("@type".to_owned(), format!("type.googleapis.com/{type_name}").into());
    any.extend(resource.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
    json!({key: any, "last_updated": updated})
}

/// The cluster of a service, as far as it is its own; the rest is the template's.
fn service_cluster(cluster: &Cluster, endpoints: &EndpointSet) -> Value {
    let endpoints: Vec<Value> = endpoints
        .all()
        .iter()
        .map(|endpoint| {
            json!({
                "endpoint": {"address": address_json(&endpoint.address)},
                "health_status": eds_health_status(endpoint.health),
                "load_balancing_weight": endpoint.weight,
            })
        })
        .collect();
    json!({"cluster": {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": &*cluster.name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": &*cluster.name,
            "endpoints": [{"lb_endpoints": endpoints}],
        },
    }})
}

/// The route configurations inside a listener's connection managers.
fn route_configs(listener: &Value) -> Vec<&Value> {
    let chains = field(listener, "filter_chains").and_then(Value::as_array).into_iter().flatten();
    chains
        .chain(field(listener, "default_filter_chain"))
        .filter_map(|chain| field(chain, "filters")?.as_array())
        .flatten()
        .filter_map(|filter| field(field(filter, "typed_config")?, "route_config"))
        .collect()
}

/// A field by its proto name, or by the lowerCamelCase that protobuf's JSON allows as well.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).or_else(|| {
        let mut parts = name.split('_');
        let mut camel = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            camel.push_str(&part[..1].to_ascii_uppercase());
            camel.push_str(&part[1..]);
        }
        value.get(camel)
    })
}

/// RFC 3339, as protobuf writes timestamps.
fn timestamp(time: SystemTime) -> String {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wall_ns = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
    let literal = |text: &str| TimePart::Literal(text.into());
    let mut out = Vec::new();
    Clock::new().write(
        wall_ns,
        false,
        &[
            TimePart::Year,
            literal("-"),
            TimePart::Month,
            literal("-"),
            TimePart::Day,
            literal("T"),
            TimePart::Hour,
            literal(":"),
            TimePart::Minute,
            literal(":"),
            TimePart::Second,
            literal("."),
            TimePart::Fraction(3),
            literal("Z"),
        ],
        &mut out,
    );
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps_are_rfc_3339() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_223_819_134);
        assert_eq!(timestamp(time), "2026-11-21T01:16:59.134Z");
    }

    #[test]
    fn fields_have_two_spellings() {
        let value = json!({"staticResources": 1, "filter_chains": 2});
        assert_eq!(field(&value, "static_resources"), Some(&json!(1)));
        assert_eq!(field(&value, "filter_chains"), Some(&json!(2)));
        assert_eq!(field(&value, "nothing"), None);
    }
}
