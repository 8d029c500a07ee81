//! HTTP/2 (RFC 9113) for the two ends of a measurement.
//!
//! Written apart from the proxy's own codec, so that an error there can't hide here. It is complete
//! where peers may differ (any split of the bytes, padding, CONTINUATION, any header coding, flow
//! control both ways) and does without what a measurement has no use for: priorities, push and
//! limits against attackers. [`wire`] is one connection's side below the streams; the generator's
//! streams are in [`crate::protocol::http2`], the origin's in [`crate::origin`].

pub mod hpack;
mod huffman;
pub mod wire;

/// What a client says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest frame payload taken and sent: the size every peer must take.
pub const FRAME_BYTES_MAX: usize = 16 * 1024;

/// The peer's bytes don't follow the protocol; the connection can't be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;
