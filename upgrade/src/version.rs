//! Whether two processes understand each other.

use crate::message::Hello;

/// Versions with different first numbers don't understand each other.
pub const MAJOR: u32 = 1;

/// The second number: later ones know more messages.
pub const MINOR: u32 = 0;

/// Live connections can be offered, and are answered for ([`Hello::features`]).
pub const MOVES_CONNECTIONS: u64 = 1;

/// Two processes that can't hand over to each other.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "hand-over protocol {own_major}.{own_minor} ({own_build}) and {other_major}.{other_minor} ({other_build}) \
     don't understand each other: stop the running process and start the other one"
)]
pub struct Mismatch {
    own_major: u32,
    own_minor: u32,
    own_build: String,
    other_major: u32,
    other_minor: u32,
    other_build: String,
}

/// What both can do.
pub(crate) fn agree(own: &Hello, other: &Hello) -> Result<u64, Mismatch> {
    if own.major == other.major {
        return Ok(own.features & other.features);
    }
    Err(Mismatch {
        own_major: own.major,
        own_minor: own.minor,
        own_build: own.build.clone(),
        other_major: other.major,
        other_minor: other.minor,
        other_build: other.build.clone(),
    })
}
