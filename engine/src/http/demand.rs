//! A request that waits for what it needs and is asked of a server for it (`envoy.filters.http.on_demand`,
//! xds.md D-17): a virtual host, the table of its scope, or the cluster that its route names.
//!
//! Invariant: nothing is asked twice for one request, so that its waits end.

use std::task::Waker;
use std::time::Duration;

use outrigger_codecs::http::RequestHead;
use outrigger_xds::snapshot::Demand;

use crate::shard::{HELD_FOR, Shard, Ticket};

use super::kept_head::{HeadSource, KeptHead};

/// One request's side of it; nothing for a request that finds its route.
#[derive(Default)]
pub(super) struct DemandCall {
    ticket: Option<Ticket>,
    /// Kept from one exchange to the next, once one had to wait.
    head: Option<Box<KeptHead>>,
    /// What it has waited for last.
    last: Option<Demand>,
    asked: u32,
}

impl DemandCall {
    /// Has a request wait for what it needs. False when it is not to: it has waited for that already, or
    /// too many wait.
    pub(super) fn hold(
        &mut self,
        shard: &Shard,
        demand: Demand,
        head: &RequestHead<'_, '_>,
        source: HeadSource<'_>,
    ) -> bool {
        let now = shard.clock.now();
        if self.last.as_ref() == Some(&demand) {
            shard.demands.miss(demand, now);
            return false;
        }
        if self.asked >= ASKED_MAX {
            return false;
        }
        let Some(ticket) = shard.demands.ask(&demand, now) else { return false };
        self.ticket = Some(ticket);
        self.last = Some(demand);
        self.asked += 1;
        self.head.get_or_insert_default().keep(head, source);
        true
    }

    /// True while the request waits.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        self.ticket.is_some()
    }

    /// Has `waker` called when the wait is over.
    pub(super) fn register(&mut self, waker: &Waker) {
        if let Some(ticket) = &mut self.ticket {
            ticket.register(waker);
        }
    }

    /// How long the request may wait.
    pub(super) fn patience(&self) -> Duration {
        let own = self.last.as_ref().and_then(Demand::patience);
        own.map_or(HELD_FOR, |own| own.min(HELD_FOR))
    }

    /// Whether it is time to look again.
    pub(super) fn is_settled(&self) -> bool {
        self.ticket.as_ref().is_none_or(Ticket::is_settled)
    }

    /// Waits no longer. The head is lent out: see [`DemandCall::give_back`].
    pub(super) fn release(&mut self) -> Option<Box<KeptHead>> {
        self.ticket = None;
        self.head.take()
    }

    /// Takes back what [`DemandCall::release`] lent, unless the request waits for something else now and
    /// has its head again.
    pub(super) fn give_back(&mut self, head: Box<KeptHead>) {
        self.head.get_or_insert(head);
    }

    /// The request is answered without having been routed.
    pub(super) fn abandon(&mut self) {
        self.ticket = None;
    }

    /// Forgets everything but the memory.
    #[inline]
    pub(super) fn clear(&mut self) {
        if self.asked > 0 {
            let mut head = self.head.take();
            if let Some(head) = &mut head {
                head.clear();
            }
            *self = Self { head, ..Self::default() };
        }
    }
}

/// The table of a scope, a virtual host of it, its cluster, and once more because the configuration may change
/// meanwhile.
const ASKED_MAX: u32 = 4;
