//! Who asked whom for what: Istio's standard metrics of requests and connections (xds.md B13).
//!
//! What a request counts in is found by what its labels are made of, without a lock and without making the
//! labels; they are made once for each combination. Invariant: the combinations that a shard remembers,
//! and those that the process tells apart, are bounded whatever peers call themselves.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use hashbrown::HashTable;
use outrigger_codecs::peer_metadata::Workload;
use outrigger_xds::bootstrap::Node;
use outrigger_xds::snapshot::{Cluster, IstioStats, MetricOverride, TrafficDirection};
use serde_json::Value;

use crate::access_log::ResponseFlags;
use crate::shard::Shard;
use crate::stats::IstioMetrics;
use crate::tls::TlsSession;

/// One `istio.stats` filter on one shard.
pub struct Telemetry {
    config: Arc<IstioStats>,
    reporter: Reporter,
    own: Workload,
    /// Metrics with the same labels count together.
    groups: Vec<Group>,
    hasher: RandomState,
    known: RefCell<HashTable<Known>>,
    /// How often the registry may still be asked in vain.
    questions: Cell<u32>,
}

/// Which side of the traffic we are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reporter {
    Source,
    Destination,
}

/// Metrics that have the same labels.
struct Group {
    metrics: u16,
    removed: Vec<Box<str>>,
}

/// Where a request or a connection counts.
pub struct Counted {
    /// Which of the metrics count here.
    metrics: u16,
    cells: Arc<IstioMetrics>,
}

/// What labels are made of.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The other end, as it says itself, or as its endpoint's metadata says.
    pub peer: Option<&'a Rc<Workload>>,
    /// Where it goes.
    pub cluster: Option<&'a Arc<Cluster>>,
    /// Name of its route; may be empty.
    pub route: &'a str,
    /// Whom the client asked for, where that may name a destination; may be empty.
    pub authority: &'a [u8],
    /// TLS with the other end.
    pub tls: Option<&'a TlsSession>,
    /// What is spoken.
    pub protocol: Protocol,
    /// The status; 0 without one, and of connections.
    pub code: u16,
    /// gRPC's status.
    pub grpc_status: Option<u32>,
    /// Why it ended as it did.
    pub flags: ResponseFlags,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// HTTP, but not gRPC.
    Http,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// A metric, as a bit.
#[derive(Clone, Copy)]
pub enum Metric {
    /// `requests_total`
    Requests = 1 << 0,
    /// `request_duration_milliseconds`
    Duration = 1 << 1,
    /// `request_bytes`
    RequestBytes = 1 << 2,
    /// `response_bytes`
    ResponseBytes = 1 << 3,
    /// `request_messages_total`
    RequestMessages = 1 << 4,
    /// `response_messages_total`
    ResponseMessages = 1 << 5,
    /// `tcp_connections_opened_total`
    Opened = 1 << 6,
    /// `tcp_connections_closed_total`
    Closed = 1 << 7,
    /// `tcp_sent_bytes_total`
    Sent = 1 << 8,
    /// `tcp_received_bytes_total`
    Received = 1 << 9,
}

const METRICS: [(&str, Metric); 10] = [
    ("requests_total", Metric::Requests),
    ("request_duration_milliseconds", Metric::Duration),
    ("request_bytes", Metric::RequestBytes),
    ("response_bytes", Metric::ResponseBytes),
    ("request_messages_total", Metric::RequestMessages),
    ("response_messages_total", Metric::ResponseMessages),
    ("tcp_connections_opened_total", Metric::Opened),
    ("tcp_connections_closed_total", Metric::Closed),
    ("tcp_sent_bytes_total", Metric::Sent),
    ("tcp_received_bytes_total", Metric::Received),
];

