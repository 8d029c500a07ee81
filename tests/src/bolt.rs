//! Bolt frames, built and read in the plainest way, apart from the proxy's codec, and read strictly.

use crate::http::{Fault, Wire};
use crate::rpc::{self, Message};

/// Types of messages.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod kind {
    pub const RESPONSE: u8 = 0;
    pub const REQUEST: u8 = 1;
    pub const ONEWAY: u8 = 2;
}

/// Command codes.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod command {
    pub const HEARTBEAT: u16 = 0;
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const GOODBYE: u16 = 100;
}

/// Statuses of responses.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod status {
    pub const SUCCESS: u16 = 0;
    pub const ERROR: u16 = 1;
    pub const SERVER_EXCEPTION: u16 = 2;
    pub const UNKNOWN: u16 = 3;
    pub const SERVER_THREADPOOL_BUSY: u16 = 4;
    pub const NO_PROCESSOR: u16 = 6;
    pub const TIMEOUT: u16 = 7;
    pub const CODEC_EXCEPTION: u16 = 9;
    pub const CONNECTION_CLOSED: u16 = 16;
}

/// The version of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// 1.
    V1,
    /// 2. A checksum follows when `ver1` is 2 and bit 0 of `switch` is set, as Java has it.
    V2 {
        /// 1 or 2.
        ver1: u8,
        /// Bit 0 is the checksum.
        switch: u8,
    },
}

/// One frame, without nulls among its headers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// Version.
    pub version: Version,
    /// See [`kind`].
    pub kind: u8,
    /// See [`command`].
    pub command: u16,
    /// Version of the command.
    pub ver2: u8,
    /// Which request it is, or belongs to.
    pub id: u32,
    /// Serialization of the content.
    pub codec: u8,
    /// Of a request, in milliseconds; -1 is none. Of a response -1.
    pub timeout: i32,
    /// Of a response, see [`status`]. Of a request 0.
    pub status: u16,
    /// Class name.
    pub class: String,
    /// In order.
    pub headers: Vec<(String, String)>,
    /// Anything.
    pub content: Vec<u8>,
}

impl Frame {
    /// A request of version 1 without a timeout, with the headers that Java sends. An empty method
    /// leaves its header out.
    #[must_use]
    pub fn request(id: u32, service: &str, method: &str, content: impl Into<Vec<u8>>) -> Frame {
        let request = Frame {
            class: REQUEST_CLASS.to_owned(),
            content: content.into(),
            ..Frame::empty(kind::REQUEST, command::REQUEST, id)
        };
        let request = request.header("service", service);
        match method {
            "" => request,
            _ => request
                .header("sofa_head_target_service", service)
                .header("sofa_head_method_name", method),
        }
    }

    /// The same as a one-way request.
    #[must_use]
    pub fn oneway(id: u32, service: &str, method: &str, content: impl Into<Vec<u8>>) -> Frame {
        Frame { kind: kind::ONEWAY, ..Frame::request(id, service, method, content) }
    }

    /// A heartbeat of version 1.
    #[must_use]
    pub fn heartbeat(id: u32) -> Frame {
        Frame::empty(kind::REQUEST, command::HEARTBEAT, id)
    }

    /// MOSN's go-away.
    #[must_use]
    pub fn goodbye(id: u32) -> Frame {
        Frame { timeout: 0, ..Frame::empty(kind::REQUEST, command::GOODBYE, id) }
    }

    /// A response of status 0 to a request, in its version.
    #[must_use]
    pub fn response(&self, content: impl Into<Vec<u8>>) -> Frame {
        Frame {
            class: RESPONSE_CLASS.to_owned(),
            content: content.into(),
            ..self.failure(status::SUCCESS)
        }
    }

    /// A response of that status to a request, in its version, of a fixed part alone.
    #[must_use]
    pub fn failure(&self, status: u16) -> Frame {
        let empty = Frame::empty(kind::RESPONSE, command::RESPONSE, self.id);
        Frame { version: self.version, codec: self.codec, status, ..empty }
    }

