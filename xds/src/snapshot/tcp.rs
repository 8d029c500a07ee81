//! The `tcp_proxy` network filter (contract section 4).

use std::sync::Arc;
use std::time::Duration;

use super::access_log::AccessLog;
use super::cluster_names::ClusterRef;

/// Relays bytes both ways; FIN is forwarded per direction.
#[derive(Debug, Clone)]
pub struct TcpProxy {
    /// Stats root is `tcp.<stat_prefix>`.
    pub stat_prefix: Box<str>,
    /// Where connections go.
    pub target: TcpTarget,
    /// No bytes either way for this long closes the connection; `None` never.
    pub idle_timeout: Option<Duration>,
    /// Longest life of a downstream connection; `None` unlimited.
    pub max_downstream_connection_duration: Option<Duration>,
    /// Connects tried, each to the next host; at least 1.
    pub max_connect_attempts: u32,
    /// Written once per connection, at its end.
    pub access_log: Vec<Arc<AccessLog>>,
}

/// The cluster of a connection.
#[derive(Debug, Clone)]
pub enum TcpTarget {
    /// Always this one.
    Cluster(ClusterRef),
    /// Drawn by weight, once per connection.
    Weighted {
        /// At least one entry.
        clusters: Box<[TcpWeightedCluster]>,
        /// Sum of the weights, 1..=u32::MAX.
        total_weight: u32,
    },
}

/// One entry of a weighted choice.
#[derive(Debug, Clone)]
pub struct TcpWeightedCluster {
    /// The cluster.
    pub cluster: ClusterRef,
    /// Its share of the total; may be 0.
    pub weight: u32,
}

impl TcpTarget {
    /// The cluster for one connection; `random` is uniform over u64.
    #[must_use]
    pub fn pick(&self, random: u64) -> &ClusterRef {
        match self {
            TcpTarget::Cluster(cluster) => cluster,
            TcpTarget::Weighted { clusters, total_weight } => {
                let mut point = random % u64::from((*total_weight).max(1));
                for entry in clusters {
                    let weight = u64::from(entry.weight);
                    if point < weight {
                        return &entry.cluster;
                    }
                    point -= weight;
                }
                // The point lies below the sum of the weights, so the loop has returned; the last
                // entry is the answer that needs no panic.
                &clusters[clusters.len() - 1].cluster
            }
        }
    }
}
