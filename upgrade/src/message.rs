//! What two processes say to each other during a hand-over, and how it is written down.
//!
//! A message is one packet: its length (u32, big-endian), then a protobuf envelope, so that a field that
//! an older process doesn't know is skipped, and a message that it doesn't know is seen to be one.
//! Packets are numbered: a socket loses none, but whoever relies on that notices when it does.
//! Invariant: what was decoded is whole; a packet that is cut, too long or of an unknown kind is an error,
//! never half a message.

use prost::Message as _;

/// The most bytes of a packet. A connection's record with its unread bytes fits; what doesn't is drained.
pub const PACKET_MAX: usize = 128 * 1024;

/// One message.
#[derive(Clone, Eq, Hash, PartialEq, prost::Oneof)]
pub enum Message {
    /// Both, first: who speaks.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// Predecessor: listening sockets, whose descriptors are with the packet.
    #[prost(message, tag = "2")]
    Listeners(Listeners),
    /// Successor: how many descriptors of listeners it has so far.
    #[prost(uint32, tag = "3")]
    ListenersTaken(u32),
    /// Predecessor: a piece of its state.
    #[prost(message, tag = "4")]
    State(StatePart),
    /// Predecessor: that was everything.
    #[prost(message, tag = "5")]
    Prepared(Prepared),
    /// Successor: it could serve at once.
    #[prost(message, tag = "6")]
    Ready(Ready),
    /// Predecessor: accept from now on.
    #[prost(message, tag = "7")]
    Commit(Commit),
    /// Successor: it accepts.
    #[prost(message, tag = "8")]
    Committed(Committed),
    /// Predecessor: a connection that nobody touches now, whose descriptors are with the packet.
    #[prost(message, tag = "9")]
    Offer(Offer),
    /// Successor: it could go on with the connection of this number.
    #[prost(uint64, tag = "10")]
    Adopted(u64),
    /// Successor: it can't.
    #[prost(message, tag = "11")]
    Declined(Declined),
    /// Predecessor: the connection of this number is the successor's.
    #[prost(uint64, tag = "12")]
    Take(u64),
    /// Predecessor: bytes that the connection's owner is to send, behind what it was told to send before.
    #[prost(message, tag = "13")]
    Relay(Relay),
    /// Predecessor: nothing more comes for the connection of this number.
    #[prost(uint64, tag = "14")]
    RelayEnd(u64),
    /// Successor: it closed the listening sockets of this name.
    #[prost(string, tag = "15")]
    Released(String),
    /// Successor: it lives.
    #[prost(message, tag = "16")]
    Alive(Alive),
    /// Predecessor: how far it is.
    #[prost(message, tag = "17")]
    Progress(Progress),
    /// Either: the hand-over is off. The predecessor serves.
    #[prost(message, tag = "18")]
    Abort(Abort),
    /// An operator's tool, first and alone: what it wants. There is no hand-over on this channel.
    #[prost(message, tag = "19")]
    Ask(Ask),
    /// The process that serves: the one answer to that.
    #[prost(message, tag = "20")]
    Answer(Answer),
    /// Successor: how far it is with what is registered elsewhere, for which the predecessor stays.
    #[prost(message, tag = "21")]
    Settled(Settled),
}

/// Who speaks.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct Hello {
    /// Versions of the protocol with different first numbers don't understand each other.
    #[prost(uint32, tag = "1")]
    pub major: u32,
    /// Those with different second numbers do.
    #[prost(uint32, tag = "2")]
    pub minor: u32,
    /// What the process was built from, for logs.
    #[prost(string, tag = "3")]
    pub build: String,
    /// How many processes served before, as far as they know of each other.
    #[prost(uint32, tag = "4")]
    pub generation: u32,
    /// The process, in its own namespace.
    #[prost(uint32, tag = "5")]
    pub pid: u32,
    /// What it can do beyond the version, as bits.
    #[prost(uint64, tag = "6")]
    pub features: u64,
}

/// Listening sockets, in the order of their descriptors.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct Listeners {
    /// One for each descriptor.
    #[prost(message, repeated, tag = "1")]
    pub records: Vec<ListenerRecord>,
}

