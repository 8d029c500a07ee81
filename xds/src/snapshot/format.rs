//! Format strings with operators, compiled: what access logs and header values are made of.
//!
//! Everything that can be known when the file is read (environment, host name) is already a literal.
//! A renderer walks [`Template::ops`] and writes each value, or `-` for a missing one (nothing with
//! `omit_empty_values`, and nothing in header values).

use super::headers::HeaderName;

/// Text with operators.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Template {
    /// Written one after the other. Never two literals in a row.
    pub ops: Box<[Op]>,
}

impl Template {
    /// The text, if there is no operator in it.
    #[must_use]
    pub fn as_literal(&self) -> Option<&str> {
        match &*self.ops {
            [] => Some(""),
            [Op::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

/// A JSON document with operators.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonNode {
    /// JSON text, ready to be copied.
    Literal(Box<str>),
    /// One operator alone: numbers stay numbers, a missing value is `null`.
    Value(Op),
    /// A string made of several parts; a missing part is `-`.
    Text(Template),
    /// Members in order. The key is JSON text, quotes included.
    Object(Box<[(Box<str>, JsonNode)]>),
    /// Elements.
    List(Box<[JsonNode]>),
}

impl JsonNode {
    pub(super) fn collect_ops<'a>(&'a self, ops: &mut Vec<&'a Op>) {
        match self {
            JsonNode::Literal(_) => {}
            JsonNode::Value(op) => ops.push(op),
            JsonNode::Text(template) => ops.extend(template.ops.iter()),
            JsonNode::Object(members) => {
                for (_, node) in members {
                    node.collect_ops(ops);
                }
            }
            JsonNode::List(nodes) => {
                for node in nodes {
                    node.collect_ops(ops);
                }
            }
        }
    }
}

/// One part of a format. The comment gives the operator; all are typed as text unless it says number.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Fixed text.
    Literal(Box<str>),
    /// Always a missing value: what this build can never know, such as QUIC retransmissions.
    Missing,
    /// `:Z` after an operator: at most `max_len` bytes of its text.
    Cut {
        /// The operator.
        op: Box<Op>,
        /// Bytes that are kept.
        max_len: u32,
    },

    /// START_TIME, START_TIME_LOCAL, EMIT_TIME.
    Time {
        /// Which moment.
        when: StartTime,
        /// In the host's time zone instead of UTC.
        local: bool,
        /// How it is written.
        format: Box<[TimePart]>,
    },
    /// TLS_VERSION, TLS_CIPHER, and what certificates say.
    Tls {
        /// Of which connection.
        side: CloseSide,
        /// What of it.
        value: TlsValue,
    },
    /// PEER_CERT_V_START, PEER_CERT_V_END; in UTC.
    CertificateTime {
        /// Of which connection.
        side: CloseSide,
        /// When it is over, instead of when it begins.
        end: bool,
        /// How it is written.
        format: Box<[TimePart]>,
    },
    /// DOWNSTREAM_TRANSPORT_FAILURE_REASON.
    DownstreamTransportFailureReason,
    /// DURATION and its relatives: milliseconds (number).
    Duration(DurationKind),
    /// COMMON_DURATION(from:to:unit) (number).
    CommonDuration {
        /// From this event.
        from: TimePoint,
        /// To this one.
        to: TimePoint,
        /// In this unit.
        unit: DurationUnit,
    },

    /// PROTOCOL.
    Protocol,
    /// UPSTREAM_PROTOCOL.
    UpstreamProtocol,
    /// REQ(name?alternative); pseudo headers included.
    Request {
        /// First choice.
        name: HeaderName,
        /// When `name` is absent.
        alternative: Option<HeaderName>,
    },
    /// REQ_WITHOUT_QUERY(name?alternative): cut at the first `?`.
    RequestWithoutQuery {
        /// First choice.
        name: HeaderName,
        /// When `name` is absent.
        alternative: Option<HeaderName>,
    },
    /// RESP(name?alternative).
    Response {
        /// First choice.
        name: HeaderName,
        /// When `name` is absent.
        alternative: Option<HeaderName>,
    },
    /// TRAILER(name?alternative).
    Trailer {
        /// First choice.
        name: HeaderName,
        /// When `name` is absent.
        alternative: Option<HeaderName>,
    },
    /// PATH(form:source).
    Path {
        /// With or without the query.
        form: PathForm,
        /// Which path.
        source: PathSource,
    },
    /// QUERY_PARAM(name): first value of the key, as it is written.
    QueryParam(Box<str>),
    /// QUERY_PARAMS(source): all that follows `?`.
    QueryParams(PathSource),

    /// RESPONSE_CODE (number); 0 when no response was sent.
    ResponseCode,
    /// RESPONSE_CODE_DETAILS.
    ResponseCodeDetails,
    /// CONNECTION_TERMINATION_DETAILS.
    ConnectionTerminationDetails,
    /// RESPONSE_FLAGS.
    ResponseFlags,
    /// RESPONSE_FLAGS_LONG.
    ResponseFlagsLong,
    /// GRPC_STATUS(form), GRPC_STATUS_NUMBER (number for that form).
    GrpcStatus(GrpcStatusForm),

    /// BYTES_RECEIVED: body bytes (number).
    BytesReceived,
    /// BYTES_SENT: body bytes (number).
    BytesSent,
    /// REQUEST_HEADERS_BYTES (number).
    RequestHeadersBytes,
    /// RESPONSE_HEADERS_BYTES (number).
    ResponseHeadersBytes,
    /// RESPONSE_TRAILERS_BYTES (number).
    ResponseTrailersBytes,
    /// UPSTREAM_WIRE_BYTES_SENT and its seven relatives (number).
    WireBytes(WireBytes),

    /// UPSTREAM_HOST.
    UpstreamHost,
    /// UPSTREAM_HOST_NAME, UPSTREAM_HOST_NAME_WITHOUT_PORT.
    UpstreamHostName {
        /// Leave `:port` away.
        without_port: bool,
    },
    /// UPSTREAM_CLUSTER: the cluster's `alt_stat_name`, if it has one.
    UpstreamCluster,
    /// UPSTREAM_CLUSTER_RAW: the cluster's name.
    UpstreamClusterRaw,
    /// UPSTREAM_REMOTE_ADDRESS and relatives.
    UpstreamRemoteAddress(AddressPart),
    /// UPSTREAM_LOCAL_ADDRESS and relatives.
    UpstreamLocalAddress(AddressPart),
    /// UPSTREAM_CONNECTION_ID (number).
    UpstreamConnectionId,
    /// UPSTREAM_REQUEST_ATTEMPT_COUNT (number).
    UpstreamRequestAttemptCount,
    /// UPSTREAM_TRANSPORT_FAILURE_REASON.
    UpstreamTransportFailureReason,
    /// UPSTREAM_DETECTED_CLOSE_TYPE, DOWNSTREAM_DETECTED_CLOSE_TYPE.
    DetectedCloseType(CloseSide),
    /// DOWNSTREAM_REMOTE_ADDRESS and relatives: the client, after x-forwarded-for.
    DownstreamRemoteAddress(AddressPart),
    /// DOWNSTREAM_DIRECT_REMOTE_ADDRESS and relatives: the socket's peer.
    DownstreamDirectRemoteAddress(AddressPart),
    /// DOWNSTREAM_LOCAL_ADDRESS and relatives.
    DownstreamLocalAddress(AddressPart),
    /// DOWNSTREAM_DIRECT_LOCAL_ADDRESS and relatives.
    DownstreamDirectLocalAddress(AddressPart),

    /// CONNECTION_ID (number).
    ConnectionId,
    /// STREAM_ID.
    StreamId,
    /// UNIQUE_ID: a random UUID.
    UniqueId,
    /// FILTER_CHAIN_NAME.
    FilterChainName,
    /// ROUTE_NAME.
    RouteName,
    /// ACCESS_LOG_TYPE: `DownstreamEnd` or `TcpConnectionEnd`.
    AccessLogType,
    /// REQUESTED_SERVER_NAME(source:ORIG).
    RequestedServerName {
        /// Where it is taken from.
        source: HostSource,
        /// The authority before any rewrite.
        original: bool,
    },
}

/// Which moment is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTime {
    /// First byte of the request, or accept of the connection.
    Start,
    /// When the record is written.
    Emit,
}

