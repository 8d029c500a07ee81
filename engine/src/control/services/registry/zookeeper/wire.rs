//! ZooKeeper's messages, as far as the Dubbo layout needs them (registries.md section 10): plain bytes
//! in and out.
//!
//! Invariant: every length and count from the wire is checked against the bytes that are there before
//! anything is allocated for it.

use thiserror::Error;

/// A message is longer than this, or claims to be: the stream is lost. Servers cut at 1 MiB by default
/// (`jute.maxbuffer`); one that was told to send more is understood.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Bytes of the length before each message.
pub const LENGTH_BYTES: usize = 4;

/// A message that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// It ends in the middle of something.
    #[error("a message is too short")]
    Short,
    /// A length or count below what there can be, or above what there is.
    #[error("a message has an impossible length")]
    Length,
    /// A path or name that is no UTF-8.
    #[error("a message has a text that is none")]
    Text,
}

/// A request, without its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make a node without data.
    Create {
        /// Its path.
        path: String,
        /// It goes with our session.
        ephemeral: bool,
        /// Who may do what with it.
        acl: Acl,
        /// What is in it.
        data: &'static [u8],
    },
    /// Remove a node, whatever its version.
    Delete {
        /// Its path.
        path: String,
    },
    /// Remove a node and make it anew as our session's, both or neither.
    Replace {
        /// Its path.
        path: String,
        /// Who may do what with it.
        acl: Acl,
        /// What is in it.
        data: &'static [u8],
    },
    /// Ask whether a node is there.
    Exists {
        /// Its path.
        path: String,
    },
    /// List a node's children, and watch for the next change.
    Children {
        /// Its path.
        path: String,
    },
    /// Show that we are there.
    Ping,
    /// Prove who we are.
    Auth {
        /// `user:password`.
        digest: String,
    },
    /// End the session, and all ephemeral nodes with it.
    Close,
}

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acl {
    /// Everybody everything.
    Open,
    /// Whoever we proved to be, everything.
    Creator,
}

/// What a session is begun, or taken up again, with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// 0 for a new one.
    pub id: i64,
    /// What the server gave with the id.
    pub password: Vec<u8>,
    /// The newest change that we know of.
    pub last_zxid: i64,
}

/// The answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// What the server holds the session for without a word, in milliseconds; 0 when it has expired.
    pub timeout_ms: i32,
    /// 0 when it has expired.
    pub session_id: i64,
    /// To take it up again.
    pub password: Vec<u8>,
}

/// The head of what a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// Of the request, or one of those below zero.
    pub xid: i32,
    /// The newest change that the server knows of.
    pub zxid: i64,
    /// 0, or what is wrong.
    pub error: i32,
}

/// Something a watch saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// 1 created, 2 deleted, 3 data, 4 children; -1 for a change of the connection's own state.
    pub kind: i32,
    /// Of the session: 3 is connected.
    pub state: i32,
    /// Of the node.
    pub path: String,
}

/// Appends a request as it goes over the wire, length first.
pub fn put_request(xid: i32, request: &Request, out: &mut Vec<u8>) {
    let start = begin(out);
    let (xid, operation) = match request {
        Request::Create { .. } => (xid, OPERATION_CREATE),
        Request::Delete { .. } => (xid, OPERATION_DELETE),
        Request::Replace { .. } => (xid, 14),
        Request::Exists { .. } => (xid, 3),
        Request::Children { .. } => (xid, 8),
        Request::Ping => (XID_PING, 11),
        Request::Auth { .. } => (XID_AUTH, 100),
        Request::Close => (xid, -11),
    };
    put_i32(xid, out);
    put_i32(operation, out);
    match request {
        Request::Create { path, ephemeral, acl, data } => {
            put_create(path, *ephemeral, *acl, data, out);
        }
        Request::Delete { path } => put_delete(path, out),
        Request::Replace { path, acl, data } => {
            put_part(OPERATION_DELETE, out);
            put_delete(path, out);
            put_part(OPERATION_CREATE, out);
            put_create(path, true, *acl, data, out);
            put_part(OPERATION_NONE, out);
        }
        Request::Exists { path } => {
            put_buffer(path.as_bytes(), out);
            out.push(0);
        }
        Request::Children { path } => {
            put_buffer(path.as_bytes(), out);
            out.push(1);
        }
        Request::Auth { digest } => {
            put_i32(0, out);
            put_buffer(b"digest", out);
            put_buffer(digest.as_bytes(), out);
        }
        Request::Ping | Request::Close => {}
    }
    end(start, out);
}

