//! What a hand-over between two processes stands on: descriptors passed over a Unix socket, and
//! the proof of who is at its other end.
//!
//! The messages and the state machine of a hand-over stand on these two.
//! Invariant: a descriptor that was received is owned at once, close-on-exec, and closed if nobody
//! takes it.

mod descriptors;
mod peer;

pub use descriptors::{DESCRIPTORS_MAX, ReceiveError, Received, receive, send};
pub use peer::{Peer, peer};