/// A part of a time format; the strftime conversion is named in each comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimePart {
    /// Fixed text.
    Literal(Box<str>),
    /// `%Y`.
    Year,
    /// `%y`, two digits.
    YearOfCentury,
    /// `%C`, two digits.
    Century,
    /// `%m`, two digits.
    Month,
    /// `%b`, `%h`: `Jan`.
    MonthShort,
    /// `%B`: `January`.
    MonthLong,
    /// `%d`, two digits.
    Day,
    /// `%e`, padded with a space.
    DaySpaced,
    /// `%j`, three digits.
    DayOfYear,
    /// `%a`: `Mon`.
    WeekdayShort,
    /// `%A`: `Monday`.
    WeekdayLong,
    /// `%u`: Monday is 1.
    WeekdayFromMonday,
    /// `%w`: Sunday is 0.
    WeekdayFromSunday,
    /// `%H`, two digits.
    Hour,
    /// `%I`, two digits, 01 to 12.
    Hour12,
    /// `%p`: `AM`.
    AmPm,
    /// `%M`, two digits.
    Minute,
    /// `%S`, two digits.
    Second,
    /// `%f` (nine digits), `%3f` and so on: fraction of a second, cut to so many digits (1..=9).
    Fraction(u8),
    /// `%s`: seconds since the epoch.
    EpochSeconds,
    /// `%E*S`: seconds with as many digits of fraction as are needed.
    SecondFull,
    /// `%z`: `+0100`.
    ZoneOffset,
    /// `%Ez`, `%:z`: `+01:00`.
    ZoneOffsetColon,
    /// `%Z`: `UTC`.
    ZoneName,
}

