//! Services that applications publish and subscribe at run time, over real sockets: the SOFA mesh
//! API, MOSN's API for Dubbo, and what is left after a restart.

use std::fs;
use std::path::{Path, PathBuf};

use outrigger_tests::bolt::{self, Frame, Server, status};
use outrigger_tests::http::Response;
use outrigger_tests::process::Scratch;
use outrigger_tests::{Address, Client, Config, Launch, Proxy, eventually};
use serde_json::{Value, json};

/// Both interfaces of a proxy, and what it keeps.
pub(crate) struct Apis {
    sofa: Address,
    dubbo: Address,
    pub(crate) scratch: Scratch,
}

impl Apis {
    /// Those of no proxy yet.
    pub(crate) fn new() -> Apis {
        Apis { sofa: Address::any(), dubbo: Address::any(), scratch: Scratch::new() }
    }

    /// Where the SOFA API listens.
    pub(crate) fn sofa_address(&self) -> &Address {
        &self.sofa
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.scratch.file("services.json")
    }

    /// Adds to `base` the interfaces, and `more` in `engine.services`.
    pub(crate) fn config(&self, base: Config, more: Value) -> Config {
        let services = json!({
            "sofa_api": {"address": "127.0.0.1:0"},
            "dubbo_api": {"address": "127.0.0.1:0"},
            "state_file": self.state_file(),
            "advertise": {"bolt": "127.0.0.1:12201", "dubbo": "127.0.0.1:20881"},
        });
        base.engine(json!({"services": services})).engine(json!({"services": more}))
    }

    /// Starts a proxy with `more` in `engine.services`, and takes its interfaces.
    #[track_caller]
    pub(crate) fn start(&mut self, more: Value) -> Proxy {
        self.start_on(Config::to(&Address::port(1)), more)
    }

    /// The same with a configuration of one's own.
    #[track_caller]
    pub(crate) fn start_on(&mut self, base: Config, more: Value) -> Proxy {
        let mut proxy = Launch::outrigger(&self.config(base, more)).shards(2).start();
        // It has said it, but it may not have been heard yet.
        let mut address = |api: &str| {
            let words = format!("{api} address: ");
            let address = eventually(&words, || {
                let log = proxy.process().stderr();
                let (_, rest) = log.split_once(&words)?;
                rest.split_once('\n')?.0.parse().ok()
            });
            Address::Tcp(address)
        };
        (self.sofa, self.dubbo) = (address("sofa_api"), address("dubbo_api"));
        proxy
    }

    /// A call of the SOFA API; its answer must be JSON with status 200.
    #[track_caller]
    pub(crate) fn sofa(&self, path: &str, body: Value) -> Value {
        as_json(&post(&self.sofa, path, &body.to_string()))
    }

    #[track_caller]
    pub(crate) fn sofa_get(&self, path: &str) -> Response {
        Client::connect(&self.sofa).get(path)
    }

    /// The application begins, publishes and subscribes.
    #[track_caller]
    pub(crate) fn begin(&self) {
        let told = self.sofa("/configs/application", json!({"appName": "app", "other": 1}));
        assert_eq!(told, json!({"errorMessage": "", "success": true}));
    }

    #[track_caller]
    pub(crate) fn publish(&self, service: &str) -> Value {
        let meta = json!({
            "protocol": "bolt", "version": "4.0", "serializeType": "hessian2", "appName": "app",
            "properties": {"weight": "50"},
        });
        self.sofa(
            "/services/publish",
            json!({
                "serviceName": service, "protocolType": "bolt", "onlyPublishInCloud": false,
                "providerMetaInfo": meta,
            }),
        )
    }

    #[track_caller]
    pub(crate) fn subscribe(&self, service: &str) -> Value {
        self.sofa(
            "/services/subscribe",
            json!({
                "serviceName": service, "protocolType": null, "targetAppAddress": null,
                "vipEnforce": false, "vipOnly": false, "localCloudFirst": false,
            }),
        )
    }

    /// A call of the Dubbo API; its answer must be JSON with status 200.
    #[track_caller]
    pub(crate) fn dubbo(&self, path: &str, registry: &str, service: Value) -> Value {
        let mut service = service;
        service["methods"] = json!(["sayHello"]);
        let body = json!({"registry": {"type": "zookeeper", "addr": registry}, "service": service});
        as_json(&post(&self.dubbo, path, &body.to_string()))
    }
}

#[track_caller]
pub(crate) fn post(address: &Address, path: &str, body: &str) -> Response {
    Client::connect(address).post(path, body)
}

#[track_caller]
pub(crate) fn as_json(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    serde_json::from_str(&response.text()).unwrap()
}

