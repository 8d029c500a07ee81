//! One connection's way to a successor, as its own task goes it.
//!
//! | stage | means | ends with |
//! |---|---|---|
//! | `Serving` | it is served here | its task is at a boundary, and there is a successor |
//! | `Holding` | what is with the kernel is taken back | nothing is any more |
//! | `Offered` | the successor is asked | given, or back to `Serving` |
//!
//! Invariant: from `Holding` on nothing is read or written here, until the successor is known not to have it.

use std::cell::Cell;
use std::sync::Arc;
use std::task::Waker;

use outrigger_upgrade::record::ConnectionRecord;

use crate::ring::Socket;
use crate::shard::Shard;

use super::Answer;

/// Says that this process is about to end. Whoever holds one is still on the way out.
pub type LastCall = Arc<()>;

/// Where a connection is on that way.
#[derive(Default)]
pub struct Leaving {
    stage: Cell<Stage>,
    /// Its protocol knows how.
    is_able: Cell<bool>,
    /// The only successor that it may go to, by number.
    only_to: Cell<Option<u32>>,
    /// The number of the successor that declined it.
    declined_in: Cell<u32>,
    last_call: Cell<Option<LastCall>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Serving,
    Holding,
    Offered(u64),
}

/// What its task is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Serve it.
    Stays,
    /// Leave it alone until it is woken.
    Waits,
    /// End: the connection of this number is the successor's.
    Left(u64),
}

impl Leaving {
    /// Whether the connection can be gone on with elsewhere, which is up to what is spoken on it.
    pub fn set_able(&self, is_able: bool) {
        self.is_able.set(is_able);
    }

    /// The connection may go to the present successor, and to no other before this is said again.
    pub fn allow(&self, shard: &Shard, last_call: Option<LastCall>) {
        self.is_able.set(true);
        self.only_to.set(Some(shard.departures.era()));
        self.last_call.set(last_call.filter(|_| self.is_due(shard)));
    }

    /// True while it is to go to a successor at its next boundary.
    pub fn is_due(&self, shard: &Shard) -> bool {
        let departures = &shard.departures;
        let era = departures.era();
        departures.is_open()
            && self.is_able.get()
            && self.only_to.get().is_none_or(|only| only == era)
            && self.declined_in.get() != era
    }

    /// True when the task is to call [`Leaving::advance`], and nothing else.
    pub fn is_under_way(&self) -> bool {
        self.stage.get() != Stage::Serving
    }

    /// Goes on; called at a boundary, and whenever the task is woken from then on. The record is of the
    /// connection as it is when all its sockets are still.
    pub fn advance(
        &self,
        shard: &Shard,
        waker: &Waker,
        sockets: &[&Socket],
        record: impl FnOnce() -> ConnectionRecord,
    ) -> Leave {
        if self.stage.get() == Stage::Serving {
            if !self.is_due(shard) {
                return Leave::Stays;
            }
            sockets.iter().for_each(|socket| socket.hold());
            self.stage.set(Stage::Holding);
        }
        match self.stage.get() {
            Stage::Serving => Leave::Stays,
            Stage::Holding if !shard.departures.is_open() => self.stay(shard, waker, sockets),
            Stage::Holding if !sockets.iter().all(|socket| socket.is_still()) => Leave::Waits,
            Stage::Holding => self.offer(shard, waker, sockets, record()),
            Stage::Offered(connection) => match shard.departures.take_answer(connection) {
                None => Leave::Waits,
                Some(Answer::Given) => {
                    self.last_call.take();
                    Leave::Left(connection)
                }
                Some(Answer::Stays(reason)) => {
                    if let Some(reason) = reason {
                        log::debug!(target: "upgrade", "a connection stays: {reason}");
                        self.declined_in.set(shard.departures.era());
                    }
                    self.stay(shard, waker, sockets)
                }
            },
        }
    }

    fn offer(
        &self,
        shard: &Shard,
        waker: &Waker,
        sockets: &[&Socket],
        record: ConnectionRecord,
    ) -> Leave {
        let copies: Result<Vec<_>, _> = sockets.iter().map(|socket| socket.duplicate()).collect();
        let copies = match copies {
            Ok(copies) => copies,
            Err(error) => {
                log::warn!(target: "upgrade", "a connection can't be given away: {error}");
                self.declined_in.set(shard.departures.era());
                return self.stay(shard, waker, sockets);
            }
        };
        match shard.departures.offer(shard, Box::new(record), copies, waker) {
            Some(connection) => {
                self.stage.set(Stage::Offered(connection));
                Leave::Waits
            }
            None => {
                // The control thread has ended, and the process is about to.
                self.declined_in.set(shard.departures.era());
                self.stay(shard, waker, sockets)
            }
        }
    }

    fn stay(&self, shard: &Shard, waker: &Waker, sockets: &[&Socket]) -> Leave {
        self.stage.set(Stage::Serving);
        self.last_call.take();
        sockets.iter().for_each(|socket| socket.go_on());
        // What came meanwhile has woken nobody who would have served it.
        waker.wake_by_ref();
        shard.ring.note_wake();
        Leave::Stays
    }
}
