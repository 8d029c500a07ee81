//! Socket addresses of both sides: TCP and the two kinds of Unix socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Where to listen or to connect to, ready for `bind`/`connect`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Ip(SocketAddr),
    /// A Unix stream socket with a path in the file system; at most 107 bytes.
    Unix(Box<Path>),
    /// A Linux abstract Unix socket: the name without the leading NUL; at most 107 bytes.
    UnixAbstract(Box<[u8]>),
}

impl Address {
    /// The IP address and port, if it has them.
    #[must_use]
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            Address::Unix(_) | Address::UnixAbstract(_) => None,
        }
    }
}

/// As Envoy prints addresses in logs, stats and admin: `1.2.3.4:80`, `[::1]:80`, `/path`, `@name`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
            Address::UnixAbstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
        }
    }
}

/// `address` with its bits past the first `length` cleared; more than there are clear none.
pub(crate) fn network(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let past = 32u32.saturating_sub(length.into());
            IpAddr::V4((u32::from(address) & u32::MAX.checked_shl(past).unwrap_or(0)).into())
        }
        IpAddr::V6(address) => {
            let past = 128u32.saturating_sub(length.into());
            IpAddr::V6((u128::from(address) & u128::MAX.checked_shl(past).unwrap_or(0)).into())
        }
    }
}
