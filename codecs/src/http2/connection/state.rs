//! The whole state of a connection as plain data, so that it can be moved to another process.
//!
//! A connection that is imported goes on where the exported one stopped: the same input means the same,
//! and the same calls put the same frames in the output, except that our encoder may choose another
//! coding of the same fields. What is not here are the slots of the owner, the counters, which are to
//! be taken before, and memory that only saves allocations. Whoever hands a connection over also
//! hands over the input that was not consumed.

use super::super::abuse::FloodCounts;
use super::super::config::{Config, Role};
use super::super::counters::Counters;
use super::super::error::{ConnectionCause, ConnectionError, Reason};
use super::super::event::NO_SLOT;
use super::super::flow::{ReceiveWindow, SendWindow, WINDOW_INITIAL, WINDOW_MAX};
use super::super::frame::{FrameHead, HEAD_LEN, STREAM_MASK};
use super::super::hpack::{Decoder, DecoderState, Encoder, EncoderState};
use super::super::settings::{FRAME_SIZE_MAX, FRAME_SIZE_MIN, PeerSettings};
use super::super::streams::{
    LENGTH_UNKNOWN, RESETS_REMEMBERED, Receiving, RecentResets, Stream, Streams,
};
use super::{Connection, Heading, PREFACE, Reading, within_protocol};
use crate::http::FieldBlock;

/// Everything that a [`Connection`] knows.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionState {
    /// Which side it is.
    pub role: Role,
    /// Settings and limits, as they were announced.
    pub config: Config,
    /// The table of the peer's encoder.
    pub decoder: DecoderState,
    /// The table of our encoder.
    pub encoder: EncoderState,
    /// What the peer has set.
    pub peer: PeerSettings,
    /// The peer's first SETTINGS have come.
    pub peer_settled: bool,
    /// SETTINGS of ours that the peer has not acknowledged.
    pub settings_unacknowledged: u32,
    /// Where in the peer's bytes it is.
    pub reading: Reading,
    /// Payload of the frame being read, as far as it is kept.
    pub partial: Vec<u8>,
    /// The header block under way.
    pub heading: Option<Heading>,
    /// Its fragments.
    pub fragments: Vec<u8>,
    /// Bytes not sent yet.
    pub output: Vec<u8>,
    /// Frames in the output that answer the peer.
    pub control_frames_waiting: u32,
    /// The open streams, by id.
    pub streams: Vec<Stream>,
    /// Streams that we reset lately, oldest first.
    pub resets: Vec<u32>,
    /// The highest id that is no longer among them.
    pub resets_forgotten_max: u32,
    /// What we may send on the connection.
    pub send_window: SendWindow,
    /// What the peer may send on the connection.
    pub receive_window: ReceiveWindow,
    /// The highest stream that the peer has opened.
    pub peer_last: u32,
    /// From here to `peer_last` the peer has used every id.
    pub peer_unbroken_from: u32,
    /// The next stream that we open.
    pub local_next: u32,
    /// The last stream of our last GOAWAY.
    pub goaway_sent: Option<u32>,
    /// The last stream of the peer's last GOAWAY.
    pub goaway_received: Option<u32>,
    /// Streams above it are still to be told as reset.
    pub unprocessed: bool,
    /// The connection has ended, for this reason.
    pub failed: Option<Reason>,
    /// What tells floods from use.
    pub flood: FloodCounts,
}

/// The state can't be one that a connection was in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("inconsistent http/2 connection state")]
pub struct ImportError;

impl Connection {
    /// The state between two calls, as plain data.
    #[must_use]
    pub fn export(&self) -> ConnectionState {
        let mut streams: Vec<Stream> =
            self.streams.iter().map(|stream| Stream { slot: NO_SLOT, ..*stream }).collect();
        streams.sort_unstable_by_key(|stream| stream.id);
        ConnectionState {
            role: self.role,
            config: self.config,
            decoder: self.decoder.export(),
            encoder: self.encoder.export(),
            peer: self.peer,
            peer_settled: self.peer_settled,
            settings_unacknowledged: self.settings_unacknowledged,
            reading: self.reading,
            partial: self.partial.clone(),
            heading: self.heading,
            fragments: self.fragments.clone(),
            output: self.output.clone(),
            control_frames_waiting: self.control_frames_waiting,
            streams,
            resets: self.resets.ids.iter().copied().collect(),
            resets_forgotten_max: self.resets.forgotten_max,
            send_window: self.send_window,
            receive_window: self.receive_window,
            peer_last: self.peer_last,
            peer_unbroken_from: self.peer_unbroken_from,
            local_next: self.local_next,
            goaway_sent: self.goaway_sent,
            goaway_received: self.goaway_received,
            unprocessed: self.unprocessed,
            failed: self.failed.map(|error| error.reason),
            flood: self.flood,
        }
    }

