//! What a hand-over between two processes stands on: the messages, what each side does next, descriptors
//! passed over a Unix socket, and the proof of who is at its other end.
//!
//! Invariant: a descriptor that was received is owned at once, close-on-exec, and closed if nobody
//! takes it.

pub mod message;
pub mod payload;
pub mod predecessor;
pub mod record;
pub mod state;
pub mod successor;
pub mod version;

mod channel;
mod descriptors;
mod peer;
mod rendezvous;

pub use channel::{Channel, ChannelError, Incoming};
pub use descriptors::{DESCRIPTORS_MAX, ReceiveError};
pub use peer::{Peer, peer};
pub use predecessor::Predecessor;
pub use rendezvous::{Found, Rendezvous, RendezvousError};
pub use successor::Successor;
