//! From a [`Record`] and a compiled format to bytes.
//!
//! Everything is appended to a buffer the caller owns; in the steady state nothing is allocated.
//! What a value is when it is missing, and which values stay numbers in JSON, follows Envoy.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use outrigger_xds::snapshot::{
    AddressPart, CloseSide, DurationKind, DurationUnit, GrpcStatusForm, HostSource, Op, PathForm,
    PathSource, StartTime, Template, TimePoint, WireBytes,
};

use crate::tls::TlsSession;

use super::capture::Captured;
use super::clock::{Clock, decimal};
use super::program::{JsonPart, Part, Program};
use super::record::{Address, CloseType, GrpcStatus, Protocol, Record, Times};
use super::tls;

/// Header values by lower-case name; pseudo headers included. The first of a repeated header.
pub trait Headers {
    /// A request header, as sent upstream.
    fn request(&self, name: &str) -> Option<&[u8]>;

    /// A response header, as sent downstream.
    fn response(&self, name: &str) -> Option<&[u8]>;

    /// A response trailer.
    fn trailer(&self, name: &str) -> Option<&[u8]>;
}

/// Writes records. One per shard: it holds what is worth keeping from one line to the next.
#[derive(Debug)]
pub struct Renderer {
    clock: Clock,
    ids: UniqueIds,
    /// Unescaped text, while it is escaped.
    raw: Vec<u8>,
}

impl Renderer {
    /// A renderer that has written nothing yet.
    pub fn new() -> Renderer {
        Renderer { clock: Clock::new(), ids: UniqueIds::new(), raw: Vec::new() }
    }

    /// Appends one record as `program` says.
    ///
    /// Between lines of programs that do not outlive each other, call [`Renderer::forget`].
    pub(super) fn line(
        &mut self,
        program: &Program,
        record: &Record<'_>,
        headers: Captured<'_>,
        out: &mut Vec<u8>,
    ) {
        match program {
            Program::Text { parts, missing } => self.parts(parts, record, headers, missing, out),
            Program::Json { node, omit } => {
                self.json(node, record, headers, *omit, out);
                out.push(b'\n');
            }
        }
    }

    /// Forgets what belongs to the programs that lines were written with.
    pub(super) fn forget(&mut self) {
        self.clock.forget();
    }

    /// Appends the value of `template`, with `missing` for what is not known: for header values.
    pub fn template(
        &mut self,
        template: &Template,
        record: &Record<'_>,
        headers: &impl Headers,
        missing: &[u8],
        out: &mut Vec<u8>,
    ) {
        // Whose template this is, and for how long, is not known here.
        self.forget();
        for op in &template.ops {
            if self.op(op, record, headers, out) == Shape::Missing {
                out.extend_from_slice(missing);
            }
        }
        self.forget();
    }

    fn parts(
        &mut self,
        parts: &[Part],
        record: &Record<'_>,
        headers: Captured<'_>,
        missing: &[u8],
        out: &mut Vec<u8>,
    ) {
        for part in parts {
            if self.part(part, record, headers, out) == Shape::Missing {
                out.extend_from_slice(missing);
            }
        }
    }

    fn part(
        &mut self,
        part: &Part,
        record: &Record<'_>,
        headers: Captured<'_>,
        out: &mut Vec<u8>,
    ) -> Shape {
        match part {
            Part::Literal(literal) => {
                out.extend_from_slice(literal);
                Shape::Text
            }
            Part::Header { slot, alternative, max_len } => {
                let values = headers.values;
                let value = values.get(*slot).or_else(|| values.get((*alternative)?));
                raw(out, value.map(|value| &value[..value.len().min(*max_len)]))
            }
            Part::Op(op) => self.op(op, record, &headers, out),
        }
    }

