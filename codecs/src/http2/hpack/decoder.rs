//! Header blocks to fields.

use super::dynamic_table::{BYTES_MAX, DynamicTable, TableField, Traits, size_of_field};
use super::state::{DecoderState, StateError, TableEntry};
use super::static_table::{self, StaticEntry};
use super::{
    HUFFMAN, HpackError, INCREMENTAL, INCREMENTAL_BITS, INDEXED, INDEXED_BITS, LITERAL_BITS,
    NEVER_INDEXED, SIZE_UPDATE, SIZE_UPDATE_BITS, STRING_BITS, TABLE_BYTES_INITIAL, check, huffman,
    integer,
};
use crate::http::{FieldBlock, FieldKind};

/// The limits of one field section, on what it takes decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ListLimits {
    /// The bytes of all names and values, and 32 more for each field (RFC 9113 section 6.5.2).
    pub bytes_max: usize,
    /// The number of fields.
    pub fields_max: usize,
    /// Bytes of name and value of one field.
    pub field_bytes_max: usize,
}

impl ListLimits {
    /// Limits of a field section whose single fields may be as large as it may be.
    #[must_use]
    pub const fn new(bytes_max: usize, fields_max: usize) -> Self {
        Self { bytes_max, fields_max, field_bytes_max: bytes_max }
    }
}

/// What a header block was. In every case it was decoded to its end, so that the tables stay in
/// step; what comes first in the block decides between the last two.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// All its fields are stored.
    Complete,
    /// It has a name or a value that no message may have (RFC 9113 section 8.2.1). The fields
    /// before it are stored.
    Malformed,
    /// It is above a limit. The fields below it are stored.
    TooLarge,
}

/// Decodes the header blocks of one direction of a connection, in order.
#[derive(Clone, Debug)]
pub struct Decoder {
    table: DynamicTable,
    announced_bytes_max: u32,
    acknowledged: bool,
}

impl Decoder {
    /// A decoder at the start of a connection. `table_bytes_max` is the SETTINGS_HEADER_TABLE_SIZE
    /// that the peer is told, 4096 if it is told nothing; above [`DECODER_TABLE_BYTES_MAX`], which
    /// no SETTINGS should announce, that size is used.
    #[must_use]
    pub fn new(table_bytes_max: u32) -> Self {
        Self {
            table: DynamicTable::new(TABLE_BYTES_INITIAL),
            announced_bytes_max: table_bytes_max.min(DECODER_TABLE_BYTES_MAX),
            acknowledged: false,
        }
    }

    /// Goes on from an exported state.
    ///
    /// # Errors
    ///
    /// No decoder can have been in this state.
    pub fn import(state: DecoderState) -> Result<Self, StateError> {
        let DecoderState { table, announced_bytes_max, acknowledged } = state;
        // A smaller table may still be due to be announced by the peer.
        let bytes_max = announced_bytes_max.max(TABLE_BYTES_INITIAL);
        if table.bytes_max > bytes_max || announced_bytes_max > DECODER_TABLE_BYTES_MAX {
            return Err(StateError::TableTooLarge);
        }
        let table = DynamicTable::import(table, traits_of_entry)?;
        Ok(Self { table, announced_bytes_max, acknowledged })
    }

    /// The peer has acknowledged the SETTINGS with our table size: the blocks that follow keep to
    /// it.
    ///
    /// It matters for sizes below 4096 only, which the peer can't keep to before it knows them;
    /// without this call it may go on with 4096.
    pub fn on_settings_acknowledged(&mut self) {
        self.acknowledged = true;
    }

    /// Decodes one whole header block, the fragments of HEADERS and CONTINUATION joined, into
    /// `out`, which is cleared first. Names come out in lower case.
    ///
    /// Above a limit nothing more is stored, so `out` grows to the limits and the text of one field
    /// of the block at most.
    ///
    /// # Errors
    ///
    /// A compression error, which ends the connection: the decoder is of no use then, and `out` is
    /// empty.
    pub fn decode(
        &mut self,
        block: &[u8],
        limits: ListLimits,
        out: &mut FieldBlock,
    ) -> Result<Outcome, HpackError> {
        out.clear();
        let decoded = self.fields(block, limits, out);
        if decoded.is_err() {
            out.clear();
        }
        decoded
    }

