//! gRPC-Web: gRPC for clients that see neither HTTP/2 nor trailers.

use crate::http::{FieldBlock, Put};

use super::base64::Base64Encoder;
use super::message::MessageWalk;

/// A media type of gRPC-Web that is translated: `application/grpc-web` or `application/grpc-web-text`,
/// alone or with one of a few suffixes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WebType {
    /// The body is base64.
    pub text: bool,
    format: usize,
}

impl WebType {
    /// Reads the value of Content-Type or Accept, without regard to case and parameters.
    #[must_use]
    pub fn of(value: &[u8]) -> Option<Self> {
        let media = value.split(|&byte| byte == b';').next()?.trim_ascii();
        let rest = strip_prefix_ignore_case(media, WEB)?;
        let (text, suffix) = match strip_prefix_ignore_case(rest, b"-text") {
            Some(suffix) => (true, suffix),
            None => (false, rest),
        };
        let suffix = if suffix.is_empty() { b"+proto" } else { suffix };
        let format = FORMATS
            .iter()
            .position(|format| format.suffix.as_bytes().eq_ignore_ascii_case(suffix))?;
        Some(Self { text, format })
    }

    /// The same format as text, or as it is.
    #[must_use]
    pub fn with_text(self, text: bool) -> Self {
        Self { text, ..self }
    }

    /// The media type.
    #[must_use]
    pub fn name(self) -> &'static str {
        let format = &FORMATS[self.format];
        if self.text { format.web_text } else { format.web }
    }

    /// The media type of gRPC that stands for it.
    #[must_use]
    pub fn grpc_name(self) -> &'static str {
        FORMATS[self.format].grpc
    }
}

/// Translates a body to text, in which every message is padded by itself: whoever reads the text has
/// each message as soon as it is sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TextEncoder {
    messages: MessageWalk,
    base64: Base64Encoder,
}

impl TextEncoder {
    /// Encodes the next bytes of the body. Of a message that is not complete, up to two bytes wait for
    /// the next.
    pub fn encode<P: Put>(&mut self, mut body: &[u8], out: &mut P) {
        while !body.is_empty() {
            let step = self.messages.step(body);
            self.base64.encode(&body[..step.consumed], out);
            if step.ends {
                self.base64.pad(out);
            }
            body = &body[step.consumed..];
        }
    }

    /// Encodes what waits for more, because no more comes.
    pub fn finish<P: Put>(&mut self, out: &mut P) {
        self.base64.pad(out);
    }

    /// Ends the body with its trailers.
    pub fn trailers<P: Put>(&mut self, trailers: &FieldBlock, out: &mut P) {
        self.finish(out);
        put_trailers(trailers, &mut Encoded { base64: &mut self.base64, out });
        self.finish(out);
    }
}

/// Writes trailers as the frame that ends a body: `0x80 length(4) *(name ":" value CRLF)`.
pub fn put_trailers<P: Put>(trailers: &FieldBlock, out: &mut P) {
    let length = trailers.text_len() + trailers.len() * FIELD_PUNCTUATION_BYTES;
    out.put(&[TRAILERS_FLAG]);
    // The limits of headers are far below.
    out.put(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    for field in trailers.iter() {
        out.put(field.name.as_bytes());
        out.put(b":");
        out.put(field.value);
        out.put(b"\r\n");
    }
}

/// A sink whose bytes come out as base64.
struct Encoded<'a, P> {
    base64: &'a mut Base64Encoder,
    out: &'a mut P,
}

impl<P: Put> Put for Encoded<'_, P> {
    fn put(&mut self, bytes: &[u8]) {
        self.base64.encode(bytes, self.out);
    }
}

fn strip_prefix_ignore_case<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// How messages are encoded, and the media types that say so.
struct Format {
    suffix: &'static str,
    grpc: &'static str,
    web: &'static str,
    web_text: &'static str,
}

