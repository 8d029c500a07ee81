//! Listeners: LDS, and those of the bootstrap.

use std::sync::Arc;

use crate::client::ResourceType;
use crate::compile::listener;
use crate::fingerprint::Fingerprint;
use crate::snapshot::{
    FilterChain, FilterDiscovery, HttpConnectionManager, HttpFilter, Listener, Origin, Rds,
    RouteSource, ScopedRoutes, Sds, Snapshot,
};
use crate::view::View;

use super::decode;
use super::extensions::ExtensionEntry;
use super::routes::TableUser;
use super::secrets::User;
use super::{ErrorState, Host, Incoming, ListenerChange, Record, Shown, Stage, Store};

/// A listener by name.
pub(super) struct ListenerEntry {
    origin: Origin,
    active: Option<Arc<Listener>>,
    pub(super) warming: Option<Arc<Listener>>,
    /// What waits was told of as a listener: it has more that is new than a filter by name.
    is_modified: bool,
    record: Option<Record>,
    error: Option<ErrorState>,
}

impl ListenerEntry {
    fn new(origin: Origin) -> ListenerEntry {
        let is_modified = false;
        ListenerEntry {
            origin,
            active: None,
            warming: None,
            is_modified,
            record: None,
            error: None,
        }
    }

    fn links(&self) -> Links {
        let mut links = Links::default();
        for listener in self.active.iter().chain(&self.warming) {
            links.tables.extend(tables(listener));
            links.scopes.extend(scopes(listener).cloned());
            links.secrets.extend(secrets(listener).cloned());
            links.extensions.extend(extensions(listener).cloned());
        }
        links
    }

    /// A chain of a version that is served or waits, by what it says.
    fn chain(&self, fingerprint: Fingerprint) -> Option<Arc<FilterChain>> {
        let versions = self.active.iter().chain(&self.warming);
        let mut chains = versions.flat_map(|listener| listener.filter_chains.iter());
        chains.find(|chain| chain.fingerprint == Some(fingerprint)).cloned()
    }
}

/// What listeners refer to.
#[derive(Default)]
struct Links {
    tables: Vec<Rds>,
    scopes: Vec<Arc<ScopedRoutes>>,
    secrets: Vec<Arc<Sds>>,
    extensions: Vec<Arc<FilterDiscovery>>,
}

/// The secrets that a listener names.
fn secrets(listener: &Listener) -> impl Iterator<Item = &Arc<Sds>> {
    let contexts = listener.filter_chains.iter().filter_map(|chain| chain.tls.as_ref());
    contexts.flat_map(|tls| tls.common.served.iter())
}

/// The filters that a listener names.
pub(super) fn extensions(listener: &Listener) -> impl Iterator<Item = &Arc<FilterDiscovery>> {
    let managers = listener.managers().into_iter();
    let http = managers.flat_map(|http| http.filters.iter().filter_map(HttpFilter::discovery));
    let chains = listener.filter_chains.iter().flat_map(|chain| {
        let last = chain.discovered_terminal.iter().chain(chain.terminal.discovered());
        chain.discovered.iter().chain(last)
    });
    chains.chain(http)
}

/// The route tables that a listener names.
fn tables(listener: &Listener) -> Vec<Rds> {
    let mut tables = Vec::new();
    for http in listener.managers() {
        if let RouteSource::Rds(rds) = &http.routes
            && !tables.contains(rds)
        {
            tables.push(rds.clone());
        }
    }
    tables
}

/// The scoped routes that a listener has.
fn scopes(listener: &Listener) -> impl Iterator<Item = &Arc<ScopedRoutes>> {
    listener.managers().into_iter().filter_map(|http| match &http.routes {
        RouteSource::Scoped(scoped) => Some(scoped),
        _ => None,
    })
}

