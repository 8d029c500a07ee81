//! Section 3: which filter chain a connection gets, by cases and against a naive model of the rule.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::*;
use outrigger_xds::snapshot::{
    COMBINATIONS_MAX, ConnectionFacts, FilterChain, FilterChainMatch, FilterChains,
    FilterChainsError, SourceType,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

/// A connection to 10.0.0.1:443 from 192.168.1.7:5000, plain and without a name.
#[derive(Debug, Clone)]
struct Connection {
    destination: Option<SocketAddr>,
    source: Option<SocketAddr>,
    direct_source: Option<SocketAddr>,
    server_name: String,
    transport_protocol: &'static str,
    application_protocols: Vec<&'static str>,
}

impl Default for Connection {
    fn default() -> Connection {
        Connection {
            destination: Some(address("10.0.0.1:443")),
            source: Some(address("192.168.1.7:5000")),
            direct_source: Some(address("192.168.1.7:5000")),
            server_name: String::new(),
            transport_protocol: "raw_buffer",
            application_protocols: Vec::new(),
        }
    }
}

impl Connection {
    fn to(text: &str) -> Connection {
        Connection { destination: Some(address(text)), ..Connection::default() }
    }

    /// The PROXY protocol and the socket agree.
    fn from(text: &str) -> Connection {
        let source = Some(address(text));
        Connection { source, direct_source: source, ..Connection::default() }
    }

    fn tls(server_name: &str) -> Connection {
        Connection {
            server_name: server_name.to_owned(),
            transport_protocol: "tls",
            ..Connection::default()
        }
    }

    fn offering(mut self, protocols: &[&'static str]) -> Connection {
        self.application_protocols = protocols.to_vec();
        self
    }

    fn find(&self, chains: &FilterChains) -> Option<String> {
        let protocols: Vec<&[u8]> =
            self.application_protocols.iter().map(|protocol| protocol.as_bytes()).collect();
        let facts = ConnectionFacts {
            destination: self.destination,
            source: self.source,
            direct_source: self.direct_source,
            server_name: &self.server_name,
            transport_protocol: self.transport_protocol,
            application_protocols: &protocols,
        };
        chains.find(&facts).map(|chain| chain.name.to_string())
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn range(prefix: &str, length: u8) -> Value {
    json!({ "address_prefix": prefix, "prefix_len": length })
}

/// A listener with these chains, and a default chain called `default`.
fn listener(chains: &[(&str, Value)]) -> Value {
    let chain = tcp().pointer(CHAIN).unwrap().clone();
    let named = |name: &str| {
        let mut chain = chain.clone();
        chain["name"] = json!(name);
        chain
    };
    let chains: Vec<Value> = chains
        .iter()
        .map(|(name, criteria)| {
            let mut chain = named(name);
            chain["filter_chain_match"] = criteria.clone();
            chain
        })
        .collect();
    let bootstrap = set(&tcp(), &format!("{LISTENER}/filter_chains"), json!(chains));
    set(&bootstrap, &format!("{LISTENER}/default_filter_chain"), named("default"))
}

#[track_caller]
fn check(chains: &[(&str, Value)], cases: &[(Connection, &str)]) {
    let loaded = loaded(&listener(chains));
    for (connection, expected) in cases {
        let found = connection.find(&common::listener(&loaded).filter_chains);
        assert_eq!(found.as_deref(), Some(*expected), "{connection:?}");
    }
}

#[test]
fn section_3_destination_port_and_prefix_ranges() {
    check(
        &[
            ("https", json!({ "destination_port": 443 })),
            ("net", json!({ "prefix_ranges": [range("10.9.9.9", 8)] })),
            ("subnet", json!({ "prefix_ranges": [range("10.1.0.0", 16), range("fd00::", 8)] })),
            ("any4", json!({ "prefix_ranges": [range("0.0.0.0", 0)] })),
            ("host", json!({ "destination_port": 81, "prefix_ranges": [range("10.1.1.1", 32)] })),
        ],
        &[
            (Connection::to("10.1.0.1:443"), "https"),
            (Connection::to("10.2.0.1:80"), "net"),
            (Connection::to("10.1.0.1:80"), "subnet"),
            (Connection::to("[fdff::1]:80"), "subnet"),
            (Connection::to("[::ffff:10.1.0.1]:80"), "subnet"),
            (Connection::to("11.1.0.1:80"), "any4"),
            (Connection::to("[fe00::1]:80"), "default"),
            (Connection::to("10.1.1.1:81"), "host"),
            // Port 81 has chains of its own, and there is no going back.
            (Connection::to("10.1.1.2:81"), "default"),
        ],
    );
}

#[test]
fn section_3_server_names() {
    check(
        &[
            ("exact", json!({ "server_names": ["www.Example.com", "api.example.com"] })),
            ("example", json!({ "server_names": ["*.example.com"] })),
            ("com", json!({ "server_names": ["*.com"] })),
            ("plain", json!({ "transport_protocol": "raw_buffer" })),
        ],
        &[
            (Connection::tls("www.example.com"), "exact"),
            (Connection::tls("API.example.COM"), "exact"),
            (Connection::tls("a.b.example.com"), "example"),
            (Connection::tls("www.example.com.com"), "com"),
            (Connection::tls("example.com"), "com"),
            (Connection::tls("com"), "default"),
            (Connection::tls(".com"), "default"),
            (Connection::tls("*.com"), "com"),
            (Connection::tls("example.org"), "default"),
            (Connection::tls(""), "default"),
            (Connection::default(), "plain"),
        ],
    );
}

#[test]
fn section_3_transport_and_application_protocols() {
    check(
        &[
            ("tls", json!({ "transport_protocol": "tls" })),
            (
                "h2",
                json!({ "transport_protocol": "tls", "application_protocols": ["h2", "istio"] }),
            ),
            ("h1", json!({ "transport_protocol": "tls", "application_protocols": ["http/1.1"] })),
            ("other", json!({ "application_protocols": ["http/1.1"] })),
        ],
        &[
            (Connection::tls("a").offering(&["x", "h2", "http/1.1"]), "h2"),
            (Connection::tls("a").offering(&["http/1.1", "h2"]), "h1"),
            (Connection::tls("a").offering(&["x"]), "tls"),
            (Connection::tls("a"), "tls"),
            (Connection::default().offering(&["http/1.1"]), "other"),
            (Connection::default().offering(&["http/1.0"]), "default"),
        ],
    );
}

#[test]
fn section_3_sources() {
    let proxied = Connection {
        source: Some(address("8.8.8.8:5000")),
        direct_source: Some(address("172.16.0.1:9")),
        ..Connection::default()
    };
    check(
        &[
            ("balancer", json!({ "direct_source_prefix_ranges": [range("172.16.0.0", 12)] })),
            ("local", json!({ "source_type": "SAME_IP_OR_LOOPBACK" })),
            ("external", json!({ "source_type": "EXTERNAL", "source_ports": [6000, 6001] })),
            (
                "office",
                json!({ "source_type": "EXTERNAL", "source_prefix_ranges": [range("192.168.0.0", 16)] }),
            ),
            (
                "door",
                json!({ "source_type": "EXTERNAL",
                "source_prefix_ranges": [range("192.168.2.0", 24)], "source_ports": [7] }),
            ),
        ],
        &[
            (proxied, "balancer"),
            (Connection::from("127.0.0.1:6000"), "local"),
            (Connection::from("127.9.0.1:6000"), "external"),
            (Connection::from("[::1]:6000"), "local"),
            (Connection::from("10.0.0.1:6000"), "local"),
            (Connection::from("8.8.8.8:6001"), "external"),
            (Connection::from("8.8.8.8:6002"), "default"),
            (Connection::from("192.168.1.7:6000"), "office"),
            (Connection::from("192.168.2.7:7"), "door"),
            // The narrower range has been chosen when the port is looked at.
            (Connection::from("192.168.2.7:8"), "default"),
        ],
    );
}

#[test]
fn section_3_unix_sockets_have_no_addresses() {
    let unix = Connection {
        destination: None,
        source: None,
        direct_source: None,
        ..Connection::default()
    };
    let chains = [
        ("port", json!({ "destination_port": 443 })),
        ("everything", json!({ "prefix_ranges": [range("0.0.0.0", 0), range("::", 0)] })),
        ("source", json!({ "source_prefix_ranges": [range("0.0.0.0", 0), range("::", 0)] })),
        ("from", json!({ "source_ports": [1] })),
    ];
    check(&chains, &[(unix.clone(), "default")]);
    let local = ("local", json!({ "source_type": "SAME_IP_OR_LOOPBACK" }));
    check(&[&chains[..], &[local]].concat(), &[(unix, "local")]);
}

#[test]
fn section_3_a_step_never_goes_back() {
    check(
        &[
            (
                "named",
                json!({ "server_names": ["a.com"], "transport_protocol": "tls",
                "application_protocols": ["h2"] }),
            ),
            ("wide", json!({ "transport_protocol": "tls" })),
        ],
        &[
            (Connection::tls("a.com").offering(&["h2"]), "named"),
            (Connection::tls("a.com").offering(&["http/1.1"]), "default"),
            (Connection::tls("b.com").offering(&["http/1.1"]), "wide"),
        ],
    );
}

#[test]
fn section_3_without_default_chain_nothing_is_found() {
    let chain = listener(&[("a", json!({ "destination_port": 1 }))]);
    let loaded = loaded(&set(&chain, &format!("{LISTENER}/default_filter_chain"), Value::Null));
    let chains = &common::listener(&loaded).filter_chains;
    assert_eq!(Connection::to("10.0.0.1:2").find(chains), None);
    assert_eq!(Connection::to("10.0.0.1:1").find(chains).as_deref(), Some("a"));
    assert_eq!(Connection::default().find(&FilterChains::default()), None);
}

#[test]
fn section_3_duplicates_are_refused_naming_both() {
    let overlap = |a: Value, b: Value| refusal(&listener(&[("x", a), ("y", b)]));
    let expected = "Listener web: filter_chains[1]: \"y\" matches the same connections as \
                    filter_chains[0] (\"x\")";
    assert_eq!(overlap(json!({}), json!({})), expected);
    let a = json!({ "server_names": ["a.com", "b.com"], "source_ports": [1, 2] });
    let b = json!({ "server_names": ["B.com"], "source_ports": [2, 3] });
    assert_eq!(overlap(a.clone(), b), expected);
    let ranges = |network: &str| json!({ "prefix_ranges": [range(network, 8)] });
    assert_eq!(overlap(ranges("10.1.1.1"), ranges("10.2.2.2")), expected);
    loaded(&listener(&[
        ("x", a),
        ("y", json!({ "server_names": ["b.com"], "source_ports": [3] })),
    ]));
    // A chain may repeat itself.
    loaded(&listener(&[(
        "x",
        json!({ "server_names": ["a.com", "A.com"], "source_ports": [1, 1] }),
    )]));
    assert_eq!(
        refusal(&listener(&[("x", json!({})), ("x", json!({ "destination_port": 1 }))])),
        "Listener web: filter_chains[1].name: \"x\" is used twice"
    );
    assert_eq!(
        refusal(&listener(&[("default", json!({}))])),
        "Listener web: default_filter_chain.name: \"default\" is used twice"
    );
}

#[test]
fn section_3_bad_criteria_are_refused_with_their_path() {
    for (criteria, expected) in [
        (json!({ "destination_port": 0 }), "destination_port: must be from 1 to 65535"),
        (json!({ "destination_port": 65536 }), "destination_port: must be from 1 to 65535"),
        (json!({ "source_ports": [1, 65536] }), "source_ports[1]: must be from 1 to 65535"),
        (
            json!({ "prefix_ranges": [range("10.0.0.0", 33)] }),
            "prefix_ranges[0].prefix_len: must be at most 32",
        ),
        (
            json!({ "server_names": ["a.com", "*"] }),
            "server_names[1]: \"*\" matches everything: leave server_names out instead",
        ),
        (
            json!({ "server_names": ["*w.example.com"] }),
            "server_names[0]: \"*w.example.com\" is not a server name: a wildcard is \"*.\" in \
             front of a name",
        ),
        (
            json!({ "server_names": ["www.*.com"] }),
            "server_names[0]: \"www.*.com\" is not a server name: a wildcard is \"*.\" in front of \
             a name",
        ),
        (
            json!({ "server_names": [""] }),
            "server_names[0]: \"\" is not a server name: a part of it is empty",
        ),
        (
            json!({ "server_names": ["*."] }),
            "server_names[0]: \"*.\" is not a server name: a part of it is empty",
        ),
        (json!({ "application_protocols": [""] }), "application_protocols[0]: must not be empty"),
        (json!({ "source_type": 7 }), "source_type: enum value 7 is not supported"),
        (json!({ "address_suffix": "1" }), "address_suffix: not supported"),
        (json!({ "suffix_len": 1 }), "suffix_len: not supported"),
    ] {
        assert_eq!(
            refusal(&listener(&[("x", criteria)])),
            format!("Listener web: filter_chains[0].filter_chain_match.{expected}")
        );
    }
}

#[test]
fn section_3_combinations_are_bounded() {
    let chain = |name: &str| {
        let loaded = loaded(&listener(&[(name, json!({}))]));
        common::listener(&loaded).filter_chains.iter().next().unwrap().clone()
    };
    let ports = |count: usize| FilterChainMatch {
        source_ports: (1..=u16::try_from(count).unwrap()).collect(),
        server_names: (0..10).map(|label| format!("{label}.com").into()).collect(),
        ..FilterChainMatch::default()
    };
    assert_eq!(COMBINATIONS_MAX, 100_000);
    FilterChains::new(vec![(ports(10_000), chain("a"))], None).unwrap();
    let error = FilterChains::new(
        vec![(FilterChainMatch::default(), chain("a")), (ports(10_000), chain("b"))],
        None,
    );
    assert_eq!(error.unwrap_err(), FilterChainsError::TooManyCombinations { chain: 1 });
}

/// Whether a chain is in a group.
type Wanted<'a> = Box<dyn Fn(&FilterChainMatch) -> bool + 'a>;

/// The rule as the contract words it: step by step over a list of chains, the survivors are those that
/// name the most specific value of the connection that any of them names; without one, those that name
/// nothing.
fn naive(matches: &[FilterChainMatch], connection: &Connection) -> Option<usize> {
    let mut alive: Vec<usize> = (0..matches.len()).collect();
    let mut step = |candidates: Vec<Wanted<'_>>,
                    says_nothing: &dyn Fn(&FilterChainMatch) -> bool| {
        let of = |wanted: &dyn Fn(&FilterChainMatch) -> bool| -> Vec<usize> {
            alive.iter().copied().filter(|index| wanted(&matches[*index])).collect()
        };
        let best = candidates.iter().map(|wanted| of(&**wanted)).find(|group| !group.is_empty());
        alive = best.unwrap_or_else(|| of(says_nothing));
    };
    let ranges = |address: Option<SocketAddr>,
                  field: fn(&FilterChainMatch) -> &Vec<(IpAddr, u8)>|
     -> Vec<Wanted<'static>> {
        let Some(address) = address.map(|address| address.ip()) else { return Vec::new() };
        (0..=128u8)
            .rev()
            .map(|length| -> Wanted<'_> {
                Box::new(move |criteria| {
                    field(criteria).iter().any(|(network, own)| {
                        *own == length && leading_bits_agree(*network, address, length)
                    })
                })
            })
            .collect()
    };

    let port = connection.destination.map(|address| address.port());
    step(vec![Box::new(|m| port.is_some() && m.destination_port == port)], &|m| {
        m.destination_port.is_none()
    });
    step(ranges(connection.destination, |m| &m.prefix_ranges), &|m| m.prefix_ranges.is_empty());
    let name = connection.server_name.to_ascii_lowercase();
    let mut names = vec![name.clone()];
    let labels: Vec<&str> = name.split('.').collect();
    names.extend((1..labels.len()).map(|skip| format!("*.{}", labels[skip..].join("."))));
    let names = names.into_iter().map(|name| -> Wanted<'_> {
        Box::new(move |m| m.server_names.iter().any(|own| **own == *name))
    });
    step(names.collect(), &|m| m.server_names.is_empty());
    let transport = connection.transport_protocol;
    step(vec![Box::new(|m| m.transport_protocol.as_deref() == Some(transport))], &|m| {
        m.transport_protocol.is_none()
    });
    let protocols = connection.application_protocols.iter();
    let protocols = protocols.map(|offered| -> Wanted<'_> {
        Box::new(move |m| m.application_protocols.iter().any(|own| **own == *offered.as_bytes()))
    });
    step(protocols.collect(), &|m| m.application_protocols.is_empty());
    step(ranges(connection.direct_source, |m| &m.direct_source_prefix_ranges), &|m| {
        m.direct_source_prefix_ranges.is_empty()
    });
    let local = connection.source.is_none_or(|source| {
        let loopback = ["127.0.0.1", "::1"].map(|text| text.parse::<std::net::IpAddr>().unwrap());
        loopback.contains(&source.ip())
            || Some(source.ip()) == connection.destination.map(|d| d.ip())
    });
    let kind = if local { SourceType::SameIpOrLoopback } else { SourceType::External };
    step(vec![Box::new(|m| m.source_type == kind)], &|m| m.source_type == SourceType::Any);
    step(ranges(connection.source, |m| &m.source_prefix_ranges), &|m| {
        m.source_prefix_ranges.is_empty()
    });
    let port = connection.source.map(|address| address.port());
    step(vec![Box::new(|m| port.is_some_and(|port| m.source_ports.contains(&port)))], &|m| {
        m.source_ports.is_empty()
    });
    assert!(alive.len() < 2, "{alive:?} are as specific as each other");
    alive.first().copied()
}

