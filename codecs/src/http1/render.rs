//! Writing heads and chunk framing into the caller's memory.
//!
//! Nothing here checks what it is given to write: names, values, targets and reason phrases must come
//! from a parsed head or from configuration that was checked when it was loaded, so that no CR, LF or
//! NUL is among them. Debug builds assert it.

use crate::http::put::DECIMAL_LEN_MAX;
use crate::http::{Put, decimal};

/// Writes `method SP target SP HTTP/1.1 CRLF`. A proxy sends its own version (RFC 9110 section 2.5).
pub fn request_line<P: Put + ?Sized>(out: &mut P, method: &str, target: &str) {
    debug_assert!(is_line_safe(method.as_bytes()) && is_line_safe(target.as_bytes()));
    out.put(method.as_bytes());
    out.put(b" ");
    out.put(target.as_bytes());
    out.put(b" HTTP/1.1\r\n");
}

/// Writes `HTTP/1.1 SP code SP reason CRLF`, with [`reason_phrase`] where `reason` is empty.
///
/// `code` must have three digits.
pub fn status_line<P: Put + ?Sized>(out: &mut P, code: u16, reason: &str) {
    debug_assert!((100..1000).contains(&code) && is_line_safe(reason.as_bytes()));
    let reason = if reason.is_empty() { reason_phrase(code) } else { reason };
    let mut start = *b"HTTP/1.1 000 ";
    let mut digits = [0; DECIMAL_LEN_MAX];
    let digits = decimal(u64::from(code % 1000), &mut digits);
    start[12 - digits.len()..12].copy_from_slice(digits);
    out.put(&start);
    out.put(reason.as_bytes());
    out.put(b"\r\n");
}

/// Writes a field line with its name in lower case, as Envoy does by default.
pub fn field<P: Put + ?Sized>(out: &mut P, name: &str, value: &[u8]) {
    debug_assert!(!name.is_empty() && is_line_safe(name.as_bytes()));
    let mut lower = [0; NAME_PIECE_LEN];
    for piece in name.as_bytes().chunks(NAME_PIECE_LEN) {
        lower[..piece.len()].copy_from_slice(piece);
        // All of it, whatever the piece's length: a few vector instructions.
        lower.make_ascii_lowercase();
        out.put(&lower[..piece.len()]);
    }
    field_rest(out, value);
}

/// Writes a field line with its name as given.
pub fn field_verbatim<P: Put + ?Sized>(out: &mut P, name: &str, value: &[u8]) {
    debug_assert!(!name.is_empty() && is_line_safe(name.as_bytes()));
    out.put(name.as_bytes());
    field_rest(out, value);
}

/// Writes a field line as Envoy's `proper_case_words` does: the first letter of the name and every
/// letter after a byte that is neither letter nor digit in upper case, the others in lower case.
pub fn field_proper_case<P: Put + ?Sized>(out: &mut P, name: &str, value: &[u8]) {
    let mut word_start = true;
    put_mapped(out, name, |byte| {
        let mapped = match word_start {
            true => byte.to_ascii_uppercase(),
            false => byte.to_ascii_lowercase(),
        };
        word_start = !byte.is_ascii_alphanumeric();
        mapped
    });
    field_rest(out, value);
}

/// Writes a `content-length` field line.
pub fn content_length<P: Put + ?Sized>(out: &mut P, length: u64) {
    field_verbatim(out, "content-length", decimal(length, &mut [0; DECIMAL_LEN_MAX]));
}

/// Writes the line before a chunk of `data_len` bytes. After the data comes CRLF, and after the last
/// chunk [`LAST_CHUNK`].
///
/// `data_len` must not be 0, which would end the body.
pub fn chunk_size_line<P: Put + ?Sized>(out: &mut P, data_len: usize) {
    debug_assert!(data_len > 0, "an empty chunk ends the body");
    let mut text = [0; HEX_LEN_MAX + 2];
    let mut at = HEX_LEN_MAX;
    text[at..].copy_from_slice(b"\r\n");
    let mut rest = data_len;
    loop {
        at -= 1;
        text[at] = b"0123456789abcdef"[rest % 16];
        rest /= 16;
        if rest == 0 {
            break;
        }
    }
    out.put(&text[at..]);
}

