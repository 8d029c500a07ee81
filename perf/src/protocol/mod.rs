//! What the load generator must know of a protocol: bytes to send, and where answers end.
//!
//! A [`Protocol`] describes the load; each connection gets its own [`Session`], which encodes
//! requests and finds the ends of their responses incrementally. A session does no I/O and reads no
//! clock. It has a fixed number of slots, one for each request that may be in flight at a time: one
//! with HTTP/1.1, one per stream with HTTP/2, one per call in flight with RPC. The invariant: a slot is taken by
//! [`Session::request`] and free again when it was reported as [`Ended`].

pub mod http1;
pub mod http2;
pub mod rpc;

use serde::{Deserialize, Serialize};

use self::{
    http1::{Http1, Http1Session},
    http2::{Http2, Http2Session},
    rpc::{RpcLoad, RpcSession},
};

/// A kind of load.
pub trait Protocol {
    /// State of one connection.
    type Session: Session;

    /// State for a new connection.
    fn session(&self) -> Self::Session;

    /// Requests that a connection has in flight at a time.
    fn slots(&self) -> usize;
}

/// One connection's side of the protocol, as a client.
pub trait Session {
    /// Appends what a client says before its first request.
    fn open(&mut self, out: &mut Vec<u8>);

    /// Whether the peer has answered that.
    fn is_open(&self) -> bool;

    /// Appends a request in a free slot. Not to be called once the session is not
    /// [reusable](Session::is_reusable).
    fn request(&mut self, slot: usize, out: &mut Vec<u8>);

    /// Takes received bytes, appends what the protocol itself answers, and the requests that ended.
    ///
    /// # Errors
    ///
    /// What is wrong with the whole connection, which can't be used any more. Requests that ended
    /// before are in `ended`, all others have failed.
    fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        ended: &mut Vec<Ended>,
    ) -> Result<(), Fault>;

    /// Number of coming bytes whose content doesn't matter: the generator may let the kernel drop
    /// up to so many of them and tell [`Session::skip`].
    fn skippable(&self) -> u64;

    /// Accounts for `count` dropped bytes, at most [`Session::skippable`].
    ///
    /// # Errors
    ///
    /// As [`Session::feed`].
    fn skip(&mut self, count: u64, ended: &mut Vec<Ended>) -> Result<(), Fault>;

    /// The peer closed its side: the end of a response, where the protocol has that.
    ///
    /// # Errors
    ///
    /// [`Fault::Closed`] when a response was due.
    fn finish(&mut self, ended: &mut Vec<Ended>) -> Result<(), Fault>;

    /// Whether the connection takes another request.
    fn is_reusable(&self) -> bool;
}

/// A request that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its slot.
    pub slot: usize,
    /// Body bytes of the response, or what is wrong with it.
    pub outcome: Result<u64, Fault>,
}

/// Any of the protocols, for where the choice is made at run time.
#[derive(Debug, Clone)]
pub enum AnyProtocol {
    /// HTTP/1.1.
    Http1(Http1),
    /// HTTP/2.
    Http2(Http2),
    /// Bolt or Dubbo.
    Rpc(RpcLoad),
}

/// A session of [`AnyProtocol`].
#[derive(Debug)]
pub enum AnySession {
    /// HTTP/1.1.
    Http1(Box<Http1Session>),
    /// HTTP/2.
    Http2(Box<Http2Session>),
    /// Bolt or Dubbo.
    Rpc(Box<RpcSession>),
}

impl Protocol for AnyProtocol {
    type Session = AnySession;

    fn session(&self) -> AnySession {
        match self {
            Self::Http1(http1) => AnySession::Http1(Box::new(http1.session())),
            Self::Http2(http2) => AnySession::Http2(Box::new(http2.session())),
            Self::Rpc(rpc) => AnySession::Rpc(Box::new(rpc.session())),
        }
    }

    fn slots(&self) -> usize {
        match self {
            Self::Http1(http1) => http1.slots(),
            Self::Http2(http2) => http2.slots(),
            Self::Rpc(rpc) => rpc.slots(),
        }
    }
}

/// Calls the same method of whichever session it is.
macro_rules! either {
    ($self:ident, $session:ident => $call:expr) => {
        match $self {
            AnySession::Http1($session) => $call,
            AnySession::Http2($session) => $call,
            AnySession::Rpc($session) => $call,
        }
    };
}

impl Session for AnySession {
    fn open(&mut self, out: &mut Vec<u8>) {
        either!(self, session => session.open(out));
    }

    fn is_open(&self) -> bool {
        either!(self, session => session.is_open())
    }

    fn request(&mut self, slot: usize, out: &mut Vec<u8>) {
        either!(self, session => session.request(slot, out));
    }

    fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        ended: &mut Vec<Ended>,
    ) -> Result<(), Fault> {
        either!(self, session => session.feed(input, out, ended))
    }

    fn skippable(&self) -> u64 {
        either!(self, session => session.skippable())
    }

    fn skip(&mut self, count: u64, ended: &mut Vec<Ended>) -> Result<(), Fault> {
        either!(self, session => session.skip(count, ended))
    }

    fn finish(&mut self, ended: &mut Vec<Ended>) -> Result<(), Fault> {
        either!(self, session => session.finish(ended))
    }

    fn is_reusable(&self) -> bool {
        either!(self, session => session.is_reusable())
    }
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The connection was not made.
    Connect,
    /// The TLS handshake failed, agreed something else than asked for, or a record was broken.
    Tls,
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection before the response was complete.
    Closed,
    /// The response doesn't follow the protocol, or came unasked.
    Malformed,
    /// A status other than 200, or than success in RPC.
    Status,
    /// The body has not the expected length.
    Length,
    /// The gRPC status is missing or not 0.
    Grpc,
    /// The peer reset the stream, went away before it, or admits fewer streams than are asked for.
    Refused,
    /// No complete response within the request timeout.
    Timeout,
    /// Due in the measured window, but not complete at the end of the run (open loop only).
    Unfinished,
}

impl Fault {
    /// All kinds, in the order of [`Fault::index`].
    pub const ALL: [Self; 11] = [
        Self::Connect,
        Self::Tls,
        Self::Reset,
        Self::Closed,
        Self::Malformed,
        Self::Status,
        Self::Length,
        Self::Grpc,
        Self::Refused,
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
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Malformed => "malformed",
            Self::Status => "status",
            Self::Length => "length",
            Self::Grpc => "grpc",
            Self::Refused => "refused",
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