    /// Appends `node`; `false` when it was nothing but a missing value, written as `null`.
    fn json(
        &mut self,
        node: &JsonPart,
        record: &Record<'_>,
        headers: Captured<'_>,
        omit: bool,
        out: &mut Vec<u8>,
    ) -> bool {
        match node {
            JsonPart::Literal(text) => out.extend_from_slice(text.as_bytes()),
            JsonPart::Value(part) => {
                let start = out.len();
                out.push(b'"');
                match self.part(part, record, headers, out) {
                    Shape::Missing => {
                        out.truncate(start);
                        out.extend_from_slice(b"null");
                        return false;
                    }
                    Shape::Number => {
                        out.remove(start);
                    }
                    Shape::Text => self.close_string(start + 1, out),
                }
            }
            JsonPart::Text(parts) => {
                out.push(b'"');
                let start = out.len();
                self.parts(parts, record, headers, if omit { b"" } else { b"-" }, out);
                self.close_string(start, out);
            }
            JsonPart::Object(members) => {
                out.push(b'{');
                let first = out.len();
                for (key, value) in members {
                    let start = out.len();
                    if start > first {
                        out.push(b',');
                    }
                    out.extend_from_slice(key.as_bytes());
                    out.push(b':');
                    if !self.json(value, record, headers, omit, out) && omit {
                        out.truncate(start);
                    }
                }
                out.push(b'}');
            }
            JsonPart::List(nodes) => {
                out.push(b'[');
                for (index, node) in nodes.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    self.json(node, record, headers, omit, out);
                }
                out.push(b']');
            }
        }
        true
    }

    /// Escapes what was appended since `start` and closes the string.
    fn close_string(&mut self, start: usize, out: &mut Vec<u8>) {
        if out[start..].iter().any(|&byte| !is_plain(byte)) {
            self.raw.clear();
            self.raw.extend_from_slice(&out[start..]);
            out.truncate(start);
            escape_json(&self.raw, out);
        }
        out.push(b'"');
    }

    /// Appends the value of one operator; appends nothing when it is missing.
    fn op(
        &mut self,
        op: &Op,
        record: &Record<'_>,
        headers: &impl Headers,
        out: &mut Vec<u8>,
    ) -> Shape {
        let bytes = &record.bytes;
        match op {
            Op::Literal(literal) => text(out, Some(literal)),
            Op::Missing => Shape::Missing,
            Op::Cut { op, max_len } => {
                let start = out.len();
                let shape = self.op(op, record, headers, out);
                out.truncate(out.len().min(start + *max_len as usize));
                if shape == Shape::Missing { shape } else { Shape::Text }
            }
            Op::Time { when, local, format } => {
                let wall_ns = match when {
                    StartTime::Start => record.start_wall_ns,
                    StartTime::Emit => record.emit_wall_ns,
                };
                self.clock.write_again(wall_ns, *local, format, out);
                Shape::Text
            }
            Op::Duration(kind) => {
                let (from, to) = duration_points(*kind, &record.times);
                elapsed(out, from, to, DurationUnit::Milliseconds)
            }
            Op::CommonDuration { from, to, unit } => {
                elapsed(out, time_of(*from, &record.times), time_of(*to, &record.times), *unit)
            }
            Op::Protocol => text(out, record.protocol.map(Protocol::name)),
            Op::UpstreamProtocol => text(out, record.upstream_protocol.map(Protocol::name)),
            Op::Request { name, alternative } => {
                raw(out, either(name, alternative.as_deref(), |name| headers.request(name)))
            }
            Op::RequestWithoutQuery { name, alternative } => {
                let value = either(name, alternative.as_deref(), |name| headers.request(name));
                raw(out, value.map(|value| split_query(value).0))
            }
            Op::Response { name, alternative } => {
                raw(out, either(name, alternative.as_deref(), |name| headers.response(name)))
            }
            Op::Trailer { name, alternative } => {
                raw(out, either(name, alternative.as_deref(), |name| headers.trailer(name)))
            }
            Op::Path { form, source } => raw(
                out,
                path(*source, headers).map(|path| match form {
                    PathForm::WithQuery => path,
                    PathForm::NoQuery => split_query(path).0,
                }),
            ),
            Op::QueryParam(key) => raw(
                out,
                path(PathSource::Path, headers)
                    .and_then(|path| split_query(path).1)
                    .and_then(|query| query_value(query, key.as_bytes())),
            ),
            Op::QueryParams(source) => {
                raw(out, path(*source, headers).and_then(|path| split_query(path).1))
            }
            Op::ResponseCode => number(out, record.response_code.into()),
            Op::ResponseCodeDetails => unspaced(out, record.response_code_details),
            Op::ConnectionTerminationDetails => text(out, record.connection_termination_details),
            Op::ResponseFlags => joined(out, record.flags.short_names()),
            Op::ResponseFlagsLong => joined(out, record.flags.long_names()),
            Op::GrpcStatus(form) => grpc_status(out, *form, record.grpc_status),
            Op::BytesReceived => number(out, bytes.received),
            Op::BytesSent => number(out, bytes.sent),
            Op::RequestHeadersBytes => number(out, bytes.request_headers),
            Op::ResponseHeadersBytes => number(out, bytes.response_headers),
            Op::ResponseTrailersBytes => number(out, bytes.response_trailers),
            Op::WireBytes(which) => number(out, wire_bytes(*which, record)),
            Op::UpstreamHost => address(out, record.upstream_remote, AddressPart::Whole),
            Op::UpstreamHostName { without_port } => text(
                out,
                record.upstream_host_name.map(|name| match name.rsplit_once(':') {
                    Some((host, _)) if *without_port => host,
                    _ => name,
                }),
            ),
            Op::UpstreamCluster => text(out, record.upstream_cluster),
            Op::UpstreamClusterRaw => text(out, record.upstream_cluster_raw),
            Op::UpstreamRemoteAddress(part) => address(out, record.upstream_remote, *part),
            Op::UpstreamLocalAddress(part) => address(out, record.upstream_local, *part),
            Op::UpstreamConnectionId => number(out, record.upstream_connection_id),
            Op::UpstreamRequestAttemptCount => number(out, record.upstream_attempts.into()),
            Op::UpstreamTransportFailureReason => unspaced(out, record.upstream_transport_failure),
            Op::DetectedCloseType(side) => {
                let close = match side {
                    CloseSide::Upstream => record.upstream_close,
                    CloseSide::Downstream => record.downstream_close,
                };
                text(out, close.map(CloseType::name))
            }
            Op::DownstreamRemoteAddress(part) => address(out, record.downstream_remote, *part),
            Op::DownstreamDirectRemoteAddress(part) => {
                address(out, record.downstream_direct_remote, *part)
            }
            Op::DownstreamLocalAddress(part) => address(out, record.downstream_local, *part),
            Op::DownstreamDirectLocalAddress(part) => {
                address(out, record.downstream_direct_local, *part)
            }
            Op::Tls { side, value } => match session(*side, record) {
                Some(session) if tls::write(session, *value, out) => Shape::Text,
                _ => Shape::Missing,
            },
            Op::CertificateTime { side, end, format } => {
                let at = session(*side, record).and_then(|session| tls::validity(session, *end));
                let Some(wall_ns) = at else { return Shape::Missing };
                self.clock.write(wall_ns, false, format, out);
                Shape::Text
            }
            Op::DownstreamTransportFailureReason => match record.downstream_transport_failure {
                Some(error) => unspaced(out, Some(&format!("TLS_error: {error}"))),
                None => Shape::Missing,
            },
            Op::ConnectionId => number(out, record.connection_id),
            Op::StreamId => match record.stream_id {
                Some(id) => uuid(out, id.0),
                None => Shape::Missing,
            },
            Op::UniqueId => uuid(out, self.ids.next()),
            Op::FilterChainName => text(out, record.filter_chain_name),
            Op::RouteName => text(out, record.route_name),
            Op::AccessLogType => text(out, Some(record.log_type.name())),
            Op::RequestedServerName { source, original } => {
                let sni = record.requested_server_name.map(str::as_bytes);
                let rewritten = if *original { record.original_authority } else { None };
                let host = || rewritten.or_else(|| headers.request(":authority"));
                raw(
                    out,
                    match source {
                        HostSource::SniOnly => sni,
                        HostSource::SniFirst => sni.or_else(host),
                        HostSource::HostFirst => host().or(sni),
                    },
                )
            }
        }
    }
}

