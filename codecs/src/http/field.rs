//! Header fields as views into the received bytes, classified once.
//!
//! Every field of a message is given its [`FieldKind`] while the head is parsed, so later stages
//! (hop-by-hop removal, forwarding headers, logging) switch on a byte instead of comparing names.
//! The invariant: `kind` depends on nothing but `name`, compared without case, except
//! [`FieldKind::Nominated`], which also depends on the Connection field of the same message.

use arrayvec::ArrayVec;

/// The most fields that one message may carry, whatever the configured limit says.
///
/// Envoy allows 100 by default; five times that is room for the widest sensible configuration, and
/// keeps [`FieldStorage`] at about 20 KiB of stack.
pub const FIELDS_MAX: usize = 512;

/// One header or trailer field, borrowed from the received bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Field<'b> {
    /// The name as received: a non-empty token (RFC 9110 section 5.6.2), case unchanged.
    pub name: &'b str,
    /// The value without the optional whitespace around it. It holds HTAB, SP, visible ASCII and
    /// obs-text (0x80-0xff) only, so it can be written to another message as it is.
    pub value: &'b [u8],
    /// What the name means to a proxy.
    pub kind: FieldKind,
    /// It came as a never-indexed literal (RFC 7541 section 6.2.3) and must go on as one.
    pub never_indexed: bool,
}

impl<'b> Field<'b> {
    /// A field as it came on HTTP/1, classified.
    #[must_use]
    pub fn new(name: &'b str, value: &'b [u8]) -> Self {
        Self { name, value, kind: FieldKind::of(name.as_bytes()), never_indexed: false }
    }
}

/// What a field name means to a proxy; names that a proxy does not act on are [`FieldKind::Other`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum FieldKind {
    /// Authorization (RFC 9110 section 11.6.2).
    Authorization,
    /// Connection (RFC 9110 section 7.6.1).
    Connection,
    /// Content-Length (RFC 9110 section 8.6).
    ContentLength,
    /// Content-Type (RFC 9110 section 8.3).
    ContentType,
    /// Cookie (RFC 6265 section 5.4).
    Cookie,
    /// Date (RFC 9110 section 6.6.1).
    Date,
    /// Expect (RFC 9110 section 10.1.1).
    Expect,
    /// Host (RFC 9110 section 7.2).
    Host,
    /// HTTP2-Settings (RFC 7540 section 3.2.1).
    Http2Settings,
    /// Keep-Alive (RFC 2068 section 19.7.1.1).
    KeepAlive,
    /// Location (RFC 9110 section 10.2.2).
    Location,
    /// A field without a kind of its own that the message's Connection field names: it is meant for
    /// this connection only and must not be forwarded.
    Nominated,
    /// Every other name.
    Other,
    /// Proxy-Authenticate (RFC 9110 section 11.7.1).
    ProxyAuthenticate,
    /// Proxy-Connection, which some old clients send in place of Connection (RFC 9112 appendix C.2.2).
    ProxyConnection,
    /// Server (RFC 9110 section 10.2.4).
    Server,
    /// TE (RFC 9110 section 10.1.4).
    Te,
    /// Trailer (RFC 9110 section 6.6.2).
    Trailer,
    /// Transfer-Encoding (RFC 9112 section 6.1).
    TransferEncoding,
    /// Upgrade (RFC 9110 section 7.8).
    Upgrade,
    /// User-Agent (RFC 9110 section 10.1.5).
    UserAgent,
    /// Via (RFC 9110 section 7.6.3).
    Via,
    /// Any name that starts with `x-envoy-` and has no kind of its own.
    XEnvoy,
    /// X-Envoy-Expected-Rq-Timeout-Ms.
    XEnvoyExpectedRqTimeoutMs,
    /// X-Envoy-External-Address.
    XEnvoyExternalAddress,
    /// X-Envoy-Internal.
    XEnvoyInternal,
    /// X-Envoy-Original-Path.
    XEnvoyOriginalPath,
    /// X-Envoy-Peer-Metadata, by which Istio's proxies say who they are.
    XEnvoyPeerMetadata,
    /// X-Envoy-Peer-Metadata-Id.
    XEnvoyPeerMetadataId,
    /// X-Envoy-Upstream-Rq-Timeout-Ms.
    XEnvoyUpstreamRqTimeoutMs,
    /// X-Forwarded-For.
    XForwardedFor,
    /// X-Forwarded-Host.
    XForwardedHost,
    /// X-Forwarded-Port.
    XForwardedPort,
    /// X-Forwarded-Proto.
    XForwardedProto,
    /// X-Request-Id.
    XRequestId,
}

