//! Choosing the filter chain of a connection (contract section 3).
//!
//! Invariant: at each step only the most specific group of chains that matches survives, and there
//! is no going back to a less specific one. What no chain matches goes to the default chain.
//!
//! The chains are the leaves of a tree, which has one level for each fact in the order of the contract.
//! So a search is nine look-ups. A chain with several values in several of its lists is in the tree
//! once for each combination of them, which [`COMBINATIONS_MAX`] bounds.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use thiserror::Error;

use super::address::network;
use super::listener::FilterChain;

/// The filter chains of one listener, compiled for the search.
#[derive(Debug, Clone, Default)]
pub struct FilterChains {
    chains: Vec<Arc<FilterChain>>,
    default: Option<Arc<FilterChain>>,
    tree: Arc<Tree>,
}

/// When a chain applies: all of it. What is empty or `None` says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterChainMatch {
    /// The port that the client connected to.
    pub destination_port: Option<u16>,
    /// Ranges (network, prefix length) of the address that the client connected to.
    pub prefix_ranges: Vec<(IpAddr, u8)>,
    /// Lower case; a whole name, or `*.` and a suffix.
    pub server_names: Vec<Box<str>>,
    /// `tls` or `raw_buffer`.
    pub transport_protocol: Option<Box<str>>,
    /// Any of the client's.
    pub application_protocols: Vec<Box<[u8]>>,
    /// Ranges of the other end of the socket.
    pub direct_source_prefix_ranges: Vec<(IpAddr, u8)>,
    /// Where the client is.
    pub source_type: SourceType,
    /// Ranges of the client.
    pub source_prefix_ranges: Vec<(IpAddr, u8)>,
    /// Ports of the client.
    pub source_ports: Vec<u16>,
}

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SourceType {
    /// Anywhere.
    #[default]
    Any,
    /// On this host: a loopback address, the address that it connects to, or a Unix socket.
    SameIpOrLoopback,
    /// On another host.
    External,
}

/// What is known of a connection when its filter chain is chosen.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionFacts<'a> {
    /// The local address; `None` for a Unix socket.
    pub destination: Option<SocketAddr>,
    /// The client, as the PROXY protocol says where it is spoken; `None` for a Unix socket.
    pub source: Option<SocketAddr>,
    /// The other end of the socket.
    pub direct_source: Option<SocketAddr>,
    /// The server name that the client asks for, in any case; empty when it asks for none.
    pub server_name: &'a str,
    /// `tls` or `raw_buffer`.
    pub transport_protocol: &'a str,
    /// What ALPN offers, or the HTTP version that was detected (`http/1.0`, `http/1.1`, `h2c`).
    pub application_protocols: &'a [&'a [u8]],
}

/// Why a set of chains was refused. Chains are named by their index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FilterChainsError {
    /// A connection could match both equally well.
    #[error("matches the same connections as filter chain {first}")]
    Overlap {
        /// The earlier one.
        first: usize,
        /// The later one.
        second: usize,
    },
    /// With this one there are more than [`COMBINATIONS_MAX`].
    #[error("with its values there are more than {COMBINATIONS_MAX} combinations of criteria")]
    TooManyCombinations {
        /// The chain.
        chain: usize,
    },
}

/// Combinations of ports, ranges, names and so on of all chains of a listener. Far more than are ever
/// meant; it keeps a few long lists from becoming gigabytes of maps.
pub const COMBINATIONS_MAX: usize = 100_000;

impl FilterChains {
    /// Chains to choose from, and the one for what none of them matches.
    ///
    /// # Errors
    /// See [`FilterChainsError`].
    pub fn new(
        chains: Vec<(FilterChainMatch, Arc<FilterChain>)>,
        default: Option<Arc<FilterChain>>,
    ) -> Result<FilterChains, FilterChainsError> {
        let mut tree = Tree::default();
        let mut combinations = 0usize;
        let mut list = Vec::with_capacity(chains.len());
        for (index, (criteria, chain)) in chains.into_iter().enumerate() {
            combinations = combinations.saturating_add(criteria.combinations());
            if combinations > COMBINATIONS_MAX {
                return Err(FilterChainsError::TooManyCombinations { chain: index });
            }
            tree.add(&criteria, index)
                .map_err(|TakenBy(first)| FilterChainsError::Overlap { first, second: index })?;
            list.push(chain);
        }
        Ok(FilterChains { chains: list, default, tree: Arc::new(tree) })
    }

