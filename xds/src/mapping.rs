//! JSON values to protobuf messages, keeping track of where each value stands.
//!
//! Levels are walked here, so that an unknown key or a bad value is reported with its path, `Any`s and
//! TypedStructs are resolved at any depth, and unknown keys may be downgraded to warnings. What a
//! single value means in protobuf's JSON mapping is prost-reflect's business alone.

use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MapKey,
    MessageDescriptor, Value,
};
use serde_json::{Map, Value as Json};

use crate::fault::{Found, Problem, Trail};

/// The messages configuration may hold, and how to read them. They are decoded when the first is asked
/// for: without management servers that is the start's business alone, and they take megabytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schema {
    pool: OnceLock<DescriptorPool>,
}

/// Findings that do not stop a load, in order.
pub(crate) type Warnings = Vec<Found>;

/// How a TypedStruct is called.
const TYPED_STRUCTS: [&str; 2] = ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"];

/// Extensions inside extensions; recursion ends here instead of at the end of the stack.
const NESTING_MAX: usize = 100;

impl Schema {
    fn pool(&self) -> &DescriptorPool {
        // tests/descriptors.rs proves that the file is what the protos compile to, and every test of a
        // load that it can be decoded.
        self.pool.get_or_init(|| {
            DescriptorPool::decode(DESCRIPTORS)
                .expect("the descriptor set is compiled in and known to decode")
        })
    }

    pub(crate) fn message(&self, full_name: &str) -> Option<MessageDescriptor> {
        self.pool().get_message_by_name(full_name)
    }

    /// Reads `json` as a message.
    pub(crate) fn read(
        &self,
        descriptor: &MessageDescriptor,
        json: Json,
        options: ReadOptions,
        warnings: &mut Warnings,
    ) -> Result<DynamicMessage, Found> {
        let mut reader = Reader { schema: self, options, warnings, depth: 0 };
        reader.message(descriptor, json, &Trail::default())
    }

    /// The message inside an `Any`: `None` if its type is not one of ours (U-06). TypedStructs are
    /// read as the type they name (U-07).
    pub(crate) fn unpack(
        &self,
        any: &DynamicMessage,
        at: &Trail,
        options: ReadOptions,
        warnings: &mut Warnings,
    ) -> Result<Option<(DynamicMessage, Trail)>, Found> {
        let type_url = string_field(any, "type_url");
        let bytes = match any.get_field_by_name("value").as_deref() {
            Some(Value::Bytes(bytes)) => bytes.clone(),
            _ => prost::bytes::Bytes::new(),
        };
        let Some(descriptor) = self.by_url(&type_url) else { return Ok(None) };
        let decode = |descriptor: MessageDescriptor| {
            DynamicMessage::decode(descriptor, bytes).map_err(|error| {
                Found::new(at.clone(), Problem::Type(format!("not a {type_url}: {error}")))
            })
        };
        if !TYPED_STRUCTS.contains(&descriptor.full_name()) {
            let inner = at.unpacked(descriptor.full_name());
            return decode(descriptor).map(|message| Some((message, inner)));
        }
        let typed_struct = decode(descriptor)?;
        let Some(descriptor) = self.by_url(&string_field(&typed_struct, "type_url")) else {
            return Ok(None);
        };
        let json = typed_struct
            .get_field_by_name("value")
            .and_then(|value| value.as_message().map(serde_json::to_value))
            .and_then(Result::ok)
            .unwrap_or_else(|| Json::Object(Map::new()));
        let inner = at.unpacked(descriptor.full_name());
        let mut reader = Reader { schema: self, options, warnings, depth: 0 };
        reader.message(&descriptor, json, &inner).map(|message| Some((message, inner)))
    }

    fn by_url(&self, type_url: &str) -> Option<MessageDescriptor> {
        self.pool().get_message_by_name(type_url.rsplit('/').next().unwrap_or(type_url))
    }
}

/// What an `Any` says it holds; for a TypedStruct what that says.
pub(crate) fn type_url(schema: &Schema, any: &DynamicMessage) -> String {
    let outer = string_field(any, "type_url");
    match (schema.by_url(&outer), any.get_field_by_name("value").as_deref()) {
        (Some(descriptor), Some(Value::Bytes(bytes)))
            if TYPED_STRUCTS.contains(&descriptor.full_name()) =>
        {
            DynamicMessage::decode(descriptor, bytes.clone())
                .map_or(outer, |inner| string_field(&inner, "type_url"))
        }
        _ => outer,
    }
}

