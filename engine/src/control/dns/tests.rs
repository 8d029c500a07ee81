//! Clusters followed against a name server of our own, on loopback.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use outrigger_xds::bootstrap::{LoadOptions, Source, load};
use outrigger_xds::source::Format;
use serde_json::{Value as Json, json};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::*;
use crate::cli::Invocation;
use crate::stats::{Registry, Value};

const A: u16 = 1;
const AAAA: u16 = 28;

/// What the name server says to a question; one it has no words for does not exist.
#[derive(Clone, Debug)]
enum Says {
    Addresses(Vec<IpAddr>),
    NoAddresses,
    Failure,
}

type Names = Arc<Mutex<HashMap<(String, u16), Says>>>;

/// A name server, the resolvers that ask it, and what was published.
struct Rig {
    names: Names,
    registry: Arc<Registry>,
    clusters: watch::Sender<Arc<[Arc<Cluster>]>>,
    published: UnboundedReceiver<(String, Vec<String>)>,
}

impl Rig {
    async fn new() -> Rig {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let names = Names::default();
        tokio::spawn(serve(socket, Arc::clone(&names)));
        let make = move || {
            let mut connection = ConnectionConfig::udp();
            connection.port = port;
            let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
            let config = ResolverConfig::from_name_servers(vec![server]);
            let mut builder =
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().attempts = 1;
            Ok(builder)
        };
        Rig::with(names, Resolvers { make: Box::new(make), system: Mutex::default() })
    }

    fn with(names: Names, resolvers: Resolvers) -> Rig {
        let registry = Arc::new(Registry::new(1));
        let process = Invocation::parse_from(["outrigger"]).unwrap().process().clone();
        let (state, _) = ControlState::new(Arc::clone(&registry), process, Vec::new());
        let (clusters, receiver) = watch::channel(Arc::default());
        let (sender, published) = unbounded_channel();
        let publish: Publish = Arc::new(move |cluster, endpoints: Vec<Endpoint>| {
            let addresses = endpoints.iter().map(|endpoint| endpoint.address.to_string());
            // Nobody receives any more when the test is over.
            let _ = sender.send((cluster.to_owned(), addresses.collect()));
        });
        tokio::spawn(follow(state, receiver, publish, resolvers));
        Rig { names, registry, clusters, published }
    }

    fn say(&self, name: &str, kind: u16, says: Says) {
        lock(&self.names).insert((name.to_owned(), kind), says);
    }

    fn addresses(&self, name: &str, addresses: &[&str]) {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
            addresses.iter().map(|text| text.parse().unwrap()).partition(IpAddr::is_ipv4);
        for (kind, addresses) in [(A, v4), (AAAA, v6)] {
            let none = addresses.is_empty();
            self.say(name, kind, if none { Says::NoAddresses } else { Says::Addresses(addresses) });
        }
    }

    fn follow(&self, clusters: &Json) {
        let text = json!({"static_resources": {"clusters": clusters}}).to_string();
        let source = Source::text("test", text, Format::Json);
        let loaded = load(&source, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        let clusters = loaded.snapshot.clusters.iter();
        self.clusters.send_replace(clusters.map(|member| Arc::clone(&member.cluster)).collect());
    }

    async fn next(&mut self) -> Vec<String> {
        let (cluster, addresses) =
            timeout(LIMIT, self.published.recv()).await.expect("in time").unwrap();
        assert_eq!(cluster, "app");
        addresses
    }

    fn count(&self, name: &str) -> u64 {
        let wanted = format!("cluster.app.{name}");
        let samples = self.registry.collect();
        match samples.iter().find(|sample| sample.to_string() == wanted).map(|s| &s.value) {
            Some(Value::Counter(n) | Value::Gauge(n)) => *n,
            _ => 0,
        }
    }

    /// Waits until a counter has grown by more than one, so that a whole lookup lies in between.
    async fn rounds(&self, counter: &str) {
        let before = self.count(counter);
        let grown = async {
            while self.count(counter) < before + 2 {
                tokio::time::sleep(REFRESH / 4).await;
            }
        };
        timeout(LIMIT, grown).await.expect("in time");
    }
}

const LIMIT: Duration = Duration::from_secs(20);
const REFRESH: Duration = Duration::from_millis(20);

fn cluster(kind: &str, names: &[&str]) -> Json {
    let endpoints: Vec<Json> = names
        .iter()
        .map(|name| {
            json!({"endpoint": {"address": {"socket_address": {
                "address": name, "port_value": 80,
            }}}})
        })
        .collect();
    json!({
        "name": "app",
        "type": kind,
        "dns_refresh_rate": "0.020s",
        "dns_failure_refresh_rate": {"base_interval": "0.010s", "max_interval": "0.020s"},
        "dns_lookup_family": "V4_ONLY",
        "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": endpoints}]},
    })
}

