//! Clients that mean to keep their connections, in three protocols, and their origins.
//!
//! Each client has one request under way, now and then one that takes a while, and checks that the answer is its
//! own. Invariant: whatever ends a connection without having asked its client to go is an [`Event`].

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use outrigger_tests::PATIENCE;
use outrigger_tests::bolt::Frame;
use outrigger_tests::http::Wire;
use outrigger_tests::net::{Address, Stream};
use outrigger_tests::rpc::Message;

/// What is spoken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    Http1,
    Bolt,
    Tcp,
}

pub(super) const PROTOCOLS: [Protocol; 3] = [Protocol::Http1, Protocol::Bolt, Protocol::Tcp];

/// A connection that ended as none should, or that could not be made.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) protocol: Protocol,
    /// The client's port; 0 if there was no connection.
    pub(super) port: u16,
    /// What the client saw.
    #[expect(dead_code, reason = "shown by Debug")]
    what: String,
}

/// All clients.
pub(super) struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Let connections go, and make none.
    pause: AtomicBool,
    paused: AtomicU32,
    answered: [AtomicU64; PROTOCOLS.len()],
    /// Requests under way, by the port of their client.
    asking: Mutex<BTreeMap<u16, String>>,
    events: Mutex<Vec<Event>>,
}

impl Clients {
    /// So many clients of each protocol.
    pub(super) fn start(each: usize, addresses: [SocketAddr; PROTOCOLS.len()]) -> Clients {
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for (place, (protocol, address)) in PROTOCOLS.into_iter().zip(addresses).enumerate() {
            for _ in 0..each {
                let shared = Arc::clone(&shared);
                threads.push(thread::spawn(move || shared.run(protocol, place, address)));
            }
        }
        Clients { shared, threads }
    }

    /// Waits until each protocol has had so many more answers.
    ///
    /// # Errors
    /// As [`Clients::pause`].
    pub(super) fn wait_for_more(&self, count: u64) -> Result<(), BTreeMap<u16, String>> {
        let now = || self.shared.answered.each_ref().map(|one| one.load(Ordering::Relaxed));
        let goals = now().map(|answered| answered + count);
        self.within(PATIENCE, || now().iter().zip(goals).all(|(answered, goal)| *answered >= goal))
    }

    /// Has all let their connections go.
    ///
    /// # Errors
    /// Requests that are not answered within a time in which they should be, by the ports of their clients.
    pub(super) fn pause(&self) -> Result<(), BTreeMap<u16, String>> {
        self.shared.pause.store(true, Ordering::Relaxed);
        let all = self.threads.len();
        self.within(ANSWER_TIME, || self.shared.paused.load(Ordering::Relaxed) as usize == all)
    }

    fn within(
        &self,
        limit: Duration,
        mut is_so: impl FnMut() -> bool,
    ) -> Result<(), BTreeMap<u16, String>> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if is_so() {
                return Ok(());
            }
            thread::sleep(PACE);
        }
        Err(self.shared.asking.lock().unwrap().clone())
    }

    pub(super) fn go_on(&self) {
        self.shared.pause.store(false, Ordering::Relaxed);
    }

    /// What happened since the last time.
    pub(super) fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.shared.events.lock().unwrap())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, protocol: Protocol, place: usize, address: SocketAddr) {
        let mut link = None;
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if self.pause.load(Ordering::Relaxed) {
                link = None;
                self.paused.fetch_add(1, Ordering::Relaxed);
                while self.pause.load(Ordering::Relaxed) && !self.stop.load(Ordering::Relaxed) {
                    thread::sleep(PACE);
                }
                self.paused.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            if link.is_none() {
                match Link::connect(protocol, address) {
                    Ok(connected) => link = Some(connected),
                    Err(error) => {
                        self.note(protocol, 0, format!("connect: {error}"));
                        thread::sleep(PACE);
                        continue;
                    }
                }
            }
            let Some(connected) = &mut link else { continue };
            number += 1;
            let delay_ms = if number % 16 == 0 { SLOW_MS } else { 0 };
            let port = connected.port;
            let what = format!("{protocol:?}, request {number}");
            self.asking.lock().unwrap().insert(port, what.clone());
            let answer = connected.ask(number, delay_ms);
            self.asking.lock().unwrap().remove(&port);
            match answer {
                Ok(stays) => {
                    self.answered[place].fetch_add(1, Ordering::Relaxed);
                    if !stays {
                        link = None;
                    }
                }
                Err(fault) => {
                    self.note(protocol, port, format!("{what}: {fault}"));
                    link = None;
                }
            }
            thread::sleep(PACE);
        }
    }

    fn note(&self, protocol: Protocol, port: u16, what: String) {
        self.events.lock().unwrap().push(Event { protocol, port, what });
    }
}

