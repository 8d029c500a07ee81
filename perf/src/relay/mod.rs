//! The floor: the least that an HTTP/1.1 proxy on io_uring can do on this kernel.
//!
//! One thread, one ring (SINGLE_ISSUER, DEFER_TASKRUN, COOP_TASKRUN), multishot accept, multishot
//! receive into a shared buffer ring, sends straight from the received buffers, one system call per
//! turn. A request takes an idle upstream connection or opens one, its bytes and those of the
//! response pass unchanged, and at the response's end the upstream connection is idle again. There
//! are no routes, header edits, timeouts, statistics or checks, and only messages delimited by
//! Content-Length; what Outrigger costs above this is the price of being a proxy.
//!
//! Two things keep system calls down to one per turn and direction. Sends collect during a turn and
//! go with the next submission, several chunks for one socket as one vector. And the first small
//! send to a socket is made with MSG_DONTWAIT: it completes within the submitting call, so that call
//! can wait for one completion *more* than there are such sends, instead of returning at once with
//! nothing but their own completions. Should such a send come up short, the rest follows as an
//! ordinary one; a tick every 20 ms bounds how long that can go unnoticed.
//!
//! Invariant: a connection's place is freed only when the kernel holds no operation on it, so a
//! completion always finds the connection that it belongs to. When the buffers run out, receives
//! stop and are armed again as buffers come back: that is all the back-pressure there is.

mod framer;
mod ring;

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use socket2::{Domain, SockAddr, Socket, Type};

use self::{
    framer::{Framer, Kind},
    ring::{Completion, Ring},
};

/// Most connections, both sides together; more are closed at once.
const CONNECTIONS_MAX: usize = 65_536;
/// Bytes that a client may send ahead of its response.
const AHEAD_BYTES_MAX: usize = 64 * 1024;
/// Largest send that is expected to complete at once.
const AT_ONCE_BYTES_MAX: usize = 16 * 1024;
/// Chunks in one vectored send.
const VECTOR_MAX: usize = 32;
/// Idle upstream connections kept.
const IDLE_MAX: usize = 8192;

/// Relays between `listener` and `upstream` until the process ends.
///
/// # Errors
///
/// What the kernel refuses that the relay can't do without.
pub fn relay(listener: &TcpListener, upstream: SocketAddr) -> io::Result<()> {
    let mut relay = Relay {
        ring: Ring::new()?,
        listener: listener.as_raw_fd(),
        accepting: false,
        upstream: Box::leak(Box::new(upstream.into())),
        domain: Domain::for_address(upstream),
        connections: Vec::new(),
        vacant: Vec::new(),
        idle: Vec::new(),
        dirty: Vec::new(),
        starved: VecDeque::new(),
        at_once: 0,
    };
    relay.ring.tick(Operation::Tick.user_data(0))?;
    relay.accept()?;
    let mut completions = Vec::new();
    loop {
        let want = std::mem::take(&mut relay.at_once) + 1;
        relay.ring.turn(want, &mut completions)?;
        for completion in completions.drain(..) {
            relay.on_completion(completion)?;
        }
        relay.send_dirty()?;
        relay.feed_starved()?;
        relay.ring.publish();
    }
}

struct Relay {
    ring: Ring,
    listener: RawFd,
    accepting: bool,
    /// Leaked, because connects in flight point to it.
    upstream: &'static SockAddr,
    domain: Domain,
    connections: Vec<Option<Connection>>,
    vacant: Vec<usize>,
    /// Upstream connections without a request, last used last.
    idle: Vec<usize>,
    /// Connections with something new to send.
    dirty: Vec<usize>,
    /// Connections whose receive ended for want of buffers.
    starved: VecDeque<usize>,
    /// Sends of this turn that complete within its submission.
    at_once: usize,
}

struct Connection {
    socket: OwnedFd,
    kind: Side,
    /// The connection at the other side of the exchange.
    peer: Option<usize>,
    framer: Framer,
    queue: VecDeque<Chunk>,
    /// Chunks at the front of the queue that the kernel is sending.
    sending: usize,
    receiving: bool,
    connecting: bool,
    dirty: bool,
    closing: bool,
    /// Downstream: the whole request has been read, the response has not ended.
    awaiting: bool,
    /// Downstream: bytes that came ahead of the response.
    ahead: Vec<u8>,
    vector: Box<Vector>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Down,
    Up,
}

enum Chunk {
    Buffer { id: u16, from: usize, length: usize },
    Owned { bytes: Vec<u8>, from: usize },
}

/// A vectored send in flight: the kernel reads it, so it stays where it is.
struct Vector {
    slices: [libc::iovec; VECTOR_MAX],
    message: libc::msghdr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Tick,
    Accept,
    Connect,
    Receive,
    Send,
}

