//! Virtual hosts that come by themselves: VHDS.
//!
//! A table that names a source of virtual hosts is served with those that came from there beside its
//! own. All of them are asked for at once, by the table's name, and those that a server does not give
//! unasked one by one, when requests need them ([`demands`](super::demands)). One that comes or goes costs
//! what it costs among few. Invariant: no two virtual hosts of a table have the same name or a domain in
//! common.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::BytesMut;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::DynamicMessage;

use crate::client::ResourceType;
use crate::compile::route;
use crate::fingerprint::Fingerprint;
use crate::snapshot::{ConfigPlace, ConfigSource, HostId, RouteTable, VirtualHost};
use crate::view::View;

use super::decode;
use super::demands::Demands;
use super::{ErrorState, Incoming, Interest, Outcome, Record, Store};

/// The virtual hosts of a table.
pub(super) struct Hosts {
    pub(super) source: ConfigSource,
    pub(super) is_answered: bool,
    /// What is in the snapshot is not what it should be.
    is_stale: bool,
    /// With its own virtual hosts, and those that came but for what is stale.
    table: RouteTable,
    /// Of the table, without virtual hosts: what it says of all.
    message: DynamicMessage,
    /// By the names of their resources.
    served: BTreeMap<Box<str>, Served>,
    /// Those of them that are not in the table yet.
    coming: BTreeMap<Box<str>, VirtualHost>,
    /// Those in the table that no longer are to be.
    leaving: Vec<HostId>,
    /// Whose names and domains are; nothing is the table itself.
    claims: HashMap<Claim, Option<Box<str>>>,
    /// Those of a response that is being taken in: whether they will keep what they have is not known.
    undecided: HashSet<Box<str>>,
    /// The response that is being taken in has something for this table.
    is_meant: bool,
    /// And something that was refused.
    is_refused: bool,
    /// It has nothing at all.
    is_empty: bool,
    /// Whose other names are.
    known_as: HashMap<Arc<str>, Box<str>>,
    pub(super) demands: Demands,
}

/// A virtual host of a server.
#[derive(Default)]
struct Served {
    /// What it has; nothing if none was accepted.
    claims: Box<[Claim]>,
    place: Option<HostId>,
    aliases: Box<[Arc<str>]>,
    record: Option<Record>,
    error: Option<ErrorState>,
}

/// What only one virtual host of a table may have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Claim {
    Name(Arc<str>),
    Domain(Box<str>),
}

impl Claim {
    fn all(name: &Arc<str>, domains: &[Box<str>]) -> impl Iterator<Item = Claim> {
        let domains = domains.iter().map(|domain| Claim::Domain(domain.clone()));
        std::iter::once(Claim::Name(Arc::clone(name))).chain(domains)
    }
}

impl Hosts {
    /// For a table that has its own.
    fn new(source: ConfigSource, table: RouteTable, message: DynamicMessage) -> Hosts {
        let own = table.virtual_hosts().flat_map(|(name, domains)| Claim::all(name, domains));
        Hosts {
            source,
            is_answered: false,
            is_stale: true,
            claims: own.map(|claim| (claim, None)).collect(),
            table,
            message,
            served: BTreeMap::new(),
            coming: BTreeMap::new(),
            leaving: Vec::new(),
            undecided: HashSet::new(),
            is_meant: false,
            is_refused: false,
            is_empty: false,
            known_as: HashMap::new(),
            demands: Demands::default(),
        }
    }

