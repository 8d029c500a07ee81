//! Format strings of access logs and headers (contract section 15), operator by operator.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use common::*;
use outrigger_xds::snapshot::access_log::{Body, Format};
use outrigger_xds::snapshot::*;
use serde_json::json;

fn compile(text: &str) -> Result<Format, String> {
    let log = any_with(
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        json!({ "log_format": { "text_format": text } }),
    );
    let pointer = format!("{HCM}/access_log");
    match load_json(&set(&http(), &pointer, json!([{ "name": "l", "typed_config": log }]))) {
        Ok(loaded) => Ok(hcm(&loaded).access_log[0].format.clone()),
        Err(error) => Err(without_places(&error)),
    }
}

#[track_caller]
fn ops(text: &str) -> Vec<Op> {
    let format = compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    match format.body {
        Body::Text(template) => template.ops.into(),
        Body::Json(_) => panic!(),
    }
}

#[track_caller]
fn op(text: &str) -> Op {
    let mut ops = ops(text);
    assert_eq!(ops.len(), 1, "{text}: {ops:?}");
    ops.remove(0)
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let at = format!(
        "Listener web: {HCM_PATH}.access_log[0].typed_config(StdoutAccessLog).log_format.text_format: "
    );
    assert_eq!(compile(text).unwrap_err(), format!("{at}{expected}"));
}

fn name(text: &str) -> HeaderName {
    HeaderName::new(text)
}

#[test]
fn plain_operators() {
    let wire =
        |upstream, sent, headers_only| Op::WireBytes(WireBytes { upstream, sent, headers_only });
    for (text, expected) in [
        ("PROTOCOL", Op::Protocol),
        ("UPSTREAM_PROTOCOL", Op::UpstreamProtocol),
        ("RESPONSE_CODE", Op::ResponseCode),
        ("RESPONSE_CODE_DETAILS", Op::ResponseCodeDetails),
        ("CONNECTION_TERMINATION_DETAILS", Op::ConnectionTerminationDetails),
        ("RESPONSE_FLAGS", Op::ResponseFlags),
        ("RESPONSE_FLAGS_LONG", Op::ResponseFlagsLong),
        ("GRPC_STATUS", Op::GrpcStatus(GrpcStatusForm::CamelString)),
        ("GRPC_STATUS(SNAKE_STRING)", Op::GrpcStatus(GrpcStatusForm::SnakeString)),
        ("GRPC_STATUS(NUMBER)", Op::GrpcStatus(GrpcStatusForm::Number)),
        ("GRPC_STATUS_NUMBER", Op::GrpcStatus(GrpcStatusForm::Number)),
        ("BYTES_RECEIVED", Op::BytesReceived),
        ("BYTES_SENT", Op::BytesSent),
        ("REQUEST_HEADERS_BYTES", Op::RequestHeadersBytes),
        ("RESPONSE_HEADERS_BYTES", Op::ResponseHeadersBytes),
        ("RESPONSE_TRAILERS_BYTES", Op::ResponseTrailersBytes),
        ("UPSTREAM_WIRE_BYTES_SENT", wire(true, true, false)),
        ("UPSTREAM_WIRE_BYTES_RECEIVED", wire(true, false, false)),
        ("UPSTREAM_HEADER_BYTES_SENT", wire(true, true, true)),
        ("UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", wire(true, false, true)),
        ("DOWNSTREAM_WIRE_BYTES_SENT", wire(false, true, false)),
        ("DOWNSTREAM_WIRE_BYTES_RECEIVED", wire(false, false, false)),
        ("DOWNSTREAM_HEADER_BYTES_RECEIVED", wire(false, false, true)),
        ("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", wire(false, true, true)),
        ("BYTES_RETRANSMITTED", Op::Missing),
        ("DURATION", Op::Duration(DurationKind::Total)),
        ("REQUEST_DURATION", Op::Duration(DurationKind::Request)),
        ("REQUEST_TX_DURATION", Op::Duration(DurationKind::RequestTx)),
        ("RESPONSE_DURATION", Op::Duration(DurationKind::Response)),
        ("RESPONSE_TX_DURATION", Op::Duration(DurationKind::ResponseTx)),
        ("UPSTREAM_HOST", Op::UpstreamHost),
        ("UPSTREAM_HOST_NAME", Op::UpstreamHostName { without_port: false }),
        ("UPSTREAM_HOST_NAME_WITHOUT_PORT", Op::UpstreamHostName { without_port: true }),
        ("UPSTREAM_CLUSTER", Op::UpstreamCluster),
        ("UPSTREAM_CLUSTER_RAW", Op::UpstreamClusterRaw),
        ("UPSTREAM_CONNECTION_ID", Op::UpstreamConnectionId),
        ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Op::UpstreamRequestAttemptCount),
        ("UPSTREAM_TRANSPORT_FAILURE_REASON", Op::UpstreamTransportFailureReason),
        ("UPSTREAM_DETECTED_CLOSE_TYPE", Op::DetectedCloseType(CloseSide::Upstream)),
        ("DOWNSTREAM_DETECTED_CLOSE_TYPE", Op::DetectedCloseType(CloseSide::Downstream)),
        ("CONNECTION_ID", Op::ConnectionId),
        ("STREAM_ID", Op::StreamId),
        ("UNIQUE_ID", Op::UniqueId),
        ("FILTER_CHAIN_NAME", Op::FilterChainName),
        ("ROUTE_NAME", Op::RouteName),
        ("ACCESS_LOG_TYPE", Op::AccessLogType),
        ("VIRTUAL_CLUSTER_NAME", Op::Missing),
        ("CUSTOM_FLAGS", Op::Missing),
    ] {
        assert_eq!(op(&format!("%{text}%")), expected, "{text}");
    }
}

