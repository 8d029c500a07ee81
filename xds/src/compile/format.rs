//! The format strings of access logs and header values (contract section 15).

use serde_json::Value as Json;

use crate::compile::headers::header_name;
use crate::fault::{Found, Problem, Trail};
use crate::snapshot::{
    AddressPart, CertificateField, CloseSide, DurationKind, DurationUnit, GrpcStatusForm,
    HeaderName, HostSource, JsonNode, Op, PathForm, PathSource, StartTime, Template, TimePart,
    TimePoint, TlsValue, WireBytes,
};

/// Compiles text with `%OPERATORS%`; `at` is for complaints.
pub(crate) fn template(text: &str, at: &Trail) -> Result<Template, Found> {
    let mut ops = Ops::default();
    let mut rest = text;
    while let Some(percent) = rest.find('%') {
        ops.literal(&rest[..percent]);
        rest = &rest[percent + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            ops.literal("%");
            rest = after;
            continue;
        }
        let (operator, after) = Operator::parse(rest).ok_or_else(|| {
            invalid(at, format!("{:?} is not an operator; a percent sign is %%", head(rest)))
        })?;
        ops.push(operator.compile(at)?);
        rest = after;
    }
    ops.literal(rest);
    Ok(Template { ops: ops.done.into() })
}

/// Whether a JSON value that is one operator keeps its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonValues {
    Typed,
    Text,
}

/// Compiles a JSON document whose strings hold operators. Members come out sorted by key.
pub(crate) fn json(value: &Json, values: JsonValues, at: &Trail) -> Result<JsonNode, Found> {
    Ok(match value {
        Json::Object(members) => {
            let members = members.iter().map(|(key, value)| {
                Ok((Json::from(key.as_str()).to_string().into(), json(value, values, at)?))
            });
            JsonNode::Object(members.collect::<Result<_, Found>>()?)
        }
        Json::Array(items) => {
            let items = items.iter().map(|item| json(item, values, at));
            JsonNode::List(items.collect::<Result<_, Found>>()?)
        }
        Json::String(text) => {
            let template = template(text, at)?;
            match (template.as_literal(), &*template.ops) {
                (Some(text), _) => JsonNode::Literal(Json::from(text).to_string().into()),
                (None, [op]) if values == JsonValues::Typed => JsonNode::Value(op.clone()),
                _ => JsonNode::Text(template),
            }
        }
        // A Struct keeps all numbers as floating point.
        Json::Number(number) => JsonNode::Literal(match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => {
                (float as i64).to_string().into()
            }
            _ => number.to_string().into(),
        }),
        literal => JsonNode::Literal(literal.to_string().into()),
    })
}

#[derive(Default)]
struct Ops {
    done: Vec<Op>,
}

impl Ops {
    fn push(&mut self, op: Op) {
        match op {
            Op::Literal(text) => self.literal(&text),
            op => self.done.push(op),
        }
    }

    fn literal(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if let Some(Op::Literal(last)) = self.done.last_mut() {
            *last = format!("{last}{text}").into();
        } else {
            self.done.push(Op::Literal(text.into()));
        }
    }
}

/// `NAME(argument):length`.
#[derive(Debug, Clone, Copy)]
struct Operator<'a> {
    name: &'a str,
    argument: Option<&'a str>,
    length: Option<u32>,
}

impl<'a> Operator<'a> {
    /// Reads up to the closing percent sign, and returns what follows it.
    fn parse(text: &'a str) -> Option<(Operator<'a>, &'a str)> {
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let name_end = text.find(|c| !is_name(c)).filter(|end| *end > 0)?;
        let (name, mut rest) = text.split_at(name_end);
        let mut argument = None;
        if let Some(inside) = rest.strip_prefix('(') {
            let (text, after) = inside.split_once(')')?;
            argument = Some(text);
            rest = after;
        }
        let mut length = None;
        if let Some(inside) = rest.strip_prefix(':') {
            let (digits, _) = inside.split_once('%')?;
            length = Some(digits.parse().ok()?);
            rest = &inside[digits.len()..];
        }
        let after = rest.strip_prefix('%')?;
        Some((Operator { name, argument, length }, after))
    }

    fn compile(self, at: &Trail) -> Result<Op, Found> {
        let op = self.value(at)?;
        Ok(match (op, self.length) {
            (op, None) => op,
            (Op::Literal(text), Some(max_len)) => {
                let end = text.floor_char_boundary(text.len().min(max_len as usize));
                Op::Literal(text[..end].into())
            }
            (op, Some(max_len)) => Op::Cut { op: Box::new(op), max_len },
        })
    }

