//! Statistics as text: Envoy's `/stats`, its JSON, and the Prometheus exposition format.
//!
//! Pure functions from samples to bytes; who asks and over what socket is not their business.
//! Differences from Envoy: quantiles of the last flush interval are always `nan` (`null` in JSON),
//! which Envoy too prints for an idle interval, because nothing here runs on a flush timer. Services
//! and methods of gRPC are always labels of Prometheus, where Envoy takes the first two words of the
//! name for them: for services without dots (`replace_dots_in_grpc_service_name`) that is the same.

use std::fmt::{Display, Write};
use std::ops::Range;

use outrigger_xds::process_config::StatsConfig;
use regex::Regex;
use serde_json::{Value as Json, json};

use super::histogram::{HistogramSnapshot, PROMETHEUS_BOUNDS, QUANTILES};
use super::registry::{Sample, Scope, Value};

/// Which statistics to print.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only names in which this matches somewhere.
    pub filter: Option<Regex>,
    /// Turns `filter` round.
    pub invert_filter: bool,
    /// Only those that were ever written: a gauge at zero too, if it was elsewhere or was set to it.
    pub used_only: bool,
    /// Only one kind.
    pub kind: Option<Kind>,
}

/// A kind of statistic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Numbers that only grow.
    Counters,
    /// Numbers that go up and down.
    Gauges,
    /// Distributions.
    Histograms,
    /// Strings; there are none.
    TextReadouts,
}

impl Selection {
    /// The samples that are selected, in their order.
    pub fn apply(&self, samples: Vec<Sample>) -> Vec<Sample> {
        samples.into_iter().filter(|sample| self.takes(sample)).collect()
    }

    /// The text readouts that are selected, as lines before everything else.
    pub fn texts(&self, texts: Vec<(String, String)>) -> String {
        let selected = texts.into_iter().filter(|(name, text)| {
            self.kind.is_none_or(|wanted| wanted == Kind::TextReadouts)
                && (!text.is_empty() || !self.used_only)
                && self.names(name)
        });
        selected.map(|(name, text)| format!("{name}: \"{text}\"\n")).collect()
    }

    fn names(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.is_match(name) != self.invert_filter)
    }

    fn takes(&self, sample: &Sample) -> bool {
        let kind = match &sample.value {
            Value::Counter(_) => Kind::Counters,
            Value::Gauge(_) => Kind::Gauges,
            Value::Histogram(_) => Kind::Histograms,
        };
        self.kind.is_none_or(|wanted| wanted == kind)
            && (sample.is_used || !self.used_only)
            && (self.filter.is_none() || self.names(&sample.to_string()))
    }
}

/// Envoy's `/stats`: one `name: value` a line, histograms after everything else.
pub fn text(samples: &[Sample]) -> String {
    let mut out = String::new();
    for sample in samples {
        if let Some(n) = scalar(&sample.value) {
            line(&mut out, format_args!("{sample}: {n}"));
        }
    }
    for (sample, histogram) in histograms(samples) {
        match histogram.quantiles() {
            None => line(&mut out, format_args!("{sample}: No recorded values")),
            Some(values) => {
                let quantiles = QUANTILES.iter().zip(values);
                let quantiles: Vec<_> =
                    quantiles.map(|(percent, value)| format!("P{percent}(nan,{value})")).collect();
                line(&mut out, format_args!("{sample}: {}", quantiles.join(" ")));
            }
        }
    }
    out
}

/// Envoy's `/stats?format=json`.
pub fn json(samples: &[Sample]) -> Json {
    let mut stats: Vec<Json> = samples
        .iter()
        .filter_map(|sample| {
            let n = scalar(&sample.value)?;
            Some(json!({"name": sample.to_string(), "value": n}))
        })
        .collect();
    let computed: Vec<Json> = histograms(samples)
        .map(|(sample, histogram)| {
            let values = match histogram.quantiles() {
                None => [const { Json::Null }; QUANTILES.len()],
                Some(values) => values.map(number),
            };
            let values = values.map(|value| json!({"interval": null, "cumulative": value}));
            json!({"name": sample.to_string(), "values": values})
        })
        .collect();
    if !computed.is_empty() {
        stats.push(json!({"histograms": {
            "supported_quantiles": QUANTILES.map(number),
            "computed_quantiles": computed,
        }}));
    }
    json!({ "stats": stats })
}

