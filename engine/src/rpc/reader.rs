//! From received chunks to whole messages.
//!
//! A frame that lies in one chunk stays there; one that does not is put together in memory of its own,
//! so that a slow sender holds no receive buffer. Invariants: a connection holds at most one frame in
//! the making, of at most the configured length; all of a shard's together stay below
//! [`ASSEMBLED_BYTES_MAX`].

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

use outrigger_codecs::http::Put;
use outrigger_codecs::rpc::{Frame, FrameError, Progress, RpcCodec};

use crate::buffers::{Arena, Assembly, Chunk, ChunkMut, RECORD_BYTES_MAX, RecordBuffers};
use crate::timer::Nanos;

use super::message::Message;

/// Bytes that a shard's RPC connections hold of frames in the making.
#[derive(Clone, Default)]
pub struct AssemblyBudget(Rc<Cell<usize>>);

impl AssemblyBudget {
    fn reserve(&self, bytes: usize) -> Option<Reserved> {
        let total = self.0.get() + bytes;
        (total <= ASSEMBLED_BYTES_MAX).then(|| {
            self.0.set(total);
            Reserved { budget: self.clone(), bytes }
        })
    }

    fn release(&self, bytes: usize) {
        self.0.set(self.0.get() - bytes);
    }
}

/// What reading needs of its shard.
#[derive(Clone, Copy)]
pub struct ReadMemory<'a> {
    /// Bytes that are copied.
    pub arena: &'a Arena,
    /// Frames in the making.
    pub records: &'a RecordBuffers,
    /// Their bound.
    pub budget: &'a AssemblyBudget,
}

/// What a step of reading found.
pub enum Read {
    /// A whole frame.
    Message(Message),
    /// A frame for which there is no memory now: its bytes are dropped as they come.
    Refused(Frame),
    /// Nothing until more is received.
    NeedMore,
}

/// The reading side of one connection.
#[derive(Default)]
pub struct FrameReader {
    /// The beginning of a frame of which too little is there to tell its bounds.
    front: Vec<u8>,
    state: State,
    /// When the frame in the making began.
    since: Nanos,
    /// Bytes of frames that were read to their end.
    offset: u64,
}

#[derive(Default)]
enum State {
    /// Between frames, or in the front of one.
    #[default]
    Front,
    /// In a frame that is kept. Once it is whole its bytes tell again what it is: a place for that would be
    /// empty in most connections.
    Frame { assembly: Assembly, _reserved: Reserved },
    /// In a frame that is not.
    Skipping { left: usize },
}

/// A share of the budget; given back when dropped.
struct Reserved {
    budget: AssemblyBudget,
    bytes: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

impl FrameReader {
    /// Since when a frame is in the making; nothing between frames.
    pub fn partial_since(&self) -> Option<Nanos> {
        let between = matches!(self.state, State::Front) && self.front.is_empty();
        (!between).then_some(self.since)
    }

    /// What there is of the frame in the making; nothing of one that is dropped as it comes.
    pub fn seen(&self) -> Option<&[u8]> {
        match &self.state {
            State::Front => Some(&self.front),
            State::Frame { assembly, .. } => Some(assembly.filled()),
            State::Skipping { .. } => None,
        }
    }

