//! The load generator: one thread, non-blocking sockets, closed or open loop.
//!
//! Closed loop: every connection sends its next request as soon as the last one is answered, which
//! finds the capacity and hides waiting. Open loop: requests are due at a fixed rate whatever the
//! target does ([`crate::schedule`]), and the latency of each counts from the moment it was due, so
//! coordinated omission can't happen; one that is due while no connection is free waits for one and
//! is charged for that.
//!
//! A run has a warm-up, whose requests are not counted, then the window. A closed-loop request
//! belongs to the window in which it completes. In open loop the rate is of completions in the
//! window too, but latencies and faults are those of the requests due in it: after the window the
//! run goes on, at most [`DRAIN_MAX`], until each is settled, and one that still isn't counts as
//! [`Fault::Unfinished`] with the latency it had reached.
//!
//! A connection has as many requests in flight as the protocol has slots: one with HTTP/1.1, one per
//! stream with HTTP/2. Every request has its own latency. If a plan wants a fresh connection for
//! each request, latency counts from the beginning of its connect.
//!
//! The generator must cost less than what it measures. A request is one `send`, one `recv`, one
//! clock reading and a share of an `epoll_wait`, and streams share those of their connection; the
//! kernel drops long plaintext bodies without copying them.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read},
    mem::{self, MaybeUninit},
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use socket2::{SockRef, Socket};

use crate::{
    channel::Channel,
    epoll::{Epoll, Ready},
    protocol::{Ended, Fault, Protocol, Session},
    schedule::Schedule,
    sys,
    tls::TlsClient,
};

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whom to load.
    pub target: SocketAddr,
    /// Local addresses, taken in turn; the kernel chooses when empty.
    pub sources: Vec<IpAddr>,
    /// Connections, all opened at the start.
    pub connections: usize,
    /// TLS, if any.
    pub tls: Option<TlsClient>,
    /// Every request is the only one of its connection, as its protocol ensures; closed loop only.
    pub fresh: bool,
    /// When requests are sent.
    pub pace: Pace,
    /// Time before the window.
    pub warmup: Duration,
    /// Length of the window.
    pub duration: Duration,
    /// In open loop: equal parts of the window that are told apart; 0 for none.
    pub parts: u32,
    /// A request not answered for so long fails, and with it all others of its connection, which is
    /// closed.
    pub request_timeout: Duration,
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// One after the other in each slot of each connection.
    Closed,
    /// At a fixed rate over all connections.
    Open {
        /// Requests per second.
        rate: NonZeroU64,
        /// Spread due times within their slots.
        jitter: bool,
    },
}

/// The two ends of the measured window and the beginnings of its parts, told to the observer of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The warm-up is over.
    Opens,
    /// A part of the window begins, counted from 0.
    Part(u32),
    /// The window is over.
    Closes,
}

/// What a run found.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Requests completed in the window.
    pub completed: u64,
    /// Their body bytes.
    pub body_bytes: u64,
    /// Real length of the window.
    pub elapsed: Duration,
    /// Latencies in nanoseconds.
    pub latency: Histogram<u64>,
    /// Those of requests due in each part of the window.
    pub parts: Vec<Histogram<u64>>,
    /// How late requests were sent, in nanoseconds; empty in closed loop. Part of the latencies: a
    /// high value with idle connections at hand means the generator itself was short of CPU.
    pub lateness: Histogram<u64>,
    /// Failed requests and connects of the window, by [`Fault::index`].
    pub faults: [u64; Fault::ALL.len()],
    /// Failed requests and connects of the warm-up.
    pub faults_in_warmup: u64,
    /// Connections made again after one was closed between requests, by either side.
    pub reconnects: u64,
}

impl Outcome {
    /// All failures in the window.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.faults.iter().sum()
    }

    /// Completed requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.completed as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Why a run gave no result.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The kernel refused something a run can't do without.
    #[error("load generator: {0}")]
    Io(#[from] io::Error),
}

