//! What was asked for because a request needed it (xds.md D-17): virtual hosts one by one, beside those
//! that a table has anyway, tables of scopes, and clusters that routes name.
//!
//! A name that a server says does not exist, or does not answer for, is given up: a later request may ask
//! again. One that has an answer stays asked for, so that its changes come, and is not asked for once more by
//! a request that finds no route in it: Envoy would, for as long as there is none. Invariant: every demand that
//! was taken is settled once, by an answer, by the end of the wait, or because nobody can answer any more;
//! and no more names are asked for than [`NAMES_MAX`], however many hosts clients make up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::client::ResourceType;
use crate::snapshot::{ConfigPlace, ConfigSource, Demand};

use super::virtual_hosts::Hosts;
use super::{Interest, Store};

/// More is asked for than may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much is asked for on demand")]
pub struct TooManyDemands;

/// What was asked for by name: virtual hosts of a table, or clusters.
#[derive(Debug, Clone, Default)]
pub(super) struct Demands {
    names: BTreeMap<Box<str>, Progress>,
    waiting: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    Answered,
}

impl Demands {
    fn add(&mut self, name: &str) {
        self.names.insert(name.into(), Progress::Waiting);
        self.waiting += 1;
    }

    /// Whether this is the first answer for a name that was asked for.
    fn answer(&mut self, name: &str) -> bool {
        let Some(progress) = self.names.get_mut(name) else { return false };
        let is_first = std::mem::replace(progress, Progress::Answered) == Progress::Waiting;
        self.waiting -= usize::from(is_first);
        is_first
    }

    /// Whether the name was asked for, and whether somebody waits for it; it no longer is.
    fn give_up(&mut self, name: &str) -> Option<bool> {
        let waits = self.names.remove(name)? == Progress::Waiting;
        self.waiting -= usize::from(waits);
        Some(waits)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }
}

/// Clusters that were asked for.
#[derive(Debug, Default)]
pub(super) struct ClusterDemands {
    demands: Demands,
    /// Who was asked, by name.
    sources: BTreeMap<Box<str>, Vec<Arc<ConfigSource>>>,
}

impl ClusterDemands {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.demands.contains(name)
    }
}

impl Store {
    /// Asks for what a request needs. It is among [`Store::take_settled`] when there is nothing to wait
    /// for any more, which may be at once: the one who needs it looks for itself what has come of it.
    ///
    /// # Errors
    /// When too much is asked for already.
    pub fn demand(&mut self, demand: Demand) -> Result<(), TooManyDemands> {
        match &demand {
            Demand::VirtualHost { table, host } => {
                let (table, host) = (Arc::clone(table), host.clone());
                self.demand_host(&table, &host, demand)
            }
            Demand::Scope { set, scope } => {
                let (set, scope) = (Arc::clone(set), Arc::clone(scope));
                if self.demand_scope(&set, &scope) {
                    self.settled.push(demand);
                }
                Ok(())
            }
            Demand::Cluster { source, cluster } => {
                let (source, cluster) = (Arc::clone(source), cluster.clone());
                self.demand_cluster(&source, &cluster, demand)
            }
        }
    }

    /// Demands for which nobody need wait any more. They are to be told after what
    /// [`Store::take_changes`] has is in effect.
    pub fn take_settled(&mut self) -> Vec<Demand> {
        std::mem::take(&mut self.settled)
    }

    /// Virtual hosts that are asked for one by one.
    #[must_use]
    pub fn demands(&self) -> usize {
        self.demands_of_tables().map(|demands| demands.names.len()).sum()
    }

    /// Clusters that are asked for one by one.
    #[must_use]
    pub fn cluster_demands(&self) -> usize {
        self.cluster_demands.demands.names.len()
    }

    fn has_too_many_demands(&self) -> bool {
        let clusters = &self.cluster_demands.demands;
        let waiting: usize = self.demands_of_tables().map(|demands| demands.waiting).sum();
        waiting + clusters.waiting >= WAITING_MAX
            || self.demands() + self.cluster_demands() >= NAMES_MAX
    }

    fn demand_cluster(
        &mut self,
        source: &Arc<ConfigSource>,
        name: &str,
        demand: Demand,
    ) -> Result<(), TooManyDemands> {
        let progress = self.cluster_demands.demands.names.get(name).copied();
        let is_settled = self.snapshot.clusters.id(name).is_some()
            || self.is_static_cluster(name)
            || progress == Some(Progress::Answered);
        if is_settled {
            self.settled.push(demand);
            return Ok(());
        }
        if progress.is_none() {
            if self.has_too_many_demands() {
                return Err(TooManyDemands);
            }
            self.cluster_demands.demands.add(name);
        }
        let sources = self.cluster_demands.sources.entry(name.into()).or_default();
        if !sources.contains(source) {
            sources.push(Arc::clone(source));
            let ConfigSource { place, initial_fetch_timeout } = ConfigSource::clone(source);
            let patience = initial_fetch_timeout.map_or(PATIENCE, |own| own.min(PATIENCE));
            let source = ConfigSource { place, initial_fetch_timeout: Some(patience) };
            self.interests.push(Interest::One(ResourceType::Cluster, source, name.into()));
        }
        Ok(())
    }

