//! Upstream connections that rest in their pools: they go along, so that the next process starts warm.
//!
//! They go last, because this process may need them until its clients have gone; those that requests share
//! go as soon as none is left on them. Invariant: a connection that rests is nobody's but its pool's, and
//! one on which something came meanwhile is closed by whoever finds that.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use outrigger_upgrade::record::ProtocolRecord;

use crate::cluster::{Host, UpstreamConnection};
use crate::shard::{Shard, spawn_guarded};
use crate::transport::Transport;

use super::{LastCall, Leave, Leaving, outline};

/// Sends the connections that rest on their way. They keep a last call until it is known whether they
/// have left.
pub(super) fn leave(shard: &Rc<Shard>, last_call: Option<&LastCall>) {
    let mut all = Vec::new();
    shard.serving.visit_hosts(|_, host| {
        let connections = host.take_plain_idle();
        all.extend(connections.into_iter().map(|connection| (Rc::clone(host), connection)));
        // Those that requests share have tasks of their own, which find out when they rest.
        host.let_shared_go(last_call);
    });
    for (host, connection) in all {
        let leaving = Leaving::default();
        leaving.allow(shard, last_call.cloned());
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
    connection: Option<Box<UpstreamConnection>>,
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
            let meter = &connection.meter;
            let upstream = outline::upstream(&meter.cluster, Some(&this.host), meter.requests());
            outline::resting(socket, ProtocolRecord::Upstream(upstream))
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