    /// Takes a virtual host, in place of the one of its resource if there is one.
    fn serve(
        &mut self,
        resource: &str,
        aliases: &[Arc<str>],
        host: VirtualHost,
        record: Record,
    ) -> Result<(), String> {
        let claims: Box<[Claim]> = Claim::all(&host.name, &host.domains).collect();
        for claim in &claims {
            let owner = match self.claims.get(claim) {
                Some(Some(owner)) if **owner == *resource || self.undecided.contains(owner) => None,
                Some(owner) => Some(owner.as_deref()),
                None => None,
            };
            let Some(owner) = owner else { continue };
            let owner = owner.map_or("its route configuration".to_owned(), |it| format!("{it:?}"));
            return Err(match claim {
                Claim::Name(name) => format!("name: {name:?} is in {owner}, too"),
                Claim::Domain(domain) => format!("domains: {domain:?} is in {owner}, too"),
            });
        }
        for claim in &claims {
            if let Some(Some(owner)) = self.claims.get(claim)
                && **owner != *resource
            {
                // It comes again with what this response says of it.
                self.coming.remove(owner);
                let robbed = self.served.get_mut(owner);
                self.leaving.extend(robbed.and_then(|robbed| robbed.place.take()));
            }
        }
        self.disclaim(resource);
        self.claims.extend(claims.iter().map(|claim| (claim.clone(), Some(resource.into()))));
        let entry = self.served.entry(resource.into()).or_default();
        (entry.claims, entry.record, entry.error) = (claims, Some(record), None);
        self.leaving.extend(entry.place.take());
        self.coming.insert(resource.into(), host);
        self.is_stale = true;
        self.set_aliases(resource, aliases);
        Ok(())
    }

    /// What a virtual host is known by from now on, beside the names by which it was asked for: a response
    /// need not repeat those.
    fn set_aliases(&mut self, resource: &str, aliases: &[Arc<str>]) {
        let before = self.forget_aliases(resource);
        let Some(served) = self.served.get_mut(resource) else { return };
        let kept = before.iter().filter(|name| self.demands.contains(name));
        let kept = kept.filter(|name| !aliases.contains(name));
        served.aliases = aliases.iter().chain(kept).map(Arc::clone).collect();
        for alias in &served.aliases {
            self.known_as.insert(Arc::clone(alias), resource.into());
        }
    }

    fn forget_aliases(&mut self, resource: &str) -> Box<[Arc<str>]> {
        let Some(served) = self.served.get_mut(resource) else { return Box::default() };
        let aliases = std::mem::take(&mut served.aliases);
        for alias in &aliases {
            if self.known_as.get(alias).is_some_and(|owner| **owner == *resource) {
                self.known_as.remove(alias);
            }
        }
        aliases
    }

    /// Whether a virtual host is there that is known by this name (D-13).
    pub(super) fn knows(&self, name: &str) -> bool {
        let has_host = |served: &Served| !served.claims.is_empty();
        self.known_as.contains_key(name) || self.served.get(name).is_some_and(has_host)
    }

    /// Gives up what a virtual host has, but for what another has taken.
    fn disclaim(&mut self, resource: &str) {
        for claim in self.served.get(resource).into_iter().flat_map(|served| &served.claims) {
            if let Some(Some(owner)) = self.claims.get(claim)
                && **owner == *resource
            {
                self.claims.remove(claim);
            }
        }
    }

    /// Whether all that a virtual host has is still its own.
    fn is_whole(&self, resource: &str) -> bool {
        let mut claims = self.served.get(resource).into_iter().flat_map(|served| &served.claims);
        claims.all(|claim| {
            self.claims.get(claim).is_some_and(|owner| owner.as_deref() == Some(resource))
        })
    }

    fn remove(&mut self, resource: &str) {
        self.disclaim(resource);
        self.forget_aliases(resource);
        let Some(served) = self.served.remove(resource) else { return };
        self.coming.remove(resource);
        self.leaving.extend(served.place);
        self.is_stale |= !served.claims.is_empty();
    }

    /// Removes what is known by a name. Returns all the names that it was known by.
    fn remove_known(&mut self, name: &str) -> Vec<Box<str>> {
        let owner = self.known_as.get(name).filter(|_| !self.served.contains_key(name));
        let resource = owner.cloned().unwrap_or_else(|| name.into());
        let served = self.served.get(&resource);
        let aliases = served.into_iter().flat_map(|served| served.aliases.iter());
        let mut names: Vec<Box<str>> = aliases.map(|alias| (&**alias).into()).collect();
        self.remove(&resource);
        names.push(resource);
        names
    }

