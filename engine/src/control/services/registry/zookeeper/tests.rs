//! A client on real sockets, and a server that answers as a test says.

use std::collections::{BTreeSet, HashMap};

use outrigger_xds::services_config::Secret;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::super::super::name::ServiceName;
use super::super::super::provider::Offer;
use super::super::{Report, Wanted};
use super::*;
use crate::stats::ServiceRegistryStats;

/// What one connection to the server brought.
struct Visit {
    stream: TcpStream,
    /// The session that was asked for; 0 for a new one.
    session: i64,
}

/// A request that came.
#[derive(Debug)]
struct Asked {
    xid: i32,
    operation: i32,
    path: String,
    rest: Vec<u8>,
}

impl Visit {
    /// Takes the first bytes of a client; answers with that session and timeout.
    async fn accept(listener: &TcpListener, session: i64, timeout_ms: i32) -> Visit {
        let mut visit = Visit { stream: within(listener.accept()).await.unwrap().0, session: 0 };
        let hello = visit.message().await.unwrap();
        visit.session = i64::from_be_bytes(hello[16..24].try_into().unwrap());
        let mut reply = 0i32.to_be_bytes().to_vec();
        reply.extend_from_slice(&timeout_ms.to_be_bytes());
        reply.extend_from_slice(&session.to_be_bytes());
        reply.extend_from_slice(&16i32.to_be_bytes());
        reply.extend_from_slice(&[9; 17]);
        visit.send(&reply).await;
        visit
    }

    async fn message(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        within(self.stream.read_exact(&mut length)).await?;
        let mut message = vec![0; i32::from_be_bytes(length) as usize];
        within(self.stream.read_exact(&mut message)).await?;
        Ok(message)
    }

    async fn asked(&mut self) -> Asked {
        let message = self.message().await.unwrap();
        let number = |at: usize| i32::from_be_bytes(message[at..at + 4].try_into().unwrap());
        let (path, rest) = match number(4) {
            11 | -11 => (String::new(), Vec::new()),
            100 => (String::new(), message[12..].to_vec()),
            _ => {
                let end = 12 + number(8) as usize;
                let path = String::from_utf8(message[12..end].to_vec()).unwrap();
                (path, message[end..].to_vec())
            }
        };
        Asked { xid: number(0), operation: number(4), path, rest }
    }

