//! The resources that management servers have sent, and the snapshot that they come to.
//!
//! Responses go in, resource by resource; each is compiled, refused with its path, or accepted. An
//! accepted cluster is served when its endpoints are known, a listener when its routes are (W-04,
//! W-07); until then the version before it is. What comes out is the next [`Snapshot`], which shares
//! with the last one whatever did not change, and what is to be asked of the servers next.
//!
//! No I/O, no clock but for dates that are shown. Invariant: what is served was accepted whole, and
//! stays until its successor is ready or a server takes it away.

mod clusters;
mod decode;
mod demands;
mod endpoints;
mod extensions;
mod file;
mod kept;
mod listeners;
mod named;
mod record;
mod routes;
mod scopes;
mod secrets;
mod start;
mod virtual_hosts;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::iter;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use prost_reflect::DynamicMessage;
use serde_json::Value as Json;

use crate::client::ResourceType;
use crate::compile::config_source::Sources;
use crate::compile::runtime::Runtime;
use crate::compile::secret::Secret;
use crate::compile::{Context, NodeNames, Notes};
use crate::dump;
use crate::fingerprint::Fingerprint;
use crate::mapping::{ReadOptions, Schema};
use crate::process_config::RuntimeLayers;
use crate::secrets::ServedSecret;
use crate::snapshot::{
    Cluster, ClusterNames, ConfigPlace, ConfigSource, Demand, DynamicResources, FilterPlace,
    Listener, Snapshot,
};
use crate::view::View;

use self::clusters::ClusterEntry;
use self::demands::ClusterDemands;
use self::endpoints::Assignment;
use self::extensions::ExtensionEntry;
use self::listeners::ListenerEntry;
use self::routes::Table;
use self::scopes::ScopeSet;
use self::secrets::SecretEntry;
use self::start::Start;

pub use self::demands::TooManyDemands;
pub use self::file::FileContent;
pub use self::kept::Kept;
pub use self::record::{ErrorState, Record, Shown, Stage};
pub use self::scopes::ScopeCounts;
pub use self::start::Phase;

/// A resource as a server sent it.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Its name.
    pub name: Arc<str>,
    /// What the server calls this content.
    pub version: Arc<str>,
    /// Other names by which it was asked for (D-13).
    pub aliases: Box<[Arc<str>]>,
    /// The encoded message, of the type that was asked for.
    pub content: Bytes,
}

/// What only the process can tell of a resource before it is accepted: whether its sockets can be
/// bound, its logs opened, its keys used. What a refusal says is told to the server.
pub trait Host {
    /// Makes what `listener` needs, or keeps what the listener of its name has if that will do.
    ///
    /// # Errors
    /// What can't be had; then everything is as it was.
    fn prepare_listener(&mut self, listener: &Arc<Listener>) -> Result<(), String>;

    /// Makes what `cluster` needs.
    ///
    /// # Errors
    /// As for listeners.
    fn prepare_cluster(&mut self, cluster: &Arc<Cluster>) -> Result<(), String>;

    /// Makes `secret` what those use who name the one of this [key](crate::snapshot::Sds::key).
    ///
    /// # Errors
    /// As for listeners.
    fn prepare_secret(&mut self, key: &str, secret: &Arc<ServedSecret>) -> Result<(), String>;
}

/// Something to be asked of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interest {
    /// Everything there is of the type.
    All(ResourceType, ConfigSource),
    /// One resource.
    One(ResourceType, ConfigSource, Arc<str>),
    /// The same again (W-05).
    Again(ResourceType, ConfigPlace, Arc<str>),
    /// No longer.
    None(ResourceType, ConfigPlace, Arc<str>),
}

/// What is new since it was last asked.
#[derive(Debug)]
pub struct Changes {
    /// To be served from now on.
    pub snapshot: Arc<Snapshot>,
    /// Listeners to serve or to end, in order.
    pub listeners: Vec<ListenerChange>,
}

