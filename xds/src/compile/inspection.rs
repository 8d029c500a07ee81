//! Listener filters: what is found out before a filter chain is chosen (contract section 2).

use std::time::Duration;

use crate::compile::{Context, invalid};
use crate::fault::{Found, Problem};
use crate::snapshot::{
    FilterChainMatch, HttpInspector, Inspection, OriginalDst, OriginalSrc, PortPredicate,
    ProxyProtocol, TlsInspector,
};
use crate::view::View;

/// `matches` are those of the listener's filter chains.
///
/// The order of the filters says nothing. Of the two inspectors, what is TLS is not HTTP, and both
/// only look; predicates are about the destination that the client meant (L-04), wherever it is
/// restored.
pub(crate) fn compile(
    listener: &View<'_>,
    matches: &[FilterChainMatch],
    context: &Context<'_>,
) -> Result<Inspection, Found> {
    let timeout = listener.timeout("listener_filters_timeout", Some(TIMEOUT))?;
    let mut inspection = Inspection {
        timeout,
        continue_on_timeout: listener.flag("continue_on_listener_filters_timeout"),
        ..Inspection::default()
    };
    for filter in listener.messages("listener_filters") {
        filter.required_text("name")?;
        let Some(unpacked) = filter.unpack("typed_config")? else {
            return Err(filter.required("typed_config"));
        };
        let disabled = match filter.message("filter_disabled") {
            Some(predicate) => Some(port_predicate(&predicate)?),
            None => None,
        };
        let twice = match unpacked.kind().as_str() {
            TLS_INSPECTOR => {
                let config = unpacked.view(listener.schema());
                inspection.tls.replace(tls_inspector(&config, disabled)?).is_some()
            }
            HTTP_INSPECTOR => inspection.http.replace(HttpInspector { disabled }).is_some(),
            ORIGINAL_DST => inspection.original_dst.replace(OriginalDst { disabled }).is_some(),
            PROXY_PROTOCOL => {
                let config = unpacked.view(listener.schema());
                inspection.proxy_protocol.replace(proxy_protocol(&config, disabled)?).is_some()
            }
            ORIGINAL_SRC => {
                let config = unpacked.view(listener.schema());
                config.refuse(&["bind_port"])?;
                let original_src = OriginalSrc { mark: config.u32("mark"), disabled };
                inspection.original_src.replace(original_src).is_some()
            }
            _ => return Err(unpacked.refuse()),
        };
        if twice {
            return Err(filter.fault(Problem::Invalid("is there twice".to_owned())));
        }
    }
    if hands_over(listener) && inspection.original_dst.is_none() {
        // As Envoy does.
        inspection.original_dst = Some(OriginalDst { disabled: None });
    }
    if inspection.tls.is_none()
        && let Some(chain) = matches.iter().position(asks_for_tls)
    {
        // As Envoy does: without it such a chain could never be chosen.
        context.notes.advise(
            listener.at("filter_chains").index(chain).field("filter_chain_match"),
            "needs the TLS inspector, which is therefore added to listener_filters",
        );
        inspection.tls = Some(TlsInspector {
            max_client_hello_bytes: CLIENT_HELLO_BYTES_MAX,
            close_on_parse_error: false,
            disabled: None,
        });
    }
    Ok(inspection)
}

/// Whether connections go to the listener whose address they were meant for.
pub(crate) fn hands_over(listener: &View<'_>) -> bool {
    listener.wrapped_flag("use_original_dst").unwrap_or(false)
}

/// Whether only a TLS inspector can make `criteria` match.
fn asks_for_tls(criteria: &FilterChainMatch) -> bool {
    match criteria.transport_protocol.as_deref() {
        Some(protocol) => protocol == "tls",
        None => !criteria.server_names.is_empty() || !criteria.application_protocols.is_empty(),
    }
}

