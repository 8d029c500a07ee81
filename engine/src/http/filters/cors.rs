//! CORS: preflights are answered here, and other requests' responses say who may read them.

use std::sync::Arc;

use outrigger_xds::snapshot::{CorsPolicy, RequestView};

use crate::shard::Shard;
use crate::stats::CorsStats;

use super::super::head::{FieldWriter, HeadSink};
use super::super::reply::Reply;
use super::Ask;

pub(super) struct CorsFilter {
    stats: Arc<CorsStats>,
}

/// What was granted to one request's page.
#[derive(Default)]
pub(super) struct CorsCall {
    granted: Option<Arc<CorsPolicy>>,
    origin: Vec<u8>,
    is_preflight: bool,
    private_network: bool,
}

impl CorsFilter {
    pub(super) fn new(shard: &Shard, stat_prefix: &str) -> Self {
        Self { stats: shard.registry.cors(shard.index, stat_prefix) }
    }

    pub(super) fn apply(
        &self,
        policy: &Arc<CorsPolicy>,
        ask: &Ask<'_>,
        call: &mut CorsCall,
    ) -> Result<(), Reply> {
        let enabled = policy.enabled.contains(ask.shard.random());
        if !enabled && !policy.shadow.contains(ask.shard.random()) {
            return Ok(());
        }
        let Some(origin) = ask.header("origin").filter(|origin| !origin.is_empty()) else {
            return Ok(());
        };
        let is_preflight = ask.request.method() == b"OPTIONS"
            && ask.header(REQUEST_METHOD).is_some_and(|method| !method.is_empty());
        if !policy.allows(origin) {
            self.stats.origin_invalid.inc();
            if enabled && is_preflight && !policy.forward_not_matching_preflights {
                return Err(Reply::empty(200, DETAILS).unedited());
            }
            return Ok(());
        }
        self.stats.origin_valid.inc();
        if !enabled {
            return Ok(());
        }
        call.origin.clear();
        call.origin.extend_from_slice(origin);
        call.granted = Some(Arc::clone(policy));
        call.is_preflight = is_preflight;
        call.private_network = is_preflight
            && policy.allow_private_network
            && ask.header("access-control-request-private-network") == Some(b"true");
        if is_preflight { Err(Reply::empty(200, DETAILS).unedited()) } else { Ok(()) }
    }
}

impl CorsCall {
    pub(super) fn clear(&mut self) {
        let Self { granted, origin, is_preflight, private_network } = self;
        origin.clear();
        origin.shrink_to(ORIGIN_KEPT_BYTES);
        *granted = None;
        (*is_preflight, *private_network) = (false, false);
    }

    /// Whether what upstream says under this name does not count.
    pub(super) fn overwrites(&self, name: &str) -> bool {
        let Some(policy) = &self.granted else { return false };
        name.eq_ignore_ascii_case(ALLOW_ORIGIN)
            || (policy.allow_credentials && name.eq_ignore_ascii_case(ALLOW_CREDENTIALS))
            || (!policy.expose_headers.is_empty() && name.eq_ignore_ascii_case(EXPOSE_HEADERS))
    }

    pub(super) fn write_response<S: HeadSink>(&self, writer: &mut FieldWriter<'_, S>) {
        let Some(policy) = &self.granted else { return };
        let mut put = |name: &str, value: &str| {
            if !value.is_empty() {
                writer.verbatim(name, value.as_bytes());
            }
        };
        if self.is_preflight {
            put("access-control-allow-methods", &policy.allow_methods);
            put("access-control-allow-headers", &policy.allow_headers);
            put("access-control-max-age", &policy.max_age);
        }
        if self.private_network {
            put("access-control-allow-private-network", "true");
        }
        if policy.allow_credentials {
            put(ALLOW_CREDENTIALS, "true");
        }
        put(EXPOSE_HEADERS, &policy.expose_headers);
        writer.verbatim(ALLOW_ORIGIN, &self.origin);
    }
}

const REQUEST_METHOD: &str = "access-control-request-method";
const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_CREDENTIALS: &str = "access-control-allow-credentials";
const EXPOSE_HEADERS: &str = "access-control-expose-headers";

/// Of answers that are the filter's own.
const DETAILS: &str = "cors_response";

/// Room for an origin that is kept for the next request.
const ORIGIN_KEPT_BYTES: usize = 256;
