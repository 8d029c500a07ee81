//! CORS policies (contract section 19), as typed filter configuration or in the deprecated fields.

use crate::compile::{Context, header_text, matcher, runtime_fraction};
use crate::fault::Found;
use crate::snapshot::{CorsPolicy, Fraction, RuntimeFraction};
use crate::view::View;

pub(crate) const CORS: &str = "envoy.extensions.filters.http.cors.v3.Cors";
pub(crate) const CORS_POLICY: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
/// The name under which Envoy looks for the deprecated fields' policy.
pub(crate) const CORS_NAME: &str = "envoy.filters.http.cors";

/// CorsPolicy, of either package.
pub(crate) fn compile(view: &View<'_>, context: &Context<'_>) -> Result<CorsPolicy, Found> {
    let origins = view.messages("allow_origin_string_match");
    let text = |field: &str| header_text(view, field).map(Option::unwrap_or_default);
    let share = |field: &str, default: Fraction| match view.message(field) {
        Some(fraction) => runtime_fraction(&fraction, context),
        None => Ok(RuntimeFraction::fixed(default)),
    };
    Ok(CorsPolicy {
        allow_origins: origins.iter().map(matcher::string).collect::<Result<_, Found>>()?,
        allow_methods: text("allow_methods")?,
        allow_headers: text("allow_headers")?,
        expose_headers: text("expose_headers")?,
        max_age: text("max_age")?,
        allow_credentials: view.wrapped_flag("allow_credentials").unwrap_or(false),
        allow_private_network: view.wrapped_flag("allow_private_network_access").unwrap_or(false),
        enabled: share("filter_enabled", Fraction::ALL)?,
        shadow: share("shadow_enabled", Fraction { numerator: 0, denominator: 100 })?,
        forward_not_matching_preflights: view
            .wrapped_flag("forward_not_matching_preflights")
            .unwrap_or(true),
    })
}