fn put_create(path: &str, ephemeral: bool, acl: Acl, data: &[u8], out: &mut Vec<u8>) {
    put_buffer(path.as_bytes(), out);
    put_buffer(data, out);
    put_i32(1, out);
    put_i32(ALL_PERMISSIONS, out);
    let (scheme, id) = match acl {
        Acl::Open => ("world", "anyone"),
        Acl::Creator => ("auth", ""),
    };
    put_buffer(scheme.as_bytes(), out);
    put_buffer(id.as_bytes(), out);
    put_i32(i32::from(ephemeral), out);
}

/// Whatever its version.
fn put_delete(path: &str, out: &mut Vec<u8>) {
    put_buffer(path.as_bytes(), out);
    put_i32(-1, out);
}

/// The head of one operation among several, or of their end.
fn put_part(operation: i32, out: &mut Vec<u8>) {
    put_i32(operation, out);
    out.push(u8::from(operation == OPERATION_NONE));
    put_i32(-1, out);
}

/// Appends what a connection begins with.
pub fn put_connect(session: &Session, timeout_ms: i32, out: &mut Vec<u8>) {
    let start = begin(out);
    put_i32(0, out);
    put_i64(session.last_zxid, out);
    put_i32(timeout_ms, out);
    put_i64(session.id, out);
    if session.password.is_empty() {
        put_buffer(&[0; 16], out);
    } else {
        put_buffer(&session.password, out);
    }
    out.push(0);
    end(start, out);
}

/// The length of the message that begins with these bytes.
///
/// # Errors
/// When it is none.
pub fn message_length(bytes: [u8; LENGTH_BYTES]) -> Result<usize, WireError> {
    let length = usize::try_from(i32::from_be_bytes(bytes)).map_err(|_| WireError::Length)?;
    if length > MESSAGE_BYTES_MAX { Err(WireError::Length) } else { Ok(length) }
}

/// Reads the answer to [`put_connect`], without its length.
///
/// # Errors
/// When it is cut short.
pub fn read_connected(message: &[u8]) -> Result<Connected, WireError> {
    let mut reader = Reader(message);
    let _version = reader.i32()?;
    let timeout_ms = reader.i32()?;
    let session_id = reader.i64()?;
    let password = reader.buffer()?.to_vec();
    // Servers before 3.4 say nothing of being read-only.
    Ok(Connected { timeout_ms, session_id, password })
}

/// Reads the head of a message, and leaves the rest.
///
/// # Errors
/// When it is cut short.
pub fn read_head(message: &[u8]) -> Result<(ReplyHead, &[u8]), WireError> {
    let mut reader = Reader(message);
    let head = ReplyHead { xid: reader.i32()?, zxid: reader.i64()?, error: reader.i32()? };
    Ok((head, reader.0))
}

/// Reads a watch event, after its head.
///
/// # Errors
/// When it is cut short.
pub fn read_event(body: &[u8]) -> Result<WatchEvent, WireError> {
    let mut reader = Reader(body);
    Ok(WatchEvent { kind: reader.i32()?, state: reader.i32()?, path: reader.text()?.to_owned() })
}

/// Reads the children of a node, after the head.
///
/// # Errors
/// When the list is cut short.
pub fn read_children(body: &[u8]) -> Result<Vec<String>, WireError> {
    let mut reader = Reader(body);
    let count = match reader.i32()? {
        -1 => 0,
        count => usize::try_from(count).map_err(|_| WireError::Length)?,
    };
    // Each has a length of its own.
    if count > reader.0.len() / LENGTH_BYTES {
        return Err(WireError::Length);
    }
    (0..count).map(|_| Ok(reader.text()?.to_owned())).collect()
}

/// Reads whose session a node belongs to, from the Stat after the head; 0 for a persistent one.
///
/// # Errors
/// When it is cut short.
pub fn read_owner(body: &[u8]) -> Result<i64, WireError> {
    let mut reader = Reader(body);
    // czxid, mzxid, ctime, mtime, then three versions.
    reader.take(4 * 8 + 3 * 4)?;
    reader.i64()
}

