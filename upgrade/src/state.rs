//! What a predecessor hands on of its state, piece by piece ([`StatePart`]).
//!
//! Invariant: each piece stands alone, and one that is not known is a fresh start for what it is of, never a
//! fault.

use std::fmt;

use prost::Message as _;

use crate::message::StatePart;

/// Counters and histograms: what was counted since the piece before, to be added up.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct StatsState {
    /// Any number of them.
    #[prost(message, repeated, tag = "1")]
    pub stats: Vec<StatRecord>,
}

/// One counter or histogram.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub struct StatRecord {
    /// Its full name, with its labels where it has some.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What a counter counted; of a histogram the sum of values.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// Of a histogram: places of buckets that are not empty, and behind each how many values are in it.
    #[prost(uint64, repeated, tag = "3")]
    pub buckets: Vec<u64>,
    /// The cluster that it is of, if it is of one.
    #[prost(string, tag = "4")]
    pub cluster: String,
}

/// Keys that session tickets are sealed with.
#[derive(Clone, Eq, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct TicketsState {
    /// The key in use: its name, then its secret.
    #[prost(bytes = "vec", tag = "1")]
    pub current: Vec<u8>,
    /// The one before; empty for none.
    #[prost(bytes = "vec", tag = "2")]
    pub previous: Vec<u8>,
    /// When the key in use was made, in seconds of Unix time.
    #[prost(uint64, tag = "3")]
    pub made_at: u64,
}

/// Keys are for nobody's eyes.
impl fmt::Debug for TicketsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketsState").finish_non_exhaustive()
    }
}

/// A piece of state that is known.
#[derive(Clone, Eq, PartialEq)]
pub enum State {
    /// See [`StatsState`].
    Stats(StatsState),
    /// See [`TicketsState`].
    Tickets(TicketsState),
}

impl State {
    /// As a message says it.
    #[must_use]
    pub fn into_part(self) -> StatePart {
        let (kind, bytes) = match self {
            Self::Stats(stats) => (STATS, stats.encode_to_vec()),
            Self::Tickets(tickets) => (TICKETS, tickets.encode_to_vec()),
        };
        StatePart { kind: kind.to_owned(), version: VERSION, bytes, is_last: true }
    }

    /// What a message says; nothing when it is of another kind or version, or broken.
    #[must_use]
    pub fn from_part(part: &StatePart) -> Option<Self> {
        if part.version != VERSION {
            return None;
        }
        match &*part.kind {
            STATS => StatsState::decode(&*part.bytes).ok().map(Self::Stats),
            TICKETS => TicketsState::decode(&*part.bytes).ok().map(Self::Tickets),
            _ => None,
        }
    }
}

impl StatsState {
    /// In pieces that fit in a packet each.
    pub fn pieces(self) -> impl Iterator<Item = State> {
        let mut rest = self.stats.into_iter().peekable();
        std::iter::from_fn(move || {
            rest.peek()?;
            let mut bytes = 0;
            let mut stats = Vec::new();
            while let Some(stat) = rest.next_if(|stat| {
                bytes += stat.encoded_len() + FIELD_BYTES;
                bytes <= PIECE_MAX || stats.is_empty()
            }) {
                stats.push(stat);
            }
            Some(State::Stats(Self { stats }))
        })
    }
}

/// Of both kinds.
const VERSION: u32 = 1;

const STATS: &str = "stats";
const TICKETS: &str = "tickets";

/// Half of what a packet may have: names are short, and a histogram has a thousand buckets at most.
const PIECE_MAX: usize = 64 * 1024;

/// Tag and length of a field.
const FIELD_BYTES: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, PACKET_MAX};

    #[test]
    fn many_counters_come_in_pieces_that_fit() {
        let stat = |at: u64| StatRecord {
            name: format!("cluster.{at}.upstream_rq_total"),
            count: at,
            buckets: (0..at % 2_000).collect(),
            cluster: at.to_string(),
        };
        let all: Vec<_> = (0..5_000).map(stat).collect();
        let mut came = Vec::new();
        for piece in (StatsState { stats: all.clone() }).pieces() {
            let part = piece.into_part();
            let packet = Message::State(part.clone()).into_packet(1).unwrap();
            assert!(packet.len() <= PACKET_MAX);
            let Some(State::Stats(stats)) = State::from_part(&part) else { panic!() };
            came.extend(stats.stats);
        }
        assert!(came == all);
    }

    #[test]
    fn what_is_not_known_is_skipped() {
        let known = State::Tickets(TicketsState::default()).into_part();
        assert!(State::from_part(&known).is_some());
        let kind = StatePart { kind: "weather".to_owned(), ..known.clone() };
        let version = StatePart { version: 2, ..known.clone() };
        let broken = StatePart { bytes: vec![0xff], ..known };
        for part in [kind, version, broken] {
            assert!(State::from_part(&part).is_none());
        }
    }
}
