//! The buffers that the kernel receives into, published to it through a provided-buffer ring.
//!
//! Invariant: at any instant a buffer is either the kernel's (published) or held by chunks, never
//! both. It is published again only when its last chunk is dropped, so an idle connection holds
//! none. The set starts small and grows to `buffers_max`; when that runs dry, sockets wait.

use std::cell::Cell;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::chunk::{Block, Chunk, Home};

/// How many receive buffers a shard has, and how large they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveConfig {
    /// Bytes of one buffer.
    pub buffer_bytes: u32,
    /// Buffers published at the start.
    pub buffers: u16,
    /// Buffers that may ever be published; at most 32,768, the kernel's limit for one ring.
    pub buffers_max: u16,
}

/// One shard's receive buffers.
pub struct ReceiveBuffers {
    inner: Rc<Inner>,
}

struct Inner {
    entries: Mapping,
    /// What the blocks point into; unmapped with them.
    _memory: Mapping,
    blocks: Box<[Block]>,
    config: ReceiveConfig,
    mask: u16,
    /// Our copy of the ring's tail; the kernel sees it at `publish`.
    tail: Cell<u16>,
    /// Buffers that belong to the set so far: `blocks[..grown]`.
    grown: Cell<u16>,
    /// Buffers held by chunks.
    held: Cell<u16>,
}

impl ReceiveBuffers {
    /// Maps the memory (untouched pages cost nothing) and fills in the first buffers.
    ///
    /// # Errors
    /// When the kernel refuses the mapping.
    pub fn new(config: ReceiveConfig) -> io::Result<Self> {
        let ring_entries = config.buffers_max.max(1).next_power_of_two();
        let entries = Mapping::new(usize::from(ring_entries) * size_of::<BufRingEntry>())?;
        let stride = stride(config.buffer_bytes);
        let memory = Mapping::new(usize::from(config.buffers_max) * stride)?;
        let blocks = (0..config.buffers_max)
            .map(|index| {
                // SAFETY: index < buffers_max, so the offset lies inside the mapping.
                let base = unsafe { memory.base.add(usize::from(index) * stride) };
                Block::new(u32::from(index), base, config.buffer_bytes)
            })
            .collect();
        let buffers = Self {
            inner: Rc::new(Inner {
                entries,
                _memory: memory,
                blocks,
                config,
                mask: ring_entries - 1,
                tail: Cell::new(0),
                grown: Cell::new(0),
                held: Cell::new(0),
            }),
        };
        buffers.grow(config.buffers);
        buffers.publish();
        Ok(buffers)
    }

    /// Address and number of entries of the ring, for registration.
    pub fn ring(&self) -> (u64, u16) {
        (self.inner.entries.base.as_ptr() as u64, self.inner.mask + 1)
    }

    /// Takes a buffer that the kernel filled with `len` bytes.
    ///
    /// Returns nothing for an index or a length that was never published, which would be a kernel
    /// fault.
    ///
    /// # Safety
    /// `index` and `len` come from a completion of a receive on this set, used once.
    pub unsafe fn filled(&self, index: u16, len: u32) -> Option<Chunk> {
        let inner = &self.inner;
        let block = inner.blocks.get(usize::from(index))?;
        if index >= inner.grown.get() || len as usize > block.capacity() {
            return None;
        }
        inner.held.set(inner.held.get() + 1);
        let home: Rc<dyn Home> = Rc::clone(inner) as Rc<dyn Home>;
        // SAFETY: the kernel gave the buffer up with this completion and initialised `len` bytes;
        // the block lives in `inner`, which the chunk keeps alive.
        Some(unsafe { Chunk::first(NonNull::from(block), home, 0, len) })
    }

