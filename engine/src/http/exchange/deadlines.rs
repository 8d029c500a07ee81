//! What must have happened by when, and what is done when it has not.

use outrigger_codecs::http::{FieldBlock, decimal};

use crate::access_log::ResponseFlags;
use crate::shard::Shard;
use crate::timer::Nanos;

use super::super::after;
use super::super::reply::{Reply, UpstreamFailure};
use super::{Downstream, Exchange, Progress, ResponsePhase, Stop, Upstream};

impl Exchange {
    /// Something moved: the idle timeout starts again.
    pub(super) fn touch(&mut self, shard: &Shard) {
        self.deadlines.idle = after(shard.clock.now(), self.deadlines.idle_timeout);
    }

    pub(super) fn begin_response_deadline(&mut self, shard: &Shard) {
        if self.request.complete {
            self.deadlines.response = after(shard.clock.now(), self.deadlines.timeout);
        }
    }

    pub(super) fn check_deadlines(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        let now = down.shard.clock.now();
        let passed = |deadline: Option<Nanos>| deadline.is_some_and(|at| at <= now);
        if passed(self.deadlines.connect) {
            self.deadlines.connect = None;
            if let Some((cluster, _)) = &self.destination {
                cluster.stats.upstream_cx_connect_timeout.inc();
                cluster.stats.upstream_cx_connect_fail.inc();
            }
            self.upstream = Upstream::Idle;
            self.failed(down, UpstreamFailure::ConnectTimeout);
            return Ok(());
        }
        if passed(self.deadlines.delay) {
            self.end_delay(down);
            return Ok(());
        }
        if passed(self.deadlines.inspection) {
            self.end_inspection(down);
            return Ok(());
        }
        if passed(self.deadlines.demand) {
            down.shard.demands.count_timeout();
            self.end_demand(down);
            return Ok(());
        }
        let is_tried =
            !passed(self.deadlines.response) && self.response.phase == ResponsePhase::Head;
        if passed(self.deadlines.retry) && is_tried {
            self.try_again(down);
            return Ok(());
        }
        if (passed(self.deadlines.one_try) || passed(self.deadlines.try_idle)) && is_tried {
            self.try_timed_out(down, !passed(self.deadlines.one_try));
            return Ok(());
        }
        let expired = if passed(self.deadlines.request) {
            down.http.stats.downstream_rq_timeout.inc();
            let flags = ResponseFlags::default();
            Reply::text(408, "request timeout", flags, "request_overall_timeout").closing()
        } else if passed(self.deadlines.response) {
            if let Some((cluster, _)) = &self.destination {
                cluster.stats.upstream_rq_timeout.inc();
            }
            let flags = ResponseFlags::UPSTREAM_REQUEST_TIMEOUT;
            let status = if self.mute_timeout { 204 } else { 504 };
            Reply::text(status, "upstream request timeout", flags, "response_timeout")
        } else if passed(self.deadlines.try_idle) {
            if let Some((cluster, _)) = &self.destination {
                cluster.stats.upstream_rq_per_try_idle_timeout.inc();
            }
            Reply::upstream_failure(UpstreamFailure::TryIdle)
        } else if passed(self.deadlines.stream) {
            down.http.stats.downstream_rq_max_duration_reached.inc();
            let flags = ResponseFlags::DURATION_TIMEOUT;
            let mut reply = Reply::text(504, "stream timeout", flags, "max_duration_timeout");
            reply.grpc_status = Some(GRPC_DEADLINE_EXCEEDED);
            reply.closing()
        } else if passed(self.deadlines.idle) {
            down.http.stats.downstream_rq_idle_timeout.inc();
            let flags = ResponseFlags::STREAM_IDLE_TIMEOUT;
            Reply::text(408, "stream timeout", flags, "stream_idle_timeout").closing()
        } else {
            return Ok(());
        };
        self.release_upstream(down.shard);
        if self.response.phase == ResponsePhase::Head {
            self.reply(down, &expired);
            return Ok(());
        }
        self.facts.flags.insert(expired.flags);
        self.facts.details = expired.details;
        if let (Some(status), true, ResponsePhase::Body) =
            (expired.grpc_status, self.grpc.is_grpc() && down.is_http2(), self.response.phase)
        {
            // A deadline is a status like others, and trailers can still tell it.
            let mut digits = [0; 20];
            let mut trailers = Box::<FieldBlock>::default();
            trailers.push("grpc-status", decimal(status, &mut digits));
            trailers.push("grpc-message", expired.body_bytes());
            self.end_response(down, Some(trailers));
            return Ok(());
        }
        if self.is_tunnelling() { Err(Progress::Close) } else { Err(Progress::Reset) }
    }
}

/// Of the gRPC protocol's status codes.
const GRPC_DEADLINE_EXCEEDED: u64 = 4;
