//! Statistics as text: Envoy's `/stats`, its JSON, and the Prometheus exposition format.
//!
//! Pure functions from samples to bytes; who asks and over what socket is not their business.
//! Differences from Envoy: quantiles of the last flush interval are always `nan` (`null` in JSON),
//! which Envoy too prints for an idle interval, because nothing here runs on a flush timer. Services
//! and methods of gRPC are always labels of Prometheus, where Envoy takes the first two words of the
//! name for them: for services without dots (`replace_dots_in_grpc_service_name`) that is the same.

use std::fmt::{Display, Write};

use regex::Regex;
use serde_json::{Value as Json, json};

use super::grpc::GrpcKind;
use super::histogram::{HistogramSnapshot, PROMETHEUS_BOUNDS, QUANTILES};
use super::registry::{Sample, Scope, Value};

/// Which statistics to print.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only names in which this matches somewhere.
    pub filter: Option<Regex>,
    /// Turns `filter` round.
    pub invert_filter: bool,
    /// Only those with something in them: counters and gauges not zero, histograms not empty.
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
        let (kind, used) = match &sample.value {
            Value::Counter(n) => (Kind::Counters, *n > 0),
            Value::Gauge(n) => (Kind::Gauges, *n > 0),
            Value::Histogram(histogram) => (Kind::Histograms, histogram.count() > 0),
        };
        self.kind.is_none_or(|wanted| wanted == kind)
            && (used || !self.used_only)
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

/// The Prometheus text exposition format, version 0.0.4, with Envoy's metric names and labels.
///
/// `tags` are labels put on every sample; their names must be valid label names.
pub fn prometheus(samples: &[Sample], tags: &[(&str, &str)]) -> String {
    let mut common = String::new();
    for (name, value) in tags {
        label(&mut common, name, value);
    }
    let mut rows: Vec<Row<'_>> = samples.iter().map(|sample| Row::of(sample, &common)).collect();
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
}

impl Row<'_> {
    fn of<'a>(sample: &'a Sample, common: &str) -> Row<'a> {
        let (name, code_label) = split_code(&sample.name);
        let mut labels = common.to_owned();
        if let Some((key, value)) = code_label {
            label(&mut labels, key, value);
        }
        let prefix = match &sample.scope {
            Scope::AccessLog => "outrigger_access_log",
            Scope::Cluster(cluster) => {
                label(&mut labels, "envoy_cluster_name", cluster);
                "envoy_cluster"
            }
            Scope::ControlPlane => "envoy_control_plane",
            Scope::Discovery(family) => match &**family {
                "cluster_manager.cds" => "envoy_cluster_manager_cds",
                "listener_manager.lds" => "envoy_listener_manager_lds",
                other if other.starts_with("http.") => {
                    let (prefix, name) = other[5..].split_once(".rds.").unwrap_or((other, ""));
                    label(&mut labels, "envoy_http_conn_manager_prefix", prefix);
                    label(&mut labels, "envoy_rds_route_config", name);
                    "envoy_http_rds"
                }
                other => {
                    label(&mut labels, "type", other.rsplit('.').next().unwrap_or_default());
                    "outrigger_xds"
                }
            },
            Scope::Filesystem => "envoy_filesystem",
            Scope::Grpc { cluster, kind, method } => {
                if let Some((service, method)) = method {
                    label(&mut labels, "envoy_grpc_bridge_method", method);
                    label(&mut labels, "envoy_grpc_bridge_service", service);
                }
                label(&mut labels, "envoy_cluster_name", cluster);
                match kind {
                    GrpcKind::Grpc => "envoy_cluster_grpc",
                    GrpcKind::GrpcWeb => "envoy_cluster_grpc_web",
                }
            }
            Scope::Http(stat_prefix) => {
                label(&mut labels, "envoy_http_conn_manager_prefix", stat_prefix);
                "envoy_http"
            }
            Scope::Listener(listener) => {
                label(&mut labels, "envoy_listener_address", listener);
                "envoy_listener"
            }
            Scope::Process => "envoy",
            Scope::Rpc(name) => {
                let (protocol, stat_prefix) = name.split_once('.').unwrap_or((name, ""));
                label(&mut labels, "protocol", protocol);
                label(&mut labels, "stat_prefix", stat_prefix);
                "outrigger_rpc"
            }
            Scope::Server => "envoy_server",
            Scope::ServiceApi(name) => {
                label(&mut labels, "api", name);
                "outrigger_services_api"
            }
            Scope::ServiceRegistry(name) => {
                label(&mut labels, "registry", name);
                "outrigger_services_registry"
            }
            Scope::Services => "outrigger_services",
            Scope::Shard(shard) => {
                label(&mut labels, "shard", shard);
                "outrigger_shard"
            }
            Scope::Tcp(stat_prefix) => {
                label(&mut labels, "envoy_tcp_prefix", stat_prefix);
                "envoy_tcp"
            }
            Scope::Worker { listener, worker } => {
                label(&mut labels, "envoy_worker_id", worker);
                label(&mut labels, "envoy_listener_address", listener);
                "envoy_listener_worker"
            }
        };
        Row { metric: format!("{prefix}_{}", sanitized(name)), labels, value: &sample.value }
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
        let Row { metric, labels, value } = self;
        let histogram = match value {
            Value::Counter(n) | Value::Gauge(n) => {
                return line(out, format_args!("{metric}{{{labels}}} {n}"));
            }
            Value::Histogram(histogram) => histogram,
        };
        let comma = if labels.is_empty() { "" } else { "," };
        let count = histogram.count();
        for (bound, n) in PROMETHEUS_BOUNDS.iter().zip(histogram.cumulative()) {
            line(out, format_args!("{metric}_bucket{{{labels}{comma}le=\"{bound}\"}} {n}"));
        }
        line(out, format_args!("{metric}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}"));
        line(out, format_args!("{metric}_sum{{{labels}}} {}", histogram.sum()));
        line(out, format_args!("{metric}_count{{{labels}}} {count}"));
    }
}

/// `upstream_rq_503` is `upstream_rq` with a code, `downstream_rq_5xx` is `downstream_rq_xx` with a
/// class: the tags that Envoy extracts by default.
fn split_code(name: &str) -> (&str, Option<(&'static str, &str)>) {
    let Some((stem, code)) = name.rsplit_once('_') else { return (name, None) };
    match code.as_bytes() {
        [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9'] => (stem, Some(("envoy_response_code", code))),
        [b'0'..=b'9', b'x', b'x'] => {
            let class = Some(("envoy_response_code_class", &code[..1]));
            match stem {
                "downstream_rq" => ("downstream_rq_xx", class),
                "upstream_rq" => ("upstream_rq_xx", class),
                _ => (name, None),
            }
        }
        _ => (name, None),
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
        let out = prometheus(&registry().collect(), &[]);
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
        let out = prometheus(&registry.collect(), &[]);
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
        let out = prometheus(&registry().collect(), &[("zone", "a"), ("rack", "7")]);
        assert!(out.contains("envoy_server_live{zone=\"a\",rack=\"7\"} 0\n"));
        assert!(out.lines().all(|line| line.starts_with('#') || line.contains("{zone=\"a\",")));
    }

    #[test]
    fn prometheus_declares_each_metric_once_and_keeps_it_together() {
        let out = prometheus(&registry().collect(), &[]);
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
        let filter = Some(Regex::new("^cluster").unwrap());
        let inverted = Selection { filter, invert_filter: true, ..Selection::default() };
        assert!(!text(&inverted.apply(registry().collect())).contains("cluster.app"));
    }
}