impl Default for Renderer {
    fn default() -> Renderer {
        Renderer::new()
    }
}

/// What an operator appended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shape {
    Missing,
    /// Digits, which JSON needs no quotes for.
    Number,
    Text,
}

/// `%UNIQUE_ID%`: random UUIDs. Unique, not secret.
#[derive(Debug)]
struct UniqueIds {
    state: u64,
}

impl UniqueIds {
    fn new() -> UniqueIds {
        // The standard library seeds its hash maps from the system's random source.
        UniqueIds { state: RandomState::new().build_hasher().finish() }
    }

    fn next(&mut self) -> u128 {
        let random = u128::from(self.next_u64()) << 64 | u128::from(self.next_u64());
        // Version 4, variant 10 (RFC 9562 section 5.4).
        random & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62
    }

    /// SplitMix64: one addition and a mix; its period is 2^64.
    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A name or a reason: an empty one counts as missing.
fn text(out: &mut Vec<u8>, value: Option<&str>) -> Shape {
    raw(out, value.filter(|value| !value.is_empty()).map(str::as_bytes))
}

/// Bytes from the wire, where an empty header is not a missing one.
fn raw(out: &mut Vec<u8>, value: Option<&[u8]>) -> Shape {
    match value {
        None => Shape::Missing,
        Some(value) => {
            out.extend_from_slice(value);
            Shape::Text
        }
    }
}

fn number(out: &mut Vec<u8>, value: u64) -> Shape {
    decimal(out, value);
    Shape::Number
}

/// Reasons in plain words become one field of a line: white space turns into `_`.
fn unspaced(out: &mut Vec<u8>, value: Option<&str>) -> Shape {
    let start = out.len();
    let shape = text(out, value);
    for byte in &mut out[start..] {
        if byte.is_ascii_whitespace() {
            *byte = b'_';
        }
    }
    shape
}

/// Response flags; none at all is `-`, in JSON too.
fn joined(out: &mut Vec<u8>, mut names: impl Iterator<Item = &'static str>) -> Shape {
    out.extend_from_slice(names.next().unwrap_or("-").as_bytes());
    for name in names {
        out.push(b',');
        out.extend_from_slice(name.as_bytes());
    }
    Shape::Text
}

fn elapsed(out: &mut Vec<u8>, from: u64, to: u64, unit: DurationUnit) -> Shape {
    if from == 0 || to < from {
        return Shape::Missing;
    }
    let nanos = to - from;
    number(
        out,
        match unit {
            DurationUnit::Milliseconds => nanos / 1_000_000,
            DurationUnit::Microseconds => nanos / 1_000,
            DurationUnit::Nanoseconds => nanos,
        },
    )
}

fn duration_points(kind: DurationKind, times: &Times) -> (u64, u64) {
    let start = times.downstream_rx_begin;
    match kind {
        DurationKind::Total => (start, times.end),
        DurationKind::Request => (start, times.downstream_rx_end),
        DurationKind::RequestTx => (start, times.upstream_tx_end),
        DurationKind::Response => (start, times.upstream_rx_begin),
        DurationKind::ResponseTx => (times.upstream_rx_begin, times.downstream_tx_end),
    }
}

fn time_of(point: TimePoint, times: &Times) -> u64 {
    match point {
        TimePoint::DownstreamReceiveBegin => times.downstream_rx_begin,
        TimePoint::DownstreamReceiveEnd => times.downstream_rx_end,
        TimePoint::UpstreamConnectBegin => times.upstream_connect_begin,
        TimePoint::UpstreamConnectEnd => times.upstream_connect_end,
        TimePoint::UpstreamSendBegin => times.upstream_tx_begin,
        TimePoint::UpstreamSendEnd => times.upstream_tx_end,
        TimePoint::UpstreamReceiveBegin => times.upstream_rx_begin,
        TimePoint::UpstreamReceiveEnd => times.upstream_rx_end,
        TimePoint::DownstreamSendBegin => times.downstream_tx_begin,
        TimePoint::DownstreamSendEnd => times.downstream_tx_end,
    }
}

fn either<'a>(
    name: &str,
    alternative: Option<&str>,
    find: impl Fn(&str) -> Option<&'a [u8]>,
) -> Option<&'a [u8]> {
    find(name).or_else(|| find(alternative?))
}