/// Longest time after an open-loop window to wait for its requests.
pub const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Largest latency told apart; above, the histogram saturates.
const LATENCY_MAX: Duration = Duration::from_secs(120);
/// Bytes taken by one read.
const READ_BYTES: usize = 128 * 1024;
/// From this many body bytes on, the kernel drops them for us.
const SKIP_BYTES_MIN: u64 = 4096;
/// Most bytes dropped by one call.
const SKIP_BYTES_MAX: usize = 1024 * 1024;
/// Pause after a failed connect or request before the connection is made again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);
/// How often request timeouts and the stop flag are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(50);

/// An empty latency histogram: 1 ns to 120 s, above which it saturates, three significant digits.
#[must_use]
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, nanos(LATENCY_MAX), 3).expect("constant bounds are valid")
}

/// Runs a plan on the calling thread. `observer` is called once at each edge of the window and its parts.
///
/// # Errors
///
/// [`LoadError::Interrupted`] soon after `stop` is set; [`LoadError::Io`] when the observer fails or
/// when the kernel refuses sockets for a reason other than the target (descriptors, memory). What the
/// target does wrong is counted, not returned.
pub fn run<P: Protocol>(
    plan: &Plan,
    protocol: &P,
    stop: &AtomicBool,
    observer: &mut dyn FnMut(Edge) -> io::Result<()>,
) -> Result<Outcome, LoadError> {
    let schedule = match plan.pace {
        Pace::Closed => None,
        Pace::Open { rate, jitter } => Some(Schedule::new(rate, jitter, SEED)),
    };
    let slots = protocol.slots();
    let mut connections = Vec::with_capacity(plan.connections);
    connections.resize_with(plan.connections, || Connection {
        channel: None,
        session: protocol.session(),
        phase: Phase::Down,
        opened_ns: 0,
        due_ns: vec![IDLE; slots],
        busy: 0,
    });
    let mut generator = Generator {
        plan,
        protocol,
        epoll: Epoll::new()?,
        connections,
        schedule,
        free: VecDeque::with_capacity(plan.connections * slots),
        down: (0..plan.connections).map(|index| (0, index)).collect(),
        buffer: vec![0; READ_BYTES],
        plain: Vec::new(),
        ended: Vec::new(),
        scrap: vec![MaybeUninit::uninit(); SKIP_BYTES_MAX],
        start: Instant::now(),
        window: Window::Before,
        part: 0,
        in_flight_due: 0,
        tally: Outcome {
            completed: 0,
            body_bytes: 0,
            elapsed: Duration::ZERO,
            latency: latency_histogram(),
            parts: vec![latency_histogram(); plan.parts as usize],
            lateness: latency_histogram(),
            faults: [0; Fault::ALL.len()],
            faults_in_warmup: 0,
            reconnects: 0,
        },
    };
    generator.run(stop, observer)?;
    Ok(generator.tally)
}

/// Every open-loop run draws the same jitter, so that repetitions differ in the target only.
const SEED: u64 = 0x6f75_7472_6967;
/// In place of a due time: no request.
const IDLE: u64 = u64::MAX;

struct Generator<'a, P: Protocol> {
    plan: &'a Plan,
    protocol: &'a P,
    epoll: Epoll,
    connections: Vec<Connection<P::Session>>,
    /// Open loop only.
    schedule: Option<Schedule>,
    /// Open loop only: connections and their slots without a request, longest idle first.
    free: VecDeque<(usize, usize)>,
    /// Connections to make, with the time from which on, ascending.
    down: VecDeque<(u64, usize)>,
    buffer: Vec<u8>,
    /// What `buffer` decrypts to.
    plain: Vec<u8>,
    /// Requests that ended with the last read.
    ended: Vec<Ended>,
    /// Where the kernel drops body bytes; with MSG_TRUNC it writes nothing here.
    scrap: Vec<MaybeUninit<u8>>,
    start: Instant,
    window: Window,
    /// The next one to begin.
    part: u32,
    /// Open loop only: requests in flight that were due in the window.
    in_flight_due: u64,
    tally: Outcome,
}

