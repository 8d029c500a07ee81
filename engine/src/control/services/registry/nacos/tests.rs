//! A client on real sockets, and a server that answers as a test says.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use bytes::BytesMut;
use h2::SendStream;
use h2::server::SendResponse;
use hyper::http::HeaderMap;
use outrigger_xds::services_config::Secret;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::super::{Report, Wanted};
use super::*;
use crate::stats::ServiceRegistryStats;

/// A server: what it was asked, and how it answers.
#[derive(Clone)]
struct Fake {
    shared: Arc<Mutex<Shared>>,
    /// Everything that came, in order.
    heard: mpsc::UnboundedSender<Payload>,
}

#[derive(Default)]
struct Shared {
    /// So many questions are answered as if the connection were unknown.
    refusals: u32,
    /// Services and their instances.
    services: BTreeMap<String, Value>,
    /// Streams are refused.
    is_deaf: bool,
    /// The stream to the client that came last.
    pushes: Option<Pushes>,
}

/// Like Java's server, it sends no headers before there is a message.
enum Pushes {
    Silent(SendResponse<Bytes>),
    Begun(SendStream<Bytes>),
}

impl Fake {
    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves the connections of `listener` one after the other.
    async fn serve(self, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let Ok(mut connection) = h2::server::handshake(stream).await else { continue };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(self.clone().answer(request, respond));
            }
        }
    }

    async fn answer(
        self,
        request: hyper::Request<h2::RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) {
        if request.uri().path() == "/BiRequestStream/requestBiStream" {
            {
                let mut shared = self.shared();
                if shared.is_deaf {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                    return;
                }
                shared.pushes = Some(Pushes::Silent(respond));
            }
            let mut body = request.into_body();
            while let Some(payload) = next(&mut body, &mut BytesMut::new()).await {
                let _ = self.heard.send(payload);
            }
            return;
        }
        let Some(asked) = next(&mut request.into_body(), &mut BytesMut::new()).await else {
            return;
        };
        let answer = self.answer_to(&asked);
        let _ = self.heard.send(asked);
        let mut send = begin(&mut respond);
        let _ = send.send_data(framed(&Payload::new("Response", &answer, None)), false);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let _ = send.send_trailers(trailers);
    }

    fn answer_to(&self, asked: &Payload) -> Value {
        let mut shared = self.shared();
        if asked.kind() != "ServerCheckRequest" && shared.refusals > 0 {
            shared.refusals -= 1;
            return json!({"resultCode": 500, "errorCode": UNREGISTERED, "message": "who?"});
        }
        let body: Value = asked.body().unwrap();
        let service = body["serviceName"].as_str().unwrap_or_default();
        let mut answer = json!({"resultCode": 200, "errorCode": 0});
        match asked.kind() {
            "SubscribeServiceRequest" => {
                let hosts = shared.services.get(service).cloned().unwrap_or(json!([]));
                answer["serviceInfo"] = json!({"name": service, "hosts": hosts, "lastRefTime": 5});
            }
            "ServiceListRequest" => {
                let names: Vec<_> = shared.services.keys().collect();
                answer["count"] = names.len().into();
                answer["serviceNames"] = json!(names);
            }
            _ => {}
        }
        answer
    }

    fn push(&self, kind: &str, body: &Value) {
        let message = framed(&Payload::new(kind, body, None));
        let mut shared = self.shared();
        let mut send = match shared.pushes.take().unwrap() {
            Pushes::Silent(mut respond) => begin(&mut respond),
            Pushes::Begun(send) => send,
        };
        send.send_data(message, false).unwrap();
        shared.pushes = Some(Pushes::Begun(send));
    }
}

fn begin(respond: &mut SendResponse<Bytes>) -> SendStream<Bytes> {
    let response = hyper::Response::builder().header(CONTENT_TYPE, "application/grpc");
    respond.send_response(response.body(()).unwrap(), false).unwrap()
}

fn framed(payload: &Payload) -> Bytes {
    let message = payload.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&message);
    bytes.into()
}

/// The next message of a stream.
async fn next(body: &mut h2::RecvStream, read: &mut BytesMut) -> Option<Payload> {
    loop {
        if let Some(length) = read.get(1..5) {
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if read.len() >= 5 + length {
                return Some(Payload::decode(&read[5..5 + length]).unwrap());
            }
        }
        let data = body.data().await?.ok()?;
        let _ = body.flow_control().release_capacity(data.len());
        read.extend_from_slice(&data);
    }
}

struct Rig {
    fake: Fake,
    heard: mpsc::UnboundedReceiver<Payload>,
    want: watch::Sender<Arc<Wanted>>,
    reports: mpsc::Receiver<(Arc<str>, Report)>,
    stats: Arc<ServiceRegistryStats>,
    running: JoinHandle<()>,
    /// Where HTTP is expected.
    http: TcpListener,
}

