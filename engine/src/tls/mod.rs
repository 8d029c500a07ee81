//! TLS on both sides of the proxy.
//!
//! | part | does |
//! |---|---|
//! | [`TlsContexts`] | builds contexts of a snapshot, and again when files or secrets change |
//! | [`ServerContext`], [`ClientContext`] | what all connections of a listener or a cluster share |
//! | [`Handshake`] | makes a connection of a socket, by rustls |
//! | [`TlsStream`] | seals and opens records of an established connection, on the ring's buffers |
//! | [`TlsSession`] | what the handshake agreed on |
//!
//! rustls computes the handshake and verifies who takes part in it. Records are sealed and opened
//! here afterwards, because then nothing is allocated or copied for them, and because a connection
//! is then a few dozen bytes that can be moved to another process. Invariant: no plaintext leaves
//! or enters before the handshake has shown what the configuration asks of the peer.

mod certificate;
mod client;
mod contexts;
mod error;
mod handshake;
mod inbound;
mod keylog;
mod ocsp;
mod outbound;
mod protect;
mod provider;
mod record;
mod server;
mod session;
mod sessions;
mod source;
mod stream;
mod tickets;
mod verify;
mod x509;

#[cfg(test)]
mod tests;

pub use certificate::Identity;
pub use client::ClientContext;
pub use contexts::{
    ClientSlot, FILES_INTERVAL, LoadedCertificate, LoadedContext, Refreshed, Secrets, ServerSlot,
    Slot, TlsContexts,
};
pub use error::{CertificateFault, HandshakeError, TlsConfigError, TlsConfigProblem};
pub use handshake::{Established, Handshake, agreed};
pub use record::RecordError;
pub use server::ServerContext;
pub use session::{PeerCertificate, StapleUse, TlsSession};
pub use stream::TlsStream;
pub use tickets::TicketKeyring;
pub use x509::{CertificateFacts, pem};
