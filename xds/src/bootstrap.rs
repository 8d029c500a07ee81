//! Loading a configuration: an Envoy v3 bootstrap plus our `engine:` section, to a [`Snapshot`].
//!
//! A load either returns everything a process needs to serve, or every reason (up to a bound) why it
//! cannot, each with its place. Nothing of protobuf outlives the call.

use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use prost_reflect::{DynamicMessage, Value};
use serde_json::{Map, Value as Json, json};
use thiserror::Error;

use crate::compile::bootstrap::{self as compile, Complaint};
use crate::compile::{Note, cluster};
use crate::dump;
use crate::engine_config::EngineConfig;
use crate::environment::EnvironmentError;
use crate::fault::{Fault, FieldPath, Found, Problem, Resource, Segment, Trail};
use crate::mapping::{ReadOptions, Schema, Warnings, nearest};
use crate::process_config::ProcessConfig;
use crate::snapshot::access_log::AccessLog;
use crate::snapshot::{Address, Cluster, Snapshot, StringMatcher};
use crate::source::{self, Format, SyntaxError, TEXT_BYTES_MAX, Text};
use crate::store::Ground;

/// Where a configuration comes from: one text, or a text and another merged onto it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub(crate) texts: Vec<Text>,
}

/// Choices of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// U-05: keys that no message has are warnings.
    pub allow_unknown_static_fields: bool,
    /// Replaces `engine.shards`.
    pub concurrency: Option<u32>,
    /// Replaces `node.cluster`.
    pub service_cluster: Option<String>,
    /// Replaces `node.id`.
    pub service_node: Option<String>,
    /// Replaces `node.locality.zone`.
    pub service_zone: Option<String>,
}

/// A configuration that can be served.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The `engine:` section, defaults filled in.
    pub engine: EngineConfig,
    /// Listeners, routes, clusters.
    pub snapshot: Snapshot,
    /// What resources of management servers are compiled against.
    pub ground: Ground,
    /// The settings of service clusters, for [`Snapshot::with_services`].
    pub service_template: Arc<Cluster>,
    /// The admin server; `None`: there is to be none.
    pub admin: Option<Admin>,
    /// Who we are.
    pub node: Node,
    /// The process's log, statistics and limits.
    pub process: ProcessConfig,
    /// To be logged, at info.
    pub warnings: Vec<Warning>,
    /// The bootstrap as JSON with proto field names, for `/config_dump`.
    pub config_dump: String,
}

/// The admin server. It is never one of those whose connections are limited.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where it listens.
    pub address: Address,
    /// Written once per request.
    pub access_log: Vec<Arc<AccessLog>>,
    /// Paths that are served, with their query; empty: all.
    pub allow_paths: Box<[StringMatcher]>,
}

impl Admin {
    /// One that serves everything at `address`.
    #[must_use]
    pub fn at(address: Address) -> Admin {
        Admin { address, access_log: Vec::new(), allow_paths: Box::default() }
    }
}

/// Who this proxy is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    /// Its id; may be empty.
    pub id: String,
    /// The service it stands before; may be empty.
    pub cluster: String,
    /// Where it runs.
    pub locality: Locality,
    /// As configured; `null` if there is none.
    pub metadata: Json,
}

/// Where something runs; parts may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone in the region.
    pub zone: String,
    /// Part of the zone.
    pub sub_zone: String,
}

/// Something that does not stop a load, and that its operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A field that may be there and has no effect.
    Ignored {
        /// The resource.
        resource: Resource,
        /// The field.
        path: FieldPath,
        /// Why that is safe.
        reason: &'static str,
    },
    /// A value that is honoured, and may not be meant.
    Advice {
        /// The resource.
        resource: Resource,
        /// The field.
        path: FieldPath,
        /// What it comes to.
        text: &'static str,
    },
    /// U-05: a key that no message has, which the options allow.
    UnknownKey(Fault),
    /// U-06: an optional extension that we do not implement.
    SkippedExtension {
        /// The resource.
        resource: Resource,
        /// The extension.
        path: FieldPath,
        /// Its type.
        type_url: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Ignored { resource, path, reason } => {
                write!(f, "{}: {path}: ignored: {reason}", named(resource))
            }
            Warning::Advice { resource, path, text } => {
                write!(f, "{}: {path}: {text}", named(resource))
            }
            Warning::UnknownKey(fault) => write!(f, "{fault}; ignored"),
            Warning::SkippedExtension { resource, path, type_url } => {
                write!(
                    f,
                    "{}: {path}: optional extension {type_url:?} is left out",
                    named(resource)
                )
            }
        }
    }
}

