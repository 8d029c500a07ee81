//! Where upstream connections come from: a source address of the cluster's, or the client's own.

use std::io;
use std::net::{IpAddr, SocketAddr};

use outrigger_xds::snapshot::{SocketOptionState, UpstreamBind};

use crate::sockopt;

/// The client whose address upstream connections are to show (`original_src`, L-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its address.
    pub ip: IpAddr,
    /// SO_MARK, so that answers find the way back to us; 0: none.
    pub mark: u32,
}

/// Prepares a socket that is about to connect to `destination`. A client's address goes before the
/// cluster's.
///
/// # Errors
/// When the kernel refuses an option or the address.
pub fn bind(
    socket: &socket2::Socket,
    destination: IpAddr,
    config: Option<&UpstreamBind>,
    client: Option<Source>,
) -> io::Result<()> {
    let configured = config.and_then(|config| config.source(destination));
    let options = match (configured, config) {
        (Some(source), _) => &*source.socket_options,
        (None, Some(config)) => &*config.socket_options,
        (None, None) => &[],
    };
    if let Some(Source { mark, .. }) = client {
        if mark != 0 {
            sockopt::set_mark(socket, mark)?;
        }
        sockopt::set_transparent(socket, destination.is_ipv6())?;
    }
    if config.is_some_and(|config| config.freebind) {
        sockopt::set_freebind(socket, destination.is_ipv6())?;
    }
    sockopt::set_configured(socket, options, SocketOptionState::PreBind)?;
    let from = match client {
        Some(client) => Some(SocketAddr::new(client.ip, 0)),
        None => configured.map(|source| source.address),
    };
    if let Some(from) = from {
        if from.port() == 0 {
            sockopt::set_bind_without_port(socket)?;
        }
        socket.bind(&from.into())?;
    }
    sockopt::set_configured(socket, options, SocketOptionState::Bound)
}
