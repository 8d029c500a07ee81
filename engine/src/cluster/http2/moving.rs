//! An HTTP/2 connection to an endpoint that goes to a successor, or comes from a predecessor.
//!
//! Invariant: it goes without a stream, and with everything that both ends know of each other; nothing is
//! asked for on it meanwhile.

use std::rc::Rc;
use std::task::Waker;

use outrigger_codecs::http2::{Connection, Role};
use outrigger_upgrade::record::{Http2Record, ProtocolRecord, UpstreamHttp2Record};

use crate::cluster::meter::Meter;
use crate::cluster::{ClusterRuntime, Host, Wanted};
use crate::connection::moving::{LastCall, Leave, resting, upstream};
use crate::http2::{Link, moving};
use crate::shard::Shard;
use crate::transport::Transport;

use super::{Http2Client, Stage, State, client_config};

impl Http2Client {
    /// It may go to the present successor, as soon as it has no stream.
    pub fn let_go(&self, last_call: Option<&LastCall>) {
        let state = &mut *self.state.borrow_mut();
        if self.made.suits(Wanted::default()) && !self.leaving.is_under_way() {
            let last_call = last_call.filter(|_| state.rests());
            self.leaving.allow(&self.shard, last_call.cloned());
            self.wake(state);
        }
    }

    /// What a predecessor's connection stands for.
    ///
    /// # Errors
    /// Why it can't be gone on with.
    pub fn restore(cluster: &ClusterRuntime, record: &Http2Record) -> Result<Connection, String> {
        moving::restore(record.clone(), Role::Client, client_config(&cluster.config.http))
    }

    /// Goes on with a connection that another process has made.
    pub fn adopt(
        shard: &Rc<Shard>,
        cluster: &Rc<ClusterRuntime>,
        host: &Rc<Host>,
        codec: Connection,
        transport: Transport,
        requests: u32,
    ) {
        transport.start();
        let meter = Meter::adopted(shard, cluster, host, requests);
        let link = Link::new(codec, transport, cluster.watermarks(shard));
        let stage = Stage::Open { link, meter };
        let client = Self::spawn(shard, cluster, host, Wanted::default().into(), stage);
        client.state.borrow_mut().keepalive = client.keepalive();
        host.multiplexed.borrow_mut().push(client);
    }

    /// Gets on with leaving. Nothing when the connection goes on here; else whether it is over here.
    pub(super) fn leave_process(&self, state: &mut State, waker: &Waker) -> Option<bool> {
        let is_due = self.leaving.is_due(&self.shard);
        let may_go = is_due && state.rests() && self.host.borrow().strong_count() > 0;
        if !self.leaving.is_under_way() && !may_go {
            return None;
        }
        let Stage::Open { link, meter } = &state.stage else { return None };
        let Transport::Plain(socket) = &link.transport else { return None };
        let host = self.host.borrow().upgrade();
        let record = || {
            let requests = meter.requests();
            let protocol = UpstreamHttp2Record {
                upstream: upstream(&self.cluster, host.as_deref(), requests),
                connection: moving::record(&link.codec, requests),
            };
            resting(socket, ProtocolRecord::UpstreamHttp2(protocol))
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
        if let Stage::Open { link, meter } = &mut state.stage {
            self.count_bytes(link);
            meter.leaves();
        }
        state.stage = Stage::Closed;
        state.wake_waiting();
    }
}

impl State {
    /// True when nothing is under way on the connection, nor on its way.
    fn rests(&self) -> bool {
        let Stage::Open { link, .. } = &self.stage else { return false };
        matches!(link.transport, Transport::Plain(_))
            && !self.draining
            && !self.has_streams()
            && moving::is_at_rest(&link.codec)
            && link.transport.unsent() == 0
    }
}
