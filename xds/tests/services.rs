//! `engine.services`, and snapshots with the clusters of services.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{cluster, http};
use outrigger_xds::bootstrap::{LoadOptions, Loaded, Source, load};
use outrigger_xds::services_config::{HostPort, ServiceProtocol, ServicesConfig};
use outrigger_xds::snapshot::{
    Address, ClusterId, Discovery, Endpoint, Origin, RpcProtocol, Service, ServiceSide, Snapshot,
};
use outrigger_xds::source::Format;
use serde_json::{Value, json};

const BOLT: RpcProtocol = RpcProtocol::Bolt { crc_by_switch_only: false, goaway: false };

fn load_yaml(text: &str) -> Result<Loaded, String> {
    let source = Source::text("test.yaml", text, Format::Yaml);
    load(&source, &LoadOptions::default()).map_err(|error| error.to_string())
}

fn load_json(bootstrap: &Value) -> Result<Loaded, String> {
    load_yaml(&bootstrap.to_string())
}

#[test]
fn nothing_is_on_by_default() {
    let config = load_yaml("").unwrap().engine.services;
    assert_eq!(config, ServicesConfig::default());
    assert!(config.is_off());
}

#[test]
fn everything_can_be_configured() {
    let config = load_yaml(
        "
engine:
  services:
    sofa_api: {}
    dubbo_api: {address: '127.0.0.1:10022'}
    state_file: /var/lib/outrigger/services.json
    applications: {dubbo: '127.0.0.1:20990'}
    advertise: {bolt: '10.0.0.1:12201', dubbo: 'host.local:20881'}
    registries:
    - {name: static, protocols: [bolt, dubbo], file: {path: providers.yaml}}
    - name: zk
      protocols: [dubbo]
      zookeeper:
        addresses: ['zk-1:2181', '[::1]:2181']
        username: u
        password: p
        session_timeout_ms: 10000
    - {name: nacos, protocols: [dubbo], nacos: {addresses: ['n:8848'], namespace: test}}
",
    )
    .unwrap()
    .engine
    .services;
    assert!(!config.is_off());
    assert_eq!(config.sofa_api.unwrap().address, "127.0.0.1:13330".parse().unwrap());
    assert_eq!(config.dubbo_api.unwrap().address, "127.0.0.1:10022".parse().unwrap());
    let applications = [ServiceProtocol::Bolt, ServiceProtocol::Dubbo];
    let applications = applications.map(|protocol| config.applications.of(protocol).to_string());
    assert_eq!(applications, ["127.0.0.1:12200", "127.0.0.1:20990"]);
    let advertised = config.advertise.of(ServiceProtocol::Dubbo).unwrap();
    assert_eq!(*advertised, HostPort { host: "host.local".into(), port: 20881 });
    let [file, zookeeper, nacos] = &config.registries[..] else { panic!() };
    assert_eq!(file.file.as_ref().unwrap().path.to_str(), Some("providers.yaml"));
    let zookeeper = zookeeper.zookeeper.as_ref().unwrap();
    assert_eq!(zookeeper.addresses[1].to_string(), "[::1]:2181");
    assert_eq!((zookeeper.session_timeout_ms, &zookeeper.root), (10_000, &None));
    assert_eq!(zookeeper.password.as_ref().unwrap().reveal(), "p");
    let nacos = nacos.nacos.as_ref().unwrap();
    assert_eq!((&*nacos.namespace, &*nacos.group), ("test", "DEFAULT_GROUP"));
}

