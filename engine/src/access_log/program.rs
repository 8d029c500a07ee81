//! A log format made ready for one [`CaptureSet`]: headers are slots instead of names.
//!
//! Made once when a log is opened, so that writing a line looks nothing up.

use outrigger_xds::snapshot::access_log::{Body, Format};
use outrigger_xds::snapshot::{JsonNode, Op};

use super::capture::CaptureSet;

/// What is written for each record.
#[derive(Debug)]
pub(super) enum Program {
    /// A JSON document and a line feed.
    Json {
        node: JsonPart,
        /// Leave members without a value out.
        omit: bool,
    },
    /// Text with its own line feed, if it has one.
    Text {
        parts: Box<[Part]>,
        /// Stands for what is not known.
        missing: &'static [u8],
    },
}

impl Program {
    /// `format` with its headers found in `set`, which was made of it, among others.
    pub(super) fn new(format: &Format, set: &CaptureSet) -> Program {
        let omit = format.omit_empty_values;
        match &format.body {
            Body::Json(node) => Program::Json { node: JsonPart::new(node, set), omit },
            Body::Text(template) => Program::Text {
                parts: parts(&template.ops, set),
                missing: if omit { b"" } else { b"-" },
            },
        }
    }
}

/// A part of a line.
#[derive(Debug)]
pub(super) enum Part {
    /// A header's value.
    Header {
        slot: u16,
        /// When the first has none.
        alternative: Option<u16>,
        max_len: usize,
    },
    /// Fixed text.
    Literal(Box<[u8]>),
    /// Anything else.
    Op(Op),
}

impl Part {
    fn new(op: &Op, set: &CaptureSet) -> Part {
        Part::header(op, usize::MAX, set).unwrap_or_else(|| match op {
            Op::Literal(text) => Part::Literal(text.as_bytes().into()),
            op => Part::Op(op.clone()),
        })
    }

    fn header(op: &Op, max_len: usize, set: &CaptureSet) -> Option<Part> {
        let find = match op {
            Op::Cut { op, max_len: cut } => {
                return Part::header(op, max_len.min(*cut as usize), set);
            }
            Op::Request { .. } => CaptureSet::request_slot,
            Op::Response { .. } => CaptureSet::response_slot,
            Op::Trailer { .. } => CaptureSet::trailer_slot,
            _ => return None,
        };
        let (Op::Request { name, alternative }
        | Op::Response { name, alternative }
        | Op::Trailer { name, alternative }) = op
        else {
            return None;
        };
        let alternative = alternative.as_ref().and_then(|name| find(set, name));
        Some(Part::Header { slot: find(set, name)?, alternative, max_len })
    }
}

/// A part of a JSON document; the shape is that of [`JsonNode`].
#[derive(Debug)]
pub(super) enum JsonPart {
    List(Box<[JsonPart]>),
    Literal(Box<str>),
    Object(Box<[(Box<str>, JsonPart)]>),
    Text(Box<[Part]>),
    Value(Part),
}

impl JsonPart {
    fn new(node: &JsonNode, set: &CaptureSet) -> JsonPart {
        match node {
            JsonNode::Literal(text) => JsonPart::Literal(text.clone()),
            JsonNode::Value(op) => JsonPart::Value(Part::new(op, set)),
            JsonNode::Text(template) => JsonPart::Text(parts(&template.ops, set)),
            JsonNode::Object(members) => {
                let member =
                    |(key, node): &(Box<str>, JsonNode)| (key.clone(), JsonPart::new(node, set));
                JsonPart::Object(members.iter().map(member).collect())
            }
            JsonNode::List(nodes) => {
                JsonPart::List(nodes.iter().map(|node| JsonPart::new(node, set)).collect())
            }
        }
    }
}

fn parts(ops: &[Op], set: &CaptureSet) -> Box<[Part]> {
    ops.iter().map(|op| Part::new(op, set)).collect()
}
