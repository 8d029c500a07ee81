//! Clusters: CDS, and those of the bootstrap.

use std::sync::Arc;
use std::time::SystemTime;

use crate::client::ResourceType;
use crate::compile::cluster;
use crate::fingerprint::Fingerprint;
use crate::snapshot::{Cluster, Discovery, Eds, Endpoint, EndpointSet, Origin, Sds, Snapshot};
use crate::view::View;

use super::decode;
use super::secrets::User;
use super::{ErrorState, Host, Incoming, Interest, Record, Shown, Stage, Store};

/// A cluster by name.
pub(super) struct ClusterEntry {
    origin: Origin,
    active: Option<Arc<Cluster>>,
    /// A version that waits, with the endpoints of its own: those that it lists, or those of its names
    /// once they are known.
    warming: Option<(Arc<Cluster>, Option<Vec<Endpoint>>)>,
    record: Option<Record>,
    error: Option<ErrorState>,
}

impl ClusterEntry {
    fn new(origin: Origin) -> ClusterEntry {
        ClusterEntry { origin, active: None, warming: None, record: None, error: None }
    }

    /// The version that was accepted last.
    pub(super) fn newest(&self) -> Option<&Arc<Cluster>> {
        self.warming.as_ref().map(|(cluster, _)| cluster).or(self.active.as_ref())
    }

    fn links(&self) -> Links {
        let mut links = Links::default();
        for cluster in self.active.iter().chain(self.warming.iter().map(|(cluster, _)| cluster)) {
            links.add(cluster);
        }
        links
    }
}

/// What clusters refer to.
#[derive(Default)]
struct Links {
    assignments: Vec<Eds>,
    secrets: Vec<Arc<Sds>>,
}

impl Links {
    fn add(&mut self, cluster: &Cluster) {
        if let Discovery::Eds(eds) = &cluster.discovery {
            self.assignments.push(eds.clone());
        }
        self.secrets.extend(secrets(cluster).cloned());
    }
}

fn secrets(cluster: &Cluster) -> impl Iterator<Item = &Arc<Sds>> {
    cluster.tls_configs().flat_map(|tls| tls.common.served.iter())
}

impl Store {
    pub(super) fn add_static_clusters(&mut self, snapshot: &Snapshot) {
        for member in snapshot.clusters.iter() {
            let cluster = &member.cluster;
            let mut entry = ClusterEntry::new(Origin::Static);
            let own = own_endpoints(cluster, member.endpoints.all().to_vec());
            entry.warming = Some((Arc::clone(cluster), own));
            self.clusters.insert(cluster.name.clone(), entry);
            self.warming_clusters.insert(cluster.name.clone());
            self.relink_cluster(&cluster.name, &Links::default());
            self.promote_cluster(&cluster.name);
        }
    }

    pub(super) fn put_cluster(
        &mut self,
        incoming: &Incoming,
        host: &mut dyn Host,
    ) -> Result<(), String> {
        let outcome = self.accept_cluster(incoming, host);
        if outcome.is_err() {
            self.cluster_demand_answered(&incoming.name);
        }
        match (&outcome, self.clusters.get_mut(&*incoming.name)) {
            (Ok(()), Some(entry)) => entry.error = None,
            (Ok(()), None) => {}
            (Err(text), Some(entry)) => entry.error = Some(ErrorState::new(incoming, text)),
            (Err(text), None) => {
                let mut entry = ClusterEntry::new(Origin::Dynamic);
                entry.error = Some(ErrorState::new(incoming, text));
                self.clusters.insert((&*incoming.name).into(), entry);
            }
        }
        outcome
    }

    fn accept_cluster(&mut self, incoming: &Incoming, host: &mut dyn Host) -> Result<(), String> {
        let before = self.clusters.get_mut(&*incoming.name);
        if before.as_ref().is_some_and(|entry| entry.origin == Origin::Static) {
            return Err("name: a static cluster has this name".to_owned());
        }
        if let Some(record) = before.and_then(|entry| entry.record.as_mut())
            && record.repeats(incoming)
        {
            return Ok(());
        }
        let message = self.decode(ResourceType::Cluster, incoming)?;
        let fingerprint = Fingerprint::of(&message, &[]);
        let record = self.clusters.get_mut(&*incoming.name).and_then(|entry| entry.record.as_mut());
        if let Some(record) = record.filter(|record| record.fingerprint == fingerprint) {
            *record = Store::record(incoming, fingerprint);
            return Ok(());
        }
        let (cluster, endpoints) = self.compile_cluster(&View::new(&message, &self.schema))?;
        let cluster = Arc::new(cluster);
        host.prepare_cluster(&cluster)?;

        let name = &*cluster.name;
        let entry =
            self.clusters.entry(name.into()).or_insert_with(|| ClusterEntry::new(Origin::Dynamic));
        let linked = entry.links();
        entry.record = Some(Store::record(incoming, fingerprint));
        let own = own_endpoints(&cluster, endpoints);
        entry.warming = Some((Arc::clone(&cluster), own));
        self.warming_clusters.insert(name.into());
        self.dns_changed |= cluster.discovery.is_dns();
        self.relink_cluster(name, &linked);
        if let Discovery::Eds(eds) = &cluster.discovery
            && linked.assignments.iter().any(|known| known.key == eds.key)
        {
            // W-05: servers send the endpoints of a changed cluster again when they are asked.
            let (place, name) = (eds.source.place.clone(), Arc::from(&*eds.name));
            self.interests.push(Interest::Again(ResourceType::ClusterLoadAssignment, place, name));
        }
        self.promote_cluster(name);
        Ok(())
    }

