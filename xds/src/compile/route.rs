//! Route configurations (contract sections 6 to 8).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::compile::headers::{Level, flatten, header_name};
use crate::compile::weights::{self, Weighted};
use crate::compile::{
    Context, config_source, filter_overrides, format, header_text, http, invalid, matcher, retry,
    runtime_fraction,
};
use crate::fault::{Found, Problem};
use crate::snapshot::{
    ClientCertificateMatcher, ClusterRef, ConfigPlace, ConfigSource, Decorator, DirectResponse,
    FilterOverrides, Forward, GrpcTimeout, HeaderEdits, HeaderName, HostRewrite, PathMatcher,
    PathRewrite, Redirect, RedirectPath, RequireTls, RetryPolicy, Route, RouteAction, RouteId,
    RouteMatcher, RouteTable, Target, Variant, VirtualHost, WeightedCluster, WeightedClusters,
};
use crate::view::View;

/// Compiles a RouteConfiguration. `inline`: it is part of a listener, whose clusters must exist unless
/// it says otherwise (W-02).
pub(crate) fn compile(
    view: &View<'_>,
    context: &Context<'_>,
    inline: bool,
) -> Result<RouteTable, Found> {
    if inline && view.has("vhds") {
        return Err(view.invalid("vhds", "is for routes that come by RDS"));
    }
    let ignores_port = view.flag("ignore_port_in_host_matching");
    RouteTable::new(view.text("name"), hosts(view, context, inline)?, ignores_port)
        .map_err(|error| invalid(view.at("virtual_hosts"), error.to_string()))
}

/// The virtual hosts of a RouteConfiguration.
fn hosts(view: &View<'_>, context: &Context<'_>, inline: bool) -> Result<Vec<VirtualHost>, Found> {
    let table = Table::compile(view, context, inline)?;
    let mut hosts: Vec<VirtualHost> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for host in view.messages("virtual_hosts") {
        let name = host.required_text("name")?;
        if !names.insert(name) {
            return Err(host.invalid("name", format!("{name:?} is used twice")));
        }
        hosts.push(table.virtual_host(&host)?);
    }
    Ok(hosts)
}

/// A VirtualHost that came by itself (VHDS), for the RouteConfiguration `table`.
pub(crate) fn host(
    view: &View<'_>,
    table: &View<'_>,
    context: &Context<'_>,
) -> Result<VirtualHost, Found> {
    view.required_text("name")?;
    let host = Table::compile(table, context, false)?.virtual_host(view)?;
    RouteTable::new("", vec![host.clone()], false)
        .map_err(|error| invalid(view.at("domains"), error.to_string()))?;
    Ok(host)
}

/// Whom to ask for further virtual hosts of a RouteConfiguration; `ads`: how the aggregated stream is
/// spoken.
pub(crate) fn vhds(
    view: &View<'_>,
    context: &Context<'_>,
    ads: Option<Variant>,
) -> Result<Option<ConfigSource>, Found> {
    let Some(vhds) = view.message("vhds") else { return Ok(None) };
    let Some(source) = vhds.message("config_source") else {
        return Err(vhds.required("config_source"));
    };
    let source = config_source::compile(&source, context.sources)?;
    let variant = match &source.place {
        ConfigPlace::Ads => ads,
        ConfigPlace::Api(api) => Some(api.variant),
        ConfigPlace::Path(_) => None,
    };
    match variant {
        Some(Variant::Delta) => Ok(Some(source)),
        _ => Err(vhds.invalid("config_source", "virtual hosts come by DELTA_GRPC only")),
    }
}

/// What every route of a table needs of it.
struct Table<'a> {
    context: &'a Context<'a>,
    level: Level,
    filters: FilterOverrides,
    most_specific_wins: bool,
    validate_clusters: bool,
    body_bytes_max: usize,
}

/// What every route of a virtual host needs of it.
struct Host<'a> {
    table: &'a Table<'a>,
    level: Level,
    filters: FilterOverrides,
    retry: Option<Arc<RetryPolicy>>,
    body_buffer_bytes: Option<u64>,
    name: Arc<str>,
    include_request_attempt_count: bool,
    include_attempt_count_in_response: bool,
}

