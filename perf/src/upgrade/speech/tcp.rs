//! A protocol of our own for plain TCP: contents with their length before them (u32, big-endian),
//! answered in order.

use std::collections::VecDeque;

use super::{Asked, Heard, Held, InOrder, carried, check_length};
use crate::upgrade::content::Ask;

const PREFIX_BYTES: usize = 4;

#[derive(Debug, Default)]
pub(in crate::upgrade) struct Client {
    held: Held,
    waiting: VecDeque<u64>,
}

impl Client {
    pub(super) fn request(&mut self, ask: Ask, bytes: usize, out: &mut Vec<u8>) {
        put(ask, bytes, out);
        self.waiting.push_back(ask.id);
    }

    pub(super) fn feed(&mut self, input: &[u8], heard: &mut Vec<Heard>) -> Result<(), String> {
        let Self { held, waiting } = self;
        each(held, input, |content| {
            heard.push(Heard::Answer { to: waiting.pop_front(), content: carried(content) });
        })
    }
}

#[derive(Debug, Default)]
pub(in crate::upgrade) struct Server {
    held: Held,
    order: InOrder,
}

impl Server {
    pub(super) fn feed(&mut self, input: &[u8], asked: &mut Vec<Asked>) -> Result<(), String> {
        let Self { held, order } = self;
        each(held, input, |content| {
            asked.push(Asked { ticket: order.ticket(), ask: Ask::read(content) });
        })
    }

    pub(super) fn answer(&mut self, ticket: u64, ask: Ask, out: &mut Vec<u8>) {
        self.order.ready(ticket, ask);
        while let Some(ask) = self.order.next() {
            put(ask, ask.reply_bytes as usize, out);
        }
    }
}

fn put(ask: Ask, bytes: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    ask.put(bytes, out);
    let length = (out.len() - start - PREFIX_BYTES) as u32;
    out[start..start + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
}

fn each(held: &mut Held, input: &[u8], mut each: impl FnMut(&[u8])) -> Result<(), String> {
    held.push(input);
    while let Some(rest) = held.rest() {
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX_BYTES>() else { break };
        let bytes = check_length(u32::from_be_bytes(*prefix) as usize)?;
        let whole = PREFIX_BYTES + bytes;
        match rest.get(..bytes) {
            Some(content) => {
                each(content);
                held.take(whole);
            }
            None => held.want(whole),
        }
    }
    Ok(())
}
