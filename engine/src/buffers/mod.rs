//! Where bytes live: provided receive buffers, arena slabs for the few bytes we insert, and the
//! counted slices (`Chunk`) that the rest of the engine passes around.
//!
//! Invariant: what can be read by two is never written. The kernel fills a receive buffer, or a
//! writer fills a slab; the first owner may decrypt it in place; from then on it is only ever
//! sliced, and its storage goes back to where it came from when the last slice is dropped.

mod arena;
mod chunk;
mod receive;
mod records;

pub use arena::{Arena, ArenaWriter};
pub use chunk::{Chunk, ChunkMut};
pub use receive::{ReceiveBuffers, ReceiveConfig};
pub use records::{Assembly, RECORD_BYTES_MAX, RecordBuffers};
