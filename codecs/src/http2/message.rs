//! From field sections to messages (RFC 9113 section 8).
//!
//! HPACK gives fields whose names and values are well-formed; here they become the heads that every
//! version of HTTP shares. The invariant: a field section that passes has one reading, and that
//! reading survives being written as HTTP/1.1, so nothing can be smuggled by the translation. What
//! does not pass is refused as a whole; the only thing that is rewritten is a cookie in crumbs
//! (section 8.2.3).
//!
//! The connection checks every section with the functions of this module before it tells of it, so
//! for whoever reads a section that was told they can't fail.

use crate::http::authority::Authority;
use crate::http::field::FIELDS_MAX;
use crate::http::{
    BodyFraming, ConnectionOptions, Field, FieldBlock, FieldKind, FieldStorage, Method,
    RequestHead, ResponseHead, Target, Version, parse_content_length,
};

/// Reads a request head from the field section that starts a stream.
///
/// The target is [`Target::Origin`], [`Target::Asterisk`], or for a plain CONNECT
/// [`Target::Authority`]; an extended CONNECT (RFC 8441) has a path and its `:protocol` in
/// [`RequestHead::upgrade`]. Without `:authority` the authority is that of Host; where both are there
/// they are equal. The framing is that of Content-Length, none at all if the head ends the stream,
/// and [`BodyFraming::Chunked`] where only the stream tells the end.
///
/// # Errors
///
/// Which rule of RFC 9113 section 8 is broken.
pub fn request_head<'s, 'b>(
    block: &'b FieldBlock,
    end_stream: bool,
    storage: &'s mut FieldStorage<'b>,
) -> Result<RequestHead<'s, 'b>, MessageError> {
    let survey = RequestSurvey::of(block)?;
    let (target, authority) = survey.target()?;
    let framing = survey.framing(end_stream)?;
    fill(storage, block, survey.pseudo_count)?;
    Ok(RequestHead {
        method: survey.method,
        method_text: survey.method_text,
        target,
        version: Version::Http2,
        scheme: survey.scheme,
        fields: &storage.fields,
        len: block.text_len(),
        authority,
        framing,
        connection: ConnectionOptions::default(),
        expect_continue: survey.expect_continue && !framing.is_empty(),
        upgrade: survey.protocol,
        te_trailers: survey.te_trailers,
    })
}

/// Reads a response head, interim ones included.
///
/// # Errors
///
/// Which rule of RFC 9113 section 8 is broken.
pub fn response_head<'s, 'b>(
    block: &'b FieldBlock,
    end_stream: bool,
    storage: &'s mut FieldStorage<'b>,
) -> Result<ResponseHead<'s, 'b>, MessageError> {
    let survey = ResponseSurvey::of(block, end_stream)?;
    fill(storage, block, PSEUDO_OF_RESPONSE)?;
    let bodiless = matches!(survey.status, 100..200 | 204 | 304);
    Ok(ResponseHead {
        status: survey.status,
        reason: "",
        version: Version::Http2,
        fields: &storage.fields,
        len: block.text_len(),
        connection: ConnectionOptions::default(),
        upgrade: None,
        ended: end_stream,
        content_length: survey.content_length,
        // "Chunked" stands for a length that only the end of the stream tells.
        chunked: !end_stream && !bodiless && survey.content_length.is_none(),
    })
}

/// Reads a trailer section.
///
/// Fields that frame, address or describe a connection are refused (RFC 9113 section 8.1, RFC 9110
/// section 6.5.1); what else a proxy gives no meaning in trailers is passed on. HTTP/1.1 is stricter
/// here, so who forwards to it must leave out all but [`FieldKind::Other`].
///
/// # Errors
///
/// Which rule of RFC 9113 section 8 is broken.
pub fn trailers<'s, 'b>(
    block: &'b FieldBlock,
    storage: &'s mut FieldStorage<'b>,
) -> Result<&'s [Field<'b>], MessageError> {
    check_trailers(block)?;
    fill(storage, block, 0)?;
    Ok(&storage.fields)
}

