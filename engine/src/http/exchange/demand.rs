//! A request that waits until what it needs has come.
//!
//! Until then there is no route, no upstream, and nothing but the request's own deadlines; its body is not
//! read. Invariant: the wait ends by itself: with what is needed, the answer that it does not exist, or the
//! time.

use super::super::after;
use super::super::begin::resume_demanding;
use super::{Downstream, Exchange, Progress, Stop};

impl Exchange {
    /// Begins to wait.
    pub(super) fn begin_demand(&mut self, down: &mut Downstream<'_>) {
        self.demand.register(down.waker);
        self.deadlines.demand = after(down.shard.clock.now(), Some(self.demand.patience()));
    }

    /// Goes on when the wait is over. A client that is gone waits for nothing.
    pub(super) fn await_demand(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        if self.demand.is_settled() {
            self.end_demand(down);
        } else if down.has_departed() {
            return Err(Progress::Gone);
        }
        Ok(())
    }

    /// Routes the request by what there is now.
    pub(super) fn end_demand(&mut self, down: &mut Downstream<'_>) {
        self.deadlines.demand = None;
        self.route_again(down, resume_demanding);
    }
}