#[test]
fn addresses() {
    use AddressPart::{Port, Whole, WithoutPort};
    for (base, make) in [
        ("UPSTREAM_REMOTE", Op::UpstreamRemoteAddress as fn(AddressPart) -> Op),
        ("UPSTREAM_LOCAL", Op::UpstreamLocalAddress),
        ("DOWNSTREAM_REMOTE", Op::DownstreamRemoteAddress),
        ("DOWNSTREAM_DIRECT_REMOTE", Op::DownstreamDirectRemoteAddress),
        ("DOWNSTREAM_LOCAL", Op::DownstreamLocalAddress),
        ("DOWNSTREAM_DIRECT_LOCAL", Op::DownstreamDirectLocalAddress),
    ] {
        assert_eq!(op(&format!("%{base}_ADDRESS%")), make(Whole));
        assert_eq!(op(&format!("%{base}_PORT%")), make(Port));
        assert_eq!(op(&format!("%{base}_ADDRESS_WITHOUT_PORT%")), make(WithoutPort { mask: None }));
        assert_eq!(
            op(&format!("%{base}_ADDRESS_WITHOUT_PORT(24)%")),
            make(WithoutPort { mask: Some(24) })
        );
    }
    refused(
        "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(129)%",
        "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(129)%: must be a number of bits",
    );
}

#[test]
fn headers_with_alternatives_and_lengths() {
    let request = Op::Request { name: name("x-a"), alternative: None };
    assert_eq!(op("%REQ(X-A)%"), request);
    assert_eq!(op("%REQ(X-A):10%"), Op::Cut { op: Box::new(request), max_len: 10 });
    assert_eq!(
        op("%REQ(X-A?:PATH)%"),
        Op::Request { name: name("x-a"), alternative: Some(name(":path")) }
    );
    assert_eq!(op("%RESP(A)%"), Op::Response { name: name("a"), alternative: None });
    assert_eq!(op("%TRAILER(A?B)%"), Op::Trailer { name: name("a"), alternative: Some(name("b")) });
    assert_eq!(
        op("%REQ_WITHOUT_QUERY(:PATH)%"),
        Op::RequestWithoutQuery { name: name(":path"), alternative: None }
    );
    refused("%REQ(A?B?C)%", "%REQ% takes one alternative");
    refused("%REQ()%", "\"\" is not a header name");
    refused("%REQ%", "\"\" is not a header name");
    let format = compile("%REQ(B)% %REQ(A?B):3% %RESP(C)% %TRAILER(D)% %GRPC_STATUS%").unwrap();
    assert_eq!(format.request_headers(), ["a", "b"]);
    assert_eq!(format.response_headers(), ["c", "grpc-status"]);
    assert_eq!(format.response_trailers(), ["d", "grpc-status"]);
}

