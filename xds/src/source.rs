//! Text to a tree of JSON values, and places in the text.
//!
//! The tree carries no positions: they are needed for errors only, and then the text is read again
//! with them (`locate`). So a good file costs no more memory than its values.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;
use thiserror::Error;

use crate::fault::Segment;

/// How a configuration is written. JSON is YAML too, but its strings have escapes YAML reads otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2.
    Yaml,
    /// JSON.
    Json,
}

impl Format {
    /// A name that ends in `.json` is JSON, every other YAML.
    #[must_use]
    pub fn of(path: &Path) -> Format {
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("json") => Format::Json,
            _ => Format::Yaml,
        }
    }
}

/// One configuration text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// For messages: a file name, or the option that gave it.
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) format: Format,
}

/// A place in a configuration text. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// File name, or the option that gave the text.
    pub source: String,
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source, self.line, self.column)
    }
}

/// Text that is not what it says it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SyntaxError {
    /// Not YAML or JSON.
    #[error("{position}: {message}")]
    Syntax {
        /// Where the parser stopped.
        position: Position,
        /// What it says.
        message: String,
    },
    /// Larger than [`TEXT_BYTES_MAX`].
    #[error("{}: larger than {TEXT_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// A configuration this large is a mistake, such as a log file or a device.
pub const TEXT_BYTES_MAX: u64 = 64 << 20;

/// Reads a text as values: JSON where its name ends in `.json`, else YAML.
///
/// # Errors
/// When it is neither.
pub fn values(name: &str, text: &str) -> Result<Value, SyntaxError> {
    let format = Format::of(name.as_ref());
    parse(&Text { name: name.to_owned(), text: text.to_owned(), format })
}

/// Reads the text as values.
pub(crate) fn parse(source: &Text) -> Result<Value, SyntaxError> {
    let position = |line, column| Position { source: source.name.clone(), line, column };
    match source.format {
        Format::Json => serde_json::from_str(&source.text).map_err(|error| SyntaxError::Syntax {
            position: position(error.line() as u64, error.column() as u64),
            message: without_position(&error.to_string()),
        }),
        Format::Yaml => {
            serde_saphyr::from_str_with_options(&source.text, yaml_options()).map_err(|error| {
                let (line, column) =
                    error.location().map_or((1, 1), |at| (at.line().max(1), at.column().max(1)));
                SyntaxError::Syntax {
                    position: position(line, column),
                    message: without_position(&error.without_snippet().to_string()),
                }
            })
        }
    }
}

/// Both parsers put the position into their messages; we write it in front.
fn without_position(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

/// Where the field at `path` is in the text, or the nearest node around it; and whether it is the
/// field itself.
pub(crate) fn locate(source: &Text, path: &[Segment]) -> Option<(Position, bool)> {
    // JSON as YAML: good enough for places, and an odd escape only costs the place.
    let root: Spanned<Node> =
        serde_saphyr::from_str_with_options(&source.text, yaml_options()).ok()?;
    let mut best = root.referenced;
    let mut node = &root.value;
    let mut complete = true;
    for segment in path {
        let next = match (segment, node) {
            (Segment::Field(name), Node::Map(entries)) => {
                member(entries, |key| key == &**name || crate::mapping::json_name(name) == key)
            }
            (Segment::Key(name), Node::Map(entries)) => member(entries, |key| key == &**name),
            (Segment::Index(index), Node::List(items)) => {
                items.get(*index).map(|item| (item.referenced, &item.value))
            }
            // The type's fields stand beside "@type", except in a TypedStruct and in well-known types.
            (Segment::Unpacked(_), Node::Map(entries)) => {
                let typed_struct = member(entries, |key| key == "@type").is_some_and(
                    |(_, kind)| matches!(kind, Node::Text(kind) if kind.ends_with(".TypedStruct")),
                );
                if !typed_struct {
                    continue;
                }
                member(entries, |key| key == "value")
            }
            _ => None,
        };
        let Some((location, inner)) = next else {
            complete = false;
            break;
        };
        best = location;
        node = inner;
    }
    let (line, column) = (best.line().max(1), best.column().max(1));
    Some((Position { source: source.name.clone(), line, column }, complete))
}

fn member(
    entries: &[(Spanned<String>, Spanned<Node>)],
    wanted: impl Fn(&str) -> bool,
) -> Option<(serde_saphyr::Location, &Node)> {
    entries
        .iter()
        .find(|(key, _)| wanted(&key.value))
        .map(|(key, value)| (key.referenced, &value.value))
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // As the reader that Envoy uses: `mode: 0644` is octal.
        legacy_octal_numbers: true,
        // Only `true` and `false` are booleans of YAML 1.2; a cluster may be called `y`. Boolean fields
        // take the older spellings all the same.
        strict_booleans: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: EVENTS_MAX,
            max_nodes: EVENTS_MAX,
            max_depth: DEPTH_MAX,
        },
    }
}

/// Parse events (a key, a value, a start, an end): some hundred thousand routes.
const EVENTS_MAX: usize = 20_000_000;

/// Far deeper than any message of the configuration nests.
const DEPTH_MAX: usize = 128;

/// A value that remembers where its parts are written.
enum Node {
    Text(String),
    Other,
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}
