//! What is accepted, to be written down, and taken from there by the next process.
//!
//! Secrets stay out: a private key is on no disk that its owner did not choose.

use std::sync::Arc;

use bytes::Bytes;

use crate::client::ResourceType;

use super::{Assignment, ExtensionEntry, Host, Incoming, Record, Store, Table};

/// A resource that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its type.
    pub kind: ResourceType,
    /// One for each source and name.
    pub key: Box<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What the server calls this content.
    pub version: Arc<str>,
    /// The encoded message.
    pub content: Bytes,
}

impl Kept {
    fn new(kind: ResourceType, key: &str, name: &str, record: &Record) -> Kept {
        Kept {
            kind,
            key: key.into(),
            name: name.into(),
            version: Arc::clone(&record.version),
            content: record.content.clone(),
        }
    }
}

impl Store {
    /// Everything that servers have sent and that was accepted last, but for secrets.
    #[must_use]
    pub fn keep(&self) -> Vec<Kept> {
        let mut kept = Vec::new();
        for (name, source) in self.ground.runtime.sources() {
            if let Some(record) = self.layers.get(&*name) {
                let key = source.place.key(&name);
                kept.push(Kept::new(ResourceType::Runtime, &key, &name, record));
            }
        }
        // What was asked for on demand would be asked for only by who does not find it.
        let clusters = self.dynamic_clusters();
        let clusters = clusters.filter(|shown| !self.cluster_demands.contains(&shown.name));
        let listeners = self.dynamic_listeners();
        let (cds, lds) = (&self.ground.dynamic.cds, &self.ground.dynamic.lds);
        let all = clusters.map(|shown| (ResourceType::Cluster, cds, shown));
        for (kind, source, shown) in
            all.chain(listeners.map(|shown| (ResourceType::Listener, lds, shown)))
        {
            if let (Some(source), Some(record)) = (source, &shown.record) {
                kept.push(Kept::new(kind, &source.place.key(&shown.name), &shown.name, record));
            }
        }
        let assignments = self.assignments();
        let assignments = assignments.map(|it| (ResourceType::ClusterLoadAssignment, it));
        let scopes = self.scopes().flat_map(|(_, place, all)| {
            let kind = ResourceType::ScopedRouteConfiguration;
            all.into_iter().map(move |shown| (kind, (place, shown)))
        });
        let tables = self.route_tables().map(|it| (ResourceType::RouteConfiguration, it));
        let extensions = self.extensions().map(|it| (ResourceType::ExtensionConfig, it));
        for (kind, (place, shown)) in assignments.chain(scopes).chain(tables).chain(extensions) {
            if let Some(record) = &shown.record {
                kept.push(Kept::new(kind, &place.key(&shown.name), &shown.name, record));
            }
        }
        for (place, name, record) in self.served_hosts() {
            kept.push(Kept::new(ResourceType::VirtualHost, &place.key(name), name, record));
        }
        kept
    }

    /// Takes what an earlier process kept, and goes on with the start as if servers had sent it. What
    /// servers have said already holds. Returns what was accepted; what was not is remarked on.
    pub fn restore(&mut self, mut all: Vec<Kept>, host: &mut dyn Host) -> Vec<Kept> {
        // Those come first to which others refer.
        all.sort_by_key(|kept| match kept.kind {
            ResourceType::Runtime => 0,
            ResourceType::Cluster => 1,
            ResourceType::ClusterLoadAssignment => 2,
            ResourceType::Listener => 3,
            ResourceType::ScopedRouteConfiguration => 4,
            ResourceType::RouteConfiguration => 5,
            _ => 6,
        });
        all.retain(|kept| {
            if self.is_answered(kept) {
                return false;
            }
            let incoming = Incoming {
                name: Arc::clone(&kept.name),
                version: Arc::clone(&kept.version),
                aliases: Box::default(),
                content: kept.content.clone(),
            };
            let outcome = match kept.kind {
                ResourceType::Runtime => self.put_layer(&incoming),
                ResourceType::Cluster => self.put_cluster(&incoming, host),
                ResourceType::Listener => self.put_listener(&incoming, host),
                ResourceType::ClusterLoadAssignment => self.judge_assignment(&kept.key, &incoming),
                ResourceType::ScopedRouteConfiguration => self.restore_scope(&kept.key, &incoming),
                ResourceType::RouteConfiguration => self.judge_table(&kept.key, &incoming),
                ResourceType::ExtensionConfig => self.judge_extension(&kept.key, &incoming, host),
                ResourceType::VirtualHost => self.restore_host(&kept.key, &incoming),
                _ => return false,
            };
            if let Err(reason) = &outcome {
                let text = format!("{} {} of the cache: {reason}", kept.kind.word(), kept.name);
                self.remarks.push(text);
            }
            outcome.is_ok()
        });
        self.hosts_restored();
        self.scopes_restored();
        self.start.restored();
        self.go_on();
        all
    }

    /// Whether a server has said something of the resource, be it that there is none.
    fn is_answered(&self, kept: &Kept) -> bool {
        match kept.kind {
            ResourceType::Cluster | ResourceType::Listener => self.start.has_answer(kept.kind),
            ResourceType::ClusterLoadAssignment => {
                self.assignments.get(&kept.key).is_some_and(Assignment::is_answered)
            }
            ResourceType::ScopedRouteConfiguration => self.has_scope_answer(&kept.key, &kept.name),
            ResourceType::VirtualHost => self.has_host_answer(&kept.key, &kept.name),
            ResourceType::RouteConfiguration => {
                self.tables.get(&kept.key).is_some_and(Table::is_answered)
            }
            ResourceType::ExtensionConfig => {
                self.extensions.get(&kept.key).is_some_and(ExtensionEntry::is_answered)
            }
            _ => self.layers.contains_key(&kept.name),
        }
    }
}
