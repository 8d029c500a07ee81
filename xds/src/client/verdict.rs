//! What is wrong with a response, as the server and the operator are told (V-01).

use std::fmt::Write as _;
use std::sync::Arc;

use super::ResourceType;

/// Why one resource of a response was not taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rejection {
    /// The resource; empty if the fault is the whole response's.
    pub name: Arc<str>,
    /// `<field path>: <reason>`.
    pub reason: String,
}

impl Rejection {
    /// `reason` with the field's path before it.
    pub fn new(name: impl Into<Arc<str>>, reason: impl Into<String>) -> Rejection {
        Rejection { name: name.into(), reason: reason.into() }
    }
}

/// A response that was, or will be, answered with a NACK.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The type.
    pub kind: ResourceType,
    /// Of the response.
    pub version: Arc<str>,
    /// One line per rejected resource.
    pub text: String,
    /// The same was said of the same version before, and need not be logged again (F-06).
    pub repeated: bool,
}

/// The message of a NACK: one line per rejected resource, the first [`LINES_MAX`] in full, then how
/// many there are besides.
pub(super) fn text(kind: ResourceType, rejections: &[Rejection]) -> String {
    let mut text = String::new();
    for rejection in rejections.iter().take(LINES_MAX) {
        if !text.is_empty() {
            text.push('\n');
        }
        let start = text.len();
        text.push_str(kind.word());
        if !rejection.name.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(text, " {}", rejection.name);
        }
        let _ = write!(text, ": {}", rejection.reason);
        let end = text.floor_char_boundary(start + LINE_BYTES_MAX);
        if end < text.len() {
            text.truncate(end);
            text.push_str("...");
        }
    }
    let more = rejections.len().saturating_sub(LINES_MAX);
    if more > 0 {
        let _ = write!(text, "\nand {more} more");
    }
    text
}

/// Rejected resources that a NACK names.
pub const LINES_MAX: usize = 20;
/// Of what is said of one resource.
pub const LINE_BYTES_MAX: usize = 2048;
