//! From a request to its route, without allocating.
//!
//! The host is read once, from its end: one running hash gives the whole host's and, on the way, that
//! of every suffix for which the table has a wildcard of that length. So the cost grows with the host's
//! length, not with the number of domains. A table whose only domain is `*` reads nothing of the host.
//! Hash flooding is no concern: the keys come from the configuration, requests only ask.
//!
//! A clone shares everything with the original, and goes on doing so with what is then not changed: a
//! virtual host more costs the same among ten and among ten thousand.

use std::sync::{Arc, LazyLock};

use thiserror::Error;

use super::demand::Demand;
use super::headers::HeaderEdits;
use super::http_filters::FilterOverrides;
use super::matcher::RequestView;
use super::route::{
    ClientCertificateMatcher, PathMatcher, Redirect, RequireTls, Route, RouteAction, RouteId,
    RouteMatcher, VirtualHost,
};
use super::shared_map::SharedMap;

/// A compiled RouteConfiguration.
#[derive(Debug, Clone)]
pub struct RouteTable {
    name: Arc<str>,
    /// By their numbers.
    hosts: SharedMap<Arc<Host>>,
    /// To be tried for the next host.
    next: u32,
    domains: Domains,
    ignore_port: bool,
    further: Option<Further>,
}

/// A virtual host's number in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostId(u32);

/// What a table can come to have when it is asked for.
#[derive(Debug, Clone)]
enum Further {
    /// Virtual hosts, with the table's key.
    Hosts(Arc<str>),
    /// Everything: it stands for the table of a scope, which was not asked for yet.
    All(Demand),
}

/// A virtual host as it is in a table.
#[derive(Debug)]
struct Host {
    number: u32,
    name: Arc<str>,
    domains: Vec<Box<str>>,
    require_tls: RequireTls,
    routes: Box<[Route]>,
}

/// Why a table was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RouteTableError {
    /// A domain may be in a table once, without regard to case.
    #[error("domain {domain:?} is in virtual host {first:?} and in {second:?}")]
    DuplicateDomain {
        /// In lower case.
        domain: Box<str>,
        /// The virtual host that has it.
        first: Box<str>,
        /// The one that has it too; may be the same.
        second: Box<str>,
    },
    /// A star in the middle, or two of them.
    #[error("domain {domain:?}: a wildcard may only be the first or the last character")]
    Wildcard {
        /// As configured.
        domain: Box<str>,
    },
    /// More than u32::MAX routes of a virtual host.
    #[error("more than {} routes", u32::MAX)]
    TooManyRoutes,
}

impl RouteTable {
    /// Indexes the hosts and numbers the routes; ids in `hosts` are replaced.
    ///
    /// # Errors
    /// See [`RouteTableError`].
    pub fn new(
        name: &str,
        hosts: Vec<VirtualHost>,
        ignore_port_in_host_matching: bool,
    ) -> Result<RouteTable, RouteTableError> {
        let mut table =
            RouteTable { ignore_port: ignore_port_in_host_matching, ..RouteTable::empty(name) };
        for host in hosts {
            table.insert(host)?;
        }
        Ok(table)
    }

    /// A table without hosts, which has no route for any request.
    #[must_use]
    pub fn empty(name: &str) -> RouteTable {
        RouteTable {
            name: name.into(),
            hosts: SharedMap::default(),
            next: 0,
            domains: Domains::default(),
            ignore_port: false,
            further: None,
        }
    }

