//! HTTP/1 on the wire: the downstream connection, and what an exchange needs of either side.

mod connection;
mod input;
mod side;

pub(super) use self::input::Input;
pub(super) use self::side::{Side, send_body, send_last_chunk, trailers_of};

pub use self::connection::Http1Connection;