/// Why a message is malformed (RFC 9113 section 8.1.1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// `:authority` or Host is not a valid `host [":" port]`; a CONNECT needs the port.
    #[error("invalid authority")]
    AuthorityInvalid,
    /// Neither `:authority` nor Host.
    #[error("no authority")]
    AuthorityMissing,
    /// Host names another authority than `:authority` (section 8.3.1).
    #[error("host differs from authority")]
    AuthorityTwofold,
    /// A CONNECT that announces content (RFC 9110 section 9.3.6).
    #[error("connect with content")]
    ConnectWithContent,
    /// A field that belongs to HTTP/1 connections (section 8.2.2).
    #[error("connection-specific field")]
    ConnectionSpecific,
    /// Content-Length is not one plain decimal number below 2^63.
    #[error("content-length is not a plain decimal number")]
    ContentLengthInvalid,
    /// More than one Content-Length field, even with equal values.
    #[error("more than one content-length")]
    ContentLengthRepeated,
    /// The content is longer or shorter than Content-Length says (section 8.1.1).
    #[error("content differs from content-length")]
    ContentLengthWrong,
    /// Content before the response head.
    #[error("content before the response head")]
    ContentTooEarly,
    /// A second field section that does not end the stream (section 8.1).
    #[error("trailers do not end the stream")]
    EndMissing,
    /// A name that isn't a token in lower case, or a value with a control character or with
    /// whitespace at its ends (section 8.2.1).
    #[error("invalid field")]
    FieldInvalid,
    /// More fields than a message may have.
    #[error("too many fields")]
    FieldsTooMany,
    /// More than one Host field.
    #[error("more than one host")]
    HostRepeated,
    /// An interim response that ends the stream (section 8.1).
    #[error("interim response ends the stream")]
    InterimEnds,
    /// `:method` is not a token.
    #[error("invalid method")]
    MethodInvalid,
    /// `:path` doesn't start with `/`, isn't `*` of OPTIONS, or holds a fragment or a byte that isn't
    /// visible ASCII.
    #[error("invalid path")]
    PathInvalid,
    /// `:protocol` without CONNECT, without our having allowed it, or not a token (RFC 8441).
    #[error("protocol not allowed")]
    ProtocolInvalid,
    /// A pseudo-header field after a regular one, or in trailers (section 8.3).
    #[error("pseudo-header field out of place")]
    PseudoMisplaced,
    /// A pseudo-header field is missing, or one is there that a CONNECT may not have (sections 8.3.1
    /// and 8.5).
    #[error("wrong set of pseudo-header fields")]
    PseudoSet,
    /// A pseudo-header field is there twice.
    #[error("pseudo-header field repeated")]
    PseudoRepeated,
    /// A pseudo-header field that this kind of message doesn't have.
    #[error("unknown pseudo-header field")]
    PseudoUnknown,
    /// `:scheme` is neither `http` nor `https`.
    #[error("invalid scheme")]
    SchemeInvalid,
    /// `:status` is not a number from 100 to 999, or is 101, which HTTP/2 doesn't have (section 8.6).
    #[error("invalid status")]
    StatusInvalid,
    /// TE holds anything else than `trailers` (section 8.2.2).
    #[error("te other than trailers")]
    TeInvalid,
    /// A trailer field that frames or addresses the message.
    #[error("field not allowed in trailers")]
    TrailerForbidden,
}

impl MessageError {
    /// The status code to answer a refused request with, where it is answered at all.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::FieldsTooMany => 431,
            _ => 400,
        }
    }
}

/// What a connection needs to know of a request head that it tells of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct RequestFacts {
    pub(super) content_length: Option<u64>,
    /// How many Cookie fields there are.
    pub(super) cookies: usize,
}

/// Checks a request head; `extended_connect` says whether we have announced it.
pub(super) fn check_request(
    block: &FieldBlock,
    end_stream: bool,
    extended_connect: bool,
) -> Result<RequestFacts, MessageError> {
    let survey = RequestSurvey::of(block)?;
    if survey.protocol.is_some() && !extended_connect {
        return Err(MessageError::ProtocolInvalid);
    }
    survey.target()?;
    survey.framing(end_stream)?;
    // The stream of a CONNECT is a tunnel, which has no length.
    let connect = survey.method == Method::Connect;
    let content_length = survey.content_length.filter(|_| !connect);
    Ok(RequestFacts { content_length, cookies: survey.cookies })
}

