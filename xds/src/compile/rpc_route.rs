//! Routes of RPC requests: those of RpcProxy, and the parts that Envoy's dubbo_proxy shares with it.

use crate::compile::{Context, headers, invalid, matcher, runtime_fraction, weights};
use crate::fault::{Found, Trail};
use crate::snapshot::{
    AppendAction, ClusterRef, RpcHeaderEdits, RpcHeaderMatcher, RpcHeaderOp, RpcMatcher,
    RpcProtocol, RpcRetry, RpcRoute, RpcRouteTable, RpcTarget, RpcWeightedClusters, ServiceMatcher,
    ServiceSide, StringMatcher,
};
use crate::view::View;

/// rpc_proxy.v1.RouteConfiguration.
pub(crate) fn compile(
    view: &View<'_>,
    protocol: &RpcProtocol,
    context: &Context<'_>,
) -> Result<RpcRouteTable, Found> {
    let table = Table {
        context,
        protocol,
        edits: header_edits(view, context)?,
        validate_clusters: view.wrapped_flag("validate_clusters").unwrap_or(true),
    };
    let routes = view.messages("routes");
    let routes = routes.iter().map(|route| table.route(route)).collect::<Result<_, Found>>()?;
    Ok(self::table(view.text("name"), routes))
}

/// A table of compiled routes.
pub(crate) fn table(name: &str, routes: Vec<RpcRoute>) -> RpcRouteTable {
    let needs_headers = routes.iter().any(|route| {
        let RpcMatcher { group, headers, .. } = &route.matcher;
        let by_name = matches!(route.target, RpcTarget::Cluster(_) | RpcTarget::Weighted(_));
        group.is_some() || !headers.is_empty() || !by_name
    });
    RpcRouteTable { name: name.into(), routes: routes.into(), needs_headers }
}

/// What every route of a table needs of it.
struct Table<'a> {
    context: &'a Context<'a>,
    protocol: &'a RpcProtocol,
    edits: Vec<RpcHeaderOp>,
    validate_clusters: bool,
}

impl Table<'_> {
    fn route(&self, view: &View<'_>) -> Result<RpcRoute, Found> {
        let Some(criteria) = view.message("match") else { return Err(view.required("match")) };
        let Some(action) = view.message("route") else { return Err(view.required("route")) };
        let mut edits = header_edits(view, self.context)?;
        edits.extend(self.edits.iter().cloned());
        Ok(RpcRoute {
            name: view.text("name").into(),
            matcher: self.matcher(&criteria)?,
            target: self.target(&action)?,
            timeout: action.timeout("timeout", None)?,
            retry: match action.message("retry_policy") {
                Some(policy) => retry(&policy)?,
                None => RpcRetry::default(),
            },
            request_headers: RpcHeaderEdits { ops: edits.into() },
            forward_remaining_timeout: action.flag("forward_remaining_timeout"),
        })
    }

    fn matcher(&self, view: &View<'_>) -> Result<RpcMatcher, Found> {
        let text = |field: &str| view.message(field).map(|text| matcher::string(&text)).transpose();
        let version = text("version")?;
        if *self.protocol == RpcProtocol::Dubbo
            && let Some(StringMatcher::Exact { text, .. }) = &version
            && **text == *DUBBO_NO_VERSION.as_bytes()
        {
            let found = view.at("version").field("exact");
            return Err(invalid(found, "is how Dubbo says that there is none: must be empty"));
        }
        let headers = view.messages("headers");
        Ok(RpcMatcher {
            service: text("service")?.map(ServiceMatcher::Text),
            method: text("method")?,
            version,
            group: text("group")?,
            headers: headers
                .iter()
                .map(|header| self::header(header, false))
                .collect::<Result<_, Found>>()?,
            fraction: view
                .message("runtime_fraction")
                .map(|fraction| runtime_fraction(&fraction, self.context))
                .transpose()?,
        })
    }

    fn target(&self, view: &View<'_>) -> Result<RpcTarget, Found> {
        let specifiers = ["cluster", "weighted_clusters", "cluster_header", "service"];
        let field = view.required_which("cluster_specifier", &specifiers)?;
        Ok(match (field, view.message("weighted_clusters")) {
            ("cluster", _) => RpcTarget::Cluster(self.cluster(view, field)?),
            ("cluster_header", _) => RpcTarget::Header(view.required_text(field)?.into()),
            ("service", _) => RpcTarget::Service(match view.choice(field)?.as_str() {
                "PUBLISHED" => ServiceSide::Published,
                "SUBSCRIBED" => ServiceSide::Subscribed,
                other => return Err(view.unsupported(field, other)),
            }),
            (_, Some(weighted)) => {
                RpcTarget::Weighted(weighted_clusters(&weighted, self.context, |entry| {
                    self.cluster(entry, "name")
                })?)
            }
            (field, None) => return Err(view.required(field)),
        })
    }

    /// A cluster by name, which must exist if the table says so.
    fn cluster(&self, view: &View<'_>, field: &str) -> Result<ClusterRef, Found> {
        let name = view.required_text(field)?;
        if self.validate_clusters && !(self.context.has_cluster)(name) {
            return Err(view.invalid(field, format!("there is no cluster {name:?}")));
        }
        Ok(self.context.names.refer(name))
    }
}

