//! The dynamic table (RFC 7541 section 2.3.2): the newest fields, bounded by their size.
//!
//! Names and values lie one behind the other in two buffers, oldest first. What is evicted stays in
//! front until a quarter of the buffer is dead, and then the rest is moved down: an insertion moves
//! a bounded number of bytes on average, and once the buffers have their size nothing is allocated.

use std::collections::VecDeque;

use super::state::{StateError, TableEntry, TableState};
use crate::http::FieldKind;

/// What an entry counts beside its text (RFC 7541 section 4.1).
pub(super) const ENTRY_OVERHEAD: usize = 32;

/// The newest fields.
#[derive(Clone, Debug)]
pub(super) struct DynamicTable {
    /// Newest first, as they are numbered.
    slots: VecDeque<Slot>,
    names: String,
    values: Vec<u8>,
    /// Where the buffers begin, counted in bytes since the beginning of the table; wraps.
    names_base: u32,
    values_base: u32,
    /// The size of the entries by section 4.1.
    bytes: usize,
    bytes_max: usize,
}

/// A field in the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TableField<'t> {
    pub(super) name: &'t str,
    pub(super) value: &'t [u8],
    pub(super) traits: Traits,
}

/// What is known of a field once its text was seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Traits {
    pub(super) kind: FieldKind,
    pub(super) name_valid: bool,
    pub(super) value_valid: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    name_start: u32,
    name_len: u32,
    value_start: u32,
    value_len: u32,
    traits: Traits,
}

impl DynamicTable {
    /// An empty table that may grow to `bytes_max`.
    pub(super) fn new(bytes_max: u32) -> Self {
        Self {
            slots: VecDeque::new(),
            names: String::new(),
            values: Vec::new(),
            names_base: 0,
            values_base: 0,
            bytes: 0,
            bytes_max: bytes_max.min(BYTES_MAX) as usize,
        }
    }

    /// A table with the entries of `state`; `traits` judges their names and values.
    pub(super) fn import(
        state: TableState,
        traits: impl Fn(&TableEntry) -> Traits,
    ) -> Result<Self, StateError> {
        let mut table = Self::new(state.bytes_max);
        for entry in state.entries {
            if table.bytes + size_of_field(entry.name.len(), entry.value.len()) > table.bytes_max {
                return Err(StateError::TableOverfull);
            }
            table.insert(&entry.name, &entry.value, traits(&entry));
        }
        Ok(table)
    }

    pub(super) fn export(&self) -> TableState {
        let entries = (0..self.len()).rev().filter_map(|place| self.get(place));
        let entries = entries
            .map(|field| TableEntry { name: field.name.to_owned(), value: field.value.to_vec() });
        TableState { entries: entries.collect(), bytes_max: self.bytes_max as u32 }
    }

    /// Makes room and inserts a field; its name is put in lower case. A field that is larger than
    /// the table empties it and is not inserted (section 4.4).
    pub(super) fn insert(&mut self, name: &str, value: &[u8], traits: Traits) {
        let size = size_of_field(name.len(), value.len());
        self.evict_to(self.bytes_max.saturating_sub(size));
        if size > self.bytes_max {
            return;
        }
        self.make_room(name.len(), value.len());
        let name_at = self.names.len();
        self.names.push_str(name);
        self.names[name_at..].make_ascii_lowercase();
        let value_at = self.values.len();
        self.values.extend_from_slice(value);
        self.slots.push_front(Slot {
            name_start: self.names_base.wrapping_add(name_at as u32),
            name_len: name.len() as u32,
            value_start: self.values_base.wrapping_add(value_at as u32),
            value_len: value.len() as u32,
            traits,
        });
        self.bytes += size;
    }

    /// Changes the size that the table may have and evicts what is above it (section 4.3).
    pub(super) fn set_bytes_max(&mut self, bytes_max: u32) {
        self.bytes_max = bytes_max.min(BYTES_MAX) as usize;
        self.evict_to(self.bytes_max);
    }