    /// Adds a virtual host, whose routes are numbered. Routes of other hosts keep their numbers.
    ///
    /// # Errors
    /// See [`RouteTableError`]; the table is then as it was.
    pub fn insert(&mut self, host: VirtualHost) -> Result<HostId, RouteTableError> {
        let VirtualHost { name, domains, require_tls, routes } = host;
        let mut routes = routes.into_boxed_slice();
        let number = self.free_number();
        for (at, route) in routes.iter_mut().enumerate() {
            let at = u32::try_from(at).map_err(|_| RouteTableError::TooManyRoutes)?;
            route.id = RouteId { host: number, route: at };
        }
        let host = Arc::new(Host { number, name, domains, require_tls, routes });
        for (at, domain) in host.domains.iter().enumerate() {
            if let Err(fault) = self.domains.insert(domain, &host) {
                host.domains[..at].iter().for_each(|domain| self.domains.remove(domain));
                return Err(match fault {
                    DomainFault::Wildcard => RouteTableError::Wildcard { domain: domain.clone() },
                    DomainFault::TakenBy(other) => RouteTableError::DuplicateDomain {
                        domain: domain.to_ascii_lowercase().into(),
                        first: (*other).into(),
                        second: (&*host.name).into(),
                    },
                });
            }
        }
        self.next = number.wrapping_add(1);
        self.hosts.insert(number.into(), host);
        Ok(HostId(number))
    }

    /// Takes a virtual host away.
    pub fn remove(&mut self, id: HostId) {
        if let Some(host) = self.hosts.remove(id.0.into(), |_| true) {
            host.domains.iter().for_each(|domain| self.domains.remove(domain));
        }
    }

    /// Numbers are given again after all others. There are fewer hosts than numbers: each has a size.
    fn free_number(&self) -> u32 {
        let mut number = self.next;
        while number == TLS_REDIRECT_ID.host || self.hosts.get(number.into(), |_| true).is_some() {
            number = number.wrapping_add(1);
        }
        number
    }

    /// Stands for the table called `name` until that was asked for: it has no route for any request.
    #[must_use]
    pub fn to_come(name: &str, demand: Demand) -> RouteTable {
        RouteTable { further: Some(Further::All(demand)), ..RouteTable::empty(name) }
    }

    /// The table, to which virtual hosts can come that are asked for by this key.
    #[must_use]
    pub fn with_hosts_to_come(self, key: &str) -> RouteTable {
        RouteTable { further: Some(Further::Hosts(key.into())), ..self }
    }

    /// The configured name; may be empty.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The route of `request`; `random`, uniform over u64, decides runtime fractions. The same number
    /// is to be used for [`WeightedClusters::pick`](super::WeightedClusters::pick).
    ///
    /// A host that demands TLS answers a plain request with a built-in redirect route. `None` means
    /// that no virtual host or none of its routes matches: `route_not_found`.
    #[must_use]
    pub fn find<R: RequestView>(&self, request: &R, random: u64) -> Option<&Route> {
        let host = self.host(request)?;
        let tls_demanded = match host.require_tls {
            RequireTls::None => false,
            RequireTls::ExternalOnly => !request.is_internal(),
            RequireTls::All => true,
        };
        if tls_demanded && !request.scheme().eq_ignore_ascii_case(b"https") {
            return Some(&TLS_REDIRECT);
        }
        let (path, query) = split_path(request.path_and_query());
        host.routes.iter().find(|route| route.matcher.matches(request, path, query, random))
    }

    /// What could be asked for, for a request for which no route was found: a virtual host even where one
    /// is there, as Envoy does. One by a wildcard may give way to one of the request's own.
    #[must_use]
    pub fn demand<R: RequestView>(&self, request: &R) -> Option<Demand> {
        match self.further.as_ref()? {
            Further::All(demand) => Some(demand.clone()),
            // The port is part of it, whether or not ports are looked at here: as Envoy asks.
            Further::Hosts(key) => Demand::virtual_host(key, request.authority()),
        }
    }

    /// The route with this id; `None` only for an id of another table.
    #[must_use]
    pub fn route(&self, id: RouteId) -> Option<&Route> {
        if id == TLS_REDIRECT_ID {
            return Some(&TLS_REDIRECT);
        }
        self.hosts.get(id.host.into(), |_| true)?.routes.get(id.route as usize)
    }

    /// Every configured route, in order.
    #[must_use]
    pub fn routes(&self) -> Vec<&Route> {
        self.in_order().into_iter().flat_map(|host| &host.routes).collect()
    }

