//! What stands behind the proxies: reads every request to its last byte, waits as it asks, and answers
//! with what only the answer to it can say. One thread for all protocols, each with a listener of its own.
//!
//! It also knows what no client can: whether a request came twice.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashSet},
    io::{self, ErrorKind, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    content::Ask,
    report::Tongue,
    speech::{Asked, Server},
};
use crate::{channel::write_from, epoll::Epoll, sys};

/// A running origin.
#[derive(Debug)]
pub(super) struct Origin {
    addresses: BTreeMap<Tongue, SocketAddr>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Seen>>>,
}

/// What came, in each protocol.
pub(super) type Seen = BTreeMap<Tongue, SeenIn>;

/// What came in one protocol.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SeenIn {
    /// Requests that had come before.
    pub(super) doubled: u64,
    /// Requests with a wrong byte, and connections on which nonsense came.
    pub(super) damaged: u64,
}

/// The longest that a stop goes unnoticed.
const GLANCE: Duration = Duration::from_millis(50);
/// Bytes taken by one read.
const READ_BYTES: usize = 64 * 1024;

impl Origin {
    /// Starts one for these protocols.
    pub(super) fn start(tongues: &[Tongue]) -> io::Result<Self> {
        let mut addresses = BTreeMap::new();
        let mut listeners = Vec::new();
        for tongue in tongues {
            let listener = sys::listen((std::net::Ipv4Addr::LOCALHOST, 0).into())?;
            addresses.insert(*tongue, listener.local_addr()?);
            listeners.push((*tongue, listener));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = Arc::clone(&stop);
            let loaded = Loop::new(listeners)?;
            thread::Builder::new().name("origin".to_owned()).spawn(move || loaded.run(&stop))?
        };
        Ok(Self { addresses, stop, thread: Some(thread) })
    }

    pub(super) fn address(&self, tongue: Tongue) -> Option<SocketAddr> {
        self.addresses.get(&tongue).copied()
    }

    pub(super) fn finish(mut self) -> io::Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(seen)) => seen,
            _ => Err(io::Error::other("the origin's thread failed")),
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    epoll: Epoll,
    listeners: Vec<(Tongue, TcpListener)>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    /// Answers that wait, the next one first.
    due: BinaryHeap<Reverse<(Instant, u64, u64)>>,
    asks: BTreeMap<(u64, u64), Ask>,
    known: HashSet<u64>,
    seen: Seen,
}

struct Connection {
    tongue: Tongue,
    stream: TcpStream,
    server: Server,
    out: Vec<u8>,
    sent: usize,
}

impl Loop {
    fn new(listeners: Vec<(Tongue, TcpListener)>) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        for (place, (_, listener)) in listeners.iter().enumerate() {
            epoll.add_listener(listener, place as u64)?;
        }
        let next = listeners.len() as u64;
        let seen = listeners.iter().map(|(tongue, _)| (*tongue, SeenIn::default())).collect();
        Ok(Self {
            epoll,
            listeners,
            connections: BTreeMap::new(),
            next,
            due: BinaryHeap::new(),
            asks: BTreeMap::new(),
            known: HashSet::new(),
            seen,
        })
    }

    fn run(mut self, stop: &AtomicBool) -> io::Result<Seen> {
        sys::precise_timers();
        let mut piece = vec![0; READ_BYTES];
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let wait = match self.due.peek() {
                Some(Reverse((at, ..))) => at.saturating_duration_since(now).min(GLANCE),
                None => GLANCE,
            };
            self.epoll.wait(wait)?;
            for index in 0..self.epoll.count() {
                let token = self.epoll.ready(index).token;
                match self.listeners.get(token as usize) {
                    Some(_) => self.accept(token as usize)?,
                    None => self.advance(token, &mut piece),
                }
            }
            self.answer_due();
        }
        Ok(self.seen)
    }

    fn accept(&mut self, place: usize) -> io::Result<()> {
        let (tongue, listener) = &self.listeners[place];
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            self.epoll.add(&stream, self.next)?;
            let server = Server::open(*tongue);
            let connection =
                Connection { tongue: *tongue, stream, server, out: Vec::new(), sent: 0 };
            self.connections.insert(self.next, connection);
            self.next += 1;
        }
        Ok(())
    }

    fn advance(&mut self, token: u64, piece: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let seen = self.seen.entry(connection.tongue).or_default();
        let mut asked = Vec::new();
        let is_over = loop {
            match connection.stream.read(piece) {
                Ok(0) => break true,
                Ok(count) => {
                    let Connection { server, out, .. } = connection;
                    if server.feed(&piece[..count], out, &mut asked).is_err() {
                        seen.damaged += 1;
                        break true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break error.kind() != ErrorKind::WouldBlock,
            }
        };
        for Asked { ticket, ask } in asked {
            let Some(ask) = ask else {
                seen.damaged += 1;
                continue;
            };
            if !self.known.insert(ask.id) {
                seen.doubled += 1;
            }
            if ask.delay_ms == 0 {
                connection.server.answer(ticket, ask, &mut connection.out);
            } else {
                let at = Instant::now() + Duration::from_millis(ask.delay_ms.into());
                self.due.push(Reverse((at, token, ticket)));
                self.asks.insert((token, ticket), ask);
            }
        }
        if is_over || connection.flush().is_err() {
            self.connections.remove(&token);
        }
    }

    fn answer_due(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, token, ticket))) = self.due.peek().copied() {
            if at > now {
                return;
            }
            self.due.pop();
            let Some(ask) = self.asks.remove(&(token, ticket)) else { continue };
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            connection.server.answer(ticket, ask, &mut connection.out);
            if connection.flush().is_err() {
                self.connections.remove(&token);
            }
        }
    }
}

impl Connection {
    fn flush(&mut self) -> io::Result<()> {
        if write_from(&mut self.stream, &self.out, &mut self.sent)? {
            self.out.clear();
            self.sent = 0;
        }
        Ok(())
    }
}
