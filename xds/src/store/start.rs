//! The order of a start (W-03): clusters of the file and of CDS first, then listeners, and nothing is
//! accepted before all of them are warm.

use crate::client::ResourceType;

use super::{Interest, Store};

/// How far a start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Clusters are asked for and warmed.
    #[default]
    Clusters,
    /// Listeners are asked for and warmed.
    Listeners,
    /// Listeners accept.
    Live,
}

#[derive(Debug, Default)]
pub(super) struct Start {
    phase: Phase,
    clusters_answered: bool,
    listeners_answered: bool,
}

impl Start {
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn answered(&mut self, kind: ResourceType) {
        match kind {
            ResourceType::Cluster => self.clusters_answered = true,
            ResourceType::Listener => self.listeners_answered = true,
            _ => {}
        }
    }
}

impl Store {
    pub(super) fn begin(&mut self) {
        match self.ground.dynamic.cds.clone() {
            Some(source) => self.interests.push(Interest::All(ResourceType::Cluster, source)),
            None => self.start.clusters_answered = true,
        }
        self.go_on();
    }

    /// Takes the steps that can be taken.
    pub(super) fn go_on(&mut self) {
        let start = &mut self.start;
        let cold = |entry: &super::ClusterEntry| entry.holds_start();
        if start.phase == Phase::Clusters
            && start.clusters_answered
            && !self.clusters.values().any(cold)
        {
            start.phase = Phase::Listeners;
            match self.ground.dynamic.lds.clone() {
                Some(source) => self.interests.push(Interest::All(ResourceType::Listener, source)),
                None => start.listeners_answered = true,
            }
        }
        if start.phase == Phase::Listeners
            && start.listeners_answered
            && self.listeners.values().all(|entry| entry.warming.is_none())
        {
            start.phase = Phase::Live;
        }
    }
}