/// A listener that comes, changes or goes.
#[derive(Debug, Clone)]
pub enum ListenerChange {
    /// Serve it, in place of the one of its name if there is one.
    Serve(Arc<Listener>),
    /// Drain it.
    Remove(Box<str>),
}

/// What resources are compiled against that does not come from servers: parts of the bootstrap.
#[derive(Debug, Clone, Default)]
pub struct Ground {
    pub(crate) node: NodeNames,
    pub(crate) runtime: Runtime,
    pub(crate) secrets: HashMap<Box<str>, Secret>,
    pub(crate) dynamic: DynamicResources,
    pub(crate) sources: Sources,
    pub(crate) encoded_node: Bytes,
}

impl Ground {
    fn context<'a>(
        &'a self,
        names: &'a ClusterNames,
        has_cluster: &'a dyn Fn(&str) -> bool,
    ) -> Context<'a> {
        Context {
            names,
            has_cluster,
            secrets: &self.secrets,
            runtime: &self.runtime,
            node: &self.node,
            sources: &self.sources,
            notes: Notes::default(),
        }
    }

    /// Who this proxy is, as servers are told: an encoded `envoy.config.core.v3.Node`.
    #[must_use]
    pub fn node(&self) -> Bytes {
        self.encoded_node.clone()
    }

    /// The runtime's layers, which are the same for all that is compiled.
    #[must_use]
    pub fn runtime_layers(&self) -> RuntimeLayers {
        RuntimeLayers(self.runtime.clone())
    }

    /// Where resources come from.
    #[must_use]
    pub fn dynamic_resources(&self) -> &DynamicResources {
        &self.dynamic
    }
}

/// See the module.
pub struct Store {
    schema: Schema,
    options: ReadOptions,
    ground: Ground,
    snapshot: Snapshot,
    is_changed: bool,
    listener_changes: Vec<ListenerChange>,
    interests: Vec<Interest>,
    clusters: BTreeMap<Box<str>, ClusterEntry>,
    /// Those of them with a version that waits: what a start looks at again and again.
    warming_clusters: BTreeSet<Box<str>>,
    /// How many of them are served.
    active_clusters: usize,
    listeners: BTreeMap<Box<str>, ListenerEntry>,
    /// By the key of their source and name.
    assignments: HashMap<Box<str>, Assignment>,
    /// As the assignments.
    tables: HashMap<Box<str>, Table>,
    /// The keys of tables that have virtual hosts of their own source.
    hosted: BTreeSet<Box<str>>,
    /// By the keys of [`ScopedRoutes`](crate::snapshot::ScopedRoutes).
    scopes: BTreeMap<Box<str>, ScopeSet>,
    /// As the assignments.
    secrets: HashMap<Box<str>, SecretEntry>,
    /// As the assignments.
    extensions: HashMap<Box<str>, ExtensionEntry>,
    /// Layers of the runtime that servers sent.
    layers: BTreeMap<Arc<str>, Record>,
    dns_changed: bool,
    start: Start,
    /// What was said of accepted resources and is to be logged.
    remarks: Vec<String>,
    counts: Counts,
    outcomes: Vec<(Watched, Outcome)>,
    cluster_demands: ClusterDemands,
    /// Demands that nobody need wait for.
    settled: Vec<Demand>,
    /// A filter was taken away, which may be the last of listeners: they go on with another, or without.
    any_withdrawn: bool,
}

/// What has happened to resources since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Clusters that came to be served.
    pub clusters_added: u64,
    /// Later versions of them.
    pub clusters_modified: u64,
    /// Clusters that were taken away.
    pub clusters_removed: u64,
    /// Listeners that came to be served.
    pub listeners_added: u64,
    /// Later versions of them.
    pub listeners_modified: u64,
    /// Listeners that were taken away.
    pub listeners_removed: u64,
}

