//! Tables of routes that listeners and scopes name: RDS.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::client::ResourceType;
use crate::compile::route;
use crate::fingerprint::Fingerprint;
use crate::snapshot::{ConfigPlace, Rds, RouteTable};
use crate::view::View;

use super::decode;
use super::virtual_hosts::Hosts;
use super::{ErrorState, Incoming, Interest, Outcome, Record, Shown, Stage, Store, Watched};

/// A RouteConfiguration that listeners or scopes refer to.
pub(super) struct Table {
    pub(super) name: Box<str>,
    place: ConfigPlace,
    users: BTreeSet<TableUser>,
    stat_prefixes: BTreeSet<Box<str>>,
    is_answered: bool,
    pub(super) record: Option<Record>,
    error: Option<ErrorState>,
    /// Those that come by themselves, if it says that there are such.
    pub(super) hosts: Option<Hosts>,
}

/// Who refers to a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TableUser {
    /// A listener.
    Listener(Box<str>),
    /// A scope of a set.
    Scope(Box<str>, Box<str>),
}

impl Table {
    /// Whether it, and its virtual hosts, need not be waited for.
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered && self.hosts.as_ref().is_none_or(|hosts| hosts.is_answered)
    }
}

impl Store {
    pub(super) fn use_table(&mut self, rds: &Rds, user: &TableUser) {
        let known = self.tables.entry(rds.key.clone()).or_insert_with(|| {
            let (kind, name) = (ResourceType::RouteConfiguration, Arc::from(&*rds.name));
            self.interests.push(Interest::One(kind, rds.source.clone(), name));
            Table {
                name: rds.name.clone(),
                place: rds.source.place.clone(),
                users: BTreeSet::new(),
                stat_prefixes: BTreeSet::new(),
                is_answered: false,
                record: None,
                error: None,
                hosts: None,
            }
        });
        if !known.users.contains(user) {
            known.users.insert(user.clone());
        }
        if !known.stat_prefixes.contains(&rds.stat_prefix) {
            known.stat_prefixes.insert(rds.stat_prefix.clone());
            let mut asked = |watched: fn(Box<str>, Box<str>) -> Watched| {
                let watched = watched(rds.stat_prefix.clone(), rds.name.clone());
                self.outcomes.push((watched, Outcome::Asked));
            };
            asked(Watched::Routes);
            if known.hosts.is_some() {
                asked(Watched::VirtualHosts);
            }
        }
    }

    /// Counts for the connection managers that use a table.
    pub(super) fn note_table(&mut self, key: &str, outcome: Outcome) {
        let Some(known) = self.tables.get(key) else { return };
        for prefix in &known.stat_prefixes {
            let watched = Watched::Routes(prefix.clone(), known.name.clone());
            self.outcomes.push((watched, outcome));
        }
    }

    /// As [`Store::note_table`], for its virtual hosts.
    pub(super) fn note_hosts(&mut self, key: &str, outcome: Outcome) {
        let Some(known) = self.tables.get(key) else { return };
        for prefix in &known.stat_prefixes {
            let watched = Watched::VirtualHosts(prefix.clone(), known.name.clone());
            self.outcomes.push((watched, outcome));
        }
    }

    pub(super) fn leave_table(&mut self, rds: &Rds, user: &TableUser) {
        let Some(known) = self.tables.get_mut(&rds.key) else { return };
        known.users.remove(user);
        if known.users.is_empty() {
            self.set_hosts(&rds.key, None);
            self.tables.remove(&rds.key);
            if self.snapshot.route_tables.contains_key(&rds.key) {
                Arc::make_mut(&mut self.snapshot.route_tables).remove(&rds.key);
                self.is_changed = true;
            }
            let (place, name) = (rds.source.place.clone(), Arc::from(&*rds.name));
            self.interests.push(Interest::None(ResourceType::RouteConfiguration, place, name));
        }
    }

    pub(super) fn put_table(
        &mut self,
        place: &ConfigPlace,
        incoming: &Incoming,
    ) -> Result<(), String> {
        let key = place.key(&incoming.name);
        let outcome = self.judge_table(&key, incoming);
        let noted = if outcome.is_ok() { Outcome::Accepted } else { Outcome::Refused };
        self.note_table(&key, noted);
        outcome
    }