struct Connection<S> {
    channel: Option<Channel>,
    session: S,
    phase: Phase,
    /// When the connect began.
    opened_ns: u64,
    /// When the request in each slot was due, or [`IDLE`].
    due_ns: Vec<u64>,
    /// Slots with a request.
    busy: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    Connecting,
    Up,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Window {
    Before,
    Open { from_ns: u64 },
    Closed { from_ns: u64, to_ns: u64 },
}

/// What one read brought.
enum Taken {
    /// Something; nothing is left if `drained`.
    Bytes { drained: bool },
    /// The end of the stream.
    End,
    /// Nothing.
    Nothing,
}

impl<P: Protocol> Generator<'_, P> {
    fn run(
        &mut self,
        stop: &AtomicBool,
        observer: &mut dyn FnMut(Edge) -> io::Result<()>,
    ) -> Result<(), LoadError> {
        let warmup_ns = nanos(self.plan.warmup);
        let duration_ns = nanos(self.plan.duration);
        let mut housekeeping_ns = 0;
        loop {
            let now = self.now_ns();
            match self.window {
                Window::Before if now >= warmup_ns => {
                    observer(Edge::Opens)?;
                    self.window = Window::Open { from_ns: self.now_ns() };
                }
                Window::Open { from_ns }
                    if self.part < self.plan.parts && now >= self.part_begins_ns(from_ns) =>
                {
                    observer(Edge::Part(self.part))?;
                    self.part += 1;
                }
                Window::Open { from_ns } if now >= from_ns + duration_ns => {
                    self.window = Window::Closed { from_ns, to_ns: now };
                    self.tally.elapsed = Duration::from_nanos(now - from_ns);
                    observer(Edge::Closes)?;
                }
                Window::Closed { to_ns, .. }
                    if self.settled() || now >= to_ns + nanos(DRAIN_MAX) =>
                {
                    self.count_unfinished(now);
                    return Ok(());
                }
                _ => {}
            }
            if now >= housekeeping_ns {
                housekeeping_ns = now + nanos(HOUSEKEEPING);
                if stop.load(Ordering::Relaxed) {
                    return Err(LoadError::Interrupted);
                }
                self.expire(now);
            }
            self.reconnect(now)?;
            self.dispatch(now);
            let edge_ns = match self.window {
                Window::Before => warmup_ns,
                Window::Open { from_ns } if self.part < self.plan.parts => {
                    self.part_begins_ns(from_ns)
                }
                Window::Open { from_ns } => from_ns + duration_ns,
                Window::Closed { to_ns, .. } => to_ns + nanos(DRAIN_MAX),
            };
            let until_ns = self.next_due_ns().min(edge_ns).min(housekeeping_ns);
            let pause = Duration::from_nanos(until_ns.saturating_sub(self.now_ns()));
            self.epoll.wait(pause)?;
            for event in 0..self.epoll.count() {
                let ready = self.epoll.ready(event);
                if let Ok(index) = usize::try_from(ready.token) {
                    self.on_ready(index, ready);
                }
            }
        }
    }