impl Operation {
    fn user_data(self, index: usize) -> u64 {
        (self as u64) << 32 | index as u64
    }

    fn of(user_data: u64) -> (Self, usize) {
        let operation = match user_data >> 32 {
            0 => Self::Tick,
            1 => Self::Accept,
            2 => Self::Connect,
            3 => Self::Receive,
            _ => Self::Send,
        };
        (operation, usize::try_from(user_data & 0xffff_ffff).unwrap_or(usize::MAX))
    }
}

impl Relay {
    fn accept(&mut self) -> io::Result<()> {
        self.accepting = true;
        self.ring.accept(self.listener, Operation::Accept.user_data(0))
    }

    fn on_completion(&mut self, completion: Completion) -> io::Result<()> {
        let (operation, index) = Operation::of(completion.user_data);
        match operation {
            // An accept that ended (out of descriptors) is tried again at the next tick.
            Operation::Tick => {
                if !completion.more() {
                    self.ring.tick(completion.user_data)?;
                }
                if self.accepting { Ok(()) } else { self.accept() }
            }
            Operation::Accept => self.on_accept(completion),
            Operation::Connect => self.on_connect(index, completion),
            Operation::Receive => self.on_receive(index, completion),
            Operation::Send => self.on_send(index, completion),
        }
    }

    fn on_accept(&mut self, completion: Completion) -> io::Result<()> {
        self.accepting = completion.more();
        if completion.result < 0 {
            return Ok(());
        }
        // SAFETY: the kernel just made this descriptor for us.
        let socket = unsafe { OwnedFd::from_raw_fd(completion.result) };
        match self.place(socket, Side::Down) {
            Some(index) => self.receive(index),
            None => Ok(()),
        }
    }

    fn place(&mut self, socket: OwnedFd, kind: Side) -> Option<usize> {
        let index = match self.vacant.pop() {
            Some(index) => index,
            None if self.connections.len() < CONNECTIONS_MAX => {
                self.connections.push(None);
                self.connections.len() - 1
            }
            None => return None,
        };
        self.connections[index] = Some(Connection {
            socket,
            kind,
            peer: None,
            framer: Framer::default(),
            queue: VecDeque::new(),
            sending: 0,
            receiving: false,
            connecting: false,
            dirty: false,
            closing: false,
            awaiting: false,
            ahead: Vec::new(),
            vector: Box::new(Vector::new()),
        });
        Some(index)
    }

    fn receive(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        if connection.receiving || connection.closing {
            return Ok(());
        }
        connection.receiving = true;
        let socket = connection.socket.as_raw_fd();
        self.ring.receive(socket, Operation::Receive.user_data(index))
    }

    fn on_receive(&mut self, index: usize, completion: Completion) -> io::Result<()> {
        let buffer = completion.buffer();
        if buffer.is_some() {
            self.ring.took_buffer();
        }
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        connection.receiving = completion.more();
        match (buffer, usize::try_from(completion.result)) {
            (Some(id), Ok(length)) if length > 0 && !connection.closing => {
                match connection.kind {
                    Side::Down => self.on_request_bytes(index, id, length)?,
                    Side::Up => self.on_response_bytes(index, id, length)?,
                }
                self.receive(index)?;
            }
            (None, Err(_)) if completion.result == -libc::ENOBUFS => {
                if !connection.closing {
                    self.starved.push_back(index);
                }
            }
            (buffer, _) => {
                if let Some(id) = buffer {
                    self.ring.give_back(id);
                }
                self.close(index);
            }
        }
        self.vacate(index);
        Ok(())
    }

    fn on_request_bytes(&mut self, index: usize, id: u16, length: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        if connection.awaiting {
            let bytes = self.ring.bytes(id, 0, length);
            connection.ahead.extend_from_slice(bytes);
            let too_far = connection.ahead.len() > AHEAD_BYTES_MAX;
            self.ring.give_back(id);
            if too_far {
                self.close(index);
            }
            return Ok(());
        }
        let bytes = self.ring.bytes(id, 0, length);
        let Ok(advance) = connection.framer.advance(Kind::Request, bytes) else {
            self.ring.give_back(id);
            self.close(index);
            return Ok(());
        };
        if advance.taken < length {
            connection.ahead.extend_from_slice(&bytes[advance.taken..]);
        }
        connection.awaiting = advance.complete;
        self.forward_request(index, Chunk::Buffer { id, from: 0, length: advance.taken })
    }

