//! Moving bodies: chunk by chunk, each way only as far as the other side has room.

use outrigger_codecs::http::FieldBlock;

use crate::access_log::ResponseFlags;
use crate::buffers::Chunk;
use crate::stats::HttpStats;

use super::super::downstream::BodyEvent;
use super::super::http1;
use super::super::reply::{Reply, UpstreamFailure};
use super::super::upgrade::Tunnel;
use super::{Downstream, Exchange, Progress, ResponsePhase, Stop, Upstream};

impl Exchange {
    pub(super) fn try_advance(
        &mut self,
        down: &mut Downstream<'_>,
        timer_fired: bool,
    ) -> Result<(), Stop> {
        if down.is_gone() {
            return Err(Progress::Gone);
        }
        self.poll_upstream(down);
        if timer_fired {
            self.check_deadlines(down)?;
        }
        if self.soap.is_holding() {
            self.inspect(down)?;
            if self.soap.is_holding() {
                return Ok(());
            }
        }
        if self.demand.is_waiting() {
            self.await_demand(down)?;
            if self.demand.is_waiting() {
                return Ok(());
            }
        }
        self.pump_request(down)?;
        self.pump_response(down)?;
        if self.is_tunnelling() {
            // What the client sent ahead of the answer can go now.
            self.pump_request(down)?;
        }
        if let Upstream::Http1(connection) = &self.upstream {
            connection.transport.flush();
        }
        self.conclude(down)?;
        self.notice_departure(down)
    }

    fn pump_request(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        while !self.request.complete && self.upstream_has_room(down) {
            match self.next_body(down) {
                BodyEvent::Data(data) => self.forward_request(down, data)?,
                BodyEvent::End(trailers) if self.grpc.end_request() => {
                    self.end_request(down, trailers);
                }
                BodyEvent::End(_) => {
                    self.request.complete = true;
                    self.facts.times.downstream_rx_end = down.shard.clock.now();
                    self.refuse_untranslatable(down, "grpc_base_64_decode_failed_bad_size")?;
                }
                BodyEvent::None => return Ok(()),
                BodyEvent::Gone => return Err(Progress::Gone),
                BodyEvent::Malformed => {
                    down.http.stats.downstream_cx_protocol_error.inc();
                    return self.bad_request_body(down);
                }
            }
        }
        Ok(())
    }

    /// What comes next of the request's body: what was kept of it, if there is any, comes first.
    fn next_body(&mut self, down: &mut Downstream<'_>) -> BodyEvent {
        match self.soap.next() {
            Some(kept) => kept,
            None => down.take_body(&mut self.request.body),
        }
    }

    fn upstream_has_room(&mut self, down: &Downstream<'_>) -> bool {
        let room = match &self.upstream {
            Upstream::Http1(connection) => {
                let room = connection.transport.unsent() < down.marks.high;
                if !room {
                    connection.transport.wake_at_unsent(down.marks.low());
                }
                room
            }
            Upstream::Http2(stream) => stream.has_room(),
            // A reply of ours went out: take what is there, so that the close that follows resets
            // nobody.
            Upstream::Idle => return self.response.phase == ResponsePhase::Complete,
            Upstream::Waiting { .. } | Upstream::Connecting { .. } | Upstream::Joining { .. } => {
                return false;
            }
        };
        if room == self.request.paused {
            self.request.paused = !room;
            count_pause(!room, &down.http.stats);
        }
        // Before upstream agreed to a tunnel, its bytes stay where they are.
        room && (self.tunnel == Tunnel::None || self.is_tunnelling())
    }

    fn forward_request(&mut self, down: &mut Downstream<'_>, data: Chunk) -> Result<(), Stop> {
        self.touch(down.shard);
        self.facts.bytes.received += data.len() as u64;
        let Some(data) = self.grpc.translate_request(down.shard, data) else {
            return self.refuse_untranslatable(down, "grpc_base_64_decode_failed");
        };
        if data.is_empty() {
            return Ok(());
        }
        if !self.is_tunnelling() {
            self.keep_body(down, &data);
        }
        match &self.upstream {
            Upstream::Http1(connection) => {
                let transport = &connection.transport;
                http1::send_body(down.shard, transport, data, self.request.chunked);
            }
            Upstream::Http2(stream) => stream.send(data),
            _ => {}
        }
        Ok(())
    }

