//! The management server of the measurements: the aggregated discovery service over plaintext HTTP/2
//! on loopback.
//!
//! One thread of its own with a single-threaded runtime. It serves a [`World`], changes endpoints when
//! told or at a rate, and writes down every response with the time at which it was handed to the
//! connection and the time at which its answer had been read. gRPC is five bytes before each message
//! and a content type here, so it stands on the HTTP/2 library alone. The invariant: a response's nonce
//! is its place in the log, so every answer finds what it answers.

use std::{
    cell::RefCell,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    rc::Rc,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc::sync_channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderValue, Request, Response as Head, header};
use tokio::{
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{JoinHandle as Task, LocalSet, spawn_local},
    time::MissedTickBehavior,
};

use super::{
    session::{PREFIX_BYTES, Response, Session, Variant},
    world::{Extent, Kind, World},
};
use crate::sys;

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Ads {
    address: SocketAddr,
    shared: Arc<Shared>,
    commands: UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// Where the server's thread runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// On this CPU; on any when `None`.
    pub cpu: Option<usize>,
    /// Only when nothing else wants to run there: beside a load generator.
    pub background: bool,
}

/// Changes that go on by themselves: clusters in turn, and every tenth time a busy one. Each moves one
/// endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updates {
    /// How many in a second.
    pub per_second: u32,
    /// Clusters with traffic.
    pub busy: Vec<usize>,
    /// Where in the turn of clusters they begin.
    pub first: usize,
}

/// What was sent and answered.
#[derive(Debug, Default)]
pub struct Log {
    /// Streams opened.
    pub streams: u64,
    /// Requests read.
    pub requests: u64,
    /// All responses; the first one has nonce 1.
    pub exchanges: Vec<Exchange>,
    /// Responses of the present stream without an answer.
    pub unanswered: usize,
    /// Changes that were not made because too many were unanswered.
    pub skipped: u64,
    /// The first refusal, or what was wrong with a request.
    pub complaint: Option<String>,
}

/// A response and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// On which stream, counted from 1.
    pub stream: u64,
    /// Of what.
    pub kind: Kind,
    /// Its version.
    pub version: String,
    /// Resources in it.
    pub resources: usize,
    /// Its length.
    pub bytes: usize,
    /// When it was handed to the connection.
    pub sent: Instant,
    /// When its answer had been read.
    pub answered: Option<Instant>,
}

/// Unanswered responses from which on changes at a rate wait.
pub const UNANSWERED_MAX: usize = 1000;
/// Most responses in a server's life.
const EXCHANGES_MAX: usize = 1_000_000;
/// Longest request: one that names every resource there can be.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Receive windows that let an ACK through without waiting for us.
const WINDOW_BYTES: u32 = 16 * 1024 * 1024;

impl Log {
    /// Whether everything sent has been answered, and there was something of each kind.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let seen = |kind| self.exchanges.iter().rev().any(|exchange| exchange.kind == kind);
        self.unanswered == 0 && Kind::ALL.into_iter().all(seen)
    }

    /// The response with a nonce.
    #[must_use]
    pub fn exchange(&self, nonce: u64) -> Option<&Exchange> {
        self.exchanges.get(place(nonce)?)
    }

    fn answer(&mut self, nonce: u64, stream: u64, rejected: Option<String>) {
        let exchange = place(nonce).and_then(|place| self.exchanges.get_mut(place));
        let Some(exchange) = exchange.filter(|exchange| exchange.stream == stream) else {
            return self.complain(format!("nonce {nonce} is of no response of this stream"));
        };
        if exchange.answered.is_none() {
            exchange.answered = Some(Instant::now());
            self.unanswered -= 1;
        }
        if let Some(words) = rejected {
            let kind = exchange.kind;
            self.complain(format!("{} rejected: {words}", kind.type_name()));
        }
    }

    fn complain(&mut self, words: String) {
        self.complaint.get_or_insert(words);
    }
}

