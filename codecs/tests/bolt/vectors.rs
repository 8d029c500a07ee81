//! The frames of bolt.md section 9, by their names there.

use std::sync::LazyLock;

/// The bytes of a vector.
pub(crate) fn vector(name: &str) -> &'static [u8] {
    let found = VECTORS.iter().find(|(known, _)| known == name);
    &found.unwrap_or_else(|| panic!("no vector {name}")).1
}

/// All of them, in order, with their names.
pub(crate) static VECTORS: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let lines = include_str!("../data/bolt_vectors.txt").lines();
    let vectors = lines.filter_map(|line| line.split_once(' ')).filter(|(name, _)| *name != "#");
    vectors.map(|(name, hex)| (name.to_owned(), bytes(hex))).collect()
});

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a digit") as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
