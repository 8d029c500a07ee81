//! The one timer of all RPC connections of a shard: heartbeats, idle connections, frames that are not
//! completed.
//!
//! Connections are looked at in turn, each about once a second, so that many of them make many small
//! steps instead of a long one. Invariant: without connections there is no timer.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use crate::shard::{Shard, spawn_guarded};
use crate::timer::{Nanos, Timer};

use super::reader::AssemblyBudget;

/// A connection that wants to be looked at.
pub trait Swept {
    /// Does what time asks for. False when the connection is over.
    fn sweep(&self, now: Nanos) -> bool;
}

/// What the RPC connections of a shard have in common.
#[derive(Default)]
pub struct RpcShard {
    /// Bytes of frames in the making.
    pub budget: AssemblyBudget,
    connections: RefCell<Vec<Weak<dyn Swept>>>,
    /// The next one to be looked at.
    next: Cell<usize>,
    sweeper: RefCell<Option<Waker>>,
    started: Cell<bool>,
}

impl RpcShard {
    /// Looks at a connection from now on, until it is over.
    pub fn watch(&self, shard: &Rc<Shard>, connection: &Rc<dyn Swept>) {
        self.connections.borrow_mut().push(Rc::downgrade(connection));
        if !self.started.replace(true) {
            let timer = shard.timers.timer();
            spawn_guarded(shard, Sweeper { shard: Rc::clone(shard), timer });
        } else if let Some(sweeper) = self.sweeper.take() {
            sweeper.wake();
        }
        shard.ring.note_wake();
    }

    /// Looks at the next connections. Returns when to go on; nothing when there are none.
    fn step(&self, now: Nanos) -> Option<Nanos> {
        let total = self.connections.borrow().len();
        let steps = total.div_ceil(PER_STEP).max(1);
        for _ in 0..total.div_ceil(steps) {
            let at = self.next.get();
            let connection = self.connections.borrow().get(at).cloned();
            let Some(connection) = connection else {
                self.next.set(0);
                break;
            };
            // Looked at without the list: a connection may start another one.
            if connection.upgrade().is_some_and(|connection| connection.sweep(now)) {
                self.next.set(at + 1);
            } else {
                self.connections.borrow_mut().swap_remove(at);
            }
        }
        (!self.connections.borrow().is_empty()).then(|| now + ROUND / steps as u64)
    }
}

struct Sweeper {
    shard: Rc<Shard>,
    timer: Timer,
}

impl Future for Sweeper {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let rpc = &self.shard.rpc;
        self.timer.register(context.waker());
        let _fired = self.timer.take_fired();
        let next = rpc.step(self.shard.clock.now());
        self.timer.set(next);
        // Only without a timer does a new connection have to wake us.
        *rpc.sweeper.borrow_mut() = next.is_none().then(|| context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        // After a panic: the next connection starts another one.
        self.shard.rpc.started.set(false);
    }
}

/// Connections looked at in one step.
const PER_STEP: usize = 512;

/// The time in which each is looked at once.
const ROUND: Nanos = 1_000_000_000;
