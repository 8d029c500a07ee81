//! A request that waits until its body has told what it asks for.
//!
//! Until then there is no route, no upstream, and nothing but the request's own deadlines. Invariant:
//! the wait ends by itself: with what was looked for, the body's end, the limit, or the time.

use super::super::after;
use super::super::begin::resume;
use super::super::downstream::BodyEvent;
use super::super::soap::inspection;
use super::{Downstream, Exchange, Progress, Stop};

impl Exchange {
    /// Begins to wait.
    pub(super) fn begin_inspection(&mut self, down: &mut Downstream<'_>) {
        let filters = down.http.filters.current(down.shard);
        let limit = inspection(&filters).map(|inspection| inspection.timeout);
        self.deadlines.inspection = after(down.shard.clock.now(), limit);
        if self.client.expects_continue {
            // There is nobody else yet who could tell it to send what the wait is for.
            down.send_continue();
            self.client.expects_continue = false;
        }
    }

    /// Looks at what came of the body.
    pub(super) fn inspect(&mut self, down: &mut Downstream<'_>) -> Result<(), Stop> {
        loop {
            match down.take_body(&mut self.request.body) {
                BodyEvent::Data(data) => {
                    self.touch(down.shard);
                    if self.soap.keep(&down.shard.arena, data) {
                        break;
                    }
                }
                BodyEvent::End(trailers) => {
                    self.soap.keep_end(trailers);
                    break;
                }
                BodyEvent::None => return Ok(()),
                BodyEvent::Gone => return Err(Progress::Gone),
                BodyEvent::Malformed => {
                    down.http.stats.downstream_cx_protocol_error.inc();
                    return self.bad_request_body(down);
                }
            }
        }
        self.end_inspection(down);
        Ok(())
    }

    /// Routes the request by what is known of it now.
    pub(super) fn end_inspection(&mut self, down: &mut Downstream<'_>) {
        self.deadlines.inspection = None;
        self.route_again(down, resume);
    }
}
