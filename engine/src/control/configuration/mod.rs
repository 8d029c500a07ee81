//! The configuration in force: what the bootstrap and management servers say, with the answers of name
//! servers and the services that applications told of.
//!
//! One task owns the store of resources. Everything that changes the configuration comes to it as an
//! [`Event`]; what it makes of them goes to the server loop as a [`Update`], the newest one only, so
//! that nothing piles up when changes come faster than shards take them. Invariant: what is handed out
//! can be served: sockets are bound, logs are open, keys are loaded.

mod cache;
mod dial;
mod files;
mod meter;
mod preparation;
mod sources;
mod stream;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use outrigger_xds::cache::CacheNode;
use outrigger_xds::client::ResourceType;
use outrigger_xds::engine_config::ConfigCache;
use outrigger_xds::snapshot::{
    Cluster, Demand, Endpoint, FilterPlace, Listener, Service, Snapshot,
};
use outrigger_xds::store::{
    Changes, Ground, ListenerChange, Outcome, Phase, Store, TooManyDemands, Watched,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::connection::ListenerLogs;
use crate::control::hand_over::{Inherited, Tenure, end_of_process};
use crate::control::now_ms;
use crate::listen::BoundSockets;
use crate::tls::{self, TlsContexts};

use super::state::ControlState;

use self::cache::Cache;
use self::preparation::Preparation;
use self::sources::Sources;
use self::stream::StreamEvent;

pub use self::cache::CacheFault;
pub use self::preparation::PreparationError;

/// Something that changes the configuration.
pub enum Event {
    /// What the names of a cluster stand for now.
    Resolved(Box<str>, Vec<Endpoint>),
    /// All services there are; tells when they are in effect.
    Services(Vec<Service>, oneshot::Sender<()>),
    /// Something happened on the stream of this number.
    Stream(u64, StreamEvent),
    /// Every shard serves the update that was made at this time.
    Applied(Instant),
    /// The file with the last good configuration was written, in so many bytes, or was not.
    Cached(Result<usize, CacheFault>),
}

/// The way to the configuration.
pub type Events = mpsc::UnboundedSender<Event>;

/// What the server loop is to do.
#[derive(Default)]
pub struct Update {
    /// To be served from now on, with its keys and certificates.
    pub serve: Option<(Arc<Snapshot>, Arc<TlsContexts>)>,
    /// Listeners that come, change or go, in order.
    pub listeners: Vec<ListenerUpdate>,
    /// When the oldest of it was made.
    pub since: Option<Instant>,
    /// Those who wait until it is in effect.
    pub told: Vec<oneshot::Sender<()>>,
    /// Demands of requests for which nothing more is to come than what is in this.
    pub settled: Vec<Demand>,
    /// All that a start waits for is there.
    pub is_live: bool,
}

/// A listener that comes, changes or goes.
pub enum ListenerUpdate {
    /// Serve it, in place of the one of its name if there is one.
    Serve {
        /// The listener.
        config: Arc<Listener>,
        /// The logs of its filter chains.
        logs: ListenerLogs,
        /// Sockets to accept on; nothing where it goes on with those that it has.
        sockets: Option<BoundSockets>,
    },
    /// Drain it.
    Remove(Box<str>),
}

/// Updates on their way to the server loop: at most one, which later ones join.
#[derive(Clone)]
pub struct Updates {
    waiting: Arc<Mutex<Update>>,
    ring: Sender<()>,
    /// Rings when there is something to take.
    pub bell: Receiver<()>,
}

impl Default for Updates {
    fn default() -> Self {
        let (ring, bell) = bounded(1);
        Self { waiting: Arc::default(), ring, bell }
    }
}

impl Updates {
    /// What has come together since this was last called.
    pub fn take(&self) -> Update {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, add: impl FnOnce(&mut Update)) {
        add(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        // A bell that is ringing already is as good.
        let _rung = self.ring.try_send(());
    }
}

/// What a configuration starts from.
pub struct Beginning {
    /// The bootstrap's listeners and clusters.
    pub snapshot: Arc<Snapshot>,
    /// What resources of servers are compiled against.
    pub ground: Ground,
    /// Their keys and certificates.
    pub tls: Arc<TlsContexts>,
    /// The settings of service clusters.
    pub service_template: Arc<Cluster>,
    /// The way to the writer of access logs.
    pub log_queue: crate::access_log::Queue,
    /// Fields that no message has are remarks (U-05).
    pub ignore_unknown_fields: bool,
    /// The file with the last good configuration, and whose it is.
    pub cache: Option<(ConfigCache, CacheNode)>,
    /// A predecessor's listening sockets.
    pub inherited: Arc<Inherited>,
    /// What requests need and is to be asked for.
    pub demands: mpsc::Receiver<Demand>,
}

/// The task.
pub struct Configuration {
    state: Arc<ControlState>,
    /// Admin looks at it, too.
    store: Arc<Mutex<Store>>,
    preparation: Preparation,
    service_template: Arc<Cluster>,
    events: mpsc::UnboundedReceiver<Event>,
    updates: Updates,
    /// The clusters whose names are followed.
    names: watch::Sender<Arc<[Arc<Cluster>]>>,
    sources: Sources,
    cache: Option<Cache>,
    /// The start was made from the cache, and no server has answered since.
    is_from_cache: bool,
    told: Vec<oneshot::Sender<()>>,
    demands: mpsc::Receiver<Demand>,
    /// Demands that are not asked for, because too much is.
    refused: Vec<Demand>,
    is_live: bool,
}

impl Configuration {
    /// The configuration of the bootstrap, with its sockets bound.
    ///
    /// # Errors
    /// When a listener can't be served.
    pub fn new(
        state: &Arc<ControlState>,
        beginning: Beginning,
        updates: Updates,
    ) -> Result<(Self, Events), PreparationError> {
        let (sender, events) = mpsc::unbounded_channel();
        let shards = state.registry().shards();
        let Beginning { snapshot, ground, tls, cache, .. } = beginning;
        let cache = cache.map(|(config, node)| Cache::new(&config, node, sender.clone()));
        let sources = Sources::new(
            ground.node(),
            ground.dynamic_resources().ads.clone(),
            sender.clone(),
            Arc::clone(state.registry()),
        );
        let mut preparation =
            Preparation::new(beginning.log_queue, shards, tls, beginning.inherited);
        for listener in snapshot.listeners.iter() {
            preparation.listener(listener)?;
        }
        let store = Store::new(ground, &snapshot, beginning.ignore_unknown_fields);
        let store = Arc::new(Mutex::new(store));
        state.set_store(Arc::clone(&store));
        let mut configuration = Self {
            state: Arc::clone(state),
            store,
            preparation,
            service_template: beginning.service_template,
            events,
            updates,
            names: watch::Sender::new(Arc::new([])),
            sources,
            cache,
            is_from_cache: false,
            told: Vec::new(),
            demands: beginning.demands,
            refused: Vec::new(),
            is_live: false,
        };
        configuration.publish();
        Ok((configuration, sender))
    }

    /// The clusters whose names are to be followed.
    pub fn names(&self) -> watch::Receiver<Arc<[Arc<Cluster>]>> {
        self.names.subscribe()
    }

    /// Takes in what was told before anything is served, so that it is in the first update.
    pub fn take_in_early(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.take_in(event);
        }
        self.publish();
    }

    /// Follows events until `ends`. The file with the last good configuration is written while this process
    /// has the `tenure`, for the last time at the end.
    pub async fn run(mut self, mut tenure: watch::Receiver<Tenure>, ends: watch::Receiver<bool>) {
        let mut files = interval(tls::FILES_INTERVAL);
        files.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turns = 0;
        let mut wake_at = None;
        loop {
            // Whatever has come meanwhile makes one update.
            while let Ok(event) = self.events.try_recv() {
                self.take_in(event);
            }
            while let Ok(demand) = self.demands.try_recv() {
                self.demand(demand);
            }
            let is_idle = self.sources.work(&mut lock(&self.store), &mut self.preparation);
            turns += 1;
            if is_idle || turns >= TURNS_PER_FLUSH {
                wake_at = [self.flush(), self.tend_cache(&tenure)].into_iter().flatten().min();
                turns = 0;
            }
            if !is_idle {
                // Admin and the other streams have their turn between two pieces of a large response.
                tokio::task::yield_now().await;
                continue;
            }
            let watches = self.preparation.has_files()
                || self.sources.has_files()
                || lock(&self.store).has_runtime_on_disk();
            tokio::select! {
                Some(event) = self.events.recv() => self.take_in(event),
                Some(demand) = self.demands.recv() => self.demand(demand),
                () = sleep_until(wake_at), if wake_at.is_some() => {}
                _ = files.tick(), if watches => self.refresh_files(),
                // What was not this process's to write may be now.
                Ok(()) = tenure.changed() => {}
                () = end_of_process(&ends) => break,
            }
        }
        self.close(&tenure).await;
    }

    /// Writes down what is new, when nothing more is to come.
    async fn close(mut self, tenure: &watch::Receiver<Tenure>) {
        self.await_write().await;
        if let Some(cache) = self.cache.as_mut()
            && self.is_live
            && *tenure.borrow() == Tenure::Ours
        {
            cache.write_now(&lock(&self.store));
        }
        self.await_write().await;
    }

    async fn await_write(&mut self) {
        while self.cache.as_ref().is_some_and(Cache::is_writing) {
            match self.events.recv().await {
                Some(Event::Cached(outcome)) => self.cached(&outcome),
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Asks servers for what is wanted, and hands out what is new. Returns when to do so again.
    fn flush(&mut self) -> Option<Instant> {
        loop {
            self.publish();
            let store = &mut *lock(&self.store);
            for interest in store.take_interests() {
                self.sources.ask(interest, store);
            }
            self.sources.look_at_files(store, &mut self.preparation);
            let next = self.sources.turn(store, &self.preparation.contexts());
            // What has expired may have changed what is served, and what is wanted.
            if !store.has_news() {
                self.count_outcomes(store.take_outcomes());
                self.count(store);
                self.count_discovery();
                return next;
            }
        }
    }

    /// Starts from the file with the last good configuration if nobody answers, and writes it when there
    /// is a newer one. Returns when to do so again.
    fn tend_cache(&mut self, tenure: &watch::Receiver<Tenure>) -> Option<Instant> {
        let cache = self.cache.as_mut()?;
        if self.is_live {
            self.is_from_cache = self.is_from_cache && !self.sources.is_confirmed();
            // Two processes must not write one file: it is a successor's as soon as that serves.
            let is_ours = *tenure.borrow() == Tenure::Ours;
            return if is_ours { cache.write(&lock(&self.store)) } else { None };
        }
        if !cache.is_due(self.sources.is_lost()) {
            return cache.due_at();
        }
        let kept = lock(&self.store).restore(cache.take()?, &mut self.preparation);
        self.sources.restore(kept);
        self.is_from_cache = true;
        self.flush()
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Resolved(name, endpoints) => lock(&self.store).resolved(&name, endpoints),
            Event::Services(services, tell) => {
                let template = &self.service_template;
                lock(&self.store).edit(|snapshot| snapshot.with_services(template, services));
                self.told.push(tell);
            }
            Event::Stream(number, event) => self.sources.take_in(number, event),
            Event::Cached(outcome) => self.cached(&outcome),
            Event::Applied(since) => {
                self.state.registry().config().applied(since.elapsed());
                self.state.reclaim().due();
            }
        }
    }

    /// The file with the last good configuration was written, or was not.
    fn cached(&mut self, outcome: &Result<usize, CacheFault>) {
        if let Some(cache) = &mut self.cache {
            cache.written(outcome);
        }
        let stats = self.state.registry().config();
        match outcome {
            Ok(bytes) => {
                stats.cache_write.inc();
                stats.cache_bytes.set(*bytes as u64);
            }
            Err(_) => stats.cache_write_failed.inc(),
        }
    }

    /// Asks for what a request needs.
    fn demand(&mut self, demand: Demand) {
        let asked = lock(&self.store).demand(demand.clone());
        if let Err(TooManyDemands) = asked {
            let registry = self.state.registry();
            registry.demand(registry.control()).overflow.inc();
            self.refused.push(demand);
        }
    }

    /// Hands out what is new.
    fn publish(&mut self) {
        let mut store = lock(&self.store);
        if let Some(clusters) = store.take_dns_clusters() {
            self.names.send_replace(clusters.into());
        }
        for remark in store.take_remarks() {
            log::info!(target: "config", "{remark}");
        }
        store.replace_withdrawn(&mut self.preparation);
        let changes = store.take_changes();
        let mut settled = store.take_settled();
        settled.append(&mut self.refused);
        let goes_live = !self.is_live && store.phase() == Phase::Live;
        drop(store);
        self.is_live |= goes_live;
        let told = std::mem::take(&mut self.told);
        if changes.is_none() && told.is_empty() && settled.is_empty() && !goes_live {
            return;
        }
        let (serve, listeners) = match changes {
            Some(Changes { snapshot, listeners }) => {
                if let Some(cache) = &mut self.cache {
                    cache.changed();
                }
                let tls = self.preparation.contexts();
                let listeners =
                    listeners.into_iter().filter_map(|change| self.listener(change)).collect();
                (Some((snapshot, tls)), listeners)
            }
            None => (None, Vec::new()),
        };
        self.updates.add(|update| {
            if serve.is_some() {
                update.serve = serve;
                update.since.get_or_insert_with(Instant::now);
            }
            update.listeners.extend(listeners);
            update.told.extend(told);
            update.settled.extend(settled);
            update.is_live |= goes_live;
        });
    }

    fn listener(&mut self, change: ListenerChange) -> Option<ListenerUpdate> {
        match change {
            ListenerChange::Serve(config) => self.preparation.take(&config),
            ListenerChange::Remove(name) => {
                self.preparation.forget(&name);
                Some(ListenerUpdate::Remove(name))
            }
        }
    }

    fn refresh_files(&mut self) {
        lock(&self.store).refresh_runtime();
        self.sources.look_at_files(&mut lock(&self.store), &mut self.preparation);
        let refreshed = self.preparation.refresh();
        let stats = self.state.registry().server();
        stats.tls_reload.add(refreshed.replaced.into());
        stats.tls_reload_failed.add(refreshed.failed.into());
    }

    fn count(&self, store: &Store) {
        let stats = self.state.registry().config();
        let (active, warming) = store.cluster_counts();
        stats.active_clusters.set(active as u64);
        stats.warming_clusters.set(warming as u64);
        let registry = self.state.registry();
        let demands = registry.demand(registry.control());
        demands.virtual_hosts.set(store.demands() as u64);
        demands.clusters.set(store.cluster_demands() as u64);
        let (active, warming) = store.listener_counts();
        stats.total_listeners_active.set(active as u64);
        stats.total_listeners_warming.set(warming as u64);
        stats.workers_started.set(u64::from(self.is_live));
        stats.from_cache.set(u64::from(self.is_from_cache));
        let counts = store.counts();
        stats.cluster_added.follow(counts.clusters_added);
        stats.cluster_modified.follow(counts.clusters_modified);
        stats.cluster_removed.follow(counts.clusters_removed);
        stats.listener_added.follow(counts.listeners_added);
        stats.listener_modified.follow(counts.listeners_modified);
        stats.listener_removed.follow(counts.listeners_removed);
        for (prefix, name, counts) in store.scope_counts() {
            let stats = registry.scopes(&format!("http.{prefix}.scoped_rds.{name}"));
            stats.all_scopes.set(counts.all as u64);
            stats.active_scopes.set(counts.active as u64);
            stats.on_demand_scopes.set(counts.on_demand as u64);
        }
    }

    /// Counts what became of questions for endpoints and routes.
    fn count_outcomes(&self, outcomes: Vec<(Watched, Outcome)>) {
        let registry = self.state.registry();
        for (watched, outcome) in outcomes {
            match watched {
                Watched::Endpoints(cluster) => {
                    let stats = registry.cluster(registry.control(), &cluster);
                    match outcome {
                        Outcome::Asked => stats.update_attempt.inc(),
                        Outcome::Accepted => stats.update_success.inc(),
                        Outcome::Refused => stats.update_rejected.inc(),
                        Outcome::Failed => stats.update_failure.inc(),
                        Outcome::TimedOut => stats.init_fetch_timeout.inc(),
                        Outcome::Reloaded | Outcome::Empty | Outcome::Conflicts => {}
                    }
                }
                Watched::Routes(prefix, name) => {
                    let family = format!("http.{prefix}.rds.{name}");
                    self.count_routes(&family, ResourceType::RouteConfiguration, outcome);
                }
                Watched::VirtualHosts(prefix, name) => {
                    let family = format!("http.{prefix}.rds.vhds.{name}");
                    self.count_routes(&family, ResourceType::VirtualHost, outcome);
                }
                Watched::Scopes(prefix, name) => {
                    let family = format!("http.{prefix}.scoped_rds.{name}");
                    self.count_routes(&family, ResourceType::ScopedRouteConfiguration, outcome);
                }
                Watched::Secret(name) => {
                    self.count_outcome(&format!("sds.{name}"), ResourceType::Secret, outcome);
                }
                Watched::Extension(place, name) => {
                    let place = match place {
                        FilterPlace::Http => "http_filter",
                        FilterPlace::Network | FilterPlace::Terminal | FilterPlace::Choice => {
                            "network_filter"
                        }
                    };
                    let family = format!("extension_config_discovery.{place}.{name}");
                    self.count_outcome(&family, ResourceType::ExtensionConfig, outcome);
                    let stats = registry.extension(&family);
                    match outcome {
                        Outcome::Asked | Outcome::Accepted | Outcome::Empty => {}
                        Outcome::Refused | Outcome::Failed | Outcome::TimedOut => {
                            stats.config_fail.inc();
                        }
                        Outcome::Reloaded => stats.config_reload.inc(),
                        Outcome::Conflicts => stats.config_conflict.inc(),
                    }
                }
            }
        }
    }

    /// Counts what became of a question for routes, their virtual hosts or scopes.
    fn count_routes(&self, family: &str, kind: ResourceType, outcome: Outcome) {
        self.count_outcome(family, kind, outcome);
        let stats = self.state.registry().reloads(family);
        match outcome {
            Outcome::Reloaded => {
                stats.config_reload.inc();
                stats.config_reload_time_ms.set(now_ms());
            }
            Outcome::Empty => stats.update_empty.inc(),
            _ => {}
        }
    }

    fn count_outcome(&self, family: &str, kind: ResourceType, outcome: Outcome) {
        let stats = self.state.registry().discovery(family);
        match outcome {
            Outcome::Asked => stats.update_attempt.inc(),
            Outcome::Accepted => {
                stats.update_success.inc();
                stats.update_time.set(now_ms());
                stats.version.set(self.sources.version(kind));
            }
            Outcome::Refused => stats.update_rejected.inc(),
            Outcome::Failed => stats.update_failure.inc(),
            Outcome::TimedOut => stats.init_fetch_timeout.inc(),
            Outcome::Empty | Outcome::Reloaded | Outcome::Conflicts => {}
        }
    }

    /// Shows what is counted by the clients of management servers.
    fn count_discovery(&self) {
        let registry = self.state.registry();
        for (kind, counted) in self.sources.stats() {
            let stats = registry.discovery(family(kind));
            if stats.update_success.value() != counted.stats.update_success {
                stats.update_time.set(now_ms());
            }
            stats.update_attempt.follow(counted.stats.update_attempt);
            stats.update_success.follow(counted.stats.update_success);
            stats.update_failure.follow(counted.stats.update_failure);
            stats.update_rejected.follow(counted.stats.update_rejected);
            stats.init_fetch_timeout.follow(counted.stats.init_fetch_timeout);
            stats.heartbeat.follow(counted.stats.heartbeat);
            stats.unsolicited.follow(counted.stats.unsolicited);
            stats.expired.follow(counted.stats.expired);
            stats.version.set(counted.version);
            registry.set_text(&format!("{}.version_text", family(kind)), &counted.version_text);
        }
        registry.set_text("control_plane.identifier", self.sources.control_plane());
        let stats = registry.control_plane();
        stats.connected_state.set(self.sources.connected() as u64);
        stats.ignored.follow(self.sources.ignored());
    }
}

/// What statistics of a type begin with.
fn family(kind: ResourceType) -> &'static str {
    match kind {
        ResourceType::Cluster => "cluster_manager.cds",
        ResourceType::Listener => "listener_manager.lds",
        ResourceType::ClusterLoadAssignment => "xds.eds",
        ResourceType::RouteConfiguration => "xds.rds",
        ResourceType::ScopedRouteConfiguration => "xds.srds",
        ResourceType::VirtualHost => "xds.vhds",
        ResourceType::Secret => "xds.sds",
        ResourceType::ExtensionConfig => "xds.ecds",
        ResourceType::Runtime => "xds.rtds",
    }
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

/// Pieces of a large response after which what is done is asked for and served: some two thousand
/// resources, which take well under 100 ms (V-06).
const TURNS_PER_FLUSH: u32 = 64;
