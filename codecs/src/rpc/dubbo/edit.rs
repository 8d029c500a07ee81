//! Edits of attachments (dubbo.md section 6).

use super::super::{EditError, Frame, HeaderEdit, Splices};
use super::attachments::{Attachments, Tail};
use super::call;
use super::frame::{HEADER_BYTES, LENGTH_AT};
use super::jsonb;
use super::serialization::Serialization;
use crate::http::decimal;
use crate::http::put::DECIMAL_LEN_MAX;

/// Lists the changes that make `edits`; none when there is an error.
pub(super) fn list(
    frame: &Frame,
    bytes: &[u8],
    edits: &[HeaderEdit<'_>],
    timeout_ms: Option<u32>,
    max_frame_bytes: usize,
    splices: &mut Splices,
) -> Result<(), EditError> {
    let mut digits = [0; DECIMAL_LEN_MAX];
    let timeout = timeout_ms.map(|ms| decimal(u64::from(ms), &mut digits));
    let mut plan = Plan { edits, timeout, met: 0 };
    let done = change(frame, bytes, &mut plan, max_frame_bytes, splices);
    if done.is_err() {
        splices.clear();
    }
    done
}

fn change(
    frame: &Frame,
    bytes: &[u8],
    plan: &mut Plan<'_>,
    max_frame_bytes: usize,
    splices: &mut Splices,
) -> Result<(), EditError> {
    let serialization = Serialization::of(frame.tag).ok_or(EditError::Unsupported)?;
    if bytes.len() < frame.len {
        return Err(EditError::Unreadable);
    }
    let attachments = call::attachments(frame, bytes)?;
    let lengths = Lengths::begin(&attachments, splices);
    let tail = remove(attachments.clone(), plan, splices)?;
    append(&attachments, tail, serialization, plan, splices)?;
    lengths.finish(frame, max_frame_bytes, splices)
}

/// Takes out what does not stay as it is, and tells where additions go.
fn remove(
    mut attachments: Attachments<'_>,
    plan: &mut Plan<'_>,
    splices: &mut Splices,
) -> Result<Tail, EditError> {
    while let Some(entry) = attachments.next().map_err(|_| EditError::Unreadable)? {
        let Some(name) = entry.key else { continue };
        plan.meet(name);
        if plan.fate(name, true) == Fate::Kept {
            continue;
        }
        if !entry.is_removable {
            return Err(EditError::Unsupported);
        }
        splices.replace(entry.range, |_| {});
    }
    attachments.tail().ok_or(EditError::Unreadable)
}

fn append(
    attachments: &Attachments<'_>,
    tail: Tail,
    serialization: Serialization,
    plan: &Plan<'_>,
    splices: &mut Splices,
) -> Result<(), EditError> {
    let (begin, end) = serialization.map_marks();
    let (mut range, is_null) = match tail {
        Tail::End(at) => (at..at, false),
        Tail::Null(at) => (at..at + 1, true),
    };
    let mut is_first = true;
    for (index, name) in plan.names() {
        let is_present = plan.has_met(index).unwrap_or_else(|| has(attachments.clone(), name));
        let Fate::New(value) = plan.fate(name, is_present) else { continue };
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| EditError::Unsupported);
        let (name, value) = (text(name)?, text(value)?);
        splices.replace(range.clone(), |out| {
            if is_null && is_first {
                out.push(begin);
            }
            serialization.put_string(name, out);
            serialization.put_string(value, out);
        });
        is_first = false;
        range.start = range.end;
    }
    if is_null && !is_first {
        splices.replace(range, |out| out.push(end));
    }
    Ok(())
}

/// The lengths before the attachments, whose splices come first and are filled in last.
struct Lengths {
    /// Bytes of attachments that have their length before them.
    attachments: Option<usize>,
    /// Splices of lengths.
    splices: usize,
}