    fn compile_cluster(&self, view: &View<'_>) -> Result<(Cluster, Vec<Endpoint>), String> {
        let has_cluster = |name: &str| self.has_cluster(name);
        let context = self.ground.context(self.snapshot.clusters.names(), &has_cluster);
        cluster::compile(view, &context).map_err(|found| decode::text(&found))
    }

    pub(super) fn remove_cluster(&mut self, name: &str) {
        self.give_cluster_demand_up(name);
        if self.clusters.get(name).is_none_or(|entry| entry.origin == Origin::Static) {
            return;
        }
        let Some(entry) = self.clusters.remove(name) else { return };
        self.warming_clusters.remove(name);
        self.active_clusters -= usize::from(entry.active.is_some());
        let linked = entry.links();
        self.relink_cluster(name, &linked);
        self.dns_changed |= entry.newest().is_some_and(|cluster| cluster.discovery.is_dns());
        if let Some(id) = self.snapshot.clusters.id(name) {
            self.snapshot.clusters.remove(id);
            self.is_changed = true;
            self.counts.clusters_removed += 1;
        }
        self.go_on();
    }

    pub(super) fn has_cluster(&self, name: &str) -> bool {
        self.clusters.get(name).is_some_and(|entry| entry.newest().is_some())
            || self.snapshot.clusters.id(name).is_some()
    }

    pub(super) fn is_static_cluster(&self, name: &str) -> bool {
        self.clusters.get(name).is_some_and(|entry| entry.origin == Origin::Static)
    }

    /// Serves the version that waits, if there is nothing left to wait for.
    pub(super) fn promote_cluster(&mut self, name: &str) {
        let Some(entry) = self.clusters.get(name) else { return };
        let Some((cluster, own)) = &entry.warming else { return };
        if self.missing(secrets(cluster)).next().is_some() {
            return;
        }
        let member =
            self.snapshot.clusters.id(name).and_then(|id| self.snapshot.clusters.member(id));
        // Endpoints of names are kept where the same names are asked.
        let served = member.filter(|member| {
            entry.active.is_some() && member.cluster.discovery == cluster.discovery
        });
        let endpoints = match (&cluster.discovery, own, served) {
            (Discovery::Eds(eds), ..) => {
                match self.assignments.get(&eds.key).and_then(|it| it.members(cluster)) {
                    Some(endpoints) => endpoints,
                    None => return,
                }
            }
            (_, Some(own), _) => EndpointSet::new(own.clone(), cluster.panic),
            (_, None, Some(served)) => {
                EndpointSet::new(served.endpoints.all().to_vec(), cluster.panic)
            }
            (_, None, None) => return,
        };
        let endpoints = match member {
            Some(member) if *member.endpoints == endpoints => Arc::clone(&member.endpoints),
            _ => Arc::new(endpoints),
        };
        self.serve_cluster(name, endpoints);
    }

    /// New endpoints of a cluster's names.
    pub fn resolved(&mut self, name: &str, endpoints: Vec<Endpoint>) {
        let Some(entry) = self.clusters.get_mut(name) else { return };
        if let Some((cluster, own)) = &mut entry.warming {
            if cluster.discovery.is_dns() {
                *own = Some(endpoints);
                self.promote_cluster(name);
            }
            return;
        }
        let Some(cluster) = entry.active.as_ref().filter(|cluster| cluster.discovery.is_dns())
        else {
            return;
        };
        let endpoints = Arc::new(EndpointSet::new(endpoints, cluster.panic));
        if let Some(id) = self.snapshot.clusters.id(name)
            && self.snapshot.clusters.endpoints(id) != Some(&endpoints)
        {
            self.snapshot.clusters.set_endpoints(id, endpoints);
            self.is_changed = true;
        }
    }