impl FieldKind {
    /// Classifies a field name without regard to case.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        let Some(&first) = name.first() else { return Self::Other };
        // Length and first letter leave few candidates, so most names cost no comparison.
        match (name.len(), first | 0x20) {
            (2, b't') if is(name, b"te") => Self::Te,
            (3, b'v') if is(name, b"via") => Self::Via,
            (4, b'd') if is(name, b"date") => Self::Date,
            (4, b'h') if is(name, b"host") => Self::Host,
            (6, b'c') if is(name, b"cookie") => Self::Cookie,
            (6, b'e') if is(name, b"expect") => Self::Expect,
            (6, b's') if is(name, b"server") => Self::Server,
            (7, b't') if is(name, b"trailer") => Self::Trailer,
            (7, b'u') if is(name, b"upgrade") => Self::Upgrade,
            (8, b'l') if is(name, b"location") => Self::Location,
            (10, b'c') if is(name, b"connection") => Self::Connection,
            (10, b'k') if is(name, b"keep-alive") => Self::KeepAlive,
            (10, b'u') if is(name, b"user-agent") => Self::UserAgent,
            (12, b'c') if is(name, b"content-type") => Self::ContentType,
            (12, b'x') if is(name, b"x-request-id") => Self::XRequestId,
            (13, b'a') if is(name, b"authorization") => Self::Authorization,
            (14, b'c') if is(name, b"content-length") => Self::ContentLength,
            (14, b'h') if is(name, b"http2-settings") => Self::Http2Settings,
            (15, b'x') if is(name, b"x-forwarded-for") => Self::XForwardedFor,
            (16, b'p') if is(name, b"proxy-connection") => Self::ProxyConnection,
            (16, b'x') if is(name, b"x-envoy-internal") => Self::XEnvoyInternal,
            (16, b'x') if is(name, b"x-forwarded-host") => Self::XForwardedHost,
            (16, b'x') if is(name, b"x-forwarded-port") => Self::XForwardedPort,
            (17, b't') if is(name, b"transfer-encoding") => Self::TransferEncoding,
            (17, b'x') if is(name, b"x-forwarded-proto") => Self::XForwardedProto,
            (18, b'p') if is(name, b"proxy-authenticate") => Self::ProxyAuthenticate,
            (21, b'x') if is(name, b"x-envoy-original-path") => Self::XEnvoyOriginalPath,
            (21, b'x') if is(name, b"x-envoy-peer-metadata") => Self::XEnvoyPeerMetadata,
            (24, b'x') if is(name, b"x-envoy-external-address") => Self::XEnvoyExternalAddress,
            (24, b'x') if is(name, b"x-envoy-peer-metadata-id") => Self::XEnvoyPeerMetadataId,
            (30, b'x') if is(name, b"x-envoy-upstream-rq-timeout-ms") => {
                Self::XEnvoyUpstreamRqTimeoutMs
            }
            (30, b'x') if is(name, b"x-envoy-expected-rq-timeout-ms") => {
                Self::XEnvoyExpectedRqTimeoutMs
            }
            (8.., b'x') if is(&name[..8], b"x-envoy-") => Self::XEnvoy,
            _ => Self::Other,
        }
    }

    /// Whether a field of this kind belongs to one connection and must not be forwarded as it is.
    ///
    /// RFC 9110 section 7.6.1 names Connection and what it lists ([`FieldKind::Nominated`]),
    /// Proxy-Connection, Keep-Alive, TE, Transfer-Encoding and Upgrade. HTTP2-Settings describes the
    /// connection too (RFC 7540 section 3.2.1) and is dropped even where Connection forgets to name
    /// it. Envoy removes the same fields.
    ///
    /// Trailer stays: RFC 9110 no longer counts it as hop-by-hop, and this proxy forwards trailers.
    /// Proxy-Authenticate stays too, as with Envoy. Who forwards writes its own Connection,
    /// Transfer-Encoding and Upgrade, and `te: trailers` where the client accepts trailers.
    #[must_use]
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::Http2Settings
                | Self::KeepAlive
                | Self::Nominated
                | Self::ProxyConnection
                | Self::Te
                | Self::TransferEncoding
                | Self::Upgrade
        )
    }
}

/// Room for the fields of one message, meant to live on the stack of the task that parses it.
///
/// Making one costs nothing: the slots are uninitialised until a field is parsed into them.
#[derive(Clone, Debug, Default)]
pub struct FieldStorage<'b> {
    pub(crate) fields: ArrayVec<Field<'b>, FIELDS_MAX>,
}

