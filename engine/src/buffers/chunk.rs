//! A counted slice of a block of bytes, local to one shard.
//!
//! Invariant: a block is handed back to its home exactly once, when its count returns to zero, and
//! nobody writes to the bytes of a chunk that somebody else may read: only the holder of a block's
//! only chunk can, through [`Chunk::unique_mut`].

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::rc::Rc;

/// What a block's storage goes back to when nothing refers to it any more.
pub(super) trait Home {
    /// Takes the block back. Called with a count of zero, once per life of the block.
    fn give_back(&self, block: NonNull<Block>);
}

/// The head of a run of bytes: its count, its home, and where the bytes are.
pub(super) struct Block {
    refs: Cell<u32>,
    /// Which of its home's blocks this is.
    pub(super) index: u32,
    base: NonNull<u8>,
    capacity: u32,
    /// Set while the count is above zero, so that a home outlives its blocks.
    home: Cell<Option<Rc<dyn Home>>>,
}

impl Block {
    /// A block of `capacity` bytes at `base`; not yet referred to.
    pub(super) fn new(index: u32, base: NonNull<u8>, capacity: u32) -> Self {
        Self { refs: Cell::new(0), index, base, capacity, home: Cell::new(None) }
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// True when exactly one chunk refers to this block.
    pub(super) fn is_unique(&self) -> bool {
        self.refs.get() == 1
    }
}

/// A counted, read-only slice of received or inserted bytes. Cloning and slicing share the bytes.
pub struct Chunk {
    block: NonNull<Block>,
    start: u32,
    len: u32,
}

impl Chunk {
    /// The first chunk of a block that nothing refers to.
    ///
    /// # Safety
    /// `block` stays valid until `home.give_back(block)` is called, its count is zero, and
    /// `start..start + len` of it is initialised and is not written but through the chunk while it
    /// lives.
    pub(super) unsafe fn first(
        block: NonNull<Block>,
        home: Rc<dyn Home>,
        start: u32,
        len: u32,
    ) -> Self {
        // SAFETY: the caller vouches for the block.
        let head = unsafe { block.as_ref() };
        debug_assert_eq!(head.refs.get(), 0);
        debug_assert!(start + len <= head.capacity);
        head.refs.set(1);
        head.home.set(Some(home));
        Self { block, start, len }
    }

    /// A further chunk of a block that already has one: `self`'s.
    ///
    /// # Safety
    /// As for [`Chunk::first`]: `start..start + len` is initialised and will not be written.
    pub(super) unsafe fn another(&self, start: u32, len: u32) -> Self {
        let head = self.head();
        debug_assert!(start + len <= head.capacity);
        head.refs.set(head.refs.get() + 1);
        Self { block: self.block, start, len }
    }

    /// Shares `range` of this chunk.
    ///
    /// # Panics
    /// When the range is not inside the chunk: callers slice by positions a parser returned for
    /// these very bytes.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "slice inside the chunk");
        // SAFETY: the range lies in this chunk, whose bytes are initialised and stay unwritten.
        unsafe { self.another(self.start + range.start as u32, (range.end - range.start) as u32) }
    }

    /// Drops the first `count` bytes from view.
    ///
    /// # Panics
    /// When `count` exceeds the length, as for [`Chunk::slice`].
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "advance inside the chunk");
        self.start += count as u32;
        self.len -= count as u32;
    }

    /// Keeps the first `len` bytes in view.
    ///
    /// # Panics
    /// When `len` exceeds the length, as for [`Chunk::slice`].
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len(), "truncate inside the chunk");
        self.len = len as u32;
    }

    /// Takes `next` in where its bytes follow this chunk's own.
    ///
    /// # Errors
    /// Gives it back where they do not.
    pub fn join(&mut self, next: Self) -> Result<(), Self> {
        if self.block != next.block || self.start + self.len != next.start {
            return Err(next);
        }
        // What was initialised and is not written in `next` now is so here, under this chunk's count.
        self.len += next.len;
        Ok(())
    }

    /// The bytes in view, to be changed in place; nothing when other chunks share the block.
    ///
    /// This is for whoever took a chunk from where it was received and has not passed it on. A
    /// block with one chunk has no other reader: slices and clones count, and so does the kernel
    /// while it sends, since it is given bytes by a queued chunk.
    pub fn unique_mut(&mut self) -> Option<&mut [u8]> {
        if !self.head().is_unique() {
            return None;
        }
        // SAFETY: in bounds and initialised by the constructors' contract. No other chunk refers to
        // the block, and none can be made from this one while it is borrowed, so nobody reads what
        // is written here; the kernel gave a receive buffer up before its first chunk was made.
        Some(unsafe {
            std::slice::from_raw_parts_mut(
                self.head().base.as_ptr().add(self.start as usize),
                self.len as usize,
            )
        })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True when no byte is in view.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn head(&self) -> &Block {
        // SAFETY: this chunk holds a count, so the block has not been given back.
        unsafe { self.block.as_ref() }
    }
}

