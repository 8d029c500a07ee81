//! Bolt and Dubbo 2 for the two ends of a measurement.
//!
//! Written by hand from the layouts of the frames and apart from the proxy's own codecs, so that an
//! error there can't hide here. Frames are told apart and judged by their beginnings ([`Head`]), and
//! whatever follows is passed over. The generator's side is [`crate::protocol::rpc`], the origin's
//! [`crate::origin`].
//!
//! A call's method names the length of the answer it wants, `body128` for 128 bytes, as paths do in
//! HTTP. The invariant: [`Frames`] reports each frame once, when its last byte has come.

mod bolt;
mod dubbo;

use std::ops::Range;

use crate::{origin::BODY_BYTES_MAX, protocol::Fault};

/// An RPC protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rpc {
    /// SOFABolt: calls in v1, as SOFARPC makes them; v2 is understood and answered in kind.
    Bolt,
    /// Dubbo 2 with hessian2.
    Dubbo,
}

/// The bytes don't follow the protocol; the connection can't be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// What the beginning of a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What the frame is.
    pub kind: Kind,
    /// Number of the call that it begins or answers.
    pub id: u64,
    /// Length of the whole frame.
    pub bytes: u64,
    /// What an answer repeats: protocol, ver1, codec and switch of Bolt; serialization of Dubbo.
    manner: [u8; 4],
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Call {
        /// It is to be answered.
        two_way: bool,
        /// Length of the answer that its method names, if it does.
        asked: Option<usize>,
    },
    /// An answer: length of its body, or what is wrong with it.
    Answer(Result<u64, Fault>),
    /// To be answered with [`Rpc::put_heartbeat_answer`].
    Heartbeat,
    /// Such an answer.
    HeartbeatAnswer,
    /// No more calls on this connection, please.
    GoAway,
    /// Something that needs no reaction.
    Other,
}

/// What begins the methods of all calls.
const METHOD: &str = "body";
/// What is called.
const INTERFACE: &str = "com.foo.Hello";
/// What callers wait at most, as they say, in milliseconds.
const TIMEOUT_MS: u32 = 3000;
/// What bodies are filled with, of calls and of answers.
const FILLING: [u8; 2] = *b"xo";

impl Rpc {
    /// Name in options and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bolt => "bolt",
            Self::Dubbo => "dubbo",
        }
    }

    /// The service that is called, as routes of the protocol name it.
    #[must_use]
    pub fn service(self) -> &'static str {
        match self {
            Self::Bolt => bolt::SERVICE,
            Self::Dubbo => INTERFACE,
        }
    }

    /// What a connection begins with that speaks it.
    #[must_use]
    pub fn begins_with(self, first: u8) -> bool {
        match self {
            Self::Bolt => matches!(first, bolt::V1 | bolt::V2),
            Self::Dubbo => first == dubbo::MAGIC[0],
        }
    }

    /// A call with a body of `request_bytes` for an answer with one of `response_bytes`, to be
    /// [numbered](Self::number).
    #[must_use]
    pub fn call(self, request_bytes: usize, response_bytes: usize) -> Vec<u8> {
        let method = format!("{METHOD}{response_bytes}");
        match self {
            Self::Bolt => bolt::call(&method, request_bytes),
            Self::Dubbo => dubbo::call(&method, request_bytes),
        }
    }

    /// Numbers a call. Bolt has room for 32 bits.
    pub fn number(self, call: &mut [u8], id: u64) {
        match self {
            Self::Bolt => bolt::number(call, id),
            Self::Dubbo => dubbo::number(call, id),
        }
    }

    /// The number that follows on another.
    #[must_use]
    pub fn next_id(self, id: u64) -> u64 {
        match self {
            Self::Bolt => u64::from((id as u32).wrapping_add(1)),
            Self::Dubbo => id.wrapping_add(1),
        }
    }

    /// Appends the answer to a call.
    pub fn put_answer(self, to: Head, body_bytes: usize, out: &mut Vec<u8>) {
        match self {
            Self::Bolt => bolt::put_answer(to, body_bytes, out),
            Self::Dubbo => dubbo::put_answer(to, body_bytes, out),
        }
    }

    /// Appends the answer to a heartbeat.
    pub fn put_heartbeat_answer(self, to: Head, out: &mut Vec<u8>) {
        match self {
            Self::Bolt => bolt::put_heartbeat_answer(to, out),
            Self::Dubbo => dubbo::put_heartbeat_answer(to, out),
        }
    }

    /// Where the content of a whole call or answer is, in pieces: what was asked for in
    /// [`Rpc::call`] and [`Rpc::put_answer`], to be written over or read. `None` when there is none.
    #[must_use]
    pub fn content(self, frame: &[u8]) -> Option<Vec<Range<usize>>> {
        match self {
            Self::Bolt => bolt::content(frame),
            Self::Dubbo => dubbo::content(frame),
        }
    }

    /// Reads the beginning of a frame; `None` when more of it is needed.
    ///
    /// # Errors
    ///
    /// [`Malformed`].
    pub fn head(self, bytes: &[u8]) -> Result<Option<Head>, Malformed> {
        match self {
            Self::Bolt => bolt::head(bytes),
            Self::Dubbo => dubbo::head(bytes),
        }
    }
}

