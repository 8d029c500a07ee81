//! Filters whose configuration comes by name (ECDS): those of connection managers, and those of filter
//! chains.
//!
//! One configuration may serve many filters, in all places where its type may stand. Invariant: a filter
//! is only ever given what it may be, since servers are refused what is of another type.

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
}

/// What a configuration is in each place where its type may stand.
#[derive(Debug, Clone)]
pub struct FilterConfig {
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

/// A filter's configuration as servers last sent it.
#[derive(Debug, Clone)]
pub struct Extension {
    /// Nothing before any was accepted.
    pub last: Option<FilterConfig>,
    /// False: a server says that there is none any more, or never was.
    pub exists: bool,
}

/// Those that listeners refer to. One that is not there was not answered yet.
pub type Extensions = HashMap<Box<str>, Arc<Extension>>;

impl FilterDiscovery {
    /// What the filter is. One that was taken away gives way to the default, and without a default stays:
    /// what protects does not end with its configuration. Nothing where there has never been any.
    fn resolve<'a>(&'a self, extension: Option<&'a Extension>) -> Option<&'a FilterConfig> {
        let last = extension.and_then(|extension| extension.last.as_ref());
        match extension {
            Some(Extension { exists: true, .. }) => last,
            _ => self.default.as_ref().or(last),
        }
    }

    /// What the filter of a connection manager is, by what servers say of it.
    #[must_use]
    pub fn http<'a>(&'a self, extension: Option<&'a Extension>) -> Option<&'a HttpFilterKind> {
        self.resolve(extension)?.http.as_ref()
    }

    /// What the last filter of a chain is, by what servers say of it.
    #[must_use]
    pub fn terminal<'a>(&'a self, extension: Option<&'a Extension>) -> Option<&'a Terminal> {
        self.resolve(extension)?.terminal.as_ref()
    }

    /// What the filter in front of a chain's last is, by what servers say of it.
    #[must_use]
    pub fn network<'a>(&'a self, extension: Option<&'a Extension>) -> Option<&'a NetworkFilter> {
        self.resolve(extension)?.network.as_ref()
    }
}