fn named(resource: &Resource) -> String {
    format!("{} {}", resource.kind, resource.name).trim_end().to_owned()
}

/// Why a configuration cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}: {message}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        message: String,
    },
    /// It is not what it says it is.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// The environment adds what can't be read.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// At least one thing is wrong with it.
    #[error("{}", lines(.0))]
    Faults(Vec<Fault>),
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n")
}

/// An address on the command line that is neither `host:port` nor `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not an address: write host:port or unix:/path")]
pub struct AddressError(pub String);

impl Source {
    /// Reads a file; a name that ends in `.json` is JSON, every other YAML.
    ///
    /// # Errors
    /// If it cannot be read, is not UTF-8 or is larger than [`TEXT_BYTES_MAX`].
    pub fn file(path: &Path) -> Result<Source, LoadError> {
        let format = Format::of(path);
        let read = |path: &Path| {
            let mut text = String::new();
            // One byte more than allowed, so that a file of unknown size is not read to its end.
            std::fs::File::open(path)?.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text)?;
            Ok::<String, std::io::Error>(text)
        };
        let text = read(path).map_err(|error| LoadError::Read {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        if text.len() as u64 > TEXT_BYTES_MAX {
            return Err(SyntaxError::TooLarge { path: path.to_owned() }.into());
        }
        Ok(Source::text(&path.display().to_string(), text, format))
    }

    /// A text with a name for messages.
    #[must_use]
    pub fn text(name: &str, text: impl Into<String>, format: Format) -> Source {
        Source { texts: vec![Text { name: name.to_owned(), text: text.into(), format }] }
    }

    /// `yaml` merged onto `self`, as `--config-yaml` is: single values replace, lists are appended.
    #[must_use]
    pub fn with_yaml(mut self, name: &str, yaml: impl Into<String>) -> Source {
        self.texts.extend(Source::text(name, yaml, Format::Yaml).texts);
        self
    }
}

/// Loads a configuration.
///
/// # Errors
/// See [`LoadError`]; all refused fields of a file are reported at once.
pub fn load(source: &Source, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let schema = Schema::default();
    let read_options = ReadOptions { allow_unknown_keys: options.allow_unknown_static_fields };
    let mut warnings = Vec::new();
    let (mut bootstrap, engine) = read(source, &schema, read_options, &mut warnings)?;
    override_node(&mut bootstrap, options);
    let engine = engine_config(engine, options, source)?;

    let mut reviews = compile::review(&schema, &bootstrap, read_options);
    let faults = compile::faults(&mut reviews);
    if !faults.is_empty() {
        return Err(refused(source, faults));
    }
    let compiled =
        compile::compile(&schema, &bootstrap).map_err(|complaints| refused(source, complaints))?;
    for (resource, review) in reviews {
        for found in review.warnings {
            warnings.push(Warning::UnknownKey(place(&source.texts, resource.clone(), found)));
        }
        for (trail, reason) in review.ignored {
            let (resource, path) = (resource.clone(), trail.path());
            warnings.push(Warning::Ignored { resource, path, reason });
        }
        for (trail, type_url) in review.skipped {
            let (resource, path) = (resource.clone(), trail.path());
            warnings.push(Warning::SkippedExtension { resource, path, type_url });
        }
    }
    for (resource, note) in compiled.notes {
        warnings.push(match note {
            Note::Ignored(trail, reason) => {
                Warning::Ignored { resource, path: trail.path(), reason }
            }
            Note::Advice(trail, text) => Warning::Advice { resource, path: trail.path(), text },
        });
    }
    let service_template = service_template(&engine, &compiled.snapshot, source)?;
    Ok(Loaded {
        engine,
        snapshot: compiled.snapshot,
        ground: compiled.ground,
        service_template,
        admin: compiled.admin,
        node: compiled.node,
        process: compiled.process,
        warnings,
        config_dump: dump::to_json(&bootstrap).to_string(),
    })
}

/// The configuration of `outrigger --listen ADDR --upstream ADDR`: every request to one upstream.
///
/// # Errors
/// If one is not an address.
pub fn simple(listen: &str, upstream: &str) -> Result<Source, AddressError> {
    let address =
        |text: &str| compile::shorthand(text).ok_or_else(|| AddressError(text.to_owned()));
    let bootstrap = plain(&address(listen)?, &address(upstream)?);
    Ok(Source::text("command line", bootstrap.to_string(), Format::Json))
}

/// The configuration of `outrigger` without arguments: a proxy on 127.0.0.1:10000 before `origin`, and
/// the admin server on 127.0.0.1:9901.
#[must_use]
pub fn demo(origin: SocketAddr) -> Source {
    let socket = |address: SocketAddr| {
        let host = address.ip().to_string();
        json!({ "socket_address": { "address": host, "port_value": address.port() } })
    };
    let mut bootstrap = plain(&socket(DEMO_LISTEN), &socket(origin));
    bootstrap["admin"] = json!({ "address": socket(DEMO_ADMIN) });
    Source::text("demo", bootstrap.to_string(), Format::Json)
}

fn plain(listen: &Json, upstream: &Json) -> Json {
    // A name is resolved, and resolved again; an address is what it is.
    let host = upstream["socket_address"]["address"].as_str();
    let is_name = host.is_some_and(|host| host.parse::<std::net::IpAddr>().is_err());
    json!({
        "static_resources": {
            "listeners": [{
                "name": "main",
                "address": listen,
                "filter_chains": [{ "filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "main",
                        "route_config": { "name": "main", "virtual_hosts": [{
                            "name": "main",
                            "domains": ["*"],
                            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "upstream" } }],
                        }] },
                        "http_filters": [{
                            "name": "envoy.filters.http.router",
                            "typed_config": {
                                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                            },
                        }],
                        "upgrade_configs": [{ "upgrade_type": "websocket" }],
                    },
                }] }],
            }],
            "clusters": [{
                "name": "upstream",
                "type": if is_name { "STRICT_DNS" } else { "STATIC" },
                "load_assignment": {
                    "cluster_name": "upstream",
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": upstream } }] }],
                },
            }],
        },
    })
}

