//! TcpProxy (contract section 4).

use std::time::Duration;

use crate::compile::{Context, access_log, invalid};
use crate::fault::Found;
use crate::snapshot::{TcpProxy, TcpTarget, TcpWeightedCluster};
use crate::view::View;

pub(crate) fn compile(view: &View<'_>, context: &Context<'_>) -> Result<TcpProxy, Found> {
    Ok(TcpProxy {
        stat_prefix: view.required_text("stat_prefix")?.into(),
        target: target(view, context)?,
        idle_timeout: view.timeout("idle_timeout", Some(IDLE_TIMEOUT))?,
        max_downstream_connection_duration: view
            .positive_duration("max_downstream_connection_duration")?,
        max_connect_attempts: view.positive("max_connect_attempts")?.unwrap_or(1),
        access_log: access_log::compile(view, context.runtime)?,
    })
}

fn target(view: &View<'_>, context: &Context<'_>) -> Result<TcpTarget, Found> {
    view.required_which("cluster_specifier", &["cluster", "weighted_clusters"])?;
    let Some(weighted) = view.message("weighted_clusters") else {
        return Ok(TcpTarget::Cluster(context.names.refer(view.required_text("cluster")?)));
    };
    let mut clusters = Vec::new();
    let mut total = 0u64;
    for entry in weighted.messages("clusters") {
        let cluster = context.names.refer(entry.required_text("name")?);
        let weight = entry.u32("weight");
        if weight == 0 {
            return Err(entry.invalid("weight", "must be at least 1"));
        }
        total += u64::from(weight);
        clusters.push(TcpWeightedCluster { cluster, weight });
    }
    let at = weighted.at("clusters");
    match u32::try_from(total) {
        Ok(0) => Err(invalid(at, "must not be empty")),
        Ok(total_weight) => Ok(TcpTarget::Weighted { clusters: clusters.into(), total_weight }),
        Err(_) => Err(invalid(at, format!("weights must add up to at most {}", u32::MAX))),
    }
}

/// Envoy's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
