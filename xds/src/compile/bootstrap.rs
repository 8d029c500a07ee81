//! The bootstrap's own parts and the walk over its resources.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, Value};
use serde_json::Value as Json;

use crate::bootstrap::{Admin, Locality, Node};
use crate::compile::config_source::{self, Sources};
use crate::compile::runtime::Runtime;
use crate::compile::secret::{self, Secret};
use crate::compile::{
    Context, NodeNames, Note, Notes, access_log, address, cluster, listener, matcher, process,
};
use crate::fault::{FieldPath, Found, Resource, Segment, Trail};
use crate::mapping::{ReadOptions, Schema};
use crate::process_config::ProcessConfig;
use crate::snapshot::{
    Address, ClusterNames, Clusters, DynamicResources, EndpointSet, Origin, Snapshot,
};
use crate::store::Ground;
use crate::support::{FAULTS_MAX, Review, Reviewer};
use crate::view::View;

/// A complaint and the resource it is about.
pub(crate) type Complaint = (Resource, Found);

/// What a bootstrap compiles to.
pub(crate) struct Compiled {
    pub(crate) snapshot: Snapshot,
    pub(crate) ground: Ground,
    pub(crate) admin: Option<Admin>,
    pub(crate) node: Node,
    pub(crate) process: ProcessConfig,
    pub(crate) notes: Vec<(Resource, Note)>,
}

/// Findings of the review, by resource.
pub(crate) type Reviews = Vec<(Resource, Review)>;

/// Looks up every field of the bootstrap and of its resources.
pub(crate) fn review(schema: &Schema, bootstrap: &DynamicMessage, options: ReadOptions) -> Reviews {
    let view = View::new(bootstrap, schema);
    let mut reviews = Vec::new();
    let mut own = Reviewer::new(schema, options);
    own.message(bootstrap, &Trail::default(), &["static_resources"]);
    if let Some(resources) = view.message("static_resources") {
        let at = Trail::default().field("static_resources");
        own.message(resources.raw(), &at, &["listeners", "clusters", "secrets"]);
    }
    reviews.push((Resource::bootstrap(), own.finish()));
    for (resource, view) in resources(&view) {
        let mut reviewer = Reviewer::new(schema, options);
        reviewer.message(view.raw(), &Trail::default(), &[]);
        reviews.push((resource, reviewer.finish()));
    }
    reviews
}

/// Secrets, clusters and listeners, each as a resource of its own: their paths start at themselves.
fn resources<'a>(bootstrap: &View<'a>) -> Vec<(Resource, View<'a>)> {
    let Some(resources) = bootstrap.message("static_resources") else { return Vec::new() };
    let list = |kind, field: &str| -> Vec<(Resource, View<'a>)> {
        let at = Trail::default().field("static_resources").field(field);
        let views = resources.messages(field).into_iter().enumerate();
        views
            .map(|(index, view)| {
                let resource =
                    Resource { kind, name: view.text("name").into(), at: at.index(index).path() };
                (resource, View::new(view.raw(), view.schema()))
            })
            .collect()
    };
    let mut all = list("Secret", "secrets");
    all.extend(list("Cluster", "clusters"));
    all.extend(list("Listener", "listeners"));
    all
}

