//! One timing wheel per shard; every timeout of every connection is an entry in it.
//!
//! Built for timeouts that are nearly always moved or cleared before they fire: moving a deadline
//! later, or clearing it, only writes the entry. The wheel finds out when it gets there.
//! Invariant: a timer never fires early, and fires in the first `advance` after its deadline, in
//! steps of a millisecond.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

/// A shard's timers. Clones share the wheel.
#[derive(Clone, Default)]
pub struct Timers {
    wheel: Rc<RefCell<Wheel>>,
}

/// Nanoseconds since the shard started; its clock stands still during a turn.
pub type Nanos = u64;

/// A millisecond.
pub const NANOS_PER_MS: Nanos = 1_000_000;

/// A duration in nanoseconds; beyond five centuries it is cut short.
pub fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The instant `delay` after `now`; nothing without a delay.
pub fn after(now: Nanos, delay: Option<Duration>) -> Option<Nanos> {
    delay.map(|delay| now.saturating_add(nanos(delay)))
}

impl Timers {
    /// A timer that is not set. Its owner's waker is woken when it fires.
    pub fn timer(&self) -> Timer {
        let id = self.wheel.borrow_mut().insert();
        Timer { wheel: Rc::clone(&self.wheel), id }
    }

    /// Fires what is due. True when something fired.
    pub fn advance(&self, now: Nanos) -> bool {
        self.wheel.borrow_mut().advance(now / NANOS_PER_TICK)
    }

    /// Time until the wheel next has something to look at, which may be a timer's deadline or
    /// earlier. Nothing when no timer is set.
    pub fn next(&self, now: Nanos) -> Option<Duration> {
        let (tick, _, _) = self.wheel.borrow().next_slot()?;
        Some(Duration::from_nanos((tick * NANOS_PER_TICK).saturating_sub(now)))
    }
}

/// One deadline, owned by a task.
pub struct Timer {
    wheel: Rc<RefCell<Wheel>>,
    id: u32,
}

impl Timer {
    /// Sets or moves the deadline. `None` clears it.
    pub fn set(&self, deadline: Option<Nanos>) {
        let tick = deadline.map_or(NEVER, |at| at.div_ceil(NANOS_PER_TICK));
        self.wheel.borrow_mut().set(self.id, tick);
    }

    /// True once after the deadline passed; the timer is then not set.
    pub fn take_fired(&self) -> bool {
        let mut wheel = self.wheel.borrow_mut();
        std::mem::take(&mut wheel.entries[self.id as usize].fired)
    }

    /// Whom to wake.
    pub fn register(&self, waker: &Waker) {
        let mut wheel = self.wheel.borrow_mut();
        let entry = &mut wheel.entries[self.id as usize];
        if !entry.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            entry.waker = Some(waker.clone());
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.wheel.borrow_mut().remove(self.id);
    }
}

struct Entry {
    /// When it should fire; `NEVER` when not set.
    deadline: u64,
    /// Which slot it is linked into: level * SLOTS + index, or `NONE`.
    slot: u32,
    /// The tick that slot stands for: it is looked at no later than this.
    linked_tick: u64,
    previous: u32,
    next: u32,
    fired: bool,
    waker: Option<Waker>,
}

struct Wheel {
    /// The last tick that was looked at.
    now: u64,
    entries: Vec<Entry>,
    free: Vec<u32>,
    heads: [u32; LEVELS * SLOTS],
    occupied: [u64; LEVELS],
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            now: 0,
            entries: Vec::new(),
            free: Vec::new(),
            heads: [NONE; LEVELS * SLOTS],
            occupied: [0; LEVELS],
        }
    }
}

impl Wheel {
    fn insert(&mut self) -> u32 {
        let entry = Entry {
            deadline: NEVER,
            slot: NONE,
            linked_tick: NEVER,
            previous: NONE,
            next: NONE,
            fired: false,
            waker: None,
        };
        if let Some(id) = self.free.pop() {
            self.entries[id as usize] = entry;
            return id;
        }
        self.entries.push(entry);
        (self.entries.len() - 1) as u32
    }

    fn remove(&mut self, id: u32) {
        self.unlink(id);
        self.entries[id as usize].waker = None;
        self.free.push(id);
    }

    fn set(&mut self, id: u32, deadline: u64) {
        let entry = &mut self.entries[id as usize];
        entry.deadline = deadline;
        entry.fired = false;
        // A later deadline is found out when the wheel gets to where the entry is now.
        if deadline < entry.linked_tick {
            self.unlink(id);
            self.link(id, deadline);
        }
    }

    fn advance(&mut self, now: u64) -> bool {
        let mut any = false;
        while let Some((tick, level, index)) = self.next_slot() {
            if tick > now {
                break;
            }
            self.now = tick;
            let slot = level * SLOTS + index;
            let mut id = self.heads[slot];
            while id != NONE {
                let next = self.entries[id as usize].next;
                self.unlink(id);
                any |= self.fire_or_link(id);
                id = next;
            }
        }
        self.now = self.now.max(now);
        any
    }

    fn fire_or_link(&mut self, id: u32) -> bool {
        let entry = &mut self.entries[id as usize];
        if entry.deadline == NEVER {
            return false;
        }
        if entry.deadline > self.now {
            let deadline = entry.deadline;
            self.link(id, deadline);
            return false;
        }
        entry.deadline = NEVER;
        entry.fired = true;
        if let Some(waker) = &entry.waker {
            waker.wake_by_ref();
        }
        true
    }

