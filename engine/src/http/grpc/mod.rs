//! What gRPC adds to an exchange: its timeout, its status, its statistics, and the bridge from
//! gRPC-Web.
//!
//! Invariant: a call is counted once, with the status that upstream or a reply of ours ended it with;
//! a call that broke off has none and is not counted.

mod bridge;
mod methods;
mod timeout;

use std::rc::Rc;

use outrigger_codecs::grpc::MessageWalk;
use outrigger_codecs::http::{FieldBlock, FieldKind, RequestHead, ResponseHead};

use crate::access_log::{GrpcStatus, Times};
use crate::buffers::Chunk;
use crate::cluster::ClusterRuntime;
use crate::shard::Shard;

use super::NANOS_PER_MS;
use super::filters::Filters;
use super::reply::{ReplyForm, grpc_status};

use self::bridge::Bridge;
use self::methods::Calls;

pub(super) use self::methods::MethodTable;
pub(super) use self::timeout::grpc_timeout;

/// One request's gRPC side; nothing for a request that is not gRPC.
#[derive(Default)]
pub(super) struct GrpcCall {
    /// What upstream gets is gRPC.
    is_grpc: bool,
    bridge: Option<Bridge>,
    calls: Option<Rc<Calls>>,
    request_messages: MessageWalk,
    response_messages: MessageWalk,
    /// How many there were.
    counted: (u64, u64),
    /// The response is one of gRPC, whose messages count.
    is_answered: bool,
    ended_with_head: bool,
    /// How the call ended, as its response said.
    status: Option<GrpcStatus>,
}

impl GrpcCall {
    /// Notes what the request is.
    pub(super) fn accept(&mut self, head: &RequestHead<'_, '_>) {
        self.is_grpc = head
            .fields
            .iter()
            .any(|field| field.kind == FieldKind::ContentType && is_grpc(field.value));
    }

    /// Bridges the request if it is gRPC-Web and that is wanted.
    pub(super) fn bridge(&mut self, filters: &Filters, head: &RequestHead<'_, '_>) {
        if filters.grpc_web && !self.is_grpc {
            self.bridge = Bridge::of(head);
            self.is_grpc = self.bridge.is_some();
        }
    }

    /// Finds the statistics that the call counts in, by its path before any rewrite.
    pub(super) fn track(
        &mut self,
        shard: &Shard,
        filters: &Filters,
        cluster: &ClusterRuntime,
        path: &str,
    ) {
        if self.is_grpc {
            let is_web = self.bridge.is_some();
            self.calls = filters.grpc_methods.find(shard, &cluster.config.stat_name, path, is_web);
        }
    }

    /// The request is gRPC, or becomes it.
    pub(super) fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// How the call ended, for logs: with HTTP's status where no other was told.
    pub(super) fn status(&self, code: u16) -> Option<GrpcStatus> {
        if !self.is_grpc {
            return None;
        }
        let from_http = || GrpcStatus::Code(grpc_status(code) as u32);
        self.status.or_else(|| (code != 0).then(from_http))
    }

    /// Messages of the request and of the response, as far as they were counted.
    pub(super) fn messages(&self) -> (u64, u64) {
        self.counted
    }

    // ---- the request -----------------------------------------------------------------------------

    /// True when the request's body may change its length on the way.
    pub(super) fn rewrites_request(&self) -> bool {
        self.bridge.is_some()
    }

