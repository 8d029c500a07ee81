//! Who a connection is between: its two ends, and what the kernel changed about them on the way here.
//!
//! Where netfilter redirected a connection to us, the address that the client meant is restored
//! (`original_dst`): everything that looks at a destination looks at that one. Where a proxy in front
//! speaks the PROXY protocol, both ends are those that it names. Invariant: a connection to one of our
//! own ports never counts as redirected, so that following it leads nowhere back to us.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use outrigger_codecs::proxy_protocol::ProxyAddresses;
use outrigger_xds::snapshot::Listener;

use crate::cluster::Source;
use crate::http::Peer;
use crate::sockopt;

use super::inspect::looks;

/// The ends of an accepted connection.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The client.
    pub peer: Peer,
    /// Our end as the socket has it; nothing for a Unix socket.
    pub accepted: Option<SocketAddr>,
    /// What the client connected to, where that is known and not us.
    pub original: Option<SocketAddr>,
    rare: Option<Box<Rare>>,
}

/// What few connections have.
#[derive(Clone, Copy, Debug, Default)]
struct Rare {
    /// The proxy that speaks for the client.
    direct: Option<Peer>,
    source: Option<Source>,
}

impl Ends {
    /// The ends as the socket has them.
    pub(super) fn of(socket: &impl AsRawFd) -> Self {
        let socket = socket.as_raw_fd();
        let peer = peer_address(socket).map_or(Peer::Unix, Peer::Ip);
        Self::new(peer, local_address(socket), None)
    }

    pub(super) fn new(
        peer: Peer,
        accepted: Option<SocketAddr>,
        original: Option<SocketAddr>,
    ) -> Self {
        Self { peer, accepted, original, rare: None }
    }

    /// The other end of the socket: the client, or a proxy that speaks for it.
    pub fn direct(&self) -> Peer {
        self.rare.as_ref().and_then(|rare| rare.direct).unwrap_or(self.peer)
    }

    /// Where upstream connections are to come from, if that is to be the client.
    pub fn source(&self) -> Option<Source> {
        self.rare.as_ref()?.source
    }

    /// Upstream connections are to come from there.
    pub(super) fn show(&mut self, source: Source) {
        self.rare.get_or_insert_default().source = Some(source);
    }

    /// Whoever was the client so far speaks for this one.
    pub(super) fn speak_for(&mut self, client: Peer) {
        let direct = self.direct();
        self.rare.get_or_insert_default().direct = Some(direct);
        self.peer = client;
    }

    /// The address that the client connected to.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.original.or(self.accepted)
    }

    /// Its port.
    pub fn port(&self) -> Option<u16> {
        self.destination().map(|address| address.port())
    }

    /// A proxy in front says who the connection is between.
    pub(super) fn introduce(&mut self, addresses: ProxyAddresses) {
        let ProxyAddresses { source, destination } = addresses;
        self.speak_for(Peer::Ip(source));
        let destination = canonical(destination);
        if self.accepted.map(canonical) != Some(destination) {
            self.original = Some(destination);
        }
        if let Some(shown) = self.source() {
            self.show(Source { ip: source.ip().to_canonical(), ..shown });
        }
    }

    /// Does what the listener's filters `original_dst` and `original_src` ask for.
    pub(super) fn restore(&mut self, socket: &impl AsRawFd, listener: &Listener) {
        let filters = &listener.inspection;
        if let (Some(filter), Some(accepted)) = (&filters.original_dst, self.accepted)
            && looks(&filter.disabled, self.port())
        {
            self.original = original(socket.as_raw_fd(), accepted, listener).or(self.original);
        }
        if let (Some(filter), Peer::Ip(client)) = (&filters.original_src, self.peer)
            && looks(&filter.disabled, self.port())
        {
            self.show(Source { ip: client.ip().to_canonical(), mark: filter.mark });
        }
    }
}

/// What a connection that `listener` accepted was meant for; nothing when it was meant for us.
fn original(socket: RawFd, accepted: SocketAddr, listener: &Listener) -> Option<SocketAddr> {
    let accepted = canonical(accepted);
    let is_transparent = listener.bind.transparent;
    // What TPROXY diverts keeps its address.
    let known = sockopt::original_destination(socket, accepted);
    let original = canonical(known.or(is_transparent.then_some(accepted))?);
    let own_port = || {
        let addresses = listener.addresses.iter().filter_map(|listen| listen.address.ip());
        addresses.into_iter().any(|address| address.port() == original.port())
    };
    let is_own = original == accepted && (!is_transparent || own_port());
    (!is_own).then_some(original)
}

/// An IPv4 address that a dual-stack socket writes as one of IPv6, as itself.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

fn local_address(fd: RawFd) -> Option<SocketAddr> {
    // SAFETY: the caller holds the descriptor open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    socket2::SockRef::from(&fd).local_addr().ok()?.as_socket()
}

fn peer_address(fd: RawFd) -> Option<SocketAddr> {
    // SAFETY: the caller holds the descriptor open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    socket2::SockRef::from(&fd).peer_addr().ok()?.as_socket()
}
