//! Endpoints of clusters: EDS. Several clusters may share one assignment (W-06).

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::client::ResourceType;
use crate::compile::endpoints::{self, Members};
use crate::fingerprint::Fingerprint;
use crate::snapshot::{Cluster, ConfigPlace, Discovery, Eds, EndpointSet};
use crate::view::View;

use super::decode;
use super::{ErrorState, Incoming, Interest, Outcome, Record, Shown, Stage, Store, Watched};

/// A ClusterLoadAssignment that clusters refer to.
pub(super) struct Assignment {
    name: Box<str>,
    place: ConfigPlace,
    users: BTreeSet<Box<str>>,
    /// `None` until there is an answer.
    members: Option<Members>,
    record: Option<Record>,
    error: Option<ErrorState>,
}

impl Assignment {
    pub(super) fn is_answered(&self) -> bool {
        self.members.is_some()
    }

    /// The endpoints as `cluster` uses them; nothing before there is an answer.
    pub(super) fn members(&self, cluster: &Cluster) -> Option<EndpointSet> {
        let members = self.members.as_ref()?;
        let mut panic = cluster.panic;
        panic.overprovisioning_factor =
            members.overprovisioning_factor.unwrap_or(panic.overprovisioning_factor);
        Some(EndpointSet::new(members.endpoints.clone(), panic))
    }
}

impl Store {
    pub(super) fn use_assignment(&mut self, eds: &Eds, cluster: &str) {
        let known = self.assignments.entry(eds.key.clone()).or_insert_with(|| {
            let name = Arc::from(&*eds.name);
            let kind = ResourceType::ClusterLoadAssignment;
            self.interests.push(Interest::One(kind, eds.source.clone(), name));
            Assignment {
                name: eds.name.clone(),
                place: eds.source.place.clone(),
                users: BTreeSet::new(),
                members: None,
                record: None,
                error: None,
            }
        });
        if !known.users.contains(cluster) {
            known.users.insert(cluster.into());
            self.note_assignment(&eds.key, Outcome::Asked);
        }
    }

    /// Whether there is an answer.
    pub(super) fn has_assignment(&self, eds: &Eds) -> bool {
        self.assignments.get(&eds.key).is_some_and(Assignment::is_answered)
    }

    /// Counts for the clusters that use an assignment.
    pub(super) fn note_assignment(&mut self, key: &str, outcome: Outcome) {
        let Some(known) = self.assignments.get(key) else { return };
        for name in &known.users {
            let cluster = self.clusters.get(name).and_then(super::ClusterEntry::newest);
            let name = cluster.map_or(name, |cluster| &cluster.stat_name);
            self.outcomes.push((Watched::Endpoints(name.clone()), outcome));
        }
    }

    pub(super) fn leave_assignment(&mut self, eds: &Eds, cluster: &str) {
        let Some(known) = self.assignments.get_mut(&eds.key) else { return };
        known.users.remove(cluster);
        if known.users.is_empty() {
            self.assignments.remove(&eds.key);
            let (place, name) = (eds.source.place.clone(), Arc::from(&*eds.name));
            self.interests.push(Interest::None(ResourceType::ClusterLoadAssignment, place, name));
        }
    }

    pub(super) fn put_assignment(
        &mut self,
        place: &ConfigPlace,
        incoming: &Incoming,
    ) -> Result<(), String> {
        let key = place.key(&incoming.name);
        let outcome = self.judge_assignment(&key, incoming);
        let noted = if outcome.is_ok() { Outcome::Accepted } else { Outcome::Refused };
        self.note_assignment(&key, noted);
        outcome
    }

    pub(super) fn judge_assignment(
        &mut self,
        key: &str,
        incoming: &Incoming,
    ) -> Result<(), String> {
        let Some(known) = self.assignments.get_mut(key) else { return Ok(()) };
        if known.record.as_mut().is_some_and(|record| record.repeats(incoming)) {
            known.error = None;
            return Ok(());
        }
        let compiled = self.compile_assignment(incoming);
        let Some(known) = self.assignments.get_mut(key) else { return Ok(()) };
        match compiled {
            Ok((members, fingerprint)) => {
                known.error = None;
                let same =
                    known.record.as_ref().is_some_and(|record| record.fingerprint == fingerprint);
                known.record = Some(Store::record(incoming, fingerprint));
                if !same {
                    known.members = Some(members);
                    self.endpoints_changed(key);
                }
                Ok(())
            }
            Err(text) => {
                known.error = Some(ErrorState::new(incoming, &text));
                Err(text)
            }
        }
    }

    fn compile_assignment(
        &mut self,
        incoming: &Incoming,
    ) -> Result<(Members, Fingerprint), String> {
        let message = self.decode(ResourceType::ClusterLoadAssignment, incoming)?;
        let fingerprint = Fingerprint::of(&message, &[]);
        let members = endpoints::compile(&View::new(&message, &self.schema))
            .map_err(|found| decode::text(&found))?;
        Ok((members, fingerprint))
    }

    /// There are no endpoints of this name.
    pub(super) fn no_assignment(&mut self, key: &str) {
        let Some(known) = self.assignments.get_mut(key) else { return };
        known.record = None;
        known.members = Some(Members::default());
        self.endpoints_changed(key);
    }

    /// Gives the clusters that use an assignment its endpoints.
    fn endpoints_changed(&mut self, key: &str) {
        let Some(known) = self.assignments.get(key) else { return };
        let clusters = &mut self.snapshot.clusters;
        for name in &known.users {
            let Some(id) = clusters.id(name) else { continue };
            let Some(member) = clusters.member(id) else { continue };
            // A version that waits may have another assignment than the one that is served.
            if !matches!(&member.cluster.discovery, Discovery::Eds(eds) if *eds.key == *key) {
                continue;
            }
            if let Some(endpoints) = known.members(&member.cluster)
                && *member.endpoints != endpoints
            {
                clusters.set_endpoints(id, Arc::new(endpoints));
                self.is_changed = true;
            }
        }
        for name in known.users.clone() {
            self.promote_cluster(&name);
        }
    }

    /// The assignments that were asked for.
    pub fn assignments(&self) -> impl Iterator<Item = (&ConfigPlace, Shown)> {
        self.assignments.values().map(|known| {
            let shown = Shown {
                name: known.name.clone(),
                stage: Stage::of(known.members.is_some(), known.members.is_none()),
                record: known.record.clone(),
                error: known.error.clone(),
            };
            (&known.place, shown)
        })
    }
}
