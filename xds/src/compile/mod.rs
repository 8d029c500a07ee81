//! From reviewed messages to the snapshot: one module per part of the configuration.
//!
//! Everything here runs after the review of [`support`](crate::support), so a field that is set and
//! not read is a bug of ours, not a setting lost: the review refuses what it does not list. Errors name
//! the field; constraints are those of the contract's section 22 (U-11).

use std::cell::RefCell;
use std::collections::HashMap;

use serde_json::Value as Json;

use crate::fault::{Found, Problem, Resource, Trail};
use crate::snapshot::{ClusterNames, Fraction, RuntimeFraction};
use crate::view::View;

pub(crate) mod access_log;
pub(crate) mod address;
pub(crate) mod bootstrap;
pub(crate) mod cluster;
pub(crate) mod config_source;
pub(crate) mod cors;
pub(crate) mod destination;
pub(crate) mod detection;
pub(crate) mod discovery;
pub(crate) mod disk_layer;
pub(crate) mod dubbo_proxy;
pub(crate) mod endpoints;
pub(crate) mod fault_filter;
pub(crate) mod filter_chain;
pub(crate) mod filter_overrides;
pub(crate) mod format;
pub(crate) mod headers;
pub(crate) mod http;
pub(crate) mod http2;
pub(crate) mod http_filters;
pub(crate) mod inspection;
pub(crate) mod istio;
pub(crate) mod listener;
pub(crate) mod log_filter;
pub(crate) mod matcher;
pub(crate) mod on_demand;
pub(crate) mod process;
pub(crate) mod retry;
pub(crate) mod route;
pub(crate) mod rpc;
pub(crate) mod rpc_route;
pub(crate) mod runtime;
pub(crate) mod scopes;
pub(crate) mod secret;
pub(crate) mod tcp;
pub(crate) mod terminal;
pub(crate) mod tls;
pub(crate) mod upstream_bind;
pub(crate) mod weights;

/// What the parts of a configuration need of each other.
pub(crate) struct Context<'a> {
    pub(crate) names: &'a ClusterNames,
    /// Tells whether there is a cluster of a name.
    pub(crate) has_cluster: &'a dyn Fn(&str) -> bool,
    pub(crate) secrets: &'a HashMap<Box<str>, secret::Secret>,
    pub(crate) runtime: &'a runtime::Runtime,
    pub(crate) node: &'a NodeNames,
    /// What a source of resources may refer to.
    pub(crate) sources: &'a config_source::Sources,
    pub(crate) notes: Notes,
}

/// What the operator should know of the resource that is being compiled, and what stops nothing.
#[derive(Debug, Default)]
pub(crate) struct Notes(RefCell<Vec<Note>>);

/// One of them.
#[derive(Debug)]
pub(crate) enum Note {
    /// A value that is left out, for a reason.
    Ignored(Trail, &'static str),
    /// A value that is honoured, and may not be meant.
    Advice(Trail, &'static str),
}

impl Notes {
    pub(crate) fn ignore(&self, at: Trail, reason: &'static str) {
        self.0.borrow_mut().push(Note::Ignored(at, reason));
    }

    pub(crate) fn advise(&self, at: Trail, text: &'static str) {
        self.0.borrow_mut().push(Note::Advice(at, text));
    }

    /// Moves all to `list`, as notes on `resource`.
    pub(crate) fn hand_over(&self, resource: &Resource, list: &mut Vec<(Resource, Note)>) {
        list.extend(self.0.take().into_iter().map(|note| (resource.clone(), note)));
    }
}

/// The names of this proxy that are written into headers.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeNames {
    pub(crate) id: String,
    pub(crate) cluster: String,
}

/// RuntimeFractionalPercent.
pub(crate) fn runtime_fraction(
    view: &View<'_>,
    context: &Context<'_>,
) -> Result<RuntimeFraction, Found> {
    let Some(default) = view.message("default_value") else {
        return Err(view.required("default_value"));
    };
    let default = fraction(&default)?;
    Ok(context.runtime.fraction(view.text("runtime_key"), default))
}

/// FractionalPercent: the numerator may not exceed the denominator.
pub(crate) fn fraction(view: &View<'_>) -> Result<Fraction, Found> {
    let denominator = match view.choice("denominator")?.as_str() {
        "HUNDRED" => 100,
        "TEN_THOUSAND" => 10_000,
        "MILLION" => 1_000_000,
        other => return Err(view.unsupported("denominator", other)),
    };
    let numerator = view.u32("numerator");
    if numerator > denominator {
        return Err(view.invalid("numerator", format!("must be at most {denominator}")));
    }
    Ok(Fraction { numerator, denominator })
}

/// Text that goes into a header's value as it is.
pub(crate) fn header_text(view: &View<'_>, field: &str) -> Result<Option<Box<str>>, Found> {
    match view.optional_text(field) {
        Some(text) if text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) => {
            Err(view.invalid(field, "must not hold CR, LF or NUL"))
        }
        text => Ok(text.map(Box::from)),
    }
}

pub(crate) fn invalid(at: Trail, text: impl Into<String>) -> Found {
    Found::new(at, Problem::Invalid(text.into()))
}

/// An integer of a runtime layer; it may be written as text.
pub(crate) fn as_u32(json: &Json) -> Option<u32> {
    let number = match json {
        Json::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    let number = number.filter(|number: &f64| number.fract() == 0.0 && *number >= 0.0)?;
    (number <= f64::from(u32::MAX)).then_some(number as u32)
}
