//! HTTP/1.0 and HTTP/1.1 message syntax (RFC 9110, RFC 9112): heads, bodies and their rendering.
//!
//! What is here:
//!
//! - [`RequestHead`](crate::http::RequestHead) and [`ResponseHead`](crate::http::ResponseHead) parse a head in place, in one pass that also classifies its
//!   fields ([`FieldKind`](crate::http::FieldKind)) and decides how the body is framed ([`BodyFraming`](crate::http::BodyFraming));
//! - [`BodyDecoder`] and [`ChunkedDecoder`] find the data bytes of a body in whatever pieces arrive;
//! - [`render`] writes heads, chunk lines and dates into any [`Put`](crate::http::Put).
//!
//! What is not here: routing, header policy, timeouts and buffers. The caller keeps the bytes of an
//! incomplete head and parses again when more arrive.
//!
//! The invariant that matters: two parsers can't disagree about where a message that is accepted here
//! ends. Every doubtful framing is a [`HeadError`] or a [`ChunkedError`], and the caller then answers
//! with [`HeadError::status`] and closes the connection. Nothing is repaired.
//!
//! Parsing a head allocates nothing. A chunked body allocates only when it carries trailers, and those
//! are bounded by [`ChunkedLimits`].
//!
//! ```
//! use outrigger_codecs::http::{FieldStorage, Method, RequestHead};
//! use outrigger_codecs::http1::{BodyDecoder, HeadLimits};
//!
//! let received = b"POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello";
//! let mut storage = FieldStorage::new();
//! let head = RequestHead::parse(received, &mut storage, &HeadLimits::default())?
//!     .expect("the whole head is there");
//! assert_eq!((head.method, head.authority), (Method::Post, "shop"));
//!
//! let rest = &received[head.len..];
//! let step = BodyDecoder::from(head.framing).decode(rest)?;
//! assert_eq!(&rest[step.data], b"hello");
//! assert!(step.done);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod body;
mod chunked;
mod error;
mod head;
pub mod render;
mod request;
mod response;

pub use body::BodyStep as ChunkedStep;
pub use body::{BodyDecoder, BodyStep, Truncated};
pub use chunked::{ChunkedDecoder, ChunkedError, ChunkedLimits, parse_trailers};
pub use error::HeadError;
pub use head::{CONNECTION_OPTIONS_MAX, HeadLimits};
pub use render::{LAST_CHUNK, reason_phrase};
