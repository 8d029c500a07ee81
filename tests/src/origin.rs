//! Origins that do what a script says, and remember what came.
//!
//! A script is a function that is called once for each connection, on a thread of its own. When it
//! returns, the connection is closed. What it returns as an error is a way for a connection to end,
//! not a failure: tests judge by what the client saw and by the [`Log`].

use std::collections::HashMap;
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use rustls::{ServerConfig, ServerConnection};
use socket2::{Domain, Socket, Type};

use crate::PATIENCE;
use crate::frames::Frames;
use crate::http::{Fault, Request, Wire};
use crate::net::{Address, Listener, Stream};

/// A listening origin.
#[derive(Debug)]
pub struct Origin {
    address: Address,
    listener: Arc<Listener>,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What an origin has seen.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Connections accepted.
    pub accepted: usize,
    /// Connections whose script has not returned.
    pub open: usize,
    /// Requests that scripts read, in order.
    pub requests: Vec<Seen>,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The number of its connection, from 0.
    pub connection: usize,
    /// The request, with its body if the script read that.
    pub request: Request,
}

impl Origin {
    /// Listens on a free port and runs `script` for each connection.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start(
        script: impl Fn(&mut Peer) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Origin {
        Origin::start_on(&Address::any(), script)
    }

    /// The same, on that address.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start_on(
        address: &Address,
        script: impl Fn(&mut Peer) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Origin {
        let listener = Arc::new(Listener::bind(address).unwrap());
        let address = listener.address().unwrap();
        let shared = Arc::new(Shared::default());
        let acceptor = {
            let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
            thread::spawn(move || accept(&listener, &shared, &Arc::new(script)))
        };
        Origin { address, listener, shared, acceptor: Some(acceptor) }
    }

    /// Answers each request with the same bytes, and keeps connections open.
    pub fn answering(response: impl Into<Vec<u8>>) -> Origin {
        let response = response.into();
        Origin::start(move |peer| peer.answer_all(&response))
    }

    /// Answers each request with 200 and `ok`.
    #[must_use]
    pub fn ok() -> Origin {
        Origin::answering(OK)
    }

    /// Answers each request with 200 and the body that came with it.
    #[must_use]
    pub fn echo() -> Origin {
        Origin::start(|peer| {
            loop {
                let body = peer.request()?.body;
                peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()))?;
                peer.send(body)?;
            }
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What it has seen until now.
    #[must_use]
    pub fn log(&self) -> Log {
        self.shared.log().clone()
    }

    /// Waits until the log is as `condition` wants it.
    ///
    /// # Panics
    /// If it is not in time; `what` says for what was waited.
    #[track_caller]
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Log) -> bool) -> Log {
        let log = self.shared.log();
        let (held, waited) =
            self.shared.changed.wait_timeout_while(log, PATIENCE, |log| !condition(log)).unwrap();
        let log = held.clone();
        // A panic with the lock held would poison it for the scripts.
        drop(held);
        assert!(!waited.timed_out(), "origin: not within {PATIENCE:?}: {what}: {log:?}");
        log
    }

    /// Waits for so many requests, and returns the last of them.
    #[track_caller]
    pub fn nth_request(&self, count: usize) -> Request {
        let log = self.wait_for("a request", |log| log.requests.len() >= count);
        log.requests[count - 1].request.clone()
    }

    /// The only request that arrived.
    ///
    /// # Panics
    /// If there were several.
    #[track_caller]
    pub fn only_request(&self) -> Request {
        let request = self.nth_request(1);
        let count = self.log().requests.len();
        assert_eq!(count, 1, "requests at the origin");
        request
    }

    /// Waits until no connection is open.
    #[track_caller]
    pub fn wait_released(&self) {
        self.wait_for("all connections closed", |log| log.open == 0);
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.shared.log().requests.clear();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The scripts end with their connections.
        self.listener.stop();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for stream in self.shared.streams.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// An address that refuses connections, for as long as the socket lives.
///
/// # Panics
/// If there is no port left.
#[must_use]
pub fn refusing() -> (Socket, Address) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Bound, so that nobody else gets the port, and not listening.
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, Address::Tcp(address))
}

/// One connection from the proxy, as a script has it.
#[derive(Debug)]
pub struct Peer {
    wire: Wire,
    number: usize,
    shared: Arc<Shared>,
}

