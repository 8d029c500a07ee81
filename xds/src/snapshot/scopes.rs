//! Scoped routes: which table a request is routed by, by a key that is made of its header fields.
//!
//! A key is put together from borrowed pieces of the request and looked up by hash, so that a request
//! allocates nothing and the number of scopes is not felt. Hash flooding is no concern: the keys come
//! from the configuration, requests only ask.

use std::sync::Arc;

use hashbrown::HashTable;

use super::config_source::ConfigSource;
use super::headers::HeaderName;
use super::http::Rds;
use super::matcher::RequestView;
use super::route_table::RouteTable;

/// `scoped_routes` of a connection manager.
#[derive(Debug, Clone)]
pub struct ScopedRoutes {
    /// The place of the scopes in [`Snapshot::scopes`](super::Snapshot::scopes).
    pub key: Box<str>,
    /// Label.
    pub name: Box<str>,
    /// How the key of a request is made.
    pub key_builder: ScopeKeyBuilder,
    /// Where the scopes are.
    pub scopes: ScopeSource,
    /// Whom to ask for tables that scopes name.
    pub rds: Option<ConfigSource>,
    /// That of the connection manager.
    pub stat_prefix: Box<str>,
}

/// Where scopes are.
#[derive(Debug, Clone)]
pub enum ScopeSource {
    /// In the listener; no two of one name or one key.
    Inline(Box<[Scope]>),
    /// They come from servers, all that there are (SRDS).
    Srds(ConfigSource),
}

/// A ScopedRouteConfiguration.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Label, unique in its source.
    pub name: Box<str>,
    /// What requests of it have; unique in its source.
    pub key: ScopeKey,
    /// What they are routed by.
    pub routes: ScopeRoutes,
    /// The table is not asked for before a request needs it; only where it comes by name.
    pub on_demand: bool,
}

/// The routes of a scope.
#[derive(Debug, Clone)]
pub enum ScopeRoutes {
    /// In the scope.
    Inline(Arc<RouteTable>),
    /// By name.
    Rds(Rds),
}

/// The fragments of a key, in order.
pub type ScopeKey = Box<[Box<str>]>;

/// How the key of a request is made: one fragment by each of these, at most [`FRAGMENTS_MAX`].
#[derive(Debug, Clone)]
pub struct ScopeKeyBuilder(pub Box<[HeaderValueExtractor]>);

/// A fragment that is taken from the first header field of a name.
#[derive(Debug, Clone)]
pub struct HeaderValueExtractor {
    /// Whose value is looked at.
    pub header: HeaderName,
    /// Cuts the value into elements; empty: it is one.
    pub separator: Box<str>,
    /// Which of them.
    pub element: ScopeElement,
}

/// Which element of a header's value is a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeElement {
    /// The one with this number, from zero on.
    Index(u32),
    /// What follows the first separator in the first element whose part before it is the key. An
    /// element without the separator is a key with an empty value.
    Keyed {
        /// Never empty.
        separator: Box<str>,
        /// Never empty.
        key: Box<str>,
    },
}

impl ScopeKeyBuilder {
    /// The fragments of a request's key and how many they are; `None` when one of them can't be had.
    fn fragments<'r, R: RequestView>(
        &self,
        request: &'r R,
    ) -> Option<([&'r [u8]; FRAGMENTS_MAX], usize)> {
        let mut fragments: [&[u8]; FRAGMENTS_MAX] = [&[]; FRAGMENTS_MAX];
        if self.0.len() > FRAGMENTS_MAX {
            return None;
        }
        for (slot, extractor) in fragments.iter_mut().zip(&self.0) {
            *slot = extractor.fragment(request)?;
        }
        Some((fragments, self.0.len()))
    }
}

