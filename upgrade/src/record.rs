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
    #[prost(oneof = "ProtocolRecord", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18")]
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
    /// HTTP/1.1 that has become a tunnel to an endpoint.
    #[prost(message, tag = "14")]
    Tunnel(TunnelRecord),
    /// HTTP/2, between frames and without a stream.
    #[prost(message, tag = "15")]
    Http2(Http2Record),
    /// HTTP/1.1 to an endpoint, in its pool. Such a connection has no listener and no ends.
    #[prost(message, tag = "16")]
    Upstream(UpstreamRecord),
    /// The same of HTTP/2, without a stream.
    #[prost(message, tag = "17")]
    UpstreamHttp2(UpstreamHttp2Record),
    /// The same of Bolt, Dubbo or HSF, with no request that waits for its answer.
    #[prost(message, tag = "18")]
    UpstreamRpc(UpstreamRpcRecord),
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

/// A tunnel that a request has opened, such as a WebSocket; the upstream socket is the second descriptor.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct TunnelRecord {
    /// Its bytes, as of a proxied connection.
    #[prost(message, required, tag = "1")]
    pub proxied: TcpRecord,
    /// What the request asked for: 1 another protocol, 2 a tunnel through the endpoint, 3 one that ends there.
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    /// The status of the answer.
    #[prost(uint32, tag = "3")]
    pub code: u32,
    /// Requests on the connection, with this one.
    #[prost(uint32, tag = "4")]
    pub requests: u32,
    /// For how long nothing may be moved; none when that is unlimited.
    #[prost(uint64, optional, tag = "5")]
    pub idle_timeout_ms: Option<u64>,
    /// For how long it may go on; none when that is unlimited.
    #[prost(uint64, optional, tag = "6")]
    pub left_ms: Option<u64>,
    /// Header values that the access log is to have.
    #[prost(message, repeated, tag = "7")]
    pub request_headers: Vec<HeaderRecord>,
    /// The same of the answer.
    #[prost(message, repeated, tag = "8")]
    pub response_headers: Vec<HeaderRecord>,
    /// The request's number in logs: a UUID's bytes, as two numbers.
    #[prost(fixed64, tag = "9")]
    pub stream_id_high: u64,
    /// Its other half.
    #[prost(fixed64, tag = "10")]
    pub stream_id_low: u64,
}

/// A connection to an endpoint that rests.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct UpstreamRecord {
    /// The endpoint's cluster.
    #[prost(string, tag = "1")]
    pub cluster: String,
    /// Its address.
    #[prost(string, tag = "2")]
    pub host: String,
    /// Requests that were sent on it.
    #[prost(uint32, tag = "3")]
    pub requests: u32,
}

/// See [`ProtocolRecord::UpstreamHttp2`].
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct UpstreamHttp2Record {
    /// Where it leads.
    #[prost(message, required, tag = "1")]
    pub upstream: UpstreamRecord,
    /// What its ends know of each other; the endpoint is the peer.
    #[prost(message, required, tag = "2")]
    pub connection: Http2Record,
}

/// See [`ProtocolRecord::UpstreamRpc`].
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct UpstreamRpcRecord {
    /// Where it leads.
    #[prost(message, required, tag = "1")]
    pub upstream: UpstreamRecord,
    /// The protocol's name.
    #[prost(string, tag = "2")]
    pub protocol: String,
    /// Statistics' prefix of the proxy that made it.
    #[prost(string, tag = "3")]
    pub stat_prefix: String,
    /// As [`RpcRecord::tag`], of the first request.
    #[prost(bytes = "vec", tag = "4")]
    pub tag: Vec<u8>,
    /// The number of the last request. Its answer, and those before, may still come.
    #[prost(uint64, tag = "5")]
    pub last_id: u64,
}