    fn value(self, at: &Trail) -> Result<Op, Found> {
        if let Some(op) = self.with_argument(at)? {
            return Ok(op);
        }
        let Some(op) = self.without_argument() else {
            let name = self.name;
            return Err(
                if NEED_MORE.contains(&name) || name.contains("_PEER_") || name.contains("_SAN") {
                    Found::new(at.clone(), Problem::UnsupportedValue(format!("operator %{name}%")))
                } else {
                    invalid(at, format!("there is no operator %{name}%"))
                },
            );
        };
        match self.argument {
            Some(_) => Err(invalid(at, format!("%{}% takes no argument", self.name))),
            None => Ok(op),
        }
    }

    fn without_argument(self) -> Option<Op> {
        let wire = |upstream, sent, headers_only| {
            Op::WireBytes(WireBytes { upstream, sent, headers_only })
        };
        Some(match self.name {
            "PROTOCOL" => Op::Protocol,
            "UPSTREAM_PROTOCOL" => Op::UpstreamProtocol,
            "RESPONSE_CODE" => Op::ResponseCode,
            "RESPONSE_CODE_DETAILS" => Op::ResponseCodeDetails,
            "CONNECTION_TERMINATION_DETAILS" => Op::ConnectionTerminationDetails,
            "RESPONSE_FLAGS" => Op::ResponseFlags,
            "RESPONSE_FLAGS_LONG" => Op::ResponseFlagsLong,
            "GRPC_STATUS_NUMBER" => Op::GrpcStatus(GrpcStatusForm::Number),
            "BYTES_RECEIVED" => Op::BytesReceived,
            "BYTES_SENT" => Op::BytesSent,
            "REQUEST_HEADERS_BYTES" => Op::RequestHeadersBytes,
            "RESPONSE_HEADERS_BYTES" => Op::ResponseHeadersBytes,
            "RESPONSE_TRAILERS_BYTES" => Op::ResponseTrailersBytes,
            "UPSTREAM_WIRE_BYTES_SENT" => wire(true, true, false),
            "UPSTREAM_WIRE_BYTES_RECEIVED" => wire(true, false, false),
            "UPSTREAM_HEADER_BYTES_SENT" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
                wire(true, true, true)
            }
            "UPSTREAM_HEADER_BYTES_RECEIVED" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
                wire(true, false, true)
            }
            "DOWNSTREAM_WIRE_BYTES_SENT" => wire(false, true, false),
            "DOWNSTREAM_WIRE_BYTES_RECEIVED" => wire(false, false, false),
            "DOWNSTREAM_HEADER_BYTES_SENT" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
                wire(false, true, true)
            }
            "DOWNSTREAM_HEADER_BYTES_RECEIVED"
            | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => wire(false, false, true),
            "DURATION" => Op::Duration(DurationKind::Total),
            "REQUEST_DURATION" => Op::Duration(DurationKind::Request),
            "REQUEST_TX_DURATION" => Op::Duration(DurationKind::RequestTx),
            "RESPONSE_DURATION" => Op::Duration(DurationKind::Response),
            "RESPONSE_TX_DURATION" => Op::Duration(DurationKind::ResponseTx),
            // QUIC only; virtual clusters and custom flags are never configured.
            "BYTES_RETRANSMITTED"
            | "PACKETS_RETRANSMITTED"
            | "ROUNDTRIP_DURATION"
            | "VIRTUAL_CLUSTER_NAME"
            | "CUSTOM_FLAGS" => Op::Missing,
            "UPSTREAM_HOST" => Op::UpstreamHost,
            "UPSTREAM_HOST_NAME" => Op::UpstreamHostName { without_port: false },
            "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Op::UpstreamHostName { without_port: true },
            "UPSTREAM_CLUSTER" => Op::UpstreamCluster,
            "UPSTREAM_CLUSTER_RAW" => Op::UpstreamClusterRaw,
            "UPSTREAM_CONNECTION_ID" => Op::UpstreamConnectionId,
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Op::UpstreamRequestAttemptCount,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Op::UpstreamTransportFailureReason,
            "UPSTREAM_DETECTED_CLOSE_TYPE" => Op::DetectedCloseType(CloseSide::Upstream),
            "DOWNSTREAM_DETECTED_CLOSE_TYPE" => Op::DetectedCloseType(CloseSide::Downstream),
            "CONNECTION_ID" => Op::ConnectionId,
            "STREAM_ID" => Op::StreamId,
            "UNIQUE_ID" => Op::UniqueId,
            "HOSTNAME" => Op::Literal(host_name()),
            "FILTER_CHAIN_NAME" => Op::FilterChainName,
            "ROUTE_NAME" => Op::RouteName,
            "ACCESS_LOG_TYPE" => Op::AccessLogType,
            "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Op::DownstreamTransportFailureReason,
            // The library does not tell session ids.
            "DOWNSTREAM_TLS_SESSION_ID" | "UPSTREAM_TLS_SESSION_ID" => Op::Missing,
            _ => return self.tls().or_else(|| self.address()),
        })
    }

    /// `DOWNSTREAM_TLS_VERSION`, `DOWNSTREAM_PEER_SUBJECT` and their like: of upstream there are fewer.
    fn tls(self) -> Option<Op> {
        use CertificateField as Field;
        let (side, name) = match self.name.strip_prefix("DOWNSTREAM_") {
            Some(name) => (CloseSide::Downstream, name),
            None => (CloseSide::Upstream, self.name.strip_prefix("UPSTREAM_")?),
        };
        let downstream = side == CloseSide::Downstream;
        let value = match name {
            "TLS_VERSION" => TlsValue::Version,
            "TLS_CIPHER" => TlsValue::Cipher,
            "TLS_GROUP" => TlsValue::Group,
            "PEER_SUBJECT" => TlsValue::Peer(Field::Subject),
            "PEER_ISSUER" => TlsValue::Peer(Field::Issuer),
            "PEER_CERT" => TlsValue::Peer(Field::Pem),
            "PEER_URI_SAN" => TlsValue::Peer(Field::UriSans),
            "PEER_DNS_SAN" => TlsValue::Peer(Field::DnsSans),
            "PEER_IP_SAN" => TlsValue::Peer(Field::IpSans),
            "LOCAL_URI_SAN" => TlsValue::Local(Field::UriSans),
            "LOCAL_DNS_SAN" => TlsValue::Local(Field::DnsSans),
            "LOCAL_IP_SAN" => TlsValue::Local(Field::IpSans),
            "PEER_SERIAL" if downstream => TlsValue::Peer(Field::Serial),
            "PEER_FINGERPRINT_256" if downstream => TlsValue::Peer(Field::Fingerprint256),
            "PEER_FINGERPRINT_1" if downstream => TlsValue::Peer(Field::Fingerprint1),
            "PEER_EMAIL_SAN" if downstream => TlsValue::Peer(Field::EmailSans),
            "PEER_CHAIN_FINGERPRINTS_256" if downstream => {
                TlsValue::Peer(Field::ChainFingerprints256)
            }
            "PEER_CHAIN_FINGERPRINTS_1" if downstream => TlsValue::Peer(Field::ChainFingerprints1),
            "PEER_CHAIN_SERIALS" if downstream => TlsValue::Peer(Field::ChainSerials),
            "LOCAL_SUBJECT" if downstream => TlsValue::Local(Field::Subject),
            "LOCAL_EMAIL_SAN" if downstream => TlsValue::Local(Field::EmailSans),
            _ => return None,
        };
        Some(Op::Tls { side, value })
    }

    /// `DOWNSTREAM_REMOTE_ADDRESS`, `DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT`,
    /// `DOWNSTREAM_REMOTE_PORT`, and their like.
    fn address(self) -> Option<Op> {
        let forms = [
            ("_ADDRESS_WITHOUT_PORT", AddressPart::WithoutPort { mask: None }),
            ("_ADDRESS", AddressPart::Whole),
            ("_PORT", AddressPart::Port),
        ];
        let (side, part) = forms
            .into_iter()
            .find_map(|(suffix, part)| Some((self.name.strip_suffix(suffix)?, part)))?;
        Some(match side {
            "UPSTREAM_REMOTE" => Op::UpstreamRemoteAddress(part),
            "UPSTREAM_LOCAL" => Op::UpstreamLocalAddress(part),
            "DOWNSTREAM_REMOTE" => Op::DownstreamRemoteAddress(part),
            "DOWNSTREAM_DIRECT_REMOTE" => Op::DownstreamDirectRemoteAddress(part),
            "DOWNSTREAM_LOCAL" => Op::DownstreamLocalAddress(part),
            "DOWNSTREAM_DIRECT_LOCAL" => Op::DownstreamDirectLocalAddress(part),
            _ => return None,
        })
    }

    fn with_argument(self, at: &Trail) -> Result<Option<Op>, Found> {
        let argument = self.argument.unwrap_or_default();
        let bad = |text: &str| invalid(at, format!("%{}({argument})%: {text}", self.name));
        let needed = || {
            if argument.is_empty() { Err(bad("needs an argument")) } else { Ok(argument) }
        };
        Ok(Some(match self.name {
            "REQ" => {
                let (name, alternative) = self.headers(at)?;
                Op::Request { name, alternative }
            }
            "REQ_WITHOUT_QUERY" => {
                let (name, alternative) = self.headers(at)?;
                Op::RequestWithoutQuery { name, alternative }
            }
            "RESP" => {
                let (name, alternative) = self.headers(at)?;
                Op::Response { name, alternative }
            }
            "TRAILER" => {
                let (name, alternative) = self.headers(at)?;
                Op::Trailer { name, alternative }
            }
            "START_TIME" => self.time(StartTime::Start, false, at)?,
            "START_TIME_LOCAL" => self.time(StartTime::Start, true, at)?,
            "EMIT_TIME" => self.time(StartTime::Emit, false, at)?,
            "EMIT_TIME_LOCAL" => self.time(StartTime::Emit, true, at)?,
            "DOWNSTREAM_PEER_CERT_V_START" => self.validity(CloseSide::Downstream, false, at)?,
            "DOWNSTREAM_PEER_CERT_V_END" => self.validity(CloseSide::Downstream, true, at)?,
            "UPSTREAM_PEER_CERT_V_START" => self.validity(CloseSide::Upstream, false, at)?,
            "UPSTREAM_PEER_CERT_V_END" => self.validity(CloseSide::Upstream, true, at)?,
            "COMMON_DURATION" => self.common_duration(at)?,
            "ENVIRONMENT" => match std::env::var(needed()?) {
                Ok(value) => Op::Literal(value.into()),
                Err(_) => Op::Missing,
            },
            "PATH" => {
                let (form, source) = argument.split_once(':').unwrap_or((argument, ""));
                Op::Path {
                    form: match form {
                        "" | "WQ" => PathForm::WithQuery,
                        "NQ" => PathForm::NoQuery,
                        _ => return Err(bad("the first part must be WQ or NQ")),
                    },
                    source: match source {
                        "ORIG" => PathSource::Original,
                        "PATH" => PathSource::Path,
                        "" | "ORIG_OR_PATH" => PathSource::OriginalOrPath,
                        _ => return Err(bad("the second part must be ORIG, PATH or ORIG_OR_PATH")),
                    },
                }
            }
            "QUERY_PARAM" => Op::QueryParam(needed()?.into()),
            "QUERY_PARAMS" => Op::QueryParams(match argument {
                "" | "ORIG" => PathSource::OriginalOrPath,
                "RAW" => PathSource::Path,
                _ => return Err(bad("must be ORIG or RAW")),
            }),
            "GRPC_STATUS" => Op::GrpcStatus(match argument {
                "" | "CAMEL_STRING" => GrpcStatusForm::CamelString,
                "SNAKE_STRING" => GrpcStatusForm::SnakeString,
                "NUMBER" => GrpcStatusForm::Number,
                _ => return Err(bad("must be CAMEL_STRING, SNAKE_STRING or NUMBER")),
            }),
            "REQUESTED_SERVER_NAME" => {
                let (source, original) = argument.split_once(':').unwrap_or((argument, ""));
                Op::RequestedServerName {
                    source: match source {
                        "" | "SNI_ONLY" => HostSource::SniOnly,
                        "SNI_FIRST" => HostSource::SniFirst,
                        "HOST_FIRST" => HostSource::HostFirst,
                        _ => return Err(bad("must be SNI_ONLY, SNI_FIRST or HOST_FIRST")),
                    },
                    original: match original {
                        "" => false,
                        "ORIG" => true,
                        _ => return Err(bad("the second part must be ORIG")),
                    },
                }
            }
            name if name.ends_with("_ADDRESS_WITHOUT_PORT") && self.argument.is_some() => {
                let mask = argument.parse().ok().filter(|bits| *bits <= 128);
                let Some(mask) = mask else { return Err(bad("must be a number of bits")) };
                return Ok(self.address().map(|op| masked(op, mask)));
            }
            _ => return Ok(None),
        }))
    }

    /// `NAME` or `NAME?ALTERNATIVE`.
    fn headers(self, at: &Trail) -> Result<(HeaderName, Option<HeaderName>), Found> {
        let mut names = self.argument.unwrap_or_default().split('?');
        let first = header_name(names.next().unwrap_or_default(), at.clone())?;
        let second = names.next().map(|name| header_name(name, at.clone())).transpose()?;
        match names.next() {
            Some(_) => Err(invalid(at, format!("%{}% takes one alternative", self.name))),
            None => Ok((first, second)),
        }
    }

    fn time(self, when: StartTime, local: bool, at: &Trail) -> Result<Op, Found> {
        let default = if local { "%Y-%m-%dT%H:%M:%E3S%Ez" } else { UTC_TIME };
        Ok(Op::Time { when, local, format: self.time_format(default, at)? })
    }

    /// When a certificate begins or ends to be valid.
    fn validity(self, side: CloseSide, end: bool, at: &Trail) -> Result<Op, Found> {
        Ok(Op::CertificateTime { side, end, format: self.time_format(UTC_TIME, at)? })
    }

    fn time_format(self, default: &str, at: &Trail) -> Result<Box<[TimePart]>, Found> {
        let format = self.argument.filter(|format| !format.is_empty()).unwrap_or(default);
        time_parts(format).map_err(|conversion| {
            invalid(at, format!("%{}%: {conversion:?} is not a time conversion", self.name))
        })
    }

    fn common_duration(self, at: &Trail) -> Result<Op, Found> {
        let argument = self.argument.unwrap_or_default();
        let bad =
            |part: &str| invalid(at, format!("%COMMON_DURATION({argument})%: {part:?} is unknown"));
        let mut parts = argument.split(':');
        let mut point = || {
            let name = parts.next().unwrap_or_default();
            TIME_POINTS
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, point)| *point)
                .ok_or_else(|| bad(name))
        };
        let (from, to) = (point()?, point()?);
        let unit = match parts.next() {
            None | Some("ms") => DurationUnit::Milliseconds,
            Some("us") => DurationUnit::Microseconds,
            Some("ns") => DurationUnit::Nanoseconds,
            Some(other) => return Err(bad(other)),
        };
        match parts.next() {
            Some(rest) => Err(bad(rest)),
            None => Ok(Op::CommonDuration { from, to, unit }),
        }
    }
}

