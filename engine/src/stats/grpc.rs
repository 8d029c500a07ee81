//! Statistics of gRPC calls, by cluster, service and method.
//!
//! The names of services and methods come from clients, so there is a bound: a cluster has at most
//! [`METHODS_MAX`] methods with statistics of their own, and the calls of all others count in the
//! cluster's. Invariant: a call counts in exactly one set of each kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cell::Counter;
use super::histogram::Histogram;
use super::registry::{Sample, Scope, merge};
use super::sets::{Stat, StatSet};

/// `cluster.<name>.grpc.[<service>.<method>.]`, or `grpc-web` in place of `grpc`: calls of one method,
/// or those of a cluster that are told apart by nothing, on one shard.
///
/// As with Envoy, only what was counted at least once is listed.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct GrpcCallStats {
    /// Counter `success`: calls that ended with status 0.
    pub success: Counter,
    /// Counter `failure`: calls that ended with another status.
    pub failure: Counter,
    /// Counter `request_message_count`.
    pub request_message_count: Counter,
    /// Counter `response_message_count`.
    pub response_message_count: Counter,
    /// Histogram `upstream_rq_time`: from the end of the request to the end of the response.
    pub upstream_rq_time: Histogram,
    /// Counters `<status>`.
    statuses: [Counter; STATUS_NAMES.len()],
    /// Counter `unknown_status`: statuses that gRPC does not know. Envoy has a counter for each, which
    /// lets upstream make any number of them.
    unknown_status: Counter,
}

impl GrpcCallStats {
    /// Counts a call that ended with `status`; nothing for one that can't be read.
    pub fn ended(&self, status: Option<u32>) {
        if status == Some(0) {
            self.success.inc();
        } else {
            self.failure.inc();
        }
        let known = status.and_then(|status| self.statuses.get(status as usize));
        known.unwrap_or(&self.unknown_status).inc();
    }
}

impl StatSet for GrpcCallStats {
    fn visit<'a>(&'a self, visit: &mut dyn FnMut(&str, Stat<'a>)) {
        let total = self.success.value() + self.failure.value();
        let named = [
            ("success", self.success.value()),
            ("failure", self.failure.value()),
            ("total", total),
            ("request_message_count", self.request_message_count.value()),
            ("response_message_count", self.response_message_count.value()),
            ("unknown_status", self.unknown_status.value()),
        ];
        let statuses = STATUS_NAMES.into_iter().zip(self.statuses.iter().map(Counter::value));
        for (name, count) in named.into_iter().chain(statuses).filter(|(_, count)| *count > 0) {
            visit(name, Stat::Counter(count));
        }
        if self.upstream_rq_time.is_used() {
            visit("upstream_rq_time", Stat::Histogram(&self.upstream_rq_time));
        }
    }
}

/// What a client spoke.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum GrpcKind {
    /// gRPC, or what became gRPC on its way.
    Grpc,
    /// gRPC-Web, counted once more under its own name.
    GrpcWeb,
}

impl GrpcKind {
    /// As it stands in the names of statistics.
    pub fn name(self) -> &'static str {
        match self {
            GrpcKind::Grpc => "grpc",
            GrpcKind::GrpcWeb => "grpc-web",
        }
    }
}

/// Service and method; nothing for calls that are not told apart.
pub(super) type Method = Option<(Arc<str>, Arc<str>)>;

/// All sets, by cluster, kind, method and slot.
#[derive(Debug, Default)]
pub(super) struct GrpcFamily {
    clusters: BTreeMap<(Arc<str>, GrpcKind), BTreeMap<Method, Slots>>,
}

type Slots = Vec<Option<Arc<GrpcCallStats>>>;