/// `name: address …` of every service's cluster, as `/clusters` has them.
pub(crate) fn clusters(proxy: &Proxy) -> Vec<String> {
    let text = proxy.admin_get("/clusters?format=json").text();
    let json: Value = serde_json::from_str(&text).unwrap();
    let statuses = json["cluster_statuses"].as_array().unwrap().iter();
    let services = statuses.filter(|status| status["added_via_api"] == true);
    let mut lines: Vec<String> = services
        .map(|status| {
            let mut line = format!("{}:", status["name"].as_str().unwrap());
            for host in status["host_statuses"].as_array().unwrap() {
                let address = Address::from_json(&host["address"]).unwrap();
                line.push_str(&format!(" {address}*{}", host["weight"]));
            }
            line
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn published_and_subscribed_services_are_clusters_at_once() {
    let mut apis = Apis::new();
    let proxy = apis.start(json!({}));
    let early = apis.publish("com.foo.Hello:1.0");
    assert_eq!(early["success"], false, "the application comes first: {early}");
    apis.begin();
    assert_eq!(apis.publish("com.foo.Hello:1.0"), json!({"errorMessage": "", "success": true}));
    assert_eq!(clusters(&proxy), ["published|bolt|com.foo.Hello:1.0: 127.0.0.1:12200*1"]);

    // No registry: what this host has is what there is.
    let subscribed = apis.subscribe("com.foo.Hello:1.0");
    assert_eq!(subscribed["success"], true);
    assert_eq!(subscribed["serviceName"], "com.foo.Hello:1.0");
    let datas = subscribed["datas"].as_array().unwrap();
    let data = datas[0].as_str().unwrap();
    assert!(data.starts_with("127.0.0.1:12201?") && data.contains("p=1&"), "{data}");
    assert!(data.contains("_SERIALIZETYPE=hessian2") && data.contains("_WEIGHT=50"), "{data}");
    let unknown = apis.subscribe("com.foo.Unknown:1.0:blue");
    assert_eq!((&unknown["success"], &unknown["datas"]), (&json!(true), &json!([])));
    assert_eq!(
        clusters(&proxy),
        [
            "published|bolt|com.foo.Hello:1.0: 127.0.0.1:12200*1",
            "subscribed|bolt|com.foo.Hello:1.0: 127.0.0.1:12201*1",
            "subscribed|bolt|com.foo.Unknown:1.0:blue:",
        ]
    );
    let dump: Value = serde_json::from_str(&proxy.admin_get("/config_dump").text()).unwrap();
    let dynamic = &dump["configs"][1]["dynamic_active_clusters"];
    assert_eq!(dynamic.as_array().unwrap().len(), 3);
    assert_eq!(dynamic[0]["cluster"]["name"], "published|bolt|com.foo.Hello:1.0");
    assert_eq!(proxy.stat("services.published"), 1);
    assert_eq!(proxy.stat("services.subscribed"), 2);
    assert_eq!(proxy.stat("services.api.sofa.rq_late"), 0);
    assert_eq!(proxy.stat("cluster.subscribed|bolt|com.foo.Hello_1.0.membership_total"), 1);

    let all: Value = serde_json::from_str(&apis.sofa_get("/services").text()).unwrap();
    assert_eq!(all["com.foo.Unknown:1.0:blue"], json!([]));
    assert_eq!(all["com.foo.Hello:1.0"], json!([data]));
    let one: Value =
        serde_json::from_str(&apis.sofa_get("/services/com.foo.Hello%3A1.0").text()).unwrap();
    assert_eq!(one, json!([data]));
    assert_eq!(apis.sofa_get("/services/nothing").text(), "The services is empty.");
    let application: Value =
        serde_json::from_str(&apis.sofa_get("/configs/application").text()).unwrap();
    assert_eq!(application["appName"], "app");
    assert_eq!(apis.sofa_get("/configs/registry").text(), "{\"registries\":[]}");

    for (path, service) in [
        ("/services/unsubscribe", "com.foo.Unknown:1.0:blue"),
        ("/services/unsubscribe", "com.foo.Hello:1.0"),
        ("/services/unpublish", "com.foo.Hello:1.0"),
        ("/services/unpublish", "com.foo.Hello:1.0"),
    ] {
        let done = apis.sofa(path, json!({"serviceName": service}));
        assert_eq!(done, json!({"errorMessage": "", "success": true}));
    }
    assert!(clusters(&proxy).is_empty());
    let left = proxy.stats();
    assert!(!left.keys().any(|name| name.contains("com.foo")), "what is gone counts no more");
    proxy.stop();
}

#[test]
fn services_survive_a_restart() {
    let mut apis = Apis::new();
    let mut proxy = apis.start(json!({}));
    apis.begin();
    for number in 0..20 {
        apis.publish(&format!("com.foo.Hello{number:02}:1.0"));
    }
    apis.subscribe("com.foo.Hello07:1.0");
    let before = clusters(&proxy);
    assert_eq!(before.len(), 21);
    // Whoever has an answer has it for good.
    proxy.process().signal(libc::SIGKILL);
    let _ = proxy.wait_exit();
    drop(proxy);
    let proxy = apis.start(json!({}));
    assert_eq!(clusters(&proxy), before);
    // The application did not notice, or begins anew; either way it keeps what it has.
    apis.publish("com.foo.More:1.0");
    apis.begin();
    assert_eq!(clusters(&proxy).len(), 22);
    let other = apis.sofa("/configs/application", json!({"appName": "other"}));
    assert_eq!(other["success"], true);
    assert!(clusters(&proxy).is_empty(), "another application begins with nothing");
    proxy.stop();
}

#[test]
fn a_state_file_that_cannot_be_used_is_reported_and_nothing_more() {
    let mut apis = Apis::new();
    fs::write(apis.state_file(), "{\"version\": 1, \"published\": [[1,").unwrap();
    let proxy = apis.start(json!({}));
    assert_eq!(proxy.stat("services.state_read_failed"), 1);
    assert!(apis.scratch.file("services.json.unreadable").exists());
    apis.begin();
    // Where the new file is to be is a directory: as good as a full disk.
    let in_the_way = apis.scratch.file("services.json.new");
    fs::create_dir(&in_the_way).unwrap();
    assert_eq!(apis.publish("com.foo.Hello:1.0")["success"], true);
    proxy.expect_stat("services.state_write_failed", 1);
    fs::remove_dir(&in_the_way).unwrap();
    apis.publish("com.foo.Bye:1.0");
    assert!(fs::read_to_string(apis.state_file()).unwrap().contains("com.foo.Hello"));
    proxy.stop();
}

#[test]
fn dubbo_services_are_told_apart_by_group_and_version() {
    let mut apis = Apis::new();
    let proxy = apis.start(json!({}));
    let success = |message: &str| json!({"err_no": 0, "err_msg": message});
    // Nobody is at that registry, which is no concern of the caller's.
    let registry = "127.0.0.1:1";
    let service = json!({"interface": "com.foo.Hello", "group": "g", "version": "1.0.0"});
    let published = apis.dubbo("/pub", registry, service.clone());
    assert_eq!(published, success("publish success"));
    assert_eq!(apis.dubbo("/sub", registry, service.clone()), success("subscribe success"));
    let plain = json!({"interface": "com.foo.Hello", "group": "", "version": "", "name": 1});
    apis.dubbo("/sub", registry, plain);
    assert_eq!(
        clusters(&proxy),
        [
            "published|dubbo|g/com.foo.Hello:1.0.0: 127.0.0.1:20880*1",
            "subscribed|dubbo|com.foo.Hello:",
            "subscribed|dubbo|g/com.foo.Hello:1.0.0:",
        ]
    );
    let stale = format!("services.registry.{}.stale", registry.replace(':', "_"));
    proxy.expect_stat(&stale, 1);
    assert_eq!(apis.dubbo("/unpub", registry, service.clone()), success("unpub success"));
    assert_eq!(apis.dubbo("/unsub", registry, service), success("unsubscribe success"));
    assert_eq!(clusters(&proxy), ["subscribed|dubbo|com.foo.Hello:"]);
    proxy.stop();
}

#[test]
fn bad_calls_are_answered_in_their_own_terms() {
    let mut apis = Apis::new();
    let proxy = apis.start(json!({"advertise": {"dubbo": null}}));
    apis.begin();
    let failed = |body: &str| {
        let answer = as_json(&post(&apis.sofa, "/services/publish", body));
        assert_eq!(answer["success"], false, "{body}");
        answer["errorMessage"].as_str().unwrap().to_owned()
    };
    assert!(failed("").contains("can't be read"));
    assert!(failed("{}").contains("serviceName"));
    assert!(failed("[1]").contains("can't be read"));
    assert!(failed("{\"serviceName\": \"a b\"}").contains("serviceName"));
    let other = json!({"serviceName": "I:1.0", "protocolType": "rest"}).to_string();
    assert!(failed(&other).contains("\"rest\" is not served"));
    let long = json!({"serviceName": "I:1.0", "x": "y".repeat(300_000)}).to_string();
    assert!(failed(&long).contains("larger than"));
    let parameters = json!({"a": "y".repeat(100_000)});
    let long = json!({"serviceName": "I:1.0", "providerMetaInfo": {"properties": parameters}});
    assert!(failed(&long.to_string()).contains("longer than"));
    assert_eq!(post(&apis.sofa, "/nothing", "{}").status, 404);
    assert_eq!(apis.sofa_get("/services/publish").status, 405);

    let refused = |body: Value| {
        let answer = as_json(&post(&apis.dubbo, "/pub", &body.to_string()));
        assert_eq!(answer["err_no"], 1, "{body}");
        answer["err_msg"].as_str().unwrap().to_owned()
    };
    let registry = json!({"type": "zookeeper", "addr": "127.0.0.1:1"});
    let service = json!({"interface": "I", "methods": ["a"]});
    assert!(refused(json!({"registry": registry})).contains("service"));
    assert!(
        refused(json!({"registry": registry, "service": {"interface": "I"}})).contains("methods")
    );
    let nacos = json!({"type": "nacos", "addr": "127.0.0.1:1"});
    assert!(refused(json!({"registry": nacos, "service": service})).contains("registry.type"));
    let nowhere = json!({"type": "zookeeper", "addr": "nowhere"});
    assert!(refused(json!({"registry": nowhere, "service": service})).contains("registry.addr"));
    let unadvertised = refused(json!({"registry": registry, "service": service}));
    assert!(unadvertised.contains("engine.services.advertise.dubbo"), "{unadvertised}");
    assert_eq!(Client::connect(&apis.dubbo).get("/pub").status, 405);
    assert!(clusters(&proxy).is_empty());
    assert_eq!(proxy.stat("services.api.sofa.rq_too_large"), 1);
    assert_eq!(proxy.stat("services.api.dubbo.rq_failed"), 5);
    proxy.stop();
}

#[test]
fn calls_come_from_many_threads_at_once() {
    let mut apis = Apis::new();
    let proxy = apis.start(json!({}));
    apis.begin();
    std::thread::scope(|scope| {
        for thread in 0..20 {
            let apis = &apis;
            scope.spawn(move || {
                for number in 0..10 {
                    let service = format!("com.foo.T{thread:02}N{number}:1.0");
                    assert_eq!(apis.publish(&service)["success"], true);
                    assert_eq!(apis.subscribe(&service)["success"], true);
                }
            });
        }
    });
    assert_eq!(clusters(&proxy).len(), 400);
    assert_eq!(proxy.stat("services.api.sofa.publish"), 200);
    proxy.stop();
}

fn write_providers(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn a_file_of_providers_is_followed() {
    let mut apis = Apis::new();
    let path = apis.scratch.file("providers.yaml");
    let hello =
        "services:\n- service: com.foo.Hello:1.0\n  providers: ['10.0.0.5:12200?_WEIGHT=7']\n";
    write_providers(&path, hello);
    let registry =
        json!({"name": "static", "protocols": ["bolt", "dubbo"], "file": {"path": path}});
    let proxy = apis.start(json!({"registries": [registry], "cluster_template": "origin"}));
    apis.begin();
    apis.subscribe("com.foo.Hello:1.0");
    let has = |line: &str| {
        eventually(line, || clusters(&proxy).contains(&line.to_owned()).then_some(()));
    };
    has("subscribed|bolt|com.foo.Hello:1.0: 10.0.0.5:12200*7");
    let datas = apis.subscribe("com.foo.Hello:1.0")["datas"].clone();
    assert_eq!(datas, json!(["10.0.0.5:12200?_WEIGHT=7"]));
    write_providers(
        &path,
        &format!("{hello}- providers: ['dubbo://10.0.0.6:20880/I?version=1']\n"),
    );
    apis.dubbo("/sub", "127.0.0.1:1", json!({"interface": "I"}));
    has("subscribed|dubbo|I:1: 10.0.0.6:20880*100");
    write_providers(&path, "services: [");
    proxy.expect_stat("services.registry.static.stale", 1);
    has("subscribed|bolt|com.foo.Hello:1.0: 10.0.0.5:12200*7");
    write_providers(&path, "services: []");
    has("subscribed|bolt|com.foo.Hello:1.0:");
    proxy.stop();
}

#[test]
fn requests_find_a_service_as_soon_as_it_is_published() {
    let server = Server::echo();
    let routes = json!([{"match": {}, "route": {"service": "PUBLISHED"}}]);
    let mut apis = Apis::new();
    let applications = json!({"bolt": server.address().to_string()});
    let base = Config::rpc("bolt", routes);
    let proxy = apis.start_on(base, json!({"applications": applications}));
    apis.begin();
    let status_of = |service: &str| {
        let request = Frame::request(1, service, "say", "hello");
        bolt::Client::connect(proxy.address()).call(&request).status
    };
    for number in 0..30 {
        let service = format!("com.foo.Hello{number}:1.0");
        assert_ne!(status_of(&service), status::SUCCESS);
        assert_eq!(apis.publish(&service)["success"], true);
        // Whichever shard it comes to.
        for _ in 0..4 {
            assert_eq!(status_of(&service), status::SUCCESS);
        }
    }
    proxy.stop();
}
