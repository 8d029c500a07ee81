//! Paths before routing: escaped slashes, dot segments, doubled slashes (contract section 5).
//!
//! Invariant: the path that is routed is the path that is forwarded.

use std::borrow::Cow;

use outrigger_xds::snapshot::{EscapedSlashes, PathRules};

/// What became of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Normalized<'p> {
    /// Route and forward this (with its query).
    Path(Cow<'p, str>),
    /// 400.
    Rejected,
    /// 307 to this.
    Redirect(String),
}

/// Applies `rules` to a path with its query.
pub(super) fn normalize<'p>(rules: &PathRules, path_and_query: &'p str) -> Normalized<'p> {
    if !rules.normalize
        && !rules.merge_slashes
        && rules.escaped_slashes == EscapedSlashes::KeepUnchanged
    {
        return Normalized::Path(Cow::Borrowed(path_and_query));
    }
    let (path, query) = split(path_and_query);
    let mut result = Cow::Borrowed(path);
    let mut redirect = false;
    if rules.escaped_slashes != EscapedSlashes::KeepUnchanged && has_escaped_slash(&result) {
        match rules.escaped_slashes {
            EscapedSlashes::RejectRequest => return Normalized::Rejected,
            EscapedSlashes::UnescapeAndRedirect => redirect = true,
            EscapedSlashes::UnescapeAndForward | EscapedSlashes::KeepUnchanged => {}
        }
        result = Cow::Owned(unescape_slashes(&result));
    }
    if rules.normalize && needs_normalizing(&result) {
        result = Cow::Owned(remove_dot_segments(&result));
    }
    if rules.merge_slashes && result.contains("//") {
        result = Cow::Owned(merge_slashes(&result));
    }
    match result {
        Cow::Borrowed(_) => Normalized::Path(Cow::Borrowed(path_and_query)),
        Cow::Owned(mut path) => {
            path.push_str(query);
            if redirect { Normalized::Redirect(path) } else { Normalized::Path(Cow::Owned(path)) }
        }
    }
}

/// The path, and the query with its question mark.
pub(super) fn split(path_and_query: &str) -> (&str, &str) {
    let end = memchr::memchr(b'?', path_and_query.as_bytes()).unwrap_or(path_and_query.len());
    path_and_query.split_at(end)
}

fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes().windows(3).any(|window| escaped_slash(window).is_some())
}

fn escaped_slash(bytes: &[u8]) -> Option<char> {
    match bytes {
        [b'%', b'2', b'f' | b'F'] => Some('/'),
        [b'%', b'5', b'c' | b'C'] => Some('\\'),
        _ => None,
    }
}

fn unescape_slashes(path: &str) -> String {
    let mut result = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        result.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at..at + 3);
        match escape.and_then(escaped_slash) {
            Some(slash) => {
                result.push(slash);
                rest = &rest[at + 3..];
            }
            None => {
                result.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    result.push_str(rest);
    result
}

fn needs_normalizing(path: &str) -> bool {
    path.contains("/.") || path.contains('\\') || path.contains('%')
}

/// RFC 3986 section 5.2.4 with backslashes taken for slashes and unreserved escapes decoded, as
/// browsers and Envoy do. A segment that would climb above the root stays at the root.
fn remove_dot_segments(path: &str) -> String {
    let path = decode_unreserved(path).replace('\\', "/");
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/').unwrap_or(&path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {
                if last {
                    kept.push("");
                }
            }
            ".." => {
                kept.pop();
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

/// Decodes escapes of characters that never need one (RFC 3986 section 2.3).
fn decode_unreserved(path: &str) -> String {
    let mut result = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        result.push_str(&rest[..at]);
        let byte = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                result.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            _ => {
                result.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    result.push_str(rest);
    result
}

fn merge_slashes(path: &str) -> String {
    let mut result = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !result.ends_with('/') {
            result.push(character);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(normalize: bool, merge_slashes: bool, escaped_slashes: EscapedSlashes) -> PathRules {
        PathRules { escaped_slashes, normalize, merge_slashes }
    }

    fn path(rules: &PathRules, text: &str) -> String {
        match normalize(rules, text) {
            Normalized::Path(path) => path.into_owned(),
            Normalized::Redirect(path) => format!("redirect {path}"),
            Normalized::Rejected => "rejected".to_owned(),
        }
    }

    #[test]
    fn nothing_is_done_unless_asked() {
        let off = rules(false, false, EscapedSlashes::KeepUnchanged);
        let kept = normalize(&off, "/a/../b//c%2fd?x=/../");
        assert_eq!(kept, Normalized::Path(Cow::Borrowed("/a/../b//c%2fd?x=/../")));
    }

    #[test]
    fn dots_are_removed_and_the_query_kept() {
        let on = rules(true, false, EscapedSlashes::KeepUnchanged);
        for (given, expected) in [
            ("/a/b", "/a/b"),
            ("/a/./b?q=/./", "/a/b?q=/./"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/a/../../b", "/b"),
            ("/a\\..\\b", "/b"),
            ("/%61/%2e%2e/b", "/b"),
            ("/a%2fb", "/a%2fb"),
            ("/a//b/../c", "/a//c"),
            ("/%", "/%"),
        ] {
            assert_eq!(path(&on, given), expected, "{given}");
        }
    }

    #[test]
    fn slashes_are_merged_and_unescaped_in_order() {
        let merge = rules(false, true, EscapedSlashes::KeepUnchanged);
        assert_eq!(path(&merge, "//a///b?c=//"), "/a/b?c=//");
        let forward = rules(true, true, EscapedSlashes::UnescapeAndForward);
        assert_eq!(path(&forward, "/a%2f..%2F/b%5cc"), "/b/c");
        let redirect = rules(false, false, EscapedSlashes::UnescapeAndRedirect);
        assert_eq!(path(&redirect, "/a%2fb?q"), "redirect /a/b?q");
        assert_eq!(path(&redirect, "/plain"), "/plain");
        let reject = rules(false, false, EscapedSlashes::RejectRequest);
        assert_eq!(path(&reject, "/a%5Cb"), "rejected");
        assert_eq!(path(&reject, "/a?b=%2f"), "/a?b=%2f");
    }
}