impl HeaderValueExtractor {
    fn fragment<'r, R: RequestView>(&self, request: &'r R) -> Option<&'r [u8]> {
        let value = match self.header.as_str() {
            ":method" => Some(request.method()),
            ":path" => Some(request.path_and_query()).filter(|path| !path.is_empty()),
            ":authority" | "host" => Some(request.authority()).filter(|host| !host.is_empty()),
            ":scheme" => Some(request.scheme()),
            name => request.header_values(name).next(),
        }?;
        let mut elements = Elements { rest: Some(value), separator: self.separator.as_bytes() };
        match &self.element {
            ScopeElement::Index(index) => elements.nth(*index as usize),
            ScopeElement::Keyed { separator, key } => elements.find_map(|element| {
                let (found, value) = cut(element, separator.as_bytes()).unwrap_or((element, b""));
                (found == key.as_bytes()).then_some(value)
            }),
        }
    }
}

/// The elements of a value.
struct Elements<'v, 's> {
    rest: Option<&'v [u8]>,
    separator: &'s [u8],
}

impl<'v> Iterator for Elements<'v, '_> {
    type Item = &'v [u8];

    fn next(&mut self) -> Option<&'v [u8]> {
        let rest = self.rest.take()?;
        match cut(rest, self.separator) {
            Some((element, rest)) => {
                self.rest = Some(rest);
                Some(element)
            }
            None => Some(rest),
        }
    }
}

/// What stands before and after the first separator.
fn cut<'v>(text: &'v [u8], separator: &[u8]) -> Option<(&'v [u8], &'v [u8])> {
    if separator.is_empty() {
        return None;
    }
    let at = memchr::memmem::find(text, separator)?;
    Some((&text[..at], &text[at + separator.len()..]))
}

/// Scopes by their keys.
#[derive(Debug, Default)]
pub struct ScopeMap {
    scopes: HashTable<Entry>,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    key: ScopeKey,
    /// Counts from zero on.
    number: usize,
    routes: Arc<RouteTable>,
}

impl ScopeMap {
    /// Of two with the same key, the later one counts.
    #[must_use]
    pub fn new(scopes: impl IntoIterator<Item = (ScopeKey, Arc<RouteTable>)>) -> ScopeMap {
        let mut map = ScopeMap::default();
        for (key, routes) in scopes {
            let hash = hash(key.iter().map(|fragment| fragment.as_bytes()));
            match map.scopes.find_mut(hash, |known| known.key == key) {
                Some(known) => known.routes = routes,
                None => {
                    let number = map.scopes.len();
                    let entry = Entry { hash, key, number, routes };
                    map.scopes.insert_unique(hash, entry, |known| known.hash);
                }
            }
        }
        map
    }

    /// The scope of `request`: its number, below [`ScopeMap::len`], and its table.
    #[must_use]
    pub fn find<R: RequestView>(
        &self,
        builder: &ScopeKeyBuilder,
        request: &R,
    ) -> Option<(usize, &Arc<RouteTable>)> {
        let (fragments, count) = builder.fragments(request)?;
        let fragments = &fragments[..count];
        let is_same = |known: &Entry| {
            known.key.len() == count
                && known.key.iter().zip(fragments).all(|(known, it)| known.as_bytes() == *it)
        };
        let found = self.scopes.find(hash(fragments.iter().copied()), is_same)?;
        Some((found.number, &found.routes))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.scopes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty()
    }
}

/// FNV-1a, its bits mixed at the end. Keys that differ in where fragments end differ in it, but for
/// those that hold 0xff, which are told apart by comparison.
fn hash<'f>(fragments: impl Iterator<Item = &'f [u8]>) -> u64 {
    let step = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let sum = fragments.fold(0xcbf2_9ce4_8422_2325, |sum, fragment| {
        step(fragment.iter().fold(sum, |sum, byte| step(sum, *byte)), 0xff)
    });
    let mixed = (sum ^ (sum >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Fragments of a key: many more than anyone has, and few enough to be kept on the stack.
pub const FRAGMENTS_MAX: usize = 16;
