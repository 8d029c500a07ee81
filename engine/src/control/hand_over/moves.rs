//! The predecessor's connections on their way to the successor.
//!
//! Invariant: a shard hears that a connection is given away only when the word for it was sent: what was not
//! sent, the successor can't act on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use outrigger_upgrade::message::{Message, Offer, Relay};
use outrigger_upgrade::predecessor::Action;
use outrigger_upgrade::{Predecessor, payload, record};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::connection::moving::{Answer, Departure};
use crate::shard::{self, Mail};

use super::line::Line;
use super::{post, shard_of};

/// Those of one hand-over.
pub(super) struct Moves {
    shards: Arc<[Mail]>,
    /// For the shards.
    pub(super) outbox: Option<UnboundedSender<Departure>>,
    /// What they send.
    pub(super) departures: UnboundedReceiver<Departure>,
    /// Numbers of last words, and of the connections that they are about.
    last_words: VecDeque<(u64, u64)>,
}

impl Moves {
    pub(super) fn new(shards: Arc<[Mail]>) -> Self {
        let (outbox, departures) = unbounded_channel();
        Self { shards, outbox: Some(outbox), departures, last_words: VecDeque::new() }
    }

    /// Sends what a shard has for the successor.
    pub(super) async fn depart(
        &mut self,
        departure: Departure,
        machine: &mut Predecessor,
        line: &mut Line,
    ) -> Vec<Action> {
        match departure {
            Departure::Offer { connection, record, sockets } => {
                self.offer(connection, record.to_bytes(), sockets, machine, line).await
            }
            Departure::Relay { connection, bytes } => {
                self.relay(connection, bytes, machine, line);
                Vec::new()
            }
            Departure::RelayEnd(connection) => {
                for action in machine.relay_end(connection) {
                    if let Action::Send(message) = action {
                        let number = line.send(message, Vec::new());
                        self.last_words.extend(number.map(|number| (number, connection)));
                    }
                }
                Vec::new()
            }
        }
    }

    async fn offer(
        &mut self,
        connection: u64,
        mut bytes: Vec<u8>,
        mut sockets: Vec<OwnedFd>,
        machine: &mut Predecessor,
        line: &mut Line,
    ) -> Vec<Action> {
        let (file, spilled) = match spill(&mut bytes) {
            Ok(spilled) => spilled,
            Err(error) => {
                let reason = format!("no room for what it holds: {error}");
                self.answer(connection, Answer::Stays(Some(reason))).await;
                return Vec::new();
            }
        };
        sockets.extend(file);
        let offer = Offer {
            connection,
            kind: String::new(),
            version: record::VERSION,
            record: bytes,
            spilled,
        };
        let mut others = Vec::new();
        for action in machine.offer(offer) {
            match action {
                Action::Send(message @ Message::Offer(_)) => {
                    line.send(message, std::mem::take(&mut sockets));
                }
                other => others.push(other),
            }
        }
        others
    }

    fn relay(
        &mut self,
        connection: u64,
        mut bytes: Vec<u8>,
        machine: &Predecessor,
        line: &mut Line,
    ) {
        let (mut file, spilled) = match spill(&mut bytes) {
            Ok(spilled) => spilled,
            Err(error) => {
                // The client waits for these in vain, as when an upstream connection is lost.
                log::error!(target: "upgrade", "an answer is lost: {error}");
                return;
            }
        };
        let relay = Relay { connection, bytes, spilled };
        for action in machine.relay(relay) {
            if let Action::Send(message) = action {
                line.send(message, std::mem::take(&mut file));
            }
        }
    }

    /// Says that a connection is the successor's.
    pub(super) fn give(&mut self, connection: u64, line: &mut Line) {
        let number = line.send(Message::Take(connection), Vec::new());
        self.last_words.extend(number.map(|number| (number, connection)));
    }

    /// Tells shards which last words were sent.
    pub(super) async fn settle(&mut self, line: &Line) {
        while let Some((number, connection)) = self.last_words.front().copied() {
            if !line.has_left(number) {
                return;
            }
            self.last_words.pop_front();
            self.answer(connection, Answer::Given).await;
        }
    }

    /// Nothing more can be moved: what was not given stays. Returns when no shard offers any more.
    pub(super) async fn end(&mut self, line: &Line) {
        self.settle(line).await;
        for (_, connection) in std::mem::take(&mut self.last_words) {
            self.answer(connection, Answer::Stays(None)).await;
        }
        self.outbox = None;
        while let Some(departure) = self.departures.recv().await {
            match departure {
                Departure::Offer { connection, .. } => {
                    self.answer(connection, Answer::Stays(None)).await;
                }
                // The connection is another process's: there is nobody to tell.
                Departure::Relay { .. } => {}
                Departure::RelayEnd(connection) => self.answer(connection, Answer::Given).await,
            }
        }
    }

    pub(super) async fn answer(&self, connection: u64, answer: Answer) {
        let message = shard::Message::Departed(connection, answer);
        post(shard_of(&self.shards, connection), message).await;
    }
}

/// Takes bytes that are too many for a message out of it: their file, if they have one, and their count there.
fn spill(bytes: &mut Vec<u8>) -> io::Result<(Vec<OwnedFd>, u64)> {
    let (file, spilled) = payload::spill(bytes)?.unzip();
    Ok((Vec::from_iter(file), spilled.unwrap_or(0)))
}
