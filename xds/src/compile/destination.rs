//! Clusters of type ORIGINAL_DST (contract section 10, `original_dst_lb_config`).

use std::time::Duration;

use crate::compile::{headers, invalid};
use crate::fault::Found;
use crate::snapshot::{DestinationRules, HeaderName};
use crate::view::View;

/// The rules of a cluster of that type; `None`: it is of another.
pub(crate) fn compile(cluster: &View<'_>) -> Result<Option<DestinationRules>, Found> {
    if let Some(extension) = cluster.message("cluster_type") {
        extension.required_text("name")?;
        let Some(unpacked) = extension.unpack("typed_config")? else {
            return Err(extension.required("typed_config"));
        };
        if unpacked.kind() != ORIGINAL_DST {
            return Err(unpacked.refuse());
        }
        cluster.refuse(&["original_dst_lb_config"])?;
        return rules(cluster, Some(&unpacked.view(cluster.schema()))).map(Some);
    }
    let config = cluster.message("original_dst_lb_config");
    if cluster.choice("type")? != "ORIGINAL_DST" {
        return match config {
            Some(_) => {
                let text = "is for clusters of type ORIGINAL_DST";
                Err(cluster.invalid("original_dst_lb_config", text))
            }
            None => Ok(None),
        };
    }
    rules(cluster, config.as_ref()).map(Some)
}

/// OriginalDstLbConfig or OriginalDstCluster, which have the same fields.
fn rules(cluster: &View<'_>, config: Option<&View<'_>>) -> Result<DestinationRules, Found> {
    if cluster.has("load_assignment") {
        let text = "a cluster of type ORIGINAL_DST has no endpoints of its own";
        return Err(cluster.invalid("load_assignment", text));
    }
    let mut rules = DestinationRules {
        header: None,
        port: None,
        cleanup_interval: cluster
            .positive_duration("cleanup_interval")?
            .unwrap_or(CLEANUP_INTERVAL),
    };
    let Some(config) = config else { return Ok(rules) };
    rules.header = match (config.flag("use_http_header"), config.optional_text("http_header_name"))
    {
        (true, Some(name)) => Some(headers::header_name(name, config.at("http_header_name"))?),
        (true, None) => Some(HeaderName::new(HEADER)),
        (false, Some(_)) => {
            return Err(config.invalid("http_header_name", "has no effect without use_http_header"));
        }
        (false, None) => None,
    };
    rules.port = match config.wrapped_u32("upstream_port_override") {
        None => None,
        Some(port) => match u16::try_from(port) {
            Ok(port) if port > 0 => Some(port),
            _ => {
                let at = config.at("upstream_port_override");
                return Err(invalid(at, "must be from 1 to 65535"));
            }
        },
    };
    Ok(rules)
}

const ORIGINAL_DST: &str = "envoy.extensions.clusters.original_dst.v3.OriginalDstCluster";

// Envoy's defaults.
const HEADER: &str = "x-envoy-original-dst-host";
const CLEANUP_INTERVAL: Duration = Duration::from_secs(5);
