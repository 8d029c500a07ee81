//! Scoped routes: of a connection manager, and the ScopedRouteConfiguration resources (contract section
//! 5; xds.md A1).

use std::collections::HashSet;
use std::sync::Arc;

use crate::compile::headers::header_name;
use crate::compile::{Context, config_source, invalid, route};
use crate::fault::Found;
use crate::fingerprint::Fingerprint;
use crate::snapshot::{
    FRAGMENTS_MAX, HeaderValueExtractor, Rds, Scope, ScopeElement, ScopeKey, ScopeKeyBuilder,
    ScopeRoutes, ScopeSource, ScopedRoutes,
};
use crate::view::View;

/// HttpConnectionManager.scoped_routes.
pub(crate) fn compile(
    view: &View<'_>,
    context: &Context<'_>,
    stat_prefix: &str,
) -> Result<ScopedRoutes, Found> {
    let name = view.required_text("name")?;
    let Some(builder) = view.message("scope_key_builder") else {
        return Err(view.required("scope_key_builder"));
    };
    let source = |view: View<'_>| config_source::compile(&view, context.sources);
    let mut scoped = ScopedRoutes {
        key: Box::default(),
        name: name.into(),
        key_builder: key_builder(&builder)?,
        scopes: ScopeSource::Inline(Box::default()),
        rds: view.message("rds_config_source").map(source).transpose()?,
        stat_prefix: stat_prefix.into(),
    };
    let specifiers = ["scoped_route_configurations_list", "scoped_rds"];
    let specifier = view.required_which("config_specifier", &specifiers)?;
    let Some(specified) = view.message(specifier) else { return Err(view.required(specifier)) };
    // Listeners share what they name: scopes of the same content, or of the same servers, whose tables
    // come from the same servers.
    if specifier == "scoped_rds" {
        let Some(servers) = specified.message("scoped_rds_config_source") else {
            return Err(specified.required("scoped_rds_config_source"));
        };
        let servers = source(servers)?;
        let tables = scoped.rds.as_ref().map(|rds| rds.place.key(""));
        scoped.key = format!("{}\u{1e}{tables:?}", servers.place.key("")).into();
        scoped.scopes = ScopeSource::Srds(servers);
    } else {
        let fingerprint = Fingerprint::of(view.raw(), &["name", "scope_key_builder"]);
        scoped.key = format!("\u{1e}{fingerprint:?}").into();
        scoped.scopes = ScopeSource::Inline(list(&specified, &scoped, context)?);
    }
    Ok(scoped)
}

fn list(
    view: &View<'_>,
    scoped: &ScopedRoutes,
    context: &Context<'_>,
) -> Result<Box<[Scope]>, Found> {
    let all = view.messages("scoped_route_configurations");
    if all.is_empty() {
        return Err(view.required("scoped_route_configurations"));
    }
    let (mut names, mut keys) = (HashSet::new(), HashSet::new());
    let mut scopes = Vec::with_capacity(all.len());
    for view in &all {
        let scope = compile_scope(view, scoped, context, true)?;
        if !names.insert(scope.name.clone()) {
            return Err(view.invalid("name", format!("{:?} is used twice", scope.name)));
        }
        if !keys.insert(scope.key.clone()) {
            return Err(view.invalid("key", "is used twice"));
        }
        scopes.push(scope);
    }
    Ok(scopes.into())
}

/// ScopedRouteConfiguration. `inline`: it is part of a listener.
pub(crate) fn compile_scope(
    view: &View<'_>,
    scoped: &ScopedRoutes,
    context: &Context<'_>,
    inline: bool,
) -> Result<Scope, Found> {
    let name = view.required_text("name")?;
    let Some(key) = view.message("key") else { return Err(view.required("key")) };
    let named = view.optional_text("route_configuration_name");
    let routes = match (named, view.message("route_configuration")) {
        (Some(_), Some(_)) => {
            let text = "must not be there beside route_configuration_name";
            return Err(view.invalid("route_configuration", text));
        }
        (None, Some(table)) if table.has("vhds") => {
            return Err(table.invalid("vhds", "is for routes that come by RDS"));
        }
        (None, Some(table)) => {
            ScopeRoutes::Inline(Arc::new(route::compile(&table, context, inline)?))
        }
        (Some(table), None) => ScopeRoutes::Rds(rds(view, table, scoped)?),
        (None, None) => return Err(view.required("route_configuration_name")),
    };
    let on_demand = view.flag("on_demand") && matches!(routes, ScopeRoutes::Rds(_));
    Ok(Scope { name: name.into(), key: fragments(&key)?, routes, on_demand })
}

fn rds(view: &View<'_>, name: &str, scoped: &ScopedRoutes) -> Result<Rds, Found> {
    let Some(source) = &scoped.rds else {
        let text = "needs rds_config_source of the connection manager's scoped_routes";
        return Err(view.invalid("route_configuration_name", text));
    };
    Ok(Rds {
        key: source.place.key(name),
        name: name.into(),
        stat_prefix: scoped.stat_prefix.clone(),
        source: source.clone(),
    })
}

fn fragments(view: &View<'_>) -> Result<ScopeKey, Found> {
    let all = view.messages("fragments");
    if all.is_empty() {
        return Err(view.required("fragments"));
    }
    let fragment = |view: &View<'_>| {
        view.required_which("type", &["string_key"])?;
        Ok(view.text("string_key").into())
    };
    all.iter().map(fragment).collect()
}

fn key_builder(view: &View<'_>) -> Result<ScopeKeyBuilder, Found> {
    let all = view.messages("fragments");
    if all.is_empty() {
        return Err(view.required("fragments"));
    }
    if all.len() > FRAGMENTS_MAX {
        return Err(view.invalid("fragments", format!("must be at most {FRAGMENTS_MAX}")));
    }
    let extractor = |view: &View<'_>| match view.message("header_value_extractor") {
        Some(view) => extractor(&view),
        None => Err(view.required("type")),
    };
    Ok(ScopeKeyBuilder(all.iter().map(extractor).collect::<Result<_, Found>>()?))
}

fn extractor(view: &View<'_>) -> Result<HeaderValueExtractor, Found> {
    let header = header_name(view.required_text("name")?, view.at("name"))?;
    let separator = view.text("element_separator");
    let element = match view.message("element") {
        Some(element) => ScopeElement::Keyed {
            separator: element.required_text("separator")?.into(),
            key: element.required_text("key")?.into(),
        },
        None => {
            view.required_which("extract_type", &["index"])?;
            let index = view.u32("index");
            if index > 0 && separator.is_empty() {
                let at = view.at("index");
                return Err(invalid(at, "must be 0 where there is no element_separator"));
            }
            ScopeElement::Index(index)
        }
    };
    Ok(HeaderValueExtractor { header, separator: separator.into(), element })
}
