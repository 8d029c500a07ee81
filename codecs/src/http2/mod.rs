//! HTTP/2 (RFC 9113), both sides of a connection, without sockets, clocks or threads.
//!
//! A [`Connection`] takes the bytes that the peer sends and tells, one at a time, what they mean for
//! whoever forwards messages: a request or response began, here is content, the stream was reset. It
//! collects the bytes to send in one output buffer. Everything that HTTP/2 has besides messages stays
//! inside: frames, field compression ([`hpack`]), settings, windows, identifiers, the graceful end,
//! and the defences against peers that abuse any of them.
//!
//! What is not here: routing, timeouts, buffering of content and its back-pressure. Content is never
//! copied: received content is told as a range of the input, and of content to send only the frame
//! heads are written. Who holds content back simply does not [release](Connection::release) it, and
//! the windows do the rest.
//!
//! The invariants that matter: what bytes mean doesn't depend on how they arrive; the memory that a
//! peer can claim is bounded by the [`Config`]; and a message that is told has one reading in every
//! version of HTTP ([`request_head`], [`response_head`]).
//!
//! ```
//! use outrigger_codecs::http::{FieldKind, FieldStorage, Method};
//! use outrigger_codecs::http2::{Config, Connection, Event, Role, request_head};
//!
//! let mut client = Connection::new(Role::Client, Config::default());
//! let mut server = Connection::new(Role::Server, Config::default());
//!
//! let id = client.open_stream(Method::Get).expect("the first stream");
//! let mut headers = client.encode_headers();
//! for (name, value) in
//!     [(":method", "GET"), (":scheme", "http"), (":path", "/orders"), (":authority", "shop")]
//! {
//!     headers.field(name, value.as_bytes(), FieldKind::Other, false);
//! }
//! client.send_headers(id, true);
//!
//! let sent = std::mem::take(client.output());
//! let step = server.receive(&sent, 0)?;
//! assert!(matches!(step.event, Some(Event::Headers { end_stream: true, .. })));
//! let mut storage = FieldStorage::new();
//! let head = request_head(server.block(), true, &mut storage)?;
//! assert_eq!((head.method, head.authority), (Method::Get, "shop"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod abuse;
mod config;
mod connection;
mod counters;
mod error;
mod event;
mod flow;
mod frame;
pub mod hpack;
mod message;
mod settings;
mod streams;

pub use config::{Config, FloodLimits, Role};
pub use connection::{Connection, ConnectionState, HeadersWriter, ImportError, PREFACE};
pub use counters::Counters;
pub use error::{ConnectionCause, ConnectionError, Reason, StreamCause};
pub use event::{Event, NO_SLOT, ResetBy, Step, StreamId};
pub use hpack::ListLimits;
pub use message::{MessageError, request_head, response_head, trailers};
pub use settings::UpgradeSettings;

/// The parts of a [`ConnectionState`].
pub mod state {
    pub use super::abuse::{Bucket, FloodCounts};
    pub use super::connection::{HeadingState, ReadingState};
    pub use super::flow::{ReceiveWindow, SendWindow};
    pub use super::frame::FrameHead;
    pub use super::settings::PeerSettings;
    pub use super::streams::{Receiving, Stream};
}
