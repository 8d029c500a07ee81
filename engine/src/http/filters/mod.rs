//! Filters that act on requests by themselves, in the order in which the configuration has them.
//!
//! A filter decides when its request is routed, with the request's head at hand, and leaves what is to be
//! done later in [`Filtered`]: a delay, headers of the response, what to count. Invariant: a filter that a
//! route disables does nothing for that route's requests.

mod cors;
mod fault;
mod metrics;
mod peers;
mod tracing;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_codecs::http::Field;
use outrigger_xds::snapshot::{
    AlpnOverrides, FilterOverride, FilterOverrides, HttpConnectionManager, HttpFilterKind, Route,
    RouteFilterConfig, TrafficDirection,
};

use crate::cluster::ClusterRuntime;
use crate::istio::Telemetry;
use crate::shard::Shard;

use super::HttpRuntime;
use super::begin::Request;
use super::head::{FieldWriter, HeadSink};
use super::reply::Reply;

use self::cors::{CorsCall, CorsFilter};
use self::fault::{FaultCall, FaultFilter};
use self::metrics::{MetricsCall, MetricsFilter};
use self::peers::{PeerCall, PeerFilter};
use self::tracing::Naming;

pub use self::peers::WorkloadCache;
pub(super) use self::tracing::{Wish, decide};

/// The filters of one connection manager on one shard.
pub(super) struct Filters {
    list: Box<[Filter]>,
    /// The traffic is that of clients here.
    is_outbound: bool,
}

struct Filter {
    name: Box<str>,
    disabled: bool,
    act: Act,
}

enum Act {
    Cors(CorsFilter),
    Fault(FaultFilter),
    Metrics(MetricsFilter),
    Peers(PeerFilter),
    Alpn(Arc<AlpnOverrides>),
    GrpcWeb,
    GrpcStats,
}

/// What filters made of one request. The memory is kept for the next.
#[derive(Default)]
pub(in crate::http) struct Filtered {
    cors: CorsCall,
    fault: FaultCall,
    naming: Naming,
    /// What is offered upstream in TLS.
    pub(in crate::http) alpn: Option<Arc<AlpnOverrides>>,
    /// What it is counted by.
    pub(in crate::http) metrics: MetricsCall,
    /// Who the two ends are.
    pub(in crate::http) peers: PeerCall,
}

/// A request, as filters are asked about it.
pub(super) struct Ask<'a> {
    pub(super) shard: &'a Rc<Shard>,
    pub(super) request: &'a Request<'a>,
    /// What its route says of filters.
    pub(super) overrides: Option<&'a FilterOverrides>,
    /// Where it goes, if it goes anywhere.
    pub(super) cluster: Option<&'a ClusterRuntime>,
}

impl Ask<'_> {
    /// A header's first value.
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.request.field(name).map(|field| field.value)
    }

    /// A header's value as a decimal number.
    fn number(&self, name: &str) -> Option<u64> {
        std::str::from_utf8(self.header(name)?).ok()?.parse().ok()
    }
}

impl Filters {
    /// The filters of `config`.
    pub(super) fn new(
        shard: &Shard,
        config: &HttpConnectionManager,
        direction: TrafficDirection,
    ) -> Self {
        let filters = config.filters.iter().map(|filter| {
            let act = match &filter.kind {
                HttpFilterKind::Cors => Act::Cors(CorsFilter::new(shard, &config.stat_prefix)),
                HttpFilterKind::Fault(fault) => {
                    Act::Fault(FaultFilter::new(shard, fault, &config.stat_prefix))
                }
                HttpFilterKind::PeerMetadata(exchange) => {
                    Act::Peers(PeerFilter::new(&shard.node, exchange))
                }
                HttpFilterKind::GrpcWeb => Act::GrpcWeb,
                HttpFilterKind::GrpcStats => Act::GrpcStats,
                HttpFilterKind::IstioStats(stats) => {
                    let telemetry = Telemetry::new(shard, stats, direction);
                    Act::Metrics(MetricsFilter { telemetry })
                }
                HttpFilterKind::Alpn(overrides) => Act::Alpn(Arc::clone(overrides)),
            };
            Filter { name: filter.name.clone(), disabled: filter.disabled, act }
        });
        let is_outbound = direction == TrafficDirection::Outbound;
        Self { list: filters.collect(), is_outbound }
    }

    /// Whether a route switches the translation of gRPC-Web off.
    pub(super) fn grpc_web_is_off(&self, overrides: Option<&FilterOverrides>) -> bool {
        self.is_off(overrides, |act| matches!(act, Act::GrpcWeb))
    }