    /// The next occupied slot: the tick it is looked at, its level and its index.
    fn next_slot(&self) -> Option<(u64, usize, usize)> {
        // Slots of a lower level lie within the current slot of the level above, so the first
        // level with a slot ahead has the earliest.
        for level in 0..LEVELS {
            let shift = level as u32 * SLOT_BITS;
            let here = (self.now >> shift) as u32 & SLOT_MASK;
            let ahead = self.occupied[level] & !(u64::MAX >> (63 - here));
            if ahead != 0 {
                let index = ahead.trailing_zeros();
                let base = self.now >> shift >> SLOT_BITS << SLOT_BITS;
                return Some(((base + u64::from(index)) << shift, level, index as usize));
            }
        }
        None
    }

    fn link(&mut self, id: u32, deadline: u64) {
        let tick = deadline.clamp(self.now + 1, self.now + RANGE);
        let level = ((63 - (tick ^ self.now).leading_zeros()) / SLOT_BITS) as usize;
        let level = level.min(LEVELS - 1);
        let shift = level as u32 * SLOT_BITS;
        let index = (tick >> shift) as u32 & SLOT_MASK;
        let slot = level * SLOTS + index as usize;
        let head = self.heads[slot];
        let entry = &mut self.entries[id as usize];
        entry.slot = slot as u32;
        entry.linked_tick = tick >> shift << shift;
        entry.previous = NONE;
        entry.next = head;
        if head != NONE {
            self.entries[head as usize].previous = id;
        }
        self.heads[slot] = id;
        self.occupied[level] |= 1 << index;
    }

    fn unlink(&mut self, id: u32) {
        let entry = &mut self.entries[id as usize];
        if entry.slot == NONE {
            return;
        }
        let (slot, previous, next) = (entry.slot as usize, entry.previous, entry.next);
        entry.slot = NONE;
        entry.linked_tick = NEVER;
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous == NONE {
            self.heads[slot] = next;
            if next == NONE {
                self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
            }
        } else {
            self.entries[previous as usize].next = next;
        }
    }
}

const NANOS_PER_TICK: u64 = NANOS_PER_MS;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_MASK: u32 = SLOTS as u32 - 1;
/// Five levels of 64 slots of a millisecond reach twelve days; what lies beyond is linked at the
/// end and linked again from there.
const LEVELS: usize = 5;
/// Half of the wheel: a slot of the top level must never be mistaken for one a round later.
const RANGE: u64 = 1 << (SLOT_BITS * LEVELS as u32 - 1);
const NONE: u32 = u32::MAX;
const NEVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = NANOS_PER_TICK;

    #[test]
    fn fires_at_the_deadline_and_once() {
        let timers = Timers::default();
        let timer = timers.timer();
        timer.set(Some(5 * MS));
        assert!(!timers.advance(5 * MS - 1));
        assert!(timers.advance(5 * MS));
        assert!(timer.take_fired());
        assert!(!timer.take_fired());
        assert!(timers.next(5 * MS).is_none());
    }

    #[test]
    fn a_moved_timer_fires_only_at_its_last_deadline() {
        let timers = Timers::default();
        let timer = timers.timer();
        timer.set(Some(10 * MS));
        timer.set(Some(3_600_000 * MS));
        timers.advance(20 * MS);
        assert!(!timer.take_fired());
        timer.set(Some(30 * MS));
        timers.advance(29 * MS);
        assert!(!timer.take_fired());
        timers.advance(30 * MS);
        assert!(timer.take_fired());
    }

    #[test]
    fn a_cleared_or_dropped_timer_never_fires() {
        let timers = Timers::default();
        let (cleared, dropped) = (timers.timer(), timers.timer());
        cleared.set(Some(MS));
        dropped.set(Some(MS));
        cleared.set(None);
        drop(dropped);
        assert!(!timers.advance(1000 * MS));
        assert!(!cleared.take_fired());
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_list(
            steps in proptest::collection::vec((0usize..8, 0u64..200_000, 0u64..50_000), 1..200)
        ) {
            let timers = Timers::default();
            let handles: Vec<_> = (0..8).map(|_| timers.timer()).collect();
            let mut model = [None; 8];
            let mut now = 0;
            for (which, delay, pass) in steps {
                let deadline = (delay % 7 != 0).then_some((now + delay) * MS);
                handles[which].set(deadline);
                model[which] = deadline;
                if let Some(next) = timers.next(now * MS) {
                    let earliest = model.iter().flatten().min();
                    let looked_at = now * MS + next.as_nanos() as u64;
                    let in_time = earliest.is_none_or(|at| looked_at <= (*at).max((now + 1) * MS));
                    prop_assert!(in_time);
                }
                now += pass;
                timers.advance(now * MS);
                for (handle, expected) in handles.iter().zip(&mut model) {
                    let due = expected.is_some_and(|at| at <= now * MS && pass > 0);
                    if due {
                        *expected = None;
                    }
                    if pass > 0 {
                        prop_assert_eq!(handle.take_fired(), due);
                    }
                }
            }
        }
    }
}
