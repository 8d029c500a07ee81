//! Fields to header blocks.

use super::dynamic_table::{DynamicTable, Traits, size_of_field};
use super::index::{Hashes, Index, Key};
use super::state::{EncoderState, Resize, StateError};
use super::static_table::{self, Content};
use super::{
    HUFFMAN, INCREMENTAL, INCREMENTAL_BITS, INDEXED, INDEXED_BITS, LITERAL_BITS, NEVER_INDEXED,
    SIZE_UPDATE, SIZE_UPDATE_BITS, STRING_BITS, TABLE_BYTES_INITIAL, hash, huffman, integer,
};
use crate::http::FieldKind;

/// The most of the peer's table that an encoder uses, in bytes by RFC 7541 section 4.1.
///
/// It is what every peer grants before it says anything. The fields that a service repeats fit
/// well, the memory of an idle connection stays small, and no chain in the index is longer than the
/// 128 smallest entries that fit.
pub const TABLE_BYTES_USED_MAX: u32 = TABLE_BYTES_INITIAL;

/// Encodes the header blocks of one direction of a connection, in order.
///
/// What repeats is indexed: a field is inserted in the table when it comes again soon after it came
/// first, so values that are new in every message cost no place in it. Fields that carry
/// credentials are never indexed, nor are those that the caller marks (section 7.1.3).
#[derive(Clone, Debug)]
pub struct Encoder {
    table: DynamicTable,
    index: Index,
    recent: Recent,
    resize: Option<Resize>,
    huffman: bool,
}

impl Encoder {
    /// An encoder at the start of a connection. With `huffman`, strings are coded where that makes
    /// them shorter.
    #[must_use]
    pub fn new(huffman: bool) -> Self {
        Self {
            table: DynamicTable::new(TABLE_BYTES_INITIAL),
            index: Index::default(),
            recent: Recent::default(),
            resize: None,
            huffman,
        }
    }

    /// Goes on from an exported state.
    ///
    /// # Errors
    ///
    /// No encoder can have been in this state.
    pub fn import(state: EncoderState) -> Result<Self, StateError> {
        let EncoderState { table, resize, huffman } = state;
        if table.bytes_max > TABLE_BYTES_USED_MAX {
            return Err(StateError::TableTooLarge);
        }
        if resize.is_some_and(|it| it.lowest > it.last || it.last > TABLE_BYTES_USED_MAX) {
            return Err(StateError::ResizeInvalid);
        }
        let table = DynamicTable::import(table, |_| TRAITS)?;
        let mut index = Index::default();
        for live in 1..=table.len() {
            if let Some(field) = table.get(table.len() - live) {
                let name = hash::name(field.name.as_bytes());
                index.insert(Hashes { name, field: hash::field(name, field.value) }, live);
            }
        }
        Ok(Self { table, index, recent: Recent::default(), resize, huffman })
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE from the next block on, in bytes. Of more than
    /// [`TABLE_BYTES_USED_MAX`], that much is used.
    pub fn set_peer_table_size(&mut self, bytes: u32) {
        let last = bytes.min(TABLE_BYTES_USED_MAX);
        match &mut self.resize {
            Some(resize) => *resize = Resize { lowest: resize.lowest.min(last), last },
            None if last as usize == self.table.bytes_max() => {}
            resize @ None => *resize = Some(Resize { lowest: last, last }),
        }
    }

    /// Starts a block in `out`: tells the peer how the size of the table has changed since the last
    /// one (section 4.2).
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        let Some(Resize { lowest, last }) = self.resize.take() else { return };
        // A size passed on the way matters if it was smaller than both ends.
        if lowest < last && (lowest as usize) < self.table.bytes_max() {
            self.table.set_bytes_max(lowest);
            integer::put(out, SIZE_UPDATE, SIZE_UPDATE_BITS, lowest as usize);
        }
        self.table.set_bytes_max(last);
        integer::put(out, SIZE_UPDATE, SIZE_UPDATE_BITS, last as usize);
    }

    /// Appends a field to the block begun in `out`. Its name may be in any case and is written in
    /// lower case; `kind` is that of the name, or [`FieldKind::Other`] where nobody has classified
    /// it.
    ///
    /// `never_indexed` says that it came so and must go so (section 6.2.3). What the name and the
    /// value hold is not checked.
    pub fn field(
        &mut self,
        name: &str,
        value: &[u8],
        kind: FieldKind,
        never_indexed: bool,
        out: &mut Vec<u8>,
    ) {
        let name_hash = hash::name(name.as_bytes());
        let in_static = static_table::find_name(name_hash, name);
        if never_indexed || is_sensitive(in_static, value) {
            let index = in_static.or_else(|| self.find_name(name_hash, name));
            return self.literal((NEVER_INDEXED, LITERAL_BITS), index, name, value, out);
        }
        if let Some(index) = in_static.and_then(|first| static_table::find_field(first, value)) {
            return integer::put(out, INDEXED, INDEXED_BITS, index);
        }
        let hashes = Hashes { field: hash::field(name_hash, value), name: name_hash };
        if let Some(index) = self.find_field(hashes.field, name, value) {
            return integer::put(out, INDEXED, INDEXED_BITS, index);
        }
        let index = in_static.or_else(|| self.find_name(name_hash, name));
        if self.is_worth_an_entry(hashes, index, name, value, kind) {
            self.literal((INCREMENTAL, INCREMENTAL_BITS), index, name, value, out);
            self.table.insert(name, value, TRAITS);
            self.index.insert(hashes, self.table.len());
        } else {
            self.literal((0, LITERAL_BITS), index, name, value, out);
        }
    }