/// HTTP's listener and gRPC's, which is 1000 above.
async fn listeners() -> (TcpListener, TcpListener) {
    loop {
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = http.local_addr().unwrap().port();
        let Some(port) = port.checked_add(NACOS_GRPC_OFFSET) else { continue };
        if let Ok(grpc) = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await {
            return (http, grpc);
        }
    }
}

impl Rig {
    async fn start(wanted: Wanted, prepare: impl FnOnce(&mut Shared, &mut NacosRegistry)) -> Rig {
        let (http, grpc) = listeners().await;
        let mut config = NacosRegistry {
            addresses: vec![http.local_addr().unwrap().to_string().parse().unwrap()],
            namespace: "".into(),
            group: "DEFAULT_GROUP".into(),
            username: None,
            password: None,
        };
        let (heard_by, heard) = mpsc::unbounded_channel();
        let fake = Fake { shared: Arc::default(), heard: heard_by };
        prepare(&mut fake.shared(), &mut config);
        tokio::spawn(fake.clone().serve(grpc));
        let (want, wants) = watch::channel(Arc::new(wanted));
        let (sender, reports) = mpsc::channel(16);
        let stats: Arc<ServiceRegistryStats> = Arc::default();
        let told = Reports::new("nacos".into(), Arc::clone(&stats), sender);
        let running = tokio::spawn(Nacos::new(config).run(wants, told));
        Rig { fake, heard, want, reports, stats, running, http }
    }

    async fn report(&mut self) -> Report {
        within(self.reports.recv()).await.unwrap().1
    }