impl<'a> Table<'a> {
    fn compile(
        view: &View<'_>,
        context: &'a Context<'a>,
        inline: bool,
    ) -> Result<Table<'a>, Found> {
        Ok(Table {
            context,
            level: Level::compile(view)?,
            filters: filter_overrides::compile(view, &FilterOverrides::default(), context)?,
            most_specific_wins: view.flag("most_specific_header_mutations_wins"),
            validate_clusters: view.wrapped_flag("validate_clusters").unwrap_or(inline),
            body_bytes_max: view
                .wrapped_u32("max_direct_response_body_size_bytes")
                .unwrap_or(DIRECT_RESPONSE_BYTES) as usize,
        })
    }

    fn virtual_host(&self, view: &View<'_>) -> Result<VirtualHost, Found> {
        let host = Host {
            table: self,
            level: Level::compile(view)?,
            filters: filter_overrides::compile_with_cors(
                view,
                view.message("cors").as_ref(),
                &self.filters,
                self.context,
            )?,
            retry: retry_policy(view, self.context)?,
            body_buffer_bytes: body_buffer_bytes(view),
            name: Arc::from(view.text("name")),
            include_request_attempt_count: view.flag("include_request_attempt_count"),
            include_attempt_count_in_response: view.flag("include_attempt_count_in_response"),
        };
        let mut domains = Vec::new();
        for (domain, at) in view.texts("domains") {
            if domain.is_empty() || domain.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
                return Err(invalid(at, "is not a domain"));
            }
            domains.push(domain.to_ascii_lowercase().into());
        }
        if domains.is_empty() {
            return Err(view.required("domains"));
        }
        Ok(VirtualHost {
            name: host.name.clone(),
            domains,
            require_tls: match view.choice("require_tls")?.as_str() {
                "NONE" => RequireTls::None,
                "EXTERNAL_ONLY" => RequireTls::ExternalOnly,
                "ALL" => RequireTls::All,
                other => return Err(view.unsupported("require_tls", other)),
            },
            routes: host.routes(&view.messages("routes"))?,
        })
    }
}

