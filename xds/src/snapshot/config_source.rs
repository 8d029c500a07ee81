//! Where resources come from (contract section 1; xds.md A1).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A source of resources of one type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConfigSource {
    /// Where to ask.
    pub place: ConfigPlace,
    /// How long what waits for a first answer waits; `None` is for ever (W-08).
    pub initial_fetch_timeout: Option<Duration>,
}

/// Where a source is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConfigPlace {
    /// The one aggregated stream.
    Ads,
    /// A stream of its own.
    Api(Arc<ApiConfigSource>),
    /// A file, read again when it is replaced.
    Path(Arc<PathConfigSource>),
}

impl ConfigPlace {
    /// One word for a resource of this place: no other place and name have it.
    #[must_use]
    pub fn key(&self, name: &str) -> Box<str> {
        match self {
            ConfigPlace::Ads => name.into(),
            ConfigPlace::Api(api) => {
                let clusters: Vec<&str> =
                    api.services.iter().map(|service| &*service.cluster).collect();
                format!("\u{1f}grpc:{}\u{1f}{name}", clusters.join("\u{1f}")).into()
            }
            ConfigPlace::Path(file) => {
                format!("\u{1f}path:{}\u{1f}{name}", file.path.display()).into()
            }
        }
    }
}

/// Which of the two protocols is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Responses hold everything (GRPC).
    StateOfTheWorld,
    /// Responses hold what changed (DELTA_GRPC).
    Delta,
}

/// Management servers and how to talk to them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ApiConfigSource {
    /// Which protocol.
    pub variant: Variant,
    /// In order of preference (F-03); at least one.
    pub services: Vec<GrpcService>,
    /// Leave the node out of all but a stream's first message (C-01).
    pub set_node_on_first_message_only: bool,
    /// A bound on requests; `None` is unlimited (C-13).
    pub rate_limit: Option<RateLimit>,
}

/// A token bucket for requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Requests at once; at least 1.
    pub max_tokens: u32,
    /// Time in which one token comes back.
    pub refill: Duration,
}

/// One management server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GrpcService {
    /// A static cluster that is not EDS (contract section 22).
    pub cluster: Box<str>,
    /// `:authority`; the cluster's name if not configured.
    pub authority: Box<str>,
    /// Headers of the call.
    pub initial_metadata: Vec<(Box<str>, Box<str>)>,
    /// Bound on connecting and on the stream's head; `None` is none.
    pub timeout: Option<Duration>,
    /// A longer message ends the stream (C-11).
    pub message_bytes_max: u32,
    /// First and longest wait before the next try (F-02).
    pub backoff: (Duration, Duration),
}

/// A file that holds what a response would (a DiscoveryResponse as YAML, JSON or protobuf text form).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathConfigSource {
    /// The file.
    pub path: Box<Path>,
    /// Look for renames in this directory instead of the file's.
    pub watched_directory: Option<Box<Path>>,
}

/// What the bootstrap says of resources that come at run time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DynamicResources {
    /// Listeners.
    pub lds: Option<ConfigSource>,
    /// Clusters.
    pub cds: Option<ConfigSource>,
    /// The aggregated stream.
    pub ads: Option<Arc<ApiConfigSource>>,
}