    async fn providers(&mut self) -> Vec<String> {
        match self.report().await {
            Report::Providers { providers, .. } => {
                providers.iter().map(|one| one.address.to_string()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next message of that kind.
    async fn hear(&mut self, kind: &str) -> Payload {
        loop {
            let payload = within(self.heard.recv()).await.unwrap();
            if payload.kind() == kind {
                return payload;
            }
        }
    }

    async fn end(mut self) {
        drop(self.want);
        // Nobody is to be kept from ending by a full channel.
        self.reports.close();
        within(self.running).await.unwrap();
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("in time")
}

fn name(group: &str, version: &str) -> ServiceName {
    ServiceName::dubbo("I", group, version).unwrap()
}

fn both() -> Wanted {
    let offer = Offer {
        name: name("", ""),
        address: "1.2.3.4:5".parse().unwrap(),
        parameters: BTreeMap::new(),
        since_ms: 1,
    };
    Wanted {
        offers: [Arc::new(offer)].into(),
        lookups: [Arc::new(name("", ""))].into(),
        ..Wanted::default()
    }
}

fn host(ip: &str) -> Value {
    json!({"ip": ip, "port": 1, "metadata": {"protocol": "dubbo"}, "more": true})
}

const SERVICE: &str = "providers:I::";

#[tokio::test]
async fn what_is_pushed_is_acknowledged_and_reported_unless_it_is_old() {
    let mut rig = Rig::start(both(), |shared, _| {
        shared.refusals = 3;
        shared.services.insert(SERVICE.to_owned(), json!([host("9.9.9.9")]));
    })
    .await;
    let setup: Value = rig.hear("ConnectionSetupRequest").await.body().unwrap();
    assert_eq!(setup["tenant"], "public");
    let registered: Value = rig.hear("InstanceRequest").await.body().unwrap();
    assert_eq!(
        (&registered["type"], &registered["serviceName"]),
        (&json!("registerInstance"), &json!(SERVICE))
    );
    assert_eq!(registered["instance"]["ip"], "1.2.3.4");
    let subscribed: Value = rig.hear("SubscribeServiceRequest").await.body().unwrap();
    assert_eq!(subscribed["subscribe"], true);
    assert_eq!(rig.providers().await, ["9.9.9.9:1"]);
    assert_eq!(rig.report().await, Report::Back);
    for (time, ip) in [(4, "1.1.1.1"), (6, "2.2.2.2")] {
        let info = json!({
            "name": format!("DEFAULT_GROUP@@{SERVICE}"), "hosts": [host(ip)], "lastRefTime": time,
        });
        rig.fake.push(
            "NotifySubscriberRequest",
            &json!({"requestId": time.to_string(), "serviceInfo": info}),
        );
        let answer: Value = rig.hear("NotifySubscriberResponse").await.body().unwrap();
        assert_eq!(
            (&answer["requestId"], &answer["resultCode"]),
            (&json!(time.to_string()), &json!(200))
        );
    }
    assert_eq!(rig.providers().await, ["2.2.2.2:1"]);
    rig.fake.push("ClientDetectionRequest", &json!({"requestId": "d"}));
    rig.hear("ClientDetectionResponse").await;
    // What the server should never push is no harm.
    rig.fake.push("NotifySubscriberRequest", &json!({"serviceInfo": 1}));
    rig.hear("NotifySubscriberResponse").await;
    drop(std::mem::replace(&mut rig.want, watch::Sender::new(Arc::default())));
    let gone: Value = rig.hear("InstanceRequest").await.body().unwrap();
    assert_eq!(gone["type"], "deregisterInstance");
    rig.end().await;
}

#[tokio::test]
async fn a_reset_is_followed_and_everything_told_again() {
    let mut rig = Rig::start(both(), |_, _| {}).await;
    assert!(rig.providers().await.is_empty());
    assert_eq!(rig.report().await, Report::Back);
    rig.hear("InstanceRequest").await;
    rig.fake.push("ConnectResetRequest", &json!({"requestId": "r"}));
    assert_eq!(rig.report().await, Report::Lost);
    rig.hear("InstanceRequest").await;
    rig.hear("SubscribeServiceRequest").await;
    while rig.report().await != Report::Back {}
    assert_eq!((rig.stats.session.value(), rig.stats.register.value()), (2, 2));
    rig.end().await;
}

#[tokio::test]
async fn a_stream_that_begins_with_its_first_message_is_not_waited_for() {
    // Nothing is ever pushed: there is no response, and yet everything is told.
    let mut rig = Rig::start(both(), |shared, _| {
        shared.services.insert(SERVICE.to_owned(), json!([host("9.9.9.9")]));
    })
    .await;
    rig.hear("ConnectionSetupRequest").await;
    rig.hear("InstanceRequest").await;
    assert_eq!(rig.providers().await, ["9.9.9.9:1"]);
    assert_eq!(rig.report().await, Report::Back);
    assert!(matches!(rig.fake.shared().pushes, Some(Pushes::Silent(_))));
    assert_eq!((rig.stats.connected.value(), rig.stats.connect_fail.value()), (1, 0));
    rig.end().await;
}

#[tokio::test]
async fn without_a_stream_there_is_no_connection_and_the_next_one_has_another() {
    let mut rig = Rig::start(both(), |shared, _| {
        shared.is_deaf = true;
        shared.refusals = u32::MAX;
    })
    .await;
    assert_eq!(rig.report().await, Report::Lost);
    assert_eq!((rig.stats.session.value(), rig.stats.connect_fail.value()), (0, 1));
    {
        let mut shared = rig.fake.shared();
        (shared.is_deaf, shared.refusals) = (false, 0);
    }
    assert!(rig.providers().await.is_empty());
    assert_eq!(rig.report().await, Report::Back);
    // One that ends takes the connection with it.
    match rig.fake.shared().pushes.take().unwrap() {
        Pushes::Silent(mut respond) => respond.send_reset(h2::Reason::CANCEL),
        Pushes::Begun(mut send) => send.send_reset(h2::Reason::CANCEL),
    }
    assert_eq!(rig.report().await, Report::Lost);
    while rig.report().await != Report::Back {}
    rig.end().await;
}

#[tokio::test]
async fn patterns_are_looked_up_by_name() {
    let wanted = Wanted { lookups: [Arc::new(name("*", "*"))].into(), ..Wanted::default() };
    let mut rig = Rig::start(wanted, |shared, _| {
        for (service, ip) in [("providers:I:1:g", "1.1.1.1"), ("providers:I::", "2.2.2.2")] {
            shared.services.insert(service.to_owned(), json!([host(ip)]));
        }
        for other in ["providers:J::", "consumers:I::", "providers:a b::"] {
            shared.services.insert(other.to_owned(), json!([host("3.3.3.3")]));
        }
    })
    .await;
    let mut found = rig.providers().await;
    found.sort();
    assert_eq!(found, ["1.1.1.1:1", "2.2.2.2:1"]);
    rig.end().await;
}

#[tokio::test]
async fn a_log_in_comes_first_and_its_token_with_everything() {
    let mut rig = Rig::start(both(), |_, config| {
        (config.username, config.password) = (Some("u".into()), Some(Secret::new("p&q")));
    })
    .await;
    for (path, answer) in [
        ("/nacos/v3/auth/user/login", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        (
            "/nacos/v1/auth/login",
            "HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{\"accessToken\":\"t0k3n\",\"tokenTtl\":18000}",
        ),
    ] {
        let (mut stream, _) = within(rig.http.accept()).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"username=u&password=p%26q") {
            assert_ne!(within(stream.read_buf(&mut read)).await.unwrap(), 0);
        }
        assert!(read.starts_with(format!("POST {path} ").as_bytes()));
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    let asked = rig.hear("InstanceRequest").await;
    let bytes = asked.encode_to_vec();
    assert!(
        bytes.windows(11).any(|part| part == b"accessToken")
            && bytes.windows(5).any(|part| part == b"t0k3n")
    );
    rig.end().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_lost_once() {
    let mut rig = Rig::start(both(), |_, config| {
        config.addresses = vec!["127.0.0.1:1".parse().unwrap()];
    })
    .await;
    assert_eq!(rig.report().await, Report::Lost);
    while rig.stats.connect_fail.value() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(rig.reports.try_recv().is_err());
    rig.end().await;
}