impl Lengths {
    fn begin(attachments: &Attachments<'_>, splices: &mut Splices) -> Self {
        let unknown = |out: &mut Vec<u8>| out.extend_from_slice(&[0; 4]);
        splices.replace(LENGTH_AT..HEADER_BYTES, unknown);
        let value = attachments.value();
        if let Some(value) = &value {
            splices.replace(value.start - jsonb::LENGTH_BYTES..value.start, unknown);
        }
        let attachments = value.map(|value| value.len());
        Lengths { attachments, splices: 1 + usize::from(attachments.is_some()) }
    }

    fn finish(
        self,
        frame: &Frame,
        max_frame_bytes: usize,
        splices: &mut Splices,
    ) -> Result<(), EditError> {
        if splices.iter().count() == self.splices {
            splices.clear();
            return Ok(());
        }
        let len = splices.new_len(frame.len);
        if len > max_frame_bytes {
            return Err(EditError::TooLong);
        }
        let body_len = i32::try_from(len - HEADER_BYTES).map_err(|_| EditError::TooLong)?;
        splices.amend(0, &body_len.to_be_bytes());
        if let Some(old) = self.attachments {
            // All changes of length are in them.
            let new = u32::try_from(old + len - frame.len).map_err(|_| EditError::TooLong)?;
            splices.amend(1, &new.to_be_bytes());
        }
        Ok(())
    }
}

/// What is to be done.
struct Plan<'e> {
    edits: &'e [HeaderEdit<'e>],
    /// The digits to write where there is a timeout.
    timeout: Option<&'e [u8]>,
    /// The edits whose names have been met, one bit each, as far as there are bits.
    met: u64,
}

/// What becomes of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate<'e> {
    /// What there was, all of it.
    Kept,
    /// Nothing.
    Gone,
    /// This value alone.
    New(&'e [u8]),
}

impl<'e> Plan<'e> {
    /// What becomes of `name`, which has a value now or not.
    fn fate(&self, name: &[u8], is_present: bool) -> Fate<'e> {
        let mut fate = if is_present { Fate::Kept } else { Fate::Gone };
        for (_, edit) in self.edits().filter(|(edited, _)| *edited == name) {
            fate = match (edit, fate) {
                (HeaderEdit::Remove(_), _) => Fate::Gone,
                (HeaderEdit::Set(_, value), _)
                | (HeaderEdit::SetIfAbsent(_, value), Fate::Gone)
                | (HeaderEdit::Replace(_, value), Fate::Kept | Fate::New(_)) => Fate::New(value),
                (HeaderEdit::SetIfAbsent(..) | HeaderEdit::Replace(..), fate) => fate,
            };
        }
        fate
    }

    /// Notes that `name` has a value now.
    fn meet(&mut self, name: &[u8]) {
        let bits = self.edits().zip(0..u64::BITS).filter(|((edited, _), _)| *edited == name);
        self.met = bits.fold(self.met, |met, (_, bit)| met | 1 << bit);
    }

    /// Whether the name of an edit has been met; `None` when that was not noted.
    fn has_met(&self, index: usize) -> Option<bool> {
        let bit = u32::try_from(index).ok().filter(|bit| *bit < u64::BITS)?;
        Some(self.met >> bit & 1 == 1)
    }

    /// The names that are edited, each once, with the place of their first edit.
    fn names(&self) -> impl Iterator<Item = (usize, &'e [u8])> {
        self.edits().enumerate().filter_map(|(index, (name, _))| {
            let is_first = self.edits().take(index).all(|(earlier, _)| earlier != name);
            is_first.then_some((index, name))
        })
    }

    fn edits(&self) -> impl Iterator<Item = (&'e [u8], HeaderEdit<'e>)> {
        let timeout = self.timeout.map(|digits| HeaderEdit::Replace(b"timeout", digits));
        self.edits.iter().copied().chain(timeout).map(|edit| match edit {
            HeaderEdit::Remove(name)
            | HeaderEdit::Set(name, _)
            | HeaderEdit::SetIfAbsent(name, _)
            | HeaderEdit::Replace(name, _) => (name, edit),
        })
    }
}

fn has(mut attachments: Attachments<'_>, name: &[u8]) -> bool {
    while let Ok(Some(entry)) = attachments.next() {
        if entry.key == Some(name) {
            return true;
        }
    }
    false
}
