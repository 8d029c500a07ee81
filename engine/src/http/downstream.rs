//! The downstream side of an exchange, lent to it by its connection: where the request's body comes
//! from and where the response goes, in either version of HTTP.

use std::rc::Rc;
use std::task::Waker;

use outrigger_codecs::http::{Field, FieldBlock, FieldKind, Put};
use outrigger_codecs::http1::{BodyDecoder, render};

use crate::buffers::Chunk;
use crate::connection::ConnectionInfo;
use crate::ring::Watermarks;
use crate::shard::Shard;
use crate::tls::RecordError;

use super::head::{HeadSink, status_text};
use super::{HttpRuntime, http1, http2};

/// What an exchange knows of the connection that its request came on.
pub(super) struct Downstream<'a> {
    pub(super) shard: &'a Rc<Shard>,
    pub(super) http: &'a HttpRuntime,
    pub(super) info: &'a ConnectionInfo,
    pub(super) waker: &'a Waker,
    /// The connection may not carry another request.
    pub(super) is_last: bool,
    /// Unsent bytes at which the exchange stops, and at which it goes on.
    pub(super) marks: Watermarks,
    pub(super) side: Side<'a>,
}

/// The version's own part.
pub(super) enum Side<'a> {
    Http1(http1::Side<'a>),
    Http2(http2::Side<'a>),
}

/// What comes next of a request's body.
pub(super) enum BodyEvent {
    /// Bytes.
    Data(Chunk),
    /// The body is complete; these are its trailers.
    End(Option<Box<FieldBlock>>),
    /// Nothing now.
    None,
    /// The client is gone.
    Gone,
    /// The framing is lost.
    Malformed,
}

impl Downstream<'_> {
    /// True when nothing can be sent any more.
    pub(super) fn is_gone(&self) -> bool {
        match &self.side {
            Side::Http1(side) => side.transport.send_error().is_some(),
            Side::Http2(side) => side.is_reset(),
        }
    }

    /// Why TLS with the client failed.
    pub(super) fn transport_failure(&self) -> Option<RecordError> {
        match &self.side {
            Side::Http1(side) => side.transport.failure(),
            Side::Http2(side) => side.transport_failure(),
        }
    }

    /// True when a client whose request is complete has given up waiting for the answer.
    pub(super) fn has_departed(&self) -> bool {
        match &self.side {
            Side::Http1(side) => side.transport.is_over(),
            Side::Http2(side) => side.is_reset(),
        }
    }

    /// Takes what comes next of the request's body, which is framed like this on HTTP/1.
    pub(super) fn take_body(&mut self, framing: &mut BodyDecoder) -> BodyEvent {
        let trailers = self.http.config.http1.enable_trailers;
        match &mut self.side {
            Side::Http1(side) => side.take_body(framing, trailers),
            Side::Http2(side) => side.take_body(),
        }
    }

    /// True while more of the response may be sent; else the waker is called when it may.
    pub(super) fn has_room(&mut self) -> bool {
        let marks = self.marks;
        match &mut self.side {
            Side::Http1(side) => side.has_room(marks),
            Side::Http2(side) => side.has_room(),
        }
    }

    /// Sends bytes of the response's body; `chunked` where HTTP/1 frames them as chunks.
    pub(super) fn send_body(&mut self, data: Chunk, chunked: bool) {
        match &mut self.side {
            Side::Http1(side) => http1::send_body(self.shard, side.transport, data, chunked),
            Side::Http2(side) => side.send_body(self.shard, data),
        }
    }

    /// Sends an interim response.
    pub(super) fn send_interim<'f>(
        &mut self,
        status: u16,
        fields: impl Iterator<Item = &'f Field<'f>>,
    ) {
        match &mut self.side {
            Side::Http1(side) => side.transport.send(self.shard.arena.write(|out| {
                render::status_line(out, status, "");
                for field in fields {
                    render::field(out, field.name, field.value);
                }
                out.put(b"\r\n");
            })),
            Side::Http2(side) => {
                side.send_head(false, |sink| {
                    sink.put_field(":status", &status_text(status), FieldKind::Other, false);
                    for field in fields {
                        sink.put_field(field.name, field.value, field.kind, field.never_indexed);
                    }
                });
            }
        }
    }

    /// Tells a client that waits before it sends its body to go on.
    pub(super) fn send_continue(&mut self) {
        self.send_interim(100, std::iter::empty());
    }

    /// Tells a client that its tunnel, which ends here, is connected.
    pub(super) fn send_established(&mut self) {
        match &mut self.side {
            Side::Http1(side) => side.transport.send(self.shard.arena.copy(ESTABLISHED)),
            Side::Http2(side) => {
                side.send_head(false, |sink| {
                    sink.put_field(":status", b"200", FieldKind::Other, false);
                });
            }
        }
    }

    /// Ends the response's body.
    pub(super) fn end_body(&mut self, trailers: Option<Box<FieldBlock>>, chunked: bool) {
        match &mut self.side {
            Side::Http1(side) if chunked => {
                let trailers = trailers.filter(|_| self.http.config.http1.enable_trailers);
                http1::send_last_chunk(self.shard, side.transport, trailers.as_deref());
            }
            Side::Http1(_) => {}
            Side::Http2(side) => side.end_body(trailers),
        }
    }

    /// Passes on that upstream's direction of a tunnel is over.
    pub(super) fn end_tunnel(&mut self) {
        match &mut self.side {
            Side::Http1(side) => side.transport.finish(),
            Side::Http2(side) => side.end_body(None),
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self.side, Side::Http2(_))
    }
}

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
