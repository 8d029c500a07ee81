//! What makes a header block undecodable.

/// A compression error (RFC 7541): the tables are out of step from here on, so the connection must
/// end with COMPRESSION_ERROR (RFC 9113 section 4.3).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HpackError {
    /// A block that is above the limits anyway goes on to repeat large names without end (RFC 9113
    /// section 10.5.1).
    #[error("header block takes too much work")]
    Excessive,
    /// A Huffman-coded string contains the EOS symbol (section 5.2).
    #[error("eos symbol in a huffman-coded string")]
    HuffmanEos,
    /// A Huffman-coded string ends in more than seven bits of padding, or in other bits than ones
    /// (section 5.2).
    #[error("invalid padding of a huffman-coded string")]
    HuffmanPadding,
    /// Index 0, or one behind the end of the dynamic table (sections 2.3.3 and 6.1).
    #[error("index outside the tables")]
    IndexInvalid,
    /// An integer of more than four continuation octets, which is one above 2^28 or padded with
    /// zeros (section 5.1).
    #[error("integer too large")]
    IntegerTooLarge,
    /// A dynamic table size update behind the first field (section 4.2).
    #[error("table size update behind a field")]
    SizeUpdateMisplaced,
    /// The peer acknowledged a smaller table and didn't say that it uses one (section 4.2).
    #[error("table size update missing")]
    SizeUpdateMissing,
    /// A dynamic table size update above SETTINGS_HEADER_TABLE_SIZE (section 6.3).
    #[error("table size update above the limit")]
    SizeUpdateTooLarge,
    /// The block ends inside a representation.
    #[error("header block truncated")]
    Truncated,
}