/// One listening socket.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct ListenerRecord {
    /// The listener's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it is bound to, as the configuration writes it.
    #[prost(string, tag = "2")]
    pub address: String,
    /// Its place among the sockets of this address.
    #[prost(uint32, tag = "3")]
    pub shard: u32,
}

/// A piece of a state, such as counters. Pieces of one kind follow each other.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct StatePart {
    /// What it is of. Kinds that are not known are skipped: their state begins anew.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The version of the kind.
    #[prost(uint32, tag = "2")]
    pub version: u32,
    /// The next bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub bytes: Vec<u8>,
    /// Whether these are the last of the kind.
    #[prost(bool, tag = "4")]
    pub is_last: bool,
}

/// That was everything.
#[derive(Clone, Copy, Eq, Hash, PartialEq, prost::Message)]
pub struct Prepared {
    /// Listening sockets in all.
    #[prost(uint32, tag = "1")]
    pub listeners: u32,
    /// Pieces of state in all.
    #[prost(uint32, tag = "2")]
    pub parts: u32,
}

/// It could serve at once.
#[derive(Clone, Copy, Eq, Hash, PartialEq, prost::Message)]
pub struct Ready {}

/// Accept from now on.
#[derive(Clone, Copy, Eq, Hash, PartialEq, prost::Message)]
pub struct Commit {}

/// It accepts.
#[derive(Clone, Copy, Eq, Hash, PartialEq, prost::Message)]
pub struct Committed {}

/// A connection.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct Offer {
    /// Its number, unique in the hand-over.
    #[prost(uint64, tag = "1")]
    pub connection: u64,
    /// What it speaks: the kind of `record`.
    #[prost(string, tag = "2")]
    pub kind: String,
    /// The version of the kind.
    #[prost(uint32, tag = "3")]
    pub version: u32,
    /// All that its descriptors don't hold.
    #[prost(bytes = "vec", tag = "4")]
    pub record: Vec<u8>,
    /// Bytes of the record that are in a file instead, which is the last descriptor.
    #[prost(uint64, tag = "5")]
    pub spilled: u64,
}

/// A connection that stays where it was.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct Declined {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub connection: u64,
    /// Why.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// Bytes for a connection that has moved.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct Relay {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub connection: u64,
    /// Whole frames of its protocol.
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
    /// As many bytes are in a file instead, which is the only descriptor.
    #[prost(uint64, tag = "3")]
    pub spilled: u64,
}

/// It lives.
#[derive(Clone, Copy, Eq, Hash, PartialEq, prost::Message)]
pub struct Alive {}

/// How far the successor is with what is registered elsewhere.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct Settled {
    /// Registries in which it is still to register what it offers.
    #[prost(string, repeated, tag = "1")]
    pub pending: Vec<String>,
}

/// How far a predecessor is.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct Progress {
    /// Connections that have moved.
    #[prost(uint64, tag = "1")]
    pub moved: u64,
    /// Connections that were declined.
    #[prost(uint64, tag = "2")]
    pub declined: u64,
    /// Connections that it still serves.
    #[prost(uint64, tag = "3")]
    pub left: u64,
    /// Seconds until it closes them.
    #[prost(uint32, tag = "4")]
    pub seconds_left: u32,
    /// The process, in its own namespace.
    #[prost(uint32, tag = "5")]
    pub pid: u32,
    /// How many processes served before it.
    #[prost(uint32, tag = "6")]
    pub generation: u32,
    /// What it was built from.
    #[prost(string, tag = "7")]
    pub build: String,
    /// What it does, in one word for people.
    #[prost(string, tag = "8")]
    pub phase: String,
    /// Its own predecessors that still drain.
    #[prost(message, repeated, tag = "9")]
    pub older: Vec<Progress>,
}

impl Progress {
    /// How many processes this is about: one, and its predecessors.
    #[must_use]
    pub fn processes(&self) -> usize {
        1 + self.older.iter().map(Progress::processes).sum::<usize>()
    }
}

/// What an operator's tool wants.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct Ask {
    /// One of [`Wish`].
    #[prost(enumeration = "Wish", tag = "1")]
    pub wish: i32,
    /// The binary of a successor; the process's own when empty.
    #[prost(string, tag = "2")]
    pub binary: String,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, prost::Enumeration)]
