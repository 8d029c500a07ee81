//! The HTTP stream manager: one model of request and response, whatever the versions of the two
//! sides.
//!
//! ```text
//! connection  reads heads off a downstream socket, one exchange after the other
//! begin       decides what a request is and where it goes; renders its upstream head
//! exchange    moves one request up and its response down, under back-pressure and deadlines
//! reply       answers that are ours: errors, redirects, direct responses
//! ```
//!
//! Invariant: every request that was accepted ends in exactly one of: a complete response, a reply
//! of our own, or a closed connection, and is counted and logged once.

mod begin;
mod connection;
mod edits;
mod exchange;
mod facts;
mod input;
mod origin;
mod path;
mod render;
mod reply;
mod upgrade;

use std::sync::Arc;

use outrigger_codecs::http1::HeadLimits;
use outrigger_xds::snapshot::HttpConnectionManager;

use crate::access_log::AccessLogs;
use crate::shard::Shard;
use crate::stats::HttpStats;
use crate::timer::{NANOS_PER_MS, Nanos, after};

pub use self::connection::HttpConnection;
pub use self::edits::EditOutcome;
pub use self::exchange::Exchange;
pub use self::origin::Peer;

/// One connection manager on one shard.
pub struct HttpRuntime {
    /// Its configuration.
    pub config: Arc<HttpConnectionManager>,
    /// Its counters.
    pub stats: Arc<HttpStats>,
    /// Its access logs.
    pub logs: Arc<AccessLogs>,
    /// Limits of request heads.
    pub limits: HeadLimits,
}

impl HttpRuntime {
    /// Makes the runtime of `config`.
    pub fn new(shard: &Shard, config: Arc<HttpConnectionManager>, logs: Arc<AccessLogs>) -> Self {
        let limits = HeadLimits {
            bytes_max: config.limits.max_request_headers_bytes as usize,
            fields_max: config.limits.max_headers_count as usize,
        };
        let stats = shard.registry.http(shard.index, &config.stat_prefix);
        Self { config, stats, logs, limits }
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

fn earliest(deadlines: impl IntoIterator<Item = Option<Nanos>>) -> Option<Nanos> {
    deadlines.into_iter().flatten().min()
}
