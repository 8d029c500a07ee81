//! Dubbo 2 frames, built and read in the plainest way, apart from the proxy's codec, and read strictly.
//!
//! Arguments and results are strings, in Hessian 2 or fastjson2; whoever wants others writes the
//! [`Frame::body`] byte by byte.

use crate::http::{Fault, Wire};
use crate::rpc::{self, Message};

/// Bits of the flags; the others are the serialization.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod flag {
    pub const REQUEST: u8 = 0x80;
    pub const TWO_WAY: u8 = 0x40;
    pub const EVENT: u8 = 0x20;
}

/// Serializations.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod serialization {
    pub const HESSIAN2: u8 = 2;
    pub const JAVA: u8 = 3;
    pub const FASTJSON2: u8 = 23;
}

/// Statuses of responses.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod status {
    pub const OK: u8 = 20;
    pub const CLIENT_TIMEOUT: u8 = 30;
    pub const SERVER_TIMEOUT: u8 = 31;
    pub const BAD_REQUEST: u8 = 40;
    pub const SERVICE_NOT_FOUND: u8 = 60;
    pub const SERVICE_ERROR: u8 = 70;
    pub const SERVER_ERROR: u8 = 80;
    pub const THREADPOOL_EXHAUSTED: u8 = 100;
}

/// One frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// See [`flag`] and [`serialization`].
    pub flags: u8,
    /// See [`status`]; 0 in requests.
    pub status: u8,
    /// Which request it is, or belongs to.
    pub id: u64,
    /// Anything.
    pub body: Vec<u8>,
}

/// What a request says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// See [`serialization`].
    pub serialization: u8,
    /// `2.0.2`
    pub protocol: String,
    /// The service, as it stands before the arguments.
    pub path: String,
    /// `None` is null.
    pub version: Option<String>,
    /// The method.
    pub method: String,
    /// Strings.
    pub arguments: Vec<String>,
    /// In order; `None` is null.
    pub attachments: Option<Vec<(String, String)>>,
}

/// What a response says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// See [`status`].
    pub status: u8,
    /// The kind of result, 0 to 5 (dubbo.md section 4), if the status is OK.
    pub flag: Option<u8>,
    /// The result, the message of an exception, or the text of an error.
    pub text: Option<String>,
    /// In order.
    pub attachments: Vec<(String, String)>,
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

impl Frame {
    /// A heartbeat in Hessian 2.
    #[must_use]
    pub fn heartbeat(id: u64) -> Frame {
        Frame::event(flag::TWO_WAY, id, *b"N")
    }

    /// The server is about to stop.
    #[must_use]
    pub fn read_only(id: u64) -> Frame {
        Frame::event(0, id, *b"\x01R")
    }

    /// It is not, after all.
    #[must_use]
    pub fn writeable(id: u64) -> Frame {
        Frame::event(0, id, *b"\x01W")
    }

    /// The answer to a heartbeat, in its serialization and with its body.
    #[must_use]
    pub fn heartbeat_reply(&self) -> Frame {
        let flags = flag::EVENT | self.serialization();
        Frame { flags, status: status::OK, ..self.clone() }
    }

    /// A response to this request: a string, without attachments.
    #[must_use]
    pub fn response(&self, text: &str) -> Frame {
        let mut values = Values::new(self.serialization());
        values.put_flag(1);
        values.put(Some(text));
        self.with_result(values)
    }

    /// A response to this request: a string, with attachments.
    #[must_use]
    pub fn response_with(&self, text: &str, attachments: &[(String, String)]) -> Frame {
        let mut values = Values::new(self.serialization());
        values.put_flag(4);
        values.put(Some(text));
        values.put_map(Some(attachments));
        self.with_result(values)
    }

    /// A response to this request: an exception of the application, in Hessian 2.
    #[must_use]
    pub fn exception(&self, message: &str) -> Frame {
        let mut values = Values::new(serialization::HESSIAN2);
        values.put_flag(0);
        values.out.push(b'C');
        values.put(Some(EXCEPTION));
        values.out.push(0x91);
        values.put(Some(MESSAGE));
        values.out.push(0x60);
        values.put(Some(message));
        self.with_result(values)
    }

