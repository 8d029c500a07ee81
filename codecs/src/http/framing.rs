//! Where a message's body ends.

/// How a message's body is framed (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BodyFraming {
    /// In chunks, with or without trailers.
    Chunked,
    /// By Content-Length, in bytes and below 2^63. `Length(0)` is kept apart from `None`: there is no
    /// body either, but the sender said so and the field is forwarded.
    Length(u64),
    /// No body.
    None,
    /// A response body that ends with the connection.
    UntilClose,
}

impl BodyFraming {
    /// Whether the framing alone says that there is no body: `None` or `Length(0)`.
    #[must_use]
    pub fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}
