//! Choosing the filter chain of a connection (contract section 3).
//!
//! Invariant: at each step only the most specific group of chains that matches survives, and there
//! is no going back to a less specific one. What no chain matches goes to the default chain.
//!
//! The steps are maps within maps, one level for each fact in the order of the contract, so a search
//! is nine look-ups. A chain with several values in several of its lists is in the maps once for each
//! combination of them, which [`COMBINATIONS_MAX`] bounds.

use std::borrow::{Borrow, Cow};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use thiserror::Error;

use super::address::network;
use super::listener::FilterChain;

/// The filter chains of one listener, compiled for the search.
#[derive(Debug, Clone, Default)]
pub struct FilterChains {
    chains: Vec<Arc<FilterChain>>,
    default: Option<Arc<FilterChain>>,
    first_step: Arc<DestinationPort>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
        let mut first_step = DestinationPort::default();
        let mut combinations = 0usize;
        let mut list = Vec::with_capacity(chains.len());
        for (index, (criteria, chain)) in chains.into_iter().enumerate() {
            combinations = combinations.saturating_add(criteria.combinations());
            if combinations > COMBINATIONS_MAX {
                return Err(FilterChainsError::TooManyCombinations { chain: index });
            }
            first_step
                .add(&criteria, index)
                .map_err(|TakenBy(first)| FilterChainsError::Overlap { first, second: index })?;
            list.push(chain);
        }
        Ok(FilterChains { chains: list, default, first_step: Arc::new(first_step) })
    }

    /// The chain for a connection; `None` closes it.
    #[must_use]
    pub fn find(&self, facts: &ConnectionFacts<'_>) -> Option<&Arc<FilterChain>> {
        let found = self.first_step.find(facts).and_then(|index| self.chains.get(index));
        found.or(self.default.as_ref())
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

impl SourceType {
    fn is_local(facts: &ConnectionFacts<'_>) -> bool {
        let Some(source) = facts.source else { return true };
        let source = source.ip().to_canonical();
        let same = |destination: SocketAddr| destination.ip().to_canonical() == source;
        source.is_loopback() || facts.destination.is_some_and(same)
    }
}

/// The chain that a combination of criteria leads to already.
struct TakenBy(usize);

/// Groups by a value that is equal or not.
#[derive(Debug)]
struct ByValue<K, T> {
    groups: BTreeMap<K, T>,
    /// Chains that say nothing of it.
    rest: Option<Box<T>>,
}

impl<K, T> Default for ByValue<K, T> {
    fn default() -> ByValue<K, T> {
        ByValue { groups: BTreeMap::new(), rest: None }
    }
}

impl<K: Ord + Clone, T: Default> ByValue<K, T> {
    /// Runs `add` on the group of each value; of no value, on the group of those without one.
    fn add(
        &mut self,
        values: &[K],
        mut add: impl FnMut(&mut T) -> Result<(), TakenBy>,
    ) -> Result<(), TakenBy> {
        if values.is_empty() {
            return add(self.rest.get_or_insert_default());
        }
        values.iter().try_for_each(|value| add(self.groups.entry(value.clone()).or_default()))
    }

    fn find<Q: Ord + ?Sized>(&self, value: &Q) -> Option<&T>
    where
        K: Borrow<Q>,
    {
        self.groups.get(value).or(self.rest.as_deref())
    }

    fn find_any<'q, Q: Ord + ?Sized + 'q>(
        &self,
        mut values: impl Iterator<Item = &'q Q>,
    ) -> Option<&T>
    where
        K: Borrow<Q>,
    {
        values.find_map(|value| self.groups.get(value)).or(self.rest.as_deref())
    }
}

/// Groups by the range that an address is in, the longest prefix first.
#[derive(Debug)]
struct ByRange<T> {
    groups: BTreeMap<Reverse<u8>, BTreeMap<IpAddr, T>>,
    /// Chains that say nothing of it.
    rest: Option<Box<T>>,
}

impl<T> Default for ByRange<T> {
    fn default() -> ByRange<T> {
        ByRange { groups: BTreeMap::new(), rest: None }
    }
}

impl<T: Default> ByRange<T> {
    fn add(
        &mut self,
        ranges: &[(IpAddr, u8)],
        mut add: impl FnMut(&mut T) -> Result<(), TakenBy>,
    ) -> Result<(), TakenBy> {
        if ranges.is_empty() {
            return add(self.rest.get_or_insert_default());
        }
        ranges.iter().try_for_each(|(address, length)| {
            let same_length = self.groups.entry(Reverse(*length)).or_default();
            add(same_length.entry(network(*address, *length)).or_default())
        })
    }

    /// What has no address is in no range.
    fn find(&self, address: Option<SocketAddr>) -> Option<&T> {
        let in_range = |address: SocketAddr| {
            // A dual-stack socket writes its IPv4 peers as IPv6 addresses.
            let address = address.ip().to_canonical();
            let bits = if address.is_ipv4() { 32 } else { 128 };
            self.groups
                .range(Reverse(bits)..)
                .find_map(|(Reverse(length), ranges)| ranges.get(&network(address, *length)))
        };
        address.and_then(in_range).or(self.rest.as_deref())
    }
}

/// Step 1.
#[derive(Debug, Default)]
struct DestinationPort(ByValue<u16, DestinationIp>);

impl DestinationPort {
    fn add(&mut self, criteria: &FilterChainMatch, chain: usize) -> Result<(), TakenBy> {
        self.0.add(criteria.destination_port.as_slice(), |next| next.add(criteria, chain))
    }

    fn find(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        let port = facts.destination.map(|address| address.port());
        self.0.find_any(port.iter())?.find(facts)
    }
}

/// Step 2.
#[derive(Debug, Default)]
struct DestinationIp(ByRange<ServerName>);

impl DestinationIp {
    fn add(&mut self, criteria: &FilterChainMatch, chain: usize) -> Result<(), TakenBy> {
        self.0.add(&criteria.prefix_ranges, |next| next.add(criteria, chain))
    }

    fn find(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        self.0.find(facts.destination)?.find(facts)
    }
}

/// Step 3: the whole name, then each suffix of it that starts with a dot, the longest first.
#[derive(Debug, Default)]
struct ServerName(ByValue<Box<str>, TransportProtocol>);

impl ServerName {
    fn add(&mut self, criteria: &FilterChainMatch, chain: usize) -> Result<(), TakenBy> {
        self.0.add(&criteria.server_names, |next| next.add(criteria, chain))
    }

    fn find(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        if self.0.groups.is_empty() {
            return self.0.rest.as_deref()?.find(facts);
        }
        // Wildcards are keys with their star, which no client may pass for a name.
        let is_name = !facts.server_name.starts_with('*');
        let name = facts.server_name;
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        let whole = self.0.groups.get(&*name).filter(|_| is_name);
        let group = whole.or_else(|| {
            let mut wildcard = String::with_capacity(name.len() + 1);
            let dots = name.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0);
            dots.filter_map(|at| {
                wildcard.clear();
                wildcard.push('*');
                wildcard.push_str(&name[at..]);
                self.0.groups.get(&*wildcard)
            })
            .next()
        });
        group.or(self.0.rest.as_deref())?.find(facts)
    }
}