    fn forward_request(&mut self, index: usize, chunk: Chunk) -> io::Result<()> {
        let peer = self.connections[index].as_ref().and_then(|connection| connection.peer);
        let upstream = match peer {
            Some(upstream) => Some(upstream),
            None => self.upstream(index)?,
        };
        match upstream {
            Some(upstream) => self.enqueue(upstream, chunk),
            None => {
                self.recycle(&chunk);
                self.close(index);
            }
        }
        Ok(())
    }

    /// An idle upstream connection, or a new one, paired with `index`.
    fn upstream(&mut self, index: usize) -> io::Result<Option<usize>> {
        let upstream = match self.idle.pop() {
            Some(upstream) => upstream,
            None => {
                let Ok(socket) = Socket::new(self.domain, Type::STREAM.nonblocking(), None) else {
                    return Ok(None);
                };
                socket.set_tcp_nodelay(true)?;
                let socket = OwnedFd::from(socket);
                let fd = socket.as_raw_fd();
                let Some(upstream) = self.place(socket, Side::Up) else { return Ok(None) };
                if let Some(connection) = &mut self.connections[upstream] {
                    connection.connecting = true;
                }
                let user_data = Operation::Connect.user_data(upstream);
                // SAFETY: the address was leaked.
                unsafe { self.ring.connect(fd, self.upstream, user_data)? };
                upstream
            }
        };
        self.pair(index, Some(upstream));
        self.pair(upstream, Some(index));
        Ok(Some(upstream))
    }

    fn pair(&mut self, index: usize, peer: Option<usize>) {
        if let Some(connection) = &mut self.connections[index] {
            connection.peer = peer;
        }
    }