/// Compiles what the review has let through.
pub(crate) fn compile(
    schema: &Schema,
    bootstrap: &DynamicMessage,
) -> Result<Compiled, Vec<Complaint>> {
    let view = View::new(bootstrap, schema);
    let own = |found| vec![(Resource::bootstrap(), found)];
    let node = node(&view);
    let names = NodeNames { id: node.id.clone(), cluster: node.cluster.clone() };
    regex_engine(&view).map_err(own)?;
    let resources = resources(&view);
    let of_kind = |kind| resources.iter().filter(move |(resource, _)| resource.kind == kind);
    let (clusters, listeners): (Vec<_>, Vec<_>) =
        (of_kind("Cluster").collect(), of_kind("Listener").collect());
    let sources = Sources::new(&view, of_kind("Cluster"));
    let runtime = match view.message("layered_runtime") {
        Some(layered) => Runtime::compile(&layered, &sources, &node.cluster).map_err(own)?,
        None => Runtime::default(),
    };
    let admin = admin(&view, &runtime).map_err(own)?;
    let dynamic = match view.message("dynamic_resources") {
        Some(dynamic) => config_source::dynamic_resources(&dynamic, &sources).map_err(own)?,
        None => DynamicResources::default(),
    };
    let mut notes = Vec::new();
    let own_notes = Notes::default();
    let process = process::compile(&view, &runtime, &own_notes).map_err(own)?;
    own_notes.hand_over(&Resource::bootstrap(), &mut notes);
    let secrets = secrets(of_kind("Secret"), &mut notes)?;
    let mut complaints = Vec::new();

    let mut known: HashSet<&str> = HashSet::new();
    for (resource, view) in &clusters {
        if !resource.name.is_empty() && !known.insert(&resource.name) {
            complaints.push(twice(resource, view));
        }
    }
    let cluster_names = Arc::new(ClusterNames::default());
    let context = Context {
        names: &cluster_names,
        has_cluster: &|name| known.contains(name),
        secrets: &secrets,
        runtime: &runtime,
        node: &names,
        sources: &sources,
        notes: Notes::default(),
    };
    let mut served = Clusters::new(&cluster_names);
    for (resource, view) in &clusters {
        match cluster::compile(view, &context) {
            Ok((cluster, endpoints)) => {
                let endpoints = EndpointSet::new(endpoints, cluster.panic);
                served.put(Arc::new(cluster), Arc::new(endpoints), Origin::Static);
            }
            Err(found) => complaints.push((resource.clone(), found)),
        }
        context.notes.hand_over(resource, &mut notes);
    }

    let mut snapshot_listeners = Vec::with_capacity(listeners.len());
    let mut listener_names = HashSet::new();
    let mut bound: HashMap<Address, Box<str>> = HashMap::new();
    for (resource, view) in &listeners {
        match listener::compile(view, &context, &|_| None) {
            Ok(listener) => {
                if !listener_names.insert(listener.name.clone()) {
                    complaints.push(twice(resource, view));
                }
                // Those without a socket are found by their address too (L-01).
                for listen in &listener.addresses {
                    let ephemeral = listen.address.ip().is_some_and(|address| address.port() == 0);
                    let taken = bound.insert(listen.address.clone(), listener.name.clone());
                    if let (Some(other), false) = (taken, ephemeral) {
                        let text = format!("{} is listener {other:?}'s already", listen.address);
                        complaints.push((resource.clone(), view.invalid("address", text)));
                    }
                }
                snapshot_listeners.push(Arc::new(listener));
            }
            Err(found) => complaints.push((resource.clone(), found)),
        }
        context.notes.hand_over(resource, &mut notes);
    }
    complaints.truncate(FAULTS_MAX);
    if !complaints.is_empty() {
        return Err(complaints);
    }
    let snapshot =
        Snapshot { listeners: snapshot_listeners.into(), clusters: served, ..Snapshot::default() };
    let encoded_node = view.message("node").map(|node| encode_node(node.raw())).unwrap_or_default();
    let ground = Ground { node: names, runtime, secrets, dynamic, sources, encoded_node };
    Ok(Compiled { snapshot, ground, admin, node, process, notes })
}

/// `static_resources.secrets`. Contexts refer to them, so that nothing is compiled beside a bad one.
fn secrets<'a>(
    views: impl Iterator<Item = &'a (Resource, View<'a>)>,
    notes: &mut Vec<(Resource, Note)>,
) -> Result<HashMap<Box<str>, Secret>, Vec<Complaint>> {
    let mut secrets = HashMap::new();
    let mut complaints = Vec::new();
    for (resource, view) in views {
        let own_notes = Notes::default();
        match secret::compile(view, &own_notes) {
            Ok(secret) => {
                if secrets.insert(resource.name.clone(), secret).is_some() {
                    complaints.push(twice(resource, view));
                }
            }
            Err(found) => complaints.push((resource.clone(), found)),
        }
        own_notes.hand_over(resource, notes);
    }
    if complaints.is_empty() { Ok(secrets) } else { Err(complaints) }
}

fn twice(resource: &Resource, view: &View<'_>) -> Complaint {
    (resource.clone(), view.invalid("name", format!("{:?} is used twice", resource.name)))
}

