//! Access logs: where records go and what they say (contract section 15).

use std::path::Path;

use super::format::{JsonNode, Op, Template};
use super::log_filter::LogFilter;

/// One configured access log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// Which records are written; `None`: all.
    pub filter: Option<LogFilter>,
    /// Where records go.
    pub sink: Sink,
    /// What they say.
    pub format: Format,
}

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sink {
    /// Appended to a file, which is reopened on SIGUSR1.
    File(Box<Path>),
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What one record says.
#[derive(Debug, Clone, PartialEq)]
pub struct Format {
    /// Text, or a JSON document.
    pub body: Body,
    /// Text: a missing value is written as nothing instead of `-`. JSON: its member is left out.
    pub omit_empty_values: bool,
}

/// The two shapes of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Text; holds its own line end, if it has one.
    Text(Template),
    /// A JSON object; the renderer adds the line end.
    Json(JsonNode),
}

/// The default text format of Envoy, line end included.
pub const DEFAULT_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
%PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

impl Format {
    /// Every operator of the format, in order of appearance.
    pub fn ops(&self) -> Vec<&Op> {
        let mut ops = Vec::new();
        match &self.body {
            Body::Text(template) => ops.extend(template.ops.iter()),
            Body::Json(node) => node.collect_ops(&mut ops),
        }
        ops
    }

    /// Request headers (lower case, pseudo headers included) that must be kept until the record is
    /// written.
    #[must_use]
    pub fn request_headers(&self) -> Vec<&str> {
        distinct(self.ops().into_iter().flat_map(Op::request_headers))
    }

    /// Response headers that must be kept until the record is written.
    #[must_use]
    pub fn response_headers(&self) -> Vec<&str> {
        distinct(self.ops().into_iter().flat_map(Op::response_headers))
    }

    /// Response trailers that must be kept until the record is written.
    #[must_use]
    pub fn response_trailers(&self) -> Vec<&str> {
        distinct(self.ops().into_iter().flat_map(Op::response_trailers))
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}
