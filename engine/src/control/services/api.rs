//! HTTP/1.1 for applications on this host: what both interfaces have in common.
//!
//! Bounds: [`CONNECTIONS_MAX`] connections (more wait in the kernel's backlog), [`HEAD_BYTES_MAX`] of
//! request head, [`BODY_BYTES_MAX`] of body, [`REQUEST_TIMEOUT`] for each to come.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1 as client;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::control::hand_over::Tenure;
use crate::stats::ServiceApiStats;

/// What an interface answers.
pub(super) trait Api: Send + Sync + 'static {
    /// Its name in logs and statistics.
    const NAME: &'static str;

    /// Answers a request with a body that fits.
    fn answer(&self, ask: Ask) -> impl Future<Output = Reply> + Send;

    /// Answers a request that can't be read, in the interface's own terms.
    fn refuse(&self, reason: &str) -> Reply;

    /// Its counters.
    fn stats(&self) -> &ServiceApiStats;
}

/// A request.
pub(super) struct Ask {
    /// Its method.
    pub(super) method: Method,
    /// Its path, as it was sent.
    pub(super) path: String,
    /// Its body.
    pub(super) body: Bytes,
}

/// An answer.
pub(super) struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Reply {
    /// JSON, always with 200: clients take every other status for a broken sidecar.
    pub(super) fn json(body: &impl serde::Serialize) -> Reply {
        // Types of ours with string keys, which always serialize.
        let body = serde_json::to_string(body).unwrap_or_default();
        Reply { status: StatusCode::OK, content_type: "application/json", body }
    }

    pub(super) fn text(body: &str) -> Reply {
        Reply { status: StatusCode::OK, content_type: TEXT, body: body.to_owned() }
    }

    pub(super) fn not_found() -> Reply {
        let body = "not found\n".to_owned();
        Reply { status: StatusCode::NOT_FOUND, content_type: TEXT, body }
    }

    pub(super) fn method_not_allowed() -> Reply {
        let body = "method not allowed\n".to_owned();
        Reply { status: StatusCode::METHOD_NOT_ALLOWED, content_type: TEXT, body }
    }
}

/// An interface, bound and not yet served.
pub(super) struct Server<A> {
    listener: TcpListener,
    api: Arc<A>,
}

impl<A: Api> Server<A> {
    /// Binds, or goes on with a predecessor's socket. Needs a tokio runtime.
    pub(super) fn bind(
        address: SocketAddr,
        shared: Option<OwnedFd>,
        api: A,
    ) -> io::Result<Server<A>> {
        let listener = match shared {
            Some(shared) => shared.into(),
            None => std::net::TcpListener::bind(address)?,
        };
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        log::info!("{} address: {}", A::NAME, listener.local_addr()?);
        Ok(Server { listener, api: Arc::new(api) })
    }

    /// The socket, for a successor to share.
    pub(super) fn socket(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Serves for ever, whenever the interface is this process's.
    pub(super) async fn run(self, mut tenure: watch::Receiver<Tenure>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let Ok(address) = self.listener.local_addr() else { return };
        loop {
            if tenure.wait_for(|tenure| *tenure == Tenure::Ours).await.is_err() {
                return;
            }
            // The semaphore is never closed.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Ok(()) = async {
                    tenure.wait_for(|tenure| *tenure != Tenure::Ours).await.map(drop)
                } => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let api = Arc::clone(&self.api);
                    let desk = Desk { tenure: tenure.clone(), address };
                    tokio::spawn(async move {
                        serve(&*api, stream, &desk).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    log::warn!("{}: cannot accept: {error}", A::NAME);
                    // Out of file descriptors, most likely: it takes someone else to close one.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Whether calls are answered here, and where they are if not.
struct Desk {
    tenure: watch::Receiver<Tenure>,
    address: SocketAddr,
}

impl Desk {
    /// Waits while that is being decided.
    async fn is_ours(&self) -> bool {
        let mut tenure = self.tenure.clone();
        let decided = tenure.wait_for(|tenure| *tenure != Tenure::Yielding).await;
        decided.is_ok_and(|tenure| *tenure == Tenure::Ours)
    }

    /// Has a call answered by the successor, which accepts on the same address.
    async fn pass_on(
        &self,
        ask: Ask,
    ) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let Ask { method, path, body } = ask;
        let request = Request::builder().method(method).uri(path);
        let request = request.header(HOST, self.address.to_string()).body(Full::new(body))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await?.to_bytes();
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = head.status;
        if let Some(content_type) = head.headers.get(CONTENT_TYPE) {
            response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
        }
        Ok(response)
    }
}

async fn serve<A: Api>(api: &A, stream: TcpStream, desk: &Desk) {
    api.stats().cx_total.inc();
    api.stats().cx_active.inc();
    let service =
        service_fn(|request| async { Ok::<_, Infallible>(respond(api, request, desk).await) });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        log::debug!("{}: connection ended: {error}", A::NAME);
    }
    api.stats().cx_active.dec();
}

impl From<Reply> for Response<Full<Bytes>> {
    fn from(Reply { status, content_type, body }: Reply) -> Self {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}

async fn respond<A: Api>(
    api: &A,
    request: Request<Incoming>,
    desk: &Desk,
) -> Response<Full<Bytes>> {
    let ask = match read(api, request).await {
        Ok(ask) => ask,
        Err(refusal) => return refusal.into(),
    };
    // From here to the change there is nothing awaited, so that it is made by who has the tenure.
    if desk.is_ours().await {
        return api.answer(ask).await.into();
    }
    let passed = timeout(REQUEST_TIMEOUT, desk.pass_on(ask)).await;
    let passed = passed.unwrap_or_else(|_| Err("no answer in time".into()));
    let mut response = passed.unwrap_or_else(|error| {
        log::warn!("{}: a call can't be passed on to the successor: {error}", A::NAME);
        api.stats().rq_failed.inc();
        api.refuse("the process that answered is being replaced").into()
    });
    // The next one goes straight there.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn read<A: Api>(api: &A, request: Request<Incoming>) -> Result<Ask, Reply> {
    let stats = api.stats();
    stats.rq_total.inc();
    let (head, body) = request.into_parts();
    let body = timeout(REQUEST_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => {
            stats.rq_malformed.inc();
            stats.rq_failed.inc();
            if error.is::<LengthLimitError>() {
                stats.rq_too_large.inc();
                let larger = format!("the body is larger than {BODY_BYTES_MAX} bytes");
                return Err(api.refuse(&larger));
            }
            return Err(api.refuse(&format!("the body can't be read: {error}")));
        }
        Err(_) => {
            stats.rq_malformed.inc();
            stats.rq_failed.inc();
            return Err(api.refuse("the body did not come in time"));
        }
    };
    let path = head.uri.path().to_owned();
    log::debug!("{}: {} {path}", A::NAME, head.method);
    Ok(Ask { method: head.method, path, body })
}

const TEXT: &str = "text/plain; charset=UTF-8";

/// Connections of one interface served at once. The Java SDK calls from 20 threads.
pub(super) const CONNECTIONS_MAX: usize = 128;

/// The longest request head.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The longest body: a service with all its methods and parameters is a few kilobytes.
pub(super) const BODY_BYTES_MAX: usize = 256 * 1024;

/// Time for a head to come, idle time between requests included, and for a body.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
