//! Reading a message field by field, with the path at hand for every complaint.

use std::time::Duration;

use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use serde_json::Value as Json;

use crate::fault::{Found, Problem, Trail};
use crate::mapping::{ReadOptions, Schema};
use crate::support;

/// A message and where it is.
#[derive(Clone)]
pub(crate) struct View<'a> {
    message: &'a DynamicMessage,
    trail: Trail,
    schema: &'a Schema,
}

/// A message that came out of an `Any`.
pub(crate) struct Unpacked {
    message: DynamicMessage,
    trail: Trail,
}

impl Unpacked {
    pub(crate) fn view<'a>(&'a self, schema: &'a Schema) -> View<'a> {
        View { message: &self.message, trail: self.trail.clone(), schema }
    }

    /// Where it is.
    pub(crate) fn at(&self) -> Trail {
        self.trail.clone()
    }

    /// Full name of its type.
    pub(crate) fn kind(&self) -> String {
        self.message.descriptor().full_name().to_owned()
    }

    pub(crate) fn refuse(&self) -> Found {
        let kind = self.kind();
        Found::new(self.trail.clone(), Problem::UnknownExtension(kind))
    }
}

impl<'a> View<'a> {
    pub(crate) fn new(message: &'a DynamicMessage, schema: &'a Schema) -> View<'a> {
        View { message, trail: Trail::default(), schema }
    }

    pub(crate) fn schema(&self) -> &'a Schema {
        self.schema
    }

    pub(crate) fn at(&self, field: &str) -> Trail {
        self.trail.field(field)
    }

    /// Where the message is, as messages name it.
    pub(crate) fn path(&self) -> String {
        self.trail.path().to_string()
    }

    pub(crate) fn raw(&self) -> &'a DynamicMessage {
        self.message
    }

    /// A complaint about the message itself.
    pub(crate) fn fault(&self, problem: Problem) -> Found {
        Found::new(self.trail.clone(), problem)
    }

    /// A complaint about one of its fields.
    pub(crate) fn invalid(&self, field: &str, text: impl Into<String>) -> Found {
        Found::new(self.at(field), Problem::Invalid(text.into()))
    }

    pub(crate) fn required(&self, field: &str) -> Found {
        Found::new(self.at(field), Problem::Required)
    }

    /// Refuses fields that the message type supports elsewhere, but not here.
    pub(crate) fn refuse(&self, fields: &[&str]) -> Result<(), Found> {
        match fields.iter().find(|field| self.has(field)) {
            Some(field) => Err(Found::new(self.at(field), Problem::NotSupported)),
            None => Ok(()),
        }
    }

    pub(crate) fn has(&self, field: &str) -> bool {
        self.get(field).is_some()
    }

    /// The value of a field that is set.
    fn get(&self, field: &str) -> Option<&'a Value> {
        let descriptor = self.message.descriptor().get_field_by_name(field);
        debug_assert!(
            descriptor.is_some(),
            "{} has no {field}",
            self.message.descriptor().full_name()
        );
        match self.message.get_field(&descriptor?) {
            std::borrow::Cow::Borrowed(value) => Some(value),
            std::borrow::Cow::Owned(_) => None,
        }
    }

    pub(crate) fn text(&self, field: &str) -> &'a str {
        self.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn required_text(&self, field: &str) -> Result<&'a str, Found> {
        Some(self.text(field)).filter(|text| !text.is_empty()).ok_or_else(|| self.required(field))
    }

    pub(crate) fn optional_text(&self, field: &str) -> Option<&'a str> {
        Some(self.text(field)).filter(|text| !text.is_empty())
    }

    pub(crate) fn bytes(&self, field: &str) -> &'a [u8] {
        self.get(field).and_then(Value::as_bytes).map_or(&[], |bytes| &bytes[..])
    }

    pub(crate) fn flag(&self, field: &str) -> bool {
        self.get(field).and_then(Value::as_bool).unwrap_or(false)
    }

    pub(crate) fn u32(&self, field: &str) -> u32 {
        self.get(field).and_then(Value::as_u32).unwrap_or(0)
    }

    pub(crate) fn i32(&self, field: &str) -> i32 {
        self.get(field).and_then(Value::as_i32).unwrap_or(0)
    }

    pub(crate) fn i64(&self, field: &str) -> i64 {
        self.get(field).and_then(Value::as_i64).unwrap_or(0)
    }

    pub(crate) fn f64(&self, field: &str) -> f64 {
        self.get(field).and_then(Value::as_f64).unwrap_or(0.0)
    }

    /// UInt32Value.
    pub(crate) fn wrapped_u32(&self, field: &str) -> Option<u32> {
        self.message(field).map(|wrapper| wrapper.u32("value"))
    }

    /// UInt64Value.
    pub(crate) fn wrapped_u64(&self, field: &str) -> Option<u64> {
        self.message(field)?.get("value").map_or(Some(0), Value::as_u64)
    }

    /// UInt32Value that has to be above zero when it is set.
    pub(crate) fn positive(&self, field: &str) -> Result<Option<u32>, Found> {
        match self.wrapped_u32(field) {
            Some(0) => Err(self.invalid(field, "must be at least 1")),
            value => Ok(value),
        }
    }

    /// BoolValue.
    pub(crate) fn wrapped_flag(&self, field: &str) -> Option<bool> {
        self.message(field).map(|wrapper| wrapper.flag("value"))
    }

    /// Duration, zero included.
    pub(crate) fn duration(&self, field: &str) -> Result<Option<Duration>, Found> {
        let Some(value) = self.message(field) else { return Ok(None) };
        let nanos = value.get("nanos").and_then(Value::as_i32).unwrap_or(0);
        match (u64::try_from(value.i64("seconds")), u32::try_from(nanos)) {
            (Ok(seconds), Ok(nanos)) if seconds <= SECONDS_MAX && nanos < 1_000_000_000 => {
                Ok(Some(Duration::new(seconds, nanos)))
            }
            (Ok(_), Ok(_)) => {
                Err(self.invalid(field, format!("must be at most {SECONDS_MAX} seconds")))
            }
            _ => Err(self.invalid(field, "must not be negative")),
        }
    }

    /// Duration for which zero means "none"; `default` when it is not set.
    pub(crate) fn timeout(
        &self,
        field: &str,
        default: Option<Duration>,
    ) -> Result<Option<Duration>, Found> {
        let timeout = self.duration(field)?.map_or(default, Some);
        Ok(timeout.filter(|timeout| !timeout.is_zero()))
    }

    /// Duration that has to be above zero when it is set.
    pub(crate) fn positive_duration(&self, field: &str) -> Result<Option<Duration>, Found> {
        match self.duration(field)? {
            Some(Duration::ZERO) => Err(self.invalid(field, "must be above zero")),
            duration => Ok(duration),
        }
    }

    /// Percent, 0..=100.
    pub(crate) fn percent(&self, field: &str) -> Result<Option<f64>, Found> {
        match self.message(field).map(|percent| percent.f64("value")) {
            Some(value) if !(0.0..=100.0).contains(&value) => {
                Err(self.invalid(field, "must be from 0 to 100"))
            }
            value => Ok(value),
        }
    }

    /// Name of an enum's value, the default included.
    pub(crate) fn choice(&self, field: &str) -> Result<String, Found> {
        let Some(descriptor) = self.message.descriptor().get_field_by_name(field) else {
            debug_assert!(false, "{} has no {field}", self.message.descriptor().full_name());
            return Ok(String::new());
        };
        let number = self.message.get_field(&descriptor).as_enum_number().unwrap_or(0);
        let name = descriptor
            .kind()
            .as_enum()
            .and_then(|kind| kind.get_value(number).map(|value| value.name().to_owned()));
        name.ok_or_else(|| {
            Found::new(self.at(field), Problem::UnsupportedValue(format!("enum value {number}")))
        })
    }

    /// Names of a repeated enum's values with their places.
    pub(crate) fn choices(&self, field: &str) -> Result<Vec<(String, Trail)>, Found> {
        let Some(descriptor) = self.message.descriptor().get_field_by_name(field) else {
            debug_assert!(false, "{} has no {field}", self.message.descriptor().full_name());
            return Ok(Vec::new());
        };
        let kind = descriptor.kind();
        let list = self.get(field).and_then(Value::as_list).unwrap_or_default();
        let at = self.at(field);
        let named = |(index, item): (usize, &Value)| {
            let number = item.as_enum_number().unwrap_or(0);
            let name = kind
                .as_enum()
                .and_then(|kind| kind.get_value(number).map(|value| value.name().to_owned()));
            let at = at.index(index);
            match name {
                Some(name) => Ok((name, at)),
                None => {
                    let text = format!("enum value {number}");
                    Err(Found::new(at, Problem::UnsupportedValue(text)))
                }
            }
        };
        list.iter().enumerate().map(named).collect()
    }

    /// U-09: an enum value that we do not implement.
    pub(crate) fn unsupported(&self, field: &str, value: &str) -> Found {
        Found::new(self.at(field), Problem::UnsupportedValue(value.to_owned()))
    }

    /// A message field, if it is set.
    pub(crate) fn message(&self, field: &str) -> Option<View<'a>> {
        let message = self.get(field)?.as_message()?;
        Some(View { message, trail: self.at(field), schema: self.schema })
    }

    /// Elements of a repeated message field.
    pub(crate) fn messages(&self, field: &str) -> Vec<View<'a>> {
        let list = self.get(field).and_then(Value::as_list).unwrap_or_default();
        let at = self.at(field);
        let view = |(index, item): (usize, &'a Value)| {
            let message = item.as_message()?;
            Some(View { message, trail: at.index(index), schema: self.schema })
        };
        list.iter().enumerate().filter_map(view).collect()
    }

    /// Elements of a repeated text field with their places.
    pub(crate) fn texts(&self, field: &str) -> Vec<(&'a str, Trail)> {
        let list = self.get(field).and_then(Value::as_list).unwrap_or_default();
        let at = self.at(field);
        list.iter()
            .enumerate()
            .filter_map(|(index, item)| Some((item.as_str()?, at.index(index))))
            .collect()
    }

    /// Elements of a repeated number field with their places.
    pub(crate) fn u32s(&self, field: &str) -> Vec<(u32, Trail)> {
        let list = self.get(field).and_then(Value::as_list).unwrap_or_default();
        let at = self.at(field);
        list.iter()
            .enumerate()
            .filter_map(|(index, item)| Some((item.as_u32()?, at.index(index))))
            .collect()
    }

    /// Elements of a repeated field of fractions.
    pub(crate) fn f64s(&self, field: &str) -> Vec<f64> {
        let list = self.get(field).and_then(Value::as_list).unwrap_or_default();
        list.iter().filter_map(Value::as_f64).collect()
    }

    /// Entries of a map of messages, by key.
    pub(crate) fn entries(&self, field: &str) -> Vec<(String, View<'a>)> {
        let Some(map) = self.get(field).and_then(Value::as_map) else { return Vec::new() };
        let mut entries: Vec<_> = map
            .iter()
            .filter_map(|(key, value)| {
                let key = support::map_key(key);
                let trail = self.at(field).key(&key);
                Some((key, View { message: value.as_message()?, trail, schema: self.schema }))
            })
            .collect();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries
    }

    /// Which member of a oneof is set.
    pub(crate) fn which(&self, fields: &[&'static str]) -> Option<&'static str> {
        fields.iter().copied().find(|field| self.has(field))
    }

    /// As [`View::which`] for a oneof that has to be set; `name` is for the complaint.
    pub(crate) fn required_which(
        &self,
        name: &str,
        fields: &[&'static str],
    ) -> Result<&'static str, Found> {
        self.which(fields).ok_or_else(|| self.required(name))
    }

    /// The JSON of a Struct or of any other message.
    pub(crate) fn json(&self, field: &str) -> Option<Json> {
        serde_json::to_value(self.get(field)?.as_message()?).ok()
    }

    /// The JSON of the message itself.
    pub(crate) fn own_json(&self) -> Option<Json> {
        serde_json::to_value(self.message).ok()
    }

    /// What metadata holds, by filter name (U-13).
    pub(crate) fn metadata(&self) -> Option<std::sync::Arc<Json>> {
        let metadata = self.message("metadata")?;
        let structs = metadata.entries("filter_metadata").into_iter().filter_map(|(key, value)| {
            serde_json::to_value(value.message).ok().map(|json| (key, json))
        });
        Some(std::sync::Arc::new(Json::Object(structs.collect())))
    }

    /// What is inside a set `Any` field: `None` if it is of an unknown type (the review has let it
    /// pass as optional).
    pub(crate) fn unpack(&self, field: &str) -> Result<Option<Unpacked>, Found> {
        let Some(any) = self.message(field) else { return Err(self.required(field)) };
        any.unpack_self()
    }

    /// As [`View::unpack`], for a view that is an `Any`.
    pub(crate) fn unpack_self(&self) -> Result<Option<Unpacked>, Found> {
        // The review has unpacked it before and kept the warnings.
        let options = ReadOptions { allow_unknown_keys: true };
        let unpacked = self.schema.unpack(self.message, &self.trail, options, &mut Vec::new())?;
        Ok(unpacked
            .map(|(message, trail)| Unpacked { message, trail })
            .filter(|inner| support::is_known(inner.message.descriptor().full_name())))
    }
}

/// Protobuf's own bound: about 10,000 years.
const SECONDS_MAX: u64 = 315_576_000_000;
