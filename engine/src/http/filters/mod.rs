//! Filters that act on requests by themselves, in the order in which the configuration has them.
//!
//! A filter decides when its request is routed, with the request's head at hand, and leaves what is to be
//! done later in [`Filtered`]: a delay, headers of the response, what to count. Invariant: a filter that a
//! route disables does nothing for that route's requests.

mod cors;
mod fault;
mod live;
mod metrics;
mod peers;
mod tracing;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_codecs::http::Field;
use outrigger_xds::snapshot::{
    AlpnOverrides, ConfigSource, FilterConfig, FilterOverride, FilterOverrides, FilterSource,
    HttpConnectionManager, HttpFilterKind, OnDemand, Route, RouteFilterConfig, Soap,
    TrafficDirection,
};

use crate::access_log::ResponseFlags;
use crate::cluster::ClusterRuntime;
use crate::istio::Telemetry;
use crate::shard::Shard;

use super::HttpRuntime;
use super::grpc::MethodTable;
use super::head::{FieldWriter, HeadSink};
use super::reply::Reply;
use super::request::Request;

use self::cors::{CorsCall, CorsFilter};
use self::fault::{FaultCall, FaultFilter};
use self::metrics::{MetricsCall, MetricsFilter};
use self::peers::{PeerCall, PeerFilter};
use self::tracing::Naming;

pub(super) use self::live::LiveFilters;
pub use self::peers::WorkloadCache;
pub(super) use self::tracing::{Wish, decide};

/// The filters of one connection manager on one shard.
pub(super) struct Filters {
    list: Box<[Filter]>,
    /// gRPC-Web is translated to gRPC.
    pub(super) grpc_web: bool,
    /// Whose gRPC methods count where.
    pub(super) grpc_methods: MethodTable,
    /// What SOAP requests ask for is found out; `None`: they are requests like others.
    pub(super) soap: Option<Soap>,
    /// Requests wait for what they need and is asked for on demand.
    pub(super) on_demand: bool,
    /// What servers say of each filter of the configuration.
    found: Found,
}

/// One for each filter; nothing for those that do not come by name, or are not there.
type Found = Box<[Option<Arc<FilterConfig>>]>;

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
    Soap,
    OnDemand(OnDemand),
    /// Its configuration is to come by name, and is not there.
    Missing,
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

impl Act {
    fn new(
        shard: &Shard,
        kind: &HttpFilterKind,
        stat_prefix: &str,
        direction: TrafficDirection,
    ) -> Self {
        match kind {
            HttpFilterKind::Cors => Self::Cors(CorsFilter::new(shard, stat_prefix)),
            HttpFilterKind::Fault(fault) => {
                Self::Fault(FaultFilter::new(shard, fault, stat_prefix))
            }
            HttpFilterKind::PeerMetadata(exchange) => {
                Self::Peers(PeerFilter::new(&shard.node, exchange))
            }
            HttpFilterKind::IstioStats(stats) => {
                let telemetry = Telemetry::new(shard, stats, direction);
                Self::Metrics(MetricsFilter { telemetry })
            }
            HttpFilterKind::Alpn(overrides) => Self::Alpn(Arc::clone(overrides)),
            HttpFilterKind::GrpcWeb => Self::GrpcWeb,
            HttpFilterKind::GrpcStats(_) => Self::GrpcStats,
            HttpFilterKind::Soap(_) => Self::Soap,
            HttpFilterKind::OnDemand(config) => Self::OnDemand(config.clone()),
        }
    }
}

impl Filters {
    /// The filters of `config`, with what was `found` of those that come by name.
    fn new(
        shard: &Shard,
        config: &HttpConnectionManager,
        direction: TrafficDirection,
        found: Found,
    ) -> Self {
        let kinds = config.filters.iter().zip(&found).map(|(filter, found)| match &filter.config {
            FilterSource::Inline(kind) => (filter, Some(kind)),
            FilterSource::Discovered(discovery) => (filter, discovery.http(found.as_deref())),
        });
        let kinds: Vec<_> = kinds.collect();
        let acting = || kinds.iter().filter(|(filter, _)| !filter.disabled);
        let acting = || acting().filter_map(|(_, kind)| *kind);
        let grpc_web = acting().any(|kind| matches!(kind, HttpFilterKind::GrpcWeb));
        let grpc_stats = acting().find_map(|kind| match kind {
            HttpFilterKind::GrpcStats(stats) => Some(&**stats),
            _ => None,
        });
        let soap = acting().find_map(|kind| match kind {
            HttpFilterKind::Soap(soap) => Some(*soap),
            _ => None,
        });
        let on_demand = acting().any(|kind| matches!(kind, HttpFilterKind::OnDemand(_)));
        let list = kinds.iter().map(|(filter, kind)| Filter {
            name: filter.name.clone(),
            disabled: filter.disabled,
            act: kind
                .map_or(Act::Missing, |kind| Act::new(shard, kind, &config.stat_prefix, direction)),
        });
        Self {
            list: list.collect(),
            grpc_web,
            grpc_methods: MethodTable::new(grpc_stats, grpc_web),
            soap,
            on_demand,
            found,
        }
    }

    /// Whether a route switches the translation of gRPC-Web off.
    pub(super) fn grpc_web_is_off(&self, overrides: Option<&FilterOverrides>) -> bool {
        self.is_off(overrides, |act| matches!(act, Act::GrpcWeb))
    }

    /// Whether a route switches the statistics of gRPC off.
    pub(super) fn grpc_stats_are_off(&self, overrides: Option<&FilterOverrides>) -> bool {
        self.is_off(overrides, |act| matches!(act, Act::GrpcStats))
    }

    /// Whom to ask for a cluster that a route names and that is not there.
    pub(super) fn clusters_on_demand<'a>(
        &'a self,
        overrides: &'a FilterOverrides,
    ) -> Option<&'a Arc<ConfigSource>> {
        self.list.iter().find_map(|filter| {
            let Act::OnDemand(own) = &filter.act else { return None };
            let told = overrides.get(&filter.name);
            if told.map_or(filter.disabled, |told| told.disabled) {
                return None;
            }
            match config(told) {
                Some(RouteFilterConfig::OnDemand(told)) => told.clusters.as_ref(),
                _ => own.clusters.as_ref(),
            }
        })
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
                Act::GrpcWeb | Act::GrpcStats | Act::Soap | Act::OnDemand(_) => {}
                // What it was to guard is not served without it.
                Act::Missing => {
                    let flags = ResponseFlags::NO_FILTER_CONFIG_FOUND;
                    return Err(Reply::text(500, "", flags, "filter_config_not_found"));
                }
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
        let Self { cors, fault, naming, alpn, metrics, peers } = self;
        cors.clear();
        metrics.clear();
        *fault = FaultCall::default();
        *naming = Naming::default();
        *alpn = None;
        *peers = PeerCall::default();
    }

    /// How long the request has to wait before it goes on, or is answered.
    pub(super) fn delay(&self) -> Option<Duration> {
        self.fault.delay
    }

    /// Notes what the route calls the request, where that is passed on.
    pub(super) fn name(&mut self, http: &HttpRuntime, route: &Route) {
        if http.config.tracing.is_some() {
            self.naming = Naming::of(route, http.is_outbound);
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