/// Reads every text and merges them.
fn read(
    source: &Source,
    schema: &Schema,
    options: ReadOptions,
    warnings: &mut Vec<Warning>,
) -> Result<(DynamicMessage, Map<String, Json>), LoadError> {
    let descriptor = schema.message(BOOTSTRAP).expect("the descriptor set holds the bootstrap");
    let mut bootstrap = DynamicMessage::new(descriptor.clone());
    let mut engine = Map::new();
    for text in &source.texts {
        let only = std::slice::from_ref(text);
        let fault = |found| LoadError::Faults(vec![place(only, Resource::bootstrap(), found)]);
        let mut json = match source::parse(text)? {
            // An empty file is an empty configuration.
            Json::Null => Json::Object(Map::new()),
            json => json,
        };
        match json.as_object_mut().and_then(|members| members.remove(ENGINE)) {
            None | Some(Json::Null) => {}
            Some(Json::Object(members)) => engine.extend(members),
            Some(_) => {
                let problem = Problem::Type("expected an object".to_owned());
                return Err(fault(Found::new(Trail::default().field(ENGINE), problem)));
            }
        }
        let mut found = Warnings::new();
        let message = schema.read(&descriptor, json, options, &mut found).map_err(fault)?;
        warnings.extend(
            found
                .into_iter()
                .map(|found| Warning::UnknownKey(place(only, Resource::bootstrap(), found))),
        );
        if source.texts.len() == 1 {
            bootstrap = message;
        } else {
            bootstrap.merge(&message.encode_to_vec()[..]).map_err(|error| {
                fault(Found::new(Trail::default(), Problem::Type(error.to_string())))
            })?;
        }
    }
    Ok((bootstrap, engine))
}

