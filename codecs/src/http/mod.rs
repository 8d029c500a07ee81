//! What every version of HTTP says, however it is written on the wire (RFC 9110).
//!
//! [`http1`](crate::http1) and [`http2`](crate::http2) parse into the types of this module, so that
//! routing, header policy and logs know of one request and one response. The invariant: a head that
//! exists as a [`RequestHead`] or a [`ResponseHead`] has one reading, in every version.

pub(crate) mod authority;
mod block;
mod content_length;
mod date;
pub(crate) mod field;
mod framing;
pub(crate) mod put;
mod request;
mod response;
mod version;

pub use block::FieldBlock;
pub(crate) use content_length::parse_content_length;
pub use date::http_date;
pub use field::{FIELDS_MAX, Field, FieldKind, FieldStorage, tokens};
pub use framing::BodyFraming;
pub use put::{Put, decimal};
pub use request::{Method, RequestHead, Target};
pub use response::{BodyForbidden, ResponseHead};
pub use version::{ConnectionOptions, Version};
