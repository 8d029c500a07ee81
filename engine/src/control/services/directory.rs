//! What is published and subscribed, and who knows which providers: plain data and rules.
//!
//! Invariants: everything is bounded ([`SERVICES_MAX`], [`PROVIDERS_PER_SERVICE_MAX`],
//! [`PROVIDERS_MAX`], [`PLACES_MAX`]); what a registry said last holds until it says something else;
//! and every change takes [`Directory::serial`] one up, so that others can tell what they have seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_xds::services_config::{HostPort, RegistryConfig, ServiceProtocol, ServicesConfig};
use outrigger_xds::snapshot::{Address, Endpoint, Health, Service, ServiceSide};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::name::ServiceName;
use super::provider::{Offer, Provider};
use super::registry::{Report, Subscriber, Wanted};

/// All services, and where they come from.
#[derive(Debug)]
pub struct Directory {
    config: Arc<ServicesConfig>,
    /// What it is called where the application has not said so.
    default_application: String,
    application: Option<Application>,
    published: BTreeMap<ServiceName, Published>,
    subscribed: BTreeMap<ServiceName, Subscribed>,
    /// Registries that callers named, beside the configured ones, by source.
    places: BTreeMap<Box<str>, Place>,
    /// Providers of all subscriptions.
    providers: usize,
    overflows: u64,
    serial: u64,
}

/// The application behind the SOFA API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// Its name.
    pub name: String,
    /// Its zone; may be empty.
    #[serde(default)]
    pub zone: String,
    /// Its data centre; may be empty.
    #[serde(default)]
    pub data_center: String,
}

/// A ZooKeeper that a caller of the Dubbo API named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where.
    pub address: HostPort,
    /// For digest authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

/// A user and a password. The state file has them, and is therefore its owner's alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Without colons.
    pub username: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:[redacted]", self.username)
    }
}

impl Place {
    /// Its name as a registry.
    pub fn source(&self) -> Box<str> {
        match &self.credentials {
            None => self.address.to_string().into(),
            Some(credentials) => format!("{}@{}", credentials.username, self.address).into(),
        }
    }
}

/// What an application offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Published {
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    since_ms: u64,
    /// Registries of [`Directory::places`] that it is to be in, beside the configured ones.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    places: BTreeSet<Box<str>>,
}

/// What an application calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Subscribed {
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    places: BTreeSet<Box<str>>,
    /// The last word of each source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    answers: BTreeMap<Box<str>, Vec<Provider>>,
}

/// A call that has no effect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Registries need to be told where others reach us.
    #[error("engine.services.advertise.{0} is not set, so the service can't be registered")]
    NoAdvertise(&'static str),
    /// A pattern can only be subscribed to.
    #[error("{0} is more than one service")]
    Pattern(ServiceName),
    /// It would not fit into a registry.
    #[error("the service's parameters are longer than {PARAMETERS_BYTES_MAX} bytes")]
    TooLong,
    /// There are enough.
    #[error("there are {SERVICES_MAX} services already")]
    TooManyServices,
    /// There are enough.
    #[error("there are {PLACES_MAX} registries already")]
    TooManyRegistries,
}

/// Everything that survives a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Saved {
    #[serde(default)]
    application: Option<Application>,
    #[serde(default)]
    places: Vec<Place>,
    #[serde(default)]
    published: Vec<(ServiceName, Published)>,
    #[serde(default)]
    subscribed: Vec<(ServiceName, Subscribed)>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Published services.
    pub published: usize,
    /// Subscriptions.
    pub subscribed: usize,
    /// Providers of all subscriptions.
    pub providers: usize,
    /// Providers that were left out until now, because there were more than there may be.
    pub overflows: u64,
}

impl Directory {
    /// An empty one.
    pub fn new(config: Arc<ServicesConfig>, default_application: String) -> Directory {
        Directory {
            config,
            default_application,
            application: None,
            published: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            places: BTreeMap::new(),
            providers: 0,
            overflows: 0,
            serial: 0,
        }
    }