fn string_field(message: &DynamicMessage, name: &str) -> String {
    message
        .get_field_by_name(name)
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// Choices of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadOptions {
    /// U-05: unknown keys are warnings.
    pub(crate) allow_unknown_keys: bool,
}

struct Reader<'a> {
    schema: &'a Schema,
    options: ReadOptions,
    warnings: &'a mut Warnings,
    depth: usize,
}

impl Reader<'_> {
    fn message(
        &mut self,
        descriptor: &MessageDescriptor,
        json: Json,
        at: &Trail,
    ) -> Result<DynamicMessage, Found> {
        let bad = |problem| Found::new(at.clone(), problem);
        if self.depth >= NESTING_MAX {
            return Err(bad(Problem::Invalid(format!("nested more than {NESTING_MAX} deep"))));
        }
        self.depth += 1;
        let message = match descriptor.full_name() {
            "google.protobuf.Any" => self.any(descriptor, json, at)?,
            name if name.starts_with("google.protobuf.") => leaf_message(descriptor, json, at)?,
            _ => self.fields(descriptor, json, at)?,
        };
        self.depth -= 1;
        Ok(message)
    }

    fn fields(
        &mut self,
        descriptor: &MessageDescriptor,
        json: Json,
        at: &Trail,
    ) -> Result<DynamicMessage, Found> {
        let Json::Object(members) = json else {
            let problem = Problem::Type(format!("expected an object, found {}", kind(&json)));
            return Err(Found::new(at.clone(), problem));
        };
        let mut message = DynamicMessage::new(descriptor.clone());
        for (key, json) in members {
            let field = descriptor
                .get_field_by_name(&key)
                .or_else(|| descriptor.get_field_by_json_name(&key));
            let Some(field) = field else {
                self.unknown_key(descriptor, &key, at)?;
                continue;
            };
            let at = at.field(field.name());
            if json.is_null() && !is_json_value(&field) {
                continue;
            }
            if let Some(oneof) = field.containing_oneof()
                && let Some(other) = oneof.fields().find(|other| message.has_field(other))
            {
                let problem = Problem::Invalid(format!("set together with {}", other.name()));
                return Err(Found::new(at, problem));
            }
            if message.has_field(&field) {
                return Err(Found::new(at, Problem::Invalid("is set twice".to_owned())));
            }
            let value = self.field(&field, json, &at)?;
            message.set_field(&field, value);
        }
        Ok(message)
    }

    fn field(&mut self, field: &FieldDescriptor, json: Json, at: &Trail) -> Result<Value, Found> {
        if field.is_map() {
            let Json::Object(members) = json else {
                let problem = Problem::Type(format!("expected a map, found {}", kind(&json)));
                return Err(Found::new(at.clone(), problem));
            };
            return self.map(field, members, at);
        }
        if field.is_list() {
            let Json::Array(items) = json else {
                let problem = Problem::Type(format!("expected a list, found {}", kind(&json)));
                return Err(Found::new(at.clone(), problem));
            };
            let mut list = Vec::with_capacity(items.len());
            for (index, item) in items.into_iter().enumerate() {
                let at = at.index(index);
                match field.kind() {
                    Kind::Message(inner) => {
                        list.push(Value::Message(self.message(&inner, item, &at)?));
                    }
                    kind => match leaf(field, Json::Array(vec![yaml_boolean(&kind, item)]), &at)? {
                        Value::List(items) => list.extend(items),
                        single => list.push(single),
                    },
                }
            }
            return Ok(Value::List(list));
        }
        match field.kind() {
            Kind::Message(inner) => self.message(&inner, json, at).map(Value::Message),
            kind => leaf(field, yaml_boolean(&kind, json), at),
        }
    }

    fn map(
        &mut self,
        field: &FieldDescriptor,
        members: Map<String, Json>,
        at: &Trail,
    ) -> Result<Value, Found> {
        let Kind::Message(entry) = field.kind() else { return leaf(field, members.into(), at) };
        let value_field = entry.map_entry_value_field();
        let mut map = std::collections::HashMap::new();
        for (key, json) in members {
            let at = at.key(&key);
            match value_field.kind() {
                // All maps of messages in the API have string keys.
                Kind::Message(inner) if entry.map_entry_key_field().kind() == Kind::String => {
                    let message = self.message(&inner, json, &at)?;
                    map.insert(MapKey::String(key), Value::Message(message));
                }
                _ => {
                    let single = Map::from_iter([(key, json)]);
                    if let Value::Map(entries) = leaf(field, Json::Object(single), &at)? {
                        map.extend(entries);
                    }
                }
            }
        }
        Ok(Value::Map(map))
    }

    /// An `Any` of a type we do not know is kept without its content: it is refused, or skipped as
    /// optional, before anybody could miss that.
    fn any(
        &mut self,
        descriptor: &MessageDescriptor,
        json: Json,
        at: &Trail,
    ) -> Result<DynamicMessage, Found> {
        let Json::Object(mut members) = json else {
            let problem = Problem::Type(format!("expected an object, found {}", kind(&json)));
            return Err(Found::new(at.clone(), problem));
        };
        let type_url = match members.remove("@type") {
            Some(Json::String(type_url)) if !type_url.is_empty() => type_url,
            Some(_) => {
                return Err(Found::new(
                    at.clone(),
                    Problem::Type("\"@type\" must be a type URL".to_owned()),
                ));
            }
            None => {
                return Err(Found::new(at.clone(), Problem::Type("has no \"@type\"".to_owned())));
            }
        };
        let mut any = DynamicMessage::new(descriptor.clone());
        if let Some(inner) = self.schema.by_url(&type_url) {
            let at = at.unpacked(inner.full_name());
            // The JSON of a well-known type is no object, so it stands under "value".
            let json = if inner.full_name().starts_with("google.protobuf.") {
                members.remove("value").unwrap_or_else(|| Json::Object(Map::new()))
            } else {
                Json::Object(members)
            };
            let message = self.message(&inner, json, &at)?;
            any.set_field_by_name("value", Value::Bytes(message.encode_to_vec().into()));
        }
        any.set_field_by_name("type_url", Value::String(type_url));
        Ok(any)
    }

    fn unknown_key(
        &mut self,
        descriptor: &MessageDescriptor,
        key: &str,
        at: &Trail,
    ) -> Result<(), Found> {
        let near = nearest(key, descriptor.fields().map(|field| field.name().to_owned()));
        let found = Found::new(at.field(key), Problem::UnknownKey { near });
        if self.options.allow_unknown_keys {
            self.warnings.push(found);
            Ok(())
        } else {
            Err(found)
        }
    }
}

