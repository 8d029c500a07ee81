//! A resource that others ask for by name: who they are, and what servers last said of it.
//!
//! Invariant: it is asked for exactly as long as it has a user.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::client::ResourceType;
use crate::fingerprint::Fingerprint;
use crate::snapshot::{ConfigPlace, ConfigSource};

use super::{ErrorState, Incoming, Interest, Record, Shown, Stage, Store};

/// See the module. `U` says who uses it.
pub(super) struct Named<U> {
    kind: ResourceType,
    pub(super) name: Box<str>,
    place: ConfigPlace,
    pub(super) users: BTreeSet<U>,
    pub(super) record: Option<Record>,
    error: Option<ErrorState>,
}

impl<U: Ord> Named<U> {
    /// One that nobody has asked for before, and how to ask.
    pub(super) fn new(
        kind: ResourceType,
        name: &str,
        source: &ConfigSource,
    ) -> (Named<U>, Interest) {
        let place = source.place.clone();
        let users = BTreeSet::new();
        let named = Named { kind, name: name.into(), place, users, record: None, error: None };
        (named, Interest::One(kind, source.clone(), name.into()))
    }

    /// Whether the user is a new one.
    pub(super) fn join(&mut self, user: U) -> bool {
        self.users.insert(user)
    }

    /// What to ask no longer if that was the last user.
    pub(super) fn leave<Q: Ord + ?Sized>(&mut self, user: &Q) -> Option<Interest>
    where
        U: Borrow<Q>,
    {
        self.users.remove(user);
        let none = || Interest::None(self.kind, self.place.clone(), Arc::from(&*self.name));
        self.users.is_empty().then(none)
    }

    /// Whether what was accepted last comes again.
    pub(super) fn repeats(&mut self, incoming: &Incoming) -> bool {
        let repeats = self.record.as_mut().is_some_and(|record| record.repeats(incoming));
        if repeats {
            self.error = None;
        }
        repeats
    }

    /// It was accepted. Whether it says something else than before.
    pub(super) fn accept(&mut self, incoming: &Incoming, fingerprint: Fingerprint) -> bool {
        self.error = None;
        let before = self.record.replace(Store::record(incoming, fingerprint));
        before.is_none_or(|before| before.fingerprint != fingerprint)
    }

    /// It was refused: what was accepted before holds.
    pub(super) fn refuse(&mut self, incoming: &Incoming, text: &str) {
        self.error = Some(ErrorState::new(incoming, text));
    }

    pub(super) fn shown(&self, is_answered: bool) -> (&ConfigPlace, Shown) {
        let shown = Shown {
            name: self.name.clone(),
            stage: Stage::of(is_answered, !is_answered),
            record: self.record.clone(),
            error: self.error.clone(),
        };
        (&self.place, shown)
    }
}