/// route.v3.WeightedCluster, of which only names and weights mean something here.
pub(crate) fn weighted_clusters(
    view: &View<'_>,
    context: &Context<'_>,
    cluster: impl Fn(&View<'_>) -> Result<ClusterRef, Found>,
) -> Result<RpcWeightedClusters, Found> {
    view.refuse(&["header_name"])?;
    let mut clusters = Vec::new();
    for entry in weights::compile(view, context)? {
        entry.view.refuse(&[
            "cluster_header",
            "request_headers_to_add",
            "request_headers_to_remove",
            "response_headers_to_add",
            "response_headers_to_remove",
            "host_rewrite_literal",
        ])?;
        clusters.push((cluster(&entry.view)?, entry.sum));
    }
    Ok(RpcWeightedClusters { clusters: clusters.into() })
}

/// route.v3.HeaderMatcher, on names that are no HTTP ones.
pub(crate) fn header(view: &View<'_>, ignore_name_case: bool) -> Result<RpcHeaderMatcher, Found> {
    Ok(RpcHeaderMatcher {
        name: view.required_text("name")?.into(),
        ignore_name_case,
        predicate: matcher::header_predicate(view)?,
        invert: view.flag("invert_match"),
        missing_is_empty: view.flag("treat_missing_header_as_empty"),
    })
}

fn retry(view: &View<'_>) -> Result<RpcRetry, Found> {
    let mut retry =
        RpcRetry { max: view.wrapped_u32("num_retries").unwrap_or(1), ..RpcRetry::default() };
    for condition in view.required_text("retry_on")?.split(',') {
        match condition.trim() {
            "connect-failure" => retry.connect_failure = true,
            "overload" => retry.overload = true,
            other => return Err(view.unsupported("retry_on", other)),
        }
    }
    Ok(retry)
}

/// The edits of one level. Removal comes before addition.
fn header_edits(view: &View<'_>, context: &Context<'_>) -> Result<Vec<RpcHeaderOp>, Found> {
    let mut ops = Vec::new();
    for (name, at) in view.texts("request_headers_to_remove") {
        ops.push(RpcHeaderOp::Remove(header_name(name, at)?));
    }
    for option in view.messages("request_headers_to_add") {
        ops.extend(addition(&option, context)?);
    }
    Ok(ops)
}

/// core.v3.HeaderValueOption. A header has one value, so that appending is setting.
fn addition(view: &View<'_>, context: &Context<'_>) -> Result<Option<RpcHeaderOp>, Found> {
    let Some(header) = view.message("header") else { return Err(view.required("header")) };
    let name = header_name(header.text("key"), header.at("key"))?;
    let template = headers::value(&header)?;
    let Some(value) = template.as_literal() else {
        return Err(header.invalid("value", "must be literal: format operators are for HTTP"));
    };
    let action = headers::append_action(view)?;
    if value.is_empty() && !view.flag("keep_empty_value") {
        context.notes.advise(header.at("value"), "is empty, so nothing is added or changed");
        return Ok(None);
    }
    let value = value.into();
    Ok(Some(match action {
        AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => {
            RpcHeaderOp::Set(name, value)
        }
        AppendAction::AddIfAbsent => RpcHeaderOp::SetIfAbsent(name, value),
        AppendAction::OverwriteIfExists => RpcHeaderOp::Replace(name, value),
    }))
}

/// Any text, as the protocols have it, that no log line breaks at.
fn header_name(name: &str, at: Trail) -> Result<Box<str>, Found> {
    if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(invalid(at, format!("{name:?} is not a header name")));
    }
    Ok(name.into())
}

/// What Dubbo writes for a service without a version.
pub(crate) const DUBBO_NO_VERSION: &str = "0.0.0";
