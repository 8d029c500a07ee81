//! The bridge from gRPC-Web to gRPC (`envoy.filters.http.grpc_web`).
//!
//! | the response | what the client gets |
//! |---|---|
//! | is gRPC | its messages, and its trailers as the last frame of the body |
//! | ends with its head | the head; a status in it stays there |
//! | is anything else | its head with `grpc-status` for its HTTP status and its body as `grpc-message` |
//!
//! Bodies are translated as they pass; only the body of the last kind is kept, and only its first
//! [`MESSAGE_BYTES_MAX`] bytes. What the client accepts, not what it sends, says whether its response
//! is text.

use outrigger_codecs::grpc::{Base64Decoder, TextEncoder, WebType, percent_encode, put_trailers};
use outrigger_codecs::http::{FieldBlock, FieldKind, Method, RequestHead, ResponseHead, decimal};

use crate::buffers::{Arena, Chunk};
use crate::http::head::{is_framing, status_text};
use crate::http::reply::grpc_status;

/// One bridged request.
pub(super) struct Bridge {
    /// The response's media type.
    media: WebType,
    /// Of a request that is text.
    request: Option<Base64Decoder>,
    response: Response,
}

enum Response {
    /// Goes on as it is.
    Untouched,
    /// Its trailers become a frame.
    Binary,
    /// The same, and all of it becomes base64.
    Text(TextEncoder),
    /// Its head waits for its body.
    Withheld(Box<Withheld>),
}

struct Withheld {
    head: Box<FieldBlock>,
    status: u16,
    body: Vec<u8>,
}

impl Bridge {
    /// Nothing for a request that is not gRPC-Web, or that can have no body in its response.
    pub(super) fn of(head: &RequestHead<'_, '_>) -> Option<Self> {
        let field = head.fields.iter().find(|field| field.kind == FieldKind::ContentType)?;
        let media = WebType::of(field.value)?;
        if matches!(head.method, Method::Head | Method::Connect) || head.upgrade.is_some() {
            return None;
        }
        let accepted = head.field("accept").and_then(|field| WebType::of(field.value));
        Some(Self {
            media: media.with_text(accepted.is_some_and(|accepted| accepted.text)),
            request: media.text.then(Base64Decoder::default),
            response: Response::Untouched,
        })
    }

    pub(super) fn request_content_type(&self) -> &'static str {
        self.media.grpc_name()
    }

    pub(super) fn response_content_type(&self) -> &'static str {
        self.media.name()
    }

    /// Nothing when the bytes are not base64; what still comes is then passed by.
    pub(super) fn translate_request(&mut self, arena: &Arena, data: Chunk) -> Option<Chunk> {
        let Some(decoder) = &mut self.request else { return Some(data) };
        let mut decoded = Ok(());
        let chunk = arena.write(|out| decoded = decoder.decode(&data, out));
        if decoded.is_err() {
            self.request = None;
            return None;
        }
        Some(chunk)
    }

    /// False when the base64 breaks off.
    pub(super) fn end_request(&mut self) -> bool {
        self.request.take().is_none_or(|decoder| decoder.finish().is_ok())
    }

    /// Decides what becomes of a response that has a body. True when its head waits for it.
    pub(super) fn take_response_head(
        &mut self,
        head: &ResponseHead<'_, '_>,
        is_grpc: bool,
    ) -> bool {
        // Without a body there is nothing to say it in.
        if matches!(head.status, 204 | 304) {
            return false;
        }
        if is_grpc || is_grpc_web(head) {
            self.response = if self.media.text {
                Response::Text(TextEncoder::default())
            } else {
                Response::Binary
            };
            return false;
        }
        self.response = Response::Withheld(Box::new(Withheld::of(head)));
        true
    }

    pub(super) fn rewrites_response(&self) -> bool {
        matches!(self.response, Response::Binary | Response::Text(_))
    }

    pub(super) fn translate_response(&mut self, arena: &Arena, data: Chunk) -> Chunk {
        match &mut self.response {
            Response::Untouched | Response::Binary => data,
            Response::Text(encoder) => arena.write(|out| encoder.encode(&data, out)),
            Response::Withheld(withheld) => {
                let room = MESSAGE_BYTES_MAX - withheld.body.len();
                withheld.body.extend_from_slice(&data[..data.len().min(room)]);
                arena.copy(b"")
            }
        }
    }

    /// What ends the body of a response that is translated.
    pub(super) fn end_response(
        &mut self,
        arena: &Arena,
        trailers: Option<&FieldBlock>,
    ) -> Option<Chunk> {
        let last = match (&mut self.response, trailers) {
            (Response::Text(encoder), Some(trailers)) => {
                arena.write(|out| encoder.trailers(trailers, out))
            }
            (Response::Text(encoder), None) => arena.write(|out| encoder.finish(out)),
            (Response::Binary, Some(trailers)) => arena.write(|out| put_trailers(trailers, out)),
            _ => return None,
        };
        (!last.is_empty()).then_some(last)
    }

    pub(super) fn take_withheld(&mut self) -> Option<Box<FieldBlock>> {
        match std::mem::replace(&mut self.response, Response::Untouched) {
            Response::Withheld(withheld) => Some(withheld.finish()),
            other => {
                self.response = other;
                None
            }
        }
    }
}