fn leading_bits_agree(a: IpAddr, b: IpAddr, length: u8) -> bool {
    let bits = |address: IpAddr| -> Vec<u8> {
        match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }
    };
    let (a, b) = (bits(a), bits(b));
    let bit = |bytes: &[u8], at: u8| bytes[usize::from(at / 8)] >> (7 - at % 8) & 1;
    a.len() == b.len()
        && usize::from(length) <= a.len() * 8
        && (0..length).all(|at| bit(&a, at) == bit(&b, at))
}

const RANGES: &[(&str, u8)] = &[
    ("10.0.0.0", 8),
    ("10.1.0.0", 16),
    ("10.1.1.0", 24),
    ("10.1.1.1", 32),
    ("0.0.0.0", 0),
    ("fd00::", 8),
    ("fd00::1", 128),
    ("::", 0),
];
const ADDRESSES: &[&str] = &["10.1.1.1", "10.1.2.3", "10.9.9.9", "127.0.0.1", "fd00::1", "fe80::1"];
const NAMES: &[&str] = &["a.com", "*.a.com", "*.com", "b.a.com", "com"];
const ASKED: &[&str] = &["", "a.com", "b.a.com", "x.y.a.COM", "com", "z.org"];
const PROTOCOLS: &[&str] = &["h2", "http/1.1", "x"];

