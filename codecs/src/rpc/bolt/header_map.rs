//! The key/value block of a Bolt message (bolt.md section 3.6), walked in place and rewritten with
//! edits.
//!
//! A null key or value stays where it is on the wire, and is nothing to who reads. Invariants: every
//! length is checked against what is left of the block; pairs that no edit names keep their bytes and
//! their order.

use std::ops::Range;

use crate::http::Put;
use crate::rpc::HeaderEdit;

/// The longest block: its length is read as a signed number of 16 bits by Java.
pub(super) const BLOCK_LEN_MAX: usize = i16::MAX as usize;

/// Walks the pairs of a block; ends after a fault.
#[derive(Clone, Debug)]
pub(super) struct Pairs<'a> {
    block: &'a [u8],
    at: usize,
}

/// A pair; what is `None` is null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    /// Where it stands in the block.
    pub(super) range: Range<usize>,
}

/// Why a block can't be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: &'static str,
    /// Offset in the block.
    pub(super) at: usize,
}

impl<'a> Pairs<'a> {
    pub(super) fn new(block: &'a [u8]) -> Self {
        Self { block, at: 0 }
    }

    fn pair(&mut self) -> Result<Pair<'a>, Fault> {
        let start = self.at;
        let key = self.string()?;
        if self.at == self.block.len() {
            return Err(Fault { reason: "a header without a value", at: start });
        }
        let value = self.string()?;
        Ok(Pair { key, value, range: start..self.at })
    }

    fn string(&mut self) -> Result<Option<&'a [u8]>, Fault> {
        let fault = |reason| Fault { reason, at: self.at };
        let rest = self.block.get(self.at..).unwrap_or_default();
        let Some((len, rest)) = rest.split_first_chunk() else {
            return Err(fault("stray bytes behind the headers"));
        };
        let string = match i32::from_be_bytes(*len) {
            NULL => None,
            len => {
                let len = usize::try_from(len).map_err(|_| fault("a negative length"))?;
                Some(
                    rest.get(..len)
                        .ok_or_else(|| fault("a header that is longer than its block"))?,
                )
            }
        };
        self.at += LENGTH_LEN + string.map_or(0, <[u8]>::len);
        Ok(string)
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<Pair<'a>, Fault>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.block.len() {
            return None;
        }
        let pair = self.pair();
        if pair.is_err() {
            self.at = self.block.len();
        }
        Some(pair)
    }
}

/// What edits make of a block.
///
/// Edits apply one after the other, and the last value of a key is the one that readers take: so
/// `Replace` changes every value of its key, and where the key is there only with a null it does
/// nothing and `SetIfAbsent` appends.
#[derive(Debug)]
pub(super) struct Rewrite<'a, 'e> {
    block: &'a [u8],
    edits: &'e [HeaderEdit<'e>],
    kept: usize,
    added: usize,
}

impl<'a, 'e> Rewrite<'a, 'e> {
    /// # Errors
    /// When the block can't be read. Without edits it is not looked at.
    pub(super) fn new(block: &'a [u8], edits: &'e [HeaderEdit<'e>]) -> Result<Self, Fault> {
        let mut rewrite = Self { block, edits, kept: block.len(), added: 0 };
        if edits.is_empty() {
            return Ok(rewrite);
        }
        for pair in Pairs::new(block) {
            let pair = pair?;
            if rewrite.kept == block.len() && fate(&pair, edits) != Fate::Keep {
                rewrite.kept = pair.range.start;
            }
        }
        let mut added = Measure(0);
        rewrite.put_rest(&mut added);
        rewrite.added = added.0;
        Ok(rewrite)
    }

    /// Bytes of the new block.
    pub(super) fn len(&self) -> usize {
        self.kept.saturating_add(self.added)
    }

    /// What of the old block [`Rewrite::put_rest`] replaces, up to its end; `None` when nothing changes.
    pub(super) fn replaced(&self) -> Option<Range<usize>> {
        (self.kept < self.block.len() || self.added > 0).then_some(self.kept..self.block.len())
    }

    /// Writes what comes in the place of [`Rewrite::replaced`].
    pub(super) fn put_rest<P: Put>(&self, out: &mut P) {
        for pair in self.pairs_from(self.kept) {
            match (fate(&pair, self.edits), pair.key) {
                (Fate::Value(value), Some(key)) => put_pair(key, value, out),
                (Fate::Drop, _) => {}
                _ => out.put(&self.block[pair.range]),
            }
        }
        for (number, edit) in self.edits.iter().enumerate() {
            let (earlier, later) = (&self.edits[..number], &self.edits[number + 1..]);
            let (key, value) = match *edit {
                HeaderEdit::Set(key, value) => (key, value),
                HeaderEdit::SetIfAbsent(key, value) if !self.is_present(key, earlier) => {
                    (key, value)
                }
                _ => continue,
            };
            let pair = Pair { key: Some(key), value: Some(value), range: 0..0 };
            match fate(&pair, later) {
                Fate::Keep => put_pair(key, value, out),
                Fate::Value(value) => put_pair(key, value, out),
                Fate::Drop => {}
            }
        }
    }

    /// The pairs from one on, whose offset that is. The block was read whole before.
    fn pairs_from(&self, at: usize) -> impl Iterator<Item = Pair<'a>> {
        Pairs { block: self.block, at }.map_while(Result::ok)
    }

    /// Whether `key` has a value once `edits` are made.
    fn is_present(&self, key: &[u8], edits: &[HeaderEdit<'_>]) -> bool {
        for edit in edits.iter().rev() {
            match *edit {
                HeaderEdit::Remove(name) if name == key => return false,
                HeaderEdit::Set(name, _) | HeaderEdit::SetIfAbsent(name, _) if name == key => {
                    return true;
                }
                _ => {}
            }
        }
        self.pairs_from(0).any(|pair| pair.key == Some(key) && pair.value.is_some())
    }
}

/// What becomes of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate<'e> {
    Keep,
    Drop,
    /// It gets this value.
    Value(&'e [u8]),
}

fn fate<'e>(pair: &Pair<'_>, edits: &[HeaderEdit<'e>]) -> Fate<'e> {
    let Some(key) = pair.key else { return Fate::Keep };
    let mut fate = Fate::Keep;
    for edit in edits {
        match *edit {
            HeaderEdit::Remove(name) | HeaderEdit::Set(name, _) if name == key => {
                return Fate::Drop;
            }
            HeaderEdit::Replace(name, value) if name == key && pair.value.is_some() => {
                fate = Fate::Value(value);
            }
            _ => {}
        }
    }
    fate
}

fn put_pair<P: Put>(key: &[u8], value: &[u8], out: &mut P) {
    for string in [key, value] {
        // A block of such lengths is never sent: it is measured first.
        let len = i32::try_from(string.len()).unwrap_or(i32::MAX);
        out.put(&len.to_be_bytes());
        out.put(string);
    }
}

/// Counts what is written.
struct Measure(usize);

impl Put for Measure {
    fn put(&mut self, bytes: &[u8]) {
        self.0 = self.0.saturating_add(bytes.len());
    }
}

/// The length of a null.
const NULL: i32 = -1;
const LENGTH_LEN: usize = 4;
