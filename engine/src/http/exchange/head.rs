//! The head of a request on its way upstream, and what may have to be sent a second time with it.

use std::cell::Cell;
use std::rc::Rc;

use outrigger_codecs::http::{FieldBlock, Method, Put};
use outrigger_codecs::http1::render;
use outrigger_xds::snapshot::HeaderCase;

use crate::buffers::{Arena, Chunk};
use crate::shard::Shard;

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
    /// What a body may have to be sent again, where the route says it.
    pub(super) body_limit: Option<usize>,
    /// What was sent of the body, while it may have to be sent again.
    body: Vec<Chunk>,
    body_bytes: usize,
    /// The chunks' share of what the shard may keep.
    pinned: Option<Pinned>,
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
        let Self {
            form,
            fields,
            server_name,
            websocket_key,
            body_limit,
            body,
            body_bytes,
            pinned,
            spent,
        } = self;
        fields.clear();
        fields.shrink_to(FIELDS_KEPT_BYTES);
        body.clear();
        *form = HeadForm::None;
        (*server_name, *websocket_key) = (None, None);
        (*body_limit, *pinned) = (None, None);
        (*body_bytes, *spent) = (0, false);
    }

    /// Keeps a chunk that was sent, until upstream has begun to answer. False when that is too much: the
    /// request is not sent again.
    pub(super) fn keep(&mut self, shard: &Shard, chunk: &Chunk, limit: usize) -> bool {
        self.body_bytes += chunk.len();
        let pinned = self.pinned.get_or_insert_with(|| Pinned::new(shard));
        if self.body_bytes > limit || !pinned.one_more(shard) {
            self.spend();
            return false;
        }
        self.body.push(chunk.clone());
        true
    }

    /// Replaces the value of a field that the head has.
    pub(super) fn replace(&mut self, arena: &Arena, name: &str, value: &[u8]) {
        match &self.form {
            HeadForm::None => {}
            HeadForm::Text(text) => {
                self.form = HeadForm::Text(arena.write(|out| put_replaced(out, text, name, value)));
            }
            HeadForm::Fields => {
                let name = if name == "host" { ":authority" } else { name };
                let mut fields = FieldBlock::default();
                for field in self.fields.iter() {
                    let value = if field.name == name { value } else { field.value };
                    fields.push_as(field.name, value, field.kind, field.never_indexed);
                }
                self.fields = fields;
            }
        }
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
        self.pinned = None;
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

/// Chunks that are kept to be sent again, each of which may hold a receive buffer back. They are given
/// back when this is dropped.
struct Pinned {
    all: Rc<Cell<u32>>,
    own: u32,
}

impl Pinned {
    fn new(shard: &Shard) -> Self {
        Self { all: Rc::clone(&shard.pinned_chunks), own: 0 }
    }

    /// Counts another one. False when the shard needs its buffers for what comes.
    fn one_more(&mut self, shard: &Shard) -> bool {
        if self.all.get() >= shard.config.buffers_max / PINNED_SHARE {
            return false;
        }
        self.own += 1;
        self.all.set(self.all.get() + 1);
        true
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.own);
    }
}

/// Copies a head in text, with another value for one field.
fn put_replaced<P: Put>(out: &mut P, text: &[u8], name: &str, value: &[u8]) {
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let field = line.iter().position(|byte| *byte == b':').map(|colon| &line[..colon]);
        match field.filter(|field| field.eq_ignore_ascii_case(name.as_bytes())) {
            Some(field) => {
                out.put(field);
                out.put(b": ");
                out.put(value);
                out.put(b"\r\n");
            }
            None => out.put(line),
        }
    }
}

/// Room for fields that is kept for the next head.
const FIELDS_KEPT_BYTES: usize = 2048;

/// Of a shard's receive buffers, one in so many may be held back by bodies that are kept.
const PINNED_SHARE: u32 = 4;