/// Those of PROTOCOL-WEB.md. Envoy knows the first, and calls it as is written here.
const FORMATS: [Format; 3] = [
    Format {
        suffix: "+proto",
        grpc: "application/grpc",
        web: "application/grpc-web+proto",
        web_text: "application/grpc-web-text+proto",
    },
    Format {
        suffix: "+json",
        grpc: "application/grpc+json",
        web: "application/grpc-web+json",
        web_text: "application/grpc-web-text+json",
    },
    Format {
        suffix: "+thrift",
        grpc: "application/grpc+thrift",
        web: "application/grpc-web+thrift",
        web_text: "application/grpc-web-text+thrift",
    },
];

const WEB: &[u8] = b"application/grpc-web";

/// `:` and CRLF.
const FIELD_PUNCTUATION_BYTES: usize = 3;

/// The flag of the frame that holds trailers.
const TRAILERS_FLAG: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_have_their_counterparts() {
        for (value, name, grpc) in [
            ("application/grpc-web", "application/grpc-web+proto", "application/grpc"),
            ("application/grpc-web+proto", "application/grpc-web+proto", "application/grpc"),
            ("Application/GRPC-Web", "application/grpc-web+proto", "application/grpc"),
            ("application/grpc-web ; x=1", "application/grpc-web+proto", "application/grpc"),
            ("application/grpc-web-text", "application/grpc-web-text+proto", "application/grpc"),
            (
                "application/grpc-web-text+json",
                "application/grpc-web-text+json",
                "application/grpc+json",
            ),
            (
                "application/grpc-web+thrift",
                "application/grpc-web+thrift",
                "application/grpc+thrift",
            ),
        ] {
            let found = WebType::of(value.as_bytes()).unwrap_or_else(|| panic!("{value}"));
            assert_eq!((found.name(), found.grpc_name()), (name, grpc), "{value}");
            assert!(WebType::of(found.with_text(true).name().as_bytes()).unwrap().text);
        }
        for value in [
            "",
            "application/grpc",
            "application/grpc+proto",
            "application/grpc-webx",
            "application/grpc-web+",
            "application/grpc-web+other",
            "application/grpc-web-text-",
            "text/application/grpc-web",
            "application/grpc-web-text, */*",
        ] {
            assert_eq!(WebType::of(value.as_bytes()), None, "{value}");
        }
    }

    fn block(fields: &[(&str, &str)]) -> FieldBlock {
        let mut block = FieldBlock::default();
        for (name, value) in fields {
            block.push(name, value.as_bytes());
        }
        block
    }

    #[test]
    fn trailers_become_a_frame() {
        let mut out = Vec::new();
        put_trailers(&block(&[("grpc-status", "0"), ("grpc-message", "")]), &mut out);
        assert_eq!(out, b"\x80\0\0\0\x1egrpc-status:0\r\ngrpc-message:\r\n");
        out.clear();
        put_trailers(&block(&[]), &mut out);
        assert_eq!(out, b"\x80\0\0\0\0");
    }

    #[test]
    fn text_is_padded_message_by_message() {
        let mut encoder = TextEncoder::default();
        let mut out = Vec::new();
        // As Envoy 1.40 writes them.
        encoder.encode(b"\0\0\0\0\x05hello\0\0\0\0\x02wo", &mut out);
        assert_eq!(out, b"AAAAAAVoZWxsbw==AAAAAAJ3bw==");
        out.clear();
        encoder.trailers(&block(&[("grpc-status", "0")]), &mut out);
        assert_eq!(out, b"gAAAAA9ncnBjLXN0YXR1czowDQo=");
    }

    #[test]
    fn a_message_that_breaks_off_is_encoded_as_far_as_it_goes() {
        let mut encoder = TextEncoder::default();
        let mut out = Vec::new();
        encoder.encode(b"\0\0\0\0\x05he", &mut out);
        assert_eq!(out, b"AAAAAAVo");
        encoder.finish(&mut out);
        assert_eq!(out, b"AAAAAAVoZQ==");
    }
}
