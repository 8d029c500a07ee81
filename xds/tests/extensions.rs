//! Filters that come by name: ECDS (contract section 5, `config_discovery`; xds.md W-07, T-04, V, I-08).

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "JSON is written where it is passed")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::*;
use outrigger_xds::bootstrap::Loaded;
use outrigger_xds::client::ResourceType;
use outrigger_xds::secrets::ServedSecret;
use outrigger_xds::snapshot::{
    Cluster, ConfigPlace, Extension, FilterDiscovery, FilterPlace, HttpFilterKind, Listener,
};
use outrigger_xds::store::{Host, Incoming, Interest, Outcome, Stage, Store, Watched};
use serde_json::{Value, json};

const FAULT: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";
const CORS: &str = "envoy.extensions.filters.http.cors.v3.Cors";
const GRPC_WEB: &str = "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb";
const GRPC_STATS: &str = "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig";
const STATS: &str = "stats.PluginConfig";
const EXCHANGE: &str = "envoy.tcp.metadataexchange.config.MetadataExchange";
const ECDS: ResourceType = ResourceType::ExtensionConfig;

/// A process that can do everything.
struct Willing;

impl Host for Willing {
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

/// A filter `ext` that comes over the aggregated stream, with more of its source.
fn discovered(more: Value) -> Value {
    let mut source = json!({
        "config_source": { "ads": {}, "resource_api_version": "V3" },
        "type_urls": [format!("type.googleapis.com/{FAULT}")],
    });
    source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "name": "ext", "config_discovery": source })
}

fn bootstrap(filters: &[Value]) -> Value {
    let router = json!({ "name": "router",
        "typed_config": any("envoy.extensions.filters.http.router.v3.Router") });
    let filters: Vec<Value> = filters.iter().cloned().chain([router]).collect();
    let base = set(&http(), &format!("{HCM}/http_filters"), json!(filters));
    let base = set(&base, "/static_resources/clusters/-", cluster("control"));
    let ads = json!({ "api_type": "GRPC", "transport_api_version": "V3",
        "grpc_services": [{ "envoy_grpc": { "cluster_name": "control" } }] });
    set(&base, "/dynamic_resources", json!({ "ads_config": ads }))
}

fn discovery(loaded: &Loaded) -> &FilterDiscovery {
    hcm(loaded).filters[0].discovery().unwrap()
}

fn store(filter: Value) -> Store {
    let loaded = loaded(&bootstrap(&[filter]));
    Store::new(loaded.ground, &loaded.snapshot, false)
}

/// A fault that answers all with this status.
fn fault(status: u16) -> Value {
    any_with(
        FAULT,
        json!({ "abort": { "http_status": status, "percentage": { "numerator": 100 } } }),
    )
}

fn extension(config: Value) -> Value {
    any_with(
        "envoy.config.core.v3.TypedExtensionConfig",
        json!({ "name": "ext", "typed_config": config }),
    )
}

/// As it would come from a server.
fn incoming(store: &Store, version: &str, resource: Value) -> Incoming {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("extension-{number}.json"));
    let content = json!({ "version_info": version, "resources": [resource] });
    std::fs::write(&path, content.to_string()).unwrap();
    let mut resources = store.read_file(&path).unwrap().resources;
    std::fs::remove_file(&path).unwrap();
    resources.remove(0).1
}

fn put(store: &mut Store, version: &str, config: Value) -> Result<(), String> {
    let incoming = incoming(store, version, extension(config));
    store.put(ECDS, &ConfigPlace::Ads, &incoming, &mut Willing)
}

fn found(store: &Store) -> Option<&Arc<Extension>> {
    store.snapshot().extensions.get("ext")
}

/// The status that a fault filter answers with.
fn status(kind: Option<&HttpFilterKind>) -> Option<String> {
    match kind? {
        HttpFilterKind::Fault(fault) => Some(format!("{:?}", fault.abort.as_ref().unwrap().with)),
        other => panic!("{other:?}"),
    }
}

fn asked(store: &mut Store) -> Vec<Interest> {
    let is_ecds = |interest: &Interest| {
        matches!(interest, Interest::One(ECDS, ..) | Interest::None(ECDS, ..))
    };
    store.take_interests().into_iter().filter(is_ecds).collect()
}

