//! The two ends of each protocol, as far as a run through upgrades needs them: requests that overlap,
//! answers that say whose they are, and the ways to ask a client to go.
//!
//! They do no I/O and read no clock. Unlike the sessions of [`crate::protocol`], which know a load's
//! requests as alike and look at lengths only, these read every byte. Invariant: each number given to
//! [`Client::request`] is told once, by [`Heard::Answer`] or [`Heard::Refused`], unless the connection ends before.

mod http1;
mod http2;
mod rpc;
mod tcp;

use std::collections::VecDeque;

use super::{content::Ask, report::Tongue};
use crate::rpc::Rpc;

/// A client's side of a connection.
#[derive(Debug)]
pub(super) enum Client {
    Http1(http1::Client),
    Http2(http2::Client),
    Rpc(rpc::Client),
    Tcp(tcp::Client),
}

/// What came from the other side.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The answer to the request that the protocol says, which is `None` if it says one that is not
    /// under way; and what is in it.
    Answer { to: Option<u64>, content: Result<u64, String> },
    /// No more requests on this connection, please.
    AskedToGo,
    /// The request is not processed, and may be sent again elsewhere.
    Refused(u64),
}

impl Client {
    /// The beginning of a connection; appends what is said first.
    pub(super) fn open(tongue: Tongue, out: &mut Vec<u8>) -> Self {
        match tongue {
            Tongue::Http1 => Self::Http1(http1::Client::default()),
            Tongue::Http2 => Self::Http2(http2::Client::open(out)),
            Tongue::Bolt => Self::Rpc(rpc::Client::new(Rpc::Bolt)),
            Tongue::Dubbo => Self::Rpc(rpc::Client::new(Rpc::Dubbo)),
            Tongue::Tcp => Self::Tcp(tcp::Client::default()),
        }
    }

    /// Appends a request with a content of so many bytes; without one where the protocol lets it be
    /// and it is 0.
    pub(super) fn request(&mut self, ask: Ask, bytes: usize, out: &mut Vec<u8>) {
        match self {
            Self::Http1(client) => client.request(ask, bytes, out),
            Self::Http2(client) => client.request(ask, bytes, out),
            Self::Rpc(client) => client.request(ask, bytes, out),
            Self::Tcp(client) => client.request(ask, bytes, out),
        }
    }

    /// Takes received bytes.
    ///
    /// # Errors
    ///
    /// What is wrong with the whole connection.
    pub(super) fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        heard: &mut Vec<Heard>,
    ) -> Result<(), String> {
        match self {
            Self::Http1(client) => client.feed(input, heard),
            Self::Http2(client) => client.feed(input, out, heard),
            Self::Rpc(client) => client.feed(input, out, heard),
            Self::Tcp(client) => client.feed(input, heard),
        }
    }
}

/// An origin's side of a connection.
#[derive(Debug)]
pub(super) enum Server {
    /// HTTP of a version that the first bytes say: some proxies have only one upstream.
    Unknown,
    Http1(http1::Server),
    Http2(http2::Server),
    Rpc(rpc::Server),
    Tcp(tcp::Server),
}

/// A request that an origin has read, and the number by which it answers it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) ticket: u64,
    /// `None` if its content is damaged.
    pub(super) ask: Option<Ask>,
}

impl Server {
    pub(super) fn open(tongue: Tongue) -> Self {
        match tongue {
            Tongue::Http1 => Self::Http1(http1::Server::default()),
            Tongue::Http2 => Self::Unknown,
            Tongue::Bolt => Self::Rpc(rpc::Server::new(Rpc::Bolt)),
            Tongue::Dubbo => Self::Rpc(rpc::Server::new(Rpc::Dubbo)),
            Tongue::Tcp => Self::Tcp(tcp::Server::default()),
        }
    }

    pub(super) fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        asked: &mut Vec<Asked>,
    ) -> Result<(), String> {
        if matches!(self, Self::Unknown) {
            // No method begins like that.
            *self = match input {
                [b'P', b'R', ..] => Self::Http2(http2::Server::open(out)),
                _ => Self::Http1(http1::Server::default()),
            };
        }
        match self {
            Self::Unknown => Ok(()),
            Self::Http1(server) => server.feed(input, asked),
            Self::Http2(server) => server.feed(input, out, asked),
            Self::Rpc(server) => server.feed(input, out, asked),
            Self::Tcp(server) => server.feed(input, asked),
        }
    }

    /// Answers a request, unless nobody waits for it any more.
    pub(super) fn answer(&mut self, ticket: u64, ask: Ask, out: &mut Vec<u8>) {
        match self {
            Self::Unknown => {}
            Self::Http1(server) => server.answer(ticket, ask, out),
            Self::Http2(server) => server.answer(ticket, ask, out),
            Self::Rpc(server) => server.answer(ticket, ask, out),
            Self::Tcp(server) => server.answer(ticket, ask, out),
        }
    }
}

/// What is in an answer, or why nothing.
fn carried(content: &[u8]) -> Result<u64, String> {
    let ask = Ask::read(content).ok_or("damaged content")?;
    if content.len() == ask.reply_bytes as usize {
        Ok(ask.id)
    } else {
        Err(format!("{} bytes instead of {}", content.len(), ask.reply_bytes))
    }
}

/// Requests of a protocol without numbers, whose answers come in their order.
#[derive(Debug, Default)]
struct InOrder {
    first: u64,
    waiting: VecDeque<Option<Ask>>,
}

