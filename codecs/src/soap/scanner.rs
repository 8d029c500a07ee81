//! Finding the operation: the first element inside the body of a SOAP envelope.
//!
//! ```text
//! <?xml ...?>                       passed by, once its encoding was looked at
//! <s:Envelope xmlns:s="...">        the root, and nothing else
//!   <s:Header> ... </s:Header>      passed by, whatever is in it
//!   <s:Body>
//!     <m:placeOrder ...             found
//! ```
//!
//! A scanner takes bytes as they come and keeps none but those of the name it is in. It is no parser of
//! XML and does not check all that one would; but what it accepts is read by it as by them. Entities
//! can't be declared without a DOCTYPE, which SOAP forbids and the scanner refuses, so that tags are
//! always what they seem. Invariant: every byte is looked at once.

use arrayvec::ArrayVec;
use memchr::{memchr, memchr2};

use super::request::contains_ascii;

/// Looks for the operation in the bytes of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationScanner {
    state: State,
    /// Bytes that may still be looked at.
    left: usize,
    depth_max: u32,
    /// Elements that are open.
    depth: u32,
    /// The element under the root that is open is the SOAP body.
    in_body: bool,
    /// The declaration may still come.
    at_start: bool,
    /// The name of the tag that is being read, or what a processing instruction says; then the
    /// operation.
    text: ArrayVec<u8, TEXT_BYTES_MAX>,
    /// What the envelope's name begins with, its colon included.
    prefix: ArrayVec<u8, PREFIX_BYTES_MAX>,
}

/// What a scanner has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// More bytes are needed.
    More,
    /// The operation is known.
    Found,
    /// There is none, or none that can be told.
    Nothing(NoOperation),
}

/// Why there is no operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoOperation {
    /// It is not within the bytes that may be looked at.
    #[error("the operation is not within the bytes that are inspected")]
    Limit,
    /// Elements nest too deep.
    #[error("elements nest too deep")]
    Depth,
    /// The body is not written in characters that contain ASCII.
    #[error("the encoding is not one that is read")]
    Encoding,
    /// SOAP has no document type (SOAP 1.1 section 3, SOAP 1.2 part 1 section 5).
    #[error("a document type declaration")]
    Doctype,
    /// It is no XML.
    #[error("malformed XML")]
    Malformed,
    /// The root is not an envelope.
    #[error("not a SOAP envelope")]
    NotSoap,
    /// There is nothing in the SOAP body, or no SOAP body.
    #[error("the SOAP body is empty")]
    Empty,
}

/// Where in the text the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the beginning, behind that many bytes of a mark of the byte order.
    Start(u8),
    /// Between tags.
    Content,
    /// Behind `<`.
    Tag,
    /// In the name of an element that begins.
    OpenName,
    /// Behind it, or behind an attribute: white space must come before the next one.
    Open,
    /// Where an attribute may begin.
    OpenGap,
    AttributeName,
    /// Behind an attribute's name.
    AttributeGap,
    /// Behind `=`.
    AttributeEquals,
    /// In a value between quotes of this kind.
    AttributeValue(u8),
    /// Behind the `/` of an element without content.
    OpenSlash,
    /// Behind `</`.
    CloseStart,
    CloseName,
    /// Behind the name of an element that ends.
    CloseGap,
    /// In a processing instruction.
    Instruction,
    InstructionEnd,
    /// Behind `<!`.
    Bang,
    /// Behind `<!-`.
    CommentStart,
    Comment,
    /// Behind `-` in a comment.
    CommentDash,
    /// Behind `--`.
    CommentEnd,
    /// In `[CDATA[`, behind that many bytes of it.
    DataStart(u8),
    Data,
    /// Behind `]` in character data.
    DataBracket,
    /// Behind `]]`, or more of them.
    DataEnd,
    Over(Scan),
}

impl OperationScanner {
    /// A scanner that looks at `bytes_max` bytes, and at elements of which no more than `depth_max` are
    /// open at a time.
    #[must_use]
    pub fn new(bytes_max: usize, depth_max: u32) -> Self {
        Self {
            state: State::Start(0),
            left: bytes_max,
            depth_max,
            depth: 0,
            in_body: false,
            at_start: true,
            text: ArrayVec::new(),
            prefix: ArrayVec::new(),
        }
    }

    /// Takes the next bytes of the body. Once it has come to something, it stays with that.
    pub fn push(&mut self, bytes: &[u8]) -> Scan {
        let allowed = &bytes[..bytes.len().min(self.left)];
        let mut rest = allowed;
        while let Some(byte) = rest.first()
            && !matches!(self.state, State::Over(_))
        {
            let skipped = self.skip(rest);
            if skipped == 0 {
                self.state = self.step(*byte).unwrap_or_else(|why| State::Over(Scan::Nothing(why)));
            }
            rest = &rest[skipped.max(1)..];
        }
        self.left -= allowed.len() - rest.len();
        if self.left == 0 && !matches!(self.state, State::Over(_)) {
            self.state = State::Over(Scan::Nothing(NoOperation::Limit));
        }
        match self.state {
            State::Over(scan) => scan,
            _ => Scan::More,
        }
    }