    /// The request's framing is lost: upstream must not take what came for a whole request.
    pub(super) fn bad_request_body(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        self.release_upstream(down.shard);
        self.facts.flags.insert(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
        if self.response.phase != ResponsePhase::Head {
            return Err(Progress::Reset);
        }
        let reply = Reply::empty(400, "http1.codec_error").closing();
        self.reply(down, &reply);
        Err(Progress::Close)
    }

    /// The request's body is not what its content type says: upstream must not take what came for a
    /// whole request.
    fn refuse_untranslatable(
        &mut self,
        down: &mut Downstream<'_>,
        details: &'static str,
    ) -> Result<(), Stop> {
        match self.response.phase {
            ResponsePhase::Head => {
                let text = "Bad gRPC-web request, invalid base64 data.";
                self.reply(down, &Reply::text(400, text, ResponseFlags::default(), details));
                Ok(())
            }
            ResponsePhase::Body => {
                self.release_upstream(down.shard);
                self.facts.details = details;
                Err(Progress::Reset)
            }
            ResponsePhase::Complete => Ok(()),
        }
    }

    fn end_request(&mut self, down: &mut Downstream<'_>, trailers: Option<Box<FieldBlock>>) {
        let now = down.shard.clock.now();
        self.request.complete = true;
        self.deadlines.request = None;
        self.facts.times.downstream_rx_end = now;
        self.facts.times.upstream_tx_end = now;
        self.begin_response_deadline(down.shard);
        self.begin_try_deadlines(down.shard);
        if trailers.is_some() {
            // They are not kept.
            self.outbound.spend();
        }
        match &self.upstream {
            Upstream::Http1(connection) if self.is_tunnelling() => connection.transport.finish(),
            Upstream::Http1(connection) if self.request.chunked => {
                let wanted =
                    !down.is_http2() || connection.meter.cluster.config.http.enable_trailers;
                let trailers = trailers.filter(|_| wanted);
                http1::send_last_chunk(down.shard, &connection.transport, trailers.as_deref());
            }
            Upstream::Http2(stream) => stream.end(trailers),
            _ => {}
        }
    }

    fn pump_response(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        while self.response.phase != ResponsePhase::Complete {
            if !matches!(self.upstream, Upstream::Http1(_) | Upstream::Http2(_)) {
                return Ok(());
            }
            let full = !down.has_room();
            if full != self.response.paused
                && let Some((cluster, _)) = &self.destination
            {
                self.response.paused = full;
                if full {
                    cluster.stats.upstream_flow_control_paused_reading_total.inc();
                } else {
                    cluster.stats.upstream_flow_control_resumed_reading_total.inc();
                }
            }
            if full {
                return Ok(());
            }
            let moved = match &self.upstream {
                Upstream::Http2(_) => self.receive_http2(down)?,
                _ => self.receive_http1(down)?,
            };
            if !moved {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn send_response_body(&mut self, down: &mut Downstream<'_>, data: Chunk) {
        let data = self.grpc.translate_response(down.shard, data);
        self.facts.bytes.sent += data.len() as u64;
        if !data.is_empty() {
            down.send_body(data, self.response.chunked);
        }
    }

    pub(super) fn end_response(
        &mut self,
        down: &mut Downstream<'_>,
        trailers: Option<Box<FieldBlock>>,
    ) {
        self.response.phase = ResponsePhase::Complete;
        self.facts.times.upstream_rx_end = down.shard.clock.now();
        self.grpc.note_end(trailers.as_deref(), &self.facts.times);
        if let Some(block) = self.grpc.take_withheld() {
            return self.send_withheld(down, &block);
        }
        let (last, trailers) = self.grpc.end_response(down.shard, trailers);
        if let Some(last) = last {
            self.facts.bytes.sent += last.len() as u64;
            down.send_body(last, self.response.chunked);
        }
        if let Some(trailers) = &trailers {
            self.facts.bytes.response_trailers = trailers.text_len() as u64;
            for (slot, name) in down.http.logs.captures().response_trailers() {
                if let Some(value) = trailers.get(name) {
                    self.facts.capture.put(slot, value);
                }
            }
        }
        down.end_body(trailers, self.response.chunked);
    }

    /// The response breaks off in the middle.
    pub(super) fn cut_off(&mut self, down: &Downstream<'_>, flag: ResponseFlags) -> Stop {
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.upstream_cx_destroy_remote_with_active_rq.inc();
            cluster.stats.upstream_rq_rx_reset.inc();
        }
        self.facts.flags.insert(flag);
        self.facts.details = if flag == ResponseFlags::UPSTREAM_REMOTE_RESET {
            "upstream_reset_after_response_started{remote_reset}"
        } else {
            "upstream_reset_after_response_started{connection_termination}"
        };
        down.http.stats.rq_reset_after_downstream_response_started.inc();
        Progress::Reset
    }

    /// Sends the request once more.
    pub(super) fn send_again(&mut self, down: &mut Downstream<'_>) {
        self.replays += 1;
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.upstream_rq_retry.inc();
        }
        self.acquire(down);
    }

    /// Upstream's answer can't be understood, or not in one way only.
    pub(super) fn refuse_response(
        &mut self,
        down: &mut Downstream<'_>,
        error: &dyn std::error::Error,
    ) {
        self.count_protocol_error();
        if let Some((cluster, host)) = &self.destination {
            log::warn!(
                target: "upstream",
                "{}: the response of {} is refused: {error}",
                cluster.config.name, host.address_text
            );
        }
        self.release_upstream(down.shard);
        self.failed(down, UpstreamFailure::Protocol);
    }

    pub(super) fn count_protocol_error(&self) {
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.upstream_cx_protocol_error.inc();
        }
    }

    /// Ends the exchange when both messages are dealt with.
    fn conclude(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        if self.response.phase != ResponsePhase::Complete {
            return Ok(());
        }
        if self.is_tunnelling() && !self.request.complete {
            // The other direction may go on: its end is forwarded by itself.
            return Ok(());
        }
        if !self.request.complete {
            // The answer came before the end of the request. On HTTP/1 there is no other way to
            // be rid of the rest than to close; HTTP/2 resets the stream.
            down.http.stats.downstream_rq_response_before_rq_complete.inc();
            return Err(Progress::Close);
        }
        Err(if self.response.closes { Progress::Close } else { Progress::KeepAlive })
    }

    /// A client that closes while it waits for its response gives the request up.
    fn notice_departure(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        let waits = self.request.complete && self.response.phase != ResponsePhase::Complete;
        if waits && !self.is_tunnelling() && down.has_departed() {
            if let Some((cluster, _)) = &self.destination {
                cluster.stats.upstream_rq_cancelled.inc();
            }
            return Err(Progress::Gone);
        }
        Ok(())
    }

    pub(super) fn is_tunnelling(&self) -> bool {
        self.tunnel != Tunnel::None && self.response.phase != ResponsePhase::Head
    }
}

fn count_pause(paused: bool, stats: &HttpStats) {
    if paused {
        stats.downstream_flow_control_paused_reading_total.inc();
    } else {
        stats.downstream_flow_control_resumed_reading_total.inc();
    }
}
