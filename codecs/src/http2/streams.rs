//! The streams that are open, found by their id, and what is remembered of those that are gone.
//!
//! A stream is here from its first HEADERS until both sides have ended it or one has reset it. The
//! table grows with the streams that are open at once, which the settings bound, and finding one
//! takes a hash of its number. A client can choose ids that collide, but then pays as much as we do
//! and gets no more than a look at as many entries as it may have streams.

use std::collections::VecDeque;

use hashbrown::HashTable;

use super::event::NO_SLOT;
use super::flow::{ReceiveWindow, SendWindow};
use super::message::MessageError;
use crate::http::Method;

/// One open stream, as plain data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stream {
    /// Its id.
    pub id: u32,
    /// What its owner knows it by; not carried over to another process.
    pub slot: u32,
    /// What we may send.
    pub send: SendWindow,
    /// What the peer may send.
    pub receive: ReceiveWindow,
    /// Bytes of content that must still come by Content-Length, or 2^64-1 if unknown.
    pub content_left: u64,
    /// How far the peer's message is.
    pub receiving: Receiving,
    /// We have sent END_STREAM.
    pub sending_ended: bool,
    /// What still comes is not told: the request is refused.
    pub discard: bool,
    /// Client: the method of the request, on which the framing of the response depends.
    pub method: Method,
}

impl Stream {
    pub(super) fn new(id: u32, receiving: Receiving, window: u32) -> Self {
        Self {
            id,
            slot: NO_SLOT,
            send: SendWindow::default(),
            receive: ReceiveWindow::new(window),
            content_left: LENGTH_UNKNOWN,
            receiving,
            sending_ended: false,
            discard: false,
            method: Method::Other,
        }
    }

    /// The peer has sent END_STREAM.
    pub(super) fn is_ended(&self) -> bool {
        self.receiving == Receiving::Ended
    }

    /// Takes `len` bytes of content, the last ones if `end`, where they may come and as far as
    /// Content-Length says.
    pub(super) fn content(&mut self, len: u32, end: bool) -> Result<(), MessageError> {
        if self.receiving == Receiving::Head {
            return Err(MessageError::ContentTooEarly);
        }
        if self.content_left == LENGTH_UNKNOWN {
            return Ok(());
        }
        match self.content_left.checked_sub(u64::from(len)) {
            Some(left) if left == 0 || !end => {
                self.content_left = left;
                Ok(())
            }
            _ => Err(MessageError::ContentLengthWrong),
        }
    }
}

/// Content of unknown length; known ones are below 2^63.
pub(super) const LENGTH_UNKNOWN: u64 = u64::MAX;

/// How far the peer's message is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Receiving {
    /// Client: the response head has not come; interim ones may have.
    Head,
    /// Content, then perhaps trailers.
    Content,
    /// Nothing more may come.
    Ended,
}

/// The open streams.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams {
    table: HashTable<Stream>,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<&Stream> {
        self.table.find(hash(id), |stream| stream.id == id)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        self.table.find_mut(hash(id), |stream| stream.id == id)
    }

    /// Adds a stream, whose id must not be there.
    pub(super) fn insert(&mut self, stream: Stream) -> &mut Stream {
        debug_assert!(self.get(stream.id).is_none());
        let entry = self.table.insert_unique(hash(stream.id), stream, |stream| hash(stream.id));
        entry.into_mut()
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Stream> {
        let entry = self.table.find_entry(hash(id), |stream| stream.id == id).ok()?;
        Some(entry.remove().0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.table.iter()
    }

    /// Gives back memory that the streams there are do not need.
    pub(super) fn shrink(&mut self) {
        self.table.shrink_to(0, |stream| hash(stream.id));
    }
}

/// Spreads ids, which come in steps of two, over both ends of the hash that the table looks at.
#[inline]
fn hash(id: u32) -> u64 {
    let product = u64::from(id >> 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

/// Streams that we reset while the peer was still sending.
///
/// Frames that were under way when the reset left must be ignored (RFC 9113 section 5.4.2), where the
/// same frames on any other closed stream are an error. Only so many ids are remembered; of those
/// forgotten the highest is kept, and up to it every closed stream gets the benefit of the doubt.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct RecentResets {
    pub(super) ids: VecDeque<u32>,
    pub(super) forgotten_max: u32,
}

/// The most resets that are remembered: more than honest peers have under way, and half a kilobyte.
pub(super) const RESETS_REMEMBERED: usize = 128;

impl RecentResets {
    pub(super) fn remember(&mut self, id: u32) {
        if self.ids.len() >= RESETS_REMEMBERED
            && let Some(oldest) = self.ids.pop_front()
        {
            self.forgotten_max = self.forgotten_max.max(oldest);
        }
        self.ids.push_back(id);
    }

    /// Whether frames may be under way on the closed stream `id`.
    pub(super) fn excuses(&self, id: u32) -> bool {
        id <= self.forgotten_max || self.ids.contains(&id)
    }

    /// The peer has ended or reset the stream too: nothing of it is under way any more.
    pub(super) fn settle(&mut self, id: u32) {
        if let Some(at) = self.ids.iter().position(|&remembered| remembered == id) {
            self.ids.remove(at);
        }
    }

    pub(super) fn shrink(&mut self) {
        self.ids.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_found_until_they_are_removed() {
        let mut streams = Streams::default();
        for id in (1..4000).step_by(2) {
            streams.insert(Stream::new(id, Receiving::Content, 10)).slot = id * 7;
        }
        assert_eq!(streams.len(), 2000);
        for id in 1..4000 {
            assert_eq!(streams.get(id).map(|stream| stream.slot), (id % 2 == 1).then_some(id * 7));
        }
        for id in (1..4000).step_by(4) {
            assert_eq!(streams.remove(id).map(|stream| stream.id), Some(id));
            assert_eq!(streams.remove(id), None);
        }
        streams.shrink();
        assert_eq!(streams.iter().map(|stream| stream.id % 4).max(), Some(3));
        assert!(streams.get_mut(3).is_some() && streams.get_mut(5).is_none());
    }

    #[test]
    fn content_agrees_with_its_length() {
        let mut stream = Stream::new(1, Receiving::Content, 10);
        assert_eq!(stream.content(1 << 24, true), Ok(()), "unknown length");
        stream.content_left = 5;
        let wrong = Err(MessageError::ContentLengthWrong);
        assert_eq!((stream.content(3, false), stream.content(3, false)), (Ok(()), wrong));
        assert_eq!((stream.content(1, true), stream.content(2, true)), (wrong, Ok(())));
        stream.receiving = Receiving::Head;
        assert_eq!(stream.content(0, false), Err(MessageError::ContentTooEarly));
    }

    #[test]
    fn the_oldest_resets_are_forgotten_in_favour_of_the_peer() {
        let mut resets = RecentResets::default();
        assert!(!resets.excuses(1));
        let ids = (1..).step_by(2).take(RESETS_REMEMBERED);
        ids.clone().for_each(|id| resets.remember(id));
        assert!(resets.excuses(1) && !resets.excuses(2));
        resets.settle(3);
        assert!(!resets.excuses(3));
        resets.remember(1001);
        resets.remember(1003);
        assert!(resets.excuses(1) && !resets.excuses(3), "1 is forgotten, so all up to it pass");
        assert_eq!(resets.ids.len(), RESETS_REMEMBERED);
    }
}