    /// Names and domains of the virtual hosts, in the order of their numbers.
    pub fn virtual_hosts(&self) -> impl Iterator<Item = (&Arc<str>, &[Box<str>])> {
        self.in_order().into_iter().map(|host| (&host.name, &*host.domains))
    }

    fn in_order(&self) -> Vec<&Host> {
        let mut hosts: Vec<&Host> = self.hosts.all().into_iter().map(|host| &**host).collect();
        hosts.sort_unstable_by_key(|host| host.number);
        hosts
    }

    /// The name of the virtual host that serves `request`.
    #[must_use]
    pub fn virtual_host<R: RequestView>(&self, request: &R) -> Option<&str> {
        self.host(request).map(|host| &*host.name)
    }

    fn host<R: RequestView>(&self, request: &R) -> Option<&Host> {
        if self.domains.only_default() {
            return self.domains.default.as_deref();
        }
        let authority = request.authority();
        let host = if self.ignore_port { without_port(authority) } else { authority };
        self.domains.find(host)
    }
}

/// What a virtual host that demands TLS answers plain requests with, in every table.
static TLS_REDIRECT: LazyLock<Route> = LazyLock::new(redirect_to_https);

/// No host of a table has this number.
const TLS_REDIRECT_ID: RouteId = RouteId { host: u32::MAX, route: 0 };

fn redirect_to_https() -> Route {
    Route {
        id: TLS_REDIRECT_ID,
        name: "".into(),
        virtual_host: "".into(),
        matcher: RouteMatcher {
            path: PathMatcher::Prefix { text: Box::default(), case_sensitive: true },
            headers: Box::default(),
            query: Box::default(),
            grpc: false,
            client_certificate: ClientCertificateMatcher::default(),
            fraction: None,
        },
        action: RouteAction::Redirect(Box::new(Redirect {
            status: 301,
            scheme: Some("https".into()),
            host: None,
            port: None,
            path: None,
            strip_query: false,
        })),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        include_request_attempt_count: false,
        include_attempt_count_in_response: false,
        stat_prefix: None,
        filters: FilterOverrides::default(),
        body_buffer_bytes: None,
        decorator: None,
        metadata: None,
    }
}

/// Cuts `:port` off, without being misled by the colons of an IPv6 literal.
fn without_port(authority: &[u8]) -> &[u8] {
    match memchr::memrchr(b':', authority) {
        Some(colon) if memchr::memchr(b']', &authority[colon..]).is_none() => &authority[..colon],
        _ => authority,
    }
}

/// Path, and query without its `?`. A fragment belongs to neither.
fn split_path(path_and_query: &[u8]) -> (&[u8], &[u8]) {
    let whole = match memchr::memchr(b'#', path_and_query) {
        Some(hash) => &path_and_query[..hash],
        None => path_and_query,
    };
    match memchr::memchr(b'?', whole) {
        Some(mark) => (&whole[..mark], &whole[mark + 1..]),
        None => (whole, b""),
    }
}

impl RouteMatcher {
    fn matches<R: RequestView>(&self, request: &R, path: &[u8], query: &[u8], random: u64) -> bool {
        // Cheapest and most selective first; all of them must hold, so the order is not seen.
        self.path.matches(request.method(), path)
            && self.fraction.as_ref().is_none_or(|fraction| fraction.contains(random))
            && (!self.grpc || is_grpc(request))
            && self.client_certificate.matches(request)
            && self.headers.iter().all(|matcher| matcher.matches(request))
            && self.query.iter().all(|matcher| matcher.matches(query))
    }
}

impl PathMatcher {
    fn matches(&self, method: &[u8], path: &[u8]) -> bool {
        if let PathMatcher::Connect = self {
            return method == b"CONNECT";
        }
        // A CONNECT without a path is for connect matchers only.
        if path.is_empty() {
            return false;
        }
        match self {
            PathMatcher::Prefix { text, case_sensitive } => has_prefix(path, text, *case_sensitive),
            PathMatcher::Exact { text, case_sensitive } => {
                path.len() == text.len() && has_prefix(path, text, *case_sensitive)
            }
            PathMatcher::SeparatedPrefix { text, case_sensitive } => {
                has_prefix(path, text, *case_sensitive)
                    && path.get(text.len()).is_none_or(|next| *next == b'/')
            }
            PathMatcher::Regex(pattern) => pattern.matches(path),
            PathMatcher::Connect => false,
        }
    }
}

