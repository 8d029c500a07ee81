//! Faults on purpose: requests are held back, or answered with an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outrigger_xds::snapshot::{Fault, FaultAbortWith, FaultDelayBy, Fraction};

use crate::access_log::ResponseFlags;
use crate::shard::Shard;
use crate::stats::FaultStats;

use super::super::reply::Reply;
use super::Ask;

pub(super) struct FaultFilter {
    config: Arc<Fault>,
    stats: Arc<FaultStats>,
    /// Of all shards. Written only when there is a fault to inject.
    active: Arc<AtomicU32>,
}

/// What is injected into one request.
#[derive(Default)]
pub(super) struct FaultCall {
    /// It waits so long.
    pub(super) delay: Option<Duration>,
    slot: Option<Slot>,
}

/// Counts a request as faulty while it is under way.
struct Slot {
    stats: Arc<FaultStats>,
    active: Arc<AtomicU32>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.stats.active_faults.dec();
        self.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FaultFilter {
    pub(super) fn new(shard: &Shard, config: &Arc<Fault>, stat_prefix: &str) -> Self {
        Self {
            config: Arc::clone(config),
            stats: shard.registry.fault(shard.index, stat_prefix),
            active: shard.serving.active_faults(stat_prefix),
        }
    }

    /// `own` is what the route configures.
    pub(super) fn apply(
        &self,
        own: Option<&Arc<Fault>>,
        ask: &Ask<'_>,
        call: &mut FaultCall,
    ) -> Result<(), Reply> {
        let fault = own.unwrap_or(&self.config);
        if (fault.delay.is_none() && fault.abort.is_none()) || !is_meant(fault, ask) {
            return Ok(());
        }
        if let Some(delay) = delay(fault, ask)
            && self.may_inject(fault, call)
        {
            self.stats.delays_injected.inc();
            call.delay = Some(delay);
        }
        match abort(fault, ask) {
            Some(with) if self.may_inject(fault, call) => {
                self.stats.aborts_injected.inc();
                Err(aborted(with))
            }
            _ => Ok(()),
        }
    }

    /// Counts the request as faulty, if there may be another one.
    fn may_inject(&self, fault: &Fault, call: &mut FaultCall) -> bool {
        if call.slot.is_some() {
            return true;
        }
        let limit = fault.max_active.unwrap_or(u32::MAX);
        let more = |active| (active < limit).then(|| active + 1);
        if self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            self.stats.faults_overflow.inc();
            return false;
        }
        self.stats.active_faults.inc();
        let (stats, active) = (Arc::clone(&self.stats), Arc::clone(&self.active));
        call.slot = Some(Slot { stats, active });
        true
    }
}

/// Whether the fault is one for this request.
fn is_meant(fault: &Fault, ask: &Ask<'_>) -> bool {
    let cluster = fault
        .upstream_cluster
        .as_ref()
        .is_none_or(|wanted| ask.cluster.is_some_and(|cluster| cluster.config.name == *wanted));
    let node = fault.downstream_nodes.is_empty()
        || ask.header("x-envoy-downstream-service-node").is_some_and(|node| {
            fault.downstream_nodes.iter().any(|wanted| wanted.as_bytes() == node)
        });
    cluster && node && fault.headers.iter().all(|header| header.matches(ask.request))
}

fn delay(fault: &Fault, ask: &Ask<'_>) -> Option<Duration> {
    let delay = fault.delay.as_ref()?;
    let (by, fraction) = match delay.by {
        FaultDelayBy::Fixed(by) => (by, delay.fraction.get()),
        FaultDelayBy::Header => {
            let by = ask.number("x-envoy-fault-delay-request")?;
            let share = ask.number("x-envoy-fault-delay-request-percentage");
            (Duration::from_millis(by), lowered(delay.fraction.get(), share))
        }
    };
    (!by.is_zero() && fraction.contains(ask.shard.random())).then_some(by)
}

fn abort(fault: &Fault, ask: &Ask<'_>) -> Option<FaultAbortWith> {
    let abort = fault.abort.as_ref()?;
    let (with, fraction) = match abort.with {
        FaultAbortWith::Header => {
            let status = ask.number("x-envoy-fault-abort-request").and_then(|status| {
                let status = u16::try_from(status).ok()?;
                (200..600).contains(&status).then_some(FaultAbortWith::Http(status))
            });
            let grpc = || {
                let status = ask.number("x-envoy-fault-abort-grpc-request")?;
                u32::try_from(status).ok().map(FaultAbortWith::Grpc)
            };
            let share = ask.number("x-envoy-fault-abort-request-percentage");
            (status.or_else(grpc)?, lowered(abort.fraction.get(), share))
        }
        with => (with, abort.fraction.get()),
    };
    fraction.contains(ask.shard.random()).then_some(with)
}

/// A share that the request may lower.
fn lowered(fraction: Fraction, asked: Option<u64>) -> Fraction {
    let asked = asked.map_or(u32::MAX, |asked| u32::try_from(asked).unwrap_or(u32::MAX));
    Fraction { numerator: fraction.numerator.min(asked), ..fraction }
}

fn aborted(with: FaultAbortWith) -> Reply {
    let (status, grpc_status) = match with {
        FaultAbortWith::Http(status) => (status, None),
        FaultAbortWith::Grpc(status) => (200, Some(status.into())),
        // Resolved before.
        FaultAbortWith::Header => (500, None),
    };
    let flags = ResponseFlags::FAULT_INJECTED;
    let mut reply = Reply::text(status, "fault filter abort", flags, "fault_filter_abort");
    reply.grpc_status = grpc_status;
    reply
}