/// Where the response with a nonce stands in the log.
fn place(nonce: u64) -> Option<usize> {
    usize::try_from(nonce).ok()?.checked_sub(1)
}

impl Ads {
    /// Starts a server on a port from the kernel.
    ///
    /// # Errors
    ///
    /// What the kernel refuses: a socket, a thread, or the CPU.
    pub fn start(world: World, place: Place) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let (commands, received) = unbounded_channel();
        let (begun, result) = sync_channel(1);
        let theirs = Arc::clone(&shared);
        let run = move || {
            let runtime = prepare(place).and_then(|()| {
                tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()
            });
            match runtime {
                Ok(runtime) => {
                    let _ = begun.send(Ok(()));
                    let local = LocalSet::new();
                    local.block_on(&runtime, serve(listener, world, theirs, received));
                }
                Err(error) => drop(begun.send(Err(error))),
            }
        };
        let thread = thread::Builder::new().name("ads".to_owned()).spawn(run)?;
        result.recv().map_err(io::Error::other)??;
        Ok(Self { address, shared, commands, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The log as it is now.
    pub fn log(&self) -> impl std::ops::Deref<Target = Log> {
        self.shared.lock()
    }

    /// Waits until the log is as it should be; false when it isn't in time.
    pub fn wait(&self, patience: Duration, mut wanted: impl FnMut(&Log) -> bool) -> bool {
        let log = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(log, patience, |log| !wanted(log));
        waited.map_or_else(
            |poisoned| !poisoned.into_inner().1.timed_out(),
            |(_, time)| !time.timed_out(),
        )
    }

    /// Changes a cluster's endpoints and pushes them; the nonce, or `None` if nobody has subscribed.
    #[must_use]
    pub fn change(&self, cluster: usize, extent: Extent) -> Option<u64> {
        let (reply, nonce) = sync_channel(1);
        self.commands.send(Command::Change { cluster, extent, reply }).ok()?;
        nonce.recv().ok()?
    }

    /// Begins changes at a rate, or ends them.
    pub fn update(&self, updates: Option<Updates>) {
        // It fails when the thread is gone, and with it all changes.
        let _ = self.commands.send(Command::Update(updates));
    }
}

impl Drop for Ads {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
enum Command {
    Change { cluster: usize, extent: Extent, reply: std::sync::mpsc::SyncSender<Option<u64>> },
    Update(Option<Updates>),
    Stop,
}

#[derive(Debug, Default)]
struct Shared {
    log: Mutex<Log>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the tasks of the server's thread share.
struct Server {
    world: RefCell<World>,
    /// The newest stream.
    current: RefCell<Option<Rc<Stream>>>,
    shared: Arc<Shared>,
}

struct Stream {
    number: u64,
    session: RefCell<Session>,
    send: RefCell<SendStream<Bytes>>,
}

fn prepare(place: Place) -> io::Result<()> {
    sys::precise_timers();
    if place.background {
        sys::run_in_background()?;
    }
    place.cpu.map_or(Ok(()), sys::pin)
}

async fn serve(
    listener: TcpListener,
    world: World,
    shared: Arc<Shared>,
    mut commands: UnboundedReceiver<Command>,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let server =
        Rc::new(Server { world: RefCell::new(world), current: RefCell::default(), shared });
    let accepting = Rc::clone(&server);
    spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            spawn_local(connection(Rc::clone(&accepting), socket));
        }
    });
    let mut updating: Option<Task<()>> = None;
    while let Some(command) = commands.recv().await {
        match command {
            Command::Change { cluster, extent, reply } => {
                // Nobody waits for the reply of a change that took too long.
                let _ = reply.send(server.change(cluster, extent));
            }
            Command::Update(updates) => {
                if let Some(task) = updating.take() {
                    task.abort();
                }
                let server = Rc::clone(&server);
                updating = updates.map(|updates| spawn_local(update(server, updates)));
            }
            Command::Stop => return,
        }
    }
}

/// Changes endpoints until it is aborted.
async fn update(server: Rc<Server>, updates: Updates) {
    const BUSY_EACH: usize = 10;
    /// A prime: neighbours in time are no neighbours in the tables.
    const STRIDE: usize = 7919;
    let Updates { per_second, busy, first } = updates;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let clusters = server.world.borrow().size().clusters.max(1);
    for turn in first.. {
        ticks.tick().await;
        if server.shared.lock().unanswered >= UNANSWERED_MAX {
            server.shared.lock().skipped += 1;
            continue;
        }
        let cluster = match busy.get(turn / BUSY_EACH % busy.len().max(1)) {
            Some(cluster) if turn % BUSY_EACH == BUSY_EACH - 1 => *cluster,
            _ => turn * STRIDE % clusters,
        };
        server.change(cluster, Extent::One);
    }
}

async fn connection(server: Rc<Server>, socket: TcpStream) {
    let _ = socket.set_nodelay(true);
    let handshake = h2::server::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(socket);
    let Ok(mut connection) = handshake.await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        spawn_local(stream(Rc::clone(&server), request, respond));
    }
}

