//! Endpoints of clusters that go where the client meant to (ORIGINAL_DST): made as they are asked for.
//!
//! Invariant: there are never more than [`DESTINATIONS_MAX`], and one that nobody uses, with no
//! connection left, is dropped after the cluster's clean-up interval.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::timer::{NANOS_PER_MS, Nanos};

use super::Host;

/// Endpoints of one cluster on one shard; clients choose them, so there has to be an end. With their
/// counters they take up to 2 KB each.
pub const DESTINATIONS_MAX: usize = 16_384;

/// The endpoints of one cluster on one shard.
#[derive(Default)]
pub(super) struct Destinations {
    hosts: RefCell<HashMap<SocketAddr, Destination>>,
    /// When to look for unused ones.
    due: Cell<Option<Nanos>>,
}

struct Destination {
    host: Rc<Host>,
    used_at: Cell<Nanos>,
}

impl Destinations {
    /// The endpoint at `address`, if it is there.
    pub(super) fn find(&self, address: SocketAddr, now: Nanos) -> Option<Rc<Host>> {
        let hosts = self.hosts.borrow();
        let known = hosts.get(&address)?;
        known.used_at.set(now);
        Some(Rc::clone(&known.host))
    }

    /// Whether there is room for another one.
    pub(super) fn has_room(&self) -> bool {
        self.hosts.borrow().len() < DESTINATIONS_MAX
    }

    /// Adds one. Returns when it is to be looked at again, if nothing is to be looked at before.
    pub(super) fn add(
        &self,
        address: SocketAddr,
        host: &Rc<Host>,
        now: Nanos,
        interval: Nanos,
    ) -> Option<Nanos> {
        let destination = Destination { host: Rc::clone(host), used_at: Cell::new(now) };
        self.hosts.borrow_mut().insert(address, destination);
        if self.due.get().is_some() {
            return None;
        }
        self.due.set(Some(now + interval));
        self.due.get()
    }

    /// Drops those that were not used for `interval`. Returns when the next look is due.
    pub(super) fn sweep(&self, now: Nanos, interval: Nanos) -> Option<Nanos> {
        let due = self.due.get()?;
        if now < due {
            return Some(due);
        }
        let mut hosts = self.hosts.borrow_mut();
        let mut next = None;
        let mut unused = Vec::new();
        hosts.retain(|_, destination| {
            if destination.host.is_used() {
                destination.used_at.set(now);
            }
            let expires_at = destination.used_at.get().saturating_add(interval);
            if expires_at <= now {
                unused.push(Rc::clone(&destination.host));
                return false;
            }
            next = Some(next.map_or(expires_at, |next: Nanos| next.min(expires_at)));
            true
        });
        if hosts.is_empty() {
            // Many may have been there once.
            hosts.shrink_to_fit();
        }
        drop(hosts);
        unused.iter().for_each(|host| host.retire());
        self.due.set(next.map(|next| next.max(now + SWEEP_PAUSE)));
        self.due.get()
    }

    /// Hands every endpoint to `visit`.
    pub(super) fn visit(&self, mut visit: impl FnMut(&Rc<Host>)) {
        self.hosts.borrow().values().for_each(|destination| visit(&destination.host));
    }

    /// Takes over the endpoints of the same cluster's runtime before.
    pub(super) fn succeed(&self, before: &Self) {
        self.hosts.replace(before.hosts.take());
        self.due.set(before.due.take());
    }
}

/// Looks are not taken more often than this, however short the interval.
const SWEEP_PAUSE: Nanos = 100 * NANOS_PER_MS;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrigger_xds::snapshot::{Address, Endpoint};

    use super::*;

    const INTERVAL: Nanos = 1000 * NANOS_PER_MS;

    fn address(number: u32) -> SocketAddr {
        SocketAddr::from((number.to_be_bytes(), 80))
    }

    fn add(destinations: &Destinations, number: u32, now: Nanos) -> (Rc<Host>, Option<Nanos>) {
        let endpoint = Endpoint::at(Address::Ip(address(number)));
        let host = Rc::new(Host::new(&endpoint, None, Arc::default()));
        let due = destinations.add(address(number), &host, now, INTERVAL);
        (host, due)
    }

    #[test]
    fn cleanup_interval_drops_what_nobody_uses_and_nothing_else() {
        let destinations = Destinations::default();
        assert_eq!(destinations.sweep(0, INTERVAL), None);
        let (unused, due) = add(&destinations, 1, 0);
        assert_eq!(due, Some(INTERVAL));
        let (held, later) = add(&destinations, 2, 0);
        assert_eq!(later, None, "a look is due before");
        drop(unused);
        assert_eq!(destinations.sweep(INTERVAL / 2, INTERVAL), Some(INTERVAL), "too early");
        // Whoever holds one uses it; being found is using it too.
        add(&destinations, 3, 0);
        assert!(destinations.find(address(3), INTERVAL / 2).is_some());
        assert_eq!(destinations.sweep(INTERVAL, INTERVAL), Some(INTERVAL + INTERVAL / 2));
        assert!(destinations.find(address(1), INTERVAL).is_none());
        assert!(destinations.find(address(2), INTERVAL).is_some());
        drop(held);
        assert_eq!(destinations.sweep(4 * INTERVAL, INTERVAL), None);
        assert!(destinations.find(address(2), 4 * INTERVAL).is_none());
        assert!(destinations.find(address(3), 4 * INTERVAL).is_none());
    }

    #[test]
    fn there_is_an_end_to_what_clients_can_name() {
        let destinations = Destinations::default();
        for number in 0..DESTINATIONS_MAX as u32 {
            assert!(destinations.has_room());
            add(&destinations, number, 0);
        }
        assert!(!destinations.has_room());
        destinations.sweep(INTERVAL, INTERVAL);
        assert!(destinations.has_room());
    }
}
