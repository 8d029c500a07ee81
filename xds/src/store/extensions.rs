//! Configurations of filters that listeners name: ECDS.
//!
//! A listener waits for those that have no default which may serve at once. A later version goes to all
//! who name it, and no connection ends for it: a listener's last filter makes the next version of the
//! listener, others are looked up as they are used. One that can't be had leaves what is there; one that
//! is taken away, or of a type that a later listener does not list, leaves the default, or nothing.

use std::sync::Arc;

use crate::client::ResourceType;
use crate::compile::{detection, discovery, http_filters};
use crate::fingerprint::Fingerprint;
use crate::snapshot::{
    ConfigPlace, FilterChain, FilterConfig, FilterDiscovery, FilterPlace, FilterSource,
    HttpConnectionManager, HttpFilter, Listener, Terminal,
};
use crate::view::View;

use super::named::Named;
use super::{ErrorState, Host, Incoming, Outcome, Shown, Store, Watched, decode, listeners};

/// A TypedExtensionConfig that listeners refer to.
pub(super) struct ExtensionEntry {
    /// The users are listeners, by their names.
    named: Named<Box<str>>,
    /// Where the first filter stands that named it: that is where it is counted.
    stands: FilterPlace,
    is_answered: bool,
}

impl ExtensionEntry {
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// The names of listeners.
    pub(super) fn users(&self) -> impl Iterator<Item = &Box<str>> {
        self.named.users.iter()
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
            ExtensionEntry { named, stands: wanted.place, is_answered: false }
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
        let fingerprint = accepted.inspect_err(refuse)?;
        known.named.accept(incoming, fingerprint);
        self.extension_answered(key);
        Ok(())
    }

    /// Has all who name it go on with it, if it is another one.
    fn accept_extension(
        &mut self,
        key: &str,
        incoming: &Incoming,
        host: &mut dyn Host,
    ) -> Result<Fingerprint, String> {
        let (filter, fingerprint) = self.compile_extension(key, incoming)?;
        let record = self.extensions.get(key).and_then(|known| known.named.record.as_ref());
        if record.is_none_or(|record| record.fingerprint != fingerprint) {
            let before = (Arc::clone(&self.snapshot.extensions), self.is_changed);
            self.set_extension(key, Some(filter));
            if let Err(reason) = self.renew_listeners(host) {
                (self.snapshot.extensions, self.is_changed) = before;
                return Err(format!("typed_config: {reason}"));
            }
            self.note_extension(key, Outcome::Reloaded);
        }
        Ok(fingerprint)
    }

    fn compile_extension(
        &mut self,
        key: &str,
        incoming: &Incoming,
    ) -> Result<(FilterConfig, Fingerprint), String> {
        let message = self.decode(ResourceType::ExtensionConfig, incoming)?;
        let fingerprint = Fingerprint::of(&message, &[]);
        let has_cluster = |name: &str| self.has_cluster(name);
        let context = self.ground.context(self.snapshot.clusters.names(), &has_cluster);
        let filter = discovery::extension(&View::new(&message, &self.schema), &context)
            .map_err(|found| decode::text(&found))?;
        if let Some((listener, _)) =
            self.discoveries(key).find(|(_, wanted)| !wanted.may_be(&filter))
        {
            return Err(format!(
                "typed_config: is of type {}, which type_urls of listener {listener} does not list",
                filter.kind
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
        Ok((filter, fingerprint))
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
                wanted.http(wanted.known(&self.snapshot.extensions))
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
            _ => wanted.network(wanted.known(&self.snapshot.extensions)),
        };
        chain.all_stats(network).count() > 1
    }

    /// Refuses filters that are known to be of a type that may not stand where they do.
    pub(super) fn check_extensions(&self, listener: &Listener) -> Result<(), String> {
        if listener.filter_chains.iter().any(|chain| self.counts_twice(chain, None)) {
            return Err("filter_chains: one has istio.stats twice".to_owned());
        }
        if listener.filter_chains.iter().any(|chain| detection::is_mistaken(&chain.terminal)) {
            let text = "filter_chains: one has a filter that does not speak what it is chosen for";
            return Err(text.to_owned());
        }
        for manager in listener.managers() {
            if let Some((name, text)) = self.misplaced(manager, None) {
                return Err(format!("filter {name}: {text}"));
            }
        }
        Ok(())
    }

    /// Counts those of a listener's filters, but for those that it had before, that are known to be of a
    /// type that it does not list.
    pub(super) fn note_conflicts(&mut self, listener: &Listener, before: &[Arc<FilterDiscovery>]) {
        let is_new =
            |wanted: &&Arc<FilterDiscovery>| !before.iter().any(|known| Arc::ptr_eq(known, wanted));
        for wanted in listeners::extensions(listener).filter(is_new) {
            let Some(text) = self.conflict(&listener.name, wanted) else { continue };
            self.remarks.push(format!("filter {}: {text}", wanted.name));
            self.note_extension(&wanted.key, Outcome::Conflicts);
        }
    }

    /// What is wrong where a listener does not list the type that its filter is known to be of.
    fn conflict(&self, listener: &str, wanted: &FilterDiscovery) -> Option<String> {
        let known = wanted.known(&self.snapshot.extensions)?;
        let instead = if wanted.default.is_some() { "its default_config" } else { "nothing" };
        (!wanted.may_be(known)).then(|| {
            let kind = &known.kind;
            format!(
                "is of type {kind}, which type_urls of listener {listener} does not list: that has \
                 {instead}"
            )
        })
    }

    /// There is no configuration of this name, or not yet: who waits for it goes on without.
    pub(super) fn no_extension(&mut self, key: &str) {
        let Some(known) = self.extensions.get_mut(key) else { return };
        known.named.record = None;
        let is_withdrawn = self.snapshot.extensions.get(key).is_some_and(Option::is_some);
        self.set_extension(key, None);
        self.extension_answered(key);
        if is_withdrawn {
            self.any_withdrawn = true;
            self.note_extension(key, Outcome::Reloaded);
        }
    }

    fn set_extension(&mut self, key: &str, config: Option<FilterConfig>) {
        Arc::make_mut(&mut self.snapshot.extensions).insert(key.into(), config.map(Arc::new));
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
        self.extensions.iter().map(|(key, known)| {
            let (place, mut shown) = known.named.shown(known.is_answered);
            let mut wanted = self.discoveries(key);
            let conflict = wanted.find_map(|(listener, wanted)| self.conflict(listener, wanted));
            if let (None, Some(record), Some(text)) = (&shown.error, &shown.record, conflict) {
                let version = Arc::clone(&record.version);
                shown.error = Some(ErrorState { version, text: text.into(), at: record.updated });
            }
            (place, shown)
        })
    }
}

/// Whether the filter of this key is one of those of a connection manager in it.
fn names(terminal: &Terminal, key: &str) -> bool {
    let mut found = terminal.discovered().any(|wanted| *wanted.key == *key);
    terminal.visit_owners(&mut |owner| {
        if let Terminal::Http(http) = owner {
            let mut wanted = http.filters.iter().filter_map(HttpFilter::discovery);
            found |= wanted.any(|wanted| *wanted.key == *key);
        }
    });
    found
}
