//! Access logs (contract section 15).

use std::path::Path;
use std::sync::Arc;

use crate::compile::format::{self, JsonValues};
use crate::compile::log_filter;
use crate::compile::route::data_source;
use crate::compile::runtime::Runtime;
use crate::fault::{Found, Problem, Trail};
use crate::snapshot::Template;
use crate::snapshot::access_log::{AccessLog, Body, DEFAULT_TEXT, Format, Sink};
use crate::view::View;

/// The `access_log` field of whatever `view` is.
pub(crate) fn compile(view: &View<'_>, runtime: &Runtime) -> Result<Vec<Arc<AccessLog>>, Found> {
    view.messages("access_log").iter().map(|log| one(log, runtime).map(Arc::new)).collect()
}

/// A file in Envoy's format.
pub(crate) fn to_file(path: &str) -> Result<AccessLog, Found> {
    let format = text(format::template(DEFAULT_TEXT, &Trail::default())?)?;
    Ok(AccessLog { filter: None, sink: Sink::File(Path::new(path).into()), format })
}

fn one(view: &View<'_>, runtime: &Runtime) -> Result<AccessLog, Found> {
    let filter = match view.message("filter") {
        Some(filter) => Some(log_filter::compile(&filter, runtime)?),
        None => None,
    };
    let Some(unpacked) = view.unpack("typed_config")? else {
        return Err(view.required("typed_config"));
    };
    let log = unpacked.view(view.schema());
    let (sink, format) = match unpacked.kind().as_str() {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => {
            (Sink::File(Path::new(log.required_text("path")?).into()), file_format(&log)?)
        }
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            (Sink::Stdout, log_format(&log)?)
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            (Sink::Stderr, log_format(&log)?)
        }
        _ => return Err(unpacked.refuse()),
    };
    Ok(AccessLog { filter, sink, format })
}

/// The four ways to give a file's format, three of them deprecated.
fn file_format(view: &View<'_>) -> Result<Format, Found> {
    let json = |field: &str, values| {
        let json = view.json(field).unwrap_or_default();
        let node = format::json(&json, values, &view.at(field))?;
        Ok(Format { body: Body::Json(node), omit_empty_values: false })
    };
    match view.which(&["format", "json_format", "typed_json_format"]) {
        Some("format") => text(format::template(view.text("format"), &view.at("format"))?),
        Some("json_format") => json("json_format", JsonValues::Text),
        Some(_) => json("typed_json_format", JsonValues::Typed),
        None => log_format(view),
    }
}

fn text(template: Template) -> Result<Format, Found> {
    Ok(Format { body: Body::Text(template), omit_empty_values: false })
}

/// SubstitutionFormatString, or Envoy's default.
fn log_format(view: &View<'_>) -> Result<Format, Found> {
    let Some(format) = view.message("log_format") else {
        return text(format::template(DEFAULT_TEXT, &view.at("log_format"))?);
    };
    let field =
        format.required_which("format", &["text_format", "json_format", "text_format_source"])?;
    let body = match field {
        "json_format" => {
            let json = format.json(field).unwrap_or_default();
            Body::Json(format::json(&json, JsonValues::Typed, &format.at(field))?)
        }
        "text_format" => Body::Text(format::template(format.text(field), &format.at(field))?),
        _ => Body::Text(from_source(&format, field)?),
    };
    Ok(Format { body, omit_empty_values: format.flag("omit_empty_values") })
}

fn from_source(format: &View<'_>, field: &str) -> Result<Template, Found> {
    let Some(source) = format.message(field) else { return Err(format.required(field)) };
    let bytes = data_source(&source, FORMAT_BYTES_MAX)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Found::new(format.at(field), Problem::Invalid("is not UTF-8".to_owned())))?;
    format::template(text, &format.at(field))
}

/// Far above any format; it is held in memory and walked for every record.
const FORMAT_BYTES_MAX: usize = 64 << 10;
