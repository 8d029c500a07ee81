//! A number for a message's content that does not depend on how a server orders maps.
//!
//! Two messages of one fingerprint are taken for the same, so it has 128 bits: servers that are not
//! trusted with the configuration are not asked for it.

use std::hash::{DefaultHasher, Hasher};

use prost_reflect::{DynamicMessage, Value};

use crate::support::map_key;

/// What a message says, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64, u64);

impl Fingerprint {
    /// The fingerprint of a message without its fields `except`.
    pub(crate) fn of(message: &DynamicMessage, except: &[&str]) -> Fingerprint {
        let mut sum = Sum::default();
        sum.message(message, except);
        Fingerprint(sum.0.finish(), sum.1.finish())
    }
}

struct Sum(DefaultHasher, DefaultHasher);

impl Default for Sum {
    fn default() -> Sum {
        let mut second = DefaultHasher::new();
        second.write_u64(u64::MAX);
        Sum(DefaultHasher::new(), second)
    }
}

impl Sum {
    fn bytes(&mut self, bytes: &[u8]) {
        for hasher in [&mut self.0, &mut self.1] {
            // Lengths keep neighbours apart.
            hasher.write_usize(bytes.len());
            hasher.write(bytes);
        }
    }

    fn number(&mut self, number: u64) {
        self.0.write_u64(number);
        self.1.write_u64(number);
    }

    fn message(&mut self, message: &DynamicMessage, except: &[&str]) {
        let mut fields: Vec<_> =
            message.fields().filter(|(field, _)| !except.contains(&field.name())).collect();
        fields.sort_by_key(|(field, _)| field.number());
        self.number(fields.len() as u64);
        for (field, value) in fields {
            self.number(field.number().into());
            self.value(value);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Bool(value) => self.number((*value).into()),
            Value::I32(value) | Value::EnumNumber(value) => self.number(i64::from(*value) as u64),
            Value::I64(value) => self.number(*value as u64),
            Value::U32(value) => self.number((*value).into()),
            Value::U64(value) => self.number(*value),
            Value::F32(value) => self.number(value.to_bits().into()),
            Value::F64(value) => self.number(value.to_bits()),
            Value::String(text) => self.bytes(text.as_bytes()),
            Value::Bytes(bytes) => self.bytes(bytes),
            Value::Message(message) => self.message(message, &[]),
            Value::List(items) => {
                self.number(items.len() as u64);
                items.iter().for_each(|item| self.value(item));
            }
            Value::Map(entries) => {
                let mut entries: Vec<_> =
                    entries.iter().map(|(key, value)| (map_key(key), value)).collect();
                entries.sort_by(|one, other| one.0.cmp(&other.0));
                self.number(entries.len() as u64);
                for (key, value) in entries {
                    self.bytes(key.as_bytes());
                    self.value(value);
                }
            }
        }
    }
}
