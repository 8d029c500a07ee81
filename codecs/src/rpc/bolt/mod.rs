//! SOFABolt, versions 1 and 2, frame by frame on the same connection, with SOFARPC's headers
//! (bolt.md).
//!
//! A frame is a fixed part, a class name, a block of headers, and content that nobody here looks into;
//! some frames of version 2 end with a checksum. Invariant: a frame's bounds follow from its fixed part
//! alone, so whatever its headers hold, the frame behind it is found.

mod checksum;
mod frame;
mod header_map;

use self::frame::{CODEC_HESSIAN, Form, Header, Message, Parsed, command, fault};
use self::header_map::{BLOCK_LEN_MAX, Pairs, Rewrite};
use super::{
    Call, CallError, Detail, EditError, Failure, Frame, FrameError, FrameFault, HeaderEdit, Kind,
    Outcome, Progress, RpcCodec, Splices, Tag,
};
use crate::http::Put;

/// The Bolt codec and its options.
///
/// A [`Tag`] holds the protocol version, ver1 (0 in version 1), the switch and the codec byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bolt {
    /// A version 2 frame ends with a checksum whenever its switch says so, whatever ver1 is: Node and
    /// Go peers. Java's rule, which wants ver1 2 as well, otherwise.
    pub crc_by_switch_only: bool,
    /// The peer knows command code 100 (MOSN's go-away); otherwise it is never sent, since Java peers
    /// close the connection over it.
    pub goaway: bool,
    /// A longer frame, checksum included, is refused.
    pub max_frame_bytes: usize,
}

impl Default for Bolt {
    /// Java's checksum rule, no go-away, frames up to 64 MiB.
    fn default() -> Self {
        Self { crc_by_switch_only: false, goaway: false, max_frame_bytes: MAX_FRAME_BYTES }
    }
}

