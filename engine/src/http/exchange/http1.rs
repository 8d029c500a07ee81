//! Reading a response from an HTTP/1 connection.

use outrigger_codecs::http::{BodyFraming, FieldStorage, ResponseHead};
use outrigger_codecs::http1::{HeadError, HeadLimits};

use crate::access_log::ResponseFlags;
use crate::buffers::Chunk;
use crate::ring::Received;

use super::super::http1::trailers_of;
use super::super::reply::UpstreamFailure;
use super::{Downstream, Exchange, Progress, ResponsePhase, Stop, Upstream};

impl Exchange {
    /// Takes what the connection has. False when there is nothing more for now.
    pub(super) fn receive_http1(&mut self, down: &mut Downstream<'_>) -> Result<bool, Stop> {
        let Upstream::Http1(connection) = &self.upstream else { return Ok(false) };
        match connection.transport.receive() {
            Received::Chunk(chunk) => self.forward_response(down, chunk)?,
            Received::None => return Ok(false),
            Received::End => self.upstream_ended(down, true)?,
            Received::Failed(_) => self.upstream_ended(down, false)?,
        }
        Ok(true)
    }

    fn forward_response(&mut self, down: &mut Downstream<'_>, chunk: Chunk) -> Result<(), Stop> {
        self.touch(down.shard);
        self.touch_try(down.shard);
        self.facts.bytes.upstream_wire_received += chunk.len() as u64;
        let mut rest = chunk;
        while self.response.phase == ResponsePhase::Head {
            match self.read_response_head(down, &rest)? {
                Some(len) => rest.advance(len),
                None => return Ok(()),
            }
            if self.is_between_tries() {
                return Ok(());
            }
            if rest.is_empty() && self.response.phase == ResponsePhase::Head {
                return Ok(());
            }
        }
        self.forward_response_body(down, rest)
    }

    /// Reads a response head from what is there. Returns how much of `bytes` it took; nothing when
    /// the head is not complete.
    fn read_response_head(
        &mut self,
        down: &mut Downstream<'_>,
        bytes: &[u8],
    ) -> Result<Option<usize>, Stop> {
        let limits = self.response_limits();
        if self.response.partial.is_empty() {
            let mut storage = FieldStorage::new();
            return match ResponseHead::parse(bytes, &mut storage, &limits) {
                Ok(Some(head)) => self.take_http1_head(down, &head).map(|()| Some(head.len)),
                Ok(None) => {
                    self.response.partial.extend_from_slice(bytes);
                    Ok(None)
                }
                Err(error) => self.refuse_http1(down, error).map(|()| None),
            };
        }
        let mut partial = std::mem::take(&mut self.response.partial);
        let before = partial.len();
        partial.extend_from_slice(bytes);
        let mut storage = FieldStorage::new();
        match ResponseHead::parse(&partial, &mut storage, &limits) {
            Ok(Some(head)) => {
                let taken = self.take_http1_head(down, &head).map(|()| Some(head.len - before));
                drop(storage);
                partial.clear();
                self.response.partial = partial;
                taken
            }
            Ok(None) => {
                drop(storage);
                self.response.partial = partial;
                Ok(None)
            }
            Err(error) => self.refuse_http1(down, error).map(|()| None),
        }
    }

    fn response_limits(&self) -> HeadLimits {
        self.destination.as_ref().map_or_else(HeadLimits::default, |(cluster, _)| HeadLimits {
            bytes_max: cluster.config.http.max_response_headers_bytes as usize,
            fields_max: cluster.config.http.max_headers_count as usize,
        })
    }

    fn take_http1_head(
        &mut self,
        down: &mut Downstream<'_>,
        head: &ResponseHead<'_, '_>,
    ) -> Result<(), Stop> {
        let refusal = match head.framing(self.client.method) {
            Err(error) => Some(HeadError::from(error)),
            Ok(_) if head.status == 101 && !self.switches(101) => {
                Some(HeadError::StatusLineInvalid)
            }
            Ok(framing) => {
                self.response.reusable = head.keep_alive() && framing != BodyFraming::UntilClose;
                None
            }
        };
        match refusal {
            Some(error) => self.refuse_http1(down, error),
            None => self.take_response_head(down, head),
        }
    }

    /// Upstream's answer can't be understood, or not in one way only.
    fn refuse_http1(&mut self, down: &mut Downstream<'_>, error: HeadError) -> Result<(), Stop> {
        self.refuse_response(down, &error);
        Ok(())
    }

    fn forward_response_body(
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
            if !data.is_empty() {
                self.send_response_body(down, data);
            }
            rest.advance(step.consumed);
            if step.done {
                let wanted = self
                    .destination
                    .as_ref()
                    .is_some_and(|(cluster, _)| cluster.config.http.enable_trailers);
                let trailers = trailers_of(&mut self.response.body, wanted);
                self.end_response(down, trailers);
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

    /// Upstream finished sending (`cleanly`), or its connection failed.
    fn upstream_ended(&mut self, down: &mut Downstream<'_>, cleanly: bool) -> Result<(), Stop> {
        self.response.reusable = false;
        if self.response.phase == ResponsePhase::Body {
            if cleanly && self.response.body.on_eof().is_ok() {
                self.end_response(down, None);
                if self.is_tunnelling() {
                    down.end_tunnel();
                }
                return Ok(());
            }
            return Err(self.cut_off(down, ResponseFlags::UPSTREAM_CONNECTION_TERMINATION));
        }
        self.upstream_died_early(down);
        Ok(())
    }

    /// Upstream closed before it answered: send the request again where that is safe, else say so.
    fn upstream_died_early(&mut self, down: &mut Downstream<'_>) {
        let unanswered = self.response.partial.is_empty();
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.upstream_cx_destroy_remote_with_active_rq.inc();
        }
        self.release_upstream(down.shard);
        if unanswered && self.may_replay && self.replays == 0 {
            return self.send_again(down);
        }
        if let Some((cluster, _)) = &self.destination {
            cluster.stats.upstream_rq_rx_reset.inc();
        }
        self.failed(down, UpstreamFailure::Closed);
    }
}
