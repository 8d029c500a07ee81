//! Load at a constant rate, from clients that mean to keep their connections for ever.
//!
//! Each client has a part:
//!
//! | Part | What it sends |
//! |---|---|
//! | quick | pairs of small requests, back to back; at times in two halves with a pause between. Only these are timed, but for those in halves |
//! | slow | a request that the origin takes up to seconds for, with two small ones behind it |
//! | large | long contents up, down and both ways, every second one in two halves |
//!
//! Times count from when a request was due, whatever kept it from being sent. Every request has one of
//! the fates in [`Tally`]; an answer is one only if each of its bytes follows from the request's number. A client whose
//! connection ends connects again at once. What the other side says is not processed (HTTP/2 streams above a
//! GOAWAY's last one, HTTP/1 requests behind a `Connection: close`) is sent again under a new number.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    io::{self, ErrorKind, Read},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use socket2::{Domain, Socket, Type};

use super::{
    content::{Ask, HEAD_BYTES},
    report::Tongue,
    speech::{Client as Speech, Heard},
};
use crate::{channel::write_from, epoll::Epoll, load::latency_histogram, sys};

/// What to send.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Where each protocol is spoken.
    pub(super) targets: Vec<(Tongue, SocketAddr)>,
    /// Clients of each protocol.
    pub(super) connections: usize,
    /// Timed requests per second of each protocol.
    pub(super) rate: u32,
    /// The longest that an origin takes.
    pub(super) slow: Duration,
    /// Length of long contents.
    pub(super) large_bytes: u32,
}

/// What became of the requests of one protocol, and of its connections.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// Sent, those counted that were sent again.
    pub(super) requests: u64,
    /// Answered as they should be.
    pub(super) answered: u64,
    /// Answered by an error or with wrong bytes, or never sent because nothing could be.
    pub(super) failed: u64,
    /// Not answered before their connection ended, or in time.
    pub(super) lost: u64,
    /// Answers to what had been answered.
    pub(super) doubled: u64,
    /// Answers in the place of another, or to someone else's request.
    pub(super) misordered: u64,
    /// Refused as unprocessed, and sent again.
    pub(super) again: u64,
    /// Connections that were reset.
    pub(super) resets: u64,
    /// Connections that were closed with requests under way, or broken by what came.
    pub(super) cut: u64,
    /// Connections that were asked to go, or closed while nothing was under way.
    pub(super) asked_to_go: u64,
    /// Attempts to connect that failed.
    pub(super) refused: u64,
    /// Clients that have the socket that they had first.
    pub(super) kept: u64,
    /// All clients.
    pub(super) clients: u64,
    /// Times of quick requests outside hand-overs.
    pub(super) quiet: Histogram<u64>,
    /// Times of quick requests that were under way during one.
    pub(super) busy: Histogram<u64>,
    /// The first things that went wrong.
    pub(super) notes: Vec<String>,
}

/// Load that runs.
#[derive(Debug)]
pub(super) struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<BTreeMap<Tongue, Tally>>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    handing_over: AtomicBool,
    answered: AtomicU64,
}

/// A request without an answer for so long, beyond the wait it asked for, is lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause before another attempt to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// The longest that a stop goes unnoticed; also the pause between looks for what is lost.
const GLANCE: Duration = Duration::from_millis(50);
/// Requests of a client under way at a time.
const UNDER_WAY_MAX: usize = 64;
/// Requests of a client that wait to be sent.
const WAITING_MAX: usize = 10_000;
/// Rounds of slow clients, and of large ones, per second and protocol.
const ROUNDS_PER_SECOND: u32 = 8;
/// Pause between halves.
const HALVES_MS: [u32; 4] = [20, 70, 150, 300];
/// Content of a small request, and of its answer.
const SMALL_BYTES: u32 = 128;
const READ_BYTES: usize = 64 * 1024;
const NOTES_MAX: usize = 12;