    /// The state as plain data.
    #[must_use]
    pub fn export(&self) -> DecoderState {
        DecoderState {
            table: self.table.export(),
            announced_bytes_max: self.announced_bytes_max,
            acknowledged: self.acknowledged,
        }
    }

    fn fields(
        &mut self,
        block: &[u8],
        limits: ListLimits,
        out: &mut FieldBlock,
    ) -> Result<Outcome, HpackError> {
        let mut rest = block;
        self.take_size_updates(&mut rest)?;
        let mut list = List { out, outcome: Outcome::Complete, limits, unstored_names: 0 };
        while let Some(&first) = rest.first() {
            match first {
                INDEXED.. => {
                    let index = integer::take(&mut rest, INDEXED_BITS)?;
                    self.indexed(index, &mut list)?;
                }
                INCREMENTAL.. => {
                    let (traits, _) = self.literal(&mut rest, INCREMENTAL_BITS, &mut list)?;
                    let (name, value) = list.out.draft();
                    self.table.insert(name, value, traits);
                    list.finish_draft(traits, false);
                }
                SIZE_UPDATE.. => return Err(HpackError::SizeUpdateMisplaced),
                _ => {
                    let (traits, first) = self.literal(&mut rest, LITERAL_BITS, &mut list)?;
                    list.finish_draft(traits, first & NEVER_INDEXED != 0);
                }
            }
        }
        Ok(list.outcome)
    }

    /// Takes the dynamic table size updates at the start of a block (section 6.3). Section 4.2
    /// knows of two; more do no harm.
    fn take_size_updates(&mut self, rest: &mut &[u8]) -> Result<(), HpackError> {
        let limit = match self.acknowledged {
            true => self.announced_bytes_max,
            false => self.announced_bytes_max.max(TABLE_BYTES_INITIAL),
        };
        while let Some(&first) = rest.first()
            && (SIZE_UPDATE..INCREMENTAL).contains(&first)
        {
            let bytes_max = integer::take(rest, SIZE_UPDATE_BITS)?;
            if bytes_max > limit {
                return Err(HpackError::SizeUpdateTooLarge);
            }
            self.table.set_bytes_max(bytes_max);
        }
        if self.table.bytes_max() > limit as usize {
            return Err(HpackError::SizeUpdateMissing);
        }
        Ok(())
    }

    /// An indexed field (section 6.1).
    #[inline]
    fn indexed(&self, index: u32, list: &mut List<'_>) -> Result<(), HpackError> {
        match self.entry(index)? {
            Entry::Static(entry) => list.push(entry.name, entry.value.as_bytes(), entry.traits()),
            Entry::Dynamic(field) => list.push(field.name, field.value, field.traits),
        }
        Ok(())
    }

    /// The name and value of a literal, as the draft of the list, and the octet that it begins
    /// with.
    #[inline]
    fn literal(
        &self,
        rest: &mut &[u8],
        prefix_bits: u32,
        list: &mut List<'_>,
    ) -> Result<(Traits, u8), HpackError> {
        let first = rest.first().copied().unwrap_or_default();
        let (kind, name_valid) = match integer::take(rest, prefix_bits)? {
            0 => {
                take_text(rest, list.out.draft_value())?;
                let valid = list.out.draft_value_as_name(check::name);
                (FieldKind::of(list.out.draft().0.as_bytes()), valid)
            }
            index => {
                let (name, traits) = match self.entry(index)? {
                    Entry::Static(entry) => (entry.name, entry.traits()),
                    Entry::Dynamic(field) => (field.name, field.traits),
                };
                list.admit_copy(name.len())?;
                // Copied before anything is evicted: the entry may be among it (section 4.4).
                list.out.draft_name(name);
                (traits.kind, traits.name_valid)
            }
        };
        take_text(rest, list.out.draft_value())?;
        let value_valid = check::value(list.out.draft().1);
        Ok((Traits { kind, name_valid, value_valid }, first))
    }

