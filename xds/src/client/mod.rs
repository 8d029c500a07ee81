//! The xDS client (xds.md A1 to A6, A8), without sockets and without a clock.
//!
//! A [`Client`] is the state machine of one stream: the aggregated one, or that of one type. Whatever
//! drives it gives it events with the time at which they happen, and writes what it says. It keeps names
//! and versions, never bodies: those go through it to the store, and the store's verdicts come back.
//!
//! | The driver | does this |
//! |---|---|
//! | has a stream | [`connected`](Client::connected) |
//! | after every event | [`next_request`](Client::next_request) until there is none; then it sleeps until [`next_deadline`](Client::next_deadline) |
//! | may read | only while [`can_receive`](Client::can_receive); a server that floods is held back by the flow control of HTTP/2 |
//! | has read | [`Response::decode`], [`receive`](Client::receive); an error of either ends the stream |
//! | has an [`Update`] | gives it to the store, and [`answer`](Client::answer)s with what the store rejects |
//! | at a deadline | [`expire`](Client::expire), and tells the store |
//! | loses the stream, or gets none | [`disconnected`](Client::disconnected), and waits as long as that says |
//!
//! A turn ends with requests being written: all changes of subscriptions before that are one request
//! (C-12). Answers are in the order of responses of each type; the verdict on one type does not wait for
//! that on another (C-02). A response that says nothing new is answered like any other (D-15).
//!
//! Invariants: every response is answered once, by the stream it came by. What was accepted outlives
//! streams. Memory is bounded by [`Limits`] and by the size of one message, whatever a server sends.

mod backoff;
mod bucket;
mod incoming;
mod intake;
pub mod message;
mod resource_type;
mod session;
mod stats;
mod subscription;
mod timers;
mod type_state;
mod verdict;
mod wire;

pub use self::intake::{NameError, Resource};
pub use self::message::{Request, Response};
pub use self::resource_type::{ResourceType, aggregated_method};
pub use self::session::{
    Client, Expired, Options, Received, StreamError, SubscribeError, Token, Update, Why,
};
pub use self::stats::{Stats, TypeStatus, UpdateError};
pub use self::type_state::{Saved, SavedResource};
pub use self::verdict::{LINE_BYTES_MAX, LINES_MAX, Refusal, Rejection};
pub use crate::snapshot::Variant;

/// Bounds on what a server can make a client keep, per type if not said otherwise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Names that are asked for.
    pub names: usize,
    /// Resources that are held.
    pub resources: usize,
    /// Of one name. Names of secrets hold paths of files.
    pub name_bytes: usize,
    /// Of one version.
    pub version_bytes: usize,
    /// Of one nonce; it is sent back.
    pub nonce_bytes: usize,
    /// Of one resource.
    pub aliases: usize,
    /// Responses of the whole stream that are not yet judged and answered.
    pub unanswered: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            names: 1 << 18,
            resources: 1 << 18,
            name_bytes: 8192,
            version_bytes: 1024,
            nonce_bytes: 1024,
            aliases: 256,
            unanswered: 32,
        }
    }
}