impl RpcCodec for Bolt {
    fn name(&self) -> &'static str {
        "bolt"
    }

    /// Types request and one-way are requests whatever their command code is, but for those of
    /// heartbeats and go-away; a response of an unknown command code is [`Kind::Opaque`]. A heartbeat is
    /// one even if it says that it is one-way: Java answers those, too.
    ///
    /// # Errors
    /// As bolt.md section 7 has it. Of a two-way request whose content is too long, the answer is told.
    fn frame(&self, front: &[u8]) -> Result<Progress, FrameError> {
        let header = match Header::parse(front)? {
            Parsed::NeedMore(len) => return Ok(Progress::NeedMore(len)),
            Parsed::Whole(header) => header,
        };
        let tag = header.form.tag(header.codec);
        let id = u64::from(header.id);
        let (kind, status, timeout_ms) = match header.message {
            Message::Request { oneway, timeout } => {
                let timeout_ms = u32::try_from(timeout).ok().filter(|&timeout| timeout > 0);
                (request_kind(header.command, oneway), 0, timeout_ms)
            }
            Message::Response { status } => (response_kind(header.command), status, None),
        };
        let lengths_at = header.lengths_at();
        if usize::from(header.class_len) > CLASS_LEN_MAX {
            return Err(fault(FrameFault::Length, lengths_at));
        }
        if usize::from(header.block_len) > BLOCK_LEN_MAX {
            return Err(fault(FrameFault::Length, lengths_at + 2));
        }
        let head_len = header.block_at() + usize::from(header.block_len);
        let checksum_len = if self.is_checked(header.form) { checksum::LEN } else { 0 };
        let len = head_len as u64 + u64::from(header.content_len) + checksum_len as u64;
        let refused = |reason, failure| {
            let answer = (kind == Kind::Request).then_some((tag, id, failure));
            FrameError { reason, at: lengths_at + 4, answer }
        };
        if i32::try_from(header.content_len).is_err() {
            return Err(refused(FrameFault::Length, Failure::Undecodable));
        }
        let len = usize::try_from(len).ok().filter(|&len| len <= self.max_frame_bytes);
        let len = len.ok_or_else(|| refused(FrameFault::TooLarge, Failure::TooLarge))?;
        let id_end = header.form.id_at() + ID_LEN;
        Ok(Progress::Frame(Frame { len, head_len, id_end, kind, id, timeout_ms, status, tag }))
    }

    fn id_bits(&self) -> u32 {
        32
    }

    fn set_id(&self, frame: &Frame, head: &mut [u8], id: u64) {
        let place = frame.id_end.saturating_sub(ID_LEN)..frame.id_end;
        if let Some(place) = head.get_mut(place) {
            place.copy_from_slice(&(id as u32).to_be_bytes());
        }
    }

    /// The service is that of the header `service`, of `sofa_head_target_service` where that is missing
    /// or empty; the method that of `sofa_head_method_name`. Of a repeated header the last counts; one
    /// with a null or with a value that is not UTF-8 does not. The timeout is the smaller of the fixed
    /// part's and of `sofa_head_deadline_remain_time`. Everything is read whatever `detail` is, since
    /// the last pair may be the one that counts.
    fn call<'a>(&self, _: &Frame, bytes: &'a [u8], _: Detail) -> Result<Call<'a>, CallError> {
        let missing = CallError { reason: "the headers are not there", at: bytes.len() };
        let (header, block) = header_and_block(bytes).ok_or(missing)?;
        let (mut service, mut target, mut method, mut deadline) = (NONE, NONE, NONE, NONE);
        for pair in Pairs::new(block) {
            let pair = pair.map_err(|fault| CallError {
                reason: fault.reason,
                at: header.block_at() + fault.at,
            })?;
            let (Some(key), Some(value)) = (pair.key, pair.value) else { continue };
            let place = match key {
                SERVICE => &mut service,
                TARGET_SERVICE => &mut target,
                METHOD => &mut method,
                DEADLINE => &mut deadline,
                _ => continue,
            };
            if is_text(value) {
                *place = value;
            }
        }
        let timeout = match header.message {
            Message::Request { timeout, .. } => u32::try_from(timeout).ok().filter(|&it| it > 0),
            Message::Response { .. } => None,
        };
        let timeout_ms = [timeout, milliseconds(deadline)].into_iter().flatten().min();
        let service = if service.is_empty() { target } else { service };
        Ok(Call { service, method, timeout_ms, complete: true, ..Call::default() })
    }

    fn headers<'a>(
        &self,
        _: &Frame,
        bytes: &'a [u8],
        visit: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
    ) {
        let Some((_, block)) = header_and_block(bytes) else { return };
        for pair in Pairs::new(block).map_while(Result::ok) {
            let (Some(key), Some(value)) = (pair.key, pair.value) else { continue };
            if is_text(key) && is_text(value) && !visit(key, value) {
                return;
            }
        }
    }

    /// SOFARPC tells errors of the application, and that it does not know a service, with status 0 and
    /// the header `sofa_head_response_error`.
    fn outcome(&self, frame: &Frame, bytes: &[u8]) -> Outcome {
        match frame.status {
            status::SUCCESS => {}
            status::SERVER_BUSY => return Outcome::Overload,
            _ => return Outcome::Failure,
        }
        let mut outcome = Outcome::Success;
        self.headers(frame, bytes, &mut |key, value| {
            if key == RESPONSE_ERROR {
                outcome = match value {
                    b"true" => Outcome::ApplicationError,
                    _ => Outcome::Success,
                };
            }
            true
        });
        outcome
    }

    /// The timeout is written only where the request has one. `sofa_head_deadline_remain_time` is a
    /// header like others, for `edits` to change.
    fn edit(
        &self,
        frame: &Frame,
        bytes: &[u8],
        edits: &[HeaderEdit<'_>],
        timeout_ms: Option<u32>,
        splices: &mut Splices,
    ) -> Result<(), EditError> {
        let (header, block) = header_and_block(bytes).ok_or(EditError::Unreadable)?;
        let rewrite = Rewrite::new(block, edits).map_err(|_| EditError::Unreadable)?;
        let len =
            u16::try_from(rewrite.len()).ok().filter(|&len| usize::from(len) <= BLOCK_LEN_MAX);
        let len = len.ok_or(EditError::TooLong)?;
        if let (Some(old), Some(new)) = (frame.timeout_ms, timeout_ms) {
            // 0 would mean none.
            let new = new.clamp(1, i32::MAX.unsigned_abs());
            let at = header.form.special_at();
            if new != old {
                splices.replace(at..at + 4, |out| out.extend_from_slice(&new.to_be_bytes()));
            }
        }
        if let Some(replaced) = rewrite.replaced() {
            let (len_at, block_at) = (header.lengths_at() + 2, header.block_at());
            splices.replace(len_at..len_at + 2, |out| out.extend_from_slice(&len.to_be_bytes()));
            splices.replace(block_at + replaced.start..block_at + replaced.end, |out| {
                rewrite.put_rest(out);
            });
        }
        Ok(())
    }

    /// Only between version 1, version 2 with ver1 1, and version 2 with ver1 2: whoever reads a frame
    /// takes switch and codec from itself. Where the new form has a checksum, its place is made.
    fn convert(
        &self,
        response: &Frame,
        bytes: &[u8],
        request: &Tag,
        splices: &mut Splices,
    ) -> bool {
        let Ok(Parsed::Whole(header)) = Header::parse(bytes) else { return false };
        let form = Form::of(request);
        if response.kind != Kind::Response || header.form.agrees(form) {
            return false;
        }
        let new = Header { form, ..header };
        splices.replace(0..header.len(), |out| out.extend_from_slice(&new.to_bytes()));
        match (self.is_checked(header.form), self.is_checked(form)) {
            (true, false) => {
                let sum_at = response.len.saturating_sub(checksum::LEN);
                splices.replace(sum_at..response.len, |_| {});
            }
            (false, true) => splices.replace(response.len..response.len, |out| {
                out.extend_from_slice(&[0; checksum::LEN]);
            }),
            (false, false) | (true, true) => {}
        }
        true
    }

    fn verify(
        &self,
        frame: &Frame,
        parts: &mut dyn Iterator<Item = &[u8]>,
    ) -> Result<(), FrameError> {
        if !self.is_checked(Form::of(&frame.tag)) {
            return Ok(());
        }
        let covered = frame.len.saturating_sub(checksum::LEN);
        match checksum::compare(parts, covered) {
            (sum, Some(stored)) if sum == stored => Ok(()),
            _ => Err(fault(FrameFault::Checksum, covered)),
        }
    }

    fn seal(
        &self,
        frame: &Frame,
        parts: &mut dyn Iterator<Item = &[u8]>,
    ) -> Option<[u8; checksum::LEN]> {
        if !self.is_checked(Form::of(&frame.tag)) {
            return None;
        }
        let covered = frame.len.saturating_sub(checksum::LEN);
        Some(checksum::compare(parts, covered).0)
    }

    fn put_failure(&self, tag: &Tag, id: u64, failure: Failure, _: &str, out: &mut dyn Put) {
        let message = Message::Response { status: status_of(failure) };
        self.put_empty(tag, message, command::RESPONSE, tag.0[3], id, out);
    }

    fn put_heartbeat_reply(&self, frame: &Frame, _: &[u8], out: &mut dyn Put) {
        let message = Message::Response { status: status::SUCCESS };
        self.put_empty(&frame.tag, message, command::HEARTBEAT, frame.tag.0[3], frame.id, out);
    }

    fn put_heartbeat(&self, tag: &Tag, id: u64, out: &mut dyn Put) {
        let message = Message::Request { oneway: false, timeout: -1 };
        self.put_empty(tag, message, command::HEARTBEAT, CODEC_HESSIAN, id, out);
    }

    /// Version 1 alone has such a frame.
    fn put_goodbye(&self, tag: &Tag, id: u64, out: &mut dyn Put) -> bool {
        if !self.goaway || Form::of(tag) != Form::V1 {
            return false;
        }
        let message = Message::Request { oneway: false, timeout: 0 };
        self.put_empty(tag, message, command::GOODBYE, CODEC_HESSIAN, id, out);
        true
    }

    fn put_service_key(&self, call: &Call<'_>, out: &mut dyn Put) {
        out.put(call.service);
    }

    /// Java peers send all of a connection in the version and ver1 of its first frame.
    fn flavour(&self, tag: &Tag) -> u8 {
        match Form::of(tag) {
            Form::V1 => 0,
            Form::V2 { ver1, .. } => ver1,
        }
    }
}

