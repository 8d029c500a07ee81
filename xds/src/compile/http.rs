//! HttpConnectionManager (contract sections 5 and 13).

use std::sync::Arc;
use std::time::Duration;

use crate::compile::{
    Context, access_log, address, as_u32, config_source, header_text, http_filters, http2, route,
    scopes,
};
use crate::fault::Found;
use crate::snapshot::{
    ClientCertDetails, Codec, EscapedSlashes, ForwardClientCert, Fraction, HeaderCase,
    Http1Options, HttpConnectionManager, HttpLimits, HttpTimeouts, InternalAddresses, OriginRules,
    PathRules, Rds, RequestIdRules, RouteSource, RuntimeFraction, SchemeRule, ServerHeader,
    ServerHeaderMode, StripPort, Tracing, UnderscoreHeaders, Upgrades,
};
use crate::view::View;

pub(crate) fn compile(
    view: &View<'_>,
    context: &Context<'_>,
) -> Result<HttpConnectionManager, Found> {
    let codec = match view.choice("codec_type")?.as_str() {
        "AUTO" => Codec::Auto,
        "HTTP1" => Codec::Http1,
        "HTTP2" => Codec::Http2,
        other => return Err(view.unsupported("codec_type", other)),
    };
    let stat_prefix = view.required_text("stat_prefix")?;
    let (filters, router) = http_filters::compile(view, context)?;
    let limits = limits(view)?;
    let add_user_agent = view.wrapped_flag("add_user_agent").unwrap_or(false);
    Ok(HttpConnectionManager {
        stat_prefix: stat_prefix.into(),
        routes: routes(view, context)?,
        filters,
        router,
        access_log: access_log::compile(view, context.runtime)?,
        timeouts: timeouts(view)?,
        limits,
        tracing: tracing(view, context)?,
        codec,
        http1: http1(view)?,
        http2: http2::options(view, limits.max_request_headers_bytes / 1024, context)?,
        underscore_headers: underscore_headers(view)?,
        server: server(view)?,
        via: header_text(view, "via")?,
        add_user_agent: add_user_agent.then(|| context.node.cluster.as_str().into()),
        service_node: Some(context.node.id.as_str())
            .filter(|id| add_user_agent && !id.is_empty())
            .map(Box::from),
        origin: origin(view)?,
        request_id: request_id(view)?,
        proxy_100_continue: view.flag("proxy_100_continue"),
        upgrades: upgrades(view)?,
        path: path_rules(view)?,
        strip_port: strip_port(view)?,
        strip_trailing_host_dot: view.flag("strip_trailing_host_dot"),
        scheme: scheme(view)?,
        forward_client_cert: forward_client_cert(view)?,
        client_cert_details: client_cert_details(view),
        stream_error_on_invalid_http_message: view
            .wrapped_flag("stream_error_on_invalid_http_message")
            .unwrap_or(false),
    })
}

fn routes(view: &View<'_>, context: &Context<'_>) -> Result<RouteSource, Found> {
    let specifiers = ["route_config", "rds", "scoped_routes"];
    let specifier = view.required_which("route_specifier", &specifiers)?;
    let stat_prefix = view.text("stat_prefix");
    match (specifier, view.message(specifier)) {
        ("route_config", Some(table)) => {
            return Ok(RouteSource::Inline(Arc::new(route::compile(&table, context, true)?)));
        }
        ("scoped_routes", Some(scoped)) => {
            let scoped = scopes::compile(&scoped, context, stat_prefix)?;
            return Ok(RouteSource::Scoped(Arc::new(scoped)));
        }
        _ => {}
    }
    let Some(rds) = view.message("rds") else { return Err(view.required("rds")) };
    let Some(source) = rds.message("config_source") else {
        return Err(rds.required("config_source"));
    };
    let source = config_source::compile(&source, context.sources)?;
    let name = rds.required_text("route_config_name")?;
    Ok(RouteSource::Rds(Rds {
        key: source.place.key(name),
        name: name.into(),
        stat_prefix: stat_prefix.into(),
        source,
    }))
}

