//! Requests of a shard that wait for what they need and is asked of a server for them (xds.md D-17).
//!
//! A shard asks the control thread once for each thing, however many of its requests wait for it. What
//! comes of it is in a snapshot; [`Demands::settle`] is called after that one is served, and whoever waited
//! looks again. What was looked for in vain is remembered for a moment, so that nobody is asked the same
//! again and again. Only requests that do not find what they need come here. Invariant: whoever waits is
//! counted, and leaves nothing behind, however its wait ends.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;
use std::time::Duration;

use outrigger_xds::snapshot::Demand;
use tokio::sync::mpsc;

use crate::stats::DemandStats;
use crate::timer::{NANOS_PER_MS, Nanos};

use super::WakerRegistry;

/// Where the shards of a process ask.
pub struct DemandDesk {
    questions: mpsc::Sender<Demand>,
    /// Requests that wait, on all shards.
    held: AtomicU32,
}

impl DemandDesk {
    /// A desk, and where its questions go.
    pub fn new() -> (Arc<Self>, mpsc::Receiver<Demand>) {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        (Arc::new(Self { questions, held: AtomicU32::new(0) }), asked)
    }

    fn take_place(&self) -> bool {
        let one_more = |held| (held < HELD_MAX).then_some(held + 1);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }
}

impl Default for DemandDesk {
    /// One at which nobody answers: nothing is waited for.
    fn default() -> Self {
        let (questions, _nobody) = mpsc::channel(1);
        Self { questions, held: AtomicU32::new(0) }
    }
}

/// What requests of one shard wait for.
pub struct Demands {
    desk: Arc<DemandDesk>,
    stats: Arc<DemandStats>,
    waits: RefCell<HashMap<Demand, Rc<Wait>>>,
    held: Cell<u32>,
    missed: RefCell<Missed>,
}

/// One thing that is waited for.
#[derive(Default)]
struct Wait {
    is_settled: Cell<bool>,
    wakers: WakerRegistry,
}

/// One request's place among those that wait.
pub struct Ticket {
    demands: Rc<Demands>,
    demand: Demand,
    wait: Rc<Wait>,
    waker: Option<u32>,
}

impl Demands {
    /// Nothing is waited for yet.
    pub fn new(desk: Arc<DemandDesk>, stats: Arc<DemandStats>) -> Rc<Self> {
        let (waits, missed) = (RefCell::default(), RefCell::default());
        Rc::new(Self { desk, stats, waits, held: Cell::new(0), missed })
    }

    /// A place for a request that needs this. Nothing when it was just looked for in vain, or when too
    /// many wait.
    pub fn ask(self: &Rc<Self>, demand: &Demand, now: Nanos) -> Option<Ticket> {
        if self.missed.borrow_mut().has(demand, now) {
            return None;
        }
        if self.held.get() >= HELD_PER_SHARD_MAX || !self.desk.take_place() {
            self.stats.rq_overflow.inc();
            return None;
        }
        self.held.set(self.held.get() + 1);
        self.stats.rq_held_total.inc();
        self.stats.rq_held_active.inc();
        let known = self.waits.borrow().get(demand).cloned();
        let is_new = known.is_none();
        let wait = known.unwrap_or_default();
        let ticket = Ticket { demands: Rc::clone(self), demand: demand.clone(), wait, waker: None };
        if is_new {
            if self.desk.questions.try_send(demand.clone()).is_err() {
                self.stats.rq_overflow.inc();
                return None;
            }
            self.waits.borrow_mut().insert(demand.clone(), Rc::clone(&ticket.wait));
        }
        Some(ticket)
    }

    /// What was asked for has not come: whoever needs it in the next moment need not wait.
    pub fn miss(&self, demand: Demand, now: Nanos) {
        self.stats.rq_missed.inc();
        self.missed.borrow_mut().add(demand, now);
    }

    /// A request has waited for too long.
    pub fn count_timeout(&self) {
        self.stats.rq_timeout.inc();
    }

    /// Wakes whoever waits for one of these. Returns whether there was somebody.
    pub fn settle(&self, settled: &[Demand]) -> bool {
        let mut any = false;
        for demand in settled {
            let wait = self.waits.borrow_mut().remove(demand);
            if let Some(wait) = wait {
                wait.is_settled.set(true);
                wait.wakers.wake_all();
                any = true;
            }
        }
        any
    }
}

impl Ticket {
    /// Has `waker` called when the wait is over.
    pub fn register(&mut self, waker: &Waker) {
        if self.waker.is_none() {
            self.waker = Some(self.wait.wakers.insert(waker));
        }
    }

    /// Whether it is time to look again.
    pub fn is_settled(&self) -> bool {
        self.wait.is_settled.get()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(number) = self.waker.take() {
            self.wait.wakers.remove(number);
        }
        let demands = &self.demands;
        demands.held.set(demands.held.get() - 1);
        demands.desk.held.fetch_sub(1, Ordering::Relaxed);
        demands.stats.rq_held_active.dec();
        // This one and the table itself: nobody else waits for it.
        let mut waits = demands.waits.borrow_mut();
        if !self.is_settled() && Rc::strong_count(&self.wait) == 2 {
            waits.remove(&self.demand);
        }
    }
}

/// What was looked for in vain in the last moment.
#[derive(Default)]
struct Missed {
    all: HashSet<Rc<Demand>>,
    /// In the order in which they are forgotten, and when.
    order: VecDeque<(Nanos, Rc<Demand>)>,
}

