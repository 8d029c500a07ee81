//! What is asked of servers only when a request needs it (xds.md D-17).

use std::sync::Arc;
use std::time::Duration;

use super::config_source::ConfigSource;

/// One thing that a request needs and that is not here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Demand {
    /// A virtual host of a table whose virtual hosts come by VHDS.
    VirtualHost {
        /// The table's key in [`Snapshot::route_tables`](super::Snapshot::route_tables).
        table: Arc<str>,
        /// The host that the request names, in lower case, with its port if it has one.
        host: Box<str>,
    },
    /// The table of a scope that is there.
    Scope {
        /// The key of its set in [`Snapshot::scopes`](super::Snapshot::scopes).
        set: Arc<str>,
        /// Its name.
        scope: Arc<str>,
    },
    /// A cluster that a route names.
    Cluster {
        /// Whom to ask, and for how long.
        source: Arc<ConfigSource>,
        /// Its name.
        cluster: Box<str>,
    },
}

impl Demand {
    /// A cluster, unless that can't be its name: clients may say it, where routes let them.
    #[must_use]
    pub fn cluster(source: &Arc<ConfigSource>, name: &str) -> Option<Demand> {
        let is_name = !name.is_empty()
            && name.len() <= CLUSTER_BYTES_MAX
            && name.bytes().all(|byte| byte.is_ascii_graphic())
            && name != "*"
            && !name.starts_with("xdstp:");
        is_name.then(|| Demand::Cluster { source: Arc::clone(source), cluster: name.into() })
    }

    /// How long to wait for it, where the configuration says so.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        match self {
            Demand::Cluster { source, .. } => source.initial_fetch_timeout,
            Demand::VirtualHost { .. } | Demand::Scope { .. } => None,
        }
    }

    /// The virtual host of `authority` in a table with that key. Nothing for what is not the name of a
    /// host: it would be asked for in vain, and `/` and `*` mean something in names of resources.
    pub(super) fn virtual_host(table: &Arc<str>, authority: &[u8]) -> Option<Demand> {
        let is_name = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'*');
        if authority.is_empty()
            || authority.len() > HOST_BYTES_MAX
            || !authority.iter().all(is_name)
        {
            return None;
        }
        let host = std::str::from_utf8(authority).ok()?.to_ascii_lowercase();
        Some(Demand::VirtualHost { table: Arc::clone(table), host: host.into() })
    }
}

/// A name of the DNS, written out, is no longer than 253 characters; `:` and a port follow.
const HOST_BYTES_MAX: usize = 253 + 6;

/// Longer than any that a control plane makes of the names of a service and a subset.
const CLUSTER_BYTES_MAX: usize = 1024;