#[test]
fn faults_have_their_place() {
    let registry = |text: &str| format!("registries: [{text}]");
    let zookeeper = |text: &str| {
        registry(&format!(
            "{{name: z, protocols: [dubbo], zookeeper: {{addresses: ['a:1'], {text}}}}}"
        ))
    };
    for (text, fault) in [
        ("sofa: {}".to_owned(), "engine.services.sofa: "),
        ("sofa_api: {address: localhost}".to_owned(), "engine.services.sofa_api.address: invalid"),
        ("advertise: {bolt: 'h:0'}".to_owned(), "advertise.bolt: expected host:port, not \"h:0\""),
        (
            "applications: {bolt: '0.0.0.0:12200'}".to_owned(),
            "services.applications.bolt: \"0.0.0.0:12200\" is not an address to connect to",
        ),
        ("state_file: /".to_owned(), "services.state_file: \"/\" is not the path of a file"),
        ("cluster_template: x".to_owned(), "services.cluster_template: there is no cluster \"x\""),
        (
            registry("{name: a, protocols: [dubbo]}"),
            "registries[0]: a registry of 0 kinds is not exactly one of file, zookeeper and nacos",
        ),
        (
            registry("{name: a, protocols: [dubbo], file: {path: x}, nacos: {addresses: ['a:1']}}"),
            "services.registries[0]: a registry of 2 kinds",
        ),
        (
            registry("{name: 'a b', protocols: [dubbo], file: {path: x}}"),
            "services.registries[0].name: \"a b\" is not 1 to 64 letters",
        ),
        (
            registry("{name: a, protocols: [], file: {path: x}}"),
            "services.registries[0].protocols: [] is not at least one protocol",
        ),
        (
            registry("{name: a, protocols: [http], file: {path: x}}"),
            "services.registries[0].protocols[0]: unknown variant `http`",
        ),
        (
            registry("{name: a, protocols: [bolt, bolt], file: {path: x}}"),
            "is not each protocol once",
        ),
        (
            registry(
                "{name: a, protocols: [bolt], file: {path: x}},
                 {name: a, protocols: [bolt], file: {path: x}}",
            ),
            "services.registries[1].name: \"a\" is not a name used once",
        ),
        (
            registry("{name: z, protocols: [dubbo, bolt], zookeeper: {addresses: ['a:1']}}"),
            "zookeeper.root: nothing is not a path, which two protocols need",
        ),
        (zookeeper("root: dubbo"), "zookeeper.root: \"dubbo\" is not a path such as /dubbo"),
        (zookeeper("username: a"), "zookeeper.password: nothing is not a password"),
        (zookeeper("password: a"), "zookeeper.username: nothing is not a name"),
        (zookeeper("session_timeout_ms: 5"), "session_timeout_ms: 5 is not from 1000 to 3600000"),
        (
            registry("{name: n, protocols: [dubbo], nacos: {addresses: ['a:65000']}}"),
            "nacos.addresses[0]: \"a:65000\" is not a port of at most 64535",
        ),
        (
            registry("{name: n, protocols: [dubbo], nacos: {addresses: []}}"),
            "nacos.addresses: a list of 0 is not a list of 1 to 64 addresses",
        ),
    ] {
        let error = load_yaml(&format!("engine:\n  services:\n    {text}\n")).unwrap_err();
        assert!(error.contains(fault), "{error}");
        assert!(error.starts_with("test.yaml:") && error.contains("Bootstrap: engine.services"));
    }
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint::at(Address::Ip(address.parse().unwrap()))
}

fn service(side: ServiceSide, key: &str, addresses: &[&str]) -> Service {
    let endpoints = addresses.iter().map(|address| endpoint(address)).collect();
    Service { side, protocol: "bolt", key: key.into(), endpoints }
}

fn found(snapshot: &Snapshot, side: ServiceSide, key: &str) -> Option<String> {
    let id = snapshot.services.find(side, &BOLT, key.as_bytes())?;
    Some(snapshot.clusters.get(id).unwrap().name.to_string())
}