/// Which duration; each from the start of the request, or of the TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DurationKind {
    /// DURATION: to the end of the response.
    Total,
    /// REQUEST_DURATION: to the last byte of the request from downstream.
    Request,
    /// REQUEST_TX_DURATION: to the last byte of the request sent upstream.
    RequestTx,
    /// RESPONSE_DURATION: to the first byte of the response from upstream.
    Response,
    /// RESPONSE_TX_DURATION: from the first byte of the response from upstream to the last byte sent
    /// downstream.
    ResponseTx,
}

/// An event of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimePoint {
    /// DS_RX_BEG: first byte from downstream.
    DownstreamReceiveBegin,
    /// DS_RX_END: last byte from downstream.
    DownstreamReceiveEnd,
    /// US_CX_BEG: connect started.
    UpstreamConnectBegin,
    /// US_CX_END: connected.
    UpstreamConnectEnd,
    /// US_TX_BEG: first byte sent upstream.
    UpstreamSendBegin,
    /// US_TX_END: last byte sent upstream.
    UpstreamSendEnd,
    /// US_RX_BEG: first byte from upstream.
    UpstreamReceiveBegin,
    /// US_RX_END: last byte from upstream.
    UpstreamReceiveEnd,
    /// DS_TX_BEG: first byte sent downstream.
    DownstreamSendBegin,
    /// DS_TX_END: last byte sent downstream.
    DownstreamSendEnd,
}

/// Unit of COMMON_DURATION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DurationUnit {
    /// ms.
    Milliseconds,
    /// us.
    Microseconds,
    /// ns.
    Nanoseconds,
}

/// With or without the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathForm {
    /// WQ.
    WithQuery,
    /// NQ.
    NoQuery,
}