impl Running {
    pub(super) fn start(plan: Plan) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let generator = Generator::new(plan, Arc::clone(&shared))?;
        let thread = thread::Builder::new().name("load".to_owned()).spawn(|| generator.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Says that a hand-over begins or ends.
    pub(super) fn handing_over(&self, is: bool) {
        self.shared.handing_over.store(is, Ordering::Relaxed);
    }

    /// Answers so far, in all protocols.
    pub(super) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// No new requests; waits for the answers to those under way.
    pub(super) fn finish(mut self) -> io::Result<BTreeMap<Tongue, Tally>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(tallies)) => tallies,
            _ => Err(io::Error::other("the generator's thread failed")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nobody waits for the answers then.
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Tally {
    fn new(clients: usize) -> Self {
        Self {
            requests: 0,
            answered: 0,
            failed: 0,
            lost: 0,
            doubled: 0,
            misordered: 0,
            again: 0,
            resets: 0,
            cut: 0,
            asked_to_go: 0,
            refused: 0,
            kept: 0,
            clients: clients as u64,
            quiet: latency_histogram(),
            busy: latency_histogram(),
            notes: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Quick,
    Slow,
    Large,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    due: Instant,
    bytes: u32,
    delay_ms: u32,
    reply_bytes: u32,
    /// Pause in the middle.
    halves_ms: u32,
    timed: bool,
    busy: bool,
}

struct Client {
    tongue: Tongue,
    target: SocketAddr,
    part: Part,
    interval: Duration,
    due: Instant,
    turns: u32,
    sequence: u32,
    waiting: VecDeque<Wanted>,
    connection: Option<Connection>,
    /// Connections so far; with the client's number it names events.
    connects: u32,
    first_port: Option<u16>,
    lost_first: bool,
}

struct Connection {
    stream: TcpStream,
    connected: bool,
    speech: Speech,
    out: Vec<u8>,
    sent: usize,
    /// What is not to be sent before a time: everything from here on.
    held: Option<(usize, Instant)>,
    under_way: BTreeMap<u64, Wanted>,
    asked_to_go: bool,
}

enum End {
    /// By the other side.
    Closed,
    Error(io::Error),
    Broken(String),
    /// By us, in good order.
    Gone,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Turn(usize),
    Release(usize, u32),
    Connect(usize),
}

struct Generator {
    plan: Plan,
    shared: Arc<Shared>,
    epoll: Epoll,
    clients: Vec<Client>,
    tallies: BTreeMap<Tongue, Tally>,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    begun: Instant,
    piece: Vec<u8>,
}

impl Generator {
    fn new(plan: Plan, shared: Arc<Shared>) -> io::Result<Self> {
        let begun = Instant::now();
        let mut clients = Vec::new();
        let mut tallies = BTreeMap::new();
        for (tongue, target) in &plan.targets {
            tallies.insert(*tongue, Tally::new(plan.connections));
            for place in 0..plan.connections {
                clients.push(Client::new(*tongue, *target, place, &plan, begun));
            }
        }
        let timers = clients.iter().enumerate();
        let timers =
            timers.map(|(index, client)| Reverse((client.due, Timer::Turn(index)))).collect();
        Ok(Self {
            plan,
            shared,
            epoll: Epoll::new()?,
            clients,
            tallies,
            timers,
            begun,
            piece: vec![0; READ_BYTES],
        })
    }

    fn run(mut self) -> io::Result<BTreeMap<Tongue, Tally>> {
        sys::precise_timers();
        for index in 0..self.clients.len() {
            self.connect(index);
        }
        let mut looked = Instant::now();
        let mut stopped: Option<Instant> = None;
        loop {
            if stopped.is_none() && self.shared.stop.load(Ordering::Relaxed) {
                stopped = Some(Instant::now());
            }
            if let Some(stopped) = stopped
                && (self.is_quiet() || stopped.elapsed() > PATIENCE)
            {
                break;
            }
            self.on_timers(stopped.is_some());
            let wait = match self.timers.peek() {
                Some(Reverse((at, _))) => at.saturating_duration_since(Instant::now()).min(GLANCE),
                None => GLANCE,
            };
            self.epoll.wait(wait)?;
            for event in 0..self.epoll.count() {
                let token = self.epoll.ready(event).token;
                self.advance(token as u32 as usize, (token >> u32::BITS) as u32);
            }
            if looked.elapsed() > GLANCE {
                looked = Instant::now();
                self.give_up_silent();
            }
        }
        Ok(self.sum_up())
    }

    fn is_quiet(&self) -> bool {
        self.clients.iter().all(|client| {
            client.waiting.is_empty()
                && client.connection.as_ref().is_none_or(|one| one.under_way.is_empty())
        })
    }

    fn sum_up(mut self) -> BTreeMap<Tongue, Tally> {
        for client in &self.clients {
            let Some(tally) = self.tallies.get_mut(&client.tongue) else { continue };
            tally.failed += client.waiting.len() as u64;
            let connection = client.connection.as_ref();
            tally.lost += connection.map_or(0, |one| one.under_way.len()) as u64;
            let port = connection.and_then(|one| one.stream.local_addr().ok());
            let has_first = port.map(|address| address.port()) == client.first_port;
            tally.kept += u64::from(has_first && client.first_port.is_some() && !client.lost_first);
        }
        self.tallies
    }

    fn on_timers(&mut self, stopped: bool) {
        let now = Instant::now();
        while let Some(Reverse((at, _))) = self.timers.peek()
            && *at <= now
        {
            let Some(Reverse((_, timer))) = self.timers.pop() else { return };
            match timer {
                Timer::Turn(_) if stopped => {}
                Timer::Turn(index) => {
                    let busy = self.shared.handing_over.load(Ordering::Relaxed);
                    let client = &mut self.clients[index];
                    let dropped = client.take_turn(&self.plan, busy);
                    self.timers.push(Reverse((client.due, Timer::Turn(index))));
                    if dropped > 0 {
                        let tongue = client.tongue;
                        self.tally(tongue).failed += dropped;
                    }
                    self.pump(index);
                }
                Timer::Release(index, connects) => {
                    if self.clients[index].connects == connects {
                        self.flush(index);
                    }
                }
                Timer::Connect(index) => self.connect(index),
            }
        }
    }

    fn tally(&mut self, tongue: Tongue) -> &mut Tally {
        let clients = self.plan.connections;
        self.tallies.entry(tongue).or_insert_with(|| Tally::new(clients))
    }

    fn note(&mut self, index: usize, what: &str) {
        let tongue = self.clients[index].tongue;
        let part = self.clients[index].part;
        let port = self.clients[index].first_port.unwrap_or(0);
        let at = self.begun.elapsed().as_secs_f64();
        let tally = self.tally(tongue);
        if tally.notes.len() < NOTES_MAX {
            tally
                .notes
                .push(format!("at {at:.3} s, {part:?} client {index} (port {port}): {what}"));
        }
    }

    fn connect(&mut self, index: usize) {
        match self.clients[index].connect(index, &self.epoll) {
            Ok(()) => {}
            Err(error) => self.on_refused(index, &error),
        }
    }

    fn on_refused(&mut self, index: usize, error: &io::Error) {
        let client = &mut self.clients[index];
        client.connection = None;
        client.lost_first = true;
        let tongue = client.tongue;
        self.tally(tongue).refused += 1;
        self.note(index, &format!("connect: {error}"));
        self.timers.push(Reverse((Instant::now() + CONNECT_PAUSE, Timer::Connect(index))));
    }

    fn advance(&mut self, index: usize, connects: u32) {
        let client = &mut self.clients[index];
        if client.connects != connects {
            return;
        }
        let Some(connection) = &mut client.connection else { return };
        if !connection.connected {
            match connection.stream.take_error() {
                Ok(None) if connection.stream.peer_addr().is_err() => return,
                Ok(None) => connection.connected = true,
                Ok(Some(error)) | Err(error) => return self.on_refused(index, &error),
            }
            let port = connection.stream.local_addr().ok().map(|address| address.port());
            client.first_port = client.first_port.or(port);
        }
        self.read(index);
        self.pump(index);
    }

    fn read(&mut self, index: usize) {
        let mut piece = std::mem::take(&mut self.piece);
        let mut heard = Vec::new();
        let mut end = None;
        if let Some(connection) = &mut self.clients[index].connection {
            while end.is_none() {
                match connection.stream.read(&mut piece) {
                    Ok(0) => end = Some(End::Closed),
                    Ok(count) => {
                        let Connection { speech, out, .. } = connection;
                        if let Err(what) = speech.feed(&piece[..count], out, &mut heard) {
                            end = Some(End::Broken(what));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => end = Some(End::Error(error)),
                }
            }
        }
        self.piece = piece;
        // What follows on an answer out of place means nothing.
        let is_broken = heard.into_iter().any(|one| !self.on_heard(index, one));
        if is_broken && end.is_none() {
            end = Some(End::Broken("answers out of place".to_owned()));
        }
        if let Some(end) = end {
            self.on_end(index, &end);
        }
    }

    /// Whether the connection can go on.
    fn on_heard(&mut self, index: usize, heard: Heard) -> bool {
        let busy = self.shared.handing_over.load(Ordering::Relaxed);
        let client = &mut self.clients[index];
        let tongue = client.tongue;
        let Some(connection) = &mut client.connection else { return true };
        match heard {
            Heard::AskedToGo => connection.asked_to_go = true,
            Heard::Refused(id) => {
                if let Some(wanted) = connection.under_way.remove(&id) {
                    client.waiting.push_back(wanted);
                    self.tally(tongue).again += 1;
                }
            }
            Heard::Answer { to, content } => {
                let wanted = to.and_then(|to| connection.under_way.remove(&to));
                let sequence = client.sequence;
                match (to, content) {
                    (Some(to), Ok(id)) if to == id => {
                        let Some(wanted) = wanted else { return true };
                        self.on_answered(tongue, wanted, busy);
                    }
                    (_, Ok(id)) => {
                        let is_known = (id >> u32::BITS) as usize == index
                            && (id as u32) < sequence
                            && !connection.under_way.contains_key(&id);
                        // What this came in place of has none.
                        let tally = self.tally(tongue);
                        tally.lost += u64::from(wanted.is_some());
                        if is_known {
                            tally.doubled += 1;
                        } else {
                            tally.misordered += 1;
                        }
                        self.note(index, &format!("answer {id:x} in the place of {to:x?}"));
                        return false;
                    }
                    (to, Err(what)) => {
                        self.tally(tongue).failed += 1;
                        self.note(index, &format!("answer to {to:x?}: {what}"));
                    }
                }
            }
        }
        true
    }

    fn on_answered(&mut self, tongue: Tongue, wanted: Wanted, busy: bool) {
        self.shared.answered.fetch_add(1, Ordering::Relaxed);
        let tally = self.tally(tongue);
        tally.answered += 1;
        if wanted.timed {
            let nanos = u64::try_from(wanted.due.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let times = if wanted.busy || busy { &mut tally.busy } else { &mut tally.quiet };
            times.saturating_record(nanos);
        }
    }

    /// A connection is over: its requests have their fates, and the client connects again.
    fn on_end(&mut self, index: usize, end: &End) {
        let client = &mut self.clients[index];
        let Some(connection) = client.connection.take() else { return };
        let left = connection.under_way.len();
        client.lost_first = true;
        let tongue = client.tongue;
        let tally = self.tally(tongue);
        tally.lost += left as u64;
        match end {
            End::Gone => tally.asked_to_go += 1,
            End::Closed if left == 0 => tally.asked_to_go += 1,
            End::Closed => {
                tally.cut += 1;
                let asked = if connection.asked_to_go { ", asked to go before" } else { "" };
                self.note(index, &format!("closed with {left} requests under way{asked}"));
            }
            End::Error(error) => {
                tally.resets += 1;
                self.note(index, &format!("{error}, {left} requests under way"));
            }
            End::Broken(what) => {
                tally.cut += 1;
                self.note(index, &format!("{what}, {left} requests under way"));
            }
        }
        drop(connection);
        self.connect(index);
    }

    /// Sends what waits, as far as it may be.
    fn pump(&mut self, index: usize) {
        let tongue = self.clients[index].tongue;
        let client = &mut self.clients[index];
        let Some(connection) = &mut client.connection else { return };
        let mut sent = 0;
        while connection.takes_more()
            && let Some(wanted) = client.waiting.pop_front()
        {
            let id = Ask::id(index as u32, client.sequence);
            client.sequence += 1;
            let ask = Ask { id, delay_ms: wanted.delay_ms, reply_bytes: wanted.reply_bytes };
            let start = connection.out.len();
            connection.speech.request(ask, wanted.bytes as usize, &mut connection.out);
            connection.under_way.insert(id, wanted);
            sent += 1;
            if wanted.halves_ms > 0 && connection.held.is_none() {
                let until = Instant::now() + Duration::from_millis(wanted.halves_ms.into());
                connection.held = Some(((start + connection.out.len()) / 2, until));
                self.timers.push(Reverse((until, Timer::Release(index, client.connects))));
            }
        }
        let is_done = connection.asked_to_go && connection.under_way.is_empty();
        self.tally(tongue).requests += sent;
        if is_done {
            self.on_end(index, &End::Gone);
        } else {
            self.flush(index);
        }
    }

    fn flush(&mut self, index: usize) {
        let Some(connection) = &mut self.clients[index].connection else { return };
        if connection.connected
            && let Err(error) = connection.flush()
        {
            // What has come before it broke counts.
            self.read(index);
            self.on_end(index, &End::Error(error));
        }
    }

    fn give_up_silent(&mut self) {
        let busy = self.shared.handing_over.load(Ordering::Relaxed);
        for index in 0..self.clients.len() {
            let Some(connection) = &mut self.clients[index].connection else { continue };
            let mut is_silent = false;
            for wanted in connection.under_way.values_mut() {
                wanted.busy |= busy;
                let delay = Duration::from_millis(wanted.delay_ms.into());
                is_silent |= wanted.due.elapsed() > PATIENCE + delay;
            }
            if is_silent {
                self.on_end(index, &End::Broken("no answer in time".to_owned()));
            }
        }
    }
}

impl Client {
    fn new(tongue: Tongue, target: SocketAddr, place: usize, plan: &Plan, begun: Instant) -> Self {
        let (four, own) = (place / 4, place % 4);
        let quarter = plan.connections.div_ceil(4);
        let (part, turn, each, rate) = match own {
            0 | 1 => (Part::Quick, four * 2 + own, quarter * 2, plan.rate.div_ceil(2)),
            2 => (Part::Slow, four, quarter, ROUNDS_PER_SECOND),
            _ => (Part::Large, four, quarter, ROUNDS_PER_SECOND),
        };
        let interval = Duration::from_secs(1) * each as u32 / rate.max(1);
        // Clients of a part take turns at even distances.
        let due = begun + interval.mul_f64(turn as f64 / each as f64);
        Self {
            tongue,
            target,
            part,
            interval,
            due,
            turns: 0,
            sequence: 0,
            waiting: VecDeque::new(),
            connection: None,
            connects: 0,
            first_port: None,
            lost_first: false,
        }
    }

    fn connect(&mut self, index: usize, epoll: &Epoll) -> io::Result<()> {
        self.connects += 1;
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, None)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let stream = TcpStream::from(socket);
        epoll.add(&stream, u64::from(self.connects) << u32::BITS | index as u64)?;
        let mut out = Vec::new();
        let speech = Speech::open(self.tongue, &mut out);
        self.connection = Some(Connection {
            stream,
            connected: false,
            speech,
            out,
            sent: 0,
            held: None,
            under_way: BTreeMap::new(),
            asked_to_go: false,
        });
        Ok(())
    }

    /// Notes what is due, and when it is next; how many had no room.
    fn take_turn(&mut self, plan: &Plan, busy: bool) -> u64 {
        let due = self.due;
        self.due += self.interval;
        self.turns = self.turns.wrapping_add(1);
        let turn = self.turns;
        let small = Wanted {
            due,
            bytes: if turn.is_multiple_of(2) { 0 } else { SMALL_BYTES },
            delay_ms: 0,
            reply_bytes: SMALL_BYTES,
            halves_ms: 0,
            timed: self.part == Part::Quick,
            busy,
        };
        let pause = HALVES_MS[turn as usize % HALVES_MS.len()];
        let room = WAITING_MAX.saturating_sub(self.waiting.len());
        let wanted = match self.part {
            Part::Quick if turn.is_multiple_of(16) => {
                let untimed = Wanted { timed: false, ..small };
                vec![Wanted { halves_ms: pause, ..untimed }, untimed]
            }
            Part::Quick => vec![small, Wanted { bytes: SMALL_BYTES, ..small }],
            Part::Slow => {
                if self.is_laden() {
                    return 0;
                }
                let most = u32::try_from(plan.slow.as_millis()).unwrap_or(u32::MAX).max(1);
                // Spread over the range, the longest among them.
                let delay_ms = most - turn.wrapping_mul(0x9E37_79B9) % most.div_ceil(2);
                vec![Wanted { delay_ms, ..small }, small, small]
            }
            Part::Large => {
                if self.is_laden() {
                    return 0;
                }
                let large = plan.large_bytes.max(HEAD_BYTES as u32);
                let (bytes, reply_bytes) = match turn % 3 {
                    0 => (large, SMALL_BYTES),
                    1 => (0, large),
                    _ => (large, large),
                };
                let halves_ms = if turn.is_multiple_of(2) { pause } else { 0 };
                vec![Wanted { bytes, reply_bytes, halves_ms, ..small }]
            }
        };
        // The interval after a long one would be full of old ones.
        let taken = wanted.len().min(room);
        self.waiting.extend(wanted[..taken].iter().copied());
        (wanted.len() - taken) as u64
    }

    /// Has enough under way that takes long.
    fn is_laden(&self) -> bool {
        const MOST: usize = 8;
        let under_way = self.connection.as_ref().map_or(0, |one| one.under_way.len());
        under_way + self.waiting.len() > MOST
    }
}

impl Connection {
    fn takes_more(&self) -> bool {
        self.connected && !self.asked_to_go && self.under_way.len() < UNDER_WAY_MAX
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_some_and(|(_, until)| until <= Instant::now()) {
            self.held = None;
        }
        let end = self.held.map_or(self.out.len(), |(end, _)| end);
        if !write_from(&mut self.stream, &self.out[..end], &mut self.sent)? {
            return Ok(());
        }
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{Ipv4Addr, TcpListener},
    };

    use super::*;
    use crate::upgrade::origin::Origin;

    const ALL: [Tongue; 5] =
        [Tongue::Http1, Tongue::Http2, Tongue::Bolt, Tongue::Dubbo, Tongue::Tcp];

    fn plan(targets: Vec<(Tongue, SocketAddr)>) -> Plan {
        let slow = Duration::from_millis(100);
        Plan { targets, connections: 4, rate: 400, slow, large_bytes: 100_000 }
    }

    fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < PATIENCE, "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn nothing_goes_wrong_without_a_proxy() {
        let origin = Origin::start(&ALL).unwrap();
        let targets = ALL.map(|tongue| (tongue, origin.address(tongue).unwrap())).to_vec();
        let load = Running::start(plan(targets)).unwrap();
        wait_until("answers", || load.answered() > 1000);
        load.handing_over(true);
        wait_until("answers", || load.answered() > 2000);
        let tallies = load.finish().unwrap();
        let seen = origin.finish().unwrap();
        for (tongue, tally) in &tallies {
            let seen = seen[tongue];
            assert_eq!(tally.answered, tally.requests, "{tongue:?}: {:?}", tally.notes);
            let case =
                crate::upgrade::ProtocolCase::new(*tongue, tally, seen.doubled, seen.damaged);
            assert!(case.is_flawless(), "{case:?}");
            assert_eq!((case.kept, case.reconnects(), case.again), (4, 0, 0), "{case:?}");
            assert!(case.quiet.count > 0 && case.busy.count > 0, "{case:?}");
        }
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Lie {
        Double,
        Swap,
        Damage,
        Close,
        Reset,
    }

    /// A server that does its worst once, on the first connection, and is honest elsewhere.
    fn liar(lie: Lie) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { return };
                thread::spawn(move || converse(stream, (number == 0).then_some(lie)));
            }
        });
        address
    }

    fn converse(mut stream: TcpStream, mut lie: Option<Lie>) -> io::Result<()> {
        let mut put_off: Option<Vec<u8>> = None;
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut content = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut content)?;
            let ask = Ask::read(&content).unwrap();
            let mut answer = ask.reply_bytes.to_be_bytes().to_vec();
            ask.put(ask.reply_bytes as usize, &mut answer);
            match lie {
                Some(Lie::Double) => answer.extend_from_within(..),
                Some(Lie::Damage) => *answer.last_mut().unwrap() ^= 1,
                Some(Lie::Swap) if put_off.is_none() => {
                    put_off = Some(answer);
                    continue;
                }
                Some(Lie::Swap) => answer.append(put_off.as_mut().unwrap()),
                Some(Lie::Close) => {
                    stream.shutdown(std::net::Shutdown::Write)?;
                    // To close with something unread would be a reset.
                    return io::copy(&mut stream, &mut io::sink()).map(|_| ());
                }
                Some(Lie::Reset) => {
                    return socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                }
                None => {}
            }
            lie = None;
            stream.write_all(&answer)?;
        }
    }

