//! Filters that come by name: where from (`config_discovery`), and what (ECDS).
//!
//! Invariant: whatever a listener may hold, but the router, can come by name, and means the same there.

use crate::compile::{
    Context, config_source, cors, fault_filter, http_filters as http, invalid, istio, on_demand,
    terminal,
};
use crate::fault::{Found, Problem};
use crate::mapping::Schema;
use crate::snapshot::{FilterConfig, FilterDiscovery, FilterPlace};
use crate::view::{Unpacked, View};

/// ExtensionConfigSource of a filter. Nothing where the filter may be left out (`is_skippable`) and can be
/// of no type that is known (U-06).
pub(crate) fn compile(
    filter: &View<'_>,
    place: FilterPlace,
    is_skippable: bool,
    context: &Context<'_>,
) -> Result<Option<FilterDiscovery>, Found> {
    let name = filter.required_text("name")?;
    let Some(view) = filter.message("config_discovery") else {
        return Err(filter.required("config_discovery"));
    };
    let Some(source) = view.message("config_source") else {
        return Err(view.required("config_source"));
    };
    let source = config_source::compile(&source, context.sources)?;
    let Some(types) = types(&view, place, is_skippable, context)? else { return Ok(None) };
    let default = match view.has("default_config") {
        true => view.unpack("default_config")?,
        false => None,
    };
    if let Some(default) = &default
        && !types.iter().any(|known| **known == *default.kind())
    {
        let text = format!("is of type {}, which type_urls does not list", default.kind());
        return Err(view.invalid("default_config", text));
    }
    let default = default.map(|found| config(&found, view.schema(), context)).transpose()?;
    let is_optional = view.flag("apply_default_config_without_warming");
    if is_optional && default.is_none() {
        return Err(view.invalid("apply_default_config_without_warming", "needs default_config"));
    }
    Ok(Some(FilterDiscovery {
        key: source.place.key(name),
        name: name.into(),
        place,
        source,
        default,
        is_optional,
        types,
    }))
}

/// A configuration that came by name (TypedExtensionConfig).
pub(crate) fn extension(view: &View<'_>, context: &Context<'_>) -> Result<FilterConfig, Found> {
    view.required_text("name")?;
    let unpacked = view.unpack("typed_config")?.ok_or_else(|| view.required("typed_config"))?;
    config(&unpacked, view.schema(), context)
}

/// What it is wherever it may stand, which is somewhere.
fn config(
    unpacked: &Unpacked,
    schema: &Schema,
    context: &Context<'_>,
) -> Result<FilterConfig, Found> {
    let kind = unpacked.kind();
    let stands_in = |place| known(place).contains(&&*kind);
    let network = match stands_in(FilterPlace::Network) {
        true => Some(terminal::in_front(unpacked, unpacked.at(), schema, context)?),
        false => None,
    };
    let terminal = match stands_in(FilterPlace::Terminal) {
        true => Some(terminal::of(unpacked, schema, context)?),
        false => None,
    };
    let http = match stands_in(FilterPlace::Http) || (network.is_none() && terminal.is_none()) {
        true => Some(http::kind(unpacked, schema, context)?),
        false => None,
    };
    Ok(FilterConfig { kind: kind.into(), http, network, terminal })
}

fn types(
    view: &View<'_>,
    place: FilterPlace,
    is_skippable: bool,
    context: &Context<'_>,
) -> Result<Option<Box<[Box<str>]>>, Found> {
    let mut types: Vec<Box<str>> = Vec::new();
    let urls = view.texts("type_urls");
    if urls.is_empty() {
        return Err(view.required("type_urls"));
    }
    for (url, at) in urls {
        let name = url.rsplit('/').next().unwrap_or(url);
        if known(place).contains(&name) {
            types.push(name.into());
        } else if name == http::ROUTER {
            return Err(invalid(at, "the router cannot come by name"));
        } else if place == FilterPlace::Network && terminal::is_last(name) {
            return Err(invalid(at, "a terminal filter must be the last"));
        } else if place != FilterPlace::Http && known(FilterPlace::Network).contains(&name) {
            return Err(invalid(at, "the last filter must be a terminal one"));
        } else if place == FilterPlace::Choice && terminal::is_last(name) {
            return Err(invalid(at, "a detection cannot hold another"));
        } else if is_skippable {
            context.notes.ignore(at, "optional, and not supported");
        } else {
            return Err(Found::new(at, Problem::UnknownExtension(name.to_owned())));
        }
    }
    Ok((!types.is_empty()).then(|| types.into()))
}

/// What can come by name in a place.
fn known(place: FilterPlace) -> &'static [&'static str] {
    match place {
        FilterPlace::Http => &HTTP,
        FilterPlace::Network => &NETWORK,
        FilterPlace::Terminal => &terminal::LAST,
        FilterPlace::Choice => &terminal::OWNERS,
    }
}

const HTTP: [&str; 9] = [
    fault_filter::HTTP_FAULT,
    cors::CORS,
    istio::PEER_METADATA,
    istio::ALPN,
    istio::STATS,
    http::GRPC_WEB,
    http::GRPC_STATS,
    http::SOAP,
    on_demand::ON_DEMAND,
];

const NETWORK: [&str; 2] = [istio::STATS, terminal::METADATA_EXCHANGE];