/// Shares as percentages, which the runtime may change.
fn tracing(view: &View<'_>, context: &Context<'_>) -> Result<Option<Tracing>, Found> {
    let Some(tracing) = view.message("tracing") else { return Ok(None) };
    let share = |field: &str, key: &str| -> Result<RuntimeFraction, Found> {
        let percent = tracing.percent(field)?.unwrap_or(100.0);
        // Hundredths of a percent, as finely as Envoy draws.
        let configured =
            Fraction { numerator: (percent * 100.0).round() as u32, denominator: 10_000 };
        Ok(context.runtime.fraction(key, configured))
    };
    let random = share("random_sampling", "tracing.random_sampling")?;
    Ok(Some(Tracing {
        client: share("client_sampling", "tracing.client_enabled")?,
        // The one key whose whole numbers are hundredths of a percent.
        random: match context.runtime.get("tracing.random_sampling").as_ref().and_then(as_u32) {
            Some(numerator) => RuntimeFraction::fixed(Fraction {
                numerator: numerator.min(10_000),
                denominator: 10_000,
            }),
            None => random,
        },
        overall: share("overall_sampling", "tracing.global_enabled")?,
    }))
}

fn timeouts(view: &View<'_>) -> Result<HttpTimeouts, Found> {
    let common = view.message("common_http_protocol_options");
    let of_common = |field: &str, default| match &common {
        Some(common) => common.timeout(field, default),
        None => Ok(default),
    };
    let jitter = match &common {
        Some(common) => common.percent("max_connection_duration_jitter")?,
        None => None,
    };
    let stream_idle = view.timeout("stream_idle_timeout", Some(STREAM_IDLE_TIMEOUT))?;
    Ok(HttpTimeouts {
        idle: of_common("idle_timeout", Some(IDLE_TIMEOUT))?,
        max_connection_duration: of_common("max_connection_duration", None)?,
        max_connection_duration_jitter_percent: jitter.unwrap_or(0.0),
        safe_max_connection_duration: view.flag("http1_safe_max_connection_duration"),
        max_stream_duration: of_common("max_stream_duration", None)?,
        stream_idle,
        stream_flush: view.timeout("stream_flush_timeout", stream_idle)?,
        request: view.timeout("request_timeout", None)?,
        request_headers: view.timeout("request_headers_timeout", None)?,
        drain: view.duration("drain_timeout")?.unwrap_or(DRAIN_TIMEOUT),
        delayed_close: view.timeout("delayed_close_timeout", Some(DELAYED_CLOSE_TIMEOUT))?,
    })
}

fn limits(view: &View<'_>) -> Result<HttpLimits, Found> {
    let common = view.message("common_http_protocol_options");
    if let Some(common) = &common {
        common.refuse(&["max_response_headers_kb"])?;
    }
    let kb = view.positive("max_request_headers_kb")?.unwrap_or(REQUEST_HEADERS_KB);
    if kb > HEADERS_KB_MAX {
        return Err(
            view.invalid("max_request_headers_kb", format!("must be at most {HEADERS_KB_MAX}"))
        );
    }
    let count = match &common {
        Some(common) => common.positive("max_headers_count")?,
        None => None,
    };
    Ok(HttpLimits {
        max_requests_per_connection: common
            .and_then(|common| common.wrapped_u32("max_requests_per_connection"))
            .filter(|limit| *limit > 0),
        max_headers_count: count.unwrap_or(HEADERS_COUNT),
        max_request_headers_bytes: kb * 1024,
    })
}

fn http1(view: &View<'_>) -> Result<Http1Options, Found> {
    let Some(options) = view.message("http_protocol_options") else {
        return Ok(Http1Options {
            allow_absolute_url: true,
            accept_http_10: false,
            default_host_for_http_10: None,
            enable_trailers: false,
            header_case: HeaderCase::Lower,
            stream_error_on_invalid_http_message: None,
        });
    };
    Ok(Http1Options {
        allow_absolute_url: options.wrapped_flag("allow_absolute_url").unwrap_or(true),
        accept_http_10: options.flag("accept_http_10"),
        default_host_for_http_10: header_text(&options, "default_host_for_http_10")?,
        enable_trailers: options.flag("enable_trailers"),
        header_case: header_case(&options)?,
        stream_error_on_invalid_http_message: options
            .wrapped_flag("override_stream_error_on_invalid_http_message"),
    })
}