fn override_node(bootstrap: &mut DynamicMessage, options: &LoadOptions) {
    let overrides = [("id", &options.service_node), ("cluster", &options.service_cluster)];
    for (field, value) in overrides {
        if let Some(value) = value
            && let Some(Value::Message(node)) = bootstrap.get_field_by_name_mut("node")
        {
            node.set_field_by_name(field, Value::String(value.clone()));
        }
    }
    if let Some(zone) = &options.service_zone
        && let Some(Value::Message(node)) = bootstrap.get_field_by_name_mut("node")
        && let Some(Value::Message(locality)) = node.get_field_by_name_mut("locality")
    {
        locality.set_field_by_name("zone", Value::String(zone.clone()));
    }
}

fn engine_config(
    members: Map<String, Json>,
    options: &LoadOptions,
    source: &Source,
) -> Result<EngineConfig, LoadError> {
    let fault = |segments: &str, problem| {
        let found = Found::new(engine_trail(segments), problem);
        LoadError::Faults(vec![place(&source.texts, Resource::bootstrap(), found)])
    };
    let known = serde_json::to_value(EngineConfig::default()).unwrap_or_default();
    let known: Vec<String> =
        known.as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default();
    if let Some(key) = members.keys().find(|key| !known.contains(key)) {
        let near = nearest(key, known.into_iter());
        return Err(fault(key, Problem::UnknownKey { near }));
    }
    let mut engine: EngineConfig = serde_path_to_error::deserialize(Json::Object(members))
        .map_err(|error| {
            let path = error.path().to_string();
            fault(&path, Problem::Type(error.into_inner().to_string()))
        })?;
    if let Some(concurrency) = options.concurrency {
        engine.shards = concurrency;
    }
    engine.validate().map_err(|error| {
        let text = format!("{} is not {}", error.value, error.expected);
        fault(&error.field, Problem::Invalid(text))
    })?;
    Ok(engine)
}

/// `engine.services.cluster_template`, or a cluster of which nothing is configured.
fn service_template(
    engine: &EngineConfig,
    snapshot: &Snapshot,
    source: &Source,
) -> Result<Arc<Cluster>, LoadError> {
    let Some(name) = &engine.services.cluster_template else {
        return Ok(Arc::new(cluster::plain()));
    };
    let known = snapshot.clusters.id(name).and_then(|id| snapshot.clusters.get(id));
    known.cloned().ok_or_else(|| {
        let problem = Problem::Invalid(format!("there is no cluster {name:?}"));
        let found = Found::new(engine_trail("services.cluster_template"), problem);
        LoadError::Faults(vec![place(&source.texts, Resource::bootstrap(), found)])
    })
}

/// `services.registries[1].name` as a path.
fn engine_trail(field: &str) -> Trail {
    let mut at = Trail::default().field(ENGINE);
    for step in field.split('.') {
        let (name, index) = match step.split_once('[') {
            Some((name, index)) => (name, index.trim_end_matches(']').parse().ok()),
            None => (step, None),
        };
        at = at.field(name);
        if let Some(index) = index {
            at = at.index(index);
        }
    }
    at
}

fn refused(source: &Source, complaints: Vec<Complaint>) -> LoadError {
    let place = |(resource, found)| place(&source.texts, resource, found);
    LoadError::Faults(complaints.into_iter().map(place).collect())
}

/// A complaint with its place in the text.
pub(crate) fn place(texts: &[Text], resource: Resource, found: Found) -> Fault {
    let path = found.trail.path();
    let whole = compile::whole_path(&resource, &path);
    let position = match texts {
        [only] => source::locate(only, &whole).map(|(position, _)| position),
        // In a merged configuration, lists of both texts have become one, and indexes past the first
        // text's mean nothing in the second.
        several => several.iter().enumerate().find_map(|(at, text)| {
            let indexed = whole.iter().any(|segment| matches!(segment, Segment::Index(_)));
            let (position, complete) = source::locate(text, &whole)?;
            (complete && (at == 0 || !indexed)).then_some(position)
        }),
    };
    Fault { resource, path, problem: found.problem, position }
}

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
const ENGINE: &str = "engine";

/// Where the demo listens.
pub const DEMO_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10_000);
/// Where the demo's admin server listens.
pub const DEMO_ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9901);
