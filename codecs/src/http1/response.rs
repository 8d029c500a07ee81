//! Response heads (RFC 9112 sections 4 to 6).

use super::body::BodyFraming;
use super::error::HeadError;
use super::field::{FIELDS_MAX, Field, FieldStorage};
use super::head::{ConnectionOptions, HeadLimits, RawFields, Version, survey};
use super::request::Method;

/// A complete response head, as views into the received bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseHead<'s, 'b> {
    /// The status code, 100 to 999.
    pub status: u16,
    /// The reason phrase; empty if there is none or if it is not ASCII.
    pub reason: &'b str,
    /// The version of the message.
    pub version: Version,
    /// The fields in the order received.
    pub fields: &'s [Field<'b>],
    /// The bytes of the head, from the status line to the empty line, both included.
    pub len: usize,
    /// The Connection options.
    pub connection: ConnectionOptions,
    /// The protocol of the Upgrade field, if this is an HTTP/1.1 response whose Connection field lists
    /// `upgrade`: the one switched to with 101, the ones on offer with another status.
    pub upgrade: Option<&'b [u8]>,
    content_length: Option<u64>,
    chunked: bool,
}

impl<'s, 'b> ResponseHead<'s, 'b> {
    /// Parses the response head that `buf` starts with; `None` says that it is incomplete.
    ///
    /// One leniency, since many servers need it: the space before an absent reason phrase may be
    /// absent too. An empty line before the status line is refused.
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

    /// How the body of this response to a `request_method` request is framed (RFC 9112 section 6.3).
    ///
    /// [`BodyFraming::None`] for HEAD, 1xx, 204 and 304, and also for 101 and a 2xx to CONNECT, after
    /// which the connection is a tunnel. Content-Length and Transfer-Encoding of a 2xx to CONNECT must
    /// be dropped, and so must the `Content-Length: 0` that is tolerated with 1xx and 204.
    ///
    /// # Errors
    ///
    /// [`HeadError::BodyForbidden`] if a 1xx or 204 response announces a body, as Envoy does.
    pub fn framing(&self, request_method: Method) -> Result<BodyFraming, HeadError> {
        Ok(match (self.status, request_method) {
            (100..200 | 204, _) => {
                // RFC 9112 section 6.1 and RFC 9110 section 8.6: neither field may be there. An origin
                // that counts on the body being read would have it taken for the next response.
                if self.chunked || self.content_length.is_some_and(|length| length > 0) {
                    return Err(HeadError::BodyForbidden);
                }
                BodyFraming::None
            }
            (304, _) | (_, Method::Head) | (200..300, Method::Connect) => BodyFraming::None,
            _ if self.chunked => BodyFraming::Chunked,
            _ => self.content_length.map_or(BodyFraming::UntilClose, BodyFraming::Length),
        })
    }

    /// Whether the server keeps the connection after this response (RFC 9112 section 9.3). A response
    /// whose body is framed by the close can't, whatever this says.
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
        // httparse would skip empty lines.
        if let [b'\r' | b'\n', ..] = window {
            return Err(HeadError::StatusLineInvalid);
        }
        let mut raw: RawFields<'b> = [const { std::mem::MaybeUninit::uninit() }; FIELDS_MAX];
        let raw = &mut raw[..limits.fields_max.min(FIELDS_MAX)];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let len = match config.parse_response_with_uninit_headers(&mut response, window, raw) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(parse_error(error)),
        };
        let (Some(status @ 100..), Some(reason), Some(minor)) =
            (response.code, response.reason, response.version)
        else {
            return Err(HeadError::StatusLineInvalid);
        };
        let survey = survey(&window[..len], response.headers, storage)?;
        let version = Version::from_minor(minor);
        survey.check_framing(version)?;
        Ok(Some(Self {
            status,
            reason,
            version,
            fields: &storage.fields,
            len,
            connection: survey.connection,
            upgrade: survey.upgrade(version)?,
            content_length: survey.content_length,
            chunked: survey.chunked,
        }))
    }
}

fn parse_error(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::HeaderName => HeadError::FieldNameInvalid,
        httparse::Error::HeaderValue => HeadError::FieldValueInvalid,
        httparse::Error::NewLine => HeadError::LineEndingInvalid,
        httparse::Error::Status | httparse::Error::Token => HeadError::StatusLineInvalid,
        httparse::Error::TooManyHeaders => HeadError::FieldsTooMany,
        httparse::Error::Version => HeadError::VersionInvalid,
    }
}
