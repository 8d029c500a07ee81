//! What a sidecar of Istio is given by default is accepted (xds.md B3, B8, B9, B11 and B12).
//!
//! The resources in `data/istio` have the shapes of a pilot's: a bootstrap, clusters and their endpoints,
//! listeners, and routes. They refer to each other by discovery; a static file has no discovery, so that
//! these references are replaced here by what they lead to.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use common::*;
use outrigger_xds::bootstrap::{LoadError, LoadOptions};
use serde_json::{Value, json};

/// What users' own rules, and servers outside of the mesh, add. It is refused still, and left out here.
const NOT_BY_DEFAULT: [&str; 4] =
    ["hash_policy", "outlier_detection", "request_mirror_policies", "typed_dns_resolver_config"];

#[test]
fn b_3_the_bootstrap_is_accepted() {
    let mut bootstrap = data(include_str!("data/istio/bootstrap.json"));
    // Delivery is no part of a static file.
    bootstrap.as_object_mut().unwrap().remove("dynamic_resources");
    accepted(&[bootstrap]);
}

#[test]
fn b_11_clusters_are_accepted() {
    let clusters = items(include_str!("data/istio/clusters.json"));
    accepted(
        &clusters
            .iter()
            .map(|cluster| with_clusters(vec![static_cluster(cluster)]))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn b_8_and_b_9_listeners_are_accepted() {
    let listeners = items(include_str!("data/istio/listeners.json"));
    let bootstraps = listeners.iter().map(|listener| {
        let mut bootstrap = with_clusters(all_clusters());
        bootstrap["static_resources"]["listeners"] = json!([static_listener(listener)]);
        bootstrap
    });
    accepted(&bootstraps.collect::<Vec<_>>());
}

#[test]
fn b_12_routes_are_accepted() {
    let routes = items(include_str!("data/istio/routes.json"));
    let bootstraps = routes.iter().map(|table| {
        let mut bootstrap = set(&http(), TABLE, table.clone());
        let around = with_clusters(all_clusters());
        for part in ["clusters", "secrets"] {
            bootstrap["static_resources"][part] = around["static_resources"][part].clone();
        }
        // Filters that routes configure.
        let names = ["fault.v3.HTTPFault", "cors.v3.Cors"];
        let filters = names.map(|kind| {
            let name = format!("envoy.filters.http.{}", kind.split('.').next().unwrap());
            json!({ "name": name, "typed_config": any(&format!("envoy.extensions.filters.http.{kind}")) })
        });
        let list = bootstrap.pointer_mut(&format!("{HCM}/http_filters")).unwrap();
        for filter in filters {
            list.as_array_mut().unwrap().insert(0, filter);
        }
        bootstrap
    });
    accepted(&bootstraps.collect::<Vec<_>>());
}

#[test]
fn all_of_it_together_is_one_configuration() {
    let mut bootstrap = data(include_str!("data/istio/bootstrap.json"));
    bootstrap.as_object_mut().unwrap().remove("dynamic_resources");
    let resources = &mut bootstrap["static_resources"];
    let listeners = items(include_str!("data/istio/listeners.json"));
    let more = listeners.iter().map(static_listener);
    resources["listeners"].as_array_mut().unwrap().extend(more);
    resources["clusters"].as_array_mut().unwrap().extend(all_clusters());
    resources["secrets"] = secrets();
    accepted(&[bootstrap]);
}

/// Loads each, and complains of every refusal.
#[track_caller]
fn accepted(bootstraps: &[Value]) {
    let options = LoadOptions { allow_unknown_static_fields: true, ..LoadOptions::default() };
    let mut refused = Vec::new();
    for bootstrap in bootstraps {
        match load_with(bootstrap, &options) {
            Ok(_) => {}
            Err(error @ LoadError::Faults(_)) => {
                refused.extend(without_places(&error).lines().map(str::to_owned));
            }
            Err(error) => panic!("{error}"),
        }
    }
    refused.sort();
    refused.dedup();
    assert!(refused.is_empty(), "refused:\n{}", refused.join("\n"));
}

fn data(text: &str) -> Value {
    let mut data = serde_json::from_str(text).unwrap();
    visit(&mut data, &mut |members| {
        members.retain(|name, _| !NOT_BY_DEFAULT.contains(&&**name));
    });
    data
}

fn items(text: &str) -> Vec<Value> {
    data(text).as_array().unwrap().clone()
}

fn with_clusters(clusters: Vec<Value>) -> Value {
    json!({ "static_resources": { "clusters": clusters, "secrets": secrets() } })
}

fn all_clusters() -> Vec<Value> {
    items(include_str!("data/istio/clusters.json")).iter().map(static_cluster).collect()
}

/// The secrets that the agent would serve.
fn secrets() -> Value {
    let roots = json!({ "trusted_ca": { "inline_string": "roots" } });
    json!([
        { "name": "default", "tls_certificate": {
            "certificate_chain": { "inline_string": "chain" },
            "private_key": { "inline_string": "key" },
        } },
        { "name": "ROOTCA", "validation_context": roots },
        { "name": "file-root:system", "validation_context": roots },
    ])
}

/// A cluster with the endpoints that EDS would bring.
fn static_cluster(cluster: &Value) -> Value {
    let mut cluster = without_sds(cluster);
    let members = cluster.as_object_mut().unwrap();
    if let Some(eds) = members.remove("eds_cluster_config") {
        let endpoints = items(include_str!("data/istio/endpoints.json"));
        let named = endpoints.into_iter().find(|one| one["cluster_name"] == eds["service_name"]);
        members.insert("load_assignment".to_owned(), named.unwrap());
        members.insert("type".to_owned(), json!("STATIC"));
    }
    cluster
}

/// A listener with the routes that RDS would bring.
fn static_listener(listener: &Value) -> Value {
    let mut listener = without_sds(listener);
    let tables = items(include_str!("data/istio/routes.json"));
    visit(&mut listener, &mut |members| {
        if let Some(rds) = members.remove("rds") {
            let table = tables.iter().find(|table| table["name"] == rds["route_config_name"]);
            members.insert("route_config".to_owned(), table.unwrap().clone());
        }
    });
    listener
}

/// With references to secrets by name only.
fn without_sds(resource: &Value) -> Value {
    let mut resource = resource.clone();
    visit(&mut resource, &mut |members| {
        members.remove("sds_config");
    });
    resource
}

fn visit(value: &mut Value, change: &mut impl FnMut(&mut serde_json::Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            change(members);
            members.values_mut().for_each(|value| visit(value, change));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| visit(item, change)),
        _ => {}
    }
}
