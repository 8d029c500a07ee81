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
            let expected = match (*kind, &self.side) {
                (MESSAGE_KEY_UPDATE, _) => true,
                (MESSAGE_NEW_SESSION_TICKET, Side::Client(_)) => true,
                _ => false,
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
