//! The bytes Outrigger inserts itself: rendered heads, chunk-size lines, local replies.
//!
//! A bump allocator over slabs of a fixed size. Invariant: bytes behind `used` of the current slab
//! are never written again while any chunk refers to the slab; when the arena is the only holder,
//! it starts again at the front, so a quiet shard keeps writing to the same warm cache lines.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;

use outrigger_codecs::http::Put;

use super::chunk::{Block, Chunk, ChunkMut, Home};

/// Hands out chunks of freshly written bytes.
pub struct Arena {
    slabs: Rc<Slabs>,
    /// A zero-length chunk that keeps the current slab, and how much of the slab is written.
    current: RefCell<Current>,
}

impl Arena {
    /// An arena with one slab.
    pub fn new() -> Self {
        Self::with_slabs(SLAB_BYTES)
    }

    /// An arena whose slabs have `slab_bytes`, a multiple of 64: what is written at once should fit,
    /// as larger slabs are not kept for reuse.
    pub(super) fn with_slabs(slab_bytes: usize) -> Self {
        let slabs = Slabs::new(slab_bytes);
        let hold = slabs.take(slab_bytes);
        Self { slabs, current: RefCell::new(Current { hold, used: 0 }) }
    }

    /// Writes bytes with `write` and returns them as one chunk.
    ///
    /// `write` must not use this arena itself.
    pub fn write(&self, write: impl FnOnce(&mut ArenaWriter<'_>)) -> Chunk {
        let mut current = self.current.borrow_mut();
        if current.hold.head().is_unique() {
            current.used = 0;
        }
        let start = current.used;
        let mut writer =
            ArenaWriter { slabs: &self.slabs, current: &mut current, start, end: start };
        write(&mut writer);
        let (start, end) = (writer.start, writer.end);
        current.used = end;
        // SAFETY: start..end was just written and lies below `used`, which only restarts when no
        // chunk but the arena's own refers to the slab.
        unsafe { current.hold.another(start as u32, (end - start) as u32) }
    }

    /// As [`Arena::write`], for bytes that are still to be changed.
    pub fn write_mut(&self, write: impl FnOnce(&mut ArenaWriter<'_>)) -> ChunkMut {
        // SAFETY: the bytes were just written behind everything that was handed out before, and
        // nothing that is handed out later begins before their end.
        unsafe { ChunkMut::exclusive(self.write(write)) }
    }

    /// Copies `bytes` into the arena.
    pub fn copy(&self, bytes: &[u8]) -> Chunk {
        self.write(|out| out.put(bytes))
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

/// Appends to the arena's current slab; moves to a bigger one when it is full.
pub struct ArenaWriter<'a> {
    slabs: &'a Rc<Slabs>,
    current: &'a mut Current,
    start: usize,
    end: usize,
}

impl ArenaWriter<'_> {
    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// True before the first byte.
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Appends `len` bytes of any value, and returns them to be overwritten.
    pub fn extend(&mut self, len: usize) -> &mut [u8] {
        if self.end + len > self.current.hold.head().capacity() {
            self.move_to_new_slab(len);
        }
        let from = self.end;
        self.end += len;
        // SAFETY: in bounds by the check above; initialised, as slabs are zeroed when they are made;
        // the bytes behind `end` belong to nobody else, and this borrow of the writer keeps it so.
        unsafe {
            std::slice::from_raw_parts_mut(self.current.hold.head().base().as_ptr().add(from), len)
        }
    }

    #[cold]
    fn move_to_new_slab(&mut self, more: usize) {
        let written = self.end - self.start;
        let needed = written + more;
        let slab_bytes = self.slabs.slab_bytes;
        let hold = self.slabs.take(if needed <= slab_bytes {
            slab_bytes
        } else {
            needed.next_power_of_two()
        });
        // SAFETY: both slabs are live (each is held by a chunk), the regions are in bounds and
        // belong to different allocations.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.current.hold.head().base().as_ptr().add(self.start),
                hold.head().base().as_ptr(),
                written,
            );
        }
        self.current.hold = hold;
        self.start = 0;
        self.end = written;
    }
}

impl Put for ArenaWriter<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        if self.end + bytes.len() > self.current.hold.head().capacity() {
            self.move_to_new_slab(bytes.len());
        }
        // SAFETY: the check above leaves room; the bytes behind `end` belong to nobody else.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.current.hold.head().base().as_ptr().add(self.end),
                bytes.len(),
            );
        }
        self.end += bytes.len();
    }
}

struct Current {
    hold: Chunk,
    used: usize,
}

/// The home of slabs: a short free list of ordinary ones; the rest goes back to the allocator.
pub(super) struct Slabs {
    slab_bytes: usize,
    free: RefCell<Vec<NonNull<Block>>>,
    /// Larger ones.
    large: RefCell<Vec<NonNull<Block>>>,
}

impl Slabs {
    /// A home without slabs; ordinary ones will have `slab_bytes`.
    pub(super) fn new(slab_bytes: usize) -> Rc<Self> {
        Rc::new(Self {
            slab_bytes,
            free: RefCell::new(Vec::with_capacity(FREE_SLABS_MAX)),
            large: RefCell::new(Vec::with_capacity(LARGE_SLABS_MAX)),
        })
    }