#[test]
fn services_have_clusters_behind_the_configured_ones() {
    use ServiceSide::{Published, Subscribed};
    let loaded = load_json(&http()).unwrap();
    let template = &loaded.service_template;
    let first = loaded.snapshot.with_services(
        template,
        vec![service(Published, "a", &["127.0.0.1:12200"]), service(Subscribed, "a", &[])],
    );
    assert_eq!(first.clusters.len(), 3);
    let origins: Vec<Origin> = first.clusters.iter().map(|member| member.origin).collect();
    assert_eq!(origins, [Origin::Static, Origin::Service, Origin::Service]);
    assert_eq!(found(&first, Published, "a").unwrap(), "published|bolt|a");
    assert_eq!(found(&first, Subscribed, "a").unwrap(), "subscribed|bolt|a");
    assert_eq!(found(&first, Published, "b"), None);
    assert!(first.services.find(Published, &RpcProtocol::Dubbo, b"a").is_none());
    let id = first.clusters.id("published|bolt|a").unwrap();
    let published = first.clusters.get(id).unwrap();
    assert_eq!(
        (&published.discovery, &*published.stat_name),
        (&Discovery::Static, "published|bolt|a")
    );
    assert_eq!(published.connect_timeout, Duration::from_secs(5));
    assert_eq!(first.clusters.endpoints(id).unwrap().all(), [endpoint("127.0.0.1:12200")]);

    // What stays is shared, wherever it stands; what is gone is gone.
    let second = first.with_services(
        template,
        vec![
            service(Published, "0", &[]),
            service(Published, "a", &["127.0.0.1:12200"]),
            service(Subscribed, "b", &["1.1.1.1:1"]),
        ],
    );
    assert_eq!(second.clusters.len(), 4);
    let now = second.clusters.id("published|bolt|a").unwrap();
    assert_eq!(now, id, "a name keeps its number");
    assert!(Arc::ptr_eq(second.clusters.get(now).unwrap(), published));
    let endpoints = |snapshot: &Snapshot, id| Arc::clone(snapshot.clusters.endpoints(id).unwrap());
    assert!(Arc::ptr_eq(&endpoints(&second, now), &endpoints(&first, id)));
    let configured = |snapshot: &Snapshot| Arc::clone(snapshot.clusters.get(ClusterId(0)).unwrap());
    assert!(Arc::ptr_eq(&configured(&second), &configured(&loaded.snapshot)));
    assert_eq!(found(&second, Subscribed, "a"), None);
    assert_eq!(second.clusters.id("subscribed|bolt|a"), None);

    // New endpoints leave the cluster as it is.
    let third = second.with_services(
        template,
        vec![
            service(Published, "0", &[]),
            service(Published, "a", &["127.0.0.1:12200", "127.0.0.1:12201"]),
            service(Subscribed, "b", &["1.1.1.1:1"]),
        ],
    );
    assert!(Arc::ptr_eq(third.clusters.get(now).unwrap(), published));
    let changed: Vec<_> = third.clusters.changes_since(&second.clusters).collect();
    assert_eq!(changed, [now]);
    assert_eq!(endpoints(&third, now).all().len(), 2);
    let other = third.clusters.id("subscribed|bolt|b").unwrap();
    assert!(Arc::ptr_eq(&endpoints(&third, other), &endpoints(&second, other)));

    // Answers of DNS go on beside them, and nothing is left of no services.
    let resolved = third.with_endpoints(ClusterId(0), vec![endpoint("9.9.9.9:9")]);
    assert_eq!(found(&resolved, Subscribed, "b").unwrap(), "subscribed|bolt|b");
    let none = resolved.with_services(template, Vec::new());
    assert_eq!(none.clusters.len(), 1);
    assert_eq!(endpoints(&none, ClusterId(0)).all(), [endpoint("9.9.9.9:9")]);
    assert_eq!(found(&none, Published, "a"), None);
}

#[test]
fn a_configured_cluster_may_have_the_name_of_a_services() {
    let mut bootstrap = http();
    let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
    clusters.push(cluster("subscribed|bolt|a"));
    let loaded = load_json(&bootstrap).unwrap();
    let wanted = vec![service(ServiceSide::Subscribed, "a", &["1.1.1.1:1"])];
    let snapshot = loaded.snapshot.with_services(&loaded.service_template, wanted);
    assert_eq!(snapshot.clusters.len(), 2);
    let id = snapshot.services.find(ServiceSide::Subscribed, &BOLT, b"a").unwrap();
    assert_eq!(id, ClusterId(1));
    assert_eq!(snapshot.clusters.endpoints(id), loaded.snapshot.clusters.endpoints(id));
}

#[test]
fn the_template_has_the_settings() {
    let mut bootstrap = http();
    bootstrap["engine"] = json!({"services": {"cluster_template": "app"}});
    bootstrap["static_resources"]["clusters"][0]["connect_timeout"] = "0.2s".into();
    bootstrap["static_resources"]["clusters"][0]["alt_stat_name"] = "other".into();
    let loaded = load_json(&bootstrap).unwrap();
    let wanted = vec![service(ServiceSide::Subscribed, "a", &[])];
    let snapshot = loaded.snapshot.with_services(&loaded.service_template, wanted);
    let cluster = snapshot.clusters.get(ClusterId(1)).unwrap();
    assert_eq!(cluster.connect_timeout, Duration::from_millis(200));
    assert_eq!((&*cluster.name, &*cluster.stat_name), ("subscribed|bolt|a", "subscribed|bolt|a"));
}