    /// What upstream is told in place of the request's content type.
    pub(super) fn request_content_type(&self) -> Option<&'static str> {
        self.bridge.as_ref().map(Bridge::request_content_type)
    }

    /// Translates bytes of the request's body; nothing when they can't be.
    pub(super) fn translate_request(&mut self, shard: &Shard, data: Chunk) -> Option<Chunk> {
        let data = match &mut self.bridge {
            Some(bridge) => bridge.translate_request(&shard.arena, data)?,
            None => data,
        };
        if let Some(stats) = self.calls.as_ref().and_then(|calls| calls.grpc()) {
            let count = self.request_messages.count(&data);
            self.counted.0 += count;
            stats.request_message_count.add(count);
        }
        Some(data)
    }

    /// The request's body is complete. False when it breaks off in the middle of what can be
    /// translated.
    pub(super) fn end_request(&mut self) -> bool {
        self.bridge.as_mut().is_none_or(Bridge::end_request)
    }

    // ---- the response ----------------------------------------------------------------------------

    /// Upstream answered; `complete` when it is all. True when the head has to wait for the body: see
    /// [`GrpcCall::take_withheld`].
    pub(super) fn take_response_head(
        &mut self,
        head: &ResponseHead<'_, '_>,
        complete: bool,
    ) -> bool {
        if !self.is_grpc {
            return false;
        }
        self.ended_with_head = complete;
        let content_type = head.fields.iter().find(|field| field.kind == FieldKind::ContentType);
        self.is_answered = head.status == 200
            && !complete
            && content_type.is_some_and(|field| is_grpc(field.value));
        if let Some(field) = head.field("grpc-status") {
            self.end(GrpcStatus::read(field.value));
        }
        let is_answered = self.is_answered;
        self.bridge
            .as_mut()
            .is_some_and(|bridge| !complete && bridge.take_response_head(head, is_answered))
    }

    /// True when the response's body changes its length on the way.
    pub(super) fn rewrites_response(&self) -> bool {
        self.bridge.as_ref().is_some_and(Bridge::rewrites_response)
    }

    /// What the client is told in place of upstream's content type.
    pub(super) fn response_content_type(&self) -> Option<&'static str> {
        self.bridge.as_ref().map(Bridge::response_content_type)
    }

    /// Translates bytes of the response's body; an empty chunk when there is nothing to send of them.
    pub(super) fn translate_response(&mut self, shard: &Shard, data: Chunk) -> Chunk {
        if self.is_answered
            && let Some(stats) = self.calls.as_ref().and_then(|calls| calls.grpc())
        {
            let count = self.response_messages.count(&data);
            self.counted.1 += count;
            stats.response_message_count.add(count);
        }
        match &mut self.bridge {
            Some(bridge) => bridge.translate_response(&shard.arena, data),
            None => data,
        }
    }

    /// Upstream's response is complete: counts it, whatever becomes of it.
    pub(super) fn note_end(&mut self, trailers: Option<&FieldBlock>, times: &Times) {
        if !self.is_grpc {
            return;
        }
        if let Some(value) = trailers.and_then(|trailers| trailers.get("grpc-status"))
            && self.status.is_none()
        {
            self.end(GrpcStatus::read(value));
        }
        if let Some(calls) = &self.calls
            && calls.upstream_time
            && let Some(stats) = calls.grpc()
            && (self.ended_with_head || trailers.is_some())
            && times.upstream_tx_end > 0
        {
            let took = times.upstream_rx_end.saturating_sub(times.upstream_tx_end) / NANOS_PER_MS;
            stats.upstream_rq_time.record(took);
        }
    }

    /// A head that waited for its body, with what became of the body in its fields.
    pub(super) fn take_withheld(&mut self) -> Option<Box<FieldBlock>> {
        self.bridge.as_mut()?.take_withheld()
    }

    /// What is still to be sent of the response's body, and the trailers that go on.
    pub(super) fn end_response(
        &mut self,
        shard: &Shard,
        trailers: Option<Box<FieldBlock>>,
    ) -> (Option<Chunk>, Option<Box<FieldBlock>>) {
        match &mut self.bridge {
            Some(bridge) if bridge.rewrites_response() => {
                (bridge.end_response(&shard.arena, trailers.as_deref()), None)
            }
            _ => (None, trailers),
        }
    }

    /// How a reply of ours tells what happened.
    pub(super) fn reply_form(&self) -> ReplyForm {
        match &self.bridge {
            Some(bridge) => ReplyForm::GrpcWeb(bridge.response_content_type()),
            None if self.is_grpc => ReplyForm::Grpc,
            None => ReplyForm::Http,
        }
    }

    /// We answer in place of upstream, with this gRPC status where one is told.
    pub(super) fn take_reply(&mut self, status: Option<u64>) {
        let Some(status) = status else { return };
        let status = GrpcStatus::Code(u32::try_from(status).unwrap_or(u32::MAX));
        if self.bridge.is_some() {
            // As with Envoy, whose statistics do not see what becomes of these.
            self.status = Some(status);
        } else {
            self.end(status);
        }
    }

    fn end(&mut self, status: GrpcStatus) {
        self.status = Some(status);
        if let Some(calls) = &self.calls {
            calls.each(|stats| stats.ended(status.code()));
        }
    }
}

/// `application/grpc`, alone or with a suffix such as `+proto`.
fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}
