//! What the load generator must know of a protocol: bytes to send, and where an answer ends.
//!
//! A [`Protocol`] describes the load; each connection gets its own [`Session`], which encodes one
//! request at a time and finds the end of its response incrementally. A session does no I/O and
//! reads no clock. The invariant: after [`Session::feed`] says [`Progress::Done`] the session is
//! ready for the next [`Session::request`].

pub mod http1;

use serde::{Deserialize, Serialize};

/// A kind of load.
pub trait Protocol {
    /// State of one connection.
    type Session: Session;

    /// State for a new connection.
    fn session(&self) -> Self::Session;
}

/// One connection's side of the protocol, as a client, with one request in flight.
pub trait Session {
    /// Appends the next request, and before the first one whatever opens the connection.
    fn request(&mut self, out: &mut Vec<u8>);

    /// Takes received bytes, all of them unless the response ends before.
    ///
    /// # Errors
    ///
    /// What is wrong with the response. The connection can't be used any more.
    fn feed(&mut self, input: &[u8]) -> Result<Progress, Fault>;

    /// Number of coming bytes whose content doesn't matter: the generator may let the kernel drop
    /// up to so many of them and tell [`Session::skip`].
    fn skippable(&self) -> u64;

    /// Accounts for `count` dropped bytes, at most [`Session::skippable`].
    ///
    /// # Errors
    ///
    /// As [`Session::feed`].
    fn skip(&mut self, count: u64) -> Result<Progress, Fault>;

    /// The peer closed its side: the end of a response, where the protocol has that.
    ///
    /// # Errors
    ///
    /// [`Fault::Closed`] when a response was due.
    fn finish(&mut self) -> Result<Progress, Fault>;
}

/// How far a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All input was taken; the response goes on.
    More,
    /// The response is complete.
    Done(Reply),
}

/// A complete response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Bytes of the last [`Session::feed`] input that belong to it. More input than that is an
    /// answer to nothing.
    pub consumed: usize,
    /// Body bytes of the whole response.
    pub body_bytes: u64,
    /// Whether the connection takes another request.
    pub reusable: bool,
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The connection was not made.
    Connect,
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection before the response was complete.
    Closed,
    /// The response doesn't follow the protocol, or came unasked.
    Malformed,
    /// A status other than 200.
    Status,
    /// The body has not the expected length.
    Length,
    /// No complete response within the request timeout.
    Timeout,
    /// Due in the measured window, but not complete at the end of the run (open loop only).
    Unfinished,
}

impl Fault {
    /// All kinds, in the order of [`Fault::index`].
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::Reset,
        Self::Closed,
        Self::Malformed,
        Self::Status,
        Self::Length,
        Self::Timeout,
        Self::Unfinished,
    ];

    /// Position in [`Fault::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Short name, as in the JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Malformed => "malformed",
            Self::Status => "status",
            Self::Length => "length",
            Self::Timeout => "timeout",
            Self::Unfinished => "unfinished",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_indexes_follow_the_list() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault.index(), index);
            assert_eq!(serde_json::to_string(&fault).unwrap(), format!("\"{}\"", fault.name()));
        }
    }
}
