//! Filters whose configuration comes by name (ECDS): those of connection managers, and those of filter
//! chains.
//!
//! One configuration may serve many filters, in all places where its type may stand. Invariant: a filter
//! is only ever what it may be: one of another type is none for it.

use std::collections::HashMap;
use std::sync::Arc;

use super::config_source::ConfigSource;
use super::http_filters::HttpFilterKind;
use super::istio::IstioStats;
use super::listener::Terminal;

/// A filter whose configuration is asked for by name.
#[derive(Debug, Clone)]
pub struct FilterDiscovery {
    /// Its place in [`Snapshot::extensions`](super::Snapshot::extensions): one for each source and name.
    pub key: Box<str>,
    /// Its name, which is the filter's.
    pub name: Box<str>,
    /// Where the filter stands.
    pub place: FilterPlace,
    /// Whom to ask.
    pub source: ConfigSource,
    /// Serves where there is no other.
    pub default: Option<FilterConfig>,
    /// The listener does not wait for an answer; only with a default.
    pub is_optional: bool,
    /// The types that it may be of, by their full names.
    pub types: Box<[Box<str>]>,
}

/// Where a filter may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterPlace {
    /// In a connection manager, before the router.
    Http,
    /// In a filter chain, before its last.
    Network,
    /// In a filter chain, as its last.
    Terminal,
    /// In a protocol detection, which chooses it.
    Choice,
}

/// What a configuration is in each place where its type may stand.
#[derive(Debug, Clone)]
pub struct FilterConfig {
    /// The full name of its type.
    pub kind: Box<str>,
    /// As a filter of HTTP.
    pub http: Option<HttpFilterKind>,
    /// As a filter of connections that is not the last.
    pub network: Option<NetworkFilter>,
    /// As the last.
    pub terminal: Option<Terminal>,
}

/// What a filter in front of a chain's last is.
#[derive(Debug, Clone)]
pub enum NetworkFilter {
    /// Counts the connections of TCP proxies by who asked whom.
    IstioStats(Arc<IstioStats>),
    /// Does nothing: its ALPN protocol is never negotiated (xds.md TL-02).
    MetadataExchange,
}

/// Those that listeners refer to, as servers last sent them; nothing where there is none any more, or
/// never was. One that is not there was not answered yet.
pub type Extensions = HashMap<Box<str>, Option<Arc<FilterConfig>>>;

impl FilterDiscovery {
    /// Whether it may be of the type of this configuration.
    #[must_use]
    pub fn may_be(&self, config: &FilterConfig) -> bool {
        self.types.contains(&config.kind)
    }

    /// What the filter is, where servers say that of it: the default where they have nothing, or
    /// nothing any more.
    fn resolve<'a>(&'a self, known: Option<&'a FilterConfig>) -> Option<&'a FilterConfig> {
        known.filter(|known| self.may_be(known)).or(self.default.as_ref())
    }

    /// What the filter of a connection manager is, by what servers say of it.
    #[must_use]
    pub fn http<'a>(&'a self, known: Option<&'a FilterConfig>) -> Option<&'a HttpFilterKind> {
        self.resolve(known)?.http.as_ref()
    }

    /// What the last filter of a chain is.
    #[must_use]
    pub fn terminal<'a>(&'a self, known: Option<&'a FilterConfig>) -> Option<&'a Terminal> {
        self.resolve(known)?.terminal.as_ref()
    }

    /// The same by all that servers say.
    pub(super) fn last<'a>(&'a self, extensions: &'a Extensions) -> &'a Terminal {
        self.terminal(self.known(extensions)).unwrap_or(&Terminal::Missing)
    }

    /// What the filter in front of a chain's last is.
    #[must_use]
    pub fn network<'a>(&'a self, known: Option<&'a FilterConfig>) -> Option<&'a NetworkFilter> {
        self.resolve(known)?.network.as_ref()
    }

    /// What servers say of it.
    #[must_use]
    pub fn known<'a>(&self, extensions: &'a Extensions) -> Option<&'a FilterConfig> {
        extensions.get(&self.key)?.as_deref()
    }
}