impl Host<'_> {
    fn routes(&self, views: &[View<'_>]) -> Result<Vec<Route>, Found> {
        // Exactly as many: a route takes more than a kilobyte, and most hosts have one.
        let mut routes = Vec::with_capacity(views.len());
        for view in views {
            routes.push(self.route(view)?);
        }
        Ok(routes)
    }

    fn route(&self, view: &View<'_>) -> Result<Route, Found> {
        let Some(criteria) = view.message("match") else { return Err(view.required("match")) };
        let level = Level::compile(view)?;
        let (request_headers, response_headers) = self.edits(&level, None);
        let cors = view.message("route").and_then(|action| action.message("cors"));
        let context = self.table.context;
        let filters =
            filter_overrides::compile_with_cors(view, cors.as_ref(), &self.filters, context)?;
        Ok(Route {
            // The table numbers its routes.
            id: RouteId::default(),
            name: view.text("name").into(),
            virtual_host: self.name.clone(),
            matcher: route_matcher(&criteria, self.table.context)?,
            action: self.action(view, &level, &filters)?,
            request_headers,
            response_headers,
            include_request_attempt_count: self.include_request_attempt_count,
            include_attempt_count_in_response: self.include_attempt_count_in_response,
            stat_prefix: view.optional_text("stat_prefix").map(Box::from),
            filters,
            body_buffer_bytes: body_buffer_bytes(view).or(self.body_buffer_bytes),
            decorator: decorator(view)?.map(Arc::new),
            metadata: view.metadata(),
        })
    }

    /// Edits in the order in which they apply: the weighted cluster's always come first.
    fn edits(&self, route: &Level, weighted: Option<&Level>) -> (HeaderEdits, HeaderEdits) {
        let mut levels: Vec<&Level> = weighted.into_iter().collect();
        if self.table.most_specific_wins {
            levels.extend([&self.table.level, &self.level, route]);
        } else {
            levels.extend([route, &self.level, &self.table.level]);
        }
        flatten(&levels)
    }

    fn action(
        &self,
        view: &View<'_>,
        level: &Level,
        filters: &FilterOverrides,
    ) -> Result<RouteAction, Found> {
        let actions = ["route", "redirect", "direct_response", "non_forwarding_action"];
        let field = view.required_which("action", &actions)?;
        let Some(action) = view.message(field) else { return Err(view.required(field)) };
        Ok(match field {
            "route" => RouteAction::Forward(Box::new(self.forward(&action, level, filters)?)),
            "redirect" => RouteAction::Redirect(Box::new(redirect(&action)?)),
            "direct_response" => {
                RouteAction::DirectResponse(Box::new(self.direct_response(&action)?))
            }
            _ => RouteAction::NonForwarding,
        })
    }

    fn forward(
        &self,
        view: &View<'_>,
        level: &Level,
        filters: &FilterOverrides,
    ) -> Result<Forward, Found> {
        let field = view.required_which(
            "cluster_specifier",
            &["cluster", "cluster_header", "weighted_clusters"],
        )?;
        let target = match (field, view.message("weighted_clusters")) {
            ("cluster", _) => Target::Cluster(self.cluster(view, field)?),
            ("cluster_header", _) => {
                let name = view.required_text(field)?;
                Target::Header(header_name(name, view.at(field))?)
            }
            (_, Some(weighted)) => Target::Weighted(self.weighted(&weighted, level, filters)?),
            (field, None) => return Err(view.required(field)),
        };
        let terminate_connect = terminates_connect(view)?;
        let max_stream_duration = match view.message("max_stream_duration") {
            Some(limits) => optional_timeout(&limits, "max_stream_duration")?,
            None => None,
        };
        Ok(Forward {
            target,
            cluster_not_found_status: match view.choice("cluster_not_found_response_code")?.as_str()
            {
                "SERVICE_UNAVAILABLE" => 503,
                "NOT_FOUND" => 404,
                "INTERNAL_SERVER_ERROR" => 500,
                other => return Err(view.unsupported("cluster_not_found_response_code", other)),
            },
            path_rewrite: path_rewrite(view)?,
            host_rewrite: host_rewrite(view)?,
            append_x_forwarded_host: view.flag("append_x_forwarded_host"),
            timeout: view.timeout("timeout", Some(ROUTE_TIMEOUT))?,
            idle_timeout: optional_timeout(view, "idle_timeout")?,
            max_stream_duration,
            grpc_timeout: grpc_timeout(view, self.table.context)?,
            // The route's replaces the virtual host's as a whole.
            retry: retry_policy(view, self.table.context)?.or_else(|| self.retry.clone()),
            upgrades: http::upgrades(view)?,
            terminate_connect,
        })
    }

    /// A cluster by name, which must exist if the table says so.
    fn cluster(&self, view: &View<'_>, field: &str) -> Result<ClusterRef, Found> {
        let name = view.required_text(field)?;
        if self.table.validate_clusters && !(self.table.context.has_cluster)(name) {
            return Err(view.invalid(field, format!("there is no cluster {name:?}")));
        }
        Ok(self.table.context.names.refer(name))
    }

    fn weighted(
        &self,
        view: &View<'_>,
        route: &Level,
        filters: &FilterOverrides,
    ) -> Result<WeightedClusters, Found> {
        let mut clusters = Vec::new();
        let mut sums = Vec::new();
        for Weighted { view: entry, weight, sum } in weights::compile(view, self.table.context)? {
            let target = match (entry.optional_text("name"), entry.optional_text("cluster_header"))
            {
                (Some(_), None) => Ok(self.cluster(&entry, "name")?),
                (None, Some(name)) => Err(header_name(name, entry.at("cluster_header"))?),
                (Some(_), Some(_)) => {
                    return Err(entry.invalid("cluster_header", "set together with name"));
                }
                (None, None) => return Err(entry.required("name")),
            };
            let level = Level::compile(&entry)?;
            let (request_headers, response_headers) = self.edits(route, Some(&level));
            sums.push(sum);
            clusters.push(WeightedCluster {
                target,
                weight,
                host_rewrite: header_text(&entry, "host_rewrite_literal")?,
                request_headers,
                response_headers,
                filters: filter_overrides::compile(&entry, filters, self.table.context)?,
            });
        }
        Ok(WeightedClusters {
            clusters: clusters.into(),
            sums: sums.into(),
            random_header: optional_header(view, "header_name")?,
        })
    }

    fn direct_response(&self, view: &View<'_>) -> Result<DirectResponse, Found> {
        let status = u16::try_from(view.u32("status"))
            .ok()
            .filter(|status| (200..600).contains(status))
            .ok_or_else(|| view.invalid("status", "must be from 200 to 599"))?;
        let body = match view.message("body") {
            Some(source) => data_source(&source, self.table.body_bytes_max)?,
            None => Bytes::new(),
        };
        Ok(DirectResponse { status, body })
    }
}

