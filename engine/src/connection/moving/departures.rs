//! The connections of a shard that are on their way to a successor, and what becomes of each.
//!
//! Connections that rest are woken a few at a time, so that each is held for no longer than it takes to
//! move a few. Invariant: an offered connection gets exactly one answer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use outrigger_upgrade::record::ConnectionRecord;
use tokio::sync::mpsc::UnboundedSender;

use crate::shard::{Shard, spawn_guarded};
use crate::timer::{NANOS_PER_MS, Nanos, Timer};

use super::{LastCall, resting};

/// What is to go to the successor. Each kind is bounded by the connections that a shard has, and the
/// requests that were under way on them.
#[derive(Debug)]
pub enum Departure {
    /// A connection that is held.
    Offer {
        /// Its number, unique in this process.
        connection: u64,
        /// What is known of it.
        record: Box<ConnectionRecord>,
        /// Copies of its descriptors.
        sockets: Vec<OwnedFd>,
    },
    /// Bytes for a connection that was given away: whole frames.
    Relay {
        /// Its number.
        connection: u64,
        /// They go behind all that was relayed before.
        bytes: Vec<u8>,
    },
    /// Nothing more is relayed to the connection of this number. It is answered by [`Answer::Given`].
    RelayEnd(u64),
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is the successor's.
    Given,
    /// It stays; for this reason, where the successor declined it.
    Stays(Option<String>),
}

/// Those of one shard.
#[derive(Default)]
pub struct Departures {
    is_open: Cell<bool>,
    /// How often it was opened: whom one successor declined the next one may want.
    era: Cell<u32>,
    outbox: RefCell<Option<UnboundedSender<Departure>>>,
    offered: RefCell<HashMap<u64, Offered>>,
    next: Cell<u64>,
}

struct Offered {
    waker: Waker,
    answer: Option<Answer>,
}

impl Departures {
    /// True while there is a successor to go to.
    pub fn is_open(&self) -> bool {
        self.is_open.get()
    }

    /// Offers connections from now on.
    pub fn open(&self, shard: &Rc<Shard>, outbox: UnboundedSender<Departure>) {
        self.outbox.replace(Some(outbox));
        self.era.set(self.era.get() + 1);
        self.is_open.set(true);
        let timer = shard.timers.timer();
        spawn_guarded(shard, Pacing { shard: Rc::clone(shard), timer, next: 0 });
        shard.ring.note_wake();
    }

    /// The process ends soon: what rests by now goes along, too.
    pub fn last_call(&self, shard: &Rc<Shard>, call: &LastCall) {
        if self.is_open() {
            resting::leave(shard, Some(call));
        }
    }

    /// Offers none any more. Those that were offered wait for their answers.
    pub fn close(&self) {
        self.is_open.set(false);
        self.outbox.replace(None);
    }

    /// What became of a connection.
    pub fn answer(&self, shard: &Shard, connection: u64, answer: Answer) {
        if let Some(offered) = self.offered.borrow_mut().get_mut(&connection) {
            offered.answer = Some(answer);
            offered.waker.wake_by_ref();
            shard.ring.note_wake();
        }
    }

    /// The present successor's number.
    pub(super) fn era(&self) -> u32 {
        self.era.get()
    }

    /// Offers a connection; its task is woken when there is an answer. Nothing when there is nobody.
    pub(super) fn offer(
        &self,
        shard: &Shard,
        record: Box<ConnectionRecord>,
        sockets: Vec<OwnedFd>,
        waker: &Waker,
    ) -> Option<u64> {
        // Unique in the process, and so that each shard knows its own.
        let count = self.next.get();
        let connection = count * shard.count() as u64 + shard.index as u64;
        self.send(Departure::Offer { connection, record, sockets })?;
        self.next.set(count + 1);
        self.expect(connection, waker);
        Some(connection)
    }

    /// Sends bytes after a connection. False when there is nobody.
    pub fn relay(&self, connection: u64, bytes: Vec<u8>) -> bool {
        self.send(Departure::Relay { connection, bytes }).is_some()
    }

    /// Says that no more bytes follow; the task is woken when that is on its way. False when there is
    /// nobody.
    pub fn end_relay(&self, connection: u64, waker: &Waker) -> bool {
        self.expect(connection, waker);
        self.send(Departure::RelayEnd(connection)).is_some()
    }

    /// Takes what became of a connection.
    pub fn take_answer(&self, connection: u64) -> Option<Answer> {
        let mut offered = self.offered.borrow_mut();
        let answer = offered.get_mut(&connection)?.answer.take()?;
        offered.remove(&connection);
        Some(answer)
    }

    fn expect(&self, connection: u64, waker: &Waker) {
        let offered = Offered { waker: waker.clone(), answer: None };
        self.offered.borrow_mut().insert(connection, offered);
    }

    fn send(&self, departure: Departure) -> Option<()> {
        self.outbox.borrow().as_ref()?.send(departure).ok()
    }
}

/// Wakes the shard's connections, some at a time.
struct Pacing {
    shard: Rc<Shard>,
    timer: Timer,
    next: usize,
}

impl Future for Pacing {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let departures = &this.shard.departures;
        this.timer.register(context.waker());
        let _fired = this.timer.take_fired();
        if !departures.is_open() {
            return Poll::Ready(());
        }
        let under_way = departures.offered.borrow().len();
        let room = OFFERED_AT_ONCE.saturating_sub(under_way);
        match this.shard.drain_wakers.wake_some(this.next, room) {
            Some(next) => this.next = next,
            None => {
                resting::leave(&this.shard, None);
                return Poll::Ready(());
            }
        }
        this.shard.ring.note_wake();
        this.timer.set(Some(this.shard.clock.now() + PACE));
        Poll::Pending
    }
}

/// Enough to keep both processes busy; few enough for each to be held for a moment only.
const OFFERED_AT_ONCE: usize = 64;

/// With [`OFFERED_AT_ONCE`], 64,000 connections a second and shard.
const PACE: Nanos = NANOS_PER_MS;
