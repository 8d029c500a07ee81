//! Applications that know nothing but their sidecar: SOFARPC by its registry `mesh`, and Dubbo by
//! MOSN's API with ZooKeeper behind. A call goes out through one listener and comes in through
//! another, as between two hosts.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use outrigger_tests::peer::Questions;
use outrigger_tests::{Address, Config, Peer, Proxy, eventually};
use serde_json::{Value, json};

use super::dubbo::url;
use super::peer;
use super::registries::ZooKeeper;
use crate::services::{Apis, clusters};

/// SOFARPC calls this port of the host that has the API, whatever the API tells it.
const SOFA_EGRESS_PORT: u16 = 12220;

/// A host of our own, since the port can't be: a loopback address by the number of this process.
fn host() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, middle, low)
}

/// A port that nobody has at this moment.
pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(super) fn at(ip: Ipv4Addr, port: u16) -> Value {
    Address::Tcp(SocketAddr::from((ip, port))).to_json()
}

/// A listener to subscribed services, and `inbound` to published ones.
pub(super) fn config(protocol: &str, egress: Value, ingress: Value) -> Config {
    let routes = |side: &str| json!([{"match": {}, "route": {"service": side}}]);
    let published = Config::rpc(protocol, routes("PUBLISHED"));
    let mut inbound = published.json()["static_resources"]["listeners"][0].clone();
    inbound["name"] = "inbound".into();
    inbound["address"] = ingress;
    Config::rpc(protocol, routes("SUBSCRIBED"))
        .listener(json!({"address": egress}))
        .raw_listener(inbound)
}

struct Sofa {
    apis: Apis,
    application: u16,
}

impl Sofa {
    /// A sidecar to which `peer.Echo` of all hosts is at itself.
    fn start(&mut self) -> Proxy {
        let providers = self.apis.scratch.file("providers.json");
        if !providers.exists() {
            fs::write(&providers, "{}").unwrap();
        }
        let (host, any) = (host(), Ipv4Addr::LOCALHOST);
        let config = config("bolt", at(host, SOFA_EGRESS_PORT), at(any, 0));
        let proxy = self.apis.start_on(
            config,
            json!({
                "sofa_api": {"address": format!("{host}:0")},
                "applications": {"bolt": format!("127.0.0.1:{}", self.application)},
                "registries": [
                    {"name": "hosts", "protocols": ["bolt"], "file": {"path": providers}},
                ],
            }),
        );
        let service = json!({"services": [{
            "service": "peer.Echo:1.0", "providers": [proxy.listener("inbound").to_string()],
        }]});
        fs::write(&providers, service.to_string()).unwrap();
        proxy
    }
}

/// Asks until the answer is right: what was published and subscribed gets known in the background.
#[track_caller]
pub(super) fn await_value(client: &mut Peer, command: &str, expected: &str) {
    let mut last = Value::Null;
    eventually(command, || {
        last = client.ask(command);
        (last["value"] == expected).then_some(())
    });
}

#[test]
#[ignore = "needs Java and SOFARPC, which .ci/run installs"]
fn sofarpc_needs_no_more_than_the_sidecar() {
    let mut sofa = Sofa { apis: Apis::new(), application: free_port() };
    let proxy = sofa.start();
    let (mut server, mut client) = (peer("sofa-peer"), peer("sofa-peer"));
    let registry = format!("registry=http://{}", sofa.apis.sofa_address());
    server.serve(&format!("serve {registry} port={}", sofa.application));
    await_value(&mut client, &format!("call {registry} text=found"), "found");

    let mut questions = Questions::default();
    for kind in ["sync", "future", "callback"] {
        questions.value(&mut client, &format!("call {registry} kind={kind} text={kind}"), kind);
    }
    let note = format!("call {registry} kind=oneway method=note text=noted");
    questions.value(&mut client, &note, "sent");
    questions.value(&mut server, "notes count=1", json!(["noted"]));
    questions.value(&mut client, &format!("many {registry} count=500"), 500);
    // Another service is not known.
    let unknown = format!("call {registry} unique=unknown");
    questions.error(&mut client, &unknown, &["CLIENT_UNDECLARED_ERROR"]);
    questions.all_right();
    proxy.stop();

    // The applications say nothing again.
    let proxy = sofa.start();
    await_value(&mut client, &format!("call {registry} text=again"), "again");
    proxy.stop();
}

#[test]
#[ignore = "needs Java with Dubbo and ZooKeeper, which .ci/run installs"]
fn dubbo_needs_no_more_than_the_sidecar() {
    let zookeeper = ZooKeeper::start();
    let (mut server, mut client) = (peer("dubbo-peer"), peer("dubbo-peer"));
    let application = server.serve("serve groups=g1");
    let (local, ingress) = (Ipv4Addr::LOCALHOST, free_port());
    let mut apis = Apis::new();
    let proxy = apis.start_on(
        config("dubbo", at(local, 0), at(local, ingress)),
        json!({
            "applications": {"dubbo": format!("127.0.0.1:{application}")},
            "advertise": {"dubbo": format!("127.0.0.1:{ingress}")},
        }),
    );
    for group in ["", "g1"] {
        let service = json!({"interface": "peer.Echo", "group": group, "version": "1.0.0"});
        for path in ["/pub", "/sub"] {
            let told = apis.dubbo(path, &zookeeper.address, service.clone());
            assert_eq!(told["err_no"], 0, "{path}: {told}");
        }
    }
    let known = |service: &str| {
        let line = format!("subscribed|dubbo|{service}: 127.0.0.1:{ingress}*100");
        eventually(&line, || clusters(&proxy).contains(&line).then_some(()));
    };
    known("peer.Echo:1.0.0");
    known("g1/peer.Echo:1.0.0");

    let to = url("dubbo", proxy.address(), "serialization=hessian2");
    let mut questions = Questions::default();
    for group in ["", "group=g1"] {
        for kind in ["sync", "future", "callback"] {
            let command = format!("call {to} {group} kind={kind} text={kind}");
            questions.value(&mut client, &command, kind);
        }
        questions.value(&mut client, &format!("generic {to} {group} text=generic"), "generic");
    }
    questions.value(&mut client, &format!("many {to} count=500"), 500);
    questions.error(&mut client, &format!("call {to} group=g2"), &["NETWORK_EXCEPTION", "404|"]);
    questions.all_right();
    proxy.stop();
}