impl Withheld {
    fn of(head: &ResponseHead<'_, '_>) -> Self {
        let mut block = Box::<FieldBlock>::default();
        block.push(":status", &status_text(head.status));
        for field in head.fields {
            let is_replaced = field.kind.is_hop_by_hop()
                || is_framing(field)
                || ["grpc-status", "grpc-message"]
                    .iter()
                    .any(|name| field.name.eq_ignore_ascii_case(name));
            if !is_replaced {
                block.push_as(field.name, field.value, field.kind, field.never_indexed);
            }
        }
        Self { head: block, status: head.status, body: Vec::new() }
    }

    /// The head, with what stands for the body.
    fn finish(mut self) -> Box<FieldBlock> {
        let mut digits = [0; 20];
        self.head.push("grpc-status", decimal(grpc_status(self.status), &mut digits));
        let mut message = Vec::new();
        percent_encode(&self.body, &mut message);
        self.head.push("grpc-message", &message);
        self.head.push("content-length", b"0");
        self.head
    }
}

/// Upstream speaks gRPC-Web itself.
fn is_grpc_web(head: &ResponseHead<'_, '_>) -> bool {
    head.status == 200
        && head
            .fields
            .iter()
            .find(|field| field.kind == FieldKind::ContentType)
            .and_then(|field| WebType::of(field.value))
            .is_some_and(|media| !media.text)
}