    /// A connection that goes on from `state`. Its streams have no slots yet; see
    /// [`Connection::stream_ids`].
    ///
    /// # Errors
    ///
    /// No connection can have been in this state.
    pub fn import(state: ConnectionState) -> Result<Self, ImportError> {
        if !state.is_consistent() {
            return Err(ImportError);
        }
        let mut streams = Streams::default();
        for stream in &state.streams {
            streams.insert(*stream);
        }
        Ok(Self {
            role: state.role,
            config: state.config,
            decoder: Decoder::import(state.decoder).map_err(|_| ImportError)?,
            encoder: Encoder::import(state.encoder).map_err(|_| ImportError)?,
            peer: state.peer,
            peer_settled: state.peer_settled,
            settings_unacknowledged: state.settings_unacknowledged,
            reading: state.reading,
            partial: state.partial,
            heading: state.heading,
            fragments: state.fragments,
            block: FieldBlock::default(),
            crumbs: None,
            output: state.output,
            encoded: Vec::new(),
            control_frames_waiting: state.control_frames_waiting,
            streams,
            resets: RecentResets {
                ids: state.resets.into(),
                forgotten_max: state.resets_forgotten_max,
            },
            send_window: state.send_window,
            receive_window: state.receive_window,
            peer_last: state.peer_last,
            peer_unbroken_from: state.peer_unbroken_from,
            local_next: state.local_next,
            goaway_sent: state.goaway_sent,
            goaway_received: state.goaway_received,
            unprocessed: state.unprocessed,
            failed: state
                .failed
                .map(|reason| ConnectionError::from(ConnectionCause::Failed(reason))),
            flood: state.flood,
            counters: Counters::default(),
        })
    }
}

impl ConnectionState {
    /// Whether everything holds that the state machine relies on.
    fn is_consistent(&self) -> bool {
        self.config == within_protocol(self.config)
            && self.peer_is_valid()
            && self.reading_is_valid()
            && self.heading_is_valid()
            && self.ids_are_valid()
            && self.resets.len() <= RESETS_REMEMBERED
            && self.send_window.available(WINDOW_INITIAL) <= i64::from(WINDOW_MAX)
            && fits(self.receive_window, self.config.initial_connection_window)
            && self.streams.is_sorted_by(|before, after| before.id < after.id)
            && self.streams.iter().all(|stream| self.stream_is_valid(stream))
    }

    fn peer_is_valid(&self) -> bool {
        self.peer.initial_window <= WINDOW_MAX
            && (FRAME_SIZE_MIN..=FRAME_SIZE_MAX).contains(&self.peer.max_frame_size)
    }

    fn reading_is_valid(&self) -> bool {
        let frame =
            |head: FrameHead| head.len <= self.config.max_frame_size && head.stream <= STREAM_MASK;
        let stands = match self.reading {
            Reading::Preface { matched } => usize::from(matched) < PREFACE.len(),
            Reading::Head { have, .. } => usize::from(have) < HEAD_LEN,
            Reading::Payload { head, needed } => frame(head) && needed <= head.len,
            Reading::PadLength { head } => frame(head) && head.len > 0,
            Reading::Data { left, .. } | Reading::Skip { left } => {
                left > 0 && left <= self.config.max_frame_size
            }
        };
        stands
            && match self.reading {
                Reading::Payload { needed, .. } => self.partial.len() < needed.max(1) as usize,
                _ => self.partial.is_empty(),
            }
    }

    fn heading_is_valid(&self) -> bool {
        match self.heading {
            Some(heading) => heading.stream % 2 == 1 && heading.stream <= STREAM_MASK,
            None => self.fragments.is_empty(),
        }
    }

    fn ids_are_valid(&self) -> bool {
        let last = |id: Option<u32>| id.is_none_or(|id| id <= STREAM_MASK);
        self.peer_last <= STREAM_MASK
            && self.peer_unbroken_from <= STREAM_MASK
            && self.local_next % 2 == 1
            && self.local_next <= STREAM_MASK + 2
            && last(self.goaway_sent)
            && last(self.goaway_received)
    }

    fn stream_is_valid(&self, stream: &Stream) -> bool {
        let opened = match self.role {
            Role::Client => stream.id < self.local_next,
            Role::Server => stream.id <= self.peer_last && stream.receiving != Receiving::Head,
        };
        opened
            && stream.id % 2 == 1
            && !(stream.is_ended() && stream.sending_ended)
            && stream.send.available(self.peer.initial_window) <= i64::from(WINDOW_MAX)
            && fits(stream.receive, self.config.initial_stream_window)
            && (stream.content_left == LENGTH_UNKNOWN
                || stream.content_left <= i64::MAX.cast_unsigned())
    }
}

fn fits(window: ReceiveWindow, size: u32) -> bool {
    window.available.checked_add(window.consumed).is_some_and(|used| used <= size)
}