/// Reads whether operations that were asked for together were done, after the head.
///
/// # Errors
/// When the answer is cut short.
pub fn read_is_done(body: &[u8]) -> Result<bool, WireError> {
    // Either all were done, or each is answered with an error.
    Ok(Reader(body).i32()? != OPERATION_NONE)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn i32(&mut self) -> Result<i32, WireError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(i32::from_be_bytes(*bytes))
    }

    fn i64(&mut self) -> Result<i64, WireError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(i64::from_be_bytes(*bytes))
    }

    /// Null is as good as empty.
    fn buffer(&mut self) -> Result<&'a [u8], WireError> {
        match self.i32()? {
            -1 => Ok(&[]),
            length => self.take(usize::try_from(length).map_err(|_| WireError::Length)?),
        }
    }

    fn text(&mut self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.buffer()?).map_err(|_| WireError::Text)
    }
}

fn begin(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.len()
}

/// Messages of ours are far below 2 GiB.
fn end(start: usize, out: &mut [u8]) {
    let length = (out.len() - start) as i32;
    out[start - LENGTH_BYTES..start].copy_from_slice(&length.to_be_bytes());
}

fn put_i32(value: i32, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_i64(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_buffer(bytes: &[u8], out: &mut Vec<u8>) {
    put_i32(bytes.len() as i32, out);
    out.extend_from_slice(bytes);
}

const OPERATION_CREATE: i32 = 1;
const OPERATION_DELETE: i32 = 2;

/// In place of an operation's: an error, or the end of several.
const OPERATION_NONE: i32 = -1;

/// Of a watch event.
pub const XID_EVENT: i32 = -1;

/// Of a ping and its reply.
pub const XID_PING: i32 = -2;

/// Of the proof of who we are, and its reply.
pub const XID_AUTH: i32 = -4;

/// No such node.
pub const NO_NODE: i32 = -101;

/// Not allowed.
pub const NO_AUTH: i32 = -102;

/// It is there already.
pub const NODE_EXISTS: i32 = -110;

/// The session is no more.
pub const SESSION_EXPIRED: i32 = -112;

/// We are not who we say.
pub const AUTH_FAILED: i32 = -115;

/// Read, write, create, delete, admin.
const ALL_PERMISSIONS: i32 = 31;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    /// Without the length, which must be right.
    fn message(hex: &str) -> Vec<u8> {
        let bytes = bytes(hex);
        let (length, message) = bytes.split_first_chunk().unwrap();
        assert_eq!(message_length(*length), Ok(message.len()));
        message.to_vec()
    }

    fn request(xid: i32, request: &Request) -> Vec<u8> {
        let mut out = Vec::new();
        put_request(xid, request, &mut out);
        out
    }

    // The vectors of registries.md section 10.

    #[test]
    fn z1_connect() {
        let expected = "0000002d00000000000000000000000000007530000000000000000000000010
            0000000000000000000000000000000000";
        let mut out = Vec::new();
        put_connect(&Session::default(), 30_000, &mut out);
        assert_eq!(out, bytes(expected));
    }

    #[test]
    fn z2_connected() {
        let reply = message(
            "0000002500000000000075300100000000000001000000100001020304050607
            08090a0b0c0d0e0f00",
        );
        let password: Vec<u8> = (0..16).collect();
        let expected =
            Connected { timeout_ms: 30_000, session_id: 72_057_594_037_927_937, password };
        assert_eq!(read_connected(&reply), Ok(expected));
        for end in 0..reply.len() - 1 {
            assert_eq!(read_connected(&reply[..end]), Err(WireError::Short), "{end}");
        }
    }

    #[test]
    fn z3_ping() {
        assert_eq!(request(9, &Request::Ping), bytes("00000008fffffffe0000000b"));
    }

    #[test]
    fn z4_ping_reply() {
        let reply = message("00000010fffffffe000000000000000500000000");
        let (head, rest) = read_head(&reply).unwrap();
        assert_eq!(head, ReplyHead { xid: XID_PING, zxid: 5, error: 0 });
        assert!(rest.is_empty());
    }

    #[test]
    fn z5_create() {
        let expected = "000000370000000100000001000000082f647562626f2f610000000000000001
            0000001f00000005776f726c6400000006616e796f6e6500000001";
        let path = "/dubbo/a".to_owned();
        let create = Request::Create { path, ephemeral: true, acl: Acl::Open, data: b"" };
        assert_eq!(request(1, &create), bytes(expected));
    }

    #[test]
    fn a_node_is_replaced_in_one_go() {
        let expected = "00000062000000010000000e
            0000000200ffffffff000000082f647562626f2f61ffffffff
            0000000100ffffffff000000082f647562626f2f610000000000000001
            0000001f00000005776f726c6400000006616e796f6e6500000001
            ffffffff01ffffffff";
        let path = "/dubbo/a".to_owned();
        let replace = Request::Replace { path, acl: Acl::Open, data: b"" };
        assert_eq!(request(1, &replace), bytes(expected));
        assert_eq!(read_is_done(&bytes("000000020000000000")), Ok(true));
        assert_eq!(read_is_done(&bytes("ffffffff00ffffff9b")), Ok(false));
        assert_eq!(read_is_done(&[0; 3]), Err(WireError::Short));
    }

    #[test]
    fn z6_children() {
        let expected = "000000130000000200000008000000062f647562626f01";
        assert_eq!(request(2, &Request::Children { path: "/dubbo".to_owned() }), bytes(expected));
    }

    #[test]
    fn z7_children_reply() {
        let reply = message("0000001900000002000000000000000600000000000000010000000161");
        let (head, rest) = read_head(&reply).unwrap();
        assert_eq!(head, ReplyHead { xid: 2, zxid: 6, error: 0 });
        assert_eq!(read_children(rest).unwrap(), ["a"]);
    }

    #[test]
    fn z8_watch_event() {
        let event = message(
            "00000022ffffffffffffffffffffffff00000000000000040000000300000006
            2f647562626f",
        );
        let (head, rest) = read_head(&event).unwrap();
        assert_eq!((head.xid, head.error), (XID_EVENT, 0));
        let expected = WatchEvent { kind: 4, state: 3, path: "/dubbo".to_owned() };
        assert_eq!(read_event(rest), Ok(expected));
    }

    #[test]
    fn z9_node_exists() {
        let reply = message("00000010000000030000000000000007ffffff92");
        let (head, _) = read_head(&reply).unwrap();
        assert_eq!(head, ReplyHead { xid: 3, zxid: 7, error: NODE_EXISTS });
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        assert_eq!(message_length((-1i32).to_be_bytes()), Err(WireError::Length));
        assert_eq!(
            message_length((MESSAGE_BYTES_MAX as i32 + 1).to_be_bytes()),
            Err(WireError::Length)
        );
        // A count without the bytes for it.
        assert_eq!(read_children(&[0x7f, 0xff, 0xff, 0xff]), Err(WireError::Length));
        assert_eq!(read_children(&bytes("0000000100000009aa")), Err(WireError::Short));
        assert_eq!(read_children(&bytes("00000001fffffff0")), Err(WireError::Length));
        assert_eq!(read_children(&bytes("00000001ffffffff")).unwrap(), [""]);
        assert_eq!(read_children(&bytes("ffffffff")).unwrap(), [""; 0]);
        assert_eq!(read_children(&bytes("0000000100000001ff")), Err(WireError::Text));
    }

    #[test]
    fn owners_stand_after_the_versions() {
        let mut stat = vec![0; 68];
        stat[44..52].copy_from_slice(&7i64.to_be_bytes());
        assert_eq!(read_owner(&stat), Ok(7));
        assert_eq!(read_owner(&stat[..51]), Err(WireError::Short));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_connected(&bytes);
            let _ = read_head(&bytes);
            let _ = read_event(&bytes);
            let _ = read_children(&bytes);
            let _ = read_owner(&bytes);
        }

        #[test]
        fn what_is_written_has_its_length(path in "/[a-z%]{0,40}", xid in any::<i32>()) {
            for one in [
                Request::Create { path: path.clone(), ephemeral: false, acl: Acl::Creator, data: b"1" },
                Request::Delete { path: path.clone() },
                Request::Exists { path: path.clone() },
                Request::Children { path: path.clone() },
                Request::Auth { digest: path.clone() },
                Request::Close,
            ] {
                let out = request(xid, &one);
                let (length, rest) = out.split_first_chunk().unwrap();
                prop_assert_eq!(message_length(*length), Ok(rest.len()));
            }
        }
    }
}