    fn now_ns(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    /// Nothing of the window is outstanding.
    fn settled(&self) -> bool {
        match (self.window, &self.schedule) {
            (Window::Closed { to_ns, .. }, Some(schedule)) => {
                self.in_flight_due == 0 && schedule.due_ns() >= to_ns
            }
            _ => true,
        }
    }

    /// Charges what was due in the window and did not complete.
    fn count_unfinished(&mut self, now: u64) {
        let Window::Closed { from_ns, to_ns } = self.window else { return };
        let Some(schedule) = &mut self.schedule else { return };
        let in_flight = self.connections.iter().flat_map(|one| &one.due_ns);
        let mut due: Vec<u64> = in_flight.copied().filter(|due_ns| *due_ns != IDLE).collect();
        while schedule.due_ns() < to_ns {
            due.push(schedule.take());
        }
        for due_ns in due.into_iter().filter(|due| (from_ns..to_ns).contains(due)) {
            self.record(due_ns, now);
            self.tally.faults[Fault::Unfinished.index()] += 1;
        }
    }

    /// Fails requests and connects that take too long.
    fn expire(&mut self, now: u64) {
        let limit = nanos(self.plan.request_timeout);
        for index in 0..self.connections.len() {
            let Connection { phase, opened_ns, due_ns, .. } = &self.connections[index];
            // In open loop waiting for a connection counts as latency, and here too: the sum is
            // what a caller would have waited.
            if due_ns.iter().any(|due_ns| *due_ns != IDLE && now > *due_ns + limit) {
                self.fail(index, Fault::Timeout);
            } else if *phase == Phase::Connecting && now > *opened_ns + limit {
                self.fail(index, Fault::Connect);
            }
        }
    }

    fn reconnect(&mut self, now: u64) -> Result<(), LoadError> {
        while let Some(&(from_ns, index)) = self.down.front() {
            if from_ns > now {
                return Ok(());
            }
            self.down.pop_front();
            let socket = self.connect(index)?;
            let connection = &mut self.connections[index];
            connection.opened_ns = now;
            match socket {
                Ok(socket) => {
                    self.epoll.add(&socket, index as u64)?;
                    let mut channel = Channel::new(socket.into(), self.plan.tls.as_ref())?;
                    connection.session = self.protocol.session();
                    connection.session.open(&mut channel.out);
                    connection.channel = Some(channel);
                    connection.phase = Phase::Connecting;
                }
                Err(_) => self.fail(index, Fault::Connect),
            }
        }
        Ok(())
    }

    /// Begins a connect. The outer error is ours (no descriptors), the inner one the target's.
    fn connect(&self, index: usize) -> Result<io::Result<Socket>, LoadError> {
        let target = self.plan.target;
        let source = (!self.plan.sources.is_empty())
            .then(|| self.plan.sources[index % self.plan.sources.len()]);
        let socket = sys::client_socket(target, source)?;
        socket.set_nonblocking(true)?;
        Ok(match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        })
    }

    /// Open loop: sends everything that is due and has a free slot.
    fn dispatch(&mut self, now: u64) {
        let last = match self.window {
            Window::Closed { to_ns, .. } => to_ns,
            _ => u64::MAX,
        };
        while let Some(schedule) = &mut self.schedule {
            if schedule.due_ns() > now || schedule.due_ns() >= last {
                return;
            }
            // Entries of connections that broke while idle are stale.
            let Some((index, slot)) = self.free.pop_front() else { return };
            let Connection { phase, due_ns, session, .. } = &self.connections[index];
            if *phase != Phase::Up || due_ns[slot] != IDLE || !session.is_reusable() {
                continue;
            }
            let due_ns = schedule.take();
            if self.counts(due_ns) {
                self.in_flight_due += 1;
                self.tally.lateness.saturating_record(now - due_ns);
            }
            self.issue(index, slot, due_ns);
            self.flush(index);
        }
    }

    /// When the next thing happens that no event announces.
    fn next_due_ns(&self) -> u64 {
        let reconnect = self.down.front().map_or(u64::MAX, |&(from_ns, _)| from_ns);
        match &self.schedule {
            Some(schedule) if !self.free.is_empty() => reconnect.min(schedule.due_ns()),
            _ => reconnect,
        }
    }

    /// Whether a request due then belongs to the window. Before it opens its end is not known, but
    /// then nothing due in it can have been sent.
    fn counts(&self, due_ns: u64) -> bool {
        match self.window {
            Window::Before => false,
            Window::Open { from_ns } => due_ns >= from_ns,
            Window::Closed { from_ns, to_ns } => (from_ns..to_ns).contains(&due_ns),
        }
    }

    fn on_ready(&mut self, index: usize, ready: Ready) {
        let connection = &self.connections[index];
        let Some(channel) = &connection.channel else { return };
        if connection.phase == Phase::Connecting {
            if !ready.writable {
                return;
            }
            if !matches!(channel.socket().take_error(), Ok(None)) {
                return self.fail(index, Fault::Connect);
            }
            return self.on_connected(index);
        }
        if ready.writable && channel.has_unsent() {
            self.flush(index);
        }
        if ready.readable {
            self.read(index, ready.closing);
        }
    }