/// `retry_policy` and `hedge_policy` of a route action or a virtual host.
fn retry_policy(view: &View<'_>, context: &Context<'_>) -> Result<Option<Arc<RetryPolicy>>, Found> {
    if let Some(hedge) = view.message("hedge_policy") {
        let initial = hedge.wrapped_u32("initial_requests").unwrap_or(1);
        if initial != 1 {
            return Err(hedge.unsupported("initial_requests", &initial.to_string()));
        }
        let chance = hedge.message("additional_request_chance");
        if chance.is_some_and(|chance| chance.u32("numerator") > 0) {
            return Err(hedge.unsupported("additional_request_chance", "above zero"));
        }
        if hedge.flag("hedge_on_per_try_timeout") {
            return Err(hedge.unsupported("hedge_on_per_try_timeout", "true"));
        }
    }
    let policy = view.message("retry_policy");
    policy.map(|policy| retry::compile(&policy, context).map(Arc::new)).transpose()
}

/// The newer field beats the older one.
fn body_buffer_bytes(view: &View<'_>) -> Option<u64> {
    let older = view.wrapped_u32("per_request_buffer_limit_bytes").map(u64::from);
    view.wrapped_u64("request_body_buffer_limit").or(older)
}

fn decorator(view: &View<'_>) -> Result<Option<Decorator>, Found> {
    let Some(decorator) = view.message("decorator") else { return Ok(None) };
    let Some(operation) = header_text(&decorator, "operation")? else {
        return Err(decorator.required("operation"));
    };
    Ok(Some(Decorator {
        operation,
        propagate: decorator.wrapped_flag("propagate").unwrap_or(true),
    }))
}

fn route_matcher(view: &View<'_>, context: &Context<'_>) -> Result<RouteMatcher, Found> {
    let headers = view.messages("headers");
    let query = view.messages("query_parameters");
    Ok(RouteMatcher {
        path: path_matcher(view)?,
        headers: headers.iter().map(matcher::header).collect::<Result<_, Found>>()?,
        query: query.iter().map(matcher::query).collect::<Result<_, Found>>()?,
        grpc: view.has("grpc"),
        client_certificate: client_certificate(view),
        fraction: view
            .message("runtime_fraction")
            .map(|fraction| runtime_fraction(&fraction, context))
            .transpose()?,
    })
}

fn path_matcher(view: &View<'_>) -> Result<PathMatcher, Found> {
    let specifiers = ["prefix", "path", "safe_regex", "connect_matcher", "path_separated_prefix"];
    let field = view.required_which("path_specifier", &specifiers)?;
    let case_sensitive = view.wrapped_flag("case_sensitive").unwrap_or(true);
    let text = || -> Box<[u8]> { view.text(field).as_bytes().into() };
    Ok(match field {
        "prefix" => PathMatcher::Prefix { text: text(), case_sensitive },
        "path" => PathMatcher::Exact { text: text(), case_sensitive },
        "path_separated_prefix" => {
            let prefix = view.required_text(field)?;
            if prefix.ends_with('/') || prefix.contains(['?', '#']) {
                return Err(view.invalid(field, "must not end in '/' nor hold '?' or '#'"));
            }
            PathMatcher::SeparatedPrefix { text: text(), case_sensitive }
        }
        "connect_matcher" => PathMatcher::Connect,
        _ => match view.message(field) {
            Some(regex) => PathMatcher::Regex(matcher::pattern(&regex)?),
            None => return Err(view.required(field)),
        },
    })
}