impl Counted {
    /// Adds to one metric, if it counts here.
    pub fn add(&self, metric: Metric, count: u64) {
        if self.metrics & metric as u16 == 0 {
            return;
        }
        let cells = &*self.cells;
        match metric {
            Metric::Requests => cells.requests_total.add(count),
            Metric::Duration => cells.request_duration_milliseconds.record(count),
            Metric::RequestBytes => cells.request_bytes.record(count),
            Metric::ResponseBytes => cells.response_bytes.record(count),
            Metric::RequestMessages => cells.request_messages_total.add(count),
            Metric::ResponseMessages => cells.response_messages_total.add(count),
            Metric::Opened => cells.tcp_connections_opened_total.add(count),
            Metric::Closed => cells.tcp_connections_closed_total.add(count),
            Metric::Sent => cells.tcp_sent_bytes_total.add(count),
            Metric::Received => cells.tcp_received_bytes_total.add(count),
        }
    }
}

impl Telemetry {
    /// The filter of a listener with this direction of traffic.
    pub fn new(shard: &Shard, config: &Arc<IstioStats>, direction: TrafficDirection) -> Rc<Self> {
        shard.registry.istio_build(istio_version(&shard.node));
        Rc::new(Self::of(&shard.node, config, direction))
    }

    fn of(node: &Node, config: &Arc<IstioStats>, direction: TrafficDirection) -> Self {
        Self {
            reporter: match direction {
                TrafficDirection::Inbound => Reporter::Destination,
                TrafficDirection::Outbound | TrafficDirection::Unspecified => Reporter::Source,
            },
            own: own_workload(node, &[]),
            groups: groups(&config.overrides),
            config: Arc::clone(config),
            hasher: RandomState::default(),
            known: RefCell::default(),
            questions: Cell::new(QUESTIONS_MAX),
        }
    }

    /// Whether what the client asked for may name a destination that is not known otherwise.
    pub fn wants_authority(&self, cluster: Option<&Cluster>) -> bool {
        !self.config.disable_host_header_fallback
            && cluster.is_none_or(|cluster| cluster.istio.service.is_none())
    }

    /// Whether the other end is upstream.
    pub fn is_source(&self) -> bool {
        self.reporter == Reporter::Source
    }

    /// How often connections report, if before their end.
    pub fn reporting_interval(&self) -> Option<std::time::Duration> {
        self.config.tcp_reporting
    }

    /// Where a request or a connection counts. Nothing when there are too many others.
    pub fn find(&self, shard: &Shard, subject: &Subject<'_>) -> Option<Rc<[Counted]>> {
        let hash = hash(&self.hasher, subject);
        let mut known = self.known.borrow_mut();
        if let Some(found) = known.find(hash, |known| known.is(hash, subject)) {
            return Some(Rc::clone(&found.counted));
        }
        let counted = self.ask(shard, subject);
        if counted.is_none() {
            shard.stats.istio_metrics_overflow.inc();
        }
        let counted = counted?;
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        let new = Known::new(hash, subject, &counted);
        known.insert_unique(hash, new, |known| known.hash);
        Some(counted)
    }

    /// Asks the registry, which takes its lock.
    fn ask(&self, shard: &Shard, subject: &Subject<'_>) -> Option<Rc<[Counted]>> {
        if self.questions.get() == 0 {
            return None;
        }
        let labels = self.labels(subject);
        let counted: Option<Rc<[Counted]>> = self
            .groups
            .iter()
            .map(|group| {
                let kept = labels.iter().filter(|(name, _)| !group.removes(name)).cloned();
                let cells = shard.registry.istio(shard.index, &kept.collect())?;
                Some(Counted { metrics: group.metrics, cells })
            })
            .collect();
        if counted.is_none() {
            self.questions.set(self.questions.get() - 1);
        }
        counted
    }