fn proxy_protocol(
    view: &View<'_>,
    disabled: Option<PortPredicate>,
) -> Result<ProxyProtocol, Found> {
    let mut filter = ProxyProtocol {
        allow_absent: view.flag("allow_requests_without_proxy_protocol"),
        v1: true,
        v2: true,
        disabled,
    };
    for (version, _) in view.choices("disallowed_versions")? {
        match version.as_str() {
            "V1" => filter.v1 = false,
            _ => filter.v2 = false,
        }
    }
    if !filter.v1 && !filter.v2 {
        return Err(view.invalid("disallowed_versions", "must leave one"));
    }
    Ok(filter)
}

fn tls_inspector(view: &View<'_>, disabled: Option<PortPredicate>) -> Result<TlsInspector, Found> {
    // Only how much is read at first, and we look at what has arrived, however much that is.
    if let Some(bytes) = view.wrapped_u32("initial_read_buffer_size")
        && !(CLIENT_HELLO_BYTES_MIN..=READ_BUFFER_BYTES_MAX).contains(&bytes)
    {
        let text = format!("must be from {CLIENT_HELLO_BYTES_MIN} to {READ_BUFFER_BYTES_MAX}");
        return Err(view.invalid("initial_read_buffer_size", text));
    }
    let max_client_hello_bytes =
        view.wrapped_u32("max_client_hello_size").unwrap_or(CLIENT_HELLO_BYTES_MAX);
    if !(CLIENT_HELLO_BYTES_MIN..=CLIENT_HELLO_BYTES_MAX).contains(&max_client_hello_bytes) {
        let text = format!("must be from {CLIENT_HELLO_BYTES_MIN} to {CLIENT_HELLO_BYTES_MAX}");
        return Err(view.invalid("max_client_hello_size", text));
    }
    for field in ["enable_ja3_fingerprinting", "enable_ja4_fingerprinting"] {
        if view.wrapped_flag(field) == Some(true) {
            return Err(Found::new(view.at(field), Problem::NotSupported));
        }
    }
    Ok(TlsInspector {
        max_client_hello_bytes,
        close_on_parse_error: view.flag("close_connection_on_client_hello_parsing_errors"),
        disabled,
    })
}

/// ListenerFilterChainMatchPredicate.
fn port_predicate(view: &View<'_>) -> Result<PortPredicate, Found> {
    let rules = ["or_match", "and_match", "not_match", "any_match", "destination_port_range"];
    let rule = view.required_which("rule", &rules)?;
    let Some(inner) = view.message(rule) else {
        return if view.flag("any_match") {
            Ok(PortPredicate::Any)
        } else {
            Err(view.invalid("any_match", "must be true"))
        };
    };
    match rule {
        "not_match" => Ok(PortPredicate::Not(Box::new(port_predicate(&inner)?))),
        "destination_port_range" => {
            let (start, end) = (inner.i32("start"), inner.i32("end"));
            match (u32::try_from(start), u32::try_from(end)) {
                (Ok(start), Ok(end)) if start < end => Ok(PortPredicate::Range(start, end)),
                _ => Err(invalid(view.at(rule), "must be ports, start below end")),
            }
        }
        _ => {
            let rules = inner.messages("rules");
            if rules.len() < 2 {
                return Err(inner.invalid("rules", "must be at least two"));
            }
            let rules = rules.iter().map(port_predicate).collect::<Result<_, Found>>()?;
            Ok(if rule == "or_match" {
                PortPredicate::Or(rules)
            } else {
                PortPredicate::And(rules)
            })
        }
    }
}

const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const ORIGINAL_DST: &str = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
const ORIGINAL_SRC: &str = "envoy.extensions.filters.listener.original_src.v3.OriginalSrc";
const PROXY_PROTOCOL: &str = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
const HTTP_INSPECTOR: &str = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";

// Envoy's defaults and bounds.
const TIMEOUT: Duration = Duration::from_secs(15);
const CLIENT_HELLO_BYTES_MIN: u32 = 256;
const CLIENT_HELLO_BYTES_MAX: u32 = 16 * 1024;
const READ_BUFFER_BYTES_MAX: u32 = 64 * 1024;
