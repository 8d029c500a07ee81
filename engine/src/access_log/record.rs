//! What is known of a request or connection when it ends, as the log wants it.
//!
//! A [`Record`] is built on the stack at the end of a request and borrows everything it can from
//! the stream manager. Only header values need keeping, because their buffers are gone by then:
//! the stream manager copies those that some format asks for into a [`Capture`](super::Capture),
//! whose memory is reused from request to request.

use std::net::SocketAddr;

use crate::tls::{RecordError, TlsSession};

use super::flags::ResponseFlags;

/// One finished request (HTTP) or connection (TCP).
///
/// Build it with `..Record::default()`: what is not known stays missing, and is written as such.
#[derive(Clone, Default)]
pub struct Record<'a> {
    /// Wall-clock time of the first byte, nanoseconds since the Unix epoch.
    pub start_wall_ns: u64,
    /// The wall-clock time of logging, nanoseconds since the Unix epoch.
    pub emit_wall_ns: u64,
    /// When things happened.
    pub times: Times,
    /// The downstream protocol; `None` for TCP.
    pub protocol: Option<Protocol>,
    /// The upstream protocol, once a connection was chosen.
    pub upstream_protocol: Option<Protocol>,
    /// The status sent downstream; 0 when none was.
    pub response_code: u16,
    /// Why it ended.
    pub flags: ResponseFlags,
    /// Why the response code was sent, such as `via_upstream` or `route_not_found`.
    pub response_code_details: Option<&'a str>,
    /// Why the downstream connection was closed, when Outrigger closed it.
    pub connection_termination_details: Option<&'a str>,
    /// Byte counts.
    pub bytes: ByteCounts,
    /// The client, after x-forwarded-for or the PROXY protocol.
    pub downstream_remote: Option<Address<'a>>,
    /// The peer of the downstream socket.
    pub downstream_direct_remote: Option<Address<'a>>,
    /// The local side, after restoring an original destination.
    pub downstream_local: Option<Address<'a>>,
    /// The local side of the downstream socket.
    pub downstream_direct_local: Option<Address<'a>>,
    /// The endpoint chosen.
    pub upstream_remote: Option<Address<'a>>,
    /// The local side of the upstream socket.
    pub upstream_local: Option<Address<'a>>,
    /// The endpoint's host name, when it has one.
    pub upstream_host_name: Option<&'a str>,
    /// The cluster, by its name in statistics.
    pub upstream_cluster: Option<&'a str>,
    /// The cluster's configured name.
    pub upstream_cluster_raw: Option<&'a str>,
    /// The upstream connection's number; 0 when there was none.
    pub upstream_connection_id: u64,
    /// How often the request was sent upstream.
    pub upstream_attempts: u32,
    /// Why the upstream transport failed.
    pub upstream_transport_failure: Option<&'a str>,
    /// How the upstream connection was found closed.
    pub upstream_close: Option<CloseType>,
    /// How the downstream connection was found closed.
    pub downstream_close: Option<CloseType>,
    /// The downstream connection's number.
    pub connection_id: u64,
    /// The request's own identifier.
    pub stream_id: Option<StreamId>,
    /// The route's name.
    pub route_name: Option<&'a str>,
    /// The filter chain's name.
    pub filter_chain_name: Option<&'a str>,
    /// The name asked for in TLS (SNI).
    pub requested_server_name: Option<&'a str>,
    /// The authority as received, when it was rewritten.
    pub original_authority: Option<&'a [u8]>,
    /// What was agreed with the client in TLS.
    pub downstream_tls: Option<&'a TlsSession>,
    /// What was agreed with the endpoint in TLS.
    pub upstream_tls: Option<&'a TlsSession>,
    /// Why TLS with the client failed after its handshake.
    pub downstream_transport_failure: Option<RecordError>,
    /// How a gRPC call ended; `None` for any other request.
    pub grpc_status: Option<GrpcStatus>,
    /// Whether the request was chosen to be traced.
    pub is_traced: bool,
    /// What kind of entry it is.
    pub log_type: LogType,
}