/// The Prometheus text exposition format, version 0.0.4, with Envoy's metric names and labels, or those
/// that `config` asks for.
///
/// `tags` are labels put on every sample; their names must be valid label names.
pub fn prometheus(samples: &[Sample], tags: &[(&str, &str)], config: &StatsConfig) -> String {
    let mut common = String::new();
    for (name, value) in tags {
        label(&mut common, name, value);
    }
    let row = |sample| Row::of(sample, &common, config);
    let mut rows: Vec<Row<'_>> = samples.iter().map(row).collect();
    // A metric's samples must be together, under one TYPE line.
    rows.sort_by(|a, b| (a.order(), &a.metric).cmp(&(b.order(), &b.metric)));
    let mut out = String::new();
    let mut previous = None;
    for row in &rows {
        if previous != Some(&row.metric) {
            line(&mut out, format_args!("# TYPE {} {}", row.metric, row.type_name()));
            previous = Some(&row.metric);
        }
        row.print(&mut out);
    }
    out
}

/// One sample under its Prometheus name.
struct Row<'a> {
    metric: String,
    /// The inside of the braces, without a trailing comma.
    labels: String,
    value: &'a Value,
    /// Of a histogram.
    bounds: &'a [f64],
}

impl Row<'_> {
    fn of<'a>(sample: &'a Sample, common: &str, config: &'a StatsConfig) -> Row<'a> {
        let mut labels = common.to_owned();
        let metric = own_metric(sample, &mut labels)
            .unwrap_or_else(|| envoys_metric(sample, &mut labels, config));
        let configured = match &sample.value {
            Value::Histogram(_) if !config.buckets.is_empty() => config.bounds(&sample.to_string()),
            _ => None,
        };
        let bounds = configured.unwrap_or(&PROMETHEUS_BOUNDS);
        Row { metric, labels, value: &sample.value, bounds }
    }

    fn order(&self) -> u8 {
        match self.value {
            Value::Counter(_) => 0,
            Value::Gauge(_) => 1,
            Value::Histogram(_) => 2,
        }
    }

    fn type_name(&self) -> &'static str {
        ["counter", "gauge", "histogram"][usize::from(self.order())]
    }

    fn print(&self, out: &mut String) {
        let Row { metric, labels, value, bounds } = self;
        let histogram = match value {
            Value::Counter(n) | Value::Gauge(n) => {
                return line(out, format_args!("{metric}{{{labels}}} {n}"));
            }
            Value::Histogram(histogram) => histogram,
        };
        let comma = if labels.is_empty() { "" } else { "," };
        let count = histogram.count();
        for (bound, n) in bounds.iter().zip(histogram.cumulative(bounds)) {
            line(out, format_args!("{metric}_bucket{{{labels}{comma}le=\"{bound}\"}} {n}"));
        }
        line(out, format_args!("{metric}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}"));
        line(out, format_args!("{metric}_sum{{{labels}}} {}", histogram.sum()));
        line(out, format_args!("{metric}_count{{{labels}}} {count}"));
    }
}

/// The metric and the labels of what Envoy does not have, or has by other means than a name.
fn own_metric(sample: &Sample, labels: &mut String) -> Option<String> {
    let prefix = match &sample.scope {
        Scope::AccessLog => "outrigger_access_log",
        Scope::Discovery(family) => match &**family {
            "cluster_manager.cds" | "listener_manager.lds" => return None,
            other => {
                label(labels, "type", other.rsplit('.').next().unwrap_or_default());
                "outrigger_xds"
            }
        },
        Scope::Istio(own) => {
            own.iter().for_each(|(name, value)| label(labels, name, value));
            // The labels follow in the name.
            return Some(sample.name.split('.').next().unwrap_or_default().to_owned());
        }
        Scope::Rpc(name) => {
            let (protocol, stat_prefix) = name.split_once('.').unwrap_or((name, ""));
            label(labels, "protocol", protocol);
            label(labels, "stat_prefix", stat_prefix);
            "outrigger_rpc"
        }
        Scope::ServiceApi(name) => {
            label(labels, "api", name);
            "outrigger_services_api"
        }
        Scope::ServiceRegistry(name) => {
            label(labels, "registry", name);
            "outrigger_services_registry"
        }
        Scope::Services => "outrigger_services",
        Scope::Shard(shard) => {
            label(labels, "shard", shard);
            "outrigger_shard"
        }
        Scope::Upgrade => "outrigger_upgrade",
        _ => return None,
    };
    Some(format!("{prefix}_{}", sanitized(&sample.name)))
}

