//! Messages that two parsers may read in two ways, and what becomes of each.
//!
//! The families are those of the published request-smuggling corpora: CL.TE, TE.CL, TE.TE, CL.0 and
//! 0.CL, field names and whitespace, line endings, request lines, Host, Connection, versions, chunk
//! sizes, chunk extensions and trailers. The tables also hold the nearest well-formed neighbours, so
//! that strictness does not turn into refusing what RFC 9112 allows.

use std::collections::HashSet;

use outrigger_codecs::http::{BodyFraming, FieldStorage, Method, RequestHead, ResponseHead};
use outrigger_codecs::http1::{ChunkedDecoder, ChunkedError, ChunkedLimits, HeadError, HeadLimits};

/// A name, a message, and how its body is framed or why it is refused.
type HeadCase = (&'static str, &'static [u8], Result<BodyFraming, HeadError>);
/// A name, a body, and its data or why it is refused.
type ChunkedCase = (&'static str, &'static [u8], Result<&'static [u8], ChunkedError>);

/// A POST with these field lines after a valid Host.
macro_rules! post {
    ($fields:expr) => {
        concat!("POST /p HTTP/1.1\r\nHost: a.example\r\n", $fields, "\r\n").as_bytes()
    };
}

/// A GET with this in place of the Host line.
macro_rules! get_host {
    ($lines:expr) => {
        concat!("GET / HTTP/1.1\r\n", $lines, "\r\n").as_bytes()
    };
}

/// A request line with a valid Host.
macro_rules! line {
    ($line:expr) => {
        concat!($line, "\r\nHost: a.example\r\n\r\n").as_bytes()
    };
}

/// A 200 response with these field lines.
macro_rules! ok {
    ($fields:expr) => {
        concat!("HTTP/1.1 200 OK\r\n", $fields, "\r\n").as_bytes()
    };
}

use BodyFraming::{Chunked, Length, None as NoBody, UntilClose};

const REQUESTS: &[HeadCase] = &[
    // Well-formed neighbours.
    ("plain GET", line!("GET / HTTP/1.1"), Ok(NoBody)),
    ("POST with length", post!("Content-Length: 5\r\n"), Ok(Length(5))),
    ("POST with zero length", post!("Content-Length: 0\r\n"), Ok(Length(0))),
    ("POST chunked", post!("Transfer-Encoding: chunked\r\n"), Ok(Chunked)),
    ("POST chunked, other case", post!("tRANSFER-eNCODING: CHUNKED\r\n"), Ok(Chunked)),
    (
        "POST chunked, tabs and spaces around",
        post!("Transfer-Encoding:\t chunked \t\r\n"),
        Ok(Chunked),
    ),
    ("POST chunked, no space after colon", post!("Transfer-Encoding:chunked\r\n"), Ok(Chunked)),
    ("GET with body", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", Ok(Length(3))),
    ("HEAD with body", b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", Ok(Length(3))),
    (
        "largest length",
        post!("Content-Length: 9223372036854775807\r\n"),
        Ok(Length(i64::MAX as u64)),
    ),
    ("obs-text in value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x80\xff\r\n\r\n", Ok(NoBody)),
    ("tab in value", post!("X: a\tb\r\n"), Ok(NoBody)),
    ("empty value", post!("X:\r\n"), Ok(NoBody)),
    ("value of spaces only", post!("X:   \r\n"), Ok(NoBody)),
    ("one empty line first", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(NoBody)),
    // CL.TE and TE.CL: both present, in every order and dress.
    (
        "CL.TE",
        post!("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n"),
        Err(HeadError::ContentLengthAndTransferEncoding),
    ),
    (
        "TE.CL",
        post!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"),
        Err(HeadError::ContentLengthAndTransferEncoding),
    ),
    (
        "CL.TE with zero length",
        post!("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        Err(HeadError::ContentLengthAndTransferEncoding),
    ),
    (
        "CL.TE in GET",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(HeadError::ContentLengthAndTransferEncoding),
    ),
    (
        "CL.TE, framing fields far apart",
        post!("Content-Length: 6\r\nA: b\r\nC: d\r\ntransfer-encoding: chunked\r\n"),
        Err(HeadError::ContentLengthAndTransferEncoding),
    ),
    (
        "CL.TE where TE is invalid",
        post!("Content-Length: 6\r\nTransfer-Encoding: xchunked\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "CL.TE where CL is invalid",
        post!("Transfer-Encoding: chunked\r\nContent-Length: x\r\n"),
        Err(HeadError::ContentLengthInvalid),
    ),
    // CL.CL.
    (
        "two lengths that differ",
        post!("Content-Length: 5\r\nContent-Length: 6\r\n"),
        Err(HeadError::ContentLengthRepeated),
    ),
    (
        "two lengths that agree",
        post!("Content-Length: 5\r\nContent-Length: 5\r\n"),
        Err(HeadError::ContentLengthRepeated),
    ),
    (
        "two lengths, other case",
        post!("Content-Length: 5\r\ncontent-length: 5\r\n"),
        Err(HeadError::ContentLengthRepeated),
    ),
    (
        "length list that agrees",
        post!("Content-Length: 5, 5\r\n"),
        Err(HeadError::ContentLengthInvalid),
    ),
    (
        "length list that differs",
        post!("Content-Length: 5,6\r\n"),
        Err(HeadError::ContentLengthInvalid),
    ),
    (
        "length with trailing comma",
        post!("Content-Length: 5,\r\n"),
        Err(HeadError::ContentLengthInvalid),
    ),
    // Odd lengths.
    ("length empty", post!("Content-Length:\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length blank", post!("Content-Length:  \r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length plus", post!("Content-Length: +5\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length minus", post!("Content-Length: -5\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length minus zero", post!("Content-Length: -0\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length hex", post!("Content-Length: 0x5\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length hex digits", post!("Content-Length: a\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length octal", post!("Content-Length: 010\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length many zeros", post!("Content-Length: 0000\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length fraction", post!("Content-Length: 5.0\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length exponent", post!("Content-Length: 1e1\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length underscore", post!("Content-Length: 1_0\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length inner space", post!("Content-Length: 1 0\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("length quoted", post!("Content-Length: \"5\"\r\n"), Err(HeadError::ContentLengthInvalid)),
    (
        "length with parameter",
        post!("Content-Length: 5;a\r\n"),
        Err(HeadError::ContentLengthInvalid),
    ),
    (
        "length 2^63",
        post!("Content-Length: 9223372036854775808\r\n"),
        Err(HeadError::ContentLengthInvalid),
    ),
    (
        "length 2^64",
        post!("Content-Length: 18446744073709551616\r\n"),
        Err(HeadError::ContentLengthInvalid),
    ),
    (
        "length 2^64 + 5",
        post!("Content-Length: 18446744073709551621\r\n"),
        Err(HeadError::ContentLengthInvalid),
    ),
    (
        "length arabic digit",
        post!("Content-Length: \u{665}\r\n"),
        Err(HeadError::ContentLengthInvalid),
    ),
    (
        "length no-break space",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xa05\r\n\r\n",
        Err(HeadError::ContentLengthInvalid),
    ),
    ("length vertical tab", post!("Content-Length: \x0b5\r\n"), Err(HeadError::FieldValueInvalid)),
    ("length NUL", post!("Content-Length: 5\0\r\n"), Err(HeadError::FieldValueInvalid)),
    // TE.TE: obfuscated transfer codings.
    (
        "TE xchunked",
        post!("Transfer-Encoding: xchunked\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE chunkedx",
        post!("Transfer-Encoding: chunkedx\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    ("TE chunke", post!("Transfer-Encoding: chunke\r\n"), Err(HeadError::TransferEncodingInvalid)),
    (
        "TE x-chunked",
        post!("Transfer-Encoding: x-chunked\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    ("TE empty", post!("Transfer-Encoding:\r\n"), Err(HeadError::TransferEncodingInvalid)),
    (
        "TE identity",
        post!("Transfer-Encoding: identity\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE identity with length",
        post!("Transfer-Encoding: identity\r\nContent-Length: 5\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    ("TE cow", post!("Transfer-Encoding: cow\r\n"), Err(HeadError::TransferEncodingInvalid)),
    (
        "TE quoted",
        post!("Transfer-Encoding: \"chunked\"\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE single-quoted",
        post!("Transfer-Encoding: 'chunked'\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE parameter",
        post!("Transfer-Encoding: chunked;q=1\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE semicolon",
        post!("Transfer-Encoding: chunked;\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE trailing comma",
        post!("Transfer-Encoding: chunked,\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE leading comma",
        post!("Transfer-Encoding: ,chunked\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE chunked twice",
        post!("Transfer-Encoding: chunked, chunked\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE chunked cow",
        post!("Transfer-Encoding: chunked cow\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE chunked, cow",
        post!("Transfer-Encoding: chunked, cow\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE chunked, identity",
        post!("Transfer-Encoding: chunked, identity\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE identity, chunked",
        post!("Transfer-Encoding: identity, chunked\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE chunked not last",
        post!("Transfer-Encoding: chunked, gzip\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    ("TE gzip only", post!("Transfer-Encoding: gzip\r\n"), Err(HeadError::TransferEncodingInvalid)),
    (
        "TE gzip, chunked",
        post!("Transfer-Encoding: gzip, chunked\r\n"),
        Err(HeadError::TransferEncodingUnsupported),
    ),
    (
        "TE twice",
        post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        Err(HeadError::TransferEncodingRepeated),
    ),
    (
        "TE chunked then cow in a second field",
        post!("Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n"),
        Err(HeadError::TransferEncodingRepeated),
    ),
    (
        "TE cow then chunked in a second field",
        post!("Transfer-encoding: cow\r\nTransfer-Encoding: chunked\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE empty then chunked in a second field",
        post!("Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE leading vertical tab",
        post!("Transfer-Encoding: \x0bchunked\r\n"),
        Err(HeadError::FieldValueInvalid),
    ),
    (
        "TE trailing vertical tab",
        post!("Transfer-Encoding: chunked\x0b\r\n"),
        Err(HeadError::FieldValueInvalid),
    ),
    (
        "TE form feed",
        post!("Transfer-Encoding: \x0cchunked\r\n"),
        Err(HeadError::FieldValueInvalid),
    ),
    ("TE NUL", post!("Transfer-Encoding: chunked\0\r\n"), Err(HeadError::FieldValueInvalid)),
    (
        "TE backspace",
        post!("Transfer-Encoding: \x08chunked\r\n"),
        Err(HeadError::FieldValueInvalid),
    ),
    ("TE DEL", post!("Transfer-Encoding: chunked\x7f\r\n"), Err(HeadError::FieldValueInvalid)),
    (
        "TE lone CR before the value",
        post!("Transfer-Encoding: \rchunked\r\n"),
        Err(HeadError::FieldValueInvalid),
    ),
    (
        "TE lone CR after the value",
        post!("Transfer-Encoding: chunked\r\r\n"),
        Err(HeadError::FieldValueInvalid),
    ),
    (
        "TE lone LF before the value",
        post!("Transfer-Encoding: \nchunked\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    (
        "TE no-break space",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \xa0chunked\r\n\r\n",
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE next-line",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\x85\r\n\r\n",
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE high byte inside",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chun\xffked\r\n\r\n",
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE Kelvin sign for k",
        post!("Transfer-Encoding: chun\u{212a}ed\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE UTF-7 lookalike",
        post!("Transfer-Encoding: chunk+AGUAZA-\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    (
        "TE in HTTP/1.0",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(HeadError::TransferEncodingInHttp10),
    ),
    (
        "TE and CL in HTTP/1.0",
        b"POST / HTTP/1.0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(HeadError::ContentLengthAndTransferEncoding),
    ),
    // Field names, whitespace and folding.
    (
        "space before colon",
        post!("Transfer-Encoding : chunked\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    (
        "tab before colon",
        post!("Transfer-Encoding\t: chunked\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    (
        "length with space before colon",
        post!("Content-Length : 5\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    (
        "vertical tab before colon",
        post!("Transfer-Encoding\x0b: chunked\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    (
        "CR before colon",
        post!("Transfer-Encoding\r: chunked\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    ("NUL in name", post!("Transfer-Encoding\0: chunked\r\n"), Err(HeadError::FieldNameInvalid)),
    ("NUL inside name", post!("Transfer\0Encoding: chunked\r\n"), Err(HeadError::FieldNameInvalid)),
    (
        "space before name",
        post!(" Transfer-Encoding: chunked\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    (
        "tab before name",
        post!("\tTransfer-Encoding: chunked\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    (
        "space inside name",
        post!("Transfer Encoding: chunked\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    ("slash in name", post!("Transfer/Encoding: chunked\r\n"), Err(HeadError::FieldNameInvalid)),
    ("quoted name", post!("\"Transfer-Encoding\": chunked\r\n"), Err(HeadError::FieldNameInvalid)),
    (
        "brackets in name",
        post!("(Transfer-Encoding): chunked\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    ("empty name", post!(": chunked\r\n"), Err(HeadError::FieldNameInvalid)),
    ("no colon", post!("Transfer-Encoding chunked\r\n"), Err(HeadError::FieldNameInvalid)),
    ("name only", post!("Transfer-Encoding\r\n"), Err(HeadError::FieldNameInvalid)),
    ("UTF-8 in name", post!("Tr\u{e4}nsfer: a\r\n"), Err(HeadError::FieldNameInvalid)),
    (
        "high byte in name",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\xa0: chunked\r\n\r\n",
        Err(HeadError::FieldNameInvalid),
    ),
    (
        "two colons",
        post!("Transfer-Encoding:: chunked\r\n"),
        Err(HeadError::TransferEncodingInvalid),
    ),
    // An underscore makes another name, which is what the next three forward.
    ("underscore in TE name", post!("Transfer_Encoding: chunked\r\n"), Ok(NoBody)),
    ("underscore in CL name", post!("Content_Length: 5\r\n"), Ok(NoBody)),
    ("TE name with a suffix", post!("Transfer-Encoding-X: chunked\r\n"), Ok(NoBody)),
    (
        "folded TE value",
        post!("Transfer-Encoding:\r\n chunked\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    (
        "folded TE value with tab",
        post!("Transfer-Encoding:\r\n\tchunked\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    ("folded other value", post!("X: a\r\n b\r\n"), Err(HeadError::FieldNameInvalid)),
    (
        "TE hidden in a fold",
        post!("X: a\r\n Transfer-Encoding: chunked\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    (
        "folded first line",
        b"POST / HTTP/1.1\r\n Host: a\r\nContent-Length: 5\r\n\r\n",
        Err(HeadError::FieldNameInvalid),
    ),
    ("fold of spaces only", post!("X: a\r\n  \r\n"), Err(HeadError::FieldNameInvalid)),
    // Line endings.
    (
        "LF after the request line",
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        Err(HeadError::LineEndingInvalid),
    ),
    (
        "LF after a field",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        Err(HeadError::LineEndingInvalid),
    ),
    (
        "LF after an empty value",
        b"GET / HTTP/1.1\r\nHost: a\r\nX:\nY: b\r\n\r\n",
        Err(HeadError::LineEndingInvalid),
    ),
    (
        "LF after the last field",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        Err(HeadError::LineEndingInvalid),
    ),
    ("LF as the last line", b"GET / HTTP/1.1\r\nHost: a\r\n\n", Err(HeadError::LineEndingInvalid)),
    ("LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n", Err(HeadError::LineEndingInvalid)),
    (
        "LF hides a second request",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\n\nGET /x HTTP/1.1\r\n\r\n",
        Err(HeadError::LineEndingInvalid),
    ),
    (
        "LF hides a TE",
        post!("X: a\nTransfer-Encoding: chunked\r\n"),
        Err(HeadError::LineEndingInvalid),
    ),
    ("CR as a line ending", b"GET / HTTP/1.1\rHost: a\r\n\r\n", Err(HeadError::LineEndingInvalid)),
    (
        "CR hides a TE",
        post!("X: a\rTransfer-Encoding: chunked\r\n"),
        Err(HeadError::FieldValueInvalid),
    ),
    ("CR CR LF", post!("X: a\r\r\n"), Err(HeadError::FieldValueInvalid)),
    ("LF CR", b"GET / HTTP/1.1\n\rHost: a\r\n\r\n", Err(HeadError::LineEndingInvalid)),
    ("NUL in value", post!("X: a\0b\r\n"), Err(HeadError::FieldValueInvalid)),
    ("escape in value", post!("X: a\x1bb\r\n"), Err(HeadError::FieldValueInvalid)),
    ("DEL in value", post!("X: a\x7fb\r\n"), Err(HeadError::FieldValueInvalid)),
    ("LF first", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(HeadError::LineEndingInvalid)),
    (
        "two empty lines first",
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Err(HeadError::LineEndingInvalid),
    ),
    (
        "CRLF and LF first",
        b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Err(HeadError::LineEndingInvalid),
    ),
    ("CR first", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(HeadError::LineEndingInvalid)),
    // Request lines.
    ("space first", line!(" GET / HTTP/1.1"), Err(HeadError::RequestLineInvalid)),
    ("two spaces after the method", line!("GET  / HTTP/1.1"), Err(HeadError::RequestLineInvalid)),
    ("two spaces after the target", line!("GET /  HTTP/1.1"), Err(HeadError::VersionInvalid)),
    ("space after the version", line!("GET / HTTP/1.1 "), Err(HeadError::LineEndingInvalid)),
    ("tab after the method", line!("GET\t/ HTTP/1.1"), Err(HeadError::RequestLineInvalid)),
    ("tab after the target", line!("GET /\tHTTP/1.1"), Err(HeadError::RequestLineInvalid)),
    ("space in the target", line!("GET /a b HTTP/1.1"), Err(HeadError::VersionInvalid)),
    (
        "second request in the target",
        line!("GET /a HTTP/1.1 /b HTTP/1.1"),
        Err(HeadError::LineEndingInvalid),
    ),
    ("vertical tab in the target", line!("GET /\x0b HTTP/1.1"), Err(HeadError::RequestLineInvalid)),
    ("NUL in the target", line!("GET /\0 HTTP/1.1"), Err(HeadError::RequestLineInvalid)),
    ("DEL in the target", line!("GET /\x7f HTTP/1.1"), Err(HeadError::RequestLineInvalid)),
    ("CR in the target", line!("GET /\ra HTTP/1.1"), Err(HeadError::RequestLineInvalid)),
    ("UTF-8 in the target", line!("GET /\u{e4} HTTP/1.1"), Err(HeadError::TargetInvalid)),
    (
        "high byte in the target",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        Err(HeadError::RequestLineInvalid),
    ),
    ("fragment", line!("GET /a#b HTTP/1.1"), Err(HeadError::TargetInvalid)),
    ("no target", line!("GET HTTP/1.1"), Err(HeadError::RequestLineInvalid)),
    ("no version", line!("GET /"), Err(HeadError::RequestLineInvalid)),
    ("HTTP/0.9", b"GET /\r\n\r\n", Err(HeadError::RequestLineInvalid)),
    ("HTTP/0.9 by name", line!("GET / HTTP/0.9"), Err(HeadError::VersionUnsupported)),
    ("HTTP/1.2", line!("GET / HTTP/1.2"), Err(HeadError::VersionUnsupported)),
    ("HTTP/1.10", line!("GET / HTTP/1.10"), Err(HeadError::LineEndingInvalid)),
    ("HTTP/2.0", line!("GET / HTTP/2.0"), Err(HeadError::VersionUnsupported)),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Err(HeadError::VersionUnsupported)),
    ("lower-case version", line!("GET / http/1.1"), Err(HeadError::VersionInvalid)),
    ("version without name", line!("GET / 1.1"), Err(HeadError::VersionInvalid)),
    ("version HTTPS/1.1", line!("GET / HTTPS/1.1"), Err(HeadError::VersionInvalid)),
    ("version HTTP/01.1", line!("GET / HTTP/01.1"), Err(HeadError::VersionUnsupported)),
    ("version HTTP/1.1x", line!("GET / HTTP/1.1x"), Err(HeadError::LineEndingInvalid)),
    ("method with a slash", line!("GE/T / HTTP/1.1"), Err(HeadError::RequestLineInvalid)),
    ("method with a colon", line!("GET: / HTTP/1.1"), Err(HeadError::RequestLineInvalid)),
    (
        "method with a high byte",
        b"G\xcbT / HTTP/1.1\r\nHost: a\r\n\r\n",
        Err(HeadError::RequestLineInvalid),
    ),
    (
        "TLS hello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        Err(HeadError::RequestLineInvalid),
    ),
    ("lower-case method is another method", line!("get / HTTP/1.1"), Ok(NoBody)),
    // Target forms.
    ("target without slash", line!("GET a HTTP/1.1"), Err(HeadError::TargetFormInvalid)),
    ("query without path", line!("GET ?a HTTP/1.1"), Err(HeadError::TargetFormInvalid)),
    ("asterisk with GET", line!("GET * HTTP/1.1"), Err(HeadError::TargetFormInvalid)),
    ("asterisk with OPTIONS", line!("OPTIONS * HTTP/1.1"), Ok(NoBody)),
    (
        "authority-form with GET",
        line!("GET a.example:80 HTTP/1.1"),
        Err(HeadError::TargetFormInvalid),
    ),
    ("absolute-form", line!("GET http://b.example/x HTTP/1.1"), Ok(NoBody)),
    ("absolute-form without path", line!("GET http://b.example HTTP/1.1"), Ok(NoBody)),
    (
        "absolute-form with query but no path",
        line!("GET http://b.example?x HTTP/1.1"),
        Err(HeadError::TargetInvalid),
    ),
    (
        "absolute-form without authority",
        line!("GET http:///x HTTP/1.1"),
        Err(HeadError::TargetInvalid),
    ),
    (
        "absolute-form with one slash",
        line!("GET http:/x HTTP/1.1"),
        Err(HeadError::TargetFormInvalid),
    ),
    (
        "absolute-form with user",
        line!("GET http://u@b.example/ HTTP/1.1"),
        Err(HeadError::TargetInvalid),
    ),
    (
        "absolute-form with backslash",
        line!("GET http://b.example\\x/ HTTP/1.1"),
        Err(HeadError::TargetInvalid),
    ),
    (
        "absolute-form with port 0",
        line!("GET http://b.example:0/ HTTP/1.1"),
        Err(HeadError::TargetInvalid),
    ),
    (
        "absolute-form with port 65536",
        line!("GET http://b.example:65536/ HTTP/1.1"),
        Err(HeadError::TargetInvalid),
    ),
    (
        "absolute-form, other scheme",
        line!("GET ftp://b.example/ HTTP/1.1"),
        Err(HeadError::TargetInvalid),
    ),
    (
        "absolute-form with bad Host beside",
        b"GET http://b.example/ HTTP/1.1\r\nHost: a b\r\n\r\n",
        Err(HeadError::HostInvalid),
    ),
    (
        "absolute-form without Host",
        b"GET http://b.example/ HTTP/1.1\r\n\r\n",
        Err(HeadError::HostMissing),
    ),
    (
        "absolute-form with two Hosts",
        b"GET http://b.example/ HTTP/1.1\r\nHost: b.example\r\nHost: c\r\n\r\n",
        Err(HeadError::HostRepeated),
    ),
    // CONNECT.
    ("CONNECT", line!("CONNECT b.example:443 HTTP/1.1"), Ok(NoBody)),
    ("CONNECT to IPv6", line!("CONNECT [::1]:443 HTTP/1.1"), Ok(NoBody)),
    (
        "CONNECT without port",
        line!("CONNECT b.example HTTP/1.1"),
        Err(HeadError::TargetFormInvalid),
    ),
    (
        "CONNECT with empty port",
        line!("CONNECT b.example: HTTP/1.1"),
        Err(HeadError::TargetFormInvalid),
    ),
    (
        "CONNECT with path",
        line!("CONNECT b.example:443/x HTTP/1.1"),
        Err(HeadError::TargetFormInvalid),
    ),
    ("CONNECT origin-form", line!("CONNECT / HTTP/1.1"), Err(HeadError::TargetFormInvalid)),
    (
        "CONNECT absolute-form",
        line!("CONNECT http://b.example:443 HTTP/1.1"),
        Err(HeadError::TargetFormInvalid),
    ),
    (
        "CONNECT with length",
        b"CONNECT b:443 HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\n",
        Err(HeadError::BodyForbidden),
    ),
    (
        "CONNECT chunked",
        b"CONNECT b:443 HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(HeadError::BodyForbidden),
    ),
    (
        "CONNECT with zero length",
        b"CONNECT b:443 HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n",
        Ok(NoBody),
    ),
    // Host.
    ("no Host", get_host!(""), Err(HeadError::HostMissing)),
    ("no Host in HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", Ok(NoBody)),
    ("two Hosts that agree", get_host!("Host: a\r\nHost: a\r\n"), Err(HeadError::HostRepeated)),
    ("two Hosts that differ", get_host!("Host: a\r\nhost: b\r\n"), Err(HeadError::HostRepeated)),
    (
        "two Hosts in HTTP/1.0",
        b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        Err(HeadError::HostRepeated),
    ),
    ("two Hosts, one empty", get_host!("Host: a\r\nHost:\r\n"), Err(HeadError::HostRepeated)),
    ("Host empty", get_host!("Host:\r\n"), Err(HeadError::HostInvalid)),
    ("Host with user", get_host!("Host: a@b\r\n"), Err(HeadError::HostInvalid)),
    ("Host with space", get_host!("Host: a b\r\n"), Err(HeadError::HostInvalid)),
    ("Host with tab", get_host!("Host: a\tb\r\n"), Err(HeadError::HostInvalid)),
    ("Host with path", get_host!("Host: a/b\r\n"), Err(HeadError::HostInvalid)),
    ("Host with list", get_host!("Host: a, b\r\n"), Err(HeadError::HostInvalid)),
    ("Host with scheme", get_host!("Host: http://a\r\n"), Err(HeadError::HostInvalid)),
    ("Host with query", get_host!("Host: a?b\r\n"), Err(HeadError::HostInvalid)),
    ("Host with fragment", get_host!("Host: a#b\r\n"), Err(HeadError::HostInvalid)),
    ("Host with backslash", get_host!("Host: a\\b\r\n"), Err(HeadError::HostInvalid)),
    ("Host with odd port", get_host!("Host: a:8a\r\n"), Err(HeadError::HostInvalid)),
    ("Host with two ports", get_host!("Host: a:80:81\r\n"), Err(HeadError::HostInvalid)),
    ("Host with signed port", get_host!("Host: a:+80\r\n"), Err(HeadError::HostInvalid)),
    ("Host with UTF-8", get_host!("Host: \u{e4}\r\n"), Err(HeadError::HostInvalid)),
    ("Host with open bracket", get_host!("Host: [::1\r\n"), Err(HeadError::HostInvalid)),
    ("Host with text after bracket", get_host!("Host: [::1]a\r\n"), Err(HeadError::HostInvalid)),
    ("Host with broken escape", get_host!("Host: a%2\r\n"), Err(HeadError::HostInvalid)),
    ("Host with space before colon", get_host!("Host : a\r\n"), Err(HeadError::FieldNameInvalid)),
    ("Host folded", get_host!("Host: a\r\n b\r\n"), Err(HeadError::FieldNameInvalid)),
    (
        "Host after a leading space",
        get_host!(" Host: b\r\nHost: a\r\n"),
        Err(HeadError::FieldNameInvalid),
    ),
    // Connection.
    (
        "Connection names Host",
        post!("Connection: close, Host\r\n"),
        Err(HeadError::ConnectionNamesEndToEnd),
    ),
    (
        "Connection names Content-Length",
        post!("Connection: content-length\r\nContent-Length: 5\r\n"),
        Err(HeadError::ConnectionNamesEndToEnd),
    ),
    (
        "Connection names X-Forwarded-For",
        post!("Connection: X-Forwarded-For\r\n"),
        Err(HeadError::ConnectionNamesEndToEnd),
    ),
    (
        "Connection names Authorization",
        post!("Connection: Authorization\r\n"),
        Err(HeadError::ConnectionNamesEndToEnd),
    ),
    (
        "Connection names x-envoy field",
        post!("Connection: x-envoy-a\r\n"),
        Err(HeadError::ConnectionNamesEndToEnd),
    ),
    (
        "Connection names Transfer-Encoding",
        post!("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n"),
        Ok(Chunked),
    ),
    (
        "Connection names too much",
        post!("Connection: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p\r\nConnection: q\r\n"),
        Err(HeadError::ConnectionOptionsTooMany),
    ),
    // Upgrade and Expect.
    (
        "upgrade with body",
        post!("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n"),
        Ok(Length(5)),
    ),
    (
        "upgrade twice",
        post!("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"),
        Err(HeadError::UpgradeRepeated),
    ),
    (
        "unknown expectation",
        post!("Expect: 200-ok\r\nContent-Length: 5\r\n"),
        Err(HeadError::ExpectationUnknown),
    ),
    (
        "obfuscated expectation",
        post!("Expect: 100-continue, x\r\nContent-Length: 5\r\n"),
        Err(HeadError::ExpectationUnknown),
    ),
    ("expectation", post!("Expect: 100-Continue\r\nContent-Length: 5\r\n"), Ok(Length(5))),
];

const RESPONSES: &[HeadCase] = &[
    ("plain", ok!(""), Ok(UntilClose)),
    ("length", ok!("Content-Length: 5\r\n"), Ok(Length(5))),
    ("chunked", ok!("Transfer-Encoding: chunked\r\n"), Ok(Chunked)),
    ("no reason phrase", b"HTTP/1.1 200 \r\n\r\n", Ok(UntilClose)),
    ("no reason phrase and no space", b"HTTP/1.1 200\r\n\r\n", Ok(UntilClose)),
    ("204 without length", b"HTTP/1.1 204 No Content\r\n\r\n", Ok(NoBody)),
    ("204 with zero length", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Ok(NoBody)),
    (
        "204 with length",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        Err(HeadError::BodyForbidden),
    ),
    (
        "204 chunked",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(HeadError::BodyForbidden),
    ),
    (
        "100 with length",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n",
        Err(HeadError::BodyForbidden),
    ),
    (
        "101 chunked",
        b"HTTP/1.1 101 X\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(HeadError::BodyForbidden),
    ),
    ("304 with length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Ok(NoBody)),
    (
        "both",
        ok!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        Err(HeadError::ContentLengthAndTransferEncoding),
    ),
    (
        "two lengths",
        ok!("Content-Length: 5\r\nContent-Length: 5\r\n"),
        Err(HeadError::ContentLengthRepeated),
    ),
    ("length list", ok!("Content-Length: 5, 5\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("odd length", ok!("Content-Length: -1\r\n"), Err(HeadError::ContentLengthInvalid)),
    ("odd coding", ok!("Transfer-Encoding: xchunked\r\n"), Err(HeadError::TransferEncodingInvalid)),
    (
        "coding twice",
        ok!("Transfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
        Err(HeadError::TransferEncodingRepeated),
    ),
    (
        "chunked in HTTP/1.0",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(HeadError::TransferEncodingInHttp10),
    ),
    ("folded field", ok!("X: a\r\n b\r\n"), Err(HeadError::FieldNameInvalid)),
    ("space before colon", ok!("Content-Length : 5\r\n"), Err(HeadError::FieldNameInvalid)),
    (
        "LF after the status line",
        b"HTTP/1.1 200 OK\nX: a\r\n\r\n",
        Err(HeadError::LineEndingInvalid),
    ),
    ("LF after a field", ok!("X: a\nY: b\r\n"), Err(HeadError::LineEndingInvalid)),
    ("LF as the last line", b"HTTP/1.1 200 OK\r\nX: a\r\n\n", Err(HeadError::LineEndingInvalid)),
    ("CR in the reason", b"HTTP/1.1 200 O\rK\r\n\r\n", Err(HeadError::StatusLineInvalid)),
    ("NUL in the reason", b"HTTP/1.1 200 O\0K\r\n\r\n", Err(HeadError::StatusLineInvalid)),
    ("empty line first", b"\r\nHTTP/1.1 200 OK\r\n\r\n", Err(HeadError::StatusLineInvalid)),
    ("LF first", b"\nHTTP/1.1 200 OK\r\n\r\n", Err(HeadError::StatusLineInvalid)),
    ("two spaces before the code", b"HTTP/1.1  200 OK\r\n\r\n", Err(HeadError::StatusLineInvalid)),
    ("code of two digits", b"HTTP/1.1 20 OK\r\n\r\n", Err(HeadError::StatusLineInvalid)),
    ("code of four digits", b"HTTP/1.1 2000 OK\r\n\r\n", Err(HeadError::StatusLineInvalid)),
    ("code below 100", b"HTTP/1.1 099 OK\r\n\r\n", Err(HeadError::StatusLineInvalid)),
    ("signed code", b"HTTP/1.1 +20 OK\r\n\r\n", Err(HeadError::StatusLineInvalid)),
    ("HTTP/2.0", b"HTTP/2.0 200 OK\r\n\r\n", Err(HeadError::VersionInvalid)),
    ("HTTP/1.2", b"HTTP/1.2 200 OK\r\n\r\n", Err(HeadError::VersionInvalid)),
    ("ICY", b"ICY 200 OK\r\n\r\n", Err(HeadError::VersionInvalid)),
    ("HTTP/0.9 body", b"<html></html>\r\n\r\n", Err(HeadError::VersionInvalid)),
    (
        "Connection names Content-Length",
        ok!("Connection: content-length\r\n"),
        Err(HeadError::ConnectionNamesEndToEnd),
    ),
];

const CHUNKED: &[ChunkedCase] = &[
    ("empty", b"0\r\n\r\n", Ok(b"")),
    ("one chunk", b"5\r\nhello\r\n0\r\n\r\n", Ok(b"hello")),
    ("two chunks", b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", Ok(b"hello world")),
    (
        "hex in both cases",
        b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
        Ok(b"01234567890123456789a"),
    ),
    ("leading zeros", b"0005\r\nhello\r\n00\r\n\r\n", Ok(b"hello")),
    ("16 digits", b"0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", Ok(b"hello")),
    ("CRLF in data", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", Ok(b"\r\n\r\n")),
    ("last-chunk text in data", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", Ok(b"0\r\n\r\n")),
    // Sizes.
    ("size with 0x", b"0x5\r\nhello\r\n0\r\n\r\n", Err(ChunkedError::SizeInvalid)),
    ("size with plus", b"+5\r\nhello\r\n0\r\n\r\n", Err(ChunkedError::SizeInvalid)),
    ("size with minus", b"-5\r\nhello\r\n0\r\n\r\n", Err(ChunkedError::SizeInvalid)),
    ("size minus zero", b"-0\r\n\r\n", Err(ChunkedError::SizeInvalid)),
    ("size with leading space", b" 5\r\nhello\r\n0\r\n\r\n", Err(ChunkedError::SizeInvalid)),
    ("size with trailing space", b"5 \r\nhello\r\n0\r\n\r\n", Err(ChunkedError::SizeInvalid)),
    ("size with trailing tab", b"5\t\r\nhello\r\n0\r\n\r\n", Err(ChunkedError::SizeInvalid)),
    ("size with underscore", b"1_0\r\n", Err(ChunkedError::SizeInvalid)),
    ("size with other letter", b"5g\r\nhello\r\n", Err(ChunkedError::SizeInvalid)),
    ("size with comma", b"5,5\r\nhello\r\n", Err(ChunkedError::SizeInvalid)),
    ("size with NUL", b"5\0\r\nhello\r\n", Err(ChunkedError::SizeInvalid)),
    ("size with high byte", b"5\xa0\r\nhello\r\n", Err(ChunkedError::SizeInvalid)),
    ("size with h", b"5h\r\nhello\r\n", Err(ChunkedError::SizeInvalid)),
    ("size empty", b"\r\nhello\r\n", Err(ChunkedError::SizeInvalid)),
    ("size empty with extension", b";a\r\nhello\r\n", Err(ChunkedError::SizeInvalid)),
    ("size quoted", b"\"5\"\r\nhello\r\n", Err(ChunkedError::SizeInvalid)),
    ("17 digits", b"00000000000000005\r\nhello\r\n", Err(ChunkedError::SizeTooLarge)),
    ("17 digits that wrap", b"10000000000000005\r\nhello\r\n", Err(ChunkedError::SizeTooLarge)),
    ("size 2^63", b"8000000000000000\r\n", Err(ChunkedError::SizeTooLarge)),
    ("size 2^64-1", b"ffffffffffffffff\r\n", Err(ChunkedError::SizeTooLarge)),
    ("size LF", b"5\nhello\r\n0\r\n\r\n", Err(ChunkedError::LineEndingInvalid)),
    ("size CR without LF", b"5\rhello\r\n0\r\n\r\n", Err(ChunkedError::LineEndingInvalid)),
    ("size CR CR LF", b"5\r\r\nhello\r\n0\r\n\r\n", Err(ChunkedError::LineEndingInvalid)),
    ("LF before any size", b"\n5\r\nhello\r\n", Err(ChunkedError::LineEndingInvalid)),
    ("last size LF", b"0\n\r\n", Err(ChunkedError::LineEndingInvalid)),
    // The end of a chunk's data.
    ("no CRLF after data", b"5\r\nhello0\r\n\r\n", Err(ChunkedError::DataEndInvalid)),
    ("LF after data", b"5\r\nhello\n0\r\n\r\n", Err(ChunkedError::DataEndInvalid)),
    ("CR without LF after data", b"5\r\nhello\r0\r\n\r\n", Err(ChunkedError::DataEndInvalid)),
    ("two bytes after data", b"5\r\nhelloXX0\r\n\r\n", Err(ChunkedError::DataEndInvalid)),
    ("data longer than its size", b"4\r\nhello\r\n0\r\n\r\n", Err(ChunkedError::DataEndInvalid)),
    ("data shorter than its size", b"6\r\nhello\r\n0\r\n\r\n", Err(ChunkedError::DataEndInvalid)),
    ("empty line between chunks", b"5\r\nhello\r\n\r\n0\r\n\r\n", Err(ChunkedError::SizeInvalid)),
    // Extensions.
    ("extension", b"5;a\r\nhello\r\n0;b\r\n\r\n", Ok(b"hello")),
    ("extension with value", b"5;a=b;c\r\nhello\r\n0\r\n\r\n", Ok(b"hello")),
    ("extension with quoted value", b"5;a=\"b;\\\"c\x80 \t\"\r\nhello\r\n0\r\n\r\n", Ok(b"hello")),
    ("extension with LF", b"5;a\nhello\r\n0\r\n\r\n", Err(ChunkedError::LineEndingInvalid)),
    (
        "extension with LF that hides a chunk",
        b"2;\nxx\r\n4c\r\n0\r\n\r\n",
        Err(ChunkedError::LineEndingInvalid),
    ),
    ("extension with quoted LF", b"5;a=\"\n\"\r\nhello\r\n", Err(ChunkedError::LineEndingInvalid)),
    ("extension with quoted CR", b"5;a=\"\r\n\"\r\nhello\r\n", Err(ChunkedError::ExtensionInvalid)),
    ("extension with CR inside", b"5;a\rb\r\nhello\r\n", Err(ChunkedError::LineEndingInvalid)),
    ("extension with NUL", b"5;a\0\r\nhello\r\n", Err(ChunkedError::ExtensionInvalid)),
    ("extension with space", b"5; a\r\nhello\r\n", Err(ChunkedError::ExtensionInvalid)),
    ("extension with space before", b"5 ;a\r\nhello\r\n", Err(ChunkedError::SizeInvalid)),
    ("extension without name", b"5;\r\nhello\r\n", Err(ChunkedError::ExtensionInvalid)),
    ("extension with two semicolons", b"5;;a\r\nhello\r\n", Err(ChunkedError::ExtensionInvalid)),
    ("extension without value", b"5;a=\r\nhello\r\n", Err(ChunkedError::ExtensionInvalid)),
    ("extension with high byte", b"5;\xff\r\nhello\r\n", Err(ChunkedError::ExtensionInvalid)),
    (
        "extension with text after quotes",
        b"5;a=\"b\"c\r\nhello\r\n",
        Err(ChunkedError::ExtensionInvalid),
    ),
    ("extension with open quotes", b"5;a=\"b\r\nhello\r\n", Err(ChunkedError::ExtensionInvalid)),
    // Trailers.
    ("trailer", b"0\r\ngrpc-status: 0\r\n\r\n", Ok(b"")),
    ("trailer without value", b"0\r\nx:\r\n\r\n", Ok(b"")),
    ("trailer with obs-text", b"0\r\nx: \xff\r\n\r\n", Ok(b"")),
    (
        "trailer Content-Length",
        b"0\r\nContent-Length: 5\r\n\r\n",
        Err(ChunkedError::TrailerForbidden),
    ),
    (
        "trailer Transfer-Encoding",
        b"0\r\ntransfer-encoding: chunked\r\n\r\n",
        Err(ChunkedError::TrailerForbidden),
    ),
    ("trailer Host", b"0\r\nHost: b\r\n\r\n", Err(ChunkedError::TrailerForbidden)),
    ("trailer Trailer", b"0\r\nTrailer: a\r\n\r\n", Err(ChunkedError::TrailerForbidden)),
    ("trailer Connection", b"0\r\nConnection: close\r\n\r\n", Err(ChunkedError::TrailerForbidden)),
    (
        "trailer Authorization",
        b"0\r\nAuthorization: a\r\n\r\n",
        Err(ChunkedError::TrailerForbidden),
    ),
    (
        "trailer X-Forwarded-For",
        b"0\r\nX-Forwarded-For: a\r\n\r\n",
        Err(ChunkedError::TrailerForbidden),
    ),
    (
        "trailer after a good one",
        b"0\r\na: b\r\nContent-Length: 5\r\n\r\n",
        Err(ChunkedError::TrailerForbidden),
    ),
    ("trailer without colon", b"0\r\nGET /x HTTP/1.1\r\n\r\n", Err(ChunkedError::TrailerInvalid)),
    (
        "trailer that is a request",
        b"0\r\nGET http://a/ HTTP/1.1\r\n\r\n",
        Err(ChunkedError::TrailerInvalid),
    ),
    ("trailer with space before colon", b"0\r\na : b\r\n\r\n", Err(ChunkedError::TrailerInvalid)),
    ("trailer with empty name", b"0\r\n: b\r\n\r\n", Err(ChunkedError::TrailerInvalid)),
    ("trailer folded", b"0\r\na: b\r\n c\r\n\r\n", Err(ChunkedError::TrailerInvalid)),
    ("trailer with NUL", b"0\r\na: \0\r\n\r\n", Err(ChunkedError::TrailerInvalid)),
    ("trailer with LF", b"0\r\na: b\n\r\n", Err(ChunkedError::LineEndingInvalid)),
    ("trailer with CR", b"0\r\na: b\rc: d\r\n\r\n", Err(ChunkedError::LineEndingInvalid)),
    ("trailer with NUL after CR", b"0\r\na: b\r\0\r\n", Err(ChunkedError::LineEndingInvalid)),
    ("LF as the last line", b"0\r\n\n", Err(ChunkedError::LineEndingInvalid)),
    ("CR without LF as the last line", b"0\r\n\rGET", Err(ChunkedError::LineEndingInvalid)),
];

#[test]
fn requests() {
    for &(name, message, expected) in REQUESTS {
        let mut storage = FieldStorage::new();
        let verdict = RequestHead::parse(message, &mut storage, &HeadLimits::default());
        let verdict = verdict.map(|head| head.unwrap_or_else(|| panic!("{name}: incomplete")));
        assert_eq!(verdict.as_ref().map(|head| head.framing).map_err(|e| *e), expected, "{name}");
        if let Ok(head) = verdict {
            assert_eq!(head.len, message.len(), "{name}: the head's end");
        }
    }
}

#[test]
fn responses() {
    for &(name, message, expected) in RESPONSES {
        let mut storage = FieldStorage::new();
        let verdict = ResponseHead::parse(message, &mut storage, &HeadLimits::default());
        let verdict = verdict.map(|head| head.unwrap_or_else(|| panic!("{name}: incomplete")));
        if let Ok(head) = &verdict {
            assert_eq!(head.len, message.len(), "{name}: the head's end");
        }
        assert_eq!(verdict.and_then(|head| Ok(head.framing(Method::Get)?)), expected, "{name}");
    }
}

#[test]
fn chunked_bodies() {
    for &(name, body, expected) in CHUNKED {
        // Whole, and byte by byte: the verdict may not depend on how the bytes arrive.
        for piece_len in [body.len(), 1] {
            let decoded = decode_in_pieces(body, piece_len);
            assert_eq!(decoded.as_deref().map_err(|e| *e), expected, "{name}, by {piece_len}");
        }
    }
}

#[test]
fn bytes_after_the_message_are_not_touched() {
    // CL.0 and 0.CL: what follows a message belongs to the next one, whatever it looks like.
    let buf = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut storage = FieldStorage::new();
    let first = RequestHead::parse(buf, &mut storage, &HeadLimits::default()).unwrap().unwrap();
    assert_eq!(first.framing, Length(0));
    let rest = &buf[first.len..];
    assert!(rest.starts_with(b"GET /x"));
    let mut storage = FieldStorage::new();
    let second = RequestHead::parse(rest, &mut storage, &HeadLimits::default()).unwrap().unwrap();
    assert_eq!(second.len, rest.len());

    let body = b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n";
    let mut decoder = ChunkedDecoder::new(ChunkedLimits::default());
    let step = decoder.decode(body).unwrap();
    assert!(step.done);
    assert_eq!(step.consumed, 5);
}

#[test]
fn refusals_have_the_status_that_the_client_should_see() {
    for &(name, message, expected) in REQUESTS {
        let Err(error) = expected else { continue };
        let status = match error {
            HeadError::ExpectationUnknown => 417,
            HeadError::TransferEncodingUnsupported => 501,
            HeadError::VersionUnsupported => 505,
            _ => 400,
        };
        assert_eq!(error.status(), status, "{name}: {}", message.escape_ascii());
    }
    assert_eq!(HeadError::TooLarge.status(), 431);
    assert_eq!(HeadError::FieldsTooMany.status(), 431);
}

#[test]
fn tables_are_large_and_name_each_case_once() {
    let mut names = HashSet::new();
    let heads = REQUESTS.iter().map(|case| ("request", case.0));
    let heads = heads.chain(RESPONSES.iter().map(|case| ("response", case.0)));
    let all = heads.chain(CHUNKED.iter().map(|case| ("chunked", case.0)));
    for case in all {
        assert!(names.insert(case), "{case:?} is there twice");
    }
    assert!(names.len() >= 300, "{} cases", names.len());
}

/// Feeds `body` in pieces of `piece_len`. Bytes that a step does not consume are offered again at
/// once, as a caller does.
fn decode_in_pieces(body: &[u8], piece_len: usize) -> Result<Vec<u8>, ChunkedError> {
    let mut decoder = ChunkedDecoder::new(ChunkedLimits::default());
    let mut data = Vec::new();
    for piece in body.chunks(piece_len) {
        let mut rest = piece;
        while !rest.is_empty() {
            let step = decoder.decode(rest)?;
            data.extend_from_slice(&rest[step.data]);
            assert!(step.consumed > 0, "no progress");
            rest = &rest[step.consumed..];
        }
    }
    assert!(decoder.is_done(), "incomplete");
    Ok(data)
}