/// What a connection needs to know of a response head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ResponseFacts {
    /// 1xx: the response head is still to come.
    pub(super) interim: bool,
    /// The content that must come: by Content-Length, or none by the status or the method.
    pub(super) content_length: Option<u64>,
}

/// Checks the head of a response to a `method` request.
pub(super) fn check_response(
    block: &FieldBlock,
    end_stream: bool,
    method: Method,
) -> Result<ResponseFacts, MessageError> {
    let survey = ResponseSurvey::of(block, end_stream)?;
    let content_length = match (survey.status, method) {
        // RFC 9110 section 8.6: what is announced here is what another response would have.
        (100..200 | 204 | 304, _) | (_, Method::Head) => Some(0),
        (200..300, Method::Connect) => None,
        _ => survey.content_length,
    };
    if end_stream && content_length.is_some_and(|length| length > 0) {
        return Err(MessageError::ContentLengthWrong);
    }
    Ok(ResponseFacts { interim: survey.status < 200, content_length })
}

/// Checks a trailer section.
pub(super) fn check_trailers(block: &FieldBlock) -> Result<(), MessageError> {
    for field in block.iter() {
        if field.name.starts_with(':') {
            return Err(MessageError::PseudoMisplaced);
        }
        check_field(&field)?;
        if matches!(field.kind, FieldKind::ContentLength | FieldKind::Host | FieldKind::Te) {
            return Err(MessageError::TrailerForbidden);
        }
    }
    Ok(())
}

/// Puts the crumbs of a cookie together again (RFC 9113 section 8.2.3), where the first one is.
/// `value` and `joined` are cleared first; `block` becomes the result.
pub(super) fn join_cookies(block: &mut FieldBlock, joined: &mut FieldBlock, value: &mut Vec<u8>) {
    let mut never_indexed = false;
    value.clear();
    for crumb in block.iter().filter(|field| field.kind == FieldKind::Cookie) {
        if !value.is_empty() {
            value.extend_from_slice(b"; ");
        }
        value.extend_from_slice(crumb.value);
        never_indexed |= crumb.never_indexed;
    }
    joined.clear();
    let mut seen = false;
    for field in block.iter() {
        match field.kind {
            FieldKind::Cookie if std::mem::replace(&mut seen, true) => {}
            FieldKind::Cookie => joined.push_as(field.name, value, field.kind, never_indexed),
            _ => joined.push_as(field.name, field.value, field.kind, field.never_indexed),
        }
    }
    std::mem::swap(block, joined);
}

/// One pass over the fields of a request head.
struct RequestSurvey<'b> {
    method: Method,
    method_text: &'b str,
    scheme: Option<&'static str>,
    path: Option<&'b [u8]>,
    authority: Option<&'b [u8]>,
    protocol: Option<&'b [u8]>,
    pseudo_count: usize,
    host: Option<&'b [u8]>,
    content_length: Option<u64>,
    expect_continue: bool,
    te_trailers: bool,
    cookies: usize,
}

impl<'b> RequestSurvey<'b> {
    fn of(block: &'b FieldBlock) -> Result<Self, MessageError> {
        let mut survey = Self {
            method: Method::Other,
            method_text: "",
            scheme: None,
            path: None,
            authority: None,
            protocol: None,
            pseudo_count: 0,
            host: None,
            content_length: None,
            expect_continue: false,
            te_trailers: false,
            cookies: 0,
        };
        let mut regular = 0_usize;
        for field in block.iter() {
            if field.name.starts_with(':') {
                if regular > 0 {
                    return Err(MessageError::PseudoMisplaced);
                }
                survey.pseudo(&field)?;
                continue;
            }
            regular += 1;
            survey.regular(&field)?;
        }
        if survey.method_text.is_empty() {
            return Err(MessageError::PseudoSet);
        }
        Ok(survey)
    }

