//! The service directory: which services applications of this host publish and subscribe, who
//! provides them, and what becomes of that.
//!
//! Applications come by the two HTTP interfaces (`sofa_api`, `dubbo_api`), providers by registries
//! ([`registry`]); [`directory`] has the rules. Each change becomes a new list of services for the
//! server loop, which makes clusters of them on all shards, and a new state file. Both are written by
//! one task each, which takes what is newest when it is free: changes that come together cost one
//! snapshot and one write. Invariant: an application is answered when its change is in effect and in
//! the state file, or [`PATIENCE`] is over.
//!
//! What is registered follows the process's life: nothing before its listeners accept, and nothing once
//! it is draining; but what a successor registers as well stays until it has (`inheritance`).

mod api;
pub mod directory;
mod dubbo_api;
pub(in crate::control) mod inheritance;
pub mod name;
pub mod provider;
pub mod registry;
mod sofa_api;
pub mod state;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_xds::services_config::{
    RegistryConfig, Secret, ServiceProtocol, ServicesConfig, ZooKeeperRegistry,
};
use outrigger_xds::snapshot::{Address, Service};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use self::directory::{Directory, Place, Refusal};
use self::inheritance::{Held, Legacy};
use self::registry::file::FileRegistry;
use self::registry::nacos::Nacos;
use self::registry::zookeeper::ZooKeeper;
use self::registry::{Registry, Report, Reports, Wanted};
use super::hand_over::{Lent, Tenure};
use super::replace_file;
use super::state::{ControlState, Lifecycle};
use crate::stats::{
    Registry as StatRegistry, ServiceApiStats, ServiceRegistryStats, ServicesStats,
};

/// Gets all services whenever one changes, and tells when they are in effect on all shards. Called on
/// the control thread; must not block.
pub type PublishServices = Arc<dyn Fn(Vec<Service>) -> oneshot::Receiver<()> + Send + Sync>;

/// What the directory works with.
pub struct ServicesOptions {
    /// `engine.services`.
    pub config: ServicesConfig,
    /// Gets all services whenever one changes.
    pub publish: PublishServices,
    /// What a predecessor left.
    pub legacy: Legacy,
    /// Whether the interfaces and the state file are this process's.
    pub tenure: watch::Receiver<Tenure>,
}

/// An interface for applications could not be bound.
#[derive(Debug, Error)]
#[error("cannot bind engine.services.{api} to {address}: {source}")]
pub struct ServicesError {
    /// Its name in the configuration.
    pub api: &'static str,
    /// Where it was to listen.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// The directory and its tasks.
pub(super) struct Running {
    services: Arc<Services>,
    /// The interfaces' listening sockets, for a successor to share.
    sockets: Vec<Lent>,
}

/// Starts what is configured; nothing when there is nothing to do. Services of an earlier run are
/// published when this returns. Needs a tokio runtime.
pub(super) fn start(
    state: &Arc<ControlState>,
    options: ServicesOptions,
) -> Result<Option<Running>, ServicesError> {
    let ServicesOptions { config, publish, legacy, tenure } = options;
    if config.is_off() {
        return Ok(None);
    }
    let node = state.node();
    let application = if node.cluster.is_empty() { "outrigger".to_owned() } else { node.cluster };
    let (reports, reported) = mpsc::channel(REPORTS_MAX);
    let services =
        Services::new(Arc::new(config), application, state.registry(), publish, reports, tenure);
    let services = Arc::new(services);
    if !legacy.state.as_deref().is_some_and(|state| services.take_state(state)) {
        services.restore();
    }
    let sockets = services.serve_apis(&legacy)?;
    let (list, serial) = services.list();
    let in_effect = (services.publish)(list);
    services.changed.send_replace(serial);
    services.told.send_replace(serial);
    tokio::spawn(Arc::clone(&services).take_reports(reported));
    tokio::spawn(Arc::clone(&services).spread(in_effect, serial));
    tokio::spawn(Arc::clone(&services).direct_registries(state.lifecycles()));
    if let Some(path) = services.config.state_file.clone() {
        tokio::spawn(Arc::clone(&services).keep_saved(path));
    }
    Ok(Some(Running { services, sockets }))
}

impl Running {
    /// What a hand-over needs of it.
    pub(super) fn services(&self) -> Arc<Services> {
        Arc::clone(&self.services)
    }

