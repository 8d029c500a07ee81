//! Counters and histograms that go on where a predecessor's ended.
//!
//! What a predecessor counted is added when statistics are read: a cell has one writer, which is not us.
//! Gauges are not carried: what a process holds, it holds for as long as it lives. Invariant: what was counted
//! once is told once, in whichever process it is read after the last piece has come.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use outrigger_upgrade::state::{StatRecord, StatsState};

use super::histogram::HistogramSnapshot;
use super::registry::{Sample, Scope, Value};

/// Counters and histograms by their names.
#[derive(Clone, Debug, Default)]
pub struct Carried(HashMap<String, One>);

#[derive(Clone, Debug, PartialEq)]
struct One {
    value: Value,
    /// The cluster that it is of.
    cluster: Option<Arc<str>>,
}

impl Carried {
    /// Those among samples that mean the same in another process.
    pub(super) fn of(samples: Vec<Sample>) -> Self {
        let carried = samples.into_iter().filter(|sample| {
            let is_own = matches!(sample.scope, Scope::Shard(_) | Scope::Worker { .. });
            !is_own && !matches!(sample.value, Value::Gauge(_)) && !sample.value.is_zero()
        });
        let one = |sample: Sample| {
            let key = key(&sample);
            let cluster = match sample.scope {
                Scope::Cluster(name) => Some(name),
                _ => None,
            };
            (key, One { value: sample.value, cluster })
        };
        Self(carried.map(one).collect())
    }

    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> StatsState {
        let changed = self.0.iter().filter_map(|(name, now)| {
            let One { value: now, cluster } = now;
            let cluster = cluster.as_deref().unwrap_or_default();
            let record = |count, buckets| {
                let (name, cluster) = (name.clone(), cluster.to_owned());
                StatRecord { name, count, buckets, cluster }
            };
            match (now, before.0.get(name).map(|before| &before.value)) {
                (now, Some(before)) if now == before => None,
                (Value::Counter(now), Some(Value::Counter(before))) => {
                    Some(record(now.wrapping_sub(*before), Vec::new()))
                }
                (Value::Counter(now), _) => Some(record(*now, Vec::new())),
                (Value::Histogram(now), before) => {
                    let since = match before {
                        Some(Value::Histogram(before)) => now.since(before),
                        _ => now.clone(),
                    };
                    let buckets = since.filled().flat_map(|(at, count)| [at as u64, count]);
                    Some(record(since.sum(), buckets.collect()))
                }
                (Value::Gauge(_), _) => None,
            }
        });
        StatsState { stats: changed.collect() }
    }

    /// Adds what a predecessor counted.
    pub(super) fn add(&mut self, state: StatsState) {
        for StatRecord { name, count, buckets, cluster } in state.stats {
            let more = if buckets.is_empty() {
                Value::Counter(count)
            } else {
                let filled = buckets.as_chunks().0.iter().map(|[at, count]| (*at as usize, *count));
                Value::Histogram(HistogramSnapshot::of_filled(filled, count))
            };
            match self.0.get_mut(&name) {
                Some(known) => add(&mut known.value, &more),
                None => {
                    let cluster = (!cluster.is_empty()).then(|| cluster.into());
                    self.0.insert(name, One { value: more, cluster });
                }
            }
        }
    }

    /// The clusters of which something was counted.
    pub(super) fn clusters(&self) -> HashSet<Arc<str>> {
        self.0.values().filter_map(|one| one.cluster.clone()).collect()
    }

    /// Adds it to what was read.
    pub(super) fn apply(&self, samples: &mut [Sample]) {
        if self.0.is_empty() {
            return;
        }
        for sample in samples {
            if let Some(more) = self.0.get(&key(sample)) {
                add(&mut sample.value, &more.value);
                sample.is_used = true;
            }
        }
    }
}

fn add(value: &mut Value, more: &Value) {
    match (value, more) {
        (Value::Counter(value), Value::Counter(more)) => *value = value.wrapping_add(*more),
        (Value::Histogram(value), Value::Histogram(more)) => value.add(more),
        // A name that was of another kind in the predecessor's version begins anew.
        _ => {}
    }
}

/// The full name; with labels, where these tell one from another.
fn key(sample: &Sample) -> String {
    match &sample.scope {
        Scope::Istio(labels) => format!("{sample}{labels:?}"),
        _ => sample.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::Registry;
    use super::*;

    fn value(registry: &Registry, name: &str) -> Value {
        let samples = registry.collect();
        let sample = samples.into_iter().find(|sample| sample.to_string() == name);
        sample.unwrap_or_else(|| panic!("no {name}")).value
    }

    #[test]
    fn what_is_counted_before_and_after_is_one_number() {
        let (old, new) = (Registry::new(2), Registry::new(1));
        let cluster = old.cluster(1, "app");
        cluster.upstream_rq_total.add(5);
        cluster.upstream_cx_active.inc();
        cluster.upstream_rq_time.record(100);
        old.shard(0).turns.add(7);
        let base = old.carried();
        new.inherit(base.since(&Carried::default()));
        // The old process has more to do, the new one as well.
        cluster.upstream_rq_total.add(2);
        cluster.upstream_rq_time.record(100);
        cluster.upstream_rq_time.record(3);
        old.cluster(0, "later").upstream_rq_total.inc();
        let successor = new.cluster(0, "app");
        successor.upstream_rq_total.add(10);
        successor.upstream_rq_time.record(100);
        new.inherit(old.carried().since(&base));
        new.cluster(0, "later");
        assert_eq!(value(&new, "cluster.app.upstream_rq_total"), Value::Counter(17));
        assert_eq!(value(&new, "cluster.later.upstream_rq_total"), Value::Counter(1));
        assert_eq!(value(&new, "cluster.app.upstream_cx_active"), Value::Gauge(0));
        assert_eq!(value(&new, "shard.0.turns"), Value::Counter(0));
        let Value::Histogram(times) = value(&new, "cluster.app.upstream_rq_time") else { panic!() };
        assert_eq!((times.count(), times.sum()), (4, 303));
        // And so it goes to the next one.
        let third = Registry::new(1);
        third.inherit(new.carried().since(&Carried::default()));
        third.cluster(0, "app");
        assert_eq!(value(&third, "cluster.app.upstream_rq_total"), Value::Counter(17));
    }
}