#[test]
fn section_5_where_a_filter_comes_from() {
    let loaded = loaded(&bootstrap(&[discovered(json!({
        "default_config": fault(418),
        "apply_default_config_without_warming": true,
    }))]));
    let found = discovery(&loaded);
    assert_eq!((&*found.key, &*found.name), ("ext", "ext"));
    assert_eq!(found.source.place, ConfigPlace::Ads);
    assert_eq!(*found.types, [Box::from(FAULT)]);
    assert!(found.is_optional && found.default.is_some());
    assert!(!hcm(&loaded).filters[0].disabled);
}

#[test]
fn section_5_what_config_discovery_must_not_be() {
    let at = format!("Listener web: {HCM_PATH}.http_filters[0].config_discovery");
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    for (more, expected) in [
        (json!({ "type_urls": [] }), ".type_urls: is required".to_owned()),
        (json!({ "config_source": null }), ".config_source: is required".to_owned()),
        (
            json!({ "type_urls": [router] }),
            ".type_urls[0]: the router cannot come by name".to_owned(),
        ),
        (
            json!({ "default_config": any(CORS) }),
            format!(".default_config: is of type {CORS}, which type_urls does not list"),
        ),
        (
            json!({ "apply_default_config_without_warming": true }),
            ".apply_default_config_without_warming: needs default_config".to_owned(),
        ),
    ] {
        assert_eq!(refusal(&bootstrap(&[discovered(more)])), format!("{at}{expected}"));
    }
    let wasm = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
    let unknown = discovered(json!({ "type_urls": [wasm] }));
    assert!(refusal(&bootstrap(std::slice::from_ref(&unknown))).contains("type_urls[0]: "));
    let filters = bootstrap(&[]);
    let behind = set(&filters, &format!("{HCM}/http_filters/-"), discovered(json!({})));
    assert!(refusal(&behind).ends_with("http_filters[1]: the router must be the last filter"));
    let router = filters.pointer(&format!("{HCM}/http_filters/0")).unwrap().clone();
    let twice = set(&filters, &format!("{HCM}/http_filters/-"), router);
    assert!(refusal(&twice).ends_with("http_filters[1]: the router must be the last filter"));
    // U-06: it is left out where it may be.
    let optional = set(&unknown, "/is_optional", json!(true));
    assert!(hcm(&loaded(&bootstrap(&[optional]))).filters.is_empty());
}

#[test]
fn w_07_a_listener_waits_for_its_filters() {
    let mut store = store(discovered(json!({})));
    assert_eq!(store.cold(), ["listener web: filter ext"]);
    assert_eq!(store.listener_counts(), (0, 1));
    let [Interest::One(_, source, name)] = &asked(&mut store)[..] else { panic!() };
    assert_eq!((&source.place, &**name), (&ConfigPlace::Ads, "ext"));
    put(&mut store, "1", fault(418)).unwrap();
    assert_eq!(store.listener_counts(), (1, 0));
    assert!(found(&store).unwrap().exists);
    let own = || Watched::Extension(FilterPlace::Http, "ext".into());
    assert_eq!(store.take_outcomes(), [(own(), Outcome::Asked), (own(), Outcome::Accepted)]);
}

#[test]
fn w_07_a_default_may_serve_at_once_or_when_nothing_comes() {
    let at_once =
        json!({ "default_config": fault(418), "apply_default_config_without_warming": true });
    assert_eq!(store(discovered(at_once)).listener_counts(), (1, 0));

    let later = discovered(json!({ "default_config": fault(418) }));
    let filters = loaded(&bootstrap(std::slice::from_ref(&later)));
    let mut store = store(later);
    assert_eq!(store.listener_counts(), (0, 1));
    store.never_came(ECDS, &ConfigPlace::Ads, "ext");
    assert_eq!(store.listener_counts(), (1, 0));
    let resolved = |store: &Store| status(discovery(&filters).http(found(store).map(|it| &**it)));
    assert_eq!(resolved(&store), status(discovery(&filters).http(None)));
    // What comes after all serves, until a server takes it away (T-04).
    put(&mut store, "1", fault(503)).unwrap();
    assert!(resolved(&store).unwrap().contains("503"));
    store.remove(ECDS, &ConfigPlace::Ads, "ext");
    assert!(resolved(&store).unwrap().contains("418"));
}

