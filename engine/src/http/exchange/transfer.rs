//! Moving bodies: chunk by chunk, each way only as far as the other side has room.

use outrigger_codecs::http::Put;
use outrigger_codecs::http1::render;
use outrigger_codecs::http1::{BodyDecoder, LAST_CHUNK};

use crate::access_log::ResponseFlags;
use crate::buffers::Chunk;
use crate::ring::{Received, Socket};
use crate::shard::Shard;
use crate::stats::HttpStats;

use super::super::reply::{Reply, UpstreamFailure};
use super::super::upgrade::Tunnel;
use super::{Downstream, Exchange, Progress, ResponsePhase, Stop, Upstream};

impl Exchange {
    pub(super) fn try_advance(
        &mut self,
        down: &mut Downstream<'_>,
        timer_fired: bool,
    ) -> Result<(), Stop> {
        if down.socket.send_error().is_some() {
            return Err(Progress::Gone);
        }
        self.poll_upstream(down);
        if timer_fired {
            self.check_deadlines(down)?;
        }
        self.pump_request(down)?;
        self.pump_response(down)?;
        if self.is_tunnelling() {
            // What the client sent ahead of the answer can go now.
            self.pump_request(down)?;
        }
        self.conclude(down)?;
        self.notice_departure(down)
    }

    pub(super) fn pump_request(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        while !self.request.complete {
            let room = match &self.upstream {
                Upstream::Active(connection) => {
                    let full = connection.socket.unsent() >= down.marks.high;
                    if full {
                        connection.socket.wake_at_unsent(down.marks.low);
                    }
                    if full != self.request.paused {
                        self.request.paused = full;
                        count_pause(full, &down.http.stats);
                    }
                    // Before upstream agreed to a tunnel, its bytes stay where they are.
                    !full && (self.tunnel == Tunnel::None || self.is_tunnelling())
                }
                // A reply of ours went out: take what is there, so that the close that follows
                // resets nobody.
                Upstream::Idle => self.response.phase == ResponsePhase::Complete,
                Upstream::Waiting { .. } | Upstream::Connecting { .. } => false,
            };
            if !room {
                return Ok(());
            }
            match down.input.next(down.socket) {
                Received::Chunk(chunk) => self.forward_request(down, chunk)?,
                Received::None => return Ok(()),
                Received::End if self.is_tunnelling() => {
                    self.request.complete = true;
                    if let Upstream::Active(connection) = &self.upstream {
                        connection.socket.finish();
                    }
                }
                Received::End | Received::Failed(_) => return Err(Progress::Gone),
            }
        }
        Ok(())
    }

    pub(super) fn forward_request(
        &mut self,
        down: &mut Downstream<'_>,
        chunk: Chunk,
    ) -> Result<(), Stop> {
        self.touch(down.shard);
        let mut rest = chunk;
        loop {
            let Ok(step) = self.request.body.decode(&rest) else {
                down.http.stats.downstream_cx_protocol_error.inc();
                return self.bad_request_body(down);
            };
            let data = rest.slice(step.data);
            self.facts.bytes.received += data.len() as u64;
            if let Upstream::Active(connection) = &self.upstream
                && !data.is_empty()
            {
                send_body(down.shard, &connection.socket, data, self.request.chunked);
            }
            rest.advance(step.consumed);
            if step.done {
                self.end_request(down);
                down.input.put_back(rest);
                return Ok(());
            }
            if step.consumed == 0 || rest.is_empty() {
                return Ok(());
            }
        }
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

    pub(super) fn end_request(&mut self, down: &mut Downstream<'_>) {
        let now = down.shard.clock.now();
        self.request.complete = true;
        self.deadlines.request = None;
        self.facts.times.downstream_rx_end = now;
        self.facts.times.upstream_tx_end = now;
        self.begin_response_deadline(down.shard);
        let Upstream::Active(connection) = &self.upstream else { return };
        if self.request.chunked {
            let enabled = down.http.config.http1.enable_trailers;
            send_last_chunk(down.shard, &connection.socket, &mut self.request.body, enabled);
        }
    }

    pub(super) fn pump_response(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        while self.response.phase != ResponsePhase::Complete {
            let Upstream::Active(connection) = &self.upstream else { return Ok(()) };
            let full = down.socket.unsent() >= down.marks.high;
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
                down.socket.wake_at_unsent(down.marks.low);
                return Ok(());
            }
            match connection.socket.receive() {
                Received::Chunk(chunk) => self.forward_response(down, chunk)?,
                Received::None => return Ok(()),
                Received::End => self.upstream_ended(down, true)?,
                Received::Failed(_) => self.upstream_ended(down, false)?,
            }
        }
        Ok(())
    }

    pub(super) fn forward_response(
        &mut self,
        down: &mut Downstream<'_>,
        chunk: Chunk,
    ) -> Result<(), Stop> {
        self.touch(down.shard);
        self.replay = None;
        self.facts.bytes.upstream_wire_received += chunk.len() as u64;
        let mut rest = chunk;
        while self.response.phase == ResponsePhase::Head {
            match self.read_response_head(down, &rest)? {
                Some(len) => rest.advance(len),
                None => return Ok(()),
            }
            if rest.is_empty() && self.response.phase == ResponsePhase::Head {
                return Ok(());
            }
        }
        self.forward_response_body(down, rest)
    }