impl Bolt {
    fn is_checked(&self, form: Form) -> bool {
        form.is_checked(self.crc_by_switch_only)
    }

    /// Writes a message of a fixed part alone, with its checksum.
    fn put_empty(
        &self,
        tag: &Tag,
        message: Message,
        command: u16,
        codec: u8,
        id: u64,
        out: &mut dyn Put,
    ) {
        let form = Form::of(tag);
        let bytes = Header::empty(form, message, command, codec, id as u32).to_bytes();
        out.put(&bytes);
        if self.is_checked(form) {
            out.put(&checksum::of(&bytes));
        }
    }
}

/// The fixed part and the headers of a frame's front, if they are all there.
#[inline]
fn header_and_block(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let Ok(Parsed::Whole(header)) = Header::parse(bytes) else { return None };
    let block = bytes.get(header.block_at()..)?.get(..usize::from(header.block_len))?;
    Some((header, block))
}

/// UTF-8; nearly all of it is ASCII, which is told faster.
fn is_text(bytes: &[u8]) -> bool {
    bytes.is_ascii() || str::from_utf8(bytes).is_ok()
}

fn request_kind(command: u16, oneway: bool) -> Kind {
    match command {
        command::HEARTBEAT => Kind::Heartbeat,
        command::GOODBYE => Kind::Goodbye,
        _ if oneway => Kind::Oneway,
        _ => Kind::Request,
    }
}