fn has_prefix(path: &[u8], prefix: &[u8], case_sensitive: bool) -> bool {
    match path.get(..prefix.len()) {
        Some(head) if case_sensitive => head == prefix,
        Some(head) => head.eq_ignore_ascii_case(prefix),
        None => false,
    }
}

impl ClientCertificateMatcher {
    fn matches<R: RequestView>(self, request: &R) -> bool {
        let ClientCertificateMatcher { presented, validated } = self;
        presented.is_none_or(|wanted| wanted == request.client_certificate_presented())
            && validated.is_none_or(|wanted| wanted == request.client_certificate_validated())
    }
}

fn is_grpc<R: RequestView>(request: &R) -> bool {
    let mut types = request.header_values("content-type");
    types.next().is_some_and(|value| match value.strip_prefix(b"application/grpc") {
        Some(rest) => rest.is_empty() || rest[0] == b'+',
        None => false,
    })
}

/// Domains to virtual hosts.
#[derive(Debug, Clone, Default)]
struct Domains {
    exact: SharedMap<Domain>,
    /// Keys without the leading star.
    suffixes: SharedMap<Domain>,
    /// Keys without the trailing star.
    prefixes: SharedMap<Domain>,
    suffix_lengths: Lengths,
    prefix_lengths: Lengths,
    /// No exact key is longer, or was: no longer host needs to be hashed for it.
    exact_length_max: usize,
    /// Of `*`.
    default: Option<Arc<Host>>,
}

#[derive(Debug, Clone)]
struct Domain {
    /// Lower case.
    key: Arc<str>,
    host: Arc<Host>,
}

enum DomainFault {
    Wildcard,
    /// The virtual host of that name.
    TakenBy(Arc<str>),
}

/// Where a domain is looked up.
#[derive(Clone, Copy)]
enum Shape {
    Exact,
    Suffix,
    Prefix,
}

impl Domains {
    fn insert(&mut self, domain: &str, host: &Arc<Host>) -> Result<(), DomainFault> {
        if domain == "*" {
            return match &self.default {
                Some(other) => Err(DomainFault::TakenBy(Arc::clone(&other.name))),
                None => {
                    self.default = Some(Arc::clone(host));
                    Ok(())
                }
            };
        }
        let domain = domain.to_ascii_lowercase();
        let (shape, key) = shape(&domain);
        if key.is_empty() || key.contains('*') {
            return Err(DomainFault::Wildcard);
        }
        let hash = shape.hash(key);
        let domains = self.of(shape);
        if let Some(known) = domains.get(hash, |known| *known.key == *key) {
            return Err(DomainFault::TakenBy(Arc::clone(&known.host.name)));
        }
        domains.insert(hash, Domain { key: key.into(), host: Arc::clone(host) });
        match shape {
            Shape::Exact => self.exact_length_max = self.exact_length_max.max(key.len()),
            Shape::Suffix => self.suffix_lengths.add(key.len()),
            Shape::Prefix => self.prefix_lengths.add(key.len()),
        }
        Ok(())
    }

    /// Takes a domain away that is there.
    fn remove(&mut self, domain: &str) {
        if domain == "*" {
            self.default = None;
            return;
        }
        let domain = domain.to_ascii_lowercase();
        let (shape, key) = shape(&domain);
        self.of(shape).remove(shape.hash(key), |known| *known.key == *key);
        match shape {
            Shape::Exact => {}
            Shape::Suffix => self.suffix_lengths.remove(key.len()),
            Shape::Prefix => self.prefix_lengths.remove(key.len()),
        }
    }

    fn of(&mut self, shape: Shape) -> &mut SharedMap<Domain> {
        match shape {
            Shape::Exact => &mut self.exact,
            Shape::Suffix => &mut self.suffixes,
            Shape::Prefix => &mut self.prefixes,
        }
    }

