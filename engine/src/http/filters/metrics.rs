//! `istio.stats`: what a request counts in is known when it has ended; what is needed for that of its
//! head is kept until then.

use std::rc::Rc;

use outrigger_xds::snapshot::RequestView;

use crate::istio::Telemetry;

use super::Ask;

pub(super) struct MetricsFilter {
    pub(super) telemetry: Rc<Telemetry>,
}

/// What one request is to be counted by.
#[derive(Default)]
pub(in crate::http) struct MetricsCall {
    /// Nothing: it is not counted.
    pub(in crate::http) telemetry: Option<Rc<Telemetry>>,
    /// Whom the client asked for, where that may name the destination.
    pub(in crate::http) authority: Vec<u8>,
}

impl MetricsFilter {
    pub(super) fn apply(&self, ask: &Ask<'_>, call: &mut MetricsCall) {
        call.authority.clear();
        if self.telemetry.wants_authority(ask.cluster.map(|cluster| &*cluster.config)) {
            call.authority.extend_from_slice(ask.request.authority());
        }
        call.telemetry = Some(Rc::clone(&self.telemetry));
    }
}

impl MetricsCall {
    pub(super) fn clear(&mut self) {
        let Self { authority, telemetry } = self;
        authority.clear();
        authority.shrink_to(AUTHORITY_KEPT_BYTES);
        *telemetry = None;
    }
}

/// Room for an authority that is kept for the next request.
const AUTHORITY_KEPT_BYTES: usize = 256;
