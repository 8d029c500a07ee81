//! Scopes of routes: SRDS, and those of listeners.
//!
//! All connection managers that name the same servers, and take tables from the same, share one set of
//! scopes. A scope that names a table is served when there is an answer for that; until then the
//! version before it is. One on demand is served at once, and its table is asked for when a request needs
//! it. Invariant: no two scopes of a set have the same key. Whether they would is seen when all of a
//! response are there, so that scopes can change places; those that would are refused, all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::take;
use std::sync::Arc;
use std::time::SystemTime;

use crate::client::ResourceType;
use crate::compile::scopes;
use crate::fingerprint::Fingerprint;
use crate::snapshot::{
    ConfigPlace, ConfigSource, Demand, Rds, RouteTable, Scope, ScopeKey, ScopeMap, ScopeRoutes,
    ScopeSource, ScopedRoutes,
};
use crate::view::View;

use super::routes::TableUser;
use super::{ErrorState, Incoming, Interest, Outcome, Record, Shown, Stage, Store, Watched};
use super::{Table, decode};

/// Scopes that listeners refer to.
pub(super) struct ScopeSet {
    /// As the first listener has it.
    scoped: Arc<ScopedRoutes>,
    users: BTreeSet<Box<str>>,
    /// Prefixes of the connection managers that refer to it, and what they call it.
    stat_names: BTreeSet<(Box<str>, Box<str>)>,
    is_answered: bool,
    /// What is in the snapshot is not what it should be.
    is_stale: bool,
    scopes: BTreeMap<Box<str>, ScopeEntry>,
    /// Whose the keys are.
    keys: HashMap<ScopeKey, Box<str>>,
    /// What is new in a response that is being taken in, and good by itself.
    staged: BTreeMap<Box<str>, Staged>,
    /// What became of that so far; nothing when no response is being taken in.
    response: Option<Outcome>,
    counts: ScopeCounts,
}

/// How many scopes there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScopeCounts {
    /// Accepted ones.
    pub all: usize,
    /// Those whose tables are there or asked for.
    pub active: usize,
    /// Those whose tables are asked for on demand.
    pub on_demand: usize,
}

/// A version of a scope that its neighbours may yet refuse.
struct Staged {
    scope: Scope,
    record: Record,
}

/// A scope by name.
#[derive(Default)]
struct ScopeEntry {
    active: Option<Scope>,
    warming: Option<Scope>,
    record: Option<Record>,
    error: Option<ErrorState>,
    /// A request came that needs its table, where that is asked for on demand.
    is_demanded: bool,
}

impl ScopeEntry {
    fn newest(&self) -> Option<&Scope> {
        self.warming.as_ref().or(self.active.as_ref())
    }

    fn tables(&self) -> Vec<Rds> {
        let versions = self.active.iter().chain(&self.warming);
        versions.filter_map(|scope| self.table_asked_for(scope).cloned()).collect()
    }

    /// The table of a version of it, unless that is only asked for on demand and has not been.
    fn table_asked_for<'s>(&self, scope: &'s Scope) -> Option<&'s Rds> {
        table_of(scope).filter(|_| !scope.on_demand || self.is_demanded)
    }
}

impl ScopeCounts {
    fn of<'e>(entries: impl Iterator<Item = &'e ScopeEntry>) -> ScopeCounts {
        let mut counts = ScopeCounts::default();
        for (entry, scope) in entries.filter_map(|entry| Some((entry, entry.newest()?))) {
            let is_inline = matches!(scope.routes, ScopeRoutes::Inline(_));
            counts.all += 1;
            counts.active += usize::from(is_inline || entry.table_asked_for(scope).is_some());
            counts.on_demand += usize::from(scope.on_demand);
        }
        counts
    }
}

fn table_of(scope: &Scope) -> Option<&Rds> {
    match &scope.routes {
        ScopeRoutes::Rds(rds) => Some(rds),
        ScopeRoutes::Inline(_) => None,
    }
}

impl ScopeSet {
    /// Where its scopes come from; nothing when they are in a listener.
    fn source(&self) -> Option<&ConfigSource> {
        match &self.scoped.scopes {
            ScopeSource::Srds(source) => Some(source),
            ScopeSource::Inline(_) => None,
        }
    }