    /// Goes up with every change.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The application that was last told.
    pub fn application(&self) -> Option<&Application> {
        self.application.as_ref()
    }

    /// An application begins. Another one than before, or the same in another zone, starts with
    /// nothing; the same goes on with what it has (registries.md section 2.1).
    pub fn begin_application(&mut self, application: Application) {
        let same = |known: &Application| {
            (&known.name, &known.zone) == (&application.name, &application.zone)
        };
        if self.application.as_ref().is_some_and(|known| !same(known)) {
            self.published.retain(|name, _| name.protocol() != ServiceProtocol::Bolt);
            self.subscribed.retain(|name, _| name.protocol() != ServiceProtocol::Bolt);
            self.recount();
        }
        if self.application.as_ref() != Some(&application) {
            self.application = Some(application);
            self.serial += 1;
        }
    }

    /// An application offers a service, in the configured registries and in `place`.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing has changed then.
    pub fn publish(
        &mut self,
        name: ServiceName,
        parameters: BTreeMap<String, String>,
        place: Option<Place>,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        if name.is_pattern() {
            return Err(Refusal::Pattern(name));
        }
        let protocol = name.protocol();
        let registers = self.configured(protocol).any(|registry| registry.file.is_none());
        if (registers || place.is_some()) && self.config.advertise.of(protocol).is_none() {
            return Err(Refusal::NoAdvertise(protocol.name()));
        }
        let bytes: usize = parameters.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > PARAMETERS_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        self.check_room(self.published.contains_key(&name))?;
        let place = self.take_place(protocol, place)?;
        let since_ms = self.published.get(&name).map_or(now_ms, |known| known.since_ms);
        let mut new = Published { parameters, since_ms, places: BTreeSet::from_iter(place) };
        if let Some(known) = self.published.get(&name) {
            new.places.extend(known.places.iter().cloned());
            if *known == new {
                return Ok(());
            }
        }
        self.published.insert(name, new);
        self.serial += 1;
        Ok(())
    }

    /// An application no longer offers a service. With a `place`, it stays offered as long as it was
    /// published elsewhere as well. Nothing happens if it is not there.
    pub fn unpublish(&mut self, name: &ServiceName, place: Option<&Place>) {
        let Some(known) = self.published.get_mut(name) else { return };
        if let Some(place) = place {
            known.places.remove(&place.source());
        }
        if place.is_none() || known.places.is_empty() {
            self.published.remove(name);
        }
        self.drop_unused_places();
        self.serial += 1;
    }

    /// An application wants to call a service, which is looked up in the configured registries and in
    /// `place`.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing has changed then.
    pub fn subscribe(&mut self, name: ServiceName, place: Option<Place>) -> Result<(), Refusal> {
        self.check_room(self.subscribed.contains_key(&name))?;
        let place = self.take_place(name.protocol(), place)?;
        let is_new = !self.subscribed.contains_key(&name);
        let known = self.subscribed.entry(name).or_default();
        let is_more = place.is_some_and(|place| known.places.insert(place));
        if is_new || is_more {
            self.serial += 1;
        }
        Ok(())
    }

    /// An application no longer calls a service; see [`Directory::unpublish`]. Requests under way keep
    /// the configuration they have.
    pub fn unsubscribe(&mut self, name: &ServiceName, place: Option<&Place>) {
        let Some(known) = self.subscribed.get_mut(name) else { return };
        if let Some(place) = place {
            let source = place.source();
            known.places.remove(&source);
            known.answers.remove(&source);
        }
        if place.is_none() || known.places.is_empty() {
            self.subscribed.remove(name);
        }
        self.drop_unused_places();
        self.recount();
        self.serial += 1;
    }

