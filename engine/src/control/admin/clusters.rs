//! `/clusters`: what clusters have which endpoints, and how those fare.

use std::borrow::Cow;
use std::fmt::Write;

use hyper::StatusCode;
use outrigger_xds::snapshot::{
    Address, Cluster, Discovery, Endpoint, Health, Member, Origin, Snapshot,
};
use serde_json::{Map, Value as Json, json};

use super::page::{Answer, Ask};
use crate::stats::registry::{HostAddress, HostSample};
use crate::stats::sets::{HostStats, Stat, StatSet};
use crate::stats::{Registry, Value};

pub(super) fn clusters(ask: &Ask<'_>) -> Answer {
    let filter = match ask.filter() {
        Ok(filter) => filter,
        Err(answer) => return answer,
    };
    let snapshot = ask.state.snapshot();
    let views = snapshot.iter().flat_map(|snapshot| views(snapshot, ask.state.registry()));
    let views = views
        .filter(|view| filter.as_ref().is_none_or(|filter| filter.is_match(&view.cluster.name)));
    match ask.parameter("format") {
        None | Some("text") => {
            let mut out = String::new();
            for view in views {
                // Writing to a String cannot fail.
                let _ = view.write_text(&mut out);
            }
            Answer::text(StatusCode::OK, out)
        }
        Some("json") => {
            let statuses: Vec<Json> = views.map(|view| view.json()).collect();
            Answer::json(&json!({ "cluster_statuses": statuses }))
        }
        Some(_) => Answer::bad_request("usage: /clusters?format=(json|text)\n"),
    }
}

/// An address in the JSON form of `envoy.config.core.v3.Address`.
pub(super) fn address_json(address: &Address) -> Json {
    match address {
        Address::Ip(address) => json!({"socket_address": {
            "address": address.ip().to_string(),
            "port_value": address.port(),
        }}),
        path => json!({"pipe": {"path": path.to_string()}}),
    }
}

struct View<'a> {
    cluster: &'a Cluster,
    origin: Origin,
    endpoints: Vec<(Cow<'a, Endpoint>, HostSample)>,
}

fn views<'a>(snapshot: &'a Snapshot, registry: &'a Registry) -> impl Iterator<Item = View<'a>> {
    snapshot.clusters.iter().map(|Member { cluster, endpoints, origin, .. }| {
        let known = registry.collect_hosts(&cluster.stat_name);
        let endpoints = match cluster.discovery {
            // Only shards know which destinations they have been asked for.
            Discovery::OriginalDst(_) => known.into_iter().filter_map(asked_for).collect(),
            _ => endpoints.all().iter().map(|endpoint| configured(endpoint, &known)).collect(),
        };
        View { cluster, origin: *origin, endpoints }
    })
}

fn configured<'a>(endpoint: &'a Endpoint, known: &[HostSample]) -> (Cow<'a, Endpoint>, HostSample) {
    let address = HostAddress::from(&endpoint.address);
    let sample = known.iter().find(|host| host.address == address).cloned();
    (Cow::Borrowed(endpoint), sample.unwrap_or_else(|| unused(address)))
}

fn asked_for(sample: HostSample) -> Option<(Cow<'static, Endpoint>, HostSample)> {
    let HostAddress::Ip(address) = sample.address else { return None };
    Some((Cow::Owned(Endpoint::at(Address::Ip(address))), sample))
}

