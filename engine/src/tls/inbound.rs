//! The receiving half of an established connection: chunks with records in, plaintext chunks out.
//!
//! All whole records of a chunk are opened in place, and what is handed on are slices of it; only a
//! record that the end of a chunk cuts is put together elsewhere. Messages that are not application
//! data are dealt with here. Invariant: nothing is opened after the end, whatever it was.

use std::collections::VecDeque;
use std::ops::Range;

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;

use crate::buffers::{Assembly, Chunk, RecordBuffers};

use super::protect::{Opened, Protection, TrafficSecret};
use super::record::{self, ContentType, HEADER_BYTES, RecordError};

/// The receiving half.
pub(super) struct Inbound {
    opener: Protection,
    /// For TLS 1.3: where the next key comes from.
    secret: Option<TrafficSecret>,
    side: Side,
    ready: VecDeque<Chunk>,
    partial: Option<Partial>,
    /// The beginning of a handshake message that goes on in the next record.
    message: Vec<u8>,
    end: Option<End>,
    /// What the peer may still send without content, before it counts as a flood.
    empty_records_left: u8,
    key_updates_left: u8,
    warnings_left: u8,
    /// Key updates that ask for one of ours came.
    key_update_wanted: bool,
}

/// Which end of the connection we are.
pub(super) enum Side {
    Server,
    Client(Option<Box<Tickets>>),
}

/// Takes in session tickets, which a server of TLS 1.3 sends when it likes.
pub(super) struct Tickets {
    connection: KernelConnection<ClientConnectionData>,
    left: u32,
}

/// How receiving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With close_notify.
    Closed,
    /// With the transport's end only: what came may have been cut off by anybody.
    Truncated,
    /// Because of the peer, or of a fault.
    Failed(RecordError),
    /// The transport failed with this errno.
    Transport(i32),
}

/// A record that the end of a chunk cut.
enum Partial {
    Header { bytes: [u8; HEADER_BYTES], have: usize },
    Body(Assembly),
}

impl Side {
    /// A client, which keeps up to `tickets` session tickets of this connection.
    pub(super) fn client(connection: KernelConnection<ClientConnectionData>, tickets: u32) -> Self {
        let wanted = tickets > 0;
        Side::Client(wanted.then(|| Box::new(Tickets { connection, left: tickets })))
    }
}

impl Inbound {
    pub(super) fn new(opener: Protection, secret: Option<TrafficSecret>, side: Side) -> Self {
        Self {
            opener,
            secret,
            side,
            ready: VecDeque::new(),
            partial: None,
            message: Vec::new(),
            end: None,
            empty_records_left: EMPTY_RECORDS_MAX,
            key_updates_left: KEY_UPDATES_MAX,
            warnings_left: WARNINGS_MAX,
            key_update_wanted: false,
        }
    }

    /// The next plaintext, never empty.
    pub(super) fn take(&mut self) -> Option<Chunk> {
        self.ready.pop_front()
    }

    /// Puts plaintext in front of what is ready.
    pub(super) fn put_back(&mut self, chunk: Chunk) {
        self.ready.push_front(chunk);
    }

    /// True when the next chunk should be pushed: nothing is ready, and there is no end.
    pub(super) fn wants_more(&self) -> bool {
        self.ready.is_empty() && self.end.is_none()
    }

    /// True when no plaintext is ready and no record has begun.
    pub(super) fn is_at_rest(&self) -> bool {
        self.ready.is_empty() && self.partial.is_none() && self.end.is_none()
    }

    /// How receiving ended; plaintext may be ready nevertheless.
    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether the peer asked for a KeyUpdate since the last call.
    pub(super) fn take_key_update_wanted(&mut self) -> bool {
        std::mem::take(&mut self.key_update_wanted)
    }

    /// The transport ended. Without a close_notify before that is a truncation.
    pub(super) fn transport_ended(&mut self) {
        self.finish(End::Truncated);
    }

    /// The transport failed.
    pub(super) fn transport_failed(&mut self, code: i32) {
        self.finish(End::Transport(code));
    }