    /// A registry told all providers for a lookup. What is too much is left out.
    pub fn report(&mut self, source: &str, report: Report) {
        // Lists outlive the connection they came by.
        let Report::Providers { lookup, mut providers } = report else { return };
        let is_configured = self.configured(lookup.protocol()).any(|one| *one.name == *source);
        let Some(known) = self.subscribed.get_mut(&*lookup) else { return };
        if !is_configured && !known.places.contains(source) {
            return;
        }
        let before = known.answers.get(source);
        // Registries list in any order; that alone is no change.
        providers.sort_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
        providers.dedup_by(|a, b| a.name == b.name && a.address == b.address);
        let others = self.providers - before.map_or(0, Vec::len);
        let room = PROVIDERS_PER_SERVICE_MAX.min(PROVIDERS_MAX.saturating_sub(others));
        if providers.len() > room {
            let (all, name) = (providers.len(), &lookup);
            log::error!("registry {source}: {name}: {room} of {all} providers are used");
            self.overflows += (all - room) as u64;
            providers.truncate(room);
        }
        if before != Some(&providers) {
            log::info!("registry {source}: {lookup}: {} providers", providers.len());
            self.providers = others + providers.len();
            known.answers.insert(source.into(), providers);
            self.serial += 1;
        }
    }

    /// Where requests of each service go (the data of [`Snapshot::with_services`]).
    ///
    /// [`Snapshot::with_services`]: outrigger_xds::snapshot::Snapshot::with_services
    pub fn services(&self) -> Vec<Service> {
        let mut all = Vec::with_capacity(self.published.len() + self.subscribed.len());
        for name in self.published.keys() {
            let endpoint = endpoint(self.config.applications.of(name.protocol()), 1, true);
            all.push(service(ServiceSide::Published, name, vec![endpoint]));
        }
        let mut subscribed: BTreeMap<ServiceName, BTreeMap<SocketAddr, Endpoint>> = BTreeMap::new();
        for name in self.subscribed.keys() {
            let providers = self.providers_of(name);
            if name.is_pattern() {
                for provider in &providers {
                    add(subscribed.entry(provider.name.clone()).or_default(), provider);
                }
            }
            let own = subscribed.entry(name.clone()).or_default();
            providers.iter().for_each(|provider| add(own, provider));
        }
        // Requests that do not say version or group go wherever the pattern leads, unless some service
        // has exactly that name.
        for name in self.subscribed.keys().filter(|name| name.is_pattern()) {
            let plain = name.without_patterns();
            if !subscribed.contains_key(&plain) {
                let endpoints = subscribed.get(name).cloned().unwrap_or_default();
                subscribed.insert(plain, endpoints);
            }
        }
        all.extend(subscribed.into_iter().map(|(name, endpoints)| {
            service(ServiceSide::Subscribed, &name, endpoints.into_values().collect())
        }));
        all
    }

    /// Known providers of a subscribed service, in a stable order; of several that have one address the
    /// one of the first source counts.
    pub fn providers_of(&self, name: &ServiceName) -> Vec<Provider> {
        let Some(subscribed) = self.subscribed.get(name) else { return Vec::new() };
        let mut found: BTreeMap<(ServiceName, SocketAddr), Provider> = BTreeMap::new();
        let configured = self.configured(name.protocol()).map(|registry| &*registry.name);
        for source in configured.chain(subscribed.places.iter().map(|place| &**place)) {
            for provider in subscribed.answers.get(source).into_iter().flatten() {
                let key = (provider.name.clone(), provider.address);
                found.entry(key).or_insert_with(|| provider.clone());
            }
        }
        if self.configured(name.protocol()).next().is_none() && subscribed.places.is_empty() {
            self.add_own(name, &mut found);
        }
        found.into_values().collect()
    }

    /// Where no registry is to be asked, services of this host are those that there are.
    fn add_own(
        &self,
        name: &ServiceName,
        found: &mut BTreeMap<(ServiceName, SocketAddr), Provider>,
    ) {
        let protocol = name.protocol();
        let advertised = self.config.advertise.of(protocol);
        let address = advertised.and_then(|address| address.to_string().parse().ok());
        let address = address.unwrap_or_else(|| self.config.applications.of(protocol));
        for (offered, published) in self.published.iter().filter(|(one, _)| name.takes(one)) {
            let query = self.offer(offered, published, address.into()).query();
            let name = offered.clone();
            let provider = Provider { name, address, weight: 1, healthy: true, query };
            found.entry((offered.clone(), address)).or_insert(provider);
        }
    }

