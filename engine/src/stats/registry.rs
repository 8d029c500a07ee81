//! Where sets of statistics are found and read.
//!
//! A mutex guards each table of names. It is taken to create a set and to read, never to count: a
//! shard holds `Arc`s to its own sets. Slots are numbered `0..shards` for the shards, and
//! [`Registry::control`] is one more for the control thread and the log writer it owns, so that
//! every cell keeps a single writer.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use outrigger_upgrade::state::StatsState;
use outrigger_xds::process_config::{StatSelection, StatsConfig};
use outrigger_xds::snapshot::Address;

use super::carried::Carried;
use super::grpc::{GrpcCallStats, GrpcFamily, GrpcKind, Method};
use super::histogram::HistogramSnapshot;
use super::istio::{IstioFamily, IstioLabels, IstioMetrics};
use super::sets::{
    AccessLogStats, ClusterStats, ConfigStats, ControlPlaneStats, CorsStats, DemandStats,
    DiscoveryStats, DrainStats, ExtensionStats, FaultStats, FilesystemStats, HostStats, Http2Stats,
    HttpStats, ListenerStats, ReloadStats, RpcStats, ScopeStats, ServerStats, ServiceApiStats,
    ServiceRegistryStats, ServicesStats, ShardStats, Stat, StatSet, TcpStats, TlsStats,
    UpgradeStats,
};

/// All statistics of the process.
#[derive(Debug)]
pub struct Registry {
    shards: usize,
    shown: StatsConfig,
    server: Arc<ServerStats>,
    shard: Vec<Arc<ShardStats>>,
    access_log: Vec<Arc<AccessLogStats>>,
    filesystem: Vec<Arc<FilesystemStats>>,
    listeners: Mutex<Family<ListenerStats>>,
    http: Mutex<Family<HttpStats>>,
    fault: Mutex<Family<FaultStats>>,
    cors: Mutex<Family<CorsStats>>,
    clusters: Mutex<Family<ClusterStats>>,
    tcp: Mutex<Family<TcpStats>>,
    rpc: Mutex<Family<RpcStats>>,
    http2: Vec<Arc<Http2Stats>>,
    cluster_http2: Mutex<Family<Http2Stats>>,
    listener_tls: Mutex<Family<TlsStats>>,
    cluster_tls: Mutex<Family<TlsStats>>,
    grpc: Mutex<GrpcFamily>,
    istio: Mutex<IstioFamily>,
    config: Arc<ConfigStats>,
    drain: Vec<Arc<DrainStats>>,
    demand: Vec<Arc<DemandStats>>,
    texts: Mutex<BTreeMap<String, String>>,
    control_plane: Arc<ControlPlaneStats>,
    discovery: Mutex<Family<DiscoveryStats>>,
    reloads: Mutex<Family<ReloadStats>>,
    scopes: Mutex<Family<ScopeStats>>,
    extension: Mutex<Family<ExtensionStats>>,
    services: Mutex<Option<Arc<ServicesStats>>>,
    upgrade: Mutex<Option<Arc<UpgradeStats>>>,
    service_apis: Mutex<Family<ServiceApiStats>>,
    service_registries: Mutex<Family<ServiceRegistryStats>>,
    hosts: Mutex<Hosts>,
    /// What counters stood at when `/reset_counters` was last asked for; taken off when reading,
    /// because only a cell's own writer may write it.
    baseline: Mutex<HashMap<String, u64>>,
    /// What the process before this one counted.
    inherited: Mutex<Carried>,
}

impl Registry {
    /// An empty registry for `shards` shards and the control thread.
    pub fn new(shards: usize) -> Registry {
        Registry::showing(shards, StatsConfig::default())
    }

    /// As [`Registry::new`]; `shown` says what is read of it, and how.
    pub fn showing(shards: usize, shown: StatsConfig) -> Registry {
        Registry {
            shards,
            shown,
            server: Arc::default(),
            shard: new_slots(shards),
            access_log: new_slots(shards + 1),
            filesystem: new_slots(shards + 1),
            listeners: Mutex::default(),
            http: Mutex::default(),
            fault: Mutex::default(),
            cors: Mutex::default(),
            clusters: Mutex::default(),
            tcp: Mutex::default(),
            http2: new_slots(shards + 1),
            cluster_http2: Mutex::default(),
            listener_tls: Mutex::default(),
            cluster_tls: Mutex::default(),
            grpc: Mutex::default(),
            istio: Mutex::default(),
            config: Arc::default(),
            drain: new_slots(shards),
            demand: new_slots(shards + 1),
            texts: Mutex::default(),
            control_plane: Arc::default(),
            // These are asked for by what waits for a first configuration, before there is a source.
            discovery: Mutex::new(Family::of(1, &["cluster_manager.cds", "listener_manager.lds"])),
            reloads: Mutex::default(),
            scopes: Mutex::default(),
            extension: Mutex::default(),
            services: Mutex::default(),
            upgrade: Mutex::default(),
            service_apis: Mutex::default(),
            service_registries: Mutex::default(),
            rpc: Mutex::default(),
            hosts: Mutex::default(),
            baseline: Mutex::default(),
            inherited: Mutex::default(),
        }
    }

