//! The head of a request on its way upstream, and what may have to be sent a second time with it.

use outrigger_codecs::http::{FieldBlock, Method, Put};
use outrigger_codecs::http1::render;
use outrigger_xds::snapshot::HeaderCase;

use crate::buffers::{Arena, Chunk};

use super::super::head::{HeadSink, Text};

/// A rendered head.
#[derive(Default)]
pub(in crate::http) struct OutboundHead {
    /// How it is written.
    pub(in crate::http) form: HeadForm,
    /// Its fields, pseudo-headers first, where it is written so. The memory is kept.
    pub(in crate::http) fields: FieldBlock,
    /// The server name that the connection must ask for, where that is left to the request.
    pub(in crate::http) server_name: Option<Box<str>>,
    /// The key of a WebSocket handshake on HTTP/1 that upstream does not see.
    pub(in crate::http) websocket_key: Option<Box<[u8]>>,
    /// What was sent of the body, while it may have to be sent again.
    body: Vec<Chunk>,
    body_bytes: usize,
    /// The request can't be sent again.
    pub(super) spent: bool,
}

/// How a head is written.
#[derive(Default)]
pub(in crate::http) enum HeadForm {
    /// There is none: the tunnel ends here.
    #[default]
    None,
    /// HTTP/1 text.
    Text(Chunk),
    /// Fields, for HTTP/2, or for a connection whose version is not known yet.
    Fields,
}

impl OutboundHead {
    /// Forgets everything but the memory.
    pub(super) fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        fields.shrink_to(FIELDS_KEPT_BYTES);
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        *self = Self { fields, body, ..Self::default() };
    }

    /// Keeps a chunk that was sent, until upstream has begun to answer.
    pub(super) fn keep(&mut self, chunk: &Chunk) {
        if self.spent {
            return;
        }
        // Each chunk may hold a whole receive buffer.
        self.body_bytes += chunk.len().max(CHUNK_LOAD);
        if self.body_bytes > KEPT_BODY_BYTES {
            return self.spend();
        }
        self.body.push(chunk.clone());
    }

    /// What was sent of the body.
    pub(super) fn kept(&self) -> &[Chunk] {
        &self.body
    }

    /// Upstream answers, or too much was sent: the request is not sent again.
    pub(super) fn spend(&mut self) {
        self.spent = true;
        if matches!(self.form, HeadForm::Text(_)) {
            self.form = HeadForm::None;
        }
        self.body.clear();
        self.body_bytes = 0;
    }

    /// The head as HTTP/1 text, for a connection on which HTTP/1 was negotiated.
    pub(super) fn text(&self, arena: &Arena, case: HeaderCase, chunked: bool) -> Chunk {
        let pseudo = |name| std::str::from_utf8(self.fields.get(name).unwrap_or_default());
        let method = pseudo(":method").unwrap_or_default();
        let authority = pseudo(":authority").unwrap_or_default();
        let protocol = self.fields.get(":protocol");
        let is_connect = Method::of(method) == Method::Connect;
        let target = if is_connect && protocol.is_none() {
            authority
        } else {
            pseudo(":path").unwrap_or_default()
        };
        arena.write(|out| {
            render::request_line(out, if protocol.is_some() { "GET" } else { method }, target);
            let mut sink = Text { out: &mut *out, case };
            let mut plain = |name: &str, value: &[u8]| {
                let kind = outrigger_codecs::http::FieldKind::of(name.as_bytes());
                sink.put_field(name, value, kind, false);
            };
            plain("host", authority.as_bytes());
            for field in self.fields.iter().filter(|field| !field.name.starts_with(':')) {
                plain(field.name, field.value);
            }
            if let Some(protocol) = protocol {
                plain("connection", b"upgrade");
                plain("upgrade", protocol);
            } else if chunked {
                plain("transfer-encoding", b"chunked");
            }
            out.put(b"\r\n");
        })
    }
}

/// Room for fields that is kept for the next head.
const FIELDS_KEPT_BYTES: usize = 2048;

/// What is kept of a body to be sent again: Envoy's limit of a connection would be a megabyte, which a
/// thousand requests under way could not have each.
const KEPT_BODY_BYTES: usize = 64 * 1024;

/// What a chunk weighs at least.
const CHUNK_LOAD: usize = 2048;
