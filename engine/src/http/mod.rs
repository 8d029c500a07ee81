//! The HTTP stream manager: one model of request and response, whatever the versions of the two
//! sides.
//!
//! ```text
//! http1       the wire side of HTTP/1: the downstream connection, one exchange after the other
//! http2       the wire side of HTTP/2: the downstream connection, many exchanges at a time
//! downstream  what an exchange sees of either
//! request     what a request is, as it is routed
//! begin       decides where it goes
//! outbound    renders its upstream head
//! exchange    moves one request up and its response down, under back-pressure and deadlines
//! reply       answers that are ours: errors, redirects, direct responses
//! ```
//!
//! Invariant: every request that was accepted ends in exactly one of: a complete response, a reply
//! of our own, or a closed connection, and is counted and logged once.

mod begin;
mod client_cert;
mod demand;
mod downstream;
mod edits;
mod exchange;
mod facts;
mod filters;
mod grpc;
mod head;
mod http1;
mod http2;
mod kept_head;
mod meter;
mod origin;
mod outbound;
mod path;
mod redirect;
mod reply;
mod request;
mod retry;
mod rewrite;
mod soap;
mod upgrade;

use std::sync::Arc;

use outrigger_codecs::http1::HeadLimits;
use outrigger_xds::snapshot::{HttpConnectionManager, HttpTimeouts, TrafficDirection};

use crate::access_log::AccessLogs;
use crate::cluster::Routes;
use crate::shard::Shard;
use crate::stats::{Http2Stats, HttpStats};
use crate::timer::{NANOS_PER_MS, Nanos, after};

use self::filters::LiveFilters;

pub use self::edits::EditOutcome;
pub use self::exchange::Exchange;
pub use self::filters::WorkloadCache;
pub use self::http1::Http1Connection;
pub use self::http2::{Http2Connection, Restored};
pub use self::meter::ConnectionMeter;
pub use self::origin::Peer;

/// One connection manager on one shard.
pub struct HttpRuntime {
    /// Its configuration.
    pub config: Arc<HttpConnectionManager>,
    /// What requests are routed by.
    pub routes: Routes,
    /// Its counters.
    pub stats: Arc<HttpStats>,
    /// Those of the HTTP/2 codecs of this shard.
    pub http2_stats: Arc<Http2Stats>,
    /// Its access logs.
    pub logs: Arc<AccessLogs>,
    /// Limits of request heads.
    pub limits: HeadLimits,
    /// What acts on requests before the router.
    filters: LiveFilters,
    /// The traffic is that of clients here.
    is_outbound: bool,
}

impl HttpRuntime {
    /// Makes the runtime of `config`, for a listener with this direction of traffic.
    pub fn new(
        shard: &Shard,
        config: Arc<HttpConnectionManager>,
        direction: TrafficDirection,
        logs: Arc<AccessLogs>,
    ) -> Self {
        let limits = HeadLimits {
            bytes_max: config.limits.max_request_headers_bytes as usize,
            fields_max: config.limits.max_headers_count as usize,
        };
        let routes = shard.serving.routes(&config.routes);
        let stats = shard.registry.http(shard.index, &config.stat_prefix);
        let http2_stats = shard.registry.http2(shard.index);
        let filters = LiveFilters::new(shard, &config, direction);
        let is_outbound = direction == TrafficDirection::Outbound;
        Self { config, routes, stats, http2_stats, logs, limits, filters, is_outbound }
    }
}

/// Memory that exchanges of a shard use one after the other.
#[derive(Default)]
pub struct HttpScratch {
    /// Header edits being worked out.
    pub edits: EditOutcome,
    /// Text being put together.
    pub text: Vec<u8>,
    /// Exchanges at rest, with the memory of their buffers.
    pub exchanges: Vec<Box<Exchange>>,
}

/// Exchanges kept for reuse: as many as are usually under way at once on a shard.
const EXCHANGES_KEPT: usize = 1024;

/// When a connection that began `now` has lasted long enough; `random` is uniform.
fn max_age(timeouts: &HttpTimeouts, now: Nanos, random: u64) -> Option<Nanos> {
    let limit = timeouts.max_connection_duration?;
    let share = (random % 1_000_001) as f64 / 1e6;
    let jitter = limit.mul_f64(timeouts.max_connection_duration_jitter_percent / 100.0 * share);
    after(now, Some(limit + jitter))
}

fn earliest(deadlines: &[Option<Nanos>]) -> Option<Nanos> {
    deadlines.iter().flatten().min().copied()
}