    fn pseudo(&mut self, field: &Field<'b>) -> Result<(), MessageError> {
        self.pseudo_count += 1;
        let repeated = match field.name {
            ":method" => {
                let repeated = !self.method_text.is_empty();
                self.method_text = token(field.value).ok_or(MessageError::MethodInvalid)?;
                self.method = Method::of(self.method_text);
                repeated
            }
            ":scheme" => {
                let scheme = match field.value {
                    b"http" => "http",
                    b"https" => "https",
                    value if value.eq_ignore_ascii_case(b"http") => "http",
                    value if value.eq_ignore_ascii_case(b"https") => "https",
                    _ => return Err(MessageError::SchemeInvalid),
                };
                self.scheme.replace(scheme).is_some()
            }
            ":path" => self.path.replace(field.value).is_some(),
            ":authority" => self.authority.replace(field.value).is_some(),
            ":protocol" => {
                token(field.value).ok_or(MessageError::ProtocolInvalid)?;
                self.protocol.replace(field.value).is_some()
            }
            _ => return Err(MessageError::PseudoUnknown),
        };
        if repeated { Err(MessageError::PseudoRepeated) } else { Ok(()) }
    }

    fn regular(&mut self, field: &Field<'b>) -> Result<(), MessageError> {
        check_field(field)?;
        match field.kind {
            FieldKind::ContentLength => set_content_length(&mut self.content_length, field.value)?,
            FieldKind::Cookie => self.cookies += 1,
            // An expectation that is unknown here may be known to whom the request is for.
            FieldKind::Expect => {
                self.expect_continue |= field.value.eq_ignore_ascii_case(b"100-continue");
            }
            FieldKind::Host if self.host.replace(field.value).is_some() => {
                return Err(MessageError::HostRepeated);
            }
            FieldKind::Te => self.te_trailers = true,
            _ => {}
        }
        Ok(())
    }

    /// The target and the authority (RFC 9113 sections 8.3.1 and 8.5, RFC 8441 section 4).
    fn target(&self) -> Result<(Target<'b>, &'b str), MessageError> {
        let authority = self.authority()?;
        if self.method == Method::Connect && self.protocol.is_none() {
            if self.scheme.is_some() || self.path.is_some() || self.authority.is_none() {
                return Err(MessageError::PseudoSet);
            }
            if authority.port.is_none() {
                return Err(MessageError::AuthorityInvalid);
            }
            return Ok((Target::Authority(authority.text), authority.text));
        }
        let (Some(_), Some(path)) = (self.scheme, self.path) else {
            return Err(MessageError::PseudoSet);
        };
        if self.protocol.is_some() {
            if self.method != Method::Connect {
                return Err(MessageError::ProtocolInvalid);
            }
            if self.authority.is_none() {
                return Err(MessageError::PseudoSet);
            }
        }
        Ok((target(path, self.method)?, authority.text))
    }

    fn authority(&self) -> Result<Authority<'b>, MessageError> {
        let parse = |text| Authority::parse(text).ok_or(MessageError::AuthorityInvalid);
        match (self.authority, self.host) {
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
                Err(MessageError::AuthorityTwofold)
            }
            (Some(authority), _) => parse(authority),
            (None, Some(host)) => parse(host),
            (None, None) => Err(MessageError::AuthorityMissing),
        }
    }

    fn framing(&self, end_stream: bool) -> Result<BodyFraming, MessageError> {
        let announced = self.content_length.is_some_and(|length| length > 0);
        if self.method == Method::Connect {
            return match announced {
                true => Err(MessageError::ConnectWithContent),
                false => Ok(BodyFraming::None),
            };
        }
        match (self.content_length, end_stream) {
            (Some(_), true) if announced => Err(MessageError::ContentLengthWrong),
            (Some(length), _) => Ok(BodyFraming::Length(length)),
            (None, true) => Ok(BodyFraming::None),
            (None, false) => Ok(BodyFraming::Chunked),
        }
    }
}