    /// The interfaces' listening sockets.
    pub(super) fn take_sockets(&mut self) -> Vec<Lent> {
        std::mem::take(&mut self.sockets)
    }

    /// Takes back what is registered, and writes the state file a last time. After a hand-over the file is
    /// another process's, and so is what is registered.
    pub(super) async fn close(self) {
        let deadline = Instant::now() + CLOSE_PATIENCE;
        let sources = {
            let mut sources = self.services.sources();
            sources.closed = true;
            std::mem::take(&mut sources.all)
        };
        // What a successor has not registered is not to be taken back.
        let (left, own): (HashMap<_, _>, HashMap<_, _>) =
            sources.into_iter().partition(|(name, _)| self.services.is_held_in(name));
        left.into_values().for_each(|source| source.task.abort());
        let ends = own.into_values().map(Source::end).collect::<Vec<_>>();
        if self.services.config.state_file.is_some() && self.services.is_ours() {
            let latest = *self.services.changed.borrow();
            self.services.told.send_replace(latest);
            let mut saved = self.services.saved.subscribe();
            let _ = timeout_at(deadline, saved.wait_for(|saved| *saved >= latest)).await;
        }
        for end in ends {
            let _ = timeout_at(deadline, end).await;
        }
    }
}

/// What the interfaces and the tasks share. Locks are held for a walk over the directory, never over
/// an await.
pub(super) struct Services {
    config: Arc<ServicesConfig>,
    stats: Arc<ServicesStats>,
    stat_registry: Arc<StatRegistry>,
    directory: Mutex<Directory>,
    sources: Mutex<Sources>,
    publish: PublishServices,
    reports: mpsc::Sender<(Arc<str>, Report)>,
    /// The directory's serial after the newest change of any kind.
    changed: watch::Sender<u64>,
    /// The same after the newest change by an application.
    told: watch::Sender<u64>,
    /// The newest serial that is in effect.
    in_effect: watch::Sender<u64>,
    /// The newest serial that is in the state file, or that could not be written.
    saved: watch::Sender<u64>,
    /// Whether the interfaces and the state file are this process's.
    tenure: watch::Receiver<Tenure>,
    /// Held while the state file is written.
    writing: tokio::sync::Mutex<()>,
    /// Whether registries have been told of what is offered.
    offers: AtomicBool,
    /// What is registered is a successor's as well.
    held: Mutex<Held>,
}

/// Registries in use.
#[derive(Default)]
struct Sources {
    all: HashMap<Arc<str>, Source>,
    /// The end has come: no new ones.
    closed: bool,
}

/// A registry in use.
struct Source {
    want: watch::Sender<Arc<Wanted>>,
    /// How it was named by a caller; nothing for a configured one.
    place: Option<Place>,
    task: JoinHandle<()>,
    /// What it has last done of what was wanted.
    done: watch::Receiver<Arc<Wanted>>,
}

impl Source {
    /// Wants nothing of it any more; its task then ends.
    fn end(self) -> JoinHandle<()> {
        self.task
    }
}

impl Services {
    fn new(
        config: Arc<ServicesConfig>,
        application: String,
        stat_registry: &Arc<StatRegistry>,
        publish: PublishServices,
        reports: mpsc::Sender<(Arc<str>, Report)>,
        tenure: watch::Receiver<Tenure>,
    ) -> Services {
        Services {
            stats: stat_registry.services(),
            stat_registry: Arc::clone(stat_registry),
            directory: Mutex::new(Directory::new(Arc::clone(&config), application)),
            config,
            sources: Mutex::default(),
            publish,
            reports,
            changed: watch::Sender::new(0),
            told: watch::Sender::new(0),
            in_effect: watch::Sender::new(0),
            saved: watch::Sender::new(0),
            tenure,
            writing: tokio::sync::Mutex::default(),
            offers: AtomicBool::new(false),
            held: Mutex::default(),
        }
    }