    pub(super) fn judge_table(&mut self, key: &str, incoming: &Incoming) -> Result<(), String> {
        let Some(known) = self.tables.get_mut(key) else { return Ok(()) };
        if known.record.as_mut().is_some_and(|record| record.repeats(incoming)) {
            known.error = None;
            return Ok(());
        }
        let compiled = self.compile_table(key, incoming);
        let Some(known) = self.tables.get_mut(key) else { return Ok(()) };
        match compiled {
            Ok((table, hosts, fingerprint)) => {
                known.error = None;
                let same =
                    known.record.as_ref().is_some_and(|record| record.fingerprint == fingerprint);
                known.record = Some(Store::record(incoming, fingerprint));
                if !same {
                    // One with further virtual hosts is put together when all that came are known.
                    if hosts.is_none() {
                        let tables = Arc::make_mut(&mut self.snapshot.route_tables);
                        tables.insert(key.into(), Arc::new(table));
                    }
                    self.set_hosts(key, hosts);
                    self.table_changed(key);
                    self.table_answered(key);
                    self.note_table(key, Outcome::Reloaded);
                }
                Ok(())
            }
            Err(text) => {
                known.error = Some(ErrorState::new(incoming, &text));
                Err(text)
            }
        }
    }

    fn compile_table(
        &mut self,
        key: &str,
        incoming: &Incoming,
    ) -> Result<(RouteTable, Option<Hosts>, Fingerprint), String> {
        let message = self.decode(ResourceType::RouteConfiguration, incoming)?;
        let fingerprint = Fingerprint::of(&message, &[]);
        let has_cluster = |name: &str| self.has_cluster(name);
        let context = self.ground.context(self.snapshot.clusters.names(), &has_cluster);
        let table = route::compile(&View::new(&message, &self.schema), &context, false)
            .map_err(|found| decode::text(&found))?;
        let hosts = self.hosts_for(key, &message, &table)?;
        Ok((table, hosts, fingerprint))
    }

    /// There are no routes of this name.
    pub(super) fn no_table(&mut self, key: &str) {
        let Some(known) = self.tables.get_mut(key) else { return };
        known.record = None;
        self.set_hosts(key, None);
        if self.snapshot.route_tables.contains_key(key) {
            Arc::make_mut(&mut self.snapshot.route_tables).remove(key);
            self.table_changed(key);
        }
        self.table_answered(key);
    }

    /// The snapshot has another in its place.
    pub(super) fn table_changed(&mut self, key: &str) {
        self.is_changed = true;
        let Some(known) = self.tables.get(key) else { return };
        for user in known.users.clone() {
            if let TableUser::Scope(set, _) = user {
                self.scopes_changed(&set);
            }
        }
    }

    /// Nobody waits for it any more.
    fn table_answered(&mut self, key: &str) {
        let Some(known) = self.tables.get_mut(key) else { return };
        if !std::mem::replace(&mut known.is_answered, true) {
            self.table_warmed(key);
        }
    }

    /// Those who waited for it, or for its virtual hosts, may be served.
    pub(super) fn table_warmed(&mut self, key: &str) {
        let Some(known) = self.tables.get(key) else { return };
        for user in known.users.clone() {
            match user {
                TableUser::Listener(name) => self.promote_listener(&name),
                TableUser::Scope(set, name) => self.promote_scope(&set, &name),
            }
        }
    }

    /// The tables that were asked for, as they came.
    pub fn route_tables(&self) -> impl Iterator<Item = (&ConfigPlace, Shown)> {
        self.tables.values().map(|known| {
            let shown = Shown {
                name: known.name.clone(),
                stage: Stage::of(known.is_answered(), !known.is_answered()),
                record: known.record.clone(),
                error: known.error.clone(),
            };
            (&known.place, shown)
        })
    }

    /// As [`Store::route_tables`], with their virtual hosts that came by themselves. As with Envoy, version
    /// and time are those of what came last.
    pub fn whole_route_tables(&self) -> impl Iterator<Item = Shown> {
        self.route_tables().map(|(place, mut shown)| {
            let known = self.tables.get(&*place.key(&shown.name));
            if let Some(hosts) = known.and_then(|known| known.hosts.as_ref()) {
                shown.record = shown.record.map(|own| hosts.show(own));
                shown.error = shown.error.or_else(|| hosts.refused());
            }
            shown
        })
    }
}