    /// What is shown, and how.
    pub fn shown(&self) -> &StatsConfig {
        &self.shown
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// The slot of the control thread.
    pub fn control(&self) -> usize {
        self.shards
    }

    /// The `server.` set, which the control thread writes.
    pub fn server(&self) -> Arc<ServerStats> {
        Arc::clone(&self.server)
    }

    /// The `shard.<n>.` set of one shard.
    ///
    /// # Panics
    /// When `shard` is not below [`Registry::shards`]; so do the other getters above their slots.
    pub fn shard(&self, shard: usize) -> Arc<ShardStats> {
        Arc::clone(&self.shard[shard])
    }

    /// What is in force of the configuration.
    pub fn config(&self) -> &Arc<ConfigStats> {
        &self.config
    }

    /// Says what a text readout is. One that never said anything is not there.
    pub fn set_text(&self, name: &str, value: &str) {
        let mut texts = lock(&self.texts);
        if value.is_empty() && !texts.contains_key(name) {
            return;
        }
        if texts.get(name).is_none_or(|known| known != value) {
            texts.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Every text readout, by name.
    pub fn texts(&self) -> Vec<(String, String)> {
        let texts = lock(&self.texts);
        let shown = texts.iter().filter(|(name, _)| self.shown.selection.takes(name));
        shown.map(|(name, text)| (name.clone(), text.clone())).collect()
    }

    /// What a shard drains.
    pub fn drain(&self, shard: usize) -> Arc<DrainStats> {
        Arc::clone(&self.drain[shard])
    }

    /// The `on_demand.` set of a shard, or of the control thread.
    pub fn demand(&self, slot: usize) -> Arc<DemandStats> {
        Arc::clone(&self.demand[slot])
    }

    /// The `control_plane.` set.
    pub fn control_plane(&self) -> &Arc<ControlPlaneStats> {
        &self.control_plane
    }

    /// The set of a type of resources, such as `cluster_manager.cds.`, made when first asked for.
    pub fn discovery(&self, name: &str) -> Arc<DiscoveryStats> {
        lock(&self.discovery).slot(1, 0, name)
    }

    /// As [`Registry::discovery`], for routes, their virtual hosts and scopes.
    pub fn reloads(&self, name: &str) -> Arc<ReloadStats> {
        lock(&self.reloads).slot(1, 0, name)
    }

    /// As [`Registry::discovery`], for scopes.
    pub fn scopes(&self, name: &str) -> Arc<ScopeStats> {
        lock(&self.scopes).slot(1, 0, name)
    }

    /// The set of a filter by name, beside that which [`Registry::discovery`] has under its name.
    pub fn extension(&self, name: &str) -> Arc<ExtensionStats> {
        lock(&self.extension).slot(1, 0, name)
    }

    /// The `access_log.` set of one slot.
    pub fn access_log(&self, slot: usize) -> Arc<AccessLogStats> {
        Arc::clone(&self.access_log[slot])
    }

    /// The `filesystem.` set of one slot.
    pub fn filesystem(&self, slot: usize) -> Arc<FilesystemStats> {
        Arc::clone(&self.filesystem[slot])
    }

    /// One slot's `listener.<name>.` set, made when first asked for.
    ///
    /// `name` is the listener's `stat_prefix`, else its address with `:` as `_`.
    pub fn listener(&self, slot: usize, name: &str) -> Arc<ListenerStats> {
        lock(&self.listeners).slot(self.shards + 1, slot, name)
    }

    /// One slot's `http.<prefix>.` set, made when first asked for.
    pub fn http(&self, slot: usize, prefix: &str) -> Arc<HttpStats> {
        lock(&self.http).slot(self.shards + 1, slot, prefix)
    }

    /// One slot's `http.<prefix>.fault.` set, made when first asked for.
    pub fn fault(&self, slot: usize, prefix: &str) -> Arc<FaultStats> {
        lock(&self.fault).slot(self.shards + 1, slot, prefix)
    }

    /// One slot's `http.<prefix>.cors.` set, made when first asked for.
    pub fn cors(&self, slot: usize, prefix: &str) -> Arc<CorsStats> {
        lock(&self.cors).slot(self.shards + 1, slot, prefix)
    }

    /// One slot's `cluster.<name>.` set, made when first asked for.
    ///
    /// `name` is the cluster's `alt_stat_name`, else its name, with `:` as `_`.
    pub fn cluster(&self, slot: usize, name: &str) -> Arc<ClusterStats> {
        lock(&self.clusters).slot(self.shards + 1, slot, name)
    }

    /// One slot's `http2.` set: downstream codecs.
    pub fn http2(&self, slot: usize) -> Arc<Http2Stats> {
        Arc::clone(&self.http2[slot])
    }

    /// One slot's `cluster.<name>.http2.` set, made when first asked for.
    pub fn cluster_http2(&self, slot: usize, name: &str) -> Arc<Http2Stats> {
        lock(&self.cluster_http2).slot(self.shards + 1, slot, name)
    }

    /// One slot's `listener.<name>.ssl.` set, made when first asked for.
    pub fn listener_tls(&self, slot: usize, name: &str) -> Arc<TlsStats> {
        lock(&self.listener_tls).slot(self.shards + 1, slot, name)
    }

    /// One slot's `cluster.<name>.ssl.` set, made when first asked for.
    pub fn cluster_tls(&self, slot: usize, name: &str) -> Arc<TlsStats> {
        lock(&self.cluster_tls).slot(self.shards + 1, slot, name)
    }

    /// One slot's `cluster.<name>.grpc.` set, made when first asked for.
    pub fn grpc(&self, slot: usize, cluster: &str, kind: GrpcKind) -> Arc<GrpcCallStats> {
        let set = lock(&self.grpc).slot(self.shards + 1, slot, (cluster, kind), None);
        // The limit is one of methods.
        set.unwrap_or_default()
    }

    /// One slot's `cluster.<name>.grpc.<service>.<method>.` set, made when first asked for. Nothing when
    /// the cluster has [`METHODS_MAX`](super::grpc::METHODS_MAX) others.
    pub fn grpc_method(
        &self,
        slot: usize,
        cluster: &str,
        kind: GrpcKind,
        (service, method): (&str, &str),
    ) -> Option<Arc<GrpcCallStats>> {
        let method = Some((service, method));
        lock(&self.grpc).slot(self.shards + 1, slot, (cluster, kind), method)
    }

    /// One slot's metrics of Istio with these labels, made when first asked for. Nothing when there are
    /// [`LABEL_SETS_MAX`](super::istio::LABEL_SETS_MAX) others.
    pub fn istio(&self, slot: usize, labels: &IstioLabels) -> Option<Arc<IstioMetrics>> {
        lock(&self.istio).slot(self.shards + 1, slot, labels)
    }

    /// Says which version of Istio the process is part of.
    pub fn istio_build(&self, version: &str) {
        lock(&self.istio).set_build(version);
    }

    /// One slot's `tcp.<prefix>.` set, made when first asked for.
    pub fn tcp(&self, slot: usize, prefix: &str) -> Arc<TcpStats> {
        lock(&self.tcp).slot(self.shards + 1, slot, prefix)
    }

    /// The `services.` set, which the control thread writes; made when first asked for.
    pub fn services(&self) -> Arc<ServicesStats> {
        Arc::clone(lock(&self.services).get_or_insert_default())
    }

    /// The `upgrade.` set, which the control thread writes; made when first asked for.
    pub fn upgrade(&self) -> Arc<UpgradeStats> {
        Arc::clone(lock(&self.upgrade).get_or_insert_default())
    }

    /// The `services.api.<name>.` set, which the control thread writes; made when first asked for.
    pub fn service_api(&self, name: &str) -> Arc<ServiceApiStats> {
        lock(&self.service_apis).slot(1, 0, name)
    }

    /// The `services.registry.<name>.` set, which the control thread writes; made when first asked
    /// for.
    pub fn service_registry(&self, name: &str) -> Arc<ServiceRegistryStats> {
        lock(&self.service_registries).slot(1, 0, name)
    }

    /// Forgets a registry that is no longer in use.
    pub fn forget_service_registry(&self, name: &str) {
        lock(&self.service_registries).sets.remove(name);
    }

    /// Forgets the clusters that `keeps` says are gone. A shard that has not heard of it yet counts
    /// on, unseen.
    pub fn retain_clusters(&self, keeps: impl Fn(&str) -> bool) {
        lock(&self.clusters).sets.retain(|name, _| keeps(name));
        lock(&self.cluster_http2).sets.retain(|name, _| keeps(name));
        lock(&self.cluster_tls).sets.retain(|name, _| keeps(name));
    }

    /// One slot's `<protocol>.<prefix>.` set, made when first asked for.
    pub fn rpc(&self, slot: usize, protocol: &str, prefix: &str) -> Arc<RpcStats> {
        lock(&self.rpc).slot(self.shards + 1, slot, &format!("{protocol}.{prefix}"))
    }

    /// One slot's statistics of the endpoint `address` in the cluster called `cluster`.
    ///
    /// They live as long as the endpoint: the registry keeps no reference of its own, and a set
    /// that every shard dropped is forgotten.
    pub fn host(&self, slot: usize, cluster: &str, address: &HostAddress) -> Arc<HostStats> {
        let mut hosts = lock(&self.hosts);
        hosts.forget_some();
        let slots = hosts
            .slots
            .entry(HostKey { cluster: cluster.to_owned(), address: address.clone() })
            .or_insert_with(|| (0..=self.shards).map(|_| Weak::new()).collect());
        slots[slot].upgrade().unwrap_or_else(|| {
            let host = Arc::default();
            slots[slot] = Arc::downgrade(&host);
            host
        })
    }

    /// Every statistic that there is to be, merged over the slots, sorted by full name.
    pub fn collect(&self) -> Vec<Sample> {
        let mut samples = self.collect_all();
        let selection = &self.shown.selection;
        if !matches!(selection, StatSelection::All) {
            samples.retain(|sample| selection.takes(&sample.to_string()));
        }
        self.apply_baseline(&mut samples);
        samples.sort_by_cached_key(ToString::to_string);
        samples
    }

    /// Counters and histograms as a successor goes on with them.
    pub fn carried(&self) -> Carried {
        Carried::of(self.collect_all())
    }

    /// Adds what a predecessor counted.
    pub fn inherit(&self, state: StatsState) {
        lock(&self.inherited).add(state);
    }

    /// Shows the clusters of which a predecessor counted something, though nobody here has used them yet;
    /// of these, those that `exists` says there are.
    pub fn show_inherited_clusters(&self, exists: impl Fn(&str) -> bool) {
        let clusters = lock(&self.inherited).clusters();
        for name in clusters.into_iter().filter(|name| exists(name)) {
            self.cluster(self.control(), &name);
        }
    }

    /// Every statistic, with what a predecessor counted, in no order.
    fn collect_all(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        merge(&mut samples, &Scope::Server, [&self.server]);
        merge(&mut samples, &Scope::AccessLog, &self.access_log);
        merge(&mut samples, &Scope::Filesystem, &self.filesystem);
        merge(&mut samples, &Scope::Process, &self.http2);
        merge(&mut samples, &Scope::Process, [&self.config]);
        merge(&mut samples, &Scope::Process, &self.drain);
        merge(&mut samples, &Scope::Process, &self.demand);
        merge(&mut samples, &Scope::ControlPlane, [&self.control_plane]);
        lock(&self.discovery).merge_into(&mut samples, Scope::Discovery);
        lock(&self.reloads).merge_into(&mut samples, Scope::Discovery);
        lock(&self.scopes).merge_into(&mut samples, Scope::Discovery);
        lock(&self.extension).merge_into(&mut samples, Scope::Discovery);
        lock(&self.cluster_http2).merge_into(&mut samples, Scope::Cluster);
        lock(&self.cluster_tls).merge_into(&mut samples, Scope::Cluster);
        lock(&self.listener_tls).merge_into(&mut samples, Scope::Listener);
        for (shard, stats) in self.shard.iter().enumerate() {
            merge(&mut samples, &Scope::Shard(shard), [stats]);
        }
        lock(&self.listeners).merge_into(&mut samples, Scope::Listener);
        self.workers_into(&mut samples);
        lock(&self.http).merge_into(&mut samples, Scope::Http);
        lock(&self.fault).merge_into(&mut samples, Scope::Http);
        lock(&self.cors).merge_into(&mut samples, Scope::Http);
        lock(&self.clusters).merge_into(&mut samples, Scope::Cluster);
        lock(&self.tcp).merge_into(&mut samples, Scope::Tcp);
        lock(&self.rpc).merge_into(&mut samples, Scope::Rpc);
        lock(&self.grpc).merge_into(&mut samples);
        lock(&self.istio).merge_into(&mut samples);
        merge(&mut samples, &Scope::Services, lock(&self.services).iter());
        merge(&mut samples, &Scope::Upgrade, lock(&self.upgrade).iter());
        lock(&self.service_apis).merge_into(&mut samples, Scope::ServiceApi);
        lock(&self.service_registries).merge_into(&mut samples, Scope::ServiceRegistry);
        lock(&self.inherited).apply(&mut samples);
        samples
    }

    /// The endpoints that exist in `cluster`, by address, each merged over the slots.
    pub fn collect_hosts(&self, cluster: &str) -> Vec<HostSample> {
        let mut hosts = lock(&self.hosts);
        hosts.forget();
        hosts
            .slots
            .iter()
            .filter(|(key, _)| key.cluster == cluster)
            .map(|(key, slots)| {
                let live: Vec<_> = slots.iter().filter_map(Weak::upgrade).collect();
                HostSample { address: key.address.clone(), stats: Merged::of(&live).scalars() }
            })
            .collect()
    }

    /// Makes every counter read as zero from now on, as Envoy's `/reset_counters`.
    ///
    /// Gauges and histograms keep what they have.
    pub fn reset_counters(&self) {
        lock(&self.baseline).clear();
        let counters = self.collect().into_iter().filter_map(|sample| match sample.value {
            Value::Counter(value) if value > 0 => Some((sample.to_string(), value)),
            _ => None,
        });
        *lock(&self.baseline) = counters.collect();
    }

    /// `listener.<name>.worker_<n>.`: Envoy's view of how connections fall on its threads.
    fn workers_into(&self, samples: &mut Vec<Sample>) {
        for (name, slots) in &lock(&self.listeners).sets {
            for (worker, stats) in slots.iter().enumerate().take(self.shards) {
                let Some(stats) = stats else { continue };
                let scope = Scope::Worker { listener: Arc::clone(name), worker };
                let total = Value::Counter(stats.downstream_cx_total.value());
                let active = Value::Gauge(stats.downstream_cx_active.value());
                samples.push(Sample::new(scope.clone(), "downstream_cx_total", total));
                samples.push(Sample::new(scope, "downstream_cx_active", active));
            }
        }
    }

    fn apply_baseline(&self, samples: &mut [Sample]) {
        let baseline = lock(&self.baseline);
        if baseline.is_empty() {
            return;
        }
        for sample in samples {
            let Value::Counter(value) = sample.value else { continue };
            if let Some(base) = baseline.get(&sample.to_string()) {
                let since = value.wrapping_sub(*base);
                sample.value = Value::Counter(since);
                sample.is_used = since > 0;
            }
        }
    }
}

/// Where an endpoint listens, as a key and as text.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum HostAddress {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// The path of a Unix socket; abstract names begin with `@`.
    Pipe(String),
}

impl From<&Address> for HostAddress {
    fn from(address: &Address) -> HostAddress {
        match address {
            Address::Ip(address) => HostAddress::Ip(*address),
            path => HostAddress::Pipe(path.to_string()),
        }
    }
}

impl Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostAddress::Ip(address) => address.fmt(f),
            HostAddress::Pipe(path) => f.write_str(path),
        }
    }
}

