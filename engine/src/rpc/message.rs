//! One whole frame on its way through.
//!
//! Invariant: a message holds all of its frame, so it goes out whole or not at all: no peer can leave
//! half a frame on a connection that others share.

use arrayvec::ArrayVec;
use outrigger_codecs::http::Put;
use outrigger_codecs::rpc::{Frame, Progress, RpcCodec, Splices};

use crate::buffers::{Arena, Chunk, ChunkMut};
use crate::transport::Transport;

/// A frame and its bytes.
pub struct Message {
    /// What its fixed part says. Its length is that of the frame as it was received.
    pub frame: Frame,
    /// The whole frame, or what comes before `rest` once it was changed.
    head: ChunkMut,
    rest: ArrayVec<Chunk, PIECES_MAX>,
}

impl Message {
    /// A frame as it was received.
    pub fn new(frame: Frame, bytes: ChunkMut) -> Self {
        debug_assert_eq!(frame.len, bytes.len());
        Self { frame, head: bytes, rest: ArrayVec::new() }
    }

    /// The bytes as they were received; only the front of them once they were changed.
    pub fn bytes(&self) -> &[u8] {
        &self.head
    }

    /// Bytes it has now.
    pub fn len(&self) -> usize {
        self.head.len() + self.rest.iter().map(|piece| piece.len()).sum::<usize>()
    }

    /// Gives the frame another id. The checksum is [`Message::seal`]'s.
    pub fn set_id(&mut self, codec: &dyn RpcCodec, id: u64) {
        codec.set_id(&self.frame, &mut self.head, id);
    }

    /// Makes the changes, in a message that was not changed before.
    pub fn splice(&mut self, codec: &dyn RpcCodec, splices: &Splices, arena: &Arena) {
        if splices.is_empty() {
            return;
        }
        debug_assert!(self.rest.is_empty());
        // Where the changes begin behind the id, the front stays where it is. Otherwise what is
        // written new begins with the first change.
        let head_end = splices.iter().next().map_or(0, |(range, _)| range.start);
        let mut pieces: ArrayVec<Chunk, PIECES_MAX> = ArrayVec::new();
        if head_end < self.frame.id_end || splices.iter().count() * 2 > PIECES_MAX {
            let changed = splices.apply(&self.head);
            self.head = arena.write_mut(|out| out.put(&changed));
        } else {
            let mut left = std::mem::replace(&mut self.head, arena.write_mut(|_| {}));
            self.head = left.split_to(head_end);
            let left = left.freeze();
            let mut at = head_end;
            for (range, bytes) in splices.iter() {
                pieces.extend(piece(left.slice(at - head_end..range.start - head_end)));
                pieces.extend(piece(arena.copy(bytes)));
                at = range.end;
            }
            pieces.extend(piece(left.slice(at - head_end..left.len())));
        }
        self.rest = pieces;
        // Its fixed part may have another form now.
        if let Ok(Progress::Frame(frame)) = codec.frame(&self.head) {
            self.frame = frame;
        }
    }

    /// Makes the checksum, if the frame has one, agree with its bytes. The last thing to be done.
    pub fn seal(&mut self, codec: &dyn RpcCodec, arena: &Arena) {
        let parts = std::iter::once(&self.head[..]).chain(self.rest.iter().map(|piece| &piece[..]));
        let Some(sum) = codec.seal(&self.frame, &mut { parts }) else { return };
        // Pieces may be shared, and then can't be written to.
        if !self.rest.is_empty() {
            self.leave_receive_buffers(arena);
        }
        let at = self.head.len().saturating_sub(sum.len());
        self.head[at..].copy_from_slice(&sum);
    }

    /// Moves the bytes out of the receive buffers: a peer that does not read must not keep those.
    pub fn leave_receive_buffers(&mut self, arena: &Arena) {
        self.head = self.copied(arena);
        self.rest.clear();
    }

    /// A second message with the same bytes, to be sent again; before any change.
    pub fn duplicate(&self, arena: &Arena) -> Self {
        Self { frame: self.frame, head: self.copied(arena), rest: ArrayVec::new() }
    }

    /// Queues it.
    pub fn send(self, transport: &Transport) {
        transport.send(self.head.freeze());
        for piece in self.rest {
            transport.send(piece);
        }
    }

    fn copied(&self, arena: &Arena) -> ChunkMut {
        arena.write_mut(|out| {
            out.put(&self.head);
            for piece in &self.rest {
                out.put(piece);
            }
        })
    }
}

fn piece(chunk: Chunk) -> Option<Chunk> {
    (!chunk.is_empty()).then_some(chunk)
}

/// Pieces behind the front: what a few changes make. A message with more is written anew.
const PIECES_MAX: usize = 8;
