//! Registries that are not ours: ZooKeeper's and Nacos's own servers. What we write is read with
//! kazoo, with Nacos's HTTP interface and by Dubbo itself, and the other way round.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use outrigger_tests::process::Scratch;
use outrigger_tests::{Address, Client, Peer, Proxy, eventually};
use serde_json::{Value, json};

use super::dubbo::url;
use super::sdk::{at, await_value, config, free_port};
use super::{peer, script};
use crate::hand_over;
use crate::services::{Apis, clusters};

/// ZooKeeper's server, and kazoo beside it.
pub(super) struct ZooKeeper {
    server: Peer,
    kazoo: Peer,
    pub(super) address: String,
}

impl ZooKeeper {
    pub(super) fn start() -> ZooKeeper {
        let mut server = peer("zookeeper-peer");
        let port = server.value("start port=0");
        let address = format!("127.0.0.1:{port}");
        ZooKeeper { server, kazoo: kazoo(&address, ""), address }
    }

    fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap()
    }

    fn children(&mut self, path: &str) -> Value {
        self.kazoo.value(&format!("children path={path}"))
    }

    /// The only child of a directory, once there is exactly one.
    fn only_child(&mut self, path: &str) -> String {
        eventually(path, || match self.children(path).as_array().map(Vec::as_slice) {
            Some([one]) => Some(one.as_str().unwrap().to_owned()),
            _ => None,
        })
    }

    fn expect_children(&mut self, path: &str, count: usize) {
        eventually(&format!("{count} children of {path}"), || {
            let children = self.children(path);
            (children.as_array().map_or(0, Vec::len) == count).then_some(())
        });
    }

    fn node(&mut self, path: &str) -> Value {
        self.kazoo.value(&format!("node path={path}"))
    }
}

fn kazoo(address: &str, more: &str) -> Peer {
    let mut command = Command::new("python3");
    command.arg(script("peers/kazoo_peer.py"));
    let mut kazoo = Peer::start(command);
    kazoo.value(&format!("connect address={address}{more}"));
    kazoo
}

fn expect_cluster(proxy: &Proxy, line: &str) {
    eventually(line, || clusters(proxy).contains(&line.to_owned()).then_some(()));
}