    #[inline]
    fn entry(&self, index: u32) -> Result<Entry<'_>, HpackError> {
        let place = (index as usize).checked_sub(1).ok_or(HpackError::IndexInvalid)?;
        match static_table::ENTRIES.get(place) {
            Some(entry) => Ok(Entry::Static(entry)),
            None => {
                let field = self.table.get(place - static_table::LEN);
                Ok(Entry::Dynamic(field.ok_or(HpackError::IndexInvalid)?))
            }
        }
    }
}

/// What an index means.
enum Entry<'t> {
    Static(&'static StaticEntry),
    Dynamic(TableField<'t>),
}

/// The fields decoded so far, within the limits.
struct List<'o> {
    out: &'o mut FieldBlock,
    outcome: Outcome,
    /// What is left of the limits.
    limits: ListLimits,
    /// Bytes of names that were copied from the tables for fields that are not stored.
    unstored_names: usize,
}

impl List<'_> {
    #[inline]
    fn push(&mut self, name: &str, value: &[u8], traits: Traits) {
        if self.admits(name.len(), value.len(), traits) {
            self.out.draft_name(name);
            self.out.draft_value().extend_from_slice(value);
            self.out.push_draft(traits.kind, false);
        }
    }

    #[inline]
    fn finish_draft(&mut self, traits: Traits, never_indexed: bool) {
        let (name, value) = self.out.draft();
        if self.admits(name.len(), value.len(), traits) {
            self.out.push_draft(traits.kind, never_indexed);
        } else {
            self.out.drop_draft();
        }
    }

    /// Counts a name that is copied from a table, if the field is not going to be stored.
    #[inline]
    fn admit_copy(&mut self, name_len: usize) -> Result<(), HpackError> {
        if self.outcome != Outcome::Complete {
            self.unstored_names += name_len;
            if self.unstored_names > UNSTORED_NAME_BYTES_MAX {
                return Err(HpackError::Excessive);
            }
        }
        Ok(())
    }

    /// Whether a field is to be stored.
    #[inline]
    fn admits(&mut self, name_len: usize, value_len: usize, traits: Traits) -> bool {
        if self.outcome != Outcome::Complete {
            return false;
        }
        let bytes = self.limits.bytes_max.checked_sub(size_of_field(name_len, value_len));
        let fields = self.limits.fields_max.checked_sub(1);
        let fits = name_len + value_len <= self.limits.field_bytes_max;
        if !(traits.name_valid && traits.value_valid) {
            self.outcome = Outcome::Malformed;
        } else if let (Some(bytes_max), Some(fields_max), true) = (bytes, fields, fits) {
            self.limits = ListLimits { bytes_max, fields_max, ..self.limits };
            return true;
        } else {
            self.outcome = Outcome::TooLarge;
        }
        false
    }
}

impl StaticEntry {
    #[inline]
    fn traits(&self) -> Traits {
        Traits { kind: self.kind, name_valid: true, value_valid: true }
    }
}

/// Takes a string literal (section 5.2) off the front of `rest` and appends its text.
#[inline]
fn take_text(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let is_coded = rest.first().is_some_and(|first| first & HUFFMAN != 0);
    let len = integer::take(rest, STRING_BITS)? as usize;
    let (text, after) = rest.split_at_checked(len).ok_or(HpackError::Truncated)?;
    *rest = after;
    if is_coded {
        return huffman::decode(text, out);
    }
    out.extend_from_slice(text);
    Ok(())
}

fn traits_of_entry(entry: &TableEntry) -> Traits {
    Traits {
        kind: FieldKind::of(entry.name.as_bytes()),
        name_valid: check::name(entry.name.as_bytes()).is_some(),
        value_valid: check::value(&entry.value),
    }
}

/// The largest table that a decoder keeps for its peer.
pub const DECODER_TABLE_BYTES_MAX: u32 = BYTES_MAX;

/// The bytes of names that one block may have copied from the tables for fields behind its limits.
///
/// Two octets can repeat a name as large as the table, which costs a few thousand times what octets
/// otherwise cost. Everything else that a block makes us copy is bounded by its own length.
const UNSTORED_NAME_BYTES_MAX: usize = 1 << 20;
