//! ClusterLoadAssignment: the endpoints of a cluster (contract section 11).

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::compile::address::{self, Named};
use crate::compile::invalid;
use crate::fault::{Found, Trail};
use crate::snapshot::{Address, DnsTarget, Endpoint, Health, Locality, PRIORITY_MAX};
use crate::view::View;

/// What EDS says of a cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Members {
    pub(crate) endpoints: Vec<Endpoint>,
    /// Replaces the cluster's, if given.
    pub(crate) overprovisioning_factor: Option<u32>,
}

/// Compiles an assignment of its own, which has no names to resolve.
pub(crate) fn compile(assignment: &View<'_>) -> Result<Members, Found> {
    let mut endpoints = Vec::new();
    for (target, at) in targets(assignment)? {
        match target {
            Target::Endpoint(endpoint) => endpoints.push(endpoint),
            Target::Dns(target) => {
                return Err(invalid(at, format!("{:?} is not an IP address", target.host)));
            }
        }
    }
    let overprovisioning_factor = match assignment.message("policy") {
        Some(policy) => policy.positive("overprovisioning_factor")?,
        None => None,
    };
    Ok(Members { endpoints, overprovisioning_factor })
}

/// A configured endpoint.
pub(crate) enum Target {
    Endpoint(Endpoint),
    Dns(DnsTarget),
}

/// Every endpoint of a ClusterLoadAssignment, with its place.
pub(crate) fn targets(assignment: &View<'_>) -> Result<Vec<(Target, Trail)>, Found> {
    assignment.required_text("cluster_name")?;
    let mut targets = Vec::new();
    let mut places = Places::default();
    for locality in assignment.messages("endpoints") {
        let (priority, place) = places.add(&locality)?;
        for member in locality.messages("lb_endpoints") {
            targets.push(endpoint(&member, priority, place.as_ref())?);
        }
    }
    places.check(assignment)?;
    let mut weights = 0u64;
    for (target, _) in &targets {
        let (Target::Endpoint(endpoint) | Target::Dns(DnsTarget { template: endpoint, .. })) =
            target;
        weights += u64::from(endpoint.weight);
    }
    if u32::try_from(weights).is_err() {
        let text = format!("endpoint weights must add up to at most {}", u32::MAX);
        return Err(assignment.invalid("endpoints", text));
    }
    Ok(targets)
}

/// The localities of an assignment.
#[derive(Default)]
struct Places {
    /// Priorities and names, where there are names.
    named: HashSet<(u32, [Box<str>; 3])>,
    /// The sum of weights of each priority that there is.
    priorities: BTreeMap<u32, u64>,
}

impl Places {
    /// The priority and the locality of a LocalityLbEndpoints.
    fn add(&mut self, view: &View<'_>) -> Result<(u32, Option<Arc<Locality>>), Found> {
        let priority = view.u32("priority");
        if priority > PRIORITY_MAX {
            return Err(view.invalid("priority", format!("must be at most {PRIORITY_MAX}")));
        }
        let name = view.message("locality");
        let name = name.map(|name| NAME.map(|part| Box::from(name.text(part))));
        if let Some(name) = &name
            && !self.named.insert((priority, name.clone()))
        {
            return Err(view.invalid("locality", "is used twice"));
        }
        let weight = view.positive("load_balancing_weight")?;
        *self.priorities.entry(priority).or_default() += u64::from(weight.unwrap_or(0));
        let place = Locality { name: name.unwrap_or_default(), weight, metadata: view.metadata() };
        Ok((priority, (place != Locality::default()).then(|| Arc::new(place))))
    }

    fn check(&self, assignment: &View<'_>) -> Result<(), Found> {
        let at = |text| Err(assignment.invalid("endpoints", text));
        for (expected, (priority, weights)) in (0..).zip(&self.priorities) {
            if *priority != expected {
                return at(format!("there is priority {priority}, but no priority {expected}"));
            }
            if u32::try_from(*weights).is_err() {
                return at(format!("locality weights must add up to at most {}", u32::MAX));
            }
        }
        Ok(())
    }
}

fn endpoint(
    member: &View<'_>,
    priority: u32,
    locality: Option<&Arc<Locality>>,
) -> Result<(Target, Trail), Found> {
    let Some(endpoint) = member.message("endpoint") else {
        return Err(member.required("endpoint"));
    };
    let Some(location) = endpoint.message("address") else {
        return Err(endpoint.required("address"));
    };
    let health = match member.choice("health_status")?.as_str() {
        "UNKNOWN" | "HEALTHY" => Health::Healthy,
        "DEGRADED" => Health::Degraded,
        "UNHEALTHY" | "TIMEOUT" => Health::Unhealthy,
        "DRAINING" => Health::Draining,
        other => return Err(member.unsupported("health_status", other)),
    };
    let describe = |address: Address, fallback: &str| Endpoint {
        address,
        hostname: Arc::from(endpoint.optional_text("hostname").unwrap_or(fallback)),
        weight: member.wrapped_u32("load_balancing_weight").unwrap_or(1),
        health,
        priority,
        metadata: member.metadata(),
        locality: locality.cloned(),
    };
    member.positive("load_balancing_weight")?;
    let target = match address::named(&location)? {
        Named::Address(address) => {
            if address.ip().is_some_and(|address| address.port() == 0) {
                return Err(invalid(
                    location.at("socket_address").field("port_value"),
                    "must not be 0",
                ));
            }
            Target::Endpoint(describe(address, ""))
        }
        Named::Host { host, port } => {
            if port == 0 {
                return Err(invalid(
                    location.at("socket_address").field("port_value"),
                    "must not be 0",
                ));
            }
            // The address is replaced by every answer, and until then nothing connects to it.
            let unresolved = Address::Unix(Path::new("").into());
            let template = describe(unresolved, &host);
            Target::Dns(DnsTarget { host, port, template })
        }
    };
    Ok((target, location.at("socket_address").field("address")))
}

/// The fields of a locality's name.
const NAME: [&str; 3] = ["region", "zone", "sub_zone"];
