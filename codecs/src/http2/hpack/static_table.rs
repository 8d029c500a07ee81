//! The static table (RFC 7541 appendix A), by index and by name.

use super::hash;
use crate::http::FieldKind;

/// One entry of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct StaticEntry {
    pub(super) name: &'static str,
    pub(super) value: &'static str,
    pub(super) kind: FieldKind,
    pub(super) content: Content,
}

/// What values the fields of a name have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Content {
    /// New ones in most messages.
    Fresh,
    /// The same ones again and again, or nobody knows.
    Ordinary,
    /// Credentials.
    Secret,
}

/// The entries; the one with index 1 comes first. Entries with the same name are neighbours.
pub(super) static ENTRIES: [StaticEntry; LEN] = TABLE;

/// The first index of `:path`.
pub(super) const PATH: usize = 4;

/// No entry behind this many has a value.
const VALUES: usize = 16;

/// How many entries there are: the dynamic table begins at the next index.
pub(super) const LEN: usize = 61;

/// The entry with this index.
#[inline]
pub(super) fn entry(index: usize) -> Option<&'static StaticEntry> {
    ENTRIES.get(index.checked_sub(1)?)
}

/// The first index with this name in any case; `name_hash` is its [`hash::name`].
#[inline]
pub(super) fn find_name(name_hash: u64, name: &str) -> Option<usize> {
    let mut slot = slot_of(name_hash);
    loop {
        let index = usize::from(BY_NAME[slot]);
        let entry = entry(index)?;
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
    let candidates = ENTRIES.get(first.checked_sub(1)?..VALUES)?;
    let name = candidates.first()?.name;
    candidates
        .iter()
        .take_while(|entry| entry.name == name)
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

const fn ordinary(name: &'static str, value: &'static str, kind: FieldKind) -> StaticEntry {
    StaticEntry { name, value, kind, content: Content::Ordinary }
}

const fn fresh(name: &'static str, kind: FieldKind) -> StaticEntry {
    StaticEntry { name, value: "", kind, content: Content::Fresh }
}

const fn secret(name: &'static str, kind: FieldKind) -> StaticEntry {
    StaticEntry { name, value: "", kind, content: Content::Secret }
}

/// Five slots for each name: most names that are not in the table meet a free slot at once.
const SLOTS: usize = 256;

const TABLE: [StaticEntry; LEN] = [
    ordinary(":authority", "", FieldKind::Other),
    ordinary(":method", "GET", FieldKind::Other),
    ordinary(":method", "POST", FieldKind::Other),
    ordinary(":path", "/", FieldKind::Other),
    ordinary(":path", "/index.html", FieldKind::Other),
    ordinary(":scheme", "http", FieldKind::Other),
    ordinary(":scheme", "https", FieldKind::Other),
    ordinary(":status", "200", FieldKind::Other),
    ordinary(":status", "204", FieldKind::Other),
    ordinary(":status", "206", FieldKind::Other),
    ordinary(":status", "304", FieldKind::Other),
    ordinary(":status", "400", FieldKind::Other),
    ordinary(":status", "404", FieldKind::Other),
    ordinary(":status", "500", FieldKind::Other),
    ordinary("accept-charset", "", FieldKind::Other),
    ordinary("accept-encoding", "gzip, deflate", FieldKind::Other),
    ordinary("accept-language", "", FieldKind::Other),
    ordinary("accept-ranges", "", FieldKind::Other),
    ordinary("accept", "", FieldKind::Other),
    ordinary("access-control-allow-origin", "", FieldKind::Other),
    fresh("age", FieldKind::Other),
    ordinary("allow", "", FieldKind::Other),
    secret("authorization", FieldKind::Authorization),
    ordinary("cache-control", "", FieldKind::Other),
    ordinary("content-disposition", "", FieldKind::Other),
    ordinary("content-encoding", "", FieldKind::Other),
    ordinary("content-language", "", FieldKind::Other),
    fresh("content-length", FieldKind::ContentLength),
    ordinary("content-location", "", FieldKind::Other),
    fresh("content-range", FieldKind::Other),
    ordinary("content-type", "", FieldKind::ContentType),
    ordinary("cookie", "", FieldKind::Cookie),
    ordinary("date", "", FieldKind::Date),
    fresh("etag", FieldKind::Other),
    ordinary("expect", "", FieldKind::Expect),
    fresh("expires", FieldKind::Other),
    ordinary("from", "", FieldKind::Other),
    ordinary("host", "", FieldKind::Host),
    fresh("if-match", FieldKind::Other),
    fresh("if-modified-since", FieldKind::Other),
    fresh("if-none-match", FieldKind::Other),
    fresh("if-range", FieldKind::Other),
    fresh("if-unmodified-since", FieldKind::Other),
    fresh("last-modified", FieldKind::Other),
    ordinary("link", "", FieldKind::Other),
    fresh("location", FieldKind::Location),
    ordinary("max-forwards", "", FieldKind::Other),
    ordinary("proxy-authenticate", "", FieldKind::ProxyAuthenticate),
    secret("proxy-authorization", FieldKind::Other),
    fresh("range", FieldKind::Other),
    ordinary("referer", "", FieldKind::Other),
    ordinary("refresh", "", FieldKind::Other),
    fresh("retry-after", FieldKind::Other),
    ordinary("server", "", FieldKind::Server),
    secret("set-cookie", FieldKind::Other),
    ordinary("strict-transport-security", "", FieldKind::Other),
    ordinary("transfer-encoding", "", FieldKind::TransferEncoding),
    ordinary("user-agent", "", FieldKind::UserAgent),
    ordinary("vary", "", FieldKind::Other),
    ordinary("via", "", FieldKind::Via),
    ordinary("www-authenticate", "", FieldKind::Other),
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
        assert_eq!(ENTRIES[PATH - 1].name, ":path");
        assert!(ENTRIES[VALUES..].iter().all(|entry| entry.value.is_empty()));
        let longest_run = (0..SLOTS)
            .map(|start| (0..SLOTS).take_while(|i| BY_NAME[(start + i) % SLOTS] != 0).count())
            .max();
        assert!(longest_run <= Some(6), "{longest_run:?}");
    }
}
