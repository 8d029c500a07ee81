//! The network filters: the one that a connection ends in, and those in front of it.

use std::mem::replace;
use std::sync::Arc;

use crate::compile::{Context, detection, discovery, dubbo_proxy, http, istio, rpc, tcp};
use crate::fault::{Found, Problem, Trail};
use crate::mapping::Schema;
use crate::snapshot::{FilterDiscovery, FilterPlace, IstioStats, NetworkFilter, Terminal};
use crate::view::{Unpacked, View};

/// What comes of the last filter.
pub(crate) struct Last {
    /// What it is, as far as that is known.
    pub(crate) terminal: Terminal,
    /// Where it comes from, if by name.
    pub(crate) discovered: Option<Arc<FilterDiscovery>>,
}

/// The last filter of a filter chain: listener.v3.Filter.
pub(crate) fn last(filter: &View<'_>, context: &Context<'_>) -> Result<Last, Found> {
    if filter.has("config_discovery") {
        return by_name(filter, FilterPlace::Terminal, context);
    }
    Ok(Last { terminal: of(&unpack(filter)?, filter.schema(), context)?, discovered: None })
}

fn by_name(filter: &View<'_>, place: FilterPlace, context: &Context<'_>) -> Result<Last, Found> {
    let wanted = discovery::compile(filter, place, false, context)?;
    let terminal = wanted.as_ref().and_then(|wanted| wanted.terminal(None)).cloned();
    Ok(Last { terminal: terminal.unwrap_or(Terminal::Missing), discovered: wanted.map(Arc::new) })
}

/// A filter that may be the last, whose configuration is there.
pub(crate) fn of(
    unpacked: &Unpacked,
    schema: &Schema,
    context: &Context<'_>,
) -> Result<Terminal, Found> {
    if unpacked.kind() == PROTOCOL_DETECTION {
        let config = unpacked.view(schema);
        return Ok(Terminal::Detect(Arc::new(detection::compile(&config, context)?)));
    }
    owner(unpacked, schema, context)
}

/// What comes of the filters in front of the last.
#[derive(Default)]
pub(crate) struct Front {
    /// The metrics that connections are counted in.
    pub(crate) istio_stats: Option<Arc<IstioStats>>,
    /// Those that come by name.
    pub(crate) discovered: Vec<Arc<FilterDiscovery>>,
}

/// The filters in front of the last.
pub(crate) fn before_last(filters: &[View<'_>], context: &Context<'_>) -> Result<Front, Found> {
    let mut front = Front::default();
    let mut counts = false;
    for filter in filters {
        let found = if filter.has("config_discovery") {
            let discovery = discovery::compile(filter, FilterPlace::Network, false, context)?;
            let Some(discovery) = discovery else { continue };
            let default = discovery.network(None).cloned();
            front.discovered.push(Arc::new(discovery));
            default
        } else {
            let unpacked = unpack(filter)?;
            if is_last(&unpacked.kind()) {
                let text = "is a terminal filter and must be the last";
                return Err(filter.fault(Problem::Invalid(text.to_owned())));
            }
            let found = in_front(&unpacked, filter.at("typed_config"), filter.schema(), context)?;
            if let NetworkFilter::IstioStats(stats) = &found {
                front.istio_stats = Some(Arc::clone(stats));
            }
            Some(found)
        };
        if matches!(found, Some(NetworkFilter::IstioStats(_))) && replace(&mut counts, true) {
            return Err(filter.fault(Problem::Invalid("is there twice".to_owned())));
        }
    }
    Ok(front)
}

/// A filter that may stand before the last, whose configuration is there.
pub(crate) fn in_front(
    unpacked: &Unpacked,
    at: Trail,
    schema: &Schema,
    context: &Context<'_>,
) -> Result<NetworkFilter, Found> {
    match unpacked.kind().as_str() {
        METADATA_EXCHANGE => {
            note_metadata_exchange(at, context);
            Ok(NetworkFilter::MetadataExchange)
        }
        istio::STATS => {
            Ok(NetworkFilter::IstioStats(Arc::new(istio::stats(&unpacked.view(schema))?)))
        }
        _ => Err(unpacked.refuse()),
    }
}

/// Whether filters of a type, by its full name, are the last of a chain, and nothing else.
pub(crate) fn is_last(kind: &str) -> bool {
    LAST.contains(&kind)
}

/// TL-02: the exchange is begun by those alone who negotiated its ALPN protocol, and we never do.
pub(crate) fn note_metadata_exchange(at: Trail, context: &Context<'_>) {
    context.notes.ignore(at, "no metadata is exchanged: its ALPN protocol is never negotiated");
}

/// A filter that a detection chooses: any but another detection.
pub(crate) fn detected(filter: &View<'_>, context: &Context<'_>) -> Result<Last, Found> {
    if filter.has("config_discovery") {
        return by_name(filter, FilterPlace::Choice, context);
    }
    let unpacked = unpack(filter)?;
    if unpacked.kind() == PROTOCOL_DETECTION {
        return Err(filter.invalid("typed_config", "a detection cannot hold another"));
    }
    Ok(Last { terminal: owner(&unpacked, filter.schema(), context)?, discovered: None })
}

fn unpack(filter: &View<'_>) -> Result<Unpacked, Found> {
    filter.required_text("name")?;
    filter.unpack("typed_config")?.ok_or_else(|| filter.required("typed_config"))
}

/// A filter that serves connections itself.
fn owner(unpacked: &Unpacked, schema: &Schema, context: &Context<'_>) -> Result<Terminal, Found> {
    let config = unpacked.view(schema);
    Ok(match unpacked.kind().as_str() {
        HTTP_CONNECTION_MANAGER => Terminal::Http(Arc::new(http::compile(&config, context)?)),
        TCP_PROXY => Terminal::Tcp(Arc::new(tcp::compile(&config, context)?)),
        RPC_PROXY => Terminal::Rpc(Arc::new(rpc::compile(&config, context)?)),
        DUBBO_PROXY => Terminal::Rpc(Arc::new(dubbo_proxy::compile(&config, context)?)),
        _ => return Err(unpacked.refuse()),
    })
}

/// The types of those that may be the last.
pub(crate) const LAST: [&str; 5] =
    [HTTP_CONNECTION_MANAGER, TCP_PROXY, RPC_PROXY, DUBBO_PROXY, PROTOCOL_DETECTION];

/// Those of them that a detection may choose.
pub(crate) const OWNERS: [&str; 4] = [HTTP_CONNECTION_MANAGER, TCP_PROXY, RPC_PROXY, DUBBO_PROXY];

pub(crate) const METADATA_EXCHANGE: &str = "envoy.tcp.metadataexchange.config.MetadataExchange";
const HTTP_CONNECTION_MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const DUBBO_PROXY: &str = "envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy";
const RPC_PROXY: &str = "outrigger.filters.network.rpc_proxy.v1.RpcProxy";
const PROTOCOL_DETECTION: &str =
    "outrigger.filters.network.protocol_detection.v1.ProtocolDetection";
