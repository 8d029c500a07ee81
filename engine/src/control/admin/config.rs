//! `/config_dump`, `/listeners` and `/server_info`: what is being served, and by whom.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use outrigger_xds::client::ResourceType;
use outrigger_xds::snapshot::{Cluster, EndpointSet, Member, Origin, TimePart};
use outrigger_xds::store::{Shown, Stage, Store};
use regex::Regex;
use serde_json::{Map, Value, json};

use super::clusters::{address_json, eds_health_status};
use super::page::{Answer, Ask};
use crate::access_log::clock::Clock;

/// `/config_dump`; `include_eds` adds endpoints, `resource` gives one list alone, `name_regex` those
/// resources whose names hold it, `mask` only these fields of each message.
pub(super) fn config_dump(ask: &Ask<'_>) -> Answer {
    let mask = ask.parameter("mask").map(Mask::new);
    let masked = |mut json: Value| {
        if let Some(mask) = &mask {
            mask.apply(&mut json);
        }
        json
    };
    let names = match ask.parameter("name_regex").map(Regex::new).transpose() {
        Ok(names) => names,
        Err(error) => return Answer::bad_request(format!("name_regex: {error}\n")),
    };
    let dumps = match dumps(ask) {
        Ok(dumps) => dumps,
        Err(error) => return Answer::text(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    let is_meant = |entry: &Entry| names.as_ref().is_none_or(|names| names.is_match(&entry.name));
    let Some(wanted) = ask.parameter("resource") else {
        let configs = dumps.into_iter().map(|dump| masked(dump.into_json(&is_meant)));
        let configs: Vec<Value> = configs.collect();
        return Answer::json(&json!({ "configs": configs }));
    };
    let mut lists = dumps.into_iter().flat_map(|dump| dump.lists);
    match lists.find(|(field, _)| *field == wanted) {
        Some((_, entries)) => {
            let entries = entries.into_iter().filter(is_meant).map(|entry| masked(entry.json));
            Answer::json(&json!({ "configs": entries.collect::<Vec<_>>() }))
        }
        None => Answer::bad_request(format!("resource: there is no list {wanted:?}\n")),
    }
}

/// `/init_dump`: what a start waits for.
pub(super) fn init_dump(ask: &Ask<'_>) -> Answer {
    let cold = ask.state.store().map(|store| store.cold()).unwrap_or_default();
    let targets: Vec<Value> =
        cold.iter().map(|text| json!({"name": text, "target_names": [text]})).collect();
    Answer::json(&json!({ "unready_targets_dumps": targets }))
}

/// Which fields of a message to show: `google.protobuf.FieldMask`, with fields of repeated messages too.
#[derive(Default)]
struct Mask(BTreeMap<String, Mask>);

impl Mask {
    /// Paths with dots, separated by commas.
    fn new(text: &str) -> Mask {
        let mut mask = Mask::default();
        for path in text.split(',').filter(|path| !path.is_empty()) {
            let mut at = &mut mask;
            for field in path.split('.') {
                at = at.0.entry(field.to_owned()).or_default();
            }
        }
        mask
    }

    fn apply(&self, json: &mut Value) {
        // The end of a path: all of it.
        if self.0.is_empty() {
            return;
        }
        match json {
            Value::Array(items) => items.iter_mut().for_each(|item| self.apply(item)),
            Value::Object(members) => {
                members.retain(|name, _| name == "@type" || self.0.contains_key(name));
                for (name, value) in members {
                    if let Some(inner) = self.0.get(name) {
                        inner.apply(value);
                    }
                }
            }
            _ => {}
        }
    }
}

/// One message of the dump.
struct Dump {
    type_name: &'static str,
    /// Single fields.
    fields: Map<String, Value>,
    lists: Vec<(&'static str, Vec<Entry>)>,
}

struct Entry {
    name: String,
    json: Value,
}

impl Entry {
    fn new(name: &str, json: Value) -> Entry {
        Entry { name: name.to_owned(), json }
    }
}

impl Dump {
    fn new(type_name: &'static str, lists: Vec<(&'static str, Vec<Entry>)>) -> Dump {
        Dump { type_name, fields: Map::new(), lists }
    }

    fn into_json(self, is_meant: &impl Fn(&Entry) -> bool) -> Value {
        let mut json = Map::new();
        json.insert("@type".to_owned(), format!("type.googleapis.com/{}", self.type_name).into());
        json.extend(self.fields);
        for (field, entries) in self.lists {
            let entries: Vec<Value> =
                entries.into_iter().filter(is_meant).map(|entry| entry.json).collect();
            json.insert(field.to_owned(), entries.into());
        }
        Value::Object(json)
    }
}

fn dumps(ask: &Ask<'_>) -> Result<Vec<Dump>, String> {
    let Some((bootstrap, loaded)) = ask.state.bootstrap() else { return Ok(Vec::new()) };
    // Kept as text, which is a fraction of the tree's size; nobody dumps often.
    let bootstrap: Value =
        serde_json::from_str(&bootstrap).map_err(|error| format!("{error}\n"))?;
    let updated = timestamp(loaded);
    let resources = field(&bootstrap, "static_resources");
    let list = |name: &str| resources.and_then(|all| field(all, name)?.as_array());
    let named = |key: &str, type_name: &str, resource: &Value| {
        let name = resource.get("name").and_then(Value::as_str).unwrap_or_default();
        Entry::new(name, dumped(key, type_name, resource, &updated))
    };
    let clusters = list("clusters").into_iter().flatten();
    let clusters = clusters.map(|cluster| named("cluster", CLUSTER, cluster)).collect();
    let listeners = list("listeners").into_iter().flatten();
    let listeners = listeners.map(|listener| named("listener", LISTENER, listener)).collect();
    let routes = list("listeners").into_iter().flatten().flat_map(route_configs);
    let routes = routes.map(|routes| named("route_config", ROUTES, routes)).collect();
    let services = ask.state.snapshot().map(|snapshot| {
        let members = snapshot.clusters.iter().filter(|member| member.origin == Origin::Service);
        let entry = |member: &Member| {
            let json = service_cluster(&member.cluster, &member.endpoints);
            Entry::new(&member.cluster.name, json)
        };
        let mut entries: Vec<Entry> = members.map(entry).collect();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        entries
    });
    let mut dynamic = Dynamic { active: services.unwrap_or_default(), ..Dynamic::default() };
    if let Some(store) = ask.state.store() {
        dynamic.add(&store);
    }
    let mut dumps = vec![Dump {
        type_name: "envoy.admin.v3.BootstrapConfigDump",
        fields: [("bootstrap".to_owned(), bootstrap), ("last_updated".to_owned(), updated.into())]
            .into_iter()
            .collect(),
        lists: Vec::new(),
    }];
    dumps.push(Dump::new(
        "envoy.admin.v3.ClustersConfigDump",
        vec![
            ("static_clusters", clusters),
            ("dynamic_active_clusters", dynamic.active),
            ("dynamic_warming_clusters", dynamic.warming),
        ],
    ));
    if ask.flag("include_eds") || ask.parameter("resource") == Some(ENDPOINT_LIST) {
        let lists = vec![(ENDPOINT_LIST, dynamic.endpoints)];
        dumps.push(Dump::new("envoy.admin.v3.EndpointsConfigDump", lists));
    }
    dumps.push(Dump::new(
        "envoy.admin.v3.ListenersConfigDump",
        vec![("static_listeners", listeners), ("dynamic_listeners", dynamic.listeners)],
    ));
    dumps.push(Dump::new(
        "envoy.admin.v3.RoutesConfigDump",
        vec![("static_route_configs", routes), ("dynamic_route_configs", dynamic.routes)],
    ));
    dumps.push(Dump::new(
        "envoy.admin.v3.ScopedRoutesConfigDump",
        vec![("dynamic_scoped_route_configs", dynamic.scopes)],
    ));
    dumps.push(Dump::new(
        "envoy.admin.v3.SecretsConfigDump",
        vec![
            ("dynamic_active_secrets", dynamic.secrets),
            ("dynamic_warming_secrets", dynamic.warming_secrets),
        ],
    ));
    if !dynamic.filters.is_empty() {
        let lists = vec![("ecds_filters", dynamic.filters)];
        dumps.push(Dump::new("envoy.admin.v3.EcdsConfigDump", lists));
    }
    Ok(dumps)
}

/// What came at run time.
#[derive(Default)]
struct Dynamic {
    active: Vec<Entry>,
    warming: Vec<Entry>,
    endpoints: Vec<Entry>,
    listeners: Vec<Entry>,
    routes: Vec<Entry>,
    scopes: Vec<Entry>,
    secrets: Vec<Entry>,
    warming_secrets: Vec<Entry>,
    filters: Vec<Entry>,
}

impl Dynamic {
    fn add(&mut self, store: &Store) {
        let show = |kind: ResourceType, key: &str, shown: &Shown| {
            let mut json = Map::new();
            if let Some(record) = &shown.record {
                json.insert("version_info".to_owned(), (&*record.version).into());
                json.insert("last_updated".to_owned(), timestamp(record.updated).into());
                let type_url = Value::from(kind.type_url());
                let mut any = Map::from_iter([("@type".to_owned(), type_url)]);
                if let Value::Object(content) = store.show(kind, record) {
                    any.extend(content);
                }
                json.insert(key.to_owned(), any.into());
            }
            json
        };
        let whole = |kind: ResourceType, key: &str, shown: &Shown| {
            let mut json = show(kind, key, shown);
            json.extend(states(shown));
            Entry::new(&shown.name, json.into())
        };
        for shown in store.dynamic_clusters() {
            let entry = whole(ResourceType::Cluster, "cluster", &shown);
            let list = match shown.stage {
                Stage::Active => &mut self.active,
                Stage::Warming | Stage::Refused => &mut self.warming,
            };
            list.push(entry);
        }
        for (_, shown) in store.assignments() {
            let kind = ResourceType::ClusterLoadAssignment;
            self.endpoints.push(whole(kind, "endpoint_config", &shown));
        }
        for shown in store.dynamic_listeners() {
            let mut json = Map::from_iter([("name".to_owned(), Value::from(&*shown.name))]);
            let state = match shown.stage {
                Stage::Active => "active_state",
                Stage::Warming | Stage::Refused => "warming_state",
            };
            if shown.record.is_some() {
                let content = show(ResourceType::Listener, "listener", &shown);
                json.insert(state.to_owned(), content.into());
            }
            json.extend(states(&shown));
            self.listeners.push(Entry::new(&shown.name, json.into()));
        }
        for shown in store.whole_route_tables() {
            let kind = ResourceType::RouteConfiguration;
            self.routes.push(whole(kind, "route_config", &shown));
        }
        for (_, shown) in store.extensions() {
            self.filters.push(whole(ResourceType::ExtensionConfig, "ecds_filter", &shown));
        }
        for (name, _, all) in store.scopes() {
            // One entry for each scope: each has a version and an error of its own.
            for shown in all {
                let kind = ResourceType::ScopedRouteConfiguration;
                let mut json = show(kind, "scoped_route_configs", &shown);
                if let Some(content) = json.get_mut("scoped_route_configs") {
                    *content = Value::Array(vec![content.take()]);
                }
                json.insert("name".to_owned(), name.into());
                json.extend(states(&shown));
                self.scopes.push(Entry::new(&shown.name, json.into()));
            }
        }
        for (_, shown) in store.secrets() {
            let mut json = Map::from_iter([("name".to_owned(), Value::from(&*shown.name))]);
            json.extend(show(ResourceType::Secret, "secret", &shown));
            json.extend(states(&shown));
            let list = match shown.record {
                Some(_) => &mut self.secrets,
                None => &mut self.warming_secrets,
            };
            list.push(Entry::new(&shown.name, json.into()));
        }
    }
}

/// How far a resource has come, and what was wrong with its last version.
fn states(shown: &Shown) -> Map<String, Value> {
    let mut json = Map::new();
    if let Some(error) = &shown.error {
        let state = json!({
            "version_info": &*error.version,
            "details": &*error.text,
            "last_update_attempt": timestamp(error.at),
        });
        json.insert("error_state".to_owned(), state);
    }
    let status = match (&shown.error, shown.stage) {
        (Some(_), _) => "NACKED",
        (None, Stage::Active) => "ACKED",
        (None, Stage::Warming | Stage::Refused) => "REQUESTED",
    };
    json.insert("client_status".to_owned(), status.into());
    json
}

pub(super) fn listeners(ask: &Ask<'_>) -> Answer {
    let listeners = ask.state.listeners();
    match ask.parameter("format") {
        None | Some("text") => {
            let lines = listeners.iter().flat_map(|listener| {
                let name = &listener.name;
                listener.addresses.iter().map(move |address| format!("{name}::{address}\n"))
            });
            Answer::text(StatusCode::OK, lines.collect::<String>())
        }
        Some("json") => {
            let statuses: Vec<Value> = listeners
                .iter()
                .map(|listener| {
                    let mut status = Map::new();
                    status.insert("name".to_owned(), listener.name.as_str().into());
                    if let Some((first, more)) = listener.addresses.split_first() {
                        status.insert("local_address".to_owned(), address_json(first));
                        if !more.is_empty() {
                            let more = more.iter().map(address_json).collect();
                            status.insert("additional_local_addresses".to_owned(), more);
                        }
                    }
                    Value::Object(status)
                })
                .collect();
            Answer::json(&json!({ "listener_statuses": statuses }))
        }
        Some(_) => Answer::bad_request("usage: /listeners?format=(json|text)\n"),
    }
}

pub(super) fn server_info(ask: &Ask<'_>) -> Answer {
    let state = ask.state;
    let node = state.node();
    let uptime = format!("{}s", state.started().elapsed().as_secs());
    let mut options = state.process().echo.clone();
    // What runs, rather than what was asked for.
    options["concurrency"] = state.registry().shards().into();
    Answer::json(&json!({
        "version": version(),
        "state": state.lifecycle().name(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": options,
        "node": {
            "id": node.id,
            "cluster": node.cluster,
            "locality": {
                "region": node.locality.region,
                "zone": node.locality.zone,
                "sub_zone": node.locality.sub_zone,
            },
            "metadata": node.metadata,
            "user_agent_name": "outrigger",
            "user_agent_version": env!("CARGO_PKG_VERSION"),
        },
    }))
}

/// In Envoy's five parts: revision, version, status, build, TLS library.
fn version() -> String {
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    format!("outrigger/{}/Clean/{build}/none", env!("CARGO_PKG_VERSION"))
}

/// One entry of a `ConfigDump` list: the resource as an `Any`.
fn dumped(key: &str, type_name: &str, resource: &Value, updated: &str) -> Value {
    let mut any = Map::new();
    any.insert("@type".to_owned(), format!("type.googleapis.com/{type_name}").into());
    any.extend(resource.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
    json!({key: any, "last_updated": updated})
}

/// The cluster of a service, as far as it is its own; the rest is the template's.
fn service_cluster(cluster: &Cluster, endpoints: &EndpointSet) -> Value {
    let endpoints: Vec<Value> = endpoints
        .all()
        .iter()
        .map(|endpoint| {
            json!({
                "endpoint": {"address": address_json(&endpoint.address)},
                "health_status": eds_health_status(endpoint.health),
                "load_balancing_weight": endpoint.weight,
            })
        })
        .collect();
    json!({"cluster": {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": &*cluster.name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": &*cluster.name,
            "endpoints": [{"lb_endpoints": endpoints}],
        },
    }})
}

/// The route configurations inside a listener's connection managers.
fn route_configs(listener: &Value) -> Vec<&Value> {
    let chains = field(listener, "filter_chains").and_then(Value::as_array).into_iter().flatten();
    chains
        .chain(field(listener, "default_filter_chain"))
        .filter_map(|chain| field(chain, "filters")?.as_array())
        .flatten()
        .filter_map(|filter| field(field(filter, "typed_config")?, "route_config"))
        .collect()
}

/// A field by its proto name, or by the lowerCamelCase that protobuf's JSON allows as well.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).or_else(|| {
        let mut parts = name.split('_');
        let mut camel = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            camel.push_str(&part[..1].to_ascii_uppercase());
            camel.push_str(&part[1..]);
        }
        value.get(camel)
    })
}

