//! Filters of Istio's own (xds.md B9), which come as TypedStructs.

use std::time::Duration;

use crate::compile::{Context, invalid};
use crate::fault::{Found, Problem};
use crate::snapshot::{AlpnOverrides, IstioStats, MetricOverride, PeerMetadata, Propagation};
use crate::view::View;

pub(crate) const PEER_METADATA: &str = "io.istio.http.peer_metadata.Config";
pub(crate) const ALPN: &str = "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig";
pub(crate) const STATS: &str = "stats.PluginConfig";

/// `istio.metadata_exchange`.
pub(crate) fn peer_metadata(view: &View<'_>, context: &Context<'_>) -> Result<PeerMetadata, Found> {
    Ok(PeerMetadata {
        downstream_discovery: discovers(view, "downstream_discovery", context)?,
        upstream_discovery: discovers(view, "upstream_discovery", context)?,
        downstream_propagation: propagation(view, "downstream_propagation")?,
        upstream_propagation: propagation(view, "upstream_propagation")?,
        additional_labels: view
            .texts("additional_labels")
            .into_iter()
            .map(|(label, _)| label.into())
            .collect(),
    })
}

/// Whether peers are learned of by headers.
fn discovers(view: &View<'_>, field: &str, context: &Context<'_>) -> Result<bool, Found> {
    let mut by_headers = false;
    for method in view.messages(field) {
        let kinds = ["istio_headers", "workload_discovery", "baggage"];
        match method.required_which("method_specifier", &kinds)? {
            "istio_headers" => by_headers = true,
            "workload_discovery" => {
                let text = "there is no workload discovery: peers that do not say who they are \
                            stay unknown";
                context.notes.ignore(method.at("workload_discovery"), text);
            }
            other => return Err(Found::new(method.at(other), Problem::NotSupported)),
        }
    }
    Ok(by_headers)
}

fn propagation(view: &View<'_>, field: &str) -> Result<Option<Propagation>, Found> {
    let mut propagation = None;
    for method in view.messages(field) {
        method.required_which("method_specifier", &["istio_headers"])?;
        let skips = method.message("istio_headers");
        propagation = Some(Propagation {
            skip_external_clusters: skips.is_some_and(|view| view.flag("skip_external_clusters")),
        });
    }
    Ok(propagation)
}

/// `istio.alpn`.
pub(crate) fn alpn(view: &View<'_>) -> Result<AlpnOverrides, Found> {
    let mut overrides = AlpnOverrides::default();
    for entry in view.messages("alpn_override") {
        let protocols =
            entry.texts("alpn_override").into_iter().map(|(protocol, at)| match protocol.len() {
                1..=255 => Ok(protocol.as_bytes().into()),
                _ => Err(invalid(at, "must be 1 to 255 bytes long")),
            });
        let protocols = protocols.collect::<Result<_, Found>>()?;
        match entry.choice("upstream_protocol")?.as_str() {
            // Upstreams are never spoken to in HTTP/1.0.
            "HTTP10" => drop::<Box<[Box<[u8]>]>>(protocols),
            "HTTP11" => overrides.http11 = protocols,
            "HTTP2" => overrides.http2 = protocols,
            other => return Err(entry.unsupported("upstream_protocol", other)),
        }
    }
    Ok(overrides)
}

/// `istio.stats`.
pub(crate) fn stats(view: &View<'_>) -> Result<IstioStats, Found> {
    match view.choice("reporter")?.as_str() {
        "UNSPECIFIED" => {}
        other => return Err(view.unsupported("reporter", other)),
    }
    let overrides = view.messages("metrics").into_iter().map(|metric| {
        let removed = metric.texts("tags_to_remove").into_iter().map(|(tag, _)| tag.into());
        MetricOverride {
            metric: metric.optional_text("name").map(Box::from),
            drop: metric.flag("drop"),
            tags_to_remove: removed.collect(),
        }
    });
    Ok(IstioStats {
        disable_host_header_fallback: view.flag("disable_host_header_fallback"),
        tcp_reporting: view.timeout("tcp_reporting_duration", Some(TCP_REPORTING))?,
        overrides: overrides.collect(),
    })
}

/// Istio's default.
const TCP_REPORTING: Duration = Duration::from_secs(5);