/// One endpoint's merged statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct HostSample {
    /// Where the endpoint listens.
    pub address: HostAddress,
    /// Its counters and gauges by name, in the order of [`HostStats`].
    pub stats: Vec<(Cow<'static, str>, Value)>,
}

/// Whose statistic it is. Displays as the prefix of the full name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// `access_log.`
    AccessLog,
    /// `cluster.<name>.`
    Cluster(Arc<str>),
    /// `control_plane.`
    ControlPlane,
    /// A type of resources, such as `cluster_manager.cds.`.
    Discovery(Arc<str>),
    /// `filesystem.`
    Filesystem,
    /// `cluster.<name>.grpc.` or `cluster.<name>.grpc.<service>.<method>.`
    Grpc {
        /// The cluster's name in statistics.
        cluster: Arc<str>,
        /// Which of the two protocols.
        kind: GrpcKind,
        /// Service and method.
        method: Method,
    },
    /// `http.<stat_prefix>.`
    Http(Arc<str>),
    /// Metrics of Istio, with their labels.
    Istio(IstioLabels),
    /// `listener.<address>.`
    Listener(Arc<str>),
    /// What belongs to no single part, such as `http2.`.
    Process,
    /// `<protocol>.<stat_prefix>.`
    Rpc(Arc<str>),
    /// `server.`
    Server,
    /// `services.api.<name>.`
    ServiceApi(Arc<str>),
    /// `services.registry.<name>.`
    ServiceRegistry(Arc<str>),
    /// `services.`
    Services,
    /// `shard.<n>.`
    Shard(usize),
    /// `tcp.<stat_prefix>.`
    Tcp(Arc<str>),
    /// `upgrade.`
    Upgrade,
    /// `listener.<address>.worker_<n>.`
    Worker {
        /// The listener's name in statistics.
        listener: Arc<str>,
        /// The shard.
        worker: usize,
    },
}

