//! Finds fields and names in the encoder's dynamic table without a search.
//!
//! Each insertion has a number. Two hash tables, one over whole fields and one over names, lead to
//! the number of the newest entry of a bucket, and each entry leads to the next older one. Chains
//! run from new to old and the oldest entries are evicted first, so a chain ends where it reaches
//! an evicted entry, and eviction has nothing to do here.
//!
//! Hashes only propose: whoever asks compares the text.

/// Chains over the entries of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// By number, modulo their number, which is 0 or a power of two and more than live entries.
    links: Vec<Link>,
    /// The newest number of each bucket; as many buckets as links.
    fields: Vec<Number>,
    names: Vec<Number>,
    /// The number of the next insertion. Numbers wrap; one that came around leads to a wrong entry,
    /// which the text tells apart.
    next: Number,
}

/// The hashes of one field.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Hashes {
    pub(super) field: u64,
    pub(super) name: u64,
}

/// Which text is looked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Key {
    Field,
    Name,
}

type Number = u16;

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    field: Chain,
    name: Chain,
}

#[derive(Clone, Copy, Debug, Default)]
struct Chain {
    tag: u16,
    older: Number,
}

impl Index {
    /// Adds the entry that was just inserted in a table; `live` counts it too.
    pub(super) fn insert(&mut self, hashes: Hashes, live: usize) {
        if live > self.links.len() {
            self.grow(live);
        }
        self.link(tag(hashes.field), tag(hashes.name));
    }

    /// The place in the table, 0 for the newest of `live` entries, of the newest entry with this
    /// hash that `is_it` confirms.
    #[inline]
    pub(super) fn find(
        &self,
        key: Key,
        hash: u64,
        live: usize,
        mut is_it: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let tag = tag(hash);
        let heads = match key {
            Key::Field => &self.fields,
            Key::Name => &self.names,
        };
        let mut number = *heads.get(bucket(tag, heads.len()))?;
        let mut places = 0..live;
        loop {
            let place = usize::from(self.next.wrapping_sub(number).wrapping_sub(1));
            // Chains lead to older entries only; anything else is a number that came around.
            if !places.contains(&place) {
                return None;
            }
            let link = &self.links[bucket(number, self.links.len())];
            let chain = match key {
                Key::Field => link.field,
                Key::Name => link.name,
            };
            if chain.tag == tag && is_it(place) {
                return Some(place);
            }
            number = chain.older;
            places.start = place + 1;
        }
    }

    fn link(&mut self, field_tag: u16, name_tag: u16) {
        let field_head = bucket(field_tag, self.fields.len());
        let name_head = bucket(name_tag, self.names.len());
        let at = bucket(self.next, self.links.len());
        self.links[at] = Link {
            field: Chain { tag: field_tag, older: self.fields[field_head] },
            name: Chain { tag: name_tag, older: self.names[name_head] },
        };
        self.fields[field_head] = self.next;
        self.names[name_head] = self.next;
        self.next = self.next.wrapping_add(1);
    }

    /// Makes the tables large enough for `live` entries, of which all but one are linked.
    fn grow(&mut self, live: usize) {
        let len = live.next_power_of_two().max(LINKS_MIN);
        let old = std::mem::take(&mut self.links);
        let first = self.next.wrapping_sub(live as Number - 1);
        // A number that no live entry has, until it comes around.
        let none = first.wrapping_sub(1);
        self.links.resize(len, Link::default());
        self.fields = vec![none; len];
        self.names = vec![none; len];
        self.next = first;
        for _ in 1..live {
            let link = old[bucket(self.next, old.len())];
            self.link(link.field.tag, link.name.tag);
        }
    }
}

/// What of a hash is kept.
#[inline]
fn tag(hash: u64) -> u16 {
    (hash >> 48) as u16
}

/// `number` modulo `len`, which is a power of two, or 0 where there is nothing.
#[inline]
fn bucket(number: u16, len: usize) -> usize {
    usize::from(number) & len.wrapping_sub(1)
}

/// The first tables are for this many entries.
const LINKS_MIN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of a model table, newest first.
    struct Model {
        index: Index,
        entries: Vec<Hashes>,
        live_max: usize,
    }

    impl Model {
        fn new(live_max: usize) -> Self {
            Self { index: Index::default(), entries: Vec::new(), live_max }
        }

        fn insert(&mut self, hashes: Hashes) {
            self.entries.insert(0, hashes);
            self.entries.truncate(self.live_max);
            self.index.insert(hashes, self.entries.len());
        }

        fn check(&self, hashes: Hashes) {
            let live = self.entries.len();
            let found = self
                .index
                .find(Key::Field, hashes.field, live, |place| self.entries[place] == hashes);
            assert_eq!(found, self.entries.iter().position(|entry| *entry == hashes));
            let is_named = |entry: &Hashes| entry.name == hashes.name;
            let found = self
                .index
                .find(Key::Name, hashes.name, live, |place| is_named(&self.entries[place]));
            assert_eq!(found, self.entries.iter().position(is_named));
        }
    }

    fn hashes(field: u64, name: u64) -> Hashes {
        Hashes { field: field << 48, name: name << 48 }
    }

    #[test]
    fn the_newest_live_entry_is_found_whatever_the_hashes() {
        for live_max in [1, 2, 7, 8, 9, 31, 128] {
            // Many entries per bucket, many with equal hashes, and numbers that wrap.
            let mut model = Model::new(live_max);
            model.index.next = Number::MAX - 300;
            let mut seed = 1_u64;
            for _ in 0..2000 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let new = hashes((seed >> 33) % 160 * 8, (seed >> 43) % 7 * 128);
                model.check(new);
                model.insert(new);
                model.check(new);
                model.check(hashes((seed >> 23) % 160 * 8, (seed >> 53) % 7 * 128));
            }
        }
    }

    #[test]
    fn an_emptied_table_has_nothing_to_find() {
        let mut model = Model::new(16);
        assert_eq!(model.index.find(Key::Field, 0, 0, |_| true), None);
        for field in 0..16 {
            model.insert(hashes(field, field));
        }
        model.entries.clear();
        model.check(hashes(3, 3));
        model.insert(hashes(4, 4));
        model.check(hashes(3, 3));
        model.check(hashes(4, 4));
    }
}
