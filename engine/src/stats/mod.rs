//! Statistics: one set of counters per shard and subject, merged by whoever reads.
//!
//! The invariant that matters: a cell has **one writer**. A shard (or the control thread, for the
//! sets it owns) asks the [`Registry`] once for its own instance of a set, keeps the `Arc`, and
//! from then on writes with a relaxed load and a relaxed store: no lock, no read-modify-write, no
//! cache line that another shard writes. A reader on any thread does relaxed loads only, so reading
//! never stops or slows a shard; what it sees may be a few nanoseconds old, and two cells may be
//! from slightly different instants.
//!
//! Names and units are Envoy's (`cluster.<name>.upstream_rq_total`, times in milliseconds), so that
//! dashboards and alerts written for it keep working; what only Outrigger has is under `shard.`,
//! `access_log.` and the fields marked so in [`sets`].

pub mod carried;
pub mod cell;
pub mod grpc;
pub mod histogram;
pub mod istio;
pub mod registry;
pub mod render;
pub mod sets;

pub use carried::Carried;
pub use cell::{Counter, Gauge};
pub use grpc::{GrpcCallStats, GrpcKind};
pub use histogram::{Histogram, HistogramSnapshot};
pub use istio::{IstioLabels, IstioMetrics};
pub use registry::{Registry, Sample, Scope, Value};
pub use sets::{
    AccessLogStats, ClusterStats, ConfigStats, ControlPlaneStats, CorsStats, DemandStats,
    DiscoveryStats, DrainStats, ExtensionStats, FaultStats, FilesystemStats, HostStats, Http2Stats,
    HttpStats, ListenerStats, RpcStats, ServerStats, ServiceApiStats, ServiceRegistryStats,
    ServicesStats, ShardStats, TcpStats, TlsStats, UpgradeStats,
};