/// As Java's `URLEncoder` has it.
fn encoded(url: &str) -> String {
    url.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'*' | b'_' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

const PROVIDERS: &str = "/dubbo/com.foo.Hello/providers";

fn zookeeper_registry(address: &str, more: Value) -> Value {
    let mut zookeeper = json!({"addresses": [address], "session_timeout_ms": 3000});
    zookeeper.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": "zk", "protocols": ["dubbo"], "zookeeper": zookeeper})
}

#[test]
#[ignore = "needs ZooKeeper and kazoo, which .ci/run installs"]
fn providers_in_zookeeper_are_followed_through_its_troubles() {
    let mut zookeeper = ZooKeeper::start();
    let mut apis = Apis::new();
    let registry = zookeeper_registry(&zookeeper.address, json!({}));
    let proxy = apis.start(json!({"registries": [registry]}));
    let service = json!({"interface": "com.foo.Hello", "group": "g", "version": "1.0.0"});
    // What a caller names is what is configured.
    apis.dubbo("/sub", &zookeeper.address.clone(), service);
    let name = "subscribed|dubbo|g/com.foo.Hello:1.0.0:";
    expect_cluster(&proxy, name);
    let consumer = zookeeper.only_child("/dubbo/com.foo.Hello/consumers");
    assert!(consumer.starts_with("consumer%3A%2F%2F127.0.0.1%2Fcom.foo.Hello%3F"), "{consumer}");

    let provider = |number: u8, more: &str| {
        let url = format!(
            "dubbo://10.0.0.{number}:20880/com.foo.Hello?anyhost=true&application=other&dubbo=2.0.2\
             &group=g&interface=com.foo.Hello&methods=say&side=provider&version=1.0.0{more}"
        );
        format!("{PROVIDERS}/{}", encoded(&url))
    };
    let (first, second) = (provider(1, ""), provider(2, "&weight=7"));
    let other = provider(3, "").replace("1.0.0", "2.0.0");
    for path in [&first, &second, &other] {
        zookeeper.kazoo.value(&format!("create path={path}"));
    }
    let both = format!("{name} 10.0.0.1:20880*100 10.0.0.2:20880*7");
    expect_cluster(&proxy, &both);
    zookeeper.kazoo.value(&format!("delete path={first}"));
    expect_cluster(&proxy, &format!("{name} 10.0.0.2:20880*7"));

    // The network is lost for a moment: watches go on.
    let connects = proxy.stat("services.registry.zk.connect");
    zookeeper.server.value("drop");
    proxy.await_stat("services.registry.zk.connect", |now| now > connects);
    zookeeper.kazoo.value(&format!("create path={first}"));
    expect_cluster(&proxy, &both);
    assert_eq!(proxy.stat("services.registry.zk.session"), 1);

    // The session ends: everything is made anew.
    zookeeper.server.value("expire");
    proxy.expect_stat("services.registry.zk.session", 2);
    zookeeper.only_child("/dubbo/com.foo.Hello/consumers");
    zookeeper.kazoo.value(&format!("delete path={second}"));
    expect_cluster(&proxy, &format!("{name} 10.0.0.1:20880*100"));

    // The server is gone: what it said last holds, also over a restart of ours.
    zookeeper.server.value("stop");
    proxy.expect_stat("services.registry.zk.stale", 1);
    expect_cluster(&proxy, &format!("{name} 10.0.0.1:20880*100"));
    proxy.stop();
    let registry = zookeeper_registry(&zookeeper.address, json!({}));
    let proxy = apis.start(json!({"registries": [registry]}));
    assert_eq!(clusters(&proxy), [format!("{name} 10.0.0.1:20880*100")]);
    let port = zookeeper.port().to_owned();
    zookeeper.server.value(&format!("start port={port}"));
    proxy.expect_stat("services.registry.zk.stale", 0);
    zookeeper.kazoo.value(&format!("create path={second}"));
    expect_cluster(&proxy, &both);
    proxy.stop();
}

#[test]
#[ignore = "needs ZooKeeper and kazoo, which .ci/run installs"]
fn published_services_are_in_zookeeper_as_long_as_they_are_served() {
    let mut zookeeper = ZooKeeper::start();
    let address = zookeeper.address.clone();
    let mut apis = Apis::new();
    let mut proxy = apis.start(json!({}));
    let service = json!({"interface": "com.foo.Hello", "group": "", "version": "1.0.0"});
    let published = apis.dubbo("/pub", &address, service.clone());
    assert_eq!(published["err_no"], 0, "{published}");
    let node = zookeeper.only_child(PROVIDERS);
    let start = "dubbo%3A%2F%2F127.0.0.1%3A20881%2Fcom.foo.Hello%3Fanyhost%3Dtrue%26application%3D";
    assert!(node.starts_with(start), "{node}");
    assert!(node.contains("%26methods%3DsayHello%26") && node.contains("%26version%3D1.0.0"));
    let path = format!("{PROVIDERS}/{node}");
    let before = zookeeper.node(&path);
    assert_ne!(before["owner"], 0, "it goes with our session");
    assert_eq!((&before["data"], &before["acl"]), (&json!(""), &json!([[31, "world"]])));

    // Killed, and started again before the old session is over: one node, and it is ours.
    proxy.process().signal(libc::SIGKILL);
    let _ = proxy.wait_exit();
    drop(proxy);
    let proxy = apis.start(json!({}));
    eventually("a new owner", || {
        let now = zookeeper.node(&path);
        (now["owner"] != before["owner"] && !now.is_null()).then_some(())
    });
    zookeeper.expect_children(PROVIDERS, 1);
    zookeeper.server.value("expire");
    let owner = eventually("the node again", || {
        Some(zookeeper.node(&path)["owner"].clone()).filter(|owner| !owner.is_null())
    });
    assert_ne!(owner, before["owner"]);

    apis.dubbo("/unpub", &address, service.clone());
    zookeeper.expect_children(PROVIDERS, 0);
    apis.dubbo("/pub", &address, service);
    zookeeper.expect_children(PROVIDERS, 1);
    // An end in good order takes it back at once, and leaves it in the state file.
    proxy.stop();
    zookeeper.expect_children(PROVIDERS, 0);
    let proxy = apis.start(json!({}));
    zookeeper.expect_children(PROVIDERS, 1);
    proxy.stop();
}

#[test]
#[ignore = "needs ZooKeeper and kazoo, which .ci/run installs"]
fn zookeeper_with_a_password_and_with_sofarpcs_layout() {
    let mut zookeeper = ZooKeeper::start();
    let mut apis = Apis::new();
    let credentials = json!({"username": "user", "password": "secret"});
    let mut registry = zookeeper_registry(&zookeeper.address, credentials);
    registry["protocols"] = json!(["bolt"]);
    let proxy = apis.start(json!({"registries": [registry]}));
    apis.begin();
    apis.publish("com.foo.Hello:1.0:blue");
    apis.subscribe("com.foo.Hello:1.0:blue");
    // Only the user may look.
    let refused = eventually("a node that is not everybody's", || {
        let answer = zookeeper.kazoo.ask("children path=/sofa-rpc/com.foo.Hello/providers");
        answer["error"].as_str().map(str::to_owned)
    });
    assert!(refused.contains("NoAuth"), "{refused}");
    zookeeper.kazoo = kazoo(&zookeeper.address, " digest=user:secret");
    let directory = "/sofa-rpc/com.foo.Hello/providers";
    let node = zookeeper.only_child(directory);
    assert!(node.starts_with("bolt%3A%2F%2F127.0.0.1%3A12201%3FappName%3Dapp%26"), "{node}");
    let made = zookeeper.node(&format!("{directory}/{node}"));
    assert_eq!((&made["data"], &made["acl"]), (&json!("01"), &json!([[31, "digest"]])));
    // What is registered is found, since it is the only one.
    expect_cluster(&proxy, "subscribed|bolt|com.foo.Hello:1.0:blue: 127.0.0.1:12201*50");
    let url = encoded("bolt://10.0.0.9:12200?uniqueId=blue&version=1.0&weight=3");
    zookeeper.kazoo.value(&format!("create path={directory}/{url}"));
    expect_cluster(
        &proxy,
        "subscribed|bolt|com.foo.Hello:1.0:blue: 10.0.0.9:12200*3 127.0.0.1:12201*50",
    );
    proxy.stop();

    // The wrong password is refused in so many words where the server knows it to be wrong, and
    // otherwise can do nothing; either way the proxy serves on.
    let wrong = json!({"username": "user", "password": "wrong"});
    let mut registry = zookeeper_registry(&zookeeper.address, wrong);
    registry["protocols"] = json!(["bolt"]);
    let proxy = apis.start(json!({"registries": [registry]}));
    proxy.await_stat("services.registry.zk.update_fail", |now| now > 0);
    expect_cluster(
        &proxy,
        "subscribed|bolt|com.foo.Hello:1.0:blue: 10.0.0.9:12200*3 127.0.0.1:12201*50",
    );
    proxy.stop();
}

/// Upgrades a proxy with a published service five times, while `look` sees whether it is there: it always
/// is.
fn is_there_through_upgrades(registry: &Value, mut look: impl FnMut() -> bool + Send) {
    let (scratch, mut apis) = (Scratch::new(), Apis::new());
    let more = json!({"registries": [registry]});
    let base = || hand_over::config(&Address::port(1), &scratch);
    let mut serving = apis.start_on(base(), more.clone());
    let service = json!({"interface": "com.foo.Hello", "group": "", "version": "1.0.0"});
    assert_eq!(apis.dubbo("/pub", "127.0.0.1:1", service)["err_no"], 0);
    eventually("the service", || look().then_some(()));
    let over = AtomicBool::new(false);
    let looks = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                assert!(look(), "it is gone after {looks} looks");
                looks += 1;
            }
            looks
        });
        for _ in 0..5 {
            let next = hand_over::succeed(&apis.config(base(), more.clone()), 1);
            hand_over::expect_end(std::mem::replace(&mut serving, next));
        }
        over.store(true, Ordering::Relaxed);
        looking.join().unwrap()
    });
    assert!(looks > 10, "{looks}");
    // The end of the last one is the end of the service.
    serving.stop();
    eventually("no service", || (!look()).then_some(()));
}

