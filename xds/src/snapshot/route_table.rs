//! From a request to its route, without allocating.
//!
//! The host is read once, from its end: one running hash gives the whole host's and, on the way, that
//! of every suffix for which the table has a wildcard of that length. So the cost grows with the host's
//! length, not with the number of domains. A table whose only domain is `*` reads nothing of the host.
//! Hash flooding is no concern: the keys come from the configuration, requests only ask.

use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashTable;
use thiserror::Error;

use super::demand::Demand;
use super::headers::HeaderEdits;
use super::http_filters::FilterOverrides;
use super::matcher::RequestView;
use super::route::{
    ClientCertificateMatcher, PathMatcher, Redirect, RequireTls, Route, RouteAction, RouteId,
    RouteMatcher, VirtualHost,
};

/// A compiled RouteConfiguration.
#[derive(Debug)]
pub struct RouteTable {
    name: Box<str>,
    /// All routes of all hosts, each host's in a row, then the redirect to https.
    routes: Box<[Route]>,
    hosts: Box<[Host]>,
    domains: Domains,
    ignore_port: bool,
    tls_redirect: RouteId,
    further: Option<Further>,
}

/// What a table can come to have when it is asked for.
#[derive(Debug)]
enum Further {
    /// Virtual hosts, with the table's key.
    Hosts(Arc<str>),
    /// Everything: it stands for the table of a scope, which was not asked for yet.
    All(Demand),
}

/// What is left of a virtual host when its routes are laid out in the table.
#[derive(Debug)]
struct Host {
    name: Arc<str>,
    domains: Vec<Box<str>>,
    require_tls: RequireTls,
    routes: Range<u32>,
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
    /// More than u32::MAX routes.
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
        let mut routes = Vec::new();
        let mut laid_out = Vec::with_capacity(hosts.len());
        let mut domains = Domains::default();
        for host in hosts {
            let first = index(routes.len())?;
            for mut route in host.routes {
                route.id = RouteId(index(routes.len())?);
                routes.push(route);
            }
            let at = index(laid_out.len())?;
            for domain in &host.domains {
                domains.insert(domain, at).map_err(|fault| match fault {
                    DomainFault::Wildcard => RouteTableError::Wildcard { domain: domain.clone() },
                    DomainFault::TakenBy(other) => RouteTableError::DuplicateDomain {
                        domain: domain.to_ascii_lowercase().into(),
                        first: laid_out
                            .get(other as usize)
                            .map_or(&*host.name, |host: &Host| &*host.name)
                            .into(),
                        second: (&*host.name).into(),
                    },
                })?;
            }
            laid_out.push(Host {
                name: host.name,
                domains: host.domains,
                require_tls: host.require_tls,
                routes: first..index(routes.len())?,
            });
        }
        let tls_redirect = RouteId(index(routes.len())?);
        routes.push(redirect_to_https(tls_redirect));
        domains.finish();
        Ok(RouteTable {
            name: name.into(),
            routes: routes.into(),
            hosts: laid_out.into(),
            domains,
            ignore_port: ignore_port_in_host_matching,
            tls_redirect,
            further: None,
        })
    }

    /// A table without hosts, which has no route for any request.
    #[must_use]
    pub fn empty(name: &str) -> RouteTable {
        let tls_redirect = RouteId(0);
        RouteTable {
            name: name.into(),
            routes: Box::new([redirect_to_https(tls_redirect)]),
            hosts: Box::default(),
            domains: Domains::default(),
            ignore_port: false,
            tls_redirect,
            further: None,
        }
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
            return self.route(self.tls_redirect);
        }
        let routes = &self.routes[host.routes.start as usize..host.routes.end as usize];
        let (path, query) = split_path(request.path_and_query());
        routes.iter().find(|route| route.matcher.matches(request, path, query, random))
    }

    /// What could be asked for, for a request for which no route was found. Nothing where its virtual host
    /// is there, or can't come.
    #[must_use]
    pub fn demand<R: RequestView>(&self, request: &R) -> Option<Demand> {
        match self.further.as_ref()? {
            Further::All(demand) => Some(demand.clone()),
            Further::Hosts(_) if self.host(request).is_some() => None,
            // The port is part of it, whether or not ports are looked at here: as Envoy asks.
            Further::Hosts(key) => Demand::virtual_host(key, request.authority()),
        }
    }

    /// The route with this id; `None` only for an id of another table.
    #[must_use]
    pub fn route(&self, id: RouteId) -> Option<&Route> {
        self.routes.get(id.0 as usize)
    }

    /// Every configured route, in order.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes[..self.tls_redirect.0 as usize]
    }

    /// Names and domains of the virtual hosts, in order.
    pub fn virtual_hosts(&self) -> impl Iterator<Item = (&str, &[Box<str>])> {
        self.hosts.iter().map(|host| (&*host.name, &*host.domains))
    }

    /// The name of the virtual host that serves `request`.
    #[must_use]
    pub fn virtual_host<R: RequestView>(&self, request: &R) -> Option<&str> {
        self.host(request).map(|host| &*host.name)
    }

    fn host<R: RequestView>(&self, request: &R) -> Option<&Host> {
        if self.domains.only_default() {
            return self.domains.default.and_then(|at| self.hosts.get(at as usize));
        }
        let authority = request.authority();
        let host = if self.ignore_port { without_port(authority) } else { authority };
        self.domains.find(host).and_then(|at| self.hosts.get(at as usize))
    }
}