    async fn send(&mut self, message: &[u8]) {
        let mut bytes = (message.len() as i32).to_be_bytes().to_vec();
        bytes.extend_from_slice(message);
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn reply(&mut self, xid: i32, error: i32, body: &[u8]) {
        let mut message = xid.to_be_bytes().to_vec();
        message.extend_from_slice(&3i64.to_be_bytes());
        message.extend_from_slice(&error.to_be_bytes());
        message.extend_from_slice(body);
        self.send(&message).await;
    }

    /// Answers whatever comes with success, until the connection or the test ends. Operations and
    /// paths go to `seen`.
    async fn serve(mut self, children: Vec<String>, seen: mpsc::UnboundedSender<(i32, String)>) {
        let mut list = (children.len() as i32).to_be_bytes().to_vec();
        for child in &children {
            list.extend_from_slice(&(child.len() as i32).to_be_bytes());
            list.extend_from_slice(child.as_bytes());
        }
        while let Ok(message) = self.message().await {
            let number = |at: usize| i32::from_be_bytes(message[at..at + 4].try_into().unwrap());
            let path = match number(4) {
                1..=12 if number(4) != 11 => {
                    layout::decode(&String::from_utf8_lossy(&message[12..12 + number(8) as usize]))
                }
                _ => String::new(),
            };
            let _ = seen.send((number(4), path));
            let body = if number(4) == 8 { &list[..] } else { &[] };
            self.reply(number(0), 0, body).await;
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("in time")
}

struct Rig {
    want: watch::Sender<Arc<Wanted>>,
    reports: mpsc::Receiver<(Arc<str>, Report)>,
    stats: Arc<ServiceRegistryStats>,
    running: JoinHandle<()>,
}

impl Rig {
    fn start(addresses: &[SocketAddr], wanted: Wanted) -> Rig {
        let address = addresses[0].to_string().parse().unwrap();
        let mut config = ZooKeeperRegistry::at(address);
        config.addresses = addresses.iter().map(|one| one.to_string().parse().unwrap()).collect();
        Rig::with(config, wanted)
    }

    fn with(config: ZooKeeperRegistry, wanted: Wanted) -> Rig {
        let (want, wants) = watch::channel(Arc::new(wanted));
        let (sender, reports) = mpsc::channel(16);
        let stats: Arc<ServiceRegistryStats> = Arc::default();
        let zookeeper = ZooKeeper::new(config, &[ServiceProtocol::Dubbo]);
        let told = Reports::new("zk".into(), Arc::clone(&stats), sender);
        Rig { want, reports, stats, running: tokio::spawn(zookeeper.run(wants, told)) }
    }

    async fn report(&mut self) -> Report {
        within(self.reports.recv()).await.unwrap().1
    }

    async fn end(self) {
        drop(self.want);
        within(self.running).await.unwrap();
    }
}

fn lookup() -> Arc<ServiceName> {
    Arc::new(ServiceName::dubbo("I", "", "").unwrap())
}

fn looking() -> Wanted {
    Wanted { lookups: BTreeSet::from([lookup()]), ..Wanted::default() }
}

fn offering() -> Wanted {
    let offer = Offer {
        name: ServiceName::dubbo("I", "", "").unwrap(),
        address: "1.2.3.4:5".parse().unwrap(),
        parameters: HashMap::<String, String>::new().into_iter().collect(),
        since_ms: 1,
    };
    Wanted { offers: BTreeSet::from([Arc::new(offer)]), ..Wanted::default() }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn children(urls: &[&str]) -> Vec<String> {
    urls.iter().map(|url| layout::encode(url)).collect()
}

#[tokio::test]
async fn providers_are_reported_and_the_session_goes_on_after_a_loss() {
    let (listener, address) = listen().await;
    let mut rig = Rig::start(&[address], looking());
    let (seen, _paths) = mpsc::unbounded_channel();
    let first = Visit::accept(&listener, 77, 30_000).await;
    assert_eq!(first.session, 0);
    let serving = tokio::spawn(first.serve(children(&["dubbo://9.9.9.9:1/I"]), seen.clone()));
    let Report::Providers { providers, .. } = rig.report().await else { panic!() };
    assert_eq!(providers.len(), 1);
    assert_eq!(rig.report().await, Report::Back);
    serving.abort();
    assert_eq!(rig.report().await, Report::Lost);
    assert_eq!(rig.stats.stale.value(), 1);
    let second = Visit::accept(&listener, 77, 30_000).await;
    assert_eq!(second.session, 77);
    tokio::spawn(second.serve(Vec::new(), seen));
    let Report::Providers { providers, .. } = rig.report().await else { panic!() };
    assert!(providers.is_empty(), "what happened meanwhile is seen");
    assert_eq!(rig.report().await, Report::Back);
    assert_eq!((rig.stats.stale.value(), rig.stats.session.value()), (0, 1));
    rig.end().await;
}

#[tokio::test]
async fn an_expired_session_makes_everything_anew() {
    let (listener, address) = listen().await;
    let mut rig = Rig::start(&[address], offering());
    let (seen, mut paths) = mpsc::unbounded_channel();
    let first =
        tokio::spawn(Visit::accept(&listener, 77, 30_000).await.serve(Vec::new(), seen.clone()));
    assert_eq!(rig.report().await, Report::Back);
    let node = async |paths: &mut mpsc::UnboundedReceiver<(i32, String)>| loop {
        let (operation, path) = within(paths.recv()).await.unwrap();
        if operation == 1 && path.contains("/providers/") {
            return path;
        }
    };
    let made = node(&mut paths).await;
    first.abort();
    assert_eq!(rig.report().await, Report::Lost);
    // The server knows the session no more.
    let refused = Visit::accept(&listener, 0, 0).await;
    assert_eq!(refused.session, 77);
    let fresh = Visit::accept(&listener, 78, 30_000).await;
    assert_eq!(fresh.session, 0);
    tokio::spawn(fresh.serve(Vec::new(), seen));
    assert_eq!(node(&mut paths).await, made);
    assert_eq!(rig.report().await, Report::Back);
    assert_eq!(rig.stats.session.value(), 2);
    // At the end the session is closed, and the nodes with it.
    let Rig { want, running, .. } = rig;
    drop(want);
    within(running).await.unwrap();
    let mut last = 0;
    while let Ok((operation, _)) = paths.try_recv() {
        last = operation;
    }
    assert_eq!(last, -11);
}

#[tokio::test]
async fn silence_is_filled_with_pings_and_taken_for_death() {
    let (listener, address) = listen().await;
    let mut rig = Rig::start(&[address], Wanted::default());
    let mut visit = Visit::accept(&listener, 77, 900).await;
    assert_eq!(rig.report().await, Report::Back);
    let asked = visit.asked().await;
    assert_eq!((asked.xid, asked.operation), (wire::XID_PING, 11));
    visit.reply(wire::XID_PING, 0, &[]).await;
    assert_eq!(visit.asked().await.operation, 11);
    // No answer any more: the client goes, and comes again.
    assert_eq!(rig.report().await, Report::Lost);
    let again = Visit::accept(&listener, 77, 30_000).await;
    assert_eq!(again.session, 77);
    rig.end().await;
}

#[tokio::test]
async fn the_next_member_is_tried() {
    let (gone, dead) = listen().await;
    drop(gone);
    let (listener, address) = listen().await;
    let mut rig = Rig::start(&[dead, address], Wanted::default());
    let _visit = Visit::accept(&listener, 77, 30_000).await;
    while rig.report().await != Report::Back {}
    assert_eq!(rig.stats.connected.value(), 1);
    rig.end().await;
}

#[tokio::test]
async fn credentials_are_sent_and_their_refusal_ends_the_connection() {
    let (listener, address) = listen().await;
    let mut config = ZooKeeperRegistry::at(address.to_string().parse().unwrap());
    (config.username, config.password) = (Some("user".into()), Some(Secret::new("secret")));
    let mut rig = Rig::with(config, offering());
    let mut visit = Visit::accept(&listener, 77, 30_000).await;
    let auth = visit.asked().await;
    assert_eq!((auth.xid, auth.operation), (wire::XID_AUTH, 100));
    // Scheme and proof, each with its length.
    assert_eq!(auth.rest, b"\0\0\0\x06digest\0\0\0\x0buser:secret");
    // What is made is the user's alone.
    let create = visit.asked().await;
    assert_eq!((create.operation, &*create.path), (1, "/dubbo"));
    assert!(create.rest.windows(4).any(|part| part == b"auth"), "{create:?}");
    visit.reply(wire::XID_AUTH, wire::AUTH_FAILED, &[]).await;
    assert_eq!(rig.report().await, Report::Lost);
    rig.end().await;
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_nothing_else() {
    for nonsense in [
        &b"\xff\xff\xff\xff"[..],
        b"\x7f\xff\xff\xff",
        b"\0\0\0\x02ab",
        b"\0\0\0\x10aaaaaaaaaaaaaaaa",
    ] {
        let (listener, address) = listen().await;
        let mut rig = Rig::start(&[address], looking());
        let mut visit = Visit::accept(&listener, 77, 30_000).await;
        visit.stream.write_all(nonsense).await.unwrap();
        assert_eq!(rig.report().await, Report::Lost, "{nonsense:?}");
        let (seen, _paths) = mpsc::unbounded_channel();
        tokio::spawn(Visit::accept(&listener, 77, 30_000).await.serve(Vec::new(), seen));
        while rig.report().await != Report::Back {}
        rig.end().await;
    }
}