impl Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::AccessLog => f.write_str("access_log."),
            Scope::Cluster(name) => write!(f, "cluster.{name}."),
            Scope::ControlPlane => f.write_str("control_plane."),
            Scope::Discovery(name) => write!(f, "{name}."),
            Scope::Filesystem => f.write_str("filesystem."),
            Scope::Grpc { cluster, kind, method } => {
                write!(f, "cluster.{cluster}.{}.", kind.name())?;
                match method {
                    Some((service, method)) => write!(f, "{service}.{method}."),
                    None => Ok(()),
                }
            }
            Scope::Http(prefix) => write!(f, "http.{prefix}."),
            Scope::Istio(_) => f.write_str("istiocustom."),
            Scope::Listener(name) => write!(f, "listener.{name}."),
            Scope::Process => Ok(()),
            Scope::Server => f.write_str("server."),
            Scope::ServiceApi(name) => write!(f, "services.api.{name}."),
            Scope::ServiceRegistry(name) => write!(f, "services.registry.{name}."),
            Scope::Services => f.write_str("services."),
            Scope::Shard(shard) => write!(f, "shard.{shard}."),
            Scope::Rpc(name) => write!(f, "{name}."),
            Scope::Tcp(prefix) => write!(f, "tcp.{prefix}."),
            Scope::Upgrade => f.write_str("upgrade."),
            Scope::Worker { listener, worker } => write!(f, "listener.{listener}.worker_{worker}."),
        }
    }
}