    fn on_connect(&mut self, index: usize, completion: Completion) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        connection.connecting = false;
        if completion.result < 0 {
            self.close(index);
        } else {
            self.mark(index);
            self.receive(index)?;
        }
        self.vacate(index);
        Ok(())
    }

    fn on_response_bytes(&mut self, index: usize, id: u16, length: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        let bytes = self.ring.bytes(id, 0, length);
        let advance = connection.framer.advance(Kind::Response, bytes);
        let (Some(downstream), Ok(advance)) = (connection.peer, advance) else {
            // Bytes nobody asked for, or a response the relay can't delimit.
            self.ring.give_back(id);
            self.close(index);
            return Ok(());
        };
        self.enqueue(downstream, Chunk::Buffer { id, from: 0, length: advance.taken });
        if !advance.complete {
            return Ok(());
        }
        let awaiting = self.connections[downstream].as_ref().is_some_and(|one| one.awaiting);
        if advance.taken < length || !awaiting {
            // More than one response, or one ahead of its request: the exchange is over for both.
            self.close(index);
            return Ok(());
        }
        self.pair(index, None);
        self.pair(downstream, None);
        if self.idle.len() < IDLE_MAX {
            self.idle.push(index);
        } else {
            self.close(index);
        }
        self.next_request(downstream)
    }

    /// Goes on with what the client sent ahead.
    fn next_request(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        connection.awaiting = false;
        if connection.ahead.is_empty() {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut connection.ahead);
        let Ok(advance) = connection.framer.advance(Kind::Request, &bytes) else {
            self.close(index);
            return Ok(());
        };
        connection.ahead = bytes.split_off(advance.taken);
        connection.awaiting = advance.complete;
        self.forward_request(index, Chunk::Owned { bytes, from: 0 })
    }

    fn enqueue(&mut self, index: usize, chunk: Chunk) {
        match &mut self.connections[index] {
            Some(connection) if !connection.closing => {
                connection.queue.push_back(chunk);
                self.mark(index);
            }
            _ => self.recycle(&chunk),
        }
    }

    fn mark(&mut self, index: usize) {
        if let Some(connection) = &mut self.connections[index]
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(index);
        }
    }

    fn send_dirty(&mut self) -> io::Result<()> {
        while let Some(index) = self.dirty.pop() {
            if let Some(connection) = &mut self.connections[index] {
                connection.dirty = false;
                if connection.sending == 0 && !connection.connecting && !connection.closing {
                    self.send(index)?;
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        let user_data = Operation::Send.user_data(index);
        let socket = connection.socket.as_raw_fd();
        match connection.queue.len() {
            0 => Ok(()),
            1 => {
                connection.sending = 1;
                let bytes = connection.queue[0].bytes(&self.ring);
                let at_once = bytes.len() <= AT_ONCE_BYTES_MAX;
                self.at_once += usize::from(at_once);
                let bytes: *const [u8] = bytes;
                // SAFETY: the chunk stays at the front of the queue until its completion, and so
                // does what it names.
                unsafe { self.ring.send(socket, bytes, at_once, user_data) }
            }
            queued => {
                let count = queued.min(VECTOR_MAX);
                connection.sending = count;
                let slices = connection.queue.iter().take(count);
                for (slice, chunk) in connection.vector.slices.iter_mut().zip(slices) {
                    let bytes = chunk.bytes(&self.ring);
                    slice.iov_base = bytes.as_ptr().cast_mut().cast();
                    slice.iov_len = bytes.len();
                }
                let message = connection.vector.message(count);
                // SAFETY: the vector is boxed and not touched while `sending` is not 0; the chunks
                // stay at the front of the queue until the completion.
                unsafe { self.ring.send_vectored(socket, message, user_data) }
            }
        }
    }

    fn on_send(&mut self, index: usize, completion: Completion) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        let mut left = match usize::try_from(completion.result) {
            Ok(sent) => sent,
            Err(_) if completion.result == -libc::EAGAIN => 0,
            Err(_) => {
                connection.sending = 0;
                self.close(index);
                self.vacate(index);
                return Ok(());
            }
        };
        let mut short = false;
        for _ in 0..std::mem::take(&mut connection.sending) {
            let Some(mut chunk) = connection.queue.pop_front() else { break };
            let length = chunk.bytes(&self.ring).len();
            if left < length {
                chunk.consume(left);
                connection.queue.push_front(chunk);
                short = true;
                break;
            }
            left -= length;
            if let Chunk::Buffer { id, .. } = chunk {
                self.ring.give_back(id);
            }
        }
        if connection.closing {
            self.drop_queue(index);
            self.vacate(index);
        } else if short {
            self.send_rest(index)?;
        } else if !connection.queue.is_empty() {
            self.mark(index);
        }
        Ok(())
    }

    /// Sends the first chunk, waiting for room.
    fn send_rest(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        connection.sending = 1;
        let socket = connection.socket.as_raw_fd();
        let bytes: *const [u8] = connection.queue[0].bytes(&self.ring);
        // SAFETY: as in `send`.
        unsafe { self.ring.send(socket, bytes, false, Operation::Send.user_data(index)) }
    }

    fn feed_starved(&mut self) -> io::Result<()> {
        for _ in 0..self.ring.free_buffers() {
            let Some(index) = self.starved.pop_front() else { break };
            self.receive(index)?;
        }
        Ok(())
    }

    /// Ends a connection and its exchange; its place is freed when the kernel is done with it.
    fn close(&mut self, index: usize) {
        let mut next = Some(index);
        while let Some(index) = next.take() {
            let Some(connection) = &mut self.connections[index] else { return };
            if connection.closing {
                return;
            }
            connection.closing = true;
            // SAFETY: the descriptor is open. Shutting down ends a pending receive.
            unsafe { libc::shutdown(connection.socket.as_raw_fd(), libc::SHUT_RDWR) };
            next = connection.peer.take();
            if let Some(peer) = next {
                self.pair(peer, None);
            } else if connection.kind == Side::Up {
                self.idle.retain(|&idle| idle != index);
            }
            self.drop_queue(index);
            self.vacate(index);
        }
    }

    /// Gives back what is queued and not in flight.
    fn drop_queue(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        for chunk in connection.queue.drain(connection.sending..) {
            if let Chunk::Buffer { id, .. } = chunk {
                self.ring.give_back(id);
            }
        }
    }

    fn vacate(&mut self, index: usize) {
        let Some(connection) = &self.connections[index] else { return };
        let busy = connection.receiving || connection.connecting || connection.sending > 0;
        if connection.closing && !busy {
            self.drop_queue(index);
            self.connections[index] = None;
            // Entries left in these lists would name whoever gets the place next.
            self.starved.retain(|&starved| starved != index);
            self.dirty.retain(|&dirty| dirty != index);
            self.vacant.push(index);
        }
    }

    fn recycle(&mut self, chunk: &Chunk) {
        if let Chunk::Buffer { id, .. } = chunk {
            self.ring.give_back(*id);
        }
    }
}

impl Chunk {
    fn bytes<'a>(&'a self, ring: &'a Ring) -> &'a [u8] {
        match self {
            Self::Buffer { id, from, length } => ring.bytes(*id, *from, *length),
            Self::Owned { bytes, from } => &bytes[*from..],
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::Buffer { from, length, .. } => {
                *from += count;
                *length -= count;
            }
            Self::Owned { from, .. } => *from += count,
        }
    }
}

impl Vector {
    fn new() -> Self {
        let slice = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: an all-zero msghdr is a valid, empty one.
        Self { slices: [slice; VECTOR_MAX], message: unsafe { std::mem::zeroed() } }
    }

    fn message(&mut self, count: usize) -> *const libc::msghdr {
        self.message.msg_iov = self.slices.as_mut_ptr();
        self.message.msg_iovlen = count;
        &raw const self.message
    }
}
