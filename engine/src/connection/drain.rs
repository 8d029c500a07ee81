//! Asking connections to go: those of a filter chain that was replaced or is to be quiet, and all of a
//! shard that is being drained.
//!
//! A chain's connections are asked one after the other over a while, so that their clients do not all
//! come back at once; of a chain that was replaced, what is left after the drain time is closed. Invariant: a
//! connection that was asked to go never takes that back, unless the whole shard does.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::shard::{Shard, WakerRegistry, spawn_guarded};
use crate::stats::DrainStats;
use crate::timer::{Nanos, Timer, nanos};

/// What the connections of one filter chain on one shard have in common.
#[derive(Default)]
pub struct Drain {
    began: Cell<Option<Window>>,
    over: Cell<bool>,
    wakers: WakerRegistry,
}

/// When a drain runs.
#[derive(Clone, Copy)]
struct Window {
    from: Nanos,
    /// Over how long connections are asked; 0 asks them all at once.
    spread: Nanos,
    /// When what is left is closed.
    until: Option<Nanos>,
}

impl Window {
    /// When nobody is left to be asked.
    fn end(self) -> Nanos {
        self.until.unwrap_or(self.from.saturating_add(self.spread))
    }
}

/// How connections are asked to go.
#[derive(Clone, Copy, Debug)]
pub struct DrainTimes {
    /// The drain time.
    pub limit: Duration,
    /// Ask them one after the other, rather than all at once.
    pub gradual: bool,
    /// Close what is left after that time.
    pub closes: bool,
}

impl Drain {
    /// Asks the connections to go from now on; `listener` counts until they are gone.
    pub fn begin(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        times: DrainTimes,
        listener: Option<&Rc<DrainingListener>>,
    ) {
        let before = self.began.get();
        if before.is_some_and(|window| window.until.is_some() || !times.closes) {
            return;
        }
        let (now, limit) = (shard.clock.now(), nanos(times.limit));
        let spread = if times.gradual { limit } else { 0 };
        let Window { from, spread, .. } =
            before.unwrap_or(Window { from: now, spread, until: None });
        let until = times.closes.then(|| now.saturating_add(limit));
        self.began.set(Some(Window { from, spread, until }));
        self.wakers.wake_all();
        shard.ring.note_wake();
        let timer = shard.timers.timer();
        let drain = Rc::clone(self);
        let draining = Draining {
            _counted: times.closes.then(|| DrainingChain::new(shard)),
            _listener: listener.cloned(),
            shard: Rc::clone(shard),
            drain,
            timer,
            is_watched: false,
        };
        spawn_guarded(shard, draining);
    }

    /// When the connection with this number is asked to go; nothing while it may stay.
    fn asked_at(&self, connection: u64) -> Option<Nanos> {
        let Window { from, spread, .. } = self.began.get()?;
        // Neighbouring numbers fall far apart (Fibonacci hashing).
        let share = connection.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        Some(from + (spread >> 16) * share)
    }

    /// Since when the connection is asked to go.
    pub(super) fn since(&self, shard: &Shard, connection: u64) -> Option<Nanos> {
        self.asked_at(connection).filter(|at| *at <= shard.clock.now())
    }

    pub(super) fn wakers(&self) -> &WakerRegistry {
        &self.wakers
    }
}

/// Counts a listener as draining until its last chain is done.
pub struct DrainingListener(Arc<DrainStats>);

impl DrainingListener {
    /// On this shard.
    pub fn new(shard: &Shard) -> Rc<Self> {
        let stats = shard.registry.drain(shard.index);
        stats.total_listeners_draining.inc();
        Rc::new(Self(stats))
    }
}

impl Drop for DrainingListener {
    fn drop(&mut self) {
        self.0.total_listeners_draining.dec();
    }
}

/// Counts a chain as draining.
struct DrainingChain(Arc<DrainStats>);

impl DrainingChain {
    fn new(shard: &Shard) -> Self {
        let stats = shard.registry.drain(shard.index);
        stats.total_filter_chains_draining.inc();
        Self(stats)
    }
}

impl Drop for DrainingChain {
    fn drop(&mut self) {
        self.0.total_filter_chains_draining.dec();
    }
}

/// Wakes the connections of a chain that drains, as their times come.
struct Draining {
    _counted: Option<DrainingChain>,
    _listener: Option<Rc<DrainingListener>>,
    shard: Rc<Shard>,
    drain: Rc<Drain>,
    timer: Timer,
    is_watched: bool,
}

impl Future for Draining {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.is_watched {
            this.is_watched = true;
            this.timer.register(context.waker());
        }
        let Some(window) = this.drain.began.get() else { return Poll::Ready(()) };
        let (now, end) = (this.shard.clock.now(), window.end());
        this.drain.over.set(window.until.is_some_and(|until| now >= until));
        if this.timer.take_fired() {
            this.drain.wakers.wake_all();
            this.shard.ring.note_wake();
        }
        if now >= end || this.drain.wakers.is_empty() {
            return Poll::Ready(());
        }
        let step = ((end - window.from) / STEPS).max(1);
        this.timer.set(Some((now + step).min(end)));
        Poll::Pending
    }
}

/// A connection's task, which ends with its chain's drain time if not before.
pub struct WithinDrain<T> {
    task: T,
    drain: Rc<Drain>,
}

impl<T> WithinDrain<T> {
    /// `task` serves a connection of the chain.
    pub fn new(task: T, drain: &Rc<Drain>) -> Self {
        Self { task, drain: Rc::clone(drain) }
    }
}

impl<T: Future<Output = ()> + Unpin> Future for WithinDrain<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.drain.over.get() { Poll::Ready(()) } else { Pin::new(&mut this.task).poll(context) }
    }
}

/// How often connections are woken in a drain time, to see whether theirs has come.
const STEPS: Nanos = 32;
