//! What is wrong with a configuration, and exactly where (rules U-02 and U-03).

use std::fmt;
use std::rc::Rc;

use thiserror::Error;

use crate::source::Position;

/// Where in a resource something is: proto field names, `[i]`, `["key"]`, and `(ShortType)` after an
/// `Any`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath {
    segments: Vec<Segment>,
}

/// One step of a [`FieldPath`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// A field, by its proto name.
    Field(Box<str>),
    /// An element of a repeated field.
    Index(usize),
    /// An entry of a map.
    Key(Box<str>),
    /// The message inside an `Any`, by the last part of its type's name.
    Unpacked(Box<str>),
    /// A field the message type does not have, by number.
    Unknown(u32),
}

impl FieldPath {
    /// The steps, outermost first.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments.iter().enumerate() {
            match segment {
                Segment::Field(name) if index == 0 => f.write_str(name)?,
                Segment::Field(name) => write!(f, ".{name}")?,
                Segment::Index(at) => write!(f, "[{at}]")?,
                Segment::Key(key) => write!(f, "[{key:?}]")?,
                Segment::Unpacked(name) => write!(f, "({name})")?,
                Segment::Unknown(number) => write!(f, "#{number}")?,
            }
        }
        Ok(())
    }
}

/// A path while it is walked: a list linked from the leaf, cheap to extend and to keep.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trail(Option<Rc<Step>>);

#[derive(Debug)]
struct Step {
    before: Trail,
    segment: Segment,
}

impl Trail {
    pub(crate) fn then(&self, segment: Segment) -> Trail {
        Trail(Some(Rc::new(Step { before: self.clone(), segment })))
    }

    pub(crate) fn field(&self, name: &str) -> Trail {
        self.then(Segment::Field(name.into()))
    }

    pub(crate) fn index(&self, at: usize) -> Trail {
        self.then(Segment::Index(at))
    }

    pub(crate) fn key(&self, key: &str) -> Trail {
        self.then(Segment::Key(key.into()))
    }

    pub(crate) fn unpacked(&self, full_name: &str) -> Trail {
        let short = full_name.rsplit('.').next().unwrap_or(full_name);
        self.then(Segment::Unpacked(short.into()))
    }

    pub(crate) fn path(&self) -> FieldPath {
        let mut segments = Vec::new();
        let mut at = self;
        while let Some(step) = &at.0 {
            segments.push(step.segment.clone());
            at = &step.before;
        }
        segments.reverse();
        FieldPath { segments }
    }
}

/// Which resource a fault is in: `Listener outbound_80`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// `Bootstrap`, `Listener`, `Cluster`.
    pub kind: &'static str,
    /// Its name; empty for the bootstrap.
    pub name: Box<str>,
    /// Where the resource is in the file; empty for the bootstrap.
    pub at: FieldPath,
}

impl Resource {
    pub(crate) fn bootstrap() -> Resource {
        Resource { kind: "Bootstrap", name: "".into(), at: FieldPath::default() }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The resource.
    pub resource: Resource,
    /// Path within the resource.
    pub path: FieldPath,
    /// What is wrong there.
    pub problem: Problem,
    /// Where it is in the text, if that is known.
    pub position: Option<Position>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = &self.position {
            write!(f, "{position}: ")?;
        }
        f.write_str(self.resource.kind)?;
        if !self.resource.name.is_empty() {
            write!(f, " {}", self.resource.name)?;
        }
        if self.path.segments.is_empty() {
            write!(f, ": {}", self.problem)
        } else {
            write!(f, ": {}: {}", self.path, self.problem)
        }
    }
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// U-01: a field that we do not implement.
    #[error("not supported")]
    NotSupported,
    /// The same, and there is another way.
    #[error("not supported: {0}")]
    Instead(&'static str),
    /// U-05: a key that the message does not have.
    #[error("no such field{}", suggest(.near))]
    UnknownKey {
        /// The field that is closest in spelling, if one is close.
        near: Option<String>,
    },
    /// U-06: an extension type that we do not implement.
    #[error("extension type {0:?} is not supported")]
    UnknownExtension(String),
    /// U-09: a value of an enum, or a choice of text, that we do not implement.
    #[error("{0} is not supported")]
    UnsupportedValue(String),
    /// The value does not fit the field's type.
    #[error("{0}")]
    Type(String),
    /// A field that has to be set is not.
    #[error("is required")]
    Required,
    /// A value outside its range, or at odds with another (contract section 22).
    #[error("{0}")]
    Invalid(String),
}

fn suggest(near: &Option<String>) -> String {
    near.as_ref().map_or_else(String::new, |near| format!("; did you mean {near:?}?"))
}

/// A problem and its place, before it is known which resource and which line that is.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) trail: Trail,
    pub(crate) problem: Problem,
}

impl Found {
    pub(crate) fn new(trail: Trail, problem: Problem) -> Found {
        Found { trail, problem }
    }
}
