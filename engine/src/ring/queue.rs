//! The chunks that sockets have yet to read or to send: lists through one table.
//!
//! Nearly all connections rest, and then both of their queues are empty, so that a queue has no memory
//! of its own. Invariant: an entry of the table is in one queue or free, and a queue goes only with the table
//! that it was filled from.

use crate::buffers::Chunk;

/// The chunks of all queues.
pub(super) struct Queues {
    entries: Vec<Entry>,
    /// The first that is in no queue.
    free: u32,
}

struct Entry {
    /// Nothing in those that are free.
    chunk: Option<Chunk>,
    next: u32,
}

/// A queue. What is in it when it goes stays in the table: it is to be cleared before.
pub(super) struct Queue {
    first: u32,
    last: u32,
    chunks: u32,
    /// Senders stop at watermarks, and RPC at 64 MiB: far below what this holds.
    bytes: u32,
}

impl Default for Queues {
    fn default() -> Self {
        Self { entries: Vec::new(), free: NONE }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { first: NONE, last: NONE, chunks: 0, bytes: 0 }
    }
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks == 0
    }

    /// Bytes of its chunks.
    pub(super) fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// What it weighs against watermarks. A chunk of one byte holds a whole buffer, so each counts for a
    /// good part of one at least: otherwise a peer that sends bytes one by one could take all buffers of
    /// a shard.
    pub(super) fn load(&self) -> usize {
        self.bytes().max(self.chunks as usize * CHUNK_LOAD_MIN)
    }
}

impl Queues {
    /// Adds a chunk at the end.
    pub(super) fn push_back(&mut self, queue: &mut Queue, chunk: Chunk) {
        queue.bytes += chunk.len() as u32;
        queue.chunks += 1;
        let at = self.insert(chunk, NONE);
        match queue.last {
            NONE => queue.first = at,
            last => self.entry(last).next = at,
        }
        queue.last = at;
    }

    /// The same; bytes that lie right behind the last chunk's become part of it.
    pub(super) fn append(&mut self, queue: &mut Queue, chunk: Chunk) {
        let bytes = chunk.len();
        let last = (queue.last != NONE).then(|| self.entry(queue.last));
        let chunk = match last.and_then(|last| last.chunk.as_mut()) {
            Some(last) => last.join(chunk).err(),
            None => Some(chunk),
        };
        match chunk {
            Some(chunk) => self.push_back(queue, chunk),
            None => queue.bytes += bytes as u32,
        }
    }

    /// Adds a chunk at the front.
    pub(super) fn push_front(&mut self, queue: &mut Queue, chunk: Chunk) {
        queue.bytes += chunk.len() as u32;
        queue.chunks += 1;
        queue.first = self.insert(chunk, queue.first);
        if queue.last == NONE {
            queue.last = queue.first;
        }
    }

    /// Takes the first chunk.
    pub(super) fn pop_front(&mut self, queue: &mut Queue) -> Option<Chunk> {
        let at = queue.first;
        if at == NONE {
            return None;
        }
        let free = self.free;
        let entry = self.entry(at);
        let chunk = entry.chunk.take()?;
        queue.first = std::mem::replace(&mut entry.next, free);
        self.free = at;
        if queue.first == NONE {
            queue.last = NONE;
        }
        queue.chunks -= 1;
        queue.bytes -= chunk.len() as u32;
        Some(chunk)
    }

    /// Drops the first `count` bytes.
    pub(super) fn advance(&mut self, queue: &mut Queue, mut count: usize) {
        while count > 0 && queue.first != NONE {
            match &mut self.entry(queue.first).chunk {
                Some(front) if front.len() > count => {
                    front.advance(count);
                    queue.bytes -= count as u32;
                    return;
                }
                front => count -= front.as_ref().map_or(0, Chunk::len),
            }
            self.pop_front(queue);
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self, queue: &mut Queue) {
        while self.pop_front(queue).is_some() {}
    }

    /// Its only chunk.
    pub(super) fn only(&self, queue: &Queue) -> Option<&Chunk> {
        if queue.chunks == 1 {
            self.entries.get(queue.first as usize)?.chunk.as_ref()
        } else {
            None
        }
    }

    /// Its chunks, in their order.
    pub(super) fn iter<'a>(&'a self, queue: &Queue) -> impl Iterator<Item = &'a Chunk> + use<'a> {
        let mut at = queue.first;
        std::iter::from_fn(move || {
            let entry = self.entries.get(at as usize)?;
            at = entry.next;
            entry.chunk.as_ref()
        })
    }

    fn insert(&mut self, chunk: Chunk, next: u32) -> u32 {
        let entry = Entry { chunk: Some(chunk), next };
        let at = self.free;
        if at == NONE {
            self.entries.push(entry);
            return (self.entries.len() - 1) as u32;
        }
        let place = self.entry(at);
        let free = place.next;
        *place = entry;
        self.free = free;
        at
    }

    fn entry(&mut self, at: u32) -> &mut Entry {
        &mut self.entries[at as usize]
    }
}

/// The end of a list.
const NONE: u32 = u32::MAX;

/// Half of a default receive buffer: 32 chunks are as much as a connection may hold.
const CHUNK_LOAD_MIN: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use crate::buffers::Arena;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_queue_of_bytes(
            steps in proptest::collection::vec((0usize..2, 0usize..7, 1usize..20), 1..200)
        ) {
            let arena = Arena::new();
            let mut table = Queues::default();
            let mut queues = [Queue::default(), Queue::default()];
            let mut expected = [VecDeque::<u8>::new(), VecDeque::new()];
            let mut most = 0;
            for (at, (which, what, count)) in steps.into_iter().enumerate() {
                let (queue, expected) = (&mut queues[which], &mut expected[which]);
                let bytes = vec![at as u8; count];
                match what {
                    0 => {
                        table.push_back(queue, arena.copy(&bytes));
                        expected.extend(&bytes);
                    }
                    1 | 2 => {
                        table.append(queue, arena.copy(&bytes));
                        expected.extend(&bytes);
                    }
                    3 => {
                        table.push_front(queue, arena.copy(&bytes));
                        bytes.iter().for_each(|byte| expected.push_front(*byte));
                    }
                    4 => {
                        let count = table.pop_front(queue).map_or(0, |chunk| chunk.len());
                        expected.drain(..count);
                    }
                    5 => {
                        let count = count.min(expected.len());
                        table.advance(queue, count);
                        expected.drain(..count);
                    }
                    _ => {
                        table.clear(queue);
                        expected.clear();
                    }
                }
                let found: Vec<u8> = table.iter(queue).flat_map(|chunk| chunk.to_vec()).collect();
                prop_assert_eq!(&found, &*expected.make_contiguous());
                prop_assert_eq!(queue.bytes(), expected.len());
                prop_assert_eq!(queue.is_empty(), expected.is_empty());
                prop_assert_eq!(queue.chunks as usize, table.iter(queue).count());
                most = most.max(queues.iter().map(|queue| queue.chunks as usize).sum());
            }
            prop_assert_eq!(table.entries.len(), most);
        }
    }
}