fn path(source: PathSource, headers: &impl Headers) -> Option<&[u8]> {
    let original = || headers.request("x-envoy-original-path");
    match source {
        PathSource::Original => original(),
        PathSource::Path => headers.request(":path"),
        PathSource::OriginalOrPath => original().or_else(|| headers.request(":path")),
    }
}

/// A path before its first `?`, and what follows it.
fn split_query(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'?', path) {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}

fn query_value<'a>(query: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    query.split(|&byte| byte == b'&').find_map(|pair| match memchr::memchr(b'=', pair) {
        Some(at) if &pair[..at] == key => Some(&pair[at + 1..]),
        None if pair == key => Some(&pair[pair.len()..]),
        _ => None,
    })
}

fn grpc_status(out: &mut Vec<u8>, form: GrpcStatusForm, status: Option<GrpcStatus>) -> Shape {
    let Some(status) = status else { return Shape::Missing };
    let names = status.code().and_then(|code| GRPC_STATUSES.get(code as usize));
    match (form, names) {
        (GrpcStatusForm::CamelString, Some((camel, _))) => return text(out, Some(camel)),
        (GrpcStatusForm::SnakeString, Some((_, snake))) => return text(out, Some(snake)),
        _ => {}
    }
    match status {
        GrpcStatus::Code(code) => decimal(out, code.into()),
        // As Envoy has it.
        GrpcStatus::Unreadable => out.extend_from_slice(b"-1"),
    }
    if form == GrpcStatusForm::Number { Shape::Number } else { Shape::Text }
}