    fn only_default(&self) -> bool {
        self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty()
    }

    /// Exact, then the longest suffix, then the longest prefix, then `*`. A star stands for at least
    /// one character.
    fn find(&self, host: &[u8]) -> Option<&Host> {
        let mut longest_suffix = None;
        let mut hash = RunningHash::default();
        let mut hashed = 0;
        let mut extend = |to: usize| {
            for byte in host[host.len() - to..host.len() - hashed].iter().rev() {
                hash = hash.with(*byte);
            }
            hashed = to;
            hash.finish()
        };
        for length in self.suffix_lengths.below(host.len()) {
            let tail = &host[host.len() - length..];
            if let Some(entry) = lookup(&self.suffixes, extend(length), tail) {
                longest_suffix = Some(&*entry.host);
            }
        }
        if !host.is_empty()
            && host.len() <= self.exact_length_max
            && let Some(entry) = lookup(&self.exact, extend(host.len()), host)
        {
            return Some(&entry.host);
        }
        longest_suffix.or_else(|| self.longest_prefix(host)).or(self.default.as_deref())
    }

    fn longest_prefix(&self, host: &[u8]) -> Option<&Host> {
        let mut longest = None;
        let mut hash = RunningHash::default();
        let mut hashed = 0;
        for length in self.prefix_lengths.below(host.len()) {
            hash = host[hashed..length].iter().fold(hash, |hash, byte| hash.with(*byte));
            hashed = length;
            if let Some(entry) = lookup(&self.prefixes, hash.finish(), &host[..length]) {
                longest = Some(&*entry.host);
            }
        }
        longest
    }
}

fn lookup<'a>(domains: &'a SharedMap<Domain>, hash: u64, key: &[u8]) -> Option<&'a Domain> {
    domains.get(hash, |entry| entry.key.as_bytes().eq_ignore_ascii_case(key))
}

/// Where a domain other than `*` is looked up, and by what.
fn shape(domain: &str) -> (Shape, &str) {
    if let Some(suffix) = domain.strip_prefix('*') {
        (Shape::Suffix, suffix)
    } else if let Some(prefix) = domain.strip_suffix('*') {
        (Shape::Prefix, prefix)
    } else {
        (Shape::Exact, domain)
    }
}

impl Shape {
    /// Suffixes and whole hosts are met from the end, prefixes from the start.
    fn hash(self, key: &str) -> u64 {
        let hash = match self {
            Shape::Prefix => key.bytes().fold(RunningHash::default(), RunningHash::with),
            Shape::Exact | Shape::Suffix => {
                key.bytes().rev().fold(RunningHash::default(), RunningHash::with)
            }
        };
        hash.finish()
    }
}

/// Lengths of keys, ascending, and how many keys have each.
#[derive(Debug, Clone, Default)]
struct Lengths(Vec<(usize, usize)>);

impl Lengths {
    fn add(&mut self, length: usize) {
        match self.0.binary_search_by_key(&length, |known| known.0) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (length, 1)),
        }
    }

    fn remove(&mut self, length: usize) {
        if let Ok(at) = self.0.binary_search_by_key(&length, |known| known.0) {
            self.0[at].1 -= 1;
            self.0.retain(|known| known.1 > 0);
        }
    }

    fn below(&self, bound: usize) -> impl Iterator<Item = usize> {
        self.0.iter().map(|known| known.0).take_while(move |length| *length < bound)
    }
}

/// A hash that can be read after every byte: FNV-1a over lower-cased bytes, its bits mixed at the end.
#[derive(Clone, Copy)]
struct RunningHash(u64);

impl Default for RunningHash {
    fn default() -> RunningHash {
        RunningHash(0xcbf2_9ce4_8422_2325)
    }
}

impl RunningHash {
    fn with(self, byte: u8) -> RunningHash {
        RunningHash(
            (self.0 ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0000_0100_0000_01b3),
        )
    }

    fn finish(self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }
}
