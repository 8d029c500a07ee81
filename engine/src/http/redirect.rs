//! Answers that a route gives itself: redirects and direct responses.
//!
//! Invariant: what the route leaves out of a location is what the request said.

use outrigger_xds::snapshot::{DirectResponse, Redirect, RedirectPath, Route};

use super::path::split;
use super::reply::{Body, DIRECT_RESPONSE, Reply};
use super::request::{Request, split_port};
use super::rewrite::{into_text, replace_prefix};

/// The response that a route holds.
pub(super) fn direct_reply(request: &Request<'_>, direct: &DirectResponse) -> Reply {
    let mut reply = Reply::empty(direct.status, DIRECT_RESPONSE);
    reply.body = Body::Configured(direct.body.clone());
    // As Envoy: what was created, or is to be looked at, is what was asked for.
    if direct.status == 201 || (300..400).contains(&direct.status) {
        let Request { scheme, authority, path, .. } = request;
        reply.location = Some(format!("{scheme}://{authority}{path}"));
    }
    reply
}

/// The redirect that a route holds.
pub(super) fn redirect_reply(request: &Request<'_>, route: &Route, redirect: &Redirect) -> Reply {
    let mut reply = Reply::empty(redirect.status, DIRECT_RESPONSE);
    let path = redirected_path(request, route, redirect);
    reply.location = Some(location(request, redirect, &path));
    if let Some(RedirectPath::Prefix(_) | RedirectPath::Regex(_)) = redirect.path {
        reply.rewritten_path = Some(path);
    }
    reply
}

/// The location of a redirect (contract section 8, `redirect`).
fn location(request: &Request<'_>, redirect: &Redirect, path: &str) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(request.scheme);
    let (host, port) = split_port(request.authority);
    let host = redirect.host.as_deref().unwrap_or(host);
    let port = match (redirect.port, &redirect.host, port) {
        (Some(port), _, _) => format!(":{port}"),
        // The old scheme's default port goes with the old scheme.
        (None, None, Some(port))
            if redirect.scheme.is_none() || !is_default(request.scheme, port) =>
        {
            format!(":{port}")
        }
        _ => String::new(),
    };
    format!("{scheme}://{host}{port}{path}")
}

fn redirected_path(request: &Request<'_>, route: &Route, redirect: &Redirect) -> String {
    let (path, query) = split(&request.path);
    let query = if redirect.strip_query { "" } else { query };
    match &redirect.path {
        None => format!("{path}{query}"),
        Some(RedirectPath::Whole(new)) if new.contains('?') => new.to_string(),
        Some(RedirectPath::Whole(new)) => format!("{new}{query}"),
        Some(RedirectPath::Prefix(new)) => replace_prefix(&route.matcher.path, path, new) + query,
        Some(RedirectPath::Regex(regex)) => {
            let mut out = Vec::new();
            regex.rewrite_into(path.as_bytes(), &mut out);
            format!("{}{query}", into_text(out, path))
        }
    }
}

fn is_default(scheme: &str, port: &str) -> bool {
    matches!((scheme, port), ("http", "80") | ("https", "443"))
}