    /// Bytes of the connection before the frame that is being read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads on in `input`; with [`Read::NeedMore`] all of it was taken.
    ///
    /// # Errors
    /// When framing is lost.
    pub fn next(
        &mut self,
        codec: &dyn RpcCodec,
        input: &mut Input,
        memory: ReadMemory<'_>,
        now: Nanos,
    ) -> Result<Read, FrameError> {
        loop {
            match &mut self.state {
                State::Front if input.is_empty() => return Ok(Read::NeedMore),
                State::Front => {
                    if let Some(read) = self.read_front(codec, input, memory, now)? {
                        return Ok(read);
                    }
                }
                State::Frame { assembly, .. } => {
                    let filled = assembly.fill(input);
                    input.advance(filled);
                    if assembly.missing() > 0 {
                        return Ok(Read::NeedMore);
                    }
                    let State::Frame { assembly, .. } = std::mem::take(&mut self.state) else {
                        continue;
                    };
                    let bytes = assembly.into_chunk_mut();
                    self.offset += bytes.len() as u64;
                    let Progress::Frame(frame) = codec.frame(&bytes)? else { continue };
                    return Ok(Read::Message(Message::assembled(frame, bytes)));
                }
                State::Skipping { left } => {
                    let skipped = input.len().min(*left);
                    input.advance(skipped);
                    self.offset += skipped as u64;
                    *left -= skipped;
                    if *left > 0 {
                        return Ok(Read::NeedMore);
                    }
                    self.state = State::Front;
                }
            }
        }
    }

    /// Finds out what frame begins here. Nothing when the state tells how to go on.
    fn read_front(
        &mut self,
        codec: &dyn RpcCodec,
        input: &mut Input,
        memory: ReadMemory<'_>,
        now: Nanos,
    ) -> Result<Option<Read>, FrameError> {
        if self.front.is_empty() {
            self.since = now;
            match codec.frame(input)? {
                Progress::Frame(frame) if frame.len <= input.len() => {
                    self.offset += frame.len as u64;
                    let bytes = input.take(frame.len, memory.arena);
                    return Ok(Some(Read::Message(Message::received(frame, bytes))));
                }
                Progress::Frame(frame) => return Ok(self.begin(frame, memory)),
                Progress::NeedMore(_) => {
                    self.front.extend_from_slice(input);
                    input.advance(input.len());
                    return Ok(Some(Read::NeedMore));
                }
            }
        }
        match codec.frame(&self.front)? {
            Progress::Frame(frame) => Ok(self.begin(frame, memory)),
            // Never more than the frame has, so nothing of the next one comes along.
            Progress::NeedMore(wanted) => {
                let missing = wanted.saturating_sub(self.front.len()).max(1).min(input.len());
                self.front.extend_from_slice(&input[..missing]);
                input.advance(missing);
                Ok(None)
            }
        }
    }

    /// Makes room for a frame that is not whole yet. Tells of one that is refused.
    fn begin(&mut self, frame: Frame, memory: ReadMemory<'_>) -> Option<Read> {
        let front = std::mem::take(&mut self.front);
        let bytes = if frame.len > RECORD_BYTES_MAX { frame.len } else { 0 };
        let Some(reserved) = memory.budget.reserve(bytes) else {
            self.state = State::Skipping { left: frame.len.saturating_sub(front.len()) };
            self.offset += front.len() as u64;
            return Some(Read::Refused(frame));
        };
        let mut assembly = memory.records.assemble_message(frame.len);
        assembly.fill(&front);
        self.state = State::Frame { assembly, _reserved: reserved };
        // Its memory is kept for the next one.
        self.front = front;
        self.front.clear();
        self.front.shrink_to(FRONT_KEPT_BYTES);
        None
    }
}

/// Received bytes that are being read.
pub struct Input(Bytes);

enum Bytes {
    /// To be changed in place.
    Own(ChunkMut),
    /// Others read parts of the same buffer.
    Shared(Chunk),
}

impl Input {
    /// Takes a received chunk.
    pub fn new(chunk: Chunk) -> Self {
        Self(match ChunkMut::new(chunk) {
            Ok(own) => Bytes::Own(own),
            Err(shared) => Bytes::Shared(shared),
        })
    }

    fn advance(&mut self, count: usize) {
        match &mut self.0 {
            Bytes::Own(bytes) => drop(bytes.split_to(count)),
            Bytes::Shared(bytes) => bytes.advance(count),
        }
    }