fn any_ranges() -> impl Strategy<Value = Vec<(IpAddr, u8)>> {
    subsequence(RANGES, 0..3).prop_map(|ranges| {
        ranges.into_iter().map(|(network, length)| (network.parse().unwrap(), length)).collect()
    })
}

fn any_match() -> impl Strategy<Value = FilterChainMatch> {
    let source_type = prop_oneof![
        Just(SourceType::Any),
        Just(SourceType::SameIpOrLoopback),
        Just(SourceType::External),
    ];
    let destination = (option::of(1u16..3), any_ranges(), subsequence(NAMES, 0..3));
    let protocols = (option::of(select(&["tls", "raw_buffer"][..])), subsequence(PROTOCOLS, 0..3));
    let source = (any_ranges(), source_type, any_ranges(), subsequence(vec![1u16, 2], 0..2));
    (destination, protocols, source).prop_map(
        |(
            (destination_port, prefix_ranges, names),
            (transport_protocol, protocols),
            (direct_source_prefix_ranges, source_type, source_prefix_ranges, source_ports),
        )| FilterChainMatch {
            destination_port,
            prefix_ranges,
            server_names: names.into_iter().map(|name| (*name).into()).collect(),
            transport_protocol: transport_protocol.map(Box::from),
            application_protocols: protocols
                .into_iter()
                .map(|protocol| protocol.as_bytes().into())
                .collect(),
            direct_source_prefix_ranges,
            source_type,
            source_prefix_ranges,
            source_ports,
        },
    )
}

