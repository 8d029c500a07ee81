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
