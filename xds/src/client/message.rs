//! The messages of the discovery services (xds.md A1), as far as a client reads and writes them.
//!
//! Written by hand, because the client is all that needs them: what is inside a resource is read by
//! descriptor elsewhere. Fields that carry nothing for us are not here and are skipped. Decoding copies
//! no resource: a body is a slice of the message it came in.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use thiserror::Error;

use super::wire;
use crate::snapshot::Variant;

/// What goes to a management server.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// State of the world. Its names are apart: mostly they are those of the last request.
    Sotw(DiscoveryRequest, Names),
    /// Delta.
    Delta(DeltaDiscoveryRequest),
}

/// Names as requests have them, written once for all that ask for the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Bytes);

/// What comes from a management server.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// State of the world.
    Sotw(DiscoveryResponse),
    /// Delta.
    Delta(DeltaDiscoveryResponse),
}

/// Bytes that are no response.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum DecodeError {
    /// They are not the message.
    #[error("malformed response: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// It has more than [`ENTRIES_MAX`] entries: few bytes would become much memory.
    #[error("a response of more than {ENTRIES_MAX} resources and names")]
    TooManyEntries,
}

impl Request {
    /// The type that it is about.
    #[must_use]
    pub fn type_url(&self) -> &str {
        match self {
            Request::Sotw(request, _) => &request.type_url,
            Request::Delta(request) => &request.type_url,
        }
    }

    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Request::Sotw(request, names) => {
                // The fields of a message may stand in any order.
                let mut bytes = Vec::with_capacity(request.encoded_len() + names.0.len());
                request.encode_raw(&mut bytes);
                bytes.extend_from_slice(&names.0);
                bytes.into()
            }
            Request::Delta(request) => request.encode_to_vec().into(),
        }
    }
}

impl Names {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let fields = wire::fields(&self.0).filter_map(Result::ok);
        fields.filter_map(|field| std::str::from_utf8(field.bytes?).ok())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Names {
        let mut bytes = Vec::new();
        for name in names {
            encode_key(RESOURCE_NAMES, WireType::LengthDelimited, &mut bytes);
            encode_varint(name.len() as u64, &mut bytes);
            bytes.extend_from_slice(name.as_bytes());
        }
        Names(bytes.into())
    }
}

impl Response {
    /// Reads a response. Bodies of resources share `bytes`.
    ///
    /// # Errors
    /// See [`DecodeError`]; what follows in the stream cannot be trusted then.
    pub fn decode(variant: Variant, bytes: Bytes) -> Result<Response, DecodeError> {
        // An empty resource is two bytes here and two hundred in memory. A field that this walk cannot
        // read is one that the decoder complains of.
        let entries = wire::fields(&bytes)
            .map_while(Result::ok)
            .filter(|field| matches!(field.number, 2 | 6 | 7 | 8))
            .count();
        if entries > ENTRIES_MAX {
            return Err(DecodeError::TooManyEntries);
        }
        Ok(match variant {
            Variant::StateOfTheWorld => Response::Sotw(DiscoveryResponse::decode(bytes)?),
            Variant::Delta => Response::Delta(DeltaDiscoveryResponse::decode(bytes)?),
        })
    }
}

impl From<DiscoveryResponse> for Response {
    fn from(response: DiscoveryResponse) -> Response {
        Response::Sotw(response)
    }
}

impl From<DeltaDiscoveryResponse> for Response {
    fn from(response: DeltaDiscoveryResponse) -> Response {
        Response::Delta(response)
    }
}

/// `envoy.service.discovery.v3.DiscoveryRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryRequest {
    /// Of the last accepted response.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// A Node as it was encoded once; as a field, a message and its bytes are the same (C-01).
    #[prost(bytes = "bytes", tag = "2")]
    pub node: Bytes,
    /// Everything that is asked for; see [`Request::Sotw`].
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    /// What it is about.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Of the response that is answered.
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// Makes it a NACK.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<Status>,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryResponse {
    /// Of the whole type (S-14).
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Resources, or wrappers of them (S-13).
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    /// What it is about.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// By which it is answered.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Who sent it.
    #[prost(message, optional, tag = "6")]
    pub control_plane: Option<ControlPlane>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryRequest {
    /// As in [`DiscoveryRequest::node`].
    #[prost(bytes = "bytes", tag = "1")]
    pub node: Bytes,
    /// What it is about.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names that are asked for from now on.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Names that are no longer asked for.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// Names and versions that are held, in a stream's first request of a type.
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_resource_versions: BTreeMap<String, String>,
    /// Of the response that is answered.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Makes it a NACK.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// For display (D-11).
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// What is new or changed.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    /// What it is about.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// By which it is answered.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// What is gone.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    /// Who sent it.
    #[prost(message, optional, tag = "7")]
    pub control_plane: Option<ControlPlane>,
    /// What is gone, in another form.
    #[prost(message, repeated, tag = "8")]
    pub removed_resource_names: Vec<ResourceName>,
}

