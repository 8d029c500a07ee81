//! An RPC connection to an endpoint that goes to a successor, or comes from a predecessor.
//!
//! Invariant: it goes without a call that waits, and its numbers go on behind the last one, so that an
//! answer that comes too late answers nobody.

use std::rc::Rc;
use std::task::Waker;

use outrigger_codecs::rpc::Tag;
use outrigger_upgrade::record::{ProtocolRecord, UpstreamRpcRecord};

use crate::cluster::meter::Meter;
use crate::cluster::{ClusterRuntime, Host};
use crate::connection::moving::{LastCall, Leave, resting, upstream};
use crate::rpc::RpcRuntime;
use crate::shard::Shard;
use crate::transport::Transport;

use super::{RpcClient, Stage, State, wake};

/// What a predecessor says of its connection.
pub struct RestoredRpc {
    /// Who made it.
    pub rpc: Rc<RpcRuntime>,
    /// Of its first request.
    pub tag: Tag,
    /// The number of its last request.
    pub last_id: u64,
}

impl RpcClient {
    /// It may go to the present successor, as soon as no call waits. One that is a caller's own stays with
    /// that.
    pub fn let_go(&self, last_call: Option<&LastCall>) {
        let state = self.state.borrow();
        let is_shared = self.source.is_none() && self.bound_to.borrow().is_none();
        if is_shared && !self.leaving.is_under_way() {
            let last_call = last_call.filter(|_| state.rests());
            self.leaving.allow(&self.shard, last_call.cloned());
            wake(state.task.as_ref(), &self.shard);
        }
    }

    /// Goes on with a connection that another process has made.
    pub fn adopt(
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        host: &Rc<Host>,
        restored: RestoredRpc,
        transport: Transport,
        requests: u32,
    ) {
        let RestoredRpc { rpc, tag, last_id } = restored;
        transport.start();
        let admission = cluster.breakers.admit(|all| &all.connections, u32::MAX);
        let meter = Meter::adopted(shard, cluster, host, admission, requests);
        let stage = Stage::Open { transport, meter };
        let client = Self::spawn(shard, cluster, host, &rpc, tag, stage, None, None);
        client.state.borrow_mut().next_id = last_id;
        host.rpc.borrow_mut().push(client);
    }

    /// Gets on with leaving. Nothing when the connection goes on here; else whether it is over here.
    pub(super) fn leave_process(&self, waker: &Waker) -> Option<bool> {
        let state = &mut *self.state.borrow_mut();
        let may_go = self.leaving.is_due(&self.shard) && state.rests();
        if !self.leaving.is_under_way() && !may_go {
            return None;
        }
        let Stage::Open { transport, meter } = &state.stage else { return None };
        let Transport::Plain(socket) = transport else { return None };
        let host = self.host.borrow().upgrade()?;
        let record = || {
            let protocol = UpstreamRpcRecord {
                upstream: upstream(&self.cluster, &host, meter.requests()),
                protocol: self.rpc.config.protocol.name().to_owned(),
                stat_prefix: self.rpc.config.stat_prefix.to_string(),
                tag: state.tag.0.to_vec(),
                last_id: state.next_id,
            };
            resting(socket, ProtocolRecord::UpstreamRpc(protocol))
        };
        match self.leaving.advance(&self.shard, waker, &[socket], record) {
            Leave::Stays => None,
            Leave::Waits => Some(false),
            Leave::Left(_) => {
                self.has_left(state);
                Some(true)
            }
        }
    }

    fn has_left(&self, state: &mut State) {
        if let Stage::Open { transport, meter } = &mut state.stage {
            self.cluster.stats.upstream_cx_tx_bytes_total.add(transport.sent_bytes());
            meter.leaves();
        }
        state.stage = Stage::Closed;
    }
}

impl State {
    /// True when nothing is under way on the connection, nor on its way.
    fn rests(&self) -> bool {
        let Stage::Open { transport, .. } = &self.stage else { return false };
        matches!(transport, Transport::Plain(_))
            && !self.draining
            && !self.closed_to_requests
            && !self.dead
            && self.calls.is_empty()
            && self.reader.partial_since().is_none()
            && transport.unsent() == 0
    }
}
