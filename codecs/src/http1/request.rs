//! Request heads (RFC 9112 sections 2 to 3 and 5).

use crate::http::authority::Authority;
use crate::http::field::{FIELDS_MAX, FieldStorage};
use crate::http::{BodyFraming, Method, RequestHead, Target, Version};

use super::error::HeadError;
use super::head::{HeadLimits, RawFields, Survey, survey};

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
        let target = parse_target(method, target)?;
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
            scheme: None,
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

/// The target, in one of the forms that `method` allows.
fn parse_target(method: Method, text: &str) -> Result<Target<'_>, HeadError> {
    // httparse has refused controls, spaces and DEL, but lets UTF-8 and fragments pass.
    if !text.is_ascii() || memchr::memchr(b'#', text.as_bytes()).is_some() {
        return Err(HeadError::TargetInvalid);
    }
    if method == Method::Connect {
        return match Authority::parse(text.as_bytes()) {
            Some(Authority { text, port: Some(_) }) => Ok(Target::Authority(text)),
            _ => Err(HeadError::TargetFormInvalid),
        };
    }
    if text.starts_with('/') {
        return Ok(Target::Origin(text));
    }
    match (text, method) {
        ("*", Method::Options) => Ok(Target::Asterisk),
        ("*", _) => Err(HeadError::TargetFormInvalid),
        _ => parse_absolute_target(method, text),
    }
}

fn parse_absolute_target(method: Method, text: &str) -> Result<Target<'_>, HeadError> {
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
    Ok(Target::Absolute { scheme, authority: authority.text, path })
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