    /// A response to this request: an error of that status.
    #[must_use]
    pub fn error(&self, status: u8, text: &str) -> Frame {
        let mut values = Values::new(self.serialization());
        values.put(Some(text));
        Frame { status, ..self.with_result(values) }
    }

    /// See [`serialization`].
    #[must_use]
    pub fn serialization(&self) -> u8 {
        self.flags & 0x1f
    }

    /// Whether some bits of the flags are all set.
    #[must_use]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// What this request says.
    ///
    /// # Panics
    /// If it is none, or not one of strings.
    #[must_use]
    #[track_caller]
    pub fn call(&self) -> Call {
        let call = Call::read(self);
        call.unwrap_or_else(|| panic!("no call of strings: {}", self.body.escape_ascii()))
    }

    /// What this response says.
    ///
    /// # Panics
    /// If it is none, or not one of a string.
    #[must_use]
    #[track_caller]
    pub fn answer(&self) -> Answer {
        let answer = Answer::read(self);
        answer.unwrap_or_else(|| panic!("no answer of a string: {}", self.body.escape_ascii()))
    }

    /// On the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let len = i32::try_from(self.body.len()).unwrap().to_be_bytes();
        let head = [0xda, 0xbb, self.flags, self.status];
        [&head[..], &self.id.to_be_bytes(), &len, &self.body].concat()
    }

    fn event(flags: u8, id: u64, body: impl Into<Vec<u8>>) -> Frame {
        let flags = flag::REQUEST | flag::EVENT | flags | serialization::HESSIAN2;
        Frame { flags, status: 0, id, body: body.into() }
    }

    fn with_result(&self, values: Values) -> Frame {
        let (flags, status) = (values.serialization, status::OK);
        Frame { flags, status, id: self.id, body: values.out }
    }
}

impl Message for Frame {
    type Id = u64;

    fn read(wire: &mut Wire) -> Result<Frame, Fault> {
        let head = wire.exactly_or_closed(16)?;
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let (flags, status) = (head[2], head[3]);
        let is_request = flags & flag::REQUEST != 0;
        let is_odd = if is_request { status != 0 } else { flags & flag::TWO_WAY != 0 };
        if head[..2] != *b"\xda\xbb" || number(12) > 0x7fff_ffff || is_odd {
            return Err(Fault::Malformed(format!("header {}", head.escape_ascii())));
        }
        let id = u64::from(number(4)) << 32 | u64::from(number(8));
        Ok(Frame { flags, status, id, body: wire.exactly(number(12) as usize)? })
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes()
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn is_request(&self) -> bool {
        self.has(flag::REQUEST) && !self.has(flag::EVENT)
    }

    fn is_oneway(&self) -> bool {
        self.is_request() && !self.has(flag::TWO_WAY)
    }

    fn is_response(&self) -> bool {
        !self.has(flag::REQUEST) && !self.has(flag::EVENT)
    }

    fn is_heartbeat(&self) -> bool {
        self.has(flag::REQUEST | flag::EVENT | flag::TWO_WAY)
    }

    fn heartbeat(id: u64) -> Frame {
        Frame::heartbeat(id)
    }

    fn heartbeat_reply(&self) -> Frame {
        self.heartbeat_reply()
    }

    /// The first argument, and the attachments `echo-*`. A request that is no call of strings gets its
    /// own body back.
    fn echo(&self) -> Frame {
        match Call::read(self) {
            Some(Call { arguments, attachments, .. }) if !arguments.is_empty() => {
                let mut attachments = attachments.unwrap_or_default();
                attachments.retain(|(name, _)| name.starts_with("echo-"));
                self.response_with(&arguments[0], &attachments)
            }
            _ => Frame { flags: self.serialization(), status: status::OK, ..self.clone() },
        }
    }

    fn failure(&self, status: u16) -> Frame {
        self.error(u8::try_from(status).unwrap(), "failure")
    }
}

impl Call {
    /// In Hessian 2, without version, group and arguments; with the attachments that Java always
    /// sends.
    #[must_use]
    pub fn new(service: &str, method: &str) -> Call {
        let call = Call {
            serialization: serialization::HESSIAN2,
            protocol: "2.0.2".to_owned(),
            path: service.to_owned(),
            version: Some("0.0.0".to_owned()),
            method: method.to_owned(),
            arguments: Vec::new(),
            attachments: None,
        };
        call.attachment("path", service).attachment("interface", service)
    }