    /// The chain for a connection; `None` closes it.
    #[must_use]
    pub fn find(&self, facts: &ConnectionFacts<'_>) -> Option<&Arc<FilterChain>> {
        let found = self.tree.find(facts).and_then(|index| self.chains.get(index));
        found.or(self.default.as_ref())
    }

    /// The same with some chains replaced; nothing if `renew` has none to replace.
    pub(crate) fn renewed(
        &self,
        renew: impl Fn(&FilterChain) -> Option<FilterChain>,
    ) -> Option<FilterChains> {
        let mut next = self.clone();
        let mut any = false;
        for chain in next.chains.iter_mut().chain(&mut next.default) {
            if let Some(other) = renew(chain) {
                *chain = Arc::new(other);
                any = true;
            }
        }
        any.then_some(next)
    }

    /// Every chain, the default one last.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().chain(&self.default)
    }
}

impl FilterChainMatch {
    fn combinations(&self) -> usize {
        [
            self.prefix_ranges.len(),
            self.server_names.len(),
            self.application_protocols.len(),
            self.direct_source_prefix_ranges.len(),
            self.source_prefix_ranges.len(),
            self.source_ports.len(),
        ]
        .into_iter()
        .fold(1, |product, length| product.saturating_mul(length.max(1)))
    }
}

/// The one address that Envoy takes for loopback; others of 127.0.0.0/8 are external to it.
fn is_the_loopback(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::LOCALHOST) || address == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

impl SourceType {
    fn of(facts: &ConnectionFacts<'_>) -> SourceType {
        let Some(source) = facts.source else { return SourceType::SameIpOrLoopback };
        let source = source.ip().to_canonical();
        let same = |destination: SocketAddr| destination.ip().to_canonical() == source;
        if is_the_loopback(source) || facts.destination.is_some_and(same) {
            SourceType::SameIpOrLoopback
        } else {
            SourceType::External
        }
    }
}

/// What the chains of a listener are told apart by, one fact after the other.
#[derive(Debug)]
struct Tree {
    /// The first is the root. Every path from it to a chain passes one node for each step.
    nodes: Vec<Node>,
}

/// The chains that are left before a step, in groups by what they say of its fact.
#[derive(Debug, Default)]
struct Node {
    /// The node of the next step; after the last step, the chain.
    groups: BTreeMap<Value<'static>, usize>,
    /// The same for chains that say nothing.
    rest: Option<usize>,
    /// Lengths of the prefixes among the groups, the longest first.
    prefix_lengths: Vec<u8>,
}

/// What a chain says of a fact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Value<'a> {
    Port(u16),
    /// Prefix length and network.
    Range(u8, IpAddr),
    Text(Cow<'a, [u8]>),
    Source(SourceType),
}

/// The facts, in the order in which they are looked at.
#[derive(Debug, Clone, Copy)]
enum Step {
    DestinationPort,
    DestinationIp,
    ServerName,
    TransportProtocol,
    ApplicationProtocol,
    DirectSourceIp,
    SourceType,
    SourceIp,
    SourcePort,
}

const STEPS: [Step; 9] = [
    Step::DestinationPort,
    Step::DestinationIp,
    Step::ServerName,
    Step::TransportProtocol,
    Step::ApplicationProtocol,
    Step::DirectSourceIp,
    Step::SourceType,
    Step::SourceIp,
    Step::SourcePort,
];

/// The chain that a combination of criteria leads to already.
struct TakenBy(usize);

impl Default for Tree {
    fn default() -> Tree {
        Tree { nodes: vec![Node::default()] }
    }
}

impl Tree {
    fn add(&mut self, criteria: &FilterChainMatch, chain: usize) -> Result<(), TakenBy> {
        self.add_below(0, &STEPS, criteria, chain)
    }

    fn add_below(
        &mut self,
        node: usize,
        steps: &[Step],
        criteria: &FilterChainMatch,
        chain: usize,
    ) -> Result<(), TakenBy> {
        let Some((step, later)) = steps.split_first() else { return Ok(()) };
        let values = step.values(criteria);
        let groups: Vec<Option<Value<'static>>> = match values.is_empty() {
            true => vec![None],
            false => values.into_iter().map(Some).collect(),
        };
        for group in groups {
            let next = match (self.nodes[node].group(group.as_ref()), later.is_empty()) {
                (Some(next), false) => next,
                (None, false) => {
                    self.nodes.push(Node::default());
                    let next = self.nodes.len() - 1;
                    self.nodes[node].insert(group, next);
                    next
                }
                // A chain may say a thing twice.
                (Some(other), true) if other != chain => return Err(TakenBy(other)),
                (_, true) => {
                    self.nodes[node].insert(group, chain);
                    continue;
                }
            };
            self.add_below(next, later, criteria, chain)?;
        }
        Ok(())
    }

    fn find(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        STEPS.iter().try_fold(0, |node, step| self.nodes.get(node)?.find(*step, facts))
    }
}

