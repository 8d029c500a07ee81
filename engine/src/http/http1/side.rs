//! Bodies on HTTP/1: decoded as they come, framed as they go.

use outrigger_codecs::http::{FieldBlock, FieldKind, FieldStorage, Put};
use outrigger_codecs::http1::{BodyDecoder, LAST_CHUNK, parse_trailers, render};

use crate::buffers::Chunk;
use crate::http::downstream::BodyEvent;
use crate::ring::{Received, Watermarks};
use crate::shard::Shard;
use crate::transport::Transport;

use super::Input;

/// A downstream connection, lent to the one exchange on it.
pub(in crate::http) struct Side<'a> {
    pub(in crate::http) transport: &'a Transport,
    pub(in crate::http) input: &'a mut Input,
}

impl Side<'_> {
    /// Takes what comes next of the request's body. What follows the body stays where it is.
    pub(in crate::http) fn take_body(
        &mut self,
        framing: &mut BodyDecoder,
        keep_trailers: bool,
    ) -> BodyEvent {
        loop {
            if framing.is_done() {
                return BodyEvent::End(trailers_of(framing, keep_trailers));
            }
            let chunk = match self.input.next(self.transport) {
                Received::Chunk(chunk) => chunk,
                Received::None => return BodyEvent::None,
                // A tunnel's direction ends with the connection's.
                Received::End if framing.on_eof().is_ok() => return BodyEvent::End(None),
                Received::End | Received::Failed(_) => return BodyEvent::Gone,
            };
            let Ok(step) = framing.decode(&chunk) else { return BodyEvent::Malformed };
            let data = chunk.slice(step.data);
            let mut rest = chunk;
            rest.advance(step.consumed);
            self.input.put_back(rest);
            if !data.is_empty() {
                return BodyEvent::Data(data);
            }
        }
    }

    /// True while more may be sent.
    pub(in crate::http) fn has_room(&self, marks: Watermarks) -> bool {
        let room = self.transport.unsent() < marks.high;
        if !room {
            self.transport.wake_at_unsent(marks.low());
        }
        room
    }
}

/// The trailers of a complete body, where they are wanted and there are any.
pub(in crate::http) fn trailers_of(
    body: &mut BodyDecoder,
    wanted: bool,
) -> Option<Box<FieldBlock>> {
    let BodyDecoder::Chunked(decoder) = body else { return None };
    let section = decoder.take_trailers().filter(|_| wanted)?;
    let mut storage = FieldStorage::new();
    // The decoder has checked the section.
    let fields = parse_trailers(&section, &mut storage).ok()?;
    let mut block = Box::<FieldBlock>::default();
    for field in fields {
        block.push_as(field.name, field.value, field.kind, false);
    }
    Some(block)
}

/// Sends body bytes, as a chunk where the body goes out chunked (RFC 9112 section 7.1).
pub(in crate::http) fn send_body(shard: &Shard, transport: &Transport, data: Chunk, chunked: bool) {
    if !chunked {
        return transport.send(data);
    }
    transport.send(shard.arena.write(|out| render::chunk_size_line(out, data.len())));
    transport.send(data);
    // Sent at once, for clients that act on a chunk only when they have seen its end.
    transport.send(shard.arena.copy(b"\r\n"));
}

/// Ends a chunked body.
pub(in crate::http) fn send_last_chunk(
    shard: &Shard,
    transport: &Transport,
    trailers: Option<&FieldBlock>,
) {
    transport.send(shard.arena.write(|out| match trailers {
        Some(trailers) => {
            out.put(b"0\r\n");
            // As for those that come on HTTP/1: none that frames, routes or authenticates.
            for field in trailers.iter().filter(|field| field.kind == FieldKind::Other) {
                render::field(out, field.name, field.value);
            }
            out.put(b"\r\n");
        }
        None => out.put(LAST_CHUNK),
    }));
}
