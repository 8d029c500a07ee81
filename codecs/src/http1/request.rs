//! Request heads (RFC 9112 sections 2 to 3 and 5).

use super::authority::Authority;
use super::body::BodyFraming;
use super::error::HeadError;
use super::field::{FIELDS_MAX, Field, FieldStorage};
use super::head::{ConnectionOptions, HeadLimits, RawFields, Survey, Version, survey};

/// A complete request head, as views into the received bytes.
///
/// A value of this type is unambiguous: its target has the form that its method allows, its authority
/// is well-formed, and its body has exactly one length.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestHead<'s, 'b> {
    /// The method, if it is one that a proxy may treat in a way of its own.
    pub method: Method,
    /// The method as received; methods are case-sensitive.
    pub method_text: &'b str,
    /// What the request is for.
    pub target: Target<'b>,
    /// The version of the message.
    pub version: Version,
    /// The fields in the order received.
    pub fields: &'s [Field<'b>],
    /// The bytes of the head: an empty line before it, the final empty line, and all between.
    pub len: usize,
    /// The authority of an absolute-form or authority-form target, else Host; empty for an HTTP/1.0
    /// request without Host. When it comes from the target, the Host field must not be forwarded but
    /// replaced by it (RFC 9112 section 3.2.2).
    pub authority: &'b str,
    /// How the body is framed; [`BodyFraming::UntilClose`] never occurs in a request.
    ///
    /// GET and HEAD may carry a body if they frame it, and so may a request that asks for an upgrade:
    /// the body ends where its framing says, and the new protocol starts after it, once the server
    /// has sent 101 (RFC 9110 section 7.8). CONNECT may not.
    pub framing: BodyFraming,
    /// The Connection options.
    pub connection: ConnectionOptions,
    /// The client waits for 100 (Continue) before it sends the body. True only for an HTTP/1.1
    /// request with a body; elsewhere the expectation means nothing (RFC 9110 section 10.1.1).
    pub expect_continue: bool,
    /// The protocols of the Upgrade field, if this is an HTTP/1.1 request whose Connection field lists
    /// `upgrade`. Who forwards it decides which protocols to let through; h2c, for one, would let the
    /// client speak past this proxy's policies.
    pub upgrade: Option<&'b [u8]>,
    /// TE lists `trailers`: the client accepts trailers in the response (RFC 9110 section 6.5.1).
    pub te_trailers: bool,
}

impl<'s, 'b> RequestHead<'s, 'b> {
    /// Parses the request head that `buf` starts with; `None` says that it is incomplete.
    ///
    /// At most one empty line before the request line is skipped (RFC 9112 section 2.2).
    ///
    /// # Errors
    ///
    /// Any deviation from RFC 9112 that a second parser could read otherwise, and any limit exceeded.
    /// The verdict does not depend on how much of what follows the head is in `buf`.
    pub fn parse(
        buf: &'b [u8],
        storage: &'s mut FieldStorage<'b>,
        limits: &HeadLimits,
    ) -> Result<Option<Self>, HeadError> {
        // Bytes past the limit are not looked at, so the verdict is the same however they arrive.
        let window = &buf[..buf.len().min(limits.bytes_max)];
        let head = Self::parse_window(window, storage, limits)?;
        if head.is_none() && window.len() == limits.bytes_max {
            return Err(HeadError::TooLarge);
        }
        Ok(head)
    }

    /// Whether the client keeps the connection after this request (RFC 9112 section 9.3): HTTP/1.1
    /// unless it says `close`, HTTP/1.0 only if it says `keep-alive`.
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.connection.keep_alive(self.version)
    }

    /// The first field with this name, compared without case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'s Field<'b>> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))
    }

    /// Whether `field`, one of this head, must not be forwarded as it is; see
    /// [`FieldKind::is_hop_by_hop`](super::FieldKind::is_hop_by_hop).
    #[must_use]
    pub fn is_hop_by_hop(&self, field: &Field<'_>) -> bool {
        field.kind.is_hop_by_hop()
    }

    fn parse_window(
        window: &'b [u8],
        storage: &'s mut FieldStorage<'b>,
        limits: &HeadLimits,
    ) -> Result<Option<Self>, HeadError> {
        let skipped = match window {
            [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => 2,
            _ => 0,
        };
        let rest = &window[skipped..];
        // httparse would skip any number of empty lines, and LF alone as one of them.
        if let [b'\r' | b'\n', ..] = rest {
            return Err(HeadError::LineEndingInvalid);
        }

        let mut raw: RawFields<'b> = [const { std::mem::MaybeUninit::uninit() }; FIELDS_MAX];
        let raw = &mut raw[..limits.fields_max.min(FIELDS_MAX)];
        let mut request = httparse::Request::new(&mut []);
        let head_len = match request.parse_with_uninit_headers(rest, raw) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(parse_error(error, rest)),
        };
        let (Some(method_text), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(HeadError::RequestLineInvalid);
        };
        let survey = survey(&rest[..head_len], request.headers, storage)?;

        let method = Method::of(method_text);
        let target = Target::parse(method, target)?;
        let version = Version::from_minor(minor);
        let authority = authority(&target, survey.host, survey.host_repeated, version)?;
        let framing = framing(method, version, &survey)?;
        let upgrade = survey.upgrade(version)?;
        if survey.expect_other {
            return Err(HeadError::ExpectationUnknown);
        }
        Ok(Some(Self {
            method,
            method_text,
            target,
            version,
            fields: &storage.fields,
            len: skipped + head_len,
            authority,
            framing,
            connection: survey.connection,
            expect_continue: survey.expect_continue
                && version == Version::Http11
                && !framing.is_empty(),
            upgrade,
            te_trailers: survey.te_trailers,
        }))
    }
}