/// Answers questions as RFC 1035 section 4 says, for ever.
async fn serve(socket: UdpSocket, names: Names) {
    let mut query = [0; 1500];
    loop {
        let Ok((len, peer)) = socket.recv_from(&mut query).await else { return };
        let query = &query[..len];
        let mut name = String::new();
        let mut at = 12;
        while query[at] != 0 {
            let label = &query[at + 1..at + 1 + usize::from(query[at])];
            name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
            name.push('.');
            at += label.len() + 1;
        }
        let name = name.trim_end_matches('.').to_owned();
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let question = &query[12..at + 5];
        let says = lock(&names).get(&(name, kind)).cloned();
        let (code, addresses) = match says {
            Some(Says::Addresses(addresses)) => (0, addresses),
            Some(Says::NoAddresses) => (0, Vec::new()),
            Some(Says::Failure) => (2, Vec::new()),
            None => (3, Vec::new()),
        };
        let mut answer = query[..2].to_vec();
        answer.extend([0x81, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
        answer.extend(question);
        for address in addresses {
            let data = match address {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            // The name at offset 12, the type asked for, class IN, a TTL of 60 s.
            answer.extend([0xc0, 12, 0, kind as u8, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
            answer.extend(data);
        }
        let _ = socket.send_to(&answer, peer).await;
    }
}

#[tokio::test]
async fn a_strict_cluster_has_every_address_of_every_name() {
    let mut rig = Rig::new().await;
    rig.addresses("one.test", &["127.0.0.3", "127.0.0.2"]);
    rig.addresses("two.test", &["127.0.0.9"]);
    rig.follow(&json!([cluster("STRICT_DNS", &["one.test", "two.test", "127.0.0.1"])]));
    let all = ["127.0.0.2:80", "127.0.0.3:80", "127.0.0.9:80", "127.0.0.1:80"];
    assert_eq!(rig.next().await, all, "published once, when all names were answered");

    rig.addresses("one.test", &["127.0.0.2", "127.0.0.3"]);
    rig.rounds("update_no_rebuild").await;
    rig.addresses("one.test", &["127.0.0.4"]);
    assert_eq!(rig.next().await, ["127.0.0.4:80", "127.0.0.9:80", "127.0.0.1:80"]);
    assert_eq!(rig.count("membership_change"), 2, "another order is no change");
    assert!(rig.count("update_success") >= 4);
    assert_eq!(rig.count("update_failure"), 0);
}

#[tokio::test]
async fn a_failure_keeps_and_an_empty_answer_empties() {
    let mut rig = Rig::new().await;
    rig.addresses("one.test", &["127.0.0.2"]);
    rig.follow(&json!([cluster("STRICT_DNS", &["one.test"])]));
    assert_eq!(rig.next().await, ["127.0.0.2:80"]);
    rig.say("one.test", A, Says::Failure);
    rig.rounds("update_failure").await;
    assert_eq!(rig.count("membership_change"), 1);
    rig.say("one.test", A, Says::NoAddresses);
    assert_eq!(rig.next().await, [""; 0]);
    assert!(rig.count("update_empty") >= 1);
    rig.addresses("one.test", &["127.0.0.3"]);
    assert_eq!(rig.next().await, ["127.0.0.3:80"]);
    lock(&rig.names).clear();
    assert_eq!(rig.next().await, [""; 0], "no such name is an empty answer");
}

#[tokio::test]
async fn a_first_failure_publishes_nothing_but_that_it_was_tried() {
    let mut rig = Rig::new().await;
    rig.say("one.test", A, Says::Failure);
    rig.follow(&json!([cluster("STRICT_DNS", &["one.test"])]));
    assert_eq!(rig.next().await, [""; 0]);
    rig.addresses("one.test", &["127.0.0.2"]);
    assert_eq!(rig.next().await, ["127.0.0.2:80"]);
}

#[tokio::test]
async fn a_logical_cluster_has_the_first_address_and_keeps_its_last() {
    let mut rig = Rig::new().await;
    rig.addresses("one.test", &["127.0.0.7", "127.0.0.2"]);
    rig.follow(&json!([cluster("LOGICAL_DNS", &["one.test"])]));
    assert_eq!(rig.next().await, ["127.0.0.7:80"]);
    rig.say("one.test", A, Says::NoAddresses);
    rig.rounds("update_empty").await;
    rig.addresses("one.test", &["127.0.0.2", "127.0.0.7"]);
    assert_eq!(rig.next().await, ["127.0.0.2:80"]);
}

#[tokio::test]
async fn families_choose_records() {
    for (family, expected) in [
        ("AUTO", &["[::2]:80"][..]),
        ("V4_ONLY", &["127.0.0.2:80"]),
        ("V6_ONLY", &["[::2]:80"]),
        ("V4_PREFERRED", &["127.0.0.2:80"]),
        ("ALL", &["127.0.0.2:80", "[::2]:80"]),
    ] {
        let mut rig = Rig::new().await;
        rig.addresses("one.test", &["127.0.0.2", "::2"]);
        let mut cluster = cluster("STRICT_DNS", &["one.test"]);
        cluster["dns_lookup_family"] = family.into();
        rig.follow(&json!([cluster]));
        assert_eq!(rig.next().await, expected, "{family}");
    }
}

#[tokio::test]
async fn auto_falls_back_to_ipv4() {
    let mut rig = Rig::new().await;
    rig.addresses("one.test", &["127.0.0.2"]);
    let mut cluster = cluster("STRICT_DNS", &["one.test"]);
    cluster["dns_lookup_family"] = "AUTO".into();
    rig.follow(&json!([cluster]));
    assert_eq!(rig.next().await, ["127.0.0.2:80"]);
}

#[tokio::test]
async fn a_new_version_gets_known_answers_and_ends_what_it_does_not_have() {
    let mut rig = Rig::new().await;
    rig.addresses("one.test", &["127.0.0.2"]);
    let clusters = json!([cluster("STRICT_DNS", &["one.test"])]);
    rig.follow(&clusters);
    assert_eq!(rig.next().await, ["127.0.0.2:80"]);
    rig.follow(&clusters);
    assert_eq!(rig.next().await, ["127.0.0.2:80"], "another version of it has no endpoints yet");

    rig.follow(&json!([]));
    rig.addresses("one.test", &["127.0.0.3"]);
    // A cluster of another type is followed from the start, and the old one no more.
    rig.follow(&json!([cluster("LOGICAL_DNS", &["one.test"])]));
    assert_eq!(rig.next().await, ["127.0.0.3:80"]);
}

#[tokio::test]
async fn names_of_the_hosts_file_need_no_server() {
    let mut rig = Rig::with(Names::default(), Resolvers::system());
    rig.follow(&json!([cluster("STRICT_DNS", &["localhost"])]));
    assert_eq!(rig.next().await, ["127.0.0.1:80"]);
}

#[test]
fn retries_back_off_within_bounds() {
    let config = DnsConfig {
        targets: Vec::new(),
        refresh_rate: Duration::from_secs(5),
        failure_refresh_rate: Some((Duration::from_secs(1), Duration::from_secs(10))),
        jitter: Duration::ZERO,
        respect_ttl: false,
        family: DnsFamily::All,
    };
    let mut cluster = FollowedCluster {
        name: "app".into(),
        config,
        logical: false,
        stats: Arc::default(),
        publish: Arc::new(|_, _| {}),
        answers: Mutex::default(),
    };
    for failures in [1, 2, 5, 31, 32, 33, u32::MAX] {
        let longest = Duration::from_secs(1 << (failures - 1).min(4)).min(Duration::from_secs(10));
        for _ in 0..100 {
            let wait = cluster.retry_after(failures);
            assert!((RETRY_MIN..=longest).contains(&wait), "{failures}: {wait:?}");
        }
    }
    assert_eq!(cluster.refresh_after(Duration::from_secs(60)), Duration::from_secs(5));
    cluster.config.respect_ttl = true;
    assert_eq!(cluster.refresh_after(Duration::from_secs(60)), Duration::from_secs(60));
    assert_eq!(cluster.refresh_after(Duration::ZERO), TTL_MIN);
    cluster.config.failure_refresh_rate = None;
    assert_eq!(cluster.retry_after(9), Duration::from_secs(5));
}