/// Whose statistics a resource that was asked for by name is counted in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// A cluster's, by its name in statistics.
    Endpoints(Box<str>),
    /// Those of a table, by the prefix of a connection manager and its name.
    Routes(Box<str>, Box<str>),
    /// Those of its virtual hosts (VHDS), likewise.
    VirtualHosts(Box<str>, Box<str>),
    /// Those of scopes, by the prefix of a connection manager and what it calls them.
    Scopes(Box<str>, Box<str>),
    /// Those of a secret, by its name.
    Secret(Box<str>),
    /// Those of a filter, by its name.
    Extension(FilterPlace, Box<str>),
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was asked.
    Asked,
    /// Something was sent, and accepted.
    Accepted,
    /// What was accepted is that there is nothing.
    Empty,
    /// What was accepted is new.
    Reloaded,
    /// Something was sent, and refused.
    Refused,
    /// It could not be read.
    Failed,
    /// Nothing came in time.
    TimedOut,
    /// Of filters alone: it is of a type that a later listener does not list.
    Conflicts,
}

impl Outcome {
    /// What a response counts as that came to this, and after which something new is served or not.
    fn of_response(self, is_new: bool) -> impl Iterator<Item = Outcome> + Clone {
        let is_taken = matches!(self, Outcome::Accepted | Outcome::Empty);
        let first = if is_taken { Outcome::Accepted } else { self };
        let empty = (self == Outcome::Empty).then_some(Outcome::Empty);
        let reloaded = (is_taken && is_new).then_some(Outcome::Reloaded);
        iter::once(first).chain(empty).chain(reloaded)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("phase", &self.start.phase()).finish_non_exhaustive()
    }
}

impl Store {
    /// A store that has what the bootstrap has. `ignore_unknown_fields`: fields that no message has are
    /// remarks (U-05).
    #[must_use]
    pub fn new(ground: Ground, snapshot: &Snapshot, ignore_unknown_fields: bool) -> Store {
        let mut store = Store {
            schema: Schema::default(),
            options: ReadOptions { allow_unknown_keys: ignore_unknown_fields },
            ground,
            // Listeners join it when they are warm.
            snapshot: Snapshot { listeners: Arc::new([]), ..snapshot.clone() },
            is_changed: true,
            listener_changes: Vec::new(),
            interests: Vec::new(),
            clusters: BTreeMap::new(),
            warming_clusters: BTreeSet::new(),
            active_clusters: 0,
            listeners: BTreeMap::new(),
            assignments: HashMap::new(),
            tables: HashMap::new(),
            hosted: BTreeSet::new(),
            scopes: BTreeMap::new(),
            secrets: HashMap::new(),
            extensions: HashMap::new(),
            layers: BTreeMap::new(),
            dns_changed: true,
            start: Start::default(),
            remarks: Vec::new(),
            counts: Counts::default(),
            outcomes: Vec::new(),
            cluster_demands: ClusterDemands::default(),
            settled: Vec::new(),
            any_withdrawn: false,
        };
        store.add_static_clusters(snapshot);
        store.add_static_listeners(snapshot);
        store.begin();
        store
    }

    /// Takes a resource in.
    ///
    /// # Errors
    /// Why it is refused, as the server is told: `<field path>: <reason>`.
    pub fn put(
        &mut self,
        kind: ResourceType,
        place: &ConfigPlace,
        incoming: &Incoming,
        host: &mut dyn Host,
    ) -> Result<(), String> {
        match kind {
            ResourceType::Cluster => self.put_cluster(incoming, host),
            ResourceType::ClusterLoadAssignment => self.put_assignment(place, incoming),
            ResourceType::Listener => self.put_listener(incoming, host),
            ResourceType::RouteConfiguration => self.put_table(place, incoming),
            ResourceType::ScopedRouteConfiguration => self.put_scope(place, incoming),
            ResourceType::VirtualHost => self.put_host(place, incoming),
            ResourceType::Secret => self.put_secret(place, incoming, host),
            ResourceType::ExtensionConfig => self.put_extension(place, incoming, host),
            ResourceType::Runtime => self.put_layer(incoming),
        }
    }

    /// Takes a resource away that the server says does not exist.
    pub fn remove(&mut self, kind: ResourceType, place: &ConfigPlace, name: &str) {
        if kind == ResourceType::RouteConfiguration {
            self.note(kind, place, name, Outcome::Empty);
        }
        match kind {
            ResourceType::Cluster => self.remove_cluster(name),
            ResourceType::Listener => self.remove_listener(name),
            _ => self.absent(kind, place, name),
        }
    }