    /// The table with all that is known.
    fn settle(&mut self) -> Result<RouteTable, String> {
        self.is_stale = false;
        self.leaving.drain(..).for_each(|place| self.table.remove(place));
        for (resource, host) in std::mem::take(&mut self.coming) {
            let place = self.table.insert(host).map_err(|error| error.to_string())?;
            if let Some(served) = self.served.get_mut(&resource) {
                served.place = Some(place);
            }
        }
        Ok(self.table.clone())
    }

    /// The table's resource with all virtual hosts. To append a field to a message is to add to it.
    pub(super) fn show(&self, own: Record) -> Record {
        let all = self.served.values().filter_map(|served| served.record.as_ref());
        let mut content = BytesMut::from(&*own.content);
        for host in all.clone() {
            encode_key(VIRTUAL_HOSTS, WireType::LengthDelimited, &mut content);
            encode_varint(host.content.len() as u64, &mut content);
            content.extend_from_slice(&host.content);
        }
        let last = all.max_by_key(|host| host.updated).filter(|host| host.updated > own.updated);
        Record { content: content.freeze(), ..last.cloned().unwrap_or(own) }
    }

    /// The last virtual host that was refused.
    pub(super) fn refused(&self) -> Option<ErrorState> {
        let refused = self.served.iter().filter_map(|(name, it)| Some((name, it.error.as_ref()?)));
        let (name, error) = refused.max_by_key(|(_, error)| error.at)?;
        let text = format!("VirtualHost {name}: {}", error.text);
        Some(ErrorState { text: text.into(), ..error.clone() })
    }
}

impl Store {
    /// The virtual hosts for the next version of a table, if it names a source for them: those that
    /// are known, as this version has them.
    pub(super) fn hosts_for(
        &mut self,
        key: &str,
        message: &DynamicMessage,
        table: &RouteTable,
    ) -> Result<Option<Hosts>, String> {
        let before = self.tables.get(key).and_then(|table| table.hosts.as_ref());
        let view = View::new(message, &self.schema);
        let has_cluster = |name: &str| self.has_cluster(name);
        let context = self.ground.context(self.snapshot.clusters.names(), &has_cluster);
        let ads = self.ground.dynamic.ads.as_ref().map(|ads| ads.variant);
        let source = route::vhds(&view, &context, ads).map_err(|found| decode::text(&found))?;
        let Some(source) = source else { return Ok(None) };
        let mut alone = message.clone();
        alone.clear_field_by_name("virtual_hosts");
        let mut hosts = Hosts::new(source, table.clone().with_hosts_to_come(key), alone);
        let Some(before) = before.filter(|before| before.source.place == hosts.source.place) else {
            return Ok(Some(hosts));
        };
        hosts.is_answered = before.is_answered;
        hosts.demands = before.demands.clone();
        for (resource, served) in &before.served {
            let Some(record) = &served.record else { continue };
            let name = ResourceType::VirtualHost.message();
            let known = self.schema.message(name).ok_or("is not known")?;
            let known = DynamicMessage::decode(known, record.content.clone())
                .map_err(|error| error.to_string())?;
            let host = route::host(&View::new(&known, &self.schema), &view, &context)
                .map_err(|found| format!("{name} {resource}: {}", decode::text(&found)))?;
            hosts
                .serve(resource, &served.aliases, host, record.clone())
                .map_err(|text| format!("VirtualHost {resource}: {text}"))?;
        }
        Ok(Some(hosts))
    }

