//! Making listening sockets as a listener's configuration asks (contract section 2).
//!
//! Invariant: a listener's sockets are bound when it is accepted, and listen when it is served: what
//! could refuse it is known before, and nobody waits in a backlog of what is not ready.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use outrigger_xds::snapshot::{Address, Bind, ListenAddress, Listener, SocketOptionState};
use socket2::{SockAddr, SockRef, Socket, Type};

use crate::control::hand_over::Inherited;
use crate::sockopt;

/// The sockets of one listener.
pub struct BoundSockets {
    /// One entry per address: the sockets of that address. Where the kernel can share an address
    /// out, there is one socket per shard, or more if a predecessor had more shards; else one, for a
    /// single shard to accept on.
    pub sockets: Vec<Vec<OwnedFd>>,
    /// The addresses, with the ports the kernel chose; without sockets those that are configured.
    pub addresses: Vec<Address>,
}

impl BoundSockets {
    /// Lets clients connect.
    ///
    /// # Errors
    /// When the kernel refuses; the other sockets listen nevertheless.
    pub fn listen(&self, listener: &Listener) -> Result<(), ListenError> {
        let backlog = listener.bind.backlog;
        let backlog =
            backlog.map_or(libc::SOMAXCONN, |backlog| i32::try_from(backlog).unwrap_or(i32::MAX));
        let mut outcome = Ok(());
        for (configured, sockets) in listener.addresses.iter().zip(&self.sockets) {
            for socket in sockets {
                let socket = SockRef::from(socket);
                let listens = socket.listen(backlog).map_err(|error| ("listen on", error));
                let listens = listens
                    .and_then(|()| raw_options(&socket, configured, SocketOptionState::Listening));
                if let Err(failed) = listens {
                    outcome = Err(ListenError::new(listener, configured, failed));
                }
            }
        }
        outcome
    }
}

/// Why a listener can't be served.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener}: cannot {step} {address}: {source}")]
pub struct ListenError {
    /// Its name.
    pub listener: String,
    /// What was being done.
    pub step: &'static str,
    /// To which address.
    pub address: String,
    /// What the system said.
    pub source: io::Error,
}

impl ListenError {
    fn new(
        listener: &Listener,
        configured: &ListenAddress,
        (step, source): (&'static str, io::Error),
    ) -> Self {
        Self {
            listener: listener.name.to_string(),
            step,
            address: configured.address.to_string(),
            source,
        }
    }
}

/// Binds every address of `listener` for `shards` shards, but for those that a predecessor listens on: its
/// sockets are shared, with what waits in their backlogs, and with the options that it gave them.
///
/// # Errors
/// When the kernel refuses a socket, an option or an address.
pub fn bind(
    listener: &Listener,
    shards: usize,
    inherited: &Inherited,
) -> Result<BoundSockets, ListenError> {
    let mut bound = BoundSockets { sockets: Vec::new(), addresses: Vec::new() };
    if !listener.bind.bind_to_port {
        // Connections that are redirected to it come by another listener's sockets.
        bound.addresses.extend(listener.addresses.iter().map(|listen| listen.address.clone()));
        return Ok(bound);
    }
    for configured in &listener.addresses {
        let shared = inherited.take(&listener.name, &configured.address);
        let (sockets, address) = bind_address(&listener.bind, configured, shards, shared)
            .map_err(|failed| ListenError::new(listener, configured, failed))?;
        bound.sockets.push(sockets);
        bound.addresses.push(address);
    }
    Ok(bound)
}

type Step<T> = Result<T, (&'static str, io::Error)>;

fn bind_address(
    bind: &Bind,
    configured: &ListenAddress,
    shards: usize,
    mut sockets: Vec<OwnedFd>,
) -> Step<(Vec<OwnedFd>, Address)> {
    let shared = bind.reuse_port && configured.address.ip().is_some();
    if sockets.is_empty() {
        sockets.push(bind_one(bind, configured, &configured.address, shared)?.into());
    }
    let actual = SockRef::from(&sockets[0]).local_addr().map(|it| it.as_socket());
    let address = match (&configured.address, actual) {
        (Address::Ip(_), Ok(Some(actual))) => Address::Ip(actual),
        (other, _) => other.clone(),
    };
    for _ in sockets.len()..if shared { shards } else { 1 } {
        // Port 0 was chosen once; the others share it.
        sockets.push(bind_one(bind, configured, &address, shared)?.into());
    }
    Ok((sockets, address))
}

fn bind_one(
    bind: &Bind,
    configured: &ListenAddress,
    address: &Address,
    shared: bool,
) -> Step<Socket> {
    let set = |step| move |error| (step, error);
    let sockaddr = match address {
        Address::Ip(address) => SockAddr::from(*address),
        Address::Unix(path) => {
            remove_stale(path).map_err(set("replace the socket at"))?;
            SockAddr::unix(path).map_err(set("use the path"))?
        }
        Address::UnixAbstract(name) => {
            let mut path = vec![0];
            path.extend_from_slice(name);
            SockAddr::unix(std::ffi::OsStr::from_bytes(&path)).map_err(set("use the name"))?
        }
    };
    let socket =
        Socket::new(sockaddr.domain(), Type::STREAM, None).map_err(set("make a socket for"))?;
    socket.set_nonblocking(true).map_err(set("prepare"))?;
    if let Address::Ip(ip) = address {
        set_ip_options(&socket, bind, configured, ip, shared)?;
    }
    raw_options(&socket, configured, SocketOptionState::PreBind)?;
    socket.bind(&sockaddr).map_err(set("bind"))?;
    if let (Address::Unix(path), Some(mode)) = (address, configured.mode) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(set("set the mode of"))?;
    }
    raw_options(&socket, configured, SocketOptionState::Bound)?;
    Ok(socket)
}

fn set_ip_options(
    socket: &Socket,
    bind: &Bind,
    configured: &ListenAddress,
    address: &SocketAddr,
    shared: bool,
) -> Step<()> {
    let set = |step| move |error| (step, error);
    socket.set_reuse_address(true).map_err(set("set SO_REUSEADDR on"))?;
    if shared {
        socket.set_reuse_port(true).map_err(set("set SO_REUSEPORT on"))?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!configured.ipv4_compat).map_err(set("set IPV6_V6ONLY on"))?;
    }
    if bind.transparent {
        sockopt::set_transparent(socket, address.is_ipv6())
            .map_err(set("set IP_TRANSPARENT on"))?;
    }
    if bind.freebind {
        sockopt::set_freebind(socket, address.is_ipv6()).map_err(set("set IP_FREEBIND on"))?;
    }
    if let Some(length) = bind.tcp_fast_open_queue_length {
        sockopt::set_raw(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &length.to_ne_bytes())
            .map_err(set("set TCP_FASTOPEN on"))?;
    }
    Ok(())
}

