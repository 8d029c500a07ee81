//! Peers that speak an RPC framing protocol: a client and a server of any [`Message`].
//!
//! The server's handler says of each frame what is done about it; what it holds back, the test answers
//! later, in any order, with [`Server::answer`].

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::io::Write;
use std::marker::PhantomData;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::PATIENCE;
use crate::http::{Fault, Wire};
use crate::net::{Address, Stream};
use crate::origin::{Origin, Peer};

/// A frame of a protocol.
pub trait Message: Clone + Debug + Eq + Send + Sized + 'static {
    /// Which request it is, or belongs to.
    type Id: Copy + Debug + Ord;

    /// Reads one, strictly.
    ///
    /// # Errors
    /// [`Fault::Closed`] where a frame could have begun, [`Fault::Malformed`] if it is not exactly as
    /// the protocol has it, else see [`Fault`].
    fn read(wire: &mut Wire) -> Result<Self, Fault>;

    /// On the wire.
    fn bytes(&self) -> Vec<u8>;

    /// Its id.
    fn id(&self) -> Self::Id;

    /// Whether it is a request, answered or not, and no heartbeat.
    fn is_request(&self) -> bool;

    /// Whether it is a request that is never answered.
    fn is_oneway(&self) -> bool;

    /// Whether it is the response to a request.
    fn is_response(&self) -> bool;

    /// Whether it is a heartbeat to be answered.
    fn is_heartbeat(&self) -> bool;

    /// A heartbeat.
    fn heartbeat(id: Self::Id) -> Self;

    /// The answer to this heartbeat.
    fn heartbeat_reply(&self) -> Self;

    /// A response to this request that says success and gives back what was in it.
    fn echo(&self) -> Self;

    /// A response of that status to this request.
    fn failure(&self, status: u16) -> Self;
}

/// A connection to the proxy.
#[derive(Debug)]
pub struct Client<F> {
    wire: Wire,
    frames: PhantomData<F>,
}

impl<F: Message> Client<F> {
    /// Connects.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn connect(address: &Address) -> Client<F> {
        match address.connect(PATIENCE) {
            Ok(stream) => Client::over(stream),
            Err(error) => panic!("cannot connect to {address}: {error}"),
        }
    }

    /// On a connection that there is, with TLS or not.
    #[must_use]
    pub fn over(stream: Stream) -> Client<F> {
        Client { wire: Wire::new(stream), frames: PhantomData }
    }

    /// Sends a frame.
    #[track_caller]
    pub fn send(&mut self, frame: &F) -> &mut Client<F> {
        self.send_bytes(frame.bytes())
    }

    /// Sends frames in one write.
    #[track_caller]
    pub fn send_all(&mut self, frames: &[F]) -> &mut Client<F> {
        self.send_bytes(frames.iter().flat_map(F::bytes).collect::<Vec<u8>>())
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// If the proxy does not take them.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client<F> {
        if let Err(error) = self.stream().write_all(bytes.as_ref()) {
            panic!("cannot send: {error}");
        }
        self
    }

    /// Sends bytes one at a time, each in a segment of its own.
    #[track_caller]
    pub fn send_bytewise(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client<F> {
        for byte in bytes.as_ref() {
            self.send_bytes([*byte]);
        }
        self
    }

    /// The next frame, whatever it is.
    ///
    /// # Panics
    /// If there is none that is well-formed.
    #[track_caller]
    pub fn receive(&mut self) -> F {
        match self.try_receive() {
            Ok(frame) => frame,
            Err(fault) => panic!("no frame: {fault:?}"),
        }
    }

    /// The next frame, or why there is none.
    ///
    /// # Errors
    /// As [`Message::read`].
    pub fn try_receive(&mut self) -> Result<F, Fault> {
        F::read(&mut self.wire)
    }

    /// Sends a request and reads its response; heartbeats before it are answered.
    ///
    /// # Panics
    /// If something else comes.
    #[track_caller]
    pub fn call(&mut self, request: &F) -> F {
        let mut responses = self.send(request).responses(1);
        let response = responses.remove(&request.id());
        response.unwrap_or_else(|| panic!("no response to {:?}: {responses:?}", request.id()))
    }

    /// Reads so many responses, by their ids; heartbeats between them are answered.
    ///
    /// # Panics
    /// If something else comes, or two responses have the same id.
    #[track_caller]
    pub fn responses(&mut self, count: usize) -> BTreeMap<F::Id, F> {
        let mut responses = BTreeMap::new();
        while responses.len() < count {
            let frame = self.receive();
            if frame.is_heartbeat() {
                self.send(&frame.heartbeat_reply());
                continue;
            }
            assert!(frame.is_response(), "no response: {frame:?}");
            if let Some(first) = responses.insert(frame.id(), frame) {
                panic!("a second response to {:?}", first.id());
            }
        }
        responses
    }

    /// Sends a heartbeat and reads until it is answered: all that was sent before has been seen then.
    /// Returns the frames in between.
    #[track_caller]
    pub fn round_trip(&mut self, id: F::Id) -> Vec<F> {
        self.send(&F::heartbeat(id));
        let mut between = Vec::new();
        loop {
            let frame = self.receive();
            if frame == F::heartbeat(id).heartbeat_reply() {
                return between;
            }
            between.push(frame);
        }
    }

    /// Asserts that the proxy closes in good order and sends nothing more.
    #[track_caller]
    pub fn expect_close(&mut self) {
        match self.wire.until_close() {
            Ok(rest) => assert!(rest.is_empty(), "before the close: {}", rest.escape_ascii()),
            Err(fault) => panic!("no close: {fault:?}"),
        }
    }

    /// Closes the sending side only.
    #[track_caller]
    pub fn finish(&mut self) -> &mut Client<F> {
        self.stream().close_notify().unwrap();
        self.stream().shutdown(Shutdown::Write).unwrap();
        self
    }

    /// Resets the connection.
    #[track_caller]
    pub fn reset(mut self) {
        self.stream().reset_on_close().unwrap();
    }

    /// The reading side.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// The connection.
    pub fn stream(&mut self) -> &mut Stream {
        self.wire.stream()
    }
}