    /// Whether it is the set of this place.
    fn is_of(&self, place: &ConfigPlace) -> bool {
        self.source().is_some_and(|source| source.place == *place)
    }

    /// Whether a listener can be served with it: all that it has are served, or have a version that is.
    fn is_warm(&self) -> bool {
        let waits = |entry: &ScopeEntry| entry.active.is_none() && entry.warming.is_some();
        self.is_answered && !self.scopes.values().any(waits)
    }

    /// Those of what is staged that can't be served beside the others, each with one that has its key.
    /// Whatever is refused keeps its key, which nobody else can have then.
    fn conflicts(&self) -> BTreeMap<Box<str>, Box<str>> {
        let mut claims: HashMap<&ScopeKey, Vec<&str>> = HashMap::new();
        for (name, staged) in &self.staged {
            claims.entry(&staged.scope.key).or_default().push(name);
        }
        let mut refused: BTreeMap<Box<str>, Box<str>> = BTreeMap::new();
        let mut unseen: Vec<&str> = Vec::new();
        for (key, names) in &claims {
            let owner = self.keys.get(*key).filter(|owner| !self.staged.contains_key(*owner));
            for (at, name) in names.iter().enumerate() {
                let other = names.get(usize::from(at == 0)).copied();
                if let Some(other) = owner.map(|owner| &**owner).or(other) {
                    refused.insert((*name).into(), other.into());
                    unseen.push(name);
                }
            }
        }
        while let Some(name) = unseen.pop() {
            let Some(kept) = self.scopes.get(name).and_then(ScopeEntry::newest) else { continue };
            for other in claims.get(&kept.key).into_iter().flatten() {
                if !refused.contains_key(*other) {
                    refused.insert((*other).into(), name.into());
                    unseen.push(other);
                }
            }
        }
        refused
    }

    /// What was accepted of a scope before holds.
    fn refuse(&mut self, name: &str, error: ErrorState) {
        self.response = Some(Outcome::Refused);
        self.scopes.entry(name.into()).or_default().error = Some(error);
    }

    /// Takes a key back that is not another's already.
    fn disclaim(&mut self, key: &ScopeKey, name: &str) {
        if self.keys.get(key).is_some_and(|owner| **owner == *name) {
            self.keys.remove(key);
        }
    }
}

impl Store {
    /// Whether a listener that refers to these scopes can be served.
    pub(super) fn has_scopes(&self, scoped: &ScopedRoutes) -> bool {
        self.scopes.get(&scoped.key).is_some_and(ScopeSet::is_warm)
    }

    pub(super) fn use_scopes(&mut self, scoped: &Arc<ScopedRoutes>, listener: &str) {
        if let Some(known) = self.scopes.get_mut(&scoped.key) {
            if !known.users.contains(listener) {
                known.users.insert(listener.into());
            }
            return self.count_scopes_for(scoped);
        }
        let set = ScopeSet {
            scoped: Arc::clone(scoped),
            users: BTreeSet::from([listener.into()]),
            stat_names: BTreeSet::new(),
            is_answered: false,
            is_stale: true,
            scopes: BTreeMap::new(),
            keys: HashMap::new(),
            staged: BTreeMap::new(),
            response: None,
            counts: ScopeCounts::default(),
        };
        self.is_changed = true;
        match &scoped.scopes {
            ScopeSource::Inline(all) => {
                self.scopes.insert(scoped.key.clone(), set);
                for scope in all {
                    self.serve_scope(&scoped.key, scope.clone(), None);
                }
                self.scopes_complete(&scoped.key);
            }
            ScopeSource::Srds(source) => self.add_served_set(set, source),
        }
        self.count_scopes_for(scoped);
    }

    /// Has the connection managers of these scopes count what comes of them, if they come from servers.
    fn count_scopes_for(&mut self, scoped: &ScopedRoutes) {
        let Some(set) = self.scopes.get_mut(&scoped.key) else { return };
        let names = (scoped.stat_prefix.clone(), scoped.name.clone());
        if set.source().is_some() && set.stat_names.insert(names.clone()) {
            self.outcomes.push((Watched::Scopes(names.0, names.1), Outcome::Asked));
        }
    }