/// Finds the frames in what one side of a connection receives.
#[derive(Debug)]
pub struct Frames {
    rpc: Rpc,
    /// The beginning of a frame, as long as it is not enough.
    held: Vec<u8>,
    /// The frame that is coming, and what of it has not.
    current: Option<(Head, u64)>,
}

impl Frames {
    /// The beginning of a connection.
    #[must_use]
    pub fn new(rpc: Rpc) -> Self {
        Self { rpc, held: Vec::new(), current: None }
    }

    /// Takes received bytes, and tells of each frame that ends with them.
    ///
    /// # Errors
    ///
    /// [`Malformed`], or what `on_frame` says.
    pub fn feed<E: From<Malformed>>(
        &mut self,
        mut input: &[u8],
        mut on_frame: impl FnMut(Head) -> Result<(), E>,
    ) -> Result<(), E> {
        while !input.is_empty() {
            let Some((head, left)) = &mut self.current else {
                if !self.begin(input)? {
                    return Ok(());
                }
                continue;
            };
            let taken = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
            input = &input[taken..];
            *left -= taken as u64;
            if *left == 0 {
                let head = *head;
                self.current = None;
                on_frame(head)?;
            }
        }
        Ok(())
    }

    /// Bytes of the current frame still to come; 0 between frames and before its kind is known.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.current.map_or(0, |(_, left)| left)
    }

    /// As [`Frames::feed`] of `count` bytes, at most [`Frames::left`]: true when the frame ends.
    pub fn skip(&mut self, count: u64) -> Option<Head> {
        let (head, left) = self.current.as_mut()?;
        *left = left.saturating_sub(count);
        if *left > 0 {
            return None;
        }
        let head = *head;
        self.current = None;
        Some(head)
    }

    /// Reads a head from what is held and `input`, of which nothing counts as taken then; holds all
    /// of it when that is not enough.
    fn begin(&mut self, input: &[u8]) -> Result<bool, Malformed> {
        let before = self.held.len();
        let head = if before == 0 {
            self.rpc.head(input)?
        } else {
            self.held.extend_from_slice(input);
            self.rpc.head(&self.held)?
        };
        let Some(head) = head else {
            if before == 0 {
                self.held.extend_from_slice(input);
            }
            return Ok(false);
        };
        self.held.clear();
        // What was held was not enough for a head, so the frame goes on after it.
        self.current = Some((head, head.bytes - before as u64));
        Ok(true)
    }
}

/// The length that a method names.
fn asked(method: &[u8]) -> Option<usize> {
    let digits = method.strip_prefix(METHOD.as_bytes())?;
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|bytes| *bytes <= BODY_BYTES_MAX)
}