    /// The body is complete.
    pub fn end(&mut self) -> Scan {
        match self.state {
            State::Over(scan) => scan,
            _ => {
                let scan = Scan::Nothing(NoOperation::Malformed);
                self.state = State::Over(scan);
                scan
            }
        }
    }

    /// The operation, once it is found: its name without a prefix. 1 to 256 bytes.
    #[must_use]
    pub fn operation(&self) -> Option<&[u8]> {
        let (_, name) = split_name(&self.text)?;
        (self.state == State::Over(Scan::Found)).then_some(name)
    }

    /// How many bytes from the front change nothing.
    fn skip(&self, bytes: &[u8]) -> usize {
        let found = match self.state {
            State::Content if self.depth > 0 => memchr(b'<', bytes),
            State::Comment => memchr(b'-', bytes),
            State::Data => memchr(b']', bytes),
            State::AttributeValue(quote) => memchr2(quote, b'<', bytes),
            _ => return 0,
        };
        found.unwrap_or(bytes.len())
    }

    fn step(&mut self, byte: u8) -> Result<State, NoOperation> {
        let is_space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        Ok(match (self.state, byte) {
            (State::Start(seen), _) => return self.start(seen, byte),
            (State::Content, b'<') => State::Tag,
            // Text has its place inside the root only.
            (State::Content, _) if self.depth > 0 || is_space => {
                self.at_start = false;
                State::Content
            }
            (State::Tag, b'?') => {
                self.text.clear();
                State::Instruction
            }
            (State::Tag, b'!') => {
                self.at_start = false;
                State::Bang
            }
            (State::Tag, b'/') => State::CloseStart,
            (State::Tag, _) => {
                self.at_start = false;
                self.text.clear();
                self.name(byte)?
            }
            (State::OpenName, b'>' | b'/') => self.open(byte)?,
            (State::OpenName, _) if is_space => self.open(byte)?,
            (State::OpenName, _) => self.name(byte)?,
            (State::Open | State::OpenGap, b'>') => State::Content,
            (State::Open | State::OpenGap, b'/') => State::OpenSlash,
            (State::Open | State::OpenGap, _) if is_space => State::OpenGap,
            (State::OpenGap | State::AttributeName, _) if is_name_byte(byte) => {
                State::AttributeName
            }
            (State::AttributeName | State::AttributeGap, b'=') => State::AttributeEquals,
            (State::AttributeName | State::AttributeGap, _) if is_space => State::AttributeGap,
            (State::AttributeEquals, b'"' | b'\'') => State::AttributeValue(byte),
            (State::AttributeEquals, _) if is_space => State::AttributeEquals,
            (State::AttributeValue(quote), _) if byte == quote => State::Open,
            (State::AttributeValue(quote), _) if byte != b'<' => State::AttributeValue(quote),
            (State::OpenSlash, b'>') => self.close()?,
            (State::CloseStart | State::CloseName, _) if is_name_byte(byte) => State::CloseName,
            (State::CloseName | State::CloseGap, b'>') => self.close()?,
            (State::CloseName | State::CloseGap, _) if is_space => State::CloseGap,
            (State::Instruction, b'?') => State::InstructionEnd,
            (State::Instruction, _) => {
                // More of it than there is room for is of no use.
                let _full = self.text.try_push(byte);
                State::Instruction
            }
            (State::InstructionEnd, b'>') => self.instruction()?,
            (State::InstructionEnd, b'?') => State::InstructionEnd,
            (State::InstructionEnd, _) => State::Instruction,
            (State::Bang, b'-') => State::CommentStart,
            (State::Bang, b'[') if self.depth > 0 => State::DataStart(1),
            (State::Bang, b'D') => return Err(NoOperation::Doctype),
            (State::CommentStart, b'-') => State::Comment,
            (State::Comment, b'-') => State::CommentDash,
            (State::Comment, _) => State::Comment,
            (State::CommentDash, b'-') => State::CommentEnd,
            (State::CommentDash, _) => State::Comment,
            (State::CommentEnd, b'>') => State::Content,
            (State::DataStart(seen), _) if CDATA.get(usize::from(seen)) == Some(&byte) => {
                let seen = seen + 1;
                if usize::from(seen) == CDATA.len() { State::Data } else { State::DataStart(seen) }
            }
            (State::Data, b']') => State::DataBracket,
            (State::Data, _) => State::Data,
            (State::DataBracket, b']') => State::DataEnd,
            (State::DataEnd, b']') => State::DataEnd,
            (State::DataEnd, b'>') => State::Content,
            (State::DataBracket | State::DataEnd, _) => State::Data,
            (over @ State::Over(_), _) => over,
            _ => return Err(NoOperation::Malformed),
        })
    }