/// `tls_context`.
fn client_certificate(view: &View<'_>) -> ClientCertificateMatcher {
    let criteria = view.message("tls_context");
    let flag = |field| criteria.as_ref().and_then(|criteria| criteria.wrapped_flag(field));
    ClientCertificateMatcher { presented: flag("presented"), validated: flag("validated") }
}

/// The deprecated fields are not looked at beside `max_stream_duration`.
fn grpc_timeout(view: &View<'_>, context: &Context<'_>) -> Result<GrpcTimeout, Found> {
    let old_max = optional_timeout(view, "max_grpc_timeout")?;
    let old_offset = view.duration("grpc_timeout_offset")?.unwrap_or_default();
    let Some(limits) = view.message("max_stream_duration") else {
        return Ok(match old_max {
            Some(max) => GrpcTimeout::Route { max, offset: old_offset },
            None => GrpcTimeout::Ignored,
        });
    };
    if old_max.is_some() {
        let at = view.at("max_grpc_timeout");
        context.notes.advise(at, "has no effect beside max_stream_duration");
    }
    let offset = limits.duration("grpc_timeout_header_offset")?.unwrap_or_default();
    Ok(match optional_timeout(&limits, "grpc_timeout_header_max")? {
        Some(max) => GrpcTimeout::Stream { max, offset },
        None => GrpcTimeout::Ignored,
    })
}

/// A timeout that overrides another: absent, disabled by zero, or a time.
fn optional_timeout(view: &View<'_>, field: &str) -> Result<Option<Option<Duration>>, Found> {
    let timeout = view.duration(field)?;
    Ok(timeout.map(|timeout| Some(timeout).filter(|timeout| !timeout.is_zero())))
}

/// Whether CONNECT ends at this route, which is what a `connect_config` asks for.
fn terminates_connect(view: &View<'_>) -> Result<bool, Found> {
    let mut terminates = false;
    for upgrade in view.messages("upgrade_configs") {
        if upgrade.has("connect_config") {
            if !upgrade.text("upgrade_type").eq_ignore_ascii_case("CONNECT") {
                let text = "is for upgrade type CONNECT only";
                return Err(upgrade.invalid("connect_config", text));
            }
            terminates = true;
        }
    }
    Ok(terminates)
}

fn path_rewrite(view: &View<'_>) -> Result<Option<PathRewrite>, Found> {
    let fields = ["prefix_rewrite", "regex_rewrite", "path_rewrite"];
    let Some(field) = one_of(view, &fields)? else { return Ok(None) };
    Ok(Some(match (field, view.message("regex_rewrite")) {
        ("prefix_rewrite", _) => PathRewrite::Prefix(path_text(view, field)?),
        (_, Some(rewrite)) => PathRewrite::Regex(matcher::rewrite(&rewrite)?),
        (field, None) => {
            PathRewrite::Template(format::template(&path_text(view, field)?, &view.at(field))?)
        }
    }))
}

fn host_rewrite(view: &View<'_>) -> Result<Option<HostRewrite>, Found> {
    // One oneof in the API, except that `auto_host_rewrite: false` says nothing.
    if view.has("auto_host_rewrite") {
        let on = view.wrapped_flag("auto_host_rewrite").unwrap_or(false);
        return Ok(on.then_some(HostRewrite::Auto));
    }
    let fields =
        ["host_rewrite_literal", "host_rewrite_header", "host_rewrite_path_regex", "host_rewrite"];
    let Some(field) = one_of(view, &fields)? else { return Ok(None) };
    let text = || header_text(view, field).map(Option::unwrap_or_default);
    Ok(match (field, view.message("host_rewrite_path_regex")) {
        ("host_rewrite_literal", _) => {
            Some(text()?).filter(|text| !text.is_empty()).map(HostRewrite::Literal)
        }
        ("host_rewrite_header", _) => optional_header(view, field)?.map(HostRewrite::Header),
        (_, Some(rewrite)) => Some(HostRewrite::PathRegex(matcher::rewrite(&rewrite)?)),
        (field, None) => Some(HostRewrite::Template(format::template(&text()?, &view.at(field))?)),
    })
}