/// How a gRPC call ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GrpcStatus {
    /// With this code, which need not be one that gRPC knows.
    Code(u32),
    /// With something that is no code.
    Unreadable,
}

impl GrpcStatus {
    /// Reads the value of `grpc-status`.
    pub fn read(value: &[u8]) -> GrpcStatus {
        let code = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
        code.map_or(GrpcStatus::Unreadable, GrpcStatus::Code)
    }

    /// The code, if there is one.
    pub fn code(self) -> Option<u32> {
        match self {
            GrpcStatus::Code(code) => Some(code),
            GrpcStatus::Unreadable => None,
        }
    }
}

/// When things happened, in monotonic nanoseconds of one clock with any origin; 0 is "did not
/// happen".
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// First downstream byte in: the start.
    pub downstream_rx_begin: u64,
    /// Last downstream request byte in.
    pub downstream_rx_end: u64,
    /// Upstream connect begun.
    pub upstream_connect_begin: u64,
    /// Upstream connected.
    pub upstream_connect_end: u64,
    /// First request byte out upstream.
    pub upstream_tx_begin: u64,
    /// Last request byte out upstream.
    pub upstream_tx_end: u64,
    /// First response byte in from upstream.
    pub upstream_rx_begin: u64,
    /// Last response byte in from upstream.
    pub upstream_rx_end: u64,
    /// First response byte out downstream.
    pub downstream_tx_begin: u64,
    /// Last response byte out downstream.
    pub downstream_tx_end: u64,
    /// The end of the request or connection, which is also when it is logged.
    pub end: u64,
}

/// Bytes by direction and layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByteCounts {
    /// Body bytes from downstream (TCP: bytes).
    pub received: u64,
    /// Body bytes to downstream (TCP: bytes).
    pub sent: u64,
    /// Request header block as received.
    pub request_headers: u64,
    /// Response header block as sent.
    pub response_headers: u64,
    /// Response trailers as sent.
    pub response_trailers: u64,
    /// Upstream, sent: all bytes on the wire, and those of headers.
    pub upstream_wire_sent: u64,
    /// Upstream, received, on the wire.
    pub upstream_wire_received: u64,
    /// Upstream header bytes sent.
    pub upstream_header_sent: u64,
    /// Upstream header bytes received.
    pub upstream_header_received: u64,
    /// Downstream, sent, on the wire.
    pub downstream_wire_sent: u64,
    /// Downstream, received, on the wire.
    pub downstream_wire_received: u64,
    /// Downstream header bytes sent.
    pub downstream_header_sent: u64,
    /// Downstream header bytes received.
    pub downstream_header_received: u64,
}

/// An address as it is printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Address<'a> {
    /// IP address and port.
    Ip(SocketAddr),
    /// A Unix socket's path.
    Pipe(&'a str),
}

/// An HTTP version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// As Envoy prints it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Http10 => "HTTP/1.0",
            Protocol::Http11 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        }
    }
}

/// How a connection was found closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CloseType {
    /// By FIN.
    Normal,
    /// By our own reset.
    LocalReset,
    /// By the peer's reset.
    RemoteReset,
}

impl CloseType {
    /// As Envoy prints it.
    pub fn name(self) -> &'static str {
        match self {
            CloseType::Normal => "Normal",
            CloseType::LocalReset => "LocalReset",
            CloseType::RemoteReset => "RemoteReset",
        }
    }
}

/// A request's own identifier, printed as a UUID.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StreamId(pub u128);

/// `%ACCESS_LOG_TYPE%`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogType {
    /// The end of an HTTP request.
    #[default]
    DownstreamEnd,
    /// The end of a TCP connection.
    TcpConnectionEnd,
    /// A connection that no filter chain took.
    NotSet,
}

impl LogType {
    /// As Envoy prints it.
    pub fn name(self) -> &'static str {
        match self {
            LogType::DownstreamEnd => "DownstreamEnd",
            LogType::TcpConnectionEnd => "TcpConnectionEnd",
            LogType::NotSet => "NotSet",
        }
    }
}
