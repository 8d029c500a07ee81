//! Who the two ends of a request are: Istio's exchange of metadata in headers (xds.md B9).
//!
//! What a peer says is decoded once and then known by its id. Invariant: what is known under an id is what
//! was sent with it this time: a peer cannot pass for another by its id alone.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_codecs::http::{Field, FieldKind};
use outrigger_codecs::peer_metadata::Workload;
use outrigger_xds::bootstrap::Node;
use outrigger_xds::snapshot::{PeerMetadata, Propagation};

use crate::cluster::ClusterRuntime;
use crate::istio::own_workload;
use crate::shard::Shard;

use super::super::head::{FieldWriter, HeadSink};
use super::Ask;

pub(super) struct PeerFilter {
    config: Arc<PeerMetadata>,
    own: Rc<Own>,
}

/// Who we are, as it is told.
struct Own {
    id: Box<[u8]>,
    metadata: Box<str>,
}

/// What was told and learned with one request.
#[derive(Default)]
pub(in crate::http) struct PeerCall {
    /// Who sent the request.
    pub(in crate::http) client: Option<Rc<Workload>>,
    /// Who answered it.
    pub(in crate::http) upstream: Option<Rc<Workload>>,
    /// The client's headers end here.
    ends_request: bool,
    /// Which labels are kept of upstream's, whose headers end here.
    upstream_labels: Option<Arc<PeerMetadata>>,
    tells_upstream: Option<Rc<Own>>,
    /// The client sent its id, and so gets ours; likewise its metadata.
    tells_client: Option<Rc<Own>>,
    id_came: bool,
    metadata_came: bool,
}

impl PeerFilter {
    pub(super) fn new(node: &Node, config: &Arc<PeerMetadata>) -> Self {
        Self { own: Rc::new(Own::new(node, &config.additional_labels)), config: Arc::clone(config) }
    }

    pub(super) fn apply(&self, ask: &Ask<'_>, call: &mut PeerCall) {
        let config = &self.config;
        if config.downstream_discovery {
            let peer = Said::by(ask.request.fields());
            call.ends_request = true;
            call.id_came = peer.id.is_some();
            call.metadata_came = peer.metadata.is_some();
            call.client = ask.shard.workloads.borrow_mut().find(&peer, &config.additional_labels);
        }
        if config.upstream_discovery {
            call.upstream_labels = Some(Arc::clone(config));
        }
        if let Some(to) = config.upstream_propagation
            && !stays_silent(to, ask.cluster)
        {
            call.tells_upstream = Some(Rc::clone(&self.own));
        }
        if let Some(to) = config.downstream_propagation
            && !stays_silent(to, ask.cluster)
        {
            call.tells_client = Some(Rc::clone(&self.own));
        }
    }
}

/// Whether a cluster is not to be told who we are, nor the client of its response.
fn stays_silent(to: Propagation, cluster: Option<&ClusterRuntime>) -> bool {
    let Some(cluster) = cluster else { return false };
    let istio = &cluster.config.istio;
    let is_external = istio.external || &*cluster.config.name == PASSTHROUGH;
    istio.disable_metadata_exchange || (to.skip_external_clusters && is_external)
}

impl PeerCall {
    pub(super) fn drops_from_request(&self, kind: FieldKind) -> bool {
        is_ours(kind) && (self.ends_request || self.tells_upstream.is_some())
    }

    pub(super) fn write_request<S: HeadSink>(&self, writer: &mut FieldWriter<'_, S>) {
        let Some(own) = &self.tells_upstream else { return };
        writer.field(ID, &own.id);
        writer.field(METADATA, own.metadata.as_bytes());
    }

    pub(super) fn request_value(&self, name: &str) -> Option<&[u8]> {
        let own = self.tells_upstream.as_deref()?;
        match name {
            ID => Some(&own.id),
            METADATA => Some(own.metadata.as_bytes()),
            _ => None,
        }
    }

    pub(super) fn take_response(&mut self, shard: &Shard, fields: &[Field<'_>]) {
        if let Some(config) = &self.upstream_labels {
            let said = Said::by(fields);
            self.upstream = shard.workloads.borrow_mut().find(&said, &config.additional_labels);
        }
    }

    pub(super) fn drops_from_response(&self, kind: FieldKind) -> bool {
        let told = self.tells_client.is_some();
        match kind {
            FieldKind::XEnvoyPeerMetadataId => {
                self.upstream_labels.is_some() || (told && self.id_came)
            }
            FieldKind::XEnvoyPeerMetadata => {
                self.upstream_labels.is_some() || (told && self.metadata_came)
            }
            _ => false,
        }
    }

    pub(super) fn write_response<S: HeadSink>(&self, writer: &mut FieldWriter<'_, S>) {
        let Some(own) = &self.tells_client else { return };
        if self.id_came {
            writer.verbatim(ID, &own.id);
        }
        if self.metadata_came {
            writer.verbatim(METADATA, own.metadata.as_bytes());
        }
    }
}

fn is_ours(kind: FieldKind) -> bool {
    matches!(kind, FieldKind::XEnvoyPeerMetadata | FieldKind::XEnvoyPeerMetadataId)
}

impl Own {
    fn new(node: &Node, labels: &[Box<str>]) -> Self {
        let fits = node.id.bytes().all(|byte| byte >= b' ' && byte != 0x7f);
        let id: &[u8] = if fits { node.id.as_bytes() } else { b"" };
        Self { id: id.into(), metadata: own_workload(node, labels).to_header().into() }
    }
}

/// What a message says of its sender.
struct Said<'b> {
    id: Option<&'b [u8]>,
    metadata: Option<&'b [u8]>,
}