fn response_kind(command: u16) -> Kind {
    match command {
        command::HEARTBEAT => Kind::HeartbeatReply,
        command::RESPONSE => Kind::Response,
        _ => Kind::Opaque,
    }
}

/// bolt.md section 8.
fn status_of(failure: Failure) -> u16 {
    match failure {
        Failure::NoRoute | Failure::NoHealthyUpstream => status::NO_PROCESSOR,
        Failure::Overflow | Failure::RateLimited => status::SERVER_BUSY,
        Failure::Denied => status::SERVER_EXCEPTION,
        Failure::UpstreamTimeout | Failure::ClientTimeout => status::TIMEOUT,
        Failure::ConnectionLost => status::CONNECTION_CLOSED,
        Failure::Undecodable | Failure::TooLarge => status::CODEC_EXCEPTION,
        Failure::Internal => status::UNKNOWN,
    }
}

/// A decimal number above 0.
fn milliseconds(text: &[u8]) -> Option<u32> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = str::from_utf8(text).ok()?.parse().ok()?;
    u32::try_from(number).ok().filter(|&number| number > 0)
}

/// Of what is sent and what is looked at (bolt.md section 3.5); peers know no others.
mod status {
    pub(super) const SUCCESS: u16 = 0;
    pub(super) const SERVER_EXCEPTION: u16 = 2;
    pub(super) const UNKNOWN: u16 = 3;
    pub(super) const SERVER_BUSY: u16 = 4;
    pub(super) const NO_PROCESSOR: u16 = 6;
    pub(super) const TIMEOUT: u16 = 7;
    pub(super) const CODEC_EXCEPTION: u16 = 9;
    pub(super) const CONNECTION_CLOSED: u16 = 16;
}

const SERVICE: &[u8] = b"service";
const TARGET_SERVICE: &[u8] = b"sofa_head_target_service";
const METHOD: &[u8] = b"sofa_head_method_name";
const DEADLINE: &[u8] = b"sofa_head_deadline_remain_time";
const RESPONSE_ERROR: &[u8] = b"sofa_head_response_error";
const NONE: &[u8] = b"";

const ID_LEN: usize = 4;
/// Java reads the length as a signed number of 16 bits.
const CLASS_LEN_MAX: usize = i16::MAX as usize;
const MAX_FRAME_BYTES: usize = 64 << 20;
