//! Registries: where providers of services are looked up, and services of ours are registered.
//!
//! A registry is told what is wanted as a whole, again and again, and makes it so; it says what it
//! learns by [`Report`]s. So a lost connection needs nothing of the directory: what is wanted is still
//! there, and the last list of providers stays until there is a newer one (registries.md section 14).

pub mod file;
pub mod nacos;
pub mod zookeeper;

use std::collections::BTreeSet;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::name::ServiceName;
use super::provider::{Offer, Provider};
use crate::stats::ServiceRegistryStats;

/// A registry, not yet in use.
pub trait Registry: Send + 'static {
    /// Does what is wanted until nobody is left who could want something; then takes back what was
    /// registered, and ends.
    fn run(self, wanted: Wants, reports: Reports) -> impl Future<Output = ()> + Send;
}

/// What a registry is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// To be registered.
    pub offers: BTreeSet<Arc<Offer>>,
    /// To be looked up and watched. Some are patterns.
    pub lookups: BTreeSet<Arc<ServiceName>>,
    /// Who says that it subscribes.
    pub subscriber: Arc<Subscriber>,
}

/// Who subscribes, as registries are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriber {
    /// The application.
    pub application: String,
    /// Its host, where that is known; else the registry takes the address by which it is reached.
    pub host: Option<Box<str>>,
}

/// What is wanted, and when that changes.
pub type Wants = watch::Receiver<Arc<Wanted>>;

/// What a registry learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// These are all providers for a lookup now.
    Providers {
        /// The lookup.
        lookup: Arc<ServiceName>,
        /// May be none.
        providers: Vec<Provider>,
    },
    /// What was reported may be old from now on.
    Lost,
    /// It is no longer.
    Back,
}

/// The way from a registry to the directory.
#[derive(Clone, Debug)]
pub struct Reports {
    /// The registry's name.
    pub source: Arc<str>,
    /// Its counters, of which it is the only writer.
    pub stats: Arc<ServiceRegistryStats>,
    sender: mpsc::Sender<(Arc<str>, Report)>,
    done: watch::Sender<Arc<Wanted>>,
}

impl Reports {
    /// Of the registry called `source`.
    pub fn new(
        source: Arc<str>,
        stats: Arc<ServiceRegistryStats>,
        sender: mpsc::Sender<(Arc<str>, Report)>,
    ) -> Reports {
        Reports { source, stats, sender, done: watch::Sender::new(Arc::default()) }
    }

    /// What was last registered as it was wanted, or could not be.
    pub fn done(&self) -> watch::Receiver<Arc<Wanted>> {
        self.done.subscribe()
    }

    /// Everything of this has been registered, or could not be.
    pub fn registered(&self, wanted: &Arc<Wanted>) {
        self.done.send_replace(Arc::clone(wanted));
    }

    /// Tells all providers for a lookup. Waits while the directory is busy.
    pub async fn providers(&self, lookup: &Arc<ServiceName>, providers: Vec<Provider>) {
        self.stats.update.inc();
        self.send(Report::Providers { lookup: Arc::clone(lookup), providers }).await;
    }

    /// The registry can't be reached.
    pub async fn lost(&self) {
        self.stats.connected.set(0);
        self.stats.stale.set(1);
        self.send(Report::Lost).await;
    }

    /// It can be reached, and all that was wanted has been reported.
    pub async fn back(&self) {
        self.stats.stale.set(0);
        self.send(Report::Back).await;
    }

    async fn send(&self, report: Report) {
        // The directory ends after its registries.
        let _ = self.sender.send((Arc::clone(&self.source), report)).await;
    }
}

/// Growing pauses between attempts, drawn so that many proxies don't come back at once.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Pauses from `first` to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff { failures: 0, first, longest }
    }

    /// The pause before the next attempt: twice as long after each, of which at least half is waited.
    pub fn pause(&mut self) -> Duration {
        let doubled =
            self.first.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1).min(31);
        let pause = doubled.min(self.longest);
        pause / 2 + random_up_to(pause / 2)
    }

    /// An attempt succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Uniform between nothing and `limit`.
fn random_up_to(limit: Duration) -> Duration {
    limit.mul_f64(random() as f64 / u64::MAX as f64)
}

/// Good enough to spread load.
fn random() -> u64 {
    // Every RandomState of the standard library has keys of its own.
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_begin_anew() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, longest);
        for step in 0..40u32 {
            let full = first.saturating_mul(1 << step.min(20)).min(longest);
            let pause = backoff.pause();
            assert!((full / 2..=full).contains(&pause), "{step}: {pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= first);
    }
}