/// A method that a proxy may have to treat in a way of its own (RFC 9110 section 9, RFC 5789).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Method {
    /// CONNECT.
    Connect,
    /// DELETE.
    Delete,
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// OPTIONS.
    Options,
    /// Any other token; the exact text is kept beside it.
    Other,
    /// PATCH.
    Patch,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// TRACE.
    Trace,
}

impl Method {
    /// Recognises a method, with regard to case.
    #[must_use]
    pub fn of(text: &str) -> Self {
        match text {
            "CONNECT" => Self::Connect,
            "DELETE" => Self::Delete,
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "OPTIONS" => Self::Options,
            "PATCH" => Self::Patch,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }
}

/// The request target in one of its four forms (RFC 9112 section 3.2).
///
/// It holds visible ASCII only, and no fragment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target<'b> {
    /// An absolute URI, as sent to a proxy.
    Absolute {
        /// `http` or `https`, in the case received. Other schemes are refused.
        scheme: &'b str,
        /// A valid, non-empty `host [":" port]`.
        authority: &'b str,
        /// Path and query, which start with `/`. If the URI has neither, `/`, and `*` for OPTIONS
        /// (RFC 9112 section 3.2.4). A URI with a query but no path is refused: its origin-form can't
        /// be had by cutting, and normalised http URIs have a path (RFC 9110 section 4.2.3).
        path: &'b str,
    },
    /// `*`, with OPTIONS only.
    Asterisk,
    /// `host ":" port`, with CONNECT only.
    Authority(&'b str),
    /// Path and query, which start with `/`.
    Origin(&'b str),
}

impl<'b> Target<'b> {
    fn parse(method: Method, text: &'b str) -> Result<Self, HeadError> {
        // httparse has refused controls, spaces and DEL, but lets UTF-8 and fragments pass.
        if !text.is_ascii() || memchr::memchr(b'#', text.as_bytes()).is_some() {
            return Err(HeadError::TargetInvalid);
        }
        if method == Method::Connect {
            return match Authority::parse(text.as_bytes()) {
                Some(Authority { text, port: Some(_) }) => Ok(Self::Authority(text)),
                _ => Err(HeadError::TargetFormInvalid),
            };
        }
        if text.starts_with('/') {
            return Ok(Self::Origin(text));
        }
        match (text, method) {
            ("*", Method::Options) => Ok(Self::Asterisk),
            ("*", _) => Err(HeadError::TargetFormInvalid),
            _ => Self::parse_absolute(method, text),
        }
    }

    fn parse_absolute(method: Method, text: &'b str) -> Result<Self, HeadError> {
        let (scheme, rest) = text.split_once("://").ok_or(HeadError::TargetFormInvalid)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(HeadError::TargetInvalid);
        }
        let authority_len = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(authority_len);
        let authority = Authority::parse(authority.as_bytes()).ok_or(HeadError::TargetInvalid)?;
        let path = match path {
            "" if method == Method::Options => "*",
            "" => "/",
            path if path.starts_with('/') => path,
            _ => return Err(HeadError::TargetInvalid),
        };
        Ok(Self::Absolute { scheme, authority: authority.text, path })
    }
}

/// The authority of a request. Host must be there and well-formed even where the target overrules it
/// (RFC 9112 section 3.2), since what is behind may look at it instead.
fn authority<'b>(
    target: &Target<'b>,
    host: Option<&'b [u8]>,
    host_repeated: bool,
    version: Version,
) -> Result<&'b str, HeadError> {
    if host_repeated {
        return Err(HeadError::HostRepeated);
    }
    let host = match host {
        Some(host) => Authority::parse(host).ok_or(HeadError::HostInvalid)?.text,
        None if version == Version::Http10 => "",
        None => return Err(HeadError::HostMissing),
    };
    Ok(match target {
        Target::Absolute { authority, .. } | Target::Authority(authority) => authority,
        Target::Asterisk | Target::Origin(_) => host,
    })
}

/// The body's framing, by RFC 9112 section 6.3 without its tolerance.
fn framing(
    method: Method,
    version: Version,
    survey: &Survey<'_>,
) -> Result<BodyFraming, HeadError> {
    survey.check_framing(version)?;
    let framing = match (survey.chunked, survey.content_length) {
        (true, _) => BodyFraming::Chunked,
        (false, Some(length)) => BodyFraming::Length(length),
        (false, None) => BodyFraming::None,
    };
    if method != Method::Connect {
        return Ok(framing);
    }
    // A CONNECT request has no content; what follows the head is the tunnel (RFC 9110 section 9.3.6).
    // `Content-Length: 0` agrees with that, and must be dropped.
    match framing.is_empty() {
        true => Ok(BodyFraming::None),
        false => Err(HeadError::BodyForbidden),
    }
}

fn parse_error(error: httparse::Error, request: &[u8]) -> HeadError {
    match error {
        httparse::Error::HeaderName => HeadError::FieldNameInvalid,
        httparse::Error::HeaderValue => HeadError::FieldValueInvalid,
        httparse::Error::NewLine => HeadError::LineEndingInvalid,
        httparse::Error::Status | httparse::Error::Token => HeadError::RequestLineInvalid,
        httparse::Error::TooManyHeaders => HeadError::FieldsTooMany,
        httparse::Error::Version => version_error(request),
    }
}

/// Tells a version that is not supported from text that is no version.
fn version_error(request: &[u8]) -> HeadError {
    let mut words = request.splitn(3, |&byte| byte == b' ').skip(2);
    match words.next().unwrap_or_default() {
        [b'H', b'T', b'T', b'P', b'/', b'0' | b'2'..=b'9', ..]
        | [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9', ..] => {
            HeadError::VersionUnsupported
        }
        _ => HeadError::VersionInvalid,
    }
}