    /// The state as plain data.
    #[must_use]
    pub fn export(&self) -> EncoderState {
        EncoderState { table: self.table.export(), resize: self.resize, huffman: self.huffman }
    }

    /// Whether a field that is in no table should be inserted; `index` is where its name is.
    fn is_worth_an_entry(
        &mut self,
        hashes: Hashes,
        index: Option<usize>,
        name: &str,
        value: &[u8],
        kind: FieldKind,
    ) -> bool {
        // What takes more than half of the table would drive out all the others.
        if size_of_field(name.len(), value.len()) > self.table.bytes_max() / 2 {
            return false;
        }
        match index {
            // An entry with the name makes all its fields shorter, whatever their values.
            None => self.recent.saw(hashes.name),
            Some(index) => !is_volatile(index, name, value, kind) && self.recent.saw(hashes.field),
        }
    }

    #[inline]
    fn find_field(&self, hash: u64, name: &str, value: &[u8]) -> Option<usize> {
        let place = self.index.find(Key::Field, hash, self.table.len(), |place| {
            self.table
                .get(place)
                .is_some_and(|field| field.value == value && is_name(name, field.name))
        });
        place.map(index_of)
    }

    #[inline]
    fn find_name(&self, hash: u64, name: &str) -> Option<usize> {
        let place = self.index.find(Key::Name, hash, self.table.len(), |place| {
            self.table.get(place).is_some_and(|field| is_name(name, field.name))
        });
        place.map(index_of)
    }

    /// Appends a literal (section 6.2).
    fn literal(
        &self,
        (pattern, prefix_bits): (u8, u32),
        index: Option<usize>,
        name: &str,
        value: &[u8],
        out: &mut Vec<u8>,
    ) {
        integer::put(out, pattern, prefix_bits, index.unwrap_or(0));
        if index.is_none() {
            self.name(name.as_bytes(), out);
        }
        let coded_len =
            if self.huffman { huffman::coded_len(value.iter().copied()) } else { usize::MAX };
        if coded_len < value.len() {
            integer::put(out, HUFFMAN, STRING_BITS, coded_len);
            huffman::encode(value.iter().copied(), out);
        } else {
            integer::put(out, 0, STRING_BITS, value.len());
            out.extend_from_slice(value);
        }
    }

    /// Appends a name as a string.
    fn name(&self, name: &[u8], out: &mut Vec<u8>) {
        let lower_case = name.iter().map(u8::to_ascii_lowercase);
        let coded_len =
            if self.huffman { huffman::coded_len(lower_case.clone()) } else { usize::MAX };
        if coded_len < name.len() {
            integer::put(out, HUFFMAN, STRING_BITS, coded_len);
            huffman::encode(lower_case, out);
        } else {
            integer::put(out, 0, STRING_BITS, name.len());
            out.extend(lower_case);
        }
    }
}

/// Marks of the last fields and names that were in no table.
#[derive(Clone, Debug)]
struct Recent {
    marks: [u16; RECENT],
    next: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self { marks: [0; RECENT], next: 0 }
    }
}

impl Recent {
    /// Whether this was seen lately; from now on it was. One in five hundred is mistaken for
    /// another.
    fn saw(&mut self, hash: u64) -> bool {
        let mark = (hash >> 24) as u16 | 1;
        let seen = self.marks.iter().fold(false, |seen, &other| seen | (other == mark));
        if !seen {
            self.marks[self.next] = mark;
            self.next = (self.next + 1) % RECENT;
        }
        seen
    }
}

/// Whether a field carries credentials, so that no index may tell whoever watches the length of
/// messages that a guess was right (section 7.1.3). `index` is where the static table has the name.
fn is_sensitive(index: Option<usize>, value: &[u8]) -> bool {
    match index.and_then(static_table::entry) {
        Some(entry) if entry.kind == FieldKind::Cookie => value.len() < COOKIE_GUESSABLE_BELOW,
        Some(entry) => entry.content == Content::Secret,
        None => false,
    }
}

/// Whether a field whose name is at `index` will hardly come with this value again.
fn is_volatile(index: usize, name: &str, value: &[u8], kind: FieldKind) -> bool {
    if let Some(entry) = static_table::entry(index) {
        let has_query = || index == static_table::PATH && memchr::memchr(b'?', value).is_some();
        return entry.content == Content::Fresh || has_query();
    }
    matches!(kind, FieldKind::XRequestId | FieldKind::XEnvoyExpectedRqTimeoutMs)
        || VOLATILE.iter().any(|other| is_name(name, other))
}

/// Whether a name in any case is `lower_case`.
#[inline]
fn is_name(name: &str, lower_case: &str) -> bool {
    name == lower_case || name.eq_ignore_ascii_case(lower_case)
}

#[inline]
fn index_of(place: usize) -> usize {
    static_table::LEN + 1 + place
}

/// What the encoder knows of its entries: nothing that it needs.
const TRAITS: Traits = Traits { kind: FieldKind::Other, name_valid: true, value_valid: true };

/// Fields outside the static table that differ from message to message, and have no kind that says
/// so.
const VOLATILE: [&str; 3] = ["grpc-timeout", "traceparent", "x-envoy-upstream-service-time"];

/// Cookies shorter than this could be guessed (section 7.1.3).
const COOKIE_GUESSABLE_BELOW: usize = 20;

/// Fields remembered as seen: a few messages' worth.
const RECENT: usize = 64;