#[test]
#[ignore = "needs ZooKeeper and kazoo, which .ci/run installs"]
fn published_services_never_leave_zookeeper_in_an_upgrade() {
    let mut zookeeper = ZooKeeper::start();
    let registry = zookeeper_registry(&zookeeper.address, json!({}));
    is_there_through_upgrades(&registry, || {
        zookeeper.children(PROVIDERS).as_array().is_some_and(|nodes| nodes.len() == 1)
    });
}

#[test]
#[ignore = "needs Nacos, which .ci/run installs"]
fn published_services_never_leave_nacos_in_an_upgrade() {
    let nacos = Nacos::start();
    let registry = nacos.registry();
    is_there_through_upgrades(&registry, || {
        !nacos.instances("providers:com.foo.Hello:1.0.0:").is_empty()
    });
}

/// Nacos's naming server, and its HTTP interface.
struct Nacos {
    server: Peer,
    address: Address,
}

impl Nacos {
    fn start() -> Nacos {
        let mut server = peer("nacos-peer");
        let address = Address::port(server.serve("start port=0"));
        Nacos { server, address }
    }

    fn registry(&self) -> Value {
        let nacos = json!({"addresses": [self.address.to_string()]});
        json!({"name": "nacos", "protocols": ["dubbo"], "nacos": nacos})
    }

