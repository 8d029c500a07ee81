//! The runtime: values that override defaults by key (U-12), in layers of which later ones win.
//!
//! What a configuration reads of it when it is compiled stays as it was. Fractions are read when they
//! are used, so that a layer may change them at any time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value as Json;

use crate::compile::config_source::{self, Sources};
use crate::compile::disk_layer::DiskLayer;
use crate::compile::{as_u32, invalid};
use crate::fault::Found;
use crate::snapshot::{ConfigSource, Fraction, RuntimeCell, RuntimeFraction};
use crate::view::View;

/// The layers and what is read of them. Shared: there is one in a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runtime {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    layers: Vec<Layer>,
    /// Fractions that configurations read, by key; one that nobody reads any more is forgotten.
    cells: HashMap<String, Arc<RuntimeCell>>,
    /// What is wrong with layers on disk, and was not told yet.
    remarks: Vec<String>,
}

#[derive(Debug)]
struct Layer {
    name: String,
    values: HashMap<String, Json>,
    /// It is changed by the admin interface.
    is_admin: bool,
    /// Where it comes from, if it is not from the file.
    source: Option<ConfigSource>,
    disk: Option<DiskLayer>,
}

impl Runtime {
    /// LayeredRuntime; `cluster` is the node's.
    pub(crate) fn compile(
        layered: &View<'_>,
        sources: &Sources,
        cluster: &str,
    ) -> Result<Runtime, Found> {
        let mut layers: Vec<Layer> = Vec::new();
        for layer in layered.messages("layers") {
            let name = layer.required_text("name")?;
            if layers.iter().any(|known| known.name == name) {
                return Err(layer.invalid("name", format!("{name:?} is used twice")));
            }
            let kinds = ["static_layer", "disk_layer", "admin_layer", "rtds_layer"];
            layer.required_which("layer_specifier", &kinds)?;
            let mut values = HashMap::new();
            if let Some(Json::Object(members)) = layer.json("static_layer") {
                members.into_iter().for_each(|(key, value)| add(&mut values, key, value));
            }
            let (mut name, mut source) = (name.to_owned(), None);
            if let Some(rtds) = layer.message("rtds_layer") {
                name = rtds.required_text("name")?.to_owned();
                let Some(config) = rtds.message("rtds_config") else {
                    return Err(rtds.required("rtds_config"));
                };
                source = Some(config_source::compile(&config, sources)?);
                if layers.iter().any(|known| known.source.is_some() && known.name == name) {
                    return Err(invalid(rtds.at("name"), format!("{name:?} is used twice")));
                }
            }
            let is_admin = layer.has("admin_layer");
            if is_admin && layers.iter().any(|known| known.is_admin) {
                return Err(layer.invalid("admin_layer", "there may be one only"));
            }
            let disk = layer.message("disk_layer");
            let disk = disk.map(|disk| DiskLayer::compile(&disk, cluster)).transpose()?;
            layers.push(Layer { name, values, is_admin, source, disk });
        }
        let state = State { layers, ..State::default() };
        let runtime = Runtime { state: Arc::new(Mutex::new(state)) };
        runtime.refresh();
        Ok(runtime)
    }

    /// Reads layers on disk that are others than they were.
    pub(crate) fn refresh(&self) {
        let state = &mut *self.lock();
        let mut any = false;
        for layer in &mut state.layers {
            match layer.disk.as_mut().and_then(DiskLayer::refresh) {
                None => {}
                Some(Ok(values)) => {
                    layer.values = values;
                    any = true;
                }
                Some(Err(error)) => {
                    let name = &layer.name;
                    state.remarks.push(format!("runtime layer {name} stays as it was: {error}"));
                }
            }
        }
        if any {
            state.follow();
        }
    }

    /// What was wrong with layers on disk since this was last asked.
    pub(crate) fn take_remarks(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().remarks)
    }

    /// Whether there are layers on disk.
    pub(crate) fn has_disk(&self) -> bool {
        self.lock().layers.iter().any(|layer| layer.disk.is_some())
    }

    /// The value of a key now.
    pub(crate) fn get(&self, key: &str) -> Option<Json> {
        self.lock().get(key).cloned()
    }

    /// A fraction that follows its key, if it has one.
    pub(crate) fn fraction(&self, key: &str, default: Fraction) -> RuntimeFraction {
        if key.is_empty() {
            return RuntimeFraction::fixed(default);
        }
        let mut state = self.lock();
        let value = state.get(key).and_then(as_fraction);
        let cell = match state.cells.get(key) {
            Some(cell) => Arc::clone(cell),
            None => {
                state.cells.retain(|_, cell| Arc::strong_count(cell) > 1);
                let cell = Arc::new(RuntimeCell::new(value));
                state.cells.insert(key.to_owned(), Arc::clone(&cell));
                cell
            }
        };
        RuntimeFraction::following(default, cell)
    }

    /// The layers that servers give, and which.
    pub(crate) fn sources(&self) -> Vec<(String, ConfigSource)> {
        let state = self.lock();
        let layers = state.layers.iter();
        layers.filter_map(|layer| Some((layer.name.clone(), layer.source.clone()?))).collect()
    }

    /// Replaces what a server gave of a layer: `None` takes it away.
    pub(crate) fn set_layer(&self, name: &str, content: Option<Json>) {
        let mut values = HashMap::new();
        if let Some(Json::Object(members)) = content {
            members.into_iter().for_each(|(key, value)| add(&mut values, key, value));
        }
        let mut state = self.lock();
        let is_meant = |layer: &&mut Layer| layer.source.is_some() && layer.name == name;
        if let Some(layer) = state.layers.iter_mut().find(is_meant) {
            layer.values = values;
        }
        state.follow();
    }

    /// Each layer's name and values.
    pub(crate) fn layers(&self) -> Vec<(String, BTreeMap<String, Json>)> {
        let values = |layer: &Layer| {
            layer.values.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        self.lock().layers.iter().map(|layer| (layer.name.clone(), values(layer))).collect()
    }

    /// Sets values of the admin layer, if there is one; an empty one is taken away.
    pub(crate) fn modify(&self, values: &[(String, String)]) -> bool {
        let mut state = self.lock();
        let Some(layer) = state.layers.iter_mut().find(|layer| layer.is_admin) else {
            return false;
        };
        for (key, value) in values {
            if value.is_empty() {
                layer.values.remove(key);
            } else {
                let json = serde_json::from_str(value);
                let json = json.unwrap_or_else(|_| Json::String(value.clone()));
                layer.values.insert(key.clone(), json);
            }
        }
        state.follow();
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn get(&self, key: &str) -> Option<&Json> {
        self.layers.iter().rev().find_map(|layer| layer.values.get(key))
    }

    /// Has what reads fractions know what they are now.
    fn follow(&self) {
        for (key, cell) in &self.cells {
            cell.set(self.get(key).and_then(as_fraction));
        }
    }
}

/// Nested maps make dotted keys, except for fractions.
fn add(values: &mut HashMap<String, Json>, key: String, value: Json) {
    match value {
        Json::Object(members) if !members.contains_key("numerator") => {
            for (inner, value) in members {
                add(values, format!("{key}.{inner}"), value);
            }
        }
        value => {
            values.insert(key, value);
        }
    }
}

/// A fraction, or a whole number of percent.
fn as_fraction(value: &Json) -> Option<Fraction> {
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
