//! Measures Outrigger beside its peers.
//!
//! The parts: a load generator ([`load`]) that speaks through a [`protocol`], over [`tls`] or not; a
//! built-in [`origin`]; the minimal io_uring relay ([`relay`]) that marks the practical limit of a
//! proxy on this kernel; and servers ([`target`]) that the harness starts itself with equivalent
//! configurations for each protocol [`variant`]. [`compare`] and [`idle`] put them together,
//! [`report`] shows and [`check`] judges what they found; [`xds`] does all that for configuration by
//! a management server, which it brings along, and [`upgrade`] for processes that replace each other. Everything runs on loopback, every child
//! process is bound to the harness's life, and what goes wrong during a measurement is counted and
//! shown, never dropped.

pub mod channel;
pub mod check;
pub mod client;
pub mod compare;
pub mod epoll;
pub mod http2;
pub mod idle;
pub mod load;
pub mod origin;
pub mod protocol;
pub mod relay;
pub mod report;
pub mod rpc;
pub mod schedule;
pub mod stats;
pub mod sys;
pub mod target;
pub mod tls;
pub mod upgrade;
pub mod variant;
pub mod xds;
