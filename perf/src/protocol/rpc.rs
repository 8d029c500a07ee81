//! Bolt and Dubbo with several calls in flight per connection.
//!
//! Every slot of the session is one call at a time, under a number that is unique on the connection;
//! answers come in any order and are known by it. The judgement: a successful status and the body's
//! length. What fails one call leaves the others alone, as long as its answer has their frame.
//! Heartbeats are answered.

use std::sync::Arc;

use super::{Ended, Fault, Protocol, Session};
use crate::rpc::{Frames, Head, Kind, Malformed, Rpc};

/// RPC load: the same call again and again.
#[derive(Debug, Clone)]
pub struct RpcLoad {
    options: RpcOptions,
    /// The call, to be numbered.
    call: Arc<[u8]>,
}

/// What to send and what to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RpcOptions {
    /// What is spoken.
    pub rpc: Rpc,
    /// Length of a call's body: the content in Bolt, a string argument in Dubbo.
    pub request_bytes: usize,
    /// The same of the answer that is asked for: the content in Bolt, a string result in Dubbo.
    pub response_bytes: usize,
    /// The answer must have that length.
    pub exact: bool,
    /// Calls in flight at a time.
    pub in_flight: usize,
    /// One call, then the connection takes no more.
    pub close: bool,
}

impl RpcLoad {
    /// Prepares the call.
    #[must_use]
    pub fn new(options: RpcOptions) -> Self {
        let call = options.rpc.call(options.request_bytes, options.response_bytes).into();
        Self { options: RpcOptions { in_flight: options.in_flight.max(1), ..options }, call }
    }
}

impl Protocol for RpcLoad {
    type Session = RpcSession;

    fn session(&self) -> RpcSession {
        RpcSession {
            options: self.options,
            call: Arc::clone(&self.call),
            frames: Frames::new(self.options.rpc),
            next_id: 1,
            ids: vec![None; self.options.in_flight],
            reusable: true,
        }
    }

    fn slots(&self) -> usize {
        self.options.in_flight
    }
}

/// One connection's calls.
#[derive(Debug)]
pub struct RpcSession {
    options: RpcOptions,
    call: Arc<[u8]>,
    frames: Frames,
    next_id: u64,
    /// Number of the call in each slot.
    ids: Vec<Option<u64>>,
    reusable: bool,
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Session for RpcSession {
    fn open(&mut self, _out: &mut Vec<u8>) {}

    fn is_open(&self) -> bool {
        true
    }

    fn request(&mut self, slot: usize, out: &mut Vec<u8>) {
        let RpcOptions { rpc, close, .. } = self.options;
        let start = out.len();
        out.extend_from_slice(&self.call);
        rpc.number(&mut out[start..], self.next_id);
        self.ids[slot] = Some(self.next_id);
        self.next_id = rpc.next_id(self.next_id);
        self.reusable &= !close;
    }

    fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        ended: &mut Vec<Ended>,
    ) -> Result<(), Fault> {
        let Self { options, frames, ids, reusable, .. } = self;
        frames.feed(input, |head| match head.kind {
            Kind::Answer(_) => {
                ended.push(end(head, options, ids)?);
                Ok(())
            }
            Kind::Heartbeat => {
                options.rpc.put_heartbeat_answer(head, out);
                Ok(())
            }
            Kind::GoAway => {
                *reusable = false;
                Ok(())
            }
            Kind::HeartbeatAnswer | Kind::Other => Ok(()),
            Kind::Call { .. } => Err(Fault::Malformed),
        })
    }

    fn skippable(&self) -> u64 {
        self.frames.left()
    }

    fn skip(&mut self, count: u64, ended: &mut Vec<Ended>) -> Result<(), Fault> {
        if let Some(head) = self.frames.skip(count) {
            // No other frame has a reason to be as long as those that are skipped.
            ended.push(end(head, &self.options, &mut self.ids)?);
        }
        Ok(())
    }

    fn finish(&mut self, _ended: &mut Vec<Ended>) -> Result<(), Fault> {
        if self.ids.iter().all(Option::is_none) { Ok(()) } else { Err(Fault::Closed) }
    }

    fn is_reusable(&self) -> bool {
        self.reusable
    }
}

