//! What request and response heads share: limits, versions, and one pass over the fields.
//!
//! httparse does the byte scanning. It is lenient in ways that this proxy can't be, so [`survey`]
//! adds what it leaves out: CRLF at the end of every line, framing fields that have one reading only,
//! and Connection options that can't remove what they must not.

use std::mem::MaybeUninit;

use arrayvec::ArrayVec;

use super::error::HeadError;
use crate::http::field::{FIELDS_MAX, Field, FieldKind, FieldStorage, tokens};
use crate::http::{ConnectionOptions, Version, parse_content_length};

/// How large a head may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeadLimits {
    /// The most bytes of one head, from the start line to the empty line, both included.
    pub bytes_max: usize,
    /// The most fields of one head; above [`FIELDS_MAX`] it has no further effect.
    pub fields_max: usize,
}

impl Default for HeadLimits {
    /// Envoy's defaults: 60 KiB (`max_request_headers_kb`) and 100 fields (`max_headers_count`).
    fn default() -> Self {
        Self { bytes_max: 60 * 1024, fields_max: 100 }
    }
}

/// The most options that the Connection fields of one message may list. Each costs a comparison with
/// every field; Envoy allows ten names.
pub const CONNECTION_OPTIONS_MAX: usize = 16;

/// Slots for httparse to write to, without the cost of initialising them.
pub(super) type RawFields<'b> = [MaybeUninit<httparse::Header<'b>>; FIELDS_MAX];

/// What one pass over the fields found.
#[derive(Debug, Default)]
pub(super) struct Survey<'b> {
    pub(super) chunked: bool,
    pub(super) connection: ConnectionOptions,
    pub(super) content_length: Option<u64>,
    pub(super) expect_continue: bool,
    pub(super) expect_other: bool,
    pub(super) host: Option<&'b [u8]>,
    pub(super) host_repeated: bool,
    pub(super) te_trailers: bool,
    upgrade: Option<&'b [u8]>,
    upgrade_repeated: bool,
}

impl<'b> Survey<'b> {
    /// The Upgrade value, if it is in force: HTTP/1.1, and Connection lists `upgrade` (RFC 9110
    /// section 7.8). An Upgrade field without that option is ignored and, being hop-by-hop, dropped.
    pub(super) fn upgrade(&self, version: Version) -> Result<Option<&'b [u8]>, HeadError> {
        if !self.connection.upgrade || version == Version::Http10 {
            return Ok(None);
        }
        if self.upgrade_repeated {
            return Err(HeadError::UpgradeRepeated);
        }
        Ok(self.upgrade.filter(|protocols| !protocols.is_empty()))
    }

    /// Refuses a message whose length could be read in two ways (RFC 9112 section 6.3).
    pub(super) fn check_framing(&self, version: Version) -> Result<(), HeadError> {
        match (self.chunked, self.content_length) {
            (true, Some(_)) => Err(HeadError::ContentLengthAndTransferEncoding),
            (true, None) if version == Version::Http10 => Err(HeadError::TransferEncodingInHttp10),
            _ => Ok(()),
        }
    }
}

/// Moves the parsed fields into `storage`, classified, and collects what they say about the message.
///
/// `head` is the complete head, of which `raw` is httparse's reading.
pub(super) fn survey<'b>(
    head: &'b [u8],
    raw: &[httparse::Header<'b>],
    storage: &mut FieldStorage<'b>,
) -> Result<Survey<'b>, HeadError> {
    check_line_endings(head, raw)?;
    let mut survey = Survey::default();
    let mut named = ArrayVec::<&[u8], CONNECTION_OPTIONS_MAX>::new();
    let mut transfer_encoding_seen = false;
    storage.fields.clear();
    for header in raw {
        let field = Field::new(header.name, header.value);
        match field.kind {
            FieldKind::Connection => {
                survey_connection(field.value, &mut survey.connection, &mut named)?;
            }
            FieldKind::ContentLength => {
                let length =
                    parse_content_length(field.value).ok_or(HeadError::ContentLengthInvalid)?;
                if survey.content_length.replace(length).is_some() {
                    return Err(HeadError::ContentLengthRepeated);
                }
            }
            FieldKind::Expect if field.value.eq_ignore_ascii_case(b"100-continue") => {
                survey.expect_continue = true;
            }
            FieldKind::Expect => survey.expect_other = true,
            FieldKind::Host => {
                survey.host_repeated |= survey.host.replace(field.value).is_some();
            }
            FieldKind::Te => {
                survey.te_trailers |=
                    tokens(field.value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
            }
            FieldKind::TransferEncoding => {
                if std::mem::replace(&mut transfer_encoding_seen, true) {
                    return Err(HeadError::TransferEncodingRepeated);
                }
                check_transfer_encoding(field.value)?;
                survey.chunked = true;
            }
            FieldKind::Upgrade => {
                survey.upgrade_repeated |= survey.upgrade.replace(field.value).is_some();
            }
            _ => {}
        }
        storage.fields.try_push(field).map_err(|_| HeadError::FieldsTooMany)?;
    }
    if !named.is_empty() {
        mark_nominated(&mut storage.fields, &named);
    }
    Ok(survey)
}