fn node(bootstrap: &View<'_>) -> Node {
    let Some(node) = bootstrap.message("node") else { return Node::default() };
    let locality = node.message("locality").map(|locality| Locality {
        region: locality.text("region").to_owned(),
        zone: locality.text("zone").to_owned(),
        sub_zone: locality.text("sub_zone").to_owned(),
    });
    Node {
        id: node.text("id").to_owned(),
        cluster: node.text("cluster").to_owned(),
        locality: locality.unwrap_or_default(),
        metadata: node.json("metadata").unwrap_or(Json::Null),
    }
}

/// The node as servers are told of it: as configured, with who speaks (xds.md B4).
fn encode_node(node: &DynamicMessage) -> Bytes {
    let mut node = node.clone();
    for (field, value) in [
        ("user_agent_name", Value::String("outrigger".to_owned())),
        ("user_agent_version", Value::String(env!("CARGO_PKG_VERSION").to_owned())),
    ] {
        node.set_field_by_name(field, value);
    }
    let features = node.get_field_by_name("client_features").map(Cow::into_owned);
    let mut features = match features {
        Some(Value::List(features)) => features,
        _ => Vec::new(),
    };
    // T-01: what is implemented, and no more.
    for feature in CLIENT_FEATURES {
        if !features.iter().any(|known| known.as_str() == Some(feature)) {
            features.push(Value::String((*feature).to_owned()));
        }
    }
    node.set_field_by_name("client_features", Value::List(features));
    node.encode_to_vec().into()
}

/// Without an address there is no admin server.
fn admin(bootstrap: &View<'_>, runtime: &Runtime) -> Result<Option<Admin>, Found> {
    let Some(admin) = bootstrap.message("admin") else { return Ok(None) };
    let Some(location) = admin.message("address") else { return Ok(None) };
    let mut access_log = access_log::compile(&admin, runtime)?;
    if let Some(path) = admin.optional_text("access_log_path") {
        access_log.push(Arc::new(access_log::to_file(path)?));
    }
    let allowed = admin.messages("allow_paths");
    Ok(Some(Admin {
        address: address::resolved(&location)?,
        access_log,
        allow_paths: allowed.iter().map(matcher::string).collect::<Result<_, Found>>()?,
    }))
}

fn regex_engine(bootstrap: &View<'_>) -> Result<(), Found> {
    let Some(engine) = bootstrap.message("default_regex_engine") else { return Ok(()) };
    match engine.unpack("typed_config")? {
        Some(inner) if inner.kind() != GOOGLE_RE2 => Err(inner.refuse()),
        _ => Ok(()),
    }
}

/// The place of a complaint in the whole file.
pub(crate) fn whole_path(resource: &Resource, path: &FieldPath) -> Vec<Segment> {
    resource.at.segments().iter().chain(path.segments()).cloned().collect()
}

/// An address as the command line has it: `host:port` or `unix:/path`.
pub(crate) fn shorthand(text: &str) -> Option<Json> {
    if let Some(path) = text.strip_prefix("unix:") {
        let bytes = 1..=address::UNIX_PATH_BYTES_MAX;
        return bytes
            .contains(&path.len())
            .then(|| serde_json::json!({ "pipe": { "path": path } }));
    }
    let socket = |host: &str, port: u16| serde_json::json!({ "socket_address": { "address": host, "port_value": port } });
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(socket(&address.ip().to_string(), address.port()));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let is_host_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    match host {
        "" | "*" => Some(socket("0.0.0.0", port)),
        host if host.bytes().all(is_host_byte) => Some(socket(host, port)),
        _ => None,
    }
}

/// Complaints of a review, as far as they stop a load.
pub(crate) fn faults(reviews: &mut Reviews) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (resource, review) in reviews {
        let faults = std::mem::take(&mut review.faults);
        complaints.extend(faults.into_iter().map(|found| (resource.clone(), found)));
    }
    complaints.truncate(FAULTS_MAX);
    complaints
}

/// Of the node: time to live of resources, under both of its names.
const CLIENT_FEATURES: &[&str] = &[
    "xds.config.supports-resource-ttl",
    "xds.config.resource-in-sotw",
    "xds.config.supports-resource-in-sotw",
];

const GOOGLE_RE2: &str = "envoy.extensions.regex_engines.v3.GoogleRE2";
