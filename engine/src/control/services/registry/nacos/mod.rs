//! Nacos 2 and later: one gRPC connection at a time to one server, which is the life of what we
//! register.
//!
//! A new connection registers and subscribes everything anew. The server pushes whole lists; they are
//! acknowledged by a task of their own, so that a slow directory does not look like a dead client.
//! The HTTP interface is used to log in alone.

mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use outrigger_xds::services_config::{HostPort, NACOS_GRPC_OFFSET, NacosRegistry};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use self::message::{
    Failure, NOT_ALLOWED, Outcome, Payload, Scope, ServiceInfo, ServiceList, UNREGISTERED,
    WithService, dubbo_service, instance, service_name,
};
use super::super::name::ServiceName;
use super::super::provider::{Offer, Provider, ProviderError};
use super::{Backoff, Registry, Reports, Wants};

/// A Nacos, not yet in use.
#[derive(Debug)]
pub struct Nacos {
    config: NacosRegistry,
}

impl Nacos {
    /// As it is configured.
    pub fn new(config: NacosRegistry) -> Nacos {
        Nacos { config }
    }
}

impl Registry for Nacos {
    async fn run(self, wanted: Wants, reports: Reports) {
        let namespace = match &*self.config.namespace {
            "" => PUBLIC_NAMESPACE,
            namespace => namespace,
        };
        let scope =
            Scope { namespace: namespace.to_owned(), group: self.config.group.clone().into() };
        Client { config: self.config, scope, wanted, reports, is_lost: None }.run().await;
    }
}

/// Why there is no connection, or no more.
#[derive(Debug, Error)]
enum Fault {
    #[error("{0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{0}")]
    Status(Box<Status>),
    #[error("{0}")]
    Failure(#[from] Failure),
    #[error("an answer that can't be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("log-in failed: {0}")]
    Login(String),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server asks us to go elsewhere")]
    Redirected,
}

impl From<Status> for Fault {
    fn from(status: Status) -> Fault {
        Fault::Status(Box::new(status))
    }
}

struct Client {
    config: NacosRegistry,
    scope: Scope,
    wanted: Wants,
    reports: Reports,
    /// What was last told; nothing before anything was.
    is_lost: Option<bool>,
}

impl Client {
    /// Goes from server to server until nothing is wanted any more.
    async fn run(mut self) {
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LONGEST);
        let addresses = self.config.addresses.clone();
        let mut turn = super::random() as usize % addresses.len().max(1);
        loop {
            let Some(address) = addresses.get(turn % addresses.len().max(1)) else { return };
            turn += 1;
            let ended = self.visit(address, &mut backoff).await;
            self.reports.stats.connected.set(0);
            let fault = match ended {
                Ok(()) => return,
                Err(fault) => fault,
            };
            log::warn!("registry {}: {address}: {fault}", self.reports.source);
            if self.is_lost != Some(true) {
                self.is_lost = Some(true);
                self.reports.lost().await;
            }
            let ends = async { while self.wanted.changed().await.is_ok() {} };
            if timeout(backoff.pause(), ends).await.is_ok() {
                return;
            }
        }
    }

    /// One connection from its begin to its end, which is good only when nothing is wanted any more.
    async fn visit(&mut self, address: &HostPort, backoff: &mut Backoff) -> Result<(), Fault> {
        self.reports.stats.connect.inc();
        let connected = timeout(CONNECT_PATIENCE, self.connect(address)).await;
        let connected = connected.unwrap_or(Err(Fault::Timeout));
        let failed = |_: &Fault| self.reports.stats.connect_fail.inc();
        let (mut link, mut pushed) = connected.inspect_err(failed)?;
        backoff.reset();
        self.reports.stats.connected.set(1);
        self.reports.stats.session.inc();
        log::info!("registry {}: connected to {address}", self.reports.source);
        let talked = self.talk(&mut link, &mut pushed).await;
        self.reports.stats.disconnect.inc();
        talked
    }