#[test]
fn t_04_without_a_default_what_is_taken_away_stays() {
    let filter = discovered(json!({}));
    let filters = loaded(&bootstrap(std::slice::from_ref(&filter)));
    assert!(discovery(&filters).http(None).is_none());
    let mut store = store(filter);
    put(&mut store, "1", fault(503)).unwrap();
    store.absent(ECDS, &ConfigPlace::Ads, "ext");
    let left = found(&store).unwrap();
    assert!(!left.exists);
    assert!(status(discovery(&filters).http(Some(left))).unwrap().contains("503"));
    // The same again is no repetition.
    put(&mut store, "1", fault(503)).unwrap();
    assert!(found(&store).unwrap().exists);
}

#[test]
fn v_03_a_refused_configuration_leaves_the_last() {
    let mut store = store(discovered(json!({})));
    put(&mut store, "1", fault(418)).unwrap();
    let before = Arc::clone(found(&store).unwrap());
    let abort = json!({ "abort": { "http_status": 100, "percentage": {} } });
    let wrong = any_with(FAULT, abort);
    assert!(put(&mut store, "2", wrong).unwrap_err().starts_with("typed_config(HTTPFault).abort"));
    assert_eq!(
        put(&mut store, "3", any(CORS)).unwrap_err(),
        format!("typed_config: is of type {CORS}, which type_urls of listener web does not list")
    );
    let unknown = any("envoy.extensions.filters.http.wasm.v3.Wasm");
    assert!(put(&mut store, "4", unknown).unwrap_err().contains("Wasm"));
    assert!(Arc::ptr_eq(found(&store).unwrap(), &before));
    let (_, shown) = store.extensions().next().unwrap();
    assert_eq!((shown.stage, &*shown.error.unwrap().version), (Stage::Active, "4"));
    // V-08: another version of the same content changes nothing.
    put(&mut store, "5", fault(418)).unwrap();
    assert!(Arc::ptr_eq(found(&store).unwrap(), &before));
    assert!(store.extensions().next().unwrap().1.error.is_none());
}