    /// A resource that was asked for did not come in time: nobody waits for it any more (S-12).
    pub fn never_came(&mut self, kind: ResourceType, place: &ConfigPlace, name: &str) {
        self.note(kind, place, name, Outcome::TimedOut);
        self.absent(kind, place, name);
    }

    /// What was to be read of a resource could not be. What is there of it stays.
    pub fn failed(&mut self, kind: ResourceType, place: &ConfigPlace, name: &str) {
        self.note(kind, place, name, Outcome::Failed);
    }

    /// Counts what became of a question for a resource, if such are counted one by one.
    fn note(&mut self, kind: ResourceType, place: &ConfigPlace, name: &str, outcome: Outcome) {
        let key = place.key(name);
        match kind {
            ResourceType::ClusterLoadAssignment => self.note_assignment(&key, outcome),
            ResourceType::RouteConfiguration => self.note_table(&key, outcome),
            ResourceType::VirtualHost => {
                for table in self.hosted_by(place, name) {
                    self.note_hosts(&table, outcome);
                }
            }
            ResourceType::Secret => self.note_secret(&key, outcome),
            ResourceType::ExtensionConfig => self.note_extension(&key, outcome),
            _ => {}
        }
    }

    /// A resource that was asked for does not exist: nobody waits for it any more.
    pub fn absent(&mut self, kind: ResourceType, place: &ConfigPlace, name: &str) {
        match kind {
            ResourceType::Cluster => self.remove_cluster(name),
            ResourceType::Listener => self.remove_listener(name),
            ResourceType::ClusterLoadAssignment => self.no_assignment(&place.key(name)),
            ResourceType::RouteConfiguration => self.no_table(&place.key(name)),
            ResourceType::ScopedRouteConfiguration => self.remove_scope(place, name),
            ResourceType::VirtualHost => self.remove_host(place, name),
            ResourceType::Secret => self.no_secret(&place.key(name)),
            ResourceType::ExtensionConfig => self.no_extension(&place.key(name)),
            ResourceType::Runtime => {
                self.ground.runtime.set_layer(name, None);
                self.layers.remove(name);
                self.start.layer_answered(name);
                self.go_on();
            }
        }
    }

    /// A layer of the runtime. Whoever reads it sees it at once.
    fn put_layer(&mut self, incoming: &Incoming) -> Result<(), String> {
        let message = self.decode(ResourceType::Runtime, incoming)?;
        let layer = View::new(&message, &self.schema).json("layer");
        self.ground.runtime.set_layer(&incoming.name, layer);
        let record = Store::record(incoming, Fingerprint::of(&message, &[]));
        self.layers.insert(Arc::clone(&incoming.name), record);
        self.start.layer_answered(&incoming.name);
        self.go_on();
        Ok(())
    }