/// A path and query, or `*` of OPTIONS.
fn target(path: &[u8], method: Method) -> Result<Target<'_>, MessageError> {
    match path {
        b"*" if method == Method::Options => Ok(Target::Asterisk),
        [b'/', rest @ ..] if rest.iter().all(|&byte| is_target_byte(byte)) => {
            let text = str::from_utf8(path).map_err(|_| MessageError::PathInvalid)?;
            Ok(Target::Origin(text))
        }
        _ => Err(MessageError::PathInvalid),
    }
}

/// Visible ASCII but the start of a fragment; HTTP/1 request lines are held to the same.
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

/// One pass over the fields of a response head.
struct ResponseSurvey {
    status: u16,
    content_length: Option<u64>,
}

impl ResponseSurvey {
    fn of(block: &FieldBlock, end_stream: bool) -> Result<Self, MessageError> {
        let (mut status, mut content_length) = (None, None);
        let mut regular = 0_usize;
        for field in block.iter() {
            match field.name {
                ":status" if regular == 0 => {
                    if status.replace(parse_status(field.value)?).is_some() {
                        return Err(MessageError::PseudoRepeated);
                    }
                    continue;
                }
                ":status" => return Err(MessageError::PseudoMisplaced),
                name if name.starts_with(':') => return Err(MessageError::PseudoUnknown),
                _ => regular += 1,
            }
            check_field(&field)?;
            if field.kind == FieldKind::ContentLength {
                set_content_length(&mut content_length, field.value)?;
            }
        }
        let status = status.ok_or(MessageError::PseudoSet)?;
        if end_stream && status < 200 {
            return Err(MessageError::InterimEnds);
        }
        Ok(Self { status, content_length })
    }
}

/// `:status` is all that a response has (RFC 9113 section 8.3.2).
const PSEUDO_OF_RESPONSE: usize = 1;

/// Three digits; 101 switches protocols, which HTTP/2 does otherwise (section 8.6).
fn parse_status(value: &[u8]) -> Result<u16, MessageError> {
    let &[hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = value else {
        return Err(MessageError::StatusInvalid);
    };
    let digit = |byte: u8| u16::from(byte - b'0');
    match digit(hundreds) * 100 + digit(tens) * 10 + digit(ones) {
        101 => Err(MessageError::StatusInvalid),
        status => Ok(status),
    }
}

/// What holds for regular fields of every section (RFC 9113 section 8.2.2).
fn check_field(field: &Field<'_>) -> Result<(), MessageError> {
    match field.kind {
        FieldKind::Connection
        | FieldKind::KeepAlive
        | FieldKind::ProxyConnection
        | FieldKind::TransferEncoding
        | FieldKind::Upgrade => Err(MessageError::ConnectionSpecific),
        FieldKind::Te if !field.value.eq_ignore_ascii_case(b"trailers") => {
            Err(MessageError::TeInvalid)
        }
        _ => Ok(()),
    }
}

fn set_content_length(length: &mut Option<u64>, value: &[u8]) -> Result<(), MessageError> {
    let parsed = parse_content_length(value).ok_or(MessageError::ContentLengthInvalid)?;
    match length.replace(parsed) {
        Some(_) => Err(MessageError::ContentLengthRepeated),
        None => Ok(()),
    }
}

/// A non-empty token (RFC 9110 section 5.6.2).
fn token(value: &[u8]) -> Option<&str> {
    let valid = !value.is_empty() && value.iter().all(|&byte| is_token_byte(byte));
    str::from_utf8(value).ok().filter(|_| valid)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Moves the fields after the pseudo-header fields into `storage`.
fn fill<'b>(
    storage: &mut FieldStorage<'b>,
    block: &'b FieldBlock,
    pseudo_count: usize,
) -> Result<(), MessageError> {
    if block.len() - pseudo_count.min(block.len()) > FIELDS_MAX {
        return Err(MessageError::FieldsTooMany);
    }
    storage.fields.clear();
    storage.fields.extend(block.iter().skip(pseudo_count));
    Ok(())
}