/// One merged statistic. Displays as its full name.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Whose it is.
    pub scope: Scope,
    /// Its name inside the scope.
    pub name: Cow<'static, str>,
    /// What it is.
    pub value: Value,
    /// Whether it was ever written, or counted since the counters were reset.
    pub is_used: bool,
}

impl Sample {
    /// A sample of its parts, used if it is not zero.
    pub fn new(scope: Scope, name: impl Into<Cow<'static, str>>, value: Value) -> Sample {
        let is_used = !value.is_zero();
        Sample { scope, name: name.into(), value, is_used }
    }
}

impl Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.scope, self.name)
    }
}

/// A merged value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number that only grows.
    Counter(u64),
    /// A number that goes up and down.
    Gauge(u64),
    /// A distribution.
    Histogram(HistogramSnapshot),
}

#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct HostKey {
    cluster: String,
    address: HostAddress,
}

/// The endpoints that shards count for.
#[derive(Debug, Default)]
struct Hosts {
    slots: BTreeMap<HostKey, Vec<Weak<HostStats>>>,
    /// With so many it is time to look for those that are gone.
    forget_at: usize,
}

impl Hosts {
    /// Forgets endpoints that no shard has any more.
    fn forget(&mut self) {
        self.slots.retain(|_, slots| slots.iter().any(|slot| slot.strong_count() > 0));
        self.forget_at = (2 * self.slots.len()).max(HOSTS_UNCHECKED);
    }