    /// In fastjson2.
    #[must_use]
    pub fn fastjson2(self) -> Call {
        Call { serialization: serialization::FASTJSON2, ..self }
    }

    /// Of that version.
    #[must_use]
    pub fn version(self, version: &str) -> Call {
        let call = self.attachment("version", version);
        Call { version: Some(version.to_owned()), ..call }
    }

    /// Of that group.
    #[must_use]
    pub fn group(self, group: &str) -> Call {
        self.attachment("group", group)
    }

    /// With that timeout in milliseconds.
    #[must_use]
    pub fn timeout(self, timeout: u32) -> Call {
        self.attachment("timeout", &timeout.to_string())
    }

    /// With one attachment more.
    #[must_use]
    pub fn attachment(mut self, name: &str, value: &str) -> Call {
        let attachments = self.attachments.get_or_insert_default();
        attachments.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With one argument more.
    #[must_use]
    pub fn argument(mut self, text: &str) -> Call {
        self.arguments.push(text.to_owned());
        self
    }

    /// The value of the only attachment of that name.
    ///
    /// # Panics
    /// If there are several.
    #[must_use]
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut same = self.attachments.iter().flatten().filter(|(known, _)| known == name);
        let value = same.next().map(|(_, value)| &**value);
        assert_eq!(same.next(), None, "{name} is there several times: {:?}", self.attachments);
        value
    }

    /// As a request that is answered.
    #[must_use]
    pub fn request(&self, id: u64) -> Frame {
        let mut values = Values::new(self.serialization);
        values.put(Some(&self.protocol));
        values.put(Some(&self.path));
        values.put(self.version.as_deref());
        values.put(Some(&self.method));
        values.put(Some(&STRING.repeat(self.arguments.len())));
        self.arguments.iter().for_each(|argument| values.put(Some(argument)));
        values.put_map(self.attachments.as_deref());
        let flags = flag::REQUEST | flag::TWO_WAY | self.serialization;
        Frame { flags, status: 0, id, body: values.out }
    }

    /// As a request that is not.
    #[must_use]
    pub fn oneway(&self, id: u64) -> Frame {
        Frame { flags: flag::REQUEST | self.serialization, ..self.request(id) }
    }

    fn read(frame: &Frame) -> Option<Call> {
        let mut values = Reader::new(frame)?;
        let mut name = || values.text();
        let (protocol, path, version) = (name()??, name()??, name()?);
        let (method, descriptor) = (name()??, name()??);
        let count = descriptor.len() / STRING.len();
        if descriptor != STRING.repeat(count) {
            return None;
        }
        let arguments = (0..count).map(|_| name()?).collect::<Option<_>>()?;
        let attachments = values.map()?;
        let serialization = frame.serialization();
        let call = Call { serialization, protocol, path, version, method, arguments, attachments };
        values.rest.is_empty().then_some(call)
    }
}

impl Answer {
    fn read(frame: &Frame) -> Option<Answer> {
        let mut values = Reader::new(frame)?;
        let status = frame.status;
        let mut answer = Answer { status, flag: None, text: None, attachments: Vec::new() };
        if status != status::OK {
            answer.text = values.text()?;
            return values.rest.is_empty().then_some(answer);
        }
        let flag = values.flag()?;
        answer.flag = Some(flag);
        answer.text = match flag {
            0 | 3 => Some(values.exception()?),
            1 | 4 => values.text()?,
            _ => None,
        };
        if flag > 2 {
            answer.attachments = values.map()?.unwrap_or_default();
        }
        values.rest.is_empty().then_some(answer)
    }
}

/// Values being written.
struct Values {
    serialization: u8,
    out: Vec<u8>,
}

impl Values {
    fn new(serialization: u8) -> Values {
        let known = [serialization::HESSIAN2, serialization::FASTJSON2].contains(&serialization);
        assert!(known, "serialization {serialization} is written by nobody here");
        Values { serialization, out: Vec::new() }
    }

