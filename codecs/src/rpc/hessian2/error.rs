//! What is wrong with a Hessian stream.

/// The bytes are no Hessian 2.0, or more than we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault} at byte {at}")]
pub struct Malformed {
    /// What is wrong.
    pub fault: Fault,
    /// Where, counted from the first byte that the reader was given.
    pub at: usize,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub enum Fault {
    /// The bytes end inside a value.
    Truncated,
    /// A tag that is reserved, or that can't stand here.
    Tag,
    /// A character that is not written as Hessian writes it.
    Character,
    /// Something else where a string must be.
    NotString,
    /// Something else where an int must be.
    NotInt,
    /// Something else where a map must be.
    NotMap,
    /// A length or count below zero.
    Length,
    /// A type that was not named before.
    Type,
    /// A class that was not defined before.
    Class,
    /// A reference to a value that was not there before.
    Reference,
    /// More than [`DEPTH_MAX`](super::DEPTH_MAX) values in each other.
    Depth,
    /// A class of more than [`FIELDS_MAX`](super::FIELDS_MAX) fields.
    Fields,
    /// More than [`CLASSES_MAX`](super::CLASSES_MAX) classes.
    Classes,
}

impl Fault {
    /// In words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Fault::Truncated => "the body ends inside a value",
            Fault::Tag => "a tag that can't stand here",
            Fault::Character => "a character that Hessian does not write so",
            Fault::NotString => "no string where one must be",
            Fault::NotInt => "no int where one must be",
            Fault::NotMap => "no map where one must be",
            Fault::Length => "a length below zero",
            Fault::Type => "an unknown type",
            Fault::Class => "an unknown class",
            Fault::Reference => "a reference to nothing",
            Fault::Depth => "values too deep in each other",
            Fault::Fields => "a class of too many fields",
            Fault::Classes => "too many classes",
        }
    }
}