    /// A chunk over a whole slab of `bytes`, the only one of it. Its bytes have any value.
    pub(super) fn take_whole(self: &Rc<Self>, bytes: usize) -> Chunk {
        let hold = self.take(bytes);
        // SAFETY: slabs are zeroed when they are made, so all bytes are initialised; the only other
        // chunk of this slab is `hold`, which ends here.
        unsafe { hold.another(0, bytes as u32) }
    }

    /// A zero-length chunk holding a slab of at least `bytes`.
    fn take(self: &Rc<Self>, bytes: usize) -> Chunk {
        let reused = if bytes == self.slab_bytes {
            self.free.borrow_mut().pop()
        } else {
            self.take_large(bytes)
        };
        let block = reused.unwrap_or_else(|| allocate(bytes));
        // SAFETY: the block is fresh or came back with a count of zero; it lives until it is
        // given back; an empty range needs no initialised byte.
        unsafe { Chunk::first(block, Rc::clone(self) as Rc<dyn Home>, 0, 0) }
    }
}

impl Slabs {
    /// A large slab that came back and fits without waste.
    fn take_large(&self, bytes: usize) -> Option<NonNull<Block>> {
        let mut large = self.large.borrow_mut();
        let at = large.iter().position(|block| {
            // SAFETY: blocks in the list are valid until they are taken out of it.
            let capacity = unsafe { block.as_ref() }.capacity();
            (bytes..=bytes * 2).contains(&capacity)
        })?;
        Some(large.swap_remove(at))
    }
}

impl Home for Slabs {
    fn give_back(&self, block: NonNull<Block>) {
        // SAFETY: a block is given back once, and is valid until we free it here or in Drop.
        let capacity = unsafe { block.as_ref() }.capacity();
        let (mut list, limit) = if capacity == self.slab_bytes {
            (self.free.borrow_mut(), FREE_SLABS_MAX)
        } else if capacity <= LARGE_SLAB_BYTES_MAX {
            (self.large.borrow_mut(), LARGE_SLABS_MAX)
        } else {
            return release(block);
        };
        if list.len() < limit {
            list.push(block);
        } else {
            drop(list);
            release(block);
        }
    }
}

impl Drop for Slabs {
    fn drop(&mut self) {
        for block in self.free.get_mut().drain(..).chain(self.large.get_mut().drain(..)) {
            release(block);
        }
    }
}

fn layout(bytes: usize) -> Layout {
    // SAFETY of the expect: sizes are bounded by the head limits, far below isize::MAX.
    Layout::from_size_align(bytes, 64).expect("slab sizes are small powers of two")
}

fn allocate(bytes: usize) -> NonNull<Block> {
    let layout = layout(bytes);
    // SAFETY: the layout has a non-zero size.
    let base = unsafe { alloc_zeroed(layout) };
    let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
    let block = Box::new(Block::new(0, base, bytes as u32));
    NonNull::from(Box::leak(block))
}

fn release(block: NonNull<Block>) {
    // SAFETY: made by `allocate`, with a count of zero, and not used after this.
    let block = unsafe { Box::from_raw(block.as_ptr()) };
    // SAFETY: same pointer and layout as in `allocate`.
    unsafe { dealloc(block.base().as_ptr(), layout(block.capacity())) };
}

/// Room for dozens of rendered heads; small enough that a pinned slab wastes little.
const SLAB_BYTES: usize = 16 * 1024;

/// Larger slabs kept for reuse, and how large each may be: 4 MiB in all, so that making room for a
/// large message is usually no allocation.
const LARGE_SLABS_MAX: usize = 16;
const LARGE_SLAB_BYTES_MAX: usize = 256 * 1024;

/// Slabs kept for reuse; more would only hold on to the memory of a past burst.
const FREE_SLABS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_what_was_written() {
        let arena = Arena::new();
        let one = arena.copy(b"hello");
        let two = arena.copy(b"world");
        assert_eq!(&*one, b"hello");
        assert_eq!(&*two, b"world");
        assert_eq!(&*one.slice(1..3), b"el");
    }

    #[test]
    fn a_quiet_arena_writes_the_same_bytes_again() {
        let arena = Arena::new();
        let first = arena.copy(b"abc").as_ptr();
        let second = arena.copy(b"def").as_ptr();
        assert_eq!(first, second);
    }

    #[test]
    fn a_write_larger_than_a_slab_keeps_what_came_before() {
        let arena = Arena::new();
        let pin = arena.copy(b"pinned");
        let big = vec![7u8; SLAB_BYTES * 3];
        let chunk = arena.write(|out| {
            out.put(b"head");
            out.put(&big);
        });
        assert_eq!(&chunk[..4], b"head");
        assert_eq!(&chunk[4..], &big[..]);
        assert_eq!(&*pin, b"pinned");
    }

    #[test]
    fn slabs_come_back_and_are_reused() {
        let arena = Arena::new();
        let mut held = Vec::new();
        for _ in 0..100 {
            held.push(arena.copy(&[1u8; SLAB_BYTES / 2]));
        }
        held.clear();
        assert!(arena.slabs.free.borrow().len() <= FREE_SLABS_MAX);
        assert_eq!(&*arena.copy(b"again"), b"again");
    }

    #[test]
    fn chunks_outlive_their_arena() {
        let arena = Arena::new();
        let chunk = arena.copy(b"survivor");
        drop(arena);
        assert_eq!(&*chunk, b"survivor");
    }
}
