//! Endpoints of clusters: EDS. Several clusters may share one assignment (W-06).

use std::sync::Arc;

use crate::client::ResourceType;
use crate::compile::endpoints::{self, Members};
use crate::fingerprint::Fingerprint;
use crate::snapshot::{Cluster, ConfigPlace, Discovery, Eds, EndpointSet};
use crate::view::View;

use super::decode;
use super::named::Named;
use super::{Incoming, Outcome, Shown, Store, Watched};

/// A ClusterLoadAssignment that clusters refer to.
pub(super) struct Assignment {
    /// The users are clusters, by their names.
    named: Named<Box<str>>,
    /// `None` until there is an answer.
    members: Option<Members>,
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
            let kind = ResourceType::ClusterLoadAssignment;
            let (named, interest) = Named::new(kind, &eds.name, &eds.source);
            self.interests.push(interest);
            Assignment { named, members: None }
        });
        if known.named.join(cluster.into()) {
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
        for name in &known.named.users {
            let cluster = self.clusters.get(name).and_then(super::ClusterEntry::newest);
            let name = cluster.map_or(name, |cluster| &cluster.stat_name);
            self.outcomes.push((Watched::Endpoints(name.clone()), outcome));
        }
    }

    pub(super) fn leave_assignment(&mut self, eds: &Eds, cluster: &str) {
        let Some(known) = self.assignments.get_mut(&eds.key) else { return };
        if let Some(interest) = known.named.leave(cluster) {
            self.assignments.remove(&eds.key);
            self.interests.push(interest);
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
        if known.named.repeats(incoming) {
            return Ok(());
        }
        let compiled = self.compile_assignment(incoming);
        let Some(known) = self.assignments.get_mut(key) else { return Ok(()) };
        let refuse = |text: &String| known.named.refuse(incoming, text);
        let (members, fingerprint) = compiled.inspect_err(refuse)?;
        if known.named.accept(incoming, fingerprint) {
            known.members = Some(members);
            self.endpoints_changed(key);
        }
        Ok(())
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
        known.named.record = None;
        known.members = Some(Members::default());
        self.endpoints_changed(key);
    }

    /// Gives the clusters that use an assignment its endpoints.
    fn endpoints_changed(&mut self, key: &str) {
        let Some(known) = self.assignments.get(key) else { return };
        let clusters = &mut self.snapshot.clusters;
        for name in &known.named.users {
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
        for name in known.named.users.clone() {
            self.promote_cluster(&name);
        }
    }

    /// The assignments that were asked for.
    pub fn assignments(&self) -> impl Iterator<Item = (&ConfigPlace, Shown)> {
        self.assignments.values().map(|known| known.named.shown(known.is_answered()))
    }
}
