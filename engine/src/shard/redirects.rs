//! Which listener a redirected connection is for (xds.md L-01).
//!
//! Connections that netfilter redirects all arrive at one capturing listener. Each is then served by
//! the listener whose address it was meant for: the very address, or the wildcard address with that
//! port. Invariant: what is found here is served now; a listener that goes is taken out first.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use crate::connection::ListenerRuntime;

/// The listeners of a shard, by address.
#[derive(Default)]
pub struct Redirects {
    by_address: RefCell<HashMap<SocketAddr, Rc<ListenerRuntime>>>,
}

impl Redirects {
    /// Lets connections be redirected to a listener, in place of what had its addresses.
    pub fn add(&self, runtime: &Rc<ListenerRuntime>) {
        let mut by_address = self.by_address.borrow_mut();
        for address in addresses(runtime) {
            by_address.insert(address, Rc::clone(runtime));
        }
    }

    /// Takes a listener out again.
    pub fn remove(&self, runtime: &Rc<ListenerRuntime>) {
        let mut by_address = self.by_address.borrow_mut();
        for address in addresses(runtime) {
            // Another may have the address by now.
            if by_address.get(&address).is_some_and(|known| Rc::ptr_eq(known, runtime)) {
                by_address.remove(&address);
            }
        }
    }

    /// The listener for connections that were meant for `destination`.
    pub fn find(&self, destination: SocketAddr) -> Option<Rc<ListenerRuntime>> {
        let any: IpAddr = match destination.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let by_address = self.by_address.borrow();
        let exact = by_address.get(&plain(destination));
        exact.or_else(|| by_address.get(&SocketAddr::new(any, destination.port()))).cloned()
    }
}

/// What a listener is found by.
fn addresses(runtime: &ListenerRuntime) -> impl Iterator<Item = SocketAddr> {
    runtime.config.addresses.iter().flat_map(|listen| {
        let address = listen.address.ip().map(plain);
        let both = address
            .filter(|address| listen.ipv4_compat && address.ip() == Ipv6Addr::UNSPECIFIED)
            .map(|address| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()));
        address.into_iter().chain(both)
    })
}

/// Without what addresses are not compared by.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