fn masked(op: Op, bits: u8) -> Op {
    let part = AddressPart::WithoutPort { mask: Some(bits) };
    match op {
        Op::UpstreamRemoteAddress(_) => Op::UpstreamRemoteAddress(part),
        Op::UpstreamLocalAddress(_) => Op::UpstreamLocalAddress(part),
        Op::DownstreamRemoteAddress(_) => Op::DownstreamRemoteAddress(part),
        Op::DownstreamDirectRemoteAddress(_) => Op::DownstreamDirectRemoteAddress(part),
        Op::DownstreamLocalAddress(_) => Op::DownstreamLocalAddress(part),
        Op::DownstreamDirectLocalAddress(_) => Op::DownstreamDirectLocalAddress(part),
        op => op,
    }
}

/// strftime's conversions, as far as logs use them. The error is the conversion that is not known.
fn time_parts(format: &str) -> Result<Box<[TimePart]>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = format;
    while let Some(percent) = rest.find('%') {
        literal.push_str(&rest[..percent]);
        rest = &rest[percent..];
        let (length, conversion) = conversion(rest).ok_or_else(|| head(rest).to_owned())?;
        for part in conversion {
            match part {
                TimePart::Literal(text) => literal.push_str(&text),
                part => {
                    flush(&mut literal, &mut parts);
                    parts.push(part);
                }
            }
        }
        rest = &rest[length..];
    }
    literal.push_str(rest);
    flush(&mut literal, &mut parts);
    Ok(parts.into())
}

