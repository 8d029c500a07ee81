//! Retry policies (contract section 9.1), of routes and virtual hosts.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::compile::headers::header_name;
use crate::compile::{Context, invalid, matcher};
use crate::fault::Found;
use crate::snapshot::{AvoidHosts, BackOff, RateLimitedBackOff, ResetFormat, RetryOn, RetryPolicy};
use crate::view::View;

/// RetryPolicy.
pub(crate) fn compile(view: &View<'_>, context: &Context<'_>) -> Result<RetryPolicy, Found> {
    let (on, known) = RetryOn::list(view.text("retry_on"));
    if !known {
        context.notes.advise(view.at("retry_on"), "holds conditions that do not exist");
    }
    let status_codes = view.u32s("retriable_status_codes").into_iter().map(|(code, at)| {
        u16::try_from(code)
            .ok()
            .filter(|code| (100..600).contains(code))
            .ok_or_else(|| invalid(at, "must be from 100 to 599"))
    });
    let headers = |field: &str| -> Result<_, Found> {
        view.messages(field).iter().map(matcher::header).collect()
    };
    Ok(RetryPolicy {
        on,
        num_retries: view.wrapped_u32("num_retries").unwrap_or(1),
        // Zero is the route's timeout here, as with Envoy.
        per_try_timeout: view.timeout("per_try_timeout", None)?,
        per_try_idle_timeout: view.timeout("per_try_idle_timeout", None)?,
        status_codes: status_codes.collect::<Result<_, Found>>()?,
        headers: headers("retriable_headers")?,
        request_headers: headers("retriable_request_headers")?,
        back_off: back_off(view)?,
        rate_limited: rate_limited(view)?,
        avoid: avoid(view)?,
        previous_priorities: previous_priorities(view)?,
        host_attempts: match view.i64("host_selection_retry_max_attempts") {
            0 => 1,
            attempts => u32::try_from(attempts).map_err(|_| {
                view.invalid("host_selection_retry_max_attempts", "must not be negative")
            })?,
        },
    })
}

fn back_off(view: &View<'_>) -> Result<BackOff, Found> {
    let Some(configured) = view.message("retry_back_off") else { return Ok(BACK_OFF) };
    let Some(base) = configured.positive_duration("base_interval")? else {
        return Err(configured.required("base_interval"));
    };
    let max = configured.positive_duration("max_interval")?.unwrap_or(base.saturating_mul(10));
    if max < base {
        return Err(configured.invalid("max_interval", "must not be below base_interval"));
    }
    Ok(BackOff { base, max })
}

fn rate_limited(view: &View<'_>) -> Result<Option<RateLimitedBackOff>, Found> {
    let Some(configured) = view.message("rate_limited_retry_back_off") else { return Ok(None) };
    let headers = configured.messages("reset_headers");
    if headers.is_empty() {
        return Err(configured.required("reset_headers"));
    }
    let headers = headers.iter().map(|header| {
        let format = match header.choice("format")?.as_str() {
            "SECONDS" => ResetFormat::Seconds,
            "UNIX_TIMESTAMP" => ResetFormat::UnixTimestamp,
            other => return Err(header.unsupported("format", other)),
        };
        Ok((header_name(header.required_text("name")?, header.at("name"))?, format))
    });
    Ok(Some(RateLimitedBackOff {
        reset_headers: headers.collect::<Result<_, Found>>()?,
        max: configured.positive_duration("max_interval")?.unwrap_or(RATE_LIMITED_MAX),
    }))
}

fn avoid(view: &View<'_>) -> Result<AvoidHosts, Found> {
    let mut avoid = AvoidHosts::default();
    for predicate in view.messages("retry_host_predicate") {
        predicate.required_text("name")?;
        let Some(unpacked) = predicate.unpack("typed_config")? else { continue };
        let config = unpacked.view(view.schema());
        match unpacked.kind().as_str() {
            PREVIOUS_HOSTS => avoid.previous = true,
            OMIT_CANARY_HOSTS => avoid.canary = true,
            OMIT_HOST_METADATA => {
                let wanted = config.message("metadata_match").and_then(|found| {
                    let structs = found.entries("filter_metadata");
                    let (_, lb) = structs.into_iter().find(|(name, _)| name == "envoy.lb")?;
                    match lb.own_json() {
                        Some(serde_json::Value::Object(members)) => Some(members),
                        _ => None,
                    }
                });
                avoid.metadata = Some(wanted.unwrap_or_default());
            }
            _ => return Err(unpacked.refuse()),
        }
    }
    Ok(avoid)
}

/// After how many tries the priorities that they went to are passed over.
fn previous_priorities(view: &View<'_>) -> Result<Option<NonZeroU32>, Found> {
    let Some(priority) = view.message("retry_priority") else { return Ok(None) };
    priority.required_text("name")?;
    let Some(unpacked) = priority.unpack("typed_config")? else { return Ok(None) };
    if unpacked.kind() != PREVIOUS_PRIORITIES {
        return Err(unpacked.refuse());
    }
    let config = unpacked.view(view.schema());
    let tries = u32::try_from(config.i32("update_frequency")).ok().and_then(NonZeroU32::new);
    match tries {
        Some(tries) => Ok(Some(tries)),
        None => Err(config.invalid("update_frequency", "must be above zero")),
    }
}

const PREVIOUS_HOSTS: &str = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
const OMIT_CANARY_HOSTS: &str =
    "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate";
const OMIT_HOST_METADATA: &str =
    "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig";
const PREVIOUS_PRIORITIES: &str =
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig";

// Envoy's defaults.
const BACK_OFF: BackOff =
    BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) };
const RATE_LIMITED_MAX: Duration = Duration::from_secs(300);
