//! Bolt and Dubbo with several calls in flight. A call's number on the wire is its place among the
//! client's, so that a late answer of an earlier connection is no other's.

use std::collections::HashMap;

use super::{Asked, Heard, Held, carried, check_length};
use crate::{
    protocol::Fault,
    rpc::{Head, Kind, Rpc},
    upgrade::content::{Ask, HEAD_BYTES},
};

/// Bytes of a head that nothing of ours exceeds.
const HEAD_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(in crate::upgrade) struct Client {
    rpc: Rpc,
    held: Held,
    /// Of calls under way, by their number on the wire.
    waiting: HashMap<u64, u64>,
}

impl Client {
    pub(super) fn new(rpc: Rpc) -> Self {
        Self { rpc, held: Held::default(), waiting: HashMap::new() }
    }

    pub(super) fn request(&mut self, ask: Ask, bytes: usize, out: &mut Vec<u8>) {
        let content = ask.content(bytes);
        // The method says a length that nobody looks at.
        let mut call = self.rpc.call(content.len(), HEAD_BYTES);
        let number = ask.id & u64::from(u32::MAX);
        self.rpc.number(&mut call, number);
        fill(self.rpc, &mut call, &content);
        out.append(&mut call);
        self.waiting.insert(number, ask.id);
    }

    pub(super) fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        heard: &mut Vec<Heard>,
    ) -> Result<(), String> {
        let Self { rpc, held, waiting } = self;
        each(*rpc, held, input, |head, frame| {
            match head.kind {
                Kind::Answer(outcome) => {
                    let content = match outcome {
                        Ok(_) => carried(&content(*rpc, frame)),
                        Err(Fault::Status) => Err("an error for an answer".to_owned()),
                        Err(fault) => Err(fault.name().to_owned()),
                    };
                    heard.push(Heard::Answer { to: waiting.remove(&head.id), content });
                }
                Kind::Heartbeat => rpc.put_heartbeat_answer(head, out),
                Kind::GoAway => heard.push(Heard::AskedToGo),
                Kind::HeartbeatAnswer | Kind::Other => {}
                Kind::Call { .. } => return Err("a call from the server".to_owned()),
            }
            Ok(())
        })
    }
}

#[derive(Debug)]
pub(in crate::upgrade) struct Server {
    rpc: Rpc,
    held: Held,
    waiting: HashMap<u64, Head>,
    /// Tickets so far. Calls of several clients may have the same number if a proxy is wrong.
    tickets: u64,
}

impl Server {
    pub(super) fn new(rpc: Rpc) -> Self {
        Self { rpc, held: Held::default(), waiting: HashMap::new(), tickets: 0 }
    }

    pub(super) fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        asked: &mut Vec<Asked>,
    ) -> Result<(), String> {
        let Self { rpc, held, waiting, tickets } = self;
        each(*rpc, held, input, |head, frame| {
            match head.kind {
                Kind::Call { .. } => {
                    waiting.insert(*tickets, head);
                    asked.push(Asked { ticket: *tickets, ask: Ask::read(&content(*rpc, frame)) });
                    *tickets += 1;
                }
                Kind::Heartbeat => rpc.put_heartbeat_answer(head, out),
                _ => {}
            }
            Ok(())
        })
    }

    pub(super) fn answer(&mut self, ticket: u64, ask: Ask, out: &mut Vec<u8>) {
        let Some(head) = self.waiting.remove(&ticket) else { return };
        let content = ask.content(ask.reply_bytes as usize);
        let start = out.len();
        self.rpc.put_answer(head, content.len(), out);
        fill(self.rpc, &mut out[start..], &content);
    }
}

/// Writes a content over the filling of a frame.
fn fill(rpc: Rpc, frame: &mut [u8], mut content: &[u8]) {
    for piece in rpc.content(frame).unwrap_or_default() {
        let Some((now, rest)) = content.split_at_checked(piece.len()) else { return };
        frame[piece].copy_from_slice(now);
        content = rest;
    }
}

fn content(rpc: Rpc, frame: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    for piece in rpc.content(frame).unwrap_or_default() {
        content.extend_from_slice(&frame[piece]);
    }
    content
}

fn each(
    rpc: Rpc,
    held: &mut Held,
    input: &[u8],
    mut each: impl FnMut(Head, &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    held.push(input);
    while let Some(rest) = held.rest() {
        let head = rpc.head(rest).map_err(|_| "a broken frame".to_owned())?;
        let Some(head) = head else {
            return if rest.len() > HEAD_BYTES_MAX {
                Err("a head without an end".to_owned())
            } else {
                Ok(())
            };
        };
        let bytes = check_length(usize::try_from(head.bytes).unwrap_or(usize::MAX))?;
        match rest.get(..bytes) {
            Some(frame) => {
                each(head, frame)?;
                held.take(bytes);
            }
            None => held.want(bytes),
        }
    }
    Ok(())
}