/// Frees the slot of an answered call. Nobody may answer what was not asked, or twice.
fn end(head: Head, options: &RpcOptions, ids: &mut [Option<u64>]) -> Result<Ended, Fault> {
    let Kind::Answer(outcome) = head.kind else { return Err(Fault::Malformed) };
    let slot = ids.iter().position(|id| *id == Some(head.id)).ok_or(Fault::Malformed)?;
    ids[slot] = None;
    let expected = options.response_bytes as u64;
    let outcome = match outcome {
        Ok(bytes) if options.exact && bytes != expected => Err(Fault::Length),
        outcome => outcome,
    };
    Ok(Ended { slot, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: usize = 128;

    fn session(rpc: Rpc) -> RpcSession {
        let options = RpcOptions {
            rpc,
            request_bytes: 16,
            response_bytes: BODY,
            exact: true,
            in_flight: 3,
            close: false,
        };
        RpcLoad::new(options).session()
    }

    /// Sends calls in all slots, and returns them.
    fn calls(session: &mut RpcSession) -> Vec<Head> {
        let (mut out, mut calls) = (Vec::new(), Vec::new());
        (0..3).for_each(|slot| session.request(slot, &mut out));
        Frames::new(session.options.rpc)
            .feed(&out, |head| {
                calls.push(head);
                Ok::<(), Fault>(())
            })
            .unwrap();
        calls
    }

    fn feed(session: &mut RpcSession, input: &[u8]) -> Result<Vec<Ended>, Fault> {
        let mut ended = Vec::new();
        session.feed(input, &mut Vec::new(), &mut ended).map(|()| ended)
    }

    #[test]
    fn answers_end_their_calls_in_any_order() {
        for rpc in [Rpc::Bolt, Rpc::Dubbo] {
            let mut session = session(rpc);
            let calls = calls(&mut session);
            assert_eq!(calls.iter().map(|call| call.id).collect::<Vec<_>>(), [1, 2, 3]);
            let mut input = Vec::new();
            for call in calls.iter().rev() {
                rpc.put_answer(*call, BODY, &mut input);
            }
            let slots: Vec<_> =
                feed(&mut session, &input).unwrap().iter().map(|e| e.slot).collect();
            assert_eq!(slots, [2, 1, 0]);
            assert_eq!(session.finish(&mut Vec::new()), Ok(()));
        }
    }

    #[test]
    fn what_is_wrong_with_an_answer() {
        for rpc in [Rpc::Bolt, Rpc::Dubbo] {
            let mut session = session(rpc);
            let call = calls(&mut session)[1];
            let mut input = Vec::new();
            rpc.put_answer(call, BODY + 1, &mut input);
            let ended = feed(&mut session, &input).unwrap();
            assert_eq!(ended, [Ended { slot: 1, outcome: Err(Fault::Length) }]);
            // The same again answers nothing, and so does a call.
            assert_eq!(feed(&mut session, &input), Err(Fault::Malformed));
            assert_eq!(feed(&mut session, &rpc.call(0, 0)), Err(Fault::Malformed));
            assert_eq!(session.finish(&mut Vec::new()), Err(Fault::Closed));
        }
    }

    #[test]
    fn heartbeats_and_farewells() {
        let bolt: (&[u8], &[u8]) = (
            b"\x01\x01\0\0\x01\0\0\0\x07\x01\xff\xff\xff\xff\0\0\0\0\0\0\0\0",
            b"\x01\x01\0\x64\x01\0\0\0\x08\x01\0\0\0\0\0\0\0\0\0\0\0\0",
        );
        let dubbo: (&[u8], &[u8]) = (
            b"\xda\xbb\xe2\0\0\0\0\0\0\0\0\x07\0\0\0\x01N",
            b"\xda\xbb\xa2\0\0\0\0\0\0\0\0\x09\0\0\0\x02\x01R",
        );
        for (rpc, (heartbeat, farewell)) in [(Rpc::Bolt, bolt), (Rpc::Dubbo, dubbo)] {
            let mut session = session(rpc);
            let (mut out, mut ended) = (Vec::new(), Vec::new());
            session.feed(heartbeat, &mut out, &mut ended).unwrap();
            assert!(!out.is_empty() && ended.is_empty() && session.is_reusable());
            session.feed(farewell, &mut out, &mut ended).unwrap();
            assert!(ended.is_empty() && !session.is_reusable());
        }
    }
}