impl<'b> Said<'b> {
    fn by(fields: &[Field<'b>]) -> Self {
        let mut said = Self { id: None, metadata: None };
        for field in fields {
            match field.kind {
                FieldKind::XEnvoyPeerMetadataId => _ = said.id.get_or_insert(field.value),
                FieldKind::XEnvoyPeerMetadata => _ = said.metadata.get_or_insert(field.value),
                _ => {}
            }
        }
        said
    }
}

/// Workloads that a shard has met, by the id that they sent.
#[derive(Default)]
pub struct WorkloadCache {
    known: HashMap<Box<[u8]>, Known>,
}

struct Known {
    metadata: Box<[u8]>,
    labels: Box<[Box<str>]>,
    /// Nothing for what can't be read.
    workload: Option<Rc<Workload>>,
}

impl WorkloadCache {
    /// Who sent a message; nothing when it does not say, or can't be understood.
    fn find(&mut self, said: &Said<'_>, labels: &[Box<str>]) -> Option<Rc<Workload>> {
        let metadata = said.metadata.filter(|metadata| !metadata.is_empty())?;
        if metadata.len() > METADATA_BYTES_MAX {
            return None;
        }
        // Without an id it is known by what it says.
        let id = said.id.filter(|id| !id.is_empty()).unwrap_or(metadata);
        if let Some(known) = self.known.get(id)
            && *known.metadata == *metadata
            && *known.labels == *labels
        {
            return known.workload.clone();
        }
        let workload = Workload::from_header(metadata, labels).ok().map(Rc::new);
        if self.known.len() >= WORKLOADS_MAX {
            let mut left = WORKLOADS_MAX / 4;
            self.known.retain(|_, _| {
                left = left.saturating_sub(1);
                left == 0
            });
        }
        let known =
            Known { metadata: metadata.into(), labels: labels.into(), workload: workload.clone() };
        self.known.insert(id.into(), known);
        workload
    }
}

const ID: &str = "x-envoy-peer-metadata-id";
const METADATA: &str = "x-envoy-peer-metadata";

/// The cluster of what is not in the mesh.
const PASSTHROUGH: &str = "PassthroughCluster";

/// Workloads known to a shard at once.
const WORKLOADS_MAX: usize = 500;

/// Longer metadata is nobody's.
const METADATA_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn header(name: &str) -> String {
        Workload { name: name.to_owned(), ..Workload::default() }.to_header()
    }

    fn said<'b>(id: &'b str, metadata: &'b str) -> Said<'b> {
        let text = |text: &'b str| Some(text.as_bytes()).filter(|text| !text.is_empty());
        Said { id: text(id), metadata: text(metadata) }
    }

    #[test]
    fn b_9_a_peer_is_decoded_once() {
        let mut cache = WorkloadCache::default();
        let (one, other) = (header("one"), header("other"));
        let first = cache.find(&said("id", &one), &[]).unwrap();
        assert_eq!(first.name, "one");
        assert!(Rc::ptr_eq(&first, &cache.find(&said("id", &one), &[]).unwrap()));
        // An id is not proof.
        assert_eq!(cache.find(&said("id", &other), &[]).unwrap().name, "other");
        assert!(cache.find(&said("id", ""), &[]).is_none());
        assert!(cache.find(&said("id", "!"), &[]).is_none());
        assert_eq!(cache.known.len(), 1);
        // Other labels are another reading.
        let labelled =
            Workload { labels: vec![("role".into(), "front".into())], ..Workload::default() };
        let text = labelled.to_header();
        assert!(cache.find(&said("id", &text), &[]).unwrap().labels.is_empty());
        assert_eq!(cache.find(&said("id", &text), &["role".into()]).unwrap().labels.len(), 1);
    }

    #[test]
    fn b_9_made_up_peers_take_no_memory() {
        let mut cache = WorkloadCache::default();
        let metadata = header("one");
        for number in 0..3 * WORKLOADS_MAX {
            cache.find(&said(&number.to_string(), &metadata), &[]);
            assert!(cache.known.len() <= WORKLOADS_MAX);
        }
        assert!(cache.find(&said("x", &"A".repeat(METADATA_BYTES_MAX + 1)), &[]).is_none());
    }

    #[test]
    fn b_4_who_we_are_is_what_the_node_says() {
        let metadata = json!({
            "NAME": "web-1", "NAMESPACE": "shop", "WORKLOAD_NAME": "web", "CLUSTER_ID": "c",
            "OWNER": "kubernetes://apis/apps/v1/namespaces/shop/deployments/web",
            "LABELS": { "app": "web", "version": "v1", "role": "front",
                "service.istio.io/canonical-name": "w", "service.istio.io/canonical-revision": "r" },
        });
        let node = Node { id: "sidecar~1".to_owned(), metadata, ..Node::default() };
        let own = Own::new(&node, &["role".into()]);
        assert_eq!(&*own.id, b"sidecar~1");
        let told = Workload::from_header(own.metadata.as_bytes(), &["role"]).unwrap();
        assert_eq!(told, own_workload(&node, &["role".into()]));
        assert_eq!((&*told.name, &*told.canonical_name, &*told.app), ("web", "w", "web"));
        assert_eq!(told.labels, [("role".to_owned(), "front".to_owned())]);
        let odd = Own::new(&Node { id: "a\r\nb".to_owned(), ..Node::default() }, &[]);
        assert_eq!(&*odd.id, b"");
    }
}