    /// Every label and its value.
    fn labels(&self, subject: &Subject<'_>) -> Vec<(&'static str, Box<str>)> {
        let peer = Side::of_peer(subject);
        let own = Side::of_own(&self.own, subject);
        let (reporter, source, destination) = match self.reporter {
            Reporter::Source => ("source", own, peer),
            Reporter::Destination => ("destination", peer, own),
        };
        let service = self.service(subject);
        let text = |text: &str| -> Box<str> { clipped(text).into() };
        let or = |value: &str, otherwise: &str| -> Box<str> {
            text(if value.is_empty() { otherwise } else { value })
        };
        let unknown = |value: &str| or(value, UNKNOWN);
        let mut flags = subject.flags.short_names().collect::<Vec<_>>().join(",");
        if flags.is_empty() {
            "-".clone_into(&mut flags);
        }
        let no_service = match self.reporter {
            Reporter::Source => UNKNOWN,
            Reporter::Destination => destination.canonical_name,
        };
        let mut labels = vec![
            ("reporter", text(reporter)),
            ("source_workload", unknown(source.name)),
            ("source_canonical_service", unknown(source.canonical_name)),
            ("source_canonical_revision", or(source.canonical_revision, LATEST)),
            ("source_workload_namespace", unknown(source.namespace)),
            ("source_principal", unknown(source.principal)),
            ("source_app", unknown(source.app)),
            ("source_version", unknown(source.version)),
            ("source_cluster", unknown(source.cluster)),
            ("destination_workload", unknown(destination.name)),
            ("destination_workload_namespace", unknown(destination.namespace)),
            ("destination_principal", unknown(destination.principal)),
            ("destination_app", unknown(destination.app)),
            ("destination_version", unknown(destination.version)),
            ("destination_service", or(&service.host, no_service)),
            ("destination_canonical_service", unknown(destination.canonical_name)),
            ("destination_canonical_revision", or(destination.canonical_revision, LATEST)),
            ("destination_service_name", or(&service.name, no_service)),
            ("destination_service_namespace", unknown(destination.namespace)),
            ("destination_cluster", unknown(destination.cluster)),
            ("request_protocol", text(subject.protocol.name())),
        ];
        if subject.protocol != Protocol::Tcp {
            labels.push(("response_code", text(&subject.code.to_string())));
            let status = subject.grpc_status.map(|status| status.to_string());
            labels.push(("grpc_response_status", status.unwrap_or_default().into()));
        }
        labels.push(("response_flags", flags.into()));
        labels.push(("connection_security_policy", text(self.security(subject))));
        labels
    }

    /// The destination, as far as it is a service.
    fn service<'a>(&self, subject: &Subject<'a>) -> ServiceName<'a> {
        let authority = String::from_utf8_lossy(subject.authority);
        let named = |name: &'a str| ServiceName { host: authority.clone(), name: name.into() };
        match (subject.route, subject.cluster) {
            ("block_all", _) => named("BlackHoleCluster"),
            ("allow_any", _) => named("PassthroughCluster"),
            (_, Some(cluster)) if UNNAMED.contains(&&*cluster.name) => named(&cluster.name),
            (_, Some(cluster)) => match &cluster.istio.service {
                Some(service) => ServiceName {
                    host: Cow::Borrowed(&service.host),
                    name: Cow::Borrowed(&service.name),
                },
                None => ServiceName { host: authority.clone(), name: authority },
            },
            (_, None) => ServiceName { host: authority.clone(), name: authority },
        }
    }

    /// Only the side that is asked knows.
    fn security(&self, subject: &Subject<'_>) -> &'static str {
        let (peer, own) = principals(subject.tls);
        match self.reporter {
            Reporter::Source => UNKNOWN,
            Reporter::Destination if !peer.is_empty() && !own.is_empty() => "mutual_tls",
            Reporter::Destination => "none",
        }
    }
}

impl Group {
    fn removes(&self, label: &str) -> bool {
        self.removed.iter().any(|removed| **removed == *label)
    }
}

