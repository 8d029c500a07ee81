//! What a bootstrap says of the process itself (contract section 1): its log, its statistics, its limits.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value as Json;

use crate::compile::runtime::Runtime;
use crate::snapshot::{Finder, StringMatcher};

/// Of the process, apart from what it serves.
#[derive(Debug, Clone, Default)]
pub struct ProcessConfig {
    /// The shape of a line of the application log, in the flags of `--log-format`.
    pub log_format: Option<Box<str>>,
    /// What is shown of statistics, and how.
    pub stats: StatsConfig,
    /// Connections from clients at once; more are closed. Not of listeners that are exempt.
    pub connections_max: Option<u32>,
}

/// What is shown of statistics, and how.
#[derive(Debug, Clone)]
pub struct StatsConfig {
    /// Which are.
    pub selection: StatSelection,
    /// Labels of the metrics that Prometheus is shown, besides Envoy's own.
    pub tags: Box<[StatTag]>,
    /// Envoy's own labels, by Envoy's names; `None`: all of them.
    pub default_tags: Option<Box<[Box<str>]>>,
    /// Bounds of histograms that match; the first decides.
    pub buckets: Box<[(StringMatcher, Box<[f64]>)]>,
}

impl Default for StatsConfig {
    fn default() -> StatsConfig {
        StatsConfig {
            selection: StatSelection::All,
            tags: Box::default(),
            default_tags: None,
            buckets: Box::default(),
        }
    }
}

impl StatsConfig {
    /// Whether the label that Envoy calls `name` is taken out of names.
    #[must_use]
    pub fn has_default_tag(&self, name: &str) -> bool {
        self.default_tags.as_ref().is_none_or(|tags| tags.iter().any(|tag| **tag == *name))
    }

    /// The bounds of a histogram, if they are configured.
    #[must_use]
    pub fn bounds(&self, name: &str) -> Option<&[f64]> {
        let mut buckets = self.buckets.iter();
        let (_, bounds) = buckets.find(|(matcher, _)| matcher.matches(name.as_bytes()))?;
        Some(bounds)
    }
}

/// Which statistics there are.
#[derive(Debug, Clone, Default)]
pub enum StatSelection {
    /// All.
    #[default]
    All,
    /// None.
    Nothing,
    /// Those whose names match nothing of this.
    Except(Box<[StringMatcher]>),
    /// Those whose names match anything of this.
    Only(Box<[StringMatcher]>),
}

impl StatSelection {
    /// Whether there is a statistic of this name.
    #[must_use]
    pub fn takes(&self, name: &str) -> bool {
        let any = |list: &[StringMatcher]| list.iter().any(|item| item.matches(name.as_bytes()));
        match self {
            StatSelection::All => true,
            StatSelection::Nothing => false,
            StatSelection::Except(list) => !any(list),
            StatSelection::Only(list) => any(list),
        }
    }
}

/// A label of metrics.
#[derive(Debug, Clone)]
pub struct StatTag {
    /// Its name.
    pub name: Box<str>,
    /// Where its value comes from.
    pub value: StatTagValue,
}

/// Where the value of a label comes from.
#[derive(Debug, Clone)]
pub enum StatTagValue {
    /// It is always this.
    Fixed(Box<str>),
    /// It is a part of the name: the second group, or the first if there is no other.
    Found(Finder),
}

impl StatTagValue {
    /// The value for a statistic, and what goes from its name: the first group.
    #[must_use]
    pub fn of<'a>(&'a self, name: &'a str) -> Option<(&'a str, Range<usize>)> {
        match self {
            StatTagValue::Fixed(value) => Some((value, 0..0)),
            StatTagValue::Found(finder) => {
                let (gone, value) = finder.groups(name)?;
                let value = value.unwrap_or_else(|| gone.clone());
                Some((name.get(value)?, gone))
            }
        }
    }
}

/// The layers of the runtime, to be shown and changed while it is used. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RuntimeLayers(pub(crate) Runtime);

impl RuntimeLayers {
    /// Each layer's name and values by key; later layers win.
    #[must_use]
    pub fn layers(&self) -> Vec<(String, BTreeMap<String, Json>)> {
        self.0.layers()
    }

    /// Sets values in the admin layer, or takes away those that are empty; false if there is no such
    /// layer. What is compiled already goes on with what it read, except for fractions.
    #[must_use]
    pub fn modify(&self, values: &[(String, String)]) -> bool {
        self.0.modify(values)
    }
}

/// Labels that Envoy takes out of names by itself.
pub const DEFAULT_TAGS: &[&str] = &[
    "envoy.cluster_name",
    "envoy.grpc_bridge_method",
    "envoy.grpc_bridge_service",
    "envoy.http_conn_manager_prefix",
    "envoy.listener_address",
    "envoy.response_code",
    "envoy.response_code_class",
    "envoy.tcp_prefix",
    "envoy.worker_id",
];
