//! Why a head is refused.

/// Why a request or response head is refused. Framing is lost with every one of them, so the
/// connection must be closed after the answer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// A message that may not have a body announces one: a CONNECT request (RFC 9110 section 9.3.6),
    /// or a 1xx or 204 response (RFC 9112 section 6.1, RFC 9110 section 8.6).
    #[error("a body is announced where none is allowed")]
    BodyForbidden,
    /// The Connection field names a field that is meant for every recipient, such as Host or
    /// Content-Length (RFC 9110 section 7.6.1). Removing it would change what the message means.
    #[error("connection names an end-to-end field")]
    ConnectionNamesEndToEnd,
    /// The Connection field lists more options than
    /// [`CONNECTION_OPTIONS_MAX`](super::CONNECTION_OPTIONS_MAX).
    #[error("too many connection options")]
    ConnectionOptionsTooMany,
    /// Content-Length together with Transfer-Encoding (RFC 9112 section 6.3, rule 3).
    #[error("content-length together with transfer-encoding")]
    ContentLengthAndTransferEncoding,
    /// Content-Length is not one plain decimal number below 2^63: it is empty, a list, signed, has
    /// leading zeros or other bytes, or is too large (RFC 9110 section 8.6).
    #[error("content-length is not a plain decimal number")]
    ContentLengthInvalid,
    /// More than one Content-Length field, even with equal values.
    #[error("more than one content-length")]
    ContentLengthRepeated,
    /// An expectation other than 100-continue (RFC 9110 section 10.1.1).
    #[error("unknown expectation")]
    ExpectationUnknown,
    /// A field line starts with something else than a token and a colon. Folded lines (obs-fold) and
    /// whitespace before the colon end here (RFC 9112 sections 5.1 and 5.2).
    #[error("invalid field name or folded field line")]
    FieldNameInvalid,
    /// More fields than the limit.
    #[error("too many fields")]
    FieldsTooMany,
    /// A control character, such as NUL or a lone CR, in a field value (RFC 9110 section 5.5).
    #[error("control character in a field value")]
    FieldValueInvalid,
    /// The Host field is not a valid `host [":" port]`, or is empty.
    #[error("invalid host")]
    HostInvalid,
    /// An HTTP/1.1 request without Host (RFC 9112 section 3.2).
    #[error("no host")]
    HostMissing,
    /// More than one Host field (RFC 9112 section 3.2).
    #[error("more than one host")]
    HostRepeated,
    /// A line of the head does not end in CRLF, or empty lines precede the start line. RFC 9112
    /// section 2.2 lets a recipient accept a lone LF; parsers differ on it, so it is refused.
    #[error("a line does not end in crlf")]
    LineEndingInvalid,
    /// The request line is not `method SP request-target SP HTTP-version` (RFC 9112 section 3).
    #[error("invalid request line")]
    RequestLineInvalid,
    /// The status line is not `HTTP-version SP status-code [SP reason-phrase]`, or the status code is
    /// below 100 (RFC 9112 section 4).
    #[error("invalid status line")]
    StatusLineInvalid,
    /// The request target has a form that its method does not allow (RFC 9112 section 3.2).
    #[error("request target form does not fit the method")]
    TargetFormInvalid,
    /// The request target holds a fragment, a byte that is not visible ASCII, a scheme other than
    /// http and https, or an invalid authority.
    #[error("invalid request target")]
    TargetInvalid,
    /// The head is longer than the limit.
    #[error("head too large")]
    TooLarge,
    /// Transfer-Encoding in an HTTP/1.0 message (RFC 9112 section 6.1).
    #[error("transfer-encoding in an http/1.0 message")]
    TransferEncodingInHttp10,
    /// Transfer-Encoding is anything else than the single word `chunked`.
    #[error("transfer-encoding is not exactly chunked")]
    TransferEncodingInvalid,
    /// More than one Transfer-Encoding field.
    #[error("more than one transfer-encoding")]
    TransferEncodingRepeated,
    /// A registered compression coding followed by chunked: the framing is clear, but the coding is
    /// not implemented (RFC 9112 section 6.1).
    #[error("transfer coding not implemented")]
    TransferEncodingUnsupported,
    /// More than one Upgrade field in a message that asks for an upgrade.
    #[error("more than one upgrade")]
    UpgradeRepeated,
    /// The version is not written `HTTP/1.0` or `HTTP/1.1`, nor any other HTTP version.
    #[error("invalid http version")]
    VersionInvalid,
    /// An HTTP version other than 1.0 and 1.1.
    #[error("http version not supported")]
    VersionUnsupported,
}

impl HeadError {
    /// The status code to answer a refused request with. (A refused response is a 502 towards the
    /// client, whatever the reason.)
    ///
    /// All doubtful framing is 400. 501 is for one case only: compression followed by chunked, which
    /// is well framed but not implemented; RFC 9112 section 6.1 asks for 501 and Envoy answers so.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::ExpectationUnknown => 417,
            Self::FieldsTooMany | Self::TooLarge => 431,
            Self::TransferEncodingUnsupported => 501,
            Self::VersionUnsupported => 505,
            _ => 400,
        }
    }
}

impl From<crate::http::BodyForbidden> for HeadError {
    fn from(_: crate::http::BodyForbidden) -> Self {
        Self::BodyForbidden
    }
}