    /// The first bytes: a mark of the byte order says which encoding it is, and so does a zero.
    fn start(&mut self, seen: u8, byte: u8) -> Result<State, NoOperation> {
        match (seen, byte) {
            (0, 0xfe | 0xff | 0) => Err(NoOperation::Encoding),
            (0, 0xef) => Ok(State::Start(1)),
            (1, 0xbb) => Ok(State::Start(2)),
            (2, 0xbf) => Ok(State::Content),
            (0, _) => {
                self.state = State::Content;
                self.step(byte)
            }
            _ => Err(NoOperation::Malformed),
        }
    }

    /// The next byte of an element's name.
    fn name(&mut self, byte: u8) -> Result<State, NoOperation> {
        match byte {
            // Two bytes for a character: UTF-16 without a mark.
            0 => Err(NoOperation::Encoding),
            _ if is_name_byte(byte) => {
                self.text.try_push(byte).map_err(|_| NoOperation::Malformed)?;
                Ok(State::OpenName)
            }
            _ => Err(NoOperation::Malformed),
        }
    }

    /// The name of an element is complete.
    fn open(&mut self, byte: u8) -> Result<State, NoOperation> {
        let (prefix, name) = split_name(&self.text).ok_or(NoOperation::Malformed)?;
        match self.depth {
            0 if name != ENVELOPE => return Err(NoOperation::NotSoap),
            0 => {
                let room = self.prefix.try_extend_from_slice(prefix);
                room.map_err(|_| NoOperation::NotSoap)?;
            }
            // A body or header of another namespace is neither. Namespaces are told apart by their
            // prefixes here: one that has two of them is taken for two, which nobody writes.
            1 if prefix != &self.prefix[..] => return Err(NoOperation::NotSoap),
            1 if name == BODY => self.in_body = true,
            1 if name != HEADER => return Err(NoOperation::NotSoap),
            2 if self.in_body => return Ok(State::Over(Scan::Found)),
            _ => {}
        }
        self.depth += 1;
        if self.depth > self.depth_max {
            return Err(NoOperation::Depth);
        }
        Ok(match byte {
            b'>' => State::Content,
            b'/' => State::OpenSlash,
            _ => State::OpenGap,
        })
    }

    /// An element ends.
    fn close(&mut self) -> Result<State, NoOperation> {
        match self.depth {
            0 => Err(NoOperation::Malformed),
            // Behind the body, and behind the root, there is nothing of interest.
            1 => Err(NoOperation::Empty),
            2 if self.in_body => Err(NoOperation::Empty),
            _ => {
                self.depth -= 1;
                Ok(State::Content)
            }
        }
    }

    /// A processing instruction is over; the first may be the declaration, which tells the encoding.
    fn instruction(&mut self) -> Result<State, NoOperation> {
        let is_first = std::mem::take(&mut self.at_start);
        let is_readable = !self.text.is_full() && encoding(&self.text).is_none_or(contains_ascii);
        if is_first && self.text.starts_with(b"xml") && !is_readable {
            return Err(NoOperation::Encoding);
        }
        Ok(State::Content)
    }
}

/// The encoding that a declaration names.
fn encoding(declaration: &[u8]) -> Option<&[u8]> {
    let at = memchr::memmem::find(declaration, b"encoding")?;
    let rest = declaration[at + b"encoding".len()..].trim_ascii_start().strip_prefix(b"=")?;
    let (quote, rest) = rest.trim_ascii_start().split_first()?;
    rest.iter().position(|byte| byte == quote).map(|end| &rest[..end])
}

/// A name's prefix with its colon, and the rest, of which there must be some.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let (prefix, local) = name.split_at(memchr(b':', name).map_or(0, |colon| colon + 1));
    let is_name = prefix != b":" && !local.is_empty() && !local.contains(&b':');
    is_name.then_some((prefix, local))
}

/// What a name may hold: letters of all kinds, and the few signs of XML 1.0 section 2.3. Which of the
/// characters beyond ASCII are letters does not matter here.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-' | b'.') || byte >= 0x80
}

/// Names are shorter; the longest declaration is, too.
const TEXT_BYTES_MAX: usize = 256;
const PREFIX_BYTES_MAX: usize = 64;

const ENVELOPE: &[u8] = b"Envelope";
const HEADER: &[u8] = b"Header";
const BODY: &[u8] = b"Body";
const CDATA: &[u8] = b"[CDATA[";
