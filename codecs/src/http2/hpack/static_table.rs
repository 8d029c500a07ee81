//! The static table (RFC 7541 appendix A), by index and by name.

use super::hash;
use crate::http::FieldKind;

/// One entry of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct StaticEntry {
    pub(super) name: &'static str,
    pub(super) value: &'static str,
    pub(super) kind: FieldKind,
}

/// The entries; the one with index 1 comes first. Entries with the same name are neighbours.
pub(super) static ENTRIES: [StaticEntry; LEN] = TABLE;

/// How many entries there are: the dynamic table begins at the next index.
pub(super) const LEN: usize = 61;

/// The first index with this name in any case; `name_hash` is its [`hash::name`].
#[inline]
pub(super) fn find_name(name_hash: u64, name: &str) -> Option<usize> {
    let mut slot = slot_of(name_hash);
    loop {
        let index = usize::from(BY_NAME[slot]);
        let entry = ENTRIES.get(index.checked_sub(1)?)?;
        if name == entry.name || name.eq_ignore_ascii_case(entry.name) {
            return Some(index);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// The index of the entry with this value among those with the name of `first`, which is what
/// [`find_name`] found.
#[inline]
pub(super) fn find_field(first: usize, value: &[u8]) -> Option<usize> {
    let name = ENTRIES[first - 1].name;
    ENTRIES[first - 1..]
        .iter()
        .take_while(|entry| std::ptr::eq(entry.name, name) || entry.name == name)
        .position(|entry| !entry.value.is_empty() && entry.value.as_bytes() == value)
        .map(|offset| first + offset)
}

/// Indexes of first entries by the hash of their name, with linear probing; 0 is a free slot.
static BY_NAME: [u8; SLOTS] = {
    let mut slots = [0; SLOTS];
    let mut index = 1;
    while index <= LEN {
        let name = TABLE[index - 1].name.as_bytes();
        if index == 1 || !is_same(name, TABLE[index - 2].name.as_bytes()) {
            let mut slot = slot_of(hash::name(name));
            while slots[slot] != 0 {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = index as u8;
        }
        index += 1;
    }
    slots
};

const fn slot_of(name_hash: u64) -> usize {
    (name_hash >> 40) as usize % SLOTS
}

/// Comparison of strings in constants.
const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

const fn entry(name: &'static str, value: &'static str, kind: FieldKind) -> StaticEntry {
    StaticEntry { name, value, kind }
}

/// Five slots for each name: most names that are not in the table meet a free slot at once.
const SLOTS: usize = 256;

const TABLE: [StaticEntry; LEN] = [
    entry(":authority", "", FieldKind::Other),
    entry(":method", "GET", FieldKind::Other),
    entry(":method", "POST", FieldKind::Other),
    entry(":path", "/", FieldKind::Other),
    entry(":path", "/index.html", FieldKind::Other),
    entry(":scheme", "http", FieldKind::Other),
    entry(":scheme", "https", FieldKind::Other),
    entry(":status", "200", FieldKind::Other),
    entry(":status", "204", FieldKind::Other),
    entry(":status", "206", FieldKind::Other),
    entry(":status", "304", FieldKind::Other),
    entry(":status", "400", FieldKind::Other),
    entry(":status", "404", FieldKind::Other),
    entry(":status", "500", FieldKind::Other),
    entry("accept-charset", "", FieldKind::Other),
    entry("accept-encoding", "gzip, deflate", FieldKind::Other),
    entry("accept-language", "", FieldKind::Other),
    entry("accept-ranges", "", FieldKind::Other),
    entry("accept", "", FieldKind::Other),
    entry("access-control-allow-origin", "", FieldKind::Other),
    entry("age", "", FieldKind::Other),
    entry("allow", "", FieldKind::Other),
    entry("authorization", "", FieldKind::Authorization),
    entry("cache-control", "", FieldKind::Other),
    entry("content-disposition", "", FieldKind::Other),
    entry("content-encoding", "", FieldKind::Other),
    entry("content-language", "", FieldKind::Other),
    entry("content-length", "", FieldKind::ContentLength),
    entry("content-location", "", FieldKind::Other),
    entry("content-range", "", FieldKind::Other),
    entry("content-type", "", FieldKind::ContentType),
    entry("cookie", "", FieldKind::Cookie),
    entry("date", "", FieldKind::Date),
    entry("etag", "", FieldKind::Other),
    entry("expect", "", FieldKind::Expect),
    entry("expires", "", FieldKind::Other),
    entry("from", "", FieldKind::Other),
    entry("host", "", FieldKind::Host),
    entry("if-match", "", FieldKind::Other),
    entry("if-modified-since", "", FieldKind::Other),
    entry("if-none-match", "", FieldKind::Other),
    entry("if-range", "", FieldKind::Other),
    entry("if-unmodified-since", "", FieldKind::Other),
    entry("last-modified", "", FieldKind::Other),
    entry("link", "", FieldKind::Other),
    entry("location", "", FieldKind::Location),
    entry("max-forwards", "", FieldKind::Other),
    entry("proxy-authenticate", "", FieldKind::ProxyAuthenticate),
    entry("proxy-authorization", "", FieldKind::Other),
    entry("range", "", FieldKind::Other),
    entry("referer", "", FieldKind::Other),
    entry("refresh", "", FieldKind::Other),
    entry("retry-after", "", FieldKind::Other),
    entry("server", "", FieldKind::Server),
    entry("set-cookie", "", FieldKind::Other),
    entry("strict-transport-security", "", FieldKind::Other),
    entry("transfer-encoding", "", FieldKind::TransferEncoding),
    entry("user-agent", "", FieldKind::UserAgent),
    entry("vary", "", FieldKind::Other),
    entry("via", "", FieldKind::Via),
    entry("www-authenticate", "", FieldKind::Other),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_found_by_name_and_by_field() {
        for (place, entry) in ENTRIES.iter().enumerate() {
            let first = ENTRIES.iter().position(|other| other.name == entry.name).unwrap() + 1;
            for name in [entry.name.to_owned(), entry.name.to_ascii_uppercase()] {
                let found = find_name(hash::name(name.as_bytes()), &name);
                assert_eq!(found, Some(first), "{name}");
            }
            let found = find_field(first, entry.value.as_bytes());
            assert_eq!(found, (!entry.value.is_empty()).then_some(place + 1), "{entry:?}");
            assert_eq!(find_field(first, b"another value"), None);
        }
        for name in ["", ":", "x", "content-typ", "content-type2", ":protocol", "cookie2"] {
            assert_eq!(find_name(hash::name(name.as_bytes()), name), None, "{name}");
        }
    }

    #[test]
    fn kinds_are_those_of_the_names() {
        for entry in &ENTRIES {
            assert_eq!(entry.kind, FieldKind::of(entry.name.as_bytes()), "{}", entry.name);
        }
    }

    #[test]
    fn probing_is_short() {
        let filled = BY_NAME.iter().filter(|&&index| index != 0).count();
        assert_eq!(filled, 52);
        let longest_run = (0..SLOTS)
            .map(|start| (0..SLOTS).take_while(|i| BY_NAME[(start + i) % SLOTS] != 0).count())
            .max();
        assert!(longest_run <= Some(6), "{longest_run:?}");
    }
}