    fn put(&mut self, text: Option<&str>) {
        if self.serialization == serialization::HESSIAN2 {
            self.out.extend(text.map_or_else(|| b"N".to_vec(), hessian2));
        } else {
            self.put_value(&text.map_or_else(|| b"\xaf".to_vec(), jsonb));
        }
    }

    fn put_map(&mut self, entries: Option<&[(String, String)]>) {
        let texts = entries.into_iter().flatten().flat_map(|(name, value)| [name, value]);
        if self.serialization == serialization::HESSIAN2 {
            let Some(_) = entries else { return self.out.push(b'N') };
            self.out.push(b'H');
            self.out.extend(texts.flat_map(|text| hessian2(text)));
            self.out.push(b'Z');
        } else {
            let Some(_) = entries else { return self.put_value(b"\xaf") };
            let texts: Vec<u8> = texts.flat_map(|text| jsonb(text)).collect();
            self.put_value(&[b"\xa6", &texts[..], b"\xa5"].concat());
        }
    }

    fn put_flag(&mut self, flag: u8) {
        if self.serialization == serialization::HESSIAN2 {
            self.out.push(0x90 + flag);
        } else {
            self.put_value(&[0xbd, flag]);
        }
    }

    fn put_value(&mut self, value: &[u8]) {
        self.out.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        self.out.extend(value);
    }
}

/// Of at most 0xffff characters, none beyond the basic plane.
fn hessian2(text: &str) -> Vec<u8> {
    let count = u16::try_from(text.chars().count()).unwrap().to_be_bytes();
    let head = match count {
        [0, short @ 0..=31] => vec![short],
        [high @ 0..=3, low] => vec![0x30 + high, low],
        [high, low] => vec![b'S', high, low],
    };
    [&head, text.as_bytes()].concat()
}

fn jsonb(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap();
    let head = match u8::try_from(len) {
        Ok(short @ 0..=47) if text.is_ascii() => vec![0x49 + short],
        _ => [&[0x7a, 0x48][..], &len.to_be_bytes()].concat(),
    };
    [&head, text.as_bytes()].concat()
}

/// Values being read; nothing when they are not as they should be.
struct Reader<'a> {
    is_hessian2: bool,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(frame: &'a Frame) -> Option<Reader<'a>> {
        let is_hessian2 = match frame.serialization() {
            serialization::HESSIAN2 => true,
            serialization::FASTJSON2 => false,
            _ => return None,
        };
        Some(Reader { is_hessian2, rest: &frame.body })
    }

    /// A string or null.
    fn text(&mut self) -> Option<Option<String>> {
        if self.is_hessian2 {
            return self.hessian2();
        }
        let mut value = self.value()?;
        let text = value.jsonb()?;
        value.rest.is_empty().then_some(text)
    }

    fn flag(&mut self) -> Option<u8> {
        if self.is_hessian2 {
            return self.byte()?.checked_sub(0x90).filter(|flag| *flag <= 5);
        }
        match self.value()?.rest {
            [0xbd, flag @ 0..=5] | [flag @ 0..=5] => Some(*flag),
            _ => None,
        }
    }

    /// The message of an exception, as [`Frame::exception`] writes it.
    fn exception(&mut self) -> Option<String> {
        self.expect(b'C')?;
        self.text()??;
        self.expect(0x91)?;
        self.text()?.filter(|field| field == MESSAGE)?;
        self.expect(0x60)?;
        self.text()?
    }

    /// A map of strings, or null.
    fn map(&mut self) -> Option<Option<Vec<(String, String)>>> {
        if self.is_hessian2 {
            return match self.byte()? {
                b'N' => Some(None),
                b'H' => self.entries(b'Z').map(Some),
                _ => None,
            };
        }
        let mut value = self.value()?;
        let map = match value.byte()? {
            0xaf => None,
            0xa6 => Some(value.entries(0xa5)?),
            _ => return None,
        };
        value.rest.is_empty().then_some(map)
    }

    fn entries(&mut self, end: u8) -> Option<Vec<(String, String)>> {
        let mut entries = Vec::new();
        while *self.rest.first()? != end {
            let mut text = || if self.is_hessian2 { self.hessian2()? } else { self.jsonb()? };
            entries.push((text()?, text()?));
        }
        self.byte()?;
        Some(entries)
    }

    fn hessian2(&mut self) -> Option<Option<String>> {
        let mut text = String::new();
        loop {
            let tag = self.byte()?;
            let count = match tag {
                b'N' if text.is_empty() => return Some(None),
                0..=31 => usize::from(tag),
                0x30..=0x33 => usize::from(tag - 0x30) << 8 | usize::from(self.byte()?),
                b'R' | b'S' => usize::from(self.byte()?) << 8 | usize::from(self.byte()?),
                _ => return None,
            };
            // Nobody writes characters beyond the basic plane to us.
            let valid = match std::str::from_utf8(self.rest) {
                Ok(valid) => valid,
                Err(error) => std::str::from_utf8(&self.rest[..error.valid_up_to()]).ok()?,
            };
            let end = valid.char_indices().map(|(at, _)| at).chain([valid.len()]).nth(count)?;
            text.push_str(&valid[..end]);
            self.rest = &self.rest[end..];
            if tag != b'R' {
                return Some(Some(text));
            }
        }
    }

    fn jsonb(&mut self) -> Option<Option<String>> {
        let len = match self.byte()? {
            0xaf => return Some(None),
            tag @ 0x49..=0x78 => usize::from(tag - 0x49),
            0x79 | 0x7a => match self.byte()? {
                len @ 0..=0x2f => usize::from(len),
                tag @ 0x38..=0x3f => usize::from(tag - 0x38) << 8 | usize::from(self.byte()?),
                0x48 => u32::from_be_bytes(self.array()?) as usize,
                _ => return None,
            },
            _ => return None,
        };
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        String::from_utf8(text.to_vec()).ok().map(Some)
    }

    /// The inside of a value that has its length before it.
    fn value(&mut self) -> Option<Reader<'a>> {
        let len = u32::from_be_bytes(self.array()?) as usize;
        let (value, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(Reader { is_hessian2: false, rest: value })
    }

    fn expect(&mut self, byte: u8) -> Option<u8> {
        self.byte().filter(|found| *found == byte)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        let (array, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*array)
    }
}

const STRING: &str = "Ljava/lang/String;";
const EXCEPTION: &str = "java.lang.RuntimeException";
const MESSAGE: &str = "detailMessage";

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "com.foo.Hello";