/// What is kept of a body that becomes `grpc-message`: Envoy's limit.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use outrigger_codecs::http::FieldStorage;
    use outrigger_codecs::http1::HeadLimits;
    use outrigger_codecs::http2::response_head;

    use super::*;

    fn bridge(fields: &str) -> Option<Bridge> {
        bridge_of("POST /a.B/C", fields)
    }

    fn bridge_of(request: &str, fields: &str) -> Option<Bridge> {
        let text = format!("{request} HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
        let mut storage = FieldStorage::new();
        let head = RequestHead::parse(text.as_bytes(), &mut storage, &HeadLimits::default());
        Bridge::of(&head.unwrap().unwrap())
    }

    const BINARY: &str = "content-type: application/grpc-web\r\n";
    const TEXT: &str = "content-type: application/grpc-web-text\r\n\
                        accept: application/grpc-web-text\r\n";

    fn block(fields: &[(&str, &str)]) -> FieldBlock {
        let mut block = FieldBlock::default();
        for (name, value) in fields {
            block.push(name, value.as_bytes());
        }
        block
    }

    /// Whether the head has to wait.
    fn take_head(bridge: &mut Bridge, fields: &[(&str, &str)], is_grpc: bool) -> bool {
        let block = block(fields);
        let mut storage = FieldStorage::new();
        bridge.take_response_head(&response_head(&block, false, &mut storage).unwrap(), is_grpc)
    }

    const GRPC: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];

    #[test]
    fn requests_are_known_by_their_content_type() {
        assert!(bridge("").is_none());
        assert!(bridge("content-type: application/grpc\r\n").is_none());
        assert!(bridge_of("HEAD /a.B/C", BINARY).is_none());
        let upgrade = format!("{BINARY}connection: upgrade\r\nupgrade: x\r\n");
        assert!(bridge(&upgrade).is_none());
        let json = "content-type: application/grpc-web-text+json\r\n";
        assert_eq!(bridge(json).unwrap().request_content_type(), "application/grpc+json");
    }

    #[test]
    fn what_is_accepted_decides_on_the_form_of_the_response() {
        for (fields, expected) in [
            (BINARY.to_owned(), "application/grpc-web+proto"),
            (TEXT.to_owned(), "application/grpc-web-text+proto"),
            (
                format!("{BINARY}accept: application/grpc-web-text+proto\r\n"),
                "application/grpc-web-text+proto",
            ),
            (
                "content-type: application/grpc-web-text\r\naccept: */*\r\n".to_owned(),
                "application/grpc-web+proto",
            ),
        ] {
            assert_eq!(bridge(&fields).unwrap().response_content_type(), expected, "{fields}");
        }
    }

    #[test]
    fn text_of_requests_is_decoded_as_it_comes() {
        let arena = Arena::new();
        let mut bridge = bridge(TEXT).unwrap();
        let mut translate = |text: &[u8]| bridge.translate_request(&arena, arena.copy(text));
        assert_eq!(&*translate(b"AAA").unwrap(), b"");
        assert_eq!(&*translate(b"AAAVoZWxsbw==AA").unwrap(), b"\0\0\0\0\x05hello");
        assert!(!bridge.end_request());

        let mut bridge = self::bridge(TEXT).unwrap();
        assert!(bridge.translate_request(&arena, arena.copy(b"####")).is_none());
        // What still comes is nobody's.
        assert!(bridge.translate_request(&arena, arena.copy(b"####")).is_some());
        assert!(bridge.end_request());
    }

    #[test]
    fn trailers_end_the_body() {
        let arena = Arena::new();
        let trailers = block(&[("grpc-status", "0")]);
        let mut bridge = bridge(BINARY).unwrap();
        assert!(!take_head(&mut bridge, &GRPC, true));
        assert!(bridge.rewrites_response());
        assert_eq!(
            &*bridge.translate_response(&arena, arena.copy(b"\0\0\0\0\x01x")),
            b"\0\0\0\0\x01x"
        );
        let last = bridge.end_response(&arena, Some(&trailers)).unwrap();
        assert_eq!(&*last, b"\x80\0\0\0\x0fgrpc-status:0\r\n");
        assert!(bridge.end_response(&arena, None).is_none());

        let mut bridge = self::bridge(TEXT).unwrap();
        assert!(!take_head(&mut bridge, &GRPC, true));
        assert_eq!(&*bridge.translate_response(&arena, arena.copy(b"\0\0\0\0\x01x")), b"AAAAAAF4");
        let last = bridge.end_response(&arena, Some(&trailers)).unwrap();
        assert_eq!(&*last, b"gAAAAA9ncnBjLXN0YXR1czowDQo=");
        assert!(bridge.end_response(&arena, None).is_none());
    }

    #[test]
    fn a_response_that_ends_with_its_head_has_no_frame() {
        let arena = Arena::new();
        let mut bridge = bridge(BINARY).unwrap();
        assert!(!bridge.rewrites_response());
        assert!(bridge.end_response(&arena, None).is_none());
        assert!(bridge.take_withheld().is_none());
    }

    #[test]
    fn what_is_not_grpc_is_told_in_the_head() {
        let arena = Arena::new();
        let mut bridge = bridge(BINARY).unwrap();
        let fields = [
            (":status", "503"),
            ("content-type", "text/html"),
            ("content-length", "70000"),
            ("grpc-status", "0"),
            ("x-up", "1"),
        ];
        assert!(take_head(&mut bridge, &fields, false));
        assert!(!bridge.rewrites_response());
        let body = vec![b'%'; 7000];
        for _ in 0..10 {
            assert!(bridge.translate_response(&arena, arena.copy(&body)).is_empty());
        }
        let head = bridge.take_withheld().unwrap();
        let field = |name| head.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
        assert_eq!(field("grpc-message"), Some("%25".repeat(MESSAGE_BYTES_MAX)));
        assert_eq!(field("grpc-status").as_deref(), Some("14"));
        assert_eq!(field("content-length").as_deref(), Some("0"));
        assert_eq!(field("x-up").as_deref(), Some("1"));
        let mut storage = FieldStorage::new();
        assert_eq!(response_head(&head, true, &mut storage).unwrap().status, 503);
        assert!(bridge.take_withheld().is_none());
    }

    #[test]
    fn a_status_without_body_stays_as_it_is() {
        let mut bridge = bridge(BINARY).unwrap();
        assert!(!take_head(&mut bridge, &[(":status", "304")], false));
        assert!(!bridge.rewrites_response());
        let web = [(":status", "200"), ("content-type", "application/grpc-web+proto")];
        assert!(!take_head(&mut bridge, &web, false));
        assert!(bridge.rewrites_response());
    }
}
