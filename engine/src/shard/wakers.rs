//! The wakers of all connections of a shard, for the rare event that concerns them all.

use std::cell::RefCell;
use std::task::Waker;

/// A set of wakers; each is removed by the number it was given.
#[derive(Default)]
pub struct WakerRegistry {
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
}

impl WakerRegistry {
    /// Adds a waker.
    pub fn insert(&self, waker: &Waker) -> u32 {
        let mut slots = self.slots.borrow_mut();
        if let Some(number) = slots.free.pop() {
            slots.wakers[number as usize] = Some(waker.clone());
            return number;
        }
        slots.wakers.push(Some(waker.clone()));
        (slots.wakers.len() - 1) as u32
    }

    /// Removes the waker that was given this number.
    pub fn remove(&self, number: u32) {
        let mut slots = self.slots.borrow_mut();
        // Taken out before it is dropped: dropping it may drop a task, and that come back here.
        let waker = slots.wakers[number as usize].take();
        slots.free.push(number);
        drop(slots);
        drop(waker);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        let slots = self.slots.borrow();
        slots.free.len() == slots.wakers.len()
    }

    /// Wakes at most `count` of them, from the place `from` on. The place where to go on; nothing after
    /// the last.
    pub fn wake_some(&self, from: usize, count: usize) -> Option<usize> {
        let slots = self.slots.borrow();
        let rest = slots.wakers.get(from..)?;
        rest.iter().take(count).flatten().for_each(Waker::wake_by_ref);
        let next = from + count;
        (next < slots.wakers.len()).then_some(next)
    }

    /// Wakes them all.
    pub fn wake_all(&self) {
        for waker in self.slots.borrow().wakers.iter().flatten() {
            waker.wake_by_ref();
        }
    }
}