impl View<'_> {
    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let name = &self.cluster.name;
        let limits = &self.cluster.circuit_breakers;
        writeln!(out, "{name}::observability_name::{}", self.cluster.stat_name)?;
        writeln!(out, "{name}::default_priority::max_connections::{}", limits.max_connections)?;
        writeln!(
            out,
            "{name}::default_priority::max_pending_requests::{}",
            limits.max_pending_requests
        )?;
        writeln!(out, "{name}::default_priority::max_requests::{}", limits.max_requests)?;
        writeln!(out, "{name}::default_priority::max_retries::{}", limits.max_retries)?;
        writeln!(out, "{name}::added_via_api::{}", self.origin != Origin::Static)?;
        for (endpoint, sample) in &self.endpoints {
            let host = format!("{name}::{}", endpoint.address);
            let mut stats: Vec<_> = sample.stats.iter().collect();
            stats.sort_by(|a, b| a.0.cmp(&b.0));
            for (stat, value) in stats {
                writeln!(out, "{host}::{stat}::{}", scalar(value))?;
            }
            writeln!(out, "{host}::hostname::{}", endpoint.hostname)?;
            writeln!(out, "{host}::health_flags::{}", health_flags(endpoint.health))?;
            writeln!(out, "{host}::weight::{}", endpoint.weight)?;
            for (part, name) in PLACE.iter().zip(place(endpoint)) {
                writeln!(out, "{host}::{part}::{name}")?;
            }
            writeln!(out, "{host}::canary::false")?;
            writeln!(out, "{host}::priority::{}", endpoint.priority)?;
            writeln!(out, "{host}::success_rate::-1")?;
            writeln!(out, "{host}::local_origin_success_rate::-1")?;
        }
        Ok(())
    }

    fn json(&self) -> Json {
        let limits = &self.cluster.circuit_breakers;
        let hosts: Vec<Json> = self
            .endpoints
            .iter()
            .map(|(endpoint, sample)| {
                let mut host = Map::new();
                host.insert("address".to_owned(), address_json(&endpoint.address));
                host.insert("stats".to_owned(), sample.stats.iter().map(stat_json).collect());
                let health = json!({"eds_health_status": eds_health_status(endpoint.health)});
                host.insert("health_status".to_owned(), health);
                host.insert("weight".to_owned(), endpoint.weight.into());
                if !endpoint.hostname.is_empty() {
                    host.insert("hostname".to_owned(), (*endpoint.hostname).into());
                }
                if endpoint.priority > 0 {
                    host.insert("priority".to_owned(), endpoint.priority.into());
                }
                let place = PLACE.iter().zip(place(endpoint)).filter(|(_, name)| !name.is_empty());
                let place = place.map(|(part, name)| ((*part).to_owned(), name.into()));
                host.insert("locality".to_owned(), Json::Object(place.collect()));
                Json::Object(host)
            })
            .collect();
        let mut status = json!({
            "name": &*self.cluster.name,
            "observability_name": &*self.cluster.stat_name,
            "host_statuses": hosts,
            "circuit_breakers": {"thresholds": [{
                "max_connections": limits.max_connections,
                "max_pending_requests": limits.max_pending_requests,
                "max_requests": limits.max_requests,
                "max_retries": limits.max_retries,
            }]},
        });
        if self.origin != Origin::Static {
            status["added_via_api"] = true.into();
        }
        status
    }
}

/// Region, zone and sub-zone.
fn place(endpoint: &Endpoint) -> [&str; 3] {
    endpoint
        .locality
        .as_ref()
        .map_or([""; 3], |place| std::array::from_fn(|part| &*place.name[part]))
}

const PLACE: [&str; 3] = ["region", "zone", "sub_zone"];

/// An endpoint that no shard has used yet.
fn unused(address: HostAddress) -> HostSample {
    let mut stats = Vec::new();
    HostStats::default().visit(&mut |name, stat| {
        let zero = match stat {
            Stat::Counter(_) | Stat::Histogram(_) => Value::Counter(0),
            Stat::Gauge(_) | Stat::Level(_) => Value::Gauge(0),
        };
        stats.push((name.to_owned().into(), zero));
    });
    HostSample { address, stats }
}

/// `envoy.admin.v3.SimpleMetric`: zero and COUNTER are defaults, and left out.
fn stat_json((name, value): &(std::borrow::Cow<'static, str>, Value)) -> Json {
    let mut metric = Map::new();
    if matches!(value, Value::Gauge(_)) {
        metric.insert("type".to_owned(), "GAUGE".into());
    }
    if scalar(value) > 0 {
        // 64-bit numbers are strings in protobuf's JSON.
        metric.insert("value".to_owned(), scalar(value).to_string().into());
    }
    metric.insert("name".to_owned(), (**name).into());
    Json::Object(metric)
}

fn scalar(value: &Value) -> u64 {
    match value {
        Value::Counter(n) | Value::Gauge(n) => *n,
        Value::Histogram(histogram) => histogram.count(),
    }
}

fn health_flags(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Degraded => "/degraded_eds_health",
        Health::Unhealthy => "/failed_eds_health",
        Health::Draining => "/eds_status_draining",
    }
}

pub(super) fn eds_health_status(health: Health) -> &'static str {
    match health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
    }
}