    pub(super) fn forward_response_body(
        &mut self,
        down: &mut Downstream<'_>,
        mut rest: Chunk,
    ) -> Result<(), Stop> {
        while self.response.phase == ResponsePhase::Body {
            let Ok(step) = self.response.body.decode(&rest) else {
                self.facts.flags.insert(ResponseFlags::UPSTREAM_PROTOCOL_ERROR);
                self.count_protocol_error();
                return Err(Progress::Reset);
            };
            let data = rest.slice(step.data);
            self.facts.bytes.sent += data.len() as u64;
            if !data.is_empty() {
                send_body(down.shard, down.socket, data, self.response.chunked);
            }
            rest.advance(step.consumed);
            if step.done {
                self.end_response(down);
            } else if step.consumed == 0 || rest.is_empty() {
                return Ok(());
            }
        }
        if !rest.is_empty() {
            // More than the response: whoever would be given this connection would get it.
            self.response.reusable = false;
            self.count_protocol_error();
        }
        Ok(())
    }

    pub(super) fn end_response(&mut self, down: &mut Downstream<'_>) {
        self.response.phase = ResponsePhase::Complete;
        self.facts.times.upstream_rx_end = down.shard.clock.now();
        if self.response.chunked {
            let enabled = self
                .destination
                .as_ref()
                .is_some_and(|(cluster, _)| cluster.config.http.enable_trailers);
            let body = &mut self.response.body;
            send_last_chunk(down.shard, down.socket, body, enabled);
        }
    }

    /// Upstream finished sending (`cleanly`), or its connection failed.
    pub(super) fn upstream_ended(
        &mut self,
        down: &mut Downstream<'_>,
        cleanly: bool,
    ) -> Result<(), Stop> {
        self.response.reusable = false;
        if self.response.phase == ResponsePhase::Body {
            if cleanly && self.response.body.on_eof().is_ok() {
                self.end_response(down);
                if self.is_tunnelling() {
                    down.socket.finish();
                }
                return Ok(());
            }
            if let Some((cluster, _)) = &self.destination {
                cluster.stats.upstream_cx_destroy_remote_with_active_rq.inc();
                cluster.stats.upstream_rq_rx_reset.inc();
            }
            self.facts.flags.insert(ResponseFlags::UPSTREAM_CONNECTION_TERMINATION);
            self.facts.details = "upstream_reset_after_response_started{connection_termination}";
            down.http.stats.rq_reset_after_downstream_response_started.inc();
            return Err(Progress::Reset);
        }
        self.upstream_died_early(down);
        Ok(())
    }

    /// Upstream closed before it answered: send the request again where that is safe, else say so.
    pub(super) fn upstream_died_early(&mut self, down: &mut Downstream<'_>) {
        let unanswered = self.response.partial.is_empty();
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.upstream_cx_destroy_remote_with_active_rq.inc();
        }
        self.release_upstream(down.shard);
        if unanswered && self.replay.is_some() && !self.replayed {
            self.replayed = true;
            if let Some((cluster, _)) = &self.destination {
                cluster.stats.upstream_rq_retry.inc();
            }
            return self.acquire(down);
        }
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.upstream_rq_rx_reset.inc();
        }
        self.reply(down, &Reply::upstream_failure(UpstreamFailure::Closed));
    }

    pub(super) fn count_protocol_error(&self) {
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.upstream_cx_protocol_error.inc();
        }
    }

    /// Ends the exchange when both messages are dealt with.
    pub(super) fn conclude(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        if self.response.phase != ResponsePhase::Complete {
            return Ok(());
        }
        if self.is_tunnelling() && !self.request.complete {
            // The other direction may go on: FIN is forwarded for each by itself.
            return Ok(());
        }
        if !self.request.complete {
            // The answer came before the end of the request. On HTTP/1 there is no other way to
            // be rid of the rest than to close.
            down.http.stats.downstream_rq_response_before_rq_complete.inc();
            return Err(Progress::Close);
        }
        Err(if self.response.closes { Progress::Close } else { Progress::KeepAlive })
    }

    /// A client that closes while it waits for its response gives the request up.
    pub(super) fn notice_departure(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        let waits = self.request.complete && self.response.phase != ResponsePhase::Complete;
        if waits && !self.is_tunnelling() && down.socket.is_over() {
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

/// Sends body bytes, as a chunk where the body goes out chunked (RFC 9112 section 7.1).
fn send_body(shard: &Shard, socket: &Socket, data: Chunk, chunked: bool) {
    if !chunked {
        return socket.send(data);
    }
    socket.send(shard.arena.write(|out| render::chunk_size_line(out, data.len())));
    socket.send(data);
    // Sent at once, for clients that act on a chunk only when they have seen its end.
    socket.send(shard.arena.copy(b"\r\n"));
}

/// Ends a chunked body, with the trailers that came if they are to go on.
fn send_last_chunk(shard: &Shard, socket: &Socket, body: &mut BodyDecoder, trailers: bool) {
    let section = match body {
        BodyDecoder::Chunked(decoder) if trailers => decoder.take_trailers(),
        _ => None,
    };
    socket.send(shard.arena.write(|out| match section {
        Some(section) => {
            out.put(b"0\r\n");
            out.put(&section);
            out.put(b"\r\n");
        }
        None => out.put(LAST_CHUNK),
    }));
}