fn raw_options(socket: &Socket, configured: &ListenAddress, state: SocketOptionState) -> Step<()> {
    sockopt::set_configured(socket, &configured.socket_options, state)
        .map_err(|error| ("set a configured socket option on", error))
}

/// Removes the socket file of a process that is gone. A socket that someone answers on, or a file
/// that is no socket, stays, and binding then fails.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(address: Address, reuse_port: bool) -> (Bind, ListenAddress) {
        let bind = Bind {
            bind_to_port: true,
            reuse_port,
            backlog: None,
            transparent: false,
            freebind: false,
            tcp_fast_open_queue_length: None,
            exact_balance: false,
        };
        let address = ListenAddress {
            address,
            mode: Some(0o600),
            ipv4_compat: false,
            socket_options: Vec::new(),
            tcp_keepalive: None,
        };
        (bind, address)
    }

    #[test]
    fn every_shard_has_a_socket_on_the_same_port() {
        let (bind, address) = configuration(Address::Ip("127.0.0.1:0".parse().unwrap()), true);
        let (sockets, bound) = bind_address(&bind, &address, 3, Vec::new()).unwrap();
        assert_eq!(sockets.len(), 3);
        assert_ne!(bound.ip().unwrap().port(), 0);
        for socket in sockets {
            let local = Socket::from(socket).local_addr().unwrap().as_socket();
            assert_eq!(local, bound.ip());
        }
    }

    #[test]
    fn without_reuse_port_there_is_one_socket_and_the_port_is_taken() {
        let (bind, address) = configuration(Address::Ip("127.0.0.1:0".parse().unwrap()), false);
        let (sockets, bound) = bind_address(&bind, &address, 3, Vec::new()).unwrap();
        assert_eq!(sockets.len(), 1);
        SockRef::from(&sockets[0]).listen(1).unwrap();
        let (bind, again) = configuration(bound, false);
        let (step, error) = bind_address(&bind, &again, 1, Vec::new()).unwrap_err();
        assert_eq!((step, error.kind()), ("bind", io::ErrorKind::AddrInUse));
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let directory =
            std::env::temp_dir().join(format!("outrigger-listen-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        let (bind, address) = configuration(Address::Unix(path.clone().into()), true);
        drop(bind_address(&bind, &address, 2, Vec::new()).unwrap());
        let (sockets, _) = bind_address(&bind, &address, 2, Vec::new()).unwrap();
        assert_eq!(sockets.len(), 1);
        SockRef::from(&sockets[0]).listen(1).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(bind_address(&bind, &address, 2, Vec::new()).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
