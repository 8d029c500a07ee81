//! HTTP/2 on the wire, downstream: the connection, and what an exchange sees of its stream.

mod connection;
mod side;

pub(super) use self::side::Side;

pub use self::connection::{Http2Connection, Restored};