/// The name without the parts that become labels.
fn envoys_metric(sample: &Sample, labels: &mut String, config: &StatsConfig) -> String {
    let name = sample.to_string();
    let mut gone = Vec::new();
    for DefaultTag { name: tag, value, part } in default_tags(sample, &name) {
        if config.has_default_tag(tag) {
            label(labels, &sanitized(tag), &name[value]);
            gone.push(part);
        }
    }
    for tag in &config.tags {
        if let Some((value, part)) = tag.value.of(&name) {
            label(labels, &sanitized(&tag.name), value);
            gone.push(part);
        }
    }
    let stays = |at: &usize| !gone.iter().any(|part: &Range<usize>| part.contains(at));
    let rest: String =
        name.char_indices().filter(|(at, _)| stays(at)).map(|(_, character)| character).collect();
    format!("envoy_{}", sanitized(&rest))
}

/// A part of a name that becomes a label.
struct DefaultTag {
    /// Envoy's name of the label.
    name: &'static str,
    value: Range<usize>,
    /// What goes from the name.
    part: Range<usize>,
}

/// What Envoy takes out of names by itself.
fn default_tags(sample: &Sample, name: &str) -> Vec<DefaultTag> {
    let mut tags = Vec::new();
    let scope = name.len() - sample.name.len();
    if let Some(tag) = code_tag(&sample.name, scope) {
        tags.push(tag);
    }
    // A value and the dot after it.
    let after = |name: &'static str, start: usize, value: &str| {
        let end = start + value.len();
        DefaultTag { name, value: start..end, part: start..end + 1 }
    };
    match &sample.scope {
        Scope::Cluster(cluster) => {
            tags.push(after("envoy.cluster_name", "cluster.".len(), cluster));
        }
        Scope::Grpc { cluster, method, .. } => {
            if let Some((service, method)) = method {
                let method_at = scope - method.len() - 1;
                tags.push(after("envoy.grpc_bridge_method", method_at, method));
                let service_at = method_at - service.len() - 1;
                tags.push(after("envoy.grpc_bridge_service", service_at, service));
            }
            tags.push(after("envoy.cluster_name", "cluster.".len(), cluster));
        }
        Scope::Http(prefix) => {
            tags.push(after("envoy.http_conn_manager_prefix", "http.".len(), prefix));
        }
        Scope::Listener(listener) => {
            tags.push(after("envoy.listener_address", "listener.".len(), listener));
        }
        Scope::Tcp(prefix) => tags.push(after("envoy.tcp_prefix", "tcp.".len(), prefix)),
        Scope::Worker { listener, worker } => {
            let worker = worker.to_string();
            tags.push(after("envoy.worker_id", scope - worker.len() - 1, &worker));
            tags.push(after("envoy.listener_address", "listener.".len(), listener));
        }
        _ => {}
    }
    tags
}

/// `upstream_rq_503` is `upstream_rq` with a code, `downstream_rq_5xx` is `downstream_rq_xx` with a
/// class.
fn code_tag(name: &str, scope: usize) -> Option<DefaultTag> {
    let (stem, code) = name.rsplit_once('_')?;
    let start = scope + stem.len() + 1;
    match code.as_bytes() {
        [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9'] => Some(DefaultTag {
            name: "envoy.response_code",
            value: start..start + 3,
            // With the dash before it.
            part: start - 1..start + 3,
        }),
        [b'0'..=b'9', b'x', b'x'] if matches!(stem, "downstream_rq" | "upstream_rq") => {
            let digit = start..start + 1;
            Some(DefaultTag {
                name: "envoy.response_code_class",
                value: digit.clone(),
                part: digit,
            })
        }
        _ => None,
    }
}