impl GrpcFamily {
    /// One slot's set of a method, or of a whole cluster. Nothing when the cluster has as many methods
    /// as it may and this is another.
    pub(super) fn slot(
        &mut self,
        slots: usize,
        slot: usize,
        (cluster, kind): (&str, GrpcKind),
        method: Option<(&str, &str)>,
    ) -> Option<Arc<GrpcCallStats>> {
        let methods = self.clusters.entry((cluster.into(), kind)).or_default();
        let key: Method = method.map(|(service, method)| (service.into(), method.into()));
        let own = usize::from(methods.contains_key(&None));
        if key.is_some() && !methods.contains_key(&key) && methods.len() - own >= METHODS_MAX {
            return None;
        }
        let sets = methods.entry(key).or_insert_with(|| vec![None; slots]);
        Some(Arc::clone(sets[slot].get_or_insert_default()))
    }

    pub(super) fn merge_into(&self, samples: &mut Vec<Sample>) {
        for ((cluster, kind), methods) in &self.clusters {
            for (method, slots) in methods {
                let scope = Scope::Grpc {
                    cluster: Arc::clone(cluster),
                    kind: *kind,
                    method: method.clone(),
                };
                merge(samples, &scope, slots.iter().flatten());
            }
        }
    }
}

/// Methods of a cluster that have statistics of their own: an application has dozens, and a client
/// that makes names up gets no further.
pub const METHODS_MAX: usize = 1000;

/// The statuses of gRPC.
const STATUS_NAMES: [&str; 17] =
    ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(family: &GrpcFamily) -> Vec<String> {
        let mut samples = Vec::new();
        family.merge_into(&mut samples);
        samples.iter().map(|sample| format!("{sample} {:?}", sample.value)).collect()
    }

    #[test]
    fn names_are_envoys_and_only_what_occurred_is_listed() {
        let mut family = GrpcFamily::default();
        let key = ("app", GrpcKind::Grpc);
        for slot in 0..2 {
            let set = family.slot(2, slot, key, Some(("a.B", "Get"))).unwrap();
            set.ended(Some(0));
            set.request_message_count.add(3);
        }
        family.slot(2, 0, key, Some(("a.B", "Put"))).unwrap();
        let own = family.slot(2, 1, key, None).unwrap();
        own.ended(Some(14));
        own.ended(Some(77));
        own.ended(None);
        let web = family.slot(2, 1, ("app", GrpcKind::GrpcWeb), Some(("a.B", "Get"))).unwrap();
        web.upstream_rq_time.record(1);
        web.ended(Some(16));
        let listed = listed(&family);
        let counters: Vec<&str> =
            listed.iter().filter(|line| line.contains("Counter")).map(|line| &**line).collect();
        assert_eq!(
            counters,
            [
                "cluster.app.grpc.failure Counter(3)",
                "cluster.app.grpc.total Counter(3)",
                "cluster.app.grpc.unknown_status Counter(2)",
                "cluster.app.grpc.14 Counter(1)",
                "cluster.app.grpc.a.B.Get.success Counter(2)",
                "cluster.app.grpc.a.B.Get.total Counter(2)",
                "cluster.app.grpc.a.B.Get.request_message_count Counter(6)",
                "cluster.app.grpc.a.B.Get.0 Counter(2)",
                "cluster.app.grpc-web.a.B.Get.failure Counter(1)",
                "cluster.app.grpc-web.a.B.Get.total Counter(1)",
                "cluster.app.grpc-web.a.B.Get.16 Counter(1)",
            ]
        );
        let times: Vec<_> = listed.iter().filter(|line| line.contains("Histogram")).collect();
        assert_eq!(times.len(), 1);
        assert!(times[0].starts_with("cluster.app.grpc-web.a.B.Get.upstream_rq_time "));
    }

    #[test]
    fn a_cluster_has_so_many_methods_and_no_more() {
        let mut family = GrpcFamily::default();
        let key = ("app", GrpcKind::Grpc);
        family.slot(1, 0, key, None).unwrap();
        for number in 0..METHODS_MAX {
            assert!(family.slot(1, 0, key, Some(("s", &number.to_string()))).is_some());
        }
        assert!(family.slot(1, 0, key, Some(("s", "one more"))).is_none());
        assert!(family.slot(1, 0, key, Some(("s", "7"))).is_some());
        assert!(family.slot(1, 0, key, None).is_some());
        assert!(family.slot(1, 0, ("other", GrpcKind::Grpc), Some(("s", "one more"))).is_some());
    }
}