impl Store {
    pub(super) fn add_static_listeners(&mut self, snapshot: &Snapshot) {
        for listener in snapshot.listeners.iter() {
            let mut entry = ListenerEntry::new(Origin::Static);
            entry.warming = Some(Arc::clone(listener));
            self.listeners.insert(listener.name.clone(), entry);
            self.relink_listener(&listener.name, &Links::default());
            self.promote_listener(&listener.name);
        }
    }

    pub(super) fn put_listener(
        &mut self,
        incoming: &Incoming,
        host: &mut dyn Host,
    ) -> Result<(), String> {
        let outcome = self.accept_listener(incoming, host);
        match (&outcome, self.listeners.get_mut(&*incoming.name)) {
            (Ok(()), Some(entry)) => entry.error = None,
            (Ok(()), None) => {}
            (Err(text), Some(entry)) => entry.error = Some(ErrorState::new(incoming, text)),
            (Err(text), None) => {
                let mut entry = ListenerEntry::new(Origin::Dynamic);
                entry.error = Some(ErrorState::new(incoming, text));
                self.listeners.insert((&*incoming.name).into(), entry);
            }
        }
        outcome
    }

    fn accept_listener(&mut self, incoming: &Incoming, host: &mut dyn Host) -> Result<(), String> {
        let before = self.listeners.get_mut(&*incoming.name);
        if before.as_ref().is_some_and(|entry| entry.origin == Origin::Static) {
            return Err("name: a static listener has this name".to_owned());
        }
        if let Some(record) = before.and_then(|entry| entry.record.as_mut())
            && record.repeats(incoming)
        {
            return Ok(());
        }
        if incoming.name.is_empty() {
            return Err("name: is required".to_owned());
        }
        let message = self.decode(ResourceType::Listener, incoming)?;
        let fingerprint = Fingerprint::of(&message, &[]);
        let record =
            self.listeners.get_mut(&*incoming.name).and_then(|entry| entry.record.as_mut());
        if let Some(record) = record.filter(|record| record.fingerprint == fingerprint) {
            *record = Store::record(incoming, fingerprint);
            return Ok(());
        }
        let view = View::new(&message, &self.schema);
        let listener = self.compile_listener(&view, &incoming.name)?;
        let renewed = listener.renewed(&self.snapshot.extensions);
        let listener = Arc::new(renewed.unwrap_or(listener));
        self.check_extensions(&listener)?;
        host.prepare_listener(&listener)?;

        let name = &*listener.name;
        let entry = self
            .listeners
            .entry(name.into())
            .or_insert_with(|| ListenerEntry::new(Origin::Dynamic));
        let linked = entry.links();
        entry.record = Some(Store::record(incoming, fingerprint));
        entry.warming = Some(Arc::clone(&listener));
        entry.is_modified = true;
        self.relink_listener(name, &linked);
        self.note_conflicts(&listener, &linked.extensions);
        self.promote_listener(name);
        Ok(())
    }

    /// Has listeners go on with the last filters that names stand for now: all of them, or none.
    pub(super) fn renew_listeners(&mut self, host: &mut dyn Host) -> Result<(), String> {
        let mut renewed: Vec<(Arc<Listener>, Arc<Listener>)> = Vec::new();
        for entry in self.listeners.values() {
            let Some(before) = entry.warming.as_ref().or(entry.active.as_ref()) else { continue };
            let Some(next) = before.renewed(&self.snapshot.extensions).map(Arc::new) else {
                continue;
            };
            let good = self.check_extensions(&next).and_then(|()| host.prepare_listener(&next));
            if let Err(reason) = good {
                for (before, _) in &renewed {
                    // What could be prepared once, and is in use, can be again.
                    let _prepared = host.prepare_listener(before);
                }
                return Err(format!("with it, listener {}: {reason}", next.name));
            }
            renewed.push((Arc::clone(before), next));
        }
        for (_, next) in renewed {
            let name = next.name.clone();
            let Some(entry) = self.listeners.get_mut(&name) else { continue };
            let linked = entry.links();
            entry.warming = Some(Arc::clone(&next));
            self.relink_listener(&name, &linked);
            self.note_conflicts(&next, &linked.extensions);
            self.promote_listener(&name);
        }
        Ok(())
    }