/// A slice of a block whose bytes nobody else can read or write: to be changed in place, then frozen.
///
/// Invariant: no other chunk of the block overlaps it. It starts as a block's only chunk, or as bytes
/// that were just written, and only ever splits into parts that do not overlap.
pub struct ChunkMut {
    chunk: Chunk,
}

impl ChunkMut {
    /// Takes a chunk whose block has no other.
    ///
    /// # Errors
    /// Gives the chunk back when others share its block.
    pub fn new(chunk: Chunk) -> Result<Self, Chunk> {
        if chunk.head().is_unique() { Ok(Self { chunk }) } else { Err(chunk) }
    }

    /// Takes a chunk whose bytes no other chunk covers, though its block may have others.
    ///
    /// # Safety
    /// No other chunk overlaps it, and none will.
    pub(super) unsafe fn exclusive(chunk: Chunk) -> Self {
        Self { chunk }
    }

    /// Splits off the first `count` bytes.
    ///
    /// # Panics
    /// When `count` exceeds the length: callers split by positions a parser returned for these bytes.
    pub fn split_to(&mut self, count: usize) -> Self {
        let front = self.chunk.slice(0..count);
        self.chunk.advance(count);
        Self { chunk: front }
    }

    /// Gives up changing it.
    pub fn freeze(self) -> Chunk {
        self.chunk
    }
}

impl Deref for ChunkMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.chunk
    }
}

impl DerefMut for ChunkMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        let (start, len) = (self.chunk.start as usize, self.chunk.len as usize);
        // SAFETY: in bounds and initialised by the chunk's contract; by this type's invariant no other
        // chunk covers these bytes, so nobody reads or writes them while this is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.head().base().as_ptr().add(start), len) }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the constructors' contract: in bounds, initialised, not written while we live.
        unsafe {
            std::slice::from_raw_parts(
                self.head().base.as_ptr().add(self.start as usize),
                self.len as usize,
            )
        }
    }
}

impl Clone for Chunk {
    fn clone(&self) -> Self {
        // SAFETY: the same bytes as `self`.
        unsafe { self.another(self.start, self.len) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let head = self.head();
        let refs = head.refs.get() - 1;
        head.refs.set(refs);
        if refs == 0 {
            let home = head.home.take();
            if let Some(home) = home {
                home.give_back(self.block);
            }
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffers::Arena;

    #[test]
    fn parts_of_a_block_are_changed_apart_and_joined_again() {
        let arena = Arena::new();
        let shared = arena.copy(b"shared");
        assert!(ChunkMut::new(shared.clone()).is_err());
        let mut rest = arena.write_mut(|out| out.extend(9).copy_from_slice(b"onetwosix"));
        let mut one = rest.split_to(3);
        let mut two = rest.split_to(3);
        one.make_ascii_uppercase();
        rest[2] = b't';
        two[0] = b'T';
        let mut whole = one.freeze();
        assert!(whole.join(rest.freeze()).is_err(), "not the next one");
        assert!(whole.join(two.freeze()).is_ok());
        assert_eq!(&*whole, b"ONETwo");
        assert_eq!(&*shared, b"shared");
    }
}
