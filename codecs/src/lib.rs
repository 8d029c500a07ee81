//! Sans-I/O protocol codecs: bytes in, frames and views out.
//!
//! A codec never owns a socket, a clock or a thread. It borrows the bytes it is given, parses them in
//! place and answers with views and ranges, so the caller decides where bytes live and when more are
//! read. The invariant that every codec keeps: a message that two parsers could read in two ways is
//! refused, never repaired.

#![forbid(unsafe_code)]

pub mod grpc;
pub mod http;
pub mod http1;
pub mod http2;
pub mod peer_metadata;
pub mod proxy_protocol;
pub mod rpc;
pub mod soap;
pub mod tls;