impl InOrder {
    /// A number for the next one.
    fn ticket(&mut self) -> u64 {
        self.waiting.push_back(None);
        self.first + self.waiting.len() as u64 - 1
    }

    /// Notes what is to be answered.
    fn ready(&mut self, ticket: u64, ask: Ask) {
        let place = ticket.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        if let Some(waiting) = place.and_then(|place| self.waiting.get_mut(place)) {
            *waiting = Some(ask);
        }
    }

    /// The next one whose turn it is.
    fn next(&mut self) -> Option<Ask> {
        let ask = (*self.waiting.front()?)?;
        self.waiting.pop_front();
        self.first += 1;
        Some(ask)
    }
}

/// Bytes that are not yet a whole message.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    /// Taken already.
    start: usize,
    /// As many must be there before it is worth to look again.
    wanted: usize,
}

impl Held {
    fn push(&mut self, input: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
        self.bytes.extend_from_slice(input);
    }

    /// What may hold a whole message.
    fn rest(&self) -> Option<&[u8]> {
        let rest = &self.bytes[self.start..];
        (!rest.is_empty() && rest.len() >= self.wanted).then_some(rest)
    }

    fn want(&mut self, bytes: usize) {
        self.wanted = bytes;
    }

    fn take(&mut self, bytes: usize) {
        self.start += bytes;
        self.wanted = 0;
        // What was taken goes when it is the greater part, so that each byte moves once at most.
        if self.start * 2 > self.bytes.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

/// A message that is longer than any of ours.
fn check_length(bytes: usize) -> Result<usize, String> {
    const SPARE: usize = 64 * 1024;
    let most = super::content::CONTENT_BYTES_MAX + SPARE;
    if bytes <= most { Ok(bytes) } else { Err(format!("a message of {bytes} bytes")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Tongue; 5] =
        [Tongue::Http1, Tongue::Http2, Tongue::Bolt, Tongue::Dubbo, Tongue::Tcp];

    /// Both ends, with pieces of so many bytes at most between them; answers in reverse if `late`.
    fn converse(tongue: Tongue, asks: &[(Ask, usize)], piece: usize, late: bool) -> Vec<Heard> {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let mut client = Client::open(tongue, &mut up);
        let mut server = Server::open(tongue);
        for (ask, bytes) in asks {
            client.request(*ask, *bytes, &mut up);
        }
        let (mut heard, mut asked) = (Vec::new(), Vec::new());
        while !(up.is_empty() && down.is_empty()) {
            for piece in std::mem::take(&mut up).chunks(piece) {
                server.feed(piece, &mut down, &mut asked).unwrap();
            }
            if !late || asked.len() == asks.len() {
                let order: Vec<Asked> = asked.drain(..).rev().collect();
                for Asked { ticket, ask } in order {
                    server.answer(ticket, ask.unwrap(), &mut down);
                }
            }
            for piece in std::mem::take(&mut down).chunks(piece) {
                client.feed(piece, &mut up, &mut heard).unwrap();
            }
        }
        heard
    }

    fn asks() -> Vec<(Ask, usize)> {
        let ask =
            |sequence, reply_bytes| Ask { id: Ask::id(5, sequence), delay_ms: 0, reply_bytes };
        vec![(ask(0, 32), 0), (ask(1, 40), 100), (ask(2, 200_000), 300_000), (ask(3, 128), 32)]
    }

    #[test]
    fn all_are_answered_whatever_the_pieces() {
        for tongue in ALL {
            for piece in [7, 1000, 1 << 20] {
                for late in [false, true] {
                    let heard = converse(tongue, &asks(), piece, late);
                    let mut ids: Vec<u64> = heard
                        .into_iter()
                        .map(|heard| match heard {
                            Heard::Answer { to: Some(to), content } if content == Ok(to) => to,
                            other => panic!("{tongue:?}: {other:?}"),
                        })
                        .collect();
                    if matches!(tongue, Tongue::Http1 | Tongue::Tcp) {
                        assert!(ids.is_sorted(), "{tongue:?} {ids:?}");
                    }
                    ids.sort_unstable();
                    let all: Vec<u64> = asks().iter().map(|(ask, _)| ask.id).collect();
                    assert_eq!(ids, all, "{tongue:?} {piece} {late}");
                }
            }
        }
    }

    #[test]
    fn answers_that_nobody_waits_for_are_told() {
        for tongue in ALL {
            let (mut up, mut down, mut asked) = (Vec::new(), Vec::new(), Vec::new());
            let mut client = Client::open(tongue, &mut up);
            let mut server = Server::open(tongue);
            let ask = Ask { id: 1, delay_ms: 0, reply_bytes: 50 };
            client.request(ask, 40, &mut up);
            server.feed(&up, &mut down, &mut asked).unwrap();
            server.answer(asked[0].ticket, ask, &mut down);
            let mut heard = Vec::new();
            client.feed(&down, &mut up, &mut heard).unwrap();
            assert_eq!(heard.pop(), Some(Heard::Answer { to: Some(1), content: Ok(1) }));
            if tongue == Tongue::Http2 {
                // Frames of a stream that has ended are not for anyone to understand.
                continue;
            }
            // Word for word again.
            let told = client.feed(&down, &mut up, &mut heard);
            assert_eq!(told, Ok(()));
            assert_eq!(heard.pop(), Some(Heard::Answer { to: None, content: Ok(1) }), "{tongue:?}");
        }
    }
}
