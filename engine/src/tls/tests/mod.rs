//! TLS against rustls, against OpenSSL and against itself, over real sockets on a ring.

mod certificates;
mod handshakes;
mod reload;
mod streams;
mod support;