#[repr(i32)]
pub enum Wish {
    /// Nothing that is known.
    Unknown = 0,
    /// Say who serves, and how far hand-overs are.
    Status = 1,
    /// Start a successor, and say how that went.
    Upgrade = 2,
    /// End the hand-over that is under way.
    Abort = 3,
}

/// The answer to an operator's tool.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct Answer {
    /// Whether it was done.
    #[prost(bool, tag = "1")]
    pub is_done: bool,
    /// What was done, or why not.
    #[prost(string, tag = "2")]
    pub text: String,
    /// Who serves, and how far hand-overs are.
    #[prost(message, optional, boxed, tag = "3")]
    pub status: Option<Box<Status>>,
}

/// Who serves, and how far hand-overs are.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct Status {
    /// The process, in its own namespace.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// How many processes served before it.
    #[prost(uint32, tag = "2")]
    pub generation: u32,
    /// What it was built from.
    #[prost(string, tag = "3")]
    pub build: String,
    /// For how long it has run.
    #[prost(uint64, tag = "4")]
    pub uptime_seconds: u64,
    /// Where it is in its life, as `/server_info` says it.
    #[prost(string, tag = "5")]
    pub state: String,
    /// Connections that it serves.
    #[prost(uint64, tag = "6")]
    pub connections: u64,
    /// The successor that is getting ready; 0 for none.
    #[prost(uint32, tag = "7")]
    pub successor_pid: u32,
    /// The predecessor that drains, with its own.
    #[prost(message, optional, tag = "8")]
    pub predecessor: Option<Progress>,
    /// Most processes at once.
    #[prost(uint32, tag = "9")]
    pub processes_max: u32,
}

/// The hand-over is off.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct Abort {
    /// Why, for the other's log.
    #[prost(string, tag = "1")]
    pub reason: String,
}

/// Why a packet is no message: the other process speaks something else, or its packet is broken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Its length is not what it says.
    #[error("a packet of {received} bytes that says it has {said}")]
    Length {
        /// What came.
        received: usize,
        /// What its first bytes say.
        said: usize,
    },
    /// Not an envelope.
    #[error("a packet that is no message: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A message of a later version.
    #[error("a message of an unknown kind")]
    UnknownKind,
}

/// A message with more than [`PACKET_MAX`] bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a message of {0} bytes, where {PACKET_MAX} are the limit")]
pub struct TooLong(pub usize);

/// A message with its number.
#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(uint64, tag = "100")]
    number: u64,
    #[prost(
        oneof = "Message",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21"
    )]
    message: Option<Message>,
}

impl Message {
    /// What it is, for logs: what is in it may be for nobody's eyes.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Listeners(_) => "Listeners",
            Self::ListenersTaken(_) => "ListenersTaken",
            Self::State(_) => "State",
            Self::Prepared(_) => "Prepared",
            Self::Ready(_) => "Ready",
            Self::Commit(_) => "Commit",
            Self::Committed(_) => "Committed",
            Self::Offer(_) => "Offer",
            Self::Adopted(_) => "Adopted",
            Self::Declined(_) => "Declined",
            Self::Take(_) => "Take",
            Self::Relay(_) => "Relay",
            Self::RelayEnd(_) => "RelayEnd",
            Self::Released(_) => "Released",
            Self::Alive(_) => "Alive",
            Self::Progress(_) => "Progress",
            Self::Abort(_) => "Abort",
            Self::Ask(_) => "Ask",
            Self::Answer(_) => "Answer",
            Self::Settled(_) => "Settled",
        }
    }

    /// The packet, as the one of this number in its direction.
    ///
    /// # Errors
    /// When it would be too long.
    pub fn into_packet(self, number: u64) -> Result<Vec<u8>, TooLong> {
        let envelope = Envelope { number, message: Some(self) };
        let len = envelope.encoded_len();
        let said = u32::try_from(len).map_err(|_| TooLong(len))?;
        if LENGTH_BYTES + len > PACKET_MAX {
            return Err(TooLong(LENGTH_BYTES + len));
        }
        let mut packet = Vec::with_capacity(LENGTH_BYTES + len);
        packet.extend_from_slice(&said.to_be_bytes());
        packet.append(&mut envelope.encode_to_vec());
        Ok(packet)
    }

    /// The message of a packet, and its number.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn from_packet(packet: &[u8]) -> Result<(u64, Self), DecodeError> {
        let received = packet.len();
        let Some((said, envelope)) = packet.split_first_chunk::<LENGTH_BYTES>() else {
            return Err(DecodeError::Length { received, said: LENGTH_BYTES });
        };
        let said = u32::from_be_bytes(*said) as usize;
        if said != envelope.len() {
            return Err(DecodeError::Length { received: envelope.len(), said });
        }
        let Envelope { number, message } = Envelope::decode(envelope)?;
        Ok((number, message.ok_or(DecodeError::UnknownKind)?))
    }
}

