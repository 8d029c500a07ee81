//! Which records are written (contract section 15).

use std::sync::Arc;

use crate::compile::runtime::Runtime;
use crate::compile::{as_u32, fraction, matcher};
use crate::fault::Found;
use crate::snapshot::Fraction;
use crate::snapshot::log_filter::{Comparison, LogFilter, LogTypeName};
use crate::view::View;

/// AccessLogFilter.
pub(crate) fn compile(view: &View<'_>, runtime: &Runtime) -> Result<LogFilter, Found> {
    let kinds = [
        "status_code_filter",
        "duration_filter",
        "not_health_check_filter",
        "traceable_filter",
        "runtime_filter",
        "and_filter",
        "or_filter",
        "header_filter",
        "response_flag_filter",
        "grpc_status_filter",
        "metadata_filter",
        "log_type_filter",
    ];
    let field = view.required_which("filter_specifier", &kinds)?;
    let Some(inner) = view.message(field) else { return Err(view.required(field)) };
    Ok(match field {
        "status_code_filter" => LogFilter::Status(comparison(&inner, runtime)?),
        "duration_filter" => LogFilter::DurationMs(comparison(&inner, runtime)?),
        "not_health_check_filter" => LogFilter::NotHealthCheck,
        "traceable_filter" => LogFilter::Traceable,
        "runtime_filter" => {
            let share = match inner.message("percent_sampled") {
                Some(share) => fraction(&share)?,
                None => Fraction { numerator: 0, denominator: 100 },
            };
            LogFilter::Share {
                share: runtime.fraction(inner.required_text("runtime_key")?, share),
                is_independent: inner.flag("use_independent_randomness"),
            }
        }
        "and_filter" => LogFilter::All(several(&inner, runtime)?),
        "or_filter" => LogFilter::Any(several(&inner, runtime)?),
        "header_filter" => {
            let Some(header) = inner.message("header") else {
                return Err(inner.required("header"));
            };
            LogFilter::Header(Arc::new(matcher::header(&header)?))
        }
        "response_flag_filter" => {
            let flags = inner.texts("flags");
            for (flag, at) in &flags {
                if !RESPONSE_FLAGS.contains(flag) {
                    let text = format!("{flag:?} is no response flag");
                    return Err(crate::compile::invalid(at.clone(), text));
                }
            }
            LogFilter::Flags(flags.into_iter().map(|(flag, _)| flag.into()).collect())
        }
        "grpc_status_filter" => LogFilter::GrpcStatus {
            statuses: inner
                .choices("statuses")?
                .into_iter()
                .map(|(name, at)| {
                    let status = GRPC_STATUSES.iter().position(|known| *known == name);
                    status.map(|status| status as u32).ok_or_else(|| {
                        crate::compile::invalid(at, format!("{name:?} is no status of gRPC"))
                    })
                })
                .collect::<Result<_, Found>>()?,
            excludes: inner.flag("exclude"),
        },
        // No filter writes metadata, so that no key is ever there.
        "metadata_filter" => {
            LogFilter::Always(inner.wrapped_flag("match_if_key_not_found").unwrap_or(true))
        }
        _ => LogFilter::Type {
            types: inner
                .choices("types")?
                .into_iter()
                .filter_map(|(name, _)| match name.as_str() {
                    "NotSet" => Some(LogTypeName::NotSet),
                    "TcpConnectionEnd" => Some(LogTypeName::TcpConnectionEnd),
                    "DownstreamEnd" => Some(LogTypeName::DownstreamEnd),
                    // Of records that are never written.
                    _ => None,
                })
                .collect(),
            excludes: inner.flag("exclude"),
        },
    })
}

fn several(view: &View<'_>, runtime: &Runtime) -> Result<Box<[LogFilter]>, Found> {
    let filters = view.messages("filters");
    if filters.len() < 2 {
        return Err(view.invalid("filters", "must be at least two"));
    }
    filters.iter().map(|filter| compile(filter, runtime)).collect()
}

fn comparison(view: &View<'_>, runtime: &Runtime) -> Result<Comparison, Found> {
    let Some(comparison) = view.message("comparison") else {
        return Err(view.required("comparison"));
    };
    let Some(value) = comparison.message("value") else { return Err(comparison.required("value")) };
    let told = runtime.get(value.required_text("runtime_key")?);
    let value = told.as_ref().and_then(as_u32).unwrap_or(value.u32("default_value"));
    Ok(match comparison.choice("op")?.as_str() {
        "EQ" => Comparison::Equal(value),
        "GE" => Comparison::AtLeast(value),
        "LE" => Comparison::AtMost(value),
        "NE" => Comparison::Different(value),
        other => return Err(comparison.unsupported("op", other)),
    })
}

/// Those that a filter may name.
const RESPONSE_FLAGS: &[&str] = &[
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC",
    "URX", "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR",
    "UDO",
];

/// By number.
const GRPC_STATUSES: &[&str] = &[
    "OK",
    "CANCELED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
