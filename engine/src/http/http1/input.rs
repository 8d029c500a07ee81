//! Bytes that came from downstream and are not used yet.
//!
//! Invariant: bytes leave in the order in which they came, whether they belong to a head, to a
//! body, or to the next request of a pipeline.

use crate::buffers::Chunk;
use crate::ring::Received;
use crate::transport::Transport;

/// What is left of the last chunk, in front of what the socket still holds.
#[derive(Default)]
pub(in crate::http) struct Input {
    rest: Option<Chunk>,
}

impl Input {
    /// The next bytes.
    pub(in crate::http) fn next(&mut self, transport: &Transport) -> Received {
        match self.rest.take() {
            Some(chunk) => Received::Chunk(chunk),
            None => transport.receive(),
        }
    }

    /// What was taken from the socket and not used.
    pub(in crate::http) fn rest(&self) -> &[u8] {
        self.rest.as_deref().unwrap_or_default()
    }

    /// Gives back what was not used of the chunk taken last.
    pub(in crate::http) fn put_back(&mut self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.rest = Some(chunk);
        }
    }
}