    /// A set of servers: they are asked, unless they were for another set, which has what they say.
    fn add_served_set(&mut self, set: ScopeSet, source: &ConfigSource) {
        let key = set.scoped.key.clone();
        let like = self.scopes.values().find(|other| other.is_of(&source.place));
        let Some(like) = like else {
            let kind = ResourceType::ScopedRouteConfiguration;
            self.interests.push(Interest::All(kind, source.clone()));
            self.scopes.insert(key, set);
            return;
        };
        let is_answered = like.is_answered;
        let staged = like.staged.iter().map(|(name, staged)| (name, &staged.record));
        let served = like.scopes.iter().filter(|(name, _)| !like.staged.contains_key(*name));
        let served = served.filter_map(|(name, entry)| Some((name, entry.record.as_ref()?)));
        let records = served.chain(staged).map(|(name, record)| Incoming {
            name: (&**name).into(),
            version: Arc::clone(&record.version),
            aliases: Box::default(),
            content: record.content.clone(),
        });
        let records: Vec<_> = records.collect();
        self.scopes.insert(key.clone(), set);
        for incoming in records {
            // It is remembered with the scope.
            let _refused = self.judge_scope(&key, &incoming);
        }
        let _refused = self.serve_staged_of(&key);
        if let Some(set) = self.scopes.get_mut(&key) {
            // What was said before is no response to it.
            set.response = None;
        }
        if is_answered {
            self.scopes_complete(&key);
        }
    }

    /// All scopes of a set that is new are there; its listener sees for itself whether it can be served.
    fn scopes_complete(&mut self, key: &str) {
        if let Some(set) = self.scopes.get_mut(key) {
            set.is_answered = true;
        }
    }

    pub(super) fn leave_scopes(&mut self, scoped: &ScopedRoutes, listener: &str) {
        let Some(known) = self.scopes.get_mut(&scoped.key) else { return };
        known.users.remove(listener);
        if !known.users.is_empty() {
            return;
        }
        let Some(set) = self.scopes.remove(&scoped.key) else { return };
        for (name, entry) in &set.scopes {
            if entry.is_demanded {
                self.scope_settled(&scoped.key, name);
            }
            let user = TableUser::Scope(scoped.key.clone(), name.clone());
            entry.tables().iter().for_each(|rds| self.leave_table(rds, &user));
        }
        Arc::make_mut(&mut self.snapshot.scopes).remove(&scoped.key);
        self.is_changed = true;
        if let Some(source) = set.source()
            && !self.scopes.values().any(|other| other.is_of(&source.place))
        {
            let kind = ResourceType::ScopedRouteConfiguration;
            self.interests.push(Interest::None(kind, source.place.clone(), EVERYTHING.into()));
        }
    }

    pub(super) fn put_scope(
        &mut self,
        place: &ConfigPlace,
        incoming: &Incoming,
    ) -> Result<(), String> {
        let mut outcome = Ok(());
        for key in self.sets_of(place) {
            outcome = outcome.and(self.judge_scope(&key, incoming));
        }
        outcome
    }

    /// As [`Store::put_scope`], by the key of a place and name.
    pub(super) fn restore_scope(&mut self, key: &str, incoming: &Incoming) -> Result<(), String> {
        let mut outcome = Ok(());
        for place in self.scope_places() {
            if *place.key(&incoming.name) == *key {
                outcome = outcome.and(self.put_scope(&place, incoming));
                // It stood beside all the others, and its table is asked for when it is served.
                let refused = self.serve_staged(&place).into_values().next();
                outcome = outcome.and(refused.map_or(Ok(()), Err));
                for set in self.scopes.values_mut().filter(|set| set.is_of(&place)) {
                    set.response = None;
                }
            }
        }
        outcome
    }

    /// Everything was restored: where there are scopes, nobody waits for more.
    pub(super) fn scopes_restored(&mut self) {
        for place in self.scope_places() {
            if self.scopes.values().any(|set| set.is_of(&place) && !set.keys.is_empty()) {
                self.scopes_answered(&place);
            }
        }
    }

    /// Whether servers have said something of a scope with this key of a place and name.
    pub(super) fn has_scope_answer(&self, key: &str, name: &str) -> bool {
        self.scopes.values().any(|set| {
            set.is_answered && set.source().is_some_and(|source| *source.place.key(name) == *key)
        })
    }

