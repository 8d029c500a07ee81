//! A small language for end-to-end tests: a real proxy process between real sockets.
//!
//! [`Proxy`] runs the binary with a [`Config`]; [`Origin`] stands behind it and does what a script
//! says; [`Client`] stands before it and sends bytes as they are. Both ends read with the strict
//! parser of [`http`], so whatever passes through a test is also well-formed. [`http2`] has both
//! ends of HTTP/2 by an implementation that is not ours, [`frames`] sends and reads it frame by
//! frame, and [`tls`] makes certificates. [`load`] has many connections at once. [`rpc`] has both
//! ends of RPC protocols, whose frames are in [`bolt`] and [`dubbo`], and [`Peer`] is a real program
//! of some RPC framework. [`ControlPlane`] is a management server. [`Namespace`] gives a test a
//! network of its own.
//!
//! `OUTRIGGER_TEST_PROXY=envoy` runs the tests against Envoy: a test that Envoy fails may expect
//! the wrong thing.
//!
//! Rules that keep the suite honest: ports come from the kernel (port 0), nothing sleeps where it
//! can wait for an event, every wait has a deadline ([`PATIENCE`]), and every process dies with the
//! test that started it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

pub mod binary;
pub mod bolt;
pub mod client;
pub mod config;
pub mod control_plane;
pub mod dubbo;
pub mod frames;
pub mod http;
pub mod http2;
pub mod load;
pub mod namespace;
pub mod net;
pub mod origin;
pub mod peer;
pub mod process;
pub mod proxy;
pub mod rpc;
pub mod tls;

use std::time::{Duration, Instant};

pub use client::Client;
pub use config::Config;
pub use control_plane::ControlPlane;
pub use frames::{Frame, Frames};
pub use http2::{Http2, Http2Client};
pub use namespace::Namespace;
pub use net::Address;
pub use origin::Origin;
pub use peer::Peer;
pub use proxy::{Launch, Proxy};

/// The longest that any single thing in a test may take: far above what it does take, so that a
/// busy machine fails nothing and a hang still ends.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Calls `look` until it returns something, for at most [`PATIENCE`]. For facts that have no event
/// to wait for, such as counters of another process.
///
/// # Panics
/// If `look` has returned nothing in time; `what` says for what was waited.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(GLANCE);
    }
}

/// Pause between two looks.
const GLANCE: Duration = Duration::from_millis(2);
