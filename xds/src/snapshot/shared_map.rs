//! A hash map whose versions share what they have in common.
//!
//! A tree: each branch looks at six more bits of the hash, a leaf holds a few entries. A clone is one
//! pointer. A change copies the nodes on its way that another version has too, and no others: what it
//! costs, and what a lookup costs, grows with the depth, which is 2 for 10,000 entries. Invariant: nodes
//! that other versions see never change.
//!
//! The caller hashes, and says what an entry is known by. A branch stays when its entries go; one is made
//! only where more than [`LEAF_MAX`] of them were at once.

use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(super) struct SharedMap<T> {
    root: Arc<Node<T>>,
    len: usize,
}

#[derive(Debug, Clone)]
enum Node<T> {
    /// Entries with their hashes.
    Leaf(Vec<(u64, T)>),
    Branch(Box<[Option<Arc<Node<T>>>; FAN_OUT]>),
}

impl<T> SharedMap<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn get(&self, hash: u64, is_meant: impl Fn(&T) -> bool) -> Option<&T> {
        let (mut node, mut bits) = (&*self.root, hash);
        loop {
            match node {
                Node::Branch(children) => {
                    node = children[place(bits)].as_deref()?;
                    bits >>= BITS;
                }
                Node::Leaf(entries) => {
                    let mut same = entries.iter().filter(|(known, _)| *known == hash);
                    return same.find(|(_, entry)| is_meant(entry)).map(|(_, entry)| entry);
                }
            }
        }
    }

    /// Every entry, in no order that means anything.
    pub(super) fn all(&self) -> Vec<&T> {
        let mut all = Vec::with_capacity(self.len);
        let mut nodes = vec![&*self.root];
        while let Some(node) = nodes.pop() {
            match node {
                Node::Leaf(entries) => all.extend(entries.iter().map(|(_, entry)| entry)),
                Node::Branch(children) => {
                    nodes.extend(children.iter().filter_map(Option::as_deref));
                }
            }
        }
        all
    }
}

impl<T: Clone> SharedMap<T> {
    /// Adds an entry, which must not be there yet.
    pub(super) fn insert(&mut self, hash: u64, entry: T) {
        self.len += 1;
        let (mut node, mut depth) = (Arc::make_mut(&mut self.root), 0);
        loop {
            match node {
                Node::Branch(children) => {
                    let child = &mut children[place(hash >> (depth * BITS))];
                    node = Arc::make_mut(child.get_or_insert_default());
                    depth += 1;
                }
                Node::Leaf(entries) if entries.len() < LEAF_MAX || depth == DEPTH_MAX => {
                    entries.push((hash, entry));
                    return;
                }
                Node::Leaf(entries) => {
                    let entries = std::mem::take(entries);
                    *node = Node::branch(entries, depth);
                }
            }
        }
    }

    /// Takes an entry out. Nothing is copied for one that is not there.
    pub(super) fn remove(&mut self, hash: u64, is_meant: impl Fn(&T) -> bool) -> Option<T> {
        self.get(hash, &is_meant)?;
        self.len -= 1;
        let (mut node, mut bits) = (Arc::make_mut(&mut self.root), hash);
        loop {
            match node {
                Node::Branch(children) => {
                    node = Arc::make_mut(children[place(bits)].as_mut()?);
                    bits >>= BITS;
                }
                Node::Leaf(entries) => {
                    let at = entries.iter().position(|(known, it)| *known == hash && is_meant(it));
                    return Some(entries.swap_remove(at?).1);
                }
            }
        }
    }
}

impl<T> Node<T> {
    /// A branch with the entries of a leaf of that depth.
    fn branch(entries: Vec<(u64, T)>, depth: u32) -> Node<T> {
        let mut leaves: [Vec<(u64, T)>; FAN_OUT] = [const { Vec::new() }; FAN_OUT];
        for (hash, entry) in entries {
            leaves[place(hash >> (depth * BITS))].push((hash, entry));
        }
        let child = |leaf: Vec<_>| (!leaf.is_empty()).then(|| Arc::new(Node::Leaf(leaf)));
        Node::Branch(Box::new(leaves.map(child)))
    }
}

impl<T> Default for Node<T> {
    fn default() -> Node<T> {
        Node::Leaf(Vec::new())
    }
}

impl<T> Default for SharedMap<T> {
    fn default() -> SharedMap<T> {
        SharedMap { root: Arc::default(), len: 0 }
    }
}

impl<T> Clone for SharedMap<T> {
    fn clone(&self) -> SharedMap<T> {
        SharedMap { root: Arc::clone(&self.root), len: self.len }
    }
}

fn place(bits: u64) -> usize {
    bits as usize % FAN_OUT
}

/// Of a hash at each branch.
const BITS: u32 = 6;
const FAN_OUT: usize = 1 << BITS;

/// Branches after which a hash has no more bits: entries below are those of one hash.
const DEPTH_MAX: u32 = u64::BITS.div_ceil(BITS);

/// Entries of a leaf before it becomes a branch.
const LEAF_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few keys, and fewer hashes, which begin alike: everything is met more than once.
        #[test]
        fn versions_agree_with_a_hash_map(
            changes in proptest::collection::vec((0..60u64, proptest::bool::ANY), 0..300),
        ) {
            let hash = |key: u64| if key < 30 { (key % 3) << 58 } else { key };
            let mut versions = vec![(SharedMap::default(), HashMap::new())];
            for (at, (key, comes)) in changes.into_iter().enumerate() {
                let (mut map, mut known) = versions[versions.len() - 1].clone();
                let before = map.remove(hash(key), |(it, _): &(u64, usize)| *it == key);
                prop_assert_eq!(before, known.remove(&key).map(|value| (key, value)));
                if comes {
                    map.insert(hash(key), (key, at));
                    known.insert(key, at);
                }
                versions.push((map, known));
            }
            for (map, known) in versions {
                for key in 0..60 {
                    let found = map.get(hash(key), |(it, _)| *it == key);
                    prop_assert_eq!(found.map(|(_, value)| value), known.get(&key));
                }
                let all: HashMap<u64, usize> = map.all().into_iter().copied().collect();
                prop_assert_eq!((all.len(), map.is_empty()), (map.all().len(), known.is_empty()));
                prop_assert_eq!(all, known);
            }
        }
    }
}
