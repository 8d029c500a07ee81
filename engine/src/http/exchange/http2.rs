//! Reading a response from a stream of an HTTP/2 connection.

use outrigger_codecs::http::FieldStorage;
use outrigger_codecs::http2::response_head;

use crate::access_log::ResponseFlags;
use crate::cluster::{Reset, StreamEvent};

use super::super::reply::{Reply, UpstreamFailure};
use super::{Downstream, Exchange, ResponsePhase, Stop, Upstream};

impl Exchange {
    /// Takes what the stream has. False when there is nothing more for now.
    pub(super) fn receive_http2(&mut self, down: &mut Downstream<'_>) -> Result<bool, Stop> {
        let Upstream::Http2(stream) = &self.upstream else { return Ok(false) };
        if self.response.phase == ResponsePhase::Head {
            let mut block = std::mem::take(&mut self.response.block);
            let read = match stream.take_head(&mut block) {
                Some(ends) => {
                    self.touch(down.shard);
                    self.touch_try(down.shard);
                    self.facts.bytes.upstream_wire_received += block.text_len() as u64;
                    let mut storage = FieldStorage::new();
                    match response_head(&block, ends, &mut storage) {
                        Ok(head) => self.take_response_head(down, &head),
                        Err(error) => {
                            self.refuse_response(down, &error);
                            Ok(())
                        }
                    }
                    .map(|()| true)
                }
                None => match stream.next() {
                    StreamEvent::Reset(reset) => {
                        self.stream_reset(down, reset);
                        Ok(true)
                    }
                    _ => Ok(false),
                },
            };
            self.response.block = block;
            return read;
        }
        match stream.next() {
            StreamEvent::Data(data) => {
                self.touch(down.shard);
                self.touch_try(down.shard);
                self.facts.bytes.upstream_wire_received += data.len() as u64;
                self.send_response_body(down, data);
            }
            StreamEvent::End(trailers) => {
                self.end_response(down, trailers);
                if self.is_tunnelling() {
                    down.end_tunnel();
                }
            }
            StreamEvent::Reset(reset) => {
                let flag = match reset {
                    Reset::ConnectionLost => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
                    Reset::Protocol => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
                    Reset::Remote | Reset::Cancelled | Reset::Unprocessed => {
                        ResponseFlags::UPSTREAM_REMOTE_RESET
                    }
                };
                self.cancelled = reset == Reset::Cancelled;
                return Err(self.cut_off(down, flag));
            }
            StreamEvent::None => return Ok(false),
        }
        Ok(true)
    }

    /// The stream ended without a response: send the request again where that is safe, else say so.
    fn stream_reset(&mut self, down: &mut Downstream<'_>, reset: Reset) {
        self.release_upstream(down.shard);
        let failure = match reset {
            Reset::Unprocessed => UpstreamFailure::Refused,
            Reset::Remote | Reset::Cancelled => UpstreamFailure::Reset,
            Reset::ConnectionLost => UpstreamFailure::Closed,
            Reset::Protocol => UpstreamFailure::Protocol,
        };
        if self.retries_failure(down, failure) {
            return;
        }
        let safe = match reset {
            // The peer says that it did nothing.
            Reset::Unprocessed => self.replays < REPLAYS_MAX,
            Reset::ConnectionLost => {
                self.reused && self.replays == 0 && self.request.complete && self.is_idempotent()
            }
            Reset::Remote | Reset::Cancelled | Reset::Protocol => false,
        };
        if safe && !self.outbound.spent {
            return self.send_again(down);
        }
        self.reply(down, &Reply::upstream_failure(failure));
    }
}

/// Connections that may refuse a request one after the other, as in a rolling restart of upstream.
const REPLAYS_MAX: u8 = 4;