/// The registered reason phrase of a status code; empty for a code that has none.
#[must_use]
pub fn reason_phrase(code: u16) -> &'static str {
    match code {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

/// The chunk that ends a body without trailers. With trailers: `0 CRLF`, the field lines, CRLF.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What follows the name in a field line.
fn field_rest<P: Put + ?Sized>(out: &mut P, value: &[u8]) {
    debug_assert!(is_line_safe(value));
    out.put(b": ");
    out.put(value);
    out.put(b"\r\n");
}

/// Writes `name` byte by byte through `map`, by way of a small buffer.
fn put_mapped<P: Put + ?Sized>(out: &mut P, name: &str, mut map: impl FnMut(u8) -> u8) {
    debug_assert!(!name.is_empty() && is_line_safe(name.as_bytes()));
    let mut buffer = [0; NAME_PIECE_LEN];
    for piece in name.as_bytes().chunks(NAME_PIECE_LEN) {
        for (to, from) in buffer.iter_mut().zip(piece) {
            *to = map(*from);
        }
        out.put(&buffer[..piece.len()]);
    }
}

fn is_line_safe(text: &[u8]) -> bool {
    memchr::memchr3(b'\r', b'\n', 0, text).is_none()
}

/// Longer than nearly every field name.
const NAME_PIECE_LEN: usize = 32;
/// The hex digits of the largest usize.
const HEX_LEN_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(render: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        render(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn start_lines() {
        assert_eq!(rendered(|out| request_line(out, "GET", "/a?b")), "GET /a?b HTTP/1.1\r\n");
        assert_eq!(rendered(|out| status_line(out, 200, "")), "HTTP/1.1 200 OK\r\n");
        assert_eq!(rendered(|out| status_line(out, 503, "Busy")), "HTTP/1.1 503 Busy\r\n");
        // The space stays where there is no reason phrase (RFC 9112 section 4).
        assert_eq!(rendered(|out| status_line(out, 799, "")), "HTTP/1.1 799 \r\n");
    }

    #[test]
    fn field_names_in_three_cases() {
        // The examples of Envoy's documentation of proper_case_words.
        for (name, lower, proper) in [
            ("content-type", "content-type", "Content-Type"),
            ("foo$b#$are", "foo$b#$are", "Foo$B#$Are"),
            ("X-REQUEST-ID", "x-request-id", "X-Request-Id"),
            ("http2-settings", "http2-settings", "Http2-Settings"),
            ("x-2nd", "x-2nd", "X-2nd"),
        ] {
            assert_eq!(rendered(|out| field(out, name, b"v")), format!("{lower}: v\r\n"));
            assert_eq!(
                rendered(|out| field_proper_case(out, name, b"v")),
                format!("{proper}: v\r\n")
            );
            assert_eq!(rendered(|out| field_verbatim(out, name, b"v")), format!("{name}: v\r\n"));
        }
    }

    #[test]
    fn long_names_are_mapped_whole() {
        let name = "Abc-".repeat(100);
        assert_eq!(
            rendered(|out| field(out, &name, b"")),
            format!("{}: \r\n", name.to_lowercase())
        );
        assert_eq!(rendered(|out| field_proper_case(out, &name, b"")), format!("{name}: \r\n"));
    }

    #[test]
    fn numbers() {
        assert_eq!(rendered(|out| content_length(out, 0)), "content-length: 0\r\n");
        assert_eq!(
            rendered(|out| content_length(out, u64::MAX)),
            "content-length: 18446744073709551615\r\n"
        );
        assert_eq!(rendered(|out| chunk_size_line(out, 1)), "1\r\n");
        assert_eq!(rendered(|out| chunk_size_line(out, 0xabc0)), "abc0\r\n");
    }

    #[test]
    fn reason_phrases_fit_a_status_line() {
        for code in 100..1000 {
            let phrase = reason_phrase(code);
            assert!(
                phrase
                    .bytes()
                    .all(|byte| byte == b' ' || byte == b'-' || byte.is_ascii_alphabetic())
            );
        }
        assert_eq!(reason_phrase(431), "Request Header Fields Too Large");
        assert_eq!(reason_phrase(599), "");
    }
}
