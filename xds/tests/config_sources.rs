//! Sources of resources: what the bootstrap's `dynamic_resources` compile to, and what is refused
//! (contract sections 1 and 22).

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::*;
use outrigger_xds::snapshot::{ApiConfigSource, ConfigPlace, DynamicResources, RateLimit, Variant};
use serde_json::{Value, json};

fn bootstrap(dynamic: Value) -> Value {
    let mut eds = cluster("endpoints-by-eds");
    eds["type"] = json!("EDS");
    eds.as_object_mut().unwrap().remove("load_assignment");
    json!({
        "dynamic_resources": dynamic,
        "static_resources": { "clusters": [cluster("control"), cluster("spare"), eds] },
    })
}

/// A source of Istio's shape, with `changes` to it.
fn api(changes: &[(&str, Value)]) -> Value {
    let source = json!({
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{ "envoy_grpc": { "cluster_name": "control" } }],
    });
    changes.iter().fold(source, |source, (at, value)| set(&source, at, value.clone()))
}

fn ads(changes: &[(&str, Value)]) -> ApiConfigSource {
    // Only static clusters that the test refers to can be compiled today.
    let mut bootstrap = bootstrap(json!({ "ads_config": api(changes) }));
    bootstrap["static_resources"]["clusters"].as_array_mut().unwrap().truncate(2);
    (*loaded(&bootstrap).ground.dynamic_resources().ads.clone().unwrap()).clone()
}

#[track_caller]
fn refused(dynamic: Value, expected: &str) {
    assert_eq!(refusal(&bootstrap(dynamic)), format!("Bootstrap: dynamic_resources.{expected}"));
}

#[test]
fn section_1_without_dynamic_resources_there_are_none() {
    let loaded = loaded(&http());
    assert_eq!(*loaded.ground.dynamic_resources(), DynamicResources::default());
}

#[test]
fn section_1_lds_and_cds_over_the_aggregated_stream() {
    let loaded = loaded(&set(
        &bootstrap(json!({
            "lds_config": { "ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3" },
            "cds_config": { "ads": {} },
            "ads_config": api(&[]),
        })),
        "/static_resources/clusters",
        json!([cluster("control")]),
    ));
    let dynamic = loaded.ground.dynamic_resources().clone();
    let (lds, cds) = (dynamic.lds.unwrap(), dynamic.cds.unwrap());
    assert_eq!((&lds.place, &cds.place), (&ConfigPlace::Ads, &ConfigPlace::Ads));
    assert_eq!(lds.initial_fetch_timeout, None, "0 waits for ever");
    assert_eq!(cds.initial_fetch_timeout, Some(Duration::from_secs(15)));
    let ads = dynamic.ads.unwrap();
    assert_eq!(ads.variant, Variant::Delta);
    assert_eq!((ads.set_node_on_first_message_only, ads.rate_limit), (false, None));
    let service = &ads.services[0];
    assert_eq!((&*service.cluster, &*service.authority), ("control", "control"));
    assert_eq!(service.backoff, (Duration::from_millis(500), Duration::from_secs(30)));
    assert_eq!((service.timeout, service.initial_metadata.len()), (None, 0));
    assert!(service.message_bytes_max > 20 << 20, "C-11: more than 4 MiB");
}

#[test]
fn section_1_a_source_of_its_own_with_everything_set() {
    let source = ads(&[
        ("/api_type", json!("GRPC")),
        ("/set_node_on_first_message_only", json!(true)),
        ("/rate_limit_settings", json!({ "max_tokens": 7, "fill_rate": 4.0 })),
        (
            "/grpc_services/0",
            json!({
                "envoy_grpc": {
                    "cluster_name": "control",
                    "authority": "istiod.istio-system.svc",
                    "max_receive_message_length": 1_000_000,
                    "retry_policy": { "retry_back_off": { "base_interval": "0.1s" } },
                },
                "timeout": "2s",
                "initial_metadata": [{ "key": "X-Who", "value": "me, 100%%" }],
            }),
        ),
        (
            "/grpc_services/-",
            json!({
                "envoy_grpc": { "cluster_name": "spare" },
                "retry_policy": { "retry_back_off": {
                    "base_interval": "1s", "max_interval": "3s" } },
            }),
        ),
    ]);
    assert_eq!((source.variant, source.services.len()), (Variant::StateOfTheWorld, 2));
    assert!(source.set_node_on_first_message_only);
    let limit = RateLimit { max_tokens: 7, refill: Duration::from_millis(250) };
    assert_eq!(source.rate_limit, Some(limit));
    let [first, second] = &source.services[..] else { panic!("two services") };
    assert_eq!(&*first.authority, "istiod.istio-system.svc");
    assert_eq!(first.message_bytes_max, 1_000_000);
    assert_eq!(first.backoff, (Duration::from_millis(100), Duration::from_secs(1)), "ten times");
    assert_eq!(first.timeout, Some(Duration::from_secs(2)));
    assert_eq!(first.initial_metadata, [("x-who".into(), "me, 100%".into())]);
    assert_eq!(&*second.cluster, "spare");
    assert_eq!(second.backoff, (Duration::from_secs(1), Duration::from_secs(3)));
}

#[test]
fn c_13_defaults_of_rate_limit_settings() {
    let source = ads(&[("/rate_limit_settings", json!({}))]);
    let limit = RateLimit { max_tokens: 100, refill: Duration::from_millis(100) };
    assert_eq!(source.rate_limit, Some(limit));
}