/// What both sides of a connection without streams know of each other (RFC 9113, RFC 7541).
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct Http2Record {
    /// Requests that were served.
    #[prost(uint32, tag = "1")]
    pub requests: u32,
    /// What the client was told, which it relies on.
    #[prost(message, required, tag = "2")]
    pub announced: AnnouncedRecord,
    /// The table of the client's encoder.
    #[prost(message, required, tag = "3")]
    pub decoder: TableRecord,
    /// The client has acknowledged the size of that table.
    #[prost(bool, tag = "4")]
    pub table_acknowledged: bool,
    /// The table of our encoder.
    #[prost(message, required, tag = "5")]
    pub encoder: TableRecord,
    /// The smallest and the present size of that table, where the client was not told yet.
    #[prost(uint32, repeated, tag = "6")]
    pub resize: Vec<u32>,
    /// What the client has set: size of the table, streams, window of a stream, size of a frame, size of a
    /// field section, extended CONNECT.
    #[prost(uint32, repeated, tag = "7")]
    pub peer: Vec<u32>,
    /// The client's first settings have come.
    #[prost(bool, tag = "8")]
    pub peer_settled: bool,
    /// Settings of ours that the client has not acknowledged.
    #[prost(uint32, tag = "9")]
    pub settings_unacknowledged: u32,
    /// Streams that we reset lately, oldest first.
    #[prost(uint32, repeated, tag = "10")]
    pub resets: Vec<u32>,
    /// The highest that is no longer among them.
    #[prost(uint32, tag = "11")]
    pub resets_forgotten_max: u32,
    /// What we may send beyond the initial window.
    #[prost(sint32, tag = "12")]
    pub send_balance: i32,
    /// What the client may still send.
    #[prost(uint32, tag = "13")]
    pub receive_available: u32,
    /// What was consumed and not announced.
    #[prost(uint32, tag = "14")]
    pub receive_consumed: u32,
    /// The highest stream that the client has opened.
    #[prost(uint32, tag = "15")]
    pub peer_last: u32,
    /// From there on it has used every number.
    #[prost(uint32, tag = "16")]
    pub peer_unbroken_from: u32,
    /// The next stream that we open.
    #[prost(uint32, tag = "17")]
    pub local_next: u32,
}

/// Settings as they were announced.
#[derive(Clone, Copy, Eq, PartialEq, prost::Message)]
pub struct AnnouncedRecord {
    /// Bytes of the table of the client's encoder.
    #[prost(uint32, tag = "1")]
    pub table_bytes: u32,
    /// Streams at once.
    #[prost(uint32, tag = "2")]
    pub streams: u32,
    /// The window of a stream.
    #[prost(uint32, tag = "3")]
    pub stream_window: u32,
    /// The window of the connection.
    #[prost(uint32, tag = "4")]
    pub connection_window: u32,
    /// The largest frame.
    #[prost(uint32, tag = "5")]
    pub frame_bytes: u32,
    /// The largest field section.
    #[prost(uint64, tag = "6")]
    pub list_bytes: u64,
    /// Extended CONNECT (RFC 8441).
    #[prost(bool, tag = "7")]
    pub connect_protocol: bool,
}

/// A dynamic table.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct TableRecord {
    /// Its size, in bytes by the count of RFC 7541 section 4.1.
    #[prost(uint32, tag = "1")]
    pub bytes_max: u32,
    /// Its fields, oldest first.
    #[prost(message, repeated, tag = "2")]
    pub fields: Vec<HeaderRecord>,
}

/// A header value.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct HeaderRecord {
    /// Its name, in lower case.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// See [`ProtocolRecord::Rpc`].
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct RpcRecord {
    /// Its name.
    #[prost(string, tag = "1")]
    pub protocol: String,
    /// Requests whose answers come from the predecessor, by [`Relay`](crate::message::Relay).
    #[prost(message, repeated, tag = "2")]
    pub pending: Vec<PendingRecord>,
    /// The number of the last request of ours to the client, such as a heartbeat.
    #[prost(uint64, tag = "3")]
    pub last_id: u64,
    /// Of the last frame from the client: version, codec and flags, which our own frames agree with.
    #[prost(bytes = "vec", tag = "4")]
    pub tag: Vec<u8>,
}

/// A request that waits for its answer.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct PendingRecord {
    /// The client's id of it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// As [`RpcRecord::tag`]: what its answer must agree with.
    #[prost(bytes = "vec", tag = "2")]
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