    /// Resources of these names are about to be put, out of one response.
    pub fn expect<'a>(
        &mut self,
        kind: ResourceType,
        place: &ConfigPlace,
        names: impl Iterator<Item = &'a str> + Clone,
    ) {
        if kind == ResourceType::VirtualHost {
            self.expect_hosts(place, names);
        }
    }

    /// All resources of a response were put. Returns those that can't be beside each other, and why: they
    /// are refused as if [`Store::put`] had.
    pub fn judge_together(
        &mut self,
        kind: ResourceType,
        place: &ConfigPlace,
    ) -> BTreeMap<Box<str>, String> {
        match kind {
            ResourceType::ScopedRouteConfiguration => self.serve_staged(place),
            _ => BTreeMap::new(),
        }
    }

    /// A response was taken in whole, or none came in time, of a type of which everything was asked for.
    pub fn answered(&mut self, kind: ResourceType, place: &ConfigPlace) {
        match kind {
            ResourceType::ScopedRouteConfiguration => {
                self.note_response_of_scopes(place);
                self.scopes_answered(place);
            }
            ResourceType::VirtualHost => self.hosts_answered(place),
            _ => {}
        }
        self.start.answered(kind);
        self.go_on();
    }

    /// What is new. Nothing when nothing is.
    pub fn take_changes(&mut self) -> Option<Changes> {
        self.go_on();
        let listeners = match self.start.lets_accept() {
            true => std::mem::take(&mut self.listener_changes),
            false => Vec::new(),
        };
        if !self.is_changed && listeners.is_empty() {
            return None;
        }
        // Scopes have tables, and those have virtual hosts.
        self.settle_hosts();
        self.settle_scopes();
        self.is_changed = false;
        Some(Changes { snapshot: Arc::new(self.snapshot.clone()), listeners })
    }

    /// Has listeners go on with their defaults for last filters that were taken away, or without. A listener
    /// that can't goes on as it is.
    pub fn replace_withdrawn(&mut self, host: &mut dyn Host) {
        if std::mem::take(&mut self.any_withdrawn)
            && let Err(reason) = self.renew_listeners(host)
        {
            self.remarks.push(format!("a filter that was taken away stays: {reason}"));
        }
    }

    /// What is to be asked for since this was last asked.
    pub fn take_interests(&mut self) -> Vec<Interest> {
        std::mem::take(&mut self.interests)
    }

    /// What has happened since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What became of questions for endpoints and routes since this was last called.
    pub fn take_outcomes(&mut self) -> Vec<(Watched, Outcome)> {
        std::mem::take(&mut self.outcomes)
    }

    /// Whether there is something to take.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.is_changed
            || !self.interests.is_empty()
            || !self.settled.is_empty()
            || self.any_withdrawn
            || self.dns_changed
    }

    /// What operators should know of resources that were accepted.
    pub fn take_remarks(&mut self) -> Vec<String> {
        let mut remarks = std::mem::take(&mut self.remarks);
        remarks.extend(self.ground.runtime.take_remarks());
        remarks
    }

    /// Reads layers of the runtime on disk that were replaced.
    pub fn refresh_runtime(&self) {
        self.ground.runtime.refresh();
    }

    /// Whether there are such.
    #[must_use]
    pub fn has_runtime_on_disk(&self) -> bool {
        self.ground.runtime.has_disk()
    }

    /// The configuration as it is now, whether or not it was taken.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Changes what does not come from servers: services, endpoints of names.
    pub fn edit(&mut self, edit: impl FnOnce(&Snapshot) -> Snapshot) {
        self.snapshot = edit(&self.snapshot);
        self.is_changed = true;
    }

    /// How far the start has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.start.phase()
    }

    /// An accepted resource as JSON, without what is secret.
    #[must_use]
    pub fn show(&self, kind: ResourceType, record: &Record) -> Json {
        let descriptor = self.schema.message(kind.message());
        let message = descriptor
            .and_then(|descriptor| DynamicMessage::decode(descriptor, record.content.clone()).ok());
        message.map_or(Json::Null, |message| dump::to_json(&message))
    }

    fn decode(
        &mut self,
        kind: ResourceType,
        incoming: &Incoming,
    ) -> Result<DynamicMessage, String> {
        let mut ignored = Vec::new();
        let content = incoming.content.clone();
        let message =
            decode::decode(&self.schema, self.options, kind.message(), content, &mut ignored)?;
        let remark = |text| format!("{} {}: {text}", kind.word(), incoming.name);
        self.remarks.extend(ignored.into_iter().take(REMARKS_MAX).map(remark));
        self.remarks.truncate(REMARKS_MAX);
        Ok(message)
    }

    fn record(incoming: &Incoming, fingerprint: Fingerprint) -> Record {
        Record {
            version: Arc::clone(&incoming.version),
            // A slice of a response would keep all of it.
            content: Bytes::copy_from_slice(&incoming.content),
            updated: SystemTime::now(),
            fingerprint,
        }
    }
}

/// Remarks that are kept until they are logged.
const REMARKS_MAX: usize = 100;
