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
//! The generator must cost less than what it measures. A request is one `send`, one `recv`, one
//! clock reading and a share of an `epoll_wait`; the kernel drops long bodies without copying them.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr, TcpStream},
    num::NonZeroU64,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use socket2::{SockRef, Socket};

use crate::{
    epoll::{Epoll, Ready},
    protocol::{Fault, Progress, Protocol, Reply, Session},
    schedule::Schedule,
    sys,
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
    /// When requests are sent.
    pub pace: Pace,
    /// Time before the window.
    pub warmup: Duration,
    /// Length of the window.
    pub duration: Duration,
    /// A request not answered for so long fails and its connection is closed.
    pub request_timeout: Duration,
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// One after the other on each connection.
    Closed,
    /// At a fixed rate over all connections.
    Open {
        /// Requests per second.
        rate: NonZeroU64,
        /// Spread due times within their slots.
        jitter: bool,
    },
}

/// The two ends of the measured window, told to the observer of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The warm-up is over.
    Opens,
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
    /// How late requests were sent, in nanoseconds; empty in closed loop. Part of the latencies: a
    /// high value with idle connections at hand means the generator itself was short of CPU.
    pub lateness: Histogram<u64>,
    /// Failed requests and connects of the window, by [`Fault::index`].
    pub faults: [u64; Fault::ALL.len()],
    /// Failed requests and connects of the warm-up.
    pub faults_in_warmup: u64,
    /// Connections made again after the peer closed one between requests.
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