fn redirect(view: &View<'_>) -> Result<Redirect, Found> {
    let scheme = match view.which(&["https_redirect", "scheme_redirect"]) {
        Some("https_redirect") if view.flag("https_redirect") => Some("https".into()),
        Some("scheme_redirect") => match view.text("scheme_redirect") {
            "" => None,
            scheme @ ("http" | "https") => Some(scheme.into()),
            _ => return Err(view.invalid("scheme_redirect", "must be http or https")),
        },
        _ => None,
    };
    let port = u16::try_from(view.u32("port_redirect"))
        .map_err(|_| view.invalid("port_redirect", "must be at most 65535"))?;
    let fields = ["path_redirect", "prefix_rewrite", "regex_rewrite"];
    let path = match (one_of(view, &fields)?, view.message("regex_rewrite")) {
        (None, _) => None,
        (Some(_), Some(rewrite)) => Some(RedirectPath::Regex(matcher::rewrite(&rewrite)?)),
        (Some("path_redirect"), None) => {
            Some(RedirectPath::Whole(path_text(view, "path_redirect")?))
        }
        (Some(field), None) => Some(RedirectPath::Prefix(path_text(view, field)?)),
    };
    Ok(Redirect {
        status: match view.choice("response_code")?.as_str() {
            "MOVED_PERMANENTLY" => 301,
            "FOUND" => 302,
            "SEE_OTHER" => 303,
            "TEMPORARY_REDIRECT" => 307,
            "PERMANENT_REDIRECT" => 308,
            other => return Err(view.unsupported("response_code", other)),
        },
        scheme,
        host: header_text(view, "host_redirect")?,
        port: Some(port).filter(|port| *port != 0),
        path,
        strip_query: view.flag("strip_query"),
    })
}

/// Of settings that exclude each other the one that is set. Empty text is not set.
fn one_of(view: &View<'_>, fields: &[&'static str]) -> Result<Option<&'static str>, Found> {
    let mut set = fields.iter().copied().filter(|field| view.has(field));
    let first = set.next();
    match (first, set.next()) {
        (Some(first), Some(second)) => {
            Err(view.invalid(second, format!("set together with {first}")))
        }
        _ => Ok(first),
    }
}

fn path_text(view: &View<'_>, field: &str) -> Result<Box<str>, Found> {
    Ok(header_text(view, field)?.unwrap_or_default())
}

fn optional_header(view: &View<'_>, field: &str) -> Result<Option<HeaderName>, Found> {
    view.optional_text(field).map(|name| header_name(name, view.at(field))).transpose()
}

/// DataSource, read now; at most `bytes_max` long.
pub(crate) fn data_source(view: &View<'_>, bytes_max: usize) -> Result<Bytes, Found> {
    let fields = ["filename", "inline_bytes", "inline_string", "environment_variable"];
    let field = view.required_which("specifier", &fields)?;
    let fault = |text: String| Found::new(view.at(field), Problem::Invalid(text));
    let bytes = match field {
        "inline_bytes" => view.bytes(field).to_vec(),
        "inline_string" => view.text(field).as_bytes().to_vec(),
        "environment_variable" => {
            let name = view.required_text(field)?;
            std::env::var(name).map_err(|error| fault(format!("{name}: {error}")))?.into_bytes()
        }
        _ => {
            let name = view.required_text(field)?;
            read_file(name, bytes_max).map_err(|error| fault(format!("{name}: {error}")))?
        }
    };
    if bytes.len() > bytes_max {
        return Err(fault(format!("is longer than {bytes_max} bytes")));
    }
    Ok(bytes.into())
}

/// Reads one byte more than is allowed, at most.
fn read_file(name: &str, bytes_max: usize) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(name)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

// Envoy's defaults.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);
const DIRECT_RESPONSE_BYTES: u32 = 4096;
