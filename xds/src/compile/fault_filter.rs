//! Injected faults (contract section 19): HTTPFault, of a listener or of a route.

use std::time::Duration;

use crate::compile::{Context, as_u32, fraction, matcher};
use crate::fault::Found;
use crate::snapshot::{
    Fault, FaultAbort, FaultAbortWith, FaultDelay, FaultDelayBy, Fraction, RuntimeFraction,
};
use crate::view::View;

pub(crate) const HTTP_FAULT: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";

/// HTTPFault. Empty, it does nothing: Istio puts such a one on listeners, for routes to configure.
pub(crate) fn compile(view: &View<'_>, context: &Context<'_>) -> Result<Fault, Found> {
    let keys = Keys { view, context };
    let delay = match view.message("delay") {
        Some(delay) => self::delay(&delay, &keys)?,
        None => None,
    };
    let abort = match view.message("abort") {
        Some(abort) => Some(self::abort(&abort, &keys)?),
        None => None,
    };
    let headers = view.messages("headers");
    let nodes = view.texts("downstream_nodes").into_iter().map(|(node, _)| node.into());
    let max_active = keys.number("max_active_faults_runtime", "fault.http.max_active_faults");
    Ok(Fault {
        delay,
        abort,
        upstream_cluster: view.optional_text("upstream_cluster").map(Box::from),
        headers: headers.iter().map(matcher::header).collect::<Result<_, Found>>()?,
        downstream_nodes: nodes.collect(),
        max_active: max_active.or(view.wrapped_u32("max_active_faults")),
    })
}

fn delay(view: &View<'_>, keys: &Keys<'_>) -> Result<Option<FaultDelay>, Found> {
    let field = view.required_which("fault_delay_secifier", &["fixed_delay", "header_delay"])?;
    let by = match field {
        "header_delay" => FaultDelayBy::Header,
        field => {
            let Some(fixed) = view.positive_duration(field)? else {
                return Err(view.required(field));
            };
            let ms = keys.number("delay_duration_runtime", "fault.http.delay.fixed_duration_ms");
            FaultDelayBy::Fixed(ms.map_or(fixed, |ms| Duration::from_millis(ms.into())))
        }
    };
    let key = ("delay_percent_runtime", "fault.http.delay.fixed_delay_percent");
    let fraction = keys.fraction(view, key)?;
    // A delay of nothing is none.
    Ok(Some(FaultDelay { by, fraction })
        .filter(|delay| delay.by != FaultDelayBy::Fixed(Duration::ZERO)))
}

fn abort(view: &View<'_>, keys: &Keys<'_>) -> Result<FaultAbort, Found> {
    let kinds = ["http_status", "grpc_status", "header_abort"];
    let with = match view.required_which("error_type", &kinds)? {
        "http_status" => {
            let is_status = |status: &u32| (200..600).contains(status);
            let Some(fixed) = Some(view.u32("http_status")).filter(is_status) else {
                return Err(view.invalid("http_status", "must be from 200 to 599"));
            };
            let told = keys.number("abort_http_status_runtime", "fault.http.abort.http_status");
            FaultAbortWith::Http(told.filter(is_status).unwrap_or(fixed) as u16)
        }
        "grpc_status" => {
            let told = keys.number("abort_grpc_status_runtime", "fault.http.abort.grpc_status");
            FaultAbortWith::Grpc(told.unwrap_or(view.u32("grpc_status")))
        }
        _ => FaultAbortWith::Header,
    };
    let key = ("abort_percent_runtime", "fault.http.abort.abort_percent");
    Ok(FaultAbort { with, fraction: keys.fraction(view, key)? })
}

/// What the runtime says in place of the configuration: under a key that the configuration names, or the
/// one that Envoy has for it.
struct Keys<'a> {
    view: &'a View<'a>,
    context: &'a Context<'a>,
}

impl Keys<'_> {
    fn named<'b>(&'b self, field: &str, key: &'b str) -> &'b str {
        self.view.optional_text(field).unwrap_or(key)
    }

    fn number(&self, field: &str, key: &str) -> Option<u32> {
        self.context.runtime.get(self.named(field, key)).as_ref().and_then(as_u32)
    }

    /// `percentage`; without one, nothing.
    fn fraction(
        &self,
        view: &View<'_>,
        (field, key): (&str, &str),
    ) -> Result<RuntimeFraction, Found> {
        let configured = match view.message("percentage") {
            Some(percentage) => fraction(&percentage)?,
            None => Fraction { numerator: 0, denominator: 100 },
        };
        Ok(self.context.runtime.fraction(self.named(field, key), configured))
    }
}