/// Connects, asks once and lets go; how long that took.
pub(super) fn ask_once(protocol: Protocol, address: SocketAddr) -> Result<Duration, String> {
    let begun = Instant::now();
    let mut link = Link::connect(protocol, address).map_err(|error| error.to_string())?;
    link.ask(1, 0)?;
    Ok(begun.elapsed())
}

/// A connection.
struct Link {
    protocol: Protocol,
    wire: Wire,
    port: u16,
}

impl Link {
    fn connect(protocol: Protocol, address: SocketAddr) -> io::Result<Link> {
        let stream = Address::Tcp(address).connect(PATIENCE)?;
        let port = stream.socket().local_addr()?.as_socket().map_or(0, |local| local.port());
        Ok(Link { protocol, wire: Wire::new(stream), port })
    }

    /// Whether the connection stays.
    fn ask(&mut self, number: u32, delay_ms: u32) -> Result<bool, String> {
        let text = format!("{}-{number}-{delay_ms}", self.port);
        match self.protocol {
            Protocol::Http1 => {
                self.send(format!("GET /{text} HTTP/1.1\r\nHost: chaos\r\n\r\n").as_bytes())?;
                let response = self.wire.response("GET").map_err(|fault| format!("{fault:?}"))?;
                if response.status != 200 {
                    return Err(format!("{response:?}"));
                }
                expect(&response.text(), &text)?;
                Ok(response.header("connection") != Some("close"))
            }
            Protocol::Bolt => {
                self.send(&Frame::request(number, SERVICE, "ask", text.as_bytes()).bytes())?;
                let frame = Frame::read(&mut self.wire).map_err(|fault| format!("{fault:?}"))?;
                if frame.id != number || !frame.is_response() || frame.status != 0 {
                    return Err(format!("{frame:?}"));
                }
                expect(&String::from_utf8_lossy(&frame.content), &text)?;
                Ok(true)
            }
            Protocol::Tcp => {
                self.send(format!("{text}\n").as_bytes())?;
                let echo = self.wire.exactly(text.len() + 1);
                let echo = echo.map_err(|fault| format!("{fault:?}"))?;
                expect(&String::from_utf8_lossy(&echo), &format!("{text}\n"))?;
                Ok(true)
            }
        }
    }

    /// In two pieces, so that there are beginnings of requests to be taken care of.
    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let mut send = |bytes| self.wire.stream().write_all(bytes);
        let sent = send(first).and_then(|()| {
            thread::sleep(HALF_TIME);
            send(second)
        });
        // Why it can't be sent is said by what can be read.
        match sent {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(format!("send: {error}"))
            }
            _ => Ok(()),
        }
    }
}

fn expect(found: &str, wanted: &str) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{found:?} instead of {wanted:?}")) }
}

/// An origin of each protocol, on threads that end with their connections.
pub(super) fn origins() -> [SocketAddr; PROTOCOLS.len()] {
    PROTOCOLS.map(|protocol| {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                // However a connection ends, its client knows.
                thread::spawn(move || drop(answer(protocol, stream)));
            }
        });
        address
    })
}

fn answer(protocol: Protocol, stream: TcpStream) -> Result<(), Box<dyn std::error::Error>> {
    stream.set_nodelay(true)?;
    let mut wire = match protocol {
        Protocol::Tcp => return echo(stream),
        _ => Wire::new(Stream::Tcp(stream)),
    };
    loop {
        let answer = match protocol {
            Protocol::Bolt => {
                let frame = Frame::read(&mut wire).map_err(|fault| format!("{fault:?}"))?;
                if frame.is_heartbeat() {
                    frame.heartbeat_reply().bytes()
                } else {
                    frame.echo().bytes()
                }
            }
            _ => {
                let request = wire.request().map_err(|fault| format!("{fault:?}"))?;
                let text = request.target.trim_start_matches('/');
                wait_as_asked(text);
                let length = text.len();
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}").into_bytes()
            }
        };
        wire.stream().write_all(&answer)?;
    }
}

/// Line by line.
fn echo(mut stream: TcpStream) -> Result<(), Box<dyn std::error::Error>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        line.push(byte[0]);
        if byte == *b"\n" {
            wait_as_asked(String::from_utf8_lossy(&line).trim_end());
            stream.write_all(&line)?;
            line.clear();
        }
    }
    Ok(())
}

fn wait_as_asked(text: &str) {
    let delay_ms = text.rsplit('-').next().and_then(|delay_ms| delay_ms.parse().ok()).unwrap_or(0);
    thread::sleep(Duration::from_millis(delay_ms));
}

/// What is called in Bolt.
pub(super) const SERVICE: &str = "com.foo.Hello:1.0";

/// Pause between a client's requests.
const PACE: Duration = Duration::from_millis(20);

/// Pause in the middle of a request.
const HALF_TIME: Duration = Duration::from_millis(2);

/// How long a slow answer takes.
const SLOW_MS: u32 = 60;

/// Who asks is answered within that, whatever else happens: more than a process takes to find that another
/// one hangs, and to take back what it had let go.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(15);
