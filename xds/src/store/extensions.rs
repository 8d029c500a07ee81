//! Configurations of filters that listeners name: ECDS.
//!
//! A listener waits for those that have no default which may serve at once. A later version goes to all
//! who name it, and no connection ends for it. One that can't be had leaves what is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::client::ResourceType;
use crate::compile::{discovery, http_filters};
use crate::fingerprint::Fingerprint;
use crate::snapshot::{
    ConfigPlace, Extension, FilterChain, FilterConfig, FilterDiscovery, FilterPlace, FilterSource,
    HttpConnectionManager, HttpFilter, Listener,
};
use crate::view::View;

use super::{ErrorState, Incoming, Interest, Outcome, Record, Shown, Stage, Store, Watched};
use super::{decode, listeners};

/// A TypedExtensionConfig that listeners refer to.
pub(super) struct ExtensionEntry {
    name: Box<str>,
    place: ConfigPlace,
    /// Where the first filter stands that named it: that is where it is counted.
    stands: FilterPlace,
    users: BTreeSet<Box<str>>,
    is_answered: bool,
    record: Option<Record>,
    error: Option<ErrorState>,
    /// The full name of the type that it was last of.
    kind: Option<String>,
}

impl ExtensionEntry {
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }
}

impl Store {
    pub(super) fn use_extension(&mut self, wanted: &FilterDiscovery, listener: &str) {
        let known = self.extensions.entry(wanted.key.clone()).or_insert_with(|| {
            let (kind, name) = (ResourceType::ExtensionConfig, Arc::from(&*wanted.name));
            self.interests.push(Interest::One(kind, wanted.source.clone(), name));
            self.outcomes
                .push((Watched::Extension(wanted.place, wanted.name.clone()), Outcome::Asked));
            ExtensionEntry {
                name: wanted.name.clone(),
                place: wanted.source.place.clone(),
                stands: wanted.place,
                users: BTreeSet::new(),
                is_answered: false,
                record: None,
                error: None,
                kind: None,
            }
        });
        if !known.users.contains(listener) {
            known.users.insert(listener.into());
        }
    }

    pub(super) fn leave_extension(&mut self, wanted: &FilterDiscovery, listener: &str) {
        let Some(known) = self.extensions.get_mut(&wanted.key) else { return };
        known.users.remove(listener);
        if known.users.is_empty() {
            self.extensions.remove(&wanted.key);
            if self.snapshot.extensions.contains_key(&wanted.key) {
                Arc::make_mut(&mut self.snapshot.extensions).remove(&wanted.key);
                self.is_changed = true;
            }
            let (place, name) = (wanted.source.place.clone(), Arc::from(&*wanted.name));
            self.interests.push(Interest::None(ResourceType::ExtensionConfig, place, name));
        }
    }

    pub(super) fn note_extension(&mut self, key: &str, outcome: Outcome) {
        let Some(known) = self.extensions.get(key) else { return };
        self.outcomes.push((Watched::Extension(known.stands, known.name.clone()), outcome));
    }

    pub(super) fn put_extension(
        &mut self,
        place: &ConfigPlace,
        incoming: &Incoming,
    ) -> Result<(), String> {
        let key = place.key(&incoming.name);
        let outcome = self.judge_extension(&key, incoming);
        let noted = if outcome.is_ok() { Outcome::Accepted } else { Outcome::Refused };
        self.note_extension(&key, noted);
        outcome
    }

    pub(super) fn judge_extension(&mut self, key: &str, incoming: &Incoming) -> Result<(), String> {
        let Some(known) = self.extensions.get_mut(key) else { return Ok(()) };
        if known.record.as_mut().is_some_and(|record| record.repeats(incoming)) {
            known.error = None;
            return Ok(());
        }
        let compiled = self.compile_extension(key, incoming);
        let Some(known) = self.extensions.get_mut(key) else { return Ok(()) };
        match compiled {
            Ok((filter, kind, fingerprint)) => {
                known.error = None;
                known.kind = Some(kind);
                let same =
                    known.record.as_ref().is_some_and(|record| record.fingerprint == fingerprint);
                known.record = Some(Store::record(incoming, fingerprint));
                if !same {
                    self.set_extension(key, Extension { last: Some(filter), exists: true });
                    self.extension_answered(key);
                }
                Ok(())
            }
            Err(text) => {
                known.error = Some(ErrorState::new(incoming, &text));
                Err(text)
            }
        }
    }