    fn compile_listener(&self, view: &View<'_>, name: &str) -> Result<Listener, String> {
        let has_cluster = |name: &str| self.has_cluster(name);
        let context = self.ground.context(self.snapshot.clusters.names(), &has_cluster);
        let entry = self.listeners.get(name);
        let known = |fingerprint| entry.and_then(|entry| entry.chain(fingerprint));
        listener::compile(view, &context, &known).map_err(|found| decode::text(&found))
    }

    pub(super) fn remove_listener(&mut self, name: &str) {
        if self.listeners.get(name).is_none_or(|entry| entry.origin == Origin::Static) {
            return;
        }
        let Some(entry) = self.listeners.remove(name) else { return };
        let linked = entry.links();
        self.relink_listener(name, &linked);
        if entry.active.is_some() {
            let left = self.snapshot.listeners.iter().filter(|listener| *listener.name != *name);
            self.snapshot.listeners = left.cloned().collect();
            self.is_changed = true;
        }
        self.counts.listeners_removed += 1;
        self.listener_changes.push(ListenerChange::Remove(name.into()));
        self.go_on();
    }

    /// Serves the version that waits, if there is nothing left to wait for.
    pub(super) fn promote_listener(&mut self, name: &str) {
        let Some(listener) = self.listeners.get(name).and_then(|entry| entry.warming.as_ref())
        else {
            return;
        };
        let is_warm = |rds: &Rds| self.tables.get(&rds.key).is_some_and(super::Table::is_answered);
        if !tables(listener).iter().all(is_warm)
            || !scopes(listener).all(|scoped| self.has_scopes(scoped))
            || self.missing(secrets(listener)).next().is_some()
            || self.missing_extensions(extensions(listener)).next().is_some()
        {
            return;
        }
        let Some(entry) = self.listeners.get_mut(name) else { return };
        let linked = entry.links();
        let Some(listener) = entry.warming.take() else { return };
        let is_modified = std::mem::take(&mut entry.is_modified);
        match entry.active {
            None => self.counts.listeners_added += 1,
            Some(_) => self.counts.listeners_modified += u64::from(is_modified),
        }
        entry.active = Some(Arc::clone(&listener));
        let mut all: Vec<_> = self.snapshot.listeners.to_vec();
        match all.iter_mut().find(|known| known.name == listener.name) {
            Some(known) => *known = Arc::clone(&listener),
            None => all.push(Arc::clone(&listener)),
        }
        self.snapshot.listeners = all.into();
        self.is_changed = true;
        self.listener_changes.push(ListenerChange::Serve(listener));
        self.relink_listener(name, &linked);
        self.go_on();
    }

    /// Asks for what the listener refers to, and no longer for that of `before` to which it does not.
    fn relink_listener(&mut self, name: &str, before: &Links) {
        let now = self.listeners.get(name).map(ListenerEntry::links).unwrap_or_default();
        let user = TableUser::Listener(name.into());
        for rds in &now.tables {
            self.use_table(rds, &user);
        }
        let kept = |rds: &&Rds| now.tables.iter().any(|known| known.key == rds.key);
        for rds in before.tables.iter().filter(|rds| !kept(rds)) {
            self.leave_table(rds, &user);
        }
        for scoped in &now.scopes {
            self.use_scopes(scoped, name);
        }
        let kept =
            |scoped: &&Arc<ScopedRoutes>| now.scopes.iter().any(|known| known.key == scoped.key);
        for scoped in before.scopes.iter().filter(|scoped| !kept(scoped)) {
            self.leave_scopes(scoped, name);
        }
        self.relink_secrets(&User::Listener(name.into()), &before.secrets, &now.secrets);
        for wanted in &now.extensions {
            self.use_extension(wanted, name);
        }
        let is_kept =
            |wanted: &FilterDiscovery| now.extensions.iter().any(|known| known.key == wanted.key);
        for wanted in before.extensions.iter().filter(|wanted| !is_kept(wanted)) {
            self.leave_extension(wanted, name);
        }
    }