    /// The same from time to time: where clients choose endpoints, others come all the time.
    fn forget_some(&mut self) {
        if self.slots.len() >= self.forget_at.max(HOSTS_UNCHECKED) {
            self.forget();
        }
    }
}

/// So few endpoints are no burden, whether there or gone.
const HOSTS_UNCHECKED: usize = 1024;

/// One kind of set, by name and slot.
#[derive(Debug)]
struct Family<T> {
    sets: BTreeMap<Arc<str>, Vec<Option<Arc<T>>>>,
}

impl<T: StatSet> Family<T> {
    fn slot(&mut self, slots: usize, slot: usize, name: &str) -> Arc<T> {
        // A name ends at a colon for those who read `/stats` line by line.
        let name = if name.contains(':') { &name.replace(':', "_") } else { name };
        let sets = match self.sets.get_mut(name) {
            Some(sets) => sets,
            None => self.sets.entry(name.into()).or_insert_with(|| vec![None; slots]),
        };
        Arc::clone(sets[slot].get_or_insert_default())
    }

    /// With these names.
    fn of(slots: usize, names: &[&str]) -> Family<T> {
        let mut family = Family::default();
        for name in names {
            family.slot(slots, 0, name);
        }
        family
    }

    fn merge_into(&self, samples: &mut Vec<Sample>, scope: impl Fn(Arc<str>) -> Scope) {
        for (name, slots) in &self.sets {
            merge(samples, &scope(Arc::clone(name)), slots.iter().flatten());
        }
    }
}