    fn hello() -> Call {
        let call = Call::new(SERVICE, "sayHello").version("1.0.0").group("g1").timeout(3000);
        call.argument("hi")
    }

    #[test]
    fn frames_are_the_vectors() {
        let hex =
            |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let attachments = Some(vec![("group".to_owned(), "g1".to_owned())]);
        let fastjson2 = Call { attachments, ..hello().fastjson2() };
        let dubbo = [("dubbo".to_owned(), "2.0.2".to_owned())];
        for (frame, expected) in [
            (
                hello().request(1),
                "dabbc20000000000000000010000008a05322e302e320d636f6d2e666f6f2e48\
                 656c6c6f05312e302e300873617948656c6c6f124c6a6176612f6c616e672f53\
                 7472696e673b0268694804706174680d636f6d2e666f6f2e48656c6c6f09696e\
                 746572666163650d636f6d2e666f6f2e48656c6c6f0776657273696f6e05312e\
                 302e300567726f75700267310774696d656f757404333030305a",
            ),
            (
                fastjson2.request(5),
                "dabbd700000000000000000500000060000000064e322e302e320000000e5663\
                 6f6d2e666f6f2e48656c6c6f000000064e312e302e3000000009517361794865\
                 6c6c6f000000135b4c6a6176612f6c616e672f537472696e673b000000034b68\
                 690000000ba64e67726f75704b6731a5",
            ),
            (
                hello().request(1).response_with("hello", &dubbo),
                "dabb0214000000000000000100000015940568656c6c6f4805647562626f0532\
                 2e302e325a",
            ),
            (
                hello().request(1).response("hello"),
                "dabb0214000000000000000100000007910568656c6c6f",
            ),
            (
                hello().request(1).error(60, "no provider"),
                "dabb023c00000000000000010000000c0b6e6f2070726f7669646572",
            ),
            (Frame::heartbeat(7), "dabbe2000000000000000007000000014e"),
            (Frame::heartbeat(7).heartbeat_reply(), "dabb22140000000000000007000000014e"),
            (Frame::read_only(9), "dabba2000000000000000009000000020152"),
        ] {
            assert_eq!(hex(frame.bytes()), expected);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let long = "x".repeat(60_000);
        for text in ["", "hi", "中文 é", &"a".repeat(48), &"é".repeat(300), &long] {
            for call in [hello(), hello().fastjson2()] {
                let call = call.argument(text).attachment("echo-a", text);
                assert_eq!(call.request(1).call(), call);
                let null = Call { attachments: None, version: None, ..call.clone() };
                assert_eq!(null.oneway(1).call(), null);
                let answer = call.request(1).response_with(text, &[]).answer();
                let expected = Answer {
                    status: status::OK,
                    flag: Some(4),
                    text: Some(text.to_owned()),
                    attachments: Vec::new(),
                };
                assert_eq!(answer, expected);
            }
            let answer = hello().request(1).exception(text).answer();
            assert_eq!((answer.flag, answer.text.as_deref()), (Some(0), Some(text)));
        }
    }

    #[test]
    fn a_client_and_a_server_understand_each_other() {
        let server = Server::echo();
        let mut client = Client::connect(server.address());
        for call in [hello(), hello().fastjson2()] {
            let request = call.clone().attachment("echo-a", "1").request(u64::MAX);
            client.send(&call.oneway(8)).send_bytewise(request.bytes());
            let response = client.responses(1).remove(&u64::MAX).expect("the id of the request");
            assert_eq!(response.serialization(), request.serialization());
            let answer = response.answer();
            assert_eq!(answer.text.as_deref(), Some("hi"));
            assert_eq!(answer.attachments, [("echo-a".to_owned(), "1".to_owned())]);
            assert_eq!(client.round_trip(9), []);
        }
        let java = Frame { flags: 0xc3, ..hello().request(3) };
        assert_eq!(client.call(&java).body, java.body);
        assert_eq!(server.log().requests().count(), 5);
        client.finish().expect_close();
        server.wait_released();
        assert_eq!(server.log().faults, []);
    }

    #[test]
    fn a_server_answers_when_it_is_told() {
        let server = Server::holding();
        let mut client = Client::connect(server.address());
        client.send_all(&[1, 2].map(|id| hello().request(id)));
        let held = [1, 2].map(|count| server.nth_request(count));
        server.answer(&held[1], Reply::Status(u16::from(status::SERVER_TIMEOUT)));
        server.answer(&held[0], Reply::Frames(vec![held[0].frame.exception("no")]));
        assert_eq!(client.receive().answer().status, status::SERVER_TIMEOUT);
        assert_eq!(client.receive().answer().text.as_deref(), Some("no"));
        server.send(0, &Frame::read_only(3));
        assert_eq!(client.receive(), Frame::read_only(3));
        server.close(0);
        client.expect_close();
    }

    #[test]
    fn a_server_finds_fault() {
        let server = Server::echo();
        Client::connect(server.address()).send_bytes([0; 16]);
        let log = server.wait_for("a fault", |log| !log.faults.is_empty());
        assert!(matches!(&log.faults[..], [(0, Fault::Malformed(_))]), "{log:?}");
    }
}