/// What a server does about a frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply<F> {
    /// A response that says success, as [`Message::echo`] has it.
    Echo,
    /// A response of that status, as [`Message::failure`] has it.
    Status(u16),
    /// The answer to a heartbeat.
    Heartbeat,
    /// These frames as they are, for example responses with other content.
    Frames(Vec<F>),
    /// These bytes.
    Bytes(Vec<u8>),
    /// Nothing, or nothing yet.
    Nothing,
    /// The end of the connection, in good order.
    Close,
    /// A reset of the connection.
    Reset,
}

impl<F: Message> Reply<F> {
    /// What a well-behaved server does: it answers heartbeats, echoes requests, and takes the rest in
    /// silence.
    #[must_use]
    pub fn usual(frame: &F) -> Reply<F> {
        if frame.is_heartbeat() {
            Reply::Heartbeat
        } else if frame.is_request() && !frame.is_oneway() {
            Reply::Echo
        } else {
            Reply::Nothing
        }
    }
}

/// A listening server.
#[derive(Debug)]
pub struct Server<F> {
    shared: Arc<Shared<F>>,
    origin: Origin,
}

/// What a server has seen.
#[derive(Clone, Debug)]
pub struct Log<F> {
    /// Connections accepted.
    pub accepted: usize,
    /// Connections that are not over.
    pub open: usize,
    /// Every frame, in order.
    pub frames: Vec<Seen<F>>,
    /// Connections that ended in another way than by a close between frames, with their number.
    pub faults: Vec<(usize, Fault)>,
}

impl<F: Message> Log<F> {
    /// The requests among the frames, of either kind.
    pub fn requests(&self) -> impl Iterator<Item = &Seen<F>> {
        self.frames.iter().filter(|seen| seen.frame.is_request())
    }

    /// The heartbeats among the frames.
    pub fn heartbeats(&self) -> impl Iterator<Item = &Seen<F>> {
        self.frames.iter().filter(|seen| seen.frame.is_heartbeat())
    }
}

/// A frame that arrived.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen<F> {
    /// The number of its connection, from 0.
    pub connection: usize,
    /// The frame.
    pub frame: F,
}

impl<F: Message> Server<F> {
    /// Listens on a free port; `handler` says what is done about each frame, on a thread of its
    /// connection.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start(handler: impl Fn(&F) -> Reply<F> + Send + Sync + 'static) -> Server<F> {
        Server::start_on(&Address::any(), handler)
    }

    /// The same, on that address.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start_on(
        address: &Address,
        handler: impl Fn(&F) -> Reply<F> + Send + Sync + 'static,
    ) -> Server<F> {
        let shared = Arc::new(Shared::new());
        let origin = {
            let shared = Arc::clone(&shared);
            Origin::start_on(address, move |peer| shared.serve(peer, &handler))
        };
        Server { shared, origin }
    }

    /// Answers as [`Reply::usual`] has it.
    #[must_use]
    pub fn echo() -> Server<F> {
        Server::start(Reply::usual)
    }

    /// Answers heartbeats, and nothing else until it is told.
    #[must_use]
    pub fn holding() -> Server<F> {
        Server::start(|frame: &F| match frame.is_heartbeat() {
            true => Reply::Heartbeat,
            false => Reply::Nothing,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.origin.address()
    }

    /// What it has seen until now.
    #[must_use]
    pub fn log(&self) -> Log<F> {
        self.shared.log().clone()
    }

    /// Waits until the log is as `condition` wants it.
    ///
    /// # Panics
    /// If it is not in time; `what` says for what was waited.
    #[track_caller]
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Log<F>) -> bool) -> Log<F> {
        let log = self.shared.log();
        let changed = &self.shared.changed;
        let (held, waited) =
            changed.wait_timeout_while(log, PATIENCE, |log| !condition(log)).unwrap();
        let log = held.clone();
        // A panic with the lock held would poison it for the connections.
        drop(held);
        assert!(!waited.timed_out(), "server: not within {PATIENCE:?}: {what}: {log:?}");
        log
    }

    /// Waits for so many requests, and returns the last of them.
    #[track_caller]
    pub fn nth_request(&self, count: usize) -> Seen<F> {
        let log = self.wait_for("a request", |log| log.requests().count() >= count);
        log.requests().nth(count - 1).unwrap().clone()
    }

    /// Waits until no connection is open.
    #[track_caller]
    pub fn wait_released(&self) {
        self.wait_for("all connections closed", |log| log.open == 0);
    }

    /// Does something about a frame that was held back.
    #[track_caller]
    pub fn answer(&self, seen: &Seen<F>, reply: Reply<F>) {
        let sender = self.sender(seen.connection);
        let done = sender.reply(&seen.frame, reply);
        assert!(done.is_ok(), "cannot answer: {done:?}");
    }

    /// Sends a frame of the server's own: a request, a heartbeat, a go-away.
    ///
    /// # Panics
    /// If the connection does not take it.
    #[track_caller]
    pub fn send(&self, connection: usize, frame: &F) {
        let sent = self.sender(connection).send(&frame.bytes());
        assert!(sent.is_ok(), "cannot send: {sent:?}");
    }

    /// Ends a connection in good order.
    #[track_caller]
    pub fn close(&self, connection: usize) {
        self.sender(connection).close();
    }

    #[track_caller]
    fn sender(&self, connection: usize) -> Sender {
        let sender = self.shared.senders.lock().unwrap().get(&connection).cloned();
        sender.unwrap_or_else(|| panic!("connection {connection} is not open"))
    }
}