/// Bytes of a packet's length.
const LENGTH_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<Message> {
        let record = ListenerRecord { name: "in".into(), address: "0.0.0.0:80".into(), shard: 3 };
        vec![
            Message::Hello(Hello { major: 1, build: "a".into(), pid: 7, ..Hello::default() }),
            Message::Listeners(Listeners { records: vec![record.clone(), record] }),
            Message::ListenersTaken(0),
            Message::State(StatePart {
                kind: "stats".into(),
                bytes: vec![0; 9],
                ..StatePart::default()
            }),
            Message::Prepared(Prepared { listeners: 2, parts: 1 }),
            Message::Ready(Ready {}),
            Message::Commit(Commit {}),
            Message::Committed(Committed {}),
            Message::Offer(Offer { connection: 1, record: vec![1, 2], ..Offer::default() }),
            Message::Adopted(1),
            Message::Declined(Declined { connection: 1, reason: "no".into() }),
            Message::Take(u64::MAX),
            Message::Relay(Relay { connection: 1, bytes: vec![255], spilled: 0 }),
            Message::RelayEnd(0),
            Message::Released(String::new()),
            Message::Alive(Alive {}),
            Message::Progress(Progress { moved: 1, ..Progress::default() }),
            Message::Abort(Abort { reason: "told to".into() }),
            Message::Ask(Ask { wish: Wish::Upgrade.into(), binary: "/bin/new".into() }),
            Message::Answer(Answer { is_done: true, ..Answer::default() }),
            Message::Settled(Settled { pending: vec!["zk".into()] }),
        ]
    }

    #[test]
    fn messages_come_back_as_they_were() {
        for (number, message) in one_of_each().into_iter().enumerate() {
            let packet = message.clone().into_packet(number as u64).unwrap();
            assert_eq!(Message::from_packet(&packet).unwrap(), (number as u64, message));
        }
    }

    #[test]
    fn a_packet_that_is_cut_or_too_long_is_refused() {
        for message in one_of_each() {
            let mut packet = message.into_packet(1).unwrap();
            for end in 0..packet.len() {
                let error = Message::from_packet(&packet[..end]).unwrap_err();
                assert!(matches!(error, DecodeError::Length { .. }), "{error}");
            }
            packet.push(0);
            assert!(Message::from_packet(&packet).is_err());
        }
    }

    #[test]
    fn what_a_later_version_says_is_skipped_in_known_messages_and_refused_alone() {
        let packet = |envelope: &[u8]| {
            let mut packet = (envelope.len() as u32).to_be_bytes().to_vec();
            packet.extend_from_slice(envelope);
            packet
        };
        // Field 5 with an empty Prepared in which field 99 is 1.
        let later = packet(&[0x2a, 3, 0x98, 0x06, 1]);
        let prepared = Message::Prepared(Prepared { listeners: 0, parts: 0 });
        assert_eq!(Message::from_packet(&later).unwrap(), (0, prepared));
        // Field 99, empty.
        let unknown = packet(&[0x9a, 0x06, 0]);
        assert_eq!(Message::from_packet(&unknown), Err(DecodeError::UnknownKind));
        assert!(matches!(Message::from_packet(&packet(&[0xff])), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn what_is_longer_than_a_packet_is_not_sent() {
        let offer = |len| Message::Offer(Offer { record: vec![0; len], ..Offer::default() });
        assert!(offer(PACKET_MAX - 100).into_packet(0).is_ok());
        let error = offer(PACKET_MAX).into_packet(0).unwrap_err();
        assert!(error.0 > PACKET_MAX);
    }
}