    /// Whether a route switches the statistics of gRPC off.
    pub(super) fn grpc_stats_are_off(&self, overrides: Option<&FilterOverrides>) -> bool {
        self.is_off(overrides, |act| matches!(act, Act::GrpcStats))
    }

    fn is_off(&self, overrides: Option<&FilterOverrides>, which: fn(&Act) -> bool) -> bool {
        let Some(overrides) = overrides.filter(|overrides| !overrides.is_empty()) else {
            return false;
        };
        let named = |filter: &Filter| overrides.get(&filter.name).is_some_and(|own| own.disabled);
        self.list.iter().any(|filter| which(&filter.act) && named(filter))
    }

    /// Asks every filter, until one answers.
    pub(super) fn apply(&self, ask: &Ask<'_>, done: &mut Filtered) -> Result<(), Reply> {
        for filter in &self.list {
            let told = ask.overrides.and_then(|overrides| overrides.get(&filter.name));
            if told.map_or(filter.disabled, |told| told.disabled) {
                continue;
            }
            match &filter.act {
                Act::Cors(cors) => {
                    if let Some(RouteFilterConfig::Cors(policy)) = config(told) {
                        cors.apply(policy, ask, &mut done.cors)?;
                    }
                }
                Act::Fault(fault) => {
                    let own = match config(told) {
                        Some(RouteFilterConfig::Fault(own)) => Some(own),
                        _ => None,
                    };
                    fault.apply(own, ask, &mut done.fault)?;
                }
                Act::Metrics(metrics) => metrics.apply(ask, &mut done.metrics),
                Act::Peers(peers) => peers.apply(ask, &mut done.peers),
                Act::Alpn(overrides) => {
                    let keeps = ask.cluster.is_some_and(|cluster| cluster.config.istio.keep_alpn);
                    done.alpn = Some(Arc::clone(overrides)).filter(|_| !keeps);
                }
                Act::GrpcWeb | Act::GrpcStats => {}
            }
        }
        Ok(())
    }
}

fn config(told: Option<&FilterOverride>) -> Option<&RouteFilterConfig> {
    told?.config.as_ref()
}

impl Filtered {
    /// Forgets everything but the memory.
    pub(super) fn clear(&mut self) {
        let mut cors = std::mem::take(&mut self.cors);
        cors.clear();
        let mut metrics = std::mem::take(&mut self.metrics);
        metrics.clear();
        *self = Self { cors, metrics, ..Self::default() };
    }

    /// How long the request has to wait before it goes on, or is answered.
    pub(super) fn delay(&self) -> Option<Duration> {
        self.fault.delay
    }

    /// Notes what the route calls the request, where that is passed on.
    pub(super) fn name(&mut self, http: &HttpRuntime, route: &Route) {
        if http.config.tracing.is_some() {
            self.naming = Naming::of(route, http.filters.is_outbound);
        }
    }

    // ---- the request -----------------------------------------------------------------------------

    /// Whether a field of the request ends here, or is written anew.
    pub(super) fn drops_from_request(&self, field: &Field<'_>) -> bool {
        self.peers.drops_from_request(field.kind) || self.naming.drops_from_request(field)
    }

    /// Writes what is added to the request.
    pub(super) fn write_request<S: HeadSink>(&self, writer: &mut FieldWriter<'_, S>) {
        self.peers.write_request(writer);
        self.naming.write_request(writer);
    }

    /// A field that is added to the request.
    pub(super) fn request_value(&self, name: &str) -> Option<&[u8]> {
        self.peers.request_value(name)
    }

    // ---- the response ----------------------------------------------------------------------------

    /// Looks at the head that goes downstream.
    pub(super) fn take_response(&mut self, shard: &Shard, fields: &[Field<'_>]) {
        self.peers.take_response(shard, fields);
    }

    /// Whether a field of the response ends here, or is written anew.
    pub(super) fn drops_from_response(&self, field: &Field<'_>) -> bool {
        self.peers.drops_from_response(field.kind)
            || self.naming.drops_from_response(field)
            || self.cors.overwrites(field.name)
    }

    /// Whether header edits of this name come to nothing.
    pub(super) fn overwrites(&self, name: &str) -> bool {
        self.cors.overwrites(name)
    }

    /// Writes what is added to the response, whoever gives it.
    pub(super) fn write_response<S: HeadSink>(&self, writer: &mut FieldWriter<'_, S>) {
        self.peers.write_response(writer);
        self.naming.write_response(writer);
        self.cors.write_response(writer);
    }
}
