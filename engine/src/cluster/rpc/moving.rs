//! An RPC connection to an endpoint that goes to a successor, or comes from a predecessor.
//!
//! Invariant: it goes without a call that waits, and its numbers go on behind the last one, so that an
//! answer that comes too late answers nobody.

use std::cell::Ref;
use std::rc::Rc;
use std::task::Waker;

use outrigger_codecs::rpc::Tag;
use outrigger_upgrade::record::{BoundRecord, ProtocolRecord, UpstreamRpcRecord};

use crate::cluster::meter::Meter;
use crate::cluster::{ClusterRuntime, Host, Source};
use crate::connection::moving::{LastCall, Leave, resting, stream, upstream};
use crate::ring::Socket;
use crate::rpc::RpcRuntime;
use crate::shard::Shard;
use crate::transport::Transport;

use super::{RpcCaller, RpcClient, Stage, State, wake};

/// A predecessor's connection.
pub struct RestoredRpc {
    /// Where it leads.
    pub cluster: Rc<ClusterRuntime>,
    /// Which endpoint.
    pub host: Rc<Host>,
    /// Who made it.
    pub rpc: Rc<RpcRuntime>,
    /// Of its first request.
    pub tag: Tag,
    /// The number of its last request.
    pub last_id: u64,
    /// Requests that were sent on it.
    pub requests: u32,
    /// The bytes.
    pub transport: Transport,
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

    /// Goes on with a shared connection that another process has made.
    pub fn adopt(shard: &Rc<Shard>, restored: RestoredRpc) {
        let host = Rc::clone(&restored.host);
        let client = Self::go_on_with(shard, restored, None, None);
        host.rpc.borrow_mut().push(client);
    }

    /// Goes on with a connection that is `caller`'s own.
    pub fn adopt_bound(
        shard: &Rc<Shard>,
        restored: RestoredRpc,
        source: Option<Source>,
        caller: Rc<dyn RpcCaller>,
    ) -> Rc<Self> {
        Self::go_on_with(shard, restored, source, Some(caller))
    }

    fn go_on_with(
        shard: &Rc<Shard>,
        restored: RestoredRpc,
        source: Option<Source>,
        bound_to: Option<Rc<dyn RpcCaller>>,
    ) -> Rc<Self> {
        let RestoredRpc { cluster, host, rpc, tag, last_id, requests, transport } = restored;
        transport.start();
        let meter = Meter::adopted(shard, &cluster, &host, requests);
        let stage = Stage::Open { transport, meter };
        let client = Self::spawn(shard, &cluster, &host, &rpc, tag, stage, source, bound_to);
        client.state.borrow_mut().next_id = last_id;
        client
    }

    /// Gets on with leaving. Nothing when the connection goes on here; else whether it is over here.
    pub(super) fn leave_process(&self, waker: &Waker) -> Option<bool> {
        let state = &mut *self.state.borrow_mut();
        let is_due = self.leaving.is_due(&self.shard);
        let may_go = is_due && state.rests() && self.host.borrow().strong_count() > 0;
        if !self.leaving.is_under_way() && !may_go {
            return None;
        }
        let Stage::Open { transport, meter } = &state.stage else { return None };
        let Transport::Plain(socket) = transport else { return None };
        let host = self.host.borrow().upgrade();
        let record = || {
            let protocol = UpstreamRpcRecord {
                upstream: upstream(&self.cluster, host.as_deref(), meter.requests()),
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
                self.end_here(state);
                Some(true)
            }
        }
    }

    fn end_here(&self, state: &mut State) {
        if let Stage::Open { transport, meter } = &mut state.stage {
            self.cluster.stats.upstream_cx_tx_bytes_total.add(transport.sent_bytes());
            meter.leaves();
        }
        state.stage = Stage::Closed;
    }
}

/// A connection that is a caller's own goes where its caller does.
impl RpcClient {
    /// True when nothing is under way on it.
    pub fn is_at_rest(&self) -> bool {
        self.state.borrow().rests() && self.host.borrow().strong_count() > 0
    }

    /// Leaves it alone; `waker` is woken in its task's place.
    pub fn hold(&self, waker: &Waker) {
        self.state.borrow_mut().held_for = Some(waker.clone());
    }

    /// Serves it again.
    pub fn go_on(&self) {
        let state = &mut *self.state.borrow_mut();
        state.held_for = None;
        wake(state.task.as_ref(), &self.shard);
    }

    /// It is a successor's.
    pub fn has_left(&self) {
        self.bound_to.replace(None);
        self.end_here(&mut self.state.borrow_mut());
        self.go_on();
    }

    /// What can be given away of it.
    pub fn socket(&self) -> Option<Ref<'_, Socket>> {
        let state = self.state.borrow();
        let socket = Ref::filter_map(state, |state| match &state.stage {
            Stage::Open { transport: Transport::Plain(socket), .. } => Some(socket),
            _ => None,
        });
        socket.ok()
    }

    /// What a successor must know of it, once it is still.
    pub fn outline(&self) -> Option<BoundRecord> {
        let state = self.state.borrow();
        let Stage::Open { transport: Transport::Plain(socket), meter } = &state.stage else {
            return None;
        };
        let host = self.host.borrow().upgrade();
        Some(BoundRecord {
            upstream: upstream(&self.cluster, host.as_deref(), meter.requests()),
            stream: stream(socket, &[]),
            tag: state.tag.0.to_vec(),
            last_id: state.next_id,
        })
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
