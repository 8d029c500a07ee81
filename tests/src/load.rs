//! Many connections at once: a closed-loop client and an origin to match, one thread each.
//!
//! The client keeps one GET in flight on each connection, honours `Connection: close`, connects
//! again after a failure, and tells every kind of ending apart.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::net::Address;
use crate::{PATIENCE, eventually};

/// What became of the requests.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// Responses by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without a whole response, by what happened instead.
    pub faults: BTreeMap<String, u64>,
    /// Connections that were not accepted.
    pub refused: u64,
    /// Connections that were made.
    pub connected: u64,
}

impl Outcome {
    /// Whether there were responses of that status and nothing else.
    #[must_use]
    pub fn is_only(&self, status: u16, count: u64) -> bool {
        self.faults.is_empty() && self.statuses == BTreeMap::from([(status, count)])
    }
}

/// How much load there is to be.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections at once.
    pub connections: usize,
    /// Requests in all, or until it is stopped.
    pub requests: Option<u64>,
}

impl Load {
    /// Starts sending.
    ///
    /// # Panics
    /// If the system has no epoll.
    #[must_use]
    pub fn start(self, target: &Address) -> Running {
        let shared = Arc::new(Shared::default());
        let target = target.tcp();
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || Generator::new(self, target, shared).run())
        };
        Running { shared, thread }
    }
}

/// Load that is being sent.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    thread: JoinHandle<Outcome>,
}

impl Running {
    /// Responses so far, whatever their status.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.shared.completed.load(Ordering::Relaxed)
    }

    /// What became of the requests so far.
    ///
    /// # Panics
    /// If the generator has failed.
    #[must_use]
    pub fn so_far(&self) -> Outcome {
        self.shared.outcome.lock().unwrap().clone()
    }

    /// Waits for so many more responses.
    #[track_caller]
    pub fn wait_for_more(&self, count: u64) {
        let goal = self.completed() + count;
        eventually("more responses", || (self.completed() >= goal).then_some(()));
    }

    /// No new requests; waits for the responses to those in flight.
    ///
    /// # Panics
    /// If the generator has failed.
    #[must_use]
    pub fn stop(self) -> Outcome {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }

    /// Waits until all requests are sent and answered, or nobody listens any more.
    ///
    /// # Panics
    /// If the generator has failed.
    #[must_use]
    pub fn finish(self) -> Outcome {
        self.thread.join().unwrap()
    }
}

#[derive(Debug, Default)]
struct Shared {
    completed: AtomicU64,
    stopping: AtomicBool,
    outcome: Mutex<Outcome>,
}

struct Generator {
    load: Load,
    target: SocketAddr,
    shared: Arc<Shared>,
    epoll: Epoll,
    connections: Vec<Option<Connection>>,
    started: u64,
}

struct Connection {
    stream: TcpStream,
    /// The handshake is done, and the request is sent.
    connected: bool,
    received: Vec<u8>,
    sent_at: Instant,
}

/// What the bytes so far mean.
enum Verdict {
    More,
    Done { status: u16, keep: bool },
    Fault(String),
}

impl Generator {
    fn new(load: Load, target: SocketAddr, shared: Arc<Shared>) -> Generator {
        let connections = (0..load.connections).map(|_| None).collect();
        Generator { load, target, shared, epoll: Epoll::new(), connections, started: 0 }
    }

    fn run(mut self) -> Outcome {
        for slot in 0..self.connections.len() {
            self.begin(slot);
        }
        let mut ready = Vec::new();
        while self.connections.iter().any(Option::is_some) {
            self.epoll.wait(&mut ready);
            for slot in ready.drain(..) {
                self.advance(slot);
            }
            self.give_up_silent();
        }
        self.shared.outcome.lock().unwrap().clone()
    }

    /// Sends the next request on a connection, new if need be; none if enough were sent.
    fn begin(&mut self, slot: usize) {
        while !self.is_over() {
            self.started += 1;
            let Some(connection) = &mut self.connections[slot] else { return self.connect(slot) };
            match connection.send() {
                Ok(()) => return,
                Err(error) => self.fault(slot, format!("send: {:?}", error.kind())),
            }
        }
        self.connections[slot] = None;
    }