impl<T> Default for Family<T> {
    fn default() -> Family<T> {
        Family { sets: BTreeMap::new() }
    }
}

/// The cells of several instances of one set, merged by name.
#[derive(Default)]
struct Merged(Vec<MergedCell>);

struct MergedCell {
    name: String,
    value: Value,
    is_used: bool,
}

impl Merged {
    fn of<'a, T: StatSet>(sets: impl IntoIterator<Item = &'a Arc<T>>) -> Merged {
        let mut merged = Merged::default();
        for set in sets {
            // Sets list their cells in one order, so the next cell is nearly always the next entry;
            // only status codes differ between shards.
            let mut next = 0;
            set.visit(&mut |name, stat| {
                let at = merged.position(next, name);
                let at = at.unwrap_or_else(|| {
                    let value = Value::zero_for(stat);
                    merged.0.push(MergedCell { name: name.to_owned(), value, is_used: false });
                    merged.0.len() - 1
                });
                let cell = &mut merged.0[at];
                cell.value.absorb(stat);
                cell.is_used |= stat.is_used();
                next = at + 1;
            });
        }
        merged
    }

    fn position(&self, next: usize, name: &str) -> Option<usize> {
        if self.0.get(next).is_some_and(|known| known.name == name) {
            return Some(next);
        }
        self.0.iter().position(|known| known.name == name)
    }

    fn scalars(self) -> Vec<(Cow<'static, str>, Value)> {
        self.0.into_iter().map(|cell| (Cow::Owned(cell.name), cell.value)).collect()
    }
}

impl Value {
    pub(super) fn is_zero(&self) -> bool {
        match self {
            Value::Counter(n) | Value::Gauge(n) => *n == 0,
            Value::Histogram(histogram) => histogram.count() == 0,
        }
    }

    fn zero_for(stat: Stat<'_>) -> Value {
        match stat {
            Stat::Counter(_) => Value::Counter(0),
            Stat::Gauge(_) | Stat::Level(_) => Value::Gauge(0),
            Stat::Histogram(_) => Value::Histogram(HistogramSnapshot::default()),
        }
    }

    fn absorb(&mut self, stat: Stat<'_>) {
        match (self, stat) {
            (Value::Counter(sum), Stat::Counter(n)) => *sum = sum.wrapping_add(n),
            (Value::Gauge(sum), Stat::Gauge(n)) => *sum = sum.saturating_add(n.value()),
            (Value::Gauge(max), Stat::Level(n)) => *max = n.value().max(*max),
            (Value::Histogram(snapshot), Stat::Histogram(histogram)) => {
                histogram.merge_into(snapshot);
            }
            // A name has one kind in every instance of a set: the macro that makes sets sees to it.
            (value, stat) => debug_assert!(false, "{value:?} cannot absorb {stat:?}"),
        }
    }
}

pub(super) fn merge<'a, T: StatSet>(
    samples: &mut Vec<Sample>,
    scope: &Scope,
    sets: impl IntoIterator<Item = &'a Arc<T>>,
) {
    let merged = Merged::of(sets).0.into_iter();
    samples.extend(merged.map(|MergedCell { name, value, is_used }| Sample {
        scope: scope.clone(),
        name: Cow::Owned(name),
        value,
        is_used,
    }));
}

fn new_slots<T: StatSet>(slots: usize) -> Vec<Arc<T>> {
    (0..slots).map(|_| Arc::default()).collect()
}