    /// Connects, logs in, and has the server know the connection.
    async fn connect(&self, address: &HostPort) -> Result<(Link, Pushed), Fault> {
        let token = match (&self.config.username, &self.config.password) {
            (Some(user), Some(password)) => Some(login(address, user, password.reveal()).await?),
            _ => None,
        };
        let expires_at = token.as_ref().map(|token| token.expires_at);
        let token = token.map(|token| token.text);
        let port = address.port.saturating_add(NACOS_GRPC_OFFSET);
        let grpc_address = HostPort { host: address.host.clone(), port };
        let channel = Endpoint::from_shared(format!("http://{grpc_address}"))?.connect().await?;
        let grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut link = Link { grpc, token, expires_at, listener: None };
        link.ask("ServerCheckRequest", &json!({"module": "internal"})).await?;

        let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
        let setup = json!({
            "module": "internal",
            "clientVersion": CLIENT_VERSION,
            "tenant": self.scope.namespace,
            "labels": {"source": "sdk", "module": "naming", "AppName": "outrigger"},
            "abilities": {},
            "abilityTable": {},
        });
        // There is room for the first one.
        let _ = answers.try_send(link.payload("ConnectionSetupRequest", &setup));
        let (push, mut pushed) = mpsc::channel(PUSHES_MAX);
        let line = Line { grpc: link.grpc.clone(), answers, push, token: link.token.clone() };
        link.listener = Some(tokio::spawn(line.listen(outgoing)));
        // The server takes the connection in after a while, and says until then that it doesn't.
        loop {
            match link.ask("HealthCheckRequest", &json!({"module": "internal"})).await {
                Err(Fault::Failure(Failure { code: UNREGISTERED, .. })) => {
                    if let Ok(told) = timeout(SETUP_PAUSE, pushed.recv()).await {
                        told.unwrap_or(Err(Fault::Closed))?;
                    }
                }
                other => return other.map(|_| (link, pushed)),
            }
        }
    }

