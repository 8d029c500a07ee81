//! What is told of a request when it ends.

use outrigger_codecs::rpc::{Failure, Frame};

use crate::access_log::{self, ByteCounts, Capture, LogType, Record, ResponseFlags, Times};
use crate::cluster::{Kept, RpcCall};
use crate::timer::Nanos;

use super::downstream::Downstream;
use super::message::Message;

/// How a request ended, for its answer and its log line.
pub(super) struct Ending {
    /// The error that the client gets; nothing when upstream answered.
    pub(super) failure: Option<Failure>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub(super) details: &'static str,
    flags: ResponseFlags,
    /// The protocol's own status, of upstream's answer.
    status: u16,
    response_bytes: u64,
}

impl Ending {
    /// Upstream answered.
    pub(super) fn answered(message: &Message) -> Self {
        Self {
            failure: None,
            details: "via_upstream",
            flags: ResponseFlags::default(),
            status: message.frame.status,
            response_bytes: message.byte_len() as u64,
        }
    }

    /// It was sent, and that is all there is to it.
    pub(super) fn sent() -> Self {
        Self {
            failure: None,
            details: "sent",
            flags: ResponseFlags::default(),
            status: 0,
            response_bytes: 0,
        }
    }

    /// It failed before upstream had it.
    pub(super) fn failed(failure: Failure, details: &'static str) -> Self {
        let flags = flags(failure);
        Self { failure: Some(failure), details, flags, status: 0, response_bytes: 0 }
    }

    /// It failed at upstream.
    pub(super) fn upstream(failure: Failure) -> Self {
        let details = match failure {
            Failure::Overflow => "upstream_overflow",
            Failure::UpstreamTimeout => "upstream_response_timeout",
            Failure::ClientTimeout => "request_timeout_before_upstream",
            Failure::ConnectionLost => "upstream_connection_lost",
            _ => "upstream_failure",
        };
        Self::failed(failure, details)
    }
}

fn flags(failure: Failure) -> ResponseFlags {
    match failure {
        Failure::NoRoute => ResponseFlags::NO_ROUTE_FOUND,
        Failure::NoHealthyUpstream => ResponseFlags::NO_HEALTHY_UPSTREAM,
        Failure::Overflow => ResponseFlags::UPSTREAM_OVERFLOW,
        Failure::RateLimited => ResponseFlags::RATE_LIMITED,
        Failure::Denied => ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE,
        Failure::UpstreamTimeout | Failure::ClientTimeout => {
            ResponseFlags::UPSTREAM_REQUEST_TIMEOUT
        }
        Failure::ConnectionLost => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
        Failure::Undecodable | Failure::TooLarge => ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
        Failure::Internal => ResponseFlags::LOCAL_RESET,
    }
}

impl Downstream {
    /// Logs a call that has ended.
    pub(super) fn log(&self, call: &RpcCall, ending: &Ending) {
        if self.rpc.logs.is_empty() {
            return;
        }
        let now = self.shard.clock.now();
        let times = Times {
            downstream_rx_begin: call.began_at,
            downstream_rx_end: call.began_at,
            upstream_tx_begin: call.sent_at,
            upstream_tx_end: call.sent_at,
            upstream_rx_begin: now,
            upstream_rx_end: now,
            downstream_tx_begin: now,
            downstream_tx_end: now,
            end: now,
            ..Times::default()
        };
        let record = Record {
            times,
            bytes: ByteCounts {
                received: call.request_bytes.into(),
                sent: ending.response_bytes,
                ..ByteCounts::default()
            },
            upstream_cluster: Some(&call.cluster.config.stat_name),
            upstream_cluster_raw: Some(&call.cluster.config.name),
            upstream_remote: call.host.endpoint.address.ip().map(access_log::Address::Ip),
            upstream_connection_id: call.connection_id,
            upstream_attempts: call.attempts,
            route_name: self.route(call.route).map(|route| &*route.name),
            ..self.record(ending, call.began_at)
        };
        self.write_log(&record, call.kept.as_deref());
    }

    /// Logs a request that went nowhere.
    pub(super) fn log_refused(
        &self,
        frame: &Frame,
        began_at: Nanos,
        ending: &Ending,
        kept: Option<&Kept>,
    ) {
        if self.rpc.logs.is_empty() {
            return;
        }
        let times = Times {
            downstream_rx_begin: began_at,
            downstream_rx_end: began_at,
            end: self.shard.clock.now(),
            ..Times::default()
        };
        let bytes = ByteCounts { received: frame.len as u64, ..ByteCounts::default() };
        self.write_log(&Record { times, bytes, ..self.record(ending, began_at) }, kept);
    }

    fn record(&self, ending: &Ending, began_at: Nanos) -> Record<'_> {
        let wall = self.shard.clock.unix_ns();
        Record {
            start_wall_ns: wall - (self.shard.clock.now() - began_at),
            emit_wall_ns: wall,
            response_code: ending.status,
            response_code_details: Some(ending.details),
            flags: ending.flags,
            log_type: LogType::DownstreamEnd,
            ..self.info.record()
        }
    }

    fn write_log(&self, record: &Record<'_>, kept: Option<&Kept>) {
        let none = Capture::default();
        let capture = kept.map_or(&none, |kept| &kept.capture);
        self.shard.logger.borrow_mut().log(&self.rpc.logs, record, capture);
    }
}