/// Every line must end in CRLF, where httparse takes a lone LF as well.
///
/// httparse lets no CR or LF into a name, a value or the start line, and a name starts where its line
/// starts. So it is enough to look at the two bytes before each name and at the end of the head.
fn check_line_endings(head: &[u8], raw: &[httparse::Header<'_>]) -> Result<(), HeadError> {
    let base = head.as_ptr().addr();
    let ends_in_crlf = |line_end: usize| {
        line_end.checked_sub(2).and_then(|at| head.get(at..line_end)) == Some(b"\r\n")
    };
    let lines_end = raw.iter().all(|header| ends_in_crlf(header.name.as_ptr().addr() - base));
    if lines_end && head.ends_with(b"\r\n\r\n") {
        Ok(())
    } else {
        Err(HeadError::LineEndingInvalid)
    }
}

/// Reads one Connection field.
///
/// An option may name a hop-by-hop field, which is dropped anyway, or a field that means nothing to a
/// proxy, which is then dropped as RFC 9110 section 7.6.1 asks. An option that names any other field
/// is refused: dropping Host, Content-Length, X-Forwarded-For or Authorization on a client's word
/// would change the framing, the routing or the identity of the request, and keeping it would ignore
/// what the client said. Transfer-Encoding may be named, as some origins do, since it belongs to one
/// connection and its effect on the framing is decided before it is dropped.
fn survey_connection<'b>(
    value: &'b [u8],
    options: &mut ConnectionOptions,
    named: &mut ArrayVec<&'b [u8], CONNECTION_OPTIONS_MAX>,
) -> Result<(), HeadError> {
    for option in tokens(value) {
        if option.eq_ignore_ascii_case(b"keep-alive") {
            options.keep_alive = true;
            continue;
        }
        if option.eq_ignore_ascii_case(b"close") {
            options.close = true;
            continue;
        }
        match FieldKind::of(option) {
            FieldKind::Upgrade => options.upgrade = true,
            FieldKind::Other | FieldKind::ProxyAuthenticate | FieldKind::Trailer => {
                options.names_others = true;
                named.try_push(option).map_err(|_| HeadError::ConnectionOptionsTooMany)?;
            }
            kind if kind.is_hop_by_hop() => {}
            _ => return Err(HeadError::ConnectionNamesEndToEnd),
        }
    }
    Ok(())
}

fn mark_nominated(fields: &mut [Field<'_>], named: &[&[u8]]) {
    for field in fields {
        if !field.kind.is_hop_by_hop()
            && named.iter().any(|name| field.name.as_bytes().eq_ignore_ascii_case(name))
        {
            field.kind = FieldKind::Nominated;
        }
    }
}

/// Only the single coding `chunked` is accepted, without parameters and without other bytes.
fn check_transfer_encoding(value: &[u8]) -> Result<(), HeadError> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    Err(match is_compressed_and_chunked(value) {
        true => HeadError::TransferEncodingUnsupported,
        false => HeadError::TransferEncodingInvalid,
    })
}

/// Registered compression codings (RFC 9112 section 7.2) followed by one chunked.
fn is_compressed_and_chunked(value: &[u8]) -> bool {
    let mut compressed = false;
    let mut chunked = false;
    for coding in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        if chunked {
            return false;
        }
        if coding.eq_ignore_ascii_case(b"chunked") {
            chunked = true;
        } else if COMPRESSIONS.iter().any(|known| coding.eq_ignore_ascii_case(known)) {
            compressed = true;
        } else {
            return false;
        }
    }
    compressed && chunked
}

const COMPRESSIONS: [&[u8]; 5] = [b"compress", b"deflate", b"gzip", b"x-compress", b"x-gzip"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_framed_compression_is_not_implemented() {
        for (text, verdict) in [
            ("chunked", Ok(())),
            ("CHUNKED", Ok(())),
            ("gzip, chunked", Err(HeadError::TransferEncodingUnsupported)),
            ("x-gzip,deflate,chunked", Err(HeadError::TransferEncodingUnsupported)),
            ("gzip", Err(HeadError::TransferEncodingInvalid)),
            ("chunked, gzip", Err(HeadError::TransferEncodingInvalid)),
            ("gzip,, chunked", Err(HeadError::TransferEncodingInvalid)),
            ("identity, chunked", Err(HeadError::TransferEncodingInvalid)),
            ("", Err(HeadError::TransferEncodingInvalid)),
        ] {
            assert_eq!(check_transfer_encoding(text.as_bytes()), verdict, "{text:?}");
        }
    }
}