    /// Gives a table its virtual hosts, and asks for more; or no longer.
    pub(super) fn set_hosts(&mut self, key: &str, hosts: Option<Hosts>) {
        let Some(table) = self.tables.get_mut(key) else { return };
        let name: Arc<str> = (&*table.named.name).into();
        let after = hosts.as_ref().map(|hosts| hosts.source.clone());
        let hosts_before = std::mem::replace(&mut table.hosts, hosts);
        let before = hosts_before.as_ref().map(|hosts| hosts.source.place.clone());
        if let Some(source) = &after
            && before.as_ref() != Some(&source.place)
        {
            self.hosted.insert(key.into());
            let kind = ResourceType::VirtualHost;
            self.interests.push(Interest::One(kind, source.clone(), Arc::clone(&name)));
            self.note_hosts(key, Outcome::Asked);
        }
        let place = after.map(|source| source.place);
        if let Some(before) = before
            && place.as_ref() != Some(&before)
        {
            if place.is_none() {
                self.hosted.remove(key);
            }
            if let Some(hosts) = hosts_before {
                self.leave_hosts_demands(key, &name, hosts);
            }
            self.leave_hosts(before, name);
        }
    }

    /// Nobody asks for the virtual hosts of a table any more, unless another has its name and source.
    pub(super) fn leave_hosts(&mut self, place: ConfigPlace, name: Arc<str>) {
        if self.hosted_by(&place, &name).is_empty() {
            self.interests.push(Interest::None(ResourceType::VirtualHost, place, name));
        }
    }

    /// The tables of this name that have virtual hosts from this place.
    pub(super) fn hosted_by(&self, place: &ConfigPlace, name: &str) -> Vec<Box<str>> {
        let tables = self.hosted.iter().filter(|key| {
            self.tables.get(&**key).is_some_and(|table| {
                let hosts = table.hosts.as_ref();
                *table.named.name == *name
                    && hosts.is_some_and(|hosts| hosts.source.place == *place)
            })
        });
        tables.cloned().collect()
    }