    /// Makes buffers that came back, or were added, visible to the kernel.
    pub fn publish(&self) {
        let inner = &self.inner;
        // SAFETY: the mapping is page-aligned, lives as long as `inner`, and its first entry's
        // reserved field is the ring's tail by the kernel's ABI.
        let tail = unsafe {
            let base = inner.entries.base.as_ptr().cast::<BufRingEntry>();
            AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut())
        };
        tail.store(inner.tail.get(), Ordering::Release);
    }

    /// Adds as many buffers again as there are, up to the limit. False when at the limit.
    pub fn grow_twofold(&self) -> bool {
        let before = self.inner.grown.get();
        self.grow(before.max(1));
        self.inner.grown.get() > before
    }

    /// Buffers held by chunks.
    pub fn held(&self) -> u16 {
        self.inner.held.get()
    }

    /// Buffers published or held.
    pub fn grown(&self) -> u16 {
        self.inner.grown.get()
    }

    /// Buffers that the kernel may fill now, or may after the next `publish`.
    pub fn available(&self) -> u16 {
        self.inner.grown.get() - self.inner.held.get()
    }

    fn grow(&self, by: u16) {
        let inner = &self.inner;
        let from = inner.grown.get();
        let to = from.saturating_add(by).min(inner.config.buffers_max);
        for block in &inner.blocks[usize::from(from)..usize::from(to)] {
            inner.append(block);
        }
        inner.grown.set(to);
    }
}

impl Inner {
    /// Writes a ring entry for `block` behind the tail; the kernel sees it after `publish`.
    fn append(&self, block: &Block) {
        let tail = self.tail.get();
        // SAFETY: the slot index is masked into the mapping. There are at most as many buffers as
        // slots, each at most once in the ring, so the kernel has already consumed this slot.
        let entry = unsafe {
            &mut *self
                .entries
                .base
                .as_ptr()
                .cast::<BufRingEntry>()
                .add(usize::from(tail & self.mask))
        };
        entry.set_addr(block.base().as_ptr() as u64);
        entry.set_len(self.config.buffer_bytes);
        entry.set_bid(block.index as u16);
        self.tail.set(tail.wrapping_add(1));
    }
}

impl Home for Inner {
    fn give_back(&self, block: NonNull<Block>) {
        self.held.set(self.held.get() - 1);
        // SAFETY: the block is one of ours, valid as long as `self`.
        self.append(unsafe { block.as_ref() });
    }
}

/// Distance between buffers: the odd cache lines keep the first bytes of different buffers, which
/// is all that small messages touch, from competing for the same cache set.
fn stride(buffer_bytes: u32) -> usize {
    buffer_bytes as usize + STAGGER_BYTES
}

const STAGGER_BYTES: usize = 3 * 64;

/// Anonymous, zeroed, page-aligned memory.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| io::Error::other("the kernel mapped page zero"))?;
        Ok(Self { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the region mapped in `new`, unmapped once.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: ReceiveConfig = ReceiveConfig { buffer_bytes: 4096, buffers: 2, buffers_max: 5 };

    fn take(buffers: &ReceiveBuffers, index: u16, len: u32) -> Option<Chunk> {
        // SAFETY: the test plays the kernel: each index is used once per publication.
        unsafe { buffers.filled(index, len) }
    }

    #[test]
    fn a_buffer_is_held_until_its_last_chunk_is_dropped() {
        let buffers = ReceiveBuffers::new(CONFIG).unwrap();
        let chunk = take(&buffers, 0, 100).unwrap();
        let tail = chunk.slice(50..100);
        assert_eq!((buffers.held(), buffers.available()), (1, 1));
        drop(chunk);
        assert_eq!(buffers.held(), 1);
        drop(tail);
        assert_eq!((buffers.held(), buffers.available()), (0, 2));
    }

    #[test]
    fn growth_stops_at_the_limit() {
        let buffers = ReceiveBuffers::new(CONFIG).unwrap();
        assert!(buffers.grow_twofold());
        assert_eq!(buffers.grown(), 4);
        assert!(buffers.grow_twofold());
        assert_eq!(buffers.grown(), 5);
        assert!(!buffers.grow_twofold());
    }

    #[test]
    fn what_was_never_published_is_refused() {
        let buffers = ReceiveBuffers::new(CONFIG).unwrap();
        assert!(take(&buffers, 4, 1).is_none());
        assert!(take(&buffers, 0, 4097).is_none());
        assert!(take(&buffers, 9, 1).is_none());
    }

    #[test]
    fn chunks_outlive_the_set() {
        let buffers = ReceiveBuffers::new(CONFIG).unwrap();
        let chunk = take(&buffers, 1, 10).unwrap();
        drop(buffers);
        assert_eq!(chunk.len(), 10);
    }
}