    /// A call of the HTTP interface, with these parameters, which succeeds.
    fn call(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> String {
        let query: Vec<String> =
            parameters.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
        let target = format!("/nacos/v1/ns/{path}?{}", query.join("&"));
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: nacos\r\nContent-Length: 0\r\n\r\n");
        let response = Client::connect(&self.address).send(head).response();
        assert_eq!(response.status, 200, "{path} {parameters:?}: {}", response.text());
        response.text()
    }

    /// An instance of another client's.
    fn instance(&self, method: &str, service: &str, ip: &str, metadata: &Value) {
        let metadata = metadata.to_string();
        let parameters = [
            ("serviceName", service),
            ("ip", ip),
            ("port", "20880"),
            ("ephemeral", "true"),
            ("metadata", &metadata),
        ];
        assert_eq!(self.call(method, "instance", &parameters), "ok");
    }

    /// Metadata of the instances of a service, by address.
    fn instances(&self, service: &str) -> BTreeMap<String, Value> {
        let list: Value =
            serde_json::from_str(&self.call("GET", "instance/list", &[("serviceName", service)]))
                .unwrap();
        let hosts = list["hosts"].as_array().unwrap().iter();
        hosts
            .map(|host| {
                let address = format!("{}:{}", host["ip"].as_str().unwrap(), host["port"]);
                (address, host["metadata"].clone())
            })
            .collect()
    }
}

#[test]
#[ignore = "needs Nacos, which .ci/run installs"]
fn nacos_is_registered_with_and_followed_through_its_troubles() {
    let mut nacos = Nacos::start();
    let mut apis = Apis::new();
    let proxy = apis.start(json!({"registries": [nacos.registry()]}));
    let version = json!({"interface": "com.foo.Hello", "group": "g", "version": "1.0.0"});
    let nobody = "127.0.0.1:1";
    assert_eq!(apis.dubbo("/pub", nobody, version.clone())["err_no"], 0);
    let service = "providers:com.foo.Hello:1.0.0:g";
    let ours = "127.0.0.1:20881";
    let metadata = eventually("the instance", || nacos.instances(service).remove(ours));
    for (key, value) in [
        ("interface", "com.foo.Hello"),
        ("group", "g"),
        ("version", "1.0.0"),
        ("side", "provider"),
        ("category", "providers"),
        ("protocol", "dubbo"),
        ("path", "com.foo.Hello"),
        ("methods", "sayHello"),
    ] {
        assert_eq!(metadata[key], value, "{metadata}");
    }
    apis.dubbo("/unpub", nobody, version.clone());
    eventually("no instance", || nacos.instances(service).is_empty().then_some(()));
    apis.dubbo("/pub", nobody, version.clone());
    eventually("the instance again", || nacos.instances(service).remove(ours));

    apis.dubbo("/sub", nobody, version.clone());
    let name = "subscribed|dubbo|g/com.foo.Hello:1.0.0:";
    expect_cluster(&proxy, &format!("{name} 127.0.0.1:20881*100"));
    let other = json!({"protocol": "dubbo", "weight": "7", "category": "providers"});
    nacos.instance("POST", service, "10.0.0.1", &other);
    expect_cluster(&proxy, &format!("{name} 10.0.0.1:20880*7 127.0.0.1:20881*100"));
    nacos.instance("DELETE", service, "10.0.0.1", &other);
    expect_cluster(&proxy, &format!("{name} 127.0.0.1:20881*100"));
    // Patterns find what there is.
    apis.dubbo("/sub", nobody, json!({"interface": "com.foo.Hello"}));
    expect_cluster(&proxy, "subscribed|dubbo|com.foo.Hello: 127.0.0.1:20881*100");

    // Stopped and started with nothing in its memory: everything is told it again.
    nacos.server.value("stop");
    proxy.expect_stat("services.registry.nacos.stale", 1);
    expect_cluster(&proxy, &format!("{name} 127.0.0.1:20881*100"));
    drop(nacos);
    apis.dubbo("/unpub", nobody, version.clone());
    expect_cluster(&proxy, &format!("{name} 127.0.0.1:20881*100"));
    apis.dubbo("/pub", nobody, version);
    proxy.stop();

    // What it said last also holds over a restart of ours.
    let gone = json!({"name": "nacos", "protocols": ["dubbo"], "nacos": {"addresses": [nobody]}});
    let proxy = apis.start(json!({"registries": [gone]}));
    assert!(clusters(&proxy).contains(&format!("{name} 127.0.0.1:20881*100")));
    proxy.stop();

    let nacos = Nacos::start();
    let proxy = apis.start(json!({"registries": [nacos.registry()]}));
    eventually("the instance again", || nacos.instances(service).remove(ours));
    proxy.expect_stat("services.registry.nacos.stale", 0);
    expect_cluster(&proxy, &format!("{name} 127.0.0.1:20881*100"));
    proxy.stop();
    eventually("no instance", || nacos.instances(service).is_empty().then_some(()));
}

/// Java's provider and consumer, which use a registry themselves, and an application of ours on the
/// other side of it.
fn dubbo_meets_itself_in(registry: &str, configured: Value) {
    let mut java = peer("registry-peer");
    java.value(&format!("registry url={registry}"));
    let port = java.value("serve group=java version=1.0.0");
    let mut ours = peer("dubbo-peer");
    let application = ours.value("serve groups=ours");
    let (local, ingress) = (Ipv4Addr::LOCALHOST, free_port());
    let mut apis = Apis::new();
    let proxy = apis.start_on(
        config("dubbo", at(local, 0), at(Ipv4Addr::UNSPECIFIED, ingress)),
        json!({
            "applications": {"dubbo": format!("127.0.0.1:{application}")},
            "advertise": {"dubbo": format!("127.0.0.1:{ingress}")},
            "registries": [configured],
        }),
    );
    let nobody = "127.0.0.1:1";
    let service =
        |group: &str| json!({"interface": "peer.Echo", "group": group, "version": "1.0.0"});
    apis.dubbo("/sub", nobody, service("java"));
    eventually("Java's provider", || {
        let mut all = clusters(&proxy).into_iter();
        all.find(|line| {
            line.starts_with("subscribed|dubbo|java/peer.Echo:1.0.0: ")
                && line.ends_with(&format!(":{port}*100"))
        })
    });
    let to = url("dubbo", proxy.address(), "serialization=hessian2");
    assert_eq!(ours.value(&format!("call {to} group=java text=there")), "there");
    apis.dubbo("/pub", nobody, service("ours"));
    await_value(&mut java, "call group=ours version=1.0.0 text=back", "back");
    assert!(proxy.stat("cluster.published|dubbo|ours/peer.Echo_1.0.0.upstream_rq_total") > 0);
    proxy.stop();
}

#[test]
#[ignore = "needs Java with Dubbo and ZooKeeper, which .ci/run installs"]
fn dubbo_meets_itself_in_zookeeper() {
    let zookeeper = ZooKeeper::start();
    let configured = zookeeper_registry(&zookeeper.address, json!({}));
    dubbo_meets_itself_in(&format!("zookeeper://{}", zookeeper.address), configured);
}

#[test]
#[ignore = "needs Java with Dubbo and Nacos, which .ci/run installs"]
fn dubbo_meets_itself_in_nacos() {
    let nacos = Nacos::start();
    dubbo_meets_itself_in(&format!("nacos://{}", nacos.address), nacos.registry());
}
