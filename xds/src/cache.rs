//! The last good configuration as the content of a file, from which a start is possible while no
//! management server answers.
//!
//! Layout: [`MAGIC`], a version (u32), xxHash64 of the rest (u64), both little-endian, and the rest: a
//! protobuf message. Invariant: what is read is what was written, for the same node, or nothing.
//! Secrets are never in it.

use bytes::Bytes;
use prost::Message;
use thiserror::Error;
use twox_hash::XxHash64;

use crate::client::ResourceType;
use crate::store::Kept;

/// Why a content can't be used.
#[derive(Debug, Error)]
pub enum CacheError {
    /// Something else.
    #[error("is not a cache of a configuration")]
    Foreign,
    /// It is of another version of the layout.
    #[error("has layout {0}; {LAYOUT} is the one that is known")]
    Layout(u32),
    /// It is not what was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// Its message can't be read.
    #[error("can't be read: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Another node wrote it, to which other resources are given.
    #[error("is of node {id:?} of cluster {cluster:?}")]
    Node {
        /// Whose it is.
        id: String,
        /// And of which cluster.
        cluster: String,
    },
}

/// Whose configuration it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheNode {
    /// `node.id`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
}

/// The content of a file that holds `resources`.
#[must_use]
pub fn encode(node: &CacheNode, resources: &[Kept]) -> Vec<u8> {
    let resources = resources.iter().map(|kept| Resource {
        type_url: kept.kind.type_url().to_owned(),
        key: kept.key.to_string(),
        name: kept.name.to_string(),
        version: kept.version.to_string(),
        content: kept.content.clone(),
    });
    let document = Document {
        node_id: node.id.clone(),
        node_cluster: node.cluster.clone(),
        resources: resources.collect(),
    };
    let mut bytes = Vec::with_capacity(HEAD_BYTES + document.encoded_len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&LAYOUT.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    document.encode_raw(&mut bytes);
    let sum = XxHash64::oneshot(0, &bytes[HEAD_BYTES..]);
    bytes[HEAD_BYTES - 8..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The resources in a file.
///
/// # Errors
/// See [`CacheError`].
pub fn decode(node: &CacheNode, content: &Bytes) -> Result<Vec<Kept>, CacheError> {
    let rest = content.strip_prefix(MAGIC).ok_or(CacheError::Foreign)?;
    let (layout, rest) = rest.split_first_chunk().ok_or(CacheError::Foreign)?;
    let layout = u32::from_le_bytes(*layout);
    if layout != LAYOUT {
        return Err(CacheError::Layout(layout));
    }
    let (sum, rest) = rest.split_first_chunk().ok_or(CacheError::Checksum)?;
    if u64::from_le_bytes(*sum) != XxHash64::oneshot(0, rest) {
        return Err(CacheError::Checksum);
    }
    // As slices of what was read.
    let document = Document::decode(content.slice(HEAD_BYTES..))?;
    if (&document.node_id, &document.node_cluster) != (&node.id, &node.cluster) {
        return Err(CacheError::Node { id: document.node_id, cluster: document.node_cluster });
    }
    let kept = document.resources.into_iter().filter_map(|resource| {
        Some(Kept {
            // Of a type that is no longer asked for.
            kind: ResourceType::of_url(&resource.type_url)?,
            key: resource.key.into(),
            name: resource.name.into(),
            version: resource.version.into(),
            content: resource.content,
        })
    });
    Ok(kept.collect())
}

#[derive(Clone, PartialEq, prost::Message)]
struct Document {
    #[prost(string, tag = "1")]
    node_id: String,
    #[prost(string, tag = "2")]
    node_cluster: String,
    #[prost(message, repeated, tag = "3")]
    resources: Vec<Resource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    version: String,
    #[prost(bytes = "bytes", tag = "5")]
    content: Bytes,
}

/// What such files begin with.
pub const MAGIC: &[u8] = b"outrigger config\n";
const LAYOUT: u32 = 1;
const HEAD_BYTES: usize = MAGIC.len() + 4 + 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> CacheNode {
        CacheNode { id: "node".to_owned(), cluster: "cluster".to_owned() }
    }

    fn kept() -> Vec<Kept> {
        let resource = |kind, name: &str| Kept {
            kind,
            key: name.into(),
            name: name.into(),
            version: "7".into(),
            content: Bytes::copy_from_slice(name.as_bytes()),
        };
        vec![resource(ResourceType::Cluster, "a"), resource(ResourceType::Listener, "b")]
    }

    #[test]
    fn what_is_written_is_read() {
        let content = encode(&node(), &kept());
        assert_eq!(decode(&node(), &content.into()).unwrap(), kept());
    }

    #[test]
    fn every_change_of_a_byte_and_every_cut_is_seen() {
        let content = encode(&node(), &kept());
        for at in 0..content.len() {
            let mut changed = content.clone();
            changed[at] ^= 1;
            assert!(decode(&node(), &changed.into()).is_err(), "{at}");
            assert!(decode(&node(), &content[..at].to_vec().into()).is_err(), "{at}");
        }
    }

    #[test]
    fn another_node_s_is_of_no_use() {
        let content = Bytes::from(encode(&node(), &kept()));
        let other = CacheNode { id: "other".to_owned(), ..node() };
        let error = decode(&other, &content).unwrap_err();
        assert_eq!(error.to_string(), "is of node \"node\" of cluster \"cluster\"");
    }

    #[test]
    fn a_later_layout_is_left_alone() {
        let mut content = encode(&node(), &kept());
        content[MAGIC.len()] = 2;
        let error = decode(&node(), &content.into()).unwrap_err();
        assert!(matches!(error, CacheError::Layout(2)));
    }
}
