//! Connection tasks that may panic without taking the shard with them.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::Shard;

/// Runs `task` on this shard. A panic in it is counted and ends it, and only it: its sockets are
/// closed as it is dropped.
pub fn spawn_guarded(shard: &Rc<Shard>, task: impl Future<Output = ()> + 'static) {
    let guarded = Guarded { task: Some(task), shard: Rc::clone(shard) };
    glommio::spawn_local(guarded).detach();
}

struct Guarded<F> {
    task: Option<F>,
    shard: Rc<Shard>,
}

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `task` is pinned with us: it is only polled through this projection, and only
        // ever dropped in place.
        let this = unsafe { self.get_unchecked_mut() };
        let Some(task) = &mut this.task else { return Poll::Ready(()) };
        // SAFETY: as above.
        let task = unsafe { Pin::new_unchecked(task) };
        // A connection's state is dropped right after a panic, so nobody sees it half changed;
        // what it shares with others is counters and pools of whole connections.
        match catch_unwind(AssertUnwindSafe(|| task.poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => {
                this.task = None;
                Poll::Ready(())
            }
            Err(_) => {
                this.shard.stats.panics.inc();
                log::error!(
                    target: "shard",
                    "shard {}: a connection's task panicked; the connection is closed. Please \
                     report this with the lines above",
                    this.shard.index
                );
                this.task = None;
                Poll::Ready(())
            }
        }
    }
}
