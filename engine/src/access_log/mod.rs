//! The access log: capture, render, batch, write.
//!
//! ```text
//! shard                                              | writer thread
//! Capture (header values)  Record (facts, borrowed)  |
//!        \                 /                         |
//!         ShardLogger::log -> batch of 64 KiB --queue--> write(2), reopen
//!                 ^                                  |       |
//!                 +------------ empty buffers <--------------+
//! ```
//!
//! The invariant that matters: logging loses lines (counted in `access_log.dropped`) before it
//! delays a request or holds more than its bound of memory. In the steady state it allocates
//! nothing and makes no system call on the shard.

pub mod capture;
pub(crate) mod clock;
mod filter;
pub mod flags;
pub mod logger;
mod program;
pub mod record;
pub mod render;
mod tls;
pub mod writer;

pub use capture::{Capture, CaptureSet, Captured};
pub use flags::ResponseFlags;
pub use logger::{AccessLogs, ShardLogger, batches_in};
pub use record::{
    Address, ByteCounts, CloseType, GrpcStatus, LogType, Protocol, Record, StreamId, Times,
};
pub use render::{Headers, Renderer, url_encoded_pem};
pub use writer::{LogWriter, OpenError, Queue, Sink};

#[cfg(test)]
mod tests;