    fn compile_extension(
        &mut self,
        key: &str,
        incoming: &Incoming,
    ) -> Result<(FilterConfig, String, Fingerprint), String> {
        let message = self.decode(ResourceType::ExtensionConfig, incoming)?;
        let fingerprint = Fingerprint::of(&message, &[]);
        let has_cluster = |name: &str| self.has_cluster(name);
        let context = self.ground.context(self.snapshot.clusters.names(), &has_cluster);
        let (filter, kind) = discovery::extension(&View::new(&message, &self.schema), &context)
            .map_err(|found| decode::text(&found))?;
        if let Some((listener, _)) =
            self.discoveries(key).find(|(_, wanted)| !may_be(wanted, &kind))
        {
            return Err(format!(
                "typed_config: is of type {kind}, which type_urls of listener {listener} does not list"
            ));
        }
        for (name, chain) in self.chains_that_name(key) {
            if self.counts_twice(chain, Some((key, &filter))) {
                return Err(format!(
                    "typed_config: with it, a filter chain of listener {name} has istio.stats twice"
                ));
            }
        }
        for (name, manager) in self.managers_that_name(key) {
            if let Some((other, text)) = self.misplaced(manager, Some((key, &filter))) {
                return Err(format!(
                    "typed_config: with it, filter {other} of listener {name} {text}"
                ));
            }
        }
        Ok((filter, kind, fingerprint))
    }

    /// The first of a manager's filters that may not stand where it does, and why, with what is known of
    /// those that come by name, and with `new` in the place of what is known of its key.
    fn misplaced<'a>(
        &'a self,
        manager: &'a HttpConnectionManager,
        new: Option<(&str, &'a FilterConfig)>,
    ) -> Option<(&'a str, &'static str)> {
        let kind = |filter: &'a HttpFilter| match (&filter.config, new) {
            (FilterSource::Inline(kind), _) => Some(kind),
            (FilterSource::Discovered(wanted), Some((key, new))) if *wanted.key == *key => {
                new.http.as_ref()
            }
            (FilterSource::Discovered(wanted), _) => {
                let known = self.snapshot.extensions.get(&wanted.key);
                wanted.http(known.map(|known| &**known))
            }
        };
        let (index, text) = http_filters::misplaced(&manager.filters, kind)?;
        Some((&manager.filters[index].name, text))
    }

    /// Whether connections of a chain would be counted twice, with `new` as above.
    fn counts_twice<'a>(
        &'a self,
        chain: &'a FilterChain,
        new: Option<(&str, &'a FilterConfig)>,
    ) -> bool {
        let network = |wanted: &'a FilterDiscovery| match new {
            Some((key, new)) if *wanted.key == *key => new.network.as_ref(),
            _ => wanted.network(self.snapshot.extensions.get(&wanted.key).map(|known| &**known)),
        };
        chain.all_stats(network).count() > 1
    }

    /// Refuses filters that are known to be of another type than a listener allows, or of one that may
    /// not stand where they do.
    pub(super) fn check_extensions(&self, listener: &Listener) -> Result<(), String> {
        for wanted in listeners::extensions(listener) {
            let known = self.extensions.get(&wanted.key);
            if let Some(kind) = known.and_then(|known| known.kind.as_ref())
                && !may_be(wanted, kind)
            {
                let name = &wanted.name;
                return Err(format!(
                    "filter {name}: is of type {kind}, which type_urls does not list"
                ));
            }
        }
        if listener.filter_chains.iter().any(|chain| self.counts_twice(chain, None)) {
            return Err("filter_chains: one has istio.stats twice".to_owned());
        }
        for manager in listeners::managers(listener) {
            if let Some((name, text)) = self.misplaced(manager, None) {
                return Err(format!("filter {name}: {text}"));
            }
        }
        Ok(())
    }

    /// There is no configuration of this name, or not yet: who waits for it goes on without.
    pub(super) fn no_extension(&mut self, key: &str) {
        let Some(known) = self.extensions.get_mut(key) else { return };
        known.record = None;
        let last = self.snapshot.extensions.get(key).and_then(|known| known.last.clone());
        self.set_extension(key, Extension { last, exists: false });
        self.extension_answered(key);
    }

    fn set_extension(&mut self, key: &str, extension: Extension) {
        Arc::make_mut(&mut self.snapshot.extensions).insert(key.into(), Arc::new(extension));
        self.is_changed = true;
    }

    /// Listeners no longer wait for it.
    fn extension_answered(&mut self, key: &str) {
        let Some(known) = self.extensions.get_mut(key) else { return };
        if !std::mem::replace(&mut known.is_answered, true) {
            for listener in known.users.clone() {
                self.promote_listener(&listener);
            }
        }
    }

    /// Those among `wanted` that are waited for.
    pub(super) fn missing_extensions<'a>(
        &self,
        wanted: impl Iterator<Item = &'a Arc<FilterDiscovery>>,
    ) -> impl Iterator<Item = &'a Arc<FilterDiscovery>> {
        let is_answered = |wanted: &FilterDiscovery| {
            self.extensions.get(&wanted.key).is_some_and(ExtensionEntry::is_answered)
        };
        wanted.filter(move |wanted| !wanted.is_optional && !is_answered(wanted))
    }

    /// The configurations that were asked for.
    pub fn extensions(&self) -> impl Iterator<Item = (&ConfigPlace, Shown)> {
        self.extensions.values().map(|known| {
            let shown = Shown {
                name: known.name.clone(),
                stage: Stage::of(known.is_answered, !known.is_answered),
                record: known.record.clone(),
                error: known.error.clone(),
            };
            (&known.place, shown)
        })
    }
}

fn may_be(wanted: &FilterDiscovery, kind: &str) -> bool {
    wanted.types.iter().any(|known| **known == *kind)
}
