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
    /// It lies in a buffer that the kernel received into.
    is_received: bool,
}

impl Message {
    /// A frame where it was received.
    pub fn received(frame: Frame, bytes: ChunkMut) -> Self {
        debug_assert_eq!(frame.len, bytes.len());
        Self { frame, head: bytes, rest: ArrayVec::new(), is_received: true }
    }

    /// A frame that was put together in memory of its own.
    pub fn assembled(frame: Frame, bytes: ChunkMut) -> Self {
        Self { is_received: false, ..Self::received(frame, bytes) }
    }

    /// The bytes as they were received; only the front of them once they were changed.
    pub fn bytes(&self) -> &[u8] {
        &self.head
    }

    /// Bytes it has now.
    pub fn byte_len(&self) -> usize {
        self.head.len() + self.rest.iter().map(Chunk::len).sum::<usize>()
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
        let old = std::mem::replace(&mut self.head, arena.write_mut(|_| {})).freeze();
        let mut changes = splices.iter().peekable();
        let mut at = 0;
        // The front is written anew, so that the fixed part is in one piece and can be read.
        self.head = arena.write_mut(|out| {
            while let Some((range, bytes)) = changes.next_if(|(range, _)| range.start < FRONT_BYTES)
            {
                out.put(&old[at..range.start]);
                out.put(bytes);
                at = range.end;
            }
            let next = changes.peek().map_or(old.len(), |(range, _)| range.start);
            let end = FRONT_BYTES.min(next).max(at);
            out.put(&old[at..end]);
            at = end;
        });
        let mut rest = Pieces { head: &mut self.head, rest: &mut self.rest, arena };
        for (range, bytes) in changes {
            rest.push(old.slice(at..range.start));
            rest.push(arena.copy(bytes));
            at = range.end;
        }
        rest.push(old.slice(at..old.len()));
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
            self.join(arena);
        }
        let at = self.head.len().saturating_sub(sum.len());
        self.head[at..].copy_from_slice(&sum);
    }

    /// Moves the bytes out of the receive buffers: a peer that does not read must not keep those.
    pub fn leave_receive_buffers(&mut self, arena: &Arena) {
        if self.is_received {
            self.join(arena);
        }
    }

    fn join(&mut self, arena: &Arena) {
        self.head = self.copied(arena);
        self.rest.clear();
        self.is_received = false;
    }

    /// A second message with the same bytes, to be sent again; before any change.
    pub fn duplicate(&self, arena: &Arena) -> Self {
        Self {
            frame: self.frame,
            head: self.copied(arena),
            rest: ArrayVec::new(),
            is_received: false,
        }
    }

    /// Queues it.
    pub fn send(self, transport: &Transport) {
        transport.send(self.head.freeze());
        for piece in self.rest {
            transport.send(piece);
        }
    }

    fn copied(&self, arena: &Arena) -> ChunkMut {
        joined(&self.head, &self.rest, arena)
    }
}

/// A message that is put together.
struct Pieces<'a> {
    head: &'a mut ChunkMut,
    rest: &'a mut ArrayVec<Chunk, PIECES_MAX>,
    arena: &'a Arena,
}

impl Pieces<'_> {
    fn push(&mut self, piece: Chunk) {
        if piece.is_empty() {
            return;
        }
        if self.rest.is_full() {
            *self.head = joined(self.head, self.rest, self.arena);
            self.rest.clear();
        }
        self.rest.push(piece);
    }
}

fn joined(head: &[u8], rest: &[Chunk], arena: &Arena) -> ChunkMut {
    arena.write_mut(|out| {
        out.put(head);
        for piece in rest {
            out.put(piece);
        }
    })
}

/// What is written anew of a message that is changed: more than any fixed part.
const FRONT_BYTES: usize = 256;

/// Pieces behind the front: what a few changes make. With more, what there is is written anew.
const PIECES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use outrigger_codecs::rpc::Bolt;

    use super::*;

    const CODEC: Bolt = Bolt { crc_by_switch_only: false, goaway: false, max_frame_bytes: 1 << 20 };

    #[test]
    fn changes_are_made_wherever_they_are_and_however_many() {
        let arena = Arena::new();
        let mut frame = vec![1, 1, 0, 1, 1, 0, 0, 0, 9, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        frame.extend_from_slice(&1000_u32.to_be_bytes());
        frame.extend((0..1000).map(|at| at as u8));
        let Ok(Progress::Frame(parsed)) = CODEC.frame(&frame) else { panic!("a frame") };
        for places in [&[][..], &[22], &[300], &[30, 255, 256, 900], &[500; 1], &[1022]] {
            for many in [1, 7] {
                let mut splices = Splices::default();
                for place in places {
                    for _ in 0..many {
                        splices.replace(*place..*place, |out| out.extend_from_slice(b"<new>"));
                    }
                }
                let bytes = arena.write_mut(|out| out.put(&frame));
                let mut message = Message::received(parsed, bytes);
                message.splice(&CODEC, &splices, &arena);
                assert_eq!(message.byte_len(), splices.new_len(frame.len()));
                assert_eq!(*message.copied(&arena), splices.apply(&frame)[..]);
                message.set_id(&CODEC, 77);
                assert_eq!(message.bytes()[8], 77);
            }
        }
    }
}