fn flush(literal: &mut String, parts: &mut Vec<TimePart>) {
    if !literal.is_empty() {
        parts.push(TimePart::Literal(std::mem::take(literal).into()));
    }
}

/// Length of the conversion at the start of `text`, and what it stands for.
fn conversion(text: &str) -> Option<(usize, Vec<TimePart>)> {
    use TimePart as P;
    let literal = |text: &str| P::Literal(text.into());
    let bytes = text.as_bytes();
    let single = match bytes.get(1)? {
        b'%' => vec![literal("%")],
        b'n' => vec![literal("\n")],
        b't' => vec![literal("\t")],
        b'Y' => vec![P::Year],
        b'y' => vec![P::YearOfCentury],
        b'C' => vec![P::Century],
        b'm' => vec![P::Month],
        b'b' | b'h' => vec![P::MonthShort],
        b'B' => vec![P::MonthLong],
        b'd' => vec![P::Day],
        b'e' => vec![P::DaySpaced],
        b'j' => vec![P::DayOfYear],
        b'a' => vec![P::WeekdayShort],
        b'A' => vec![P::WeekdayLong],
        b'u' => vec![P::WeekdayFromMonday],
        b'w' => vec![P::WeekdayFromSunday],
        b'H' => vec![P::Hour],
        b'I' => vec![P::Hour12],
        b'p' => vec![P::AmPm],
        b'M' => vec![P::Minute],
        b'S' => vec![P::Second],
        b's' => vec![P::EpochSeconds],
        b'f' => vec![P::Fraction(9)],
        b'z' => vec![P::ZoneOffset],
        b'Z' => vec![P::ZoneName],
        b'F' => vec![P::Year, literal("-"), P::Month, literal("-"), P::Day],
        b'T' => vec![P::Hour, literal(":"), P::Minute, literal(":"), P::Second],
        b'R' => vec![P::Hour, literal(":"), P::Minute],
        b'D' => vec![P::Month, literal("/"), P::Day, literal("/"), P::YearOfCentury],
        _ => return longer_conversion(bytes),
    };
    Some((2, single))
}