#[derive(Debug)]
struct Shared<F> {
    log: Mutex<Log<F>>,
    changed: Condvar,
    senders: Mutex<HashMap<usize, Sender>>,
}

impl<F: Message> Shared<F> {
    fn new() -> Self {
        let log = Log { accepted: 0, open: 0, frames: Vec::new(), faults: Vec::new() };
        Shared { log: Mutex::new(log), changed: Condvar::new(), senders: Mutex::default() }
    }

    fn log(&self) -> MutexGuard<'_, Log<F>> {
        self.log.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Log<F>)) {
        change(&mut self.log());
        self.changed.notify_all();
    }

    fn serve(&self, peer: &mut Peer, handler: &impl Fn(&F) -> Reply<F>) -> Result<(), Fault> {
        let connection = peer.number();
        let sender = Sender(Arc::new(Mutex::new(peer.wire().stream().try_clone()?)));
        self.senders.lock().unwrap().insert(connection, sender.clone());
        self.change(|log| {
            log.accepted += 1;
            log.open += 1;
        });
        let end = self.exchange(peer, &sender, handler);
        self.senders.lock().unwrap().remove(&connection);
        self.change(|log| {
            log.open -= 1;
            if let Err(fault) = &end
                && *fault != Fault::Closed
            {
                log.faults.push((connection, fault.clone()));
            }
        });
        end
    }

    fn exchange(
        &self,
        peer: &mut Peer,
        sender: &Sender,
        handler: &impl Fn(&F) -> Reply<F>,
    ) -> Result<(), Fault> {
        loop {
            let frame = F::read(peer.wire())?;
            let seen = Seen { connection: peer.number(), frame: frame.clone() };
            // Noted before it is answered: who has the answer finds it in the log.
            self.change(|log| log.frames.push(seen));
            let reply = handler(&frame);
            let is_over = matches!(reply, Reply::Close | Reply::Reset);
            sender.reply(&frame, reply)?;
            if is_over {
                return Ok(());
            }
        }
    }
}

/// The writing side of a connection, for its thread and for the test.
#[derive(Clone, Debug)]
struct Sender(Arc<Mutex<Stream>>);

impl Sender {
    fn reply<F: Message>(&self, frame: &F, reply: Reply<F>) -> Result<(), Fault> {
        match reply {
            Reply::Echo => self.send(&frame.echo().bytes()),
            Reply::Status(status) => self.send(&frame.failure(status).bytes()),
            Reply::Heartbeat => self.send(&frame.heartbeat_reply().bytes()),
            Reply::Frames(frames) => {
                self.send(&frames.iter().flat_map(F::bytes).collect::<Vec<u8>>())
            }
            Reply::Bytes(bytes) => self.send(&bytes),
            Reply::Nothing => Ok(()),
            Reply::Close => {
                self.close();
                Ok(())
            }
            Reply::Reset => {
                let stream = self.0.lock().unwrap();
                stream.reset_on_close()?;
                // Wakes the reader; the reset goes out with the last handle.
                Ok(stream.shutdown(Shutdown::Read)?)
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Fault> {
        Ok(self.0.lock().unwrap().write_all(bytes)?)
    }

    fn close(&self) {
        // Who has gone already is closed, too.
        let _ = self.0.lock().unwrap().shutdown(Shutdown::Both);
    }
}