    fn config(&self) -> &ServicesConfig {
        &self.config
    }

    /// What is guarded is whole after every call of its methods.
    fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry_stats(&self, source: &str) -> Arc<ServiceRegistryStats> {
        self.stat_registry.service_registry(&source.replace(':', "_"))
    }

    /// Takes services of an earlier run from the state file.
    fn restore(&self) {
        let Some(path) = &self.config.state_file else { return };
        match state::read(path) {
            Ok(None) => {}
            Ok(Some(saved)) => {
                let mut directory = self.directory();
                directory.restore(saved);
                let counts = directory.counts();
                log::info!(
                    "{}: {} published and {} subscribed services with {} providers",
                    path.display(),
                    counts.published,
                    counts.subscribed,
                    counts.providers
                );
            }
            Err(error) => {
                self.stats.state_read_failed.inc();
                let shown = path.display();
                log::error!("{shown}: {error}; starting without services");
                match state::set_aside(path) {
                    Ok(aside) => log::warn!("{shown}: kept as {}", aside.display()),
                    Err(error) => log::warn!("{shown}: can't be set aside: {error}"),
                }
            }
        }
    }

    /// The sockets that are listened on.
    fn serve_apis(self: &Arc<Self>, legacy: &Legacy) -> Result<Vec<Lent>, ServicesError> {
        let api_stats = |name| self.stat_registry.service_api(name);
        let mut sockets = Vec::new();
        if let Some(api) = &self.config.sofa_api {
            let address = api.address;
            let api = sofa_api::SofaApi::new(Arc::clone(self), api_stats("sofa"));
            sockets.push(self.serve_api(address, api, legacy)?);
        }
        if let Some(api) = &self.config.dubbo_api {
            let address = api.address;
            let api = dubbo_api::DubboApi::new(Arc::clone(self), api_stats("dubbo"));
            sockets.push(self.serve_api(address, api, legacy)?);
        }
        Ok(sockets)
    }

    fn serve_api<A: api::Api>(
        &self,
        address: SocketAddr,
        api: A,
        legacy: &Legacy,
    ) -> Result<Lent, ServicesError> {
        let listener = format!("engine.services.{}", A::NAME).into_boxed_str();
        let shared = legacy.sockets.take(&listener, &Address::Ip(address)).pop();
        let bound = api::Server::bind(address, shared, api)
            .and_then(|server| Ok((server.socket()?, server)));
        let (socket, server) =
            bound.map_err(|source| ServicesError { api: A::NAME, address, source })?;
        tokio::spawn(server.run(self.tenure.clone()));
        Ok(Lent { listener, socket })
    }

    /// Changes the directory, and waits until that is in effect and kept.
    async fn change<T>(
        &self,
        stats: &ServiceApiStats,
        change: impl FnOnce(&mut Directory) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let (answer, serial) = self.change_now(change)?;
        let effect = async {
            let mut in_effect = self.in_effect.subscribe();
            let _ = in_effect.wait_for(|serial_now| *serial_now >= serial).await;
            if self.config.state_file.is_some() {
                let mut saved = self.saved.subscribe();
                let _ = saved.wait_for(|serial_now| *serial_now >= serial).await;
            }
        };
        if timeout(PATIENCE, effect).await.is_err() {
            stats.rq_late.inc();
            log::warn!("a change takes more than {} ms to take effect", PATIENCE.as_millis());
        }
        Ok(answer)
    }

    fn change_now<T>(
        &self,
        change: impl FnOnce(&mut Directory) -> Result<T, Refusal>,
    ) -> Result<(T, u64), Refusal> {
        let mut directory = self.directory();
        let answer = change(&mut directory)?;
        let serial = directory.serial();
        // Under the lock, so that later serials are sent later.
        if *self.told.borrow() != serial {
            self.changed.send_replace(serial);
            self.told.send_replace(serial);
        }
        Ok((answer, serial))
    }

