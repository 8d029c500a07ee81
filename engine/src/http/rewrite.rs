//! Paths and hosts as a route rewrites them.
//!
//! Invariant: what can't be rewritten into text stays as it was.

use std::borrow::Cow;

use outrigger_xds::snapshot::{HostRewrite, PathMatcher, PathRewrite, RequestView};

use crate::cluster::Host;

use super::path::split;
use super::request::Request;

/// The path with its query after a rewrite.
pub(super) fn rewrite_path<'a>(
    request: &'a Request<'a>,
    matcher: &PathMatcher,
    rewrite: &PathRewrite,
) -> Cow<'a, str> {
    let (path, query) = split(&request.path);
    match rewrite {
        PathRewrite::Prefix(new) => Cow::Owned(replace_prefix(matcher, path, new) + query),
        PathRewrite::Regex(regex) => {
            let mut out = Vec::new();
            regex.rewrite_into(path.as_bytes(), &mut out);
            out.extend_from_slice(query.as_bytes());
            into_text(out, &request.path)
        }
        PathRewrite::Template(template) => {
            let out = request.template(template);
            into_text([out, query.as_bytes().to_vec()].concat(), &request.path)
        }
    }
}

/// What the matcher matched at the start of `path`, replaced by `new`.
pub(super) fn replace_prefix(matcher: &PathMatcher, path: &str, new: &str) -> String {
    let matched = match matcher {
        PathMatcher::Prefix { text, .. } | PathMatcher::SeparatedPrefix { text, .. } => text.len(),
        PathMatcher::Exact { .. } | PathMatcher::Regex(_) | PathMatcher::Connect => path.len(),
    };
    let rest = path.get(matched..).unwrap_or("");
    format!("{new}{rest}")
}

/// Rewrites are made of text and of pieces of text, but expressions work on bytes; should one cut
/// a character in two, the path stays as it was.
pub(super) fn into_text(bytes: Vec<u8>, otherwise: &str) -> Cow<'_, str> {
    String::from_utf8(bytes).map_or(Cow::Borrowed(otherwise), Cow::Owned)
}

/// The host in place of the request's; nothing where it stays.
pub(super) fn rewrite_host<'a>(
    request: &'a Request<'a>,
    rewrite: &'a HostRewrite,
    host: &'a Host,
) -> Option<Cow<'a, str>> {
    match rewrite {
        HostRewrite::Literal(text) => Some(Cow::Borrowed(text)),
        HostRewrite::Auto => {
            let name = &*host.endpoint.hostname;
            (!name.is_empty()).then_some(Cow::Borrowed(name))
        }
        HostRewrite::Header(name) => {
            let value = request.header_values(name).next()?;
            std::str::from_utf8(value).ok().filter(|text| !text.is_empty()).map(Cow::Borrowed)
        }
        HostRewrite::PathRegex(regex) => {
            let (path, _) = split(&request.path);
            let mut out = Vec::new();
            regex.rewrite_into(path.as_bytes(), &mut out);
            String::from_utf8(out).ok().filter(|text| !text.is_empty()).map(Cow::Owned)
        }
        HostRewrite::Template(template) => {
            String::from_utf8(request.template(template)).ok().map(Cow::Owned)
        }
    }
}