    /// The answer to a heartbeat, in its version.
    #[must_use]
    pub fn heartbeat_reply(&self) -> Frame {
        Frame { command: command::HEARTBEAT, ..self.failure(status::SUCCESS) }
    }

    /// With one header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Frame {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a timeout in milliseconds.
    #[must_use]
    pub fn timeout(self, timeout: i32) -> Frame {
        Frame { timeout, ..self }
    }

    /// In version 2.
    #[must_use]
    pub fn v2(self, ver1: u8, switch: u8) -> Frame {
        Frame { version: Version::V2 { ver1, switch }, ..self }
    }

    /// The value of the only header of that name.
    ///
    /// # Panics
    /// If there are several.
    #[must_use]
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut same = self.headers.iter().filter(|(known, _)| known == name);
        let value = same.next().map(|(_, value)| &**value);
        assert_eq!(same.next(), None, "{name} is there several times: {:?}", self.headers);
        value
    }

    /// Whether it is a heartbeat to be answered.
    #[must_use]
    pub fn is_heartbeat(&self) -> bool {
        self.kind != kind::RESPONSE && self.command == command::HEARTBEAT
    }

    /// Whether it is a request of either kind.
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.kind != kind::RESPONSE && self.command == command::REQUEST
    }

    /// On the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = match self.version {
            Version::V1 => vec![1],
            Version::V2 { ver1, .. } => vec![2, ver1],
        };
        out.push(self.kind);
        out.extend(self.command.to_be_bytes());
        out.push(self.ver2);
        out.extend(self.id.to_be_bytes());
        out.push(self.codec);
        if let Version::V2 { switch, .. } = self.version {
            out.push(switch);
        }
        match self.kind {
            kind::RESPONSE => out.extend(self.status.to_be_bytes()),
            _ => out.extend(self.timeout.to_be_bytes()),
        }
        let block = self.block();
        out.extend(u16::try_from(self.class.len()).unwrap().to_be_bytes());
        out.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
        out.extend(u32::try_from(self.content.len()).unwrap().to_be_bytes());
        out.extend(self.class.as_bytes());
        out.extend(block);
        out.extend(&self.content);
        if self.version.is_checked() {
            out.extend(crc32(&out).to_be_bytes());
        }
        out
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`Fault::Closed`] where a frame could have begun, [`Fault::Malformed`] if it is not exactly as
    /// bolt.md has it, else see [`Fault`].
    pub fn read(wire: &mut Wire) -> Result<Frame, Fault> {
        let mut bytes = wire.exactly_or_closed(3)?;
        let malformed = |what: &str, bytes: &[u8]| {
            Err(Fault::Malformed(format!("{what}: {}", bytes.escape_ascii())))
        };
        let (shift, kind) = match bytes[..] {
            [1, kind, _] => (0, kind),
            [2, 1 | 2, kind] => (1, kind),
            _ => return malformed("version", &bytes),
        };
        let special_len = match kind {
            kind::RESPONSE => 2,
            kind::REQUEST | kind::ONEWAY => 4,
            _ => return malformed("type", &bytes),
        };
        let special_at = 10 + 2 * shift;
        let lengths_at = special_at + special_len;
        bytes.extend(wire.exactly(lengths_at + 8 - bytes.len())?);
        let version = match shift {
            0 => Version::V1,
            _ => Version::V2 { ver1: bytes[1], switch: bytes[11] },
        };
        if let Version::V2 { switch: 0x80.., .. } = version {
            return malformed("switch", &bytes);
        }
        let short = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let long = |at: usize| u32::from(short(at)) << 16 | u32::from(short(at + 2));
        let special = match kind {
            kind::RESPONSE => i32::from(short(special_at)),
            _ => long(special_at).cast_signed(),
        };
        let (class_len, block_len) = (short(lengths_at), short(lengths_at + 2));
        let content_len = long(lengths_at + 4);
        if class_len.max(block_len) > 0x7fff || content_len > 0x7fff_ffff {
            return malformed("lengths", &bytes);
        }
        let mut frame = Frame {
            version,
            kind,
            command: short(2 + shift),
            ver2: bytes[4 + shift],
            id: long(5 + shift),
            codec: bytes[9 + shift],
            timeout: -1,
            status: 0,
            class: String::new(),
            headers: Vec::new(),
            content: Vec::new(),
        };
        match kind {
            kind::RESPONSE => frame.status = u16::try_from(special).unwrap(),
            _ => frame.timeout = special,
        }
        let class = wire.exactly(usize::from(class_len))?;
        let block = wire.exactly(usize::from(block_len))?;
        frame.content = wire.exactly(content_len as usize)?;
        for part in [&class, &block, &frame.content] {
            bytes.extend(part);
        }
        if version.is_checked() && wire.exactly(4)? != crc32(&bytes).to_be_bytes() {
            return malformed("checksum", &bytes);
        }
        match (String::from_utf8(class), headers(&block)) {
            (Ok(class), Some(headers)) => Ok(Frame { class, headers, ..frame }),
            _ => malformed("class or headers", &bytes),
        }
    }

    fn empty(kind: u8, command: u16, id: u32) -> Frame {
        Frame {
            version: Version::V1,
            kind,
            command,
            ver2: 1,
            id,
            codec: 1,
            timeout: -1,
            status: 0,
            class: String::new(),
            headers: Vec::new(),
            content: Vec::new(),
        }
    }

    fn block(&self) -> Vec<u8> {
        let strings = self.headers.iter().flat_map(|(name, value)| [name, value]);
        let with_length = |string: &String| {
            let len = i32::try_from(string.len()).unwrap();
            [&len.to_be_bytes()[..], string.as_bytes()].concat()
        };
        strings.flat_map(with_length).collect()
    }
}

