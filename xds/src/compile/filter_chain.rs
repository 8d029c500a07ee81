//! Filter chains: when one applies, its transport, its filters (contract section 3).

use std::net::IpAddr;
use std::sync::Arc;

use crate::compile::{Context, address, invalid, terminal, tls};
use crate::fault::{Found, Trail};
use crate::fingerprint::Fingerprint;
use crate::snapshot::{
    FilterChain, FilterChainMatch, FilterChains, FilterChainsError, SourceType, Terminal,
};
use crate::view::View;

/// Chains by what they say.
pub(crate) type KnownChains<'a> = dyn Fn(Fingerprint) -> Option<Arc<FilterChain>> + 'a;

/// Every chain of a listener, which has at least one.
pub(crate) fn compile(
    listener: &View<'_>,
    context: &Context<'_>,
    known: &KnownChains<'_>,
) -> Result<(FilterChains, Vec<FilterChainMatch>), Found> {
    let views = listener.messages("filter_chains");
    let mut matches = Vec::with_capacity(views.len());
    let mut chains = Vec::with_capacity(views.len());
    for view in &views {
        let criteria = match view.message("filter_chain_match") {
            Some(criteria) => filter_chain_match(&criteria)?,
            None => FilterChainMatch::default(),
        };
        matches.push(criteria.clone());
        chains.push((criteria, filter_chain(view, context, known)?));
    }
    let default = match listener.message("default_filter_chain") {
        Some(view) => Some(filter_chain(&view, context, known)?),
        None => None,
    };
    if chains.is_empty() && default.is_none() {
        return Err(listener.required("filter_chains"));
    }
    unique_names(listener, &views)?;
    let label = |index: usize| match views.get(index).map_or("", |view| view.text("name")) {
        "" => format!("filter_chains[{index}]"),
        name => format!("filter_chains[{index}] ({name:?})"),
    };
    let chains = FilterChains::new(chains, default).map_err(|error| match error {
        FilterChainsError::Overlap { first, second } => {
            let at = listener.at("filter_chains").index(second);
            let this = match views.get(second).map_or("", |view| view.text("name")) {
                "" => String::new(),
                name => format!("{name:?} "),
            };
            invalid(at, format!("{this}matches the same connections as {}", label(first)))
        }
        FilterChainsError::TooManyCombinations { chain } => {
            invalid(listener.at("filter_chains").index(chain), error.to_string())
        }
    })?;
    Ok((chains, matches))
}

fn unique_names(listener: &View<'_>, views: &[View<'_>]) -> Result<(), Found> {
    let mut names = std::collections::HashSet::new();
    let default = listener.message("default_filter_chain");
    for view in views.iter().chain(&default) {
        if let Some(name) = view.optional_text("name")
            && !names.insert(name)
        {
            return Err(view.invalid("name", format!("{name:?} is used twice")));
        }
    }
    Ok(())
}

fn filter_chain(
    view: &View<'_>,
    context: &Context<'_>,
    known: &KnownChains<'_>,
) -> Result<Arc<FilterChain>, Found> {
    // When it applies is not what it does: connections that it has stay, whoever it is for.
    let fingerprint = Fingerprint::of(view.raw(), &["filter_chain_match"]);
    if let Some(chain) = known(fingerprint) {
        return Ok(chain);
    }
    let tls = tls::downstream_socket(view, context)?.map(Arc::new);
    let filters = view.messages("filters");
    let Some((last, others)) = filters.split_last() else {
        return Err(invalid(view.at("filters"), "must end in a terminal filter"));
    };
    let terminal::Front { istio_stats, discovered } = terminal::before_last(others, context)?;
    let terminal::Last { terminal, discovered: discovered_terminal } =
        terminal::last(last, context)?;
    let comes_by_name = discovered_terminal.is_some() || terminal.discovered().next().is_some();
    if istio_stats.is_some() && !comes_by_name && !has_tcp_proxy(&terminal) {
        context
            .notes
            .advise(view.at("filters"), "istio.stats counts connections of tcp_proxy only");
    }
    Ok(Arc::new(FilterChain {
        name: view.text("name").into(),
        fingerprint: Some(fingerprint),
        tls,
        istio_stats,
        discovered: discovered.into(),
        terminal,
        discovered_terminal,
    }))
}

fn has_tcp_proxy(terminal: &Terminal) -> bool {
    let mut found = false;
    terminal.visit_owners(&mut |owner| found |= matches!(owner, Terminal::Tcp(_)));
    found
}

fn filter_chain_match(view: &View<'_>) -> Result<FilterChainMatch, Found> {
    let ranges = |field: &str| -> Result<Vec<(IpAddr, u8)>, Found> {
        view.messages(field).iter().map(address::cidr).collect()
    };
    let destination_port = match view.wrapped_u32("destination_port") {
        Some(number) => Some(port(number, view.at("destination_port"))?),
        None => None,
    };
    let server_names = view.texts("server_names").into_iter().map(|(name, at)| {
        server_name(name).map_err(|text| invalid(at, format!("{name:?} {text}")))
    });
    let protocols = view.texts("application_protocols").into_iter().map(|(protocol, at)| {
        if protocol.is_empty() {
            return Err(invalid(at, "must not be empty"));
        }
        Ok(protocol.as_bytes().into())
    });
    let source_ports = view.u32s("source_ports").into_iter().map(|(number, at)| port(number, at));
    Ok(FilterChainMatch {
        destination_port,
        prefix_ranges: ranges("prefix_ranges")?,
        server_names: server_names.collect::<Result<_, Found>>()?,
        transport_protocol: view.optional_text("transport_protocol").map(Box::from),
        application_protocols: protocols.collect::<Result<_, Found>>()?,
        direct_source_prefix_ranges: ranges("direct_source_prefix_ranges")?,
        source_type: match view.choice("source_type")?.as_str() {
            "ANY" => SourceType::Any,
            "SAME_IP_OR_LOOPBACK" => SourceType::SameIpOrLoopback,
            "EXTERNAL" => SourceType::External,
            other => return Err(view.unsupported("source_type", other)),
        },
        source_prefix_ranges: ranges("source_prefix_ranges")?,
        source_ports: source_ports.collect::<Result<_, Found>>()?,
    })
}

fn port(number: u32, at: Trail) -> Result<u16, Found> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(invalid(at, "must be from 1 to 65535")),
    }
}

/// In lower case. A star may stand for the first labels of a name, and for nothing else.
fn server_name(name: &str) -> Result<Box<str>, &'static str> {
    let suffix = name.strip_prefix("*.").unwrap_or(name);
    if suffix == "*" {
        return Err("matches everything: leave server_names out instead");
    }
    if suffix.contains('*') {
        return Err("is not a server name: a wildcard is \"*.\" in front of a name");
    }
    if suffix.split('.').any(str::is_empty) {
        return Err("is not a server name: a part of it is empty");
    }
    Ok(name.to_ascii_lowercase().into())
}