    fn on_connected(&mut self, index: usize) {
        let now = self.now_ns();
        let connection = &mut self.connections[index];
        connection.phase = Phase::Up;
        let due_ns = if self.plan.fresh { connection.opened_ns } else { now };
        let slots = connection.due_ns.len();
        for slot in 0..slots {
            self.on_free(index, slot, due_ns);
        }
        self.flush(index);
    }

    /// A slot has no request any more: give it one, or queue it.
    fn on_free(&mut self, index: usize, slot: usize, now: u64) {
        match (&self.schedule, self.window) {
            (Some(_), _) => self.free.push_back((index, slot)),
            (None, Window::Closed { .. }) => {}
            (None, _) => self.issue(index, slot, now),
        }
    }

    /// Puts a request into a free slot of a connection that is up. It leaves with the next flush.
    fn issue(&mut self, index: usize, slot: usize, due_ns: u64) {
        let connection = &mut self.connections[index];
        let Some(channel) = &mut connection.channel else { return };
        connection.due_ns[slot] = due_ns;
        connection.busy += 1;
        connection.session.request(slot, &mut channel.out);
    }

    fn flush(&mut self, index: usize) {
        let Some(channel) = &mut self.connections[index].channel else { return };
        if let Err(error) = channel.flush() {
            self.fail(index, fault_of(&error));
        }
    }

    /// Reads until nothing is left; `to_end` when an end of stream is known to be there.
    fn read(&mut self, index: usize, to_end: bool) {
        while self.connections[index].phase == Phase::Up {
            let taken = self.take(index);
            let idle = self.connections[index].busy == 0;
            match taken {
                Ok(Taken::Nothing) => return,
                Ok(Taken::End) => return self.on_end(index),
                Ok(Taken::Bytes { drained }) => {
                    self.settle(index, true);
                    if drained && !to_end {
                        return;
                    }
                }
                Err(Fault::Reset) if idle => return self.close_idle(index),
                Err(fault) => {
                    self.settle(index, false);
                    return self.fail(index, fault);
                }
            }
        }
    }

    /// The peer closed its side.
    fn on_end(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.busy == 0 {
            return self.close_idle(index);
        }
        let finished = connection.session.finish(&mut self.ended);
        self.settle(index, false);
        match finished {
            Ok(()) if self.connections[index].busy == 0 => self.close_idle(index),
            Ok(()) => self.fail(index, Fault::Closed),
            Err(fault) => self.fail(index, fault),
        }
    }