    fn sets_of(&self, place: &ConfigPlace) -> Vec<Box<str>> {
        let sets = self.scopes.iter().filter(|(_, set)| set.is_of(place));
        sets.map(|(key, _)| key.clone()).collect()
    }

    fn scope_places(&self) -> Vec<ConfigPlace> {
        let mut places: Vec<ConfigPlace> = Vec::new();
        for source in self.scopes.values().filter_map(ScopeSet::source) {
            if !places.contains(&source.place) {
                places.push(source.place.clone());
            }
        }
        places
    }

    fn judge_scope(&mut self, key: &str, incoming: &Incoming) -> Result<(), String> {
        let outcome = self.stage_scope(key, incoming);
        let Some(set) = self.scopes.get_mut(key) else { return Ok(()) };
        set.response.get_or_insert(Outcome::Accepted);
        match &outcome {
            Ok(()) => {
                if let Some(entry) = set.scopes.get_mut(&*incoming.name) {
                    entry.error = None;
                }
            }
            Err(text) => set.refuse(&incoming.name, ErrorState::new(incoming, text)),
        }
        outcome
    }

    fn stage_scope(&mut self, key: &str, incoming: &Incoming) -> Result<(), String> {
        let Some(set) = self.scopes.get_mut(key) else { return Ok(()) };
        let known = set.scopes.get_mut(&*incoming.name).and_then(|entry| entry.record.as_mut());
        if known.is_some_and(|record| record.repeats(incoming)) {
            return Ok(());
        }
        let (scope, fingerprint) = self.compile_scope(key, incoming)?;
        let record = Store::record(incoming, fingerprint);
        let Some(set) = self.scopes.get_mut(key) else { return Ok(()) };
        let known = set.scopes.get_mut(&*incoming.name).and_then(|entry| entry.record.as_mut());
        match known {
            Some(known) if known.fingerprint == fingerprint => *known = record,
            _ => {
                set.staged.insert((&*incoming.name).into(), Staged { scope, record });
            }
        }
        Ok(())
    }

    /// All scopes of a response were put: those are served that can be beside each other. Returns the
    /// others, and why.
    pub(super) fn serve_staged(&mut self, place: &ConfigPlace) -> BTreeMap<Box<str>, String> {
        let mut refused = BTreeMap::new();
        for key in self.sets_of(place) {
            refused.append(&mut self.serve_staged_of(&key));
            if let Some(set) = self.scopes.get_mut(&key) {
                set.response.get_or_insert(Outcome::Empty);
            }
        }
        refused
    }

    fn serve_staged_of(&mut self, key: &str) -> BTreeMap<Box<str>, String> {
        let mut refused = BTreeMap::new();
        let Some(set) = self.scopes.get_mut(key) else { return refused };
        let conflicts = set.conflicts();
        for (name, Staged { scope, record }) in take(&mut set.staged) {
            let Some(other) = conflicts.get(&name) else {
                self.serve_scope(key, scope, Some(record));
                continue;
            };
            let text = format!("key: is that of scope {other:?}, too");
            let (version, at) = (record.version, SystemTime::now());
            if let Some(set) = self.scopes.get_mut(key) {
                set.refuse(&name, ErrorState { version, text: (&*text).into(), at });
            }
            refused.insert(name, text);
        }
        refused
    }

    fn compile_scope(
        &mut self,
        key: &str,
        incoming: &Incoming,
    ) -> Result<(Scope, Fingerprint), String> {
        let message = self.decode(ResourceType::ScopedRouteConfiguration, incoming)?;
        let fingerprint = Fingerprint::of(&message, &[]);
        let Some(set) = self.scopes.get(key) else { return Err("is not asked for".to_owned()) };
        let has_cluster = |name: &str| self.has_cluster(name);
        let context = self.ground.context(self.snapshot.clusters.names(), &has_cluster);
        let view = View::new(&message, &self.schema);
        let scope = scopes::compile_scope(&view, &set.scoped, &context, false)
            .map_err(|found| decode::text(&found))?;
        Ok((scope, fingerprint))
    }