fn session<'a>(side: CloseSide, record: &Record<'a>) -> Option<&'a TlsSession> {
    match side {
        CloseSide::Downstream => record.downstream_tls,
        CloseSide::Upstream => record.upstream_tls,
    }
}

fn wire_bytes(which: WireBytes, record: &Record<'_>) -> u64 {
    let bytes = &record.bytes;
    match (which.upstream, which.sent, which.headers_only) {
        (true, true, false) => bytes.upstream_wire_sent,
        (true, true, true) => bytes.upstream_header_sent,
        (true, false, false) => bytes.upstream_wire_received,
        (true, false, true) => bytes.upstream_header_received,
        (false, true, false) => bytes.downstream_wire_sent,
        (false, true, true) => bytes.downstream_header_sent,
        (false, false, false) => bytes.downstream_wire_received,
        (false, false, true) => bytes.downstream_header_received,
    }
}

fn address(out: &mut Vec<u8>, value: Option<Address<'_>>, part: AddressPart) -> Shape {
    match (value, part) {
        (None, _) | (Some(Address::Pipe(_)), AddressPart::Port) => Shape::Missing,
        (Some(Address::Pipe(path)), AddressPart::Whole | AddressPart::WithoutPort { .. }) => {
            text(out, Some(path))
        }
        (Some(Address::Ip(address)), AddressPart::Port) => number(out, address.port().into()),
        (Some(Address::Ip(address)), AddressPart::Whole) => {
            let v6 = address.is_ipv6();
            out.extend_from_slice(if v6 { b"[" } else { b"" });
            ip(out, address.ip());
            out.extend_from_slice(if v6 { b"]:" } else { b":" });
            decimal(out, address.port().into());
            Shape::Text
        }
        (Some(Address::Ip(address)), AddressPart::WithoutPort { mask: None }) => {
            ip(out, address.ip());
            Shape::Text
        }
        (Some(Address::Ip(address)), AddressPart::WithoutPort { mask: Some(bits) }) => {
            ip(out, masked(address.ip(), bits));
            out.push(b'/');
            decimal(out, bits.into());
            Shape::Text
        }
    }
}

/// Writes PEM as Envoy does where it has to be one word: what URLs reserve as `%XX`.
pub fn url_encoded_pem(pem: &str, out: &mut Vec<u8>) {
    for byte in pem.bytes() {
        match byte {
            b'\n' => out.extend_from_slice(b"%0A"),
            b' ' => out.extend_from_slice(b"%20"),
            b'+' => out.extend_from_slice(b"%2B"),
            b'/' => out.extend_from_slice(b"%2F"),
            b'=' => out.extend_from_slice(b"%3D"),
            byte => out.push(byte),
        }
    }
}

fn ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let [first, rest @ ..] = ip.octets();
            decimal(out, first.into());
            for octet in rest {
                out.push(b'.');
                decimal(out, octet.into());
            }
        }
        // Writing to a Vec cannot fail.
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    }
}

fn uuid(out: &mut Vec<u8>, id: u128) -> Shape {
    for (index, byte) in id.to_be_bytes().into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend_from_slice(&[hex(byte >> 4), hex(byte & 0xf)]);
    }
    Shape::Text
}

fn hex(nibble: u8) -> u8 {
    b"0123456789abcdef"[usize::from(nibble & 0xf)]
}

/// Whether a byte stands for itself in a JSON string.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=0x7f) && !matches!(byte, b'"' | b'\\')
}

/// Appends `value` as the inside of a JSON string. Bytes that are not UTF-8 become U+FFFD.
fn escape_json(value: &[u8], out: &mut Vec<u8>) {
    for chunk in value.utf8_chunks() {
        for &byte in chunk.valid().as_bytes() {
            match byte {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0..=0x1f => {
                    out.extend_from_slice(b"\\u00");
                    out.extend_from_slice(&[hex(byte >> 4), hex(byte & 0xf)]);
                }
                byte => out.push(byte),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// By number; the names are those of the gRPC specification.
const GRPC_STATUSES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];
