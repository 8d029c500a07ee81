//! The first bytes of a TLS connection: is it TLS, and what does the ClientHello ask for?
//!
//! Used by the `tls_inspector` listener filter and before a handshake, to choose what to answer
//! with. It is no TLS implementation: it looks at one message and verifies nothing but its shape.
//! Invariant: the answer depends on the bytes alone, never on how they were cut into pieces, and no
//! more than the limit is kept of what a client sends.

mod hello;
mod inspector;

pub use hello::{ClientHello, HelloError};
pub use inspector::{HelloInspector, Inspected};