/// `envoy.service.discovery.v3.Resource`: a resource and what is to be known of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// Its own version.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The resource; absent in heartbeats (T-03).
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// By which it is asked for.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Other names by which it was asked for (D-13).
    #[prost(string, repeated, tag = "4")]
    pub aliases: Vec<String>,
    /// How long it lives without another word (A5).
    #[prost(message, optional, tag = "6")]
    pub ttl: Option<Span>,
    /// The name, in another form.
    #[prost(message, optional, tag = "8")]
    pub resource_name: Option<ResourceName>,
}

/// `envoy.service.discovery.v3.ResourceName`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceName {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// `envoy.config.core.v3.ControlPlane`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControlPlane {
    /// Which instance.
    #[prost(string, tag = "1")]
    pub identifier: String,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    /// What it is.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// A code of gRPC.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Span {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// And nanoseconds.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Span {
    /// As a length of time, if it is one.
    #[must_use]
    pub fn length(self) -> Option<Duration> {
        let (seconds, nanos) = (u64::try_from(self.seconds).ok()?, u32::try_from(self.nanos).ok()?);
        let valid = seconds <= SECONDS_MAX && nanos < 1_000_000_000;
        valid.then(|| Duration::new(seconds, nanos))
    }
}

/// Resources and names in one response. The largest meshes have some ten thousand.
pub const ENTRIES_MAX: usize = 1 << 18;

/// The field of [`DiscoveryRequest::resource_names`].
const RESOURCE_NAMES: u32 = 3;

/// Protobuf's own bound on a Duration.
const SECONDS_MAX: u64 = 315_576_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_01_a_node_of_bytes_is_a_node_on_the_wire() {
        // Node { id: "n" } is 0a 01 6e; as field 2 of a request it is 12 03 before that.
        let node = Bytes::from_static(b"\x0a\x01n");
        let request = DiscoveryRequest { node: node.clone(), ..DiscoveryRequest::default() };
        assert_eq!(request.encode_to_vec(), b"\x12\x03\x0a\x01n");
        let request = DeltaDiscoveryRequest { node, ..DeltaDiscoveryRequest::default() };
        assert_eq!(request.encode_to_vec(), b"\x0a\x03\x0a\x01n");
    }

    #[test]
    fn bodies_share_the_bytes_of_the_message() {
        let any = Any { type_url: "t".to_owned(), value: Bytes::from_static(b"body") };
        let message = DiscoveryResponse { resources: vec![any], ..DiscoveryResponse::default() };
        let bytes = Bytes::from(message.encode_to_vec());
        let decoded = Response::decode(Variant::StateOfTheWorld, bytes.clone()).unwrap();
        let Response::Sotw(decoded) = decoded else { panic!("wrong variant") };
        assert!(bytes.as_ptr_range().contains(&decoded.resources[0].value.as_ptr()));
    }

    #[test]
    fn too_many_entries_are_not_decoded() {
        for (variant, tag) in [(Variant::StateOfTheWorld, 0x12), (Variant::Delta, 0x32)] {
            let entries = |count: usize| Bytes::from([tag, 0].repeat(count));
            assert!(Response::decode(variant, entries(ENTRIES_MAX)).is_ok());
            let error = Response::decode(variant, entries(ENTRIES_MAX + 1)).unwrap_err();
            assert_eq!(error, DecodeError::TooManyEntries);
        }
    }

    #[test]
    fn lengths_of_time() {
        let length = |seconds, nanos| Span { seconds, nanos }.length();
        assert_eq!(length(1, 500_000_000), Some(Duration::from_millis(1500)));
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert_eq!(length(seconds, nanos), None);
        }
    }
}
