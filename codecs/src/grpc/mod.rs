//! gRPC, as far as a proxy has to read it: where messages begin and end, and the translation between
//! gRPC over HTTP/2 and gRPC-Web.
//!
//! | part | does |
//! |---|---|
//! | [`MessageWalk`] | finds messages in a body |
//! | [`WebType`] | the media types of gRPC-Web and what stands for them upstream |
//! | [`Base64Decoder`], [`TextEncoder`] | the text form of gRPC-Web bodies |
//! | [`put_trailers`] | trailers as the last frame of a gRPC-Web body |
//! | [`percent_encode`] | `grpc-message` |
//!
//! Sources: PROTOCOL-HTTP2.md and PROTOCOL-WEB.md of the gRPC project; where they leave a choice, what
//! Envoy does. The invariant that matters: what comes out doesn't depend on how what goes in was
//! split, and nothing is kept but the few bytes of a group of base64, so a body of any size passes
//! through.

mod base64;
mod message;
mod status;
mod web;

pub use base64::{Base64Decoder, Base64Error};
pub use message::{MessageStep, MessageWalk};
pub use status::percent_encode;
pub use web::{TextEncoder, WebType, put_trailers};