fn longer_conversion(text: &[u8]) -> Option<(usize, Vec<TimePart>)> {
    use TimePart as P;
    let digits = |byte: u8| byte.is_ascii_digit().then(|| byte - b'0').filter(|digit| *digit > 0);
    Some(match text {
        [b'%', b':', b'z', ..] | [b'%', b'E', b'z', ..] => (3, vec![P::ZoneOffsetColon]),
        [b'%', b'E', b'*', b'S', ..] => (4, vec![P::SecondFull]),
        [b'%', b'E', b'*', b'f', ..] => (4, vec![P::Fraction(9)]),
        [b'%', b'E', digit, b'S', ..] => {
            (4, vec![P::Second, P::Literal(".".into()), P::Fraction(digits(*digit)?)])
        }
        [b'%', b'E', digit, b'f', ..] => (4, vec![P::Fraction(digits(*digit)?)]),
        [b'%', digit, b'f', ..] => (3, vec![P::Fraction(digits(*digit)?)]),
        _ => return None,
    })
}

/// As the kernel knows it; it does not change while we run.
fn host_name() -> Box<str> {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "-".into(), |name| name.trim().into())
}

/// Enough of a text to recognise it in a message.
fn head(text: &str) -> &str {
    let end = text.char_indices().nth(HEAD_CHARS).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

fn invalid(at: &Trail, text: String) -> Found {
    Found::new(at.clone(), Problem::Invalid(text))
}

const HEAD_CHARS: usize = 24;

/// ISO 8601 with milliseconds.
const UTC_TIME: &str = "%Y-%m-%dT%H:%M:%E3SZ";

/// Operators of Envoy that need tracing, metadata or filter state, or a look at a handshake that the
/// library does not give.
const NEED_MORE: &[&str] = &[
    "DYNAMIC_METADATA",
    "CLUSTER_METADATA",
    "UPSTREAM_METADATA",
    "METADATA",
    "FILTER_STATE",
    "UPSTREAM_FILTER_STATE",
    "CEL",
    "TRACE_ID",
    "SPAN_ID",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "UPSTREAM_LOCAL_SUBJECT",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
];

const TIME_POINTS: &[(&str, TimePoint)] = &[
    ("DS_RX_BEG", TimePoint::DownstreamReceiveBegin),
    ("DS_RX_END", TimePoint::DownstreamReceiveEnd),
    ("US_CX_BEG", TimePoint::UpstreamConnectBegin),
    ("US_CX_END", TimePoint::UpstreamConnectEnd),
    ("US_TX_BEG", TimePoint::UpstreamSendBegin),
    ("US_TX_END", TimePoint::UpstreamSendEnd),
    ("US_RX_BEG", TimePoint::UpstreamReceiveBegin),
    ("US_RX_END", TimePoint::UpstreamReceiveEnd),
    ("DS_TX_BEG", TimePoint::DownstreamSendBegin),
    ("DS_TX_END", TimePoint::DownstreamSendEnd),
];
