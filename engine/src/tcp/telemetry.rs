//! Which of Istio's metrics connections of a filter chain count in: those of its `istio.stats`, which may
//! come by name (ECDS) and change while connections stay.
//!
//! Invariant: a connection counts to its end where it began to.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_xds::snapshot::{Extensions, FilterChain, IstioStats, TrafficDirection};

use crate::istio::Telemetry;
use crate::shard::Shard;

/// That of one filter chain on one shard.
pub struct ChainTelemetry {
    chain: Arc<FilterChain>,
    direction: TrafficDirection,
    current: RefCell<Current>,
}

struct Current {
    /// What it was made of.
    seen: Arc<Extensions>,
    found: Option<(Arc<IstioStats>, Rc<Telemetry>)>,
}

impl ChainTelemetry {
    /// That of `chain`, in a listener with this direction of traffic.
    pub fn new(shard: &Shard, chain: &Arc<FilterChain>, direction: TrafficDirection) -> Self {
        let seen = Arc::clone(&shard.serving.snapshot().extensions);
        let make =
            |stats: &Arc<IstioStats>| (Arc::clone(stats), Telemetry::new(shard, stats, direction));
        let found = chain.istio_stats(&seen).map(make);
        let current = RefCell::new(Current { seen, found });
        Self { chain: Arc::clone(chain), direction, current }
    }

    /// That for a connection that begins now.
    pub(super) fn current(&self, shard: &Shard) -> Option<Rc<Telemetry>> {
        let extensions = &shard.serving.snapshot().extensions;
        let mut current = self.current.borrow_mut();
        if !self.chain.discovered.is_empty() && !Arc::ptr_eq(&current.seen, extensions) {
            current.seen = Arc::clone(extensions);
            let stats = self.chain.istio_stats(extensions);
            let known = current.found.take();
            current.found = stats.map(|stats| match known {
                Some((known, telemetry)) if Arc::ptr_eq(&known, stats) => (known, telemetry),
                _ => (Arc::clone(stats), Telemetry::new(shard, stats, self.direction)),
            });
        }
        current.found.as_ref().map(|(_, telemetry)| Rc::clone(telemetry))
    }
}