    /// The field at `place`; the newest has place 0.
    #[inline]
    pub(super) fn get(&self, place: usize) -> Option<TableField<'_>> {
        let slot = self.slots.get(place)?;
        let name_at = slot.name_start.wrapping_sub(self.names_base) as usize;
        let value_at = slot.value_start.wrapping_sub(self.values_base) as usize;
        Some(TableField {
            name: &self.names[name_at..name_at + slot.name_len as usize],
            value: &self.values[value_at..value_at + slot.value_len as usize],
            traits: slot.traits,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The size that the table may have.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn evict_to(&mut self, bytes: usize) {
        while self.bytes > bytes
            && let Some(slot) = self.slots.pop_back()
        {
            self.bytes -= size_of_field(slot.name_len as usize, slot.value_len as usize);
        }
    }

    /// Lets the buffers take this much text more.
    fn make_room(&mut self, name_len: usize, value_len: usize) {
        let (names_dead, values_dead) = match self.slots.back() {
            Some(oldest) => (
                oldest.name_start.wrapping_sub(self.names_base) as usize,
                oldest.value_start.wrapping_sub(self.values_base) as usize,
            ),
            None => (self.names.len(), self.values.len()),
        };
        let names = (self.names.len(), self.names.capacity());
        if let Some(more) = move_and_growth(names, names_dead, name_len) {
            self.names.drain(..names_dead);
            self.names_base = self.names_base.wrapping_add(names_dead as u32);
            self.names.reserve_exact(more);
        }
        let values = (self.values.len(), self.values.capacity());
        if let Some(more) = move_and_growth(values, values_dead, value_len) {
            self.values.drain(..values_dead);
            self.values_base = self.values_base.wrapping_add(values_dead as u32);
            self.values.reserve_exact(more);
        }
    }
}

/// Whether a buffer of this length and capacity must lose its dead front to take `new` bytes, and
/// if so, how many bytes to reserve then: none if a quarter was dead, so that moves stay rare.
fn move_and_growth((len, capacity): (usize, usize), dead: usize, new: usize) -> Option<usize> {
    if len + new <= capacity {
        return None;
    }
    let needed = len - dead + new;
    let roomy = needed <= capacity - capacity / 4;
    Some(if roomy { 0 } else { new + (needed / 2).max(GROWTH_MIN) })
}

/// The size of a field by section 4.1.
#[inline]
pub(super) fn size_of_field(name_len: usize, value_len: usize) -> usize {
    name_len + value_len + ENTRY_OVERHEAD
}

/// The largest table: more than an operator wants and less than the largest size that an update can
/// tell. Positions in the buffers fit 32 bits, with room for dead text.
pub(super) const BYTES_MAX: u32 = 1 << 28;

/// Buffers grow by this much at least.
const GROWTH_MIN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Traits = Traits { kind: FieldKind::Other, name_valid: true, value_valid: true };

    fn fields(table: &DynamicTable) -> Vec<(&str, &[u8])> {
        (0..table.len())
            .map(|place| table.get(place).unwrap())
            .map(|field| (field.name, field.value))
            .collect()
    }

    #[test]
    fn the_newest_entries_that_fit_are_kept() {
        let mut table = DynamicTable::new(2 * (ENTRY_OVERHEAD as u32 + 2) + 1);
        table.insert("A", b"1", PLAIN);
        table.insert("b", b"2", PLAIN);
        assert_eq!(fields(&table), [("b", &b"2"[..]), ("a", b"1")]);
        table.insert("c", b"33", PLAIN);
        assert_eq!(fields(&table), [("c", &b"33"[..]), ("b", b"2")]);
        table.insert("d", b"44", PLAIN);
        assert_eq!(fields(&table), [("d", &b"44"[..])]);
        assert_eq!(table.bytes, 35);
        // Exactly as large as the table, and one more.
        table.insert("e", &[b'5'; 36], PLAIN);
        assert_eq!((table.len(), table.bytes), (1, 69));
        table.insert("e", &[b'5'; 37], PLAIN);
        assert_eq!((table.len(), table.bytes), (0, 0));
        table.insert("f", b"", PLAIN);
        table.set_bytes_max(33);
        assert_eq!(table.len(), 1);
        table.set_bytes_max(32);
        assert_eq!((table.len(), table.bytes), (0, 0));
        assert_eq!(table.get(0), None);
    }

    #[test]
    fn buffers_stay_small_and_keep_their_text_while_entries_come_and_go() {
        let mut table = DynamicTable::new(4096);
        // Positions wrap on the way.
        (table.names_base, table.values_base) = (u32::MAX - 5000, u32::MAX - 10_000);
        let mut model = VecDeque::new();
        for round in 0_usize..5000 {
            let name = format!("name-{}", round % 97);
            let value = vec![b'a' + (round % 26) as u8; round * 7 % 400];
            table.insert(&name, &value, PLAIN);
            model.push_front((name, value));
            model.truncate(table.len());
            let same = fields(&table)
                .into_iter()
                .eq(model.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
            assert!(same, "round {round}");
            let held: usize =
                model.iter().map(|(name, value)| size_of_field(name.len(), value.len())).sum();
            assert_eq!(table.bytes, held);
            assert!(held <= 4096 && table.names.capacity() + table.values.capacity() <= 6144);
        }
    }
}