#[test]
fn section_1_files() {
    let loaded = loaded(&set(
        &http(),
        "/dynamic_resources",
        json!({
            "lds_config": { "path_config_source": {
                "path": "/etc/lds.yaml", "watched_directory": { "path": "/etc" } } },
            "cds_config": { "path": "/etc/cds.yaml" },
        }),
    ));
    let paths = [
        loaded.ground.dynamic_resources().lds.clone(),
        loaded.ground.dynamic_resources().cds.clone(),
    ]
    .map(|source| {
        let ConfigPlace::Path(path) = source.unwrap().place else { panic!("not a file") };
        (path.path.clone(), path.watched_directory.clone())
    });
    let path = |path: &str| -> Box<Path> { Path::new(path).into() };
    assert_eq!(paths, [(path("/etc/lds.yaml"), Some(path("/etc"))), (path("/etc/cds.yaml"), None)]);
}

#[test]
fn section_22_the_control_planes_cluster_is_static_and_not_eds() {
    for (name, reason) in [
        ("nobody", "there is no static cluster \"nobody\""),
        ("endpoints-by-eds", "cluster \"endpoints-by-eds\" must not have its endpoints by EDS"),
    ] {
        let source = api(&[("/grpc_services/0/envoy_grpc/cluster_name", json!(name))]);
        refused(
            json!({ "ads_config": source }),
            &format!("ads_config.grpc_services[0].envoy_grpc.cluster_name: {reason}"),
        );
    }
}

#[test]
fn section_1_what_a_source_must_not_be() {
    for (at, value, expected) in [
        ("/api_type", json!("REST"), "api_type: REST is not supported"),
        ("/api_type", json!("AGGREGATED_GRPC"), "api_type: AGGREGATED_GRPC is not supported"),
        ("/transport_api_version", json!("AUTO"), "transport_api_version: AUTO is not supported"),
        ("/transport_api_version", json!("V2"), "transport_api_version: V2 is not supported"),
        ("/grpc_services", json!([]), "grpc_services: is required"),
        ("/grpc_services/0", json!({}), "grpc_services[0].target_specifier: is required"),
        (
            "/grpc_services/0",
            json!({ "google_grpc": { "target_uri": "host:1", "stat_prefix": "g" } }),
            "grpc_services[0].google_grpc: not supported: name a cluster in envoy_grpc",
        ),
        (
            "/grpc_services/0/envoy_grpc/cluster_name",
            json!(""),
            "grpc_services[0].envoy_grpc.cluster_name: is required",
        ),
        (
            "/grpc_services/0/envoy_grpc/authority",
            json!("a\r\nb"),
            "grpc_services[0].envoy_grpc.authority: must not hold CR, LF or NUL",
        ),
        (
            "/grpc_services/0/envoy_grpc/max_receive_message_length",
            json!(0),
            "grpc_services[0].envoy_grpc.max_receive_message_length: must be at least 1",
        ),
        (
            "/grpc_services/0/envoy_grpc/retry_policy",
            json!({ "num_retries": 1 }),
            "grpc_services[0].envoy_grpc.retry_policy.num_retries: not supported",
        ),
        (
            "/grpc_services/0/envoy_grpc/retry_policy",
            json!({ "retry_back_off": { "base_interval": "2s", "max_interval": "1s" } }),
            "grpc_services[0].envoy_grpc.retry_policy.retry_back_off.max_interval: must be at least \
             base_interval",
        ),
        (
            "/grpc_services/0/initial_metadata",
            json!([{ "key": "grpc-timeout", "value": "1S" }]),
            "grpc_services[0].initial_metadata[0].key: \"grpc-timeout\" is not metadata of a call",
        ),
        (
            "/grpc_services/0/initial_metadata",
            json!([{ "key": "k", "value": "%PROTOCOL%" }]),
            "grpc_services[0].initial_metadata[0].value: must be plain text",
        ),
        (
            "/rate_limit_settings",
            json!({ "fill_rate": 0 }),
            "rate_limit_settings.fill_rate: must be at least one request in a day",
        ),
        (
            "/rate_limit_settings",
            json!({ "max_tokens": 0 }),
            "rate_limit_settings.max_tokens: must be at least 1",
        ),
        ("/cluster_names", json!(["control"]), "cluster_names: not supported"),
        ("/config_validators", json!([{ "name": "v" }]), "config_validators: not supported"),
    ] {
        let source = api(&[(at, value)]);
        refused(json!({ "ads_config": source }), &format!("ads_config.{expected}"));
    }
    for (source, expected) in [
        (json!({}), "config_source_specifier: is required"),
        (json!({ "ads": {} }), "ads: needs dynamic_resources.ads_config"),
        (json!({ "self": {} }), "self: not supported: say which source it is"),
        (
            json!({ "path": "/a", "resource_api_version": "V2" }),
            "resource_api_version: V2 is not supported",
        ),
        (
            json!({ "path": "/a", "initial_fetch_timeout": "-1s" }),
            "initial_fetch_timeout: must not be negative",
        ),
        (json!({ "path_config_source": {} }), "path_config_source.path: is required"),
        (json!({ "ads": {}, "authorities": [{ "name": "a" }] }), "authorities: not supported"),
    ] {
        refused(json!({ "cds_config": source }), &format!("cds_config.{expected}"));
    }
}

#[test]
fn c_15_locators_are_refused_with_their_path() {
    for field in ["lds_resources_locator", "cds_resources_locator"] {
        let dynamic = set(&json!({}), &format!("/{field}"), json!("xdstp://host/type/name"));
        refused(dynamic, &format!("{field}: not supported"));
    }
}