fn index(count: usize) -> Result<u32, RouteTableError> {
    u32::try_from(count).map_err(|_| RouteTableError::TooManyRoutes)
}

fn redirect_to_https(id: RouteId) -> Route {
    Route {
        id,
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
#[derive(Debug, Default)]
struct Domains {
    exact: HashTable<Domain>,
    /// Keys without the leading star.
    suffixes: HashTable<Domain>,
    /// Keys without the trailing star.
    prefixes: HashTable<Domain>,
    /// Distinct key lengths, ascending, once finished.
    suffix_lengths: Vec<usize>,
    prefix_lengths: Vec<usize>,
    /// Longest exact key: no longer host needs to be hashed for it.
    exact_length_max: usize,
    /// Of `*`.
    default: Option<u32>,
}

#[derive(Debug)]
struct Domain {
    hash: u64,
    /// Lower case.
    key: Box<str>,
    host: u32,
}

enum DomainFault {
    Wildcard,
    TakenBy(u32),
}

impl Domains {
    fn insert(&mut self, domain: &str, host: u32) -> Result<(), DomainFault> {
        if domain == "*" {
            return match self.default {
                Some(other) => Err(DomainFault::TakenBy(other)),
                None => {
                    self.default = Some(host);
                    Ok(())
                }
            };
        }
        let domain = domain.to_ascii_lowercase();
        let (table, key) = if let Some(suffix) = domain.strip_prefix('*') {
            self.suffix_lengths.push(suffix.len());
            (&mut self.suffixes, suffix)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            self.prefix_lengths.push(prefix.len());
            (&mut self.prefixes, prefix)
        } else {
            self.exact_length_max = self.exact_length_max.max(domain.len());
            (&mut self.exact, &*domain)
        };
        if key.is_empty() || key.contains('*') {
            return Err(DomainFault::Wildcard);
        }
        // Suffixes and whole hosts are met from the end, prefixes from the start.
        let hash = if domain.ends_with('*') {
            key.bytes().fold(RunningHash::default(), RunningHash::with)
        } else {
            key.bytes().rev().fold(RunningHash::default(), RunningHash::with)
        }
        .finish();
        match table.find(hash, |entry| *entry.key == *key) {
            Some(entry) => Err(DomainFault::TakenBy(entry.host)),
            None => {
                let domain = Domain { hash, key: key.into(), host };
                table.insert_unique(hash, domain, |entry| entry.hash);
                Ok(())
            }
        }
    }

    fn finish(&mut self) {
        for lengths in [&mut self.suffix_lengths, &mut self.prefix_lengths] {
            lengths.sort_unstable();
            lengths.dedup();
        }
    }

    fn only_default(&self) -> bool {
        self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty()
    }

    /// Exact, then the longest suffix, then the longest prefix, then `*`. A star stands for at least
    /// one character.
    fn find(&self, host: &[u8]) -> Option<u32> {
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
        for length in self.suffix_lengths.iter().copied().take_while(|length| *length < host.len())
        {
            let tail = &host[host.len() - length..];
            if let Some(entry) = lookup(&self.suffixes, extend(length), tail) {
                longest_suffix = Some(entry.host);
            }
        }
        if !host.is_empty()
            && host.len() <= self.exact_length_max
            && let Some(entry) = lookup(&self.exact, extend(host.len()), host)
        {
            return Some(entry.host);
        }
        longest_suffix.or_else(|| self.longest_prefix(host)).or(self.default)
    }

    fn longest_prefix(&self, host: &[u8]) -> Option<u32> {
        let mut longest = None;
        let mut hash = RunningHash::default();
        let mut hashed = 0;
        for length in self.prefix_lengths.iter().copied().take_while(|length| *length < host.len())
        {
            hash = host[hashed..length].iter().fold(hash, |hash, byte| hash.with(*byte));
            hashed = length;
            if let Some(entry) = lookup(&self.prefixes, hash.finish(), &host[..length]) {
                longest = Some(entry.host);
            }
        }
        longest
    }
}

fn lookup<'a>(table: &'a HashTable<Domain>, hash: u64, key: &[u8]) -> Option<&'a Domain> {
    table.find(hash, |entry| entry.key.as_bytes().eq_ignore_ascii_case(key))
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
