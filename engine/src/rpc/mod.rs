//! RPC framing protocols: one stream manager for Bolt, Dubbo and HSF.
//!
//! | module | what it is |
//! |---|---|
//! | `downstream` | a client's connection: its requests are routed and sent, answers come back |
//! | `route` | choosing a request's route and cluster |
//! | `reader`, `message` | from received bytes to whole frames, and their way out |
//! | `heartbeats`, `sweep` | what happens on connections that are silent |
//!
//! The upstream side is [`RpcClient`](crate::cluster::RpcClient). A request is handed from the task of
//! its downstream connection straight to the upstream connection's socket, and its answer straight
//! back: no task is made for a request, and none is woken between the two. Invariants: frames go out
//! whole; one peer's silence, slowness or nonsense is nobody else's matter.

mod downstream;
mod heartbeats;
mod ids;
mod message;
mod reader;
mod report;
mod route;
mod sweep;

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use outrigger_codecs::rpc::{Bolt, Dubbo, Hsf, RpcCodec, Splices};
use outrigger_upgrade::record::RpcRecord;
use outrigger_xds::snapshot::{RpcProtocol, RpcProxy, Sharing};

use crate::access_log::AccessLogs;
use crate::cluster::RestoredRpc;
use crate::connection::moving::Relayed;
use crate::connection::{Admitted, WithinDrain};
use crate::shard::{Shard, spawn_guarded};
use crate::stats::RpcStats;

use self::downstream::Serving;

pub use self::heartbeats::{Heartbeats, Verdict};
pub use self::ids::IdHasher;
pub use self::message::Message;
pub use self::reader::{FrameReader, Input, Read, ReadMemory};
pub use self::sweep::{RpcShard, Swept};

/// One RPC proxy on one shard.
pub struct RpcRuntime {
    /// Its configuration.
    pub config: Arc<RpcProxy>,
    /// What is spoken.
    pub codec: Rc<dyn RpcCodec>,
    /// Its counters.
    pub stats: Arc<RpcStats>,
    logs: Arc<AccessLogs>,
    /// Text being put together.
    scratch: RefCell<Vec<u8>>,
    /// Changes being worked out.
    splices: RefCell<Splices>,
}

/// How many upstream connections an endpoint gets.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamLimits {
    /// At most so many.
    pub max: u32,
    /// Requests on each before another one is made.
    pub requests_each: u32,
    /// No more requests than that on one, whatever happens.
    pub exclusive: bool,
}

impl RpcRuntime {
    /// Makes the runtime of `config`.
    pub fn new(shard: &Shard, config: Arc<RpcProxy>, logs: Arc<AccessLogs>) -> Self {
        let protocol = config.protocol.name();
        Self {
            codec: codec(&config),
            stats: shard.registry.rpc(shard.index, protocol, &config.stat_prefix),
            config,
            logs,
            scratch: RefCell::default(),
            splices: RefCell::default(),
        }
    }

    /// Serves a connection.
    pub fn serve(self: &Rc<Self>, shard: &Rc<Shard>, admitted: Admitted) {
        let drain = Rc::clone(&admitted.info.drain);
        spawn_guarded(shard, WithinDrain::new(Serving::new(shard, self, admitted), &drain));
        shard.ring.note_wake();
    }

    /// Goes on with a connection of a predecessor, which may still have answers for it. `bound` are its own.
    pub fn adopt(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        admitted: Admitted,
        record: &RpcRecord,
        bound: Vec<RestoredRpc>,
    ) -> Weak<dyn Relayed> {
        let drain = Rc::clone(&admitted.info.drain);
        let serving = Serving::adopt(shard, self, admitted, record, bound);
        let relayed = serving.relayed();
        spawn_guarded(shard, WithinDrain::new(serving, &drain));
        shard.ring.note_wake();
        relayed
    }

    /// How many upstream connections an endpoint gets.
    pub fn upstream_limits(&self) -> UpstreamLimits {
        let limits = self.config.upstream_connections;
        UpstreamLimits {
            max: limits.max,
            requests_each: limits.requests_each,
            exclusive: self.config.sharing == Sharing::PingPong,
        }
    }

    /// True when connections made for one are as good for the other.
    pub fn shares_upstream_with(&self, other: &Self) -> bool {
        let (one, other) = (&self.config, &other.config);
        Arc::ptr_eq(one, other)
            || one.protocol == other.protocol
                && one.sharing == other.sharing
                && one.upstream_keepalive == other.upstream_keepalive
                && one.max_frame_bytes == other.max_frame_bytes
    }
}

fn codec(config: &RpcProxy) -> Rc<dyn RpcCodec> {
    let max_frame_bytes = config.max_frame_bytes as usize;
    match config.protocol {
        RpcProtocol::Bolt { crc_by_switch_only, goaway } => {
            Rc::new(Bolt { crc_by_switch_only, goaway, max_frame_bytes })
        }
        RpcProtocol::Dubbo => Rc::new(Dubbo { max_frame_bytes }),
        RpcProtocol::Hsf {
            rpc_type_first,
            response_codec_first,
            heartbeat_version_first,
            rpc_protocol_byte,
            announce_closing,
            tb_local_errors,
        } => Rc::new(Hsf {
            max_frame_bytes,
            rpc_type_first,
            response_codec_first,
            heartbeat_version_first,
            rpc_protocol_byte,
            announce_closing,
            tb_local_errors,
        }),
    }
}