impl Step {
    /// What a chain says; nothing is an empty list.
    fn values(self, criteria: &FilterChainMatch) -> Vec<Value<'static>> {
        let port = |port: &u16| Value::Port(*port);
        let range = |range: &(IpAddr, u8)| Value::Range(range.1, network(range.0, range.1));
        let text = |text: &[u8]| Value::Text(Cow::Owned(text.to_vec()));
        match self {
            Step::DestinationPort => criteria.destination_port.iter().map(port).collect(),
            Step::DestinationIp => criteria.prefix_ranges.iter().map(range).collect(),
            Step::ServerName => {
                criteria.server_names.iter().map(|name| text(name.as_bytes())).collect()
            }
            Step::TransportProtocol => {
                criteria.transport_protocol.iter().map(|name| text(name.as_bytes())).collect()
            }
            Step::ApplicationProtocol => {
                criteria.application_protocols.iter().map(|name| text(name)).collect()
            }
            Step::DirectSourceIp => {
                criteria.direct_source_prefix_ranges.iter().map(range).collect()
            }
            Step::SourceType => match criteria.source_type {
                SourceType::Any => Vec::new(),
                special => vec![Value::Source(special)],
            },
            Step::SourceIp => criteria.source_prefix_ranges.iter().map(range).collect(),
            Step::SourcePort => criteria.source_ports.iter().map(port).collect(),
        }
    }
}

impl Node {
    fn group(&self, value: Option<&Value<'_>>) -> Option<usize> {
        match value {
            Some(value) => self.groups.get(value).copied(),
            None => self.rest,
        }
    }

    fn insert(&mut self, value: Option<Value<'static>>, next: usize) {
        let Some(value) = value else {
            self.rest = Some(next);
            return;
        };
        if let Value::Range(length, _) = value
            && let Err(at) = self.prefix_lengths.binary_search_by(|known| length.cmp(known))
        {
            self.prefix_lengths.insert(at, length);
        }
        self.groups.insert(value, next);
    }

    /// The most specific group that the connection is in.
    fn find(&self, step: Step, facts: &ConnectionFacts<'_>) -> Option<usize> {
        if self.groups.is_empty() {
            return self.rest;
        }
        let text = |text| self.group(Some(&Value::Text(Cow::Borrowed(text))));
        let found = match step {
            Step::DestinationPort => self.port(facts.destination),
            Step::DestinationIp => self.range(facts.destination),
            Step::ServerName => self.server_name(facts.server_name),
            Step::TransportProtocol => text(facts.transport_protocol.as_bytes()),
            // In the client's order.
            Step::ApplicationProtocol => {
                facts.application_protocols.iter().find_map(|protocol| text(protocol))
            }
            Step::DirectSourceIp => self.range(facts.direct_source),
            Step::SourceType => self.group(Some(&Value::Source(SourceType::of(facts)))),
            Step::SourceIp => self.range(facts.source),
            Step::SourcePort => self.port(facts.source),
        };
        found.or(self.rest)
    }

    fn port(&self, address: Option<SocketAddr>) -> Option<usize> {
        self.group(Some(&Value::Port(address?.port())))
    }

    /// What has no address is in no range.
    fn range(&self, address: Option<SocketAddr>) -> Option<usize> {
        // A dual-stack socket writes its IPv4 peers as IPv6 addresses.
        let address = address?.ip().to_canonical();
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let lengths = self.prefix_lengths.iter().filter(|length| **length <= bits);
        lengths
            .copied()
            .find_map(|length| self.group(Some(&Value::Range(length, network(address, length)))))
    }

    /// The whole name, then each suffix of it that starts with a dot, the longest first.
    fn server_name(&self, name: &str) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        let group = |name: &str| self.group(Some(&Value::Text(Cow::Borrowed(name.as_bytes()))));
        // Wildcards are kept with their star, which no client may pass off as a part of its name.
        let whole = group(&name).filter(|_| !name.starts_with('*'));
        whole.or_else(|| {
            let dots = name.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0);
            dots.map(|at| format!("*{}", &name[at..])).find_map(|wildcard| group(&wildcard))
        })
    }
}
