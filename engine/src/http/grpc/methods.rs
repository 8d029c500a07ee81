//! From a request's path to the statistics of its method, without a lock and without allocation once
//! the method is known to the shard.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_xds::snapshot::{GrpcMethods, GrpcStats};

use crate::shard::Shard;
use crate::stats::grpc::METHODS_MAX;
use crate::stats::{GrpcCallStats, GrpcKind, Registry};

/// What a call counts in.
pub(super) struct Calls {
    grpc: Option<Arc<GrpcCallStats>>,
    web: Option<Arc<GrpcCallStats>>,
    /// Upstream's time is recorded too.
    pub(super) upstream_time: bool,
}

impl Calls {
    /// The statistics of gRPC, which are the ones that know of messages.
    pub(super) fn grpc(&self) -> Option<&GrpcCallStats> {
        self.grpc.as_deref()
    }

    /// Counts in those of gRPC and of gRPC-Web.
    pub(super) fn each(&self, count: impl Fn(&GrpcCallStats)) {
        self.grpc.iter().chain(&self.web).for_each(|stats| count(stats));
    }
}

/// The methods that a connection manager has met on one shard.
pub(in crate::http) struct MethodTable {
    config: Option<GrpcStats>,
    grpc_web: bool,
    /// By the cluster's name in statistics.
    clusters: RefCell<HashMap<Box<str>, ClusterTable>>,
}

struct ClusterTable {
    /// By `service/method`; for requests of gRPC, and for those of gRPC-Web.
    methods: [HashMap<Box<str>, Rc<Calls>>; 2],
    /// For all others.
    others: [Rc<Calls>; 2],
    /// How often the registry may still be asked for a method that is not in the table.
    questions: usize,
}

impl MethodTable {
    /// A table for what `config` asks for.
    pub(in crate::http) fn new(config: Option<&GrpcStats>, grpc_web: bool) -> Self {
        Self { config: config.cloned(), grpc_web, clusters: RefCell::default() }
    }

    /// What a call of `path` counts in. Nothing when nothing is counted, or when the path has not the
    /// form of gRPC's.
    pub(super) fn find(
        &self,
        shard: &Shard,
        cluster: &str,
        path: &str,
        is_web: bool,
    ) -> Option<Rc<Calls>> {
        self.find_in(&shard.registry, shard.index, cluster, path, is_web)
    }

    fn find_in(
        &self,
        registry: &Registry,
        slot: usize,
        cluster: &str,
        path: &str,
        is_web: bool,
    ) -> Option<Rc<Calls>> {
        if self.config.is_none() && !is_web {
            return None;
        }
        let method = MethodName::of(path)?;
        let source = Source { table: self, registry, slot, cluster };
        let mut clusters = self.clusters.borrow_mut();
        let known = match clusters.get_mut(cluster) {
            Some(known) => known,
            None => clusters.entry(cluster.into()).or_insert_with(|| source.cluster()),
        };
        let kind = usize::from(is_web);
        if let Some(calls) = known.methods[kind].get(&*method.key) {
            return Some(Rc::clone(calls));
        }
        if known.questions == 0 || method.key.len() > NAME_BYTES_MAX {
            return Some(Rc::clone(&known.others[kind]));
        }
        known.questions -= 1;
        let calls = source.calls(&method, &known.others[kind]);
        known.methods[kind].insert(method.key.into(), Rc::clone(&calls));
        Some(calls)
    }
}

/// Where the statistics of a cluster come from.
struct Source<'a> {
    table: &'a MethodTable,
    registry: &'a Registry,
    slot: usize,
    cluster: &'a str,
}

