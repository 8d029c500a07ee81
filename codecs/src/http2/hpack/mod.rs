//! HPACK, the compression of header fields in HTTP/2 (RFC 7541).
//!
//! [`Decoder`] and [`Encoder`] each keep the dynamic table of one direction. They work on whole
//! header blocks and know nothing of frames. The invariants: a decoder that returned no error has
//! seen what the peer's encoder has seen, whatever it refused to store; no input makes either take
//! more memory than the tables and limits say; and once their tables have filled, neither
//! allocates.
//!
//! Section numbers in this module are those of RFC 7541 where no other document is named.

mod check;
mod decoder;
mod dynamic_table;
mod encoder;
mod error;
mod hash;
mod huffman;
mod index;
mod integer;
mod state;
mod static_table;

pub use decoder::{DECODER_TABLE_BYTES_MAX, Decoder, ListLimits, Outcome};
pub use encoder::{Encoder, TABLE_BYTES_USED_MAX};
pub use error::HpackError;
pub use state::{DecoderState, EncoderState, Resize, StateError, TableEntry, TableState};

/// The size that every table may have at the start of a connection, in bytes: the initial value of
/// SETTINGS_HEADER_TABLE_SIZE (RFC 9113 section 6.5.2).
const TABLE_BYTES_INITIAL: u32 = 4096;

// The bits that representations begin with (section 6), and the sizes of their prefixes.
const INDEXED: u8 = 0x80;
const INDEXED_BITS: u32 = 7;
const INCREMENTAL: u8 = 0x40;
const INCREMENTAL_BITS: u32 = 6;
const SIZE_UPDATE: u8 = 0x20;
const SIZE_UPDATE_BITS: u32 = 5;
const NEVER_INDEXED: u8 = 0x10;
const LITERAL_BITS: u32 = 4;
const HUFFMAN: u8 = 0x80;
const STRING_BITS: u32 = 7;
