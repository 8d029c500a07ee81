//! What gRPC adds to an exchange: its timeout, its statistics, and the bridge from gRPC-Web.

mod timeout;

use outrigger_codecs::http::{FieldBlock, RequestHead, ResponseHead};
use outrigger_xds::snapshot::Forward;

use crate::buffers::Chunk;
use crate::cluster::ClusterRuntime;
use crate::shard::Shard;

use super::HttpRuntime;

pub(super) use self::timeout::grpc_timeout;

/// One request's gRPC side; nothing for a request that is not gRPC.
#[derive(Default)]
pub(super) struct GrpcCall {}

impl GrpcCall {
    /// Looks at the request.
    pub(super) fn begin(
        &mut self,
        _http: &HttpRuntime,
        _head: &RequestHead<'_, '_>,
        _forward: &Forward,
        _cluster: &ClusterRuntime,
    ) {
    }

    /// True when bodies change their length on the way.
    pub(super) fn rewrites_bodies(&self) -> bool {
        false
    }

    /// The content type of a reply of ours to a gRPC request.
    pub(super) fn content_type(&self) -> &'static [u8] {
        b"application/grpc"
    }

    /// What upstream is told in place of the request's content type.
    pub(super) fn request_content_type(&self) -> Option<&'static [u8]> {
        None
    }

    /// What the client is told in place of upstream's content type.
    pub(super) fn response_content_type(&self) -> Option<&'static [u8]> {
        None
    }

    /// Translates bytes of the request's body; nothing when they can't be.
    pub(super) fn translate_request(&mut self, _shard: &Shard, data: Chunk) -> Option<Chunk> {
        Some(data)
    }

    /// Upstream answered; `complete` when it is all.
    pub(super) fn take_response_head(&mut self, _head: &ResponseHead<'_, '_>, _complete: bool) {}

    /// We answer in place of upstream, with the status that HTTP would have.
    pub(super) fn take_reply(&mut self, _status: u16) {}

    /// Translates bytes of the response's body.
    pub(super) fn translate_response(&mut self, _shard: &Shard, data: Chunk) -> Chunk {
        data
    }

    /// The response is complete: what is still to be sent of its body, and the trailers that go on.
    pub(super) fn end_response(
        &mut self,
        _shard: &Shard,
        trailers: Option<Box<FieldBlock>>,
    ) -> (Option<Chunk>, Option<Box<FieldBlock>>) {
        (None, trailers)
    }
}

/// `application/grpc`, alone or with a suffix such as `+proto`.
pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}