#[test]
fn paths_and_queries() {
    let path = |form, source| Op::Path { form, source };
    assert_eq!(op("%PATH%"), path(PathForm::WithQuery, PathSource::OriginalOrPath));
    assert_eq!(op("%PATH(NQ)%"), path(PathForm::NoQuery, PathSource::OriginalOrPath));
    assert_eq!(op("%PATH(WQ:ORIG)%"), path(PathForm::WithQuery, PathSource::Original));
    assert_eq!(op("%PATH(NQ:PATH)%"), path(PathForm::NoQuery, PathSource::Path));
    assert_eq!(op("%QUERY_PARAM(k)%"), Op::QueryParam("k".into()));
    assert_eq!(op("%QUERY_PARAMS%"), Op::QueryParams(PathSource::OriginalOrPath));
    assert_eq!(op("%QUERY_PARAMS(RAW)%"), Op::QueryParams(PathSource::Path));
    refused("%PATH(XX)%", "%PATH(XX)%: the first part must be WQ or NQ");
    refused("%PATH(NQ:X)%", "%PATH(NQ:X)%: the second part must be ORIG, PATH or ORIG_OR_PATH");
    refused("%QUERY_PARAM%", "%QUERY_PARAM()%: needs an argument");
    refused("%QUERY_PARAMS(x)%", "%QUERY_PARAMS(x)%: must be ORIG or RAW");
}

#[test]
fn times() {
    use TimePart as P;
    let literal = |text: &str| P::Literal(text.into());
    let parts = |text: &str| match op(text) {
        Op::Time { format, .. } => Vec::from(format),
        other => panic!("{other:?}"),
    };
    let iso = [
        P::Year,
        literal("-"),
        P::Month,
        literal("-"),
        P::Day,
        literal("T"),
        P::Hour,
        literal(":"),
        P::Minute,
        literal(":"),
        P::Second,
        literal("."),
        P::Fraction(3),
        literal("Z"),
    ];
    assert_eq!(parts("%START_TIME%"), iso);
    assert_eq!(parts("%EMIT_TIME%"), iso);
    assert!(matches!(op("%EMIT_TIME%"), Op::Time { when: StartTime::Emit, local: false, .. }));
    assert!(matches!(
        op("%START_TIME_LOCAL(%z)%"),
        Op::Time { when: StartTime::Start, local: true, .. }
    ));
    assert_eq!(parts("%START_TIME(%s.%3f)%"), [P::EpochSeconds, literal("."), P::Fraction(3)]);
    assert_eq!(
        parts("%START_TIME(%f %9f %E6S)%")[..3],
        [P::Fraction(9), literal(" "), P::Fraction(9)]
    );
    assert_eq!(
        parts("%START_TIME(%a, %d %b %Y %T %Z)%"),
        [
            P::WeekdayShort,
            literal(", "),
            P::Day,
            literal(" "),
            P::MonthShort,
            literal(" "),
            P::Year,
            literal(" "),
            P::Hour,
            literal(":"),
            P::Minute,
            literal(":"),
            P::Second,
            literal(" "),
            P::ZoneName,
        ]
    );
    for (conversion, part) in [
        ("y", P::YearOfCentury),
        ("C", P::Century),
        ("h", P::MonthShort),
        ("B", P::MonthLong),
        ("e", P::DaySpaced),
        ("j", P::DayOfYear),
        ("A", P::WeekdayLong),
        ("u", P::WeekdayFromMonday),
        ("w", P::WeekdayFromSunday),
        ("I", P::Hour12),
        ("p", P::AmPm),
        ("E*S", P::SecondFull),
        ("E*f", P::Fraction(9)),
        ("E4f", P::Fraction(4)),
        ("Ez", P::ZoneOffsetColon),
        (":z", P::ZoneOffsetColon),
    ] {
        assert_eq!(parts(&format!("%START_TIME(%{conversion})%")), [part], "{conversion}");
    }
    assert_eq!(parts("%START_TIME(a%%b)%"), [literal("a%b")]);
    refused("%START_TIME(%Q)%", "%START_TIME%: \"%Q\" is not a time conversion");
    refused("%START_TIME(%)%", "%START_TIME%: \"%\" is not a time conversion");
    refused("%START_TIME(%0f)%", "%START_TIME%: \"%0f\" is not a time conversion");
}

#[test]
fn durations_between_points() {
    assert_eq!(
        op("%COMMON_DURATION(DS_RX_BEG:US_TX_END:us)%"),
        Op::CommonDuration {
            from: TimePoint::DownstreamReceiveBegin,
            to: TimePoint::UpstreamSendEnd,
            unit: DurationUnit::Microseconds,
        }
    );
    assert!(matches!(
        op("%COMMON_DURATION(US_RX_BEG:DS_TX_BEG)%"),
        Op::CommonDuration { unit: DurationUnit::Milliseconds, .. }
    ));
    refused("%COMMON_DURATION(A:B)%", "%COMMON_DURATION(A:B)%: \"A\" is unknown");
    refused(
        "%COMMON_DURATION(DS_RX_BEG:DS_RX_END:s)%",
        "%COMMON_DURATION(DS_RX_BEG:DS_RX_END:s)%: \"s\" is unknown",
    );
    refused("%COMMON_DURATION%", "%COMMON_DURATION()%: \"\" is unknown");
}

