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
    Cluster, ConfigPlace, FilterChain, FilterConfig, FilterDiscovery, FilterPlace, HttpFilterKind,
    Listener, Terminal,
};
use outrigger_xds::store::{
    Host, Incoming, Interest, ListenerChange, Outcome, Stage, Store, Watched,
};
use serde_json::{Value, json};

const FAULT: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";
const CORS: &str = "envoy.extensions.filters.http.cors.v3.Cors";
const GRPC_WEB: &str = "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb";
const GRPC_STATS: &str = "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig";
const STATS: &str = "stats.PluginConfig";
const EXCHANGE: &str = "envoy.tcp.metadataexchange.config.MetadataExchange";
const ECDS: ResourceType = ResourceType::ExtensionConfig;

/// A process that can do everything, but for listeners of this name.
struct Unable(&'static str);

/// One that can do everything.
fn willing() -> Unable {
    Unable("")
}

impl Host for Unable {
    fn prepare_listener(&mut self, listener: &Arc<Listener>) -> Result<(), String> {
        if *listener.name == *self.0 { Err("access_log: no".to_owned()) } else { Ok(()) }
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
    store.put(ECDS, &ConfigPlace::Ads, &incoming, &mut willing())
}

fn found(store: &Store) -> Option<&Arc<FilterConfig>> {
    store.snapshot().extensions.get("ext")?.as_ref()
}

/// The status that a fault filter answers with.
fn status(kind: Option<&HttpFilterKind>) -> Option<String> {
    match kind? {
        HttpFilterKind::Fault(fault) => Some(format!("{:?}", fault.abort.as_ref().unwrap().with)),
        other => panic!("{other:?}"),
    }
}

/// A listener `second` with what the bootstrap's has, as a server sends it.
fn second(base: &Value) -> Value {
    let mut second = base["static_resources"]["listeners"][0].clone();
    second["name"] = "second".into();
    second["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
    second
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
    assert!(found(&store).is_some());
    let own = || Watched::Extension(FilterPlace::Http, "ext".into());
    assert_eq!(
        store.take_outcomes(),
        [Outcome::Asked, Outcome::Reloaded, Outcome::Accepted].map(|it| (own(), it))
    );
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
fn t_04_without_a_default_nothing_is_left_of_what_is_taken_away() {
    let filter = discovered(json!({}));
    let filters = loaded(&bootstrap(std::slice::from_ref(&filter)));
    let mut store = store(filter);
    put(&mut store, "1", fault(503)).unwrap();
    store.take_outcomes();
    store.remove(ECDS, &ConfigPlace::Ads, "ext");
    assert!(discovery(&filters).http(found(&store).map(|it| &**it)).is_none());
    // The listener goes on: it is its requests that get no further.
    assert_eq!(store.listener_counts(), (1, 0));
    let own = Watched::Extension(FilterPlace::Http, "ext".into());
    assert_eq!(store.take_outcomes(), [(own, Outcome::Reloaded)]);
    // To say it again says nothing, and the same filter again is no repetition.
    store.remove(ECDS, &ConfigPlace::Ads, "ext");
    assert_eq!(store.take_outcomes(), []);
    put(&mut store, "1", fault(503)).unwrap();
    let again = discovery(&filters).http(found(&store).map(|it| &**it));
    assert!(status(again).unwrap().contains("503"));
}

#[test]
fn v_03_a_listener_that_does_not_list_the_type_has_its_default_or_nothing() {
    let mut store = store(discovered(json!({})));
    put(&mut store, "1", fault(418)).unwrap();
    for (version, default) in [("1", None), ("2", Some(any(CORS)))] {
        let mut filter =
            discovered(json!({ "type_urls": [format!("type.googleapis.com/{CORS}")] }));
        if let Some(default) = &default {
            filter["config_discovery"]["default_config"] = default.clone();
        }
        store.take_outcomes();
        let listener = incoming(&store, version, second(&bootstrap(&[filter])));
        store.put(ResourceType::Listener, &ConfigPlace::Ads, &listener, &mut willing()).unwrap();
        assert_eq!(store.listener_counts(), (2, 0));
        let served = &store.snapshot().listeners;
        let filters = [&served[0], &served[1]].map(|listener| {
            let managers = listener.managers();
            let wanted = managers[0].filters[0].discovery().unwrap();
            let kind = wanted.http(wanted.known(&store.snapshot().extensions));
            kind.map(|kind| matches!(kind, HttpFilterKind::Cors))
        });
        assert_eq!(filters, [Some(false), default.map(|_| true)]);
        // It is counted, told and shown.
        let own = Watched::Extension(FilterPlace::Http, "ext".into());
        assert_eq!(store.take_outcomes(), [(own, Outcome::Conflicts)]);
        let text = format!("is of type {FAULT}, which type_urls of listener second does not list");
        assert!(store.take_remarks().iter().any(|remark| remark.contains(&text)));
        let (_, shown) = store.extensions().next().unwrap();
        assert!(shown.error.unwrap().text.starts_with(&text));
    }
    // What one of the two lists alone is refused, whichever it is.
    for wrong in [fault(503), any(CORS)] {
        assert!(put(&mut store, "2", wrong).unwrap_err().contains("does not list"));
    }
    // It ends with the listener that says so.
    store.remove(ResourceType::Listener, &ConfigPlace::Ads, "second");
    put(&mut store, "2", fault(418)).unwrap();
    assert!(store.extensions().next().unwrap().1.error.is_none());
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
    let second = second(&bootstrap(&[set(&discovered(json!({})), "/name", json!("other"))]));
    let listener = incoming(&store, "1", second);
    store.put(ResourceType::Listener, &ConfigPlace::Ads, &listener, &mut willing()).unwrap();
    assert!(matches!(&asked(&mut store)[..], [Interest::One(_, _, name)] if **name == *"other"));
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
    assert_eq!(
        store.take_outcomes(),
        [Outcome::Asked, Outcome::Reloaded, Outcome::Accepted].map(|it| (own(), it))
    );
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
        format!("{at}.type_urls[0]: a terminal filter must be the last")
    );
    // What only HTTP has.
    let cors = refusal(&tcp_with(&[in_front(&[CORS], json!({}))]));
    assert!(cors.starts_with(&format!("{at}.type_urls[0]: ")), "{cors}");
    assert_eq!(
        refusal(&last(&[STATS], json!({}))),
        format!("{at}.type_urls[0]: the last filter must be a terminal one")
    );
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
        store.put(ECDS, &ConfigPlace::Ads, &other, &mut willing()).unwrap_err(),
        "typed_config: with it, filter other of listener web is there twice"
    );
    // The same when the listener comes after them.
    let second = second(&bootstrap(&[web.clone(), named("ext", json!({}))]));
    let listener = incoming(&store, "1", second);
    assert_eq!(
        store
            .put(ResourceType::Listener, &ConfigPlace::Ads, &listener, &mut willing())
            .unwrap_err(),
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
        assert_eq!(&*found(&store).unwrap().kind, kind);
    }
}

const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const DETECTION: &str = "outrigger.filters.network.protocol_detection.v1.ProtocolDetection";
const MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// A listener of which these are the filters; the clusters are `app` and `control`.
fn with_filters(filters: Value) -> Value {
    set(&bootstrap(&[]), &format!("{CHAIN}/filters"), filters)
}

/// A last filter `ext` by name, with more of its source.
fn last(types: &[&str], more: Value) -> Value {
    with_filters(json!([in_front(types, more)]))
}

fn tcp_proxy(stat_prefix: &str) -> Value {
    any_with(TCP_PROXY, json!({ "stat_prefix": stat_prefix, "cluster": "app" }))
}

/// A connection manager that has its routes from this table.
fn manager(table: &str) -> Value {
    let source = json!({ "ads": {}, "resource_api_version": "V3" });
    let router = json!({ "name": "router",
        "typed_config": any("envoy.extensions.filters.http.router.v3.Router") });
    let rds = json!({ "route_config_name": table, "config_source": source });
    any_with(MANAGER, json!({ "stat_prefix": "web", "rds": rds, "http_filters": [router] }))
}

fn begin(base: &Value) -> Store {
    let loaded = loaded(base);
    Store::new(loaded.ground, &loaded.snapshot, false)
}

/// The chain of the listener that is served.
fn chain(store: &Store) -> &Arc<FilterChain> {
    store.snapshot().listeners[0].filter_chains.iter().next().unwrap()
}

/// What it ends in.
fn prefix(store: &Store) -> &str {
    label(&chain(store).terminal)
}

fn label(terminal: &Terminal) -> &str {
    match terminal {
        Terminal::Tcp(proxy) => &proxy.stat_prefix,
        Terminal::Http(_) => "http",
        Terminal::Missing => "missing",
        other => panic!("{other:?}"),
    }
}

#[test]
fn w_07_a_listener_waits_for_its_last_filter_and_follows_it() {
    let mut store = begin(&last(&[TCP_PROXY], json!({})));
    assert_eq!(store.cold(), ["listener web: filter ext"]);
    assert!(matches!(&asked(&mut store)[..], [Interest::One(_, _, name)] if **name == *"ext"));
    assert_eq!(store.listener_counts(), (0, 1));
    put(&mut store, "1", tcp_proxy("one")).unwrap();
    assert_eq!((store.listener_counts(), prefix(&store)), ((1, 0), "one"));
    let changes = store.take_changes().unwrap();
    assert!(matches!(&changes.listeners[..], [ListenerChange::Serve(_)]));
    let own = || Watched::Extension(FilterPlace::Terminal, "ext".into());
    let outcomes = [Outcome::Asked, Outcome::Reloaded, Outcome::Accepted];
    assert_eq!(store.take_outcomes(), outcomes.map(|it| (own(), it)));
    let first = Arc::clone(chain(&store));
    assert!(!first.lacks_filter(&store.snapshot().extensions));

    // Another one is another chain, to which the connections of the first belong.
    put(&mut store, "2", tcp_proxy("two")).unwrap();
    assert_eq!(prefix(&store), "two");
    assert!(chain(&store).follows(&first) && !Arc::ptr_eq(chain(&store), &first));
    let changes = store.take_changes().unwrap();
    assert!(matches!(&changes.listeners[..], [ListenerChange::Serve(_)]));
    assert_eq!(store.counts().listeners_modified, 0);
    // The same again is not (V-08), and what is refused is nothing at all (V-03).
    put(&mut store, "3", tcp_proxy("two")).unwrap();
    for (wrong, why) in [
        (any(TCP_PROXY), "typed_config(TcpProxy).stat_prefix: is required"),
        (
            any(STATS),
            "typed_config: is of type stats.PluginConfig, which type_urls of listener web",
        ),
    ] {
        let text = put(&mut store, "4", wrong).unwrap_err();
        assert!(text.starts_with(why), "{text}");
    }
    assert!(store.take_changes().is_none());
    assert_eq!(prefix(&store), "two");
}

#[test]
fn section_3_where_a_last_filter_by_name_may_stand() {
    let at = "Listener web: filter_chains[0].filters[0]";
    let rpc = "outrigger.filters.network.rpc_proxy.v1.RpcProxy";
    let dubbo = "envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy";
    loaded(&last(&[TCP_PROXY, MANAGER, rpc, dubbo, DETECTION], json!({})));
    let cors = refusal(&last(&[CORS], json!({})));
    assert!(cors.starts_with(&format!("{at}.config_discovery.type_urls[0]: ")), "{cors}");
    let default = json!({ "default_config": manager("t") });
    assert_eq!(
        refusal(&last(&[TCP_PROXY], default)),
        format!(
            "{at}.config_discovery.default_config: is of type {MANAGER}, which type_urls does not list"
        )
    );
    let inline = json!({ "name": "tcp", "typed_config": tcp_proxy("tcp") });
    let behind = with_filters(json!([inline, in_front(&[TCP_PROXY], json!({}))]));
    assert_eq!(refusal(&behind), format!("{at}: is a terminal filter and must be the last"));
    // Behind others, which may come by name as well.
    let stats = set(&in_front(&[STATS], json!({})), "/name", json!("stats"));
    let both = with_filters(json!([stats, in_front(&[TCP_PROXY], json!({}))]));
    assert_eq!(begin(&both).cold(), ["listener web: filter stats", "listener web: filter ext"]);
    for (types, more, text) in [
        ([DETECTION], json!({}), "type_urls[0]: a detection cannot hold another"),
        ([STATS], json!({}), "type_urls[0]: the last filter must be a terminal one"),
    ] {
        let chosen = refusal(&chosen_by_name("HTTP1", in_front(&types, more)));
        assert!(
            chosen.ends_with(&format!("choices[0].filter.config_discovery.{text}")),
            "{chosen}"
        );
    }
    let default = in_front(&[MANAGER], json!({ "default_config": manager("t") }));
    let mute = refusal(&chosen_by_name("BOLT", default));
    assert!(mute.ends_with("choices[0].protocols[0]: is not what the filter speaks"), "{mute}");
}

/// A detection with one choice.
fn detection(protocol: &str, filter: Value) -> Value {
    let choices = json!([{ "protocols": [protocol], "filter": filter }]);
    let fallback = json!({ "name": "tcp", "typed_config": tcp_proxy("fallback") });
    any_with(DETECTION, json!({ "choices": choices, "fallback": fallback }))
}

/// A listener that ends in one.
fn chosen_by_name(protocol: &str, filter: Value) -> Value {
    with_filters(json!([{ "name": "choice", "typed_config": detection(protocol, filter) }]))
}

/// What the choice of a detection, and its fallback, are.
fn chosen(store: &Store) -> [&str; 2] {
    let Terminal::Detect(detection) = &chain(store).terminal else { panic!() };
    [&detection.choices[0].1, detection.fallback.as_deref().unwrap()].map(label)
}

#[test]
fn section_3_what_a_detection_chooses_comes_by_name() {
    let rpc = "outrigger.filters.network.rpc_proxy.v1.RpcProxy";
    let mut store =
        begin(&chosen_by_name("HTTP1", in_front(&[TCP_PROXY, MANAGER, rpc], json!({}))));
    assert_eq!(store.cold(), ["listener web: filter ext"]);
    put(&mut store, "1", tcp_proxy("one")).unwrap();
    assert_eq!((store.listener_counts(), chosen(&store)), ((1, 0), ["one", "fallback"]));
    let own = || Watched::Extension(FilterPlace::Choice, "ext".into());
    let outcomes = [Outcome::Asked, Outcome::Reloaded, Outcome::Accepted];
    assert_eq!(store.take_outcomes(), outcomes.map(|it| (own(), it)));
    store.take_changes();
    // Another one is another chain, to which the connections of the first belong.
    let first = Arc::clone(chain(&store));
    put(&mut store, "2", tcp_proxy("two")).unwrap();
    assert_eq!(chosen(&store), ["two", "fallback"]);
    assert!(chain(&store).follows(&first) && !Arc::ptr_eq(chain(&store), &first));
    assert_eq!(store.take_changes().unwrap().listeners.len(), 1);
    // The same again is not, nor is one that could only fail.
    put(&mut store, "3", tcp_proxy("two")).unwrap();
    let table = json!({ "routes": [{ "match": {}, "route": { "cluster": "app" } }] });
    let bolt = json!({ "stat_prefix": "bolt", "bolt": {}, "route_config": table });
    assert_eq!(
        put(&mut store, "4", any_with(rpc, bolt)).unwrap_err(),
        "typed_config: with it, listener web: filter_chains: one has a filter that does not speak \
         what it is chosen for"
    );
    assert!(store.take_changes().is_none());
    // A manager waits for its routes, and T-04: nothing is left of what is taken away.
    put(&mut store, "5", manager("t")).unwrap();
    assert_eq!(store.cold(), ["listener web: routes t"]);
    store.never_came(ResourceType::RouteConfiguration, &ConfigPlace::Ads, "t");
    assert_eq!(chosen(&store), ["http", "fallback"]);
    store.remove(ECDS, &ConfigPlace::Ads, "ext");
    store.replace_withdrawn(&mut willing());
    assert_eq!((store.listener_counts(), chosen(&store)), ((1, 0), ["missing", "fallback"]));
    assert!(!store.snapshot().names_table("t"));
}

#[test]
fn section_3_a_detection_by_name_chooses_what_comes_by_name() {
    let mut store = begin(&last(&[DETECTION], json!({})));
    let named = |name: &str| {
        detection("HTTP1", set(&in_front(&[TCP_PROXY], json!({})), "/name", json!(name)))
    };
    assert_eq!(
        put(&mut store, "1", named("ext")).unwrap_err(),
        "typed_config: has itself as a filter"
    );
    put(&mut store, "2", named("other")).unwrap();
    assert_eq!(store.cold(), ["listener web: filter other"]);
    let other = set(&extension(tcp_proxy("one")), "/name", json!("other"));
    let other = incoming(&store, "1", other);
    store.put(ECDS, &ConfigPlace::Ads, &other, &mut willing()).unwrap();
    assert_eq!((store.listener_counts(), chosen(&store)), ((1, 0), ["one", "fallback"]));
}

#[test]
fn w_07_a_last_filter_has_a_default() {
    let default = json!({ "default_config": tcp_proxy("default") });
    let mut at_once = default.clone();
    at_once["apply_default_config_without_warming"] = true.into();
    let mut store = begin(&last(&[TCP_PROXY], at_once));
    assert_eq!((store.listener_counts(), prefix(&store)), ((1, 0), "default"));
    put(&mut store, "1", tcp_proxy("one")).unwrap();
    assert_eq!(prefix(&store), "one");

    let mut store = begin(&last(&[TCP_PROXY], default));
    assert_eq!(store.listener_counts(), (0, 1));
    store.never_came(ECDS, &ConfigPlace::Ads, "ext");
    assert_eq!((store.listener_counts(), prefix(&store)), ((1, 0), "default"));
    put(&mut store, "1", tcp_proxy("one")).unwrap();
    assert_eq!(prefix(&store), "one");
    store.take_changes();
    // T-04: it is there again when a server takes the other away.
    store.remove(ECDS, &ConfigPlace::Ads, "ext");
    assert!(store.has_news());
    store.replace_withdrawn(&mut willing());
    assert_eq!(prefix(&store), "default");
    assert_eq!(store.take_changes().unwrap().listeners.len(), 1);
    put(&mut store, "1", tcp_proxy("one")).unwrap();
    assert_eq!(prefix(&store), "one");
}

#[test]
fn t_04_a_last_filter_without_default_that_never_came_or_was_taken_away_is_missing() {
    let mut store = begin(&last(&[TCP_PROXY], json!({})));
    store.never_came(ECDS, &ConfigPlace::Ads, "ext");
    assert_eq!((store.listener_counts(), prefix(&store)), ((1, 0), "missing"));
    assert!(chain(&store).lacks_filter(&store.snapshot().extensions));
    put(&mut store, "1", tcp_proxy("one")).unwrap();
    let first = Arc::clone(chain(&store));
    assert_eq!(prefix(&store), "one");
    store.take_changes();
    store.remove(ECDS, &ConfigPlace::Ads, "ext");
    store.replace_withdrawn(&mut willing());
    assert_eq!((store.listener_counts(), prefix(&store)), ((1, 0), "missing"));
    // Connections of the chain before stay.
    assert!(chain(&store).follows(&first));
    assert_eq!(store.take_changes().unwrap().listeners.len(), 1);
}

#[test]
fn w_07_a_manager_by_name_waits_for_its_routes_and_the_one_before_serves() {
    let rds = ResourceType::RouteConfiguration;
    let mut store = begin(&last(&[TCP_PROXY, MANAGER], json!({})));
    put(&mut store, "1", tcp_proxy("one")).unwrap();
    put(&mut store, "2", manager("t")).unwrap();
    assert_eq!((store.listener_counts(), prefix(&store)), ((1, 1), "one"));
    assert_eq!(store.cold(), ["listener web: routes t"]);
    store.never_came(rds, &ConfigPlace::Ads, "t");
    assert_eq!((store.listener_counts(), prefix(&store)), ((1, 0), "http"));
    assert!(store.snapshot().names_table("t"));
    // Its own filters may come by name, though not by its own.
    let own = set(&manager("t"), "/http_filters/0", discovered(json!({})));
    let router = manager("t")["http_filters"][0].clone();
    let own = set(&own, "/http_filters/-", router);
    assert_eq!(
        put(&mut store, "3", own.clone()).unwrap_err(),
        "typed_config: has itself as a filter"
    );
    let other = set(&own, "/http_filters/0/name", json!("other"));
    put(&mut store, "4", other).unwrap();
    assert_eq!(store.cold(), ["listener web: filter other"]);
}

#[test]
fn v_03_what_the_process_cannot_do_is_refused_and_a_new_listener_has_what_is_known() {
    let mut store = begin(&last(&[TCP_PROXY], json!({})));
    put(&mut store, "1", tcp_proxy("one")).unwrap();
    let second = second(&last(&[TCP_PROXY], json!({})));
    let listener = incoming(&store, "1", second.clone());
    store.put(ResourceType::Listener, &ConfigPlace::Ads, &listener, &mut willing()).unwrap();
    let names = |store: &Store| {
        let chains = store.snapshot().listeners.iter().flat_map(|it| it.filter_chains.iter());
        let names = chains.map(|chain| match &chain.terminal {
            Terminal::Tcp(proxy) => proxy.stat_prefix.to_string(),
            other => panic!("{other:?}"),
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&store), ["one", "one"]);
    store.take_outcomes();
    for name in ["second", "web"] {
        let update = incoming(&store, "2", extension(tcp_proxy("two")));
        assert_eq!(
            store.put(ECDS, &ConfigPlace::Ads, &update, &mut Unable(name)).unwrap_err(),
            format!("typed_config: with it, listener {name}: access_log: no")
        );
        assert_eq!(names(&store), ["one", "one"]);
    }
    let own = || Watched::Extension(FilterPlace::Terminal, "ext".into());
    assert_eq!(store.take_outcomes(), [(own(), Outcome::Refused), (own(), Outcome::Refused)]);
    put(&mut store, "3", tcp_proxy("two")).unwrap();
    assert_eq!(names(&store), ["two", "two"]);
    store.take_outcomes();
    // A listener that does not list what it is has nothing of it, and that is counted.
    let types = "/filter_chains/0/filters/0/config_discovery/type_urls";
    let wrong = set(&second, types, json!([format!("type.googleapis.com/{MANAGER}")]));
    let wrong = incoming(&store, "2", wrong);
    store.put(ResourceType::Listener, &ConfigPlace::Ads, &wrong, &mut willing()).unwrap();
    let second = &store.snapshot().listeners[1];
    assert!(matches!(second.filter_chains.iter().next().unwrap().terminal, Terminal::Missing));
    assert_eq!(store.take_outcomes(), [(own(), Outcome::Conflicts)]);
}