    /// All services, and the serial that they are of.
    fn list(&self) -> (Vec<Service>, u64) {
        let directory = self.directory();
        let counts = directory.counts();
        self.stats.published.set(counts.published as u64);
        self.stats.subscribed.set(counts.subscribed as u64);
        self.stats.providers.set(counts.providers as u64);
        let missing = counts.overflows.saturating_sub(self.stats.provider_overflow.value());
        self.stats.provider_overflow.add(missing);
        (directory.services(), directory.serial())
    }

    /// Takes what registries learn.
    async fn take_reports(self: Arc<Self>, mut reported: mpsc::Receiver<(Arc<str>, Report)>) {
        while let Some((source, report)) = reported.recv().await {
            match report {
                Report::Lost => {
                    log::warn!("registry {source}: lost; what it said last is used");
                }
                Report::Back => log::info!("registry {source}: up to date"),
                Report::Providers { .. } => {
                    let mut directory = self.directory();
                    directory.report(&source, report);
                    let serial = directory.serial();
                    if *self.changed.borrow() != serial {
                        self.changed.send_replace(serial);
                    }
                }
            }
        }
    }

    /// Puts every change into effect, several at a time where they come faster.
    async fn spread(self: Arc<Self>, mut in_effect: oneshot::Receiver<()>, mut serial: u64) {
        let mut changed = self.changed.subscribe();
        let mut began_at = Instant::now();
        loop {
            // An error means that the server loop has ended, and so will we.
            if in_effect.await.is_err() {
                return;
            }
            self.in_effect.send_replace(serial);
            // Half of the time is for everything else, however much there is.
            tokio::time::sleep(SPREAD_PAUSE.max(began_at.elapsed())).await;
            if changed.wait_for(|newest| *newest != serial).await.is_err() {
                return;
            }
            began_at = Instant::now();
            let list;
            (list, serial) = self.list();
            self.stats.update.inc();
            in_effect = (self.publish)(list);
        }
    }

    /// Keeps the state file up to date: at once with what applications did, after a while with what
    /// registries said.
    async fn keep_saved(self: Arc<Self>, path: PathBuf) {
        let (mut changed, mut told) = (self.changed.subscribe(), self.told.subscribe());
        let mut done = 0;
        loop {
            let newest = changed.wait_for(|newest| *newest > done).await.map(|newest| *newest);
            if newest.is_err() {
                return;
            }
            let _ = timeout(SAVE_PAUSE, told.wait_for(|told| *told > done)).await;
            // Before this process's time the file is its predecessor's, and after it its successor's.
            let mut tenure = self.tenure.clone();
            let _writing = loop {
                if tenure.wait_for(|tenure| *tenure == Tenure::Ours).await.is_err() {
                    return;
                }
                let writing = self.writing.lock().await;
                if self.is_ours() {
                    break writing;
                }
            };
            let (encoded, serial) = {
                let directory = self.directory();
                (state::encode(&directory.save()), directory.serial())
            };
            let path_of_task = path.clone();
            let written = tokio::task::spawn_blocking(move || {
                let text = encoded?;
                replace_file::replace(&path_of_task, &text)?;
                Ok::<_, state::StateError>(text.len())
            });
            match written.await {
                Ok(Ok(bytes)) => {
                    self.stats.state_write.inc();
                    self.stats.state_bytes.set(bytes as u64);
                }
                Ok(Err(error)) => {
                    self.stats.state_write_failed.inc();
                    log::error!("{}: {error}; services will not survive a restart", path.display());
                }
                Err(_) => return,
            }
            done = serial;
            // A failed write is told as well: nobody is to wait for a disk to be emptied.
            self.saved.send_replace(serial);
        }
    }

    /// Tells registries what is wanted of them, as that changes and the process lives.
    async fn direct_registries(self: Arc<Self>, mut lifecycles: watch::Receiver<Lifecycle>) {
        let mut told = self.told.subscribe();
        loop {
            told.borrow_and_update();
            let accepts = *lifecycles.borrow_and_update() == Lifecycle::Live;
            self.direct_once(accepts);
            tokio::select! {
                changed = told.changed() => if changed.is_err() { return },
                changed = lifecycles.changed() => if changed.is_err() { return },
            }
        }
    }