/// Http1ProtocolOptions.header_key_format.
pub(crate) fn header_case(options: &View<'_>) -> Result<HeaderCase, Found> {
    let Some(format) = options.message("header_key_format") else { return Ok(HeaderCase::Lower) };
    let field =
        format.required_which("header_format", &["proper_case_words", "stateful_formatter"])?;
    let Some(formatter) = format.message("stateful_formatter") else {
        return Ok(HeaderCase::ProperCaseWords);
    };
    match formatter.unpack("typed_config")? {
        Some(inner) if inner.kind() == PRESERVE_CASE => Ok(HeaderCase::Preserve),
        Some(inner) => Err(inner.refuse()),
        None => Err(format.required(field)),
    }
}

fn underscore_headers(view: &View<'_>) -> Result<UnderscoreHeaders, Found> {
    let Some(common) = view.message("common_http_protocol_options") else {
        return Ok(UnderscoreHeaders::Allow);
    };
    match common.choice("headers_with_underscores_action")?.as_str() {
        "ALLOW" => Ok(UnderscoreHeaders::Allow),
        "REJECT_REQUEST" => Ok(UnderscoreHeaders::RejectRequest),
        "DROP_HEADER" => Ok(UnderscoreHeaders::DropHeader),
        other => Err(common.unsupported("headers_with_underscores_action", other)),
    }
}

fn server(view: &View<'_>) -> Result<ServerHeader, Found> {
    Ok(ServerHeader {
        name: header_text(view, "server_name")?.unwrap_or_else(|| SERVER_NAME.into()),
        mode: match view.choice("server_header_transformation")?.as_str() {
            "OVERWRITE" => ServerHeaderMode::Overwrite,
            "APPEND_IF_ABSENT" => ServerHeaderMode::AppendIfAbsent,
            "PASS_THROUGH" => ServerHeaderMode::PassThrough,
            other => return Err(view.unsupported("server_header_transformation", other)),
        },
    })
}

fn origin(view: &View<'_>) -> Result<OriginRules, Found> {
    let mut internal = InternalAddresses::default();
    if let Some(config) = view.message("internal_address_config") {
        internal.unix_sockets = config.flag("unix_sockets");
        internal.ranges = config
            .messages("cidr_ranges")
            .iter()
            .map(address::cidr)
            .collect::<Result<_, Found>>()?;
    }
    Ok(OriginRules {
        use_remote_address: view.wrapped_flag("use_remote_address").unwrap_or(false),
        xff_num_trusted_hops: view.u32("xff_num_trusted_hops"),
        skip_xff_append: view.flag("skip_xff_append"),
        append_x_forwarded_port: view.flag("append_x_forwarded_port"),
        ipv4_as_mapped_ipv6: view.flag("represent_ipv4_remote_address_as_ipv4_mapped_ipv6"),
        internal,
    })
}

fn request_id(view: &View<'_>) -> Result<RequestIdRules, Found> {
    let mut pack_trace_reason = true;
    let mut use_for_trace_sampling = true;
    if let Some(extension) = view.message("request_id_extension") {
        let Some(unpacked) = extension.unpack("typed_config")? else {
            return Err(extension.required("typed_config"));
        };
        if unpacked.kind() != UUID_REQUEST_ID {
            return Err(unpacked.refuse());
        }
        let config = unpacked.view(view.schema());
        pack_trace_reason = config.wrapped_flag("pack_trace_reason").unwrap_or(true);
        use_for_trace_sampling =
            config.wrapped_flag("use_request_id_for_trace_sampling").unwrap_or(true);
    }
    Ok(RequestIdRules {
        generate: view.wrapped_flag("generate_request_id").unwrap_or(true),
        preserve_external: view.flag("preserve_external_request_id"),
        always_set_in_response: view.flag("always_set_request_id_in_response"),
        pack_trace_reason,
        use_for_trace_sampling,
    })
}

