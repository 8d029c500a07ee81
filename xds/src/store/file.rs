//! Files of resources (path_config_source): what a DiscoveryResponse would hold, as JSON or YAML.

use std::path::Path;
use std::sync::Arc;

use prost::Message;
use prost_reflect::ReflectMessage;

use crate::bootstrap::Source;
use crate::client::ResourceType;
use crate::mapping::ReadOptions;
use crate::source;
use crate::view::View;

use super::{Incoming, Store};

/// What a file holds.
#[derive(Debug, Clone, Default)]
pub struct FileContent {
    /// `version_info`, else empty.
    pub version: Arc<str>,
    /// Its resources, each with its type.
    pub resources: Vec<(ResourceType, Incoming)>,
}

impl Store {
    /// Reads a file of resources. They are not looked at yet.
    ///
    /// # Errors
    /// Why it can't be read, or is no such file.
    pub fn read_file(&self, path: &Path) -> Result<FileContent, String> {
        let source = Source::file(path).map_err(|error| error.to_string())?;
        let [text] = &source.texts[..] else { return Err("holds nothing".to_owned()) };
        let json = source::parse(text).map_err(|error| error.to_string())?;
        let descriptor = self.schema.message(DISCOVERY_RESPONSE).ok_or("no such message")?;
        let options = ReadOptions { allow_unknown_keys: self.options.allow_unknown_keys };
        let message = self
            .schema
            .read(&descriptor, json, options, &mut Vec::new())
            .map_err(|found| super::decode::text(&found))?;
        let view = View::new(&message, &self.schema);
        let version: Arc<str> = view.text("version_info").into();
        let mut resources = Vec::new();
        for any in view.messages("resources") {
            let unpacked = any.unpack_self().map_err(|found| super::decode::text(&found))?;
            let unpacked = unpacked.ok_or("holds a resource of a type that is not known")?;
            let kind = unpacked.kind();
            let kind = ResourceType::of_url(&kind).ok_or_else(|| format!("holds a {kind}"))?;
            let message = unpacked.view(&self.schema);
            let message = message.raw();
            // The name is the first field of each of them.
            let name = message.descriptor().get_field(1).map(|field| message.get_field(&field));
            let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or_default();
            resources.push((
                kind,
                Incoming {
                    name: name.into(),
                    version: Arc::clone(&version),
                    aliases: Box::default(),
                    content: message.encode_to_vec().into(),
                },
            ));
        }
        Ok(FileContent { version, resources })
    }
}

const DISCOVERY_RESPONSE: &str = "envoy.service.discovery.v3.DiscoveryResponse";
