//! What a connection's new owner must know of it beyond what its socket says.
//!
//! A record is the content of [`Offer::record`](crate::message::Offer), of version [`VERSION`]. Invariant: with
//! it and the sockets, the connection goes on as if nobody had changed; whatever can't be said in it keeps
//! its connection from moving.

use prost::Message as _;

/// The version of [`ConnectionRecord`]. One that adds what an older process may overlook keeps the number.
pub const VERSION: u32 = 1;

/// A downstream connection, whose socket is the first descriptor.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct ConnectionRecord {
    /// The listener that serves it.
    #[prost(string, tag = "1")]
    pub listener: String,
    /// The name of its filter chain; empty for one without a name.
    #[prost(string, tag = "2")]
    pub chain: String,
    /// Who it is between.
    #[prost(message, required, tag = "3")]
    pub ends: EndsRecord,
    /// The server name that the client asked for, where TLS is passed through.
    #[prost(string, optional, tag = "4")]
    pub server_name: Option<String>,
    /// For how long it has been there.
    #[prost(uint64, tag = "5")]
    pub age_ns: u64,
    /// What is on its way between the client and its socket.
    #[prost(message, required, tag = "6")]
    pub stream: StreamRecord,
    /// What is spoken on it, and where that stands.
    #[prost(oneof = "ProtocolRecord", tags = "10, 11, 12, 13")]
    pub protocol: Option<ProtocolRecord>,
}

/// The two ends of a connection, as addresses with ports; empty for a Unix socket, or nothing.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct EndsRecord {
    /// The client.
    #[prost(string, tag = "1")]
    pub peer: String,
    /// The other end of the socket.
    #[prost(string, tag = "2")]
    pub direct: String,
    /// Our end of the socket.
    #[prost(string, tag = "3")]
    pub accepted: String,
    /// What the client meant to reach, where that was not us.
    #[prost(string, tag = "4")]
    pub original: String,
    /// The IP address from which upstream connections come.
    #[prost(string, tag = "5")]
    pub source: String,
    /// The mark on them.
    #[prost(uint32, tag = "6")]
    pub source_mark: u32,
}

/// Bytes that are neither the peer's any more nor the kernel's yet, and the other way round.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct StreamRecord {
    /// Received, and of no message that was read.
    #[prost(bytes = "vec", tag = "1")]
    pub unread: Vec<u8>,
    /// To be sent before anything else.
    #[prost(bytes = "vec", tag = "2")]
    pub unsent: Vec<u8>,
}

/// What is spoken.
#[derive(Clone, Eq, PartialEq, prost::Oneof)]
pub enum ProtocolRecord {
    /// That is not known yet: the unread bytes are the first.
    #[prost(message, tag = "10")]
    Unknown(UnknownRecord),
    /// HTTP/1.1, between requests.
    #[prost(message, tag = "11")]
    Http1(Http1Record),
    /// A protocol of ours is not spoken at all.
    #[prost(message, tag = "12")]
    Tcp(TcpRecord),
    /// Bolt, Dubbo or HSF, between frames.
    #[prost(message, tag = "13")]
    Rpc(RpcRecord),
}

/// See [`ProtocolRecord::Unknown`].
#[derive(Clone, Copy, Eq, PartialEq, prost::Message)]
pub struct UnknownRecord {}

/// See [`ProtocolRecord::Http1`].
#[derive(Clone, Copy, Eq, PartialEq, prost::Message)]
pub struct Http1Record {
    /// Requests that were served.
    #[prost(uint32, tag = "1")]
    pub requests: u32,
}

/// A proxied connection; the upstream socket is the second descriptor.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct TcpRecord {
    /// The cluster of the endpoint.
    #[prost(string, tag = "1")]
    pub cluster: String,
    /// The endpoint's address.
    #[prost(string, tag = "2")]
    pub host: String,
    /// Bytes between us and the endpoint.
    #[prost(message, required, tag = "3")]
    pub upstream: StreamRecord,
    /// The client has finished, and that was passed on or is to be.
    #[prost(bool, tag = "4")]
    pub downstream_ended: bool,
    /// The endpoint has.
    #[prost(bool, tag = "5")]
    pub upstream_ended: bool,
    /// Bytes received from the client.
    #[prost(uint64, tag = "6")]
    pub received_bytes: u64,
    /// Bytes sent to it.
    #[prost(uint64, tag = "7")]
    pub sent_bytes: u64,
    /// Tries that connecting took.
    #[prost(uint32, tag = "8")]
    pub attempts: u32,
}

/// See [`ProtocolRecord::Rpc`].
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct RpcRecord {
    /// Its name.
    #[prost(string, tag = "1")]
    pub protocol: String,
    /// Requests whose answers come from the predecessor, by [`Relay`](crate::message::Relay).
    #[prost(uint32, tag = "2")]
    pub in_flight: u32,
    /// The number of the last request of ours to the client, such as a heartbeat.
    #[prost(uint64, tag = "3")]
    pub last_id: u64,
    /// Of the last frame from the client: version, codec and flags, which our own frames agree with.
    #[prost(bytes = "vec", tag = "4")]
    pub tag: Vec<u8>,
}

impl ConnectionRecord {
    /// The record as it goes into an offer.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// The record of an offer.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        Self::decode(bytes)
    }
}
