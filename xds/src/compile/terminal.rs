//! The network filters: the one that a connection ends in, and those in front of it.

use std::sync::Arc;

use crate::compile::{Context, detection, dubbo_proxy, http, istio, rpc, tcp};
use crate::fault::{Found, Problem};
use crate::snapshot::{IstioStats, Terminal};
use crate::view::{Unpacked, View};

/// The last filter of a filter chain: listener.v3.Filter.
pub(crate) fn compile(filter: &View<'_>, context: &Context<'_>) -> Result<Terminal, Found> {
    let unpacked = unpack(filter)?;
    if unpacked.kind() == PROTOCOL_DETECTION {
        let config = unpacked.view(filter.schema());
        return Ok(Terminal::Detect(Arc::new(detection::compile(&config, context)?)));
    }
    owner(&unpacked, filter, context)
}

/// The filters in front of the last. What comes of them: the metrics that connections are counted in.
pub(crate) fn before_last(
    filters: &[View<'_>],
    context: &Context<'_>,
) -> Result<Option<Arc<IstioStats>>, Found> {
    let mut stats = None;
    for filter in filters {
        let unpacked = unpack(filter)?;
        if unpacked.kind() != istio::STATS {
            without_effect(filter, &unpacked, context)?;
        } else if stats.is_some() {
            return Err(filter.fault(Problem::Invalid("is there twice".to_owned())));
        } else {
            stats = Some(Arc::new(istio::stats(&unpacked.view(filter.schema()))?));
        }
    }
    Ok(stats)
}

/// A filter that may stand before the last, and does nothing here.
fn without_effect(
    filter: &View<'_>,
    unpacked: &Unpacked,
    context: &Context<'_>,
) -> Result<(), Found> {
    match unpacked.kind().as_str() {
        METADATA_EXCHANGE => note_metadata_exchange(filter, context),
        HTTP_CONNECTION_MANAGER | TCP_PROXY | RPC_PROXY | DUBBO_PROXY | PROTOCOL_DETECTION => {
            let text = "is a terminal filter and must be the last";
            return Err(filter.fault(Problem::Invalid(text.to_owned())));
        }
        _ => return Err(unpacked.refuse()),
    }
    Ok(())
}

/// TL-02: the exchange is begun by those alone who negotiated its ALPN protocol, and we never do.
pub(crate) fn note_metadata_exchange(filter: &View<'_>, context: &Context<'_>) {
    let reason = "no metadata is exchanged: its ALPN protocol is never negotiated";
    context.notes.ignore(filter.at("typed_config"), reason);
}

/// A filter that a detection chooses: any but another detection.
pub(crate) fn detected(filter: &View<'_>, context: &Context<'_>) -> Result<Terminal, Found> {
    let unpacked = unpack(filter)?;
    if unpacked.kind() == PROTOCOL_DETECTION {
        return Err(filter.invalid("typed_config", "a detection cannot hold another"));
    }
    owner(&unpacked, filter, context)
}

fn unpack(filter: &View<'_>) -> Result<Unpacked, Found> {
    filter.required_text("name")?;
    filter.unpack("typed_config")?.ok_or_else(|| filter.required("typed_config"))
}

/// A filter that serves connections itself.
fn owner(unpacked: &Unpacked, filter: &View<'_>, context: &Context<'_>) -> Result<Terminal, Found> {
    let config = unpacked.view(filter.schema());
    Ok(match unpacked.kind().as_str() {
        HTTP_CONNECTION_MANAGER => Terminal::Http(Arc::new(http::compile(&config, context)?)),
        TCP_PROXY => Terminal::Tcp(Arc::new(tcp::compile(&config, context)?)),
        RPC_PROXY => Terminal::Rpc(Arc::new(rpc::compile(&config, context)?)),
        DUBBO_PROXY => Terminal::Rpc(Arc::new(dubbo_proxy::compile(&config, context)?)),
        _ => return Err(unpacked.refuse()),
    })
}

pub(crate) const METADATA_EXCHANGE: &str = "envoy.tcp.metadataexchange.config.MetadataExchange";
const HTTP_CONNECTION_MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const DUBBO_PROXY: &str = "envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy";
const RPC_PROXY: &str = "outrigger.filters.network.rpc_proxy.v1.RpcProxy";
const PROTOCOL_DETECTION: &str =
    "outrigger.filters.network.protocol_detection.v1.ProtocolDetection";