    /// A cluster is served, or was refused: nobody need wait for it.
    pub(super) fn cluster_demand_answered(&mut self, name: &str) {
        if self.cluster_demands.demands.answer(name) {
            let sources = self.cluster_demands.sources.get(name).into_iter().flatten();
            self.settled.extend(sources.map(|source| Demand::Cluster {
                source: Arc::clone(source),
                cluster: name.into(),
            }));
        }
    }

    /// There is no such cluster: if it was asked for by its name, it no longer is.
    pub(super) fn give_cluster_demand_up(&mut self, name: &str) {
        self.cluster_demand_answered(name);
        self.cluster_demands.demands.give_up(name);
        for source in self.cluster_demands.sources.remove(name).unwrap_or_default() {
            let (kind, place) = (ResourceType::Cluster, source.place.clone());
            self.interests.push(Interest::None(kind, place, name.into()));
        }
    }

    fn demand_host(&mut self, key: &str, host: &str, demand: Demand) -> Result<(), TooManyDemands> {
        let is_full = self.has_too_many_demands();
        let known = self.tables.get_mut(key);
        let Some((name, hosts)) = known.and_then(|it| Some((&it.named.name, it.hosts.as_mut()?)))
        else {
            self.settled.push(demand);
            return Ok(());
        };
        let name = format!("{name}/{host}");
        match hosts.demands.names.get(&*name) {
            Some(Progress::Waiting) => return Ok(()),
            Some(Progress::Answered) => self.settled.push(demand),
            None if hosts.knows(&name) => self.settled.push(demand),
            None if is_full => return Err(TooManyDemands),
            None => {
                hosts.demands.add(&name);
                let ConfigSource { place, initial_fetch_timeout } = hosts.source.clone();
                let patience = initial_fetch_timeout.map_or(PATIENCE, |own| own.min(PATIENCE));
                let source = ConfigSource { place, initial_fetch_timeout: Some(patience) };
                let kind = ResourceType::VirtualHost;
                self.interests.push(Interest::One(kind, source, name.into()));
            }
        }
        Ok(())
    }

    /// There is an answer for these names, of a table.
    pub(super) fn demands_answered(&mut self, key: &str, names: &[&str]) {
        let Some(table) = self.tables.get_mut(key) else { return };
        let Some(hosts) = &mut table.hosts else { return };
        for name in names {
            if hosts.demands.answer(name) {
                self.settled.extend(demand(key, &table.named.name, name));
            }
        }
    }

    /// There is nothing by these names, of a table: if they were asked for, they no longer are.
    pub(super) fn give_demands_up(&mut self, key: &str, names: &[Box<str>]) {
        let Some(table) = self.tables.get_mut(key) else { return };
        let (of, hosts) = (table.named.name.clone(), &mut table.hosts);
        let Some(hosts) = hosts else { return };
        let place = hosts.source.place.clone();
        let given_up = names.iter().filter_map(|name| {
            let waits = hosts.demands.give_up(name)?;
            Some((name.clone(), waits))
        });
        let given_up: Vec<_> = given_up.collect();
        self.leave_demands(key, &of, &place, given_up);
    }

    /// A table is gone, or has its virtual hosts from elsewhere: what was asked for is not any more.
    pub(super) fn leave_hosts_demands(&mut self, key: &str, of: &str, before: Hosts) {
        let Hosts { source, demands, .. } = before;
        let all = demands.names.into_iter();
        let all = all.map(|(name, progress)| (name, progress == Progress::Waiting)).collect();
        self.leave_demands(key, of, &source.place, all);
    }

    fn leave_demands(
        &mut self,
        key: &str,
        of: &str,
        place: &ConfigPlace,
        names: Vec<(Box<str>, bool)>,
    ) {
        for (name, waits) in names {
            if waits {
                self.settled.extend(demand(key, of, &name));
            }
            let is_needed = self.hosted_by(place, of).iter().any(|key| {
                let hosts = self.tables.get(&**key).and_then(|table| table.hosts.as_ref());
                hosts.is_some_and(|hosts| hosts.demands.contains(&name))
            });
            if !is_needed {
                let (kind, name) = (ResourceType::VirtualHost, Arc::from(name));
                self.interests.push(Interest::None(kind, place.clone(), name));
            }
        }
    }

    fn demands_of_tables(&self) -> impl Iterator<Item = &Demands> {
        let tables = self.hosted.iter().filter_map(|key| self.tables.get(&**key));
        tables.filter_map(|table| Some(&table.hosts.as_ref()?.demands))
    }
}

/// The demand for a virtual host by the name of its resource, in the table `of` with that key.
fn demand(key: &str, of: &str, name: &str) -> Option<Demand> {
    let host = name.strip_prefix(of)?.strip_prefix('/')?;
    Some(Demand::VirtualHost { table: key.into(), host: host.into() })
}

/// Names that are asked for one by one, with or without an answer: as many as a configuration is
/// made for.
const NAMES_MAX: usize = 10_000;

/// Those of them that have no answer. Hosts that clients make up are among these for one round trip to
/// the server each, and no more of them are under way than this.
const WAITING_MAX: usize = 1024;

/// How long an answer is waited for if the source says no less (S-12).
const PATIENCE: Duration = Duration::from_secs(15);
