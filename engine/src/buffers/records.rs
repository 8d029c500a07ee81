//! Buffers for records that are sealed, and for received ones that are put together from pieces.
//!
//! One per shard. Invariant: in steady state nothing is allocated: sealed records are written into
//! slabs as other inserted bytes are, and pieces are collected in slabs that go back when the last
//! slice of the opened record is dropped. A connection without a record in the middle holds none.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use super::arena::{Arena, ArenaWriter, Slabs};
use super::chunk::{Chunk, ChunkMut};

/// What the TLS connections of a shard share.
pub struct RecordBuffers {
    sealed: Arena,
    small: Rc<Slabs>,
    large: Rc<Slabs>,
    /// Where the opened records of a chunk lie, while it is worked on.
    opened: RefCell<Vec<Range<usize>>>,
    /// Bytes of a handshake on their way out.
    handshake: RefCell<Vec<u8>>,
}

impl RecordBuffers {
    /// Buffers of a shard.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            sealed: Arena::with_slabs(LARGE_BYTES),
            small: Slabs::new(SMALL_BYTES),
            large: Slabs::new(LARGE_BYTES),
            opened: RefCell::default(),
            handshake: RefCell::default(),
        })
    }

    /// Writes a record, which must not exceed [`RECORD_BYTES_MAX`] to be without allocation.
    pub fn write(&self, write: impl FnOnce(&mut ArenaWriter<'_>)) -> Chunk {
        self.sealed.write(write)
    }

    /// Room for a record of `len` bytes that comes in pieces; at most [`RECORD_BYTES_MAX`], or there
    /// is none.
    pub fn assemble(&self, len: usize) -> Option<Assembly> {
        (len <= LARGE_BYTES).then(|| self.assemble_message(len))
    }

    /// Room for a message of `len` bytes that comes in pieces. Above [`RECORD_BYTES_MAX`] it is
    /// allocated, and its pages are only touched as they are filled: the caller bounds `len`.
    pub fn assemble_message(&self, len: usize) -> Assembly {
        let mut chunk = if len <= SMALL_BYTES {
            self.small.take_whole(SMALL_BYTES)
        } else if len <= LARGE_BYTES {
            self.large.take_whole(LARGE_BYTES)
        } else {
            self.large.take_whole(len.next_power_of_two())
        };
        chunk.truncate(len);
        Assembly { chunk, filled: 0 }
    }

    /// A list for positions, empty; calls must not nest.
    pub fn with_ranges<R>(&self, work: impl FnOnce(&mut Vec<Range<usize>>) -> R) -> R {
        let mut ranges = self.opened.borrow_mut();
        ranges.clear();
        work(&mut ranges)
    }

    /// A buffer for bytes of a handshake, empty; calls must not nest.
    pub fn with_scratch<R>(&self, work: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let mut scratch = self.handshake.borrow_mut();
        scratch.clear();
        work(&mut scratch)
    }
}

/// A record that comes in pieces.
pub struct Assembly {
    /// As long as the whole record; unique until it is given away.
    chunk: Chunk,
    filled: usize,
}

impl Assembly {
    /// Takes from the front of `bytes` what is missing; returns how much that was.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let count = self.missing().min(bytes.len());
        let filled = self.filled;
        if let Some(room) = self.chunk.unique_mut() {
            room[filled..filled + count].copy_from_slice(&bytes[..count]);
        }
        self.filled += count;
        count
    }

    /// Bytes that have come.
    pub fn filled(&self) -> &[u8] {
        &self.chunk[..self.filled]
    }

    /// Bytes that are still to come.
    pub fn missing(&self) -> usize {
        self.chunk.len() - self.filled
    }

    /// The record; only whole once nothing is missing.
    pub fn into_chunk(self) -> Chunk {
        self.chunk
    }

    /// The same, to be changed.
    pub fn into_chunk_mut(self) -> ChunkMut {
        // SAFETY: the slab was taken whole, and no other chunk of it was made.
        unsafe { ChunkMut::exclusive(self.chunk) }
    }
}

/// The longest record of TLS: 16 KiB of plaintext, 2 KiB of expansion (RFC 5246 section 6.2.3) and
/// the header.
pub const RECORD_BYTES_MAX: usize = 5 + 16 * 1024 + 2048;

/// Fits any record.
const LARGE_BYTES: usize = RECORD_BYTES_MAX.next_multiple_of(64);

/// Fits a typical small message, so that thousands of slow senders do not hold large slabs.
const SMALL_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_put_together_and_its_slab_comes_back() {
        let buffers = RecordBuffers::new();
        for len in [1, SMALL_BYTES, SMALL_BYTES + 1, RECORD_BYTES_MAX] {
            let record: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let mut first = None;
            for _ in 0..2 {
                let mut assembly = buffers.assemble(len).unwrap();
                for piece in record.chunks(1000) {
                    assert_eq!(assembly.fill(piece), piece.len());
                }
                assert_eq!((assembly.missing(), assembly.fill(b"more")), (0, 0));
                let mut chunk = assembly.into_chunk();
                assert_eq!(&*chunk, &record[..]);
                assert!(chunk.unique_mut().is_some());
                assert_eq!(*first.get_or_insert(chunk.as_ptr()), chunk.as_ptr());
            }
        }
        assert!(buffers.assemble(LARGE_BYTES + 1).is_none());
    }

    #[test]
    fn only_the_only_chunk_can_be_changed() {
        let buffers = RecordBuffers::new();
        let mut chunk = buffers.assemble(10).unwrap().into_chunk();
        chunk.unique_mut().unwrap().fill(7);
        let slice = chunk.slice(2..4);
        assert!(chunk.unique_mut().is_none());
        drop(chunk);
        let mut slice = slice;
        slice.unique_mut().unwrap()[0] = 9;
        assert_eq!(&*slice, &[9, 7]);
    }

    #[test]
    fn sealed_records_reuse_their_slab() {
        let buffers = RecordBuffers::new();
        let write = |len: usize| buffers.write(|out| out.extend(len).fill(1));
        let first = write(RECORD_BYTES_MAX).as_ptr();
        assert_eq!(write(RECORD_BYTES_MAX).as_ptr(), first);
    }
}