impl Peer {
    /// The number of the connection, from 0.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Reads a request and its body, and notes it in the log.
    ///
    /// # Errors
    /// [`Fault::Closed`] if there is none, else what is wrong with it.
    pub fn request(&mut self) -> Result<Request, Fault> {
        let request = self.wire.request()?;
        self.note(&request);
        Ok(request)
    }

    /// Reads a request up to the empty line, and notes that in the log.
    ///
    /// # Errors
    /// As [`request`](Peer::request).
    pub fn request_head(&mut self) -> Result<Request, Fault> {
        let request = self.wire.request_head()?;
        self.note(&request);
        Ok(request)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// If the proxy does not take them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Fault> {
        Ok(self.wire.stream().write_all(bytes.as_ref())?)
    }

    /// Answers every request with the same bytes.
    ///
    /// # Errors
    /// Always, in the end: when there are no more requests.
    pub fn answer_all(&mut self, response: &[u8]) -> Result<(), Fault> {
        loop {
            self.request()?;
            self.send(response)?;
        }
    }

    /// Makes the close that follows the script a reset.
    ///
    /// # Errors
    /// What the system says.
    pub fn reset(&mut self) -> Result<(), Fault> {
        Ok(self.wire.stream().reset_on_close()?)
    }

    /// Speaks TLS from here on. The handshake is over when this returns.
    ///
    /// # Errors
    /// If the handshake fails.
    pub fn secure(&mut self, config: &Arc<ServerConfig>) -> Result<(), Fault> {
        let connection = ServerConnection::new(Arc::clone(config)).unwrap();
        let stream = self.wire.stream().secure(connection.into())?;
        self.wire.replace_stream(stream);
        Ok(())
    }

    /// Speaks HTTP/2 frame by frame, after these settings.
    ///
    /// # Errors
    /// As [`Frames::accept`].
    pub fn frames(&mut self, settings: &[(u16, u32)]) -> Result<(Frames<&mut Wire>, Notes), Fault> {
        let notes = self.notes();
        Ok((Frames::accept(&mut self.wire, settings)?, notes))
    }

    /// To write requests into the log that are not read by [`request`](Peer::request).
    #[must_use]
    pub fn notes(&self) -> Notes {
        Notes { number: self.number, shared: Arc::clone(&self.shared) }
    }

    /// Closes the sending side only.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(&mut self) -> Result<(), Fault> {
        Ok(self.wire.stream().shutdown(Shutdown::Write)?)
    }

    /// Does nothing until the proxy closes, or the origin ends.
    ///
    /// # Errors
    /// If neither happens in time.
    pub fn stall(&mut self) -> Result<(), Fault> {
        self.wire.closed().map(drop)
    }

    /// The reading side.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    fn note(&self, request: &Request) {
        self.notes().note(request);
    }
}

/// Writes requests of one connection into the log.
#[derive(Clone, Debug)]
pub struct Notes {
    number: usize,
    shared: Arc<Shared>,
}

impl Notes {
    /// Notes a request.
    pub fn note(&self, request: &Request) {
        let request = request.clone();
        self.shared.log().requests.push(Seen { connection: self.number, request });
        self.shared.changed.notify_all();
    }
}

#[derive(Debug, Default)]
struct Shared {
    log: Mutex<Log>,
    changed: Condvar,
    stopping: AtomicBool,
    /// Second handles, to end scripts that wait.
    streams: Mutex<HashMap<usize, Stream>>,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }
}

fn accept<Script>(listener: &Listener, shared: &Arc<Shared>, script: &Arc<Script>)
where
    Script: Fn(&mut Peer) -> Result<(), Fault> + Send + Sync + 'static,
{
    loop {
        let accepted = listener.accept(PATIENCE);
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let stream = accepted.unwrap();
        let number = {
            let mut log = shared.log();
            log.accepted += 1;
            log.open += 1;
            log.accepted - 1
        };
        shared.changed.notify_all();
        shared.streams.lock().unwrap().insert(number, stream.try_clone().unwrap());
        let (script, shared) = (Arc::clone(script), Arc::clone(shared));
        thread::spawn(move || {
            let mut peer = Peer { wire: Wire::new(stream), number, shared: Arc::clone(&shared) };
            // However it ends, the connection is over; see the module's documentation.
            let _ = script(&mut peer);
            shared.streams.lock().unwrap().remove(&number);
            drop(peer);
            shared.log().open -= 1;
            shared.changed.notify_all();
        });
    }
}

/// A plain answer.
pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