/// The big-endian number in so many bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A length that is far below the limits of the protocols, since it is one of ours.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl From<Malformed> for String {
        fn from(_: Malformed) -> Self {
            "malformed".to_owned()
        }
    }

    pub(super) fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let value =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(value).collect()
    }

    /// All frames in `input`, cut in two.
    fn frames(rpc: Rpc, input: &[u8], cut: usize) -> Result<Vec<Head>, String> {
        let (mut frames, mut found) = (Frames::new(rpc), Vec::new());
        for part in [&input[..cut], &input[cut..]] {
            frames.feed(part, |head| {
                found.push(head);
                Ok::<(), String>(())
            })?;
        }
        Ok(found)
    }

    #[test]
    fn calls_and_answers_survive_every_cut() {
        for rpc in [Rpc::Bolt, Rpc::Dubbo] {
            let mut input = Vec::new();
            for (id, (request, response)) in [(0, 5), (31, 32), (1023, 1024)].iter().enumerate() {
                let mut call = rpc.call(*request, *response);
                rpc.number(&mut call, id as u64);
                input.extend_from_slice(&call);
            }
            let calls = frames(rpc, &input, 0).unwrap();
            for call in &calls {
                let Kind::Call { two_way: true, asked: Some(bytes) } = call.kind else {
                    panic!("{call:?}")
                };
                rpc.put_answer(*call, bytes, &mut input);
            }
            let all = frames(rpc, &input, 0).unwrap();
            let found: Vec<_> = all[3..].iter().map(|head| (head.kind, head.id)).collect();
            let answer = |bytes, id| (Kind::Answer(Ok(bytes)), id);
            assert_eq!(found, [answer(5, 0), answer(32, 1), answer(1024, 2)], "{rpc:?}");
            for cut in 0..input.len() {
                assert_eq!(frames(rpc, &input, cut).as_ref(), Ok(&all), "{rpc:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn bodies_of_all_lengths() {
        let lengths = [0, 1, 31, 32, 128, 1023, 1024, 32_767, 32_768, 32_769, 65_536, 300_000];
        for rpc in [Rpc::Bolt, Rpc::Dubbo] {
            for bytes in lengths {
                let call = frames(rpc, &rpc.call(bytes, bytes), 0).unwrap()[0];
                assert_eq!(call.kind, Kind::Call { two_way: true, asked: Some(bytes) });
                let mut answer = Vec::new();
                rpc.put_answer(call, bytes, &mut answer);
                let found = frames(rpc, &answer, 0).unwrap();
                assert_eq!(found.len(), 1);
                assert_eq!(found[0].kind, Kind::Answer(Ok(bytes as u64)), "{rpc:?}");
            }
        }
    }

    #[test]
    fn contents_are_where_they_are_said_to_be() {
        for rpc in [Rpc::Bolt, Rpc::Dubbo] {
            for bytes in [0, 31, 32, 1024, 32_768, 32_769, 300_000] {
                let call = rpc.call(bytes, bytes);
                let mut answer = Vec::new();
                rpc.put_answer(rpc.head(&call).unwrap().unwrap(), bytes, &mut answer);
                for (frame, filling) in [(call, b'x'), (answer, b'o')] {
                    let pieces = rpc.content(&frame).unwrap();
                    let content: Vec<u8> =
                        pieces.into_iter().flat_map(|piece| frame[piece].to_vec()).collect();
                    assert_eq!(content, vec![filling; bytes], "{rpc:?}");
                }
            }
        }
    }

    #[test]
    fn skipped_bytes_are_those_of_the_frame() {
        for rpc in [Rpc::Bolt, Rpc::Dubbo] {
            let call = frames(rpc, &rpc.call(0, 5000), 0).unwrap()[0];
            let mut answer = Vec::new();
            rpc.put_answer(call, 5000, &mut answer);
            let mut frames = Frames::new(rpc);
            frames.feed(&answer[..200], |_| Err("too early".to_owned())).unwrap();
            assert_eq!(frames.left(), answer.len() as u64 - 200);
            assert_eq!(frames.skip(100), None);
            let head = frames.skip(frames.left()).unwrap();
            assert_eq!(head.kind, Kind::Answer(Ok(5000)));
            assert_eq!((frames.left(), frames.skip(0)), (0, None));
        }
    }

    #[test]
    fn numbers_wrap_where_the_protocol_does() {
        assert_eq!(Rpc::Bolt.next_id(u64::from(u32::MAX)), 0);
        assert_eq!(Rpc::Dubbo.next_id(u64::from(u32::MAX)), 1 << 32);
        assert_eq!(Rpc::Dubbo.next_id(u64::MAX), 0);
    }

    #[test]
    fn methods() {
        let cases: [(&[u8], Option<usize>); 5] = [
            (b"body128", Some(128)),
            (b"body0", Some(0)),
            (b"body", None),
            (b"sayHello", None),
            (b"body67108865", None),
        ];
        for (method, bytes) in cases {
            assert_eq!(asked(method), bytes);
        }
    }
}
