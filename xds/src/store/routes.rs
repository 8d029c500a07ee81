//! Tables of routes that listeners and scopes name: RDS.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::client::ResourceType;
use crate::compile::route;
use crate::fingerprint::Fingerprint;
use crate::snapshot::{ConfigPlace, Rds, RouteTable};
use crate::view::View;

use super::decode;
use super::named::Named;
use super::virtual_hosts::Hosts;
use super::{Incoming, Outcome, Shown, Store, Watched};

/// A RouteConfiguration that listeners or scopes refer to.
pub(super) struct Table {
    pub(super) named: Named<TableUser>,
    stat_prefixes: BTreeSet<Box<str>>,
    is_answered: bool,
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

    fn shown(&self) -> (&ConfigPlace, Shown) {
        self.named.shown(self.is_answered())
    }
}

impl Store {
    pub(super) fn use_table(&mut self, rds: &Rds, user: &TableUser) {
        let known = self.tables.entry(rds.key.clone()).or_insert_with(|| {
            let kind = ResourceType::RouteConfiguration;
            let (named, interest) = Named::new(kind, &rds.name, &rds.source);
            self.interests.push(interest);
            Table { named, stat_prefixes: BTreeSet::new(), is_answered: false, hosts: None }
        });
        known.named.join(user.clone());
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
        self.note_for_managers(key, Watched::Routes, outcome);
    }

    /// As [`Store::note_table`], for its virtual hosts.
    pub(super) fn note_hosts(&mut self, key: &str, outcome: Outcome) {
        self.note_for_managers(key, Watched::VirtualHosts, outcome);
    }

    fn note_for_managers(
        &mut self,
        key: &str,
        watched: fn(Box<str>, Box<str>) -> Watched,
        outcome: Outcome,
    ) {
        let Some(known) = self.tables.get(key) else { return };
        for prefix in &known.stat_prefixes {
            self.outcomes.push((watched(prefix.clone(), known.named.name.clone()), outcome));
        }
    }

    pub(super) fn leave_table(&mut self, rds: &Rds, user: &TableUser) {
        let Some(known) = self.tables.get_mut(&rds.key) else { return };
        if let Some(interest) = known.named.leave(user) {
            self.set_hosts(&rds.key, None);
            self.tables.remove(&rds.key);
            if self.snapshot.route_tables.contains_key(&rds.key) {
                Arc::make_mut(&mut self.snapshot.route_tables).remove(&rds.key);
                self.is_changed = true;
            }
            self.interests.push(interest);
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
        if known.named.repeats(incoming) {
            return Ok(());
        }
        let compiled = self.compile_table(key, incoming);
        let Some(known) = self.tables.get_mut(key) else { return Ok(()) };
        let refuse = |text: &String| known.named.refuse(incoming, text);
        let (table, hosts, fingerprint) = compiled.inspect_err(refuse)?;
        if known.named.accept(incoming, fingerprint) {
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
        known.named.record = None;
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
        for user in known.named.users.clone() {
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
        for user in known.named.users.clone() {
            match user {
                TableUser::Listener(name) => self.promote_listener(&name),
                TableUser::Scope(set, name) => self.promote_scope(&set, &name),
            }
        }
    }

    /// The tables that were asked for, as they came.
    pub fn route_tables(&self) -> impl Iterator<Item = (&ConfigPlace, Shown)> {
        self.tables.values().map(Table::shown)
    }

    /// As [`Store::route_tables`], with their virtual hosts that came by themselves. As with Envoy, version
    /// and time are those of what came last.
    pub fn whole_route_tables(&self) -> impl Iterator<Item = Shown> {
        self.tables.values().map(|known| {
            let (_, mut shown) = known.shown();
            if let Some(hosts) = &known.hosts {
                shown.record = shown.record.map(|own| hosts.show(own));
                shown.error = shown.error.or_else(|| hosts.refused());
            }
            shown
        })
    }
}