fn sanitized(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn label(labels: &mut String, key: &str, value: impl Display) {
    if !labels.is_empty() {
        labels.push(',');
    }
    labels.push_str(key);
    labels.push_str("=\"");
    for c in value.to_string().chars() {
        match c {
            '\\' => labels.push_str("\\\\"),
            '"' => labels.push_str("\\\""),
            '\n' => labels.push_str("\\n"),
            c => labels.push(c),
        }
    }
    labels.push('"');
}

fn scalar(value: &Value) -> Option<u64> {
    match value {
        Value::Counter(n) | Value::Gauge(n) => Some(*n),
        Value::Histogram(_) => None,
    }
}

fn histograms(samples: &[Sample]) -> impl Iterator<Item = (&Sample, &HistogramSnapshot)> {
    samples.iter().filter_map(|sample| match &sample.value {
        Value::Histogram(histogram) => Some((sample, histogram)),
        Value::Counter(_) | Value::Gauge(_) => None,
    })
}

/// Whole numbers without a fraction, as Envoy writes them.
fn number(value: f64) -> Json {
    if value.fract() == 0.0 { json!(value as u64) } else { json!(value) }
}

fn line(out: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(args);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use outrigger_xds::process_config::{StatSelection, StatTag, StatTagValue};
    use outrigger_xds::snapshot::{Finder, StringMatcher};

    use super::super::grpc::GrpcKind;
    use super::*;
    use crate::stats::Registry;

    fn registry() -> Registry {
        let registry = Registry::new(2);
        let cluster = registry.cluster(0, "app");
        cluster.upstream_rq_total.add(3);
        cluster.response(200);
        cluster.response(503);
        for ms in [1, 4, 5] {
            cluster.upstream_rq_time.record(ms);
        }
        registry.http(1, "in\"g").downstream_cx_active.inc();
        registry.listener(0, "127.0.0.1_80").downstream_cx_total.inc();
        registry
    }

    fn select(kind: Option<Kind>, filter: &str) -> Vec<Sample> {
        let filter = Some(Regex::new(filter).unwrap());
        Selection { filter, kind, ..Selection::default() }.apply(registry().collect())
    }

    #[test]
    fn text_is_envoys() {
        let samples =
            select(None, "^cluster.app.(upstream_rq_total|upstream_rq_time$|.*_connect_ms)");
        assert_eq!(
            text(&samples),
            "cluster.app.upstream_rq_total: 3\n\
             cluster.app.upstream_cx_connect_ms: No recorded values\n\
             cluster.app.upstream_rq_time: P0(nan,1) P25(nan,1) P50(nan,4) P75(nan,5) P90(nan,5) \
             P95(nan,5) P99(nan,5) P99.5(nan,5) P99.9(nan,5) P100(nan,5)\n"
        );
    }

    #[test]
    fn json_has_scalars_then_one_entry_of_histograms() {
        let rendered = json(&select(None, "^cluster.app.upstream_rq_(total|time)$"));
        let stats = rendered["stats"].as_array().unwrap();
        assert_eq!(stats[0], json!({"name": "cluster.app.upstream_rq_total", "value": 3}));
        let histograms = &stats[1]["histograms"];
        assert_eq!(histograms["supported_quantiles"][7], json!(99.5));
        let time = &histograms["computed_quantiles"][0];
        assert_eq!(time["name"], "cluster.app.upstream_rq_time");
        assert_eq!(time["values"][0], json!({"interval": null, "cumulative": 1}));
    }

    #[test]
    fn prometheus_extracts_envoys_tags() {
        let out = prometheus(&registry().collect(), &[], &StatsConfig::default());
        for expected in [
            "# TYPE envoy_cluster_upstream_rq counter\n\
             envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"app\"} 1\n\
             envoy_cluster_upstream_rq{envoy_response_code=\"503\",envoy_cluster_name=\"app\"} 1\n",
            "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"5\",envoy_cluster_name=\"app\"} 1\n",
            "envoy_cluster_circuit_breakers_default_cx_open{envoy_cluster_name=\"app\"} 0\n",
            "envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix=\"in\\\"g\"} 1\n",
            "envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",\
             envoy_http_conn_manager_prefix=\"in\\\"g\"} 0\n",
            "envoy_listener_worker_downstream_cx_total{envoy_worker_id=\"0\",\
             envoy_listener_address=\"127.0.0.1_80\"} 1\n",
            "envoy_server_live{} 0\n",
            "outrigger_shard_turns{shard=\"1\"} 0\n",
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"app\",le=\"0.5\"} 0\n\
             envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"app\",le=\"1\"} 1\n\
             envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"app\",le=\"5\"} 3\n",
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"app\",le=\"+Inf\"} 3\n\
             envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"app\"} 10\n\
             envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"app\"} 3\n",
        ] {
            assert!(out.contains(expected), "{expected}\nnot in\n{out}");
        }
    }

    #[test]
    fn methods_of_grpc_are_labels() {
        let registry = Registry::new(1);
        registry.grpc(0, "app", GrpcKind::Grpc).ended(Some(0));
        let method = ("a.B", "Get");
        registry.grpc_method(0, "app", GrpcKind::Grpc, method).unwrap().ended(Some(5));
        registry.grpc_method(0, "app", GrpcKind::GrpcWeb, method).unwrap().ended(Some(5));
        let out = prometheus(&registry.collect(), &[], &StatsConfig::default());
        for expected in [
            "# TYPE envoy_cluster_grpc_total counter\n\
             envoy_cluster_grpc_total{envoy_grpc_bridge_method=\"Get\",\
             envoy_grpc_bridge_service=\"a.B\",envoy_cluster_name=\"app\"} 1\n\
             envoy_cluster_grpc_total{envoy_cluster_name=\"app\"} 1\n",
            "envoy_cluster_grpc_5{envoy_grpc_bridge_method=\"Get\",\
             envoy_grpc_bridge_service=\"a.B\",envoy_cluster_name=\"app\"} 1\n",
            "envoy_cluster_grpc_web_failure{envoy_grpc_bridge_method=\"Get\",\
             envoy_grpc_bridge_service=\"a.B\",envoy_cluster_name=\"app\"} 1\n",
        ] {
            assert!(out.contains(expected), "{expected}\nnot in\n{out}");
        }
    }

    #[test]
    fn prometheus_puts_tags_on_everything() {
        let out = prometheus(
            &registry().collect(),
            &[("zone", "a"), ("rack", "7")],
            &StatsConfig::default(),
        );
        assert!(out.contains("envoy_server_live{zone=\"a\",rack=\"7\"} 0\n"));
        assert!(out.lines().all(|line| line.starts_with('#') || line.contains("{zone=\"a\",")));
    }

    #[test]
    fn prometheus_declares_each_metric_once_and_keeps_it_together() {
        let out = prometheus(&registry().collect(), &[], &StatsConfig::default());
        let mut declared = std::collections::BTreeSet::new();
        let mut current = String::new();
        for line in out.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().unwrap().to_owned();
                assert!(declared.insert(current.clone()), "{current} declared twice");
            } else {
                let name = line.split('{').next().unwrap();
                let suffix =
                    name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{line}"));
                assert!(["", "_bucket", "_sum", "_count"].contains(&suffix), "{line}");
            }
        }
    }

    #[test]
    fn section_1_labels_may_be_configured() {
        let found = |name: &str, regex: &str| StatTag {
            name: name.into(),
            value: StatTagValue::Found(Finder::new(regex).unwrap()),
        };
        let zone = StatTag { name: "zone".into(), value: StatTagValue::Fixed("a".into()) };
        // As Istio has them: instead of Envoy's own.
        let config = StatsConfig {
            tags: Box::new([
                found("cluster_name", r"^cluster\.((.*?);\.?)"),
                found("response.code", r"_rq(_(\d{3}))$"),
                zone,
            ]),
            default_tags: Some(Box::new([])),
            ..StatsConfig::default()
        };
        let registry = Registry::new(1);
        for name in ["outbound|80||web;", "xds-grpc"] {
            registry.cluster(0, name).response(200);
        }
        registry.shard(0).turns.inc();
        let out = prometheus(&registry.collect(), &[], &config);
        for line in [
            "envoy_cluster_upstream_rq{cluster_name=\"outbound|80||web\",response_code=\"200\",\
             zone=\"a\"} 1",
            "envoy_cluster_xds_grpc_upstream_rq{response_code=\"200\",zone=\"a\"} 1",
            "envoy_cluster_upstream_rq_2xx{cluster_name=\"outbound|80||web\",zone=\"a\"} 1",
            "envoy_server_live{zone=\"a\"} 0",
            "outrigger_shard_turns{shard=\"0\"} 1",
        ] {
            assert!(out.lines().any(|found| found == line), "{line}\nnot in\n{out}");
        }
        // Besides some of Envoy's own.
        let config = StatsConfig {
            default_tags: Some(Box::new(["envoy.cluster_name".into()])),
            tags: Box::new([found("digit", r"_rq_(([0-9])..)$")]),
            ..StatsConfig::default()
        };
        let out = prometheus(&registry.collect(), &[], &config);
        let line = "envoy_cluster_upstream_rq_{envoy_cluster_name=\"xds-grpc\",digit=\"2\"} 1";
        assert!(out.lines().any(|found| found == line), "{out}");
    }

    #[test]
    fn section_1_bounds_may_be_configured() {
        let matcher = StringMatcher::Prefix { text: (*b"cluster").into(), ignore_case: false };
        let buckets = Box::new([(matcher, Box::from([2.0, 4.5]))]);
        let config = StatsConfig { buckets, ..StatsConfig::default() };
        let out = prometheus(&registry().collect(), &[], &config);
        let bucket = "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"app\",le=";
        let found: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix(bucket)).collect();
        assert_eq!(found, ["\"2\"} 1", "\"4.5\"} 2", "\"+Inf\"} 3"]);
    }

    #[test]
    fn section_1_only_what_is_selected_exists() {
        let only = |text: &[u8]| StringMatcher::Prefix { text: text.into(), ignore_case: false };
        let selection = StatSelection::Only(Box::new([only(b"server.l"), only(b"http.a")]));
        let registry = Registry::showing(1, StatsConfig { selection, ..StatsConfig::default() });
        registry.http(0, "a").downstream_rq_total.inc();
        registry.http(0, "b").downstream_rq_total.inc();
        let names: Vec<String> = registry.collect().iter().map(ToString::to_string).collect();
        assert!(names.contains(&"http.a.downstream_rq_total".to_owned()));
        assert!(names.contains(&"server.live".to_owned()));
        assert!(names.iter().all(|name| name.starts_with("http.a") || name == "server.live"));
    }

    #[test]
    fn selections_narrow() {
        assert!(select(Some(Kind::TextReadouts), "").is_empty());
        assert!(
            select(Some(Kind::Gauges), "")
                .iter()
                .all(|sample| matches!(sample.value, Value::Gauge(_)))
        );
        let used = Selection { used_only: true, ..Selection::default() };
        let used = text(&used.apply(registry().collect()));
        assert!(used.contains("http.in\"g.downstream_cx_active: 1\n"));
        assert!(!used.contains(": 0\n") && !used.contains("No recorded"));
        let registry = registry();
        registry.server().state.set(0);
        registry.http(1, "in\"g").downstream_cx_active.dec();
        let filter = Some(Regex::new("state|active").unwrap());
        let used = Selection { filter, used_only: true, ..Selection::default() };
        assert_eq!(
            text(&used.apply(registry.collect())),
            "http.in\"g.downstream_cx_active: 0\nserver.state: 0\n"
        );
        let filter = Some(Regex::new("^cluster").unwrap());
        let inverted = Selection { filter, invert_filter: true, ..Selection::default() };
        assert!(!text(&inverted.apply(registry.collect())).contains("cluster.app"));
    }
}