    /// Takes a version that was accepted.
    fn serve_scope(&mut self, key: &str, scope: Scope, record: Option<Record>) {
        let Some(set) = self.scopes.get_mut(key) else { return };
        let name = scope.name.clone();
        let entry = set.scopes.entry(name.clone()).or_default();
        let before = entry.newest().map(|scope| scope.key.clone());
        let tables = entry.tables();
        let after = scope.key.clone();
        entry.record = record;
        entry.warming = Some(scope);
        if let Some(before) = before {
            set.disclaim(&before, &name);
        }
        set.keys.insert(after, name.clone());
        self.relink_scope(key, &name, &tables);
        self.promote_scope(key, &name);
    }

    /// Asks for the tables that a scope refers to, and no longer for those of `before` to which it does
    /// not.
    fn relink_scope(&mut self, key: &str, name: &str, before: &[Rds]) {
        let Some(set) = self.scopes.get_mut(key) else { return };
        set.is_stale = true;
        self.is_changed = true;
        let now = set.scopes.get(name).map(ScopeEntry::tables).unwrap_or_default();
        let user = TableUser::Scope(key.into(), name.into());
        for rds in &now {
            self.use_table(rds, &user);
        }
        for rds in before.iter().filter(|rds| !now.iter().any(|known| known.key == rds.key)) {
            self.leave_table(rds, &user);
        }
    }

    /// Serves the version that waits, if its table was answered for.
    pub(super) fn promote_scope(&mut self, key: &str, name: &str) {
        let Some(set) = self.scopes.get_mut(key) else { return };
        let Some(entry) = set.scopes.get_mut(name) else { return };
        let is_cold = |rds: &Rds| !self.tables.get(&rds.key).is_some_and(Table::is_answered);
        let is_demanded = entry.is_demanded;
        let Some(scope) = &entry.warming else {
            let table = entry.active.as_ref().filter(|_| is_demanded).and_then(table_of);
            if table.is_some_and(|rds| !is_cold(rds)) {
                self.scope_settled(key, name);
            }
            return;
        };
        if entry.table_asked_for(scope).is_some_and(is_cold) {
            return;
        }
        let tables = entry.tables();
        entry.active = entry.warming.take();
        self.relink_scope(key, name, &tables);
        self.scopes_warmed(key);
        if is_demanded {
            self.scope_settled(key, name);
        }
    }

    /// Asks for the table of a scope that waits for being needed. True when there is nothing to wait for.
    pub(super) fn demand_scope(&mut self, key: &str, name: &str) -> bool {
        let Some(set) = self.scopes.get_mut(key) else { return true };
        let Some(entry) = set.scopes.get_mut(name) else { return true };
        if entry.active.as_ref().is_none_or(|scope| !scope.on_demand) {
            return true;
        }
        if !std::mem::replace(&mut entry.is_demanded, true) {
            self.relink_scope(key, name, &[]);
        }
        let entry = self.scopes.get(key).and_then(|set| set.scopes.get(name));
        let table = entry.and_then(|entry| table_of(entry.active.as_ref()?));
        let table = table.and_then(|rds| self.tables.get(&rds.key));
        table.is_none_or(Table::is_answered)
    }

    /// Nobody need wait for the table of a scope.
    fn scope_settled(&mut self, key: &str, name: &str) {
        self.scopes_changed(key);
        self.is_changed = true;
        self.settled.push(Demand::Scope { set: key.into(), scope: name.into() });
    }

    pub(super) fn remove_scope(&mut self, place: &ConfigPlace, name: &str) {
        for key in self.sets_of(place) {
            let Some(set) = self.scopes.get_mut(&key) else { continue };
            let Some(entry) = set.scopes.remove(name) else { continue };
            if let Some(scope) = entry.newest() {
                set.disclaim(&scope.key, name);
            }
            self.relink_scope(&key, name, &entry.tables());
            self.scopes_warmed(&key);
            if entry.is_demanded {
                self.scope_settled(&key, name);
            }
        }
    }

    /// All scopes of a place are known, or did not come in time.
    pub(super) fn scopes_answered(&mut self, place: &ConfigPlace) {
        for key in self.sets_of(place) {
            let Some(set) = self.scopes.get_mut(&key) else { continue };
            set.is_answered = true;
            self.scopes_warmed(&key);
        }
    }

