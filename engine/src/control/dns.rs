//! Names of STRICT_DNS and LOGICAL_DNS clusters, resolved over and over.
//!
//! Each name has a task of its own with its own rhythm. A cluster is published when every one of
//! its names has been answered once, and then whenever its endpoints change. A failed lookup keeps
//! what was there; an answer that says "no such name" or "no addresses" is an answer, and empties a
//! STRICT_DNS cluster (a LOGICAL_DNS cluster keeps its last address, as Envoy's does).
//!
//! Servers, search list and options come from /etc/resolv.conf and names from /etc/hosts; both are
//! read again after they change. Answers are not cached beyond their cluster's own rhythm.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{LookupIpStrategy, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use outrigger_xds::snapshot::{
    Address, Cluster, Discovery, DnsConfig, DnsFamily, DnsTarget, Endpoint,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::state::ControlState;
use crate::stats::ClusterStats;

/// Gets a cluster's name and its new endpoints. Called on the control thread; must not block.
pub type Publish = Arc<dyn Fn(&str, Vec<Endpoint>) + Send + Sync>;

/// Clusters whose names are to be followed.
pub type DnsClusters = watch::Receiver<Arc<[Arc<Cluster>]>>;

/// Follows the names of whatever clusters there are, until the sender is gone.
pub(super) async fn run(state: Arc<ControlState>, clusters: DnsClusters, publish: Publish) {
    follow(state, clusters, publish, Resolvers::system()).await;
}

async fn follow(
    state: Arc<ControlState>,
    mut clusters: DnsClusters,
    publish: Publish,
    resolvers: Resolvers,
) {
    let resolvers = Arc::new(resolvers);
    let mut followed: HashMap<Box<str>, Followed> = HashMap::new();
    clusters.mark_changed();
    while clusters.changed().await.is_ok() {
        let clusters = Arc::clone(&clusters.borrow_and_update());
        let by_name: HashMap<&str, &Arc<Cluster>> =
            clusters.iter().map(|cluster| (&*cluster.name, cluster)).collect();
        followed.retain(|name, followed| {
            by_name.get(&**name).is_some_and(|cluster| followed.cluster.follows(cluster))
        });
        for cluster in &*clusters {
            match followed.get(&cluster.name) {
                // Known answers hold for another version of the cluster as well.
                Some(known) => known.cluster.publish_again(),
                None => {
                    let stats =
                        || state.registry().cluster(state.registry().control(), &cluster.stat_name);
                    if let Some(new) = FollowedCluster::of(cluster, stats, &publish) {
                        followed.insert(cluster.name.clone(), Followed::start(new, &resolvers));
                    }
                }
            }
        }
    }
}

/// A cluster and the tasks that follow its names, which end with it.
struct Followed {
    cluster: Arc<FollowedCluster>,
    tasks: Vec<AbortHandle>,
}

