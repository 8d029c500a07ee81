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

use crate::buffers::Chunk;
use crate::http::head::{is_framing, status_text};
use crate::http::reply::grpc_status;
use crate::shard::Shard;

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
    pub(super) fn translate_request(&mut self, shard: &Shard, data: Chunk) -> Option<Chunk> {
        let Some(decoder) = &mut self.request else { return Some(data) };
        let mut decoded = Ok(());
        let chunk = shard.arena.write(|out| decoded = decoder.decode(&data, out));
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

    pub(super) fn translate_response(&mut self, shard: &Shard, data: Chunk) -> Chunk {
        match &mut self.response {
            Response::Untouched | Response::Binary => data,
            Response::Text(encoder) => shard.arena.write(|out| encoder.encode(&data, out)),
            Response::Withheld(withheld) => {
                let room = MESSAGE_BYTES_MAX - withheld.body.len();
                withheld.body.extend_from_slice(&data[..data.len().min(room)]);
                shard.arena.copy(b"")
            }
        }
    }

    /// What ends the body of a response that is translated.
    pub(super) fn end_response(
        &mut self,
        shard: &Shard,
        trailers: Option<&FieldBlock>,
    ) -> Option<Chunk> {
        let last = match (&mut self.response, trailers) {
            (Response::Text(encoder), Some(trailers)) => {
                shard.arena.write(|out| encoder.trailers(trailers, out))
            }
            (Response::Text(encoder), None) => shard.arena.write(|out| encoder.finish(out)),
            (Response::Binary, Some(trailers)) => {
                shard.arena.write(|out| put_trailers(trailers, out))
            }
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