impl FieldStorage<'_> {
    /// Makes empty storage.
    #[inline]
    #[must_use]
    pub fn new() -> Self {
        Self { fields: ArrayVec::new() }
    }
}

/// The elements of a comma-separated list of tokens (RFC 9110 section 5.6.1), without the optional
/// whitespace around them. Empty elements are skipped, as a recipient must.
///
/// For lists of tokens only: a comma inside a quoted string would split it.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim_whitespace).filter(|element| !element.is_empty())
}

/// Without leading and trailing OWS: SP and HTAB, and no other byte (RFC 9110 section 5.6.3).
pub(crate) fn trim_whitespace(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Whether `name` is `lower_case` but for the case of letters. Without early exit and with the length
/// known, this compiles to a few vector instructions.
#[inline]
fn is<const N: usize>(name: &[u8], lower_case: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name) else { return false };
    let differing = name
        .iter()
        .zip(lower_case)
        .fold(0, |differing, (byte, lower)| differing | (byte.to_ascii_lowercase() ^ lower));
    differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_ignore_case() {
        for (name, kind) in [
            ("Authorization", FieldKind::Authorization),
            ("Connection", FieldKind::Connection),
            ("Content-Length", FieldKind::ContentLength),
            ("Content-Type", FieldKind::ContentType),
            ("Cookie", FieldKind::Cookie),
            ("Date", FieldKind::Date),
            ("Expect", FieldKind::Expect),
            ("Host", FieldKind::Host),
            ("HTTP2-Settings", FieldKind::Http2Settings),
            ("Keep-Alive", FieldKind::KeepAlive),
            ("Location", FieldKind::Location),
            ("Accept", FieldKind::Other),
            ("Proxy-Authenticate", FieldKind::ProxyAuthenticate),
            ("Proxy-Connection", FieldKind::ProxyConnection),
            ("Server", FieldKind::Server),
            ("TE", FieldKind::Te),
            ("Trailer", FieldKind::Trailer),
            ("Transfer-Encoding", FieldKind::TransferEncoding),
            ("Upgrade", FieldKind::Upgrade),
            ("User-Agent", FieldKind::UserAgent),
            ("Via", FieldKind::Via),
            ("X-Envoy-Anything", FieldKind::XEnvoy),
            ("X-Envoy-", FieldKind::XEnvoy),
            ("X-Envoy-Expected-Rq-Timeout-Ms", FieldKind::XEnvoyExpectedRqTimeoutMs),
            ("X-Envoy-External-Address", FieldKind::XEnvoyExternalAddress),
            ("X-Envoy-Internal", FieldKind::XEnvoyInternal),
            ("X-Envoy-Original-Path", FieldKind::XEnvoyOriginalPath),
            ("X-Envoy-Peer-Metadata", FieldKind::XEnvoyPeerMetadata),
            ("X-Envoy-Peer-Metadata-Id", FieldKind::XEnvoyPeerMetadataId),
            ("X-Envoy-Upstream-Rq-Timeout-Ms", FieldKind::XEnvoyUpstreamRqTimeoutMs),
            ("X-Forwarded-For", FieldKind::XForwardedFor),
            ("X-Forwarded-Host", FieldKind::XForwardedHost),
            ("X-Forwarded-Port", FieldKind::XForwardedPort),
            ("X-Forwarded-Proto", FieldKind::XForwardedProto),
            ("X-Request-Id", FieldKind::XRequestId),
        ] {
            for name in [name.to_owned(), name.to_lowercase(), name.to_uppercase()] {
                assert_eq!(FieldKind::of(name.as_bytes()), kind, "{name}");
            }
        }
    }

    #[test]
    fn near_misses_are_other() {
        for name in [
            "",
            "hos",
            "hosts",
            "Content_Length",
            "content-lengti",
            "8ost",
            "Transfer-Encoding-",
            "x-envoy",
            "x-envoy_a",
            "content\rlength",
        ] {
            assert_eq!(FieldKind::of(name.as_bytes()), FieldKind::Other, "{name}");
        }
    }

    #[test]
    fn lists_skip_empty_elements_and_trim_only_ows() {
        let elements: Vec<&[u8]> = tokens(b", \ta ,,b\x0b,\t, c d").collect();
        assert_eq!(elements, [b"a".as_slice(), b"b\x0b", b"c d"]);
        assert_eq!(tokens(b"").count(), 0);
    }
}
