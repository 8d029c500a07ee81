//! Response heads (RFC 9112 sections 4 to 6).

use crate::http::field::{FIELDS_MAX, FieldStorage};
use crate::http::{ResponseHead, Version};

use super::error::HeadError;
use super::head::{HeadLimits, RawFields, survey};

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
            ended: false,
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
