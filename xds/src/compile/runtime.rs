//! The static layers of the runtime: values that override defaults by key (U-12).

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::compile::as_u32;
use crate::fault::Found;
use crate::snapshot::Fraction;
use crate::view::View;

/// Key to value, later layers having won.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runtime {
    values: HashMap<String, Json>,
}

impl Runtime {
    /// LayeredRuntime. An admin layer is there to be changed through an admin interface that we do not
    /// offer, so it is always empty.
    pub(crate) fn compile(layered: &View<'_>) -> Result<Runtime, Found> {
        let mut runtime = Runtime::default();
        let mut names = Vec::new();
        for layer in layered.messages("layers") {
            let name = layer.required_text("name")?;
            if names.contains(&name) {
                return Err(layer.invalid("name", format!("{name:?} is used twice")));
            }
            names.push(name);
            layer.required_which("layer_specifier", &["static_layer", "admin_layer"])?;
            if let Some(Json::Object(members)) = layer.json("static_layer") {
                for (key, value) in members {
                    runtime.add(key, value);
                }
            }
        }
        Ok(runtime)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Json> {
        self.values.get(key)
    }

    /// Nested maps make dotted keys, except for fractions.
    fn add(&mut self, key: String, value: Json) {
        match value {
            Json::Object(members) if !members.contains_key("numerator") => {
                for (inner, value) in members {
                    self.add(format!("{key}.{inner}"), value);
                }
            }
            value => {
                self.values.insert(key, value);
            }
        }
    }
}

/// A fraction, or a whole number of percent.
pub(crate) fn as_fraction(value: &Json) -> Option<Fraction> {
    let Json::Object(members) = value else {
        let numerator = as_u32(value)?.min(100);
        return Some(Fraction { numerator, denominator: 100 });
    };
    let denominator = match members.get("denominator").and_then(Json::as_str) {
        None | Some("HUNDRED") => 100,
        Some("TEN_THOUSAND") => 10_000,
        Some("MILLION") => 1_000_000,
        Some(_) => return None,
    };
    let numerator = as_u32(members.get("numerator")?)?.min(denominator);
    Some(Fraction { numerator, denominator })
}