impl Version {
    /// Whether a checksum follows.
    #[must_use]
    pub fn is_checked(self) -> bool {
        matches!(self, Version::V2 { ver1: 2, switch } if switch & 1 == 1)
    }
}

/// The headers of a block, if it is made of whole pairs of text.
fn headers(mut block: &[u8]) -> Option<Vec<(String, String)>> {
    let mut strings = Vec::new();
    while !block.is_empty() {
        let (len, rest) = block.split_first_chunk()?;
        let len = usize::try_from(i32::from_be_bytes(*len)).ok()?;
        strings.push(String::from_utf8(rest.get(..len)?.to_vec()).ok()?);
        block = &rest[len..];
    }
    let pairs = strings.chunks(2).map(|pair| Some((pair[0].clone(), pair.get(1)?.clone())));
    pairs.collect()
}

/// CRC-32/ISO-HDLC, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
    let byte = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum));
    !bytes.iter().fold(u32::MAX, byte)
}

/// A connection to the proxy.
pub type Client = rpc::Client<Frame>;

/// What a server does about a frame.
pub type Reply = rpc::Reply<Frame>;

/// A listening server.
pub type Server = rpc::Server<Frame>;

/// What a server has seen.
pub type Log = rpc::Log<Frame>;

/// A frame that arrived.
pub type Seen = rpc::Seen<Frame>;

impl Message for Frame {
    type Id = u32;

    fn read(wire: &mut Wire) -> Result<Frame, Fault> {
        Frame::read(wire)
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes()
    }

    fn id(&self) -> u32 {
        self.id
    }

    fn is_request(&self) -> bool {
        self.is_request()
    }

    fn is_oneway(&self) -> bool {
        self.kind == kind::ONEWAY
    }

    fn is_response(&self) -> bool {
        (self.kind, self.command) == (kind::RESPONSE, command::RESPONSE)
    }

    fn is_heartbeat(&self) -> bool {
        self.is_heartbeat()
    }

    fn heartbeat(id: u32) -> Frame {
        Frame::heartbeat(id)
    }

    fn heartbeat_reply(&self) -> Frame {
        self.heartbeat_reply()
    }

    /// With the request's content; its headers `echo-*` come back, too.
    fn echo(&self) -> Frame {
        let mut response = self.response(&*self.content);
        let headers = self.headers.iter();
        response.headers.extend(headers.filter(|(name, _)| name.starts_with("echo-")).cloned());
        response
    }