impl Source<'_> {
    /// A table that knows the methods that are configured, so that no client's inventions can take
    /// their place.
    fn cluster(&self) -> ClusterTable {
        let config = self.table.config.as_ref();
        let own = |kind| self.registry.grpc(self.slot, self.cluster, kind);
        let grpc = config.map(|_| own(GrpcKind::Grpc));
        let upstream_time = config.is_some_and(|config| config.upstream_time);
        let web = self.table.grpc_web.then(|| own(GrpcKind::GrpcWeb));
        let others = [
            Rc::new(Calls { grpc: grpc.clone(), web: None, upstream_time }),
            Rc::new(Calls { grpc, web, upstream_time }),
        ];
        let methods = std::array::from_fn(|kind| {
            let mut methods = HashMap::new();
            if let Some(GrpcMethods::Listed(services)) = config.map(|config| &config.methods) {
                for (service, names) in services {
                    for name in names {
                        let method = MethodName::new(service, name);
                        methods
                            .insert(method.key.as_ref().into(), self.calls(&method, &others[kind]));
                    }
                }
            }
            methods
        });
        ClusterTable { methods, others, questions: QUESTIONS_MAX }
    }

    /// Whether the method is one that the configuration wants to see by itself.
    fn is_told_apart(&self, method: &MethodName<'_>) -> bool {
        match self.table.config.as_ref().map(|config| &config.methods) {
            None | Some(GrpcMethods::None) => false,
            Some(GrpcMethods::All) => true,
            Some(GrpcMethods::Listed(services)) => services.iter().any(|(service, methods)| {
                **service == *method.service
                    && (methods.is_empty() || methods.iter().any(|known| **known == *method.method))
            }),
        }
    }

    /// The method's own statistics, or for each kind that has no room for it those of `others`.
    fn calls(&self, method: &MethodName<'_>, others: &Rc<Calls>) -> Rc<Calls> {
        let ask = |kind, service: &str, others: &Arc<GrpcCallStats>| {
            let name = (service, method.method);
            let own = self.registry.grpc_method(self.slot, self.cluster, kind, name);
            own.unwrap_or_else(|| Arc::clone(others))
        };
        let grpc = others.grpc.as_ref().map(|others| {
            if !self.is_told_apart(method) {
                return Arc::clone(others);
            }
            match &self.table.config {
                Some(config) if config.replace_dots_in_service_name => {
                    ask(GrpcKind::Grpc, &method.service.replace('.', "_"), others)
                }
                _ => ask(GrpcKind::Grpc, method.service, others),
            }
        });
        // As with Envoy, where the bridge counts every method by itself and knows nothing of dots.
        let web = others.web.as_ref().map(|others| ask(GrpcKind::GrpcWeb, method.service, others));
        Rc::new(Calls { grpc, web, upstream_time: others.upstream_time })
    }
}

/// Service and method of a path.
struct MethodName<'a> {
    service: &'a str,
    method: &'a str,
    /// `service/method`.
    key: Cow<'a, str>,
}

impl<'a> MethodName<'a> {
    /// Reads `/service/method`; as with Envoy, empty segments and the query don't count.
    fn of(path: &'a str) -> Option<Self> {
        let path = path.split('?').next()?;
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        let (service, method) = (segments.next()?, segments.next()?);
        if segments.next().is_some() {
            return None;
        }
        let plain =
            path.strip_prefix('/').filter(|key| key.len() == service.len() + 1 + method.len());
        Some(match plain {
            Some(key) => Self { service, method, key: Cow::Borrowed(key) },
            None => Self::new(service, method),
        })
    }

    fn new(service: &'a str, method: &'a str) -> Self {
        Self { service, method, key: Cow::Owned(format!("{service}/{method}")) }
    }
}

/// Questions to the registry, each of which takes its lock: enough to learn of every method that it
/// has room for, and an end to those of a client that makes names up.
const QUESTIONS_MAX: usize = 2 * METHODS_MAX;