    #[test]
    fn every_lie_is_found() {
        for (lie, name) in [
            (Lie::Double, "doubled"),
            (Lie::Swap, "misordered"),
            (Lie::Damage, "failed"),
            (Lie::Close, "cut"),
            (Lie::Reset, "resets"),
        ] {
            let load = Running::start(plan(vec![(Tongue::Tcp, liar(lie))])).unwrap();
            wait_until("answers", || load.answered() > 100);
            let tally = load.finish().unwrap().remove(&Tongue::Tcp).unwrap();
            let found = [
                ("doubled", tally.doubled),
                ("misordered", tally.misordered),
                ("failed", tally.failed),
                ("resets", tally.resets),
            ];
            for (kind, count) in found {
                assert_eq!(count, u64::from(kind == name), "{name}: {kind} {:?}", tally.notes);
            }
            // Answers that can't be trusted end the connection.
            let is_cut = !matches!(lie, Lie::Damage | Lie::Reset);
            assert_eq!(tally.cut, u64::from(is_cut), "{name}");
            assert_eq!(tally.kept, if lie == Lie::Damage { 4 } else { 3 }, "{name}");
            // An answer in the place of another leaves that one without.
            let is_lost = !matches!(lie, Lie::Damage);
            assert_eq!(tally.lost > 0, is_lost, "{name}: {:?}", tally.notes);
            let fates = tally.answered + tally.failed + tally.lost;
            assert_eq!(fates, tally.requests, "{name}: {tally:?}");
        }
    }
}