/// Step 4.
#[derive(Debug, Default)]
struct TransportProtocol(ByValue<Box<str>, ApplicationProtocol>);

impl TransportProtocol {
    fn add(&mut self, criteria: &FilterChainMatch, chain: usize) -> Result<(), TakenBy> {
        self.0.add(criteria.transport_protocol.as_slice(), |next| next.add(criteria, chain))
    }

    fn find(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        self.0.find(facts.transport_protocol)?.find(facts)
    }
}

/// Step 5: in the client's order.
#[derive(Debug, Default)]
struct ApplicationProtocol(ByValue<Box<[u8]>, DirectSourceIp>);

impl ApplicationProtocol {
    fn add(&mut self, criteria: &FilterChainMatch, chain: usize) -> Result<(), TakenBy> {
        self.0.add(&criteria.application_protocols, |next| next.add(criteria, chain))
    }

    fn find(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        self.0.find_any(facts.application_protocols.iter().copied())?.find(facts)
    }
}

/// Step 6.
#[derive(Debug, Default)]
struct DirectSourceIp(ByRange<BySourceType>);

impl DirectSourceIp {
    fn add(&mut self, criteria: &FilterChainMatch, chain: usize) -> Result<(), TakenBy> {
        self.0.add(&criteria.direct_source_prefix_ranges, |next| next.add(criteria, chain))
    }

    fn find(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        self.0.find(facts.direct_source)?.find(facts)
    }
}

/// Step 7.
#[derive(Debug, Default)]
struct BySourceType {
    local: Option<Box<SourceIp>>,
    external: Option<Box<SourceIp>>,
    any: Option<Box<SourceIp>>,
}

impl BySourceType {
    fn add(&mut self, criteria: &FilterChainMatch, chain: usize) -> Result<(), TakenBy> {
        let group = match criteria.source_type {
            SourceType::Any => &mut self.any,
            SourceType::SameIpOrLoopback => &mut self.local,
            SourceType::External => &mut self.external,
        };
        group.get_or_insert_default().add(criteria, chain)
    }

    fn find(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        let special = if SourceType::is_local(facts) { &self.local } else { &self.external };
        special.as_deref().or(self.any.as_deref())?.find(facts)
    }
}

/// Step 8.
#[derive(Debug, Default)]
struct SourceIp(ByRange<SourcePort>);

impl SourceIp {
    fn add(&mut self, criteria: &FilterChainMatch, chain: usize) -> Result<(), TakenBy> {
        self.0.add(&criteria.source_prefix_ranges, |next| next.add(criteria, chain))
    }

    fn find(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        self.0.find(facts.source)?.find(facts)
    }
}

/// Step 9, which leads to one chain.
#[derive(Debug, Default)]
struct SourcePort(ByValue<u16, Option<usize>>);

impl SourcePort {
    fn add(&mut self, criteria: &FilterChainMatch, chain: usize) -> Result<(), TakenBy> {
        self.0.add(&criteria.source_ports, |slot| match *slot {
            // A chain may say a thing twice.
            Some(other) if other != chain => Err(TakenBy(other)),
            _ => {
                *slot = Some(chain);
                Ok(())
            }
        })
    }

    fn find(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        let port = facts.source.map(|address| address.port());
        *self.0.find_any(port.iter())?
    }
}