#[test]
fn what_is_known_at_load_is_literal() {
    assert_eq!(op("[%ENVIRONMENT(CARGO_PKG_NAME)%]"), Op::Literal("[outrigger-xds]".into()));
    assert_eq!(op("%ENVIRONMENT(CARGO_PKG_NAME):3%"), Op::Literal("out".into()));
    assert_eq!(op("%ENVIRONMENT(OUTRIGGER_NO_SUCH_VARIABLE)%"), Op::Missing);
    assert!(matches!(op("%HOSTNAME%"), Op::Literal(_)));
    assert_eq!(op("100%%"), Op::Literal("100%".into()));
    assert_eq!(ops(""), []);
    assert_eq!(ops("a%PROTOCOL%b").len(), 3);
}

#[test]
fn requested_server_name() {
    let of = |source, original| Op::RequestedServerName { source, original };
    assert_eq!(op("%REQUESTED_SERVER_NAME%"), of(HostSource::SniOnly, false));
    assert_eq!(op("%REQUESTED_SERVER_NAME(HOST_FIRST:ORIG)%"), of(HostSource::HostFirst, true));
    assert_eq!(op("%REQUESTED_SERVER_NAME(SNI_FIRST)%"), of(HostSource::SniFirst, false));
    refused(
        "%REQUESTED_SERVER_NAME(X)%",
        "%REQUESTED_SERVER_NAME(X)%: must be SNI_ONLY, SNI_FIRST or HOST_FIRST",
    );
}

/// 15: operators of TLS.
#[test]
fn tls_operators_name_a_side_and_a_value() {
    use outrigger_xds::snapshot::{CertificateField, CloseSide, TlsValue};
    for (text, side, value) in [
        ("DOWNSTREAM_TLS_VERSION", CloseSide::Downstream, TlsValue::Version),
        ("UPSTREAM_TLS_CIPHER", CloseSide::Upstream, TlsValue::Cipher),
        (
            "DOWNSTREAM_PEER_SUBJECT",
            CloseSide::Downstream,
            TlsValue::Peer(CertificateField::Subject),
        ),
        (
            "DOWNSTREAM_LOCAL_URI_SAN",
            CloseSide::Downstream,
            TlsValue::Local(CertificateField::UriSans),
        ),
        ("UPSTREAM_PEER_DNS_SAN", CloseSide::Upstream, TlsValue::Peer(CertificateField::DnsSans)),
    ] {
        assert_eq!(op(&format!("%{text}%")), Op::Tls { side, value }, "{text}");
    }
    assert_eq!(op("%DOWNSTREAM_TLS_SESSION_ID%"), Op::Missing);
    let Op::CertificateTime { side: CloseSide::Upstream, end: true, format } =
        op("%UPSTREAM_PEER_CERT_V_END(%s)%")
    else {
        panic!()
    };
    assert_eq!(format.len(), 1);
}

#[test]
fn what_needs_more_than_we_have_is_refused_by_name_and_what_is_unknown_is_an_error() {
    for operator in [
        "DYNAMIC_METADATA(a:b)",
        "FILTER_STATE(a)",
        "UPSTREAM_METADATA(a)",
        "CLUSTER_METADATA(a)",
        "TRACE_ID",
        "SPAN_ID",
        "DOWNSTREAM_PEER_OTHERNAME_SAN",
        "UPSTREAM_LOCAL_SUBJECT",
        "TLS_JA3_FINGERPRINT",
        "CEL(a)",
        "DOWNSTREAM_HANDSHAKE_DURATION",
    ] {
        let name = operator.split('(').next().unwrap();
        refused(&format!("%{operator}%"), &format!("operator %{name}% is not supported"));
    }
    refused("%NO_SUCH%", "there is no operator %NO_SUCH%");
    refused("%PROTOCOL(x)%", "%PROTOCOL% takes no argument");
    refused("100% sure", "\" sure\" is not an operator; a percent sign is %%");
    refused("%PROTOCOL", "\"PROTOCOL\" is not an operator; a percent sign is %%");
    refused("%REQ(a", "\"REQ(a\" is not an operator; a percent sign is %%");
    refused("%REQ(a):x%", "\"REQ(a):x%\" is not an operator; a percent sign is %%");
    refused("%", "\"\" is not an operator; a percent sign is %%");
}