    /// Counts a response that was taken in, or that none came in time.
    pub(super) fn note_response_of_scopes(&mut self, place: &ConfigPlace) {
        for set in self.scopes.values_mut().filter(|set| set.is_of(place)) {
            let response = set.response.take().unwrap_or(Outcome::TimedOut);
            let outcomes = response.of_response(set.is_stale);
            for (prefix, name) in &set.stat_names {
                let watched = || Watched::Scopes(prefix.clone(), name.clone());
                self.outcomes.extend(outcomes.clone().map(|outcome| (watched(), outcome)));
            }
        }
    }

    /// Listeners may have nothing to wait for any more.
    fn scopes_warmed(&mut self, key: &str) {
        let Some(set) = self.scopes.get(key) else { return };
        for listener in set.users.clone() {
            self.promote_listener(&listener);
        }
    }

    /// The table of a scope is another.
    pub(super) fn scopes_changed(&mut self, key: &str) {
        if let Some(set) = self.scopes.get_mut(key) {
            set.is_stale = true;
        }
    }

    /// Brings the scopes of the snapshot up to date.
    pub(super) fn settle_scopes(&mut self) {
        for (key, set) in self.scopes.iter_mut().filter(|(_, set)| set.is_stale) {
            set.is_stale = false;
            set.counts = ScopeCounts::of(set.scopes.values());
            let is_old = |entry: &&ScopeEntry| entry.warming.is_some();
            // A key that was given to another is that one's, though its former owner is served by it
            // as long as its own next version waits.
            let (old, new): (Vec<_>, Vec<_>) = set.scopes.values().partition(is_old);
            let served = old.into_iter().chain(new);
            let served = served.filter_map(|entry| Some((entry, entry.active.as_ref()?)));
            let tables = &self.snapshot.route_tables;
            let is_answered =
                |rds: &&Rds| self.tables.get(&rds.key).is_some_and(Table::is_answered);
            let served = served.filter_map(|(entry, scope)| {
                let table = match &scope.routes {
                    ScopeRoutes::Inline(table) => Arc::clone(table),
                    ScopeRoutes::Rds(rds)
                        if scope.on_demand
                            && entry.table_asked_for(scope).filter(is_answered).is_none() =>
                    {
                        let (set, scope) = ((&**key).into(), (&*scope.name).into());
                        let demand = Demand::Scope { set, scope };
                        Arc::new(RouteTable::to_come(&rds.name, demand))
                    }
                    ScopeRoutes::Rds(rds) => Arc::clone(tables.get(&rds.key)?),
                };
                Some((scope.key.clone(), table))
            });
            let map = Arc::new(ScopeMap::new(served));
            Arc::make_mut(&mut self.snapshot.scopes).insert(key.clone(), map);
        }
    }

    /// What the scopes wait for of which a listener has need.
    pub(super) fn cold_scopes(&self, scoped: &ScopedRoutes) -> Vec<String> {
        let Some(set) = self.scopes.get(&scoped.key) else { return Vec::new() };
        if !set.is_answered {
            return vec![format!("scopes {}", scoped.name)];
        }
        let waiting = set.scopes.values().filter(|entry| entry.active.is_none());
        let tables = waiting.filter_map(|entry| table_of(entry.warming.as_ref()?));
        tables.map(|rds| format!("routes {}", rds.name)).collect()
    }

    /// How many scopes servers sent, by the prefix of a connection manager and what it calls them.
    pub fn scope_counts(&self) -> impl Iterator<Item = (&str, &str, ScopeCounts)> {
        self.scopes.values().flat_map(|set| {
            set.stat_names.iter().map(|(prefix, name)| (&**prefix, &**name, set.counts))
        })
    }

    /// Scopes that servers sent: the name of the set, where they come from, and they themselves.
    pub fn scopes(&self) -> impl Iterator<Item = (&str, &ConfigPlace, Vec<Shown>)> {
        self.scopes.values().filter_map(|set| {
            let all = set.scopes.iter().map(|(name, entry)| Shown {
                name: name.clone(),
                stage: Stage::of(entry.active.is_some(), entry.warming.is_some()),
                record: entry.record.clone(),
                error: entry.error.clone(),
            });
            Some((&*set.scoped.name, &set.source()?.place, all.collect()))
        })
    }
}

/// How an interest in all there is is given up.
const EVERYTHING: &str = "*";
