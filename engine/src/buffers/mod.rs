//! Where bytes live: provided receive buffers, arena slabs for the few bytes we insert, and the
//! counted slices (`Chunk`) that the rest of the engine passes around.
//!
//! Invariant: a byte is written once. The kernel fills a receive buffer, or a writer fills a slab;
//! from then on it is only ever sliced, and its storage goes back to where it came from when the
//! last slice is dropped.

mod arena;
mod chunk;
mod receive;

pub use arena::{Arena, ArenaWriter};
pub use chunk::Chunk;
pub use receive::{ReceiveBuffers, ReceiveConfig};
