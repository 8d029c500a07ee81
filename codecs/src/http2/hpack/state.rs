//! The state of a coder as plain data, so that a connection can be moved to another process.

/// The dynamic table of a coder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableState {
    /// The fields in the table, oldest first.
    pub entries: Vec<TableEntry>,
    /// The size that the encoder of this direction has chosen (RFC 7541 section 4.2), in bytes by
    /// the count of section 4.1. The entries are not larger.
    pub bytes_max: u32,
}

/// A field in a dynamic table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableEntry {
    /// The name. Where the peer has inserted one that no message may have, there are as many
    /// question marks in its place: a field that uses it is malformed whatever it was.
    pub name: String,
    /// The value, which may be one that no message may have.
    pub value: Vec<u8>,
}

/// Everything that a [`Decoder`](super::Decoder) knows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DecoderState {
    /// The dynamic table.
    pub table: TableState,
    /// SETTINGS_HEADER_TABLE_SIZE as announced to the peer.
    pub announced_bytes_max: u32,
    /// The peer has acknowledged it.
    pub acknowledged: bool,
}

/// Everything that an [`Encoder`](super::Encoder) knows, but for what only saves octets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EncoderState {
    /// The dynamic table.
    pub table: TableState,
    /// The size to tell the peer at the start of the next block.
    pub resize: Option<Resize>,
    /// Strings are coded where that makes them shorter.
    pub huffman: bool,
}

/// A change of the table's size that the peer was not told yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Resize {
    /// The smallest size since the last block, in bytes.
    pub lowest: u32,
    /// The size from now on, in bytes.
    pub last: u32,
}

/// Why a state can't be one of a coder.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A pending change of size ends below where it passed, or above what the encoder uses.
    #[error("impossible change of the table size")]
    ResizeInvalid,
    /// The entries are larger than the table.
    #[error("entries above the table size")]
    TableOverfull,
    /// The table is larger than it may be.
    #[error("table above its limit")]
    TableTooLarge,
}