/// `upgrade_configs` of a connection manager or of a route.
pub(crate) fn upgrades(view: &View<'_>) -> Result<Upgrades, Found> {
    let mut types: Vec<(Box<str>, bool)> = Vec::new();
    for config in view.messages("upgrade_configs") {
        let name = config.required_text("upgrade_type")?.to_ascii_lowercase();
        if types.iter().any(|(known, _)| **known == *name) {
            return Err(config.invalid("upgrade_type", format!("{name:?} is used twice")));
        }
        types.push((name.into(), config.wrapped_flag("enabled").unwrap_or(true)));
    }
    Ok(Upgrades { types: types.into() })
}

fn path_rules(view: &View<'_>) -> Result<PathRules, Found> {
    Ok(PathRules {
        escaped_slashes: match view.choice("path_with_escaped_slashes_action")?.as_str() {
            "IMPLEMENTATION_SPECIFIC_DEFAULT" | "KEEP_UNCHANGED" => EscapedSlashes::KeepUnchanged,
            "REJECT_REQUEST" => EscapedSlashes::RejectRequest,
            "UNESCAPE_AND_REDIRECT" => EscapedSlashes::UnescapeAndRedirect,
            "UNESCAPE_AND_FORWARD" => EscapedSlashes::UnescapeAndForward,
            other => return Err(view.unsupported("path_with_escaped_slashes_action", other)),
        },
        normalize: view.wrapped_flag("normalize_path").unwrap_or(false),
        merge_slashes: view.flag("merge_slashes"),
    })
}

fn strip_port(view: &View<'_>) -> Result<StripPort, Found> {
    match (view.flag("strip_matching_host_port"), view.flag("strip_any_host_port")) {
        (true, true) => {
            Err(view.invalid("strip_any_host_port", "set together with strip_matching_host_port"))
        }
        (true, false) => Ok(StripPort::Matching),
        (false, true) => Ok(StripPort::Any),
        (false, false) => Ok(StripPort::Never),
    }
}

fn scheme(view: &View<'_>) -> Result<SchemeRule, Found> {
    let Some(rule) = view.message("scheme_header_transformation") else {
        return Ok(SchemeRule::FromRequest);
    };
    match rule.optional_text("scheme_to_overwrite") {
        Some(scheme @ ("http" | "https")) => Ok(SchemeRule::Overwrite(scheme.into())),
        Some(_) => Err(rule.invalid("scheme_to_overwrite", "must be http or https")),
        None if rule.flag("match_upstream") => Ok(SchemeRule::MatchUpstream),
        None => Ok(SchemeRule::FromRequest),
    }
}

fn forward_client_cert(view: &View<'_>) -> Result<ForwardClientCert, Found> {
    match view.choice("forward_client_cert_details")?.as_str() {
        "SANITIZE" => Ok(ForwardClientCert::Sanitize),
        "FORWARD_ONLY" => Ok(ForwardClientCert::ForwardOnly),
        "APPEND_FORWARD" => Ok(ForwardClientCert::AppendForward),
        "SANITIZE_SET" => Ok(ForwardClientCert::SanitizeSet),
        "ALWAYS_FORWARD_ONLY" => Ok(ForwardClientCert::AlwaysForward),
        other => Err(view.unsupported("forward_client_cert_details", other)),
    }
}

fn client_cert_details(view: &View<'_>) -> ClientCertDetails {
    let Some(details) = view.message("set_current_client_cert_details") else {
        return ClientCertDetails::default();
    };
    ClientCertDetails {
        subject: details.wrapped_flag("subject").unwrap_or(false),
        cert: details.flag("cert"),
        chain: details.flag("chain"),
        dns: details.flag("dns"),
        uri: details.flag("uri"),
    }
}

const PRESERVE_CASE: &str =
    "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig";
const UUID_REQUEST_ID: &str = "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig";

/// Bound on both directions' `..._headers_kb`.
pub(crate) const HEADERS_KB_MAX: u32 = 8192;

// Envoy's defaults.
const SERVER_NAME: &str = "envoy";
const REQUEST_HEADERS_KB: u32 = 60;
const HEADERS_COUNT: u32 = 100;
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const DELAYED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