/// Longer names are nobody's, and are not kept.
const NAME_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Value;

    fn table(methods: Option<GrpcMethods>, grpc_web: bool) -> MethodTable {
        let config = methods.map(|methods| GrpcStats {
            methods,
            count_messages: true,
            upstream_time: false,
            replace_dots_in_service_name: false,
        });
        MethodTable::new(config.as_ref(), grpc_web)
    }

    fn call(table: &MethodTable, registry: &Registry, path: &str, is_web: bool) -> bool {
        let calls = table.find_in(registry, 0, "app", path, is_web);
        if let Some(calls) = &calls {
            calls.each(|stats| stats.ended(Some(0)));
        }
        calls.is_some()
    }

    /// Who counted successes, and how many.
    fn successes(registry: &Registry) -> Vec<(String, u64)> {
        let samples = registry.collect().into_iter();
        let named = samples.filter_map(|sample| {
            let name = sample.to_string();
            let counter = name.strip_suffix(".success")?.strip_prefix("cluster.app.")?;
            match sample.value {
                Value::Counter(count) => Some((counter.to_owned(), count)),
                _ => None,
            }
        });
        named.collect()
    }

    fn counted(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
        expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn paths_name_a_service_and_a_method() {
        for (path, expected) in [
            ("/a.B/C", Some(("a.B", "C", "a.B/C"))),
            ("/a.B/C?x=/1", Some(("a.B", "C", "a.B/C"))),
            ("//a.B//C/", Some(("a.B", "C", "a.B/C"))),
            ("a.B/C", Some(("a.B", "C", "a.B/C"))),
            ("/a.B/C/D", None),
            ("/a.B", None),
            ("/", None),
            ("", None),
        ] {
            let name = MethodName::of(path);
            let found = name.as_ref().map(|name| (name.service, name.method, &*name.key));
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn all_methods_count_by_themselves() {
        let registry = Registry::new(1);
        let table = table(Some(GrpcMethods::All), false);
        for path in ["/a.B/C", "//a.B/C/", "/a.B/D", "/none"] {
            assert_eq!(call(&table, &registry, path, false), path != "/none");
        }
        assert_eq!(successes(&registry), counted(&[("grpc.a.B.C", 2), ("grpc.a.B.D", 1)]));
    }

    #[test]
    fn without_individual_methods_all_count_in_one_set() {
        let registry = Registry::new(1);
        let table = table(Some(GrpcMethods::None), false);
        call(&table, &registry, "/a.B/C", false);
        call(&table, &registry, "/a.B/D", false);
        assert_eq!(successes(&registry), counted(&[("grpc", 2)]));
    }

    #[test]
    fn listed_methods_count_by_themselves_whatever_else_is_called() {
        let registry = Registry::new(1);
        let listed = vec![("a.B".into(), vec!["C".into()]), ("all".into(), Vec::new())];
        let table = table(Some(GrpcMethods::Listed(listed)), false);
        for path in ["/a.B/C", "/a.B/D", "/all/X"] {
            assert!(call(&table, &registry, path, false));
        }
        for number in 0..QUESTIONS_MAX {
            table.find_in(&registry, 0, "app", &format!("/made.Up/{number}"), false);
        }
        call(&table, &registry, "/a.B/C", false);
        assert_eq!(
            successes(&registry),
            counted(&[("grpc.a.B.C", 2), ("grpc.all.X", 1), ("grpc", 1)])
        );
    }

    #[test]
    fn calls_of_grpc_web_count_under_both_names() {
        let registry = Registry::new(1);
        let table = table(Some(GrpcMethods::None), true);
        call(&table, &registry, "/a.B/C", true);
        call(&table, &registry, "/a.B/C", false);
        assert_eq!(successes(&registry), counted(&[("grpc-web.a.B.C", 1), ("grpc", 2)]));
        let registry = Registry::new(1);
        let table = self::table(None, true);
        assert!(call(&table, &registry, "/a.B/C", true));
        assert!(!call(&table, &registry, "/a.B/C", false));
        assert_eq!(successes(&registry), counted(&[("grpc-web.a.B.C", 1)]));
    }

    #[test]
    fn dots_of_services_are_replaced_where_that_is_wanted() {
        let registry = Registry::new(1);
        let mut table = table(Some(GrpcMethods::All), false);
        table.config.as_mut().unwrap().replace_dots_in_service_name = true;
        call(&table, &registry, "/a.B/C.d", false);
        assert_eq!(successes(&registry), counted(&[("grpc.a_B.C.d", 1)]));
    }

    #[test]
    fn made_up_methods_take_neither_memory_nor_locks() {
        let registry = Registry::new(1);
        let table = table(Some(GrpcMethods::All), false);
        call(&table, &registry, "/real/First", false);
        for number in 0..3 * METHODS_MAX {
            call(&table, &registry, &format!("/made.Up/{number}"), false);
        }
        call(&table, &registry, &format!("/{}/x", "long".repeat(NAME_BYTES_MAX)), false);
        call(&table, &registry, "/real/First", false);
        call(&table, &registry, "/made.Up/1", false);
        let clusters = table.clusters.borrow();
        assert_eq!(clusters["app"].methods[0].len(), QUESTIONS_MAX);
        assert_eq!(clusters["app"].questions, 0);
        let successes = successes(&registry);
        assert_eq!(successes.len(), METHODS_MAX + 1);
        let of = |name: &str| successes.iter().find(|(known, _)| known == name).map(|(_, n)| *n);
        assert_eq!(of("grpc.real.First"), Some(2));
        assert_eq!(of("grpc.made.Up.1"), Some(2));
        assert_eq!(of("grpc"), Some(2 * METHODS_MAX as u64 + 2));
    }
}