fn any_address() -> impl Strategy<Value = Option<SocketAddr>> {
    option::weighted(0.9, (select(ADDRESSES), 1u16..4))
        .prop_map(|address| address.map(|(ip, port)| SocketAddr::new(ip.parse().unwrap(), port)))
}

fn any_connection() -> impl Strategy<Value = Connection> {
    (
        any_address(),
        any_address(),
        any_address(),
        select(ASKED),
        select(&["tls", "raw_buffer", "other"][..]),
        subsequence(PROTOCOLS, 0..3).prop_shuffle(),
    )
        .prop_map(
            |(destination, source, direct_source, name, transport_protocol, protocols)| {
                Connection {
                    destination,
                    source,
                    direct_source,
                    server_name: name.to_owned(),
                    transport_protocol,
                    application_protocols: protocols,
                }
            },
        )
}

/// Most criteria are dropped from most chains, so that chains compete.
fn sparse(mut criteria: FilterChainMatch, kept: u16) -> FilterChainMatch {
    let none = FilterChainMatch::default();
    let keeps = |bit: u16| kept >> bit & 1 == 1;
    if !keeps(0) {
        criteria.destination_port = none.destination_port;
    }
    if !keeps(1) {
        criteria.prefix_ranges = Vec::new();
    }
    if !keeps(2) {
        criteria.server_names = Vec::new();
    }
    if !keeps(3) {
        criteria.transport_protocol = None;
    }
    if !keeps(4) {
        criteria.application_protocols = Vec::new();
    }
    if !keeps(5) {
        criteria.direct_source_prefix_ranges = Vec::new();
    }
    if !keeps(6) {
        criteria.source_type = SourceType::Any;
    }
    if !keeps(7) {
        criteria.source_prefix_ranges = Vec::new();
    }
    if !keeps(8) {
        criteria.source_ports = Vec::new();
    }
    criteria
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn section_3_the_maps_find_what_the_rule_says(
        candidates in vec((any_match(), 0u16..512), 1..12),
        connections in vec(any_connection(), 1..20),
    ) {
        // A chain that overlaps with an earlier one is refused, and left out here.
        let mut matches: Vec<FilterChainMatch> = Vec::new();
        let mut chains = FilterChains::default();
        for (criteria, kept) in candidates {
            let mut more = matches.clone();
            more.push(sparse(criteria, kept));
            let named = more.iter().enumerate().map(|(index, criteria)| (criteria.clone(), chain(index)));
            if let Ok(compiled) = FilterChains::new(named.collect(), None) {
                (matches, chains) = (more, compiled);
            }
        }
        for connection in &connections {
            let expected = naive(&matches, connection).map(|index| index.to_string());
            prop_assert_eq!(connection.find(&chains), expected, "{:?}\n{:?}", connection, matches);
        }
    }
}

/// A chain that is called by its index.
fn chain(index: usize) -> Arc<FilterChain> {
    use outrigger_xds::snapshot::{ClusterNames, TcpProxy, TcpTarget, Terminal};
    let target = TcpTarget::Cluster(ClusterNames::default().refer("c"));
    let proxy = TcpProxy {
        stat_prefix: "t".into(),
        target,
        idle_timeout: None,
        max_downstream_connection_duration: None,
        max_connect_attempts: 1,
        access_log: Vec::new(),
    };
    let terminal = Terminal::Tcp(Arc::new(proxy));
    Arc::new(FilterChain {
        name: index.to_string().into(),
        fingerprint: None,
        tls: None,
        istio_stats: None,
        discovered: Box::default(),
        discovered_terminal: None,
        terminal,
    })
}
