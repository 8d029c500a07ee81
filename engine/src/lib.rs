//! The shard engine: sockets, buffers, routing, policies, reports and admin.
//!
//! Invariant: nothing on the request path is shared between shards. A shard owns its ring, its
//! buffers, its pools, its timers and its counters; other threads reach it only through its
//! mailbox, and read its counters with relaxed loads.

pub mod access_log;
pub mod background;
pub mod buffers;
pub mod cli;
pub mod cluster;
pub mod connection;
pub mod control;
pub mod demo;
pub mod http;
pub mod http2;
pub mod istio;
pub mod listen;
pub mod logging;
pub mod memory;
pub mod ring;
pub mod rpc;
pub mod server;
pub mod shard;
pub mod sockopt;
pub mod stats;
pub mod tcp;
pub mod timer;
pub mod tls;
pub mod transport;
