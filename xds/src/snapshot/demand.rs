//! What is asked of servers only when a request needs it (xds.md D-17).

use std::sync::Arc;

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
}

impl Demand {
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