    fn direct_once(self: &Arc<Self>, accepts: bool) {
        self.offers.store(accepts, Ordering::Relaxed);
        let mut wants: HashMap<Arc<str>, (Wanted, Option<Place>)> = HashMap::new();
        {
            let directory = self.directory();
            for registry in &self.config.registries {
                wants.insert((*registry.name).into(), (directory.wanted_of(registry), None));
            }
            for (source, place) in directory.places() {
                let wanted = directory.wanted_at(source);
                wants.insert((**source).into(), (wanted, Some(place.clone())));
            }
        }
        let mut sources = self.sources();
        if sources.closed {
            return;
        }
        let unwanted = sources.all.extract_if(|source, known| {
            // One that is named with another password starts anew.
            wants.get(source).is_none_or(|(_, place)| *place != known.place)
                && !self.is_held_in(source)
        });
        for (source, known) in unwanted.collect::<Vec<_>>() {
            drop(known.end());
            self.stat_registry.forget_service_registry(&source.replace(':', "_"));
        }
        for (source, (mut wanted, place)) in wants {
            // All stays as it is until a successor has registered the same.
            if self.is_held_in(&source) {
                continue;
            }
            if !accepts {
                wanted.offers.clear();
            }
            match sources.all.get(&source) {
                Some(known) => {
                    let wanted = Arc::new(wanted);
                    known.want.send_if_modified(|before| {
                        let differs = *before != wanted;
                        *before = wanted;
                        differs
                    });
                }
                None => {
                    let started = self.start_source(&source, place, wanted);
                    sources.all.insert(source, started);
                }
            }
        }
    }

    fn start_source(&self, source: &Arc<str>, place: Option<Place>, wanted: Wanted) -> Source {
        let (want, wants) = watch::channel(Arc::new(wanted));
        let stats = self.registry_stats(source);
        let reports = Reports::new(Arc::clone(source), stats, self.reports.clone());
        let done = reports.done();
        let configured = || self.config.registries.iter().find(|one| *one.name == **source);
        let task = match (&place, configured()) {
            (Some(place), _) => {
                let mut config = ZooKeeperRegistry::at(place.address.clone());
                if let Some(credentials) = &place.credentials {
                    config.username = Some(credentials.username.as_str().into());
                    config.password = Some(Secret::new(credentials.password.as_str()));
                }
                let zookeeper = ZooKeeper::new(config, &[ServiceProtocol::Dubbo]);
                tokio::spawn(zookeeper.run(wants, reports))
            }
            (None, Some(RegistryConfig { file: Some(file), .. })) => {
                tokio::spawn(FileRegistry { path: file.path.clone() }.run(wants, reports))
            }
            (None, Some(RegistryConfig { zookeeper: Some(config), protocols, .. })) => {
                tokio::spawn(ZooKeeper::new(config.clone(), protocols).run(wants, reports))
            }
            (None, Some(RegistryConfig { nacos: Some(config), .. })) => {
                tokio::spawn(Nacos::new(config.clone()).run(wants, reports))
            }
            // A configured registry has one of the kinds.
            (None, _) => tokio::spawn(async {}),
        };
        Source { want, place, task, done }
    }
}

/// A path segment's percent-encoded bytes as they are meant.
fn decode_path(text: &str) -> String {
    registry::zookeeper::layout::decode(&text.replace('+', "%2B"))
}

/// How long an application waits for its change at most; the SDK's own patience is 15 s.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// At most so often are shards given a new snapshot because of services.
const SPREAD_PAUSE: Duration = Duration::from_millis(5);

/// How long what registries say may be missing in the state file.
const SAVE_PAUSE: Duration = Duration::from_secs(1);

/// How long the end waits for registries and the state file.
const CLOSE_PATIENCE: Duration = Duration::from_millis(1500);

/// Reports that may wait for the directory; a registry with more to tell waits.
const REPORTS_MAX: usize = 64;

/// Parameters of a service that are passed on.
const PARAMETERS_MAX: usize = 128;