    /// Takes the first `count` bytes, to be changed.
    fn take(&mut self, count: usize, arena: &Arena) -> ChunkMut {
        match &mut self.0 {
            Bytes::Own(bytes) => bytes.split_to(count),
            Bytes::Shared(bytes) => {
                let copy = arena.write_mut(|out| out.put(&bytes[..count]));
                bytes.advance(count);
                copy
            }
        }
    }
}

impl Deref for Input {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Own(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
        }
    }
}

/// For all frames of a shard that are longer than a receive buffer and not whole yet. Four of the
/// longest that Bolt allows by default.
const ASSEMBLED_BYTES_MAX: usize = 256 << 20;

/// Room for the front of a frame that is kept for the next one.
const FRONT_KEPT_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use outrigger_codecs::rpc::{Bolt, Kind};

    use super::*;

    const CODEC: Bolt =
        Bolt { crc_by_switch_only: false, goaway: false, max_frame_bytes: 512 << 20 };

    /// A Bolt request with this id and content.
    fn request(id: u8, content: &[u8]) -> Vec<u8> {
        let mut frame = vec![1, 1, 0, 1, 1, 0, 0, 0, id, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        frame.extend_from_slice(&(content.len() as u32).to_be_bytes());
        frame.extend_from_slice(content);
        frame
    }

    struct Reading {
        reader: FrameReader,
        arena: Arena,
        records: Rc<RecordBuffers>,
        budget: AssemblyBudget,
        seen: Vec<Vec<u8>>,
        refused: Vec<u64>,
    }

    impl Reading {
        fn new() -> Self {
            Self {
                reader: FrameReader::default(),
                arena: Arena::new(),
                records: RecordBuffers::new(),
                budget: AssemblyBudget::default(),
                seen: Vec::new(),
                refused: Vec::new(),
            }
        }

        fn push(&mut self, bytes: &[u8]) {
            let mut input = Input::new(self.arena.copy(bytes));
            let memory =
                ReadMemory { arena: &self.arena, records: &self.records, budget: &self.budget };
            loop {
                match self.reader.next(&CODEC, &mut input, memory, 7).unwrap() {
                    Read::Message(message) => {
                        assert_eq!(message.frame.kind, Kind::Request);
                        self.seen.push(message.bytes().to_vec());
                    }
                    Read::Refused(frame) => self.refused.push(frame.id),
                    Read::NeedMore => break,
                }
            }
            assert!(input.is_empty());
        }
    }

    #[test]
    fn frames_are_whole_however_they_come() {
        let frames = [request(1, b""), request(2, b"two"), request(3, &[3; 40_000])];
        let all = frames.concat();
        for size in [1, 7, 21, 22, 23, 100, 30_000, all.len()] {
            let mut reading = Reading::new();
            for piece in all.chunks(size) {
                reading.push(piece);
            }
            assert_eq!(reading.seen, frames, "pieces of {size}");
            assert_eq!(reading.reader.offset(), all.len() as u64);
            assert_eq!(reading.reader.partial_since(), None);
            assert_eq!(reading.budget.0.get(), 0);
        }
    }

    #[test]
    fn a_frame_in_the_making_is_known_and_holds_its_share() {
        let mut reading = Reading::new();
        let frame = request(1, &[1; 100_000]);
        reading.push(&frame[..50]);
        assert_eq!(reading.reader.partial_since(), Some(7));
        assert_eq!(reading.budget.0.get(), frame.len());
        drop(reading.reader);
        assert_eq!(reading.budget.0.get(), 0);
    }

    #[test]
    fn above_the_budget_a_frame_is_refused_and_the_next_one_is_read() {
        let mut reading = Reading::new();
        reading.budget.0.set(ASSEMBLED_BYTES_MAX - 50_000);
        let all = [request(1, &[1; 60_000]), request(2, b"next")].concat();
        for piece in all.chunks(999) {
            reading.push(piece);
        }
        assert_eq!(reading.refused, [1]);
        assert_eq!(reading.seen, [request(2, b"next")]);
    }
}
