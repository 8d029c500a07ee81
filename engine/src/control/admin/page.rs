//! What a page is asked and what it answers: plain values, no sockets.

use hyper::{Method, StatusCode};
use regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::control::state::ControlState;

/// One page of the admin interface.
pub(super) struct Page {
    /// Its exact path.
    pub(super) path: &'static str,
    /// One line for `/help`.
    pub(super) help: &'static str,
    /// Query parameters and what they mean.
    pub(super) parameters: &'static [(&'static str, &'static str)],
    /// Whether it changes something, and so needs POST.
    pub(super) changes: bool,
    /// Makes the answer.
    pub(super) render: fn(&Ask<'_>) -> Answer,
}

impl Page {
    pub(super) fn answer(&self, ask: &Ask<'_>) -> Answer {
        if self.changes && !ask.is_post {
            return Answer::method_not_allowed(&ask.method);
        }
        (self.render)(ask)
    }
}

/// A request, as far as pages care.
pub(super) struct Ask<'a> {
    pub(super) state: &'a ControlState,
    pub(super) method: String,
    pub(super) is_post: bool,
    query: Vec<(String, String)>,
}

impl<'a> Ask<'a> {
    pub(super) fn new(state: &'a ControlState, method: &Method, query: &str) -> Ask<'a> {
        let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Ask { state, method: method.to_string(), is_post: *method == Method::POST, query }
    }

    /// The first value of a query parameter; empty for one without a value.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a query parameter is there, with or without a value.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.parameter(name).is_some()
    }

    /// All query parameters in order.
    pub(super) fn parameters(&self) -> &[(String, String)] {
        &self.query
    }

    /// `filter` as a regular expression, if it is there.
    pub(super) fn filter(&self) -> Result<Option<Regex>, Answer> {
        let Some(text) = self.parameter("filter") else { return Ok(None) };
        match RegexBuilder::new(text).size_limit(FILTER_BYTES_MAX).build() {
            Ok(filter) => Ok(Some(filter)),
            Err(error) => {
                Err(Answer::text(StatusCode::BAD_REQUEST, format!("Invalid regex: {error}\n")))
            }
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn new(content_type: &'static str, body: String) -> Answer {
        Answer { status: StatusCode::OK, content_type, body }
    }

    pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Answer {
        Answer { status, content_type: TEXT, body: body.into() }
    }

    pub(super) fn json(value: &Value) -> Answer {
        // A `Value` has string keys only, so it always serializes.
        let body = format!("{value:#}\n");
        Answer { status: StatusCode::OK, content_type: "application/json", body }
    }

    pub(super) fn ok() -> Answer {
        Answer::text(StatusCode::OK, "OK\n")
    }

    pub(super) fn bad_request(body: impl Into<String>) -> Answer {
        Answer::text(StatusCode::BAD_REQUEST, body)
    }

    pub(super) fn method_not_allowed(method: &str) -> Answer {
        let body = format!("Method {method} not allowed, POST required.");
        Answer::text(StatusCode::METHOD_NOT_ALLOWED, body)
    }
}

/// Content type of everything that is read by people.
pub(super) const TEXT: &str = "text/plain; charset=UTF-8";

/// Memory that a compiled filter may take.
const FILTER_BYTES_MAX: usize = 1 << 20;
