//! Istio's standard metrics (xds.md B13), by their labels.
//!
//! Labels are made of what peers say, so there is a bound: at most [`LABEL_SETS_MAX`] sets of labels are
//! told apart, and what comes with another set counts nowhere but in the number of those. Invariant: a
//! set of labels has one set of cells for each slot.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use super::cell::Counter;
use super::histogram::Histogram;
use super::registry::{Sample, Scope, Value, merge};
use super::sets::{Stat, StatSet};

/// What was counted with one set of labels, on one shard. As with Istio, only what was counted at least
/// once is listed.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct IstioMetrics {
    /// Requests that ended.
    pub requests_total: Counter,
    /// From the first byte of a request to the end of its response, in milliseconds.
    pub request_duration_milliseconds: Histogram,
    /// Head and body.
    pub request_bytes: Histogram,
    /// Head and body.
    pub response_bytes: Histogram,
    /// Of gRPC.
    pub request_messages_total: Counter,
    /// Of gRPC.
    pub response_messages_total: Counter,
    /// Connections that began.
    pub tcp_connections_opened_total: Counter,
    /// Connections that ended.
    pub tcp_connections_closed_total: Counter,
    /// To downstream.
    pub tcp_sent_bytes_total: Counter,
    /// From downstream.
    pub tcp_received_bytes_total: Counter,
}

impl StatSet for IstioMetrics {
    fn visit<'a>(&'a self, visit: &mut dyn FnMut(&str, Stat<'a>)) {
        for (name, counter) in [
            ("requests_total", &self.requests_total),
            ("request_messages_total", &self.request_messages_total),
            ("response_messages_total", &self.response_messages_total),
            ("tcp_connections_opened_total", &self.tcp_connections_opened_total),
            ("tcp_connections_closed_total", &self.tcp_connections_closed_total),
            ("tcp_sent_bytes_total", &self.tcp_sent_bytes_total),
            ("tcp_received_bytes_total", &self.tcp_received_bytes_total),
        ] {
            if counter.value() > 0 {
                visit(name, Stat::Counter(counter.value()));
            }
        }
        for (name, histogram) in [
            ("request_duration_milliseconds", &self.request_duration_milliseconds),
            ("request_bytes", &self.request_bytes),
            ("response_bytes", &self.response_bytes),
        ] {
            if histogram.is_used() {
                visit(name, Stat::Histogram(histogram));
            }
        }
    }
}

/// Names and values, in the order in which they are printed.
pub type IstioLabels = Arc<[(&'static str, Box<str>)]>;

/// All sets, by labels and slot.
#[derive(Debug, Default)]
pub(super) struct IstioFamily {
    sets: BTreeMap<IstioLabels, Vec<Option<Arc<IstioMetrics>>>>,
    /// The version of Istio, once metrics are kept at all.
    build: Option<Box<str>>,
}

impl IstioFamily {
    /// One slot's set, made when first asked for; nothing when there are too many others.
    pub(super) fn slot(
        &mut self,
        slots: usize,
        slot: usize,
        labels: &IstioLabels,
    ) -> Option<Arc<IstioMetrics>> {
        if !self.sets.contains_key(labels) && self.sets.len() >= LABEL_SETS_MAX {
            return None;
        }
        let sets = self.sets.entry(Arc::clone(labels)).or_insert_with(|| vec![None; slots]);
        Some(Arc::clone(sets[slot].get_or_insert_default()))
    }

    pub(super) fn set_build(&mut self, version: &str) {
        self.build.get_or_insert_with(|| version.into());
    }

    pub(super) fn merge_into(&self, samples: &mut Vec<Sample>) {
        if let Some(version) = &self.build {
            let labels: IstioLabels =
                Arc::new([("component", "proxy".into()), ("tag", version.clone())]);
            samples.push(named("build", &labels, Value::Gauge(1)));
        }
        let mut own = Vec::new();
        for (labels, slots) in &self.sets {
            merge(&mut own, &Scope::Process, slots.iter().flatten());
            samples.extend(own.drain(..).map(|sample| named(&sample.name, labels, sample.value)));
        }
    }
}

/// As Istio names it: the metric, then each label and its value.
fn named(metric: &str, labels: &IstioLabels, value: Value) -> Sample {
    let mut name = format!("istio_{metric}");
    for (label, value) in labels.iter() {
        // A line of `/stats` ends its name at a colon. Writing to a String cannot fail.
        let _ = write!(name, ".{label}.{}", value.replace(':', "_"));
    }
    Sample::new(Scope::Istio(Arc::clone(labels)), name, value)
}

/// Sets of labels that are told apart: each takes up to 21 KiB for each shard.
pub const LABEL_SETS_MAX: usize = 2000;

#[cfg(test)]
mod tests {
    use outrigger_xds::process_config::StatsConfig;

    use super::super::Registry;
    use super::super::render::prometheus;
    use super::*;

    fn labels(workload: &str) -> IstioLabels {
        Arc::new([("reporter", "source".into()), ("source_workload", workload.into())])
    }

    #[test]
    fn b_13_metrics_are_found_under_their_labels() {
        let registry = Registry::new(2);
        for slot in 0..2 {
            let metrics = registry.istio(slot, &labels("web")).unwrap();
            metrics.requests_total.add(3);
            metrics.request_bytes.record(5);
        }
        registry.istio_build("1.2.3");
        let samples: Vec<_> = registry
            .collect()
            .into_iter()
            .filter(|sample| sample.to_string().starts_with("istiocustom."))
            .collect();
        let names: Vec<_> = samples.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "istiocustom.istio_build.component.proxy.tag.1.2.3",
                "istiocustom.istio_request_bytes.reporter.source.source_workload.web",
                "istiocustom.istio_requests_total.reporter.source.source_workload.web",
            ]
        );
        assert_eq!(samples[2].value, Value::Counter(6));
        let text = prometheus(&samples, &[], &StatsConfig::default());
        for line in [
            "# TYPE istio_requests_total counter",
            "istio_requests_total{reporter=\"source\",source_workload=\"web\"} 6",
            "istio_build{component=\"proxy\",tag=\"1.2.3\"} 1",
            "istio_request_bytes_count{reporter=\"source\",source_workload=\"web\"} 2",
            "istio_request_bytes_bucket{reporter=\"source\",source_workload=\"web\",le=\"5\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nnot in\n{text}");
        }
    }

    #[test]
    fn b_13_label_sets_are_bounded() {
        let registry = Registry::new(1);
        for number in 0..LABEL_SETS_MAX {
            assert!(registry.istio(0, &labels(&number.to_string())).is_some());
        }
        assert!(registry.istio(0, &labels("one more")).is_none());
        assert!(registry.istio(0, &labels("7")).is_some());
    }

    #[test]
    fn a_05_names_hold_no_colon() {
        let registry = Registry::new(1);
        let metrics = registry.istio(0, &labels("spiffe://a/b")).unwrap();
        metrics.requests_total.inc();
        let samples = registry.collect();
        assert!(samples.iter().all(|sample| !sample.to_string().contains(':')));
        assert!(
            prometheus(&samples, &[], &StatsConfig::default())
                .contains("source_workload=\"spiffe://a/b\"")
        );
    }
}