    /// Who names the filter of this key, and how.
    pub(super) fn discoveries(
        &self,
        key: &str,
    ) -> impl Iterator<Item = (&str, &Arc<FilterDiscovery>)> {
        let users = self.extensions.get(key).into_iter().flat_map(ExtensionEntry::users);
        let users = users.filter_map(|name| self.listeners.get_key_value(name));
        users.flat_map(move |(name, entry)| {
            let versions = entry.active.iter().chain(&entry.warming);
            let wanted = versions.flat_map(|listener| extensions(listener));
            wanted.filter(move |wanted| *wanted.key == *key).map(|wanted| (&**name, wanted))
        })
    }

    /// The filter chains that name the filter of this key, and their listeners' names.
    pub(super) fn chains_that_name(&self, key: &str) -> impl Iterator<Item = (&str, &FilterChain)> {
        let names = move |chain: &&Arc<FilterChain>| {
            chain.discovered.iter().any(|wanted| *wanted.key == *key)
        };
        self.listeners.iter().flat_map(move |(name, entry)| {
            let versions = entry.active.iter().chain(&entry.warming);
            let chains = versions.flat_map(|listener| listener.filter_chains.iter());
            chains.filter(names).map(|chain| (&**name, &**chain))
        })
    }

    /// The connection managers that name the filter of this key, and their listeners' names.
    pub(super) fn managers_that_name(
        &self,
        key: &str,
    ) -> impl Iterator<Item = (&str, &HttpConnectionManager)> {
        let names = move |manager: &&HttpConnectionManager| {
            let mut wanted = manager.filters.iter().filter_map(HttpFilter::discovery);
            wanted.any(|wanted| *wanted.key == *key)
        };
        self.listeners.iter().flat_map(move |(name, entry)| {
            let versions = entry.active.iter().chain(&entry.warming);
            let managers =
                versions.flat_map(|listener| listener.managers()).map(|manager| &**manager);
            managers.filter(names).map(|manager| (&**name, manager))
        })
    }

    /// How many listeners are served and how many wait.
    #[must_use]
    pub fn listener_counts(&self) -> (usize, usize) {
        let active = self.listeners.values().filter(|entry| entry.active.is_some()).count();
        let warming = self.listeners.values().filter(|entry| entry.warming.is_some()).count();
        (active, warming)
    }

    /// The listeners of LDS, by name.
    pub fn dynamic_listeners(&self) -> impl Iterator<Item = Shown> {
        let dynamic = self.listeners.iter().filter(|(_, entry)| entry.origin == Origin::Dynamic);
        dynamic.map(|(name, entry)| Shown {
            name: name.clone(),
            stage: Stage::of(entry.active.is_some(), entry.warming.is_some()),
            record: entry.record.clone(),
            error: entry.error.clone(),
        })
    }

    /// What each cluster and listener that waits waits for (`/init_dump`).
    #[must_use]
    pub fn cold(&self) -> Vec<String> {
        let mut cold = self.cold_clusters();
        for (name, entry) in &self.listeners {
            let Some(listener) = &entry.warming else { continue };
            let awaited = tables(listener).into_iter();
            let awaited = awaited
                .filter(|rds| self.tables.get(&rds.key).is_none_or(|table| !table.is_answered()));
            cold.extend(awaited.map(|rds| format!("listener {name}: routes {}", rds.name)));
            let awaited = scopes(listener).flat_map(|scoped| self.cold_scopes(scoped));
            cold.extend(awaited.map(|what| format!("listener {name}: {what}")));
            let missing = self.missing(secrets(listener));
            cold.extend(missing.map(|sds| format!("listener {name}: secret {}", sds.name)));
            let missing = self.missing_extensions(extensions(listener));
            cold.extend(missing.map(|wanted| format!("listener {name}: filter {}", wanted.name)));
        }
        cold
    }
}
