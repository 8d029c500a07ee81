//! Changes of a frame as a short list of replaced ranges, so that the rest of it is never copied.

use std::ops::Range;

/// A change of one header of an RPC message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderEdit<'a> {
    /// Remove every occurrence.
    Remove(&'a [u8]),
    /// Remove every occurrence, then append.
    Set(&'a [u8], &'a [u8]),
    /// Append unless there is one.
    SetIfAbsent(&'a [u8], &'a [u8]),
    /// Change the value if there is one.
    Replace(&'a [u8], &'a [u8]),
}

/// Ranges of a frame and the bytes that replace them, in ascending order and without overlap. It keeps
/// its memory from use to use.
#[derive(Debug, Default)]
pub struct Splices {
    bytes: Vec<u8>,
    list: Vec<(Range<usize>, Range<usize>)>,
}

impl Splices {
    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
    }

    /// True when there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Replaces `range` of the frame with what `write` appends to the buffer it is given, which holds
    /// the bytes of earlier splices: it must only append.
    ///
    /// Ranges come in ascending order.
    pub fn replace(&mut self, range: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(range.start <= range.end);
        debug_assert!(self.list.last().is_none_or(|(last, _)| last.end <= range.start));
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.list.push((range, start..self.bytes.len()));
    }

    /// Overwrites the new bytes of the `nth` splice with as many others: a length that stands before
    /// what it counts is known only in the end.
    pub fn amend(&mut self, nth: usize, bytes: &[u8]) {
        let known = self.list.get(nth).and_then(|(_, new)| self.bytes.get_mut(new.clone()));
        debug_assert_eq!(known.as_ref().map(|known| known.len()), Some(bytes.len()));
        if let Some(known) = known
            && known.len() == bytes.len()
        {
            known.copy_from_slice(bytes);
        }
    }

    /// The replaced ranges and their new bytes.
    pub fn iter(&self) -> impl Iterator<Item = (Range<usize>, &[u8])> {
        self.list.iter().map(|(range, bytes)| (range.clone(), &self.bytes[bytes.clone()]))
    }

    /// What the frame's length becomes.
    pub fn new_len(&self, len: usize) -> usize {
        let (removed, added) = self.list.iter().fold((0, 0), |(removed, added), (range, bytes)| {
            (removed + range.len(), added + bytes.len())
        });
        len - removed + added
    }

    /// A frame with its changes made: for tests, and for frames so rare that a copy does not matter.
    pub fn apply(&self, frame: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.new_len(frame.len()));
        let mut at = 0;
        for (range, bytes) in self.iter() {
            out.extend_from_slice(&frame[at..range.start]);
            out.extend_from_slice(bytes);
            at = range.end;
        }
        out.extend_from_slice(&frame[at..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splices_replace_insert_and_remove() {
        let mut splices = Splices::default();
        splices.replace(0..1, |out| out.extend_from_slice(b"AA"));
        splices.replace(2..2, |out| out.extend_from_slice(b"-"));
        splices.replace(3..5, |_| {});
        assert_eq!(splices.apply(b"abcdef"), b"AAb-cf");
        assert_eq!(splices.new_len(6), 6);
        splices.amend(0, b"BB");
        assert_eq!(splices.apply(b"abcdef"), b"BBb-cf");
        splices.clear();
        assert!(splices.is_empty());
        assert_eq!(splices.apply(b"abc"), b"abc");
    }
}
