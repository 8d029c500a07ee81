//! `typed_per_filter_config` (contract section 6): what routes, virtual hosts and tables say of filters.

use std::sync::Arc;

use crate::compile::{Context, cors, fault_filter, on_demand};
use crate::fault::{Found, Problem};
use crate::snapshot::{FilterOverride, FilterOverrides, RouteFilterConfig};
use crate::view::{Unpacked, View};

/// What `view` says, before what `above`, the next less specific level, says.
pub(crate) fn compile(
    view: &View<'_>,
    above: &FilterOverrides,
    context: &Context<'_>,
) -> Result<FilterOverrides, Found> {
    let mut own = Vec::new();
    for (name, extension) in view.entries("typed_per_filter_config") {
        if let Some((disabled, config)) = one(&extension, context)? {
            own.push(FilterOverride { name: name.into(), disabled, config });
        }
    }
    Ok(above.under(own))
}

/// As [`compile`], with the deprecated `cors` field, which the typed configuration beats.
pub(crate) fn compile_with_cors(
    view: &View<'_>,
    policy: Option<&View<'_>>,
    above: &FilterOverrides,
    context: &Context<'_>,
) -> Result<FilterOverrides, Found> {
    let Some(policy) = policy else { return compile(view, above, context) };
    let config = RouteFilterConfig::Cors(Arc::new(cors::compile(policy, context)?));
    let deprecated =
        FilterOverride { name: cors::CORS_NAME.into(), disabled: false, config: Some(config) };
    compile(view, &above.under(vec![deprecated]), context)
}

/// Whether a filter is disabled, and its configuration. Nothing for an optional extension that is not
/// known.
fn one(
    extension: &View<'_>,
    context: &Context<'_>,
) -> Result<Option<(bool, Option<RouteFilterConfig>)>, Found> {
    let Some(unpacked) = extension.unpack_self()? else { return Ok(None) };
    if unpacked.kind() != FILTER_CONFIG {
        return Ok(Some((false, Some(config(&unpacked, extension, context)?))));
    }
    let wrapper = unpacked.view(extension.schema());
    if wrapper.flag("disabled") {
        return Ok(Some((true, None)));
    }
    if !wrapper.has("config") {
        return Err(wrapper.required("config"));
    }
    match wrapper.unpack("config")? {
        Some(inner) => Ok(Some((false, Some(config(&inner, extension, context)?)))),
        None => Ok(None),
    }
}

fn config(
    unpacked: &Unpacked,
    extension: &View<'_>,
    context: &Context<'_>,
) -> Result<RouteFilterConfig, Found> {
    let view = unpacked.view(extension.schema());
    Ok(match unpacked.kind().as_str() {
        fault_filter::HTTP_FAULT => {
            RouteFilterConfig::Fault(Arc::new(fault_filter::compile(&view, context)?))
        }
        cors::CORS_POLICY => RouteFilterConfig::Cors(Arc::new(cors::compile(&view, context)?)),
        on_demand::PER_ROUTE => RouteFilterConfig::OnDemand(on_demand::compile(&view, context)?),
        _ => return Err(view.fault(Problem::Invalid(NOT_BY_ROUTES.to_owned()))),
    })
}

const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";
const NOT_BY_ROUTES: &str = "routes cannot configure this filter";
