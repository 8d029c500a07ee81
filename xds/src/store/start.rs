//! The order of a start (W-03): layers of the runtime, clusters of the file and of CDS first, then
//! listeners. No listener accepts before all listeners are known and what it needs itself is there; the
//! start is over when that is so of all of them.

use crate::client::ResourceType;

use super::{Interest, Store};

/// How far a start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Layers of the runtime are asked for.
    #[default]
    Runtime,
    /// Clusters are asked for and warmed.
    Clusters,
    /// Listeners are asked for and warmed.
    Listeners,
    /// All listeners accept.
    Live,
}

#[derive(Debug, Default)]
pub(super) struct Start {
    phase: Phase,
    /// All of the bootstrap is in the store.
    has_begun: bool,
    /// Those that no answer has come for.
    layers: Vec<String>,
    clusters_answered: bool,
    listeners_answered: bool,
}

impl Start {
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// One that waits for what never comes keeps no other from its work.
    pub(super) fn lets_accept(&self) -> bool {
        match self.phase {
            Phase::Runtime | Phase::Clusters => false,
            Phase::Listeners => self.listeners_answered,
            Phase::Live => true,
        }
    }

    pub(super) fn has_answer(&self, kind: ResourceType) -> bool {
        match kind {
            ResourceType::Cluster => self.clusters_answered,
            ResourceType::Listener => self.listeners_answered,
            _ => false,
        }
    }

    /// Nothing is waited for but what resources wait for themselves.
    pub(super) fn restored(&mut self) {
        self.layers.clear();
        self.clusters_answered = true;
        self.listeners_answered = true;
    }

    pub(super) fn layer_answered(&mut self, name: &str) {
        self.layers.retain(|known| known != name);
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
        for (name, source) in self.ground.runtime.sources() {
            let interest = Interest::One(ResourceType::Runtime, source, name.as_str().into());
            self.interests.push(interest);
            self.start.layers.push(name);
        }
        self.start.has_begun = true;
        self.go_on();
    }

    /// Takes the steps that can be taken.
    pub(super) fn go_on(&mut self) {
        if !self.start.has_begun {
            return;
        }
        if self.start.phase == Phase::Runtime && self.start.layers.is_empty() {
            self.start.phase = Phase::Clusters;
            match self.ground.dynamic.cds.clone() {
                Some(source) => self.interests.push(Interest::All(ResourceType::Cluster, source)),
                None => self.start.clusters_answered = true,
            }
        }
        if self.start.phase == Phase::Clusters
            && self.start.clusters_answered
            && !self.has_cold_cluster()
        {
            self.start.phase = Phase::Listeners;
            match self.ground.dynamic.lds.clone() {
                Some(source) => self.interests.push(Interest::All(ResourceType::Listener, source)),
                None => self.start.listeners_answered = true,
            }
        }
        if self.start.phase == Phase::Listeners
            && self.start.listeners_answered
            && self.listeners.values().all(|entry| entry.warming.is_none())
        {
            self.start.phase = Phase::Live;
        }
    }
}