/// The same, of a whole second since the epoch.
pub(super) fn timestamp_of(unix_s: i64) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_s).unwrap_or(0));
    timestamp(at).replace(".000Z", "Z")
}

/// RFC 3339, as protobuf writes timestamps.
fn timestamp(time: SystemTime) -> String {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wall_ns = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
    let literal = |text: &str| TimePart::Literal(text.into());
    let mut out = Vec::new();
    Clock::new().write(
        wall_ns,
        false,
        &[
            TimePart::Year,
            literal("-"),
            TimePart::Month,
            literal("-"),
            TimePart::Day,
            literal("T"),
            TimePart::Hour,
            literal(":"),
            TimePart::Minute,
            literal(":"),
            TimePart::Second,
            literal("."),
            TimePart::Fraction(3),
            literal("Z"),
        ],
        &mut out,
    );
    String::from_utf8_lossy(&out).into_owned()
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";
const ENDPOINT_LIST: &str = "dynamic_endpoint_configs";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_fields_at_any_depth() {
        let mut json = json!({
            "@type": "t", "a": {"b": 1, "c": 2}, "list": [{"b": 3, "c": 4}], "d": {"e": 5}, "f": 6,
        });
        Mask::new("a.b,list.c,d").apply(&mut json);
        assert_eq!(json, json!({"@type": "t", "a": {"b": 1}, "list": [{"c": 4}], "d": {"e": 5}}));
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_223_819_134);
        assert_eq!(timestamp(time), "2026-11-21T01:16:59.134Z");
        assert_eq!(timestamp_of(1_795_223_819), "2026-11-21T01:16:59Z");
    }

    #[test]
    fn fields_have_two_spellings() {
        let value = json!({"staticResources": 1, "filter_chains": 2});
        assert_eq!(field(&value, "static_resources"), Some(&json!(1)));
        assert_eq!(field(&value, "filter_chains"), Some(&json!(2)));
        assert_eq!(field(&value, "nothing"), None);
    }
}