/// Which path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathSource {
    /// ORIG: `x-envoy-original-path`.
    Original,
    /// PATH (RAW for QUERY_PARAMS): `:path`.
    Path,
    /// ORIG_OR_PATH.
    OriginalOrPath,
}

/// How a gRPC status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcStatusForm {
    /// `NotFound`.
    CamelString,
    /// `NOT_FOUND`.
    SnakeString,
    /// `5`.
    Number,
}

/// Which codec-level byte counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireBytes {
    /// Upstream connection instead of the downstream one.
    pub upstream: bool,
    /// Sent instead of received.
    pub sent: bool,
    /// Headers only.
    pub headers_only: bool,
}

/// Which part of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPart {
    /// Address and port.
    Whole,
    /// Address, without port.
    WithoutPort {
        /// Keep this many leading bits and write `address/bits`.
        mask: Option<u8>,
    },
    /// Port (number).
    Port,
}

/// Whose close is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseSide {
    /// The upstream connection's.
    Upstream,
    /// The downstream connection's.
    Downstream,
}

/// What is told of a TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsValue {
    /// TLS_VERSION.
    Version,
    /// TLS_CIPHER.
    Cipher,
    /// TLS_GROUP.
    Group,
    /// Of the peer's certificate.
    Peer(CertificateField),
    /// Of our own certificate.
    Local(CertificateField),
}

/// What is told of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateField {
    /// SUBJECT.
    Subject,
    /// ISSUER.
    Issuer,
    /// SERIAL.
    Serial,
    /// FINGERPRINT_256.
    Fingerprint256,
    /// FINGERPRINT_1.
    Fingerprint1,
    /// CERT: URL-encoded PEM.
    Pem,
    /// URI_SAN.
    UriSans,
    /// DNS_SAN.
    DnsSans,
    /// IP_SAN.
    IpSans,
    /// EMAIL_SAN.
    EmailSans,
    /// CHAIN_FINGERPRINTS_256.
    ChainFingerprints256,
    /// CHAIN_FINGERPRINTS_1.
    ChainFingerprints1,
    /// CHAIN_SERIALS.
    ChainSerials,
}

/// Where REQUESTED_SERVER_NAME is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostSource {
    /// Server name indication.
    SniOnly,
    /// Server name indication, else the authority.
    SniFirst,
    /// The authority, else server name indication.
    HostFirst,
}

const ORIGINAL_PATH: &str = "x-envoy-original-path";
const PATH: &str = ":path";
const AUTHORITY: &str = ":authority";

impl Op {
    /// Request headers the operator reads.
    pub fn request_headers(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self.inner() {
            Op::Request { name, alternative } | Op::RequestWithoutQuery { name, alternative } => {
                (Some(name.as_str()), alternative.as_deref())
            }
            Op::Path { source, .. } | Op::QueryParams(source) => match source {
                PathSource::Original => (Some(ORIGINAL_PATH), None),
                PathSource::Path => (Some(PATH), None),
                PathSource::OriginalOrPath => (Some(ORIGINAL_PATH), Some(PATH)),
            },
            Op::QueryParam(_) => (Some(PATH), None),
            Op::RequestedServerName { .. } => (Some(AUTHORITY), None),
            _ => (None, None),
        };
        first.into_iter().chain(second)
    }

    /// Response headers the operator reads.
    pub fn response_headers(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self.inner() {
            Op::Response { name, alternative } => (Some(name.as_str()), alternative.as_deref()),
            Op::GrpcStatus(_) => (Some("grpc-status"), None),
            _ => (None, None),
        };
        first.into_iter().chain(second)
    }

    /// Response trailers the operator reads.
    pub fn response_trailers(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self.inner() {
            Op::Trailer { name, alternative } => (Some(name.as_str()), alternative.as_deref()),
            Op::GrpcStatus(_) => (Some("grpc-status"), None),
            _ => (None, None),
        };
        first.into_iter().chain(second)
    }

    fn inner(&self) -> &Op {
        match self {
            Op::Cut { op, .. } => op.inner(),
            op => op,
        }
    }
}