/// A panic while the tables were locked leaves them usable: entries are whole or absent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(registry: &Registry, name: &str) -> Option<Value> {
        registry
            .collect()
            .into_iter()
            .find(|sample| sample.to_string() == name)
            .map(|sample| sample.value)
    }

    #[test]
    fn slots_are_added_up_and_levels_are_not() {
        let registry = Registry::new(2);
        for slot in 0..2 {
            let cluster = registry.cluster(slot, "app");
            cluster.upstream_rq_total.add(10 + slot as u64);
            cluster.upstream_cx_active.inc();
            cluster.membership_total.set(3);
            cluster.upstream_rq_time.record(7);
        }
        registry.cluster(registry.control(), "app").update_attempt.inc();
        let get = |name: &str| value(&registry, &format!("cluster.app.{name}"));
        assert_eq!(get("upstream_rq_total"), Some(Value::Counter(21)));
        assert_eq!(get("upstream_cx_active"), Some(Value::Gauge(2)));
        assert_eq!(get("membership_total"), Some(Value::Gauge(3)));
        assert_eq!(get("update_attempt"), Some(Value::Counter(1)));
        let Some(Value::Histogram(times)) = get("upstream_rq_time") else { panic!() };
        assert_eq!((times.count(), times.sum()), (2, 14));
    }

    #[test]
    fn the_same_slot_and_name_is_the_same_set() {
        let registry = Registry::new(1);
        registry.http(0, "ingress").no_route.inc();
        registry.http(0, "ingress").no_route.inc();
        registry.http(0, "egress").no_route.inc();
        assert_eq!(value(&registry, "http.ingress.no_route"), Some(Value::Counter(2)));
        assert_eq!(value(&registry, "http.egress.no_route"), Some(Value::Counter(1)));
    }

    #[test]
    fn codes_seen_by_different_shards_merge() {
        let registry = Registry::new(2);
        registry.cluster(0, "app").response(200);
        registry.cluster(1, "app").response(503);
        registry.cluster(1, "app").response(200);
        assert_eq!(value(&registry, "cluster.app.upstream_rq_200"), Some(Value::Counter(2)));
        assert_eq!(value(&registry, "cluster.app.upstream_rq_503"), Some(Value::Counter(1)));
        assert_eq!(value(&registry, "cluster.app.upstream_rq_404"), None);
    }

    #[test]
    fn listeners_show_their_workers() {
        let registry = Registry::new(2);
        registry.listener(1, "0.0.0.0_80").downstream_cx_total.add(4);
        let name = "listener.0.0.0.0_80.worker_1.downstream_cx_total";
        assert_eq!(value(&registry, name), Some(Value::Counter(4)));
    }

    #[test]
    fn samples_come_sorted_by_full_name() {
        let registry = Registry::new(1);
        registry.cluster(0, "b");
        registry.cluster(0, "a");
        registry.tcp(0, "t");
        let names: Vec<_> = registry.collect().iter().map(ToString::to_string).collect();
        assert!(names.is_sorted());
    }

    #[test]
    fn reset_hides_what_was_counted_before() {
        let registry = Registry::new(1);
        let http = registry.http(0, "i");
        http.rq_total.add(5);
        http.downstream_cx_active.inc();
        registry.reset_counters();
        http.rq_total.add(2);
        assert_eq!(value(&registry, "http.i.rq_total"), Some(Value::Counter(2)));
        assert_eq!(value(&registry, "http.i.downstream_cx_active"), Some(Value::Gauge(1)));
        registry.reset_counters();
        assert_eq!(value(&registry, "http.i.rq_total"), Some(Value::Counter(0)));
    }

    #[test]
    fn clusters_that_are_gone_are_forgotten() {
        let registry = Registry::new(1);
        registry.cluster(0, "stays").upstream_rq_total.inc();
        let gone = registry.cluster(0, "subscribed|bolt|gone");
        registry.retain_clusters(|name| name == "stays");
        gone.upstream_rq_total.inc();
        assert_eq!(value(&registry, "cluster.stays.upstream_rq_total"), Some(Value::Counter(1)));
        assert_eq!(value(&registry, "cluster.subscribed|bolt|gone.upstream_rq_total"), None);
    }

    #[test]
    fn services_appear_once_they_are_asked_for() {
        let registry = Registry::new(1);
        assert_eq!(value(&registry, "services.published"), None);
        registry.services().published.set(2);
        registry.service_api("sofa").publish.inc();
        registry.service_registry("zk").connected.set(1);
        assert_eq!(value(&registry, "services.published"), Some(Value::Gauge(2)));
        assert_eq!(value(&registry, "services.api.sofa.publish"), Some(Value::Counter(1)));
        assert_eq!(value(&registry, "services.registry.zk.connected"), Some(Value::Gauge(1)));
        registry.forget_service_registry("zk");
        assert_eq!(value(&registry, "services.registry.zk.connected"), None);
    }

    #[test]
    fn hosts_live_as_long_as_someone_uses_them() {
        let registry = Registry::new(2);
        let address = HostAddress::Ip("127.0.0.1:80".parse().unwrap());
        let (a, b) = (registry.host(0, "app", &address), registry.host(1, "app", &address));
        a.cx_total.inc();
        b.cx_total.inc();
        let hosts = registry.collect_hosts("app");
        assert_eq!(hosts.len(), 1);
        assert!(hosts[0].stats.contains(&("cx_total".into(), Value::Counter(2))));
        assert!(registry.collect_hosts("other").is_empty());
        drop((a, b));
        assert!(registry.collect_hosts("app").is_empty());
        assert!(lock(&registry.hosts).slots.is_empty());
    }
}