/// Runs a plan on the calling thread. `observer` is called once at each edge of the window.
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
    let mut connections = Vec::with_capacity(plan.connections);
    connections.resize_with(plan.connections, || Connection {
        socket: None,
        session: protocol.session(),
        phase: Phase::Down,
        out: Vec::new(),
        sent: 0,
        due_ns: 0,
    });
    let mut generator = Generator {
        plan,
        protocol,
        epoll: Epoll::new()?,
        connections,
        schedule,
        free: VecDeque::with_capacity(plan.connections),
        down: (0..plan.connections).map(|index| (0, index)).collect(),
        buffer: vec![0; READ_BYTES],
        scrap: vec![MaybeUninit::uninit(); SKIP_BYTES_MAX],
        start: Instant::now(),
        window: Window::Before,
        in_flight_due: 0,
        tally: Outcome {
            completed: 0,
            body_bytes: 0,
            elapsed: Duration::ZERO,
            latency: latency_histogram(),
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

struct Generator<'a, P: Protocol> {
    plan: &'a Plan,
    protocol: &'a P,
    epoll: Epoll,
    connections: Vec<Connection<P::Session>>,
    /// Open loop only.
    schedule: Option<Schedule>,
    /// Open loop only: connections without a request, longest idle first.
    free: VecDeque<usize>,
    /// Connections to make, with the time from which on, ascending.
    down: VecDeque<(u64, usize)>,
    buffer: Vec<u8>,
    /// Where the kernel drops body bytes; with MSG_TRUNC it writes nothing here.
    scrap: Vec<MaybeUninit<u8>>,
    start: Instant,
    window: Window,
    /// Open loop only: requests in flight that were due in the window.
    in_flight_due: u64,
    tally: Outcome,
}

struct Connection<S> {
    socket: Option<TcpStream>,
    session: S,
    phase: Phase,
    out: Vec<u8>,
    sent: usize,
    /// When the request in flight was due, or the connect began.
    due_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    Connecting,
    Idle,
    Busy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Window {
    Before,
    Open { from_ns: u64 },
    Closed { from_ns: u64, to_ns: u64 },
}

/// What one read brought.
enum Taken {
    Progress { progress: Progress, drained: bool, count: usize },
    End,
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
        let in_flight = self.connections.iter().filter(|one| one.phase == Phase::Busy);
        let mut due: Vec<u64> = in_flight.map(|one| one.due_ns).collect();
        while schedule.due_ns() < to_ns {
            due.push(schedule.take());
        }
        for due_ns in due.into_iter().filter(|due| (from_ns..to_ns).contains(due)) {
            self.tally.latency.saturating_record(now - due_ns);
            self.tally.faults[Fault::Unfinished.index()] += 1;
        }
    }

    /// Fails requests and connects that take too long.
    fn expire(&mut self, now: u64) {
        let limit = nanos(self.plan.request_timeout);
        for index in 0..self.connections.len() {
            let Connection { phase, due_ns, .. } = self.connections[index];
            // In open loop waiting for a connection counts as latency, and here too: the sum is
            // what a caller would have waited.
            if matches!(phase, Phase::Busy | Phase::Connecting) && now > due_ns + limit {
                let fault = if phase == Phase::Busy { Fault::Timeout } else { Fault::Connect };
                self.fail(index, fault);
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
            connection.session = self.protocol.session();
            connection.out.clear();
            connection.sent = 0;
            connection.due_ns = now;
            match socket {
                Ok(socket) => {
                    self.epoll.add(&socket, index as u64)?;
                    connection.socket = Some(socket.into());
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

    /// Open loop: sends everything that is due and has a free connection.
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
            let Some(index) = self.free.pop_front() else { return };
            if self.connections[index].phase != Phase::Idle {
                continue;
            }
            let due_ns = schedule.take();
            if self.counts(due_ns) {
                self.in_flight_due += 1;
                self.tally.lateness.saturating_record(now - due_ns);
            }
            self.send(index, due_ns);
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
        if self.connections[index].phase == Phase::Connecting {
            if !ready.writable {
                return;
            }
            let error = self.connections[index].socket.as_ref().map(TcpStream::take_error);
            if !matches!(error, Some(Ok(None))) {
                return self.fail(index, Fault::Connect);
            }
            self.connections[index].phase = Phase::Idle;
            let now = self.now_ns();
            self.on_free(index, now);
            return;
        }
        if ready.writable && self.connections[index].sent < self.connections[index].out.len() {
            self.flush(index);
        }
        if ready.readable {
            self.read(index, ready.closing);
        }
    }

    /// A connection has no request any more: give it one, or queue it.
    fn on_free(&mut self, index: usize, now: u64) {
        match (&self.schedule, self.window) {
            (Some(_), _) => self.free.push_back(index),
            (None, Window::Closed { .. }) => {}
            (None, _) => self.send(index, now),
        }
    }

    fn send(&mut self, index: usize, due_ns: u64) {
        let connection = &mut self.connections[index];
        connection.phase = Phase::Busy;
        connection.due_ns = due_ns;
        connection.out.clear();
        connection.sent = 0;
        connection.session.request(&mut connection.out);
        self.flush(index);
    }

    fn flush(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(socket) = &mut connection.socket else { return };
        while connection.sent < connection.out.len() {
            match socket.write(&connection.out[connection.sent..]) {
                Ok(count) => connection.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.fail(index, fault_of(&error)),
            }
        }
    }

    /// Reads until nothing is left; `to_end` when an end of stream is known to be there.
    fn read(&mut self, index: usize, to_end: bool) {
        loop {
            let taken = match self.take(index) {
                Ok(taken) => taken,
                Err(Fault::Reset) if self.connections[index].phase == Phase::Idle => {
                    return self.close_idle(index);
                }
                Err(fault) => return self.fail(index, fault),
            };
            let (progress, drained, count) = match taken {
                Taken::Nothing => return,
                Taken::Progress { progress, drained, count } => (progress, drained, count),
                Taken::End => {
                    if self.connections[index].phase != Phase::Busy {
                        return self.close_idle(index);
                    }
                    match self.connections[index].session.finish() {
                        Ok(Progress::Done(reply)) => self.complete(index, reply),
                        Ok(Progress::More) => self.fail(index, Fault::Closed),
                        Err(fault) => self.fail(index, fault),
                    }
                    return;
                }
            };
            if let Progress::Done(reply) = progress {
                if count > reply.consumed {
                    return self.fail(index, Fault::Malformed);
                }
                self.complete(index, reply);
                if self.connections[index].phase == Phase::Down {
                    return;
                }
            }
            if drained && !to_end {
                return;
            }
        }
    }

    /// One read, fed to the session. `count` in the result is of the bytes fed, not of those dropped.
    fn take(&mut self, index: usize) -> Result<Taken, Fault> {
        let connection = &mut self.connections[index];
        let Some(socket) = &mut connection.socket else { return Ok(Taken::Nothing) };
        loop {
            let skippable = connection.session.skippable();
            let result = if skippable >= SKIP_BYTES_MIN {
                let room =
                    usize::try_from(skippable).map_or(SKIP_BYTES_MAX, |n| n.min(SKIP_BYTES_MAX));
                SockRef::from(&*socket).recv_with_flags(&mut self.scrap[..room], libc::MSG_TRUNC)
            } else {
                socket.read(&mut self.buffer)
            };
            let count = match result {
                Ok(0) => return Ok(Taken::End),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Taken::Nothing),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(fault_of(&error)),
            };
            if skippable >= SKIP_BYTES_MIN {
                let progress = connection.session.skip(count as u64)?;
                return Ok(Taken::Progress { progress, drained: false, count: 0 });
            }
            if connection.phase != Phase::Busy {
                return Err(Fault::Malformed);
            }
            let progress = connection.session.feed(&self.buffer[..count])?;
            return Ok(Taken::Progress { progress, drained: count < READ_BYTES, count });
        }
    }

    fn complete(&mut self, index: usize, reply: Reply) {
        let now = self.now_ns();
        let due_ns = self.connections[index].due_ns;
        let open = matches!(self.window, Window::Open { .. });
        if open {
            self.tally.completed += 1;
            self.tally.body_bytes += reply.body_bytes;
        }
        let counts = if self.schedule.is_some() { self.counts(due_ns) } else { open };
        if counts {
            self.tally.latency.saturating_record(now - due_ns);
            self.in_flight_due = self.in_flight_due.saturating_sub(1);
        }
        self.connections[index].phase = Phase::Idle;
        if reply.reusable {
            self.on_free(index, now);
        } else {
            self.close_idle(index);
        }
    }

    /// The peer closed a connection that had nothing to answer: no fault, make it again.
    fn close_idle(&mut self, index: usize) {
        self.tally.reconnects += 1;
        self.connections[index].socket = None;
        self.connections[index].phase = Phase::Down;
        // Ahead of those that wait out a pause, whose times are later.
        self.down.push_front((0, index));
    }

    fn fail(&mut self, index: usize, fault: Fault) {
        let now = self.now_ns();
        let busy = self.connections[index].phase == Phase::Busy;
        let counts = if self.schedule.is_some() && busy {
            self.counts(self.connections[index].due_ns)
        } else {
            matches!(self.window, Window::Open { .. })
        };
        if counts {
            self.tally.faults[fault.index()] += 1;
            if self.schedule.is_some() && busy {
                self.in_flight_due = self.in_flight_due.saturating_sub(1);
            }
        } else if self.window == Window::Before {
            self.tally.faults_in_warmup += 1;
        }
        self.connections[index].socket = None;
        self.connections[index].phase = Phase::Down;
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
