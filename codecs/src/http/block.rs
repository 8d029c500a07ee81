//! The fields of one message, kept apart from the bytes they came in.
//!
//! HTTP/2 decodes header blocks into it, and a head that waits for its connection waits in it. The
//! invariant: names are lower-case text, pseudo-header names (RFC 9113 section 8.3) included, and a
//! cleared block keeps its memory, so that one that is used again and again allocates nothing.

use super::field::{Field, FieldKind};

/// An owned list of fields, in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FieldBlock {
    names: String,
    values: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry {
    name_end: u32,
    value_end: u32,
    kind: FieldKind,
    never_indexed: bool,
}

impl FieldBlock {
    /// Forgets the fields and keeps the memory.
    pub fn clear(&mut self) {
        self.names.clear();
        self.values.clear();
        self.entries.clear();
    }

    /// Gives back memory above `bytes` of text, after a message that was larger than most.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.names.shrink_to(bytes);
        self.values.shrink_to(bytes);
        self.entries.shrink_to(bytes / size_of::<Entry>());
    }

    /// True without fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The bytes of names and values.
    #[must_use]
    pub fn text_len(&self) -> usize {
        self.names.len() + self.values.len()
    }

    /// Appends a field; its name is put in lower case.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        self.push_as(name, value, FieldKind::of(name.as_bytes()), false);
    }

    /// Appends a field of known kind. `never_indexed` is the literal representation of RFC 7541
    /// section 6.2.3, which whoever encodes the field again must use again.
    pub fn push_as(&mut self, name: &str, value: &[u8], kind: FieldKind, never_indexed: bool) {
        let start = self.names.len();
        self.names.push_str(name);
        self.names[start..].make_ascii_lowercase();
        self.values.extend_from_slice(value);
        self.push_draft(kind, never_indexed);
    }

    /// Sets the name of the field being drafted, the text behind the last field: it isn't one of
    /// the fields before [`FieldBlock::push_draft`]. The name must be in lower case.
    pub(crate) fn draft_name(&mut self, name: &str) {
        self.names.push_str(name);
    }

    /// Makes what was drafted as a value the name instead, if `as_name` takes it for one, and
    /// returns whether it did. Of other text only the length is kept, in question marks.
    pub(crate) fn draft_value_as_name(
        &mut self,
        as_name: impl FnOnce(&[u8]) -> Option<&str>,
    ) -> bool {
        let start = self.ends().1;
        let text = &self.values[start..];
        let name = as_name(text);
        match name {
            Some(name) => self.names.push_str(name),
            None => self.names.extend(std::iter::repeat_n('?', text.len())),
        }
        let taken = name.is_some();
        self.values.truncate(start);
        taken
    }

    /// Where the value of the draft is to be appended.
    pub(crate) fn draft_value(&mut self) -> &mut Vec<u8> {
        &mut self.values
    }

    /// The name and value drafted so far.
    pub(crate) fn draft(&self) -> (&str, &[u8]) {
        let (name, value) = self.ends();
        (&self.names[name..], &self.values[value..])
    }

    /// Makes the draft the last field.
    pub(crate) fn push_draft(&mut self, kind: FieldKind, never_indexed: bool) {
        self.entries.push(Entry {
            name_end: self.names.len() as u32,
            value_end: self.values.len() as u32,
            kind,
            never_indexed,
        });
    }

    /// Forgets the draft.
    pub(crate) fn drop_draft(&mut self) {
        let (name, value) = self.ends();
        self.names.truncate(name);
        self.values.truncate(value);
    }

    /// Where the text of the last field ends.
    fn ends(&self) -> (usize, usize) {
        self.entries.last().map_or((0, 0), |it| (it.name_end as usize, it.value_end as usize))
    }

    /// The fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        let mut start = (0, 0);
        self.entries.iter().map(move |entry| {
            let end = (entry.name_end as usize, entry.value_end as usize);
            let field = Field {
                name: &self.names[start.0..end.0],
                value: &self.values[start.1..end.1],
                kind: entry.kind,
                never_indexed: entry.never_indexed,
            };
            start = end;
            field
        })
    }

    /// The value of the first field called `name`, which must be in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|field| field.name == name).map(|field| field.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_order_with_names_in_lower_case() {
        let mut block = FieldBlock::default();
        for _ in 0..2 {
            block.clear();
            block.push("Content-Type", b"text/plain");
            block.push_as("x-secret", b"\xff", FieldKind::Other, true);
            block.push("empty", b"");
            let fields: Vec<_> = block.iter().collect();
            assert_eq!((fields[0].name, fields[0].kind), ("content-type", FieldKind::ContentType));
            assert_eq!((fields[1].value, fields[1].never_indexed), (&b"\xff"[..], true));
            assert_eq!((fields[2].name, fields[2].value), ("empty", &b""[..]));
            assert_eq!((block.len(), block.text_len()), (3, 36));
            assert_eq!(block.get("content-type"), Some(&b"text/plain"[..]));
            assert_eq!(block.get("missing"), None);
        }
    }
}