impl Followed {
    fn start(cluster: FollowedCluster, resolvers: &Arc<Resolvers>) -> Followed {
        let cluster = Arc::new(cluster);
        let tasks = (0..cluster.config.targets.len())
            .map(|target| {
                let (cluster, resolvers) = (Arc::clone(&cluster), Arc::clone(resolvers));
                tokio::spawn(async move { cluster.follow(target, &resolvers).await }).abort_handle()
            })
            .collect();
        Followed { cluster, tasks }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// One cluster's names and what is known of them.
struct FollowedCluster {
    name: Box<str>,
    config: DnsConfig,
    /// LOGICAL_DNS: one address is enough.
    logical: bool,
    stats: Arc<ClusterStats>,
    publish: Publish,
    /// What each name stands for; `None` before its first answer.
    answers: Mutex<Vec<Option<Vec<IpAddr>>>>,
}

impl FollowedCluster {
    fn of(
        cluster: &Cluster,
        stats: impl FnOnce() -> Arc<ClusterStats>,
        publish: &Publish,
    ) -> Option<FollowedCluster> {
        let (config, logical) = match &cluster.discovery {
            Discovery::Static | Discovery::Eds(_) | Discovery::OriginalDst(_) => return None,
            Discovery::StrictDns(config) => (config.clone(), false),
            Discovery::LogicalDns(config) => (config.clone(), true),
        };
        let answers = Mutex::new(vec![None; config.targets.len()]);
        let (name, publish) = (cluster.name.clone(), Arc::clone(publish));
        Some(FollowedCluster { name, config, logical, stats: stats(), publish, answers })
    }

    /// Whether `cluster` asks for exactly what is being followed.
    fn follows(&self, cluster: &Cluster) -> bool {
        match &cluster.discovery {
            Discovery::Static | Discovery::Eds(_) | Discovery::OriginalDst(_) => false,
            Discovery::StrictDns(config) => !self.logical && *config == self.config,
            Discovery::LogicalDns(config) => self.logical && *config == self.config,
        }
    }

    /// Resolves one name for ever; a literal address needs it only once.
    async fn follow(&self, target: usize, resolvers: &Resolvers) {
        let DnsTarget { host, .. } = &self.config.targets[target];
        if let Ok(address) = host.parse() {
            return self.answered(target, vec![address]);
        }
        let mut failures = 0;
        loop {
            self.stats.update_attempt.inc();
            let wait = match resolvers.lookup(host, self.config.family).await {
                Ok(answer) => {
                    failures = 0;
                    self.stats.update_success.inc();
                    let wait = self.refresh_after(answer.ttl);
                    self.answered(target, answer.addresses);
                    wait
                }
                Err(error) => {
                    failures += 1;
                    self.stats.update_failure.inc();
                    log::warn!("cannot resolve {host:?} of cluster {}: {error}", self.name);
                    self.failed(target);
                    self.retry_after(failures)
                }
            };
            tokio::time::sleep(wait + random_up_to(self.config.jitter)).await;
        }
    }

    fn answered(&self, target: usize, mut addresses: Vec<IpAddr>) {
        if addresses.is_empty() {
            self.stats.update_empty.inc();
        }
        if self.logical {
            addresses.truncate(1);
        } else {
            // Servers rotate their answers; that alone is no change.
            addresses.sort_unstable();
            addresses.dedup();
        }
        let mut answers = lock(&self.answers);
        let kept = self.logical && addresses.is_empty() && answers[target].is_some();
        if kept || answers[target].as_ref() == Some(&addresses) {
            self.stats.update_no_rebuild.inc();
            return;
        }
        answers[target] = Some(addresses);
        self.publish(&answers);
    }

    /// A failure changes nothing, except that a first one no longer holds the cluster up.
    fn failed(&self, target: usize) {
        let mut answers = lock(&self.answers);
        if answers[target].is_none() {
            answers[target] = Some(Vec::new());
            self.publish(&answers);
        }
    }

    fn publish(&self, answers: &[Option<Vec<IpAddr>>]) {
        if let Some(endpoints) = self.endpoints(answers) {
            self.stats.membership_change.inc();
            log::debug!("cluster {}: {} endpoints", self.name, endpoints.len());
            (self.publish)(&self.name, endpoints);
        }
    }

    fn publish_again(&self) {
        if let Some(endpoints) = self.endpoints(&lock(&self.answers)) {
            (self.publish)(&self.name, endpoints);
        }
    }

    /// All endpoints, once every name has been answered.
    fn endpoints(&self, answers: &[Option<Vec<IpAddr>>]) -> Option<Vec<Endpoint>> {
        let mut endpoints = Vec::new();
        for (target, addresses) in self.config.targets.iter().zip(answers) {
            endpoints.extend(addresses.as_ref()?.iter().map(|address| Endpoint {
                address: Address::Ip(SocketAddr::new(*address, target.port)),
                ..target.template.clone()
            }));
        }
        Some(endpoints)
    }

    fn refresh_after(&self, ttl: Duration) -> Duration {
        if self.config.respect_ttl { ttl.max(TTL_MIN) } else { self.config.refresh_rate }
    }

    /// Twice as long after each failure in a row, and then somewhere between nothing and that.
    fn retry_after(&self, failures: u32) -> Duration {
        let Some((first, longest)) = self.config.failure_refresh_rate else {
            return self.config.refresh_rate;
        };
        let doubled = first.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
        random_up_to(doubled.min(longest)).max(RETRY_MIN)
    }
}

/// What a name stands for.
struct Answer {
    /// None at all is an answer too.
    addresses: Vec<IpAddr>,
    /// How long the servers say it holds; nothing for no addresses.
    ttl: Duration,
}

/// Resolvers as the system is configured, one per address family in use.
struct Resolvers {
    /// Where a new resolver's servers come from.
    make: Box<dyn Fn() -> Result<Builder, NetError> + Send + Sync>,
    system: Mutex<System>,
}

type Builder = ResolverBuilder<TokioRuntimeProvider>;

#[derive(Default)]
struct System {
    /// When the files were changed from which `resolvers` were made.
    stamp: [Option<SystemTime>; SYSTEM_FILES.len()],
    resolvers: Vec<(DnsFamily, TokioResolver)>,
}

impl Resolvers {
    fn system() -> Resolvers {
        Resolvers { make: Box::new(TokioResolver::builder_tokio), system: Mutex::default() }
    }

    async fn lookup(&self, host: &str, family: DnsFamily) -> Result<Answer, NetError> {
        let resolver = self.resolver(family)?;
        match resolver.lookup_ip(host).await {
            Ok(lookup) => Ok(Answer {
                addresses: lookup.iter().collect(),
                ttl: lookup.valid_until().saturating_duration_since(Instant::now()),
            }),
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => {
                Ok(Answer { addresses: Vec::new(), ttl: Duration::ZERO })
            }
            Err(error) => Err(error),
        }
    }

    fn resolver(&self, family: DnsFamily) -> Result<TokioResolver, NetError> {
        let mut system = lock(&self.system);
        let stamp = SYSTEM_FILES.map(|path| std::fs::metadata(path).ok()?.modified().ok());
        if system.stamp != stamp {
            *system = System { stamp, resolvers: Vec::new() };
        }
        if let Some((_, resolver)) = system.resolvers.iter().find(|(known, _)| *known == family) {
            return Ok(resolver.clone());
        }
        let mut builder = (self.make)()?;
        configure(builder.options_mut(), family);
        let resolver = builder.build()?;
        system.resolvers.push((family, resolver.clone()));
        Ok(resolver)
    }
}

fn configure(options: &mut ResolverOpts, family: DnsFamily) {
    options.ip_strategy = match family {
        DnsFamily::All => LookupIpStrategy::Ipv4AndIpv6,
        DnsFamily::Auto => LookupIpStrategy::Ipv6thenIpv4,
        DnsFamily::V4Only => LookupIpStrategy::Ipv4Only,
        DnsFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        DnsFamily::V6Only => LookupIpStrategy::Ipv6Only,
    };
    // The cluster's refresh rate is the cache: asking means asking a server.
    options.cache_size = 0;
}

/// Uniform between nothing and `limit`.
fn random_up_to(limit: Duration) -> Duration {
    // Every RandomState of the standard library has keys of its own.
    let random = RandomState::new().build_hasher().finish();
    limit.mul_f64(random as f64 / u64::MAX as f64)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the system says how names are resolved.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// A TTL of 0 must not turn into a busy loop.
const TTL_MIN: Duration = Duration::from_secs(1);

/// Neither must a back-off that happens to draw nothing.
const RETRY_MIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
