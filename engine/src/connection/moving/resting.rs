//! Upstream connections that rest in their pools: they go along, so that the next process starts warm.
//!
//! They go last, because this process may need them until its clients have gone. Invariant: a connection
//! that rests is nobody's but its pool's, and one on which something came meanwhile is closed by whoever
//! finds that.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use outrigger_upgrade::record::{
    ConnectionRecord, EndsRecord, ProtocolRecord, StreamRecord, UpstreamRecord,
};

use crate::cluster::{Host, UpstreamConnection};
use crate::shard::{Shard, spawn_guarded};
use crate::transport::Transport;

use super::outline::stream;
use super::{Leave, Leaving};

/// Sends the connections that rest on their way.
pub(super) fn leave(shard: &Rc<Shard>) {
    let mut all = Vec::new();
    shard.serving.visit_hosts(|_, host| {
        let connections = host.take_plain_idle();
        all.extend(connections.into_iter().map(|connection| (Rc::clone(host), connection)));
    });
    for (host, connection) in all {
        let leaving = Leaving::default();
        leaving.set_able(true);
        let resting =
            Resting { shard: Rc::clone(shard), host, connection: Some(connection), leaving };
        spawn_guarded(shard, resting);
    }
    shard.ring.note_wake();
}

/// One on its way.
struct Resting {
    shard: Rc<Shard>,
    host: Rc<Host>,
    connection: Option<UpstreamConnection>,
    leaving: Leaving,
}

impl Future for Resting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(mut connection) = this.connection.take() else { return Poll::Ready(()) };
        let Transport::Plain(socket) = &connection.transport else { return Poll::Ready(()) };
        socket.register(context.waker());
        let record = || {
            let upstream = UpstreamRecord {
                cluster: connection.meter.cluster.config.name.to_string(),
                host: this.host.address_text.to_string(),
                requests: connection.meter.requests(),
            };
            ConnectionRecord {
                listener: String::new(),
                chain: String::new(),
                ends: EndsRecord::default(),
                server_name: None,
                age_ns: 0,
                stream: StreamRecord { unsent: Vec::new(), ..stream(socket, &[]) },
                protocol: Some(ProtocolRecord::Upstream(upstream)),
            }
        };
        match this.leaving.advance(&this.shard, context.waker(), &[socket], record) {
            Leave::Waits => {
                this.connection = Some(connection);
                return Poll::Pending;
            }
            Leave::Stays => this.host.give_back(&this.shard, connection),
            Leave::Left(_) => connection.meter.leaves(),
        }
        Poll::Ready(())
    }
}
