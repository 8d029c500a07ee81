//! `istio.stats` of a TCP filter chain: what a connection counts in Istio's metrics (xds.md B13).
//!
//! It is opened once it is known who serves it, and its bytes are told at intervals and at its end.
//! Invariant: bytes that are moved cost nothing here, and a connection without new ones is not woken.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_xds::snapshot::Cluster;

use crate::access_log::{ByteCounts, ResponseFlags};
use crate::cluster::Host;
use crate::istio::{Metric, Protocol, Subject, Telemetry};
use crate::shard::Shard;
use crate::timer::{Nanos, after};
use crate::tls::TlsSession;

/// What one connection has been counted for.
pub(super) struct ConnectionMetrics {
    telemetry: Rc<Telemetry>,
    is_opened: bool,
    /// Bytes that were told of.
    sent: u64,
    received: u64,
    /// When to tell of those that have come since.
    pub(super) due: Option<Nanos>,
}

/// A connection as far as it is known.
pub(super) struct Ends<'a> {
    pub(super) cluster: Option<&'a Arc<Cluster>>,
    pub(super) host: Option<&'a Host>,
    pub(super) downstream: Option<&'a TlsSession>,
    pub(super) upstream: Option<&'a TlsSession>,
    pub(super) flags: ResponseFlags,
}

impl ConnectionMetrics {
    pub(super) fn new(telemetry: Rc<Telemetry>) -> Self {
        Self { telemetry, is_opened: false, sent: 0, received: 0, due: None }
    }

    /// The same for a connection that another process has counted until now.
    pub(super) fn adopted(telemetry: Rc<Telemetry>, bytes: ByteCounts) -> Self {
        let (sent, received) = (bytes.sent, bytes.received);
        Self { is_opened: true, sent, received, ..Self::new(telemetry) }
    }

    /// Bytes were moved: they are to be told of.
    pub(super) fn moved(&mut self, now: Nanos) {
        if self.due.is_none() {
            self.due = after(now, self.telemetry.reporting_interval());
        }
    }

    /// Counts what has come since this was last called; `is_over`: the connection is, too.
    pub(super) fn report(
        &mut self,
        shard: &Shard,
        ends: &Ends<'_>,
        bytes: ByteCounts,
        is_over: bool,
    ) {
        self.due = None;
        let opened = u64::from(!std::mem::replace(&mut self.is_opened, true));
        let sent = bytes.sent - std::mem::replace(&mut self.sent, bytes.sent);
        let received = bytes.received - std::mem::replace(&mut self.received, bytes.received);
        let (peer, tls) = if self.telemetry.is_source() {
            (ends.host.and_then(Host::workload), ends.upstream)
        } else {
            (None, ends.downstream)
        };
        let subject = Subject {
            peer,
            cluster: ends.cluster,
            route: "",
            authority: b"",
            tls,
            protocol: Protocol::Tcp,
            code: 0,
            grpc_status: None,
            flags: ends.flags,
        };
        let Some(counted) = self.telemetry.find(shard, &subject) else { return };
        for counted in &*counted {
            for (metric, count) in [
                (Metric::Opened, opened),
                (Metric::Sent, sent),
                (Metric::Received, received),
                (Metric::Closed, u64::from(is_over)),
            ] {
                counted.add(metric, count);
            }
        }
    }
}