/// Serves one call for as long as it lasts. An error ends it, and is the client's to notice.
async fn stream(
    server: Rc<Server>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Option<()> {
    let variant = Variant::of(request.uri().path());
    let mut head = Head::new(());
    head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let Some(variant) = variant else {
        const UNIMPLEMENTED: HeaderValue = HeaderValue::from_static("12");
        head.headers_mut().insert("grpc-status", UNIMPLEMENTED);
        respond.send_response(head, true).ok()?;
        return None;
    };
    let send = respond.send_response(head, false).ok()?;
    let number = {
        let mut log = server.shared.lock();
        log.streams += 1;
        log.unanswered = 0;
        log.streams
    };
    let stream = Rc::new(Stream {
        number,
        session: RefCell::new(Session::new(variant)),
        send: RefCell::new(send),
    });
    server.current.replace(Some(Rc::clone(&stream)));
    let requests = read(&server, &stream, request.into_body()).await;
    server.current.borrow_mut().take_if(|current| current.number == number);
    if let Err(words) = requests {
        server.shared.lock().complain(words);
        server.shared.changed.notify_all();
    }
    Some(())
}

/// Takes requests to the end of a stream.
async fn read(server: &Server, stream: &Stream, mut body: RecvStream) -> Result<(), String> {
    let mut received = BytesMut::new();
    while let Some(Ok(chunk)) = body.data().await {
        // It fails when the stream is over, which the next read tells.
        let _ = body.flow_control().release_capacity(chunk.len());
        received.extend_from_slice(&chunk);
        while let Some(message) = message(&mut received)? {
            server.take(stream, message)?;
        }
    }
    Ok(())
}

/// Takes the next whole message out of what was received.
fn message(received: &mut BytesMut) -> Result<Option<Bytes>, String> {
    let Some(prefix) = received.get(..PREFIX_BYTES) else { return Ok(None) };
    let length = prefix[1..].iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    if prefix[0] != 0 || length > REQUEST_BYTES_MAX {
        return Err(format!("a request of {length} bytes, compressed: {}", prefix[0]));
    }
    if received.len() < PREFIX_BYTES + length {
        return Ok(None);
    }
    received.advance(PREFIX_BYTES);
    Ok(Some(received.split_to(length).freeze()))
}

impl Server {
    /// Takes a request and sends what it asks for.
    fn take(&self, stream: &Stream, message: Bytes) -> Result<(), String> {
        let next = self.shared.lock().exchanges.len() as u64 + 1;
        let turn = stream.session.borrow_mut().take(message, &self.world.borrow(), next);
        let turn = turn.map_err(|error| format!("a request can't be read: {error}"))?;
        let mut log = self.shared.lock();
        log.requests += 1;
        if let Some(answer) = turn.answer {
            log.answer(answer.nonce, stream.number, answer.rejected);
        }
        drop(log);
        if let Some(response) = turn.response {
            self.send(stream, response);
        }
        self.shared.changed.notify_all();
        Ok(())
    }

    fn change(&self, cluster: usize, extent: Extent) -> Option<u64> {
        self.world.borrow_mut().change(cluster, extent);
        let current = self.current.borrow();
        let stream = current.as_ref()?;
        let next = self.shared.lock().exchanges.len() as u64 + 1;
        let response = stream.session.borrow_mut().push(cluster, &self.world.borrow(), next)?;
        self.send(stream, response);
        Some(next)
    }

    fn send(&self, stream: &Stream, response: Response) {
        let Response { kind, version, resources, bytes } = response;
        let mut log = self.shared.lock();
        if log.exchanges.len() >= EXCHANGES_MAX {
            return log.complain("too many responses".to_owned());
        }
        log.unanswered += 1;
        log.exchanges.push(Exchange {
            stream: stream.number,
            kind,
            version,
            resources,
            bytes: bytes.len(),
            sent: Instant::now(),
            answered: None,
        });
        drop(log);
        // A stream that is over takes nothing, and its client begins another.
        let _ = stream.send.borrow_mut().send_data(bytes, false);
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use prost::Message;

    use super::*;
    use crate::xds::{
        message::{DiscoveryRequest, DiscoveryResponse, Status, TYPE_URL_PREFIX},
        world::Size,
    };

    /// Far more than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(60);
    const SIZE: Size = Size { clusters: 20, endpoints: 2, virtual_hosts: 20, listeners: 1 };

    fn start() -> Arc<Ads> {
        let listen = "127.0.0.1:1".parse().unwrap();
        Arc::new(Ads::start(World::new(SIZE, &[listen], [1000, 2000]), Place::default()).unwrap())
    }

    /// Waits beside the client's tasks, without which nothing comes.
    async fn until(ads: &Arc<Ads>, wanted: fn(&Log) -> bool) {
        let ads = Arc::clone(ads);
        let waiting = tokio::task::spawn_blocking(move || ads.wait(PATIENCE, wanted));
        assert!(waiting.await.unwrap());
    }

    /// A client of one stream.
    struct Client {
        send: SendStream<Bytes>,
        body: RecvStream,
        received: BytesMut,
    }

    impl Client {
        async fn open(ads: &Ads) -> Self {
            let socket = TcpStream::connect(ads.address()).await.unwrap();
            let (client, connection) = h2::client::handshake(socket).await.unwrap();
            spawn_local(async move { drop(connection.await) });
            let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";
            let uri = format!("http://ads{path}StreamAggregatedResources");
            let request = Request::post(uri).body(()).unwrap();
            let mut client = client.ready().await.unwrap();
            let (response, send) = client.send_request(request, false).unwrap();
            let body = response.await.unwrap().into_body();
            Self { send, body, received: BytesMut::new() }
        }

        fn ask(&mut self, kind: Kind, named: &[&str], nonce: &str, error: Option<Status>) {
            let request = DiscoveryRequest {
                resource_names: named.iter().map(|name| Bytes::from(name.to_string())).collect(),
                type_url: format!("{TYPE_URL_PREFIX}{}", kind.type_name()),
                response_nonce: nonce.to_owned(),
                error_detail: error,
                ..DiscoveryRequest::default()
            };
            let mut bytes = BytesMut::new();
            bytes.put_u8(0);
            bytes.put_u32(request.encoded_len() as u32);
            request.encode(&mut bytes).unwrap();
            // In two parts, as the network may cut it.
            let second = bytes.split_off(3);
            self.send.send_data(bytes.freeze(), false).unwrap();
            self.send.send_data(second.freeze(), false).unwrap();
        }

        async fn response(&mut self) -> DiscoveryResponse {
            loop {
                if let Some(message) = message(&mut self.received).unwrap() {
                    return DiscoveryResponse::decode(message).unwrap();
                }
                let chunk = self.body.data().await.unwrap().unwrap();
                self.body.flow_control().release_capacity(chunk.len()).unwrap();
                self.received.extend_from_slice(&chunk);
            }
        }
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bounded = async { tokio::time::timeout(PATIENCE, test).await };
        LocalSet::new().block_on(&runtime, bounded).unwrap();
    }

    #[test]
    fn serves_pushes_and_writes_down_answers() {
        let ads = start();
        run(async {
            let mut client = Client::open(&ads).await;
            client.ask(Kind::Endpoints, &["service-3", "service-4"], "", None);
            let first = client.response().await;
            assert_eq!((first.resources.len(), &*first.nonce), (2, "1"));
            assert_eq!(ads.log().unanswered, 1);
            client.ask(Kind::Endpoints, &["service-3", "service-4"], "1", None);
            until(&ads, |log| log.unanswered == 0).await;

            assert_eq!(ads.change(5, Extent::All), None);
            assert_eq!(ads.change(3, Extent::All), Some(2));
            let second = client.response().await;
            assert_eq!((second.resources.len(), &*second.version_info), (1, "2"));
            client.ask(Kind::Endpoints, &["service-3", "service-4"], "2", None);
            until(&ads, |log| log.exchange(2).is_some_and(|one| one.answered.is_some())).await;
            let log = ads.log();
            let exchange = log.exchange(2).unwrap();
            assert_eq!(
                (exchange.kind, exchange.resources, exchange.stream),
                (Kind::Endpoints, 1, 1)
            );
            assert!(exchange.answered.unwrap() >= exchange.sent);
            assert_eq!((log.streams, log.requests, &log.complaint), (1, 3, &None));
            // There was nothing of the other kinds.
            assert!(!log.is_settled());
        });
    }

    #[test]
    fn updates_go_on_until_they_are_ended() {
        let ads = start();
        run(async {
            let mut client = Client::open(&ads).await;
            let all: Vec<String> = (0..SIZE.clusters).map(|at| Kind::Cluster.name(at)).collect();
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            client.ask(Kind::Endpoints, &all, "", None);
            assert_eq!(client.response().await.resources.len(), SIZE.clusters);
            ads.update(Some(Updates { per_second: 1000, busy: vec![7], first: 0 }));
            for nonce in 2..40_u64 {
                let response = client.response().await;
                assert_eq!((response.resources.len(), response.nonce), (1, nonce.to_string()));
            }
            ads.update(None);
            // Commands are taken in turn, so nothing is pushed after the reply to this.
            let last = ads.change(0, Extent::One).unwrap();
            while client.response().await.nonce != last.to_string() {}
            assert_eq!(ads.log().exchanges.len() as u64, last);
        });
    }

    #[test]
    fn refusals_and_nonsense_are_complaints() {
        let ads = start();
        run(async {
            let mut client = Client::open(&ads).await;
            client.ask(Kind::Listener, &[], "", None);
            assert_eq!(client.response().await.resources.len(), 1);
            let error = Status { code: 3, message: "listener-0: no".to_owned() };
            client.ask(Kind::Listener, &[], "1", Some(error));
            until(&ads, |log| log.complaint.is_some()).await;
            let words = "envoy.config.listener.v3.Listener rejected: listener-0: no";
            assert_eq!(ads.log().complaint.as_deref(), Some(words));
        });
        let ads = start();
        run(async {
            let mut client = Client::open(&ads).await;
            client.ask(Kind::Listener, &[], "9", None);
            until(&ads, |log| log.complaint.is_some()).await;
        });
        let ads = start();
        run(async {
            let mut client = Client::open(&ads).await;
            client.send.send_data(Bytes::from_static(&[1, 0, 0, 0, 0]), false).unwrap();
            until(&ads, |log| log.complaint.is_some()).await;
        });
    }
}