    fn is_over(&self) -> bool {
        self.load.requests.is_some_and(|requests| self.started >= requests)
            || self.shared.stopping.load(Ordering::Relaxed)
    }

    /// Begins to connect. That may take a while, in which the other connections go on.
    fn connect(&mut self, slot: usize) {
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => self.refused(&error),
            Ok(()) | Err(_) => {
                let stream = TcpStream::from(socket);
                self.epoll.add(stream.as_raw_fd(), slot, libc::EPOLLOUT);
                self.connections[slot] = Some(Connection {
                    stream,
                    connected: false,
                    received: Vec::new(),
                    sent_at: Instant::now(),
                });
            }
        }
    }

    /// The handshake is over: the request that it was for goes out.
    fn connected(&mut self, slot: usize) {
        let connection = self.connections[slot].as_mut().unwrap();
        if let Some(error) = connection.stream.take_error().unwrap() {
            self.connections[slot] = None;
            return self.refused(&error);
        }
        connection.connected = true;
        self.epoll.change(connection.stream.as_raw_fd(), slot, libc::EPOLLIN | libc::EPOLLRDHUP);
        self.shared.outcome.lock().unwrap().connected += 1;
        if let Err(error) = connection.send() {
            self.fault(slot, format!("send: {:?}", error.kind()));
            self.begin(slot);
        }
    }

    fn refused(&mut self, error: &io::Error) {
        self.started -= 1;
        let mut outcome = self.shared.outcome.lock().unwrap();
        match error.kind() {
            ErrorKind::ConnectionRefused => outcome.refused += 1,
            kind => *outcome.faults.entry(format!("connect: {kind:?}")).or_default() += 1,
        }
    }

    fn advance(&mut self, slot: usize) {
        let Some(connection) = &mut self.connections[slot] else { return };
        if !connection.connected {
            return self.connected(slot);
        }
        match connection.read() {
            Verdict::More => {}
            Verdict::Done { status, keep } => {
                *self.shared.outcome.lock().unwrap().statuses.entry(status).or_default() += 1;
                self.shared.completed.fetch_add(1, Ordering::Relaxed);
                if !keep {
                    self.connections[slot] = None;
                }
                self.begin(slot);
            }
            Verdict::Fault(what) => {
                self.fault(slot, what);
                self.begin(slot);
            }
        }
    }

    fn fault(&mut self, slot: usize, what: String) {
        self.connections[slot] = None;
        *self.shared.outcome.lock().unwrap().faults.entry(what).or_default() += 1;
    }

    fn give_up_silent(&mut self) {
        for slot in 0..self.connections.len() {
            let silent = self.connections[slot]
                .as_ref()
                .is_some_and(|connection| connection.sent_at.elapsed() > PATIENCE);
            if silent {
                self.fault(slot, "silent".to_owned());
            }
        }
    }
}

impl Connection {
    fn send(&mut self) -> io::Result<()> {
        self.sent_at = Instant::now();
        self.stream.write_all(REQUEST)
    }

    fn read(&mut self) -> Verdict {
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Verdict::Fault(format!("closed after {}", self.progress())),
                Ok(count) => self.received.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Verdict::More,
                Err(error) => return Verdict::Fault(format!("{:?}", error.kind())),
            }
            match self.judge() {
                Verdict::More => {}
                verdict => return verdict,
            }
        }
    }

    fn progress(&self) -> &'static str {
        if self.received.is_empty() { "nothing" } else { "a part" }
    }

    fn judge(&mut self) -> Verdict {
        let Some(end) = head_end(&self.received) else { return Verdict::More };
        let head = String::from_utf8_lossy(&self.received[..end]).to_ascii_lowercase();
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
        };
        let status = head.get(9..12).and_then(|code| code.parse().ok());
        let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
        let (Some(status), Some(length)) = (status, length) else {
            return Verdict::Fault("not understood".to_owned());
        };
        let keep = field("connection") != Some("close");
        match self.received.len().cmp(&(end + length)) {
            std::cmp::Ordering::Less => Verdict::More,
            std::cmp::Ordering::Equal => {
                self.received.clear();
                Verdict::Done { status, keep }
            }
            std::cmp::Ordering::Greater => Verdict::Fault("more than asked for".to_owned()),
        }
    }
}