/// Metrics by the labels that overrides leave them; dropped ones are in none.
fn groups(overrides: &[MetricOverride]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (name, metric) in METRICS {
        let own = || {
            let concerns = |change: &&MetricOverride| {
                change.metric.as_ref().is_none_or(|wanted| **wanted == *name)
            };
            overrides.iter().filter(concerns)
        };
        if own().any(|change| change.drop) {
            continue;
        }
        let mut removed: Vec<Box<str>> =
            own().flat_map(|change| change.tags_to_remove.iter().cloned()).collect();
        removed.sort();
        removed.dedup();
        match groups.iter_mut().find(|group| group.removed == removed) {
            Some(group) => group.metrics |= metric as u16,
            None => groups.push(Group { metrics: metric as u16, removed }),
        }
    }
    groups
}

/// One end, as labels tell of it.
struct Side<'a> {
    name: &'a str,
    canonical_name: &'a str,
    canonical_revision: &'a str,
    namespace: &'a str,
    principal: &'a str,
    app: &'a str,
    version: &'a str,
    cluster: &'a str,
}

impl<'a> Side<'a> {
    fn of_own(own: &'a Workload, subject: &Subject<'a>) -> Self {
        Self::of(Some(own), principals(subject.tls).1)
    }

    fn of_peer(subject: &Subject<'a>) -> Self {
        let principal = principals(subject.tls).0;
        let side = Self::of(subject.peer.map(|peer| &**peer), principal);
        // A certificate is better proof than words.
        match namespace_of(principal) {
            Some(namespace) => Self { namespace, ..side },
            None => side,
        }
    }

    fn of(workload: Option<&'a Workload>, principal: &'a str) -> Self {
        let text = |of: fn(&Workload) -> &String| workload.map_or("", |known| of(known).as_str());
        Self {
            name: text(|known| &known.name),
            canonical_name: text(|known| &known.canonical_name),
            canonical_revision: text(|known| &known.canonical_revision),
            namespace: text(|known| &known.namespace),
            principal,
            app: text(|known| &known.app),
            version: text(|known| &known.version),
            cluster: text(|known| &known.cluster),
        }
    }
}

struct ServiceName<'a> {
    host: Cow<'a, str>,
    name: Cow<'a, str>,
}

/// The identities in the certificates of the other end and of ours; empty where there are none (TL-06).
fn principals(tls: Option<&TlsSession>) -> (&str, &str) {
    let Some(tls) = tls else { return ("", "") };
    let peer = tls.peer.as_ref().and_then(|peer| peer.facts());
    let peer = peer.and_then(|facts| facts.uri_sans.first()).map_or("", |name| name);
    let own = tls.local.as_ref().and_then(|own| own.facts.uri_sans.first());
    (peer, own.map_or("", |name| name))
}

/// `shop` of `spiffe://domain/ns/shop/sa/web`.
fn namespace_of(principal: &str) -> Option<&str> {
    let (_, rest) = principal.split_once("/ns/")?;
    rest.split('/').next().filter(|namespace| !namespace.is_empty())
}

