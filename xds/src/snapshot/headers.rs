//! Header edits of routes, compiled to one list per request and response direction.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use super::format::Template;

/// A header field name in lower case, or a pseudo header such as `:path`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeaderName(Box<str>);

impl HeaderName {
    /// Lower-cases `name`; callers have checked that it is a field name.
    #[must_use]
    pub fn new(name: &str) -> HeaderName {
        HeaderName(name.to_ascii_lowercase().into_boxed_str())
    }

    /// The name, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for HeaderName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for HeaderName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The edits of all levels (weighted cluster, route, virtual host, table) that apply to one message, in
/// the order in which they are to be applied, one after the other.
///
/// The order matters: a removal by the table comes after what the route added.
#[derive(Debug, Clone, Default)]
pub struct HeaderEdits {
    /// Applied from first to last.
    pub ops: Box<[HeaderOp]>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// One edit.
#[derive(Debug, Clone)]
pub enum HeaderOp {
    /// Remove every occurrence.
    Remove(HeaderName),
    /// Add or replace, as `action` says.
    Set {
        /// Never `host`, never a pseudo header.
        name: HeaderName,
        /// May be a lone literal: [`Template::as_literal`].
        value: Template,
        /// What to do with one that is there.
        action: AppendAction,
        /// Set it even when the value comes out empty; otherwise an empty value is no edit at all.
        keep_empty_value: bool,
    },
}

/// What an addition does when the header is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAction {
    /// Add another line.
    AppendIfExistsOrAdd,
    /// Leave it.
    AddIfAbsent,
    /// Replace every occurrence, or add.
    OverwriteIfExistsOrAdd,
    /// Replace every occurrence; nothing when it is absent.
    OverwriteIfExists,
}