    /// The names of subscriptions of a protocol.
    pub fn subscriptions(&self, protocol: ServiceProtocol) -> impl Iterator<Item = &ServiceName> {
        self.subscribed.keys().filter(move |name| name.protocol() == protocol)
    }

    /// Registries that callers named.
    pub fn places(&self) -> &BTreeMap<Box<str>, Place> {
        &self.places
    }

    /// What a configured registry is to do.
    pub fn wanted_of(&self, registry: &RegistryConfig) -> Wanted {
        let serves = |name: &ServiceName| registry.protocols.contains(&name.protocol());
        let registers = registry.file.is_none();
        self.wanted(|name, _| registers && serves(name), |name, _| serves(name))
    }

    /// What a registry is to do that a caller named.
    pub fn wanted_at(&self, source: &str) -> Wanted {
        self.wanted(
            |_, published| published.places.contains(source),
            |_, subscribed| subscribed.places.contains(source),
        )
    }

    fn wanted(
        &self,
        offers: impl Fn(&ServiceName, &Published) -> bool,
        looks_up: impl Fn(&ServiceName, &Subscribed) -> bool,
    ) -> Wanted {
        let offered = self.published.iter().filter(|(name, published)| offers(name, published));
        // The address may have been configured when it was published, and be no longer.
        let offered = offered.filter_map(|(name, published)| {
            let address = self.config.advertise.of(name.protocol())?.clone();
            Some(Arc::new(self.offer(name, published, address)))
        });
        let looked_up = self.subscribed.iter().filter(|(name, one)| looks_up(name, one));
        let lookups: BTreeSet<_> = looked_up.map(|(name, _)| Arc::new(name.clone())).collect();
        let protocol = lookups.first().map(|name| name.protocol());
        let advertised = protocol.and_then(|protocol| self.config.advertise.of(protocol));
        let subscriber = Subscriber {
            application: self.application_name().to_owned(),
            host: advertised.map(|address| address.host.clone()),
        };
        Wanted { offers: offered.collect(), lookups, subscriber: Arc::new(subscriber) }
    }

    fn offer(&self, name: &ServiceName, published: &Published, address: HostPort) -> Offer {
        let mut parameters = published.parameters.clone();
        let key = match name.protocol() {
            ServiceProtocol::Bolt => "appName",
            ServiceProtocol::Dubbo => "application",
        };
        parameters.entry(key.to_owned()).or_insert_with(|| self.application_name().to_owned());
        Offer { name: name.clone(), address, parameters, since_ms: published.since_ms }
    }

    fn application_name(&self) -> &str {
        self.application.as_ref().map_or(&self.default_application, |application| &application.name)
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        Counts {
            published: self.published.len(),
            subscribed: self.subscribed.len(),
            providers: self.providers,
            overflows: self.overflows,
        }
    }