/// An origin that answers every request at once with 200 and `ok`, on one thread.
#[derive(Debug)]
pub struct FastOrigin {
    address: Address,
    shared: Arc<FastShared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct FastShared {
    requests: AtomicU64,
    accepted: AtomicU64,
    stopping: AtomicBool,
}

impl FastOrigin {
    /// Listens on a free port.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn start() -> FastOrigin {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let shared = Arc::new(FastShared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || serve(&listener, &shared))
        };
        FastOrigin { address, shared, thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Requests that came so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for FastOrigin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, shared: &FastShared) {
    listener.set_nonblocking(true).unwrap();
    let epoll = Epoll::new();
    epoll.add(listener.as_raw_fd(), LISTENER, libc::EPOLLIN);
    let mut connections: BTreeMap<usize, (TcpStream, Vec<u8>)> = BTreeMap::new();
    let mut ready = Vec::new();
    let mut next = 0;
    while !shared.stopping.load(Ordering::Relaxed) {
        epoll.wait(&mut ready);
        for token in ready.drain(..) {
            if token == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    stream.set_nodelay(true).unwrap();
                    epoll.add(stream.as_raw_fd(), next, libc::EPOLLIN | libc::EPOLLRDHUP);
                    connections.insert(next, (stream, Vec::new()));
                    next += 1;
                    shared.accepted.fetch_add(1, Ordering::Relaxed);
                }
            } else if let Some((stream, received)) = connections.get_mut(&token)
                && !answer(stream, received, shared)
            {
                connections.remove(&token);
            }
        }
    }
}

/// Answers what is there to be answered; false if the connection is over.
fn answer(stream: &mut TcpStream, received: &mut Vec<u8>, shared: &FastShared) -> bool {
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return false,
            Ok(count) => received.extend_from_slice(&piece[..count]),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
        while let Some(end) = head_end(received) {
            received.drain(..end);
            shared.requests.fetch_add(1, Ordering::Relaxed);
            if stream.write_all(crate::origin::OK.as_bytes()).is_err() {
                return false;
            }
        }
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Level-triggered readiness of sockets by number.
struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> Epoll {
        // SAFETY: takes a flag; the result is a new descriptor that nobody else owns, or an error.
        unsafe {
            let descriptor = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            assert!(descriptor >= 0, "epoll_create1: {}", io::Error::last_os_error());
            Epoll(OwnedFd::from_raw_fd(descriptor))
        }
    }

    /// Closing the descriptor removes it again.
    fn add(&self, descriptor: RawFd, number: usize, events: i32) {
        self.control(libc::EPOLL_CTL_ADD, descriptor, number, events);
    }

    fn change(&self, descriptor: RawFd, number: usize, events: i32) {
        self.control(libc::EPOLL_CTL_MOD, descriptor, number, events);
    }

    fn control(&self, operation: i32, descriptor: RawFd, number: usize, events: i32) {
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: number as u64 };
        // SAFETY: the event is read during the call only.
        let done =
            unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, descriptor, &raw mut event) };
        assert_eq!(done, 0, "epoll_ctl: {}", io::Error::last_os_error());
    }

    /// Adds the numbers that are ready, after [`EPOLL_PAUSE`] at the latest.
    fn wait(&self, ready: &mut Vec<usize>) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        let timeout_ms = i32::try_from(EPOLL_PAUSE.as_millis()).unwrap();
        // SAFETY: the kernel writes at most as many entries as there are.
        let count =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 256, timeout_ms) };
        let count = usize::try_from(count).unwrap_or(0);
        ready.extend(events[..count].iter().map(|event| usize::try_from(event.u64).unwrap()));
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: load\r\n\r\n";

/// The listener's number; connections count from 0.
const LISTENER: usize = usize::MAX;

/// The longest that a stop goes unnoticed.
const EPOLL_PAUSE: Duration = Duration::from_millis(50);