    /// One read, fed to the session; requests that ended with it are in `ended` afterwards.
    fn take(&mut self, index: usize) -> Result<Taken, Fault> {
        let Connection { channel: Some(channel), session, .. } = &mut self.connections[index]
        else {
            return Ok(Taken::Nothing);
        };
        loop {
            let skippable = if channel.is_plain() { session.skippable() } else { 0 };
            let result = if skippable >= SKIP_BYTES_MIN {
                let room =
                    usize::try_from(skippable).map_or(SKIP_BYTES_MAX, |n| n.min(SKIP_BYTES_MAX));
                SockRef::from(channel.socket())
                    .recv_with_flags(&mut self.scrap[..room], libc::MSG_TRUNC)
            } else {
                channel.socket().read(&mut self.buffer)
            };
            let count = match result {
                Ok(0) => return Ok(Taken::End),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Taken::Nothing),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(fault_of(&error)),
            };
            if skippable >= SKIP_BYTES_MIN {
                session.skip(count as u64, &mut self.ended)?;
                return Ok(Taken::Bytes { drained: false });
            }
            let input = channel.open(&self.buffer[..count], &mut self.plain)?;
            session.feed(input, &mut channel.out, &mut self.ended)?;
            return Ok(Taken::Bytes { drained: count < READ_BYTES });
        }
    }

    /// Counts the requests that ended and, if the connection goes on, puts others in their place.
    fn settle(&mut self, index: usize, goes_on: bool) {
        let now = self.now_ns();
        let ended = mem::take(&mut self.ended);
        for Ended { slot, outcome } in &ended {
            self.count(index, *slot, *outcome, now);
        }
        if goes_on {
            let connection = &self.connections[index];
            if connection.session.is_reusable() {
                for Ended { slot, .. } in &ended {
                    self.on_free(index, *slot, now);
                }
                self.flush(index);
            } else if connection.busy == 0 {
                self.close_idle(index);
            } else {
                self.flush(index);
            }
        }
        self.ended = ended;
        self.ended.clear();
    }

    /// Counts one request that ended, and frees its slot.
    fn count(&mut self, index: usize, slot: usize, outcome: Result<u64, Fault>, now: u64) {
        let connection = &mut self.connections[index];
        let due_ns = mem::replace(&mut connection.due_ns[slot], IDLE);
        connection.busy -= 1;
        let open = matches!(self.window, Window::Open { .. });
        let counts = if self.schedule.is_some() { self.counts(due_ns) } else { open };
        if counts && self.schedule.is_some() {
            self.in_flight_due = self.in_flight_due.saturating_sub(1);
        }
        match outcome {
            Ok(body_bytes) => {
                if open {
                    self.tally.completed += 1;
                    self.tally.body_bytes += body_bytes;
                }
                if counts {
                    self.record(due_ns, now);
                }
            }
            Err(fault) if counts => self.tally.faults[fault.index()] += 1,
            Err(_) if self.window == Window::Before => self.tally.faults_in_warmup += 1,
            Err(_) => {}
        }
    }

    /// The latency of a request of the window.
    fn record(&mut self, due_ns: u64, now: u64) {
        let latency_ns = now - due_ns;
        self.tally.latency.saturating_record(latency_ns);
        let (Window::Open { from_ns } | Window::Closed { from_ns, .. }) = self.window else {
            return;
        };
        let part = due_ns.saturating_sub(from_ns).checked_div(self.part_ns()).unwrap_or(0);
        // A window closes somewhat late, and what was due then is of no part.
        if let Some(part) = self.tally.parts.get_mut(part as usize) {
            part.saturating_record(latency_ns);
        }
    }

    /// When the next part begins.
    fn part_begins_ns(&self, from_ns: u64) -> u64 {
        from_ns + u64::from(self.part) * self.part_ns()
    }

    /// Length of a part; 0 without parts.
    fn part_ns(&self) -> u64 {
        nanos(self.plan.duration).checked_div(self.plan.parts.into()).unwrap_or(0)
    }

    /// A connection with nothing to answer is over: no fault, make it again.
    fn close_idle(&mut self, index: usize) {
        self.tally.reconnects += 1;
        self.connections[index].channel = None;
        self.connections[index].phase = Phase::Down;
        // Ahead of those that wait out a pause, whose times are later.
        self.down.push_front((0, index));
    }

    /// A connection is over before its time, and all its requests have failed. Without any, that
    /// counts as one failure of its own.
    fn fail(&mut self, index: usize, fault: Fault) {
        let now = self.now_ns();
        let connection = &mut self.connections[index];
        connection.channel = None;
        connection.phase = Phase::Down;
        if connection.busy == 0 {
            match self.window {
                Window::Before => self.tally.faults_in_warmup += 1,
                Window::Open { .. } => self.tally.faults[fault.index()] += 1,
                Window::Closed { .. } => {}
            }
        }
        for slot in 0..self.connections[index].due_ns.len() {
            if self.connections[index].due_ns[slot] != IDLE {
                self.count(index, slot, Err(fault), now);
            }
        }
        self.down.push_back((now + nanos(RECONNECT_PAUSE), index));
    }
}

fn fault_of(error: &io::Error) -> Fault {
    match error.kind() {
        ErrorKind::ConnectionRefused => Fault::Connect,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            Fault::Reset
        }
        _ => Fault::Closed,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
