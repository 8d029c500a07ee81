//! Header edits of all levels, flattened to one list.

use crate::compile::format;
use crate::compile::invalid;
use crate::fault::{Found, Trail};
use crate::snapshot::{AppendAction, HeaderEdits, HeaderName, HeaderOp, Template};
use crate::view::View;

/// Edits that one level of the configuration asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Level {
    request: Vec<HeaderOp>,
    response: Vec<HeaderOp>,
}

impl Level {
    /// Reads the four lists of a table, virtual host, route or weighted cluster. Removal comes before
    /// addition.
    pub(crate) fn compile(view: &View<'_>) -> Result<Level, Found> {
        let ops = |remove: &str, add: &str| {
            let mut ops = Vec::new();
            for (name, at) in view.texts(remove) {
                ops.push(HeaderOp::Remove(editable(name, at)?));
            }
            for option in view.messages(add) {
                ops.push(addition(&option)?);
            }
            Ok(ops)
        };
        Ok(Level {
            request: ops("request_headers_to_remove", "request_headers_to_add")?,
            response: ops("response_headers_to_remove", "response_headers_to_add")?,
        })
    }
}

/// Request and response edits of `levels`, in the order in which they apply.
pub(crate) fn flatten(levels: &[&Level]) -> (HeaderEdits, HeaderEdits) {
    let request = levels.iter().flat_map(|level| level.request.iter().cloned()).collect();
    let response = levels.iter().flat_map(|level| level.response.iter().cloned()).collect();
    (HeaderEdits { ops: request }, HeaderEdits { ops: response })
}

fn addition(view: &View<'_>) -> Result<HeaderOp, Found> {
    let Some(header) = view.message("header") else { return Err(view.required("header")) };
    let name = editable(header.required_text("key")?, header.at("key"))?;
    let value = value(&header)?;
    let action = append_action(view)?;
    Ok(HeaderOp::Set { name, value, action, keep_empty_value: view.flag("keep_empty_value") })
}

/// The value of core.v3.HeaderValue.
pub(crate) fn value(header: &View<'_>) -> Result<Template, Found> {
    let value = header.text("value");
    if value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err(header.invalid("value", "must not hold CR, LF or NUL"));
    }
    format::template(value, &header.at("value"))
}

/// What core.v3.HeaderValueOption says of a header that is there already.
pub(crate) fn append_action(view: &View<'_>) -> Result<AppendAction, Found> {
    Ok(match (view.wrapped_flag("append"), view.choice("append_action")?.as_str()) {
        // The older of two ways to say it counts only while the newer is at its default.
        (Some(false), "APPEND_IF_EXISTS_OR_ADD") => AppendAction::OverwriteIfExistsOrAdd,
        (_, "APPEND_IF_EXISTS_OR_ADD") => AppendAction::AppendIfExistsOrAdd,
        (Some(_), _) => {
            return Err(view.invalid("append", "must not be set together with append_action"));
        }
        (_, "ADD_IF_ABSENT") => AppendAction::AddIfAbsent,
        (_, "OVERWRITE_IF_EXISTS_OR_ADD") => AppendAction::OverwriteIfExistsOrAdd,
        (_, "OVERWRITE_IF_EXISTS") => AppendAction::OverwriteIfExists,
        (_, other) => return Err(view.unsupported("append_action", other)),
    })
}

/// A header that edits may touch: not one that decides where a request goes.
fn editable(name: &str, at: Trail) -> Result<HeaderName, Found> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(invalid(at, format!("{name:?} may not be changed here")));
    }
    header_name(name, at)
}

/// A header name, pseudo headers included.
pub(crate) fn header_name(name: &str, at: Trail) -> Result<HeaderName, Found> {
    let token = name.strip_prefix(':').unwrap_or(name);
    if token.is_empty() || !token.bytes().all(is_token_byte) {
        return Err(invalid(at, format!("{name:?} is not a header name")));
    }
    Ok(HeaderName::new(name))
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