/// Labels are short; what peers say of themselves may not be.
fn clipped(text: &str) -> &str {
    let mut end = text.len().min(LABEL_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A workload as its own proxy's metadata describes it; `labels` are kept beside those that always are.
pub fn own_workload(node: &Node, labels: &[Box<str>]) -> Workload {
    let text = |value: &Value, name: &str| -> String {
        value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let of = |name: &str| text(&node.metadata, name);
    let none = Value::Null;
    let own_labels = node.metadata.get("LABELS").unwrap_or(&none);
    let others = labels.iter().map(|name| (name.to_string(), text(own_labels, name)));
    Workload {
        instance: of("NAME"),
        namespace: of("NAMESPACE"),
        name: of("WORKLOAD_NAME"),
        cluster: of("CLUSTER_ID"),
        canonical_name: text(own_labels, "service.istio.io/canonical-name"),
        canonical_revision: text(own_labels, "service.istio.io/canonical-revision"),
        app: text(own_labels, "app"),
        version: text(own_labels, "version"),
        owner: of("OWNER"),
        labels: others.collect(),
    }
}

fn istio_version(node: &Node) -> &str {
    let version = node.metadata.get("ISTIO_VERSION").and_then(Value::as_str);
    version.filter(|version| !version.is_empty()).unwrap_or(UNKNOWN)
}

// ---- what a shard remembers ------------------------------------------------------------------------

/// A combination that a shard has met, and where it counts.
struct Known {
    hash: u64,
    // Held, so that no other can come to lie in its place while this is remembered.
    peer: Option<Rc<Workload>>,
    cluster: Option<Weak<Cluster>>,
    route: RouteKind,
    authority: Box<[u8]>,
    principals: (Box<str>, Box<str>),
    protocol: Protocol,
    code: u16,
    grpc_status: Option<u32>,
    flags: ResponseFlags,
    counted: Rc<[Counted]>,
}

/// Routes of which the name counts.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum RouteKind {
    BlockAll,
    AllowAny,
    Other,
}

impl RouteKind {
    fn of(name: &str) -> Self {
        match name {
            "block_all" => Self::BlockAll,
            "allow_any" => Self::AllowAny,
            _ => Self::Other,
        }
    }
}

impl Known {
    fn new(hash: u64, subject: &Subject<'_>, counted: &Rc<[Counted]>) -> Self {
        let (peer, own) = principals(subject.tls);
        Self {
            hash,
            peer: subject.peer.cloned(),
            cluster: subject.cluster.map(Arc::downgrade),
            route: RouteKind::of(subject.route),
            authority: subject.authority.into(),
            principals: (peer.into(), own.into()),
            protocol: subject.protocol,
            code: subject.code,
            grpc_status: subject.grpc_status,
            flags: subject.flags,
            counted: Rc::clone(counted),
        }
    }

    fn is(&self, hash: u64, subject: &Subject<'_>) -> bool {
        let (peer, own) = principals(subject.tls);
        self.hash == hash
            && self.peer.as_ref().map(Rc::as_ptr) == subject.peer.map(Rc::as_ptr)
            && self.cluster.as_ref().map(Weak::as_ptr) == subject.cluster.map(Arc::as_ptr)
            && self.route == RouteKind::of(subject.route)
            && *self.authority == *subject.authority
            && (&*self.principals.0, &*self.principals.1) == (peer, own)
            && self.protocol == subject.protocol
            && self.code == subject.code
            && self.grpc_status == subject.grpc_status
            && self.flags == subject.flags
    }
}

fn hash(builder: &RandomState, subject: &Subject<'_>) -> u64 {
    let mut hasher = builder.build_hasher();
    subject.peer.map(Rc::as_ptr).hash(&mut hasher);
    subject.cluster.map(Arc::as_ptr).hash(&mut hasher);
    RouteKind::of(subject.route).hash(&mut hasher);
    subject.authority.hash(&mut hasher);
    principals(subject.tls).hash(&mut hasher);
    (subject.protocol, subject.code, subject.grpc_status, subject.flags).hash(&mut hasher);
    hasher.finish()
}

const UNKNOWN: &str = "unknown";
const LATEST: &str = "latest";

/// Clusters that stand for no service, and are named themselves.
const UNNAMED: [&str; 5] = [
    "BlackHoleCluster",
    "PassthroughCluster",
    "InboundPassthroughCluster",
    "InboundPassthroughClusterIpv4",
    "InboundPassthroughClusterIpv6",
];

/// Combinations that a filter remembers on one shard.
const KNOWN_MAX: usize = 4096;

/// Questions to the registry, each of which takes its lock, that are in vain: then it is full of others.
const QUESTIONS_MAX: u32 = 4096;

/// Longer than any name of Kubernetes.
const LABEL_BYTES_MAX: usize = 256;
