//! Configurations of filters that listeners name: ECDS.
//!
//! A listener waits for those that have no default which may serve at once. A later version goes to all
//! who name it, and no connection ends for it: a listener's last filter makes the next version of the
//! listener, others are looked up as they are used. One that can't be had leaves what is there.

use std::sync::Arc;

use crate::client::ResourceType;
use crate::compile::{discovery, http_filters};
use crate::fingerprint::Fingerprint;
use crate::snapshot::{
    ConfigPlace, Extension, FilterChain, FilterConfig, FilterDiscovery, FilterPlace, FilterSource,
    HttpConnectionManager, HttpFilter, Listener, Terminal,
};
use crate::view::View;

use super::named::Named;
use super::{Host, Incoming, Outcome, Shown, Store, Watched, decode, listeners};

/// A TypedExtensionConfig that listeners refer to.
pub(super) struct ExtensionEntry {
    /// The users are listeners, by their names.
    named: Named<Box<str>>,
    /// Where the first filter stands that named it: that is where it is counted.
    stands: FilterPlace,
    is_answered: bool,
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
            let kind = ResourceType::ExtensionConfig;
            let (named, interest) = Named::new(kind, &wanted.name, &wanted.source);
            self.interests.push(interest);
            self.outcomes
                .push((Watched::Extension(wanted.place, wanted.name.clone()), Outcome::Asked));
            ExtensionEntry { named, stands: wanted.place, is_answered: false, kind: None }
        });
        known.named.join(listener.into());
    }

    pub(super) fn leave_extension(&mut self, wanted: &FilterDiscovery, listener: &str) {
        let Some(known) = self.extensions.get_mut(&wanted.key) else { return };
        if let Some(interest) = known.named.leave(listener) {
            self.extensions.remove(&wanted.key);
            if self.snapshot.extensions.contains_key(&wanted.key) {
                Arc::make_mut(&mut self.snapshot.extensions).remove(&wanted.key);
                self.is_changed = true;
            }
            self.interests.push(interest);
        }
    }

    pub(super) fn note_extension(&mut self, key: &str, outcome: Outcome) {
        let Some(known) = self.extensions.get(key) else { return };
        self.outcomes.push((Watched::Extension(known.stands, known.named.name.clone()), outcome));
    }

    pub(super) fn put_extension(
        &mut self,
        place: &ConfigPlace,
        incoming: &Incoming,
        host: &mut dyn Host,
    ) -> Result<(), String> {
        let key = place.key(&incoming.name);
        let outcome = self.judge_extension(&key, incoming, host);
        let noted = if outcome.is_ok() { Outcome::Accepted } else { Outcome::Refused };
        self.note_extension(&key, noted);
        outcome
    }

    pub(super) fn judge_extension(
        &mut self,
        key: &str,
        incoming: &Incoming,
        host: &mut dyn Host,
    ) -> Result<(), String> {
        let Some(known) = self.extensions.get_mut(key) else { return Ok(()) };
        if known.named.repeats(incoming) {
            return Ok(());
        }
        let accepted = self.accept_extension(key, incoming, host);
        let Some(known) = self.extensions.get_mut(key) else { return Ok(()) };
        let refuse = |text: &String| known.named.refuse(incoming, text);
        let (kind, fingerprint) = accepted.inspect_err(refuse)?;
        known.named.accept(incoming, fingerprint);
        known.kind = Some(kind);
        self.extension_answered(key);
        Ok(())
    }

    /// Has all who name it go on with it, if it is another one. Returns the full name of its type.
    fn accept_extension(
        &mut self,
        key: &str,
        incoming: &Incoming,
        host: &mut dyn Host,
    ) -> Result<(String, Fingerprint), String> {
        let (filter, kind, fingerprint) = self.compile_extension(key, incoming)?;
        let record = self.extensions.get(key).and_then(|known| known.named.record.as_ref());
        if record.is_none_or(|record| record.fingerprint != fingerprint) {
            let before = self.snapshot.extensions.get(key).cloned();
            self.set_extension(key, Extension { last: Some(filter), exists: true });
            if let Err(reason) = self.renew_listeners(host) {
                let known = Arc::make_mut(&mut self.snapshot.extensions);
                match before {
                    Some(before) => known.insert(key.into(), before),
                    None => known.remove(key),
                };
                return Err(format!("typed_config: {reason}"));
            }
            self.note_extension(key, Outcome::Reloaded);
        }
        Ok((kind, fingerprint))
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
        if filter.terminal.as_ref().is_some_and(|terminal| names(terminal, key)) {
            return Err("typed_config: has itself as a filter".to_owned());
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
            if let Some(kind) = self.conflict(wanted) {
                let name = &wanted.name;
                return Err(format!(
                    "filter {name}: is of type {kind}, which type_urls does not list"
                ));
            }
        }
        if listener.filter_chains.iter().any(|chain| self.counts_twice(chain, None)) {
            return Err("filter_chains: one has istio.stats twice".to_owned());
        }
        for manager in listener.managers() {
            if let Some((name, text)) = self.misplaced(manager, None) {
                return Err(format!("filter {name}: {text}"));
            }
        }
        Ok(())
    }

    /// Counts those of a listener's filters that are known to be what it does not allow.
    pub(super) fn note_conflicts(&mut self, listener: &Listener) {
        let conflicts = listeners::extensions(listener).filter(|it| self.conflict(it).is_some());
        let keys: Vec<Box<str>> = conflicts.map(|wanted| wanted.key.clone()).collect();
        for key in keys {
            self.note_extension(&key, Outcome::Conflicts);
        }
    }

    /// The type that a filter is known to be of, if it must not be.
    fn conflict(&self, wanted: &FilterDiscovery) -> Option<&str> {
        let kind = self.extensions.get(&wanted.key)?.kind.as_deref()?;
        (!may_be(wanted, kind)).then_some(kind)
    }

    /// There is no configuration of this name, or not yet: who waits for it goes on without.
    pub(super) fn no_extension(&mut self, key: &str) {
        let Some(known) = self.extensions.get_mut(key) else { return };
        known.named.record = None;
        let before = self.snapshot.extensions.get(key);
        let is_withdrawn = before.is_some_and(|known| known.exists);
        let last = before.and_then(|known| known.last.clone());
        self.set_extension(key, Extension { last, exists: false });
        self.extension_answered(key);
        if is_withdrawn {
            self.any_withdrawn = true;
            self.note_extension(key, Outcome::Reloaded);
        }
    }

    fn set_extension(&mut self, key: &str, extension: Extension) {
        Arc::make_mut(&mut self.snapshot.extensions).insert(key.into(), Arc::new(extension));
        self.is_changed = true;
    }

    /// Listeners no longer wait for it.
    fn extension_answered(&mut self, key: &str) {
        let Some(known) = self.extensions.get_mut(key) else { return };
        if !std::mem::replace(&mut known.is_answered, true) {
            for listener in known.named.users.clone() {
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
        self.extensions.values().map(|known| known.named.shown(known.is_answered))
    }
}

/// Whether the filter of this key is one of those of a connection manager in it.
fn names(terminal: &Terminal, key: &str) -> bool {
    let mut found = false;
    terminal.visit_owners(&mut |owner| {
        if let Terminal::Http(http) = owner {
            let mut wanted = http.filters.iter().filter_map(HttpFilter::discovery);
            found |= wanted.any(|wanted| *wanted.key == *key);
        }
    });
    found
}

fn may_be(wanted: &FilterDiscovery, kind: &str) -> bool {
    wanted.types.iter().any(|known| **known == *kind)
}
