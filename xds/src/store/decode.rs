//! From bytes of a response to a message of which every field is supported.

use bytes::Bytes;
use prost_reflect::DynamicMessage;

use crate::fault::{Found, Trail};
use crate::mapping::{ReadOptions, Schema};
use crate::support::Reviewer;

/// Decodes a resource and looks every field of it up.
///
/// What has no effect and may be there is given to `ignored`, as `path: reason`.
pub(super) fn decode(
    schema: &Schema,
    options: ReadOptions,
    message: &str,
    content: Bytes,
    ignored: &mut Vec<String>,
) -> Result<DynamicMessage, String> {
    let descriptor = schema
        .message(message)
        .ok_or_else(|| format!("{message} is not a resource that this proxy knows"))?;
    let decoded = DynamicMessage::decode(descriptor, content)
        .map_err(|error| format!("cannot be decoded: {error}"))?;
    let mut reviewer = Reviewer::new(schema, options);
    reviewer.message(&decoded, &Trail::default(), &[]);
    let review = reviewer.finish();
    if !review.faults.is_empty() {
        return Err(texts(&review.faults));
    }
    ignored.extend(review.warnings.iter().map(text));
    let without_effect = |(trail, reason): &(Trail, &str)| format!("{}: {reason}", trail.path());
    ignored.extend(review.ignored.iter().map(without_effect));
    let skipped = |(trail, kind): &(Trail, String)| {
        format!("{}: optional, and {kind} is not supported", trail.path())
    };
    ignored.extend(review.skipped.iter().map(skipped));
    Ok(decoded)
}

/// A complaint as a NACK has it (V-01).
pub(super) fn text(found: &Found) -> String {
    match found.trail.path().to_string() {
        path if path.is_empty() => found.problem.to_string(),
        path => format!("{path}: {}", found.problem),
    }
}

fn texts(faults: &[Found]) -> String {
    let mut texts: Vec<String> = faults.iter().take(FAULTS_SHOWN).map(text).collect();
    let more = faults.len().saturating_sub(FAULTS_SHOWN);
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join("; ")
}

/// Enough to mend a resource by, and few enough for one line.
const FAULTS_SHOWN: usize = 5;