    fn serve_cluster(&mut self, name: &str, endpoints: Arc<EndpointSet>) {
        let Some(entry) = self.clusters.get_mut(name) else { return };
        let Some((cluster, _)) = entry.warming.take() else { return };
        self.warming_clusters.remove(name);
        match entry.active {
            None => {
                self.active_clusters += 1;
                self.counts.clusters_added += 1;
            }
            Some(_) => self.counts.clusters_modified += 1,
        }
        let mut linked = Links::default();
        entry.active.iter().chain([&cluster]).for_each(|cluster| linked.add(cluster));
        entry.active = Some(Arc::clone(&cluster));
        self.snapshot.clusters.put(cluster, endpoints, entry.origin);
        self.is_changed = true;
        self.relink_cluster(name, &linked);
        self.cluster_demand_answered(name);
        self.go_on();
    }

    /// The clusters whose names are to be resolved, when they are others than when this was last asked.
    pub fn take_dns_clusters(&mut self) -> Option<Vec<Arc<Cluster>>> {
        if !std::mem::take(&mut self.dns_changed) {
            return None;
        }
        let newest = self.clusters.values().filter_map(ClusterEntry::newest);
        Some(newest.filter(|cluster| cluster.discovery.is_dns()).map(Arc::clone).collect())
    }

    /// Asks for what the cluster refers to, and no longer for that of `before` to which it does not.
    fn relink_cluster(&mut self, name: &str, before: &Links) {
        let now = self.clusters.get(name).map(ClusterEntry::links).unwrap_or_default();
        for eds in &now.assignments {
            self.use_assignment(eds, name);
        }
        let kept = |eds: &&Eds| now.assignments.iter().any(|known| known.key == eds.key);
        for eds in before.assignments.iter().filter(|eds| !kept(eds)) {
            self.leave_assignment(eds, name);
        }
        if !now.secrets.is_empty() || !before.secrets.is_empty() {
            self.relink_secrets(&User::Cluster(name.into()), &before.secrets, &now.secrets);
        }
    }

    /// How many clusters are served and how many wait.
    #[must_use]
    pub fn cluster_counts(&self) -> (usize, usize) {
        (self.active_clusters, self.warming_clusters.len())
    }

    /// The clusters of CDS, by name.
    pub fn dynamic_clusters(&self) -> impl Iterator<Item = Shown> {
        let dynamic = self.clusters.iter().filter(|(_, entry)| entry.origin == Origin::Dynamic);
        dynamic.map(|(name, entry)| Shown {
            name: name.clone(),
            stage: Stage::of(entry.active.is_some(), entry.warming.is_some()),
            record: entry.record.clone(),
            error: entry.error.clone(),
        })
    }

    /// Versions of clusters that wait.
    fn warming_clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let entries = self.warming_clusters.iter().filter_map(|name| self.clusters.get(name));
        entries.filter_map(|entry| entry.warming.as_ref()).map(|(cluster, _)| cluster)
    }

    /// Whether listeners wait for a cluster at the start.
    pub(super) fn has_cold_cluster(&self) -> bool {
        self.warming_clusters().any(|cluster| cluster.wait_for_warm_on_init)
    }

    /// What each cluster that waits waits for.
    pub(super) fn cold_clusters(&self) -> Vec<String> {
        let mut cold = Vec::new();
        for cluster in self.warming_clusters() {
            let name = &cluster.name;
            let missing = self.missing(secrets(cluster));
            let before = cold.len();
            cold.extend(missing.map(|sds| format!("cluster {name}: secret {}", sds.name)));
            match &cluster.discovery {
                Discovery::Eds(eds) if !self.has_assignment(eds) => {
                    cold.push(format!("cluster {name}: endpoints {}", eds.name));
                }
                // Only what else there is to wait for is left.
                _ if cold.len() == before => cold.push(format!("cluster {name}: names")),
                _ => {}
            }
        }
        cold
    }
}

/// What a cluster lists itself; nothing where endpoints come from elsewhere.
fn own_endpoints(cluster: &Cluster, listed: Vec<Endpoint>) -> Option<Vec<Endpoint>> {
    let come = cluster.discovery.is_dns() || matches!(cluster.discovery, Discovery::Eds(_));
    (!come).then_some(listed)
}

impl ErrorState {
    pub(super) fn new(incoming: &Incoming, text: &str) -> ErrorState {
        ErrorState {
            version: Arc::clone(&incoming.version),
            text: text.into(),
            at: SystemTime::now(),
        }
    }
}

impl Record {
    /// Whether the same content comes again; then only its version is new (V-08).
    pub(super) fn repeats(&mut self, incoming: &Incoming) -> bool {
        let same = self.content == incoming.content;
        if same {
            self.version = Arc::clone(&incoming.version);
        }
        same
    }
}

impl Stage {
    pub(super) fn of(is_active: bool, is_warming: bool) -> Stage {
        match (is_active, is_warming) {
            (_, true) => Stage::Warming,
            (true, false) => Stage::Active,
            (false, false) => Stage::Refused,
        }
    }
}
