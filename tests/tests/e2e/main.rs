//! End-to-end tests: the real binary between real sockets.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod basics;
mod curl;
mod headers;
mod streaming;
mod tunnels;