#[test]
fn i_08_a_filter_that_nobody_names_is_dropped() {
    let mut store = store(discovered(json!({})));
    put(&mut store, "1", fault(418)).unwrap();
    asked(&mut store);
    let mut second = bootstrap(&[set(&discovered(json!({})), "/name", json!("other"))])
        ["static_resources"]["listeners"][0]
        .clone();
    second["name"] = "second".into();
    second["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
    let listener = incoming(&store, "1", second.clone());
    store.put(ResourceType::Listener, &ConfigPlace::Ads, &listener, &mut Willing).unwrap();
    assert!(matches!(&asked(&mut store)[..], [Interest::One(_, _, name)] if **name == *"other"));
    // A listener that would use a filter as what it is known not to be is refused.
    let filters = "/filter_chains/0/filters/0/typed_config/http_filters/0";
    let cors = format!("type.googleapis.com/{CORS}");
    let wrong = set(&second, filters, discovered(json!({ "type_urls": [cors] })));
    let wrong = incoming(&store, "2", wrong);
    assert_eq!(
        store.put(ResourceType::Listener, &ConfigPlace::Ads, &wrong, &mut Willing).unwrap_err(),
        format!("filter ext: is of type {FAULT}, which type_urls does not list")
    );
    store.remove(ResourceType::Listener, &ConfigPlace::Ads, "second");
    assert!(matches!(&asked(&mut store)[..], [Interest::None(_, _, name)] if **name == *"other"));
    assert_eq!(store.extensions().count(), 1);
}

/// A listener of TCP that has these filters in front of the proxy.
fn tcp_with(filters: &[Value]) -> Value {
    let proxy = tcp().pointer(&format!("{CHAIN}/filters/0")).unwrap().clone();
    let filters: Vec<Value> = filters.iter().cloned().chain([proxy]).collect();
    let with_ads = bootstrap(&[]);
    let with_ads = set(&with_ads, &format!("{CHAIN}/filters"), json!(filters));
    set(&with_ads, &format!("{CHAIN}/name"), json!("tcp"))
}

fn in_front(types: &[&str], more: Value) -> Value {
    let urls: Vec<String> =
        types.iter().map(|kind| format!("type.googleapis.com/{kind}")).collect();
    let mut filter = discovered(json!({ "type_urls": urls }));
    let source = filter["config_discovery"].as_object_mut().unwrap();
    source.extend(more.as_object().unwrap().clone());
    filter
}

/// Metrics of Istio that leave out this one.
fn stats_without(metric: &str) -> Value {
    any_with(STATS, json!({ "metrics": [{ "name": metric, "drop": true }] }))
}

#[test]
fn section_3_filters_in_front_of_the_last_come_by_name() {
    let loaded = loaded(&tcp_with(&[in_front(&[STATS, EXCHANGE], json!({}))]));
    let listener = Arc::clone(&loaded.snapshot.listeners[0]);
    let chain = listener.filter_chains.iter().next().unwrap();
    assert_eq!(chain.discovered[0].place, FilterPlace::Network);
    let mut store = Store::new(loaded.ground, &loaded.snapshot, false);
    assert_eq!(store.cold(), ["listener web: filter ext"]);
    assert!(chain.lacks_filter(&store.snapshot().extensions));
    put(&mut store, "1", stats_without("tcp_sent_bytes_total")).unwrap();
    assert_eq!(store.listener_counts(), (1, 0));
    let own = || Watched::Extension(FilterPlace::Network, "ext".into());
    assert_eq!(store.take_outcomes(), [(own(), Outcome::Asked), (own(), Outcome::Accepted)]);
    let dropped = |store: &Store| {
        let stats = chain.istio_stats(&store.snapshot().extensions)?;
        stats.overrides[0].metric.as_deref().map(str::to_owned)
    };
    assert!(!chain.lacks_filter(&store.snapshot().extensions));
    assert_eq!(dropped(&store).as_deref(), Some("tcp_sent_bytes_total"));
    // Another one changes no listener; one of a wrong type, nothing at all.
    put(&mut store, "2", stats_without("tcp_received_bytes_total")).unwrap();
    assert_eq!(store.counts().listeners_modified, 0);
    assert_eq!(
        put(&mut store, "3", any(CORS)).unwrap_err(),
        format!("typed_config: is of type {CORS}, which type_urls of listener web does not list")
    );
    assert_eq!(dropped(&store).as_deref(), Some("tcp_received_bytes_total"));
    // One that does nothing is there as well.
    put(&mut store, "4", any(EXCHANGE)).unwrap();
    assert!(dropped(&store).is_none() && !chain.lacks_filter(&store.snapshot().extensions));
}

#[test]
fn section_3_what_stands_in_front_by_name_is_no_last_filter_and_counts_once() {
    let at = "Listener web: filter_chains[0].filters[0].config_discovery";
    let proxy = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    assert_eq!(
        refusal(&tcp_with(&[in_front(&[proxy], json!({}))])),
        format!("{at}.type_urls[0]: a terminal filter cannot come by name")
    );
    // What only HTTP has.
    let cors = refusal(&tcp_with(&[in_front(&[CORS], json!({}))]));
    assert!(cors.starts_with(&format!("{at}.type_urls[0]: ")), "{cors}");
    let last = set(&http(), &format!("{CHAIN}/filters"), json!([in_front(&[STATS], json!({}))]));
    assert_eq!(refusal(&last), format!("{at}: a terminal filter cannot come by name"));
    let inline = json!({ "name": "stats", "typed_config": any(STATS) });
    let default = in_front(&[STATS], json!({ "default_config": any(STATS) }));
    assert_eq!(
        refusal(&tcp_with(&[default, inline.clone()])),
        "Listener web: filter_chains[0].filters[1]: is there twice"
    );
    let loaded = loaded(&tcp_with(&[in_front(&[STATS, EXCHANGE], json!({})), inline]));
    let mut store = Store::new(loaded.ground, &loaded.snapshot, false);
    assert_eq!(
        put(&mut store, "1", any(STATS)).unwrap_err(),
        "typed_config: with it, a filter chain of listener web has istio.stats twice"
    );
    put(&mut store, "2", any(EXCHANGE)).unwrap();
}

#[test]
fn section_5_what_comes_by_name_stands_where_it_may() {
    let urls: Vec<String> =
        [GRPC_WEB, GRPC_STATS].iter().map(|kind| format!("type.googleapis.com/{kind}")).collect();
    let named = |name: &str, more: Value| {
        let mut filter = set(&discovered(json!({ "type_urls": urls })), "/name", json!(name));
        let source = filter["config_discovery"].as_object_mut().unwrap();
        source.extend(more.as_object().unwrap().clone());
        filter
    };
    let web = json!({ "name": "web", "typed_config": any(GRPC_WEB) });
    let start = |filters: &[Value]| {
        let loaded = loaded(&bootstrap(filters));
        Store::new(loaded.ground, &loaded.snapshot, false)
    };
    // One that came, beside one of the listener's own.
    let mut store = start(&[named("ext", json!({})), web.clone()]);
    assert_eq!(
        put(&mut store, "1", any(GRPC_WEB)).unwrap_err(),
        "typed_config: with it, filter web of listener web is there twice"
    );
    assert_eq!(
        put(&mut store, "2", any(GRPC_STATS)).unwrap_err(),
        "typed_config: with it, filter web of listener web must stand before grpc_stats"
    );
    let mut store = start(&[web.clone(), named("ext", json!({}))]);
    put(&mut store, "1", any(GRPC_STATS)).unwrap();
    // One that is switched off is not there, and two that came are two.
    let off = set(&web, "/disabled", json!(true));
    let mut store = start(&[off, named("ext", json!({})), named("other", json!({}))]);
    put(&mut store, "1", any(GRPC_WEB)).unwrap();
    let other = set(&extension(any(GRPC_WEB)), "/name", json!("other"));
    let other = incoming(&store, "1", other);
    assert_eq!(
        store.put(ECDS, &ConfigPlace::Ads, &other, &mut Willing).unwrap_err(),
        "typed_config: with it, filter other of listener web is there twice"
    );
    // The same when the listener comes after them.
    let mut second =
        bootstrap(&[web.clone(), named("ext", json!({}))])["static_resources"]["listeners"][0]
            .clone();
    second["name"] = "second".into();
    second["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
    let listener = incoming(&store, "1", second);
    assert_eq!(
        store.put(ResourceType::Listener, &ConfigPlace::Ads, &listener, &mut Willing).unwrap_err(),
        "filter ext: is there twice"
    );
    // A default is what a filter is at first.
    let default = json!({ "default_config": any(GRPC_WEB) });
    assert_eq!(
        refusal(&bootstrap(&[named("ext", default), web])),
        format!("Listener web: {HCM_PATH}.http_filters[1]: is there twice")
    );
}

#[test]
fn section_5_whatever_a_listener_may_hold_comes_by_name() {
    let kinds = [
        (FAULT, json!({})),
        (CORS, json!({})),
        (GRPC_WEB, json!({})),
        (GRPC_STATS, json!({})),
        ("outrigger.filters.http.soap.v1.Soap", json!({})),
        ("io.istio.http.peer_metadata.Config", json!({})),
        ("istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig", json!({})),
        (STATS, json!({})),
    ];
    let urls: Vec<String> =
        kinds.iter().map(|(kind, _)| format!("type.googleapis.com/{kind}")).collect();
    let mut store = store(discovered(json!({ "type_urls": urls })));
    for (version, (kind, fields)) in kinds.into_iter().enumerate() {
        put(&mut store, &version.to_string(), any_with(kind, fields.clone())).unwrap();
        let holder = json!({ "type_url": format!("type.googleapis.com/{kind}"), "value": fields });
        let wrapped = any_with("xds.type.v3.TypedStruct", holder);
        put(&mut store, &format!("{version}b"), wrapped).unwrap();
        assert!(found(&store).unwrap().last.is_some());
    }
}