    /// Takes received bytes: opens what is whole, and keeps what is cut.
    pub(super) fn push(&mut self, mut chunk: Chunk, buffers: &RecordBuffers) {
        if self.end.is_some() {
            return;
        }
        let result =
            self.complete_partial(&mut chunk, buffers).and_then(|()| self.open_all(chunk, buffers));
        if let Err(error) = result {
            self.finish(End::Failed(error));
        }
    }

    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.partial = None;
        self.message = Vec::new();
    }

    // ---- records -----------------------------------------------------------------------------

    /// Completes the record that was cut, with the front of `chunk`.
    fn complete_partial(
        &mut self,
        chunk: &mut Chunk,
        buffers: &RecordBuffers,
    ) -> Result<(), RecordError> {
        while let Some(partial) = self.partial.take() {
            match partial {
                Partial::Header { mut bytes, have } => {
                    let count = (HEADER_BYTES - have).min(chunk.len());
                    bytes[have..have + count].copy_from_slice(&chunk[..count]);
                    chunk.advance(count);
                    let have = have + count;
                    if have < HEADER_BYTES {
                        self.partial = Some(Partial::Header { bytes, have });
                        return Ok(());
                    }
                    let len = record::body_len(&bytes, self.opener.body_bytes_max())?;
                    let mut body =
                        buffers.assemble(HEADER_BYTES + len).ok_or(RecordError::Overflow)?;
                    body.fill(&bytes);
                    self.partial = Some(Partial::Body(body));
                }
                Partial::Body(mut body) => {
                    let count = body.fill(chunk);
                    chunk.advance(count);
                    if body.missing() > 0 {
                        self.partial = Some(Partial::Body(body));
                        return Ok(());
                    }
                    self.open_one(body.into_chunk())?;
                    if self.end.is_some() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens the record that fills `chunk`, the only one of its block.
    fn open_one(&mut self, mut chunk: Chunk) -> Result<(), RecordError> {
        let record = chunk.unique_mut().ok_or(RecordError::Internal)?;
        let opened = self.opener.open(record)?;
        let content = &record[opened.start..opened.start + opened.len];
        if self.dispatch(opened.kind, content)? {
            chunk.truncate(opened.start + opened.len);
            chunk.advance(opened.start);
            self.ready.push_back(chunk);
        }
        Ok(())
    }

    /// Opens all whole records of `chunk`, and keeps the rest.
    fn open_all(&mut self, mut chunk: Chunk, buffers: &RecordBuffers) -> Result<(), RecordError> {
        if chunk.is_empty() || self.end.is_some() {
            return Ok(());
        }
        buffers.with_ranges(|plain| {
            let result = match chunk.unique_mut() {
                Some(bytes) => self.open_in_place(bytes, plain, buffers),
                None => return self.open_shared(&chunk, buffers),
            };
            // What was whole before an error is handed on all the same.
            if let Some(last) = plain.pop() {
                self.ready.extend(plain.drain(..).map(|range| chunk.slice(range)));
                chunk.truncate(last.end);
                chunk.advance(last.start);
                self.ready.push_back(chunk);
            }
            result
        })
    }

    /// Opens the records in `bytes`, and notes where their plaintext is.
    fn open_in_place(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<Range<usize>>,
        buffers: &RecordBuffers,
    ) -> Result<(), RecordError> {
        let mut at = 0;
        while let Some((opened, len)) = self.open_next(&mut bytes[at..])? {
            if let Some(opened) = opened {
                let start = at + opened.start;
                plain.push(start..start + opened.len);
            }
            at += len;
        }
        self.keep_rest(&bytes[at..], buffers)
    }

    /// Opens the record at the front of `bytes` if it is whole. Returns its length, and where its
    /// content is when that is for the user.
    fn open_next(
        &mut self,
        bytes: &mut [u8],
    ) -> Result<Option<(Option<Opened>, usize)>, RecordError> {
        if self.end.is_some() {
            return Ok(None);
        }
        let Some(header) = bytes.first_chunk() else { return Ok(None) };
        let len = HEADER_BYTES + record::body_len(header, self.opener.body_bytes_max())?;
        let Some(record) = bytes.get_mut(..len) else { return Ok(None) };
        let opened = self.opener.open(record)?;
        let content = &record[opened.start..opened.start + opened.len];
        let is_data = self.dispatch(opened.kind, content)?;
        Ok(Some((is_data.then_some(opened), len)))
    }

    /// Keeps the beginning of a record, `rest`, until the next chunk.
    fn keep_rest(&mut self, rest: &[u8], buffers: &RecordBuffers) -> Result<(), RecordError> {
        if rest.is_empty() || self.end.is_some() {
            return Ok(());
        }
        let Some(header) = rest.first_chunk() else {
            let mut bytes = [0; HEADER_BYTES];
            bytes[..rest.len()].copy_from_slice(rest);
            self.partial = Some(Partial::Header { bytes, have: rest.len() });
            return Ok(());
        };
        let len = record::body_len(header, self.opener.body_bytes_max())?;
        let mut body = buffers.assemble(HEADER_BYTES + len).ok_or(RecordError::Overflow)?;
        body.fill(rest);
        self.partial = Some(Partial::Body(body));
        Ok(())
    }

    /// Opens records of a chunk that others see too, by way of copies.
    fn open_shared(&mut self, chunk: &Chunk, buffers: &RecordBuffers) -> Result<(), RecordError> {
        let mut rest = chunk.clone();
        while !rest.is_empty() && self.end.is_none() {
            if self.partial.is_none() {
                self.partial = Some(Partial::Header { bytes: [0; HEADER_BYTES], have: 0 });
            }
            self.complete_partial(&mut rest, buffers)?;
        }
        Ok(())
    }

    // ---- messages ----------------------------------------------------------------------------

    /// Deals with a record's content. True when it is data for the user.
    fn dispatch(&mut self, kind: u8, content: &[u8]) -> Result<bool, RecordError> {
        const DATA: u8 = ContentType::ApplicationData as u8;
        const HANDSHAKE: u8 = ContentType::Handshake as u8;
        const ALERT: u8 = ContentType::Alert as u8;
        // A message must not be interrupted by records of another type (RFC 8446 section 5.1).
        if !self.message.is_empty() && kind != HANDSHAKE {
            return Err(RecordError::UnexpectedMessage);
        }
        match kind {
            DATA if content.is_empty() => {
                count_down(&mut self.empty_records_left)?;
                Ok(false)
            }
            DATA => {
                self.empty_records_left = EMPTY_RECORDS_MAX;
                self.key_updates_left = KEY_UPDATES_MAX;
                Ok(true)
            }
            HANDSHAKE => self.handshake(content).map(|()| false),
            ALERT => self.alert(content).map(|()| false),
            _ => Err(RecordError::UnexpectedMessage),
        }
    }

    fn alert(&mut self, content: &[u8]) -> Result<(), RecordError> {
        let [level, code] = *content else { return Err(RecordError::Decode) };
        let is_warning = if self.secret.is_some() {
            // The level means nothing any more (RFC 8446 section 6).
            code == ALERT_USER_CANCELED
        } else {
            level == ALERT_WARNING
        };
        match code {
            ALERT_CLOSE_NOTIFY => {
                self.finish(End::Closed);
                Ok(())
            }
            _ if is_warning => count_down(&mut self.warnings_left),
            _ => Err(RecordError::Alert(code)),
        }
    }

    /// Takes a record of handshake messages, which may begin or end in the middle of one.
    fn handshake(&mut self, content: &[u8]) -> Result<(), RecordError> {
        if self.secret.is_none() {
            // TLS 1.2 has no messages after the handshake but for another one.
            return Err(RecordError::Renegotiation);
        }
        if content.is_empty() {
            return Err(RecordError::UnexpectedMessage);
        }
        if self.message.is_empty() {
            return self.messages(content);
        }
        let mut message = std::mem::take(&mut self.message);
        message.extend_from_slice(content);
        self.messages(&message)
    }

    fn messages(&mut self, mut bytes: &[u8]) -> Result<(), RecordError> {
        while let Some(kind) = bytes.first() {
            // Judged by its type alone, so that nothing is kept of a message that must not come.
            let expected = match self.side {
                Side::Server => *kind == MESSAGE_KEY_UPDATE,
                Side::Client(_) => [MESSAGE_KEY_UPDATE, MESSAGE_NEW_SESSION_TICKET].contains(kind),
            };
            if !expected {
                return Err(RecordError::UnexpectedMessage);
            }
            let &[_, a, b, c, ref rest @ ..] = bytes else { break };
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            if len > MESSAGE_BYTES_MAX || (*kind == MESSAGE_KEY_UPDATE && len != 1) {
                return Err(RecordError::Decode);
            }
            let Some((body, rest)) = rest.split_at_checked(len) else { break };
            if *kind == MESSAGE_KEY_UPDATE {
                // Nothing may follow that was sealed with the old key (RFC 8446 section 5.1).
                if !rest.is_empty() {
                    return Err(RecordError::UnexpectedMessage);
                }
                self.key_update(body)?;
            } else {
                self.ticket(body)?;
            }
            bytes = rest;
        }
        self.message.extend_from_slice(bytes);
        Ok(())
    }

    fn key_update(&mut self, body: &[u8]) -> Result<(), RecordError> {
        count_down(&mut self.key_updates_left)?;
        match body {
            [0] => {}
            [1] => self.key_update_wanted = true,
            _ => return Err(RecordError::IllegalParameter),
        }
        let secret = self.secret.as_mut().ok_or(RecordError::Internal)?;
        self.opener = secret.update()?;
        Ok(())
    }

    fn ticket(&mut self, body: &[u8]) -> Result<(), RecordError> {
        let Side::Client(Some(tickets)) = &mut self.side else { return Ok(()) };
        tickets.connection.handle_new_session_ticket(body).map_err(|_| RecordError::Decode)?;
        tickets.left -= 1;
        if tickets.left == 0 {
            self.side = Side::Client(None);
        }
        Ok(())
    }
}

/// Counts something against what the peer may send in vain.
fn count_down(left: &mut u8) -> Result<(), RecordError> {
    *left = left.checked_sub(1).ok_or(RecordError::Flood)?;
    Ok(())
}

const MESSAGE_NEW_SESSION_TICKET: u8 = 4;
const MESSAGE_KEY_UPDATE: u8 = 24;
const ALERT_WARNING: u8 = 1;
const ALERT_CLOSE_NOTIFY: u8 = 0;
const ALERT_USER_CANCELED: u8 = 90;

/// A ticket is what a server likes to store in it; this is as much as rustls takes.
const MESSAGE_BYTES_MAX: usize = 0xffff;

/// What BoringSSL and rustls allow, between two records with data.
const EMPTY_RECORDS_MAX: u8 = 32;
const KEY_UPDATES_MAX: u8 = 32;

/// What they allow over the life of a connection.
const WARNINGS_MAX: u8 = 4;

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use proptest::prelude::*;
    use rustls::CipherSuite;

    use super::super::protect::samples;
    use super::*;

    /// The peer: what it seals is to be opened.
    struct Peer {
        sealer: Protection,
        secret: TrafficSecret,
    }

    impl Peer {
        fn seal(&mut self, kind: ContentType, content: &[u8]) -> Vec<u8> {
            let mut record = vec![0; self.sealer.sealed_len(content.len())];
            let parts = std::iter::once(content);
            self.sealer.seal(kind, parts, content.len(), &mut record).unwrap();
            record
        }

        fn data(&mut self, content: &[u8]) -> Vec<u8> {
            self.seal(ContentType::ApplicationData, content)
        }

        fn key_update(&mut self, request: u8) -> Vec<u8> {
            let record = self.seal(ContentType::Handshake, &[24, 0, 0, 1, request]);
            self.sealer = self.secret.update().unwrap();
            record
        }
    }

    /// Both ends of a connection of one version.
    type Version = fn() -> (Inbound, Peer);

    fn secret() -> TrafficSecret {
        TrafficSecret::new(CipherSuite::TLS13_AES_128_GCM_SHA256, &[3; 32]).unwrap()
    }

    fn tls13() -> (Inbound, Peer) {
        let (mut ours, mut theirs) = (secret(), secret());
        let inbound = Inbound::new(ours.update().unwrap(), Some(ours), Side::Server);
        let peer = Peer { sealer: theirs.update().unwrap(), secret: theirs };
        (inbound, peer)
    }

    fn tls12() -> (Inbound, Peer) {
        let (opener, sealer) = samples::pairs().swap_remove(3);
        (Inbound::new(opener, None, Side::Server), Peer { sealer, secret: secret() })
    }

    /// A chunk of which nobody else knows.
    fn chunk(buffers: &RecordBuffers, bytes: &[u8]) -> Chunk {
        let mut assembly = buffers.assemble(bytes.len()).unwrap();
        assembly.fill(bytes);
        assembly.into_chunk()
    }

    /// Pushes `bytes` in pieces of at most `piece`, and returns the plaintext.
    fn feed(inbound: &mut Inbound, buffers: &RecordBuffers, bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut plain = Vec::new();
        for piece in bytes.chunks(piece) {
            inbound.push(chunk(buffers, piece), buffers);
            while let Some(chunk) = inbound.take() {
                assert!(!chunk.is_empty());
                plain.extend_from_slice(&chunk);
            }
        }
        plain
    }

    fn failure(inbound: &mut Inbound, bytes: &[u8]) -> RecordError {
        feed(inbound, &RecordBuffers::new(), bytes, 4096);
        match inbound.end() {
            Some(End::Failed(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn records_are_opened_wherever_they_are_cut() {
        let buffers = RecordBuffers::new();
        for version in [tls13, tls12] {
            let len = {
                let (_, mut peer) = version();
                peer.data(b"hello").len() + peer.data(b"world").len()
            };
            for cut in 0..=len {
                let (mut inbound, mut peer) = version();
                let bytes = [peer.data(b"hello"), peer.data(b"world")].concat();
                let mut plain = Vec::new();
                for piece in [&bytes[..cut], &bytes[cut..]] {
                    if !piece.is_empty() {
                        inbound.push(chunk(&buffers, piece), &buffers);
                    }
                    plain.extend(std::iter::from_fn(|| inbound.take()).flat_map(|c| c.to_vec()));
                }
                assert_eq!(plain, b"helloworld", "cut at {cut}");
                assert!(inbound.is_at_rest());
            }
        }
    }

    #[test]
    fn whole_records_are_slices_of_their_chunk() {
        let buffers = RecordBuffers::new();
        let (mut inbound, mut peer) = tls13();
        let bytes = [peer.data(b"one"), peer.data(b""), peer.data(b"three")].concat();
        let chunk = chunk(&buffers, &bytes);
        let place = chunk.as_ptr_range();
        inbound.push(chunk, &buffers);
        for wanted in [&b"one"[..], b"three"] {
            let plain = inbound.take().unwrap();
            assert_eq!(&*plain, wanted);
            assert!(place.contains(&plain.as_ptr()));
        }
        assert!(inbound.take().is_none() && inbound.is_at_rest());
    }

    #[test]
    fn a_chunk_that_others_see_is_left_alone() {
        let buffers = RecordBuffers::new();
        let (mut inbound, mut peer) = tls13();
        let bytes = [peer.data(b"one"), peer.data(b"two"), peer.data(b"cut")].concat();
        let (front, back) = bytes.split_at(bytes.len() - 3);
        let shared = chunk(&buffers, front);
        inbound.push(shared.clone(), &buffers);
        assert_eq!(&*shared, front);
        inbound.push(chunk(&buffers, back), &buffers);
        for wanted in [&b"one"[..], b"two", b"cut"] {
            assert_eq!(&*inbound.take().unwrap(), wanted);
        }
    }

    #[test]
    fn what_came_before_an_error_is_handed_on() {
        let buffers = RecordBuffers::new();
        let (mut inbound, mut peer) = tls13();
        let mut bytes = [peer.data(b"good"), peer.data(b"evil"), peer.data(b"late")].concat();
        let evil = peer.sealer.sealed_len(4) + 10;
        bytes[evil] ^= 1;
        assert_eq!(feed(&mut inbound, &buffers, &bytes, 4096), b"good");
        assert_eq!(inbound.end(), Some(End::Failed(RecordError::BadMac)));
        let more = peer.data(b"more");
        assert_eq!(feed(&mut inbound, &buffers, &more, 4096), b"");
    }

    #[test]
    fn ends_are_told_apart() {
        let buffers = RecordBuffers::new();
        let (mut inbound, mut peer) = tls13();
        let bytes = [peer.seal(ContentType::Alert, &[1, 0]), peer.data(b"ignored")].concat();
        assert_eq!(feed(&mut inbound, &buffers, &bytes, 4096), b"");
        inbound.transport_ended();
        assert_eq!(inbound.end(), Some(End::Closed));
        let (mut inbound, mut peer) = tls13();
        let bytes = peer.data(b"cut off");
        feed(&mut inbound, &buffers, &bytes[..10], 4096);
        assert!(!inbound.is_at_rest());
        inbound.transport_ended();
        assert_eq!(inbound.end(), Some(End::Truncated));
    }

    #[test]
    fn alerts_end_the_connection_but_for_warnings() {
        for (version, level, code, ends) in [
            (tls13 as Version, 1, 48, true),
            (tls13, 2, 48, true),
            (tls13, 1, 90, false),
            (tls12, 1, 112, false),
            (tls12, 2, 48, true),
        ] {
            let (mut inbound, mut peer) = version();
            let alert = peer.seal(ContentType::Alert, &[level, code]);
            feed(&mut inbound, &RecordBuffers::new(), &alert, 4096);
            let end = ends.then_some(End::Failed(RecordError::Alert(code)));
            assert_eq!(inbound.end(), end);
        }
        let (mut inbound, mut peer) = tls12();
        for _ in 0..WARNINGS_MAX {
            let warning = peer.seal(ContentType::Alert, &[1, 112]);
            feed(&mut inbound, &RecordBuffers::new(), &warning, 4096);
        }
        assert_eq!(inbound.end(), None);
        let one_more = peer.seal(ContentType::Alert, &[1, 112]);
        assert_eq!(failure(&mut inbound, &one_more), RecordError::Flood);
        let (mut inbound, mut peer) = tls13();
        let long = peer.seal(ContentType::Alert, &[1, 0, 0]);
        assert_eq!(failure(&mut inbound, &long), RecordError::Decode);
    }

    #[test]
    fn what_has_no_content_is_a_flood_at_some_point() {
        let buffers = RecordBuffers::new();
        let (mut inbound, mut peer) = tls13();
        for _ in 0..2 {
            for _ in 0..EMPTY_RECORDS_MAX {
                let empty = peer.data(b"");
                feed(&mut inbound, &buffers, &empty, 4096);
            }
            for _ in 0..KEY_UPDATES_MAX {
                let update = peer.key_update(1);
                feed(&mut inbound, &buffers, &update, 4096);
            }
            assert!(inbound.take_key_update_wanted());
            let data = peer.data(b"content");
            assert_eq!(feed(&mut inbound, &buffers, &data, 4096), b"content");
        }
        for _ in 0..EMPTY_RECORDS_MAX {
            let empty = peer.data(b"");
            feed(&mut inbound, &buffers, &empty, 4096);
        }
        let empty = peer.data(b"");
        assert_eq!(failure(&mut inbound, &empty), RecordError::Flood);
        let (mut inbound, mut peer) = tls13();
        for _ in 0..KEY_UPDATES_MAX {
            let update = peer.key_update(0);
            feed(&mut inbound, &buffers, &update, 4096);
        }
        assert!(!inbound.take_key_update_wanted(), "none was asked for");
        let update = peer.key_update(0);
        assert_eq!(failure(&mut inbound, &update), RecordError::Flood);
    }

    #[test]
    fn messages_may_go_on_in_the_next_record_but_not_be_interrupted() {
        let buffers = RecordBuffers::new();
        let (mut inbound, mut peer) = tls13();
        for piece in [&[24, 0][..], &[0], &[1, 1]] {
            let record = peer.seal(ContentType::Handshake, piece);
            feed(&mut inbound, &buffers, &record, 4096);
        }
        assert!(inbound.take_key_update_wanted());
        peer.sealer = peer.secret.update().unwrap();
        let data = peer.data(b"with the next key");
        assert_eq!(feed(&mut inbound, &buffers, &data, 4096), b"with the next key");
        let half = [peer.seal(ContentType::Handshake, &[24, 0]), peer.data(b"no")].concat();
        assert_eq!(failure(&mut inbound, &half), RecordError::UnexpectedMessage);
    }

    #[test]
    fn messages_that_must_not_come_are_refused() {
        use RecordError::{Decode, IllegalParameter, Renegotiation, UnexpectedMessage};
        let cases: [(Version, &[u8], RecordError); 9] = [
            (tls13, &[], UnexpectedMessage),
            (tls13, &[1], UnexpectedMessage),
            (tls13, &[4, 0, 0, 0], UnexpectedMessage),
            (tls13, &[13, 0, 0, 1], UnexpectedMessage),
            (tls13, &[24, 0, 0, 1, 2], IllegalParameter),
            (tls13, &[24, 0, 0, 2, 0, 0], Decode),
            (tls13, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], UnexpectedMessage),
            (tls12, &[1, 0, 0, 0], Renegotiation),
            (tls12, &[0, 0, 0, 0], Renegotiation),
        ];
        for (version, message, error) in cases {
            let (mut inbound, mut peer) = version();
            let record = peer.seal(ContentType::Handshake, message);
            assert_eq!(failure(&mut inbound, &record), error, "{message:?}");
        }
        let (mut inbound, _) = tls13();
        // change_cipher_spec is over and done with.
        assert_eq!(failure(&mut inbound, &[20, 3, 3, 0, 1, 1]), UnexpectedMessage);
    }

    /// What a peer does.
    #[derive(Clone, Debug)]
    enum Act {
        Data(usize),
        KeyUpdate,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            4 => (0usize..40).prop_map(Act::Data),
            2 => (0usize..=16384).prop_map(Act::Data),
            1 => Just(Act::KeyUpdate),
        ];
        proptest::collection::vec(act, 1..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_cut_gives_the_same_plaintext(
            acts in acts(),
            cuts in proptest::collection::vec((1usize..17_000, any::<bool>()), 1..40),
        ) {
            let buffers: Rc<RecordBuffers> = RecordBuffers::new();
            let (mut inbound, mut peer) = tls13();
            let (mut bytes, mut wanted) = (Vec::new(), Vec::new());
            for act in acts {
                match act {
                    Act::Data(len) => {
                        let content: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
                        bytes.extend(peer.data(&content));
                        wanted.extend(content);
                    }
                    Act::KeyUpdate => bytes.extend(peer.key_update(0)),
                }
            }
            let mut plain = Vec::new();
            let mut rest = &bytes[..];
            for (len, shared) in cuts.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(len.min(rest.len()));
                rest = after;
                let piece = chunk(&buffers, piece);
                let _other = shared.then(|| piece.clone());
                inbound.push(piece, &buffers);
                while let Some(chunk) = inbound.take() {
                    plain.extend_from_slice(&chunk);
                }
            }
            prop_assert_eq!(inbound.end(), None);
            prop_assert!(inbound.is_at_rest());
            prop_assert_eq!(plain, wanted);
        }

        #[test]
        fn garbage_ends_without_plaintext(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            let buffers = RecordBuffers::new();
            let (mut inbound, _) = tls13();
            prop_assert_eq!(feed(&mut inbound, &buffers, &bytes, 7), b"");
        }
    }
}