    /// Asks and is told, until the connection fails or nothing is wanted any more.
    async fn talk(&mut self, link: &mut Link, pushed: &mut Pushed) -> Result<(), Fault> {
        let mut desk = Desk::default();
        let mut heard_at = Instant::now();
        let mut listed_at = None;
        // What is wanted may not have been looked at yet.
        self.wanted.mark_changed();
        loop {
            let relist = listed_at.map(|at: Instant| at + LIST_INTERVAL);
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        // The server drops what was registered with the connection; said in so many
                        // words it does so at once.
                        desk.wanted_offers.clear();
                        return timeout(CALL_PATIENCE, self.register(link, &mut desk))
                            .await
                            .unwrap_or(Ok(()));
                    }
                    let wanted = Arc::clone(&self.wanted.borrow_and_update());
                    desk.want(&wanted.offers, &wanted.lookups);
                    self.reports.stats.published.set(wanted.offers.len() as u64);
                    self.reports.stats.subscribed.set(wanted.lookups.len() as u64);
                    self.register(link, &mut desk).await?;
                    self.reports.registered(&wanted);
                    listed_at = self.list(link, &mut desk).await?;
                    self.subscribe(link, &mut desk).await?;
                    self.report(&mut desk).await;
                    if self.is_lost != Some(false) {
                        self.is_lost = Some(false);
                        self.reports.back().await;
                    }
                }
                told = pushed.recv() => {
                    let info = told.unwrap_or(Err(Fault::Closed))?;
                    heard_at = Instant::now();
                    self.take(&mut desk, &info);
                    self.report(&mut desk).await;
                }
                () = tokio::time::sleep_until(heard_at + HEALTH_INTERVAL) => {
                    link.ask("HealthCheckRequest", &json!({"module": "internal"})).await?;
                    heard_at = Instant::now();
                    if link.expires_at.is_some_and(|at| at <= heard_at) {
                        return Err(Fault::Login("the token has expired".to_owned()));
                    }
                }
                () = tokio::time::sleep_until(relist.unwrap_or(heard_at)), if relist.is_some() => {
                    listed_at = self.list(link, &mut desk).await?;
                    self.subscribe(link, &mut desk).await?;
                    self.report(&mut desk).await;
                }
            }
        }
    }

    /// Registers what is wanted and not there, and takes back the rest. One that fails is tried again
    /// when something else is wanted, or on the next connection.
    async fn register(&self, link: &mut Link, desk: &mut Desk) -> Result<(), Fault> {
        let stats = &self.reports.stats;
        let gone = |offer: &&Arc<Offer>| !desk.wanted_offers.contains(*offer);
        for offer in desk.registered.iter().filter(gone).cloned().collect::<Vec<_>>() {
            // The same service with other parameters replaces what was there.
            let replaced = desk.wanted_offers.iter().any(|wanted| wanted.name == offer.name);
            if !replaced {
                self.instance(link, &offer, "deregisterInstance").await?;
                stats.unregister.inc();
            }
            desk.registered.remove(&offer);
        }
        for offer in &desk.wanted_offers {
            if desk.registered.contains(offer) {
                continue;
            }
            match self.instance(link, offer, "registerInstance").await {
                Ok(()) => {
                    stats.register.inc();
                    desk.registered.insert(Arc::clone(offer));
                }
                Err(Fault::Failure(failure)) if !is_end(&failure) => {
                    stats.register_fail.inc();
                    let (source, name) = (&self.reports.source, &offer.name);
                    log::error!("registry {source}: can't register {name}: {failure}");
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    async fn instance(&self, link: &mut Link, offer: &Offer, kind: &str) -> Result<(), Fault> {
        let fields = json!({"type": kind, "instance": instance(offer)});
        let body = self.scope.about(&service_name(&offer.name), fields);
        link.ask("InstanceRequest", &body).await.map(drop)
    }

    /// Finds the services that patterns stand for. Says when, if there are patterns.
    async fn list(&self, link: &mut Link, desk: &mut Desk) -> Result<Option<Instant>, Fault> {
        if !desk.lookups.iter().any(|lookup| lookup.is_pattern()) {
            desk.listed.clear();
            return Ok(None);
        }
        let mut listed = BTreeSet::new();
        for page in 1..=PAGES_MAX {
            let fields = json!({"pageNo": page, "pageSize": PAGE_NAMES, "selector": ""});
            let answer = link.ask("ServiceListRequest", &self.scope.about("", fields)).await?;
            let list: ServiceList = answer.body()?;
            let end = list.service_names.is_empty() || page * PAGE_NAMES >= list.count;
            let names = list.service_names.iter().map(|name| self.scope.own_name(name));
            listed.extend(names.filter_map(dubbo_service));
            if end {
                break;
            }
        }
        desk.listed = listed;
        Ok(Some(Instant::now()))
    }

    /// Has the server push what is looked up, and nothing else.
    async fn subscribe(&self, link: &mut Link, desk: &mut Desk) -> Result<(), Fault> {
        let wanted = desk.wanted_services();
        let gone: Vec<_> = desk
            .services
            .keys()
            .filter(|service| !wanted.contains_key(*service))
            .cloned()
            .collect();
        for service in gone {
            let fields = json!({"subscribe": false, "clusters": ""});
            link.ask("SubscribeServiceRequest", &self.scope.about(&service, fields)).await?;
            desk.services.remove(&service);
        }
        for (service, name) in wanted {
            if desk.services.contains_key(&service) {
                continue;
            }
            let fields = json!({"subscribe": true, "clusters": ""});
            let answer =
                link.ask("SubscribeServiceRequest", &self.scope.about(&service, fields)).await;
            match answer {
                Ok(answer) => {
                    desk.services.insert(
                        service.clone(),
                        Known { name, last_ref_time: 0, providers: Vec::new() },
                    );
                    let WithService { service_info } = answer.body()?;
                    self.take(desk, &ServiceInfo { name: service, ..service_info });
                }
                Err(Fault::Failure(failure)) if !is_end(&failure) => {
                    self.reports.stats.update_fail.inc();
                    let source = &self.reports.source;
                    log::error!("registry {source}: can't subscribe to {service}: {failure}");
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    fn take(&self, desk: &mut Desk, info: &ServiceInfo) {
        let service = self.scope.own_name(&info.name).to_owned();
        let ignored = desk.take(&service, info);
        let stats = &self.reports.stats;
        stats.provider_ignored.add(ignored.len() as u64);
        for error in ignored.iter().take(IGNORED_SHOWN_MAX) {
            log::warn!("registry {}: {service}: left out: {error}", self.reports.source);
        }
        let known = desk.services.values().map(|known| known.providers.len() as u64);
        stats.providers.set(known.sum());
    }

    async fn report(&self, desk: &mut Desk) {
        for (lookup, providers) in desk.news() {
            self.reports.providers(&lookup, providers).await;
        }
    }
}

/// What is wanted of one connection, and what is known by it.
#[derive(Default)]
struct Desk {
    wanted_offers: BTreeSet<Arc<Offer>>,
    registered: BTreeSet<Arc<Offer>>,
    lookups: BTreeSet<Arc<ServiceName>>,
    /// Lookups of which something new is known.
    news: BTreeSet<Arc<ServiceName>>,
    /// Dubbo services that there are, as far as patterns need it.
    listed: BTreeSet<ServiceName>,
    /// Subscribed services by their names in Nacos.
    services: BTreeMap<String, Known>,
}

/// What is known of a subscribed service.
struct Known {
    name: ServiceName,
    last_ref_time: i64,
    providers: Vec<Provider>,
}

impl Desk {
    fn want(&mut self, offers: &BTreeSet<Arc<Offer>>, lookups: &BTreeSet<Arc<ServiceName>>) {
        self.wanted_offers = offers.clone();
        self.news.retain(|lookup| lookups.contains(lookup));
        self.news.extend(lookups.difference(&self.lookups).cloned());
        self.lookups = lookups.clone();
    }

    /// What is to be subscribed to, by its name in Nacos.
    fn wanted_services(&self) -> BTreeMap<String, ServiceName> {
        let mut wanted = BTreeMap::new();
        for lookup in &self.lookups {
            if lookup.is_pattern() {
                let found = self.listed.iter().filter(|name| lookup.takes(name));
                wanted.extend(found.map(|name| (service_name(name), name.clone())));
            } else {
                wanted.insert(service_name(lookup), ServiceName::clone(lookup));
            }
        }
        wanted
    }

    /// Takes a service's list. Older ones than the last are ignored.
    fn take(&mut self, service: &str, info: &ServiceInfo) -> Vec<ProviderError> {
        let Some(known) = self.services.get_mut(service) else { return Vec::new() };
        if info.last_ref_time < known.last_ref_time {
            return Vec::new();
        }
        known.last_ref_time = info.last_ref_time;
        known.providers.clear();
        let mut ignored = Vec::new();
        for host in &info.hosts {
            match host.to_provider(&known.name) {
                Ok(provider) => known.providers.push(provider),
                Err(ProviderError::NotOurs(_)) => {}
                Err(error) => ignored.push(error),
            }
        }
        let name = known.name.clone();
        // SOFARPC's versions share one name.
        let concerns =
            |lookup: &&Arc<ServiceName>| lookup.takes(&name) || service_name(lookup) == service;
        self.news.extend(self.lookups.iter().filter(concerns).cloned());
        ignored
    }

    fn news(&mut self) -> Vec<(Arc<ServiceName>, Vec<Provider>)> {
        let lookups = std::mem::take(&mut self.news);
        lookups
            .into_iter()
            .map(|lookup| {
                let all = self.services.values().flat_map(|known| &known.providers);
                let providers = all.filter(|one| lookup.takes(&one.name)).cloned().collect();
                (lookup, providers)
            })
            .collect()
    }
}

/// A failure after which the connection is of no use.
fn is_end(failure: &Failure) -> bool {
    matches!(failure.code, UNREGISTERED | NOT_ALLOWED)
}

/// A connection that the server knows. Its listener ends with it.
struct Link {
    grpc: Grpc<Channel>,
    token: Option<String>,
    expires_at: Option<Instant>,
    listener: Option<JoinHandle<()>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

impl Link {
    fn payload(&self, kind: &str, body: &Value) -> Payload {
        Payload::new(kind, body, self.token.as_deref())
    }

    /// One call, which must succeed.
    async fn ask(&mut self, kind: &str, body: &Value) -> Result<Payload, Fault> {
        let payload = self.payload(kind, body);
        let call = async {
            self.grpc.ready().await?;
            let path = PathAndQuery::from_static("/Request/request");
            let codec = ProstCodec::<Payload, Payload>::default();
            let answer = self.grpc.unary(Request::new(payload), path, codec).await?;
            Ok::<_, Fault>(answer.into_inner())
        };
        let answer = timeout(CALL_PATIENCE, call).await.unwrap_or(Err(Fault::Timeout))?;
        answer.body::<Outcome>()?.into_result()?;
        Ok(answer)
    }
}

/// What the server tells of its own accord: lists, and at last why there will be no more.
type Pushed = mpsc::Receiver<Result<ServiceInfo, Fault>>;

/// The stream by which the server asks.
struct Line {
    grpc: Grpc<Channel>,
    answers: mpsc::Sender<Payload>,
    push: mpsc::Sender<Result<ServiceInfo, Fault>>,
    token: Option<String>,
}

impl Line {
    /// Opens the stream, on which we say what is `outgoing`, and listens until it ends.
    async fn listen(mut self, outgoing: mpsc::Receiver<Payload>) {
        let fault = self.hear_all(outgoing).await.err().unwrap_or(Fault::Closed);
        let _ = self.push.send(Err(fault)).await;
    }

    /// Answers what the server asks, and passes on what it tells.
    async fn hear_all(&mut self, outgoing: mpsc::Receiver<Payload>) -> Result<(), Fault> {
        self.grpc.ready().await?;
        let path = PathAndQuery::from_static("/BiRequestStream/requestBiStream");
        let codec = ProstCodec::<Payload, Payload>::default();
        let request = Request::new(ReceiverStream::new(outgoing));
        // A server in Java begins its response with the first thing it has to ask, which may be never:
        // nothing else may wait for this.
        let mut stream: Streaming<Payload> =
            self.grpc.streaming(request, path, codec).await?.into_inner();
        while let Some(asked) = stream.message().await? {
            let Some(subject) = asked.kind().strip_suffix("Request") else { continue };
            let outcome = json!({
                "resultCode": 200, "errorCode": 0, "success": true, "requestId": asked.request_id(),
            });
            let kind = format!("{subject}Response");
            let answer = Payload::new(&kind, &outcome, self.token.as_deref());
            if self.answers.send(answer).await.is_err() {
                break;
            }
            let info = match asked.kind() {
                "NotifySubscriberRequest" => match asked.body() {
                    Ok(WithService { service_info }) => service_info,
                    Err(error) => {
                        log::warn!("a push of Nacos can't be read: {error}");
                        continue;
                    }
                },
                "ConnectResetRequest" => return Err(Fault::Redirected),
                _ => continue,
            };
            if self.push.send(Ok(info)).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// What a log-in gives.
struct Token {
    text: String,
    /// Some time before it really does.
    expires_at: Instant,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoggedIn {
    access_token: String,
    #[serde(default)]
    token_ttl: u64,
}

/// Logs in by HTTP: version 3's way, and where there is none, version 1's, which version 2 has.
async fn login(address: &HostPort, user: &str, password: &str) -> Result<Token, Fault> {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("username", user)
        .append_pair("password", password)
        .finish();
    let failed = |error: &dyn std::fmt::Display| Fault::Login(error.to_string());
    let mut last = StatusCode::NOT_FOUND;
    for path in ["/nacos/v3/auth/user/login", "/nacos/v1/auth/login"] {
        let (status, body) = post(address, path, form.clone()).await?;
        last = status;
        match status {
            StatusCode::OK => {
                let LoggedIn { access_token, token_ttl } =
                    serde_json::from_slice(&body).map_err(|error| failed(&error))?;
                let ttl = if token_ttl == 0 { TOKEN_TTL_S } else { token_ttl };
                let expires_at = Instant::now() + Duration::from_secs(ttl.min(YEAR_S)) * 9 / 10;
                return Ok(Token { text: access_token, expires_at });
            }
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::METHOD_NOT_ALLOWED => {}
            status => return Err(failed(&status)),
        }
    }
    Err(failed(&last))
}

async fn post(address: &HostPort, path: &str, form: String) -> Result<(StatusCode, Bytes), Fault> {
    let failed = |error: &dyn std::fmt::Display| Fault::Login(error.to_string());
    let stream = TcpStream::connect((&*address.host, address.port)).await;
    let stream = TokioIo::new(stream.map_err(|error| failed(&error))?);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|error| failed(&error))?;
    let request = hyper::Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, address.to_string())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(form)))
        .map_err(|error| failed(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LOGIN_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| failed(&error))?.to_bytes()))
    };
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended.map_err(|error| failed(&error))?;
            // What it had read is still to be had.
            exchange.await
        }
    }
}

/// What a server calls the namespace of those who have none.
const PUBLIC_NAMESPACE: &str = "public";

/// Servers tell clients apart by it; this is the dialect that is spoken.
const CLIENT_VERSION: &str = "Nacos-Java-Client:v2.2.4";

/// Pauses between attempts to connect.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_LONGEST: Duration = Duration::from_secs(10);

/// A server that takes longer to take us in is passed by.
const CONNECT_PATIENCE: Duration = Duration::from_secs(6);

/// Pause between looks whether the server has taken us in.
const SETUP_PAUSE: Duration = Duration::from_millis(50);

/// One call; servers give their own 3 s.
const CALL_PATIENCE: Duration = Duration::from_secs(3);

/// The server is asked whether it is there after so much silence.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// How often patterns are looked for, since services that begin are not pushed.
const LIST_INTERVAL: Duration = Duration::from_secs(30);

/// Names in one answer, and answers to one list: far more services than a group has.
const PAGE_NAMES: usize = 1000;
const PAGES_MAX: usize = 100;

/// One message: ten thousand instances with their metadata.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Answers and pushes that may wait.
const ANSWERS_MAX: usize = 64;
const PUSHES_MAX: usize = 64;

/// The answer to a log-in.
const LOGIN_BYTES_MAX: usize = 64 << 10;

/// What a token lasts that does not say so.
const TOKEN_TTL_S: u64 = 18_000;
const YEAR_S: u64 = 31_536_000;

/// Entries of one list that are told of when they can't be used.
const IGNORED_SHOWN_MAX: usize = 5;

#[cfg(test)]
mod tests;