    /// What is to be kept over a restart.
    pub fn save(&self) -> Saved {
        let owned = |(name, one): (&ServiceName, &Subscribed)| (name.clone(), one.clone());
        Saved {
            application: self.application.clone(),
            places: self.places.values().cloned().collect(),
            published: self.published.iter().map(|(n, p)| (n.clone(), p.clone())).collect(),
            subscribed: self.subscribed.iter().map(owned).collect(),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.application = None;
        self.published.clear();
        self.subscribed.clear();
        self.places.clear();
        self.recount();
        self.serial += 1;
    }

    /// Takes what was kept. What the configuration or the limits no longer allow is left out.
    pub fn restore(&mut self, saved: Saved) {
        self.application = saved.application;
        let places = saved.places.into_iter().take(PLACES_MAX);
        self.places = places.map(|place| (place.source(), place)).collect();
        let mut room = SERVICES_MAX;
        for (name, mut published) in saved.published.into_iter().take(room) {
            published.places.retain(|source| self.places.contains_key(source));
            if !name.is_pattern() {
                self.published.insert(name, published);
            }
        }
        room -= self.published.len();
        let configured =
            |source: &str| self.config.registries.iter().any(|registry| &*registry.name == source);
        let mut providers = 0;
        for (name, mut subscribed) in saved.subscribed.into_iter().take(room) {
            subscribed.places.retain(|source| self.places.contains_key(source));
            subscribed.answers.retain(|source, list| {
                list.truncate(PROVIDERS_PER_SERVICE_MAX.min(PROVIDERS_MAX - providers));
                providers += list.len();
                configured(source) || self.places.contains_key(source)
            });
            self.subscribed.insert(name, subscribed);
        }
        self.drop_unused_places();
        self.recount();
        self.serial += 1;
    }

    /// Configured registries that have services of `protocol`.
    fn configured(&self, protocol: ServiceProtocol) -> impl Iterator<Item = &RegistryConfig> {
        let serves = move |registry: &&RegistryConfig| registry.protocols.contains(&protocol);
        self.config.registries.iter().filter(serves)
    }

    fn check_room(&self, is_known: bool) -> Result<(), Refusal> {
        if !is_known && self.published.len() + self.subscribed.len() >= SERVICES_MAX {
            return Err(Refusal::TooManyServices);
        }
        Ok(())
    }

    /// The source of a registry that a caller named; nothing when it is a configured one.
    fn take_place(
        &mut self,
        protocol: ServiceProtocol,
        place: Option<Place>,
    ) -> Result<Option<Box<str>>, Refusal> {
        let Some(place) = place else { return Ok(None) };
        let is_configured = self.configured(protocol).any(|registry| {
            let zookeeper = registry.zookeeper.as_ref();
            zookeeper.is_some_and(|zookeeper| zookeeper.addresses.contains(&place.address))
        });
        if is_configured {
            return Ok(None);
        }
        let source = place.source();
        if self.places.len() >= PLACES_MAX && !self.places.contains_key(&source) {
            return Err(Refusal::TooManyRegistries);
        }
        // The newest password counts.
        if self.places.get(&source) != Some(&place) {
            self.places.insert(source.clone(), place);
            self.serial += 1;
        }
        Ok(Some(source))
    }

    fn drop_unused_places(&mut self) {
        let published = self.published.values().flat_map(|one| &one.places);
        let used: BTreeSet<_> = published
            .chain(self.subscribed.values().flat_map(|one| &one.places))
            .cloned()
            .collect();
        self.places.retain(|source, _| used.contains(source));
    }

    fn recount(&mut self) {
        let lists = self.subscribed.values().flat_map(|one| one.answers.values());
        self.providers = lists.map(Vec::len).sum();
    }
}

fn service(side: ServiceSide, name: &ServiceName, endpoints: Vec<Endpoint>) -> Service {
    Service { side, protocol: name.protocol().name(), key: name.key().into(), endpoints }
}

/// The same address under two names is one endpoint.
fn add(endpoints: &mut BTreeMap<SocketAddr, Endpoint>, provider: &Provider) {
    // Weight 0 is no traffic, which no endpoint of a cluster can say.
    if provider.weight > 0 {
        let Provider { address, weight, healthy, .. } = provider;
        endpoints.entry(*address).or_insert_with(|| endpoint(*address, *weight, *healthy));
    }
}

fn endpoint(address: SocketAddr, weight: u32, healthy: bool) -> Endpoint {
    Endpoint {
        weight,
        health: if healthy { Health::Healthy } else { Health::Unhealthy },
        ..Endpoint::at(Address::Ip(address))
    }
}

/// Published and subscribed services of a host.
pub const SERVICES_MAX: usize = 10_000;

/// Providers that one registry may list for one service.
pub const PROVIDERS_PER_SERVICE_MAX: usize = 10_000;

/// Providers of all services together: some 50 MB.
pub const PROVIDERS_MAX: usize = 100_000;

/// Parameters of a service, all together: they become part of a path in ZooKeeper, whose servers take
/// messages of a megabyte.
pub const PARAMETERS_BYTES_MAX: usize = 64 << 10;

/// Registries that callers may name.
pub const PLACES_MAX: usize = 16;

#[cfg(test)]
mod tests;