impl Missed {
    fn has(&mut self, demand: &Demand, now: Nanos) -> bool {
        self.forget(now);
        self.all.contains(demand)
    }

    fn add(&mut self, demand: Demand, now: Nanos) {
        self.forget(now);
        if self.order.len() >= MISSED_MAX
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
        let demand = Rc::new(demand);
        if self.all.insert(Rc::clone(&demand)) {
            self.order.push_back((now + MISSED_FOR, demand));
        }
    }

    fn forget(&mut self, now: Nanos) {
        while let Some((until, _)) = self.order.front()
            && *until <= now
            && let Some((_, demand)) = self.order.pop_front()
        {
            self.all.remove(&demand);
        }
    }
}

/// How long a request waits at the most. Servers are given less time than this to answer, so that it only
/// ends waits to which nobody else puts an end.
pub const HELD_FOR: Duration = Duration::from_secs(20);

/// Requests that may wait in a process: each keeps its head, 120 MiB in all if each is as long as one may
/// be by default, 2 MiB if they are usual ones.
const HELD_MAX: u32 = 2048;

/// Those of one shard, so that one that is flooded leaves room to others.
const HELD_PER_SHARD_MAX: u32 = 512;

/// Questions on their way to the control thread: as many as may wait for an answer of a server.
const QUESTIONS_MAX: usize = 1024;

/// How long nobody is asked again. A host that is added at the server in this time is found after it.
const MISSED_FOR: Nanos = 1000 * NANOS_PER_MS;

/// How many such things a shard remembers: some 100 KiB of names.
const MISSED_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(name: &str) -> Demand {
        Demand::Scope { set: "set".into(), scope: name.into() }
    }

    fn desk() -> (Rc<Demands>, mpsc::Receiver<Demand>) {
        let (desk, asked) = DemandDesk::new();
        (Demands::new(desk, Arc::default()), asked)
    }

    #[test]
    fn d_17_one_question_for_all_who_wait_for_the_same() {
        let (demands, mut asked) = desk();
        let one = demands.ask(&scope("a"), 0).unwrap();
        let two = demands.ask(&scope("a"), 0).unwrap();
        assert_eq!(asked.try_recv(), Ok(scope("a")));
        assert!(asked.try_recv().is_err());
        assert!(!demands.settle(&[scope("b")]) && !one.is_settled());
        assert!(demands.settle(&[scope("a")]) && one.is_settled() && two.is_settled());
        // Who comes now asks anew, whether or not the others have gone.
        let three = demands.ask(&scope("a"), 0).unwrap();
        assert_eq!(asked.try_recv(), Ok(scope("a")));
        drop((one, two));
        assert!(!three.is_settled() && demands.settle(&[scope("a")]));
    }

    #[test]
    fn d_17_who_goes_leaves_nothing_behind() {
        let (demands, _asked) = desk();
        let mut one = demands.ask(&scope("a"), 0).unwrap();
        one.register(Waker::noop());
        let two = demands.ask(&scope("a"), 0).unwrap();
        assert_eq!((demands.held.get(), demands.waits.borrow().len()), (2, 1));
        let wait = Rc::clone(&one.wait);
        drop(one);
        assert!(wait.wakers.is_empty());
        drop((wait, two));
        assert_eq!((demands.held.get(), demands.waits.borrow().len()), (0, 0));
        assert_eq!(demands.desk.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn d_17_no_more_wait_than_may() {
        let (demands, mut asked) = desk();
        let mut held: Vec<Ticket> = Vec::new();
        while let Some(ticket) = demands.ask(&scope(&held.len().to_string()), 0) {
            held.push(ticket);
        }
        assert_eq!(held.len(), HELD_PER_SHARD_MAX as usize);
        assert_eq!(demands.stats.rq_overflow.value(), 1);
        held.pop();
        assert!(demands.ask(&scope("more"), 0).is_some());
        // Other shards have room, until the process has none.
        let desk = Arc::clone(&demands.desk);
        let others = std::iter::repeat_with(|| Demands::new(Arc::clone(&desk), Arc::default()));
        let others: Vec<_> = others.take(4).collect();
        for other in &others {
            while let Some(ticket) = other.ask(&scope("same"), 0) {
                held.push(ticket);
            }
        }
        assert_eq!(held.len(), HELD_MAX as usize);
        drop(held);
        // Nor are more questions under way than there is room for.
        while asked.try_recv().is_ok() {}
        for at in 0..QUESTIONS_MAX {
            assert!(demands.ask(&scope(&at.to_string()), 0).is_some());
        }
        assert!(demands.ask(&scope("x"), 0).is_none());
        assert_eq!((demands.held.get(), demands.waits.borrow().len()), (0, 0));
    }

    #[test]
    fn d_17_what_was_missed_is_not_asked_for_again_at_once() {
        let (demands, _asked) = desk();
        demands.miss(scope("a"), 5);
        assert!(demands.ask(&scope("a"), MISSED_FOR + 4).is_none());
        assert!(demands.ask(&scope("b"), 5).is_some());
        assert!(demands.ask(&scope("a"), MISSED_FOR + 5).is_some());
        for at in 0..=MISSED_MAX {
            demands.miss(scope(&at.to_string()), 10);
        }
        let missed = demands.missed.borrow();
        assert_eq!((missed.all.len(), missed.order.len()), (MISSED_MAX, MISSED_MAX));
        drop(missed);
        assert!(demands.ask(&scope("0"), 10).is_some());
        assert!(demands.ask(&scope("1"), 10).is_none());
    }
}