    fn hosts_of<'a>(
        &'a mut self,
        place: &'a ConfigPlace,
    ) -> impl Iterator<Item = (&'a Box<str>, &'a str, &'a mut Hosts)> {
        let hosted = &self.hosted;
        self.tables.iter_mut().filter(|(key, _)| hosted.contains(*key)).filter_map(
            move |(key, table)| {
                let hosts = table.hosts.as_mut()?;
                (hosts.source.place == *place).then_some((key, &*table.named.name, hosts))
            },
        )
    }

    /// A response with these virtual hosts is about to be taken in: until its own is, what one has may
    /// be given to another. A response with none at all is an answer to all who wait.
    pub(super) fn expect_hosts<'a>(
        &mut self,
        place: &ConfigPlace,
        names: impl Iterator<Item = &'a str> + Clone,
    ) {
        let is_bare = names.clone().next().is_none();
        let names: HashSet<Box<str>> = names.map(Box::from).collect();
        for (_, table, hosts) in self.hosts_of(place) {
            let mine =
                names.iter().filter(|name| is_of(table, name) || hosts.served.contains_key(*name));
            hosts.undecided = mine.cloned().collect();
            hosts.is_meant = is_bare || !hosts.undecided.is_empty();
            hosts.is_refused = false;
            hosts.is_empty = is_bare;
        }
    }

    /// A response was taken in: whoever it was for waits no more.
    pub(super) fn hosts_answered(&mut self, place: &ConfigPlace) {
        let mut answered = Vec::new();
        for (key, _, hosts) in self.hosts_of(place) {
            hosts.undecided.clear();
            if std::mem::take(&mut hosts.is_meant) {
                let is_first = !std::mem::replace(&mut hosts.is_answered, true);
                let response = match (hosts.is_refused, hosts.is_empty) {
                    (true, _) => Outcome::Refused,
                    (false, true) => Outcome::Empty,
                    (false, false) => Outcome::Accepted,
                };
                answered.push((key.clone(), is_first, response.of_response(hosts.is_stale)));
            }
        }
        for (key, is_first, outcomes) in answered {
            outcomes.for_each(|outcome| self.note_hosts(&key, outcome));
            if is_first {
                self.table_warmed(&key);
            }
        }
    }

    /// All of a table that are known are there: it was restored, or no more came in time.
    fn hosts_known(&mut self, key: &str) {
        let hosts = self.tables.get_mut(key).and_then(|table| table.hosts.as_mut());
        if hosts.is_some_and(|hosts| !std::mem::replace(&mut hosts.is_answered, true)) {
            self.table_warmed(key);
        }
    }

    pub(super) fn put_host(
        &mut self,
        place: &ConfigPlace,
        incoming: &Incoming,
    ) -> Result<(), String> {
        let names = std::iter::once(&incoming.name).chain(&*incoming.aliases);
        let tables: Vec<&str> = names.filter_map(|name| Some(name.rsplit_once('/')?.0)).collect();
        let mut keys: Vec<_> =
            tables.into_iter().flat_map(|table| self.hosted_by(place, table)).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut outcome = Ok(());
        for key in keys {
            outcome = outcome.and(self.judge_host(&key, incoming));
        }
        outcome
    }

    /// As [`Store::put_host`], by the key of a place and name.
    pub(super) fn restore_host(&mut self, key: &str, incoming: &Incoming) -> Result<(), String> {
        let mut outcome = Ok(());
        let places = self.hosted.iter().filter_map(|it| self.tables.get(it)?.hosts.as_ref());
        let mut places: Vec<_> = places.map(|hosts| hosts.source.place.clone()).collect();
        places.dedup();
        for place in places.iter().filter(|place| *place.key(&incoming.name) == *key) {
            outcome = outcome.and(self.put_host(place, incoming));
        }
        outcome
    }

    /// Everything was restored: where there are virtual hosts, nobody waits for more.
    pub(super) fn hosts_restored(&mut self) {
        for key in self.hosted.clone() {
            let hosts = self.tables.get(&key).and_then(|table| table.hosts.as_ref());
            if hosts.is_some_and(|hosts| !hosts.served.is_empty()) {
                self.hosts_known(&key);
            }
        }
    }

    fn judge_host(&mut self, key: &str, incoming: &Incoming) -> Result<(), String> {
        let outcome = self.accept_host(key, incoming);
        let Some(hosts) = self.tables.get_mut(key).and_then(|table| table.hosts.as_mut()) else {
            return Ok(());
        };
        hosts.is_meant = true;
        hosts.undecided.remove(&*incoming.name);
        if hosts.is_stale {
            self.is_changed = true;
        }
        if let Err(text) = &outcome {
            hosts.is_refused = true;
            if !hosts.is_whole(&incoming.name) {
                // Another has what its last version had.
                hosts.remove(&incoming.name);
            }
            let entry = hosts.served.entry((&*incoming.name).into()).or_default();
            entry.error = Some(ErrorState::new(incoming, text));
        }
        let names = incoming.aliases.iter().chain([&incoming.name]);
        self.demands_answered(key, &names.map(|name| &**name).collect::<Vec<_>>());
        outcome
    }

    fn accept_host(&mut self, key: &str, incoming: &Incoming) -> Result<(), String> {
        let Some(table) = self.tables.get_mut(key) else { return Ok(()) };
        let Some(hosts) = &mut table.hosts else { return Ok(()) };
        if hosts.is_whole(&incoming.name)
            && let Some(served) = hosts.served.get_mut(&*incoming.name)
            && let Some(record) = &mut served.record
            && record.repeats(incoming)
        {
            served.error = None;
            hosts.set_aliases(&incoming.name, &incoming.aliases);
            return Ok(());
        }
        let message = self.decode(ResourceType::VirtualHost, incoming)?;
        let record = Store::record(incoming, Fingerprint::of(&message, &[]));
        let hosts = self.tables.get(key).and_then(|table| table.hosts.as_ref());
        let Some(hosts) = hosts else { return Ok(()) };
        let has_cluster = |name: &str| self.has_cluster(name);
        let context = self.ground.context(self.snapshot.clusters.names(), &has_cluster);
        let view = View::new(&message, &self.schema);
        let table = View::new(&hosts.message, &self.schema);
        let host = route::host(&view, &table, &context).map_err(|found| decode::text(&found))?;
        let hosts = self.tables.get_mut(key).and_then(|table| table.hosts.as_mut());
        hosts.map_or(Ok(()), |hosts| hosts.serve(&incoming.name, &incoming.aliases, host, record))
    }

    /// A virtual host is gone, or does not exist; or there are none of a table at all.
    pub(super) fn remove_host(&mut self, place: &ConfigPlace, name: &str) {
        let mut is_changed = false;
        let mut warm = Vec::new();
        let mut gone = Vec::new();
        for (key, table, hosts) in self.hosts_of(place) {
            if *table == *name {
                warm.push(key.clone());
            } else if is_of(table, name) || hosts.served.contains_key(name) {
                hosts.is_meant = true;
                gone.push((key.clone(), hosts.remove_known(name)));
                is_changed |= hosts.is_stale;
            }
        }
        self.is_changed |= is_changed;
        gone.iter().for_each(|(key, names)| self.give_demands_up(key, names));
        warm.iter().for_each(|key| self.hosts_known(key));
    }

    /// Brings the tables of the snapshot up to date.
    pub(super) fn settle_hosts(&mut self) {
        let mut changed = Vec::new();
        for key in &self.hosted {
            let Some(table) = self.tables.get_mut(key) else { continue };
            let Some(hosts) = table.hosts.as_mut().filter(|hosts| hosts.is_stale) else { continue };
            match hosts.settle() {
                Ok(whole) => {
                    let tables = Arc::make_mut(&mut self.snapshot.route_tables);
                    tables.insert(key.clone(), Arc::new(whole));
                    changed.push(key.clone());
                }
                // What each has was looked at before, so that nobody will see this.
                Err(text) => self.remarks.push(format!("{}: {text}", table.named.name)),
            }
        }
        changed.iter().for_each(|key| self.table_changed(key));
    }

    /// Virtual hosts that servers sent without being asked for each, with their places. The others would
    /// be asked for again only when a request needs them that does not find them.
    pub(super) fn served_hosts(&self) -> impl Iterator<Item = (&ConfigPlace, &str, &Record)> {
        let all = self.hosted.iter().filter_map(|key| self.tables.get(key)?.hosts.as_ref());
        all.flat_map(|hosts| {
            let is_demanded = |name: &str, served: &Served| {
                let mut aliases = served.aliases.iter();
                hosts.demands.contains(name) || aliases.any(|name| hosts.demands.contains(name))
            };
            let served = hosts.served.iter();
            let served = served.filter(move |(name, it)| !is_demanded(name, it));
            served
                .filter_map(|(name, it)| Some((&hosts.source.place, &**name, it.record.as_ref()?)))
        })
    }

    /// Whether servers have said something of a virtual host with this key of a place and name.
    pub(super) fn has_host_answer(&self, key: &str, name: &str) -> bool {
        let mut all = self.hosted.iter().filter_map(|table| self.tables.get(table));
        all.any(|table| {
            let hosts = table.hosts.as_ref();
            hosts.is_some_and(|hosts| {
                hosts.is_answered
                    && is_of(&table.named.name, name)
                    && *hosts.source.place.key(name) == *key
            })
        })
    }
}

/// Of RouteConfiguration.
const VIRTUAL_HOSTS: u32 = 2;

/// Whether a virtual host of this name is of the table of that name.
fn is_of(table: &str, name: &str) -> bool {
    name.rsplit_once('/').is_some_and(|(of, _)| *of == *table)
}