    fn failure(&self, status: u16) -> Frame {
        self.failure(status)
    }
}

const REQUEST_CLASS: &str = "com.alipay.sofa.rpc.core.request.SofaRequest";
const RESPONSE_CLASS: &str = "com.alipay.sofa.rpc.core.response.SofaResponse";

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "com.foo.Hello:1.0";

    #[test]
    fn frames_are_the_vectors() {
        let hex =
            |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let oneway = Frame { codec: 12, ..Frame::oneway(43, SERVICE, "", *b"\xde\xad\xbe\xef") };
        for (frame, expected) in [
            (Frame::heartbeat(1), "01010000010000000101ffffffff0000000000000000"),
            (Frame::heartbeat(1).heartbeat_reply(), "0100000001000000010100000000000000000000"),
            (
                oneway,
                "01020001010000002b0cffffffff002c002000000004636f6d2e616c69706179\
                 2e736f66612e7270632e636f72652e726571756573742e536f66615265717565\
                 7374000000077365727669636500000011636f6d2e666f6f2e48656c6c6f3a31\
                 2e30deadbeef",
            ),
            (Frame::goodbye(44), "01010064010000002c01000000000000000000000000"),
            (Frame::heartbeat(5).v2(1, 0), "020101000001000000050100ffffffff0000000000000000"),
            (
                Frame::heartbeat(42).v2(2, 1).failure(status::NO_PROCESSOR),
                "0202000002010000002a01010006000000000000000040df1e2b",
            ),
        ] {
            assert_eq!(hex(frame.bytes()), expected);
        }
    }

    #[test]
    fn a_client_and_a_server_understand_each_other() {
        let server = Server::echo();
        let mut client = Client::connect(server.address());
        let request = Frame::request(7, SERVICE, "sayHello", "hi").header("echo-a", "1");
        for request in [
            request.clone().timeout(3000),
            request.clone().v2(1, 1),
            request.clone().v2(2, 0),
            request.clone().v2(2, 1),
        ] {
            client.send(&Frame::oneway(8, SERVICE, "", "")).send_bytewise(request.bytes());
            let response = client.responses(1).remove(&7).expect("the id of the request");
            assert_eq!(response, request.response("hi").header("echo-a", "1"));
            assert_eq!(client.round_trip(9), []);
            let frames = server.log().frames;
            assert_eq!(frames[frames.len() - 2].frame, request);
        }
        assert_eq!(server.log().requests().count(), 8);
        client.finish().expect_close();
        server.wait_released();
        assert_eq!(server.log().faults, []);
    }

    #[test]
    fn a_server_answers_when_it_is_told() {
        let server = Server::holding();
        let mut client = Client::connect(server.address());
        client.send_all(&[1, 2, 3].map(|id| Frame::request(id, SERVICE, "m", [id as u8])));
        let held = [1, 2, 3].map(|count| server.nth_request(count));
        server.answer(&held[2], Reply::Echo);
        server.answer(&held[0], Reply::Status(status::TIMEOUT));
        assert_eq!((client.receive().id, client.receive().status), (3, status::TIMEOUT));
        let push = Frame::request(1, "com.foo.Push:1.0", "push", "");
        server.send(0, &push);
        server.send(0, &Frame::goodbye(2));
        assert_eq!([client.receive(), client.receive()], [push, Frame::goodbye(2)]);
        server.answer(&held[1], Reply::Close);
        client.expect_close();
        server.wait_released();
    }

    #[test]
    fn a_server_resets_and_finds_fault() {
        let server = Server::start(|_| Reply::Reset);
        let mut client = Client::connect(server.address());
        client.send(&Frame::heartbeat(1));
        assert_eq!(client.try_receive(), Err(Fault::Reset));
        let mut bytes = Frame::heartbeat(1).v2(2, 1).bytes();
        bytes[9] ^= 1;
        Client::connect(server.address()).send_bytes(bytes);
        let log = server.wait_for("a fault", |log| !log.faults.is_empty());
        assert!(matches!(&log.faults[..], [(1, Fault::Malformed(_))]), "{log:?}");
    }
}
