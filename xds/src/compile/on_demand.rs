//! `envoy.filters.http.on_demand` (contract section 19; xds.md D-17).

use std::sync::Arc;
use std::time::Duration;

use crate::compile::{Context, config_source};
use crate::fault::Found;
use crate::snapshot::OnDemand;
use crate::view::View;

/// OnDemand, or PerRouteConfig, which says the same.
pub(crate) fn compile(view: &View<'_>, context: &Context<'_>) -> Result<OnDemand, Found> {
    let Some(clusters) = view.message("odcds") else { return Ok(OnDemand::default()) };
    let Some(source) = clusters.message("source") else {
        return Err(clusters.required("source"));
    };
    let mut source = config_source::compile(&source, context.sources)?;
    if !context.sources.is_delta(&source.place) {
        let text = "clusters on demand come by DELTA_GRPC only";
        return Err(clusters.invalid("source", text));
    }
    let timeout = clusters.positive_duration("timeout")?.unwrap_or(TIMEOUT);
    source.initial_fetch_timeout = Some(timeout);
    Ok(OnDemand { clusters: Some(Arc::new(source)) })
}

/// The filter's type.
pub(crate) const ON_DEMAND: &str = "envoy.extensions.filters.http.on_demand.v3.OnDemand";
/// What routes say of it.
pub(crate) const PER_ROUTE: &str = "envoy.extensions.filters.http.on_demand.v3.PerRouteConfig";

const TIMEOUT: Duration = Duration::from_secs(5);