/// One field's value, as prost-reflect reads it.
fn leaf(field: &FieldDescriptor, json: Json, at: &Trail) -> Result<Value, Found> {
    let single = Map::from_iter([(field.name().to_owned(), json)]);
    let message = leaf_message(field.parent_message(), Json::Object(single), at)?;
    Ok(message.get_field(field).into_owned())
}

fn leaf_message(
    descriptor: &MessageDescriptor,
    json: Json,
    at: &Trail,
) -> Result<DynamicMessage, Found> {
    let json = match descriptor.full_name() {
        "google.protobuf.BoolValue" => yaml_boolean(&Kind::Bool, json),
        _ => json,
    };
    DynamicMessage::deserialize_with_options(descriptor.clone(), json, &DeserializeOptions::new())
        .map_err(|error| Found::new(at.clone(), Problem::Type(error.to_string())))
}

/// YAML 1.1 spelled booleans in more ways, and Envoy's reader still takes them.
fn yaml_boolean(kind: &Kind, json: Json) -> Json {
    match (kind, &json) {
        (Kind::Bool, Json::String(text)) => match text.to_ascii_lowercase().as_str() {
            "y" | "yes" | "on" | "true" => Json::Bool(true),
            "n" | "no" | "off" | "false" => Json::Bool(false),
            _ => json,
        },
        _ => json,
    }
}

/// Fields whose JSON may be `null` and mean it.
fn is_json_value(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(inner) if inner.full_name() == "google.protobuf.Value")
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "nothing",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

/// `lower_snake` to `lowerCamel`, as protobuf's JSON mapping does.
pub(crate) fn json_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else if upper {
            out.push(c.to_ascii_uppercase());
            upper = false;
        } else {
            out.push(c);
        }
    }
    out
}

/// The candidate closest to `key`, if at most a third of it has to change.
pub(crate) fn nearest(key: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let limit = (key.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (edits(key, &candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

const DESCRIPTORS: &[u8] = include_bytes!("../descriptors/envoy.bin");
