//! What both sides of HTTP/2 have in common: the codec on its transport, and bodies in between.
//!
//! The server side is [`http::http2`](crate::http), the client side [`cluster`](crate::cluster).
//! Invariant: a stream holds a bounded number of bytes in each direction, and one that can't go on
//! stops neither the others nor the connection.

mod body;
mod keepalive;
mod link;
pub mod moving;
mod ready;

pub use body::{BodyQueue, Outbox};
pub use keepalive::{Keepalive, Verdict};
pub use link::{Link, Pumped, codec_config};
pub use ready::ReadySet;
